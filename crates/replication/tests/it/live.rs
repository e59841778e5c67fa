//! Real servers.

use std::time::Duration;

use keyferry_replication::{AckPolicy, Error, LinkOptions, Position, ReplicationId};
use keyferry_testkit::{
    Builder, Client, Direction, Proxy, Server, ServerBinary, binaries, data,
    data::{Writer, WriterOptions},
};

use crate::support::{Seen, keys_of, offset_of, replica};

/// A server whose stream moves by writes only: a ping to its replicas would be a step past the offset just asked for.
fn still(builder: Builder) -> Builder {
    builder.config("repl-ping-replica-period", "3600")
}

fn total_keys(client: &mut Client) -> u64 {
    (0..3).fold(0, |sum, db| {
        client.call(&["SELECT", &db.to_string()]).unwrap();
        sum + client.int(&["DBSIZE"]).unwrap() as u64
    })
}

/// Every server of the matrix, by both kinds of transfer: the snapshot holds every key, and the offset counted from
/// the stream is the server's own, to the byte, while it is written to by a mix of everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_and_stream_of_every_server_are_counted_exactly() {
    for some in binaries().chunks(3) {
        let mut set = tokio::task::JoinSet::new();
        for binary in some {
            for diskless in [true, false] {
                set.spawn(is_counted_exactly(binary, diskless));
            }
        }
        while let Some(result) = set.join_next().await {
            result.unwrap();
        }
    }
}

async fn is_counted_exactly(binary: &'static ServerBinary, diskless: bool) {
    let (server, keys) = tokio::task::block_in_place(|| {
        let server = still(Server::builder(binary).diskless_sync(diskless, 0)).start().unwrap();
        let mut client = server.client().unwrap();
        data::small(&mut client, 7, 3).unwrap();
        let keys = total_keys(&mut client);
        (server, keys)
    });
    let mut options = LinkOptions::default();
    options.diskless = diskless;
    let mut replica = replica(&server.url(), options, None);
    let mut seen = Seen::default();
    seen.until_snapshot_end(&mut replica).await;
    let transfer = replica.transfer().unwrap();
    assert_eq!(format!("{transfer:?}").starts_with("UntilMark"), diskless, "{}", binary.name);
    assert_eq!(keys_of(&seen.snapshot), keys, "{}", binary.name);

    let options = WriterOptions { rate: 20_000, ..WriterOptions::default() };
    let writer = tokio::task::block_in_place(|| Writer::start(&server, options)).unwrap();
    while seen.commands.len() < 300_000 {
        seen.step(&mut replica).await.unwrap();
    }
    let offset = tokio::task::spawn_blocking(move || {
        let counts = writer.stop().unwrap();
        assert_eq!(counts.errors, 0, "{:?}", counts.first_error);
        let mut client = server.client().unwrap();
        data::settle(&mut client).unwrap();
        (offset_of(&mut client), server)
    });
    // The server lives until its stream has been read.
    let (offset, _server) = offset.await.unwrap();
    seen.until_offset(&mut replica, offset).await;
    assert_eq!((seen.full_syncs, seen.losses), (1, 0), "{}", binary.name);
    assert!(!replica.position().unwrap().in_transaction, "{}", binary.name);
}

/// `WAIT` at the primary makes it ask, and is satisfied by what was received, or by what was declared applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_are_what_the_policy_says() {
    let server = Server::any().unwrap();
    for policy in [AckPolicy::Received, AckPolicy::Applied] {
        let mut options = LinkOptions::default();
        options.acks = policy;
        let mut replica = replica(&server.url(), options, None);
        let mut seen = Seen::default();
        seen.until_snapshot_end(&mut replica).await;
        let mut client = server.client().unwrap();
        client.call(&["SET", "a", "1"]).unwrap();
        let offset = offset_of(&mut client);
        let waiting = tokio::task::spawn_blocking(move || client.int(&["WAIT", "1", "60000"]).unwrap());
        let follow = async {
            while replica.position().unwrap().offset < offset {
                seen.step(&mut replica).await.unwrap();
            }
            if policy == AckPolicy::Applied {
                // Not before it is declared: the primary must wait for it.
                tokio::time::timeout(Duration::from_millis(1500), async {
                    loop {
                        seen.step(&mut replica).await.unwrap();
                    }
                })
                .await
                .unwrap_err();
                assert!(!waiting.is_finished(), "acknowledged before it was applied");
                replica.applied(offset);
            }
            loop {
                seen.step(&mut replica).await.unwrap();
            }
        };
        tokio::select! {
            () = follow => unreachable!(),
            () = async { while !waiting.is_finished() { tokio::time::sleep(Duration::from_millis(10)).await; } } => {}
        }
        assert_eq!(waiting.await.unwrap(), 1, "{policy:?}");
    }
}

