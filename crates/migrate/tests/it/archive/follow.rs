//! Keeping an archive: going on where one stopped, gaps, what is kept and what not.

use std::{path::Path, time::Duration};

use keyferry_migrate::{
    Error,
    archive::{Archive, ArchiveError, Listing, Stored, When},
};
use keyferry_testkit::{
    Rng, Server,
    data::{self, Writer, WriterOptions},
    digest,
};
use tokio::task::block_in_place;

use super::{Keeping, at_offset, into, point, restore};
use crate::support::{PATIENCE, any, offset_of, remembering};

fn stat(source: &Server, name: &str) -> u64 {
    source.client().unwrap().info("stats", name).unwrap().unwrap().parse().unwrap()
}

fn verified(dir: &Path) -> Listing {
    let listing = Stored::open(dir).unwrap().verify();
    assert!(listing.damages.is_empty(), "{:?}", listing.damages);
    listing
}

/// Let go of at random moments, with the end of its file torn off: it goes on by partial resync, and holds everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_is_cut_off_goes_on_without_a_gap() {
    let mut rng = Rng::new(9);
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = block_in_place(|| (remembering(keyferry_testkit::any().unwrap()), any()));
    data::small(&mut source.client().unwrap(), 9, 2).unwrap();
    let options = WriterOptions { rate: 4000, short_expiries: false, ..WriterOptions::default() };
    let writer = block_in_place(|| Writer::start(&source, options)).unwrap();
    for round in 0..6 {
        let mut keeping = Keeping::start(&source, dir.path(), |o| o.segment_bytes = 64 << 10);
        keeping.until("a snapshot", |p| p.figures().iter().any(|of| of.bases > 0)).await;
        let from = keeping.progress.figures()[0].offset;
        let more = rng.below(100_000);
        keeping.until("some of the stream", |p| p.figures()[0].offset > from + more).await;
        keeping.abort(dir.path()).await;
        if round % 2 == 0 {
            tear(dir.path(), rng.below(300));
        }
    }
    block_in_place(|| writer.stop()).unwrap();
    let mut keeping = Keeping::start(&source, dir.path(), |_| {});
    keeping.level(&source).await;
    let archived = keeping.stop().await;
    assert_eq!(stat(&source, "sync_full"), 1, "{:?}", archived.report);
    assert_eq!(stat(&source, "sync_partial_ok"), 6);
    let listing = verified(dir.path());
    assert!(listing.gaps.is_empty() && listing.coverage.0.len() == 1, "{listing:?}");
    let report = restore(dir.path(), When::Latest, into(&target), None, |_| {}).await.unwrap();
    assert!(report.commands > 100, "{report:?}");
    let of = |server: &Server| digest(&mut server.client().unwrap()).unwrap();
    assert_eq!(of(&source), of(&target));
}

/// Cuts bytes off the segment that was being written, if one was, as a loss of power may.
fn tear(dir: &Path, bytes: u64) {
    let catalog = std::fs::read(dir.join("keyferry-archive.json")).unwrap();
    let catalog: serde_json::Value = serde_json::from_slice(&catalog).unwrap();
    let last = catalog["runs"][0]["segments"].as_array().and_then(|segments| segments.last());
    let Some(open) = last.filter(|segment| segment["closed"].is_null()) else { return };
    let path = dir.join(open["file"].as_str().unwrap());
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len.saturating_sub(bytes)).unwrap();
}

