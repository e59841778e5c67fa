//! Which commands an application really uses, and whether another server has them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};

use bytes::BytesMut;
use keyferry_client::{Connection, Error as ClientError, Frame, Info};
use keyferry_resp::CommandDecoder;
use keyferry_routing::{Arguments, CommandFlags, CommandTable, slot};
use serde::Serialize;

use crate::Error;
use crate::report::Verdict;
use crate::target::Target;

/// Examples that are kept of one command.
const EXAMPLES: usize = 3;
/// Bytes of a key that are shown.
const SHOWN_KEY: usize = 60;
/// Keys that are shown of one example.
const SHOWN_KEYS: usize = 4;
/// Bytes that are read at once.
const BLOCK: usize = 64 << 10;
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

    /// Counts the commands of a stream: an append-only file without a snapshot in front, an incremental file of a
    /// directory of such, a journal, or requests that were captured. Lines that begin with `#` are notes of servers.
    ///
    /// # Errors
    ///
    /// [`Error::Stream`] with the offset when it is something else, or is damaged. A command that is cut off in the end is
    /// not counted and no error.
    pub fn read(&mut self, name: &str, mut input: impl Read) -> Result<u64, Error> {
        let problem = |offset: u64, problem: String| Error::Stream { name: name.to_owned(), offset, problem };
        let mut buffer = BytesMut::new();
        let mut decoder = CommandDecoder::new().inline(false);
        let (mut count, mut base, mut first) = (0, 0, true);
        let mut block = vec![0; BLOCK];
        loop {
            let read = match input.read(&mut block) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(problem(base + decoder.offset(), error.to_string())),
            };
            if read == 0 {
                return Ok(count);
            }
            buffer.extend_from_slice(&block[..read]);
            if std::mem::take(&mut first) && (buffer.starts_with(b"REDIS") || buffer.starts_with(b"VALKEY")) {
                let what = "it begins with a snapshot, which holds no commands: give the part behind it, or the incremental file";
                return Err(problem(0, what.to_owned()));
            }
            loop {
                // Between commands only: inside of one, the decoder is in charge.
                if buffer.first() == Some(&b'#') && !decoder.is_mid_command() {
                    let Some(end) = buffer.iter().position(|&byte| byte == b'\n') else {
                        if buffer.len() > BLOCK {
                            return Err(problem(base + decoder.offset(), "a line without an end".to_owned()));
                        }
                        break;
                    };
                    let _ = buffer.split_to(end + 1);
                    base += end as u64 + 1;
                    continue;
                }
                match decoder.decode(&mut buffer) {
                    Ok(Some(command)) => {
                        count += 1;
                        self.observe(&command);
                    }
                    Ok(None) => break,
                    Err(error) => return Err(problem(base + decoder.offset(), error.to_string())),
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

/// What a workload asks of a server, command by command.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct WorkloadReport {
    /// The server that should take it over.
    pub target: String,
    /// Whether it is a cluster.
    pub cluster: bool,
    /// The commands, those used most first.
    pub rows: Vec<WorkloadRow>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// One command of a [`WorkloadReport`].
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct WorkloadRow {
    /// Its name in lower case, `container|subcommand`.
    pub command: String,
    /// How often it was used.
    pub calls: u64,
    /// Whether the target has it.
    pub supported: Support,
    /// How many arguments it takes at the source and at the target, as `COMMAND INFO` gives it, where that differs.
    pub arity: Option<(i64, i64)>,
    /// Flags that only the source's has.
    pub flags_lost: Vec<String>,
    /// Flags that only the target's has.
    pub flags_gained: Vec<String>,
    /// Since when the target calls it deprecated.
    pub deprecated_since: Option<String>,
    /// Whether a cluster takes it.
    pub keys: KeyUse,
    /// Keys of commands that had them in several slots.
    pub examples: Vec<String>,
}

/// Whether a server has a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Support {
    /// It has.
    Yes,
    /// It has not.
    No,
    /// It has the container, and does not tell of subcommands (before 7.0).
    ContainerOnly,
}

/// How the keys of a command lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeyUse {
    /// It has none, or one.
    AtMostOne,
    /// It was seen, and its keys were always in one slot.
    OneSlot,
    /// It was seen with keys in several slots: a cluster refuses that.
    SeveralSlots {
        /// How often.
        times: u64,
        /// Of so many that were seen.
        of: u64,
    },
    /// It may have several keys, and nobody saw them.
    NotSeen,
}

/// Asks both servers what they know of the commands of a workload. Data is not touched: only `COMMAND INFO` and
/// `COMMAND DOCS` are sent.
///
/// Without a source, arity and flags are those of the table of commands that this crate has.
///
/// # Errors
///
/// [`Error::Client`], [`Error::Refused`] when the target does not answer `COMMAND INFO`.
pub async fn check(
    workload: &Workload,
    source: Option<&Target>,
    target: &Target,
) -> Result<WorkloadReport, Error> {
    let names: Vec<&str> = workload.uses.keys().map(String::as_str).collect();
    let mut notes = Vec::new();
    let theirs = facts(target, &names).await?;
    let docs = docs(target, &names).await;
    let ours = match source {
        None => BTreeMap::new(),
        Some(source) => match facts(source, &names).await {
            Ok(facts) => facts,
            Err(error) => {
                notes.push(format!("the source does not tell of its commands: {error}"));
                BTreeMap::new()
            }
        },
    };
    let mut rows: Vec<WorkloadRow> = workload
        .uses
        .iter()
        .map(|(name, used)| {
            row(name, used, ours.get(name).cloned(), theirs.get(name), docs.get(name).cloned())
        })
        .collect();
    rows.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.command.cmp(&b.command)));
    if workload.beyond > 0 {
        notes.push(format!("{} uses of further commands were not looked at", workload.beyond));
    }
    if rows.is_empty() {
        notes.push("no command was used".to_owned());
    }
    Ok(WorkloadReport {
        target: format!("{} at {}", target.server(), target.place()),
        cluster: target.is_cluster(),
        rows,
        notes,
    })
}

