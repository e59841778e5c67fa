//! The commands that rebuild a value.

use keyferry_rdb::native::{CommandSink, Features, Loss, NativeOptions, Rebuild};
use keyferry_rdb::{Dialect, Error, Kind, ValueType};

use crate::support::{keys, parse, samples, server_made};

#[derive(Debug, Default, PartialEq)]
struct Recorded {
    commands: Vec<String>,
    losses: Vec<Loss>,
}

impl CommandSink for Recorded {
    fn command(&mut self, args: &[&[u8]]) {
        let args: Vec<String> = args.iter().map(|arg| arg.escape_ascii().to_string()).collect();
        self.commands.push(args.join(" "));
    }

    fn loss(&mut self, loss: Loss) {
        assert!(!loss.to_string().is_empty() && !loss.name().is_empty());
        self.losses.push(loss);
    }
}

fn rebuild_in(ty: ValueType, value: &[u8], size: usize, options: &NativeOptions) -> Result<Recorded, Error> {
    let mut recorded = Recorded::default();
    let mut rebuild = Rebuild::new(b"k", ty, Dialect::Redis, options);
    for part in value.chunks(size) {
        rebuild.feed(part, &mut recorded)?;
    }
    rebuild.finish(&mut recorded)?;
    Ok(recorded)
}

fn rebuild(ty: ValueType, value: &[u8], options: &NativeOptions) -> Recorded {
    let whole = rebuild_in(ty, value, usize::MAX, options).unwrap();
    assert_eq!(rebuild_in(ty, value, 1, options).unwrap(), whole, "one byte at a time");
    whole
}

fn with(features: Features) -> NativeOptions {
    let mut options = NativeOptions::default();
    options.features = Some(features);
    options
}

#[test]
fn strings_in_chunks() {
    let mut options = NativeOptions::default();
    options.limits.chunk = 64;
    let value = [&[0x40, 150][..], &[b'x'; 150]].concat();
    let lines = rebuild(ValueType::String, &value, &options).commands;
    assert_eq!(
        lines,
        [
            format!("SET k {}", "x".repeat(64)),
            format!("APPEND k {}", "x".repeat(64)),
            format!("APPEND k {}", "x".repeat(22))
        ]
    );
    assert_eq!(rebuild(ValueType::String, b"\x00", &options).commands, ["SET k "]);
    assert_eq!(rebuild(ValueType::String, b"\xC1\xFF\xFF", &options).commands, ["SET k -1"]);
    let text = b"0123456789".repeat(50);
    let packed = lzf::compress(&text).unwrap();
    let value = [&[0xC3, packed.len() as u8, 0x41, 0xF4][..], &packed].concat();
    let lines = rebuild(ValueType::String, &value, &options).commands;
    assert!(lines.len() > 1);
    let joined: String =
        lines.iter().map(|line| line.trim_start_matches("SET k ").trim_start_matches("APPEND k ")).collect();
    assert_eq!(joined.as_bytes(), text);
}

#[test]
fn batches_are_bounded() {
    let mut options = NativeOptions::default();
    options.batch_elements = 2;
    let value = b"\x05\x01a\x01b\x01c\x01d\x01e";
    let lines = |options: &NativeOptions| rebuild(ValueType::List, value, options).commands;
    assert_eq!(lines(&options), ["RPUSH k a b", "RPUSH k c d", "RPUSH k e"]);
    assert_eq!(rebuild(ValueType::Set, value, &options).commands, ["SADD k a b", "SADD k c d", "SADD k e"]);
    options.batch_elements = 100;
    options.batch_bytes = 3;
    assert_eq!(lines(&options), ["RPUSH k a b c", "RPUSH k d e"]);
    options.batch_elements = 0;
    options.batch_bytes = 0;
    assert_eq!(lines(&options).len(), 5);
}

#[test]
fn scores_to_the_last_bit() {
    let scores = [0.1 + 0.2, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e300, 5e-324, 3.0];
    let mut value = vec![scores.len() as u8];
    for (i, score) in scores.iter().enumerate() {
        value.extend([1, b'a' + i as u8]);
        value.extend(score.to_le_bytes());
    }
    assert_eq!(
        rebuild(ValueType::Zset, &value, &NativeOptions::default()).commands,
        ["ZADD k 0.30000000000000004 a inf b -inf c -0 d 1e300 e 5e-324 f 3 g"]
    );
}

