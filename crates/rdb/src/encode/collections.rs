//! Lists, sets, sorted sets, hashes and arrays.

use super::source::{Source, Survey};
use super::{Encoder, blobs};
use crate::elements::{Element, Score};
use crate::error::Error;
use crate::native::Loss;
use crate::types::ValueType;
use crate::wire::{canonical_int, put_len};

/// A quicklist node that is one item.
const PLAIN_NODE: u64 = 1;
/// A quicklist node that is a listpack of items.
const PACKED_NODE: u64 = 2;
/// Servers refuse field expiries beyond this.
const MAX_FIELD_EXPIRY: i64 = (1 << 48) - 1;
/// What an entry of a ziplist or listpack takes besides its bytes, at most.
const ENTRY_OVERHEAD: usize = 11;
/// Strings of an array up to this length have a tag of their own.
const SHORT_ARRAY_STRING: usize = 7;

impl Encoder {
    pub(super) fn list(
        &mut self,
        source: &Source<'_>,
        survey: &Survey,
        out: &mut Vec<u8>,
    ) -> Result<ValueType, Error> {
        let compact = self.target.compact;
        if self.target.version() < 7 {
            if !survey.is_within(compact.list_entries, compact.list_value) {
                put_len(out, survey.count);
                source.visit(&mut |element| {
                    if let Element::Item(item) = element {
                        self.strings.put(item, out);
                    }
                    Ok(())
                })?;
                return Ok(ValueType::List);
            }
            self.ziplist.clear();
            source.visit(&mut |element| {
                if let Element::Item(item) = element {
                    self.ziplist.push(item);
                }
                Ok(())
            })?;
            self.put_ziplist(out);
            return Ok(ValueType::ListZiplist);
        }
        // The number of nodes comes first, so the nodes are written elsewhere before they are appended.
        let mut nodes = Vec::new();
        let mut count = 0u64;
        self.listpack.clear();
        self.ziplist.clear();
        let packed = self.target.listpacks();
        source.visit(&mut |element| {
            let Element::Item(item) = element else { return Ok(()) };
            let size = if packed { self.listpack.size() } else { self.ziplist.size() };
            if size + item.len() + ENTRY_OVERHEAD > compact.list_node_bytes {
                count += self.end_node(packed, &mut nodes);
            }
            if !packed {
                self.ziplist.push(item);
            } else if item.len() > compact.list_node_bytes {
                put_len(&mut nodes, PLAIN_NODE);
                self.strings.put_bytes(item, &mut nodes);
                count += 1;
            } else {
                self.listpack.push(item);
            }
            Ok(())
        })?;
        count += self.end_node(packed, &mut nodes);
        put_len(out, count);
        out.extend_from_slice(&nodes);
        Ok(if packed { ValueType::ListQuicklist2 } else { ValueType::ListQuicklist })
    }

    /// Appends the node at hand and begins the next. Gives how many nodes that were.
    fn end_node(&mut self, packed: bool, nodes: &mut Vec<u8>) -> u64 {
        if packed {
            if self.listpack.is_empty() {
                return 0;
            }
            put_len(nodes, PACKED_NODE);
            self.put_listpack(nodes);
            self.listpack.clear();
        } else {
            if self.ziplist.is_empty() {
                return 0;
            }
            self.put_ziplist(nodes);
            self.ziplist.clear();
        }
        1
    }

