//! Removing from a target what its source no longer has, after a full sync that was not the first.
//!
//! What the source deleted between two full syncs is in neither: only the target still has it. So the keys of the new snapshot
//! are noted while it is applied, and then, before the stream goes on, the keys of the target that are not among them are
//! removed. Keys that were there before this migration first began are none of its business, unless it is told so: their
//! fingerprints are kept in the journal directory from the first start on.
//!
//! Can be repeated from its beginning at any time.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use keyferry_resp::Command;
use keyferry_routing::{SlotSet, slot};

use super::{
    Databases, Target,
    aside::Aside,
    checkpoint,
    flush::Owned,
    state::{State, field},
    sweep::{Attempts, Missed, Owners, Scan},
};
use crate::{
    error::Error,
    existing,
    identity::{OWNER_PREFIX, STATE_PREFIX},
    journal::{blocking, failed},
    key_set::{KeyCollector, KeySet},
    options::Mirror,
    snapshot::TEMPORARY_PREFIX,
};

/// In the state of the migration: there was nothing.
pub(super) const NONE: &str = "none";

/// In the state of the migration: there was something, which the journal directory has, or nobody has looked.
pub(super) const SOMETHING: &str = "something";

/// Where the keys are kept that were at the target before.
pub(super) const FOREIGN: &str = "keyferry-foreign.keys";

/// Names of removed keys in the report, at most.
const SAMPLES: usize = 8;

/// When the migration first began to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// Nothing of it is at the target yet.
    Now,
    /// Before, with a target that had nothing in it.
    WithNothing,
    /// Before.
    Before,
}

impl First {
    /// As the state of the migration has it, which is told before anything is written.
    pub(crate) fn of(state: &State) -> Self {
        match state.get(field::FOREIGN) {
            None => First::Now,
            Some(NONE) => First::WithNothing,
            Some(_) => First::Before,
        }
    }
}

/// What is known of the keys that were at the target before the migration first began.
#[derive(Clone, Debug)]
pub(crate) enum Foreign {
    /// These.
    Known(Arc<KeySet>),
    /// Nobody can tell any more.
    Unknown,
}

impl Foreign {
    /// What an earlier run has kept; else, if nothing of this migration is at the target yet, what is there now, where that
    /// matters. To be called before anything is written.
    pub(crate) async fn of(
        target: &Target,
        directory: &Path,
        first: First,
        matters: bool,
    ) -> Result<Self, Error> {
        let tell = async |what: &str| tell(target, what).await;
        if !matters {
            if first == First::Now {
                tell(SOMETHING).await?;
            }
            return Ok(Foreign::Unknown);
        }
        let path = directory.join(FOREIGN);
        let kept = path.clone();
        if let Some(known) = blocking(move || KeySet::open(&kept)).await? {
            if first == First::Now {
                tell(SOMETHING).await?;
            }
            return Ok(Foreign::Known(Arc::new(known)));
        }
        match first {
            First::Now => {}
            First::WithNothing => {
                return Ok(Foreign::Known(Arc::new(KeyCollector::new(directory).finish()?)));
            }
            First::Before => return Ok(Foreign::Unknown),
        }
        let attempts = Attempts::new(target);
        loop {
            target.served().await?;
            let (owners, mut keys) = (Owners::of(target), KeyCollector::new(directory));
            let missed = match collect(target, &mut keys, None).await {
                Ok(()) if owners == Owners::of(target) => {
                    let known = blocking(move || keys.keep(&path)).await?;
                    // That there was nothing outlives the directory.
                    let told = if known.len() == 0 { NONE } else { SOMETHING };
                    tell(told).await?;
                    return Ok(Foreign::Known(Arc::new(known)));
                }
                Ok(()) => Missed::Lost(None),
                Err(missed) => missed,
            };
            attempts.again(missed, &Command::new(["SCAN"])).await?;
        }
    }

    /// Nothing will be asked any more.
    pub(crate) fn forget(directory: &Path) -> Result<(), Error> {
        remove(&directory.join(FOREIGN))
    }
}

/// Keeps at the target what was there before the migration began.
pub(super) async fn tell(target: &Target, what: &str) -> Result<(), Error> {
    target.checkpoints().keep_foreign(what);
    target.fence().write(&[(field::FOREIGN.to_owned(), what.to_owned())], &[]).await
}

