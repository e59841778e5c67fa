use std::fmt;

use bytes::Bytes;

/// An error that a server answered with, taken apart.
///
/// The first word is the code by which to react; the rest is free text that changes between versions. Scripts and
/// modules can answer with any text.
///
/// ```
/// use keyferry_resp::{ErrorCode, ErrorReply, Frame, Retry};
///
/// let frame = Frame::Error("LOADING Redis is loading the dataset in memory".into());
/// let error = frame.error_reply().expect("is an error");
/// assert_eq!(error.code(), "LOADING");
/// assert_eq!(error.kind(), ErrorCode::Loading);
/// assert_eq!(error.retry(), Retry::BackOff);
/// assert_eq!(error.message(), "Redis is loading the dataset in memory");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ErrorReply {
    text: Bytes,
}

impl ErrorReply {
    /// Wraps the text of an error line, without its `-` and CRLF.
    pub fn new(text: impl Into<Bytes>) -> Self {
        Self { text: text.into() }
    }

    /// The whole text as it was sent.
    pub fn text(&self) -> &Bytes {
        &self.text
    }

    /// The first word. Empty if that is not UTF-8.
    pub fn code(&self) -> &str {
        let word = self.text.split(|&c| c == b' ').next().unwrap_or_default();
        std::str::from_utf8(word).unwrap_or_default()
    }

    /// What follows the first word. Bytes that are not UTF-8 show as replacement characters.
    pub fn message(&self) -> std::borrow::Cow<'_, str> {
        let rest = match memchr::memchr(b' ', &self.text) {
            Some(blank) => &self.text[blank + 1..],
            None => &[],
        };
        String::from_utf8_lossy(rest)
    }

    /// Which of the known codes this is.
    pub fn kind(&self) -> ErrorCode {
        ErrorCode::of(self.code())
    }

    /// What helps against this error.
    pub fn retry(&self) -> Retry {
        // The one generic error that passes by itself; servers close the connection after it.
        if self.kind() == ErrorCode::Err && self.text.starts_with(b"ERR max number of clients") {
            return Retry::BackOff;
        }
        self.kind().retry()
    }
}

impl fmt::Debug for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ErrorReply({self})")
    }
}

/// The text as it was sent; control characters and bytes that are not UTF-8 are escaped, so that a server cannot
/// write into a terminal or forge lines of a log.
impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.text.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ErrorReply {}

/// What helps against an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retry {
    /// Nothing: the same command gets the same answer.
    Never,
    /// The same command, after waiting.
    BackOff,
    /// The same command at the node that the error names.
    Redirect,
    /// The same command, after asking who the primary is.
    RefreshTopology,
    /// The whole transaction, from MULTI on.
    ResendTransaction,
    /// The script itself: EVAL in place of EVALSHA.
    SendScript,
    /// Somebody has to act: memory is full, or the disk is.
    Operator,
    /// It depends on what the caller wants: the thing exists already.
    Policy,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $($text:literal)|+ => $retry:ident,)+) => {
        /// The codes that servers are known to send.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)+
            /// A code of a script, of a module or of a server to come.
            Other,
        }

        impl ErrorCode {
            /// The code with this first word, in capitals as servers send it.
            pub fn of(word: &str) -> Self {
                match word {
                    $($($text)|+ => Self::$name,)+
                    _ => Self::Other,
                }
            }

            /// What helps against this error.
            pub fn retry(self) -> Retry {
                match self {
                    $(Self::$name => Retry::$retry,)+
                    Self::Other => Retry::Never,
                }
            }
        }
    };
}

