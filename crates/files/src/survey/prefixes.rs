//! Key names as a tree of prefixes.

use std::collections::HashMap;

use serde::Serialize;

/// How to take names apart.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefixOptions {
    /// What stands between the parts of a name. Default `:`. Empty counts as `:`.
    pub separator: Vec<u8>,
    /// How many parts are looked at. Default 6.
    pub depth: usize,
    /// How many prefixes are held in memory, about 200 bytes each. Default 20,000; at least 16 are used.
    pub max_nodes: usize,
}

impl Default for PrefixOptions {
    fn default() -> Self {
        Self { separator: b":".to_vec(), depth: 6, max_nodes: 20_000 }
    }
}

/// Bytes of names that are held, at most: hostile names are long.
const MAX_NAMES: usize = 4 << 20;
/// A part of a name longer than this is not taken for a prefix: it says nothing to a reader.
const MAX_PART: usize = 512;

/// The prefixes of key names, with the number and bytes of the keys below each, in bounded memory.
///
/// A prefix ends with a separator; what follows the last separator of a name is no prefix. When there are too many, the
/// smallest half is folded into the prefixes above them. What is above never loses anything by that; a prefix that comes again
/// after it was folded starts from zero, and is short by [`Prefix::missing`] bytes at most.
#[derive(Clone, Debug)]
pub struct Prefixes {
    options: PrefixOptions,
    root: Node,
    nodes: usize,
    names: usize,
}

#[derive(Clone, Debug, Default)]
struct Node {
    children: HashMap<Box<[u8]>, Node>,
    keys: u64,
    bytes: u64,
    /// By how many bytes it may be too low, as it may have been folded before.
    missing: u64,
    /// What a child that is not there may have had, at most.
    absent: u64,
    /// Set when children were folded.
    folded: bool,
}

/// A prefix and the keys below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Prefix {
    /// The whole prefix, with its last separator.
    #[serde(serialize_with = "super::as_line")]
    pub prefix: Vec<u8>,
    /// Number of keys below it.
    pub keys: u64,
    /// Their bytes in the file.
    pub bytes: u64,
    /// By how many bytes the number may be too low: see [`Prefixes`]. Zero almost always.
    pub missing: u64,
    /// Whether it had prefixes below it that are not listed, as there were too many.
    pub folded: bool,
    /// Prefixes below it, most bytes first.
    pub below: Vec<Prefix>,
}

impl Prefixes {
    /// No names yet.
    pub fn new(mut options: PrefixOptions) -> Self {
        if options.separator.is_empty() {
            options.separator = b":".to_vec();
        }
        options.max_nodes = options.max_nodes.max(16);
        Self { options, root: Node::default(), nodes: 0, names: 0 }
    }

    /// Counts a key.
    #[inline]
    pub(super) fn key(&mut self, key: &[u8], bytes: u64) {
        self.root.add(bytes);
        let mut node = &mut self.root;
        let mut rest = key;
        for _ in 0..self.options.depth {
            let Some(at) = find(rest, &self.options.separator) else { break };
            let (part, after) = rest.split_at(at + self.options.separator.len());
            if part.len() > MAX_PART {
                break;
            }
            // Looked up twice only when it is new: the map cannot be asked for a borrowed name and filled in one step.
            if !node.children.contains_key(part) {
                let child = Node { missing: node.absent, absent: node.absent, ..Node::default() };
                node.children.insert(part.into(), child);
                self.nodes += 1;
                self.names += part.len();
            }
            let Some(child) = node.children.get_mut(part) else { break };
            child.add(bytes);
            node = child;
            rest = after;
        }
        if self.nodes > self.options.max_nodes || self.names > MAX_NAMES {
            self.fold();
        }
    }

    /// Folds at least half of the prefixes, the smallest.
    #[cold]
    fn fold(&mut self) {
        let mut sizes = Vec::with_capacity(self.nodes);
        self.root.sizes(&mut sizes);
        // Names count too, so that few long ones do not stay.
        let middle = sizes.len() / 2;
        let (_, bound, _) = sizes.select_nth_unstable(middle);
        let bound = *bound;
        self.root.fold(bound);
        (self.nodes, self.names) = (0, 0);
        self.root.count(&mut self.nodes, &mut self.names);
        if self.nodes > self.options.max_nodes / 2 + 1 || self.names > MAX_NAMES / 2 {
            // Many are as large as the median: nothing tells which to keep.
            self.root.fold(bound.saturating_add(1));
            (self.nodes, self.names) = (0, 0);
            self.root.count(&mut self.nodes, &mut self.names);
        }
        if self.names > MAX_NAMES / 2 {
            self.root.fold(u64::MAX);
            (self.nodes, self.names) = (0, 0);
        }
    }

    /// All keys: a prefix that is empty.
    pub fn tree(&self) -> Prefix {
        let mut prefix = Vec::new();
        self.root.prefix(&mut prefix)
    }

    /// How names were taken apart.
    pub fn options(&self) -> &PrefixOptions {
        &self.options
    }
}

impl Node {
    fn add(&mut self, bytes: u64) {
        self.keys += 1;
        self.bytes += bytes;
    }

