//! A replica that outlives its links.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use keyferry_client::{Address, Backoff, ConnectOptions, ServerInfo};

use crate::{
    ack::Acks,
    error::Error,
    handshake::SyncReply,
    link::{Link, LinkOptions},
    locate::{Locate, Locator},
    position::{Position, ReplicationId},
    snapshot::Transfer,
    stream::Batch,
};

/// What a [`Replica`] reports.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The server sends everything from the start: a snapshot follows, then the stream.
    ///
    /// When it is not the first event, what was held before is void: keys may have gone meanwhile.
    FullSync {
        /// The history's id.
        id: ReplicationId,
        /// The offset that the snapshot stands for.
        offset: u64,
    },
    /// Bytes of the snapshot.
    Snapshot(Bytes),
    /// The snapshot is complete; so many bytes it had.
    SnapshotEnd {
        /// Its size.
        bytes: u64,
    },
    /// Commands of the stream.
    Commands(Batch),
    /// The link was lost; another attempt follows after the delay.
    Lost {
        /// Why.
        error: Error,
        /// How long until the next attempt.
        retry_in: Duration,
    },
    /// A new link goes on exactly where the one before ended, if need be at another server.
    Resumed {
        /// The position, with the id now in force.
        position: Position,
    },
}

/// A replica of a server, over as many links as it takes.
///
/// Holds id, offset and database; after a loss it asks its [`Locate`] where the server is, connects again with jittered
/// back-off and goes on by partial resync. What it cannot do is go on inside a snapshot: a link lost there is an error, since the snapshot
/// would have to start anew.
///
/// Call [`Replica::next`] again and again. Dropping its future loses nothing.
#[derive(Debug)]
pub struct Replica {
    locator: Locator,
    options: LinkOptions,
    /// The server that was tried last.
    address: Option<Address>,
    /// How long a lost link is tried for.
    window: Duration,
    state: State,
    position: Option<Position>,
    /// Where the history before the present one ended for us.
    previous: Option<Position>,
    acks: Option<Acks>,
    server: Option<ServerInfo>,
    transfer: Option<Transfer>,
}

/// A connection under way. Kept here, so that dropping the future of [`Replica::next`] does not end it: a server
/// may take seconds to answer PSYNC. Never locked: the mutex lets a replica be shared although the future cannot be.
type Connecting = Mutex<Pin<Box<dyn Future<Output = Attempt> + Send>>>;

/// How a connection attempt ended.
struct Attempt {
    /// The server that was tried, if one was found.
    address: Option<Address>,
    link: Result<Link, Error>,
}

enum State {
    Connecting {
        lost: Option<Lost>,
        link: Connecting,
    },
    Connected(Box<Link>),
    Snapshot(Box<Link>),
    Streaming(Box<Link>),
    /// Between a state and the next; also after an error that ended everything.
    Ended,
}

/// A link that was lost.
#[derive(Debug)]
struct Lost {
    since: Instant,
    backoff: Backoff,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Connecting { .. } => "Connecting",
            State::Connected(_) => "Connected",
            State::Snapshot(_) => "Snapshot",
            State::Streaming(_) => "Streaming",
            State::Ended => "Ended",
        })
    }
}

impl Replica {
    /// A replica of the server that `connect` names, from `resume` on, or from a full sync.
    ///
    /// `window` is how long a lost link is tried for before [`Error::GaveUp`]; the first connection is tried
    /// once, unless there is something to go on from.
    #[must_use]
    pub fn new(
        connect: ConnectOptions,
        options: LinkOptions,
        window: Duration,
        resume: Option<Position>,
    ) -> Self {
        Self::following(connect, options, window, resume)
    }

    /// As [`Replica::new`], of a server that moves: `locate` is asked for it before every attempt.
    ///
    /// After a failover the promoted server goes on with the same history, under a new id, as long as it has all that
    /// was read from the server before it. Otherwise it offers a full sync: [`Event::FullSync`], with
    /// [`Replica::previous`]. Before Redis 4.0 it always does. So it does after a planned `SENTINEL FAILOVER`: the old
    /// primary goes on for about ten seconds with a stream of its own, the sentinels' `PUBLISH` (measured, 6.0 to 8.0 and
    /// Valkey 9). Who follows the replica that is promoted has no part in that.
    #[must_use]
    pub fn following(
        locate: impl Locate + 'static,
        options: LinkOptions,
        window: Duration,
        resume: Option<Position>,
    ) -> Self {
        let locator = Locator::new(locate);
        let link = connect_link(locator.clone(), None, options.clone(), resume.clone(), Duration::ZERO);
        // Who goes on where another one stopped has lost the link, not never had it.
        let lost = resume.is_some().then(|| Lost { since: Instant::now(), backoff: Backoff::default() });
        let state = State::Connecting { lost, link };
        Replica {
            locator,
            options,
            address: None,
            window,
            state,
            position: resume,
            previous: None,
            acks: None,
            server: None,
            transfer: None,
        }
    }

