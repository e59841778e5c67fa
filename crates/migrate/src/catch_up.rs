//! Knowing when the target holds what the source holds.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use keyferry_client::{Address, Connection, Role};
use keyferry_replication::{Locate, Locator, ReplicationId};

use crate::{
    hold::Hold,
    options::Until,
    progress::{Meter, Phase},
};

/// How often the state is looked at while nothing is missing.
const PERIOD: Duration = Duration::from_millis(20);
/// How often the source is asked for its offset while the target is behind.
const ASK_PERIOD: Duration = Duration::from_millis(500);
/// How often it is found anew: a primary that was replaced may take itself for one for a while.
const LOCATE_PERIOD: Duration = Duration::from_secs(1);
/// By so much an answer, or the next look, may be late. What is beyond it is time in which nothing could come.
const LATE: Duration = Duration::from_millis(100);

/// Compares what has been applied with what the source says it has written.
///
/// Caught up is: everything received has been applied, and the source, asked *after* that, has written no more, and speaks
/// of the history that the link follows. Of several links: all of them at the same time.
pub(crate) struct CatchUp {
    until: Until,
    /// The whole migration's.
    meter: Meter,
    links: Vec<Watched>,
    /// Told when everything is there; its deadlines have to be in place, too.
    hold: Option<Arc<Hold>>,
}

/// One link, and the server that is asked how far it is.
pub(crate) struct Watched {
    meter: Meter,
    control: Option<Connection>,
    /// Where to connect again; `None` where the source does not answer questions.
    source: Option<Locator>,
    /// The server that was asked last.
    address: Option<Address>,
    asked: Option<Instant>,
    /// When its address was found.
    located: Option<Instant>,
    /// It was found to be of another history than the link follows.
    strange: bool,
    /// Where its stream began.
    snapshot_offset: u64,
    /// When its rate of writing was last looked at, and its offset then.
    rate_from: Option<(Instant, u64)>,
    /// In what time it has answered at its quickest.
    quickest: Duration,
}

impl CatchUp {
    /// `control` is a second connection to the source; without it the source is taken not to answer questions, and
    /// what it sends by itself has to do. A lost one is made anew at the server that `source` finds.
    pub(crate) fn new(
        until: Until,
        meter: Meter,
        control: Option<Connection>,
        source: impl Locate + 'static,
    ) -> Self {
        let links = vec![Watched::new(meter.clone(), control, source)];
        CatchUp { until, meter, links, hold: None }
    }

    /// Of several links; `meter` is the whole migration's.
    pub(crate) fn of_links(until: Until, meter: Meter, links: Vec<Watched>) -> Self {
        CatchUp { until, meter, links, hold: None }
    }

    /// With deadlines that are held until then.
    pub(crate) fn holding(self, hold: &Arc<Hold>) -> Self {
        CatchUp { hold: Some(Arc::clone(hold)), ..self }
    }

