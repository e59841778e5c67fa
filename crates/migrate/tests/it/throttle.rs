//! How fast a migration may be: rates are kept, can be changed while it runs, and give way to others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use keyferry_migrate::{Migration, Options, Phase, Progress, SourceMode, Stopper, Throttle, Until};
use keyferry_testkit::{Client, Rng, Server, any};
use tokio::task::block_in_place;

use crate::support::{PATIENCE, start};

/// A migration with its throttle.
struct Throttled {
    throttle: Throttle,
    progress: Progress,
    stopper: Stopper,
    task: tokio::task::JoinHandle<keyferry_migrate::Finished>,
}

impl Throttled {
    fn start(
        source: &Server,
        target: &Server,
        limits: &[(&str, &str)],
        set: impl FnOnce(&mut Options),
    ) -> Self {
        let mut migration = Migration::new(source.url().parse().unwrap(), target.url().parse().unwrap());
        let options = migration.options_mut();
        options.look_first = false;
        for (name, value) in limits {
            options.limits.set(name, value).unwrap();
        }
        set(options);
        let (throttle, progress, stopper) = (migration.throttle(), migration.progress(), migration.stopper());
        Throttled { throttle, progress, stopper, task: tokio::spawn(migration.run()) }
    }

    fn set(&self, name: &str, value: &str) {
        let mut limits = self.throttle.limits();
        limits.set(name, value).unwrap();
        self.throttle.set_limits(limits);
    }

    async fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(!self.task.is_finished(), "ended while waiting for {what}");
            let figures = (self.progress.figures(), self.throttle.figures());
            assert!(begun.elapsed() < PATIENCE, "no {what} in time: {figures:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(self) -> keyferry_migrate::Report {
        let finished = tokio::time::timeout(PATIENCE, self.task).await.expect("an end in time").unwrap();
        assert!(finished.result.is_ok(), "{:?}", finished.result);
        finished.report
    }
}

/// Fills a server with keys of this many bytes, which snapshots do not compress.
fn fill(server: &Server, keys: usize, size: usize) {
    let mut client = server.client().unwrap();
    let mut rng = Rng::new(7);
    let value: String = (0..size).map(|_| char::from(b'!' + rng.below(90) as u8)).collect();
    for n in 0..keys {
        client.queue(&["SET", &format!("key:{n:08}"), &value]).unwrap();
        if n % 1000 == 999 || n + 1 == keys {
            client.flush().unwrap();
            client.replies(n % 1000 + 1).unwrap();
        }
    }
}

/// For so many seconds a rate is looked for at most.
const SECONDS: usize = 5;

/// How much of `what` comes in a second, over so long a time.
fn rate(client: &mut Client, seconds: f64, mut what: impl FnMut(&mut Client) -> i64) -> f64 {
    let (since, before) = (Instant::now(), what(client));
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let after = what(client);
    (after - before) as f64 / since.elapsed().as_secs_f64()
}

fn keys(client: &mut Client) -> i64 {
    client.int(&["DBSIZE"]).unwrap()
}

/// What may have come since a moment. What was let go may be under way for any time, so that only all of it can be told.
struct Allowed {
    since: Instant,
    rate: f64,
    before: f64,
}

impl Allowed {
    fn new(rate: f64) -> Self {
        Allowed { since: Instant::now(), rate, before: 0.0 }
    }

    fn set_rate(&mut self, rate: f64) {
        self.before += self.since.elapsed().as_secs_f64() * self.rate;
        (self.since, self.rate) = (Instant::now(), rate);
    }

    /// No more has come: nothing but what is saved up, and one batch, is beyond it.
    fn assert(&self, found: i64, what: &str) {
        let allowed = self.before + self.since.elapsed().as_secs_f64() * self.rate;
        assert!(
            found as f64 <= allowed * 1.05 + self.rate * 0.05 + 100.0,
            "{what}: {found}, where {allowed} may be there"
        );
    }
}

