//! Comparing the values of one big key in parts.
//!
//! Lists are compared page by page. The elements of everything else are reduced and joined as the keys of two snapshots are, so
//! memory is bounded here, too.

use bytes::Bytes;
use keyferry_client::{Frame, Pipeline};
use keyferry_rdb::Kind;
use keyferry_rdb::elements::StreamId;

use super::finding::Fields;
use super::nodes::Channel;
use super::read::{Unexpected, describe, is_wrong_type};
use crate::cutoff::{exact, now};
use crate::difference::DifferenceKind;
use crate::digest::{Hash, KeyDigest, ValueDigest};
use crate::elements::names;
use crate::error::Error;
use crate::join::{Rules, join};
use crate::store::{Room, Store};

/// Bytes of elements that wait in memory for each side.
const MEMORY: usize = 16 << 20;

/// One key to compare.
pub(crate) struct Job<'a> {
    pub(crate) key: &'a Bytes,
    pub(crate) kind: Kind,
    /// Elements to ask for at once.
    pub(crate) page: u64,
    /// Elements to name.
    pub(crate) most: usize,
    pub(crate) unreplicated: bool,
    /// Whether deadlines that a migration holds back count as exact.
    pub(crate) held_deadlines: bool,
    /// How many milliseconds the delivery times of pending entries may lie apart, which servers tell as ages.
    pub(crate) tolerance: u64,
    pub(crate) hash: Hash,
    pub(crate) room: &'a Room,
}

/// What a stream has counted, if its server counts.
type Counters = Option<(u64, StreamId)>;

