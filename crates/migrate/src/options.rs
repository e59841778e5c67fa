//! How a migration behaves, and when it is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

pub use keyferry_files::convert::OnLoss;
use keyferry_replication::{AckPolicy, LinkOptions};

use crate::{
    error::Error,
    filter::{Filter, Settings},
    fleet::Worker,
    intake::IntakeOptions,
    journal, precheck,
    rewrite::Script,
    throttle::RateLimits,
};

/// When a migration is done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Until {
    /// When the target holds everything that the source holds.
    CaughtUp {
        /// The source must not have written for so long, so that both sides are equal at the end; time in which it does not answer is not
        /// counted …
        quiet: Duration,
        /// … but while it goes on writing, wait for that no longer than this.
        linger: Duration,
    },
    /// When it is stopped.
    Forever,
}

impl Until {
    /// [`Until::CaughtUp`] with one second of quiet, waited for for at most ten.
    #[must_use]
    pub fn caught_up() -> Self {
        Until::CaughtUp { quiet: Duration::from_secs(1), linger: Duration::from_secs(10) }
    }
}

/// How a migration behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// When it is done. Default: [`Until::Forever`].
    pub until: Until,
    /// Directory of the journal: empty, not there yet, or of an earlier run of the same migration. It holds all that a
    /// restart needs: the whole snapshot and what follows it until the snapshot has been applied, then what the target is
    /// behind. Default: a temporary one, used only for what does not fit into memory.
    pub journal: Option<PathBuf>,
    /// Bytes of the command stream that the journal may hold, the snapshot not counted. When they are reached the source is
    /// not read until the target has taken some of it: see [`crate::Figures::source_patience_seconds`]. Default: no bound.
    pub journal_max: Option<u64>,
    /// With [`Options::keep_journal`]: how long what has been applied is kept. Default: no bound.
    pub journal_age: Option<Duration>,
    /// Keeps in the journal what has been applied, from the snapshot on, so that a server that loads it has everything; within
    /// [`Options::journal_max`] and [`Options::journal_age`]. Default: no.
    pub keep_journal: bool,
    /// When the journal is written through to the disk. Default: [`Fsync::EverySecond`].
    pub fsync: Fsync,
    /// Size in bytes of a value's raw form above which it is built in parts. Default 1 MiB. Memory is bounded by
    /// a few times this.
    pub value_limit: usize,
    /// How long a lost link to the source is tried again. Default 60 s.
    pub reconnect_window: Duration,
    /// How long the target may owe a reply. Default 60 s.
    pub target_silence: Duration,
    /// How the source is spoken to.
    pub link: LinkOptions,
    /// Databases of the source that go to another number. Default: none; a cluster may have database 0 only.
    pub db_map: BTreeMap<u64, u64>,
    /// Read from a replica that works, where there is one, of each shard or of the primary that sentinels know. Default:
    /// no. Primaries are asked for their offsets and slots all the same.
    pub prefer_replicas: bool,
    /// What happens to that for which the target has no place, as it is older than the source or of another vendor:
    /// deadlines of hash fields before Redis 7.4 and Valkey 9, function libraries before 7.0, vector sets before Redis 8.0,
    /// values of types that it does not know. It ends the run, or is left out and counted; the rest of the value goes on.
    /// What no command tells, as when a consumer was last seen, is counted in either case: see
    /// [`SnapshotCounts::losses`](crate::SnapshotCounts::losses). Default: [`OnLoss::Fail`].
    pub on_loss: OnLoss,
    /// What happens to commands whose keys are in several slots of a cluster. Default: they are carried out.
    pub cross_slot: CrossSlotPolicy,
    /// Look at both sides before a run, which takes some connections and tenths of a second. Default: yes. Without it the
    /// report has no [`precheck`](crate::Report::precheck).
    pub look_first: bool,
    /// Items whose failing does not keep a run from beginning; the report names them. Default: none.
    pub ignore: BTreeSet<precheck::Item>,
    /// When the deadlines of keys and of fields are put as they are. Default: when the target has caught up. Not heeded where
    /// bytes are forwarded without being looked into, which is not done with [`Expiry::HeldUntilEnd`].
    pub expiry: Expiry,
    /// Where files with commands, or an archive, are the source: what becomes of deadlines at its end. Not heeded with
    /// [`Expiry::AsItComes`], nor for snapshots alone. Default: [`Deadlines::Keep`].
    pub deadlines: Deadlines,
    /// The name under which the target keeps how far the migration is, so that another run goes on there: letters, digits
    /// and `_.-`, 64 at most. Default: made from both URLs, so that the same command goes on with the same migration.
    pub id: Option<String>,
    /// What a restart may cost. Default: [`Delivery::ExactlyOnce`].
    pub delivery: Delivery,
    /// This process is one of several that carry the migration out together, each with a part of the slots of a source cluster: which
    /// one, of how many. All are to be given the same other options, but for a journal directory and a file of dead letters of their
    /// own. One of one is as none. Default: none.
    pub worker: Option<Worker>,
    /// What is removed from the target after a full sync that was not the first. Default: [`Mirror::Owned`].
    pub mirror: Mirror,
    /// What becomes of keys that the target has already. Default: [`OnExists::Replace`].
    pub on_exists: OnExists,
    /// What happens to a command that the target refuses for good. Default: [`OnError::Stop`].
    pub on_error: OnError,
    /// Go on behind a command at which the last run ended ([`crate::Error::WasRefused`]): it is left out. Default: no.
    pub skip_refused: bool,
    /// Where files are the source: whether one of commands may end inside of a command or a transaction, as a crash leaves it. It
    /// is applied up to there then, and [`FileReport::cut_at`](crate::FileReport::cut_at) tells. Journals may always. Default: no.
    pub allow_cut_log: bool,
    /// How long the target may be away, load its data, be a replica, or have slots that nobody serves. The source is read
    /// meanwhile. Default: 12 hours.
    pub retry_connect: Duration,
    /// How long the target may refuse what it would take at another time: as its memory or its disk is full, or too few
    /// replicas follow it. Default: 10 minutes.
    pub retry_other: Duration,
    /// How the source is read. Default: [`SourceMode::Auto`].
    pub source_mode: SourceMode,
    /// With [`SourceMode::Scan`]: how writes are known that come meanwhile. Default: [`Follow::Auto`].
    pub follow: Follow,
    /// With [`Follow::Passes`]: how often everything is sent, at most, as the source was written to while it was read. With 1
    /// nobody looks whether it was. Default: 10.
    pub rescan: u32,
    /// How fast it may be when it begins; [`Migration::throttle`](crate::Migration::throttle) changes that. Default: no limits.
    pub limits: RateLimits,
    /// Which keys and commands go over, and under which names. Default: everything as it is. It counts what it does, so give
    /// each migration one of its own.
    pub filter: Option<Arc<Filter>>,
    /// What makes other commands of the commands, behind the filter: see [`rewrite`](crate::rewrite). With it [`Options::mirror`] is
    /// [`Mirror::Off`], as nobody knows which keys are the source's, and [`Options::on_exists`] has to be [`OnExists::Replace`].
    /// It counts what it does, so give each migration one of its own. Default: none.
    pub script: Option<Arc<Script>>,
    /// Copy nothing of what the source holds: carry over only what it writes from the moment at which this migration first
    /// begins, or from the positions that a [cutover](crate::cutover) has left at the target. For a target that holds
    /// what the source holds at that moment. The source is asked for a snapshot once, so that it keeps a backlog and names the
    /// database that its stream goes on in, and the link is given up before anything of it comes. There is never a full copy later:
    /// a source that no longer has what comes next ends the run ([`crate::Error::FromNowLost`]). Default: no.
    pub from_now: bool,
}

