//! What names suggest of types is a guess: values of other types, of other sizes and with differences are found among thousands that are
//! as they were taken to be.

use std::collections::BTreeSet;

use keyferry_diff::{Depth, LiveDiff};
use keyferry_testkit::{Client, Cluster, ClusterClient, Server, ServerBinary, any, named};

use crate::spared::calls;
use crate::support::{Found, live, told};

const KEYS: u32 = 1200;

/// Who carries out commands: a server or a cluster.
trait Side {
    fn pipe(&mut self, commands: &[Vec<&str>]);
    /// Whether it carries out a command.
    fn takes(&mut self, command: &[&str]) -> bool;
}

impl Side for Client {
    fn pipe(&mut self, commands: &[Vec<&str>]) {
        Client::pipe(self, commands).unwrap();
    }

    fn takes(&mut self, command: &[&str]) -> bool {
        self.call(command).is_ok()
    }
}

impl Side for ClusterClient {
    fn pipe(&mut self, commands: &[Vec<&str>]) {
        for reply in ClusterClient::pipe(self, commands).unwrap() {
            assert!(reply.error().is_none(), "{reply:?}");
        }
    }

    fn takes(&mut self, command: &[&str]) -> bool {
        self.call(command).is_ok()
    }
}

fn call(client: &mut dyn Side, command: &str) {
    client.pipe(&[command.split(' ').collect()]);
}

/// Five families of names, the values of each of one type.
fn fill(client: &mut dyn Side) {
    let mut commands = Vec::new();
    for n in 0..KEYS {
        commands.push(format!("SET text:{n} value{n}"));
        commands.push(format!("HSET hash:{n} name n{n} age {n} note {}", "x".repeat(n as usize % 90)));
        commands.push(format!("RPUSH list:{n} a{n} b c"));
        commands.push(format!("SADD set:{n} one two{n} three"));
        commands.push(format!("ZADD zset:{n} 1.5 a {n} b{n} -3 c"));
        if n % 7 == 0 {
            commands.push(format!("PEXPIREAT hash:{n} 32503680000000"));
        }
    }
    let commands: Vec<Vec<&str>> = commands.iter().map(|line| line.split(' ').collect()).collect();
    client.pipe(&commands);
}

/// Things that are not what such names suggest, but the same on both sides.
fn odd(client: &mut dyn Side) {
    for (family, other) in
        [("text", "hash"), ("hash", "list"), ("list", "set"), ("set", "zset"), ("zset", "text")]
    {
        let (odd, many) = (format!("{family}:90001"), format!("{family}:90002"));
        call(
            client,
            &match other {
                "hash" => format!("HSET {odd} a 1"),
                "list" => format!("RPUSH {odd} a"),
                "set" => format!("SADD {odd} a"),
                "zset" => format!("ZADD {odd} 1 a"),
                _ => format!("SET {odd} a"),
            },
        );
        let items = |each: fn(u32) -> String| (0..300).map(each).collect::<Vec<_>>().join(" ");
        call(
            client,
            &match family {
                "hash" => format!("HSET {many} {}", items(|n| format!("f{n} {n}"))),
                "list" => format!("RPUSH {many} {}", items(|n| n.to_string())),
                "set" => format!("SADD {many} {}", items(|n| format!("m{n}"))),
                "zset" => format!("ZADD {many} {}", items(|n| format!("{n}.5 m{n}"))),
                _ => format!("SET {many} {}", "y".repeat(100_000)),
            },
        );
    }
    call(client, "XADD hash:90003 1-1 f v");
    call(client, "XGROUP CREATE hash:90003 g 0");
}

/// Changes the target, and says what has to be found.
fn plant(client: &mut dyn Side) -> Found {
    let mut want = BTreeSet::new();
    let mut change = |command: &str, kind: &'static str| {
        call(client, command);
        let key = command.split(' ').nth(if command.starts_with("XGROUP") { 2 } else { 1 }).unwrap();
        want.insert((0, key.as_bytes().to_vec(), kind));
    };
    change("SET text:701 other", "value");
    change("HSET hash:702 age 0", "value");
    change("HDEL hash:703 age", "value");
    change("HSET hash:705 more 1", "value");
    change("LSET list:706 1 x", "value");
    change("RPUSH list:707 d", "value");
    change("SREM set:708 one", "value");
    change("SADD set:709 four", "value");
    change("ZADD zset:710 1.5000000000000002 a", "value");
    change("ZREM zset:711 c", "value");
    change("PEXPIREAT hash:714 32503680060000", "expiry");
    change("PERSIST hash:721", "expiry");
    change("HSET hash:90002 f7 other", "value");
    change("LSET list:90002 -1 other", "value");
    change("SADD set:90002 other", "value");
    change("ZADD zset:90002 0 m299", "value");
    change("HSET text:90001 a 2", "value");
    change("XGROUP CREATE hash:90003 h 0", "value");
    change("DEL set:712", "lack_target");
    change("DEL text:713", "lack_target");
    change("SET text:more x", "lack_source");
    change("RPUSH list:more x", "lack_source");
    for (key, command) in
        [("text:730", "RPUSH"), ("hash:731", "SADD"), ("set:732", "RPUSH"), ("list:733", "SADD")]
    {
        call(client, &format!("DEL {key}"));
        call(client, &format!("{command} {key} x"));
        want.insert((0, key.as_bytes().to_vec(), "type"));
    }
    // In another order: no difference but in lists.
    ["hash", "set", "list"].iter().for_each(|family| call(client, &format!("DEL {family}:740")));
    call(client, &format!("HSET hash:740 note {} age 740 name n740", "x".repeat(740 % 90)));
    call(client, "SADD set:740 three two740 one");
    call(client, "RPUSH list:740 c b a740");
    want.insert((0, b"list:740".to_vec(), "value"));
    want
}

