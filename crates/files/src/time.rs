//! Times as people write them.

/// Days between 0000-03-01 and 1970-01-01.
const SHIFT: i64 = 719_468;

/// Days of 400 years.
const ERA: i64 = 146_097;

/// Unix milliseconds as `2023-11-14T22:13:20Z`, with milliseconds where there are any, or the plain number for years that have no
/// four digits.
#[must_use]
pub fn show(ms: i64) -> String {
    let seconds = to_seconds(ms);
    match (ms.rem_euclid(1000), seconds.strip_suffix('Z')) {
        (part @ 1.., Some(seconds)) => format!("{seconds}.{part:03}Z"),
        _ => seconds,
    }
}

/// The same, to the second.
pub(crate) fn to_seconds(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    if !(-719_162..2_932_897).contains(&day) {
        return format!("{ms} ms");
    }
    // Days since 0000-03-01, in eras of 400 years, so that leap days come last.
    let shifted = day + SHIFT;
    let (era, day) = (shifted.div_euclid(ERA), shifted.rem_euclid(ERA));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Reads a time as RFC 3339 has it, into Unix milliseconds: `2026-11-20T03:14:15Z`, with fractions of a second if need be, a
/// space for the `T`, and `+02:00` for the `Z`; or seconds since 1970 behind an `@`. `None` for anything else: a time without
/// a zone may mean several moments.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    if let Some(seconds) = text.strip_prefix('@') {
        let (seconds, ms) = fraction(seconds)?;
        return seconds.parse::<u32>().ok().map(|seconds| i64::from(seconds) * 1000 + ms);
    }
    let (date, rest) = (text.get(..10)?, text.get(11..)?);
    if !matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' ')) {
        return None;
    }
    let (clock, zone) = match rest.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            let at = rest.len().checked_sub(6)?;
            let (clock, zone) = (rest.get(..at)?, rest.get(at..)?);
            let sign = match zone.as_bytes().first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let minutes = number(zone.get(1..3)?, 0, 23)? * 60 + number(zone.get(4..)?, 0, 59)?;
            (zone.as_bytes().get(3) == Some(&b':')).then_some((clock, sign * minutes))?
        }
    };
    let (clock, ms) = fraction(clock)?;
    let parts = |text: &'_ str, mark: u8, ends: [usize; 2]| -> Option<()> {
        ends.iter().all(|&at| text.as_bytes().get(at) == Some(&mark)).then_some(())
    };
    parts(date, b'-', [4, 7])?;
    parts(clock, b':', [2, 5])?;
    if clock.len() != 8 {
        return None;
    }
    let (year, month) = (number(date.get(..4)?, 1, 9999)?, number(date.get(5..7)?, 1, 12)?);
    let day = number(date.get(8..)?, 1, days_of(year, month))?;
    let (hour, minute) = (number(&clock[..2], 0, 23)?, number(&clock[3..5], 0, 59)?);
    // A leap second is the first of the next minute to everybody's clock.
    let second = number(&clock[6..], 0, 60)?;
    let from_march = (month + 9) % 12;
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_era = year * 365 + year / 4 - year / 100 + (153 * from_march + 2) / 5 + day - 1;
    let days = era * ERA + day_of_era - SHIFT;
    Some((((days * 24 + hour) * 60 + minute - zone) * 60 + second) * 1000 + ms)
}

/// What stands before the point, and the milliseconds behind it.
fn fraction(text: &str) -> Option<(&str, i64)> {
    let Some((whole, part)) = text.split_once('.') else { return Some((text, 0)) };
    let digits = (1..=9).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let ms = format!("{part:0<3}").get(..3)?.parse().ok()?;
    digits.then_some((whole, ms))
}

fn number(text: &str, least: i64, most: i64) -> Option<i64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && (least..=most).contains(n))
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(to_seconds(seconds * 1000), text);
            assert_eq!(show(seconds * 1000), text);
            assert_eq!(parse(text), Some(seconds * 1000), "{text}");
        }
        assert_eq!(show(1_700_000_000_042), "2023-11-14T22:13:20.042Z");
        for ms in [i64::MAX, i64::MIN] {
            assert_eq!(to_seconds(ms), format!("{ms} ms"));
        }
        for day in (-700_000..2_900_000).step_by(97) {
            let ms = day * 86_400_000 + 12_345_678;
            assert_eq!(parse(&show(ms)), Some(ms), "{}", show(ms));
        }
    }

    #[test]
    fn other_forms_are_read_and_wrong_ones_refused() {
        for (text, ms) in [
            ("2023-11-14T23:13:20+01:00", 1_700_000_000_000),
            ("2023-11-14 16:43:20.5-05:30", 1_700_000_000_500),
            ("2023-11-14t22:13:20.0429z", 1_700_000_000_042),
            ("@1700000000", 1_700_000_000_000),
            ("@1700000000.25", 1_700_000_000_250),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000),
        ] {
            assert_eq!(parse(text), Some(ms), "{text}");
        }
        for wrong in [
            "",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-11-14T22:13Z",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-11-14T24:00:00Z",
            "2023-11-14T22:13:61Z",
            "2023-11-14T22:13:20.Z",
            "2023-11-14T22:13:20+1:00",
            "2023/11/14T22:13:20Z",
            "+023-11-14T22:13:20Z",
            "2023-11-14T22:13:20.1234567890Z",
            "@-1",
            "@",
            "tomorrow",
            "2023-11-1\u{e4}T22:13:20Z",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
