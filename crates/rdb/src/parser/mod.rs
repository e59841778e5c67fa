//! The push parser of snapshots.
//!
//! Advice for those who change it. The buffer holds `buf[keep..end]` of interest: `keep <= pos <= end`, where `keep`
//! is the first byte that a later event may lend and `pos` is where walking goes on. Positions inside the record
//! under way are kept relative to `keep`, so moving the buffer's contents changes none of them. Everything before
//! `pos` belongs to the snapshot, so it may be taken into the checksum at any time; `summed` says how far that went.
//! A value's window (its first `value_part` bytes, then the next) depends on the data alone, not on how the data
//! arrived: that is what makes events the same for any chunking.

mod record;
mod report;

use record::op;
use report::Found;

use crate::crc::Crc64;
use crate::error::{Error, Quoted};
use crate::event::{Checksum, Event, Eviction};
use crate::limits::Limits;
use crate::text::{self, Place};
use crate::types::{Dialect, ValueType};
use crate::walk::{self, Ended, Fault, TemplateSizes, Walker, record as layout};
use crate::wire::{self, Stop, StrForm};

/// Bytes that are summed at once, at least, while plenty are there.
const SUM_RUN: usize = 32 << 10;
/// The buffer's first size.
const FIRST_BUFFER: usize = 64 << 10;

/// Reads a snapshot from bytes pushed in as they come.
///
/// The cycle: give it bytes, by [`space`](Self::space) and [`filled`](Self::filled) (read straight into its buffer) or
/// by [`feed`](Self::feed) (copied in); take events from [`next_event`](Self::next_event) until it gives `None`; go on
/// with more bytes until [`is_finished`](Self::is_finished). When the input ends, ask
/// [`end_of_input`](Self::end_of_input) whether it may.
///
/// Events borrow from the parser's buffer: no allocation, no reference count per key. The events do not depend on
/// how the bytes were cut. The parser stops exactly at the end of the snapshot; what follows (the tail of an append-only
/// file, the mark of a diskless replication transfer) is left in [`remaining`](Self::remaining).
///
/// After an error every further call gives the same error.
///
/// ```
/// use keyferry_rdb::{Event, Parser};
///
/// let mut parser = Parser::new();
/// parser.feed(b"REDIS0003\xFE\x00\x00\x03key\x05value\xFF+more");
/// let mut keys = Vec::new();
/// while let Some(event) = parser.next_event()? {
///     if let Event::Entry(entry) = event {
///         keys.push(entry.head.key.to_vec());
///     }
/// }
/// parser.end_of_input()?;
/// assert_eq!(keys, [b"key"]);
/// assert_eq!(parser.remaining(), b"+more");
/// # Ok::<(), keyferry_rdb::Error>(())
/// ```
#[derive(Debug)]
pub struct Parser {
    buf: Vec<u8>,
    keep: usize,
    pos: usize,
    end: usize,
    /// Stream offset of `buf[0]`.
    base: u64,
    /// Stream offset of the end of the last event.
    reported: u64,
    /// `buf[..summed]` is in `crc`; `summed <= pos`.
    summed: usize,
    crc: Crc64,
    phase: Phase,
    dialect: Dialect,
    version: u16,
    db: u64,
    pending: Pending,
    /// Key metadata of the key to come, when `pending.meta`.
    meta: Vec<u8>,
    /// The key under way: in `scratch` or relative to `keep`.
    key: Place,
    ty: ValueType,
    /// Where the value under way starts, relative to `keep`.
    value_at: usize,
    /// Start of the record that the event being reported borrows from.
    lent: usize,
    walker: Walker,
    templates: TemplateSizes,
    /// Decoded forms of strings that are not written verbatim.
    scratch: Vec<u8>,
    needed: usize,
    limits: Limits,
    failed: Option<Box<Error>>,
}

