//! Archives of real servers, and what is restored from them.

mod clusters;
mod damage;
mod follow;
mod moments;
mod restore;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use keyferry_migrate::{
    Error,
    archive::{Archive, ArchiveOptions, ArchiveProgress, ArchiveStopper, Archived, Point, Stored, When},
    restore::{Restore, RestoreOptions, RestoreReport, RestoreTo},
};
use keyferry_testkit::Server;

use crate::support::{PATIENCE, offset_of};

/// An archive that is kept beside a test.
struct Keeping {
    progress: ArchiveProgress,
    stopper: ArchiveStopper,
    task: tokio::task::JoinHandle<Archived>,
}

impl Keeping {
    fn start(source: &Server, dir: &Path, options: impl FnOnce(&mut ArchiveOptions)) -> Self {
        let mut archive = Archive::new(source.url().parse().unwrap(), dir);
        options(archive.options_mut());
        let (progress, stopper) = (archive.progress(), archive.stopper());
        Keeping { progress, stopper, task: tokio::spawn(archive.run()) }
    }

    async fn until(&mut self, what: &str, mut done: impl FnMut(&ArchiveProgress) -> bool) {
        let begun = Instant::now();
        while !done(&self.progress) {
            if self.task.is_finished() {
                panic!("ended while waiting for {what}: {:?}", (&mut self.task).await);
            }
            assert!(begun.elapsed() < PATIENCE, "no {what} in time: {:?}", self.progress.figures());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until everything is kept that the source has written.
    async fn level(&mut self, source: &Server) {
        let offset = offset_of(&mut source.client().unwrap());
        self.until("offset", |progress| progress.figures().iter().any(|of| of.offset >= offset)).await;
    }

    async fn stop(self) -> Archived {
        self.stopper.stop();
        let archived = tokio::time::timeout(PATIENCE, self.task).await.expect("an end in time").unwrap();
        if let Err(error) = &archived.result {
            panic!("{error}");
        }
        archived
    }

    /// Lets go of it in the midst of whatever it does.
    async fn abort(self, dir: &Path) {
        self.task.abort();
        self.task.await.ok();
        // What is being written to a disk is written to its end.
        let lock = std::fs::File::open(dir.join("keyferry.lock")).unwrap();
        while lock.try_lock().is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn point(dir: &Path, when: When) -> Result<(Point, Vec<String>), Error> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || Stored::open(dir)?.point(when)).await.unwrap()
}

fn at_offset(offset: u64) -> When {
    offset.to_string().parse().unwrap()
}

async fn restore(
    dir: &Path,
    when: When,
    to: RestoreTo,
    scratch: Option<&Server>,
    options: impl FnOnce(&mut RestoreOptions),
) -> Result<RestoreReport, Error> {
    let (point, notes) = point(dir, when).await?;
    assert!(notes.is_empty(), "{notes:?}");
    let mut restore = Restore::new(point, to);
    options(restore.options_mut());
    if let Some(scratch) = scratch {
        restore.set_scratch(scratch.url().parse().unwrap());
    }
    tokio::time::timeout(PATIENCE, restore.run()).await.expect("an end in time")
}

fn into(server: &Server) -> RestoreTo {
    RestoreTo::Server(Box::new(server.url().parse().unwrap()))
}

fn empty(server: &Server) {
    let mut client = server.client().unwrap();
    client.call(&["FLUSHALL"]).unwrap();
    // Servers before 7.0 have no functions.
    client.call_raw(&["FUNCTION", "FLUSH"]).unwrap();
}
