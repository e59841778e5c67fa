//! Which commands an application really uses, and whether another server has them.

mod check;
mod stream;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use keyferry_client::Info;
use keyferry_routing::{Arguments, CommandTable, slot};

pub use self::check::{KeyUse, Support, WorkloadReport, WorkloadRow, check};
pub use self::stream::StreamRead;

/// Examples that are kept of one command.
const EXAMPLES: usize = 3;
/// Bytes of a key that are shown.
const SHOWN_KEY: usize = 60;
/// Keys that are shown of one example.
const SHOWN_KEYS: usize = 4;
/// Different names of commands that are counted; what is beyond is counted together.
const NAMES: usize = 10_000;

/// The commands that were used, with how often, and how their keys lie in slots where that was seen.
///
/// ```
/// use keyferry_compat::Workload;
///
/// let mut workload = Workload::new();
/// workload.observe(&["MSET", "a", "1", "b", "2"]);
/// workload.read("capture", &b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"[..])?;
/// assert_eq!(workload.commands(), 2);
/// # Ok::<(), keyferry_compat::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Workload {
    uses: BTreeMap<String, Use>,
    /// Uses of commands beyond the most names.
    beyond: u64,
}

#[derive(Clone, Debug, Default)]
struct Use {
    calls: u64,
    /// Of these, the arguments were seen.
    seen: u64,
    one_slot: u64,
    several_slots: u64,
    examples: Vec<String>,
}

impl Workload {
    /// Nothing used yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many different commands there are.
    pub fn commands(&self) -> usize {
        self.uses.len()
    }

    /// Counts one command. Of its arguments only keys are kept, as examples of commands whose keys are in several slots.
    pub fn observe<A: Arguments + ?Sized>(&mut self, args: &A) {
        let mut keys = Vec::new();
        let table = CommandTable::builtin();
        let spec = table.keys(args, &mut keys).ok().or_else(|| table.get(args));
        let name = match spec {
            Some(spec) => spec.name().to_owned(),
            None => printable(args.argument(0).unwrap_or_default()).to_lowercase(),
        };
        let Some(used) = self.used(name) else { return };
        used.calls += 1;
        used.seen += 1;
        let mut slots = keys.iter().filter_map(|key| args.argument(key.index)).map(slot);
        let Some(first) = slots.next() else { return };
        if slots.all(|other| other == first) {
            used.one_slot += 1;
            return;
        }
        used.several_slots += 1;
        if used.examples.len() < EXAMPLES {
            let shown = keys.iter().filter_map(|key| args.argument(key.index)).take(SHOWN_KEYS);
            let mut example = shown.map(printable).collect::<Vec<_>>().join(" ");
            if keys.len() > SHOWN_KEYS {
                let _ = write!(example, " … ({} keys)", keys.len());
            }
            used.examples.push(example);
        }
    }

    /// Counts what a server counted: `INFO commandstats`. How keys lie cannot be seen from it.
    pub fn add_commandstats(&mut self, info: &Info) {
        for section in info.sections() {
            for (key, value) in &section.properties {
                let Some(name) = key.strip_prefix("cmdstat_") else { continue };
                let calls = value.split(',').find_map(|field| field.strip_prefix("calls="));
                let Some(calls) = calls.and_then(|calls| calls.parse::<u64>().ok()) else { continue };
                if let Some(used) = self.used(printable(name.as_bytes()).to_lowercase()) {
                    used.calls += calls;
                }
            }
        }
    }

    fn used(&mut self, name: String) -> Option<&mut Use> {
        if self.uses.len() >= NAMES && !self.uses.contains_key(&name) {
            self.beyond += 1;
            return None;
        }
        Some(self.uses.entry(name).or_default())
    }
}

fn printable(bytes: &[u8]) -> String {
    let shown = bytes.get(..SHOWN_KEY.min(bytes.len())).unwrap_or_default();
    let mut text = shown.escape_ascii().to_string();
    if shown.len() < bytes.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::check::may_have_several_keys;
    use super::*;

    #[test]
    fn statistics_are_counted() {
        let info = Info::parse(b"# Commandstats\r\ncmdstat_get:calls=12,usec=1\r\ncmdstat_config|get:calls=3,usec=1\r\nother:1\r\n");
        let mut workload = Workload::new();
        workload.add_commandstats(&info);
        assert_eq!(workload.uses["get"].calls, 12);
        assert_eq!(workload.commands(), 2);
        assert!(
            !may_have_several_keys("get") && may_have_several_keys("mset") && may_have_several_keys("eval")
        );
        assert!(!may_have_several_keys("ping") && may_have_several_keys("a.module"));
    }

    #[test]
    fn names_are_bounded() {
        let mut workload = Workload::new();
        for n in 0..NAMES + 5 {
            workload.observe(&[format!("made-up-{n}")]);
        }
        assert_eq!((workload.commands(), workload.beyond), (NAMES, 5));
    }
}
