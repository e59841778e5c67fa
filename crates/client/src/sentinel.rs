//! Asking sentinels where the primary is, and noticing when it changes.
//!
//! A sentinel may be behind the others, or cut off from them, and name a server that is no primary any more. So its word
//! is checked with `ROLE` at the server itself before it counts.
//!
//! ```no_run
//! use std::time::Duration;
//! use keyferry_client::{Backoff, Connection, Endpoint, sentinel};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let Endpoint::Sentinel(options) = "redis+sentinel://:s3cret@10.0.0.1,10.0.0.2,10.0.0.3/mymaster".parse()? else {
//!     unreachable!()
//! };
//! let primary = sentinel::primary(&options).await?;
//! let connection = Connection::connect(&primary).await?;
//! // … the connection is lost: wait for whoever is the primary now.
//! let primary = sentinel::primary_within(&options, Duration::from_secs(60), Backoff::default()).await?;
//! # Ok(()) }
//! ```

use std::time::Duration;

use keyferry_resp::Frame;
use tokio::time::Instant;

use crate::tried::Tried;
use crate::{Address, Backoff, ConnectOptions, Connection, Error, SentinelOptions};

/// The options of the primary: the first server that a sentinel names and that says itself that it is a primary.
///
/// The sentinels are asked in their order. One that cannot be reached, does not know the service, or names a server that
/// does not answer or is no primary, is passed over.
///
/// # Errors
///
/// [`Error::NoPrimary`] with what each of them said. It is retryable ([`Error::is_retryable`]) while a failover may be the
/// cause.
pub async fn primary(options: &SentinelOptions) -> Result<ConnectOptions, Error> {
    let mut tried = Tried::default();
    for sentinel in options.sentinels() {
        match confirmed(options, sentinel).await {
            Ok(primary) => return Ok(primary),
            Err(obstacle) => obstacle.note(sentinel, &mut tried),
        }
    }
    Err(no_primary(tried, options))
}

/// As [`primary`], asking again for at most `time` while a failover may be under way, with the delays of `backoff`.
///
/// # Errors
///
/// The error of the last attempt. One that does not pass by itself, a wrong password for example, ends it at once.
pub async fn primary_within(
    options: &SentinelOptions,
    time: Duration,
    mut backoff: Backoff,
) -> Result<ConnectOptions, Error> {
    let end = Instant::now() + time;
    loop {
        match primary(options).await {
            Err(error) if error.is_retryable() => {
                let next = Instant::now() + backoff.next_delay();
                if next >= end {
                    return Err(error);
                }
                tokio::time::sleep_until(next).await;
            }
            outcome => return outcome,
        }
    }
}

/// The options of the replicas that a sentinel sees as connected and working, in its order.
///
/// # Errors
///
/// [`Error::NoPrimary`] when no sentinel can be asked or none knows the service.
pub async fn replicas(options: &SentinelOptions) -> Result<Vec<ConnectOptions>, Error> {
    let mut tried = Tried::default();
    for sentinel in options.sentinels() {
        match list_replicas(options, sentinel).await {
            Ok(replicas) => return Ok(replicas.iter().map(|address| options.at(address)).collect()),
            Err(error) => unless_unknown(error).note(sentinel, &mut tried),
        }
    }
    Err(no_primary(tried, options))
}

