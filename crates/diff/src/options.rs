//! How two sides are compared.

use std::path::PathBuf;
use std::time::Duration;

use keyferry_files::{DatabaseMap, Selection};
use keyferry_rdb::Limits;
use keyferry_replication::LinkOptions;
use keyferry_routing::KeyPattern;

/// Keys that are left out unless [`DiffOptions::bookkeeping`] says otherwise: what migrations keep for themselves in the data,
/// ours and those of cloud providers.
pub const BOOKKEEPING: [&str; 3] =
    ["keyferry:*", "DTS_REDIS_TIMESTAMP_HEARTBEAT*", "DRS_REDIS_TIMESTAMP_HEARTBEAT*"];

/// How two sides are compared.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DiffOptions {
    /// Which keys are compared; databases are those of the source.
    pub selection: Selection,
    /// Which database of the source is which of the target.
    pub databases: DatabaseMap,
    /// Keys that match one of these are left out on both sides, and counted. Default: [`BOOKKEEPING`].
    pub bookkeeping: Vec<KeyPattern>,
    /// How far apart the expiries of a key may lie. Servers before Redis 7.0 pass `EXPIRE` on to replicas as it is, so
    /// theirs are later by what the link takes. Default: a second. Those of hash fields have to be the same.
    pub ttl_tolerance: Duration,
    /// Whether that has to agree as well which the servers' own replication does not always keep: see
    /// [`DigestOptions::unreplicated`](crate::DigestOptions::unreplicated). For copies by snapshot alone. Default: no.
    pub unreplicated: bool,
    /// Whether function libraries are compared. Default: yes.
    pub functions: bool,
    /// For how many elements of a key [`SnapshotDiff`](crate::SnapshotDiff) tells how they differ; the others are counted. For that files
    /// are read once more, and servers asked for the values. Between two servers it does not tell: [`LiveDiff`](crate::LiveDiff)
    /// does. Default: 1000; with 0 there is no second look.
    pub fields: usize,
    /// About how many bytes of digests are held in memory; what is beyond waits on disk. Default: 128 MiB. A key takes
    /// some 45 bytes and its name. Comparing key by key, names take 8 bytes each while they are held to spare going over the keys of a
    /// target at rest; what does not fit is gone over.
    pub memory: usize,
    /// Where digests wait that do not fit in memory. Default: the system's directory for temporary files.
    pub temporary_directory: PathBuf,
    /// Bounds on what snapshots may make this hold.
    pub limits: Limits,
    /// How servers are asked for their snapshots.
    pub link: LinkOptions,
    /// How long a server may be too busy to begin, loading its data or without a link to its own primary. Default: a minute.
    pub patience: Duration,
}

impl Default for DiffOptions {
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            databases: DatabaseMap::default(),
            bookkeeping: BOOKKEEPING.map(|pattern| KeyPattern::new(pattern.as_bytes())).into(),
            ttl_tolerance: Duration::from_secs(1),
            unreplicated: false,
            functions: true,
            fields: 1000,
            memory: 128 << 20,
            temporary_directory: std::env::temp_dir(),
            limits: Limits::default(),
            link: LinkOptions::default(),
            patience: Duration::from_secs(60),
        }
    }
}
