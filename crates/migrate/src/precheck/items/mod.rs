//! One module for each subject; each gives its findings.

mod access;
mod clock;
mod cross_slot;
mod databases;
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

use super::{Depth, Known, report::Finding};

/// All items but those that need no server.
pub(super) async fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) -> Result<(), Error> {
    let existing = overlap::existing(known).await?;
    findings.push(overlap::overlap(known, &existing));
    findings.extend(roles::check(known));
    findings.extend(memory::check(known, &existing));
    findings.extend(survival::check(known));
    findings.extend(limits::check(known));
    findings.extend(persistence::check(known));
    findings.push(journal_disk::check(known));
    findings.push(clock::check(known));
    findings.push(databases::check(known));
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
