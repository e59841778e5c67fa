//! The data file of compatibility-test-suite-for-redis (`cts.json`), unmodified, with the rules of its own runner.
//!
//! [`run`] gives the verdicts of the original: `FLUSHALL` before each case, RESP2, no errors expected, no tolerance for
//! floats, versions compared as texts. What the original leaves to chance is settled: each case has connections of its own,
//! so nothing leaks from one into the next, and replies of a subscription that come late are waited for. The same server
//! gets the same verdict each time.
//!
//! [`Cases::to_suite`] makes a [`Suite`](crate::Suite) of the same file, which needs no `FLUSHALL`: keys are put below the
//! scratch prefix, and floats may be written in any way.

mod compare;
mod convert;
mod run;
mod tokens;

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::Error;

pub use run::{Bucket, CtsrOptions, CtsrOutcome, CtsrReport, CtsrResult, run};

/// The cases of a file, in its order.
///
/// ```
/// use keyferry_compat::ctsr::Cases;
///
/// let cases = Cases::parse("cts.json", r#"[
///     {"name": "del", "command": ["set k v", "del k"], "result": ["OK", 1], "since": "1.0.0"}
/// ]"#)?;
/// assert_eq!(cases.len(), 1);
/// # Ok::<(), keyferry_compat::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cases {
    cases: Vec<CtsrCase>,
}

/// One case of the file.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CtsrCase {
    pub(crate) name: String,
    pub(crate) command: Vec<String>,
    pub(crate) result: Vec<Value>,
    pub(crate) since: String,
    #[serde(default)]
    pub(crate) tags: Option<String>,
    // Of these three only the presence counts, whatever the value.
    #[serde(default, deserialize_with = "present")]
    pub(crate) sort_result: bool,
    #[serde(default, deserialize_with = "present")]
    pub(crate) command_binary: bool,
    #[serde(default, deserialize_with = "present")]
    pub(crate) skipped: bool,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Value::deserialize(deserializer).map(|_| true)
}

impl Cases {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::Format`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// As [`read`](Self::read), from text. `file` is for messages. Fields that the original does not know are ignored, as
    /// there.
    ///
    /// # Errors
    ///
    /// [`Error::Format`].
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let cases = serde_json::from_str(text).map_err(|error| Error::format(file, error))?;
        Ok(Self { cases })
    }

    /// How many cases there are, skipped ones included.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }
}
