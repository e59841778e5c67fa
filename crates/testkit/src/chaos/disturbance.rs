use std::fmt;

use crate::proxy::{Direction, Mark};

/// The kinds of [`Disturbance`], by the names that the command line has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// `kill -9` of the program, and a start with the same id and journal.
    KillTool,
    /// SIGTERM, which ends it with everything applied that it has read, and a start.
    StopTool,
    /// SIGSTOP of the program for longer than the timeouts.
    FreezeTool,
    /// A second program with the same id, which has to be refused.
    SecondTool,
    /// SIGSTOP of the program until another has taken its place; when it goes on it has to find that out.
    ReplaceTool,
    /// The program's journal is lost while it is down.
    LoseJournal,
    /// Connections to the source are closed.
    CutSource,
    /// Connections to the target are closed.
    CutTarget,
    /// The source cannot be reached for a while.
    SourceAway,
    /// The target cannot be reached for a while.
    TargetAway,
    /// SIGSTOP of a source for longer than the timeouts.
    FreezeSource,
    /// SIGSTOP of a target for longer than the timeouts.
    FreezeTarget,
    /// `kill -9` of a target that keeps an append-only file, and a restart.
    KillTarget,
    /// `kill -9` of a primary of the source, and a replica in its place.
    FailOver,
    /// The source denies a partial synchronisation.
    Resync,
    /// No room for the journal.
    DiskFull,
    /// The target has no memory left and evicts nothing.
    OutOfMemory,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 17] = [
        Kind::KillTool,
        Kind::StopTool,
        Kind::FreezeTool,
        Kind::SecondTool,
        Kind::ReplaceTool,
        Kind::LoseJournal,
        Kind::CutSource,
        Kind::CutTarget,
        Kind::SourceAway,
        Kind::TargetAway,
        Kind::FreezeSource,
        Kind::FreezeTarget,
        Kind::KillTarget,
        Kind::FailOver,
        Kind::Resync,
        Kind::DiskFull,
        Kind::OutOfMemory,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::KillTool => "kill-tool",
            Kind::StopTool => "stop-tool",
            Kind::FreezeTool => "freeze-tool",
            Kind::SecondTool => "second-tool",
            Kind::ReplaceTool => "replace-tool",
            Kind::LoseJournal => "lose-journal",
            Kind::CutSource => "cut-source",
            Kind::CutTarget => "cut-target",
            Kind::SourceAway => "source-away",
            Kind::TargetAway => "target-away",
            Kind::FreezeSource => "freeze-source",
            Kind::FreezeTarget => "freeze-target",
            Kind::KillTarget => "kill-target",
            Kind::FailOver => "fail-over",
            Kind::Resync => "resync",
            Kind::DiskFull => "disk-full",
            Kind::OutOfMemory => "out-of-memory",
        }
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is done to a round. Times are in milliseconds; nodes are numbers that count modulo how many there are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disturbance {
    /// Kill the program, wait, start it again.
    KillTool {
        /// Until it is started again.
        down: u64,
    },
    /// Let the program end by itself, wait, start it again.
    StopTool {
        /// Until it is started again.
        down: u64,
    },
    /// Stop the program, let it go on.
    FreezeTool {
        /// Until it goes on.
        time: u64,
    },
    /// Start a second program with the same id and another journal.
    SecondTool,
    /// Stop the program for longer than it owns the migration, start another with another journal, let the first go on.
    ReplaceTool,
    /// Kill the program, remove its journal, start it again.
    LoseJournal,
    /// Close connections to a node of the source.
    CutSource {
        /// Which one.
        node: usize,
        /// When.
        cut: Cut,
    },
    /// Close connections to a node of the target.
    CutTarget {
        /// Which one.
        node: usize,
        /// When.
        cut: Cut,
    },
    /// Close connections to all nodes of the source and refuse new ones.
    SourceAway {
        /// Until they are accepted again.
        time: u64,
    },
    /// Close connections to all nodes of the target and refuse new ones.
    TargetAway {
        /// Until they are accepted again.
        time: u64,
        /// Kill the program meanwhile, and start it while the target is still away.
        kill_tool: bool,
    },
    /// Stop a node of the source.
    FreezeSource {
        /// Which one.
        node: usize,
        /// Until it goes on.
        time: u64,
    },
    /// Stop a node of the target.
    FreezeTarget {
        /// Which one.
        node: usize,
        /// Until it goes on.
        time: u64,
    },
    /// Kill a node of the target and restart it with what it has on disk.
    KillTarget {
        /// Which one.
        node: usize,
        /// Until it is started.
        down: u64,
        /// Kill the program meanwhile, and start it while the target is still down.
        kill_tool: bool,
    },
    /// Kill a primary of the source and put its replica in its place.
    FailOver {
        /// Which one.
        node: usize,
        /// Whether the replica has everything that the primary had.
        everything: bool,
    },
    /// Let a node of the source forget its replication id, and close its connections.
    Resync {
        /// Which one.
        node: usize,
        /// Kill the program before, and start it afterwards.
        kill_tool: bool,
    },
    /// Fill the disk of the journal up.
    DiskFull {
        /// Until there is room again.
        time: u64,
        /// Stop a node of the target meanwhile, so that the journal is needed.
        freeze_target: bool,
    },
    /// Leave the target no memory.
    OutOfMemory {
        /// Until it has memory again.
        time: u64,
    },
}

/// When connections are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cut {
    /// At once.
    Now,
    /// After so many more bytes to the server.
    BytesTo(u64),
    /// After so many more bytes from the server.
    BytesFrom(u64),
    /// At a place known by what is said there; at once when that is not said in time.
    At(Place),
}

