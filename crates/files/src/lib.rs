//! Files of Redis data: read whatever their kind, report on them, choose from them, convert them.
//!
//! It **takes** snapshots (RDB files) of every version, append-only files, their directories and manifests, and standard input
//! with either. It **gives** what is in them, event by event ([`Input`]) or element by element ([`ValueReader`]); as
//! [`json`]; as totals, largest keys, prefixes and expiries ([`survey`]), and [`report`]s of these; with an estimate of
//! [`memory`]. Keys are chosen by name, database, type and slot ([`Selection`]). [`mod@convert`] writes them as snapshots, logs and
//! commands for any server.
//!
//! It is blocking `std` code without a runtime, in bounded memory, and rests on [`keyferry_rdb`] for the formats.

pub mod convert;
mod error;
mod facts;
mod input;
pub mod json;
mod key_name;
pub mod memory;
mod output;
mod places;
pub mod report;
mod select;
mod sizes;
pub mod survey;
pub mod text;
pub mod time;
mod values;

pub use convert::{DatabaseMap, DatabaseMove};
pub use error::Error;
pub use facts::{Facts, ValueFacts, ValueRule};
pub use input::{Cut, Ended, Found, Input, InputKind, InputOptions, Place, Progress};
pub use key_name::{KeyName, KeyNameError};
pub use output::{Output, OutputKind};
pub use places::inputs_at;
pub use select::{Chosen, Filter, LeftOut, LeftOutCounts, Selection};
pub use sizes::ElementSizes;
pub use values::{ValueReader, ValueSink};

/// The examples of the README run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
