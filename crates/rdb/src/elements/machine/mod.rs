//! The state machine behind the decoders.
//!
//! A [`Machine`] owns no input. Each call of [`Machine::next`] gets the bytes of the value from some point on, always
//! the same but for more at the end, and either consumes one whole element's worth of them or leaves the unfinished token
//! where it is. Its owner may let go of bytes at the start that are not needed any more, and says so by
//! [`Machine::forget`]. What is found is told as [`Loc`]s, so that the element that borrows from input and machine can
//! be built afterwards.
//!
//! There are two ways to elements. The long one takes one [`Turn`] after the other, knows everything and tells what is
//! wrong. The quick one (`quick`) goes along rows of elements in common encodings, and stops at anything else.
//! A verbatim blob is read where it stands in the input; only compressed ones are copied.

use std::sync::Arc;

mod blobs;
mod found;
mod quick;
mod strings;
mod templates;

pub(super) use blobs::place;
pub(super) use found::Found;

use super::element::{Element, Loc};
use super::number;
use super::stream::{self, Stream};
use super::templates::{FieldNames, Templates};
use crate::blob::{BlobFault, Cursor};
use crate::error::{Error, Quoted};
use crate::limits::Limits;
use crate::lzf::Inflater;
use crate::text;
use crate::types::{ModuleId, ValueType};
use crate::walk::{self, Ended, TemplateSizes, Walker};
use crate::wire::{self, Stop, StrForm, StrHead};

/// The most room in bytes that is kept from one value to the next.
const KEPT: usize = 1 << 20;

/// Field expiries of servers fit 48 bits.
const MAX_FIELD_EXPIRY: u64 = (1 << 48) - 1;

#[derive(Debug)]
pub(super) struct Machine {
    ty: ValueType,
    limits: Limits,
    state: State,
    /// Elements, nodes or values still to come, by state.
    pub(super) left: u64,
    /// Lowest field expiry, to which those of type 24 are relative.
    min_expiry: u64,
    /// Where the value starts in its file.
    offset: u64,
    /// Bytes of the value before the input's first.
    before: u64,
    /// Bytes of the input consumed.
    at: usize,
    pub(super) blob: blobs::Open,
    cursor: Cursor,
    pub(super) scratch: Vec<u8>,
    inflater: Option<Inflater>,
    /// The inflater's chunk was reported.
    chunk_given: bool,
    templates: Option<Templates>,
    names: Option<Arc<FieldNames>>,
    next_name: usize,
    /// The last expiry of an ordered listpack.
    last_expiry: u64,
    /// One of the following was set, or `names` or `inflater`.
    is_rare: bool,
    walker: Option<Box<Walker>>,
    pub(super) stream: Option<Box<Stream>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    /// A verbatim string; `left` bytes to come.
    Chunks,
    /// A compressed string; `left` is not used.
    Inflate,
    Items,
    Members,
    TextScores,
    Scores,
    Pairs,
    ExpiryFirst {
        relative: bool,
    },
    ExpiryLast,
    ArrayItems,
    /// A quicklist before its next node.
    Nodes {
        kinds: bool,
    },
    /// Inside the blob.
    Blob,
    /// Field names of a template, `left` to come.
    TemplateNames,
    /// The listpack of values of a template, not open yet.
    TemplateBlob,
    TemplateListpack,
    TemplateValues,
    Opaque,
    Stream,
    Done,
    Failed,
}

impl State {
    /// Whether a row of elements of one kind comes now.
    fn is_row(self) -> bool {
        matches!(self, Self::Blob | Self::Items | Self::Members | Self::Scores | Self::Pairs)
    }
}

/// What a call came to.
enum Step {
    Found(Found),
    /// A row of elements comes now.
    Opened,
    /// No more elements in the input.
    End,
}

/// What one step came to.
#[derive(Debug)]
pub(super) enum Turn {
    Found(Found),
    /// Something was consumed or a state changed.
    Next,
    /// The token at the position is not all there.
    Need,
}