/// The network cuts the link again and again, in the middle of commands: what arrives is, byte for byte, what a
/// replica without trouble sees.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_is_resumed_without_a_gap_or_a_repetition() {
    let builder = Server::builder(keyferry_testkit::any().unwrap()).config("repl-backlog-size", "64mb");
    let server = still(builder).diskless_sync(true, 0).start().unwrap();
    let proxy = Proxy::start(server.addr()).unwrap();
    let mut calm = replica(&server.url(), LinkOptions::default(), None);
    let mut shaken = replica(&format!("redis://{}", proxy.addr()), LinkOptions::default(), None);
    let (mut expected, mut seen) = (Seen::default(), Seen::default());
    expected.until_snapshot_end(&mut calm).await;
    seen.until_snapshot_end(&mut shaken).await;
    // Both from here on: the second replica's full sync made the server name its database again.
    let mut client = server.client().unwrap();
    let begin = offset_of(&mut client);
    expected.until_offset(&mut calm, begin).await;
    seen.until_offset(&mut shaken, begin).await;
    (expected.commands, seen.commands) = (Vec::new(), Vec::new());

    let writer = Writer::start(&server, WriterOptions { rate: 20_000, ..WriterOptions::default() }).unwrap();
    for cut in 0..8 {
        proxy.cut_after(Direction::FromTarget, 30_011 + cut);
        proxy.fragment(if cut % 2 == 0 { 100 } else { 0 });
        let losses = seen.losses;
        while seen.losses == losses || seen.resumes < seen.losses.min(cut as u32 + 1) {
            seen.step(&mut shaken).await.unwrap();
        }
    }
    tokio::task::spawn_blocking(|| writer.stop()).await.unwrap().unwrap();
    data::settle(&mut client).unwrap();
    let end = offset_of(&mut client);
    expected.until_offset(&mut calm, end).await;
    seen.until_offset(&mut shaken, end).await;
    assert!(seen.resumes >= 8, "{} resumes", seen.resumes);
    assert_eq!(seen.full_syncs, 1);
    assert_eq!(calm.position(), shaken.position());
    assert!(expected.commands == seen.commands);
}

/// A position kept by the caller is enough to go on in another process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_resumes_in_a_new_replica_with_its_database() {
    let server = still(Server::builder(keyferry_testkit::any().unwrap())).start().unwrap();
    let mut client = server.client().unwrap();
    let mut first = replica(&server.url(), LinkOptions::default(), None);
    let mut seen = Seen::default();
    seen.until_snapshot_end(&mut first).await;
    client.call(&["SELECT", "2"]).unwrap();
    client.call(&["SET", "a", "1"]).unwrap();
    let offset = offset_of(&mut client);
    seen.until_offset(&mut first, offset).await;
    let position = first.position().unwrap().clone();
    assert_eq!(position.db, Some(2));
    drop(first);

    client.call(&["SET", "b", "2"]).unwrap();
    let mut second = replica(&server.url(), LinkOptions::default(), Some(position));
    let mut seen = Seen::default();
    let offset = offset_of(&mut client);
    seen.until_offset(&mut second, offset).await;
    assert_eq!((seen.full_syncs, seen.resumes), (0, 1));
    // No SELECT came: the database is known from the position alone.
    assert!(seen.commands.starts_with(b"*3\r\n"), "{:?}", seen.commands.escape_ascii().to_string());
    assert_eq!(second.position().unwrap().db, Some(2));
}

/// A history that the server does not know ends in a full sync, said as such.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_history_is_a_full_sync() {
    let server = Server::any().unwrap();
    let id: ReplicationId = "0000000000000000000000000000000000000000".parse().unwrap();
    let had = Position::after_snapshot(id, 12_345);
    let mut replica = replica(&server.url(), LinkOptions::default(), Some(had.clone()));
    let mut seen = Seen::default();
    seen.until_snapshot_end(&mut replica).await;
    assert_eq!(seen.full_syncs, 1);
    assert_eq!(replica.previous(), Some(&had));
    assert_ne!(replica.position().unwrap().id, id);
}

/// A source that is killed in the middle of its snapshot: an error that says so, and no snapshot end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_dies_inside_its_snapshot_is_an_error() {
    let mut server = Server::builder(keyferry_testkit::any().unwrap())
        .diskless_sync(true, 0)
        // One millisecond a key: the snapshot takes long enough to be interrupted.
        .config("rdb-key-save-delay", "1000")
        .start()
        .unwrap();
    data::tiny_keys(&mut server.client().unwrap(), 1, 50_000).unwrap();
    let mut replica = replica(&server.url(), LinkOptions::default(), None);
    let mut seen = Seen::default();
    while seen.snapshot.is_empty() {
        seen.step(&mut replica).await.unwrap();
    }
    server.kill9();
    let error = loop {
        if let Err(error) = seen.step(&mut replica).await {
            break error;
        }
    };
    assert!(!seen.snapshot_complete);
    let text = error.to_string();
    assert!(matches!(error, Error::Closed { .. } | Error::Io { .. }), "{text}");
    assert!(text.contains(&server.addr().to_string()), "{text}");
}

/// A user without the permission learns which one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_named() {
    let server = Server::builder(keyferry_testkit::any().unwrap())
        .user("reader", "on >pw ~* +@read +ping +info +hello +select")
        .start()
        .unwrap();
    let url = format!("redis://reader:pw@{}", server.addr());
    let mut replica = replica(&url, LinkOptions::default(), None);
    let error = Seen::default().step(&mut replica).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(!error.is_retryable());
    let text = error.to_string();
    assert!(text.contains("NOPERM") && text.contains("+psync"), "{text}");
}

/// A wrong password is refused before anything else, and is not shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_an_error_that_does_not_show_it() {
    let server = Server::builder(keyferry_testkit::any().unwrap()).password("right").start().unwrap();
    let mut replica = replica(&format!("redis://:wr0ng@{}", server.addr()), LinkOptions::default(), None);
    let error = Seen::default().step(&mut replica).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(!text.contains("wr0ng"), "{text}");
    assert!(!error.is_retryable());
}
