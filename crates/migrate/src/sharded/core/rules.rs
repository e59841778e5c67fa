//! How a target is spoken to, and how long it may refuse what it would take at another time.

use std::time::Duration;

use keyferry_resp::{ErrorCode, ErrorReply, Retry};

/// How a target is spoken to.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// One lane for everything, as one server holds all slots and refuses no command for its keys.
    pub(crate) single: bool,
    /// What must not be repeated goes with a checkpoint.
    pub(crate) exact: bool,
    /// How many bytes of the stream behind the position at the target something may go ahead of its transaction; none, if 0.
    pub(crate) ahead: u64,
    /// How long what passes may last.
    pub(crate) windows: Windows,
    /// How long a node that had replicas has to be without them, before nothing is to be waited for.
    pub(crate) alone_after: Duration,
}

/// How long a target may refuse what it would take at another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    /// While it is away, loads its data, is a replica, or has slots that nobody serves.
    pub(crate) connect: Duration,
    /// For any other reason that passes, or that somebody can put right.
    pub(crate) other: Duration,
}

impl Windows {
    /// The window for an error; none where waiting does not help.
    pub(crate) fn of(self, error: &ErrorReply) -> Option<Duration> {
        match error.kind() {
            // A slot on its way is as good as one that nobody serves.
            ErrorCode::TryAgain
            | ErrorCode::Loading
            | ErrorCode::MasterDown
            | ErrorCode::ClusterDown
            | ErrorCode::NoMasterLink
            | ErrorCode::NotReady => Some(self.connect),
            _ => match error.retry() {
                Retry::Redirect | Retry::RefreshTopology => Some(self.connect),
                Retry::BackOff | Retry::Operator | Retry::ResendTransaction => Some(self.other),
                _ => None,
            },
        }
    }
}

/// The reason that a discarded transaction was discarded for, where the error says it.
pub(crate) fn reason(error: &ErrorReply) -> ErrorReply {
    const BECAUSE: &str = "because of: ";
    let text = error.message();
    match (error.kind(), text.find(BECAUSE)) {
        (ErrorCode::ExecAbort, Some(at)) => ErrorReply::new(text[at + BECAUSE.len()..].as_bytes().to_vec()),
        _ => error.clone(),
    }
}
