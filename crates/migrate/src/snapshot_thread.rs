//! The thread that encodes the snapshot while it comes: encoding keeps a core busy.

use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    error::Error,
    output::Output,
    pipeline::{Load, Origin},
    progress::Meter,
    snapshot::{Pumped, SnapshotEncoder},
    snapshot_spool::SnapshotReader,
};

/// Snapshot bytes read at once.
const READ_SIZE: usize = 512 * 1024;

/// The thread that encodes the snapshot while it comes.
pub(crate) struct SnapshotThread {
    file: SnapshotReader,
    loads: mpsc::Sender<Load>,
    meter: Meter,
    abandon: CancellationToken,
    runtime: tokio::runtime::Handle,
}

impl SnapshotThread {
    /// To be called from a runtime's thread.
    pub(crate) fn new(
        file: SnapshotReader,
        loads: mpsc::Sender<Load>,
        meter: Meter,
        abandon: CancellationToken,
    ) -> Self {
        SnapshotThread { file, loads, meter, abandon, runtime: tokio::runtime::Handle::current() }
    }

    /// True when the snapshot was complete.
    pub(crate) fn encode(mut self, encoder: &mut SnapshotEncoder) -> Result<bool, Error> {
        let mut out = Output::default();
        let mut hungry = true;
        let mut skipped = 0;
        while !self.abandon.is_cancelled() {
            if hungry {
                let space = encoder.space(READ_SIZE);
                let Some(n) = self.file.read_into(space, &self.runtime, &self.abandon)? else {
                    // The source sends no more of it. Only a whole snapshot may end here.
                    if self.file.is_complete() {
                        encoder.end_of_input()?;
                    }
                    return Ok(false);
                };
                encoder.filled(n);
            }
            let pumped = encoder.pump(&mut out)?;
            self.meter.keys_announced.store(encoder.announced(), Ordering::Relaxed);
            self.meter.keys_applied.fetch_add(encoder.skipped() - skipped, Ordering::Relaxed);
            skipped = encoder.skipped();
            self.meter.large_keys.store(encoder.counts().large, Ordering::Relaxed);
            encoder.forget_built(self.meter.snapshot_applied.load(Ordering::Relaxed));
            if out.commands > 0 && (pumped != Pumped::Hungry || self.file.is_drained()) {
                let keys = std::mem::take(&mut out.keys);
                let load = Load {
                    bytes: out.bytes.split().freeze(),
                    commands: std::mem::take(&mut out.commands),
                    origin: Origin::Snapshot { keys, end: encoder.whole() },
                    pieces: out.take_pieces(),
                };
                if self.loads.blocking_send(load).is_err() {
                    return Ok(false);
                }
            }
            if pumped == Pumped::Finished {
                return self.framing_ends();
            }
            hungry = pumped == Pumped::Hungry;
        }
        Ok(false)
    }

    /// The RDB is over; the source has to say so too, in its framing. True when it did.
    fn framing_ends(&mut self) -> Result<bool, Error> {
        let mut behind = [0; 1024];
        while self.file.read_into(&mut behind, &self.runtime, &self.abandon)?.is_some() {}
        Ok(self.file.is_complete())
    }
}
