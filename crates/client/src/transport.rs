//! Bytes to and from a server, whatever carries them.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp;
#[cfg(unix)]
use tokio::net::{UnixStream, unix};
use tokio_rustls::client::TlsStream;

/// Silence after which the system asks whether the other side is still there.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
/// Time between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A byte stream to a server over TCP, TLS or a Unix socket. It implements tokio's `AsyncRead` and
/// `AsyncWrite`.
///
/// TCP connections send without delay (`TCP_NODELAY`) and notice a peer that vanished (keepalive after 30 s of
/// silence).
pub struct Transport(Inner);

enum Inner {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(unix)]
    Unix(UnixStream),
    Other(Box<dyn Stream>),
}

/// What [`Transport::from_stream`] takes.
trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

impl Transport {
    /// Any other stream: a tunnel, an in-memory pipe in a test.
    pub fn from_stream(stream: impl AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static) -> Self {
        Self(Inner::Other(Box::new(stream)))
    }

    pub(crate) fn tcp(stream: TcpStream) -> Self {
        Self(Inner::Tcp(stream))
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self(Inner::Tls(Box::new(stream)))
    }

    #[cfg(unix)]
    pub(crate) fn unix(stream: UnixStream) -> Self {
        Self(Inner::Unix(stream))
    }

    /// Whether the bytes are encrypted by TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.0, Inner::Tls(_))
    }

    /// Two halves that two tasks can use at the same time. Over plain TCP and Unix sockets they share no lock.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self.0 {
            Inner::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf(InnerRead::Tcp(read)), WriteHalf(InnerWrite::Tcp(write)))
            }
            Inner::Tls(stream) => {
                let (read, write) = tokio::io::split(*stream);
                (ReadHalf(InnerRead::Tls(read)), WriteHalf(InnerWrite::Tls(write)))
            }
            #[cfg(unix)]
            Inner::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf(InnerRead::Unix(read)), WriteHalf(InnerWrite::Unix(write)))
            }
            Inner::Other(stream) => {
                let (read, write) = tokio::io::split(stream);
                (ReadHalf(InnerRead::Other(read)), WriteHalf(InnerWrite::Other(write)))
            }
        }
    }
}

/// The reading half of a [`Transport`].
pub struct ReadHalf(InnerRead);

enum InnerRead {
    Tcp(tcp::OwnedReadHalf),
    Tls(tokio::io::ReadHalf<TlsStream<TcpStream>>),
    #[cfg(unix)]
    Unix(unix::OwnedReadHalf),
    Other(tokio::io::ReadHalf<Box<dyn Stream>>),
}

/// The writing half of a [`Transport`]. Dropping it closes the direction to the server.
pub struct WriteHalf(InnerWrite);

enum InnerWrite {
    Tcp(tcp::OwnedWriteHalf),
    Tls(tokio::io::WriteHalf<TlsStream<TcpStream>>),
    #[cfg(unix)]
    Unix(unix::OwnedWriteHalf),
    Other(tokio::io::WriteHalf<Box<dyn Stream>>),
}

/// Small commands go out at once, and a peer that is gone is noticed.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

macro_rules! delegate_read {
    ($outer:ident, $inner:ident) => {
        impl AsyncRead for $outer {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match &mut self.0 {
                    $inner::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
                    $inner::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
                    #[cfg(unix)]
                    $inner::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
                    $inner::Other(stream) => Pin::new(stream).poll_read(cx, buf),
                }
            }
        }
    };
}

macro_rules! delegate_write {
    ($outer:ident, $inner:ident) => {
        impl AsyncWrite for $outer {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                match &mut self.0 {
                    $inner::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
                    $inner::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
                    #[cfg(unix)]
                    $inner::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
                    $inner::Other(stream) => Pin::new(stream).poll_write(cx, buf),
                }
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match &mut self.0 {
                    $inner::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
                    $inner::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
                    #[cfg(unix)]
                    $inner::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
                    $inner::Other(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
                }
            }

            fn is_write_vectored(&self) -> bool {
                match &self.0 {
                    $inner::Tcp(stream) => stream.is_write_vectored(),
                    $inner::Tls(stream) => stream.is_write_vectored(),
                    #[cfg(unix)]
                    $inner::Unix(stream) => stream.is_write_vectored(),
                    $inner::Other(stream) => stream.is_write_vectored(),
                }
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match &mut self.0 {
                    $inner::Tcp(stream) => Pin::new(stream).poll_flush(cx),
                    $inner::Tls(stream) => Pin::new(stream).poll_flush(cx),
                    #[cfg(unix)]
                    $inner::Unix(stream) => Pin::new(stream).poll_flush(cx),
                    $inner::Other(stream) => Pin::new(stream).poll_flush(cx),
                }
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match &mut self.0 {
                    $inner::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
                    $inner::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
                    #[cfg(unix)]
                    $inner::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
                    $inner::Other(stream) => Pin::new(stream).poll_shutdown(cx),
                }
            }
        }
    };
}

delegate_read!(Transport, Inner);
delegate_read!(ReadHalf, InnerRead);
delegate_write!(Transport, Inner);
delegate_write!(WriteHalf, InnerWrite);

macro_rules! debug_kind {
    ($outer:ident, $inner:ident) => {
        impl fmt::Debug for $outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let kind = match &self.0 {
                    $inner::Tcp(_) => "tcp",
                    $inner::Tls(_) => "tls",
                    #[cfg(unix)]
                    $inner::Unix(_) => "unix",
                    $inner::Other(_) => "other",
                };
                f.debug_tuple(stringify!($outer)).field(&format_args!("{kind}")).finish()
            }
        }
    };
}

debug_kind!(Transport, Inner);
debug_kind!(ReadHalf, InnerRead);
debug_kind!(WriteHalf, InnerWrite);
