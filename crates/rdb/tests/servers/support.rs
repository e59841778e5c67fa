//! Servers with data, and what their values come to.

use std::collections::{BTreeMap, BTreeSet};

use keyferry_rdb::TargetFormat;
use keyferry_testkit::{Client, Server, ServerBinary, Vendor, all, data};

/// The servers to test with, oldest first; none is no failure, since not every machine has one.
pub(crate) fn servers() -> Vec<&'static ServerBinary> {
    match all() {
        Ok(binaries) => binaries.iter().collect(),
        Err(error) => {
            println!("note: {error}");
            Vec::new()
        }
    }
}

/// A server with every type in it, and its snapshot.
pub(crate) fn filled(binary: &ServerBinary) -> (Server, Vec<u8>) {
    let server = Server::builder(binary).start().unwrap();
    let mut client = server.client().unwrap();
    data::small(&mut client, 7, 2).unwrap();
    client.call(&["SAVE"]).unwrap();
    let snapshot = std::fs::read(server.dir().join("dump.rdb")).unwrap();
    (server, snapshot)
}

pub(crate) type Digests = BTreeMap<(u64, Vec<u8>), String>;

/// The keys whose digests differ, readable.
pub(crate) fn differing(want: &Digests, found: &Digests) -> Vec<String> {
    let keys: BTreeSet<_> = want.keys().chain(found.keys()).collect();
    let differing = keys.into_iter().filter(|key| want.get(*key) != found.get(*key));
    differing
        .map(|key| {
            let name: String = key.1.escape_ascii().to_string().chars().take(60).collect();
            format!("db {} {name}: {:?} became {:?}", key.0, want.get(key), found.get(key))
        })
        .collect()
}

/// `DEBUG DIGEST-VALUE` of every key.
pub(crate) fn digests(client: &mut Client) -> Digests {
    let mut all = BTreeMap::new();
    for db in 0..16u64 {
        client.call(&["SELECT", &db.to_string()]).unwrap();
        for key in client.list(&["KEYS", "*"]).unwrap() {
            let key = key.as_bytes().unwrap().to_vec();
            let digest = client.call(&[&b"DEBUG"[..], b"DIGEST-VALUE", &key]).unwrap();
            all.insert((db, key), format!("{digest:?}"));
        }
    }
    client.call(&["SELECT", "0"]).unwrap();
    all
}

/// What a server reads and writes.
pub(crate) fn target(binary: &ServerBinary) -> TargetFormat {
    let (major, minor) = (binary.version.major as u16, binary.version.minor as u16);
    match binary.vendor {
        Vendor::Valkey => TargetFormat::valkey(major, minor),
        _ => TargetFormat::redis(major, minor),
    }
}