fn row(
    name: &str,
    used: &Use,
    ours: Option<Facts>,
    theirs: Option<&Facts>,
    deprecated: Option<String>,
) -> WorkloadRow {
    let spec = CommandTable::builtin().named(name);
    let ours = ours.or_else(|| {
        let spec = spec?;
        let flags = spec.flags().names().map(str::to_owned).collect();
        Some(Facts { arity: i64::from(spec.arity()), flags, container: false, builtin: true })
    });
    let supported = match theirs {
        None => Support::No,
        Some(facts) if facts.container => Support::ContainerOnly,
        Some(_) => Support::Yes,
    };
    let comparable =
        theirs.filter(|facts| !facts.container).zip(ours.as_ref().filter(|facts| !facts.container));
    let (mut arity, mut lost, mut gained) = (None, Vec::new(), Vec::new());
    if let Some((theirs, ours)) = comparable {
        if theirs.arity != ours.arity {
            arity = Some((ours.arity, theirs.arity));
        }
        // The table has the flags of several servers in one: they say nothing of the source.
        if !ours.builtin {
            lost = ours.flags.iter().filter(|flag| !theirs.flags.contains(flag)).cloned().collect();
            gained = theirs.flags.iter().filter(|flag| !ours.flags.contains(flag)).cloned().collect();
        }
    }
    let keys = if used.several_slots > 0 {
        KeyUse::SeveralSlots { times: used.several_slots, of: used.seen }
    } else if !may_have_several_keys(name) {
        KeyUse::AtMostOne
    } else if used.seen > 0 && used.seen == used.calls {
        KeyUse::OneSlot
    } else {
        KeyUse::NotSeen
    };
    WorkloadRow {
        command: name.to_owned(),
        calls: used.calls,
        supported,
        arity,
        flags_lost: lost,
        flags_gained: gained,
        deprecated_since: deprecated,
        keys,
        examples: used.examples.clone(),
    }
}

