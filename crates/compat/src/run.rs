//! Running all cases of a suite.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyferry_client::Protocol;
use tokio::sync::Mutex;

use crate::baseline::Baseline;
use crate::case::Case;
use crate::gate::Claim;
use crate::needs::Needs;
use crate::report::{CaseResult, Outcome, Report};
use crate::session::{self, Transcript};
use crate::suite::Suite;
use crate::target::Target;

/// How cases are run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The protocols in which each case is run. Default: both.
    pub protocols: Vec<Protocol>,
    /// What cases may do to the server besides writing to their own place. Default: scripts and messages.
    pub allow: Needs,
    /// Only cases that change nothing at all.
    pub read_only: bool,
    /// What the server is taken for, instead of what it says that it is.
    pub claim: Option<Claim>,
    /// How many cases run at the same time. Default: 16.
    pub parallel: usize,
    /// How long to wait for a reply. Default: 10 seconds.
    pub timeout: Duration,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            protocols: vec![Protocol::Resp2, Protocol::Resp3],
            allow: Needs::SCRIPTING | Needs::PUBSUB,
            read_only: false,
            claim: None,
            parallel: 16,
            timeout: Duration::from_secs(10),
        }
    }
}

impl RunOptions {
    /// What the server is taken for.
    pub(crate) fn claim_of(&self, target: &Target) -> Claim {
        self.claim.clone().unwrap_or_else(|| target.claim())
    }

    /// Why a case is not run, if it is not.
    pub(crate) fn reason_to_skip(&self, case: &Case, target: &Target, claim: &Claim) -> Option<String> {
        if case.since().is_some_and(|gate| !gate.admits(claim)) {
            return case.since().map(|gate| format!("since {gate}"));
        }
        if case.until().is_some_and(|gate| gate.admits(claim)) {
            return case.until().map(|gate| format!("until {gate}"));
        }
        let mut lacking = case.needs().without(self.allow | Needs::ALONE);
        if self.read_only {
            if !case.is_read_only() {
                return Some("it may change something".to_owned());
            }
            // Looking at a server needs no place of its own.
            lacking = case.needs() & (Needs::CLUSTER | Needs::STANDALONE);
        }
        if target.is_cluster() {
            lacking = lacking.without(Needs::CLUSTER);
        } else {
            lacking = lacking.without(Needs::STANDALONE);
        }
        if target.own_database {
            lacking = lacking.without(Needs::DATABASE);
        }
        (lacking != Needs::NONE).then(|| format!("needs {lacking}"))
    }
}

/// Runs the cases of a suite on a server, several at a time, and deletes what they leave behind.
///
/// Each case gets connections and keys of its own. Cases that are about the whole server or database run one after the
/// other in the end. A failure that the baseline knows for this server counts as known.
pub async fn run(suite: &Suite, target: &Target, options: &RunOptions, baseline: &Baseline) -> Report {
    let begun = Instant::now();
    let claim = options.claim_of(target);
    let shared = Arc::new(Shared {
        target: target.clone(),
        options: options.clone(),
        jobs: jobs(suite, target, options, &claim),
        next: AtomicUsize::new(0),
        results: Mutex::new(Vec::new()),
    });
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..options.parallel.max(1) {
        let shared = Arc::clone(&shared);
        workers.spawn(async move { shared.work().await });
    }
    while workers.join_next().await.is_some() {}
    for job in shared.jobs.iter().filter(|job| job.skip.is_none() && is_alone(&job.case)) {
        shared.run(job).await;
    }
    let mut notes = Vec::new();
    if !options.read_only {
        match target.sweep().await {
            Ok(0) => {}
            Ok(swept) => notes.push(format!("{swept} keys that no command named were deleted in the end")),
            Err(error) => {
                notes.push(format!("what is left below {} could not be deleted: {error}", target.prefix))
            }
        }
    }
    let mut results = std::mem::take(&mut *shared.results.lock().await);
    results.sort_by_key(|(at, _)| *at);
    let mut results: Vec<CaseResult> = results.into_iter().map(|(_, result)| result).collect();
    notes.extend(baseline.apply(&claim, target.is_cluster(), &mut results));
    Report::new(target, suite, results, notes, begun.elapsed())
}

/// Whether a case must not run beside others.
pub(crate) fn is_alone(case: &Case) -> bool {
    case.needs().intersects(Needs::ALONE | Needs::ADMIN | Needs::DATABASE | Needs::FLUSH)
}

fn jobs(suite: &Suite, target: &Target, options: &RunOptions, claim: &Claim) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (group, case) in suite.cases() {
        let skip = options.reason_to_skip(case, target, claim);
        for &protocol in &options.protocols {
            if case.only.is_some_and(|only| only != protocol) {
                continue;
            }
            let unspoken = protocol == Protocol::Resp3 && !target.speaks_resp3();
            jobs.push(Job {
                number: jobs.len(),
                group: group.name.clone(),
                case: case.clone(),
                protocol,
                skip: skip.clone().or_else(|| unspoken.then(|| "the server does not speak RESP3".to_owned())),
            });
        }
    }
    jobs
}

struct Job {
    number: usize,
    group: String,
    case: Case,
    protocol: Protocol,
    skip: Option<String>,
}

struct Shared {
    target: Target,
    options: RunOptions,
    jobs: Vec<Job>,
    next: AtomicUsize,
    results: Mutex<Vec<(usize, CaseResult)>>,
}

impl Shared {
    async fn work(&self) {
        while let Some(job) = self.jobs.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            match &job.skip {
                Some(reason) => {
                    self.done(job, Outcome::Skipped { reason: reason.clone() }, Duration::ZERO).await;
                }
                None if is_alone(&job.case) => {}
                None => self.run(job).await,
            }
        }
    }

    async fn run(&self, job: &Job) {
        let begun = Instant::now();
        let names = self.target.names(job.number, job.protocol);
        let cleaned = names.clone();
        let timeout = self.options.timeout;
        let run = session::run(&self.target, &job.case, names, job.protocol, timeout, true).await;
        let mut outcome = match run {
            Ok(Transcript { failure: None, .. }) => Outcome::Passed,
            Ok(Transcript { failure: Some(failure), .. }) => Outcome::Failed { failure },
            Err(error) => Outcome::Broken { why: error.to_string() },
        };
        if !self.options.read_only
            && let Err(error) = self.target.clean(&job.case, &cleaned, timeout).await
            && outcome == Outcome::Passed
        {
            outcome = Outcome::Broken { why: format!("its keys could not be deleted: {error}") };
        }
        self.done(job, outcome, begun.elapsed()).await;
    }

    async fn done(&self, job: &Job, outcome: Outcome, took: Duration) {
        let result = CaseResult {
            group: job.group.clone(),
            name: job.case.name.clone(),
            protocol: match job.protocol {
                Protocol::Resp2 => 2,
                Protocol::Resp3 => 3,
            },
            outcome,
            seconds: took.as_secs_f64(),
        };
        self.results.lock().await.push((job.number, result));
    }
}
