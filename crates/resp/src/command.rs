use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::{Bytes, BytesMut};

use crate::encode;

/// Where an argument is, in bytes from the start of what holds it. Commands are limited to 4 GiB - 1 so that this
/// is eight bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span(u64);

impl Span {
    /// Both are below 4 GiB: the limits of the decoder see to that.
    #[inline(always)]
    pub(crate) fn new(start: usize, len: usize) -> Self {
        // One word, as two halves written apart are slow to read back as one.
        Self(start as u64 | (len as u64) << 32)
    }

    #[inline(always)]
    pub(crate) fn range(self) -> std::ops::Range<usize> {
        let start = (self.0 & 0xffff_ffff) as usize;
        start..start + (self.0 >> 32) as usize
    }

    #[inline(always)]
    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.range()).unwrap_or_default()
    }
}

/// A request: its arguments, and the bytes that it arrived in.
///
/// The first argument is the name. A command that was decoded is forwarded byte for byte by writing
/// [`raw`](Self::raw); one that is made here with [`new`](Self::new) has the array form as its bytes. Cloning is
/// cheap: the bytes are shared.
///
/// Two commands are equal if their arguments are, however they were written. `Debug` hides the arguments of commands
/// that carry passwords.
///
/// ```
/// use keyferry_resp::Command;
///
/// let set = Command::new(["set", "key", "value"]);
/// assert!(set.is("SET"));
/// assert_eq!(set.arg(1), Some(&b"key"[..]));
/// assert_eq!(set.raw(), "*3\r\n$3\r\nset\r\n$3\r\nkey\r\n$5\r\nvalue\r\n");
/// ```
#[derive(Clone)]
pub struct Command {
    raw: Bytes,
    spans: Spans,
}

#[derive(Clone)]
enum Spans {
    /// The arguments lie in `raw`, and are few.
    Few(u64, [Span; FEW]),
    /// The arguments lie in `raw`.
    Many(Box<[Span]>),
    /// An inline command with quotes: the arguments lie here.
    Unquoted(Bytes, Box<[Span]>),
}

/// Arguments that need no allocation: enough for `SET k v PX ms`.
const FEW: usize = 5;

impl Command {
    /// A command of these arguments, the name first, in the array form.
    ///
    /// # Panics
    ///
    /// If the encoded command has 4 GiB or more.
    pub fn new<I>(args: I) -> Self
    where
        I: IntoIterator<IntoIter: ExactSizeIterator, Item: AsRef<[u8]>>,
    {
        let args = args.into_iter();
        let mut raw = BytesMut::with_capacity(16 + args.len() * 24);
        let mut spans = Vec::with_capacity(args.len());
        encode::encode_args(&mut raw, args, |start, len| spans.push((start, len)));
        assert!(u32::try_from(raw.len()).is_ok(), "a command has less than 4 GiB");
        let spans: Vec<Span> = spans.into_iter().map(|(start, len)| Span::new(start, len)).collect();
        Self::from_wire(raw.freeze(), &spans)
    }

    /// A command whose arguments lie in `raw` at `spans`.
    #[inline]
    pub(crate) fn from_wire(raw: Bytes, spans: &[Span]) -> Self {
        if spans.len() > FEW {
            return Self { raw, spans: Spans::Many(spans.into()) };
        }
        let few = std::array::from_fn(|i| spans.get(i).copied().unwrap_or_default());
        Self { raw, spans: Spans::Few(spans.len() as u64, few) }
    }

    /// A command whose arguments lie in `text`, not in `raw`.
    pub(crate) fn from_unquoted(raw: Bytes, text: Bytes, spans: &[Span]) -> Self {
        Self { raw, spans: Spans::Unquoted(text, spans.into()) }
    }

    /// The bytes of the command as they arrived, without blank lines before it.
    #[inline]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Like [`raw`](Self::raw), by value.
    pub fn into_raw(self) -> Bytes {
        self.raw
    }

    /// The first argument, in the letter case that it was sent in. Empty if there are no arguments, which no decoder
    /// gives.
    #[inline]
    pub fn name(&self) -> &[u8] {
        self.arg(0).unwrap_or_default()
    }

    /// Whether this is the name, in any letter case.
    #[inline]
    pub fn is(&self, name: impl AsRef<[u8]>) -> bool {
        self.name().eq_ignore_ascii_case(name.as_ref())
    }

    /// How many arguments there are, the name included.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a command has at least its name")]
    pub fn len(&self) -> usize {
        self.spans().len()
    }

    /// Argument `index`; 0 is the name.
    #[inline]
    pub fn arg(&self, index: usize) -> Option<&[u8]> {
        self.spans().get(index).map(|span| span.of(self.holder()))
    }

    /// Argument `index` as a slice that shares the command's memory.
    pub fn arg_bytes(&self, index: usize) -> Option<Bytes> {
        Some(self.holder().slice(self.spans().get(index)?.range()))
    }

    /// All arguments, the name first.
    #[inline]
    pub fn args(&self) -> Args<'_> {
        Args { holder: self.holder(), spans: self.spans().iter() }
    }

    /// The command as a borrowed view.
    pub fn as_ref(&self) -> CommandRef<'_> {
        CommandRef { raw: &self.raw, holder: self.holder(), spans: self.spans(), skipped: 0 }
    }

    #[inline]
    fn spans(&self) -> &[Span] {
        match &self.spans {
            Spans::Few(len, few) => few.get(..*len as usize).unwrap_or_default(),
            Spans::Many(spans) | Spans::Unquoted(_, spans) => spans,
        }
    }

    #[inline]
    fn holder(&self) -> &Bytes {
        match &self.spans {
            Spans::Unquoted(text, _) => text,
            _ => &self.raw,
        }
    }
}

