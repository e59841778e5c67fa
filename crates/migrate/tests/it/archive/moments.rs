//! At random moments of a recorded history, what is restored is what the source itself said that it had.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keyferry_migrate::archive::When;
use keyferry_testkit::{
    Rng, Server, ServerBinary, chosen,
    data::{self, Writer, WriterOptions},
    digest,
};
use tokio::task::block_in_place;

use super::{Keeping, at_offset, empty, into, restore};
use crate::support::{PATIENCE, offset_of, start};

/// What the source had at a moment, as it was asked then.
struct Moment {
    offset: u64,
    digest: String,
    /// By the machine's clock, where nothing came for a while before and behind.
    at: Option<i64>,
    /// The digests of some keys of database 0.
    keys: Vec<(String, String)>,
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// The digest of each key's value.
fn digests(server: &Server, keys: &[String]) -> Vec<String> {
    let mut client = server.client().unwrap();
    keys.iter()
        .map(|key| {
            let reply = client.list(&["DEBUG", "DIGEST-VALUE", key]).unwrap();
            reply[0].as_str().unwrap().to_owned()
        })
        .collect()
}

/// Writes at random, and stops at so many moments to ask the source what it has.
async fn record(
    source: &Server,
    keeping: &mut Keeping,
    (moments, timed): (usize, usize),
    rng: &mut Rng,
) -> Vec<Moment> {
    let options = WriterOptions {
        rate: 5000,
        keys: 12,
        seed: rng.next_u64(),
        short_expiries: false,
        ..WriterOptions::default()
    };
    let writer = block_in_place(|| Writer::start(source, options)).unwrap();
    let mut recorded = Vec::new();
    for number in 0..moments {
        let more = 1 + rng.below(150);
        block_in_place(|| {
            assert!(writer.wait_for(more, PATIENCE), "the writer stands still");
            assert!(writer.pause(PATIENCE));
        });
        let mut client = source.client().unwrap();
        let mut moment = Moment {
            offset: offset_of(&mut client),
            digest: digest(&mut client).unwrap(),
            at: None,
            keys: Vec::new(),
        };
        if number % (moments / timed).max(1) == 0 {
            keeping.level(source).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
            moment.at = Some(now());
            let names = client.list(&["KEYS", "*"]).unwrap();
            let mut names: Vec<String> =
                names.iter().filter_map(|name| name.as_str()).map(str::to_owned).collect();
            names.sort();
            let names: Vec<String> = (0..5).map(|_| names[rng.index(names.len())].clone()).collect();
            moment.keys = names.iter().cloned().zip(digests(source, &names)).collect();
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        recorded.push(moment);
        writer.resume();
    }
    block_in_place(|| writer.stop()).unwrap();
    keeping.level(source).await;
    recorded
}

/// Records a history, with a new snapshot now and then, and restores all of its moments.
async fn restored(binary: &'static ServerBinary, (moments, timed): (usize, usize), seed: u64) {
    let mut rng = Rng::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let (source, target, scratch) = block_in_place(|| (start(binary), start(binary), start(binary)));
    data::small(&mut source.client().unwrap(), seed, 3).unwrap();
    let mut keeping = Keeping::start(&source, dir.path(), |o| {
        o.segment_bytes = 128 << 10;
        o.base_every = Duration::from_millis(700);
    });
    keeping.until("the first snapshot", |p| p.figures().iter().any(|of| of.bases > 0)).await;
    let recorded = record(&source, &mut keeping, (moments, timed), &mut rng).await;
    keeping.until("another snapshot", |p| p.figures()[0].bases > 1).await;
    // While it is being kept, too.
    for (number, moment) in recorded.iter().enumerate() {
        let what = format!("{}, seed {seed}, moment {number} at offset {}", binary.name, moment.offset);
        let report =
            restore(dir.path(), at_offset(moment.offset), into(&target), None, |_| {}).await.unwrap();
        assert_eq!((report.scratch, report.replaced, report.over), (false, 0, 0), "{what}");
        assert_eq!(digest(&mut target.client().unwrap()).unwrap(), moment.digest, "{what}: {report:?}");
        empty(&target);
        let Some(at) = moment.at else { continue };
        let report = restore(dir.path(), When::Time(at), into(&target), None, |_| {}).await.unwrap();
        assert_eq!(
            digest(&mut target.client().unwrap()).unwrap(),
            moment.digest,
            "{what}, by time: {report:?}"
        );
        // Some keys beside what is there now.
        let names: Vec<String> = moment.keys.iter().map(|(name, _)| name.clone()).collect();
        let report = restore(dir.path(), When::Time(at), into(&target), Some(&scratch), |o| {
            o.keys = names.iter().map(|name| format!("glob:{}", escaped(name)).parse().unwrap()).collect();
            o.databases = vec![0];
            o.rename = Some("was:".to_owned());
        })
        .await
        .unwrap();
        assert!(report.scratch && report.keys > 0, "{what}: {report:?}");
        let there: Vec<String> = names.iter().map(|name| format!("was:{name}")).collect();
        let expected: Vec<String> = moment.keys.iter().map(|(_, digest)| digest.clone()).collect();
        assert_eq!(digests(&target, &there), expected, "{what}: {names:?}");
        let mut client = scratch.client().unwrap();
        assert_eq!(client.int(&["DBSIZE"]).unwrap(), 0, "{what}");
        empty(&target);
    }
    let report = keeping.stop().await.report;
    assert!(report.links[0].segments > 1 && report.links[0].gaps == 0, "{report:?}");
}

/// A name that is no pattern.
fn escaped(name: &str) -> String {
    name.chars().flat_map(|c| if "*?[]\\".contains(c) { vec!['\\', c] } else { vec![c] }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_moments_are_restored_as_they_were() {
    let mut set = tokio::task::JoinSet::new();
    for binary in chosen(&["redis-7.0", "valkey-9"]).unwrap() {
        set.spawn(restored(binary, (8, 2), 21));
    }
    while let Some(done) = set.join_next().await {
        done.unwrap();
    }
}

/// The long form: `cargo nextest run -p keyferry-migrate --run-ignored only two_hundred`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn two_hundred_random_moments_are_restored_as_they_were() {
    for (binary, seed) in
        chosen(&["redis-6.2", "redis-7.0", "redis-8.0", "valkey-9"]).unwrap().into_iter().zip(1..)
    {
        restored(binary, (50, 10), seed).await;
    }
}
