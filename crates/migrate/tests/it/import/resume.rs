//! An import that is killed goes on: no command of the file is lost or repeated.

use std::time::Duration;

use keyferry_migrate::Migration;
use keyferry_testkit::{CompareOptions, Proxy, Rng, Side, compare_sides};
use tokio::task::block_in_place;

use super::{log_of, logging, writes};
use crate::{
    clusters::ends::End,
    support::{PATIENCE, Process},
};

/// Tells the test `a_process` what to do.
const TOLD: &str = "KEYFERRY_TEST_IMPORT";

/// No test by itself: an import that can be killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let words: Vec<&str> = told.split(' ').collect();
    let files = words[1..].iter().map(std::path::PathBuf::from).collect();
    let mut migration = Migration::from_files(files, words[0].parse().unwrap());
    migration.options_mut().id = Some("killed".to_owned());
    migration.run().await.result.unwrap();
}

fn process(target: &str, files: &str) -> Process {
    Process::start("import::resume::a_process", (TOLD, format!("{target} {files}")))
}

/// What the target keeps of where it is.
fn state(target: &End) -> String {
    let args = ["HMGET", "keyferry:migration:{killed}", "file", "link:0"];
    let reply = match target {
        End::Cluster(cluster) => cluster.client().unwrap().call(&args),
        one => one.client().call(&args),
    };
    format!("{:?}", reply.unwrap())
}

/// Killed a moment after each step forward, again and again, until it has come to its end.
fn kill_and_go_on(cluster: bool) {
    let binary = keyferry_testkit::any().unwrap();
    let source = logging(binary, writes(if cluster { 1 } else { 3 }), true, 4000);
    let dir = tempfile::tempdir().unwrap();
    let more = dir.path().join("more.resp");
    let counts: String =
        (0..3000).map(|n| format!("*2\r\n$4\r\nINCR\r\n$6\r\nmore:{}\r\n", n % 10)).collect();
    std::fs::write(&more, counts).unwrap();
    let target = if cluster { End::cluster(binary, 0) } else { End::server(binary) };
    // A cluster tells its nodes' own addresses, so that no proxy is in between.
    let proxy = match &target {
        End::Server(server) => Some(Proxy::start(server.addr()).unwrap()),
        _ => None,
    };
    if let Some(proxy) = &proxy {
        proxy.delay(Duration::from_millis(5));
    }
    let url = proxy.as_ref().map_or_else(|| target.url(), |proxy| format!("redis://{}", proxy.addr()));
    let files = format!("{} {}", log_of(&source).display(), more.display());
    let mut rng = Rng::new(5);
    let nothing = state(&target);
    let (mut killed, mut begun, mut ended) = (0, false, false);
    while !ended && killed < 8 {
        let before = state(&target);
        begun |= before != nothing;
        let mut running = process(&url, &files);
        let since = std::time::Instant::now();
        while state(&target) == before && !ended {
            assert!(since.elapsed() < PATIENCE, "no step forward: {before}");
            if let Some(status) = running.0.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                ended = true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        begun |= state(&target) != nothing;
        std::thread::sleep(Duration::from_millis(rng.below(120)));
        drop(running);
        killed += 1;
        // What is kept of an import goes with its end: who is killed behind that has done everything, and another would begin anew.
        ended |= begun && state(&target) == nothing;
    }
    if let Some(proxy) = &proxy {
        proxy.delay(Duration::ZERO);
    }
    if !ended {
        let status = process(&url, &files).0.wait().unwrap();
        assert!(status.success(), "{status}");
    }
    assert!(killed > 2, "too quick: {killed}");
    let mut client = source.client().unwrap();
    (0..10).for_each(|n| drop(client.call(&["INCRBY", &format!("more:{n}"), "300"]).unwrap()));
    let options = CompareOptions::default().without_bookkeeping();
    let compared = compare_sides(Side::server(&source).unwrap(), target.side(), &options).unwrap();
    assert!(compared.is_equal() && compared.keys_a > 100, "cluster: {cluster}: {compared}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn into_one_server() {
    block_in_place(|| kill_and_go_on(false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn into_a_cluster() {
    block_in_place(|| kill_and_go_on(true));
}
