//! The core against a cluster in plain Rust: random work, random trouble, and in the end everything has to be there once.
//!
//! The cluster has shards of a primary and a replica, which follows it with a delay and takes over without the rest; slots
//! that move key by key; connections that are cut with commands executed and unanswered; old primaries that go on
//! answering for a while; and the program itself, which dies between any two steps and begins anew with what the target
//! has. What servers do is told as their sources have it: `ASKING` covers a transaction, a transaction
//! with some of its keys moved is refused with `TRYAGAIN`.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use keyferry_resp::{Command, CommandDecoder, ErrorReply, Frame, encode_command};
use keyferry_testkit::Rng;

use super::{Core, Expect, Rules, Windows};
use crate::{
    progress::Meter,
    sharded::{
        ahead::{Divider, Part},
        checkpoint::tests::some,
        item::{Class, Item, Mark},
        links::Done,
        map::Survey,
        state::{LinkState, Stage},
    },
};

const SLOTS: u16 = 4;

/// How far behind the position something may go ahead. Offsets are numbers of items here.
const AHEAD: u64 = 6;

const HOURS: Windows = Windows { connect: Duration::from_secs(3600), other: Duration::from_secs(3600) };

fn meter() -> Meter {
    let meter = Meter::default();
    meter.set_history("3ad1e7ef023c242514c0b05e48e4ee884551c793".parse().unwrap());
    meter
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    List(Vec<String>),
    Hash(BTreeMap<String, String>),
}

/// Database and name.
type Key = (u32, String);
type State = BTreeMap<Key, Value>;

fn new_core(single: bool) -> Core {
    let rules = Rules {
        single,
        exact: true,
        ahead: if single { AHEAD } else { 0 },
        windows: HOURS,
        alone_after: Duration::ZERO,
    };
    let mut core = Core::new(rules, Arc::new(some(single)), vec![meter(), meter()]);
    core.lanes.truncate(usize::from(SLOTS));
    core
}

fn slot_of(key: &str) -> u16 {
    keyferry_routing::slot(key.as_bytes())
}

fn words(command: &Command) -> Vec<String> {
    command.args().map(|arg| String::from_utf8(arg.to_vec()).unwrap()).collect()
}

fn ok() -> Frame {
    Frame::Simple(Bytes::from_static(b"OK"))
}

fn bulk(text: &str) -> Frame {
    Frame::from(Bytes::copy_from_slice(text.as_bytes()))
}

/// Executes a command.
fn apply(state: &mut State, db: u32, words: &[String]) -> Result<Frame, ErrorReply> {
    let wrong = || ErrorReply::new("WRONGTYPE Operation against a key holding the wrong kind of value");
    let key = (db, words[1].clone());
    match words[0].as_str() {
        "SELECT" => {}
        "SET" => drop(state.insert(key, Value::Text(words[2].clone()))),
        "DEL" => drop(state.remove(&key)),
        "INCR" => match state.entry(key).or_insert_with(|| Value::Text("0".into())) {
            Value::Text(n) => *n = (n.parse::<u64>().unwrap() + 1).to_string(),
            _ => return Err(wrong()),
        },
        "RPUSH" => match state.entry(key).or_insert_with(|| Value::List(Vec::new())) {
            Value::List(list) => list.push(words[2].clone()),
            _ => return Err(wrong()),
        },
        "HSET" => match state.entry(key).or_insert_with(|| Value::Hash(BTreeMap::new())) {
            Value::Hash(hash) => drop(hash.insert(words[2].clone(), words[3].clone())),
            _ => return Err(wrong()),
        },
        "HGETALL" => {
            let Some(Value::Hash(hash)) = state.get(&key) else { return Ok(Frame::Array(Vec::new())) };
            return Ok(Frame::Array(hash.iter().flat_map(|(f, v)| [bulk(f), bulk(v)]).collect()));
        }
        other => panic!("unknown {other}"),
    }
    Ok(ok())
}

/// A primary and what follows it.
struct Shard {
    data: State,
    copy: State,
    /// What the replica does not have yet: each entry whole or not at all.
    behind: VecDeque<Vec<(u32, Vec<String>)>>,
    primary: usize,
    replica: usize,
    attached: bool,
    /// Transactions ever executed.
    executed: u64,
    /// The client has been told of the replica. A failover before is taken for one of an idle primary: nobody could know
    /// that there is somebody to be waited for.
    known: bool,
}

