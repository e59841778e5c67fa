//! Numbers as the text that servers write.

/// Reads a score: decimal text, `inf`, `-inf`. `None` for anything else and for NaN.
pub(crate) fn parse_score(text: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (!value.is_nan()).then_some(value)
}

/// Appends a number of an array as a server prints it: the shortest digits that read back as the same number,
/// positional while that stays short and with an exponent beyond, always with a dot or an exponent.
pub(crate) fn push_double(out: &mut Vec<u8>, value: f64) {
    if !value.is_finite() {
        let text: &[u8] = match (value.is_nan(), value > 0.0) {
            (true, _) => b"nan",
            (_, true) => b"inf",
            _ => b"-inf",
        };
        return out.extend_from_slice(text);
    }
    // `{:e}` gives the shortest digits: d.ddde-x.
    let text = format!("{:e}", value.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
    let count = digits.len() as i32;
    // The number is `digits` as an integer times ten to the power of this.
    let scale = exponent - count + 1;
    if value.is_sign_negative() {
        out.push(b'-');
    }
    if scale >= 0 && exponent < count + 7 {
        out.extend_from_slice(&digits);
        out.extend(std::iter::repeat_n(b'0', scale as usize));
        out.extend_from_slice(b".0");
    } else if scale < 0 && (scale > -7 || exponent.abs() < 4) {
        let before = count + scale;
        if before <= 0 {
            out.extend_from_slice(b"0.");
            out.extend(std::iter::repeat_n(b'0', before.unsigned_abs() as usize));
            out.extend_from_slice(&digits);
        } else {
            let (whole, fraction) = digits.split_at(before as usize);
            out.extend_from_slice(whole);
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
    } else {
        let (first, rest) = digits.split_at(1.min(digits.len()));
        out.extend_from_slice(first);
        if !rest.is_empty() {
            out.push(b'.');
            out.extend_from_slice(rest);
        }
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        out.extend_from_slice(itoa::Buffer::new().format(exponent.unsigned_abs()).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores() {
        assert_eq!(parse_score(b"0.5"), Some(0.5));
        assert_eq!(parse_score(b"1e+20"), Some(1e20));
        assert_eq!(parse_score(b"-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_score(b"0.10000000000000001"), Some(0.1));
        assert_eq!(parse_score(b"nan"), None);
        assert_eq!(parse_score(b"-nan"), None);
        assert_eq!(parse_score(b""), None);
        assert_eq!(parse_score(b"1.5x"), None);
        assert_eq!(parse_score(b"\xFF"), None);
    }

    #[test]
    fn doubles() {
        let text = |value| {
            let mut out = Vec::new();
            push_double(&mut out, value);
            String::from_utf8(out).unwrap()
        };
        for (value, want) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (3.0, "3.0"),
            (1.5, "1.5"),
            (-12.25, "-12.25"),
            (0.001, "0.001"),
            (1e-10, "1e-10"),
            (1e20, "1e+20"),
            (1.25e-9, "1.25e-9"),
            (123_456.0, "123456.0"),
            (1e7, "10000000.0"),
            (f64::MAX, "1.7976931348623157e+308"),
        ] {
            assert_eq!(text(value), want);
        }
        for value in [0.1 + 0.2, 5e-324, 1.0 / 3.0, 6.02e23, 123.456e-7] {
            assert_eq!(text(value).parse(), Ok(value));
        }
    }
}
