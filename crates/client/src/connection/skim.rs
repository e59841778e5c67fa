//! Replies that are not taken apart: only where each of them ends is found out.

use std::future::poll_fn;
use std::ops::Range;
use std::task::Poll;

use bytes::BytesMut;
use keyferry_resp::encode::encode_frame;
use keyferry_resp::{Limits, Protocol, ReplySkipper};

use super::{Connection, Exchange};
use crate::inbound::{Doing, Inbound, READ_SIZE, not_resp};
use crate::pipeline::Outgoing;
use crate::replies::{HEAD, Replies};
use crate::{Address, Error};

/// Memory for replies that were skimmed is used again up to so many bytes of them.
const SKIMMED: usize = 1 << 20;
/// Bytes of replies that wait until it is known where those end that they are looked at beside; beyond it they are gone through.
const WAITING: usize = 1 << 20;

/// One of two connections in [`Connection::skim_beside`]: what is sent over it, and where its replies go.
#[derive(Debug)]
pub struct Skimming<'a> {
    connection: &'a mut Connection,
    commands: &'a [u8],
    count: usize,
    replies: &'a mut Replies,
}

impl<'a> Skimming<'a> {
    /// `count` commands, which `commands` has encoded back to back; what was in `replies` before is forgotten.
    pub fn new(
        connection: &'a mut Connection,
        commands: &'a [u8],
        count: usize,
        replies: &'a mut Replies,
    ) -> Self {
        Self { connection, commands, count, replies }
    }
}

impl Connection {
    /// Sends `count` commands, which `commands` has encoded back to back ([`keyferry_resp::encode_command`]), and puts their replies
    /// into `replies` as they come, in order, error replies among them. What was there before is forgotten.
    ///
    /// For those who compare replies or look only at some of them: no frame is built and nothing is allocated for a reply, while
    /// limits and the format are seen to as ever. All replies are held in memory. Over RESP3 this saves nothing.
    ///
    /// # Errors
    ///
    /// As [`pipeline`](Self::pipeline).
    ///
    /// ```no_run
    /// # async fn example(mut connection: keyferry_client::Connection) -> Result<(), keyferry_client::Error> {
    /// let (mut commands, mut replies) = (bytes::BytesMut::new(), keyferry_client::Replies::new());
    /// keyferry_resp::encode_command(&mut commands, ["GET", "greeting"]);
    /// connection.skim(&commands, 1, &mut replies).await?;
    /// assert_eq!(replies.get(0), Some(&b"$5\r\nhello\r\n"[..]));
    /// # Ok(()) }
    /// ```
    pub async fn skim(&mut self, commands: &[u8], count: usize, replies: &mut Replies) -> Result<(), Error> {
        let out = Outgoing::one(commands);
        let doing = Doing::Pipeline(count);
        let mut skim = Skim::new(self.inbound.limits(), count, replies);
        if self.protocol == Protocol::Resp3 {
            // Pushes may come between: those are put aside.
            return self
                .exchange(out, count, doing, |frame| {
                    encode_frame(&mut replies.bytes, &frame, Protocol::Resp3);
                    replies.ends.push(replies.bytes.len());
                })
                .await;
        }
        self.inbound.expect_as_before();
        self.exchange_by(out, count, doing, |inbound, address, state| {
            inbound.skim(&mut skim, state.left, address, doing)?;
            (state.left, state.refused) = (skim.left(), skim.refused);
            Ok(())
        })
        .await?;
        *replies = self.inbound.skimmed(skim);
        Ok(())
    }

