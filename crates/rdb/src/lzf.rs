//! LZF, both ways. Reading is bounded: no more is made than was claimed, and no claim is met that its input cannot give.
//!
//! A stream is a row of tokens. A control byte `c` below 32 is followed by `c + 1` literal bytes. Any other is a
//! back reference of `(c >> 5) + 2` bytes, where 7 in the top bits means that a byte to be added follows, starting
//! `((c & 31) << 8 | next byte) + 1` bytes back in the output; it may overlap what it produces.

/// Three bytes of a stream give at most 264 of output: nothing expands further.
const MAX_EXPANSION: u64 = 88;
/// The farthest that a back reference reaches.
const WINDOW: usize = 8192;
/// The most that one token produces.
const MAX_TOKEN_OUTPUT: usize = 264;

const IMPOSSIBLE: &str = "a compressed string claims more than any compressed data gives";
const BROKEN: &str = "a compressed string does not decompress";
const WRONG_SIZE: &str = "a compressed string decompresses to another length than it claims";

/// Refuses a claim that the input cannot meet, before any memory is given to it.
pub(crate) fn check_ratio(deflated: u64, inflated: u64) -> Result<(), &'static str> {
    if inflated == 0 || inflated > deflated.saturating_mul(MAX_EXPANSION) { Err(IMPOSSIBLE) } else { Ok(()) }
}

/// Decompresses `deflated` to exactly `inflated` bytes.
pub(crate) fn inflate(deflated: &[u8], inflated: u64) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::new();
    inflate_onto(deflated, inflated, &mut out)?;
    Ok(out)
}

/// Decompresses `deflated` to exactly `inflated` bytes behind what is in `out`. On failure `out` is as it was.
pub(crate) fn inflate_onto(deflated: &[u8], inflated: u64, out: &mut Vec<u8>) -> Result<(), &'static str> {
    check_ratio(deflated.len() as u64, inflated)?;
    let size = usize::try_from(inflated).map_err(|_| IMPOSSIBLE)?;
    let start = out.len();
    out.resize(start.checked_add(size).ok_or(IMPOSSIBLE)?, 0);
    let room = &mut out[start..];
    let mut made = 0;
    let verdict = match decode(deflated, room, &mut made, size) {
        // A token that is cut, or one more when all was made.
        Ok(used) if used < deflated.len() => Err(if made == size { WRONG_SIZE } else { BROKEN }),
        Ok(_) if made < size => Err(WRONG_SIZE),
        decoded => decoded.map(|_| ()),
    };
    if verdict.is_err() {
        out.truncate(start);
    }
    verdict
}

/// Copies are made in pieces of these sizes while there is room behind them: what a piece writes too much is written
/// over by what follows.
const LITERAL_PIECE: usize = 32;
const MATCH_PIECE: usize = 16;

/// Decodes tokens from the start of `stream` to `out[*made..]` until `goal` bytes are made, or the stream ends, be it inside
/// of a token. Gives the bytes of the stream that it used. No token may write beyond the end of `out`.
fn decode(stream: &[u8], out: &mut [u8], made: &mut usize, goal: usize) -> Result<usize, &'static str> {
    let mut left = stream;
    let mut at = *made;
    while at < goal
        && let [control, rest @ ..] = left
    {
        let control = *control;
        if control < 32 {
            let len = usize::from(control) + 1;
            let room = &mut out[at..];
            if let (Some(from), Some(to)) =
                (rest.first_chunk::<LITERAL_PIECE>(), room.first_chunk_mut::<LITERAL_PIECE>())
            {
                *to = *from;
            } else {
                let Some(literals) = rest.get(..len) else { break };
                room.get_mut(..len).ok_or(WRONG_SIZE)?.copy_from_slice(literals);
            }
            at += len;
            left = &rest[len..];
            continue;
        }
        let (len, low, rest) = match (control >> 5, rest) {
            (7, [more, low, rest @ ..]) => (9 + usize::from(*more), *low, rest),
            (7, _) | (_, []) => break,
            (len, [low, rest @ ..]) => (2 + usize::from(len), *low, rest),
        };
        let back = (usize::from(control & 31) << 8 | usize::from(low)) + 1;
        let from = at.checked_sub(back).ok_or(BROKEN)?;
        let (done, room) = out.split_at_mut(at);
        if back >= MATCH_PIECE && room.len() >= len + MATCH_PIECE {
            // A piece may be read where an earlier one was written, never where it is written itself.
            let mut copied = 0;
            while copied < len {
                let (done, room) = out.split_at_mut(at + copied);
                if let (Some(from), Some(to)) = (
                    done[from + copied..].first_chunk::<MATCH_PIECE>(),
                    room.first_chunk_mut::<MATCH_PIECE>(),
                ) {
                    *to = *from;
                }
                copied += MATCH_PIECE;
            }
        } else {
            let room = room.get_mut(..len).ok_or(WRONG_SIZE)?;
            if back == 1 {
                room.fill(done[from]);
            } else {
                for piece in room.chunks_mut(back) {
                    piece.copy_from_slice(&done[from..from + piece.len()]);
                }
            }
        }
        at += len;
        left = rest;
    }
    *made = at;
    Ok(stream.len() - left.len())
}

