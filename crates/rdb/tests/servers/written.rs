//! What this crate writes, read by real servers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::BytesMut;
use keyferry_rdb::encode::Encoder;
use keyferry_rdb::{HashField, Kind, Limits, RawValue, RdbWriter, TargetFormat, Value, dump};
use keyferry_testkit::{Client, CompareOptions, Server, ServerBinary, compare_with};

use crate::support::{Contents, differing, digests, filled, read, servers, snapshots, target};

/// Everything decoded and written anew.
fn write(contents: &Contents, target: TargetFormat) -> Vec<u8> {
    let mut writer = RdbWriter::new(Vec::new(), target).unwrap();
    writer.aux(b"redis-bits", b"64").unwrap();
    for code in &contents.functions {
        writer.function(code).unwrap();
    }
    for key in &contents.keys {
        if key.raw().is_empty_container() {
            continue;
        }
        let value = key.raw().to_value(&Limits::default()).unwrap();
        let encoded = writer.value(&key.head(), &value).unwrap();
        assert!(encoded.losses.is_empty(), "{:?}", encoded.losses);
        assert!(encoded.ty.is_some());
    }
    writer.finish().unwrap()
}

fn start_with(binary: &ServerBinary, snapshot: &[u8], dir: &Path) -> Server {
    std::fs::write(dir.join("dump.rdb"), snapshot).unwrap();
    Server::builder(binary).dir(dir).start().unwrap()
}

#[test]
fn written_snapshots_load() {
    for binary in servers() {
        let (source, snapshot) = filled(binary);
        let contents = read(&snapshot).unwrap();
        let written = write(&contents, target(binary));
        // Servers write about as much.
        let (ours, theirs) = (written.len(), snapshot.len());
        assert!(ours.abs_diff(theirs) < theirs / 50, "{binary:?}: {ours} bytes for {theirs}");
        let dir = tempdir(binary);
        let loaded = start_with(binary, &written, &dir.0);
        let (mut from, mut to) = (source.client().unwrap(), loaded.client().unwrap());
        let want = digests(&mut from);
        assert!(want.len() > 100);
        assert_eq!(differing(&want, &digests(&mut to)), [""; 0], "{binary:?}");
        let comparison = compare_with(&mut from, &mut to, &CompareOptions::default()).unwrap();
        assert!(comparison.is_equal(), "{binary:?}: {comparison:#?}");
        // The compact encodings are those that the server chose itself.
        let encodings = |client: &mut Client| -> BTreeMap<Vec<u8>, String> {
            let keys = client.list(&["KEYS", "*"]).unwrap();
            let keys = keys.iter().map(|key| key.as_bytes().unwrap().to_vec());
            keys.map(|key| (key.clone(), client.text(&[&b"OBJECT"[..], b"ENCODING", &key]).unwrap()))
                .collect()
        };
        let (mut same, mut other) = (0, Vec::new());
        let loaded = encodings(&mut to);
        for (key, encoding) in encodings(&mut from) {
            match loaded.get(&key) {
                Some(found) if *found == encoding => same += 1,
                found => other.push((key.escape_ascii().to_string(), encoding, found.cloned())),
            }
        }
        // A value that was large once may have stayed in the plain encoding.
        assert!(same > 10 * other.len(), "{binary:?}: {other:?}");
    }
}