    /// Sends commands over two connections at once and gives the replies of both as [`skim`](Self::skim) does, for those who expect
    /// the same of two servers: a reply of the second that is, byte for byte, the one of the first is not gone through, since it is
    /// known where it ends. [`Replies::is_alike`] of the second's tells which these are.
    ///
    /// `twin` says by the number of a reply of the second which reply of the first it is compared with, if any. Over RESP3 nothing is
    /// found to be alike.
    ///
    /// # Errors
    ///
    /// As [`pipeline`](Self::pipeline), of the one that fails first. Both connections are then at a loss: use neither of them again.
    pub async fn skim_beside(
        [first, second]: [Skimming<'_>; 2],
        twin: impl Fn(usize) -> Option<usize>,
    ) -> Result<(), Error> {
        let both = [&*first.connection, &*second.connection];
        let plain = both.iter().all(|connection| connection.protocol == Protocol::Resp2);
        // What is within the limits of one has to be within those of the other.
        if !plain || both[0].inbound.limits() != both[1].inbound.limits() {
            first.connection.skim(first.commands, first.count, first.replies).await?;
            return second.connection.skim(second.commands, second.count, second.replies).await;
        }
        let (mut first, mut second) = (first.begin()?, second.begin()?);
        poll_fn(|cx| {
            let (skim, doing) = (&mut first.skim, first.doing);
            let before = skim.ends.len();
            let mut take = |inbound: &mut Inbound, address: &Address, state: &mut Exchange| {
                inbound.skim(skim, state.left, address, doing)?;
                (state.left, state.refused) = (skim.left(), skim.refused);
                Ok(())
            };
            let a = first.connection.poll_exchange(cx, &mut first.out, &mut first.state, doing, &mut take)?;
            if first.skim.ends.len() > before {
                // The second may have waited for these.
                second.connection.watch.moved();
            }
            let (skim, doing) = (&mut second.skim, second.doing);
            let known = Known { bytes: &first.connection.inbound.buffer, skim: &first.skim };
            let mut take = |inbound: &mut Inbound, address: &Address, state: &mut Exchange| {
                inbound.skim_beside(skim, known, &twin, address, doing)?;
                (state.left, state.refused) = (skim.left(), skim.refused);
                Ok(())
            };
            let b =
                second.connection.poll_exchange(cx, &mut second.out, &mut second.state, doing, &mut take)?;
            if a.is_ready() && b.is_ready() { Poll::Ready(Ok::<(), Error>(())) } else { Poll::Pending }
        })
        .await?;
        first.end();
        second.end();
        Ok(())
    }
}

/// One of two exchanges that are under way.
struct Half<'a> {
    connection: &'a mut Connection,
    out: Outgoing<'a>,
    state: Exchange,
    doing: Doing<'static>,
    skim: Skim,
    replies: &'a mut Replies,
}

impl<'a> Skimming<'a> {
    fn begin(self) -> Result<Half<'a>, Error> {
        let Self { connection, commands, count, replies } = self;
        let state = connection.begin(count)?;
        let skim = Skim::new(connection.inbound.limits(), count, replies);
        connection.inbound.expect_as_before();
        let (out, doing) = (Outgoing::one(commands), Doing::Pipeline(count));
        Ok(Half { connection, out, state, doing, skim, replies })
    }
}

impl Half<'_> {
    fn end(self) {
        self.connection.end(&self.out);
        *self.replies = self.connection.inbound.skimmed(self.skim);
    }
}

/// How far replies were skimmed.
#[derive(Debug)]
struct Skim {
    skipper: ReplySkipper,
    seen: usize,
    /// How many replies there will be.
    expected: usize,
    ends: Vec<usize>,
    /// The first bytes of each.
    heads: Vec<[u8; HEAD]>,
    /// Which of the replies are the same as those beside them, where there are such.
    alike: Vec<bool>,
    /// In which of them are nulls.
    nulls: Vec<bool>,
    /// Of the reply that is still arriving, how many bytes are the same as of the one beside it.
    same: usize,
    /// The last reply was an error.
    refused: bool,
}

