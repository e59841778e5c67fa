//! Reading keys of one server in bulk.

use std::collections::BTreeSet;

use bytes::Bytes;
use keyferry_client::{ConnectOptions, Connection, Error as ClientError, Frame, Pipeline, Vendor, Version};
use keyferry_rdb::{Eviction, Value};
use keyferry_resp::{ErrorReply, Retry};

use super::typed;
use crate::snapshot::now_ms;

/// Bytes of values that a server should hold for this program at once.
const WINDOW: u64 = 16 << 20;

/// A key that was read.
#[derive(Debug)]
pub(super) enum Found {
    /// It is not there.
    Gone,
    /// Another node has it, which tells of it.
    Elsewhere,
    /// As `DUMP` gives it.
    Whole { payload: Bytes, expiry: Option<i64>, eviction: Option<Eviction> },
    /// Read in parts, as it is large.
    Parts { value: Box<Value>, expiry: Option<i64>, eviction: Option<Eviction>, size: u64 },
}

impl Found {
    /// Bytes of its value, more or less.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Found::Gone | Found::Elsewhere => 0,
            Found::Whole { payload, .. } => payload.len() as u64,
            Found::Parts { size, .. } => *size,
        }
    }
}

/// Why keys could not be read.
#[derive(Debug)]
pub(super) enum Failed {
    /// The connection.
    Connection(ClientError),
    /// The server says no, for good.
    Refused { doing: &'static str, reply: String },
    /// The server says no for now: it loads its data, or slots are on the move.
    Passing { doing: &'static str, reply: String },
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Failed::Connection(error)
    }
}

/// How much was read in which way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReadCounts {
    /// Values above the limit that were read in parts.
    pub(super) in_parts: u64,
    /// Values above the limit that were read by one `DUMP`, as there is no other way.
    pub(super) whole_above_limit: u64,
    /// The server does not tell how large values are.
    pub(super) sizes_untold: bool,
}

/// A connection that reads keys, and what its server can do.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) connection: Connection,
    db: Option<u64>,
    limit: u64,
    absolute: bool,
    fields_expire: bool,
    sizes: bool,
    eviction: Policy,
    pub(super) counts: ReadCounts,
}

/// What the server keeps of the use of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Idle,
    Freq,
    /// Nothing that we may see, or that matters.
    Nothing,
}

impl Reader {
    /// Values above `limit` bytes are read in parts.
    pub(super) async fn connect(connect: &ConnectOptions, limit: usize) -> Result<Self, ClientError> {
        let mut connection = Connection::connect(&connect.clone().with_db(0)).await?;
        // Others do not have it; then reading counts as use.
        connection.call_frame(["CLIENT", "NO-TOUCH", "ON"]).await?;
        let policy = connection.call_frame(["CONFIG", "GET", "maxmemory-policy"]).await?;
        let policy = policy.get("maxmemory-policy").and_then(Frame::as_str).unwrap_or_default();
        let eviction = match policy {
            policy if policy.ends_with("-lfu") => Policy::Freq,
            policy if policy.ends_with("-lru") => Policy::Idle,
            _ => Policy::Nothing,
        };
        let (vendor, version) = (connection.server().vendor.clone(), connection.server().version);
        let since = |major, minor| version >= Version::new(major, minor, 0);
        Ok(Reader {
            absolute: since(7, 0) && vendor != Vendor::KeyDb,
            fields_expire: match vendor {
                Vendor::Valkey => since(9, 0),
                Vendor::Redis => since(7, 4),
                _ => false,
            },
            sizes: since(4, 0),
            connection,
            db: None,
            limit: limit as u64,
            eviction,
            counts: ReadCounts::default(),
        })
    }

    /// The next page of keys: the cursor that follows, "0" for none, and the keys, each of them once.
    pub(super) async fn scan(&mut self, db: u64, cursor: &str) -> Result<(String, Vec<Bytes>), Failed> {
        let mut pipeline = self.select(db);
        let selected = pipeline.len();
        pipeline.push(["SCAN", cursor, "COUNT", "512"]);
        let mut replies = self.send(&pipeline, db).await?;
        let reply = replies.drain(..).nth(selected).unwrap_or(Frame::Array(Vec::new()));
        if let Some(error) = reply.error_reply() {
            return Err(Failed::Refused { doing: "SCAN", reply: error.to_string() });
        }
        let unexpected = || Failed::Refused { doing: "SCAN", reply: "a reply of another form".to_owned() };
        let mut parts = reply.into_array().ok_or_else(unexpected)?.into_iter();
        let cursor =
            parts.next().and_then(|cursor| cursor.as_str().map(str::to_owned)).ok_or_else(unexpected)?;
        let keys = parts.next().and_then(Frame::into_array).ok_or_else(unexpected)?;
        let mut seen = BTreeSet::new();
        let keys = keys.into_iter().filter_map(Frame::into_bytes).filter(|key| seen.insert(key.clone()));
        Ok((cursor, keys.collect()))
    }

