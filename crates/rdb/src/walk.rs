//! Finding where a value or record ends, over bytes that arrive in any pieces.
//!
//! Each layout is a short program of [`Op`]s. A [`Walker`] runs one and keeps where it stands, so no byte is looked
//! at again once it was passed. Only a token (a length, a string header, a fixed-width number) waits until its few
//! bytes are all there; the contents of strings are skipped as they come.

use std::collections::HashMap;

use crate::blob::listpack;
use crate::types::{ModuleId, ValueType};
use crate::wire::{self, Stop, StrForm};

/// One step of a layout.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// A length or number.
    Len,
    /// A string.
    Str,
    /// This many bytes.
    Raw(u8),
    /// A count, then `per` strings for each, each string followed by `raw` bytes.
    Strs { per: u8, raw: u8 },
    /// A count, then that many times this many bytes.
    Raws(u8),
    /// A count, then that many times these steps. The steps take at least one byte.
    Rep(&'static [Op]),
    /// The same with a flag, and a number when it is set, between the count and the steps.
    OptLenRep(&'static [Op]),
    /// A score as text: a length byte below 253 and that many bytes, or one of three marks.
    TextFloat,
    /// Kind of a quicklist node: 1 or 2.
    Container,
    /// A flag and, when it is set, a string.
    OptStr,
    /// An array element: index, tag, payload by tag.
    ArrayElement,
    /// Module opcodes up to their end mark.
    ModuleOps,
    /// The field names of a self-contained template, to be passed over.
    TemplateFields,
    /// The same, and then as many strings as there are field names.
    TemplateFieldsThenValues,
    /// The number of a template, then as many strings as it has field names.
    TemplateRefThenValues,
    /// A module id and bytes without a readable end.
    Opaque,
}

use Op::{
    ArrayElement, Container, Len, ModuleOps, Opaque, OptLenRep, OptStr, Raw, Raws, Rep, Str, Strs,
    TemplateFields, TemplateFieldsThenValues, TemplateRefThenValues, TextFloat,
};

const STRINGS: &[Op] = &[Strs { per: 1, raw: 0 }];
const PAIRS: &[Op] = &[Strs { per: 2, raw: 0 }];
/// The nodes of a stream: master id and listpack each.
const NODES: Op = Strs { per: 2, raw: 0 };
/// The group's own list of pending entries: id, delivery time, delivery count.
const PENDING: Op = Rep(&[Raw(24), Len]);
const IDMP_PRODUCERS: Op = Rep(&[Str, Rep(&[Str, Len, Len])]);

/// The steps of a value of type `ty`, type byte not included.
pub(crate) const fn value_layout(ty: ValueType) -> &'static [Op] {
    use ValueType as T;
    match ty {
        T::String
        | T::HashZipmap
        | T::ListZiplist
        | T::SetIntset
        | T::ZsetZiplist
        | T::HashZiplist
        | T::HashListpack
        | T::ZsetListpack
        | T::SetListpack
        | T::HashListpackTtlPreGa
        | T::HashTemplateListpackRef => &[Str],
        T::List | T::Set | T::ListQuicklist => STRINGS,
        T::Hash => PAIRS,
        T::ZsetText => &[Rep(&[Str, TextFloat])],
        T::Zset => &[Strs { per: 1, raw: 8 }],
        T::ModulePreGa => &[Opaque],
        T::Module => &[Len, ModuleOps],
        T::ListQuicklist2 => &[Rep(&[Container, Str])],
        T::HashTtlPreGa => &[Rep(&[Len, Str, Str])],
        T::HashValkey => &[Rep(&[Str, Str, Raw(8)])],
        T::HashTtl => &[Raw(8), Rep(&[Len, Str, Str])],
        T::HashListpackTtl => &[Raw(8), Str],
        T::Array => &[OptLenRep(&[ArrayElement])],
        T::HashTemplateListpack => &[TemplateFields, Str],
        T::HashTemplateArray => &[TemplateFieldsThenValues],
        T::HashTemplateArrayRef => &[TemplateRefThenValues],
        T::RateLimiter => &[Len],
        T::CronJob => &[Str, Raw(16), Strs { per: 1, raw: 0 }, Strs { per: 1, raw: 0 }],
        T::Stream => &[NODES, Len, Len, Len, Rep(&[Str, Len, Len, PENDING, Rep(&[Str, Raw(8), Raws(16)])])],
        T::Stream2 => &[
            NODES,
            Len,
            Len,
            Len,
            Len,
            Len,
            Len,
            Len,
            Len,
            Rep(&[Str, Len, Len, Len, PENDING, Rep(&[Str, Raw(8), Raws(16)])]),
        ],
        T::Stream3 => &[
            NODES,
            Len,
            Len,
            Len,
            Len,
            Len,
            Len,
            Len,
            Len,
            Rep(&[Str, Len, Len, Len, PENDING, Rep(&[Str, Raw(16), Raws(16)])]),
        ],
        T::Stream4 => &[
            NODES,
            Len,
            Len,
            Len,
            Len,
            Len,
            Len,
            Len,
            Len,
            Rep(&[Str, Len, Len, Len, PENDING, Rep(&[Str, Raw(16), Raws(16)])]),
            Len,
            Len,
            IDMP_PRODUCERS,
            Len,
            Len,
        ],
        T::Stream5 => &[
            NODES,
            Len,
            Len,
            Len,
            Len,
            Len,
            Len,
            Len,
            Len,
            Rep(&[Str, Len, Len, Len, PENDING, Rep(&[Str, Raw(16), Raws(16)]), Raws(16)]),
            Len,
            Len,
            IDMP_PRODUCERS,
            Len,
            Len,
        ],
    }
}

