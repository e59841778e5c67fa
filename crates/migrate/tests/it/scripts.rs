//! Migrations with scripts between real servers: what a script makes of the commands is what the target holds.

use std::sync::Arc;

use keyferry_migrate::{Error, Mirror, OnExists, Options, Phase, Report, lua::Lua, rewrite::Script};
use keyferry_testkit::{Client, Cluster, Rng, Server, chosen, data::Features};
use tokio::task::block_in_place;

use crate::{
    masks::{Data, as_it_is, read},
    support::{Running, any, offset_of, run, start},
};

fn script(text: &str) -> Option<Arc<Script>> {
    Some(Arc::new(Script::new(Lua::new("test.lua", text.as_bytes()).unwrap())))
}

/// Hashes stay out, keys get other names, and items of lists are in capitals.
const CHANGES: &str = r#"
    if GROUP == "HASH" then return end
    for _, at in ipairs(KEY_INDEXES) do ARGV[at] = "new:" .. ARGV[at] end
    if CMD == "RPUSH" or CMD == "LPUSH" then
        for at = 3, #ARGV do ARGV[at] = ARGV[at]:upper() end
    end
    keyferry.call(DB, ARGV)
"#;

/// Keys of each type are taken to keys of the same type.
fn write(client: &mut Client, rng: &mut Rng, features: &Features, steps: u32) {
    for step in 0..steps {
        let class = ["string", "list", "set", "zset", "hash", "stream"][rng.index(6)];
        let key = |rng: &mut Rng| format!("{class}:{}", rng.below(8));
        let (a, b, value) = (key(rng), key(rng), format!("value {step}"));
        let number = rng.below(20).to_string();
        let words: Vec<&str> = match (class, rng.below(10)) {
            (_, 0) => vec!["DEL", &a, &b],
            ("hash", _) => vec!["HSET", &a, &number, &value],
            (_, 1) => vec!["PEXPIREAT", &a, "33000000000000"],
            (_, 2) if features.has("copy") => vec!["COPY", &a, &b, "REPLACE"],
            (_, 3) => vec!["RENAME", &a, &b],
            ("string", 4) => vec!["MSET", &a, &value, &b, "other"],
            ("string", 5) => vec!["APPEND", &a, "more"],
            ("string", _) => vec!["SET", &a, &value],
            ("list", 4) => vec!["RPOPLPUSH", &a, &b],
            ("list", 5) => vec!["LPUSH", &a, &value],
            ("list", _) => vec!["RPUSH", &a, &value, "x"],
            ("set", 4) => vec!["SUNIONSTORE", &a, &b, &a],
            ("set", 5) => vec!["SPOP", &a],
            ("set", _) => vec!["SADD", &a, &value, &number],
            ("zset", _) => vec!["ZADD", &a, &number, &value],
            _ => vec!["XADD", &a, "*", "f", &value],
        };
        if rng.chance(1, 8) {
            client.pipe(&[vec!["MULTI"], words, vec!["SET", "string:n", &number], vec!["EXEC"]]).unwrap();
        } else {
            // A key that is not there is an error, and no write.
            client.call_raw(&words).unwrap();
        }
    }
}

fn changed(source: &mut Client) -> Data {
    let here = read(source, as_it_is).into_iter().filter(|(_, (ty, _))| ty != "hash");
    here.map(|(key, (ty, mut value))| {
        if ty == "list" {
            value.iter_mut().flatten().for_each(|item| item.make_ascii_uppercase());
        }
        ([b"new:", &key[..]].concat(), (ty, value))
    })
    .collect()
}

