//! A replica followed to a given point.

use std::time::Duration;

use keyferry_replication::{Error, Event, LinkOptions, Position, Replica};
use keyferry_testkit::Client;

/// Longer than anything here should take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that a replica gave.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) snapshot: Vec<u8>,
    pub(crate) snapshot_complete: bool,
    pub(crate) commands: Vec<u8>,
    pub(crate) full_syncs: u32,
    pub(crate) losses: u32,
    pub(crate) resumes: u32,
}

pub(crate) fn replica(url: &str, options: LinkOptions, resume: Option<Position>) -> Replica {
    Replica::new(url.parse().unwrap(), options, PATIENCE, resume)
}

impl Seen {
    /// Takes one event.
    pub(crate) async fn step(&mut self, replica: &mut Replica) -> Result<(), Error> {
        match tokio::time::timeout(PATIENCE, replica.next()).await.expect("an event in time")? {
            Event::FullSync { .. } => self.full_syncs += 1,
            Event::Snapshot(bytes) => self.snapshot.extend_from_slice(&bytes),
            Event::SnapshotEnd { bytes } => {
                assert_eq!(bytes, self.snapshot.len() as u64);
                self.snapshot_complete = true;
            }
            Event::Commands(batch) => self.commands.extend_from_slice(&batch.bytes),
            Event::Lost { .. } => self.losses += 1,
            Event::Resumed { .. } => self.resumes += 1,
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    pub(crate) async fn until_snapshot_end(&mut self, replica: &mut Replica) {
        while !self.snapshot_complete {
            self.step(replica).await.unwrap();
        }
    }

    /// Follows until the replica stands at `offset`; going past it is a failure.
    pub(crate) async fn until_offset(&mut self, replica: &mut Replica, offset: u64) {
        self.until_past(replica, offset).await;
        assert_eq!(replica.position().unwrap().offset, offset);
    }

    /// Follows until the replica has everything up to `offset`. It may have more: sentinels publish through the primary
    /// that they watch, and a primary pings its replicas.
    pub(crate) async fn until_past(&mut self, replica: &mut Replica, offset: u64) {
        while replica.position().map_or(0, |p| p.offset) < offset {
            self.step(replica).await.unwrap();
        }
    }
}

/// The offset at which a primary stands.
pub(crate) fn offset_of(client: &mut Client) -> u64 {
    client.info("replication", "master_repl_offset").unwrap().unwrap().parse().unwrap()
}

/// Keys in an RDB file, by walking it; it must end exactly at its end.
pub(crate) fn keys_of(rdb: &[u8]) -> u64 {
    let mut parser = keyferry_rdb::Parser::new();
    parser.feed(rdb);
    let mut keys = 0;
    while let Some(event) = parser.next_event().unwrap() {
        keys +=
            u64::from(matches!(event, keyferry_rdb::Event::Entry(_) | keyferry_rdb::Event::ValueStart(_)));
    }
    assert!(parser.is_finished());
    assert!(parser.remaining().is_empty());
    keys
}
