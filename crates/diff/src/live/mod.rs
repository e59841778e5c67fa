//! Comparing two live sides key by key, in rounds.

mod ask;
mod barrier;
mod big;
mod census;
mod compare;
mod contents;
mod databases;
mod differing;
mod finding;
mod functions;
mod glance;
mod guess;
mod nodes;
mod options;
mod quick;
mod raw;
mod read;
mod repair;
mod rounds;
mod run;
mod scan;
mod short;
mod suspects;
mod sweep;
mod values;
mod wire;
mod work;

pub(crate) use ask::ask;
pub use options::{BarrierBy, Depth, LiveOptions, Sample, UnknownBarrier, UnknownDepth, WrongSample};
pub use quick::quick;
pub use repair::{RepairOptions, RepairReport, RepairWhat, UnknownRepair};
pub use suspects::Suspects;

use keyferry_client::Endpoint;
use tokio::runtime::Runtime;

use crate::changed::ChangedKeys;
use crate::error::Error;
use crate::options::DiffOptions;
use crate::progress::{DiffProgress, Phase};
use crate::report::DiffReport;
use crate::results::DifferenceSink;
use run::Run;

/// A comparison of two live sides key by key, both directions in one run.
///
/// Keys are found with `SCAN` on both sides, clusters at every primary, and read in bulk, as what their names
/// suggest that they are. What is not found to be the same so is looked at closely: strings by `MGET`, other values by `DUMP`,
/// whose payloads are compared as bytes and decoded only where these differ; big keys in parts. Keys that differ are
/// looked at again in further rounds, so that what was under way arrives: only what differs in the last round is told.
///
/// ```no_run
/// use keyferry_diff::{Difference, LiveDiff};
///
/// let mut diff = LiveDiff::new("redis://old-host".parse()?, "redis+cluster://new-1,new-2".parse()?);
/// diff.live_mut().sample = Some("1%".parse()?);
/// let mut differences: Vec<Difference> = Vec::new();
/// let report = diff.run(&mut differences)?;
/// println!("{report}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LiveDiff {
    sides: [Endpoint; 2],
    options: DiffOptions,
    live: LiveOptions,
    progress: DiffProgress,
}

impl LiveDiff {
    /// Of these two, with default options.
    pub fn new(source: Endpoint, target: Endpoint) -> Self {
        Self {
            sides: [source, target],
            options: DiffOptions::default(),
            live: LiveOptions::default(),
            progress: DiffProgress::default(),
        }
    }

    /// The options that all comparisons have, to be changed.
    pub fn options_mut(&mut self) -> &mut DiffOptions {
        &mut self.options
    }

    /// The options of comparing key by key, to be changed.
    pub fn live_mut(&mut self) -> &mut LiveOptions {
        &mut self.live
    }

    /// A view of how far it is.
    pub fn progress(&self) -> DiffProgress {
        self.progress.clone()
    }

    /// Compares, and gives every difference to `sink`, in no order. Those of rounds before the last go to
    /// [`DifferenceSink::suspect`].
    ///
    /// Blocks; it works on threads of its own, so it may be called from anywhere.
    ///
    /// # Errors
    ///
    /// Whenever it cannot be told whether the sides are equal; differences that were given out before are true.
    pub fn run(self, sink: &mut dyn DifferenceSink) -> Result<DiffReport, Error> {
        self.enter(Keys::All, sink)
    }

    /// Looks again at what differed in snapshots of the same two sides, with the same options, and gives what still does to
    /// `sink`. The comparison by snapshots counts as the first round.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn settle(
        self,
        suspects: Suspects,
        snapshots: DiffReport,
        sink: &mut dyn DifferenceSink,
    ) -> Result<DiffReport, Error> {
        self.enter(Keys::Suspects(suspects, Box::new(snapshots)), sink)
    }

    /// Compares the keys that a journal says were touched, in both directions, and functions. Everything else is taken for equal, as a
    /// comparison before has shown it to be: [`ChangedOptions::since`](crate::ChangedOptions::since). What the journal cannot tell
    /// by key is compared as a whole. Samples do not apply.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_changed(
        self,
        changed: &ChangedKeys,
        sink: &mut dyn DifferenceSink,
    ) -> Result<DiffReport, Error> {
        self.enter(Keys::Changed(changed), sink)
    }

    fn enter(self, keys: Keys<'_>, sink: &mut dyn DifferenceSink) -> Result<DiffReport, Error> {
        let progress = self.progress.clone();
        let parallel = self.live.parallel;
        let result = on_thread(move || {
            let mut runtime = runtime_of(1)?;
            let mut run = runtime.block_on(Run::new(self))?;
            let threads = run.servers().min(parallel);
            if threads > 1 {
                runtime = runtime_of(threads)?;
            }
            let result = runtime.block_on(async move {
                match keys {
                    Keys::All => run.all(sink).await,
                    Keys::Suspects(suspects, snapshots) => run.settle(suspects, *snapshots, sink).await,
                    Keys::Changed(changed) => run.changed(changed, sink).await,
                }
            });
            runtime.shutdown_background();
            result
        });
        progress.enter(Phase::Done);
        result
    }
}

/// Which keys are looked at.
enum Keys<'a> {
    All,
    /// Those that differed in snapshots, and the report on these.
    Suspects(Suspects, Box<DiffReport>),
    Changed(&'a ChangedKeys),
}

/// Runs a future on a runtime and a thread of its own, since the caller's may be in a runtime already.
pub(crate) fn on_runtime<T: Send>(future: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
    on_thread(move || {
        let runtime = runtime_of(1)?;
        let result = runtime.block_on(future);
        runtime.shutdown_background();
        result
    })
}

/// Runs something on a thread of its own.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("diff".to_owned());
        let thread = thread.spawn_scoped(scope, work).map_err(Error::Thread)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A runtime of so many threads, or as many as there are cores.
///
/// One thread reads faster than two servers answer: between more of them tasks would be handed to and fro for nothing.
fn runtime_of(threads: usize) -> Result<Runtime, Error> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = match threads.min(cores) {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    builder.enable_all().build().map_err(Error::Thread)
}
