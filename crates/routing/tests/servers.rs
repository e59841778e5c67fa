//! Slots as real servers compute them.

use keyferry_routing::{sibling_key, slot};
use keyferry_testkit::{Rng, Server, all};

const KEYS: usize = 20_000;
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
    for binary in all()? {
        let server = Server::builder(binary).cluster().start()?;
        let mut client = server.client()?;
        let keys = keys(20_241);
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
