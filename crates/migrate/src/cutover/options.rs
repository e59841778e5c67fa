//! How a cutover behaves.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use keyferry_diff::Sample;

use super::gates::Compared;
use crate::error::Error;

/// How writes are stopped at the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopWrites {
    /// By `CLIENT PAUSE … WRITE` (Redis 6.2 and later): writes of all clients wait, reads go on. Nothing keeps clients from writing to
    /// the source when the pause is over, so the switch has to have taken them elsewhere by then: their connections are closed before.
    #[default]
    Pause,
    /// By turning off these users (`ACL SETUSER … off`, Redis 6.0 and later) and closing their connections. They stay off, until they are
    /// turned on again by undoing the cutover or by whoever administers the server. Not kept over a restart of the server unless it is
    /// told to (`ACL SAVE`).
    Acl(Vec<String>),
    /// Somebody else has stopped them: it is made sure that nothing is written for a second.
    Verify,
}

/// What is wrong with a text that should name a [`StopWrites`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no way to stop writes; there are pause, acl:USER[,USER] and verify")]
pub struct UnknownStop(Box<str>);

/// `pause`, `acl:USER[,USER]`, `verify`.
impl FromStr for StopWrites {
    type Err = UnknownStop;

    fn from_str(text: &str) -> Result<Self, UnknownStop> {
        match (text, text.strip_prefix("acl:")) {
            ("pause", _) => Ok(Self::Pause),
            ("verify", _) => Ok(Self::Verify),
            (_, Some(users)) => {
                let users: Vec<String> = users.split(',').map(|user| user.trim().to_owned()).collect();
                let fit = |user: &String| !user.is_empty() && !user.contains(char::is_whitespace);
                if users.iter().all(fit) { Ok(Self::Acl(users)) } else { Err(UnknownStop(text.into())) }
            }
            _ => Err(UnknownStop(text.into())),
        }
    }
}

impl fmt::Display for StopWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pause => f.write_str("pause"),
            Self::Acl(users) => write!(f, "acl:{}", users.join(",")),
            Self::Verify => f.write_str("verify"),
        }
    }
}

/// How equality is shown while writes are stopped.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Verify {
    /// [`Verify::Full`] where there are at most [`Verify::FULL_KEYS`] keys, else [`Verify::Counts`].
    #[default]
    Auto,
    /// Every key of both sides.
    Full,
    /// Every key that a migration's journal says was touched since a full comparison began, at this Unix time in seconds. What
    /// the journal cannot tell by key is compared as a whole.
    Changed {
        /// The journal's directory.
        journal: PathBuf,
        /// When the comparison began: `begun_at` in its result.
        since: i64,
    },
    /// A share of the keys.
    Sample(Sample),
    /// Numbers of keys in each database, and functions. It shows little.
    Counts,
}

impl Verify {
    /// Up to so many keys everything is compared by default: a second or two.
    pub const FULL_KEYS: u64 = 100_000;

    /// [`Verify::Changed`] since a full comparison of which this is the result, as `diff --jsonl` writes it.
    ///
    /// # Errors
    /// [`Error::Cutover`], when it is none.
    pub fn changed(journal: impl Into<PathBuf>, result: &Path) -> Result<Self, Error> {
        let compared = Compared::read(result).map_err(|why| Error::Cutover {
            step: "reading the result of a comparison",
            why: format!("{}: {why}", result.display()),
        })?;
        let since = i64::try_from(compared.begun_at).unwrap_or(i64::MAX);
        Ok(Verify::Changed { journal: journal.into(), since })
    }
}

/// How a cutover behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CutoverOptions {
    /// The name of the migration that is cut over. Default: made from both URLs, as the migration's own.
    pub id: Option<String>,
    /// How long writes may be stopped before everything is put back. Default: 30 s. What the switch takes is not bounded.
    pub window: Duration,
    /// How writes are stopped. Default: [`StopWrites::Pause`].
    pub stop: StopWrites,
    /// By how many bytes of the stream the target may be behind at the beginning. Default: 16 MiB.
    pub max_lag: u64,
    /// The result of a full comparison before: JSON lines, as `diff --jsonl` writes them. Default: none.
    pub proof: Option<PathBuf>,
    /// How old that may be. Default: no bound; the report tells how old it is.
    pub proof_age: Option<Duration>,
    /// What is compared while writes are stopped. Default: [`Verify::Auto`].
    pub verify: Verify,
    /// How far apart the deadlines of a key may lie. Default: not at all, or a second where a server is older than Redis 7.0. Such a source
    /// tells for how long a key lives, not until when: at a target that hears of it late it lives longer by as much.
    pub expiry_tolerance: Duration,
    /// Bytes of `repl-backlog-size` at the target, from which the way back begins, where it has less; 0 leaves it as it is.
    /// It stays so, as the way back needs it until it has begun. Default: 64 MiB.
    pub backlog: u64,
    /// No way back is prepared, and nothing is asked of the target's own replication: for services that let nobody replicate. Whether the
    /// target has been written to since cannot be told then, so that an undo behind the fence is taken on by who asks for it
    /// ([`CutoverOptions::ignore_warnings`]). Default: no.
    pub one_way: bool,
    /// For how long the target's stream is watched for writes of others before writes are stopped. Default: 500 ms.
    pub watch: Duration,
    /// Go on although others write to the target, or keys were evicted there, and undo although nobody can tell whether the target was
    /// written to: the report tells. Default: no.
    pub ignore_warnings: bool,
}

impl Default for CutoverOptions {
    fn default() -> Self {
        CutoverOptions {
            id: None,
            window: Duration::from_secs(30),
            stop: StopWrites::Pause,
            max_lag: 16 << 20,
            proof: None,
            proof_age: None,
            verify: Verify::Auto,
            expiry_tolerance: Duration::ZERO,
            backlog: 64 << 20,
            one_way: false,
            watch: Duration::from_millis(500),
            ignore_warnings: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_stop_are_read_as_they_are_written() {
        for text in ["pause", "verify", "acl:app", "acl:app,batch"] {
            assert_eq!(text.parse::<StopWrites>().unwrap().to_string(), text);
        }
        for bad in ["", "acl:", "acl:a,,b", "acl:a b", "stop"] {
            assert!(bad.parse::<StopWrites>().is_err(), "{bad:?}");
        }
    }
}
