//! Seeded data on real servers, and the comparison that sees every kind of difference.

use std::collections::BTreeSet;
use std::time::Duration;

use keyferry_testkit::data::{self, Counts, Features, Mix, Mixed, Shape, Writer, WriterOptions};
use keyferry_testkit::{
    Client, Cluster, CompareOptions, DifferenceKind, Sentinels, Server, ServerBinary, Vendor, all, any,
    compare, compare_with, digest,
};

type Result<T = ()> = keyferry_testkit::Result<T>;

const MINUTE: Duration = Duration::from_secs(60);

fn pair() -> Result<(Server, Server)> {
    Ok((Server::any()?, Server::any()?))
}

#[test]
fn small_data_is_the_same_twice_and_after_a_reload_on_every_server() -> Result {
    for binary in all()? {
        let (a, b) = (Server::builder(binary).start()?, Server::builder(binary).start()?);
        let (mut client_a, mut client_b) = (a.client()?, b.client()?);
        assert!(data::small(&mut client_a, 7, 3)? > 3000);
        data::small(&mut client_b, 7, 3)?;
        let keys = client_a.int(&["DBSIZE"])?;
        assert!(keys > 130, "{keys} keys");
        // Times to live count from when each was given its data.
        let later = CompareOptions::default().expiry_tolerance(60_000);
        let comparison = compare_with(&mut client_a, &mut client_b, &later)?;
        assert!(comparison.is_equal(), "{binary}: {comparison}");
        assert_eq!(comparison.keys_a as i64, 3 * keys);
        assert_eq!(comparison.keys_b, comparison.keys_a);

        // A copy by replication is equal in everything, and so is a server that saved and loaded its data.
        client_b.call(&["REPLICAOF", "127.0.0.1", &a.port().to_string()])?;
        let up = |client: &mut Client| {
            Ok(client.info("replication", "master_link_status")?.as_deref() == Some("up"))
        };
        assert!(client_b.wait_until(MINUTE, up)?);
        client_b.call(&["REPLICAOF", "NO", "ONE"])?;
        client_b.call(&["DEBUG", "RELOAD"])?;
        let comparison =
            compare_with(&mut client_a, &mut client_b, &CompareOptions::default().unreplicated())?;
        assert!(comparison.is_equal(), "{binary}: {comparison}");
        assert_eq!(digest(&mut client_a)?, digest(&mut client_b)?, "{binary}");
    }
    Ok(())
}

#[test]
fn small_data_has_every_type_and_encoding() -> Result {
    for binary in all()? {
        let server = Server::builder(binary).start()?;
        let mut client = server.client()?;
        data::small(&mut client, 1, 1)?;
        let mut encodings = BTreeSet::new();
        for key in client.list(&["KEYS", "*"])? {
            let key = key.as_bytes().unwrap();
            let kind = client.text(&[b"TYPE", &key[..]])?;
            let encoding = client.text(&[&b"OBJECT"[..], b"ENCODING", key])?;
            encodings.insert(format!("{kind} {encoding}"));
        }
        let features = Features::probe(&mut client)?;
        let compact = if features.is_redis(7, 0) { "listpack" } else { "ziplist" };
        let mut expected = vec![
            "string int".to_owned(),
            "string embstr".into(),
            "string raw".into(),
            "set intset".into(),
            "set hashtable".into(),
            "zset skiplist".into(),
            "hash hashtable".into(),
            "list quicklist".into(),
            "stream stream".into(),
            format!("zset {compact}"),
            format!("hash {compact}"),
        ];
        if features.is_redis(7, 2) {
            expected.extend(["set listpack".into(), "list listpack".into()]);
        }
        if features.is_redis(7, 4) && features.has("hpexpire") {
            expected.push("hash listpackex".into());
        }
        if features.has("vadd") {
            expected.push("vectorset raw".into());
        }
        for encoding in expected {
            assert!(encodings.contains(&encoding), "{binary} has no {encoding}: {encodings:?}");
        }
        assert_eq!(features.has("function"), features.is_redis(7, 0), "{binary}");
        if features.has("function") {
            assert_eq!(client.list(&["FUNCTION", "LIST"])?.len(), 2);
        }
        let expires = client.info("keyspace", "db0")?.unwrap();
        assert!(!expires.contains("expires=0"), "{expires}");
    }
    Ok(())
}

