use std::fmt;

use crate::chaos::disturbance::{Cut, Disturbance, Kind, Place};
use crate::rng::Rng;

/// The program's timeouts, and those of the servers, are a little shorter than this: a process that stands still for so long
/// is given up by all others.
const FROZEN: std::ops::Range<usize> = 2_600..3_200;

/// What a round migrates from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Topology {
    /// One server to another.
    Standalone,
    /// One server to a cluster.
    Cluster,
    /// One cluster to another.
    ClusterCluster,
}

impl Topology {
    /// All of them.
    pub const ALL: [Topology; 3] = [Topology::Standalone, Topology::Cluster, Topology::ClusterCluster];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Topology::Standalone => "standalone",
            Topology::Cluster => "cluster",
            Topology::ClusterCluster => "cluster-cluster",
        }
    }

    /// The topology of this name.
    pub fn named(name: &str) -> Option<Topology> {
        Topology::ALL.into_iter().find(|topology| topology.name() == name)
    }

    /// Whether the source is a cluster.
    pub fn from_cluster(self) -> bool {
        self == Topology::ClusterCluster
    }

    /// Whether the target is a cluster.
    pub fn to_cluster(self) -> bool {
        self != Topology::Standalone
    }
}

/// Which side a network that has little room for the snapshot leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Slow {
    /// Neither.
    Neither,
    /// The source: the snapshot takes a while to arrive.
    Source,
    /// The target: the snapshot has arrived long before it is applied.
    Target,
}

/// One disturbance of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Milliseconds since the end of the step before, or since the program was started.
    pub wait: u64,
    /// What happens then.
    pub what: Disturbance,
}

/// Everything that is decided about a round before it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// What it was made from.
    pub seed: u64,
    /// What it migrates from and to.
    pub topology: Topology,
    /// Which of the servers that are there it runs: a number that counts modulo how many there are.
    pub binary: usize,
    /// Keys of the data that is there before.
    pub keys: u64,
    /// Commands a second that are written meanwhile.
    pub rate: u64,
    /// The network during the snapshot.
    pub slow: Slow,
    /// After how many steps the network is fast again.
    pub slow_steps: usize,
    /// Whether the source streams its snapshot without writing it to its disk, so that its end is a mark.
    pub diskless: bool,
    /// What is done to it.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The plan of a seed. Where `only` names any, all its disturbances are of these kinds.
    pub fn new(seed: u64, topology: Topology, only: &[Kind]) -> Plan {
        // Neighbouring seeds must not give neighbouring sequences.
        let mut rng = Rng::new(Rng::new(seed).next_u64());
        let slow = [Slow::Neither, Slow::Source, Slow::Target][rng.index(3)];
        let mut plan = Plan {
            seed,
            topology,
            binary: rng.index(1 << 20),
            keys: 2000 + rng.below(6000),
            rate: 1000 + rng.below(2500),
            slow,
            slow_steps: rng.range(1, 2),
            diskless: rng.chance(2, 3),
            steps: Vec::new(),
        };
        let steps = rng.range(2, 5);
        // What takes seconds comes once, so that a round stays short, and there is one replica to take over.
        let mut once = Vec::new();
        // Kinds of which each may come once are used up.
        for _ in 0..100 {
            if plan.steps.len() >= steps {
                break;
            }
            let kind = if only.is_empty() { kind(&mut rng) } else { only[rng.index(only.len())] };
            let what = disturbance(&mut rng, kind, plan.steps.is_empty());
            let sort = if takes_seconds(&what) { Some(Kind::FreezeTool) } else { None };
            let sort = sort.or((kind == Kind::FailOver).then_some(Kind::FailOver));
            if let Some(sort) = sort {
                if once.contains(&sort) {
                    continue;
                }
                once.push(sort);
            }
            let wait = if plan.steps.is_empty() { rng.below(700) } else { 50 + rng.below(600) };
            plan.steps.push(Step { wait, what });
        }
        plan
    }

    /// Whether a primary of the source is to be replaced.
    pub fn fails_over(&self) -> bool {
        self.steps.iter().any(|step| step.what.kind() == Kind::FailOver)
    }

    /// Whether the disk of the journal is to be filled.
    pub fn fills_disk(&self) -> bool {
        self.steps.iter().any(|step| step.what.kind() == Kind::DiskFull)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { seed, topology, keys, rate, slow, diskless, .. } = self;
        let topology = topology.name();
        write!(f, "seed {seed}, {topology}: {keys} keys, {rate} commands a second, ")?;
        match slow {
            Slow::Neither => write!(f, "fast network")?,
            Slow::Source => write!(f, "slow network to the source for {} steps", self.slow_steps)?,
            Slow::Target => write!(f, "slow network to the target for {} steps", self.slow_steps)?,
        }
        write!(f, ", snapshot {}", if *diskless { "streamed" } else { "by disk" })?;
        for Step { wait, what } in &self.steps {
            write!(f, "\n  after {wait} ms: {what}")?;
        }
        Ok(())
    }
}