/// A directory that is removed with this value.
struct Dir(std::path::PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempdir(binary: &ServerBinary) -> Dir {
    let name = format!("keyferry-rdb-{}-{:?}-{}", std::process::id(), binary.vendor, binary.version);
    let path = std::env::temp_dir().join(name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_"));
    std::fs::create_dir_all(&path).unwrap();
    Dir(path)
}

#[test]
fn values_of_real_files_restore_as_they_do() {
    let (files, _) = snapshots();
    for binary in servers() {
        let format = target(binary);
        let server = Server::builder(binary).start().unwrap();
        let mut client = server.client().unwrap();
        // Fields of some hashes have expired long ago; they are to be compared, not to vanish in between.
        client.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).unwrap();
        let (mut values, mut loaded) = (0, 0);
        for file in &files {
            let name = file.file_name().unwrap().to_string_lossy();
            let Some(mut contents) = read(&std::fs::read(file).unwrap()) else { continue };
            contents.functions.clear();
            // What this server reads, without what it would drop at once.
            contents.keys.retain(|key| {
                let fits = format.accepts(key.ty) && key.ty.kind() != Kind::Module && key.db < 16;
                fits && !key.raw().is_empty_container()
                    && key.expiry.is_none_or(|at| at > 2_000_000_000_000)
                    && is_comparable(key.raw())
            });
            let own = TargetFormat::of_version(contents.version, format.dialect());
            let own = if own.version() > format.version() { format } else { own };
            // The original values, by RESTORE as they are.
            client.call(&["FLUSHALL"]).unwrap();
            let payloads = |contents: &Contents, encode: Option<TargetFormat>| {
                let mut commands: Vec<Vec<Vec<u8>>> = Vec::new();
                let mut encoder = encode.map(Encoder::new);
                for key in &contents.keys {
                    let mut bytes = Vec::new();
                    let ty = match &mut encoder {
                        Some(encoder) => {
                            let value = key.raw().to_value(&Limits::default()).unwrap();
                            encoder.encode(&value, &mut bytes).unwrap().ty?
                        }
                        None => {
                            bytes.clone_from(&key.bytes);
                            key.ty
                        }
                    };
                    let mut payload = BytesMut::new();
                    dump::append_payload(&mut payload, RawValue::new(ty, &bytes), dump::UNIVERSAL_VERSION);
                    commands.push(vec![b"SELECT".to_vec(), key.db.to_string().into_bytes()]);
                    let restore: [&[u8]; 5] = [b"RESTORE", &key.key, b"0", &payload, b"REPLACE"];
                    commands.push(restore.map(<[u8]>::to_vec).to_vec());
                }
                Some(commands)
            };
            let replies = client.pipe(&payloads(&contents, None).unwrap()).unwrap();
            // What the server itself refuses, such as broken values, is left out.
            let mut accepted = replies.chunks(2).map(|pair| pair[1].error().is_none());
            contents.keys.retain(|_| accepted.next().unwrap());
            let want = digests(&mut client);
            values += want.len();
            let Some(commands) = payloads(&contents, Some(own)) else { continue };
            client.call(&["FLUSHALL"]).unwrap();
            for (reply, command) in client.pipe(&commands).unwrap().iter().zip(&commands) {
                let key = command[1].escape_ascii();
                assert!(reply.error().is_none(), "{name} {key} to {binary:?}: {:?}", reply.error());
            }
            assert_eq!(differing(&want, &digests(&mut client)), [""; 0], "{name} to {binary:?}");
            loaded += 1;
        }
        println!("{binary:?}: {loaded} files, {values} values");
        assert!(loaded >= 10, "{loaded}");
    }
}

/// Values on both sides of every bound, and at the ends of every number.
fn values_at_bounds() -> Vec<Value> {
    let name = |n: usize, len: usize| format!("{n:0>len$}x").into_bytes();
    let names = |count: usize, len: usize| (0..count).map(|n| name(n, len)).collect::<Vec<_>>();
    let mut values = Vec::new();
    for count in [1, 127, 128, 129, 511, 512, 513, 5000] {
        for len in [3, 63, 64] {
            values.push(Value::List(names(count, len)));
            values.push(Value::Set(names(count, len)));
            let scored = names(count, len).into_iter().enumerate();
            values.push(Value::SortedSet(scored.map(|(n, member)| (member, n as f64 / 3.0)).collect()));
            let fields = names(count, len).into_iter();
            values.push(Value::Hash(fields.map(|field| HashField::new(field.clone(), field)).collect()));
        }
        let wide = (0..count as i64).map(|n| i64::MAX - n).map(|n| n.to_string().into_bytes());
        values.push(Value::Set(wide.collect()));
    }
    for bits in [3, 6, 7, 8, 12, 13, 15, 16, 23, 24, 31, 32, 53, 63] {
        let edge = (1i128 << bits) - 2;
        let numbers: BTreeSet<_> =
            (edge..edge + 4).flat_map(|n| [n, -n]).map(|n| n.to_string().into_bytes()).collect();
        let numbers: Vec<_> = numbers.into_iter().collect();
        values.extend(numbers.iter().map(|n| Value::String(n.clone())));
        values.push(Value::List(numbers.clone()));
        values.push(Value::Set(numbers.clone()));
        let score = |n: &Vec<u8>| String::from_utf8_lossy(n).parse().unwrap();
        values.push(Value::SortedSet(numbers.iter().map(|n| (n.clone(), score(n))).collect()));
    }
    // Strings at the ends of length encodings, those that compress and those that do not.
    let mut noise = 1u64;
    for len in [0, 20, 21, 62, 63, 64, 253, 254, 4095, 4096, 8191, 8192, 8193, 16383, 16384, 70_000] {
        let random = (0..len).map(|_| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 56) as u8
        });
        for text in [vec![b'a'; len], random.collect()] {
            values.push(Value::List(vec![b"small".to_vec(), text.clone(), b"7".to_vec()]));
            values.push(Value::Hash(vec![HashField::new(b"f", text.clone())]));
            values.push(Value::String(text));
        }
    }
    let scores = [0.1, 0.1 + 0.2, 5e-324, f64::MAX, f64::MIN, f64::INFINITY, f64::NEG_INFINITY, 1e17, 9.5e15];
    values.push(Value::SortedSet(
        scores.into_iter().enumerate().map(|(n, score)| (name(n, 1), score)).collect(),
    ));
    values
}

