//! What a server tells by itself: which keys were written, and that something was flushed.

use std::sync::Arc;

use bytes::Bytes;
use keyferry_client::{ConnectOptions, Connection, Error as ClientError, Frame, Protocol};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::state::Shared;

/// Which messages are subscribed to: those that tell the event, by key.
const PATTERN: &str = "__keyspace@*__:*";

/// Subscriptions of one shard. Ends when dropped.
#[derive(Debug)]
pub(super) struct Events {
    connection: Connection,
    shard: usize,
    /// It is told of flushes, in order with everything else.
    pub(super) tracks: bool,
}

/// Asks for a sign that everything before it has come.
pub(super) type Barriers = mpsc::Sender<oneshot::Sender<()>>;

impl Events {
    /// Subscribes, and returns when the server has confirmed it: what is written from now on is told.
    pub(super) async fn subscribe(connect: &ConnectOptions, shard: usize) -> Result<Self, ClientError> {
        let connect = connect.clone().with_db(0).with_protocol(Protocol::Resp3);
        let mut connection = Connection::connect(&connect).await?;
        // Older servers have neither; then a flush is known by the counts of commands only.
        let tracks = connection.protocol() == Protocol::Resp3
            && connection.call_frame(["CLIENT", "TRACKING", "ON"]).await?.is_ok();
        connection.send(["PSUBSCRIBE", PATTERN]).await?;
        loop {
            let frame = connection.receive().await?;
            match frame.as_array().and_then(|parts| parts.first()).and_then(Frame::as_str) {
                Some("psubscribe") => break,
                _ if frame.is_error() => {
                    let error = frame.error_reply();
                    return Err(ClientError::Server {
                        address: connection.address().clone(),
                        command: "PSUBSCRIBE".to_owned(),
                        code: error.as_ref().map(|error| error.code().to_owned()).unwrap_or_default(),
                        message: error.map(|error| error.message().into_owned()).unwrap_or_default(),
                    });
                }
                _ => {}
            }
        }
        // It may have nothing to say for days.
        connection.set_read_timeout(None);
        Ok(Events { connection, shard, tracks })
    }

    /// Notes what comes until it is told to end, or the connection is lost: then events are.
    pub(super) async fn follow(
        mut self,
        shared: Arc<Shared>,
        mut barriers: mpsc::Receiver<oneshot::Sender<()>>,
        stop: CancellationToken,
    ) {
        let mut waiting = std::collections::VecDeque::new();
        let lost = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                frame = self.connection.receive() => match frame {
                    Ok(frame) if is_pong(&frame) => {
                        if let Some(waiting) = waiting.pop_front() {
                            let _: Result<(), ()> = oneshot::Sender::send(waiting, ());
                        }
                    }
                    Ok(frame) => self.note(&frame, &shared),
                    Err(error) => break error,
                },
                barrier = barriers.recv() => {
                    let Some(barrier) = barrier else { return };
                    if let Err(error) = self.connection.send(["PING"]).await {
                        break error;
                    }
                    waiting.push_back(barrier);
                }
            }
        };
        shared.doubt(format!("events were lost with a connection to the source ({lost})"));
    }

    fn note(&self, frame: &Frame, shared: &Shared) {
        let Some(parts) = frame.as_array() else { return };
        match (parts.first().and_then(Frame::as_str), parts) {
            (Some("pmessage"), [_, _, channel, _]) => {
                if let Some((db, key)) = channel.as_bytes().and_then(key_of) {
                    shared.touch(self.shard, db, key);
                }
            }
            (Some("invalidate"), [_, keys]) if keys.is_null() => shared.flushed(self.shard),
            _ => {}
        }
    }
}

/// In RESP3 as for every command; in RESP2 a subscriber gets an array.
fn is_pong(frame: &Frame) -> bool {
    match frame.as_array() {
        Some([first, _]) => !frame.is_push() && first.as_str() == Some("pong"),
        _ => frame.as_str() == Some("PONG"),
    }
}

/// The database and key of a channel.
fn key_of(channel: &Bytes) -> Option<(u64, Bytes)> {
    let rest = channel.strip_prefix(b"__keyspace@")?;
    let end = rest.iter().position(|&byte| byte == b'_')?;
    let db = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    let key = rest[end..].strip_prefix(b"__:")?;
    Some((db, channel.slice_ref(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_name_database_and_key() {
        let of = |channel: &'static [u8]| key_of(&Bytes::from_static(channel));
        assert_eq!(of(b"__keyspace@12__:a__:b\xff"), Some((12, Bytes::from_static(b"a__:b\xff"))));
        assert_eq!(of(b"__keyspace@0__:"), Some((0, Bytes::new())));
        for other in [&b"__keyevent@0__:set"[..], b"__keyspace@x__:a", b"__keyspace@0_:a", b"__keyspace@1"] {
            assert_eq!(key_of(&Bytes::copy_from_slice(other)), None);
        }
    }
}
