//! Values in parts, written in another encoding.

use super::plain::{Plain, lost_expiries, plain_type};
use super::source::Survey;
use super::stream::{Extent, Nodes, stream_form};
use super::{Encoder, Strings};
use crate::elements::{Element, ElementDecoder, Templates};
use crate::error::Error;
use crate::limits::Limits;
use crate::native::Loss;
use crate::target::TargetFormat;
use crate::types::{Kind, ValueType};
use crate::value::{Stream, add_to_stream};

/// The first pass over a value that comes in parts and has to be encoded anew, since a target does not accept its type.
///
/// Formats put numbers of elements first, so a value that is too large to be held is gone through twice: once to count,
/// once to write. Collections get the plain encodings, which all versions read; streams get the oldest that holds all of
/// them. Memory: one element or compact blob, and of a stream its groups with their pending entries.
///
/// ```
/// use keyferry_rdb::encode::PartsSurvey;
/// use keyferry_rdb::{Limits, TargetFormat, ValueType, elements::Templates};
///
/// // A list of Redis 7.0 for Redis 6.0, in two parts.
/// let parts = [&b"\x01\x02\x0D\x0D\0\0\0\x02\0\x81"[..], b"a\x02\x81b\x02\xFF"];
/// let target = TargetFormat::redis(6, 0);
/// let mut survey =
///     PartsSurvey::new(ValueType::ListQuicklist2, target, &Limits::default(), &Templates::new());
/// for part in parts {
///     survey.feed(part)?;
/// }
/// let plan = survey.finish()?;
/// assert_eq!(plan.ty(), Some(ValueType::List));
/// assert!(plan.losses().is_empty());
///
/// let mut out = Vec::new();
/// let mut encoder = plan.encoder(&mut out);
/// for part in parts {
///     encoder.feed(part, &mut out)?;
/// }
/// encoder.finish(&mut out)?;
/// assert_eq!(out, b"\x02\x01a\x01b");
/// # Ok::<(), keyferry_rdb::Error>(())
/// ```
#[derive(Debug)]
pub struct PartsSurvey {
    context: Context,
    decoder: ElementDecoder,
    survey: Survey,
    stream: StreamSurvey,
}

/// What both passes need.
#[derive(Clone, Debug)]
struct Context {
    ty: ValueType,
    target: TargetFormat,
    limits: Limits,
    templates: Templates,
}

impl Context {
    fn decoder(&self) -> ElementDecoder {
        ElementDecoder::new(self.ty, &self.limits).with_templates(self.templates.clone())
    }
}

/// All of a stream but its entries, which are counted.
#[derive(Debug)]
struct StreamSurvey {
    nodes: Nodes,
    count: u64,
    extent: Extent,
    rest: Stream,
}

impl PartsSurvey {
    /// Begins with a value of type `ty`.
    pub fn new(ty: ValueType, target: TargetFormat, limits: &Limits, templates: &Templates) -> Self {
        let context = Context { ty, target, limits: limits.clone(), templates: templates.clone() };
        Self {
            decoder: context.decoder(),
            survey: Survey::new(),
            stream: StreamSurvey {
                nodes: Nodes::new(&target.compact),
                count: 0,
                extent: Extent::default(),
                rest: Stream::default(),
            },
            context,
        }
    }

    /// Takes the next bytes of the value.
    ///
    /// # Errors
    ///
    /// Whatever rule of the format the bytes break, with the offset in the value.
    pub fn feed(&mut self, part: &[u8]) -> Result<(), Error> {
        self.decoder.feed(part);
        while let Some(element) = self.decoder.next()? {
            match &element {
                Element::StreamEntry(entry) => {
                    let stream = &mut self.stream;
                    stream.extent.add(entry.id);
                    if stream.nodes.is_full() {
                        stream.nodes.skip();
                        stream.count += 1;
                    }
                    stream.nodes.push(entry.id, &entry.fields().collect::<Vec<_>>());
                }
                element if self.context.ty.kind() == Kind::Stream => {
                    add_to_stream(&mut self.stream.rest, element, self.context.ty);
                }
                element if self.context.target.leaves_out(element) => {}
                element => self.survey.see(element)?,
            }
        }
        Ok(())
    }

