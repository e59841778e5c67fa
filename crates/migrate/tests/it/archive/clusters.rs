//! Clusters: an archive for each shard, and what is restored into others.

use std::time::Duration;

use keyferry_migrate::{
    Error,
    archive::{Archive, ArchiveError, ArchiveFigures, Stored, When},
};
use keyferry_testkit::{Cluster, Sentinels, Server, any};
use tokio::task::block_in_place;

use super::{at_offset, into, restore};
use crate::support::{PATIENCE, offset_of, start};

/// All keys with their digests, of several servers.
fn digests<'s>(servers: impl Iterator<Item = &'s Server>) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for server in servers {
        let mut client = server.client().unwrap();
        let keys = client.call(&["KEYS", "*"]).unwrap();
        for key in keys.as_array().unwrap() {
            let key = key.as_str().unwrap().to_owned();
            if key.starts_with("keyferry:") {
                continue;
            }
            let digest = client.call(&["DEBUG", "DIGEST-VALUE", &key]).unwrap();
            all.push((key, format!("{digest:?}")));
        }
    }
    all.sort();
    all
}

/// How far a server is, when all of that is in the archive.
fn archived(figures: &[ArchiveFigures], server: &Server) -> Option<u64> {
    let mut client = server.client().unwrap();
    // The history of a server that had no replica yet begins with its first one.
    let history = client.info("replication", "master_replid").unwrap().unwrap();
    let offset = offset_of(&mut client);
    let is_there = |of: &&ArchiveFigures| {
        of.bases > 0 && of.offset >= offset && of.position.as_ref().is_some_and(|at| at.starts_with(&history))
    };
    figures.iter().find(is_there).map(|_| offset)
}

/// Each shard is restored by itself, by its offset or by a time, into one server or another cluster; all together are what the
/// cluster was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_are_archived_and_restored_by_themselves() {
    let binary = any().unwrap();
    let source = Cluster::builder(binary).primaries(3).start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let put = |number: usize| {
        block_in_place(|| {
            source.client().unwrap().call(&["RPUSH", &format!("list:{}", number % 50), &number.to_string()])
        })
        .unwrap();
    };
    (0..200).for_each(put);
    let archive = Archive::new(source.url().parse().unwrap(), dir.path());
    let (progress, stopper) = (archive.progress(), archive.stopper());
    let task = tokio::spawn(archive.run());
    let level = async || {
        let begun = std::time::Instant::now();
        loop {
            let offsets: Vec<Option<u64>> =
                (0..3).map(|at| archived(&progress.figures(), source.node(at))).collect();
            if let Some(offsets) = offsets.iter().copied().collect::<Option<Vec<u64>>>() {
                return offsets;
            }
            assert!(
                begun.elapsed() < PATIENCE && !task.is_finished(),
                "{offsets:?} {:?}",
                progress.figures()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    level().await;
    (200..400).for_each(put);
    let offsets = level().await;
    let before = digests((0..3).map(|at| source.node(at)));
    (400..600).for_each(put);
    level().await;
    let last = digests((0..3).map(|at| source.node(at)));
    stopper.stop();
    assert!(task.await.unwrap().result.is_ok());
    assert_ne!(before, last);

    // As a whole it is no archive: which there are is told.
    let error = Stored::open(dir.path().to_owned()).err().unwrap();
    let Error::Archive(ArchiveError::SeveralShards { shards, .. }) = &error else { panic!("{error}") };
    assert_eq!(shards.len(), 3, "{error}");
    let shard = |at: usize| dir.path().join(format!("shard-{}", source.slots(at).unwrap()[0].start()));

    // At the offsets of a moment, each into a server of its own.
    let servers: Vec<Server> = (0..3).map(|_| start(binary)).collect();
    for (at, server) in servers.iter().enumerate() {
        assert!(Stored::open(shard(at)).unwrap().verify().damages.is_empty());
        restore(&shard(at), at_offset(offsets[at]), into(server), None, |_| {}).await.unwrap();
    }
    assert_eq!(digests(servers.iter()), before);

    // The last moment into one cluster, of another number of shards; a scratch server carries the commands out, as the target is
    // not empty when the second one comes.
    let target = Cluster::builder(binary).primaries(5).start().unwrap();
    let scratch = start(binary);
    for at in 0..3 {
        let to = keyferry_migrate::restore::RestoreTo::Server(Box::new(target.url().parse().unwrap()));
        restore(&shard(at), When::Latest, to, Some(&scratch), |_| {}).await.unwrap();
    }
    assert_eq!(digests((0..5).map(|at| target.node(at))), last);
}

/// The primary changes: the archive goes on at the new one. The old one may have told it more than the new one knows (sentinels publish
/// through it); then a new history begins, and that is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sentinels_watch_is_archived_over_a_failover() {
    let source = block_in_place(|| Sentinels::builder(any().unwrap()).start()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let primary = || source.server(source.primary().unwrap());
    let put = |number: u32| {
        let mut client = primary().client().unwrap();
        client.call(&["RPUSH", &format!("list:{}", number % 5), &number.to_string()]).unwrap();
    };
    let archive = Archive::new(source.url().parse().unwrap(), dir.path());
    let (progress, stopper) = (archive.progress(), archive.stopper());
    let task = tokio::spawn(archive.run());
    let level = async || {
        let begun = std::time::Instant::now();
        while archived(&progress.figures(), primary()).is_none() {
            assert!(begun.elapsed() < PATIENCE && !task.is_finished(), "{:?}", progress.figures());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    block_in_place(|| (0..20).for_each(put));
    level().await;
    let middle = offset_of(&mut primary().client().unwrap());
    let before = digests([primary()].into_iter());
    block_in_place(|| (20..40).for_each(put));
    level().await;
    block_in_place(|| source.failover().and_then(|_| source.wait_until_settled())).unwrap();
    block_in_place(|| (40..60).for_each(put));
    level().await;
    stopper.stop();
    let archived = task.await.unwrap();
    assert!(archived.result.is_ok(), "{:?}", archived.result);
    let listing = Stored::open(dir.path().to_owned()).unwrap().verify();
    assert!(
        listing.damages.is_empty() && listing.gaps.is_empty() == (listing.coverage.0.len() == 1),
        "{listing:?}"
    );
    let server = start(any().unwrap());
    restore(dir.path(), When::Latest, into(&server), None, |_| {}).await.unwrap();
    assert_eq!(digests([&server].into_iter()), digests([primary()].into_iter()), "{listing:?}");
    assert_eq!(server.client().unwrap().int(&["LLEN", "list:0"]).unwrap(), 12);
    server.client().unwrap().call(&["FLUSHALL"]).unwrap();
    restore(dir.path(), at_offset(middle), into(&server), None, |_| {}).await.unwrap();
    assert_eq!(digests([&server].into_iter()), before, "{listing:?}");
}
