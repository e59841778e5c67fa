//! Both ways at once: applications write to both sides.

mod conflicts;
mod disjoint;
mod ends;
mod killed;

use std::time::{Duration, Instant};

use keyferry_migrate::{
    Throttle,
    two_way::{Policy, TwoWay, TwoWayFinished, TwoWayProgress, TwoWayStopper},
};
use keyferry_testkit::{Client, Server};
use tokio::task::block_in_place;

use crate::support::{PATIENCE, assert_equal};

/// A run in both directions.
pub(crate) struct Both {
    pub(crate) progress: TwoWayProgress,
    pub(crate) stopper: TwoWayStopper,
    /// How fast the links are, or whether they go on at all.
    pub(crate) forward: Throttle,
    pub(crate) back: Throttle,
    task: tokio::task::JoinHandle<TwoWayFinished>,
}

impl Both {
    pub(crate) fn start(
        source: &str,
        target: &str,
        policy: Policy,
        change: impl FnOnce(&mut TwoWay),
    ) -> Self {
        let mut both = TwoWay::new(source.parse().unwrap(), target.parse().unwrap(), policy);
        both.options_mut().id = Some("both".to_owned());
        change(&mut both);
        let (progress, stopper) = (both.progress(), both.stopper());
        let (forward, back) = (both.forward().throttle(), both.back().throttle());
        Both { progress, stopper, forward, back, task: tokio::spawn(both.run()) }
    }

    pub(crate) fn between(source: &Server, target: &Server, policy: Policy) -> Self {
        Self::start(&source.url(), &target.url(), policy, |_| {})
    }

    pub(crate) async fn until(&mut self, what: &str, mut done: impl FnMut(&TwoWayProgress) -> bool) {
        let begun = Instant::now();
        while !block_in_place(|| done(&self.progress)) {
            if self.task.is_finished() {
                panic!(
                    "ended while waiting for {what}: {:?}",
                    (&mut self.task).await.map(|ended| ended.result)
                );
            }
            let short = |of: keyferry_migrate::Progress| {
                let figures = of.figures();
                (figures.phase, figures.received_offset, figures.applied_offset, figures.trouble)
            };
            assert!(
                begun.elapsed() < PATIENCE,
                "no {what} in time: {:?} {:?} {:?}, {} unsettled",
                self.progress.counts(),
                short(self.progress.forward()),
                short(self.progress.back()),
                self.progress.unsettled()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn until_ready(&mut self) {
        self.until("both ways", TwoWayProgress::is_ready).await;
    }

    /// Waits until each side has everything that was written to the other, and nothing is being settled.
    pub(crate) async fn until_level(&mut self, source: &Server, target: &Server) {
        let mut ends = [source.client().unwrap(), target.client().unwrap()];
        // What one side has settled by it comes back; so once more.
        for round in 0..3 {
            let offsets: Vec<u64> = ends.iter_mut().map(crate::support::offset_of).collect();
            self.until(&format!("everything ({round}, {offsets:?})"), |progress| {
                let applied = |of: keyferry_migrate::Progress| of.figures().applied_offset;
                applied(progress.forward()) >= offsets[0]
                    && applied(progress.back()) >= offsets[1]
                    && progress.unsettled() == 0
            })
            .await;
        }
    }

    pub(crate) async fn stop(self) -> TwoWayFinished {
        self.stopper.stop();
        self.end().await
    }

    pub(crate) async fn end(self) -> TwoWayFinished {
        tokio::time::timeout(PATIENCE, self.task).await.expect("an end in time").unwrap()
    }
}

pub(crate) fn call(client: &mut Client, command: &str) {
    client.call(&command.split(' ').collect::<Vec<_>>()).unwrap();
}

pub(crate) fn get(client: &mut Client, key: &str) -> Option<String> {
    client.bytes(&["GET", key]).unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// Both sides hold the same.
pub(crate) fn equal(source: &Server, target: &Server, what: &str) {
    block_in_place(|| assert_equal(source, target, what));
}
