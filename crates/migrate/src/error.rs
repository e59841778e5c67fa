//! What can end a migration, and whose fault it is.

use std::path::PathBuf;

use keyferry_replication::{Position, StreamFault};
use keyferry_resp::CommandRef;

pub(crate) use crate::refusal::show_command;
pub use crate::refusal::{Refusal, RefusedAt};
use crate::{existing::Overlap, fleet::Worker, source::Collisions};

/// Everything that can end a migration early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source could not be reached, refused, or its link broke for good.
    #[error("source: {0}")]
    Source(#[from] keyferry_replication::Error),

    /// A connection to the source beside the replication link failed.
    #[error("source: {0}")]
    SourceConnection(#[source] keyferry_client::Error),

    /// The source cannot be read key by key.
    #[error("source {address}: {why}")]
    Scan {
        /// The source's address.
        address: String,
        /// What is in the way, and what to do.
        why: String,
    },

    /// The target could not be reached, or its connection broke.
    #[error("target: {0}")]
    Target(#[source] keyferry_client::Error),

    /// Both URLs lead to one server.
    #[error("source and target are the same server ({address}, run id {run_id}); nothing was written")]
    SameServer {
        /// The target's address.
        address: String,
        /// The run id that both gave.
        run_id: String,
    },

    /// Source and target are of one replication: what is written to the target would come back by the source.
    #[error(
        "source and target {address} belong to one replication (id {id}): every write would come back; take the \
         target out of it first (REPLICAOF NO ONE gives it a new id)"
    )]
    SameHistory {
        /// The target's address.
        address: String,
        /// The replication id that both gave.
        id: String,
    },

    /// The target is not a standalone server.
    #[error("target {address} runs as {mode}; this version writes to standalone servers only")]
    TargetMode {
        /// The target's address.
        address: String,
        /// What it runs as.
        mode: String,
    },

    /// The target is not a primary: what is written to it would be refused or thrown away.
    #[error("target {address} is a replica; give the address of its primary")]
    TargetIsReplica {
        /// The target's address.
        address: String,
    },

    /// The snapshot is damaged.
    #[error("snapshot of the source: {0}")]
    Snapshot(#[from] keyferry_rdb::Error),

    /// The target refused a command.
    #[error(transparent)]
    Refused(Box<Refusal>),

    /// The target's replies are not what was asked for.
    #[error("target {address} sent a reply that is none: {source}")]
    TargetProtocol {
        /// The target's address.
        address: String,
        /// What the decoder found.
        source: keyferry_resp::DecodeError,
    },

    /// The target stopped answering.
    #[error("target {address} has not answered for {} s, although commands are waiting there", after.as_secs())]
    TargetSilent {
        /// The target's address.
        address: String,
        /// How long it was waited for.
        after: std::time::Duration,
    },

    /// Something in the snapshot has no place on the target.
    #[error("{what} cannot be carried to target {address}: {why}")]
    Unsupported {
        /// What it is, with its name.
        what: String,
        /// The target's address.
        address: String,
        /// Why not, and what to do.
        why: String,
    },

    /// The source lost the history that the target was built from, so the stream cannot be continued.
    #[error(
        "the source no longer holds the writes after {had} (it now offers a full sync of {now}): everything has to be copied \
         anew; raise repl-backlog-size at the source to survive longer interruptions"
    )]
    HistoryLost {
        /// Where the migration stood.
        had: Box<Position>,
        /// What the source offers.
        now: Box<Position>,
    },

    /// The source no longer has what comes next of a stream that began without a full copy.
    #[error(
        "the source cannot go on from {had}: its backlog no longer holds what comes next (it offers {now}), and this migration \
         began without a full copy, so what was missed cannot be brought by one; compare both sides and repair the target, then \
         begin again under another name (--from-now --id); raise repl-backlog-size at the source to survive longer interruptions"
    )]
    FromNowLost {
        /// Where the migration stood.
        had: Box<Position>,
        /// What the source offers.
        now: Box<Position>,
    },

    /// Both ways at once are not possible.
    #[error("both ways at once: {why}")]
    TwoWay {
        /// What is in the way, and what to do.
        why: String,
    },

    /// The file of conflicts cannot be written.
    #[error("conflicts {}: {source}", path.display())]
    Conflicts {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// A migration that cannot begin without a full copy.
    #[error("it cannot begin without a full copy (--from-now): {why}")]
    FromNow {
        /// What is in the way, and what to do.
        why: String,
    },

    /// A cutover cannot go on.
    #[error("cutover: {step}: {why}")]
    Cutover {
        /// What was being done.
        step: &'static str,
        /// What is in the way, and what to do.
        why: String,
    },

    /// Reading or writing the journal failed.
    #[error("journal {}: {doing}: {source}", path.display())]
    Journal {
        /// The file or directory.
        path: PathBuf,
        /// What was under way.
        doing: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// The journal directory holds another run's data.
    #[error(
        "journal directory {} is not empty (it holds {found:?}): it may be the only copy of writes that another \
         run took over; choose an empty directory, or delete it if it is of no use",
        path.display()
    )]
    JournalInUse {
        /// The directory.
        path: PathBuf,
        /// A file found in it.
        found: String,
    },

    /// The journal is in use.
    #[error("journal {}: another process is using it; end that one first, or choose another directory", path.display())]
    JournalLocked {
        /// The directory.
        path: PathBuf,
    },

    /// The journal holds data of another migration, or of one between other servers.
    #[error(
        "journal {} belongs to migration {theirs}, and holds data of it; this one is {ours}: give the servers, the \
         id and the filter that it had, or another directory",
        path.display()
    )]
    JournalOfAnother {
        /// The directory.
        path: PathBuf,
        /// Whose it is: id, source, target.
        theirs: String,
        /// What this migration is.
        ours: String,
    },

    /// The journal was written by a later version of this program.
    #[error("journal {}: its format is {format}, which a later version of this program wrote; use that", path.display())]
    JournalFormat {
        /// The directory.
        path: PathBuf,
        /// The format.
        format: u32,
    },

    /// The journal's list of its files is damaged.
    #[error("journal: {}: {source}", path.display())]
    JournalManifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<keyferry_rdb::Error>,
    },

    /// What was read back from the journal is not what was written.
    #[error("journal {}: damaged at byte {at}: {source}", path.display())]
    JournalDamaged {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        at: u64,
        /// What is wrong.
        source: StreamFault,
    },

    /// A file that is the source cannot be read, or is damaged; the message names the byte. What stands before it is on the
    /// target.
    #[error("{0}")]
    File(#[from] keyferry_files::Error),

    /// A file that is the source is not the one that was begun with, so what an earlier run has applied of it says nothing.
    #[error(
        "{name} is not the file that migration {id} was begun with, and a part of that one's commands is on the target already: \
         go on with that file, or import this one under another name (--id)"
    )]
    OtherFile {
        /// The file.
        name: String,
        /// The migration.
        id: String,
    },

    /// What is refused while a file is applied would be added to that file.
    #[error("{} is the source: commands that are refused need another file (--on-error dead-letter FILE)", path.display())]
    SameFile {
        /// The file.
        path: PathBuf,
    },

    /// A journal holds the end of a stream, and nothing that it goes on from.
    #[error(
        "journal {} holds no snapshot (it is dropped once it has been applied, unless it is kept by --keep): without it there is \
         nothing for its commands to go on from; nothing was written",
        path.display()
    )]
    NoSnapshot {
        /// The directory.
        path: PathBuf,
    },

    /// An archive cannot be kept, or what was asked of it is not in it.
    #[error("{0}")]
    Archive(#[from] crate::archive::ArchiveError),

    /// A part of a journal's stream is missing.
    #[error(
        "{name}: the stream goes on at byte {at} with offset {found}, and was at {expected}: what is between is missing; what \
         stands before it is on the target"
    )]
    JournalGap {
        /// The file.
        name: String,
        /// Where in the file.
        at: u64,
        /// The offset at which the stream should go on.
        expected: u64,
        /// The one that the file tells.
        found: u64,
    },

    /// The target has keys of the source already, and that is to keep a run from beginning.
    #[error(
        "the target has {0}; nothing was written: remove them there or leave them out, or choose what is to become of them \
         (--on-exists skip, replace, newer-wins or merge)"
    )]
    TargetHasKeys(Box<Overlap>),

    /// Somebody else has made a key at the target while the migration ran.
    #[error(
        "the key {key} of the snapshot is at target {address} (database {db}) since the migration began: somebody else has made it, \
         and --on-exists fail ends the run then; remove it or the source's, and start again, which goes on from here"
    )]
    KeyAppeared {
        /// The target's address.
        address: String,
        /// The target's database.
        db: u64,
        /// Its name at the target; bytes that are no text escaped.
        key: String,
    },

    /// Nobody knows any more which keys the target had before the migration first began.
    #[error(
        "which keys the target had before migration {id} first began is not known any more, as the journal directory of that run is \
         not there, so that --on-exists {policy} cannot be kept: give that directory (--journal), or begin anew under another \
         name (--id), for which everything at the target was there before"
    )]
    ExistingUnknown {
        /// The migration.
        id: String,
        /// What was to become of such keys.
        policy: &'static str,
    },

    /// A server does not tell when a key was used last.
    #[error(
        "{side} {address} does not tell when keys were used last ({reply}), so that --on-exists newer-wins cannot be decided; \
         nothing was written: choose another way (skip, replace or merge), or a maxmemory-policy without LFU there"
    )]
    IdleTimeUnknown {
        /// `source` or `target`.
        side: &'static str,
        /// Its address.
        address: String,
        /// What it answered to `OBJECT IDLETIME`.
        reply: String,
    },

    /// Files do not tell when a key was used last.
    #[error(
        "files do not tell when keys were used last, so that --on-exists newer-wins cannot be decided; nothing was written: choose \
         another way (skip, replace or merge)"
    )]
    NoIdleTimes,

    /// Something of the source has no place or no way on this target.
    #[error(
        "{}{} (database {db} of the source) cannot be carried out on the target: {why}",
        command.as_deref().unwrap_or("a key of the snapshot"),
        offset.map(|offset| format!(", the command after replication offset {offset},")).unwrap_or_default()
    )]
    NoRoute {
        /// The command, long arguments shortened; none for keys of the snapshot.
        command: Option<String>,
        /// The source's database.
        db: u64,
        /// Replication offset of the last byte before the command.
        offset: Option<u64>,
        /// Why not, and what to do.
        why: String,
    },

    /// Slots of the source are changing hands, and it takes too long to wait for the end of it.
    #[error(
        "slots {slots} of the source are moving to shard {shard}, and {} MiB of writes to them wait for the end of that:          finish or take back the move (CLUSTER SETSLOT … NODE or STABLE at the source), then migrate again",
        held >> 20
    )]
    SlotsMoving {
        /// The slots.
        slots: String,
        /// The number of the link whose shard is taking them over.
        shard: u16,
        /// Bytes that wait.
        held: usize,
    },

    /// Nobody serves a slot of the target.
    #[error("target: nobody serves slot {slot}, and nobody took it over in time: see CLUSTER NODES there")]
    SlotWithoutOwner {
        /// The slot.
        slot: u16,
    },

    /// Slots of the source have no owner: what they hold cannot be read.
    #[error(
        "source: nobody serves the slots {slots}, so what they hold cannot be read; bring their nodes back, or give the \
         slots to others (redis-cli --cluster fix), and start again; nothing was written"
    )]
    SourceSlotsUnserved {
        /// The slots.
        slots: String,
    },

    /// Slots of the source are on their way from one shard to another.
    #[error(
        "source: the slots {slots} are being moved (the first of them from {from} to {to}), and keys on the way could be \
         missed; let the move come to its end, or end it by redis-cli --cluster fix, and start again; nothing was written"
    )]
    SourceSlotsMoving {
        /// The slots.
        slots: String,
        /// The node that gives the first of them away.
        from: String,
        /// The node that gets it.
        to: String,
    },

    /// Slots of the source went to another shard while their keys were read.
    #[error(
        "source: the slots {slots} of the shard of {shard} are elsewhere now, so that keys may have been missed; nothing is left of \
         what was written: start again"
    )]
    SlotsMovedMeanwhile {
        /// The slots that it had.
        slots: String,
        /// A node of it.
        shard: String,
    },

    /// What an earlier run of a backup has kept does not fit to what the source is now.
    #[error(
        "{}: an earlier run has kept the snapshot of the slots {slots}, but {why}: snapshots of then and of now would not fit \
         together; begin anew (--restart), and all shards are read again",
        path.display()
    )]
    BackupOutdated {
        /// Where it is kept.
        path: PathBuf,
        /// The slots.
        slots: String,
        /// What has changed.
        why: String,
    },

    /// The same backup is being made already.
    #[error("{}: another process makes this backup; wait for its end, or choose another file", path.display())]
    BackupInUse {
        /// Where that one keeps what it has read.
        path: PathBuf,
    },

    /// A shard of the source cannot be read.
    #[error(
        "source: the shard of {shard} with the slots {slots} is down: {why}; bring it back, or let a replica take over \
         (CLUSTER FAILOVER TAKEOVER there), and start again; nothing was written"
    )]
    SourceShardDown {
        /// A node of it.
        shard: String,
        /// Its slots.
        slots: String,
        /// What is wrong.
        why: String,
    },

    /// Slots of the source went to a node that no link leads to.
    #[error(
        "source: the slots {slots} went to {to}, which was no primary when the migration began; what is written to them now          is not seen: migrate again"
    )]
    SourceSlotsLeft {
        /// The slots.
        slots: String,
        /// Who has them now.
        to: String,
    },

    /// A slot of the source changed hands more than once in so short a time that nobody can tell what was said when.
    #[error(
        "source: slot {slot} went from its shard to another and back so fast that its writes cannot be put in order:          migrate again when the cluster is settled"
    )]
    SourceSlotUnclear {
        /// The slot.
        slot: u16,
    },

    /// Databases of the source that become one at the target hold the same keys.
    #[error(
        "source: {0}; one of each would overwrite the other: rename or delete them at the source, or send these \
         databases to different ones (--db-map); nothing was written"
    )]
    Collisions(Box<Collisions>),

    /// The name given to the migration is none.
    #[error(
        "{id:?} is no name for a migration: letters, digits, and the characters _ . - are wanted, 64 at most (--id)"
    )]
    InvalidId {
        /// The name, shortened.
        id: String,
    },

    /// Somebody else works on this migration.
    #[error(
        "migration {id} belongs to another process, {holder}, which writes to target {target}: this one may not; stop \
         that one first, or give this one a name of its own (--id) if it is another migration"
    )]
    Fenced {
        /// The migration.
        id: String,
        /// The target's URL, without its password.
        target: String,
        /// Who has it: host, process id, and something random.
        holder: String,
    },

    /// Nobody may work on this migration any more.
    #[error(
        "migration {id} has been closed at target {target} ({why}): nothing may be written there under this name"
    )]
    FencedForGood {
        /// The migration.
        id: String,
        /// The target's URL, without its password.
        target: String,
        /// What was said when it was closed.
        why: String,
    },

    /// What the target kept of this migration is gone while it runs.
    #[error(
        "target {target} has lost what it kept of migration {id} (the key {key}): it was emptied, or restarted without its \
         data; start again, which copies everything anew"
    )]
    StateGone {
        /// The migration.
        id: String,
        /// The target's URL, without its password.
        target: String,
        /// The key.
        key: String,
    },

    /// The target has lost what it had confirmed.
    #[error(
        "target {address} has come back without what it had confirmed: it was at replication offset {had} and is at {has} \
         again; start again, which goes on from there (appendfsync always keeps a target from forgetting)"
    )]
    TargetRolledBack {
        /// The target's address.
        address: String,
        /// The offset up to which it had confirmed everything.
        had: u64,
        /// The offset up to which it has everything now.
        has: u64,
    },

    /// The target was restarted while it was given a snapshot.
    #[error(
        "target {address} was restarted while the snapshot was applied, and may have lost keys that it had confirmed: start \
         again"
    )]
    TargetRestarted {
        /// The target's address.
        address: String,
    },

    /// The file of commands that the target refused cannot be written.
    #[error("dead letters {}: {doing}: {source}", path.display())]
    DeadLetters {
        /// The file.
        path: PathBuf,
        /// What was under way.
        doing: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// The run before ended at a command that the target refused, and what came right behind it is there.
    #[error(
        "the last run of migration {id} ended as target {target} refused a command: {refused}. What came behind it in the same \
         transaction has been executed, so it cannot be tried again in its place: carry it out at the target by hand if it \
         is wanted, then start again with --skip-refused"
    )]
    WasRefused {
        /// The migration.
        id: String,
        /// The target's URL, without its password.
        target: String,
        /// The command, its offset and the reply.
        refused: String,
    },

    /// A migration cannot be carried out by several workers.
    #[error("--shard {worker}: {why}; nothing was written")]
    NotDivisible {
        /// Which worker this was to be.
        worker: Worker,
        /// What is in the way, and what to do.
        why: String,
    },

    /// What the target keeps under this name is divided otherwise.
    #[error(
        "migration {id} is carried out by {known}, and this is {given}: nothing was written; start what it was begun with (--shard), or \
         begin anew under another name (--id)"
    )]
    OtherDivision {
        /// The migration as a whole.
        id: String,
        /// Who carries it out.
        known: String,
        /// What this process is.
        given: String,
    },

    /// The target does not know any more how a migration is divided, and the division of now is another one.
    #[error(
        "worker {id} had {known}, and the division that the target keeps gives it {given}: that one was removed or lost, and slots may have \
         two workers or none; nothing was written; stop all workers, and begin anew under another name (--id)"
    )]
    DivisionLost {
        /// The worker's own name.
        id: String,
        /// What it was, and its slots.
        known: String,
        /// What it would be.
        given: String,
    },

    /// Slots of a worker went to a primary that it does not read.
    #[error(
        "source: the slots {slots} went to {to}, which this worker does not read: start it again, which copies its own slots anew from \
         where they are then; other workers go on meanwhile"
    )]
    WorkerSlotsLeft {
        /// The slots.
        slots: String,
        /// Who has them now.
        to: String,
    },

    /// What the target keeps under this name is of another source.
    #[error(
        "migration {id} copies from {known}, not from {given}: nothing was written; give the source that it had, or \
         another name (--id) for another migration"
    )]
    OtherSource {
        /// The migration.
        id: String,
        /// The source that it had, without its password.
        known: String,
        /// The one given now.
        given: String,
    },

    /// What the target keeps under this name was written for another target.
    #[error(
        "what target {given} keeps of migration {id} was written for target {known}: it may be a copy of that one; give the \
         target that it had, or another name (--id) for another migration; nothing was written"
    )]
    OtherTarget {
        /// The migration.
        id: String,
        /// The target that it had, without its password.
        known: String,
        /// The one given now.
        given: String,
    },

    /// The look at both sides before the run found what would end badly; see [`precheck`](crate::precheck).
    #[error(
        "precheck: {}; nothing was written; what is named first can be ignored (--ignore ITEM)",
        failures.join("; ")
    )]
    Precheck {
        /// One line an item, its name first.
        failures: Vec<String>,
    },

    /// What the target keeps under this name was written under other rules.
    #[error(
        "migration {id} was begun with other rules: it changes {known} on the way, and this run {given}; nothing was written; \
         give the filter and the map of databases that it had, or another name (--id) for another migration"
    )]
    OtherChanges {
        /// The migration.
        id: String,
        /// What it changes.
        known: String,
        /// What this run would change.
        given: String,
    },

    /// The rules of the filter cannot be kept in this migration.
    #[error("filter: {0}; nothing was written")]
    Filter(String),

    /// A part of the program ended without a result; this is a defect of the program.
    #[error("internal: {0}")]
    Internal(String),
}

