//! The core against a cluster in plain Rust: random work, random trouble, and in the end everything has to be there once.
//!
//! The cluster has shards of a primary and a replica, which follows it with a delay and takes over without the rest; slots
//! that move key by key; connections that are cut with commands executed and unanswered; old primaries that go on
//! answering for a while; and the program itself, which dies between any two steps and begins anew with what the target
//! has. What servers do is told as their sources have it: `ASKING` covers a transaction, a transaction
//! with some of its keys moved is refused with `TRYAGAIN`.

mod cluster;
mod program;

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
