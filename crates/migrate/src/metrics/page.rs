//! The page in the text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write};

use super::names::{self, Metric};
use crate::{
    progress::{Figures, Phase},
    throttle::ThrottleFigures,
    two_way::LinkCounts,
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
    /// Where both sides are written to.
    pub(super) two_way: Option<TwoWayFigures>,
}

/// What there is to say of both ways at once.
#[derive(Clone, Debug)]
pub(super) struct TwoWayFigures {
    /// The link back.
    pub(super) back: Figures,
    pub(super) ready: bool,
    pub(super) conflicts: u64,
    pub(super) settled: u64,
    pub(super) unsettled: u64,
    pub(super) refused: u64,
    /// From the source, and from the target.
    pub(super) counts: [LinkCounts; 2],
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

/// The name of the only link, and that of the link back.
const ONLY_LINK: &str = "source";
const LINK_BACK: &str = "target";

/// The figures of each link, with its name: those of all where there is but one; the link back comes last.
pub(super) fn links<'f>(figures: &'f Figures, back: Option<&'f Figures>) -> Vec<(&'f str, &'f Figures)> {
    let mut links: Vec<(&str, &Figures)> = if figures.links.is_empty() {
        vec![(ONLY_LINK, figures)]
    } else {
        figures.links.iter().map(|link| (link.name.as_str(), &link.figures)).collect()
    };
    links.extend(back.map(|back| (LINK_BACK, back)));
    links
}

/// Writes the page.
pub(super) fn page(content: &Content) -> String {
    let mut page = Page(String::with_capacity(8 << 10));
    let Content { figures, lags, errors, precheck, targets, throttle, two_way } = content;
    page.metric(names::INFO, [(env!("CARGO_PKG_VERSION"), 1)]);
    page.metric(
        names::PHASE,
        Phase::ALL.iter().map(|phase| (phase.name(), u8::from(*phase == figures.phase))),
    );
    page.metric(names::ELAPSED, [("", figures.elapsed_seconds)]);

    let links = links(figures, two_way.as_ref().map(|two_way| &two_way.back));
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
    if let Some(two_way) = two_way {
        page.two_way(two_way);
    }
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

    fn two_way(&mut self, figures: &TwoWayFigures) {
        self.metric(names::TWO_WAY_READY, [("", u8::from(figures.ready))]);
        for (metric, value) in [
            (names::TWO_WAY_CONFLICTS, figures.conflicts),
            (names::TWO_WAY_SETTLED, figures.settled),
            (names::TWO_WAY_UNSETTLED, figures.unsettled),
            (names::TWO_WAY_REFUSED, figures.refused),
        ] {
            self.metric(metric, [("", value)]);
        }
        let [from_source, from_target] = &figures.counts;
        for (metric, values) in [
            (names::TWO_WAY_COMMANDS, [from_source.own, from_target.own]),
            (names::TWO_WAY_RETURNED, [from_source.returned_commands, from_target.returned_commands]),
            (names::TWO_WAY_UNKNOWN, [from_source.unknown, from_target.unknown]),
        ] {
            self.metric(metric, [ONLY_LINK, LINK_BACK].into_iter().zip(values));
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
