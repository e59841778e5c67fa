//! What is looked at before writes are stopped.

use std::{
    collections::HashSet,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use keyferry_client::Frame;
use keyferry_replication::Position;
use keyferry_routing::CommandTable;

use super::{
    applied::Kept,
    options::{CutoverOptions, Verify},
    report::{Gate, GateVerdict, WritesReport},
    side::Side,
    stop,
    tail::{self, Look},
};
use crate::{
    error::Error,
    identity::MigrationId,
    sharded::{
        join,
        state::{LinkState, Stage, field},
    },
};

/// Connections of others that are named.
const NAMED: usize = 10;

/// Bytes that the last line of a result may have.
const LAST_LINE: u64 = 4 << 20;

/// Connections that have been idle for more seconds are of applications that have gone elsewhere.
const RECENT: u64 = 2;

/// Gates, as they are looked at.
#[derive(Debug, Default)]
pub(super) struct Gates(pub(super) Vec<Gate>);

impl Gates {
    fn add(&mut self, name: &'static str, verdict: GateVerdict, evidence: impl Into<String>) -> &mut Gate {
        self.0.push(Gate { name, verdict, evidence: evidence.into(), remedy: None });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    fn pass(&mut self, name: &'static str, evidence: impl Into<String>) {
        self.add(name, GateVerdict::Pass, evidence);
    }

    fn warn(&mut self, name: &'static str, evidence: impl Into<String>, remedy: impl Into<String>) {
        self.add(name, GateVerdict::Warn, evidence).remedy = Some(remedy.into());
    }

    fn fail(&mut self, name: &'static str, evidence: impl Into<String>, remedy: impl Into<String>) {
        self.add(name, GateVerdict::Fail, evidence).remedy = Some(remedy.into());
    }

    /// Where the target may be worse than it has to be: a warning if somebody said so.
    fn doubt(&mut self, name: &'static str, go_on: bool, evidence: String, remedy: &str) {
        if go_on { self.warn(name, evidence, remedy) } else { self.fail(name, evidence, remedy) }
    }

    /// True when all are open.
    pub(super) fn are_open(&self) -> bool {
        self.0.iter().all(|gate| gate.verdict != GateVerdict::Fail)
    }

    /// Looks at all of them. With `act` what the way back needs is seen to: a backlog at the target.
    ///
    /// # Errors
    /// Those of the connections.
    pub(super) async fn look(
        &mut self,
        (source, target): (&mut Side, &mut Side),
        id: &MigrationId,
        options: &CutoverOptions,
        act: bool,
        foreign: &mut WritesReport,
    ) -> Result<(), Error> {
        let kept = Kept::read(target, id).await?;
        if !self.migration(&kept, id) {
            // Nothing else could be told.
            return Ok(());
        }
        self.link(source, &kept, options).await?;
        self.evicted(target, options).await?;
        self.full_diff(options);
        match stop::objection(source, &options.stop).await? {
            None => self.pass("stop", format!("writes can be stopped by {}", options.stop)),
            Some(why) => self.fail("stop", why, "choose another way with --stop-writes"),
        }
        self.backlog(target, options, act).await?;
        // What is written between single servers bears the sign of the migration: transactions with its position.
        let signed = !source.is_cluster() && !target.is_cluster() && !options.one_way;
        let watched = match signed {
            true => watch(source, target, id, options.watch, foreign).await,
            false => Ok(true),
        };
        if let Ok(false) = watched {
            self.fail(
                "link",
                "the migration begins to copy everything anew: the source no longer had what came next",
                "wait until it has caught up, and raise repl-backlog-size at the source",
            );
        }
        let missed = watched.err().map(|error| error.to_line());
        self.foreign(target, id, (options, signed, missed), foreign).await
    }

    /// False when there is none that could be cut over.
    fn migration(&mut self, kept: &Kept, id: &MigrationId) -> bool {
        const NAME: &str = "migration";
        let state = &kept.state;
        if let Some(why) = state.get(field::FENCE) {
            let remedy = "nothing is left to be done; the way back is cutover --back";
            self.fail(NAME, format!("{id} has been closed at the target: {why}"), remedy);
            return false;
        }
        if state.links().next().is_none() {
            self.fail(
                NAME,
                format!("the target keeps nothing of a migration {id}"),
                "name the migration that is to be cut over (--id), and run it with --until forever and --delivery exactly-once",
            );
            return false;
        }
        match (kept.lease, state.get(field::OWNER)) {
            (Some(_), Some(owner)) => self.pass(NAME, format!("{id} is carried out by {owner}")),
            _ => self.fail(
                NAME,
                format!("nobody carries out {id} now"),
                "start it again: migrate … --until forever",
            ),
        }
        if let Some(changes) = state.get(field::CHANGES).filter(|changes| !changes.is_empty()) {
            self.fail(
                "changes",
                format!("the migration changes what it carries ({changes})"),
                "a way back could not tell what it was: such a migration is ended by hand",
            );
        }
        match state.get(field::REFUSED) {
            None => self.pass("refused", "the target has refused nothing that was left out"),
            Some(refused) => self.fail(
                "refused",
                format!("the target has refused a command: {refused}"),
                "see to it, and run the migration with --skip-refused",
            ),
        }
        true
    }

    async fn link(&mut self, source: &mut Side, kept: &Kept, options: &CutoverOptions) -> Result<(), Error> {
        let standings = source.standings().await?;
        let reached = kept.of(&standings);
        let mut most = 0;
        for ((node, standing), reached) in source.nodes.iter().zip(&standings).zip(&reached) {
            let Some(reached) = reached else {
                self.fail(
                    "link",
                    format!("the target follows no stream of {} ({})", node.name(), standing.id),
                    "wait until the snapshot has been applied; look whether the migration runs without trouble",
                );
                return Ok(());
            };
            most = most.max(standing.offset.saturating_sub(reached.applied));
        }
        self.pass("link", format!("the target follows {} streams of the source", standings.len()));
        let evidence = format!("the target is {most} bytes of the stream behind");
        if most <= options.max_lag {
            self.pass("lag", evidence);
        } else {
            let evidence = format!("{evidence}, more than {}", options.max_lag);
            self.fail("lag", evidence, "wait until it has caught up, or allow more with --max-lag");
        }
        match kept.state.get(field::DEADLINES) {
            Some(field::DEADLINES_HELD) => self.fail(
                "deadlines",
                "the migration holds deadlines back until it ends",
                "run it with --expiry until-caught-up",
            ),
            Some(_) => self.pass("deadlines", "the migration puts deadlines in place when it has caught up"),
            // It is told when the source rests for a moment.
            None => self.pass("deadlines", "not told yet; they are waited for when writes have stopped"),
        }
        Ok(())
    }

    async fn evicted(&mut self, target: &mut Side, options: &CutoverOptions) -> Result<(), Error> {
        let mut evicted = 0_u64;
        for node in &mut target.nodes {
            let info = node.info("stats").await.map_err(Error::Target)?;
            evicted += info.get_as::<u64>("evicted_keys").unwrap_or(0);
        }
        if evicted == 0 {
            self.pass("evicted", "the target has evicted no keys");
        } else {
            self.doubt(
                "evicted",
                options.ignore_warnings,
                format!("the target has evicted {evicted} keys since it was started"),
                "give it memory (maxmemory), compare and repair; CONFIG RESETSTAT forgets what was before",
            );
        }
        Ok(())
    }

    fn full_diff(&mut self, options: &CutoverOptions) {
        const NAME: &str = "full-diff";
        let Some(path) = &options.proof else {
            match options.verify {
                Verify::Full => self.pass(NAME, "everything will be compared while writes are stopped"),
                _ => self.warn(
                    NAME,
                    "no result of a full comparison was given",
                    "compare both sides before (diff --barrier --jsonl FILE) and give the result: --proof FILE",
                ),
            }
            return;
        };
        match Compared::read(path) {
            Err(why) => self.fail(NAME, format!("{}: {why}", path.display()), "compare anew"),
            Ok(Compared { verdict, begun_at, partial }) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
                let age = now.saturating_sub(begun_at);
                let evidence = format!("{verdict}, {} ago", readable(age));
                if verdict != "equal" {
                    self.fail(NAME, evidence, "repair (diff --repair) and compare anew");
                } else if options.proof_age.is_some_and(|most| age > most.as_secs()) {
                    self.fail(NAME, format!("{evidence}: too long"), "compare anew");
                } else if partial {
                    self.warn(NAME, format!("{evidence}; only a part was compared"), "compare everything");
                } else {
                    self.pass(NAME, evidence);
                }
            }
        }
    }

    /// Without a backlog at the target there is nothing that the way back could begin with.
    async fn backlog(&mut self, target: &mut Side, options: &CutoverOptions, act: bool) -> Result<(), Error> {
        const NAME: &str = "backlog";
        if options.one_way {
            self.pass(NAME, "no way back was asked for");
            return Ok(());
        }
        for number in 0..target.nodes.len() {
            let node = &mut target.nodes[number];
            let name = node.name();
            let standing = node.standing().await.map_err(Error::Target)?;
            if act
                && standing.backlog.is_none()
                && let Err(error) = join(&node.connect, &keyferry_replication::LinkOptions::default()).await
            {
                self.fail(
                    NAME,
                    format!("{name} cannot be followed: {}", error.to_line()),
                    "give a user that may replicate (+psync +replconf), or cut over without a way back (--one-way)",
                );
                continue;
            }
            let standing = node.standing().await.map_err(Error::Target)?;
            let size = standing.backlog;
            match size {
                None if act => self.fail(
                    NAME,
                    format!("{name} keeps no backlog, although it was asked for replication"),
                    "see whether its repl-backlog-ttl is very short",
                ),
                None => self.pass(NAME, format!("{name} keeps none yet; it will be asked to")),
                Some(size) if size >= options.backlog => {
                    self.pass(NAME, format!("{name} keeps {size} bytes"))
                }
                Some(size) if !act => {
                    self.pass(NAME, format!("{name} keeps {size} bytes; it will keep {}", options.backlog));
                }
                Some(size) => {
                    let wanted = options.backlog.to_string();
                    match node.call(["CONFIG", "SET", "repl-backlog-size", &wanted]).await {
                        Ok(_) => self.warn(
                            NAME,
                            format!("{name} keeps {wanted} bytes now; before, {size}"),
                            format!("when the way back has begun: CONFIG SET repl-backlog-size {size}"),
                        ),
                        Err(error) if error.server_code().is_some() => self.warn(
                            NAME,
                            format!("{name} keeps {size} bytes, and more was refused ({error})"),
                            "begin the way back at once, or raise repl-backlog-size as the service allows",
                        ),
                        Err(error) => return Err(Error::Target(error)),
                    }
                }
            }
        }
        Ok(())
    }

    /// Others that write to the target.
    async fn foreign(
        &mut self,
        target: &mut Side,
        id: &MigrationId,
        (options, signed, mut missed): (&CutoverOptions, bool, Option<String>),
        foreign: &mut WritesReport,
    ) -> Result<(), Error> {
        const NAME: &str = "foreign-writes";
        for number in 0..target.nodes.len() {
            let node = &mut target.nodes[number];
            let own = node.connection().await.map_err(Error::Target)?.server().connection_id;
            let list = match node.call(["CLIENT", "LIST"]).await {
                Ok(list) => list,
                // Where writes are told by the stream, connections are only named beside.
                Err(error) if error.server_code().is_some() => {
                    if !signed {
                        missed.get_or_insert(error.to_string());
                    }
                    continue;
                }
                Err(error) => return Err(Error::Target(error)),
            };
            for writer in writers(&list, &id.connection_prefix(), own) {
                if !signed {
                    foreign.commands += 1;
                }
                if foreign.samples.len() < NAMED {
                    foreign.samples.push(format!("{}: {writer}", node.name()));
                }
            }
        }
        if let Some(why) = missed {
            self.warn(
                NAME,
                format!("nobody can tell whether others write to the target: {why}"),
                "cut over when the target is less behind, raise repl-backlog-size at the source, or give the user +client|list",
            );
        } else if foreign.commands == 0 {
            self.pass(NAME, "nobody else was seen writing to the target");
        } else {
            self.doubt(
                NAME,
                options.ignore_warnings,
                format!("others write to the target: {}", foreign.samples.join("; ")),
                "stop them, compare and repair: what they write is not at the source",
            );
        }
        Ok(())
    }
}

/// Looks for writes of others in what the target writes within some time, between single servers. False when the migration itself
/// has begun with a snapshot meanwhile.
async fn watch(
    source: &mut Side,
    target: &mut Side,
    id: &MigrationId,
    time: Duration,
    foreign: &mut WritesReport,
) -> Result<bool, Error> {
    let standings = source.standings().await?;
    let kept = Kept::read(target, id).await?;
    let reached = kept.of(&standings);
    let begun = target.standings().await?;
    if begun.iter().any(|standing| standing.backlog.is_none()) {
        return Ok(true);
    }
    tokio::time::sleep(time).await;
    let ended = target.standings().await?;
    if streams(&Kept::read(target, id).await?) != streams(&kept) {
        return Ok(false);
    }
    // What goes ahead of its transaction is behind the position that was there before.
    let mut keys = HashSet::new();
    for ((node, standing), reached) in source.nodes.iter_mut().zip(&standings).zip(reached) {
        let Some(reached) = reached else { continue };
        let now = node.standing().await.map_err(Error::SourceConnection)?;
        let from = Position::after_snapshot(standing.id, reached.applied);
        keys.extend(tail::read(node, &from, now.offset, Look::Keys).await?.keys);
    }
    let state = id.state_key();
    for ((node, begun), ended) in target.nodes.iter().zip(&begun).zip(&ended) {
        let from = Position::after_snapshot(begun.id, begun.offset);
        let tail = tail::read(node, &from, ended.offset, Look::Others(state.as_bytes(), &keys)).await?;
        foreign.commands += tail.writes_beside(u64::MAX);
        foreign.samples.extend(tail.samples);
    }
    Ok(true)
}

/// The links that are in their streams, and of which full sync.
fn streams(kept: &Kept) -> Vec<(String, u64)> {
    let of = |(name, link): (&str, LinkState)| match link.stage {
        Stage::Stream(_) => Some((name.to_owned(), link.epoch)),
        Stage::Snapshot(_) => None,
    };
    kept.state.links().filter_map(of).collect()
}

/// Connections of others whose last command was a write, for people.
fn writers(list: &Frame, prefix: &str, own: Option<i64>) -> Vec<String> {
    let text = String::from_utf8_lossy(list.as_bytes().map_or(&[][..], |bytes| bytes)).into_owned();
    let word = |line: &str, name: &str| {
        line.split(' ').find_map(|word| word.strip_prefix(name).map(str::to_owned)).unwrap_or_default()
    };
    let own = own.map(|id| id.to_string()).unwrap_or_default();
    let table = CommandTable::builtin();
    let is_writer = |line: &&str| {
        let command = word(line, "cmd=").replace('|', " ");
        let name = command.split(' ').next().unwrap_or_default().to_owned();
        let flags = word(line, "flags=");
        !word(line, "name=").starts_with(prefix)
            && word(line, "id=") != own
            && !flags.contains('S')
            && !flags.contains('M')
            && table.get(&[name.as_bytes()][..]).is_some()
            && word(line, "idle=").parse().is_ok_and(|idle: u64| idle <= RECENT)
            && table.is_write(&[name.as_bytes()][..])
    };
    text.lines()
        .filter(is_writer)
        .map(|line| {
            let (address, name, command) = (word(line, "addr="), word(line, "name="), word(line, "cmd="));
            format!("a connection from {address} (name \"{name}\") whose last command was {command}")
        })
        .collect()
}

/// The result of a comparison.
#[derive(Debug)]
pub(super) struct Compared {
    verdict: String,
    pub(super) begun_at: u64,
    /// Not everything was compared.
    partial: bool,
}

impl Compared {
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let end = end_of(path).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&end);
        let last = text.lines().next_back().unwrap_or_default();
        let wrong = || "it is no --jsonl file of a comparison that ended".to_owned();
        let end: serde_json::Value = serde_json::from_str(last).map_err(|_| wrong())?;
        let verdict = end.get("verdict").and_then(|verdict| verdict.as_str()).ok_or_else(wrong)?.to_owned();
        let report = end.get("report").ok_or_else(wrong)?;
        let begun_at = report.get("begun_at").and_then(|at| at.as_u64()).ok_or_else(wrong)?;
        let full = report.get("depth").and_then(|depth| depth.as_str()) == Some("full");
        let selected = report.get("selected").and_then(|selected| selected.as_bool()) == Some(true);
        let sampled = report.get("sample").is_some_and(|sample| !sample.is_null());
        Ok(Compared { verdict, begun_at, partial: !full || selected || sampled })
    }
}

