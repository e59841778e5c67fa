//! Looking at both sides before a migration, and saying what would end badly.
//!
//! [`Migration::precheck`] takes the migration as it would run and gives a [`Report`]: each [`Item`] passes, is worth
//! knowing, or fails, with the evidence and what can be done. Before every run the quick items are looked at by themselves; a
//! failure that is not in [`Options::ignore`](crate::Options::ignore) ends the run before anything is written, unless the run goes
//! on with an earlier one (its journal holds something, or the target knows how far it is): what passes is waited for there, and the report tells the failure.
//!
//! It reads only. The load at the source is that of a few `INFO`, `CONFIG GET` and `SCAN` of a hundred keys; with
//! [`Depth::Full`] also `MEMORY USAGE` and `DUMP` of the smaller ones of ten thousand keys.

mod contents;
mod estimate;
mod item;
mod items;
mod losses;
mod plan;
mod report;
mod sample;
mod survey;
pub(crate) mod trial;

use keyferry_client::{Error as ClientError, ServerInfo};
use serde::Serialize;

use self::{
    contents::Contents,
    estimate::WriteRates,
    report::Judge,
    sample::Sample,
    survey::{End, Surveyed},
};
pub use self::{
    estimate::Estimates,
    item::{Item, UnknownItem},
    plan::{Plan, PlannedEnd, PlannedNode},
    report::{Finding, Report, Verdict},
};
use crate::{
    error::Error, fleet, log, migration::Migration, options::Options, report::Ends, sharded::state::State,
};

/// How thoroughly is looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Depth {
    /// Without the items that are [long](Item::is_long): some tenths of a second, as before every run.
    Quick,
    /// All items: seconds.
    Full,
}

/// All that is known when the items are judged.
#[derive(Debug)]
struct Known<'m> {
    options: &'m Options,
    depth: Depth,
    source: Surveyed,
    target: Surveyed,
    sample: Sample,
    rates: WriteRates,
}

/// What was found.
struct Looked<'m> {
    report: Report,
    /// What it is built on, where all servers were reached.
    known: Option<Known<'m>>,
    /// What the servers of source and target are, where they were reached.
    reached: [Option<String>; 2],
}

impl Migration {
    /// Looks at both sides and writes nothing. The migration can be run afterwards.
    ///
    /// What cannot be asked is a finding, not an error: a server that is not reached fails [`Item::Reachable`], and what
    /// could not be looked at because of it is in [`Report::left_out`]. Of a migration from files the target is looked at, and with
    /// [`Depth::Full`] the files, which are read from start to end for that; of what comes from an archive, only the target.
    pub async fn precheck(&self, depth: Depth) -> Report {
        self.look(depth).await.report
    }

    async fn look(&self, depth: Depth) -> Looked<'_> {
        match self.source.servers() {
            None => {
                let (report, target) = self.look_at_files(depth).await;
                Looked { report: report.of_source(true), known: None, reached: [None, target] }
            }
            Some(source) => {
                let (source, target) = tokio::join!(
                    Surveyed::new(End::Source, source),
                    Surveyed::new(End::Target, &self.target)
                );
                let servers = |end: &Result<Surveyed, ClientError>| end.as_ref().ok().map(Surveyed::servers);
                let reached = [servers(&source), servers(&target)];
                let (report, known) = self.look_at_servers(source, target, depth).await;
                Looked { report: report.of_source(false), known, reached }
            }
        }
    }

    async fn look_at_servers(
        &self,
        source: Result<Surveyed, ClientError>,
        target: Result<Surveyed, ClientError>,
        depth: Depth,
    ) -> (Report, Option<Known<'_>>) {
        let ignore = &self.options.ignore;
        let mut findings = items::reach::check(&[(End::Source, &source), (End::Target, &target)]);
        let (Ok(mut source), Ok(mut target)) = (source, target) else {
            return (Report::new(findings, depth, ignore, None), None);
        };
        if let Err(error) = self.keep_part(&mut source, &mut target).await {
            lost(&mut findings, &error);
            return (Report::new(findings, depth, ignore, None), None);
        }
        match Known::new(&self.options, depth, source, target).await {
            Ok(mut known) => {
                if let Err(error) = items::check(&mut known, &mut findings).await {
                    lost(&mut findings, &error);
                }
                let estimates = estimate::estimates(&known.source, &known.rates);
                (Report::new(findings, depth, ignore, estimates), Some(known))
            }
            Err(error) => {
                lost(&mut findings, &error);
                (Report::new(findings, depth, ignore, None), None)
            }
        }
    }

    /// Looks at the target, which comes along where it was reached, and at the files that go there.
    async fn look_at_files(&self, depth: Depth) -> (Report, Option<String>) {
        let target = Surveyed::new(End::Target, &self.target).await;
        let mut findings = items::reach::check(&[(End::Target, &target)]);
        let ignore = &self.options.ignore;
        let Ok(target) = target else { return (Report::new(findings, depth, ignore, None), None) };
        let reached = Some(target.servers());
        let mut contents = None;
        if depth == Depth::Full {
            let paths = self.source.files().unwrap_or_default().to_vec();
            let filter = self.options.active_filter().cloned();
            let servers: Vec<ServerInfo> = target.nodes.iter().map(|node| node.server.clone()).collect();
            let read = move || Contents::read(&paths, filter.as_ref(), servers.iter());
            contents =
                tokio::task::spawn_blocking(read).await.ok().filter(|contents| !contents.files.is_empty());
        }
        let mut known = Known {
            options: &self.options,
            depth,
            source: Surveyed::none(End::Source),
            target,
            sample: contents
                .as_mut()
                .map(|contents| std::mem::take(&mut contents.sample))
                .unwrap_or_default(),
            rates: WriteRates::default(),
        };
        if let Err(error) = items::check_files(&mut known, contents.as_ref(), &mut findings).await {
            lost(&mut findings, &error);
        }
        (Report::new(findings, depth, ignore, None), reached)
    }
}