    /// Returns when the migration is done, if it ever is: true when the source still wrote at that moment. To be
    /// polled from the beginning: it is what keeps the source's own offset known.
    pub(crate) async fn wait(mut self) -> bool {
        let mut since = None;
        // When somebody has said while it ran that it is to end then.
        let mut asked: Option<Instant> = None;
        while !self.links.iter().all(|link| link.meter.is_past_snapshot()) {
            self.ask_those(Watched::is_due).await;
            tokio::time::sleep(PERIOD).await;
        }
        for link in &mut self.links {
            link.snapshot_offset = link.meter.applied_offset.load(Ordering::Relaxed);
        }
        loop {
            if asked.is_none() && self.meter.ends_when_caught_up.load(Ordering::Relaxed) {
                asked = Some(Instant::now());
                self.until = Until::caught_up();
            }
            let level = self.links.iter().all(Watched::is_level);
            // Those that were asked before the last one became level may have written since.
            let answered = self.ask_those(|link| level || link.is_due()).await;
            let everything = level && answered && self.links.iter().all(Watched::has_everything);
            if everything && let Some(hold) = &self.hold {
                hold.level.notify_one();
            }
            // Once it was there, a deadline that is held anew is no news.
            let released = since.is_some() || self.hold.as_ref().is_none_or(|hold| hold.is_released());
            if everything && released {
                if since.is_none() {
                    since = Some(Instant::now());
                    self.links.iter().for_each(|link| link.meter.enter(Phase::Following));
                    self.meter.enter(Phase::Following);
                }
                if let (Until::CaughtUp { quiet, linger }, Some(since)) = (&self.until, since) {
                    if self.links.iter().all(|link| link.meter.quiet_for() >= *quiet) {
                        return false;
                    }
                    if asked.map_or(since, |asked| asked.max(since)).elapsed() >= *linger {
                        return true;
                    }
                }
            }
            // In the following phase nobody waits for the answer but a person who reads the lag.
            let forever = self.until == Until::Forever && since.is_some();
            let (period, begun) = (if forever { ASK_PERIOD } else { PERIOD }, Instant::now());
            tokio::time::sleep(period).await;
            // This program may have stood still itself.
            let late = begun.elapsed().saturating_sub(period + LATE);
            self.links.iter().for_each(|link| link.meter.note_standstill(late));
        }
    }

    /// Asks those links' servers; true when all that have to answer did.
    async fn ask_those(&mut self, which: impl Fn(&Watched) -> bool) -> bool {
        let mut answered = true;
        for link in self.links.iter_mut().filter(|link| which(link)) {
            answered &= link.ask().await;
        }
        answered
    }
}

impl Watched {
    /// As [`CatchUp::new`].
    pub(crate) fn new(meter: Meter, control: Option<Connection>, source: impl Locate + 'static) -> Self {
        let address = control.as_ref().map(|control| control.address().clone());
        let source = control.is_some().then(|| Locator::new(source));
        Watched {
            meter,
            control,
            source,
            address,
            asked: None,
            located: None,
            strange: false,
            snapshot_offset: 0,
            rate_from: None,
            quickest: ASK_PERIOD,
        }
    }

    fn is_due(&self) -> bool {
        self.asked.is_none_or(|at| at.elapsed() >= ASK_PERIOD)
    }

    /// True when everything received has been applied.
    fn is_level(&self) -> bool {
        let applied = self.meter.applied_offset.load(Ordering::Relaxed);
        applied >= self.meter.received_offset.load(Ordering::Relaxed) && !self.meter.is_in_trouble()
    }

    /// True when what has been applied is all that the server had written when it was asked.
    fn has_everything(&self) -> bool {
        let applied = self.meter.applied_offset.load(Ordering::Relaxed);
        // Where the source cannot be asked, it has to have sent something after its snapshot: it pings every ten
        // seconds when it has nothing else to say, and what it sent before has been received then.
        let known = self.source.is_some() || applied > self.snapshot_offset;
        let received = self.meter.received_offset.load(Ordering::Relaxed);
        known && !self.strange && applied >= self.meter.source_offset().unwrap_or(0).max(received)
    }

