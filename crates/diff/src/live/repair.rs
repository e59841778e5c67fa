//! Making the keys of one side what they are on the other.

use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use keyferry_client::{Frame, Pipeline, ServerInfo, Vendor};
use keyferry_rdb::convert::{Converted, Converter};
use keyferry_rdb::dump::{self, Payload};
use keyferry_rdb::native::{CommandSink, Loss, NativeOptions, Rebuild};
use keyferry_rdb::{Dialect, TargetFormat};
use serde::Serialize;

use super::databases::pairs;
use super::nodes::{Channel, LiveSide};
use super::read::{Unexpected, describe};
use super::suspects::Suspects;
use super::{LiveDiff, on_runtime};
use crate::cutoff::now;
use crate::error::Error;

/// Failures that are told by name.
const NAMED: usize = 100;

/// What a repair may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairWhat {
    /// Copy keys that the side to be repaired lacks or has otherwise.
    Copy,
    /// Delete keys that only the side to be repaired has.
    Delete,
    /// Both.
    Both,
}

impl FromStr for RepairWhat {
    type Err = UnknownRepair;

    fn from_str(text: &str) -> Result<Self, UnknownRepair> {
        match text {
            "copy" => Ok(Self::Copy),
            "delete" => Ok(Self::Delete),
            "both" => Ok(Self::Both),
            _ => Err(UnknownRepair(text.into())),
        }
    }
}

/// A text that names no repair.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no repair; there are copy, delete and both")]
pub struct UnknownRepair(Box<str>);

/// How differences are repaired.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RepairOptions {
    /// What may be done.
    pub what: RepairWhat,
    /// Whether the target is right and the source is repaired. Default: no, the source is right.
    pub from_target: bool,
    /// Whether only the script is written.
    pub dry_run: bool,
}

impl RepairOptions {
    /// Repairs the target in this way.
    pub const fn new(what: RepairWhat) -> Self {
        Self { what, from_target: false, dry_run: false }
    }
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// Keys copied.
    pub copied: u64,
    /// Keys deleted.
    pub deleted: u64,
    /// Keys that would have to be copied or deleted, which was not allowed.
    pub left: u64,
    /// Keys that are on neither side any more.
    pub gone: u64,
    /// Function libraries and keys that a side has more than once, which are not repaired.
    pub others: u64,
    /// Keys that could not be copied or deleted.
    pub failed: u64,
    /// The first of those, with the reason.
    pub failures: Vec<String>,
}

impl RepairReport {
    fn fail(&mut self, key: &[u8], why: impl std::fmt::Display) {
        self.failed += 1;
        if self.failures.len() < NAMED {
            self.failures.push(format!("\"{}\": {why}", keyferry_files::text::short_line(key, 60)));
        }
    }
}

