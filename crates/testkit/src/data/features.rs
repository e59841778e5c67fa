use std::collections::HashSet;

use crate::binaries::Version;
use crate::client::Client;
use crate::error::Result;

/// What a server can do, as it says itself.
#[derive(Debug, Clone)]
pub struct Features {
    commands: HashSet<Vec<u8>>,
    redis_version: Version,
}

impl Features {
    /// Asks the server for its commands and the Redis version it claims to be.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn probe(client: &mut Client) -> Result<Features> {
        let mut commands = HashSet::new();
        for command in client.list(&["COMMAND"])? {
            // Each is an array that starts with the name.
            let name = command.as_array().and_then(|fields| fields.first()?.as_bytes());
            commands.extend(name.map(|name| name.to_ascii_lowercase()));
        }
        let version = client.info("server", "redis_version")?.as_deref().and_then(Version::parse);
        let oldest = Version { major: 0, minor: 0, patch: 0 };
        Ok(Features { commands, redis_version: version.unwrap_or(oldest) })
    }

    /// What both have.
    #[must_use]
    pub fn shared(&self, other: &Features) -> Features {
        let commands = self.commands.intersection(&other.commands).cloned().collect();
        let older = other.redis_version.at_least(self.redis_version.major, self.redis_version.minor);
        let redis_version = if older { self.redis_version } else { other.redis_version };
        Features { commands, redis_version }
    }

    /// Whether it has the command, given in lower case.
    pub fn has(&self, command: &str) -> bool {
        self.commands.contains(command.as_bytes())
    }

    /// Whether it claims to be this Redis version or newer: for options of commands, which COMMAND does not list. Forks
    /// claim the version that they branched off from (7.2.4) and have its options.
    pub fn is_redis(&self, major: u32, minor: u32) -> bool {
        self.redis_version.at_least(major, minor)
    }
}
