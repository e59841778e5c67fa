//! All keys of a snapshot, reduced one after the other.

use std::collections::BTreeMap;

use keyferry_files::convert::library_name;
use keyferry_files::{Error as FileError, Found, Input, Place, ValueReader, ValueSink};
use keyferry_rdb::elements::Element;
use keyferry_rdb::{Checksum, EntryHead, Event, Kind, RawValue, ValueType};

use super::{DigestOptions, Hash, KeyDigest, ValueDigest, ValueDigester};
use crate::error::Error;

/// Reduces the keys of a snapshot, event by event.
///
/// Memory is bounded by the longest element, as that of [`ValueReader`].
#[derive(Debug)]
pub struct SnapshotDigester {
    reader: ValueReader,
    reducer: Reducer,
    summary: SnapshotSummary,
}

/// What a snapshot holds besides its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotSummary {
    /// Number of keys.
    pub keys: u64,
    /// Number of keys left out because they have no element: see [`ValueDigester::is_absent`].
    pub empty: u64,
    /// When the server wrote it, in seconds since the Unix epoch, where the snapshot says so.
    pub written_at: Option<i64>,
    /// The server's own name for its version, where the snapshot says so.
    pub version: Option<String>,
    /// Number of keys that the snapshot announces; may be wrong.
    pub announced: u64,
    /// Function libraries: a hash of the code by name.
    pub functions: BTreeMap<Vec<u8>, u128>,
    /// Data of modules that belongs to no key, records of them. Nothing is compared of these.
    pub module_records: u64,
    /// Whether its checksum was verified; `false` where it has none.
    pub verified: bool,
}

#[derive(Debug)]
struct Reducer {
    values: ValueDigester,
    hash: Hash,
    db: u64,
    key: Vec<u8>,
    kind: Kind,
    expiry: Option<i64>,
    /// A string that was reduced at once.
    at_once: bool,
    done: Option<ValueDigest>,
    absent: bool,
}

impl SnapshotDigester {
    /// A digester with these options.
    pub fn new(options: &DigestOptions) -> Self {
        let reducer = Reducer {
            values: ValueDigester::new(options),
            hash: Hash::new(options.seed),
            db: 0,
            key: Vec::new(),
            kind: Kind::String,
            expiry: None,
            at_once: false,
            done: None,
            absent: false,
        };
        let reader = ValueReader::new(options.limits.clone());
        Self { reader, reducer, summary: SnapshotSummary::default() }
    }

    /// Changes [`DigestOptions::expired_until`] for the values to come.
    pub fn set_expired_until(&mut self, time: i64) {
        self.reducer.values.set_expired_until(time);
    }

    /// Takes the next event of the snapshot; gives a key when its value is complete.
    ///
    /// # Errors
    ///
    /// [`Error::File`] with offset and key for a value that breaks its format.
    #[inline]
    pub fn event(&mut self, event: &Event<'_>, place: Place<'_>) -> Result<Option<KeyDigest<'_>>, Error> {
        match event {
            Event::Entry(_) | Event::ValueStart(_) | Event::ValuePart(_) | Event::ValueEnd => {}
            other => {
                self.note(other);
                self.reader.see(event, place, &mut self.reducer)?;
                return Ok(None);
            }
        }
        self.reader.see(event, place, &mut self.reducer)?;
        let Some(value) = self.reducer.done.take() else { return Ok(None) };
        if self.reducer.absent {
            self.summary.empty += 1;
            return Ok(None);
        }
        self.summary.keys += 1;
        let Reducer { db, key, kind, expiry, .. } = &self.reducer;
        Ok(Some(KeyDigest { db: *db, key, kind: *kind, value, expiry: *expiry }))
    }

    /// What is known of the snapshot so far.
    pub fn summary(&self) -> &SnapshotSummary {
        &self.summary
    }

    /// The same, at the end.
    pub fn into_summary(self) -> SnapshotSummary {
        self.summary
    }

    #[cold]
    fn note(&mut self, event: &Event<'_>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match event {
            Event::Aux { name: b"ctime", value } => {
                self.summary.written_at = std::str::from_utf8(value).ok().and_then(|time| time.parse().ok());
            }
            Event::Aux { name: b"redis-ver", value } => {
                self.summary.version.get_or_insert_with(|| format!("Redis {}", text(value)));
            }
            Event::Aux { name: b"valkey-ver", value } => {
                self.summary.version = Some(format!("Valkey {}", text(value)));
            }
            Event::ResizeDb { keys, .. } => {
                self.summary.announced = self.summary.announced.saturating_add(*keys);
            }
            Event::Function { code } => self.function(code),
            Event::FunctionPreGa(old) => self.function(&old.to_code()),
            Event::ModuleAux(_) => self.summary.module_records += 1,
            Event::End { checksum } => self.summary.verified = *checksum == Checksum::Verified,
            _ => {}
        }
    }

    fn function(&mut self, code: &[u8]) {
        let hash = self.reducer.hash.bytes(code);
        self.summary.functions.insert(library_name(code).to_vec(), hash);
    }
}

