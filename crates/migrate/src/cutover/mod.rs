//! Cutting over: from a migration that runs to applications that write to the target, with proof, and with a way back.
//!
//! A [`Cutover`] takes both sides of a migration that runs ([`Until::Forever`](crate::Until::Forever), exactly once), which it knows by
//! its name and by what the target keeps of it. It does, in this order:
//!
//! 1. **gates**: what has to hold before anything is done. [`Cutover::rehearse`] looks at them, and does nothing.
//! 2. **stop**: writes are stopped at the source ([`StopWrites`]). From here on a window runs ([`CutoverOptions::window`]): what is not
//!    done in time is put back, and writes go on.
//! 3. **drain**: the target has everything that the source has written, with exact deadlines.
//! 4. **proof**: both sides are compared ([`Verify`]); what differs ends it, and everything is put back.
//! 5. **fence**: the migration is kept from the target for good. A process of it that was asleep is refused when it wakes.
//! 6. **positions**: where the way back begins, exactly behind what has been written, in the stream of each primary of the target; not with
//!    [`CutoverOptions::one_way`], for targets that let nobody replicate.
//! 7. **switch**: what the caller does to have the applications write to the target. The source takes no writes until it is done.
//! 8. **release**, **clean**: the way back is prepared at the source; what the target keeps of the migration is removed, but for what
//!    keeps it out.
//!
//! The way back is a migration with [`Options::from_now`](crate::Options::from_now), from the target to the source, named
//! [`CutoverReport::back_id`]. [`Cutover::back`] cuts over to the source again, by the same steps.
//!
//! Each step is noted in the target before it is done (`keyferry:cutover:{id}`), so that a run that was killed is gone on with by the
//! next, or undone by [`Cutover::undo`]. Which of both: killed before the fence, it is put back and begun anew; behind it, it goes on.
//!
//! **Promises**: no acknowledged write is lost, as long as nobody writes to the source behind this program's back (who does is reported,
//! with samples), and the stream of the target is followed by the way back before its backlog is over.
//!
//! ```no_run
//! use keyferry_migrate::cutover::Cutover;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let cutover = Cutover::new("redis://old.example:6379".parse()?, "redis://new.example:6379".parse()?);
//! let report = cutover.run(async |_| Ok(println!("the applications are told here"))).await;
//! println!("{}", report.to_markdown());
//! # Ok(())
//! # }
//! ```

mod applied;
mod gates;
mod hand_over;
mod options;
mod proof;
mod record;
mod report;
mod run;
mod side;
mod stop;
mod tail;

use std::{fmt, sync::Arc, time::Duration};

use keyferry_client::Endpoint;

use self::run::Run;
pub use self::{
    options::{CutoverOptions, StopWrites, UnknownStop, Verify},
    report::{
        CutoverOutcome, CutoverReport, Gate, GateVerdict, PlaceReport, ProofReport, StepReport, WritesReport,
    },
};
use crate::{error::Error, identity::MigrationId, migration::Migration};

/// What the name of a way back ends with.
const BACK: &str = ".back";

/// Who is told when a step begins, and how long after the beginning of all.
type Observer = Arc<dyn Fn(&'static str, Duration) + Send + Sync>;

/// A cutover that has not begun.
#[derive(Clone)]
pub struct Cutover {
    /// The side that is written to.
    source: Endpoint,
    /// The side that is to be.
    target: Endpoint,
    options: CutoverOptions,
    /// It is a way back that is cut over.
    back: bool,
    observer: Option<Observer>,
}

/// What a switch is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Switch {
    /// The migration that is cut over.
    pub id: String,
    /// The URL of the side that was written to, without its password.
    pub from: String,
    /// The URL of the side that is written to from now on, without its password.
    pub to: String,
}

impl fmt::Debug for Cutover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cutover")
            .field("source", &self.source)
            .field("target", &self.target)
            .field("options", &self.options)
            .field("back", &self.back)
            .finish_non_exhaustive()
    }
}

impl Cutover {
    /// Of the migration from one side to the other.
    #[must_use]
    pub fn new(source: Endpoint, target: Endpoint) -> Self {
        Cutover { source, target, options: CutoverOptions::default(), back: false, observer: None }
    }

