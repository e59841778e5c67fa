//! What other tools take for equal, report as different, or fall over, each with the right verdict. More of these stand where the
//! servers and files for them are: prefixes of lists, empty strings, stream lengths, members, scores and bytes of names in
//! `planted`; keys that change type between rounds, short-lived keys, moving slots, modules and 40,000 differences in `live`;
//! damaged files in `files`.

use std::io;
use std::time::{Duration, Instant};

use keyferry_diff::{
    Difference, DifferenceSink, Error, LiveDiff, RepairOptions, RepairWhat, SnapshotDiff, Suspects, Verdict,
};
use keyferry_testkit::{Cluster, Direction, Proxy, Server, ServerBinary, all, any};

use crate::support::{Found, diff, diff_sides, live, told};

fn start(binary: &ServerBinary) -> Server {
    Server::builder(binary).diskless_sync(true, 0).start().unwrap()
}

fn two() -> Option<(Server, Server)> {
    let Ok(binary) = any() else {
        println!("note: no server is there");
        return None;
    };
    Some((start(binary), start(binary)))
}

fn run(server: &Server, commands: &[&str]) {
    let mut client = server.client().unwrap();
    for command in commands {
        client.call(&command.split(' ').collect::<Vec<_>>()).unwrap();
    }
}

fn found(all: &[(&str, &'static str)]) -> Found {
    all.iter().map(|(key, kind)| (0, key.as_bytes().to_vec(), *kind)).collect()
}

/// By snapshots, by whole values, in parts.
fn in_every_way(servers: &(Server, Server)) -> Vec<(&'static str, Found)> {
    let (a, b) = (servers.0.url(), servers.1.url());
    let by_key = |big_key: u64| live(&a, &b, |diff| diff.live_mut().big_key = big_key).unwrap().1;
    vec![
        ("snapshots", diff(&a, &b, |_| {}).unwrap().1),
        ("whole", told(&by_key(1000))),
        ("in parts", told(&by_key(0))),
    ]
}

#[test]
fn everything_of_a_stream_counts() {
    let Some(servers) = two() else { return };
    for server in [&servers.0, &servers.1] {
        for stream in ["s:same", "s:empty", "s:count", "s:time", "s:last", "s:owner", "s:group-id"] {
            run(
                server,
                &[
                    &format!("XADD {stream} 1-1 f v"),
                    &format!("XADD {stream} 2-1 f v"),
                    &format!("XGROUP CREATE {stream} g 2-1"),
                    &format!("XCLAIM {stream} g c 0 1-1 TIME 1700000000000 RETRYCOUNT 3 FORCE JUSTID"),
                ],
            );
        }
        // No entry is left, but a group.
        run(server, &["XADD s:none 1-1 f v", "XGROUP CREATE s:none g $", "XTRIM s:none MAXLEN 0"]);
    }
    run(
        &servers.1,
        &[
            "XTRIM s:empty MAXLEN 0",
            "XCLAIM s:count g c 0 1-1 TIME 1700000000000 RETRYCOUNT 4 FORCE JUSTID",
            "XCLAIM s:time g c 0 1-1 TIME 1700000100000 RETRYCOUNT 3 FORCE JUSTID",
            "XSETID s:last 9-1",
            "XCLAIM s:owner g d 0 1-1 TIME 1700000000000 RETRYCOUNT 3 FORCE JUSTID",
            "XGROUP SETID s:group-id g 1-1",
            "XGROUP DESTROY s:none g",
        ],
    );
    let differ = ["s:empty", "s:count", "s:time", "s:last", "s:owner", "s:group-id", "s:none"];
    let expected = found(&differ.map(|stream| (stream, "value")));
    for (way, found) in in_every_way(&servers) {
        // What XTRIM removes is counted as removed by some versions.
        let found: Found = found.into_iter().filter(|(_, _, kind)| *kind != "counters").collect();
        assert_eq!(found, expected, "{way}");
    }
}

#[test]
fn scores_are_numbers_whatever_the_server_writes() {
    let Ok(all) = all() else { return println!("note: no server is there") };
    let scores =
        "ZADD zset 3.14 pi 0.1 tenth 1e21 big 1e-7 small -0 zero inf inf -inf less 0.30000000000000004 sum";
    let first = start(&all[0]);
    run(&first, &[scores, "ZADD other 1 a"]);
    for binary in all {
        let servers = (start(binary), start(binary));
        run(&servers.0, &[scores, "ZADD other 1 a"]);
        for big_key in [0, 1000] {
            let by_key = live(&first.url(), &servers.0.url(), |diff| diff.live_mut().big_key = big_key);
            let (report, differences) = by_key.unwrap();
            assert!(differences.is_empty() && report.equal == 2, "{}: {differences:?}", binary.name);
        }
    }
}

/// Changes the target when the first round is over.
struct Meanwhile<'a> {
    target: &'a Server,
    commands: Option<&'a [&'a str]>,
    told: Vec<Difference>,
}

impl DifferenceSink for Meanwhile<'_> {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        self.told.push(difference.clone());
        Ok(())
    }

    fn suspect(&mut self, _round: u32, _difference: &Difference) -> io::Result<()> {
        if let Some(commands) = self.commands.take() {
            run(self.target, commands);
        }
        Ok(())
    }
}