fn compare(a: &ServerBinary, b: &ServerBinary) {
    let servers = [a, b].map(|binary| Server::builder(binary).start().unwrap());
    let urls = servers.each_ref().map(Server::url);
    let [mut source, mut target] = servers.each_ref().map(|server| server.client().unwrap());
    compare_sides(&urls, [&mut source, &mut target], &format!("{} {}", a.name, b.name));
}

fn compare_sides(urls: &[String; 2], [source, target]: [&mut dyn Side; 2], what: &str) {
    for client in [&mut *source, &mut *target] {
        fill(client);
        odd(client);
    }
    let all = u64::from(KEYS) * 5 + 11;
    // Small batches, so that something is known of names before most are seen.
    let small = |diff: &mut LiveDiff| (diff.live_mut().batch, diff.live_mut().parallel) = (100, 1);
    let (report, found) = live(&urls[0], &urls[1], small).unwrap();
    assert_eq!((told(&found), report.equal), (Found::new(), all), "{what}");
    let mut want = plant(target);
    // Fields that expire, where both servers have such.
    let expire = |client: &mut dyn Side, key: &str, at: u64| {
        client.takes(&["HPEXPIREAT", key, &at.to_string(), "FIELDS", "1", "age"])
    };
    if expire(source, "hash:750", 32_503_680_000_000) && expire(target, "hash:750", 32_503_680_000_001) {
        expire(target, "hash:751", 32_503_680_000_000);
        want.extend([b"hash:750", b"hash:751"].map(|key| (0, key.to_vec(), "field_expiry")));
    }
    for change in [small, |diff: &mut LiveDiff| diff.live_mut().batch = 1000] {
        let (report, found) = live(&urls[0], &urls[1], change).unwrap();
        assert_eq!(told(&found), want, "{what}");
        assert_eq!(
            report.equal,
            all - want.iter().filter(|(.., kind)| *kind != "lack_source").count() as u64
        );
        assert_eq!((report.source.keys, report.target.keys), (all, all));
    }
    // Of big keys only the length is compared.
    let skip = |diff: &mut LiveDiff| (diff.live_mut().depth, diff.live_mut().big_key) = (Depth::SkipBig, 2);
    let (_, found) = live(&urls[0], &urls[1], skip).unwrap();
    assert!(told(&found).is_subset(&want) && found.len() > 10, "{found:?}");
}

/// Servers with other commands, other encodings and other words for one number.
#[test]
fn what_names_suggest_is_only_a_guess() {
    let there = |name: &str| named(name).ok();
    let pairs = [("redis-7.0", "redis-7.0"), ("redis-6.0", "valkey-9"), ("redis-8.0", "redis-8.0")];
    for (a, b) in pairs {
        match (there(a), there(b)) {
            (Some(a), Some(b)) => compare(a, b),
            _ => println!("note: {a} or {b} is not there"),
        }
    }
}

/// Of clusters each node is asked for what it holds.
#[test]
fn clusters_are_read_by_names_as_well() {
    let Ok(binary) = any() else { return println!("note: no server is there") };
    let clusters = [2, 3].map(|nodes| Cluster::builder(binary).primaries(nodes).start().unwrap());
    let server = Server::builder(binary).start().unwrap();
    let urls = clusters.each_ref().map(Cluster::url);
    let [mut source, mut target] = clusters.each_ref().map(|cluster| cluster.client().unwrap());
    let mut single = server.client().unwrap();
    compare_sides(&urls, [&mut source, &mut target], "two clusters");
    fill(&mut single);
    odd(&mut single);
    let dumped =
        || -> u64 { (0..2).map(|node| calls(&mut clusters[0].node(node).client().unwrap(), "dump")).sum() };
    let before = dumped();
    for (a, b) in [(&urls[0], &server.url()), (&server.url(), &urls[0])] {
        let (report, found) =
            live(a, b, |diff| (diff.live_mut().batch, diff.live_mut().parallel) = (100, 1)).unwrap();
        assert_eq!((told(&found), report.equal), (Found::new(), u64::from(KEYS) * 5 + 11));
    }
    // What is not known at first, and what is odd, large or a stream: no more is read as a whole.
    let dumped = dumped() - before;
    assert!(dumped < u64::from(KEYS), "{dumped}");
}
