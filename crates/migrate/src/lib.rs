//! Live migration between Redis-compatible servers.
//!
//! A [`Migration`] copies everything that one server holds to another, and then every write that follows, while
//! both stay in service.
//!
//! **Takes** a source that allows PSYNC (Redis 2.8 to 8, Valkey 9 and their kin), or else SYNC, or else SCAN, and a target (`RESTORE` permitted), as
//! `keyferry-client` endpoints: servers, clusters, primaries that sentinels know, in any combination.
//!
//! **Gives** the same keys, values, expiries, eviction hints and functions in the same databases at the target,
//! [`Progress`] while it runs and a [`Report`] at the end.
//!
//! **Promises** that values go over raw, never decoded (but those above the size limit, which are built in parts
//! under a temporary name and appear whole or not at all); that the command stream is applied byte for byte in the
//! source's order; that the source is read at full speed whatever the target does, what waits being in a journal
//! on disk; that memory is bounded by the limits, not by the data. Into a cluster, that order holds within a slot, and
//! what must not be repeated is not, whatever happens to the target meanwhile.
//!
//! **Refuses** to go on when the target refuses a command (the error holds the command, its offset and the
//! reply), to write to a replica, to copy a server onto itself, and to use a journal directory that holds
//! another migration's data.
//!
//! ```no_run
//! use keyferry_migrate::{Migration, Until};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let mut migration = Migration::new("redis://old.example:6379".parse()?, "redis://:secret@new.example:6379".parse()?);
//! migration.options_mut().until = Until::caught_up();
//! let progress = migration.progress();
//! let finished = migration.run().await;
//! println!("{} keys", progress.figures().keys_applied);
//! finished.result?;
//! # Ok(())
//! # }
//! ```

pub mod archive;
pub mod backup;
mod catch_up;
pub mod control;
pub mod cutover;
mod dead_letters;
mod error;
mod existing;
mod expiry;
mod fence;
pub mod filter;
mod fleet;
mod hold;
mod http;
mod identity;
mod import;
mod intake;
mod journal;
mod kept;
mod key_set;
mod log;
#[cfg(feature = "lua")]
pub mod lua;
pub mod metrics;
mod migration;
mod mover;
mod options;
mod output;
mod pipeline;
pub mod precheck;
mod prepare;
mod progress;
mod refusal;
mod report;
mod report_markdown;
mod restart;
pub mod restore;
mod resume;
pub mod rewrite;
mod run;
mod scan;
mod sharded;
mod snapshot;
mod snapshot_counts;
mod snapshot_filter;
mod snapshot_part;
mod snapshot_spool;
mod snapshot_thread;
mod source;
mod spool;
mod target;
mod temporary;
mod throttle;
mod translate;
pub mod two_way;

pub use error::{Error, Refusal, RefusedAt};
pub use existing::{ExistingCounts, KeyTally, Overlap, PrefixCount};
pub use fleet::{InvalidWorker, Worker};
pub use import::{FileKind, FileReport};
pub use migration::{Finished, Migration, Stopper};
pub use options::{
    CrossSlotPolicy, Deadlines, Delivery, Expiry, Follow, Fsync, Mirror, OnError, OnExists, OnLoss, Options,
    SourceMode, Until,
};
pub use progress::{Figures, InputFigures, LinkFigures, Phase, Progress};
pub use report::{
    CrossSlot, Endpoint, ExpiryCounts, LinkPosition, MirrorCounts, Outcome, Report, RoutingCounts,
};
pub use scan::ScanCounts;
pub use snapshot_counts::SnapshotCounts;
pub use source::{Collisions, DatabasePair};
pub use throttle::{InvalidLimit, RateLimits, Rates, Throttle, ThrottleFigures};
