//! How much a script may do for one command.

use std::sync::atomic::{AtomicU64, Ordering};

use super::pattern::Budget;

/// Instructions that are left.
#[derive(Debug)]
pub(super) struct Instructions {
    left: AtomicU64,
    most: u64,
}

impl Instructions {
    pub(super) fn new(most: u64) -> Self {
        Instructions { left: AtomicU64::new(most), most }
    }

    /// All of them are left again.
    pub(super) fn renew(&self) {
        self.left.store(self.most, Ordering::Relaxed);
    }
}

impl Budget for Instructions {
    fn spend(&self, steps: u64) -> bool {
        // One thread at a time is at work.
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(steps), Ordering::Relaxed);
        left >= steps
    }
}

/// The error of a script that goes on for too long.
pub(super) fn exhausted() -> mlua::Error {
    mlua::Error::runtime("it takes too many instructions for one command")
}
