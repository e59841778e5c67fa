//! Routes, judged by real servers: what a cluster refuses, and whether the parts and detours come to the same as the command.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use keyferry_resp::{Command, Frame};
use keyferry_routing::{
    CommandTable, Compute, Merge, Refusal, Route, SLOTS, Split, Step, sibling_key, slot, with_keys_replaced,
};
use keyferry_testkit::{Client, CompareOptions, Rng, Server, ServerBinary, chosen, compare_with};

/// Keys of three slots, two of each.
const KEYS: [&str; 6] = ["a", "{a}2", "b", "{b}2", "c", "{c}2"];

fn words(text: &str) -> Vec<Vec<u8>> {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// Commands with several keys: `K` stands for a key, `M` for a member, `N` for a small number.
const COMMANDS: &[&str] = &[
    "DEL K K K",
    "UNLINK K K",
    "EXISTS K K K K",
    "TOUCH K K",
    "MGET K K K K",
    "MSET K N K N K N",
    "MSETNX K N K N",
    "RENAME K K",
    "RENAMENX K K",
    "COPY K K",
    "COPY K K REPLACE",
    "SMOVE K K M",
    "RPOPLPUSH K K",
    "LMOVE K K LEFT RIGHT",
    "BLMOVE K K LEFT RIGHT 0.01",
    "BRPOPLPUSH K K 0.01",
    "SUNIONSTORE K K K",
    "SINTERSTORE K K K",
    "SDIFFSTORE K K K",
    "SUNION K K",
    "SINTERCARD 2 K K",
    "ZUNIONSTORE K 2 K K WEIGHTS 2 N",
    "ZINTERSTORE K 2 K K AGGREGATE MAX",
    "ZDIFFSTORE K 2 K K",
    "ZUNION 2 K K",
    "ZRANGESTORE K K 0 N",
    "GEOSEARCHSTORE K K FROMLONLAT 1 1 BYRADIUS 9000 km",
    "GEORADIUS K 1 1 9000 km STORE K",
    "GEORADIUSBYMEMBER K M 9000 km STOREDIST K",
    "BITOP XOR K K K",
    "BITOP NOT K K",
    "PFMERGE K K K",
    "PFCOUNT K K",
    "SORT K ALPHA STORE K",
    "SORT K ALPHA LIMIT 0 2 STORE K",
    "LMPOP 2 K K LEFT COUNT 2",
    "ZMPOP 2 K K MIN",
    "LPOP K",
    "GET K",
    "SET K N",
    "LCS K K",
];
/// Writes one key, reads and removes another.
const SCRIPT: &str =
    "redis.call('set',KEYS[1],'s');return{redis.call('exists',KEYS[2]),redis.call('del',KEYS[2])}";

/// What fills the keys.
const WRITES: &[&str] = &[
    "SET K N",
    "SADD K M M",
    "SADD K M M M",
    "ZADD K N M N M",
    "GEOADD K N N M N N M",
    "RPUSH K M M N",
    "RPUSH K M N",
    "PFADD K M N",
    "SETBIT K N 1",
    "HSET K M N",
    "PEXPIREAT K 4102444800000",
    "PERSIST K",
    "DEL K",
];

fn filled(template: &str, rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut args = words(template);
    for arg in &mut args {
        match &arg[..] {
            b"K" => *arg = KEYS[rng.index(KEYS.len())].as_bytes().to_vec(),
            b"M" => *arg = format!("m{}", rng.index(4)).into_bytes(),
            b"N" => *arg = rng.below(9).to_string().into_bytes(),
            _ => {}
        }
    }
    args
}

fn any_command(rng: &mut Rng) -> Vec<Vec<u8>> {
    let number = rng.index(COMMANDS.len() + 1);
    match COMMANDS.get(number) {
        Some(template) => filled(template, rng),
        None => {
            let mut args = filled("EVAL S 2 K K", rng);
            args[1] = SCRIPT.as_bytes().to_vec();
            args
        }
    }
}

/// A cluster of one node that serves all slots.
fn whole_cluster(binary: &ServerBinary) -> keyferry_testkit::Result<Server> {
    let server = Server::builder(binary).cluster().start()?;
    let mut client = server.client()?;
    let slots: Vec<String> = (0..SLOTS).map(|slot| slot.to_string()).collect();
    let command: Vec<&str> =
        ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str)).collect();
    client.call(&command)?;
    client.wait_until(std::time::Duration::from_secs(20), |client| {
        Ok(client.text(&["CLUSTER", "INFO"])?.contains("cluster_state:ok"))
    })?;
    Ok(server)
}

