//! Comparing servers and clusters with one another.

use keyferry_testkit::{
    Cluster, CompareOptions, Comparison, DifferenceKind, Server, Side, Vendor, all, any, compare_sides, data,
    named,
};

type Result<T = ()> = keyferry_testkit::Result<T>;

fn found(comparison: &Comparison) -> Vec<(DifferenceKind, &str)> {
    let text = |key| std::str::from_utf8(key).unwrap_or("?");
    let mut found: Vec<_> = comparison.differences.iter().map(|d| (d.kind, text(&d.key))).collect();
    found.sort_by_key(|(_, key)| *key);
    found
}

#[test]
fn a_server_and_a_cluster_with_the_same_keys_are_equal() -> Result {
    let binary = any()?;
    let server = Server::builder(binary).start()?;
    let cluster = Cluster::builder(binary).primaries(3).start()?;
    let mut client = server.client()?;
    let mut routed = cluster.client()?;
    let mixed = data::Mixed { keys: 3000, databases: 1, ..data::Mixed::default() };
    let elements = mixed.fill(&mut client)?;
    let mut same = 0;
    let sent = data::fill_cluster(&mut routed, |commands| {
        same = mixed.write(commands)?;
        Ok(())
    })?;
    assert_eq!(elements, same);
    assert!(sent > 3000);
    assert_eq!(cluster.keys()?, 3000);
    data::small(&mut client, 5, 1)?;
    data::small_cluster(&mut routed, 5, 1)?;
    let keys = cluster.keys()?;
    let options = CompareOptions::default().without_bookkeeping();
    let compare = || compare_sides(Side::server(&server)?, Side::cluster(&cluster)?, &options);
    let comparison = compare()?;
    assert!(comparison.is_equal(), "{comparison}");
    assert_eq!((comparison.keys_a, comparison.keys_b), (keys, keys));

    use DifferenceKind::{Function, MissingInA, MissingInB, Value};
    client.call(&["SET", "only-a", "1"])?;
    client.call(&["SET", "differs", "1"])?;
    client.call(&["SET", "keyferry:bookkeeping", "1"])?;
    routed.call(&["SET", "only-b", "1"])?;
    routed.call(&["SET", "differs", "2"])?;
    let comparison = compare()?;
    assert_eq!(found(&comparison), [(Value, "differs"), (MissingInB, "only-a"), (MissingInA, "only-b")]);
    // The other way round, and a cluster with itself.
    let comparison = compare_sides(Side::cluster(&cluster)?, Side::server(&server)?, &options)?;
    assert_eq!(found(&comparison), [(Value, "differs"), (MissingInA, "only-a"), (MissingInB, "only-b")]);
    let comparison = compare_sides(Side::cluster(&cluster)?, Side::cluster(&cluster)?, &options)?;
    assert!(comparison.is_equal(), "{comparison}");
    // A key that has moved is still the same key.
    let slot = keyferry_routing::slot(b"only-b");
    let to = (cluster.owner(slot)? + 1) % 3;
    cluster.move_slots(slot..=slot, to)?;
    assert_eq!(found(&compare()?).len(), 3);
    // Functions have to be on every node.
    let code = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";
    client.call(&["FUNCTION", "LOAD", code])?;
    assert_eq!(found(&compare()?).iter().filter(|(kind, _)| *kind == Function).count(), 3);
    routed.on_every_primary(&["FUNCTION", "LOAD", code])?;
    assert_eq!(found(&compare()?).len(), 3);
    cluster.node(1).client()?.call(&["FUNCTION", "DELETE", "lib"])?;
    assert_eq!(found(&compare()?).iter().filter(|(kind, _)| *kind == Function).count(), 1);
    Ok(())
}

#[test]
fn databases_are_mapped_merged_and_left_out() -> Result {
    let (a, b) = (Server::any()?, Server::builder(any()?).databases(2).start()?);
    let set = |server: &Server, database: &str, key: &str, value: &str| -> Result {
        let mut client = server.client()?;
        client.call(&["SELECT", database])?;
        client.call(&["SET", key, value]).map(drop)
    };
    for (database, key) in [("0", "zero"), ("3", "three"), ("5", "five")] {
        set(&a, database, key, "1")?;
    }
    set(&b, "0", "zero", "1")?;
    set(&b, "0", "three", "1")?;
    set(&b, "1", "five", "1")?;
    let options = CompareOptions::default();
    let compare =
        |map: &[(u32, u32)]| compare_sides(Side::server(&a)?.databases(map), Side::server(&b)?, &options);
    let comparison = compare(&[(0, 0), (3, 0), (5, 1)])?;
    assert!(comparison.is_equal(), "{comparison}");
    assert_eq!((comparison.keys_a, comparison.keys_b), (3, 3));
    assert_eq!(found(&compare(&[(0, 0), (3, 0)])?), [(DifferenceKind::MissingInA, "five")]);
    assert_eq!(found(&compare(&[(0, 0), (5, 1)])?), [(DifferenceKind::MissingInA, "three")]);
    // The second server has no database 5.
    let comparison = compare_sides(Side::server(&a)?, Side::server(&b)?, &options)?;
    let all = [DifferenceKind::MissingInA, DifferenceKind::MissingInB];
    assert_eq!(comparison.total_differences, 4, "{comparison}");
    assert!(comparison.differences.iter().all(|d| all.contains(&d.kind)));
    // A key that two of the merged databases hold differently.
    set(&a, "3", "zero", "2")?;
    assert_eq!(found(&compare(&[(0, 0), (3, 0), (5, 1)])?), [(DifferenceKind::Value, "zero")]);
    Ok(())
}

#[test]
fn clusters_with_several_databases() -> Result {
    let Some(binary) = all()?.iter().find(|b| b.vendor == Vendor::Valkey && b.version.at_least(9, 0)) else {
        return Ok(());
    };
    let binary = named(&binary.name)?;
    let server = Server::builder(binary).start()?;
    let cluster = Cluster::builder(binary).primaries(2).databases(16).start()?;
    let mixed = data::Mixed { keys: 800, ..data::Mixed::default() };
    mixed.fill(&mut server.client()?)?;
    data::fill_cluster(&mut cluster.client()?, |commands| mixed.write(commands).map(drop))?;
    let options = CompareOptions::default();
    let comparison = compare_sides(Side::server(&server)?, Side::cluster(&cluster)?, &options)?;
    assert!(comparison.is_equal() && comparison.keys_b == 800, "{comparison}");
    Ok(())
}