impl PartialEq for Command {
    fn eq(&self, other: &Self) -> bool {
        self.args().eq(other.args())
    }
}

impl Eq for Command {}

impl Hash for Command {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.len().hash(state);
        self.args().for_each(|arg| arg.hash(state));
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

/// A request that lies in a buffer: what [`CommandDecoder::next_ref`](crate::CommandDecoder::next_ref) gives.
///
/// It has no bytes of its own and costs no allocation. `Debug` hides the arguments of commands that carry passwords.
#[derive(Clone, Copy)]
pub struct CommandRef<'a> {
    pub(crate) raw: &'a [u8],
    /// `raw` begins here, or it is the text of an unquoted inline command.
    pub(crate) holder: &'a [u8],
    pub(crate) spans: &'a [Span],
    pub(crate) skipped: usize,
}

impl<'a> CommandRef<'a> {
    /// The bytes of the command as they arrived, without blank lines before it.
    #[inline]
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Bytes of blank lines and empty arrays in front of the command.
    #[inline]
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Bytes of the input up to the end of this command: what the caller drops before it asks for the next one.
    #[inline]
    pub fn consumed(&self) -> usize {
        self.skipped + self.raw.len()
    }

    /// The first argument, in the letter case that it was sent in.
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        self.arg(0).unwrap_or_default()
    }

    /// Whether this is the name, in any letter case.
    #[inline]
    pub fn is(&self, name: impl AsRef<[u8]>) -> bool {
        self.name().eq_ignore_ascii_case(name.as_ref())
    }

    /// How many arguments there are, the name included.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a command has at least its name")]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Argument `index`; 0 is the name.
    #[inline]
    pub fn arg(&self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|span| span.of(self.holder))
    }

    /// All arguments, the name first.
    #[inline]
    pub fn args(&self) -> Args<'a> {
        Args { holder: self.holder, spans: self.spans.iter() }
    }

    /// A command with a copy of the bytes.
    pub fn to_owned(&self) -> Command {
        let raw = Bytes::copy_from_slice(self.raw);
        if std::ptr::eq(self.holder.as_ptr(), self.raw.as_ptr()) {
            Command::from_wire(raw, self.spans)
        } else {
            Command::from_unquoted(raw, Bytes::copy_from_slice(self.holder), self.spans)
        }
    }
}

impl fmt::Debug for CommandRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ARGS: usize = 16;
        const BYTES: usize = 64;
        let secret = carries_secret(self.name());
        write!(f, "Command(")?;
        for (i, arg) in self.args().enumerate().take(ARGS) {
            let gap = if i == 0 { "" } else { " " };
            let dots = if arg.len() > BYTES { "…" } else { "" };
            match arg.get(..BYTES.min(arg.len())) {
                Some(_) if secret && i > 0 => write!(f, "{gap}***")?,
                Some(shown) => write!(f, "{gap}\"{}\"{dots}", shown.escape_ascii())?,
                None => {}
            }
        }
        if self.len() > ARGS {
            write!(f, " … {} more", self.len() - ARGS)?;
        }
        write!(f, ")")
    }
}

/// The arguments of a command, from [`Command::args`] or [`CommandRef::args`].
#[derive(Clone)]
pub struct Args<'a> {
    holder: &'a [u8],
    spans: std::slice::Iter<'a, Span>,
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        self.spans.next().map(|span| span.of(self.holder))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.spans.size_hint()
    }

    fn nth(&mut self, n: usize) -> Option<&'a [u8]> {
        self.spans.nth(n).map(|span| span.of(self.holder))
    }
}

impl DoubleEndedIterator for Args<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.spans.next_back().map(|span| span.of(self.holder))
    }
}

impl ExactSizeIterator for Args<'_> {}

impl std::iter::FusedIterator for Args<'_> {}

impl fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Args({} left)", self.len())
    }
}

/// Whether arguments of this command may be passwords.
fn carries_secret(name: &[u8]) -> bool {
    [&b"AUTH"[..], b"HELLO", b"ACL", b"CONFIG", b"MIGRATE", b"SENTINEL"]
        .iter()
        .any(|secret| name.eq_ignore_ascii_case(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_arguments() {
        for count in [1, FEW, FEW + 1, 300] {
            let args: Vec<String> = (0..count).map(|i| format!("arg{i}")).collect();
            let command = Command::new(&args);
            assert_eq!(command.len(), count);
            assert!(command.args().eq(args.iter().map(String::as_bytes)));
            assert_eq!(command.args().next_back(), args.last().map(String::as_bytes));
            assert_eq!(command.arg(count), None);
            assert_eq!(command.arg_bytes(count - 1).as_deref(), args.last().map(String::as_bytes));
            assert_eq!(command.as_ref().to_owned(), command);
        }
    }

    #[test]
    fn debug_hides_passwords_and_shortens() {
        let shown = format!("{:?}", Command::new(["AUTH", "user", "hunter2"]));
        assert_eq!(shown, "Command(\"AUTH\" *** ***)");
        let long = vec![b'x'; 100];
        let shown = format!("{:?}", Command::new([b"SET", &b"\xff"[..], &long]));
        assert!(shown.starts_with(r#"Command("SET" "\xff" "xxx"#) && shown.len() < 100, "{shown}");
    }

    #[test]
    fn a_command_is_small() {
        assert!(size_of::<Command>() <= 88, "{}", size_of::<Command>());
    }
}
