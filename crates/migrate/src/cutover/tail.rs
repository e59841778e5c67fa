//! Reading a piece of a primary's stream, to know what was written there.

use std::{collections::HashSet, time::Duration};

use keyferry_replication::{AckPolicy, Link, LinkOptions, Position, handshake::SyncReply};
use keyferry_resp::{CommandDecoder, CommandRef, Limits};
use keyferry_routing::CommandTable;

use super::side::Node;
use crate::error::{Error, show_command};

/// How long a primary may take to say what it has written already.
const SILENCE: Duration = Duration::from_secs(10);

/// Commands that are shown.
const SAMPLES: usize = 10;

/// What keys of keyferry begin with.
const OWN: &[u8] = b"keyferry:";

const LIMITS: Limits = Limits::new()
    .frame_bytes(usize::MAX)
    .bulk_bytes(usize::MAX)
    .elements(usize::MAX)
    .total_elements(usize::MAX);

/// What a piece of a stream has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// Commands that change data.
    pub(super) writes: u64,
    /// Single deletions, as a server itself writes for keys that have expired.
    pub(super) deletions: u64,
    /// Some of the writes.
    pub(super) samples: Vec<String>,
    /// Behind the mark that was looked for.
    pub(super) mark: Option<Position>,
    /// What commands name first, which tells commands of the source from others.
    pub(super) keys: HashSet<Vec<u8>>,
}

impl Tail {
    /// Writes of others, where so many keys have expired meanwhile.
    pub(super) fn writes_beside(&self, expired: u64) -> u64 {
        self.writes + self.deletions.saturating_sub(expired)
    }

    fn write(&mut self, command: &CommandRef<'_>) {
        self.writes += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(show_command(command.args(), command.len()));
        }
    }

    fn take(&mut self, command: &CommandRef<'_>) {
        if is_silent(command) || command.arg(1).is_some_and(|key| key.starts_with(OWN)) {
            return;
        }
        if (command.is("DEL") || command.is("UNLINK")) && command.len() == 2 {
            self.deletions += 1;
            return;
        }
        self.write(command);
    }
}

/// A command that changes nothing.
fn is_silent(command: &CommandRef<'_>) -> bool {
    ["PING", "SELECT", "REPLCONF", "MULTI", "EXEC"].iter().any(|name| command.is(name))
}

/// What is looked for in a piece of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look<'a> {
    /// Everything that was written.
    Writes,
    /// What was written by others than the migration that keeps its state in this key. Its batches are transactions that write there;
    /// what may be repeated goes ahead of them, and its keys are among these, which the source has written.
    Others(&'a [u8], &'a HashSet<Vec<u8>>),
    /// Which keys were written.
    Keys,
    /// The command that writes this value to this key.
    Mark(&'a [u8], &'a [u8]),
}

/// Reads what `node` has written from `from` to the offset `to`.
///
/// # Errors
/// When the link fails, or the server no longer has what is asked for.
pub(super) async fn read(node: &Node, from: &Position, to: u64, look: Look<'_>) -> Result<Tail, Error> {
    let mut tail = Tail::default();
    if from.offset >= to {
        return Ok(tail);
    }
    let mut options = LinkOptions::default();
    options.silence = SILENCE;
    options.acks = AckPolicy::default();
    let mut link = Link::connect(&node.connect, &options, Some(from)).await.map_err(Error::Source)?;
    if !matches!(link.reply(), SyncReply::Continue { .. }) {
        return Err(Error::Cutover {
            step: "reading the stream",
            why: format!("{} no longer has what it has written since {from}", node.name()),
        });
    }
    let mut decoder = CommandDecoder::with_limits(LIMITS);
    let mut transaction: Option<Transaction> = None;
    loop {
        let batch = link.next_batch().await.map_err(Error::Source)?;
        let mut at = 0;
        while at < batch.bytes.len() {
            let Ok(Some(command)) = decoder.next_ref(&batch.bytes[at..]) else {
                return Err(Error::Internal("a command of the stream cannot be read back".into()));
            };
            at += command.consumed();
            match look {
                Look::Writes => tail.take(&command),
                Look::Others(state, keys) => others(&mut tail, &mut transaction, &command, (state, keys)),
                Look::Keys => {
                    if !is_silent(&command)
                        && let Some(key) = command.arg(1)
                    {
                        tail.keys.insert(key.to_vec());
                    }
                }
                Look::Mark(key, value) => {
                    if command.is("SET") && command.arg(1) == Some(key) && command.arg(2) == Some(value) {
                        let end = link.position().clone();
                        let offset = batch.start + at as u64;
                        tail.mark = Some(Position { id: end.id, offset, db: Some(0), in_transaction: false });
                        return Ok(tail);
                    }
                }
            }
        }
        if link.position().offset >= to {
            return Ok(tail);
        }
    }
}

/// What a transaction has so far.
#[derive(Debug, Default)]
struct Transaction {
    tail: Tail,
    /// It writes the state of the migration.
    own: bool,
}

fn others(
    tail: &mut Tail,
    open: &mut Option<Transaction>,
    command: &CommandRef<'_>,
    (state, keys): (&[u8], &HashSet<Vec<u8>>),
) {
    if command.is("MULTI") {
        *open = Some(Transaction::default());
        return;
    }
    if command.is("EXEC") {
        if let Some(Transaction { tail: found, own: false }) = open.take() {
            tail.writes += found.writes;
            tail.deletions += found.deletions;
            let room = SAMPLES.saturating_sub(tail.samples.len());
            tail.samples.extend(found.samples.into_iter().take(room));
        }
        return;
    }
    let writes_state = command.arg(1) == Some(state);
    match open {
        Some(open) => {
            open.own |= writes_state;
            open.tail.take(command);
        }
        // Deadlines that were held back are put by themselves.
        None if command.is("PEXPIREAT") || command.is("HPEXPIREAT") => {}
        None if CommandTable::builtin().is_blind_write(command)
            && command.arg(1).is_some_and(|key| keys.contains(key)) => {}
        None => tail.take(command),
    }
}

#[cfg(test)]
mod tests {
    use keyferry_resp::Command;

    use super::*;

    #[test]
    fn what_a_migration_writes_is_told_from_what_others_write() {
        let state = b"keyferry:migration:{x}";
        let keys = HashSet::from([b"ahead".to_vec()]);
        let (mut tail, mut open) = (Tail::default(), None);
        let own = [
            "MULTI",
            "INCR own",
            "HSET keyferry:migration:{x} link:0 y",
            "EXEC",
            "SET ahead 1",
            "PEXPIREAT held 9",
        ];
        let foreign = ["SET foreign 1", "INCR ahead", "MULTI", "SET a 1", "LPUSH b 2", "EXEC", "DEL expired"];
        for command in own.iter().chain(&foreign) {
            let command = Command::new(command.split(' ').collect::<Vec<_>>());
            others(&mut tail, &mut open, &command.as_ref(), (state, &keys));
        }
        assert_eq!(tail.samples, ["SET foreign 1", "INCR ahead", "SET a 1", "LPUSH b 2"]);
        assert_eq!((tail.writes, tail.deletions, tail.writes_beside(1)), (4, 1, 4));
    }
}