#[test]
fn a_key_that_differed_is_looked_at_as_a_whole_again() {
    let Some(servers) = two() else { return };
    for server in [&servers.0, &servers.1] {
        run(server, &["HSET hash a 1 b 2 c 3", "SADD set a b c", "ZADD zset 1 a 2 b"]);
    }
    run(&servers.1, &["HSET hash a 9", "SADD set x", "ZADD zset 9 a"]);
    // What differed is repaired, and something else of the same keys differs now.
    let commands = ["HSET hash a 1 b 9", "SREM set x", "SREM set c", "ZADD zset 1 a 9 b"];
    let mut diff = LiveDiff::new(servers.0.url().parse().unwrap(), servers.1.url().parse().unwrap());
    (diff.live_mut().interval, diff.live_mut().rounds) = (Duration::from_millis(20), 2);
    let mut sink = Meanwhile { target: &servers.1, commands: Some(&commands), told: Vec::new() };
    diff.run(&mut sink).unwrap();
    let mut places: Vec<_> = sink
        .told
        .iter()
        .map(|one| format!("{} {}{}", String::from_utf8_lossy(&one.key), one.kind, one.places()))
        .collect();
    places.sort();
    assert_eq!(places, ["hash value at b", "set value at c", "zset value at b"]);
}

#[test]
fn values_that_become_others_between_rounds() {
    let Some(servers) = two() else { return };
    let base = [
        "XADD s:retyped 1-1 f v",
        "XGROUP CREATE s:retyped g 0",
        "XADD s:gone 1-1 f v",
        "XADD s:group 1-1 f v",
        "XGROUP CREATE s:group g 0",
        "HSET h:retyped a 1",
        "ZADD z:gone 1 a",
        "RPUSH l:retyped a b",
    ];
    let differ = [
        "XADD s:retyped 2-1 f v",
        "XADD s:gone 2-1 f v",
        "XADD s:group 2-1 f v",
        "HSET h:retyped a 2",
        "ZADD z:gone 2 a",
        "RPUSH l:retyped c",
    ];
    let meanwhile = [
        "DEL s:retyped s:gone h:retyped z:gone l:retyped",
        "SET s:retyped x",
        "SADD h:retyped a",
        "XADD l:retyped 1-1 f v",
        "XGROUP DESTROY s:group g",
    ];
    for big_key in [0, 1000] {
        for server in [&servers.0, &servers.1] {
            run(server, &["FLUSHALL"]);
            run(server, &base);
        }
        run(&servers.1, &differ);
        let mut diff = LiveDiff::new(servers.0.url().parse().unwrap(), servers.1.url().parse().unwrap());
        let options = diff.live_mut();
        (options.interval, options.rounds, options.big_key) = (Duration::from_millis(20), 2, big_key);
        let mut sink = Meanwhile { target: &servers.1, commands: Some(&meanwhile), told: Vec::new() };
        diff.run(&mut sink).unwrap();
        let expected = [
            ("h:retyped", "type"),
            ("l:retyped", "type"),
            ("s:retyped", "type"),
            ("s:gone", "lack_target"),
            ("z:gone", "lack_target"),
            ("s:group", "value"),
        ];
        let found: Found = told(&sink.told).into_iter().filter(|(_, _, kind)| *kind != "counters").collect();
        assert_eq!(found, self::found(&expected), "{big_key}");
        let group = sink.told.iter().find(|one| one.key == b"s:group" && !one.fields.is_empty()).unwrap();
        assert!(group.places().contains("group g"), "{}", group.places());
    }
}

#[test]
fn sides_that_both_fail_are_not_equal() {
    let Some(servers) = two() else { return };
    for server in [&servers.0, &servers.1] {
        let mut client = server.client().unwrap();
        let all: Vec<_> =
            (0..20_000).map(|n| ["SET".to_owned(), format!("key:{n}"), "x".repeat(50)]).collect();
        client.pipe(&all).unwrap();
    }
    let proxies = [Proxy::start(servers.0.addr()).unwrap(), Proxy::start(servers.1.addr()).unwrap()];
    let urls = proxies.each_ref().map(|proxy| format!("redis://{}", proxy.addr()));
    // Both go away while values are read, and do not come back.
    let away = || {
        for proxy in &proxies {
            proxy.cut_after(Direction::FromTarget, 100_000);
        }
    };
    away();
    std::thread::scope(|scope| {
        let by_key = scope.spawn(|| {
            live(&urls[0], &urls[1], |diff| diff.options_mut().patience = Duration::from_millis(500))
        });
        while !by_key.is_finished() {
            if proxies.iter().all(|proxy| !proxy.cut_is_due()) {
                proxies.iter().for_each(|proxy| proxy.refuse(true));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let error = by_key.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Connection(_)), "{error}");
    });
    // A snapshot that ends before its end is none.
    proxies.iter().for_each(|proxy| proxy.refuse(false));
    away();
    assert!(diff(&urls[0], &urls[1], |_| {}).is_err());
}

