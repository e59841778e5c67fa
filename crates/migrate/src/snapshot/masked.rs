//! Values that are masked before they are encoded.

use keyferry_rdb::{EntryHead, Event, Eviction, Kind, RawValue, ValueType};

use super::{
    State,
    large::{LARGEST_PAYLOAD, Large},
};
use crate::{error::Error, output::Output, snapshot_filter::Masks};

/// A large string that is to be masked as a whole.
#[derive(Debug)]
pub(super) struct MaskedString {
    db: u64,
    key: Vec<u8>,
    ty: ValueType,
    expiry: Option<i64>,
    eviction: Option<Eviction>,
    meta: Option<Vec<u8>>,
    bytes: Vec<u8>,
    masks: Masks,
}

impl State {
    /// An event about a key whose values are masked.
    pub(super) fn masked(&mut self, event: Event<'_>, masks: Masks, out: &mut Output) -> Result<(), Error> {
        match event {
            Event::Entry(entry) if !entry.value.is_empty_container() => {
                self.masked_entry(entry.head, entry.value, &masks, out)
            }
            Event::ValueStart(head) if head.ty.kind() == Kind::String => {
                self.masked_string = Some(MaskedString {
                    db: head.db,
                    key: head.key.to_vec(),
                    ty: head.ty,
                    expiry: head.expiry,
                    eviction: head.eviction,
                    meta: head.meta.map(<[u8]>::to_vec),
                    bytes: Vec::new(),
                    masks,
                });
                Ok(())
            }
            Event::ValueStart(head) => {
                let treat = self.treatment_of(&head);
                self.start_large(&head, treat, out)?;
                match &mut self.large {
                    Some(Large::Native { masks: on, .. } | Large::Union { masks: on, .. }) => {
                        *on = Some(masks);
                        Ok(())
                    }
                    Some(Large::Rewritten(building)) => {
                        building.masks = Some(masks);
                        Ok(())
                    }
                    // Nothing of it goes over.
                    Some(Large::Expired { .. } | Large::Lost { .. }) => Ok(()),
                    Some(Large::Whole { .. }) | None => {
                        let what = format!("key {:?} ({})", String::from_utf8_lossy(head.key), head.ty);
                        Err(self.unsupported(
                            what,
                            "it is large, has data of a module, and its values are to be masked",
                        ))
                    }
                }
            }
            other => self.event(other, out),
        }
    }

    fn masked_entry(
        &mut self,
        mut head: EntryHead<'_>,
        value: RawValue<'_>,
        masks: &Masks,
        out: &mut Output,
    ) -> Result<(), Error> {
        let masked = masks.value(&head, value, &self.templates)?;
        head.ty = masked.ty;
        self.entry(&head, RawValue::new(masked.ty, &masked.bytes), out)
    }

    pub(super) fn masked_part(&mut self, part: &[u8]) -> Result<(), Error> {
        let Some(string) = &mut self.masked_string else { return Ok(()) };
        if string.bytes.len() + part.len() > LARGEST_PAYLOAD {
            let what = format!("key {:?}", String::from_utf8_lossy(&string.key));
            return Err(self.unsupported(what, "it is to be masked as a whole and is above 512 MiB"));
        }
        string.bytes.extend_from_slice(part);
        Ok(())
    }

    pub(super) fn end_masked(&mut self, out: &mut Output) -> Result<(), Error> {
        let Some(string) = self.masked_string.take() else { return Ok(()) };
        let mut head = EntryHead::new(string.db, &string.key, string.ty).with_expiry(string.expiry);
        (head.eviction, head.meta) = (string.eviction, string.meta.as_deref());
        self.counts.large += 1;
        self.masked_entry(head, RawValue::new(string.ty, &string.bytes), &string.masks, out)
    }

    /// Whether what comes next is no part of a value that has begun.
    pub(super) fn is_between_values(&self) -> bool {
        self.large.is_none() && self.masked_string.is_none()
    }
}
