//! What a server says about itself.

use std::fmt;

use keyferry_resp::Frame;

use crate::Info;
use crate::error::printable;

/// What a server said about itself when the connection was made: in its answer to `HELLO` (6.0 and later), else
/// in `INFO`.
///
/// Forks lie in places and some services hide things: show this to people, and decide about features by trying
/// them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerInfo {
    /// Whose server it is.
    pub vendor: Vendor,
    /// Its version, in its vendor's own counting.
    pub version: Version,
    /// How it is deployed.
    pub mode: Mode,
    /// What it is in replication, at the time of connecting.
    pub role: Role,
    /// Number of this connection at the server (`CLIENT ID`), where `HELLO` tells it.
    pub connection_id: Option<i64>,
}

impl ServerInfo {
    /// From the reply to `HELLO`: a map, or in RESP2 the flat array. Unknown and missing entries are fine.
    pub(crate) fn from_hello(reply: &Frame) -> Self {
        let text = |key: &str| reply.get(key).and_then(Frame::as_str).unwrap_or_default();
        Self {
            vendor: Vendor::from_name(text("server")),
            version: Version::parse(text("version")).unwrap_or_default(),
            mode: Mode::from_name(text("mode")),
            role: Role::from_name(text("role")),
            connection_id: reply.get("id").and_then(Frame::as_i64),
        }
    }

    /// From `INFO`, whose sections `server` and `replication` matter.
    pub fn from_info(info: &Info) -> Self {
        // Forks give Redis's version too, so that clients of Redis take them: their own comes first.
        let own = [
            ("valkey_version", Vendor::Valkey),
            ("redict_version", Vendor::Redict),
            ("dragonfly_version", Vendor::Dragonfly),
        ];
        let own = own.into_iter().find_map(|(key, vendor)| Some((vendor, info.get(key)?)));
        let (vendor, version) = match (own, info.get("redis_version")) {
            (Some((vendor, version)), _) => (vendor, Some(version)),
            (None, Some(version)) => {
                (info.get("server_name").map_or(Vendor::Redis, Vendor::from_name), Some(version))
            }
            (None, None) => (Vendor::default(), None),
        };
        let mode = ["redis_mode", "server_mode", "redict_mode"].into_iter().find_map(|key| info.get(key));
        Self {
            vendor,
            version: version.and_then(Version::parse).unwrap_or_default(),
            mode: Mode::from_name(mode.unwrap_or_default()),
            role: Role::from_name(info.get("role").unwrap_or_default()),
            connection_id: None,
        }
    }
}

/// `Valkey 8.1.4, standalone, primary`
impl fmt::Display for ServerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, {}, {}", self.vendor, self.version, self.mode, self.role)
    }
}

/// Whose server it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Vendor {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
    /// Redict.
    Redict,
    /// KeyDB.
    KeyDb,
    /// Dragonfly.
    Dragonfly,
    /// Another one: the name it gave, empty if it gave none.
    Other(String),
}

impl Vendor {
    fn from_name(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "redis" => Self::Redis,
            "valkey" => Self::Valkey,
            "redict" => Self::Redict,
            "keydb" => Self::KeyDb,
            "dragonfly" => Self::Dragonfly,
            _ => Self::Other(printable(name.as_bytes())),
        }
    }
}

impl Default for Vendor {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "Redis",
            Self::Valkey => "Valkey",
            Self::Redict => "Redict",
            Self::KeyDb => "KeyDB",
            Self::Dragonfly => "Dragonfly",
            Self::Other(name) if name.is_empty() => "unknown server",
            Self::Other(name) => name,
        })
    }
}

/// A version number; `0.0.0` when the server did not give any. Development builds say `255.255.255`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl Version {
    /// A version from its numbers.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Reads `7.2.4`, `8.0`, `df-v1.2.3`, `9.0.0-rc1`: one to three numbers, anything before and after them
    /// ignored. `None` if there is no number.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_start_matches(|c: char| !c.is_ascii_digit());
        let mut numbers = [0; 3];
        let mut rest = text;
        for (at, number) in numbers.iter_mut().enumerate() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            match rest[..end].parse() {
                Ok(value) => *number = value,
                Err(_) if at == 0 => return None,
                Err(_) => break,
            }
            match rest[end..].strip_prefix('.') {
                Some(after) => rest = after,
                None => break,
            }
        }
        let [major, minor, patch] = numbers;
        Some(Self { major, minor, patch })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// How a server is deployed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// On its own, or with replicas.
    Standalone,
    /// Node of a cluster.
    Cluster,
    /// A sentinel: it holds no data.
    Sentinel,
    /// It did not say, or said something else.
    #[default]
    Unknown,
}

impl Mode {
    fn from_name(name: &str) -> Self {
        match name {
            "standalone" => Self::Standalone,
            "cluster" => Self::Cluster,
            "sentinel" => Self::Sentinel,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standalone => "standalone",
            Self::Cluster => "cluster",
            Self::Sentinel => "sentinel",
            Self::Unknown => "unknown mode",
        })
    }
}

/// What a server is in replication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Follows a primary.
    Replica,
    /// It did not say, or said something else.
    #[default]
    Unknown,
}

impl Role {
    fn from_name(name: &str) -> Self {
        match name {
            "master" | "primary" => Self::Primary,
            "slave" | "replica" => Self::Replica,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Unknown => "unknown role",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_leniently_and_compared_by_number() {
        for (text, expected) in [
            ("7.2.4", Some((7, 2, 4))),
            ("8.0", Some((8, 0, 0))),
            ("v1.21.0", Some((1, 21, 0))),
            ("9.0.0-rc1", Some((9, 0, 0))),
            ("255.255.255", Some((255, 255, 255))),
            ("6", Some((6, 0, 0))),
            ("6.", Some((6, 0, 0))),
            ("6.x.3", Some((6, 0, 0))),
            ("99999999999", None),
            ("df-v1.2", Some((1, 2, 0))),
            ("unknown", None),
            ("", None),
        ] {
            let expected = expected.map(|(major, minor, patch)| Version { major, minor, patch });
            assert_eq!(Version::parse(text), expected, "{text}");
        }
        assert!(Version::new(7, 2, 10) > Version::new(7, 2, 9));
    }

    #[test]
    fn forks_are_told_apart_by_info() {
        for (text, shown) in [
            (
                "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\nredis_mode:standalone\r\nrole:master\r\n",
                "Valkey 8.1.1, standalone, primary",
            ),
            ("redis_version:2.8.24\nredis_mode:cluster\nrole:slave\n", "Redis 2.8.24, cluster, replica"),
            (
                "redict_version:7.3.1\nredict_mode:sentinel\nredis_version:7.2.4\n",
                "Redict 7.3.1, sentinel, unknown role",
            ),
            (
                "redis_version:6.2.11\ndragonfly_version:df-v1.2\n",
                "Dragonfly 1.2.0, unknown mode, unknown role",
            ),
            ("", "unknown server 0.0.0, unknown mode, unknown role"),
        ] {
            assert_eq!(ServerInfo::from_info(&Info::parse(text.as_bytes())).to_string(), shown);
        }
    }
}
