//! An SQLite file with redis-full-check's tables.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, params};

use super::DifferenceSink;
use crate::difference::{Difference, DifferenceKind, FieldDifference};
use crate::report::DiffReport;

/// Rows of one transaction.
const BATCH: u64 = 10_000;

const FINAL_RESULT: &str = "
CREATE TABLE FINAL_RESULT(
    InstanceA TEXT, InstanceB TEXT, Key TEXT, Schema TEXT, InconsistentType TEXT, Extra TEXT);
BEGIN;
";

/// An SQLite file with the tables of redis-full-check: `key`, `field` and `FINAL_RESULT` for the last round, `key_1`, `field_1`, … for
/// those before, with the same columns and names of conflicts, so that queries for its files go on working. It writes a file
/// for each round; here all are in one.
///
/// What it does not know is added under names of its own: the conflicts `expiry`, `field_expiry`, `counters`,
/// `producers`, `duplicate`, `keys`, `expires`, and the type `function`. `field` has the elements that are known to differ. `FINAL_RESULT` has a
/// row for each of these, and one with an empty `Extra` for a key without any.
/// Lengths are numbers of elements, of strings bytes; 0 where a side has no such key, -1 for the target's where types differ.
/// Keys are text where they are valid UTF-8, else blobs.
pub struct Sqlite {
    path: PathBuf,
    connection: Connection,
    rows: u64,
    /// Rounds whose tables are there; `None` is the last.
    rounds: Vec<Option<u32>>,
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
            connection.execute_batch(FINAL_RESULT)?;
            Ok(connection)
        });
        let connection = opened.map_err(|error| failed(&path, &error))?;
        let mut file = Self { path, connection, rows: 0, rounds: Vec::new() };
        // They are there also when nothing differs.
        let made = file.tables(None);
        made.map_err(|error| failed(&file.path, &error))?;
        Ok(file)
    }

    fn tables(&mut self, round: Option<u32>) -> rusqlite::Result<()> {
        let suffix = suffix(round);
        if !self.rounds.contains(&round) {
            self.connection.execute_batch(&format!(
                "CREATE TABLE key{suffix}(
                    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, type TEXT NOT NULL,
                    conflict_type TEXT NOT NULL, db INTEGER NOT NULL, source_len INTEGER NOT NULL,
                    target_len INTEGER NOT NULL);
                CREATE TABLE field{suffix}(
                    id INTEGER PRIMARY KEY AUTOINCREMENT, field TEXT NOT NULL, conflict_type TEXT NOT NULL,
                    key_id INTEGER NOT NULL);
                CREATE INDEX field{suffix}_key_id ON field{suffix}(key_id);"
            ))?;
            self.rounds.push(round);
        }
        Ok(())
    }

    /// Inserts into the tables of a round; those of the last have no number.
    fn insert(&mut self, round: Option<u32>, difference: &Difference) -> rusqlite::Result<()> {
        self.tables(round)?;
        let suffix = suffix(round);
        let key = text(&difference.key);
        let conflict = difference.kind.name();
        let length = |held: Option<crate::Held>| held.map_or(0, |held| held.length.cast_signed());
        let target_length = match difference.kind {
            DifferenceKind::Type => -1,
            _ => length(difference.target),
        };
        let db = difference.db.cast_signed();
        self.connection
            .prepare_cached(&format!(
                "INSERT INTO key{suffix}(key, type, conflict_type, db, source_len, target_len)
                VALUES (?, ?, ?, ?, ?, ?)"
            ))?
            .execute(params![
                &key,
                difference.type_name(),
                conflict,
                db,
                length(difference.source),
                target_length
            ])?;
        let key_id = self.connection.last_insert_rowid();
        for field in &difference.fields {
            self.connection
                .prepare_cached(&format!(
                    "INSERT INTO field{suffix}(field, conflict_type, key_id) VALUES (?, ?, ?)"
                ))?
                .execute(params![text(&field.name), field.kind.name(), key_id])?;
        }
        if round.is_some() {
            return Ok(());
        }
        let whole = [FieldDifference::new(b"", difference.kind)];
        let places = if difference.fields.is_empty() { &whole[..] } else { &difference.fields };
        for place in places {
            self.connection
                .prepare_cached("INSERT INTO FINAL_RESULT VALUES ('', '', ?, ?, ?, ?)")?
                .execute(params![&key, db.to_string(), place.kind.name(), text(&place.name)])?;
        }
        Ok(())
    }

    fn add(&mut self, round: Option<u32>, difference: &Difference) -> io::Result<()> {
        self.rows += 1;
        self.insert(round, difference)
            .and_then(|()| match self.rows % BATCH {
                0 => self.connection.execute_batch("COMMIT; BEGIN;"),
                _ => Ok(()),
            })
            .map_err(|error| failed(&self.path, &error))
    }
}

impl DifferenceSink for Sqlite {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        self.add(None, difference)
    }

    fn suspect(&mut self, round: u32, difference: &Difference) -> io::Result<()> {
        self.add(Some(round), difference)
    }

    fn wants_suspects(&self) -> bool {
        true
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

fn suffix(round: Option<u32>) -> String {
    round.map(|round| format!("_{round}")).unwrap_or_default()
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
