//! Comparing two sides by their snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use keyferry_files::{Filter, Found, LeftOutCounts};
use keyferry_rdb::{EntryHead, Event};
use keyferry_routing::{KeyPattern, SlotSet, slot};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::cutoff::{Cutoff, now};
use crate::difference::{Difference, DifferenceKind};
use crate::digest::{DigestOptions, Hash, SnapshotDigester, SnapshotSummary};
use crate::error::Error;
use crate::join::{Rules, join};
use crate::live::ask;
use crate::options::DiffOptions;
use crate::places::{self, Places};
use crate::progress::{DiffProgress, Meter, Phase};
use crate::report::{DiffReport, SideReport, all_databases};
use crate::results::DifferenceSink;
use crate::side::{Part, Parts, Side};
use crate::store::{Room, Store};

/// Keys are counted for the progress by so many.
const COUNTED: u64 = 1024;

/// A comparison of two sides by their snapshots, both directions in one pass.
///
/// Servers are asked for a snapshot as by a replica, all at once, and send it while they go on; files are read. Every key
/// is reduced to its digest as it passes by, so memory does not depend on the data. What is written while it runs may be in one snapshot and not
/// in the other: the comparison is exact for data that rests.
///
/// ```no_run
/// use keyferry_diff::{Difference, SnapshotDiff};
///
/// let diff = SnapshotDiff::new("redis://old-host".parse()?, "redis+cluster://new-1,new-2".parse()?);
/// let mut differences: Vec<Difference> = Vec::new();
/// let report = diff.run(&mut differences)?;
/// println!("{report}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SnapshotDiff {
    sides: [Side; 2],
    options: DiffOptions,
    progress: DiffProgress,
}

impl SnapshotDiff {
    /// Of these two, with default options.
    pub fn new(source: Side, target: Side) -> Self {
        Self { sides: [source, target], options: DiffOptions::default(), progress: DiffProgress::default() }
    }

    /// The options, to be changed.
    pub fn options_mut(&mut self) -> &mut DiffOptions {
        &mut self.options
    }

    /// A view of how far [`run`](Self::run) is.
    pub fn progress(&self) -> DiffProgress {
        self.progress.clone()
    }

    /// Compares, and gives every difference to `sink`, in no order.
    ///
    /// Blocks; it works on threads of its own, so it may be called from anywhere. Asynchronous programs call it through
    /// something like `spawn_blocking`.
    ///
    /// # Errors
    ///
    /// Whenever it cannot be told whether the sides are equal; differences that were given out before are true.
    pub fn run(self, sink: &mut dyn DifferenceSink) -> Result<DiffReport, Error> {
        let progress = self.progress.clone();
        // A runtime must not be entered by a thread that is in one already, as the caller's may be.
        let result = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("diff".to_owned());
            let thread = thread.spawn_scoped(scope, || Run::new(self)?.run(sink)).map_err(Error::Thread)?;
            joined(thread)
        });
        progress.enter(Phase::Done);
        result
    }
}

struct Run {
    sides: [Side; 2],
    options: DiffOptions,
    progress: DiffProgress,
    runtime: Runtime,
    digest: DigestOptions,
    failed: AtomicBool,
    failure: Mutex<Option<Error>>,
    /// Gone when reading is given up: servers may take long to send anything.
    going_on: Mutex<Option<watch::Sender<()>>>,
    started: Instant,
    begun_at: i64,
}

/// What came of a part of a side.
struct Reading {
    side: usize,
    name: String,
    store: Store,
    summary: SnapshotSummary,
    left_out: LeftOutCounts,
    bookkeeping: u64,
    stray: u64,
}

