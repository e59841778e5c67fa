use bytes::BytesMut;

use super::*;
use crate::journal::{Settings, test_disk::Disk};

const ID: &str = "3ad1e7ef023c242514c0b05e48e4ee884551c793";

fn start() -> Position {
    Position::after_snapshot(ID.parse().unwrap(), 1000)
}

fn open(dir: &std::path::Path, settings: Settings) -> Journal {
    Journal::open(dir, settings).unwrap().0
}

fn temporary() -> Settings {
    Settings { named: false, ..Settings::for_tests() }
}

fn spool(journal: &Journal, meter: &Meter) -> (Spool, SpoolReader) {
    Spool::new(journal, &start(), &start(), meter.clone()).unwrap()
}

/// Batch number `n`, of about `size` bytes; every third also moves the offset by a keep-alive, every fifth begins a
/// transaction that the next one ends.
fn batch(n: u64, size: usize, offset: &mut u64) -> Batch {
    let mut out = BytesMut::new();
    let (begins, ends) = (n.is_multiple_of(5), n % 5 == 1);
    if begins {
        keyferry_resp::encode_command(&mut out, ["MULTI"]);
    }
    keyferry_resp::encode_command(&mut out, [&b"SET"[..], n.to_string().as_bytes(), &vec![b'x'; size]]);
    if ends {
        keyferry_resp::encode_command(&mut out, ["EXEC"]);
    }
    let start = *offset;
    let keep_alive = n.is_multiple_of(3) && !begins;
    let end = start + out.len() as u64 + if keep_alive { 14 } else { 0 };
    *offset = end;
    let mut batch = Batch::new(out.freeze(), 1 + u32::from(begins) + u32::from(ends), start, end);
    batch.db = Some(3);
    batch.in_transaction = begins;
    batch
}

/// Reads to the end. What is applied is said to be so `behind` bytes later.
async fn drain(
    mut reader: SpoolReader,
    meter: Meter,
    pause: Duration,
    behind: u64,
) -> (Vec<u8>, u64, Closed) {
    let (mut bytes, mut offset) = (Vec::new(), 1000);
    loop {
        match reader.next().await.unwrap() {
            Next::Batch { batch, received } => {
                assert_eq!(batch.start, offset);
                assert!(received > 0);
                offset = batch.end;
                bytes.extend_from_slice(&batch.bytes);
                if !batch.in_transaction {
                    meter.applied_offset.fetch_max(offset.saturating_sub(behind), Ordering::Relaxed);
                }
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
            Next::End(why) => return (bytes, offset, why),
        }
    }
}

async fn pass(count: u64, size: usize, writer_pause: Duration, reader_pause: Duration, settings: Settings) {
    let dir = tempfile::tempdir().unwrap();
    let meter = Meter::default();
    // What is never said to be applied would fill a bounded one for good.
    let behind = if settings.max_bytes.is_some() { 0 } else { 5000 };
    let journal = open(dir.path(), settings);
    let (mut spool, reader) = spool(&journal, &meter);
    let reading = tokio::spawn(drain(reader, meter.clone(), reader_pause, behind));
    let (mut expected, mut offset) = (Vec::new(), 1000);
    for n in 0..count {
        let batch = batch(n, size, &mut offset);
        expected.extend_from_slice(&batch.bytes);
        while spool.is_full() {
            spool.tick().await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        spool.push(batch).await.unwrap();
        if n % 7 == 0 {
            spool.tick().await.unwrap();
        }
        if !writer_pause.is_zero() {
            tokio::time::sleep(writer_pause).await;
        }
    }
    spool.close(Closed::Stopped).await.unwrap();
    let (bytes, end, why) = reading.await.unwrap();
    assert!(bytes == expected, "{count} batches of {size}");
    assert_eq!((end, why), (offset, Closed::Stopped));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_pass_in_order_at_any_relative_speed() {
    let (no, short) = (Duration::ZERO, Duration::from_micros(200));
    let bounded = Settings { max_bytes: Some(300_000), ..Settings::for_tests() };
    for settings in [Settings::for_tests(), temporary(), bounded] {
        pass(3000, 20, no, no, settings.clone()).await;
        pass(300, 200_000, no, short, settings.clone()).await;
        pass(300, 100_000, short, no, settings.clone()).await;
        pass(7, 9_000_000, no, no, settings).await;
    }
}

/// A target that stands still lets the journal grow; when it has caught up, memory is enough again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_is_used_only_while_the_target_is_behind() {
    let dir = tempfile::tempdir().unwrap();
    let meter = Meter::default();
    let journal = open(dir.path(), temporary());
    let (mut spool, mut reader) = spool(&journal, &meter);
    let (mut offset, mut seen) = (1000, 1000);
    for round in 0..3_u64 {
        for n in 0..20 {
            spool.push(batch(round * 40 + n, 1_000_000, &mut offset)).await.unwrap();
        }
        assert!(journal.bytes() > 15_000_000, "{}", journal.bytes());
        while seen < offset {
            let Next::Batch { batch, .. } = reader.next().await.unwrap() else { panic!("an end") };
            assert_eq!(batch.start, seen);
            seen = batch.end;
        }
        meter.applied_offset.store(seen, Ordering::Relaxed);
        spool.tick().await.unwrap();
        // Level again: the next ones need no disk.
        spool.push(batch(round * 40 + 22, 10, &mut offset)).await.unwrap();
        while seen < offset {
            let Next::Batch { batch, .. } = reader.next().await.unwrap() else { panic!("an end") };
            seen = batch.end;
        }
        let level = async {
            // The reading end leaves the journal when it looks again.
            tokio::time::timeout(Duration::from_millis(50), reader.next()).await.unwrap_err();
            meter.applied_offset.store(seen, Ordering::Relaxed);
            spool.tick().await.unwrap();
            spool.tick().await.unwrap();
        };
        level.await;
        assert_eq!(journal.bytes(), 0);
        assert_eq!(meter.journal_backlog.load(Ordering::Relaxed), 0);
    }
}

/// What a restart would go on with, from what is on disk at this moment and what the source is sure to remember.
fn covered(dir: &std::path::Path, kept: u64, received: u64, backlog: u64) {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir, copy.path());
    let (_, found) = Journal::open(copy.path(), Settings::for_tests()).unwrap();
    let end = match &found.run {
        Some(run) if run.start.offset <= kept && kept <= run.end.offset => run.end.offset,
        _ => kept,
    };
    assert!(received - end <= backlog, "kept {kept}, received {received}, on disk {found:?}");
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let path = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &path);
        } else {
            std::fs::copy(entry.path(), path).unwrap();
        }
    }
}