/// Decompresses a stream that arrives in parts, holding 8 KiB of what it gave and one chunk.
#[derive(Clone, Debug)]
pub(crate) struct Inflater {
    /// History, the chunk being made, and room for more.
    out: Vec<u8>,
    history: usize,
    /// End of the chunk.
    made: usize,
    deflated_left: u64,
    inflated_left: u64,
}

impl Inflater {
    /// For a stream of `deflated` bytes that gives `inflated`.
    pub(crate) fn new(deflated: u64, inflated: u64) -> Result<Self, &'static str> {
        check_ratio(deflated, inflated)?;
        Ok(Self { out: Vec::new(), history: 0, made: 0, deflated_left: deflated, inflated_left: inflated })
    }

    /// Takes tokens from the start of `input` until at least `size` bytes of a chunk are made, the stream is over, or
    /// the input ends. Gives the number of bytes taken and whether the chunk is complete. The token in which the input
    /// ends is left for the next call.
    pub(crate) fn take(&mut self, input: &[u8], size: usize) -> Result<(usize, bool), &'static str> {
        let here = usize::try_from(self.deflated_left).map_or(input.len(), |left| left.min(input.len()));
        let (input, all_here) = (&input[..here], here as u64 == self.deflated_left);
        let goal = self.history.saturating_add(size);
        // Room for the token that reaches the goal, but not for more than is left, nor than the input can give.
        let left = usize::try_from(self.inflated_left).unwrap_or(usize::MAX);
        let gives = here.saturating_mul(MAX_EXPANSION as usize).min(left);
        let room = goal.saturating_add(MAX_TOKEN_OUTPUT).min(self.made.saturating_add(gives));
        self.out.resize(room.max(self.made), 0);
        let before = self.made;
        let used = decode(input, &mut self.out, &mut self.made, goal)?;
        self.deflated_left -= used as u64;
        self.inflated_left -= (self.made - before) as u64;
        let over = self.deflated_left == 0;
        if over && self.inflated_left > 0 {
            return Err(WRONG_SIZE);
        }
        let full = self.made >= goal;
        if !over && !full && all_here {
            return Err(BROKEN);
        }
        Ok((used, over || full))
    }

    /// The chunk made so far.
    pub(crate) fn chunk(&self) -> &[u8] {
        &self.out[self.history..self.made]
    }

    /// Starts the next chunk.
    pub(crate) fn next_chunk(&mut self) {
        let keep = self.made.saturating_sub(WINDOW);
        self.out.copy_within(keep..self.made, 0);
        self.made -= keep;
        self.history = self.made;
    }

    /// Whether the stream is over.
    pub(crate) fn is_over(&self) -> bool {
        self.deflated_left == 0
    }
}

/// Compresses strings, one after the other.
///
/// The table of positions is kept from one string to the next and is not cleared between them: a string's positions count
/// from a base above all earlier ones, so older entries tell themselves apart.
#[derive(Clone, Debug)]
pub(crate) struct Deflater {
    table: Vec<u32>,
    base: u32,
    out: Vec<u8>,
}

const HASH_BITS: u32 = 14;
const MAX_LITERALS: usize = 32;
const MIN_MATCH: usize = 3;

impl Deflater {
    pub(crate) const fn new() -> Self {
        Self { table: Vec::new(), base: 1, out: Vec::new() }
    }

