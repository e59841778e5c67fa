//! Connection URLs, read and written.
//!
//! The rule of this file: no error repeats a part of the URL that can be, or can be part of, a password. A
//! password whose reserved characters were not encoded moves the borders of host, port, path and query, so
//! none of these is quoted unless it cannot be one.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use keyferry_resp::Protocol;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::address::DEFAULT_PORT;
use crate::options::{DEFAULT_CONNECT_TIMEOUT, DEFAULT_IO_TIMEOUT};
use crate::{Address, ConnectOptions, Secret, SecretError, TlsOptions};

/// The options that the query of a URL may hold.
pub const URL_OPTIONS: [&str; 13] = [
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
    "sni",
    "write-timeout",
];

impl ConnectOptions {
    /// Reads a connection URL.
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
        parse(url)
    }
}

impl FromStr for ConnectOptions {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        parse(url)
    }
}

/// Why a text is not a connection URL. No message repeats a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// The URL does not begin with a scheme that is known.
    #[error(
        "a connection URL begins with redis://, rediss:// (TLS), valkey://, valkeys:// (TLS) or unix://; this \
         one does not"
    )]
    Scheme,
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

fn parse(url: &str) -> Result<ConnectOptions, UrlError> {
    let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
    if rest.contains('#') {
        return Err(UrlError::Reserved { character: '#', encoded: "%23" });
    }
    let (tls, unix) = match scheme.to_ascii_lowercase().as_str() {
        "redis" | "valkey" => (false, false),
        "rediss" | "valkeys" => (true, false),
        "unix" => (false, true),
        _ => return Err(UrlError::Scheme),
    };
    let (mut options, mut query) = if unix { parse_unix(rest)? } else { parse_tcp(rest)? };
    if tls {
        options.tls = Some(parse_tls(&mut query)?);
    }
    apply_query(&mut options, query)?;
    Ok(options)
}

/// `[user[:password]@]host[:port][/db][?query]`
fn parse_tcp(rest: &str) -> Result<(ConnectOptions, Query), UrlError> {
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    // An @ after the authority means that what was taken for host and port is the beginning of a password
    // with a bare / or ? in it.
    if tail.contains('@') {
        return Err(UrlError::Reserved { character: '@', encoded: "%40 (and / as %2F, ? as %3F)" });
    }
    let (userinfo, host_and_port) = match authority.rsplit_once('@') {
        Some((userinfo, host_and_port)) => (Some(userinfo), host_and_port),
        None => (None, authority),
    };
    let (host, port) = parse_host_and_port(host_and_port)?;
    let mut options = ConnectOptions::tcp(host, port);
    parse_userinfo(&mut options, userinfo)?;
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let mut query = Query::parse(query)?;
    match path.strip_prefix('/').unwrap_or(path) {
        "" => {}
        db => {
            options.db = parse_number(db).ok_or(UrlError::Database)?;
            if query.take("db").is_some() {
                return Err(UrlError::Conflict { what: "database", first: "the path", second: "db=" });
            }
        }
    }
    Ok((options, query))
}

/// `[user[:password]@]/path[?query]`
fn parse_unix(rest: &str) -> Result<(ConnectOptions, Query), UrlError> {
    let (userinfo, rest) = match rest.split_once('@') {
        Some((userinfo, rest)) if !userinfo.starts_with('/') => (Some(userinfo), rest),
        _ => (None, rest),
    };
    if !rest.starts_with('/') {
        return Err(UrlError::SocketPath);
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = decode_text(path, "the socket path")?;
    if path.contains('\0') || path.ends_with('/') {
        return Err(UrlError::SocketPath);
    }
    let mut options = ConnectOptions::unix(PathBuf::from(path));
    parse_userinfo(&mut options, userinfo)?;
    Ok((options, Query::parse(query)?))
}

fn parse_userinfo(options: &mut ConnectOptions, userinfo: Option<&str>) -> Result<(), UrlError> {
    let Some(userinfo) = userinfo else { return Ok(()) };
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    if !user.is_empty() {
        options.username = Some(decode_text(user, "the user name")?);
    }
    if !password.is_empty() {
        options.password = Some(Secret::new(decode(password, "the password")?));
    }
    Ok(())
}

fn parse_host_and_port(text: &str) -> Result<(String, u16), UrlError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) = bracketed.split_once(']').ok_or(UrlError::Host)?;
            let host = decode_text(host, "the host")?;
            // A zone (RFC 6874) follows a percent sign.
            let (ip, zone) = host.split_once('%').unwrap_or((&host, "0"));
            let zone_ok =
                !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            if ip.parse::<std::net::Ipv6Addr>().is_err() || !zone_ok {
                return Err(UrlError::Host);
            }
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or(UrlError::Port)?),
            };
            (host, port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
                return Err(UrlError::Host);
            }
            (host.to_owned(), port)
        }
    };
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => parse_number(port)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|&port| port != 0)
            .ok_or(UrlError::Port)?,
    };
    Ok((host, port))
}

