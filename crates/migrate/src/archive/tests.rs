//! What the parts do by themselves.

use keyferry_replication::{Batch, Position, ReplicationId};
use keyferry_resp::encode_command;

use super::{
    Stored,
    catalog::{Base, Catalog, Closed, Run, Segment},
    point::When,
    scan::{boundary, up_to},
    store::{Keeping, Store},
};
use crate::journal::Received;

const ID: &str = "3ad1e7ef023c242514c0b05e48e4ee884551c793";

fn id() -> ReplicationId {
    ID.parse().unwrap()
}

/// Commands from an offset on, and where each of them ends.
fn batch(start: u64, commands: &[&str]) -> (Batch, Vec<u64>) {
    let mut bytes = bytes::BytesMut::new();
    let mut ends = Vec::new();
    for command in commands {
        encode_command(&mut bytes, command.split(' ').collect::<Vec<_>>());
        ends.push(start + bytes.len() as u64);
    }
    let end = start + bytes.len() as u64;
    let mut batch = Batch::new(bytes.freeze(), u32::try_from(commands.len()).unwrap(), start, end);
    let last = |name: &str| commands.iter().rposition(|command| *command == name);
    batch.in_transaction = last("MULTI") > last("EXEC");
    (batch, ends)
}

#[test]
fn a_batch_ends_with_a_whole_command_and_a_moment_outside_of_transactions() {
    let (all, ends) = batch(100, &["SET a 1", "MULTI", "SET b 2", "EXEC", "SET c 3"]);
    // Where the moment is that stands for an offset.
    let moment = |offset: u64| boundary(&up_to(&all, offset, id(), false));
    assert_eq!(moment(all.end), Some(ends[4]));
    assert_eq!(moment(all.end - 1), Some(ends[3]));
    assert_eq!(moment(ends[0] + 1), Some(ends[0]));
    for inside in ends[1]..ends[3] {
        assert_eq!(moment(inside), Some(ends[0]), "{inside}");
    }
    assert_eq!(moment(100), Some(100));
    // The rest of a transaction that began in the batch before.
    let (rest, ends) = batch(500, &["SET b 2", "EXEC", "SET c 3"]);
    let moment = |offset: u64| boundary(&up_to(&rest, offset, id(), true));
    assert_eq!((moment(ends[0]), moment(ends[1]), moment(rest.end)), (None, Some(ends[1]), Some(ends[2])));
    // Keep-alives that were left out behind the commands.
    let mut idle = batch(0, &["SET a 1"]).0;
    let counted = idle.end;
    idle.end += 14;
    assert_eq!(boundary(&up_to(&idle, counted + 3, id(), false)), Some(counted + 3));
}

/// A snapshot that nobody reads.
fn base(store: &Store, offset: u64, taken: u64) -> Base {
    let path = store.dir().join("base-new.rdb");
    let bytes = b"REDIS0011\xff";
    std::fs::write(&path, bytes).unwrap();
    let base = Base {
        file: String::new(),
        bytes: bytes.len() as u64,
        keys: 0,
        functions: 0,
        digest: super::pack::digest(bytes),
        replication_id: ID.to_owned(),
        offset,
        taken,
        server: String::new(),
    };
    store.name_base(&path, base).unwrap()
}

/// A closed segment with one command, and where it ends.
fn segment(store: &Store, start: u64, came: u64) -> u64 {
    let mut writer = store.begin_segment(&Position::after_snapshot(id(), start), came).unwrap();
    let (batch, ends) = batch(start, &["SET a 1"]);
    store.append(&mut writer, &[Received { batch, at: came, id: id() }]).unwrap();
    store.close(&writer, Some(0)).unwrap();
    ends[0]
}

fn offset_at(dir: &std::path::Path, when: When) -> Option<u64> {
    Stored::open(dir).unwrap().point(when).ok().map(|(point, _)| point.offset())
}

#[test]
fn what_is_needed_for_the_oldest_moment_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (store, notes) = Store::open(dir.path(), ("redis://a".to_owned(), None), false).unwrap();
    assert!(notes.is_empty() && store.end().is_none());
    store.begin_run(base(&store, 0, 1000), None).unwrap();
    let first = segment(&store, 0, 2000);
    let second = segment(&store, first, 3000);
    store.add_base(base(&store, second, 4000)).unwrap();
    let third = segment(&store, second, 5000);
    let keep = |since: Option<u64>, max_bytes| store.expire(Keeping { since, max_bytes }).unwrap();
    let all = store.bytes();
    // The second snapshot is younger than what has to be kept.
    assert!(keep(Some(3999), None));
    assert_eq!((store.counts(), store.bytes()), ((2, 3), all));
    assert_eq!(offset_at(dir.path(), When::Time(2500)), Some(first));
    assert!(keep(Some(4000), None));
    assert_eq!(store.counts(), (1, 1));
    assert_eq!(offset_at(dir.path(), When::Time(2500)), None);
    assert_eq!(offset_at(dir.path(), When::Latest), Some(third));
    // The newest stays, however much it is.
    assert!(!keep(Some(u64::MAX), Some(1)));
    assert_eq!(store.counts(), (1, 1));
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    // A snapshot, a segment, the catalog and two locks.
    assert_eq!(files, 5);
}

#[test]
fn nothing_that_is_read_is_removed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), ("redis://a".to_owned(), None), false).unwrap();
    store.begin_run(base(&store, 0, 1000), None).unwrap();
    let end = segment(&store, 0, 2000);
    store.add_base(base(&store, end, 3000)).unwrap();
    let (point, _) = Stored::open(dir.path()).unwrap().point(When::Time(1500)).unwrap();
    while store.pack_one().unwrap().more {}
    store.expire(Keeping { since: Some(u64::MAX), max_bytes: None }).unwrap();
    assert_eq!(store.counts(), (1, 0));
    point.check().unwrap();
    drop(point);
    store.remove_doomed().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
}

#[test]
fn a_catalog_that_names_other_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut catalog = Catalog::new("redis://a".to_owned(), None);
    let closed = Closed { end: 1, db: None, ended: 1, raw: 1, packed: None, fault: None };
    let segment = Segment {
        file: "segment-000001.aof".to_owned(),
        ids: vec![ID.to_owned()],
        start: 0,
        begun: 0,
        closed: Some(closed),
    };
    let base = Base {
        file: "base-000001.rdb".to_owned(),
        bytes: 0,
        keys: 0,
        functions: 0,
        digest: String::new(),
        replication_id: ID.to_owned(),
        offset: 0,
        taken: 0,
        server: String::new(),
    };
    catalog.runs.push(Run { begun: 0, gap: None, bases: vec![base], segments: vec![segment] });
    let saved = |change: &dyn Fn(&mut Run)| {
        let mut catalog = catalog.clone();
        change(&mut catalog.runs[0]);
        catalog.save(dir.path(), false).unwrap();
        Catalog::load(dir.path())
    };
    assert_eq!(saved(&|_| {}).unwrap(), Some(catalog.clone()));
    for change in [
        &(|run: &mut Run| run.bases[0].file = "/etc/passwd".to_owned()) as &dyn Fn(&mut Run),
        &|run| run.segments[0].file = "segment-/../../x".to_owned(),
        &|run| run.bases[0].replication_id = "x".to_owned(),
        &|run| run.segments[0].ids.clear(),
        &|run| run.bases.clear(),
    ] {
        assert!(saved(change).is_err());
    }
}
