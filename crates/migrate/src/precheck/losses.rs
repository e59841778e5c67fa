//! What a target has no place for, among values that are looked at.

use std::collections::BTreeMap;

use keyferry_client::ServerInfo;
use keyferry_rdb::{
    RawValue, TargetFormat, ValueType,
    convert::{Converted, Converter, Way},
    native::Loss,
};

use super::{report::Judge, sample::shown};
use crate::{
    options::OnLoss,
    target::{format_of, is_grave},
};

/// Keys that are named for each loss.
const NAMED: usize = 3;

/// Counts what would be lost.
#[derive(Debug)]
pub(super) struct Losses {
    converter: Converter,
    /// Values looked into.
    pub(super) read: u64,
    /// Values that could not be taken apart, or could not even be told from what surrounds them.
    damaged: u64,
    reencoded: u64,
    /// By name, and whether somebody would miss it.
    lost: BTreeMap<(String, bool), (u64, Vec<String>)>,
}

impl Losses {
    /// For these servers: of a cluster with several versions the least able one counts. None for none.
    pub(super) fn for_servers<'s>(servers: impl Iterator<Item = &'s ServerInfo>) -> Option<Self> {
        Some(Self::for_format(servers.map(format_of).min_by_key(TargetFormat::version)?))
    }

    fn for_format(format: TargetFormat) -> Self {
        Losses { converter: Converter::new(format), read: 0, damaged: 0, reencoded: 0, lost: BTreeMap::new() }
    }

    /// Looks into a value.
    pub(super) fn value(&mut self, db: u64, key: &[u8], value: RawValue<'_>) {
        self.read += 1;
        match self.converter.convert(value) {
            Err(_) => self.damaged += 1,
            Ok(conversion) => {
                self.reencoded += u64::from(matches!(conversion.converted, Converted::Reencoded(_)));
                let losses = conversion.losses;
                losses.iter().for_each(|loss| self.note(db, key, loss));
            }
        }
    }

    /// Looks at the type of a value that is not there as a whole.
    pub(super) fn value_of_type(&mut self, db: u64, key: &[u8], ty: ValueType) {
        self.read += 1;
        match self.converter.way(ty) {
            Way::Raw => {}
            Way::Reencode => self.reencoded += 1,
            Way::Lost => self.note(db, key, &Loss::NotAccepted { ty }),
        }
    }

    /// A value that is no value.
    pub(super) fn damaged(&mut self) {
        self.read += 1;
        self.damaged += 1;
    }

    /// Says what was found. `extent` tells how much that is of all there is.
    pub(super) fn judge(&self, judge: &mut Judge, extent: &str, policy: OnLoss, damage: &str) {
        let Losses { read, damaged, reencoded, .. } = self;
        judge.note(format!("{read} values read, {extent}; {reencoded} have to be encoded anew"));
        if *damaged > 0 {
            judge.fail(format!("{damaged} of {read} values could not be taken apart"), damage);
        }
        for ((name, grave), (count, named)) in &self.lost {
            let line = format!("{name}: {count} of {read} values, as {}", named.join(", "));
            if *grave && policy == OnLoss::Fail {
                let remedy = "take a target that knows this, rewrite these keys at the source, or go on without it (--on-loss drop)";
                judge.fail(line, remedy);
            } else {
                judge.warn(line, "it will not be at the target; the report counts it");
            }
        }
    }

    fn note(&mut self, db: u64, key: &[u8], loss: &Loss) {
        let (count, named) = self.lost.entry((loss.name().to_owned(), is_grave(loss))).or_default();
        *count += 1;
        if named.len() < NAMED {
            named.push(format!("{} (database {db}): {loss}", shown(key)));
        }
    }
}
