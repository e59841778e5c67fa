//! What is restored, where to, and what becomes of deadlines.

use std::{collections::BTreeMap, time::Duration};

use keyferry_migrate::{
    Error, OnExists,
    archive::{ArchiveError, Stored, When},
    restore::{RestoreExpiry, RestoreTo},
};
use keyferry_testkit::{Client, Server, ServerBinary, chosen, compare, data::Features};
use tokio::task::block_in_place;

use super::{Keeping, at_offset, empty, into, point, restore};
use crate::support::{any, offset_of, start};

/// Runs the server on what was exported.
fn loaded(dir: &std::path::Path) -> Server {
    let binary = keyferry_testkit::any().unwrap();
    Server::builder(binary).dir(dir).append_only("everysec").start().unwrap()
}

/// Some keys beside the present ones, and files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_come_back_beside_the_present_ones_and_as_files() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    let (source, scratch, other) = block_in_place(|| (any(), any(), any()));
    let mut client = source.client().unwrap();
    let mut call = |words: &str| {
        client.call(&words.split(' ').collect::<Vec<_>>()).unwrap();
    };
    ["RPUSH user:1 a b", "SET user:2 x", "SET other 1"].into_iter().for_each(&mut call);
    let mut keeping = Keeping::start(&source, &archive, |_| {});
    keeping.until("a snapshot", |p| p.figures().iter().any(|of| of.bases > 0)).await;
    ["RPUSH user:1 c", "INCR other", "XADD user:3 1-1 f v", "SELECT 1", "SET user:1 one", "SELECT 0"]
        .into_iter()
        .for_each(&mut call);
    keeping.level(&source).await;
    let good = offset_of(&mut source.client().unwrap());
    ["DEL user:1 user:3", "SET user:2 wrong", "MULTI", "RPUSH user:1 lost", "INCR other", "EXEC"]
        .into_iter()
        .for_each(&mut call);
    keeping.level(&source).await;

    let when = at_offset(good);
    let error = restore(&archive, when, into(&source), None, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Archive(ArchiveError::NeedsScratch)), "{error}");
    // Nothing is written when something is there, or nothing is chosen.
    let users = |o: &mut keyferry_migrate::restore::RestoreOptions| {
        o.keys = vec!["user:*".parse().unwrap()];
        o.databases = vec![0];
    };
    let error = restore(&archive, when, into(&source), Some(&scratch), users).await.unwrap_err();
    let Error::Archive(ArchiveError::KeysExist { count: 2, samples, .. }) = &error else { panic!("{error}") };
    assert_eq!(samples.len(), 2);
    let none = |o: &mut keyferry_migrate::restore::RestoreOptions| o.keys = vec!["nobody".parse().unwrap()];
    let error = restore(&archive, when, into(&source), Some(&scratch), none).await.unwrap_err();
    assert!(matches!(error, Error::Archive(ArchiveError::NothingChosen { .. })), "{error}");
    // A scratch server that holds something is not touched.
    let error = restore(&archive, when, into(&source), Some(&source), users).await.unwrap_err();
    assert!(matches!(error, Error::Archive(ArchiveError::Scratch { .. })), "{error}");

    let report = restore(&archive, when, into(&source), Some(&scratch), |o| {
        users(o);
        o.rename = Some("was:".to_owned());
    })
    .await
    .unwrap();
    assert_eq!((report.keys, report.replaced), (3, 0), "{report:?}");
    let mut client = source.client().unwrap();
    let list = |client: &mut Client, key: &str| {
        let items = client.list(&["LRANGE", key, "0", "-1"]).unwrap();
        items.iter().map(|item| item.as_str().unwrap().to_owned()).collect::<Vec<_>>().join(",")
    };
    assert_eq!(list(&mut client, "was:user:1"), "a,b,c");
    assert_eq!(list(&mut client, "user:1"), "lost");
    assert_eq!(client.text(&["GET", "was:user:2"]).unwrap(), "x");
    assert_eq!(client.int(&["XLEN", "was:user:3"]).unwrap(), 1);

    let report = restore(&archive, when, into(&source), Some(&scratch), |o| {
        users(o);
        o.on_exists = OnExists::Replace;
    })
    .await
    .unwrap();
    assert_eq!((report.keys, report.replaced), (3, 2), "{report:?}");
    assert_eq!(list(&mut client, "user:1"), "a,b,c");
    assert_eq!(client.text(&["GET", "other"]).unwrap(), "3");

    client.call(&["SET", "user:2", "mine"]).unwrap();
    client.call(&["DEL", "user:3"]).unwrap();
    let report = restore(&archive, when, into(&source), Some(&scratch), |o| {
        users(o);
        o.on_exists = OnExists::Skip;
    })
    .await
    .unwrap();
    assert_eq!((report.keys, report.skipped, report.replaced), (1, 2, 0), "{report:?}");
    assert_eq!(client.text(&["GET", "user:2"]).unwrap(), "mine");

    // Files: all of it, and some of it under other names. What is there stays.
    let (all, some) = (dir.path().join("all.rdb"), dir.path().join("some.rdb"));
    restore(&archive, when, RestoreTo::File(all.clone()), Some(&scratch), |_| {}).await.unwrap();
    assert!(restore(&archive, when, RestoreTo::File(all.clone()), Some(&scratch), |_| {}).await.is_err());
    let report = restore(&archive, when, RestoreTo::File(some.clone()), Some(&scratch), |o| {
        o.databases = vec![1];
        o.rename = Some("was:".to_owned());
    })
    .await
    .unwrap();
    assert_eq!(report.keys, 1);
    assert_eq!(scratch.client().unwrap().int(&["DBSIZE"]).unwrap(), 0);
    restore(&archive, when, into(&other), None, |_| {}).await.unwrap();
    for (file, keys) in [(&all, 5), (&some, 1)] {
        let target =
            keyferry_migrate::Migration::from_files(vec![file.clone()], scratch.url().parse().unwrap());
        target.run().await.result.unwrap();
        let (mut a, mut b) = (other.client().unwrap(), scratch.client().unwrap());
        let compared = compare(&mut a, &mut b).unwrap();
        assert_eq!(compared.keys_b, keys, "{compared}");
        assert_eq!(compared.is_equal(), keys == 5, "{compared}");
        if keys == 1 {
            b.call(&["SELECT", "1"]).unwrap();
            assert_eq!(b.text(&["GET", "was:user:1"]).unwrap(), "one");
        }
        empty(&scratch);
    }

    // A plain server loads a directory.
    let plain = dir.path().join("plain");
    let (restorable, _) = point(&archive, when).await.unwrap();
    restorable.export_to(&plain).unwrap();
    assert!(matches!(restorable.export_to(&plain), Err(Error::Archive(ArchiveError::Exists { .. }))));
    if keyferry_testkit::any().unwrap().version.at_least(7, 0) {
        let server = block_in_place(|| loaded(&plain));
        let compared = compare(&mut other.client().unwrap(), &mut server.client().unwrap()).unwrap();
        assert!(compared.is_equal() && compared.keys_a == 5, "{compared}");
    }

    // How a key came to be what it is.
    let mut writes = Vec::new();
    let end = Stored::open(&archive).unwrap().history(0, b"user:1", |write| writes.push(write)).unwrap();
    let shown: Vec<(&str, bool)> =
        writes.iter().map(|write| (write.what.split(": ").last().unwrap(), write.in_transaction)).collect();
    assert!(shown[0].0.starts_with("list of "), "{shown:?}");
    let expected = [("RPUSH user:1 c", false), ("DEL user:1 user:3", false), ("RPUSH user:1 lost", true)];
    assert_eq!(&shown[1..4], expected);
    assert!(end.damages.is_empty() && end.unknown == 0 && end.writes > 3, "{end:?}");
    assert!(writes[2].before == Some(good) || writes[2].before.unwrap() > good, "{writes:?}");
    // In the midst of a transaction is before it.
    let inside = at_offset(writes[3].before.unwrap());
    assert!(point(&archive, inside).await.unwrap().0.offset() < writes[3].before.unwrap());
    keeping.stop().await;
}

