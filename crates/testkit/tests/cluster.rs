//! Real clusters: started in time, resharded under writes, failed over, killed and restarted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyferry_testkit::{
    Cluster, ClusterClient, Direction, Error, MoveStep, ServerBinary, Vendor, all, any, chosen, named,
};

type Result<T = ()> = keyferry_testkit::Result<T>;

/// Counts up many keys until it is told to stop; returns how often.
fn count_up(cluster: &Cluster, stop: &AtomicBool) -> Result<i64> {
    let mut client = cluster.client()?;
    let mut sum = 0;
    while !stop.load(Ordering::Relaxed) {
        for i in 0..50 {
            client.call(&["INCR", &format!("count:{{{}}}:{i}", i % 20)])?;
            sum += 1;
        }
    }
    Ok(sum)
}

fn sum_of_counts(cluster: &Cluster) -> Result<i64> {
    let mut client = cluster.client()?;
    (0..50).map(|i| client.int(&["INCRBY", &format!("count:{{{}}}:{i}", i % 20), "0"])).sum()
}

/// Runs `change` while a client counts, and checks that every count is there afterwards.
fn under_writes(cluster: &Cluster, change: impl FnOnce() -> Result) -> Result {
    let stop = AtomicBool::new(false);
    let before = sum_of_counts(cluster)?;
    let counted = std::thread::scope(|scope| {
        let writer = scope.spawn(|| count_up(cluster, &stop));
        std::thread::sleep(Duration::from_millis(50));
        let changed = change();
        std::thread::sleep(Duration::from_millis(50));
        stop.store(true, Ordering::Relaxed);
        let counted = writer.join().map_err(|_| Error::Thread("counting"))?;
        changed.and(counted)
    })?;
    assert!(counted > 50);
    assert_eq!(sum_of_counts(cluster)?, before + counted);
    Ok(())
}

fn reshard(binary: &ServerBinary) -> Result {
    let cluster = Cluster::builder(binary).start()?;
    assert_eq!(cluster.primaries()?, [0, 1, 2]);
    let mut client = cluster.client()?;
    let commands: Vec<[String; 3]> =
        (0..2000).map(|i| ["SET".to_owned(), format!("key:{i}"), i.to_string()]).collect();
    assert!(client.pipe(&commands)?.iter().all(|reply| reply.as_str() == Some("OK")));
    assert_eq!(cluster.keys()?, 2000);

    // Slots that hold keys, moved one by one while somebody writes to them.
    under_writes(&cluster, || {
        let mut steps = 0;
        let moved = cluster.move_slots_with(5000..=5600, 2, 3, |step| {
            steps += u32::from(matches!(step, MoveStep::Closed(_)));
            Ok(())
        })?;
        assert_eq!(steps, 601);
        assert!(moved > 40, "{moved} keys moved");
        Ok(())
    })?;
    assert_eq!((cluster.owner(5000)?, cluster.owner(5600)?, cluster.owner(4999)?), (2, 2, 0));
    cluster.wait_until_settled()?;

    // Half-way: the slot is open, and commands on it still work.
    let slot = keyferry_routing::slot(b"{1}");
    let to = (cluster.owner(slot)? + 1) % 3;
    let stopped = cluster.move_slots_with(slot..=slot, to, 1, |step| match step {
        MoveStep::Keys(..) => Err(Error::Thread("stopped here")),
        _ => Ok(()),
    });
    assert!(matches!(stopped, Err(Error::Thread("stopped here"))), "{stopped:?}");
    under_writes(&cluster, || Ok(()))?;
    let reply = client.transaction(&[["INCR", "new:{1}"], ["INCR", "new:{1}"]])?;
    assert_eq!(reply.as_array().and_then(|results| results.get(1)?.as_i64()), Some(2));
    // What was begun is brought to its end.
    cluster.move_slots(slot..=slot, to)?;
    assert_eq!(cluster.owner(slot)?, to);

    if cluster.moves_slots_atomically() {
        under_writes(&cluster, || cluster.move_slots_atomically(0..=6000, 1))?;
        assert_eq!((cluster.owner(0)?, cluster.owner(6000)?), (1, 1));
    } else {
        assert!(matches!(cluster.move_slots_atomically(0..=1, 1), Err(Error::Cluster { .. })));
    }
    Ok(())
}

#[test]
fn slots_move_under_writes() -> Result {
    let newest =
        |vendor| all().map(|all| all.iter().filter(move |b| b.vendor == vendor).max_by_key(|b| b.version));
    let mut binaries = vec![any()?];
    binaries.extend(newest(Vendor::Valkey)?);
    binaries.extend(newest(Vendor::Redis)?.filter(|b| b.name != binaries[0].name));
    std::thread::scope(|scope| {
        let runs: Vec<_> = binaries.iter().map(|binary| scope.spawn(|| reshard(binary))).collect();
        runs.into_iter().try_for_each(|run| run.join().unwrap())
    })
}

#[test]
fn every_server_forms_a_cluster() -> Result {
    std::thread::scope(|scope| {
        let runs: Vec<_> = all()?.iter().map(|binary| scope.spawn(|| form(binary))).collect();
        runs.into_iter().try_for_each(|run| run.join().unwrap())
    })
}

