//! Commands as cases write them: one line, split as `redis-cli` splits it, with names for keys and for values.

use std::collections::BTreeMap;

use keyferry_resp::CommandDecoder;

/// The most bytes that `${N*text}` may become.
const MOST_REPEATED: usize = 64 << 20;

/// What the names in a case stand for on one server.
///
/// | written | becomes |
/// | --- | --- |
/// | `$name` | a key of this case, below the scratch prefix; all of them have one hash tag |
/// | `$/name` | a key of this case in another slot than the others |
/// | `${name}` | what a step kept as `name`; `${run}` is a word that no other case has, `${database}` the number of the database |
/// | `${N*text}` | the text N times |
/// | `$$` | `$` |
///
/// A `$` before anything else is itself.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    prefix: String,
    other: String,
    kept: BTreeMap<String, Vec<u8>>,
}

impl Names {
    pub(crate) fn new(prefix: String, other: String, run: &str) -> Self {
        let kept = BTreeMap::from([("run".to_owned(), run.as_bytes().to_vec())]);
        Self { prefix, other, kept }
    }

    /// What stands before `name` in `$name`.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What stands before `name` in `$/name`.
    pub(crate) fn other(&self) -> &str {
        &self.other
    }

    pub(crate) fn keep(&mut self, name: &str, value: Vec<u8>) {
        self.kept.insert(name.to_owned(), value);
    }

    /// The text with its names replaced. `None` says which name stands for nothing yet.
    pub(crate) fn expand(&self, text: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::with_capacity(text.len() + self.prefix.len());
        for piece in pieces(text) {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Key(name) => {
                    out.extend_from_slice(self.prefix.as_bytes());
                    out.extend_from_slice(name);
                }
                Piece::OtherKey(name) => {
                    out.extend_from_slice(self.other.as_bytes());
                    out.extend_from_slice(name);
                }
                Piece::Kept(name) => match self.kept.get(name) {
                    Some(value) => out.extend_from_slice(value),
                    None => return Err(format!("nothing is kept as ${{{name}}}")),
                },
                Piece::Repeated(count, text) => {
                    for _ in 0..count {
                        out.extend_from_slice(text);
                    }
                }
            }
        }
        Ok(out)
    }

    /// The bytes with what these names stand for written as names, as far as they are text.
    pub(crate) fn contract(&self, bytes: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut text = text.replace('$', "$$");
        for (name, value) in &self.kept {
            if let Ok(value) = std::str::from_utf8(value)
                && value.len() > 8
            {
                text = text.replace(value, &format!("${{{name}}}"));
            }
        }
        Some(text.replace(&self.other, "$/").replace(&self.prefix, "$"))
    }

    /// The same for people.
    pub(crate) fn shorten(&self, text: &str) -> String {
        text.replace(&self.other, "$/").replace(&self.prefix, "$")
    }
}

/// A part of a text in a case.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Text(&'a [u8]),
    Key(&'a [u8]),
    OtherKey(&'a [u8]),
    Kept(&'a str),
    Repeated(usize, &'a [u8]),
}

/// The parts of a text.
pub(crate) fn pieces(text: &[u8]) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&byte| byte == b'$') {
        let (before, behind) = (&rest[..at], &rest[at + 1..]);
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        let (piece, used) = match behind {
            [b'$', ..] => (Piece::Text(b"$"), 1),
            [b'{', ..] => braced(behind).unwrap_or((Piece::Text(b"$"), 0)),
            [b'/', first, ..] if is_name(*first) => {
                let name = name(&behind[1..]);
                (Piece::OtherKey(name), 1 + name.len())
            }
            [first, ..] if first.is_ascii_alphabetic() => {
                let name = name(behind);
                (Piece::Key(name), name.len())
            }
            _ => (Piece::Text(b"$"), 0),
        };
        pieces.push(piece);
        rest = &behind[used..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

/// What stands in braces, and how many bytes it takes with them.
fn braced(text: &[u8]) -> Option<(Piece<'_>, usize)> {
    let end = text.iter().position(|&byte| byte == b'}')?;
    let inside = &text[1..end];
    if let Some(star) = inside.iter().position(|&byte| byte == b'*')
        && let Some(count) = std::str::from_utf8(&inside[..star]).ok().and_then(|n| n.parse::<usize>().ok())
    {
        let text = &inside[star + 1..];
        let count = if text.is_empty() { 0 } else { count.min(MOST_REPEATED / text.len()) };
        return Some((Piece::Repeated(count, text), end + 1));
    }
    let name = std::str::from_utf8(inside).ok()?;
    let fits = !name.is_empty() && name.bytes().all(is_name);
    fits.then_some((Piece::Kept(name), end + 1))
}

fn name(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|&byte| !is_name(byte)).unwrap_or(text.len());
    &text[..end]
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Splits a command as `redis-cli` does: blanks, `"…"` with `\n \r \t \b \a \\ \" \xHH`, `'…'` with `\'`.
pub(crate) fn split(line: &str) -> Result<Vec<Vec<u8>>, String> {
    if line.contains(['\n', '\r', '\0']) {
        return Err("a command is one line: write \\n, \\r or \\x00 between double quotes".to_owned());
    }
    if line.starts_with('*') {
        return Err("a command does not begin with *".to_owned());
    }
    let mut bytes = bytes::BytesMut::from(line.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    match CommandDecoder::new().decode(&mut bytes) {
        Ok(Some(command)) => Ok(command.args().map(<[u8]>::to_vec).collect()),
        Ok(None) => Err("a command has at least a name".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether two words are the same but for capitals.
pub(crate) fn is(word: Option<&Vec<u8>>, name: &str) -> bool {
    word.is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new("p:{1}:".to_owned(), "p:{2}:".to_owned(), "r1")
    }

    #[test]
    fn names_are_replaced_and_found_again() {
        let mut names = names();
        names.keep("id", b"1-1\xff".to_vec());
        for (text, expected) in [
            ("$k", &b"p:{1}:k"[..]),
            ("a$k:b$/x-$", b"a" as &[u8]),
            ("$", b"$"),
            ("$1", b"$1"),
            ("$$k", b"$k"),
            ("${id}", b"1-1\xff"),
            ("${run}", b"r1"),
            ("${3*ab}", b"ababab"),
            ("${0*ab}", b""),
            ("${", b"${"),
            ("${}", b"${}"),
        ] {
            let expanded = names.expand(text.as_bytes()).unwrap();
            if text.starts_with('a') {
                assert_eq!(expanded, b"ap:{1}:k:bp:{2}:x-$");
            } else {
                assert_eq!(expanded, expected, "{text}");
            }
        }
        assert!(names.expand(b"${nothing}").unwrap_err().contains("${nothing}"));
        assert_eq!(names.contract(b"x p:{1}:k $ p:{2}:z").as_deref(), Some("x $k $$ $/z"));
        assert_eq!(names.contract(b"\xff"), None);
    }

    #[test]
    fn repetition_is_bounded() {
        let text = b"${99999999999999*abc}";
        assert!(matches!(pieces(text)[..], [Piece::Repeated(count, b"abc")] if count * 3 <= MOST_REPEATED));
    }

    #[test]
    fn commands_are_split_as_a_shell_for_servers_splits_them() {
        assert_eq!(split("SET k \"a\\x00\\n b\"").unwrap(), [&b"SET"[..], b"k", b"a\0\n b"]);
        assert!(split("ECHO 'it''s'").is_err());
        assert_eq!(split("ECHO \"\"").unwrap(), [&b"ECHO"[..], b""]);
        assert!(split("").is_err() && split("a\nb").is_err() && split("*1").is_err());
    }
}
