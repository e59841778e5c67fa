//! Rebuilding values by ordinary commands.
//!
//! For values too large for one `RESTORE` payload, for targets that refuse RESTORE or do not know the encoding, and for
//! merging. A [`Rebuild`] takes the raw bytes of one value, whole or in parts, and gives the commands that build it, in
//! bounded batches, to a [`CommandSink`], which encodes or sends them.
//!
//! | kind | commands |
//! |---|---|
//! | string | `SET`, then `APPEND` for every further chunk |
//! | list | `RPUSH` |
//! | set | `SADD` |
//! | sorted set | `ZADD`, scores to the last bit |
//! | hash | `HSET` (`HMSET` before Redis 4.0), `HPEXPIREAT` per batch and expiry |
//! | stream | `XADD`, `XSETID`, `XGROUP CREATE`, `XGROUP CREATECONSUMER`, `XCLAIM`, `XNACK`, `XCFGSET`, `XIDMPRECORD` |
//! | array | `ARSET`, `ARSEEK` |
//!
//! The caller deletes the key before (or uses a fresh name), and afterwards sets the expiry and renames.
//! A field expiry that has passed deletes the field at once, so a hash all of whose fields have expired ends as no key.
//! What commands cannot carry is told to the sink as a [`Loss`]; nothing is dropped silently. One thing the target decides by
//! itself: Redis 7.0 and later make a score of -0 that `ZADD` gives a small sorted set a 0.
//!
//! Memory: one element or compact blob, one batch, and for streams the ids of the live entries (two or three bytes
//! each), since pending entries can be rebuilt only for entries that exist.
//!
//! ```
//! use keyferry_rdb::native::{CommandSink, Loss, NativeOptions, Rebuild};
//! use keyferry_rdb::{Dialect, ValueType};
//!
//! struct Printed(Vec<String>);
//!
//! impl CommandSink for Printed {
//!     fn command(&mut self, args: &[&[u8]]) {
//!         self.0.push(args.iter().map(|arg| String::from_utf8_lossy(arg)).collect::<Vec<_>>().join(" "));
//!     }
//!     fn loss(&mut self, loss: Loss) {
//!         self.0.push(format!("lost: {loss}"));
//!     }
//! }
//!
//! let mut printed = Printed(Vec::new());
//! let mut rebuild = Rebuild::new(b"key", ValueType::List, Dialect::Redis, &NativeOptions::default());
//! rebuild.feed(b"\x02\x03one", &mut printed)?;
//! rebuild.feed(b"\x03two", &mut printed)?;
//! rebuild.finish(&mut printed)?;
//! assert_eq!(printed.0, ["RPUSH key one two"]);
//! # Ok::<(), keyferry_rdb::Error>(())
//! ```

mod batch;
mod features;
mod ids;
mod loss;

pub use features::Features;
pub use loss::Loss;

use std::fmt::Write as _;

use batch::Batch;
use ids::LiveIds;

use crate::elements::{Element, ElementDecoder, StreamId, StreamInfo, Templates};
use crate::error::Error;
use crate::limits::Limits;
use crate::types::{Dialect, Kind, ValueType};

/// Seconds and entries by which streams remember idempotent producers where nobody set them otherwise (Redis 8.6).
const USUAL_LIMITS: (u64, u64) = (100, 100);

/// Takes the commands of a [`Rebuild`].
pub trait CommandSink {
    /// One command, its name first.
    fn command(&mut self, args: &[&[u8]]);

    /// Something that the commands do not carry over.
    fn loss(&mut self, loss: Loss);
}

/// How to rebuild values.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NativeOptions {
    /// The commands that the target has. `None`, the default, takes those of the oldest server that writes the value's
    /// type: they work on every server that knows the type.
    pub features: Option<Features>,
    /// Fields of hashes that expired before this, in milliseconds since the Unix epoch, are left out where the target has
    /// no expiring fields, as with [`TargetFormat::expired_before`](crate::TargetFormat::expired_before).
    pub expired_before: i64,
    /// Elements per command, at most. Default 256.
    pub batch_elements: usize,
    /// Bytes of arguments per command: no further element is added once there are so many. Default 64 KiB.
    pub batch_bytes: usize,
    /// Bounds for decoding; [`Limits::chunk`] is the size of the pieces in which strings are built.
    pub limits: Limits,
    /// Field names for hashes that refer to templates of their file.
    pub templates: Templates,
}

impl Default for NativeOptions {
    fn default() -> Self {
        Self {
            features: None,
            expired_before: i64::MIN,
            batch_elements: 256,
            batch_bytes: 64 << 10,
            limits: Limits::default(),
            templates: Templates::new(),
        }
    }
}

