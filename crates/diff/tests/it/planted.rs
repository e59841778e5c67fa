//! Differences planted among equal keys, on real servers: all are found, and nothing else.

use std::fs;

use keyferry_diff::Depth;
use keyferry_testkit::{Cluster, Server, ServerBinary, Vendor, all, any};

use crate::support::{Found, diff, live, told};

/// A command, in a database.
type Step = (u32, Vec<Vec<u8>>);

/// Keys that are the same on both sides. `cargo xtask matrix --diff` wants a million.
fn equal() -> usize {
    let wanted = std::env::var("KEYFERRY_DIFF_KEYS").ok();
    wanted.map_or(10_000, |wanted| wanted.parse().expect("KEYFERRY_DIFF_KEYS is a number"))
}

fn step(db: u32, text: &str) -> Step {
    // `\xHH` and `\0` in arguments; `""` is the empty one.
    let unescape = |word: &str| {
        if word == "\"\"" { Vec::new() } else { keyferry_resp::escape::unescape(word).unwrap() }
    };
    (db, text.split(' ').map(unescape).collect())
}

/// What both sides hold in the beginning.
fn base(databases: u32) -> Vec<Step> {
    let mut steps: Vec<Step> = [
        "SET gone x",
        "SET empty \"\"",
        "SET emptied x",
        "SET retyped x",
        "SET text abcdefghij",
        "SET int 12345",
        "SET Aa 1",
        "RPUSH list:rotated a b c",
        "RPUSH list:prefix a b c",
        "RPUSH list:same a b c",
        "SADD set:permuted a b c d e",
        "SADD set:member a b c",
        "SADD set:ints 1 2 3 400000",
        "ZADD zset:bit 0.1 a 2 b",
        "ZADD zset:odd 3.14 pi 1e21 big -0 zero inf inf 0.30000000000000004 sum",
        "HSET hash:value a 1 b 2",
        "HSET hash:order a 1 b 2",
        "HSET hash:encoding a 1 b 2 c 3",
        "SET ttl:other x PX 100000000",
        "SET ttl:near x PX 100000000",
        "SET ttl:gone x PX 100000000",
        "SET ttl:new x",
        "SET b\\x00\\x09\\x0a\\xff\\xfe x",
        "SET b\\x00\\x09\\x0a\\xff\\xfd x",
        "XADD stream:entry 1-1 f v g w",
        "XADD stream:entry 2-1 f v",
        "XADD stream:same 1-1 f v",
        "XADD stream:last 1-1 f v",
        "XADD stream:group 1-1 f v",
        "XGROUP CREATE stream:group g 0",
        "XADD stream:pending 1-1 f v",
        "XADD stream:pending 1-2 f v",
        "XGROUP CREATE stream:pending g 0",
        "XCLAIM stream:pending g c 0 1-1 TIME 1700000000000 RETRYCOUNT 3 FORCE JUSTID",
        "XCLAIM stream:pending g c 0 1-2 TIME 1700000000000 RETRYCOUNT 3 FORCE JUSTID",
        "XADD stream:owner 1-1 f v",
        "XGROUP CREATE stream:owner g 0",
        "XCLAIM stream:owner g c 0 1-1 TIME 1700000000000 RETRYCOUNT 3 FORCE JUSTID",
        // A pending list that is longer than the stream, and one without entries.
        "XADD stream:odd 1-1 f v",
        "XADD stream:odd 1-2 f v",
        "XGROUP CREATE stream:odd g 0",
        "XGROUP CREATE stream:odd idle $",
        "XCLAIM stream:odd g c 0 1-1 TIME 1700000000000 RETRYCOUNT 1 FORCE JUSTID",
        "XCLAIM stream:odd g c 0 1-2 TIME 1700000000000 RETRYCOUNT 1 FORCE JUSTID",
        "XTRIM stream:odd MAXLEN 0",
        "XADD stream:counted 1-1 f v",
        "XADD stream:counted 5-1 f v",
    ]
    .into_iter()
    .map(|text| step(0, text))
    .collect();
    for db in 1..databases {
        steps.extend([step(db, "SET gone x"), step(db, "HSET other a 1"), step(db, "SET int 12345")]);
    }
    for n in 0..equal() {
        let db = (n as u32 % 7).min(databases - 1);
        steps.push(match n % 5 {
            0 => step(db, &format!("SET key:{n} {}", n * 7919)),
            1 => step(db, &format!("HSET hash:{n} name user-{n} age {} city berlin", n % 90)),
            2 => step(db, &format!("RPUSH list:{n} a{n} {n} b c")),
            3 => step(db, &format!("ZADD zset:{n} {n}.5 a 17 b{n}")),
            _ => step(db, &format!("SADD set:{n} {n} {} x", n + 1)),
        });
    }
    // Streams whose length is a multiple of a page, one less, one more.
    for length in [39, 40, 41, 4999, 5000, 5001] {
        for n in 1..=length {
            steps.push(step(0, &format!("XADD stream:{length} {n}-1 f {n}")));
        }
    }
    steps
}

