//! One writer a migration: who may write to the target, and how everybody else is kept from it.
//!
//! Whoever works on a migration writes his *token* into its state at the target, and keeps a second key beside it alive (the
//! lease). Each of his connections bears the token in its name, and asks for the token in the state before it writes
//! anything. Who takes over writes his own token first, and then has every node of the target close the connections that
//! bear another. So whatever the one before may still do, however long it was asleep: its connections are gone, and new ones
//! are refused.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use keyferry_client::{Backoff, Connection, Error as ClientError, Pipeline};
use keyferry_resp::{ErrorReply, Frame};
use keyferry_routing::Redirect;

use crate::{
    error::Error,
    identity::MigrationId,
    progress::Meter,
    sharded::{TargetMap, Windows, reason, state},
};

/// How long a lease lasts that nobody renews.
pub(crate) const LEASE: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(3);
/// How soon that is tried again.
const RETRY: Duration = Duration::from_millis(300);

/// Who works on a migration: this process, this time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    /// A token that nobody had before. It tells people where to look: host, process, and something random.
    pub(crate) fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host: String =
            host.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')).take(40).collect();
        let host = if host.is_empty() { "host" } else { &host };
        Token(format!("{host}.{}.{:016x}", std::process::id(), RandomState::new().hash_one(0)))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of connections that bear the token.
    pub(crate) fn connection_name(&self, id: &MigrationId) -> String {
        format!("{}{}", id.connection_prefix(), self.0)
    }
}

/// Until when this process may take for granted that nobody has taken over.
#[derive(Debug)]
pub(crate) struct Lease(Mutex<Instant>);

impl Lease {
    pub(crate) fn is_held(&self) -> bool {
        Instant::now() < *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was renewed; the request was sent at this moment. True when it had run out.
    fn renewed(&self, at: Instant) -> bool {
        let mut until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let was_over = *until <= at;
        *until = at + LEASE;
        was_over
    }
}

/// The right to write to a target.
#[derive(Debug)]
pub(crate) struct Fence {
    id: MigrationId,
    token: Token,
    map: Arc<TargetMap>,
    windows: Windows,
    /// Who is told what is waited for.
    meter: Option<Meter>,
    pub(crate) lease: Arc<Lease>,
    /// True when the lease is not to be renewed any more; held while it is.
    over: tokio::sync::Mutex<bool>,
}

/// Why a connection is of no use.
#[derive(Debug)]
pub(crate) enum Barred {
    /// It broke, or its server does not answer now.
    Lost(ClientError),
    /// Nobody here may write any more.
    Fenced(Error),
}

impl From<ClientError> for Barred {
    fn from(error: ClientError) -> Self {
        Barred::Lost(error)
    }
}

impl Barred {
    /// Not the time to try again.
    fn into_error(self) -> Error {
        match self {
            Barred::Lost(error) => Error::Target(error),
            Barred::Fenced(error) => error,
        }
    }
}

/// What an attempt to take over came to.
enum Attempt {
    Taken,
    /// Somebody has it, who may be gone: for so long, in milliseconds, unless it is renewed.
    Held(String, i64),
}

impl Fence {
    fn new(
        id: MigrationId,
        token: Token,
        map: Arc<TargetMap>,
        windows: Windows,
        meter: Option<Meter>,
    ) -> Self {
        let lease = Arc::new(Lease(Mutex::new(Instant::now())));
        Fence { id, token, map, windows, meter, lease, over: tokio::sync::Mutex::new(false) }
    }

