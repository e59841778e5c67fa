//! Filtered migrations between real servers: what the target holds is what a naive filter makes of what the source holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use keyferry_migrate::{
    Error, Options, Phase, Report, Until,
    filter::{Effect, Filter, Operands, Rule, Settings},
};
use keyferry_rdb::Kind;
use keyferry_resp::Frame;
use keyferry_testkit::{Client, Cluster, Rng, Server, data::Features};
use tokio::task::block_in_place;

use crate::support::{Running, any, offset_of, run};

/// Databases that are written to.
const DATABASES: u64 = 3;

/// Commands written while a migration runs.
const WRITES: usize = 4000;

/// A value in a form that does not depend on its encoding, and whether it expires.
type Value = (String, Vec<Vec<u8>>, bool);

/// What a server holds, by database and key.
type Data = BTreeMap<(u64, Vec<u8>), Value>;

fn bytes(frame: &Frame) -> Vec<u8> {
    frame.as_bytes().map(|bytes| bytes.to_vec()).unwrap_or_else(|| format!("{frame:?}").into_bytes())
}

fn items(frame: &Frame) -> Vec<Vec<u8>> {
    frame.as_array().unwrap_or_default().iter().map(bytes).collect()
}

/// Everything that a server holds.
fn read(client: &mut Client, databases: u64) -> Data {
    let mut data = Data::new();
    for db in 0..databases {
        if client.call(&["SELECT", &db.to_string()]).is_err() {
            assert!(db > 0);
            break;
        }
        for key in items(&client.call(&["KEYS", "*"]).unwrap()) {
            if key.starts_with(b"keyferry:") {
                continue;
            }
            let ty = client.text(&[&b"TYPE"[..], &key]).unwrap();
            let get: &[&[u8]] = match &*ty {
                "string" => &[b"GET", &key],
                "list" => &[b"LRANGE", &key, b"0", b"-1"],
                "set" => &[b"SMEMBERS", &key],
                "zset" => &[b"ZRANGE", &key, b"0", b"-1", b"WITHSCORES"],
                "hash" => &[b"HGETALL", &key],
                other => panic!("{other}"),
            };
            let reply = client.call(get).unwrap();
            let mut value = if ty == "string" { vec![bytes(&reply)] } else { items(&reply) };
            match &*ty {
                "set" => value.sort(),
                "hash" => {
                    let mut pairs: Vec<Vec<Vec<u8>>> = value.chunks(2).map(<[_]>::to_vec).collect();
                    pairs.sort();
                    value = pairs.concat();
                }
                _ => {}
            }
            let expires = client.int(&[&b"PTTL"[..], &key]).unwrap() > 0;
            data.insert((db, key), (ty, value, expires));
        }
    }
    client.call(&["SELECT", "0"]).unwrap();
    data
}

/// What the keys of the load may be called, and which of them may come together.
struct Load {
    rng: Rng,
    /// Classes of names: a value may go to a name of its own class or of a later one.
    classes: &'static [&'static str],
    features: Features,
    databases: u64,
    /// Values go from one database to another.
    crosses: bool,
    flushes: bool,
    swaps: bool,
}

impl Load {
    fn name(&mut self, class: usize) -> String {
        let number = self.rng.below(6);
        self.classes[class].replace('#', &number.to_string())
    }

    fn class(&mut self) -> usize {
        self.rng.index(self.classes.len())
    }

    /// Names of this class and later ones.
    fn from(&mut self, class: usize) -> String {
        let class = self.rng.range(class, self.classes.len() - 1);
        self.name(class)
    }

    /// Names of this class and earlier ones.
    fn operand(&mut self, class: usize) -> String {
        let class = self.rng.index(class + 1);
        self.name(class)
    }

    fn any(&mut self) -> String {
        let class = self.class();
        self.name(class)
    }

