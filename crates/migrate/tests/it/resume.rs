//! The program is killed, and another run goes on: nothing is lost or repeated, and the source sends its snapshot once.

use std::time::{Duration, Instant};

use keyferry_migrate::{Delivery, Migration, Outcome};
use keyferry_testkit::{Cluster, CompareOptions, Server, compare_sides, data::WriterOptions};
use tokio::task::block_in_place;

use crate::{
    clusters::ends::End,
    support::{PATIENCE, Process, run},
};

/// Tells the test `a_process` what to do.
const TOLD: &str = "KEYFERRY_TEST_MIGRATION";

/// A migration in a process of its own, which can be killed.
pub(crate) fn process(source: &str, target: &str, id: &str, delivery: Delivery) -> Process {
    Process::start("resume::a_process", (TOLD, format!("{source} {target} {id} {delivery:?}")))
}

/// No test by itself: what [`process`] starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let words: Vec<&str> = told.split(' ').collect();
    let mut migration = Migration::new(words[0].parse().unwrap(), words[1].parse().unwrap());
    let options = migration.options_mut();
    options.id = Some(words[2].to_owned());
    options.delivery = if words[3] == "ExactlyOnce" { Delivery::ExactlyOnce } else { Delivery::AtLeastOnce };
    let finished = migration.run().await;
    finished.result.unwrap();
}

/// What the target keeps of a link: `snapshot …` or `stream …`.
fn state(target: &End, id: &str, link: usize) -> String {
    let args = ["HGET", &format!("keyferry:migration:{{{id}}}"), &format!("link:{link}")];
    let reply = match target {
        End::Cluster(cluster) => cluster.client().unwrap().call(&args),
        one => one.client().call(&args),
    };
    reply.unwrap().as_str().unwrap_or_default().to_owned()
}

fn sync_full(server: &Server) -> u64 {
    server.client().unwrap().info("stats", "sync_full").unwrap().unwrap().parse().unwrap()
}

fn source() -> Server {
    let binary = keyferry_testkit::any().unwrap();
    Server::builder(binary).diskless_sync(true, 0).config("repl-backlog-size", "64mb").start().unwrap()
}

