//! Keys that a script sees: their values as the commands that build them.

use bytes::BytesMut;
use keyferry_rdb::{
    EntryHead, Kind, RawValue, dump,
    native::{CommandSink, Loss, NativeOptions, Rebuild},
};
use keyferry_resp::Command;
use keyferry_routing::CommandTable;

use super::State;
use crate::{
    error::Error,
    output::{Output, PieceKind},
    rewrite::Rewritten,
    snapshot_filter::Masks,
    target::payload_version,
};

/// Bytes of a string up to which it is shown by one command.
const STRING: usize = 1 << 20;

/// Bytes of commands that are handed over together, at least, while a large value goes on.
const TOGETHER: usize = 64 << 10;

/// A value on its way through a script.
#[derive(Debug)]
pub(super) struct Building {
    db: u64,
    key: Vec<u8>,
    rebuild: Rebuild,
    expiry: Option<i64>,
    pub(super) masks: Option<Masks>,
    gathered: Gathered,
    /// Keys that hold nothing but what was sent for this one.
    begun: Vec<(u64, Vec<u8>)>,
    sent: Vec<(u64, Command)>,
    sent_bytes: usize,
}

/// Commands of a value, and what they do not carry.
#[derive(Debug, Default)]
struct Gathered {
    commands: Vec<Vec<Vec<u8>>>,
    losses: Vec<Loss>,
}

impl CommandSink for Gathered {
    fn command(&mut self, args: &[&[u8]]) {
        self.commands.push(args.iter().map(|arg| arg.to_vec()).collect());
    }

    fn loss(&mut self, loss: Loss) {
        self.losses.push(loss);
    }
}

impl State {
    /// Whether values of this kind are shown by commands, not as a payload.
    pub(super) fn has_commands(kind: Kind) -> bool {
        !matches!(kind, Kind::Module | Kind::RateLimiter | Kind::CronJob)
    }

    /// What builds a value through the script.
    pub(super) fn building(&self, head: &EntryHead<'_>) -> Building {
        let mut options = NativeOptions::default();
        options.features = Some(self.abilities.native);
        options.templates = self.templates.clone();
        options.limits.chunk = STRING;
        Building {
            db: head.db,
            key: head.key.to_vec(),
            rebuild: Rebuild::new(head.key, head.ty, self.dialect, &options),
            expiry: head.expiry,
            masks: None,
            gathered: Gathered::default(),
            begun: Vec::new(),
            sent: Vec::new(),
            sent_bytes: 0,
        }
    }

    /// A value of which only a payload tells: the script sees a `RESTORE`.
    pub(super) fn payload_rewritten(
        &mut self,
        head: &EntryHead<'_>,
        value: RawValue<'_>,
        out: &mut Output,
    ) -> Result<(), Error> {
        let mut payload = BytesMut::new();
        dump::append_payload(&mut payload, value, payload_version(value.ty()));
        self.select(head.db, out);
        self.count(head);
        let mut building = self.building(head);
        building.gathered.command(&[b"RESTORE", head.key, b"0", &payload, b"REPLACE"]);
        self.end_building(building, false, out)
    }

    pub(super) fn building_part(
        &mut self,
        building: &mut Building,
        part: &[u8],
        out: &mut Output,
    ) -> Result<(), Error> {
        let Building { rebuild, masks, gathered, .. } = building;
        match masks {
            None => rebuild.feed(part, gathered)?,
            Some(masks) => rebuild.feed(part, &mut masks.sink(gathered))?,
        }
        self.show(building, out)?;
        if building.sent_bytes >= TOGETHER {
            self.hand_over(building, out)?;
        }
        Ok(())
    }

    /// `rebuilt` tells whether the value came through the rebuilding.
    pub(super) fn end_building(
        &mut self,
        mut building: Building,
        rebuilt: bool,
        out: &mut Output,
    ) -> Result<(), Error> {
        if rebuilt {
            let Building { rebuild, masks, gathered, .. } = &mut building;
            match masks {
                None => rebuild.finish(gathered)?,
                Some(masks) => rebuild.finish(&mut masks.sink(gathered))?,
            }
        }
        out.losses.append(&mut building.gathered.losses);
        if !self.note_losses(&building.key, out)?
            && let Some(at) = building.expiry
        {
            let mut digits = itoa::Buffer::new();
            let key = building.key.clone();
            building.gathered.command(&[b"PEXPIREAT", &key, digits.format(at).as_bytes()]);
        }
        self.show(&mut building, out)?;
        self.hand_over(&mut building, out)?;
        out.keys += 1;
        Ok(())
    }

