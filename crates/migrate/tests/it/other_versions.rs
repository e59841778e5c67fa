//! To older servers, and to those of other vendors: what they do not know is said otherwise, or told.

use keyferry_migrate::{OnLoss, Outcome};
use keyferry_testkit::{
    Client, Rng, Server,
    data::{self, Features},
    named,
};

use crate::support::{Running, assert_equal, offset_of, run, start};

/// From and to, each with what the other does not know.
const PAIRS: [(&str, &str); 6] = [
    ("redis-8.0", "redis-6.0"),
    ("redis-7.0", "redis-6.2"),
    ("redis-8.0", "redis-7.0"),
    ("redis-8.0", "valkey-9"),
    ("valkey-9", "redis-8.0"),
    ("valkey-9", "redict-7.3"),
];

/// Writes that are passed on in forms which came after 6.0. Some fail, as their keys are of another type or not there.
fn write(client: &mut Client, features: &Features, seed: u64) {
    let mut rng = Rng::new(seed);
    let group = client.call(&["XGROUP", "CREATE", "stream", "g", "0", "MKSTREAM"]);
    group.unwrap();
    for n in 0..600_u64 {
        let (key, other) = (rng.below(12), rng.below(12));
        let (list, to) = (format!("list:{key}"), format!("list:{other}"));
        let (text, copy) = (format!("text:{key}"), format!("copy:{other}"));
        let value = n.to_string();
        let later = (100_000 + rng.below(100_000)).to_string();
        let sides = ["LEFT", "RIGHT"];
        let (from, into) = (sides[rng.index(2)], sides[rng.index(2)]);
        let command: Vec<&str> = match rng.below(14) {
            0 => vec!["SET", &text, &value, "EX", &later],
            1 => vec!["SET", &text, &value, "GET", "PX", &later],
            2 => vec!["GETEX", &text, "EX", &later],
            3 => vec!["LMOVE", &list, &to, from, into],
            4 => vec!["LPOP", &list, "2"],
            5 => vec!["RPOP", &list, "3"],
            6 => vec!["COPY", &text, &copy, "REPLACE"],
            7 => vec!["PEXPIRE", &text, &later, if features.is_redis(7, 0) { "GT" } else { "" }],
            8 => vec!["XADD", "stream", "*", "f", &value],
            9 => vec!["XREADGROUP", "GROUP", "g", &text, "COUNT", "2", "STREAMS", "stream", ">"],
            10 => vec!["XGROUP", "CREATECONSUMER", "stream", "g", &list],
            11 => vec!["GETDEL", &copy],
            _ => vec!["RPUSH", &list, &value, "x", "y"],
        };
        let command: Vec<&str> = command.into_iter().filter(|arg| !arg.is_empty()).collect();
        client.call_raw(&command).unwrap();
    }
    client.call_raw(&["XSETID", "stream", "9999999999999-1"]).unwrap();
    // In a transaction, too.
    for command in [&["MULTI"][..], &["SET", "in", "1", "EX", "1000"], &["COPY", "in", "in:2"], &["EXEC"]] {
        client.call(command).unwrap();
    }
    // Values inside of commands.
    for name in ["list:1", "hash", "zset", "set"] {
        client.call(&["HSET", "hash", "f", "v"]).unwrap();
        client.call(&["ZADD", "zset", "1.5", "m"]).unwrap();
        client.call(&["SADD", "set", "a", "b"]).unwrap();
        let payload = client.bytes(&["DUMP", name]).unwrap();
        if let Some(payload) = payload {
            let restored = format!("restored:{name}");
            client.call(&[&b"RESTORE"[..], restored.as_bytes(), b"0", &payload, b"REPLACE"]).unwrap();
        }
    }
}

async fn migrate(from: &str, to: &str) {
    let (Ok(from), Ok(to)) = (named(from), named(to)) else { return };
    let what = format!("{} to {}", from.name, to.name);
    let (source, target) = (start(from), start(to));
    let (mut client, mut at_target) = (source.client().unwrap(), target.client().unwrap());
    let (features, known) = (Features::probe(&mut client).unwrap(), Features::probe(&mut at_target).unwrap());
    data::small_for(&mut client, &known.shared(&features), 7, 2).unwrap();
    let mut running = Running::start(&source.url(), &target.url(), |_| {});
    running.until_applied(1).await;
    write(&mut client, &features, 5);
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    let finished = running.end().await;
    finished.result.unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(finished.report.outcome, Outcome::Stopped { everything_applied: true }, "{what}");
    assert!(finished.report.routing.lost.is_empty(), "{what}: {:?}", finished.report.routing.lost);
    assert_equal(&source, &target, &what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_servers_and_other_vendors_get_what_they_know() {
    for pairs in PAIRS.chunks(3) {
        let mut set = tokio::task::JoinSet::new();
        for &(from, to) in pairs {
            set.spawn(migrate(from, to));
        }
        while let Some(result) = set.join_next().await {
            result.unwrap();
        }
    }
}

/// A source with something that its target has no place for, in the snapshot and in the stream.
fn with_losses(client: &mut Client) {
    client
        .call(&["FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', function() return 1 end)"])
        .unwrap();
    client.call(&["HSET", "hash", "a", "1", "b", "2"]).unwrap();
    client.call(&["HEXPIRE", "hash", "1000", "FIELDS", "1", "a"]).unwrap();
    client.call(&["SET", "plain", "1"]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_place_ends_the_run_or_is_counted() {
    let (Ok(new), Ok(old)) = (named("redis-8.0"), named("redis-6.0")) else { return };
    let (source, target): (Server, Server) = (start(new), start(old));
    let (mut client, mut at_target) = (source.client().unwrap(), target.client().unwrap());
    with_losses(&mut client);
    let finished = run(&source.url(), &target.url(), |o| o.look_first = false).await;
    let error = finished.result.unwrap_err().to_string();
    assert!(error.contains("function library") && error.contains("--on-loss"), "{error}");
    client.call(&["FUNCTION", "FLUSH"]).unwrap();
    at_target.call(&["FLUSHALL"]).unwrap();
    let finished = run(&source.url(), &target.url(), |o| o.look_first = false).await;
    let error = finished.result.unwrap_err().to_string();
    assert!(error.contains("\"hash\"") && error.contains("--on-loss"), "{error}");
    at_target.call(&["FLUSHALL"]).unwrap();

    with_losses(&mut client);
    let mut running = Running::start(&source.url(), &target.url(), |o| o.on_loss = OnLoss::Drop);
    running.until_applied(1).await;
    client.call(&["HPEXPIRE", "hash", "1000000", "FIELDS", "1", "b"]).unwrap();
    client.call(&["HSETEX", "hash", "EX", "1000", "FIELDS", "1", "c", "3"]).unwrap();
    client.call(&["FUNCTION", "DELETE", "l"]).unwrap();
    client.call(&["VADD", "vectors", "VALUES", "2", "1", "1", "one"]).unwrap();
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    let report = running.end().await.report;
    let lost: Vec<_> = report.routing.lost.iter().map(|(what, count)| format!("{count} {what}")).collect();
    assert_eq!(lost, ["2 deadlines of hash fields", "1 function libraries", "1 vector sets"]);
    assert_eq!(report.snapshot.losses.get("field expiry"), Some(&1), "{:?}", report.snapshot);
    assert_eq!(report.snapshot.losses.get("function library"), Some(&1), "{:?}", report.snapshot);
    let fields = at_target.list(&["HGETALL", "hash"]).unwrap().len();
    assert_eq!((fields, at_target.int(&["EXISTS", "plain", "vectors"]).unwrap()), (6, 1));
}
