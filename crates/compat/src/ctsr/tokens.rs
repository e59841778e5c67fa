//! How the original's runner makes arguments of a line.

/// The arguments of a line of a case without `command_binary`.
///
/// `"` begins and ends quoting, anywhere, and is dropped; nothing escapes it. A space outside of quotes ends an argument,
/// so two of them make an empty one, and so does one at the end. Nothing else is special. The first argument is split again
/// at white space, and vanishes if it is empty.
pub(crate) fn text(line: &str) -> Vec<Vec<u8>> {
    first_again(tokens(line.as_bytes()))
}

/// The arguments of a line with `command_binary`: unescaped as a whole first, then split as above.
///
/// # Errors
///
/// For a backslash at the end, for characters above 255, and for a first argument that is not UTF-8.
pub(crate) fn binary(line: &str) -> Result<Vec<Vec<u8>>, String> {
    let tokens = tokens(&unescape(line)?);
    if let Some(first) = tokens.first()
        && std::str::from_utf8(first).is_err()
    {
        return Err("the command's name is not UTF-8".to_owned());
    }
    Ok(first_again(tokens))
}

fn tokens(line: &[u8]) -> Vec<Vec<u8>> {
    let mut tokens = vec![Vec::new()];
    let mut quoted = false;
    for &byte in line {
        match byte {
            b'"' => quoted = !quoted,
            b' ' if !quoted => tokens.push(Vec::new()),
            _ => {
                if let Some(last) = tokens.last_mut() {
                    last.push(byte);
                }
            }
        }
    }
    tokens
}

fn first_again(mut tokens: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    if tokens.is_empty() {
        return tokens;
    }
    let first = tokens.remove(0);
    // Python's idea of white space in bytes.
    let words = first.split(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c));
    let mut all: Vec<Vec<u8>> = words.filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect();
    all.append(&mut tokens);
    all
}

fn unescape(line: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    let byte = |c: char| u8::try_from(u32::from(c)).map_err(|_| format!("{c:?} is above 255"));
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(byte(c)?);
            continue;
        }
        let Some(&next) = chars.peek() else { return Err("a backslash at the end".to_owned()) };
        let simple = match next {
            '\\' => Some(0x5c),
            '"' => Some(0x22),
            'n' => Some(0x0a),
            'r' => Some(0x0d),
            't' => Some(0x09),
            'a' => Some(0x07),
            'b' => Some(0x08),
            _ => None,
        };
        if let Some(simple) = simple {
            chars.next();
            out.push(simple);
            continue;
        }
        if next == 'x' {
            let mut ahead = chars.clone();
            ahead.next();
            let digits =
                (ahead.next().and_then(|c| c.to_digit(16)), ahead.next().and_then(|c| c.to_digit(16)));
            if let (Some(high), Some(low)) = digits
                && let Ok(value) = u8::try_from(high * 16 + low)
            {
                out.push(value);
                chars = ahead;
                continue;
            }
        }
        // Any other backslash stays, and what follows is taken as it is.
        out.push(b'\\');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(tokens: &[Vec<u8>]) -> Vec<String> {
        tokens.iter().map(|token| token.escape_ascii().to_string()).collect()
    }

    #[test]
    fn text_mode() {
        for (line, expected) in [
            ("set k v", &["set", "k", "v"][..]),
            ("set k \"a b\"", &["set", "k", "a b"]),
            ("set k a\"b c\"d", &["set", "k", "ab cd"]),
            ("set k  v ", &["set", "k", "", "v", ""]),
            ("set k \"\"", &["set", "k", ""]),
            ("set k 'a b'", &["set", "k", "\\'a", "b\\'"]),
            ("set k \\xff\\n", &["set", "k", "\\\\xff\\\\n"]),
            ("function load \"a\nb\"", &["function", "load", "a\\nb"]),
            ("set k a\tb", &["set", "k", "a\\tb"]),
            ("\"config get\" x", &["config", "get", "x"]),
            (" set k", &["set", "k"]),
            ("set \"k", &["set", "k"]),
            ("set k é", &["set", "k", "\\xc3\\xa9"]),
        ] {
            assert_eq!(texts(&text(line)), expected, "{line}");
        }
    }

    #[test]
    fn binary_mode() {
        for (line, expected) in [
            ("set k \\xff\\x00", &["set", "k", "\\xff\\x00"][..]),
            ("set k \\n\\r\\t\\a\\b", &["set", "k", "\\n\\r\\t\\x07\\x08"]),
            // Unescaping comes first: an escaped space splits, an escaped quote quotes.
            ("set k a\\x20b", &["set", "k", "a", "b"]),
            ("set k \\\"a b\\x22", &["set", "k", "a b"]),
            ("set k \\\\x41", &["set", "k", "\\\\x41"]),
            ("set k \\q\\xZ1", &["set", "k", "\\\\q\\\\xZ1"]),
            ("set k é", &["set", "k", "\\xe9"]),
        ] {
            assert_eq!(texts(&binary(line).unwrap()), expected, "{line}");
        }
        for wrong in ["set k \\", "set k €", "\\xff k"] {
            assert!(binary(wrong).is_err(), "{wrong}");
        }
    }
}
