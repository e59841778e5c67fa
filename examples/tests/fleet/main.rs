//! Several workers at once, as processes: by themselves, and as the files of `examples/deploy` start them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod image;
mod kubernetes;
mod manifest;
mod process;
mod unit;

use keyferry_routing::{SLOTS, tag_for_slot};
use keyferry_testkit::{
    Cluster, ClusterClient, CompareOptions, Server, Side, any, compare_sides,
    data::{self, Writer, WriterOptions},
};

use process::{Process, wait_until};

/// Counters and lists in slots of all shards, which tell how often a write was carried out.
struct Counters {
    client: ClusterClient,
    tags: Vec<&'static str>,
    rounds: usize,
}

impl Counters {
    fn of(cluster: &Cluster) -> Self {
        let tags = (0..SLOTS).step_by(400).map(tag_for_slot).collect();
        Counters { client: cluster.client().unwrap(), tags, rounds: 0 }
    }

    fn write(&mut self, rounds: usize) {
        for _ in 0..rounds {
            let round = self.rounds.to_string();
            let incr = |tag: &&str| vec!["INCR".to_owned(), format!("counter:{{{tag}}}")];
            let push = |tag: &&str| vec!["RPUSH".to_owned(), format!("list:{{{tag}}}"), round.clone()];
            let commands: Vec<Vec<String>> =
                self.tags.iter().map(incr).chain(self.tags.iter().map(push)).collect();
            self.client.pipe(&commands).unwrap();
            self.rounds += 1;
        }
    }
}

/// Both sides are equal, key by key, and every write was carried out once.
fn assert_equal(source: &Cluster, target: Side<'static>, keeps_state: bool, what: &str) {
    let mut options = CompareOptions::default();
    if keeps_state {
        options = options.without_bookkeeping();
    }
    let comparison = compare_sides(Side::cluster(source).unwrap(), target, &options).unwrap();
    assert!(comparison.is_equal(), "{what}: {comparison}");
    assert!(comparison.keys_a > 100, "{what}: {} keys", comparison.keys_a);
}

fn writing() -> WriterOptions {
    WriterOptions { rate: 2000, databases: 1, short_expiries: false, ..WriterOptions::default() }
}

/// Two workers for three shards, into one server; one of them is killed again and again.
#[test]
fn workers_that_are_killed_go_on() {
    let binary = any().unwrap();
    let source = Cluster::builder(binary).primaries(3).start().unwrap();
    let target = Server::builder(binary).start().unwrap();
    data::small_cluster(&mut source.client().unwrap(), 4, 1).unwrap();
    let mut counters = Counters::of(&source);
    counters.write(20);
    let writer = Writer::start_cluster(&source, writing()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (source.url(), target.url());
    let start = |index: usize, until: &str| {
        let (shard, journal) = (format!("{index}/2"), dir.path().join(index.to_string()));
        let journal = journal.display().to_string();
        let args = ["--source", &from, "--target", &to, "--shard", &shard, "--journal", &journal];
        Process::migrate(&[&args[..], &["--until", until, "--linger", "3600"]].concat(), &[])
    };
    let mut other = start(1, "forever");
    let mut at_target = target.client().unwrap();
    for round in 0..3 {
        let killed = start(0, "forever");
        counters.write(10);
        // Within the snapshot, or behind it.
        let come = || {
            let key = format!("counter:{{{}}}", counters.tags[0]);
            round == 0 || at_target.int(&["EXISTS", &key]).unwrap() == 1
        };
        wait_until("the first counter", come);
        counters.write(10);
        killed.kill();
    }
    counters.write(10);
    assert_eq!(writer.stop().unwrap().errors, 0);
    data::settle_cluster(&source).unwrap();
    // Only now: while one of its shards is waited for, a writer leaves the others quiet.
    other.terminate();
    assert!(other.ends_well(), "{}", other.said());
    for index in 0..2 {
        let mut last = start(index, "caught-up");
        assert!(last.ends_well(), "{}", last.said());
    }
    assert_equal(&source, Side::server(&target).unwrap(), false, "killed workers");
    for tag in &counters.tags {
        let mut ask = |args: &[&str]| at_target.int(args).unwrap();
        let rounds = counters.rounds as i64;
        assert_eq!(ask(&["LLEN", &format!("list:{{{tag}}}")]), rounds, "{tag}");
        assert_eq!(ask(&["INCRBY", &format!("counter:{{{tag}}}"), "0"]), rounds, "{tag}");
    }
    // Each worker was sent the snapshots of its own shards, and no others.
    let full_syncs = source.nodes().iter().map(|node| {
        let mut client = node.client().unwrap();
        client.info("stats", "sync_full").unwrap().unwrap().parse::<u32>().unwrap()
    });
    let full_syncs: Vec<u32> = full_syncs.collect();
    assert!(full_syncs[1] == 1, "{full_syncs:?}");
}
