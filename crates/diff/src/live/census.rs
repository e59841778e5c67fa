//! Telling by a count that the target has no keys besides those of the source, and that no others expire on the source than were found.
//!
//! The keys of the target need not be gone over where nobody wrote to it meanwhile: if it holds as many as were found to be on
//! both sides, each counted once, it holds no others. Nor need the source be asked of keys that do not expire on the target when they do: if
//! nobody wrote to it either, and as many expire there as were found to, no others do.

use std::sync::Arc;

use super::databases;
use super::nodes::{self, LiveSide};

/// What a server counts that changes with every key that comes or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    db: u32,
    run: String,
    /// Changes since the last save and when that was; keys that expired; keys that were evicted.
    counts: [u64; 4],
    /// Keys of the database, and those that expire.
    keys: u64,
    expire: u64,
}

/// The keys of a pair of databases that were looked at, and how the servers stood before.
#[derive(Debug)]
pub(crate) struct Census {
    target: Standing,
    /// The source, if keys that expire are counted there.
    source: Option<Standing>,
    /// Hashes of names, some perhaps twice, as `SCAN` may give keys. Two names of one hash make it too few, which proves nothing.
    names: Vec<u64>,
    /// The same of those that expire on the source.
    expire: Vec<u64>,
    /// Names that are held at most.
    most: usize,
}

impl Census {
    /// Begins one of a database of a single server, the target; `None` where a server does not tell what it takes.
    ///
    /// Where a database of the source is named, those of its keys that expire are counted, too.
    pub(crate) async fn begin(
        [source, target]: &[Arc<LiveSide>; 2],
        of_source: Option<u32>,
        of_target: u32,
        memory: usize,
    ) -> Option<Self> {
        let target = standing(target, of_target).await?;
        let source = match of_source {
            Some(db) => Some(standing(source, db).await?),
            None => None,
        };
        Some(Self { target, source, names: Vec::new(), expire: Vec::new(), most: memory / size_of::<u64>() })
    }

    /// Whether those keys are counted that expire.
    pub(crate) fn counts_expiries(&self) -> bool {
        self.source.is_some()
    }

    /// Takes the hashes of the names of keys that were looked at, and of those that expire on the source.
    pub(crate) fn add(&mut self, names: &[u64], expire: &[u64]) {
        if self.names.len() + self.expire.len() + names.len() + expire.len() <= self.most {
            self.names.extend_from_slice(names);
            self.expire.extend_from_slice(expire);
        } else {
            // Too many to hold: it will prove nothing.
            (self.most, self.names, self.expire) = (0, Vec::new(), Vec::new());
        }
    }

    /// Whether the target holds those keys but for `lacking` of them, and no others, and of others than those that were counted none
    /// expires on the source: then how many.
    pub(crate) async fn end(mut self, [source, target]: &[Arc<LiveSide>; 2], lacking: u64) -> Option<u64> {
        let found = different(&mut self.names).checked_sub(lacking)?;
        if self.most == 0 || found != self.target.keys || !self.target.is_still(target).await {
            return None;
        }
        if let Some(before) = &self.source {
            let expire = different(&mut self.expire);
            if expire != before.expire || !before.is_still(source).await {
                return None;
            }
        }
        Some(found)
    }
}

impl Standing {
    /// Whether nothing has come or gone since.
    async fn is_still(&self, side: &LiveSide) -> bool {
        standing(side, self.db).await.as_ref() == Some(self)
    }
}

fn different(names: &mut Vec<u64>) -> u64 {
    names.sort_unstable();
    names.dedup();
    names.len() as u64
}

/// How a server stands; `None` where it does not say. Errors say nothing: whoever goes over the keys then meets them if they last.
async fn standing(side: &LiveSide, db: u32) -> Option<Standing> {
    let nodes = side.nodes();
    let [node] = &nodes.all[..] else { return None };
    let mut connection = nodes::connect(&node.connect, 0).await.ok()?;
    let run = connection.info("server").await.ok()?.get("run_id")?.to_owned();
    let mut number = async |section: &str, names: [&str; 2]| {
        let info = connection.info(section).await.ok()?;
        let read = |name: &str| info.get(name)?.parse::<u64>().ok();
        Some([read(names[0])?, read(names[1])?])
    };
    let [changes, saved] =
        number("persistence", ["rdb_changes_since_last_save", "rdb_last_save_time"]).await?;
    let [expired, evicted] = number("stats", ["expired_keys", "evicted_keys"]).await?;
    let (keys, expire) = databases::counts(side).await.ok()?.get(&db).copied().unwrap_or_default();
    Some(Standing { db, run, counts: [changes, saved, expired, evicted], keys, expire })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(names: &[u64], most: usize) -> Census {
        let target = Standing { db: 0, run: String::new(), counts: [0; 4], keys: 0, expire: 0 };
        let mut census = Census { target, source: None, names: Vec::new(), expire: Vec::new(), most };
        names.iter().for_each(|name| census.add(&[*name], &[]));
        census
    }

    #[test]
    fn more_than_memory_holds_proves_nothing() {
        assert_eq!(census(&[3, 1, 3], 3).names, [3, 1, 3]);
        let full = census(&[3, 1, 3], 2);
        assert_eq!((full.most, full.names.len()), (0, 0));
        // Nor does anything that comes later.
        let mut full = full;
        full.add(&[1], &[1]);
        assert!(full.names.is_empty());
    }
}
