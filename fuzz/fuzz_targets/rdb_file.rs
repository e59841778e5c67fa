//! Snapshots, whole and cut: the same events, and every value taken apart without a panic.
#![no_main]

use keyferry_rdb::{Event, Limits, Parser};
use libfuzzer_sys::fuzz_target;

// The first byte says how large the pieces are.
fuzz_target!(|input: &[u8]| {
    let Some((&step, data)) = input.split_first() else { return };
    let whole = events(data, data.len().max(1));
    let cut = events(data, usize::from(step).max(1));
    assert_eq!(whole, cut);
});

/// The events as text, the error last.
fn events(data: &[u8], step: usize) -> Vec<String> {
    let mut limits = Limits::default();
    limits.value_part = 256;
    let mut parser = Parser::with_limits(limits.clone());
    let mut seen = Vec::new();
    for piece in data.chunks(step) {
        parser.feed(piece);
        loop {
            match parser.next_event() {
                Ok(Some(event)) => {
                    seen.push(format!("{event:?}"));
                    if let Event::Entry(entry) = event {
                        let mut elements = entry.value.elements(&limits);
                        while let Ok(Some(_)) = elements.next() {}
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
    }
    seen
}
