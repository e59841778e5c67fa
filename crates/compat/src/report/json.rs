//! For programs.

use std::io::{self, Write};

use serde_json::json;

use super::Report;

/// Writes reports as one JSON document: `{"reports": [...]}`, each report as its fields are, with its counts, score and
/// verdict.
///
/// # Errors
///
/// Those of `out`.
pub fn write_json(out: &mut dyn Write, reports: &[Report]) -> io::Result<()> {
    let mut all = Vec::with_capacity(reports.len());
    for report in reports {
        let mut value = serde_json::to_value(report)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("counts".to_owned(), json!(report.counts()));
            object.insert("score".to_owned(), json!(report.score()));
            object.insert("status".to_owned(), json!(report.verdict().status()));
        }
        all.push(value);
    }
    serde_json::to_writer_pretty(&mut *out, &json!({ "reports": all }))?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::super::tests::mixed;

    #[test]
    fn a_document_with_counts_and_failures() {
        let mut out = Vec::new();
        super::write_json(&mut out, &[mixed()]).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let report = &value["reports"][0];
        assert_eq!(report["counts"]["failed"], 1);
        assert_eq!(report["status"], 1);
        assert_eq!(report["results"][1]["outcome"]["outcome"], "failed");
        assert_eq!(report["results"][1]["outcome"]["failure"]["step"], 2);
        assert_eq!(report["results"][5]["outcome"]["reason"], "needs admin");
    }
}
