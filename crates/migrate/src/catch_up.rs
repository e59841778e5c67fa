//! Knowing when the target holds what the source holds.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use keyferry_client::{ConnectOptions, Connection};

use crate::{
    options::Until,
    progress::{Meter, Phase},
};

/// How often the state is looked at while nothing is missing.
const PERIOD: Duration = Duration::from_millis(20);
/// How often the source is asked for its offset while the target is behind.
const ASK_PERIOD: Duration = Duration::from_millis(500);

/// Compares what has been applied with what the source says it has written.
///
/// Caught up is: everything received has been applied, and the source, asked *after* that, has written no more.
pub(crate) struct CatchUp {
    until: Until,
    meter: Meter,
    control: Option<Connection>,
    /// Where to connect again; `None` where the source does not answer questions.
    source: Option<ConnectOptions>,
    asked: Option<Instant>,
}

impl CatchUp {
    /// `control` is a second connection to the source; without it the source is taken not to answer questions, and
    /// what it sends by itself has to do.
    pub(crate) fn new(
        until: Until,
        meter: Meter,
        control: Option<Connection>,
        source: ConnectOptions,
    ) -> Self {
        let source = control.is_some().then_some(source);
        CatchUp { until, meter, control, source, asked: None }
    }

    /// Returns when the migration is done, if it ever is: true when the source still wrote at that moment. To be
    /// polled from the beginning: it is what keeps the source's own offset known.
    pub(crate) async fn wait(mut self) -> bool {
        let mut since = None;
        while !self.meter.is_past_snapshot() {
            if self.asked.is_none_or(|at| at.elapsed() >= ASK_PERIOD) {
                self.ask().await;
            }
            tokio::time::sleep(PERIOD).await;
        }
        let snapshot_offset = self.meter.applied_offset.load(Ordering::Relaxed);
        loop {
            let applied = self.meter.applied_offset.load(Ordering::Relaxed);
            let level =
                applied >= self.meter.received_offset.load(Ordering::Relaxed) && !self.meter.is_in_trouble();
            let mut answered = false;
            if level || self.asked.is_none_or(|at| at.elapsed() >= ASK_PERIOD) {
                answered = self.ask().await;
            }
            // Where the source cannot be asked, it has to have sent something after its snapshot: it pings every ten
            // seconds when it has nothing else to say, and what it sent before has been received then.
            let known = answered || (self.source.is_none() && applied > snapshot_offset);
            if level && known && applied >= self.source_offset() {
                if since.is_none() {
                    since = Some(Instant::now());
                    self.meter.enter(Phase::Following);
                }
                if let (Until::CaughtUp { quiet, linger }, Some(since)) = (&self.until, since) {
                    if self.meter.quiet_for() >= *quiet {
                        return false;
                    }
                    if since.elapsed() >= *linger {
                        return true;
                    }
                }
            }
            // In the following phase nobody waits for the answer but a person who reads the lag.
            let forever = self.until == Until::Forever && since.is_some();
            tokio::time::sleep(if forever { ASK_PERIOD } else { PERIOD }).await;
        }
    }

    fn source_offset(&self) -> u64 {
        self.meter.source_offset().unwrap_or(0).max(self.meter.received_offset.load(Ordering::Relaxed))
    }

    /// Asks the source for its offset; true when it answered. A failure costs the figure, not the migration: the link
    /// itself tells of a lost source.
    async fn ask(&mut self) -> bool {
        self.asked = Some(Instant::now());
        if self.control.is_none()
            && let Some(source) = &self.source
        {
            self.control = Connection::connect(source).await.ok();
        }
        let Some(control) = self.control.as_mut() else { return false };
        match control.info("replication").await {
            Ok(info) => match info.get("master_repl_offset").and_then(|text| text.parse().ok()) {
                Some(offset) => {
                    self.meter.source_offset.store(offset, Ordering::Relaxed);
                    true
                }
                None => false,
            },
            Err(_) => {
                self.control = None;
                false
            }
        }
    }
}
