//! What a target keeps of a migration as a whole: one hash, in a fixed slot.
//!
//! It holds what both sides were, who works on it, and for each link to the source how far it has come. On one server it is
//! written in the transaction of every batch, so that it is exact. On a cluster it is written about once a second, with an
//! offset below which everything is done; what lies behind it is told by the slots' own checkpoints.

use std::{collections::BTreeMap, fmt};

use keyferry_replication::{Position, ReplicationId};
use keyferry_resp::Frame;

/// The version of what is written here.
pub(crate) const FORMAT: &str = "1";

/// Fields of the hash.
pub(crate) mod field {
    pub(crate) const FORMAT: &str = "format";
    pub(crate) const SOURCE: &str = "source";
    pub(crate) const TARGET: &str = "target";
    /// What is changed on the way.
    pub(crate) const CHANGES: &str = "changes";
    /// The last one who took it over.
    pub(crate) const OWNER: &str = "owner";
    /// Nobody may take it over any more; the text says why.
    pub(crate) const FENCE: &str = "fence";
    /// What was at the target before the migration began: `none` or `something`. Without it nothing has been written.
    pub(crate) const FOREIGN: &str = "foreign";

    /// A command at which a run ended although the target has what came behind it.
    pub(crate) const REFUSED: &str = "refused";

    /// Of an import: the number of the file that is under way, and what that one begins with.
    pub(crate) const FILE: &str = "file";

    /// It began without a full copy, and never makes one: [`FROM_NOW_PREPARED`], or `begun`.
    pub(crate) const FROM_NOW: &str = "from-now";
    /// Its positions have been written for it, and no run has begun yet.
    pub(crate) const FROM_NOW_PREPARED: &str = "prepared";
    pub(crate) const FROM_NOW_BEGUN: &str = "begun";

    /// Up to which offsets of its links nothing is held back any more of deadlines: `<link>=<offset>`, with commas; or
    /// [`DEADLINES_HELD`].
    pub(crate) const DEADLINES: &str = "deadlines";
    /// They are put at the end of the run.
    pub(crate) const DEADLINES_HELD: &str = "until-end";

    /// Of one of several workers: which, and its slots.
    pub(crate) const WORKER: &str = "worker";
    /// In the [record](crate::fleet) of a division: how many workers there are, and how far each is.
    pub(crate) const WORKERS: &str = "workers";
    pub(crate) fn worker(number: u16) -> String {
        format!("worker:{number}")
    }

    pub(crate) fn link(name: &str) -> String {
        format!("link:{name}")
    }

    /// How much of its snapshot is there: [`crate::resume::Applied::snapshot_text`].
    pub(crate) fn snapshot(name: &str) -> String {
        format!("snapshot:{name}")
    }

    /// The slots of the source that a link brings keys of.
    pub(crate) fn slots(name: &str) -> String {
        format!("slots:{name}")
    }
}

/// How far a link has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In its snapshot: up to the so-manieth item that must not be repeated.
    Snapshot(u64),
    /// In the stream; never inside a transaction.
    Stream(Position),
}

/// The state of one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkState {
    /// Which full sync it is of; offsets and items of another one say nothing.
    pub(crate) epoch: u64,
    pub(crate) stage: Stage,
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stage {
            Stage::Snapshot(at) => write!(f, "snapshot {} {at}", self.epoch),
            Stage::Stream(Position { id, offset, db, .. }) => {
                write!(f, "stream {} {id}:{offset}:", self.epoch)?;
                match db {
                    Some(db) => write!(f, "{db}"),
                    None => f.write_str("-"),
                }
            }
        }
    }
}

impl LinkState {
    /// Reads what `Display` writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (stage, epoch, at) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        let stage = match stage {
            "snapshot" => Stage::Snapshot(at.parse().ok()?),
            "stream" => {
                let mut parts = at.rsplitn(3, ':');
                let (db, offset, id) = (parts.next()?, parts.next()?, parts.next()?);
                let db = if db == "-" { None } else { Some(db.parse().ok()?) };
                let id: ReplicationId = id.parse().ok()?;
                Stage::Stream(Position { id, offset: offset.parse().ok()?, db, in_transaction: false })
            }
            _ => return None,
        };
        words.next().is_none().then_some(LinkState { epoch, stage })
    }
}

/// The whole hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State(BTreeMap<String, String>);

impl State {
    /// Reads the reply to `HGETALL`; `None` when it is no hash.
    pub(crate) fn read(reply: &Frame) -> Option<Self> {
        let text = |frame: &Frame| Some(String::from_utf8_lossy(frame.as_bytes()?).into_owned());
        let fields = match reply {
            Frame::Array(items) => items
                .chunks_exact(2)
                .map(|pair| Some((text(&pair[0])?, text(&pair[1])?)))
                .collect::<Option<BTreeMap<_, _>>>()?,
            Frame::Map(pairs) => pairs
                .iter()
                .map(|(field, value)| Some((text(field)?, text(value)?)))
                .collect::<Option<_>>()?,
            _ => return None,
        };
        Some(State(fields))
    }

    pub(crate) fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }

    /// The links that it knows, in the order of their names.
    pub(crate) fn links(&self) -> impl Iterator<Item = (&str, LinkState)> {
        self.0.iter().filter_map(|(field, value)| {
            Some((field.strip_prefix(field::link("").as_str())?, LinkState::parse(value)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_back_as_it_was_written() {
        let id: ReplicationId = "3ad1e7ef023c242514c0b05e48e4ee884551c793".parse().unwrap();
        let at = |db| Stage::Stream(Position { id, offset: 77, db, in_transaction: false });
        for stage in [Stage::Snapshot(0), Stage::Snapshot(u64::MAX), at(None), at(Some(15))] {
            let state = LinkState { epoch: 3, stage };
            assert_eq!(LinkState::parse(&state.to_string()), Some(state));
        }
        for bad in
            ["", "stream", "stream 1", "stream 1 x:2:3", "snapshot 1 2 3", "snapshot -1 2", "other 1 2"]
        {
            assert_eq!(LinkState::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_hash_is_read_from_both_protocols() {
        let bulk = |text: &str| Frame::from(bytes::Bytes::copy_from_slice(text.as_bytes()));
        let pairs = [("owner", "a"), ("link:0", "snapshot 1 5"), ("link:x", "damaged")];
        let flat = Frame::Array(pairs.iter().flat_map(|(k, v)| [bulk(k), bulk(v)]).collect());
        let map = Frame::Map(pairs.iter().map(|(k, v)| (bulk(k), bulk(v))).collect());
        for reply in [flat, map] {
            let state = State::read(&reply).unwrap();
            assert_eq!(state.get(field::OWNER), Some("a"));
            let links: Vec<_> = state.links().collect();
            assert_eq!(links, [("0", LinkState { epoch: 1, stage: Stage::Snapshot(5) })]);
        }
        assert_eq!(State::read(&Frame::Integer(1)), None);
    }
}
