//! The original's loop over the cases.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use keyferry_client::{ConnectOptions, Connection, Error as ClientError, Protocol};
use keyferry_routing::{CommandTable, slot};

use super::compare::{Decoded, compare};
use super::{Cases, CtsrCase, tokens};
use crate::Error;
use crate::report::{CaseResult, Failure, GroupInfo, Outcome, Report};
use crate::target::Target;

/// How the cases are run.
#[derive(Clone, Debug)]
pub struct CtsrOptions {
    /// Leave out cases since a later version. Compared as texts, as the original does.
    pub version: Option<String>,
    /// Run the cases for clusters instead of those for single servers.
    pub cluster: bool,
    /// Flush the server although it holds data.
    pub allow_flush: bool,
    /// How long to wait for a reply. Default: 10 seconds.
    pub timeout: Duration,
}

impl Default for CtsrOptions {
    fn default() -> Self {
        Self { version: None, cluster: false, allow_flush: false, timeout: Duration::from_secs(10) }
    }
}

/// What came of all cases.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CtsrReport {
    /// Of each case, in the order of the file.
    pub results: Vec<CtsrResult>,
    /// The version that was asked for.
    pub version: Option<String>,
    server: String,
    place: String,
}

/// What came of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CtsrResult {
    /// Where it is in the file, from 0: names are not unique.
    pub position: usize,
    /// Its name.
    pub name: String,
    /// The version that it is for.
    pub since: String,
    /// What came of it.
    pub outcome: CtsrOutcome,
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CtsrOutcome {
    /// Counted, passed.
    Passed,
    /// Counted, failed: the reason in the original's words.
    Failed(String),
    /// Not counted: the file says to skip it.
    Skipped,
    /// Not counted: it is for the other kind of server.
    TagsSkipped,
    /// Not counted: it is for a later version.
    VersionSkipped,
    /// Not counted: the server could not be flushed, or not be reached.
    Error(String),
}

/// The numbers of a summary line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bucket {
    /// The version.
    pub version: String,
    /// Cases that were counted.
    pub total: usize,
    /// Those that passed.
    pub passed: usize,
    /// Names of the others, with the reason.
    pub failed: Vec<(String, String)>,
}

/// Runs the cases, one after the other, with `FLUSHALL` before each.
///
/// # Errors
///
/// [`Error::NotEmpty`] when the server holds data and nobody allowed to flush it; [`Error::Client`] when it cannot be reached.
pub async fn run(cases: &Cases, target: &Target, options: &CtsrOptions) -> Result<CtsrReport, Error> {
    if !options.allow_flush {
        let keys = keys_of(target).await?;
        if keys > 0 {
            return Err(Error::NotEmpty { server: target.place(), keys });
        }
    }
    let mut flusher = Lines::new(target, options.timeout);
    let mut results = Vec::with_capacity(cases.len());
    for (position, case) in cases.cases.iter().enumerate() {
        let outcome = one(case, target, options, &mut flusher).await;
        results.push(CtsrResult { position, name: case.name.clone(), since: case.since.clone(), outcome });
    }
    Ok(CtsrReport {
        results,
        version: options.version.clone(),
        server: target.server().to_string(),
        place: target.place(),
    })
}

async fn one(
    case: &CtsrCase,
    target: &Target,
    options: &CtsrOptions,
    flusher: &mut Lines<'_>,
) -> CtsrOutcome {
    if case.skipped {
        return CtsrOutcome::Skipped;
    }
    let other = if options.cluster { "standalone" } else { "cluster" };
    if case.tags.as_deref() == Some(other) {
        return CtsrOutcome::TagsSkipped;
    }
    if options.version.as_ref().is_some_and(|version| case.since > *version) {
        return CtsrOutcome::VersionSkipped;
    }
    if let Err(why) = flusher.flush().await {
        return CtsrOutcome::Error(why);
    }
    let mut lines = Lines::new(target, options.timeout);
    for (at, line) in case.command.iter().enumerate() {
        let outcome = async {
            let args = if case.command_binary { tokens::binary(line)? } else { tokens::text(line) };
            let reply = lines.call(&args).await?;
            let expected = case.result.get(at).ok_or("list index out of range")?;
            compare(expected, &reply, case.sort_result)
        };
        let outcome: Result<(), String> = outcome.await;
        if let Err(reason) = outcome {
            return CtsrOutcome::Failed(reason);
        }
    }
    CtsrOutcome::Passed
}

async fn keys_of(target: &Target) -> Result<u64, Error> {
    let mut keys = 0;
    for node in target.nodes() {
        let mut connection = Connection::connect(&node).await?;
        let info = connection.info("keyspace").await?;
        keys += info.keyspace().map(|database| database.keys).sum::<u64>();
    }
    Ok(keys)
}

/// The connections of one case: one to each node that it needs.
struct Lines<'a> {
    target: &'a Target,
    timeout: Duration,
    lines: BTreeMap<String, Line>,
}

struct Line {
    connection: Connection,
    /// Channels, patterns, sharded channels.
    subscribed: [BTreeSet<Vec<u8>>; 3],
    /// There was more to read than the original reads, or the server closed: it is opened anew before the next command.
    stale: bool,
}

