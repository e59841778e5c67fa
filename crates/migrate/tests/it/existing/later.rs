//! What comes later: a second file of one import, a second snapshot of one source.

use std::time::Duration;

use keyferry_migrate::{Finished, Migration, OnExists, Options, Phase, Until};
use keyferry_testkit::{Server, any};
use tokio::task::block_in_place;

use super::{ID, call, given, options, sorted};
use crate::{
    clusters::ends::End,
    support::{PATIENCE, Running, offset_of, run, start},
};

/// Both files have keys that the target has, and keys of each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_file_is_treated_as_the_first_one() {
    let source = start(any().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let files = ["one.rdb", "two.rdb"].map(|name| dir.path().join(name));
    let mut client = source.client().unwrap();
    for (number, file) in files.iter().enumerate() {
        let value = format!("file{number}");
        for command in [
            &["SET", "user:1", &value][..],
            &["SET", "only-files", &value],
            &["SADD", "set", &value],
            &["SADD", "set-of-files", &value],
        ] {
            client.call(command).unwrap();
        }
        block_in_place(|| client.call(&["SAVE"]).unwrap());
        std::fs::copy(source.dir().join("dump.rdb"), file).unwrap();
        client.call(&["FLUSHALL"]).unwrap();
    }
    let (server, cluster) = (End::server(any().unwrap()), End::cluster(any().unwrap(), 0));
    for target in [&server, &cluster] {
        for policy in [OnExists::Skip, OnExists::Merge, OnExists::Replace] {
            for key in ["user:1", "set", "only-files", "set-of-files"] {
                call(target, &["DEL", key]);
            }
            call(target, &["SET", "user:1", "target"]);
            call(target, &["SADD", "set", "target"]);
            let mut migration = Migration::from_files(files.to_vec(), target.url().parse().unwrap());
            options(migration.options_mut(), policy);
            let finished = tokio::time::timeout(PATIENCE, migration.run()).await.expect("an end in time");
            assert!(finished.result.is_ok(), "{policy:?}: {:?}", finished.result);
            let stays = policy == OnExists::Skip;
            assert_eq!(
                sorted(target, &["GET", "user:1"]),
                [if stays { "target" } else { "file1" }],
                "{policy:?}"
            );
            let set: &[&str] = match policy {
                OnExists::Skip => &["target"],
                OnExists::Merge => &["file0", "file1", "target"],
                _ => &["file1"],
            };
            assert_eq!(sorted(target, &["SMEMBERS", "set"]), set, "{policy:?}");
            // Of what only the files have, the later one counts.
            assert_eq!(sorted(target, &["GET", "only-files"]), ["file1"], "{policy:?}");
            assert_eq!(sorted(target, &["SMEMBERS", "set-of-files"]), ["file1"], "{policy:?}");
        }
    }
}

/// The source forgets where the migration was, and sends everything once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_snapshot_leaves_to_the_target_what_the_first_one_left() {
    for policy in [OnExists::Skip, OnExists::Merge] {
        let source = Server::builder(any().unwrap())
            .diskless_sync(true, 0)
            .config("repl-backlog-size", "16kb")
            .start()
            .unwrap();
        let target = End::server(any().unwrap());
        given(|command| call(&target, command));
        let mut client = source.client().unwrap();
        for command in [
            &["SET", "user:1", "source"][..],
            &["SADD", "set", "source", "both"],
            &["SADD", "fresh", "1"],
            &["SET", "gone", "1"],
        ] {
            client.call(command).unwrap();
        }
        let journal = tempfile::tempdir().unwrap();
        let set = |o: &mut Options| {
            options(o, policy);
            o.id = Some(ID.to_owned());
            o.journal = Some(journal.path().to_owned());
        };
        let mut running = Running::start(&source.url(), &target.url(), set);
        running.until_phase(Phase::Following).await;
        running.until_applied(offset_of(&mut client)).await;
        running.stopper.stop();
        let first = running.end_keeping_journal().await;
        assert!(first.result.is_ok(), "{:?}", first.result);

        // Far more than it remembers.
        client.call(&["SADD", "set", "later"]).unwrap();
        client.call(&["DEL", "gone"]).unwrap();
        for _ in 0..20 {
            client.call(&["SET", "filler", &"x".repeat(4000)]).unwrap();
        }
        let second: Finished = run(&source.url(), &target.url(), |o| {
            set(o);
            o.until = Until::CaughtUp { quiet: Duration::from_millis(200), linger: PATIENCE };
        })
        .await;
        assert!(second.result.is_ok(), "{policy:?}: {:?}", second.result);
        assert_eq!(second.report.mirror.resyncs, 1, "{:?}", second.report.mirror);
        let (user, members): (&str, &[&str]) = match policy {
            OnExists::Skip => ("target", &["both", "target"]),
            _ => ("source", &["both", "later", "source", "target"]),
        };
        assert_eq!(sorted(&target, &["GET", "user:1"]), [user], "{policy:?}");
        assert_eq!(sorted(&target, &["SMEMBERS", "set"]), members, "{policy:?}");
        assert_eq!(sorted(&target, &["GET", "only-target"]), ["1"], "{policy:?}");
        assert_eq!(sorted(&target, &["SMEMBERS", "fresh"]), ["1"], "{policy:?}");
        assert_eq!(
            call(&target, &["EXISTS", "gone"]).as_i64(),
            Some(0),
            "{policy:?}: it was the migration's"
        );
    }
}
