//! What a target keeps of a migration's progress, slot by slot, beside the data itself.
//!
//! In a cluster each slot has one hash whose name maps to the slot, with a field for each link of each migration. On one
//! server there is one for everything: the migration's [state](super::state). It is written in the transaction of every
//! write that must not be repeated, so that both are there or neither is, and it moves, fails over and rolls back together
//! with the data.

use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use keyferry_replication::{Position, ReplicationId};
use keyferry_resp::{Command, Frame, encode_command};
use keyferry_routing::tag_for_slot;

use super::{
    item::Mark,
    state::{self, LinkState, Stage, State, field},
};
use crate::{fence::LEASE, identity::MigrationId, two_way};

/// Names of the slots' own hashes begin so.
pub(crate) const PREFIX: &str = "keyferry:checkpoint:";

/// A link as the target knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkName {
    /// The same over restarts, wherever the link leads to then.
    pub(crate) name: String,
    /// Which full sync it follows.
    pub(crate) epoch: u64,
}

/// Where a migration's checkpoints are, and what stands there.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoints {
    id: MigrationId,
    /// One server holds everything, and the checkpoint is the state.
    single: bool,
    links: Vec<LinkName>,
    /// What is written anew when the target has been emptied.
    constant: Constant,
    /// Belongs to it, once it is known: what was at the target before the migration began.
    foreign: OnceLock<String>,
    /// The other link, where there is one in the other direction.
    two_way: Option<Arc<two_way::Link>>,
}

/// What a target keeps of a migration whatever happens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Constant {
    /// Fields of the state.
    pub(crate) fields: Vec<(String, String)>,
    /// Who works on it.
    pub(crate) token: String,
}

/// What is done with everything up to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) link: u16,
    pub(crate) mark: Mark,
    /// The source's database there, in the stream.
    pub(crate) db: Option<u64>,
}

impl Checkpoints {
    pub(crate) fn new(id: MigrationId, single: bool, links: Vec<LinkName>) -> Self {
        Checkpoints {
            id,
            single,
            links,
            constant: Constant::default(),
            foreign: OnceLock::new(),
            two_way: None,
        }
    }

    /// This is to survive what empties the target.
    pub(crate) fn keeping(mut self, constant: Constant) -> Self {
        self.constant = constant;
        self
    }

    /// It tells besides how far the source has what another link brings.
    pub(crate) fn telling(self, two_way: Option<&Arc<two_way::Link>>) -> Self {
        Checkpoints { two_way: two_way.cloned(), ..self }
    }

    /// As [`Checkpoints::keeping`], of the field that tells what was at the target before.
    pub(crate) fn keep_foreign(&self, told: &str) {
        self.foreign.get_or_init(|| told.to_owned());
    }

    pub(crate) fn id(&self) -> &MigrationId {
        &self.id
    }

    /// The name of a slot's checkpoint.
    pub(crate) fn key(&self, slot: u16) -> String {
        if self.single { self.id.state_key() } else { slot_key(slot) }
    }

    /// The name of a link's field in it.
    fn field(&self, link: u16) -> String {
        let Some(LinkName { name, epoch }) = self.links.get(usize::from(link)) else {
            return format!("{}:?", self.id);
        };
        if self.single { field::link(name) } else { format!("{}:{name}.{epoch}", self.id) }
    }

    /// What stands in it.
    fn value(&self, reached: Reached, history: Option<ReplicationId>) -> String {
        if !self.single {
            return reached.mark.to_string();
        }
        self.state(reached, history).map_or_else(|| reached.mark.to_string(), |state| state.to_string())
    }

    /// A link's part of the state; none as long as nobody knows its history.
    pub(crate) fn state(&self, reached: Reached, history: Option<ReplicationId>) -> Option<LinkState> {
        let epoch = self.links.get(usize::from(reached.link))?.epoch;
        let stage = match reached.mark {
            Mark::Snapshot(at) => Stage::Snapshot(at),
            Mark::Stream(offset) => {
                Stage::Stream(Position { id: history?, offset, db: reached.db, in_transaction: false })
            }
        };
        Some(LinkState { epoch, stage })
    }

