use std::sync::LazyLock;

use crate::slot::{SLOTS, slot};

/// A name for a further key in the slot of `key`: `prefix`, a hash tag for that slot, and `key` itself.
///
/// Holds for a key of any bytes: with a tag, with stray braces, empty. Different keys get different names (with the same
/// prefix), and the same key always the same name. A `{` in the prefix would take the place of the tag: it is written `(`.
///
/// ```
/// use keyferry_routing::{hash_tag, sibling_key, slot};
///
/// for key in [&b"foo"[..], b"{tag}x", b"}{", b"{}", b"", b"{\0}"] {
///     let sibling = sibling_key(key, b"keyferry:tmp:");
///     assert!(sibling.starts_with(b"keyferry:tmp:{") && sibling.ends_with(key));
///     assert_eq!(slot(&sibling), slot(key));
/// }
/// ```
pub fn sibling_key(key: &[u8], prefix: &[u8]) -> Vec<u8> {
    let tag = tag_for_slot(slot(key)).as_bytes();
    let mut name = Vec::with_capacity(prefix.len() + tag.len() + 2 + key.len());
    name.extend(prefix.iter().map(|&c| if c == b'{' { b'(' } else { c }));
    name.push(b'{');
    name.extend_from_slice(tag);
    name.push(b'}');
    // The tag has no brace, so it can be read back, and the rest is the key: names differ where keys do.
    name.extend_from_slice(key);
    name
}

/// A short text of lower-case letters and digits that hashes to this slot: `{text}` in a key puts it there. The same for
/// each slot in every run. Slots from [`SLOTS`] on do not exist; they are taken modulo `SLOTS`.
///
/// All tags are searched once, when the first one is asked for (some milliseconds).
///
/// ```
/// use keyferry_routing::{slot, tag_for_slot};
///
/// let key = format!("{{{}}}:checkpoint", tag_for_slot(12182));
/// assert_eq!(slot(key.as_bytes()), 12182);
/// ```
pub fn tag_for_slot(slot: u16) -> &'static str {
    TAGS.of(slot % SLOTS)
}

static TAGS: LazyLock<Tags> = LazyLock::new(Tags::search);

/// All tags in one text.
struct Tags {
    text: String,
    /// Where the tag of each slot is: start and length.
    places: Vec<(u32, u8)>,
}

impl Tags {
    /// Takes the first text for each slot, shorter ones first.
    fn search() -> Self {
        let mut tags = Self { text: String::new(), places: vec![(0, 0); usize::from(SLOTS)] };
        let mut missing = SLOTS;
        // Four characters give a hundred texts for each slot, and all slots turn up among them; the loop ends there.
        for number in 0u32.. {
            let tag = text(number);
            let place = &mut tags.places[usize::from(slot(&tag))];
            if place.1 > 0 {
                continue;
            }
            *place = (tags.text.len() as u32, tag.len() as u8);
            tags.text.extend(tag.iter().copied().map(char::from));
            missing -= 1;
            if missing == 0 {
                break;
            }
        }
        tags
    }

    fn of(&self, slot: u16) -> &str {
        let (start, len) = self.places.get(usize::from(slot)).copied().unwrap_or_default();
        let start = start as usize;
        self.text.get(start..start + usize::from(len)).unwrap_or_default()
    }
}

/// Text number `number` of all texts of letters and digits, by length: 0 … z, 00, 01, …
fn text(mut number: u32) -> Vec<u8> {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut text = Vec::new();
    loop {
        text.insert(0, DIGITS[(number % 36) as usize]);
        if number < 36 {
            return text;
        }
        number = number / 36 - 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::hash_tag;

    #[test]
    fn every_slot_has_a_short_tag() {
        let mut seen = HashSet::new();
        for wanted in 0..SLOTS {
            let tag = tag_for_slot(wanted);
            assert!((1..=4).contains(&tag.len()), "{tag}");
            assert!(tag.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()));
            assert_eq!(slot(tag.as_bytes()), wanted);
            assert_eq!(slot(format!("x{{{tag}}}y{{z}}").as_bytes()), wanted);
            assert!(seen.insert(tag));
        }
        assert_eq!(tag_for_slot(SLOTS + 7), tag_for_slot(7));
    }

    #[test]
    fn texts_are_numbered_by_length() {
        let texts: Vec<Vec<u8>> = (0..36 + 36 * 36 + 1).map(text).collect();
        assert_eq!((&texts[0][..], &texts[35][..], &texts[36][..]), (&b"0"[..], &b"z"[..], &b"00"[..]));
        assert_eq!((&texts[36 + 36 * 36 - 1][..], &texts[36 + 36 * 36][..]), (&b"zz"[..], &b"000"[..]));
        assert_eq!(texts.iter().collect::<HashSet<_>>().len(), texts.len());
    }

    fn any_key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(prop::sample::select(b"{}{}ab\0:".to_vec()), 0..10),
        ]
    }

    proptest! {
        #[test]
        fn siblings_share_the_slot(key in any_key(), prefix in any_key()) {
            let sibling = sibling_key(&key, &prefix);
            prop_assert_eq!(slot(&sibling), slot(&key));
            prop_assert_eq!(hash_tag(&sibling), tag_for_slot(slot(&key)).as_bytes());
            if !prefix.contains(&b'{') {
                prop_assert!(sibling.starts_with(&prefix));
            }
            prop_assert!(sibling.len() <= prefix.len() + key.len() + 6);
        }

        #[test]
        fn siblings_of_siblings_share_it_too(key in any_key()) {
            let second = sibling_key(&sibling_key(&key, b"a:"), b"b:");
            prop_assert_eq!(slot(&second), slot(&key));
        }

        #[test]
        fn different_keys_get_different_siblings(a in any_key(), b in any_key(), prefix in any_key()) {
            prop_assert_eq!(a == b, sibling_key(&a, &prefix) == sibling_key(&b, &prefix));
        }
    }
}