    /// Takes the migration over, unless somebody else works on it, and gives what the target keeps of it. `known` is a token
    /// whose owner is known to have ended. The map's connections bear the token.
    ///
    /// Whoever held it before cannot write any more when this returns.
    ///
    /// # Errors
    /// [`Error::Fenced`], when somebody else goes on holding it; [`Error::FencedForGood`]; those of the connection and of
    /// the target, after their windows.
    pub(crate) async fn claim(
        id: MigrationId,
        token: Token,
        map: Arc<TargetMap>,
        known: Option<&str>,
        windows: Windows,
        meter: Meter,
    ) -> Result<(Self, state::State), Error> {
        let fence = Fence::new(id, token, map, windows, Some(meter));
        let since = Instant::now();
        let mut last: Option<(String, i64)> = None;
        loop {
            let asked = Instant::now();
            match fence.attempt(known).await {
                Ok(Attempt::Taken) => {
                    fence.lease.renewed(asked);
                    break;
                }
                Ok(Attempt::Held(holder, left)) => {
                    // Who is there renews it.
                    if last.as_ref().is_some_and(|(of, before)| *of == holder && *before < left) {
                        return Err(fence.fenced(&holder));
                    }
                    last = Some((holder, left));
                }
                Err(Barred::Lost(error)) if fence.waits_for(&error, since) => {}
                Err(barred) => return Err(barred.into_error()),
            }
            tokio::time::sleep(RETRY).await;
        }
        let mut delay = RETRY;
        loop {
            match fence.settle().await {
                Ok(state) => return Ok((fence, state)),
                Err(Barred::Lost(error)) if fence.waits_for(&error, since) => {}
                Err(barred) => return Err(barred.into_error()),
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RENEW);
        }
    }

    /// One attempt.
    async fn attempt(&self, known: Option<&str>) -> Result<Attempt, Barred> {
        let (owner, state_key) = (self.id.owner_key(), self.id.state_key());
        let mut connection = self.connect().await?;
        let mut ask = Pipeline::new();
        ask.push(["WATCH", &owner])
            .push(["GET", &owner])
            .push(["PTTL", &owner])
            .push(["HGETALL", &state_key]);
        let replies = answers(&mut connection, &ask).await?;
        let [_, holder, left, state] = &replies[..] else { return Err(out_of_step(&connection)) };
        let state = state::State::read(state).unwrap_or_default();
        self.check_fence(state.get(state::field::FENCE))?;
        if let Some(holder) = text(holder).filter(|holder| holder != self.token.as_str()) {
            let left = left.as_i64().unwrap_or(0);
            let known = known == Some(holder.as_str());
            if !known && self.is_connected(&mut connection, &holder).await? {
                return Ok(Attempt::Held(holder, left));
            }
        }
        let lease = LEASE.as_millis().to_string();
        let mut take = Pipeline::new();
        take.push(["MULTI"])
            .push(["SET", &owner, self.token.as_str(), "PX", &lease])
            .push(["HSET", &state_key, state::field::OWNER, self.token.as_str()])
            .push(["EXEC"]);
        let replies = answers(&mut connection, &take).await?;
        match replies.last() {
            Some(Frame::Array(results)) => {
                good(&connection, results.clone())?;
                Ok(Attempt::Taken)
            }
            // Somebody was quicker.
            _ => Ok(Attempt::Held(String::new(), i64::MAX)),
        }
    }

    /// True when somebody with this token is connected to the node of `connection`, or nobody can tell.
    async fn is_connected(&self, connection: &mut Connection, token: &str) -> Result<bool, ClientError> {
        let name = format!("{}{token}", self.id.connection_prefix());
        let list = connection.call_frame(["CLIENT", "LIST"]).await?;
        Ok(match clients(&list) {
            Some(clients) => clients.iter().any(|(_, of)| *of == name),
            None => true,
        })
    }

    /// Ends the connections of whoever had it before, on every node, and reads the state that is left.
    async fn settle(&self) -> Result<state::State, Barred> {
        self.end_others(Some(&self.token)).await?;
        let mut connection = self.connect().await?;
        self.check(&mut connection).await?;
        let reply = connection.call(["HGETALL", &self.id.state_key()]).await?;
        state::State::read(&reply).ok_or_else(|| out_of_step(&connection))
    }