impl Skim {
    /// For so many replies; the memory of `replies` is used again.
    fn new(limits: Limits, expected: usize, replies: &mut Replies) -> Self {
        replies.clear();
        Self {
            skipper: ReplySkipper::with_limits(limits),
            seen: 0,
            expected,
            ends: std::mem::take(&mut replies.ends),
            heads: std::mem::take(&mut replies.heads),
            alike: std::mem::take(&mut replies.alike),
            nulls: std::mem::take(&mut replies.nulls),
            same: 0,
            refused: false,
        }
    }

    /// Replies that are still to come.
    fn left(&self) -> usize {
        self.expected.saturating_sub(self.ends.len())
    }

    /// Where the reply begins that comes next.
    fn next_start(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Where a reply is, once it is known.
    fn range(&self, number: usize) -> Option<Range<usize>> {
        let end = *self.ends.get(number)?;
        let start = number.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        Some(start..end)
    }
}

/// The first bytes of a reply, with zeros behind a shorter one.
#[inline]
fn head(reply: &[u8]) -> [u8; HEAD] {
    reply.first_chunk().copied().unwrap_or_else(|| {
        let mut head = [0; HEAD];
        head.iter_mut().zip(reply).for_each(|(to, from)| *to = *from);
        head
    })
}

/// The replies that others are looked at beside.
#[derive(Clone, Copy)]
struct Known<'a> {
    bytes: &'a [u8],
    skim: &'a Skim,
}

/// How the next reply stands to the one beside it.
enum Beside {
    /// It is the same, so long, and has nulls or none.
    Same { length: usize, nulls: bool },
    /// It is not, or nothing can be said: its end has to be looked for.
    Other,
    /// More has to arrive, here or there.
    Open,
}

impl Inbound {
    /// Makes room for as much as came the last time: what has arrived is not moved about then.
    fn expect_as_before(&mut self) {
        // Some more, as batches are not all of one size.
        let room = self.skimmed.min(SKIMMED) / 4 * 5 + READ_SIZE / 4;
        if self.buffer.capacity() - self.buffer.len() < room {
            self.buffer.reserve(room);
        }
    }

    /// Looks for the ends of up to `most` replies among the bytes that have arrived, which stay where they are.
    fn skim(
        &mut self,
        skim: &mut Skim,
        most: usize,
        address: &Address,
        doing: Doing<'_>,
    ) -> Result<(), Error> {
        for _ in 0..most {
            let start = skim.next_start();
            if !self.skim_one(skim, address, doing)? {
                break;
            }
            let reply = self.buffer.get(start..skim.seen).unwrap_or_default();
            skim.heads.push(head(reply));
        }
        Ok(())
    }

    /// The same beside replies of another server.
    fn skim_beside(
        &mut self,
        skim: &mut Skim,
        known: Known<'_>,
        twin: &impl Fn(usize) -> Option<usize>,
        address: &Address,
        doing: Doing<'_>,
    ) -> Result<(), Error> {
        while skim.left() > 0 {
            match self.beside(skim, known, twin) {
                Beside::Same { length, nulls } => {
                    skim.skipper.pass(length);
                    skim.seen += length;
                    skim.refused = false;
                    skim.ends.push(skim.seen);
                    skim.alike.push(true);
                    skim.nulls.push(nulls);
                }
                Beside::Other => {
                    if !self.skim_one(skim, address, doing)? {
                        break;
                    }
                    skim.alike.push(false);
                }
                Beside::Open => break,
            }
            skim.same = 0;
        }
        Ok(())
    }

    /// What is a whole frame there is one here, and no frame is the beginning of another: so the same bytes end in the same place.
    fn beside(&self, skim: &mut Skim, known: Known<'_>, twin: &impl Fn(usize) -> Option<usize>) -> Beside {
        if skim.skipper.is_mid_reply() {
            return Beside::Other;
        }
        let Some(twin) = twin(skim.ends.len()).filter(|twin| *twin < known.skim.expected) else {
            return Beside::Other;
        };
        let here = self.buffer.get(skim.seen..).unwrap_or_default();
        let Some(whole) = known.skim.range(twin).and_then(|range| known.bytes.get(range)) else {
            return if here.len() < WAITING { Beside::Open } else { Beside::Other };
        };
        let length = here.len().min(whole.len());
        // Errors are noted where ends are looked for. What was the same before is not looked at again.
        if matches!(whole, [b'-' | b'!', ..]) || here.get(skim.same..length) != whole.get(skim.same..length) {
            Beside::Other
        } else if length < whole.len() {
            skim.same = length;
            Beside::Open
        } else {
            Beside::Same { length, nulls: known.skim.nulls.get(twin).copied().unwrap_or(true) }
        }
    }