#[test]
fn every_planted_difference_is_found() -> Result {
    use DifferenceKind::{Counters, Expiry, FieldExpiry, Function, MissingInA, MissingInB, Type, Value};
    let (a, b) = pair()?;
    let (mut a, mut b) = (a.client()?, b.client()?);
    // Small values whole, large ones in parts.
    for client in [&mut a, &mut b] {
        for (shape, key) in [
            (Shape::List, "big:list"),
            (Shape::Set, "big:set"),
            (Shape::SortedSet, "big:zset"),
            (Shape::Hash, "big:hash"),
            (Shape::String, "big:string"),
        ] {
            data::big(client, 1, key, shape, if shape == Shape::String { 9_000_000 } else { 2_500_000 })?;
        }
    }
    // Its deadlines are counted from now: as late as the second is filled, so far do they lie apart.
    for client in [&mut a, &mut b] {
        data::small(client, 3, 1)?;
    }
    let late = CompareOptions::default().expiry_tolerance(60_000);
    a.call(&["XADD", "s", "1-1", "a", "1"])?;
    a.call(&["XGROUP", "CREATE", "s", "g", "0"])?;
    a.call(&["XCLAIM", "s", "g", "c", "0", "1-1", "TIME", "5", "RETRYCOUNT", "2", "FORCE", "JUSTID"])?;
    let dump = a.bytes(&["DUMP", "s"])?.unwrap();
    b.call(&[&b"RESTORE"[..], b"s", b"0", &dump])?;
    let comparison = compare_with(&mut a, &mut b, &late)?;
    assert!(comparison.is_equal(), "{comparison}");

    // Only the times at which consumers were seen are the servers' own.
    for key in ["stream:groups", "stream:groups-large"] {
        let dump = a.bytes(&["DUMP", key])?.unwrap();
        b.call(&[&b"RESTORE"[..], key.as_bytes(), b"0", &dump, b"REPLACE"])?;
    }
    let options = late.clone().unreplicated();
    let features = Features::probe(&mut b)?;
    let list_length = b.int(&["LLEN", "big:list"])?;
    let mut cases: Vec<(DifferenceKind, &str, Vec<String>)> = vec![];
    let mut case = |kind, key, command: &str| {
        let words = command.split(' ').map(|word| if word == "''" { String::new() } else { word.to_owned() });
        cases.push((kind, key, words.collect()));
    };
    case(MissingInB, "string:int:3", "DEL string:int:3");
    case(MissingInA, "only in b", "SET only_in_b 1");
    case(Type, "list:one", "SET list:one 1");
    case(Value, "string:compressible", "SETRANGE string:compressible 2900 X");
    case(Value, "list:many", "LSET list:many 4321 other");
    case(Value, "list:one", "RPUSH list:one 2");
    case(Value, "set:large", "SADD set:large one-more");
    case(Value, "zset:scores", "ZADD zset:scores 5e-323 member:11");
    case(Value, "zset:large", "ZADD zset:large XX 1 m:1");
    case(Value, "hash:small", "HSET hash:small born 1816");
    case(Value, "hash:small", "HDEL hash:small ''");
    case(Value, "stream:plain", "XDEL stream:plain 2-1");
    case(Value, "stream:plain", "XADD stream:plain 4-0 a b");
    case(Value, "stream:counters", "XSETID stream:counters 99-9");
    case(Value, "s", "XGROUP CREATE s g2 0");
    case(Value, "s", "XACK s g 1-1");
    case(Value, "s", "XGROUP SETID s g 1-1");
    case(Value, "s", "XCLAIM s g c 0 1-1 TIME 6 RETRYCOUNT 2 JUSTID");
    case(Value, "s", "XCLAIM s g c 0 1-1 TIME 5 RETRYCOUNT 3 JUSTID");
    case(Value, "s", "XCLAIM s g d 0 1-1 TIME 5 RETRYCOUNT 2 JUSTID");
    case(Value, "bitmap:sparse", "SETBIT bitmap:sparse 99999 1");
    case(Expiry, "ttl:string", "PERSIST ttl:string");
    case(Expiry, "string:empty", "EXPIRE string:empty 100");
    case(Expiry, "ttl:list", "PEXPIREAT ttl:list 4102444900000");
    case(Value, "big:list", &format!("LSET big:list {} x", list_length - 1));
    case(Value, "big:list", "RPUSH big:list x");
    case(Value, "big:zset", "ZINCRBY big:zset 0.001 x");
    case(Value, "big:string", "SETRANGE big:string 8999999 x");
    case(Value, "big:hash", "HSET big:hash field:00000000024999 x");
    if features.is_redis(6, 2) {
        case(Value, "s", "XGROUP CREATECONSUMER s g idle");
    }
    if features.is_redis(7, 0) {
        case(Counters, "s", "XGROUP SETID s g 0 ENTRIESREAD 1");
        case(Function, "keyferry_first", "FUNCTION DELETE keyferry_first");
    }
    if features.has("hpexpire") {
        case(FieldExpiry, "hash:field-ttl", "HPERSIST hash:field-ttl FIELDS 1 goes");
        case(FieldExpiry, "big:hash", "HEXPIRE big:hash 1000 FIELDS 1 field:00000000024999");
    }
    for (kind, key, command) in &cases {
        let key = if *key == "only in b" { "only_in_b" } else { key };
        let before =
            if matches!(kind, Function) { b.bytes(&["FUNCTION", "DUMP"])? } else { b.bytes(&["DUMP", key])? };
        b.call(command)?;
        let comparison = compare_with(&mut a, &mut b, &options)?;
        // An entry more or less is one in the counters, too.
        let mut found: Vec<_> = comparison.differences.iter().map(|d| (d.kind, d.key.clone())).collect();
        found.retain(|(found, _)| *kind == Counters || !command[0].starts_with('X') || *found != Counters);
        assert_eq!(found, [(*kind, key.as_bytes().to_vec())], "{command:?}: {comparison}");
        let shown = &comparison.differences[0];
        assert_ne!(shown.a, shown.b, "{command:?}");
        // Put it back.
        match before {
            None => drop(b.call(&["DEL", key])?),
            Some(dump) if *kind == Function => {
                b.call(&[&b"FUNCTION"[..], b"RESTORE", &dump, b"REPLACE"])?;
            }
            Some(dump) => {
                b.call(&[&b"RESTORE"[..], key.as_bytes(), b"0", &dump, b"REPLACE"])?;
                if *kind == Expiry && key != "string:empty" {
                    let deadline = if key == "ttl:list" { "4102444801001" } else { "4102444800000" };
                    b.call(&["PEXPIREAT", key, deadline])?;
                }
            }
        }
    }
    let comparison = compare_with(&mut a, &mut b, &late)?;
    assert!(comparison.is_equal(), "{comparison}");

    // Other databases count too; what is ignored does not.
    b.call(&["SELECT", "5"])?;
    b.call(&["SET", "keyferry:checkpoint:1", "x"])?;
    b.call(&["SET", "far", "x"])?;
    let comparison = compare_with(&mut a, &mut b, &late.ignore("keyferry:"))?;
    assert_eq!(comparison.total_differences, 1);
    assert_eq!((comparison.differences[0].database, &comparison.differences[0].key[..]), (5, &b"far"[..]));
    assert!(comparison.to_string().contains("db 5 key \"far\" MissingInA: missing | string"), "{comparison}");
    Ok(())
}