    /// The compressed form of `input`, when it has at most `limit` bytes.
    pub(crate) fn deflate(&mut self, input: &[u8], limit: usize) -> Option<&[u8]> {
        let size = u32::try_from(input.len()).ok().filter(|size| *size < u32::MAX / 2)?;
        if self.table.is_empty() || self.base > u32::MAX / 2 {
            self.table.clear();
            self.table.resize(1 << HASH_BITS, 0);
            self.base = 1;
        }
        let base = self.base;
        self.base += size;
        self.out.clear();
        let (mut at, mut literals) = (0, 0);
        while let Some(&[a, b, c]) = input.get(at..).and_then(|rest| rest.first_chunk::<MIN_MATCH>()) {
            let slot = slot(a, b, c);
            let seen = self.table[slot].checked_sub(base).map(|seen| seen as usize);
            self.table[slot] = base + at as u32;
            let back = seen.filter(|seen| at - seen <= WINDOW && input[*seen..].starts_with(&[a, b, c]));
            let Some(from) = back else {
                at += 1;
                continue;
            };
            let most = (input.len() - at).min(MAX_TOKEN_OUTPUT);
            let same =
                input[from..].iter().zip(&input[at..at + most]).skip(MIN_MATCH).take_while(|(x, y)| x == y);
            let len = MIN_MATCH + same.count();
            self.literals(&input[literals..at]);
            let (offset, code) = (at - from - 1, len - 2);
            if code < 7 {
                self.out.push((code << 5 | offset >> 8) as u8);
            } else {
                self.out.extend_from_slice(&[(7 << 5 | offset >> 8) as u8, (code - 7) as u8]);
            }
            self.out.push(offset as u8);
            if self.out.len() > limit {
                return None;
            }
            // Of what was passed, the last two positions are remembered.
            at += len;
            for near in [at - 2, at - 1] {
                if let Some(&[a, b, c]) = input[near..].first_chunk() {
                    self.table[self::slot(a, b, c)] = base + near as u32;
                }
            }
            literals = at;
        }
        self.literals(&input[literals..]);
        (self.out.len() <= limit).then_some(&self.out)
    }

    fn literals(&mut self, bytes: &[u8]) {
        for run in bytes.chunks(MAX_LITERALS) {
            self.out.push((run.len() - 1) as u8);
            self.out.extend_from_slice(run);
        }
    }
}