    /// Asks the source for its offset; true when it answered or is not to be asked. A failure costs the figure, not the
    /// migration: the link itself tells of a lost source.
    async fn ask(&mut self) -> bool {
        self.asked = Some(Instant::now());
        let Some(source) = &self.source else { return true };
        let lost = self.control.is_none();
        if lost || self.located.is_none_or(|at| at.elapsed() >= LOCATE_PERIOD) {
            let last = self.address.as_ref().filter(|_| lost);
            self.located = Some(Instant::now());
            match source.locate(last).await {
                Ok(found) if lost || self.address.as_ref() != Some(found.address()) => {
                    self.address = Some(found.address().clone());
                    self.control = Connection::connect(&found.with_db(0)).await.ok();
                }
                Err(_) if lost => return false,
                // Where nobody can be asked for the primary, the one that is known goes on.
                Ok(_) | Err(_) => {}
            }
        }
        let Some(control) = self.control.as_mut() else { return false };
        let begun = Instant::now();
        self.meter.note_question(self.quickest + LATE);
        let replication = control.info("replication").await.ok();
        self.meter.note_answer();
        self.quickest = self.quickest.min(begun.elapsed());
        // A primary that has become a replica meanwhile does not know how far the one after it is.
        let was_primary = control.server().role == Role::Primary;
        let replication = replication.filter(|info| !was_primary || info.get("role") != Some("slave"));
        let offset = replication.as_ref().and_then(|info| info.get_as("master_repl_offset"));
        match offset {
            Some(offset) => {
                self.note_rate(offset);
                self.meter.source_offset.store(offset, Ordering::Relaxed);
                let backlog = replication.as_ref().and_then(|info| info.get_as("repl_backlog_size"));
                if let Some(backlog) = backlog {
                    self.meter.source_backlog.store(backlog, Ordering::Relaxed);
                }
                let id = replication.as_ref().and_then(|info| info.get("master_replid")?.parse().ok());
                self.note_history(id);
                true
            }
            None => {
                self.control = None;
                false
            }
        }
    }
}

impl Watched {
    /// How fast the source writes, from its offset now and some time ago.
    fn note_rate(&mut self, offset: u64) {
        const SPAN: Duration = Duration::from_secs(2);
        let Some((at, before)) = self.rate_from else {
            self.rate_from = Some((Instant::now(), offset));
            return;
        };
        let elapsed = at.elapsed();
        if elapsed >= SPAN {
            let rate = offset.saturating_sub(before) as f64 / elapsed.as_secs_f64();
            self.meter.source_rate.store(rate as u64, Ordering::Relaxed);
            self.rate_from = Some((Instant::now(), offset));
        }
    }

    /// Offsets of two histories cannot be compared: the link has to come to the one that the source goes on with.
    fn note_history(&mut self, id: Option<ReplicationId>) {
        let followed = self.meter.history();
        let strange = id.is_some() && followed.is_some() && id != followed;
        if strange && !self.strange {
            let address = self.address.as_ref().map(ToString::to_string).unwrap_or_default();
            let text = format!("source: {address} is the primary now, and the link follows another");
            self.meter.note_trouble(Some(text));
        } else if self.strange && !strange {
            self.meter.note_trouble(None);
        }
        self.strange = strange;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyferry_client::ConnectOptions;
    use keyferry_testkit::Server;

    fn start() -> (Server, ConnectOptions) {
        let server = Server::any().unwrap();
        let options = ConnectOptions::from_url(&server.url()).unwrap();
        (server, options)
    }

    /// Makes `other` a replica, so that the server counts offsets; gives the offset when both have it.
    fn offset(server: &Server, other: &Server) -> u64 {
        let mut client = other.client().unwrap();
        client.call(&["REPLICAOF", "127.0.0.1", &server.port().to_string()]).unwrap();
        let up = client.wait_until(PATIENCE, |client| {
            Ok(client.info("replication", "master_link_status")?.as_deref() == Some("up"))
        });
        assert!(up.unwrap());
        server.client().unwrap().call(&["SET", "key", "value"]).unwrap();
        let offset = server.client().unwrap().info("replication", "master_repl_offset").unwrap();
        let level = client
            .wait_until(PATIENCE, |client| Ok(client.info("replication", "master_repl_offset")? >= offset));
        assert!(level.unwrap());
        offset.unwrap().parse().unwrap()
    }

    const PATIENCE: Duration = Duration::from_secs(120);

    async fn until(done: impl Fn() -> bool) {
        let wait = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
    }

    fn stands_at(meter: &Meter, offset: u64) {
        meter.received_offset.store(offset, Ordering::Relaxed);
        meter.applied_offset.store(offset, Ordering::Relaxed);
    }

    /// Two links: the run is caught up when both are, and the server that is asked may be another one by then.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn several_links_are_caught_up_together_also_after_a_failover() {
        let ((mut first, first_options), (second, second_options)) = (start(), start());
        let (copy, copy_options) = start();
        let first_offset = tokio::task::block_in_place(|| offset(&first, &copy));
        let (main, a, b) = (Meter::default(), Meter::default(), Meter::default());
        let located = first_options.clone();
        let locate = move |lost: Option<&Address>| {
            Ok(if lost == Some(located.address()) { copy_options.clone() } else { located.clone() })
        };
        let control = Connection::connect(&first_options).await.unwrap();
        let other = Connection::connect(&second_options).await.unwrap();
        let links = vec![
            Watched::new(a.clone(), Some(control), locate),
            Watched::new(b.clone(), Some(other), second_options),
        ];
        let end = Until::CaughtUp { quiet: Duration::ZERO, linger: PATIENCE };
        let waiting = tokio::spawn(CatchUp::of_links(end, main.clone(), links).wait());
        // One has all, the other is behind what its server says.
        [&a, &b].into_iter().for_each(|link| link.enter(Phase::CatchingUp));
        stands_at(&a, first_offset - 1);
        until(|| a.source_offset() == Some(first_offset) && b.source_offset() == Some(0)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!waiting.is_finished());

        // The server of the first dies, its replica takes over and writes.
        let now = tokio::task::block_in_place(|| {
            first.kill9();
            let mut client = copy.client().unwrap();
            client.call(&["REPLICAOF", "NO", "ONE"]).unwrap();
            // A primary without a backlog would not count.
            offset(&copy, &second)
        });
        assert!(now > first_offset);
        stands_at(&a, first_offset);
        until(|| a.source_offset().is_some_and(|offset| offset >= now)).await;
        assert!(!waiting.is_finished());
        // The second is a replica now, of which the same is asked; whoever has more than that has enough.
        [&a, &b].into_iter().for_each(|link| stands_at(link, now + 1_000_000));
        assert!(!tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap());
        assert_eq!((a.phase(), main.phase()), (Phase::Following, Phase::Following));
    }