fn may_have_several_keys(name: &str) -> bool {
    use keyferry_routing::{Begin, Find};
    let Some(spec) = CommandTable::builtin().named(name) else { return true };
    let single = |one: &keyferry_routing::KeySpec| {
        matches!((&one.begin, &one.find), (Begin::Index(_), Find::Range { last: 0, .. }))
    };
    match spec.key_specs() {
        [] => spec.flags().contains(CommandFlags::MOVABLEKEYS),
        [one] => !single(one),
        _ => true,
    }
}

/// What a server says of one command.
#[derive(Clone, Debug)]
struct Facts {
    arity: i64,
    flags: Vec<String>,
    /// These are of the container; the server does not tell of the subcommand.
    container: bool,
    /// These are from our own table.
    builtin: bool,
}

async fn facts(target: &Target, names: &[&str]) -> Result<BTreeMap<String, Facts>, Error> {
    let mut connection = Connection::connect(&target.options).await?;
    let mut facts = BTreeMap::new();
    let told = command_info(&mut connection, target, names).await?;
    let mut containers: Vec<&str> = Vec::new();
    for (name, told) in names.iter().zip(told) {
        match told {
            Some(fact) => {
                facts.insert((*name).to_owned(), fact);
            }
            None if name.contains('|') => containers.push(name),
            None => {}
        }
    }
    // Before 7.0 only containers are known. From 7.0 on, a subcommand that is not told of is not there.
    let knows_subcommands = command_info(&mut connection, target, &["config|get"]).await?;
    if matches!(knows_subcommands.first(), Some(None)) {
        let short: Vec<&str> = containers.iter().filter_map(|name| name.split('|').next()).collect();
        for (name, told) in containers.iter().zip(command_info(&mut connection, target, &short).await?) {
            if let Some(fact) = told {
                facts.insert((*name).to_owned(), Facts { container: true, ..fact });
            }
        }
    }
    Ok(facts)
}

async fn command_info(
    connection: &mut Connection,
    target: &Target,
    names: &[&str],
) -> Result<Vec<Option<Facts>>, Error> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let command: Vec<&str> = ["COMMAND", "INFO"].into_iter().chain(names.iter().copied()).collect();
    let reply = connection.call_frame(&command).await?;
    let Some(items) = reply.as_array().filter(|items| items.len() == names.len()) else {
        let said =
            reply.error_reply().map_or("a reply of another form".to_owned(), |error| error.to_string());
        return Err(Error::Refused { server: target.place(), doing: "COMMAND INFO".to_owned(), reply: said });
    };
    Ok(items
        .iter()
        .map(|item| {
            let parts = item.as_array()?;
            let flags = parts.get(2).and_then(Frame::as_array).unwrap_or_default();
            Some(Facts {
                arity: parts.get(1)?.as_i64()?,
                flags: flags.iter().filter_map(|flag| flag.as_str().map(str::to_owned)).collect(),
                container: false,
                builtin: false,
            })
        })
        .collect())
}

/// Since when commands are deprecated, as far as the server tells (7.0).
async fn docs(target: &Target, names: &[&str]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let asked: Result<Frame, ClientError> = async {
        let mut connection = Connection::connect(&target.options).await?;
        let command: Vec<&str> = ["COMMAND", "DOCS"].into_iter().chain(names.iter().copied()).collect();
        connection.call(&command).await
    }
    .await;
    let Ok(reply) = asked else { return found };
    let Some(pairs) = reply.as_pairs() else { return found };
    for (name, facts) in pairs {
        if let (Some(name), Some(since)) =
            (name.as_str(), facts.get("deprecated_since").and_then(Frame::as_str))
        {
            found.insert(name.to_owned(), since.to_owned());
        }
    }
    found
}

impl WorkloadRow {
    /// Whether the target cannot take it over.
    pub fn is_problem(&self, cluster: bool) -> bool {
        self.supported == Support::No || (cluster && matches!(self.keys, KeyUse::SeveralSlots { .. }))
    }
}

