//! Which servers a case is for.

use std::collections::BTreeMap;
use std::fmt;

use keyferry_client::{ServerInfo, Vendor, Version};
use serde::{Deserialize, Serialize};

/// Forks are taken for the Redis that they come from, until a case says otherwise.
const FORKED_FROM: Version = Version::new(7, 2, 4);
/// KeyDB's.
const KEYDB_FROM: Version = Version::new(6, 2, 0);

/// Versions by vendor, `{"redis": "7.4.0", "valkey": "9.0.0"}`; or one text, which is a version of Redis.
///
/// Valkey and Redict are Redis 7.2.4 to it, and KeyDB is 6.2.0, as long as they are not named. So `"6.2.0"` holds for all of
/// these, `"7.4.0"` for Redis alone. Vendors that are not known are Redis 7.2.4 to it, too: say what to take them for where that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Gate {
    /// A version of Redis.
    Redis(String),
    /// Versions by vendor, in lower case.
    Vendors(BTreeMap<String, String>),
}

impl Gate {
    /// The versions as numbers, or what is wrong with them.
    pub(crate) fn check(&self) -> Result<(), String> {
        const KNOWN: [&str; 4] = ["redis", "valkey", "redict", "keydb"];
        let texts: Vec<&String> = match self {
            Self::Redis(text) => vec![text],
            Self::Vendors(vendors) => {
                if let Some(name) = vendors.keys().find(|name| !KNOWN.contains(&name.as_str())) {
                    return Err(format!("\"{name}\" is none of {}", KNOWN.join(", ")));
                }
                vendors.values().collect()
            }
        };
        match texts.iter().find(|text| parse(text).is_none()) {
            Some(text) => Err(format!("\"{text}\" is not a version")),
            None => Ok(()),
        }
    }

    /// Whether the server is at least of this version.
    pub fn admits(&self, server: &Claim) -> bool {
        let of = |vendor: &str| match self {
            Self::Redis(text) => (vendor == "redis").then_some(text),
            Self::Vendors(vendors) => vendors.get(vendor),
        };
        if let Some(own) = of(&server.vendor) {
            return parse(own).is_some_and(|least| server.version >= least);
        }
        let Some(least) = of("redis").and_then(|text| parse(text)) else { return false };
        server.as_redis() >= least
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis(text) => write!(f, "redis {text}"),
            Self::Vendors(vendors) => {
                for (at, (vendor, version)) in vendors.iter().enumerate() {
                    write!(f, "{}{vendor} {version}", if at == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

/// What a server says that it is, or what it is taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The vendor in lower case; empty where the server did not say.
    pub vendor: String,
    /// The version in the vendor's own counting.
    pub version: Version,
}

impl Claim {
    /// What the server said.
    pub fn of(server: &ServerInfo) -> Self {
        Self { vendor: server.vendor.to_string().to_lowercase(), version: server.version }
    }

    /// That version of Redis.
    pub fn redis(version: Version) -> Self {
        Self { vendor: Vendor::Redis.to_string().to_lowercase(), version }
    }

    /// The version of Redis that its vendor's fork comes from.
    fn as_redis(&self) -> Version {
        match self.vendor.as_str() {
            "redis" => self.version,
            "keydb" => KEYDB_FROM,
            _ => FORKED_FROM,
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.vendor, self.version)
    }
}

fn parse(text: &str) -> Option<Version> {
    Version::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(vendor: &str, version: &str) -> Claim {
        Claim { vendor: vendor.to_owned(), version: parse(version).unwrap() }
    }

    #[test]
    fn forks_are_what_they_come_from_until_they_are_named() {
        let old: Gate = serde_json::from_str("\"6.2.0\"").unwrap();
        let fields: Gate = serde_json::from_str(r#"{"redis": "7.4.0", "valkey": "9.0.0"}"#).unwrap();
        let valkey: Gate = serde_json::from_str(r#"{"valkey": "8.1.0"}"#).unwrap();
        for (server, admitted) in [
            (claim("redis", "6.0.16"), [false, false, false]),
            (claim("redis", "7.0.15"), [true, false, false]),
            (claim("redis", "8.0.2"), [true, true, false]),
            (claim("redict", "7.3.0"), [true, false, false]),
            (claim("valkey", "8.0.1"), [true, false, false]),
            (claim("valkey", "8.1.1"), [true, false, true]),
            (claim("valkey", "9.1.2"), [true, true, true]),
            (claim("dragonfly", "1.2.3"), [true, false, false]),
        ] {
            let gates = [&old, &fields, &valkey].map(|gate| gate.admits(&server));
            assert_eq!(gates, admitted, "{server}");
        }
        assert!(serde_json::from_str::<Gate>(r#"{"redsi": "7"}"#).unwrap().check().is_err());
        assert!(Gate::Redis("seven".to_owned()).check().is_err());
    }
}
