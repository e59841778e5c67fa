//! Servers with data, and what their values come to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use keyferry_rdb::{Dialect, EntryHead, Event, Limits, Parser, RawValue, TargetFormat, ValueType};
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
    try_digests(client).unwrap()
}

/// The same, from a server that may die of its data.
pub(crate) fn try_digests(client: &mut Client) -> keyferry_testkit::Result<Digests> {
    let mut all = BTreeMap::new();
    // As many as a server has by default.
    for db in 0..16u64 {
        client.call(&["SELECT", &db.to_string()])?;
        let keys = client.list(&["KEYS", "*"])?;
        let keys: Vec<_> = keys.iter().map(|key| key.as_bytes().unwrap().to_vec()).collect();
        let commands: Vec<_> = keys.iter().map(|key| [&b"DEBUG"[..], b"DIGEST-VALUE", key]).collect();
        let digests = client.pipe(&commands)?;
        all.extend(keys.into_iter().zip(digests).map(|(key, digest)| ((db, key), format!("{digest:?}"))));
    }
    client.call(&["SELECT", "0"])?;
    Ok(all)
}

/// What a server reads and writes.
pub(crate) fn target(binary: &ServerBinary) -> TargetFormat {
    let (major, minor) = (binary.version.major as u16, binary.version.minor as u16);
    match binary.vendor {
        Vendor::Valkey => TargetFormat::valkey(major, minor),
        _ => TargetFormat::redis(major, minor),
    }
}

/// A key with its raw value, owned.
pub(crate) struct Owned {
    pub(crate) db: u64,
    pub(crate) key: Vec<u8>,
    pub(crate) expiry: Option<i64>,
    pub(crate) ty: ValueType,
    pub(crate) bytes: Vec<u8>,
}

impl Owned {
    pub(crate) fn head(&self) -> EntryHead<'_> {
        EntryHead::new(self.db, &self.key, self.ty).with_expiry(self.expiry)
    }

    pub(crate) fn raw(&self) -> RawValue<'_> {
        RawValue::new(self.ty, &self.bytes)
    }
}

/// What of a snapshot a writer takes.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) keys: Vec<Owned>,
    pub(crate) functions: Vec<Vec<u8>>,
    pub(crate) version: u16,
    pub(crate) dialect: Dialect,
}

/// Takes a snapshot apart. `None` when it is damaged.
pub(crate) fn read(snapshot: &[u8]) -> Option<Contents> {
    let mut limits = Limits::default();
    limits.value_part = usize::MAX;
    let mut parser = Parser::with_limits(limits);
    parser.feed(snapshot);
    let mut contents = Contents::default();
    while let Some(event) = parser.next_event().ok()? {
        match event {
            Event::Header(header) => (contents.version, contents.dialect) = (header.version, header.dialect),
            Event::Function { code } => contents.functions.push(code.to_vec()),
            Event::FunctionPreGa(function) => contents.functions.push(function.to_code()),
            Event::Entry(entry) => contents.keys.push(Owned {
                db: entry.head.db,
                key: entry.head.key.to_vec(),
                expiry: entry.head.expiry,
                ty: entry.head.ty,
                bytes: entry.value.bytes().to_vec(),
            }),
            _ => {}
        }
    }
    parser.end_of_input().ok()?;
    Some(contents)
}

/// The snapshots of the collection beside the repository, and of `tests/data`; whether the former is there.
pub(crate) fn snapshots() -> (Vec<PathBuf>, bool) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = root.join("../../../shared/corpus");
    let is_there = corpus.is_dir();
    if !is_there {
        println!("note: {} is not there, so only tests/data is used", corpus.display());
    }
    let dirs = [root.join("tests/data"), corpus.join("rdb"), corpus.join("server-made")];
    let mut files: Vec<_> = dirs
        .iter()
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "rdb"))
        .collect();
    // Copies of some are in both.
    files.sort_by_key(|path| path.file_name().map(std::ffi::OsStr::to_owned));
    files.dedup_by_key(|path| path.file_name().map(std::ffi::OsStr::to_owned));
    (files, is_there)
}
