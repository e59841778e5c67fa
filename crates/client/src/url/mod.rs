//! Connection URLs, read and written.
//!
//! The rule of this file: no error repeats a part of the URL that can be, or can be part of, a password. A
//! password whose reserved characters were not encoded moves the borders of host, port, path and query, so
//! none of these is quoted unless it cannot be one.

mod parts;
mod query;
mod several;
mod write;

use std::path::PathBuf;
use std::str::FromStr;

use crate::address::DEFAULT_PORT;
use crate::{ConnectOptions, Endpoint, SecretError};
use parts::{Parts, Scheme};
use query::Query;

/// The options that the query of a URL may hold.
pub const URL_OPTIONS: [&str; 18] = [
    "address-map",
    "ca",
    "cert",
    "client-name",
    "connect-timeout",
    "db",
    "insecure",
    "key",
    "password-env",
    "password-file",
    "protocol",
    "read-timeout",
    "sentinel-password-env",
    "sentinel-password-file",
    "sentinel-tls",
    "sentinel-user",
    "sni",
    "write-timeout",
];

impl ConnectOptions {
    /// Reads a connection URL that names one server. [`Endpoint::from_url`] reads those of clusters and sentinels as
    /// well.
    ///
    /// ```text
    /// redis://[[user]:password@]host[:port][/db][?option=value&…]     plain TCP; also valkey://
    /// rediss://…                                                      TLS; also valkeys://
    /// unix://[[user]:password@]/path/of/socket[?option=value&…]       Unix domain socket
    /// ```
    ///
    /// IPv6 addresses stand in brackets, the port defaults to 6379, the database to 0. `redis://user@host` names
    /// a user whose password comes from an option. Characters with a meaning in URLs (`/ ? # @ : %`) are
    /// percent-encoded in user, password and values.
    ///
    /// | option | meaning |
    /// |---|---|
    /// | `connect-timeout`, `read-timeout`, `write-timeout` | `500ms`, `5s`, `2m`, `1h`; `none` waits for ever |
    /// | `protocol` | `2` (default) or `3` |
    /// | `client-name` | name in the server's `CLIENT LIST` |
    /// | `db` | database, where the path is not free for it |
    /// | `password-env`, `password-file` | variable or file that holds the password; read here and now |
    /// | `ca` | PEM file of the certificate authorities to trust, instead of the system's |
    /// | `cert`, `key` | PEM files of the client's certificate chain and private key, always together |
    /// | `sni` | name that the server's certificate must be for, if it is not the host |
    /// | `insecure` | `true` accepts **any** certificate: whoever sits on the way can read and change everything, the password included |
    ///
    /// # Errors
    ///
    /// [`UrlError`], which never repeats a password. Options that are unknown, given twice or contradict each
    /// other are errors: a misspelt `ca` must not turn into a connection without it.
    pub fn from_url(url: &str) -> Result<Self, UrlError> {
        match Scheme::split(url)? {
            (Scheme::Tcp { tls }, rest) => parse_tcp(rest, tls),
            (Scheme::Unix, rest) => parse_unix(rest),
            (Scheme::Cluster { .. }, _) => Err(UrlError::NotOneServer { names: "a cluster" }),
            (Scheme::Sentinel { .. }, _) => Err(UrlError::NotOneServer { names: "sentinels" }),
        }
    }
}

impl FromStr for ConnectOptions {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        Self::from_url(url)
    }
}

impl Endpoint {
    /// Reads a URL of one server, of a cluster, or of a primary that sentinels know.
    ///
    /// ```text
    /// redis://…, rediss://…, unix://…                                 as ConnectOptions::from_url
    /// redis+cluster://[[user]:password@]host[:port][,host[:port]…][/db][?option=value&…]
    /// redis+sentinel://[[user]:password@]host[:port][,host[:port]…]/service[/db][?option=value&…]
    /// ```
    ///
    /// `rediss+cluster` and `rediss+sentinel` are the same with TLS; `valkey` may stand for `redis`. The hosts of a
    /// cluster are nodes to ask for the others: one is enough, several are safer. Those of a sentinel URL are the
    /// sentinels, whose port defaults to 26379; `service` is the name that they know the primary by. User, password and
    /// database are those of the servers that hold the data. Beside the options of [`ConnectOptions::from_url`] there
    /// are:
    ///
    /// | option | meaning |
    /// |---|---|
    /// | `address-map` | where servers are reached that announce other addresses, behind NAT for example: `10.0.0.1:7000=db.example:17000,10.0.0.2=192.0.2.2` |
    /// | `sentinel-user` | ACL user at the sentinels |
    /// | `sentinel-password-env`, `sentinel-password-file` | variable or file that holds the password of the sentinels; without one they are asked without a password |
    /// | `sentinel-tls` | `true` or `false`: whether the sentinels use TLS, where that differs from the servers |
    ///
    /// # Errors
    ///
    /// [`UrlError`], which never repeats a password.
    pub fn from_url(url: &str) -> Result<Self, UrlError> {
        match Scheme::split(url)? {
            (Scheme::Tcp { tls }, rest) => parse_tcp(rest, tls).map(Self::Standalone),
            (Scheme::Unix, rest) => parse_unix(rest).map(Self::Standalone),
            (Scheme::Cluster { tls }, rest) => several::parse_cluster(rest, tls).map(Self::Cluster),
            (Scheme::Sentinel { tls }, rest) => {
                several::parse_sentinel(rest, tls).map(|options| Self::Sentinel(Box::new(options)))
            }
        }
    }
}