/// The end of a file: there may be millions of differences before it.
fn end_of(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_LINE)))?;
    let mut end = Vec::new();
    file.take(LAST_LINE).read_to_end(&mut end)?;
    Ok(end)
}

fn readable(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_is_told_from_who_reads() {
        let list = "id=3 addr=1.2.3.4:5 name=keyferry:x:tok flags=N idle=0 cmd=exec\n\
                    id=4 addr=1.2.3.4:6 name= flags=N idle=1 cmd=set\nid=5 addr=1.2.3.4:7 name=mon flags=N idle=0 cmd=get\n\
                    id=6 addr=1.2.3.4:8 name= flags=S idle=0 cmd=replconf\nid=7 addr=1.2.3.4:9 name= flags=N idle=0 cmd=hset\n\
                    id=8 addr=1.2.3.4:9 name= flags=N idle=60 cmd=set\n\
                    id=9 addr=1.2.3.4:9 name= flags=N idle=0 cmd=NULL\n";
        let frame = Frame::from(bytes::Bytes::copy_from_slice(list.as_bytes()));
        let found = writers(&frame, "keyferry:x:", Some(7));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("1.2.3.4:6") && found[0].contains("set"), "{found:?}");
    }

    #[test]
    fn results_of_comparisons_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("full.jsonl");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Compared::read(&path)
        };
        let end =
            r#"{"verdict":"equal","report":{"begun_at":17,"depth":"full","selected":false,"sample":null}}"#;
        let compared = read(&format!("{{\"db\":0}}\n{end}\n")).unwrap();
        assert_eq!((compared.verdict.as_str(), compared.begun_at, compared.partial), ("equal", 17, false));
        let long = format!("{}\n{end}\n", "x".repeat(5 << 20));
        assert_eq!(read(&long).unwrap().begun_at, 17);
        assert!(read(&end.replace("false", "true")).unwrap().partial);
        assert!(read(&end.replace("\"full\"", "\"length\"")).unwrap().partial);
        for bad in ["", "{}", "{\"verdict\":\"equal\"}", "x"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
