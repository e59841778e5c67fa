use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::pair::{Pair, libraries};
use super::side::{Place, Side};
use super::{CompareOptions, Comparison, Difference, DifferenceKind, scan, shorten};
use crate::error::Result;

/// Keys that are looked at in one round trip.
const BATCH: usize = 500;

/// Compares two sides, each a server or a cluster, as [`compare_with`](super::compare_with) compares two servers. Nobody
/// should write, and no slot move, meanwhile. Keys on a node that does not serve their slot are invisible to clients and left
/// out.
///
/// # Errors
/// As [`Client::call`](crate::Client::call).
pub fn compare_sides<'a>(a: Side<'a>, b: Side<'a>, options: &CompareOptions) -> Result<Comparison> {
    let mut run = Run { a, b, options, found: Comparison::default() };
    let (databases_a, databases_b) = (run.a.filled()?, run.b.filled()?);
    for (own, common) in databases_a {
        run.all_of_a(own, common)?;
    }
    for (own, common) in databases_b {
        run.only_in_b(own, common)?;
    }
    run.a.back_to_database_0()?;
    run.b.back_to_database_0()?;
    if options.functions {
        run.functions()?;
    }
    Ok(run.found)
}

struct Run<'a, 'o> {
    a: Side<'a>,
    b: Side<'a>,
    options: &'o CompareOptions,
    found: Comparison,
}

impl Run<'_, '_> {
    /// Every key of one database of the first side.
    fn all_of_a(&mut self, own: u32, common: u32) -> Result<()> {
        for node in 0..self.a.nodes.len() {
            let mut cursor = "0".to_owned();
            let mut seen = BTreeSet::new();
            loop {
                let (next, keys) = visible_keys(&mut self.a, node, own, &cursor, &mut seen, self.options)?;
                self.found.keys_a += keys.len() as u64;
                let Located { there, missing } = locate(&mut self.b, common, keys)?;
                for (place, keys) in there.into_iter().map(|(place, keys)| (Some(place), keys)).chain(missing)
                {
                    self.compare(Some((node, own)), place, common, &keys)?;
                }
                cursor = next;
                if cursor == "0" {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Those keys of one database of the second side that the first does not have.
    fn only_in_b(&mut self, own: u32, common: u32) -> Result<()> {
        for node in 0..self.b.nodes.len() {
            let mut cursor = "0".to_owned();
            let mut seen = BTreeSet::new();
            loop {
                let (next, keys) = visible_keys(&mut self.b, node, own, &cursor, &mut seen, self.options)?;
                self.found.keys_b += keys.len() as u64;
                for (place, keys) in locate(&mut self.a, common, keys)?.missing {
                    self.compare(place, Some((node, own)), common, &keys)?;
                }
                cursor = next;
                if cursor == "0" {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Compares keys between a place of each side; one side may have none, then the other shows what it has.
    fn compare(
        &mut self,
        place_a: Option<Place>,
        place_b: Option<Place>,
        common: u32,
        keys: &[Bytes],
    ) -> Result<()> {
        if let (Some(a), Some(b)) = (place_a, place_b) {
            let (a, b) = (self.a.at(a)?, self.b.at(b)?);
            for difference in (Pair { a, b, options: self.options }).keys(common, keys)? {
                self.found.add(difference, self.options);
            }
            return Ok(());
        }
        let node = match (place_a, place_b) {
            (Some(a), _) => self.a.at(a)?,
            (_, Some(b)) => self.b.at(b)?,
            _ => return Ok(()),
        };
        for key in keys {
            let kind = node.client.text(&[&b"TYPE"[..], key])?;
            // It may have expired since.
            if kind != "none" {
                let missing = "missing".to_owned();
                let (kind, a, b) = match place_a {
                    Some(_) => (DifferenceKind::MissingInB, kind, missing),
                    None => (DifferenceKind::MissingInA, missing, kind),
                };
                add(&mut self.found, self.options, common, key, kind, a, b);
            }
        }
        Ok(())
    }

    /// All nodes of both sides have to have the same function libraries as the first of the first side.
    fn functions(&mut self) -> Result<()> {
        let mut all = Vec::new();
        for node in self.a.nodes.iter_mut().chain(&mut self.b.nodes) {
            let address = node.client.address().to_owned();
            all.push((address, libraries(&mut node.client, &node.features)?));
        }
        let Some(((_, first), others)) = all.split_first() else { return Ok(()) };
        for (_, other) in others {
            let names: BTreeSet<&Bytes> = first.iter().chain(other).map(|(name, _)| name).collect();
            for name in names {
                let of = |libraries: &[(Bytes, Bytes)]| {
                    libraries.iter().find(|(n, _)| n == name).map(|(_, code)| code.clone())
                };
                let (a, b) = (of(first), of(other));
                if a != b {
                    let show = |code: Option<Bytes>| code.map_or("missing".to_owned(), |code| shorten(&code));
                    let kind = DifferenceKind::Function;
                    add(&mut self.found, self.options, 0, name, kind, show(a), show(b));
                }
            }
        }
        Ok(())
    }
}

/// Where some keys are on a side.
#[derive(Default)]
struct Located {
    there: BTreeMap<Place, Vec<Bytes>>,
    /// Those that are nowhere, with the place where they would be, if the side has any for them.
    missing: BTreeMap<Option<Place>, Vec<Bytes>>,
}

fn locate(side: &mut Side<'_>, common: u32, keys: Vec<Bytes>) -> Result<Located> {
    let mut by_node: BTreeMap<Option<usize>, Vec<Bytes>> = BTreeMap::new();
    for key in keys {
        by_node.entry(side.owner(&key)).or_default().push(key);
    }
    let mut located = Located::default();
    for (node, mut keys) in by_node {
        let mut first = None;
        let own = side.own(common);
        for place in node.into_iter().flat_map(|node| own.iter().map(move |own| (node, *own))) {
            let node = &mut side.nodes[place.0];
            if !node.select(place.1)? {
                continue;
            }
            first = first.or(Some(place));
            let asked: Vec<[&[u8]; 2]> = keys.iter().map(|key| [b"EXISTS", key.as_ref()]).collect();
            let mut exist = node.client.pipe(&asked)?.into_iter();
            let (found, left): (Vec<_>, Vec<_>) =
                keys.into_iter().partition(|_| exist.next().and_then(|reply| reply.as_i64()) == Some(1));
            located.there.entry(place).or_default().extend(found);
            keys = left;
        }
        located.missing.entry(first).or_default().extend(keys);
    }
    Ok(located)
}

/// The next keys of a node's database that belong there and are not left out, each once: SCAN may give one twice.
fn visible_keys(
    side: &mut Side<'_>,
    node: usize,
    own: u32,
    cursor: &str,
    seen: &mut BTreeSet<Bytes>,
    options: &CompareOptions,
) -> Result<(String, Vec<Bytes>)> {
    side.nodes[node].select(own)?;
    let (next, keys) = scan(&mut side.nodes[node].client, cursor, BATCH)?;
    let belongs = |key: &Bytes| side.owner(key) == Some(node) && !options.ignores(key);
    Ok((next, keys.into_iter().filter(|key| belongs(key) && seen.insert(key.clone())).collect()))
}

fn add(
    found: &mut Comparison,
    options: &CompareOptions,
    database: u32,
    key: &Bytes,
    kind: DifferenceKind,
    a: String,
    b: String,
) {
    found.add(Difference { database, key: key.to_vec(), kind, a, b }, options);
}