    /// How far a state says that a link is, in the full sync that it follows.
    pub(crate) fn stage_in(&self, state: &State, link: u16) -> Option<Stage> {
        let LinkName { name, epoch } = self.links.get(usize::from(link))?;
        let state = LinkState::parse(state.get(&field::link(name))?)?;
        (state.epoch == *epoch).then_some(state.stage)
    }

    /// A link as the state has it.
    pub(crate) fn link(&self, link: u16) -> Option<&LinkName> {
        self.links.get(usize::from(link))
    }

    /// The name of a link in the state.
    pub(crate) fn link_name(&self, link: u16) -> Option<&str> {
        self.links.get(usize::from(link)).map(|link| link.name.as_str())
    }

    /// The command that notes that `slot` has everything up to there.
    pub(crate) fn write(&self, slot: u16, reached: Reached, history: Option<ReplicationId>) -> Command {
        Command::new(["HSET", &self.key(slot), &self.field(reached.link), &self.value(reached, history)])
    }

    /// Appends it.
    pub(crate) fn append_write(
        &self,
        out: &mut BytesMut,
        slot: u16,
        reached: Reached,
        history: Option<ReplicationId>,
    ) {
        let (key, field, value) = (self.key(slot), self.field(reached.link), self.value(reached, history));
        if let (Some(two_way), Mark::Stream(at)) = (&self.two_way, reached.mark)
            && let Some(seen) = two_way.seen(at)
        {
            return encode_command(out, ["HSET", &key, &field, &value, two_way::SEEN, &seen]);
        }
        encode_command(out, ["HSET", &key, &field, &value]);
    }

    /// Commands that write the state anew after the target has been emptied, in the same transaction; see
    /// [`Checkpoints::RESTORING`]. Database 0 is selected.
    pub(crate) fn append_restoring(&self, out: &mut BytesMut) {
        self.restoring().iter().for_each(|command| out.extend_from_slice(command.raw()));
    }

    /// These commands.
    pub(crate) fn restoring(&self) -> [Command; Self::RESTORING as usize] {
        let (state, owner) = (self.id.state_key(), self.id.owner_key());
        let Constant { fields, token } = &self.constant;
        let mut args = vec!["HSET", &state, state::field::OWNER, token];
        args.extend(fields.iter().flat_map(|(field, value)| [field.as_str(), value.as_str()]));
        args.extend(self.foreign.get().into_iter().flat_map(|told| [state::field::FOREIGN, told]));
        let lease = LEASE.as_millis().to_string();
        [Command::new(args), Command::new(["SET", &owner, token, "PX", &lease])]
    }

    /// How many they are.
    pub(crate) const RESTORING: u32 = 2;

    /// The commands that ask for a slot's checkpoint. The first writes to it: a replica refuses that, and `WAIT` speaks of
    /// what was written before by others only to a connection that has written itself (Redis 7.2, Valkey).
    pub(crate) fn look(&self, slot: u16) -> [Command; 2] {
        let (key, field) = (self.key(slot), format!("{}:looked", self.id));
        [Command::new(["HSET", &key, &field, ""]), Command::new(["HGETALL", &key])]
    }

    /// Takes this migration's marks, by link, out of the reply to [`Checkpoints::look`]. `None` when the reply is no hash.
    pub(crate) fn read(&self, reply: &Frame) -> Option<Vec<(u16, Mark)>> {
        let state = State::read(reply)?;
        let mark = |(number, link): (usize, &LinkName)| {
            let number = u16::try_from(number).ok()?;
            let value = state.get(&self.field(number))?;
            if !self.single {
                return Some((number, Mark::parse(value.as_bytes())?));
            }
            let state = LinkState::parse(value).filter(|state| state.epoch == link.epoch)?;
            Some((
                number,
                match state.stage {
                    Stage::Snapshot(at) => Mark::Snapshot(at),
                    Stage::Stream(position) => Mark::Stream(position.offset),
                },
            ))
        };
        Some(self.links.iter().enumerate().filter_map(mark).collect())
    }
}

