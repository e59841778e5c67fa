//! Figures and signals of other processes, without unsafe code.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Clock ticks in a second of `/proc/PID/stat`: Linux shows times to user space in hundredths of a second on every
/// architecture that Rust's standard library runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time in seconds, user and system together, that the process has used so far in all its threads. Its children are
/// not counted: see [`children_cpu_seconds`].
///
/// # Errors
/// [`Error::Process`] when there is no such process, or no `/proc`.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    // Fields 14 and 15 of proc(5), `utime` and `stime`.
    stat_ticks(pid, 14).map(|ticks| ticks / TICKS_PER_SECOND)
}

/// CPU time in seconds of the children that the process has waited for, a server's snapshot children among them.
///
/// # Errors
/// [`Error::Process`] when there is no such process, or no `/proc`.
pub fn children_cpu_seconds(pid: u32) -> Result<f64> {
    // Fields 16 and 17, `cutime` and `cstime`.
    stat_ticks(pid, 16).map(|ticks| ticks / TICKS_PER_SECOND)
}

/// The most memory the process ever had resident (`VmHWM`), in KiB.
///
/// # Errors
/// [`Error::Process`] when there is no such process, it is a zombie, or there is no `/proc`.
pub fn peak_rss_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmHWM:")
}

/// The memory the process has resident now (`VmRSS`), in KiB.
///
/// # Errors
/// [`Error::Process`] when there is no such process, it is a zombie, or there is no `/proc`.
pub fn rss_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmRSS:")
}

/// What a program took from start to end.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Measured {
    /// How it ended.
    pub status: ExitStatus,
    /// Time from start to end.
    pub wall: Duration,
    /// User and system CPU seconds of all its threads, to a hundredth; its children's are not counted.
    pub cpu_seconds: f64,
    /// The most memory it ever had resident, in KiB, looked at every two milliseconds.
    pub peak_rss_kib: u64,
}

/// Runs a program to its end and measures it.
///
/// ```
/// use std::process::Command;
/// let measured = keyferry_testkit::process::measure(Command::new("sleep").arg("0.1"))?;
/// assert!(measured.status.success());
/// assert!(measured.wall.as_millis() >= 100 && measured.cpu_seconds < 0.1);
/// # Ok::<(), keyferry_testkit::Error>(())
/// ```
///
/// # Errors
/// [`Error::Run`] when it cannot be started, [`Error::Process`] when there is no `/proc`.
pub fn measure(command: &mut Command) -> Result<Measured> {
    let start = Instant::now();
    let child =
        command.spawn().map_err(|source| Error::Run { program: command.get_program().into(), source })?;
    measure_child(child, start)
}

/// Waits for a program that was started at `start`, and measures it.
///
/// # Errors
/// [`Error::Process`] when there is no `/proc`.
pub fn measure_child(mut child: Child, start: Instant) -> Result<Measured> {
    let pid = child.id();
    let mut peak = 0;
    loop {
        // A program that has ended keeps its times, but not its memory, until it is waited for.
        let ended = state(pid)? == 'Z';
        let wall = start.elapsed();
        if ended {
            let cpu_seconds = cpu_seconds(pid)?;
            let status =
                child.wait().map_err(|source| Error::Process { pid, what: "exit status", source })?;
            return Ok(Measured { status, wall, cpu_seconds, peak_rss_kib: peak });
        }
        peak = peak_rss_kib(pid).unwrap_or(0).max(peak);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a signal, by the `kill` that is built into every `sh`: the standard library has no call for it.
///
/// # Errors
/// [`Error::Signal`] when the process is gone or not ours.
pub fn signal(pid: u32, signal: &'static str) -> Result<()> {
    kill(&pid.to_string(), pid, signal)
}

/// The same for the process group that `pid` leads: the server and the children that write its snapshots.
pub(crate) fn signal_group(pid: u32, signal: &'static str) -> Result<()> {
    kill(&format!("-{pid}"), pid, signal)
}

fn kill(target: &str, pid: u32, signal: &'static str) -> Result<()> {
    let output = Command::new("sh")
        .args(["-c", "kill -s \"$1\" -- \"$2\"", "sh", signal, target])
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Run { program: "sh".into(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Signal { signal, pid, message })
}

/// The sum of two neighbouring fields of `/proc/PID/stat`, counted from 1 as proc(5) does.
fn stat_ticks(pid: u32, field: usize) -> Result<f64> {
    let what = "CPU time";
    let text = stat_from_field_3(pid, what)?;
    let mut fields = text.split_whitespace().skip(field - 3).map(str::parse::<u64>);
    match (fields.next(), fields.next()) {
        (Some(Ok(a)), Some(Ok(b))) => Ok((a + b) as f64),
        _ => Err(malformed(pid, what)),
    }
}

/// One letter: R running, S sleeping, T stopped, Z ended but not waited for, ….
fn state(pid: u32) -> Result<char> {
    let what = "state";
    let text = stat_from_field_3(pid, what)?;
    text.trim_start().chars().next().ok_or_else(|| malformed(pid, what))
}

fn stat_from_field_3(pid: u32, what: &'static str) -> Result<String> {
    // Field 2 is the program's name in parentheses and may hold anything, so look for the last parenthesis.
    let text = read(pid, "stat", what)?;
    Ok(text.rsplit_once(')').map_or_else(String::new, |(_, rest)| rest.to_owned()))
}

fn status_kib(pid: u32, name: &str) -> Result<u64> {
    let what = "memory";
    let text = read(pid, "status", what)?;
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| malformed(pid, what))
}

fn read(pid: u32, file: &str, what: &'static str) -> Result<String> {
    let path: PathBuf = ["/proc", &pid.to_string(), file].iter().collect();
    let bytes = std::fs::read(path).map_err(|source| Error::Process { pid, what, source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn malformed(pid: u32, what: &'static str) -> Error {
    Error::Process { pid, what, source: io::Error::from(io::ErrorKind::InvalidData) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_figures_grow() {
        let pid = std::process::id();
        let before = cpu_seconds(pid).unwrap();
        let start = Instant::now();
        let mut sum = 0u64;
        // It is counted in hundredths of a second, of which this process may get few.
        while cpu_seconds(pid).unwrap() <= before {
            assert!(start.elapsed() < Duration::from_secs(60));
            for _ in 0..100_000 {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
            }
        }
        let ballast = vec![1u8; 32 << 20];
        std::hint::black_box(&ballast);
        assert!(rss_kib(pid).unwrap() > 32 << 10);
        assert!(peak_rss_kib(pid).unwrap() >= rss_kib(pid).unwrap() / 2);
    }

    #[test]
    fn programs_are_measured_to_their_end() {
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; exit 3";
        let measured = measure(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(measured.status.code(), Some(3));
        assert!(measured.cpu_seconds > 0.0 && measured.cpu_seconds <= measured.wall.as_secs_f64() + 0.02);
        assert!(measured.peak_rss_kib > 100);
        assert!(matches!(measure(&mut Command::new("/nonexistent/program")), Err(Error::Run { .. })));
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(matches!(cpu_seconds(pid), Err(Error::Process { .. })));
        assert!(matches!(peak_rss_kib(pid), Err(Error::Process { .. })));
        let message = signal(pid, "CONT").unwrap_err().to_string();
        assert!(message.contains(&pid.to_string()), "{message}");
    }
}