impl Shard {
    fn replicate(&mut self, most: usize) {
        for _ in 0..most.min(self.behind.len()) {
            for (db, words) in self.behind.pop_front().unwrap() {
                let _ = apply(&mut self.copy, db, &words);
            }
        }
    }

    fn synchronize(&mut self) {
        self.copy = self.data.clone();
        self.behind.clear();
    }
}

/// A primary that does not know that it is none any more.
struct Zombie {
    data: State,
    slots: BTreeSet<u16>,
}

enum Reply {
    Frame(Frame),
    /// With the element of an array that it is.
    Error(ErrorReply, Option<u64>),
}

#[derive(Default)]
struct Link {
    input: BytesMut,
    output: VecDeque<Reply>,
    transaction: Option<Vec<(u32, Vec<String>)>>,
    dirty: bool,
    asking: bool,
    db: u32,
    /// What its node had executed when it wrote last.
    written: u64,
}

struct Gate {
    id: u64,
    slots: BTreeSet<u16>,
    expected: State,
}

/// A promise that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// A transaction is carried out without what it says of itself: the server loses checkpoints.
    Checkpoints,
    /// A replica has what it has not: the server loses writes in a failover.
    Replicas,
    /// The program keeps a position of what it has been given, not of what is done.
    Positions,
    /// What goes ahead does so whatever waits for its keys.
    Dividers,
}

