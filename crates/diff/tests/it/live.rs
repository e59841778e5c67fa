//! Comparing key by key: what is told beside the key, rounds, samples, and what other tools get wrong.

use std::io;
use std::time::{Duration, Instant};

use keyferry_diff::{
    Depth, Difference, DifferenceKind, DifferenceSink, LiveDiff, RepairOptions, RepairWhat, Sample,
    SnapshotDiff, Suspects, Verdict,
};
use keyferry_testkit::{Client, Cluster, Direction, Proxy, Server, ServerBinary, all, any};

use crate::support::{live, told};

/// Two servers of one version, or nothing where none is there.
fn two() -> Option<(Server, Server)> {
    let Ok(binary) = any() else {
        println!("note: no server is there");
        return None;
    };
    Some((start(binary), start(binary)))
}

fn start(binary: &ServerBinary) -> Server {
    Server::builder(binary).diskless_sync(true, 0).start().unwrap()
}

fn call(server: &Server, command: &str) {
    server.client().unwrap().call(&command.split(' ').collect::<Vec<_>>()).unwrap();
}

/// The same commands on both.
fn both(servers: &(Server, Server), commands: &[&str]) {
    for command in commands {
        call(&servers.0, command);
        call(&servers.1, command);
    }
}

/// Many small strings.
fn fill(client: &mut Client, keys: std::ops::Range<u32>) {
    let commands: Vec<_> =
        keys.map(|n| ["SET".to_owned(), format!("key:{n}"), format!("value {n}")]).collect();
    client.pipe(&commands).unwrap();
}

fn fields(differences: &[Difference], key: &str) -> Vec<(String, &'static str)> {
    let of_key = differences.iter().filter(|one| one.key == key.as_bytes());
    let fields = of_key.flat_map(|one| &one.fields);
    let mut fields: Vec<_> =
        fields.map(|f| (String::from_utf8(f.name.clone()).unwrap(), f.kind.name())).collect();
    fields.sort();
    fields
}

