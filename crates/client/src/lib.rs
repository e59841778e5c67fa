//! Connections to Redis, Valkey and their kin, for programs that move data.
//!
//! # What it takes
//!
//! A URL, or options built by hand ([`ConnectOptions`]): TCP, TLS or Unix socket, user and password, database,
//! timeouts, protocol. URLs name one server, a cluster, or a primary that sentinels know ([`Endpoint`]). Passwords come from the URL, the environment or a file and are held in a type that cannot
//! be printed ([`Secret`]).
//!
//! # What it gives
//!
//! - [`Connection`]: one connection, authenticated and greeted, for commands one by one and for pipelines. It knows
//!   who it speaks to ([`ServerInfo`], [`Info`]).
//! - [`Sender`] and [`Receiver`]: its two halves, for streams of commands without an end and for protocols that leave
//!   RESP. [`Transport`] is the raw stream underneath.
//! - [`Client`]: a handle that many tasks share, with a bounded window and with reconnecting.
//! - [`Endpoint::detect`], [`detect()`]: whether a plain URL leads to a cluster.
//! - [`cluster`]: all nodes of a cluster, found from a few of them, with the slots that they serve.
//! - [`sentinel`]: the primary that sentinels name, confirmed by the server itself, also through a failover.
//! - [`Backoff`]: delays between attempts, as a value.
//!
//! ```no_run
//! use keyferry_client::{Connection, ConnectOptions, Frame, Pipeline};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), keyferry_client::Error> {
//! let options = ConnectOptions::from_url("rediss://mover@db.example/2?password-env=REDIS_PASSWORD&read-timeout=5s")?;
//! let mut connection = Connection::connect(&options).await?;
//! println!("connected to {}", connection.server()); // Valkey 8.1.4, standalone, primary
//!
//! let mut pipeline = Pipeline::new();
//! for n in 0..1000 {
//!     pipeline.push(["GET", &format!("user:{n}")]);
//! }
//! let found = connection.pipeline(&pipeline).await?.iter().filter(|reply| !reply.is_null()).count();
//! println!("{found} of 1000 exist");
//! # Ok(()) }
//! ```
//!
//! Without a server, the parts that do no I/O:
//!
//! ```
//! use keyferry_client::ConnectOptions;
//!
//! let options: ConnectOptions = "redis://:s3cret@localhost/2".parse()?;
//! assert_eq!(options.to_string(), "redis://:***@localhost:6379/2");
//!
//! let error = ConnectOptions::from_url("redis://:s3cret@localhost?timeout=5s").unwrap_err();
//! assert!(error.to_string().starts_with("unknown URL option \"timeout\"; known are address-map, ca,"));
//! # Ok::<(), keyferry_client::UrlError>(())
//! ```
//!
//! # What it promises
//!
//! - **A reply belongs to its command.** After a dropped future, a timeout or a fault a [`Connection`] refuses to go on
//!   ([`Error::OutOfStep`]); a [`Client`] reconnects.
//! - **No command is sent twice.** A lost connection is reported together with whether the command was sent
//!   ([`Error::ConnectionLost`]).
//! - **No pipeline blocks itself.** Writing and reading go on at the same time.
//! - **Bounded memory.** Lengths and counts that a peer announces cost nothing before the bytes are there, and
//!   [`Limits`] bound those. Windows and held pushes are bounded too.
//! - **TLS verifies** certificates and names unless told not to. It uses *ring* and needs no process-wide set-up.
//! - **No password in any output**: not in `Debug`, not in errors, not where a server repeats it.
//! - **Errors that say what to do** ([`Error`]): whose fault, which server, while doing what, retryable or not.
//!
//! # What it refuses
//!
//! Unknown or contradictory URL options; commands on a [`Client`] that would change the connection for all who
//! share it. No connection follows cluster redirections: that needs to know which commands may be sent again.
//!
//! # Servers
//!
//! Anything that speaks RESP2; tested with Redis 6.0 to 8.0, Redict 7.3 and Valkey 8.0 to 9. Servers without `HELLO`
//! (before 6.0) are recognised by their refusing it.

mod address;
mod backoff;
mod client;
pub mod cluster;
mod connection;
mod dial;
mod driver;
mod endpoint;
mod error;
mod halves;
mod inbound;
mod info;
mod options;
mod pipeline;
mod replies;
mod secret;
pub mod sentinel;
mod server;
mod tls;
mod transport;
mod tried;
mod url;

pub use address::{Address, DEFAULT_PORT};
pub use backoff::Backoff;
pub use client::{Client, ClientOptions, Reply};
pub use connection::{Connection, Skimming};
pub use endpoint::{AddressMap, ClusterOptions, DEFAULT_SENTINEL_PORT, Endpoint, SentinelOptions, detect};
pub use error::Error;
pub use halves::{Receiver, Sender};
pub use info::{Info, InfoSection, Keyspace};
pub use keyferry_resp::{Command, Frame, Limits, Protocol};
pub use options::{ConnectOptions, DEFAULT_CONNECT_TIMEOUT, DEFAULT_IO_TIMEOUT};
pub use pipeline::{Batch, Pipeline};
pub use replies::Replies;
pub use secret::{Secret, SecretError};
pub use server::{Mode, Role, ServerInfo, Vendor, Version};
pub use tls::TlsOptions;
pub use transport::{ReadHalf, Transport, WriteHalf};
pub use url::{URL_OPTIONS, UrlError};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
