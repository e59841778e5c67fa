//! What a program is pointed at: one server, a cluster, or a primary that sentinels know.

use std::fmt;

use crate::{Address, ConnectOptions, Connection, Error, Mode};

/// The port of a sentinel that a URL names without one.
pub const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// One end of a migration, as a URL names it ([`Endpoint::from_url`], or `str::parse`).
///
/// `Debug` and `Display` never show a password; `Display` writes the URL back with `***` in its place.
///
/// ```
/// use keyferry_client::Endpoint;
///
/// let endpoint: Endpoint = "redis+cluster://mover:s3cret@10.0.0.1:7000,10.0.0.2:7000?read-timeout=5s".parse()?;
/// let Endpoint::Cluster(cluster) = &endpoint else { panic!("a cluster") };
/// assert_eq!(cluster.seeds().len(), 2);
/// assert_eq!(cluster.node().username(), Some("mover"));
/// assert_eq!(
///     endpoint.to_string(),
///     "redis+cluster://mover:***@10.0.0.1:7000,10.0.0.2:7000?read-timeout=5s"
/// );
/// # Ok::<(), keyferry_client::UrlError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Endpoint {
    /// One server. Whether it is a node of a cluster is not known before it is asked: see [`Endpoint::detect`].
    Standalone(ConnectOptions),
    /// A cluster.
    Cluster(ClusterOptions),
    /// A primary that sentinels know.
    Sentinel(Box<SentinelOptions>),
}

impl Endpoint {
    /// Asks the server behind a plain URL what it is: a node of a cluster becomes [`Endpoint::Cluster`], with this node
    /// as the seed. URLs that say what they mean are left alone, and nobody is asked.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::connect`], and [`Error::IsSentinel`].
    pub async fn detect(self) -> Result<Self, Error> {
        let Self::Standalone(options) = self else { return Ok(self) };
        match detect(&options).await? {
            Mode::Cluster => Ok(Self::Cluster(ClusterOptions::new(options))),
            Mode::Sentinel => Err(Error::IsSentinel { address: options.address().clone() }),
            _ => Ok(Self::Standalone(options)),
        }
    }

    /// The options of the servers that hold the data: credentials, database, TLS, time limits. The address among them is
    /// that of the server, or of the first seed or sentinel.
    pub fn options(&self) -> &ConnectOptions {
        match self {
            Self::Standalone(options) => options,
            Self::Cluster(cluster) => &cluster.node,
            Self::Sentinel(sentinel) => &sentinel.server,
        }
    }

    /// Changes these options, for example the name of the connections.
    #[must_use]
    pub fn map_options(self, change: impl FnOnce(ConnectOptions) -> ConnectOptions) -> Self {
        match self {
            Self::Standalone(options) => Self::Standalone(change(options)),
            Self::Cluster(mut cluster) => {
                cluster.node = change(cluster.node);
                Self::Cluster(cluster)
            }
            Self::Sentinel(mut sentinel) => {
                sentinel.server = change(sentinel.server);
                Self::Sentinel(sentinel)
            }
        }
    }
}

impl From<ConnectOptions> for Endpoint {
    fn from(options: ConnectOptions) -> Self {
        Self::Standalone(options)
    }
}

/// Asks a server how it is deployed: from its greeting (`HELLO`, 6.0 and later), else from `INFO`.
///
/// A server that does not say counts as [`Mode::Standalone`].
///
/// # Errors
///
/// Those of [`Connection::connect`].
pub async fn detect(options: &ConnectOptions) -> Result<Mode, Error> {
    let mut connection = Connection::connect(options).await?;
    match connection.server().mode {
        Mode::Unknown => {}
        known => return Ok(known),
    }
    match connection.info("cluster").await {
        Ok(info) if info.get("cluster_enabled") == Some("1") => Ok(Mode::Cluster),
        // A service that hides INFO is used as what its address says: one server.
        Ok(_) | Err(Error::Server { .. }) => Ok(Mode::Standalone),
        Err(error) => Err(error),
    }
}

/// How to reach a cluster: some of its nodes, and what all of them have in common.
///
/// Made from a URL ([`Endpoint::from_url`]) or from the options of one node.
///
/// ```
/// use keyferry_client::{Address, ClusterOptions, ConnectOptions};
///
/// let cluster = ClusterOptions::new(ConnectOptions::tcp("10.0.0.1", 7000)).with_seed(Address::tcp("10.0.0.2", 7000));
/// assert_eq!(cluster.seeds().len(), 2);
/// assert_eq!(cluster.at(&Address::tcp("10.0.0.3", 7000)).address().to_string(), "10.0.0.3:7000");
/// ```
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// At least one.
    pub(crate) seeds: Vec<Address>,
    /// For every node, but for its address.
    pub(crate) node: ConnectOptions,
    pub(crate) address_map: AddressMap,
}

impl ClusterOptions {
    /// A cluster with this node as the seed; all nodes get the same credentials, TLS settings and time limits.
    pub fn new(node: ConnectOptions) -> Self {
        Self { seeds: vec![node.address().clone()], node, address_map: AddressMap::new() }
    }

    /// One more node to ask for the others.
    #[must_use]
    pub fn with_seed(mut self, address: Address) -> Self {
        self.seeds.push(address);
        self
    }

    /// The nodes to ask for the others, at least one.
    pub fn seeds(&self) -> &[Address] {
        &self.seeds
    }

    /// What all nodes have in common; the address is that of the first seed.
    pub fn node(&self) -> &ConnectOptions {
        &self.node
    }

