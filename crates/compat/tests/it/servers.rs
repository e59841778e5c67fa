//! Our cases on real servers.

use std::time::Instant;

use keyferry_client::Protocol;
use keyferry_compat::{Suite, Verdict};
use keyferry_testkit::{Cluster, Server, ServerBinary, all, any};

use crate::{assert_passed, everything, groups, run, target, wait};

/// `full`: every server, standalone and as a cluster. Otherwise one.
const MATRIX: &str = "KEYFERRY_COMPAT";

fn chosen() -> Vec<&'static ServerBinary> {
    match std::env::var(MATRIX).as_deref() {
        Ok("full") => all().unwrap().iter().collect(),
        _ => vec![any().unwrap()],
    }
}

#[test]
fn our_cases_pass_on_real_servers() {
    for binary in chosen() {
        let server = Server::builder(binary).start().unwrap();
        let begun = Instant::now();
        let report = wait(run(&Suite::builtin().unwrap(), &server.url(), &everything()));
        println!("{:<11} {:?} in {:.1} s", binary.name, report.counts(), begun.elapsed().as_secs_f64());
        assert_passed(&report);
        assert!(report.counts().passed > 1000, "{:?}", report.counts());
        assert!(report.notes.is_empty(), "{:?}", report.notes);
    }
}

#[test]
fn our_cases_pass_on_clusters() {
    for binary in chosen() {
        let cluster = Cluster::builder(binary).primaries(3).start().unwrap();
        let suite = match chosen().len() {
            1 => groups(&["cluster", "list", "transactions", "pubsub"]),
            _ => Suite::builtin().unwrap(),
        };
        let begun = Instant::now();
        let mut options = everything();
        // Flushing one node of three says nothing.
        options.allow = options.allow.without(keyferry_compat::Needs::FLUSH);
        let report = wait(run(&suite, &cluster.url(), &options));
        println!(
            "{:<11} {:?} in {:.1} s, as a cluster",
            binary.name,
            report.counts(),
            begun.elapsed().as_secs_f64()
        );
        assert_passed(&report);
        let own = report.group_counts("cluster");
        assert!(own.passed > 40, "{own:?}");
        assert_eq!(cluster.keys().unwrap(), 0);
    }
}

#[test]
fn the_file_is_as_large_and_as_sound_as_it_should_be() {
    let suite = Suite::builtin().unwrap();
    assert!(suite.cases().count() >= 1200, "{}", suite.cases().count());
    for group in [
        "acl",
        "arity",
        "bitmap",
        "cluster",
        "config",
        "connection",
        "dump-restore",
        "encoding",
        "expiry",
        "functions",
        "generic",
        "geo",
        "hash",
        "hash-field-expiry",
        "hyperloglog",
        "list",
        "notifications",
        "pubsub",
        "scripting",
        "server",
        "set",
        "sorted-set",
        "stream",
        "string",
        "transactions",
        "vector-set",
        "wrong-type",
    ] {
        assert!(suite.groups().iter().any(|one| one.name() == group), "{group}");
    }
    for (group, case) in suite.cases() {
        // Each expectation says where it is from, and each case expects something.
        assert!(group.from().is_some() || case.from().is_some(), "{}/{}", group.name(), case.name());
        assert!(case.expectations() > 0, "{}/{}", group.name(), case.name());
    }
}

#[test]
fn one_protocol_alone_and_a_version_to_pretend() {
    let server = Server::any().unwrap();
    let suite = groups(&["string"]);
    let mut options = everything();
    options.protocols = vec![Protocol::Resp2];
    let all = wait(run(&suite, &server.url(), &options));
    assert!(all.results.iter().all(|result| result.protocol == 2));
    options.claim = Some(keyferry_compat::Claim::redis(keyferry_client::Version::new(5, 0, 0)));
    let gated = wait(run(&suite, &server.url(), &options));
    assert!(gated.counts().skipped > all.counts().skipped);
    assert!(gated.results.len() == all.results.len());
}

#[test]
fn nothing_that_applies_is_no_verdict() {
    let server = Server::any().unwrap();
    let suite = Suite::parse(
        "f",
        r#"{"group": "g", "cases": [{"name": "n", "since": "99.0.0", "steps": ["PING"]}]}"#,
    );
    let report = wait(run(&suite.unwrap(), &server.url(), &everything()));
    assert_eq!(report.verdict(), Verdict::Unknown);
    assert_eq!(report.counts().skipped, 2);
    let gone = Server::any().unwrap();
    let suite = Suite::parse("f", r#"{"group": "g", "cases": [{"name": "n", "steps": ["PING"]}]}"#).unwrap();
    wait(async {
        let target = target(&gone.url()).await;
        drop(gone);
        let report =
            keyferry_compat::run(&suite, &target, &everything(), &keyferry_compat::Baseline::new()).await;
        assert_eq!((report.verdict(), report.counts().broken), (Verdict::Unknown, 2));
        assert!(report.notes.iter().any(|note| note.contains("could not be deleted")), "{:?}", report.notes);
    });
}
