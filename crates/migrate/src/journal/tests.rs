use std::{collections::BTreeMap, fs, path::Path};

use bytes::{Bytes, BytesMut};
use keyferry_replication::Batch;
use keyferry_testkit::{Rng, Server, ServerBinary, compare, data};

use super::*;

const A: &str = "3ad1e7ef023c242514c0b05e48e4ee884551c793";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn settings() -> Settings {
    Settings::for_tests()
}

fn command(args: &[&str]) -> Bytes {
    let mut out = BytesMut::new();
    keyferry_resp::encode_command(&mut out, args);
    out.freeze()
}

/// A random stream: whole commands, transactions, changes of database, keep-alives, another history now and then.
struct Load {
    rng: Rng,
    offset: u64,
    db: Option<u64>,
    id: &'static str,
    now: u64,
}

impl Load {
    fn new(seed: u64) -> Self {
        Load { rng: Rng::new(seed), offset: 5000, db: None, id: A, now: 1_700_000_000_000 }
    }

    fn position(&self) -> Position {
        Position { db: self.db, ..Position::after_snapshot(self.id.parse().unwrap(), self.offset) }
    }

    /// Some batches, the last of which ends outside of a transaction.
    fn batches(&mut self) -> Vec<Received> {
        let mut commands: Vec<(Bytes, bool)> = Vec::new();
        for _ in 0..1 + self.rng.below(4) {
            let n = self.rng.below(1000).to_string();
            let key = format!("key:{}", self.rng.below(20));
            match self.rng.below(6) {
                0 => {
                    commands.push((command(&["MULTI"]), true));
                    for _ in 0..1 + self.rng.below(3) {
                        commands.push((command(&["RPUSH", &format!("list:{key}"), &n]), true));
                    }
                    if self.rng.below(3) == 0 {
                        commands.push((command(&["SELECT", &self.rng.below(5).to_string()]), true));
                    }
                    commands.push((command(&["EXEC"]), false));
                }
                1 => commands.push((command(&["SELECT", &self.rng.below(5).to_string()]), false)),
                2 => commands.push((command(&["INCRBY", &format!("n:{key}"), &n]), false)),
                3 => commands.push((command(&["SET", &key, "line\r\n#TS:1\r\n*1\r\n$4\r\nEXEC\r\n"]), false)),
                _ => commands.push((command(&["APPEND", &format!("s:{key}"), &n]), false)),
            }
        }
        let mut out = Vec::new();
        while !commands.is_empty() {
            let take = (1 + self.rng.below(3) as usize).min(commands.len());
            let part: Vec<(Bytes, bool)> = commands.drain(..take).collect();
            let bytes: Bytes = part.iter().flat_map(|(bytes, _)| bytes.to_vec()).collect::<Vec<u8>>().into();
            let in_transaction = part.last().unwrap().1;
            let gap = if !in_transaction && self.rng.below(4) == 0 { 14 } else { 0 };
            let (start, end) = (self.offset, self.offset + bytes.len() as u64 + gap);
            let mut batch = Batch::new(bytes, u32::try_from(take).unwrap(), start, end);
            batch.db = self.db;
            batch.in_transaction = in_transaction;
            self.offset = end;
            self.now += self.rng.below(900);
            let text: Vec<u8> = part.iter().flat_map(|(bytes, _)| bytes.to_vec()).collect();
            self.db = last_select(&text).or(self.db);
            out.push(Received { batch, at: self.now, id: self.id.parse().unwrap() });
        }
        if self.rng.below(12) == 0 {
            self.id = if self.id == A { B } else { A };
        }
        out
    }
}

fn last_select(text: &[u8]) -> Option<u64> {
    let model = Model::read(text, None);
    model.db
}

/// The slow and obvious reader of a file, or of its beginning.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    /// Up to the last place that is not inside of anything.
    good: u64,
    offset: u64,
    id: String,
    db: Option<u64>,
    /// The commands up to there.
    commands: Vec<Vec<u8>>,
    begun: bool,
}

