//! How many elements a value has, and how large they are.

use keyferry_rdb::elements::Element;

/// Counts over the elements of one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ElementSizes {
    /// Number of items, members, fields, stream entries; 1 for a string.
    pub count: u64,
    /// Bytes of all of them: of members without scores, of fields with their values, of all fields of an entry.
    pub bytes: u64,
    /// Bytes of the largest of them; of the whole for strings and for values of modules.
    pub largest: u64,
}

impl ElementSizes {
    /// Counts an element.
    #[inline]
    pub fn add(&mut self, element: &Element<'_>) {
        let bytes = match element {
            Element::Chunk(bytes) | Element::Opaque(bytes) => {
                // Pieces of one.
                self.count = 1;
                self.bytes += bytes.len() as u64;
                self.largest = self.bytes;
                return;
            }
            Element::Item(item) | Element::Member(item) => item.len(),
            Element::Scored { member, .. } => member.len(),
            Element::Field { name, value, .. } => name.len() + value.len(),
            Element::ArrayItem { value, .. } => value.len(),
            Element::StreamEntry(entry) => entry.fields().map(|(name, value)| name.len() + value.len()).sum(),
            Element::RateLimit(_) => 8,
            _ => return,
        } as u64;
        self.count += 1;
        self.bytes += bytes;
        self.largest = self.largest.max(bytes);
    }
}
