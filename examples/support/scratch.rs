//! Servers that carry out commands of files, of which only a server can tell the outcome.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use indicatif::HumanCount;
use keyferry_client::Endpoint;
use keyferry_files::{Error as FileError, Found, Input, InputKind, InputOptions, inputs_at};
use keyferry_migrate::restore::Scratch;
use keyferry_rdb::Event;
use keyferry_testkit::{Server, ServerBinary, Version};
use tokio::runtime::Runtime;

use crate::{LOG_PERIOD, interrupted};

/// A server of this machine, which ends with this.
#[derive(Debug)]
pub struct OwnServer {
    endpoint: Endpoint,
    _server: Server,
}

impl OwnServer {
    /// Starts one that fits the data of a server which says of itself `like` (`Redis 7.0.15, …`), and tells so in the name of a program.
    /// None when there is none on this machine, or it does not start.
    pub fn start(program: &str, like: &str) -> Option<Self> {
        let binary = fitting(like)?;
        eprintln!(
            "{program}: commands are carried out by a server on this machine, {} {} ({}), for data of {}",
            binary.vendor,
            binary.version,
            binary.name,
            if like.is_empty() { "a server that does not say what it was" } else { like },
        );
        let server = Server::builder(binary).diskless_sync(true, 0).start().ok()?;
        let endpoint = server.url().parse().ok()?;
        Some(OwnServer { endpoint, _server: server })
    }

    /// Where it is.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

/// Files whose commands a server has carried out.
#[derive(Debug)]
pub struct CarriedOut {
    scratch: Scratch,
    own: Option<OwnServer>,
    runtime: Runtime,
    note: String,
}

impl CarriedOut {
    /// Carries out the commands of these files by the server that `named` holds, or else by one of this machine; none when they have no
    /// commands. Standard input is not looked at: it can be read once only.
    ///
    /// # Errors
    /// In the words of a person: when a file cannot be read or is damaged, when there is no server that is fit, or it refuses a command.
    pub fn of(
        program: &str,
        files: &[PathBuf],
        named: &mut Option<Endpoint>,
    ) -> Result<Option<Self>, String> {
        let Some(writer) = writer_of_commands(files) else { return Ok(None) };
        let own = match named {
            Some(_) => None,
            None => Some(OwnServer::start(program, &writer).ok_or(
                "the commands of an append-only file are carried out by a server, and there is none on this machine: name an \
                 empty one with --scratch",
            )?),
        };
        let endpoint = match (&own, named.take()) {
            (Some(own), _) => own.endpoint().clone(),
            (None, Some(named)) => named,
            (None, None) => return Ok(None),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
        let loaded = runtime.block_on(load(program, endpoint, files.to_vec()));
        let (scratch, commands) = loaded?;
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        let note =
            format!("{} commands of {} were carried out by a server", HumanCount(commands), names.join(", "));
        Ok(Some(CarriedOut { scratch, own, runtime, note }))
    }

    /// The server that holds what the files make.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        self.scratch.endpoint()
    }

    /// What was done, for people.
    #[must_use]
    pub fn note(&self) -> String {
        self.note.clone()
    }

    /// Empties the server, where it is not one of this program.
    ///
    /// # Errors
    /// When it still holds data, in the words of a person.
    pub fn end(self) -> Result<(), String> {
        if self.own.is_some() {
            return Ok(());
        }
        let emptied = self.runtime.block_on(self.scratch.empty());
        emptied.map_err(|error| format!("the scratch server still holds data: {}", error.to_line()))
    }
}

/// Brings the files into the server, and tells how far it is every few seconds.
async fn load(program: &str, endpoint: Endpoint, files: Vec<PathBuf>) -> Result<(Scratch, u64), String> {
    let scratch =
        Scratch::claim(endpoint).await.map_err(|error| format!("--scratch: {}", error.to_line()))?;
    let migration = scratch.load(files);
    let progress = migration.progress();
    let tell = async {
        let mut told = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if told.elapsed() >= LOG_PERIOD {
                told = Instant::now();
                let figures = progress.figures();
                let (keys, commands) = (figures.keys_applied, figures.commands_applied);
                eprintln!(
                    "{program}: carrying out commands: {} keys, {} commands",
                    HumanCount(keys),
                    HumanCount(commands)
                );
            }
        }
    };
    let ended = tokio::select! {
        finished = migration.run() => finished.result.map_err(|error| error.to_line()),
        () = interrupted() => Err("stopped".to_owned()),
        () = tell => return Err("stopped".to_owned()),
    };
    match ended {
        Ok(()) => Ok((scratch, progress.figures().commands_applied)),
        Err(why) => Err(match scratch.empty().await {
            Ok(()) => why,
            Err(error) => format!("{why}; and the scratch server still holds data: {}", error.to_line()),
        }),
    }
}