    /// The server that is followed, or that was tried last; `None` before the first attempt has ended.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    /// Everything up to here has been given to the caller.
    #[must_use]
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// Where the history that was followed before the last [`Event::FullSync`] ended for us, if there was one.
    #[must_use]
    pub fn previous(&self) -> Option<&Position> {
        self.previous.as_ref()
    }

    /// What the server said about itself, once connected.
    #[must_use]
    pub fn server(&self) -> Option<&ServerInfo> {
        self.server.as_ref()
    }

    /// How the snapshot is delimited, once its header has come.
    #[must_use]
    pub fn transfer(&self) -> Option<Transfer> {
        self.transfer
    }

    /// Declares that everything up to `offset` is done, for [`crate::AckPolicy::Applied`].
    pub fn applied(&self, offset: u64) {
        if let Some(acks) = &self.acks {
            acks.applied(offset);
        }
    }

    /// The next event.
    ///
    /// # Errors
    /// When the first connection fails, when a link is lost inside a snapshot, when the server refuses or the
    /// stream is damaged, and when a lost link could not be made again inside the window.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            match &mut self.state {
                State::Ended => {
                    let doing = crate::error::Doing::Handshake;
                    return Err(Error::Closed { address: self.shown_address(), doing });
                }
                State::Connecting { link, .. } => {
                    let attempt = link.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().await;
                    if attempt.address.is_some() {
                        self.address = attempt.address;
                    }
                    match attempt.link {
                        Ok(link) => {
                            let acks = link.acks();
                            if let Some(before) = &self.acks {
                                acks.inherit(before);
                            }
                            self.acks = Some(acks);
                            self.server = Some(link.server().clone());
                            self.state = State::Connected(Box::new(link));
                        }
                        Err(error) => {
                            let lost = match std::mem::replace(&mut self.state, State::Ended) {
                                State::Connecting { lost, .. } => lost,
                                _ => None,
                            };
                            return self.lost(lost, error);
                        }
                    }
                }
                State::Connected(_) => {
                    let State::Connected(link) = std::mem::replace(&mut self.state, State::Ended) else {
                        continue;
                    };
                    let resumed = self.position.is_some();
                    let position = link.position().clone();
                    let before = self.position.replace(position.clone());
                    match *link.reply() {
                        SyncReply::Full { id, offset } => {
                            self.previous = before;
                            self.state = State::Snapshot(link);
                            return Ok(Event::FullSync { id, offset });
                        }
                        SyncReply::Snapshot { id } => {
                            self.previous = before;
                            self.state = State::Snapshot(link);
                            return Ok(Event::FullSync { id, offset: 0 });
                        }
                        SyncReply::Continue { .. } => {
                            self.state = State::Streaming(link);
                            if resumed {
                                return Ok(Event::Resumed { position });
                            }
                        }
                    }
                }
                State::Snapshot(link) => match link.snapshot_chunk().await {
                    Ok(Some(bytes)) => {
                        self.transfer = link.transfer();
                        return Ok(Event::Snapshot(bytes));
                    }
                    Ok(None) => {
                        let bytes = link.snapshot_received();
                        let State::Snapshot(link) = std::mem::replace(&mut self.state, State::Ended) else {
                            continue;
                        };
                        self.state = State::Streaming(link);
                        return Ok(Event::SnapshotEnd { bytes });
                    }
                    Err(error) => {
                        self.state = State::Ended;
                        return Err(error);
                    }
                },
                State::Streaming(link) => {
                    let result = link.next_batch().await;
                    // Also after an error: everything before it has been given out.
                    self.position = Some(link.position().clone());
                    match result {
                        Ok(batch) => return Ok(Event::Commands(batch)),
                        Err(error) => {
                            let lost = Lost { since: Instant::now(), backoff: Backoff::default() };
                            return self.lost(Some(lost), error);
                        }
                    }
                }
            }
        }
    }

    /// Decides between another attempt and the end.
    fn lost(&mut self, lost: Option<Lost>, error: Error) -> Result<Event, Error> {
        self.state = State::Ended;
        let Some(mut lost) = lost.filter(|_| error.is_retryable()) else { return Err(error) };
        if lost.since.elapsed() >= self.window {
            let address = self.shown_address();
            return Err(Error::GaveUp { address, window: self.window, last: Box::new(error) });
        }
        let retry_in = lost.backoff.next_delay();
        let (locator, options) = (self.locator.clone(), self.options.clone());
        let link = connect_link(locator, self.address.clone(), options, self.position.clone(), retry_in);
        self.state = State::Connecting { lost: Some(lost), link };
        Ok(Event::Lost { error, retry_in })
    }

    fn shown_address(&self) -> String {
        self.address.as_ref().map_or_else(|| "the source".to_owned(), Address::to_string)
    }
}

fn connect_link(
    locator: Locator,
    lost: Option<Address>,
    options: LinkOptions,
    resume: Option<Position>,
    wait: Duration,
) -> Connecting {
    Mutex::new(Box::pin(async move {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        match locator.locate(lost.as_ref()).await {
            Ok(connect) => {
                let link = Link::connect(&connect, &options, resume.as_ref()).await;
                Attempt { address: Some(connect.address().clone()), link }
            }
            Err(error) => Attempt { address: None, link: Err(error) },
        }
    }))
}
