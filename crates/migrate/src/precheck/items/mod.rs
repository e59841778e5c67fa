//! One module for each subject; each gives its findings.

mod access;
mod clock;
mod cross_slot;
mod databases;
mod files;
mod functions;
mod journal_disk;
mod keys;
mod limits;
mod memory;
mod modules;
mod notifications;
mod overlap;
mod persistence;
pub(super) mod reach;
mod roles;
mod survival;
mod versions;

use keyferry_client::Error;

use super::{Depth, Known, contents::Contents, report::Finding};

/// All items of a migration from files but those that need no server; `contents` is what they hold, where that was read.
pub(super) async fn check_files(
    known: &mut Known<'_>,
    contents: Option<&Contents>,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    findings.extend(roles::of_target(known));
    findings.push(memory::eviction(known));
    findings.extend(limits::check(known));
    findings.extend(persistence::check(known));
    findings.push(access::target(known).await?);
    if let Some(contents) = contents {
        findings.extend(files::check(known, contents).await?);
    }
    Ok(())
}

/// All items of servers but those that need none.
pub(super) async fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) -> Result<(), Error> {
    let existing = overlap::existing(known).await?;
    findings.push(overlap::overlap(known, &existing));
    findings.extend(roles::check(known));
    findings.push(memory::check(known, &existing));
    findings.push(memory::eviction(known));
    findings.extend(survival::check(known));
    findings.extend(limits::check(known));
    findings.extend(persistence::check(known));
    findings.push(journal_disk::check(known));
    findings.push(clock::check(known));
    findings.push(databases::check(known, &databases::of_servers(known)));
    findings.push(notifications::check(known));
    findings.push(versions::versions(known));
    findings.push(modules::check(known));
    findings.push(cross_slot::check(known));
    findings.push(functions::check(known).await?);
    findings.extend(access::check(known).await?);
    if known.depth == Depth::Full {
        findings.push(versions::losses(known).await?);
        findings.extend(keys::check(known));
    }
    Ok(())
}