    /// Reads keys of one database; what comes back is in their order.
    pub(super) async fn read(&mut self, db: u64, keys: &[Bytes]) -> Result<Vec<Found>, Failed> {
        let sizes = self.sizes(db, keys).await?;
        let mut found = Vec::with_capacity(keys.len());
        let mut at = 0;
        while at < keys.len() {
            if sizes[at] > self.limit {
                found.push(self.large(db, &keys[at], sizes[at]).await?);
                at += 1;
                continue;
            }
            let (mut end, mut bytes) = (at, 0);
            while end < keys.len() && sizes[end] <= self.limit && (bytes < WINDOW || end == at) {
                bytes += sizes[end];
                end += 1;
            }
            found.extend(self.dump(db, &keys[at..end]).await?);
            at = end;
        }
        Ok(found)
    }

    /// Which of these keys are there.
    pub(super) async fn exist(&mut self, db: u64, keys: &[Bytes]) -> Result<Vec<bool>, Failed> {
        let mut pipeline = self.select(db);
        let selected = pipeline.len();
        for key in keys {
            pipeline.push([&b"EXISTS"[..], key]);
        }
        let replies = self.send(&pipeline, db).await?;
        Ok(replies.iter().skip(selected).map(|reply| reply.as_i64() == Some(1)).collect())
    }

    /// About how many bytes the values have; 0 where nobody knows.
    async fn sizes(&mut self, db: u64, keys: &[Bytes]) -> Result<Vec<u64>, Failed> {
        if !self.sizes {
            return Ok(vec![0; keys.len()]);
        }
        let mut pipeline = self.select(db);
        let selected = pipeline.len();
        for key in keys {
            pipeline.push([&b"MEMORY"[..], b"USAGE", key, b"SAMPLES", b"5"]);
        }
        let replies = self.send(&pipeline, db).await?;
        if let Some(error) = replies.get(selected).and_then(Frame::error_reply)
            && error.retry() == Retry::Never
        {
            // Not to be had here: every value is read by DUMP.
            self.sizes = false;
            self.counts.sizes_untold = true;
        }
        let size = |reply: &Frame| reply.as_i64().map_or(0, |size| u64::try_from(size).unwrap_or(0));
        Ok(replies.iter().skip(selected).map(size).collect())
    }

    async fn dump(&mut self, db: u64, keys: &[Bytes]) -> Result<Vec<Found>, Failed> {
        let mut pipeline = self.select(db);
        let selected = pipeline.len();
        // The use of a key comes first, as DUMP is one.
        let question: Option<&[u8]> = match self.eviction {
            Policy::Idle => Some(b"IDLETIME"),
            Policy::Freq => Some(b"FREQ"),
            Policy::Nothing => None,
        };
        for key in keys {
            if let Some(question) = question {
                pipeline.push([b"OBJECT", question, key]);
            }
            pipeline.push([&b"DUMP"[..], key]);
            pipeline.push([self.ttl(), key]);
        }
        let before = now_ms();
        let replies = self.send(&pipeline, db).await?;
        let each = if question.is_some() { 3 } else { 2 };
        let mut found = Vec::with_capacity(keys.len());
        let mut replies = replies.into_iter().skip(selected);
        for _ in keys {
            let eviction = if each == 3 { self.eviction_of(replies.next().as_ref()) } else { None };
            let (Some(payload), Some(ttl)) = (replies.next(), replies.next()) else { break };
            found.push(self.found(payload, &ttl, eviction, before)?);
        }
        Ok(found)
    }

    fn found(
        &self,
        payload: Frame,
        ttl: &Frame,
        eviction: Option<Eviction>,
        before: i64,
    ) -> Result<Found, Failed> {
        for reply in [&payload, ttl] {
            if let Some(error) = reply.error_reply() {
                return elsewhere(&error, "DUMP");
            }
        }
        let expiry = match self.expiry(ttl, before) {
            Ok(expiry) => expiry,
            Err(Gone) => return Ok(Found::Gone),
        };
        Ok(match payload {
            Frame::Null(_) => Found::Gone,
            payload => match payload.into_bytes() {
                Some(payload) => Found::Whole { payload, expiry, eviction },
                None => Found::Gone,
            },
        })
    }