/// How much of `what` comes in a second: as much as may come, unless the machine is too slow for that, which is told by how little the
/// throttle has waited. Measured again where it is not, as something may have stood still.
fn assert_reached(
    running: &Throttled,
    (name, wanted): (&str, f64),
    client: &mut Client,
    mut what: impl FnMut(&mut Client) -> i64,
) {
    let waited = || running.throttle.figures().waited_seconds.get(name).copied().unwrap_or(0.0);
    let mut measured = Vec::new();
    while measured.len() < SECONDS {
        let (begun, before) = (Instant::now(), waited());
        let found = rate(client, 1.0, &mut what);
        let share = (waited() - before) / begun.elapsed().as_secs_f64();
        if found >= wanted * 0.6 || share < 0.5 {
            return;
        }
        measured.push((found, share));
    }
    panic!("{name}: {measured:?}, rates and shares of the time waited for, instead of {wanted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rates_are_kept_and_changed_while_it_runs() {
    let (source, target) = (start(any().unwrap()), Server::any().unwrap());
    // Enough for as long as may be measured.
    block_in_place(|| fill(&source, 60_000, 50));
    let mut allowed = Allowed::new(2000.0);
    let running = Throttled::start(&source, &target, &[("full-keys", "2000"), ("commands", "none")], |_| {});
    let mut client = target.client().unwrap();
    running.until("keys", |_| keys(&mut target.client().unwrap()) > 10).await;
    block_in_place(|| assert_reached(&running, ("full", 2000.0), &mut client, keys));
    allowed.assert(keys(&mut client), "keys");
    running.set("full-keys", "6000");
    allowed.set_rate(6000.0);
    block_in_place(|| assert_reached(&running, ("full", 6000.0), &mut client, keys));
    allowed.assert(keys(&mut client), "keys, after the change");
    assert!(running.throttle.figures().waited_seconds["full"] > 0.2);
    running.set("full-keys", "none");
    running.until("the stream", |running| running.progress.phase() == Phase::Following).await;

    // The stream has limits of its own, and a pause holds everything.
    running.set("incremental-commands", "2000");
    let mut writer = source.client().unwrap();
    let allowed = Allowed::new(2000.0);
    block_in_place(|| {
        for _ in 0..20 {
            (0..1000).for_each(|_| writer.queue(&["INCR", "counter"]).unwrap());
            writer.flush().unwrap();
            writer.replies(1000).unwrap();
        }
    });
    let counter = |client: &mut Client| {
        client.call(&["GET", "counter"]).unwrap().as_str().map_or(0, |n| n.parse().unwrap())
    };
    running.until("commands", |_| counter(&mut target.client().unwrap()) > 10).await;
    block_in_place(|| assert_reached(&running, ("incremental", 2000.0), &mut client, counter));
    allowed.assert(counter(&mut client), "commands");
    running.throttle.pause();
    // What was under way may still come; then nothing does.
    running.until("a standstill", |_| block_in_place(|| rate(&mut client, 0.5, counter)) == 0.0).await;
    assert!(running.throttle.is_paused() && running.progress.figures().lag_bytes > Some(0));
    assert!(counter(&mut client) < 20_000);
    running.set("incremental-commands", "none");
    running.throttle.resume();
    running.until("all of it", |_| counter(&mut target.client().unwrap()) == 20_000).await;
    running.stopper.stop();
    let report = running.end().await;
    assert!(report.throttle.waited_seconds["paused"] > 0.3, "{:?}", report.throttle);
    assert!(report.throttle.waited_seconds["incremental"] > 0.5, "{:?}", report.throttle);
}

/// Also where keys are read one by one, what is asked of the source; and where bytes are forwarded as they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_source_is_asked_no_faster_than_it_may() {
    let (source, target) = (start(any().unwrap()), Server::any().unwrap());
    block_in_place(|| fill(&source, 3000, 50));
    let since = Instant::now();
    let caught_up = Until::CaughtUp { quiet: Duration::ZERO, linger: PATIENCE };
    let running = Throttled::start(&source, &target, &[("source-keys", "3000")], |options| {
        options.source_mode = SourceMode::Scan;
        options.until = caught_up.clone();
    });
    let report = running.end().await;
    assert!(since.elapsed() > Duration::from_millis(700), "{:?}", since.elapsed());
    assert!(report.throttle.waited_seconds["source"] > 0.3, "{:?}", report.throttle);
    assert_eq!(keys(&mut target.client().unwrap()), 3000);

    target.client().unwrap().call(&["FLUSHALL"]).unwrap();
    let running = Throttled::start(&source, &target, &[], |options| {
        options.delivery = keyferry_migrate::Delivery::AtLeastOnce;
        options.until = caught_up;
    });
    running.throttle.pause();
    running
        .until("a pause", |running| running.throttle.figures().waited_seconds.contains_key("paused"))
        .await;
    running.throttle.resume();
    running.end().await;
    assert_eq!(keys(&mut target.client().unwrap()), 3000);
}

