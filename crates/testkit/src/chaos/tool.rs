use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::process;
use crate::watchdog::Watchdog;

/// How much of what it said an error shows.
const SHOWN: u64 = 1500;

/// The number of SIGTERM.
const TERM: i32 = 15;

/// How often it is looked at.
const TICK: Duration = Duration::from_millis(5);

/// A program that is started, killed and started again with the same arguments. It does not outlive this process.
#[derive(Debug)]
pub struct Tool {
    program: PathBuf,
    arguments: Vec<String>,
    /// Where what it says is kept.
    log: PathBuf,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    // Called off after the process was ended.
    _watchdog: Watchdog,
}

impl Tool {
    /// The program and its arguments; what it prints is appended to the file `log`. Nothing is started.
    pub fn new(program: &Path, arguments: Vec<String>, log: &Path) -> Tool {
        Tool { program: program.to_owned(), arguments, log: log.to_owned(), running: None }
    }

    /// Starts it, unless it runs.
    ///
    /// # Errors
    /// [`Error::Run`], and [`Error::File`] for the log.
    pub fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let failed = |source| Error::File { what: "written", path: self.log.clone(), source };
        let log = OpenOptions::new().create(true).append(true).open(&self.log).map_err(failed)?;
        let twin = log.try_clone().map_err(failed)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(twin)
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Run { program: self.program.clone(), source })?;
        let watchdog = Watchdog::start("kill -s KILL -- \"-$1\"", &[&child.id().to_string()])?;
        self.running = Some(Running { child, _watchdog: watchdog });
        Ok(())
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// Fails when it has ended by itself, with the end of what it said.
    ///
    /// # Errors
    /// [`Error::Round`].
    pub fn must_run(&mut self) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        match running.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(Error::Round(format!("the program has ended ({status}); it said:\n{}", self.said())))
            }
            Err(e) => Err(Error::Round(format!("the program cannot be watched: {e}"))),
        }
    }

    /// Kills it as `kill -9` does.
    pub fn kill9(&mut self) {
        self.running = None;
    }

    /// Sends a signal: `STOP`, `CONT`, `TERM`.
    ///
    /// # Errors
    /// [`Error::Signal`].
    pub fn signal(&self, signal: &'static str) -> Result<()> {
        process::signal(self.pid().unwrap_or(0), signal)
    }

    /// Waits until it has ended by itself. `None` when it takes longer than that; then it goes on.
    pub fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + deadline;
        let running = self.running.as_mut()?;
        loop {
            if let Ok(Some(status)) = running.child.try_wait() {
                self.running = None;
                return Some(status);
            }
            if Instant::now() >= end {
                return None;
            }
            std::thread::sleep(TICK);
        }
    }

    /// Asks it to end, and fails unless it does so in time and with success, and so with everything applied.
    ///
    /// # Errors
    /// [`Error::Round`] with the end of what it said.
    pub fn end(&mut self, deadline: Duration) -> Result<()> {
        self.stop(deadline, |_| false)
    }

    /// Asks it to end somewhere in the middle: also what is not applied yet is well, if it says so.
    ///
    /// # Errors
    /// As [`Tool::end`].
    pub fn interrupt(&mut self, deadline: Duration) -> Result<()> {
        const INCOMPLETE: &str = "stopped before everything was applied";
        // It may be asked before it has learnt to listen.
        let log = self.log.clone();
        self.stop(deadline, |status| {
            status.signal() == Some(TERM) || end_of(&log).trim_end().ends_with(INCOMPLETE)
        })
    }

    fn stop(&mut self, deadline: Duration, fine: impl Fn(&ExitStatus) -> bool) -> Result<()> {
        self.must_run()?;
        self.signal("TERM")?;
        match self.wait(deadline) {
            Some(status) if status.success() || fine(&status) => Ok(()),
            Some(status) => {
                Err(Error::Round(format!("the program ended with {status}; it said:\n{}", self.said())))
            }
            None => Err(Error::Round(format!(
                "the program did not end within {} s; it said:\n{}",
                deadline.as_secs(),
                self.said()
            ))),
        }
    }

    /// The end of what it said.
    pub fn said(&self) -> String {
        end_of(&self.log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of a file.
fn end_of(file: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(file)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SHOWN)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}