#[test]
fn differences_are_counted_beyond_those_kept() -> Result {
    let (a, b) = pair()?;
    let (mut a, mut b) = (a.client()?, b.client()?);
    data::tiny_keys(&mut a, 1, 1500)?;
    let comparison = compare(&mut a, &mut b)?;
    assert_eq!((comparison.keys_a, comparison.keys_b), (1500, 0));
    assert_eq!((comparison.total_differences, comparison.differences.len()), (1500, 100));
    assert!(!comparison.is_equal());
    Ok(())
}

#[test]
fn mixed_data_is_what_it_promises() -> Result {
    let (a, b) = pair()?;
    let (mut a, mut b) = (a.client()?, b.client()?);
    let mixed = Mixed { keys: 8000, ..Mixed::default() };
    let elements = mixed.fill(&mut a)?;
    assert_eq!(mixed.fill(&mut b)?, elements);
    assert!((8.0..10.0).contains(&(elements as f64 / 8000.0)), "{elements} elements");
    for database in 0..4 {
        a.call(&["SELECT", &database.to_string()])?;
        assert_eq!(a.int(&["DBSIZE"])?, 2000);
    }
    let comparison = compare(&mut a, &mut b)?;
    assert!(comparison.is_equal(), "{comparison}");
    assert_eq!(digest(&mut a)?, digest(&mut b)?);
    b.call(&["FLUSHALL"])?;
    let other = Mixed { seed: 2, ..mixed }.fill(&mut b)?;
    assert_ne!(other, elements);
    assert!(!compare(&mut a, &mut b)?.is_equal());
    Ok(())
}