impl Model {
    fn read(bytes: &[u8], start: Option<u64>) -> Self {
        let mut now = Model { offset: start.unwrap_or(0), begun: start.is_some(), ..Model::default() };
        let (mut good, mut at, mut open) = (now.clone(), 0, false);
        while at < bytes.len() {
            if bytes[at] == b'#' {
                let Some(len) = bytes[at..].iter().position(|&b| b == b'\n') else { break };
                let line = String::from_utf8(bytes[at..at + len - 1].to_vec()).unwrap();
                at += len + 1;
                if let Some(id) = line.strip_prefix("#ID:") {
                    now.id = id.to_owned();
                } else if let Some(offset) = line.strip_prefix("#OFFSET:") {
                    now.offset = offset.parse().unwrap();
                    now.begun = true;
                }
            } else {
                let Some((args, len)) = parse(&bytes[at..]) else { break };
                if now.begun {
                    now.offset += len as u64;
                    now.commands.push(bytes[at..at + len].to_vec());
                }
                at += len;
                match args[0].as_str() {
                    "SELECT" => now.db = Some(args[1].parse().unwrap()),
                    "MULTI" => open = true,
                    "EXEC" => open = false,
                    _ => {}
                }
            }
            if !open {
                now.good = at as u64;
                good = now.clone();
            }
        }
        good
    }
}

fn parse(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let line = |at: usize| {
        let len = bytes[at..].windows(2).position(|w| w == b"\r\n")?;
        let number: usize = std::str::from_utf8(&bytes[at + 1..at + len]).ok()?.parse().ok()?;
        Some((number, at + len + 2))
    };
    let (count, mut at) = line(0)?;
    let mut args = Vec::new();
    for _ in 0..count {
        if at >= bytes.len() {
            return None;
        }
        let (len, begin) = line(at)?;
        args.push(String::from_utf8_lossy(bytes.get(begin..begin + len)?).into_owned());
        at = begin + len + 2;
        bytes.get(at - 1)?;
    }
    Some((args, at))
}

/// Writes a journal of several segments; gives the load's position at its end.
fn write(journal: &Journal, load: &mut Load, segments: u64, rounds: u64) {
    for _ in 0..segments {
        let mut writer = journal.start_segment(&load.position(), None).unwrap();
        for _ in 0..rounds {
            let batches = load.batches();
            for part in batches.chunks(2) {
                writer.append(part).unwrap();
            }
        }
        writer.close().unwrap();
    }
}

/// Everything from `from` to the end, read in pieces of `step` bytes.
fn read(journal: &Journal, from: u64, step: usize) -> (Vec<u8>, Option<u64>, u64) {
    let (mut bytes, mut at) = (Vec::new(), from);
    let mut first = None;
    let mut next = journal.segment_with(from);
    while let Some(seq) = next {
        let readable = journal.readable(seq).unwrap();
        let mut reader = SegmentReader::new().skipping_to(from);
        loop {
            while let Some(batch) = reader.next().unwrap() {
                assert_eq!(batch.start, at);
                at = batch.end;
                first.get_or_insert(batch.db);
                bytes.extend_from_slice(&batch.bytes);
                let counted = batch.start + batch.bytes.len() as u64;
                assert!(counted <= batch.end);
            }
            let len = (readable.len - reader.at()).min(step as u64) as usize;
            if len == 0 {
                break;
            }
            let mut piece = vec![0; len];
            let n = readable.file.read_at(&mut piece, reader.at()).unwrap();
            reader.supply(&piece[..n]);
        }
        next = journal.segment_after(seq);
    }
    (bytes, first.flatten(), at)
}

fn segment_paths(dir: &Path) -> Vec<PathBuf> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir.join(SUBDIR)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if let Some(seq) = name.strip_suffix(".incr.aof") {
            found.insert(seq.rsplit('.').next().unwrap().parse::<u64>().unwrap(), path);
        }
    }
    found.into_values().collect()
}

