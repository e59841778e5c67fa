//! Numbers as text.

/// A 64-bit integer as servers write it: an optional `-`, no leading zeros, no `-0`.
pub(crate) fn canonical(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value: u64 = 0;
    for &c in digits {
        let digit = c.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // 19 digits at most: no overflow of 64 unsigned bits.
        value = value * 10 + u64::from(digit);
    }
    if negative { 0i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

/// The value of a `:` line. RESP allows a `+` there, which no server sends.
pub(crate) fn integer(text: &[u8]) -> Option<i64> {
    match text {
        [b'+', b'-', ..] => None,
        [b'+', rest @ ..] => canonical(rest),
        _ => canonical(text),
    }
}

/// The value of a `,` line: digits with an optional sign, fraction and exponent, or `inf`, `nan` with an optional
/// sign (old servers print what C's `printf` gives, which may be `-nan`).
pub(crate) fn double(text: &[u8]) -> Option<f64> {
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    match rest {
        b"inf" => return Some(if negative { f64::NEG_INFINITY } else { f64::INFINITY }),
        b"nan" => return Some(f64::NAN),
        _ => {}
    }
    let mut rest = digits(rest)?;
    if let [b'.', fraction @ ..] = rest {
        rest = digits(fraction)?;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        rest = match exponent {
            [b'+' | b'-', exponent @ ..] => digits(exponent)?,
            _ => digits(exponent)?,
        };
    }
    if !rest.is_empty() {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether a `(` line is a number: an optional sign and digits.
pub(crate) fn is_big(text: &[u8]) -> bool {
    let rest = match text {
        [b'-' | b'+', rest @ ..] => rest,
        _ => text,
    };
    digits(rest).is_some_and(<[u8]>::is_empty)
}

/// `text` after its leading digits, of which there must be one.
fn digits(text: &[u8]) -> Option<&[u8]> {
    let count = text.iter().take_while(|c| c.is_ascii_digit()).count();
    if count == 0 { None } else { text.get(count..) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_strict() {
        assert_eq!(canonical(b"0"), Some(0));
        assert_eq!(canonical(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(canonical(b"-9223372036854775808"), Some(i64::MIN));
        for bad in [
            "",
            "-",
            "-0",
            "00",
            "01",
            "+1",
            " 1",
            "1 ",
            "1a",
            "9223372036854775808",
            "-9223372036854775809",
            "18446744073709551616",
        ] {
            assert_eq!(canonical(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(integer(b"+12"), Some(12));
        assert_eq!(integer(b"+-12"), None);
        assert_eq!(integer(b"++1"), None);
    }

    #[test]
    fn doubles() {
        for (text, value) in [
            ("10", 10.0),
            ("-3.25", -3.25),
            ("1e+20", 1e20),
            ("1E-2", 0.01),
            ("+7", 7.0),
            ("0.10000000000000001", 0.1),
            ("-inf", f64::NEG_INFINITY),
            ("1e999", f64::INFINITY),
        ] {
            assert_eq!(double(text.as_bytes()), Some(value), "{text}");
        }
        assert!(double(b"nan").unwrap().is_nan() && double(b"-nan").unwrap().is_nan());
        for bad in ["", ".5", "1.", "1e", "1e+", "infinity", "NaN", "0x10", "1 ", " 1", "--1", "1.5.5", "-"] {
            assert_eq!(double(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn big_numbers() {
        assert!(is_big(b"-12345678901234567890123") && is_big(b"+0") && is_big(b"7"));
        assert!(!is_big(b"") && !is_big(b"-") && !is_big(b"1.5") && !is_big(b"1e5"));
    }
}
