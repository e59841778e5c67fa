//! Users with fewer permissions.

use keyferry_migrate::precheck::{Depth, Item, Verdict};
use keyferry_migrate::{Options, SourceMode};
use keyferry_testkit::{Server, ServerBinary};

use crate::support::{any, expect, look, look_with, says};

fn with_user(binary: &ServerBinary, rules: &str) -> (Server, String) {
    // Permissions for channels came with 6.2.
    let rules = if binary.version.at_least(6, 2) { rules.to_owned() } else { rules.replace("&* ", "") };
    let rules = format!("on >pw {rules}");
    let server = Server::builder(binary).diskless_sync(true, 0).user("mover", &rules).start().unwrap();
    let url = format!("redis://mover:pw@{}", server.addr());
    (server, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psync_is_tried_without_a_full_sync() {
    for binary in keyferry_testkit::all().unwrap() {
        let target = any();
        let (source, url) = with_user(binary, "~* +@all -psync");
        // There are other ways, unless it has to be this one.
        let report = look(&url, target.url()).await;
        says(&expect(&report, Item::Psync, Verdict::Warn), "NOPERM");
        expect(&report, Item::SourceAcl, Verdict::Pass);
        let psync = |options: &mut Options| options.source_mode = SourceMode::Psync;
        let report = look_with(&url, target.url(), Depth::Quick, psync).await;
        says(&expect(&report, Item::Psync, Verdict::Fail), "NOPERM");
        let report = look(source.url(), target.url()).await;
        expect(&report, Item::Psync, Verdict::Pass);
        let mut client = source.client().unwrap();
        assert_eq!(client.info("stats", "sync_full").unwrap().as_deref(), Some("0"), "{}", binary.name);
        assert_eq!(client.info("persistence", "rdb_bgsave_in_progress").unwrap().as_deref(), Some("0"));

        let renamed = Server::builder(binary).config("rename-command", "PSYNC hidden").start().unwrap();
        let report = look_with(renamed.url(), target.url(), Depth::Quick, psync).await;
        says(&expect(&report, Item::Psync, Verdict::Fail), "unknown command");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_may_replicate_and_no_more_is_enough_with_less_known() {
    for binary in keyferry_testkit::all().unwrap() {
        let target = any();
        let (_source, url) = with_user(binary, "+ping +psync +replconf +hello +auth");
        let report = look(&url, target.url()).await;
        let finding = expect(&report, Item::SourceAcl, Verdict::Warn);
        says(&finding, "INFO: NOPERM");
        assert_eq!(report.failures().count(), 0, "{}:\n{report}", binary.name);
        for item in [Item::Memory, Item::Backlog, Item::OutputBuffer, Item::Databases, Item::JournalDisk] {
            expect(&report, item, Verdict::Warn);
        }
        let (_source, url) = with_user(binary, "+ping +psync +hello +auth +info +multi +exec +discard");
        says(&expect(&look(&url, target.url()).await, Item::SourceAcl, Verdict::Fail), "NOPERM");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_keys_that_a_target_denies_are_named() {
    for binary in keyferry_testkit::all().unwrap() {
        let source = any();
        let mut client = source.client().unwrap();
        client.call(&["SET", "user:1", "value"]).unwrap();
        client.call(&["GETSET", "user:1", "another"]).unwrap();

        let (_target, url) = with_user(binary, "~* &* +@all -restore -getset");
        let finding = expect(&look(source.url(), &url).await, Item::TargetAcl, Verdict::Fail);
        says(&finding, ": restore: NOPERM");
        // Since the source has been sent this one.
        says(&finding, ": getset: NOPERM");
        assert!(!finding.evidence.iter().any(|line| line.contains(": set: ")), "{finding:#?}");

        let (_target, url) = with_user(binary, "~user:* &* +@all");
        let finding = expect(&look(source.url(), &url).await, Item::TargetAcl, Verdict::Fail);
        // Its own keys are not among these.
        assert_eq!(finding.evidence.iter().filter(|line| line.contains("NOPERM")).count(), 1, "{finding:#?}");

        let (_target, url) = with_user(binary, "~* &* +@all -flushall");
        let finding = expect(&look(source.url(), &url).await, Item::TargetAcl, Verdict::Warn);
        says(&finding, "flushall, for FLUSHALL of the source: NOPERM");

        let (_target, url) = with_user(binary, "~* &* +@all -multi");
        expect(&look(source.url(), &url).await, Item::TargetAcl, Verdict::Fail);

        let (_target, url) = with_user(binary, "~* &* +@all");
        expect(&look(source.url(), &url).await, Item::TargetAcl, Verdict::Pass);
    }
}