    /// Of the way back of the migration from `source` to `target`, which was cut over before: `source` is written to again then.
    #[must_use]
    pub fn back(source: Endpoint, target: Endpoint) -> Self {
        Cutover { back: true, ..Self::new(source, target) }
    }

    /// Settings to change before it runs.
    pub fn options_mut(&mut self) -> &mut CutoverOptions {
        &mut self.options
    }

    /// `told` is called when a step begins, with its name ([`StepReport::name`]) and the time since the run began.
    #[must_use]
    pub fn on_step(self, told: impl Fn(&'static str, Duration) + Send + Sync + 'static) -> Self {
        Cutover { observer: Some(Arc::new(told)), ..self }
    }

    /// Looks at the gates, and does nothing.
    pub async fn rehearse(&self) -> CutoverReport {
        self.report(async |run| run.rehearse().await).await
    }

    /// Cuts over. `switch` has the applications write to the other side; when it fails, writes are still stopped, and another run goes
    /// on with it.
    pub async fn run(&self, switch: impl AsyncFnOnce(Switch) -> Result<(), String>) -> CutoverReport {
        self.report(async |run| run.cut_over(switch).await).await
    }

    /// Undoes what a run has left that was killed, or whose switch failed: writes go on at the source, and the migration may be started
    /// again. Refused when the target has been written to, or when the switch was done: then the way back is [`Cutover::back`].
    pub async fn undo(&self) -> CutoverReport {
        self.report(async |run| run.undo().await).await
    }

    /// The migration that leads back, once it has been cut over: incremental only, and until it is stopped.
    ///
    /// # Errors
    /// [`Error::InvalidId`].
    pub fn way_back(&self) -> Result<Migration, Error> {
        let (_, back) = self.ids()?;
        let (source, target) = self.sides();
        let mut migration = Migration::new(target.clone(), source.clone());
        migration.options_mut().id = Some(back.to_string());
        migration.options_mut().from_now = true;
        Ok(migration)
    }

    /// The side that is written to, and the other.
    fn sides(&self) -> (&Endpoint, &Endpoint) {
        if self.back { (&self.target, &self.source) } else { (&self.source, &self.target) }
    }

    /// The names of the migration that is cut over, and of that which leads back from then on.
    fn ids(&self) -> Result<(MigrationId, MigrationId), Error> {
        let forward = match &self.options.id {
            Some(id) => MigrationId::parse(id)?,
            None => MigrationId::derive(&self.source.to_string(), &self.target.to_string()),
        };
        let back = MigrationId::parse(&format!("{forward}{BACK}"))?;
        Ok(if self.back { (back, forward) } else { (forward, back) })
    }

    async fn report(
        &self,
        work: impl AsyncFnOnce(&mut Run<'_>) -> Result<CutoverOutcome, Error>,
    ) -> CutoverReport {
        let (source, target) = self.sides();
        let ends = (source.to_string(), target.to_string());
        let stop = self.options.stop.to_string();
        let failed = |error: &Error| CutoverOutcome::Failed { error: error.to_line() };
        let (id, back) = match self.ids() {
            Ok(ids) => ids,
            Err(error) => {
                let id = self.options.id.clone().unwrap_or_default();
                let mut report = CutoverReport::new(id, String::new(), ends, stop);
                report.outcome = failed(&error);
                return report;
            }
        };
        let way_back = if self.options.one_way { String::new() } else { back.to_string() };
        let report = CutoverReport::new(id.to_string(), way_back, ends, stop);
        let mut run = Run::new((source, target), (id, back), &self.options, self.observer.clone(), report);
        let outcome = work(&mut run).await.unwrap_or_else(|error| failed(&error));
        run.finish(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_back_has_a_name_and_leads_forward_again() {
        let (a, b): (Endpoint, Endpoint) = ("redis://a:1".parse().unwrap(), "redis://b:1".parse().unwrap());
        let forward = Cutover::new(a.clone(), b.clone());
        let (id, back) = forward.ids().unwrap();
        assert_eq!(id, MigrationId::derive("redis://a:1", "redis://b:1"));
        assert_eq!(back.to_string(), format!("{id}.back"));
        let mut returning = Cutover::back(a, b);
        assert_eq!(returning.ids().unwrap(), (back, id));
        assert_eq!(returning.sides().0.to_string(), "redis://b:1");
        returning.options_mut().id = Some("x".repeat(60));
        assert!(returning.ids().is_err());
    }
}
