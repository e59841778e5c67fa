//! Beginning without a full copy: where each link's stream is joined.

use keyferry_client::ConnectOptions;
use keyferry_replication::{Link, LinkOptions, Locate, Position, handshake::SyncReply};

use super::{
    plan::Plan,
    run::LinkSource,
    state::{State, field},
};
use crate::{error::Error, resume::Applied};

/// Whether a migration begins without a full copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FromNow {
    /// It begins with one.
    No,
    /// It begins now, at positions that are yet to be found, or that have been prepared for it.
    Begins,
    /// An earlier run of it has begun.
    Begun,
}

impl FromNow {
    /// As it is asked for, and as an earlier run has left it.
    pub(super) fn of(state: &State, asked: bool) -> Self {
        match state.get(field::FROM_NOW) {
            Some(field::FROM_NOW_PREPARED) => FromNow::Begins,
            Some(_) => FromNow::Begun,
            None if asked => FromNow::Begins,
            None => FromNow::No,
        }
    }

    /// There is never a full copy.
    pub(super) fn is_set(self) -> bool {
        self != FromNow::No
    }

    /// Finds the positions that are not known yet.
    ///
    /// # Errors
    /// [`Error::FromNow`], when an earlier run has begun with a full copy; those of the links.
    pub(super) async fn begin(
        self,
        plan: &mut Plan,
        links: &[LinkSource],
        options: &LinkOptions,
    ) -> Result<(), Error> {
        if !self.is_set() {
            return Ok(());
        }
        for (number, link) in links.iter().enumerate() {
            match plan.applied.get(number) {
                Some(Applied::Stream(_)) => {}
                Some(Applied::Nothing) if self == FromNow::Begins => {
                    let connect = link.stream.locate(None).await.map_err(Error::Source)?;
                    plan.begin_at(number, join(&connect, options).await?);
                }
                _ => {
                    let why = format!(
                        "what the target keeps under this name is of a migration that copies everything, or of other shards than {} \
                         has now; give this one a name of its own (--id)",
                        link.name
                    );
                    return Err(Error::FromNow { why });
                }
            }
        }
        plan.keep(field::FROM_NOW, field::FROM_NOW_BEGUN);
        Ok(())
    }
}

/// Makes a server keep a backlog, and gives a position of its stream. What is written from then on comes behind it.
///
/// A server without replicas keeps none, and counts no offsets. It begins to when a replica asks for a full sync; and from the offset that
/// it answers with it names the database of its stream anew, which it does nowhere else. The link is given up at that answer: a server
/// that streams its snapshot ends it then, and goes on keeping the backlog for `repl-backlog-ttl` (an hour by default).
///
/// # Errors
/// Those of the link.
pub(crate) async fn join(connect: &ConnectOptions, options: &LinkOptions) -> Result<Position, Error> {
    let link = Link::connect(connect, options, None).await.map_err(Error::Source)?;
    match *link.reply() {
        SyncReply::Full { id, offset } => Ok(Position::after_snapshot(id, offset)),
        _ => {
            let why =
                format!("{} does not tell its replication offset (it is older than 2.8)", link.address());
            Err(Error::FromNow { why })
        }
    }
}
