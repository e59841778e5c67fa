//! Clocks: expiries are times of day, and each server goes by its own.

use crate::precheck::{Finding, Item, Known, report::Judge, survey::Node};

/// Milliseconds by which clocks may differ.
const NOTEWORTHY: u64 = 500;
const TOO_MUCH: u64 = 10_000;

pub(super) fn check(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::Clock);
    let silent = |node: &&Node| node.clock.is_none();
    for node in known.source.nodes.iter().chain(&known.target.nodes).filter(silent) {
        judge.warn(node.silence(), "give the user +time, or be sure that the clock is right");
    }
    let mut largest = 0;
    for from in &known.source.nodes {
        for to in &known.target.nodes {
            let (Some((a, a_error)), Some((b, b_error))) = (from.clock, to.clock) else { continue };
            let ahead = b.saturating_sub(a);
            // What a slow answer explains is no difference.
            let certain = ahead.unsigned_abs().saturating_sub(a_error + b_error);
            largest = largest.max(certain);
            if certain < NOTEWORTHY {
                continue;
            }
            let (direction, effect) =
                if ahead > 0 { ("ahead of", "too early") } else { ("behind", "too late") };
            let line = format!(
                "{} is {:.1} s {direction} {}: keys expire {effect} there",
                to.name(),
                certain as f64 / 1000.0,
                from.name()
            );
            let remedy = "synchronise the clocks of both machines (chronyc tracking, timedatectl)";
            if certain >= TOO_MUCH { judge.fail(line, remedy) } else { judge.warn(line, remedy) }
        }
    }
    judge.note(format!("the largest difference that is certain is {:.1} s", largest as f64 / 1000.0));
    judge.done()
}