/// How the source is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceMode {
    /// The first of the others that every server of the source allows; the report tells why not those before it.
    #[default]
    Auto,
    /// By `PSYNC`, under the name in [`LinkOptions::psync_command`]: a snapshot and all commands that follow it.
    Psync,
    /// By `SYNC`, as before Redis 2.8: the same, but a link that is lost begins from the start.
    Sync,
    /// By `SCAN` and `DUMP`, key by key. The report tells what this cannot promise.
    Scan,
}

impl SourceMode {
    /// False when there is another way where `PSYNC` is refused.
    pub(crate) fn needs_psync(self) -> bool {
        self == SourceMode::Psync
    }
}

/// How writes are known that come while keys are read one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Follow {
    /// By notifications where they are to be had, else by passes.
    #[default]
    Auto,
    /// By keyspace notifications. Where the source does not send all that is needed, its setting is changed for the time of the run.
    Notifications,
    /// By reading everything again until nothing has changed. What is written later is not known.
    Passes,
}

/// What happens to a command that the target refuses for good: the wrong type, an unknown command, no permission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// The migration ends, with the command, its offset and the reply.
    #[default]
    Stop,
    /// It is added to this file, counted in the report, and the migration goes on without it.
    DeadLetter(PathBuf),
}

/// What a restart, of the program or of the target, may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// Nothing: each write is there once. What must not be repeated is written in one transaction with how far it goes.
    #[default]
    ExactlyOnce,
    /// Writes may be repeated: counters may be too high then, and lists too long.
    AtLeastOnce,
}