#[test]
fn a_cluster_refuses_what_is_not_of_one_slot() -> keyferry_testkit::Result<()> {
    let table = CommandTable::builtin();
    for binary in chosen(&["redis-7.0", "redis-8.0", "valkey-9"])? {
        let name = &binary.name;
        let server = whole_cluster(binary)?;
        let mut client = server.client()?;
        let mut rng = Rng::new(11);
        let (mut one, mut several) = (0, 0);
        for _ in 0..3000 {
            let args = any_command(&mut rng);
            let reply = client.call_raw(&args)?;
            let crosses = reply.error().is_some_and(|error| error.starts_with(b"CROSSSLOT"));
            let what = || format!("{name}: {:?}: {reply:?}", Command::new(&args));
            if reply.error().is_some_and(|error| error.starts_with(b"ERR unknown command")) {
                continue;
            }
            match table.route(&args) {
                Route::Slot(_) => {
                    assert!(!crosses, "{}", what());
                    one += 1;
                }
                Route::Split(_) | Route::Compute(_) => {
                    assert!(crosses, "{}", what());
                    several += 1;
                }
                route => panic!("{}: {route}", what()),
            }
        }
        assert!(one > 300 && several > 1000, "{name}: {one} {several}");
    }
    Ok(())
}

/// The reply that the replies to the parts make.
fn merged(split: &Split, replies: &[Frame]) -> Frame {
    match split.merge {
        Merge::Sum => Frame::Integer(replies.iter().map(|reply| reply.as_i64().unwrap()).sum()),
        Merge::Order => {
            let count = split.parts.iter().map(|part| part.positions.len()).sum();
            let mut values = vec![Frame::Null(keyferry_resp::Null::Bulk); count];
            for (part, reply) in split.parts.iter().zip(replies) {
                for (&position, value) in part.positions.iter().zip(reply.as_array().unwrap()) {
                    values[position] = value.clone();
                }
            }
            Frame::Array(values)
        }
        _ => {
            assert!(replies.iter().all(Frame::is_ok));
            replies[0].clone()
        }
    }
}

fn send(client: &mut Client, command: &Command) -> keyferry_testkit::Result<Frame> {
    client.call_raw(&command.args().collect::<Vec<_>>())
}

/// Carries one value, with its expiry, to another name; or removes that, if there is none.
fn carry(client: &mut Client, from: &[u8], to: &[u8]) -> keyferry_testkit::Result<()> {
    match client.bytes(&[b"DUMP", from])? {
        None => client.call(&[b"DEL", to]).map(drop),
        Some(payload) => {
            let left = client.int(&[b"PTTL", from])?.max(0).to_string();
            client.call(&[b"RESTORE", to, left.as_bytes(), &payload, b"REPLACE"]).map(drop)
        }
    }
}

/// As the documentation of [`Compute`] says.
fn detour(client: &mut Client, command: &Command, compute: &Compute) -> keyferry_testkit::Result<Frame> {
    // A name in the home slot, another one for each key.
    let home = command.arg(compute.home).unwrap().to_vec();
    let substitute = |index: usize| sibling_key(&home, &[b"tmp:", command.arg(index).unwrap()].concat());
    let mut replaced = Vec::new();
    for (key, of_key) in compute.elsewhere() {
        let original = command.arg(key.index).unwrap();
        assert_eq!(slot(original), of_key);
        assert_eq!(slot(&substitute(key.index)), compute.home_slot);
        carry(client, original, &substitute(key.index))?;
        replaced.push((key.index, substitute(key.index)));
    }
    let reply = send(client, &with_keys_replaced(command, &replaced))?;
    for (key, _) in compute.written_elsewhere() {
        carry(client, &substitute(key.index), command.arg(key.index).unwrap())?;
    }
    for (_, name) in &replaced {
        client.call(&[b"DEL", &name[..]])?;
    }
    Ok(reply)
}

/// Sets and hashes come in any order.
fn sorted(reply: &Frame) -> Frame {
    match reply {
        Frame::Array(items) | Frame::Set(items) => {
            let mut items = items.clone();
            items.sort_by_key(|item| format!("{item:?}"));
            Frame::Array(items)
        }
        other => other.clone(),
    }
}