#[test]
fn values_at_bounds_come_back_from_servers() {
    let values = values_at_bounds();
    for binary in servers() {
        let server = Server::builder(binary).config("sanitize-dump-payload", "yes");
        let server = if target(binary).version() > 9 { server } else { Server::builder(binary) };
        let server = server.start().unwrap();
        let mut client = server.client().unwrap();
        let mut encoder = Encoder::new(target(binary));
        let mut bytes = Vec::new();
        for (number, value) in values.iter().enumerate() {
            bytes.clear();
            let ty = encoder.encode(value, &mut bytes).unwrap().ty.unwrap();
            let mut payload = BytesMut::new();
            dump::append_payload(&mut payload, RawValue::new(ty, &bytes), target(binary).version());
            let key = number.to_string();
            client.call(&[&b"RESTORE"[..], key.as_bytes(), b"0", &payload]).unwrap();
            let dumped = client.bytes(&["DUMP", &key]).unwrap().unwrap();
            let back = dump::Payload::parse(&dumped).unwrap().value;
            assert!(back.to_value(&Limits::default()).unwrap() == *value, "{binary:?}: {ty}, value {number}");
            assert_eq!(back.ty(), ty, "{binary:?}: value {number} of {} bytes", bytes.len());
        }
    }
}

/// Whether the value decodes, and no score is minus zero, which servers since 7.0 take for zero when they read it in a
/// plain encoding.
fn is_comparable(value: RawValue<'_>) -> bool {
    match value.to_value(&Limits::default()) {
        Ok(Value::SortedSet(members)) => {
            !members.iter().any(|(_, score)| *score == 0.0 && score.is_sign_negative())
        }
        decoded => decoded.is_ok(),
    }
}

/// The bounds of compact encodings are those of the servers' configuration.
#[test]
fn compact_limits_are_the_servers_own() {
    for binary in servers() {
        let server = Server::builder(binary).start().unwrap();
        let mut client = server.client().unwrap();
        let compact = target(binary).compact;
        let bounds = [
            ("set-max-intset-entries", compact.set_integers),
            ("set-max-listpack-entries", compact.set_entries),
            ("set-max-listpack-value", compact.set_value),
            ("zset-max-ziplist-entries", compact.zset_entries),
            ("zset-max-ziplist-value", compact.zset_value),
            ("hash-max-ziplist-entries", compact.hash_entries),
            ("hash-max-ziplist-value", compact.hash_value),
            ("stream-node-max-entries", compact.stream_node_entries),
            ("stream-node-max-bytes", compact.stream_node_bytes),
        ];
        let mut seen = 0;
        for (name, bound) in bounds {
            // Servers before 7.2 have no listpacks of members.
            if let [_, value] = &client.list(&["CONFIG", "GET", name]).unwrap()[..] {
                let value = String::from_utf8_lossy(value.as_bytes().unwrap()).into_owned();
                assert_eq!(value, bound.to_string(), "{name} of {binary:?}");
                seen += 1;
            }
        }
        assert!(seen >= 7, "{binary:?}");
        let value = &client.list(&["CONFIG", "GET", "list-max-ziplist-size"]).unwrap()[1];
        assert_eq!(
            (&value.as_bytes().unwrap()[..], compact.list_node_bytes),
            (&b"-2"[..], 8192),
            "{binary:?}"
        );
    }
}
