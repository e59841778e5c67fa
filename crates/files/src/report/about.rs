//! What a report is about, and what is not in it.

use keyferry_rdb::Checksum;
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::units::count;
use crate::input::Ended;
use crate::select::LeftOutCounts;
use crate::survey::{Survey, Totals};

/// Where the data of a survey came from, and what was not looked at.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct About {
    /// The name of the input.
    pub input: String,
    /// How reading ended.
    pub ended: Ended,
    /// Keys that were not selected.
    pub left_out: LeftOutCounts,
    /// Why reading ended early: what is shown is what was read before.
    pub failure: Option<String>,
}

impl About {
    /// About an input of this name, of which nothing was left out.
    pub fn new(input: impl Into<String>) -> Self {
        Self { input: input.into(), ..Self::default() }
    }

    /// What a reader has to know lest the figures mislead, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(failure) = &self.failure {
            notes.push(format!("this is not all, only what was read before an error: {failure}"));
        }
        if self.left_out.total() > 0 {
            notes.push(format!("{} keys were left out: {}", count(self.left_out.total()), self.left_out));
        }
        if self.ended.commands > 0 {
            let snapshot = if self.ended.snapshots > 0 { "the snapshot before them" } else { "nothing" };
            notes.push(format!(
                "{} commands of the append-only file were not applied: what is shown is {snapshot}",
                count(self.ended.commands)
            ));
        }
        if let Some(cut) = &self.ended.cut {
            notes.push(format!(
                "{} is cut off inside a command or transaction; it is whole up to byte {}",
                cut.input, cut.good_offset
            ));
        }
        notes
    }

    /// A survey with this, to be serialized.
    pub fn with<'a>(&'a self, survey: &'a Survey) -> impl Serialize + use<'a> {
        Report { about: self, survey }
    }
}

/// All of a survey, for machines. Names are escaped as in [`line`](crate::text::line).
struct Report<'a> {
    about: &'a About,
    survey: &'a Survey,
}

#[derive(serde::Serialize)]
struct Part {
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<u64>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(flatten)]
    totals: Totals,
}

impl Serialize for Report<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let summary = self.survey.summary();
        let databases = summary.databases();
        let database = |(database, totals): &(Option<u64>, Totals)| Part {
            database: *database,
            kind: None,
            encoding: None,
            totals: *totals,
        };
        let mut encodings = Vec::new();
        for (number, _) in &databases {
            let Some(number) = number else { continue };
            encodings.extend(summary.encodings(Some(*number)).into_iter().map(|(ty, totals)| Part {
                database: Some(*number),
                kind: Some(ty.kind().name()),
                encoding: Some(ty.name()),
                totals,
            }));
        }
        let checksum = match summary.checksum() {
            Some(Checksum::Verified) => "verified",
            Some(Checksum::NotComputed) => "not computed",
            Some(Checksum::NoneInVersion) => "none in this version",
            _ => "not reached",
        };
        let ended = &self.about.ended;
        let mut out = serializer.serialize_struct("Report", 16)?;
        out.serialize_field("input", &self.about.input)?;
        out.serialize_field("format", &summary.format())?;
        out.serialize_field("checksum", checksum)?;
        out.serialize_field("fields", summary.fields())?;
        out.serialize_field("totals", &summary.totals())?;
        out.serialize_field("databases", &databases.iter().map(database).collect::<Vec<_>>())?;
        out.serialize_field("encodings", &encodings)?;
        out.serialize_field("records", &summary.records())?;
        out.serialize_field("expiries_from_ms", &summary.expiries().reference())?;
        out.serialize_field("expiries", &summary.expiries().spans().collect::<Vec<_>>())?;
        out.serialize_field("big_keys", &self.survey.big_keys())?;
        out.serialize_field("prefixes", &self.survey.prefixes().map(|prefixes| prefixes.tree()))?;
        out.serialize_field("left_out", &self.about.left_out)?;
        out.serialize_field("commands_not_applied", &ended.commands)?;
        out.serialize_field("good_up_to", &ended.cut.as_ref().map(|cut| cut.good_offset))?;
        out.serialize_field("failure", &self.about.failure)?;
        out.end()
    }
}