#[test]
fn hashes_and_the_expiry_of_their_fields() {
    let plain = b"\x02\x01a\x011\x01b\x012";
    let default = NativeOptions::default();
    assert_eq!(rebuild(ValueType::Hash, plain, &default).commands, ["HMSET k a 1 b 2"]);
    assert_eq!(rebuild(ValueType::Hash, plain, &with(Features::redis(4, 0))).commands, ["HSET k a 1 b 2"]);

    // Lowest expiry 1000; fields at 1000, without, at 2000 and at 1000.
    let mut value = 1000u64.to_le_bytes().to_vec();
    value.extend(b"\x04\x01\x01a\x011\x00\x01b\x012\x43\xE9\x01c\x013\x01\x01d\x014");
    let built = rebuild(ValueType::HashTtl, &value, &default);
    assert_eq!(
        built.commands,
        ["HSET k a 1 b 2 c 3 d 4", "HPEXPIREAT k 1000 FIELDS 2 a d", "HPEXPIREAT k 2000 FIELDS 1 c"]
    );
    assert_eq!(built.losses, []);
    let mut small = NativeOptions::default();
    small.batch_elements = 2;
    assert_eq!(
        rebuild(ValueType::HashTtl, &value, &small).commands,
        [
            "HSET k a 1 b 2",
            "HPEXPIREAT k 1000 FIELDS 1 a",
            "HSET k c 3 d 4",
            "HPEXPIREAT k 1000 FIELDS 1 d",
            "HPEXPIREAT k 2000 FIELDS 1 c"
        ]
    );
    let old = rebuild(ValueType::HashTtl, &value, &with(Features::valkey(8, 1)));
    assert_eq!(old.commands, ["HSET k a 1 b 2 c 3 d 4"]);
    assert_eq!(old.losses, [Loss::FieldExpiry { fields: 3 }]);
}

#[test]
fn a_stream_with_groups() {
    let sample = samples().into_iter().find(|s| s.file.ends_with("librdb__stream_v11.rdb")).unwrap();
    let (head, value) = keys(&parse(&sample.bytes).events).pop().unwrap();
    let built = rebuild(head.ty, &value, &NativeOptions::default());
    let entries = [
        "XADD k 1695649068107-0 message Message1",
        "XADD k 1695649068110-0 message Message2",
        "XADD k 1695649069139-0 message Message3",
        "XADD k 1695649446276-0 message Message4",
        "XADD k 1695649456516-0 message Message5",
        "XADD k 1695893015933-0 field1 value1 field2 value2 field3 value3",
    ];
    let rest = [
        "XSETID k 1695893015933-0 ENTRIESADDED 6 MAXDELETEDID 0-0",
        "XGROUP CREATE k groupA 1695649446276-0 ENTRIESREAD 4",
        "XGROUP CREATECONSUMER k groupA consumerA1",
        "XGROUP CREATECONSUMER k groupA consumerA2",
        "XCLAIM k groupA consumerA2 0 1695649446276-0 TIME 1695649446276 RETRYCOUNT 1 JUSTID FORCE",
        "XGROUP CREATE k groupB 1695649069139-0 ENTRIESREAD 3",
        "XGROUP CREATECONSUMER k groupB consumerB1",
        "XCLAIM k groupB consumerB1 0 1695649069139-0 TIME 1695649069139 RETRYCOUNT 1 JUSTID FORCE",
    ];
    assert_eq!(built.commands, [&entries[..], &rest].concat());
    assert_eq!(built.losses, [Loss::ConsumerTimes { consumers: 3 }]);

    let old = rebuild(head.ty, &value, &with(Features::redis(6, 0)));
    assert_eq!(
        old.commands[6..9],
        [
            "XSETID k 1695893015933-0",
            "XGROUP CREATE k groupA 1695649446276-0",
            "XREADGROUP GROUP groupA consumerA1 STREAMS k 0"
        ]
    );
    assert_eq!(old.losses, [Loss::StreamCounters, Loss::ConsumerTimes { consumers: 3 }]);

    let none = rebuild(head.ty, &value, &with(Features::redis(4, 0)));
    assert_eq!(none.commands, [""; 0]);
    assert_eq!(none.losses, [Loss::NoNativeForm { ty: ValueType::Stream3 }]);
}

