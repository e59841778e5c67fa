//! The same cases on two servers, whose replies are compared with each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyferry_client::{Error as ClientError, Frame, Protocol};
use tokio::sync::Mutex;

use crate::baseline::Baseline;
use crate::case::Case;
use crate::command::Names;
use crate::expect::{Expect, close};
use crate::needs::Needs;
use crate::report::{CaseResult, Failure, Outcome, Report};
use crate::run::RunOptions;
use crate::session::{self, Got, Transcript};
use crate::suite::Suite;
use crate::target::Target;

/// How replies of two servers are compared.
#[derive(Clone, Debug, Default)]
pub struct ReferenceOptions {
    /// How cases are run; `claim` is of the reference.
    pub run: RunOptions,
    /// Compare the whole text of errors, not only the first word.
    pub error_texts: bool,
}

/// Runs the cases that apply to the reference on both servers, and compares every reply of the target with that of the
/// reference: type, value, order where it is defined, error by its code.
///
/// The expectations of a case say which parts of a reply may differ (times, identifiers, order), not what the reply should
/// be. What both get wrong alike is no difference.
///
/// # Errors
///
/// When one of the two is a cluster and the other is not: their replies cannot be compared.
pub async fn compare(
    suite: &Suite,
    target: &Target,
    reference: &Target,
    options: &ReferenceOptions,
    baseline: &Baseline,
) -> Result<Report, crate::Error> {
    if target.is_cluster() != reference.is_cluster() {
        let kind = |one: &Target| if one.is_cluster() { "a cluster" } else { "one server" };
        return Err(crate::Error::Unlike(format!(
            "the target is {}, the reference is {}: compare two of a kind",
            kind(target),
            kind(reference)
        )));
    }
    let begun = Instant::now();
    let claim = options.run.claim_of(reference);
    let mut jobs = Vec::new();
    for (group, case) in suite.cases() {
        // What the target cannot do is a difference; what it must not be asked is not.
        let skip = options.run.reason_to_skip(case, reference, &claim).or_else(|| {
            let own =
                case.needs().contains(Needs::DATABASE) && !target.own_database && !options.run.read_only;
            own.then(|| "needs database at the target".to_owned())
        });
        for &protocol in &options.run.protocols {
            if case.only.is_none_or(|only| only == protocol) {
                let unspoken = protocol == Protocol::Resp3 && !reference.speaks_resp3();
                let skip = skip
                    .clone()
                    .or_else(|| unspoken.then(|| "the reference does not speak RESP3".to_owned()));
                jobs.push((group.name.clone(), case.clone(), protocol, skip));
            }
        }
    }
    let shared = Arc::new(Shared {
        target: target.clone(),
        reference: reference.clone(),
        options: options.clone(),
        jobs,
        next: AtomicUsize::new(0),
        results: Mutex::new(Vec::new()),
    });
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..options.run.parallel.max(1) {
        let shared = Arc::clone(&shared);
        workers.spawn(async move { shared.work().await });
    }
    while workers.join_next().await.is_some() {}
    for (at, job) in shared.jobs.iter().enumerate() {
        if job.3.is_none() && crate::run::is_alone(&job.1) {
            shared.run(at, job).await;
        }
    }
    let mut notes = Vec::new();
    if !options.run.read_only {
        for one in [target, reference] {
            if let Err(error) = one.sweep().await {
                notes.push(format!("what is left at {} could not be deleted: {error}", one.place()));
            }
        }
    }
    let mut results = std::mem::take(&mut *shared.results.lock().await);
    results.sort_by_key(|(at, _)| *at);
    let mut results: Vec<CaseResult> = results.into_iter().map(|(_, result)| result).collect();
    notes.extend(baseline.apply(&target.claim(), target.is_cluster(), &mut results));
    let mut report = Report::new(target, suite, results, notes, begun.elapsed());
    report.reference = Some(format!("{} at {}", reference.server(), reference.place()));
    Ok(report)
}

type Job = (String, Case, Protocol, Option<String>);

