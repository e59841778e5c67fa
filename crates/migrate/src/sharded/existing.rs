//! Looking up which keys a target has before a migration first writes to it, and what is to become of them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use keyferry_client::ConnectOptions;
use keyferry_resp::Command;

use super::{
    Target,
    aside::Aside,
    mirror::{self, First, Foreign},
    sweep::{Attempts, Missed, Owners},
};
use crate::{
    error::Error,
    existing::{Counter, Existing, Overlap, SharedKeys, idle_of, in_files},
    filter::Filter,
    journal::blocking,
    key_set::{KeyCollector, KeySet},
    options::{OnExists, Options},
};

/// Where the keys are kept that stay as they are, or that can be merged.
const CHOSEN: &str = "keyferry-existing.keys";

/// The keys that were there, and those of them that stay or can be merged.
type Found = (Arc<KeySet>, KeySet);

/// What is asked for.
pub(super) struct Question<'q> {
    pub(super) options: &'q Options,
    /// Where fingerprints are kept.
    pub(super) directory: &'q Path,
    /// When the migration first began.
    pub(super) first: First,
    /// What this one is called, for errors.
    pub(super) id: String,
    pub(super) source: Origin<'q>,
    /// Also where all of them are replaced it matters which they are.
    pub(super) matters: bool,
}

/// Where the keys come from.
pub(super) enum Origin<'o> {
    /// The primaries of the source.
    Servers(&'o [ConnectOptions]),
    Files(&'o [PathBuf]),
}

impl Question<'_> {
    /// Looks it up, or takes what an earlier run has kept. To be called before anything is written.
    ///
    /// # Errors
    /// [`Error::TargetHasKeys`] where that is to end the run; [`Error::ExistingUnknown`] when nobody knows any more.
    pub(super) async fn answer(self, target: &Target) -> Result<Arc<Existing>, Error> {
        let policy = self.options.on_exists;
        if policy == OnExists::Replace {
            let foreign = match self.source {
                Origin::Servers(_) => Foreign::of(target, self.directory, self.first, self.matters).await?,
                // Nothing is ever removed, so nobody needs to know.
                Origin::Files(_) => Foreign::Unknown,
            };
            return Ok(Existing::replacing(foreign));
        }
        let found = match self.first {
            First::Now => self.look(target).await?,
            First::WithNothing => Some((Arc::new(KeySet::empty()), KeySet::empty())),
            First::Before => self.kept(policy).await?,
        };
        let Some((before, chosen)) = found else {
            return Err(Error::ExistingUnknown { id: self.id, policy: policy.name() });
        };
        let fresh = self.first == First::Now;
        Ok(Existing::new(policy, Foreign::Known(before), chosen, fresh))
    }

    /// What an earlier run has kept.
    async fn kept(&self, policy: OnExists) -> Result<Option<Found>, Error> {
        let (before, chosen) = self.paths();
        let needs_chosen = matches!(policy, OnExists::Merge | OnExists::NewerWins);
        blocking(move || {
            let Some(before) = KeySet::open(&before)? else { return Ok(None) };
            let chosen = if needs_chosen { KeySet::open(&chosen)? } else { Some(KeySet::empty()) };
            let Some(chosen) = chosen else { return Ok(None) };
            Ok(Some((Arc::new(before.loaded()?), chosen.loaded()?)))
        })
        .await
    }

    fn paths(&self) -> (PathBuf, PathBuf) {
        (self.directory.join(mirror::FOREIGN), self.directory.join(CHOSEN))
    }

    /// Goes through the target, and through the source where that matters. What an earlier run has kept and not told the
    /// target is worth nothing: keys may have gone since.
    async fn look(&self, target: &Target) -> Result<Option<Found>, Error> {
        let policy = self.options.on_exists;
        let attempts = Attempts::new(target);
        let (before, mergeable) = loop {
            target.served().await?;
            let mut keys = KeyCollector::new(self.directory);
            let mut mergeable = KeyCollector::new(self.directory);
            let types = (policy == OnExists::Merge).then_some(&mut mergeable);
            let owners = Owners::of(target);
            let missed = match mirror::collect(target, &mut keys, types).await {
                Ok(()) if owners == Owners::of(target) => break (keys, mergeable),
                Ok(()) => Missed::Lost(None),
                Err(missed) => missed,
            };
            attempts.again(missed, &Command::new(["SCAN"])).await?;
        };
        let (before_path, chosen_path) = self.paths();
        let path = before_path.clone();
        let before = Arc::new(blocking(move || before.keep(&path)?.loaded()).await?);
        let chosen = match self.choose(target, &before, mergeable).await {
            Ok(chosen) => chosen,
            Err(error) => {
                // The next run looks again.
                mirror::remove(&before_path)?;
                return Err(error);
            }
        };
        let chosen = match chosen {
            Some(chosen) => blocking(move || chosen.keep(&chosen_path)?.loaded()).await?,
            None => KeySet::empty(),
        };
        // That there was nothing outlives the directory.
        mirror::tell(target, if before.len() == 0 { mirror::NONE } else { mirror::SOMETHING }).await?;
        Ok(Some((before, chosen)))
    }

    /// The keys that stay, or can be merged, where not all are treated alike.
    async fn choose(
        &self,
        target: &Target,
        before: &Arc<KeySet>,
        mergeable: KeyCollector,
    ) -> Result<Option<KeyCollector>, Error> {
        if self.options.on_exists == OnExists::Merge {
            return Ok(Some(mergeable));
        }
        if before.len() == 0 {
            return Ok(None);
        }
        match self.options.on_exists {
            OnExists::Fail => {
                let overlap = self.overlap(target, before).await?;
                match overlap.count {
                    0 => Ok(None),
                    _ => Err(Error::TargetHasKeys(Box::new(overlap))),
                }
            }
            OnExists::NewerWins => {
                let mut newer = KeyCollector::new(self.directory);
                let Origin::Servers(servers) = self.source else {
                    return Err(Error::NoIdleTimes);
                };
                for server in servers {
                    self.newer(target, before, server, &mut newer).await?;
                }
                Ok(Some(newer))
            }
            _ => Ok(None),
        }
    }

    fn filter(&self) -> Option<&Filter> {
        self.options.active_filter().map(|filter| &**filter)
    }

    /// The keys that both sides have.
    async fn overlap(&self, target: &Target, before: &Arc<KeySet>) -> Result<Overlap, Error> {
        let servers = match self.source {
            Origin::Servers(servers) => servers,
            Origin::Files(files) => {
                // Those of standard input are looked at when they come.
                let files: Vec<PathBuf> =
                    files.iter().filter(|file| file.as_os_str() != "-").cloned().collect();
                let (before, databases) = (Arc::clone(before), target.databases().clone());
                let filter = self.options.active_filter().cloned();
                return blocking(move || in_files(&files, &before, filter.as_deref(), &databases)).await;
            }
        };
        let mut counter = Counter::default();
        for server in servers {
            let shared = SharedKeys::new(server, before, self.filter(), target.databases()).await;
            let mut shared = shared.map_err(Error::SourceConnection)?;
            while let Some(found) = shared.next().await? {
                found.names.iter().for_each(|name| counter.note(found.db, name));
            }
        }
        Ok(counter.finish())
    }

    /// Adds the keys that both sides have and that were used at the target later.
    async fn newer(
        &self,
        target: &Target,
        before: &KeySet,
        server: &ConnectOptions,
        newer: &mut KeyCollector,
    ) -> Result<(), Error> {
        let mut aside = Aside::new(target);
        let shared = SharedKeys::new(server, before, self.filter(), target.databases()).await;
        let mut shared = shared.map_err(Error::SourceConnection)?;
        while let Some(found) = shared.next().await? {
            if found.keys.is_empty() {
                continue;
            }
            let there = shared.idle(&found.keys).await?;
            let here = idle_at(target, &mut aside, found.db, &found.names).await?;
            for ((name, source), target) in found.names.iter().zip(there).zip(here) {
                if source.zip(target).is_some_and(|(source, target)| target < source) {
                    newer.add(found.db, name)?;
                }
            }
        }
        Ok(())
    }
}

