//! Masked migrations between real servers: the target holds what masks make of what the source holds, and was never told more.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use keyferry_migrate::{
    Error, Options, Phase, Report, SourceMode,
    filter::{Filter, Mask, MaskRule, Masking, Operands, Part, Settings},
};
use keyferry_resp::Frame;
use keyferry_testkit::{Client, Cluster, Rng, Server, chosen, data::Features};
use tokio::task::block_in_place;

use crate::support::{Running, any, offset_of, run, start};

/// What no target may hear of.
const SECRET: &str = "SECRET";

/// Values of `h:` are hashed, fields `secret` of `p:` hidden, strings and lists of `f:` fixed.
const RULES: [&str; 3] = ["h:*=hash:one", "p:* .secret=format", "f:*=fixed:***"];

fn settings(rules: &[&str], salt: &str) -> Settings {
    let mut settings = Settings::default();
    let rule =
        |text: &&str| MaskRule::parse(text, |name| Ok(format!("{salt}: {name}").into_bytes())).unwrap();
    settings.masks = rules.iter().map(rule).collect();
    settings
}

fn filter(rules: &[&str], salt: &str) -> Arc<Filter> {
    Arc::new(Filter::new(settings(rules, salt)).unwrap())
}

/// The masks, told once more.
struct Naive(Masking);

impl Naive {
    fn new(salt: &str) -> Self {
        Naive(Masking::hash(format!("{salt}: one").as_bytes()).unwrap())
    }

    fn mask(&self, key: &[u8], part: Part<'_>, value: &[u8]) -> Vec<u8> {
        let hidden = matches!(part, Part::Field(b"secret") | Part::EntryField(b"secret"));
        match key.get(..2) {
            Some(b"h:") => self.0.mask(part, value).into_owned(),
            Some(b"p:") if hidden => Masking::Format.mask(part, value).into_owned(),
            Some(b"f:") => b"***".to_vec(),
            _ => value.to_vec(),
        }
    }
}

fn items(reply: &Frame) -> Vec<Vec<u8>> {
    reply.as_array().unwrap_or_default().iter().map(|item| item.as_bytes().unwrap().to_vec()).collect()
}

/// What a server holds, by key; `mask` is put on every value.
pub(crate) type Data = BTreeMap<Vec<u8>, (String, Vec<Vec<Vec<u8>>>)>;