#[test]
fn it_is_told_where_values_part() {
    let Some(servers) = two() else { return };
    both(
        &servers,
        &[
            "HSET hash a 1 b 2 c 3",
            "SADD set a b c",
            "ZADD zset 1 a 2 b",
            "RPUSH list a b c d",
            "RPUSH prefix a b c",
            "XADD stream 1-1 f v",
            "XADD stream 2-1 f v",
            "XGROUP CREATE stream g 0",
            "XCLAIM stream g c 0 1-1 TIME 1700000000000 RETRYCOUNT 3 FORCE JUSTID",
            "XCLAIM stream g c 0 2-1 TIME 1700000000000 RETRYCOUNT 3 FORCE JUSTID",
        ],
    );
    for command in [
        "HSET hash b 3 d 4",
        "HDEL hash a",
        "SREM set a",
        "SADD set x",
        "ZADD zset 1.5 a 3 c",
        "LSET list 2 x",
        "RPOP prefix",
        "XDEL stream 2-1",
        "XACK stream g 1-1",
        "XGROUP CREATE stream h 0",
    ] {
        call(&servers.1, command);
    }
    let by_key = |big_key: u64| {
        let change = |diff: &mut LiveDiff| diff.live_mut().big_key = big_key;
        live(&servers.0.url(), &servers.1.url(), change).unwrap().1
    };
    let files = [&servers.0, &servers.1].map(|server| {
        call(server, "SAVE");
        server.dir().join("dump.rdb").display().to_string()
    });
    let snapshots = |source: &str, target: &str, change: &dyn Fn(&mut keyferry_diff::DiffOptions)| {
        let mut diff = SnapshotDiff::new(source.parse().unwrap(), target.parse().unwrap());
        change(diff.options_mut());
        let mut differences: Vec<Difference> = Vec::new();
        let report = diff.run(&mut differences).unwrap();
        assert_eq!(report.differences.total(), differences.len() as u64);
        differences
    };
    let on_disk = |options: &mut keyferry_diff::DiffOptions| options.memory = 100;
    let in_parts = |options: &mut keyferry_diff::DiffOptions| options.limits.value_part = 1;
    // As a whole and in parts, by files, by a file and a server.
    for differences in [
        by_key(1000),
        by_key(1),
        snapshots(&files[0], &files[1], &|_| {}),
        snapshots(&files[0], &files[1], &on_disk),
        snapshots(&files[0], &files[1], &in_parts),
        snapshots(&files[0], &servers.1.url(), &|_| {}),
        snapshots(&servers.0.url(), &files[1], &|_| {}),
    ] {
        let owned =
            |all: &[(&str, &'static str)]| all.iter().map(|(n, k)| ((*n).to_owned(), *k)).collect::<Vec<_>>();
        let (lack_source, lack_target) = ("lack_source", "lack_target");
        assert_eq!(
            fields(&differences, "hash"),
            owned(&[("a", lack_target), ("b", "value"), ("d", lack_source)])
        );
        assert_eq!(fields(&differences, "set"), owned(&[("a", lack_target), ("x", lack_source)]));
        assert_eq!(fields(&differences, "zset"), owned(&[("a", "value"), ("c", lack_source)]));
        assert_eq!(fields(&differences, "list"), owned(&[("2", "value")]));
        assert_eq!(fields(&differences, "prefix"), owned(&[("2", lack_target)]));
        assert_eq!(
            fields(&differences, "stream"),
            owned(&[("2-1", lack_target), ("group g pending 1-1", lack_target), ("group h", lack_source)])
        );
    }
    // Names beyond a bound are counted.
    let (_, by_key) = live(&servers.0.url(), &servers.1.url(), |diff| diff.live_mut().fields = 1).unwrap();
    for differences in [by_key, snapshots(&files[0], &files[1], &|options| options.fields = 1)] {
        let hash = differences.iter().find(|one| one.key == b"hash").unwrap();
        assert_eq!((hash.fields.len(), hash.more_fields), (1, 2));
        assert!(hash.places().ends_with(" and 2 more"), "{}", hash.places());
    }
    let none = snapshots(&files[0], &files[1], &|options| options.fields = 0);
    assert!(none.iter().all(|one| one.fields.is_empty()) && none.len() > 5);
    // Between servers a second snapshot would be another one.
    let none = snapshots(&servers.0.url(), &servers.1.url(), &|_| {});
    assert!(none.iter().all(|one| one.fields.is_empty()) && none.len() > 5);
}

#[test]
fn a_large_hash_is_read_in_parts() {
    let Some(servers) = two() else { return };
    // 40 MB in few fields: more than is asked for at once.
    let value = "x".repeat(200_000);
    for server in [&servers.0, &servers.1] {
        let mut client = server.client().unwrap();
        for n in 0..200 {
            client.call(&["HSET", "hash", &format!("field:{n}"), &value]).unwrap();
        }
    }
    let (report, differences) = live(&servers.0.url(), &servers.1.url(), |_| {}).unwrap();
    assert!(differences.is_empty() && report.equal == 1, "{report}");
    servers.1.client().unwrap().call(&["HSET", "hash", "field:7", &value[1..]]).unwrap();
    let (_, differences) = live(&servers.0.url(), &servers.1.url(), |_| {}).unwrap();
    assert_eq!(fields(&differences, "hash"), [("field:7".to_owned(), "value")]);
    // Such keys by their length only.
    let (report, differences) = live(&servers.0.url(), &servers.1.url(), |diff| {
        diff.live_mut().depth = Depth::SkipBig;
    })
    .unwrap();
    assert!(differences.is_empty() && report.depth.leaves_open().is_some());
}

#[test]
fn depths_see_what_they_look_at() {
    let Some(servers) = two() else { return };
    both(&servers, &["SET value abc", "SET length abc", "SET type abc", "SET ttl abc", "SET gone abc"]);
    call(&servers.1, "SET value abd");
    call(&servers.1, "SET length abcd");
    call(&servers.1, "DEL type");
    call(&servers.1, "RPUSH type abc");
    call(&servers.1, "PEXPIRE ttl 10000000");
    call(&servers.1, "DEL gone");
    let by = |depth: Depth| {
        let (_, differences) =
            live(&servers.0.url(), &servers.1.url(), |diff| diff.live_mut().depth = depth).unwrap();
        let kinds = told(&differences).into_iter();
        kinds.map(|(_, key, kind)| format!("{} {kind}", String::from_utf8(key).unwrap())).collect::<Vec<_>>()
    };
    let all = ["gone lack_target", "length value", "ttl expiry", "type type", "value value"];
    assert_eq!(by(Depth::Full), all);
    assert_eq!(by(Depth::Length), all[..4]);
    assert_eq!(by(Depth::Exists), all[..1]);
}

/// Changes both sides after the first round, and keeps what is told.
struct Between<'a, F: FnMut() + Send> {
    change: F,
    changed: bool,
    all: &'a mut Vec<Difference>,
    suspects: Vec<(u32, Vec<u8>)>,
}

impl<F: FnMut() + Send> DifferenceSink for Between<'_, F> {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        self.all.push(difference.clone());
        Ok(())
    }

    fn suspect(&mut self, round: u32, difference: &Difference) -> io::Result<()> {
        if !std::mem::replace(&mut self.changed, true) {
            (self.change)();
        }
        self.suspects.push((round, difference.key.clone()));
        Ok(())
    }
}