async fn rewritten(source: &Server, to: &str, targets: &[&Server], change: fn(&mut Options)) -> Report {
    let mut client = source.client().unwrap();
    let features = Features::probe(&mut client).unwrap();
    let mut rng = Rng::new(7);
    block_in_place(|| {
        write(&mut client, &mut rng, &features, 800);
        client.call(&["SET", "string:large", &"text ".repeat(300_000)]).unwrap();
        for n in 0..800 {
            let number = n.to_string();
            client.call(&["RPUSH", "list:large", &number, "item"]).unwrap();
            client.call(&["ZADD", "zset:large", &number, &number]).unwrap();
            client.call(&["XADD", "stream:large", "*", "f", &number]).unwrap();
            client.call(&["HSET", "hash:large", &number, "v"]).unwrap();
        }
        client.call(&["XGROUP", "CREATE", "stream:large", "g", "0"]).unwrap();
        client.call(&["PEXPIREAT", "zset:large", "33000000000000"]).unwrap();
    });
    let mut running = Running::start(&source.url(), to, |options| {
        options.script = script(CHANGES);
        options.value_limit = 4000;
        change(options);
    });
    running.until_phase(Phase::Following).await;
    block_in_place(|| {
        write(&mut client, &mut rng, &features, 800);
        client.call(&["SET", "string:last", "x"]).unwrap();
    });
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    let finished = running.end().await;
    finished.result.unwrap();
    let here = changed(&mut client);
    let mut there = Data::new();
    targets.iter().for_each(|target| there.extend(read(&mut target.client().unwrap(), as_it_is)));
    for (key, value) in &here {
        assert_eq!(there.get(key), Some(value), "{}", key.escape_ascii());
    }
    assert_eq!(there.len(), here.len());
    assert!(here.len() > 20, "{} keys", here.len());
    finished.report
}

fn count(report: &Report, what: &str) -> u64 {
    report
        .filter
        .iter()
        .filter(|line| line.what == what && line.rule == "script test.lua")
        .map(|line| line.count)
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_is_carried_out_in_both_phases() {
    for binary in chosen(&["redis-7.0", "valkey-9"]).unwrap() {
        let (source, target) = (start(binary), start(binary));
        // What an attempt before may have left of a key goes.
        target.client().unwrap().call(&["RPUSH", "new:list:large", "old"]).unwrap();
        let report = rewritten(&source, &target.url(), &[&target], |_| {}).await;
        for what in ["commands replaced by a script", "commands dropped by a script"] {
            assert!(count(&report, what) > 0, "{what}: {:?}", report.filter);
        }
        for what in
            ["commands of the snapshot replaced by a script", "commands of the snapshot dropped by a script"]
        {
            assert!(count(&report, what) > 0, "{what}: {:?}", report.filter);
        }
        let mut client = target.client().unwrap();
        assert_eq!(client.int(&["PTTL", "new:zset:large"]).unwrap().signum(), 1);
        assert_eq!(client.list(&["XINFO", "GROUPS", "new:stream:large"]).unwrap().len(), 1);
    }
}

/// Commands over several slots are divided and computed as those of a source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_is_carried_out_into_a_cluster() {
    let source = any();
    let cluster = Cluster::builder(keyferry_testkit::any().unwrap()).primaries(2).start().unwrap();
    let nodes: Vec<&Server> = cluster.nodes().iter().collect();
    let report = rewritten(&source, &cluster.url(), &nodes, |_| {}).await;
    assert!(!report.routing.cross_slot.is_empty());
}

/// Databases change places, and one command becomes several, each once, over a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_script_adds_is_there_once() {
    const COUNTS: &str = r#"
        if PHASE == "snapshot" then keyferry.call(1 - DB, ARGV) return end
        if CMD == "SET" then
            keyferry.call(1 - DB, ARGV)
            keyferry.call(5, {"INCRBY", "count", 1})
            keyferry.call(DB, {"RPUSH", "log", ARGV[2]})
        end
    "#;
    let (source, target) = (any(), any());
    let mut client = source.client().unwrap();
    client.call(&["SET", "first", "1"]).unwrap();
    let mut written = 0;
    for _ in 0..3 {
        let mut running =
            Running::start(&source.url(), &target.url(), |options| options.script = script(COUNTS));
        running.until_phase(Phase::Following).await;
        for n in 0..200 {
            let db = (n % 2).to_string();
            client.call(&["SELECT", &db]).unwrap();
            client.call(&["SET".to_owned(), format!("key:{n}"), "v".to_owned()]).unwrap();
            client.call(&["DEL", "none"]).unwrap();
            written += 1;
        }
        if written < 600 {
            // In the middle of what is under way.
            running.stopper.stop();
        } else {
            running.until_applied(offset_of(&mut client)).await;
            running.stopper.stop();
        }
        running.end().await.result.unwrap();
    }
    let mut there = target.client().unwrap();
    let mut ask = |db: &str, words: &[&str]| {
        there.call(&["SELECT", db]).unwrap();
        let reply = there.call(words).unwrap();
        reply.as_i64().map(|n| n.to_string()).or(reply.as_str().map(str::to_owned)).unwrap()
    };
    assert_eq!(ask("5", &["GET", "count"]), written.to_string());
    assert_eq!(
        (ask("1", &["EXISTS", "first"]), ask("0", &["EXISTS", "first"])),
        ("1".to_owned(), "0".to_owned())
    );
    assert_eq!((ask("1", &["GET", "key:0"]), ask("0", &["GET", "key:1"])), ("v".to_owned(), "v".to_owned()));
    assert_eq!(
        (ask("0", &["LLEN", "log"]), ask("1", &["LLEN", "log"])),
        ("300".to_owned(), "300".to_owned())
    );
    assert_eq!(client.info("stats", "sync_full").unwrap().unwrap(), "1");
    let other =
        run(&source.url(), &target.url(), |options| options.script = script("keyferry.call(DB, ARGV)")).await;
    assert!(matches!(other.result, Err(Error::OtherChanges { .. })), "{:?}", other.result);
}

