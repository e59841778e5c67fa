use std::ops::RangeInclusive;
use std::time::Instant;

use super::{Cluster, PATIENCE, TICK};
use crate::binaries::Vendor;
use crate::client::Client;
use crate::error::Result;

/// Keys of one MIGRATE, unless it is told.
const KEYS_AT_ONCE: usize = 20;

/// What [`Cluster::move_slots_with`] has just done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MoveStep {
    /// The slot is marked as importing and migrating: commands on missing keys get ASK.
    Opened(u16),
    /// So many keys of the slot have moved; others may still be at the old owner.
    Keys(u16, usize),
    /// The slot belongs to the new owner.
    Closed(u16),
}

impl Cluster {
    /// Moves slots to a primary, one after the other and while they are in use, as `redis-cli --cluster reshard` does.
    /// Slots that it has already are left alone. Returns how many keys moved.
    ///
    /// # Errors
    /// What a node refuses, and [`Error::Cluster`](crate::Error::Cluster) for a slot that nobody serves.
    pub fn move_slots(&self, slots: RangeInclusive<u16>, to: usize) -> Result<u64> {
        self.move_slots_with(slots, to, KEYS_AT_ONCE, |_| Ok(()))
    }

    /// As [`Cluster::move_slots`], moving `keys_at_once` keys with one MIGRATE and calling `each` after every step: to write
    /// meanwhile, to wait, or to stop half-way with an error.
    ///
    /// # Errors
    /// As [`Cluster::move_slots`], and the first error of `each`.
    pub fn move_slots_with(
        &self,
        slots: RangeInclusive<u16>,
        to: usize,
        keys_at_once: usize,
        mut each: impl FnMut(MoveStep) -> Result<()>,
    ) -> Result<u64> {
        let mut clients = self.clients(&self.living().collect::<Vec<_>>())?;
        let numbers: Vec<usize> = self.living().collect();
        let view = self.view()?;
        let mut moved = 0;
        for slot in slots {
            let Some(from) = view.owner(slot).and_then(|id| self.ids.iter().position(|known| known == id))
            else {
                return Err(self.failed(format!("nobody serves slot {slot}")));
            };
            if from == to {
                continue;
            }
            let mut on = |number: usize, command: &[&str]| -> Result<()> {
                let Some(place) = numbers.iter().position(|&known| known == number) else {
                    return Err(self.failed(format!("node {number} is not running")));
                };
                clients[place].call(command).map(drop)
            };
            let text = slot.to_string();
            on(to, &["CLUSTER", "SETSLOT", &text, "IMPORTING", &self.ids[from]])?;
            on(from, &["CLUSTER", "SETSLOT", &text, "MIGRATING", &self.ids[to]])?;
            each(MoveStep::Opened(slot))?;
            moved += self.migrate_keys(slot, from, to, keys_at_once, &mut each)?;
            // The new owner first: else the old one may redirect to a node that does not want the slot yet.
            let owner = ["CLUSTER", "SETSLOT", &text, "NODE", &self.ids[to]];
            on(to, &owner)?;
            on(from, &owner)?;
            for &other in &numbers {
                if other != to && other != from && view.is_primary(&self.ids[other]) {
                    on(other, &owner)?;
                }
            }
            each(MoveStep::Closed(slot))?;
        }
        Ok(moved)
    }

    fn migrate_keys(
        &self,
        slot: u16,
        from: usize,
        to: usize,
        at_once: usize,
        each: &mut impl FnMut(MoveStep) -> Result<()>,
    ) -> Result<u64> {
        let mut client = self.nodes[from].client()?;
        let (slot_text, at_once) = (slot.to_string(), at_once.max(1).to_string());
        let port = self.inner_port(to);
        let mut moved = 0;
        for database in 0..databases(&mut client)? {
            let database = database.to_string();
            client.call(&["SELECT", &database])?;
            loop {
                let keys = client.list(&["CLUSTER", "GETKEYSINSLOT", &slot_text, &at_once])?;
                let keys: Vec<&[u8]> = keys.iter().filter_map(|key| Some(key.as_bytes()?.as_ref())).collect();
                if keys.is_empty() {
                    break;
                }
                let mut command: Vec<&[u8]> =
                    vec![b"MIGRATE", b"127.0.0.1", port.as_bytes(), b"", database.as_bytes(), b"5000"];
                if let Some(password) = &self.password {
                    command.extend([&b"AUTH"[..], password.as_bytes()]);
                }
                command.push(b"KEYS");
                command.extend(&keys);
                client.call(&command)?;
                moved += keys.len() as u64;
                each(MoveStep::Keys(slot, keys.len()))?;
            }
        }
        Ok(moved)
    }

