//! The page in the text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write};

use super::names::{self, Metric};
use crate::{
    progress::{Figures, Phase},
    throttle::ThrottleFigures,
};

/// Everything that is on a page.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) figures: Figures,
    /// Lag in seconds of each link, in the order of the links; one where there is but one.
    pub(super) lags: Vec<Option<f64>>,
    /// How many errors there were of each class.
    pub(super) errors: Vec<(String, u64)>,
    /// How many items of the precheck have which verdict.
    pub(super) precheck: Vec<(&'static str, usize)>,
    pub(super) targets: Vec<TargetFigures>,
    pub(super) throttle: ThrottleFigures,
}

/// What a primary of the target told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TargetFigures {
    pub(super) node: String,
    pub(super) up: bool,
    pub(super) evicted: u64,
    pub(super) used_memory: u64,
    pub(super) max_memory: u64,
}

/// The name of the only link.
const ONLY_LINK: &str = "source";

/// Writes the page.
pub(super) fn page(content: &Content) -> String {
    let mut page = Page(String::with_capacity(8 << 10));
    let Content { figures, lags, errors, precheck, targets, throttle } = content;
    page.metric(names::INFO, [(env!("CARGO_PKG_VERSION"), 1)]);
    page.metric(
        names::PHASE,
        Phase::ALL.iter().map(|phase| (phase.name(), u8::from(*phase == figures.phase))),
    );
    page.metric(names::ELAPSED, [("", figures.elapsed_seconds)]);

    let links: Vec<(&str, &Figures)> = if figures.links.is_empty() {
        vec![(ONLY_LINK, figures)]
    } else {
        figures.links.iter().map(|link| (link.name.as_str(), &link.figures)).collect()
    };
    page.each(names::SNAPSHOT_BYTES, &links, |link| link.snapshot_total);
    page.each(names::SNAPSHOT_RECEIVED, &links, |link| Some(link.snapshot_received));
    page.each(names::SNAPSHOT_APPLIED, &links, |link| Some(link.snapshot_applied));
    page.each(names::KEYS_APPLIED, &links, |link| Some(link.keys_applied));
    page.each(names::LARGE_KEYS, &links, |link| Some(link.large_keys));
    page.each(names::COMMANDS_APPLIED, &links, |link| Some(link.commands_applied));
    page.each(names::RECEIVED_OFFSET, &links, |link| Some(link.received_offset));
    page.each(names::APPLIED_OFFSET, &links, |link| Some(link.applied_offset));
    page.each(names::SOURCE_OFFSET, &links, |link| link.source_offset);
    page.each(names::LAG_BYTES, &links, |link| link.lag_bytes);
    let lags = links.iter().zip(lags).filter_map(|((name, _), lag)| Some((*name, (*lag)?)));
    page.metric(names::LAG_SECONDS, lags);
    page.each(names::JOURNAL_BACKLOG, &links, |link| Some(link.journal_backlog));
    page.each(names::RECONNECTS, &links, |link| Some(link.reconnects));
    page.each(names::TROUBLE, &links, |link| Some(u64::from(link.trouble.is_some())));
    page.metric(names::SENT_BYTES, [("", figures.bytes_sent)]);
    page.metric(names::PAUSED, [("", u8::from(throttle.paused))]);
    page.metric(
        names::THROTTLE_WAIT,
        throttle.waited_seconds.iter().map(|(&limit, seconds)| (limit, seconds)),
    );
    page.metric(names::ADAPTIVE_RATE, throttle.adaptive_bytes.map(|rate| ("", rate)));
    page.metric(names::ADAPTIVE_FLOOR, [("", throttle.adaptive_floor_bytes)]);
    page.metric(
        names::LATENCY,
        throttle.latency_seconds.iter().map(|(server, seconds)| (server.as_str(), seconds)),
    );
    page.metric(names::ERRORS, errors.iter().map(|(class, count)| (class.as_str(), count)));
    page.metric(names::PRECHECK, precheck.iter().copied());
    let of = |value: fn(&TargetFigures) -> u64| {
        targets.iter().map(move |target| (target.node.as_str(), value(target))).collect::<Vec<_>>()
    };
    page.metric(names::TARGET_UP, of(|target| u64::from(target.up)));
    page.metric(names::TARGET_EVICTED, of(|target| target.evicted));
    page.metric(names::TARGET_MEMORY, of(|target| target.used_memory));
    page.metric(names::TARGET_LIMIT, of(|target| target.max_memory));
    page.0
}

struct Page(String);

impl Page {
    /// A metric with its values, each with the value of the label if the metric has one. Without any it is left out.
    fn metric<'l, V: Display>(&mut self, metric: Metric, values: impl IntoIterator<Item = (&'l str, V)>) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return;
        }
        let (name, out) = (metric.name, &mut self.0);
        // Writing to a String does not fail.
        let _ = writeln!(out, "# HELP {name} {}", metric.help);
        let _ = writeln!(out, "# TYPE {name} {}", metric.kind.name());
        for (label, value) in values {
            let _ = match metric.label {
                Some(of) => writeln!(out, "{name}{{{of}=\"{}\"}} {value}", escaped(label)),
                None => writeln!(out, "{name} {value}"),
            };
        }
    }

    /// A figure of each link that has it.
    fn each(&mut self, metric: Metric, links: &[(&str, &Figures)], figure: impl Fn(&Figures) -> Option<u64>) {
        self.metric(metric, links.iter().filter_map(|(name, link)| Some((*name, figure(link)?))));
    }
}

/// A label's value: backslashes, quotes and line ends escaped.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }
}
