//! Field names of hash templates (RDB 15, Redis 8.10).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::Error;
use crate::event::HashTemplate;
use crate::text;
use crate::wire::{self, Stop};

/// The templates of a file, by number. Clones share what they know.
///
/// Give it every [`Event::HashTemplate`](crate::Event::HashTemplate) of a snapshot; decoders of hashes look there.
#[derive(Clone, Debug, Default)]
pub struct Templates(Arc<RwLock<HashMap<u64, Arc<FieldNames>>>>);

/// Names in order, end to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct FieldNames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Templates {
    /// No templates.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers a template.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when a name does not decode. The offset counts from the start of
    /// [`HashTemplate::fields`].
    pub fn learn(&self, template: &HashTemplate<'_>) -> Result<(), Error> {
        let mut names = FieldNames::default();
        let mut at = 0;
        for _ in 0..template.len {
            let corrupt = |what| Error::Corrupt { offset: at as u64, what, key: None };
            let head = wire::str_head(&template.fields[at..]).map_err(|stop| match stop {
                Stop::Need => corrupt("a template ends inside a field name"),
                Stop::Bad(what) => corrupt(what),
            })?;
            let start = at + head.head;
            let payload = usize::try_from(head.payload)
                .ok()
                .and_then(|len| template.fields.get(start..)?.get(..len))
                .ok_or_else(|| corrupt("a template ends inside a field name"))?;
            names.push(payload, head).map_err(corrupt)?;
            at = start + payload.len();
        }
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(template.id, Arc::new(names));
        Ok(())
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<FieldNames>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }
}

impl FieldNames {
    fn push(&mut self, payload: &[u8], head: wire::StrHead) -> Result<(), &'static str> {
        match text::decode(payload, head, 0, usize::MAX, &mut self.bytes) {
            Ok(text::Place::Buffer { .. }) => self.bytes.extend_from_slice(payload),
            Ok(text::Place::Scratch { .. }) => {}
            Err(text::Fault::Bad(what)) => return Err(what),
            Err(text::Fault::Limit { .. }) => return Err("a field name is too long"),
        }
        self.ends.push(self.bytes.len());
        Ok(())
    }

    /// Adds a name that is decoded already.
    pub(crate) fn push_name(&mut self, name: &[u8]) {
        self.bytes.extend_from_slice(name);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all names.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the names are in the order that servers demand, by length and then by bytes, without repetition.
    pub(crate) fn is_sorted(&self) -> bool {
        let key = |i: usize| self.get(i).map(|name| (name.len(), name));
        (1..self.len()).all(|i| key(i - 1) < key(i))
    }

    /// Name number `i`.
    pub(crate) fn get(&self, i: usize) -> Option<&[u8]> {
        let end = *self.ends.get(i)?;
        let start = i.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |start| *start);
        self.bytes.get(start..end)
    }
}
