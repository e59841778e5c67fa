//! A server that answers wrongly: a proxy that changes replies.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::BytesMut;
use keyferry_resp::{Command, CommandDecoder, Decoder, Frame, Protocol, encode_frame};

use crate::error::{Error, Result};

/// What is done to a reply: it gets the command and the reply, and gives what the client gets.
type Rewrite = dyn Fn(&Command, Frame) -> Frame + Send + Sync;

/// Forwards connections to one target on loopback, commands as they are, replies as a function makes them. Pushes, and
/// replies that belong to no command, are passed on as they are.
///
/// ```
/// use keyferry_resp::Frame;
/// use keyferry_testkit::{Client, Rewriter, Server};
///
/// # fn main() -> keyferry_testkit::Result<()> {
/// let server = Server::any()?;
/// let wrong = Rewriter::start(server.addr(), |command, reply| match reply {
///     Frame::Integer(n) if command.is("INCR") => Frame::Integer(n + 1),
///     other => other,
/// })?;
/// let mut client = Client::connect(&wrong.addr().to_string())?;
/// assert_eq!(client.int(&["INCR", "n"])?, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Rewriter {
    addr: SocketAddr,
    closing: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Rewriter {
    /// Listens on a free loopback port for connections to `target`.
    ///
    /// # Errors
    /// [`Error::Port`] when it cannot listen.
    pub fn start(
        target: SocketAddr,
        rewrite: impl Fn(&Command, Frame) -> Frame + Send + Sync + 'static,
    ) -> Result<Rewriter> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|source| Error::Port { source })?;
        let addr = listener.local_addr().map_err(|source| Error::Port { source })?;
        let closing = Arc::new(AtomicBool::new(false));
        let rewrite: Arc<Rewrite> = Arc::new(rewrite);
        let acceptor = std::thread::spawn({
            let closing = Arc::clone(&closing);
            move || {
                for client in listener.incoming().flatten() {
                    if closing.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Ok(server) = TcpStream::connect(target) {
                        join(client, server, &rewrite);
                    }
                }
            }
        });
        Ok(Rewriter { addr, closing, acceptor: Some(acceptor) })
    }

    /// Where to connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `redis://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }
}

impl Drop for Rewriter {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.addr);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Connects the two with a thread each way. Each ends when its side does.
fn join(client: TcpStream, server: TcpStream, rewrite: &Arc<Rewrite>) {
    let sent: Arc<Mutex<VecDeque<Command>>> = Arc::default();
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    if let (Ok(client), Ok(server)) = (client.try_clone(), server.try_clone()) {
        let sent = Arc::clone(&sent);
        std::thread::spawn(move || forward(client, server, &sent));
    }
    let rewrite = Arc::clone(rewrite);
    std::thread::spawn(move || answer(server, client, &sent, &*rewrite));
}

fn forward(mut client: TcpStream, mut server: TcpStream, sent: &Mutex<VecDeque<Command>>) {
    let (mut decoder, mut buffer, mut block) = (CommandDecoder::new(), BytesMut::new(), vec![0; 64 << 10]);
    while let Ok(read) = client.read(&mut block) {
        if read == 0 {
            break;
        }
        buffer.extend_from_slice(&block[..read]);
        // A command is known before its reply can come.
        while let Ok(Some(command)) = decoder.decode(&mut buffer) {
            sent.lock().unwrap_or_else(PoisonError::into_inner).push_back(command);
        }
        if server.write_all(&block[..read]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}

fn answer(mut server: TcpStream, mut client: TcpStream, sent: &Mutex<VecDeque<Command>>, rewrite: &Rewrite) {
    let (mut decoder, mut buffer, mut block) = (Decoder::new(), BytesMut::new(), vec![0; 64 << 10]);
    'open: while let Ok(read) = server.read(&mut block) {
        if read == 0 {
            break;
        }
        buffer.extend_from_slice(&block[..read]);
        let mut out = BytesMut::new();
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => {
                    let command = match frame.is_push() {
                        true => None,
                        false => sent.lock().unwrap_or_else(PoisonError::into_inner).pop_front(),
                    };
                    let frame = match command {
                        Some(command) => rewrite(&command, frame),
                        None => frame,
                    };
                    // In this form frames of RESP2 are written as they are, too.
                    encode_frame(&mut out, &frame, Protocol::Resp3);
                }
                Ok(None) => break,
                Err(_) => break 'open,
            }
        }
        if client.write_all(&out).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}
