//! Reading keys of one side in bulk.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use keyferry_client::{Frame, Pipeline};
use keyferry_rdb::Kind;
use keyferry_resp::{ErrorCode, ErrorReply};

use super::nodes::{Channel, deadline};
use crate::cutoff::now;
use crate::error::Error;

/// Bytes of values that one batch of commands should not make a server hold at once.
const WINDOW: u64 = 64 << 20;
/// Strings in one command before it is known how long they are.
const CAREFUL: u64 = 64;
/// Strings after which it is known how long they are.
const KNOWN: u64 = 1000;

/// How long the values are that were seen: how many can be asked for at once.
#[derive(Debug, Default)]
pub(crate) struct Lengths {
    seen: AtomicU64,
    longest: AtomicU64,
}

impl Lengths {
    /// How many to ask for at once.
    pub(crate) fn chunk(&self) -> usize {
        let longest = self.longest.load(Ordering::Relaxed).max(1);
        let most = if self.seen.load(Ordering::Relaxed) < KNOWN { CAREFUL } else { u64::MAX };
        usize::try_from((WINDOW / longest).clamp(1, most)).unwrap_or(usize::MAX)
    }

    fn saw(&self, texts: &[Option<Bytes>]) {
        let longest = texts.iter().flatten().map(Bytes::len).max().unwrap_or(0);
        self.saw_so_many(texts.len(), longest);
    }

    /// Takes note of values, of which the longest has so many bytes.
    pub(crate) fn saw_so_many(&self, count: usize, longest: usize) {
        self.seen.fetch_add(count as u64, Ordering::Relaxed);
        self.longest.fetch_max(longest as u64, Ordering::Relaxed);
    }
}

/// When a key expires, as far as it was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Deadline {
    /// Nobody asked, since no key of the database expires.
    #[default]
    Unasked,
    /// There is no such key.
    NoKey,
    Never,
    /// In milliseconds since the Unix epoch.
    At(i64),
}

impl Deadline {
    /// When it expires, if it does.
    pub(crate) fn at(self) -> Option<i64> {
        match self {
            Self::At(at) => Some(at),
            _ => None,
        }
    }

    fn read(frame: &Frame, absolute: bool, before: i64) -> Result<Self, Unexpected> {
        let told = frame.as_i64().ok_or_else(|| Unexpected(describe(frame)))?;
        Ok(Self::of(told, absolute, before))
    }

    /// What a server told: a time, or how long a key had left when it was asked after `before`.
    pub(super) fn of(told: i64, absolute: bool, before: i64) -> Self {
        match told {
            -2 => Self::NoKey,
            -1 => Self::Never,
            at if absolute => Self::At(at),
            left => Self::At(deadline(before, left)),
        }
    }
}

/// Strings, and when keys expire.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    /// `None` for what is no string.
    pub(crate) texts: Vec<Option<Bytes>>,
    pub(crate) deadlines: Vec<Deadline>,
}

/// What a value is like, without looking into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    #[default]
    Missing,
    Text,
    /// In a compact encoding, or a value of a module: taken as a whole.
    Small,
    /// A list that may be long.
    List,
    /// A set or hash that may be long.
    Table,
    /// It may be anything from a few elements to millions of them.
    Large,
}

/// A reply that no server should give; becomes [`Error::Refused`] with the name of the side.
#[derive(Debug)]
pub(crate) struct Unexpected(pub(crate) String);

pub(crate) fn describe(frame: &Frame) -> String {
    match frame.error() {
        Some(text) => ErrorReply::new(text.clone()).to_string(),
        None => {
            let text = format!("{frame:?}");
            text.chars().take(200).collect()
        }
    }
}

impl Channel {
    pub(crate) fn unexpected(&self, wrong: Unexpected) -> Error {
        Error::Refused { side: self.side().name().to_owned(), reply: wrong.0 }
    }

