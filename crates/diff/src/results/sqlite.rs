//! An SQLite file with redis-full-check's tables.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, params};

use super::DifferenceSink;
use crate::difference::{Difference, DifferenceKind};
use crate::report::DiffReport;

/// Rows of one transaction.
const BATCH: u64 = 10_000;

const TABLES: &str = "
CREATE TABLE key(
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, type TEXT NOT NULL, conflict_type TEXT NOT NULL,
    db INTEGER NOT NULL, source_len INTEGER NOT NULL, target_len INTEGER NOT NULL);
CREATE TABLE field(
    id INTEGER PRIMARY KEY AUTOINCREMENT, field TEXT NOT NULL, conflict_type TEXT NOT NULL, key_id INTEGER NOT NULL);
CREATE TABLE FINAL_RESULT(
    InstanceA TEXT, InstanceB TEXT, Key TEXT, Schema TEXT, InconsistentType TEXT, Extra TEXT);
BEGIN;
";

/// An SQLite file with the tables that redis-full-check leaves behind for its last round: `key`, `field`, `FINAL_RESULT`, with the same columns
/// and names of conflicts, so that queries for its files go on working.
///
/// What it does not know is added under names of its own: the conflicts `expiry`, `field_expiry`, `counters`,
/// `producers`, `duplicate`, and the type `function`. `field` is empty, and so is `Extra`: snapshots tell which key differs, not where.
/// Lengths are numbers of elements, of strings bytes; 0 where a side has no such key, -1 for the target's where types differ.
/// Keys are text where they are valid UTF-8, else blobs.
pub struct Sqlite {
    path: PathBuf,
    connection: Connection,
    rows: u64,
}

impl Sqlite {
    /// Creates the file.
    ///
    /// # Errors
    ///
    /// When it exists already, or cannot be written.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        // SQLite would open a file that is there.
        std::fs::File::create_new(&path)?;
        let opened = Connection::open(&path).and_then(|connection| {
            // Nobody needs half a result: a crash may lose it.
            connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY;")?;
            connection.execute_batch(TABLES)?;
            Ok(connection)
        });
        let connection = opened.map_err(|error| failed(&path, &error))?;
        Ok(Self { path, connection, rows: 0 })
    }

    fn insert(&self, difference: &Difference) -> rusqlite::Result<()> {
        let key = text(&difference.key);
        let conflict = difference.kind.name();
        let length = |held: Option<crate::Held>| held.map_or(0, |held| held.length.cast_signed());
        let target_length = match difference.kind {
            DifferenceKind::Type => -1,
            _ => length(difference.target),
        };
        let db = difference.db.cast_signed();
        self.connection
            .prepare_cached(
                "INSERT INTO key(key, type, conflict_type, db, source_len, target_len) VALUES (?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                &key,
                difference.type_name(),
                conflict,
                db,
                length(difference.source),
                target_length
            ])?;
        self.connection
            .prepare_cached("INSERT INTO FINAL_RESULT VALUES ('', '', ?, ?, ?, '')")?
            .execute(params![&key, db.to_string(), conflict])?;
        Ok(())
    }
}

impl DifferenceSink for Sqlite {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        self.rows += 1;
        self.insert(difference)
            .and_then(|()| match self.rows % BATCH {
                0 => self.connection.execute_batch("COMMIT; BEGIN;"),
                _ => Ok(()),
            })
            .map_err(|error| failed(&self.path, &error))
    }

    fn finish(&mut self, _: &DiffReport) -> io::Result<()> {
        self.connection.execute_batch("COMMIT;").map_err(|error| failed(&self.path, &error))
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.path).field("rows", &self.rows).finish_non_exhaustive()
    }
}

fn text(key: &[u8]) -> Value {
    match std::str::from_utf8(key) {
        Ok(text) => Value::Text(text.to_owned()),
        Err(_) => Value::Blob(key.to_vec()),
    }
}

fn failed(path: &Path, error: &rusqlite::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}
