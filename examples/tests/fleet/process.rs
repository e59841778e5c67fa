//! The program `migrate` as a process.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use keyferry_testkit::process;

/// Longer than any step here should take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// The program, built beside this test.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(std::path::Path::parent).unwrap().join("examples/migrate")
}

/// A running program, which does not outlive the test.
pub(crate) struct Process {
    child: Child,
    /// What it says.
    log: tempfile::NamedTempFile,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Process {
    /// Runs it with these arguments and these variables alone, where no directory for temporary files can be written to.
    pub(crate) fn migrate(args: &[&str], variables: &[(String, String)]) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(program());
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
        command.env_clear().envs(variables.iter().cloned()).env("TMPDIR", "/nonexistent");
        command.stderr(log.reopen().unwrap());
        Process { child: command.spawn().unwrap(), log }
    }

    /// By SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn terminate(&self) {
        process::signal(self.child.id(), "TERM").unwrap();
    }

    /// Waits for its end; true if that is one with status 0.
    pub(crate) fn ends_well(&mut self) -> bool {
        wait_until("an end", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().success()
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "no {what} in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The status that a path is answered with; none while nobody does.
pub(crate) fn status_of(address: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}
