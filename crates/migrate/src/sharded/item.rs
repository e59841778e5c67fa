//! What goes to a target of several nodes: one key, or commands of the stream that belong together.

use std::fmt;

use bytes::Bytes;

use super::ahead::{Ahead, AheadStage, Divided, Part};

/// How far one link to the source has come. Everything of the snapshot comes before everything of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mark {
    /// The so-manieth item of the snapshot.
    Snapshot(u64),
    /// The stream up to this replication offset.
    Stream(u64),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::Snapshot(at) => write!(f, "snapshot:{at}"),
            Mark::Stream(at) => write!(f, "stream:{at}"),
        }
    }
}

impl Mark {
    /// Reads what `Display` writes.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let (stage, at) = std::str::from_utf8(text).ok()?.split_once(':')?;
        let at = at.parse().ok()?;
        match stage {
            "snapshot" => Some(Mark::Snapshot(at)),
            "stream" => Some(Mark::Stream(at)),
            _ => None,
        }
    }
}

/// What may happen to an item when nobody knows whether the target has executed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A whole key of the snapshot. It may be sent again, and needs no order among its like.
    Free,
    /// Its outcome depends on no earlier state: it may be sent again if everything behind it is, too.
    Blind,
    /// It must be executed once: it goes in one transaction with the slot's checkpoint.
    Exact,
}

/// A unit of work for one lane: executed as a whole or not at all.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Which link it came by.
    pub(crate) link: u16,
    /// Items of a lane from one link have rising marks.
    pub(crate) mark: Mark,
    /// The replication offset of the last byte before it, for messages.
    pub(crate) at: u64,
    pub(crate) class: Class,
    /// The target's database.
    pub(crate) db: u32,
    /// The one that is selected behind it: another one where it holds `SELECT`, as transactions may on one server.
    pub(crate) db_after: u32,
    /// The source's database behind it, of the stream.
    pub(crate) source_db: Option<u64>,
    /// The commands as they go over the wire, without `MULTI` and `EXEC`.
    pub(crate) bytes: Bytes,
    /// How many commands that is; several are executed as one. None: only what the target keeps of the progress changes.
    pub(crate) commands: u32,
    /// It takes away what the target keeps of the migration, so that this has to be written anew with it.
    pub(crate) resets: bool,
    /// Which ticket of its link it counts for.
    pub(crate) ticket: u64,
    /// It may have been executed already.
    pub(crate) replay: bool,
    /// Whether some of its commands go ahead. `bytes` and `commands` are of the others.
    pub(crate) part: Part,
}

impl Item {
    /// Only what the target keeps of the progress changes: everything of the link's stream up to this offset is done, and
    /// this is the source's database there.
    pub(crate) fn nothing(link: u16, offset: u64, db: u64, ticket: u64) -> Self {
        Item {
            link,
            mark: Mark::Stream(offset),
            at: offset,
            class: Class::Exact,
            db: 0,
            db_after: 0,
            source_db: Some(db),
            bytes: Bytes::new(),
            commands: 0,
            resets: false,
            ticket,
            replay: false,
            part: Part::Whole,
        }
    }

    /// The same, divided. `bytes` and `commands` are those of all until then.
    pub(crate) fn divide(&mut self, divided: Divided) {
        let Divided { ahead, rest } = divided;
        let whole = (std::mem::replace(&mut self.bytes, rest.bytes.freeze()), self.commands);
        self.commands = rest.count;
        let (bytes, commands) = (ahead.bytes.freeze(), ahead.count);
        self.part = Part::Divided(Box::new(Ahead { bytes, commands, whole, stage: AheadStage::Waiting }));
    }

    /// Puts together what was divided: all of it goes out in one then, in the order in which it came.
    pub(crate) fn join(&mut self) {
        if let Part::Divided(ahead) = &mut self.part {
            (self.bytes, self.commands) = std::mem::take(&mut ahead.whole);
            self.part = Part::Joined;
        }
    }

    /// How far that is which goes ahead, if something does.
    pub(crate) fn ahead(&self) -> Option<AheadStage> {
        match &self.part {
            Part::Divided(ahead) => Some(ahead.stage),
            Part::Whole | Part::Joined => None,
        }
    }

    /// What it takes of the memory that its link may use.
    pub(crate) fn cost(&self) -> usize {
        let ahead = match &self.part {
            Part::Divided(ahead) => ahead.bytes.len(),
            Part::Whole | Part::Joined => 0,
        };
        self.bytes.len() + ahead + size_of::<Item>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_ordered_and_can_be_read_back() {
        assert!(Mark::Snapshot(u64::MAX) < Mark::Stream(0));
        for mark in [Mark::Snapshot(0), Mark::Stream(u64::MAX)] {
            assert_eq!(Mark::parse(mark.to_string().as_bytes()), Some(mark));
        }
        for bad in [&b""[..], b"stream", b"stream:", b"stream:-1", b"other:1", b"stream:\xff"] {
            assert_eq!(Mark::parse(bad), None);
        }
    }
}