/// What is changed on the target, and what has to be found for it.
fn plants(databases: u32) -> (Vec<Step>, Found) {
    let mut steps = Vec::new();
    let mut found = Found::new();
    for (text, kinds) in [
        ("DEL gone", &[("gone", "lack_target")][..]),
        ("DEL empty", &[("empty", "lack_target")]),
        ("SET emptied \"\"", &[("emptied", "value")]),
        ("SET new \"\"", &[("new", "lack_source")]),
        ("SET BB 1", &[("BB", "lack_source")]),
        ("DEL retyped", &[("retyped", "type")]),
        ("RPUSH retyped x", &[]),
        ("SETRANGE text 9 k", &[("text", "value")]),
        ("INCR int", &[("int", "value")]),
        ("RPOPLPUSH list:rotated list:rotated", &[("list:rotated", "value")]),
        ("RPOP list:prefix", &[("list:prefix", "value")]),
        // The same set, hash and sorted set, made in another order.
        ("SREM set:permuted a c e", &[]),
        ("SADD set:permuted e c a", &[]),
        ("SREM set:member c", &[("set:member", "value")]),
        ("SADD set:member d", &[]),
        // One bit more than 0.1.
        ("ZADD zset:bit 0.10000000000000002 a", &[("zset:bit", "value")]),
        ("HSET hash:value b 3", &[("hash:value", "value")]),
        ("DEL hash:order", &[]),
        ("HSET hash:order b 2 a 1", &[]),
        ("PEXPIRE ttl:other 100005000", &[("ttl:other", "expiry")]),
        ("PERSIST ttl:gone", &[("ttl:gone", "expiry")]),
        ("PEXPIRE ttl:new 100000000", &[("ttl:new", "expiry")]),
        ("SET b\\x00\\x09\\x0a\\xff\\xfe y", &[("b\\x00\\x09\\x0a\\xff\\xfe", "value")]),
        ("XDEL stream:entry 2-1", &[]),
        ("XADD stream:last 1-2 f v", &[]),
        ("XDEL stream:last 1-2", &[]),
        ("XGROUP SETID stream:group g 1-1", &[("stream:group", "value")]),
        ("XACK stream:pending g 1-2", &[("stream:pending", "value")]),
        (
            "XCLAIM stream:owner g d 0 1-1 TIME 1700000000000 RETRYCOUNT 3 FORCE JUSTID",
            &[("stream:owner", "value")],
        ),
        // What migrations keep for themselves.
        ("HSET keyferry:checkpoint:{x} offset 1", &[]),
        ("SET keyferry:tmp:x 1", &[]),
        ("SET DTS_REDIS_TIMESTAMP_HEARTBEAT 1", &[]),
        ("SET DRS_REDIS_TIMESTAMP_HEARTBEAT:0 1", &[]),
        // The last of so many entries.
        ("XDEL stream:40 40-1", &[]),
        ("XDEL stream:5000 5000-1", &[]),
        // As long as before, with the same ids, and made anew below.
        ("DEL stream:39", &[("stream:39", "value")]),
        ("DEL stream:5001", &[("stream:5001", "value")]),
    ] {
        steps.push(step(0, text));
        for (key, kind) in kinds {
            found.insert((0, keyferry_resp::escape::unescape(key).unwrap(), *kind));
        }
    }
    for stream in ["stream:entry", "stream:last", "stream:40", "stream:5000"] {
        found.insert((0, stream.into(), "value"));
    }
    for length in [39, 5001] {
        for n in 1..=length {
            let value = if n < length { n } else { 0 };
            steps.push(step(0, &format!("XADD stream:{length} {n}-1 f {value}")));
        }
    }
    if databases > 5 {
        steps.extend([step(5, "DEL gone"), step(5, "SET text abcdefghij"), step(4, "HSET other b 2")]);
        found.extend([
            (5, b"gone".to_vec(), "lack_target"),
            (5, b"text".to_vec(), "lack_source"),
            (4, b"other".to_vec(), "value"),
        ]);
    }
    (steps, found)
}

