//! Running cargo and other programs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyferry_testkit::servers_dir;

use crate::failure::{Context as _, Failure, Outcome};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    // Where this crate is in it. Cargo tells at run time, so that a moved clone works without a new build.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&here).join("../..").components().collect()
}

/// The cargo that runs this program, in the root of the workspace.
pub(crate) fn cargo<A: Into<OsString>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args.into_iter().map(Into::into)).current_dir(normalised_root()).stdin(Stdio::null());
    // Programs that cargo builds and runs elsewhere, such as documentation examples, cannot tell where it builds.
    if std::env::var_os("KEYFERRY_SERVERS").is_none() {
        command.env("KEYFERRY_SERVERS", servers_dir());
    }
    command
}

/// Runs a program with its output on the terminal; a failure unless it exits with 0.
pub(crate) fn succeed(command: &mut Command) -> Outcome {
    let shown = shown(command);
    let status = command.status().during(format_args!("running {shown}"))?;
    if status.success() { Ok(()) } else { Err(Failure::new(format!("{shown}: {status}"))) }
}

/// Runs a program and returns what it printed; a failure with its error output unless it exits with 0.
pub(crate) fn output(command: &mut Command) -> Outcome<String> {
    let shown = shown(command);
    let output = command.stdin(Stdio::null()).output().during(format_args!("running {shown}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{shown}: {}\n{}", output.status, error.trim_end())))
}

/// Whether a program can be run at all.
pub(crate) fn works(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Builds one program of the workspace with optimisation and returns its path.
pub(crate) fn release(package: &str, kind: &str, name: &str, features: &[&str]) -> Outcome<PathBuf> {
    let features = features.join(",");
    succeed(&mut cargo([
        "build",
        "--release",
        "--quiet",
        "--package",
        package,
        kind,
        name,
        "--features",
        &features,
    ]))?;
    let mut path = target_dir()?.join("release");
    if kind == "--example" {
        path.push("examples");
    }
    path.push(name);
    if path.is_file() { Ok(path) } else { Err(Failure::new(format!("{} was not built", path.display()))) }
}

/// Where cargo builds, as it says itself: the configuration may be anywhere.
pub(crate) fn target_dir() -> Outcome<PathBuf> {
    let metadata = output(&mut cargo(["metadata", "--no-deps", "--offline", "--format-version", "1"]))?;
    let value = metadata.split("\"target_directory\":\"").nth(1).and_then(|rest| rest.split('"').next());
    value.map(PathBuf::from).ok_or_else(|| Failure::new("cargo metadata names no target directory"))
}

fn normalised_root() -> PathBuf {
    root().canonicalize().unwrap_or_else(|_| root())
}

/// The command line without the directory of its program, and without the end of a long one.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut text = program.to_string_lossy().into_owned();
    for arg in command.get_args() {
        if text.len() > 160 {
            text.push_str(" …");
            break;
        }
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}
