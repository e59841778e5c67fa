//! The manifest of a multi-part append-only file (Redis 7.0, Valkey).

use crate::error::Error;

/// The longest line, its end included.
const MAX_LINE: usize = 1024;

/// The files that make up a log.
///
/// ```
/// use keyferry_rdb::aof::Manifest;
///
/// let text = b"file a.aof.1.base.rdb seq 1 type b\nfile a.aof.1.incr.aof seq 1 type i\n";
/// let manifest = Manifest::parse(text)?;
/// assert_eq!(manifest.base.as_ref().map(|file| &*file.name), Some("a.aof.1.base.rdb"));
/// assert_eq!(manifest.to_bytes(), text);
/// # Ok::<(), keyferry_rdb::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Manifest {
    /// The file to start from; without one the log starts from nothing.
    pub base: Option<ManifestFile>,
    /// Files that a rewrite has replaced. Servers do not load them, and they may be gone.
    pub history: Vec<ManifestFile>,
    /// The files to be replayed after the base, in this order.
    pub incremental: Vec<ManifestFile>,
}

/// A file of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestFile {
    /// Its name, in the directory of the manifest.
    pub name: String,
    /// Its number, from 1.
    pub seq: u64,
    /// The replication offset at which it starts (Redis 8).
    pub start_offset: Option<u64>,
    /// The replication offset at which it ends (Redis 8).
    pub end_offset: Option<u64>,
}

impl ManifestFile {
    /// A file of this name and number.
    pub fn new(name: impl Into<String>, seq: u64) -> Self {
        Self { name: name.into(), seq, start_offset: None, end_offset: None }
    }
}

impl Manifest {
    /// Reads the text of a manifest.
    ///
    /// # Errors
    ///
    /// [`Error::Manifest`] with the line, for all that servers refuse: lines that are blank, too long or without an
    /// end, names with a directory in them, numbers that do not rise, two bases, nothing at all.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut manifest = Self::default();
        let mut number = 0;
        let mut rest = text;
        let mut files = 0;
        while !rest.is_empty() {
            number += 1;
            let fault = |what| Error::Manifest { line: number, what };
            let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(|| fault("it has no end"))?;
            if end + 1 > MAX_LINE {
                return Err(fault("it is too long"));
            }
            let line = rest[..end].trim_ascii();
            rest = &rest[end + 1..];
            if line.first() == Some(&b'#') {
                continue;
            }
            manifest.add(line).map_err(fault)?;
            files += 1;
        }
        if files == 0 {
            return Err(Error::Manifest { line: number, what: "it names no file" });
        }
        Ok(manifest)
    }

    /// Its text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let groups = [(self.base.as_slice(), "b"), (&self.history, "h"), (&self.incremental, "i")];
        for (files, ty) in groups {
            for file in files {
                out.extend_from_slice(b"file ");
                push_quoted(&mut out, &file.name);
                out.extend_from_slice(format!(" seq {} type {ty}", file.seq).as_bytes());
                if let Some(offset) = file.start_offset {
                    out.extend_from_slice(format!(" startoffset {offset}").as_bytes());
                }
                if let Some(offset) = file.end_offset {
                    out.extend_from_slice(format!(" endoffset {offset}").as_bytes());
                }
                out.push(b'\n');
            }
        }
        out
    }

    /// The files to load, in order.
    pub fn files(&self) -> impl Iterator<Item = &ManifestFile> {
        self.base.iter().chain(&self.incremental)
    }

    fn add(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let words = words(line)?;
        if words.len() < 6 || words.len() % 2 != 0 {
            return Err("it is not made of at least three pairs");
        }
        let number = |word: &[u8]| {
            let text = std::str::from_utf8(word).map_err(|_| "a number is none")?;
            text.parse::<u64>().map_err(|_| "a number is none")
        };
        let (mut name, mut seq, mut ty) = (None, 0, None);
        let (mut start_offset, mut end_offset) = (None, None);
        for pair in words.chunks_exact(2) {
            let [key, value] = pair else { continue };
            match &*key.to_ascii_lowercase() {
                b"file" => name = Some(value),
                b"seq" => seq = number(value)?,
                b"type" => ty = value.first(),
                b"startoffset" => start_offset = Some(number(value)?),
                b"endoffset" => end_offset = Some(number(value)?),
                _ => {}
            }
        }
        let name = name.ok_or("it names no file")?;
        let name = std::str::from_utf8(name).map_err(|_| "a file name is not UTF-8")?;
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
            return Err("a file name has a directory in it, or is none");
        }
        if seq == 0 {
            return Err("it has no number, or number 0");
        }
        let file = ManifestFile { name: name.to_owned(), seq, start_offset, end_offset };
        match ty {
            Some(b'b') if self.base.is_some() => return Err("it names a second base"),
            Some(b'b') => self.base = Some(file),
            Some(b'h') => self.history.push(file),
            Some(b'i') => {
                if self.incremental.last().is_some_and(|last| last.seq >= seq) {
                    return Err("the numbers of incremental files do not rise");
                }
                self.incremental.push(file);
            }
            _ => return Err("its type is none of b, h and i"),
        }
        Ok(())
    }
}

