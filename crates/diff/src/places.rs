//! Where values part that snapshots show to differ, told by a second look at both sides.
//!
//! Files are read once more, and of servers the values are asked for. The elements of all these values are joined as keys are, so
//! memory is bounded whatever their size.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use keyferry_files::{Error as FileError, Found, Input, InputOptions, ValueReader, ValueSink};
use keyferry_rdb::dump::Payload;
use keyferry_rdb::elements::Element;
use keyferry_rdb::{EntryHead, Kind, RawValue};

use crate::difference::{Difference, DifferenceKind, FieldDifference};
use crate::digest::{DigestOptions, Hash, KeyDigest, ValueDigest};
use crate::elements::Namer;
use crate::error::Error;
use crate::join::{Rules, join};
use crate::store::{Room, Store};

/// Differences that are held back until it is known where the values part; further ones are given out as they are.
pub(crate) const MOST: usize = 10_000;

/// Differences whose places are looked for.
#[derive(Debug)]
pub(crate) struct Places {
    differences: Vec<Difference>,
    wanted: HashMap<(u64, Vec<u8>), u64>,
    /// By side: the elements, with the number of the difference in place of a database.
    stores: [Store; 2],
    namer: Namer,
    digest: DigestOptions,
}

impl Places {
    pub(crate) fn new(digest: &DigestOptions, room: &Room) -> Self {
        let hash = Hash::new(digest.seed);
        let room = Room { memory: room.memory / 4, ..room.clone() };
        Self {
            differences: Vec::new(),
            wanted: HashMap::new(),
            stores: [Store::new(hash, room.clone()), Store::new(hash, room)],
            namer: Namer::new(digest),
            digest: digest.clone(),
        }
    }

    /// Holds a difference back, if it is one of elements that have names, and there is room; else gives it back.
    pub(crate) fn hold(&mut self, difference: Difference) -> Option<Difference> {
        let kind = difference.source.map(|held| held.kind);
        let of_elements = matches!(difference.kind, DifferenceKind::Value | DifferenceKind::FieldExpiry)
            && !matches!(kind, None | Some(Kind::String | Kind::Module));
        if !of_elements || self.differences.len() >= MOST {
            return Some(difference);
        }
        let name = (difference.db, difference.key.clone());
        self.wanted.insert(name, self.differences.len() as u64);
        self.differences.push(difference);
        None
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.differences.is_empty()
    }

    /// Whether no more can be held.
    pub(crate) fn is_full(&self) -> bool {
        self.differences.len() >= MOST
    }

    /// The keys that are wanted, by database.
    pub(crate) fn keys(&self) -> Vec<(u64, Vec<Bytes>)> {
        let mut by_db: HashMap<u64, Vec<Bytes>> = HashMap::new();
        for difference in &self.differences {
            by_db.entry(difference.db).or_default().push(Bytes::copy_from_slice(&difference.key));
        }
        by_db.into_iter().collect()
    }

    /// Reads a file of a side. `db` gives the database of the target for one of this side.
    pub(crate) fn read_file(
        &mut self,
        side: usize,
        path: &std::path::Path,
        db: impl Fn(u64) -> u64,
    ) -> Result<(), Error> {
        let mut options = InputOptions::default();
        options.limits = self.digest.limits.clone();
        let input = Input::open(path, options)?;
        let mut reader = ValueReader::new(self.digest.limits.clone());
        let mut elements = Elements {
            wanted: &self.wanted,
            store: &mut self.stores[side],
            namer: &mut self.namer,
            db,
            number: 0,
            failed: None,
        };
        input.read(|found, place| {
            if let Found::Event(event) = found {
                reader.see(&event, place, &mut elements)?;
            }
            match elements.failed.take() {
                None => Ok::<(), Error>(()),
                Some(error) => Err(Error::Spill(error)),
            }
        })?;
        Ok(())
    }