impl Migration {
    /// Where this is one of several workers, only what it carries over is looked at.
    async fn keep_part(&self, source: &mut Surveyed, target: &mut Surveyed) -> Result<(), ClientError> {
        let (Some(worker), Ok(whole)) = (self.options.active_worker(), self.whole_id()) else {
            return Ok(());
        };
        let node = target.node_of(whole.slot()).and_then(|number| target.nodes.get_mut(number));
        let Some(node) = node else { return Ok(()) };
        // A target that does not tell has no division, as far as we know.
        let state = node.connection.call_frame(["HGETALL", &whole.state_key()]).await?;
        let state = State::read(&state).unwrap_or_default();
        let shards = source.nodes.iter().filter_map(|node| node.slots.clone()).collect();
        if let Some(slots) = fleet::slots_for(worker, &state, shards) {
            source.keep(&slots);
        }
        Ok(())
    }
}

impl<'m> Known<'m> {
    async fn new(
        options: &'m Options,
        depth: Depth,
        mut source: Surveyed,
        target: Surveyed,
    ) -> Result<Self, ClientError> {
        let sample = Sample::take(&mut source, depth).await?;
        let rates = WriteRates::measure(&mut source, depth).await?;
        Ok(Known { options, depth, source, target, sample, rates })
    }
}

/// True when there is something of an earlier run to go on with.
async fn has_begun(migration: &Migration, known: Option<Known<'_>>) -> bool {
    let journal = migration.options.journal.as_deref();
    if journal
        .and_then(|directory| directory.read_dir().ok())
        .is_some_and(|mut entries| entries.next().is_some())
    {
        return true;
    }
    // Or the target knows how far it is.
    let (Some(mut known), Ok(id)) = (known, migration.id()) else { return false };
    let node = known.target.node_of(id.slot()).and_then(|number| known.target.nodes.get_mut(number));
    let Some(node) = node else { return false };
    let reply = node.connection.call_frame(["EXISTS", &id.state_key()]).await;
    reply.is_ok_and(|reply| reply.as_i64() == Some(1))
}

/// A server that went away while it was asked.
fn lost(findings: &mut Vec<Finding>, error: &ClientError) {
    findings.retain(|finding| finding.item != Item::Reachable);
    let mut judge = Judge::new(Item::Reachable);
    judge.fail(format!("lost while it was asked: {error}"), "try again, and see the log of that server");
    findings.push(judge.done());
}

/// Looks at the quick items before a run; a failure ends it, unless it is ignored, the run itself refuses such, or it is a
/// forecast.
pub(crate) async fn before(migration: &Migration, ends: &mut Ends) -> Result<(), Error> {
    if !migration.options.look_first {
        return Ok(());
    }
    let Looked { report, known, reached: [source, target] } = migration.look(Depth::Quick).await;
    // A run that gets there says it in its own words.
    ends.source = ends.source.take().or(source);
    ends.target = ends.target.take().or(target);
    let failures =
        report.failures().filter(|finding| !finding.item.is_refused_anyway() && !finding.item.is_forecast());
    let lines: Vec<String> = failures
        .map(|finding| {
            let (evidence, remedies) = (finding.evidence.join("; "), finding.remedies.join("; "));
            format!("{}: {evidence} ({remedies})", finding.item)
        })
        .collect();
    // Who goes on with what has begun waits for what passes: that is worth more than a clean beginning.
    let goes_on = !lines.is_empty() && has_begun(migration, known).await;
    if goes_on {
        let note = format!(
            "precheck failed, and the run began all the same, as it goes on with an earlier one: {}",
            lines.join("; ")
        );
        ends.notes.push(note);
    }
    migration.meter.set_precheck(report.counts().to_vec());
    log::precheck(&report);
    ends.precheck = Some(report);
    if lines.is_empty() || goes_on { Ok(()) } else { Err(Error::Precheck { failures: lines }) }
}
