//! `migrate --precheck` as its users see it.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use keyferry_testkit::Server;

/// The program, built beside this test.
fn migrate(args: &[&str]) -> Output {
    let test = std::env::current_exe().unwrap();
    let program: PathBuf = test.parent().and_then(Path::parent).unwrap().join("examples/migrate");
    Command::new(program).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn table_json_and_exit_status() {
    let source = Server::any().unwrap();
    let evicting = Server::builder(keyferry_testkit::any().unwrap())
        .config("maxmemory", "1gb")
        .config("maxmemory-policy", "allkeys-lru")
        .start()
        .unwrap();
    let (from, to) = (source.url(), evicting.url());
    let sides = ["--source", &from, "--target", &to, "--precheck"];

    let failed = migrate(&sides);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let table = text(&failed.stdout);
    assert!(table.contains("\nFAIL    eviction-policy target "), "{table}");
    assert!(table.contains("\n                        -> CONFIG SET maxmemory-policy noeviction"), "{table}");
    assert!(table.ends_with(" failed\n"), "{table}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json").display().to_string();
    let ignored =
        migrate(&[&sides[..], &["--ignore", "eviction-policy", "--json", "--report", &file]].concat());
    assert_eq!(ignored.status.code(), Some(0), "{ignored:?}");
    let printed: serde_json::Value = serde_json::from_slice(&ignored.stdout).unwrap();
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for report in [printed, written] {
        assert_eq!(report["depth"], "full");
        let finding =
            |name: &str| report["findings"].as_array().unwrap().iter().find(|f| f["item"] == name).cloned();
        assert_eq!(finding("eviction-policy").unwrap()["ignored"], true);
        assert_eq!(finding("losses").unwrap()["verdict"], "pass");
    }
    assert_eq!(evicting.client().unwrap().int(&["DBSIZE"]).unwrap(), 0);

    let unknown = migrate(&[&sides[..], &["--ignore", "evictions"]].concat());
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("items are files, reachable, "), "{unknown:?}");
}

#[test]
fn what_both_ways_refuse_is_said_by_a_look() {
    let (source, target) = (Server::any().unwrap(), Server::any().unwrap());
    let (from, to) = (source.url(), target.url());
    let look = |more: &[&str]| {
        let sides = ["--source", &from, "--target", &to, "--two-way", "report", "--precheck"];
        let looked = migrate(&[&sides[..], more].concat());
        (looked.status.code(), text(&looked.stderr).trim().to_owned(), text(&looked.stdout).to_owned())
    };
    let (code, said, table) = look(&[]);
    assert!(code == Some(0) && table.contains("\nprecheck: "), "{code:?} {said} {table}");
    for (options, words) in [
        (&["--include-keys", "user:*"][..], "it does not go together with filters"),
        (&["--db-map", "1=0"], "it does not go together with databases that change their number"),
        (
            &["--on-exists", "skip"],
            "it does not go together with keys of the target that are left as they are",
        ),
    ] {
        let (code, said, table) = look(options);
        assert!(code == Some(1) && said.contains(words) && table.is_empty(), "{code:?} {said} {table}");
        let run = migrate(&[&["--source", &from, "--target", &to, "--two-way", "report"], options].concat());
        assert!(text(&run.stderr).contains(&said), "{said}: {run:?}");
    }
    let (code, said, _) = look(&["--plan", "none.json"]);
    assert_eq!((code, said.as_str()), (Some(2), "migrate: --plan does not go together with --two-way"));
}

#[test]
fn a_plan_is_run_as_it_was_made_or_not_at_all() {
    let source = Server::any().unwrap();
    let target = Server::builder(keyferry_testkit::any().unwrap()).password("secret").start().unwrap();
    source.client().unwrap().call(&["SET", "key", "value"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (from, to, plan, report) = (source.url(), target.url(), path("plan.json"), path("report.md"));
    let options = ["--until", "caught-up", "--db-map", "0=3"];
    let sides = ["--source", &from, "--target", &to];
    let made = migrate(&[&sides[..], &options, &["--precheck", "--plan", &plan]].concat());
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let written = std::fs::read_to_string(&plan).unwrap();
    assert!(!written.contains("secret"), "{written}");

    // Nothing may be changed beside it, and the password has to come from somewhere.
    let changed = migrate(&["--plan", &plan, "--db-map", "0=4"]);
    assert_eq!(changed.status.code(), Some(2));
    assert!(text(&changed.stderr).contains("--db-map cannot be changed"), "{changed:?}");
    let bare = migrate(&["--plan", &plan]);
    assert_eq!(bare.status.code(), Some(2));
    assert!(text(&bare.stderr).contains("the plan holds no passwords"), "{bare:?}");

    let run = ["--plan", &plan, "--target", &to, "--report", &report, "--log", "json"];
    let ran = migrate(&run);
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let mut client = target.client().unwrap();
    client.call(&["SELECT", "3"]).unwrap();
    assert_eq!(client.text(&["GET", "key"]).unwrap(), "value");
    assert!(std::fs::read_to_string(&report).unwrap().starts_with("# Migration: caught up"));
    let logged = text(&ran.stderr).lines().filter(|line| line.starts_with('{')).count();
    assert!(logged > 2, "{ran:?}");

    // Now the target is written to.
    let again = migrate(&run);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        text(&again.stderr).contains("the plan does not hold any more; nothing was written: target "),
        "{again:?}"
    );
}
