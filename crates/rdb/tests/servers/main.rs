//! Real servers as judges: values carried over as payloads and as commands must be equal to what they came from, down to
//! `DEBUG DIGEST-VALUE`.

// Helpers of tests may fail the test, and tell what they leave out.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod corpus;
mod generated;
mod logs;
mod support;
#[path = "../it/values.rs"]
mod values;
mod written;

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;
use keyferry_rdb::native::{CommandSink, Features, Loss, NativeOptions, Rebuild};
use keyferry_rdb::{Dialect, EntryHead, Event, Eviction, Kind, Limits, Parser, RawValue, dump};
use keyferry_testkit::{Client, CompareOptions, Server, Vendor, compare_with};
use support::{Digests, differing, digests, filled, servers};

/// Commands in the order they were given, and the keys that lost something.
#[derive(Default)]
struct Collected {
    commands: Vec<Vec<Vec<u8>>>,
    losses: Vec<Loss>,
}

impl CommandSink for Collected {
    fn command(&mut self, args: &[&[u8]]) {
        self.commands.push(args.iter().map(|arg| arg.to_vec()).collect());
    }

    fn loss(&mut self, loss: Loss) {
        self.losses.push(loss);
    }
}

/// How a value gets into the target.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Payload,
    Commands(Option<Features>),
}

