use crate::chaos::source::Source;
use crate::client::Client;
use crate::error::{Error, Result};

/// How often the program asked a source for everything, and how often it may.
#[derive(Debug)]
pub(super) struct SyncCount {
    shards: Vec<Shard>,
}

#[derive(Debug)]
struct Shard {
    /// Of primaries that are gone.
    before: u64,
    /// What the present primary counted before the program knew it.
    base: u64,
    may: u64,
    /// The source has seen all of its snapshot confirmed.
    complete: bool,
}

impl SyncCount {
    /// Begins to count, before the program is started.
    pub(super) fn new(source: &Source) -> Result<SyncCount> {
        let shard = |number| -> Result<Shard> {
            let base = full_syncs(&mut source.primary(number).client()?)?;
            Ok(Shard { before: 0, base, may: 1, complete: false })
        };
        Ok(SyncCount { shards: (0..source.shards()).map(shard).collect::<Result<_>>()? })
    }

    /// Before something happens to the program or its links to the source: a snapshot that has not arrived as a whole has to
    /// be asked for again.
    pub(super) fn look(&mut self, source: &Source) -> Result<()> {
        let own = source.replica_ports();
        for (number, shard) in self.shards.iter_mut().enumerate() {
            if !shard.complete {
                shard.complete = has_snapshot(&mut source.primary(number).client()?, &own)?;
            }
            if !shard.complete {
                shard.may += 1;
            }
        }
        Ok(())
    }

    /// A shard may be asked once more.
    pub(super) fn allow(&mut self, shard: usize) {
        self.shards[shard].may += 1;
        self.shards[shard].complete = false;
    }

    /// Before the primary of a shard is killed. Whoever replaces it has had no replicas.
    pub(super) fn leave(&mut self, source: &Source, shard: usize) -> Result<()> {
        let count = full_syncs(&mut source.primary(shard).client()?)?;
        let of = &mut self.shards[shard];
        of.before += count.saturating_sub(of.base);
        of.base = 0;
        Ok(())
    }

    /// How often each shard was asked for everything.
    ///
    /// # Errors
    /// [`Error::Round`] when that is more often than it may be.
    pub(super) fn check(&self, source: &Source) -> Result<Vec<u64>> {
        let mut counts = Vec::new();
        for (number, shard) in self.shards.iter().enumerate() {
            let count =
                shard.before + full_syncs(&mut source.primary(number).client()?)?.saturating_sub(shard.base);
            if count > shard.may {
                return Err(Error::Round(format!(
                    "shard {number} was asked for everything {count} times; {} may be",
                    shard.may
                )));
            }
            counts.push(count);
        }
        Ok(counts)
    }
}

fn full_syncs(client: &mut Client) -> Result<u64> {
    let count = client.info("stats", "sync_full")?;
    Ok(count.and_then(|count| count.parse().ok()).unwrap_or(0))
}

/// Whether a replica that is none of ours has confirmed that it has the snapshot: an offset is confirmed after it only. A server
/// calls a replica online already when it has handed the last byte to the network.
fn has_snapshot(client: &mut Client, own: &[u16]) -> Result<bool> {
    let text = client.text(&["INFO", "replication"])?;
    // slave0:ip=127.0.0.1,port=6380,state=online,offset=1,lag=0
    let replicas = text.lines().filter(|line| line.starts_with("slave") && line.contains("state=online"));
    let number = |line: &str, name: &str| {
        line.split(',').find_map(|field| field.strip_prefix(name)?.parse::<u64>().ok())
    };
    let mut confirmed = replicas.filter(|line| number(line, "offset=").is_some_and(|offset| offset > 0));
    Ok(confirmed
        .any(|line| number(line, "port=").is_some_and(|port| !own.iter().any(|&own| u64::from(own) == port))))
}
