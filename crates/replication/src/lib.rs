//! Speaking PSYNC to a Redis or Valkey server: handshake, snapshot, command stream, offsets.
//!
//! To a server, this crate is a replica; to a program, it is a source of everything that a server holds and of
//! every write that follows, in order, byte for byte.
//!
//! **Takes** the address of a primary or of a replica, from Redis 2.8 to Redis 8, Valkey 9, and their kin, or a
//! [`Locate`] that finds a primary that moves, and, to go on where one stopped, a [`Position`].
//!
//! **Gives** the snapshot as bytes of an RDB file (for `keyferry-rdb`), then the stream in [`Batch`]es of whole
//! commands, `PING` and `REPLCONF` taken out, with exact offsets.
//!
//! **Promises** that offsets count what the protocol counts; that acknowledgements go out once a second from a
//! task of their own, whatever the caller does; that a lost link is resumed at the byte after the last one
//! given out, with the database that was selected; that a server is never sent anything but `PING`,
//! `AUTH`/`HELLO`, `REPLCONF` and `PSYNC`.
//!
//! **Refuses** to go on inside a broken snapshot, to guess in a damaged stream, and transfers over two
//! connections (`capa rdb-channel-repl`, `capa dual-channel`): it does not announce them, so no server uses them.
//!
//! ```no_run
//! use std::time::Duration;
//! use keyferry_replication::{Event, LinkOptions, Replica};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let source = "redis://127.0.0.1:6379".parse()?;
//! let mut replica = Replica::new(source, LinkOptions::default(), Duration::from_secs(60), None);
//! loop {
//!     match replica.next().await? {
//!         Event::Snapshot(rdb) => println!("{} bytes of the snapshot", rdb.len()),
//!         Event::Commands(batch) => println!("{} commands up to offset {}", batch.commands, batch.end),
//!         other => println!("{other:?}"),
//!     }
//! }
//! # }
//! ```
//!
//! The protocol itself is in three state machines without sockets or clocks: [`handshake::Handshake`],
//! [`snapshot::SnapshotFraming`], [`stream::StreamScanner`]. [`Link`] puts a connection around them, [`Replica`]
//! makes new links when one is lost.

mod ack;
mod error;
pub mod handshake;
mod link;
mod locate;
mod position;
mod replica;
mod silence;
pub mod snapshot;
pub mod stream;

pub use ack::{AckPolicy, Acks};
pub use error::{Doing, Error, StreamFault};
pub use link::{Link, LinkOptions};
pub use locate::{Locate, Locating, Locator};
pub use position::{InvalidReplicationId, Position, ReplicationId};
pub use replica::{Event, Replica};
pub use stream::Batch;
