//! Keys whose time runs out while the target is behind, and those whose time is prolonged before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keyferry_migrate::{Delivery, Expiry, Finished, Options, Outcome, Phase};
use keyferry_testkit::{
    Client, Cluster, CompareOptions, Server, ServerBinary, Side, chosen, compare_sides,
    data::{self, Features},
};
use tokio::task::block_in_place;

use crate::support::{Running, assert_equal, offset_of, start};

/// Longer than the keys of these tests live.
const BEHIND: Duration = Duration::from_millis(2500);

/// Commands are looked into.
fn looked_into(options: &mut Options) {
    options.db_map.insert(15, 15);
}

/// Milliseconds until a key expires; by its field where one is named.
fn ttl(client: &mut Client, key: &str, field: Option<&str>) -> i64 {
    match field {
        None => client.int(&["PTTL", key]).unwrap(),
        Some(field) => client.list(&["HPTTL", key, "FIELDS", "1", field]).unwrap()[0].as_i64().unwrap(),
    }
}

/// Keys whose time is short, and somebody who counts with some of them and prolongs it.
struct Counting {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Client>,
}

impl Counting {
    const KEYS: usize = 150;

    /// Half of the keys are prolonged, the others are left to die.
    fn start(source: &Server) -> Self {
        let mut client = source.client().unwrap();
        let fields = Features::probe(&mut client).unwrap().has("hpexpire");
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let round = move |client: &mut Client, keys: usize, ttl: &str| {
            let mut count = 0;
            for n in 0..keys {
                client.queue(&["INCR", &format!("n:{n}")]).unwrap();
                client.queue(&["PEXPIRE", &format!("n:{n}"), ttl]).unwrap();
                client.queue(&["SET", &format!("s:{n}"), ttl, "PX", ttl]).unwrap();
                count += 3;
                if fields && n % 10 == 0 {
                    client.queue(&["HINCRBY", &format!("h:{n}"), "f", "1"]).unwrap();
                    client.queue(&["HPEXPIRE", &format!("h:{n}"), ttl, "FIELDS", "1", "f"]).unwrap();
                    client.queue(&["HSET", &format!("h:{n}"), "stays", "1"]).unwrap();
                    count += 3;
                }
            }
            client.flush().unwrap();
            client.replies(count).unwrap();
        };
        round(&mut client, Self::KEYS, "1500");
        client.call(&["SET", "lives", "1", "EX", "500"]).unwrap();
        if fields {
            client.call(&["HSET", "lives:h", "f", "1", "g", "2"]).unwrap();
            client.call(&["HEXPIRE", "lives:h", "500", "FIELDS", "1", "f"]).unwrap();
        }
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                round(&mut client, Self::KEYS / 2, "1500");
                std::thread::sleep(Duration::from_millis(200));
            }
            round(&mut client, Self::KEYS / 2, "100000");
            client
        });
        Counting { stop, thread }
    }

    /// Ends it when all that was left to die is gone from the source.
    fn end(self) -> Client {
        self.stop.store(true, Ordering::Relaxed);
        let mut client = self.thread.join().unwrap();
        let gone = client.wait_until(Duration::from_secs(30), |client| {
            // The server finds what has expired in its own time, but for what it is asked for.
            let names: Vec<String> = (Self::KEYS / 2..Self::KEYS)
                .flat_map(|n| ["n", "s"].map(|kind| format!("{kind}:{n}")))
                .collect();
            let exists: Vec<&str> =
                std::iter::once("EXISTS").chain(names.iter().map(String::as_str)).collect();
            Ok(client.int(&exists)? == 0)
        });
        assert!(gone.unwrap());
        client
    }
}