impl ValueSink for Reducer {
    fn start(&mut self, head: &EntryHead<'_>, whole: Option<RawValue<'_>>) -> Result<bool, FileError> {
        self.db = head.db;
        self.key.clear();
        self.key.extend_from_slice(head.key);
        self.kind = head.ty.kind();
        self.expiry = head.expiry;
        let text = whole.filter(|_| head.ty == ValueType::String).and_then(RawValue::plain_string);
        self.at_once = text.is_some();
        if let Some(text) = text {
            self.done = Some(self.values.string(&text, head.meta));
            return Ok(false);
        }
        self.values.start(self.kind);
        if let Some(meta) = head.meta {
            self.values.meta(meta);
        }
        Ok(true)
    }

    #[inline]
    fn element(&mut self, element: &Element<'_>) -> Result<(), FileError> {
        self.values.element(element);
        Ok(())
    }

    fn end(&mut self, _size: u64) -> Result<(), FileError> {
        if !self.at_once {
            self.done = Some(self.values.finish());
        }
        self.absent = self.values.is_absent();
        Ok(())
    }
}

/// Reduces every key of an input that is a snapshot, and shows each.
///
/// ```
/// use keyferry_diff::{DigestOptions, Error, digest};
/// use keyferry_files::{Input, InputOptions};
///
/// let digests = |bytes: &'static [u8]| {
///     let input = Input::from_reader("example", bytes, InputOptions::default())?;
///     let mut keys = std::collections::BTreeMap::new();
///     digest(input, &DigestOptions::default(), |key| {
///         keys.insert((key.db, key.key.to_vec()), (key.kind, key.value, key.expiry));
///         Ok::<(), Error>(())
///     })?;
///     Ok::<_, Error>(keys)
/// };
/// // One set, its members in another order.
/// let a = digests(b"REDIS0003\xFE\x00\x02\x01s\x02\x01x\x01y\xFF")?;
/// let b = digests(b"REDIS0003\xFE\x00\x02\x01s\x02\x01y\x01x\xFF")?;
/// assert_eq!(a, b);
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
///
/// [`Error::File`] for what cannot be read or is damaged; [`Error::Commands`] for an append-only file with commands, whose
/// outcome only a server can tell; those of `see`.
pub fn digest<E: From<Error>>(
    input: Input,
    options: &DigestOptions,
    mut see: impl FnMut(&KeyDigest<'_>) -> Result<(), E>,
) -> Result<SnapshotSummary, E> {
    let mut digester = SnapshotDigester::new(options);
    let name = input.name().to_owned();
    let ended = input.read(|found, place| {
        match found {
            Found::Event(event) => {
                if let Some(key) = digester.event(&event, place).map_err(Stop::Own)? {
                    see(&key).map_err(Stop::Callers)?;
                }
            }
            Found::Command(_) => return Err(Stop::Own(Error::commands(place))),
            _ => {}
        }
        Ok(())
    });
    match ended {
        Ok(ended) if ended.snapshots == 0 => Err(Error::NoSnapshot { input: name }.into()),
        Ok(_) => Ok(digester.into_summary()),
        Err(Stop::Own(error)) => Err(error.into()),
        Err(Stop::Callers(error)) => Err(error),
    }
}

/// Why reading ended.
enum Stop<E> {
    Own(Error),
    Callers(E),
}

impl<E> From<FileError> for Stop<E> {
    fn from(error: FileError) -> Self {
        Self::Own(error.into())
    }
}
