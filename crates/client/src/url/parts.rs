//! The parts of a URL before its query.

use super::UrlError;
use super::query::{Query, decode, decode_text, parse_number};
use crate::{Address, ConnectOptions, Secret};

/// What a URL names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Tcp { tls: bool },
    Unix,
    Cluster { tls: bool },
    Sentinel { tls: bool },
}

impl Scheme {
    /// The scheme and what follows its `://`.
    pub(super) fn split(url: &str) -> Result<(Self, &str), UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        if rest.contains('#') {
            return Err(UrlError::Reserved { character: '#', encoded: "%23" });
        }
        let scheme = scheme.to_ascii_lowercase();
        let (protocol, kind) = match scheme.split_once('+') {
            Some((protocol, kind)) => (protocol, Some(kind)),
            None => (scheme.as_str(), None),
        };
        let tls = match protocol {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            "unix" if kind.is_none() => return Ok((Self::Unix, rest)),
            _ => return Err(UrlError::Scheme),
        };
        match kind {
            None => Ok((Self::Tcp { tls }, rest)),
            Some("cluster") => Ok((Self::Cluster { tls }, rest)),
            Some("sentinel") => Ok((Self::Sentinel { tls }, rest)),
            Some(_) => Err(UrlError::Scheme),
        }
    }
}

/// `[userinfo@]host[:port][,host[:port]…][/path][?query]`, taken apart.
pub(super) struct Parts<'u> {
    pub(super) userinfo: Option<&'u str>,
    /// At least one.
    pub(super) hosts: Vec<Address>,
    /// Without the slash before it.
    pub(super) path: &'u str,
    pub(super) query: Query,
}

impl<'u> Parts<'u> {
    pub(super) fn split(rest: &'u str, default_port: u16) -> Result<Self, UrlError> {
        let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        // An @ after the authority means that what was taken for host and port is the beginning of a password
        // with a bare / or ? in it.
        if tail.contains('@') {
            return Err(UrlError::Reserved { character: '@', encoded: "%40 (and / as %2F, ? as %3F)" });
        }
        let (userinfo, hosts) = match authority.rsplit_once('@') {
            Some((userinfo, hosts)) => (Some(userinfo), hosts),
            None => (None, authority),
        };
        let hosts = hosts.split(',').map(|host| address(host, default_port)).collect::<Result<_, _>>()?;
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        let path = path.strip_prefix('/').unwrap_or(path);
        Ok(Self { userinfo, hosts, path, query: Query::parse(query)? })
    }
}

/// `user`, `user:password` or `:password`.
pub(super) fn userinfo(options: &mut ConnectOptions, userinfo: Option<&str>) -> Result<(), UrlError> {
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

/// `host`, `host:port`, `[ipv6]` or `[ipv6]:port`.
pub(super) fn address(text: &str, default_port: u16) -> Result<Address, UrlError> {
    let (host, port) = host_and_port(text)?;
    Ok(Address::tcp(host, port.unwrap_or(default_port)))
}

/// The same with the port, if there is one, apart.
pub(super) fn host_and_port(text: &str) -> Result<(String, Option<u16>), UrlError> {
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
        None => None,
        Some(port) => {
            let port = parse_number(port).and_then(|port| u16::try_from(port).ok());
            Some(port.filter(|&port| port != 0).ok_or(UrlError::Port)?)
        }
    };
    Ok((host, port))
}