/// What is known of the next key from the opcodes before it.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    expiry: Option<i64>,
    eviction: Option<Eviction>,
    meta: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before the magic.
    Magic,
    /// Before an opcode or type byte.
    Item,
    /// Inside the record of this opcode, which starts at `keep`.
    Record(u8),
    /// Inside the value of a key that is not reported yet; its record starts at `keep`.
    Value,
    /// Inside a value reported in parts; the next part starts at `keep`.
    Parts,
    /// A part is ready at `keep..pos`; the flag tells that it is the last.
    Part(bool),
    /// After the last part.
    PartsEnd,
    /// After the end mark, before the checksum.
    Trailer,
    /// After everything.
    Done,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser with the default [`Limits`].
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// A parser with these limits.
    pub fn with_limits(mut limits: Limits) -> Self {
        limits.value_part = limits.value_part.max(64);
        Self {
            buf: Vec::new(),
            keep: 0,
            pos: 0,
            end: 0,
            base: 0,
            reported: 0,
            summed: 0,
            crc: Crc64::new(),
            phase: Phase::Magic,
            dialect: Dialect::Redis,
            version: 0,
            db: 0,
            pending: Pending::default(),
            meta: Vec::new(),
            key: Place::EMPTY,
            ty: ValueType::String,
            value_at: 0,
            lent: 0,
            walker: Walker::new(layout::ONE_LEN),
            templates: TemplateSizes::new(),
            scratch: Vec::new(),
            needed: 9,
            limits,
            failed: None,
        }
    }

    /// At least `min` bytes of room to read into (at least one). Tell [`filled`](Self::filled) how many were.
    ///
    /// Bytes of the unfinished record are moved to the front when there is no room behind them; the buffer grows only
    /// when that is not enough, so its size is bounded by the limits and `min`.
    pub fn space(&mut self, min: usize) -> &mut [u8] {
        let min = min.max(1);
        if self.buf.len() - self.end < min {
            self.make_room(min);
        }
        &mut self.buf[self.end..]
    }

    /// Tells that the first `n` bytes of [`space`](Self::space) were filled. Bytes beyond that space do not count.
    pub fn filled(&mut self, n: usize) {
        self.end = self.end.saturating_add(n).min(self.buf.len());
    }

    /// Copies `bytes` in.
    pub fn feed(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
            self.end += bytes.len();
        }
    }

    /// The next event, or `None` when more bytes are needed or the snapshot is [finished](Self::is_finished).
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the bytes, with its offset. The parser stays at the error.
    #[inline]
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, Error> {
        Ok(self.next_event_at()?.map(|(event, _)| event))
    }

    /// The same with a place, counted from the start of the snapshot: where the value of an [`Event::Entry`] or
    /// [`Event::ValueStart`] starts, where an [`Event::ValuePart`] starts, and where anything else ends.
    ///
    /// # Errors
    ///
    /// As [`next_event`](Self::next_event).
    #[inline]
    pub fn next_event_at(&mut self) -> Result<Option<(Event<'_>, u64)>, Error> {
        match self.find() {
            Ok(Some(found)) => {
                self.reported = self.base + self.pos as u64;
                let place = match found {
                    Found::Entry { value } => self.base + value as u64,
                    Found::ValueStart => self.base + self.keep as u64,
                    Found::ValuePart => self.base + self.lent as u64,
                    _ => self.reported,
                };
                if self.pos - self.summed >= SUM_RUN {
                    self.sum();
                }
                Ok(Some((self.event(found), place)))
            }
            Ok(None) => {
                self.sum();
                Ok(None)
            }
            Err(error) => Err(self.fail(*error)),
        }
    }

    /// Whether the end mark and the checksum, if there is one, have been read.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Done
    }

    /// How many more bytes are needed, at least, before there can be another event; 0 when finished. Good as an
    /// argument to [`space`](Self::space), or to size a read. Valid after [`next_event`](Self::next_event) gave `None`.
    pub fn needed(&self) -> usize {
        if self.is_finished() { 0 } else { self.needed.max(1) }
    }

    /// To be asked when the input has ended: is that the end of the snapshot?
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] when it is not, or the error at which the parser stopped.
    pub fn end_of_input(&self) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err((**error).clone());
        }
        let what = match self.phase {
            Phase::Done => return Ok(()),
            Phase::Magic => "the magic and version at its start",
            Phase::Item => "the list of keys, before the end mark",
            Phase::Record(_) => "a record",
            Phase::Value | Phase::Parts | Phase::Part(_) | Phase::PartsEnd => "a value",
            Phase::Trailer => "the checksum",
        };
        Err(Error::Truncated { offset: self.base + self.end as u64, what })
    }

    /// Bytes that the events so far have consumed, counted from the start of the snapshot. After
    /// [`Event::End`] this is the snapshot's exact size.
    pub fn offset(&self) -> u64 {
        self.reported
    }

    /// Bytes that were fed but not consumed. When finished, these follow the snapshot and do not belong to it.
    pub fn remaining(&self) -> &[u8] {
        &self.buf[self.pos..self.end]
    }

    /// The version from the header, once it was read.
    pub fn version(&self) -> Option<u16> {
        (self.phase != Phase::Magic).then_some(self.version)
    }

    /// The dialect from the header, once it was read.
    pub fn dialect(&self) -> Option<Dialect> {
        (self.phase != Phase::Magic).then_some(self.dialect)
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn make_room(&mut self, min: usize) {
        self.sum();
        let kept = self.end - self.keep;
        self.buf.copy_within(self.keep..self.end, 0);
        self.base += self.keep as u64;
        self.pos -= self.keep;
        self.summed -= self.keep;
        self.end = kept;
        self.keep = 0;
        let wanted = kept.saturating_add(min);
        if self.buf.len() < wanted {
            let doubled = self.buf.len().saturating_mul(2);
            self.buf.resize(wanted.max(doubled).max(FIRST_BUFFER), 0);
        } else if self.buf.len() / 8 > wanted.max(self.limits.value_part) {
            // One giant key must not cost its room for ever.
            self.buf.truncate(wanted.saturating_mul(2));
            self.buf.shrink_to_fit();
        }
    }

    /// Takes what was walked over into the checksum.
    fn sum(&mut self) {
        if self.summed < self.pos {
            self.crc.update(&self.buf[self.summed..self.pos]);
            self.summed = self.pos;
        }
    }

    #[cold]
    fn fail(&mut self, error: Error) -> Error {
        self.failed.get_or_insert_with(|| Box::new(error.clone()));
        error
    }

    /// Walks to the next event.
    #[inline]
    fn find(&mut self) -> Result<Option<Found>, Box<Error>> {
        if self.phase == Phase::Item
            && self.failed.is_none()
            && let Some(found) = self.small_entry()
        {
            return Ok(Some(found));
        }
        self.find_slowly()
    }

    /// The short way for a key with a value of one short string, all of it in the buffer.
    #[inline(always)]
    fn small_entry(&mut self) -> Option<Found> {
        let b = &self.buf[self.pos..self.end];
        let &[ty, key_len @ 0..0x40, ref rest @ ..] = b else { return None };
        let ty = match ty {
            0 => ValueType::String,
            _ => return None,
        };
        let value = usize::from(key_len);
        let size = match *rest.get(value)? {
            n @ 0..0x40 => 1 + usize::from(n),
            0xC0 => 2,
            0xC1 => 3,
            0xC2 => 5,
            _ => return None,
        };
        if rest.len() < value + size {
            return None;
        }
        self.key = Place::Buffer { at: 2, len: value };
        self.ty = ty;
        self.lent = self.pos;
        let value = self.pos + 2 + value;
        self.pos = value + size;
        self.keep = self.pos;
        Some(Found::Entry { value })
    }

    fn find_slowly(&mut self) -> Result<Option<Found>, Box<Error>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        loop {
            match self.phase {
                Phase::Item => match self.item()? {
                    Step::Found(found) => return Ok(Some(found)),
                    Step::Need => return Ok(None),
                    Step::Next => {}
                },
                Phase::Value => {
                    let start = self.keep + self.value_at;
                    let (window, full) = self.window(start, self.limits.value_part);
                    match self.walk(window)? {
                        Ended::Done => {
                            self.lent = self.keep;
                            self.keep = self.pos;
                            self.phase = Phase::Item;
                            return Ok(Some(Found::Entry { value: start }));
                        }
                        Ended::Need if full => {
                            if self.pos == start {
                                return Err(self.too_long(
                                    "size of the field names of a template",
                                    start,
                                    self.limits.value_part,
                                ));
                            }
                            self.remember_key();
                            self.lent = self.keep;
                            self.keep = start;
                            self.phase = Phase::Part(false);
                            return Ok(Some(Found::ValueStart));
                        }
                        Ended::Need => return Ok(self.need_for_walk(start, self.limits.value_part)),
                    }
                }
                Phase::Part(last) => {
                    self.lent = self.keep;
                    self.keep = self.pos;
                    self.phase = if last { Phase::PartsEnd } else { Phase::Parts };
                    return Ok(Some(Found::ValuePart));
                }
                Phase::Parts => {
                    let (window, full) = self.window(self.keep, self.limits.value_part);
                    match self.walk(window)? {
                        Ended::Done if self.pos == self.keep => self.phase = Phase::PartsEnd,
                        Ended::Done => self.phase = Phase::Part(true),
                        Ended::Need if full => {
                            if self.pos == self.keep {
                                return Err(self.too_long(
                                    "size of the field names of a template",
                                    self.keep,
                                    self.limits.value_part,
                                ));
                            }
                            self.phase = Phase::Part(false);
                        }
                        Ended::Need => return Ok(self.need_for_walk(self.keep, self.limits.value_part)),
                    }
                }
                Phase::PartsEnd => {
                    self.phase = Phase::Item;
                    return Ok(Some(Found::ValueEnd));
                }
                Phase::Record(opcode) => {
                    let (window, full) = self.window(self.keep, self.limits.record);
                    match self.walk(window)? {
                        Ended::Done => {
                            self.phase = Phase::Item;
                            self.lent = self.keep;
                            let found = self.record(opcode)?;
                            self.keep = self.pos;
                            if let Some(found) = found {
                                return Ok(Some(found));
                            }
                        }
                        Ended::Need if full => {
                            return Err(self.too_long("size of a record", self.keep, self.limits.record));
                        }
                        Ended::Need => return Ok(self.need_for_walk(self.keep, self.limits.record)),
                    }
                }
                Phase::Magic => {
                    let b = &self.buf[self.pos..self.end];
                    let Some(magic) = b.first_chunk::<9>() else {
                        self.needed = 9 - b.len();
                        return Ok(None);
                    };
                    (self.dialect, self.version) =
                        parse_magic(magic).ok_or_else(|| Error::NotRdb { found: Quoted::new(magic) })?;
                    self.pos += 9;
                    self.keep = self.pos;
                    self.phase = Phase::Item;
                    return Ok(Some(Found::Header));
                }
                Phase::Trailer => {
                    self.sum();
                    let checksum = if self.version < 5 {
                        Checksum::NoneInVersion
                    } else {
                        let b = &self.buf[self.pos..self.end];
                        let Some(stored) = wire::u64_le(b) else {
                            self.needed = 8 - b.len();
                            return Ok(None);
                        };
                        let computed = self.crc.value();
                        if stored == 0 {
                            Checksum::NotComputed
                        } else if stored == computed {
                            Checksum::Verified
                        } else {
                            return Err(Box::new(Error::Checksum {
                                offset: self.at(self.pos),
                                stored,
                                computed,
                            }));
                        }
                    };
                    if checksum != Checksum::NoneInVersion {
                        self.pos += 8;
                        self.summed = self.pos;
                    }
                    self.keep = self.pos;
                    self.phase = Phase::Done;
                    return Ok(Some(Found::End(checksum)));
                }
                Phase::Done => return Ok(None),
            }
        }
    }

    /// Reads an opcode, or a type byte and key.
    fn item(&mut self) -> Result<Step, Box<Error>> {
        self.keep = self.pos;
        let b = &self.buf[self.pos..self.end];
        let Some(&byte) = b.first() else {
            self.needed = 1;
            return Ok(Step::Need);
        };
        if let Some(ty) = ValueType::from_byte(byte, self.dialect) {
            return self.key(ty);
        }
        let steps = match byte {
            op::EXPIRE_MS => {
                let Some(ms) = b.get(1..9).and_then(wire::u64_le) else { return Ok(self.need(9)) };
                self.pending.expiry = Some(ms as i64);
                self.pos += 9;
                return Ok(Step::Next);
            }
            op::EXPIRE_SECONDS => {
                let Some(seconds) = b[1..].first_chunk() else { return Ok(self.need(5)) };
                self.pending.expiry = Some(i64::from(i32::from_le_bytes(*seconds)) * 1000);
                self.pos += 5;
                return Ok(Step::Next);
            }
            op::FREQ => {
                let Some(&freq) = b.get(1) else { return Ok(self.need(2)) };
                self.pending.eviction = Some(Eviction::Freq(freq));
                self.pos += 2;
                return Ok(Step::Next);
            }
            op::EOF => {
                self.pos += 1;
                self.phase = Phase::Trailer;
                return Ok(Step::Next);
            }
            op::SELECT_DB | op::IDLE | op::ENTERPRISE_LRU | op::ENTERPRISE_SLOT => layout::ONE_LEN,
            op::RESIZE_DB => layout::TWO_LENS,
            op::AUX => layout::TWO_STRS,
            op::FUNCTION => layout::ONE_STR,
            op::FUNCTION_PRE_GA => layout::FUNCTION_PRE_GA,
            op::MODULE_AUX => layout::MODULE_AUX,
            op::SLOT_INFO => layout::THREE_LENS,
            op::META_OR_IMPORT if self.dialect == Dialect::Valkey => layout::SLOT_IMPORT,
            op::META_OR_IMPORT => layout::KEY_META,
            op::HASH_TEMPLATE if self.dialect == Dialect::Redis => layout::HASH_TEMPLATE,
            _ => return Err(Box::new(Error::UnknownType { offset: self.at(self.pos), byte })),
        };
        self.walker.restart(steps);
        self.pos += 1;
        self.phase = Phase::Record(byte);
        Ok(Step::Next)
    }

    /// Reads the key after the type byte at `pos`, and the value too when it is a string that is all there.
    #[inline]
    fn key(&mut self, ty: ValueType) -> Result<Step, Box<Error>> {
        let b = &self.buf[self.pos..self.end];
        let head = match wire::str_head(&b[1..]) {
            Ok(head) => head,
            Err(Stop::Need) => return Ok(self.need(b.len() + 1)),
            Err(Stop::Bad(what)) => return Err(self.corrupt(self.pos + 1, what)),
        };
        if head.payload > self.limits.key as u64 {
            return Err(Box::new(Error::LimitExceeded {
                offset: self.at(self.pos + 1),
                what: "key length",
                claimed: head.payload,
                limit: self.limits.key as u64,
                key: None,
            }));
        }
        let key_at = 1 + head.head;
        let value_at = key_at + head.payload as usize;
        let Some(payload) = b.get(key_at..value_at) else { return Ok(self.need(value_at)) };
        self.scratch.clear();
        let limit = self.limits.key.min(self.limits.inflated);
        // Written at once where it lies: a result that is copied in would hold the processor up.
        if head.form == StrForm::Plain {
            self.key = Place::Buffer { at: key_at, len: payload.len() };
        } else {
            self.key = match text::decode(payload, head, key_at, limit, &mut self.scratch) {
                Ok(place) => place,
                Err(fault) => return Err(self.text_fault(self.pos + 1, "key length", fault)),
            };
        }
        self.ty = ty;
        self.value_at = value_at;
        self.pos += value_at;
        let steps = walk::value_layout(ty);
        if let [walk::Op::Str] = steps
            && let rest = &b[value_at..]
            && let Ok(head) = wire::str_head(rest)
            && head.payload <= (rest.len() - head.head) as u64
            && head.head + (head.payload as usize) <= self.limits.value_part
        {
            let value = self.pos;
            self.lent = self.keep;
            self.pos += head.head + head.payload as usize;
            self.keep = self.pos;
            return Ok(Step::Found(Found::Entry { value }));
        }
        self.walker.restart(steps);
        self.phase = Phase::Value;
        Ok(Step::Next)
    }

    /// The end of the window of `size` bytes from `start`, as far as bytes are there, and whether they all are.
    fn window(&self, start: usize, size: usize) -> (usize, bool) {
        let end = start.saturating_add(size);
        (end.min(self.end), end <= self.end)
    }

    /// Runs the walker up to `window`.
    fn walk(&mut self, window: usize) -> Result<Ended, Box<Error>> {
        let (passed, ended) = self.walker.run(&self.buf[self.pos..window], &self.templates);
        self.pos += passed;
        ended.map_err(|fault| {
            let offset = self.at(self.pos);
            let error = match fault {
                Fault::Bad(what) => Error::Corrupt { offset, what, key: None },
                Fault::UnknownTemplate(id) => Error::UnknownTemplate { offset, id, key: None },
                Fault::PreGa(module) => {
                    let key = Quoted::new(self.key_bytes());
                    return Box::new(Error::PreGaModule { offset, key, module });
                }
            };
            Box::new(match self.phase {
                Phase::Value => error.with_key(self.key_bytes()),
                Phase::Parts => error.with_key(&self.scratch),
                _ => error,
            })
        })
    }

    /// The key under way, whose record starts at `keep`.
    fn key_bytes(&self) -> &[u8] {
        self.key.of(&self.buf[self.keep..], &self.scratch)
    }

    /// Keeps the head of the key for messages while its value is under way in parts.
    fn remember_key(&mut self) {
        if let Place::Buffer { at, len } = self.key {
            let at = self.keep + at;
            self.scratch.clear();
            self.scratch.extend_from_slice(&self.buf[at..at + len]);
            self.key = Place::Scratch { at: 0, len };
        }
    }

    /// Stream offset of an index of `buf`.
    fn at(&self, index: usize) -> u64 {
        self.base + index as u64
    }

    /// Notes that the item at `pos` needs `size` bytes at least.
    fn need(&mut self, size: usize) -> Step {
        self.needed = size.saturating_sub(self.end - self.pos);
        Step::Need
    }

    /// Notes what the walk at `pos` needs, inside the window of `size` bytes from `start`.
    fn need_for_walk(&mut self, start: usize, size: usize) -> Option<Found> {
        let room = start.saturating_add(size).saturating_sub(self.end);
        self.needed = usize::try_from(self.walker.skipping()).unwrap_or(usize::MAX).clamp(1, room.max(1));
        None
    }

    #[cold]
    fn corrupt(&self, at: usize, what: &'static str) -> Box<Error> {
        Box::new(Error::Corrupt { offset: self.at(at), what, key: None })
    }

    #[cold]
    fn text_fault(&self, at: usize, what: &'static str, fault: text::Fault) -> Box<Error> {
        match fault {
            text::Fault::Bad(what) => self.corrupt(at, what),
            text::Fault::Limit { claimed, limit } => {
                Box::new(Error::LimitExceeded { offset: self.at(at), what, claimed, limit, key: None })
            }
        }
    }

    #[cold]
    fn too_long(&self, what: &'static str, start: usize, limit: usize) -> Box<Error> {
        Box::new(Error::LimitExceeded {
            offset: self.at(start),
            what,
            claimed: (limit as u64).saturating_add(1),
            limit: limit as u64,
            key: None,
        })
    }
}

/// `REDIS` and four digits, or `VALKEY` and three.
fn parse_magic(magic: &[u8; 9]) -> Option<(Dialect, u16)> {
    let (dialect, digits) = if let Some(digits) = magic.strip_prefix(b"REDIS") {
        (Dialect::Redis, digits)
    } else {
        (Dialect::Valkey, magic.strip_prefix(b"VALKEY")?)
    };
    let mut version = 0;
    for digit in digits {
        version = version * 10 + u16::from(digit.checked_sub(b'0').filter(|d| *d < 10)?);
    }
    Some((dialect, version))
}

/// What a step at the item level came to.
enum Step {
    Found(Found),
    Next,
    Need,
}