#[test]
fn data_of_one_shape() -> Result {
    let server = Server::any()?;
    let mut client = server.client()?;
    data::tiny_keys(&mut client, 1, 1001)?;
    assert_eq!(client.int(&["DBSIZE"])?, 1001);
    data::large_strings(&mut client, 1, 3, 100_000)?;
    assert_eq!(client.int(&["STRLEN", "large:00000002"])?, 100_000);
    for (shape, command) in [
        (Shape::String, "STRLEN"),
        (Shape::List, "LLEN"),
        (Shape::Set, "SCARD"),
        (Shape::SortedSet, "ZCARD"),
        (Shape::Hash, "HLEN"),
        (Shape::Stream, "XLEN"),
    ] {
        let key = format!("{shape:?}");
        data::big(&mut client, 1, &key, shape, 3_000_000)?;
        let expected = if shape == Shape::String { 3_000_000 } else { 30_000 };
        assert_eq!(client.int(&[command, &key])?, expected, "{shape:?}");
    }
    Ok(())
}

#[test]
fn a_refused_command_of_the_data_is_an_error() -> Result {
    let server = Server::builder(any()?).config("maxmemory", "3mb").start()?;
    let mut client = server.client()?;
    let error = data::large_strings(&mut client, 1, 20, 1_000_000).unwrap_err();
    assert!(error.to_string().contains("OOM"), "{error}");
    // The connection is still in step.
    assert_eq!(client.text(&["PING"])?, "PONG");
    let mut client = server.client()?;
    let error = data::fill(&mut client, |commands| {
        commands.push(["GET", "a"])?;
        commands.push(["NONSENSE"])
    });
    assert!(error.unwrap_err().to_string().contains("command 2 of the data"));
    Ok(())
}

#[test]
fn writers_write_everything_without_an_error_and_replicas_follow() -> Result {
    // Mostly waiting: all servers at once.
    std::thread::scope(|scope| {
        let runs: Vec<_> = all()?.iter().map(|binary| scope.spawn(|| write_and_follow(binary))).collect();
        runs.into_iter().try_for_each(|run| run.join().unwrap())
    })
}

fn write_and_follow(binary: &ServerBinary) -> Result {
    let options = WriterOptions { rate: 5000, threads: 2, save_the_dying: true, ..WriterOptions::default() };
    let counts = write_before_a_replica(binary, options)?;
    assert!(counts.by_command.len() > 65, "{binary}: {:?}", counts.by_command.keys());
    Ok(())
}

#[test]
fn what_must_be_applied_once_is_accepted_by_every_server() -> Result {
    std::thread::scope(|scope| {
        let runs: Vec<_> = all()?.iter().map(|binary| scope.spawn(|| write_once(binary))).collect();
        runs.into_iter().try_for_each(|run| run.join().unwrap())
    })
}

