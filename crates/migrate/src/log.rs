//! What is logged, by `tracing`: phases, trouble, losses, ends. Fields are `link`, `key`, `offset`, `reason` and the like; values are
//! never among them. Whoever wants it subscribes; nobody who does not pays for more than a look at a flag.

use crate::{
    error::{Error, RefusedAt},
    precheck::{Report, Verdict},
    progress::Meter,
};

/// How it ended. Errors that hold a command are told by what they are about: the command may hold a value.
pub(crate) fn ended(meter: &Meter, result: &Result<crate::report::Outcome, Error>) {
    let figures = meter.figures();
    let (keys, commands, offset) = (figures.keys_applied, figures.commands_applied, figures.applied_offset);
    match result {
        Ok(outcome) => tracing::info!(?outcome, keys, commands, offset, "ended"),
        Err(Error::Refused(refusal)) => {
            let offset = match refusal.origin {
                RefusedAt::Stream { offset } => Some(offset),
                RefusedAt::Snapshot => None,
            };
            let word = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
            let (code, command) = (word(&refusal.reply), word(&refusal.command));
            tracing::error!(target_address = %refusal.address, offset, db = refusal.db, code, command, "refused");
        }
        Err(Error::NoRoute { command, db, offset, why }) => {
            let command = command.as_deref().and_then(|command| command.split(' ').next());
            tracing::error!(offset, db, command, reason = %why, "failed");
        }
        Err(error) => tracing::error!(class = error.class(), offset, reason = error.to_line(), "failed"),
    }
}

/// What was found before the run.
pub(crate) fn precheck(report: &Report) {
    for finding in report.findings.iter().filter(|finding| finding.verdict != Verdict::Pass) {
        let (item, reason) = (finding.item.name(), finding.evidence.join("; "));
        match finding.verdict {
            Verdict::Fail if !finding.ignored => tracing::error!(item, reason, "precheck failed"),
            _ => tracing::warn!(item, reason, ignored = finding.ignored, "precheck"),
        }
    }
}

/// A part of a value that could not be carried over.
pub(crate) fn lost(key: &[u8], reason: &impl std::fmt::Display) {
    tracing::warn!(key = %key.escape_ascii(), %reason, "lost");
}