/// An error ends the run with the command, its offset and the line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_ends_the_run() {
    let fails = "keyferry.call(DB, ARGV)\nif KEYS[1] == 'bad' then while true do end end";
    let (source, target) = (any(), any());
    let mut client = source.client().unwrap();
    client.call(&["SET", "good", "1"]).unwrap();
    let mut running = Running::start(&source.url(), &target.url(), |options| options.script = script(fails));
    running.until_phase(Phase::Following).await;
    client.call(&["SET", "better", "2"]).unwrap();
    client.call(&["SET", "bad", "3"]).unwrap();
    client.call(&["SET", "after", "4"]).unwrap();
    let error = running.end().await.result.unwrap_err();
    let line = error.to_line();
    assert!(
        line.contains("SET bad 3") && line.contains("test.lua:2: it takes too many instructions"),
        "{line}"
    );
    assert!(matches!(error, Error::NoRoute { offset: Some(_), .. }), "{error:?}");
    let mut there = target.client().unwrap();
    assert_eq!(there.int(&["EXISTS", "good", "bad", "after"]).unwrap(), 1);
    // In the snapshot, too.
    let (target, text) =
        (any(), "if KEYS[1] == 'bad' then keyferry.call(DB, {'GET', 'x'}) end keyferry.call(DB, ARGV)");
    let finished = run(&source.url(), &target.url(), |options| options.script = script(text)).await;
    let error = finished.result.unwrap_err().to_line();
    assert!(error.contains("SET bad") && error.contains("no write"), "{error}");
    // Which keys the target had nobody can tell.
    let finished = run(&source.url(), &target.url(), |options| {
        options.script = script("keyferry.call(DB, ARGV)");
        options.on_exists = OnExists::Skip;
        options.mirror = Mirror::All;
    })
    .await;
    assert!(matches!(finished.result, Err(Error::Filter(_))), "{:?}", finished.result);
}

/// Keys of a cluster stay in their slots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_cluster_stay_in_their_slots() {
    let cluster = Cluster::builder(keyferry_testkit::any().unwrap()).primaries(2).start().unwrap();
    let mut client = cluster.client().unwrap();
    for n in 0..40 {
        let command = ["SET".to_owned(), format!("key:{n}"), "v".to_owned()];
        client.call(&command).unwrap();
    }
    for (prefix, fits) in [("'{' .. ARGV[at] .. '}new'", true), ("'new:' .. ARGV[at]", false)] {
        let target = any();
        let text =
            format!("for _, at in ipairs(KEY_INDEXES) do ARGV[at] = {prefix} end keyferry.call(DB, ARGV)");
        let finished = run(&cluster.url(), &target.url(), |options| options.script = script(&text)).await;
        match fits {
            true => {
                finished.result.unwrap();
                let keys = read(&mut target.client().unwrap(), as_it_is);
                assert_eq!(keys.len(), 40);
                assert!(keys.keys().all(|key| key.starts_with(b"{key:") && key.ends_with(b"}new")));
            }
            false => {
                let error = finished.result.unwrap_err().to_line();
                assert!(error.contains("another slot"), "{error}");
            }
        }
    }
}
