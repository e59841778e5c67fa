//! Values in replies as they came, compared without taking them apart where that can be.
//!
//! The replies were found to be whole frames when they were received ([`Replies`](keyferry_client::Replies)).

use keyferry_client::Replies;
use keyferry_rdb::Kind;

/// The number behind a type byte, and what comes after the line; `None` for a frame of another type, and for numbers below 0.
#[inline]
fn head(frame: &[u8], kind: u8) -> Option<(usize, &[u8])> {
    // Most numbers are short.
    match frame {
        [first, a @ b'0'..=b'9', b'\r', b'\n', rest @ ..] if *first == kind => {
            return Some((usize::from(a - b'0'), rest));
        }
        [first, a @ b'0'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', rest @ ..] if *first == kind => {
            return Some((usize::from(a - b'0') * 10 + usize::from(b - b'0'), rest));
        }
        _ => {}
    }
    let (&first, rest) = frame.split_first()?;
    let mut number = 0_usize;
    for (at, &byte) in rest.iter().enumerate() {
        match byte {
            b'0'..=b'9' => number = number.checked_mul(10)?.checked_add(usize::from(byte - b'0'))?,
            b'\r' => return Some((number, rest.get(at + 2..)?)).filter(|_| first == kind && at > 0),
            _ => return None,
        }
    }
    None
}

/// What an integer reply says.
pub(super) fn integer(frame: &[u8]) -> Option<i64> {
    let digits = frame.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    let (negative, digits) = digits.strip_prefix(b"-").map_or((false, digits), |digits| (true, digits));
    let mut number = (!digits.is_empty()).then_some(0_i64)?;
    for &digit in digits {
        let digit = digit.is_ascii_digit().then(|| i64::from(digit - b'0'))?;
        number = number.checked_mul(10)?.checked_sub(digit)?;
    }
    if negative { Some(number) } else { number.checked_neg() }
}

/// The strings in a list; `None` in place of one that is not there. It ends early at anything else.
pub(super) struct Strings<'r> {
    left: usize,
    rest: &'r [u8],
}

impl<'r> Strings<'r> {
    /// Those of a list; `None` for another reply.
    pub(super) fn of(frame: &'r [u8]) -> Option<Self> {
        head(frame, b'*').map(|(left, rest)| Self { left, rest })
    }

    /// How many elements are left, as the list says.
    pub(super) fn len(&self) -> usize {
        self.left
    }

    /// The first of two elements, which is a string, and the frame of the other.
    pub(super) fn pair(mut self) -> Option<(&'r [u8], &'r [u8])> {
        let two = self.left == 2;
        let first = self.next()??;
        two.then_some((first, self.rest))
    }
}

impl<'r> Iterator for Strings<'r> {
    type Item = Option<&'r [u8]>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        match head(self.rest, b'$') {
            Some((length, behind)) => {
                let text = behind.get(..length)?;
                self.rest = behind.get(length + 2..)?;
                Some(Some(text))
            }
            None => {
                self.rest = self.rest.strip_prefix(b"$-1\r\n")?;
                Some(None)
            }
        }
    }
}

/// The elements in a reply of `SCAN`'s kin or of a plain list, as frames, and how many there are.
///
/// `None` unless these are all elements of a value that is there: not where fewer were asked for than there may be.
fn whole(frame: &[u8], scanned: bool, most: usize) -> Option<(usize, &[u8])> {
    let list = if scanned {
        let (2, rest) = head(frame, b'*')? else { return None };
        // Where it would go on.
        rest.strip_prefix(b"$1\r\n0\r\n")?
    } else {
        frame
    };
    let (count, _) = head(list, b'*')?;
    (count > 0 && (scanned || count < most)).then_some((count, list))
}

/// Whether a reply that is the same on both sides is a value that is there, and all of it: mostly its first bytes tell.
pub(super) fn is_whole(replies: &Replies, number: usize, kind: Kind, scanned: bool, most: usize) -> bool {
    let tells = |start: Option<&[u8]>| match kind {
        Kind::String => start.and_then(|start| head(start, b'$')).is_some(),
        _ => start.and_then(|start| whole(start, scanned, most)).is_some(),
    };
    tells(replies.head(number)) || tells(replies.get(number))
}

/// What values are compared with, to be used again.
#[derive(Debug, Default)]
pub(super) struct Elements<'r> {
    sides: [Vec<Element<'r>>; 2],
}

/// A member, a field with its value or a member with its score. In front stands what tells most of them apart, so that sorting them
/// need not look at their bytes.
type Element<'r> = (u64, &'r [u8], &'r [u8]);