/// Carries a snapshot over. Gives the keys that lost something, with what.
fn carry(snapshot: &[u8], target: &mut Client, way: Way, part: usize) -> BTreeMap<(u64, Vec<u8>), Vec<Loss>> {
    let mut limits = Limits::default();
    limits.value_part = if way == Way::Payload { limits.value_part } else { part };
    let mut options = NativeOptions::default();
    if let Way::Commands(features) = way {
        options.features = features;
    }
    // Small enough that values take several.
    options.batch_elements = 50;
    options.limits.chunk = 1000;
    let mut out = Collected::default();
    let mut lost = BTreeMap::new();
    let mut parser = Parser::with_limits(limits);
    let mut dialect = Dialect::Redis;
    let mut selected = None;
    let mut large: Option<(Rebuild, u64, Vec<u8>, Option<i64>)> = None;
    // A value without commands, put together for a payload.
    let mut whole: Option<(EntryHead<'static>, Vec<u8>, Vec<u8>)> = None;
    parser.feed(snapshot);
    while let Some(event) = parser.next_event().unwrap() {
        match event {
            Event::Header(header) => dialect = header.dialect,
            Event::Function { code } => out.command(&[b"FUNCTION", b"LOAD", code]),
            Event::Entry(entry) => {
                let head = entry.head;
                if selected != Some(head.db) {
                    out.command(&[b"SELECT", head.db.to_string().as_bytes()]);
                    selected = Some(head.db);
                }
                let native = way != Way::Payload && head.ty.kind() != Kind::Module;
                if native {
                    let mut rebuild = Rebuild::new(head.key, head.ty, dialect, &options);
                    rebuild.feed(entry.value.bytes(), &mut out).unwrap();
                    finish(rebuild, head.db, head.key, head.expiry, &mut out, &mut lost);
                } else {
                    restore(&head, head.key, entry.value, &mut out);
                }
            }
            Event::ValueStart(head) => {
                assert!(way != Way::Payload);
                if selected != Some(head.db) {
                    out.command(&[b"SELECT", head.db.to_string().as_bytes()]);
                    selected = Some(head.db);
                }
                if head.ty.kind() == Kind::Module {
                    let bare = EntryHead::new(head.db, b"", head.ty).with_expiry(head.expiry);
                    whole = Some((bare, head.key.to_vec(), Vec::new()));
                    continue;
                }
                let rebuild = Rebuild::new(head.key, head.ty, dialect, &options);
                large = Some((rebuild, head.db, head.key.to_vec(), head.expiry));
            }
            Event::ValuePart(part) if whole.is_some() => whole.as_mut().unwrap().2.extend(part),
            Event::ValuePart(part) => large.as_mut().unwrap().0.feed(part, &mut out).unwrap(),
            Event::ValueEnd if whole.is_some() => {
                let (head, key, bytes) = whole.take().unwrap();
                restore(&head, &key, RawValue::new(head.ty, &bytes), &mut out);
            }
            Event::ValueEnd => {
                let (rebuild, db, key, expiry) = large.take().unwrap();
                finish(rebuild, db, &key, expiry, &mut out, &mut lost);
            }
            _ => {}
        }
    }
    parser.end_of_input().unwrap();
    let replies = target.pipe(&out.commands).unwrap();
    for (reply, command) in replies.iter().zip(&out.commands) {
        if let Some(error) = reply.error() {
            let shown: Vec<_> =
                command.iter().map(|arg| arg[..arg.len().min(60)].escape_ascii().to_string()).collect();
            panic!("{}: {error:?}", shown.join(" "));
        }
    }
    lost
}

fn restore(head: &EntryHead<'_>, key: &[u8], value: RawValue<'_>, out: &mut Collected) {
    let mut payload = BytesMut::new();
    dump::append_payload(&mut payload, value, dump::UNIVERSAL_VERSION);
    assert_eq!(payload.len(), dump::payload_len(value));
    let ttl = head.expiry.unwrap_or(0).to_string();
    let mut args: Vec<&[u8]> = vec![b"RESTORE", key, ttl.as_bytes(), &payload, b"ABSTTL"];
    let idle;
    if let Some(Eviction::Idle(seconds)) = head.eviction {
        idle = seconds.to_string();
        args.extend([b"IDLETIME", idle.as_bytes()]);
    }
    out.command(&args);
}

fn finish(
    mut rebuild: Rebuild,
    db: u64,
    key: &[u8],
    expiry: Option<i64>,
    out: &mut Collected,
    lost: &mut BTreeMap<(u64, Vec<u8>), Vec<Loss>>,
) {
    rebuild.finish(out).unwrap();
    if let Some(at) = expiry {
        out.command(&[b"PEXPIREAT", key, at.to_string().as_bytes()]);
    }
    if !out.losses.is_empty() {
        lost.insert((db, key.to_vec()), std::mem::take(&mut out.losses));
    }
}

#[test]
fn payloads_are_accepted_and_equal() {
    for binary in servers() {
        let (source, snapshot) = filled(binary);
        let target = Server::builder(binary).start().unwrap();
        let mut client = target.client().unwrap();
        carry(&snapshot, &mut client, Way::Payload, 0);
        let want = digests(&mut source.client().unwrap());
        assert!(want.len() > 100, "{binary:?}");
        assert_eq!(differing(&want, &digests(&mut client)), [""; 0], "{binary:?}");
        let options = CompareOptions::default().unreplicated();
        let comparison = compare_with(&mut source.client().unwrap(), &mut client, &options).unwrap();
        assert!(comparison.is_equal(), "{binary:?}: {comparison:#?}");
    }
}

#[test]
fn commands_rebuild_equal_values() {
    for binary in servers() {
        let (source, snapshot) = filled(binary);
        let want = digests(&mut source.client().unwrap());
        // As entries, and in parts of 64 bytes.
        for part in [1 << 20, 64] {
            let target = Server::builder(binary).start().unwrap();
            let mut client = target.client().unwrap();
            let lost = carry(&snapshot, &mut client, Way::Commands(None), part);
            assert_eq!(differing(&want, &digests(&mut client)), [""; 0], "{binary:?}, parts of {part}");
            let comparison =
                compare_with(&mut source.client().unwrap(), &mut client, &CompareOptions::default()).unwrap();
            for difference in &comparison.differences {
                // Only what was told: pending entries of deleted stream entries.
                let told = lost.iter().any(|((_, key), losses)| {
                    *key == difference.key
                        && losses.iter().any(|loss| matches!(loss, Loss::PendingOfDeletedEntries { .. }))
                });
                assert!(told, "{binary:?}: {difference:?}");
            }
            for losses in lost.values() {
                for loss in losses {
                    assert!(
                        matches!(
                            loss,
                            Loss::PendingOfDeletedEntries { .. }
                                | Loss::ConsumerTimes { .. }
                                | Loss::IdempotencyTotals
                        ),
                        "{binary:?}: {loss}"
                    );
                }
            }
        }
    }
}

#[test]
fn commands_carry_values_to_older_servers() {
    let servers = servers();
    let newest = |vendor| servers.iter().filter(|b| b.vendor == vendor).max_by_key(|b| b.version);
    for source in [newest(Vendor::Redis), newest(Vendor::Valkey)].into_iter().flatten() {
        let (from, snapshot) = filled(source);
        let mut from = from.client().unwrap();
        let want = digests(&mut from);
        let want_scores = sorted_sets(&mut from);
        let expiring = features_of(source).field_expiry;
        let want_expiries = if expiring { field_expiries(&mut from) } else { BTreeMap::new() };
        assert_eq!(want_expiries.len() >= 2, expiring);
        for binary in &servers {
            let features = features_of(binary);
            let old_functions = binary.vendor == Vendor::Redis && binary.version.major < 7;
            let snapshot = if old_functions { without_functions(&snapshot) } else { snapshot.clone() };
            let snapshot = without_modules(&snapshot);
            let target = Server::builder(binary).start().unwrap();
            let mut client = target.client().unwrap();
            let lost = carry(&snapshot, &mut client, Way::Commands(Some(features)), 1 << 20);
            let kept: BTreeSet<_> = parsed_keys(&snapshot);
            let told = |key: &(u64, Vec<u8>)| {
                lost.get(key).is_some_and(|losses| {
                    losses
                        .iter()
                        .any(|loss| matches!(loss, Loss::FieldExpiry { .. } | Loss::NoNativeForm { .. }))
                })
            };
            // Servers print scores in different ways into their digests, so sorted sets are compared by themselves.
            let scores = sorted_sets(&mut client);
            assert!(scores.len() > 5);
            for (key, members) in &want_scores {
                assert_eq!(scores.get(key), Some(members), "{source:?} to {binary:?}: {:?}", key.1);
            }
            // So are hashes with expiring fields: the two vendors take the expiry into the digest in different ways.
            if expiring && features.field_expiry {
                assert_eq!(field_expiries(&mut client), want_expiries, "{source:?} to {binary:?}");
            }
            let apart =
                |key: &(u64, Vec<u8>)| want_scores.contains_key(key) || want_expiries.contains_key(key);
            let count = |digests: &Digests| -> Digests {
                let kept = digests.iter().filter(|(key, _)| kept.contains(*key) && !told(key) && !apart(key));
                kept.map(|(key, digest)| (key.clone(), digest.clone())).collect()
            };
            let (want, found) = (count(&want), count(&digests(&mut client)));
            assert!(want.len() > 100);
            assert_eq!(differing(&want, &found), [""; 0], "{source:?} to {binary:?}");
        }
    }
}

fn features_of(binary: &keyferry_testkit::ServerBinary) -> Features {
    let (major, minor) = (binary.version.major as u16, binary.version.minor as u16);
    match binary.vendor {
        Vendor::Valkey => Features::valkey(major, minor),
        _ => Features::redis(major, minor),
    }
}

/// The sorted sets of both databases: members and the bits of their scores.
fn sorted_sets(client: &mut Client) -> BTreeMap<(u64, Vec<u8>), BTreeMap<Vec<u8>, u64>> {
    let mut all = BTreeMap::new();
    for db in 0..2u64 {
        client.call(&["SELECT", &db.to_string()]).unwrap();
        for key in client.list(&["KEYS", "*"]).unwrap() {
            let key = key.as_bytes().unwrap().to_vec();
            if client.text(&[&b"TYPE"[..], &key]).unwrap() == "zset" {
                let pairs = client.list(&[&b"ZRANGE"[..], &key, b"0", b"-1", b"WITHSCORES"]).unwrap();
                let members = pairs.chunks(2).map(|pair| {
                    let score = std::str::from_utf8(pair[1].as_bytes().unwrap()).unwrap();
                    (pair[0].as_bytes().unwrap().to_vec(), score.parse::<f64>().unwrap().to_bits())
                });
                all.insert((db, key), members.collect());
            }
        }
    }
    client.call(&["SELECT", "0"]).unwrap();
    all
}

/// The hashes with expiring fields of both databases: fields with value and expiry.
fn field_expiries(client: &mut Client) -> BTreeMap<(u64, Vec<u8>), BTreeMap<Vec<u8>, String>> {
    let mut all = BTreeMap::new();
    for db in 0..2u64 {
        client.call(&["SELECT", &db.to_string()]).unwrap();
        for key in client.list(&["KEYS", "*"]).unwrap() {
            let key = key.as_bytes().unwrap().to_vec();
            if client.text(&[&b"TYPE"[..], &key]).unwrap() != "hash" {
                continue;
            }
            let mut expiring = false;
            let mut fields = BTreeMap::new();
            for pair in client.list(&[&b"HGETALL"[..], &key]).unwrap().chunks(2) {
                let field = pair[0].as_bytes().unwrap().to_vec();
                let at = format!(
                    "{:?}",
                    client.list(&[&b"HPEXPIRETIME"[..], &key, b"FIELDS", b"1", &field]).unwrap()
                );
                expiring |= !at.contains("-1");
                fields.insert(field, format!("{:?} {at}", pair[1]));
            }
            if expiring {
                all.insert((db, key), fields);
            }
        }
    }
    client.call(&["SELECT", "0"]).unwrap();
    all
}

fn parsed_keys(snapshot: &[u8]) -> BTreeSet<(u64, Vec<u8>)> {
    let mut parser = Parser::new();
    parser.feed(snapshot);
    let mut keys = BTreeSet::new();
    while let Some(event) = parser.next_event().unwrap() {
        if let Event::Entry(entry) = event {
            keys.insert((entry.head.db, entry.head.key.to_vec()));
        }
    }
    keys
}

/// The snapshot without the records for which `drop` holds; the checksum is left out.
fn without(snapshot: &[u8], drop: fn(&Event<'_>) -> bool) -> Vec<u8> {
    let mut parser = Parser::new();
    parser.feed(snapshot);
    let mut out = Vec::new();
    let mut from = 0;
    loop {
        let dropped = match parser.next_event().unwrap() {
            Some(Event::End { .. }) | None => break,
            Some(event) => drop(&event),
        };
        let to = parser.offset() as usize;
        if !dropped {
            out.extend_from_slice(&snapshot[from..to]);
        }
        from = to;
    }
    out.push(0xFF);
    out.extend([0; 8]);
    out
}

fn without_functions(snapshot: &[u8]) -> Vec<u8> {
    without(snapshot, |event| matches!(event, Event::Function { .. }))
}

fn without_modules(snapshot: &[u8]) -> Vec<u8> {
    without(snapshot, |event| match event {
        Event::Entry(entry) => entry.head.ty.kind() == Kind::Module,
        Event::ModuleAux(_) => true,
        _ => false,
    })
}