codes! {
    /// `ERR`: anything without a code of its own.
    Err "ERR" => Never,
    /// `WRONGTYPE`: the key holds another type.
    WrongType "WRONGTYPE" => Never,
    /// `NOAUTH`: not logged in.
    NoAuth "NOAUTH" => Never,
    /// `WRONGPASS`: user or password is wrong.
    WrongPass "WRONGPASS" => Never,
    /// `NOPERM`: the user may not do this.
    NoPerm "NOPERM" => Never,
    /// `DENIED`: protected mode.
    Denied "DENIED" => Never,
    /// `NOPROTO`: HELLO with a protocol version that the server lacks.
    NoProto "NOPROTO" => Never,
    /// `MOVED`: the slot belongs to another node.
    Moved "MOVED" => Redirect,
    /// `ASK`: the slot is on its way to another node, and the key is there already.
    Ask "ASK" => Redirect,
    /// `REDIRECT`: where the primary is (Valkey 8 and later).
    Redirect "REDIRECT" => Redirect,
    /// `TRYAGAIN`: some keys of the command have moved, some have not.
    TryAgain "TRYAGAIN" => BackOff,
    /// `CLUSTERDOWN`: nobody serves the slot.
    ClusterDown "CLUSTERDOWN" => BackOff,
    /// `CROSSSLOT`: the keys belong to several slots.
    CrossSlot "CROSSSLOT" => Never,
    /// `LOADING`: the data set is being read from disk.
    Loading "LOADING" => BackOff,
    /// `MASTERDOWN`: a replica lost its primary and may not answer.
    MasterDown "MASTERDOWN" => BackOff,
    /// `BUSY`: a script is running.
    Busy "BUSY" => BackOff,
    /// `NOREPLICAS`: fewer replicas than `min-replicas-to-write`.
    NoReplicas "NOREPLICAS" => BackOff,
    /// `NOMASTERLINK`: a replica that cannot serve PSYNC as it lost its own primary.
    NoMasterLink "NOMASTERLINK" => BackOff,
    /// `NOTREADY`: not started up yet.
    NotReady "NOTREADY" => BackOff,
    /// `READONLY`: a write to a replica.
    ReadOnly "READONLY" => RefreshTopology,
    /// `OOM`: `maxmemory` is reached.
    Oom "OOM" => Operator,
    /// `MISCONF`: snapshots fail, so writes are refused.
    MisConf "MISCONF" => Operator,
    /// `BUSYKEY`: RESTORE without REPLACE onto a key that exists.
    BusyKey "BUSYKEY" => Policy,
    /// `BUSYGROUP`: the consumer group exists.
    BusyGroup "BUSYGROUP" => Policy,
    /// `NOGROUP`: the consumer group is missing.
    NoGroup "NOGROUP" => Never,
    /// `NOSCRIPT`: EVALSHA of a script that the server has not seen.
    NoScript "NOSCRIPT" => SendScript,
    /// `EXECABORT`: the transaction was discarded, as a command in it was refused.
    ExecAbort "EXECABORT" => ResendTransaction,
    /// `UNKILLABLE`: the script has written already.
    Unkillable "UNKILLABLE" => Never,
    /// `NOTBUSY`: no script is running.
    NotBusy "NOTBUSY" => Never,
    /// `UNBLOCKED`: a blocked command was ended from outside.
    Unblocked "UNBLOCKED" => BackOff,
    /// `IOERR`: MIGRATE could not talk to its target; the key may exist on both sides.
    IoErr "IOERR" => BackOff,
    /// `INVALIDOBJ`: a broken HyperLogLog or object.
    InvalidObj "INVALIDOBJ" => Never,
    /// `NOQUORUM`: Sentinel has no majority.
    NoQuorum "NOQUORUM" => BackOff,
    /// `NOGOODSLAVE`, in Valkey `NOGOODPRIMARY`: Sentinel finds nobody to promote.
    NoGoodReplica "NOGOODSLAVE" | "NOGOODPRIMARY" => BackOff,
    /// `INPROG`: Sentinel is failing over already.
    InProgress "INPROG" => BackOff,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_messages() {
        let moved = ErrorReply::new("MOVED 3999 127.0.0.1:6381");
        assert_eq!((moved.code(), moved.kind(), moved.retry()), ("MOVED", ErrorCode::Moved, Retry::Redirect));
        assert_eq!(moved.message(), "3999 127.0.0.1:6381");
        let own = ErrorReply::new("MY");
        assert_eq!((own.code(), own.kind(), own.retry()), ("MY", ErrorCode::Other, Retry::Never));
        assert_eq!(own.message(), "");
        assert_eq!(ErrorReply::new("ERR max number of clients reached").retry(), Retry::BackOff);
        assert_eq!(ErrorReply::new("ERR syntax error").retry(), Retry::Never);
        assert_eq!(ErrorReply::new(&b"\xff\xfe x"[..]).code(), "");
    }

    #[test]
    fn display_cannot_forge_lines() {
        let error = ErrorReply::new(&b"ERR a\x1b[2Jb\nc\xff\xc3\xa9"[..]);
        assert_eq!(error.to_string(), "ERR a\\u{1b}[2Jb\\nc\\xffé");
    }
}
