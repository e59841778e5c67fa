//! Reading every key once, as a snapshot.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use keyferry_client::{ConnectOptions, Connection, Frame, Info};
use keyferry_rdb::{
    Dialect, EntryHead, Kind, RawValue, RdbWriter, ValueType, dump::Payload, encode::Encoder,
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
};
use twox_hash::XxHash3_128;

use super::{
    Settings,
    read::{Found, Reader},
    state::Shared,
};
use crate::{
    error::Error,
    throttle::{Load, Throttle},
};

/// Keys of one page, as they were found.
struct Page {
    shard: usize,
    db: u64,
    /// The last event that had come before they were read.
    seq: u64,
    keys: Vec<Bytes>,
    found: Vec<Found>,
}

/// Why a pass did not come to its end.
pub(super) enum Ended {
    /// Nobody reads it any more.
    Unwanted,
    /// It was said what is wrong ([`Shared::failed`]).
    Told,
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Ended::Unwanted
    }
}

/// What a pass has found.
pub(super) struct Passed {
    /// The sum of the digests of all keys, which tells whether two passes found the same.
    pub(super) sum: u128,
    pub(super) libraries: Libraries,
}

/// Functions, by the names of their libraries.
pub(super) type Libraries = BTreeMap<String, Bytes>;

/// Reads all keys of all shards at the same time, and writes them as an RDB file.
pub(super) async fn run(
    settings: &Settings,
    shared: &Arc<Shared>,
    out: &mut (impl AsyncWrite + Unpin),
) -> Result<Passed, Ended> {
    let file = File::default();
    let mut writer = told(shared, RdbWriter::new(file.clone(), settings.format))?;
    for (db, (keys, expires)) in sizes(settings, shared).await? {
        told(shared, writer.select_db(db))?;
        told(shared, writer.resize_db(keys, expires))?;
    }
    let mut encoder = Encoder::new(settings.encoding);
    let libraries = functions(settings, shared).await?;
    for code in libraries.values() {
        told(shared, writer.function(code))?;
    }
    let (pages, mut coming) = mpsc::channel(2);
    let mut shards = JoinSet::new();
    for (shard, connect) in settings.nodes.iter().enumerate() {
        let (connect, shared, pages) = (connect.clone(), Arc::clone(shared), pages.clone());
        let (limit, wanted) = (settings.value_limit, settings.wanted.clone());
        let throttle = settings.throttle.clone();
        shards.spawn(async move {
            let address = connect.address().to_string();
            let read =
                read_shard((shard, &throttle), &connect, limit, |db| wanted.wants(db), &shared, &pages).await;
            if let Err(failed) = read {
                shared.failed(failed, &address);
            }
        });
    }
    drop(pages);
    let mut sum = 0u128;
    loop {
        let page = tokio::select! {
            page = coming.recv() => page,
            () = shared.over.cancelled() => return Err(Ended::Told),
        };
        let Some(page) = page else { break };
        for (key, found) in page.keys.iter().zip(&page.found) {
            if shared.state().is_own(key) {
                continue;
            }
            sum = sum.wrapping_add(write(settings, shared, (&mut writer, &mut encoder), &page, key, found)?);
        }
        out.write_all(&file.take()).await?;
    }
    // A task of a shard that failed has said so.
    if shared.over.is_cancelled() {
        return Err(Ended::Told);
    }
    told(shared, writer.finish())?;
    out.write_all(&file.take()).await?;
    shared.state().counts.passes += 1;
    Ok(Passed { sum, libraries })
}

/// The libraries of functions, by name; none where there are none, or where nobody may see them.
pub(super) async fn functions(settings: &Settings, shared: &Shared) -> Result<Libraries, Ended> {
    let mut libraries = BTreeMap::new();
    let Some(connect) = settings.nodes.first().filter(|_| settings.functions) else { return Ok(libraries) };
    let asked = async {
        let mut connection = Connection::connect(&connect.clone().with_db(0)).await?;
        connection.call_frame(["FUNCTION", "LIST", "WITHCODE"]).await
    };
    let reply = asked.await.map_err(|error| {
        shared.failed(error.into(), &connect.address().to_string());
        Ended::Told
    })?;
    if let Some(error) = reply.error_reply() {
        let line = format!("libraries of functions, which the source does not show ({error})");
        settings.not_promised(shared, line);
        return Ok(libraries);
    }
    for library in reply.as_array().unwrap_or_default() {
        let name = library.get("library_name").and_then(Frame::as_str);
        let code = library.get("library_code").and_then(Frame::as_bytes);
        if let (Some(name), Some(code)) = (name, code) {
            libraries.insert(name.to_owned(), code.clone());
        }
    }
    Ok(libraries)
}

/// Keys, and keys that expire, by database, of all shards together.
async fn sizes(settings: &Settings, shared: &Shared) -> Result<BTreeMap<u64, (u64, u64)>, Ended> {
    let mut sizes: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for connect in &settings.nodes {
        let asked = async {
            let mut connection = Connection::connect(&connect.clone().with_db(0)).await?;
            connection.call_frame(["INFO", "keyspace"]).await
        };
        let reply = asked.await.map_err(|error| {
            shared.failed(error.into(), &connect.address().to_string());
            Ended::Told
        })?;
        for keyspace in Info::from_frame(&reply).iter().flat_map(Info::keyspace) {
            if settings.wanted.wants(keyspace.db.into()) {
                let size = sizes.entry(keyspace.db.into()).or_default();
                *size = (size.0 + keyspace.keys, size.1 + keyspace.expires);
            }
        }
    }
    Ok(sizes)
}

