//! What is looked at, by name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Makes the enum, its names, and what is known of each.
macro_rules! items {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $question:literal;)*) => {
        /// One thing that is looked at. Its name, as [`Item::name`] gives it, is what `--ignore` takes and the JSON holds; names
        /// stay as they are.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Item {
            $($(#[$doc])* $variant,)*
        }

        impl Item {
            /// All of them, in the order in which they are reported.
            pub const ALL: &'static [Item] = &[$(Item::$variant,)*];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Item::$variant => $name,)*
                }
            }

            /// What is asked, for people.
            #[must_use]
            pub fn question(self) -> &'static str {
                match self {
                    $(Item::$variant => $question,)*
                }
            }
        }
    };
}

items! {
    /// Files that cannot be read, or are damaged. Long.
    Files = "files", "are the files whole and undamaged?";
    /// Servers that cannot be connected to.
    Reachable = "reachable", "are all servers reached from here?";
    /// Refused passwords and users.
    Credentials = "credentials", "are the user and the password right?";
    /// Loading servers, replicas, sentinels.
    Roles = "roles", "is the source ready to be read, and the target a primary?";
    /// Slots of a cluster without an owner, or on the move.
    Slots = "slots", "is each slot of a cluster served, and at rest?";
    /// Both URLs lead to one server or one replication.
    SameServer = "same-server", "are source and target different servers?";
    /// Round trips.
    Latency = "latency", "how long does an answer take from here?";
    /// Encryption.
    Tls = "tls", "is what goes over the network encrypted, and the other side verified?";
    /// Permissions at the source.
    SourceAcl = "source-acl", "does the user at the source have the permissions it needs?";
    /// Replication from the source.
    Psync = "psync", "may this user replicate from the source?";
    /// Permissions at the target.
    TargetAcl = "target-acl", "does the user at the target have the permissions it needs?";
    /// Vendors and versions.
    Versions = "versions", "does the target know what the source has?";
    /// Values for which the target has no place, in a sample. Long.
    Losses = "losses", "would anything in a sample of the keys be lost?";
    /// Modules.
    Modules = "modules", "does the target have the modules of the source?";
    /// Function libraries.
    Functions = "functions", "can the target take the functions of the source?";
    /// Database numbers.
    Databases = "databases", "does the target have the databases that are used?";
    /// Memory.
    Memory = "memory", "does the target have room, with a tenth to spare?";
    /// Eviction.
    EvictionPolicy = "eviction-policy", "does the target keep what it is given?";
    /// Keys that are at the target.
    Overlap = "overlap", "is the target empty, or free of the keys that come?";
    /// `client-output-buffer-limit`.
    OutputBuffer = "output-buffer", "does the source's output buffer last for the snapshot?";
    /// `repl-backlog-size`.
    Backlog = "backlog", "how long may the link to the source be interrupted?";
    /// `repl-timeout`.
    ReplTimeout = "repl-timeout", "how soon does the source give up a silent replica?";
    /// `proto-max-bulk-len`.
    BulkLength = "bulk-length", "does the target take arguments as long as the source's?";
    /// `maxclients`.
    MaxClients = "max-clients", "do the servers take more connections?";
    /// `min-replicas-to-write`.
    MinReplicas = "min-replicas", "does the target have the replicas that it wants for a write?";
    /// Snapshots and append-only files.
    Persistence = "persistence", "are both sides able to save, and the target free to write?";
    /// Room for the journal.
    JournalDisk = "journal-disk", "is there room on the disk for the journal?";
    /// Clocks.
    Clock = "clock", "do the clocks of both sides agree?";
    /// `notify-keyspace-events`.
    Notifications = "notifications", "do both sides notify of the same events?";
    /// Keys that other tools write all the time, in a sample. Long.
    HeartbeatKeys = "heartbeat-keys", "does the source hold the heartbeats of other tools?";
    /// Large values, in a sample. Long.
    BigKeys = "big-keys", "are there keys so large that they are moved in parts?";
    /// Commands that name several slots.
    CrossSlot = "cross-slot", "which commands in use will have keys in several slots?";
}

impl Item {
    /// True when looking takes so long, or asks so much of the source, that it is done on request only and not before every
    /// run.
    #[must_use]
    pub fn is_long(self) -> bool {
        matches!(self, Item::Files | Item::Losses | Item::HeartbeatKeys | Item::BigKeys)
    }

    /// True when it is looked at where the source is files, or else where it is servers.
    pub(super) fn is_for(self, files: bool) -> bool {
        match self {
            Item::Files => files,
            Item::SameServer
            | Item::SourceAcl
            | Item::Psync
            | Item::Versions
            | Item::OutputBuffer
            | Item::Backlog
            | Item::ReplTimeout
            | Item::JournalDisk
            | Item::Clock
            | Item::Notifications => !files,
            _ => true,
        }
    }

    /// True when a migration refuses to run, or waits, all the same: ignoring it changes nothing, and the run tells more.
    #[must_use]
    pub fn is_refused_anyway(self) -> bool {
        matches!(
            self,
            Item::Files
                | Item::Reachable
                | Item::Credentials
                | Item::Roles
                | Item::Slots
                | Item::SameServer
                | Item::Databases
        )
    }

    /// True when it extrapolates from the rates of the moment: a run is not ended for it, as it waits for room and takes up lost
    /// links again.
    #[must_use]
    pub fn is_forecast(self) -> bool {
        matches!(self, Item::OutputBuffer | Item::JournalDisk)
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no item {name:?}; items are {}", names())]
pub struct UnknownItem {
    name: String,
}

fn names() -> String {
    let names: Vec<&str> = Item::ALL.iter().map(|item| item.name()).collect();
    names.join(", ")
}

impl FromStr for Item {
    type Err = UnknownItem;

    fn from_str(name: &str) -> Result<Self, UnknownItem> {
        let found = Item::ALL.iter().copied().find(|item| item.name() == name);
        found.ok_or_else(|| UnknownItem { name: name.to_owned() })
    }
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_found_by_its_own_name() {
        for &item in Item::ALL {
            assert_eq!(item.name().parse(), Ok(item));
            assert!(item.question().ends_with('?'));
            assert!(item.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{item}");
        }
        let error = "memroy".parse::<Item>().unwrap_err().to_string();
        assert!(error.contains("\"memroy\"") && error.contains("memory, "), "{error}");
    }
}