/// `3 keys copied, 1 deleted`
impl std::fmt::Display for RepairReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys copied, {} deleted", self.copied, self.deleted)?;
        for (count, what) in [
            (self.left, "left, as only the other repair is allowed"),
            (self.gone, "gone on both sides meanwhile"),
            (self.others, "function libraries or doubled keys not repaired"),
            (self.failed, "failed"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

impl LiveDiff {
    /// Repairs the keys that were found to differ, each by one command or transaction, and writes what it does as a script of
    /// commands that `redis-cli` takes. Each key is read anew just before.
    ///
    /// Whether it helped is told by [`settle`](Self::settle). A key that is written by others meanwhile may lose such a write on
    /// the side that is repaired.
    ///
    /// # Errors
    ///
    /// When a server cannot be reached, or the script cannot be written. What a server refuses is counted.
    pub fn repair(
        self,
        suspects: &Suspects,
        repair: &RepairOptions,
        script: &mut (dyn Write + Send),
    ) -> Result<RepairReport, Error> {
        on_runtime(async move {
            let LiveDiff { sides: [source, target], options, .. } = self;
            let sides = [
                Arc::new(LiveSide::find(&source, options.patience).await?),
                Arc::new(LiveSide::find(&target, options.patience).await?),
            ];
            let pairs = pairs(&sides, &options).await?;
            let (from, to) = if repair.from_target { (1, 0) } else { (0, 1) };
            let format = format_of(sides[to].server());
            let mut report =
                RepairReport { others: suspects.certain.len() as u64, ..RepairReport::default() };
            for pair in &pairs {
                let keys = suspects.of_db(u64::from(pair.target));
                let first = pairs.iter().find(|other| other.target == pair.target);
                // Of several databases that become one the first counts.
                if keys.is_empty() || first != Some(pair) {
                    continue;
                }
                let Some(db) = pair.of(to) else {
                    keys.iter()
                        .for_each(|key| report.fail(key, "the side to be repaired has no such database"));
                    continue;
                };
                writeln!(script, "SELECT {db}").map_err(Error::Results)?;
                let mut repairer = Repairer {
                    from: pair.of(from).map(|db| Channel::new(&sides[from], db)),
                    to: Channel::new(&sides[to], db),
                    converter: Converter::new(format).with_limits(options.limits.clone()),
                    repair: *repair,
                    report: &mut report,
                    script: &mut *script,
                };
                for key in &keys {
                    repairer.key(key).await?;
                }
            }
            script.flush().map_err(Error::Results)?;
            Ok(report)
        })
    }
}

struct Repairer<'a> {
    from: Option<Channel>,
    to: Channel,
    converter: Converter,
    repair: RepairOptions,
    report: &'a mut RepairReport,
    script: &'a mut (dyn Write + Send),
}

impl Repairer<'_> {
    async fn key(&mut self, key: &Bytes) -> Result<(), Error> {
        let held = match &mut self.from {
            Some(from) => from.value(key).await?,
            None => None,
        };
        let Some((payload, expiry)) = held else {
            if !self.to.present(std::slice::from_ref(key)).await?.first().copied().unwrap_or(false) {
                self.report.gone += 1;
                return Ok(());
            }
            if self.repair.what == RepairWhat::Copy {
                self.report.left += 1;
                return Ok(());
            }
            let commands = vec![vec![Bytes::from_static(b"UNLINK"), key.clone()]];
            if self.execute(key, commands).await? {
                self.report.deleted += 1;
            }
            return Ok(());
        };
        if self.repair.what == RepairWhat::Delete {
            self.report.left += 1;
            return Ok(());
        }
        match self.commands(key, &payload, expiry) {
            Ok(commands) => {
                if self.execute(key, commands).await? {
                    self.report.copied += 1;
                }
            }
            Err(why) => self.report.fail(key, why),
        }
        Ok(())
    }

    /// The commands that make the key what this payload says.
    fn commands(
        &mut self,
        key: &Bytes,
        payload: &[u8],
        expiry: Option<i64>,
    ) -> Result<Vec<Vec<Bytes>>, String> {
        let payload = Payload::parse(payload).map_err(|error| error.to_string())?;
        let key_metadata = self.converter.target().key_metadata();
        let conversion = self.converter.convert(payload.value).map_err(|error| error.to_string())?;
        let lost = |losses: &[Loss]| {
            let losses: Vec<_> = losses.iter().map(ToString::to_string).collect();
            format!("the server to be repaired has no place for all of it: {}", losses.join("; "))
        };
        if !conversion.losses.is_empty() {
            return Err(lost(&conversion.losses));
        }
        let value = match conversion.converted {
            Converted::Raw(value) | Converted::Reencoded(value) => value,
            Converted::Lost => return Err(lost(&conversion.losses)),
            Converted::Native => {
                let features = self.converter.target().features;
                return native(key, &payload, expiry, features);
            }
        };
        let mut bytes = BytesMut::new();
        match payload.meta {
            None => dump::append_payload(&mut bytes, value, dump::UNIVERSAL_VERSION),
            Some(meta) if key_metadata => {
                dump::append_payload_with_meta(&mut bytes, meta, value, dump::UNIVERSAL_VERSION);
            }
            Some(_) => {
                return Err("the server to be repaired has no place for data of modules at keys".to_owned());
            }
        }
        let words = |text: &'static str| Bytes::from_static(text.as_bytes());
        let mut command = vec![words("RESTORE"), key.clone()];
        command.push(Bytes::from(expiry.unwrap_or(0).to_string()));
        command.extend([bytes.freeze(), words("REPLACE")]);
        if expiry.is_some() {
            command.push(words("ABSTTL"));
        }
        Ok(vec![command])
    }

    /// Writes commands to the script and, unless it is a dry run, sends them as one.
    async fn execute(&mut self, key: &Bytes, mut commands: Vec<Vec<Bytes>>) -> Result<bool, Error> {
        if commands.len() > 1 {
            commands.insert(0, vec![Bytes::from_static(b"MULTI")]);
            commands.push(vec![Bytes::from_static(b"EXEC")]);
        }
        for command in &commands {
            write_command(self.script, command).map_err(Error::Results)?;
        }
        if self.repair.dry_run {
            return Ok(true);
        }
        let mut pipeline = Pipeline::new();
        commands.iter().for_each(|command| _ = pipeline.push(command));
        let replies = self.to.at(key, &pipeline).await?;
        let nested = replies.iter().filter_map(Frame::as_array).flatten();
        match replies.iter().chain(nested).find(|frame| frame.is_error()) {
            None => Ok(true),
            Some(error) => {
                self.report.fail(key, describe(error));
                Ok(false)
            }
        }
    }
}