    /// A value above the limit: in parts if its type has any.
    async fn large(&mut self, db: u64, key: &Bytes, size: u64) -> Result<Found, Failed> {
        let eviction = match self.eviction {
            Policy::Nothing => None,
            policy => {
                let word = if policy == Policy::Idle { "IDLETIME" } else { "FREQ" };
                let reply = self.one(db, &[b"OBJECT", word.as_bytes(), key]).await?;
                self.eviction_of(Some(&reply))
            }
        };
        let ty = self.one(db, &[b"TYPE", key]).await?;
        if let Some(error) = ty.error_reply() {
            return elsewhere(&error, "TYPE");
        }
        let kind = ty.as_str().unwrap_or_default().to_owned();
        let value = match typed::read(self, db, key, &kind).await {
            Ok(Some(value)) => value,
            Ok(None) if kind == "none" => return Ok(Found::Gone),
            Ok(None) => {
                self.counts.whole_above_limit += 1;
                let mut found = self.dump(db, std::slice::from_ref(key)).await?;
                return Ok(found.pop().unwrap_or(Found::Gone));
            }
            Err(typed::Failed::Reading(failed)) => return Err(failed),
            Err(typed::Failed::Reply(error)) if error.code() == "WRONGTYPE" => {
                // It is another one by now, and of another size.
                let mut found = self.dump(db, std::slice::from_ref(key)).await?;
                return Ok(found.pop().unwrap_or(Found::Gone));
            }
            Err(typed::Failed::Reply(error)) => return elsewhere(&error, "reading a value in parts"),
        };
        let before = now_ms();
        let ttl = self.one(db, &[self.ttl(), key]).await?;
        match self.expiry(&ttl, before) {
            Ok(_) if is_empty(&value) => Ok(Found::Gone),
            Ok(expiry) => {
                self.counts.in_parts += 1;
                Ok(Found::Parts { value: Box::new(value), expiry, eviction, size })
            }
            Err(Gone) => Ok(Found::Gone),
        }
    }

    /// One command in a database.
    pub(super) async fn one(&mut self, db: u64, command: &[&[u8]]) -> Result<Frame, Failed> {
        let mut pipeline = self.select(db);
        pipeline.push(command.iter().copied());
        let mut replies = self.send(&pipeline, db).await?;
        Ok(replies.pop().unwrap_or(Frame::Array(Vec::new())))
    }

    /// Whether fields of hashes may expire.
    pub(super) fn fields_expire(&self) -> bool {
        self.fields_expire
    }

    fn ttl(&self) -> &'static [u8] {
        if self.absolute { b"PEXPIRETIME" } else { b"PTTL" }
    }

    fn expiry(&self, reply: &Frame, before: i64) -> Result<Option<i64>, Gone> {
        match reply.as_i64() {
            Some(-2) => Err(Gone),
            Some(left) if left >= 0 && self.absolute => Ok(Some(left)),
            Some(left) if left >= 0 => Ok(Some(before.midpoint(now_ms()).saturating_add(left))),
            _ => Ok(None),
        }
    }

    fn eviction_of(&self, reply: Option<&Frame>) -> Option<Eviction> {
        let number = reply?.as_i64()?;
        match self.eviction {
            Policy::Idle => Some(Eviction::Idle(u64::try_from(number).ok()?)),
            Policy::Freq => Some(Eviction::Freq(u8::try_from(number).ok()?)),
            Policy::Nothing => None,
        }
    }

    fn select(&self, db: u64) -> Pipeline {
        let mut pipeline = Pipeline::new();
        if self.db != Some(db) {
            pipeline.push(["SELECT", &db.to_string()]);
        }
        pipeline
    }

    /// Sends what begins with [`Reader::select`].
    async fn send(&mut self, pipeline: &Pipeline, db: u64) -> Result<Vec<Frame>, Failed> {
        let selects = self.db != Some(db);
        let replies = self.connection.pipeline(pipeline).await?;
        if selects {
            match replies.first().and_then(Frame::error_reply) {
                // The one database of a cluster needs no permission.
                Some(error) if db != 0 => {
                    return Err(Failed::Refused { doing: "SELECT", reply: error.to_string() });
                }
                _ => self.db = Some(db),
            }
        }
        Ok(replies)
    }
}

struct Gone;

/// What an error of a server says of a key.
fn elsewhere(error: &ErrorReply, doing: &'static str) -> Result<Found, Failed> {
    let reply = error.to_string();
    match (error.code(), error.retry()) {
        ("MOVED", _) => Ok(Found::Elsewhere),
        (_, Retry::BackOff | Retry::Redirect | Retry::RefreshTopology) => {
            Err(Failed::Passing { doing, reply })
        }
        _ => Err(Failed::Refused { doing, reply }),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::List(items) | Value::Set(items) => items.is_empty(),
        Value::SortedSet(items) => items.is_empty(),
        Value::Hash(fields) => fields.is_empty(),
        _ => false,
    }
}
