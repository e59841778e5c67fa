//! Commands that become others by a script: a hook on whole commands.
//!
//! A [`Rewrite`] is **given** each command of the stream, and the commands that build each key of the snapshot, behind the filter and the masks.
//! What it **sends** goes over in the place of the command: nothing, the same, another one, or several, all or none of them.
//!
//! **Promises** that what it sends is looked at like what a source sends: it has to be a write that is known, with as many arguments as it
//! needs, and keys that are divided among slots as those of others are; from a shard of a cluster keys stay in their slots, which tell which
//! shard has the last word.
//!
//! A rewriter has to decide by what it is given alone. After an interruption some commands are given to it again.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use keyferry_resp::Command;
use keyferry_routing::{CommandFlags, CommandSpec, CommandTable, Key};

use crate::filter::FilterLine;

/// Names of keys that hold what a migration notes for itself begin so.
const OURS: &[u8] = b"keyferry:";

/// Names shown of each count, and how much of each.
const SAMPLES: usize = 5;
const SAMPLE_BYTES: usize = 100;

/// Makes other commands of commands.
pub trait Rewrite: fmt::Debug + Send + Sync {
    /// Something at work, for one thread.
    ///
    /// # Errors
    /// When it cannot begin, in words.
    fn begin(&self) -> Result<Box<dyn Rewriter>, String>;

    /// What it is called in reports.
    fn name(&self) -> &str;

    /// What tells it from others: two that do not do the same are told apart by it.
    fn fingerprint(&self) -> String;
}

/// See [`Rewrite`].
pub trait Rewriter: fmt::Debug + Send + Sync {
    /// Sends what takes the place of a command.
    ///
    /// # Errors
    /// When it fails, in words: that ends the run.
    fn rewrite(&mut self, seen: &Seen<'_>, sent: &mut Sent) -> Result<(), String>;
}

/// A command on its way.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Seen<'a> {
    /// The database of the source.
    pub db: u64,
    /// It builds a key of the snapshot; else it is of the stream.
    pub in_snapshot: bool,
    /// What is known of the command; nothing for those of modules.
    pub spec: Option<&'a CommandSpec>,
    /// The arguments that are keys.
    pub keys: &'a [usize],
    /// All arguments, the name first.
    pub args: &'a [&'a [u8]],
}

/// What is sent in the place of a command.
#[derive(Debug)]
pub struct Sent {
    commands: Vec<(u64, Command)>,
    bytes: usize,
    most_bytes: usize,
}

impl Sent {
    /// Commands that one call may send.
    pub const MOST_COMMANDS: usize = 10_000;

    /// At most so many bytes of commands.
    fn new(most_bytes: usize) -> Self {
        Sent { commands: Vec::new(), bytes: 0, most_bytes }
    }

    /// Nothing is sent yet, with the same bounds.
    #[cfg(feature = "lua")]
    pub(crate) fn fresh(&self) -> Self {
        Sent::new(self.most_bytes)
    }

    /// Sends a command to a database, by its number at the source.
    ///
    /// # Errors
    /// When it is too much, or none.
    pub fn send<A: AsRef<[u8]>>(&mut self, db: u64, args: &[A]) -> Result<(), String> {
        if args.is_empty() {
            return Err("a command without a name is sent".to_owned());
        }
        if self.commands.len() >= Self::MOST_COMMANDS {
            return Err(format!("more than {} commands are sent in the place of one", Self::MOST_COMMANDS));
        }
        let bytes: usize = args.iter().map(|arg| arg.as_ref().len() + 16).sum();
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.most_bytes {
            return Err(format!("more than {} bytes are sent in the place of one command", self.most_bytes));
        }
        self.commands.push((db, Command::new(args.iter().map(AsRef::as_ref))));
        Ok(())
    }
}

/// What makes other commands of the commands of one migration. It counts what it does, so give each migration one of its own.
#[derive(Debug)]
pub struct Script {
    rewrite: Box<dyn Rewrite>,
    tally: Mutex<Tally>,
}

impl Script {
    /// By this.
    pub fn new(rewrite: impl Rewrite + 'static) -> Self {
        Script { rewrite: Box::new(rewrite), tally: Mutex::default() }
    }

    /// What tells it from others.
    pub(crate) fn fingerprint(&self) -> String {
        self.rewrite.fingerprint()
    }

    /// What it did so far.
    pub fn lines(&self) -> Vec<FilterLine> {
        let rule = format!("script {}", self.rewrite.name());
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).lines(&rule)
    }

    /// The script at work, for one link. `in_shard` tells whether the source is a shard of a cluster.
    pub(crate) fn begin(self: &Arc<Self>, in_shard: bool) -> Result<Rewriting, String> {
        let rewriter = self.rewrite.begin()?;
        Ok(Rewriting {
            script: Arc::clone(self),
            rewriter,
            tally: Tally::default(),
            keys: Vec::new(),
            in_shard,
        })
    }
}

