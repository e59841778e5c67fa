//! A command that a target refused, as it is told to a person.

/// A command that the target refused, exactly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub struct Refusal {
    /// The target's address.
    pub address: String,
    /// What it replied.
    pub reply: String,
    /// The command, long arguments shortened, bytes that are not text escaped.
    pub command: String,
    /// The database it was meant for, if known.
    pub db: Option<u64>,
    /// Where it came from.
    pub origin: RefusedAt,
    /// What came behind it in the same transaction has been executed all the same: servers go on there.
    pub passed: bool,
}

/// Where a refused command came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusedAt {
    /// The snapshot.
    Snapshot,
    /// The command stream: the offset of the last byte before the command.
    Stream {
        /// Replication offset.
        offset: u64,
    },
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "target {} refused ", self.address)?;
        match self.origin {
            RefusedAt::Snapshot => f.write_str("a command of the snapshot")?,
            RefusedAt::Stream { offset } => write!(f, "the command after replication offset {offset}")?,
        }
        if let Some(db) = self.db {
            write!(f, " (database {db})")?;
        }
        write!(f, ": {} — the command was: {}{}", self.reply, self.command, advice(&self.reply))
    }
}

/// What a person can do about a refusal.
fn advice(reply: &str) -> &'static str {
    let code = reply.split(' ').next().unwrap_or_default();
    match code {
        "OOM" => "; give the target more memory (maxmemory) and migrate again",
        "READONLY" => "; the target became a replica: give the address of its primary",
        "NOPERM" => "; the target's user lacks a permission",
        "MISCONF" => "; the target cannot persist and refuses writes: see its log",
        "CROSSSLOT" => "; its keys are in several slots of the target, which is a cluster",
        "MOVED" | "ASK" | "CLUSTERDOWN" => {
            "; the target has become a cluster, or its slots do not come to rest: give its address as redis+cluster://"
        }
        _ if reply.contains("DB index is out of range") => {
            "; the target has fewer databases than the source uses: raise `databases` in its configuration"
        }
        _ if reply.contains("Bad data format") => {
            "; the target does not know this value's encoding: it is older than the source, or of another vendor"
        }
        _ => "",
    }
}

/// Shows a command's arguments for a person: at most `MAX_ARGS`, each at most `MAX_ARG` bytes.
pub(crate) fn show_command<'a>(args: impl Iterator<Item = &'a [u8]>, len: usize) -> String {
    const MAX_ARGS: usize = 12;
    const MAX_ARG: usize = 80;
    let mut out = String::new();
    for arg in args.take(MAX_ARGS) {
        if !out.is_empty() {
            out.push(' ');
        }
        let shown = &arg[..arg.len().min(MAX_ARG)];
        let plain = !shown.is_empty() && shown.iter().all(|b| b.is_ascii_graphic() && *b != b'"');
        if plain {
            out.extend(shown.iter().map(|&b| char::from(b)));
        } else {
            out.push('"');
            out.push_str(&shown.escape_ascii().to_string());
            out.push('"');
        }
        if arg.len() > MAX_ARG {
            out.push_str(&format!("…({} bytes)", arg.len()));
        }
    }
    if len > MAX_ARGS {
        out.push_str(&format!(" …({len} arguments)"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_short_and_without_control_bytes() {
        let long = vec![b'x'; 500];
        let args: [&[u8]; 4] = [b"SET", b"k\x00\xff", b"", &long];
        let shown = show_command(args.into_iter(), 4);
        assert!(shown.starts_with(r#"SET "k\x00\xff" "" xxxx"#), "{shown}");
        assert!(shown.ends_with("…(500 bytes)"), "{shown}");
        let many: Vec<&[u8]> = vec![b"a"; 40];
        assert!(show_command(many.iter().copied(), 40).ends_with("…(40 arguments)"));
    }
}
