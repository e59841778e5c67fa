//! Seeded data: the same seed gives the same keys and values on every machine and every run.
//!
//! - [`small()`]: a few hundred keys of every type, every encoding, and every odd corner that the server knows.
//! - [`Mixed`]: what a real server may hold, in any amount; its default is the data set of the project's figures.
//! - [`tiny_keys`], [`large_strings`], [`big`]: data of one shape.
//! - [`Writer`]: threads that keep writing all kinds of commands.
//!
//! Generators append commands to a [`Commands`], which writes them in blocks of a few megabytes; [`fill`] does that over a
//! connection while a second thread reads the replies, [`fill_cluster`] to the nodes of a cluster. No command is sent that the server does not have: [`Features`] asks
//! it once.

mod features;
mod fill_cluster;
mod link;
mod mixed;
mod shapes;
mod small;
mod workload;
mod writer;

pub use features::Features;
pub use fill_cluster::fill_cluster;
pub use mixed::Mixed;
pub use shapes::{Shape, big, large_strings, large_texts, tiny_keys, tiny_keys_file};
pub use small::{small, small_cluster, small_for};
pub use workload::multi_key_commands;
pub use writer::{Counts, Mix, Writer, WriterOptions, settle, settle_cluster};

use std::io::Write;

use bytes::BytesMut;
use keyferry_resp::encode_command;

use crate::client::Client;
use crate::error::{Error, Result};

/// Bytes that are gathered before they are written.
const BLOCK: usize = 4 << 20;

/// A far deadline, 2100-01-01, for keys and fields that shall have one and keep it.
pub(crate) const FAR_DEADLINE_MS: u64 = 4_102_444_800_000;

/// Encodes commands and writes them to any writer, in large blocks.
///
/// ```
/// use keyferry_testkit::data::Commands;
///
/// let mut out = Vec::new();
/// let mut commands = Commands::new(&mut out);
/// commands.push(["SET", "a", "1"])?;
/// assert_eq!(commands.finish()?, 1);
/// assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n");
/// # Ok::<(), keyferry_testkit::Error>(())
/// ```
pub struct Commands<'a> {
    out: &'a mut dyn Write,
    buffer: BytesMut,
    count: u64,
}

impl std::fmt::Debug for Commands<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commands").field("count", &self.count).field("unsent", &self.buffer.len()).finish()
    }
}

impl<'a> Commands<'a> {
    /// Commands that go to `out`.
    pub fn new(out: &'a mut dyn Write) -> Commands<'a> {
        Commands { out, buffer: BytesMut::with_capacity(BLOCK + BLOCK / 4), count: 0 }
    }

    /// Appends one command.
    ///
    /// # Errors
    /// [`Error::Connection`] when a full block could not be written.
    pub fn push<I>(&mut self, args: I) -> Result<()>
    where
        I: IntoIterator<IntoIter: ExactSizeIterator, Item: AsRef<[u8]>>,
    {
        encode_command(&mut self.buffer, args);
        self.count += 1;
        if self.buffer.len() >= BLOCK { self.write() } else { Ok(()) }
    }

    /// Writes what is left and returns how many commands there were.
    ///
    /// # Errors
    /// [`Error::Connection`].
    pub fn finish(mut self) -> Result<u64> {
        self.write()?;
        self.out.flush().map_err(not_written)?;
        Ok(self.count)
    }

    fn write(&mut self) -> Result<()> {
        let written = self.out.write_all(&self.buffer).map_err(not_written);
        self.buffer.clear();
        written
    }
}

/// Sends what `generate` pushes, as fast as the server takes it, and checks every reply. Returns the number of commands.
///
/// ```
/// use keyferry_testkit::{Server, data};
///
/// # fn main() -> keyferry_testkit::Result<()> {
/// let server = Server::any()?;
/// let mut client = server.client()?;
/// let sent = data::fill(&mut client, |commands| {
///     (0..1000).try_for_each(|i| commands.push(["SET", &format!("key:{i}"), "value"]))
/// })?;
/// assert_eq!(sent, 1000);
/// assert_eq!(client.int(&["DBSIZE"])?, 1000);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Refused`] for the first error reply (all commands are sent all the same), and what the connection or `generate`
/// fails with.
pub fn fill(client: &mut Client, generate: impl FnOnce(&mut Commands<'_>) -> Result<()>) -> Result<u64> {
    // The reader knows the end by the reply to this, whatever the number of commands.
    const END: &str = "keyferry-testkit: end of the data";
    let mut stream = client.sending_half()?;
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || -> Result<()> {
            let mut refused = None;
            for number in 1u64.. {
                let reply = client.reply()?;
                if reply.as_bytes().is_some_and(|bytes| bytes == END) {
                    break;
                }
                if let Some(message) = reply.error()
                    && refused.is_none()
                {
                    refused = Some(client.refused(format!("command {number} of the data"), message));
                }
            }
            refused.map_or(Ok(()), Err)
        });
        let mut commands = Commands::new(&mut stream);
        let generated = generate(&mut commands);
        let sent = commands.push(["ECHO", END]).and_then(|()| commands.finish());
        let read = reader.join().map_err(|_| Error::Thread("reading"))?;
        generated.and(read).and(sent.map(|count| count - 1))
    })
}

fn not_written(source: std::io::Error) -> Error {
    Error::Connection { address: "data".to_owned(), what: "writing commands", source }
}
