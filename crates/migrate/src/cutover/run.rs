//! A cutover at work: its steps in order, and what is done when one of them fails.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keyferry_client::Endpoint;
use keyferry_replication::Position;
use tokio::time::timeout_at;

use super::{
    Observer, Switch, applied,
    gates::Gates,
    hand_over,
    options::{CutoverOptions, StopWrites},
    proof::{self, Own},
    record::{Record, Step},
    report::{CutoverOutcome, CutoverReport, PlaceReport, StepReport, WritesReport},
    side::Side,
    stop,
    tail::{self, Look, Tail},
};
use crate::{error::Error, identity::MigrationId};

/// How long it is tried to put things back.
const PUT_BACK: Duration = Duration::from_secs(30);

/// How often.
const RETRY: Duration = Duration::from_millis(300);

/// A cutover at work.
pub(super) struct Run<'c> {
    ends: (&'c Endpoint, &'c Endpoint),
    id: MigrationId,
    back: MigrationId,
    options: &'c CutoverOptions,
    observer: Option<Observer>,
    report: CutoverReport,
    begun: Instant,
    step_begun: Option<Instant>,
    /// When writes were stopped, in this run.
    stopped: Option<Instant>,
}

impl<'c> Run<'c> {
    pub(super) fn new(
        ends: (&'c Endpoint, &'c Endpoint),
        (id, back): (MigrationId, MigrationId),
        options: &'c CutoverOptions,
        observer: Option<Observer>,
        report: CutoverReport,
    ) -> Self {
        Run {
            ends,
            id,
            back,
            options,
            observer,
            report,
            begun: Instant::now(),
            step_begun: None,
            stopped: None,
        }
    }

    /// The report, when all is over.
    pub(super) fn finish(mut self, outcome: CutoverOutcome) -> CutoverReport {
        self.end_step();
        self.report.outcome = outcome;
        self.report
    }

    /// Looks at the gates.
    pub(super) async fn rehearse(&mut self) -> Result<CutoverOutcome, Error> {
        let (mut source, mut target) = self.sides().await?;
        self.step("gates");
        if let Some(record) = self.found(&mut target).await? {
            self.report.notes.push(format!(
                "a cutover is under way (step {}): running it goes on with it, --undo undoes it",
                record.step.name()
            ));
        }
        let ready = self.gates(&mut source, &mut target, false).await?;
        Ok(CutoverOutcome::Rehearsed { ready })
    }

    /// Cuts over, or goes on with what a run before has left.
    pub(super) async fn cut_over(
        &mut self,
        switch: impl AsyncFnOnce(Switch) -> Result<(), String>,
    ) -> Result<CutoverOutcome, Error> {
        let (mut source, mut target) = self.sides().await?;
        let record = match self.found(&mut target).await? {
            Some(record) if record.step == Step::Stopping => {
                self.step("put-back");
                self.put_back(&mut source, &mut target, &record).await?;
                self.note(
                    "a run before was killed while writes were stopped: it was put back, and begun anew",
                );
                None
            }
            other => other,
        };
        let record = match record {
            Some(record) => {
                self.note(&format!(
                    "a run before was killed behind step {}: gone on with",
                    record.step.name()
                ));
                self.report.stop = record.stop.to_string();
                match self.go_on(&mut source, &mut target, record).await? {
                    Ok(record) => record,
                    Err(outcome) => return Ok(outcome),
                }
            }
            None => match self.stop_and_fence(&mut source, &mut target).await? {
                Ok(record) => record,
                Err(outcome) => return Ok(outcome),
            },
        };
        self.complete(&mut source, &mut target, record, switch).await
    }

