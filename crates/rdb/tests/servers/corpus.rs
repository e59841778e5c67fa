//! Real files, loaded by real servers: what is written of their decoded values loads to the same as they do themselves.

use std::collections::BTreeSet;
use std::path::Path;

use keyferry_rdb::encode::Encoder;
use keyferry_rdb::{Checksum, Event, Limits, Parser, RawValue, RdbWriter, TargetFormat, Value, crc64, dump};
use keyferry_testkit::{Server, ServerBinary};

use crate::support::{Digests, differing, read, servers, snapshots, target, try_digests};

/// Milliseconds since the Unix epoch, far from now.
const FAR: i64 = 4_000_000_000_000;
const EXPIRE_MS: u8 = 252;
const EXPIRE_SECONDS: u8 = 253;

/// A file and what this crate writes of it.
struct Pair {
    original: Vec<u8>,
    written: Vec<u8>,
    /// Keys that cannot be compared: they hold what a server drops at once, or takes for something else.
    unlike: BTreeSet<(u64, Vec<u8>)>,
}

/// Takes a snapshot apart and writes it anew in its own version. `None` when it is damaged or of no known version.
///
/// Servers drop keys that have expired when they load a file, so deadlines in the past are moved, in the original, too.
fn pair(mut original: Vec<u8>) -> Option<Pair> {
    move_deadlines(&mut original)?;
    let contents = read(&original)?;
    // Some producers write types into files whose version does not have them.
    let types = contents.keys.iter().map(|key| key.ty.since()).filter(|since| *since < 80);
    let needed = types.max().unwrap_or(0).max(if contents.functions.is_empty() { 0 } else { 10 });
    let target = TargetFormat::of_version(contents.version.max(needed), contents.dialect);
    let mut writer = RdbWriter::new(Vec::new(), target).ok()?;
    for code in &contents.functions {
        writer.function(code).unwrap();
    }
    let mut unlike = BTreeSet::new();
    for key in &contents.keys {
        if key.raw().is_empty_container() {
            continue;
        }
        let value = key.raw().to_value(&Limits::default()).ok()?;
        if is_unlike(&value) {
            unlike.insert((key.db, key.key.clone()));
        }
        let encoded = writer.value(&key.head(), &value).unwrap();
        assert_eq!(encoded.losses, [], "{}", key.key.escape_ascii());
    }
    Some(Pair { original, written: writer.finish().unwrap(), unlike })
}

/// Moves deadlines that have passed far ahead, and puts the checksum right. `None` when the file is damaged.
fn move_deadlines(file: &mut [u8]) -> Option<()> {
    let mut limits = Limits::default();
    limits.value_part = usize::MAX;
    let mut parser = Parser::with_limits(limits);
    parser.feed(file);
    let mut moves = Vec::new();
    let mut before = 0;
    let mut end = None;
    while let Some(event) = parser.next_event().ok()? {
        let expires = matches!(event, Event::Entry(entry) if entry.head.expiry.is_some_and(|at| at < FAR));
        if let Event::End { checksum } = event {
            end = Some(checksum);
        }
        if expires {
            moves.push(before);
        }
        before = usize::try_from(parser.offset()).ok()?;
    }
    let is_summed = end? == Checksum::Verified;
    for at in moves {
        match *file.get(at)? {
            EXPIRE_MS => file[at + 1..at + 9].copy_from_slice(&FAR.to_le_bytes()),
            EXPIRE_SECONDS => file[at + 1..at + 5].copy_from_slice(&i32::MAX.to_le_bytes()),
            _ => return None,
        }
    }
    // What may follow the snapshot stays.
    if is_summed {
        let sum = crc64(0, &file[..before - 8]);
        file[before - 8..before].copy_from_slice(&sum.to_le_bytes());
    }
    Some(())
}

/// Hashes with fields that have expired, which servers drop when they load one encoding and keep in another; sorted sets
/// with a score of minus zero, which servers since 7.0 take for zero in the plain encoding.
fn is_unlike(value: &Value) -> bool {
    match value {
        Value::Hash(fields) => fields.iter().any(|field| field.expires_at.is_some_and(|at| at < FAR)),
        Value::SortedSet(members) => {
            members.iter().any(|(_, score)| *score == 0.0 && score.is_sign_negative())
        }
        _ => false,
    }
}

/// A server that files are loaded into, one after the other. It is started anew after a file that it dies of.
struct Loader<'a> {
    binary: &'a ServerBinary,
    server: Option<Server>,
}

