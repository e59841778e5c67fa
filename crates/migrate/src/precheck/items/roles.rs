//! Whether the servers are what they have to be: ready, primaries, complete, and different ones.

use keyferry_client::{Mode, Role};

use crate::precheck::{
    Finding, Item, Known,
    report::Judge,
    survey::{Node, Surveyed},
};

pub(super) fn check(known: &Known<'_>) -> Vec<Finding> {
    let Known { source, target, .. } = known;
    let mut findings = vec![roles(source, target), same_server(source, target)];
    if source.is_cluster || target.is_cluster {
        findings.push(slots([source, target]));
    }
    findings
}

/// The same where the source is no server.
pub(super) fn of_target(known: &Known<'_>) -> Vec<Finding> {
    let Known { source, target, .. } = known;
    let mut findings = vec![roles(source, target)];
    if target.is_cluster {
        findings.push(slots([source, target]));
    }
    findings
}

fn roles(source: &Surveyed, target: &Surveyed) -> Finding {
    let mut judge = Judge::new(Item::Roles);
    for node in source.nodes.iter().chain(&target.nodes) {
        let name = node.name();
        if node.figure("loading") == Some(1) {
            let left =
                node.figure("loading_eta_seconds").map(|eta| format!(", {eta} s left")).unwrap_or_default();
            judge.fail(format!("{name}: is loading its data{left}"), "wait until it has loaded");
        }
        if node.server.mode == Mode::Sentinel {
            judge.fail(format!("{name}: is a sentinel"), "give the server that holds the data");
        }
    }
    for node in &source.nodes {
        match role(node) {
            Role::Replica if node.info.get("master_link_status") == Some("down") => judge.fail(
                format!("{}: is a replica that has lost its primary, and serves no replica", node.name()),
                "bring its primary back, or give the address of another server",
            ),
            Role::Replica => {
                judge.note(format!("{}: is a replica, which may be behind its primary", node.name()))
            }
            role => judge.note(format!("{}: {role}", node.name())),
        }
    }
    for node in &target.nodes {
        match role(node) {
            Role::Replica => judge.fail(
                format!("{}: is a replica: what is written to it is refused or thrown away", node.name()),
                "give the address of its primary",
            ),
            role => judge.note(format!("{}: {role}", node.name())),
        }
    }
    judge.done()
}

/// The role now; it may have changed since the greeting.
fn role(node: &Node) -> Role {
    match node.info.get("role") {
        Some("master") => Role::Primary,
        Some("slave") => Role::Replica,
        _ => node.server.role,
    }
}

fn same_server(source: &Surveyed, target: &Surveyed) -> Finding {
    let mut judge = Judge::new(Item::SameServer);
    let id = |node: &Node, name| node.info.get(name).filter(|id| !id.is_empty()).map(str::to_owned);
    let mut told = true;
    for from in &source.nodes {
        for to in &target.nodes {
            let (a, b) = (id(from, "run_id"), id(to, "run_id"));
            told &= a.is_some() && b.is_some();
            if a.is_some() && a == b {
                judge.fail(
                    format!(
                        "{} and {} are one server (run id {})",
                        from.name(),
                        to.name(),
                        a.unwrap_or_default()
                    ),
                    "give two different servers",
                );
                continue;
            }
            let (a, b) = (id(from, "master_replid"), id(to, "master_replid"));
            if a.is_some() && a == b {
                judge.fail(
                    format!(
                        "{} and {} are of one replication (id {})",
                        from.name(),
                        to.name(),
                        a.unwrap_or_default()
                    ),
                    "take the target out of it first: REPLICAOF NO ONE gives it a new id",
                );
            }
        }
    }
    if told {
        judge.note("run ids and replication ids were compared");
    } else {
        judge.warn(
            "not known: a server does not tell its run id",
            "let the user call INFO, or be sure of the addresses",
        );
    }
    judge.done()
}

fn slots(ends: [&Surveyed; 2]) -> Finding {
    let mut judge = Judge::new(Item::Slots);
    for surveyed in ends.into_iter().filter(|surveyed| surveyed.is_cluster) {
        let end = surveyed.end;
        if !surveyed.unserved.is_empty() {
            judge.fail(
                format!("{end}: nobody serves the slots {}", surveyed.unserved),
                "bring their nodes back, or give the slots to others: redis-cli --cluster fix",
            );
        }
        match &surveyed.moving {
            Ok(slots) if slots.is_empty() => {
                judge.note(format!("{end}: {} primaries, no slot on the move", surveyed.nodes.len()))
            }
            Ok(slots) => judge.fail(
                format!("{end}: the slots {slots} are on the move"),
                "let the move come to its end, or end it: redis-cli --cluster fix",
            ),
            Err(why) => judge.warn(
                format!("{end}: whether slots are on the move is not known: {why}"),
                "let the user call CLUSTER NODES",
            ),
        }
    }
    judge.done()
}