/// What becomes of a command.
#[derive(Debug, PartialEq)]
pub(crate) enum Rewritten {
    AsItIs,
    /// These in its place, each with its database.
    Commands(Vec<(u64, Command)>),
}

/// A script at work.
#[derive(Debug)]
pub(crate) struct Rewriting {
    script: Arc<Script>,
    rewriter: Box<dyn Rewriter>,
    tally: Tally,
    keys: Vec<Key>,
    in_shard: bool,
}

impl Rewriting {
    /// What becomes of a command.
    pub(crate) fn of(
        &mut self,
        table: &CommandTable,
        db: u64,
        in_snapshot: bool,
        args: &[&[u8]],
    ) -> Result<Rewritten, String> {
        // Without it, nobody can tell which arguments are keys; the script may know.
        let spec = table.keys(args, &mut self.keys).ok();
        if spec.is_none() {
            self.keys.clear();
        }
        let indexes: Vec<usize> = self.keys.iter().map(|key| key.index).collect();
        let size: usize = args.iter().map(|arg| arg.len()).sum();
        let mut sent = Sent::new(size.saturating_mul(2).saturating_add(64 << 20));
        let seen = Seen { db, in_snapshot, spec, keys: &indexes, args };
        self.rewriter.rewrite(&seen, &mut sent)?;
        let sample = indexes.first().map_or(args.first(), |&at| args.get(at)).copied().unwrap_or_default();
        let what = match &sent.commands[..] {
            [] => Did::Dropped,
            [(to, command)]
                if *to == db && command.len() == args.len() && command.args().eq(args.iter().copied()) =>
            {
                self.tally.note(in_snapshot, Did::Passed, sample);
                return Ok(Rewritten::AsItIs);
            }
            _ => Did::Replaced,
        };
        self.tally.note(in_snapshot, what, sample);
        let slots = self.in_shard.then(|| {
            indexes.iter().filter_map(|&at| Some(keyferry_routing::slot(args.get(at)?))).collect::<Vec<_>>()
        });
        for (_, command) in &sent.commands {
            check(table, command, slots.as_deref())?;
        }
        Ok(Rewritten::Commands(sent.commands))
    }

    /// Makes what was counted known to all.
    pub(crate) fn tally(&mut self) {
        self.script
            .tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(&std::mem::take(&mut self.tally));
    }
}

/// Refuses what is no write that can be carried out.
fn check(table: &CommandTable, command: &Command, slots: Option<&[u16]>) -> Result<(), String> {
    let shown = || String::from_utf8_lossy(command.name()).into_owned();
    let Some(spec) = table.get(command) else {
        return Err(format!("it sends {}, which is no command that is known", shown()));
    };
    if !spec.takes(command.len()) {
        return Err(format!(
            "it sends {} with {} arguments, which it does not take",
            shown(),
            command.len() - 1
        ));
    }
    let name = spec.name();
    let tells = matches!(name, "publish" | "spublish" | "script|load" | "script|flush");
    let has_meaning_here = !matches!(name, "migrate" | "exec" | "multi" | "select" | "restore-asking");
    if !(table.is_write(command) || tells) || !has_meaning_here {
        return Err(format!("it sends {}, which is no write", shown()));
    }
    if spec.flags().intersects(CommandFlags::BLOCKING) {
        return Err(format!("it sends {}, which would wait", shown()));
    }
    let mut keys = Vec::new();
    table.keys(command, &mut keys).map_err(|error| format!("it sends {}: {error}", shown()))?;
    for key in keys.iter().filter_map(|key| command.arg(key.index)) {
        if key.starts_with(OURS) {
            return Err(format!(
                "it sends {} of \"{}\", where the migration keeps its notes",
                shown(),
                key.escape_ascii()
            ));
        }
        if slots.is_some_and(|slots| !slots.contains(&keyferry_routing::slot(key))) {
            return Err(format!(
                "it sends {} of \"{}\", which is in another slot than the keys of the command, and the source is a cluster, whose slots \
                 tell which shard has the last word: give new names the same hash tag",
                shown(),
                key.escape_ascii()
            ));
        }
    }
    Ok(())
}

/// What was done to a command.
#[derive(Clone, Copy, Debug)]
enum Did {
    Passed,
    Dropped,
    Replaced,
}

/// What a script did: to commands of the snapshot and of the stream.
#[derive(Debug, Default)]
struct Tally([[(u64, Vec<String>); 3]; 2]);