/// What is wrong, with positions relative to the value.
#[derive(Debug)]
pub(super) enum Fault {
    /// At the position reached in the input.
    Bad(&'static str),
    /// Inside the open blob.
    Blob(BlobFault),
    Limit {
        what: &'static str,
        claimed: u64,
        limit: u64,
    },
    Template(u64),
    PreGa(ModuleId),
}

impl From<BlobFault> for Fault {
    fn from(fault: BlobFault) -> Self {
        Self::Blob(fault)
    }
}

/// The input of one call and how much of it is consumed.
pub(super) struct Input<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Input<'a> {
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }
}

/// A token, or `None` when it is not all there.
type Token<T> = Result<Option<T>, Fault>;

pub(super) fn token<T>(read: Result<T, Stop>) -> Token<T> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Stop::Need) => Ok(None),
        Err(Stop::Bad(what)) => Err(Fault::Bad(what)),
    }
}

/// `N` lengths at the start of `b`, and their size.
pub(super) fn lens<const N: usize>(b: &[u8]) -> Token<([u64; N], usize)> {
    let mut values = [0; N];
    let mut at = 0;
    for value in &mut values {
        let Some((n, size)) = token(wire::len(&b[at..]))? else { return Ok(None) };
        *value = n;
        at += size;
    }
    Ok(Some((values, at)))
}

/// The header of the string at the start of `b`, and the string's size, when all of it is there.
pub(super) fn string(b: &[u8], limit: usize) -> Token<(StrHead, usize)> {
    let Some(head) = token(wire::str_head(b))? else { return Ok(None) };
    let claimed = match head.form {
        StrForm::Lzf { inflated } => inflated.max(head.payload),
        _ => head.payload,
    };
    if claimed > limit as u64 {
        return Err(Fault::Limit { what: "length of an element", claimed, limit: limit as u64 });
    }
    let size = head.head as u64 + head.payload;
    Ok((size <= b.len() as u64).then_some((head, size as usize)))
}

macro_rules! need {
    ($token:expr) => {
        match $token? {
            Some(value) => value,
            None => return Ok(Turn::Need),
        }
    };
}
pub(super) use need;

impl Machine {
    pub(super) fn new(ty: ValueType, limits: &Limits) -> Self {
        Self {
            ty,
            limits: Limits { chunk: limits.chunk.max(64), ..limits.clone() },
            state: State::Start,
            left: 0,
            min_expiry: 0,
            offset: 0,
            before: 0,
            at: 0,
            blob: blobs::Open::default(),
            cursor: Cursor::Closed,
            scratch: Vec::new(),
            inflater: None,
            chunk_given: false,
            templates: None,
            names: None,
            next_name: 0,
            last_expiry: 0,
            is_rare: false,
            walker: None,
            stream: None,
        }
    }

    /// Makes it ready for another value, with what it has of memory.
    pub(super) fn restart(&mut self, ty: ValueType) {
        self.ty = ty;
        self.state = State::Start;
        self.before = 0;
        self.at = 0;
        self.cursor = Cursor::Closed;
        self.last_expiry = 0;
        self.next_name = 0;
        self.chunk_given = false;
        self.blob.restart();
        if self.scratch.capacity() > KEPT {
            self.scratch = Vec::new();
        }
        if self.is_rare {
            self.is_rare = false;
            self.inflater = None;
            self.names = None;
            self.walker = None;
            self.stream = None;
        }
    }

    pub(super) fn set_templates(&mut self, templates: Templates) {
        self.templates = Some(templates);
    }