/// A process may die at any moment: what the source may have forgotten by then is on disk, without a gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_journal_has_what_the_source_may_forget() {
    const BACKLOG: u64 = 40_000;
    let dir = tempfile::tempdir().unwrap();
    let meter = Meter::default();
    meter.source_backlog.store(BACKLOG, Ordering::Relaxed);
    let journal = open(dir.path(), Settings { max_bytes: Some(1 << 20), ..Settings::for_tests() });
    let (mut spool, mut reader) = spool(&journal, &meter);
    let mut random = keyferry_testkit::Rng::new(77);
    let (mut offset, mut seen) = (1000, vec![]);
    let (mut kept, mut on_disk, mut off_disk) = (1000, 0, 0);
    meter.applied_offset.store(1000, Ordering::Relaxed);
    for n in 0..600 {
        let size = if random.below(20) == 0 { 9000 } else { 300 };
        spool.push(batch(n, size, &mut offset)).await.unwrap();
        if n % 5 == 0 {
            covered(dir.path(), kept, offset, BACKLOG);
        }
        // The target is behind for some time, then takes much at once.
        let most = if n % 300 < 150 { 1 } else { 3 };
        for _ in 0..random.below(most + 1) {
            let next = tokio::time::timeout(Duration::from_millis(20), reader.next());
            let Ok(Ok(Next::Batch { batch, .. })) = next.await else { break };
            seen.push((batch.end, batch.in_transaction));
        }
        if random.below(3) == 0 {
            let sure = seen.len().saturating_sub(usize::try_from(random.below(30)).unwrap());
            let last = seen[..sure].iter().rev().find(|(_, open)| !open);
            kept = last.map_or(kept, |(end, _)| kept.max(*end));
            meter.applied_offset.store(kept, Ordering::Relaxed);
            spool.tick().await.unwrap();
        }
        if n % 3 == 0 {
            covered(dir.path(), kept, offset, BACKLOG);
        }
        if journal.bytes() > 0 { on_disk += 1 } else { off_disk += 1 }
    }
    assert!(on_disk > 50 && off_disk > 10, "{on_disk} {off_disk}");
}

