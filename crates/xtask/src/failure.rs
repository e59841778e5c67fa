//! Why a task failed: one line for the person at the terminal.

use std::error::Error;
use std::fmt;

/// What a task returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// A message that says what failed and what to do about it.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure(message.into())
    }

    /// The message of an error with those of its causes, after what was being done.
    pub(crate) fn during(what: impl fmt::Display, error: &dyn Error) -> Failure {
        let mut message = format!("{what}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(&format!(": {error}"));
            cause = error.source();
        }
        Failure(message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<keyferry_testkit::Error> for Failure {
    fn from(error: keyferry_testkit::Error) -> Failure {
        Failure::during("test kit", &error)
    }
}

/// Adds to an error what was being done.
pub(crate) trait Context<T> {
    fn during(self, what: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: Error> Context<T> for Result<T, E> {
    fn during(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|error| Failure::during(what, &error))
    }
}