async fn read_shard(
    (shard, throttle): (usize, &Throttle),
    connect: &ConnectOptions,
    limit: usize,
    wanted: impl Fn(u64) -> bool,
    shared: &Shared,
    pages: &mpsc::Sender<Page>,
) -> Result<(), super::read::Failed> {
    let mut reader = Reader::connect(connect, limit).await?;
    let keyspace = reader.connection.call_frame(["INFO", "keyspace"]).await?;
    let mut databases: Vec<u64> = match Info::from_frame(&keyspace) {
        Some(info) => info.keyspace().map(|keyspace| keyspace.db.into()).collect(),
        // It does not say: those that there are by default.
        None => (0..16).collect(),
    };
    databases.retain(|db| wanted(*db));
    for db in databases {
        let mut cursor = "0".to_owned();
        loop {
            let (next, keys) = reader.scan(db, &cursor).await?;
            let seq = shared.state().dirty.seq();
            let found = if keys.is_empty() { Vec::new() } else { reader.read(db, &keys).await? };
            {
                let mut state = shared.state();
                let read = keys.iter().filter(|key| !state.is_own(key)).count();
                state.counts.keys_read += read as u64;
                state.note_reads(&mut reader.counts);
            }
            let bytes = found.iter().map(Found::bytes).sum();
            throttle.take_source(shard, Load { bytes, keys: keys.len() as u64, commands: 1 }).await;
            if !keys.is_empty() && pages.send(Page { shard, db, seq, keys, found }).await.is_err() {
                return Ok(());
            }
            if next == "0" {
                break;
            }
            cursor = next;
        }
    }
    Ok(())
}

/// Writes one key, and gives its digest.
fn write(
    settings: &Settings,
    shared: &Shared,
    (writer, encoder): (&mut RdbWriter<File>, &mut Encoder),
    page: &Page,
    key: &Bytes,
    found: &Found,
) -> Result<u128, Ended> {
    let digest = |value: &[u8], expiry: Option<i64>| {
        let mut hasher = XxHash3_128::with_seed(page.db);
        hasher.write(&(key.len() as u64).to_le_bytes());
        hasher.write(key);
        hasher.write(value);
        // Where deadlines are told as what is left, they differ each time.
        let at = if settings.absolute { expiry.unwrap_or(-1) } else { i64::from(expiry.is_some()) };
        hasher.write(&at.to_le_bytes());
        hasher.finish_128()
    };
    match found {
        Found::Gone | Found::Elsewhere => Ok(0),
        Found::Whole { payload, expiry, eviction } => {
            let read = told(shared, Payload::parse(payload))?;
            check(settings, shared, key, &read)?;
            let ty = read.value.ty();
            let head = EntryHead::new(page.db, key, ty)
                .with_expiry(*expiry)
                .with_eviction(*eviction)
                .with_meta(read.meta);
            told(shared, writer.raw(&head, read.value))?;
            note(shared, page, key, ty);
            Ok(digest(read.value.bytes(), *expiry))
        }
        Found::Parts { value, expiry, eviction, .. } => {
            let mut bytes = Vec::new();
            let Some(ty) = told(shared, encoder.encode(value, &mut bytes))?.ty else { return Ok(0) };
            let head = EntryHead::new(page.db, key, ty).with_expiry(*expiry).with_eviction(*eviction);
            told(shared, writer.raw(&head, RawValue::new(ty, &bytes)))?;
            note(shared, page, key, ty);
            Ok(digest(&bytes, *expiry))
        }
    }
}

/// Remembers what is to be known of a key later.
fn note(shared: &Shared, page: &Page, key: &Bytes, ty: ValueType) {
    let mut state = shared.state();
    state.dirty.saw(page.shard, page.db, key, page.seq);
    if ty.kind() == Kind::Stream {
        state.note_stream(page.shard, page.db, key);
    }
}

/// Some numbers of types mean one thing to Redis and another to Valkey: the file says whose they are.
pub(super) fn check(
    settings: &Settings,
    shared: &Shared,
    key: &[u8],
    payload: &Payload<'_>,
) -> Result<(), Ended> {
    let dialect = Dialect::of_dump_version(payload.version);
    if dialect == settings.format.dialect()
        || ValueType::from_byte(payload.value.raw_type(), settings.format.dialect())
            == Some(payload.value.ty())
    {
        return Ok(());
    }
    shared.fail(Error::Scan {
        address: settings.address(),
        why: format!(
            "key \"{}\" has a value of a server of another vendor than the first one",
            key.escape_ascii()
        ),
    });
    Err(Ended::Told)
}

pub(super) fn told<T>(shared: &Shared, result: Result<T, keyferry_rdb::Error>) -> Result<T, Ended> {
    result.map_err(|error| {
        shared.fail(Error::Snapshot(error));
        Ended::Told
    })
}

/// What a writer has written and nobody has sent.
#[derive(Clone, Debug, Default)]
struct File(Arc<Mutex<Vec<u8>>>);

impl File {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
