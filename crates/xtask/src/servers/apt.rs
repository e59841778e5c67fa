//! apt with lists, caches and sources of its own: it installs nothing, touches nothing of the system's apt and needs no
//! rights.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::output;
use crate::failure::{Context as _, Failure, Outcome};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Names a Debian mirror where apt's own sources have none.
const MIRROR_VARIABLE: &str = "KEYFERRY_DEBIAN_MIRROR";

/// apt for one Debian release.
pub(crate) struct PrivateApt {
    dir: PathBuf,
    architecture: &'static str,
    /// The release whose packages are preferred: backports over the release itself.
    preferred: String,
}

impl PrivateApt {
    /// Prepares `state` for a release, and fetches its package lists if that was not done before.
    pub(crate) fn new(state: &Path, release: &str, backports: bool) -> Outcome<PrivateApt> {
        let preferred = if backports { format!("{release}-backports") } else { release.to_owned() };
        let apt = PrivateApt { dir: state.join(&preferred), architecture: architecture()?, preferred };
        let fetched = apt.dir.join("fetched");
        if !fetched.exists() {
            apt.prepare(release, backports)?;
            output(apt.command("apt-get").args(["-qq", "update"]))?;
            std::fs::write(&fetched, "").during(fetched.display())?;
        }
        Ok(apt)
    }

    /// These packages and, transitively, the library packages that they need.
    pub(crate) fn closure(&self, packages: &[&str]) -> Outcome<BTreeSet<String>> {
        let mut all: BTreeSet<String> = packages.iter().map(|name| (*name).to_owned()).collect();
        let mut new: Vec<String> = all.iter().cloned().collect();
        while !new.is_empty() {
            let mut command = self.command("apt-cache");
            command.arg("depends");
            for kind in ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"] {
                command.arg(format!("--no-{kind}"));
            }
            let depends = output(command.args(&new))?;
            new = depends
                .lines()
                .filter_map(library)
                .filter(|name| !all.contains(*name))
                .map(str::to_owned)
                .collect();
            new.sort();
            new.dedup();
            all.extend(new.iter().cloned());
        }
        Ok(all)
    }

    /// Downloads the packages and unpacks them into `into`.
    pub(crate) fn unpack(&self, packages: &BTreeSet<String>, into: &Path) -> Outcome {
        let downloads = tempfile::tempdir_in(&self.dir).during("making a directory for downloads")?;
        output(
            self.command("apt-get").args(["-qq", "download"]).args(packages).current_dir(downloads.path()),
        )?;
        let mut unpacked = 0;
        for entry in std::fs::read_dir(downloads.path()).during("reading the downloads")? {
            let path = entry.during("reading the downloads")?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                output(Command::new("dpkg").arg("--extract").arg(&path).arg(into))?;
                unpacked += 1;
            }
        }
        if unpacked == packages.len() {
            return Ok(());
        }
        Err(Failure::new(format!("apt downloaded {unpacked} of {} packages", packages.len())))
    }

    fn prepare(&self, release: &str, backports: bool) -> Outcome {
        if !Path::new(KEYRING).is_file() {
            return Err(Failure::new(format!(
                "{KEYRING} is missing: install debian-archive-keyring, or put servers on PATH or into KEYFERRY_SERVERS"
            )));
        }
        for sub in ["state/lists/partial", "cache/archives/partial", "etc"] {
            let path = self.dir.join(sub);
            std::fs::create_dir_all(&path).during(path.display())?;
        }
        let mirror = mirror()?;
        let mut sources = String::new();
        for suite in
            [Some(release.to_owned()), backports.then(|| self.preferred.clone())].into_iter().flatten()
        {
            sources.push_str(&format!(
                "deb [arch={} signed-by={KEYRING}] {mirror} {suite} main\n",
                self.architecture
            ));
        }
        for (file, text) in [("etc/sources.list", &sources[..]), ("state/status", "")] {
            let path = self.dir.join(file);
            std::fs::write(&path, text).during(path.display())?;
        }
        Ok(())
    }

    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        let mut set = |name: &str, value: &dyn std::fmt::Display| {
            command.arg("-o").arg(format!("{name}={value}"));
        };
        for (name, path) in [
            ("Dir::State", "state"),
            ("Dir::State::status", "state/status"),
            ("Dir::Cache", "cache"),
            ("Dir::Etc::sourcelist", "etc/sources.list"),
        ] {
            set(name, &self.dir.join(path).display());
        }
        set("Dir::Etc::sourceparts", &"/dev/null");
        set("Dir::Etc::preferencesparts", &"/dev/null");
        set("APT::Architecture", &self.architecture);
        set("APT::Architectures", &self.architecture);
        set("APT::Default-Release", &self.preferred);
        // The user that apt otherwise changes to when it is root may not write here.
        set("APT::Sandbox::User", &"root");
        set("Acquire::Languages", &"none");
        command.env("LC_ALL", "C");
        command
    }
}