#[test]
fn keys_that_change_between_rounds() {
    let Some(servers) = two() else { return };
    // What was under way, deleted on both sides, retyped on both, retyped on one, and a difference that stays.
    for command in ["SET late 1", "SET deleted 1", "HSET retyped a 1", "SADD other a", "SET stays 1"] {
        call(&servers.0, command);
    }
    for command in ["SET late 2", "HSET retyped a 2", "SADD other b", "SET stays 2"] {
        call(&servers.1, command);
    }
    for depth in [Depth::Full, Depth::Exists] {
        let mut told: Vec<Difference> = Vec::new();
        let mut diff = LiveDiff::new(servers.0.url().parse().unwrap(), servers.1.url().parse().unwrap());
        diff.live_mut().interval = Duration::from_millis(50);
        diff.live_mut().depth = depth;
        let change = || {
            both(&servers, &["SET late 3", "DEL deleted", "DEL retyped", "RPUSH retyped x"]);
            call(&servers.1, "DEL other");
            call(&servers.1, "HSET other a 1");
        };
        let mut sink = Between { change, changed: false, all: &mut told, suspects: Vec::new() };
        let report = diff.run(&mut sink).unwrap();
        let suspects = sink.suspects.len();
        let kinds: Vec<_> =
            told.iter().map(|one| (String::from_utf8_lossy(&one.key).into_owned(), one.kind)).collect();
        if depth == Depth::Full {
            assert!(suspects >= 5, "{suspects}");
            assert!(
                kinds.len() == 2
                    && kinds.contains(&("stays".to_owned(), DifferenceKind::Value))
                    && kinds.contains(&("other".to_owned(), DifferenceKind::Type)),
                "{kinds:?}"
            );
            assert_eq!((report.rounds[0].differ, report.rounds[1].differ), (5, 2));
            assert_eq!((report.source.keys, report.equal), (4, 2));
            call(&servers.0, "SET deleted 1");
        } else {
            // It is gone on both sides, which is no difference.
            assert_eq!((suspects, kinds.len()), (1, 0));
            assert_eq!(report.verdict(), Verdict::Equal);
        }
    }
}

#[test]
fn snapshots_leave_suspects_that_are_settled_by_key() {
    let Some(servers) = two() else { return };
    both(&servers, &["SET late 1", "SET stays 1", "SET same 1", "HSET hash a 1"]);
    call(&servers.1, "SET late 2");
    call(&servers.1, "SET stays 2");
    call(&servers.1, "HSET hash a 2");
    let (a, b) = (servers.0.url(), servers.1.url());
    let mut suspects = Suspects::new();
    let report = SnapshotDiff::new(a.parse().unwrap(), b.parse().unwrap()).run(&mut suspects).unwrap();
    assert_eq!((suspects.len(), report.equal), (3, 1));
    call(&servers.1, "SET late 1");
    let mut diff = LiveDiff::new(a.parse().unwrap(), b.parse().unwrap());
    diff.live_mut().interval = Duration::from_millis(10);
    let mut told: Vec<Difference> = Vec::new();
    let report = diff.settle(suspects, report, &mut told).unwrap();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(fields(&told, "hash"), [("a".to_owned(), "value")]);
    assert_eq!((report.source.keys, report.both, report.equal, report.differences.total()), (4, 4, 2, 2));
    assert!(
        report.to_string().starts_with("DIFFERENT: 2 differences (2 value); 4 keys on both sides, 2 of"),
        "{report}"
    );
}