impl FromStr for Endpoint {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        Self::from_url(url)
    }
}

/// Why a text is not a connection URL. No message repeats a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// The URL does not begin with a scheme that is known.
    #[error(
        "a connection URL begins with redis://, rediss:// (TLS), valkey://, valkeys:// (TLS), unix://, \
         redis+cluster:// or redis+sentinel://; this one does not"
    )]
    Scheme,
    /// The URL of a cluster, or of sentinels, where one server is meant.
    #[error("the URL names {names}, but here one server is due: write redis://HOST:PORT")]
    NotOneServer {
        /// What it names.
        names: &'static str,
    },
    /// More than one host where one server is meant.
    #[error(
        "the URL has several hosts: write redis+cluster:// if they are nodes of a cluster, redis+sentinel:// if they \
         are sentinels"
    )]
    SeveralHosts,
    /// A sentinel URL without the name of a service.
    #[error(
        "a sentinel URL names the service that the sentinels watch, as in redis+sentinel://host:26379/mymaster"
    )]
    Service,
    /// A reserved character stands where it must be percent-encoded.
    #[error(
        "the URL holds {character:?} where it has no meaning: in user, password and values write it as \
         {encoded}"
    )]
    Reserved {
        /// The character.
        character: char,
        /// How to write it.
        encoded: &'static str,
    },
    /// A percent sign is not followed by two hexadecimal digits, or what they encode is not UTF-8.
    #[error("{part} holds a percent sign that is no valid encoding: write a literal one as %25")]
    Encoding {
        /// Which part of the URL.
        part: &'static str,
    },
    /// No host, or one with characters that no host has.
    #[error("the URL has no usable host: write HOST, HOST:PORT or [IPV6]:PORT after the password's @")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the URL's port is not a number from 1 to 65535 (if it is the password: PASSWORD@HOST)")]
    Port,
    /// The path of a TCP URL is not a database number.
    #[error("the path of the URL should be a database number, as in redis://host/2")]
    Database,
    /// A `unix://` URL without an absolute path.
    #[error("a unix:// URL needs the absolute path of the socket, as in unix:///run/redis.sock")]
    SocketPath,
    /// The query names an option that does not exist.
    #[error("unknown URL option {name:?}; known are {}", URL_OPTIONS.join(", "))]
    UnknownOption {
        /// Its name.
        name: String,
    },
    /// An option has a value that it cannot have.
    #[error("URL option {name}: expected {expected}")]
    OptionValue {
        /// Name of the option.
        name: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// An option stands there more than once.
    #[error("URL option {name} is given more than once")]
    Repeated {
        /// Name of the option.
        name: &'static str,
    },
    /// One thing is said in two places.
    #[error("the URL gives the {what} twice, by {first} and by {second}: keep one")]
    Conflict {
        /// What is given twice.
        what: &'static str,
        /// One place.
        first: &'static str,
        /// The other place.
        second: &'static str,
    },
    /// A TLS option in a URL without TLS.
    #[error("URL option {name} is about TLS, but the scheme is not: use rediss:// or valkeys://")]
    NotTls {
        /// Name of the option.
        name: &'static str,
    },
    /// An option of clusters or sentinels in a URL of something else.
    #[error("URL option {name} belongs to {schemes} URLs")]
    NotHere {
        /// Name of the option.
        name: &'static str,
        /// Where it belongs.
        schemes: &'static str,
    },
    /// `cert` without `key`, or the other way round.
    #[error("URL option {given} needs {missing} beside it")]
    Incomplete {
        /// The option that is there.
        given: &'static str,
        /// The option that is not.
        missing: &'static str,
    },
    /// The password could not be read from where the URL says it is.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// `[user[:password]@]host[:port][/db][?query]`
fn parse_tcp(rest: &str, tls: bool) -> Result<ConnectOptions, UrlError> {
    let Parts { userinfo, hosts, path, mut query } = Parts::split(rest, DEFAULT_PORT)?;
    let mut hosts = hosts.into_iter();
    let (Some(address), None) = (hosts.next(), hosts.next()) else { return Err(UrlError::SeveralHosts) };
    let mut options = ConnectOptions::new(address);
    parts::userinfo(&mut options, userinfo)?;
    options.db = query.take_db(path)?;
    options.tls = query.take_tls(tls)?;
    query.apply(&mut options)?;
    Ok(options)
}

/// `[user[:password]@]/path[?query]`
fn parse_unix(rest: &str) -> Result<ConnectOptions, UrlError> {
    let (userinfo, rest) = match rest.split_once('@') {
        Some((userinfo, rest)) if !userinfo.starts_with('/') => (Some(userinfo), rest),
        _ => (None, rest),
    };
    if !rest.starts_with('/') {
        return Err(UrlError::SocketPath);
    }
    let (path, options_text) = rest.split_once('?').unwrap_or((rest, ""));
    let path = query::decode_text(path, "the socket path")?;
    if path.contains('\0') || path.ends_with('/') {
        return Err(UrlError::SocketPath);
    }
    let mut options = ConnectOptions::unix(PathBuf::from(path));
    parts::userinfo(&mut options, userinfo)?;
    let mut query = Query::parse(options_text)?;
    options.db = query.take_db("")?;
    query.take_tls(false)?;
    query.apply(&mut options)?;
    Ok(options)
}
