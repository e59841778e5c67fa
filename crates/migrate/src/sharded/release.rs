//! Putting the exact deadlines in place of held ones: see [`crate::hold`].
//!
//! Keys that are known to be concerned are looked at in runs, behind a gate of their slots: nothing is under way for them
//! meanwhile, and nothing is handed over before. What a key has then is read, and where that is a held deadline, the exact
//! one is put. Where too many are concerned to be remembered, or where somebody else may have left some, the whole target is
//! searched. Everything can be repeated, and is until a look has come to its end with no slot having changed hands.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use keyferry_resp::{Command, ErrorCode, Frame};
use keyferry_routing::{SLOTS, slot};
use tokio_util::sync::CancellationToken;

use super::{
    Target,
    aside::Aside,
    settled::Settled,
    sweep::{Attempts, Missed, Owners, Scan, scanned},
};
use crate::{
    error::Error,
    expiry,
    hold::{Mode, NEAR, Noted},
    progress::Meter,
};

/// How often is looked whether something is to be done.
const PERIOD: Duration = Duration::from_millis(100);

/// How often those are looked at whose deadlines were near.
const NEAR_PERIOD: Duration = Duration::from_secs(1);

/// A target that has not come for so long to where the source was is behind.
const BEHIND: Duration = Duration::from_secs(1);

/// A source that has not written for so long has nothing under way.
const QUIET: Duration = Duration::from_secs(1);

/// Keys behind one gate, at most.
const RUN: usize = 1000;

/// Slots that are waited for at once, where all are: what comes for others goes on.
const AT_ONCE: u16 = 256;

/// Fields of a hash looked at in one go.
const FIELDS: &str = "500";

/// Which held deadlines are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// Those that are not near.
    Far,
    All,
}

/// Releases held deadlines of one target.
pub(crate) struct Release {
    target: Arc<Target>,
    links: Vec<Lag>,
    meters: Vec<Meter>,
    settled: Settled,
}

/// Tells whether a link is behind.
struct Lag {
    received: u64,
    since: Instant,
}

/// A key to look at, and whether it may have fields with held deadlines.
type Concerned = (Bytes, bool);

impl Release {
    pub(crate) fn new(target: Arc<Target>, meters: Vec<Meter>) -> Self {
        let links = meters.iter().map(|_| Lag { received: 0, since: Instant::now() }).collect();
        Release { target, links, meters, settled: Settled::default() }
    }

    /// Releases when the target has caught up, and holds again when it is behind, until it is ended or the target has failed.
    /// A future that is dropped may leave lanes waiting for ever.
    pub(crate) async fn follow(mut self, end: CancellationToken) -> Self {
        let hold = Arc::clone(self.target.hold());
        let mut looked = Instant::now();
        // When the source has come to rest, what is near is put at once.
        let mut last = Which::Far;
        while !end.is_cancelled() {
            let level = tokio::time::timeout(PERIOD, hold.level.notified()).await.is_ok();
            let behind = self.is_behind();
            if let Some(two_way) = self.target.two_way().cloned().filter(|of| of.wants_exact_deadlines()) {
                hold.set_mode(Mode::Off).await;
                if !hold.is_empty()
                    && let Err(error) = self.release(Which::All).await
                {
                    self.target.core().fail(error);
                    return self;
                }
                two_way.has_exact_deadlines();
            }
            let mode = *hold.mode().await;
            // Where it is told in both directions, that would never end.
            if !behind
                && self.target.two_way().is_none()
                && let Err(error) = self.settled.tell(&self.target, &self.meters).await
            {
                self.target.core().fail(error);
                return self;
            }
            let which = match mode {
                Mode::Off => continue,
                Mode::All if level && !behind && !hold.is_released() => {
                    hold.set_mode(Mode::Near).await;
                    Which::Far
                }
                Mode::Near if behind => {
                    hold.set_mode(Mode::All).await;
                    continue;
                }
                Mode::Near if !hold.is_empty() => {
                    let which = self.nearness();
                    if which == last && looked.elapsed() < NEAR_PERIOD {
                        continue;
                    }
                    which
                }
                Mode::All | Mode::Near => continue,
            };
            (looked, last) = (Instant::now(), which);
            if let Err(error) = self.release(which).await {
                self.target.core().fail(error);
                return self;
            }
            hold.set_released();
        }
        self
    }