#[test]
fn every_cut_of_the_last_file_ends_with_its_last_whole_command() {
    for seed in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let mut load = Load::new(seed);
        let mut rng = Rng::new(seed);
        let begin = load.position();
        let (journal, kept) = Journal::open(dir.path(), settings()).unwrap();
        assert_eq!(kept, Kept::default());
        write(&journal, &mut load, 2, 3);
        let paths = segment_paths(dir.path());
        let (first, last) = (fs::read(&paths[0]).unwrap(), fs::read(&paths[1]).unwrap());
        let whole = Model::read(&first, None);
        // It is the last one that a process that dies was writing: not closed.
        let manifest = dir.path().join(SUBDIR).join(MANIFEST);
        let text = fs::read_to_string(&manifest).unwrap();
        let open = text.rsplit_once(" endoffset").unwrap().0.to_owned() + "\n";
        // Every one for one of them; for the others a few, and the ends.
        let mut cuts: Vec<usize> = (0..=last.len()).collect();
        cuts.retain(|cut| seed == 0 || cut % last.len() < 2 || rng.below(last.len() as u64) < 25);
        for cut in cuts {
            fs::write(&manifest, &open).unwrap();
            fs::write(&paths[1], &last[..cut]).unwrap();
            let (journal, kept) = Journal::open(dir.path(), settings()).unwrap();
            let model = Model::read(&last[..cut], None);
            let run = kept.run.unwrap();
            assert_eq!((run.start.offset, run.start.id), (begin.offset, begin.id), "seed {seed}, cut {cut}");
            let end = if model.begun { &model } else { &whole };
            assert_eq!((run.end.offset, run.end.db), (end.offset, end.db), "seed {seed}, cut {cut}");
            assert_eq!(run.end.id.to_string(), end.id, "seed {seed}, cut {cut}");
            assert!(!run.end.in_transaction);
            let mut expected: Vec<u8> = whole.commands.concat();
            expected.extend(model.commands.concat());
            let (bytes, _, at) = read(&journal, begin.offset, 1 + cut % 50);
            assert!(bytes == expected, "seed {seed}, cut {cut}");
            assert_eq!(at, end.offset);
            if model.begun {
                assert_eq!(fs::metadata(&paths[1]).unwrap().len(), model.good);
            }
        }
    }
}

#[test]
fn a_file_that_is_damaged_or_too_short_in_the_middle_ends_the_run_there() {
    for seed in 10..16 {
        let dir = tempfile::tempdir().unwrap();
        let mut load = Load::new(seed);
        let (journal, _) = Journal::open(dir.path(), settings()).unwrap();
        write(&journal, &mut load, 3, 6);
        let paths = segment_paths(dir.path());
        let middle = fs::read(&paths[1]).unwrap();
        let mut rng = Rng::new(seed);
        let at = 60 + rng.below(middle.len() as u64 - 60) as usize;
        let damaged = match seed % 3 {
            // As after a loss of power.
            0 => middle[..at].to_vec(),
            1 => [&middle[..at], &vec![0; middle.len() - at]].concat(),
            // A later command is whole, but nobody knows what was before it.
            _ => [&middle[..at], b"\0\0\0", &middle[at..]].concat(),
        };
        fs::write(&paths[1], &damaged).unwrap();
        let (journal, kept) = Journal::open(dir.path(), settings()).unwrap();
        let run = kept.run.unwrap();
        let model = Model::read(&middle[..at], None);
        if !(seed % 3 == 2 && run.end.offset != model.offset) {
            let end = if model.begun {
                model.offset
            } else {
                Model::read(&fs::read(&paths[0]).unwrap(), None).offset
            };
            assert_eq!(run.end.offset, end, "seed {seed}");
        }
        assert!(!kept.notes.is_empty(), "seed {seed}");
        assert!(!paths[2].exists());
        // What comes next joins it.
        let next = Position { db: run.end.db, ..Position::after_snapshot(run.end.id, run.end.offset) };
        journal.start_segment(&next, None).unwrap().close().unwrap();
        let (_, again) = Journal::open(dir.path(), settings()).unwrap();
        assert_eq!(again.run.unwrap().end.offset, run.end.offset);
        assert!(again.notes.is_empty(), "{:?}", again.notes);
    }
}

