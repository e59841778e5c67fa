//! Each plan of the runbook, from the first look to the way back.

use keyferry_testkit::{Client, Server, data, named};

use crate::{
    page::section,
    stage::{Ends, PASSWORD, Stage},
};

/// A stage with the scripts that have applications switched.
fn stage() -> Stage {
    let stage = Stage::new();
    stage.prepare(
        "for name in switch switch-back; do printf '#!/bin/sh\\n' > $name.sh; chmod +x $name.sh; done",
    );
    stage
}

fn play(stage: &mut Stage, title: &str, plan: impl FnMut(&mut Stage, &str) -> Ends) {
    stage.play(&section("docs/runbook.md", title), plan);
}

fn well(_: &mut Stage, _: &str) -> Ends {
    Ends::Well
}

/// Some keys in one database.
fn some(client: &mut Client) {
    data::small(client, 5, 1).unwrap();
}

/// The default user of a service that lets nobody replicate or change settings.
fn confine(server: &Server) {
    let mut client = server.client().unwrap();
    client.call(&["CONFIG", "SET", "notify-keyspace-events", "KA"]).unwrap();
    client.call(&["ACL", "SETUSER", "default", "-psync", "-sync", "-replicaof", "-config|set"]).unwrap();
}

#[test]
fn your_own_servers_to_a_cloud() {
    let mut stage = stage();
    some(&mut stage.server("old", "redis-7.0").client().unwrap());
    confine(stage.server("cloud", "redis-7.0"));
    play(&mut stage, "Your own servers to a cloud that takes no replication", well);
}

#[test]
fn where_nobody_replicates() {
    let mut stage = stage();
    some(&mut stage.server("gemini", "redis-7.0").client().unwrap());
    stage.server("tair", "redis-7.0");
    for name in ["gemini", "tair"] {
        let mut client = stage.client(name);
        client.call(&["CONFIG", "SET", "notify-keyspace-events", "KA"]).unwrap();
        client.call(&["ACL", "SETUSER", "default", "-psync", "-sync", "-config|set"]).unwrap();
    }
    play(&mut stage, "GeminiDB to Tair", well);
}

#[test]
fn redis_to_valkey() {
    let mut stage = stage();
    let mut client = stage.server("redis", "redis-8.0").client().unwrap();
    for n in 0..300 {
        client.call(&["HSET", &format!("hash:{n}"), "field", "value", "other", "value"]).unwrap();
        // As listpacks and, where the server knows it, with deadlines.
        client.call_raw(&["HEXPIRE", &format!("hash:{n}"), "10000", "FIELDS", "1", "field"]).unwrap();
        client.call(&["SADD", &format!("set:{n}"), "a", "b"]).unwrap();
    }
    stage.server("valkey", "valkey-9");
    play(&mut stage, "Redis 7.4 or later to Valkey", well);
}

#[test]
fn one_server_to_a_cluster() {
    let mut stage = stage();
    some(&mut stage.server("old", "redis-7.0").client().unwrap());
    stage.cluster(&["new-1", "new-2", "new-3"], "redis-7.0");
    play(&mut stage, "One server to a cluster", well);
}

#[test]
fn many_databases_to_a_cluster() {
    let mut stage = stage();
    let mut client = stage.server("old", "redis-7.0").client().unwrap();
    for db in ["0", "1", "2"] {
        client.call(&["SELECT", db]).unwrap();
        client.call(&["SET", "the same", db]).unwrap();
    }
    let cluster = stage.cluster(&["new-1", "new-2", "new-3"], "redis-7.0");
    let mut target = cluster.client().unwrap();
    play(&mut stage, "Many databases to a cluster", |_, command| {
        if command.contains("2=0") { Ends::Otherwise } else { Ends::Well }
    });
    for (key, value) in [("the same", "0"), ("db1:the same", "1")] {
        assert_eq!(target.call(&["GET", key]).unwrap().as_str(), Some(value));
    }
}

#[test]
fn a_cloud_to_your_own_servers() {
    let mut stage = stage();
    let mut client = stage.server("cloud", "redis-7.0").client().unwrap();
    some(&mut client);
    let password = format!(">{PASSWORD}");
    client.call(&["ACL", "SETUSER", "mover", "on", &password, "~*", "&*", "+@all"]).unwrap();
    client.call(&["ACL", "SETUSER", "app", "on", "nopass", "~*", "+@all"]).unwrap();
    stage.server("own", "redis-7.0");
    play(&mut stage, "A cloud to your own servers", well);
}

#[test]
fn upgrade() {
    let mut stage = stage();
    some(&mut stage.server("old", "redis-6.0").client().unwrap());
    stage.server("new", "redis-8.0");
    play(&mut stage, "Upgrade: 2.8 and later to 8", well);
}

#[test]
fn downgrade() {
    if named("redis-8.0").is_err() || named("redis-6.0").is_err() {
        // Between servers of one version nothing is lost.
        return;
    }
    let mut stage = stage();
    let mut client = stage.server("new", "redis-8.0").client().unwrap();
    client.call(&["SET", "kept", "1"]).unwrap();
    client.call(&["HSET", "hash", "field", "1"]).unwrap();
    client.call(&["HEXPIRE", "hash", "10000", "FIELDS", "1", "field"]).unwrap();
    stage.server("old", "redis-6.0");
    play(&mut stage, "Downgrade: 8 to 6", |_, command| {
        if command.contains("--example diff") { Ends::Otherwise } else { Ends::Well }
    });
}

#[test]
fn two_sides_that_are_both_written_to() {
    let mut stage = stage();
    some(&mut stage.server("east", "redis-7.0").client().unwrap());
    stage.server("west", "redis-7.0");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    stage.call("127.0.0.1:9121", std::path::Path::new(&free.to_string()));
    play(&mut stage, "Two sides that are both written to", |stage, command| {
        if command.contains("--live") {
            stage.client("east").call(&["SET", "written:east", "1"]).unwrap();
            stage.client("west").call(&["SET", "written:west", "1"]).unwrap();
        }
        Ends::Well
    });
    for (name, of_the_other) in [("east", "written:west"), ("west", "written:east")] {
        assert_eq!(stage.client(name).int(&["EXISTS", of_the_other]).unwrap(), 1);
    }
}