impl<'a> Lines<'a> {
    fn new(target: &'a Target, timeout: Duration) -> Self {
        Self { target, timeout, lines: BTreeMap::new() }
    }

    async fn flush(&mut self) -> Result<(), String> {
        for node in self.target.nodes() {
            let line = self.line(&node).await?;
            let reply = line.connection.call_frame(["FLUSHALL"]).await;
            match reply {
                Ok(reply) if !reply.is_error() => {}
                Ok(reply) => {
                    return Err(String::from_utf8_lossy(reply.error().map_or(b"", |e| e)).into_owned());
                }
                Err(error) => {
                    self.lines.clear();
                    return Err(error.to_string());
                }
            }
        }
        Ok(())
    }

    async fn call(&mut self, args: &[Vec<u8>]) -> Result<Decoded, String> {
        if args.is_empty() {
            return Err("an empty command".to_owned());
        }
        let node = match self.target.is_cluster() {
            false => self.target.options.clone(),
            true => match slot_of(args)? {
                Some(slot) => self.target.node(slot),
                None => self.target.options.clone(),
            },
        };
        let reply = self.call_at(&node, args).await?;
        // A channel of a shard has a slot, although it is no key: the original follows.
        if let Some(error) = reply.error_reply()
            && error.code() == "MOVED"
            && self.target.is_cluster()
            && let Some(slot) = error.message().split(' ').next().and_then(|slot| slot.parse().ok())
        {
            let node = self.target.node(slot);
            return Decoded::of(&self.call_at(&node, args).await?);
        }
        Decoded::of(&reply)
    }

    async fn call_at(
        &mut self,
        node: &ConnectOptions,
        args: &[Vec<u8>],
    ) -> Result<keyferry_client::Frame, String> {
        let line = self.line(node).await?;
        let replies = line.replies_to(args);
        let told = |error: ClientError| error.to_string();
        line.connection.send(args).await.map_err(told)?;
        let first = line.connection.receive().await.map_err(told)?;
        if first.is_error() {
            return Ok(first);
        }
        line.remember(args);
        for _ in 1..replies {
            line.connection.receive().await.map_err(told)?;
            line.stale = true;
        }
        Ok(first)
    }

    /// The connection to a node, opened anew where the original would: after unread replies, and after the end.
    async fn line(&mut self, node: &ConnectOptions) -> Result<&mut Line, String> {
        let name = node.address().to_string();
        if let Some(line) = self.lines.get_mut(&name) {
            line.look(self.timeout).await;
            if line.stale {
                self.lines.remove(&name);
            }
        }
        if !self.lines.contains_key(&name) {
            let options = node.clone().with_protocol(Protocol::Resp2);
            let mut connection = Connection::connect(&options).await.map_err(|error| error.to_string())?;
            connection.set_read_timeout(Some(self.timeout));
            let line = Line { connection, subscribed: Default::default(), stale: false };
            self.lines.insert(name.clone(), line);
        }
        self.lines.get_mut(&name).ok_or_else(|| "no connection".to_owned())
    }
}

impl Line {
    /// Whether there is something to read, or the end.
    async fn look(&mut self, timeout: Duration) {
        self.connection.set_read_timeout(Some(Duration::ZERO));
        let seen = self.connection.receive().await;
        self.connection.set_read_timeout(Some(timeout));
        if !matches!(seen, Err(ClientError::Timeout { .. })) {
            self.stale = true;
        }
    }

    /// How many replies a command has: subscriptions have one for each channel.
    fn replies_to(&self, args: &[Vec<u8>]) -> usize {
        match subscription(args) {
            None => 1,
            Some((kind, unsubscribes)) => match args.len() - 1 {
                0 if unsubscribes => self.subscribed.get(kind).map_or(1, |channels| channels.len().max(1)),
                given => given.max(1),
            },
        }
    }

    fn remember(&mut self, args: &[Vec<u8>]) {
        let name = args.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        match &name[..] {
            // The server closes behind its reply, sooner or later.
            b"QUIT" => self.stale = true,
            b"RESET" => self.subscribed = Default::default(),
            _ => {}
        }
        let Some((kind, unsubscribes)) = subscription(args) else { return };
        let Some(channels) = self.subscribed.get_mut(kind) else { return };
        let given = args.get(1..).unwrap_or_default();
        match (unsubscribes, given.is_empty()) {
            (true, true) => channels.clear(),
            (true, false) => given.iter().for_each(|channel| {
                channels.remove(channel);
            }),
            (false, _) => channels.extend(given.iter().cloned()),
        }
    }
}

/// Which kind of subscription a command is about, and whether it ends it.
fn subscription(args: &[Vec<u8>]) -> Option<(usize, bool)> {
    let name = args.first()?.to_ascii_uppercase();
    Some(match &name[..] {
        b"SUBSCRIBE" => (0, false),
        b"PSUBSCRIBE" => (1, false),
        b"SSUBSCRIBE" => (2, false),
        b"UNSUBSCRIBE" => (0, true),
        b"PUNSUBSCRIBE" => (1, true),
        b"SUNSUBSCRIBE" => (2, true),
        _ => return None,
    })
}

