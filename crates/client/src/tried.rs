//! What several servers said, for the error when none of them was of help.

use std::fmt;

use crate::{Address, Error};

/// Collects the reasons in the order in which the servers were asked.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    /// One after the other, separated by semicolons.
    pub(crate) reasons: String,
    /// Whether any of them passes by itself.
    pub(crate) passing: bool,
}

impl Tried {
    /// The error names the server itself.
    pub(crate) fn error(&mut self, error: &Error) {
        self.add(error.is_retryable(), format_args!("{error}"));
    }

    pub(crate) fn at(&mut self, address: &Address, passing: bool, reason: impl fmt::Display) {
        self.add(passing, format_args!("{address} {reason}"));
    }

    fn add(&mut self, passing: bool, reason: fmt::Arguments<'_>) {
        use fmt::Write as _;
        self.passing |= passing;
        let separator = if self.reasons.is_empty() { "" } else { "; " };
        let _ = write!(self.reasons, "{separator}{reason}");
    }
}