    /// Releases everything, as nothing more will come. Unless the migration is `done`, near deadlines stay held where the source
    /// was being written to just now: what prolongs them may come to the next run only.
    pub(crate) async fn finish(&self, done: bool) -> Result<(), Error> {
        let hold = self.target.hold();
        if *hold.mode().await == Mode::Off {
            return Ok(());
        }
        hold.set_mode(Mode::Near).await;
        self.release(if done { Which::All } else { self.nearness() }).await?;
        hold.set_released();
        Ok(())
    }

    fn nearness(&self) -> Which {
        if self.meters.iter().all(|link| link.quiet_for() >= QUIET) { Which::All } else { Which::Far }
    }

    /// True when some link has not come in time to where it was.
    fn is_behind(&mut self) -> bool {
        let mut behind = false;
        for (lag, meter) in self.links.iter_mut().zip(&self.meters) {
            if meter.applied_offset.load(Ordering::Relaxed) >= lag.received {
                *lag = Lag { received: meter.received_offset.load(Ordering::Relaxed), since: Instant::now() };
            }
            behind |= lag.since.elapsed() >= BEHIND || meter.is_in_trouble();
        }
        behind
    }

    async fn release(&self, which: Which) -> Result<(), Error> {
        let (target, hold) = (&*self.target, self.target.hold());
        let attempts = Attempts::new(target);
        loop {
            let noted = hold.take_notes();
            // What was held before has been handed over then, and gates come behind it; what comes later is noted.
            hold.barrier().await;
            target.served().await?;
            let owners = Owners::of(target);
            let done = match &noted {
                Noted::Keys(keys) => self.noted(keys, which).await,
                Noted::Unknown => self.search(which).await,
            };
            hold.end_look();
            let missed = match done {
                Ok(()) if owners == Owners::of(target) => return Ok(()),
                Ok(()) => Missed::Lost(None),
                Err(missed) => missed,
            };
            match noted {
                Noted::Keys(keys) => keys.iter().for_each(|(db, key, fields)| hold.note(*db, key, *fields)),
                Noted::Unknown => hold.doubt_notes(),
            }
            attempts.again(missed, &Command::new(["PTTL"])).await?;
        }
    }

    /// Slots of which something has been held back: it is not in the lanes, and will be held when it comes.
    fn held_back(&self) -> HashSet<u16> {
        let core = self.target.core();
        let links = (0..core.link_count()).filter_map(|link| u16::try_from(link).ok());
        let held: Vec<_> = links.map(|link| core.held_slots(link)).collect();
        (0..SLOTS).filter(|&slot| held.iter().any(|slots| slots.contains(slot))).collect()
    }

    async fn noted(&self, keys: &[(u32, Box<[u8]>, bool)], which: Which) -> Result<(), Missed> {
        let held_back = self.held_back();
        let mut runs: BTreeMap<(String, u32), Vec<Concerned>> = BTreeMap::new();
        for (db, key, fields) in keys {
            if held_back.contains(&slot(key)) {
                self.target.hold().note(*db, key, *fields);
                continue;
            }
            let address = Owners::address(&self.target, slot(key)).ok_or(Missed::Lost(None))?;
            runs.entry((address, *db)).or_default().push((Bytes::copy_from_slice(key), *fields));
        }
        let mut aside = Aside::new(&self.target);
        for ((address, db), keys) in &runs {
            for run in keys.chunks(RUN) {
                self.run(&mut aside, address, *db, run, which).await?;
            }
            confirm(&mut aside, address).await?;
        }
        Ok(())
    }

    /// Looks for held deadlines at the whole target.
    async fn search(&self, which: Which) -> Result<(), Missed> {
        let (target, hold) = (&*self.target, self.target.hold());
        hold.counts.searches.fetch_add(1, Ordering::Relaxed);
        // What is under way now would be passed by.
        for slots in (0..SLOTS).step_by(usize::from(AT_ONCE)) {
            let gate = target.quiet(slots..(slots + AT_ONCE).min(SLOTS)).await.map_err(Missed::Failed)?;
            target.core().open_gate(gate);
        }
        if !self.held_back().is_empty() {
            hold.doubt_notes();
        }
        let mut aside = Aside::new(target);
        for address in Owners::addresses(target) {
            let fields = databases_with_fields(&mut aside, &address).await?;
            for db in 0..=target.databases().last() {
                let mut scan = Scan::new(&address, db, None);
                while let Some(mut keys) = scan.next(&mut aside).await? {
                    // Other workers may be behind.
                    keys.retain(|key| target.is_ours(slot(key)));
                    let (_, deadlines) = self.deadlines(&mut aside, &address, db, &keys).await?;
                    let held = keys.into_iter().zip(deadlines);
                    let held = held.filter(|(_, deadline)| expiry::exact(*deadline).is_some());
                    let held: Vec<Concerned> = held.map(|(key, _)| (key, false)).collect();
                    self.run(&mut aside, &address, db, &held, which).await?;
                }
                if !fields.contains(&db) {
                    continue;
                }
                let mut scan = Scan::new(&address, db, Some("hash"));
                while let Some(keys) = scan.next(&mut aside).await? {
                    for key in keys.into_iter().filter(|key| target.is_ours(slot(key))) {
                        let (_, held) = self.fields(&mut aside, &address, db, &key).await?;
                        if !held.is_empty() {
                            self.run(&mut aside, &address, db, &[(key, true)], which).await?;
                        }
                    }
                }
            }
            confirm(&mut aside, &address).await?;
        }
        Ok(())
    }

