use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::client::Client;
use crate::error::Result;

/// A cluster as one node sees it: its reply to CLUSTER NODES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    nodes: BTreeMap<String, Seen>,
}

/// What is said of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Neither failing nor in a handshake, and connected.
    well: bool,
    /// The id of its primary, of a replica.
    primary: Option<String>,
    slots: Vec<RangeInclusive<u16>>,
}

impl View {
    pub(super) fn ask(client: &mut Client) -> Result<View> {
        client.text(&["CLUSTER", "NODES"]).map(|text| View::parse(&text))
    }

    fn parse(text: &str) -> View {
        let nodes = text.lines().filter_map(|line| {
            // id address flags primary ping pong epoch link slot…
            let fields: Vec<&str> = line.split(' ').collect();
            let &[id, _, flags, primary, _, _, _, link, ref slots @ ..] = fields.as_slice() else {
                return None;
            };
            let bad = |flag: &str| matches!(flag, "fail" | "fail?" | "handshake" | "noaddr");
            let well = !flags.split(',').any(bad) && (link == "connected" || flags.contains("myself"));
            let primary = flags.contains("slave").then(|| primary.to_owned());
            Some((id.to_owned(), Seen { well, primary, slots: slots.iter().filter_map(range).collect() }))
        });
        View { nodes: nodes.collect() }
    }

    pub(super) fn is_well(&self, id: &str) -> bool {
        self.nodes.get(id).is_some_and(|node| node.well)
    }

    pub(super) fn is_primary(&self, id: &str) -> bool {
        self.nodes.get(id).is_some_and(|node| node.primary.is_none())
    }

    pub(super) fn primary_of(&self, id: &str) -> Option<&String> {
        self.nodes.get(id)?.primary.as_ref()
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&str> {
        let serves = |node: &Seen| node.slots.iter().any(|range| range.contains(&slot));
        self.nodes.iter().find(|(_, node)| serves(node)).map(|(id, _)| id.as_str())
    }

    pub(super) fn slots(&self, id: &str) -> &[RangeInclusive<u16>] {
        self.nodes.get(id).map_or(&[], |node| &node.slots)
    }

    /// Whether both have the same owners of slots and the same replicas.
    pub(super) fn agrees_with(&self, other: &View) -> bool {
        let facts = |view: &View| -> Vec<_> {
            // A dead node that serves nothing may be known to one and forgotten by another.
            let relevant = view.nodes.iter().filter(|(_, node)| node.well || !node.slots.is_empty());
            relevant.map(|(id, node)| (id.clone(), node.primary.clone(), node.slots.clone())).collect()
        };
        facts(self) == facts(other)
    }
}

/// `7` or `5-9`; the marks of a slot on the move are in brackets and none.
fn range(text: &&str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_with_all_their_marks() {
        let view = View::parse(
            "aa 127.0.0.1:1@2 myself,master - 0 1 1 connected 0-5 7 [93->-bb] [94-<-bb]\n\
             bb 127.0.0.1:3@4,name master,fail? - 0 1 2 connected 6\n\
             cc 127.0.0.1:5@6 slave aa 0 1 1 disconnected\n",
        );
        assert_eq!(view.slots("aa"), [0..=5, 7..=7]);
        assert_eq!((view.owner(6), view.owner(8)), (Some("bb"), None));
        assert_eq!(view.primary_of("cc").map(String::as_str), Some("aa"));
        assert!(view.is_primary("aa") && !view.is_primary("cc") && !view.is_primary("dd"));
        assert!(view.is_well("aa") && !view.is_well("bb") && !view.is_well("cc"));
    }
}