fn write_once(binary: &ServerBinary) -> Result {
    let counts = write_before_a_replica(
        binary,
        WriterOptions {
            rate: 5000,
            threads: 2,
            save_the_dying: true,
            mix: Mix::ExactlyOnce,
            ..WriterOptions::default()
        },
    )?;
    for name in
        ["INCR", "INCRBYFLOAT", "APPEND", "RPOPLPUSH", "SPOP", "XADD", "XACK", "PEXPIRE", "EXEC", "EVAL"]
    {
        assert!(counts.by_command.contains_key(name), "{binary}: no {name} in {:?}", counts.by_command);
    }
    Ok(())
}

/// Writes while a replica follows, pauses in the middle, and compares the two.
fn write_before_a_replica(binary: &ServerBinary, options: WriterOptions) -> Result<Counts> {
    let (source, copy) = (Server::builder(binary).start()?, Server::builder(binary).start()?);
    let mut replica = copy.client()?;
    replica.call(&["REPLICAOF", "127.0.0.1", &source.port().to_string()])?;
    let mut primary = source.client()?;
    let writer = Writer::start(&source, options)?;
    assert!(writer.wait_for(4000, MINUTE), "{binary}: {} commands sent", writer.sent());
    assert!(writer.pause(MINUTE), "{binary}");
    let sent = writer.sent();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(writer.sent(), sent, "{binary}: written in a pause");
    writer.resume();
    assert!(writer.wait_for(4000, MINUTE), "{binary}: {} commands sent", writer.sent());
    assert!(!writer.has_failed());
    let counts = writer.stop()?;
    assert!(counts.commands >= 8000, "{binary}: {counts:?}");
    assert_eq!((counts.errors, counts.first_error.as_deref()), (0, None), "{binary}");
    assert_eq!(counts.by_command.values().sum::<u64>(), counts.commands);

    data::settle(&mut primary)?;
    let synced = replica.wait_until(MINUTE, |replica| {
        let offset = primary.info("replication", "master_repl_offset")?;
        Ok(replica.info("replication", "master_link_status")?.as_deref() == Some("up")
            && replica.info("replication", "slave_repl_offset")? == offset)
    })?;
    assert!(synced, "{binary}");
    let comparison = compare(&mut primary, &mut replica)?;
    assert!(comparison.is_equal(), "{binary}: {comparison}");
    assert_eq!(digest(&mut primary)?, digest(&mut replica)?, "{binary}");
    Ok(counts)
}

/// At a hundredth of its size; the bench fills it whole.
#[test]
fn the_data_set_of_the_figures_has_its_proportions() -> Result {
    let server = Server::any()?;
    let mut client = server.client()?;
    let elements = Mixed::scaled(0.01).fill(&mut client)?;
    client.call(&["SAVE"])?;
    let bytes = std::fs::metadata(server.dir().join("dump.rdb")).unwrap().len();
    assert!((165_000..190_000).contains(&elements), "{elements} elements");
    assert!((4_000_000..6_000_000).contains(&bytes), "{bytes} bytes");
    Ok(())
}

#[test]
fn multi_key_writers_send_every_command_without_an_error_and_replicas_follow() -> Result {
    std::thread::scope(|scope| {
        let runs: Vec<_> =
            all()?.iter().map(|binary| scope.spawn(|| write_multi_key_and_follow(binary))).collect();
        runs.into_iter().try_for_each(|run| run.join().unwrap())
    })
}

fn write_multi_key_and_follow(binary: &ServerBinary) -> Result {
    let (source, copy) = (Server::builder(binary).start()?, Server::builder(binary).start()?);
    let (mut primary, mut replica) = (source.client()?, copy.client()?);
    replica.call(&["REPLICAOF", "127.0.0.1", &source.port().to_string()])?;
    let options = WriterOptions {
        rate: 8000,
        multi_key: true,
        keys: 12,
        short_expiries: false,
        ..WriterOptions::default()
    };
    let writer = Writer::start(&source, options)?;
    assert!(writer.wait_for(10_000, MINUTE), "{binary}: {} commands sent", writer.sent());
    let counts = writer.stop()?;
    assert_eq!((counts.errors, counts.first_error), (0, None), "{binary}");
    let expected = data::multi_key_commands(&Features::probe(&mut primary)?, true);
    assert!(expected.len() >= 27, "{binary}: {expected:?}");
    for name in expected {
        assert!(counts.by_command.contains_key(name), "{binary}: no {name} in {:?}", counts.by_command);
    }
    let synced = replica.wait_until(MINUTE, |replica| {
        let offset = primary.info("replication", "master_repl_offset")?;
        Ok(replica.info("replication", "slave_repl_offset")? == offset)
    })?;
    assert!(synced, "{binary}");
    assert_eq!(digest(&mut primary)?, digest(&mut replica)?, "{binary}");
    // Nothing grows without bound, and every type is there.
    let size = primary.info("memory", "used_memory_dataset")?.and_then(|size| size.parse().ok());
    assert!(size.is_some_and(|size: u64| size < 20 << 20), "{binary}: {size:?} bytes");
    Ok(())
}

