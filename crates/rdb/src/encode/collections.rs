//! Lists, sets, sorted sets, hashes and arrays.

use super::plain::{Plain, first_expiry, kept_expiry, lost_expiries, plain_type};
use super::source::{Source, Survey};
use super::{Encoder, blobs};
use crate::elements::{Element, Score};
use crate::error::Error;
use crate::native::Loss;
use crate::types::{Kind, ValueType};
use crate::wire::{canonical_int, put_len};

/// A quicklist node that is one item.
const PLAIN_NODE: u64 = 1;
/// A quicklist node that is a listpack of items.
const PACKED_NODE: u64 = 2;
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
                return self.plain(source, survey, ValueType::List, out);
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
        self.plain(source, survey, ValueType::Set, out)
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
        let ty = plain_type(&self.target, Kind::SortedSet, survey).unwrap_or(ValueType::ZsetText);
        self.plain(source, survey, ty, out)
    }

    /// Writes elements one after the other, behind their number.
    fn plain(
        &mut self,
        source: &Source<'_>,
        survey: &Survey,
        ty: ValueType,
        out: &mut Vec<u8>,
    ) -> Result<ValueType, Error> {
        let plain = Plain::begin(ty, survey, out);
        source.visit(&mut |element| {
            plain.put(element, &mut self.strings, out);
            Ok(())
        })?;
        Ok(ty)
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
        let ty = plain_type(&self.target, Kind::Hash, survey).unwrap_or(ValueType::Hash);
        losses.extend(lost_expiries(ty, survey));
        match ty {
            ValueType::HashTtl if is_small => return self.hash_with_expiries(source, survey, out),
            ValueType::Hash if is_small => {}
            ty => return self.plain(source, survey, ty, out),
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

    /// Redis' compact way: fields in the order of expiry.
    fn hash_with_expiries(
        &mut self,
        source: &Source<'_>,
        survey: &Survey,
        out: &mut Vec<u8>,
    ) -> Result<ValueType, Error> {
        out.extend_from_slice(&first_expiry(survey).to_le_bytes());
        let mut fields = Vec::new();
        source.visit(&mut |element| {
            if let Element::Field { name, value, expires_at } = element {
                fields.push((kept_expiry(*expires_at), name.to_vec(), value.to_vec()));
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
        Ok(ValueType::HashListpackTtl)
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