impl Channel {
    /// A value as a whole and when it expires, at one moment.
    async fn value(&mut self, key: &Bytes) -> Result<Option<(Bytes, Option<i64>)>, Error> {
        let absolute = self.side().tells_deadlines();
        let question = if absolute { "PEXPIRETIME" } else { "PTTL" };
        let mut pipeline = Pipeline::new();
        pipeline.push(["MULTI"]).push([&b"DUMP"[..], key]);
        pipeline.push([question.as_bytes(), key]).push(["EXEC"]);
        let before = now();
        let replies = self.at(key, &pipeline).await?;
        let Some([payload, end]) = replies.last().and_then(Frame::as_array) else {
            let wrong = replies.iter().find(|frame| frame.is_error()).map(describe).unwrap_or_default();
            return Err(self.unexpected(Unexpected(wrong)));
        };
        if payload.is_null() {
            return Ok(None);
        }
        let (Some(payload), Some(end), false) = (payload.as_bytes(), end.as_i64(), payload.is_error()) else {
            return Err(self.unexpected(Unexpected(describe(payload))));
        };
        let expiry = match end {
            ..0 => None,
            at if absolute => Some(at),
            left => Some(super::nodes::deadline(before, left)),
        };
        Ok(Some((payload.clone(), expiry)))
    }
}

/// A value that is too large for one payload, built by commands.
fn native(
    key: &Bytes,
    payload: &Payload<'_>,
    expiry: Option<i64>,
    features: keyferry_rdb::native::Features,
) -> Result<Vec<Vec<Bytes>>, String> {
    let mut built =
        Built { commands: vec![vec![Bytes::from_static(b"DEL"), key.clone()]], losses: Vec::new() };
    let mut options = NativeOptions::default();
    options.features = Some(features);
    let mut rebuild =
        Rebuild::new(key, payload.value.ty(), Dialect::of_dump_version(payload.version), &options);
    rebuild.feed(payload.value.bytes(), &mut built).map_err(|error| error.to_string())?;
    rebuild.finish(&mut built).map_err(|error| error.to_string())?;
    if let Some(loss) = built.losses.first() {
        return Err(loss.clone());
    }
    if let Some(at) = expiry {
        let at = Bytes::from(at.to_string());
        built.commands.push(vec![Bytes::from_static(b"PEXPIREAT"), key.clone(), at]);
    }
    Ok(built.commands)
}

struct Built {
    commands: Vec<Vec<Bytes>>,
    losses: Vec<String>,
}

impl CommandSink for Built {
    fn command(&mut self, args: &[&[u8]]) {
        self.commands.push(args.iter().map(|arg| Bytes::copy_from_slice(arg)).collect());
    }

    fn loss(&mut self, loss: Loss) {
        self.losses.push(loss.to_string());
    }
}

/// What a server takes.
fn format_of(server: &ServerInfo) -> TargetFormat {
    let number = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let (major, minor) = (number(server.version.major), number(server.version.minor));
    match server.vendor {
        Vendor::Valkey => TargetFormat::valkey(major, minor),
        Vendor::Redis => TargetFormat::redis(major, minor),
        Vendor::Redict => TargetFormat::redis(7, 2),
        // What followed Redis at some time takes the plain encodings of 5.0.
        _ => TargetFormat::redis(5, 0),
    }
}

/// A command as a line that `redis-cli` reads.
fn write_command(out: &mut (dyn Write + Send), command: &[Bytes]) -> io::Result<()> {
    for (number, word) in command.iter().enumerate() {
        if number > 0 {
            out.write_all(b" ")?;
        }
        if !word.is_empty() && word.iter().all(u8::is_ascii_alphanumeric) {
            out.write_all(word)?;
            continue;
        }
        out.write_all(b"\"")?;
        for &byte in word {
            match byte {
                b'"' | b'\\' => out.write_all(&[b'\\', byte])?,
                b' '..=b'~' => out.write_all(&[byte])?,
                _ => write!(out, "\\x{byte:02x}")?,
            }
        }
        out.write_all(b"\"")?;
    }
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_holds_any_bytes() {
        let mut out = Vec::new();
        let command = ["UNLINK", "", "a b", "q\"\\", "user:1"].map(|text| Bytes::from(text.to_owned()));
        write_command(&mut out, &command).unwrap();
        write_command(&mut out, &[Bytes::from_static(b"\n\xff\0")]).unwrap();
        let expected = "UNLINK \"\" \"a b\" \"q\\\"\\\\\" \"user:1\"\n\"\\x0a\\xff\\x00\"\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
