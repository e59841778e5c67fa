//! Commands that concern several slots, or every node.
//!
//! A command whose keys are in several slots, and which is no sum of its parts, is carried out at the target, whose state in
//! these slots is the source's at that point of the stream: the gates of [`super::core::Core::add_gate`] see to that. The
//! operands are brought into the slot of what it writes under temporary names, the command runs there, and what it changed
//! of an operand goes back. Each slot's part is one transaction with the slot's checkpoint.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use keyferry_resp::{Command, Frame};
use keyferry_routing::{Compute, SLOTS, sibling_key, with_keys_replaced};

use super::{
    Target,
    ahead::Part,
    aside::{Aside, Cause, refused},
    item::{Class, Item, Mark},
};
use crate::error::Error;

/// Names of operands under way begin so.
const PREFIX: &str = "keyferry:tmp:";

/// Carries out what concerns several slots.
pub(crate) struct Across<'t> {
    target: &'t Target,
    aside: Aside<'t>,
}

/// Where in the stream a command stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) link: u16,
    /// Its mark; the next one is free for what tidies up behind it.
    pub(crate) mark: Mark,
    /// The offset before it.
    pub(crate) at: u64,
    /// The target's database.
    pub(crate) db: u32,
    pub(crate) ticket: u64,
    /// The gate that holds its slots.
    pub(crate) gate: u64,
}

/// A key that is not in the home slot.
struct Operand {
    slot: u16,
    temporary: Vec<u8>,
    /// The command may change it.
    written: bool,
}

/// When a value expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    Never,
    /// Unix time in milliseconds.
    At(i64),
    /// Milliseconds from now; of servers that do not tell the time itself.
    In(i64),
}

/// A value as `DUMP` gives it.
struct Value {
    payload: bytes::Bytes,
    expiry: Expiry,
}

impl<'t> Across<'t> {
    pub(crate) fn new(target: &'t Target) -> Self {
        Across { target, aside: Aside::new(target) }
    }

    /// Carries out a command with keys in several slots. The caller holds the gate of all of them.
    pub(crate) async fn compute(
        &mut self,
        command: &Command,
        compute: &Compute,
        place: Place,
    ) -> Result<(), Error> {
        let cause = Cause { command, db: place.db, offset: Some(place.at) };
        let marked = (place.link, place.mark);
        let home = compute.home_slot;
        let home_key = command.arg(compute.home).unwrap_or_default();
        // `COPY … DB n`: the value is taken there, and copied within that database.
        let there = compute.destination_db.and_then(|db| u32::try_from(db).ok());
        let (command, home_db) = match there {
            Some(db) => (&without_db(command), db),
            None => (command, place.db),
        };

        let mut operands: BTreeMap<&[u8], Operand> = BTreeMap::new();
        let mut renamed = Vec::new();
        for (key, slot) in compute.elsewhere() {
            let Some(name) = command.arg(key.index) else { continue };
            let prefix = format!("{PREFIX}{}:", operands.len());
            let operand = operands.entry(name).or_insert_with(|| Operand {
                slot,
                temporary: sibling_key(home_key, prefix.as_bytes()),
                written: false,
            });
            operand.written |= key.access.is_write();
            renamed.push((key.index, operand.temporary.clone()));
        }

        let mut steps = Vec::new();
        for (name, operand) in &operands {
            steps.push(match self.value(operand.slot, place.db, name, cause).await? {
                Some(value) => restore(&operand.temporary, &value),
                None => del(&operand.temporary),
            });
        }
        steps.push(with_keys_replaced(command, &renamed));
        let (written, read): (Vec<_>, Vec<_>) = operands.iter().partition(|(_, operand)| operand.written);
        steps.extend(read.iter().map(|(_, operand)| del(&operand.temporary)));
        let asked = steps.len();
        steps.extend(written.iter().flat_map(|(_, operand)| self.ask_value(&operand.temporary)));
        let results = match self.aside.transact(home, home_db, &steps, marked, cause).await {
            Ok(results) => results,
            Err(error) => {
                // Servers execute what stands around a refused command: operands may be there.
                let names = operands.values().map(|operand| &operand.temporary[..]);
                self.remove_behind_gate(names, home, home_db, place);
                return Err(error);
            }
        };

        // What has to go back waits under its temporary name until it is there.
        for (n, (name, operand)) in written.iter().enumerate() {
            let answers = results.as_ref().and_then(|results| results.get(asked + 2 * n..asked + 2 * n + 2));
            let value = match answers {
                Some(answers) => self.read_value(answers)?,
                None => self.value(home, home_db, &operand.temporary, cause).await?,
            };
            let back = value.map_or_else(|| del(name), |value| restore(name, &value));
            self.aside.transact(operand.slot, place.db, &[back], marked, cause).await?;
        }
        if !written.is_empty() {
            let names = written.iter().map(|(_, operand)| &operand.temporary[..]);
            self.remove_behind_gate(names, home, home_db, place);
        }
        Ok(())
    }

