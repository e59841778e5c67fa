//! Where a reply ends, for those that are mostly there: strings, integers and lists of these, all of it in one piece.

use crate::{Limits, line};

/// Lists in a reply, one inside the other or side by side: a cursor with the elements behind it has two.
const LISTS: usize = 2;

/// The length of the reply at the start of `input` and how many nulls are in it, if all of it is there and it is a plain one within the
/// limits; whatever else stands there is left to the careful path.
#[inline]
pub(crate) fn reply(input: &[u8], limits: &Limits) -> Option<(usize, u64)> {
    // The strings of which the length has a digit or two are within the limits.
    let short = limits.max_bulk_bytes() > 99;
    let (mut lists, mut elements, mut missing, mut nulls) = (0, 0_usize, 1_usize, 0);
    let mut rest = input;
    while missing > 0 {
        missing -= 1;
        // The elements of most values.
        let string = match rest {
            [b'$', a @ b'0'..=b'9', b'\r', b'\n', text @ ..] if short => Some((digit(*a), text)),
            [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', text @ ..] if short => {
                Some((digit(*a) * 10 + digit(*b), text))
            }
            _ => None,
        };
        if let Some((length, text)) = string {
            let [b'\r', b'\n', behind @ ..] = text.get(length..)? else { return None };
            rest = behind;
            continue;
        }
        let (&kind, number) = rest.split_first()?;
        match kind {
            b'$' => match length(number) {
                Some((length, behind)) if length <= limits.max_bulk_bytes() => {
                    rest = behind.get(length..)?.strip_prefix(b"\r\n")?;
                }
                // What is not there, in a list of strings.
                _ => {
                    rest = number.strip_prefix(b"-1\r\n")?;
                    nulls += 1;
                }
            },
            b':' => rest = integer(number)?,
            b'*' => {
                let count;
                (count, rest) = length(number)?;
                lists += 1;
                elements += count;
                if lists > LISTS.min(limits.max_nesting()) || count > limits.max_elements() {
                    return None;
                }
                missing += count;
            }
            _ => return None,
        }
    }
    let size = input.len() - rest.len();
    (size <= limits.max_frame_bytes() && elements <= limits.max_total_elements()).then_some((size, nulls))
}

#[inline(always)]
fn digit(byte: u8) -> usize {
    usize::from(byte - b'0')
}

/// Digits that any 64-bit number may have.
const DIGITS: usize = 18;

/// What comes behind an integer and its line. Zeros in front and the largest numbers are left to the careful path.
#[inline]
fn integer(input: &[u8]) -> Option<&[u8]> {
    let (negative, text) = input.strip_prefix(b"-").map_or((false, input), |text| (true, text));
    let digits = text.iter().take(DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count();
    let canonical = match text.first()? {
        b'0' => digits == 1 && !negative,
        _ => (1..=DIGITS).contains(&digits),
    };
    text.get(digits..)?.strip_prefix(b"\r\n").filter(|_| canonical)
}

/// The number in front and what comes behind its line, as [`line::short_length`] has it.
#[inline]
fn length(input: &[u8]) -> Option<(usize, &[u8])> {
    // Most have three digits at most.
    match input {
        [a @ b'0'..=b'9', b'\r', b'\n', rest @ ..] => Some((digit(*a), rest)),
        [a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', rest @ ..] => {
            Some((digit(*a) * 10 + digit(*b), rest))
        }
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', rest @ ..] => {
            Some(((digit(*a) * 10 + digit(*b)) * 10 + digit(*c), rest))
        }
        _ => line::short_length(input, 0).and_then(|(number, end)| Some((number, input.get(end..)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_plain_replies_have_a_length() {
        let of = |text: &str| reply(text.as_bytes(), &Limits::default()).map(|(length, _)| length);
        for whole in [
            "$3\r\nfoo\r\n",
            "$0\r\n\r\n",
            "$-1\r\n",
            ":12345\r\n",
            ":0\r\n",
            ":-12345\r\n",
            ":1735689600000\r\n",
            ":-999999999999999999\r\n",
            "*0\r\n",
            "*2\r\n$1\r\na\r\n:5\r\n",
            "*3\r\n$1\r\na\r\n$-1\r\n$1\r\nb\r\n",
            "*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$2\r\nbb\r\n",
        ] {
            // Something stands behind it.
            assert_eq!(of(&format!("{whole}$9\r\n1234567")), Some(whole.len()), "{whole:?}");
            for cut in 0..whole.len() {
                assert_eq!(of(&whole[..cut]), None, "{whole:?} up to {cut}");
            }
        }
        for other in [
            "+OK\r\n",
            "-ERR\r\n",
            "$3\r\nfooo\r\n",
            "*1\r\n+OK\r\n",
            ":01\r\n",
            ":-0\r\n",
            ":-\r\n",
            ":\r\n",
            ":12x\r\n",
            ":1234567890123456789\r\n",
            "*-1\r\n",
            ">1\r\n$1\r\na\r\n",
        ] {
            assert_eq!(of(&format!("{other}$9\r\n1234567")), None, "{other:?}");
        }
        // Nulls are counted, and texts that look like such are not.
        for (text, nulls) in [("$-1\r\n", 1), ("*3\r\n$-1\r\n$5\r\n$-1\r\n\r\n$-1\r\n", 2), (":-1\r\n", 0)] {
            assert_eq!(reply(text.as_bytes(), &Limits::default()), Some((text.len(), nulls)));
        }
        // More lists than are counted.
        assert_eq!(of("*1\r\n*1\r\n*1\r\n:1\r\n        "), None);
    }

    #[test]
    fn limits_hold() {
        let text = b"*3\r\n$3\r\nfoo\r\n$1\r\na\r\n$1\r\nb\r\n        ";
        let within = |limits: Limits| reply(text, &limits).is_some();
        assert!(within(Limits::new().bulk_bytes(3).elements(3).total_elements(3).frame_bytes(27).nesting(1)));
        assert!(!within(Limits::new().bulk_bytes(2)));
        assert!(!within(Limits::new().elements(2)));
        assert!(!within(Limits::new().total_elements(2)));
        assert!(!within(Limits::new().frame_bytes(26)));
        assert!(!within(Limits::new().nesting(0)));
    }
}