impl Run {
    fn new(diff: SnapshotDiff) -> Result<Self, Error> {
        let digest = DigestOptions {
            seed: RandomState::new().hash_one(now()),
            unreplicated: diff.options.unreplicated,
            limits: diff.options.limits.clone(),
            ..DigestOptions::default()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        Ok(Self {
            sides: diff.sides,
            options: diff.options,
            progress: diff.progress,
            runtime,
            digest,
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            going_on: Mutex::new(Some(watch::Sender::new(()))),
            started: Instant::now(),
            begun_at: now() / 1000,
        })
    }

    fn run(self, sink: &mut dyn DifferenceSink) -> Result<DiffReport, Error> {
        let parts = self.runtime.block_on(async {
            Ok::<_, Error>([Parts::find(&self.sides[0]).await?, Parts::find(&self.sides[1]).await?])
        })?;
        let cutoff = Cutoff::new(parts.iter().map(|side| side.parts.len()).sum());
        let readings = self.read(&parts, &cutoff)?;
        for side in &parts {
            self.runtime.block_on(side.confirm())?;
        }
        let report = self.compare(&parts, readings, cutoff.latest(), sink);
        // Links that are closing need nobody to wait for them.
        self.runtime.shutdown_background();
        report
    }

    /// Reads all parts of both sides at once.
    fn read(&self, parts: &[Parts; 2], cutoff: &Cutoff) -> Result<Vec<Reading>, Error> {
        let hash = Hash::new(self.digest.seed);
        let count: usize = parts.iter().map(|side| side.parts.len()).sum();
        let room = Room {
            memory: (self.options.memory / count.max(1)).max(1),
            directory: self.options.temporary_directory.clone(),
        };
        let readings = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (side, found) in parts.iter().enumerate() {
                for part in &found.parts {
                    let store = Store::new(hash, room.clone());
                    let read = move || {
                        let reading = self.read_part(side, part, cutoff, store);
                        reading.map_err(|error| self.fail(error, cutoff)).ok()
                    };
                    let thread = std::thread::Builder::new().name("diff-read".to_owned());
                    match thread.spawn_scoped(scope, read) {
                        Ok(thread) => threads.push(thread),
                        Err(error) => self.fail(Error::Thread(error), cutoff),
                    }
                }
            }
            threads.into_iter().filter_map(joined).collect::<Vec<_>>()
        });
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(readings),
        }
    }

    /// Ends all reading. The first error is the one to tell.
    fn fail(&self, error: Error, cutoff: &Cutoff) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
        self.going_on.lock().unwrap_or_else(PoisonError::into_inner).take();
        cutoff.give_up();
    }

    fn read_part(&self, side: usize, part: &Part, cutoff: &Cutoff, store: Store) -> Result<Reading, Error> {
        let options = &self.options;
        let going_on = self.going_on.lock().unwrap_or_else(PoisonError::into_inner);
        let given_up = going_on.as_ref().map(watch::Sender::subscribe).ok_or(Error::GivenUp)?;
        drop(going_on);
        let input = part.open(given_up, &options.link, options.patience, options.limits.clone())?;
        let (name, bytes) = (part.name(), input.progress());
        let mut reader = PartReader {
            digester: SnapshotDigester::new(&self.digest),
            chooser: Chooser::new(options, side, part.slots()),
            store,
            meter: self.progress.side(side),
            keys: 0,
            bytes: 0,
            begun: false,
        };
        let ended = input.read(|found, place| {
            if self.failed.load(Ordering::Relaxed) {
                return Err(Error::GivenUp);
            }
            match found {
                Found::Event(event) => {
                    if !reader.begun && starts_keys(&event) {
                        reader.begun = true;
                        self.progress.enter(Phase::Reading);
                        let written = reader.digester.summary().written_at;
                        let written = written.or_else(|| part.is_live().then(|| now() / 1000));
                        if let Some(until) = cutoff.settle(written) {
                            reader.digester.set_expired_until(until);
                        }
                    }
                    reader.event(&event, place, bytes.read())
                }
                Found::Command(_) => Err(Error::commands(place)),
                _ => Ok(()),
            }
        });
        let ended = ended.map_err(Error::unwrapped)?;
        if ended.snapshots == 0 {
            return Err(Error::NoSnapshot { input: name });
        }
        reader.count(bytes.read());
        let PartReader { digester, chooser, mut store, .. } = reader;
        store.settle().map_err(Error::Spill)?;
        let (mut left_out, bookkeeping, stray) =
            (chooser.filter.counts(), chooser.bookkeeping, chooser.stray);
        left_out.kind = chooser.of_other_kinds;
        let summary = digester.into_summary();
        Ok(Reading { side, name, store, summary, left_out, bookkeeping, stray })
    }

    fn compare(
        &self,
        parts: &[Parts; 2],
        readings: Vec<Reading>,
        expired_until: Option<i64>,
        sink: &mut dyn DifferenceSink,
    ) -> Result<DiffReport, Error> {
        self.progress.enter(Phase::Joining);
        let mut report = DiffReport { expired_until, begun_at: self.begun_at, ..DiffReport::default() };
        report.selected = !self.options.selection.is_everything();
        let (mut stores, mut functions) =
            ([Vec::new(), Vec::new()], [Libraries::default(), Libraries::default()]);
        for reading in readings {
            functions[reading.side].add(&reading.summary);
            report.spilled += reading.store.spilled();
            note(&reading, &mut report.notes);
            let side = if reading.side == 0 { &mut report.source } else { &mut report.target };
            side.add(&reading);
            stores[reading.side].push(reading.store);
        }
        for (number, side) in [&mut report.source, &mut report.target].into_iter().enumerate() {
            side.name = self.sides[number].to_string();
            if let Some(db) = self.sides[number].named_database() {
                report.notes.push(all_databases(&side.name, db));
            }
            side.bytes = self.progress.side(number).bytes.load(Ordering::Relaxed);
            side.functions = functions[number].0.len() as u64;
        }
        let rules = Rules {
            kinds: self.options.selection.kinds.clone(),
            expired_until: expired_until.unwrap_or(i64::MIN),
            tolerance: u64::try_from(self.options.ttl_tolerance.as_millis()).unwrap_or(u64::MAX),
            memory: self.options.memory as u64 / 2,
            repeats: false,
        };
        let mut places = self.places(parts, &mut report.notes);
        let mut see = |difference: Difference| {
            report.differences.add(difference.kind);
            self.progress.found();
            let given = match &mut places {
                Some(places) => places.hold(difference),
                None => Some(difference),
            };
            given.map_or(Ok(()), |difference| sink.difference(&difference).map_err(Error::Results))
        };
        if self.options.functions {
            let [source, target] = &functions;
            source.compare(target, &mut see)?;
        }
        let joined = join(stores, &rules, &mut see)?;
        [report.source.keys, report.target.keys] = joined.keys;
        [report.source.expired, report.target.expired] = joined.expired;
        (report.both, report.equal, report.expiring) = (joined.both, joined.equal, joined.expiring);
        if let Some(places) = places.filter(|places| !places.is_empty()) {
            if places.is_full() {
                let most = places::MOST;
                report
                    .notes
                    .push(format!("of the first {most} keys that differ it is told at which elements"));
            }
            for difference in self.look_again(parts, places, &rules, &mut report.notes)? {
                sink.difference(&difference).map_err(Error::Results)?;
            }
        }
        report.seconds = self.started.elapsed().as_secs_f64();
        Ok(report)
    }

    /// What tells where values part, where that is wanted and a second look is possible.
    fn places(&self, parts: &[Parts; 2], notes: &mut Vec<String>) -> Option<Places> {
        let all = || parts.iter().flat_map(|side| &side.parts);
        if self.options.fields == 0 || all().all(Part::is_live) {
            return None;
        }
        if all().any(Part::is_stream) {
            notes.push(
                "standard input cannot be read twice: it is not told at which elements values differ"
                    .to_owned(),
            );
            return None;
        }
        let (memory, directory) = (self.options.memory, self.options.temporary_directory.clone());
        Some(Places::new(&self.digest, &Room { memory, directory }))
    }

    fn look_again(
        &self,
        parts: &[Parts; 2],
        mut places: Places,
        rules: &Rules,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Difference>, Error> {
        let databases = &self.options.databases;
        for (number, side) in parts.iter().enumerate() {
            let becomes = |db: u64| if number == 0 { databases.target(db) } else { db };
            for part in &side.parts {
                if let Part::File(path) = part {
                    places.read_file(number, path, becomes)?;
                }
            }
            if let Side::Live(endpoint) = &self.sides[number] {
                let asked =
                    self.runtime.block_on(ask(endpoint, &self.options, number, becomes, &mut places))?;
                if asked.left > 0 {
                    let (name, left) = (&self.sides[number], asked.left);
                    notes.push(format!(
                        "{name}: {left} keys that differ are too large to be asked for again, or have gone: it is not told at which elements"
                    ));
                }
            }
        }
        places.finish(rules.expired_until, rules.memory, self.options.fields)
    }
}