    /// Looks at keys of one node while nothing is under way for them, and puts exact deadlines.
    async fn run(
        &self,
        aside: &mut Aside<'_>,
        address: &str,
        db: u32,
        keys: &[Concerned],
        which: Which,
    ) -> Result<(), Missed> {
        if keys.is_empty() {
            return Ok(());
        }
        let slots: HashSet<u16> = keys.iter().map(|(key, _)| slot(key)).collect();
        let gate = self.target.quiet(slots).await.map_err(Missed::Failed)?;
        let done = self.run_behind_gate(aside, address, db, keys, which).await;
        self.target.core().open_gate(gate);
        done
    }

    async fn run_behind_gate(
        &self,
        aside: &mut Aside<'_>,
        address: &str,
        db: u32,
        keys: &[Concerned],
        which: Which,
    ) -> Result<(), Missed> {
        let hold = self.target.hold();
        let near = i64::try_from(NEAR.as_millis()).unwrap_or(i64::MAX);
        let names: Vec<Bytes> = keys.iter().map(|(key, _)| key.clone()).collect();
        let (now, deadlines) = self.deadlines(aside, address, db, &names).await?;
        let mut put = Vec::new();
        for (key, exact) in
            names.iter().zip(deadlines).filter_map(|(key, at)| Some((key, expiry::exact(at)?)))
        {
            if which == Which::Far && exact < now + near {
                hold.note(db, key, false);
                continue;
            }
            hold.sample(key);
            let at = hold.put(exact, now);
            hold.counts.over.fetch_add(u64::from(at.is_some_and(|at| at <= now)), Ordering::Relaxed);
            put.push(match at {
                Some(at) => Command::new([b"PEXPIREAT", &key[..], at.to_string().as_bytes()]),
                None => Command::new([b"PERSIST", &key[..]]),
            });
        }
        if !put.is_empty() {
            let replies = aside.many(address, db, &put).await?;
            let released = replies.iter().filter(|reply| reply.as_i64() == Some(1)).count();
            hold.counts.released.fetch_add(released as u64, Ordering::Relaxed);
        }
        for (key, _) in keys.iter().filter(|(_, fields)| *fields) {
            let (now, held) = self.fields(aside, address, db, key).await?;
            let mut put = Vec::new();
            for (exact, fields) in held {
                if which == Which::Far && exact < now + near {
                    hold.note(db, key, true);
                    continue;
                }
                hold.sample(key);
                hold.counts.released_fields.fetch_add(fields.len() as u64, Ordering::Relaxed);
                let (at, count) = (hold.put(exact, now), fields.len().to_string());
                if at.is_some_and(|at| at <= now) {
                    hold.counts.over_fields.fetch_add(fields.len() as u64, Ordering::Relaxed);
                }
                let at = at.map(|at| at.to_string());
                let mut args: Vec<&[u8]> = match &at {
                    Some(at) => vec![b"HPEXPIREAT", key, at.as_bytes()],
                    None => vec![b"HPERSIST", key],
                };
                args.extend([&b"FIELDS"[..], count.as_bytes()]);
                args.extend(fields.iter().map(|field| &field[..]));
                put.push(Command::new(args));
            }
            if !put.is_empty() {
                aside.many(address, db, &put).await?;
            }
        }
        Ok(())
    }