/// For how many seconds the target has not used each of these keys.
async fn idle_at(
    target: &Target,
    aside: &mut Aside<'_>,
    db: u32,
    keys: &[Vec<u8>],
) -> Result<Vec<Option<i64>>, Error> {
    let question = |key: &Vec<u8>| Command::new([&b"OBJECT"[..], b"IDLETIME", key]);
    let attempts = Attempts::new(target);
    let since = Instant::now();
    let mut idle = vec![None; keys.len()];
    let mut left: Vec<usize> = (0..keys.len()).collect();
    while !left.is_empty() {
        target.served().await?;
        let mut nodes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for at in left.drain(..) {
            let owner = Owners::address(target, keyferry_routing::slot(&keys[at]));
            nodes.entry(owner.unwrap_or_default()).or_default().push(at);
        }
        let mut missed = None;
        for (address, of) in nodes {
            let questions: Vec<Command> = of.iter().map(|&at| question(&keys[at])).collect();
            let replies = match aside.all_at(&address, db, &questions).await {
                Ok(replies) => replies,
                Err(error) => {
                    missed = Some(Missed::Lost(Some(error)));
                    left.extend(of);
                    continue;
                }
            };
            // The first is that to SELECT.
            for (&at, reply) in of.iter().zip(replies.iter().skip(1)) {
                match reply.error_reply() {
                    Some(error) if target.waits_for(&error, since) => {
                        missed = Some(Missed::Refused(address.clone(), error));
                        left.push(at);
                    }
                    _ => idle[at] = idle_of(reply, "target", &address)?,
                }
            }
        }
        if let Some(missed) = missed {
            attempts.again(missed, &Command::new(["OBJECT", "IDLETIME"])).await?;
        }
    }
    Ok(idle)
}

/// Nothing will be asked any more.
pub(super) fn forget_all(directory: &Path) -> Result<(), Error> {
    Foreign::forget(directory)?;
    mirror::remove(&directory.join(CHOSEN))
}