impl Job<'_> {
    /// In what ways the values differ, and at which elements.
    pub(crate) async fn compare(
        &self,
        source: &mut Channel,
        target: &mut Channel,
    ) -> Result<(Vec<DifferenceKind>, Fields), Error> {
        if self.kind == Kind::List {
            return self.list(source, target).await;
        }
        let ((a, counted_a), (b, counted_b)) =
            tokio::try_join!(self.elements(source), self.elements(target))?;
        let (mut content, mut expiries) = (false, false);
        let mut fields = Fields::default();
        let is_hash = self.kind == Kind::Hash;
        let rules = Rules {
            kinds: Vec::new(),
            expired_until: if is_hash { now() } else { i64::MIN },
            tolerance: if is_hash { 0 } else { self.tolerance },
            memory: (MEMORY * 2) as u64,
            repeats: true,
        };
        join([vec![a], vec![b]], &rules, &mut |one| {
            let kind = match one.kind {
                DifferenceKind::Expiry if is_hash => DifferenceKind::FieldExpiry,
                DifferenceKind::Expiry | DifferenceKind::Type => DifferenceKind::Value,
                kind => kind,
            };
            if kind == DifferenceKind::FieldExpiry {
                expiries = true
            } else {
                content = true
            }
            fields.add(&one.key, kind, self.most);
            Ok(())
        })?;
        let counters = matches!((counted_a, counted_b), (Some(a), Some(b)) if a != b);
        let kinds = [
            (content, DifferenceKind::Value),
            (expiries && !content, DifferenceKind::FieldExpiry),
            (counters, DifferenceKind::Counters),
        ];
        Ok((kinds.into_iter().filter_map(|(differs, kind)| differs.then_some(kind)).collect(), fields))
    }

    async fn list(
        &self,
        source: &mut Channel,
        target: &mut Channel,
    ) -> Result<(Vec<DifferenceKind>, Fields), Error> {
        let mut fields = Fields::default();
        let mut at: u64 = 0;
        loop {
            let (first, last) = (at.to_string(), (at + self.page - 1).to_string());
            let args: [&[u8]; 4] = [b"LRANGE", self.key, first.as_bytes(), last.as_bytes()];
            let (a, b) = tokio::try_join!(self.items(source, args), self.items(target, args))?;
            let equal = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            if equal < a.len() || equal < b.len() {
                let kind = match (equal < a.len(), equal < b.len()) {
                    (true, true) => DifferenceKind::Value,
                    (true, false) => DifferenceKind::LackTarget,
                    _ => DifferenceKind::LackSource,
                };
                fields.add((at + equal as u64).to_string().as_bytes(), kind, self.most);
                return Ok((vec![DifferenceKind::Value], fields));
            }
            if a.is_empty() {
                return Ok((Vec::new(), fields));
            }
            at += self.page;
        }
    }

    async fn items(&self, channel: &mut Channel, args: [&[u8]; 4]) -> Result<Vec<Frame>, Error> {
        let frame = self.ask(channel, &args).await?;
        self.array(channel, frame)
    }

    async fn elements(&self, channel: &mut Channel) -> Result<(Store, Counters), Error> {
        let room = Room { memory: MEMORY, directory: self.room.directory.clone() };
        let mut store = Store::new(self.hash, room);
        let counters = match self.kind {
            Kind::Stream => self.stream(channel, &mut store).await?,
            _ => {
                self.scan(channel, &mut store).await?;
                None
            }
        };
        Ok((store, counters))
    }

    /// Members, or fields, or members and scores.
    async fn scan(&self, channel: &mut Channel, store: &mut Store) -> Result<(), Error> {
        let (word, pairs): (&[u8], _) = match self.kind {
            Kind::Hash => (b"HSCAN", true),
            Kind::SortedSet => (b"ZSCAN", true),
            _ => (b"SSCAN", false),
        };
        let expiries = self.kind == Kind::Hash && channel.side().has_field_expiry();
        let page = self.page.to_string();
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let reply = self.ask(channel, &[word, self.key, &cursor, b"COUNT", page.as_bytes()]).await?;
            let mut reply = self.array(channel, reply)?;
            let (Some(items), Some(next), true) = (reply.pop(), reply.pop(), reply.is_empty()) else {
                return Err(channel.unexpected(Unexpected("a reply to SCAN that is none".to_owned())));
            };
            let items = self.array(channel, items)?;
            let items: Vec<Bytes> = items.into_iter().filter_map(Frame::into_bytes).collect();
            if pairs {
                let (pairs, _) = items.as_chunks::<2>();
                let ends = if expiries { self.field_expiries(channel, pairs).await? } else { Vec::new() };
                for (number, [name, value]) in pairs.iter().enumerate() {
                    let content = match self.kind {
                        Kind::SortedSet => u128::from(score_bits(value)),
                        _ => self.hash.bytes(value),
                    };
                    self.push(store, name, content, ends.get(number).copied().flatten())?;
                }
            } else {
                items.iter().try_for_each(|member| self.push(store, member, 0, None))?;
            }
            cursor = next.into_bytes().unwrap_or_default();
            if &cursor[..] == b"0" || cursor.is_empty() {
                return Ok(());
            }
        }
    }

    async fn field_expiries(
        &self,
        channel: &mut Channel,
        pairs: &[[Bytes; 2]],
    ) -> Result<Vec<Option<i64>>, Error> {
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let count = pairs.len().to_string();
        let mut args: Vec<&[u8]> = vec![b"HPEXPIRETIME", self.key, b"FIELDS", count.as_bytes()];
        args.extend(pairs.iter().map(|[name, _]| &name[..]));
        let reply = self.ask(channel, &args).await?;
        if reply.is_null() || is_wrong_type(&reply) {
            return Ok(Vec::new());
        }
        let times = self.array(channel, reply)?;
        let read = |time: &Frame| {
            let at = time.as_i64().filter(|at| *at >= 0)?;
            Some(if self.held_deadlines { exact(at) } else { at })
        };
        Ok(times.iter().map(read).collect())
    }

    async fn stream(&self, channel: &mut Channel, store: &mut Store) -> Result<Counters, Error> {
        let page = self.page.to_string();
        let mut from = StreamId::new(0, 0);
        loop {
            let start = from.to_string();
            let args: [&[u8]; 6] = [b"XRANGE", self.key, start.as_bytes(), b"+", b"COUNT", page.as_bytes()];
            let reply = self.ask(channel, &args).await?;
            let entries = self.array(channel, reply)?;
            let mut last = None;
            for entry in &entries {
                let (Some(id), Some(fields)) = (item(entry, 0), entry.as_array().and_then(|e| e.get(1)))
                else {
                    return Err(channel.unexpected(Unexpected(describe(entry))));
                };
                let words = fields.as_array().unwrap_or_default();
                let mut text = Vec::new();
                for word in words.iter().filter_map(Frame::as_bytes) {
                    text.extend(self.hash.bytes(word).to_le_bytes());
                }
                last = stream_id(id);
                self.push(store, id, self.hash.bytes(&text), None)?;
            }
            match last.and_then(next_id) {
                Some(next) => from = next,
                None => break,
            }
        }
        let about = self.ask(channel, &[b"XINFO", b"STREAM", self.key]).await?;
        if about.is_error() {
            // Gone or something else by now, it has no elements, and that shows. Who may not ask cannot tell.
            self.array(channel, about)?;
            return Ok(None);
        }
        let last_id = about.get("last-generated-id").and_then(Frame::as_bytes).cloned().unwrap_or_default();
        self.push(store, names::LAST_ID, self.hash.bytes(&last_id), None)?;
        let added = about.get("entries-added").and_then(Frame::as_i64).map(i64::cast_unsigned);
        let deleted =
            about.get("max-deleted-entry-id").and_then(Frame::as_bytes).and_then(|id| stream_id(id));
        self.groups(channel, store).await?;
        Ok(added.zip(deleted))
    }

    async fn groups(&self, channel: &mut Channel, store: &mut Store) -> Result<(), Error> {
        let reply = self.ask(channel, &[b"XINFO", b"GROUPS", self.key]).await?;
        for group in self.array(channel, reply)? {
            let text = |name: &str| group.get(name).and_then(Frame::as_bytes).cloned().unwrap_or_default();
            let (name, last_id) = (text("name"), text("last-delivered-id"));
            let mut about = last_id.to_vec();
            if self.unreplicated {
                about
                    .extend(format!(" {:?}", group.get("entries-read").and_then(Frame::as_i64)).into_bytes());
                let reply = self.ask(channel, &[b"XINFO", b"CONSUMERS", self.key, &name]).await?;
                for consumer in self.array(channel, reply)? {
                    let consumer = consumer.get("name").and_then(Frame::as_bytes).cloned();
                    self.push(store, &names::consumer(&name, &consumer.unwrap_or_default()), 0, None)?;
                }
            }
            self.push(store, &names::group(&name), self.hash.bytes(&about), None)?;
            self.pending(channel, store, &name).await?;
        }
        Ok(())
    }

    async fn pending(&self, channel: &mut Channel, store: &mut Store, group: &[u8]) -> Result<(), Error> {
        let page = self.page.to_string();
        let mut from = StreamId::new(0, 0);
        loop {
            let start = from.to_string();
            let args: [&[u8]; 6] = [b"XPENDING", self.key, group, start.as_bytes(), b"+", page.as_bytes()];
            let ask = |number: usize, pipeline: &mut Pipeline| {
                if number == 0 { _ = pipeline.push(["TIME"]) } else { _ = pipeline.push(args) }
            };
            let mut replies = channel.each(2, |_| self.key, ask).await?;
            let (Some(reply), Some(time)) = (replies.pop(), replies.pop()) else { return Ok(()) };
            if reply.error().is_some_and(|text| text.starts_with(b"NOGROUP")) {
                return Ok(());
            }
            let time = server_time(&time).unwrap_or_else(now);
            let mut last = None;
            for entry in self.array(channel, reply)? {
                let (Some(id), Some(owner)) = (item(&entry, 0), item(&entry, 1)) else {
                    return Err(channel.unexpected(Unexpected(describe(&entry))));
                };
                let number = |at: usize| {
                    entry.as_array().and_then(|entry| entry.get(at)?.as_i64()).unwrap_or_default()
                };
                let what = [owner, &number(3).to_le_bytes()[..]].concat();
                last = stream_id(id);
                let name = names::pending(group, &String::from_utf8_lossy(id));
                self.push(store, &name, self.hash.bytes(&what), Some(time.saturating_sub(number(2))))?;
            }
            match last.and_then(next_id) {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    fn push(&self, store: &mut Store, name: &[u8], content: u128, expiry: Option<i64>) -> Result<(), Error> {
        let value = ValueDigest { content, ..ValueDigest::default() };
        let element = KeyDigest { db: 0, key: name, kind: Kind::String, value, expiry };
        store.push(&element).map_err(Error::Spill)
    }

    async fn ask(&self, channel: &mut Channel, args: &[&[u8]]) -> Result<Frame, Error> {
        let mut replies = channel.each(1, |_| self.key, |_, pipeline| _ = pipeline.push(args)).await?;
        replies.pop().ok_or(Error::GivenUp)
    }

    /// Elements of a reply; none for a key that is gone or has become something else.
    fn array(&self, channel: &Channel, frame: Frame) -> Result<Vec<Frame>, Error> {
        let gone = frame.is_null()
            || is_wrong_type(&frame)
            || frame.error().is_some_and(|text| text.starts_with(b"ERR no such key"));
        match frame {
            _ if gone => Ok(Vec::new()),
            Frame::Array(items) | Frame::Set(items) => Ok(items),
            other => Err(channel.unexpected(Unexpected(describe(&other)))),
        }
    }
}

fn item(frame: &Frame, at: usize) -> Option<&Bytes> {
    frame.as_array()?.get(at)?.as_bytes()
}

fn stream_id(text: &[u8]) -> Option<StreamId> {
    let (ms, seq) = std::str::from_utf8(text).ok()?.split_once('-')?;
    Some(StreamId::new(ms.parse().ok()?, seq.parse().ok()?))
}

/// The id after this one; `None` after the last that there can be.
fn next_id(id: StreamId) -> Option<StreamId> {
    match (id.ms.checked_add(1), id.seq.checked_add(1)) {
        (_, Some(seq)) => Some(StreamId::new(id.ms, seq)),
        (Some(ms), None) => Some(StreamId::new(ms, 0)),
        (None, None) => None,
    }
}

/// Scores are the same number whatever the text: 7.2 and later write `3.14`, older servers `3.1400000000000001`.
fn score_bits(text: &[u8]) -> u64 {
    let score = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok()).unwrap_or(f64::NAN);
    if score == 0.0 { 0 } else { score.to_bits() }
}

/// The reply to `TIME`, in milliseconds.
fn server_time(frame: &Frame) -> Option<i64> {
    let number = |at| std::str::from_utf8(item(frame, at)?).ok()?.parse::<i64>().ok();
    number(0)?.checked_mul(1000)?.checked_add(number(1)? / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_each_other() {
        let max = u64::MAX;
        assert_eq!(next_id(StreamId::new(1, 1)), Some(StreamId::new(1, 2)));
        assert_eq!(next_id(StreamId::new(1, max)), Some(StreamId::new(2, 0)));
        assert_eq!(next_id(StreamId::new(max, max)), None);
        assert_eq!(stream_id(b"12-3"), Some(StreamId::new(12, 3)));
        assert_eq!([&b"12"[..], b"-", b"x-1", b""].map(stream_id), [None; 4]);
    }

    #[test]
    fn scores_are_numbers() {
        assert_eq!(score_bits(b"3.1400000000000001"), score_bits(b"3.14"));
        assert_eq!(score_bits(b"1e+21"), score_bits(b"1000000000000000000000"));
        assert_eq!(score_bits(b"-0"), score_bits(b"0"));
        assert_eq!(score_bits(b"inf"), f64::INFINITY.to_bits());
        assert_ne!(score_bits(b"0.1"), score_bits(b"0.10000000000000002"));
    }
}