struct World {
    rng: Rng,
    lie: Option<Lie>,
    single: bool,
    dbs: u64,
    shards: Vec<Shard>,
    owner: Vec<usize>,
    moving: Vec<Option<usize>>,
    /// Slots, and the shards that they have been moved to.
    visited: BTreeSet<(usize, usize)>,
    zombies: HashMap<usize, Zombie>,
    links: HashMap<usize, Link>,
    core: Core,
    expected: State,
    marks: [u64; 2],
    in_stream: [bool; 2],
    value: u64,
    gates: Vec<Gate>,
    errors: bool,
    /// Divides what each link brings, where there is one lane.
    dividers: [Divider; 2],
    /// Everything that the links have brought, as a source can bring it again.
    history: [Vec<(u16, Item)>; 2],
    /// Offsets up to which the target keeps, of each link, that everything is done; from the end of its snapshot on.
    positions: [Option<u64>; 2],
    /// How often the program has died.
    deaths: u64,
    log: Vec<String>,
    /// Everything that is said goes into the log.
    detailed: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let single = rng.chance(1, 3);
        let shards = if single { 1 } else { 3 };
        let core = new_core(single);
        let shard = |n: usize| Shard {
            data: State::new(),
            copy: State::new(),
            behind: VecDeque::new(),
            primary: 2 * n,
            replica: 2 * n + 1,
            attached: true,
            executed: 0,
            known: false,
        };
        let mut world = World {
            lie: None,
            single,
            dbs: if single { 2 } else { 1 },
            shards: (0..shards).map(shard).collect(),
            owner: (0..usize::from(SLOTS)).map(|slot| slot % shards).collect(),
            moving: vec![None; usize::from(SLOTS)],
            visited: (0..usize::from(SLOTS)).map(|slot| (slot, slot % shards)).collect(),
            zombies: HashMap::new(),
            links: HashMap::new(),
            core,
            expected: State::new(),
            marks: [0; 2],
            in_stream: [false; 2],
            value: 0,
            gates: Vec::new(),
            errors: rng.chance(1, 2),
            dividers: [Divider::with(AHEAD, 1), Divider::with(AHEAD, 1)],
            history: [Vec::new(), Vec::new()],
            positions: [None; 2],
            deaths: 0,
            log: Vec::new(),
            detailed: std::env::var_os("KEYFERRY_MODEL_SEED").is_some(),
            rng,
        };
        world.survey(false);
        world
    }

    fn note(&mut self, what: impl Into<String>) {
        self.log.push(what.into());
    }

    fn detail(&mut self, what: impl Fn() -> String) {
        if self.detailed {
            self.log.push(what());
        }
    }

    // --- The cluster.

    fn address(node: usize) -> String {
        format!("n{node}:1")
    }

    fn shard_of(&self, node: usize) -> usize {
        node / 2
    }

    fn is_primary(&self, node: usize) -> bool {
        self.shards[self.shard_of(node)].primary == node
    }

    /// What keeps a node from executing something with these keys.
    fn check(&self, node: usize, keys: &BTreeSet<Key>, asking: bool) -> Option<ErrorReply> {
        let (_, first) = keys.first()?;
        let slot = slot_of(first);
        let at = usize::from(slot);
        if let Some(zombie) = self.zombies.get(&node) {
            let moved = || ErrorReply::new(format!("MOVED {slot} {}", self.owner_address(slot)));
            return (!self.single && !zombie.slots.contains(&slot)).then(moved);
        }
        if self.single {
            let readonly = || ErrorReply::new("READONLY You can't write against a read only replica.");
            return (!self.is_primary(node)).then(readonly);
        }
        let shard = self.shard_of(node);
        if self.is_primary(node) {
            let missing = keys.iter().filter(|key| !self.shards[shard].data.contains_key(key)).count();
            let again = || ErrorReply::new("TRYAGAIN Multiple keys request during rehashing of slot");
            if self.owner[at] == shard {
                let to = self.moving[at].filter(|_| missing > 0)?;
                let to = Self::address(self.shards[to].primary);
                return Some(match missing < keys.len() {
                    true => again(),
                    false => ErrorReply::new(format!("ASK {slot} {to}")),
                });
            }
            if self.moving[at] == Some(shard) && asking {
                return (keys.len() > 1 && missing > 0).then(again);
            }
        }
        Some(ErrorReply::new(format!("MOVED {slot} {}", self.owner_address(slot))))
    }

    fn owner_address(&self, slot: u16) -> String {
        Self::address(self.shards[self.owner[usize::from(slot)]].primary)
    }

    /// Executes the next command of a connection. False when there is none.
    fn serve(&mut self, at: usize) -> bool {
        let node = self.node_of(at);
        let mut link = self.links.remove(&at).unwrap_or_default();
        let command = CommandDecoder::new().decode(&mut link.input).unwrap();
        let served = command.is_some();
        if let Some(command) = command {
            let words = words(&command);
            let said = words.join(" ");
            let reply = self.execute(node, &mut link, words);
            let answer = match &reply {
                Reply::Frame(frame) => format!("{frame:?}"),
                Reply::Error(error, element) => format!("{error} {element:?}"),
            };
            self.detail(|| format!("  node {node}: {said} -> {answer}"));
            link.output.push_back(reply);
        }
        self.links.insert(at, link);
        served
    }

    fn execute(&mut self, node: usize, link: &mut Link, words: Vec<String>) -> Reply {
        let shard = self.shard_of(node);
        match words[0].as_str() {
            "MULTI" => {
                assert!(link.transaction.is_none());
                link.transaction = Some(Vec::new());
                link.dirty = false;
                return Reply::Frame(ok());
            }
            "ASKING" => {
                link.asking = true;
                return Reply::Frame(ok());
            }
            "SELECT" => {
                link.db = words[1].parse().unwrap();
                // It is one of the elements of the result, too.
                if let Some(queue) = &mut link.transaction {
                    queue.push((link.db, words));
                }
                return Reply::Frame(ok());
            }
            "WAIT" => {
                if self.zombies.contains_key(&node) {
                    return Reply::Frame(Frame::Integer(0));
                }
                if !self.is_primary(node) {
                    let error = "ERR WAIT cannot be used with replica instances.";
                    return Reply::Frame(Frame::Error(Bytes::from_static(error.as_bytes())));
                }
                // It covers what this connection has written.
                let patient = self.rng.chance(2, 3);
                let shard = &mut self.shards[shard];
                if self.lie == Some(Lie::Replicas) {
                    return Reply::Frame(Frame::Integer(i64::from(shard.attached)));
                }
                while patient && shard.executed - (shard.behind.len() as u64) < link.written {
                    shard.replicate(1);
                }
                let done = shard.executed - (shard.behind.len() as u64) >= link.written;
                return Reply::Frame(Frame::Integer(i64::from(shard.attached && done)));
            }
            "INFO" => {
                let master = self.is_primary(node) || self.zombies.contains_key(&node);
                let role = if master { "master" } else { "slave" };
                let replicas = self.replicas(node);
                return Reply::Frame(bulk(&format!(
                    "# Replication\r\nrole:{role}\r\nconnected_slaves:{replicas}\r\nslave0:ip=::1,port=1,state=online,offset=1,lag=0\r\n"
                )));
            }
            _ => {}
        }
        let executes = words[0] == "EXEC";
        let mut commands = if executes {
            link.transaction.clone().expect("EXEC without MULTI")
        } else {
            vec![(link.db, words.clone())]
        };
        if executes && self.lie == Some(Lie::Checkpoints) {
            commands.retain(|(_, words)| words[0] != "HSET");
        }
        let asking = link.asking;
        if link.transaction.is_none() || executes {
            link.asking = false;
        }
        let names_key = |(_, words): &&(u32, Vec<String>)| words[0] != "SELECT";
        let keys: BTreeSet<Key> =
            commands.iter().filter(names_key).map(|(db, words)| (*db, words[1].clone())).collect();
        let mut error = self.check(node, &keys, asking);
        // Replicas answer questions.
        let copy = self.single
            && words[0] == "HGETALL"
            && !self.zombies.contains_key(&node)
            && !self.is_primary(node);
        error = error.filter(|_| !copy);
        if self.errors && error.is_none() && self.rng.chance(1, 30) {
            let errors = [
                "LOADING Redis is loading the dataset in memory",
                "CLUSTERDOWN The cluster is down",
                "NOREPLICAS Not enough good replicas to write.",
                "BUSY Redis is busy running a script.",
                "TRYAGAIN Multiple keys request during rehashing of slot",
            ];
            error = Some(ErrorReply::new(errors[self.rng.index(errors.len())]));
        }
        let refused = |error: ErrorReply| match words[0].as_str() {
            "HGETALL" => Reply::Frame(Frame::Error(error.text().clone())),
            _ => Reply::Error(error, None),
        };
        if !executes && let Some(queue) = &mut link.transaction {
            return match error {
                Some(error) => {
                    link.dirty = true;
                    refused(error)
                }
                None => {
                    queue.extend(commands);
                    Reply::Frame(Frame::Simple(Bytes::from_static(b"QUEUED")))
                }
            };
        }
        if executes {
            link.transaction = None;
            if std::mem::take(&mut link.dirty) {
                let text = "EXECABORT Transaction discarded because of previous errors.";
                return Reply::Error(ErrorReply::new(text), None);
            }
        }
        if let Some(error) = error {
            return refused(error);
        }
        let data = match self.zombies.get_mut(&node) {
            Some(zombie) => &mut zombie.data,
            None if copy => &mut self.shards[shard].copy,
            None => &mut self.shards[shard].data,
        };
        let mut first = None;
        let mut last = ok();
        for (n, (db, words)) in commands.iter().enumerate() {
            match apply(data, *db, words) {
                Ok(frame) => last = frame,
                Err(error) => drop(first.get_or_insert((error, n as u64))),
            }
        }
        if !self.zombies.contains_key(&node) && words[0] != "HGETALL" {
            self.shards[shard].behind.push_back(commands);
            self.shards[shard].executed += 1;
            link.written = self.shards[shard].executed;
        }
        match first {
            Some((error, n)) if executes => Reply::Error(error, Some(n)),
            Some((error, _)) => Reply::Error(error, None),
            None => Reply::Frame(last),
        }
    }

    fn replicas(&self, node: usize) -> u64 {
        let attached = self.is_primary(node) && self.shards[self.shard_of(node)].attached;
        u64::from(attached || self.zombies.contains_key(&node))
    }

    fn fail_over(&mut self) {
        let n = self.rng.index(self.shards.len());
        let shard = &mut self.shards[n];
        if !shard.attached || !shard.known {
            return;
        }
        let old = shard.primary;
        let kept = self.rng.index(shard.behind.len() + 1);
        shard.replicate(kept);
        let lost = shard.behind.len();
        shard.behind.clear();
        let data = std::mem::take(&mut shard.data);
        shard.data = shard.copy.clone();
        std::mem::swap(&mut shard.primary, &mut shard.replica);
        let zombie = self.rng.chance(1, 2);
        shard.attached = !zombie;
        shard.known = false;
        let promoted = Self::address(shard.primary);
        if zombie {
            let slots = (0..SLOTS).filter(|&slot| self.owner[usize::from(slot)] == n).collect();
            self.zombies.insert(old, Zombie { data, slots });
        }
        self.note(format!("failover of shard {n} from node {old}, {lost} lost, zombie {zombie}"));
        // Who was a primary before has long been found to be none, and left.
        let promoted = self.core.node(&promoted);
        self.cut(promoted);
    }

    fn end_zombies(&mut self) {
        for (node, _) in std::mem::take(&mut self.zombies) {
            self.note(format!("zombie {node} ends"));
            let shard = self.shard_of(node);
            self.shards[shard].synchronize();
            self.shards[shard].attached = true;
            self.shards[shard].known = false;
            let at = self.core.node(&Self::address(node));
            if self.rng.chance(1, 2) {
                self.cut(at);
            }
        }
    }

    fn move_slot(&mut self, finish: bool) {
        let slot = self.rng.index(usize::from(SLOTS));
        self.moves(slot, finish);
    }

    fn moves(&mut self, at: usize, finish: bool) {
        if self.single {
            return;
        }
        let slot = at as u16;
        let from = self.owner[at];
        let Some(to) = self.moving[at] else {
            let to = self.rng.index(self.shards.len());
            // Nobody is surprised by a redirection of a move that was finished and followed by the next.
            let idle = self.links.values().all(|link| link.input.is_empty() && link.output.is_empty());
            let fresh = self.visited.insert((at, to)) || (idle && self.core.lanes[at].ask.is_none());
            if to != from && !finish && fresh {
                self.note(format!("slot {slot} begins to move from {from} to {to}"));
                self.moving[at] = Some(to);
            }
            return;
        };
        let here: Vec<Key> =
            self.shards[from].data.keys().filter(|(_, key)| slot_of(key) == slot).cloned().collect();
        let most = if finish { here.len() } else { self.rng.index(3) };
        for _ in 0..most {
            let mut here: Vec<&Key> =
                self.shards[from].data.keys().filter(|(_, key)| slot_of(key) == slot).collect();
            if here.is_empty() {
                break;
            }
            let key = here.swap_remove(self.rng.index(here.len())).clone();
            for shard in [from, to] {
                self.shards[shard].replicate(usize::MAX);
            }
            if self.shards[to].data.contains_key(&key) {
                self.note(format!(
                    "BUSYKEY {key:?} {:?} {:?}",
                    self.shards[from].data[&key], self.shards[to].data[&key]
                ));
                // Its deletion was lost, and it has been written anew where it is going: MIGRATE says BUSYKEY.
                return;
            }
            let value = self.shards[from].data.remove(&key).unwrap();
            self.shards[from].copy.remove(&key);
            self.shards[to].copy.insert(key.clone(), value.clone());
            self.shards[to].data.insert(key, value);
        }
        if finish {
            self.note(format!("slot {slot} is at {to}"));
            self.owner[at] = to;
            self.moving[at] = None;
        }
    }

    // --- The client.

    fn node_of(&self, at: usize) -> usize {
        self.core.node_address(at).trim_start_matches('n').split(':').next().unwrap().parse().unwrap()
    }

    fn survey(&mut self, stale: bool) {
        let mut survey = Survey::default();
        for slot in 0..SLOTS {
            let zombie = self.zombies.iter().find(|(_, zombie)| stale && zombie.slots.contains(&slot));
            let address = zombie.map_or_else(|| self.owner_address(slot), |(node, _)| Self::address(*node));
            survey.ranges.push((slot, slot, address));
        }
        survey.apply(&mut self.core);
    }

    fn connect(&mut self, at: usize) {
        if !self.links.contains_key(&at) {
            let node = self.node_of(at);
            self.links.insert(at, Link::default());
            let replicas = self.replicas(node);
            self.core.node_up(at, replicas);
            self.learned(at);
        }
    }

    fn learned(&mut self, at: usize) {
        let node = self.node_of(at);
        let shard = self.shard_of(node);
        let told = self.core.nodes[at].replicas > 0 && !self.core.nodes[at].unsure;
        if told && self.is_primary(node) && self.shards[shard].attached && !self.shards[shard].known {
            self.shards[shard].known = true;
            self.shards[shard].replicate(usize::MAX);
        }
    }

    fn cut(&mut self, at: usize) {
        if !self.links.contains_key(&at) {
            return;
        }
        let mut served = 0;
        while self.rng.chance(4, 5) && self.serve(at) {
            served += 1;
        }
        self.links.remove(&at);
        let node = self.node_of(at);
        self.note(format!("connection to node {node} is cut, {served} more served"));
        self.core.node_down(at);
    }

    fn take(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(&at) else { return };
        let Some(reply) = link.output.pop_front() else { return };
        let node = self.node_of(at);
        let flight = self.core.nodes[at].flights.front().map(|flight| flight.what.clone());
        self.detail(|| format!("  from node {node}: {flight:?}"));
        match (self.core.expect(at), reply) {
            (Expect::Plain(_), Reply::Frame(_)) => self.core.good(at, 1),
            (Expect::Plain(_), Reply::Error(text, element)) => self.core.bad(at, text, element),
            (Expect::Frame, Reply::Frame(frame)) => {
                self.core.content(at, &frame);
                self.learned(at);
            }
            _ => panic!("another reply was expected"),
        }
        if self.core.is_condemned(at) {
            self.cut(at);
        }
    }

    fn work(&mut self, at: usize) {
        match self.rng.below(8) {
            0 => self.connect(at),
            1 | 2 if self.links.contains_key(&at) => {
                let mut out = BytesMut::new();
                self.core.fill(at, &mut out);
                self.links.get_mut(&at).unwrap().input.extend_from_slice(&out);
            }
            3..=5 if self.links.contains_key(&at) => drop(self.serve(at)),
            _ => self.take(at),
        }
    }

    fn add(&mut self) {
        let number = self.rng.index(2);
        let link = number as u16;
        if !self.in_stream[number] && self.marks[number] >= 5 {
            if self.core.link(link).unwrap().is_settled() {
                self.in_stream[number] = true;
                self.note(format!("stream of link {link}"));
                let offset = self.marks[number];
                if self.single {
                    let ticket = self.core.link(link).unwrap().open();
                    self.core.add_anywhere(Item::nothing(link, offset, 0, ticket));
                    let done = Done::Stream { commands: 0, end: offset, db: None };
                    self.core.link(link).unwrap().seal(ticket, done);
                } else {
                    self.positions[number] = Some(offset);
                }
            }
            return;
        }
        let slot = self.rng.below(u64::from(SLOTS)) as u16;
        let db = self.rng.below(self.dbs) as u32;
        self.marks[number] += 1;
        let at = self.marks[number];
        let tag = keyferry_routing::tag_for_slot(slot);
        let key = |name: &str| format!("{name}{link}{{{tag}}}");
        self.value += 1;
        let value = self.value.to_string();
        let mut commands: Vec<Vec<String>> = Vec::new();
        // One server is told of everything how far it goes.
        let mut class = if self.single { Class::Exact } else { Class::Blind };
        if !self.in_stream[number] {
            class = if self.rng.chance(2, 3) { Class::Free } else { Class::Exact };
            commands.push(match class {
                Class::Free => vec!["SET".into(), key(&format!("f{at}")), value],
                _ => vec!["RPUSH".into(), key("l"), value],
            });
        } else {
            for n in 0..*self.rng_pick(&[1, 1, 1, 2, 3]) {
                let value = format!("{value}{n}");
                let toggle = key("t");
                let command = match self.rng.below(8) {
                    0 => vec!["SET".into(), key("s"), value],
                    7 => vec!["INCR".into(), key("s")],
                    1 => vec!["DEL".into(), key("s")],
                    2 => vec!["INCR".into(), key("c")],
                    3 => vec!["RPUSH".into(), key("l"), value],
                    4 => vec!["SET".into(), toggle, value],
                    5 => vec!["DEL".into(), toggle],
                    _ => vec!["HSET".into(), toggle, "f".into(), value],
                };
                let mut trial = self.expected.clone();
                let fails = commands.iter().chain([&command]).any(|c| apply(&mut trial, db, c).is_err());
                if fails {
                    commands.push(vec!["DEL".into(), key("t")]);
                }
                if matches!(&command[0][..], "INCR" | "RPUSH") {
                    class = Class::Exact;
                }
                commands.push(command);
            }
        }
        let mut bytes = BytesMut::new();
        for command in &commands {
            apply(&mut self.expected, db, command).unwrap();
            encode_command(&mut bytes, command);
        }
        self.note(format!("link {link} mark {at} slot {slot} db {db} {class:?} {commands:?}"));
        let mark = if self.in_stream[number] { Mark::Stream(at) } else { Mark::Snapshot(at) };
        let ticket = self.core.link(link).unwrap().open();
        let commands = commands.len() as u32;
        let bytes = bytes.freeze();
        let mut item = Item {
            link,
            mark,
            at,
            class,
            db,
            db_after: db,
            source_db: Some(u64::from(db)),
            bytes,
            commands,
            resets: false,
            ticket,
            replay: false,
            part: Part::Whole,
        };
        if self.single && self.in_stream[number] {
            self.divide(number, &mut item);
        }
        self.history[number].push((slot, item.clone()));
        self.core.add(slot, item);
        self.core.link(link).unwrap().seal(ticket, Done::Stream { commands: 1, end: at, db: None });
    }

    fn divide(&mut self, number: usize, item: &mut Item) {
        let (mut decoder, mut at) = (CommandDecoder::new(), 0);
        if self.lie == Some(Lie::Dividers) {
            self.dividers[number] = Divider::with(AHEAD, 1);
        }
        let divider = &mut self.dividers[number];
        let Mark::Stream(end) = item.mark else { panic!("in a snapshot") };
        while at < item.bytes.len() {
            let command = decoder.next_ref(&item.bytes[at..]).unwrap().unwrap();
            let raw = &item.bytes[at..at + command.consumed()];
            at += command.consumed();
            let table = keyferry_routing::CommandTable::builtin();
            divider.take(table, &command, raw, end);
        }
        if let Some(divided) = divider.end(end) {
            item.divide(divided);
        }
    }

    // --- The program dies.

    /// Where each link can go on, if all can.
    fn kept(&self) -> Option<[u64; 2]> {
        let of = |link: usize| {
            if !self.single {
                return self.positions[link];
            }
            let checkpoints = some(true);
            let state = self.shards[0].data.get(&(0, checkpoints.id().state_key()))?;
            let Value::Hash(fields) = state else { panic!("the state is no hash") };
            match LinkState::parse(fields.get(&format!("link:{link}"))?)?.stage {
                Stage::Stream(position) => Some(position.offset),
                Stage::Snapshot(_) => None,
            }
        };
        Some([of(0)?, of(1)?])
    }

    fn write_positions(&mut self) {
        for link in 0..2u16 {
            let mut reached = self.core.link(link).unwrap().reached;
            if self.lie == Some(Lie::Positions) {
                reached = reached.map(|(_, db)| (self.marks[usize::from(link)], db));
            }
            if let (Some((offset, _)), Some(position)) = (reached, &mut self.positions[usize::from(link)]) {
                *position = offset.max(*position);
            }
        }
    }

    fn die(&mut self) {
        if !self.in_stream.iter().all(|&is| is) {
            return;
        }
        // What it had sent may be executed until its connections are closed, and nothing after that.
        for at in 0..self.core.nodes() {
            self.cut(at);
        }
        self.links.clear();
        let Some(kept) = self.kept() else { return };
        self.note(format!("the program dies, and goes on at {kept:?} of {:?}", self.marks));
        self.deaths += 1;
        self.gates.clear();
        self.core = new_core(self.single);
        for shard in &mut self.shards {
            shard.known = false;
        }
        for (link, offset) in (0..2u16).zip(kept) {
            let until = if self.single { offset + AHEAD } else { self.marks[usize::from(link)] };
            self.core.resume(link, (offset, None), until);
        }
        self.survey(false);
        // The links come in any order, each by itself in its own.
        let mut left: [VecDeque<(u16, Item)>; 2] = Default::default();
        for (link, offset) in kept.into_iter().enumerate() {
            let after = |(_, item): &&(u16, Item)| item.mark > Mark::Stream(offset);
            left[link] = self.history[link].iter().filter(after).cloned().collect();
        }
        while left.iter().any(|left| !left.is_empty()) {
            let link = self.rng.index(2);
            let Some((slot, mut item)) = left[link].pop_front() else { continue };
            item.ticket = self.core.link(item.link).unwrap().open();
            let (of, ticket, Mark::Stream(end)) = (item.link, item.ticket, item.mark) else {
                panic!("in a snapshot")
            };
            self.core.add(slot, item);
            self.core.link(of).unwrap().seal(ticket, Done::Stream { commands: 1, end, db: None });
            if self.rng.chance(1, 3) {
                let at = self.rng.index(self.core.nodes());
                self.work(at);
            }
        }
    }

    fn rng_pick<'p, T>(&mut self, of: &'p [T]) -> &'p T {
        &of[self.rng.index(of.len())]
    }

    fn in_slots(&self, state: &State, slots: &BTreeSet<u16>) -> State {
        let wanted = |key: &str| slots.contains(&slot_of(key)) && !key.starts_with("keyferry:");
        state.iter().filter(|((_, key), _)| wanted(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// What the cluster holds in these slots.
    fn found(&self, slots: &BTreeSet<u16>) -> State {
        let mut found = State::new();
        for shard in &self.shards {
            for (key, value) in self.in_slots(&shard.data, slots) {
                assert!(found.insert(key, value).is_none(), "a key in two places");
            }
        }
        found
    }

    fn gate(&mut self) {
        let slots: BTreeSet<u16> = if self.single {
            (0..SLOTS).collect()
        } else {
            (0..2).map(|_| self.rng.below(u64::from(SLOTS)) as u16).collect()
        };
        let ticket = self.core.link(0).unwrap().open();
        let handle = self.core.add_gate(slots.iter().copied(), 0, ticket, 0);
        self.core.link(0).unwrap().seal(ticket, Done::Stream { commands: 0, end: 0, db: None });
        let expected = self.in_slots(&self.expected, &slots);
        self.note(format!("gate {} before {slots:?}", handle.id));
        self.gates.push(Gate { id: handle.id, slots, expected });
    }

    fn pass_gates(&mut self) {
        let mut left = Vec::new();
        for gate in std::mem::take(&mut self.gates) {
            if self.core.gates[&gate.id].missing > 0 || self.rng.chance(1, 2) {
                left.push(gate);
                continue;
            }
            assert_eq!(self.found(&gate.slots), gate.expected, "at gate {}", gate.id);
            self.note(format!("gate {} opens", gate.id));
            self.core.open_gate(gate.id);
        }
        self.gates = left;
    }

    fn step(&mut self, busy: bool) {
        let known = self.core.nodes();
        match self.rng.below(200) {
            0..30 if busy => self.add(),
            30 => self.survey(false),
            31 => self.survey(true),
            32 if busy && self.rng.chance(1, 2) => self.fail_over(),
            33 => self.end_zombies(),
            34 if busy => {
                let at = self.rng.index(known);
                self.cut(at);
            }
            36..40 if busy => self.move_slot(false),
            40 => self.move_slot(true),
            41..50 => {
                let shard = self.rng.index(self.shards.len());
                let most = self.rng.index(4);
                self.shards[shard].replicate(most);
            }
            50..55 => drop(self.core.release_held(Instant::now() + Duration::from_secs(60))),
            55 => self.core.ask_for_replicas(),
            56 if busy => self.gate(),
            57..60 => self.pass_gates(),
            61 if busy && self.rng.chance(1, 3) => self.die(),
            62 => self.write_positions(),
            60 => {
                let n = self.rng.index(self.shards.len());
                // What is said of replicas is heard before the next of them comes or goes.
                let unheard = |reply: &Reply| matches!(reply, Reply::Frame(Frame::Bulk(_)));
                let told = self.links.values().any(|link| link.output.iter().any(unheard));
                let shard = &mut self.shards[n];
                if !told && !self.zombies.contains_key(&shard.replica) {
                    shard.attached = !shard.attached;
                    shard.known = false;
                    shard.synchronize();
                }
            }
            _ => {
                let at = self.rng.index(known);
                self.work(at);
            }
        }
        for at in 0..self.core.nodes() {
            if self.core.is_condemned(at) {
                self.cut(at);
            }
        }
        assert!(self.core.failure.is_none(), "{:?}", self.core.failure);
    }

    fn run(&mut self) {
        for _ in 0..2500 {
            self.step(true);
        }
        self.note("heal");
        self.errors = false;
        self.end_zombies();
        for slot in 0..usize::from(SLOTS) {
            self.moves(slot, true);
        }
        for _ in 0..1000 {
            self.survey(false);
            for _ in 0..200 {
                self.step(false);
            }
            if (0..2).all(|link| self.core.link(link).unwrap().is_idle()) {
                break;
            }
        }
        assert!((0..2).all(|link| self.core.link(link).unwrap().is_idle()), "something is never done");
        let all = (0..SLOTS).collect();
        assert_eq!(self.found(&all), self.expected, "in the end");
        if self.single && self.deaths > 0 {
            assert_eq!(self.kept(), Some(self.marks), "the position is exact");
        }
    }
}

#[test]
fn everything_is_there_once_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("KEYFERRY_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("KEYFERRY_MODEL_SEEDS").unwrap_or(100),
    };
    for seed in seeds {
        let mut world = World::new(seed);
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
        if ran.is_err() {
            let mut told = String::new();
            world.log.iter().for_each(|line| writeln!(told, "{line}").unwrap());
            let open: Vec<u64> = world.gates.iter().map(|gate| gate.id).collect();
            panic!(
                "KEYFERRY_MODEL_SEED={seed}\n{told}\n{:?}\n{:?}\n{:?} of {open:?}",
                world.core.lanes, world.core.nodes, world.core.gates
            );
        }
    }
}

/// What the test above rests on: it finds out when servers or the program do not do what they promise.
#[test]
fn a_promise_that_is_not_kept_is_found_out() {
    for lie in [Lie::Checkpoints, Lie::Replicas, Lie::Positions, Lie::Dividers] {
        let found = (0..100).find(|&seed| {
            let mut world = World::new(seed);
            world.lie = Some(lie);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run())).is_err()
        });
        assert!(found.is_some(), "{lie:?}");
    }
}