/// Turns the raw bytes of one value into commands.
#[derive(Debug)]
pub struct Rebuild {
    decoder: ElementDecoder,
    writer: Writer,
}

impl Rebuild {
    /// For a value of type `ty`, to be built as `key`. `dialect` is that of the snapshot it comes from; it decides
    /// what the target is taken to know where the options do not say.
    pub fn new(key: &[u8], ty: ValueType, dialect: Dialect, options: &NativeOptions) -> Self {
        let features = options.features.unwrap_or(Features::of_source(ty, dialect));
        let possible = match ty.kind() {
            Kind::Module | Kind::RateLimiter | Kind::CronJob => false,
            Kind::Stream => features.streams,
            Kind::Array => features.arrays,
            _ => true,
        };
        Self {
            decoder: ElementDecoder::new(ty, &options.limits).with_templates(options.templates.clone()),
            writer: Writer {
                key: key.into(),
                ty,
                features,
                expired_before: options.expired_before,
                possible,
                batch_elements: options.batch_elements.max(1),
                batch_bytes: options.batch_bytes,
                elements: 0,
                batch: Batch::default(),
                expiries: Vec::new(),
                text: String::new(),
                lost_expiries: 0,
                array_cursor: None,
                stream: StreamWriter::default(),
            },
        }
    }

    /// Takes the next bytes of the value and gives the commands that they make up.
    ///
    /// # Errors
    ///
    /// Those of [`ElementDecoder::next`], with the key named. Commands given before remain given: the caller discards
    /// the key.
    pub fn feed(&mut self, part: &[u8], sink: &mut impl CommandSink) -> Result<(), Error> {
        self.decoder.feed(part);
        loop {
            match self.decoder.next() {
                Ok(Some(element)) => self.writer.element(&element, sink),
                Ok(None) => return Ok(()),
                Err(error) => return Err(error.with_key(&self.writer.key)),
            }
        }
    }

    /// Gives the remaining commands, after all parts were fed.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] when the value is not complete, [`Error::Corrupt`] when bytes are left over.
    pub fn finish(&mut self, sink: &mut impl CommandSink) -> Result<(), Error> {
        self.decoder.finish().map_err(|error| error.with_key(&self.writer.key))?;
        self.writer.finish(sink);
        Ok(())
    }
}

/// Commands from elements.
#[derive(Debug)]
struct Writer {
    key: Box<[u8]>,
    ty: ValueType,
    features: Features,
    expired_before: i64,
    possible: bool,
    batch_elements: usize,
    batch_bytes: usize,
    elements: u64,
    batch: Batch,
    /// Expiry and index of the field's name among the arguments of the batch.
    expiries: Vec<(i64, usize)>,
    text: String,
    lost_expiries: u64,
    array_cursor: Option<u64>,
    stream: StreamWriter,
}

/// What must be known of a stream to go on writing it.
#[derive(Debug, Default)]
struct StreamWriter {
    live: LiveIds,
    last_entry: StreamId,
    group: Vec<u8>,
    lost_pending: u64,
    lost_released: u64,
    consumers: u64,
    lost_records: u64,
    lost_dead_records: u64,
    lost_totals: bool,
    lost_idempotency: bool,
}