impl Error {
    pub(crate) fn no_route(
        command: Option<&CommandRef<'_>>,
        db: u64,
        offset: Option<u64>,
        why: impl ToString,
    ) -> Self {
        let command = command.map(|command| show_command(command.args(), command.len()));
        Error::NoRoute { command, db, offset, why: why.to_string() }
    }

    /// True when it was found before anything was written, and has to be found anew by the next run.
    pub(crate) fn is_before_all(&self) -> bool {
        matches!(self, Error::TargetHasKeys(_) | Error::IdleTimeUnknown { .. } | Error::NoIdleTimes)
    }

    /// True when the journal's disk has no room, which may pass.
    pub(crate) fn is_disk_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Error::Journal { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    /// A short stable word for counting: whose matter it is.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Error::Source(_) | Error::SourceConnection(_) | Error::Scan { .. } => "source",
            Error::Target(_) | Error::TargetProtocol { .. } | Error::TargetSilent { .. } => "target",
            Error::Refused(_) => "refused",
            Error::Snapshot(_) => "snapshot",
            Error::File(_) | Error::OtherFile { .. } | Error::SameFile { .. } => "file",
            Error::Unsupported { .. } | Error::NoRoute { .. } | Error::Collisions(_) => "unsupported",
            Error::HistoryLost { .. } | Error::FromNowLost { .. } => "history_lost",
            Error::Journal { .. }
            | Error::JournalInUse { .. }
            | Error::JournalLocked { .. }
            | Error::JournalOfAnother { .. }
            | Error::JournalFormat { .. }
            | Error::JournalManifest { .. }
            | Error::JournalDamaged { .. }
            | Error::NoSnapshot { .. }
            | Error::JournalGap { .. } => "journal",
            Error::Archive(_) => "archive",
            Error::Precheck { .. } => "precheck",
            Error::Internal(_) => "internal",
            // The ends are not as they have to be.
            _ => "ends",
        }
    }

    /// The error and everything that caused it, in one line for a person.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors tell their cause themselves.
            if !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        line
    }
}