    /// The node's time, and the deadlines of keys by its clock; 0 for those that have none or are not there.
    async fn deadlines(
        &self,
        aside: &mut Aside<'_>,
        address: &str,
        db: u32,
        keys: &[Bytes],
    ) -> Result<(i64, Vec<i64>), Missed> {
        if keys.is_empty() {
            return Ok((0, Vec::new()));
        }
        let absolute = self.target.tells_expiry_time();
        let ask: &[u8] = if absolute { b"PEXPIRETIME" } else { b"PTTL" };
        let mut commands = vec![Command::new(["TIME"])];
        commands.extend(keys.iter().map(|key| Command::new([ask, key])));
        let replies = aside.many(address, db, &commands).await?;
        let now = time(replies.first()).ok_or_else(|| strange(address, "TIME"))?;
        let of = |reply: &Frame| match reply.as_i64() {
            Some(at) if at >= 0 && absolute => at,
            Some(left) if left >= 0 => now.saturating_add(left),
            _ => 0,
        };
        Ok((now, replies.iter().skip(1).map(of).collect()))
    }

    /// The node's time, and the fields of a hash that have held deadlines, by their exact ones.
    async fn fields(
        &self,
        aside: &mut Aside<'_>,
        address: &str,
        db: u32,
        key: &Bytes,
    ) -> Result<(i64, BTreeMap<i64, Vec<Bytes>>), Missed> {
        let mut held: BTreeMap<i64, Vec<Bytes>> = BTreeMap::new();
        let (mut cursor, mut now) = (Bytes::from_static(b"0"), 0);
        loop {
            let scan = Command::new([b"HSCAN", &key[..], &cursor, b"COUNT", FIELDS.as_bytes(), b"NOVALUES"]);
            let replies = aside.many(address, db, &[Command::new(["TIME"]), scan]).await;
            let Some(replies) = of_hash(replies)? else { return Ok((now, held)) };
            now = time(replies.first()).unwrap_or(now);
            let (next, fields) = scanned(replies.get(1)).ok_or_else(|| strange(address, "HSCAN"))?;
            for fields in fields.chunks(RUN) {
                let count = fields.len().to_string();
                let mut args: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
                args.extend(fields.iter().map(|field| &field[..]));
                let replies = of_hash(aside.many(address, db, &[Command::new(args)]).await)?;
                // A hash that is gone meanwhile has no array.
                let Some(Frame::Array(times)) = replies.as_ref().and_then(|replies| replies.first()) else {
                    continue;
                };
                for (field, at) in fields.iter().zip(times) {
                    if let Some(exact) = at.as_i64().and_then(expiry::exact) {
                        held.entry(exact).or_default().push(field.clone());
                    }
                }
            }
            if next == "0" {
                return Ok((now, held));
            }
            cursor = next;
        }
    }
}

/// Replies of a key that is a hash; none when it is something else by now.
fn of_hash(replies: Result<Vec<Frame>, Missed>) -> Result<Option<Vec<Frame>>, Missed> {
    match replies {
        Err(Missed::Refused(_, error)) if error.kind() == ErrorCode::WrongType => Ok(None),
        replies => replies.map(Some),
    }
}

/// Waits until a replica has what was put, where there is one.
async fn confirm(aside: &mut Aside<'_>, address: &str) -> Result<(), Missed> {
    if aside.confirmed(address).await { Ok(()) } else { Err(Missed::Lost(None)) }
}

/// The databases of a node in which hashes have fields that expire.
async fn databases_with_fields(aside: &mut Aside<'_>, address: &str) -> Result<HashSet<u32>, Missed> {
    let replies = aside.many(address, 0, &[Command::new(["INFO", "keyspace"])]).await?;
    let text = replies.first().and_then(Frame::as_bytes).cloned().unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    // `db0:keys=…,expires=…,subexpiry=1` (Redis 7.4), `keys_with_volatile_items=1` (Valkey 9).
    let database = |line: &str| {
        let (name, facts) = line.trim().split_once(':')?;
        let count = facts.split(',').find_map(|fact| {
            let (name, count) = fact.split_once('=')?;
            matches!(name, "subexpiry" | "keys_with_volatile_items").then(|| count.parse::<u64>().ok())?
        })?;
        (count > 0).then(|| name.strip_prefix("db")?.parse().ok())?
    };
    Ok(text.lines().filter_map(database).collect())
}

/// The reply to `TIME`, as Unix time in milliseconds.
fn time(reply: Option<&Frame>) -> Option<i64> {
    let Some(Frame::Array(parts)) = reply else { return None };
    let number =
        |at: usize| -> Option<i64> { std::str::from_utf8(parts.get(at)?.as_bytes()?).ok()?.parse().ok() };
    Some(number(0)?.checked_mul(1000)? + number(1)? / 1000)
}

fn strange(address: &str, command: &str) -> Missed {
    Missed::Failed(Error::Internal(format!("target {address} answered {command} with something else")))
}
