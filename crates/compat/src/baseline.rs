//! Failures that are known.

use std::fmt::Write as _;
use std::path::Path;

use keyferry_routing::KeyPattern;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::gate::Claim;
use crate::report::{CaseResult, Outcome, Report};

/// Failures that are known, each with the reason: they do not count as failures, and are told when they are gone.
///
/// As a file it is a JSON array of objects:
///
/// ```
/// use keyferry_compat::Baseline;
///
/// let baseline = Baseline::parse("known.json", r#"[
///     {"case": "stream/XADD with *", "server": "dragonfly *", "reason": "ids are smaller there", "got": "\"0-1\""}
/// ]"#)?;
/// assert_eq!(baseline.len(), 1);
/// # Ok::<(), keyferry_compat::Error>(())
/// ```
///
/// `case` is `group/name`, or a pattern of it; `server` is a pattern of vendor and version as in `valkey 9.0.*`, and holds
/// for all if it is left out. `got` is what that server answers: a failure with another reply is a failure.
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    case: String,
    #[serde(default = "any")]
    server: String,
    /// Only in clusters, or only elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<bool>,
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    got: Option<String>,
}

fn any() -> String {
    "*".to_owned()
}

impl Baseline {
    /// Nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known of real servers that fail one of [our own cases](crate::Suite::builtin).
    ///
    /// # Errors
    ///
    /// None, as a test makes sure.
    pub fn builtin() -> Result<Self, Error> {
        Self::parse("baseline.json", include_str!("../cases/baseline.json"))
    }

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

    /// As [`read`](Self::read), from text. `file` is for messages.
    ///
    /// # Errors
    ///
    /// [`Error::Format`].
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let entries: Vec<Entry> = serde_json::from_str(text).map_err(|error| Error::format(file, error))?;
        if let Some(entry) = entries.iter().find(|entry| entry.reason.trim().is_empty()) {
            return Err(Error::format(file, format!("\"{}\" has no reason", entry.case)));
        }
        Ok(Self { entries })
    }

    /// Adds what another one knows.
    pub fn add(&mut self, other: Self) {
        self.entries.extend(other.entries);
    }

    /// How many failures are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The failures of a report as a file, for servers that have their differences: to be used the next time.
    pub fn text_of(report: &Report, reason: &str) -> String {
        let mut known: Vec<Entry> = Vec::new();
        for (result, failure) in report.failures() {
            let case = literal(&result.id());
            // In both protocols, with two replies: then any will do.
            match known.iter_mut().find(|entry| entry.case == case) {
                Some(entry) if entry.got.as_ref() != Some(&failure.got) => entry.got = None,
                Some(_) => {}
                None => known.push(Entry {
                    case,
                    server: any(),
                    cluster: None,
                    reason: reason.to_owned(),
                    got: Some(failure.got.clone()),
                }),
            }
        }
        let mut text = "[".to_owned();
        for (at, entry) in known.iter().enumerate() {
            let line = serde_json::to_string(entry).unwrap_or_default();
            let _ = write!(text, "{}\n{line}", if at == 0 { "" } else { "," });
        }
        text.push_str("\n]\n");
        text
    }

    /// Marks known failures; tells of entries for cases that passed now.
    pub(crate) fn apply(&self, claim: &Claim, cluster: bool, results: &mut [CaseResult]) -> Vec<String> {
        let server = claim.to_string();
        let mut notes = Vec::new();
        for entry in &self.entries {
            let applies = KeyPattern::new(entry.server.as_bytes()).matches(server.as_bytes())
                && entry.cluster.is_none_or(|only| only == cluster);
            if !applies {
                continue;
            }
            let pattern = KeyPattern::new(entry.case.as_bytes());
            let (mut passed, mut known) = (0, 0);
            for result in results.iter_mut().filter(|result| pattern.matches(result.id().as_bytes())) {
                match &result.outcome {
                    Outcome::Failed { failure }
                        if entry.got.as_ref().is_none_or(|got| *got == failure.got) =>
                    {
                        let (failure, reason) = (failure.clone(), entry.reason.clone());
                        result.outcome = Outcome::Known { failure, reason };
                        known += 1;
                    }
                    Outcome::Passed => passed += 1,
                    _ => {}
                }
            }
            if passed > 0 && known == 0 {
                notes.push(format!(
                    "{} passes now: its entry in the baseline ({}) can go",
                    entry.case, entry.reason
                ));
            }
        }
        notes
    }
}

/// The text as a pattern that matches just it.
fn literal(text: &str) -> String {
    let special = |c: char| matches!(c, '*' | '?' | '[' | ']' | '\\');
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::mixed;

    #[test]
    fn known_failures_do_not_fail() {
        let mut report = mixed();
        let text = Baseline::text_of(&report, "we know");
        let baseline = Baseline::parse("f", &text).unwrap();
        assert_eq!(baseline.len(), 1);
        let claim = Claim { vendor: "redis".to_owned(), version: keyferry_client::Version::new(7, 0, 15) };
        assert!(baseline.apply(&claim, false, &mut report.results).is_empty());
        assert_eq!(report.counts().failed, 0);
        assert_eq!(report.counts().known, 2);

        let gone = r#"[{"case": "string/case [01]", "server": "redis 7.*", "reason": "bug"},
            {"case": "string/case 0", "server": "valkey *", "reason": "not this server"},
            {"case": "string/case 0", "cluster": true, "reason": "not here"},
            {"case": "string/case 0", "reason": "gone"}]"#;
        let mut report = mixed();
        let notes = Baseline::parse("f", gone).unwrap().apply(&claim, false, &mut report.results);
        assert_eq!(notes, ["string/case 0 passes now: its entry in the baseline (gone) can go"]);
        assert_eq!(report.counts().failed, 0);

        let other = r#"[{"case": "string/case 1", "reason": "another reply", "got": "null"}]"#;
        let mut report = mixed();
        Baseline::parse("f", other).unwrap().apply(&claim, false, &mut report.results);
        assert_eq!(report.counts().failed, 1);
    }

    #[test]
    fn entries_have_reasons() {
        assert!(Baseline::parse("f", r#"[{"case": "x", "reason": " "}]"#).is_err());
        assert!(Baseline::parse("f", r#"[{"case": "x"}]"#).is_err());
        assert!(Baseline::parse("f", r#"[{"case": "x", "reason": "y", "sever": "z"}]"#).is_err());
        assert!(Baseline::builtin().is_ok());
    }
}