    /// Ends the pass and says what will be written.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] when the value is not complete, [`Error::Corrupt`] when bytes are left over.
    pub fn finish(mut self) -> Result<PartsPlan, Error> {
        self.decoder.finish()?;
        let Context { ty, target, .. } = &self.context;
        let kind = ty.kind();
        let (to, losses) = match plain_type(target, kind, &self.survey) {
            _ if kind == Kind::Stream => {
                self.stream.count += u64::from(!self.stream.nodes.is_empty());
                stream_form(target, &self.stream.rest, &self.stream.extent)
            }
            Some(_) if self.survey.count == 0 => (None, vec![Loss::EmptyContainer { ty: *ty }]),
            Some(to) => (Some(to), lost_expiries(to, &self.survey).into_iter().collect()),
            None => (None, vec![Loss::NotAccepted { ty: *ty }]),
        };
        let Self { context, survey, stream, .. } = self;
        Ok(PartsPlan { context, ty: to, losses, survey, stream })
    }
}

/// What a [`PartsSurvey`] has found, and the way to the second pass.
#[derive(Debug)]
pub struct PartsPlan {
    context: Context,
    ty: Option<ValueType>,
    losses: Vec<Loss>,
    survey: Survey,
    stream: StreamSurvey,
}

impl PartsPlan {
    /// The type that the value will have; `None` when the target cannot hold it.
    pub const fn ty(&self) -> Option<ValueType> {
        self.ty
    }

    /// What the target has no place for.
    pub fn losses(&self) -> &[Loss] {
        &self.losses
    }

    /// Begins the second pass, in which all parts are given again. Appends to `out` what comes before the elements.
    pub fn encoder(self, out: &mut Vec<u8>) -> PartsEncoder {
        let Self { context, ty, survey, mut stream, .. } = self;
        let ty = ty.unwrap_or(context.ty);
        let plain = match context.ty.kind() {
            Kind::Stream => {
                crate::wire::put_len(out, stream.count);
                stream.nodes.skip();
                None
            }
            _ => Some(Plain::begin(ty, &survey, out)),
        };
        PartsEncoder { decoder: context.decoder(), encoder: Encoder::new(context.target), ty, plain, stream }
    }
}

/// The second pass over a value that comes in parts, which writes it.
#[derive(Debug)]
pub struct PartsEncoder {
    decoder: ElementDecoder,
    encoder: Encoder,
    ty: ValueType,
    /// Of a collection.
    plain: Option<Plain>,
    stream: StreamSurvey,
}

impl PartsEncoder {
    /// Takes the next bytes of the value and appends what becomes of them to `out`.
    ///
    /// # Errors
    ///
    /// Whatever rule of the format the bytes break, with the offset in the value.
    pub fn feed(&mut self, part: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let target = self.encoder.target;
        let strings: &mut Strings = &mut self.encoder.strings;
        self.decoder.feed(part);
        while let Some(element) = self.decoder.next()? {
            match (&self.plain, &element) {
                (Some(_), element) if target.leaves_out(element) => {}
                (Some(plain), element) => plain.put(element, strings, out),
                (None, Element::StreamEntry(entry)) => {
                    let nodes = &mut self.stream.nodes;
                    if nodes.is_full() {
                        nodes.end(strings, out);
                    }
                    nodes.push(entry.id, &entry.fields().collect::<Vec<_>>());
                }
                // Known from the first pass.
                (None, _) => {}
            }
        }
        Ok(())
    }

    /// Appends what comes last.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] when the value is not complete, [`Error::Corrupt`] when bytes are left over.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.decoder.finish()?;
        if self.plain.is_some() {
            return Ok(());
        }
        let StreamSurvey { nodes, extent, rest, .. } = &mut self.stream;
        if !nodes.is_empty() {
            nodes.end(&mut self.encoder.strings, out);
        }
        self.encoder.stream_tail(rest, extent, self.ty, out);
        Ok(())
    }
}