    pub(super) fn set_offset(&mut self, offset: u64) {
        self.offset = offset;
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Where the input is consumed to, from the start of the value or file.
    pub(super) fn position(&self) -> u64 {
        self.offset + self.before + self.at as u64
    }

    /// Bytes of the input consumed.
    pub(super) fn consumed(&self) -> usize {
        self.at
    }

    /// Bytes at the start of the input that are not needed any more.
    pub(super) fn unneeded(&self) -> usize {
        if matches!(self.cursor, Cursor::Closed) { self.at } else { self.at.min(self.blob.start()) }
    }

    /// Tells that the input now starts `n` bytes later, at most [`unneeded`](Self::unneeded).
    pub(super) fn forget(&mut self, n: usize) {
        self.at -= n;
        self.before += n as u64;
        self.blob.forget(n);
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    pub(super) fn finish(&self, left_over: usize) -> Result<(), Error> {
        let offset = self.position();
        if self.state != State::Done {
            Err(Error::Truncated { offset: offset + left_over as u64, what: "a value" })
        } else if left_over > 0 {
            Err(Error::Corrupt { offset, what: "bytes are left over after the value", key: None })
        } else {
            Ok(())
        }
    }

    /// The next element in `bytes`, of which [`consumed`](Self::consumed) are. `None` when there are not enough bytes or
    /// the value is complete.
    pub(super) fn next<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Option<Element<'a>>, Error> {
        loop {
            match self.advance(bytes)? {
                Step::Found(found) => return Ok(Some(self.element(found, bytes))),
                Step::Opened => {}
                Step::End => return Ok(None),
            }
        }
    }

    /// The same for a value that is there as a whole: when no element is left that must have been all.
    pub(super) fn next_of_whole<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Option<Element<'a>>, Error> {
        loop {
            match self.advance(bytes)? {
                Step::Found(found) => return Ok(Some(self.element(found, bytes))),
                Step::Opened => {}
                Step::End => return self.finish(bytes.len() - self.at).map(|()| None),
            }
        }
    }

    /// Calls `visit` for each element that `bytes` holds. Says nothing of what follows them.
    #[inline]
    pub(super) fn each<E: From<Error>>(
        &mut self,
        bytes: &[u8],
        mut visit: impl FnMut(Element<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            self.run(bytes, &mut visit)?;
            if self.state == State::Done {
                return Ok(());
            }
            match self.advance(bytes)? {
                Step::Found(found) => visit(self.element(found, bytes))?,
                Step::Opened => {}
                Step::End => return Ok(()),
            }
        }
    }

    /// Looks for the next element, or for where many are.
    fn advance(&mut self, bytes: &[u8]) -> Result<Step, Error> {
        if std::mem::take(&mut self.chunk_given)
            && let Some(inflater) = &mut self.inflater
        {
            inflater.next_chunk();
        }
        let mut input = Input { bytes, at: self.at };
        let turned = loop {
            self.scratch.clear();
            let before = self.state;
            match self.turn(&mut input) {
                Ok(Turn::Next) if self.state.is_row() && self.state != before => break Ok(Step::Opened),
                Ok(Turn::Next) => {}
                Ok(Turn::Found(found)) => break Ok(Step::Found(found)),
                Ok(Turn::Need) => break Ok(Step::End),
                Err(fault) => break Err(fault),
            }
        };
        match turned {
            Ok(step) => {
                self.at = input.at;
                Ok(step)
            }
            Err(fault) => {
                self.state = State::Failed;
                Err(self.error(fault, input.at))
            }
        }
    }

    #[cold]
    fn error(&self, fault: Fault, at: usize) -> Error {
        let start = self.offset + self.before;
        let offset = start + at as u64;
        match fault {
            Fault::Bad(what) => Error::Corrupt { offset, what, key: None },
            Fault::Blob(BlobFault { at, what }) => {
                Error::Corrupt { offset: start + self.blob.place_of(at) as u64, what, key: None }
            }
            Fault::Limit { what, claimed, limit } => {
                Error::LimitExceeded { offset, what, claimed, limit, key: None }
            }
            Fault::Template(id) => Error::UnknownTemplate { offset, id, key: None },
            Fault::PreGa(module) => Error::PreGaModule { offset, key: Quoted::new(b""), module },
        }
    }

