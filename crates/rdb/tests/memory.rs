//! Memory is given for bytes that are there, never for bytes that are claimed. One test in a process of its own,
//! since it looks at the peak of the whole process.

// Helpers of tests may fail the test, and tell what they leave out.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]
#![cfg(target_os = "linux")]

use keyferry_rdb::elements::ElementDecoder;
use keyferry_rdb::native::{CommandSink, Loss, NativeOptions, Rebuild};
use keyferry_rdb::{Dialect, Event, Limits, Parser, RawValue, ValueType, dump};

/// The most memory this process has had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Nobody.
struct Nowhere(u64);

impl CommandSink for Nowhere {
    fn command(&mut self, args: &[&[u8]]) {
        self.0 += args.iter().map(|arg| arg.len() as u64).sum::<u64>();
    }
    fn loss(&mut self, _: Loss) {}
}

/// Feeds a snapshot made on the fly, and its parts to a rebuild. Gives bytes of values and of commands.
fn stream(ty: ValueType, chunks: impl Iterator<Item = Vec<u8>>) -> (u64, u64) {
    let mut parser = Parser::new();
    let mut rebuild = Rebuild::new(b"k", ty, Dialect::Redis, &NativeOptions::default());
    let mut sink = Nowhere(0);
    let mut bytes = 0;
    parser.feed(&[&b"REDIS0004"[..], &[ty.byte()], b"\x01k"].concat());
    for chunk in chunks {
        parser.feed(&chunk);
        while let Some(event) = parser.next_event().unwrap() {
            if let Event::ValuePart(part) = event {
                bytes += part.len() as u64;
                rebuild.feed(part, &mut sink).unwrap();
            }
        }
    }
    parser.feed(b"\xFF");
    while let Some(event) = parser.next_event().unwrap() {
        if let Event::ValuePart(part) = event {
            bytes += part.len() as u64;
            rebuild.feed(part, &mut sink).unwrap();
        }
    }
    parser.end_of_input().unwrap();
    rebuild.finish(&mut sink).unwrap();
    (bytes, sink.0)
}

#[test]
fn memory_follows_the_bytes_that_are_there() {
    let before = peak_kib();

    // Claims of 2^62 of everything, with little behind them.
    let huge = [&[0x81][..], &(1u64 << 62).to_be_bytes()].concat();
    let max = [&[0x81][..], &u64::MAX.to_be_bytes()].concat();
    let text = [7u8; 200];
    for &ty in ValueType::ALL {
        for claim in [&huge, &max] {
            for skip in [0, 1, 2, 8] {
                let value = [&vec![0; skip][..], claim, &text, claim, &text].concat();
                let mut parser = Parser::new();
                parser.feed(&[&b"REDIS0012"[..], &[ty.byte()], b"\x01k", &value].concat());
                while let Ok(Some(_)) = parser.next_event() {}
                let mut elements = RawValue::new(ty, &value).elements(&Limits::default());
                while let Ok(Some(_)) = elements.next() {}
                let mut decoder = ElementDecoder::new(ty, &Limits::default());
                decoder.feed(&value);
                while let Ok(Some(_)) = decoder.next() {}
                let mut payload = [&[ty.byte()][..], &value, &[6, 0]].concat();
                payload.extend(keyferry_rdb::crc64(0, &payload).to_le_bytes());
                let _ = dump::Payload::parse(&payload);
            }
        }
    }
    for opcode in 242..=254u8 {
        let mut parser = Parser::new();
        parser.feed(&[&b"REDIS0012"[..], &[opcode], &huge, &huge, &text].concat());
        while let Ok(Some(_)) = parser.next_event() {}
    }
    // Compressed strings that claim 2^40 bytes, and the most that their size allows.
    for claim in [1u64 << 40, 200 * 88] {
        let value = [&[0xC3, 0x40, 200, 0x81][..], &claim.to_be_bytes(), &text].concat();
        let mut elements = RawValue::new(ValueType::String, &value).elements(&Limits::default());
        while let Ok(Some(_)) = elements.next() {}
    }
    let grown = peak_kib() - before;
    assert!(grown < 4 << 10, "hostile claims cost {grown} KiB");

    // One string of 100 MB, and a list of two million tiny items.
    let before = peak_kib();
    let size = 100u32 << 20;
    let head = [&[0x80][..], &size.to_be_bytes()].concat();
    let chunks = std::iter::once(head).chain((0..size >> 16).map(|_| vec![b'x'; 1 << 16]));
    let (bytes, sent) = stream(ValueType::String, chunks);
    assert_eq!(bytes, u64::from(size) + 5);
    assert!(sent >= u64::from(size));
    let items = 2_000_000u32;
    let head = [&[0x80][..], &items.to_be_bytes()].concat();
    let chunks = std::iter::once(head).chain((0..items / 10_000).map(|_| b"\x02ab".repeat(10_000)));
    let (bytes, sent) = stream(ValueType::List, chunks);
    assert_eq!(bytes, u64::from(items) * 3 + 5);
    assert!(sent >= u64::from(items) * 2);
    // A compressed string of 100 MB.
    let deflated = 1_200_000u32;
    let tokens = deflated / 3 - 1;
    let inflated = tokens * 264 + 3;
    let head =
        [&[0xC3, 0x80][..], &(tokens * 3 + 4).to_be_bytes(), &[0x80], &inflated.to_be_bytes(), &[2, 1, 2, 3]];
    let chunks =
        std::iter::once(head.concat()).chain((0..tokens / 1000).map(|_| [0xE0, 0xFF, 2].repeat(1000)));
    let rest = [0xE0, 0xFF, 2].repeat(tokens as usize % 1000);
    let (_, sent) = stream(ValueType::String, chunks.chain(std::iter::once(rest)));
    assert!(sent >= u64::from(inflated));
    let grown = peak_kib() - before;
    assert!(grown < 12 << 10, "large values cost {grown} KiB");
}
