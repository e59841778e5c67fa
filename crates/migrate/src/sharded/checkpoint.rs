//! What a target keeps of a migration's progress, slot by slot, beside the data itself.
//!
//! Each slot has one hash whose name maps to the slot, with a field for each link of each run. It is written in the
//! transaction of every write that must not be repeated, so that both are there or neither is, and it moves, fails over
//! and rolls back together with the data.

use bytes::BytesMut;
use keyferry_resp::{Command, Frame, encode_command};
use keyferry_routing::tag_for_slot;

use super::item::Mark;

/// Names of the migration's own keys begin so.
pub(crate) const PREFIX: &str = "keyferry:checkpoint:";

/// The name of a slot's checkpoint.
pub(crate) fn key(slot: u16) -> String {
    format!("{PREFIX}{{{}}}", tag_for_slot(slot))
}

/// What tells this run's fields from those that other runs left.
#[derive(Clone, Debug)]
pub(crate) struct RunId(String);

impl RunId {
    /// A name that no other run has.
    pub(crate) fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        let (a, b) = (RandomState::new().hash_one(0), RandomState::new().hash_one(1));
        RunId(format!("{a:016x}{b:016x}"))
    }

    /// The name of a link's field.
    pub(crate) fn field(&self, link: u16) -> String {
        format!("{}:{link}", self.0)
    }

    /// Appends the command that notes that `slot` has everything of `link` up to `mark`.
    pub(crate) fn append_write(&self, out: &mut BytesMut, slot: u16, link: u16, mark: Mark) {
        encode_command(out, ["HSET", &key(slot), &self.field(link), &mark.to_string()]);
    }

    /// The commands that ask for a slot's checkpoint. The first writes to it: a replica refuses that, and `WAIT` speaks of
    /// what was written before by others only to a connection that has written itself (Redis 7.2, Valkey).
    pub(crate) fn look(&self, slot: u16) -> [Command; 2] {
        let (key, field) = (key(slot), format!("{}:looked", self.0));
        [Command::new(["HSET", &key, &field, ""]), Command::new(["HGETALL", &key])]
    }

    /// Takes this run's marks, by link, out of the reply to [`RunId::look`]. `None` when the reply is no hash.
    pub(crate) fn read(&self, reply: &Frame) -> Option<Vec<(u16, Mark)>> {
        let flat: Vec<&[u8]> = match reply {
            Frame::Array(items) => items.iter().map(bytes_of).collect::<Option<_>>()?,
            Frame::Map(pairs) => pairs
                .iter()
                .flat_map(|(field, value)| [bytes_of(field), bytes_of(value)])
                .collect::<Option<_>>()?,
            _ => return None,
        };
        let mut marks = Vec::new();
        for pair in flat.chunks_exact(2) {
            let field = std::str::from_utf8(pair[0]).ok();
            let link = field.and_then(|f| f.strip_prefix(&self.0)?.strip_prefix(':')?.parse().ok());
            if let (Some(link), Some(mark)) = (link, Mark::parse(pair[1])) {
                marks.push((link, mark));
            }
        }
        Some(marks)
    }
}

fn bytes_of(frame: &Frame) -> Option<&[u8]> {
    frame.as_bytes().map(|bytes| &bytes[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_in_its_slot_and_can_be_read_back() {
        for slot in [0, 1, 12182, 16383] {
            assert_eq!(keyferry_routing::slot(key(slot).as_bytes()), slot);
        }
        let run = RunId::new();
        let bulk = |text: &str| Frame::from(bytes::Bytes::copy_from_slice(text.as_bytes()));
        let other = RunId::new();
        let reply = Frame::Array(vec![
            bulk(&run.field(3)),
            bulk("stream:77"),
            bulk(&other.field(3)),
            bulk("stream:99"),
            bulk("unrelated"),
            bulk("x"),
        ]);
        assert_eq!(run.read(&reply), Some(vec![(3, Mark::Stream(77))]));
        assert_eq!(run.read(&Frame::Integer(1)), None);
    }
}
