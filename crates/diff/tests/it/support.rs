//! Comparisons, run and made comparable.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keyferry_diff::{DiffOptions, DiffReport, Difference, Error, LiveDiff, Side, SnapshotDiff};
use keyferry_diff::{DigestOptions, ValueDigest, ValueDigester};
use keyferry_rdb::encode::Encoder;
use keyferry_rdb::{EntryHead, Limits, RawValue, RdbWriter, TargetFormat, Value};

/// What a comparison found: database, key, kind of difference.
pub(crate) type Found = BTreeSet<(u64, Vec<u8>, &'static str)>;

/// Compares two sides, each a URL or a file.
pub(crate) fn diff(
    source: &str,
    target: &str,
    change: impl FnOnce(&mut DiffOptions),
) -> Result<(DiffReport, Found), Error> {
    diff_sides(source.parse().unwrap(), target.parse().unwrap(), change)
}

pub(crate) fn diff_sides(
    source: Side,
    target: Side,
    change: impl FnOnce(&mut DiffOptions),
) -> Result<(DiffReport, Found), Error> {
    let mut diff = SnapshotDiff::new(source, target);
    change(diff.options_mut());
    let mut differences: Vec<Difference> = Vec::new();
    let report = diff.run(&mut differences)?;
    assert_eq!(report.differences.total(), differences.len() as u64);
    let found = told(&differences);
    assert_eq!(found.len(), differences.len(), "a difference is told twice: {differences:?}");
    Ok((report, found))
}

/// Compares two servers key by key, with short rounds.
pub(crate) fn live(
    source: &str,
    target: &str,
    change: impl FnOnce(&mut LiveDiff),
) -> Result<(DiffReport, Vec<Difference>), Error> {
    let mut diff = LiveDiff::new(source.parse().unwrap(), target.parse().unwrap());
    diff.live_mut().interval = std::time::Duration::from_millis(50);
    change(&mut diff);
    let mut differences: Vec<Difference> = Vec::new();
    let report = diff.run(&mut differences)?;
    assert_eq!(report.differences.total(), differences.len() as u64);
    assert_eq!(told(&differences).len(), differences.len(), "a difference is told twice: {differences:?}");
    Ok((report, differences))
}

pub(crate) fn told(differences: &[Difference]) -> Found {
    differences.iter().map(|one| (one.db, one.key.clone(), one.kind.name())).collect()
}

/// A key of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) db: u64,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Value,
    pub(crate) expiry: Option<i64>,
}

impl Key {
    pub(crate) fn new(key: &str, value: Value) -> Self {
        Self { db: 0, key: key.as_bytes().to_vec(), value, expiry: None }
    }
}

/// Writes a snapshot.
pub(crate) fn write<'a>(
    path: &Path,
    format: TargetFormat,
    keys: impl IntoIterator<Item = &'a Key>,
) -> PathBuf {
    let mut writer = RdbWriter::new(Vec::new(), format).unwrap();
    for key in keys {
        let head = EntryHead::new(key.db, &key.key, keyferry_rdb::ValueType::String).with_expiry(key.expiry);
        let encoded = writer.value(&head, &key.value).unwrap();
        assert!(encoded.ty.is_some(), "{format:?} cannot hold {key:?}");
    }
    std::fs::write(path, writer.finish().unwrap()).unwrap();
    path.to_owned()
}

/// The digest of a value as this format has it; `None` where it has no place for all of it.
pub(crate) fn digest(value: &Value, format: TargetFormat, options: &DigestOptions) -> Option<ValueDigest> {
    let mut bytes = Vec::new();
    let encoded = Encoder::new(format).encode(value, &mut bytes).unwrap();
    let ty = encoded.ty.filter(|_| encoded.losses.is_empty())?;
    let mut digester = ValueDigester::new(options);
    digester.start(ty.kind());
    let elements = RawValue::new(ty, &bytes).elements(&Limits::default());
    elements
        .for_each(|element| {
            digester.element(&element);
            Ok::<(), keyferry_rdb::Error>(())
        })
        .unwrap();
    Some(digester.finish())
}

/// Formats with every encoding that there is.
pub(crate) fn formats() -> Vec<TargetFormat> {
    let mut all = Vec::new();
    for name in [
        "redis-2.4",
        "redis-3.2",
        "redis-4.0",
        "redis-5.0",
        "redis-6.0",
        "redis-7.0",
        "redis-7.2",
        "redis-7.4",
        "redis-8.0",
        "redis-8.6",
        "redis-8.8",
        "valkey-8.1",
        "valkey-9.0",
    ] {
        let format: TargetFormat = name.parse().unwrap();
        all.push(format);
        // The same in plain encodings.
        let mut plain = format;
        plain.compress = false;
        let compact = &mut plain.compact;
        (compact.set_integers, compact.set_entries) = (0, 0);
        (compact.zset_entries, compact.hash_entries, compact.list_entries) = (0, 0, 0);
        compact.list_node_bytes = 64;
        all.push(plain);
    }
    all
}
