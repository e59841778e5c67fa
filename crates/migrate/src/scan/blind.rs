//! What no event tells, seen from how often commands were called.

use keyferry_client::{Connection, Error as ClientError, Frame, Info};

/// Calls of the commands that change something without an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Blind {
    /// `FLUSHALL` and `FLUSHDB`.
    flushes: u64,
    /// `SWAPDB`.
    swaps: u64,
    /// `FUNCTION LOAD` and its like.
    functions: u64,
    /// Who has which entries of streams pending.
    groups: u64,
}

/// What has happened between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) flushed: bool,
    pub(super) swapped: bool,
    pub(super) functions: bool,
    pub(super) groups: bool,
}

impl Blind {
    /// Asks a server; `None` where it does not say.
    pub(super) async fn look(connection: &mut Connection) -> Result<Option<Self>, ClientError> {
        let reply: Frame = connection.call_frame(["INFO", "commandstats"]).await?;
        Ok(Info::from_frame(&reply).map(|info| Self::of(&info)))
    }

    fn of(info: &Info) -> Self {
        let mut blind = Blind::default();
        for (_, key, _) in info.iter() {
            let Some(name) = key.strip_prefix("cmdstat_") else { continue };
            let Some(calls) = info.field(key, "calls").and_then(|calls| calls.parse::<u64>().ok()) else {
                continue;
            };
            let count = match name.to_ascii_lowercase().as_str() {
                "flushall" | "flushdb" => &mut blind.flushes,
                "swapdb" => &mut blind.swaps,
                "function|load" | "function|delete" | "function|flush" | "function|restore" => {
                    &mut blind.functions
                }
                "xack" | "xclaim" | "xautoclaim" | "xreadgroup" | "xackdel" | "xdelex" | "xnack" => {
                    &mut blind.groups
                }
                _ => continue,
            };
            *count += calls;
        }
        blind
    }

    /// What has happened since an earlier look. Counts that were reset tell nothing, and count as everything.
    pub(super) fn since(&self, before: &Self) -> Happened {
        Happened {
            flushed: self.flushes != before.flushes,
            swapped: self.swaps != before.swaps,
            functions: self.functions != before.functions,
            groups: self.groups != before.groups,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart() {
        let look = |text: &str| Blind::of(&Info::parse(text.as_bytes()));
        let before = look("# Commandstats\r\ncmdstat_get:calls=1,usec=1\r\ncmdstat_xack:calls=2,usec=1\r\n");
        let after = look("# Commandstats\r\ncmdstat_get:calls=9,usec=1\r\ncmdstat_xack:calls=2,usec=1\r\n");
        assert_eq!(after.since(&before), Happened::default());
        let after = look(
            "cmdstat_xack:calls=3,usec=1\r\ncmdstat_swapdb:calls=1,usec=2\r\ncmdstat_flushdb:calls=1\r\n",
        );
        let all = Happened { flushed: true, swapped: true, functions: false, groups: true };
        assert_eq!(after.since(&before), all);
        assert!(look("cmdstat_function|load:calls=1,usec=1\r\n").since(&Blind::default()).functions);
    }
}
