//! Figures for Prometheus, and probes for whoever keeps the program running.
//!
//! A [`MetricsServer`] answers `GET` on three paths:
//!
//! | path | answer |
//! | --- | --- |
//! | `/metrics` | the figures, in the text format of Prometheus; [`ALL`] names them |
//! | `/healthz` | 200 while the program works, also while it tries something again: starting it anew would change nothing |
//! | `/readyz` | 200 while the target is caught up with, and nothing is being tried again; else 503 with the phase or the trouble |
//!
//! The page holds no keys, no values and no passwords; of addresses those of the shards. There is no encryption and no
//! password: bind it to loopback, or to a network that may see it.
//!
//! ```no_run
//! use keyferry_migrate::{Migration, metrics::MetricsServer};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let migration = Migration::new("redis://old.example:6379".parse()?, "redis://new.example:6379".parse()?);
//! let server = MetricsServer::bind("127.0.0.1:9121".parse()?, &migration).await?;
//! let serving = tokio::spawn(server.serve());
//! let finished = migration.run().await;
//! serving.abort();
//! # Ok(())
//! # }
//! ```

mod lag;
mod names;
mod page;
mod target;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use keyferry_client::Endpoint;
use tokio::net::TcpListener;

pub use self::lag::LagClock;
pub use self::names::{ALL, Kind, Metric};
use self::page::{Content, TwoWayFigures, links};
use crate::{
    http::{self, Answer, Listener},
    migration::Migration,
    progress::{Figures, Phase, Progress},
    throttle::Throttle,
    two_way::{TwoWay, TwoWayProgress},
};

/// How often the offsets are looked at; the lag in seconds is right to this.
const LOOK: Duration = Duration::from_millis(50);

/// What makes the page, and what serves it.
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
    address: SocketAddr,
    state: Arc<State>,
    target: Endpoint,
}

#[derive(Debug)]
struct State {
    progress: Progress,
    two_way: Option<TwoWayProgress>,
    throttle: Throttle,
    clocks: Mutex<Vec<LagClock>>,
    targets: target::Shared,
}

impl MetricsServer {
    /// Listens at this address; port 0 takes a free one. Nobody is answered before [`MetricsServer::serve`].
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind(address: SocketAddr, migration: &Migration) -> io::Result<Self> {
        Self::of(address, migration, None).await
    }

    /// The same of a migration in both directions: figures of both links, and what both ways have come to. Of the servers, that which the source
    /// is copied to first is told as the target; it is ready when both sides may be written to, and both links follow.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind_two_way(address: SocketAddr, both: &TwoWay) -> io::Result<Self> {
        Self::of(address, both.forward(), Some(both.progress())).await
    }

    async fn of(
        address: SocketAddr,
        migration: &Migration,
        two_way: Option<TwoWayProgress>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let state = State {
            progress: migration.progress(),
            two_way,
            throttle: migration.throttle(),
            clocks: Mutex::default(),
            targets: target::Shared::default(),
        };
        let address = listener.local_addr()?;
        Ok(MetricsServer { listener, address, state: Arc::new(state), target: migration.target.clone() })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the future is dropped. It needs a tokio runtime; the primaries of the target are asked for `INFO` every
    /// five seconds meanwhile.
    pub async fn serve(self) {
        let MetricsServer { listener, state, target, .. } = self;
        let (looking, watching) = (Arc::clone(&state), Arc::clone(&state.targets));
        let look = async move {
            loop {
                looking.look(Instant::now());
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = look => {}
            () = target::watch(target, watching) => {}
            () = http::serve(Listener::Tcp(listener), move |request| match request.method {
                "GET" => state.answer(request.path),
                _ => Answer::text(405, "GET and HEAD only\n"),
            }) => {}
        }
    }
}

impl State {
    /// Looks at the offsets.
    fn look(&self, now: Instant) {
        let (figures, back) = (self.progress.figures(), self.back());
        let links = links(&figures, back.as_ref());
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        // Shards may come while it runs; the link back has no shards.
        clocks.resize(links.len(), LagClock::default());
        for (clock, (_, link)) in
            clocks.iter_mut().zip(links).filter(|(_, (_, link))| link.lag_bytes.is_some())
        {
            let source = link.source_offset.unwrap_or(0).max(link.received_offset);
            clock.note(now, source, link.applied_offset);
        }
    }

    fn answer(&self, path: &str) -> Answer {
        match path {
            "/metrics" => {
                Answer { status: 200, kind: "text/plain; version=0.0.4; charset=utf-8", body: self.page() }
            }
            "/healthz" => Answer::text(200, "ok\n"),
            "/readyz" => match self.not_ready() {
                None => Answer::text(200, "caught up\n"),
                Some(why) => Answer::text(503, format!("{why}\n")),
            },
            "/" => Answer::text(200, "/metrics /healthz /readyz\n"),
            _ => Answer::text(404, "there are /metrics, /healthz and /readyz\n"),
        }
    }

    fn back(&self) -> Option<Figures> {
        self.two_way.as_ref().map(|both| both.back().figures())
    }

    fn not_ready(&self) -> Option<String> {
        let forward = not_ready(&self.progress.figures());
        match &self.two_way {
            None => forward,
            Some(both) if !both.is_ready() => forward.or_else(|| Some("the link back is begun".to_owned())),
            Some(both) => forward.or_else(|| not_ready(&both.back().figures())),
        }
    }

    fn page(&self) -> String {
        let now = Instant::now();
        self.look(now);
        let figures = self.progress.figures();
        let two_way = self.two_way.as_ref().map(two_way);
        let clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lag = |((_, link), clock): ((_, &Figures), &LagClock)| {
            link.lag_bytes.map(|_| clock.lag(now).as_secs_f64())
        };
        let back = two_way.as_ref().map(|two_way| &two_way.back);
        let lags = links(&figures, back).into_iter().zip(&clocks).map(lag).collect();
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut errors, precheck) = (self.progress.0.errors(), self.progress.0.precheck());
        for (class, count) in self.two_way.iter().flat_map(|both| both.back().0.errors()) {
            match errors.iter_mut().find(|(known, _)| *known == class) {
                Some((_, all)) => *all += count,
                None => errors.push((class, count)),
            }
        }
        let throttle = self.throttle.figures();
        page::page(&Content { figures, lags, errors, precheck, targets, throttle, two_way })
    }
}

fn two_way(both: &TwoWayProgress) -> TwoWayFigures {
    let (from_source, from_target) = both.counts();
    TwoWayFigures {
        back: both.back().figures(),
        ready: both.is_ready(),
        conflicts: both.conflicts(),
        settled: both.settled(),
        unsettled: both.unsettled(),
        refused: both.refused(),
        counts: [from_source, from_target],
    }
}

/// Why the target cannot be taken for a copy of the source.
fn not_ready(figures: &Figures) -> Option<String> {
    match (&figures.trouble, figures.phase) {
        // What the trouble is may name what only its operator should see.
        (Some(_), phase) => {
            Some(format!("{}, and something is being tried again: see the log", phase.name()))
        }
        (None, Phase::Following) => None,
        (None, phase) => Some(phase.name().to_owned()),
    }
}
