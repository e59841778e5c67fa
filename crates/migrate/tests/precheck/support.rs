//! A look at two servers.

use keyferry_migrate::{
    Migration, Options,
    precheck::{Depth, Finding, Item, Report, Verdict},
};
use keyferry_testkit::{Server, ServerBinary};

pub(crate) fn start(binary: &ServerBinary) -> Server {
    Server::builder(binary).diskless_sync(true, 0).start().unwrap()
}

pub(crate) fn any() -> Server {
    start(keyferry_testkit::any().unwrap())
}

/// The quick items.
pub(crate) async fn look(source: impl AsRef<str>, target: impl AsRef<str>) -> Report {
    look_with(source, target, Depth::Quick, |_| {}).await
}

pub(crate) async fn look_with(
    source: impl AsRef<str>,
    target: impl AsRef<str>,
    depth: Depth,
    options: impl FnOnce(&mut Options),
) -> Report {
    let mut migration = Migration::new(source.as_ref().parse().unwrap(), target.as_ref().parse().unwrap());
    options(migration.options_mut());
    migration.precheck(depth).await
}

/// The item has this verdict, and something to show for it.
#[track_caller]
pub(crate) fn expect(report: &Report, item: Item, verdict: Verdict) -> Finding {
    let finding = report.of(item).unwrap_or_else(|| panic!("{item} was not looked at:\n{report}"));
    assert_eq!(finding.verdict, verdict, "{item}: {finding:#?}");
    assert!(!finding.evidence.is_empty(), "{item} has no evidence");
    assert_eq!(finding.remedies.is_empty(), verdict == Verdict::Pass, "{finding:#?}");
    finding.clone()
}

/// The evidence says this.
#[track_caller]
pub(crate) fn says(finding: &Finding, what: &str) {
    assert!(finding.evidence.iter().any(|line| line.contains(what)), "{what:?} is not in {finding:#?}");
}
