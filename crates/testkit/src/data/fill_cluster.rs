use std::io::{self, Write};

use bytes::BytesMut;
use keyferry_resp::{Command, CommandDecoder};

use crate::cluster::ClusterClient;
use crate::data::Commands;
use crate::error::{Error, Result};

/// Commands that are sent in one go.
const BATCH: usize = 2000;

/// Bytes of them.
const BATCH_BYTES: usize = 4 << 20;

/// Sends what `generate` pushes to a cluster, each command to the node of its key, and checks every reply. Returns the number
/// of commands sent. MSET is taken apart; SELECT chooses the database of what follows; commands about functions and scripts
/// go to every primary. Other commands may name keys of one slot only.
///
/// # Errors
/// [`Error::Refused`] for the first error reply, and what the connections or `generate` fail with.
pub fn fill_cluster(
    client: &mut ClusterClient,
    generate: impl FnOnce(&mut Commands<'_>) -> Result<()>,
) -> Result<u64> {
    let mut sink = Sink {
        client,
        decoder: CommandDecoder::new(),
        input: BytesMut::new(),
        batch: Vec::new(),
        bytes: 0,
        sent: 0,
        failed: None,
    };
    let mut commands = Commands::new(&mut sink);
    let generated = generate(&mut commands).and_then(|()| commands.finish());
    match sink.failed {
        // What the generator saw was only that nothing could be written any more.
        Some(error) => Err(error),
        None => generated.map(|_| sink.sent),
    }
}

/// A writer that takes the bytes apart into commands again and sends them.
struct Sink<'c> {
    client: &'c mut ClusterClient,
    decoder: CommandDecoder,
    input: BytesMut,
    batch: Vec<Vec<Vec<u8>>>,
    bytes: usize,
    sent: u64,
    failed: Option<Error>,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.input.extend_from_slice(bytes);
        match self.take() {
            Ok(()) => Ok(bytes.len()),
            Err(error) => Err(self.fail(error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send().map_err(|error| self.fail(error))
    }
}

impl Sink<'_> {
    fn fail(&mut self, error: Error) -> io::Error {
        self.failed.get_or_insert(error);
        io::ErrorKind::BrokenPipe.into()
    }

    fn take(&mut self) -> Result<()> {
        let not_a_command = |source| Error::Protocol { address: "the generator".to_owned(), source };
        while let Some(command) = self.decoder.decode(&mut self.input).map_err(not_a_command)? {
            self.bytes += command.raw().len();
            self.add(&command)?;
            if self.batch.len() >= BATCH || self.bytes >= BATCH_BYTES {
                self.send()?;
            }
        }
        Ok(())
    }

    fn add(&mut self, command: &Command) -> Result<()> {
        let args: Vec<Vec<u8>> = command.args().map(<[u8]>::to_vec).collect();
        if command.is("SELECT") {
            self.send()?;
            let number = args.get(1).and_then(|arg| std::str::from_utf8(arg).ok()?.parse().ok());
            self.client.select(number.unwrap_or(0));
        } else if command.is("FUNCTION") || command.is("SCRIPT") {
            self.send()?;
            self.client.on_every_primary(&args)?;
            self.sent += 1;
        } else if command.is("MSET") {
            let pairs = args[1..].chunks_exact(2);
            self.batch.extend(pairs.map(|pair| vec![b"SET".to_vec(), pair[0].clone(), pair[1].clone()]));
        } else {
            self.batch.push(args);
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        let replies = self.client.pipe(&batch)?;
        self.sent += batch.len() as u64;
        let refused = batch.iter().zip(&replies).find_map(|(args, reply)| Some((args, reply.error()?)));
        refused.map_or(Ok(()), |(args, message)| Err(ClusterClient::refused(args, message)))
    }
}
