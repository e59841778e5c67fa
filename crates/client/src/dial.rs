//! From an address to a byte stream: name resolution, TCP or Unix socket, TLS.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use crate::transport::{Transport, tune};
use crate::{Address, ConnectOptions, Error, TlsOptions, tls};

/// The time that one attempt to connect has, all phases together.
#[derive(Clone, Copy)]
pub(crate) struct Deadline<'a> {
    address: &'a Address,
    /// When it is over, and how long it was at the start.
    end: Option<(Instant, Duration)>,
}

impl<'a> Deadline<'a> {
    pub(crate) fn start(options: &'a ConnectOptions) -> Self {
        let end = options.connect_timeout.and_then(|all| Some((Instant::now().checked_add(all)?, all)));
        Self { address: &options.address, end }
    }

    /// Lets `work` run until the deadline; `phase` is what the error calls it.
    pub(crate) async fn run<T>(self, phase: &'static str, work: impl Future<Output = T>) -> Result<T, Error> {
        let Some((end, after)) = self.end else { return Ok(work.await) };
        timeout_at(end, work).await.map_err(|_| Error::ConnectTimeout {
            address: self.address.clone(),
            phase,
            after,
        })
    }

    /// The end of the share of one among `count` candidates still to be tried, or of the whole.
    fn share(self, count: usize) -> Option<Instant> {
        let (end, _) = self.end?;
        let left = end.saturating_duration_since(Instant::now());
        Some(Instant::now() + left / u32::try_from(count.max(1)).unwrap_or(u32::MAX))
    }
}

/// Opens the byte stream that the options describe.
pub(crate) async fn dial(options: &ConnectOptions, deadline: Deadline<'_>) -> Result<Transport, Error> {
    match &options.address {
        Address::Tcp { host, port } => {
            let stream = dial_tcp(&options.address, host, *port, deadline).await?;
            match &options.tls {
                None => Ok(Transport::tcp(stream)),
                Some(tls) => start_tls(&options.address, host, tls, stream, deadline).await,
            }
        }
        #[cfg(unix)]
        Address::Unix(path) => {
            let connecting = tokio::net::UnixStream::connect(path);
            let stream = deadline.run("the connection to the socket", connecting).await?;
            stream.map(Transport::unix).map_err(|source| failed(&options.address, source))
        }
        #[cfg(not(unix))]
        Address::Unix(_) => Err(failed(&options.address, io::ErrorKind::Unsupported.into())),
    }
}

async fn dial_tcp(
    address: &Address,
    host: &str,
    port: u16,
    deadline: Deadline<'_>,
) -> Result<TcpStream, Error> {
    let resolve = |source| Error::Resolve { address: address.clone(), source };
    let found = deadline.run("name resolution", lookup_host((host, port))).await?.map_err(resolve)?;
    let candidates: Vec<SocketAddr> = found.collect();
    let mut last = None;
    for (at, candidate) in candidates.iter().enumerate() {
        // A candidate that drops packets must not use up the time of the others.
        let attempt = TcpStream::connect(candidate);
        let outcome = match deadline.share(candidates.len() - at) {
            None => attempt.await,
            Some(end) => match timeout_at(end, attempt).await {
                Ok(outcome) => outcome,
                Err(_) => continue,
            },
        };
        match outcome.and_then(|stream| tune(&stream).map(|()| stream)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    match (last, deadline.end) {
        (Some(source), _) => Err(failed(address, source)),
        (None, Some((_, after))) if !candidates.is_empty() => {
            Err(Error::ConnectTimeout { address: address.clone(), phase: "the TCP connection", after })
        }
        (None, _) => Err(resolve(io::Error::new(io::ErrorKind::NotFound, "the name has no address"))),
    }
}

async fn start_tls(
    address: &Address,
    host: &str,
    options: &TlsOptions,
    stream: TcpStream,
    deadline: Deadline<'_>,
) -> Result<Transport, Error> {
    let name = options.name_for(host)?;
    let settings = options.clone();
    // Files are read and certificates parsed where that blocks nobody.
    let config = tokio::task::spawn_blocking(move || settings.client_config());
    let config = deadline.run("reading the certificates", config).await?;
    let config = config.map_err(|error| Error::TlsSetup {
        what: "the TLS settings",
        origin: "the options".to_owned(),
        reason: error.to_string(),
    })??;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    match deadline.run("the TLS handshake", connector.connect(name, stream)).await? {
        Ok(stream) => Ok(Transport::tls(stream)),
        Err(error) => Err(match tls::explain(address, &error) {
            Some(error) => error,
            None => Error::Tls {
                address: address.clone(),
                reason: format!("the connection ended during the handshake ({error})"),
                advice: "if this is the plain port, use redis:// or the TLS port; else see the log of the server",
            },
        }),
    }
}

fn failed(address: &Address, source: io::Error) -> Error {
    Error::Connect { address: address.clone(), source }
}