#[test]
fn parts_and_detours_do_the_same() -> keyferry_testkit::Result<()> {
    let table = CommandTable::builtin();
    for binary in chosen(&["redis-7.0", "redis-8.0", "valkey-9"])? {
        let name = &binary.name;
        let alone = Server::builder(binary).start()?;
        let cluster = whole_cluster(binary)?;
        let (mut a, mut b) = (alone.client()?, cluster.client()?);
        let mut rng = Rng::new(7);
        let mut computed = std::collections::BTreeMap::<String, usize>::new();
        for round in 0..2400 {
            if round % 3 != 0 {
                let write = filled(WRITES[rng.index(WRITES.len())], &mut rng);
                assert_eq!(a.call_raw(&write)?, b.call_raw(&write)?);
                continue;
            }
            let command = Command::new(any_command(&mut rng));
            let expected = send(&mut a, &command)?;
            let reply = match table.route(&command) {
                Route::Slot(_) => send(&mut b, &command)?,
                Route::Split(split) => {
                    let replies = split.parts.iter().map(|part| send(&mut b, &part.command));
                    merged(&split, &replies.collect::<Result<Vec<_>, _>>()?)
                }
                Route::Compute(compute) => {
                    *computed.entry(String::from_utf8_lossy(command.name()).into_owned()).or_default() += 1;
                    detour(&mut b, &command, &compute)?
                }
                route => panic!("{command:?}: {route}"),
            };
            // The names of popped keys are the substitutes' names.
            if !command.is("LMPOP") && !command.is("ZMPOP") {
                assert_eq!(sorted(&reply), sorted(&expected), "{name}: {command:?}");
            }
            if round % 60 == 0 {
                let comparison = compare_with(&mut a, &mut b, &CompareOptions::default())?;
                assert!(comparison.is_equal(), "{name}: {command:?}: {comparison:?}");
            }
        }
        let comparison = compare_with(&mut a, &mut b, &CompareOptions::default())?;
        assert!(comparison.is_equal(), "{name}: {comparison:?}");
        assert!(computed.len() > 20, "{name}: {computed:?}");
    }
    Ok(())
}

#[test]
fn routes_without_keys_and_refusals() {
    let table = CommandTable::builtin();
    let route = |text: &str| table.route(&words(text));
    for text in [
        "FLUSHALL",
        "flushdb ASYNC",
        "SCRIPT LOAD x",
        "SCRIPT FLUSH",
        "FUNCTION LOAD x",
        "FUNCTION DELETE x",
        "FUNCTION FLUSH",
        "function restore x",
    ] {
        assert_eq!(route(text), Route::EveryPrimary, "{text}");
    }
    assert_eq!(route("PUBLISH c m"), Route::Once);
    assert_eq!(route("EVAL_RO s 0"), Route::Once);
    assert_eq!(route("SPUBLISH foo m"), Route::Slot(slot(b"foo")));
    assert_eq!(route("MOVE foo 1"), Route::Slot(slot(b"foo")));
    assert_eq!(route("EVAL s 2 foo {foo}2 bar"), Route::Slot(slot(b"foo")));
    assert_eq!(route("XGROUP CREATE foo g 0"), Route::Slot(slot(b"foo")));

    let refused = |text: &str| match route(text) {
        Route::Refuse(refusal) => refusal,
        other => panic!("{text}: {other}"),
    };
    for text in ["MULTI", "EXEC", "DISCARD", "UNWATCH"] {
        assert!(matches!(refused(text), Refusal::Transaction(_)), "{text}");
    }
    for text in [
        "PING",
        "SELECT 1",
        "REPLCONF GETACK *",
        "INFO",
        "CONFIG SET a b",
        "SCAN 0",
        "DBSIZE",
        "KEYS *",
        "SUBSCRIBE a",
        "WAIT 1 1",
        "COMMAND",
        "OBJECT HELP",
    ] {
        assert!(matches!(refused(text), Refusal::Node(_)), "{text}");
    }
    for text in ["EVAL s 0", "EVALSHA s 0 a", "FCALL f 0"] {
        assert!(matches!(refused(text), Refusal::UndeclaredKeys(_)), "{text}");
    }
    for text in ["MIGRATE h 1 \"\" 0 1 KEYS a b", "WATCH a b", "SSUBSCRIBE a b"] {
        let text = text.replace("\"\"", "");
        assert!(matches!(refused(&text), Refusal::SeveralSlots(_)), "{text}");
    }
    assert!(matches!(refused("SWAPDB 0 1"), Refusal::AllKeys(_)));
    for text in ["NOSUCH a", "GET", "MSET a", "MSET a 1 b", "ZUNIONSTORE d x a", "CONFIG NOSUCH", "CONFIG"] {
        assert!(matches!(refused(text), Refusal::Keys(_)), "{text}");
    }
    assert_eq!(refused("SORT a BY w_* STORE {a}2"), Refusal::SortPattern(3));
    assert_eq!(refused("SORT a BY nosort GET # GET {b}*"), Refusal::SortPattern(7));
    assert_eq!(refused("SORT a BY {b}*"), Refusal::SortPattern(3));
    assert_eq!(route("SORT {a}1 BY {a}w_* GET # STORE {a}2"), Route::Slot(slot(b"a")));
    assert!(matches!(route("SORT a BY nosort GET # STORE b"), Route::Compute(_)));
    assert!(table.touches_all_keys(&words("SWAPDB 0 1")) && !table.touches_all_keys(&words("DEL a")));
}