/// What differs besides where both servers count the entries of streams: since Redis 7.0.
fn counted(found: &mut Found) {
    for stream in ["stream:entry", "stream:last", "stream:40", "stream:5000"] {
        found.insert((0, stream.into(), "counters"));
    }
}

fn run(server: &Server, steps: &[Step]) {
    let mut client = server.client().unwrap();
    let mut selected = 0;
    let mut sent = 0;
    for (db, args) in steps {
        if selected != *db {
            client.queue(&["SELECT", &db.to_string()]).unwrap();
            (selected, sent) = (*db, sent + 1);
        }
        client.queue(args).unwrap();
        sent += 1;
    }
    client.flush().unwrap();
    for reply in client.replies(sent).unwrap() {
        assert!(reply.error().is_none(), "{reply:?}");
    }
}

fn run_cluster(cluster: &Cluster, steps: &[Step]) {
    let mut client = cluster.client().unwrap();
    for steps in steps.chunks(1000) {
        let commands: Vec<_> = steps.iter().map(|(_, args)| args).collect();
        for reply in client.pipe(&commands).unwrap() {
            assert!(reply.error().is_none(), "{reply:?}");
        }
    }
}

/// Deadlines are relative: those that have to be equal are set to one time on both sides.
fn same_deadlines(steps: &mut Vec<Step>, at: u64) {
    for key in ["ttl:other", "ttl:near", "ttl:gone"] {
        steps.push(step(0, &format!("PEXPIREAT {key} {at}")));
    }
}

fn deadline() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
        + 100_000_000
}

fn start(binary: &ServerBinary) -> Server {
    Server::builder(binary).diskless_sync(true, 0).start().unwrap()
}

fn save(server: &Server) -> String {
    server.client().unwrap().call(&["SAVE"]).unwrap();
    server.dir().join("dump.rdb").display().to_string()
}

/// A key and a hash field that have expired and are still there, on the source only.
fn leave_expired(server: &Server) {
    let mut client = server.client().unwrap();
    client.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).unwrap();
    client.call(&["SET", "expired", "x", "PX", "1"]).unwrap();
    if client.call(&["HSET", "hash:last", "f", "v"]).is_ok()
        && client.call(&["HPEXPIRE", "hash:last", "1", "FIELDS", "1", "f"]).is_err()
    {
        client.call(&["DEL", "hash:last"]).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(1100));
}

