//! How far an archive is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyferry_replication::Position;
use serde::Serialize;

use crate::backup::BackupProgress;

/// Notes that are kept, at most; the oldest go.
const NOTES: usize = 1000;

/// How far an archive is. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct ArchiveProgress(Arc<Mutex<Vec<LinkProgress>>>);

impl ArchiveProgress {
    /// The figures of each server that is followed.
    #[must_use]
    pub fn figures(&self) -> Vec<ArchiveFigures> {
        self.links().iter().map(LinkProgress::figures).collect()
    }

    /// What a person should know that has not been taken yet.
    #[must_use]
    pub fn take_notes(&self) -> Vec<String> {
        let links = self.links();
        let several = links.len() > 1;
        let mut notes = Vec::new();
        for link in links.iter() {
            let mut state = link.state();
            let name = state.figures.source.clone();
            notes.extend(state.untold.drain(..).map(|note| match several {
                true => format!("{name}: {note}"),
                false => note,
            }));
        }
        notes
    }

    pub(super) fn add(&self, source: String) -> LinkProgress {
        let link = LinkProgress::default();
        link.state().figures.source = source;
        self.links().push(link.clone());
        link
    }

    fn links(&self) -> MutexGuard<'_, Vec<LinkProgress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far the archive of one server is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ArchiveFigures {
    /// The server that is followed, as it was found first.
    pub source: String,
    /// Up to where everything is in the archive: replication id and offset. None before the first snapshot is there.
    pub position: Option<String>,
    /// That offset.
    pub offset: u64,
    /// Bytes of a first snapshot received so far, while one is coming; else none.
    pub snapshot_received: Option<u64>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Snapshots in it.
    pub bases: usize,
    /// Segments of the stream in it.
    pub segments: usize,
    /// Gaps since this run began.
    pub gaps: u64,
    /// Links that were lost since then.
    pub reconnects: u64,
    /// The files have more bytes than they may, although there is nothing but the newest snapshot and what came behind it.
    pub over_size: bool,
    /// What is in the way at the moment.
    pub trouble: Option<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Where one link puts its figures.
#[derive(Clone, Debug, Default)]
pub(super) struct LinkProgress(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    figures: ArchiveFigures,
    untold: Vec<String>,
    /// Of a first snapshot that is coming.
    snapshot: Option<BackupProgress>,
}

impl LinkProgress {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn figures(&self) -> ArchiveFigures {
        let state = self.state();
        let snapshot_received = state.snapshot.as_ref().map(BackupProgress::received);
        ArchiveFigures { snapshot_received, ..state.figures.clone() }
    }

    pub(super) fn note(&self, note: String) {
        let mut state = self.state();
        let State { figures, untold, .. } = &mut *state;
        for notes in [&mut figures.notes, untold] {
            if notes.len() >= NOTES {
                notes.remove(0);
            }
            notes.push(note.clone());
        }
    }

    pub(super) fn gap(&self, why: &str) {
        self.state().figures.gaps += 1;
        self.note(format!("a gap: {why}"));
    }

    pub(super) fn lost(&self, why: &str) {
        let mut state = self.state();
        state.figures.reconnects += 1;
        state.figures.trouble = Some(why.to_owned());
    }

    pub(super) fn trouble(&self, what: &str) {
        self.state().figures.trouble = Some(what.to_owned());
    }

    pub(super) fn resumed(&self) {
        let mut state = self.state();
        state.figures.trouble = None;
        state.snapshot = None;
    }

    pub(super) fn snapshot_begins(&self) {
        let mut state = self.state();
        state.figures.trouble = None;
        state.snapshot = Some(BackupProgress::default());
    }

    /// Where the first snapshot is counted.
    pub(super) fn snapshot(&self) -> BackupProgress {
        self.state().snapshot.clone().unwrap_or_default()
    }

    pub(super) fn set_over(&self, over: bool) {
        let was = std::mem::replace(&mut self.state().figures.over_size, over);
        if over && !was {
            let why = "the files have more bytes than they may, with the newest snapshot and the stream behind it alone";
            self.note(why.to_owned());
        }
    }

    pub(super) fn show(&self, at: Option<&Position>, bytes: u64, bases: usize, segments: usize) {
        let mut state = self.state();
        if let Some(at) = at {
            state.figures.position = Some(at.to_string());
            state.figures.offset = at.offset;
        }
        (state.figures.bytes, state.figures.bases, state.figures.segments) = (bytes, bases, segments);
    }
}