    /// Undoes what a run before has left.
    pub(super) async fn undo(&mut self) -> Result<CutoverOutcome, Error> {
        let (mut source, mut target) = self.sides().await?;
        let Some(record) = self.found(&mut target).await? else {
            return Err(Error::Cutover {
                step: "undoing",
                why: format!(
                    "no cutover of {} is under way; where it is done, the way back is --back",
                    self.id
                ),
            });
        };
        self.report.stop = record.stop.to_string();
        if record.step == Step::Switched {
            let why = "the applications have been switched already: run it again to end it, and then --back"
                .to_owned();
            return Err(Error::Cutover { step: "undoing", why });
        }
        self.step("put-back");
        if is_untold(&record) && !self.options.ignore_warnings {
            let why = "the target lets nobody see what is written to it (--one-way), so nobody can tell whether it was written to since: what \
                       was, would be at the target only; --ignore-warnings undoes it all the same"
                .to_owned();
            return Err(Error::Cutover { step: "undoing", why });
        }
        let written = written(&mut target, &record.begins).await?;
        if written.commands > 0 {
            return Err(Error::Cutover {
                step: "undoing",
                why: format!(
                    "the target has been written to ({} commands, as {}): run it again to end it, and then --back",
                    written.commands,
                    written.samples.join("; ")
                ),
            });
        }
        self.put_back(&mut source, &mut target, &record).await?;
        Ok(CutoverOutcome::Undone)
    }

    /// What a run before has left.
    async fn found(&mut self, target: &mut Side) -> Result<Option<Record>, Error> {
        let record = Record::read(target, &self.id).await?;
        self.report.under_way = record.is_some();
        Ok(record)
    }

    async fn sides(&mut self) -> Result<(Side, Side), Error> {
        Ok((Side::source(self.ends.0).await?, Side::target(self.ends.1).await?))
    }

    async fn gates(&mut self, source: &mut Side, target: &mut Side, act: bool) -> Result<bool, Error> {
        let mut gates = Gates::default();
        let looked =
            gates.look((source, target), &self.id, self.options, act, &mut self.report.foreign).await;
        let open = gates.are_open();
        self.report.gates = gates.0;
        looked.map(|()| open)
    }

    /// Everything up to where the migration is kept from the target. The outcome, where it did not come to that.
    async fn stop_and_fence(
        &mut self,
        source: &mut Side,
        target: &mut Side,
    ) -> Result<Result<Record, CutoverOutcome>, Error> {
        self.step("gates");
        if !self.gates(source, target, true).await? {
            return Ok(Err(CutoverOutcome::Refused));
        }
        let mut record = Record {
            step: Step::Stopping,
            stop: self.options.stop.clone(),
            off: stop::users_on(source, &self.options.stop).await?,
            ends: Vec::new(),
            begins: Vec::new(),
            stopped_at: unix_ms(),
        };
        self.step("stop");
        // Whether it was written or not is not known where that fails.
        self.report.under_way = true;
        record.write(target, &self.id).await?;
        self.stopped = Some(Instant::now());
        let until = tokio::time::Instant::now() + self.options.window;
        let shown = match timeout_at(until, self.drain_and_prove(source, target, &mut record)).await {
            Ok(shown) => shown,
            Err(_) => {
                let window = self.options.window.as_secs_f64();
                let step = self.report.steps.last().map_or("stop", |step| step.name);
                Ok(Some(format!("it was not done within {window} s (step {step}; see --window)")))
            }
        };
        let why = match shown {
            Ok(None) => match self.fence(source, target, &mut record).await {
                Ok(()) => return Ok(Ok(record)),
                Err(error) => error.to_line(),
            },
            Ok(Some(why)) => why,
            Err(error) => error.to_line(),
        };
        self.step("put-back");
        self.put_back(source, target, &record).await?;
        Ok(Err(CutoverOutcome::PutBack { why }))
    }

    /// Why it does not go on, if it does not.
    async fn drain_and_prove(
        &mut self,
        source: &mut Side,
        target: &mut Side,
        record: &mut Record,
    ) -> Result<Option<String>, Error> {
        stop::stop(source, record, self.options.window).await?;
        self.step("drain");
        let standings = source.standings().await?;
        applied::wait(source, target, &self.id, &standings).await?;
        record.ends = standings
            .iter()
            .map(|standing| (Position::after_snapshot(standing.id, standing.offset), standing.expired))
            .collect();
        self.report.ends = places(source, &record.ends);
        self.step("proof");
        let ids = [&self.id, &self.back];
        let own = Own { ids, by_slot: source.is_cluster() || target.is_cluster() };
        let proof =
            proof::prove(source, target, (&self.options.verify, self.options.expiry_tolerance), own).await?;
        let equal = proof.equal;
        let why = format!("both sides differ: {}", proof.samples.join("; "));
        self.report.proof = Some(proof);
        if !equal {
            return Ok(Some(why));
        }
        Ok(None)
    }

