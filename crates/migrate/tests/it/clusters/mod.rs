//! Clusters and sentinels at either end, with writes going on: every command that names several keys among them.
//!
//! Each test is a scenario. It runs on the servers that the environment variable `KEYFERRY_CLUSTERS` names, separated by
//! commas, and is written to for longer then; without it on one version, so that the scenarios together meet them all.

#![allow(clippy::print_stderr, reason = "a scenario tells what was skipped, and what it waited for")]

mod databases;
mod effects;
pub(crate) mod ends;
mod neighbours;
mod sources;
mod targets;
mod workers;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use keyferry_migrate::{Finished, Options, Outcome, Phase, Report, Until};
use keyferry_testkit::data::{Counts, Features, Writer, WriterOptions, multi_key_commands};
use keyferry_testkit::{CompareOptions, ServerBinary, chosen, compare_sides, named};
use tokio::task::block_in_place;

use self::ends::End;
use crate::support::{PATIENCE, Running};

/// Names the servers of the long form.
const SERVERS: &str = "KEYFERRY_CLUSTERS";

/// Commands of several keys that servers send to their replicas under their own names; the others turn into commands of one
/// key, into transactions, or into nothing.
const REPLICATED_AS_THEY_ARE: [&str; 23] = [
    "BITOP",
    "COPY",
    "DEL",
    "GEORADIUS",
    "GEOSEARCHSTORE",
    "LMOVE",
    "MSET",
    "MSETEX",
    "MSETNX",
    "PFMERGE",
    "RENAME",
    "RENAMENX",
    "RPOPLPUSH",
    "SDIFFSTORE",
    "SINTERSTORE",
    "SMOVE",
    "SORT",
    "SUNIONSTORE",
    "UNLINK",
    "ZDIFFSTORE",
    "ZINTERSTORE",
    "ZRANGESTORE",
    "ZUNIONSTORE",
];

/// For so long a source is waited for that is not quiet yet, where it has no end that is told.
const LINGER: Duration = Duration::from_secs(600);

/// How many of them may be missing after a short run: some change something only if what they meet is as it should be, and
/// are not replicated, or as something else, when they do not. A long run meets it all.
const MISSING_IN_SHORT: usize = 5;

/// The servers of a scenario: those that were asked for, else this one, or any that is there.
fn servers(short: &str) -> Vec<&'static ServerBinary> {
    match std::env::var(SERVERS) {
        Ok(names) => names.split(',').map(|name| named(name.trim()).unwrap()).collect(),
        Err(_) => chosen(&[short]).unwrap(),
    }
}

/// How many commands are sent before and after whatever happens in a scenario.
fn enough() -> u64 {
    if std::env::var_os(SERVERS).is_some() { 6000 } else { 2500 }
}

/// A live migration: what is written, when something happens, and what must hold at the end.
struct Scenario {
    what: String,
    writing: WriterOptions,
    options: Options,
    /// Something happens in this phase.
    phase: Phase,
    /// Pairs of databases that are compared, and the numbers by which both sides call them; none: all.
    compared: Option<Vec<(u32, u32)>>,
    /// Keys that begin like this are not compared.
    ignored: Option<&'static str>,
}

impl Scenario {
    fn new(what: &str, binary: &ServerBinary) -> Self {
        Scenario {
            what: format!("{what} on {}", binary.name),
            writing: WriterOptions {
                rate: 3000,
                multi_key: true,
                databases: 1,
                short_expiries: false,
                ..WriterOptions::default()
            },
            options: Options::default(),
            phase: Phase::Following,
            compared: None,
            ignored: None,
        }
    }