/// A source that cannot go on: the gap is told and listed, what is before and behind it can be restored, what is in it cannot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_never_hidden() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = block_in_place(|| (any(), any()));
    let mut client = source.client().unwrap();
    client.call(&["SET", "a", "1"]).unwrap();
    let mut keeping = Keeping::start(&source, dir.path(), |_| {});
    keeping.until("a snapshot", |p| p.figures().iter().any(|of| of.bases > 0)).await;
    client.call(&["SET", "a", "2"]).unwrap();
    keeping.level(&source).await;
    let before = offset_of(&mut client);
    keeping.stop().await;

    client.call(&["DEBUG", "CHANGE-REPL-ID"]).unwrap();
    client.call(&["SET", "a", "3"]).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut keeping = Keeping::start(&source, dir.path(), |_| {});
    keeping.until("another history", |p| p.figures().iter().any(|of| of.gaps == 1 && of.bases == 2)).await;
    assert!(keeping.progress.take_notes().iter().any(|note| note.contains("gap")));
    client.call(&["SET", "a", "4"]).unwrap();
    keeping.level(&source).await;
    let behind = offset_of(&mut client);
    keeping.stop().await;

    let listing = verified(dir.path());
    assert_eq!((listing.gaps.len(), listing.coverage.0.len()), (1, 2), "{listing:?}");
    let gap = &listing.gaps[0];
    assert!(gap.from <= gap.to && gap.why.contains("no longer had"), "{gap:?}");
    let missing = When::Time(i64::try_from(gap.to).unwrap() - 1);
    let error = point(dir.path(), missing).await.unwrap_err();
    let Error::Archive(ArchiveError::NotCovered { why, .. }) = &error else { panic!("{error}") };
    assert!(why.contains("gap"), "{error}");
    for (offset, value) in [(before, "2"), (behind, "4")] {
        let report = restore(dir.path(), at_offset(offset), into(&target), None, |_| {}).await.unwrap();
        let mut client = target.client().unwrap();
        assert_eq!(client.text(&["GET", "a"]).unwrap(), value, "{report:?}");
        client.call(&["FLUSHALL"]).unwrap();
    }
    for when in [at_offset(behind + 1), When::Time(1000), When::Time(i64::MAX)] {
        let error = point(dir.path(), when).await.unwrap_err();
        assert!(matches!(error, Error::Archive(ArchiveError::NotCovered { .. })), "{when}: {error}");
        assert!(error.to_string().contains("what can be restored: 20"), "{error}");
    }
}

/// What is older than it has to be goes, what is needed stays, and files do not grow beyond their bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn age_and_size_are_bounded() {
    const MOST: u64 = 600 << 10;
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = block_in_place(|| (any(), any()));
    let mut client = source.client().unwrap();
    // Random bytes, which no compressor makes smaller.
    let mut rng = Rng::new(3);
    let mut keeping = Keeping::start(&source, dir.path(), |o| {
        o.segment_bytes = 32 << 10;
        o.max_bytes = Some(MOST);
    });
    keeping.until("a snapshot", |p| p.figures().iter().any(|of| of.bases > 0)).await;
    for n in 0..300 {
        let mut value = Vec::new();
        rng.bytes(10_000, &mut value);
        client.call(&[b"SET", format!("key:{}", n % 7).as_bytes(), &value]).unwrap();
        if n % 20 == 0 {
            keeping.level(&source).await;
        }
    }
    keeping.level(&source).await;
    keeping.until("room", |p| p.figures()[0].bytes <= MOST).await;
    let names =
        || std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    keeping.until("files that are gone", |_| names().sum::<u64>() < MOST + (64 << 10)).await;
    keeping.stop().await;
    let listing = verified(dir.path());
    assert!(listing.bytes <= MOST && listing.gaps.is_empty(), "{listing:?}");
    restore(dir.path(), When::Latest, into(&target), None, |_| {}).await.unwrap();
    let of = |server: &Server| digest(&mut server.client().unwrap()).unwrap();
    assert_eq!(of(&source), of(&target));

    // Nothing but the last moment has to be kept: the newest snapshot is all that is left, and what came behind it.
    let mut keeping = Keeping::start(&source, dir.path(), |o| {
        o.base_every = Duration::from_millis(300);
        o.keep = Some(Duration::ZERO);
    });
    keeping.until("little", |p| p.figures().iter().any(|of| of.bases == 1 && of.segments <= 2)).await;
    client.call(&["SET", "last", "1"]).unwrap();
    keeping.level(&source).await;
    keeping.stop().await;
    verified(dir.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (source, other) = block_in_place(|| (any(), any()));
    let run = |source: &Server, dir: &Path| {
        let archive = Archive::new(source.url().parse().unwrap(), dir);
        async move { tokio::time::timeout(PATIENCE, archive.run()).await.unwrap().result.unwrap_err() }
    };
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("letter.txt"), "dear").unwrap();
    let error = run(&source, &foreign).await;
    assert!(matches!(error, Error::Archive(ArchiveError::NotAnArchive { .. })), "{error}");
    assert!(matches!(Stored::open(&foreign), Err(Error::Archive(ArchiveError::NoArchive { .. }))));

    let ours = dir.path().join("ours");
    let mut keeping = Keeping::start(&source, &ours, |_| {});
    keeping.until("a snapshot", |p| p.figures().iter().any(|of| of.bases > 0)).await;
    let error = run(&source, &ours).await;
    assert!(matches!(error, Error::JournalLocked { .. }), "{error}");
    keeping.stop().await;
    let error = run(&other, &ours).await;
    assert!(matches!(error, Error::Archive(ArchiveError::OtherSource { .. })), "{error}");
}
