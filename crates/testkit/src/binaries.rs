//! Finding server programs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// Who makes a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Vendor {
    /// Redis.
    Redis,
    /// Valkey, the Linux Foundation's fork of Redis 7.2.
    Valkey,
    /// Redict, the LGPL fork of Redis 7.2.
    Redict,
    /// KeyDB, the multi-threaded fork of Redis 6.
    KeyDb,
}

impl Vendor {
    /// The name in lower case, as programs and this crate's names have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Vendor::Redis => "redis",
            Vendor::Valkey => "valkey",
            Vendor::Redict => "redict",
            Vendor::KeyDb => "keydb",
        }
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A server's version, as `--version` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The 7 of 7.0.15.
    pub major: u32,
    /// The 0 of 7.0.15.
    pub minor: u32,
    /// The 15 of 7.0.15.
    pub patch: u32,
}

impl Version {
    /// Reads `7.0.15`; what follows the third number is ignored. `None` where there is no `major.minor`.
    ///
    /// ```
    /// use keyferry_testkit::Version;
    /// let version = Version::parse("7.0.15-rc1").unwrap();
    /// assert_eq!((version.major, version.minor, version.patch), (7, 0, 15));
    /// assert!(Version::parse("7").is_none());
    /// ```
    pub fn parse(text: &str) -> Option<Version> {
        let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|digits| digits.parse::<u32>().ok());
        let (major, minor) = (next()?, next()?);
        Some(Version { major, minor, patch: next().unwrap_or(0) })
    }

    /// Whether this is `major.minor` or newer.
    pub fn at_least(self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A server program that was found and answered `--version`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerBinary {
    /// A short name: the file's name without `-server` where that carries a version (`valkey-8.1`), else vendor and
    /// version (`redis-7.0`).
    pub name: String,
    /// Who makes it.
    pub vendor: Vendor,
    /// Its own version, also for the forks that tell clients they are Redis 7.2.
    pub version: Version,
    /// The server program.
    pub server: PathBuf,
}

impl ServerBinary {
    /// Asks the program at `path` for its version. `None` when it cannot be run or is no server that we know.
    pub fn probe(path: &Path) -> Option<ServerBinary> {
        let output = Command::new(path).arg("--version").stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (vendor, version) = parse_version_line(&text)?;
        let stem = stem(path)?;
        let name = if stem.contains(|c: char| c.is_ascii_digit()) {
            stem.to_owned()
        } else {
            format!("{vendor}-{}.{}", version.major, version.minor)
        };
        Some(ServerBinary { name, vendor, version, server: path.to_owned() })
    }

    /// The command line client beside the server (`redis-cli`), if it is there.
    pub fn cli(&self) -> Option<PathBuf> {
        self.sibling("cli")
    }

    /// The load generator beside the server (`redis-benchmark`), if it is there.
    pub fn benchmark(&self) -> Option<PathBuf> {
        self.sibling("benchmark")
    }

    /// The RDB checker beside the server (`redis-check-rdb`), if it is there.
    pub fn check_rdb(&self) -> Option<PathBuf> {
        self.sibling("check-rdb")
    }

    /// The AOF checker beside the server (`redis-check-aof`), if it is there.
    pub fn check_aof(&self) -> Option<PathBuf> {
        self.sibling("check-aof")
    }

    fn sibling(&self, tool: &str) -> Option<PathBuf> {
        let path = self.server.with_file_name(format!("{}-{tool}", stem(&self.server)?));
        path.is_file().then_some(path)
    }
}

impl fmt::Display for ServerBinary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.name, self.vendor, self.version)
    }
}

/// Every server found, each name once: those of the directory `KEYFERRY_SERVERS` names, those on `PATH`, then those that
/// `cargo xtask servers` put into [`servers_dir`]. Within a directory they are in order of vendor and version.
///
/// The programs are asked for their versions once a process.
pub fn binaries() -> &'static [ServerBinary] {
    static FOUND: OnceLock<Vec<ServerBinary>> = OnceLock::new();
    FOUND.get_or_init(find_binaries)
}

/// As [`binaries`], for tests that run on each of them and would pass on none.
///
/// # Errors
/// [`Error::NoServer`] when there is none.
pub fn all() -> Result<&'static [ServerBinary]> {
    any().map(|_| binaries())
}

/// The server that tests use when any will do: Redis 7.0 if it is there (the figures of this project are taken on it),
/// else the newest Redis, else the newest of the others.
///
/// # Errors
/// [`Error::NoServer`] when there is none.
pub fn any() -> Result<&'static ServerBinary> {
    binaries()
        .iter()
        .max_by_key(|b| {
            let redis = b.vendor == Vendor::Redis;
            (redis && (b.version.major, b.version.minor) == (7, 0), redis, b.version)
        })
        .ok_or_else(|| Error::NoServer { looked_in: servers_dir() })
}

/// The server of that name, for example `valkey-8.1`.
///
/// # Errors
/// [`Error::NoServer`] when there is none at all, [`Error::NoSuchServer`] when there are others.
pub fn named(name: &str) -> Result<&'static ServerBinary> {
    let found = binaries();
    if found.is_empty() {
        return Err(Error::NoServer { looked_in: servers_dir() });
    }
    found.iter().find(|b| b.name == name).ok_or_else(|| Error::NoSuchServer {
        name: name.to_owned(),
        found: found.iter().map(|b| b.name.as_str()).collect::<Vec<_>>().join(", "),
    })
}