/// Asks one sentinel, and then the server that it names.
async fn confirmed(options: &SentinelOptions, sentinel: &Address) -> Result<ConnectOptions, Obstacle> {
    let mut connection =
        Connection::connect(&options.sentinel.clone().with_address(sentinel.clone())).await?;
    let command = "SENTINEL GET-MASTER-ADDR-BY-NAME";
    let reply = connection.call(["SENTINEL", "GET-MASTER-ADDR-BY-NAME", options.service()]).await?;
    if reply.is_null() {
        return Err(Obstacle::UnknownService);
    }
    let announced = reply.as_array().and_then(address_of);
    let Some(announced) = announced else {
        return Err(Error::unexpected(sentinel, command, "host and port", &reply).into());
    };
    let primary = options.at(&announced);
    // Sentinels name the old primary until a failover is over.
    let mut connection = Connection::connect(&primary).await?;
    let reply = connection.call(["ROLE"]).await?;
    let role = reply.as_array().and_then(|fields| fields.first()?.as_str());
    match role {
        Some("master") => Ok(primary),
        Some(_) => Err(Obstacle::NoPrimary(primary.address().clone())),
        None => Err(Error::unexpected(primary.address(), "ROLE", "a role", &reply).into()),
    }
}

async fn list_replicas(options: &SentinelOptions, sentinel: &Address) -> Result<Vec<Address>, Error> {
    let mut connection =
        Connection::connect(&options.sentinel.clone().with_address(sentinel.clone())).await?;
    // The word that every version knows.
    let reply = connection.call(["SENTINEL", "SLAVES", options.service()]).await?;
    let command = "SENTINEL SLAVES";
    let replicas =
        reply.as_array().ok_or_else(|| Error::unexpected(sentinel, command, "an array", &reply))?;
    let mut working = Vec::new();
    for replica in replicas {
        let text = |name: &str| replica.get(name).and_then(Frame::as_str);
        let (Some(host), Some(port)) = (text("ip"), text("port").and_then(|port| port.parse().ok())) else {
            return Err(Error::unexpected(sentinel, command, "the address of a replica", replica));
        };
        let bad = |flag: &str| matches!(flag, "s_down" | "o_down" | "disconnected");
        let linked = text("master-link-status").is_none_or(|status| status == "ok");
        if linked && !text("flags").unwrap_or_default().split(',').any(bad) {
            working.push(Address::tcp(host, port));
        }
    }
    Ok(working)
}

/// Host and port, as two texts.
fn address_of(fields: &[Frame]) -> Option<Address> {
    let [host, port] = fields else { return None };
    let port = port.as_str()?.parse().ok().filter(|&port| port != 0)?;
    let host = host.as_str().filter(|host| !host.is_empty())?;
    Some(Address::tcp(host, port))
}

/// Why one sentinel was of no help.
enum Obstacle {
    UnknownService,
    /// It names a server that is no primary.
    NoPrimary(Address),
    Failed(Error),
}

impl Obstacle {
    fn note(&self, sentinel: &Address, tried: &mut Tried) {
        match self {
            Self::UnknownService => tried.at(sentinel, false, "does not know that name"),
            Self::NoPrimary(named) => {
                tried.at(sentinel, true, format_args!("names {named}, which is no primary"));
            }
            Self::Failed(error) => tried.error(error),
        }
    }
}

impl From<Error> for Obstacle {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The answer to `SENTINEL SLAVES` for a name that is not watched is an error.
fn unless_unknown(error: Error) -> Obstacle {
    match &error {
        Error::Server { message, .. } if message.contains("No such master") => Obstacle::UnknownService,
        _ => Obstacle::Failed(error),
    }
}

fn no_primary(tried: Tried, options: &SentinelOptions) -> Error {
    let service = crate::error::printable(options.service().as_bytes());
    Error::NoPrimary { service, reasons: tried.reasons, passing: tried.passing }
}

/// A subscription to the failovers that a sentinel tells of (`+switch-master`).
///
/// It hears only what its sentinel sees while the connection stands: whoever relies on it looks with [`primary`] after
/// subscribing, and from time to time.
#[derive(Debug)]
pub struct Watch {
    connection: Connection,
    service: String,
}

/// A failover: another server is the primary of the service now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Switch {
    /// The former primary, as the sentinels name it.
    pub from: Address,
    /// The new primary, as the sentinels name it; see [`SentinelOptions::at`].
    pub to: Address,
}

