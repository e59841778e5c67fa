//! Files cut short and files with flipped bits.

use keyferry_rdb::{Checksum, Error, Limits, Parser, dump};
use proptest::prelude::*;

use crate::generate::snapshot;
use crate::support::{Seen, parse, parse_in, samples};

#[test]
fn cut_at_every_byte() {
    let mut cut = 0;
    for sample in samples().iter().filter(|s| s.kind == "rdb" && s.status.starts_with("valid")) {
        let whole = parse(&sample.bytes);
        if sample.bytes.len() > 1300 {
            continue;
        }
        for len in 0..whole.offset as usize {
            let outcome = parse(&sample.bytes[..len]);
            match outcome.result {
                Err(Error::Truncated { offset, .. }) => assert_eq!(offset, len as u64, "{}", sample.file),
                other => panic!("{} cut at {len}: {other:?}", sample.file),
            }
            // What was complete was given.
            assert!(whole.events.starts_with(&outcome.events), "{} cut at {len}", sample.file);
        }
        cut += 1;
    }
    assert!(cut >= 5);
}

#[test]
fn payloads_cut_at_every_byte() {
    for sample in samples().iter().filter(|s| s.kind == "dump") {
        for len in 0..sample.bytes.len().min(300) {
            dump::Payload::parse(&sample.bytes[..len]).unwrap_err();
        }
    }
}

#[test]
fn flipped_bits_are_caught_by_the_checksum() {
    let mut flipped = 0;
    for sample in samples().iter().filter(|s| s.kind == "rdb" && s.checksum == "ok") {
        let end = parse(&sample.bytes).offset as usize;
        // Every bit of small files; of larger ones some.
        let step = (sample.bytes.len() / 200).max(1);
        for at in (0..end).step_by(step) {
            let bit = at % 8;
            let mut bytes = sample.bytes.clone();
            bytes[at] ^= 1 << bit;
            let outcome = parse(&bytes);
            // Anything but a verified end: an error, or, when the version or the checksum itself was hit so that
            // there is none, an end that does not claim to be verified.
            if outcome.result.is_ok() {
                assert!(
                    !matches!(outcome.events.last(), Some(Seen::End(Checksum::Verified))),
                    "{}: bit {bit} of byte {at}",
                    sample.file
                );
            }
            flipped += 1;
        }
    }
    assert!(flipped > 300);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn damage_never_panics(
        file in snapshot(),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        sizes in prop::collection::vec(1usize..100, 1..5),
    ) {
        let mut file = file;
        for (index, byte) in hits {
            let at = index.index(file.len());
            file[at] = byte;
        }
        let whole = parse(&file);
        let cut = parse_in(&file, &sizes, &Limits::default());
        prop_assert_eq!(&cut.events, &whole.events);
        prop_assert_eq!(&cut.result, &whole.result);
        if let Err(error) = whole.result {
            prop_assert!(error.offset() <= file.len() as u64);
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn any_bytes_at_all(bytes in prop::collection::vec(any::<u8>(), 0..200), valkey in any::<bool>()) {
        let magic: &[u8] = if valkey { b"VALKEY080" } else { b"REDIS0012" };
        let _ = parse(&[magic, &bytes].concat());
        let _ = dump::Payload::parse(&bytes);
    }
}

#[test]
fn not_a_snapshot() {
    for bytes in [&b"*3\r\n$3\r\nSET\r\n"[..], b"REDIS00x1", b"VALKEYabc", b"redis0009"] {
        let error = parse(bytes).result.unwrap_err();
        assert!(matches!(error, Error::NotRdb { .. }), "{error}");
        assert_eq!(error.offset(), 0);
    }
}

#[test]
fn lengths_above_the_limits() {
    let mut limits = Limits::default();
    limits.key = 100;
    limits.record = 200;
    limits.inflated = 50;
    limits.templates = 1;
    let file = |rest: &[u8]| [b"REDIS0012", rest].concat();
    let limit = |rest: &[u8]| match parse_in(&file(rest), &[1], &limits).result {
        Err(Error::LimitExceeded { offset, claimed, limit, .. }) => (offset, claimed, limit),
        other => panic!("{other:?}"),
    };
    // A key of 101 bytes, one of 2^40 bytes; neither has to arrive before it is refused.
    assert_eq!(limit(b"\x00\x40\x65abc"), (10, 101, 100));
    assert_eq!(limit(b"\x00\x81\x00\x00\x01\x00\x00\x00\x00\x00"), (10, 1 << 40, 100));
    // A compressed key of 88 bytes and one of 60, above the bound for decompressed strings.
    assert_eq!(limit(b"\x00\xC3\x01\x40\x3Ca"), (10, 60, 50));
    // An auxiliary field of 2^40 bytes: refused when the record's bound is reached.
    let mut aux = b"\xFA\x01a\x81\x00\x00\x01\x00\x00\x00\x00\x00".to_vec();
    aux.extend([b'x'; 300]);
    assert_eq!(limit(&aux), (9, 201, 200));
    // A second template.
    assert_eq!(limit(b"\xF2\x01\x01\x01a\xF2\x02\x01\x01a"), (14, 2, 1));
}

#[test]
fn misuse_does_not_panic() {
    let mut parser = Parser::new();
    parser.filled(usize::MAX);
    assert!(matches!(parser.next_event(), Ok(None)));
    assert!(!parser.space(0).is_empty());
    parser.feed(b"");
    assert_eq!(parser.remaining(), b"");
    assert_eq!(parser.version(), None);
    assert_eq!(parser.dialect(), None);
}
