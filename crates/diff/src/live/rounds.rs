//! Looking again at what differs, until it is settled.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::differing::{Differing, Tally};
use super::run::Run;
use super::sweep::ended;
use super::work::{self, Work};
use crate::error::Error;
use crate::progress::Phase;
use crate::report::RoundReport;
use crate::results::DifferenceSink;

/// How often keys in motion are looked at before they are given up.
const BARRIER_ROUNDS: u32 = 50;
/// How long keys in motion are left alone between looks.
const STILL_FOR: Duration = Duration::from_millis(200);

impl Run {
    /// Looks again at what differs, round by round.
    pub(super) async fn rounds(
        &mut self,
        mut differing: Differing,
        tally: &mut Tally,
        sink: &mut dyn DifferenceSink,
    ) -> Result<Differing, Error> {
        if self.shared.rules.live.barrier.is_some() {
            return self.barrier_rounds(differing, tally, sink).await;
        }
        let (rounds, interval) = (self.shared.rules.live.rounds, self.shared.rules.live.interval);
        for round in 2..=rounds {
            if differing.findings.is_empty() {
                break;
            }
            for (pair, finding) in &differing.findings {
                for difference in self.differences(*pair, finding) {
                    sink.suspect(round - 1, &difference).map_err(Error::Results)?;
                }
            }
            self.progress.enter(Phase::Waiting);
            tokio::time::sleep(interval).await;
            self.progress.enter_round(round);
            differing = self.round(differing, self.detail(round, sink), tally).await?;
        }
        Ok(differing)
    }

    /// Looks at what differs until it stays still for as long as a look takes.
    async fn barrier_rounds(
        &mut self,
        mut moving: Differing,
        tally: &mut Tally,
        sink: &mut dyn DifferenceSink,
    ) -> Result<Differing, Error> {
        let mut settled = Differing::default();
        for round in 2..2 + BARRIER_ROUNDS {
            if moving.findings.is_empty() {
                break;
            }
            for (pair, finding) in moving.findings.iter().filter(|_| round == 2) {
                for difference in self.differences(*pair, finding) {
                    sink.suspect(1, &difference).map_err(Error::Results)?;
                }
            }
            if round > 2 {
                tokio::time::sleep(STILL_FOR.min(self.shared.rules.live.interval)).await;
            }
            self.progress.enter_round(round);
            let looked = self.round(std::mem::take(&mut moving), true, tally).await?;
            for (pair, finding) in looked.findings {
                let whose = if finding.moving { &mut moving } else { &mut settled };
                whose.add(pair, vec![finding]);
            }
        }
        self.report.unsettled = moving.findings.len() as u64;
        Ok(settled)
    }

    async fn round(
        &mut self,
        before: Differing,
        detail: bool,
        tally: &mut Tally,
    ) -> Result<Differing, Error> {
        let mut tasks = JoinSet::new();
        let (sender, mut done) = work::start(&self.shared, detail, &mut tasks);
        let count = before.findings.len() as u64;
        let mut keys: Vec<Vec<Bytes>> = vec![Vec::new(); self.shared.pairs.len()];
        before.findings.into_iter().for_each(|(pair, finding)| keys[pair].push(finding.key));
        drop(before.seen);
        // Smaller batches: what differs may be expensive to look at.
        let batch = self.shared.rules.live.batch.clamp(1, 256);
        tasks.spawn(async move {
            for (pair, keys) in keys.into_iter().enumerate() {
                for keys in keys.chunks(batch) {
                    let keys = keys.to_vec();
                    let work =
                        Work { pair, keys, of_target: false, barrier: true, census: None, unasked: false };
                    if sender.send(work).await.is_err() {
                        return;
                    }
                }
            }
        });
        let mut after = Differing::default();
        while let Some(outcome) = done.recv().await {
            let (pair, outcome) = outcome?;
            tally.gone += outcome.gone;
            tally.expiring += outcome.expiring;
            after.add(pair, outcome.findings);
        }
        ended(&mut tasks).await;
        self.report.rounds.push(RoundReport::new(count, after.findings.len() as u64));
        Ok(after)
    }
}
