//! Whether a server would carry out a command, found without carrying it out.
//!
//! Servers check permissions when a command is put into a transaction, before it is queued, so `MULTI`, the commands, `DISCARD`
//! tells what `ACL DRYRUN` tells, on every version, for renamed commands too, and without the permission to ask for it.
//! `PSYNC` may not be queued from 7.0 on. There an offset that is no number makes it an error after the check and before
//! anything is begun (until 6.2 it would begin a full sync).

use keyferry_client::{ConnectOptions, Connection, Error, Frame, Pipeline, Version};

/// What a server says to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    Allowed,
    /// The user may not, or not with these keys.
    Denied(String),
    /// The command is not there, or has another name.
    Missing(String),
    /// It cannot be told.
    Unknown(String),
}

/// Tries these commands, of which no one may be `MULTI`, `EXEC`, `DISCARD`, `RESET` or `QUIT`.
pub(crate) async fn trials(
    connection: &mut Connection,
    commands: &[Vec<Vec<u8>>],
) -> Result<Vec<Trial>, Error> {
    let mut batch = Pipeline::new();
    batch.push(["MULTI"]);
    for command in commands {
        batch.push(command.iter());
    }
    batch.push(["DISCARD"]);
    let replies = connection.pipeline(&batch).await?;
    if let Some(refused) = replies.first().and_then(Frame::error_reply) {
        return Ok(vec![Trial::Unknown(format!("MULTI: {refused}")); commands.len()]);
    }
    Ok(replies.iter().skip(1).take(commands.len()).map(judged).collect())
}

fn judged(reply: &Frame) -> Trial {
    let Some(error) = reply.error_reply() else { return Trial::Allowed };
    let text = error.to_string();
    match text.split(' ').next() {
        Some("NOPERM") => Trial::Denied(text),
        Some("LOADING" | "BUSY" | "NOAUTH") => Trial::Unknown(text),
        _ if text.to_ascii_lowercase().starts_with("err unknown command") => Trial::Missing(text),
        // Whatever else there is to say is said after the check of permissions.
        _ => Trial::Allowed,
    }
}

/// Whether this user may replicate. The reply that says so, or why it is not known, comes with it.
/// `command` is its name there.
pub(crate) async fn psync(options: &ConnectOptions, command: &str) -> Result<Trial, Error> {
    if !command.eq_ignore_ascii_case("PSYNC") {
        // Servers know it by its name, and would begin with a snapshot at once.
        return Ok(Trial::Unknown(format!("{command} is not tried: it would begin a full sync")));
    }
    // A connection of its own: a server that takes the trial for the real thing has to be left.
    let mut connection = Connection::connect(options).await?;
    if connection.server().version < Version::new(7, 0, 0) {
        let command = [command, "?", "-1"].map(|arg| arg.as_bytes().to_vec());
        return Ok(trials(&mut connection, &[command.to_vec()]).await?.remove(0));
    }
    let reply = connection.call_frame([command, "?", "a trial of permissions"]).await?;
    Ok(match reply.error_reply().map(|error| error.to_string()) {
        Some(text) if text.starts_with("NOMASTERLINK") || text.contains("connected with my master") => {
            Trial::Unknown(text)
        }
        _ => judged(&reply),
    })
}

/// Whether the options of a replica are taken; they concern this connection only.
pub(super) async fn replconf(options: &ConnectOptions) -> Result<Trial, Error> {
    let mut connection = Connection::connect(options).await?;
    Ok(judged(&connection.call_frame(["REPLCONF", "capa", "psync2"]).await?))
}
