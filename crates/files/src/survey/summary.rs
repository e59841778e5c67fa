//! Totals by database and encoding.

use std::collections::HashMap;

use keyferry_rdb::{Checksum, EntryHead, Event, ValueType};
use serde::Serialize;

use super::expiries::Expiries;
use crate::text::line;

/// Databases that are counted apart. Servers have 16 unless told otherwise; a hostile file names millions.
const MAX_DATABASES: usize = 1024;
/// Auxiliary fields that are kept; servers write about ten.
const MAX_FIELDS: usize = 64;
/// Bytes of a field that are kept.
const MAX_FIELD: usize = 256;

/// What a snapshot holds, in totals.
///
/// Bytes are those of the file: the key's and the serialized value's.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    format: Option<String>,
    fields: Vec<Field>,
    databases: Vec<Database>,
    /// Where in `databases` each is.
    places: HashMap<u64, usize>,
    /// Where in `databases` the last key went.
    current: usize,
    beyond: Database,
    records: Records,
    checksum: Option<Checksum>,
    expiries: Expiries,
}

/// An auxiliary field of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Field {
    /// Its name, escaped.
    pub name: String,
    /// Its value, escaped.
    pub value: String,
}

/// Totals over some keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// Number of keys.
    pub keys: u64,
    /// Their bytes in the file, names and serialized values.
    pub bytes: u64,
    /// Number of those that expire.
    pub expiring: u64,
    /// Bytes of the largest.
    pub largest: u64,
}

/// What else than keys was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Records {
    /// Libraries of functions.
    pub functions: u64,
    /// Blocks of data that modules keep beside keys.
    pub module_data: u64,
    /// Notes on slots (Redis 7.4 and later, Valkey 9).
    pub slot_notes: u64,
    /// Hash templates (Redis 8.10).
    pub hash_templates: u64,
    /// Keys that hold an empty list, set, sorted set or hash: a defect of old servers, dropped by those that load them.
    pub empty_values: u64,
}

#[derive(Clone, Debug)]
struct Database {
    number: u64,
    by_type: [Totals; ValueType::ALL.len()],
}

impl Default for Database {
    fn default() -> Self {
        Self { number: 0, by_type: [Totals::default(); ValueType::ALL.len()] }
    }
}

impl Totals {
    #[inline]
    fn add(&mut self, bytes: u64, expires: bool) {
        self.keys += 1;
        self.bytes += bytes;
        self.expiring += u64::from(expires);
        self.largest = self.largest.max(bytes);
    }

    /// Adds those of other keys.
    pub fn extend(&mut self, other: &Self) {
        self.keys += other.keys;
        self.bytes += other.bytes;
        self.expiring += other.expiring;
        self.largest = self.largest.max(other.largest);
    }
}

impl Summary {
    /// Takes what is no key.
    pub(super) fn record(&mut self, event: &Event<'_>) {
        match event {
            Event::Header(header) => {
                let name = match header.dialect {
                    keyferry_rdb::Dialect::Redis => "REDIS",
                    keyferry_rdb::Dialect::Valkey => "VALKEY",
                };
                self.format = Some(format!("{name} RDB version {}", header.version));
            }
            Event::Aux { name, value } => {
                if *name == b"ctime"
                    && let Some(seconds) =
                        std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok())
                {
                    self.expiries.set_reference(seconds.saturating_mul(1000));
                }
                if self.fields.len() < MAX_FIELDS {
                    let cut = |bytes: &[u8]| line(&bytes[..bytes.len().min(MAX_FIELD)]).into_owned();
                    self.fields.push(Field { name: cut(name), value: cut(value) });
                }
            }
            Event::Function { .. } | Event::FunctionPreGa(_) => self.records.functions += 1,
            Event::ModuleAux(_) => self.records.module_data += 1,
            Event::SlotInfo(_) | Event::SlotImport(_) => self.records.slot_notes += 1,
            Event::HashTemplate(_) => self.records.hash_templates += 1,
            Event::End { checksum } => self.checksum = Some(*checksum),
            _ => {}
        }
    }

    /// Counts a key.
    #[inline]
    pub(super) fn key(&mut self, head: &EntryHead<'_>, bytes: u64, empty: bool) {
        self.records.empty_values += u64::from(empty);
        let database = match self.databases.get_mut(self.current) {
            Some(database) if database.number == head.db => database,
            _ => self.find(head.db),
        };
        database.by_type[head.ty as usize].add(bytes, head.expiry.is_some());
        if let Some(at) = head.expiry {
            self.expiries.add(at);
        }
    }

    #[inline(never)]
    fn find(&mut self, number: u64) -> &mut Database {
        self.current = match self.places.get(&number) {
            Some(at) => *at,
            None if self.databases.len() < MAX_DATABASES => {
                self.places.insert(number, self.databases.len());
                self.databases.push(Database { number, ..Database::default() });
                self.databases.len() - 1
            }
            None => return &mut self.beyond,
        };
        &mut self.databases[self.current]
    }

    /// The magic and version, such as `REDIS RDB version 11`; `None` when there was no snapshot.
    pub fn format(&self) -> Option<&str> {
        self.format.as_deref()
    }

    /// The auxiliary fields, such as `redis-ver`; the first 64.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// What else than keys was found.
    pub fn records(&self) -> Records {
        self.records
    }

    /// What the checksum at the end said; `None` when there was no snapshot or no end.
    pub fn checksum(&self) -> Option<Checksum> {
        self.checksum
    }

    /// When keys expire.
    pub fn expiries(&self) -> &Expiries {
        &self.expiries
    }

    /// Totals over everything.
    pub fn totals(&self) -> Totals {
        let mut all = self.beyond.totals();
        self.databases.iter().for_each(|database| all.extend(&database.totals()));
        all
    }

    /// The databases that hold keys, ascending, with their totals. Beyond 1024 of them, the rest is
    /// counted together under `None`.
    pub fn databases(&self) -> Vec<(Option<u64>, Totals)> {
        let known = self.databases.iter().map(|database| (Some(database.number), database.totals()));
        let mut found: Vec<_> = known.filter(|(_, totals)| totals.keys > 0).collect();
        found.sort_unstable_by_key(|(number, _)| *number);
        let beyond = self.beyond.totals();
        if beyond.keys > 0 {
            found.push((None, beyond));
        }
        found
    }

    /// The encodings that occur, in one database or (`None`) in all, with their totals, most bytes first.
    pub fn encodings(&self, database: Option<u64>) -> Vec<(ValueType, Totals)> {
        let mut sums = [Totals::default(); ValueType::ALL.len()];
        let beyond = database.is_none().then_some(&self.beyond);
        let wanted =
            self.databases.iter().filter(|found| database.is_none_or(|number| number == found.number));
        for found in wanted.chain(beyond) {
            for (sum, totals) in sums.iter_mut().zip(&found.by_type) {
                sum.extend(totals);
            }
        }
        let mut found: Vec<_> =
            ValueType::ALL.iter().copied().zip(sums).filter(|(_, sum)| sum.keys > 0).collect();
        found.sort_by_key(|(_, totals)| std::cmp::Reverse(totals.bytes));
        found
    }
}

impl Database {
    fn totals(&self) -> Totals {
        let mut all = Totals::default();
        self.by_type.iter().for_each(|totals| all.extend(totals));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Totals are found by the number of a type's place in the list of all.
    #[test]
    fn types_are_numbered_in_order() {
        for (i, ty) in ValueType::ALL.iter().enumerate() {
            assert_eq!(*ty as usize, i);
        }
    }
}
