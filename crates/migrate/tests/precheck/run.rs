//! A run looks by itself.

use keyferry_migrate::{
    Error, Finished, Migration, Outcome, Until,
    precheck::{Depth, Item, Verdict},
};
use keyferry_testkit::{CompareOptions, Server, compare_with};

use crate::support::any;

fn evicting() -> Server {
    Server::builder(keyferry_testkit::any().unwrap())
        .config("maxmemory", "1gb")
        .config("maxmemory-policy", "allkeys-lru")
        .start()
        .unwrap()
}

fn migration(source: &Server, target: &Server) -> Migration {
    let mut migration = Migration::new(source.url().parse().unwrap(), target.url().parse().unwrap());
    migration.options_mut().until = Until::caught_up();
    migration
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_ends_it_before_anything_is_written_unless_it_is_ignored() {
    let (source, target) = (any(), evicting());
    source.client().unwrap().call(&["SET", "key", "value"]).unwrap();
    let Finished { report, result, .. } = migration(&source, &target).run().await;
    let Err(error @ Error::Precheck { .. }) = result else { panic!("{result:?}") };
    let line = error.to_line();
    assert!(
        line.starts_with("precheck: eviction-policy: ") && line.contains("nothing was written"),
        "{line}"
    );
    // Both sides were reached, if only by the look.
    let page = report.to_markdown();
    assert!(!page.contains("not reached"), "{page}");
    for side in [&report.source, &report.target] {
        assert!(side.server.as_ref().is_some_and(|what| what.ends_with(", standalone, primary")), "{side:?}");
    }
    let found = report.precheck.unwrap();
    assert_eq!((found.verdict, found.depth), (Verdict::Fail, Depth::Quick));
    assert_eq!(target.client().unwrap().int(&["DBSIZE"]).unwrap(), 0);
    assert_eq!(source.client().unwrap().info("stats", "sync_full").unwrap().as_deref(), Some("0"));

    let mut again = migration(&source, &target);
    again.options_mut().ignore.insert(Item::EvictionPolicy);
    let Finished { report, result, .. } = again.run().await;
    result.unwrap();
    assert!(matches!(report.outcome, Outcome::CaughtUp { .. }));
    let found = report.precheck.unwrap();
    assert!(found.of(Item::EvictionPolicy).unwrap().ignored);
    assert_ne!(found.verdict, Verdict::Fail);
    let (mut a, mut b) = (source.client().unwrap(), target.client().unwrap());
    assert!(compare_with(&mut a, &mut b, &CompareOptions::default()).unwrap().is_equal());
}

/// Of two sides one may be reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_tells_which_side_was_not_reached() {
    let source = any();
    let nobody = "redis://127.0.0.1:1".parse().unwrap();
    let mut migration = Migration::new(source.url().parse().unwrap(), nobody);
    migration.options_mut().until = Until::caught_up();
    migration.options_mut().retry_connect = std::time::Duration::ZERO;
    migration.options_mut().reconnect_window = std::time::Duration::ZERO;
    let Finished { report, result, .. } = migration.run().await;
    assert!(result.is_err());
    assert!(report.source.server.is_some() && report.target.server.is_none(), "{report:?}");
    let page = report.to_markdown();
    assert!(page.contains("| target | redis://127.0.0.1:1 (not reached) |"), "{page}");
}

/// What a run refuses by itself, it refuses with its own error, ignored or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_refuses_anyway_cannot_be_ignored() {
    let server = any();
    let mut migration = migration(&server, &server);
    migration.options_mut().ignore.insert(Item::SameServer);
    let Finished { report, result, .. } = migration.run().await;
    assert!(matches!(result, Err(Error::SameServer { .. })), "{result:?}");
    assert!(report.precheck.unwrap().of(Item::SameServer).unwrap().ignored);
}

/// A run that goes on with what an earlier one left is not kept from it by what may pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_goes_on_is_told_and_not_ended() {
    let (source, target) = (any(), evicting());
    let dir = tempfile::tempdir().unwrap();
    // It is none of a migration, so the run ends a step later.
    std::fs::write(dir.path().join("left"), b"x").unwrap();
    let mut migration = migration(&source, &target);
    migration.options_mut().journal = Some(dir.path().to_owned());
    let Finished { report, result, .. } = migration.run().await;
    assert!(!matches!(result, Ok(()) | Err(Error::Precheck { .. })), "{result:?}");
    let note =
        report.notes.iter().find(|note| note.starts_with("precheck failed, and the run began all the same"));
    assert!(note.is_some_and(|note| note.contains("eviction-policy: ")), "{:?}", report.notes);
}
