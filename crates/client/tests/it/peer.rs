//! Peers that say what a test wants them to say.

use std::future::Future;
use std::time::Duration;

use keyferry_client::{Command, ConnectOptions};
use keyferry_resp::CommandDecoder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Listens on loopback and runs `script` for each connection, one after the other. Gives options that lead there.
pub(crate) async fn peer<F, R>(mut script: F) -> ConnectOptions
where
    F: FnMut(Script) -> R + Send + 'static,
    R: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            script(Script { stream, decoder: CommandDecoder::new(), buffer: bytes::BytesMut::new() }).await;
        }
    });
    ConnectOptions::tcp("127.0.0.1", port)
}

/// One connection of a scripted peer.
pub(crate) struct Script {
    stream: TcpStream,
    decoder: CommandDecoder,
    buffer: bytes::BytesMut,
}

impl Script {
    /// The next command; `None` when the client has gone.
    pub(crate) async fn command(&mut self) -> Option<Command> {
        loop {
            if let Some(command) = self.decoder.decode(&mut self.buffer).unwrap() {
                return Some(command);
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Says something. A client that is gone is no failure of the peer.
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Reads a command and answers it.
    pub(crate) async fn answer(&mut self, bytes: impl AsRef<[u8]>) -> Option<Command> {
        let command = self.command().await?;
        self.say(bytes).await;
        Some(command)
    }

    /// Behaves like a server up to the end of the greeting of a client without a password.
    pub(crate) async fn greet(&mut self) {
        let hello = self.answer("*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:2\r\n").await;
        assert!(hello.is_some_and(|command| command.is("HELLO")));
    }

    /// Keeps the connection open and says nothing more until the client goes.
    pub(crate) async fn stay(&mut self) {
        while self.command().await.is_some() {}
    }
}

/// Longer than anything here should take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long [`impatient`] options wait: what is answered is so within it, also on a machine that has much else to do.
pub(crate) const SOON: Duration = Duration::from_secs(1);

/// Options for tests that wait for a timeout.
pub(crate) fn impatient(options: ConnectOptions) -> ConnectOptions {
    let soon = Some(SOON);
    options.with_connect_timeout(soon).with_read_timeout(soon).with_write_timeout(soon)
}
