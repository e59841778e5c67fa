//! Comparing what servers count, without looking at any key.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use keyferry_client::{Endpoint, Info};

use super::databases::counts;
use super::nodes::{self, LiveSide};
use super::options::Depth;
use super::{functions, on_runtime};
use crate::difference::{Difference, DifferenceKind};
use crate::error::Error;
use crate::options::DiffOptions;
use crate::report::DiffReport;
use crate::results::DifferenceSink;

/// Compares how many keys there are in each database, and how many of them expire, from what the servers of two sides count;
/// and function libraries.
///
/// It takes a few round trips whatever the data. That the numbers agree proves little: see
/// [`Depth::leaves_open`]; that they do not may come from keys that a migration keeps for itself, or from keys that have
/// expired and were not removed yet, which the servers count. Differences of a database are those of a key without name,
/// [`DifferenceKind::Keys`] and [`DifferenceKind::Expires`]. Of the selection only the databases can be kept to.
///
/// # Errors
///
/// When a server cannot be asked; [`Error::NotCounted`] where keys are selected by anything but their database.
pub fn quick(
    source: &Endpoint,
    target: &Endpoint,
    options: &DiffOptions,
    sink: &mut dyn DifferenceSink,
) -> Result<DiffReport, Error> {
    let chosen = &options.selection.databases;
    let mut others = options.selection.clone();
    others.databases.clear();
    if !others.is_everything() {
        return Err(Error::NotCounted);
    }
    on_runtime(async move {
        let started = Instant::now();
        let sides = [
            Arc::new(LiveSide::find(source, options.patience).await?),
            Arc::new(LiveSide::find(target, options.patience).await?),
        ];
        let mut report = DiffReport { depth: Depth::Counts, ..DiffReport::default() };
        report.selected = !chosen.is_empty();
        let (mut source, mut target) = (counts(&sides[0]).await?, counts(&sides[1]).await?);
        let becomes = |db: u64| u32::try_from(options.databases.target(db)).unwrap_or(u32::MAX);
        if report.selected {
            source.retain(|db, _| chosen.contains(&u64::from(*db)));
            target.retain(|db, _| chosen.iter().any(|from| becomes(*from) == *db));
        }
        let mut mapped = super::databases::Counts::new();
        for (db, (keys, expires)) in source {
            let entry = mapped.entry(becomes(u64::from(db))).or_default();
            *entry = (entry.0 + keys, entry.1 + expires);
        }
        let databases: BTreeSet<u32> = mapped.keys().chain(target.keys()).copied().collect();
        let mut differences = Vec::new();
        for db in databases {
            let a = mapped.get(&db).copied().unwrap_or_default();
            let b = target.get(&db).copied().unwrap_or_default();
            report.source.keys += a.0;
            report.target.keys += b.0;
            report.notes.push(format!(
                "db {db}: {} keys, {} of them expire | {} keys, {} of them expire",
                a.0, a.1, b.0, b.1
            ));
            if a.0 != b.0 {
                differences.push(Difference::of_database(u64::from(db), DifferenceKind::Keys, [a.0, b.0]));
            }
            if a.1 != b.1 {
                differences.push(Difference::of_database(u64::from(db), DifferenceKind::Expires, [a.1, b.1]));
            }
        }
        if options.functions {
            differences.extend(functions::compare(&sides, &mut report).await?);
        }
        let scripts = [scripts(&sides[0]).await?, scripts(&sides[1]).await?];
        if scripts[0] != scripts[1]
            && let [Some(a), Some(b)] = scripts
        {
            report.notes.push(format!(
                "{a} and {b} cached scripts: nothing that is kept, clients load what they need again"
            ));
        }
        for (number, side) in sides.iter().enumerate() {
            let about = super::run::side_report(&mut report, number);
            about.name = side.name().to_owned();
            let (vendor, version) = (&side.server().vendor, side.server().version);
            about.parts = side
                .nodes()
                .all
                .iter()
                .map(|n| format!("{} ({vendor} {version})", n.connect.address()))
                .collect();
        }
        report.both = report.source.keys.min(report.target.keys);
        for difference in differences {
            report.differences.add(difference.kind);
            sink.difference(&difference).map_err(Error::Results)?;
        }
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    })
}

/// How many scripts the first server has cached.
async fn scripts(side: &LiveSide) -> Result<Option<u64>, Error> {
    let Some(node) = side.nodes().all.first().cloned() else { return Ok(None) };
    let info: Info = nodes::connect(&node.connect, 0).await?.info("memory").await?;
    Ok(info.get_as("number_of_cached_scripts"))
}
