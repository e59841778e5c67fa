//! Commands for many keys, written with little effort.

use keyferry_rdb::Kind;

/// How many elements of a value are asked for at a first look.
pub(super) const FEW: usize = 128;
/// The number of the last of them and how many they are, as words of commands.
pub(super) const FEW_WORDS: (&[u8], &[u8]) = (b"127", b"128");

/// Memory that is kept for the next commands.
const KEPT: usize = 1 << 20;

/// How values are read that are no strings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways {
    /// Whether one command may name many keys: not in clusters.
    pub(super) together: bool,
    /// `SRANDMEMBER` and `HRANDFIELD` give all elements of a value that has fewer than they are asked for, for less than `SSCAN` and
    /// `HSCAN` do. Vendors that are not known may not keep to that.
    pub(super) at_random: bool,
    /// Whether hashes may be read so: that must tell all that there is to a value.
    pub(super) hashes: bool,
    /// The same of lists, sets and sorted sets.
    pub(super) others: bool,
}

impl Ways {
    /// Whether values of a type are read in the way of `SCAN`.
    pub(super) fn scans(self, kind: Kind) -> bool {
        match kind {
            Kind::String | Kind::List => false,
            Kind::Set | Kind::Hash => !self.at_random,
            _ => true,
        }
    }

    /// What stands before and behind the key in the command that reads a value.
    fn command(self, kind: Kind) -> (&'static [u8], &'static [u8]) {
        const COUNT: &[u8] = b"$1\r\n0\r\n$5\r\nCOUNT\r\n$3\r\n128\r\n";
        match kind {
            Kind::String => (b"*2\r\n$3\r\nGET\r\n", b""),
            Kind::List => (b"*4\r\n$6\r\nLRANGE\r\n", b"$1\r\n0\r\n$3\r\n127\r\n"),
            Kind::Set if self.at_random => (b"*3\r\n$11\r\nSRANDMEMBER\r\n", b"$3\r\n128\r\n"),
            Kind::Set => (b"*5\r\n$5\r\nSSCAN\r\n", COUNT),
            Kind::Hash if self.at_random => {
                (b"*4\r\n$10\r\nHRANDFIELD\r\n", b"$3\r\n128\r\n$10\r\nWITHVALUES\r\n")
            }
            Kind::Hash => (b"*5\r\n$5\r\nHSCAN\r\n", COUNT),
            // Scores of compact sorted sets are written as they are kept.
            _ => (b"*5\r\n$5\r\nZSCAN\r\n", COUNT),
        }
    }
}

/// Commands, encoded, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) bytes: Vec<u8>,
    pub(super) count: usize,
}

impl Wire {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        // Names may be as long as strings.
        self.bytes.shrink_to(KEPT);
        self.count = 0;
    }

    /// `MGET` of so many keys, which follow.
    pub(super) fn mget(&mut self, keys: usize) {
        self.bytes.extend_from_slice(format!("*{}\r\n$4\r\nMGET\r\n", keys + 1).as_bytes());
        self.count += 1;
    }

    /// The command that reads a value.
    #[inline]
    pub(super) fn value(&mut self, key: &[u8], kind: Kind, ways: Ways) {
        let (before, behind) = ways.command(kind);
        self.bytes.extend_from_slice(before);
        self.word(key);
        self.bytes.extend_from_slice(behind);
        self.count += 1;
    }

    /// The command that tells when a key expires, as a time or as what is left.
    #[inline]
    pub(super) fn deadline(&mut self, key: &[u8], absolute: bool) {
        let before: &[u8] = if absolute { b"*2\r\n$11\r\nPEXPIRETIME\r\n" } else { b"*2\r\n$4\r\nPTTL\r\n" };
        self.bytes.extend_from_slice(before);
        self.word(key);
        self.count += 1;
    }

    /// A word of a command.
    #[inline]
    pub(super) fn word(&mut self, word: &[u8]) {
        self.bytes.reserve(word.len() + 24);
        match u8::try_from(word.len()) {
            Ok(length @ 10..100) => {
                self.bytes.extend_from_slice(&[b'$', b'0' + length / 10, b'0' + length % 10, b'\r', b'\n']);
            }
            _ => self.bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes()),
        }
        self.bytes.extend_from_slice(word);
        self.bytes.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use keyferry_resp::encode_command;

    use super::*;

    #[test]
    fn commands_are_as_others_write_them() {
        let (last, few) = FEW_WORDS;
        assert_eq!((last, few), ((FEW - 1).to_string().as_bytes(), FEW.to_string().as_bytes()));
        let mut wire = Wire::default();
        let mut slow = BytesMut::new();
        for length in [0, 1, 9, 10, 57, 99, 100, 255, 256, 266, 300, 1000] {
            let key = vec![b'k'; length];
            for at_random in [false, true] {
                let ways = Ways { together: true, at_random, hashes: true, others: true };
                for kind in [Kind::String, Kind::List, Kind::Set, Kind::Hash, Kind::SortedSet] {
                    wire.value(&key, kind, ways);
                    let words: &[&[u8]] = match (kind, at_random) {
                        (Kind::String, _) => &[b"GET", &key],
                        (Kind::List, _) => &[b"LRANGE", &key, b"0", last],
                        (Kind::Set, true) => &[b"SRANDMEMBER", &key, few],
                        (Kind::Set, false) => &[b"SSCAN", &key, b"0", b"COUNT", few],
                        (Kind::Hash, true) => &[b"HRANDFIELD", &key, few, b"WITHVALUES"],
                        (Kind::Hash, false) => &[b"HSCAN", &key, b"0", b"COUNT", few],
                        _ => &[b"ZSCAN", &key, b"0", b"COUNT", few],
                    };
                    encode_command(&mut slow, words);
                }
            }
            wire.deadline(&key, true);
            encode_command(&mut slow, [&b"PEXPIRETIME"[..], &key]);
            wire.deadline(&key, false);
            encode_command(&mut slow, [&b"PTTL"[..], &key]);
            wire.mget(1);
            wire.word(&key);
            encode_command(&mut slow, [&b"MGET"[..], &key]);
        }
        assert_eq!(wire.bytes, slow);
        assert_eq!(wire.count, 12 * 13);
        wire.clear();
        assert!(wire.bytes.is_empty() && wire.count == 0);
    }
}