    /// Shows the script what was gathered, and keeps what it sends.
    fn show(&mut self, building: &mut Building, out: &mut Output) -> Result<(), Error> {
        for command in std::mem::take(&mut building.gathered.commands) {
            let args: Vec<&[u8]> = command.iter().map(|arg| &arg[..]).collect();
            let sent = match self.script_on(building.db, &args)? {
                Rewritten::AsItIs => vec![(building.db, Command::new(args.iter().copied()))],
                Rewritten::Commands(sent) => sent,
            };
            for (db, sent) in sent {
                // What builds a value begins with nothing, as with RESTORE … REPLACE.
                if builds(&sent, args[0])
                    && let Some(key) = keys(&sent).first()
                    && !building.begun.iter().any(|(other, begun)| *other == db && begun == key)
                {
                    building.begun.push((db, key.to_vec()));
                    building.sent.push((db, Command::new([&b"DEL"[..], key])));
                }
                building.sent_bytes += sent.raw().len();
                building.sent.push((db, sent));
            }
            if building.sent_bytes >= 16 * TOGETHER {
                self.hand_over(building, out)?;
            }
        }
        Ok(())
    }

    /// What the script makes of a command of the snapshot.
    fn script_on(&mut self, db: u64, args: &[&[u8]]) -> Result<Rewritten, Error> {
        let Some(script) = &mut self.script else { return Ok(Rewritten::AsItIs) };
        let done = script.of(CommandTable::builtin(), db, true, args);
        done.map_err(|why| {
            script.tally();
            let shown = Command::new(args.iter().take(2).copied());
            Error::no_route(Some(&shown.as_ref()), db, None, format!("of a key of the snapshot: {why}"))
        })
    }

    /// Whether a command without keys goes on.
    pub(super) fn script_passes(&mut self, args: &[&[u8]]) -> Result<bool, Error> {
        match self.script_on(0, args)? {
            Rewritten::AsItIs => Ok(true),
            Rewritten::Commands(sent) if sent.is_empty() => Ok(false),
            Rewritten::Commands(_) => {
                let why = "a script may pass functions and scripts of the snapshot, or drop them, and not replace them";
                Err(Error::no_route(None, 0, None, why))
            }
        }
    }

    /// Hands over what was sent: together where it belongs to one slot.
    fn hand_over(&mut self, building: &mut Building, out: &mut Output) -> Result<(), Error> {
        building.sent_bytes = 0;
        let mut places: Vec<(u64, Vec<u8>, Vec<Command>)> = Vec::new();
        for (db, command) in std::mem::take(&mut building.sent) {
            let key = self.key_of_slot(db, &command)?;
            let slot = keyferry_routing::slot(&key);
            match places.iter_mut().find(|(other, at, _)| *other == db && keyferry_routing::slot(at) == slot)
            {
                Some((.., commands)) => commands.push(command),
                None => places.push((db, key, vec![command])),
            }
        }
        for (db, key, commands) in places {
            for command in &commands {
                match self.held_deadline(db, command) {
                    Some(held) => out.command(&held.args().collect::<Vec<_>>()),
                    None => out.command(&command.args().collect::<Vec<_>>()),
                }
            }
            self.cut(out, PieceKind::Part, &key, db);
        }
        Ok(())
    }

    /// The first key of a command that is sent for a key of the snapshot; all are in its slot.
    fn key_of_slot(&self, db: u64, command: &Command) -> Result<Vec<u8>, Error> {
        let keys = keys(command);
        let mut slots: Vec<u16> = keys.iter().map(|key| keyferry_routing::slot(key)).collect();
        slots.dedup();
        match (slots.len(), keys.first()) {
            (1, Some(key)) => Ok(key.to_vec()),
            _ => {
                let why =
                    "a script sends it for a key of the snapshot: there each command has keys of one slot";
                Err(Error::no_route(Some(&command.as_ref()), db, None, why))
            }
        }
    }

    /// The form of a command that sets a deadline which is to be held.
    fn held_deadline(&self, db: u64, command: &Command) -> Option<Command> {
        let (hold, databases) = self.hold.as_ref()?;
        let (true, Some(key), Some(at), None) =
            (command.is("PEXPIREAT"), command.arg(1), command.arg(2), command.arg(3))
        else {
            return None;
        };
        let at = std::str::from_utf8(at).ok()?.parse().ok()?;
        let held = hold.of_snapshot(databases.to(db).ok(), key, at).to_string();
        Some(Command::new([b"PEXPIREAT", key, held.as_bytes()]))
    }
}

/// Whether a command that was sent in the place of another adds to a value as that does.
fn builds(sent: &Command, seen: &[u8]) -> bool {
    let adds: [&[u8]; 8] = [b"RPUSH", b"SADD", b"ZADD", b"HSET", b"HMSET", b"XADD", b"XGROUP", b"ARSET"];
    sent.name().eq_ignore_ascii_case(seen) && adds.contains(&seen)
}

/// The keys of a command; none where it is not known.
fn keys(command: &Command) -> Vec<&[u8]> {
    let mut keys = Vec::new();
    match CommandTable::builtin().keys(command, &mut keys) {
        Ok(_) => keys.iter().filter_map(|key| command.arg(key.index)).collect(),
        Err(_) => Vec::new(),
    }
}
