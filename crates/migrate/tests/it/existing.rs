//! Keys that the target has already: each way, from a server that replicates, by SCAN, and from a file, into a server and into a
//! cluster.

mod later;

use std::{path::Path, time::Duration};

use keyferry_migrate::{Error, Finished, Migration, OnExists, Options, Phase, SourceMode, Until};
use keyferry_resp::Frame;
use keyferry_testkit::{Client, Direction, Proxy, Server, any};
use tokio::task::block_in_place;

use crate::clusters::ends::End;
use crate::support::{PATIENCE, Running, offset_of, run, start};

/// Values above this many bytes are built in parts.
const LIMIT: usize = 2000;

fn options(options: &mut Options, policy: OnExists) {
    options.on_exists = policy;
    options.value_limit = LIMIT;
    options.look_first = false;
}

fn long(letter: &str) -> String {
    letter.repeat(1500)
}

/// A source with keys of every kind, some of which [`given`] gives to a target.
fn filled() -> Server {
    let source = start(any().unwrap());
    let mut client = source.client().unwrap();
    for command in [
        &["SET", "user:1", "source"][..],
        &["SET", "user:2", "source"],
        &["SET", "expires", "source", "EX", "5000"],
        &["RPUSH", "list", "source"],
        &["HSET", "hash", "both", "source", "source", "1"],
        &["SADD", "set", "both", "source"],
        &["ZADD", "zset", "1", "both", "2", "source"],
        &["HSET", "other-type", "a", "1"],
        &["SADD", "large", &long("a"), &long("b")],
        &["RPUSH", "large-list", &long("a"), &long("b")],
        &["SET", "only-source", "1"],
        &["RPUSH", "large-only-source", &long("a"), &long("b")],
    ] {
        client.call(command).unwrap();
    }
    for n in 0..500 {
        client.call(&["SET", &format!("more:{n}"), "1"]).unwrap();
    }
    source
}

/// What a target has of its own.
fn given(mut call: impl FnMut(&[&str]) -> Frame) {
    for command in [
        &["SET", "user:1", "target"][..],
        &["SET", "expires", "target"],
        &["RPUSH", "list", "target"],
        &["HSET", "hash", "both", "target", "target", "1"],
        &["EXPIRE", "hash", "100"],
        &["SADD", "set", "both", "target"],
        &["ZADD", "zset", "7", "both", "8", "target"],
        &["SET", "other-type", "target"],
        &["SADD", "large", &long("b"), &long("c")],
        &["RPUSH", "large-list", "target"],
        &["SET", "only-target", "1"],
    ] {
        call(command);
    }
}

/// The answer of a target.
fn call(target: &End, command: &[&str]) -> Frame {
    match target {
        End::Cluster(cluster) => cluster.client().unwrap().call(command).unwrap(),
        server => server.primary().client().unwrap().call(command).unwrap(),
    }
}

/// The same as words, in order.
fn sorted(target: &End, command: &[&str]) -> Vec<String> {
    let reply = call(target, command);
    let text = |frame: &Frame| frame.as_str().unwrap_or_default().to_owned();
    let mut words: Vec<String> = match reply.as_array() {
        Some(items) => items.iter().map(text).collect(),
        None => vec![text(&reply)],
    };
    words.sort();
    words
}

/// How the source is read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Replication,
    Scan,
    File,
}

async fn migrate(source: &Server, target: &str, way: Way, policy: OnExists) -> Finished {
    let set = |o: &mut Options| {
        options(o, policy);
        if way == Way::Scan {
            o.source_mode = SourceMode::Scan;
        }
        o.until = Until::CaughtUp { quiet: Duration::from_millis(100), linger: PATIENCE };
    };
    if way != Way::File {
        return run(&source.url(), target, set).await;
    }
    block_in_place(|| source.client().unwrap().call(&["SAVE"]).unwrap());
    let mut migration = Migration::from_files(vec![source.dir().join("dump.rdb")], target.parse().unwrap());
    set(migration.options_mut());
    tokio::time::timeout(PATIENCE, migration.run()).await.expect("an end in time")
}