/// Steps of the records that are not keys, opcode not included.
pub(crate) mod record {
    use super::Op::{self, Len, ModuleOps, OptStr, Raw, Rep, Str, Strs};

    pub(crate) const ONE_LEN: &[Op] = &[Len];
    pub(crate) const TWO_LENS: &[Op] = &[Len, Len];
    pub(crate) const THREE_LENS: &[Op] = &[Len, Len, Len];
    pub(crate) const ONE_STR: &[Op] = &[Str];
    pub(crate) const TWO_STRS: &[Op] = &[Str, Str];
    pub(crate) const FUNCTION_PRE_GA: &[Op] = &[Str, Str, OptStr, Str];
    pub(crate) const MODULE_AUX: &[Op] = &[Len, Len, Len, ModuleOps];
    pub(crate) const KEY_META: &[Op] = &[Rep(&[Raw(4), ModuleOps])];
    pub(crate) const SLOT_IMPORT: &[Op] = &[Str, Rep(&[Len, Len])];
    pub(crate) const HASH_TEMPLATE: &[Op] = &[Len, Strs { per: 1, raw: 0 }];
}

/// Number of field names by template number.
pub(crate) type TemplateSizes = HashMap<u64, u64>;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The layout is complete.
    Done,
    /// The bytes ended first.
    Need,
}

/// Why a run failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Bad(&'static str),
    PreGa(ModuleId),
    UnknownTemplate(u64),
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    steps: &'static [Op],
    at: u8,
    /// Rounds left, the running one included.
    rounds: u64,
}

/// Deepest nesting of `Rep` in any layout, plus one.
const DEPTH: usize = 3;

/// The state of a walk.
#[derive(Clone, Debug)]
pub(crate) struct Walker {
    /// Bytes to pass before the next token.
    skip: u64,
    /// Strings to pass before the next step, each followed by `raw` bytes.
    strings: u64,
    raw: u64,
    depth: usize,
    frames: [Frame; DEPTH],
}

impl Walker {
    pub(crate) const fn new(layout: &'static [Op]) -> Self {
        let frame = Frame { steps: layout, at: 0, rounds: 1 };
        Self { skip: 0, strings: 0, raw: 0, depth: 0, frames: [frame; DEPTH] }
    }

    /// Starts over with another layout.
    #[inline]
    pub(crate) fn restart(&mut self, layout: &'static [Op]) {
        self.skip = 0;
        self.strings = 0;
        self.depth = 0;
        self.frames[0] = Frame { steps: layout, at: 0, rounds: 1 };
    }

    /// Bytes that must come before the walk can go on by more than skipping.
    pub(crate) fn skipping(&self) -> u64 {
        self.skip
    }

    /// Walks over `b`, which continues where the last run stopped. Gives the number of bytes passed and how it
    /// ended; on a fault the number of bytes before the faulty token.
    pub(crate) fn run(&mut self, b: &[u8], templates: &TemplateSizes) -> (usize, Result<Ended, Fault>) {
        let mut i = 0;
        let ended = self.go(b, &mut i, templates);
        (
            i,
            match ended {
                Ok(()) => Ok(Ended::Done),
                Err(Halt::Need) => Ok(Ended::Need),
                Err(Halt::Fault(fault)) => Err(fault),
            },
        )
    }

