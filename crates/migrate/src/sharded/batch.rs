//! The form in which ordered items go over the wire, and what its replies say of each.

use std::collections::VecDeque;

use bytes::BytesMut;
use keyferry_resp::{CommandDecoder, CommandRef, ErrorReply, Limits, encode_command};
use keyferry_routing::CommandTable;

use super::{
    ahead::Part,
    checkpoint::{Checkpoints, Reached},
    item::{Class, Item, Mark},
};
use crate::error::{Error, Refusal, RefusedAt, show_command};

const LIMITS: Limits = Limits::new()
    .frame_bytes(usize::MAX)
    .bulk_bytes(usize::MAX)
    .elements(usize::MAX)
    .total_elements(usize::MAX);

/// How a batch is laid out.
///
/// One command that may be repeated goes as it is. Everything else goes as `MULTI`, the commands with a `SELECT` where the
/// database changes, a `SELECT` back to database 0, where the checkpoint is, the checkpoint if there is anything that must
/// not be repeated, `EXEC`.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The database to be selected before it; also the one selected after it.
    pub(crate) db: u32,
    pub(crate) wrapped: bool,
    /// Replies in all.
    pub(crate) replies: u32,
    /// What the checkpoint will say, by link.
    reached: Vec<Reached>,
    /// What the target keeps of the migration is written anew.
    restores: bool,
}

impl Layout {
    /// `exact` tells whether anything is not to be repeated at all.
    pub(crate) fn of(items: &VecDeque<Item>, exact: bool) -> Self {
        let restores = items.iter().any(|item| item.resets);
        if let Some(item) = items.front().filter(|_| items.len() == 1)
            && (item.class != Class::Exact || !exact)
            && item.commands == 1
            && !restores
        {
            return Layout { db: item.db, wrapped: false, replies: 1, reached: Vec::new(), restores };
        }
        let mut reached: Vec<Reached> = Vec::new();
        if exact && items.iter().any(|item| item.class == Class::Exact) {
            for item in items {
                let now = Reached { link: item.link, mark: item.mark, db: item.source_db };
                match reached.iter_mut().find(|before| before.link == item.link) {
                    Some(before) => *before = now,
                    None => reached.push(now),
                }
            }
        }
        let (mut db, mut commands) = (0, 0);
        for item in items.iter().filter(|item| item.commands > 0) {
            commands += item.commands + u32::from(item.db != db);
            db = item.db_after;
        }
        commands += u32::from(db != 0);
        if restores {
            commands += Checkpoints::RESTORING;
        }
        let replies = commands + u32::try_from(reached.len()).unwrap_or(0) + 2;
        Layout { db: 0, wrapped: true, replies, reached, restores }
    }

