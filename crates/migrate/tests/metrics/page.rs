//! What the page says while a migration runs.

use std::time::Duration;

use keyferry_migrate::{
    metrics::{ALL, Kind, MetricsServer},
    two_way::{Policy, TwoWay},
};
use keyferry_testkit::{Cluster, Direction, Proxy, Server, data};
use tokio::task::block_in_place;

use crate::support::{PATIENCE, Page, Watched, get};

fn any() -> Server {
    Server::builder(keyferry_testkit::any().unwrap()).diskless_sync(true, 0).start().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_follow_what_happens_and_nothing_is_written_to_the_source() {
    let (source, target) = (any(), any());
    let mut client = source.client().unwrap();
    block_in_place(|| data::tiny_keys(&mut client, 1, 5000)).unwrap();
    let proxy = Proxy::start(target.addr()).unwrap();
    let watched = Watched::start(&source.url(), &format!("redis://{}", proxy.addr()), |_| {}).await;
    let following = |page: &Page| page.get("keyferry_phase", Some("following")) == Some(1.0);
    let page = watched.until("following", following).await;
    assert_eq!(page.link("keyferry_keys_applied_total"), Some(5000.0));
    assert!(page.link("keyferry_snapshot_applied_bytes_total") > Some(10_000.0));
    assert_eq!(page.link("keyferry_lag_bytes"), Some(0.0));
    assert_eq!(page.get("keyferry_precheck_items", Some("fail")), Some(0.0));
    assert!(page.get("keyferry_sent_bytes_total", None) > Some(10_000.0));
    assert_eq!(watched.get("/readyz").await, (200, "caught up\n".to_owned()));

    // All are there but errors and what limits, of which there were none; each is described, and there is nothing else.
    let page = watched
        .until("the target's figures", |page| {
            page.get("keyferry_target_up", Some(&proxy.addr().to_string())) == Some(1.0)
        })
        .await;
    let none = [
        "keyferry_errors_total",
        "keyferry_throttle_wait_seconds_total",
        "keyferry_adaptive_bytes_per_second",
        "keyferry_latency_seconds",
    ];
    let is_here = |name: &str| !none.contains(&name) && !name.starts_with("keyferry_two_way_");
    for metric in ALL.iter().filter(|metric| is_here(metric.name)) {
        assert_eq!(
            page.is_counter.get(metric.name),
            Some(&(metric.kind == Kind::Counter)),
            "{}",
            metric.name
        );
        assert_eq!(page.help.get(metric.name).map(String::as_str), Some(metric.help));
        assert_eq!(page.labels(metric.name).is_empty(), metric.label.is_none(), "{}", metric.name);
    }
    assert!(page.names().all(|name| ALL.iter().any(|metric| metric.name == name)));

    // The target stops; the source goes on. Lag grows in bytes and in time, and goes when the target is back.
    proxy.stall(Direction::FromTarget, true);
    let writes = block_in_place(|| {
        (0..100).try_for_each(|n| client.call(&["SET", &format!("late:{n}"), "value"]).map(drop))
    });
    writes.unwrap();
    let page = watched.until("a lag", |page| page.link("keyferry_lag_seconds") > Some(1.0)).await;
    assert!(page.link("keyferry_lag_bytes") > Some(1000.0), "{page:#?}");
    let behind = page.link("keyferry_applied_offset");
    assert!(page.link("keyferry_received_offset") > behind);
    proxy.stall(Direction::FromTarget, false);
    let level = |page: &Page| page.link("keyferry_lag_bytes") == Some(0.0);
    let page = watched.until("no lag", level).await;
    assert_eq!(page.link("keyferry_lag_seconds"), Some(0.0));
    assert!(page.link("keyferry_commands_applied_total") >= Some(100.0));

    // The source saw no write by anybody but this test.
    let calls = client.info("commandstats", "cmdstat_set").unwrap().unwrap();
    let test_wrote = calls.starts_with("calls=5100,") || calls.starts_with("calls=100,");
    assert!(test_wrote, "{calls}");
    watched.stopper.stop();
    watched.end().await.result.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_links_are_counted_and_make_it_unready() {
    let (source, target) = (any(), any());
    let proxy = Proxy::start(source.addr()).unwrap();
    let watched = Watched::start(&format!("redis://{}", proxy.addr()), &target.url(), |o| {
        o.reconnect_window = Duration::from_secs(60);
    })
    .await;
    watched.until("following", |page| page.get("keyferry_phase", Some("following")) == Some(1.0)).await;
    proxy.refuse(true);
    proxy.cut();
    watched.until("trouble", |page| page.link("keyferry_trouble") == Some(1.0)).await;
    let (status, why) = watched.get("/readyz").await;
    assert_eq!((status, why.as_str()), (503, "following, and something is being tried again: see the log\n"));
    assert_eq!(watched.get("/healthz").await.0, 200);
    proxy.refuse(false);
    let page = watched
        .until("the link", |page| {
            page.link("keyferry_trouble") == Some(0.0) && page.link("keyferry_reconnects_total") > Some(0.0)
        })
        .await;
    assert!(page.get("keyferry_errors_total", Some("source_link")) >= Some(1.0), "{page:#?}");
    watched.stopper.stop();
    watched.end().await.result.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_link_has_its_own_figures() {
    let binary = keyferry_testkit::any().unwrap();
    let source = Cluster::builder(binary).primaries(3).start().unwrap();
    let target = any();
    block_in_place(|| data::small_cluster(&mut source.client().unwrap(), 1, 1)).unwrap();
    let watched = Watched::start(&source.url(), &target.url(), |_| {}).await;
    let page =
        watched.until("following", |page| page.get("keyferry_phase", Some("following")) == Some(1.0)).await;
    let links = page.labels("keyferry_keys_applied_total");
    let shards: Vec<String> = (0..3).map(|n| source.node(n).addr().to_string()).collect();
    assert!(
        links.len() == 3 && shards.iter().all(|shard| links.contains(&shard.as_str())),
        "{links:?} {shards:?}"
    );
    for link in links {
        assert!(page.get("keyferry_keys_applied_total", Some(link)) > Some(0.0));
        assert!(page.get("keyferry_applied_offset", Some(link)).is_some());
        assert_eq!(page.get("keyferry_lag_seconds", Some(link)), Some(0.0));
    }
    watched.stopper.stop();
    watched.end().await.result.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_target_tells_of_keys_that_it_evicted() {
    let source = any();
    let target = Server::builder(keyferry_testkit::any().unwrap())
        .config("maxmemory", "4mb")
        .config("maxmemory-policy", "allkeys-random")
        .start()
        .unwrap();
    // Before the run: it would lose its own keys as well.
    let mut client = target.client().unwrap();
    block_in_place(|| data::large_strings(&mut client, 1, 100, 100_000)).unwrap();
    client.call(&["CONFIG", "SET", "maxmemory", "1073741824"]).unwrap();
    let ignore = keyferry_migrate::precheck::Item::EvictionPolicy;
    let watched = Watched::start(&source.url(), &target.url(), |o| o.ignore = [ignore].into()).await;
    let node = target.addr().to_string();
    watched.until("following", |page| page.get("keyferry_phase", Some("following")) == Some(1.0)).await;
    let page = watched
        .until("evictions", |page| page.get("keyferry_target_evicted_keys_total", Some(&node)) > Some(0.0))
        .await;
    assert_eq!(page.get("keyferry_target_max_memory_bytes", Some(&node)), Some(f64::from(1 << 30)));
    assert_eq!(page.get("keyferry_precheck_items", Some("ignored")), Some(1.0));
    watched.stopper.stop();
    watched.end().await.result.unwrap();
}

/// Both links are there, and what both ways have come to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_have_figures_of_both_links() {
    let (source, target) = (any(), any());
    block_in_place(|| source.client()?.call(&["SET", "first", "1"])).unwrap();
    let proxy = Proxy::start(target.addr()).unwrap();
    let there = format!("redis://{}", proxy.addr());
    let both = TwoWay::new(source.url().parse().unwrap(), there.parse().unwrap(), Policy::SourceWins);
    let server = MetricsServer::bind_two_way("127.0.0.1:0".parse().unwrap(), &both).await.unwrap();
    let (address, stopper) = (server.address(), both.stopper());
    let serving = tokio::spawn(server.serve());
    assert_eq!(get(address, "/readyz").await.0, 503);
    let running = tokio::spawn(both.run());
    let until = async |what: &str, done: &dyn Fn(&Page) -> bool| {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let page = Page::parse(&get(address, "/metrics").await.1);
            if done(&page) {
                return page;
            }
            assert!(tokio::time::Instant::now() < end && !running.is_finished(), "{what}: {page:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let page = until("both", &|page| page.get("keyferry_two_way_ready", None) == Some(1.0)).await;
    for metric in ALL.iter().filter(|metric| metric.name.starts_with("keyferry_two_way_")) {
        assert_eq!(
            page.is_counter.get(metric.name),
            Some(&(metric.kind == Kind::Counter)),
            "{}",
            metric.name
        );
        let labels = if metric.label.is_some() { vec!["source", "target"] } else { Vec::new() };
        assert_eq!(page.labels(metric.name), labels, "{}", metric.name);
    }
    // Something of each side is carried over, whoever's write is left out of those that meet.
    block_in_place(|| {
        source.client()?.call(&["SET", "here", "1"])?;
        target.client()?.call(&["SET", "there", "1"])
    })
    .unwrap();
    // A key that both write while neither hears of the other.
    let stall = |stalled| {
        proxy.stall(Direction::ToTarget, stalled);
        proxy.stall(Direction::FromTarget, stalled);
    };
    stall(true);
    block_in_place(|| {
        source.client()?.call(&["SET", "k", "s"])?;
        target.client()?.call(&["SET", "k", "t"])
    })
    .unwrap();
    let lags = |page: &Page| page.get("keyferry_lag_bytes", Some("source")) > Some(0.0);
    until("a lag", &lags).await;
    stall(false);
    let settled = |page: &Page| {
        let of = |name: &str| page.get(name, None);
        of("keyferry_two_way_settled_keys_total") > Some(0.0)
            && of("keyferry_two_way_unsettled_keys") == Some(0.0)
    };
    let page = until("a settled key", &settled).await;
    assert!(page.get("keyferry_two_way_conflicts_total", None) >= Some(1.0), "{page:#?}");
    let level = |page: &Page| {
        ["source", "target"].iter().all(|link| {
            page.get("keyferry_two_way_commands_total", Some(link)) > Some(0.0)
                && page.get("keyferry_lag_bytes", Some(link)) == Some(0.0)
                && page.get("keyferry_lag_seconds", Some(link)) == Some(0.0)
        })
    };
    until("level", &level).await;
    assert_eq!(get(address, "/readyz").await, (200, "caught up\n".to_owned()));
    proxy.refuse(true);
    proxy.cut();
    let is_lost = |page: &Page| page.get("keyferry_trouble", Some("target")) == Some(1.0);
    until("a lost link", &is_lost).await;
    assert_eq!(get(address, "/readyz").await.0, 503);
    proxy.refuse(false);
    until("the link", &|page| page.get("keyferry_trouble", Some("target")) == Some(0.0)).await;
    stopper.stop();
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().result.unwrap();
    serving.abort();
}