/// A stream of type 27 without entries: its two pending entries are of deleted ones.
fn empty_stream() -> Vec<u8> {
    let mut value = vec![0, 0, 5, 1, 4, 0, 2, 0, 9, 1, 1, b'g', 5, 0, 3, 2];
    for ms in [4u64, 5] {
        value.extend(ms.to_be_bytes());
        value.extend(0u64.to_be_bytes());
        value.extend(1000i64.to_le_bytes());
        value.push(2);
    }
    value.extend([1, 1, b'c']);
    value.extend(7i64.to_le_bytes());
    value.extend(7i64.to_le_bytes());
    for count in [1u64, 1] {
        value.push(count as u8);
        value.extend((if value.len() < 90 { 4u64 } else { 5 }).to_be_bytes());
        value.extend(0u64.to_be_bytes());
    }
    value.extend([60, 50, 1, 1, b'p', 1, 1, b'i', 5, 0, 3, 2]);
    value
}

#[test]
fn what_a_stream_loses_is_told() {
    let built = rebuild(ValueType::Stream5, &empty_stream(), &NativeOptions::default());
    assert_eq!(
        built.commands,
        [
            "XADD k MAXLEN 0 0-1 x y",
            "XSETID k 5-1 ENTRIESADDED 9 MAXDELETEDID 2-0",
            "XGROUP CREATE k g 5-0 ENTRIESREAD 3",
            "XGROUP CREATECONSUMER k g c",
            "XCFGSET k IDMP-DURATION 60 IDMP-MAXSIZE 50",
        ]
    );
    assert_eq!(
        built.losses,
        [
            Loss::PendingOfDeletedEntries { group: b"g"[..].into(), entries: 2 },
            Loss::ConsumerTimes { consumers: 1 },
            Loss::IdempotencyOfDeletedEntries { records: 1 },
            Loss::IdempotencyTotals,
        ]
    );
    let older = rebuild(ValueType::Stream5, &empty_stream(), &with(Features::redis(7, 2)));
    assert!(older.losses.contains(&Loss::IdempotentProducers { records: 1 }), "{:?}", older.losses);
    assert!(!older.commands.iter().any(|c| c.starts_with("XCFGSET")));
}

#[test]
fn arrays() {
    let value = [&[2, 1, 9][..], &[0, 0, 2, b'h', b'i'], &[3, 1], &(-5i64).to_le_bytes()].concat();
    let built = rebuild(ValueType::Array, &value, &NativeOptions::default());
    assert_eq!(built.commands, ["ARSET k 0 hi", "ARSET k 3 -5", "ARSEEK k 10"]);
    let none = rebuild(ValueType::Array, &value, &with(Features::redis(8, 6)));
    assert_eq!(
        none,
        Recorded { commands: vec![], losses: vec![Loss::NoNativeForm { ty: ValueType::Array }] }
    );
}

#[test]
fn what_has_no_commands_is_told() {
    let module = rebuild(ValueType::Module, b"\x05\x02\x07\x00", &NativeOptions::default());
    assert_eq!(
        module,
        Recorded { commands: vec![], losses: vec![Loss::NoNativeForm { ty: ValueType::Module }] }
    );
    let empty = rebuild(ValueType::List, b"\x00", &NativeOptions::default());
    assert_eq!(
        empty,
        Recorded { commands: vec![], losses: vec![Loss::EmptyContainer { ty: ValueType::List }] }
    );
}

#[test]
fn errors_name_the_key() {
    let mut recorded = Recorded::default();
    let mut rebuild = Rebuild::new(b"some key", ValueType::Set, Dialect::Redis, &NativeOptions::default());
    let error = rebuild.feed(b"\x01\xC9", &mut recorded).unwrap_err();
    assert!(error.to_string().ends_with("in key \"some key\""), "{error}");
    assert!(rebuild.finish(&mut recorded).is_err());
}

#[test]
fn every_real_value_has_commands_or_a_loss() {
    let mut files: Vec<_> =
        samples().into_iter().filter(|s| s.kind.contains("rdb")).map(|s| (s.file, s.bytes)).collect();
    files.extend(server_made());
    for (file, bytes) in files.iter().filter(|(file, _)| !file.contains("corrupt_ziplist")) {
        for (head, value) in keys(&parse(bytes).events) {
            let built = rebuild_in(head.ty, &value, usize::MAX, &NativeOptions::default())
                .unwrap_or_else(|error| panic!("{file}: {error}"));
            let none = built
                .losses
                .iter()
                .any(|l| matches!(l, Loss::NoNativeForm { .. } | Loss::EmptyContainer { .. }));
            assert_eq!(built.commands.is_empty(), none, "{file}, {:?}", head.key.escape_ascii());
            assert_eq!(none && head.ty.kind() != Kind::Module, file.contains("corrupt_empty_keys"), "{file}");
            assert_eq!(rebuild_in(head.ty, &value, 777, &NativeOptions::default()).unwrap(), built, "{file}");
        }
    }
}