    /// Migrates while the source is written to, lets `happen` do its work, and compares both sides key by key.
    async fn run(
        self,
        source: &mut End,
        target: &mut End,
        happen: impl FnOnce(&mut End, &mut End),
    ) -> Report {
        let Scenario { what, writing, mut options, phase, compared, ignored } = self;
        // What sentinels publish comes by the stream too: a quiet second may be long in coming.
        let waits_long = matches!(source, End::Sentinels(_));
        if waits_long {
            options.until = Until::CaughtUp { quiet: Duration::from_secs(1), linger: LINGER };
        }
        let rate = writing.rate;
        let writer = block_in_place(|| source.write(writing));
        let mut running = Running::start(&source.url(), &target.url(), |o| *o = options);
        let progress = running.progress.clone();
        if phase == Phase::Following {
            running.until_following(&writer, rate).await;
        } else {
            running.until("phase", |p| p.phase() == phase && p.figures().keys_applied > 0).await;
        }
        let counts = block_in_place(|| {
            assert!(phase == Phase::Following || progress.phase() == phase, "{what}: too late");
            wait_for(&writer, enough());
            let begun = Instant::now();
            happen(source, target);
            eprintln!("{what}: happened within {:.1} s", begun.elapsed().as_secs_f64());
            wait_for(&writer, enough());
            writer.stop().unwrap()
        });
        assert_eq!(counts.errors, 0, "{what}: {:?}", counts.first_error);
        block_in_place(|| source.settle());
        if !waits_long {
            // Before, it might end while the writer waits for one of the nodes.
            running.stopper.stop_when_caught_up();
        }
        let begun = Instant::now();
        let Finished { result, report, .. } = running.end().await;
        eprintln!("{what}: ended {:.1} s after the last write", begun.elapsed().as_secs_f64());
        result.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(report.outcome, Outcome::CaughtUp { source_was_writing: false }, "{what}");
        block_in_place(|| {
            compare(source, target, compared.as_deref(), ignored, &what);
            assert_all_was_sent(source, target, &counts, &report, &what);
        });
        report
    }
}

fn wait_for(writer: &Writer, commands: u64) {
    assert!(writer.wait_for(commands, PATIENCE), "the source takes no more");
}

/// Both sides hold the same, and the target nothing of the migration's own.
fn compare(source: &End, target: &End, compared: Option<&[(u32, u32)]>, ignored: Option<&str>, what: &str) {
    let mut a = source.side();
    if let Some(compared) = compared {
        a = a.databases(compared);
    }
    let mut options = CompareOptions::default();
    options.ignored_prefixes.extend(ignored.map(|prefix| prefix.as_bytes().to_vec()));
    let comparison = compare_sides(a, target.side(), &options).unwrap();
    assert!(comparison.is_equal(), "{what}: {comparison}");
    assert!(comparison.keys_a > 100, "{what}: {} keys", comparison.keys_a);
}

/// Every command of several keys that the source knows was sent, and those that crossed slots were counted.
fn assert_all_was_sent(source: &End, target: &End, counts: &Counts, report: &Report, what: &str) {
    let features = Features::probe(&mut source.client()).unwrap();
    let commands = multi_key_commands(&features, source.stays());
    let missing: Vec<_> = commands.iter().filter(|name| !counts.by_command.contains_key(*name)).collect();
    assert!(missing.is_empty(), "{what}: not sent: {missing:?}");
    if !(matches!(source, End::Server(_)) && matches!(target, End::Cluster(_))) {
        return;
    }
    let counted: BTreeSet<String> =
        report.routing.cross_slot.iter().map(|of| of.command.to_ascii_uppercase()).collect();
    let uncounted: Vec<_> = commands
        .iter()
        .filter(|name| REPLICATED_AS_THEY_ARE.contains(name) && !counted.contains(**name))
        .collect();
    let may_miss = if std::env::var_os(SERVERS).is_some() { 0 } else { MISSING_IN_SHORT };
    assert!(
        uncounted.len() <= may_miss,
        "{what}: not counted as of several slots: {uncounted:?}, but {counted:?}"
    );
    assert!(report.routing.transactions_divided > 0, "{what}: {:?}", report.routing);
}
