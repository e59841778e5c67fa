//! Room for the journal.

use std::path::{Path, PathBuf};

use crate::precheck::{
    Finding, Item, Known,
    estimate::{bytes, estimates},
    report::Judge,
};

/// What is wanted for the stream even where nothing is written now.
const LEAST: f64 = 64.0 * 1024.0 * 1024.0;

pub(super) fn check(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::JournalDisk);
    let named = known.options.journal.clone();
    let directory = named.clone().unwrap_or_else(std::env::temp_dir);
    let Some(existing) = nearest(&directory) else {
        judge.fail(
            format!("{}: there is no such place", directory.display()),
            "name a directory that can be made",
        );
        return judge.done();
    };
    let free = match rustix::fs::statvfs(&existing) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(error) => {
            judge.warn(
                format!("{}: how much is free is not known: {error}", existing.display()),
                "see that there is room for the journal",
            );
            return judge.done();
        }
    };
    let Some(estimates) = estimates(&known.source, &known.rates) else {
        judge.warn(
            format!("{}: {} free; how much is needed is not known", existing.display(), bytes(free)),
            "let the user at the source call INFO",
        );
        return judge.done();
    };
    // What is written during the snapshot and as long again; a named one holds the snapshot, too.
    let stream = (2.0 * estimates.seconds * estimates.write_bytes_per_second).max(LEAST);
    let needed = if named.is_some() { stream + estimates.bytes as f64 } else { stream };
    let line = format!("{}: {} free, about {} needed", existing.display(), bytes(free), bytes(needed as u64));
    let remedy = "free space, or name a directory on another disk (--journal DIR)";
    if (free as f64) < needed {
        judge.fail(line, remedy);
    } else if (free as f64) < 2.0 * needed {
        judge.warn(line, remedy);
    } else {
        judge.note(line);
    }
    judge.done()
}

/// The directory itself, or the one above it that is there.
fn nearest(directory: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(directory).ok()?;
    let nearest = absolute.ancestors().find(|path| path.exists())?;
    nearest.is_dir().then(|| nearest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_below_one_that_is_there() {
        let temporary = std::env::temp_dir();
        assert_eq!(nearest(&temporary.join("not/there")).as_deref(), Some(&*temporary));
        // Below a file there is no place.
        assert_eq!(nearest(&std::env::current_exe().unwrap().join("x")), None);
    }
}
