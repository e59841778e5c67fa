//! A stream of one server made fit for an older one, or another vendor's.
//!
//! **Takes** commands as a source passes them on. **Gives** those that have the same effect at the target. **Promises** that what
//! a target has no place for is told, and by its name. What it does not know goes on as it is: the target refuses it.
//!
//! Rules are those of the release notes and of `COMMAND DOCS` of Redis 6.0 to 8.8 and Valkey 7.2 to 9.1: each gap says from which
//! version on servers know a form. Values inside of `RESTORE` go the way that values of a snapshot go
//! ([`keyferry_rdb::convert`]).

mod gaps;
mod restore;
mod rules;

use keyferry_client::ServerInfo;
use keyferry_rdb::{TargetFormat, convert::Converter};
use keyferry_resp::{Command, CommandRef};

use self::gaps::Gaps;
use crate::{options::OnLoss, snapshot::now_ms, target::format_of};

/// What a stream needs on its way between two servers. None is needed where the target knows all that the source says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translation {
    gaps: Gaps,
    format: TargetFormat,
    /// What is done about that for which the target has no place.
    pub(crate) on_loss: OnLoss,
}

impl Translation {
    /// Between these servers; no sources mean that nobody knows what the commands come from.
    pub(crate) fn between(sources: &[ServerInfo], target: &ServerInfo, on_loss: OnLoss) -> Option<Self> {
        let gaps = match sources {
            [] => Gaps::between(None, target),
            sources => sources.iter().map(|source| Gaps::between(Some(source), target)).reduce(Gaps::or)?,
        };
        gaps.any().then(|| Translation { gaps, format: format_of(target), on_loss })
    }

    /// What a command comes to.
    pub(crate) fn translate(&self, command: &CommandRef<'_>) -> Translated {
        if command.is("RESTORE") || command.is("RESTORE-ASKING") {
            if !self.gaps.payloads {
                return Translated::AsItIs;
            }
            let mut format = self.format;
            format.expired_before = now_ms();
            return restore::restore(command, &mut Converter::new(format));
        }
        rules::translate(self.gaps, command)
    }
}

/// What a command comes to at the target.
#[derive(Debug, PartialEq)]
pub(crate) enum Translated {
    /// It is known there.
    AsItIs,
    /// These have the same effect, together.
    Commands(Vec<Command>),
    /// So do these, but for what is lost.
    Loses(String, Vec<Command>),
}

#[cfg(test)]
mod tests {
    use keyferry_client::{Vendor, Version};

    use super::*;

    fn server(vendor: Vendor, version: &str) -> ServerInfo {
        let mut server = ServerInfo::default();
        server.vendor = vendor;
        server.version = Version::parse(version).unwrap();
        server
    }

    #[test]
    fn nothing_is_needed_for_what_knows_all() {
        let needed = |source: (Vendor, &str), target: (Vendor, &str)| {
            let sources = [server(source.0, source.1)];
            Translation::between(&sources, &server(target.0, target.1), OnLoss::Fail).is_some()
        };
        use Vendor::{Redict, Redis, Valkey};
        for same in ["6.0.16", "7.0.15", "8.0.2"] {
            assert!(!needed((Redis, same), (Redis, same)), "{same}");
        }
        assert!(
            !needed((Redis, "6.0.16"), (Redis, "8.0.2")) && !needed((Redis, "7.0.15"), (Valkey, "9.0.0"))
        );
        assert!(
            !needed((Valkey, "8.1.0"), (Redis, "8.0.0")) && !needed((Redict, "7.3.0"), (Valkey, "8.0.0"))
        );
        for (source, target) in [
            ((Redis, "8.0.2"), (Redis, "6.0.16")),
            ((Redis, "7.0.15"), (Redis, "6.2.0")),
            ((Redis, "8.0.2"), (Valkey, "9.0.0")),
            ((Redis, "7.4.0"), (Valkey, "8.1.0")),
            ((Valkey, "9.0.0"), (Redis, "8.0.2")),
            ((Valkey, "9.0.0"), (Valkey, "8.1.0")),
        ] {
            assert!(needed(source.clone(), target.clone()), "{source:?} {target:?}");
        }
        let old = server(Redis, "6.0.0");
        assert!(Translation::between(&[], &old, OnLoss::Fail).is_some());
        let mixed = [old.clone(), server(Redis, "7.0.0")];
        assert!(Translation::between(&mixed, &old, OnLoss::Fail).is_some());
    }
}
