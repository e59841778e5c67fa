//! Values of options as people write them.

use std::{ops::RangeInclusive, time::Duration};

/// A time: `90s`, `30m`, `12h`, `2d`, or a number of seconds.
///
/// # Errors
/// What is wanted, in words.
pub fn duration(text: &str) -> Result<Duration, String> {
    let seconds = number(text, &[('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)]);
    seconds.map(Duration::from_secs).ok_or_else(|| "a time is wanted, as in 90s, 30m or 12h".to_owned())
}

/// A size: `500k`, `16m`, `20g`, or a number of bytes.
///
/// # Errors
/// What is wanted, in words.
pub fn size(text: &str) -> Result<u64, String> {
    let bytes = number(text, &[('k', 1 << 10), ('m', 1 << 20), ('g', 1 << 30), ('t', 1 << 40)]);
    bytes.ok_or_else(|| "a size is wanted, as in 500k, 16m or 20g".to_owned())
}

/// A range of sizes: `..1m`, `1k..`, `1k..1m`, both ends included.
///
/// # Errors
/// What is wanted, in words.
pub fn size_range(text: &str) -> Result<RangeInclusive<u64>, String> {
    range(text, size)
}

/// A range of times in milliseconds: `..90s`, `1h..`, `1h..2d`, both ends included.
///
/// # Errors
/// What is wanted, in words.
pub fn time_range(text: &str) -> Result<RangeInclusive<u64>, String> {
    range(text, |text| {
        let time = duration(text)?;
        u64::try_from(time.as_millis()).map_err(|_| "this time is too long".to_owned())
    })
}

fn range(text: &str, one: impl Fn(&str) -> Result<u64, String>) -> Result<RangeInclusive<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("a range is wanted, as in 10.., ..20 or 10..20")?;
    let from = if from.is_empty() { 0 } else { one(from)? };
    let to = if to.is_empty() { u64::MAX } else { one(to)? };
    if from > to {
        return Err("the range ends before it begins".to_owned());
    }
    Ok(from..=to)
}

fn number(text: &str, units: &[(char, u64)]) -> Option<u64> {
    let last = text.chars().last()?;
    let unit = units.iter().find(|(letter, _)| letter.eq_ignore_ascii_case(&last));
    let (digits, factor) = unit.map_or((text, 1), |(_, factor)| (&text[..text.len() - 1], *factor));
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_known() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2H"), Ok(Duration::from_secs(7200)));
        assert_eq!((size("16m"), size("5")), (Ok(16 << 20), Ok(5)));
        for bad in ["", "m", "-1s", "1x", "1ä", "99999999999999999999", "99999999999t"] {
            assert!(duration(bad).is_err() && size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_have_both_ends_or_one() {
        assert_eq!(size_range("1k..2k"), Ok(1024..=2048));
        assert_eq!((size_range("..5"), size_range("5..")), (Ok(0..=5), Ok(5..=u64::MAX)));
        assert_eq!(time_range("..1m"), Ok(0..=60_000));
        for bad in ["5", "2..1", "a..", "1...2"] {
            assert!(size_range(bad).is_err() && time_range(bad).is_err(), "{bad}");
        }
    }
}
