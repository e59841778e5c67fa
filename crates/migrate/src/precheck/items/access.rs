//! Permissions of both users, found by trial.

use std::collections::BTreeMap;

use keyferry_client::{Error, ServerInfo, Vendor, Version};
use keyferry_routing::{CommandFlags, CommandTable};

use crate::precheck::{
    Finding, Item, Known, Verdict,
    report::Judge,
    trial::{self, Trial},
};

/// What every migration sends to a target, with as many arguments as each needs; `K` stands for a key that comes.
const NEEDED: &[&str] = &[
    "SET K v",
    "DEL K",
    "RESTORE K 0 v",
    "RENAME K K",
    "APPEND K v",
    "RPUSH K v",
    "SADD K v",
    "HSET K f v",
    "ZADD K 1 v",
    "XADD K 1-1 f v",
    "XGROUP CREATE K g 0",
    "XSETID K 1-1",
    "XCLAIM K g c 0 1-1",
    "PEXPIREAT K 1",
    "GET K",
    "HGET K f",
    "HGETALL K",
    "SELECT 0",
];

/// What it sends where there is a reason to.
const WANTED: &[(&str, &str)] = &[
    ("DUMP K", "commands with keys in several slots"),
    ("PTTL K", "expiries that are held back"),
    ("EXISTS K", "looking for keys that are there already"),
    ("SCAN 0", "removing what a second full sync does not have any more"),
    ("FLUSHDB", "FLUSHDB of the source"),
    ("FLUSHALL", "FLUSHALL of the source"),
    ("PUBLISH c m", "PUBLISH of the source"),
    ("EVAL r 0", "scripts that name no keys"),
    ("CONFIG GET maxmemory", "this check"),
    ("INFO", "telling the target's version and state"),
    ("COMMAND", "the commands of modules"),
    ("CLIENT LIST", "cutting off a program that was replaced by another"),
];

pub(super) async fn check(known: &mut Known<'_>) -> Result<Vec<Finding>, Error> {
    let psync = psync(known).await?;
    // Then it is read in another way, which needs nothing of a replica.
    let otherwise = psync.verdict == Verdict::Warn && !known.options.source_mode.needs_psync();
    Ok(vec![psync, source(known, otherwise).await?, target(known).await?])
}

async fn psync(known: &mut Known<'_>) -> Result<Finding, Error> {
    let mut judge = Judge::new(Item::Psync);
    for node in &known.source.nodes {
        let name = node.name();
        match trial::psync(&node.options, &known.options.link.psync_command).await? {
            Trial::Allowed => judge.note(format!("{name}: allowed")),
            Trial::Denied(why) | Trial::Missing(why) if !known.options.source_mode.needs_psync() => {
                judge.warn(
                    format!("{name}: {why}"),
                    "the source is read in another way then (SYNC, or key by key with SCAN), which promises less: give the user +psync \
                     +replconf +ping, or the new name of PSYNC (--psync-command)",
                );
            }
            Trial::Denied(why) => {
                judge.fail(format!("{name}: {why}"), "give the user +psync +replconf +ping, or use another user");
            }
            Trial::Missing(why) => judge.fail(
                format!("{name}: {why}"),
                "the service has renamed or removed PSYNC: ask for its new name, or read the source in another way",
            ),
            Trial::Unknown(why) => {
                judge.warn(format!("{name}: cannot be told: {why}"), "let the user call MULTI, or see the server's state");
            }
        }
    }
    Ok(judge.done())
}

async fn source(known: &mut Known<'_>, otherwise: bool) -> Result<Finding, Error> {
    let mut judge = Judge::new(Item::SourceAcl);
    for node in &known.source.nodes {
        let name = node.name();
        match trial::replconf(&node.options).await? {
            Trial::Allowed => judge.note(format!("{name}: REPLCONF is allowed")),
            Trial::Denied(why) | Trial::Missing(why) if otherwise => judge.note(format!("{name}: {why}")),
            Trial::Denied(why) | Trial::Missing(why) => {
                judge.fail(format!("{name}: {why}"), "give the user +psync +replconf +ping");
            }
            Trial::Unknown(why) => {
                judge.warn(format!("{name}: cannot be told: {why}"), "see the server's state")
            }
        }
        if let Some(why) = &node.info_refused {
            judge.warn(
                format!(
                    "{name}: INFO: {why}: lag is then told from the stream alone, and much is not checked"
                ),
                "give the user +info",
            );
        }
        if let Some(why) = &node.settings_refused {
            judge.warn(
                format!("{name}: CONFIG GET: {why}: limits are not checked"),
                "give the user +config|get",
            );
        }
    }
    if let Some(why) = &known.sample.refused {
        judge.warn(format!("SCAN: {why}: no keys are looked at"), "give the user +scan");
    }
    Ok(judge.done())
}

