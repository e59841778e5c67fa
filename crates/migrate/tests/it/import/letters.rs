//! Dead letters: what a target refused is kept in a file, the target is repaired, and the file is replayed.

use keyferry_migrate::{Error, FileKind, OnError, Options, Phase};
use keyferry_testkit::{CompareOptions, Side, compare_sides, data};
use tokio::task::block_in_place;

use super::{import, imported};
use crate::{
    clusters::ends::End,
    support::{Running, any, bookkeeping, offset_of},
};

/// The target's user may not use two commands, and a key there is of another type: all of it goes to the file. When the target has been repaired, the file makes both sides equal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_is_replayed() {
    let binary = keyferry_testkit::any().unwrap();
    for cluster in [false, true] {
        let (source, target) = block_in_place(|| {
            let target = if cluster { End::cluster(binary, 0) } else { End::server(binary) };
            (any(), target)
        });
        let at_target = |args: &[&str]| match &target {
            End::Cluster(cluster) => cluster.client().unwrap().call(args).unwrap(),
            one => one.client().call(args).unwrap(),
        };
        let rules = ["on", ">pw", "~*", "&*", "+@all", "-setrange", "-restore"];
        let everywhere = |args: &[&str]| match &target {
            End::Cluster(cluster) => cluster.nodes().iter().for_each(|node| {
                node.client().unwrap().call(args).unwrap();
            }),
            one => drop(one.client().call(args).unwrap()),
        };
        block_in_place(|| everywhere(&[&["ACL", "SETUSER", "mover"][..], &rules].concat()));
        let restricted = target.url().replacen("://", "://mover:pw@", 1);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("letters");
        let mut client = source.client().unwrap();
        client.call(&["RPUSH", "{t}list", "in the snapshot"]).unwrap();
        client.call(&["PEXPIRE", "{t}list", "5000000"]).unwrap();
        let mut running = Running::start(&source.url(), &restricted, |o| {
            o.on_error = OnError::DeadLetter(file.clone());
            o.look_first = false;
        });
        running.until_phase(Phase::Following).await;
        block_in_place(|| at_target(&["SET", "{t}queue", "not a list"]));
        let commands: [&[&str]; 12] = [
            &["MULTI"],
            &["RPUSH", "{t}queue", "job", "1"],
            &["INCR", "{t}n"],
            &["RPUSH", "{t}queue", "job", "1"],
            &["EXEC"],
            &["INCR", "n"],
            &["SETRANGE", "{t}text", "3", "x"],
            &["SETRANGE", "text", "0", "x"],
            &["LPUSH", "{t}queue", "job 3"],
            &["SET", "{t}deadline", "1", "EX", "1000"],
            &["INCR", "{t}n"],
            &["SET", "n:done", "yes"],
        ];
        client.pipe(&commands).unwrap();
        running.until_applied(offset_of(&mut client)).await;
        running.stopper.stop();
        let finished = running.end().await;
        finished.result.unwrap();
        let counts = finished.report.routing.dead_letters.clone();
        assert_eq!(counts.get("WRONGTYPE"), Some(&3), "{counts:?}");
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        assert_eq!(counts.get("NOPERM"), Some(&3), "{counts:?}: {text}");
        assert!(text.contains("SETRANGE") && text.contains("RESTORE"), "{text}");

        // As long as the target is as it was, nothing of it succeeds, and nothing is lost.
        let stopped = import(&[&file], &restricted, |o| o.look_first = false).await.result.unwrap_err();
        assert!(matches!(stopped, Error::Refused(_)), "{stopped}");
        let into_itself = |o: &mut Options| {
            o.on_error = OnError::DeadLetter(file.clone());
            o.id = Some("itself".to_owned());
        };
        let error = import(&[&file], &target.url(), into_itself).await.result.unwrap_err();
        assert!(matches!(error, Error::SameFile { .. }), "{error}");

        // Repaired: what did not belong there is gone, and the user may do all that is needed.
        block_in_place(|| {
            at_target(&["DEL", "{t}queue"]);
            everywhere(&["ACL", "SETUSER", "mover", "+setrange", "+restore"]);
        });
        let finished = imported(&[&file], &restricted, |_| {}).await;
        let of = &finished.report.files[0];
        assert_eq!(of.kind, FileKind::DeadLetters);
        assert_eq!((of.letters, of.letters_repeated), (counts.values().sum(), 0), "{of:?}");
        block_in_place(|| {
            let options = CompareOptions::default().without_bookkeeping();
            let compared = compare_sides(Side::server(&source).unwrap(), target.side(), &options).unwrap();
            assert!(compared.is_equal() && compared.keys_a == 8, "cluster: {cluster}: {compared}");
        });
    }
}

/// What a run that was killed has written twice is executed once; lines that nobody knows are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_there_twice_is_executed_once() {
    let target = any();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("letters");
    let letter = |run: &str, offset: u64| {
        format!(
            "#RUN:{run}\r\n#ID:3ad1e7ef023c242514c0b05e48e4ee884551c793\r\n#OFFSET:{offset}\r\n#LINK:0\r\n#ERROR:NOPERM\r\n\
             *2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n"
        )
    };
    let text = [
        letter("a", 10),
        letter("a", 60),
        "#COLOUR:blue\r\n".to_owned(),
        letter("b", 60),
        letter("b", 90),
        "#COLOUR:red\r\n#shape\r\n".to_owned(),
    ];
    std::fs::write(&file, text.concat()).unwrap();
    let finished = imported(&[&file], &target.url(), |_| {}).await;
    let of = &finished.report.files[0];
    assert_eq!((of.letters, of.letters_repeated), (4, 1));
    let unknown: Vec<(&str, u64)> = of.unknown_annotations.iter().map(|(n, c)| (n.as_str(), *c)).collect();
    assert_eq!(unknown, [("COLOUR", 2), ("shape", 1)]);
    let mut client = target.client().unwrap();
    client.call(&["SELECT", "3"]).unwrap();
    assert_eq!(client.text(&["GET", "n"]).unwrap(), "3");
    assert_eq!(bookkeeping(&target), 0);
}

/// A target without memory is waited for, not written off; after that time the run ends, and goes on when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_target_is_gone_on_with() {
    let (source, target) = (any(), any());
    let mut client = target.client().unwrap();
    block_in_place(|| data::tiny_keys(&mut source.client().unwrap(), 3, 50_000).unwrap());
    let file = block_in_place(|| super::snapshot(&source));
    let used: u64 = client.info("memory", "used_memory").unwrap().unwrap().parse().unwrap();
    client.call(&["CONFIG", "SET", "maxmemory", &(used + (2 << 20)).to_string()]).unwrap();
    let soon = |o: &mut Options| o.retry_other = std::time::Duration::from_millis(100);
    let error = import(&[&file], &target.url(), soon).await.result.unwrap_err();
    assert!(error.to_string().contains("OOM"), "{error}");
    client.call(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    imported(&[&file], &target.url(), |_| {}).await;
    block_in_place(|| crate::support::assert_equal(&source, &target, "after it was full"));
}
