//! Filling in expectations from a real server.

use keyferry_client::Protocol;

use crate::Error;
use crate::literal::merged;
use crate::run::RunOptions;
use crate::session::{self, Got, Transcript};
use crate::suite::Suite;
use crate::target::Target;

/// What came of recording.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recorded {
    /// The suite, with an expectation for each step that had none.
    pub suite: Suite,
    /// How many were filled in.
    pub filled: usize,
    /// Steps that stay without one, and why: another reply each time, another server needed, …
    pub notes: Vec<String>,
}

/// Runs every case in both protocols, twice, and writes down the replies to the steps that have no expectation yet.
///
/// What comes out has to be read: a server's reply is not right because it was given, and what depends on time or chance
/// needs an expectation that says so. Replies that differ between two runs are left out and told.
///
/// # Errors
///
/// When the server cannot be reached, or does not speak RESP3.
pub async fn record(mut suite: Suite, target: &Target, options: &RunOptions) -> Result<Recorded, Error> {
    if !target.speaks_resp3() {
        return Err(Error::Unlike(format!("{} does not speak RESP3, which recording needs", target.place())));
    }
    let claim = options.claim_of(target);
    let server = claim.to_string();
    let (mut filled, mut notes, mut number) = (0, Vec::new(), 0);
    for group in &mut suite.groups {
        if group.from.is_none() {
            group.from = Some(server.clone());
        }
        let same = group.from.as_ref() == Some(&server);
        for case in &mut group.cases {
            let wanting = case.steps.iter().any(|step| step.expect.is_none() && reads(&step.act));
            if !wanting {
                continue;
            }
            if let Some(why) = options.reason_to_skip(case, target, &claim) {
                notes.push(format!("{}/{}: not recorded: {why}", group.name, case.name));
                continue;
            }
            let only = case.only;
            let mut runs: Vec<(Protocol, Transcript)> = Vec::new();
            for protocol in [Protocol::Resp2, Protocol::Resp3, Protocol::Resp2, Protocol::Resp3] {
                if only.is_some_and(|only| only != protocol) {
                    continue;
                }
                number += 1;
                let names = target.names(number, protocol);
                let cleaned = names.clone();
                let run = session::run(target, case, names, protocol, options.timeout, false).await?;
                target.clean(case, &cleaned, options.timeout).await?;
                runs.push((protocol, run));
            }
            let mut changed = false;
            for (at, step) in case.steps.iter_mut().enumerate() {
                if step.expect.is_some() || !reads(&step.act) {
                    continue;
                }
                let only = only.or(step.only);
                let frame = |protocol: Protocol| {
                    let (_, run) = runs.iter().find(|(one, _)| *one == protocol)?;
                    match run.got.get(at) {
                        Some(Got::Reply(frame)) => Some((frame, &run.names)),
                        _ => None,
                    }
                };
                let literal = |(frame, names)| (crate::literal::literal(frame, names), None);
                let found = match only {
                    Some(only) => frame(only).map(literal),
                    None => frame(Protocol::Resp2)
                        .zip(frame(Protocol::Resp3))
                        .map(|((two, names2), (three, names3))| merged(two, three, names2, names3)),
                };
                let Some((expect, expect3)) = found else {
                    let got = runs.iter().map(|(_, run)| run.got.get(at).map(|got| got.shown(&run.names)));
                    let got: Vec<String> = got.map(Option::unwrap_or_default).collect();
                    notes.push(format!(
                        "{}/{}: step {}: no reply: {}",
                        group.name,
                        case.name,
                        at + 1,
                        got.join(" | ")
                    ));
                    continue;
                };
                let mut candidate = step.clone();
                candidate.expect = Some(expect);
                candidate.expect3 = expect3;
                let stable = runs.iter().all(|(protocol, run)| {
                    only.is_some_and(|only| only != *protocol)
                        || run.got.get(at).is_some_and(|got| {
                            got.meets(candidate.expected(*protocol), *protocol, &run.names)
                        })
                });
                if stable {
                    *step = candidate;
                    filled += 1;
                    changed = true;
                } else {
                    let shown = runs.iter().map(|(_, run)| run.got.get(at).map(|got| got.shown(&run.names)));
                    let shown: Vec<String> = shown.map(Option::unwrap_or_default).collect();
                    notes.push(format!(
                        "{}/{}: step {}: another reply each time: {}",
                        group.name,
                        case.name,
                        at + 1,
                        shown.join(" | ")
                    ));
                }
            }
            if changed && !same {
                case.from = Some(server.clone());
            }
        }
    }
    target.sweep().await?;
    Ok(Recorded { suite, filled, notes })
}

fn reads(act: &crate::case::Act) -> bool {
    matches!(act, crate::case::Act::Call(_) | crate::case::Act::Read)
}