/// What is removed from the target when the source had to be read from its beginning again, as its backlog no longer held what
/// was missing: it may have deleted keys meanwhile, of which nothing tells any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mirror {
    /// Nothing: what the source deleted meanwhile stays.
    Off,
    /// What the new snapshot does not have, but for keys that were there before this migration first began. They are known
    /// from the journal directory; where that was lost, or none was named and the program was started again, nothing is removed.
    #[default]
    Owned,
    /// Everything that the new snapshot does not have.
    All,
}

/// What becomes of keys that the target has already when the migration first begins, and the source has, too.
///
/// Which keys these are is looked up before anything is written, and kept in the journal directory: name one where the run may
/// have to go on after an interruption. `docs/decisions/0024` has the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OnExists {
    /// Nothing is written if there is one: [`Error::TargetHasKeys`](crate::Error::TargetHasKeys) counts them by prefix. One that
    /// turns up later ends the run at its turn.
    Fail,
    /// The target's stays as it is. Commands of the source about it are left out; one that puts what comes from it into
    /// another key ends the run, as with a [`Filter`].
    Skip,
    /// The source's replaces it.
    #[default]
    Replace,
    /// As [`OnExists::Skip`] where the target's was used later than the source's, by what `OBJECT IDLETIME` says on both sides
    /// when the run begins, in seconds; else as [`OnExists::Replace`].
    NewerWins,
    /// Hashes, sets and sorted sets become the union of both, where a field or member that both have is the source's. Keys of
    /// other types, or whose types differ, are replaced.
    Merge,
}

impl OnExists {
    /// Its name, as `--on-exists` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            OnExists::Fail => "fail",
            OnExists::Skip => "skip",
            OnExists::Replace => "replace",
            OnExists::NewerWins => "newer-wins",
            OnExists::Merge => "merge",
        }
    }

    /// Some keys of the target are not to be touched.
    pub(crate) fn leaves_alone(self) -> bool {
        matches!(self, OnExists::Fail | OnExists::Skip | OnExists::NewerWins)
    }
}

/// When the deadlines of keys, and of fields of hashes, are put at the target as they are.
///
/// A target that is behind must not let a key die before it knows all that the source has done with it. So deadlines are
/// put 2^45 ms (some 1115 years) later at first, and keys die by the source's own `DEL`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// When the target has caught up, and again after it was behind. While the source is being written to, deadlines less
    /// than five seconds ahead stay held. If the target is left behind for longer than a key has to live, a key that is
    /// prolonged meanwhile dies there.
    #[default]
    HeldUntilCaughtUp,
    /// At the end of a run that catches up, or is stopped with everything applied. Nothing dies too early, whatever happens
    /// meanwhile; but a target that is left without its migration keeps the late deadlines until that is run to its end.
    HeldUntilEnd,
    /// At once.
    AsItComes,
}

/// What becomes of the deadlines of keys, and of the fields of hashes, when what they are part of is of an earlier time. Those
/// after the year 2527 are left alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Deadlines {
    /// They are as they were: what would be over by now, is gone.
    #[default]
    Keep,
    /// As much is left as was left at this moment, in Unix milliseconds.
    ShiftFrom(i64),
    /// There are none: nothing expires.
    Drop,
}

/// When a journal that somebody asked for is written through to the disk. A process that dies loses nothing in any case; a
/// machine that does loses what had not been written through, and what was lost is asked for again at the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fsync {
    /// After every write.
    Always,
    /// Once a second.
    #[default]
    EverySecond,
    /// When the operating system likes to.
    No,
}