fn parse_tls(query: &mut Query) -> Result<TlsOptions, UrlError> {
    let mut tls = TlsOptions::new();
    if let Some(ca) = query.take("ca") {
        tls = tls.with_ca_file(ca);
    }
    tls = match (query.take("cert"), query.take("key")) {
        (Some(cert), Some(key)) => tls.with_client_certificate_files(cert, key),
        (Some(_), None) => return Err(UrlError::Incomplete { given: "cert", missing: "key" }),
        (None, Some(_)) => return Err(UrlError::Incomplete { given: "key", missing: "cert" }),
        (None, None) => tls,
    };
    if let Some(name) = query.take("sni") {
        if rustls_pki_types::ServerName::try_from(name.as_str()).is_err() {
            return Err(UrlError::OptionValue { name: "sni", expected: "a host name or an IP address" });
        }
        tls = tls.with_server_name(name);
    }
    match query.take("insecure").as_deref() {
        None | Some("false") => Ok(tls),
        Some("true") => Ok(tls.with_any_certificate_accepted()),
        Some(_) => Err(UrlError::OptionValue { name: "insecure", expected: "true or false" }),
    }
}

fn apply_query(options: &mut ConnectOptions, mut query: Query) -> Result<(), UrlError> {
    if let Some(name) =
        ["ca", "cert", "key", "sni", "insecure"].into_iter().find(|name| query.take(name).is_some())
    {
        return Err(UrlError::NotTls { name });
    }
    for (name, timeout) in [
        ("connect-timeout", &mut options.connect_timeout),
        ("read-timeout", &mut options.read_timeout),
        ("write-timeout", &mut options.write_timeout),
    ] {
        if let Some(value) = query.take(name) {
            *timeout = parse_timeout(&value).ok_or(UrlError::OptionValue {
                name,
                expected: "a time such as 500ms, 5s, 2m, 1h, or none",
            })?;
        }
    }
    if let Some(value) = query.take("protocol") {
        options.protocol = match value.as_str() {
            "2" => Protocol::Resp2,
            "3" => Protocol::Resp3,
            _ => return Err(UrlError::OptionValue { name: "protocol", expected: "2 or 3" }),
        };
    }
    if let Some(value) = query.take("db") {
        options.db = parse_number(&value)
            .ok_or(UrlError::OptionValue { name: "db", expected: "a database number" })?;
    }
    if let Some(value) = query.take("client-name") {
        if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic()) {
            let expected = "printable ASCII characters without blanks";
            return Err(UrlError::OptionValue { name: "client-name", expected });
        }
        options.client_name = Some(value);
    }
    // The source of the password comes last: nothing is read for a URL that is wrong anyway.
    let (env, file) = (query.take("password-env"), query.take("password-file"));
    let what = "password";
    if options.password.is_some() && (env.is_some() || file.is_some()) {
        let second = if env.is_some() { "password-env=" } else { "password-file=" };
        return Err(UrlError::Conflict { what, first: "USER:PASSWORD@", second });
    }
    options.password = match (env, file) {
        (Some(_), Some(_)) => {
            return Err(UrlError::Conflict { what, first: "password-env=", second: "password-file=" });
        }
        (Some(name), None) => Some(Secret::from_env(&name)?),
        (None, Some(path)) => Some(Secret::from_file(path)?),
        (None, None) => options.password.take(),
    };
    Ok(())
}

/// The values of the options, by their position in [`URL_OPTIONS`].
struct Query([Option<String>; URL_OPTIONS.len()]);