impl WorkloadReport {
    /// Whether the target has every command that is used, and if it is a cluster takes each as it was seen.
    pub fn verdict(&self) -> Verdict {
        if self.rows.is_empty() {
            Verdict::Unknown
        } else if self.rows.iter().any(|row| row.is_problem(self.cluster)) {
            Verdict::Failed
        } else {
            Verdict::Passed
        }
    }

    /// Writes a table for people.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "target    {}\n", self.target)?;
        let width = self.rows.iter().map(|row| row.command.len()).max().unwrap_or(0).max(7);
        writeln!(out, "{:<width$}  {:>12}  supported  keys in a cluster", "command", "calls")?;
        for row in &self.rows {
            let supported = match row.supported {
                Support::Yes => "yes",
                Support::No => "NO",
                Support::ContainerOnly => "container",
            };
            let keys = match row.keys {
                KeyUse::AtMostOne => "fine".to_owned(),
                KeyUse::OneSlot => "in one slot".to_owned(),
                KeyUse::SeveralSlots { times, of } => format!("SEVERAL SLOTS in {times} of {of}"),
                KeyUse::NotSeen => "may be in several slots".to_owned(),
            };
            write!(out, "{:<width$}  {:>12}  {supported:<9}  {keys}", row.command, row.calls)?;
            if let Some((ours, theirs)) = row.arity {
                write!(out, "; arity {ours} becomes {theirs}")?;
            }
            for (word, flags) in [("without", &row.flags_lost), ("with", &row.flags_gained)] {
                if !flags.is_empty() {
                    write!(out, "; {word} {}", flags.join(", "))?;
                }
            }
            if let Some(since) = &row.deprecated_since {
                write!(out, "; deprecated since {since}")?;
            }
            writeln!(out)?;
            for example in &row.examples {
                writeln!(out, "{:<width$}  for example {example}", "")?;
            }
        }
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        let missing = self.rows.iter().filter(|row| row.supported == Support::No).count();
        let several = self.rows.iter().filter(|row| matches!(row.keys, KeyUse::SeveralSlots { .. })).count();
        writeln!(
            out,
            "\n{} commands used; the target lacks {missing}; {several} with keys in several slots{}",
            self.rows.len(),
            if self.cluster { ", which it refuses" } else { "" }
        )
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
    use super::*;

    #[test]
    fn streams_are_counted_with_notes_between_their_commands() {
        let mut stream = b"#TS:1700000000\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n".to_vec();
        stream
            .extend_from_slice(b"*5\r\n$4\r\nMSET\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n#TS:1\r\n");
        stream.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$1\r\n#\r\n$3\r\n#1\n\r\n*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$1\r\nx\r\n*2\r\n$3\r\nGE");
        let mut whole = Workload::new();
        assert_eq!(whole.read("f", &stream[..]).unwrap(), 4);
        // One byte at a time.
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
                into[0] = *first;
                self.0 = rest;
                Ok(1)
            }
        }
        let mut slow = Workload::new();
        assert_eq!(slow.read("f", Slow(&stream)).unwrap(), 4);
        for workload in [&whole, &slow] {
            let names: Vec<&str> = workload.uses.keys().map(String::as_str).collect();
            assert_eq!(names, ["config|get", "mset", "select", "set"]);
            assert_eq!(workload.uses["mset"].several_slots, 1);
            assert_eq!(workload.uses["mset"].examples, ["a b"]);
            assert_eq!(workload.uses["set"].one_slot, 1);
        }
    }

    #[test]
    fn what_is_no_stream_is_told() {
        let error = Workload::new().read("dump.rdb", &b"REDIS0011"[..]).unwrap_err().to_string();
        assert!(error.contains("dump.rdb: offset 0: it begins with a snapshot"), "{error}");
        let error = Workload::new().read("x", &b"*1\r\n$4\r\nPING\r\nGET a\r\n"[..]).unwrap_err().to_string();
        assert!(error.contains("x: offset 14"), "{error}");
    }

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
