//! Where a snapshot begins and ends on the wire.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

/// Length of the mark that ends a snapshot of unknown length.
pub const MARK_LEN: usize = 40;

/// A header line longer than this is not one.
const MAX_LINE: usize = 64 * 1024;

/// How a snapshot is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transfer {
    /// `$<length>`: so many bytes, and nothing after them.
    Length(u64),
    /// `$EOF:<mark>`: until these 40 bytes come again.
    UntilMark([u8; MARK_LEN]),
}

/// A piece of a snapshot's framing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Piece {
    /// The header line has been read.
    Start(Transfer),
    /// Bytes of the RDB.
    Data(Bytes),
    /// The snapshot is over; what follows in the buffer is the command stream.
    End,
}

/// Why a snapshot's framing cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FramingFault {
    /// The server says that it failed (`-ERR …` instead of a header).
    #[error("{0}")]
    ServerError(String),
    /// The header is neither `$<length>` nor `$EOF:<mark>`.
    #[error("not a snapshot header: {0:?}")]
    BadHeader(String),
}

/// Finds the snapshot in what follows `+FULLRESYNC`: keep-alive newlines, a header, the RDB, its end
/// (`replication.md` §3).
///
/// The closing mark of a `$EOF:` transfer may be split over any reads; bytes that could be its beginning are
/// held back until that is settled, and no byte is looked at more than once but for those.
///
/// ```
/// use bytes::BytesMut;
/// use keyferry_replication::snapshot::{Piece, SnapshotFraming, Transfer};
///
/// let mut framing = SnapshotFraming::new();
/// let mut buf = BytesMut::from(&b"\n\n$5\r\nREDIS*1\r\n"[..]);
/// assert_eq!(framing.next(&mut buf)?, Some(Piece::Start(Transfer::Length(5))));
/// assert_eq!(framing.next(&mut buf)?, Some(Piece::Data("REDIS".into())));
/// assert_eq!(framing.next(&mut buf)?, Some(Piece::End));
/// assert_eq!(&buf[..], b"*1\r\n");
/// # Ok::<(), keyferry_replication::snapshot::FramingFault>(())
/// ```
#[derive(Debug)]
pub struct SnapshotFraming {
    state: State,
    /// Bytes of the RDB given out so far.
    received: u64,
}

#[derive(Debug)]
enum State {
    Header { searched: usize },
    Length { left: u64 },
    Mark { finder: Box<memmem::Finder<'static>> },
    MarkFound,
    Done,
}

impl Default for SnapshotFraming {
    fn default() -> Self {
        Self::new()
    }
}

impl SnapshotFraming {
    /// Waits for a header.
    #[must_use]
    pub fn new() -> Self {
        SnapshotFraming { state: State::Header { searched: 0 }, received: 0 }
    }

    /// Bytes of the RDB given out so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// True before the header has been read.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Header { .. })
    }

    /// True after [`Piece::End`].
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The next piece from the front of `buf`; `None` when more bytes are needed, and after the end.
    ///
    /// # Errors
    /// When the server reports a failure or the header is not one.
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Option<Piece>, FramingFault> {
        self.next_up_to(buf, usize::MAX)
    }

