//! A primary that moves: the link goes on at the promoted server, to the byte.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keyferry_client::{Address, ConnectOptions, Endpoint, Frame};
use keyferry_replication::{Error, LinkOptions, Locate, Replica};
use keyferry_testkit::{
    Client, Cluster, ClusterClient, CompareOptions, Direction, Proxy, Sentinels, Server, ServerBinary, any,
    binaries, compare_with,
    data::{Writer, WriterOptions, settle},
};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::support::{PATIENCE, Seen, offset_of};

const WINDOW: Duration = Duration::from_secs(60);

/// The newest server of each vendor, and the oldest of all.
fn some_binaries() -> Vec<&'static ServerBinary> {
    let mut chosen: Vec<&ServerBinary> = Vec::new();
    for prefix in ["redis", "valkey"] {
        let of: Vec<_> = binaries().iter().filter(|b| b.name.starts_with(prefix)).collect();
        chosen.extend(of.last());
    }
    chosen.extend(binaries().first());
    chosen.dedup_by(|a, b| a.name == b.name);
    chosen
}

/// A replica that is followed on a task of its own.
struct Follower {
    stop_at: Option<oneshot::Sender<u64>>,
    task: JoinHandle<(Seen, Replica)>,
}

impl Follower {
    /// Returns when it has the snapshot.
    async fn start(locate: impl Locate + 'static) -> Self {
        let (stop_at, mut told) = oneshot::channel();
        let mut replica = Replica::following(locate, LinkOptions::default(), WINDOW, None);
        let mut seen = Seen::default();
        seen.until_snapshot_end(&mut replica).await;
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    step = seen.step(&mut replica) => step.unwrap(),
                    offset = &mut told => {
                        seen.until_past(&mut replica, offset.unwrap()).await;
                        return (seen, replica);
                    }
                }
            }
        });
        Follower { stop_at: Some(stop_at), task }
    }

    /// Everything up to the offset at which `primary` stands.
    async fn until_level_with(mut self, primary: &mut Client) -> (Seen, Replica) {
        let offset = tokio::task::block_in_place(|| offset_of(primary));
        self.stop_at.take().unwrap().send(offset).unwrap();
        self.task.await.unwrap()
    }
}

/// Writes everything that a server knows for a while.
fn write(server: &Server, seed: u64) {
    let options = WriterOptions { seed, rate: 5_000, ..WriterOptions::default() };
    let writer = Writer::start(server, options).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let counts = writer.stop().unwrap();
    assert_eq!(counts.errors, 0, "{:?}", counts.first_error);
}

/// Waits until every replica of the primary has acknowledged everything.
fn replicas_are_level(primary: &Server, replicas: &[&Server]) {
    let mut client = primary.client().unwrap();
    for replica in replicas {
        let level = replica.client().unwrap().wait_until(PATIENCE, |replica| {
            Ok(replica.info("replication", "master_repl_offset")?
                == client.info("replication", "master_repl_offset")?)
        });
        assert!(level.unwrap());
    }
}

/// Executes a stream at an empty server, and compares what comes of it with what `primary` holds.
fn is_what_the_primary_holds(binary: &ServerBinary, commands: &[u8], primary: &mut Client) {
    let empty = Server::builder(binary).start().unwrap();
    let mut copy = empty.client().unwrap();
    copy.send_bytes(commands).unwrap();
    copy.queue(&["ECHO", "that was all"]).unwrap();
    copy.flush().unwrap();
    loop {
        match copy.reply().unwrap() {
            Frame::Bulk(text) if text.as_ref() == b"that was all" => break,
            Frame::Error(error) => panic!("{}: {error:?}", binary.name),
            _ => {}
        }
    }
    copy.call(&["SELECT", "0"]).unwrap();
    settle(&mut copy).unwrap();
    // Servers before 7.0 send expiries as time left, which counts from now here.
    let options = CompareOptions::default().expiry_tolerance(60_000);
    let comparison = compare_with(primary, &mut copy, &options).unwrap();
    assert!(comparison.is_equal(), "{}: {comparison}", binary.name);
}

