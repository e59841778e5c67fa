//! Whether servers can be reached, with which credentials, how fast, and how safely.

use std::{net::IpAddr, time::Duration};

use keyferry_client::{Address, Error};

use crate::precheck::{
    Finding, Item,
    report::Judge,
    survey::{End, Node, Surveyed},
};

/// A round trip above this is slow for what has to be computed at the target, one command after the other.
const SLOW: Duration = Duration::from_millis(10);

/// What can be said of the ends, reached or not.
pub(crate) fn check(ends: &[(End, &Result<Surveyed, Error>)]) -> Vec<Finding> {
    let mut reachable = Judge::new(Item::Reachable);
    let mut credentials = Judge::new(Item::Credentials);
    let mut roles = None;
    let mut all_accepted = true;
    for &(end, surveyed) in ends {
        match surveyed {
            Ok(surveyed) => {
                for node in &surveyed.nodes {
                    reachable.note(format!("{}: {}", node.name(), node.server));
                }
            }
            Err(error @ Error::Auth { address, .. }) => {
                all_accepted = false;
                reachable.note(format!("{end} {address}: reached"));
                credentials.fail(
                    format!("{end}: {error}"),
                    "give the user in the URL and its password by ?password-env=VARIABLE or ?password-file=FILE",
                );
            }
            Err(Error::IsSentinel { address }) => {
                all_accepted = false;
                let judge = roles.get_or_insert_with(|| Judge::new(Item::Roles));
                judge.fail(
                    format!("{end} {address}: is a sentinel, which holds no data"),
                    "give the sentinels as redis+sentinel://HOST:PORT/SERVICE, or the primary itself",
                );
            }
            Err(error) => {
                all_accepted = false;
                let mut line = format!("{end}: {error}");
                if let Some(cause) = std::error::Error::source(error) {
                    line.push_str(&format!(": {cause}"));
                }
                reachable
                    .fail(line, "check the address, the network between here and there, TLS, and the server");
            }
        }
    }
    if all_accepted {
        credentials.note(if ends.len() > 1 { "both sides took them" } else { "it took them" });
    }
    let mut findings = vec![reachable.done(), credentials.done()];
    findings.extend(roles.map(Judge::done));
    let surveyed = || ends.iter().filter_map(|(_, surveyed)| surveyed.as_ref().ok());
    let nodes = || surveyed().flat_map(|surveyed| &surveyed.nodes);
    if nodes().next().is_some() {
        findings.push(latency(nodes()));
        findings.push(tls(nodes()));
    }
    findings
}

fn latency<'n>(nodes: impl Iterator<Item = &'n Node>) -> Finding {
    let mut judge = Judge::new(Item::Latency);
    for node in nodes {
        let line = format!("{}: {:.1} ms for a PING", node.name(), node.latency.as_secs_f64() * 1000.0);
        if node.latency > SLOW {
            judge.warn(line, "run this on a machine nearer to the target: commands with keys in several slots wait for answers");
        } else {
            judge.note(line);
        }
    }
    judge.done()
}

fn tls<'n>(nodes: impl Iterator<Item = &'n Node>) -> Finding {
    let mut judge = Judge::new(Item::Tls);
    for node in nodes {
        let name = node.name();
        match node.options.tls() {
            Some(tls) if tls.verifies() => judge.note(format!("{name}: TLS, verified")),
            Some(_) => judge.warn(
                format!("{name}: TLS, but any certificate is taken, so anybody could be the other side"),
                "give the authority by ?ca=FILE instead of accepting any certificate",
            ),
            None if is_local(node.options.address()) => judge.note(format!("{name}: this machine")),
            None if node.options.password().is_some() => judge.warn(
                format!("{name}: the password and all data go over the network unencrypted"),
                "use rediss:// where the server offers TLS, or a network that nobody else can listen to",
            ),
            None => judge.note(format!("{name}: unencrypted")),
        }
    }
    judge.done()
}

/// True for this machine: a unix socket, or a loopback address.
fn is_local(address: &Address) -> bool {
    match address {
        Address::Unix(_) => true,
        Address::Tcp { host, .. } => {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        _ => false,
    }
}