    /// The same with at most so many bytes of the RDB.
    pub(crate) fn next_up_to(
        &mut self,
        buf: &mut BytesMut,
        most: usize,
    ) -> Result<Option<Piece>, FramingFault> {
        match &mut self.state {
            State::Header { searched } => {
                while *searched == 0 && buf.first() == Some(&b'\n') {
                    buf.advance(1);
                }
                let Some(end) = buf[*searched..].iter().position(|&b| b == b'\n').map(|i| i + *searched)
                else {
                    *searched = buf.len();
                    return if buf.len() > MAX_LINE { Err(bad_header(buf)) } else { Ok(None) };
                };
                let line = buf.split_to(end + 1);
                let line = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
                let transfer = header(line)?;
                self.state = match transfer {
                    Transfer::Length(left) => State::Length { left },
                    Transfer::UntilMark(mark) => {
                        State::Mark { finder: Box::new(memmem::Finder::new(&mark).into_owned()) }
                    }
                };
                Ok(Some(Piece::Start(transfer)))
            }
            State::Length { left: 0 } | State::MarkFound => {
                self.state = State::Done;
                Ok(Some(Piece::End))
            }
            State::Length { left } => {
                if buf.is_empty() {
                    return Ok(None);
                }
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len()).min(most);
                *left -= n as u64;
                Ok(self.give(buf, n))
            }
            State::Mark { finder } => {
                if let Some(at) = finder.find(buf) {
                    if at > most {
                        return Ok(self.give(buf, most));
                    }
                    self.state = State::MarkFound;
                    let data = self.give(buf, at);
                    buf.advance(MARK_LEN);
                    return if data.is_some() { Ok(data) } else { self.next_up_to(buf, most) };
                }
                let safe = buf.len().saturating_sub(MARK_LEN - 1);
                Ok(self.give(buf, safe.min(most)))
            }
            State::Done => Ok(None),
        }
    }

    /// How many of `space` bytes may be filled straight from the socket, those of `buf` at their front; 0 when
    /// [`next`](Self::next) has to look at `buf` before.
    pub(crate) fn fills(&self, buf: &BytesMut, space: usize) -> usize {
        match &self.state {
            State::Length { left } if buf.is_empty() => {
                usize::try_from(*left).unwrap_or(usize::MAX).min(space)
            }
            State::Mark { .. } if buf.len() < MARK_LEN && space > 2 * MARK_LEN => space,
            _ => 0,
        }
    }

    /// Takes what was filled so: how many bytes at the front of `filled` are of the RDB. The rest goes to `buf`, which was
    /// empty.
    pub(crate) fn take_filled(&mut self, filled: &[u8], buf: &mut BytesMut) -> usize {
        let (given, rest) = match &mut self.state {
            State::Length { left } => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(filled.len());
                *left -= n as u64;
                (n, n)
            }
            State::Mark { finder } => match finder.find(filled) {
                Some(at) => {
                    self.state = State::MarkFound;
                    (at, at + MARK_LEN)
                }
                None => {
                    let safe = filled.len().saturating_sub(MARK_LEN - 1);
                    (safe, safe)
                }
            },
            _ => (0, 0),
        };
        buf.extend_from_slice(&filled[rest..]);
        self.received += given as u64;
        given
    }

    fn give(&mut self, buf: &mut BytesMut, n: usize) -> Option<Piece> {
        if n == 0 {
            return None;
        }
        self.received += n as u64;
        Some(Piece::Data(buf.split_to(n).freeze()))
    }
}

fn header(line: &[u8]) -> Result<Transfer, FramingFault> {
    if let Some(message) = line.strip_prefix(b"-") {
        return Err(FramingFault::ServerError(String::from_utf8_lossy(message).into_owned()));
    }
    let rest = line.strip_prefix(b"$").ok_or_else(|| bad_header(line))?;
    if let Some(mark) = rest.strip_prefix(b"EOF:") {
        return mark.try_into().map(Transfer::UntilMark).map_err(|_| bad_header(line));
    }
    let digits = std::str::from_utf8(rest).map_err(|_| bad_header(line))?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad_header(line));
    }
    digits.parse().map(Transfer::Length).map_err(|_| bad_header(line))
}

