//! Values in encodings that may be large, but mostly are not: the first elements are asked for, and where these are all and the
//! same on both sides nothing else has to be asked. Servers before Redis 7.2 keep every list and every set of texts so.

use bytes::Bytes;
use keyferry_client::Frame;
use keyferry_rdb::Kind;

use super::compare::{Comparer, Key, both, pick};
use super::nodes::Channel;
use super::options::Depth;
use super::read::Lengths;
use super::wire::{FEW, FEW_WORDS};
use crate::error::Error;

/// All elements of a short value, in the order of its kind; `None` for one that is long, of another type by now, or gone.
type Short = Option<Vec<Bytes>>;

impl Comparer {
    /// Compares lists. Gives those of which more has to be asked.
    pub(super) async fn short_lists(
        &mut self,
        keys: &[Bytes],
        numbers: &[usize],
        found: &mut [Key],
    ) -> Result<Vec<usize>, Error> {
        let kinds = vec![Kind::List; numbers.len()];
        self.short(keys, numbers, &kinds, found).await
    }

    /// Compares sets and hashes. Gives those of which more has to be asked.
    pub(super) async fn short_tables(
        &mut self,
        keys: &[Bytes],
        numbers: &[usize],
        found: &mut [Key],
    ) -> Result<Vec<usize>, Error> {
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let some = pick(keys, numbers);
        let [a, b] = both!(self, kinds(&some));
        // Of hashes whose fields may expire, these do not tell when.
        let plain = self.sides.iter().flatten().all(|channel| !channel.side().has_field_expiry());
        let (mut short, mut kinds, mut open) = (Vec::new(), Vec::new(), Vec::new());
        for (&number, kind) in numbers.iter().zip(a.into_iter().zip(b)) {
            match kind {
                (Some(a), Some(b)) if a == b && (a == Kind::Set || a == Kind::Hash && plain) => {
                    short.push(number);
                    kinds.push(a);
                }
                _ => open.push(number),
            }
        }
        open.extend(self.short(keys, &short, &kinds, found).await?);
        Ok(open)
    }

    async fn short(
        &mut self,
        keys: &[Bytes],
        numbers: &[usize],
        kinds: &[Kind],
        found: &mut [Key],
    ) -> Result<Vec<usize>, Error> {
        if self.rules.live.depth == Depth::SkipBig && self.rules.live.big_key < FEW as u64 {
            return Ok(numbers.to_vec());
        }
        let mut open = Vec::new();
        let (mut rest, mut kinds) = (numbers, kinds);
        while !rest.is_empty() {
            let [Some(source), Some(target)] = &mut self.sides else { return Ok(numbers.to_vec()) };
            let few = &self.rules.few;
            let at = few.chunk().min(rest.len());
            let (chunk, of) = (&rest[..at], &kinds[..at]);
            (rest, kinds) = (&rest[at..], &kinds[at..]);
            let some = pick(keys, chunk);
            let (a, b) = tokio::try_join!(source.short(&some, of, few), target.short(&some, of, few))?;
            for ((&number, &kind), (a, b)) in chunk.iter().zip(of).zip(a.into_iter().zip(b)) {
                found[number].kind = a.is_some().then_some(kind);
                if a.is_some() && a == b { found[number].done = true } else { open.push(number) }
            }
        }
        Ok(open)
    }
}

impl Channel {
    async fn short(&mut self, keys: &[Bytes], kinds: &[Kind], few: &Lengths) -> Result<Vec<Short>, Error> {
        let (last, count) = FEW_WORDS;
        let replies = self
            .each(
                keys.len(),
                |number| &keys[number],
                |number, pipeline| {
                    let (word, args): (&[u8], [&[u8]; 3]) = match kinds[number] {
                        Kind::List => (b"LRANGE", [b"0", last, b""]),
                        Kind::Hash => (b"HSCAN", [b"0", b"COUNT", count]),
                        _ => (b"SSCAN", [b"0", b"COUNT", count]),
                    };
                    let args = args.iter().copied().filter(|arg| !arg.is_empty());
                    let all: Vec<&[u8]> = [word, &keys[number]].into_iter().chain(args).collect();
                    pipeline.push(all);
                },
            )
            .await?;
        let mut longest = 0;
        let short = |(frame, kind): (Frame, &Kind)| {
            let found = elements(frame, *kind);
            longest = longest.max(found.iter().flatten().map(Bytes::len).sum());
            found
        };
        let found = replies.into_iter().zip(kinds).map(short).collect();
        few.saw_so_many(keys.len(), longest);
        Ok(found)
    }
}

/// The elements in a reply, those of sets and hashes in the order of their bytes.
fn elements(frame: Frame, kind: Kind) -> Short {
    let mut reply = frame.into_array()?;
    if kind != Kind::List {
        let items = reply.pop()?;
        // Where it would go on.
        if reply.pop()?.as_bytes().is_none_or(|cursor| &cursor[..] != b"0") {
            return None;
        }
        reply = items.into_array()?;
    }
    // No items: gone. As many as were asked for: perhaps more.
    if reply.is_empty() || (kind == Kind::List && reply.len() >= FEW) {
        return None;
    }
    let mut items: Vec<Bytes> = reply.into_iter().map(Frame::into_bytes).collect::<Option<_>>()?;
    match kind {
        Kind::Set => items.sort_unstable(),
        Kind::Hash => items.as_chunks_mut::<2>().0.sort_unstable(),
        _ => {}
    }
    Some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(cursor: &str, items: &[&str]) -> Frame {
        Frame::Array(vec![Frame::from(cursor.to_owned()), array(items)])
    }

    fn array(items: &[&str]) -> Frame {
        Frame::Array(items.iter().map(|item| Frame::from((*item).to_owned())).collect())
    }

    #[test]
    fn only_whole_values_are_short() {
        let many = vec!["x"; FEW];
        assert!(elements(array(&many[1..]), Kind::List).is_some());
        assert_eq!(elements(array(&many), Kind::List), None);
        assert_eq!(elements(array(&[]), Kind::List), None);
        assert_eq!(elements(scanned("7", &["a"]), Kind::Set), None);
        assert_eq!(elements(scanned("0", &[]), Kind::Set), None);
        assert_eq!(elements(array(&["a"]), Kind::Set), None);
        assert_eq!(elements(Frame::Integer(1), Kind::Set), None);
    }

    #[test]
    fn order_counts_in_lists_only() {
        let of = |kind, a: Frame, b: Frame| elements(a, kind).is_some_and(|a| Some(a) == elements(b, kind));
        assert!(!of(Kind::List, array(&["a", "b"]), array(&["b", "a"])));
        assert!(of(Kind::Set, scanned("0", &["a", "b"]), scanned("0", &["b", "a"])));
        assert!(of(Kind::Hash, scanned("0", &["a", "1", "b", "2"]), scanned("0", &["b", "2", "a", "1"])));
        assert!(!of(Kind::Hash, scanned("0", &["a", "1", "b", "2"]), scanned("0", &["a", "2", "b", "1"])));
        assert!(!of(Kind::Hash, scanned("0", &["a", "b"]), scanned("0", &["b", "a"])));
    }
}
