//! Connection URLs written back.

use std::fmt;
use std::time::Duration;

use keyferry_resp::Protocol;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::options::{DEFAULT_CONNECT_TIMEOUT, DEFAULT_IO_TIMEOUT};
use crate::{Address, ClusterOptions, ConnectOptions, Endpoint, SentinelOptions};

/// What stays as it is in user and values; everything else is percent-encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same for paths.
const ENCODED_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// Names and values of a query.
type Options = Vec<(&'static str, String)>;

/// Writes the URL that gives these options, with `***` for the password.
///
/// Certificates given as bytes, and limits, have no place in a URL and are left out.
impl fmt::Display for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = Options::new();
        match &self.address {
            Address::Unix(path) => {
                f.write_str("unix://")?;
                write_userinfo(f, self)?;
                write!(f, "{}", utf8_percent_encode(&path.to_string_lossy(), ENCODED_PATH))?;
                if self.db != 0 {
                    query.push(("db", self.db.to_string()));
                }
            }
            Address::Tcp { .. } => {
                f.write_str(if self.tls.is_some() { "rediss://" } else { "redis://" })?;
                write_userinfo(f, self)?;
                write_hosts(f, std::slice::from_ref(&self.address))?;
                write_db(f, self.db)?;
                if let Some(tls) = &self.tls {
                    tls.url_options(&mut query);
                }
            }
        }
        collect_options(self, &mut query);
        write_query(f, &query)
    }
}

/// Writes the URL that gives this endpoint, with `***` for the password of the servers; that of the sentinels has no
/// place in a URL.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standalone(options) => options.fmt(f),
            Self::Cluster(cluster) => cluster.fmt(f),
            Self::Sentinel(sentinel) => sentinel.fmt(f),
        }
    }
}

/// As [`Endpoint`].
impl fmt::Display for ClusterOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, node, address_map } = self;
        f.write_str(if node.tls.is_some() { "rediss+cluster://" } else { "redis+cluster://" })?;
        write_userinfo(f, node)?;
        write_hosts(f, seeds)?;
        write_db(f, node.db)?;
        let mut query = Options::new();
        if let Some(tls) = &node.tls {
            tls.url_options(&mut query);
        }
        collect_options(node, &mut query);
        if !address_map.is_empty() {
            query.push(("address-map", address_map.to_string()));
        }
        write_query(f, &query)
    }
}

/// As [`Endpoint`].
impl fmt::Display for SentinelOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sentinels, sentinel, service, server, address_map } = self;
        f.write_str(if server.tls.is_some() { "rediss+sentinel://" } else { "redis+sentinel://" })?;
        write_userinfo(f, server)?;
        write_hosts(f, sentinels)?;
        write!(f, "/{}", utf8_percent_encode(service, ENCODED))?;
        write_db(f, server.db)?;
        let mut query = Options::new();
        if let Some(tls) = server.tls.as_ref().or(sentinel.tls.as_ref()) {
            tls.url_options(&mut query);
        }
        collect_options(server, &mut query);
        if server.tls.is_some() != sentinel.tls.is_some() {
            query.push(("sentinel-tls", sentinel.tls.is_some().to_string()));
        }
        if let Some(user) = &sentinel.username {
            query.push(("sentinel-user", user.clone()));
        }
        if !address_map.is_empty() {
            query.push(("address-map", address_map.to_string()));
        }
        write_query(f, &query)
    }
}

fn write_userinfo(f: &mut fmt::Formatter<'_>, options: &ConnectOptions) -> fmt::Result {
    if let Some(username) = &options.username {
        write!(f, "{}", utf8_percent_encode(username, ENCODED))?;
    }
    if options.password.is_some() {
        f.write_str(":***")?;
    }
    if options.username.is_some() || options.password.is_some() {
        f.write_str("@")?;
    }
    Ok(())
}

fn write_hosts(f: &mut fmt::Formatter<'_>, hosts: &[Address]) -> fmt::Result {
    for (at, address) in hosts.iter().enumerate() {
        f.write_str(if at == 0 { "" } else { "," })?;
        // A zone's percent sign is encoded in a URL.
        f.write_str(&address.to_string().replace('%', "%25"))?;
    }
    Ok(())
}

fn write_db(f: &mut fmt::Formatter<'_>, db: u32) -> fmt::Result {
    if db == 0 { Ok(()) } else { write!(f, "/{db}") }
}

/// The options of the connection itself that are not at their default.
fn collect_options(options: &ConnectOptions, query: &mut Options) {
    if let Some(name) = &options.client_name {
        query.push(("client-name", name.clone()));
    }
    for (name, value, default) in [
        ("connect-timeout", options.connect_timeout, DEFAULT_CONNECT_TIMEOUT),
        ("read-timeout", options.read_timeout, DEFAULT_IO_TIMEOUT),
        ("write-timeout", options.write_timeout, DEFAULT_IO_TIMEOUT),
    ] {
        if value != Some(default) {
            query.push((name, value.map_or_else(|| "none".to_owned(), write_timeout)));
        }
    }
    if options.protocol == Protocol::Resp3 {
        query.push(("protocol", "3".to_owned()));
    }
}

fn write_query(f: &mut fmt::Formatter<'_>, query: &Options) -> fmt::Result {
    for (at, (name, value)) in query.iter().enumerate() {
        let separator = if at == 0 { '?' } else { '&' };
        write!(f, "{separator}{name}={}", utf8_percent_encode(value, ENCODED_PATH))?;
    }
    Ok(())
}

fn write_timeout(timeout: Duration) -> String {
    // A timeout below one millisecond is written as one: zero would not be accepted back.
    let milliseconds = timeout.as_millis().max(1);
    if milliseconds.is_multiple_of(1_000) {
        format!("{}s", milliseconds / 1_000)
    } else {
        format!("{milliseconds}ms")
    }
}