/// Waits for a thread; a panic goes on here.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Whether everything that a snapshot says of itself has come before.
fn starts_keys(event: &Event<'_>) -> bool {
    matches!(event, Event::Entry(_) | Event::ValueStart(_) | Event::End { .. })
}

/// What a person should know of a snapshot.
fn note(reading: &Reading, notes: &mut Vec<String>) {
    if !reading.summary.verified {
        notes.push(format!("{}: its snapshot has no checksum, so damage may go unnoticed", reading.name));
    }
    if reading.summary.module_records > 0 {
        let count = reading.summary.module_records;
        notes.push(format!("{}: {count} records of modules beside keys were not compared", reading.name));
    }
}

/// A part of a side while it is read.
struct PartReader<'a> {
    digester: SnapshotDigester,
    chooser: Chooser<'a>,
    store: Store,
    meter: &'a Meter,
    /// Keys and bytes that the meter does not show yet, and that it shows.
    keys: u64,
    bytes: u64,
    begun: bool,
}

impl PartReader<'_> {
    #[inline]
    fn event(
        &mut self,
        event: &Event<'_>,
        place: keyferry_files::Place<'_>,
        bytes: u64,
    ) -> Result<(), Error> {
        if let Event::ResizeDb { keys, .. } = event {
            self.meter.announced.fetch_add(*keys, Ordering::Relaxed);
        }
        if !self.chooser.admits(event) {
            return Ok(());
        }
        let Some(mut key) = self.digester.event(event, place)? else { return Ok(()) };
        key.db = self.chooser.target_db(key.db);
        self.store.push(&key).map_err(Error::Spill)?;
        self.keys += 1;
        if self.keys == COUNTED {
            self.count(bytes);
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) {
        self.meter.keys.fetch_add(std::mem::take(&mut self.keys), Ordering::Relaxed);
        self.meter.bytes.fetch_add(bytes - std::mem::replace(&mut self.bytes, bytes), Ordering::Relaxed);
    }
}