impl Writer {
    fn element(&mut self, element: &Element<'_>, sink: &mut impl CommandSink) {
        if let Element::Field { expires_at: Some(at), .. } = element
            && *at < self.expired_before
            && !self.features.field_expiry
        {
            return;
        }
        self.elements += 1;
        if !self.possible {
            return;
        }
        match element {
            Element::Chunk(chunk) => {
                let name: &[u8] = if self.elements == 1 { b"SET" } else { b"APPEND" };
                sink.command(&[name, &self.key, chunk]);
            }
            Element::Item(item) => self.add(&[item], sink),
            Element::Member(member) => self.add(&[member], sink),
            Element::Scored { member, score } => {
                self.text.clear();
                // Writing to a string does not fail.
                let _ = write!(self.text, "{score}");
                let text = std::mem::take(&mut self.text);
                self.add(&[text.as_bytes(), member], sink);
                self.text = text;
            }
            Element::Field { name, value, expires_at } => {
                if let Some(at) = expires_at {
                    if self.features.field_expiry {
                        self.expiries.push((*at, self.batch.args()));
                    } else {
                        self.lost_expiries += 1;
                    }
                }
                self.add(&[name, value], sink);
            }
            // Set when the items are there.
            Element::ArrayCursor(cursor) => self.array_cursor = Some(*cursor),
            Element::ArrayItem { index, value } => {
                let mut text = itoa::Buffer::new();
                sink.command(&[b"ARSET", &self.key, text.format(*index).as_bytes(), value]);
            }
            Element::StreamEntry(entry) => {
                self.stream.live.push(entry.id);
                self.stream.last_entry = entry.id;
                let id = entry.id.to_string();
                let mut args: Vec<&[u8]> = Vec::with_capacity(3 + 2 * entry.fields().len());
                args.extend([b"XADD", &*self.key, id.as_bytes()]);
                for (name, value) in entry.fields() {
                    args.extend([name, value]);
                }
                sink.command(&args);
            }
            Element::StreamInfo(info) => self.stream_info(info, sink),
            Element::Group(group) => {
                self.end_group(sink);
                self.stream.group = group.name.to_vec();
                let last_id = group.last_id.to_string();
                let mut read = itoa::Buffer::new();
                let mut args: Vec<&[u8]> =
                    vec![b"XGROUP", b"CREATE", &self.key, group.name, last_id.as_bytes()];
                if self.features.stream_counters
                    && let Some(n) = group.entries_read
                {
                    args.extend([b"ENTRIESREAD", read.format(n).as_bytes()]);
                }
                sink.command(&args);
            }
            Element::Consumer(consumer) => {
                self.stream.consumers += 1;
                if self.features.create_consumer {
                    sink.command(&[
                        b"XGROUP",
                        b"CREATECONSUMER",
                        &self.key,
                        &self.stream.group,
                        consumer.name,
                    ]);
                } else {
                    // Reading one's own past delivers nothing that is new, and makes the consumer.
                    let args: [&[u8]; 7] = [
                        b"XREADGROUP",
                        b"GROUP",
                        &self.stream.group,
                        consumer.name,
                        b"STREAMS",
                        &self.key,
                        b"0",
                    ];
                    sink.command(&args);
                }
            }
            Element::Pending(pending) => {
                if !self.stream.live.contains(pending.id) {
                    self.stream.lost_pending += 1;
                    return;
                }
                let id = pending.id.to_string();
                let (mut time, mut count) = (itoa::Buffer::new(), itoa::Buffer::new());
                let (time, count) = (time.format(pending.delivered_at), count.format(pending.deliveries));
                let group = &*self.stream.group;
                match pending.consumer {
                    Some(consumer) => sink.command(&[
                        b"XCLAIM",
                        &self.key,
                        group,
                        consumer,
                        b"0",
                        id.as_bytes(),
                        b"TIME",
                        time.as_bytes(),
                        b"RETRYCOUNT",
                        count.as_bytes(),
                        b"JUSTID",
                        b"FORCE",
                    ]),
                    None if self.features.released_entries => sink.command(&[
                        b"XNACK",
                        &self.key,
                        group,
                        b"FAIL",
                        b"IDS",
                        b"1",
                        id.as_bytes(),
                        b"RETRYCOUNT",
                        count.as_bytes(),
                        b"FORCE",
                    ]),
                    None => self.stream.lost_released += 1,
                }
            }
            Element::IdempotencyLimits { duration, max_entries } => {
                self.end_group(sink);
                let limits = (*duration, *max_entries);
                self.stream.lost_idempotency |= !self.features.idempotent_producers && limits != USUAL_LIMITS;
                if self.features.idempotent_producers {
                    let (mut seconds, mut size) = (itoa::Buffer::new(), itoa::Buffer::new());
                    sink.command(&[
                        b"XCFGSET",
                        &self.key,
                        b"IDMP-DURATION",
                        seconds.format(*duration).as_bytes(),
                        b"IDMP-MAXSIZE",
                        size.format(*max_entries).as_bytes(),
                    ]);
                }
            }
            Element::IdempotencyRecord { producer, iid, entry } => {
                if !self.features.idempotent_producers {
                    self.stream.lost_records += 1;
                } else if self.stream.live.contains(*entry) {
                    sink.command(&[b"XIDMPRECORD", &self.key, producer, iid, entry.to_string().as_bytes()]);
                } else {
                    self.stream.lost_dead_records += 1;
                }
            }
            Element::IdempotencyTotals { added, duplicates } => {
                let lost = *added > 0 || *duplicates > 0;
                self.stream.lost_totals = lost && self.features.idempotent_producers;
                self.stream.lost_idempotency |= lost && !self.features.idempotent_producers;
            }
            // Of types that are not possible.
            Element::RateLimit(_) | Element::Opaque(_) => {}
        }
    }

