//! One case on one server in one protocol: connections, steps, replies.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use keyferry_client::{Connection, Error as ClientError, Frame, Protocol};
use tokio::time::Instant;

use crate::case::{Act, Case, MAIN, Step};
use crate::command::{Names, is, split};
use crate::expect::Expect;
use crate::literal::{cut, show};
use crate::report::Failure;
use crate::target::Target;

/// The connection that leads to a node that does not have the keys of the case.
const ELSEWHERE: &str = "elsewhere";

/// How long to wait before a command is repeated.
const PAUSE: Duration = Duration::from_millis(10);

/// What came of one step.
#[derive(Clone, Debug)]
pub(crate) enum Got {
    /// Nothing was to be read, or the step is for the other protocol.
    Nothing,
    Reply(Frame),
    /// The server closed the connection.
    Closed,
    /// Nothing came for so long.
    Silence(Duration),
    /// The connection failed in another way, or the step cannot be taken.
    Broken(String),
}

impl Got {
    /// For people.
    pub(crate) fn shown(&self, names: &Names) -> String {
        match self {
            Self::Nothing => "nothing".to_owned(),
            Self::Reply(frame) => show(frame, names),
            Self::Closed => "(the server closed the connection)".to_owned(),
            Self::Silence(time) => format!("(nothing came in {time:?})"),
            Self::Broken(why) => format!("({why})"),
        }
    }

    /// Whether this is what should come.
    pub(crate) fn meets(&self, expect: Option<&Expect>, protocol: Protocol, names: &Names) -> bool {
        match (self, expect) {
            (Self::Nothing, _) => true,
            (Self::Reply(frame), Some(expect)) => expect.matches(frame, protocol, names),
            // A command that only prepares something has to succeed.
            (Self::Reply(frame), None) => !frame.is_error(),
            (Self::Closed, Some(Expect::Closed)) => true,
            (Self::Closed | Self::Silence(_) | Self::Broken(_), _) => false,
        }
    }
}

/// All that came of a case.
#[derive(Debug)]
pub(crate) struct Transcript {
    /// Of each step that was taken.
    pub(crate) got: Vec<Got>,
    pub(crate) names: Names,
    /// The first step that did not give what it should.
    pub(crate) failure: Option<Failure>,
}

/// Runs a case. With `judge`, it ends at the first reply that is not as it should be.
///
/// # Errors
///
/// When the server cannot be reached in the first place.
pub(crate) async fn run(
    target: &Target,
    case: &Case,
    names: Names,
    protocol: Protocol,
    timeout: Duration,
    judge: bool,
) -> Result<Transcript, ClientError> {
    let mut session = Session { target, names, protocol, timeout, wires: BTreeMap::new() };
    let slot = Target::slot_of(&session.names);
    let first = target.connect(slot, protocol).await?;
    session.wires.insert(MAIN.to_owned(), Wire::new(first, timeout));
    let mut got = Vec::with_capacity(case.steps.len());
    let mut failure = None;
    for (at, step) in case.steps.iter().enumerate() {
        let one = session.take(step).await;
        let expect = step.expected(protocol);
        let met = one.meets(expect, protocol, &session.names);
        let over = matches!(one, Got::Silence(_) | Got::Broken(_))
            || (matches!(one, Got::Closed) && expect != Some(&Expect::Closed));
        if !met && failure.is_none() {
            failure = Some(Failure {
                step: at + 1,
                sent: sent(step, &session.names),
                expected: match expect {
                    Some(expect) => cut(expect.to_string()),
                    None => "(no error)".to_owned(),
                },
                got: one.shown(&session.names),
            });
        }
        got.push(one);
        if (judge && failure.is_some()) || over {
            break;
        }
    }
    let Session { names, wires, .. } = session;
    drop(wires);
    for command in &case.finally {
        let words: Result<Vec<Vec<u8>>, String> =
            split(command).and_then(|words| words.iter().map(|word| names.expand(word)).collect());
        // What is not there any more cannot be put back; the next case will tell.
        if let (Ok(words), Ok(mut connection)) = (words, target.connect(slot, Protocol::Resp2).await) {
            connection.set_read_timeout(Some(timeout));
            let _ = connection.call_frame(&words).await;
        }
    }
    Ok(Transcript { got, names, failure })
}

struct Session<'a> {
    target: &'a Target,
    names: Names,
    protocol: Protocol,
    timeout: Duration,
    wires: BTreeMap<String, Wire>,
}

struct Wire {
    connection: Connection,
    /// Pushes that came before a reply, in order.
    pushes: VecDeque<Frame>,
}