/// Collects the keys that are at the target; `mergeable` gets those that have a union, by type and name.
pub(super) async fn collect(
    target: &Target,
    keys: &mut KeyCollector,
    mut mergeable: Option<&mut KeyCollector>,
) -> Result<(), Missed> {
    let mut aside = Aside::new(target);
    for address in Owners::addresses(target) {
        for db in 0..=target.databases().last() {
            let mut scan = Scan::new(&address, db, None);
            while let Some(mut found) = scan.next(&mut aside).await? {
                found.retain(|key| !is_own(key) && target.is_ours(slot(key)));
                for key in &found {
                    keys.add(db, key).map_err(Missed::Failed)?;
                }
                if let Some(mergeable) = mergeable.as_deref_mut().filter(|_| !found.is_empty()) {
                    let questions: Vec<Command> =
                        found.iter().map(|key| Command::new([b"TYPE", &key[..]])).collect();
                    let types = aside.many(&address, db, &questions).await?;
                    for (key, ty) in found.iter().zip(&types) {
                        if let Some(word) = ty.as_str().and_then(existing::mergeable) {
                            mergeable.add(db, &[&[word], &key[..]].concat()).map_err(Missed::Failed)?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// True for keys of migrations themselves.
fn is_own(key: &[u8]) -> bool {
    let prefixes =
        [checkpoint::PREFIX.as_bytes(), STATE_PREFIX.as_bytes(), OWNER_PREFIX.as_bytes(), TEMPORARY_PREFIX];
    prefixes.into_iter().any(|prefix| key.starts_with(prefix))
}

/// That keys have still to be removed when the snapshot is applied; survives the program, in the journal directory.
#[derive(Debug)]
pub(crate) struct Due(PathBuf);

impl Due {
    /// Of one link.
    pub(crate) fn of(directory: &Path, link: u16) -> Self {
        Due(directory.join(format!("keyferry-mirror-{link}.due")))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.exists()
    }

    pub(crate) fn set(&self) -> Result<(), Error> {
        fs::write(&self.0, b"").map_err(|e| failed(&self.0, "noting that keys have to be removed", e))
    }

    pub(crate) fn clear(&self) -> Result<(), Error> {
        remove(&self.0)
    }
}

pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(path, "removing the file", e)),
        _ => Ok(()),
    }
}

/// Which keys of a target are to go.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    pub(crate) policy: Mirror,
    /// Those of the new snapshot.
    pub(crate) keys: Arc<KeySet>,
    pub(crate) foreign: Foreign,
    /// Only in these slots, which the source of the snapshot has.
    pub(crate) slots: Option<SlotSet>,
    /// Only keys that the filter lets through, but for [`Mirror::All`]; and where databases go.
    pub(crate) filter: Option<(Owned, Databases)>,
}

impl Rest {
    /// Removes them. Nothing else is to be under way in these slots.
    pub(crate) async fn remove(self, target: &Target) -> Result<(), Error> {
        target.core().counts.mirrored += 1;
        if self.policy == Mirror::Owned && matches!(self.foreign, Foreign::Unknown) {
            target.core().counts.mirror_unknown += 1;
            return Ok(());
        }
        let rest = Arc::new(self);
        let attempts = Attempts::new(target);
        loop {
            target.served().await?;
            let owners = Owners::of(target);
            let missed = match sweep(&rest, target).await {
                Ok(()) if owners == Owners::of(target) => return Ok(()),
                Ok(()) => Missed::Lost(None),
                Err(missed) => missed,
            };
            attempts.again(missed, &Command::new(["UNLINK"])).await?;
        }
    }

    /// Those of these keys that are to go, and how many stay only because they were there before.
    fn of(&self, db: u32, keys: Vec<Bytes>) -> Result<(Vec<Bytes>, u64), Error> {
        let (mut gone, mut kept) = (Vec::new(), 0);
        for key in keys {
            if self.slots.as_ref().is_some_and(|slots| !slots.contains(slot(&key))) {
                continue;
            }
            if is_own(&key) {
                // Half-built by a run that is no more.
                if key.starts_with(TEMPORARY_PREFIX) {
                    gone.push(key);
                }
                continue;
            }
            if self.keys.contains(db, &key)? {
                continue;
            }
            let owned = self.filter.as_ref().filter(|_| self.policy == Mirror::Owned);
            if owned.is_some_and(|(owned, databases)| !owned.contains(databases, db, &key)) {
                kept += 1;
                continue;
            }
            match &self.foreign {
                Foreign::Known(foreign) if self.policy == Mirror::Owned && foreign.contains(db, &key)? => {
                    kept += 1;
                }
                _ => gone.push(key),
            }
        }
        Ok((gone, kept))
    }
}

async fn sweep(rest: &Arc<Rest>, target: &Target) -> Result<(), Missed> {
    let mut aside = Aside::new(target);
    for address in Owners::addresses(target) {
        let mut kept = 0;
        for db in 0..=target.databases().last() {
            let mut scan = Scan::new(&address, db, None);
            while let Some(found) = scan.next(&mut aside).await? {
                let rest = Arc::clone(rest);
                let chosen = blocking(move || rest.of(db, found)).await;
                let (gone, foreign) = chosen.map_err(Missed::Failed)?;
                kept += foreign;
                if gone.is_empty() {
                    continue;
                }
                let commands: Vec<Command> =
                    gone.iter().map(|key| Command::new([b"UNLINK", &key[..]])).collect();
                let replies = aside.many(&address, db, &commands).await?;
                let mut core = target.core();
                for (key, _) in
                    gone.iter().zip(replies).filter(|(_, reply)| reply.as_i64().is_some_and(|n| n > 0))
                {
                    core.counts.mirror_removed += 1;
                    if core.counts.mirror_samples.len() < SAMPLES {
                        core.counts.mirror_samples.push(key.escape_ascii().to_string());
                    }
                }
            }
        }
        target.core().counts.mirror_kept += kept;
        if !aside.confirmed(&address).await {
            return Err(Missed::Lost(None));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use keyferry_resp::Frame;

    use super::*;

    /// A run may end between entering the migration and looking at what is there: nothing is written before that is told.
    #[test]
    fn a_run_that_told_nothing_has_written_nothing() {
        let bulk = |text: &str| Frame::from(Bytes::copy_from_slice(text.as_bytes()));
        let state = |told: Option<&str>| {
            let mut fields = vec![bulk("link:0"), bulk("1 snapshot 0")];
            fields.extend(told.iter().flat_map(|told| [bulk(field::FOREIGN), bulk(told)]));
            First::of(&State::read(&Frame::Array(fields)).unwrap())
        };
        assert_eq!(First::of(&State::default()), First::Now);
        assert_eq!(state(None), First::Now);
        assert_eq!(state(Some(NONE)), First::WithNothing);
        assert_eq!(state(Some(SOMETHING)), First::Before);
    }
}