/// What was only at one side is as it was, and the rest is there.
fn check_others(target: &End) {
    for (key, value) in [("only-target", "1"), ("only-source", "1"), ("user:2", "source"), ("more:499", "1")]
    {
        assert_eq!(sorted(target, &["GET", key]), [value]);
    }
    assert_eq!(call(target, &["LLEN", "large-only-source"]).as_i64(), Some(2));
}

fn check(finished: &Finished, target: &End, policy: OnExists, what: &str) {
    if let Err(error) = &finished.result {
        panic!("{what}: {error}");
    }
    check_others(target);
    let winner = if policy == OnExists::Skip { "target" } else { "source" };
    for key in ["user:1", "expires"] {
        assert_eq!(sorted(target, &["GET", key]), [winner], "{what}: {key}");
    }
    let ttl = call(target, &["TTL", "expires"]).as_i64().unwrap();
    assert_eq!(ttl == -1, policy == OnExists::Skip, "{what}: {ttl}");
    let existing = &finished.report.existing;
    assert_eq!((existing.policy, existing.before), (policy, Some(10)), "{what}");
    let counts = [existing.skipped.count, existing.replaced.count, existing.merged.count];
    match policy {
        OnExists::Skip => {
            assert_eq!(counts, [9, 0, 0], "{what}: {existing:?}");
            assert_eq!(sorted(target, &["LRANGE", "list", "0", "-1"]), ["target"]);
            assert_eq!(sorted(target, &["SMEMBERS", "set"]), ["both", "target"]);
            assert_eq!(sorted(target, &["LRANGE", "large-list", "0", "-1"]), ["target"]);
            assert_eq!(sorted(target, &["GET", "other-type"]), ["target"]);
        }
        OnExists::Merge => {
            assert_eq!(counts, [0, 5, 4], "{what}: {existing:?}");
            assert_eq!(existing.merged.types["set"], 2, "{existing:?}");
            assert_eq!(sorted(target, &["HMGET", "hash", "both", "source", "target"]), ["1", "1", "source"]);
            // The source's has no deadline.
            assert_eq!(call(target, &["TTL", "hash"]).as_i64(), Some(-1));
            assert_eq!(sorted(target, &["SMEMBERS", "set"]), ["both", "source", "target"]);
            assert_eq!(sorted(target, &["SMEMBERS", "large"]), [long("a"), long("b"), long("c")]);
            assert_eq!(sorted(target, &["ZSCORE", "zset", "both"]), ["1"]);
            assert_eq!(sorted(target, &["ZRANGE", "zset", "0", "-1"]), ["both", "source", "target"]);
            assert_eq!(sorted(target, &["LRANGE", "list", "0", "-1"]), ["source"]);
            assert_eq!(sorted(target, &["HGET", "other-type", "a"]), ["1"]);
        }
        _ => {
            assert_eq!(counts, [0, 9, 0], "{what}: {existing:?}");
            assert_eq!(existing.replaced.samples.len(), 8);
            assert_eq!(sorted(target, &["SMEMBERS", "set"]), ["both", "source"]);
            assert_eq!(sorted(target, &["SMEMBERS", "large"]), [long("a"), long("b")]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_exist_are_skipped_replaced_or_merged_whatever_the_way() {
    let source = filled();
    let server = End::server(any().unwrap());
    let cluster = End::cluster(any().unwrap(), 0);
    let cases = [
        (&server, Way::Replication, OnExists::Skip),
        (&server, Way::Scan, OnExists::Skip),
        (&server, Way::File, OnExists::Skip),
        (&server, Way::Replication, OnExists::Merge),
        (&server, Way::Scan, OnExists::Merge),
        (&server, Way::File, OnExists::Merge),
        (&server, Way::Replication, OnExists::Replace),
        (&cluster, Way::Scan, OnExists::Merge),
        (&cluster, Way::File, OnExists::Skip),
        (&cluster, Way::Replication, OnExists::Replace),
    ];
    for (target, way, policy) in cases {
        let what = format!("{way:?} {policy:?}");
        match target {
            End::Cluster(cluster) => {
                (0..3).for_each(|at| drop(cluster.node(at).client().unwrap().call(&["FLUSHALL"]).unwrap()));
            }
            server => drop(call(server, &["FLUSHALL"])),
        }
        given(|command| call(target, command));
        let finished = migrate(&source, &target.url(), way, policy).await;
        check(&finished, target, policy, &what);
    }
}

/// `fail` tells all of them before anything is written; and the same command does it when they are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_exist_keep_a_run_from_beginning() {
    let (source, target) = (filled(), End::server(any().unwrap()));
    for (way, url) in [Way::Replication, Way::Scan, Way::File].map(|way| (way, target.url())) {
        call(&target, &["FLUSHALL"]);
        given(|command| call(&target, command));
        let finished = migrate(&source, &url, way, OnExists::Fail).await;
        let error = finished.result.unwrap_err();
        let Error::TargetHasKeys(overlap) = &error else { panic!("{way:?}: {error}") };
        assert_eq!(overlap.count, 9, "{error}");
        let of = |prefix: &str| overlap.prefixes.iter().find(|of| of.prefix == prefix).unwrap();
        assert_eq!(
            (of("").count, of("user:").count, &of("user:").samples[..]),
            (8, 1, &["user:1".to_owned()][..])
        );
        assert!(error.to_string().contains("1 user:*, as user:1"), "{error}");
        assert_eq!(call(&target, &["DBSIZE"]).as_i64(), Some(10), "{way:?}: nothing was written");
        assert_eq!(sorted(&target, &["GET", "user:1"]), ["target"]);

        for key in ["user:1", "expires", "list", "hash", "set", "zset", "other-type", "large", "large-list"] {
            call(&target, &["DEL", key]);
        }
        let finished = migrate(&source, &url, way, OnExists::Fail).await;
        assert!(finished.result.is_ok(), "{way:?}: {:?}", finished.result);
        assert_eq!(finished.report.existing.before, Some(1));
        check_others(&target);
    }
}

/// The name under which the target keeps how far a migration is.
const ID: &str = "existing";

/// Waits until it is known what the target has.
fn until_looked(client: &mut Client) {
    let key = format!("keyferry:migration:{{{ID}}}");
    let looked = client.wait_until(PATIENCE, |client| Ok(client.int(&["HEXISTS", &key, "foreign"])? == 1));
    assert!(looked.unwrap(), "nobody looked in time");
}

/// What turns up after that ends the run at its turn, whole keys and those that are built in parts; and it goes on from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_turns_up_later_ends_the_run() {
    let source = Server::builder(any().unwrap()).diskless_sync(true, 0).start().unwrap();
    let target = Server::any().unwrap();
    let hold = |seconds: &str| {
        let delay = ["CONFIG", "SET", "repl-diskless-sync-delay", seconds];
        source.client().unwrap().call(&delay).unwrap();
    };
    block_in_place(|| {
        let mut client = source.client().unwrap();
        for n in 0..2000 {
            client.call(&["SET", &format!("key:{n}"), "source"]).unwrap();
        }
        client.call(&["RPUSH", "large", &long("a"), &long("b")]).unwrap();
    });
    let journal = tempfile::tempdir().unwrap();
    let set = |o: &mut Options| {
        options(o, OnExists::Fail);
        o.id = Some(ID.to_owned());
        o.journal = Some(journal.path().to_owned());
    };
    let mut client = target.client().unwrap();
    for later in ["key:77", "large"] {
        // The snapshot does not come before it is told to.
        block_in_place(|| hold("600"));
        let running = Running::start(&source.url(), &target.url(), set);
        block_in_place(|| {
            until_looked(&mut client);
            client.call(&["SET", later, "theirs"]).unwrap();
            hold("0");
        });
        let error = running.end_keeping_journal().await.result.unwrap_err();
        assert!(matches!(&error, Error::KeyAppeared { key, .. } if key == later), "{later}: {error}");
        assert_eq!(client.text(&["GET", later]).unwrap(), "theirs");
        client.call(&["DEL", later]).unwrap();
        // The second round begins anew.
        if later == "key:77" {
            client.call(&["FLUSHALL"]).unwrap();
            std::fs::remove_dir_all(journal.path()).unwrap();
        }
    }
    // What the run before had brought is not taken for somebody else's.
    let finished = run(&source.url(), &target.url(), set).await;
    assert!(finished.result.is_ok(), "{:?}", finished.result);
    assert_eq!(client.int(&["DBSIZE"]).unwrap(), 2001);
    assert_eq!(client.int(&["LLEN", "large"]).unwrap(), 2);
}

/// A connection is lost again and again: what is sent once more is there by the migration itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_is_not_taken_for_somebody_elses() {
    let source = filled();
    let target = Server::any().unwrap();
    block_in_place(|| {
        let mut client = source.client().unwrap();
        for n in 0..20_000 {
            client
                .queue(&["SET", &format!("key:{n}"), "value of some length, so that it takes a while"])
                .unwrap();
        }
        client.flush().unwrap();
        client.replies(20_000).unwrap();
    });
    let proxy = Proxy::start(target.addr()).unwrap();
    proxy.delay(Duration::from_millis(10));
    let url = format!("redis://{}", proxy.addr());
    let mut running = Running::start(&source.url(), &url, |o| options(o, OnExists::Fail));
    for part in 1..5 {
        running.until("keys", |progress| progress.figures().keys_applied > part * 3000).await;
        // In the midst of an answer.
        proxy.cut_after(Direction::FromTarget, 700);
    }
    proxy.delay(Duration::ZERO);
    running.until_phase(Phase::Following).await;
    running.stopper.stop();
    let finished = running.end().await;
    assert!(finished.result.is_ok(), "{:?}", finished.result);
    assert!(finished.report.routing.sent_again > 0, "{:?}", finished.report.routing);
    let mut client = target.client().unwrap();
    assert_eq!(client.int(&["EXISTS", "key:0", "key:19999", "large", "hash"]).unwrap(), 4);
}

/// Commands about keys that are left to the target are left out, and those that are not are carried out; also after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_about_skipped_keys_are_left_out() {
    let (source, target) = (filled(), End::server(any().unwrap()));
    given(|command| call(&target, command));
    let journal = tempfile::tempdir().unwrap();
    let set = |o: &mut Options| {
        options(o, OnExists::Skip);
        o.id = Some(ID.to_owned());
        o.journal = Some(journal.path().to_owned());
    };
    let mut client = source.client().unwrap();
    let write = |client: &mut Client, round: &str| {
        for command in [
            &["SET", "user:1", round][..],
            &["RPUSH", "list", round],
            &["MSET", "user:1", round, "user:2", round],
            &["SET", "only-target", round],
            &["SADD", "fresh", round],
            &["DEL", "set", "only-source"],
        ] {
            client.call(command).unwrap();
        }
    };
    let mut running = Running::start(&source.url(), &target.url(), set);
    running.until_phase(Phase::Following).await;
    write(&mut client, "first");
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    let finished = running.end_keeping_journal().await;
    assert!(finished.result.is_ok(), "{:?}", finished.result);
    let left_out: u64 = finished
        .report
        .filter
        .iter()
        .filter(|line| line.what != "keys of the snapshot left out")
        .map(|line| line.count)
        .sum();
    assert!(left_out >= 4, "{:?}", finished.report.filter);

    write(&mut client, "second");
    let finished = run(&source.url(), &target.url(), |o| {
        set(o);
        o.until = Until::CaughtUp { quiet: Duration::from_millis(200), linger: PATIENCE };
    })
    .await;
    assert!(finished.result.is_ok(), "{:?}", finished.result);
    assert!(finished.report.resumed);
    assert_eq!(finished.report.existing.before, Some(10));
    assert_eq!(sorted(&target, &["GET", "user:1"]), ["target"]);
    assert_eq!(sorted(&target, &["GET", "user:2"]), ["second"]);
    assert_eq!(sorted(&target, &["GET", "only-target"]), ["1"]);
    assert_eq!(sorted(&target, &["LRANGE", "list", "0", "-1"]), ["target"]);
    assert_eq!(sorted(&target, &["SMEMBERS", "set"]), ["both", "target"]);
    assert_eq!(sorted(&target, &["SMEMBERS", "fresh"]), ["first", "second"]);
    assert_eq!(call(&target, &["EXISTS", "only-source"]).as_i64(), Some(0));
}

