//! Files that are not as they were written: found, named, and the rest restored.

use std::{fs, os::unix::fs::FileExt, path::Path, time::Duration};

use keyferry_migrate::{
    Error,
    archive::{ArchiveError, Listing, Stored, When},
};
use keyferry_testkit::{Server, digest};
use tokio::task::block_in_place;

use super::{Keeping, at_offset, empty, into, point, restore};
use crate::support::{any, offset_of};

/// Two moments at which snapshots were taken, with three segments behind each, and what the source had at the end of each segment.
async fn recorded(source: &Server, dir: &Path) -> Vec<(u64, String)> {
    let mut client = source.client().unwrap();
    let mut recorded = Vec::new();
    for part in 0..6 {
        if part == 3 {
            let mut keeping = Keeping::start(source, dir, |o| o.base_every = Duration::from_millis(1));
            keeping.until("another snapshot", |p| p.figures().iter().any(|of| of.bases >= 2)).await;
            keeping.stop().await;
        }
        // A run that begins closes the segment of the one before.
        let mut keeping = Keeping::start(source, dir, |_| {});
        keeping.until("a snapshot", |p| p.figures().iter().any(|of| of.position.is_some())).await;
        for n in 0..200 {
            client.call(&["RPUSH", &format!("list:{}", n % 5), &format!("{part}.{n}")]).unwrap();
            client.call(&["INCR", "count"]).unwrap();
        }
        keeping.level(source).await;
        recorded.push((offset_of(&mut client), digest(&mut client).unwrap()));
        keeping.stop().await;
    }
    let mut keeping = Keeping::start(source, dir, |_| {});
    keeping.level(source).await;
    keeping.until("compressed segments", |_| names(dir, ".gz").len() >= 6).await;
    keeping.stop().await;
    recorded
}

fn names(dir: &Path, end: &str) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(end)).collect();
    names.sort();
    names
}

fn verify(dir: &Path) -> Listing {
    Stored::open(dir).unwrap().verify()
}

/// Changes a byte of a file, gives what it was.
fn spoil(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], at).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named_and_the_rest_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = block_in_place(|| (any(), any()));
    source.client().unwrap().call(&["SET", "first", "1"]).unwrap();
    let whole = dir.path().join("whole");
    let recorded = recorded(&source, &whole).await;
    let listing = verify(&whole);
    assert!(listing.damages.is_empty() && listing.coverage.0.len() == 1, "{listing:?}");
    let bases = names(&whole, ".rdb");
    assert!(bases.len() >= 2, "{bases:?}");
    // The segment that leads to each moment.
    let all = listing.generations.iter().flat_map(|of| &of.segments);
    let leading = |(offset, _): &(u64, String)| {
        let mut found = all.clone().filter(|of| of.start < *offset && *offset <= of.end);
        found.next().unwrap().file.clone()
    };
    let segments: Vec<String> = recorded.iter().map(leading).collect();
    assert!(segments.iter().all(|name| name.ends_with(".gz")), "{segments:?}");

    let copy = dir.path().join("copy");
    let copied = || {
        fs::remove_dir_all(&copy).ok();
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(&whole).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
    };
    let restored = async |number: usize| {
        let (offset, expected) = &recorded[number];
        let done = restore(&copy, at_offset(*offset), into(&target), None, |_| {}).await;
        if done.is_ok() {
            assert_eq!(&digest(&mut target.client().unwrap()).unwrap(), expected, "moment {number}");
            empty(&target);
        } else {
            assert_eq!(target.client().unwrap().int(&["DBSIZE"]).unwrap(), 0, "nothing is written");
        }
        done
    };
    let missing = |error: Error, file: &str| {
        let Error::Archive(ArchiveError::Damaged { damage, coverage }) = error else { panic!("{error}") };
        assert_eq!(damage.file, file, "{damage}");
        coverage
    };

    // The second segment: what is before it, and from the second snapshot on, is there.
    for cut in [false, true] {
        copied();
        let path = copy.join(&segments[1]);
        let len = fs::metadata(&path).unwrap().len();
        match cut {
            true => fs::File::options().write(true).open(&path).unwrap().set_len(len / 2).unwrap(),
            false => spoil(&path, len / 2),
        }
        let listing = verify(&copy);
        assert_eq!(listing.damages.len(), 1, "{listing:?}");
        assert_eq!(listing.damages[0].file, segments[1]);
        assert_eq!(listing.coverage.0.len(), 2, "{listing:?}");
        let spans = &listing.coverage.0;
        assert!(
            (recorded[0].0..recorded[1].0).contains(&spans[0].to) && spans[1].to >= recorded[5].0,
            "{spans:?}"
        );
        restored(0).await.unwrap();
        let coverage = missing(restored(1).await.unwrap_err(), &segments[1]);
        assert_eq!(coverage, listing.coverage);
        // The second snapshot was taken where the third segment ends.
        for number in 2..6 {
            restored(number).await.unwrap();
        }
    }

    // The second snapshot: an older one does.
    copied();
    bases[1..].iter().for_each(|base| spoil(&copy.join(base), 200));
    let (restorable, notes) = point(&copy, When::Latest).await.unwrap();
    assert!(restorable.offset() >= recorded[5].0 && restorable.base().0 == bases[0]);
    assert!(notes.len() == 1 && notes[0].contains(bases.last().unwrap()), "{notes:?}");
    assert_eq!(verify(&copy).coverage.0.len(), 1);

    // The first: nothing leads to the moments before the second.
    copied();
    fs::remove_file(copy.join(&bases[0])).unwrap();
    missing(restored(1).await.unwrap_err(), &bases[0]);
    restored(4).await.unwrap();

    // A segment that is gone, in the middle.
    copied();
    fs::remove_file(copy.join(&segments[4])).unwrap();
    restored(3).await.unwrap();
    missing(restored(5).await.unwrap_err(), &segments[4]);

    // What says which files there are.
    copied();
    fs::write(copy.join("keyferry-archive.json"), "{}").unwrap();
    assert!(Stored::open(&copy).is_err());
}