    fn turn(&mut self, input: &mut Input<'_>) -> Result<Turn, Fault> {
        match self.state {
            State::Start => self.start(input),
            State::Chunks => self.chunk(input),
            State::Inflate => self.inflate_chunk(input),
            State::Items | State::Members => {
                let Some(at) = self.countdown() else { return Ok(Turn::Next) };
                let loc = need!(self.text(input));
                self.left = at;
                Ok(Turn::Found(if self.state == State::Items {
                    Found::Item(loc)
                } else {
                    Found::Member(loc)
                }))
            }
            State::Pairs => {
                let Some(left) = self.countdown() else { return Ok(Turn::Next) };
                let [name, value] = need!(self.texts(input, 0));
                self.left = left;
                Ok(Turn::Found(Found::Field { name, value, expires_at: None }))
            }
            State::TextScores => self.text_score(input),
            State::Scores => {
                let Some(left) = self.countdown() else { return Ok(Turn::Next) };
                let rest = input.rest();
                let (_, size) = need!(string(rest, self.limits.element));
                let Some(bits) = wire::u64_le(&rest[size..]) else { return Ok(Turn::Need) };
                let value = f64::from_bits(bits);
                if value.is_nan() {
                    return Err(Fault::Bad(NAN));
                }
                let member = need!(self.text(input));
                input.at += 8;
                self.left = left;
                Ok(Turn::Found(Found::Scored { member, value, text: None }))
            }
            State::ExpiryFirst { relative } => {
                let Some(left) = self.countdown() else { return Ok(Turn::Next) };
                let ([time], size) = need!(lens(input.rest()));
                let expires_at = match (time, relative) {
                    (0, _) => None,
                    (time, false) => Some(time),
                    (time, true) => Some(
                        self.min_expiry
                            .checked_add(time - 1)
                            .ok_or(Fault::Bad("a field's expiry is beyond all time"))?,
                    ),
                };
                let expires_at = expires_at.map(field_expiry).transpose()?;
                let [name, value] = need!(self.texts(input, size));
                self.left = left;
                Ok(Turn::Found(Found::Field { name, value, expires_at }))
            }
            State::ExpiryLast => {
                let Some(left) = self.countdown() else { return Ok(Turn::Next) };
                let rest = input.rest();
                let (_, name) = need!(string(rest, self.limits.element));
                let (_, value) = need!(string(&rest[name..], self.limits.element));
                let Some(time) = wire::u64_le(&rest[name + value..]) else { return Ok(Turn::Need) };
                let expires_at = match time as i64 {
                    -1 => None,
                    ..-1 => return Err(Fault::Bad("a field's expiry is below -1")),
                    time => Some(field_expiry(time as u64)?),
                };
                let [name, value] = need!(self.texts(input, 0));
                input.at += 8;
                self.left = left;
                Ok(Turn::Found(Found::Field { name, value, expires_at }))
            }
            State::ArrayItems => self.array_item(input),
            State::Nodes { kinds } => self.node(input, kinds),
            State::Blob => self.blob_element(input),
            State::TemplateNames => self.template_name(input),
            State::TemplateBlob => self.template_blob(input),
            State::TemplateListpack | State::TemplateValues => self.template_value(input),
            State::Opaque => self.opaque(input),
            State::Stream => stream::turn(self, input),
            State::Done => Ok(Turn::Need),
            State::Failed => Err(Fault::Bad("the value failed to decode before")),
        }
    }

    fn start(&mut self, input: &mut Input<'_>) -> Result<Turn, Fault> {
        use ValueType as T;
        match self.ty {
            T::String => self.start_string(input),
            T::List => self.counted(input, 0, State::Items),
            T::Set => self.counted(input, 0, State::Members),
            T::ZsetText => self.counted(input, 0, State::TextScores),
            T::Zset => self.counted(input, 0, State::Scores),
            T::Hash => self.counted(input, 0, State::Pairs),
            T::HashTtlPreGa => self.counted(input, 0, State::ExpiryFirst { relative: false }),
            T::HashValkey => self.counted(input, 0, State::ExpiryLast),
            T::HashTtl => {
                let Some(min) = wire::u64_le(input.rest()) else { return Ok(Turn::Need) };
                self.min_expiry = min;
                self.counted(input, 8, State::ExpiryFirst { relative: true })
            }
            T::ListQuicklist => self.counted(input, 0, State::Nodes { kinds: false }),
            T::ListQuicklist2 => self.counted(input, 0, State::Nodes { kinds: true }),
            T::HashZipmap
            | T::ListZiplist
            | T::SetIntset
            | T::ZsetZiplist
            | T::HashZiplist
            | T::HashListpack
            | T::ZsetListpack
            | T::SetListpack
            | T::HashListpackTtlPreGa => self.only_blob(input, 0),
            T::HashListpackTtl => self.only_blob(input, 8),
            T::Array => self.start_array(input),
            T::HashTemplateListpack | T::HashTemplateArray => self.start_template(input),
            T::HashTemplateListpackRef => {
                self.state = State::TemplateBlob;
                Ok(Turn::Next)
            }
            T::HashTemplateArrayRef => {
                let ([id], size) = need!(lens(input.rest()));
                self.look_up(id)?;
                input.at += size;
                self.state = State::TemplateValues;
                Ok(Turn::Next)
            }
            T::Stream | T::Stream2 | T::Stream3 | T::Stream4 | T::Stream5 => {
                self.is_rare = true;
                self.stream = Some(Box::new(Stream::new(self.ty)));
                self.state = State::Stream;
                Ok(Turn::Next)
            }
            T::RateLimiter => {
                let ([time], size) = need!(lens(input.rest()));
                input.at += size;
                self.state = State::Done;
                Ok(Turn::Found(Found::RateLimit(time)))
            }
            T::ModulePreGa => {
                let ([id], _) = need!(lens(input.rest()));
                Err(Fault::PreGa(ModuleId(id)))
            }
            T::Module | T::CronJob => {
                self.is_rare = true;
                self.walker = Some(Box::new(Walker::new(walk::value_layout(self.ty))));
                self.state = State::Opaque;
                Ok(Turn::Next)
            }
        }
    }

