//! Every real file walks as its manifest says.

use std::collections::BTreeMap;

use keyferry_rdb::{Checksum, Error, Limits, dump};

use crate::support::{Outcome, Sample, Seen, corpus_dir, keys, parse, parse_in, samples, server_made};

fn small_parts() -> Limits {
    let mut limits = Limits::default();
    limits.value_part = 64;
    limits
}

fn check(sample: &Sample, outcome: &Outcome) {
    let file = &sample.file;
    outcome.result.as_ref().unwrap_or_else(|error| panic!("{file}: {error}"));
    let keys = keys(&outcome.events);
    assert_eq!(Some(keys.len()), sample.keys, "{file}: number of keys");
    let mut types = BTreeMap::new();
    for (head, _) in &keys {
        *types.entry(head.ty.byte()).or_insert(0) += 1;
    }
    assert_eq!(types.into_iter().collect::<Vec<_>>(), sample.types, "{file}: types");
    let checksum = match sample.checksum.as_str() {
        "ok" => Checksum::Verified,
        "zero" => Checksum::NotComputed,
        "none" => Checksum::NoneInVersion,
        other => panic!("{file}: checksum column says {other}"),
    };
    assert_eq!(outcome.events.last(), Some(&Seen::End(checksum)), "{file}");
    assert_eq!(outcome.offset as usize + outcome.remaining.len(), sample.bytes.len(), "{file}");
    assert_eq!(outcome.remaining, &sample.bytes[outcome.offset as usize..], "{file}");
    let any = |test: fn(&Seen) -> bool| outcome.events.iter().any(test);
    let opcodes = &sample.opcodes;
    assert_eq!(any(|e| matches!(e, Seen::Function(_))), opcodes.contains("function2"), "{file}");
    assert_eq!(any(|e| matches!(e, Seen::ModuleAux(_))), opcodes.contains("module-aux"), "{file}");
    assert_eq!(
        any(|e| matches!(e, Seen::Other(t) if t.starts_with("FunctionPreGa"))),
        opcodes.contains("pre-ga"),
        "{file}"
    );
    assert_eq!(
        any(|e| matches!(e, Seen::Other(t) if t.starts_with("SlotInfo"))),
        opcodes.contains("slot-info"),
        "{file}"
    );
    assert_eq!(
        any(|e| matches!(e, Seen::Other(t) if t.starts_with("Vendor"))),
        opcodes.contains("ent-"),
        "{file}"
    );
    assert_eq!(keys.iter().any(|(h, _)| h.expiry.is_some()), opcodes.contains("expire-"), "{file}");
    assert_eq!(
        keys.iter().any(|(h, _)| h.eviction.is_some()),
        opcodes.contains("idle") || opcodes.contains("freq"),
        "{file}"
    );
}

fn is_walkable(sample: &Sample) -> bool {
    matches!(sample.kind.as_str(), "rdb" | "aof-rdb-preamble")
        && matches!(sample.status.as_str(), "valid" | "valid-odd" | "future-version")
}

#[test]
fn whole_files() {
    let mut seen = 0;
    for sample in samples().iter().filter(|s| is_walkable(s)) {
        check(sample, &parse(&sample.bytes));
        seen += 1;
    }
    assert!(seen >= if corpus_dir().is_some() { 100 } else { 10 }, "{seen} files");
}

#[test]
fn one_byte_at_a_time() {
    for sample in samples().iter().filter(|s| s.kind == "rdb" || s.kind == "aof-rdb-preamble") {
        // Of the largest files the beginning is enough: it goes on in the same way.
        let bytes = &sample.bytes[..sample.bytes.len().min(60_000)];
        let whole = parse(bytes);
        assert_eq!(parse_in(bytes, &[1], &Limits::default()), whole, "{}", sample.file);
        let parts = parse_in(bytes, &[usize::MAX], &small_parts());
        assert_eq!(parse_in(bytes, &[1], &small_parts()), parts, "{}, in parts", sample.file);
        if whole.result.is_ok() {
            assert_eq!(keys(&parts.events), keys(&whole.events), "{}, in parts", sample.file);
        }
    }
}

