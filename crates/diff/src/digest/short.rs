//! The 128-bit hash of what is short, as most elements are: two multiplications for every 16 bytes, and nothing is copied.
//!
//! The state is two words. A round takes two words of the text in: each is joined with a word of the state in one product of
//! 128 bits and with a key in another, and the halves of both products are laid over each other crosswise. So each half of
//! the new state depends on both words by both products, and where one product vanishes (a word meets its key: one chance
//! in 2⁶⁴) the other still tells. The last round takes in the lengths, so that no two texts give the same rounds.

use super::hash::Tag;

/// Texts of up to so many bytes together are hashed so. Wide registers are quicker for longer ones.
pub(super) const SHORT: usize = 1024;

/// What the hash starts from: numbers that follow from a seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Short {
    start: [u64; 2],
    round: [u64; 2],
    end: [u64; 4],
}

impl Short {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            start: [spread(seed, 1), spread(seed, 2)],
            round: [spread(seed, 3), spread(seed, 4)],
            end: [spread(seed, 5), spread(seed, 6), spread(seed, 7), spread(seed, 8)],
        }
    }

    /// The hash of a number and two texts of [`SHORT`] bytes at most.
    #[inline]
    pub(super) fn hash(&self, tag: Tag, number: u64, first: &[u8], second: &[u8]) -> u128 {
        let state = self.text(self.text(self.start, first), second);
        let lengths = (tag as u64) << 56 | (second.len() as u64) << 28 | first.len() as u64;
        let [a, b] = self.round(state, number, lengths);
        // All of the state meets all of it once more, so that sums of hashes tell nothing of their parts.
        let p = product(a ^ self.end[0], b ^ self.end[1]);
        let q = product(a.rotate_left(32) ^ self.end[2], b.rotate_left(32) ^ self.end[3]);
        u128::from(q[0] ^ p[1]) << 64 | u128::from(p[0] ^ q[1])
    }

    #[inline(always)]
    fn text(&self, mut state: [u64; 2], text: &[u8]) -> [u64; 2] {
        let mut rest = text;
        while let Some((block, more)) = rest.split_first_chunk::<16>()
            && !more.is_empty()
        {
            let [x, y] = words(block);
            state = self.round(state, x, y);
            rest = more;
        }
        // The last 16 bytes, whether or not some were taken before.
        match text.last_chunk::<16>() {
            Some(block) => {
                let [x, y] = words(block);
                self.round(state, x, y)
            }
            None if text.is_empty() => state,
            None => {
                let [x, y] = ends(text);
                self.round(state, x, y)
            }
        }
    }

    #[inline(always)]
    fn round(&self, [a, b]: [u64; 2], x: u64, y: u64) -> [u64; 2] {
        let p = product(a ^ x, self.round[0] ^ y);
        let q = product(b ^ y, self.round[1] ^ x);
        [p[0] ^ q[1], q[0] ^ p[1]]
    }
}

/// The low and the high half of a product.
#[inline(always)]
fn product(a: u64, b: u64) -> [u64; 2] {
    let product = u128::from(a) * u128::from(b);
    [product as u64, (product >> 64) as u64]
}

#[inline(always)]
fn words(block: &[u8; 16]) -> [u64; 2] {
    let both = u128::from_le_bytes(*block);
    [both as u64, (both >> 64) as u64]
}

/// All of fewer than 16 bytes: from the front and from the back, which may overlap.
#[inline(always)]
fn ends(text: &[u8]) -> [u64; 2] {
    if let (Some(front), Some(back)) = (text.first_chunk(), text.last_chunk()) {
        return [u64::from_le_bytes(*front), u64::from_le_bytes(*back)];
    }
    if let (Some(front), Some(back)) = (text.first_chunk(), text.last_chunk()) {
        return [u32::from_le_bytes(*front), u32::from_le_bytes(*back)].map(u64::from);
    }
    match text {
        [] => [0, 0],
        // One to three bytes: the first, the middle and the last.
        [first, .., last] => [u64::from_le_bytes([*first, text[text.len() / 2], *last, 0, 0, 0, 0, 0]), 0],
        [only] => [u64::from(*only), 0],
    }
}

