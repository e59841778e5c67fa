//! Numbers as the text that servers write.

/// Reads a score: decimal text, `inf`, `-inf`. `None` for anything else and for NaN.
pub(crate) fn parse_score(text: &[u8]) -> Option<f64> {
    if let Some(value) = short_decimal(text) {
        return Some(value);
    }
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (!value.is_nan()).then_some(value)
}

/// Powers of ten that fit 64 bits.
const TENS: [u64; 20] = {
    let mut tens = [1; 20];
    let mut i = 1;
    while i < tens.len() {
        tens[i] = tens[i - 1] * 10;
        i += 1;
    }
    tens
};

/// Reads up to 19 digits with a dot among them or without, such as every score that servers write without an exponent.
/// `None` for anything else.
#[inline]
fn short_decimal(text: &[u8]) -> Option<f64> {
    let (digits, negative) = match text {
        [b'-', digits @ ..] => (digits, true),
        digits => (digits, false),
    };
    if digits.len() > TENS.len() {
        return None;
    }
    let mut n = 0u64;
    let mut dot = None;
    for (at, &byte) in digits.iter().enumerate() {
        match byte.wrapping_sub(b'0') {
            digit @ 0..=9 => n = n.checked_mul(10)?.checked_add(u64::from(digit))?,
            _ if byte == b'.' && dot.is_none() => dot = Some(at),
            _ => return None,
        }
    }
    let whole = dot.unwrap_or(digits.len());
    let places = digits.len() - whole - usize::from(dot.is_some());
    if whole == 0 || (dot.is_some() && places == 0) {
        return None;
    }
    let value = if n <= 1 << 53 {
        // Both are exact, so their quotient is the nearest there is.
        n as f64 / TENS[places] as f64
    } else {
        quotient(n, TENS[places])
    };
    Some(if negative { -value } else { value })
}

/// The number nearest to `n / d`. Neither is zero.
fn quotient(n: u64, d: u64) -> f64 {
    let (n_shift, d_shift) = (n.leading_zeros(), d.leading_zeros());
    let (n, d) = (u128::from(n << n_shift) << 63, u128::from(d << d_shift));
    // 63 or 64 bits. The lowest, far below what the result holds, stands for all that follow.
    let rounded = ((n / d) as u64 | u64::from(n % d != 0)) as f64;
    // A power of two that stays in the range of normal numbers: nothing is lost.
    let exponent = 1023 - 63 + u64::from(d_shift) - u64::from(n_shift);
    rounded * f64::from_bits(exponent << 52)
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
    use proptest::prelude::*;

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

    proptest! {
        /// Short decimals are read as the standard library reads them, to the last bit, or left to it.
        #[test]
        fn short_decimals_are_exact(text in "-?[0-9]{0,19}\\.?[0-9]{0,19}") {
            if let Some(value) = short_decimal(text.as_bytes()) {
                prop_assert_eq!(text.parse::<f64>().map(f64::to_bits), Ok(value.to_bits()));
            }
        }

        #[test]
        fn scores_are_read_as_the_standard_library_reads_them(score in any::<f64>(), places in 0usize..20, any in ".{0,8}") {
            for text in [score.to_string(), format!("{score:e}"), format!("{score:.places$}"), any] {
                let want = text.parse().ok().filter(|value: &f64| !value.is_nan());
                prop_assert_eq!(parse_score(text.as_bytes()).map(f64::to_bits), want.map(f64::to_bits));
            }
        }
    }

    #[test]
    fn short_decimals() {
        for text in [
            "0",
            "-0",
            "0.00000000000000000",
            "1.5",
            "-17.25",
            "9007199254740993",
            "0.12345678901234567",
            "-73.456000000000003",
            "9999999999999999999",
            "0.000000000000000001",
        ] {
            let value = short_decimal(text.as_bytes()).map(f64::to_bits);
            assert_eq!(value, text.parse().ok().map(f64::to_bits), "{text}");
        }
        for text in ["", "-", ".", "1.", ".5", "+1", "1e3", "1.2.3", "99999999999999999999"] {
            assert_eq!(short_decimal(text.as_bytes()), None, "{text}");
        }
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
