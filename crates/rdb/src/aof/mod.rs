//! Append-only files: what servers log between snapshots.
//!
//! Three shapes exist: a plain log of commands, a log with a snapshot in front (Redis 4.0 to 6.2), and a directory of
//! files with a manifest (Redis 7.0, Valkey). [`read`] takes all three, from disk; [`AofParser`] takes the bytes of one
//! file as they come. [`AofWriter`] writes the directory.
//!
//! Commands are arrays of bulk strings, in the strict form that servers write and their checkers demand. The database is
//! tracked through `SELECT`, transactions through `MULTI` and `EXEC`, time through `#TS:` annotations.
//!
//! ```
//! use keyferry_rdb::aof::{AofEvent, AofParser};
//!
//! let mut parser = AofParser::new();
//! parser.feed(b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n#TS:1700000000\r\n*2\r\n$4\r\nINCR\r\n$1\r\nk\r\n");
//! let mut seen = Vec::new();
//! while let Some(event) = parser.next_event()? {
//!     match event {
//!         AofEvent::Command(command) => {
//!             let args: Vec<_> = command.args().map(String::from_utf8_lossy).collect();
//!             seen.push(format!("{}: {}", command.db, args.join(" ")));
//!         }
//!         AofEvent::Timestamp { seconds, .. } => seen.push(format!("at {seconds}")),
//!         _ => {}
//!     }
//! }
//! parser.end_of_input()?;
//! assert_eq!(seen, ["3: SELECT 3", "at 1700000000", "3: INCR k"]);
//! # Ok::<(), keyferry_rdb::Error>(())
//! ```

mod manifest;
mod parser;
mod read;
mod writer;

pub use manifest::{Manifest, ManifestFile};
pub use parser::{AofCommand, AofEvent, AofParser};
pub use read::{Damage, DamageKind, ReadOptions, Summary, Tail, files, read};
pub use writer::{AofWriter, append_command};