    fn sizes(&self, out: &mut Vec<u64>) {
        for child in self.children.values() {
            out.push(child.bytes);
            child.sizes(out);
        }
    }

    fn count(&self, nodes: &mut usize, names: &mut usize) {
        for (name, child) in &self.children {
            *nodes += 1;
            *names += name.len();
            child.count(nodes, names);
        }
    }

    /// Drops all prefixes below it that have fewer bytes than this; one is never smaller than those below it.
    fn fold(&mut self, bound: u64) {
        let (absent, folded) = (&mut self.absent, &mut self.folded);
        self.children.retain(|_, child| {
            if child.bytes >= bound {
                return true;
            }
            *absent = (child.bytes + child.missing).max(*absent);
            *folded = true;
            false
        });
        if self.children.capacity() > 4 * self.children.len() {
            self.children.shrink_to_fit();
        }
        self.children.values_mut().for_each(|child| child.fold(bound));
    }

    fn prefix(&self, name: &mut Vec<u8>) -> Prefix {
        let mut below: Vec<Prefix> = self
            .children
            .iter()
            .map(|(part, child)| {
                let len = name.len();
                name.extend_from_slice(part);
                let prefix = child.prefix(name);
                name.truncate(len);
                prefix
            })
            .collect();
        below.sort_unstable_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.prefix.cmp(&b.prefix)));
        Prefix {
            prefix: name.clone(),
            keys: self.keys,
            bytes: self.bytes,
            missing: self.missing,
            folded: self.folded,
            below,
        }
    }
}

#[inline]
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    match wanted {
        [byte] => memchr::memchr(*byte, bytes),
        _ => memchr::memmem::find(bytes, wanted),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keyferry_testkit::Rng;

    use super::*;

    fn flat(prefix: &Prefix, out: &mut BTreeMap<Vec<u8>, (u64, u64, u64)>) {
        out.insert(prefix.prefix.clone(), (prefix.keys, prefix.bytes, prefix.missing));
        prefix.below.iter().for_each(|below| flat(below, out));
    }

    #[test]
    fn names_are_taken_apart() {
        let mut prefixes = Prefixes::new(PrefixOptions { depth: 2, ..PrefixOptions::default() });
        for key in [&b"a:b:c:d"[..], b"a:x", b"a:b:", b"plain", b"", b":x", b"\xFF:\0"] {
            prefixes.key(key, 10);
        }
        let mut found = BTreeMap::new();
        flat(&prefixes.tree(), &mut found);
        let expected: [(&[u8], u64); 5] = [(b"", 7), (b":", 1), (b"a:", 3), (b"a:b:", 2), (b"\xFF:", 1)];
        assert_eq!(found, expected.map(|(name, keys)| (name.to_vec(), (keys, 10 * keys, 0))).into());
    }

    #[test]
    fn separators_may_be_long() {
        let options = PrefixOptions { separator: b"::".to_vec(), ..PrefixOptions::default() };
        let mut prefixes = Prefixes::new(options);
        prefixes.key(b"a:b::c", 1);
        assert_eq!(prefixes.tree().below[0].prefix, b"a:b::");
    }

    #[test]
    fn memory_is_bounded_and_large_prefixes_are_kept() {
        let max_nodes = 200;
        let mut prefixes = Prefixes::new(PrefixOptions { max_nodes, ..PrefixOptions::default() });
        let mut rng = Rng::new(5);
        let mut exact: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for i in 0..50_000u64 {
            let (name, bytes) = match i % 5 {
                0 => ("large:one:".to_owned(), 1000),
                1 => (format!("large:{}:", rng.below(8)), 300),
                _ => (format!("user:{}:", rng.below(20_000)), 10 + rng.below(20)),
            };
            prefixes.key(format!("{name}x").as_bytes(), bytes);
            assert!(prefixes.nodes <= max_nodes);
            *exact.entry(name.into_bytes()).or_default() += bytes;
        }
        let tree = prefixes.tree();
        assert_eq!((tree.keys, tree.bytes), (50_000, exact.values().sum()));
        let mut found = BTreeMap::new();
        flat(&tree, &mut found);
        assert_eq!(found[&b"user:"[..]].0, 30_000);
        assert_eq!(found[&b"large:one:"[..]], (10_000, 10_000_000, found[&b"large:one:"[..]].2));
        for (name, (_, bytes, missing)) in &found {
            if let Some(exact) = exact.get(name) {
                assert!(bytes <= exact && exact - bytes <= *missing, "{}", name.escape_ascii());
            }
        }
        assert!(tree.below.iter().any(|prefix| prefix.folded));
    }

    #[test]
    fn long_names_are_folded_too() {
        let mut prefixes = Prefixes::new(PrefixOptions::default());
        for i in 0..30_000 {
            prefixes.key(format!("{i:0500}:").as_bytes(), 1);
            assert!(prefixes.names <= MAX_NAMES);
        }
        assert_eq!(prefixes.tree().keys, 30_000);
        prefixes.key(&b"x".repeat(MAX_PART).iter().chain(b":").copied().collect::<Vec<_>>(), 1);
    }
}