    fn command(&mut self) -> Vec<String> {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let n = self.rng.below(9).to_string();
        let to_class = self.class();
        let (key, to) = (self.any(), self.name(to_class));
        let operands = [self.operand(to_class), self.operand(to_class)];
        let from = operands[0].clone();
        let far = "33000000000000";
        match self.rng.below(40) {
            0..4 => owned(&["SET", &key, &n]),
            4 => owned(&["SET", &key, &n, "PXAT", far]),
            5 => owned(&["APPEND", &key, &n]),
            6..9 => owned(&["RPUSH", &key, &n, "x"]),
            9..12 => owned(&["SADD", &key, &n, "y"]),
            12 => owned(&["HSET", &key, &n, "z"]),
            13 => owned(&["ZADD", &key, &n, &n]),
            14 => owned(&["INCRBY", &key, &n]),
            15 => owned(&["DEL", &key, &to, &from]),
            16 => owned(&["UNLINK", &key, &to]),
            17 => owned(&["MSET", &key, "1", &to, "2", &from, "3"]),
            18 => owned(&["MSETNX", &key, "1", &to, "2"]),
            19..22 => owned(&["RENAME", &from, &to]),
            22 => owned(&["RENAMENX", &from, &to]),
            23 if self.features.has("copy") => owned(&["COPY", &from, &to, "REPLACE"]),
            24 if self.crosses && self.features.has("copy") => {
                let db = self.rng.below(self.databases).to_string();
                owned(&["COPY", &from, &to, "DB", &db])
            }
            25..27 => owned(&["RPOPLPUSH", &from, &to]),
            27 if self.features.has("lmove") => owned(&["LMOVE", &from, &to, "LEFT", "RIGHT"]),
            28 => owned(&["SMOVE", &from, &to, &n]),
            29 => owned(&["SUNIONSTORE", &to, &operands[0], &operands[1]]),
            30 => owned(&["SINTERSTORE", &to, &operands[0], &operands[1]]),
            31 => owned(&["BITOP", "OR", &to, &operands[0], &operands[1]]),
            32 if self.crosses => owned(&["MOVE", &key, &self.rng.below(self.databases).to_string()]),
            33 => owned(&["PEXPIREAT", &key, far]),
            34 => owned(&["PERSIST", &key]),
            35 => owned(&["SPOP", &key]),
            36 => owned(&["LPOP", &key]),
            37 if self.flushes && self.rng.chance(1, 20) => owned(&["FLUSHDB"]),
            38 if self.flushes && self.rng.chance(1, 60) => owned(&["FLUSHALL"]),
            39 if self.swaps && self.rng.chance(1, 10) => owned(&["SWAPDB", "0", "1"]),
            _ => owned(&["SREM", &self.from(to_class), &n]),
        }
    }

    fn write(&mut self, client: &mut Client, count: usize) {
        for _ in 0..count {
            let mut commands = Vec::new();
            if self.rng.chance(1, 12) {
                let db = self.rng.below(self.databases).to_string();
                commands.push(vec!["SELECT".to_owned(), db]);
            }
            if self.rng.chance(1, 10) {
                commands.push(vec!["MULTI".to_owned()]);
                for place in 0..self.rng.range(1, 4) {
                    // What is to remove some keys only cannot stand behind others in a transaction.
                    let command = self.command();
                    commands.extend(
                        Some(command).filter(|command| place == 0 || !command[0].starts_with("FLUSH")),
                    );
                }
                commands.push(vec!["EXEC".to_owned()]);
            } else {
                commands.push(self.command());
            }
            client.pipe(&commands).unwrap();
        }
    }

    /// Goes on until there is a key that is wanted: the last writes may have been a flush, which leaves nothing to compare.
    fn write_until(&mut self, client: &mut Client, wanted: impl Fn((&(u64, Vec<u8>), &Value)) -> bool) {
        let mut rounds = 0..100;
        while !read(client, self.databases).iter().any(&wanted) {
            rounds.next().expect("the load makes keys that are wanted");
            self.write(client, 20);
        }
    }
}

fn load(client: &mut Client, seed: u64, classes: &'static [&'static str]) -> Load {
    let features = Features::probe(client).unwrap();
    Load {
        rng: Rng::new(seed),
        classes,
        features,
        databases: DATABASES,
        crosses: false,
        flushes: true,
        swaps: false,
    }
}

fn rule(mut rule: Rule, names: &[&str], databases: &[u64], kinds: &[Kind]) -> Rule {
    rule.keys.keys = names.iter().map(|name| name.parse().unwrap()).collect();
    rule.keys.databases = databases.to_vec();
    rule.keys.kinds = kinds.to_vec();
    rule
}

