//! What becomes of keys that the target has already.

use clap::ValueEnum;
use keyferry_migrate::{ExistingCounts, KeyTally, OnExists, Options};

/// What becomes of keys that the target has already.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct ExistingArgs {
    /// What becomes of keys that the target has already when the migration first begins
    #[arg(long, value_enum, default_value_t = Existing::Replace)]
    on_exists: Existing,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Existing {
    /// Nothing is written if there is one; the error counts them by prefix. One that turns up later ends the run
    Fail,
    /// The target's stays, and commands about it are left out
    Skip,
    /// The source's replaces it
    Replace,
    /// The one stays that was used last, by OBJECT IDLETIME on both sides
    NewerWins,
    /// Hashes, sets and sorted sets become the union of both; others are replaced
    Merge,
}

impl ExistingArgs {
    /// Puts it into the options of a migration.
    pub fn put(self, options: &mut Options) {
        options.on_exists = match self.on_exists {
            Existing::Fail => OnExists::Fail,
            Existing::Skip => OnExists::Skip,
            Existing::Replace => OnExists::Replace,
            Existing::NewerWins => OnExists::NewerWins,
            Existing::Merge => OnExists::Merge,
        };
    }

    /// True when fingerprints of keys may have to outlive the run.
    #[must_use]
    pub fn wants_journal(self) -> bool {
        !matches!(self.on_exists, Existing::Replace)
    }
}

/// Prints what became of them, if there were any. `resyncs` is how often the source had to send a snapshot once more.
pub fn print_existing(counts: &ExistingCounts, resyncs: u64) {
    if counts.policy == OnExists::Fail && resyncs > 0 {
        println!(
            "existing another snapshot was not guarded: it has replaced keys that somebody else made since the first one"
        );
    }
    let kinds = [("skipped", &counts.skipped), ("replaced", &counts.replaced), ("merged", &counts.merged)];
    for (what, KeyTally { count, samples, .. }) in kinds {
        if *count > 0 {
            println!(
                "existing {count} keys that the target has had before {what}, as {}",
                samples.join(", ")
            );
        }
    }
}