    fn go(&mut self, b: &[u8], at: &mut usize, templates: &TemplateSizes) -> Result<(), Halt> {
        loop {
            if self.skip > 0 {
                let take = self.skip.min((b.len() - *at) as u64);
                *at += take as usize;
                self.skip -= take;
                if self.skip > 0 {
                    return Err(Halt::Need);
                }
            }
            if self.strings > 0 {
                self.pass_strings(b, at)?;
                continue;
            }
            let frame = &mut self.frames[self.depth];
            let Some(&op) = frame.steps.get(usize::from(frame.at)) else {
                if frame.rounds > 1 {
                    frame.rounds -= 1;
                    frame.at = 0;
                } else if self.depth > 0 {
                    self.depth -= 1;
                } else {
                    return Ok(());
                }
                continue;
            };
            *at += self.step(op, &b[*at..], templates)?;
        }
    }

    /// Takes one step at the start of `rest`: reads its token, notes what to pass, and moves on to the next step.
    fn step(&mut self, op: Op, rest: &[u8], templates: &TemplateSizes) -> Result<usize, Halt> {
        let mut again = false;
        let mut inner = None;
        let size = match op {
            Len => wire::len(rest)?.1,
            Str => self.string(rest)?,
            Raw(n) => {
                self.skip = u64::from(n);
                0
            }
            Strs { per, raw } => {
                let (n, size) = count(rest)?;
                self.strings = times(n, per)?;
                self.raw = u64::from(raw);
                size
            }
            Raws(width) => {
                let (n, size) = count(rest)?;
                self.skip = times(n, width)?;
                size
            }
            Rep(steps) => {
                let (rounds, size) = count(rest)?;
                inner = Some((steps, rounds));
                size
            }
            OptLenRep(steps) => {
                let (rounds, size) = count(rest)?;
                inner = Some((steps, rounds));
                size + match wire::len(&rest[size..])? {
                    (0, flag) => flag,
                    (1, flag) => flag + wire::len(&rest[size + flag..])?.1,
                    _ => return Err(Halt::bad(BAD_FLAG)),
                }
            }
            TextFloat => {
                let &n = rest.first().ok_or(Halt::Need)?;
                self.skip = if n < 253 { u64::from(n) } else { 0 };
                1
            }
            Container => match wire::len(rest)? {
                (1 | 2, size) => size,
                _ => return Err(Halt::bad("a quicklist node is neither plain (1) nor packed (2)")),
            },
            OptStr => match wire::len(rest)? {
                (0, size) => size,
                (1, size) => size + self.string(&rest[size..])?,
                _ => return Err(Halt::bad(BAD_FLAG)),
            },
            ArrayElement => {
                let (_, index) = wire::len(rest)?;
                let (tag, size) = wire::len(&rest[index..])?;
                let size = index + size;
                size + match tag {
                    0 | 3 => self.string(&rest[size..])?,
                    1 | 2 => {
                        self.skip = 8;
                        0
                    }
                    _ => return Err(Halt::bad("unknown kind of array element")),
                }
            }
            ModuleOps => {
                let (opcode, size) = wire::len(rest)?;
                again = opcode != 0;
                size + match opcode {
                    0 => 0,
                    1 | 2 => wire::len(&rest[size..])?.1,
                    3 | 4 => {
                        self.skip = 4 * (opcode - 2);
                        0
                    }
                    5 => self.string(&rest[size..])?,
                    _ => return Err(Halt::bad("unknown module opcode")),
                }
            }
            TemplateFields => match wire::len(rest)? {
                (0, form) => form + self.string(&rest[form..])?,
                (1, form) => {
                    let (n, size) = count(&rest[form..])?;
                    self.strings = n;
                    self.raw = 0;
                    form + size
                }
                _ => return Err(Halt::bad(BAD_FIELDS)),
            },
            TemplateFieldsThenValues => match wire::len(rest)? {
                // How many values follow is written in the listpack only, which therefore must be there as a whole.
                (0, form) => {
                    let (n, size) = listpack_count(&rest[form..])?;
                    self.strings = n;
                    self.raw = 0;
                    form + size
                }
                (1, form) => {
                    let (n, size) = count(&rest[form..])?;
                    self.strings = times(n, 2)?;
                    self.raw = 0;
                    form + size
                }
                _ => return Err(Halt::bad(BAD_FIELDS)),
            },
            TemplateRefThenValues => {
                let (id, size) = wire::len(rest)?;
                self.strings = *templates.get(&id).ok_or(Halt::Fault(Fault::UnknownTemplate(id)))?;
                self.raw = 0;
                size
            }
            Opaque => {
                let (id, _) = wire::len(rest)?;
                return Err(Halt::Fault(Fault::PreGa(ModuleId(id))));
            }
        };
        if !again {
            self.frames[self.depth].at += 1;
        }
        if let Some((steps, rounds)) = inner
            && rounds > 0
        {
            self.depth += 1;
            self.frames[self.depth] = Frame { steps, at: 0, rounds };
        }
        Ok(size)
    }