    /// Takes a value as `DUMP` gives it; one that cannot be read has no places.
    pub(crate) fn payload(&mut self, side: usize, db: u64, key: &[u8], payload: &[u8]) -> Result<(), Error> {
        let Some(&number) = self.wanted.get(&(db, key.to_vec())) else { return Ok(()) };
        let Ok(payload) = Payload::parse(payload) else { return Ok(()) };
        let (store, namer) = (&mut self.stores[side], &mut self.namer);
        namer.start();
        let read = payload
            .value
            .elements(&self.digest.limits)
            .for_each(|element| push(store, namer, number, &element).map_err(Stop::Spill));
        match read {
            Err(Stop::Spill(error)) => Err(Error::Spill(error)),
            _ => Ok(()),
        }
    }

    /// Gives the differences with up to `most` places each.
    pub(crate) fn finish(
        self,
        expired_until: i64,
        memory: u64,
        most: usize,
    ) -> Result<Vec<Difference>, Error> {
        let Self { mut differences, stores: [source, target], .. } = self;
        let rules = Rules { kinds: Vec::new(), expired_until, tolerance: 0, memory, repeats: false };
        // Of a list only the first place counts: from there on nothing is where it was.
        let mut first: HashMap<usize, (u64, DifferenceKind)> = HashMap::new();
        join([vec![source], vec![target]], &rules, &mut |found| {
            let at = usize::try_from(found.db).unwrap_or(usize::MAX);
            let Some(difference) = differences.get_mut(at) else { return Ok(()) };
            let kind = match found.kind {
                DifferenceKind::Expiry => DifferenceKind::FieldExpiry,
                kind => kind,
            };
            if difference.source.is_some_and(|held| held.kind == Kind::List) {
                let index = std::str::from_utf8(&found.key).ok().and_then(|index| index.parse().ok());
                let index: u64 = index.unwrap_or(u64::MAX);
                let place = first.entry(at).or_insert((index, kind));
                if index < place.0 {
                    *place = (index, kind);
                }
            } else if difference.fields.len() < most {
                difference.fields.push(FieldDifference::new(&found.key, kind));
            } else {
                difference.more_fields += 1;
            }
            Ok(())
        })?;
        for (at, (index, kind)) in first {
            differences[at].fields = vec![FieldDifference::new(index.to_string().as_bytes(), kind)];
        }
        differences.iter_mut().for_each(|one| one.fields.sort_by(|a, b| a.name.cmp(&b.name)));
        Ok(differences)
    }
}

/// Why the walk over a value ended.
enum Stop {
    Spill(io::Error),
    /// The value is damaged, or of a kind that this program does not know.
    Unreadable,
}

impl From<keyferry_rdb::Error> for Stop {
    fn from(_: keyferry_rdb::Error) -> Self {
        Self::Unreadable
    }
}

/// Keeps the elements of the values that are wanted.
struct Elements<'a, F> {
    wanted: &'a HashMap<(u64, Vec<u8>), u64>,
    store: &'a mut Store,
    namer: &'a mut Namer,
    db: F,
    /// That of the value at hand.
    number: u64,
    failed: Option<io::Error>,
}

impl<F: Fn(u64) -> u64> ValueSink for Elements<'_, F> {
    fn start(&mut self, head: &EntryHead<'_>, _whole: Option<RawValue<'_>>) -> Result<bool, FileError> {
        let found = self.wanted.get(&((self.db)(head.db), head.key.to_vec()));
        self.number = found.copied().unwrap_or_default();
        self.namer.start();
        Ok(found.is_some())
    }

    fn element(&mut self, element: &Element<'_>) -> Result<(), FileError> {
        if let Err(error) = push(self.store, self.namer, self.number, element) {
            self.failed.get_or_insert(error);
        }
        Ok(())
    }

    fn end(&mut self, _size: u64) -> Result<(), FileError> {
        Ok(())
    }
}

fn push(store: &mut Store, namer: &mut Namer, number: u64, element: &Element<'_>) -> io::Result<()> {
    let Some(named) = namer.name(element) else { return Ok(()) };
    let value = ValueDigest { content: named.content, ..ValueDigest::default() };
    store.push(&KeyDigest { db: number, key: &named.name, kind: Kind::String, value, expiry: named.expiry })
}