/// The commands that the source has carried out and that change data, each with arguments enough for a trial.
fn in_use(known: &Known<'_>) -> BTreeMap<String, Vec<Vec<u8>>> {
    let table = CommandTable::builtin();
    let mut commands = BTreeMap::new();
    for (name, _) in known.source.nodes.iter().flat_map(|node| node.calls()) {
        // A container's subcommands that write are few, and among those that are always tried.
        let Some(spec) = table.named(name).filter(|_| !name.contains('|')) else { continue };
        let count = spec.arity().unsigned_abs() as usize;
        if !spec.flags().contains(CommandFlags::WRITE) || count < 2 {
            continue;
        }
        let mut args = vec![name.as_bytes().to_vec()];
        args.resize(count, b"K".to_vec());
        commands.insert(name.to_owned(), args);
    }
    commands
}

/// True for a command that servers of this kind know from a later version on.
fn is_newer(command: &str, server: &ServerInfo) -> bool {
    let Some(spec) = CommandTable::builtin().named(command) else { return false };
    let (since, version) = match (&server.vendor, spec.valkey_since()) {
        (Vendor::Valkey, Some(since)) => (Some(since), server.version),
        // Forks have the commands of the release that they left.
        (Vendor::Valkey | Vendor::Redict, _) => (spec.redis_since(), Version::new(7, 2, 0)),
        (Vendor::KeyDb, _) => (spec.redis_since(), Version::new(6, 2, 0)),
        _ => (spec.redis_since(), server.version),
    };
    since.and_then(Version::parse).is_some_and(|since| version < since)
}

/// Whether the target lets the user do what is needed there.
pub(super) async fn target(known: &mut Known<'_>) -> Result<Finding, Error> {
    let mut judge = Judge::new(Item::TargetAcl);
    // Permissions may depend on keys: one of those that come, and one of the migration's own.
    let sample = known.sample.keys.first().map_or_else(|| b"precheck".to_vec(), |key| key.key.clone());
    let split = |text: &str| text.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let mut commands: Vec<(Vec<Vec<u8>>, Option<&str>)> =
        NEEDED.iter().map(|command| (split(command), None)).collect();
    let own = ["HSET", "keyferry:checkpoint:precheck", "f", "v"];
    commands.push((own.map(|arg| arg.as_bytes().to_vec()).to_vec(), None));
    for (name, args) in in_use(known) {
        if !NEEDED.iter().any(|needed| needed.to_ascii_lowercase().starts_with(&format!("{name} "))) {
            commands.push((args, None));
        }
    }
    commands.extend(WANTED.iter().map(|(command, what_for)| (split(command), Some(*what_for))));
    for (args, _) in &mut commands {
        args.iter_mut().filter(|arg| *arg == b"K").for_each(|arg| arg.clone_from(&sample));
    }
    let tried: Vec<Vec<Vec<u8>>> = commands.iter().map(|(args, _)| args.clone()).collect();
    for node in &mut known.target.nodes {
        let name = node.name();
        let trials = trial::trials(&mut node.connection, &tried).await?;
        let mut unknown = None;
        let mut allowed = 0;
        for ((args, what_for), trial) in commands.iter().zip(trials) {
            let command =
                String::from_utf8_lossy(args.first().map_or(&b""[..], Vec::as_slice)).to_ascii_lowercase();
            match (trial, what_for) {
                (Trial::Allowed, _) => allowed += 1,
                (Trial::Missing(_), None) if is_newer(&command, &node.server) => judge.warn(
                    format!("{name}: {command} came after {}", node.server),
                    "it is said in another form where there is one; where there is none, it ends the run when it comes",
                ),
                (Trial::Denied(why) | Trial::Missing(why), None) => judge.fail(
                    format!("{name}: {command}: {why}"),
                    "give the user ~* and +@all, or at least every command that is named here",
                ),
                (Trial::Denied(why) | Trial::Missing(why), Some(what_for)) => judge.warn(
                    format!("{name}: {command}, for {what_for}: {why}"),
                    "give the user the commands that are named here, if they will be needed",
                ),
                (Trial::Unknown(why), _) => unknown = Some(why),
            }
        }
        match unknown {
            None => judge.note(format!("{name}: {allowed} of {} commands are allowed", commands.len())),
            Some(why) => judge.fail(
                format!("{name}: {why}"),
                "give the user +multi +exec +discard +watch: writes go in transactions with how far the migration is",
            ),
        }
    }
    Ok(judge.done())
}