    /// The options of the node that announces this address.
    pub fn at(&self, announced: &Address) -> ConnectOptions {
        self.node.clone().with_address(self.address_map.reach(announced))
    }

    /// Where nodes are reached that announce other addresses.
    pub fn address_map(&self) -> &AddressMap {
        &self.address_map
    }

    /// Sets where nodes are reached that announce other addresses. Seeds are taken as they are.
    #[must_use]
    pub fn with_address_map(mut self, map: AddressMap) -> Self {
        self.address_map = map;
        self
    }
}

/// How to reach a primary that sentinels know.
///
/// Made from a URL ([`Endpoint::from_url`]) or from the options of one sentinel and of the servers.
#[derive(Clone, Debug)]
pub struct SentinelOptions {
    /// At least one.
    pub(crate) sentinels: Vec<Address>,
    /// For every sentinel, but for its address.
    pub(crate) sentinel: ConnectOptions,
    pub(crate) service: String,
    /// For every server, but for its address.
    pub(crate) server: ConnectOptions,
    pub(crate) address_map: AddressMap,
}

impl SentinelOptions {
    /// The primary that a sentinel knows by the name `service`. All sentinels get the credentials, TLS settings and time
    /// limits of `sentinel`, all servers those of `server`, whose address does not matter.
    pub fn new(sentinel: ConnectOptions, service: impl Into<String>, server: ConnectOptions) -> Self {
        let sentinels = vec![sentinel.address().clone()];
        Self { sentinels, sentinel, service: service.into(), server, address_map: AddressMap::new() }
    }

    /// One more sentinel to ask.
    #[must_use]
    pub fn with_sentinel(mut self, address: Address) -> Self {
        self.sentinels.push(address);
        self
    }

    /// The sentinels, at least one, in the order in which they are asked.
    pub fn sentinels(&self) -> &[Address] {
        &self.sentinels
    }

    /// The name that the sentinels know the primary by.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// What all sentinels have in common; the address is that of the first.
    pub fn sentinel(&self) -> &ConnectOptions {
        &self.sentinel
    }

    /// What all servers have in common; the address means nothing.
    pub fn server(&self) -> &ConnectOptions {
        &self.server
    }

    /// The options of the server that the sentinels name by this address.
    pub fn at(&self, announced: &Address) -> ConnectOptions {
        self.server.clone().with_address(self.address_map.reach(announced))
    }

    /// Where servers are reached that the sentinels name by other addresses.
    pub fn address_map(&self) -> &AddressMap {
        &self.address_map
    }

    /// Sets where servers are reached that the sentinels name by other addresses. The sentinels themselves are taken as
    /// they are.
    #[must_use]
    pub fn with_address_map(mut self, map: AddressMap) -> Self {
        self.address_map = map;
        self
    }
}

/// Where servers are reached that announce other addresses: behind NAT, in containers, through tunnels.
///
/// A rule for a host and its port is looked for first, then one for the host alone, which keeps the port. Addresses
/// without a rule are used as they are.
///
/// ```
/// use keyferry_client::{Address, AddressMap};
///
/// let map = AddressMap::new().with_host("10.0.0.1", "db.example").with_port("10.0.0.1", 7001, "localhost", 17001);
/// assert_eq!(map.reach(&Address::tcp("10.0.0.1", 7000)), Address::tcp("db.example", 7000));
/// assert_eq!(map.reach(&Address::tcp("10.0.0.1", 7001)), Address::tcp("localhost", 17001));
/// assert_eq!(map.reach(&Address::tcp("10.0.0.2", 7000)), Address::tcp("10.0.0.2", 7000));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressMap {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    from: (String, Option<u16>),
    to: (String, Option<u16>),
}

impl AddressMap {
    /// A map without rules.
    pub fn new() -> Self {
        Self::default()
    }

    /// A host that is reached by another name or address, all ports alike.
    #[must_use]
    pub fn with_host(self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.with_rule((from.into(), None), (to.into(), None))
    }

    /// One port of a host that is reached at another host and port.
    #[must_use]
    pub fn with_port(self, from: impl Into<String>, port: u16, to: impl Into<String>, to_port: u16) -> Self {
        self.with_rule((from.into(), Some(port)), (to.into(), Some(to_port)))
    }

    /// Where the server is reached that announces this address.
    pub fn reach(&self, announced: &Address) -> Address {
        let Address::Tcp { host, port } = announced else { return announced.clone() };
        let rule = |port| self.rules.iter().find(|rule| rule.from.0 == *host && rule.from.1 == port);
        match rule(Some(*port)).or_else(|| rule(None)) {
            Some(Rule { to: (host, to_port), .. }) => Address::tcp(host, to_port.unwrap_or(*port)),
            None => announced.clone(),
        }
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    fn with_rule(mut self, from: (String, Option<u16>), to: (String, Option<u16>)) -> Self {
        self.rules.push(Rule { from, to });
        self
    }
}

/// `FROM=TO,FROM=TO`, as the URL option `address-map` has it.
impl fmt::Display for AddressMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |f: &mut fmt::Formatter<'_>, (host, port): &(String, Option<u16>)| match port {
            Some(port) => Address::tcp(host, *port).fmt(f),
            None if host.contains(':') => write!(f, "[{host}]"),
            None => f.write_str(host),
        };
        for (at, rule) in self.rules.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "," })?;
            side(f, &rule.from)?;
            f.write_str("=")?;
            side(f, &rule.to)?;
        }
        Ok(())
    }
}