/// Where the table remembers these three bytes.
fn slot(a: u8, b: u8, c: u8) -> usize {
    let word = u32::from_le_bytes([a, b, c, 0]);
    (word.wrapping_mul(0x9E37_79B1) >> (32 - HASH_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The streaming decompressor, fed `part` bytes at a time, chunks of `size`.
    fn stream(deflated: &[u8], inflated: u64, part: usize, size: usize) -> Result<Vec<u8>, &'static str> {
        let mut inflater = Inflater::new(deflated.len() as u64, inflated)?;
        let mut out = Vec::new();
        let (mut at, mut fed) = (0, 0);
        loop {
            let (used, complete) = inflater.take(&deflated[at..fed], size)?;
            at += used;
            if complete {
                assert!(inflater.chunk().len() < size + MAX_TOKEN_OUTPUT);
                out.extend_from_slice(inflater.chunk());
                inflater.next_chunk();
                if inflater.is_over() {
                    return Ok(out);
                }
            } else {
                assert!(fed < deflated.len(), "wants more than there is");
                fed = (fed + part).min(deflated.len());
            }
        }
    }

    /// The slow twin, straight from the description at the top.
    fn naive(stream: &[u8], size: u64) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let mut bytes = stream.iter().map(|byte| usize::from(*byte));
        while let Some(control) = bytes.next() {
            if control < 32 {
                for _ in 0..=control {
                    out.push(bytes.next()? as u8);
                }
            } else {
                let len = if control >> 5 == 7 { 9 + bytes.next()? } else { (control >> 5) + 2 };
                let back = ((control & 31) << 8 | bytes.next()?) + 1;
                for _ in 0..len {
                    out.push(*out.get(out.len().checked_sub(back)?)?);
                }
            }
        }
        (out.len() as u64 == size).then_some(out)
    }

    /// The size that a stream states by its tokens.
    fn naive_size(stream: &[u8]) -> Option<u64> {
        let mut rest = stream;
        let mut size = 0;
        while let [control, more @ ..] = rest {
            let control = usize::from(*control);
            let (made, used) = match control {
                0..32 => (control + 1, control + 1),
                224.. => (9 + usize::from(*more.first()?), 2),
                _ => (2 + (control >> 5), 1),
            };
            size += made as u64;
            rest = more.get(used..)?;
        }
        Some(size)
    }

    /// Streams of well-formed tokens: literals, and references with any distance that occurs.
    fn tokens() -> impl Strategy<Value = Vec<u8>> {
        let literal = prop::collection::vec(any::<u8>(), 1..=32)
            .prop_map(|bytes| [&[bytes.len() as u8 - 1][..], &bytes].concat());
        let reference =
            (1u8..=7, any::<u8>(), prop_oneof![0u16..40, 0u16..600]).prop_map(|(len, more, offset)| {
                let control = len << 5 | (offset >> 8) as u8;
                if len == 7 { vec![control, more, offset as u8] } else { vec![control, offset as u8] }
            });
        prop::collection::vec(prop_oneof![literal, reference], 1..60).prop_map(|tokens| tokens.concat())
    }

    #[test]
    fn overlapping_references() {
        // "ab", then ten bytes from two back.
        let deflated = [1, b'a', b'b', 7 << 5, 1, 1];
        assert_eq!(inflate(&deflated, 12).unwrap(), b"abababababab");
        assert_eq!(stream(&deflated, 12, 1, 64).unwrap(), b"abababababab");
    }

    #[test]
    fn compresses_what_repeats() {
        let mut deflater = Deflater::new();
        let text = b"0123456789".repeat(100);
        assert!(deflater.deflate(&text, usize::MAX).unwrap().len() < 30);
        // Positions of earlier strings are not taken for those of this one.
        assert_eq!(deflater.deflate(b"0123456789", usize::MAX).unwrap().len(), 11);
        assert_eq!(deflater.deflate(&text, 10), None);
        // The position counter wraps around in time.
        deflater.base = u32::MAX / 2 + 1;
        assert!(deflater.deflate(&text, usize::MAX).is_some());
        assert!(deflater.base < 2000);
    }

    #[test]
    fn claims_are_bounded_and_checked() {
        assert_eq!(inflate(&[0, b'a'], u64::MAX), Err(IMPOSSIBLE));
        assert_eq!(inflate(&[0, b'a'], 2), Err(WRONG_SIZE));
        assert_eq!(inflate(&[1, b'a', b'b'], 1), Err(WRONG_SIZE));
        assert_eq!(inflate(&[], 0), Err(IMPOSSIBLE));
        for (deflated, claim) in
            [(&[0, b'a'][..], 2), (&[1, b'a', b'b'], 1), (&[0x20, 5], 3), (&[5, b'a'], 6)]
        {
            assert!(stream(deflated, claim, 1, 64).is_err(), "{deflated:?}");
            assert!(inflate(deflated, claim).is_err(), "{deflated:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(
            texts in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(prop::sample::select(vec!["alpha", "beta", "x", "", "0123456789"]), 0..2500)
                        .prop_map(|words| words.concat().into_bytes()),
                    prop::collection::vec(any::<u8>(), 0..300),
                    (any::<u8>(), 0usize..40_000).prop_map(|(byte, n)| vec![byte; n]),
                ],
                1..6,
            ),
        ) {
            let mut deflater = Deflater::new();
            for text in texts {
                if let Some(limit) = text.len().checked_sub(4)
                    && let Some(deflated) = deflater.deflate(&text, limit)
                {
                    prop_assert!(deflated.len() + 4 <= text.len());
                    let whole = inflate(deflated, text.len() as u64);
                    prop_assert_eq!(whole.as_deref(), Ok(text.as_slice()));
                    let streamed = stream(deflated, text.len() as u64, 100, 64);
                    prop_assert_eq!(streamed.as_deref(), Ok(text.as_slice()));
                }
            }
        }

        #[test]
        fn streaming_equals_whole(
            words in prop::collection::vec(prop::sample::select(vec!["alpha", "beta", "xx", "0123456789"]), 1..3000),
            part in 1usize..5000,
            size in 1usize..5000,
        ) {
            let text = words.concat();
            if let Ok(deflated) = lzf::compress(text.as_bytes()) {
                let whole = inflate(&deflated, text.len() as u64);
                prop_assert_eq!(whole.as_deref(), Ok(text.as_bytes()));
                let streamed = stream(&deflated, text.len() as u64, part, size);
                prop_assert_eq!(streamed.as_deref(), Ok(text.as_bytes()));
            }
        }

        #[test]
        fn any_bytes_give_the_same_verdict(deflated in prop::collection::vec(any::<u8>(), 0..60), claim in 0u64..3000, part in 1usize..9) {
            let whole = inflate(&deflated, claim);
            let parts = stream(&deflated, claim, part, 64);
            prop_assert_eq!(whole.ok(), parts.ok());
        }

        #[test]
        fn whole_and_streaming_and_naive_agree(start in prop::collection::vec(any::<u8>(), 32), rest in tokens(), off in 0u64..3) {
            // Something to refer to comes first.
            let deflated = [&[31][..], &start, &rest].concat();
            let size = naive_size(&deflated);
            // The right size or one beside it, and some for a stream that is broken anyhow.
            let claim = size.unwrap_or(deflated.len() as u64) + off.saturating_sub(1);
            let want = naive(&deflated, claim);
            prop_assert_eq!(inflate(&deflated, claim).ok(), want.clone());
            prop_assert_eq!(stream(&deflated, claim, 7, 64).ok(), want.clone());
            prop_assert_eq!(lzf::decompress(&deflated, claim as usize).ok().filter(|out| out.len() as u64 == claim), want);
        }

        #[test]
        fn what_was_there_before_stays(before in prop::collection::vec(any::<u8>(), 0..50), rest in tokens(), claim in 1u64..500) {
            let mut out = before.clone();
            match inflate_onto(&rest, claim, &mut out) {
                Ok(()) => prop_assert_eq!(&out[before.len()..], inflate(&rest, claim).unwrap()),
                Err(_) => prop_assert_eq!(&out, &before),
            }
        }
    }
}
