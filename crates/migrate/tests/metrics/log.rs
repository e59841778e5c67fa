//! What is logged, and what is not.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use keyferry_testkit::Server;
use tokio::task::block_in_place;

use crate::support::Watched;

/// Takes what is written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The only test of this program that subscribes: a migration works on a thread of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_and_reasons_are_logged_and_no_values() {
    let kept = Kept::default();
    let writer = kept.clone();
    tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).init();

    let binary = keyferry_testkit::any().unwrap();
    let channels = if binary.version.at_least(6, 2) { "&* " } else { "" };
    let rules = format!("on >pw ~* {channels}+@all -setrange");
    let source = Server::builder(binary).diskless_sync(true, 0).start().unwrap();
    let target = Server::builder(binary).user("mover", &rules).start().unwrap();
    let url = format!("redis://mover:pw@{}", target.addr());
    let watched = Watched::start(&source.url(), &url, |_| {}).await;
    watched.until("following", |page| page.get("keyferry_phase", Some("following")) == Some(1.0)).await;
    block_in_place(|| source.client().unwrap().call(&["SETRANGE", "key:1", "0", "topsecret"])).unwrap();
    let finished = watched.end().await;
    assert!(finished.result.is_err(), "{finished:?}");

    let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    assert!(!text.contains("topsecret"), "{text}");
    let events: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let phases: Vec<_> =
        events.iter().filter(|event| event["message"] == "phase").map(|e| e["phase"].clone()).collect();
    assert!(phases.contains(&"snapshot".into()) && phases.contains(&"following".into()), "{text}");
    let refused = events.iter().find(|event| event["message"] == "refused" && event["level"] == "ERROR");
    let refused = refused.unwrap_or_else(|| panic!("{text}"));
    assert_eq!((&refused["command"], &refused["code"]), (&"SETRANGE".into(), &"NOPERM".into()), "{text}");
    assert!(refused["offset"].as_u64().is_some(), "{text}");

    // The report for people names what happened, and has all that the JSON has.
    let page = finished.report.to_markdown();
    assert!(
        page.starts_with("# Migration: failed\n\n> ") && page.contains("| reachable | pass | "),
        "{page}"
    );
    assert!(page.contains("\n## phases\n") && page.contains("\n## figures\n"), "{page}");
}