/// The disk is full now and then: nothing is lost, whatever had been begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let meter = Meter::default();
    let journal = open(dir.path(), Settings { max_bytes: Some(1 << 20), ..Settings::for_tests() });
    let disk = Disk::default();
    journal.set_disk(disk.clone());
    let (mut spool, reader) = spool(&journal, &meter);
    let reading = tokio::spawn(drain(reader, meter.clone(), Duration::from_micros(50), 0));
    let (mut expected, mut offset, mut refused) = (Vec::new(), 1000, 0);
    for n in 0..400 {
        let batch = batch(n, 4000, &mut offset);
        expected.extend_from_slice(&batch.bytes);
        if n % 10 == 0 {
            disk.0.store(n * 37 % 9000, Ordering::Relaxed);
        }
        let mut result = spool.push(batch).await;
        while let Err(error) = result {
            assert!(error.is_disk_full(), "{error}");
            assert!(spool.is_full());
            refused += 1;
            disk.0.fetch_add(1500, Ordering::Relaxed);
            result = spool.retry().await;
        }
    }
    spool.close(Closed::Stopped).await.unwrap();
    let (bytes, end, _) = reading.await.unwrap();
    assert!(bytes == expected);
    assert_eq!(end, offset);
    assert!(refused > 10, "{refused}");
}

/// What is neither confirmed nor in the journal is put there at the end, and is the whole of what is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_ends_early_leaves_everything_that_is_missing() {
    for (total, read, applied, settings) in [
        (30, 20, 10, temporary()),
        (30, 30, 0, temporary()),
        (30, 0, 0, Settings::for_tests()),
        (4000, 1000, 995, temporary()),
        (4000, 3000, 2500, Settings::for_tests()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let meter = Meter::default();
        let journal = open(dir.path(), settings);
        let (mut spool, mut reader) = spool(&journal, &meter);
        let (mut offset, mut batches) = (1000, Vec::new());
        for n in 0..total {
            batches.push(batch(n, 4000, &mut offset));
            spool.push(batches.last().unwrap().clone()).await.unwrap();
        }
        for n in 0..read {
            let Next::Batch { batch, .. } = reader.next().await.unwrap() else { panic!("an end") };
            // The journal gives several in one.
            assert!(batch.start >= batches[usize::try_from(n).unwrap()].start);
            if batch.end == offset {
                break;
            }
        }
        let applied = if applied == 0 { 1000 } else { batches[applied - 1].end };
        meter.applied_offset.store(applied, Ordering::Relaxed);
        spool.tick().await.unwrap();
        spool.close(Closed::Stopped).await.unwrap();
        assert!(journal.keep(Some(reader), true).unwrap());
        let (_, kept) = Journal::open(dir.path(), Settings::for_tests()).unwrap();
        let run = kept.run.unwrap();
        assert!(run.start.offset <= applied, "{run:?} {applied}");
        assert_eq!(run.end.offset, offset);
        assert_eq!(run.end.db, Some(3));
        // It is gone on with there.
        let journal = open(dir.path(), Settings::for_tests());
        let from = Position::after_snapshot(ID.parse().unwrap(), applied);
        let (mut spool, mut reader) = Spool::new(&journal, &from, &run.end, Meter::default()).unwrap();
        batches.push(batch(total, 10, &mut offset));
        spool.push(batches.last().unwrap().clone()).await.unwrap();
        let (mut rest, mut at) = (Vec::new(), applied);
        while at < offset {
            let Next::Batch { batch, .. } = reader.next().await.unwrap() else { panic!("an end") };
            assert_eq!((batch.start, batch.db), (at, Some(3)));
            at = batch.end;
            rest.extend_from_slice(&batch.bytes);
        }
        let missing: Vec<u8> =
            batches.iter().filter(|b| b.start >= applied).flat_map(|b| b.bytes.to_vec()).collect();
        assert!(rest == missing, "{total} {read} {applied}");
    }
}

/// What has been read is not held in memory because the target does not hold it for good yet: the journal has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_although_nothing_is_said_to_be_held() {
    let dir = tempfile::tempdir().unwrap();
    let meter = Meter::default();
    let journal = open(dir.path(), Settings::for_tests());
    let (mut spool, mut reader) = spool(&journal, &meter);
    let (mut offset, mut seen) = (1000, 1000);
    for n in 0..60 {
        spool.push(batch(n, 1_000_000, &mut offset)).await.unwrap();
        while seen < offset {
            let Next::Batch { batch, .. } = reader.next().await.unwrap() else { panic!("an end") };
            seen = batch.end;
        }
        let held: usize = spool.shared.lock().memory.iter().map(|received| received.batch.bytes.len()).sum();
        assert!(held < 4_000_000, "{held} after {n}");
    }
    assert!(journal.bytes() > 59_000_000);
}
