//! CRC-64 of RDB files and DUMP payloads.
//!
//! Polynomial `0xAD93D23594C935A9`, reflected, initial value 0, no final xor ("CRC-64/REDIS").
//!
//! One CRC is a chain: each lookup waits for the one before. Long inputs are therefore cut into [`LANES`] lanes whose
//! chains run side by side; the results are joined by the rule that the CRC of `a` followed by `b` is the CRC of `a`
//! followed by as many zero bytes as `b` has, xor the CRC of `b`. Appending a fixed number of zero bytes is a linear
//! map of 64 bits, kept as the images of the single bits.

use crc::{CRC_64_REDIS, Crc, Table};

static TABLES: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// The CRC-64 of `bytes`, continuing from `seed`: the result for what came before, or 0 at the start.
///
/// ```
/// use keyferry_rdb::crc64;
///
/// assert_eq!(crc64(0, b"123456789"), 0xE9C6_D914_C4B8_D9CA);
/// assert_eq!(crc64(crc64(0, b"1234"), b"56789"), crc64(0, b"123456789"));
/// ```
#[must_use]
#[inline]
pub fn crc64(seed: u64, bytes: &[u8]) -> u64 {
    #[cfg(feature = "crc-fast")]
    if bytes.len() >= FOLDING_PAYS {
        return fold(seed, bytes);
    }
    #[cfg(not(feature = "crc-fast"))]
    if bytes.len() >= LANES * LANE {
        return lanes(seed, bytes);
    }
    chain(seed, bytes)
}

/// A running CRC-64.
///
/// ```
/// use keyferry_rdb::Crc64;
///
/// let mut crc = Crc64::new();
/// crc.update(b"1234");
/// crc.update(b"56789");
/// assert_eq!(crc.value(), 0xE9C6_D914_C4B8_D9CA);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crc64(u64);

impl Crc64 {
    /// The CRC of no bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Takes `bytes` in.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) {
        self.0 = crc64(self.0, bytes);
    }

    /// The CRC of everything taken in.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}

/// Below this many bytes the setting up of carry-less multiplication costs more than it saves.
#[cfg(feature = "crc-fast")]
const FOLDING_PAYS: usize = 192;

#[cfg(feature = "crc-fast")]
fn fold(seed: u64, bytes: &[u8]) -> u64 {
    let mut digest = crc_fast::Digest::new_with_init_state(crc_fast::CrcAlgorithm::Crc64Redis, seed);
    digest.update(bytes);
    digest.finalize()
}

fn chain(seed: u64, bytes: &[u8]) -> u64 {
    let mut digest = TABLES.digest_with_initial(seed.reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

#[cfg(any(test, not(feature = "crc-fast")))]
use lanes::lanes;
#[cfg(not(feature = "crc-fast"))]
use lanes::{LANE, LANES};

#[cfg(any(test, not(feature = "crc-fast")))]
mod lanes {
    use super::{TABLES, chain};

    /// Bytes of one lane.
    pub(crate) const LANE: usize = 2048;
    pub(crate) const LANES: usize = 4;

    /// The images of single bits under appending `LANE` zero bytes.
    static APPEND_LANE: [u64; 64] = append_zeros(LANE);

    pub(crate) fn lanes(mut crc: u64, bytes: &[u8]) -> u64 {
        let tables = TABLES.table();
        let mut blocks = bytes.chunks_exact(LANES * LANE);
        for block in &mut blocks {
            let [a, b, c, d]: [&[[u8; 8]]; LANES] =
                std::array::from_fn(|lane| block[lane * LANE..(lane + 1) * LANE].as_chunks().0);
            let mut sums = [crc, 0, 0, 0];
            for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
                for (sum, bytes) in sums.iter_mut().zip([a, b, c, d]) {
                    *sum = word(tables, *sum ^ u64::from_le_bytes(*bytes));
                }
            }
            crc = sums.into_iter().fold(0, |crc, sum| apply(&APPEND_LANE, crc) ^ sum);
        }
        chain(crc, blocks.remainder())
    }

    /// The CRC of eight bytes, the CRC before them mixed in.
    #[inline(always)]
    fn word(t: &[[u64; 256]; 16], x: u64) -> u64 {
        let [a, b, c, d, e, f, g, h] = x.to_le_bytes().map(usize::from);
        t[7][a] ^ t[6][b] ^ t[5][c] ^ t[4][d] ^ t[3][e] ^ t[2][f] ^ t[1][g] ^ t[0][h]
    }

    const fn append_zeros(bytes: usize) -> [u64; 64] {
        // One zero bit: a shift, and the reflected polynomial when a one falls out.
        let mut step = [0; 64];
        step[0] = crc::CRC_64_REDIS.poly.reverse_bits();
        let mut map = [0; 64];
        let mut i = 0;
        while i < 64 {
            map[i] = 1 << i;
            if i > 0 {
                step[i] = 1 << (i - 1);
            }
            i += 1;
        }
        let mut bits = bytes * 8;
        while bits > 0 {
            if bits & 1 == 1 {
                map = compose(&step, &map);
            }
            step = compose(&step, &step);
            bits >>= 1;
        }
        map
    }

    const fn compose(outer: &[u64; 64], inner: &[u64; 64]) -> [u64; 64] {
        let mut map = [0; 64];
        let mut i = 0;
        while i < 64 {
            map[i] = apply(outer, inner[i]);
            i += 1;
        }
        map
    }

    const fn apply(map: &[u64; 64], x: u64) -> u64 {
        let mut image = 0;
        let mut i = 0;
        while i < 64 {
            image ^= map[i] & (x >> i & 1).wrapping_neg();
            i += 1;
        }
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, from the definition.
    fn naive(mut crc: u64, bytes: &[u8]) -> u64 {
        for &byte in bytes {
            crc ^= u64::from(byte);
            for _ in 0..8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { 0xAD93_D235_94C9_35A9_u64.reverse_bits() } else { 0 };
            }
        }
        crc
    }

    #[test]
    fn every_way_agrees_with_the_definition() {
        let bytes: Vec<u8> = (0..40_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for len in [0, 1, 7, 8, 15, 16, 17, 191, 192, 193, 1000, 8191, 8192, 8193, 16_384, 20_001, 40_000] {
            for seed in [0, 1, u64::MAX] {
                let want = naive(seed, &bytes[..len]);
                assert_eq!(chain(seed, &bytes[..len]), want, "chain, {len} bytes");
                assert_eq!(lanes(seed, &bytes[..len]), want, "lanes, {len} bytes");
                assert_eq!(crc64(seed, &bytes[..len]), want, "crc64, {len} bytes");
            }
        }
    }
}