fn compare(source: &ServerBinary, target: &ServerBinary) {
    println!("{} and {}", source.name, target.name);
    let (a, b) = (start(source), start(target));
    let at = deadline();
    let mut steps = base(8);
    same_deadlines(&mut steps, at);
    // Another encoding of everything.
    for config in ["hash-max-ziplist-entries", "zset-max-ziplist-entries", "set-max-intset-entries"] {
        b.client().unwrap().call(&["CONFIG", "SET", config, "1"]).unwrap();
    }
    run(&a, &steps);
    run(&b, &steps);
    let (report, found) = diff(&a.url(), &b.url(), |_| {}).unwrap();
    assert_eq!(found, Found::new(), "{} and {} hold the same", source.name, target.name);
    assert!(report.to_string().starts_with("EQUAL: all "), "{report}");
    let (by_key, differences) = live(&a.url(), &b.url(), |_| {}).unwrap();
    assert_eq!(told(&differences), Found::new(), "{} and {} hold the same", source.name, target.name);
    assert_eq!(
        (by_key.source.keys, by_key.equal, by_key.to_string()),
        (report.source.keys, report.equal, report.to_string())
    );

    let (mut changes, mut expected) = plants(8);
    let counts = |binary: &ServerBinary| !(binary.vendor == Vendor::Redis && binary.version.major < 7);
    if counts(source) && counts(target) {
        counted(&mut expected);
        changes.push(step(0, "XSETID stream:counted 5-1 ENTRIESADDED 7 MAXDELETEDID 3-1"));
        expected.insert((0, b"stream:counted".to_vec(), "counters"));
        // A consumer without pending entries is not replicated by all versions.
        changes.push(step(0, "XGROUP CREATECONSUMER stream:odd idle nobody"));
    }
    changes.push(step(0, &format!("PEXPIREAT ttl:near {}", at + 900)));
    run(&b, &changes);
    let fields = [&a, &b].map(|server| {
        let mut client = server.client().unwrap();
        client.call(&["HSET", "hash:field-ttl", "f", "v", "g", "w"]).unwrap();
        client.call(&["HPEXPIREAT", "hash:field-ttl", &at.to_string(), "FIELDS", "1", "f"]).is_ok()
    });
    if fields == [true, true] {
        let late = (at + 1).to_string();
        b.client().unwrap().call(&["HPEXPIREAT", "hash:field-ttl", &late, "FIELDS", "1", "f"]).unwrap();
        expected.insert((0, b"hash:field-ttl".to_vec(), "field_expiry"));
    } else if fields[0] != fields[1] {
        expected.insert((0, b"hash:field-ttl".to_vec(), "field_expiry"));
    }
    leave_expired(&a);
    let (a_file, b_file) = (save(&a), save(&b));
    for (source, target) in
        [(&a.url(), &b.url()), (&a_file, &b.url()), (&a.url(), &b_file), (&a_file, &b_file)]
    {
        let (report, found) = diff(source, target, |_| {}).unwrap();
        assert_eq!(found, expected, "{source} and {target}");
        assert_eq!(report.target.bookkeeping, 4);
        assert!(report.source.expired >= 1 && report.expiring == 0, "{report:?}");
    }
    let (report, differences) = live(&a.url(), &b.url(), |_| {}).unwrap();
    assert_eq!(told(&differences), expected);
    assert_eq!((report.target.bookkeeping, report.rounds.len()), (4, 3));
    // Everything in parts.
    let (_, differences) = live(&a.url(), &b.url(), |diff| {
        (diff.live_mut().big_key, diff.live_mut().batch) = (0, 77);
        diff.live_mut().rounds = 1;
        // That takes round trips for each key.
        for equal in ["key:*", "hash:[0-9]*", "list:[0-9]*", "zset:[0-9]*", "set:[0-9]*"] {
            diff.options_mut()
                .selection
                .exclude
                .push(keyferry_routing::KeyPattern::new(equal.as_bytes()).into());
        }
    })
    .unwrap();
    assert_eq!(told(&differences), expected);
    // The other way round, digests on disk.
    let turned: Found = expected
        .iter()
        .map(|(db, key, kind)| {
            let kind = match *kind {
                "lack_source" => "lack_target",
                "lack_target" => "lack_source",
                kind => kind,
            };
            (*db, key.clone(), kind)
        })
        .collect();
    let (_, differences) = live(&b.url(), &a.url(), |_| {}).unwrap();
    assert_eq!(told(&differences), turned);
    let (report, found) = diff(&b.url(), &a.url(), |options| options.memory = 64 << 10).unwrap();
    assert_eq!(found, turned);
    assert!(report.spilled > 0);
    // Deadlines to the millisecond, and bookkeeping keys as any others.
    let (_, found) = diff(&a_file, &b_file, |options| {
        options.ttl_tolerance = std::time::Duration::ZERO;
        options.bookkeeping.clear();
    })
    .unwrap();
    assert!(found.contains(&(0, b"ttl:near".to_vec(), "expiry")));
    assert!(found.contains(&(0, b"DTS_REDIS_TIMESTAMP_HEARTBEAT".to_vec(), "lack_source")));
    assert_eq!(found.len(), expected.len() + 5);
    if counts(source) && counts(target) {
        let (_, found) = diff(&a_file, &b_file, |options| options.unreplicated = true).unwrap();
        assert!(found.contains(&(0, b"stream:odd".to_vec(), "value")));
    }
    functions(&a, &b);
    drop((a, b));
    let _ = fs::remove_file(a_file);
}

