//! Real servers and seeded data for the tests of keyferry.
//!
//! This crate is not published. It is blocking `std` code without an async runtime, so that any crate's tests, the examples
//! and `cargo xtask` can use it:
//!
//! - [`binaries`], [`all`], [`any`], [`named`], [`chosen`]: the server programs on this machine, each a [`ServerBinary`].
//! - [`Server`]: one of them running on a free loopback port with its own directory, killed when the value is dropped.
//! - [`Cluster`]: several of them as one cluster, with replicas, moving slots and failovers.
//! - [`Sentinels`]: a primary with replicas, and sentinels that watch them.
//! - [`Client`]: a small blocking client, and [`ClusterClient`], which finds the right node.
//! - [`Proxy`]: a network that cuts, stalls, delays and fragments. [`Rewriter`]: a server with wrong replies. [`Script`] and [`Peer`]: a server that misbehaves step by
//!   step.
//! - [`Certs`]: certificates for TLS tests.
//! - [`data`]: seeded data sets, and [`data::Writer`], which keeps writing in the background.
//! - [`compare()`]: whether two servers hold the same, key by key; [`compare_sides`]: two servers or clusters, with databases
//!   mapped onto one another. [`judge`]: whether a copy lacks what was said to be lost, and nothing else.
//! - [`chaos`]: rounds of a migration that is killed, cut off and starved, and what must hold at their end.
//! - [`both_ways`]: two servers that are written to at once, and must come to the same.
//! - [`rehearsal`]: rounds of a cutover whose application keeps its own ledger.
//! - [`Terminal`]: a terminal that programs are run in, with its screen.
//! - [`process`]: CPU time and memory of other processes.
//!
//! ```
//! use keyferry_testkit::{Server, compare, data};
//!
//! # fn main() -> keyferry_testkit::Result<()> {
//! let (a, b) = (Server::any()?, Server::any()?);
//! data::small(&mut a.client()?, 1, 3)?;
//! data::small(&mut b.client()?, 1, 3)?;
//! b.client()?.call(&["SET", "extra", "1"])?;
//! let comparison = compare(&mut a.client()?, &mut b.client()?)?;
//! assert_eq!(comparison.differences.len(), 1);
//! assert_eq!(comparison.differences[0].key, b"extra");
//! # Ok(())
//! # }
//! ```

mod binaries;
pub mod both_ways;
mod certs;
pub mod chaos;
mod client;
mod cluster;
mod compare;
pub mod data;
mod error;
mod peer;
pub mod process;
mod proxy;
pub mod rehearsal;
mod rewriter;
mod rng;
mod sentinel;
mod server;
mod terminal;
mod watchdog;

pub use binaries::{
    ServerBinary, Vendor, Version, all, any, binaries, chosen, find_binaries, named, servers_dir,
};
pub use certs::{CertFiles, Certs};
pub use client::Client;
pub use cluster::{Cluster, ClusterBuilder, ClusterClient, Failover, MoveStep};
pub use compare::{
    CompareOptions, Comparison, Difference, DifferenceKind, Judgement, ReportedLoss, Side, compare,
    compare_sides, compare_with, digest, judge,
};
pub use error::{Error, Result};
pub use peer::{Peer, Script};
pub use proxy::{Direction, Mark, Proxy};
pub use rewriter::Rewriter;
pub use rng::Rng;
pub use sentinel::{Follower, Sentinels, SentinelsBuilder};
pub use server::{Builder, Server, unused_port};
pub use terminal::{Left, Terminal};