    /// Whether the servers can move slots by themselves, as [`Cluster::move_slots_atomically`] needs it.
    pub fn moves_slots_atomically(&self) -> bool {
        let binary = self.binary();
        match binary.vendor {
            Vendor::Valkey => binary.version.at_least(9, 0),
            Vendor::Redis => binary.version.at_least(8, 4),
            Vendor::Redict | Vendor::KeyDb => false,
        }
    }

    /// Lets the servers move slots (`CLUSTER MIGRATESLOTS` of Valkey 9, `CLUSTER MIGRATION IMPORT` of Redis 8.4) and waits
    /// until all nodes know the new owner. There is no ASK in between.
    ///
    /// # Errors
    /// [`Error::Cluster`](crate::Error::Cluster) when the servers cannot do it, or give up.
    pub fn move_slots_atomically(&self, slots: RangeInclusive<u16>, to: usize) -> Result<()> {
        if !self.moves_slots_atomically() {
            return Err(self.failed("has no atomic slot migration"));
        }
        let jobs_before = self.failed_jobs()?;
        let mut client = self.nodes[to].client()?;
        if self.binary().vendor == Vendor::Redis {
            let (first, last) = (slots.start().to_string(), slots.end().to_string());
            client.call(&["CLUSTER", "MIGRATION", "IMPORT", &first, &last])?;
        } else {
            for (from, range) in self.owners(&slots)? {
                if from != to {
                    let (first, last) = (range.start().to_string(), range.end().to_string());
                    self.nodes[from].client()?.call(&[
                        "CLUSTER",
                        "MIGRATESLOTS",
                        "SLOTSRANGE",
                        &first,
                        &last,
                        "NODE",
                        &self.ids[to],
                    ])?;
                }
            }
        }
        let end = Instant::now() + PATIENCE;
        while self.owners(&slots)?.iter().any(|(owner, _)| *owner != to) {
            if self.failed_jobs()? > jobs_before {
                return Err(self.failed("a node gave up moving slots, see its log"));
            }
            if Instant::now() >= end {
                return Err(self.failed(format!("slots {slots:?} did not move to node {to} in time")));
            }
            std::thread::sleep(TICK);
        }
        self.wait_until_settled()
    }

    /// How many slot migrations the nodes remember as failed.
    fn failed_jobs(&self) -> Result<usize> {
        let status: &[&str] = match self.binary().vendor {
            Vendor::Redis => &["CLUSTER", "MIGRATION", "STATUS", "ALL"],
            _ => &["CLUSTER", "GETSLOTMIGRATIONS"],
        };
        let mut failed = 0;
        for number in self.primaries()? {
            let jobs = self.nodes[number].client()?.list(status)?;
            failed +=
                jobs.iter().filter(|job| job.get("state").and_then(|s| s.as_str()) == Some("failed")).count();
        }
        Ok(failed)
    }

    /// Who serves these slots, as ranges of one owner each.
    fn owners(&self, slots: &RangeInclusive<u16>) -> Result<Vec<(usize, RangeInclusive<u16>)>> {
        let view = self.view()?;
        let mut owners: Vec<(usize, RangeInclusive<u16>)> = Vec::new();
        for (number, id) in self.ids.iter().enumerate() {
            for range in view.slots(id) {
                let (first, last) = (range.start().max(slots.start()), range.end().min(slots.end()));
                if first <= last {
                    owners.push((number, *first..=*last));
                }
            }
        }
        Ok(owners)
    }
}

/// How many databases a cluster node has.
fn databases(client: &mut Client) -> Result<u32> {
    let setting = client.list(&["CONFIG", "GET", "cluster-databases"])?;
    Ok(setting.get(1).and_then(|value| value.as_str()?.parse().ok()).unwrap_or(1))
}