    /// Ends all connections of this migration but those that bear this token.
    async fn end_others(&self, but: Option<&Token>) -> Result<(), ClientError> {
        let prefix = self.id.connection_prefix();
        let ours = but.map(|token| token.connection_name(&self.id));
        let survey = self.map.survey().await?;
        for address in survey.addresses() {
            self.end_others_at(&address, &prefix, ours.as_deref()).await?;
        }
        for address in &survey.replicas {
            // One that is down has nothing to lose; one that takes over has to be asked before it is written to.
            self.end_others_at(address, &prefix, ours.as_deref()).await.ok();
        }
        Ok(())
    }

    async fn end_others_at(
        &self,
        address: &str,
        prefix: &str,
        ours: Option<&str>,
    ) -> Result<(), ClientError> {
        let mut connection = Connection::connect(&self.map.connect_options(address).with_db(0)).await?;
        let list = connection.call_frame(["CLIENT", "LIST"]).await?;
        let Some(clients) = clients(&list) else {
            // A service that does not let us look: what was sent has to be over before the state is read.
            tokio::time::sleep(RETRY).await;
            return Ok(());
        };
        let own = connection.server().connection_id.map(|id| id.to_string());
        for (id, name) in clients {
            let other = name.starts_with(prefix) && Some(name.as_str()) != ours;
            if other && own.as_deref() != Some(id.as_str()) {
                connection.call_frame(["CLIENT", "KILL", "ID", &id]).await?;
            }
        }
        Ok(())
    }

    /// Asks, over a new connection that bears the token, whether it may be used: by the node itself, or by the one that it
    /// names.
    pub(crate) async fn check(&self, connection: &mut Connection) -> Result<state::State, Barred> {
        let state_key = self.id.state_key();
        let mut reply = connection.call_frame(["HGETALL", &state_key]).await?;
        let mut other = None;
        for _ in 0..5 {
            let Some(error) = reply.error_reply() else { break };
            let Some(redirect) = Redirect::parse(&error) else { break };
            let own = connection.address().to_string();
            let host = own.rsplit_once(':').map_or("", |(host, _)| host);
            let (host, port) = redirect.address(host);
            let options = self.map.connect_options(&format!("{host}:{port}")).with_db(0);
            let next = other.insert(Connection::connect(&options).await?);
            reply = next.call_frame(["HGETALL", &state_key]).await?;
        }
        if let Some(reply) = reply.error_reply() {
            return Err(Barred::Lost(refusal(connection, &reply)));
        }
        let state = state::State::read(&reply).unwrap_or_default();
        self.check_fence(state.get(state::field::FENCE))?;
        match state.get(state::field::OWNER) {
            Some(owner) if owner == self.token.as_str() => Ok(state),
            Some(owner) => Err(Barred::Fenced(self.fenced(owner))),
            None => Err(Barred::Fenced(Error::StateGone {
                id: self.id.to_string(),
                target: self.map.name(),
                key: state_key,
            })),
        }
    }

    fn check_fence(&self, fence: Option<&str>) -> Result<(), Barred> {
        match fence {
            Some(why) => {
                let (id, target) = (self.id.to_string(), self.map.name());
                Err(Barred::Fenced(Error::FencedForGood { id, target, why: why.to_owned() }))
            }
            None => Ok(()),
        }
    }

    /// True when what has failed since then is to be tried again.
    fn waits_for(&self, error: &ClientError, since: Instant) -> bool {
        let window = match error {
            ClientError::Server { code, message, .. } => {
                let reply = ErrorReply::new(format!("{code} {message}").into_bytes());
                self.windows.of(&reason(&reply))
            }
            ClientError::Auth { .. } => None,
            _ => Some(self.windows.connect),
        };
        let waits = window.is_some_and(|window| since.elapsed() < window);
        if waits && let Some(meter) = &self.meter {
            meter.note_trouble(Some(format!("{error}; it is tried again")));
        }
        waits
    }

    fn fenced(&self, holder: &str) -> Error {
        let (id, target) = (self.id.to_string(), self.map.name());
        Error::Fenced { id, target, holder: holder.to_owned() }
    }

