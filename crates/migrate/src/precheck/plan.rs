//! A plan: what a migration was meant to be, and between which servers in which state.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use keyferry_routing::{CommandFlags, CommandTable};
use serde::{Deserialize, Serialize};

use super::{
    Depth, Estimates, Item, Looked, Report, Verdict,
    estimate::counts_offset,
    survey::{End, Node, Surveyed},
};
use crate::migration::Migration;

/// The form of plans that this version writes and takes.
const FORMAT: u32 = 1;

/// What a migration was meant to be when somebody looked at both sides.
///
/// It serializes to JSON and back. It holds no passwords: URLs have `***` in their place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// The form of this plan.
    pub format: u32,
    /// Version of the library that made it.
    pub made_by: String,
    /// When it was made, in seconds since 1970.
    pub made_at: u64,
    /// The source then.
    pub source: PlannedEnd,
    /// The target then.
    pub target: PlannedEnd,
    /// The program's own settings, in a form that it takes back.
    pub arguments: Vec<String>,
    /// Items whose failing was ignored.
    pub ignored: Vec<Item>,
    /// Items that were worth knowing, with the evidence.
    pub warnings: BTreeMap<String, Vec<String>>,
    /// What it was estimated to take.
    pub estimates: Option<Estimates>,
}

/// One end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlannedEnd {
    /// Its URL without the password.
    pub url: String,
    /// True for a cluster.
    pub is_cluster: bool,
    /// Its primaries.
    pub nodes: Vec<PlannedNode>,
}

/// One primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlannedNode {
    /// Its address.
    pub address: String,
    /// Vendor and version.
    pub server: String,
    /// What tells one start of a server from another.
    pub run_id: Option<String>,
    /// The history that it writes, if it had a replica before.
    pub replication_id: Option<String>,
    /// Its slots, in a cluster.
    pub slots: Option<String>,
    /// Keys by database.
    pub keys: BTreeMap<u64, u64>,
    /// Commands that write, as many as it has carried out since it started; none where it does not tell.
    pub writes: Option<u64>,
}

impl Migration {
    /// Looks at all items, and makes a plan of it when none fails. `arguments` are the program's own and are given back
    /// by [`Plan::arguments`].
    pub async fn plan(&self, arguments: Vec<String>) -> (Report, Option<Plan>) {
        let Looked { report, known, .. } = self.look(Depth::Full).await;
        let plan = known.filter(|_| report.verdict != Verdict::Fail).map(|known| {
            let source = PlannedEnd::of(self.source.to_string(), &known.source);
            let target = PlannedEnd::of(self.target.to_string(), &known.target);
            let warnings = report.findings.iter().filter(|finding| finding.verdict == Verdict::Warn);
            let ignored = report.findings.iter().filter(|finding| finding.ignored);
            Plan {
                format: FORMAT,
                made_by: env!("CARGO_PKG_VERSION").to_owned(),
                made_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
                source,
                target,
                arguments,
                ignored: ignored.map(|finding| finding.item).collect(),
                warnings: warnings.map(|f| (f.item.name().to_owned(), f.evidence.clone())).collect(),
                estimates: report.estimates.clone(),
            }
        });
        (report, plan)
    }
}

impl Plan {
    /// What is not as it was when the plan was made, one line each; nothing when `migration` may run by it.
    ///
    /// At the source its primaries, their versions, slots and histories are compared, which a failover or a restart
    /// changes; not the data, as it is in use. At the target everything, and whether anybody has written to it.
    pub async fn changes(&self, migration: &Migration) -> Vec<String> {
        if self.format != FORMAT {
            return vec![format!(
                "the plan has the form {}, this version takes {FORMAT}: make it again",
                self.format
            )];
        }
        let Some(source) = migration.source.servers() else {
            return vec![format!("the plan is for {}, not for files", self.source.url)];
        };
        let (surveyed, target) =
            tokio::join!(Surveyed::new(End::Source, source), Surveyed::new(End::Target, &migration.target));
        let mut changes = Vec::new();
        for (end, planned, endpoint, surveyed) in [
            (End::Source, &self.source, source, surveyed),
            (End::Target, &self.target, &migration.target, target),
        ] {
            match surveyed {
                Err(error) => changes.push(format!("{end}: {error}")),
                Ok(surveyed) => {
                    planned.changes(end, &PlannedEnd::of(endpoint.to_string(), &surveyed), &mut changes)
                }
            }
        }
        changes
    }
}

impl PlannedEnd {
    fn of(url: String, surveyed: &Surveyed) -> Self {
        let nodes = surveyed.nodes.iter().map(PlannedNode::of).collect();
        PlannedEnd { url, is_cluster: surveyed.is_cluster, nodes }
    }

    fn changes(&self, end: End, now: &PlannedEnd, changes: &mut Vec<String>) {
        if self.url != now.url {
            changes.push(format!("{end}: the plan is for {}, not for {}", self.url, now.url));
            return;
        }
        for node in &self.nodes {
            match now.nodes.iter().find(|other| other.address == node.address) {
                None => changes.push(format!("{end} {}: is no primary any more", node.address)),
                Some(other) => node.changes(end, other, changes),
            }
        }
        for node in
            now.nodes.iter().filter(|node| self.nodes.iter().all(|other| other.address != node.address))
        {
            changes.push(format!("{end} {}: was no primary when the plan was made", node.address));
        }
    }
}

impl PlannedNode {
    fn of(node: &Node) -> Self {
        let text = |name| node.info.get(name).filter(|text| !text.is_empty()).map(str::to_owned);
        PlannedNode {
            address: node.options.address().to_string(),
            server: format!("{} {}", node.server.vendor, node.server.version),
            run_id: text("run_id"),
            // A server takes a new one when its first replica comes.
            replication_id: text("master_replid").filter(|_| counts_offset(&node.info)),
            slots: node.slots.as_ref().map(ToString::to_string),
            keys: node.keys(),
            writes: writes(node),
        }
    }

    fn changes(&self, end: End, now: &PlannedNode, changes: &mut Vec<String>) {
        let mut differ = |what: &str, then: String, now: String| {
            if then != now {
                changes.push(format!("{end} {}: {what} was {then} and is {now}", self.address));
            }
        };
        let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "not known".to_owned());
        differ("the server", self.server.clone(), now.server.clone());
        differ("the run id, as after a restart,", shown(&self.run_id), shown(&now.run_id));
        // A server without a replica takes a new one when its first replica comes.
        if let (Some(then), Some(now)) = (&self.replication_id, &now.replication_id) {
            differ("the replication id, as after a failover,", then.clone(), now.clone());
        }
        differ("the list of its slots", shown(&self.slots), shown(&now.slots));
        if end == End::Source {
            return;
        }
        match (self.writes, now.writes) {
            (Some(then), Some(now)) => differ("the number of writes", then.to_string(), now.to_string()),
            _ => differ(
                "the number of keys by database",
                format!("{:?}", self.keys),
                format!("{:?}", now.keys),
            ),
        }
    }
}

/// How many commands that write a server has carried out, those of scripts among them.
fn writes(node: &Node) -> Option<u64> {
    // Who is not told of any command is not told of these: INFO itself is one.
    node.calls().next()?;
    let table = CommandTable::builtin();
    let is_write = |name: &str| {
        let spec = table.named(name).or_else(|| table.named(name.split('|').next()?));
        // What is not known may write.
        spec.is_none_or(|spec| spec.flags().contains(CommandFlags::WRITE))
    };
    Some(node.calls().filter(|(name, _)| is_write(name)).map(|(_, calls)| calls).sum())
}
