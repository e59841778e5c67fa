//! Cuts at a place that is known by what is said there.

/// Where in what is said a [`Proxy`](crate::Proxy) cuts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mark {
    /// Right behind this text, when it is seen for the time after `skip` others.
    Text {
        /// The text, not empty.
        text: Vec<u8>,
        /// How often it is let through before.
        skip: u32,
    },
    /// In the middle of the mark that ends a streamed snapshot: the 40 bytes that follow `$EOF:` come again there.
    EndOfSnapshot,
}

impl Mark {
    /// Right behind this text, the first time.
    pub fn text(text: impl Into<Vec<u8>>) -> Mark {
        Mark::Text { text: text.into(), skip: 0 }
    }
}

/// A cut that waits for its mark.
#[derive(Debug)]
pub(super) struct Trigger {
    pub(super) number: u64,
    pub(super) mark: Mark,
}

/// What begins a streamed snapshot.
const STREAMED: &[u8] = b"$EOF:";
/// Bytes of the mark that follow it.
const MARK: usize = 40;

/// What one pump has seen since the trigger was set.
#[derive(Debug, Default)]
pub(super) struct Watcher {
    /// Of the trigger that it looks for.
    number: u64,
    /// The end of what was looked through before: a text may be in two blocks.
    tail: Vec<u8>,
    skipped: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// Look for this instead.
    Another(Mark),
    /// Let so many bytes of the block through.
    CutAfter(usize),
}

impl Watcher {
    pub(super) fn look(&mut self, trigger: Option<&Trigger>, block: &[u8]) -> Found {
        let Some(trigger) = trigger else { return Found::Nothing };
        if self.number != trigger.number {
            *self = Watcher { number: trigger.number, ..Watcher::default() };
        }
        let old = self.tail.len();
        let mut seen = std::mem::take(&mut self.tail);
        seen.extend_from_slice(block);
        let (found, keep) = match &trigger.mark {
            Mark::Text { text, skip } => {
                let mut from = 0;
                loop {
                    match position(&seen[from..], text).map(|at| from + at + text.len()) {
                        Some(end) if self.skipped < *skip => {
                            self.skipped += 1;
                            from = end;
                        }
                        // The tail is shorter than the text: its end lies in this block.
                        Some(end) => break (Found::CutAfter(end - old), 0),
                        None => break (Found::Nothing, (text.len() - 1).min(seen.len() - from)),
                    }
                }
            }
            Mark::EndOfSnapshot => {
                let begins = position(&seen, STREAMED).map(|at| at + STREAMED.len());
                match begins.and_then(|at| Some((at + MARK, seen.get(at..at + MARK)?))) {
                    Some((behind, mark)) => {
                        // What is seen now is the announcement: only the second one is meant, and it may be here too.
                        let half = mark[..MARK / 2].to_vec();
                        match position(&seen[behind..], &half) {
                            Some(at) => (Found::CutAfter(behind + at + half.len() - old), 0),
                            None => {
                                let keep = (half.len() - 1).min(seen.len() - behind);
                                (Found::Another(Mark::text(half)), keep)
                            }
                        }
                    }
                    None => (Found::Nothing, STREAMED.len() + MARK - 1),
                }
            }
        };
        let keep = keep.min(seen.len());
        self.tail = seen.split_off(seen.len() - keep);
        found
    }
}

fn position(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len().max(1)).position(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(mark: Mark) -> Trigger {
        Trigger { number: 1, mark }
    }

    #[test]
    fn a_text_in_pieces_is_found_where_it_ends() {
        let trigger = trigger(Mark::Text { text: b"EXEC".to_vec(), skip: 1 });
        for size in 1..20 {
            let mut watcher = Watcher::default();
            let said = b"MULTI EXECEX EXEC tail";
            let mut passed = 0;
            let mut cut = None;
            for block in said.chunks(size) {
                match watcher.look(Some(&trigger), block) {
                    Found::CutAfter(length) => cut = cut.or(Some(passed + length)),
                    other => assert_eq!(other, Found::Nothing),
                }
                passed += block.len();
            }
            assert_eq!(cut, Some(17), "pieces of {size}");
        }
    }

    #[test]
    fn the_end_of_a_snapshot_is_known_by_its_beginning() {
        let mark: Vec<u8> = (b'a'..).take(MARK).collect();
        let mut said = b"+FULLRESYNC x 1\r\n$EOF:".to_vec();
        said.extend_from_slice(&mark);
        said.extend_from_slice(b"\r\nREDIS0011 ... ");
        let expected = said.len() + MARK / 2;
        said.extend_from_slice(&mark);
        for size in [1, 7, 30, 1000] {
            let mut wanted = trigger(Mark::EndOfSnapshot);
            let mut watcher = Watcher::default();
            let (mut passed, mut cut) = (0, None);
            for block in said.chunks(size) {
                match watcher.look(Some(&wanted), block) {
                    Found::CutAfter(length) => cut = cut.or(Some(passed + length)),
                    Found::Another(mark) => wanted.mark = mark,
                    Found::Nothing => {}
                }
                passed += block.len();
            }
            assert_eq!(cut, Some(expected), "pieces of {size}");
        }
    }
}