    pub(super) fn done(&mut self) -> Turn {
        self.state = State::Done;
        Turn::Next
    }

    /// Takes the count of elements, `skip` bytes into the input.
    fn counted(&mut self, input: &mut Input<'_>, skip: usize, state: State) -> Result<Turn, Fault> {
        let Some(rest) = input.rest().get(skip..) else { return Ok(Turn::Need) };
        let ([n], size) = need!(lens(rest));
        input.at += skip + size;
        self.left = n;
        self.state = state;
        Ok(Turn::Next)
    }

    /// How many are left after the one that comes now. When none comes the value is done.
    fn countdown(&mut self) -> Option<u64> {
        let left = self.left.checked_sub(1);
        if left.is_none() {
            self.state = State::Done;
        }
        left
    }

    /// Takes a string.
    pub(super) fn text(&mut self, input: &mut Input<'_>) -> Token<Loc> {
        let Some((head, size)) = string(input.rest(), self.limits.element)? else { return Ok(None) };
        let loc = decode(input, head, &mut self.scratch)?;
        input.at += size;
        Ok(Some(loc))
    }

    /// The bytes of a string that was taken.
    pub(super) fn bytes<'a>(&'a self, input: &Input<'a>, loc: Loc) -> &'a [u8] {
        self.sources(input.bytes).get(loc)
    }

    /// Takes `skip` bytes and two strings.
    fn texts(&mut self, input: &mut Input<'_>, skip: usize) -> Token<[Loc; 2]> {
        let rest = &input.rest()[skip..];
        let Some((first, size)) = string(rest, self.limits.element)? else { return Ok(None) };
        let Some((second, end)) = string(&rest[size..], self.limits.element)? else { return Ok(None) };
        input.at += skip;
        let first = decode(input, first, &mut self.scratch)?;
        input.at += size;
        let second = decode(input, second, &mut self.scratch)?;
        input.at += end;
        Ok(Some([first, second]))
    }

    fn text_score(&mut self, input: &mut Input<'_>) -> Result<Turn, Fault> {
        let Some(left) = self.countdown() else { return Ok(Turn::Next) };
        let rest = input.rest();
        let (_, size) = need!(string(rest, self.limits.element));
        let (value, text, len) = match rest[size..] {
            [] => return Ok(Turn::Need),
            [253, ..] => return Err(Fault::Bad(NAN)),
            [254, ..] => (f64::INFINITY, None, 1),
            [255, ..] => (f64::NEG_INFINITY, None, 1),
            [n, ref rest @ ..] => {
                let Some(text) = rest.get(..usize::from(n)) else { return Ok(Turn::Need) };
                let value = number::parse_score(text).ok_or(Fault::Bad(NOT_A_SCORE))?;
                (value, Some(Loc::Input { at: input.at + size + 1, len: text.len() }), 1 + text.len())
            }
        };
        let member = need!(self.text(input));
        input.at += len;
        self.left = left;
        Ok(Turn::Found(Found::Scored { member, value, text }))
    }