/// Function libraries, where both servers have them.
fn functions(a: &Server, b: &Server) {
    let load = |server: &Server, name: &str, result: u8| {
        let code =
            format!("#!lua name={name}\nredis.register_function('{name}', function() return {result} end)");
        server.client().unwrap().call(&["FUNCTION", "LOAD", &code]).is_ok()
    };
    if !(load(a, "same", 1) && load(b, "same", 1)) {
        return;
    }
    assert!(load(a, "other", 1) && load(b, "other", 2) && load(a, "gone", 1) && load(b, "new", 1));
    let only = |options: &mut keyferry_diff::DiffOptions| {
        options.selection.keys.push(keyferry_routing::KeyPattern::new(b"set:same-on-both").into());
    };
    let (report, found) = diff(&a.url(), &b.url(), only).unwrap();
    let expected = [("gone", "lack_target"), ("new", "lack_source"), ("other", "value")];
    assert_eq!(found, expected.map(|(name, kind)| (0, name.as_bytes().to_vec(), kind)).into());
    assert_eq!((report.source.functions, report.target.functions), (3, 3));
    let (report, _) = diff(&a.url(), &b.url(), |options| {
        only(options);
        options.functions = false;
    })
    .unwrap();
    assert_eq!(report.verdict(), keyferry_diff::Verdict::NothingCompared);
}

/// The oldest Redis, the newest one, the newest Valkey.
fn ends() -> Vec<&'static ServerBinary> {
    let Ok(all) = all() else {
        println!("note: no server is there");
        return Vec::new();
    };
    let of = |vendor| {
        let mut all: Vec<_> = all.iter().filter(|binary| binary.vendor == vendor).collect();
        all.sort_by_key(|binary| binary.version);
        all
    };
    let (redis, valkey) = (of(Vendor::Redis), of(Vendor::Valkey));
    let mut ends: Vec<_> = redis.first().into_iter().chain(valkey.last()).copied().collect();
    if redis.len() > 1 {
        ends.extend(redis.last().copied());
    }
    ends
}

#[test]
fn between_the_oldest_and_the_newest() {
    let ends = ends();
    if let [oldest, newest, ..] = ends[..] {
        compare(oldest, newest);
    }
}

#[test]
fn between_vendors() {
    let ends = ends();
    if let [_, valkey, redis] = ends[..] {
        compare(valkey, redis);
    }
}

#[test]
fn between_servers_of_one_version() {
    if let Ok(binary) = any() {
        compare(binary, binary);
    }
}

