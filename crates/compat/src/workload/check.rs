//! Whether a server has the commands of a workload.

use std::collections::BTreeMap;
use std::io::{self, Write};

use keyferry_client::{Connection, Error as ClientError, Frame};
use keyferry_routing::{CommandFlags, CommandTable};
use serde::Serialize;

use super::{Use, Workload};
use crate::Error;
use crate::report::Verdict;
use crate::target::Target;

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

pub(super) fn may_have_several_keys(name: &str) -> bool {
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