/// The command that takes a migration's fields out of a slot's hash, and leaves those of others; `fields` is what `HKEYS` said of it. None
/// where there is nothing to be taken.
pub(crate) fn forgetting(id: &MigrationId, key: &str, fields: &Frame) -> Option<Command> {
    let items = match fields {
        Frame::Array(items) | Frame::Set(items) => &items[..],
        _ => &[],
    };
    let prefix = format!("{id}:");
    let own = items.iter().filter_map(Frame::as_bytes).filter(|field| field.starts_with(prefix.as_bytes()));
    let mut args: Vec<&[u8]> = vec![b"HDEL", key.as_bytes()];
    args.extend(own.map(|field| &field[..]));
    (args.len() > 2).then(|| Command::new(args))
}

/// The name of a slot's own hash.
pub(crate) fn slot_key(slot: u16) -> String {
    format!("{PREFIX}{{{}}}", tag_for_slot(slot))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn some(single: bool) -> Checkpoints {
        let links = (0..2).map(|n: u64| LinkName { name: n.to_string(), epoch: 1 + n }).collect();
        Checkpoints::new(MigrationId::derive("a", "b"), single, links)
    }

    fn reply(pairs: &[(&str, &str)]) -> Frame {
        let bulk = |text: &str| Frame::from(bytes::Bytes::copy_from_slice(text.as_bytes()));
        Frame::Array(pairs.iter().flat_map(|(field, value)| [bulk(field), bulk(value)]).collect())
    }

    #[test]
    fn a_checkpoint_is_in_its_slot_and_can_be_read_back() {
        let checkpoints = some(false);
        for slot in [0, 1, 12182, 16383] {
            assert_eq!(keyferry_routing::slot(checkpoints.key(slot).as_bytes()), slot);
        }
        let other = Checkpoints::new(MigrationId::derive("b", "a"), false, some(false).links);
        let found = reply(&[
            (&checkpoints.field(1), "stream:77"),
            (&other.field(1), "stream:99"),
            (&checkpoints.field(1).replace(".2", ".1"), "stream:98"),
            ("unrelated", "x"),
        ]);
        assert_eq!(checkpoints.read(&found), Some(vec![(1, Mark::Stream(77))]));
        assert_eq!(checkpoints.read(&Frame::Integer(1)), None);
    }

    /// Else the next run would take what this one has copied for what was there before.
    #[test]
    fn what_was_there_before_survives_a_flush() {
        let checkpoints = some(true);
        let told = |checkpoints: &Checkpoints| {
            let [state, _] = checkpoints.restoring();
            state.args().skip_while(|arg| *arg != field::FOREIGN.as_bytes()).nth(1).map(<[u8]>::to_vec)
        };
        assert_eq!(told(&checkpoints), None);
        checkpoints.keep_foreign("none");
        assert_eq!(told(&checkpoints).as_deref(), Some(&b"none"[..]));
    }

    #[test]
    fn on_one_server_it_is_the_position() {
        let checkpoints = some(true);
        let id: ReplicationId = "3ad1e7ef023c242514c0b05e48e4ee884551c793".parse().unwrap();
        let reached = Reached { link: 1, mark: Mark::Stream(77), db: Some(3) };
        let write = checkpoints.write(5, reached, Some(id));
        let args: Vec<String> = write.args().map(|arg| String::from_utf8(arg.to_vec()).unwrap()).collect();
        assert_eq!(args[1], checkpoints.id().state_key());
        assert_eq!(args[2..], ["link:1".to_owned(), format!("stream 2 {id}:77:3")]);
        let found = reply(&[(&args[2], &args[3]), ("link:0", "stream 9 0:1:2")]);
        assert_eq!(checkpoints.read(&found), Some(vec![(1, Mark::Stream(77))]));
    }
}
