//! What is not asked when the answer is known: differences are found all the same.

use keyferry_testkit::{Client, Server, ServerBinary, named};

use crate::support::{live, told};

/// Servers whose lists, sets and hashes are in encodings that may be large, though these are small.
fn two() -> Option<[Server; 2]> {
    let Ok(binary) = named("redis-7.0") else {
        println!("note: no Redis 7.0 is there");
        return None;
    };
    let start = |binary: &ServerBinary| Server::builder(binary).start().unwrap();
    Some([start(binary), start(binary)])
}

fn fill(client: &mut Client, keys: u32) {
    let commands: Vec<_> =
        (0..keys).map(|n| ["SET".to_owned(), format!("key:{n}"), format!("value {n}")]).collect();
    client.pipe(&commands).unwrap();
}

/// How many times a server was asked for keys.
fn scans(client: &mut Client) -> u64 {
    calls(client, "scan")
}

/// How many times a server was given a command.
pub(crate) fn calls(client: &mut Client, command: &str) -> u64 {
    let line = client.info("commandstats", &format!("cmdstat_{command}")).unwrap().unwrap_or_default();
    let calls = line.strip_prefix("calls=").and_then(|rest| rest.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[test]
fn a_count_tells_of_keys_that_only_the_target_has() {
    let Some(servers) = two() else { return };
    let urls = [servers[0].url(), servers[1].url()];
    let [mut source, mut target] = servers.each_ref().map(|server| server.client().unwrap());
    for client in [&mut source, &mut target] {
        fill(client, 3000);
        client.call(&["SET", "deadline", "x", "PX", "10000000"]).unwrap();
        client.call(&["SELECT", "3"]).unwrap();
        fill(client, 500);
        client.call(&["SELECT", "0"]).unwrap();
    }
    let (report, found) = live(&urls[0], &urls[1], |_| {}).unwrap();
    assert_eq!((report.equal, report.source.keys, report.target.keys), (3501, 3501, 3501));
    assert!(found.is_empty() && scans(&mut source) > 0);
    assert_eq!(scans(&mut target), 0, "the target was gone over");

    // A key that the source lacks, and one that the target lacks: as many on both sides.
    target.call(&["DEL", "key:17"]).unwrap();
    target.call(&["SET", "more", "x"]).unwrap();
    // Without a change of the count, too.
    target.call(&["SELECT", "3"]).unwrap();
    target.call(&["SET", "key:4", "other"]).unwrap();
    let (_, found) = live(&urls[0], &urls[1], |_| {}).unwrap();
    let want = [
        (0, b"key:17".to_vec(), "lack_target"),
        (0, b"more".to_vec(), "lack_source"),
        (3, b"key:4".to_vec(), "value"),
    ];
    assert_eq!(told(&found), want.into());
    // More names than memory may hold.
    let small = |diff: &mut keyferry_diff::LiveDiff| diff.options_mut().memory = 100;
    let (_, again) = live(&urls[0], &urls[1], small).unwrap();
    assert_eq!(told(&again), told(&found));
    // Keys that are left out are none that the target has besides.
    target.call(&["SELECT", "0"]).unwrap();
    target.call(&["SET", "keyferry:note", "x"]).unwrap();
    let (report, again) = live(&urls[0], &urls[1], |_| {}).unwrap();
    assert_eq!((told(&again), report.target.bookkeeping), (told(&found), 1));
}

#[test]
fn a_count_tells_of_keys_that_expire_on_one_side_only() {
    let Some(servers) = two() else { return };
    let urls = [servers[0].url(), servers[1].url()];
    let mut clients = servers.each_ref().map(|server| server.client().unwrap());
    let late = (std::time::SystemTime::now() + std::time::Duration::from_secs(100_000))
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis();
    for client in &mut clients {
        fill(client, 5000);
        for key in 0..100 {
            client.call(&["PEXPIREAT", &format!("key:{key}"), &late.to_string()]).unwrap();
        }
        client.call(&["SADD", "set:1", "a", "b"]).unwrap();
    }
    let small =
        |diff: &mut keyferry_diff::LiveDiff| (diff.live_mut().batch, diff.live_mut().parallel) = (100, 1);
    let (report, found) = live(&urls[0], &urls[1], small).unwrap();
    assert_eq!((report.equal, found.len()), (5001, 0));
    // The first keys are looked at closely, as nothing is known of such names.
    let asked = calls(&mut clients[0], "pexpiretime");
    assert!((100..2500).contains(&asked), "{asked} of 5001");
    assert!(calls(&mut clients[1], "pexpiretime") >= 5001);
    assert_eq!(scans(&mut clients[1]), 0, "the target was gone over");

    for side in [1, 0] {
        let client = &mut clients[side];
        // Expiries that only one side has, or both at other times; one beside another difference.
        for key in ["key:200", "key:4999", "set:1"] {
            client.call(&["PEXPIREAT", key, &late.to_string()]).unwrap();
        }
        client.call(&["SET", "key:4998", "other", "PXAT", &late.to_string()]).unwrap();
        client.call(&["PERSIST", "key:7"]).unwrap();
        client.call(&["PEXPIREAT", "key:8", &(late + 5000).to_string()]).unwrap();
        let (report, found) = live(&urls[0], &urls[1], small).unwrap();
        let mut want: std::collections::BTreeSet<_> =
            ["key:200", "key:4999", "set:1", "key:4998", "key:7", "key:8"]
                .map(|key| (0, key.as_bytes().to_vec(), "expiry"))
                .into();
        want.insert((0, b"key:4998".to_vec(), "value"));
        assert_eq!(told(&found), want, "side {side}");
        let counts = (report.equal, report.both, report.source.keys, report.target.keys);
        assert_eq!(counts, (4995, 5001, 5001, 5001), "side {side}");
        // As many expire on both sides, but not the same.
        let client = &mut clients[side];
        for key in ["key:200", "key:4999", "set:1", "key:4998"] {
            client.call(&["PERSIST", key]).unwrap();
        }
        client.call(&["PEXPIREAT", "key:3000", &late.to_string()]).unwrap();
        let (_, found) = live(&urls[0], &urls[1], small).unwrap();
        let mut want: std::collections::BTreeSet<_> =
            ["key:3000", "key:7", "key:8"].map(|key| (0, key.as_bytes().to_vec(), "expiry")).into();
        want.insert((0, b"key:4998".to_vec(), "value"));
        assert_eq!(told(&found), want, "side {side}");
        // As it was.
        let client = &mut clients[side];
        client.call(&["SET", "key:4998", "value 4998"]).unwrap();
        client.call(&["PERSIST", "key:3000"]).unwrap();
        for key in ["key:7", "key:8"] {
            client.call(&["PEXPIREAT", key, &late.to_string()]).unwrap();
        }
        let (report, found) = live(&urls[0], &urls[1], small).unwrap();
        assert_eq!((report.equal, found.len()), (5001, 0), "side {side}");
    }
}

#[test]
fn short_values_differ_where_they_do() {
    let Some(servers) = two() else { return };
    let [mut source, mut target] = servers.each_ref().map(|server| server.client().unwrap());
    let long = "x".repeat(100);
    let items = |range: std::ops::Range<u32>| range.map(|n| format!("item {n}")).collect::<Vec<_>>();
    let add = |client: &mut Client, command: &str, key: &str, values: &[String]| {
        let mut all = vec![command, key];
        all.extend(values.iter().map(String::as_str));
        client.call(&all).unwrap();
    };
    for client in [&mut source, &mut target] {
        for name in ["equal", "reversed", "longer", "other", "retyped"] {
            add(client, "RPUSH", &format!("list:{name}"), &items(0..20));
            add(client, "RPUSH", &format!("list:{name}:128"), &items(0..128));
            add(client, "RPUSH", &format!("list:{name}:300"), &items(0..300));
            add(client, "SADD", &format!("set:{name}"), &items(0..20));
            add(client, "SADD", &format!("set:{name}:300"), &items(0..300));
            // A long value makes it a table.
            add(
                client,
                "HSET",
                &format!("hash:{name}"),
                &["a".to_owned(), long.clone(), "b".to_owned(), "1".to_owned()],
            );
        }
    }
    let reversed: Vec<String> = items(0..20).into_iter().rev().collect();
    target
        .call(&["DEL", "list:reversed", "set:reversed", "list:retyped", "set:retyped", "hash:retyped"])
        .unwrap();
    add(&mut target, "RPUSH", "list:reversed", &reversed);
    add(&mut target, "SADD", "set:reversed", &reversed);
    for key in ["list:longer", "list:longer:128", "list:longer:300"] {
        add(&mut target, "RPUSH", key, &items(0..1));
    }
    for key in ["list:other", "list:other:128", "list:other:300"] {
        target.call(&["LSET", key, "-1", "other"]).unwrap();
    }
    for key in ["set:longer", "set:longer:300"] {
        add(&mut target, "SADD", key, &items(1000..1001));
    }
    for key in ["set:other", "set:other:300"] {
        target.call(&["SREM", key, "item 7"]).unwrap();
        target.call(&["SADD", key, "item 77777"]).unwrap();
    }
    target.call(&["HSET", "hash:other", "b", "2"]).unwrap();
    target.call(&["HSET", "hash:longer", "c", "2"]).unwrap();
    target.call(&["HDEL", "hash:reversed", "a", "b"]).unwrap();
    target.call(&["HSET", "hash:reversed", "b", "1", "a", &long]).unwrap();
    add(&mut target, "SADD", "list:retyped", &items(0..20));
    add(&mut target, "RPUSH", "set:retyped", &items(0..20));
    add(&mut target, "SADD", "hash:retyped", &items(0..20));
    let (report, found) = live(&servers[0].url(), &servers[1].url(), |_| {}).unwrap();
    let value = [
        "list:reversed",
        "list:longer",
        "list:longer:128",
        "list:longer:300",
        "list:other",
        "list:other:128",
        "list:other:300",
        "set:longer",
        "set:longer:300",
        "set:other",
        "set:other:300",
        "hash:other",
        "hash:longer",
    ];
    let mut want: std::collections::BTreeSet<_> =
        value.iter().map(|key| (0, key.as_bytes().to_vec(), "value")).collect();
    want.extend(["list", "set", "hash"].map(|kind| (0, format!("{kind}:retyped").into_bytes(), "type")));
    assert_eq!(told(&found), want);
    assert_eq!(report.both, 30);
}
