//! Values of one version made fit for another.
//!
//! Servers read all that older ones of their family wrote, but nothing newer, and Redis and Valkey went separate ways
//! at 7.2. A [`Converter`] takes the cheapest way that the target accepts: the raw value as it is, the same value in
//! another encoding, commands, or none, and tells what is lost on the way.
//!
//! ```
//! use keyferry_rdb::convert::{Converted, Converter};
//! use keyferry_rdb::{RawValue, TargetFormat, ValueType};
//!
//! let mut converter = Converter::new(TargetFormat::redis(6, 0));
//! // A set as listpack, which Redis 6.0 does not know.
//! let listpack = b"\x0D\x0D\0\0\0\x02\0\x81a\x02\x81b\x02\xFF";
//! let conversion = converter.convert(RawValue::new(ValueType::SetListpack, listpack))?;
//! let Converted::Reencoded(value) = conversion.converted else { panic!() };
//! assert_eq!(value, RawValue::new(ValueType::Set, b"\x02\x01a\x01b"));
//! assert!(conversion.losses.is_empty());
//! # Ok::<(), keyferry_rdb::Error>(())
//! ```
//!
//! What each version accepts, and in which type a value goes there, is in a
//! [matrix](crate::format#what-is-read-written-and-converted).

use crate::elements::{Element, Templates};
use crate::encode::Encoder;
use crate::error::Error;
use crate::event::RawValue;
use crate::limits::Limits;
pub use crate::native::Loss;
use crate::target::TargetFormat;
use crate::types::{Kind, ValueType};

/// Servers take strings of 512 MiB at most, and a payload is one, with up to 64 KiB around it.
const MAX_PAYLOAD: usize = (512 << 20) - (64 << 10);

/// Makes values fit for a target. Its buffers are kept from one value to the next.
#[derive(Debug)]
pub struct Converter {
    encoder: Encoder,
    limits: Limits,
    templates: Templates,
    max_payload: usize,
    bytes: Vec<u8>,
}

/// A value as the target takes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Converted<'a> {
    /// As it was.
    Raw(RawValue<'a>),
    /// In another encoding.
    Reencoded(RawValue<'a>),
    /// By commands only, see [`native`](crate::native), with [`TargetFormat::features`]: as a payload it would be too
    /// large. The rebuilding tells its own losses.
    Native,
    /// Not at all; the losses say why.
    Lost,
}

/// What came of a value.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Conversion<'a> {
    /// The value as the target takes it.
    pub converted: Converted<'a>,
    /// What the target has no place for.
    pub losses: Vec<Loss>,
}

/// The way of a value of some type, as far as the type tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// Most likely as it is; see [`Converter::convert`] for exceptions.
    Raw,
    /// Decoded and encoded anew, for which the whole value must be there. One that comes in parts can go as commands
    /// instead.
    Reencode,
    /// Not at all.
    Lost,
}

impl Converter {
    /// A converter for `target` with default limits.
    pub fn new(target: TargetFormat) -> Self {
        Self {
            encoder: Encoder::new(target),
            limits: Limits::default(),
            templates: Templates::new(),
            max_payload: MAX_PAYLOAD,
            bytes: Vec::new(),
        }
    }

    /// The same with these bounds for decoding.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The same with field names for hashes that refer to templates of their file.
    #[must_use]
    pub fn with_templates(mut self, templates: Templates) -> Self {
        self.templates = templates;
        self
    }

    /// The same, with commands for values of more than so many serialized bytes. Default a little below 512 MiB, the
    /// servers' default for `proto-max-bulk-len`. For files there is no such bound: `usize::MAX`.
    #[must_use]
    pub fn with_max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// What it converts for.
    pub const fn target(&self) -> &TargetFormat {
        self.encoder.target()
    }

    /// The way of values of this type, for those that come in parts.
    pub fn way(&self, ty: ValueType) -> Way {
        let target = self.target();
        if target.accepts(ty) && ty != ValueType::HashZipmap && ty.fits_dump() {
            return Way::Raw;
        }
        match ty.kind() {
            Kind::String | Kind::List | Kind::Set | Kind::SortedSet | Kind::Hash => Way::Reencode,
            Kind::Stream if target.stream_type().is_some() => Way::Reencode,
            _ => Way::Lost,
        }
    }

    /// Takes the cheapest way that the target accepts.
    ///
    /// Values go raw when the target knows their type, with these exceptions. Zipmaps are encoded anew, since newer
    /// servers refuse forms of them that older ones wrote. So are streams for Redis 8.8 and later that state more
    /// entries than they have, as those of early 5.0 releases do. Keys without elements are lost, since no server takes
    /// them. Whether a module is loaded is not known here: its values go raw to every target that has modules.
    ///
    /// # Errors
    ///
    /// Whatever rule of the format the bytes break, with the offset in the value. Values that go raw are not decoded,
    /// so not checked.
    pub fn convert<'a>(&'a mut self, value: RawValue<'a>) -> Result<Conversion<'a>, Error> {
        let ty = value.ty();
        let lost = |loss| Ok(Conversion { converted: Converted::Lost, losses: vec![loss] });
        if value.is_empty_container() {
            return lost(Loss::EmptyContainer { ty });
        }
        match self.way(ty) {
            Way::Lost => return lost(Loss::NotAccepted { ty }),
            Way::Raw if !self.is_miscounted(value)? => {
                let converted = match self.is_too_large(ty, value.bytes().len()) {
                    true => Converted::Native,
                    false => Converted::Raw(value),
                };
                return Ok(Conversion { converted, losses: Vec::new() });
            }
            Way::Raw | Way::Reencode => {}
        }
        self.bytes.clear();
        let encoded = self.encoder.reencode(value, &self.limits, &self.templates, &mut self.bytes)?;
        let converted = match encoded.ty {
            None => Converted::Lost,
            Some(ty) if self.is_too_large(ty, self.bytes.len()) => {
                return Ok(Conversion { converted: Converted::Native, losses: Vec::new() });
            }
            Some(ty) => Converted::Reencoded(RawValue::new(ty, &self.bytes)),
        };
        Ok(Conversion { converted, losses: encoded.losses })
    }

    /// Whether a payload would be too large, and there are commands instead.
    fn is_too_large(&self, ty: ValueType, bytes: usize) -> bool {
        let features = self.target().features;
        let commands = match ty.kind() {
            Kind::Stream => features.streams,
            Kind::Array => features.arrays,
            Kind::Module | Kind::RateLimiter | Kind::CronJob => false,
            _ => true,
        };
        bytes > self.max_payload && commands
    }

    /// Whether this is a stream that states another number of entries than it has, for a target that minds.
    fn is_miscounted(&self, value: RawValue<'_>) -> Result<bool, Error> {
        if value.ty().kind() != Kind::Stream || !self.target().accepts(ValueType::Stream5) {
            return Ok(false);
        }
        let mut elements = value.elements(&self.limits);
        while let Some(element) = elements.next()? {
            if let Element::StreamInfo(info) = element {
                return Ok(info.length != info.live);
            }
        }
        Ok(false)
    }
}