#[test]
fn short_lived_keys_are_no_differences() {
    let Some(servers) = two() else { return };
    fill(&mut servers.0.client().unwrap(), 0..100);
    fill(&mut servers.1.client().unwrap(), 0..100);
    for n in 0..50 {
        call(&servers.0, &format!("SET short:{n} x PX 400"));
    }
    let (report, differences) = live(&servers.0.url(), &servers.1.url(), |_| {}).unwrap();
    assert_eq!((differences.len(), report.equal), (0, 100), "{differences:?}");
}

#[test]
fn forty_thousand_differences_key_by_key() {
    let Some(servers) = two() else { return };
    fill(&mut servers.0.client().unwrap(), 0..60_000);
    fill(&mut servers.1.client().unwrap(), 40_000..60_000);
    let (report, differences) = live(&servers.0.url(), &servers.1.url(), |_| {}).unwrap();
    assert_eq!((differences.len(), report.equal, report.both), (40_000, 20_000, 20_000), "{report}");
    let (_, differences) =
        live(&servers.1.url(), &servers.0.url(), |diff| diff.live_mut().rounds = 1).unwrap();
    assert!(
        differences.iter().all(|one| one.kind == DifferenceKind::LackSource) && differences.len() == 40_000
    );
}

#[test]
fn samples_and_selections() {
    let Some(servers) = two() else { return };
    for server in [&servers.0, &servers.1] {
        fill(&mut server.client().unwrap(), 0..20_000);
        call(server, "HSET user:1 a 1");
        call(server, "SELECT 3");
    }
    call(&servers.1, "SET new 1");
    call(&servers.1, "HSET user:1 a 2");
    let (a, b) = (servers.0.url(), servers.1.url());
    let (report, _) = live(&a, &b, |diff| diff.live_mut().sample = Sample::new(0.1)).unwrap();
    let sample = report.sample.unwrap();
    assert!((1_700..2_300).contains(&sample.looked), "{sample:?}");
    assert!(sample.to_string().contains(" keys were looked at"), "{sample}");
    assert_eq!(
        sample.looked + report.source.unsampled,
        20_001 + report.differences.of(DifferenceKind::LackSource)
    );

    let pattern =
        |text: &str| keyferry_files::KeyName::from(keyferry_routing::KeyPattern::new(text.as_bytes()));
    let chosen = |change: &dyn Fn(&mut LiveDiff)| {
        let (report, differences) = live(&a, &b, |diff| change(diff)).unwrap();
        let names: Vec<_> = told(&differences).into_iter().map(|(_, key, _)| key).collect();
        (report.source.keys, names)
    };
    let only_user = (1, vec![b"user:1".to_vec()]);
    assert_eq!(chosen(&|diff| diff.options_mut().selection.keys.push(pattern("u[s-u]er:?"))), only_user);
    assert_eq!(chosen(&|diff| diff.options_mut().selection.kinds.push(keyferry_rdb::Kind::Hash)), only_user);
    let (keys, names) = chosen(&|diff| {
        diff.options_mut().selection.keys.extend([pattern("new"), pattern("user:*")]);
        diff.options_mut().selection.exclude.push(pattern("*1"));
    });
    assert_eq!((keys, names), (0, vec![b"new".to_vec()]));
    let slots: keyferry_routing::SlotSet = keyferry_routing::slot(b"user:1").to_string().parse().unwrap();
    let (keys, names) = chosen(&|diff| diff.options_mut().selection.slots = Some(slots.clone()));
    assert!(keys >= 1 && names == [b"user:1"], "{keys} {names:?}");
    // Nothing that was asked for is there: that is no proof of anything.
    let (report, _) = live(&a, &b, |diff| diff.options_mut().selection.databases.push(9)).unwrap();
    assert_eq!(report.verdict(), Verdict::NothingCompared);
    // A pace is kept where there are fewer keys than a batch has, too.
    for server in [&servers.0, &servers.1] {
        let fill = (0..250).map(|n| ["SET".to_owned(), format!("few:{n}"), "x".to_owned()]);
        let select = ["SELECT".to_owned(), "4".to_owned()];
        let mut client = server.client().unwrap();
        client.call(&select).unwrap();
        client.pipe(&fill.collect::<Vec<_>>()).unwrap();
    }
    let begun = Instant::now();
    let (report, _) = live(&a, &b, |diff| {
        diff.options_mut().selection.databases.push(4);
        (diff.live_mut().keys_per_second, diff.live_mut().rounds) = (Some(200), 1);
    })
    .unwrap();
    assert!(report.equal == 250 && begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
    // A database that the URL names chooses nothing, and that is said once.
    let (report, _) = live(&format!("{a}/3"), &b, |diff| diff.live_mut().rounds = 1).unwrap();
    assert_eq!(report.notes.iter().filter(|note| note.contains("all databases were compared")).count(), 1);
    assert!(report.source.keys > 20_000, "{report}");
    let begun = Instant::now();
    live(&a, &b, |diff| (diff.live_mut().keys_per_second, diff.live_mut().rounds) = (Some(20_000), 1))
        .unwrap();
    assert!(begun.elapsed() > Duration::from_millis(800), "{:?}", begun.elapsed());
}

#[test]
fn users_who_may_only_read() {
    let Ok(binary) = any() else { return println!("note: no server is there") };
    let user = |rules: &str| {
        let server = Server::builder(binary).user("reader", rules).start().unwrap();
        let url = server.url().replace("redis://", "redis://reader:s3cret@");
        (server, url)
    };
    // No DUMP, no EXEC, no FLUSHALL; with `CLIENT` and `FUNCTION` neither.
    let (a, a_url) = user("on >s3cret ~* resetchannels -@all +@read -dump +info +hello +function|list");
    let (b, b_url) = user("on >s3cret ~* resetchannels -@all +@read +info +hello +function|list");
    for server in [&a, &b] {
        fill(&mut server.client().unwrap(), 0..100);
        for command in ["HSET hash a 1", "RPUSH list a b", "ZADD zset 1 a", "SADD set a"] {
            call(server, command);
        }
        // As one may leave it: with a list of pending entries that is empty.
        call(server, "XADD stream 1-1 f v");
        call(server, "XGROUP CREATE stream g $");
    }
    call(&b, "LSET list 1 c");
    let (report, differences) = live(&a_url, &b_url, |diff| diff.options_mut().functions = false).unwrap();
    assert_eq!(fields(&differences, "list"), [("1".to_owned(), "value")]);
    assert_eq!((differences.len(), report.equal), (1, 104), "{report}");
    // What may not be read is no verdict: nor is half a stream.
    let blind = ["on >s3cret ~* resetchannels -@all +@read -dump -xinfo +info +hello"; 2].map(user);
    for (server, _) in &blind {
        call(server, "XADD stream 1-1 f v");
    }
    call(&blind[0].0, "XGROUP CREATE stream g 0");
    let error = live(&blind[0].1, &blind[1].1, |diff| diff.options_mut().functions = false).unwrap_err();
    assert!(error.to_string().contains("NOPERM") && !error.to_string().contains("s3cret"), "{error}");
    let (c, c_url) = user("on >s3cret ~* resetchannels -@all +@read -get -mget +info +hello");
    fill(&mut c.client().unwrap(), 0..100);
    let error = live(&a_url, &c_url, |diff| diff.options_mut().functions = false).unwrap_err().to_string();
    assert!(error.contains("NOPERM") && !error.contains("s3cret"), "{error}");
    let wrong = a_url.replace("s3cret", "wr0ng");
    let error = live(&wrong, &b_url, |_| {}).unwrap_err().to_string();
    assert!(error.contains("WRONGPASS") && !error.contains("wr0ng"), "{error}");
}

#[test]
fn lost_connections_lose_no_keys() {
    let Some(servers) = two() else { return };
    fill(&mut servers.0.client().unwrap(), 0..30_000);
    fill(&mut servers.1.client().unwrap(), 0..30_000);
    call(&servers.1, "SET key:29999 other");
    let proxy = Proxy::start(servers.1.addr()).unwrap();
    let url = format!("redis://{}", proxy.addr());
    std::thread::scope(|scope| {
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let proxy = &proxy;
        let cutter = scope.spawn(move || {
            let mut cuts = 0;
            while end.recv_timeout(Duration::from_millis(40)).is_err() && cuts < 20 {
                proxy.cut_after(Direction::FromTarget, 20_000);
                cuts += 1;
            }
        });
        let (report, differences) = live(&servers.0.url(), &url, |_| {}).unwrap();
        ended.send(()).ok();
        cutter.join().unwrap();
        assert_eq!((differences.len(), report.equal), (1, 29_999), "{report}");
    });
    // A server that does not come back is no verdict.
    proxy.refuse(true);
    proxy.cut();
    let error = live(&servers.0.url(), &url, |diff| diff.options_mut().patience = Duration::from_millis(300));
    assert!(error.is_err());
}

#[test]
fn slots_that_move_hide_no_keys() {
    let Ok(binary) = any() else { return println!("note: no server is there") };
    let cluster = Cluster::builder(binary).primaries(2).start().unwrap();
    let server = start(binary);
    let mut client = cluster.client().unwrap();
    fill(&mut server.client().unwrap(), 0..3000);
    for n in 0..3000 {
        client.call(&["SET", &format!("key:{n}"), &format!("value {n}")]).unwrap();
    }
    // Types that differ are no reason to fall over, nor are batches larger than any queue.
    client.call(&["RPUSH", "retyped", "x"]).unwrap();
    call(&server, "SET retyped x");
    client.call(&["SET", "new", "x"]).unwrap();
    let one_address = format!("redis://{}", cluster.node(1).addr());
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| {
            let first = cluster.slots(0).unwrap()[0].clone();
            let (start, end) = (*first.start(), *first.start() + 50);
            cluster.move_slots(start..=end, 1).unwrap();
        });
        while !moving.is_finished() {
            for (a, b) in [(&server.url(), &one_address), (&one_address, &server.url())] {
                let (_, differences) = live(a, b, |diff| diff.live_mut().batch = 10_000).unwrap();
                let lacks = if a == &one_address { "lack_target" } else { "lack_source" };
                let expected =
                    [(0, b"new".to_vec(), lacks), (0, b"retyped".to_vec(), "type")].into_iter().collect();
                assert_eq!(told(&differences), expected);
            }
        }
    });
    // A database that a cluster does not have.
    server.client().unwrap().pipe(&[&["SELECT", "5"][..], &["SET", "five", "x"]]).unwrap();
    let (_, differences) = live(&server.url(), &one_address, |_| {}).unwrap();
    assert!(told(&differences).contains(&(5, b"five".to_vec(), "lack_target")), "{differences:?}");
    let (_, differences) = live(&server.url(), &one_address, |diff| {
        diff.options_mut().databases.add("5=0".parse().unwrap());
        diff.options_mut().selection.databases.push(5);
    })
    .unwrap();
    assert!(told(&differences).contains(&(0, b"five".to_vec(), "lack_target")), "{}", differences.len());
}