fn settings(rules: Vec<Rule>, otherwise: Effect, renames: &[&str]) -> Settings {
    let mut settings = Settings::default();
    settings.rules = rules;
    settings.otherwise = otherwise;
    settings.renames = renames.iter().map(|rename| rename.parse().unwrap()).collect();
    settings
}

/// Migrates while the load writes, and compares. `names` tells the name that a key has at the target, none when it is left out.
async fn filtered(
    source: &Server,
    (target_url, mut target): (String, Client),
    settings: Settings,
    mut load: Load,
    change: impl FnOnce(&mut Options),
    name: impl Fn(u64, &[u8], &Value) -> Option<Vec<u8>>,
) -> Report {
    let mut client = source.client().unwrap();
    block_in_place(|| {
        load.write(&mut client, 300);
        client.call(&["SELECT", "0"]).unwrap();
    });
    let own: Data = read(&mut target, DATABASES);
    let filter = Arc::new(Filter::new(settings).unwrap());
    let mut running = Running::start(&source.url(), &target_url, |options| {
        options.until = Until::Forever;
        options.filter = Some(Arc::clone(&filter));
        change(options);
    });
    let stop = Arc::new(AtomicBool::new(false));
    let mut writer = source.client().unwrap();
    let stopped = Arc::clone(&stop);
    let writing = tokio::task::spawn_blocking(move || {
        let mut written = 0;
        while written < WRITES || !stopped.load(Ordering::Relaxed) {
            load.write(&mut writer, 20);
            written += 20;
            // Less and less, so that a slow machine catches up, too.
            std::thread::sleep(Duration::from_millis(2 * (1 + written / WRITES) as u64));
        }
        load
    });
    running.until_phase(Phase::Following).await;
    stop.store(true, Ordering::Relaxed);
    while !writing.is_finished() {
        running.until("a while", |_| true).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut load = writing.await.unwrap();
    block_in_place(|| {
        load.write_until(&mut client, |((db, key), value)| name(*db, key, value).is_some());
    });
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    let finished = running.end().await;
    finished.result.unwrap();
    let here = read(&mut client, DATABASES);
    let mut expected = own;
    let chosen = here.iter().filter_map(|((db, key), value)| {
        let name = name(*db, key, value)?;
        Some(((*db, name), value.clone()))
    });
    let chosen: Data = chosen.collect();
    assert!(!chosen.is_empty(), "{} keys", here.len());
    expected.extend(chosen);
    let there = read(&mut target, DATABASES);
    let names = |data: &Data| data.keys().cloned().collect::<BTreeSet<_>>();
    let show = |keys: BTreeSet<(u64, Vec<u8>)>| {
        keys.into_iter().map(|(db, key)| format!("{db}:{}", key.escape_ascii())).collect::<Vec<_>>()
    };
    assert_eq!(show(&names(&expected) - &names(&there)), Vec::<String>::new(), "missing at the target");
    assert_eq!(show(&names(&there) - &names(&expected)), Vec::<String>::new(), "too many at the target");
    for (key, value) in &expected {
        assert_eq!(Some(value), there.get(key), "{key:?}");
    }
    finished.report
}

fn fill_own(target: &mut Client) {
    for db in ["0", "1", "2"] {
        target.call(&["SELECT", db]).unwrap();
        target.call(&["SET", "own:key", db]).unwrap();
        target.call(&["RPUSH", "keep:0!", "own, and of a name that is left out"]).unwrap();
    }
    target.call(&["SELECT", "0"]).unwrap();
}

fn has(report: &Report, what: &str) -> bool {
    report.filter.iter().any(|line| line.what.contains(what) && line.count > 0 && !line.samples.is_empty())
}

/// By name and database, under new names; what the target has of its own stays, whatever the source flushes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_databases_under_new_names() {
    let (source, target) = (any(), any());
    let mut client = target.client().unwrap();
    fill_own(&mut client);
    let rules = vec![
        rule(Rule::exclude(), &["suffix:!"], &[], &[]),
        rule(Rule::include(), &["prefix:keep:", "regex:^also[0-5]$"], &[0, 1], &[]),
    ];
    let settings = settings(rules, Effect::Exclude, &["replace-prefix:keep:=new:", "add-prefix:old:"]);
    let load = load(&mut source.client().unwrap(), 7, &["keep:#", "also#", "left:#", "keep:#!"]);
    let report = filtered(
        &source,
        (target.url(), client),
        settings,
        load,
        |_| {},
        |db, key, _| {
            let text = std::str::from_utf8(key).unwrap();
            let kept = text.starts_with("keep:") || text.starts_with("also");
            (db < 2 && kept && !text.ends_with('!')).then(|| match text.strip_prefix("keep:") {
                Some(rest) => format!("new:{rest}").into_bytes(),
                None => format!("old:{text}").into_bytes(),
            })
        },
    )
    .await;
    for what in ["keys of the snapshot left out", "commands left out", "name others", "renamed", "FLUSHALL"] {
        assert!(has(&report, what), "{what}: {:?}", report.filter);
    }
}

