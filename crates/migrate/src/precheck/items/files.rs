//! What files hold, against what the target takes.

use std::collections::BTreeMap;

use keyferry_client::Error;

use super::{cross_slot, databases, functions, keys, memory, modules, overlap};
use crate::precheck::{
    Finding, Item, Known,
    contents::{Contents, FileFacts},
    estimate::bytes,
    report::Judge,
};

/// Looks at what was read of the files.
pub(super) async fn check(known: &mut Known<'_>, contents: &Contents) -> Result<Vec<Finding>, Error> {
    let existing = overlap::existing(known).await?;
    let mut findings = vec![
        files(known, contents),
        overlap::overlap(known, &existing),
        memory::of_files(known, contents, &existing),
        databases::check(known, &databases_of(contents)),
        losses(known, contents),
        functions::against_target(known, &contents.functions, Judge::new(Item::Functions)).await?,
        modules::of_files(known, &contents.modules),
        cross_slot::of_files(known, &contents.several_keys),
    ];
    findings.extend(keys::check(known));
    Ok(findings)
}

fn files(known: &Known<'_>, contents: &Contents) -> Finding {
    let mut judge = Judge::new(Item::Files);
    for file in &contents.files {
        let FileFacts { name, what, keys, commands, bytes: size, cut_at, trouble, .. } = file;
        if let Some(trouble) = trouble {
            match trouble.failure() {
                Some(why) => judge.fail(
                    why.to_owned(),
                    "give another copy of it; what stands before the damage can be told with the program `inspect`",
                ),
                None => judge.warn(
                    format!("{name}: can be read once only, so nothing of it is known before it is imported"),
                    "save it to a file, if it is to be looked at first",
                ),
            }
            continue;
        }
        let line = format!("{name}: {what}, {}: {keys} keys, {commands} commands", bytes(*size));
        match cut_at {
            Some(at) if known.options.allow_cut_log => {
                judge.warn(
                    format!("{line}; its last command is not whole"),
                    format!("what stands from byte {at} on is left out"),
                );
            }
            Some(at) => judge.fail(
                format!("{line}; its last command is not whole: it is good up to byte {at}"),
                "take it as it is (--allow-cut-log), if a server has died while it wrote it",
            ),
            None => judge.note(line),
        }
    }
    judge.done()
}

/// Keys of each database; of those that only commands write to it is not known how many.
fn databases_of(contents: &Contents) -> BTreeMap<u64, Option<u64>> {
    let mut databases: BTreeMap<u64, Option<u64>> = contents.written.iter().map(|db| (*db, None)).collect();
    databases.extend(contents.keys.iter().map(|(db, keys)| (*db, Some(*keys))));
    databases
}

fn losses(known: &Known<'_>, contents: &Contents) -> Finding {
    let mut judge = Judge::new(Item::Losses);
    if let Some(losses) = &contents.losses {
        let remedy = "give another copy of the file";
        losses.judge(&mut judge, "all that the snapshots hold", known.options.on_loss, remedy);
    }
    judge.done()
}