#[test]
fn values_of_modules() {
    let with_vectors = all().unwrap_or_default().iter().find_map(|binary| {
        let server = start(binary);
        let added = server.client().unwrap().call(&["VADD", "v", "VALUES", "2", "1", "2", "a"]).is_ok();
        added.then(|| (server, start(binary)))
    });
    let Some((a, b)) = with_vectors else { return println!("note: no server with vector sets is there") };
    let payload = a.client().unwrap().bytes(&["DUMP", "v"]).unwrap().unwrap();
    b.client().unwrap().call(&[&b"RESTORE"[..], b"v", b"0", &payload]).unwrap();
    let (report, differences) = live(&a.url(), &b.url(), |_| {}).unwrap();
    assert!(differences.is_empty() && report.equal == 1, "{differences:?}");
    // By length and by name, where other tools fall over.
    for depth in [Depth::Length, Depth::Exists, Depth::SkipBig] {
        let (report, differences) = live(&a.url(), &b.url(), |diff| diff.live_mut().depth = depth).unwrap();
        assert!(differences.is_empty() && report.equal == 1, "{depth}: {differences:?}");
    }
    b.client().unwrap().call(&["VADD", "v", "VALUES", "2", "3", "4", "b"]).unwrap();
    let (_, differences) = live(&a.url(), &b.url(), |_| {}).unwrap();
    assert_eq!(told(&differences), [(0, b"v".to_vec(), "value")].into());
}