#[test]
fn reading_begins_at_any_command() {
    for seed in 20..26 {
        let dir = tempfile::tempdir().unwrap();
        let mut load = Load::new(seed);
        let begin = load.offset;
        let (journal, _) = Journal::open(dir.path(), settings()).unwrap();
        write(&journal, &mut load, 3, 4);
        let (all, ..) = read(&journal, begin, 1 << 20);
        let mut offsets = Vec::new();
        for path in segment_paths(dir.path()) {
            let text = fs::read(path).unwrap();
            for cut in 0..=text.len() {
                let model = Model::read(&text[..cut], None);
                if model.begun {
                    offsets.push((model.offset, model.db));
                }
            }
        }
        offsets.dedup();
        for (offset, db) in offsets {
            let (bytes, first, end) = read(&journal, offset, 37);
            assert!(all.ends_with(&bytes), "seed {seed}, offset {offset}");
            assert_eq!(end, load.offset);
            if !bytes.is_empty() {
                assert_eq!(first, db, "seed {seed}, offset {offset}");
            }
        }
    }
}

#[test]
fn a_place_inside_of_a_command_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path(), settings()).unwrap();
    let position = Position::after_snapshot(A.parse().unwrap(), 100);
    let mut writer = journal.start_segment(&position, None).unwrap();
    let bytes = command(&["SET", "a", "b"]);
    let batch = Batch::new(bytes.clone(), 1, 100, 100 + bytes.len() as u64);
    writer.append(&[Received { batch, at: 1, id: position.id }]).unwrap();
    let mut reader = SegmentReader::new().skipping_to(105);
    reader.supply(&fs::read(&segment_paths(dir.path())[0]).unwrap());
    reader.next().unwrap_err();
}