/// The library that a line of `apt-cache depends` names, if it is one.
fn library(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let name = line.strip_prefix("Depends: ").or_else(|| line.strip_prefix("PreDepends: "))?;
    let name = name.split(':').next()?;
    (name == "zlib1g" || name.starts_with("lib") || name.starts_with("lua-")).then_some(name)
}

/// Debian's name for this machine's architecture.
fn architecture() -> Outcome<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => Err(Failure::new(format!("no servers are known for {other}"))),
    }
}

/// The Debian mirror that apt uses on this machine.
fn mirror() -> Outcome<String> {
    if let Ok(mirror) = std::env::var(MIRROR_VARIABLE) {
        return Ok(mirror);
    }
    let etc = Path::new("/etc/apt");
    let mut files = vec![etc.join("sources.list")];
    let parts = std::fs::read_dir(etc.join("sources.list.d")).into_iter().flatten().flatten();
    files.extend(parts.map(|entry| entry.path()));
    files.sort();
    let texts = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    texts.flat_map(|text| addresses(&text)).find(|address| is_debian(address)).ok_or_else(|| {
        Failure::new(format!(
            "apt's sources on this machine name no Debian mirror: set {MIRROR_VARIABLE} to the address of one, \
             or put servers on PATH or into KEYFERRY_SERVERS"
        ))
    })
}

/// Addresses in a file of sources of either form: `URIs: ADDRESS …` or `deb [options] ADDRESS suite …`.
fn addresses(text: &str) -> Vec<String> {
    let lines =
        text.lines().map(str::trim).filter(|line| line.starts_with("URIs:") || line.starts_with("deb "));
    let words = lines.flat_map(|line| line.split_whitespace().skip(1));
    words.filter(|word| word.contains("://")).map(str::to_owned).collect()
}

/// Mirrors of Debian end so by convention; those of security updates and of others do not.
fn is_debian(address: &str) -> bool {
    address.trim_end_matches('/').ends_with("/debian")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_in_both_forms() {
        let deb822 = "Types: deb\n# a note\nURIs: http://mirror.example/debian-security\nSuites: x\n\n\
                      Types: deb\nURIs: http://mirror.example/debian/\n";
        let one_line =
            "# deb http://old.example/debian x main\ndeb [arch=amd64] https://other.example/debian x main\n";
        let first = |text| addresses(text).into_iter().find(|address| is_debian(address));
        assert_eq!(first(deb822).as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(first(one_line).as_deref(), Some("https://other.example/debian"));
        assert_eq!(first("deb http://mirror.example/ubuntu noble main"), None);
    }

    #[test]
    fn libraries_among_dependencies() {
        let lines = "redis-tools\n  Depends: libc6\n  PreDepends: init-system-helpers\n  Depends: libssl3:amd64\n\
                     \x20 Depends: <awk>\n |Depends: lua-cjson\n  Depends: zlib1g\n  Depends: adduser\n";
        let found: Vec<_> = lines.lines().filter_map(library).collect();
        assert_eq!(found, ["libc6", "libssl3", "zlib1g"]);
    }
}