fn bad_header(line: &[u8]) -> FramingFault {
    FramingFault::BadHeader(String::from_utf8_lossy(&line[..line.len().min(60)]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &[u8; 40] = b"0123456789abcdef0123456789abcdef01234567";

    /// Feeds `wire` in pieces of `step` bytes; gives the snapshot, the pieces' count, and the rest.
    fn follow(wire: &[u8], step: usize) -> Result<(Vec<u8>, bool, Vec<u8>), FramingFault> {
        let mut framing = SnapshotFraming::new();
        let (mut buf, mut data) = (BytesMut::new(), Vec::new());
        for chunk in wire.chunks(step) {
            buf.extend_from_slice(chunk);
            while let Some(piece) = framing.next(&mut buf)? {
                if let Piece::Data(bytes) = piece {
                    data.extend_from_slice(&bytes);
                }
            }
        }
        assert_eq!(framing.received(), data.len() as u64);
        Ok((data, framing.is_done(), buf.to_vec()))
    }

    /// The same into spaces of `space` bytes, filled by `step` bytes at most.
    fn follow_into(wire: &[u8], step: usize, space: usize) -> Result<(Vec<u8>, bool, Vec<u8>), FramingFault> {
        let mut framing = SnapshotFraming::new();
        let (mut buf, mut data, mut left) = (BytesMut::new(), Vec::new(), wire);
        let mut space = vec![0; space];
        loop {
            let fills = framing.fills(&buf, space.len());
            if fills > 0 {
                let held = buf.len();
                space[..held].copy_from_slice(&buf);
                let n = left.len().min(step).min(fills - held);
                if n == 0 {
                    break;
                }
                space[held..held + n].copy_from_slice(&left[..n]);
                left = &left[n..];
                buf.clear();
                let given = framing.take_filled(&space[..held + n], &mut buf);
                data.extend_from_slice(&space[..given]);
                continue;
            }
            match framing.next_up_to(&mut buf, space.len())? {
                Some(Piece::Data(bytes)) => {
                    assert!(bytes.len() <= space.len());
                    data.extend_from_slice(&bytes);
                }
                Some(_) => {}
                None if framing.is_done() || left.is_empty() => break,
                None => {
                    let n = left.len().min(step);
                    buf.extend_from_slice(&left[..n]);
                    left = &left[n..];
                }
            }
        }
        assert_eq!(framing.received(), data.len() as u64);
        buf.extend_from_slice(left);
        Ok((data, framing.is_done(), buf.to_vec()))
    }

    #[test]
    fn mark_is_found_however_the_bytes_are_split() {
        // The snapshot holds beginnings of the mark, and ends in one.
        let mut snapshot = b"REDIS0011".to_vec();
        snapshot.extend_from_slice(&MARK[..39]);
        snapshot.extend_from_slice(b"x");
        snapshot.extend_from_slice(&MARK[..20]);
        let mut wire = b"\n\n\n$EOF:".to_vec();
        wire.extend_from_slice(MARK);
        wire.extend_from_slice(b"\r\n");
        wire.extend_from_slice(&snapshot);
        wire.extend_from_slice(MARK);
        wire.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
        for step in 1..wire.len() {
            let (data, done, rest) = follow(&wire, step).unwrap();
            assert_eq!(data, snapshot, "step {step}");
            assert!(done);
            assert_eq!(rest, b"*1\r\n$4\r\nPING\r\n");
            for space in [1, 7, 81, 90, 1000] {
                let into = follow_into(&wire, step, space).unwrap();
                assert_eq!(into, (data.clone(), true, rest.clone()), "step {step}, space {space}");
            }
        }
        // Without its mark it has not ended, and only what could still be the mark is held back.
        let cut = wire.len() - 14 - 1;
        let (data, done, _) = follow(&wire[..cut], 7).unwrap();
        assert!(!done);
        assert_eq!(data, snapshot);
        let (data, done, _) = follow_into(&wire[..cut], 7, 100).unwrap();
        assert!(!done);
        assert_eq!(data, snapshot);
    }

    #[test]
    fn length_counts_exactly() {
        for step in 1..12 {
            let (data, done, rest) = follow(b"\n$5\r\nREDIS*1\r\n", step).unwrap();
            assert_eq!((data.as_slice(), done, rest.as_slice()), (&b"REDIS"[..], true, &b"*1\r\n"[..]));
            for space in [1, 3, 100] {
                let into = follow_into(b"\n$5\r\nREDIS*1\r\n", step, space).unwrap();
                assert_eq!(into, (data.clone(), true, rest.clone()));
                assert!(!follow_into(b"$6\r\nREDIS", step, space).unwrap().1);
            }
            let (data, done, _) = follow(b"$6\r\nREDIS", step).unwrap();
            assert_eq!((data.as_slice(), done), (&b"REDIS"[..], false));
        }
        let (_, done, rest) = follow(b"$0\r\n*1", 100).unwrap();
        assert!(done);
        assert_eq!(rest, b"*1");
    }

    #[test]
    fn hostile_headers_are_errors() {
        for wire in [
            &b"$-1\r\n"[..],
            b"$\r\n",
            b"$+5\r\n",
            b"$99999999999999999999\r\n",
            b"$EOF:short\r\n",
            b"*3\r\n",
            b"\r\n",
            &[b'$'; MAX_LINE + 2],
        ] {
            // "$" alone parses as no digits.
            let fault = follow(wire, 4096);
            assert!(matches!(fault, Err(FramingFault::BadHeader(_))), "{fault:?}");
        }
        let fault = follow(b"-ERR BGSAVE failed, replication can't continue\r\n", 5);
        assert_eq!(
            fault,
            Err(FramingFault::ServerError("ERR BGSAVE failed, replication can't continue".into()))
        );
    }
}