/// Without the directory nobody knows any more; and `fail` ends at commands, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_knows_any_more_is_not_guessed() {
    let (source, target) = (filled(), End::server(any().unwrap()));
    call(&target, &["SET", "only-target", "1"]);
    let mut client = source.client().unwrap();
    let set = |o: &mut Options, policy: OnExists, journal: &Path| {
        options(o, policy);
        o.id = Some(ID.to_owned());
        o.journal = Some(journal.to_owned());
    };
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut running = Running::start(&source.url(), &target.url(), |o| set(o, OnExists::Fail, one.path()));
    running.until_phase(Phase::Following).await;
    client.call(&["SET", "only-target", "source"]).unwrap();
    let error = running.end_keeping_journal().await.result.unwrap_err();
    assert!(error.to_string().contains("\"only-target\" is at the target already"), "{error}");
    assert_eq!(sorted(&target, &["GET", "only-target"]), ["1"]);

    let again = run(&source.url(), &target.url(), |o| set(o, OnExists::Fail, other.path())).await;
    assert!(matches!(again.result, Err(Error::ExistingUnknown { .. })), "{:?}", again.result);
    let changed = run(&source.url(), &target.url(), |o| set(o, OnExists::Skip, one.path())).await;
    assert!(
        matches!(changed.result, Err(Error::OtherChanges { .. } | Error::JournalOfAnother { .. })),
        "{:?}",
        changed.result
    );
}

