//! Sources that refuse to replicate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keyferry_migrate::{
    Error, Finished, Follow, Options, Outcome, Phase, Report, SourceMode,
    filter::{Effect, Filter, Rule, Settings},
};
use keyferry_testkit::{
    Client, Cluster, CompareOptions, Rng, Server, ServerBinary, Side, Version, any, chosen, compare_sides,
    compare_with, data,
};

use crate::support::{PATIENCE, Running, assert_equal, run, start};

/// What a service leaves to its users.
const RULES: &str = "on >secret ~* &* +@all -psync -sync -replconf";

/// A source that may be read, and not replicated.
fn refusing(binary: &ServerBinary) -> (Server, String) {
    let server = Server::builder(binary).user("reader", RULES).start().unwrap();
    let url = server.url().replace("redis://", "redis://reader:secret@");
    (server, url)
}

/// Writes of every kind that has an event, and of those that have none, in databases 0, 1 and 12.
fn write(client: &mut Client, rng: &mut Rng, steps: u32, swaps: bool) {
    for step in 0..steps {
        let key = |rng: &mut Rng| format!("{}:{}", ["a", "b", "c"][rng.index(3)], rng.below(40));
        let (db, a, b) = (["0", "1", "12"][rng.index(3)], key(rng), key(rng));
        let (value, number) = (format!("value {step}"), rng.below(20).to_string());
        let id = format!("{}-1", step + 1);
        let call = |client: &mut Client, args: &[&str]| drop(client.call_raw(args).unwrap());
        call(client, &["SELECT", db]);
        // A wrong type is an error, and no write.
        match rng.below(1000) {
            0..150 => call(client, &["SET", &a, &value]),
            150..200 => call(client, &["SET", &a, &value, "PX", &(20 + rng.below(400)).to_string()]),
            200..260 => call(client, &["RPUSH", &a, &value]),
            260..290 => call(client, &["LPOP", &a]),
            290..340 => call(client, &["HSET", &a, &number, &value]),
            340..390 => call(client, &["SADD", &a, &number]),
            390..410 => call(client, &["SPOP", &a]),
            410..460 => call(client, &["ZADD", &a, &number, &value]),
            460..500 => call(client, &["XADD", &a, &id, "f", &value]),
            500..520 => call(client, &["XGROUP", "CREATE", &a, "g", "0"]),
            520..550 => call(client, &["XREADGROUP", "GROUP", "g", "c", "COUNT", "2", "STREAMS", &a, ">"]),
            550..570 => call(client, &["XACK", &a, "g", &id]),
            570..640 => call(client, &["DEL", &a]),
            640..740 => call(client, &["RENAME", &a, &b]),
            740..780 => call(client, &["MOVE", &a, ["1", "12", "0"][rng.index(3)]]),
            780..840 => call(client, &["PEXPIRE", &a, &(20 + rng.below(500)).to_string()]),
            840..860 => call(client, &["PERSIST", &a]),
            860..880 => call(client, &["EXPIRE", &a, "1000"]),
            880..900 => call(client, &["INCRBY", &a, "3"]),
            900..920 => call(client, &["APPEND", &a, "more"]),
            920..940 => call(client, &["SUNIONSTORE", &a, &b, "c:1"]),
            940..955 => {
                call(client, &["EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", &a, &value])
            }
            955..970 => call(client, &["SORT", &a, "ALPHA", "STORE", &b]),
            970..976 => call(client, &["FLUSHDB"]),
            976..978 => call(client, &["FLUSHALL"]),
            978 if swaps => call(client, &["SWAPDB", "1", "12"]),
            _ => call(client, &["UNLINK", &a, &b]),
        }
    }
}