pub(crate) fn read(client: &mut Client, mask: impl Fn(&[u8], Part<'_>, &[u8]) -> Vec<u8>) -> Data {
    let mut data = Data::new();
    for key in items(&client.call(&["KEYS", "*"]).unwrap()) {
        if key.starts_with(b"keyferry:") {
            continue;
        }
        let ty = client.text(&[&b"TYPE"[..], &key]).unwrap();
        let ask = |client: &mut Client, words: &[&[u8]]| client.call(words).unwrap();
        let put = |part: Part<'_>, value: &[u8]| mask(&key, part, value);
        let value: Vec<Vec<Vec<u8>>> = match &*ty {
            "string" => {
                let text = ask(client, &[b"GET", &key]);
                vec![vec![put(Part::String, text.as_bytes().unwrap())]]
            }
            "list" => {
                let list = items(&ask(client, &[b"LRANGE", &key, b"0", b"-1"]));
                list.iter().map(|item| vec![put(Part::Item, item)]).collect()
            }
            "set" => {
                let set = items(&ask(client, &[b"SMEMBERS", &key]));
                let mut set: Vec<_> = set.iter().map(|item| vec![put(Part::Member, item)]).collect();
                set.sort();
                set
            }
            "zset" => {
                let pairs = items(&ask(client, &[b"ZRANGE", &key, b"0", b"-1", b"WITHSCORES"]));
                let pairs = pairs.chunks(2);
                let mut set: Vec<_> =
                    pairs.map(|pair| vec![put(Part::ScoredMember, &pair[0]), pair[1].clone()]).collect();
                set.sort();
                set
            }
            "hash" => {
                let pairs = items(&ask(client, &[b"HGETALL", &key]));
                let pairs = pairs.chunks(2);
                let mut hash: Vec<_> =
                    pairs.map(|pair| vec![pair[0].clone(), put(Part::Field(&pair[0]), &pair[1])]).collect();
                hash.sort();
                hash
            }
            "stream" => {
                let entries = ask(client, &[b"XRANGE", &key, b"-", b"+"]);
                let entry = |entry: &Frame| {
                    let parts = entry.as_array().unwrap();
                    let mut all = vec![parts[0].as_bytes().unwrap().to_vec()];
                    for pair in items(&parts[1]).chunks(2) {
                        all.extend([pair[0].clone(), put(Part::EntryField(&pair[0]), &pair[1])]);
                    }
                    all
                };
                entries.as_array().unwrap().iter().map(entry).collect()
            }
            other => panic!("{other}"),
        };
        data.insert(key, (ty, value));
    }
    data
}

pub(crate) fn as_it_is(_: &[u8], _: Part<'_>, value: &[u8]) -> Vec<u8> {
    value.to_vec()
}

/// Writes values of every type, takes them from key to key within the same masks, and looks for them by value.
fn write(client: &mut Client, rng: &mut Rng, features: &Features, tag: &str, steps: u32) {
    for step in 0..steps {
        let class = ["h", "h", "h", "f", "p", "o"][rng.index(6)];
        let key = |rng: &mut Rng| format!("{class}:{tag}{}", rng.below(12));
        let (a, b) = (key(rng), key(rng));
        let value = match rng.below(30) {
            0 => format!("{SECRET} {step} {}", "long ".repeat(200)),
            n => format!("{SECRET} {n}"),
        };
        let (other, number) = (format!("{SECRET} {}", rng.below(30)), rng.below(20).to_string());
        let far = "33000000000000";
        let words: Vec<&str> = match (class, rng.below(26)) {
            ("p", 0..12) => vec!["HSET", &a, "secret", &value, "open", &number],
            ("p", 12..16) => vec!["HINCRBY", &a, "open", "2"],
            ("p", 16..20) => vec!["XADD", &a, "*", "open", &number, "secret", &value],
            ("p", 20..22) => vec!["HDEL", &a, "secret"],
            ("o", 0..6) => vec!["APPEND", &a, &number],
            ("o", 6..10) => vec!["EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", &a, &number],
            ("o", 10..) => vec!["INCRBY", &a, "3"],
            (_, 0) => vec!["SET", &a, &value],
            (_, 1) => vec!["SET", &a, &value, "PXAT", far],
            (_, 2) => vec!["MSET", &a, &value, &b, &other],
            (_, 3) => vec!["GETSET", &a, &value],
            (_, 4) => vec!["SETEX", &a, "100000", &value],
            (_, 5) => vec!["RPUSH", &a, &value, &other],
            (_, 6) => vec!["LPUSH", &a, &value],
            (_, 7) => vec!["LSET", &a, "0", &value],
            (_, 8) => vec!["RPOPLPUSH", &a, &b],
            (_, 9) => vec!["RENAME", &a, &b],
            (_, 10) => vec!["DEL", &a, &b],
            (_, 11) => vec!["PEXPIREAT", &a, far],
            (_, 12) if features.has("copy") => vec!["COPY", &a, &b, "REPLACE"],
            (_, 13) => vec!["HSET", &a, &number, &value],
            (_, 14) => vec!["XADD", &a, "MAXLEN", "~", "50", "*", "f", &value, "f", &other],
            ("h", 15) => vec!["SADD", &a, &value, &other],
            ("h", 16) => vec!["SREM", &a, &value],
            ("h", 17) => vec!["SMOVE", &a, &b, &value],
            ("h", 18) => vec!["SUNIONSTORE", &a, &b, &a],
            ("h", 19) => vec!["SPOP", &a],
            ("h", 20) => vec!["ZADD", &a, &number, &value],
            ("h", 21) => vec!["ZREM", &a, &value],
            ("h", 22) => vec!["ZINCRBY", &a, "1.5", &value],
            ("h", 23) => vec!["LREM", &a, "1", &value],
            ("h", 24) => vec!["LINSERT", &a, "BEFORE", &other, &value],
            _ => {
                // A value moves as a payload, as other tools do it.
                if let Some(payload) = client.bytes(&["DUMP", &a]).unwrap() {
                    client.call(&[b"RESTORE", b.as_bytes(), b"0", &payload, b"REPLACE"]).unwrap();
                }
                continue;
            }
        };
        // A wrong type is an error, and no write.
        if rng.chance(1, 8) {
            client
                .pipe(&[vec!["MULTI"], words, vec!["SET", &format!("o:{tag}n"), &number], vec!["EXEC"]])
                .unwrap();
        } else {
            client.call_raw(&words).unwrap();
        }
    }
}

/// A target that keeps everything that it was told.
fn noting(binary: &keyferry_testkit::ServerBinary) -> Server {
    Server::builder(binary).append_only("no").start().unwrap()
}

/// Whether a word stands in a file of a directory.
fn is_told(dir: &Path, word: &str) -> bool {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).any(|path| match path.is_dir() {
        true => is_told(&path, word),
        false => {
            let is_log = path.to_string_lossy().contains("appendonly");
            is_log && std::fs::read(&path).unwrap().windows(word.len()).any(|some| some == word.as_bytes())
        }
    })
}