#[test]
fn segments_are_dropped_when_they_have_been_applied_and_kept_within_bounds() {
    let sizes = |journal: &Journal, dir: &Path| {
        let on_disk: u64 = segment_paths(dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert_eq!(journal.bytes(), on_disk);
        segment_paths(dir).len()
    };
    for (keep, max, age, left) in [
        (false, None, None, 1),
        (true, None, None, 4),
        (true, Some(1), None, 1),
        (true, None, Some(Duration::ZERO), 1),
        (true, None, Some(Duration::from_secs(1000)), 4),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { keep, max_bytes: max, max_age: age, ..settings() };
        let (journal, _) = Journal::open(dir.path(), settings).unwrap();
        let mut load = Load::new(3);
        write(&journal, &mut load, 3, 3);
        let applied = load.offset;
        write(&journal, &mut load, 1, 3);
        assert_eq!(sizes(&journal, dir.path()), 4);
        assert_eq!(journal.has_applied(applied), left == 1);
        assert!(!journal.has_applied(4999));
        journal.drop_applied(applied).unwrap();
        assert_eq!(sizes(&journal, dir.path()), left, "{keep} {max:?} {age:?}");
        let (_, kept) = Journal::open(dir.path(), Settings::for_tests()).unwrap();
        let run = kept.run.unwrap();
        assert_eq!(run.start.offset, if left == 1 { applied } else { 5000 });
        assert_eq!(run.end.offset, load.offset);
    }
}

#[test]
fn a_snapshot_is_named_when_it_is_whole_and_no_more_when_it_has_been_applied() {
    for keep in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let settings = || Settings { keep, ..settings() };
        let position = Position::after_snapshot(A.parse().unwrap(), 5000);
        let (journal, _) = Journal::open(dir.path(), settings()).unwrap();
        let mut file = journal.begin_base().unwrap();
        file.append(&[Bytes::from_static(b"half of a snapshot")]).unwrap();
        // A process that dies here has nothing.
        let (journal, kept) = Journal::open(dir.path(), settings()).unwrap();
        assert_eq!(kept, Kept::default());
        let mut file = journal.begin_base().unwrap();
        file.append(&[Bytes::from_static(b"all of a snapshot")]).unwrap();
        journal.complete_base(&file, &position, keep).unwrap();
        let mut load = Load::new(1);
        write(&journal, &mut load, 2, 2);
        let (journal, kept) = Journal::open(dir.path(), settings()).unwrap();
        assert_eq!((kept.base, kept.again), (Some(position.clone()), keep));
        assert_eq!(kept.run.unwrap().start.offset, 5000);
        assert_eq!(journal.open_base().unwrap().unwrap().len(), 17);
        journal.snapshot_applied().unwrap();
        let (journal, kept) = Journal::open(dir.path(), settings()).unwrap();
        assert_eq!(kept.base, None);
        assert_eq!(journal.base_bytes(), if keep { 17 } else { 0 });
        // Another one takes its place.
        journal.clear().unwrap();
        let mut file = journal.begin_base().unwrap();
        file.append(&[Bytes::from_static(b"another")]).unwrap();
        journal.complete_base(&file, &position, false).unwrap();
        let (journal, kept) = Journal::open(dir.path(), settings()).unwrap();
        assert_eq!((kept.base, kept.run), (Some(position), None));
        // One whose size is another is none.
        let path = journal.path("x");
        let base = fs::read_dir(path.parent().unwrap()).unwrap();
        let base =
            base.map(|e| e.unwrap().path()).find(|p| p.extension().is_some_and(|e| e == "rdb")).unwrap();
        fs::write(base, b"anoth").unwrap();
        let (_, kept) = Journal::open(dir.path(), settings()).unwrap();
        assert_eq!(kept.base, None);
        assert_eq!(kept.notes.len(), 1);
    }
}

fn identity(migration: &str) -> Identity {
    let (source, target) = ("redis://a".to_owned(), "redis://b".to_owned());
    Identity { migration: migration.to_owned(), source, target, changes: String::new() }
}

#[test]
fn a_directory_belongs_to_one_process_and_one_migration() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| JournalRoot::open(Some(dir.path()), identity(name), settings());
    let root = open("one").unwrap();
    assert_eq!(root.token(), None);
    root.set_token("secret").unwrap();
    assert!(matches!(open("one"), Err(Error::JournalLocked { .. })));
    drop(root);
    // Nothing in it that anybody could miss.
    let root = open("two").unwrap();
    assert_eq!(root.token(), None);
    root.set_token("other").unwrap();
    let (journal, _) = root.link(None).unwrap();
    journal.start_segment(&Load::new(1).position(), None).unwrap().close().unwrap();
    drop((root, journal));
    let error = open("one").unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::JournalOfAnother { .. }), "{error}");
    assert!(text.contains("two from redis://a to redis://b") && text.contains("one from"), "{text}");
    let changed = Identity { changes: "filter 01".to_owned(), ..identity("two") };
    let error = JournalRoot::open(Some(dir.path()), changed, settings()).unwrap_err().to_string();
    assert!(error.contains("two from redis://a to redis://b with filter 01"), "{error}");
    let root = open("two").unwrap();
    assert_eq!(root.token(), Some("other"));
    let (_, kept) = root.link(Some("host:7000")).unwrap();
    assert_eq!(kept, Kept::default());
    assert!(dir.path().join("shard-host-7000").join(SUBDIR).is_dir());
}