/// What is to be compared, whatever was written; and nothing that is about to die, as a run that is stopped leaves that to the
/// next one.
fn leave_something(client: &mut Client) {
    for db in ["0", "1", "12"] {
        client.call(&["SELECT", db]).unwrap();
        for key in client.list(&["KEYS", "*"]).unwrap() {
            let key = key.as_bytes().unwrap().to_vec();
            if (0..60_000).contains(&client.int(&[b"PTTL", &key[..]]).unwrap()) {
                client.call(&[b"DEL", &key[..]]).unwrap();
            }
        }
    }
    for db in ["0", "1", "12"] {
        client.call(&["SELECT", db]).unwrap();
        for n in 0..20 {
            client.call(&["SET".to_owned(), format!("last:{db}:{n}"), "value".to_owned()]).unwrap();
        }
    }
}

/// Waits until both hold the same, key by key, and ends the migration.
async fn until_equal(source: &Server, target: &Server, running: Running, what: &str) -> Report {
    let begun = Instant::now();
    loop {
        let (mut a, mut b) = (source.client().unwrap(), target.client().unwrap());
        let compared = tokio::task::spawn_blocking(move || {
            compare_with(&mut a, &mut b, &CompareOptions::default().without_bookkeeping()).unwrap()
        });
        let comparison = compared.await.unwrap();
        let equal = comparison.is_equal() && comparison.keys_a >= 60;
        if equal || begun.elapsed() > PATIENCE {
            running.stopper.stop();
            let Finished { result, report, .. } = running.end().await;
            result.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(equal, "{what}: {comparison} {:?} {:?} {:?}", report.notes, report.mirror, report.scan);
            return report;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn follow(binary: &ServerBinary, seed: u64, steps: u32) {
    let (source, url) = refusing(binary);
    let target = start(binary);
    data::small(&mut source.client().unwrap(), seed, 3).unwrap();
    let what = format!("{} with seed {seed}", binary.name);
    let mut running = Running::start(&url, &target.url(), |o| {
        o.source_mode = SourceMode::Scan;
        o.follow = Follow::Notifications;
        o.value_limit = 2000;
    });
    let mut client = source.client().unwrap();
    let writer = tokio::task::spawn_blocking(move || {
        let mut rng = Rng::new(seed);
        write(&mut client, &mut rng, steps, true);
        leave_something(&mut client);
    });
    writer.await.unwrap();
    running.until_phase(Phase::Following).await;
    let report = until_equal(&source, &target, running, &what).await;
    assert_eq!(report.source_mode, Some("scan"));
    let counts = report.scan.unwrap();
    assert!(counts.events > 0 && counts.passes > 0, "{what}: {counts:?}");
    assert!(!counts.not_promised.is_empty());
    assert_equal(&source, &target, &what);
    // What was set for the run is as it was.
    let setting = source.client().unwrap().list(&["CONFIG", "GET", "notify-keyspace-events"]).unwrap();
    assert_eq!(setting[1].as_str(), Some(""), "{what}");
}

/// Renames, deletions, expiries, moves and flushes in three databases while keys are read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_keys_are_read_arrives() {
    let rounds: u64 = std::env::var("KEYFERRY_SCAN_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for binary in chosen(&["redis-7.0", "valkey-9"]).unwrap() {
        for seed in 1..=rounds {
            follow(binary, seed, 4000).await;
        }
    }
}

fn scanning(follow: Follow) -> impl FnOnce(&mut Options) {
    move |options| {
        options.source_mode = SourceMode::Scan;
        options.follow = follow;
    }
}

/// The first way that the source allows, and why not the others; what was set before is set afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_is_found_and_told() {
    let (source, url) = refusing(any().unwrap());
    let mut client = source.client().unwrap();
    data::small(&mut client, 3, 3).unwrap();
    client.call(&["CONFIG", "SET", "notify-keyspace-events", "Ex"]).unwrap();
    let target = start(any().unwrap());
    let finished = run(&url, &target.url(), |_| {}).await;
    finished.result.unwrap();
    let report = finished.report;
    assert_eq!(report.outcome, Outcome::CaughtUp { source_was_writing: false });
    assert_eq!(report.source_mode, Some("scan"));
    for command in ["PSYNC", "SYNC"] {
        let why = format!("the source is not read by {command}: ");
        assert!(report.notes.iter().any(|note| note.starts_with(&why)), "{:?}", report.notes);
    }
    assert_equal(&source, &target, "found");
    let setting = client.list(&["CONFIG", "GET", "notify-keyspace-events"]).unwrap();
    let setting: std::collections::BTreeSet<char> = setting[1].as_str().unwrap().chars().collect();
    assert_eq!(setting, "Ex".chars().collect());

    // Who may replicate does.
    let target = start(any().unwrap());
    let finished = run(&source.url(), &target.url(), |_| {}).await;
    finished.result.unwrap();
    assert_eq!((finished.report.source_mode, finished.report.scan), (Some("psync"), None));
}

/// `PSYNC` under another name; and `SYNC` where that alone is allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renamed_and_old_ways_to_replicate() {
    let renamed = Server::builder(any().unwrap())
        .config("rename-command", "PSYNC tell-all")
        .diskless_sync(true, 0)
        .user("old", "on >secret ~* &* +@all -psync")
        .start()
        .unwrap();
    data::small(&mut renamed.client().unwrap(), 4, 3).unwrap();
    let target = start(any().unwrap());
    let finished = run(&renamed.url(), &target.url(), |o| o.link.psync_command = "tell-all".to_owned()).await;
    finished.result.unwrap();
    assert_eq!(finished.report.source_mode, Some("psync"));
    assert_equal(&renamed, &target, "renamed");

    let target = start(any().unwrap());
    let mut running = Running::start(&renamed.url(), &target.url(), |o| o.source_mode = SourceMode::Sync);
    running.until_phase(Phase::CatchingUp).await;
    let mut client = renamed.client().unwrap();
    write(&mut client, &mut Rng::new(5), 300, false);
    leave_something(&mut client);
    let report = until_equal(&renamed, &target, running, "by SYNC").await;
    assert_eq!(report.source_mode, Some("sync"));
}