/// What happens to commands whose keys are in several slots of the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CrossSlotPolicy {
    /// They are split, or computed at the target, and counted in the report.
    #[default]
    CarryOut,
    /// The first one ends the migration.
    Fail,
}

impl Options {
    /// Which of several workers this is.
    pub(crate) fn active_worker(&self) -> Option<Worker> {
        self.worker.filter(|worker| worker.of() > 1)
    }

    /// The filter, if it does anything, or may turn out to.
    pub(crate) fn active_filter(&self) -> Option<&Arc<Filter>> {
        self.filter.as_ref().filter(|filter| !filter.is_everything() || self.on_exists.leaves_alone())
    }

    /// Makes sure that there is a filter where some keys are to be left to the target.
    pub(crate) fn prepare_filter(&mut self) -> Result<(), Error> {
        if self.script.is_some() {
            if self.on_exists != OnExists::Replace {
                let why = "a script may give keys any names, so that nobody can tell which of them the target had: --on-exists is not \
                           possible with it";
                return Err(Error::Filter(why.to_owned()));
            }
            self.mirror = Mirror::Off;
        }
        if self.on_exists.leaves_alone() && self.filter.is_none() {
            let everything = Filter::new(Settings::default()).map_err(|e| Error::Filter(e.to_string()))?;
            self.filter = Some(Arc::new(everything));
        }
        Ok(())
    }

    /// What is changed on the way, in a few words; nothing for a plain copy. A migration that is gone on with under other rules
    /// would leave a mixture of both.
    pub(crate) fn changes(&self) -> String {
        let filter = self.active_filter().map(|filter| format!("filter {}", filter.fingerprint()));
        let map: Vec<String> = self.db_map.iter().map(|(from, to)| format!("{from}={to}")).collect();
        let map = (!map.is_empty()).then(|| format!("database map {}", map.join(",")));
        let exists = (self.on_exists != OnExists::Replace)
            .then(|| format!("{} where a key exists", self.on_exists.name()));
        let script = self.script.as_ref().map(|script| format!("script {}", script.fingerprint()));
        filter.into_iter().chain(script).chain(map).chain(exists).collect::<Vec<_>>().join(" and ")
    }
}

impl Default for Options {
    fn default() -> Self {
        let mut link = LinkOptions::default();
        link.acks = AckPolicy::Applied;
        Options {
            until: Until::Forever,
            journal: None,
            journal_max: None,
            journal_age: None,
            keep_journal: false,
            fsync: Fsync::EverySecond,
            value_limit: 1 << 20,
            reconnect_window: Duration::from_secs(60),
            target_silence: Duration::from_secs(60),
            link,
            db_map: BTreeMap::new(),
            prefer_replicas: false,
            on_loss: OnLoss::Fail,
            cross_slot: CrossSlotPolicy::CarryOut,
            expiry: Expiry::HeldUntilCaughtUp,
            deadlines: Deadlines::Keep,
            id: None,
            delivery: Delivery::ExactlyOnce,
            worker: None,
            mirror: Mirror::Owned,
            on_exists: OnExists::Replace,
            look_first: true,
            ignore: BTreeSet::new(),
            on_error: OnError::Stop,
            skip_refused: false,
            allow_cut_log: false,
            retry_connect: Duration::from_secs(12 * 3600),
            retry_other: Duration::from_secs(600),
            source_mode: SourceMode::Auto,
            follow: Follow::Auto,
            rescan: 10,
            limits: RateLimits::default(),
            filter: None,
            script: None,
            from_now: false,
        }
    }
}

impl Options {
    /// How the source is read.
    pub(crate) fn intake(&self) -> IntakeOptions {
        IntakeOptions {
            link: self.link.clone(),
            reconnect_window: self.reconnect_window,
            disk_window: DISK_WINDOW,
        }
    }

    /// How the journal is kept.
    pub(crate) fn journal_settings(&self) -> journal::Settings {
        journal::Settings {
            named: self.journal.is_some(),
            fsync: self.fsync,
            max_bytes: self.journal_max,
            max_age: self.journal_age,
            keep: self.keep_journal && self.journal.is_some(),
        }
    }
}

/// How long a full disk is waited for.
const DISK_WINDOW: Duration = Duration::from_secs(600);