    /// Reads the header of a string and notes its payload for skipping.
    #[inline]
    fn string(&mut self, rest: &[u8]) -> Result<usize, Halt> {
        let head = wire::str_head(rest)?;
        self.skip = head.payload;
        Ok(head.head)
    }

    /// Passes strings until none is left or the bytes end.
    fn pass_strings(&mut self, b: &[u8], at: &mut usize) -> Result<(), Halt> {
        let mut i = *at;
        let mut left = self.strings;
        let ended = loop {
            if left == 0 {
                break Ok(());
            }
            let head = match wire::str_head(&b[i..]) {
                Ok(head) => head,
                Err(stop) => break Err(Halt::from(stop)),
            };
            i += head.head;
            left -= 1;
            let size = head.payload.saturating_add(self.raw);
            if size > (b.len() - i) as u64 {
                self.skip = size;
                break Ok(());
            }
            i += size as usize;
        };
        *at = i;
        self.strings = left;
        ended
    }
}

const HUGE_COUNT: &str = "a count is larger than any data can be";
const BAD_FLAG: &str = "a flag is neither 0 nor 1";
const BAD_FIELDS: &str = "the field names of a template are in no known form";

enum Halt {
    Need,
    Fault(Fault),
}

impl Halt {
    const fn bad(what: &'static str) -> Self {
        Self::Fault(Fault::Bad(what))
    }
}

impl From<Stop> for Halt {
    #[inline]
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Need => Self::Need,
            Stop::Bad(what) => Self::bad(what),
        }
    }
}

/// A count. All ones is what servers use for "error", so none of them accepts it.
fn count(b: &[u8]) -> Result<(u64, usize), Halt> {
    match wire::len(b)? {
        (u64::MAX, _) => Err(Halt::bad(HUGE_COUNT)),
        counted => Ok(counted),
    }
}

fn times(n: u64, each: u8) -> Result<u64, Halt> {
    n.checked_mul(u64::from(each)).ok_or(Halt::bad(HUGE_COUNT))
}

/// The number of entries in the listpack that the string at the start of `b` holds, and the size of the string.
fn listpack_count(b: &[u8]) -> Result<(u64, usize), Halt> {
    let head = wire::str_head(b)?;
    let rest = &b[head.head..];
    let payload = usize::try_from(head.payload).ok().and_then(|n| rest.get(..n)).ok_or(Halt::Need)?;
    let count = match head.form {
        StrForm::Plain => listpack::count(payload),
        StrForm::Int => return Err(Halt::bad("a listpack is written as an integer")),
        StrForm::Lzf { inflated } => {
            let blob = crate::lzf::inflate(payload, inflated).map_err(Halt::bad)?;
            listpack::count(&blob)
        }
    };
    Ok((count.map_err(|fault| Halt::bad(fault.what))?, head.head + payload.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_fit_the_frames() {
        fn depth(steps: &[Op]) -> usize {
            1 + steps
                .iter()
                .map(|op| match op {
                    Rep(inner) | OptLenRep(inner) => depth(inner),
                    _ => 0,
                })
                .max()
                .unwrap_or(0)
        }
        for &ty in ValueType::ALL {
            assert!(depth(value_layout(ty)) <= DEPTH, "{ty}");
        }
    }

    #[test]
    fn a_finished_walk_stays_finished() {
        let none = TemplateSizes::new();
        let mut walker = Walker::new(value_layout(ValueType::List));
        assert_eq!(walker.run(&[2, 1, b'a'], &none), (3, Ok(Ended::Need)));
        assert_eq!(walker.run(&[1, b'b', 9, 9], &none), (2, Ok(Ended::Done)));
        assert_eq!(walker.run(&[9], &none), (0, Ok(Ended::Done)));
    }
}