/// What Rump does, in one command, and with the writes that come meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_database_to_database_of_one_server() {
    let server = start(any().unwrap());
    let mut client = server.client().unwrap();
    for n in 0..500 {
        client.call(&["SET".to_owned(), format!("key:{n}"), format!("value {n}")]).unwrap();
    }
    client.call(&["SELECT", "2"]).unwrap();
    client.call(&["SET", "other", "stays"]).unwrap();
    let only = |database: u64| {
        let mut rule = Rule::include();
        rule.keys.databases = vec![database];
        let mut settings = Settings::default();
        (settings.rules, settings.otherwise) = (vec![rule], Effect::Exclude);
        Some(Arc::new(Filter::new(settings).unwrap()))
    };
    // Everything onto itself makes no sense.
    let refused = run(&server.url(), &server.url(), scanning(Follow::Notifications)).await;
    assert!(matches!(refused.result, Err(Error::SameServer { .. })), "{:?}", refused.result);

    let mut running = Running::start(&server.url(), &server.url(), |o| {
        scanning(Follow::Notifications)(o);
        o.filter = only(0);
        o.db_map = [(0, 1)].into();
    });
    running.until_phase(Phase::Following).await;
    client.call(&["SELECT", "0"]).unwrap();
    client.call(&["DEL", "key:7"]).unwrap();
    client.call(&["RENAME", "key:8", "renamed"]).unwrap();
    client.call(&["SELECT", "1"]).unwrap();
    let begun = Instant::now();
    while client.int(&["EXISTS", "renamed"]).unwrap() == 0
        || client.int(&["EXISTS", "key:7", "key:8"]).unwrap() > 0
    {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stopper.stop();
    running.end().await.result.unwrap();
    let keys = client.list(&["KEYS", "*"]).unwrap();
    assert_eq!(keys.len(), 499, "{keys:?}");
    client.call(&["SELECT", "2"]).unwrap();
    assert_eq!(client.list(&["KEYS", "*"]).unwrap().len(), 1);
}