fn sentinel_options(sentinels: &Sentinels) -> keyferry_client::SentinelOptions {
    match sentinels.url().parse().unwrap() {
        Endpoint::Sentinel(options) => *options,
        other => panic!("{other}"),
    }
}

/// The primary dies, sentinels promote its replica: the stream goes on there, and is what the new primary holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_goes_on_after_a_failover_by_sentinels() {
    for binary in some_binaries() {
        let mut sentinels = Sentinels::builder(binary)
            .down_after(Duration::from_millis(1500))
            .config("repl-diskless-sync-delay", "0")
            .config("repl-ping-replica-period", "3600")
            .start()
            .unwrap();
        let follower = Follower::start(sentinel_options(&sentinels)).await;
        let mut client = tokio::task::block_in_place(|| {
            let old = sentinels.primary().unwrap();
            write(sentinels.server(old), 1);
            if binary.version.at_least(6, 2) {
                // What sentinels publish, and the end of keys that expire, might come to one replica, and not to the other.
                let pause = ["CLIENT", "PAUSE", "60000", "WRITE"];
                sentinels.server(old).client().unwrap().call(&pause).unwrap();
            }
            let others: Vec<&Server> =
                (0..sentinels.servers().len()).filter(|&i| i != old).map(|i| sentinels.server(i)).collect();
            replicas_are_level(sentinels.server(old), &others);
            let new = sentinels.kill_primary().unwrap();
            write(sentinels.server(new), 2);
            let mut client = sentinels.server(new).client().unwrap();
            settle(&mut client).unwrap();
            client
        });
        let (seen, replica) = follower.until_level_with(&mut client).await;
        assert_eq!((seen.full_syncs, seen.resumes), (1, 1), "{}", binary.name);
        let id = client.info("replication", "master_replid").unwrap().unwrap();
        assert_eq!(replica.position().unwrap().id.as_str(), id);
        assert_eq!(replica.address().unwrap().to_string(), client.address());
        tokio::task::block_in_place(|| is_what_the_primary_holds(binary, &seen.commands, &mut client));
    }
}

/// Writes to keys of one shard through the cluster, whoever its primary is, until told to stop. Every write counts: one that
/// is lost or repeated shows in the end.
fn write_through(mut client: ClusterClient, stop: &AtomicBool) {
    let tag = "{shard}";
    for i in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let text = i.to_string();
        client.call(&["INCR", &format!("{tag}:counter:{}", i % 50)]).unwrap();
        client.call(&["APPEND", &format!("{tag}:text:{}", i % 20), &text]).unwrap();
        client.call(&["RPUSH", &format!("{tag}:list:{}", i % 10), &text]).unwrap();
        client
            .transaction(&[&["LPOP", &format!("{tag}:list:{}", i % 7)][..], &["SADD", tag, &text]])
            .unwrap();
    }
}

/// A replica of a shard takes over with the consent of the primary, under writes; then it dies and the first one takes over
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_of_a_shard_goes_on_after_each_failover() {
    for binary in some_binaries() {
        let builder = Cluster::builder(binary).replicas(1).config("repl-diskless-sync-delay", "0");
        // A ping to replicas might come to one of them, and not to the other.
        let mut cluster = builder.config("repl-ping-replica-period", "3600").start().unwrap();
        let (first, second) = tokio::task::block_in_place(|| {
            let slot = cluster.client().unwrap().int(&["CLUSTER", "KEYSLOT", "{shard}"]).unwrap() as u16;
            let first = cluster.owner(slot).unwrap();
            (first, cluster.replicas(first).unwrap()[0])
        });
        let pair = [first, second].map(|i| ConnectOptions::from_url(&cluster.node(i).url()).unwrap());
        // Whoever of the two was not tried last.
        let follower = Follower::start(move |lost: Option<&Address>| -> Result<ConnectOptions, Error> {
            Ok(pair[usize::from(lost == Some(pair[0].address()))].clone())
        })
        .await;
        let mut client = tokio::task::block_in_place(|| {
            let stop = Arc::new(AtomicBool::new(false));
            let writer = std::thread::spawn({
                let (client, stop) = (cluster.client().unwrap(), Arc::clone(&stop));
                move || write_through(client, &stop)
            });
            std::thread::sleep(Duration::from_millis(500));
            cluster.failover(second).unwrap();
            std::thread::sleep(Duration::from_millis(500));
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap();
            replicas_are_level(cluster.node(second), &[cluster.node(first)]);
            assert_eq!(cluster.kill(second).unwrap(), first);
            let stop = Arc::new(AtomicBool::new(false));
            let writer = std::thread::spawn({
                let (client, stop) = (cluster.client().unwrap(), Arc::clone(&stop));
                move || write_through(client, &stop)
            });
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap();
            cluster.node(first).client().unwrap()
        });
        let (seen, _) = follower.until_level_with(&mut client).await;
        assert_eq!(seen.full_syncs, 1, "{}", binary.name);
        assert!(seen.resumes >= 2, "{}", binary.name);
        tokio::task::block_in_place(|| is_what_the_primary_holds(binary, &seen.commands, &mut client));
    }
}

