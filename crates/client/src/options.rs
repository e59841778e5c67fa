//! How to reach a server and how to behave towards it.

use std::path::PathBuf;
use std::time::Duration;

use keyferry_resp::{Limits, Protocol};

use crate::{Address, Secret, TlsOptions};

/// Default of [`ConnectOptions::connect_timeout`].
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of [`ConnectOptions::read_timeout`] and [`ConnectOptions::write_timeout`].
pub const DEFAULT_IO_TIMEOUT: Duration = Duration::from_secs(60);

/// Everything needed to open a connection: address, credentials, TLS, timeouts.
///
/// Made from a URL ([`from_url`](Self::from_url), or `str::parse`) or from an address, then adjusted by
/// `with_…` methods. `Debug` and `Display` never show the password; `Display` writes the URL back with `***`
/// in its place.
///
/// ```
/// use std::time::Duration;
/// use keyferry_client::{ConnectOptions, Secret};
///
/// let options = ConnectOptions::from_url("rediss://mover:s3cret@db.example:6380/2?read-timeout=5s")?
///     .with_connect_timeout(Some(Duration::from_secs(3)));
/// assert_eq!(options.db(), 2);
/// assert_eq!(
///     options.to_string(),
///     "rediss://mover:***@db.example:6380/2?connect-timeout=3s&read-timeout=5s"
/// );
///
/// let same = ConnectOptions::tcp("db.example", 6380).with_username("mover").with_password(Secret::new("s3cret"));
/// assert_eq!(same.address(), options.address());
/// # Ok::<(), keyferry_client::UrlError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    pub(crate) address: Address,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) db: u32,
    pub(crate) tls: Option<TlsOptions>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) read_timeout: Option<Duration>,
    pub(crate) write_timeout: Option<Duration>,
    pub(crate) protocol: Protocol,
    pub(crate) client_name: Option<String>,
    pub(crate) limits: Limits,
}

impl ConnectOptions {
    /// Options for a server at a TCP port, without TLS and without a password.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::new(Address::tcp(host, port))
    }

    /// Options for a server at a Unix domain socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::new(Address::Unix(path.into()))
    }

    /// Options for a server at `address`, everything else at its default.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            username: None,
            password: None,
            db: 0,
            tls: None,
            connect_timeout: Some(DEFAULT_CONNECT_TIMEOUT),
            read_timeout: Some(DEFAULT_IO_TIMEOUT),
            write_timeout: Some(DEFAULT_IO_TIMEOUT),
            protocol: Protocol::Resp2,
            client_name: None,
            limits: Limits::default(),
        }
    }

    /// Where the server listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The same options for another server: another node of a cluster, the primary that a sentinel named.
    ///
    /// A TLS server name set by [`TlsOptions::with_server_name`] stays.
    #[must_use]
    pub fn with_address(mut self, address: Address) -> Self {
        self.address = address;
        self
    }

    /// The ACL user, if one was named; without it `AUTH` speaks of the user `default`.
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// Sets the ACL user (Redis 6.0 and later).
    #[must_use]
    pub fn with_username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    pub(crate) fn without_username(mut self) -> Self {
        self.username = None;
        self
    }

    /// The password, if there is one.
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// Sets the password.
    #[must_use]
    pub fn with_password(mut self, password: Secret) -> Self {
        self.password = Some(password);
        self
    }

    /// The database that a new connection selects.
    pub fn db(&self) -> u32 {
        self.db
    }

    /// Sets the database.
    #[must_use]
    pub fn with_db(mut self, db: u32) -> Self {
        self.db = db;
        self
    }

    /// The TLS settings; `None` means plain TCP.
    pub fn tls(&self) -> Option<&TlsOptions> {
        self.tls.as_ref()
    }

    /// Turns TLS on. It is for TCP addresses: a Unix socket is used as it is.
    #[must_use]
    pub fn with_tls(mut self, tls: TlsOptions) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long name resolution, TCP, TLS, authentication and the first exchange may take together.
    /// Default 10 s; `None` waits for ever.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    /// Sets the connect timeout.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the server may stay silent while a reply is due. Default 60 s; `None` waits for ever.
    ///
    /// It counts from the last byte that moved, so a long reply that keeps coming never runs into it.
    pub fn read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    /// Sets the read timeout.
    #[must_use]
    pub fn with_read_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// How long the server may refuse to take more bytes. Default 60 s; `None` waits for ever.
    pub fn write_timeout(&self) -> Option<Duration> {
        self.write_timeout
    }

    /// Sets the write timeout.
    #[must_use]
    pub fn with_write_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// The protocol asked for. Default RESP2, in which a reply has the same shape on every server.
    ///
    /// Servers before 6.0 and most proxies know only RESP2; see `Connection::protocol` for what became of it.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Asks for a protocol.
    #[must_use]
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// The name under which the connection appears in the server's `CLIENT LIST`.
    pub fn client_name(&self) -> Option<&str> {
        self.client_name.as_deref()
    }

    /// Names the connection. Servers take printable ASCII without blanks; one that refuses the name, or
    /// cannot name connections, is used all the same.
    #[must_use]
    pub fn with_client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = Some(name.into());
        self
    }

    /// The limits on what a reply may announce and hold.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Sets the limits on replies.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}