/// While the target stands still for longer than the keys live, they are counted with and prolonged at the source.
async fn counted_while_behind(source: &Server, target: &[&Server], url: &str, what: &str) -> Finished {
    // So that the snapshot takes more than one look.
    data::tiny_keys(&mut source.client().unwrap(), 1, 30_000).unwrap();
    let counting = block_in_place(|| Counting::start(source));
    let mut running = Running::start(&source.url(), url, looked_into);
    running.until("first keys", |p| p.figures().keys_applied > 0).await;
    target.iter().for_each(|server| server.pause().unwrap());
    tokio::time::sleep(BEHIND).await;
    target.iter().for_each(|server| server.resume().unwrap());
    running.until_phase(Phase::Following).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Names that deadlines are taken to, also where nobody can follow them.
    let mut client = source.client().unwrap();
    client.call(&["SET", "first", "1", "EX", "100"]).unwrap();
    client.call(&["RENAME", "first", "{first}second"]).unwrap();
    let mut client = block_in_place(|| counting.end());
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    let finished = running.end().await;
    if let Err(error) = &finished.result {
        panic!("{what}: {error}");
    }
    assert_eq!(finished.report.outcome, Outcome::Stopped { everything_applied: true }, "{what}");
    let expiry = &finished.report.expiry;
    assert!(expiry.held_in_snapshot > 0 && expiry.held_in_stream > 0, "{what}: {expiry:?}");
    assert!(expiry.released > 0 && !expiry.still_held && !expiry.samples.is_empty(), "{what}: {expiry:?}");
    finished
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_prolonged_in_time_lives_however_late_the_target_hears_of_it() {
    let mut set = tokio::task::JoinSet::new();
    for binary in chosen(&["redis-6.0", "redis-7.0", "redis-8.0", "valkey-9"]).unwrap() {
        set.spawn(async move {
            let (source, target) = (start(binary), start(binary));
            let finished = counted_while_behind(&source, &[&target], &target.url(), &binary.name).await;
            assert_equal(&source, &target, &binary.name);
            let fields = Features::probe(&mut target.client().unwrap()).unwrap().has("hpexpire");
            assert_eq!(finished.report.expiry.released_fields > 0, fields, "{}", binary.name);
        });
    }
    while let Some(result) = set.join_next().await {
        result.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn into_a_cluster_too() {
    for binary in chosen(&["redis-7.0"]).unwrap() {
        let source = start(binary);
        let target = Cluster::builder(binary).primaries(3).start().unwrap();
        let nodes: Vec<&Server> = target.nodes().iter().collect();
        counted_while_behind(&source, &nodes, &target.url(), &binary.name).await;
        let (a, b) = (Side::server(&source).unwrap(), Side::cluster(&target).unwrap());
        let comparison = compare_sides(a, b, &CompareOptions::default().without_bookkeeping()).unwrap();
        assert!(comparison.is_equal() && comparison.keys_a > 0, "{comparison}");
    }
}

/// Some keys with a deadline that is far enough away, one of them with a field that has one.
fn fill(source: &Server) -> (Client, bool) {
    let mut client = source.client().unwrap();
    for n in 0..2000 {
        client.queue(&["SET", &format!("key:{n}"), "value", "PX", "200000"]).unwrap();
    }
    client.flush().unwrap();
    client.replies(2000).unwrap();
    let fields = Features::probe(&mut client).unwrap().has("hpexpire");
    if fields {
        client.call(&["HSET", "hash", "f", "1", "g", "2"]).unwrap();
        client.call(&["HPEXPIRE", "hash", "200000", "FIELDS", "1", "f"]).unwrap();
    }
    (client, fields)
}

fn assert_exact(source: &mut Client, target: &mut Client, keys: &[&str], fields: bool, what: &str) {
    // Servers before 7.0 send some deadlines relative to the moment at which they are read.
    let version = source.info("server", "redis_version").unwrap().unwrap();
    let late = if version.starts_with("6.") { 20_000 } else { 5 };
    let hash = fields.then_some(("hash", Some("f")));
    for (key, field) in keys.iter().map(|&key| (key, None)).chain(hash) {
        // What the target says lies between what the source says before and after.
        let (before, there, after) =
            (ttl(source, key, field), ttl(target, key, field), ttl(source, key, field));
        let near = after - 5..=before + late;
        assert!(after > 0 && near.contains(&there), "{what}: {key} {field:?}: {before}, {there}, {after}");
    }
}

fn servers() -> Vec<&'static ServerBinary> {
    chosen(&["redis-6.2", "redis-8.0b", "valkey-9"]).unwrap()
}

/// Caught up means that deadlines are as they are at the source, also those that nobody could follow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_are_exact_when_the_target_has_caught_up() {
    for binary in servers() {
        let (source, target) = (start(binary), start(binary));
        let (mut client, fields) = fill(&source);
        // The stream begins before the snapshot is applied.
        data::tiny_keys(&mut source.client().unwrap(), 1, 30_000).unwrap();
        let mut running = Running::start(&source.url(), &target.url(), looked_into);
        running.until("first keys", |p| p.figures().keys_applied > 0).await;
        client.call(&["MOVE", "key:7", "3"]).unwrap();
        client.call(&["RENAME", "key:8", "renamed"]).unwrap();
        running.until_phase(Phase::Following).await;
        running.until_applied(offset_of(&mut client)).await;
        let mut there = target.client().unwrap();
        assert_exact(&mut client, &mut there, &["key:0", "key:1999", "renamed"], fields, &binary.name);
        for client in [&mut client, &mut there] {
            client.call(&["SELECT", "3"]).unwrap();
        }
        assert_exact(&mut client, &mut there, &["key:7"], false, &binary.name);
        for client in [&mut client, &mut there] {
            client.call(&["SELECT", "0"]).unwrap();
        }
        // What comes later goes as it is.
        client.call(&["SET", "later", "1", "PX", "300000"]).unwrap();
        client.call(&["PEXPIRE", "key:0", "400000"]).unwrap();
        running.until_applied(offset_of(&mut client)).await;
        assert_exact(&mut client, &mut there, &["later", "key:0"], fields, &binary.name);
        running.stopper.stop();
        let finished = running.end().await;
        finished.result.unwrap();
        let expiry = finished.report.expiry;
        assert!(expiry.held_in_snapshot >= 2000 && expiry.released >= 2000, "{expiry:?}");
        assert_equal(&source, &target, &binary.name);
    }
}

/// Until the end, keys die when the source says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_may_be_held_until_the_end() {
    for binary in chosen(&["redis-7.0"]).unwrap() {
        let (source, target) = (start(binary), start(binary));
        let (mut client, fields) = fill(&source);
        client.call(&["SET", "dies", "1", "PX", "1500"]).unwrap();
        let mut running = Running::start(&source.url(), &target.url(), |options| {
            looked_into(options);
            options.expiry = Expiry::HeldUntilEnd;
        });
        running.until_phase(Phase::Following).await;
        let mut there = target.client().unwrap();
        // More than a century.
        let century = 100 * 365 * 86_400_000;
        assert!(ttl(&mut there, "key:0", None) > century);
        client.call(&["SET", "later", "1", "PX", "300000"]).unwrap();
        running.until_applied(offset_of(&mut client)).await;
        assert!(ttl(&mut there, "later", None) > century);
        let dead = |client: &mut Client| Ok(client.int(&["EXISTS", "dies"])? == 0);
        assert!(block_in_place(|| client.wait_until(Duration::from_secs(20), dead)).unwrap());
        // Without the source's word it would live on.
        running.until_applied(offset_of(&mut client)).await;
        assert_eq!(there.int(&["EXISTS", "dies"]).unwrap(), 0);
        running.stopper.stop();
        let finished = running.end().await;
        finished.result.unwrap();
        assert!(!finished.report.expiry.still_held, "{:?}", finished.report.expiry);
        assert_exact(&mut client, &mut there, &["key:0", "later"], fields, &binary.name);
        assert_equal(&source, &target, &binary.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_may_go_as_they_come() {
    let binary = keyferry_testkit::any().unwrap();
    let (source, target) = (start(binary), start(binary));
    let (mut client, fields) = fill(&source);
    let mut running = Running::start(&source.url(), &target.url(), |options| {
        looked_into(options);
        options.expiry = Expiry::AsItComes;
    });
    running.until("all keys", |p| p.figures().keys_applied >= 2000).await;
    assert_exact(&mut client, &mut target.client().unwrap(), &["key:0"], fields, "as it comes");
    running.until_phase(Phase::Following).await;
    running.stopper.stop();
    let finished = running.end().await;
    finished.result.unwrap();
    assert_eq!(finished.report.expiry, keyferry_migrate::ExpiryCounts::default());
}

/// At least once from server to server bytes are forwarded without being looked into, but not where deadlines are to be held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_are_held_until_the_end_at_least_once_too() {
    let binary = keyferry_testkit::any().unwrap();
    let (source, target) = (start(binary), start(binary));
    let (mut client, fields) = fill(&source);
    let mut running = Running::start(&source.url(), &target.url(), |options| {
        options.delivery = Delivery::AtLeastOnce;
        options.expiry = Expiry::HeldUntilEnd;
    });
    running.until_phase(Phase::Following).await;
    let mut there = target.client().unwrap();
    assert!(ttl(&mut there, "key:0", None) > 1 << 44);
    running.stopper.stop();
    let finished = running.end().await;
    finished.result.unwrap();
    assert!(finished.report.expiry.held_in_snapshot > 0);
    assert_exact(&mut client, &mut there, &["key:0"], fields, "at the end");
}