impl Watch {
    /// Subscribes at the first sentinel that can be reached.
    ///
    /// # Errors
    ///
    /// [`Error::NoPrimary`] when none can.
    pub async fn subscribe(options: &SentinelOptions) -> Result<Self, Error> {
        let mut tried = Tried::default();
        for sentinel in options.sentinels() {
            match Self::subscribe_at(options, sentinel).await {
                Ok(watch) => return Ok(watch),
                Err(error) => tried.error(&error),
            }
        }
        Err(no_primary(tried, options))
    }

    async fn subscribe_at(options: &SentinelOptions, sentinel: &Address) -> Result<Self, Error> {
        let at = options.sentinel.clone().with_address(sentinel.clone());
        let mut connection = Connection::connect(&at).await?;
        connection.send(["SUBSCRIBE", "+switch-master"]).await?;
        let reply = connection.receive().await?;
        if let Some(text) = reply.error() {
            return Err(Error::from_reply(sentinel, "SUBSCRIBE", text, at.password()));
        }
        // Failovers are rare: silence is no fault.
        connection.set_read_timeout(None);
        Ok(Self { connection, service: options.service().to_owned() })
    }

    /// The sentinel that is listened to.
    pub fn sentinel(&self) -> &Address {
        self.connection.address()
    }

    /// Waits for the next failover of the service.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::receive`]: subscribe anew, and look with [`primary`] what was missed.
    pub async fn next(&mut self) -> Result<Switch, Error> {
        loop {
            let frame = self.connection.receive().await?;
            if let Some(switch) = switch_of(&frame, &self.service) {
                return Ok(switch);
            }
        }
    }
}

/// `message +switch-master "NAME OLD-HOST OLD-PORT NEW-HOST NEW-PORT"`
fn switch_of(frame: &Frame, service: &str) -> Option<Switch> {
    let fields = match frame.value() {
        Frame::Array(fields) | Frame::Push(fields) => fields.as_slice(),
        _ => return None,
    };
    let [kind, channel, text] = fields else { return None };
    if kind.as_str() != Some("message") || channel.as_str() != Some("+switch-master") {
        return None;
    }
    let words: Vec<&str> = text.as_str()?.split(' ').collect();
    let [name, from, from_port, to, to_port] = words.as_slice() else { return None };
    let switch = Switch {
        from: Address::tcp(*from, from_port.parse().ok()?),
        to: Address::tcp(*to, to_port.parse().ok()?),
    };
    (*name == service).then_some(switch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[&'static str]) -> Vec<Frame> {
        words.iter().map(|word| Frame::Bulk((*word).into())).collect()
    }

    #[test]
    fn switches_of_other_services_and_odd_messages_are_passed_over() {
        let message = |text| Frame::Array(texts(&["message", "+switch-master", text]));
        let expected = Switch { from: Address::tcp("::1", 1), to: Address::tcp("h", 2) };
        assert_eq!(switch_of(&message("m ::1 1 h 2"), "m"), Some(expected.clone()));
        let push = Frame::Push(texts(&["message", "+switch-master", "m ::1 1 h 2"]));
        assert_eq!(switch_of(&push, "m"), Some(expected));
        for text in ["other ::1 1 h 2", "m ::1 1 h", "m ::1 1 h 2 3", "m ::1 1 h 99999", ""] {
            assert_eq!(switch_of(&message(text), "m"), None, "{text}");
        }
        assert_eq!(switch_of(&Frame::Array(texts(&["subscribe", "+switch-master", "1"])), "m"), None);
        assert_eq!(switch_of(&Frame::Integer(1), "m"), None);
    }

    #[test]
    fn addresses_are_checked() {
        assert_eq!(address_of(&texts(&["h", "1"])), Some(Address::tcp("h", 1)));
        for odd in [&["h"][..], &["h", "0"], &["h", "x"], &["h", "70000"], &["", "1"], &["h", "1", "2"]] {
            assert_eq!(address_of(&texts(odd)), None, "{odd:?}");
        }
    }
}
