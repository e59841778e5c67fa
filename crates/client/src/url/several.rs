//! URLs that name several hosts: nodes of a cluster, or sentinels.

use super::parts::{self, Parts};
use super::query::{Query, SecretSource};
use super::{DEFAULT_PORT, UrlError};
use crate::endpoint::DEFAULT_SENTINEL_PORT;
use crate::{AddressMap, ClusterOptions, ConnectOptions, SentinelOptions};

/// `[userinfo@]host[:port][,…][/db][?query]`
pub(super) fn parse_cluster(rest: &str, tls: bool) -> Result<ClusterOptions, UrlError> {
    let Parts { userinfo, hosts: seeds, path, mut query } = Parts::split(rest, DEFAULT_PORT)?;
    let first = seeds.first().cloned().ok_or(UrlError::Host)?;
    let mut node = ConnectOptions::new(first);
    parts::userinfo(&mut node, userinfo)?;
    node.db = query.take_db(path)?;
    node.tls = query.take_tls(tls)?;
    let address_map = take_address_map(&mut query)?;
    query.apply(&mut node)?;
    Ok(ClusterOptions { seeds, node, address_map })
}

/// `[userinfo@]host[:port][,…]/service[/db][?query]`
pub(super) fn parse_sentinel(rest: &str, tls: bool) -> Result<SentinelOptions, UrlError> {
    let Parts { userinfo, hosts: sentinels, path, mut query } = Parts::split(rest, DEFAULT_SENTINEL_PORT)?;
    let (service, db) = path.split_once('/').unwrap_or((path, ""));
    let service = super::query::decode_text(service, "the name of the service")?;
    if service.is_empty() || service.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(UrlError::Service);
    }
    let first = sentinels.first().cloned().ok_or(UrlError::Host)?;
    let mut server = ConnectOptions::new(first);
    parts::userinfo(&mut server, userinfo)?;
    server.db = query.take_db(db)?;
    let sentinel_tls = query.take_flag("sentinel-tls")?.unwrap_or(tls);
    let tls_options = query.take_tls(tls || sentinel_tls)?;
    server.tls = tls_options.clone().filter(|_| tls);
    let address_map = take_address_map(&mut query)?;
    let (env, file) = (query.take("sentinel-password-env"), query.take("sentinel-password-file"));
    let sources = [("sentinel-password-env=", env), ("sentinel-password-file=", file)];
    let secret = SecretSource::of("password of the sentinels", sources)?;
    let username = query.take("sentinel-user").filter(|user| !user.is_empty());
    query.apply(&mut server)?;
    // The same time limits and names, but neither the credentials nor the database.
    let mut sentinel = server.clone();
    (sentinel.username, sentinel.db) = (username, 0);
    sentinel.tls = tls_options.filter(|_| sentinel_tls);
    sentinel.password = secret.map(|secret| secret.read()).transpose()?;
    Ok(SentinelOptions { sentinels, sentinel, service, server, address_map })
}

/// `from=to,from=to`, each `host`, `host:port`, `[ipv6]` or `[ipv6]:port`.
fn take_address_map(query: &mut Query) -> Result<AddressMap, UrlError> {
    let mut map = AddressMap::new();
    let Some(text) = query.take("address-map") else { return Ok(map) };
    let wrong = UrlError::OptionValue {
        name: "address-map",
        expected: "pairs FROM=TO separated by commas, both HOST:PORT or both HOST",
    };
    for pair in text.split(',') {
        let sides = pair
            .split_once('=')
            .and_then(|(from, to)| Some((parts::host_and_port(from).ok()?, parts::host_and_port(to).ok()?)));
        map = match sides {
            Some(((from, Some(from_port)), (to, Some(to_port)))) => {
                map.with_port(from, from_port, to, to_port)
            }
            Some(((from, None), (to, None))) => map.with_host(from, to),
            _ => return Err(wrong),
        };
    }
    Ok(map)
}