/// Which keys of a part are looked at. Those of other types than are wanted are among them: what is of such a type here may be of a wanted
/// one on the other side.
struct Chooser<'a> {
    options: &'a DiffOptions,
    source: bool,
    slots: Option<&'a SlotSet>,
    filter: Filter,
    /// Inside a large value that is left out by a rule other than the filter's.
    skipping: bool,
    bookkeeping: u64,
    stray: u64,
    of_other_kinds: u64,
}

impl<'a> Chooser<'a> {
    fn new(options: &'a DiffOptions, side: usize, slots: Option<&'a SlotSet>) -> Self {
        let mut selection = options.selection.clone();
        if side == 1 {
            for db in &mut selection.databases {
                *db = options.databases.target(*db);
            }
        }
        selection.kinds.clear();
        let filter = Filter::new(selection);
        let (bookkeeping, stray, of_other_kinds) = (0, 0, 0);
        Self {
            options,
            source: side == 0,
            slots,
            filter,
            skipping: false,
            bookkeeping,
            stray,
            of_other_kinds,
        }
    }

    fn target_db(&self, db: u64) -> u64 {
        if self.source { self.options.databases.target(db) } else { db }
    }

    #[inline]
    fn admits(&mut self, event: &Event<'_>) -> bool {
        let own = match event {
            Event::Entry(entry) => self.check(&entry.head),
            Event::ValueStart(head) => {
                self.skipping = !self.check(head);
                !self.skipping
            }
            Event::ValuePart(_) => !self.skipping,
            Event::ValueEnd => !std::mem::take(&mut self.skipping),
            _ => true,
        };
        let admitted = own && self.filter.admits(event);
        let kinds = &self.options.selection.kinds;
        if admitted && !kinds.is_empty() {
            let head = match event {
                Event::Entry(entry) => Some(&entry.head),
                Event::ValueStart(head) => Some(head),
                _ => None,
            };
            self.of_other_kinds += u64::from(head.is_some_and(|head| !kinds.contains(&head.ty.kind())));
        }
        admitted
    }

    fn check(&mut self, head: &EntryHead<'_>) -> bool {
        let is_bookkeeping = |pattern: &KeyPattern| pattern.matches(head.key);
        if self.slots.is_some_and(|slots| !slots.contains(slot(head.key))) {
            self.stray += 1;
        } else if self.options.bookkeeping.iter().any(is_bookkeeping) {
            self.bookkeeping += 1;
        } else {
            return true;
        }
        false
    }
}

impl SideReport {
    fn add(&mut self, reading: &Reading) {
        self.parts.push(match &reading.summary.version {
            Some(version) => format!("{} ({version})", reading.name),
            None => reading.name.clone(),
        });
        self.empty += reading.summary.empty;
        self.bookkeeping += reading.bookkeeping;
        self.stray += reading.stray;
        let (all, more) = (&mut self.left_out, &reading.left_out);
        all.database += more.database;
        all.kind += more.kind;
        all.no_match += more.no_match;
        all.excluded += more.excluded;
        all.slot += more.slot;
    }
}

/// The function libraries of a side: hashes of their code by name. Shards of a cluster should agree.
#[derive(Debug, Default)]
struct Libraries(BTreeMap<Vec<u8>, BTreeSet<u128>>, u64);

impl Libraries {
    fn add(&mut self, summary: &SnapshotSummary) {
        self.1 += 1;
        for (name, code) in &summary.functions {
            self.0.entry(name.clone()).or_default().insert(*code);
        }
    }

    fn compare(
        &self,
        target: &Self,
        see: &mut impl FnMut(Difference) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let names: BTreeSet<_> = self.0.keys().chain(target.0.keys()).collect();
        for name in names {
            let kind = match (self.0.get(name), target.0.get(name)) {
                (Some(source), Some(target)) if source == target => continue,
                (Some(_), Some(_)) => DifferenceKind::Value,
                (Some(_), None) => DifferenceKind::LackTarget,
                (None, _) => DifferenceKind::LackSource,
            };
            see(Difference::of_function(name, kind))?;
        }
        Ok(())
    }
}