    /// Removes temporaries: nobody waits for it, but what comes behind the gate in their slot finds them gone.
    fn remove_behind_gate<'n>(
        &self,
        names: impl Iterator<Item = &'n [u8]>,
        slot: u16,
        db: u32,
        place: Place,
    ) {
        let args: Vec<&[u8]> = std::iter::once(&b"DEL"[..]).chain(names).collect();
        let Mark::Stream(mark) = place.mark else { return };
        let item = Item {
            link: place.link,
            // Of its own, or it would be taken for done with the command.
            mark: Mark::Stream(mark + 1),
            at: place.at,
            class: Class::Blind,
            db,
            db_after: db,
            source_db: None,
            bytes: Command::new(args).into_raw(),
            commands: 1,
            resets: false,
            ticket: place.ticket,
            replay: false,
            part: Part::Whole,
        };
        self.target.core().add_behind_gate(place.gate, slot, item);
    }

    /// Carries out a command at every primary, in a form that can be repeated; from the beginning where a primary is
    /// replaced meanwhile.
    pub(crate) async fn everywhere(&mut self, command: &Command, at: Option<u64>) -> Result<(), Error> {
        let command = &repeatable(command);
        let cause = Cause { command, db: 0, offset: at };
        let since = Instant::now();
        let owners: Vec<String> = loop {
            let (owners, complete) = {
                let core = self.target.core();
                let address = |node| core.node_address(node).to_owned();
                let owners: Vec<String> = core.owners().into_iter().map(address).collect();
                (owners, (0..SLOTS).all(|slot| core.owner(slot).is_some()))
            };
            // At the beginning nobody has asked yet who they are.
            if complete {
                break owners;
            }
            if self.target.is_late(since) {
                let slot = (0..SLOTS).find(|&slot| self.target.core().owner(slot).is_none());
                return Err(Error::SlotWithoutOwner { slot: slot.unwrap_or_default() });
            }
            self.target.core().topology.notify_one();
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        for address in owners {
            let since = Instant::now();
            loop {
                let late = self.target.is_late(since);
                match self.aside.at(&address, 0, command).await {
                    Ok(reply) => match reply.error_reply() {
                        None => break,
                        Some(error) if is_gone_already(command, &error.to_string()) => break,
                        Some(error) if self.target.waits_for(&error, since) => {
                            self.target.core().counts.note_retry(&error);
                            if !self.is_owner(&address) {
                                return Box::pin(self.everywhere(command, at)).await;
                            }
                        }
                        Some(error) => return Err(refused(&address, &error, cause)),
                    },
                    Err(error) if late => return Err(Error::Target(error)),
                    Err(_) if self.is_owner(&address) => {}
                    Err(_) => return Box::pin(self.everywhere(command, at)).await,
                }
                self.target.core().topology.notify_one();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            self.aside.confirmed(&address).await;
        }
        Ok(())
    }

    /// True while the node serves a slot.
    fn is_owner(&self, address: &str) -> bool {
        let core = self.target.core();
        core.owners().into_iter().any(|node| core.node_address(node) == address)
    }

    async fn value(
        &mut self,
        slot: u16,
        db: u32,
        key: &[u8],
        cause: Cause<'_>,
    ) -> Result<Option<Value>, Error> {
        let questions = self.ask_value(key);
        let replies = self.aside.ask(slot, db, &questions, cause).await?;
        self.read_value(&replies)
    }

    /// The commands whose replies tell a value and when it expires.
    fn ask_value(&self, key: &[u8]) -> [Command; 2] {
        let expiry: &[u8] = if self.target.tells_expiry_time() { b"PEXPIRETIME" } else { b"PTTL" };
        [Command::new([b"DUMP", key]), Command::new([expiry, key])]
    }

    /// Reads these replies.
    fn read_value(&self, replies: &[Frame]) -> Result<Option<Value>, Error> {
        let [payload, expiry] = replies else {
            return Err(Error::Internal("two questions, other than two answers".into()));
        };
        let Some(payload) = payload.as_bytes().cloned().filter(|_| !payload.is_null()) else {
            return Ok(None);
        };
        let expiry = match expiry.as_i64() {
            Some(at) if at >= 0 && self.target.tells_expiry_time() => Expiry::At(at),
            Some(left) if left >= 0 => Expiry::In(left),
            // Gone between the two.
            Some(-2) => return Ok(None),
            _ => Expiry::Never,
        };
        Ok(Some(Value { payload, expiry }))
    }
}

/// `RESTORE key ttl payload REPLACE [ABSTTL]`
fn restore(key: &[u8], value: &Value) -> Command {
    let ttl = match value.expiry {
        Expiry::Never => 0,
        Expiry::At(at) => at.max(1),
        // 0 would mean for ever.
        Expiry::In(left) => left.max(1),
    };
    let ttl = ttl.to_string();
    let mut args: Vec<&[u8]> = vec![b"RESTORE", key, ttl.as_bytes(), &value.payload, b"REPLACE"];
    if matches!(value.expiry, Expiry::At(_)) {
        args.push(b"ABSTTL");
    }
    Command::new(args)
}

fn del(key: &[u8]) -> Command {
    Command::new([b"DEL", key])
}

/// `COPY` without `DB n`.
fn without_db(command: &Command) -> Command {
    let word =
        (3..command.len()).find(|&i| command.arg(i).is_some_and(|arg| arg.eq_ignore_ascii_case(b"DB")));
    let args: Vec<&[u8]> = command
        .args()
        .enumerate()
        .filter(|&(i, _)| word.is_none_or(|word| i != word && i != word + 1))
        .map(|(_, arg)| arg)
        .collect();
    Command::new(args)
}

/// The command in a form that does no harm where it has been carried out already.
pub(super) fn repeatable(command: &Command) -> Command {
    let mut args: Vec<&[u8]> = command.args().collect();
    let sub = |name: &[u8]| command.arg(1).is_some_and(|arg| arg.eq_ignore_ascii_case(name));
    if command.is("FUNCTION") && sub(b"LOAD") {
        if !command.arg(2).is_some_and(|arg| arg.eq_ignore_ascii_case(b"REPLACE")) {
            args.insert(2, b"REPLACE");
        }
    } else if command.is("FUNCTION") && sub(b"RESTORE") && args.len() == 3 {
        args.push(b"REPLACE");
    }
    Command::new(args)
}

/// True for the deletion of a function library that is gone.
fn is_gone_already(command: &Command, error: &str) -> bool {
    command.is("FUNCTION")
        && command.arg(1).is_some_and(|arg| arg.eq_ignore_ascii_case(b"DELETE"))
        && error.contains("not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_for_every_node_can_be_repeated() {
        let load = repeatable(&Command::new(["FUNCTION", "LOAD", "#!lua name=a\n"]));
        assert_eq!(load, Command::new(["FUNCTION", "LOAD", "REPLACE", "#!lua name=a\n"]));
        assert_eq!(repeatable(&load), load);
        assert_eq!(repeatable(&Command::new(["SCRIPT", "FLUSH"])), Command::new(["SCRIPT", "FLUSH"]));
        let delete = Command::new(["function", "delete", "a"]);
        assert!(is_gone_already(&delete, "ERR Library not found"));
        assert!(!is_gone_already(&load, "ERR Library not found"));
    }

    #[test]
    fn values_keep_their_expiry() {
        let value = |expiry| Value { payload: bytes::Bytes::from_static(b"x"), expiry };
        assert_eq!(restore(b"k", &value(Expiry::Never)), Command::new(["RESTORE", "k", "0", "x", "REPLACE"]));
        let at = Command::new(["RESTORE", "k", "99", "x", "REPLACE", "ABSTTL"]);
        assert_eq!(restore(b"k", &value(Expiry::At(99))), at);
        assert_eq!(restore(b"k", &value(Expiry::In(0))), Command::new(["RESTORE", "k", "1", "x", "REPLACE"]));
        let copy = Command::new(["COPY", "a", "b", "db", "3", "REPLACE"]);
        assert_eq!(without_db(&copy), Command::new(["COPY", "a", "b", "REPLACE"]));
    }
}