/// The slot of the keys of a command, if it has keys.
fn slot_of(args: &[Vec<u8>]) -> Result<Option<u16>, String> {
    let mut keys = Vec::new();
    if CommandTable::builtin().keys(args, &mut keys).is_err() {
        return Ok(None);
    }
    let mut slots = keys.iter().filter_map(|key| args.get(key.index)).map(|key| slot(key));
    let Some(first) = slots.next() else { return Ok(None) };
    match slots.all(|slot| slot == first) {
        true => Ok(Some(first)),
        false => Err("all keys must map to the same key slot".to_owned()),
    }
}

impl CtsrReport {
    /// The summary: one line for the version that was asked for, or one for each version in the file.
    pub fn buckets(&self) -> Vec<Bucket> {
        let mut buckets: Vec<Bucket> = Vec::new();
        for result in &self.results {
            if matches!(
                result.outcome,
                CtsrOutcome::Skipped | CtsrOutcome::TagsSkipped | CtsrOutcome::VersionSkipped
            ) {
                continue;
            }
            let version = self.version.as_ref().unwrap_or(&result.since);
            let at = buckets.iter().position(|bucket| bucket.version == *version).unwrap_or_else(|| {
                buckets.push(Bucket { version: version.clone(), total: 0, passed: 0, failed: Vec::new() });
                buckets.len() - 1
            });
            let Some(bucket) = buckets.get_mut(at) else { continue };
            match &result.outcome {
                CtsrOutcome::Passed => {
                    bucket.total += 1;
                    bucket.passed += 1;
                }
                CtsrOutcome::Failed(reason) => {
                    bucket.total += 1;
                    bucket.failed.push((result.name.clone(), reason.clone()));
                }
                _ => {}
            }
        }
        buckets
    }

    /// Writes what the original writes: a line for each case, and the summary.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write(&self, out: &mut dyn Write, show_failed: bool) -> io::Result<()> {
        for result in &self.results {
            let word = match &result.outcome {
                CtsrOutcome::Passed => "passed",
                CtsrOutcome::Failed(_) => "failed",
                CtsrOutcome::Skipped => "skipped",
                CtsrOutcome::TagsSkipped => "tags skipped",
                CtsrOutcome::VersionSkipped => "version skipped",
                CtsrOutcome::Error(why) => {
                    writeln!(out, "run test error: {} ({why})", result.name)?;
                    continue;
                }
            };
            writeln!(out, "test: {} {word}", result.name)?;
        }
        writeln!(out, "-------- The result of tests --------")?;
        for bucket in self.buckets() {
            // The original divides by zero here.
            let rate =
                if bucket.total == 0 { 0.0 } else { bucket.passed as f64 * 100.0 / bucket.total as f64 };
            writeln!(
                out,
                "Summary: version: {}, total tests: {}, passed: {}, rate: {rate:.2}%",
                bucket.version, bucket.total, bucket.passed
            )?;
            if show_failed && !bucket.failed.is_empty() {
                writeln!(out, "This is failed tests for {}:", bucket.version)?;
                for (name, reason) in &bucket.failed {
                    writeln!(out, "FailedTest(name={name}, reason={reason})")?;
                }
            }
        }
        Ok(())
    }

    /// As any other report, for its forms and its exit status: each version is a group.
    pub fn to_report(&self, took: Instant) -> Report {
        let mut groups: Vec<GroupInfo> = Vec::new();
        let mut results = Vec::with_capacity(self.results.len());
        for result in &self.results {
            if groups.iter().all(|group| group.name != result.since) {
                groups.push(GroupInfo { name: result.since.clone(), weight: 1.0, from: None });
            }
            let skipped = |reason: &str| Outcome::Skipped { reason: reason.to_owned() };
            let outcome = match &result.outcome {
                CtsrOutcome::Passed => Outcome::Passed,
                CtsrOutcome::Failed(reason) => {
                    let (expected, got) =
                        match reason.strip_prefix("expected: ").and_then(|it| it.split_once(", result: ")) {
                            Some((expected, got)) => (expected.to_owned(), got.to_owned()),
                            None => ("no error".to_owned(), reason.clone()),
                        };
                    Outcome::Failed { failure: Failure { step: 0, sent: result.name.clone(), expected, got } }
                }
                CtsrOutcome::Skipped => skipped("the file says so"),
                CtsrOutcome::TagsSkipped => skipped("for the other kind of server"),
                CtsrOutcome::VersionSkipped => skipped("for a later version"),
                CtsrOutcome::Error(why) => Outcome::Broken { why: why.clone() },
            };
            results.push(CaseResult {
                group: result.since.clone(),
                name: format!("{} (#{})", result.name, result.position + 1),
                protocol: 2,
                outcome,
                seconds: 0.0,
            });
        }
        Report {
            server: self.server.clone(),
            place: self.place.clone(),
            reference: None,
            groups,
            results,
            notes: Vec::new(),
            seconds: took.elapsed().as_secs_f64(),
        }
    }
}