    /// Keeps the migration from the target, and notes where the way back begins.
    async fn fence(
        &mut self,
        source: &mut Side,
        target: &mut Side,
        record: &mut Record,
    ) -> Result<(), Error> {
        self.step("fence");
        record.step = Step::Fencing;
        record.write(target, &self.id).await?;
        // Before the fence: who is killed in between leaves writes stopped, which is better than writes that nobody carries over.
        stop::stop_for_good(source, record).await?;
        let written = written(source, &record.ends).await?;
        if written.commands > 0 {
            let samples = written.samples.join("; ");
            return Err(Error::Cutover {
                step: "stopping writes",
                why: format!("the source was written to all the same: {samples}"),
            });
        }
        let why = format!("cut over at {} (Unix ms): {} is written to now", unix_ms(), self.report.target);
        hand_over::fence(self.ends.1, &self.id, &why).await?;
        if !self.options.one_way {
            self.step("positions");
            record.begins = hand_over::mark(target, &self.id).await?;
        }
        record.step = Step::Fenced;
        record.write(target, &self.id).await?;
        self.report.begins = places(target, &record.begins);
        Ok(())
    }

    /// Goes on behind where a run before has ended. The outcome, where that cannot be.
    async fn go_on(
        &mut self,
        source: &mut Side,
        target: &mut Side,
        mut record: Record,
    ) -> Result<Result<Record, CutoverOutcome>, Error> {
        self.report.ends = places(source, &record.ends);
        self.report.begins = places(target, &record.begins);
        if record.step == Step::Switched {
            return Ok(Ok(record));
        }
        self.step("stop");
        // It may have ended meanwhile, as by a restart of the source.
        stop::stop_for_good(source, &record).await?;
        let stray = written(source, &record.ends).await;
        let why = match stray {
            Ok(stray) if stray.commands == 0 => None,
            Ok(stray) => {
                let why = format!("the source was written to meanwhile: {}", stray.samples.join("; "));
                self.report.stray = stray;
                Some(why)
            }
            Err(error) => {
                Some(format!("nobody can tell whether the source was written to: {}", error.to_line()))
            }
        };
        if let Some(why) = why {
            if is_untold(&record) {
                let why = format!(
                    "{why}; whether the target was, too, nobody can tell (--one-way): compare both sides, and decide which one goes on"
                );
                return Err(Error::Cutover { step: "going on with a run before", why });
            }
            let written = written(target, &record.begins).await?;
            if written.commands > 0 {
                let samples = written.samples.join("; ");
                let why = format!(
                    "{why}; and so was the target: {samples}; compare both sides, and decide which one goes on"
                );
                return Err(Error::Cutover { step: "going on with a run before", why });
            }
            self.step("put-back");
            self.put_back(source, target, &record).await?;
            let why = format!("{why}; start the migration again, and cut over anew");
            return Ok(Err(CutoverOutcome::PutBack { why }));
        }
        if record.step == Step::Fencing {
            self.fence(source, target, &mut record).await?;
        }
        Ok(Ok(record))
    }

