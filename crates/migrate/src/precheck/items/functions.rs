//! Function libraries (7.0).

use std::collections::BTreeSet;

use keyferry_client::{Error, Frame, Vendor, Version};

use crate::{
    options::OnLoss,
    precheck::{
        Finding, Item, Known,
        report::Judge,
        survey::{Node, Surveyed},
    },
};

pub(super) async fn check(known: &mut Known<'_>) -> Result<Finding, Error> {
    let mut judge = Judge::new(Item::Functions);
    let source = libraries_of(&mut known.source, &mut judge).await?;
    against_target(known, &source, judge).await
}

/// Whether the target takes libraries of these names.
pub(super) async fn against_target(
    known: &mut Known<'_>,
    source: &BTreeSet<String>,
    mut judge: Judge,
) -> Result<Finding, Error> {
    if source.is_empty() {
        judge.note("the source has none");
        return Ok(judge.done());
    }
    let named = |libraries: &BTreeSet<String>| libraries.iter().cloned().collect::<Vec<_>>().join(", ");
    judge.note(format!("libraries of the source: {}", named(source)));
    for node in known.target.nodes.iter().filter(|node| !has_functions(node)) {
        let line = format!("{}: {} has no functions", node.name(), node.server);
        if known.options.on_loss == OnLoss::Drop {
            judge.warn(line, "they will not be at the target; the report counts them");
        } else {
            let remedy = "take a target that has functions (Redis 7.0, Valkey), delete the libraries at the source, or go on \
                          without them (--on-loss drop)";
            judge.fail(line, remedy);
        }
    }
    let target = libraries_of(&mut known.target, &mut judge).await?;
    let both: BTreeSet<String> = source.intersection(&target).cloned().collect();
    if !both.is_empty() {
        judge.warn(
            format!(
                "at the target there are libraries of the same names, which will be replaced: {}",
                named(&both)
            ),
            "rename them if they are not the same",
        );
    }
    Ok(judge.done())
}

fn has_functions(node: &Node) -> bool {
    node.server.version >= Version::new(7, 0, 0) && node.server.vendor != Vendor::KeyDb
}

/// The names of all libraries of one end.
async fn libraries_of(end: &mut Surveyed, judge: &mut Judge) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    for node in end.nodes.iter_mut().filter(|node| has_functions(node)) {
        let reply = node.connection.call_frame(["FUNCTION", "LIST"]).await?;
        match (reply.as_array(), reply.error_reply()) {
            (Some(libraries), _) => {
                let name = |library: &Frame| library.get("library_name")?.as_str().map(str::to_owned);
                names.extend(libraries.iter().filter_map(name));
            }
            (None, Some(why)) => {
                judge.warn(format!("{}: not known: {why}", node.name()), "give the user +function|list");
            }
            (None, None) => {}
        }
    }
    Ok(names)
}