/// The oldest and the newest, in both ways and in every depth.
#[test]
fn between_clusters() {
    let ends = ends();
    let [oldest, newest, ..] = ends[..] else { return };
    let start = |binary: &ServerBinary| {
        Cluster::builder(binary).primaries(2).config("repl-diskless-sync-delay", "0").start().unwrap()
    };
    let (a, b) = (start(oldest), start(newest));
    let mut steps = base(1);
    same_deadlines(&mut steps, deadline());
    run_cluster(&a, &steps);
    run_cluster(&b, &steps);
    let (changes, expected) = plants(1);
    let counts = |binary: &ServerBinary| !(binary.vendor == Vendor::Redis && binary.version.major < 7);
    assert!(!(counts(oldest) && counts(newest)), "nothing is said of what only one side counts");
    let by_key = |depth: Depth| {
        live(&a.url(), &b.url(), |diff| {
            (diff.live_mut().depth, diff.live_mut().rounds) = (depth, 1);
        })
        .unwrap()
    };
    let (report, differences) = by_key(Depth::Full);
    assert_eq!((told(&differences), report.equal), (Found::new(), report.source.keys));
    assert!(report.equal > equal() as u64, "{report}");
    run_cluster(&b, &changes);
    let (report, found) = diff(&a.url(), &b.url(), |_| {}).unwrap();
    assert_eq!(found, expected);
    assert_eq!((report.source.parts.len(), report.target.parts.len()), (2, 2));
    assert_eq!(told(&by_key(Depth::Full).1), expected);
    // Types that differ are told from lengths, too; names say which keys are missing, and no more.
    let of = |kinds: &[&str], more: &[&str]| -> Found {
        let wanted = |(_, key, kind): &&(u64, Vec<u8>, &'static str)| {
            kinds.contains(kind) || more.iter().any(|name| name.as_bytes() == key)
        };
        expected.iter().filter(wanted).cloned().collect()
    };
    let lengths = ["emptied", "list:prefix", "stream:entry", "stream:40", "stream:5000"];
    assert_eq!(
        told(&by_key(Depth::Length).1),
        of(&["lack_source", "lack_target", "type", "expiry"], &lengths)
    );
    assert_eq!(told(&by_key(Depth::Exists).1), of(&["lack_source", "lack_target"], &[]));
}

#[test]
fn between_a_server_and_a_cluster() {
    let Ok(binary) = any() else { return println!("note: no server is there") };
    let cluster =
        Cluster::builder(binary).primaries(3).config("repl-diskless-sync-delay", "0").start().unwrap();
    let server = start(binary);
    let at = deadline();
    let mut steps = base(1);
    same_deadlines(&mut steps, at);
    run(&server, &steps);
    run_cluster(&cluster, &steps);
    let one_node = format!("redis://{}", cluster.node(1).addr());
    let (report, found) = diff(&server.url(), &one_node, |_| {}).unwrap();
    assert_eq!(found, Found::new());
    // One address is enough: all shards are read.
    assert_eq!(report.target.parts.len(), 3);
    assert_eq!((report.target.keys, report.equal), (report.source.keys, report.source.keys));

    let (changes, mut expected) = plants(1);
    if binary.version.major >= 7 {
        counted(&mut expected);
    }
    run_cluster(&cluster, &changes);
    let (_, found) = diff(&server.url(), &cluster.url(), |_| {}).unwrap();
    assert_eq!(found, expected);
    for (source, target) in [(&server.url(), &cluster.url()), (&server.url(), &one_node)] {
        let (report, differences) = live(source, target, |_| {}).unwrap();
        assert_eq!(told(&differences), expected);
        assert_eq!(report.target.parts.len(), 3);
    }
    let (report, differences) = live(&cluster.url(), &cluster.url(), |_| {}).unwrap();
    assert!(differences.is_empty() && report.equal > equal() as u64, "{report}");
    let (_, found) = diff(&cluster.url(), &cluster.url(), |_| {}).unwrap();
    assert_eq!(found, Found::new());

    // Another database has no place in a cluster; mapped to its only one, it is compared with that.
    run(&server, &[step(5, "SET gone y")]);
    let (_, found) = diff(&server.url(), &cluster.url(), |_| {}).unwrap();
    assert!(found.contains(&(5, b"gone".to_vec(), "lack_target")));
    let (_, found) = diff(&server.url(), &cluster.url(), |options| {
        options.databases.add("5=0".parse().unwrap());
        options.databases.add("0=5".parse().unwrap());
        options.selection.databases.push(5);
    })
    .unwrap();
    assert!(found.contains(&(0, b"gone".to_vec(), "lack_target")) && found.len() > equal());
    // Two databases that become one hold some names twice.
    let (_, found) = diff(&server.url(), &server.url(), |options| {
        options.databases.add("5=0".parse().unwrap());
    })
    .unwrap();
    assert_eq!(found, [(0, b"gone".to_vec(), "duplicate"), (5, b"gone".to_vec(), "lack_source")].into());
}