/// A number in which each bit depends on all of a seed and on `which`.
const fn spread(seed: u64, which: u64) -> u64 {
    // Odd, with bits in no order: digits of the golden ratio, then of π.
    let mut n = seed.wrapping_add(which.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut turn = 0;
    while turn < 3 {
        n = (n ^ n >> 32).wrapping_mul(0x243F_6A88_85A3_08D3);
        turn += 1;
    }
    n ^ n >> 32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const SEEDS: [u64; 2] = [0, 0x1234_5678_9ABC_DEF0];
    /// How many hashes are looked at together.
    const MANY: u64 = 50_000;

    fn random(n: &mut u64) -> u64 {
        *n = n.wrapping_add(1);
        spread(7, *n)
    }

    fn bytes(n: &mut u64, len: usize) -> Vec<u8> {
        (0..len).map(|_| random(n) as u8).collect()
    }

    /// Each bit of a number, of a text and of the seed changes each bit of the hash half of the time.
    #[test]
    fn every_bit_of_the_input_changes_every_bit_of_the_hash_half_of_the_time() {
        const TRIES: usize = 200;
        let check = |what: &str, bits: usize, hash: &dyn Fn(&[u8]) -> u128| {
            let mut n = 0;
            for bit in 0..bits {
                let mut changes = [0u32; 128];
                for _ in 0..TRIES {
                    let mut text = bytes(&mut n, bits / 8);
                    let before = hash(&text);
                    text[bit / 8] ^= 1 << (bit % 8);
                    let changed = before ^ hash(&text);
                    changes
                        .iter_mut()
                        .enumerate()
                        .for_each(|(at, count)| *count += (changed >> at & 1) as u32);
                }
                // 100 are expected, with a deviation of 7: six of these are not met once in millions of counts.
                let (least, most) = (changes.iter().min(), changes.iter().max());
                assert!(least > Some(&57) && most < Some(&143), "{what}, bit {bit}: {least:?} to {most:?}");
            }
        };
        let short = Short::new(3);
        for len in [1, 3, 4, 8, 15, 16, 17, 33] {
            check(&format!("{len} bytes"), 8 * len, &|text| short.hash(Tag::Field, 5, text, b"value"));
            check(&format!("{len} bytes behind"), 8 * len, &|text| short.hash(Tag::Field, 5, b"name", text));
        }
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        check("number", 64, &|bytes| short.hash(Tag::Scored, number(bytes), b"member", b""));
        check("seed", 64, &|bytes| Short::new(number(bytes)).hash(Tag::Item, 0, b"item", b""));
    }

    /// All are different, and 24 bits of two agree as seldom as those of random numbers.
    fn are_like_random(what: &str, hashes: &[u128]) {
        const BITS: u32 = 24;
        let all: HashSet<u128> = hashes.iter().copied().collect();
        assert_eq!(all.len(), hashes.len(), "{what}: two hashes are the same");
        let count = hashes.len() as f64;
        let expected = count * count / 2.0 / f64::from(1 << BITS);
        for shift in (0..=128 - BITS).step_by(8) {
            let (mut seen, mut pairs) = (vec![0u64; 1 << (BITS - 6)], 0.0);
            for hash in hashes {
                let bits = (hash >> shift) as usize % (1 << BITS);
                pairs += f64::from((seen[bits / 64] >> (bits % 64) & 1) as u8);
                seen[bits / 64] |= 1 << (bits % 64);
            }
            let most = expected + 6.0 * expected.sqrt() + 6.0;
            assert!(
                pairs < most,
                "{what}: {pairs} pairs agree from bit {shift} on, {expected} are to be expected"
            );
        }
    }

    #[test]
    fn near_equal_elements_have_hashes_as_different_as_random_numbers() {
        for seed in SEEDS {
            let short = Short::new(seed);
            let every = |what: &str, hash: &dyn Fn(u64) -> u128| {
                let hashes: Vec<u128> = (0..MANY).map(hash).collect();
                are_like_random(&format!("{what}, seed {seed}"), &hashes);
            };
            every("numbers as text", &|n| short.hash(Tag::Member, 0, n.to_string().as_bytes(), b""));
            every("numbers", &|n| short.hash(Tag::Scored, n, b"", b""));
            every("scores", &|n| short.hash(Tag::Scored, (n as f64).to_bits(), b"member", b""));
            every("high bits", &|n| short.hash(Tag::Scored, n << 46, b"member", b""));
            every("a number at the end of a long text", &|n| {
                short.hash(
                    Tag::Member,
                    0,
                    format!("a name that many have at their front:{n:08}").as_bytes(),
                    b"",
                )
            });
            every("a number in front of a long text", &|n| {
                short.hash(
                    Tag::Member,
                    0,
                    format!("{n:08}:what many have at their end, and more").as_bytes(),
                    b"",
                )
            });
            every("fields and values that count the other way", &|n| {
                short.hash(Tag::Field, 0, format!("field:{n}").as_bytes(), (MANY - n).to_string().as_bytes())
            });
            every("a word in two places", &|n| {
                // What one word changes must not be taken back by the next.
                let word = (n + 1).to_le_bytes();
                short.hash(Tag::Member, n + 1, &[word, word, word, word].concat(), &word)
            });
            every("two words that add up", &|n| {
                let words = [n.to_le_bytes(), (MANY - n).to_le_bytes()];
                short.hash(Tag::Member, 0, words.as_flattened(), b"")
            });
        }
    }

    /// Texts with no more than two bytes that are not zero, of all lengths.
    #[test]
    fn nearly_empty_texts_have_different_hashes() {
        let short = Short::new(0);
        let mut hashes = Vec::new();
        for len in 0..=40 {
            let mut text = vec![0; len];
            hashes.push(short.hash(Tag::Member, 0, &text, b""));
            for one in 0..len {
                for bit in 0..8 {
                    text[one] = 1 << bit;
                    hashes.push(short.hash(Tag::Member, 0, &text, b""));
                    for other in one + 1..len {
                        text[other] = 0x80 >> bit;
                        hashes.push(short.hash(Tag::Member, 0, &text, b""));
                        text[other] = 0;
                    }
                }
                text[one] = 0;
            }
        }
        are_like_random("nearly empty texts", &hashes);
    }

    /// Where one text ends and the other begins, the tag and the number count.
    #[test]
    fn what_is_what_counts() {
        let short = Short::new(0);
        let text = bytes(&mut 9, 40);
        let mut hashes = Vec::new();
        for len in 0..=text.len() {
            for cut in 0..=len {
                let (first, second) = text[..len].split_at(cut);
                for tag in [Tag::Member, Tag::Field, Tag::Item] {
                    hashes.extend([0, 1, 1 << 63].map(|number| short.hash(tag, number, first, second)));
                }
            }
        }
        are_like_random("cuts", &hashes);
    }

    /// Sums over other pairings of the same names and values are others.
    #[test]
    fn sums_tell_what_belongs_together() {
        for seed in SEEDS {
            let short = Short::new(seed);
            let field = |name: u64, value: u64| {
                short.hash(Tag::Field, 0, format!("f{name}").as_bytes(), value.to_string().as_bytes())
            };
            let mut sums = Vec::new();
            for n in 0..MANY / 4 {
                let (a, b) = (n % 223, n / 223);
                sums.push(field(a, b).wrapping_add(field(300 + a, 300 + b)));
                sums.push(field(a, 300 + b).wrapping_add(field(300 + a, b)));
                let item = |at: u64, item: u64| short.hash(Tag::Item, at, &item.to_le_bytes(), b"");
                sums.push(item(0, a).wrapping_add(item(1, 300 + b)));
                sums.push(item(1, a).wrapping_add(item(0, 300 + b)));
            }
            are_like_random(&format!("sums, seed {seed}"), &sums);
        }
    }
}