#[test]
fn repairs_make_both_sides_equal() {
    let Some(servers) = two() else { return };
    let plain = Server::builder(any().unwrap()).config("hash-max-ziplist-entries", "1").start().unwrap();
    let servers = (servers.0, plain);
    both(&servers, &["SET same 1", "SET value 1", "SADD type a", "SET ttl 1", "HSET hash a 1 b 2"]);
    call(&servers.0, "SET gone 1 PX 100000000");
    call(&servers.0, "SELECT 0");
    servers.0.client().unwrap().call(&[&b"SET"[..], b"binary\x00\n\"\xFF", b"\x00\xFE"]).unwrap();
    servers.0.client().unwrap().pipe(&[&["SELECT", "2"][..], &["RPUSH", "list", "a", "b"]]).unwrap();
    for command in
        ["SET value 2", "DEL type", "SET type 1", "PEXPIRE ttl 100000000", "HSET hash a 2", "SET new 1"]
    {
        call(&servers.1, command);
    }
    let (a, b) = (servers.0.url(), servers.1.url());
    let make = || LiveDiff::new(a.parse().unwrap(), b.parse().unwrap());
    let suspects = || {
        let mut suspects = Suspects::new();
        let mut diff = make();
        diff.live_mut().rounds = 1;
        let report = diff.run(&mut suspects).unwrap();
        (suspects, report)
    };
    let (found, _) = suspects();
    assert_eq!(found.len(), 8);
    // Nothing happens but that a script is written.
    let mut options = RepairOptions::new(RepairWhat::Both);
    options.dry_run = true;
    let mut script = Vec::new();
    let done = make().repair(&found, &options, &mut script).unwrap();
    assert_eq!((done.copied, done.deleted, done.failed), (7, 1, 0), "{done:?}");
    assert_eq!(suspects().0.len(), 8);
    let script = String::from_utf8(script).unwrap();
    assert!(script.contains("UNLINK new\n") && script.contains("SELECT 2\nRESTORE list 0 "), "{script}");
    // One step after the other.
    let mut to_nowhere = io::sink();
    let done = make().repair(&found, &RepairOptions::new(RepairWhat::Delete), &mut to_nowhere).unwrap();
    assert_eq!((done.copied, done.deleted, done.left), (0, 1, 7), "{done}");
    let (found, report) = suspects();
    let done = make().repair(&found, &RepairOptions::new(RepairWhat::Copy), &mut to_nowhere).unwrap();
    assert_eq!((done.copied, done.deleted, done.left), (7, 0, 0), "{done}");
    let mut diff = make();
    diff.live_mut().interval = Duration::from_millis(10);
    let mut told: Vec<Difference> = Vec::new();
    let report = diff.settle(found, report, &mut told).unwrap();
    assert!(told.is_empty() && report.verdict() == Verdict::Equal, "{report} {told:?}");
    assert!(suspects().0.is_empty());
    // The other way round, and what the script of a dry run says is what has to be done.
    call(&servers.0, "DEL same");
    let (found, _) = suspects();
    let mut options = RepairOptions::new(RepairWhat::Copy);
    options.from_target = true;
    make().repair(&found, &options, &mut to_nowhere).unwrap();
    assert_eq!(servers.0.client().unwrap().text(&["GET", "same"]).unwrap(), "1");
}

