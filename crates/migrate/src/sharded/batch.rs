//! The form in which ordered items go over the wire, and what its replies say of each.

use std::collections::VecDeque;

use bytes::BytesMut;
use keyferry_resp::{CommandDecoder, ErrorReply, Limits, encode_command};

use super::{
    checkpoint::RunId,
    item::{Class, Item, Mark},
};
use crate::error::{Error, Refusal, RefusedAt, show_command};

/// How a batch is laid out.
///
/// One blind write goes as it is. Everything else goes as `MULTI`, the commands with a `SELECT` where the database
/// changes, a `SELECT` back to database 0, where the checkpoint is, the checkpoint if there is anything that must not be
/// repeated, `EXEC`.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The database to be selected before it; also the one selected after it.
    pub(crate) db: u32,
    pub(crate) wrapped: bool,
    /// Replies in all.
    pub(crate) replies: u32,
    /// What the checkpoint will say, by link.
    marks: Vec<(u16, Mark)>,
}

impl Layout {
    pub(crate) fn of(items: &VecDeque<Item>) -> Self {
        if let Some(item) = items.front().filter(|_| items.len() == 1)
            && item.class != Class::Exact
            && item.commands == 1
        {
            return Layout { db: item.db, wrapped: false, replies: 1, marks: Vec::new() };
        }
        let mut marks: Vec<(u16, Mark)> = Vec::new();
        if items.iter().any(|item| item.class == Class::Exact) {
            for item in items {
                match marks.iter_mut().find(|(link, _)| *link == item.link) {
                    Some((_, mark)) => *mark = item.mark,
                    None => marks.push((item.link, item.mark)),
                }
            }
        }
        let (mut db, mut commands) = (0, 0);
        for item in items {
            commands += item.commands + u32::from(item.db != db);
            db = item.db;
        }
        commands += u32::from(db != 0);
        let replies = commands + u32::try_from(marks.len()).unwrap_or(0) + 2;
        Layout { db: 0, wrapped: true, replies, marks }
    }

    pub(crate) fn append(&self, items: &VecDeque<Item>, run: &RunId, slot: u16, out: &mut BytesMut) {
        if !self.wrapped {
            return items.iter().for_each(|item| out.extend_from_slice(&item.bytes));
        }
        out.extend_from_slice(b"*1\r\n$5\r\nMULTI\r\n");
        let mut db = 0;
        for item in items {
            if item.db != db {
                db = item.db;
                encode_command(out, ["SELECT", &db.to_string()]);
            }
            out.extend_from_slice(&item.bytes);
        }
        if db != 0 {
            encode_command(out, ["SELECT", "0"]);
        }
        for &(link, mark) in &self.marks {
            run.append_write(out, slot, link, mark);
        }
        out.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
    }

    /// Which item, and which of its commands, the `element`th part of reply `reply` belongs to.
    pub(crate) fn place(
        &self,
        items: &VecDeque<Item>,
        reply: u32,
        element: Option<u64>,
    ) -> Option<(usize, u32)> {
        if !self.wrapped {
            return Some((0, 0));
        }
        // Replies are those to MULTI, to each command that was queued, and to EXEC.
        let mut at = match element {
            Some(element) => u32::try_from(element).ok()?,
            None => reply.checked_sub(1)?,
        };
        let mut db = 0;
        for (n, item) in items.iter().enumerate() {
            if item.db != db {
                db = item.db;
                // A SELECT that is refused is the fault of what it was for.
                if at == 0 {
                    return Some((n, 0));
                }
                at -= 1;
            }
            if at < item.commands {
                return Some((n, at));
            }
            at -= item.commands;
        }
        None
    }
}

