//! What is at the target already.

use std::collections::BTreeMap;

use keyferry_client::{Error, Pipeline};
use keyferry_routing::slot;

use crate::{
    options::OnExists,
    precheck::{
        Depth, Finding, Item, Known,
        report::Judge,
        sample::{SampledKey, select, shown},
    },
};

/// Keys that are named.
const NAMED: usize = 3;

/// Which keys of the sample are at the target.
#[derive(Debug, Default)]
pub(super) struct Existing {
    count: usize,
    named: Vec<String>,
    /// Keys of the sample that could be looked for.
    of: usize,
    refused: Option<String>,
}

impl Existing {
    /// Which part of the source is at the target already, from 0 to 1.
    pub(super) fn share(&self) -> f64 {
        if self.of == 0 { 0.0 } else { self.count as f64 / self.of as f64 }
    }
}

/// Looks for the keys of the sample.
pub(super) async fn existing(known: &mut Known<'_>) -> Result<Existing, Error> {
    let mut places: BTreeMap<(usize, u64), Vec<&SampledKey>> = BTreeMap::new();
    let to = |db: u64| known.options.db_map.get(&db).copied().unwrap_or(db);
    for key in &known.sample.keys {
        if let Some(node) = known.target.node_of(slot(&key.key)) {
            places.entry((node, to(key.db))).or_default().push(key);
        }
    }
    let mut existing = Existing::default();
    for ((number, db), keys) in places {
        let Some(node) = known.target.nodes.get_mut(number) else { continue };
        if !select(&mut node.connection, db).await? {
            // It does not have this database, which is another item's matter.
            continue;
        }
        let mut questions = Pipeline::new();
        for key in &keys {
            questions.push([b"EXISTS", &key.key[..]]);
        }
        let answers = node.connection.pipeline(&questions).await?;
        for (key, answer) in keys.iter().zip(&answers) {
            match answer.as_i64() {
                Some(0) => existing.of += 1,
                Some(_) => {
                    existing.of += 1;
                    existing.count += 1;
                    if existing.named.len() < NAMED {
                        existing.named.push(shown(&key.key));
                    }
                }
                None => existing.refused = answer.error_reply().map(|error| error.to_string()),
            }
        }
        select(&mut node.connection, 0).await?;
    }
    Ok(existing)
}

fn what_becomes_of_them(policy: OnExists) -> &'static str {
    match policy {
        OnExists::Fail => "keep the run from beginning, unless it goes on with one",
        OnExists::Skip => "stay as they are",
        OnExists::Replace => "will be replaced",
        OnExists::NewerWins => "will be replaced where they were used earlier than the source's",
        OnExists::Merge => "will be merged or replaced, by their types",
    }
}

pub(super) fn overlap(known: &Known<'_>, existing: &Existing) -> Finding {
    let mut judge = Judge::new(Item::Overlap);
    let mut held: BTreeMap<u64, u64> = BTreeMap::new();
    for (db, keys) in known.target.nodes.iter().flat_map(|node| node.keys()) {
        *held.entry(db).or_default() += keys;
    }
    let list: Vec<String> = held.iter().map(|(db, keys)| format!("{keys} in database {db}")).collect();
    if let Some(node) = known.target.nodes.iter().find(|node| node.info_refused.is_some()) {
        judge.warn(node.silence(), "give the user +info, or look at DBSIZE yourself");
    } else if held.is_empty() {
        judge.note("the target holds no keys");
    } else if existing.count > 0 {
        let evidence = format!(
            "the target holds keys ({}), among them {} of {} keys of the source that were looked for, as {}: they {}",
            list.join(", "),
            existing.count,
            existing.of,
            existing.named.join(", "),
            what_becomes_of_them(known.options.on_exists)
        );
        let remedy = "empty the target, if this is not a migration that goes on, or choose what is to become of such keys \
                      (--on-exists)";
        // A run looks at all keys by itself, and tells more.
        match known.options.on_exists {
            OnExists::Fail if known.depth == Depth::Full => judge.fail(evidence, remedy),
            _ => judge.warn(evidence, remedy),
        }
    } else {
        judge.warn(
            format!(
                "the target holds keys ({}), none of {} keys of the source that were looked for",
                list.join(", "),
                existing.of
            ),
            format!(
                "be sure that the target is the right one: keys of the same names {}",
                what_becomes_of_them(known.options.on_exists)
            ),
        );
    }
    if let Some(why) = &existing.refused {
        judge.warn(format!("keys could not be looked for: {why}"), "give the user at the target +exists");
    }
    judge.done()
}