struct Shared {
    target: Target,
    reference: Target,
    options: ReferenceOptions,
    jobs: Vec<Job>,
    next: AtomicUsize,
    results: Mutex<Vec<(usize, CaseResult)>>,
}

impl Shared {
    async fn work(&self) {
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = self.jobs.get(at) else { return };
            match &job.3 {
                Some(reason) => {
                    self.done(at, job, Outcome::Skipped { reason: reason.clone() }, Duration::ZERO).await
                }
                None if crate::run::is_alone(&job.1) => {}
                None => self.run(at, job).await,
            }
        }
    }

    async fn run(&self, at: usize, job: &Job) {
        let begun = Instant::now();
        let (_, case, protocol, _) = job;
        // One after the other: the two URLs may lead to the same server.
        let outcome = match self.side(&self.reference, at, case, *protocol).await {
            Err(error) => Outcome::Broken { why: format!("reference: {error}") },
            Ok(right) => match self.side(&self.target, at, case, *protocol).await {
                Err(error) => Outcome::Broken { why: format!("target: {error}") },
                Ok(left) => match self.difference(case, *protocol, &right, &left) {
                    None => Outcome::Passed,
                    Some(failure) => Outcome::Failed { failure },
                },
            },
        };
        self.done(at, job, outcome, begun.elapsed()).await;
    }

    async fn side(
        &self,
        side: &Target,
        at: usize,
        case: &Case,
        protocol: Protocol,
    ) -> Result<Transcript, ClientError> {
        let names = side.names(at, protocol);
        let cleaned = names.clone();
        let run = session::run(side, case, names, protocol, self.options.run.timeout, false).await?;
        if !self.options.run.read_only {
            side.clean(case, &cleaned, self.options.run.timeout).await?;
        }
        Ok(run)
    }

    /// The first step with different replies.
    fn difference(
        &self,
        case: &Case,
        protocol: Protocol,
        right: &Transcript,
        left: &Transcript,
    ) -> Option<Failure> {
        let alike =
            Alike { protocol, right: &right.names, left: &left.names, error_texts: self.options.error_texts };
        for (at, step) in case.steps.iter().enumerate() {
            let (a, b) = (right.got.get(at), left.got.get(at));
            let same = match (a, b) {
                (Some(Got::Reply(a)), Some(Got::Reply(b))) => alike.reply(step.expected(protocol), a, b),
                (Some(Got::Nothing), Some(Got::Nothing)) | (None, None) => true,
                (Some(Got::Closed), Some(Got::Closed)) => true,
                (Some(Got::Silence(_)), Some(Got::Silence(_))) => true,
                _ => false,
            };
            if !same {
                let shown = |got: Option<&Got>, names: &Names| {
                    got.map_or("(the case ended before this step)".to_owned(), |got| got.shown(names))
                };
                return Some(Failure {
                    step: at + 1,
                    sent: session::sent(step, &right.names),
                    expected: shown(a, &right.names),
                    got: shown(b, &left.names),
                });
            }
        }
        None
    }

    async fn done(&self, at: usize, job: &Job, outcome: Outcome, took: Duration) {
        let result = CaseResult {
            group: job.0.clone(),
            name: job.1.name.clone(),
            protocol: if job.2 == Protocol::Resp3 { 3 } else { 2 },
            outcome,
            seconds: took.as_secs_f64(),
        };
        self.results.lock().await.push((at, result));
    }
}

/// Whether replies of two servers are alike.
struct Alike<'a> {
    protocol: Protocol,
    right: &'a Names,
    left: &'a Names,
    error_texts: bool,
}

