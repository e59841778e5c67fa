//! Comparing the function libraries of live servers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keyferry_client::Frame;

use super::nodes::{self, LiveSide};
use crate::difference::{Difference, DifferenceKind};
use crate::error::Error;
use crate::report::DiffReport;

/// Names and codes. Shards of a cluster should agree.
type Libraries = BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>;

/// How the libraries of both sides differ.
pub(crate) async fn compare(
    sides: &[Arc<LiveSide>; 2],
    report: &mut DiffReport,
) -> Result<Vec<Difference>, Error> {
    let (source, target) = tokio::try_join!(libraries(&sides[0]), libraries(&sides[1]))?;
    (report.source.functions, report.target.functions) = (source.len() as u64, target.len() as u64);
    let names: BTreeSet<_> = source.keys().chain(target.keys()).collect();
    let kind = |name| match (source.get(name), target.get(name)) {
        (Some(a), Some(b)) => (a != b).then_some(DifferenceKind::Value),
        (Some(_), None) => Some(DifferenceKind::LackTarget),
        (None, _) => Some(DifferenceKind::LackSource),
    };
    Ok(names.into_iter().filter_map(|name| Some(Difference::of_function(name, kind(name)?))).collect())
}

async fn libraries(side: &LiveSide) -> Result<Libraries, Error> {
    let mut libraries = Libraries::new();
    if !side.since((7, 0), (7, 2)) {
        return Ok(libraries);
    }
    for node in &side.nodes().all {
        let reply = nodes::connect(&node.connect, 0).await?.call(["FUNCTION", "LIST", "WITHCODE"]).await?;
        for library in reply.as_array().unwrap_or_default() {
            let text = |name: &str| library.get(name).and_then(Frame::as_bytes).map(|b| b.to_vec());
            if let (Some(name), Some(code)) = (text("library_name"), text("library_code")) {
                libraries.entry(name).or_default().insert(code);
            }
        }
    }
    Ok(libraries)
}