/// Writes that the promoted server never got make it offer a full sync, said as such: what was read is not its history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_were_lost_in_a_failover_are_told() {
    let start = || Server::builder(any().unwrap()).diskless_sync(true, 0).start().unwrap();
    let (mut primary, promoted) = (start(), start());
    let mut client = promoted.client().unwrap();
    let between = Proxy::start(primary.addr()).unwrap();
    client.call(&["REPLICAOF", "127.0.0.1", &between.addr().port().to_string()]).unwrap();
    let up = client.wait_until(PATIENCE, |client| {
        Ok(client.info("replication", "master_link_status")?.as_deref() == Some("up"))
    });
    assert!(up.unwrap());
    let pair = [&primary, &promoted].map(|server| ConnectOptions::from_url(&server.url()).unwrap());
    let locate = move |lost: Option<&Address>| -> Result<ConnectOptions, Error> {
        Ok(pair[usize::from(lost == Some(pair[0].address()))].clone())
    };
    let mut replica = Replica::following(locate, LinkOptions::default(), WINDOW, None);
    let mut seen = Seen::default();
    seen.until_snapshot_end(&mut replica).await;
    between.stall(Direction::FromTarget, true);
    let mut writer = primary.client().unwrap();
    writer.call(&["SET", "lost", "1"]).unwrap();
    seen.until_offset(&mut replica, offset_of(&mut writer)).await;
    let had = replica.position().unwrap().clone();
    primary.kill9();
    client.call(&["REPLICAOF", "NO", "ONE"]).unwrap();
    while seen.full_syncs == 1 {
        seen.step(&mut replica).await.unwrap();
    }
    assert_eq!(replica.previous(), Some(&had));
    assert_eq!((seen.losses, seen.resumes), (1, 0));
}

/// While nobody can say where the primary is, it is asked for again; what will not pass ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_found_is_looked_for_again() {
    let mut server = Server::builder(any().unwrap()).diskless_sync(true, 0).start().unwrap();
    let connect = ConnectOptions::from_url(&server.url()).unwrap();
    let (asked, passing) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let locate = {
        let (asked, passing) = (Arc::clone(&asked), Arc::clone(&passing));
        move |lost: Option<&Address>| {
            let Some(lost) = lost else { return Ok(connect.clone()) };
            asked.store(true, Ordering::Relaxed);
            let (reason, passing) = ("it moved".to_owned(), passing.load(Ordering::Relaxed));
            Err(Error::NotLocated { what: format!("the successor of {lost}"), reason, passing })
        }
    };
    let mut replica = Replica::following(locate, LinkOptions::default(), WINDOW, None);
    let mut seen = Seen::default();
    seen.until_snapshot_end(&mut replica).await;
    server.kill9();
    while seen.losses < 3 {
        seen.step(&mut replica).await.unwrap();
    }
    assert!(asked.load(Ordering::Relaxed));
    passing.store(false, Ordering::Relaxed);
    let error = loop {
        if let Err(error) = seen.step(&mut replica).await {
            break error;
        }
    };
    assert_eq!(error.to_string(), format!("cannot find the successor of {}: it moved", server.addr()));
}