/// Without notifications, everything is read until nothing has changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_until_nothing_has_changed() {
    let binary = any().unwrap();
    // Before 7.0, single subcommands could not be taken away.
    let told = binary.version >= Version::parse("7.0.0").unwrap();
    let rules = "on >secret ~* &* +@all -psync -sync -config|set";
    let source = Server::builder(binary).user("reader", if !told { RULES } else { rules });
    let source = source.start().unwrap();
    let url = source.url().replace("redis://", "redis://reader:secret@");
    data::small(&mut source.client().unwrap(), 6, 3).unwrap();
    let mut client = source.client().unwrap();
    let target = start(binary);
    target.client().unwrap().call(&["SET", "foreign", "stays"]).unwrap();
    let writer = tokio::task::spawn_blocking(move || {
        let mut rng = Rng::new(6);
        write(&mut client, &mut rng, 1500, true);
        leave_something(&mut client);
    });
    let finished = run(&url, &target.url(), |o| {
        scanning(Follow::Passes)(o);
        o.rescan = 1000;
    })
    .await;
    finished.result.unwrap();
    let counts = finished.report.scan.unwrap();
    assert!(counts.passes >= 2, "{counts:?}");
    writer.await.unwrap();
    assert_eq!(target.client().unwrap().text(&["GET", "foreign"]).unwrap(), "stays");
    // What was written after the last pass is not known; a source that rests is read twice, and sent once.
    let target = start(binary);
    let finished = run(&url, &target.url(), scanning(Follow::Passes)).await;
    finished.result.unwrap();
    let counts = finished.report.scan.unwrap();
    assert_eq!(counts.passes, 2 * (1 + counts.doubts.len() as u64), "{counts:?}");
    assert_equal(&source, &target, "passes");
    if told {
        // And it is told what is in the way of something better.
        let refused = run(&url, &target.url(), scanning(Follow::Notifications)).await;
        let error = refused.result.unwrap_err();
        assert!(
            matches!(error, Error::Scan { .. }) && error.to_line().contains("lacks Kg$lshzxet"),
            "{error}"
        );
        let found = run(&url, &target.url(), scanning(Follow::Auto)).await;
        found.result.unwrap();
        assert!(found.report.notes.iter().any(|note| note.starts_with("notifications are not to be had")));
    }
}

/// Values above the limit are read in parts, in the snapshot and when they are written to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_are_read_in_parts() {
    for binary in chosen(&["redis-6.0", "redis-8.0", "valkey-9"]).unwrap() {
        let (source, target) = (start(binary), start(binary));
        let fill = |client: &mut Client, prefix: &str| {
            let features = data::Features::probe(client).unwrap();
            for n in 0..40 {
                let elements: Vec<String> = (0..100).map(|m| format!("{prefix} element {n} {m}")).collect();
                let push = |client: &mut Client, command: &str, key: &str, score: bool| {
                    let mut args = vec![command.to_owned(), format!("{prefix}:{key}")];
                    for (m, element) in elements.iter().enumerate() {
                        match (command, score) {
                            ("HSET", _) => args.extend([element.clone(), "value".to_owned()]),
                            (_, true) => args.extend([format!("{}.25", n * 100 + m), element.clone()]),
                            _ => args.push(element.clone()),
                        }
                    }
                    client.call(&args).unwrap();
                };
                push(client, "RPUSH", "list", false);
                push(client, "SADD", "set", false);
                push(client, "ZADD", "zset", true);
                push(client, "HSET", "hash", false);
            }
            client.call(&["SET".to_owned(), format!("{prefix}:string"), "x".repeat(3 << 20)]).unwrap();
            client.call(&["EXPIRE".to_owned(), format!("{prefix}:string"), "1000".to_owned()]).unwrap();
            for n in 0..200 {
                client
                    .call(&[
                        "XADD".to_owned(),
                        format!("{prefix}:stream"),
                        format!("{}-1", n + 1),
                        "f".to_owned(),
                        "v".repeat(300),
                    ])
                    .unwrap();
            }
            client
                .call(&[
                    "XGROUP".to_owned(),
                    "CREATE".to_owned(),
                    format!("{prefix}:stream"),
                    "g".to_owned(),
                    "0".to_owned(),
                ])
                .unwrap();
            if features.has("hpexpire") {
                let field = format!("{prefix} element 3 3");
                let args = ["HPEXPIRE", &format!("{prefix}:hash"), "1000000", "FIELDS", "1", &field];
                client.call(&args).unwrap();
            }
        };
        let mut client = source.client().unwrap();
        fill(&mut client, "before");
        let mut running = Running::start(&source.url(), &target.url(), |o| {
            scanning(Follow::Notifications)(o);
            o.value_limit = 20_000;
        });
        running.until_phase(Phase::Following).await;
        fill(&mut client, "after");
        client
            .call(&["XREADGROUP", "GROUP", "g", "c", "COUNT", "9", "STREAMS", "after:stream", ">"])
            .unwrap();
        for n in 0..60 {
            client.call(&["SET".to_owned(), format!("last:{n}"), "v".to_owned()]).unwrap();
        }
        let report = until_equal(&source, &target, running, &binary.name).await;
        let counts = report.scan.unwrap();
        assert!(counts.values_in_parts >= 10 && counts.values_whole >= 1, "{}: {counts:?}", binary.name);
        assert_equal(&source, &target, &binary.name);
    }
}