    /// Renews the lease until somebody else has taken over; `renewed` is called when it had run out.
    pub(crate) async fn hold(&self, renewed: impl Fn()) -> Error {
        let mut connection = None;
        let mut wait = RENEW;
        loop {
            tokio::time::sleep(wait).await;
            let asked = Instant::now();
            let over = self.over.lock().await;
            if *over {
                drop(over);
                return std::future::pending().await;
            }
            let renewal = tokio::time::timeout(LEASE / 2, self.renew(&mut connection)).await;
            drop(over);
            match renewal {
                Ok(Ok(true)) => {
                    wait = RENEW;
                    if self.lease.renewed(asked) {
                        renewed();
                    }
                    continue;
                }
                Ok(Err(Barred::Fenced(error))) => return error,
                // Somebody changed it in between: the next look tells who.
                Ok(Ok(false)) => {}
                Ok(Err(Barred::Lost(_))) | Err(_) => connection = None,
            }
            wait = RETRY;
        }
    }

    async fn renew(&self, kept: &mut Option<Connection>) -> Result<bool, Barred> {
        if kept.is_none() {
            *kept = Some(self.connect().await?);
        }
        let Some(connection) = kept else { return Ok(false) };
        let owner = self.id.owner_key();
        connection.call(["WATCH", &owner]).await?;
        self.check(connection).await?;
        let lease = LEASE.as_millis().to_string();
        let mut take = Pipeline::new();
        take.push(["MULTI"]).push(["SET", &owner, self.token.as_str(), "PX", &lease]).push(["EXEC"]);
        let replies = answers(connection, &take).await?;
        Ok(matches!(replies.last(), Some(Frame::Array(_))))
    }

    pub(crate) fn token(&self) -> &str {
        self.token.as_str()
    }

    /// Writes fields of the state, and removes others. A target that cannot take them now is waited for, within the windows.
    pub(crate) async fn write(&self, fields: &[(String, String)], outdated: &[String]) -> Result<(), Error> {
        let since = Instant::now();
        let mut backoff = Backoff::new(RETRY, RENEW);
        loop {
            match self.try_write(fields, outdated).await {
                Err(Barred::Lost(error)) if self.waits_for(&error, since) => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                done => {
                    if let Some(meter) = &self.meter {
                        meter.note_trouble(None);
                    }
                    return done.map_err(Barred::into_error);
                }
            }
        }
    }

    async fn try_write(&self, fields: &[(String, String)], outdated: &[String]) -> Result<(), Barred> {
        let mut connection = self.connect().await?;
        self.check(&mut connection).await?;
        let key = self.id.state_key();
        let mut change = Pipeline::new();
        change.push(["MULTI"]);
        if !outdated.is_empty() {
            let mut args = vec!["HDEL", &key];
            args.extend(outdated.iter().map(String::as_str));
            change.push(args);
        }
        if !fields.is_empty() {
            let mut args = vec!["HSET", &key];
            args.extend(fields.iter().flat_map(|(field, value)| [field.as_str(), value.as_str()]));
            change.push(args);
        }
        change.push(["EXEC"]);
        answers(&mut connection, &change).await?;
        Ok(())
    }

    /// Gives the lease back, so that the next one need not wait.
    pub(crate) async fn release(&self) {
        self.end().await;
        let released = async {
            let mut connection = self.connect().await?;
            let owner = self.id.owner_key();
            let mut ask = Pipeline::new();
            ask.push(["WATCH", &owner]).push(["GET", &owner]);
            let replies = answers(&mut connection, &ask).await?;
            if replies.last().and_then(text).as_deref() == Some(self.token.as_str()) {
                let mut give = Pipeline::new();
                give.push(["MULTI"]).push(["DEL", &owner]).push(["EXEC"]);
                connection.pipeline(&give).await?;
            }
            Ok::<(), Barred>(())
        };
        // Else it runs out.
        tokio::time::timeout(RENEW, released).await.ok();
    }