/// Keeps a server busy, with answers that take so long.
struct Busy {
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Busy {
    fn start(server: &Server, millis: u64) -> Self {
        let script = format!(
            "local t = redis.call('TIME'); local e = t[1] * 1000000 + t[2] + {millis} * 1000; \
             repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] >= e"
        );
        let mut client = server.client().unwrap();
        let end = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                client.call(&["EVAL", &script, "0"]).unwrap();
            }
        });
        Busy { end, thread: Some(thread) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// What was handed over before is under way for a while: a rate is measured again until it is as it should be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_slows_down_while_others_need_the_target_and_comes_back() {
    const KEYS: usize = 24_000;
    let (source, target) = (start(any().unwrap()), Server::any().unwrap());
    block_in_place(|| fill(&source, KEYS, 5000));
    let limits = [("full-bytes", "2mb"), ("adaptive", "60")];
    let running = Throttled::start(&source, &target, &limits, |options| {
        options.until = Until::CaughtUp { quiet: Duration::ZERO, linger: PATIENCE };
    });
    let mut client = target.client().unwrap();
    // As fast as the limit lets it.
    let full = f64::from(2 << 20) / 5000.0;
    let mut found = 0.0;
    let mut measured = |client: &mut Client| {
        found = block_in_place(|| rate(client, 1.0, keys));
        found
    };
    running.until("the whole rate", |_| measured(&mut client) > full * 0.8).await;
    let busy = block_in_place(|| Busy::start(&target, 250));
    let half = 1 << 20;
    running
        .until("a lower rate", |running| {
            running.throttle.figures().adaptive_bytes.is_some_and(|rate| rate <= half)
        })
        .await;
    let figures = running.throttle.figures();
    assert!(figures.latency_seconds.len() >= 2, "{figures:?}");
    running.until("fewer keys", |_| measured(&mut client) < full * 0.6).await;
    block_in_place(|| drop(busy));
    running
        .until("the rate", |running| {
            running.throttle.figures().adaptive_bytes.is_none_or(|rate| rate > 2 << 20)
        })
        .await;
    running.until("the whole rate again", |_| measured(&mut client) > full * 0.8).await;
    assert!(keys(&mut client) < KEYS as i64, "it was over before anything could be seen");
    running.throttle.set_limits(keyferry_migrate::RateLimits::default());
    let report = running.end().await;
    assert!(report.throttle.waited_seconds["adaptive"] > 0.0, "{:?}", report.throttle);
    assert_eq!(keys(&mut client), KEYS as i64);
}

/// Within five in a hundred over ten seconds, for each kind of limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute, and a machine of its own"]
async fn rates_are_exact_over_ten_seconds() {
    // `SET` with a name of 12 bytes and 1000 bytes has 1041.
    for (name, value, wanted, size) in [
        ("full-keys", "5000", 5000.0, 20),
        ("full-commands", "20000", 20_000.0, 20),
        ("full-bytes", "10mb", (10 << 20) as f64 / 1041.0, 1000),
        ("node-bytes", "2mb", (2 << 20) as f64 / 1041.0, 1000),
    ] {
        let (source, target) = (start(any().unwrap()), Server::any().unwrap());
        block_in_place(|| fill(&source, (wanted * 13.0) as usize, size));
        let running = Throttled::start(&source, &target, &[(name, value)], |_| {});
        running.until("keys", |_| keys(&mut target.client().unwrap()) > 1000).await;
        let found = block_in_place(|| rate(&mut target.client().unwrap(), 10.0, keys));
        println!(
            "{name} {value}: {found:.0} keys/s of {wanted:.0}, {:+.2} %",
            (found / wanted - 1.0) * 100.0
        );
        assert!((found / wanted - 1.0).abs() < 0.05, "{name} {value}: {found} instead of {wanted}");
        running.throttle.set_limits(keyferry_migrate::RateLimits::default());
        running.stopper.stop();
        running.end().await;
    }
}

/// The same of the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a quarter of a minute, and a machine of its own"]
async fn rates_of_the_stream_are_exact_over_ten_seconds() {
    let (source, target) = (start(any().unwrap()), Server::any().unwrap());
    block_in_place(|| fill(&source, 1, 1));
    let running = Throttled::start(&source, &target, &[("incremental-commands", "5000")], |_| {});
    running.until("the stream", |running| running.progress.phase() == Phase::Following).await;
    let mut writer = source.client().unwrap();
    // All of it is there before it is measured.
    running.throttle.pause();
    block_in_place(|| {
        for _ in 0..70 {
            (0..1000).for_each(|_| writer.queue(&["INCR", "counter"]).unwrap());
            writer.flush().unwrap();
            writer.replies(1000).unwrap();
        }
    });
    let counter = |client: &mut Client| {
        client.call(&["GET", "counter"]).unwrap().as_str().map_or(0, |n| n.parse().unwrap())
    };
    running.throttle.resume();
    running.until("commands", |_| counter(&mut target.client().unwrap()) > 1000).await;
    let found = block_in_place(|| rate(&mut target.client().unwrap(), 10.0, counter));
    println!("incremental-commands 5000: {found:.0}, {:+.2} %", (found / 5000.0 - 1.0) * 100.0);
    assert!((found / 5000.0 - 1.0).abs() < 0.05, "{found}");
    running.throttle.set_limits(keyferry_migrate::RateLimits::default());
    running.stopper.stop();
    running.end().await;
}
