//! What a file costs in memory is in proportion to its size, whatever it claims. One test in a process of its own, since it
//! counts every byte that the process asks for.

// Helpers of tests may fail the test, and tell what they leave out.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::path::{Path, PathBuf};

use keyferry_rdb::aof::AofParser;
use keyferry_rdb::elements::ElementDecoder;
use keyferry_rdb::native::{CommandSink, Loss, NativeOptions, Rebuild};
use keyferry_rdb::{Dialect, Event, Limits, Parser, RawValue, ValueType, dump};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What everything may cost at the start, in bytes: the parser's first buffer, and small things.
const BASE: usize = 80 << 10;
/// What each byte of input may cost: it may stand for 88 when it is compressed, and buffers double as they grow.
const EACH: usize = 100;

struct Nowhere;

impl CommandSink for Nowhere {
    fn command(&mut self, _: &[&[u8]]) {}
    fn loss(&mut self, _: Loss) {}
}

/// Everything that this crate does with a value.
fn take_apart(value: RawValue<'_>) {
    let limits = Limits::default();
    let mut elements = value.elements(&limits);
    while let Ok(Some(_)) = elements.next() {}
    let mut decoder = ElementDecoder::new(value.ty(), &limits);
    decoder.feed(value.bytes());
    let _ = decoder.for_each(|_| Ok::<_, keyferry_rdb::Error>(()));
    let mut rebuild = Rebuild::new(b"k", value.ty(), Dialect::Redis, &NativeOptions::default());
    if rebuild.feed(value.bytes(), &mut Nowhere).is_ok() {
        let _ = rebuild.finish(&mut Nowhere);
    }
    let _ = value.to_value(&limits);
}

/// The input as whatever it may be taken for.
fn take(input: &[u8]) {
    let mut parser = Parser::new();
    parser.feed(input);
    while let Ok(Some(event)) = parser.next_event() {
        if let Event::Entry(entry) = event {
            take_apart(entry.value);
        }
    }
    drop(parser);
    let mut log = AofParser::new();
    log.feed(input);
    while let Ok(Some(_)) = log.next_event() {}
    drop(log);
    if let Ok(payload) = dump::Payload::parse(input) {
        take_apart(payload.value);
    }
    if let Some((byte, rest)) = input.split_first()
        && let Some(ty) = ValueType::from_byte(*byte, Dialect::Redis)
    {
        take_apart(RawValue::new(ty, rest));
    }
}

/// Seeds of the fuzz targets, test data, and hostile payloads of the collection beside the repository.
fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dirs = vec![root.join("tests/data"), root.join("../../../shared/corpus/corrupt-dump")];
    dirs.extend(std::fs::read_dir(root.join("../../fuzz/seeds")).unwrap().map(|dir| dir.unwrap().path()));
    dirs.iter()
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flatten()
        .map(|file| file.unwrap().path())
        .collect()
}

#[test]
fn memory_is_in_proportion_to_the_input() {
    let files = files();
    assert!(files.len() > 80, "{} files", files.len());
    let mut worst = (0, String::new());
    let mut inputs = 0;
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        if bytes.len() > 20_000 {
            continue;
        }
        // As it is, with what stands for large lengths in place of bytes here and there, and without its first byte,
        // which is a piece size in some seeds.
        let mut variants = vec![bytes.clone(), bytes.get(1..).unwrap_or_default().to_vec()];
        for at in (0..bytes.len()).step_by((bytes.len() / 12).max(1)) {
            for claim in [&[0x80, 0xFF, 0xFF, 0xFF, 0xFF][..], &[0x81, 0x7F, 0xFF, 0xFF, 0xFF], &[0xFF; 5]] {
                let mut hostile = bytes.clone();
                let end = (at + claim.len()).min(bytes.len());
                hostile[at..end].copy_from_slice(&claim[..end - at]);
                variants.push(hostile);
            }
        }
        for variant in variants {
            let before = MEMORY.current_usage();
            MEMORY.reset_peak_usage();
            take(&variant);
            let cost = MEMORY.peak_usage().saturating_sub(before);
            let most = BASE + EACH * variant.len();
            assert!(cost <= most, "{}: {} bytes cost {cost}", file.display(), variant.len());
            if cost >= worst.0 {
                worst = (cost, format!("{} bytes of {}", variant.len(), file.display()));
            }
            inputs += 1;
        }
    }
    println!("{inputs} inputs; the most, {} bytes, for {}", worst.0, worst.1);
}
