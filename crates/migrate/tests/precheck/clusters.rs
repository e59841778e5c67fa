//! Clusters at either end.

use keyferry_migrate::{
    CrossSlotPolicy,
    precheck::{Depth, Item, Verdict},
};
use keyferry_testkit::{Cluster, data};

use crate::support::{any, expect, look, look_with, says};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_are_looked_at_shard_by_shard() {
    let binary = keyferry_testkit::any().unwrap();
    let source = Cluster::builder(binary).primaries(3).start().unwrap();
    let target = Cluster::builder(binary).primaries(3).start().unwrap();
    data::small_cluster(&mut source.client().unwrap(), 1, 1).unwrap();
    let report = look(source.url(), target.url()).await;
    assert_eq!(report.failures().count(), 0, "{report}");
    says(&expect(&report, Item::Slots, Verdict::Pass), "source: 3 primaries, no slot on the move");
    expect(&report, Item::CrossSlot, Verdict::Pass);
    expect(&report, Item::TargetAcl, Verdict::Pass);
    let finding = expect(&report, Item::Memory, Verdict::Pass);
    assert_eq!(finding.evidence.len(), 3, "{finding:#?}");
    expect(&report, Item::Overlap, Verdict::Pass);

    // One shard of the target is small, and gets all that one shard of the source has.
    let node = source.node(0);
    let slot = source.slots(0).unwrap()[0].clone();
    let owner = target.owner(*slot.start()).unwrap();
    let key = (0..).map(|n| format!("large:{n}")).find(|key| {
        node.client()
            .unwrap()
            .int(&["CLUSTER", "KEYSLOT", key])
            .is_ok_and(|s| target.owner(s as u16).unwrap() == owner && slot.contains(&(s as u16)))
    });
    node.client().unwrap().call(&["SET", &key.unwrap(), &"x".repeat(30 << 20)]).unwrap();
    let limit = (20 << 20).to_string();
    target.node(owner).client().unwrap().call(&["CONFIG", "SET", "maxmemory", &limit]).unwrap();
    let finding = expect(&look(source.url(), target.url()).await, Item::Memory, Verdict::Fail);
    let short: Vec<&String> =
        finding.evidence.iter().filter(|line| line.contains("maxmemory 20.0 MiB")).collect();
    assert!(short.len() == 1 && short[0].contains(&target.node(owner).addr().to_string()), "{finding:#?}");

    // A slot on the move.
    let (first, second) = (source.id(0).to_owned(), source.id(1).to_owned());
    let slot = slot.start().to_string();
    source.node(1).client().unwrap().call(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &first]).unwrap();
    node.client().unwrap().call(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &second]).unwrap();
    says(&expect(&look(source.url(), target.url()).await, Item::Slots, Verdict::Fail), "on the move");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_databases_that_a_cluster_refuses_are_found() {
    let binary = keyferry_testkit::any().unwrap();
    let (source, target) = (any(), Cluster::builder(binary).primaries(3).start().unwrap());
    let mut client = source.client().unwrap();
    client.call(&["SET", "a", "1"]).unwrap();
    client.call(&["GET", "a"]).unwrap();
    expect(&look(source.url(), target.url()).await, Item::CrossSlot, Verdict::Pass);
    client.call(&["RENAME", "a", "b"]).unwrap();
    client.call(&["SADD", "s", "1"]).unwrap();
    client.call(&["SUNIONSTORE", "t", "s"]).unwrap();
    let report = look(source.url(), target.url()).await;
    let finding = expect(&report, Item::CrossSlot, Verdict::Warn);
    says(&finding, "calls since the source counts: 1 rename, 1 sunionstore;");
    expect(&report, Item::Databases, Verdict::Pass);
    let strict = |o: &mut keyferry_migrate::Options| o.cross_slot = CrossSlotPolicy::Fail;
    let report = look_with(source.url(), target.url(), Depth::Quick, strict).await;
    says(&expect(&report, Item::CrossSlot, Verdict::Fail), "ends the migration");

    client.call(&["SELECT", "1"]).unwrap();
    client.call(&["SET", "key", "value"]).unwrap();
    let finding = expect(&look(source.url(), target.url()).await, Item::Databases, Verdict::Fail);
    assert!(finding.remedies[0].contains("--db-map"), "{finding:?}");
}
