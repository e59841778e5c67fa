//! What is done when this process ends without having done it itself.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use crate::error::{Error, Result};

/// A waiting `sh` whose standard input is a pipe from this process. When this process ends, however it ends, the pipe closes,
/// and the shell does what it was told. Dropping this value calls it off.
#[derive(Debug)]
pub(crate) struct Watchdog(Child);

impl Watchdog {
    /// `script` is a list of shell commands, which see `arguments` as `$1`, `$2`, ….
    pub(crate) fn start(script: &str, arguments: &[&str]) -> Result<Watchdog> {
        // `read` fails when the pipe closes without a line.
        let script = format!("trap '' HUP INT TERM; read -r line || {{ {script}; }}");
        let child = Command::new("sh")
            .args(["-c", &script, "sh"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        child.map(Watchdog).map_err(|source| Error::Run { program: "sh".into(), source })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.0.stdin.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.0.wait();
    }
}
