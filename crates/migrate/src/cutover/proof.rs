//! Showing that both sides hold the same, while nobody writes.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant, UNIX_EPOCH},
};

use keyferry_client::{Frame, Pipeline};
use keyferry_diff::{ChangedKeys, ChangedOptions, Depth, Difference, DifferenceSink, LiveDiff};
use keyferry_routing::SLOTS;

use super::{applied::number, options::Verify, record, report::ProofReport, side::Side};
use crate::{error::Error, identity::MigrationId, journal::blocking, sharded::slot_key};

/// How soon keys that differ are looked at again: nothing is on its way any more.
const INTERVAL: Duration = Duration::from_millis(100);

/// Differences that are shown.
const SAMPLES: usize = 10;

/// Keys of one database at one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    keys: u64,
    /// How many of them expire.
    expires: u64,
}

/// Keys at the source and at the target, by database.
type Counts = BTreeMap<u32, [Count; 2]>;

/// Whose keys are not counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own<'a> {
    pub(super) ids: [&'a MigrationId; 2],
    /// There may be keys of slots.
    pub(super) by_slot: bool,
}

/// Compares both sides.
///
/// # Errors
/// When it cannot be told whether they are equal.
pub(super) async fn prove(
    source: &mut Side,
    target: &mut Side,
    (verify, tolerance): (&Verify, Duration),
    own: Own<'_>,
) -> Result<ProofReport, Error> {
    let begun = Instant::now();
    let mut counts = Counts::new();
    for (number, side) in [&mut *source, &mut *target].into_iter().enumerate() {
        count(side, own, &mut counts, number).await?;
    }
    counts.retain(|_, [from, to]| from.keys + to.keys > 0);
    let keys: u64 = counts.values().map(|[from, _]| from.keys).sum();
    let verify = match verify {
        Verify::Auto if keys <= Verify::FULL_KEYS => Verify::Full,
        Verify::Auto => Verify::Counts,
        other => other.clone(),
    };
    let mut proof = match verify {
        Verify::Counts => by_counts(&counts),
        verify => {
            let sides = [source.endpoint.clone(), target.endpoint.clone()];
            blocking(move || compare(sides, &verify, tolerance)).await?
        }
    };
    proof.counts = counts.iter().map(|(db, [from, to])| (*db, from.keys, to.keys)).collect();
    proof.seconds = begun.elapsed().as_secs_f64();
    Ok(proof)
}

/// Counts the keys of a side, those of migrations left out.
async fn count(
    side: &mut Side,
    own: Own<'_>,
    counts: &mut Counts,
    number_of_side: usize,
) -> Result<(), Error> {
    for number_of in 0..side.nodes.len() {
        let node = &mut side.nodes[number_of];
        let serves = |slot: u16| node.slots.as_ref().is_none_or(|slots| slots.contains(slot));
        let (mut names, mut leases): (Vec<String>, Vec<String>) = Default::default();
        if own.by_slot {
            names.extend((0..SLOTS).filter(|&slot| serves(slot)).map(slot_key));
        }
        for id in own.ids {
            if serves(id.slot()) {
                names.extend([id.state_key(), record::key(id)]);
                leases.push(id.owner_key());
            }
        }
        names.extend_from_slice(&leases);
        let counted = async {
            let mut ask = Pipeline::new();
            names.iter().for_each(|key| {
                ask.push(["EXISTS", key]);
            });
            let there = node.pipeline(&ask).await?;
            let sum = |replies: &[Frame]| replies.iter().map(number).sum::<u64>();
            let expiring = sum(&there[there.len() - leases.len()..]);
            Ok((node.info("keyspace").await?, Count { keys: sum(&there), expires: expiring }))
        };
        let (info, own) = counted.await.map_err(|error| side.failed(error))?;
        for of_db in info.keyspace() {
            let count = &mut counts.entry(of_db.db).or_default()[number_of_side];
            let own = if of_db.db == 0 { own } else { Count::default() };
            count.keys += of_db.keys.saturating_sub(own.keys);
            count.expires += of_db.expires.saturating_sub(own.expires);
        }
    }
    Ok(())
}

fn by_counts(counts: &Counts) -> ProofReport {
    let mut proof = ProofReport {
        how: "numbers of keys in each database".to_owned(),
        leaves_open: Depth::Counts.leaves_open().map(str::to_owned),
        ..ProofReport::default()
    };
    for (db, [from, to]) in counts {
        proof.keys += from.keys;
        if from.keys == to.keys {
            continue;
        }
        let line = format!("database {db}: {} keys at the source, {} at the target", from.keys, to.keys);
        if from.keys.abs_diff(to.keys) <= from.expires.max(to.expires) {
            // Servers count keys that have expired and were not removed yet.
            proof.samples.push(format!("{line}, of which some may have expired"));
        } else {
            proof.differences += 1;
            proof.samples.push(line);
        }
    }
    proof.equal = proof.differences == 0;
    proof
}

fn compare(
    sides: [keyferry_client::Endpoint; 2],
    verify: &Verify,
    tolerance: Duration,
) -> Result<ProofReport, Error> {
    let failed =
        |error: keyferry_diff::Error| Error::Cutover { step: "comparing both sides", why: error.to_string() };
    let [source, target] = sides;
    let mut diff = LiveDiff::new(source, target);
    diff.live_mut().interval = INTERVAL;
    diff.live_mut().rounds = 2;
    // What a server before 7.0 cannot tell is made up for by the comparison itself, and noted.
    diff.options_mut().ttl_tolerance = tolerance;
    let mut samples = Samples::default();
    let (mut how, mut leaves_open) = match verify {
        Verify::Sample(share) => {
            diff.live_mut().sample = Some(*share);
            let percent = share.share() * 100.0;
            (
                format!("{percent}% of the keys, chosen at random, with values and deadlines; functions"),
                Some("the other keys were not looked at".to_owned()),
            )
        }
        Verify::Changed { .. } => (
            "every key that was touched since the full comparison, with values and deadlines; functions"
                .to_owned(),
            None,
        ),
        _ => ("every key, with values and deadlines; functions".to_owned(), None),
    };
    let report = match verify {
        Verify::Changed { journal, since } => {
            let mut options = ChangedOptions::default();
            let since = u64::try_from(*since).unwrap_or(0);
            options.since = Some(UNIX_EPOCH + Duration::from_secs(since));
            let changed = ChangedKeys::read(journal, &options).map_err(failed)?;
            if !changed.widened().is_empty() {
                how = format!("{how}; more than the journal names, as {}", changed.widened().join("; "));
            }
            diff.run_changed(&changed, &mut samples).map_err(failed)?
        }
        _ => diff.run(&mut samples).map_err(failed)?,
    };
    if report.unsettled > 0 {
        leaves_open = Some(format!("{} keys changed whenever they were looked at", report.unsettled));
    }
    Ok(ProofReport {
        how,
        equal: report.differences.total() == 0 && report.unsettled == 0,
        keys: report.both,
        differences: report.differences.total(),
        samples: samples.0.into_iter().chain(report.notes).collect(),
        leaves_open,
        ..ProofReport::default()
    })
}

/// The first differences.
#[derive(Debug, Default)]
struct Samples(Vec<String>);

impl DifferenceSink for Samples {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        if self.0.len() < SAMPLES {
            let key = difference.key.escape_ascii();
            self.0.push(format!("{} of {key} in database {}", difference.kind, difference.db));
        }
        Ok(())
    }
}