/// Words between blanks, quotes and escapes taken off.
fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    const OPEN: &str = "a quoted word does not end";
    let mut words = Vec::new();
    let mut rest = line.trim_ascii_start();
    while let Some(&first) = rest.first() {
        let mut word = Vec::new();
        if !matches!(first, b'"' | b'\'') {
            let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
            word.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        } else {
            rest = &rest[1..];
            loop {
                rest = match (first, rest) {
                    (b'"', [b'\\', b'x', high, low, tail @ ..])
                        if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
                    {
                        let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
                        word.push(digit(*high) << 4 | digit(*low));
                        tail
                    }
                    (b'"', [b'\\', escaped, tail @ ..]) => {
                        word.push(match escaped {
                            b'n' => b'\n',
                            b'r' => b'\r',
                            b't' => b'\t',
                            b'b' => 8,
                            b'a' => 7,
                            other => *other,
                        });
                        tail
                    }
                    (b'\'', [b'\\', b'\'', tail @ ..]) => {
                        word.push(b'\'');
                        tail
                    }
                    (quote, [byte, tail @ ..]) if *byte == quote => {
                        rest = tail;
                        break;
                    }
                    (_, [byte, tail @ ..]) => {
                        word.push(*byte);
                        tail
                    }
                    (_, []) => return Err(OPEN),
                };
            }
            if rest.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                return Err("a quoted word goes on after its end");
            }
        }
        words.push(word);
        rest = rest.trim_ascii_start();
    }
    Ok(words)
}

/// A name as servers write it: in quotes where it needs them.
fn push_quoted(out: &mut Vec<u8>, name: &str) {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\') || byte >= 0x80;
    if name.bytes().all(plain) {
        return out.extend_from_slice(name.as_bytes());
    }
    out.push(b'"');
    for byte in name.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 | 0x7F => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_as_servers_write_them() {
        let text = b"# made by hand\nfile a.2.base.rdb seq 2 type b\nseq 1 TYPE h file a.1.incr.aof\n\
            file a.3.incr.aof seq 3 type i future 'x y'\nfile \"a\\x20b.4\" seq 4 type i startoffset 1108\n";
        let manifest = Manifest::parse(text).unwrap();
        let names: Vec<_> = manifest.files().map(|file| (&*file.name, file.seq)).collect();
        assert_eq!(names, [("a.2.base.rdb", 2), ("a.3.incr.aof", 3), ("a b.4", 4)]);
        assert_eq!(manifest.history, [ManifestFile::new("a.1.incr.aof", 1)]);
        assert_eq!(manifest.incremental[1].start_offset, Some(1108));
    }

    #[test]
    fn what_servers_refuse() {
        let long = format!("file {} seq 1 type i\n", "x".repeat(1024));
        for (text, line) in [
            ("", 0),
            ("# nothing\n", 1),
            ("file a seq 1 type i", 1),
            ("file a seq 1 type i\n\n", 2),
            ("file a/b seq 1 type i\n", 1),
            ("file .. seq 1 type i\n", 1),
            ("file a seq 0 type i\n", 1),
            ("file a seq 1 type x\n", 1),
            ("file a seq 1 type\n", 1),
            ("file a seq 1 type b\nfile b seq 2 type b\n", 2),
            ("file a seq 2 type i\nfile b seq 2 type i\n", 2),
            ("file \"a seq 1 type i\n", 1),
            ("file \"a\"b seq 1 type i\n", 1),
            (&long, 1),
        ] {
            let found = Manifest::parse(text.as_bytes());
            assert!(
                matches!(found, Err(Error::Manifest { line: at, .. }) if at == line),
                "{text}: {found:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn text_reads_back(names in prop::collection::vec("[^/\\\\\0]{1,20}", 1..5)) {
            let names: Vec<_> = names.into_iter().filter(|name| name != "." && name != "..").collect();
            prop_assume!(!names.is_empty());
            let mut manifest = Manifest::default();
            for (name, seq) in names.into_iter().zip(1..) {
                manifest.incremental.push(ManifestFile::new(name, seq));
            }
            prop_assert_eq!(Manifest::parse(&manifest.to_bytes()), Ok(manifest));
        }

        #[test]
        fn any_bytes_are_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::parse(&text);
        }
    }
}