impl Tally {
    const TEXTS: [[&'static str; 3]; 2] = [
        ["commands passed by a script", "commands dropped by a script", "commands replaced by a script"],
        [
            "commands of the snapshot passed by a script",
            "commands of the snapshot dropped by a script",
            "commands of the snapshot replaced by a script",
        ],
    ];

    fn note(&mut self, in_snapshot: bool, did: Did, sample: &[u8]) {
        let (count, samples) = &mut self.0[usize::from(in_snapshot)][did as usize];
        *count += 1;
        if samples.len() < SAMPLES {
            let shown = sample.get(..SAMPLE_BYTES).unwrap_or(sample).escape_ascii().to_string();
            if !samples.contains(&shown) {
                samples.push(shown);
            }
        }
    }

    fn add(&mut self, other: &Tally) {
        for (mine, theirs) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            mine.0 += theirs.0;
            for sample in &theirs.1 {
                if mine.1.len() < SAMPLES && !mine.1.contains(sample) {
                    mine.1.push(sample.clone());
                }
            }
        }
    }

    fn lines(&self, rule: &str) -> Vec<FilterLine> {
        let counted = self.0.iter().flatten().zip(Self::TEXTS.iter().flatten());
        let counted = counted.filter(|((count, _), _)| *count > 0);
        counted
            .map(|((count, samples), what)| FilterLine::new(rule.to_owned(), what, *count, samples.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends what it was made with.
    #[derive(Clone, Debug)]
    struct Always(Vec<(u64, &'static str)>);

    impl Rewrite for Always {
        fn begin(&self) -> Result<Box<dyn Rewriter>, String> {
            Ok(Box::new(self.clone()))
        }

        fn name(&self) -> &str {
            "always"
        }

        fn fingerprint(&self) -> String {
            format!("{:?}", self.0)
        }
    }

    impl Rewriter for Always {
        fn rewrite(&mut self, _seen: &Seen<'_>, sent: &mut Sent) -> Result<(), String> {
            self.0
                .iter()
                .try_for_each(|(db, command)| sent.send(*db, &command.split(' ').collect::<Vec<_>>()))
        }
    }

    fn sent(commands: &[(u64, &'static str)], in_shard: bool) -> Result<Rewritten, String> {
        let script = Arc::new(Script::new(Always(commands.to_vec())));
        let mut rewriting = script.begin(in_shard).unwrap();
        rewriting.of(CommandTable::builtin(), 0, false, &[b"SET", b"{a}1", b"v"])
    }

    #[test]
    fn what_is_sent_is_looked_at() {
        assert_eq!(sent(&[(0, "SET {a}1 v")], true), Ok(Rewritten::AsItIs));
        assert_eq!(sent(&[], true), Ok(Rewritten::Commands(Vec::new())));
        let two = [(0, "SET {a}2 v"), (3, "PUBLISH c {b}")];
        assert!(
            matches!(sent(&two, true), Ok(Rewritten::Commands(commands)) if commands.len() == 2 && commands[1].0 == 3)
        );
        for (command, why) in [
            ("NOBODY.KNOWS a", "no command that is known"),
            ("SET a", "does not take"),
            ("GET a", "no write"),
            ("MULTI", "no write"),
            ("EXEC", "no write"),
            ("SELECT 1", "no write"),
            ("CONFIG SET dir /", "no write"),
            ("SHUTDOWN", "no write"),
            ("BLPOP a 0", "would wait"),
            ("SET keyferry:migration:{x} 1", "keeps its notes"),
            ("EVAL s 9 a", "EVAL"),
        ] {
            let error = sent(&[(0, command)], false).unwrap_err();
            assert!(error.contains(why), "{command}: {error}");
        }
        assert!(sent(&[(0, "SET b v")], true).unwrap_err().contains("another slot"));
        assert!(sent(&[(0, "SET b v")], false).is_ok());
        let many = vec![(0, "SET a v"); Sent::MOST_COMMANDS + 1];
        assert!(sent(&many, false).unwrap_err().contains("more than 10000 commands"));
        let mut little = Sent::new(40);
        assert!(little.send(0, &["SET", "a"]).is_ok() && little.send(0, &["SET", "a"]).is_err());
        assert!(little.send::<&str>(0, &[]).is_err());
    }

    #[test]
    fn what_was_done_is_counted() {
        let script = Arc::new(Script::new(Always(vec![(0, "SET a 1")])));
        for (in_snapshot, args) in
            [(true, [&b"SET"[..], b"a", b"1"]), (false, [b"SET", b"a", b"2"]), (false, [b"SET", b"b", b"1"])]
        {
            let mut rewriting = script.begin(false).unwrap();
            rewriting.of(CommandTable::builtin(), 0, in_snapshot, &args).unwrap();
            rewriting.tally();
        }
        let lines: Vec<_> =
            script.lines().into_iter().map(|line| (line.what, line.count, line.samples.join(" "))).collect();
        assert_eq!(
            lines,
            [
                ("commands replaced by a script", 2, "a b".to_owned()),
                ("commands of the snapshot passed by a script", 1, "a".to_owned())
            ]
        );
    }
}
