//! How a source is read: by the best way that it allows.

use keyferry_client::{ConnectOptions, Connection, Endpoint, Frame, Version};

use super::Found;
use crate::{
    error::Error,
    options::{Options, SourceMode},
    precheck::trial::{self, Trial},
};

/// A way to read a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// `PSYNC`: a snapshot and a stream that can be gone on with.
    Psync,
    /// `SYNC`: the same, from the beginning each time.
    Sync,
    /// Keys one by one.
    Scan,
}

impl Reading {
    /// As options and reports call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reading::Psync => "psync",
            Reading::Sync => "sync",
            Reading::Scan => "scan",
        }
    }
}

/// The way that is asked for, or else the first that every server of the source allows; and why not those before it.
///
/// # Errors
/// When a server cannot be reached.
pub(crate) async fn choose(source: &Endpoint, options: &Options) -> Result<(Reading, Vec<String>), Error> {
    match options.source_mode {
        SourceMode::Psync => return Ok((Reading::Psync, Vec::new())),
        SourceMode::Sync => return Ok((Reading::Sync, Vec::new())),
        SourceMode::Scan => return Ok((Reading::Scan, Vec::new())),
        SourceMode::Auto => {}
    }
    let nodes = Found::find(source).await?.nodes;
    let mut reasons = Vec::new();
    let psync = &options.link.psync_command;
    for (reading, command) in [(Reading::Psync, psync.as_str()), (Reading::Sync, "SYNC")] {
        let mut allowed = true;
        for node in &nodes {
            let node = node.clone().with_db(0);
            let trial = match reading {
                Reading::Psync => trial::psync(&node, command).await,
                _ => sync(&node).await,
            };
            let why = match trial.map_err(Error::SourceConnection)? {
                Trial::Denied(why) | Trial::Missing(why) => why,
                // What cannot be told is tried, where it costs nothing.
                Trial::Unknown(why) if reading == Reading::Sync => format!("cannot be told: {why}"),
                Trial::Allowed | Trial::Unknown(_) => continue,
            };
            reasons.push(format!("the source is not read by {command}: {}: {why}", node.address()));
            allowed = false;
            break;
        }
        if allowed {
            return Ok((reading, reasons));
        }
    }
    Ok((Reading::Scan, reasons))
}

/// Whether this user may send `SYNC`. It takes no argument that would make it fail later, so it is asked for, not tried.
async fn sync(connect: &ConnectOptions) -> Result<Trial, keyferry_client::Error> {
    let mut connection = Connection::connect(connect).await?;
    if connection.server().version < Version::new(7, 0, 0) {
        return Ok(trial::trials(&mut connection, &[vec![b"SYNC".to_vec()]]).await?.remove(0));
    }
    let user = connection.call_frame(["ACL", "WHOAMI"]).await?;
    let Some(name) = user.as_bytes().filter(|_| !user.is_error()) else {
        return Ok(Trial::Unknown(user.error_reply().map(|error| error.to_string()).unwrap_or_default()));
    };
    let reply = connection.call_frame([&b"ACL"[..], b"DRYRUN", name, b"SYNC"]).await?;
    Ok(match (&reply, reply.error_reply()) {
        (_, Some(error)) if error.to_string().to_ascii_lowercase().contains("not found") => {
            Trial::Missing(error.to_string())
        }
        (_, Some(error)) => Trial::Unknown(error.to_string()),
        (Frame::Simple(_), None) => Trial::Allowed,
        (other, None) => Trial::Denied(other.as_str().unwrap_or("no").to_owned()),
    })
}
