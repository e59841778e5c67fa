//! The dashboard and the alert rules name metrics and labels that exist.

use std::collections::BTreeSet;

use keyferry_migrate::metrics::{ALL, Metric};

const DASHBOARD: &str = include_str!("../../../../examples/deploy/grafana-dashboard.json");
const ALERTS: &str = include_str!("../../../../examples/deploy/alerts.yml");

/// Names of metrics in a text, each with what follows.
fn names(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.match_indices("keyferry_").map(|(at, _)| {
        let name = &text[at..];
        let end = name.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(name.len());
        name.split_at(end)
    })
}

/// A query names only what exists, and is balanced.
fn check(query: &str) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    for (name, rest) in names(query) {
        let metric: &Metric =
            ALL.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name}: {query}"));
        found.insert(metric.name);
        let Some(selector) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else { continue };
        for matcher in selector.0.split(',') {
            let label = matcher.split(['=', '!']).next().unwrap().trim();
            assert!(label == "instance" || metric.label == Some(label), "{label} of {name}: {query}");
        }
    }
    assert!(!found.is_empty(), "{query}");
    for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
        let depth = query.chars().try_fold(0_i32, |depth, c| {
            let depth = depth + i32::from(c == open) - i32::from(c == close);
            (depth >= 0).then_some(depth)
        });
        assert_eq!(depth, Some(0), "{query}");
    }
    assert_eq!(query.matches('"').count() % 2, 0, "{query}");
    found
}

/// The metrics with a label that a legend or a message uses.
fn check_label(label: &str, of: &BTreeSet<&str>) {
    let has = |name: &&str| ALL.iter().any(|metric| metric.name == *name && metric.label == Some(label));
    assert!(of.iter().any(has), "none of {of:?} has the label {label}");
}

#[test]
fn the_dashboard_shows_what_there_is() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut shown, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()));
        for target in panel["targets"].as_array().unwrap() {
            let found = check(target["expr"].as_str().unwrap());
            let legend = target["legendFormat"].as_str().unwrap();
            if let Some(label) = legend.split_once("{{").and_then(|(_, rest)| rest.split_once("}}")) {
                check_label(label.0, &found);
            }
            shown.extend(found);
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            check(query);
        }
    }
    // What matters is there.
    for name in [
        "keyferry_lag_seconds",
        "keyferry_lag_bytes",
        "keyferry_errors_total",
        "keyferry_target_evicted_keys_total",
    ] {
        assert!(shown.contains(name), "{name}");
    }
}

#[test]
fn alerts_are_about_what_there_is() {
    let (mut watched, mut current) = (BTreeSet::new(), BTreeSet::new());
    for line in ALERTS.lines().map(str::trim) {
        if let Some(query) = line.strip_prefix("expr: ") {
            current = check(query);
            watched.extend(current.iter().copied());
        }
        for (_, rest) in line.match_indices("$labels.").map(|(at, found)| (at, &line[at + found.len()..])) {
            let end = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
            check_label(&rest[..end], &current);
        }
    }
    assert_eq!(ALERTS.matches("- alert: ").count(), ALERTS.matches("expr: ").count());
    for name in [
        "keyferry_lag_seconds",
        "keyferry_errors_total",
        "keyferry_journal_backlog_bytes",
        "keyferry_target_evicted_keys_total",
    ] {
        assert!(watched.contains(name), "{name}");
    }
}