/// As redis-full-check's documentation asks.
#[cfg(feature = "sqlite")]
#[test]
fn each_round_has_its_tables() {
    let Some(servers) = two() else { return };
    both(&servers, &["HSET hash a 1 b 2 c 3", "SET text 1"]);
    call(&servers.1, "HSET hash a 2 d 4");
    call(&servers.1, "HDEL hash c");
    call(&servers.1, "SET text 22");
    call(&servers.0, "SET gone 1");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("result.db");
    let mut diff = LiveDiff::new(servers.0.url().parse().unwrap(), servers.1.url().parse().unwrap());
    diff.live_mut().interval = Duration::from_millis(10);
    let mut sink = keyferry_diff::results::Sqlite::create(&file).unwrap();
    let report = diff.run(&mut sink).unwrap();
    sink.finish(&report).unwrap();
    let db = rusqlite::Connection::open(&file).unwrap();
    for suffix in ["_1", "_2", ""] {
        let rows = |sql: &str| -> Vec<String> {
            let mut query = db.prepare(&sql.replace('@', suffix)).unwrap();
            query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        let keys = rows(
            "select key || ' ' || type || ' ' || conflict_type || ' ' || source_len || ' ' || target_len from key@ order by 1",
        );
        assert_eq!(keys, ["gone string lack_target 1 0", "hash hash value 3 3", "text string value 1 2"]);
        let fields = rows(
            "select field@.field || ' ' || field@.conflict_type from field@ inner join key@ on field@.key_id = key@.id \
             where key@.key = 'hash' order by 1",
        );
        assert_eq!(fields, ["a value", "c lack_target", "d lack_source"]);
    }
    let count =
        "select count(*) from FINAL_RESULT where Key = 'hash' and Schema = '0' and Extra in ('a', 'c', 'd')";
    assert_eq!(db.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap(), 3);
}

/// A replica stands for a migration: it applies what the source did, in order and later.
#[test]
fn a_barrier_tells_keys_in_motion_from_differences() {
    let Some((source, target)) = two() else { return };
    fill(&mut source.client().unwrap(), 0..5000);
    let mut replica = target.client().unwrap();
    replica.call(&["REPLICAOF", "127.0.0.1", &source.port().to_string()]).unwrap();
    replica
        .wait_until(Duration::from_secs(60), |client| {
            Ok(client.info("replication", "master_link_status")?.as_deref() == Some("up"))
        })
        .unwrap();
    replica.call(&["CONFIG", "SET", "replica-read-only", "no"]).unwrap();
    replica.call(&["SET", "planted", "x"]).unwrap();
    // In motion, and another value in between all the time.
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = source.client().unwrap();
            let mut round = 0u32;
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                let commands: Vec<_> = (0..200u32)
                    .map(|n| {
                        let key = round.wrapping_mul(2_654_435_761).wrapping_add(n * 37) % 5000;
                        ["APPEND".to_owned(), format!("key:{key}"), "x".to_owned()]
                    })
                    .collect();
                client.pipe(&commands).unwrap();
                round += 1;
            }
            round
        });
        let outcome = live(&source.url(), &target.url(), |diff| {
            diff.live_mut().barrier = Some(Duration::from_secs(60));
            diff.live_mut().batch = 100;
        });
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        let rounds = writer.join().unwrap();
        let (report, differences) = outcome.unwrap();
        println!(
            "{} writes, {report}, rounds {:?}, {} unsettled",
            rounds * 200,
            report.rounds,
            report.unsettled
        );
        assert_eq!(told(&differences), [(0, b"planted".to_vec(), "lack_source")].into());
    });
    // Where nothing follows, that is said.
    replica.call(&["REPLICAOF", "NO", "ONE"]).unwrap();
    let error = live(&source.url(), &target.url(), |diff| {
        diff.live_mut().barrier = Some(Duration::from_millis(200));
    })
    .unwrap_err();
    assert!(error.to_string().contains("keyferry:barrier"), "{error}");
}