#[test]
fn parts_are_no_larger_than_asked_for() {
    for sample in samples().iter().filter(|s| is_walkable(s)) {
        let outcome = parse_in(&sample.bytes, &[usize::MAX], &small_parts());
        for event in &outcome.events {
            match event {
                Seen::Part(part) => assert!((1..=64).contains(&part.len()), "{}", sample.file),
                Seen::Entry(_, value) => assert!(value.len() <= 64, "{}", sample.file),
                _ => {}
            }
        }
    }
}

#[test]
fn what_servers_made() {
    let files = server_made();
    for (file, bytes) in &files {
        let outcome = parse(bytes);
        assert_eq!(outcome.result, Ok(()), "{file}");
        assert_eq!(outcome.events.last(), Some(&Seen::End(Checksum::Verified)), "{file}");
        assert!(keys(&outcome.events).len() > 20, "{file}");
        assert_eq!(
            parse_in(bytes, &[1], &small_parts()),
            parse_in(bytes, &[7000, 3], &small_parts()),
            "{file}"
        );
    }
    assert!(!files.is_empty() || corpus_dir().is_none());
}

#[test]
fn what_cannot_be_walked_says_where() {
    let samples = samples();
    let foreign: Vec<_> = samples.iter().filter(|s| s.status == "foreign").collect();
    for sample in &foreign {
        let outcome = parse(&sample.bytes);
        let Err(Error::UnknownType { offset, byte: 150 }) = outcome.result else {
            panic!("{}: {:?}", sample.file, outcome.result)
        };
        assert_eq!(sample.bytes[offset as usize], 150, "{}", sample.file);
    }
    let modules: Vec<_> = samples.iter().filter(|s| s.status == "needs-module").collect();
    for sample in &modules {
        let outcome = parse(&sample.bytes);
        let Err(Error::PreGaModule { offset, ref key, module }) = outcome.result else {
            panic!("{}: {:?}", sample.file, outcome.result)
        };
        assert_eq!(key.head(), b"key");
        assert_eq!(module.to_string(), "hellotype v0");
        assert!(offset > outcome.offset);
        assert!(!keys(&outcome.events).is_empty(), "keys before it are given");
    }
    assert!(corpus_dir().is_none() || (foreign.len() >= 2 && modules.len() == 1));
}

#[test]
fn dump_payloads_parse() {
    let mut seen = 0;
    for sample in samples().iter().filter(|s| s.kind == "dump") {
        let payload =
            dump::Payload::parse(&sample.bytes).unwrap_or_else(|error| panic!("{}: {error}", sample.file));
        assert_eq!(payload.checksum, Checksum::Verified, "{}", sample.file);
        assert_eq!(payload.trailing, b"", "{}", sample.file);
        let mut again = bytes::BytesMut::new();
        dump::append_payload(&mut again, payload.value, payload.version);
        assert_eq!(again, sample.bytes, "{}", sample.file);
        seen += 1;
    }
    assert!(seen >= if corpus_dir().is_some() { 20 } else { 1 });
}

#[test]
fn hostile_payloads_end_in_an_error_or_a_value() {
    for sample in samples().iter().filter(|s| s.kind == "corrupt-dump") {
        // With the right checksum, so that what is inside is looked at.
        let mut bytes = sample.bytes.clone();
        if let Some(body) = bytes.len().checked_sub(8) {
            let crc = keyferry_rdb::crc64(0, &bytes[..body]);
            bytes[body..].copy_from_slice(&crc.to_le_bytes());
        }
        match dump::Payload::parse(&bytes) {
            Ok(payload) => assert!(payload.value.bytes().len() < bytes.len()),
            Err(error) => assert!(error.offset() <= bytes.len() as u64, "{}: {error}", sample.file),
        }
    }
}