    pub(super) fn set(
        &mut self,
        source: &Source<'_>,
        survey: &Survey,
        out: &mut Vec<u8>,
    ) -> Result<ValueType, Error> {
        let compact = self.target.compact;
        if survey.integers && survey.count <= compact.set_integers as u64 {
            let mut numbers = Vec::new();
            source.visit(&mut |element| {
                if let Element::Member(member) = element {
                    numbers.extend(canonical_int(member));
                }
                Ok(())
            })?;
            numbers.sort_unstable();
            if numbers.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(Error::Corrupt { offset: 0, what: "a set has one member twice", key: None });
            }
            self.blob.clear();
            blobs::intset(&numbers, &mut self.blob);
            self.strings.put_bytes(&self.blob, out);
            return Ok(ValueType::SetIntset);
        }
        if self.target.accepts(ValueType::SetListpack)
            && !survey.integers
            && survey.is_within(compact.set_entries, compact.set_value)
        {
            self.listpack.clear();
            source.visit(&mut |element| {
                if let Element::Member(member) = element {
                    self.listpack.push(member);
                }
                Ok(())
            })?;
            self.put_listpack(out);
            return Ok(ValueType::SetListpack);
        }
        put_len(out, survey.count);
        source.visit(&mut |element| {
            if let Element::Member(member) = element {
                self.strings.put(member, out);
            }
            Ok(())
        })?;
        Ok(ValueType::Set)
    }

    pub(super) fn sorted_set(
        &mut self,
        source: &Source<'_>,
        survey: &Survey,
        out: &mut Vec<u8>,
    ) -> Result<ValueType, Error> {
        let compact = self.target.compact;
        if survey.is_within(compact.zset_entries, compact.zset_value) {
            // A compact sorted set is in the order of scores, then of members.
            let mut members = Vec::new();
            source.visit(&mut |element| {
                if let Element::Scored { member, score } = element {
                    members.push((score.value(), member.to_vec()));
                }
                Ok(())
            })?;
            members
                .sort_by(|(a, x), (b, y)| a.partial_cmp(b).unwrap_or(a.total_cmp(b)).then_with(|| x.cmp(y)));
            self.listpack.clear();
            self.ziplist.clear();
            for (score, member) in &members {
                let score = Score::new(*score).to_string();
                if self.target.listpacks() {
                    self.listpack.push(member);
                    self.listpack.push(score.as_bytes());
                } else {
                    self.ziplist.push(member);
                    self.ziplist.push(score.as_bytes());
                }
            }
            if self.target.listpacks() {
                self.put_listpack(out);
                return Ok(ValueType::ZsetListpack);
            }
            self.put_ziplist(out);
            return Ok(ValueType::ZsetZiplist);
        }
        let binary = self.target.accepts(ValueType::Zset);
        put_len(out, survey.count);
        source.visit(&mut |element| {
            if let Element::Scored { member, score } = element {
                self.strings.put(member, out);
                if binary {
                    out.extend_from_slice(&score.value().to_le_bytes());
                } else {
                    put_text_score(*score, out);
                }
            }
            Ok(())
        })?;
        Ok(if binary { ValueType::Zset } else { ValueType::ZsetText })
    }

    pub(super) fn hash(
        &mut self,
        source: &Source<'_>,
        survey: &Survey,
        losses: &mut Vec<Loss>,
        out: &mut Vec<u8>,
    ) -> Result<ValueType, Error> {
        let compact = self.target.compact;
        let is_small = survey.is_within(compact.hash_entries, compact.hash_value);
        if survey.expiring > 0 && self.target.accepts(ValueType::HashValkey) {
            put_len(out, survey.count);
            source.visit(&mut |element| {
                if let Element::Field { name, value, expires_at } = element {
                    self.strings.put(name, out);
                    self.strings.put(value, out);
                    out.extend_from_slice(&expires_at.map_or(-1, |at| at.max(0)).to_le_bytes());
                }
                Ok(())
            })?;
            return Ok(ValueType::HashValkey);
        }
        if let Some(min) = survey.min_expiry
            && self.target.accepts(ValueType::HashTtl)
        {
            return self.hash_with_expiries(source, survey, min, is_small, losses, out);
        }
        if survey.expiring > 0 {
            losses.push(Loss::FieldExpiry { fields: survey.expiring });
        }
        if !is_small {
            put_len(out, survey.count);
            source.visit(&mut |element| {
                if let Element::Field { name, value, .. } = element {
                    self.strings.put(name, out);
                    self.strings.put(value, out);
                }
                Ok(())
            })?;
            return Ok(ValueType::Hash);
        }
        let packed = self.target.listpacks();
        self.listpack.clear();
        self.ziplist.clear();
        source.visit(&mut |element| {
            if let Element::Field { name, value, .. } = element {
                for bytes in [name, value] {
                    if packed {
                        self.listpack.push(bytes);
                    } else {
                        self.ziplist.push(bytes);
                    }
                }
            }
            Ok(())
        })?;
        if packed {
            self.put_listpack(out);
            return Ok(ValueType::HashListpack);
        }
        self.put_ziplist(out);
        Ok(ValueType::HashZiplist)
    }

    /// Redis' way: one expiry for all to count from, and, in the compact form, fields in the order of expiry.
    fn hash_with_expiries(
        &mut self,
        source: &Source<'_>,
        survey: &Survey,
        min: i64,
        is_small: bool,
        losses: &mut Vec<Loss>,
        out: &mut Vec<u8>,
    ) -> Result<ValueType, Error> {
        // Zero stands for no expiry, and what is past is past; expiries too far away are as good as none.
        let min = min.clamp(1, MAX_FIELD_EXPIRY);
        let mut beyond = 0;
        let mut expiry = |at: Option<i64>| {
            let far = at.is_some_and(|at| at > MAX_FIELD_EXPIRY);
            beyond += u64::from(far);
            at.filter(|_| !far).map(|at| at.max(1))
        };
        out.extend_from_slice(&min.to_le_bytes());
        let ty = if is_small {
            let mut fields = Vec::new();
            source.visit(&mut |element| {
                if let Element::Field { name, value, expires_at } = element {
                    fields.push((expiry(*expires_at), name.to_vec(), value.to_vec()));
                }
                Ok(())
            })?;
            fields.sort_by_key(|(at, ..)| at.unwrap_or(i64::MAX));
            self.listpack.clear();
            for (at, name, value) in &fields {
                self.listpack.push(name);
                self.listpack.push(value);
                self.listpack.push_int(at.unwrap_or(0));
            }
            self.put_listpack(out);
            ValueType::HashListpackTtl
        } else {
            put_len(out, survey.count);
            source.visit(&mut |element| {
                if let Element::Field { name, value, expires_at } = element {
                    let after = expiry(*expires_at).map_or(0, |at| (at - min + 1).unsigned_abs());
                    put_len(out, after);
                    self.strings.put(name, out);
                    self.strings.put(value, out);
                }
                Ok(())
            })?;
            ValueType::HashTtl
        };
        if beyond > 0 {
            losses.push(Loss::FieldExpiry { fields: beyond });
        }
        Ok(ty)
    }

    pub(super) fn array(
        &mut self,
        source: &Source<'_>,
        survey: &Survey,
        out: &mut Vec<u8>,
    ) -> Result<ValueType, Error> {
        put_len(out, survey.count);
        match survey.cursor {
            Some(cursor) => {
                out.push(1);
                put_len(out, cursor);
            }
            None => out.push(0),
        }
        source.visit(&mut |element| {
            let Element::ArrayItem { index, value } = element else { return Ok(()) };
            put_len(out, *index);
            if let Some(n) = canonical_int(value) {
                out.push(1);
                out.extend_from_slice(&n.to_le_bytes());
            } else {
                out.push(if value.len() <= SHORT_ARRAY_STRING { 3 } else { 0 });
                self.strings.put_bytes(value, out);
            }
            Ok(())
        })?;
        Ok(ValueType::Array)
    }

    /// Appends the listpack at hand as a string.
    pub(super) fn put_listpack(&mut self, out: &mut Vec<u8>) {
        self.blob.clear();
        self.listpack.finish(&mut self.blob);
        self.strings.put_bytes(&self.blob, out);
    }

    fn put_ziplist(&mut self, out: &mut Vec<u8>) {
        self.blob.clear();
        self.ziplist.finish(&mut self.blob);
        self.strings.put_bytes(&self.blob, out);
    }
}

/// A score as text, of which the shortest that reads back is at most 24 bytes.
fn put_text_score(score: Score<'_>, out: &mut Vec<u8>) {
    let value = score.value();
    if value.is_infinite() {
        out.push(if value > 0.0 { 254 } else { 255 });
    } else {
        let text = score.to_string();
        out.push(text.len() as u8);
        out.extend_from_slice(text.as_bytes());
    }
}
