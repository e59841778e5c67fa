//! CRC-16/XMODEM: polynomial 0x1021, initial value 0, nothing reflected, no final xor.

/// `TABLES[k][b]` is the checksum of the byte `b` with `k` zero bytes behind it. As the checksum is linear, that of eight
/// bytes is the xor of eight look-ups which do not wait for each other.
static TABLES: [[u16; 256]; 8] = tables();

/// The checksum of `bytes[start..end]`.
///
/// Zeros in front do not change a checksum that begins with 0. So the odd bytes come first, filled up with zeros to a
/// word, and then whole words only: there is no loop over single bytes.
#[inline]
pub(crate) fn crc16(bytes: &[u8], start: usize, end: usize) -> u16 {
    let Some(hashed) = bytes.get(start..end) else { return 0 };
    let (odd, words) = odd_and_words(hashed);
    words.iter().fold(step(0, odd), |crc, &word| step(crc, word))
}

/// The odd bytes in front, filled up with zeros, and the words behind them.
#[inline(always)]
pub(crate) fn odd_and_words(bytes: &[u8]) -> ([u8; 8], &[[u8; 8]]) {
    let odd = bytes.len() % 8;
    let first = match bytes.first_chunk() {
        // No shift by 64.
        Some(&word) => (u64::from_be_bytes(word) >> 1) >> (63 - 8 * odd),
        None => bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    (first.to_be_bytes(), bytes[odd..].as_chunks::<8>().0)
}

/// The checksum after eight more bytes.
#[inline(always)]
pub(crate) fn step(crc: u16, [a, b, c, d, e, f, g, h]: [u8; 8]) -> u16 {
    let [high, low] = crc.to_be_bytes();
    // What does not depend on the words before comes first: it need not wait.
    let rest = (TABLES[5][usize::from(c)] ^ TABLES[4][usize::from(d)])
        ^ (TABLES[3][usize::from(e)] ^ TABLES[2][usize::from(f)])
        ^ (TABLES[1][usize::from(g)] ^ TABLES[0][usize::from(h)]);
    rest ^ (TABLES[7][usize::from(a ^ high)] ^ TABLES[6][usize::from(b ^ low)])
}

const fn tables() -> [[u16; 256]; 8] {
    let mut tables = [[0u16; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut table = 0;
        while table < 8 {
            // Table 0 holds the byte itself; each further one holds a zero byte more.
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
                bit += 1;
            }
            tables[table][byte] = crc;
            table += 1;
        }
        byte += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The slow twin: bit by bit.
    fn bitwise(bytes: &[u8]) -> u16 {
        let mut crc = 0u16;
        for byte in bytes {
            for bit in (0..8).rev() {
                let carry = (crc >> 15) ^ u16::from(byte >> bit & 1);
                crc = (crc << 1) ^ (carry * 0x1021);
            }
        }
        crc
    }

    #[test]
    fn check_value() {
        assert_eq!(crc16(b"123456789", 0, 9), 0x31c3);
        assert_eq!(bitwise(b"123456789"), 0x31c3);
        assert_eq!(crc16(b"", 0, 0), 0);
    }

    proptest! {
        #[test]
        fn agrees_with_the_slow_twin(
            bytes in prop::collection::vec(any::<u8>(), 0..70), start in 0usize..20, behind in 0usize..20,
        ) {
            let end = bytes.len().saturating_sub(behind);
            let start = start.min(end);
            prop_assert_eq!(crc16(&bytes, start, end), bitwise(&bytes[start..end]));
        }
    }
}