    /// The strings among the keys, and when keys expire if `deadlines` are wanted.
    pub(crate) async fn texts(
        &mut self,
        keys: &[Bytes],
        deadlines: bool,
        lengths: &Lengths,
    ) -> Result<Texts, Error> {
        let mut all = Texts::default();
        let mut rest = keys;
        while !rest.is_empty() {
            let (chunk, more) = rest.split_at(lengths.chunk().min(rest.len()));
            rest = more;
            let before = now();
            let (absolute, question) = (self.side().tells_deadlines(), self.question());
            let (texts, replies) = if self.is_single() {
                let mut pipeline = Pipeline::new();
                let mget = chunk.iter().map(|key| &key[..]);
                let args: Vec<&[u8]> = std::iter::once(&b"MGET"[..]).chain(mget).collect();
                pipeline.push(args);
                if deadlines {
                    for key in chunk {
                        pipeline.push([question.as_bytes(), key]);
                    }
                }
                let mut replies = self.single(&pipeline).await?;
                let deadlines = replies.split_off(1);
                let texts = replies.pop().map_or(Ok(Vec::new()), |frame| match frame {
                    Frame::Array(texts) if texts.len() == chunk.len() => Ok(texts),
                    other => Err(self.unexpected(Unexpected(describe(&other)))),
                })?;
                (texts, deadlines)
            } else {
                let each = if deadlines { 2 } else { 1 };
                let replies = self
                    .each(
                        chunk.len() * each,
                        |number| &chunk[number / each],
                        |number, pipeline| {
                            let word = if number % each == 0 { "GET" } else { question };
                            pipeline.push([word.as_bytes(), &chunk[number / each]]);
                        },
                    )
                    .await?;
                let (mut texts, mut ends) = (Vec::with_capacity(chunk.len()), Vec::new());
                for (number, reply) in replies.into_iter().enumerate() {
                    if number % each == 0 { texts.push(reply) } else { ends.push(reply) }
                }
                (texts, ends)
            };
            let from = all.texts.len();
            for frame in texts {
                let text = match frame {
                    Frame::Null(_) => None,
                    frame if is_wrong_type(&frame) => None,
                    frame if frame.is_error() => return Err(self.unexpected(Unexpected(describe(&frame)))),
                    frame => frame.into_bytes(),
                };
                all.texts.push(text);
            }
            lengths.saw(&all.texts[from..]);
            if deadlines {
                for frame in &replies {
                    let end = Deadline::read(frame, absolute, before).map_err(|e| self.unexpected(e))?;
                    all.deadlines.push(end);
                }
            }
        }
        all.deadlines.resize(keys.len(), Deadline::Unasked);
        Ok(all)
    }