#[test]
fn a_server_that_is_loading_is_waited_for() {
    let Some(servers) = two() else { return };
    for server in [&servers.0, &servers.1] {
        let all: Vec<_> = (0..1500).map(|n| ["SET".to_owned(), format!("key:{n}"), n.to_string()]).collect();
        server.client().unwrap().pipe(&all).unwrap();
    }
    run(
        &servers.1,
        &["CONFIG SET key-load-delay 1000", "CONFIG SET loading-process-events-interval-bytes 1024"],
    );
    let (begun, mut seen) = (Instant::now(), false);
    // It is over soon: who stands still meanwhile sees nothing of it.
    while !seen {
        assert!(begun.elapsed() < Duration::from_secs(120), "it was not seen to load");
        std::thread::scope(|scope| {
            let loading = scope.spawn(|| run(&servers.1, &["DEBUG RELOAD"]));
            let mut client = servers.1.client().unwrap();
            while !seen && !loading.is_finished() {
                seen =
                    client.call(&["GET", "key:1"]).is_err_and(|error| error.to_string().contains("LOADING"));
            }
            let (report, differences) = live(&servers.0.url(), &servers.1.url(), |_| {}).unwrap();
            assert!(differences.is_empty() && report.equal == 1500, "{report}");
        });
    }
}

#[test]
fn commands_that_are_forbidden_are_not_needed() {
    let Ok(binary) = any() else { return println!("note: no server is there") };
    let user = |server: &Server| server.url().replace("redis://", "redis://reader:s3cret@");
    let rules = "on >s3cret ~* +@all -flushall -flushdb -exec -multi -swapdb -debug -keys -config";
    let server = || Server::builder(binary).diskless_sync(true, 0).user("reader", rules).start().unwrap();
    let servers = (server(), server());
    for server in [&servers.0, &servers.1] {
        run(server, &["SET same 1", "HSET hash a 1", "XADD stream 1-1 f v"]);
    }
    run(&servers.1, &["HSET hash a 2"]);
    let (a, b) = (user(&servers.0), user(&servers.1));
    assert_eq!(diff(&a, &b, |_| {}).unwrap().1, found(&[("hash", "value")]));
    let mut suspects = Suspects::new();
    let report = LiveDiff::new(a.parse().unwrap(), b.parse().unwrap());
    let mut by_key = report;
    by_key.live_mut().rounds = 1;
    let report = by_key.run(&mut suspects).unwrap();
    assert_eq!((suspects.len(), report.equal), (1, 2));
    // A repair reads value and expiry at one moment; that it may not is said, and nothing is changed.
    let repair = LiveDiff::new(a.parse().unwrap(), b.parse().unwrap());
    let error = repair.repair(&suspects, &RepairOptions::new(RepairWhat::Both), &mut io::sink()).unwrap_err();
    assert!(error.to_string().contains("NOPERM") && !error.to_string().contains("s3cret"), "{error}");
    assert_eq!(diff(&a, &b, |_| {}).unwrap().1, found(&[("hash", "value")]));
}

#[test]
fn clusters_by_their_files_and_with_a_wrong_password() {
    let Ok(binary) = any() else { return println!("note: no server is there") };
    let cluster = Cluster::builder(binary).primaries(3).password("s3cret").start().unwrap();
    let server = start(binary);
    let mut client = cluster.client().unwrap();
    let sets: Vec<_> = (0..500).map(|n| ["SET".to_owned(), format!("key:{n}"), n.to_string()]).collect();
    client.pipe(&sets).unwrap();
    server.client().unwrap().pipe(&sets).unwrap();
    client.call(&["SET", "key:7", "other"]).unwrap();
    // The files of three nodes are one data set.
    let files: Vec<_> = (0..3)
        .map(|number| {
            cluster.node(number).client().unwrap().call(&["SAVE"]).unwrap();
            cluster.node(number).dir().join("dump.rdb")
        })
        .collect();
    let of_cluster = keyferry_diff::Side::Files(files.clone());
    let (report, differ) = diff_sides(server.url().parse().unwrap(), of_cluster.clone(), |_| {}).unwrap();
    assert_eq!((differ, report.equal), (found(&[("key:7", "value")]), 499));
    let (report, differ) = diff_sides(of_cluster, cluster.url().parse().unwrap(), |_| {}).unwrap();
    assert!(differ.is_empty() && report.equal == 500, "{report}");
    // One file alone is a third of the data, and shows as that.
    let (report, _) =
        diff_sides(server.url().parse().unwrap(), keyferry_diff::Side::file(&files[0]), |_| {}).unwrap();
    assert!(report.verdict() == Verdict::Different && report.target.keys < 400, "{report}");

    let wrong = cluster.url().replace("s3cret", "wr0ng");
    for error in [
        live(&server.url(), &wrong, |_| {}).unwrap_err(),
        SnapshotDiff::new(server.url().parse().unwrap(), wrong.parse().unwrap())
            .run(&mut Vec::<Difference>::new())
            .unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("WRONGPASS") || error.contains("invalid password"), "{error}");
        assert!(!error.contains("wr0ng"), "{error}");
    }
}