#[test]
fn clusters_are_written_to_while_slots_move_and_primaries_change() -> Result {
    let valkey = all()?.iter().filter(|b| b.vendor == Vendor::Valkey).max_by_key(|b| b.version);
    std::thread::scope(|scope| {
        let binaries = valkey.into_iter().chain([any()?]);
        let runs: Vec<_> = binaries.map(|binary| scope.spawn(|| write_to_cluster(binary))).collect();
        runs.into_iter().try_for_each(|run| run.join().unwrap())
    })
}

fn write_to_cluster(binary: &ServerBinary) -> Result {
    let databases = if binary.vendor == Vendor::Valkey && binary.version.at_least(9, 0) { 3 } else { 1 };
    let mut builder = Cluster::builder(binary).replicas(1);
    if databases > 1 {
        builder = builder.databases(databases);
    }
    let mut cluster = builder.start()?;
    let options = WriterOptions {
        rate: 3000,
        threads: 2,
        databases,
        multi_key: true,
        keys: 20,
        ..WriterOptions::default()
    };
    let writer = Writer::start_cluster(&cluster, options)?;
    assert!(writer.wait_for(1000, MINUTE));
    // Slots that the writer uses among them.
    let slot = keyferry_routing::slot(b"{3}");
    let to = (cluster.owner(slot)? + 1) % 3;
    cluster.move_slots_with(slot - 20..=slot + 20, to, 2, |_| Ok(()))?;
    cluster.failover(3)?;
    assert!(writer.wait_for(5000, MINUTE));
    // Node 1 is a primary still; its replica takes over.
    assert_eq!(cluster.kill(1)?, 4);
    assert!(writer.wait_for(1000, MINUTE));
    cluster.restart(1)?;
    let counts = writer.stop()?;
    assert_eq!((counts.errors, counts.first_error), (0, None), "{binary}");
    assert!(counts.commands > 6000, "{binary}: {} commands", counts.commands);
    for name in data::multi_key_commands(&cluster.client()?.features()?, false) {
        assert!(counts.by_command.contains_key(name), "{binary}: no {name} in {:?}", counts.by_command);
    }
    data::settle_cluster(&cluster)?;
    cluster.wait_until_settled()?;
    for primary in cluster.primaries()? {
        let replica = cluster.replicas(primary)?[0];
        let (mut primary, mut replica) = (cluster.node(primary).client()?, cluster.node(replica).client()?);
        let same = replica.wait_until(MINUTE, |replica| Ok(digest(&mut primary)? == digest(replica)?))?;
        assert!(same, "{binary}");
    }
    Ok(())
}

#[test]
fn writers_follow_sentinels() -> Result {
    let mut group = Sentinels::builder(any()?).password("of the servers").start()?;
    let options = WriterOptions { rate: 2000, threads: 2, multi_key: true, ..WriterOptions::default() };
    let writer = Writer::start_sentinel(&group, options)?;
    assert!(writer.wait_for(500, MINUTE));
    let promoted = group.kill_primary()?;
    assert!(writer.wait_for(2000, MINUTE));
    let counts = writer.stop()?;
    assert_eq!((counts.errors, counts.first_error), (0, None));
    assert!(counts.commands > 2500);
    let keys = group.server(promoted).client()?.int(&["DBSIZE"])?;
    assert!(keys > 50, "{keys} keys");
    Ok(())
}
