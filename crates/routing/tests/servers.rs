//! Slots and matches of patterns as real servers compute them.

use std::collections::BTreeSet;

use keyferry_routing::{KeyPattern, sibling_key, slot};
use keyferry_testkit::{Rng, Server, all};

/// Keys for the first server; a fifth of them for each other one.
const KEYS: usize = 100_000;
/// Keys in one pipeline.
const BATCH: usize = 1000;

/// Binary keys, half of them of bytes that make tags likely.
fn keys(seed: u64) -> Vec<Vec<u8>> {
    let mut rng = Rng::new(seed);
    (0..KEYS)
        .map(|i| {
            let len = rng.below(40) as usize;
            let mut byte = || rng.below(256) as u8;
            (0..len)
                .map(|_| match (i % 2, byte()) {
                    (0, byte) => byte,
                    (_, byte) => b"{}{}ab\0\xff"[usize::from(byte % 8)],
                })
                .collect()
        })
        .collect()
}

#[test]
fn slots_equal_cluster_keyslot() -> keyferry_testkit::Result<()> {
    for (seen, binary) in all()?.iter().enumerate() {
        let server = Server::builder(binary).cluster().start()?;
        let mut client = server.client()?;
        let keys = keys(20_241);
        let keys = if seen == 0 { &keys[..] } else { &keys[..KEYS / 5] };
        for batch in keys.chunks(BATCH) {
            let siblings: Vec<Vec<u8>> = batch.iter().map(|key| sibling_key(key, b"\xff}tmp:")).collect();
            let commands: Vec<[&[u8]; 3]> = batch
                .iter()
                .chain(&siblings)
                .map(|key| [b"CLUSTER".as_slice(), b"KEYSLOT", key.as_slice()])
                .collect();
            let replies = client.pipe(&commands)?;
            assert_eq!(replies.len(), 2 * batch.len());
            let (of_keys, of_siblings) = replies.split_at(batch.len());
            for ((key, reply), sibling) in batch.iter().zip(of_keys).zip(of_siblings) {
                let what = || format!("{}: {}", binary.name, key.escape_ascii());
                assert_eq!(reply.as_i64(), Some(i64::from(slot(key))), "{}", what());
                assert_eq!(sibling.as_i64(), reply.as_i64(), "sibling, {}", what());
            }
        }
    }
    Ok(())
}

/// A byte that is negative where `char` is signed. Servers on other machines see ranges that end at it differently.
const HIGH: &[u8] = if cfg!(target_arch = "x86_64") { b"\xff" } else { b"d" };

/// Patterns of special and plain bytes, whole or cut anywhere.
fn patterns(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut rng = Rng::new(seed);
    let parts: [&[u8]; 22] = [
        b"*",
        b"*",
        b"**",
        b"?",
        b"[",
        b"]",
        b"[^",
        b"^",
        b"-",
        b"\\",
        b"a",
        b"b",
        b"c",
        HIGH,
        b"\0",
        b"[a-b]",
        b"[^c]",
        b"[b-a]",
        b"[\\]]",
        b"[a-]",
        b"[\x80-\xff]",
        b"{a}",
    ];
    (0..count)
        .map(|_| (0..rng.below(9)).flat_map(|_| parts[rng.below(22) as usize].iter().copied()).collect())
        .collect()
}

/// Short keys of few bytes, so that patterns match often; some of them empty or of one byte.
fn pattern_keys(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut rng = Rng::new(seed);
    (0..count)
        .map(|_| (0..rng.below(8)).map(|_| b"aabbc-^]\\*?\xff\0{}["[rng.below(16) as usize]).collect())
        .collect()
}

#[test]
fn patterns_match_as_in_servers() -> keyferry_testkit::Result<()> {
    let mut matched = 0;
    for (number, binary) in all()?.iter().enumerate() {
        let server = Server::builder(binary).start()?;
        let mut client = server.client()?;
        let seed = 77 + number as u64;
        let keys: BTreeSet<Vec<u8>> = pattern_keys(seed, 600).into_iter().collect();
        let sets: Vec<[&[u8]; 3]> = keys.iter().map(|key| [b"SET".as_slice(), key, b"1"]).collect();
        client.pipe(&sets)?;
        for pattern in patterns(seed, 2500) {
            let ours: BTreeSet<&[u8]> = {
                let pattern = KeyPattern::new(&pattern);
                keys.iter().map(Vec::as_slice).filter(|key| pattern.matches(key)).collect()
            };
            let reply = client.list(&[b"KEYS".as_slice(), &pattern])?;
            let theirs: BTreeSet<&[u8]> =
                reply.iter().filter_map(|key| key.as_bytes()).map(|key| &key[..]).collect();
            assert_eq!(ours, theirs, "{}: {}", binary.name, pattern.escape_ascii());
            matched += ours.len();
        }
        let scanned = client.list(&[&b"SCAN"[..], b"0", b"COUNT", b"10000", b"MATCH", b"*[a-]?"])?;
        let ours = keys.iter().filter(|key| KeyPattern::new(b"*[a-]?").matches(key)).count();
        assert_eq!(scanned[1].as_array().map(<[_]>::len), Some(ours), "{}", binary.name);
    }
    assert!(matched > 10_000, "{matched} matches");
    Ok(())
}