/// Migrates while it is written, and compares. `targets` are all who have a part of it.
async fn masked(
    source: &Server,
    url: &str,
    to: &str,
    targets: &[&Server],
    tag: &str,
    change: fn(&mut Options),
) -> Report {
    let mut client = source.client().unwrap();
    let features = Features::probe(&mut client).unwrap();
    let mut rng = Rng::new(29);
    block_in_place(|| {
        write(&mut client, &mut rng, &features, tag, 1500);
        // Beyond what is sent whole.
        for key in ["h:large", "f:large", "o:large"] {
            client.call(&["SET", key, &SECRET.repeat(3000)]).unwrap();
        }
        for n in 0..900 {
            let (value, number) = (format!("{SECRET} {n}"), n.to_string());
            client.call(&["RPUSH", "h:{big}list", &value]).unwrap();
            client.call(&["SADD", "h:{big}set", &value]).unwrap();
            client.call(&["ZADD", "h:{big}zset", &number, &value]).unwrap();
            client.call(&["HSET", "p:{big}hash", &number, "open", "secret", &value]).unwrap();
            client.call(&["XADD", "p:{big}stream", "*", "secret", &value, "open", &number]).unwrap();
        }
    });
    let mut running = Running::start(url, to, |options| {
        options.filter = Some(filter(&RULES, "salt"));
        options.value_limit = 4000;
        change(options);
    });
    running.until_phase(Phase::Following).await;
    block_in_place(|| {
        write(&mut client, &mut rng, &features, tag, 1500);
        client.call(&["SET", "o:{end}", SECRET]).unwrap();
    });
    let naive = Naive::new("salt");
    let here = read(&mut client, |key, part, value| naive.mask(key, part, value));
    let gather = || {
        let mut there = Data::new();
        targets.iter().for_each(|target| there.extend(read(&mut target.client().unwrap(), as_it_is)));
        there
    };
    if url == source.url() {
        running.until_applied(offset_of(&mut client)).await;
    } else {
        running.until("equal data", |_| gather() == here).await;
    }
    running.stopper.stop();
    let finished = running.end().await;
    finished.result.unwrap();
    let there = gather();
    for (key, value) in &here {
        assert_eq!(there.get(key), Some(value), "{}", key.escape_ascii());
    }
    assert_eq!(there.len(), here.len());
    assert!(here.len() > 30, "{} keys", here.len());
    finished.report
}

/// All types, whole and in parts, in the snapshot and in the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_masked_in_both_phases() {
    for binary in chosen(&["redis-7.0", "valkey-9"]).unwrap() {
        let (source, target) = (start(binary), noting(binary));
        // What may be told says so, and nothing else.
        source.client().unwrap().call(&["SET", "o:told", "OPEN VALUE"]).unwrap();
        let report = masked(&source, &source.url(), &target.url(), &[&target], "{t}", |_| {}).await;
        let rules: Vec<&str> = report.filter.iter().map(|line| &*line.rule).collect();
        for rule in ["mask glob:h:*=hash ", "mask glob:p:* .secret=format", "mask glob:f:*=fixed:***"] {
            assert!(rules.iter().any(|other| other.starts_with(rule)), "{rules:?}");
        }
        assert!(report.snapshot.large > 0 && is_told(target.dir(), "OPEN VALUE"));
    }
}

