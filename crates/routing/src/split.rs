use keyferry_resp::Command;

use crate::args::{Arguments, at};
use crate::slot::slot;

/// A command in parts, one for each slot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Split {
    /// The parts, by slot.
    pub parts: Vec<Part>,
    /// How the replies to the parts make the reply to the command.
    pub merge: Merge,
}

/// One part of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// The slot of all its keys.
    pub slot: u16,
    /// The command with these keys only, in their order. Where a key is named twice, both are here.
    pub command: Command,
    /// Which of the keys of the command these are, counted from 0.
    pub positions: Vec<usize>,
}

/// How the replies to the parts of a command make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Merge {
    /// Integers, to be added: `DEL`, `UNLINK`, `EXISTS`, `TOUCH`.
    Sum,
    /// Arrays, whose elements belong at the [`positions`](Part::positions) of their part: `MGET`.
    Order,
    /// `+OK` if all are: `MSET`.
    AllOk,
}

/// Divides a command whose arguments from 1 on are keys, every `step`th, with their values between them.
pub(crate) fn split<A: Arguments + ?Sized>(args: &A, step: usize, merge: Merge) -> Split {
    let mut keys: Vec<(u16, usize)> =
        (1..args.count()).step_by(step).map(|index| (slot(at(args, index)), index)).collect();
    // Stable: later duplicates stay behind earlier ones, so that they win.
    keys.sort_by_key(|&(slot, _)| slot);
    let parts = keys
        .chunk_by(|a, b| a.0 == b.0)
        .map(|keys| {
            let mut parts = Vec::with_capacity(1 + keys.len() * step);
            parts.push(at(args, 0));
            for &(_, index) in keys {
                parts.extend((index..index + step).map(|index| at(args, index)));
            }
            Part {
                slot: keys.first().map_or(0, |&(slot, _)| slot),
                command: Command::new(parts),
                positions: keys.iter().map(|&(_, index)| (index - 1) / step).collect(),
            }
        })
        .collect();
    Split { parts, merge }
}