    /// The lease is not renewed any more when this returns.
    pub(crate) async fn end(&self) {
        *self.over.lock().await = true;
    }

    /// Refuses everybody from now on, and ends who is at it.
    pub(crate) async fn close(id: MigrationId, map: Arc<TargetMap>, why: &str) -> Result<(), Error> {
        let fence = Fence::new(
            id,
            Token(String::new()),
            map,
            Windows { connect: Duration::ZERO, other: Duration::ZERO },
            None,
        );
        let closed = async {
            let mut connection = fence.connect().await?;
            let mut write = Pipeline::new();
            write
                .push(["MULTI"])
                .push(["HSET", &fence.id.state_key(), state::field::FENCE, why])
                .push(["DEL", &fence.id.owner_key()])
                .push(["EXEC"]);
            answers(&mut connection, &write).await?;
            fence.end_others(None).await?;
            Ok::<(), Barred>(())
        };
        closed.await.map_err(Barred::into_error)
    }

    /// A connection to the node that holds the state.
    async fn connect(&self) -> Result<Connection, ClientError> {
        self.map.connect_to(self.id.slot()).await
    }
}

/// Sends commands and gives the replies, unless one is an error.
async fn answers(connection: &mut Connection, commands: &Pipeline) -> Result<Vec<Frame>, Barred> {
    let replies = connection.pipeline(commands).await?;
    good(connection, replies)
}

/// The replies, unless one is an error.
fn good(connection: &Connection, replies: Vec<Frame>) -> Result<Vec<Frame>, Barred> {
    match replies.iter().find_map(Frame::error_reply) {
        Some(reply) => Err(Barred::Lost(refusal(connection, &reply))),
        None => Ok(replies),
    }
}

fn refusal(connection: &Connection, reply: &ErrorReply) -> ClientError {
    ClientError::Server {
        address: connection.address().clone(),
        command: "a command on the state of the migration".to_owned(),
        code: reply.code().to_owned(),
        message: reply.message().into_owned(),
    }
}

fn out_of_step(connection: &Connection) -> Barred {
    Barred::Lost(ClientError::OutOfStep { address: connection.address().clone() })
}

fn text(frame: &Frame) -> Option<String> {
    let bytes = frame.as_bytes()?;
    (!frame.is_null()).then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// Ids and names out of the reply to `CLIENT LIST`; `None` when the server does not tell.
fn clients(list: &Frame) -> Option<Vec<(String, String)>> {
    if list.error_reply().is_some() {
        return None;
    }
    let list = text(list)?;
    let word = |line: &str, name: &str| {
        line.split(' ').find_map(|word| word.strip_prefix(name).map(str::to_owned)).unwrap_or_default()
    };
    Some(list.lines().map(|line| (word(line, "id="), word(line, "name="))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_apart() {
        let list = "id=3 addr=127.0.0.1:1 laddr=127.0.0.1:2 fd=8 name=keyferry:a:x age=1 db=0\nid=4 addr=[::1]:1 name= age=0\n";
        let frame = Frame::from(bytes::Bytes::copy_from_slice(list.as_bytes()));
        let found = clients(&frame).unwrap();
        assert_eq!(found, [("3".into(), "keyferry:a:x".into()), ("4".to_string(), String::new())]);
        assert_eq!(clients(&Frame::Error(bytes::Bytes::from_static(b"NOPERM no"))), None);
    }

    #[test]
    fn a_token_is_a_name_that_servers_take() {
        let (a, b) = (Token::new(), Token::new());
        assert_ne!(a, b);
        assert!(a.as_str().bytes().all(|b| b.is_ascii_graphic()));
    }

    #[test]
    fn a_lease_ends_by_itself() {
        let lease = Lease(Mutex::new(Instant::now()));
        assert!(!lease.is_held());
        assert!(lease.renewed(Instant::now()));
        assert!(lease.is_held());
        assert!(!lease.renewed(Instant::now()));
    }
}