    /// Appends it; `note` appends what the checkpoint is to say.
    pub(crate) fn append(
        &self,
        items: &VecDeque<Item>,
        checkpoints: &Checkpoints,
        out: &mut BytesMut,
        note: impl Fn(&mut BytesMut, Reached),
    ) {
        if !self.wrapped {
            return items.iter().for_each(|item| out.extend_from_slice(&item.bytes));
        }
        out.extend_from_slice(b"*1\r\n$5\r\nMULTI\r\n");
        let mut db = 0;
        for item in items.iter().filter(|item| item.commands > 0) {
            if item.db != db {
                encode_command(out, ["SELECT", &item.db.to_string()]);
            }
            db = item.db_after;
            out.extend_from_slice(&item.bytes);
        }
        if db != 0 {
            encode_command(out, ["SELECT", "0"]);
        }
        if self.restores {
            checkpoints.append_restoring(out);
        }
        self.reached.iter().for_each(|&reached| note(out, reached));
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
        for (n, item) in items.iter().enumerate().filter(|(_, item)| item.commands > 0) {
            let selects = item.db != db;
            db = item.db_after;
            if selects {
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
            let (at, shown) =
                nth_command(&item.bytes, n, |command| show_command(command.args(), command.len()));
            let origin = match item.mark {
                Mark::Snapshot(_) => RefusedAt::Snapshot,
                Mark::Stream(_) => RefusedAt::Stream { offset: item.at + at },
            };
            (shown, Some(u64::from(item.db)), origin)
        }
        None => ("(its own bookkeeping)".to_owned(), None, RefusedAt::Snapshot),
    };
    Error::Refused(Box::new(Refusal {
        address,
        reply: reply.to_string(),
        command: shown,
        db,
        origin,
        passed: false,
    }))
}

/// Where a command of an item is.
pub(crate) struct CommandPlace {
    pub(crate) bytes: std::ops::Range<usize>,
    /// The target's database that it is meant for.
    pub(crate) db: u32,
}

/// Where the so-manieth command of an item is.
pub(crate) fn place_of(item: &Item, n: u32) -> Option<CommandPlace> {
    let mut decoder = CommandDecoder::with_limits(LIMITS);
    let (mut at, mut db) = (0, item.db);
    for i in 0..=n {
        let command = decoder.next_ref(&item.bytes[at..]).ok()??;
        let end = at + command.consumed();
        if i == n {
            return Some(CommandPlace { bytes: at..end, db });
        }
        if command.is("SELECT") {
            db = std::str::from_utf8(command.arg(1)?).ok()?.parse().ok()?;
        }
        at = end;
    }
    None
}

/// The item with all its commands in the order in which they came, and which of these the so-manieth of `part` is: what goes
/// ahead of a divided item, or the rest of it. Of equal ones it is the first.
pub(crate) fn in_whole(item: &Item, part: &[u8], n: u32) -> (Item, u32) {
    let Part::Divided(ahead) = &item.part else { return (item.clone(), n) };
    let (whole, mut part) = (commands(&ahead.whole.0), commands(part));
    let (mut left, mut wanted, mut found) = (n, part.next(), 0);
    for (at, command) in (0..).zip(whole) {
        if Some(command) == wanted {
            found = at;
            if left == 0 {
                break;
            }
            left -= 1;
            wanted = part.next();
        }
    }
    let mut item = item.clone();
    item.join();
    (item, found)
}

/// True when the so-manieth command of an item may be repeated with what follows it.
pub(crate) fn is_blind(item: &Item, n: u32) -> bool {
    let mut decoder = CommandDecoder::with_limits(LIMITS);
    let command = commands(&item.bytes).nth(n as usize);
    let command = command.and_then(|raw| decoder.next_ref(raw).ok().flatten());
    command.is_some_and(|command| CommandTable::builtin().is_blind_write(&command))
}

/// Each command, as it goes over the wire.
fn commands(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut decoder = CommandDecoder::with_limits(LIMITS);
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        at += decoder.next_ref(bytes.get(at..)?).ok()??.consumed();
        bytes.get(start..at)
    })
}

/// The name and the keys of the so-manieth command of an item, without its values: for what is logged.
pub(crate) fn named(item: &Item, n: u32) -> String {
    let mut keys = Vec::new();
    let shown = nth_command(&item.bytes, n, |command| {
        let found = CommandTable::builtin().keys(command, &mut keys);
        let keys = if found.is_ok() { &keys[..] } else { &[] };
        let args = keys.iter().filter_map(|key| command.arg(key.index));
        show_command(std::iter::once(command.name()).chain(args), keys.len() + 1)
    });
    shown.1
}