#[test]
fn homes_and_databases() {
    let table = CommandTable::builtin();
    let home = |text: &str| match table.route(&words(text)) {
        Route::Compute(compute) => (compute.home, compute.destination_db),
        other => panic!("{text}: {other}"),
    };
    for (text, index) in [
        ("RENAME a b", 2),
        ("RENAMENX a b", 2),
        ("COPY a b", 2),
        ("SMOVE a b m", 2),
        ("LMOVE a b LEFT LEFT", 2),
        ("BRPOPLPUSH a b 0", 2),
        ("SUNIONSTORE d a b", 1),
        ("ZINTERSTORE d 2 a b", 1),
        ("ZRANGESTORE d a 0 1", 1),
        ("BITOP AND d a b", 2),
        ("PFMERGE d a", 1),
        ("SORT a STORE b", 3),
        ("GEORADIUS a 1 1 1 m STORE d", 7),
        ("LMPOP 2 a b LEFT", 2),
        ("EVAL s 2 a b", 3),
        ("MSETNX a 1 b 2", 1),
        ("SINTER a b", 1),
        ("XREADGROUP GROUP g c STREAMS a b 0 0", 5),
        ("PFCOUNT a b", 1),
    ] {
        assert_eq!(home(text), (index, None), "{text}");
    }
    assert_eq!(home("COPY a b DB 7 REPLACE"), (2, Some(7)));
    let Route::Compute(compute) = table.route(&words("LMOVE a b LEFT LEFT")) else { panic!() };
    assert_eq!(compute.written_elsewhere().map(|(key, _)| key.index).collect::<Vec<_>>(), [1]);
    let Route::Compute(compute) = table.route(&words("XREADGROUP GROUP g c STREAMS a b 0 0")) else {
        panic!()
    };
    assert_eq!(compute.written_elsewhere().map(|(key, _)| key.index).collect::<Vec<_>>(), [6]);
}

#[test]
fn transactions_by_slot() {
    let table = CommandTable::builtin();
    let command = |text: &str| Command::new(words(text));
    let texts = ["SET a 1", "MSET b 1 a 2 b 3", "RENAME a b", "INCR a", "INCR b", "INCR a"];
    let commands: Vec<Command> = texts.iter().map(|text| command(text)).collect();
    let plan = table.plan_transaction(&commands);
    let shown: Vec<(Option<u16>, Vec<Command>)> = plan
        .iter()
        .map(|step| match step {
            Step::Slot { slot, commands } => (Some(*slot), commands.clone()),
            Step::Other { command, route } => {
                assert!(matches!(route, Route::Compute(_)));
                (None, vec![command.clone()])
            }
            _ => unreachable!(),
        })
        .collect();
    let (a, b) = (Some(slot(b"a")), Some(slot(b"b")));
    assert_eq!(
        shown,
        [
            (a, vec![command("SET a 1"), command("MSET a 2")]),
            (b, vec![command("MSET b 1 b 3")]),
            (None, vec![command("RENAME a b")]),
            (a, vec![command("INCR a"), command("INCR a")]),
            (b, vec![command("INCR b")]),
        ]
    );
}