/// Keys and fields that were there at the moment, and whose time is over now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_are_kept_shifted_or_dropped() {
    let mut set = tokio::task::JoinSet::new();
    for binary in chosen(&["redis-7.0", "redis-8.0", "valkey-9"]).unwrap() {
        set.spawn(deadlines(binary));
    }
    while let Some(done) = set.join_next().await {
        done.unwrap();
    }
}

async fn deadlines(binary: &'static ServerBinary) {
    let what = &binary.name;
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = block_in_place(|| (start(binary), start(binary)));
    let mut client = source.client().unwrap();
    let fields = Features::probe(&mut client).unwrap().has("hpexpire");
    let mut call = |words: &str| {
        client.call(&words.split(' ').collect::<Vec<_>>()).unwrap();
    };
    call("SET first 1 PX 2500");
    call("SET far 1 EX 1000");
    call("HSET hash a 1 b 2 c 3");
    if fields {
        call("HPEXPIRE hash 2500 FIELDS 1 a");
        call("HPEXPIRE hash 1000000 FIELDS 1 b");
    }
    let mut keeping = Keeping::start(&source, dir.path(), |_| {});
    keeping.until("a snapshot", |p| p.figures().iter().any(|of| of.bases > 0)).await;
    call("SETEX second 2 1");
    call("INCR second");
    call("SET never 1");
    keeping.level(&source).await;
    let moment = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let offset = offset_of(&mut source.client().unwrap());
    tokio::time::sleep(Duration::from_millis(2800)).await;
    keeping.stop().await;

    let ttls = |server: &Server| -> BTreeMap<&str, i64> {
        let mut client = server.client().unwrap();
        let mut ttls: BTreeMap<&str, i64> =
            ["first", "second", "far", "never"].map(|key| (key, client.int(&["PTTL", key]).unwrap())).into();
        if fields {
            let reply = client.list(&["HPTTL", "hash", "FIELDS", "3", "a", "b", "c"]).unwrap();
            ttls.extend(["a", "b", "c"].into_iter().zip(reply.iter().map(|at| at.as_i64().unwrap())));
        }
        ttls
    };
    let restored = async |expiry| {
        let report = restore(dir.path(), at_offset(offset), into(&target), None, |o| o.expiry = expiry).await;
        report.unwrap()
    };
    let report = restored(RestoreExpiry::Keep).await;
    assert_eq!((report.with_deadline, report.over), (3, 2), "{what}: {report:?}");
    assert_eq!(report.over_fields, u64::from(fields), "{what}");
    let now = ttls(&target);
    assert_eq!((now["first"], now["second"], now["never"]), (-2, -2, -1), "{what}: {now:?}");
    assert!((900_000..998_000).contains(&now["far"]), "{what}: {now:?}");
    empty(&target);

    let report = restored(RestoreExpiry::Freeze).await;
    assert_eq!(report.over, 0, "{what}");
    assert!(ttls(&target).values().all(|&ttl| ttl == -1), "{what}: {:?}", ttls(&target));
    assert_eq!(target.client().unwrap().text(&["GET", "second"]).unwrap(), "2", "{what}");
    empty(&target);

    // Slow machines may take longer than the keys have left.
    let (point, _) = point(dir.path(), at_offset(offset)).await.unwrap();
    assert!(i64::try_from(point.moment()).unwrap() <= moment + 100, "{what}");
    let report = restored(RestoreExpiry::Shift).await;
    assert_eq!((report.over, report.over_fields), (0, 0), "{what}: {report:?}");
    let now = ttls(&target);
    assert!(now["first"] <= 2500 && now["second"] <= 2000, "{what}: {now:?}");
    assert!(now["far"] > 900_000 && now["far"] <= 1_000_000, "{what}: {now:?}");
    if fields {
        assert!(now["b"] <= 1_000_000 && now["c"] == -1, "{what}: {now:?}");
    }
    assert!(matches!(
        Stored::open(dir.path()).unwrap().point(When::Time(moment + 3_600_000)),
        Err(Error::Archive(ArchiveError::NotCovered { .. }))
    ));
}
