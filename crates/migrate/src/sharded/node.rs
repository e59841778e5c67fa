//! The connection to one server of the target: carries what [`super::core`] gives it, and tells it what comes back.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use keyferry_client::{Backoff, ConnectOptions, Connection, Receiver, Sender};
use keyferry_resp::{Decoder, Frame, ReplySkipper};
use tokio::task::JoinSet;

use super::{Target, core::Expect, session::Session};
use crate::error::Error;

/// Keeps a connection to the node, for as long as the target lives.
pub(crate) async fn run(target: Arc<Target>, node: usize, connect: ConnectOptions) {
    let mut backoff = Backoff::default();
    let mut former = None;
    loop {
        match open(&target, &connect, &mut former).await {
            Ok((sender, receiver, replicas)) => {
                backoff.reset();
                target.core().node_up(node, replicas);
                converse(&target, node, sender, receiver).await;
                target.core().node_down(node);
            }
            Err(error) => {
                target.note_trouble(&error);
                target.core().node_unreachable(node, error);
            }
        }
        if target.core().has_failed() {
            return;
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// A connection with database 0 selected, and how many replicas the server has. The one before is at its end then.
async fn open(
    target: &Target,
    connect: &ConnectOptions,
    former: &mut Option<Session>,
) -> Result<(Sender, Receiver, u64), keyferry_client::Error> {
    let mut connection = Connection::connect(&connect.clone().with_db(0)).await?;
    let session = Session::of(&mut connection).await?;
    if let Some(former) = former {
        former.end(&mut connection, session.as_ref()).await?;
    }
    let restarted = matches!((&former, &session), (Some(former), Some(now)) if !former.is_at(now));
    *former = session;
    let alone = {
        let core = target.core();
        core.is_in_snapshot() && core.serves_alone(&connection.address().to_string())
    };
    if restarted && alone && !forgets_nothing(&mut connection).await {
        // Keys of a snapshot are not told apart by their numbers: which of them are still there, nobody knows.
        let address = connection.address().to_string();
        target.core().fail(Error::TargetRestarted { address });
    }
    target.admit(&mut connection).await?;
    let replicas = connection.info("replication").await?.get_as("connected_slaves").unwrap_or(0);
    // A server that owes nothing may be silent for as long as it likes.
    connection.set_read_timeout(None);
    let (sender, receiver) = connection.split();
    Ok((sender, receiver, replicas))
}

/// True for a server that has on disk what it has confirmed.
async fn forgets_nothing(connection: &mut Connection) -> bool {
    for (name, value) in [("appendonly", "yes"), ("appendfsync", "always")] {
        let reply = connection.call(["CONFIG", "GET", name]).await;
        let is = match &reply {
            Ok(Frame::Array(pair)) => pair.get(1).and_then(Frame::as_str) == Some(value),
            Ok(Frame::Map(pairs)) => pairs.first().and_then(|(_, is)| is.as_str()) == Some(value),
            _ => false,
        };
        if !is {
            return false;
        }
    }
    true
}

/// Until the connection is lost or given up.
async fn converse(target: &Arc<Target>, node: usize, sender: Sender, receiver: Receiver) {
    let mut halves = JoinSet::new();
    halves.spawn(write(Arc::clone(target), node, sender));
    halves.spawn(read(Arc::clone(target), node, receiver));
    // Whichever ends first ends the other.
    if let Some(Ok(Err(error))) = halves.join_next().await {
        target.note_trouble(&error);
    }
    halves.shutdown().await;
}

async fn write(target: Arc<Target>, node: usize, mut sender: Sender) -> Result<(), keyferry_client::Error> {
    let work = target.core().work_of(node);
    let mut out = BytesMut::with_capacity(256 * 1024);
    loop {
        let told = work.notified();
        {
            let mut core = target.core();
            if core.is_condemned(node) || core.has_failed() {
                return Ok(());
            }
            core.fill(node, &mut out);
        }
        if out.is_empty() {
            told.await;
            continue;
        }
        sender.write_all(&out).await?;
        // TLS holds bytes back until it is told.
        sender.flush().await?;
        target.meter().bytes_sent.fetch_add(out.len() as u64, Ordering::Relaxed);
        out.clear();
    }
}

async fn read(
    target: Arc<Target>,
    node: usize,
    mut receiver: Receiver,
) -> Result<(), keyferry_client::Error> {
    let silence = target.silence();
    let (mut skipper, mut decoder) = (ReplySkipper::new(), Decoder::new());
    let mut buf = BytesMut::with_capacity(64 * 1024);
    loop {
        let patience = (silence / 4).max(Duration::from_millis(100));
        match tokio::time::timeout(patience, receiver.read_some(&mut buf)).await {
            Ok(read) => read?,
            Err(_) => {
                let owed = target.core().owed_since(node);
                if owed.is_some_and(|since| since.elapsed() >= silence) {
                    // As good as lost; what it owes is sought at whoever serves the slots then.
                    return Ok(());
                }
                continue;
            }
        };
        if let Err(error) = take(&target, node, &mut buf, &mut skipper, &mut decoder) {
            target.core().fail(error);
            return Ok(());
        }
        target.clear_trouble();
    }
}

/// Takes the replies that have come out of the buffer.
fn take(
    target: &Target,
    node: usize,
    buf: &mut BytesMut,
    skipper: &mut ReplySkipper,
    decoder: &mut Decoder,
) -> Result<(), Error> {
    let mut core = target.core();
    while !buf.is_empty() {
        let protocol = |core: &super::core::Core, source| Error::TargetProtocol {
            address: core.node_address(node).to_owned(),
            source,
        };
        match core.expect(node) {
            Expect::Plain(most) => {
                let skipped = skipper.skip(buf, most).map_err(|source| protocol(&core, source))?;
                let (consumed, replies) = (skipped.consumed, skipped.replies);
                let error = skipped.error.map(|error| (error.to_reply(), error.element));
                buf.advance(consumed);
                core.good(node, replies - u64::from(error.is_some()));
                if let Some((text, element)) = error {
                    core.bad(node, text, element);
                }
            }
            Expect::Frame => match decoder.decode(buf).map_err(|source| protocol(&core, source))? {
                Some(frame) => core.content(node, &frame),
                None => return Ok(()),
            },
            Expect::Nothing => {
                let address = core.node_address(node).to_owned();
                let reply = String::from_utf8_lossy(&buf[..buf.len().min(80)]).into_owned();
                return Err(Error::Internal(format!("target {address} sent something unasked: {reply}")));
            }
        }
    }
    Ok(())
}
