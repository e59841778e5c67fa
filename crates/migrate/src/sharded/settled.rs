//! Telling in the target's state up to where everything is in place, deadlines included.
//!
//! The position of a link says that its commands have been carried out; some of their deadlines may be held back still. Who has stopped
//! the writes at the source and wants to know when the target is as it has to be, needs both.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use keyferry_resp::Command;

use super::{
    Target,
    aside::{Aside, Cause},
    state::field,
};
use crate::{error::Error, hold::Mode, options::Expiry, progress::Meter};

/// It is told when the source has not written for so long: who is interested has stopped it …
const QUIET: Duration = Duration::from_millis(100);

/// … and else so often: what a source deletes by itself, as it has expired, does not end.
const PERIOD: Duration = Duration::from_secs(1);

/// What was told last, and when.
#[derive(Debug, Default)]
pub(super) struct Settled {
    told: String,
    at: Option<Instant>,
}

impl Settled {
    /// Tells the offsets that all links have come to, if nothing is held back below them and they are others than before.
    pub(super) async fn tell(&mut self, target: &Target, links: &[Meter]) -> Result<(), Error> {
        let is_quiet = links.iter().all(|link| link.quiet_for() >= QUIET);
        if !is_quiet && self.at.is_some_and(|at| at.elapsed() < PERIOD) {
            return Ok(());
        }
        let text = settled(target, links).await.filter(|text| *text != self.told);
        let Some(text) = text else { return Ok(()) };
        let id = target.checkpoints().id();
        let command = Command::new(["HSET", &id.state_key(), field::DEADLINES, &text]);
        let cause = Cause { command: &command, db: 0, offset: None };
        Aside::new(target).ask(id.slot(), 0, std::slice::from_ref(&command), cause).await?;
        (self.told, self.at) = (text, Some(Instant::now()));
        Ok(())
    }
}

async fn settled(target: &Target, links: &[Meter]) -> Option<String> {
    let hold = target.hold();
    if links.iter().any(|link| !link.is_past_snapshot()) {
        return None;
    }
    // What is done was handed over before, and what of it is held was noted then.
    let offsets: Vec<u64> = links.iter().map(|link| link.applied_offset.load(Ordering::Relaxed)).collect();
    match *hold.mode().await {
        Mode::Off => {}
        _ if hold.policy == Expiry::HeldUntilEnd => return Some(field::DEADLINES_HELD.to_owned()),
        _ if hold.is_released() && hold.is_empty() => {}
        _ => return None,
    }
    let of = |(number, offset): (usize, u64)| {
        let name = u16::try_from(number).ok().and_then(|number| target.checkpoints().link_name(number))?;
        Some(format!("{name}={offset}"))
    };
    offsets.into_iter().enumerate().map(of).collect::<Option<Vec<_>>>().map(|all| all.join(","))
}