    /// The switch, and what comes behind it.
    async fn complete(
        &mut self,
        source: &mut Side,
        target: &mut Side,
        mut record: Record,
        switch: impl AsyncFnOnce(Switch) -> Result<(), String>,
    ) -> Result<CutoverOutcome, Error> {
        // The source takes writes of the way back by now where only those of the applications were stopped.
        let prepared = record.stop != StopWrites::Pause;
        let leads_back = !is_untold(&record);
        if record.step == Step::Fenced {
            if prepared && leads_back {
                hand_over::prepare(source, target, &self.back, &record.begins).await?;
            }
            self.step("switch");
            let (from, to) = (self.report.source.clone(), self.report.target.clone());
            if let Err(why) = switch(Switch { id: self.id.to_string(), from, to }).await {
                return Ok(CutoverOutcome::SwitchFailed { why });
            }
            // Also where a run before has stopped them.
            let stopped = Duration::from_millis(unix_ms().saturating_sub(record.stopped_at));
            self.report.write_stop_seconds = Some(stopped.as_secs_f64());
            record.step = Step::Switched;
            record.write(target, &self.id).await?;
        }
        self.step("release");
        stop::release(source, &record).await?;
        if !prepared && leads_back {
            hand_over::prepare(source, target, &self.back, &record.begins).await?;
        }
        match written(source, &record.ends).await {
            Ok(stray) => self.report.stray = stray,
            Err(error) => {
                let why = error.to_line();
                self.note(&format!(
                    "nobody can tell whether the source was written to behind its end: {why}"
                ));
            }
        }
        if self.report.stray.commands > 0 {
            self.note("the source was written to behind its end: the target does not have these writes");
        }
        if let StopWrites::Acl(users) = &record.stop {
            let users = users.join(", ");
            self.note(&format!(
                "users that are still off at the source: {users}; cutting back turns none of them on"
            ));
        }
        self.step("clean");
        let by_slot = source.is_cluster() || target.is_cluster();
        hand_over::clean(target, &self.id, by_slot).await?;
        Record::remove(target, &self.id).await?;
        self.report.under_way = false;
        Ok(CutoverOutcome::CutOver)
    }

    /// Lets writes go on at the source, and the migration at the target; tried until it is done, for a while.
    async fn put_back(&mut self, source: &mut Side, target: &mut Side, record: &Record) -> Result<(), Error> {
        let since = Instant::now();
        loop {
            let done = async {
                if record.step >= Step::Fencing {
                    hand_over::unfence(target, &self.id).await?;
                }
                stop::go_on(source, record).await?;
                if record.step >= Step::Fenced {
                    hand_over::forget(source, &self.back).await?;
                }
                Record::remove(target, &self.id).await
            };
            match done.await {
                Ok(()) => break,
                Err(error) if since.elapsed() >= PUT_BACK => return Err(error),
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
        self.report.under_way = false;
        self.report.write_stop_seconds = self.stopped.map(|since| since.elapsed().as_secs_f64());
        if record.step >= Step::Fencing {
            self.note("the migration may have been refused meanwhile, and have ended: start it again, it goes on where it was");
        }
        Ok(())
    }

    fn note(&mut self, note: &str) {
        self.report.notes.push(note.to_owned());
    }

    fn step(&mut self, name: &'static str) {
        self.end_step();
        self.report.steps.push(StepReport { name, at: unix_ms(), seconds: 0.0 });
        self.step_begun = Some(Instant::now());
        if let Some(observer) = &self.observer {
            observer(name, self.begun.elapsed());
        }
    }

    fn end_step(&mut self) {
        if let (Some(last), Some(begun)) = (self.report.steps.last_mut(), self.step_begun.take()) {
            last.seconds = begun.elapsed().as_secs_f64();
        }
    }
}

/// True behind the fence of a cutover without a way back: what is written to the target is not seen.
fn is_untold(record: &Record) -> bool {
    record.step >= Step::Fenced && record.begins.is_empty()
}

/// What has been written at a side since these places, but for what servers do by themselves.
async fn written(side: &mut Side, since: &[(Position, u64)]) -> Result<WritesReport, Error> {
    let mut found = WritesReport::default();
    let standings = side.standings().await?;
    for ((node, standing), (place, expired)) in side.nodes.iter().zip(&standings).zip(since) {
        let tail: Tail = tail::read(node, place, standing.offset, Look::Writes).await?;
        let commands = tail.writes_beside(standing.expired.saturating_sub(*expired));
        if commands > 0 {
            found.commands += commands;
            found.samples.extend(tail.samples);
        }
    }
    Ok(found)
}

fn places(side: &Side, places: &[(Position, u64)]) -> Vec<PlaceReport> {
    let place = |(node, (position, _)): (&super::side::Node, &(Position, u64))| PlaceReport {
        server: node.name(),
        position: position.to_string(),
    };
    side.nodes.iter().zip(places).map(place).collect()
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