/// Kills the program again and again while the source is written to, then lets one run come to its end.
async fn kill_and_go_on(source: End, target: End, rounds: u64, databases: u32, delivery: Delivery) {
    let id = "kill-and-go-on";
    block_in_place(|| source.fill(databases));
    let options = WriterOptions {
        rate: 2000,
        databases,
        short_expiries: false,
        multi_key: true,
        ..WriterOptions::default()
    };
    let writer = block_in_place(|| source.write(options));
    let links = if let End::Cluster(_) = source { 3 } else { 1 };
    for round in 0..rounds {
        let mut running = process(&source.url(), &target.url(), id, delivery);
        let begun = Instant::now();
        let streams = || (0..links).all(|link| state(&target, id, link).starts_with("stream"));
        while !block_in_place(streams) {
            assert!(begun.elapsed() < PATIENCE, "no stream in round {round}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Wherever it is.
        tokio::time::sleep(Duration::from_millis(300 + 170 * round)).await;
        running.kill();
    }
    block_in_place(|| {
        let counts = writer.stop().unwrap();
        assert_eq!(counts.errors, 0, "{:?}", counts.first_error);
        source.settle();
    });
    let finished = run(&source.url(), &target.url(), |o| {
        o.id = Some(id.to_owned());
        o.delivery = delivery;
    })
    .await;
    finished.result.unwrap();
    assert!(finished.report.resumed && finished.report.id == id, "{:?}", finished.report);
    assert_eq!(finished.report.outcome, Outcome::CaughtUp { source_was_writing: false });
    let servers = match &source {
        End::Cluster(cluster) => cluster.nodes().iter().collect(),
        one => vec![one.primary()],
    };
    for server in servers {
        assert_eq!(block_in_place(|| sync_full(server)), 1, "the snapshot was sent again");
    }
    if delivery == Delivery::ExactlyOnce {
        let equal = || compare_sides(source.side(), target.side(), &CompareOptions::default()).unwrap();
        let comparison = block_in_place(equal);
        assert!(comparison.is_equal() && comparison.keys_a > 100, "{comparison}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_to_another() {
    let target = End::server(keyferry_testkit::any().unwrap());
    kill_and_go_on(End::Server(Box::new(source())), target, 4, 3, Delivery::ExactlyOnce).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_to_a_cluster() {
    let target = End::cluster(keyferry_testkit::any().unwrap(), 0);
    kill_and_go_on(End::Server(Box::new(source())), target, 4, 1, Delivery::ExactlyOnce).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_to_a_cluster() {
    let binary = keyferry_testkit::any().unwrap();
    let source = Cluster::builder(binary).primaries(3).config("repl-backlog-size", "64mb");
    kill_and_go_on(End::built(source), End::cluster(binary, 0), 3, 1, Delivery::ExactlyOnce).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_to_one_server() {
    let binary = keyferry_testkit::any().unwrap();
    let source = Cluster::builder(binary).primaries(3).config("repl-backlog-size", "64mb");
    kill_and_go_on(End::built(source), End::server(binary), 2, 1, Delivery::ExactlyOnce).await;
}

/// Nothing is missing; some things are there twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_least_once_goes_on_too() {
    let target = End::cluster(keyferry_testkit::any().unwrap(), 0);
    kill_and_go_on(End::Server(Box::new(source())), target, 2, 1, Delivery::AtLeastOnce).await;
}

/// What empties the target, and what exchanges its databases, leaves what it keeps of the migration in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushes_and_exchanges_are_gone_on_behind() {
    let (source, target) = (End::Server(Box::new(source())), End::server(keyferry_testkit::any().unwrap()));
    let id = "flushed";
    let mut client = source.client();
    client.call(&["SET", "before", "1"]).unwrap();
    let start = || process(&source.url(), &target.url(), id, Delivery::ExactlyOnce);
    let mut running = start();
    // One that dies in its snapshot has no stream to go on with.
    let begun = Instant::now();
    while !block_in_place(|| state(&target, id, 0)).starts_with("stream") {
        assert!(begun.elapsed() < PATIENCE, "no stream");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut at_target = target.client();
    for (round, command) in [&["FLUSHALL"][..], &["SWAPDB", "0", "5"], &["SWAPDB", "5", "0"], &["FLUSHDB"]]
        .into_iter()
        .enumerate()
    {
        client.call(&["MULTI"]).unwrap();
        client.call(&["INCR", "other"]).unwrap();
        client.call(command).unwrap();
        client.call(&["SELECT", "3"]).unwrap();
        client.call(&["INCR", "third"]).unwrap();
        client.call(&["SELECT", "0"]).unwrap();
        client.call(&["EXEC"]).unwrap();
        let kill_and_start = |running: &mut Process| {
            running.kill();
            *running = start();
        };
        // Wherever it is, and behind it.
        if round % 2 == 0 {
            kill_and_start(&mut running);
        }
        client.call(&["INCR", "n"]).unwrap();
        // No round before had that value.
        let mark = format!("round {round}");
        client.call(&["SET", "mark", &mark]).unwrap();
        let come = block_in_place(|| {
            at_target
                .wait_until(PATIENCE, |c| Ok(c.bytes(&["GET", "mark"])?.as_deref() == Some(mark.as_bytes())))
        });
        assert!(come.unwrap(), "{mark}");
        kill_and_start(&mut running);
    }
    running.kill();
    let finished = run(&source.url(), &target.url(), |o| o.id = Some(id.to_owned())).await;
    finished.result.unwrap();
    assert!(finished.report.resumed, "{:?}", finished.report);
    assert_eq!(sync_full(source.primary()), 1);
    crate::support::assert_equal(source.primary(), target.primary(), "after flushes");
}