/// By type, in all databases: what overwrites, renames, copies and moves tells nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_whatever_happens_to_the_keys() {
    let (source, target) = (any(), any());
    let rules = vec![rule(Rule::include(), &[], &[], &[Kind::List, Kind::Set])];
    let settings = settings(rules, Effect::Exclude, &[]);
    let mut load = load(&mut source.client().unwrap(), 8, &["k#", "l#"]);
    if !load.features.has("copy") {
        return;
    }
    (load.swaps, load.crosses) = (true, true);
    let target_client = target.client().unwrap();
    let report = filtered(
        &source,
        (target.url(), target_client),
        settings,
        load,
        |_| {},
        |_, key, value| ["list", "set"].contains(&&*value.0).then(|| key.to_vec()),
    )
    .await;
    for what in ["keys removed, as they were overwritten", "commands replaced", "commands left out"] {
        assert!(has(&report, what), "{what}: {:?}", report.filter);
    }
}

/// Into a cluster: what spans slots is computed there from the keys that are chosen. Nothing expires there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn into_a_cluster() {
    let source = any();
    let cluster = Cluster::builder(keyferry_testkit::any().unwrap()).primaries(2).start().unwrap();
    let rules = vec![rule(Rule::exclude(), &["left:*", "*!"], &[], &[])];
    let mut settings = settings(rules, Effect::Include, &["add-suffix:-new"]);
    settings.ttls.push("drop".parse().unwrap());
    let mut load = load(&mut source.client().unwrap(), 10, &["keep:#", "{t}keep:#", "left:#", "{t}#!"]);
    load.databases = 1;
    let url = cluster.url();
    // What several nodes hold is read from each.
    let mut client = source.client().unwrap();
    block_in_place(|| load.write(&mut client, 300));
    let mut running = Running::start(&source.url(), &url, |options| {
        options.filter = Some(Arc::new(Filter::new(settings).unwrap()));
    });
    let mut writer = source.client().unwrap();
    let writing = tokio::task::spawn_blocking(move || {
        for _ in 0..WRITES / 20 {
            load.write(&mut writer, 10);
            std::thread::sleep(Duration::from_millis(2));
        }
        load
    });
    running.until_phase(Phase::Following).await;
    let mut load = writing.await.unwrap();
    let is_kept = |key: &[u8]| !key.starts_with(b"left:") && !key.ends_with(b"!");
    block_in_place(|| load.write_until(&mut client, |((_, key), _)| is_kept(key)));
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    running.end().await.result.unwrap();
    let here = read(&mut client, 1).into_iter().filter(|((_, key), _)| is_kept(key));
    let here: Data = here
        .map(|((db, key), (ty, value, _))| ((db, [&key[..], b"-new"].concat()), (ty, value, false)))
        .collect();
    let mut there = Data::new();
    for node in cluster.nodes() {
        there.extend(read(&mut node.client().unwrap(), 1));
    }
    assert!(!here.is_empty());
    assert_eq!(here, there);
}