/// A place in what is said over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// In the middle of an `EXEC`, of which so many are let through before.
    Exec(u32),
    /// In the reply to an `EXEC`, of which so many are let through before: it was carried out, but nobody was told.
    ReplyToExec(u32),
    /// Right behind `$EOF:`, at the begin of a snapshot.
    BeginOfSnapshot,
    /// In the middle of the mark at the end of a streamed snapshot.
    EndOfSnapshot,
    /// In the head of a command, of which so many are let through before.
    Frame(u32),
}

impl Place {
    /// Where a proxy looks for it.
    pub(super) fn mark(self) -> (Direction, Mark) {
        let text = |text: &[u8], skip| Mark::Text { text: text.to_vec(), skip };
        match self {
            Place::Exec(skip) => (Direction::ToTarget, text(b"\r\n$4\r\nEX", skip)),
            Place::ReplyToExec(skip) => (Direction::FromTarget, text(b"+QUEUED\r\n*", skip)),
            Place::BeginOfSnapshot => (Direction::FromTarget, Mark::text(&b"$EOF:"[..])),
            Place::EndOfSnapshot => (Direction::FromTarget, Mark::EndOfSnapshot),
            Place::Frame(skip) => (Direction::FromTarget, text(b"\r\n*3\r\n$", skip)),
        }
    }
}

impl Disturbance {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Disturbance::KillTool { .. } => Kind::KillTool,
            Disturbance::StopTool { .. } => Kind::StopTool,
            Disturbance::FreezeTool { .. } => Kind::FreezeTool,
            Disturbance::SecondTool => Kind::SecondTool,
            Disturbance::ReplaceTool => Kind::ReplaceTool,
            Disturbance::LoseJournal => Kind::LoseJournal,
            Disturbance::CutSource { .. } => Kind::CutSource,
            Disturbance::CutTarget { .. } => Kind::CutTarget,
            Disturbance::SourceAway { .. } => Kind::SourceAway,
            Disturbance::TargetAway { .. } => Kind::TargetAway,
            Disturbance::FreezeSource { .. } => Kind::FreezeSource,
            Disturbance::FreezeTarget { .. } => Kind::FreezeTarget,
            Disturbance::KillTarget { .. } => Kind::KillTarget,
            Disturbance::FailOver { .. } => Kind::FailOver,
            Disturbance::Resync { .. } => Kind::Resync,
            Disturbance::DiskFull { .. } => Kind::DiskFull,
            Disturbance::OutOfMemory { .. } => Kind::OutOfMemory,
        }
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let also = |kill_tool: bool| if kill_tool { ", and the program is killed meanwhile" } else { "" };
        match self {
            Disturbance::KillTool { down } => write!(f, "kill -9 of the program, started after {down} ms"),
            Disturbance::StopTool { down } => write!(f, "the program is ended, and started after {down} ms"),
            Disturbance::FreezeTool { time } => write!(f, "SIGSTOP of the program for {time} ms"),
            Disturbance::SecondTool => write!(f, "a second program with the same id"),
            Disturbance::ReplaceTool => {
                write!(f, "SIGSTOP of the program, which goes on when another has taken its place")
            }
            Disturbance::LoseJournal => write!(f, "kill -9 of the program, whose journal is removed"),
            Disturbance::CutSource { node, cut } => write!(f, "links to source {node} are cut {cut}"),
            Disturbance::CutTarget { node, cut } => write!(f, "links to target {node} are cut {cut}"),
            Disturbance::SourceAway { time } => write!(f, "the source is away for {time} ms"),
            Disturbance::TargetAway { time, kill_tool } => {
                write!(f, "the target is away for {time} ms{}", also(*kill_tool))
            }
            Disturbance::FreezeSource { node, time } => write!(f, "SIGSTOP of source {node} for {time} ms"),
            Disturbance::FreezeTarget { node, time } => write!(f, "SIGSTOP of target {node} for {time} ms"),
            Disturbance::KillTarget { node, down, kill_tool } => {
                write!(f, "kill -9 of target {node}, started after {down} ms{}", also(*kill_tool))
            }
            Disturbance::FailOver { node, everything: true } => write!(f, "failover of source {node}"),
            Disturbance::FailOver { node, .. } => {
                write!(f, "failover of source {node} to a replica that lacks the last writes")
            }
            Disturbance::Resync { node, kill_tool } => {
                write!(f, "source {node} has another replication id{}", also(*kill_tool))
            }
            Disturbance::DiskFull { time, freeze_target } => {
                let also = if *freeze_target { ", while the target stands still" } else { "" };
                write!(f, "no room for the journal for {time} ms{also}")
            }
            Disturbance::OutOfMemory { time } => write!(f, "no memory at the target for {time} ms"),
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cut::Now => write!(f, "at once"),
            Cut::BytesTo(bytes) => write!(f, "after {bytes} bytes to it"),
            Cut::BytesFrom(bytes) => write!(f, "after {bytes} bytes from it"),
            Cut::At(Place::Exec(skip)) => write!(f, "in the EXEC after {skip} others"),
            Cut::At(Place::ReplyToExec(skip)) => write!(f, "in the reply to the EXEC after {skip} others"),
            Cut::At(Place::BeginOfSnapshot) => write!(f, "behind $EOF:"),
            Cut::At(Place::EndOfSnapshot) => write!(f, "in the mark at the end of the snapshot"),
            Cut::At(Place::Frame(skip)) => write!(f, "in the head of the frame after {skip} others"),
        }
    }
}
