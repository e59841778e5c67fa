//! Figures and foreign words as a terminal may show them.

use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};

/// What is shown of a text at most, in characters.
const LONGEST: usize = 300;

/// A text from elsewhere, such as a server's name or its error, on one line and without power over the terminal: control characters, and those
/// that turn the direction of writing or cannot be seen, become `?`.
pub(super) fn clean(text: &str) -> String {
    let is_unseen = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().take(LONGEST).map(|c| if is_unseen(c) { '?' } else { c }).collect()
}

pub(super) fn bytes(count: u64) -> String {
    HumanBytes(count).to_string()
}

pub(super) fn count(count: u64) -> String {
    HumanCount(count).to_string()
}

/// So many a second.
pub(super) fn rate(per_second: f64) -> u64 {
    // As a cast: what is no number is 0, what is too large is the largest one.
    per_second.round() as u64
}

/// A time since something, as a clock shows it.
pub(super) fn clock(seconds: f64) -> String {
    let seconds = seconds as u64;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A time as people say it, to two figures or so.
pub(super) fn time(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        // Longer than anything can be, or no number.
        Err(_) => "for ever".to_owned(),
        Ok(time) => match time.as_secs() {
            0 => format!("{} ms", time.as_millis()),
            whole @ 1..120 => format!("{whole} s"),
            whole @ 120..7200 => format!("{} min", whole / 60),
            whole @ 7200..172_800 => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
            whole => format!("{} days", whole / 86_400),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_words_have_no_power() {
        assert_eq!(clean("a\x1b[2J\u{9b}31m\u{202e}b\r\n\u{200b}"), "a?[2J?31m?b???");
        assert_eq!(clean("ä日本🦀"), "ä日本🦀");
        assert_eq!(clean(&"x".repeat(100_000)).len(), LONGEST);
    }

    #[test]
    fn times_and_rates() {
        for (seconds, text) in [
            (0.0, "0 ms"),
            (0.25, "250 ms"),
            (119.9, "119 s"),
            (3600.0, "60 min"),
            (7260.0, "2 h 01 min"),
            (1e6, "11 days"),
            (1e300, "for ever"),
            (f64::NAN, "for ever"),
            (f64::INFINITY, "for ever"),
            (-1.0, "for ever"),
        ] {
            assert_eq!(time(seconds), text);
        }
        assert_eq!((rate(f64::NAN), rate(-3.0), rate(f64::INFINITY), rate(1.6)), (0, 0, u64::MAX, 2));
        assert_eq!(clock(f64::NAN), "00:00:00");
        assert_eq!(clock(90_061.9), "25:01:01");
    }
}