/// A cluster, whose slots move and whose shards are flushed, into a server and into another cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_are_read_shard_by_shard() {
    let binary = any().unwrap();
    let source = Cluster::builder(binary).primaries(3).user("reader", RULES).start().unwrap();
    let url = source.url().replace("redis+cluster://", "redis+cluster://reader:secret@");
    let mut client = source.client().unwrap();
    data::small_cluster(&mut client, 8, 1).unwrap();
    let server = start(binary);
    let cluster = Cluster::builder(binary).primaries(2).start().unwrap();
    let mut migrations: Vec<Running> = [server.url(), cluster.url()]
        .iter()
        .map(|target| Running::start(&url, target, scanning(Follow::Notifications)))
        .collect();
    for migration in &mut migrations {
        migration.until_phase(Phase::Following).await;
    }
    let write = |client: &mut keyferry_testkit::ClusterClient, word: &str| {
        for n in 0..300 {
            client.call(&["SET".to_owned(), format!("{word}:{n}"), "value".to_owned()]).unwrap();
        }
        for n in 0..100 {
            client.call(&["DEL".to_owned(), format!("{word}:{n}")]).unwrap();
            client.call(&["RENAME".to_owned(), format!("{{{word}:{n}}}"), format!("{{{word}:{n}}}")]).ok();
        }
    };
    write(&mut client, "first");
    source.node(0).client().unwrap().call(&["FLUSHALL"]).unwrap();
    write(&mut client, "second");
    let slots = source.slots(1).unwrap()[0].clone();
    source.move_slots(*slots.start()..=*slots.start() + 50, 2).unwrap();
    write(&mut client, "third");
    let options = CompareOptions::default().without_bookkeeping();
    let begun = Instant::now();
    loop {
        let equal = [Side::server(&server).unwrap(), Side::cluster(&cluster).unwrap()].map(|side| {
            let comparison = compare_sides(Side::cluster(&source).unwrap(), side, &options).unwrap();
            assert!(comparison.keys_a > 200);
            comparison
        });
        if equal.iter().all(|comparison| comparison.is_equal()) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{} {}", equal[0], equal[1]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for migration in migrations {
        migration.stopper.stop();
        let finished = migration.end().await;
        finished.result.unwrap();
        let counts = finished.report.scan.unwrap();
        // A shard that was flushed, and slots that went elsewhere.
        assert!(!counts.doubts.is_empty() && counts.passes >= 2, "{counts:?}");
    }
}