/// Those of these servers that are there; where none is, any one. For tests that want certain versions, and have to pass on
/// a machine that has others.
///
/// # Errors
/// [`Error::NoServer`] when there is none at all.
pub fn chosen(names: &[&str]) -> Result<Vec<&'static ServerBinary>> {
    let found: Vec<_> = names.iter().filter_map(|name| named(name).ok()).collect();
    if found.is_empty() { Ok(vec![any()?]) } else { Ok(found) }
}

/// Where `cargo xtask servers` puts servers: `servers` in the target directory of the workspace.
pub fn servers_dir() -> PathBuf {
    target_dir().join("servers")
}

/// The target directory: `CARGO_TARGET_DIR`, else the one that the running program was built into, else `target` in the
/// workspace.
fn target_dir() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        // Cargo takes a relative one from where it was called, which for tests and xtask is the workspace.
        return workspace.join(dir);
    }
    // Cargo marks a target directory with this file, whatever it is called.
    let exe = std::env::current_exe().unwrap_or_default();
    let marked = exe.ancestors().skip(1).find(|dir| dir.join("CACHEDIR.TAG").is_file());
    marked.map_or_else(|| workspace.join("target"), Path::to_owned)
}

/// As [`binaries`], looking anew: for who has just put a server there.
pub fn find_binaries() -> Vec<ServerBinary> {
    let mut found: Vec<ServerBinary> = Vec::new();
    let mut add = |mut more: Vec<ServerBinary>| {
        more.sort_by(|a, b| (a.vendor, a.version, &a.name).cmp(&(b.vendor, b.version, &b.name)));
        for binary in more {
            if !found.iter().any(|known| known.name == binary.name) {
                found.push(binary);
            }
        }
    };
    if let Some(dir) = std::env::var_os("KEYFERRY_SERVERS").filter(|dir| !dir.is_empty()) {
        add(in_directory(Path::new(&dir)));
    }
    add(on_path());
    add(in_directory(&servers_dir()));
    found
}

/// Programs `NAME-server` of `dir/bin` (what `cargo xtask servers` lays out) and of `dir` itself.
fn in_directory(dir: &Path) -> Vec<ServerBinary> {
    let mut paths = BTreeMap::new();
    for dir in [dir.join("bin"), dir.to_owned()] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_file() && stem(&path).is_some() {
                paths.entry(entry.file_name()).or_insert(path);
            }
        }
    }
    paths.values().filter_map(|path| ServerBinary::probe(path)).collect()
}

fn on_path() -> Vec<ServerBinary> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = Vec::new();
    for vendor in ["redis", "valkey", "redict", "keydb"] {
        let program = format!("{vendor}-server");
        let first = std::env::split_paths(&path).map(|dir| dir.join(&program)).find(|p| p.is_file());
        found.extend(first.and_then(|path| ServerBinary::probe(&path)));
    }
    found
}

/// `redis-7.0` of `…/redis-7.0-server`.
fn stem(path: &Path) -> Option<&str> {
    path.file_name().and_then(OsStr::to_str)?.strip_suffix("-server").filter(|stem| !stem.is_empty())
}

/// Reads `Redis server v=7.0.15 sha=00000000:0 malloc=…`.
fn parse_version_line(line: &str) -> Option<(Vendor, Version)> {
    let product = line.split(" server ").next()?.trim().to_ascii_lowercase();
    let vendor = [Vendor::KeyDb, Vendor::Valkey, Vendor::Redict, Vendor::Redis]
        .into_iter()
        .find(|vendor| product.contains(vendor.as_str()))?;
    let version = line.split_whitespace().find_map(|word| word.strip_prefix("v="))?;
    Some((vendor, Version::parse(version)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_lines() {
        let version = |major, minor, patch| Version { major, minor, patch };
        for (line, expected) in [
            (
                "Redis server v=6.0.16 sha=0:0 malloc=jemalloc-5.2.1 bits=64",
                (Vendor::Redis, version(6, 0, 16)),
            ),
            ("Valkey server v=9.1.2 sha=00000000:0", (Vendor::Valkey, version(9, 1, 2))),
            ("Redict server v=7.3.6 sha=00000000:0", (Vendor::Redict, version(7, 3, 6))),
            ("Futriix KeyDB server v=6.3.4 sha=0:0", (Vendor::KeyDb, version(6, 3, 4))),
        ] {
            assert_eq!(parse_version_line(line), Some(expected), "{line}");
        }
        assert_eq!(parse_version_line("nginx version: 1.2"), None);
        assert_eq!(parse_version_line("Redis server v=unknown"), None);
        assert_eq!(parse_version_line(""), None);
    }

    #[test]
    fn versions_are_ordered() {
        let version = |text| Version::parse(text).unwrap();
        assert!(version("6.2.14") < version("7.0.0"));
        assert!(version("7.0.15").at_least(7, 0));
        assert!(!version("7.0.15").at_least(7, 2));
        assert!(version("8.0").at_least(7, 4));
    }

    #[test]
    fn names_are_unique_and_the_tools_are_beside_the_server() {
        let found = binaries();
        for (i, binary) in found.iter().enumerate() {
            assert!(!found[..i].iter().any(|other| other.name == binary.name), "{} twice", binary.name);
            for tool in [binary.cli(), binary.benchmark(), binary.check_rdb(), binary.check_aof()]
                .into_iter()
                .flatten()
            {
                assert_eq!(tool.parent(), binary.server.parent());
            }
        }
        let any = any().expect("a server, see `cargo xtask servers`");
        assert_eq!(named(&any.name).unwrap(), any);
        let missing = named("redis-0.1").unwrap_err().to_string();
        assert!(missing.contains("redis-0.1") && missing.contains(&any.name), "{missing}");
    }
}