impl Alike<'_> {
    fn reply(&self, expect: Option<&Expect>, right: &Frame, left: &Frame) -> bool {
        let (right, left) = (right.value(), left.value());
        if let (Some(a), Some(b)) = (right.error_reply(), left.error_reply()) {
            return a.code() == b.code() && (!self.error_texts || self.text(a.text(), b.text()));
        }
        // Both are what the case lets pass: that is as alike as it wants them.
        let loose = expect.is_some_and(|expect| is_loose(expect) || holds_loose(expect));
        if loose
            && let Some(expect) = expect
            && expect.matches(right, self.protocol, self.right)
            && expect.matches(left, self.protocol, self.left)
        {
            return true;
        }
        let any_order = matches!(expect, Some(Expect::Set(_) | Expect::Unordered(_) | Expect::Map(_)));
        match (right, left) {
            (Frame::Simple(a), Frame::Simple(b))
            | (Frame::Bulk(a), Frame::Bulk(b))
            | (Frame::BigNumber(a), Frame::BigNumber(b)) => self.text(a, b) || numbers(right, left, expect),
            (Frame::Verbatim { format: f, text: a }, Frame::Verbatim { format: g, text: b }) => {
                f == g && self.text(a, b)
            }
            (Frame::Integer(a), Frame::Integer(b)) => a == b,
            (Frame::Boolean(a), Frame::Boolean(b)) => a == b,
            (Frame::Double(a), Frame::Double(b)) => close(a.get(), b.get()),
            (Frame::Null(a), Frame::Null(b)) => a == b,
            (Frame::Set(a), Frame::Set(b)) => self.unordered(a, b),
            (Frame::Array(a), Frame::Array(b)) if matches!(expect, Some(Expect::Map(_))) => {
                self.unordered_pairs(&in_pairs(a), &in_pairs(b)) && a.len() == b.len()
            }
            (Frame::Array(a), Frame::Array(b)) if any_order => self.unordered(a, b),
            (Frame::Array(a), Frame::Array(b)) | (Frame::Push(a), Frame::Push(b)) => {
                let inner: &[Expect] = match expect {
                    Some(Expect::Array(items) | Expect::Begins(items)) => items,
                    _ => &[],
                };
                a.len() == b.len()
                    && a.iter().zip(b).enumerate().all(|(at, (a, b))| self.reply(inner.get(at), a, b))
            }
            (Frame::Map(a), Frame::Map(b)) => {
                let refs = |pairs: &'_ [(Frame, Frame)]| {
                    pairs.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>()
                };
                a.len() == b.len() && self.unordered_pairs(&refs(a), &refs(b))
            }
            _ => false,
        }
    }

    /// Texts are the same but for what each server's names stand for.
    fn text(&self, right: &[u8], left: &[u8]) -> bool {
        if right == left {
            return true;
        }
        match (self.right.contract(right), self.left.contract(left)) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        }
    }

    fn unordered(&self, right: &[Frame], left: &[Frame]) -> bool {
        let mut rest: Vec<&Frame> = left.iter().collect();
        right.len() == left.len()
            && right.iter().all(|a| {
                let at = rest.iter().position(|b| self.reply(None, a, b));
                at.map(|at| rest.swap_remove(at)).is_some()
            })
    }

    fn unordered_pairs(&self, right: &[(Frame, Frame)], left: &[(Frame, Frame)]) -> bool {
        let mut rest: Vec<&(Frame, Frame)> = left.iter().collect();
        right.iter().all(|(k, v)| {
            let at = rest.iter().position(|(l, w)| self.reply(None, k, l) && self.reply(None, v, w));
            at.map(|at| rest.swap_remove(at)).is_some()
        })
    }
}

/// Whether an expectation lets replies differ as a whole.
fn is_loose(expect: &Expect) -> bool {
    matches!(
        expect,
        Expect::Type(_)
            | Expect::Between(..)
            | Expect::Like(_)
            | Expect::Line(_)
            | Expect::Contains(_)
            | Expect::Length(_)
            | Expect::Either(_)
            | Expect::Has(_)
            | Expect::Holds(_)
            | Expect::Begins(_)
    )
}