impl Wire {
    fn new(mut connection: Connection, timeout: Duration) -> Self {
        connection.set_read_timeout(Some(timeout));
        Self { connection, pushes: VecDeque::new() }
    }
}

impl Session<'_> {
    async fn take(&mut self, step: &Step) -> Got {
        if step.only.is_some_and(|only| only != self.protocol) {
            return Got::Nothing;
        }
        if let Act::Sleep(ms) = step.act {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            return Got::Nothing;
        }
        let end = Instant::now() + Duration::from_millis(step.within.unwrap_or(0));
        loop {
            let got = self.once(step).await;
            let done = got.meets(step.expected(self.protocol), self.protocol, &self.names)
                || !matches!(got, Got::Reply(_))
                || Instant::now() >= end;
            if !done {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            if let (Some((name, path)), Got::Reply(frame)) = (&step.keep, &got) {
                match value_at(frame, path) {
                    Some(value) => self.names.keep(name, value),
                    None => {
                        return Got::Broken(format!(
                            "the reply has nothing to keep as {name}: {}",
                            show(frame, &self.names)
                        ));
                    }
                }
            }
            return got;
        }
    }

    async fn once(&mut self, step: &Step) -> Got {
        let words = match &step.act {
            Act::Call(command) | Act::Send(command) => match self.words(command) {
                Ok(words) => Some(words),
                Err(why) => return Got::Broken(why),
            },
            _ => None,
        };
        let timeout = self.timeout;
        if !self.wires.contains_key(&step.on) {
            let slot = Target::slot_of(&self.names);
            let opened = match step.on.as_str() {
                ELSEWHERE => self.target.connect_elsewhere(slot, self.protocol).await,
                _ => self.target.connect(slot, self.protocol).await,
            };
            match opened {
                Ok(connection) => self.wires.insert(step.on.clone(), Wire::new(connection, timeout)),
                Err(error) => return Got::Broken(error.to_string()),
            };
        }
        let Some(wire) = self.wires.get_mut(&step.on) else { return Got::Nothing };
        if let Some(words) = &words
            && let Err(error) = wire.connection.send(words).await
        {
            return failed(&error, timeout);
        }
        let subscribes = words.as_ref().is_some_and(|words| subscribes(words));
        match (&step.act, words) {
            (Act::Send(_), _) => Got::Nothing,
            (_, None) => match wire.pushes.pop_front() {
                Some(push) => Got::Reply(push),
                None => receive(wire, timeout).await,
            },
            (_, Some(_)) => loop {
                match receive(wire, timeout).await {
                    Got::Reply(frame) if frame.is_push() && !subscribes => wire.pushes.push_back(frame),
                    other => return other,
                }
            },
        }
    }

    fn words(&self, command: &str) -> Result<Vec<Vec<u8>>, String> {
        split(command)?.iter().map(|word| self.names.expand(word)).collect()
    }
}

/// The step for people.
pub(crate) fn sent(step: &Step, names: &Names) -> String {
    let on = if step.on == MAIN { String::new() } else { format!("{}: ", step.on) };
    let what = match &step.act {
        Act::Call(command) | Act::Send(command) => names.shorten(command),
        Act::Read => "(reading)".to_owned(),
        Act::Sleep(ms) => format!("(sleeping {ms} ms)"),
    };
    cut(format!("{on}{what}"))
}

async fn receive(wire: &mut Wire, timeout: Duration) -> Got {
    match wire.connection.receive().await {
        Ok(frame) => Got::Reply(frame),
        Err(error) => failed(&error, timeout),
    }
}

fn failed(error: &ClientError, timeout: Duration) -> Got {
    match error {
        ClientError::Closed { .. } => Got::Closed,
        ClientError::Io { source, .. }
            if matches!(
                source.kind(),
                std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
            ) =>
        {
            Got::Closed
        }
        ClientError::Timeout { .. } => Got::Silence(timeout),
        other => Got::Broken(other.to_string()),
    }
}

/// Whether the reply to a command is a push in RESP3.
pub(crate) fn subscribes(words: &[Vec<u8>]) -> bool {
    ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"]
        .iter()
        .any(|name| is(words.first(), name))
}

/// The bytes of a part of a reply.
fn value_at(frame: &Frame, path: &[usize]) -> Option<Vec<u8>> {
    let mut frame = frame;
    for &at in path {
        frame = match frame.value() {
            Frame::Map(pairs) => {
                let (key, value) = pairs.get(at / 2)?;
                if at % 2 == 0 { key } else { value }
            }
            other => other.as_array()?.get(at)?,
        };
    }
    match frame.value() {
        Frame::Integer(n) => Some(n.to_string().into_bytes()),
        other => other.as_bytes().map(|bytes| bytes.to_vec()),
    }
}