/// Why reading a file is over before its end.
enum Stop {
    /// It has commands.
    Command,
    /// It says that none can follow.
    Plain,
    /// It cannot be read: who reads it for its data tells that.
    File,
}

impl From<FileError> for Stop {
    fn from(_: FileError) -> Self {
        Stop::File
    }
}

/// What the writer of files says of itself, if they have commands; empty when it says nothing.
fn writer_of_commands(files: &[PathBuf]) -> Option<String> {
    let (mut writer, mut commands) = (String::new(), false);
    let mut parts: Vec<PathBuf> = Vec::new();
    for file in files.iter().filter(|file| file.as_path() != Path::new("-")) {
        // Who reads it for its data tells what is wrong with it.
        let inputs = inputs_at(file).unwrap_or_default();
        // A journal, or what a server keeps: only an import reads that as a whole.
        commands |= inputs.iter().any(|input| input != file);
        parts.extend(inputs);
    }
    for file in parts {
        let Ok(input) = Input::open(&file, InputOptions::default()) else { continue };
        // Of several parts the first one may say so of itself only.
        let is_one = input.kind() == InputKind::Snapshot;
        let read = input.read(|found, _| {
            match found {
                Found::Event(Event::Aux { name: b"redis-ver", value }) if writer.is_empty() => {
                    writer = format!("Redis {}", value.escape_ascii());
                }
                Found::Event(Event::Aux { name: b"valkey-ver", value }) => {
                    writer = format!("Valkey {}", value.escape_ascii());
                }
                Found::Event(Event::Aux { name: b"aof-preamble" | b"aof-base", value: b"0" }) if is_one => {
                    return Err(Stop::Plain);
                }
                Found::Event(Event::Aux { name: b"aof-preamble" | b"aof-base", .. })
                    if is_one && goes_on_behind_snapshot(&file) =>
                {
                    return Err(Stop::Command);
                }
                Found::Command(_) => return Err(Stop::Command),
                _ => {}
            }
            Ok(())
        });
        commands |= matches!(read, Err(Stop::Command));
    }
    commands.then_some(writer)
}

/// Whether something stands behind the snapshot that a file begins with, as far as its last bytes tell: those of a snapshot alone are
/// `FF` and a checksum of eight.
fn goes_on_behind_snapshot(file: &Path) -> bool {
    let last = || -> std::io::Result<u8> {
        let mut file = File::open(file)?;
        file.seek(SeekFrom::End(-9))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(last[0])
    };
    last().is_ok_and(|last| last != 0xFF)
}

/// Of the servers on this machine the oldest one of the same vendor that is as new as the writer, which says of itself what it
/// is; else the newest of that vendor, else the newest.
fn fitting(writer: &str) -> Option<&'static ServerBinary> {
    let mut words = writer.split([' ', ',']);
    let vendor = words.next().unwrap_or_default().to_lowercase();
    let version = words.next().and_then(Version::parse);
    let all = keyferry_testkit::binaries();
    let same = || all.iter().filter(|binary| binary.vendor.as_str().to_lowercase() == vendor);
    let as_new = same().filter(|binary| version.is_some_and(|version| binary.version >= version));
    let newest = || same().max_by_key(|binary| binary.version);
    as_new
        .min_by_key(|binary| binary.version)
        .or_else(newest)
        .or_else(|| all.iter().max_by_key(|binary| binary.version))
}