    fn start_array(&mut self, input: &mut Input<'_>) -> Result<Turn, Fault> {
        let ([count, has_cursor], size) = need!(lens(input.rest()));
        let (cursor, more) = match has_cursor {
            0 => (None, 0),
            1 => {
                let ([cursor], more) = need!(lens(&input.rest()[size..]));
                (Some(cursor), more)
            }
            _ => return Err(Fault::Bad("the flag for an array's cursor is neither 0 nor 1")),
        };
        input.at += size + more;
        self.left = count;
        self.state = State::ArrayItems;
        Ok(cursor.map_or(Turn::Next, |cursor| Turn::Found(Found::ArrayCursor(cursor))))
    }

    fn array_item(&mut self, input: &mut Input<'_>) -> Result<Turn, Fault> {
        let Some(left) = self.countdown() else { return Ok(Turn::Next) };
        let ([index, tag], size) = need!(lens(input.rest()));
        if index == u64::MAX {
            return Err(Fault::Bad("an array index is out of range"));
        }
        let value = match tag {
            0 | 3 => {
                let rest = &input.rest()[size..];
                let (head, len) = need!(string(rest, self.limits.element));
                input.at += size;
                let value = decode(input, head, &mut self.scratch)?;
                input.at += len;
                value
            }
            1 | 2 => {
                let Some(bits) = wire::u64_le(&input.rest()[size..]) else { return Ok(Turn::Need) };
                input.at += size + 8;
                if tag == 1 {
                    push_int(&mut self.scratch, bits as i64);
                } else {
                    number::push_double(&mut self.scratch, f64::from_bits(bits));
                }
                Loc::Scratch { at: 0, len: self.scratch.len() }
            }
            _ => return Err(Fault::Bad("unknown kind of array element")),
        };
        self.left = left;
        Ok(Turn::Found(Found::ArrayItem { index, value }))
    }

    fn opaque(&mut self, input: &mut Input<'_>) -> Result<Turn, Fault> {
        let Some(walker) = &mut self.walker else { return Ok(self.done()) };
        let at = input.at;
        let (len, ended) = walker.run(input.rest(), &TemplateSizes::new());
        input.at += len;
        match ended {
            Ok(Ended::Done) => self.state = State::Done,
            Ok(Ended::Need) if len == 0 => return Ok(Turn::Need),
            Ok(Ended::Need) => {}
            // What was passed before is given first; the walk meets the fault again.
            Err(_) if len > 0 => {}
            Err(walk::Fault::Bad(what)) => return Err(Fault::Bad(what)),
            Err(walk::Fault::PreGa(module)) => return Err(Fault::PreGa(module)),
            Err(walk::Fault::UnknownTemplate(id)) => return Err(Fault::Template(id)),
        }
        Ok(Turn::Found(Found::Opaque(Loc::Input { at, len })))
    }
}

const NAN: &str = "a score is not a number";
const NOT_A_SCORE: &str = "the text of a score is no number";

fn field_expiry(time: u64) -> Result<i64, Fault> {
    if time > MAX_FIELD_EXPIRY {
        return Err(Fault::Bad("a field's expiry is beyond what servers hold"));
    }
    Ok(time as i64)
}

fn push_int(scratch: &mut Vec<u8>, n: i64) {
    scratch.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Decodes the string at the input's position, which is all there.
fn decode(input: &Input<'_>, head: StrHead, scratch: &mut Vec<u8>) -> Result<Loc, Fault> {
    let at = input.at + head.head;
    let payload = &input.bytes[at..at + head.payload as usize];
    match text::decode(payload, head, at, usize::MAX, scratch) {
        Ok(text::Place::Buffer { at, len }) => Ok(Loc::Input { at, len }),
        Ok(text::Place::Scratch { at, len }) => Ok(Loc::Scratch { at, len }),
        Err(text::Fault::Bad(what)) => Err(Fault::Bad(what)),
        Err(text::Fault::Limit { claimed, limit }) => {
            Err(Fault::Limit { what: "length of an element", claimed, limit })
        }
    }
}
