//! Files of Redis data: read whatever their kind, and choose from them.
//!
//! It **takes** snapshots (RDB files) of every version, append-only files, their directories and manifests, and standard input
//! with either. It **gives** what is in them, event by event in bounded memory ([`Input`]), and chooses keys by name,
//! database, type and slot ([`Selection`]).
//!
//! It is blocking `std` code without a runtime, and rests on [`keyferry_rdb`] for the formats.

mod error;
mod input;
mod select;

pub use error::Error;
pub use input::{Cut, Ended, Found, Input, InputKind, InputOptions, Place, Progress};
pub use select::{Filter, LeftOut, LeftOutCounts, Selection};