/// A kind by its weight.
fn kind(rng: &mut Rng) -> Kind {
    const WEIGHTS: [(u64, Kind); 17] = [
        (220, Kind::KillTool),
        (50, Kind::StopTool),
        (40, Kind::FreezeTool),
        (30, Kind::SecondTool),
        // Takes as long as two other rounds.
        (5, Kind::ReplaceTool),
        (20, Kind::LoseJournal),
        (140, Kind::CutSource),
        (160, Kind::CutTarget),
        (40, Kind::SourceAway),
        (60, Kind::TargetAway),
        (30, Kind::FreezeSource),
        (40, Kind::FreezeTarget),
        (100, Kind::KillTarget),
        (60, Kind::FailOver),
        (40, Kind::Resync),
        (40, Kind::DiskFull),
        (40, Kind::OutOfMemory),
    ];
    let mut number = rng.below(WEIGHTS.iter().map(|(weight, _)| weight).sum());
    for (weight, kind) in WEIGHTS {
        if number < weight {
            return kind;
        }
        number -= weight;
    }
    Kind::KillTool
}

fn disturbance(rng: &mut Rng, kind: Kind, first: bool) -> Disturbance {
    let node = rng.index(12);
    let mut short = || 20 + rng.below(500);
    let (time, down) = (short(), short());
    let frozen = rng.range(FROZEN.start, FROZEN.end) as u64;
    match kind {
        Kind::KillTool => Disturbance::KillTool { down },
        Kind::StopTool => Disturbance::StopTool { down },
        Kind::FreezeTool => Disturbance::FreezeTool { time: frozen },
        Kind::SecondTool => Disturbance::SecondTool,
        Kind::ReplaceTool => Disturbance::ReplaceTool,
        Kind::LoseJournal => Disturbance::LoseJournal,
        Kind::CutSource => Disturbance::CutSource { node, cut: cut_source(rng, first) },
        Kind::CutTarget => Disturbance::CutTarget { node, cut: cut_target(rng) },
        Kind::SourceAway => Disturbance::SourceAway { time },
        Kind::TargetAway => Disturbance::TargetAway { time: time * 2, kill_tool: rng.chance(1, 3) },
        Kind::FreezeSource => Disturbance::FreezeSource { node, time: frozen },
        Kind::FreezeTarget => Disturbance::FreezeTarget { node, time: frozen },
        Kind::KillTarget => Disturbance::KillTarget { node, down, kill_tool: rng.chance(1, 3) },
        Kind::FailOver => Disturbance::FailOver { node, everything: rng.chance(2, 3) },
        Kind::Resync => Disturbance::Resync { node, kill_tool: rng.chance(1, 3) },
        Kind::DiskFull => Disturbance::DiskFull { time: time * 3, freeze_target: rng.chance(1, 2) },
        Kind::OutOfMemory => Disturbance::OutOfMemory { time: time * 2 },
    }
}

fn cut_source(rng: &mut Rng, first: bool) -> Cut {
    match rng.below(if first { 10 } else { 6 }) {
        0 => Cut::Now,
        1 | 2 => Cut::BytesFrom(1 + rng.below(200_000)),
        3 => Cut::BytesTo(1 + rng.below(200)),
        4 | 5 => Cut::At(Place::Frame(rng.below(300) as u32)),
        6 => Cut::At(Place::BeginOfSnapshot),
        _ => Cut::At(Place::EndOfSnapshot),
    }
}

fn cut_target(rng: &mut Rng) -> Cut {
    match rng.below(8) {
        0 => Cut::Now,
        1 | 2 => Cut::BytesTo(1 + rng.below(100_000)),
        3 => Cut::BytesFrom(1 + rng.below(5_000)),
        4 | 5 => Cut::At(Place::Exec(rng.below(20) as u32)),
        _ => Cut::At(Place::ReplyToExec(rng.below(20) as u32)),
    }
}

fn takes_seconds(what: &Disturbance) -> bool {
    use Disturbance::{FreezeSource, FreezeTarget, FreezeTool, ReplaceTool};
    matches!(what, FreezeTool { .. } | FreezeSource { .. } | FreezeTarget { .. } | ReplaceTool)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_is_a_plan() {
        for topology in Topology::ALL {
            assert_eq!(Plan::new(7, topology, &[]), Plan::new(7, topology, &[]));
            assert_eq!(Topology::named(topology.name()), Some(topology));
        }
        assert_ne!(
            Plan::new(7, Topology::Standalone, &[]).steps,
            Plan::new(8, Topology::Standalone, &[]).steps
        );
        let only = Plan::new(7, Topology::Standalone, &[Kind::KillTool]);
        assert!(only.steps.iter().all(|step| step.what.kind() == Kind::KillTool), "{only}");
    }

    #[test]
    fn all_kinds_come_up() {
        let plans = (0..400).map(|seed| Plan::new(seed, Topology::Standalone, &[]));
        let kinds: BTreeSet<Kind> =
            plans.flat_map(|plan| plan.steps.into_iter().map(|step| step.what.kind())).collect();
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), Kind::ALL);
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(kind));
        }
    }
}