/// The error for an item's command that was refused for good.
pub(crate) fn refusal(address: String, command: Option<(&Item, u32)>, reply: &ErrorReply) -> Error {
    let (shown, db, origin) = match command {
        Some((item, n)) => {
            let origin = match item.mark {
                Mark::Snapshot(_) => RefusedAt::Snapshot,
                Mark::Stream(_) => RefusedAt::Stream { offset: item.at },
            };
            (nth_command(&item.bytes, n), Some(u64::from(item.db)), origin)
        }
        None => ("(its own bookkeeping)".to_owned(), None, RefusedAt::Snapshot),
    };
    Error::Refused(Box::new(Refusal { address, reply: reply.to_string(), command: shown, db, origin }))
}

fn nth_command(bytes: &[u8], n: u32) -> String {
    const LIMITS: Limits = Limits::new().frame_bytes(usize::MAX).bulk_bytes(usize::MAX).elements(usize::MAX);
    let mut decoder = CommandDecoder::with_limits(LIMITS);
    let mut at = 0;
    for i in 0..=n {
        let Ok(Some(command)) = decoder.next_ref(&bytes[at..]) else { break };
        if i == n {
            return show_command(command.args(), command.len());
        }
        at += command.consumed();
    }
    "(not found)".to_owned()
}

#[cfg(test)]
mod tests {
    use keyferry_resp::Command;

    use super::*;

    fn item(class: Class, at: u64, db: u32, commands: &[&[&str]]) -> Item {
        let mut bytes = BytesMut::new();
        for command in commands {
            encode_command(&mut bytes, *command);
        }
        let commands = u32::try_from(commands.len()).unwrap();
        let mark = Mark::Stream(at);
        Item { link: 0, mark, at, class, db, bytes: bytes.freeze(), commands, ticket: 0, replay: false }
    }

    fn commands(layout: &Layout, items: &VecDeque<Item>) -> Vec<String> {
        let mut out = BytesMut::new();
        layout.append(items, &RunId::new(), 5, &mut out);
        let mut decoder = CommandDecoder::new();
        let mut found = Vec::new();
        while let Some(command) = decoder.decode(&mut out).unwrap() {
            found.push(command);
        }
        found.iter().map(|c: &Command| String::from_utf8_lossy(c.name()).into_owned()).collect()
    }

    #[test]
    fn a_blind_write_alone_goes_bare() {
        let items = VecDeque::from([item(Class::Blind, 9, 3, &[&["SET", "a", "1"]])]);
        let layout = Layout::of(&items);
        assert_eq!((layout.db, layout.replies), (3, 1));
        assert_eq!(commands(&layout, &items), ["SET"]);
    }

    #[test]
    fn a_batch_is_one_transaction_with_its_checkpoint() {
        let items = VecDeque::from([
            item(Class::Blind, 1, 0, &[&["SET", "a", "1"]]),
            item(Class::Exact, 2, 3, &[&["INCR", "a"], &["INCR", "b"]]),
        ]);
        let layout = Layout::of(&items);
        let sent = commands(&layout, &items);
        assert_eq!(sent, ["MULTI", "SET", "SELECT", "INCR", "INCR", "SELECT", "HSET", "EXEC"]);
        assert_eq!(layout.replies as usize, sent.len());
        // An error while queueing, one inside the result, and one of the checkpoint.
        assert_eq!(layout.place(&items, 1, None), Some((0, 0)));
        assert_eq!(layout.place(&items, 4, None), Some((1, 1)));
        assert_eq!(layout.place(&items, 7, Some(2)), Some((1, 0)));
        assert_eq!(layout.place(&items, 7, Some(5)), None);
        let error = refusal("a:1".into(), Some((&items[1], 1)), &ErrorReply::new("OOM no"));
        assert!(error.to_string().contains("INCR b"), "{error}");
    }

    #[test]
    fn blind_writes_together_need_no_checkpoint() {
        let items = VecDeque::from([
            item(Class::Blind, 1, 0, &[&["SET", "a", "1"]]),
            item(Class::Blind, 2, 0, &[&["DEL", "a"]]),
        ]);
        assert_eq!(commands(&Layout::of(&items), &items), ["MULTI", "SET", "DEL", "EXEC"]);
    }
}