#[test]
fn a_directory_with_other_things_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious"), b"x").unwrap();
    let error = JournalRoot::open(Some(dir.path()), identity("x"), settings()).unwrap_err();
    assert!(matches!(&error, Error::JournalInUse { found, .. } if found == "precious"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// A server loads what is there after every cut: the data of the snapshot and of the whole commands behind it.
fn loads_on(binary: &ServerBinary) {
    let dir = tempfile::tempdir().unwrap();
    let source = Server::builder(binary).start().unwrap();
    data::small(&mut source.client().unwrap(), 4, 2).unwrap();
    source.client().unwrap().call(&["SAVE"]).unwrap();
    let (journal, _) = Journal::open(dir.path(), settings()).unwrap();
    let mut load = Load::new(99);
    let mut file = journal.begin_base().unwrap();
    file.append(&[fs::read(source.dir().join("dump.rdb")).unwrap().into()]).unwrap();
    journal.complete_base(&file, &load.position(), false).unwrap();
    write(&journal, &mut load, 3, 20);
    let paths = segment_paths(dir.path());
    let last = fs::read(&paths[2]).unwrap();
    let mut rng = Rng::new(5);
    for cut in [last.len(), rng.below(last.len() as u64) as usize] {
        let at = tempfile::tempdir().unwrap();
        for sub in ["", SUBDIR] {
            fs::create_dir_all(at.path().join(sub)).unwrap();
            for entry in fs::read_dir(dir.path().join(sub)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    fs::copy(entry.path(), at.path().join(sub).join(entry.file_name())).unwrap();
                }
            }
        }
        fs::write(&segment_paths(at.path())[2], &last[..cut]).unwrap();
        let expected = Server::builder(binary).start().unwrap();
        let mut client = expected.client().unwrap();
        fs::copy(source.dir().join("dump.rdb"), expected.dir().join("dump.rdb")).unwrap();
        client.call_raw(&["DEBUG", "RELOAD", "NOSAVE", "NOFLUSH"]).unwrap();
        let mut commands = 0;
        for path in segment_paths(at.path()) {
            let bytes = fs::read(path).unwrap();
            let model = Model::read(&bytes, None);
            client.call(&["SELECT", "0"]).unwrap();
            if let Some((args, _)) = bytes.iter().position(|&b| b == b'*').and_then(|at| parse(&bytes[at..]))
                && args[0] == "SELECT"
            {
                client.call(&args).unwrap();
            }
            for command in &model.commands {
                let (args, _) = parse(command).unwrap();
                client.call_raw(&args).unwrap();
                commands += 1;
            }
        }
        assert!(commands > 50);
        // As it is, and as it is after it was opened.
        for reopen in [false, true] {
            if reopen {
                Journal::open(at.path(), settings()).unwrap();
            } else if cut == last.len() {
                continue;
            }
            let loaded = tempfile::tempdir().unwrap();
            fs::create_dir(loaded.path().join(SUBDIR)).unwrap();
            for entry in fs::read_dir(at.path().join(SUBDIR)).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), loaded.path().join(SUBDIR).join(entry.file_name())).unwrap();
            }
            let server = Server::builder(binary).dir(loaded.path()).append_only("no").start().unwrap();
            let result = compare(&mut client, &mut server.client().unwrap()).unwrap();
            assert!(
                result.is_equal() && result.keys_a > 10,
                "{}, cut {cut}, {reopen}: {result}",
                binary.name
            );
        }
    }
}

#[test]
fn servers_load_it_wherever_it_ends() {
    let able: Vec<_> = keyferry_testkit::binaries().iter().filter(|b| b.version.at_least(7, 0)).collect();
    assert!(!able.is_empty(), "no server from 7.0 on is here");
    std::thread::scope(|scope| {
        for pair in able.chunks(2) {
            let running: Vec<_> = pair.iter().map(|binary| scope.spawn(|| loads_on(binary))).collect();
            running.into_iter().for_each(|thread| thread.join().unwrap());
        }
    });
}