    /// Who wants to write to a server that stands still has to wait: when it goes on, it is not quiet yet.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_stands_still_is_not_quiet() {
        let (server, options) = start();
        let main = Meter::default();
        main.enter(Phase::CatchingUp);
        stands_at(&main, 1_000_000);
        let control = Connection::connect(&options).await.unwrap();
        let quiet = Duration::from_secs(3);
        let end = Until::CaughtUp { quiet, linger: PATIENCE };
        let waiting = tokio::spawn(CatchUp::new(end, main.clone(), Some(control), options).wait());
        until(|| main.phase() == Phase::Following).await;
        main.note_write();
        server.pause().unwrap();
        tokio::time::sleep(quiet + Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        let begun = Instant::now();
        server.resume().unwrap();
        assert!(!tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap());
        assert!(begun.elapsed() >= quiet / 2, "{:?}", begun.elapsed());
    }

    /// A primary that was replaced without knowing it has nothing to add, and others have written since.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_of_another_history_is_waited_for() {
        let ((first, first_options), (second, second_options)) = (start(), start());
        tokio::task::block_in_place(|| first.client().unwrap().call(&["SET", "key", "value"]).unwrap());
        let id = |server: &Server| -> ReplicationId {
            let id = server.client().unwrap().info("replication", "master_replid").unwrap();
            id.unwrap().parse().unwrap()
        };
        let main = Meter::default();
        main.enter(Phase::CatchingUp);
        main.set_history(id(&first));
        stands_at(&main, 1_000_000);
        let control = Connection::connect(&first_options).await.unwrap();
        let end = Until::CaughtUp { quiet: Duration::ZERO, linger: PATIENCE };
        // Those who know say that it is the second by now.
        let locate = move |_: Option<&Address>| Ok(second_options.clone());
        let waiting = tokio::spawn(CatchUp::new(end, main.clone(), Some(control), locate).wait());
        until(|| main.is_in_trouble()).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!waiting.is_finished() && main.is_in_trouble());
        main.set_history(id(&second));
        assert!(!tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap());
        assert!(!main.is_in_trouble());
    }
}
