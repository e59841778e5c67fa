//! What the threads of a [`Writer`](super::Writer) are connected to.

use std::time::{Duration, Instant};

use keyferry_resp::Frame;

use crate::client::Client;
use crate::cluster::ClusterClient;
use crate::error::{Error, Result};

/// How long a command is tried again after a primary was lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a primary may take for a reply before it counts as lost.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One command.
pub(super) type Args = Vec<Vec<u8>>;

pub(super) enum Link {
    /// One server; commands are pipelined, and a lost connection is an error.
    Server(Box<Client>),
    Cluster(Box<ClusterClient>),
    Primary(Box<Primary>),
}

impl Link {
    /// Sends commands, and hands each (or a whole transaction) to `answered` with its (last) reply.
    pub(super) fn send(&mut self, batch: &[Args], mut answered: impl FnMut(&[Args], &Frame)) -> Result<()> {
        if let Link::Server(client) = self {
            batch.iter().try_for_each(|command| client.queue(command))?;
            for command in batch {
                answered(std::slice::from_ref(command), &client.reply()?);
            }
            return Ok(());
        }
        let mut rest = batch;
        while let Some(unit) = next_unit(rest) {
            let reply = match self {
                Link::Cluster(client) => send_to_cluster(client, unit)?,
                Link::Primary(primary) => primary.send(unit)?,
                Link::Server(client) => client.call_raw(&unit[0])?,
            };
            answered(unit, &reply);
            rest = &rest[unit.len()..];
        }
        Ok(())
    }
}

/// A primary that may be replaced by another server.
pub(super) struct Primary {
    /// Connects to the one of the moment.
    connect: Box<dyn Fn() -> Result<Client> + Send>,
    client: Option<Client>,
    /// The last SELECT.
    select: Option<Args>,
}

impl Primary {
    pub(super) fn new(connect: impl Fn() -> Result<Client> + Send + 'static, client: Client) -> Primary {
        Primary { connect: Box::new(connect), client: Some(client), select: None }
    }

    fn send(&mut self, unit: &[Args]) -> Result<Frame> {
        let end = Instant::now() + PATIENCE;
        loop {
            let outcome = self.attempt(unit);
            let late = Instant::now() >= end;
            match outcome {
                Ok(replies) if late || !replies.iter().any(is_no_primary) => {
                    if unit[0][0] == b"SELECT" {
                        self.select = unit.first().cloned();
                    }
                    return replies.into_iter().next_back().ok_or(Error::Thread("writing nothing"));
                }
                Err(error) if late || !matches!(error, Error::Connection { .. } | Error::Cluster { .. }) => {
                    return Err(error);
                }
                _ => self.client = None,
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn attempt(&mut self, unit: &[Args]) -> Result<Vec<Frame>> {
        let client = match &mut self.client {
            Some(client) => client,
            empty => {
                let mut client = (self.connect)()?;
                client.set_timeout(TIMEOUT)?;
                if let Some(select) = &self.select {
                    client.call(select)?;
                }
                empty.insert(client)
            }
        };
        unit.iter().try_for_each(|command| client.queue(command))?;
        client.replies(unit.len())
    }
}

/// Whether the server refuses because it is no primary, or not one that may write yet.
fn is_no_primary(reply: &Frame) -> bool {
    let codes = [&b"READONLY"[..], b"LOADING", b"MASTERDOWN", b"NOREPLICAS", b"UNBLOCKED"];
    reply.error().is_some_and(|message| codes.iter().any(|code| message.starts_with(code)))
}

/// The next command, or the next transaction from MULTI to its end.
fn next_unit(commands: &[Args]) -> Option<&[Args]> {
    let is = |command: &Args, name: &[u8]| command.first().is_some_and(|arg| arg == name);
    let ends = |command: &Args| is(command, b"EXEC") || is(command, b"DISCARD");
    let length = match commands.first()? {
        first if is(first, b"MULTI") => commands.iter().position(ends)? + 1,
        _ => 1,
    };
    commands.get(..length)
}

fn send_to_cluster(client: &mut ClusterClient, unit: &[Args]) -> Result<Frame> {
    let [command] = unit else { return client.transaction(&unit[1..unit.len() - 1]) };
    let ok = Frame::Simple("OK".into());
    match command.first().map(Vec::as_slice) {
        Some(b"SELECT") => {
            let number = command.get(1).and_then(|arg| std::str::from_utf8(arg).ok()?.parse().ok());
            client.select(number.unwrap_or(0));
            Ok(ok)
        }
        Some(b"FUNCTION" | b"SCRIPT") => client.on_every_primary(command).map(|_| ok),
        _ => client.call_raw(command),
    }
}
