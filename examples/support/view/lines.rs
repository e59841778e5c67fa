//! The last lines of a log, in memory.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that are kept, and how long they may be in bytes.
const MOST: usize = 1000;
const LONGEST: usize = 4096;

/// Keeps the last lines of what is written to it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    /// Older ones that are gone.
    dropped: u64,
}

impl Lines {
    /// The last ones, so many at most, the newest last.
    pub(super) fn last(&self, most: usize) -> Vec<String> {
        let kept = self.lock();
        kept.lines.iter().skip(kept.lines.len().saturating_sub(most)).cloned().collect()
    }

    /// All that is kept, and how many are not any more; nothing is kept then.
    pub(super) fn take(&self) -> (Vec<String>, u64) {
        let kept = std::mem::take(&mut *self.lock());
        (kept.lines.into(), kept.dropped)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each write is one event.
impl io::Write for &Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut kept = self.lock();
        for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            kept.lines.push_back(String::from_utf8_lossy(&line[..line.len().min(LONGEST)]).into_owned());
            if kept.lines.len() > MOST {
                kept.lines.pop_front();
                kept.dropped += 1;
            }
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let lines = Lines::default();
        for number in 0..MOST + 5 {
            writeln!(&lines, "{number}").unwrap();
        }
        assert_eq!(lines.last(2), ["1003", "1004"]);
        assert_eq!(lines.last(usize::MAX).len(), MOST);
        (&lines).write_all(&[b'x'; 100_000]).unwrap();
        (&lines).write_all(b"\xff\n\n").unwrap();
        assert!(lines.last(2)[0].len() == LONGEST && lines.last(1) == ["\u{fffd}"]);
        let (all, dropped) = lines.take();
        assert_eq!((all.len(), dropped), (MOST, 7));
        assert!(lines.last(9).is_empty());
    }
}