/// Whether a part of an expectation lets replies differ.
fn holds_loose(expect: &Expect) -> bool {
    let is_loose = |one: &Expect| is_loose(one) || matches!(one, Expect::Unordered(_)) || holds_loose(one);
    match expect {
        Expect::Array(items) | Expect::Set(items) | Expect::Unordered(items) => items.iter().any(is_loose),
        Expect::Map(pairs) | Expect::Pairs(pairs) => pairs.iter().any(|(a, b)| is_loose(a) || is_loose(b)),
        _ => false,
    }
}

/// Whether both are the number that the case says they are, each written in its own way.
fn numbers(right: &Frame, left: &Frame, expect: Option<&Expect>) -> bool {
    matches!(expect, Some(Expect::Float(_) | Expect::Number(_)) | None)
        && matches!((fraction(right), fraction(left)), (Some(a), Some(b)) if close(a, b))
}

/// The number, if it is written with a fraction or an exponent.
fn fraction(frame: &Frame) -> Option<f64> {
    let text = frame.as_str()?;
    text.contains(['.', 'e', 'E']).then(|| frame.as_f64()).flatten()
}

fn in_pairs(items: &[Frame]) -> Vec<(Frame, Frame)> {
    items.chunks_exact(2).filter_map(|two| Some((two.first()?.clone(), two.get(1)?.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alike(expect: Option<&Expect>, a: Frame, b: Frame) -> bool {
        let right = Names::new("a:".to_owned(), "x:".to_owned(), "run1");
        let left = Names::new("b:".to_owned(), "y:".to_owned(), "run2");
        Alike { protocol: Protocol::Resp2, right: &right, left: &left, error_texts: false }
            .reply(expect, &a, &b)
    }

    fn error(text: &'static str) -> Frame {
        Frame::Error(text.into())
    }

    fn array(items: &[&'static str]) -> Frame {
        Frame::Array(items.iter().map(|&item| item.into()).collect())
    }

    #[test]
    fn replies_are_compared_by_type_and_value() {
        assert!(alike(None, "a:k".into(), "b:k".into()));
        assert!(!alike(None, "v".into(), "w".into()));
        assert!(!alike(None, "1".into(), 1.into()));
        assert!(alike(None, error("ERR one"), error("ERR another")));
        assert!(!alike(None, error("ERR one"), error("WRONGTYPE one")));
        assert!(!alike(None, error("ERR one"), "ERR one".into()));
        assert!(alike(None, "0.1".into(), "0.10000000000000001".into()));
        assert!(!alike(Some(&Expect::Text("1".to_owned())), "1".into(), "1.0".into()));
        use keyferry_resp::Null;
        assert!(!alike(None, Frame::Null(Null::Bulk), Frame::Null(Null::Array)));
    }

    #[test]
    fn order_counts_where_it_is_defined() {
        let (ab, ba) = (array(&["a", "b"]), array(&["b", "a"]));
        assert!(!alike(None, ab.clone(), ba.clone()));
        assert!(alike(Some(&Expect::Unordered(Vec::new())), ab.clone(), ba.clone()));
        assert!(alike(Some(&Expect::Set(Vec::new())), ab.clone(), ba.clone()));
        assert!(!alike(Some(&Expect::Set(Vec::new())), ab, array(&["a", "a"])));
        let (one, two) = (array(&["a", "1", "b", "2"]), array(&["b", "2", "a", "1"]));
        assert!(alike(Some(&Expect::Map(Vec::new())), one.clone(), two.clone()));
        // Keys stay with their values.
        assert!(!alike(Some(&Expect::Map(Vec::new())), one, array(&["a", "2", "b", "1"])));
    }

    #[test]
    fn what_may_differ_may_differ() {
        let time = Expect::Between(0.0, 100.0);
        assert!(alike(Some(&time), 5.into(), 6.into()));
        assert!(!alike(Some(&time), 5.into(), 600.into()));
        let nested = Expect::Array(vec![Expect::Text("a".to_owned()), time]);
        let item = |n: i64| Frame::Array(vec!["a".into(), n.into()]);
        assert!(alike(Some(&nested), item(1), item(2)));
        assert!(!alike(Some(&nested), item(1), item(200)));
    }
}