fn form(binary: &ServerBinary) -> Result {
    let start = Instant::now();
    let mut cluster = Cluster::builder(binary).primaries(2).replicas(1).start()?;
    // It takes 2.1 seconds, of which two are the servers' own. The limit has room for a busy machine, which starts all of them.
    let took = start.elapsed();
    assert!(took < Duration::from_secs(60), "{binary}: {took:?}");
    assert_eq!(cluster.primaries()?, [0, 1]);
    assert_eq!((cluster.replicas(0)?, cluster.replicas(1)?), (vec![2], vec![3]));
    assert_eq!(cluster.slots(0)?, [0..=8191]);
    assert_eq!((cluster.owner(8191)?, cluster.owner(8192)?), (0, 1));
    let mut client = cluster.client()?;
    client.call(&["SET", "a", "1"])?;
    let answers = client.on_every_primary(&["DBSIZE"])?;
    assert_eq!(answers.iter().filter_map(|(_, n)| n.as_i64()).sum::<i64>(), 1);
    let refused = cluster.kill(0);
    assert!(
        matches!(&refused, Err(Error::Cluster { what, .. }) if what.contains("no majority")),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn odd_ranges_passwords_and_databases() -> Result {
    let binary = named("valkey-9").or_else(|_| any())?;
    let mut builder = Cluster::builder(binary)
        .slots(&[&[0..=99, 16000..=16383], &[100..=100], &[101..=8000], &[8001..=15000], &[15001..=15999]])
        .password("p@ss")
        .node_timeout(Duration::from_secs(1));
    let several = binary.vendor == Vendor::Valkey && binary.version.at_least(9, 0);
    if several {
        builder = builder.databases(4);
    }
    let cluster = builder.start()?;
    assert_eq!(cluster.slots(0)?, [0..=99, 16000..=16383]);
    assert_eq!(cluster.slots(1)?, [100..=100]);
    assert!(cluster.url().starts_with("redis+cluster://:p%40ss@127.0.0.1:"), "{}", cluster.url());
    assert_eq!(cluster.url().matches(',').count(), 4);
    assert_eq!(cluster.url().matches('@').count(), 1);
    let mut client = cluster.client()?;
    if several {
        client.select(3);
        client.call(&["SET", "foo", "in 3"])?;
        cluster.move_slots(12182..=12182, 1)?;
        assert_eq!(client.call(&["GET", "foo"])?.as_str(), Some("in 3"));
        client.select(0);
        assert!(client.call(&["GET", "foo"])?.is_null());
    } else {
        client.call(&["SET", "foo", "1"])?;
    }
    Ok(())
}

#[test]
fn failovers_lose_nothing_and_killed_nodes_come_back() -> Result {
    let mut cluster = Cluster::builder(any()?).replicas(1).start()?;
    under_writes(&cluster, || cluster.failover(3))?;
    assert_eq!(cluster.primaries()?, [1, 2, 3]);
    assert_eq!(cluster.replicas(3)?, [0]);

    let mut client = cluster.client()?;
    client.call(&["SET", "foo", "kept"])?;
    let owner = cluster.owner(12182)?;
    cluster.node(owner).client()?.int(&["WAIT", "1", "5000"])?;
    let promoted = cluster.kill(owner)?;
    assert_eq!((owner, promoted), (2, 5));
    assert_eq!(cluster.primaries()?, [1, 3, 5]);
    // The client finds the new primary by itself.
    assert_eq!(client.call(&["GET", "foo"])?.as_str(), Some("kept"));
    assert!(matches!(cluster.kill(promoted), Err(Error::Cluster { .. })), "it has no replica");
    cluster.restart(owner)?;
    assert_eq!(cluster.replicas(promoted)?, [owner]);
    assert_eq!(cluster.node(owner).client()?.int(&["DBSIZE"])?, cluster.node(5).client()?.int(&["DBSIZE"])?);
    Ok(())
}

/// Servers announce the proxies; clients that follow the map go through them, those of this crate around.
#[test]
fn clusters_are_reached_through_proxies() -> Result {
    std::thread::scope(|scope| {
        let binaries = chosen(&["redis-6.2", "redis-7.0", "valkey-9"])?;
        let runs: Vec<_> =
            binaries.into_iter().map(|binary| scope.spawn(|| behind_proxies(binary))).collect();
        runs.into_iter().try_for_each(|run| run.join().unwrap())
    })
}

fn behind_proxies(binary: &ServerBinary) -> Result {
    let mut cluster = Cluster::builder(binary).proxies().append_only("always").start()?;
    for i in 0..3 {
        let port = cluster.proxy(i).map(|proxy| proxy.addr().port());
        assert!(port.is_some_and(|port| cluster.url().contains(&port.to_string())), "{binary}");
        assert!(!cluster.url().contains(&cluster.node(i).port().to_string()), "{binary}");
    }
    let keys: Vec<String> = (0..50).map(|i| format!("key:{i}")).collect();
    let seeds = (0..3).filter_map(|i| cluster.proxy(i)).map(|proxy| proxy.addr().to_string()).collect();
    let mut through = ClusterClient::connect(seeds, None)?;
    let mut around = cluster.client()?;
    let passed = |cluster: &Cluster| -> u64 {
        (0..3).filter_map(|i| cluster.proxy(i)).map(|proxy| proxy.bytes(Direction::ToTarget)).sum()
    };
    keys.iter().try_for_each(|key| through.call(&["SET", key, "1"]).map(drop))?;
    let before = passed(&cluster);
    keys.iter().try_for_each(|key| around.call(&["INCR", key]).map(drop))?;
    assert_eq!(passed(&cluster), before, "{binary}");
    // A node that comes back announces the same.
    cluster.restart(1)?;
    keys.iter().try_for_each(|key| through.call(&["INCR", key]).map(drop))?;
    assert!(passed(&cluster) > before + 1000, "{binary}");
    for key in &keys {
        assert_eq!(around.int(&["INCRBY", key, "0"])?, 3, "{binary}: {key}");
    }
    Ok(())
}
