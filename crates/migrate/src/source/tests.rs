//! Sources that are real servers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keyferry_client::ConnectOptions;
use keyferry_replication::{Event, LinkOptions, Locate, Replica};
use keyferry_routing::tag_for_slot;
use keyferry_testkit::{Cluster, MoveStep, Sentinels, Server, ServerBinary, any, binaries};
use tokio::sync::mpsc;

use super::*;

const PATIENCE: Duration = Duration::from_secs(120);

fn endpoint(url: &str) -> Endpoint {
    url.parse().unwrap()
}

/// The oldest server and the newest of each vendor.
fn some_binaries() -> Vec<&'static ServerBinary> {
    let newest = |vendor: &str| binaries().iter().rfind(|binary| binary.name.starts_with(vendor));
    let mut chosen: Vec<_> =
        [binaries().first(), newest("redis"), newest("valkey")].into_iter().flatten().collect();
    chosen.dedup_by(|a, b| a.name == b.name);
    chosen
}

async fn located(locator: &Locator) -> String {
    located_as(locator, |_| true).await
}

/// What is found in the end: a node that does not answer for a moment is taken for one that does not work.
async fn located_as(locator: &Locator, is_it: impl Fn(&str) -> bool) -> String {
    // While the nodes are not of one mind it may not be found: that passes.
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let is_over = tokio::time::Instant::now() >= end;
        match locator.locate(None).await.map(|options| options.address().to_string()) {
            Ok(address) if is_it(&address) || is_over => return address,
            Ok(_) => {}
            Err(error) => assert!(error.is_retryable() && !is_over, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn assert_located(locator: &Locator, address: &str) {
    assert_eq!(located_as(locator, |found| found == address).await, address);
}

/// Found when all nodes answer.
async fn found(url: &str, from_replicas: bool) -> Source {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let source = Source::find(endpoint(url), from_replicas).await.unwrap();
        if source.notes.is_empty() || tokio::time::Instant::now() >= end {
            return source;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_is_one_link() {
    let server = Server::any().unwrap();
    let source = Source::find(endpoint(&server.url()), true).await.unwrap();
    let [link] = &source.links[..] else { panic!("{source:?}") };
    assert_eq!((&link.name, &link.slots), (&server.addr().to_string(), &None));
    assert!(source.ownership().is_none());
    assert_eq!(located(&link.stream).await, link.name);
    assert!(source.notes[0].contains("is read itself"), "{:?}", source.notes);
}

/// A plain address of one node stands for the cluster; each shard is found again, whoever is its primary, and read from a
/// replica where that is wanted and there is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_are_found_again_after_failovers() {
    for binary in some_binaries() {
        let mut cluster =
            tokio::task::block_in_place(|| Cluster::builder(binary).replicas(1).start()).unwrap();
        let source = found(&cluster.node(4).url(), false).await;
        let from_replicas = found(&cluster.url(), true).await;
        assert_eq!((source.links.len(), from_replicas.links.len()), (3, 3), "{}", binary.name);
        assert_eq!((&source.notes[..], &from_replicas.notes[..]), (&[][..], &[][..]));
        let mut all = SlotSet::new();
        source.links.iter().for_each(|link| all.extend(link.slots.as_ref().unwrap()));
        assert_eq!(all.to_string(), "0-16383");

        let address = |cluster: &Cluster, node: usize| cluster.node(node).addr().to_string();
        let primary = cluster.owner(0).unwrap();
        let replica = cluster.replicas(primary).unwrap()[0];
        let (link, other) = (&source.links[0], &from_replicas.links[0]);
        assert_eq!(link.slots.as_ref().unwrap().ranges().next().unwrap().0, 0);
        assert_eq!((link.name.clone(), link.nodes.len()), (address(&cluster, primary), 2));
        assert_located(&link.stream, &address(&cluster, primary)).await;
        assert_located(&other.stream, &address(&cluster, replica)).await;
        assert_located(&other.primary, &address(&cluster, primary)).await;

        tokio::task::block_in_place(|| cluster.failover(replica)).unwrap();
        assert_located(&link.stream, &address(&cluster, replica)).await;
        assert_located(&other.stream, &address(&cluster, primary)).await;
        tokio::task::block_in_place(|| assert_eq!(cluster.kill(replica).unwrap(), primary));
        assert_located(&link.stream, &address(&cluster, primary)).await;
        // Without a replica that works, the primary has to do.
        assert_located(&other.stream, &address(&cluster, primary)).await;
        // The dead one comes back, as a replica, and is one of the shard still.
        tokio::task::block_in_place(|| {
            cluster.restart(replica).unwrap();
            cluster.failover(replica).unwrap();
        });
        assert_located(&link.stream, &address(&cluster, replica)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_of_which_something_cannot_be_read_are_refused() {
    let mut cluster = tokio::task::block_in_place(|| {
        let cluster = Cluster::builder(any().unwrap()).config("cluster-require-full-coverage", "no");
        cluster.config("cluster-allow-replica-migration", "no").start().unwrap()
    });
    let refused = async |cluster: &Cluster| {
        Source::find(endpoint(&cluster.url()), false).await.unwrap_err().to_string()
    };
    let (from, to) = (cluster.owner(7).unwrap(), cluster.owner(16_000).unwrap());
    let ids = [from, to].map(|node| cluster.id(node).to_owned());
    tokio::task::block_in_place(|| {
        let mut client = cluster.node(to).client().unwrap();
        client.call(&["CLUSTER", "SETSLOT", "7", "IMPORTING", &ids[0]]).unwrap();
        let mut client = cluster.node(from).client().unwrap();
        client.call(&["CLUSTER", "SETSLOT", "7", "MIGRATING", &ids[1]]).unwrap();
    });
    let text = refused(&cluster).await;
    let expected = format!(
        "the slots 7 are being moved (the first of them from {} to {})",
        cluster.node(from).addr(),
        cluster.node(to).addr()
    );
    assert!(text.contains(&expected) && text.contains("nothing was written"), "{text}");
    tokio::task::block_in_place(|| {
        for node in [from, to] {
            cluster.node(node).client().unwrap().call(&["CLUSTER", "SETSLOT", "7", "STABLE"]).unwrap();
        }
        for node in 0..3 {
            cluster.node(node).client().unwrap().call(&["CLUSTER", "DELSLOTS", "9", "10", "12"]).unwrap();
        }
    });
    let text = refused(&cluster).await;
    assert!(text.contains("nobody serves the slots 9-10,12,"), "{text}");
    tokio::task::block_in_place(|| {
        let mut client = cluster.node(from).client().unwrap();
        client.call(&["CLUSTER", "ADDSLOTS", "9", "10", "12"]).unwrap();
        let told = cluster
            .node(to)
            .client()
            .unwrap()
            .wait_until(PATIENCE, |client| Ok(!client.text(&["CLUSTER", "NODES"])?.contains(" 0-8 ")));
        assert!(told.unwrap());
    });
    let name = cluster.node(to).addr().to_string();
    cluster.kill_only(to);
    let mut text = String::new();
    for _ in 0..100 {
        text = refused(&cluster).await;
        if text.contains("is down") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(text.contains(&format!("the shard of {name} with the slots")), "{text}");
}

/// The replica that is read is promoted in a planned failover: its link goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_read_through_a_planned_failover_by_sentinels() {
    let sentinels = tokio::task::block_in_place(|| {
        Sentinels::builder(any().unwrap()).config("repl-diskless-sync-delay", "0").start().unwrap()
    });
    let source = Source::find(endpoint(&sentinels.url()), true).await.unwrap();
    let [link] = &source.links[..] else { panic!("{source:?}") };
    let old = sentinels.primary().unwrap();
    assert_eq!(link.name, sentinels.server(old).addr().to_string());
    assert_ne!(located_as(&link.stream, |found| found != link.name).await, link.name);
    let mut replica = Replica::following(link.stream.clone(), LinkOptions::default(), PATIENCE, None);
    let (come, has_come) = std::sync::mpsc::channel();
    let failover = tokio::task::spawn_blocking(move || {
        has_come.recv().unwrap();
        let new = sentinels.failover().unwrap();
        let mut client = sentinels.server(new).client().unwrap();
        client.call(&["SET", "after", "the failover"]).unwrap();
        (sentinels, client.address().to_owned())
    });
    let (mut full_syncs, mut arrived) = (0, false);
    while !arrived {
        match tokio::time::timeout(PATIENCE, replica.next()).await.unwrap().unwrap() {
            Event::FullSync { .. } => full_syncs += 1,
            Event::SnapshotEnd { .. } => drop(come.send(())),
            Event::Commands(batch) => {
                let text: &[u8] = b"the failover";
                arrived |= batch.bytes.windows(text.len()).any(|bytes| bytes == text);
            }
            _ => {}
        }
    }
    let (_sentinels, new) = failover.await.unwrap();
    assert_eq!((full_syncs, replica.address().unwrap().to_string()), (1, new));
    assert_located(&link.primary, &replica.address().unwrap().to_string()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_databases_that_become_one_are_compared() {
    let server = Server::any().unwrap();
    let options = ConnectOptions::from_url(&server.url()).unwrap();
    tokio::task::block_in_place(|| {
        let mut client = server.client().unwrap();
        // 0 and 3 share every third of 3000 keys, 5 has one of each, 7 has the same as 3, but goes elsewhere.
        for (db, step, count) in [(0, 1, 9000), (3, 3, 3000), (7, 3, 3000)] {
            client.call(&["SELECT", &db.to_string()]).unwrap();
            let commands: Vec<[String; 3]> = (0..count)
                .map(|i| ["SET".to_owned(), format!("key:{}", i * step + db * 1000), String::new()])
                .collect();
            client.pipe(&commands).unwrap();
        }
        client.call(&["SELECT", "5"]).unwrap();
        client.call(&["MSET", "key:3000", "", "key:0", "", "only here", ""]).unwrap();
        client.call(&["SET", &"x\u{0}".repeat(80), ""]).unwrap();
    });
    let map = BTreeMap::from([(3, 0), (5, 0), (7, 1)]);
    let found = collisions(std::slice::from_ref(&options), &map, None).await.unwrap();
    let counts: Vec<_> = found.pairs.iter().map(|p| (p.first, p.second, p.target, p.count)).collect();
    // SCAN gives keys at least once.
    assert_eq!(counts, [(0, 3, 0, 2000), (0, 5, 0, 2), (3, 5, 0, 1)]);
    assert_eq!((found.count, found.pairs[0].samples.len()), (2003, 5));
    assert_eq!(found.pairs[1].samples, ["\"key:0\"", "\"key:3000\""]);
    let text = Error::Collisions(Box::new(found)).to_string();
    assert!(text.contains("3 and 5 (to 0): 1, as \"key:3000\""), "{text}");
    assert_eq!(collisions(&[options], &BTreeMap::new(), None).await.unwrap(), Collisions::default());
}

/// Slots move between shards of a real cluster while they are written to: each move is told, with an offset of the old owner
/// behind its last word on the slot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_are_followed() {
    for binary in some_binaries() {
        let cluster = Cluster::builder(binary).config("repl-diskless-sync-delay", "0");
        let cluster = Arc::new(tokio::task::block_in_place(|| cluster.start()).unwrap());
        let source = Source::find(endpoint(&cluster.url()), false).await.unwrap();
        let (changes, mut told) = mpsc::channel(100);
        let period = Duration::from_millis(50);
        let watching = tokio::spawn(watch(source.watchables(), source.ownership().unwrap(), period, changes));
        let (from, to) = (cluster.owner(0).unwrap(), cluster.owner(16_383).unwrap());
        let link_of = |node: usize| {
            let address = cluster.node(node).addr().to_string();
            Owner::Link(source.links.iter().position(|link| link.name == address).unwrap())
        };
        // Servers count offsets from their first replica on.
        let link = &source.links[0];
        let mut replica = Replica::following(link.stream.clone(), LinkOptions::default(), PATIENCE, None);
        while !matches!(replica.next().await.unwrap(), Event::SnapshotEnd { .. }) {}

        let stop = Arc::new(AtomicBool::new(false));
        let writing = std::thread::spawn({
            let (mut client, stop) = (cluster.client().unwrap(), Arc::clone(&stop));
            move || {
                for i in 0_u32.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("{{{}}}:{}", tag_for_slot((i % 6) as u16), i % 300);
                    client.call(&["INCR", &key]).unwrap();
                }
            }
        });
        // Where the old owner last spoke of each slot. It has to speak of each before they move.
        let mut last_words = [0_u64; 6];
        while last_words.contains(&0) {
            hear(replica.next().await.unwrap(), &mut last_words);
        }
        let moving = std::thread::spawn({
            let cluster = Arc::clone(&cluster);
            move || {
                let pause = |step| {
                    if matches!(step, MoveStep::Opened(_)) {
                        std::thread::sleep(Duration::from_millis(150));
                    }
                    Ok(())
                };
                cluster.move_slots_with(0..=5, to, 5, pause).unwrap();
            }
        });
        let (mut announced, mut offsets) = (0, BTreeMap::new());
        while offsets.len() < 6 {
            tokio::select! {
                event = replica.next() => hear(event.unwrap(), &mut last_words),
                change = tokio::time::timeout(PATIENCE, told.recv()) => match change.unwrap().unwrap() {
                    Change::Moving { from: a, to: b, .. } => {
                        assert_eq!((a, b), (link_of(from), link_of(to)));
                        announced += 1;
                    }
                    Change::Moved { slot, from: a, to: b, offset } => {
                        assert_eq!((a, b), (link_of(from), link_of(to)));
                        offsets.insert(slot, offset.unwrap());
                    }
                    other => panic!("{}: {other:?}", binary.name),
                },
            }
        }
        tokio::task::block_in_place(|| {
            stop.store(true, Ordering::Relaxed);
            writing.join().unwrap();
            moving.join().unwrap();
            let mut client = cluster.node(from).client().unwrap();
            client.call(&["PUBLISH", "the", "end"]).unwrap();
        });
        let end = |replica: &Replica| replica.position().unwrap().offset;
        let mut client = cluster.node(from).client().unwrap();
        let all: u64 = client.info("replication", "master_repl_offset").unwrap().unwrap().parse().unwrap();
        while end(&replica) < all {
            hear(replica.next().await.unwrap(), &mut last_words);
        }
        assert_eq!(offsets.keys().copied().collect::<Vec<u16>>(), [0, 1, 2, 3, 4, 5]);
        assert!(announced > 0, "{}", binary.name);
        for (slot, offset) in offsets {
            let last = last_words[usize::from(slot)];
            assert!(last > 0 && last <= offset, "{}: slot {slot}: {last} {offset}", binary.name);
        }
        drop(told);
        tokio::time::timeout(PATIENCE, watching).await.unwrap().unwrap();
    }
}

/// Notes where the stream last speaks of each of the slots.
fn hear(event: Event, last_words: &mut [u64; 6]) {
    let Event::Commands(batch) = event else { return };
    for (slot, last) in (0_u16..).zip(last_words) {
        let tag = format!("{{{}}}:", tag_for_slot(slot));
        let mut at = batch.bytes.windows(tag.len()).enumerate().filter(|(_, bytes)| *bytes == tag.as_bytes());
        if let Some((at, _)) = at.next_back() {
            *last = batch.start + at as u64;
        }
    }
}
