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
    before: Syncs,
    /// What the present primary counted before the program knew it.
    base: Syncs,
    may: u64,
    /// How often it may be refused to go on where it is.
    may_be_refused: u64,
    /// The source has seen all of its snapshot confirmed.
    complete: bool,
}

/// What a server has counted.
#[derive(Debug, Clone, Copy, Default)]
struct Syncs {
    /// Requests for everything.
    asked: u64,
    /// Requests to go on with a history that the server does not have. It offers everything then, which is not what it was asked
    /// for: the program gives that up, and asks for everything when it is ready for it.
    refused: u64,
}

impl SyncCount {
    /// Begins to count, before the program is started.
    pub(super) fn new(source: &Source) -> Result<SyncCount> {
        let shard = |number| -> Result<Shard> {
            let base = Syncs::of(&mut source.primary(number).client()?)?;
            Ok(Shard { before: Syncs::default(), base, may: 1, may_be_refused: 0, complete: false })
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
                // It may not have got as far as to ask for everything.
                shard.may_be_refused += u64::from(shard.may_be_refused > 0);
            }
        }
        Ok(())
    }

    /// A shard may be asked once more, for the program may know of a history that is not there any more, or of none.
    pub(super) fn allow(&mut self, shard: usize) {
        let of = &mut self.shards[shard];
        of.may += 1;
        of.may_be_refused += 1;
        of.complete = false;
    }

    /// Before the primary of a shard is killed. Whoever replaces it has had no replicas.
    pub(super) fn leave(&mut self, source: &Source, shard: usize) -> Result<()> {
        let count = Syncs::of(&mut source.primary(shard).client()?)?;
        let of = &mut self.shards[shard];
        of.before = of.before.and(count.since(of.base));
        of.base = Syncs::default();
        Ok(())
    }

    /// How often each shard was asked for everything.
    ///
    /// # Errors
    /// [`Error::Round`] when that is more often than it may be, or the program was refused more often than it may be.
    pub(super) fn check(&self, source: &Source) -> Result<Vec<u64>> {
        let own_replicas = (source.servers().len() - source.shards()) as u64;
        let mut counts = Vec::new();
        for (number, shard) in self.shards.iter().enumerate() {
            let count = Syncs::of(&mut source.primary(number).client()?)?;
            let Syncs { asked, refused } = shard.before.and(count.since(shard.base));
            let Shard { may, may_be_refused, .. } = shard;
            if asked > *may {
                return Err(Error::Round(format!(
                    "shard {number} was asked for everything {asked} times; {may} may be"
                )));
            }
            // A replica of the source is refused as well when it connects again.
            if refused > may_be_refused * (1 + own_replicas.min(1)) {
                return Err(Error::Round(format!(
                    "shard {number} was asked {refused} times for a history that it does not have; {may_be_refused} may be"
                )));
            }
            counts.push(asked);
        }
        Ok(counts)
    }
}

impl Syncs {
    fn of(client: &mut Client) -> Result<Syncs> {
        let mut count = |field: &str| -> Result<u64> {
            let text = client.info("stats", field)?;
            Ok(text.and_then(|text| text.parse().ok()).unwrap_or(0))
        };
        // Each that is refused is a full synchronisation, too.
        let (full, refused) = (count("sync_full")?, count("sync_partial_err")?);
        Ok(Syncs { asked: full.saturating_sub(refused), refused })
    }

    fn and(self, other: Syncs) -> Syncs {
        Syncs { asked: self.asked + other.asked, refused: self.refused + other.refused }
    }

    fn since(self, base: Syncs) -> Syncs {
        Syncs {
            asked: self.asked.saturating_sub(base.asked),
            refused: self.refused.saturating_sub(base.refused),
        }
    }
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