    /// Adds the arguments of one element, giving the command when that is enough.
    fn add(&mut self, args: &[&[u8]], sink: &mut impl CommandSink) {
        for arg in args {
            self.batch.push(arg);
        }
        if self.batch.args() >= self.batch_elements.saturating_mul(args.len())
            || self.batch.size() >= self.batch_bytes
        {
            self.flush(sink);
        }
    }

    /// Gives the command of the batch, and the expiries of its fields.
    fn flush(&mut self, sink: &mut impl CommandSink) {
        if self.batch.is_empty() {
            return;
        }
        let name: &[u8] = match self.ty.kind() {
            Kind::List => b"RPUSH",
            Kind::Set => b"SADD",
            Kind::SortedSet => b"ZADD",
            _ if self.features.multi_hset => b"HSET",
            _ => b"HMSET",
        };
        let batch: Vec<&[u8]> = self.batch.iter().collect();
        let mut args: Vec<&[u8]> = Vec::with_capacity(2 + batch.len());
        args.extend([name, &self.key]);
        args.extend(&batch);
        sink.command(&args);
        self.expiries.sort_unstable();
        for group in self.expiries.chunk_by(|(a, _), (b, _)| a == b) {
            let [(at, _), ..] = group else { continue };
            let (mut time, mut count) = (itoa::Buffer::new(), itoa::Buffer::new());
            let (time, count) = (time.format(*at), count.format(group.len()));
            let mut args: Vec<&[u8]> =
                vec![b"HPEXPIREAT", &self.key, time.as_bytes(), b"FIELDS", count.as_bytes()];
            args.extend(group.iter().filter_map(|(_, name)| batch.get(*name)));
            sink.command(&args);
        }
        self.expiries.clear();
        self.batch.clear();
    }

    fn stream_info(&mut self, info: &StreamInfo, sink: &mut impl CommandSink) {
        // A stream never gave an id below its last entry's; bytes that say so are not repeated.
        let last_id = info.last_id.max(self.stream.last_entry);
        if self.stream.live.is_empty() {
            sink.command(&[b"XADD", &self.key, b"MAXLEN", b"0", b"0-1", b"x", b"y"]);
        }
        let last_id = last_id.to_string();
        let mut args: Vec<&[u8]> = vec![b"XSETID", &self.key, last_id.as_bytes()];
        let (added, deleted);
        if let Some(counters) = info.counters {
            if self.features.stream_counters {
                added = counters.entries_added.max(info.live).to_string();
                deleted = counters.max_deleted_id.to_string();
                args.extend([&b"ENTRIESADDED"[..], added.as_bytes(), b"MAXDELETEDID", deleted.as_bytes()]);
            } else {
                sink.loss(Loss::StreamCounters);
            }
        }
        sink.command(&args);
    }

    /// Reports what was lost of the group that ends.
    fn end_group(&mut self, sink: &mut impl CommandSink) {
        let stream = &mut self.stream;
        let entries = std::mem::take(&mut stream.lost_pending);
        if entries > 0 {
            sink.loss(Loss::PendingOfDeletedEntries { group: stream.group.as_slice().into(), entries });
        }
        let entries = std::mem::take(&mut stream.lost_released);
        if entries > 0 {
            sink.loss(Loss::ReleasedEntries { group: stream.group.as_slice().into(), entries });
        }
    }

    fn finish(&mut self, sink: &mut impl CommandSink) {
        if !self.possible {
            sink.loss(Loss::NoNativeForm { ty: self.ty });
            return;
        }
        self.flush(sink);
        self.end_group(sink);
        if let Some(last) = self.array_cursor {
            // The server is told where the next insert goes: one past the last.
            let mut next = itoa::Buffer::new();
            sink.command(&[b"ARSEEK", &self.key, next.format(last.wrapping_add(1)).as_bytes()]);
        }
        if self.elements == 0 {
            sink.loss(Loss::EmptyContainer { ty: self.ty });
        }
        if self.lost_expiries > 0 {
            sink.loss(Loss::FieldExpiry { fields: self.lost_expiries });
        }
        let stream = &self.stream;
        if stream.consumers > 0 {
            sink.loss(Loss::ConsumerTimes { consumers: stream.consumers });
        }
        if stream.lost_records > 0 || stream.lost_idempotency {
            sink.loss(Loss::IdempotentProducers { records: stream.lost_records });
        }
        if stream.lost_dead_records > 0 {
            sink.loss(Loss::IdempotencyOfDeletedEntries { records: stream.lost_dead_records });
        }
        if stream.lost_totals {
            sink.loss(Loss::IdempotencyTotals);
        }
    }
}