    /// Looks for the end of the next reply; `false` when it has not arrived.
    fn skim_one(&mut self, skim: &mut Skim, address: &Address, doing: Doing<'_>) -> Result<bool, Error> {
        let rest = self.buffer.get(skim.seen..).unwrap_or_default();
        let skipped = skim.skipper.skip(rest, 1).map_err(|source| not_resp(address, doing, source))?;
        skim.seen += skipped.consumed;
        if skipped.replies == 0 {
            return Ok(false);
        }
        skim.refused = skipped.error.is_some();
        skim.nulls.push(skipped.nulls > 0);
        skim.ends.push(skim.seen);
        Ok(true)
    }

    /// The replies that were skimmed.
    fn skimmed(&mut self, skim: Skim) -> Replies {
        let bytes = self.buffer.split_to(skim.seen.min(self.buffer.len()));
        self.skimmed = bytes.len();
        if bytes.len() > SKIMMED && self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        let Skim { ends, heads, alike, nulls, .. } = skim;
        Replies { bytes, ends, heads, alike, nulls }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whole frames, among them such as begin alike, have lengths that begin alike, or differ in the last byte only.
    const FRAMES: [&str; 18] = [
        "$3\r\nfoo\r\n",
        "$3\r\nfob\r\n",
        "$30\r\nfoo\r\n$3\r\nfoo\r\n:1\r\n:2\r\n$3\r\nffff\r\n",
        "$0\r\n\r\n",
        "$-1\r\n",
        "*0\r\n",
        "*-1\r\n",
        "*1\r\n$3\r\nfoo\r\n",
        "*2\r\n$3\r\nfoo\r\n$1\r\na\r\n",
        "*2\r\n$3\r\nfoo\r\n$1\r\nb\r\n",
        "*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$-1\r\n",
        ":1\r\n",
        ":12\r\n",
        ":-1\r\n",
        "+OK\r\n",
        "-ERR no\r\n",
        "-ERR not\r\n",
        "*1\r\n-ERR no\r\n",
    ];

    fn arrive(inbound: &mut Inbound, text: &str) {
        inbound.buffer.extend_from_slice(text.as_bytes());
    }

    /// What comes of the replies of two servers that arrive piece by piece, those of the first where it is `true`.
    fn beside(
        [a, b]: [&[&str]; 2],
        pieces: impl IntoIterator<Item = (bool, usize)>,
        twin: &impl Fn(usize) -> Option<usize>,
    ) -> [Replies; 2] {
        let mut inbound = [Inbound::new(Limits::default()), Inbound::new(Limits::default())];
        let new = |count| Skim::new(Limits::default(), count, &mut Replies::new());
        let (mut first, mut second) = (new(a.len()), new(b.len()));
        let texts = [a.concat(), b.concat()];
        let mut at = [0_usize; 2];
        let (address, doing) = (Address::tcp("peer", 1), Doing::Pipeline(1));
        for (of_first, length) in pieces.into_iter().chain([(true, usize::MAX), (false, usize::MAX)]) {
            let side = usize::from(!of_first);
            let end = at[side].saturating_add(length).min(texts[side].len());
            arrive(&mut inbound[side], &texts[side][at[side]..end]);
            at[side] = end;
            let [one, other] = &mut inbound;
            let left = first.left();
            one.skim(&mut first, left, &address, doing).unwrap();
            let known = Known { bytes: &one.buffer, skim: &first };
            other.skim_beside(&mut second, known, twin, &address, doing).unwrap();
        }
        let [one, other] = &mut inbound;
        [one.skimmed(first), other.skimmed(second)]
    }

    /// Every reply is what was sent, and is said to be alike if and only if it is the same as its twin, and no error.
    fn check(frames: [&[&str]; 2], found: &[Replies; 2], twin: &impl Fn(usize) -> Option<usize>) {
        for (frames, replies) in frames.iter().zip(found) {
            assert_eq!(replies.len(), frames.len());
            for (number, frame) in frames.iter().enumerate() {
                assert_eq!(replies.get(number), Some(frame.as_bytes()), "{frames:?}");
                assert_eq!(replies.head(number), frame.as_bytes().get(..frame.len().min(HEAD)), "{frames:?}");
                assert_eq!(replies.has_nulls(number), frame.contains("-1\r\n") && !frame.starts_with(':'));
            }
        }
        for (number, frame) in frames[1].iter().enumerate() {
            let same = twin(number).and_then(|twin| frames[0].get(twin)).is_some_and(|other| other == frame);
            assert_eq!(found[1].is_alike(number), same && !frame.starts_with('-'), "{frames:?} {number}");
            assert!(!found[0].is_alike(number));
        }
    }

    #[test]
    fn any_two_replies_cut_anywhere() {
        let twin = |number| Some(number);
        for a in FRAMES {
            for b in FRAMES {
                let frames: [&[&str]; 2] = [&[a, "$1\r\nz\r\n"], &[b, "$1\r\nz\r\n"]];
                for cut_a in 0..=a.len() + 2 {
                    for cut_b in 0..=b.len() + 2 {
                        let pieces = [(true, cut_a), (false, cut_b)];
                        check(frames, &beside(frames, pieces, &twin), &twin);
                    }
                }
                // The second is there before anything of the first is.
                check(frames, &beside(frames, [(false, usize::MAX)], &twin), &twin);
            }
        }
    }

    #[test]
    fn what_waits_for_too_long_is_gone_through() {
        let large = format!("${}\r\n{}\r\n", WAITING, "x".repeat(WAITING));
        let frames: [&[&str]; 2] = [&[":1\r\n", &large], &[":1\r\n", &large]];
        let [_, second] = beside(frames, [(false, usize::MAX)], &Some);
        assert_eq!((second.len(), second.get(1)), (2, Some(large.as_bytes())));
        assert_eq!((second.is_alike(0), second.is_alike(1)), (false, false));
        // A large one that comes in pieces is looked at once.
        let pieces = [(true, usize::MAX)].into_iter().chain((0..WAITING / 1000).map(|_| (false, 1000)));
        let found = beside(frames, pieces, &Some);
        check(frames, &found, &Some);
    }

    proptest! {
        #[test]
        fn many_replies_in_pieces(
            replies in prop::collection::vec((0..FRAMES.len(), 0..FRAMES.len(), 0..4_u8), 0..12),
            pieces in prop::collection::vec((any::<bool>(), 0..20_usize), 0..40),
        ) {
            // The second leaves some out, and has others at their place.
            let (mut a, mut b, mut twins) = (Vec::new(), Vec::new(), Vec::new());
            for (number, &(of_a, of_b, what)) in replies.iter().enumerate() {
                a.push(FRAMES[of_a]);
                match what {
                    0 => {}
                    1 => {
                        b.push(FRAMES[of_b]);
                        twins.push(Some(number));
                    }
                    2 => {
                        b.push(FRAMES[of_b]);
                        twins.push(None);
                    }
                    _ => {
                        b.push(FRAMES[of_a]);
                        twins.push(Some(number));
                    }
                }
            }
            let twin = |number: usize| twins.get(number).copied().flatten();
            let frames: [&[&str]; 2] = [&a, &b];
            check(frames, &beside(frames, pieces, &twin), &twin);
        }
    }
}
