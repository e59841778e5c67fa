//! DUMP payloads: taken apart, rebuilt as commands, and put together again as they were.
#![no_main]

use bytes::BytesMut;
use keyferry_rdb::{
    Dialect, Limits,
    dump::{self, Payload},
    native::{CommandSink, Loss, NativeOptions, Rebuild},
};
use libfuzzer_sys::fuzz_target;

struct Counted(usize);

impl CommandSink for Counted {
    fn command(&mut self, args: &[&[u8]]) {
        assert!(!args.is_empty());
        self.0 += 1;
    }

    fn loss(&mut self, loss: Loss) {
        assert!(!loss.to_string().is_empty());
    }
}

// The footer's checksum is made right first: a fuzzer does not guess it.
fuzz_target!(|input: &[u8]| {
    if input.len() < 3 {
        return;
    }
    let mut bytes = input.to_vec();
    let crc = keyferry_rdb::crc64(0, &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    let Ok(payload) = Payload::parse(&bytes) else { return };
    let mut elements = payload.value.elements(&Limits::default());
    while let Ok(Some(_)) = elements.next() {}
    let dialect = Dialect::of_dump_version(payload.version);
    let mut rebuild = Rebuild::new(b"key", payload.value.ty(), dialect, &NativeOptions::default());
    let mut counted = Counted(0);
    if rebuild.feed(payload.value.bytes(), &mut counted).is_ok() {
        let _ = rebuild.finish(&mut counted);
    }
    if payload.meta.is_none() && payload.trailing.is_empty() {
        let mut again = BytesMut::new();
        dump::append_payload(&mut again, payload.value, payload.version);
        assert_eq!(&again[..], &bytes[..]);
    }
});