/// What cannot be kept is refused, and nothing is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_kept_is_refused() {
    let (source, target) = (any(), any());
    source.client().unwrap().call(&["SET", "a", "1"]).unwrap();
    let mut large = Rule::exclude();
    large.keys.value.size = Some(100..=u64::MAX);
    let filter = Filter::new(settings(vec![large], Effect::Include, &[])).unwrap();
    let finished = run(&source.url(), &target.url(), |o| o.filter = Some(Arc::new(filter))).await;
    assert!(matches!(finished.result, Err(Error::Filter(_))), "{:?}", finished.result);
    assert_eq!(target.client().unwrap().int(&["DBSIZE"]).unwrap(), 0);
}

/// A value from outside ends the run with the command, or is told in the report.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_from_outside_end_the_run_or_are_told() {
    for operands in [Operands::Refuse, Operands::Report] {
        let (source, target) = (any(), any());
        let mut client = source.client().unwrap();
        client.call(&["SADD", "left", "a"]).unwrap();
        client.call(&["SADD", "kept", "b"]).unwrap();
        let mut settings = settings(vec![rule(Rule::exclude(), &["left"], &[], &[])], Effect::Include, &[]);
        settings.operands = operands;
        let filter = Arc::new(Filter::new(settings).unwrap());
        let mut running = Running::start(&source.url(), &target.url(), |o| o.filter = Some(filter));
        running.until_phase(Phase::Following).await;
        client.call(&["SUNIONSTORE", "kept", "kept", "left"]).unwrap();
        client.call(&["SET", "after", "1"]).unwrap();
        let offset = offset_of(&mut client);
        match operands {
            Operands::Refuse => {
                let finished = running.end().await;
                let error = finished.result.unwrap_err().to_line();
                assert!(
                    error.contains("SUNIONSTORE kept kept left") && error.contains("\"left\""),
                    "{error}"
                );
            }
            Operands::Report => {
                running.until_applied(offset).await;
                running.stopper.stop();
                let finished = running.end().await;
                finished.result.unwrap();
                let line = finished.report.filter.iter().find(|line| line.what.contains("lack")).unwrap();
                assert_eq!((line.count, &line.samples[..]), (1, &["kept".to_owned()][..]));
                let there = read(&mut target.client().unwrap(), 1);
                assert_eq!(there.into_keys().collect::<Vec<_>>(), [(0, b"after".to_vec())]);
            }
        }
    }
}

/// A run that ended goes on where it was, by the same rules; other rules are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filtered_migration_goes_on_where_it_was() {
    let (source, target) = (any(), any());
    let mut client = source.client().unwrap();
    let rules = |left_out: &str| {
        let rules = vec![rule(Rule::exclude(), &[left_out, "*!"], &[], &[])];
        Arc::new(Filter::new(settings(rules, Effect::Include, &["add-prefix:new:"])).unwrap())
    };
    let mut load = load(&mut client, 12, &["keep:#", "left:#", "keep:#!"]);
    for round in 0..3 {
        block_in_place(|| {
            load.write(&mut client, 300);
            client.call(&["SELECT", "0"]).unwrap();
        });
        let mut running = Running::start(&source.url(), &target.url(), |options| {
            options.filter = Some(rules("left:*"));
        });
        running.until_phase(Phase::Following).await;
        block_in_place(|| load.write(&mut client, 300));
        running.until_applied(offset_of(&mut client)).await;
        running.stopper.stop();
        running.end().await.result.unwrap_or_else(|e| panic!("round {round}: {e}"));
        let kept = |key: &[u8]| key.starts_with(b"keep:") && !key.ends_with(b"!");
        let here = read(&mut client, DATABASES).into_iter().filter(|((_, key), _)| kept(key));
        let here: Data = here.map(|((db, key), value)| ((db, [b"new:", &key[..]].concat()), value)).collect();
        assert_eq!(here, read(&mut target.client().unwrap(), DATABASES), "round {round}");
    }
    let full = client.info("stats", "sync_full").unwrap().unwrap();
    assert_eq!(full, "1");
    client.call(&["SET", "keep:1", "seen by nobody"]).unwrap();
    for other in [Some(rules("other:*")), None] {
        let finished = run(&source.url(), &target.url(), |options| options.filter = other).await;
        let error = finished.result.unwrap_err();
        assert!(matches!(error, Error::OtherChanges { .. }), "{error}");
    }
    let there = read(&mut target.client().unwrap(), 1);
    assert!(there.values().all(|(_, value, _)| value != &[b"seen by nobody".to_vec()]));
}