impl Loader<'_> {
    /// Loads a snapshot in place of all data. `None` when the server refuses it or dies of it.
    fn load(&mut self, snapshot: &[u8]) -> Option<Digests> {
        let server = self.server.get_or_insert_with(|| Server::builder(self.binary).start().unwrap());
        std::fs::write(server.dir().join("dump.rdb"), snapshot).unwrap();
        let mut client = server.client().unwrap();
        client.call(&["FLUSHALL"]).unwrap();
        // That leaves the functions of servers that have them.
        let _ = client.call(&["FUNCTION", "FLUSH"]);
        let loaded = client.call(&["DEBUG", "RELOAD", "NOSAVE"]).and_then(|_| try_digests(&mut client));
        if loaded.is_err() {
            self.server = None;
        }
        loaded.ok()
    }
}

#[test]
fn what_is_written_of_real_files_loads_as_they_do() {
    let (files, has_corpus) = snapshots();
    let mut pairs = Vec::new();
    let mut damaged = Vec::new();
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        match pair(std::fs::read(file).unwrap()) {
            Some(pair) => pairs.push((name, pair)),
            None => damaged.push(name),
        }
    }
    println!("{} files; not taken: {}", pairs.len(), damaged.join(" "));
    let least = if has_corpus { 98 } else { 25 };
    assert!(pairs.len() >= least, "{} files, without {damaged:?}", pairs.len());
    for binary in servers() {
        let mut loader = Loader { binary, server: None };
        let (mut loaded, mut keys, mut refused) = (0, 0, Vec::new());
        for (name, pair) in &pairs {
            let Some(mut want) = loader.load(&pair.original) else {
                refused.push(&**name);
                continue;
            };
            let Some(mut found) = loader.load(&pair.written) else {
                panic!("{binary:?} loads {name}, but not what was written of it")
            };
            for key in &pair.unlike {
                want.remove(key);
                found.remove(key);
            }
            assert_eq!(differing(&want, &found), [""; 0], "{name} to {binary:?}");
            loaded += 1;
            keys += want.len();
        }
        println!("{}: {loaded} files, {keys} keys; refused: {}", binary.name, refused.join(" "));
        // Every server reads what versions before it wrote, and most files are old.
        let least = match (has_corpus, target(binary).version()) {
            (true, ..10) => 46,
            (true, 10) => 58,
            (true, _) => 72,
            (false, _) => 1,
        };
        assert!(loaded >= least, "{binary:?}: {loaded} files, without {refused:?}");
    }
}

/// DUMP payloads, restored as they are and encoded anew.
#[test]
fn what_is_encoded_of_real_payloads_restores_as_they_do() {
    let samples = payloads();
    for binary in servers() {
        let server = Server::builder(binary).start().unwrap();
        let mut client = server.client().unwrap();
        let mut restored = 0;
        for (name, bytes) in &samples {
            let Ok(payload) = dump::Payload::parse(bytes) else { panic!("{name} does not parse") };
            let mut digest = |value: RawValue<'_>| -> Option<String> {
                let mut payload = bytes::BytesMut::new();
                dump::append_payload(&mut payload, value, dump::UNIVERSAL_VERSION);
                client.call(&[&b"RESTORE"[..], b"k", b"0", &payload, b"REPLACE"]).ok()?;
                Some(format!("{:?}", client.call(&["DEBUG", "DIGEST-VALUE", "k"]).unwrap()))
            };
            let Some(want) = digest(payload.value) else { continue };
            let value = payload.value.to_value(&Limits::default()).unwrap();
            let mut encoded = Vec::new();
            let ty = Encoder::new(target(binary)).encode(&value, &mut encoded).unwrap().ty.unwrap();
            assert_eq!(digest(RawValue::new(ty, &encoded)), Some(want), "{name} to {binary:?}");
            restored += 1;
        }
        println!("{}: {restored} of {} payloads", binary.name, samples.len());
        assert!(restored >= if samples.len() >= 20 { 5 } else { 0 }, "{binary:?}: {restored}");
    }
}

/// The valid payloads of the collection and of `tests/data`.
fn payloads() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = std::collections::BTreeMap::new();
    for dir in [root.join("tests/data"), root.join("../../../shared/corpus/dump")] {
        for entry in std::fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // Those of `tests/data` that have no producer in their name are corrupt on purpose.
            if path.extension().is_some_and(|ext| ext == "bin") && name.contains("__") {
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found.into_iter().collect()
}