    /// The command that tells when a key expires.
    pub(crate) fn question(&self) -> &'static str {
        if self.side().tells_deadlines() { "PEXPIRETIME" } else { "PTTL" }
    }

    /// When keys expire.
    pub(crate) async fn deadlines(&mut self, keys: &[Bytes]) -> Result<Vec<Deadline>, Error> {
        let (before, absolute, question) = (now(), self.side().tells_deadlines(), self.question());
        let replies = self.ask(keys, |key, pipeline| _ = pipeline.push([question.as_bytes(), key])).await?;
        let read = |frame: &Frame| Deadline::read(frame, absolute, before).map_err(|e| self.unexpected(e));
        replies.iter().map(read).collect()
    }

    /// What the values are like.
    pub(crate) async fn shapes(&mut self, keys: &[Bytes]) -> Result<Vec<Shape>, Error> {
        let replies = self.ask(keys, |key, p| _ = p.push([b"OBJECT", &b"ENCODING"[..], key])).await?;
        let shape = |frame: &Frame| match frame {
            Frame::Null(_) => Shape::Missing,
            frame => match frame.as_bytes().map(|word| &word[..]) {
                Some(b"int" | b"embstr") => Shape::Text,
                // Module values are `raw`, too, and so are long strings.
                Some(b"raw" | b"listpack" | b"ziplist" | b"intset" | b"zipmap" | b"listpackex") => {
                    Shape::Small
                }
                Some(b"quicklist") => Shape::List,
                Some(b"hashtable") => Shape::Table,
                // What this program does not know may be large, and so may anything where the question is refused.
                _ => Shape::Large,
            },
        };
        Ok(replies.iter().map(shape).collect())
    }

    /// The types of the values; `None` for keys that are not there. Types of modules are [`Kind::Module`].
    pub(crate) async fn kinds(&mut self, keys: &[Bytes]) -> Result<Vec<Option<Kind>>, Error> {
        let replies = self.ask(keys, |key, pipeline| _ = pipeline.push([&b"TYPE"[..], key])).await?;
        replies
            .iter()
            .map(|frame| match (frame.error(), frame.as_str()) {
                (None, Some("none")) => Ok(None),
                (None, Some(name)) => Ok(Some(Kind::from_name(name).unwrap_or(Kind::Module))),
                _ => Err(self.unexpected(Unexpected(describe(frame)))),
            })
            .collect()
    }

    /// How many elements, or bytes of a string, values of these types have; 0 for what has no length. `None` when the key is
    /// gone or of another type by now.
    pub(crate) async fn lengths(
        &mut self,
        keys: &[Bytes],
        kinds: &[Option<Kind>],
    ) -> Result<Vec<Option<u64>>, Error> {
        let word = |number: usize| match kinds.get(number).copied().flatten() {
            Some(Kind::String) => "STRLEN",
            Some(Kind::List) => "LLEN",
            Some(Kind::Set) => "SCARD",
            Some(Kind::SortedSet) => "ZCARD",
            Some(Kind::Hash) => "HLEN",
            Some(Kind::Stream) => "XLEN",
            Some(Kind::Array) => "ARCOUNT",
            _ => "EXISTS",
        };
        let replies = self
            .each(
                keys.len(),
                |number| &keys[number],
                |number, pipeline| _ = pipeline.push([word(number).as_bytes(), &keys[number]]),
            )
            .await?;
        let read = |(number, frame): (usize, &Frame)| match (frame.as_i64(), word(number)) {
            (Some(0), "EXISTS") => Ok(None),
            (Some(_), "EXISTS") => Ok(Some(0)),
            (Some(0), "STRLEN") | (Some(1..), _) => Ok(frame.as_i64().map(i64::cast_unsigned)),
            // A stream may be empty; anything else is gone then.
            (Some(0), "XLEN") => Ok(Some(0)),
            (Some(_), _) => Ok(None),
            (None, _) if is_wrong_type(frame) => Ok(None),
            (None, _) => Err(self.unexpected(Unexpected(describe(frame)))),
        };
        replies.iter().enumerate().map(read).collect()
    }

    /// About how many bytes values take; `None` where the server does not say.
    pub(crate) async fn sizes(&mut self, keys: &[Bytes]) -> Result<Vec<Option<u64>>, Error> {
        let replies = self
            .ask(keys, |key, pipeline| _ = pipeline.push([b"MEMORY", &b"USAGE"[..], key, b"SAMPLES", b"8"]))
            .await?;
        Ok(replies.iter().map(|frame| frame.as_i64().map(i64::cast_unsigned)).collect())
    }

    /// Whether the keys are there.
    pub(crate) async fn present(&mut self, keys: &[Bytes]) -> Result<Vec<bool>, Error> {
        if self.is_single() && keys.len() > 1 {
            // Mostly all are there, which one command tells.
            let mut pipeline = Pipeline::new();
            let all: Vec<&[u8]> =
                std::iter::once(&b"EXISTS"[..]).chain(keys.iter().map(|key| &key[..])).collect();
            pipeline.push(all);
            let reply = self.single(&pipeline).await?;
            if reply.first().and_then(Frame::as_i64) == i64::try_from(keys.len()).ok() {
                return Ok(vec![true; keys.len()]);
            }
        }
        let replies = self.ask(keys, |key, pipeline| _ = pipeline.push([&b"EXISTS"[..], key])).await?;
        let read = |frame: &Frame| match frame.as_i64() {
            Some(count) => Ok(count > 0),
            None => Err(self.unexpected(Unexpected(describe(frame)))),
        };
        replies.iter().map(read).collect()
    }

    /// Values as `DUMP` gives them: the error of those that the server refuses.
    pub(crate) async fn payloads(&mut self, keys: &[Bytes]) -> Result<Vec<Payload>, Error> {
        let replies = self.ask(keys, |key, pipeline| _ = pipeline.push([&b"DUMP"[..], key])).await?;
        let read = |frame: Frame| match frame {
            Frame::Null(_) => Payload::Missing,
            frame if frame.is_error() => Payload::Refused,
            frame => frame.into_bytes().map_or(Payload::Refused, Payload::Whole),
        };
        Ok(replies.into_iter().map(read).collect())
    }

    /// One command for each key.
    async fn ask(
        &mut self,
        keys: &[Bytes],
        command: impl Fn(&[u8], &mut Pipeline),
    ) -> Result<Vec<Frame>, Error> {
        let push = |number: usize, pipeline: &mut Pipeline| command(&keys[number], pipeline);
        if !self.is_single() {
            return self.each(keys.len(), |number| &keys[number], push).await;
        }
        let mut pipeline = Pipeline::new();
        (0..keys.len()).for_each(|number| push(number, &mut pipeline));
        self.single(&pipeline).await
    }
}

/// What `DUMP` gave.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Missing,
    /// The server does not let values out in this way.
    Refused,
    Whole(Bytes),
}

pub(crate) fn is_wrong_type(frame: &Frame) -> bool {
    frame.error().is_some_and(|text| ErrorReply::new(text.clone()).kind() == ErrorCode::WrongType)
}