impl Query {
    fn parse(text: &str) -> Result<Self, UrlError> {
        if text.contains('@') {
            return Err(UrlError::Reserved { character: '@', encoded: "%40" });
        }
        let mut query = Self(Default::default());
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(at) = URL_OPTIONS.iter().position(|known| *known == name) else {
                let plain =
                    name.len() <= 40 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
                return Err(UrlError::UnknownOption {
                    name: if plain { name.to_owned() } else { "…".to_owned() },
                });
            };
            let value = decode_text(value, "an option of the URL")?;
            if query.0[at].replace(value).is_some() {
                return Err(UrlError::Repeated { name: URL_OPTIONS[at] });
            }
        }
        Ok(query)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = URL_OPTIONS.iter().position(|known| *known == name)?;
        self.0[at].take()
    }
}

/// Digits only: no sign, no blank.
fn parse_number(text: &str) -> Option<u32> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn parse_timeout(text: &str) -> Option<Option<Duration>> {
    if text == "none" {
        return Some(None);
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = number.parse().ok().filter(|&number| number > 0)?;
    let milliseconds = match unit {
        "ms" => number,
        "s" => number.checked_mul(1_000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        _ => return None,
    };
    Some(Some(Duration::from_millis(milliseconds)))
}

fn decode(text: &str, part: &'static str) -> Result<Vec<u8>, UrlError> {
    let bytes = text.as_bytes();
    let sound = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(at, _)| {
        bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if sound { Ok(percent_decode_str(text).collect()) } else { Err(UrlError::Encoding { part }) }
}

fn decode_text(text: &str, part: &'static str) -> Result<String, UrlError> {
    String::from_utf8(decode(text, part)?).map_err(|_| UrlError::Encoding { part })
}

/// What stays as it is in user and values; everything else is percent-encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same for paths.
const ENCODED_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// Writes the URL that gives these options, with `***` for the password.
///
/// Certificates given as bytes, and limits, have no place in a URL and are left out.
impl fmt::Display for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (&self.address, &self.tls) {
            (Address::Unix(_), _) => "unix://",
            (_, Some(_)) => "rediss://",
            (_, None) => "redis://",
        })?;
        if let Some(username) = &self.username {
            write!(f, "{}", utf8_percent_encode(username, ENCODED))?;
        }
        if self.password.is_some() {
            f.write_str(":***")?;
        }
        if self.username.is_some() || self.password.is_some() {
            f.write_str("@")?;
        }
        let mut query = Vec::new();
        match &self.address {
            Address::Unix(path) => {
                write!(f, "{}", utf8_percent_encode(&path.to_string_lossy(), ENCODED_PATH))?;
                if self.db != 0 {
                    query.push(("db", self.db.to_string()));
                }
            }
            // A zone's percent sign is encoded in a URL.
            Address::Tcp { host, port } if host.contains(':') => {
                write!(f, "[{}]:{port}", host.replace('%', "%25"))?;
            }
            Address::Tcp { host, port } => write!(f, "{host}:{port}")?,
        }
        if self.db != 0 && matches!(self.address, Address::Tcp { .. }) {
            write!(f, "/{}", self.db)?;
        }
        if let Some(tls) = self.tls.as_ref().filter(|_| matches!(self.address, Address::Tcp { .. })) {
            tls.url_options(&mut query);
        }
        if let Some(name) = &self.client_name {
            query.push(("client-name", name.clone()));
        }
        for (name, value, default) in [
            ("connect-timeout", self.connect_timeout, DEFAULT_CONNECT_TIMEOUT),
            ("read-timeout", self.read_timeout, DEFAULT_IO_TIMEOUT),
            ("write-timeout", self.write_timeout, DEFAULT_IO_TIMEOUT),
        ] {
            if value != Some(default) {
                query.push((name, value.map_or_else(|| "none".to_owned(), write_timeout)));
            }
        }
        if self.protocol == Protocol::Resp3 {
            query.push(("protocol", "3".to_owned()));
        }
        for (at, (name, value)) in query.iter().enumerate() {
            let separator = if at == 0 { '?' } else { '&' };
            write!(f, "{separator}{name}={}", utf8_percent_encode(value, ENCODED_PATH))?;
        }
        Ok(())
    }
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