/// The end of a text and its length: names of elements begin alike more often than they end alike.
#[inline]
fn ahead(text: &[u8]) -> u64 {
    match text.last_chunk::<8>() {
        Some(end) => u64::from_le_bytes(*end),
        None => text.iter().fold(text.len() as u64, |sum, &byte| sum << 8 | u64::from(byte)),
    }
}

/// What two replies to one question come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Glance {
    /// They have the same value.
    Equal,
    /// The value is not all there, or is not there at all.
    Unknown,
    Different,
}

impl<'r> Elements<'r> {
    /// Compares two values of a type, read as lists of at most `most` strings, or in the way of `SCAN`.
    pub(super) fn compare(
        &mut self,
        [source, target]: [&'r [u8]; 2],
        kind: Kind,
        scanned: bool,
        most: usize,
    ) -> Glance {
        if kind == Kind::String {
            return match [source, target].map(|reply| head(reply, b'$')) {
                [Some(_), Some(_)] if source == target => Glance::Equal,
                [Some(_), Some(_)] => Glance::Different,
                _ => Glance::Unknown,
            };
        }
        let Some((count, list)) = whole(source, scanned, most) else { return Glance::Unknown };
        if source == target {
            return Glance::Equal;
        }
        let Some((other, other_list)) = whole(target, scanned, most) else { return Glance::Unknown };
        if count != other || kind == Kind::List {
            return Glance::Different;
        }
        let pairs = kind != Kind::Set;
        for (side, list) in self.sides.iter_mut().zip([list, other_list]) {
            side.clear();
            let Some(mut strings) = Strings::of(list) else { return Glance::Unknown };
            while let Some(Some(first)) = strings.next() {
                let second = match pairs {
                    true => strings.next().flatten(),
                    false => Some(&b""[..]),
                };
                let Some(second) = second else { return Glance::Unknown };
                side.push((ahead(first), first, second));
            }
            if side.len() * if pairs { 2 } else { 1 } != count {
                return Glance::Unknown;
            }
            side.sort_unstable();
        }
        let [a, b] = &self.sides;
        let same = a.len() == b.len()
            && a.iter()
                .zip(b)
                .all(|(a, b)| a.1 == b.1 && (a.2 == b.2 || kind == Kind::SortedSet && same_score(a.2, b.2)));
        if same { Glance::Equal } else { Glance::Different }
    }
}

/// Whether two texts stand for one score: servers write them in more than one way.
fn same_score(a: &[u8], b: &[u8]) -> bool {
    let bits = |text| std::str::from_utf8(text).ok()?.parse::<f64>().ok().map(f64::to_bits);
    bits(a).is_some_and(|bits_a| Some(bits_a) == bits(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> String {
        let items: String = items.iter().map(|item| format!("${}\r\n{item}\r\n", item.len())).collect();
        format!("*{}\r\n{items}", items.matches("\r\n").count() / 2)
    }

    fn scan(cursor: &str, items: &[&str]) -> String {
        format!("*2\r\n${}\r\n{cursor}\r\n{}", cursor.len(), list(items))
    }

    fn compare(a: &str, b: &str, kind: Kind, scanned: bool) -> Glance {
        Elements::default().compare([a.as_bytes(), b.as_bytes()], kind, scanned, 4)
    }

    #[test]
    fn strings_of_a_list() {
        let frame = b"*3\r\n$1\r\na\r\n$-1\r\n$0\r\n\r\n";
        let all: Vec<_> = Strings::of(frame).unwrap().collect();
        assert_eq!(all, [Some(&b"a"[..]), None, Some(b"")]);
        assert_eq!(
            Strings::of(b"*2\r\n$1\r\n7\r\n*0\r\n").unwrap().pair(),
            Some((&b"7"[..], &b"*0\r\n"[..]))
        );
        assert!(Strings::of(frame).unwrap().pair().is_none());
        assert!(Strings::of(b"*2\r\n:1\r\n*0\r\n").unwrap().pair().is_none());
        assert!(Strings::of(b"$1\r\na\r\n").is_none() && Strings::of(b"*-1\r\n").is_none());
        assert!(Strings::of(b"-WRONGTYPE no\r\n").is_none());
        assert_eq!(Strings::of(b"*2\r\n:1\r\n:2\r\n").unwrap().count(), 0);
        assert_eq!(
            (integer(b":-2\r\n"), integer(b":1735689600000\r\n")),
            (Some(-2), Some(1_735_689_600_000))
        );
        assert_eq!((integer(b"$1\r\n2\r\n"), integer(b"-ERR\r\n")), (None, None));
        for number in [0, i64::MAX, i64::MIN, 7, -1] {
            assert_eq!(integer(format!(":{number}\r\n").as_bytes()), Some(number));
        }
        for wrong in [":\r\n", ":-\r\n", ":1x\r\n", ":9223372036854775808\r\n", ":--1\r\n"] {
            assert_eq!(integer(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn only_whole_values_are_equal() {
        let three = list(&["a", "b", "c"]);
        assert_eq!(compare(&three, &three, Kind::List, false), Glance::Equal);
        // As many as were asked for: perhaps there are more.
        let four = list(&["a", "b", "c", "d"]);
        assert_eq!(compare(&four, &four, Kind::List, false), Glance::Unknown);
        assert_eq!(compare(&three, &four, Kind::Set, false), Glance::Unknown);
        // Not there, or of another type.
        assert_eq!(compare("*0\r\n", "*0\r\n", Kind::List, false), Glance::Unknown);
        let wrong = "-WRONGTYPE it is not\r\n";
        assert_eq!(compare(wrong, wrong, Kind::Hash, false), Glance::Unknown);
        assert_eq!(compare(&three, wrong, Kind::List, false), Glance::Unknown);
        // A cursor that goes on.
        let (some, all) = (scan("7", &["a"]), scan("0", &["a"]));
        assert_eq!(compare(&some, &some, Kind::Set, true), Glance::Unknown);
        assert_eq!(compare(&all, &some, Kind::Set, true), Glance::Unknown);
        assert_eq!(compare(&all, &all, Kind::Set, true), Glance::Equal);
        let many = scan("0", &["a", "b", "c", "d", "e", "f"]);
        assert_eq!(compare(&many, &many, Kind::Set, true), Glance::Equal);
        let none = scan("0", &[]);
        assert_eq!(compare(&none, &none, Kind::Set, true), Glance::Unknown);
    }

    #[test]
    fn strings_are_there_on_both_sides_or_not_known() {
        let of = |a: &str, b: &str| compare(a, b, Kind::String, false);
        assert_eq!(of("$1\r\na\r\n", "$1\r\na\r\n"), Glance::Equal);
        assert_eq!(of("$0\r\n\r\n", "$0\r\n\r\n"), Glance::Equal);
        assert_eq!(of("$1\r\na\r\n", "$1\r\nb\r\n"), Glance::Different);
        for not in ["$-1\r\n", "-MOVED 1 h:1\r\n", "*1\r\n$1\r\na\r\n", ""] {
            assert_eq!(of(not, not), Glance::Unknown, "{not:?}");
            assert_eq!(of("$0\r\n\r\n", not), Glance::Unknown, "{not:?}");
            assert_eq!(of(not, "$0\r\n\r\n"), Glance::Unknown, "{not:?}");
        }
    }

    #[test]
    fn order_counts_in_lists_only() {
        let of = |kind, a: &[&str], b: &[&str]| compare(&scan("0", a), &scan("0", b), kind, true);
        assert_eq!(of(Kind::List, &["a", "b"], &["b", "a"]), Glance::Different);
        assert_eq!(of(Kind::Set, &["a", "b"], &["b", "a"]), Glance::Equal);
        assert_eq!(of(Kind::Set, &["a", "b"], &["b", "c"]), Glance::Different);
        assert_eq!(of(Kind::Set, &["a", "b"], &["b"]), Glance::Different);
        assert_eq!(of(Kind::Hash, &["a", "1", "b", "2"], &["b", "2", "a", "1"]), Glance::Equal);
        assert_eq!(of(Kind::Hash, &["a", "1", "b", "2"], &["a", "2", "b", "1"]), Glance::Different);
        assert_eq!(of(Kind::Hash, &["a", "b"], &["b", "a"]), Glance::Different);
        // Half a pair.
        assert_eq!(of(Kind::Hash, &["a", "1", "b"], &["b", "1", "a"]), Glance::Unknown);
    }

    #[test]
    fn scores_are_equal_by_their_bits() {
        let of =
            |a: &str, b: &str| compare(&scan("0", &["m", a]), &scan("0", &["m", b]), Kind::SortedSet, true);
        assert_eq!(of("3.14", "3.1400000000000001"), Glance::Equal);
        assert_eq!(of("1e21", "1000000000000000000000"), Glance::Equal);
        assert_eq!(of("inf", "inf"), Glance::Equal);
        assert_eq!(of("0", "-0"), Glance::Different);
        assert_eq!(of("3.14", "3.1400000000000006"), Glance::Different);
        assert_eq!(of("x", "y"), Glance::Different);
        // Values of hashes are texts.
        let hash = |value: &str| scan("0", &["m", value]);
        assert_eq!(compare(&hash("1.0"), &hash("1"), Kind::Hash, true), Glance::Different);
    }
}