/// Where the command begins, and how it is shown.
fn nth_command(bytes: &[u8], n: u32, show: impl FnOnce(&CommandRef<'_>) -> String) -> (u64, String) {
    let mut decoder = CommandDecoder::with_limits(LIMITS);
    let mut at = 0;
    for i in 0..=n {
        let Ok(Some(command)) = decoder.next_ref(&bytes[at..]) else { break };
        if i == n {
            return (at as u64, show(&command));
        }
        at += command.consumed();
    }
    (0, "(not found)".to_owned())
}

#[cfg(test)]
mod tests {
    use keyferry_resp::Command;

    use super::*;
    use crate::sharded::checkpoint::tests::some;

    fn item(class: Class, at: u64, db: u32, commands: &[&[&str]]) -> Item {
        let mut bytes = BytesMut::new();
        for command in commands {
            encode_command(&mut bytes, *command);
        }
        let commands = u32::try_from(commands.len()).unwrap();
        let mark = Mark::Stream(at);
        Item {
            link: 0,
            mark,
            at,
            class,
            db,
            db_after: db,
            source_db: None,
            bytes: bytes.freeze(),
            commands,
            resets: false,
            ticket: 0,
            replay: false,
            part: Part::Whole,
        }
    }

    fn commands(layout: &Layout, items: &VecDeque<Item>) -> Vec<String> {
        let mut out = BytesMut::new();
        let checkpoints = some(false);
        layout.append(items, &checkpoints, &mut out, |out, reached| {
            checkpoints.append_write(out, 5, reached, None);
        });
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
        let layout = Layout::of(&items, true);
        assert_eq!((layout.db, layout.replies), (3, 1));
        assert_eq!(commands(&layout, &items), ["SET"]);
    }

    #[test]
    fn a_batch_is_one_transaction_with_its_checkpoint() {
        let items = VecDeque::from([
            item(Class::Blind, 1, 0, &[&["SET", "a", "1"]]),
            item(Class::Exact, 2, 3, &[&["INCR", "a"], &["INCR", "b"]]),
        ]);
        let layout = Layout::of(&items, true);
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
    fn what_is_logged_has_keys_and_no_values() {
        let commands: &[&[&str]] = &[&["SET", "a", "v1"], &["MSET", "b", "v2", "c", "v3"], &["OTHER", "v4"]];
        let item = item(Class::Exact, 1, 0, commands);
        assert_eq!([0, 1, 2].map(|n| named(&item, n)), ["SET a", "MSET b c", "OTHER"]);
    }

    #[test]
    fn without_exactness_there_are_no_checkpoints() {
        let alone = VecDeque::from([item(Class::Exact, 9, 3, &[&["INCR", "a"]])]);
        let layout = Layout::of(&alone, false);
        assert_eq!((layout.db, commands(&layout, &alone)), (3, vec!["INCR".to_owned()]));
        let two = VecDeque::from([alone[0].clone(), item(Class::Exact, 10, 3, &[&["INCR", "b"]])]);
        let sent = commands(&Layout::of(&two, false), &two);
        assert_eq!(sent, ["MULTI", "SELECT", "INCR", "INCR", "SELECT", "EXEC"]);
    }

    #[test]
    fn what_empties_the_target_is_followed_by_what_it_is_to_keep() {
        let mut items = VecDeque::from([item(Class::Exact, 1, 3, &[&["FLUSHALL"]])]);
        items[0].resets = true;
        // Nothing but the progress changes.
        items.push_back(Item {
            commands: 0,
            bytes: bytes::Bytes::new(),
            db: 5,
            ..item(Class::Exact, 2, 5, &[])
        });
        let layout = Layout::of(&items, true);
        let sent = commands(&layout, &items);
        assert_eq!(sent, ["MULTI", "SELECT", "FLUSHALL", "SELECT", "HSET", "SET", "HSET", "EXEC"]);
        assert_eq!(layout.replies as usize, sent.len());
        assert_eq!(layout.place(&items, 7, Some(1)), Some((0, 0)));
        assert_eq!(layout.place(&items, 7, Some(3)), None);
    }

    #[test]
    fn blind_writes_together_need_no_checkpoint() {
        let items = VecDeque::from([
            item(Class::Blind, 1, 0, &[&["SET", "a", "1"]]),
            item(Class::Blind, 2, 0, &[&["DEL", "a"]]),
        ]);
        assert_eq!(commands(&Layout::of(&items, true), &items), ["MULTI", "SET", "DEL", "EXEC"]);
    }
}