/// The later of two is the one that was used last, as both servers tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newer_of_two_keys_stays() {
    let (source, target) = (start(any().unwrap()), End::server(any().unwrap()));
    let mut client = source.client().unwrap();
    client.call(&["SET", "value", "source"]).unwrap();
    let payload = client.call(&["DUMP", "value"]).unwrap();
    let payload = payload.as_bytes().unwrap().to_vec();
    client.call(&["DEL", "value"]).unwrap();
    let mut there = target.primary().client().unwrap();
    let restore = |client: &mut Client, key: &str, idle: &str| {
        client
            .call(&[&b"RESTORE"[..], key.as_bytes(), b"0", &payload, b"IDLETIME", idle.as_bytes()])
            .unwrap();
    };
    for (key, at_source, at_target) in [("newer", "10", "5000"), ("older", "5000", "10"), ("new", "10", "")] {
        restore(&mut client, key, at_source);
        if !at_target.is_empty() {
            there.call(&["SET", key, "target"]).unwrap();
            there.call(&["DEL", key]).unwrap();
            restore(&mut there, key, at_target);
            there.call(&["SADD", "kept", key]).unwrap();
        }
    }
    // Values tell sides apart without being used.
    let finished = run(&source.url(), &target.url(), |o| options(o, OnExists::NewerWins)).await;
    assert!(finished.result.is_ok(), "{:?}", finished.result);
    let existing = &finished.report.existing;
    assert_eq!(
        (&existing.skipped.samples[..], existing.skipped.count),
        (&["older".to_owned()][..], 1),
        "{existing:?}"
    );
    assert_eq!((&existing.replaced.samples[..], existing.replaced.count), (&["newer".to_owned()][..], 1));
    // A restored key has not been used yet; one that stayed has its time.
    assert!(there.int(&["OBJECT", "IDLETIME", "older"]).unwrap() >= 10);

    there.call(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lfu"]).unwrap();
    let finished = run(&source.url(), &target.url(), |o| {
        options(o, OnExists::NewerWins);
        o.id = Some("another".to_owned());
    })
    .await;
    assert!(
        matches!(finished.result, Err(Error::IdleTimeUnknown { side: "target", .. })),
        "{:?}",
        finished.result
    );
}