/// What a target is told is in its log: no command brings a value as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_target_never_hears_of_them() {
    let (source, target) = (any(), noting(keyferry_testkit::any().unwrap()));
    let mut client = source.client().unwrap();
    let features = Features::probe(&mut client).unwrap();
    let mut rng = Rng::new(31);
    let mut written = |client: &mut Client| {
        for _ in 0..2 {
            write(client, &mut rng, &features, "{t}", 500);
            client.call(&["SET", "o:told", "OPEN VALUE"]).unwrap();
        }
    };
    block_in_place(|| written(&mut client));
    let mut running = Running::start(&source.url(), &target.url(), |options| {
        options.filter = Some(filter(&RULES, "salt"));
        options.value_limit = 200;
    });
    running.until_phase(Phase::Following).await;
    block_in_place(|| written(&mut client));
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    running.end().await.result.unwrap();
    assert!(is_told(target.dir(), "OPEN VALUE") && !is_told(target.dir(), SECRET));
}

/// Read by `SCAN`, with changed keys read again, whole and in parts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_masked_where_keys_are_scanned() {
    let binary = keyferry_testkit::any().unwrap();
    let (source, target) = (start(binary), noting(binary));
    let url = source.url().replace("redis://", "redis://default@");
    masked(&source, &url, &target.url(), &[&target], "", |options| options.source_mode = SourceMode::Scan)
        .await;
}

/// Commands over several slots are computed at the target from masked values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_masked_into_a_cluster() {
    let source = any();
    let cluster = Cluster::builder(keyferry_testkit::any().unwrap()).primaries(2).start().unwrap();
    let nodes: Vec<&Server> = cluster.nodes().iter().collect();
    let report = masked(&source, &source.url(), &cluster.url(), &nodes, "", |_| {}).await;
    assert!(!report.routing.cross_slot.is_empty());
}

/// What cannot be told ends the run with the command, or is told in the report; other secrets are other masks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_masked_ends_the_run_or_is_told() {
    for parts in [Operands::Refuse, Operands::Report] {
        let (source, target) = (any(), any());
        let mut client = source.client().unwrap();
        client.call(&["SET", "h:1", SECRET]).unwrap();
        let with = |salt: &str| {
            let mut settings = settings(&RULES, salt);
            settings.masked_parts = parts;
            Arc::new(Filter::new(settings).unwrap())
        };
        let mut running = Running::start(&source.url(), &target.url(), |o| o.filter = Some(with("salt")));
        running.until_phase(Phase::Following).await;
        client.call(&["APPEND", "h:1", "more"]).unwrap();
        client.call(&["SET", "o:1", "after"]).unwrap();
        let offset = offset_of(&mut client);
        if parts == Operands::Refuse {
            let error = running.end().await.result.unwrap_err().to_line();
            assert!(error.contains("APPEND h:1") && error.contains("--masked-parts"), "{error}");
            continue;
        }
        running.until_applied(offset).await;
        running.stopper.stop();
        let finished = running.end().await;
        finished.result.unwrap();
        let line = finished.report.filter.iter().find(|line| line.what.contains("cannot be told")).unwrap();
        assert_eq!((line.count, &line.samples[..]), (1, &["h:1".to_owned()][..]));
        let there = read(&mut target.client().unwrap(), as_it_is);
        let before = Naive::new("salt").mask(b"h:1", Part::String, SECRET.as_bytes());
        assert_eq!(there[&b"h:1"[..]].1, [[before]]);
        let finished =
            run(&source.url(), &target.url(), |options| options.filter = Some(with("other"))).await;
        assert!(matches!(finished.result, Err(Error::OtherChanges { .. })), "{:?}", finished.result);
    }
    // Members that would become one.
    let (source, target) = (any(), any());
    source.client().unwrap().call(&["SADD", "f:set", "a", "b"]).unwrap();
    let finished = run(&source.url(), &target.url(), |o| o.filter = Some(filter(&RULES, "salt"))).await;
    let error = finished.result.unwrap_err().to_line();
    assert!(error.contains("f:set") && error.contains("keeps values apart"), "{error}");
}
