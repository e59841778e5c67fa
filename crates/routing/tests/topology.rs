//! Topologies of real clusters, and of the replies that servers were seen to give.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;

use bytes::BytesMut;
use keyferry_resp::{Decoder, ErrorReply, Frame};
use keyferry_routing::{Health, Redirect, RedirectKind, Role, SLOTS, Topology, TopologyError, slot};
use keyferry_testkit::{Certs, Cluster, all, chosen, named};
use proptest::prelude::*;

/// What the three commands have in common: who owns each slot, by id.
fn owners(topology: &Topology) -> Vec<Option<String>> {
    (0..SLOTS).map(|slot| topology.owner(slot).and_then(|node| node.id.clone())).collect()
}

/// The addresses of all nodes, by id, with the role.
fn members(topology: &Topology, tls: bool) -> BTreeMap<String, (String, u16, Role)> {
    let members = topology.nodes().map(|node| {
        let (host, port) = node.address("asked", tls).expect("has a port");
        (node.id.clone().expect("has an id"), (host.to_owned(), port, node.role))
    });
    members.collect()
}

/// Reads one of the three commands.
fn read(command: &str, reply: &Frame) -> Result<Topology, TopologyError> {
    match command {
        "CLUSTER SLOTS" => Topology::from_slots(reply),
        "CLUSTER SHARDS" => Topology::from_shards(reply),
        _ => Topology::from_nodes(reply.as_bytes().expect("a text")),
    }
}

const COMMANDS: [&str; 3] = ["CLUSTER NODES", "CLUSTER SLOTS", "CLUSTER SHARDS"];

#[test]
fn replies_that_servers_gave() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/server-made/cluster-replies.tsv");
    let Ok(table) = std::fs::read_to_string(&path) else {
        println!("skipped: there is no corpus at {}", path.display());
        return;
    };
    let (mut seen, mut redirects) = (0, 0);
    let mut first: Option<(String, Topology)> = None;
    for row in table.lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let [server, setup, node, request, reply] = columns[..] else { panic!("{row:?}") };
        let reply = reply.replace("\\r", "\\x0d").replace("\\n", "\\x0a").replace("\\t", "\\x09");
        if request == "(file nodes.conf)" {
            let text = keyferry_resp::escape::unescape(&reply).unwrap();
            let topology = Topology::from_nodes(&text).unwrap();
            assert_eq!(
                (topology.shards().len(), topology.unserved().len(), topology.moves().len()),
                (2, 0, 1)
            );
            assert_eq!(topology.shards()[0].id.is_some(), server != "redis-6.2.16");
            continue;
        }
        let mut bytes = BytesMut::from(&keyferry_resp::escape::unescape(&reply).unwrap()[..]);
        let frame = Decoder::new().decode(&mut bytes).unwrap().unwrap();
        if let Some(redirect) = frame.error_reply().and_then(|error| Redirect::parse(&error)) {
            redirects += 1;
            assert_eq!(redirect.address("asked").0, "127.0.0.1", "{row}");
            let named = frame.error().unwrap().split(|&byte| byte == b' ').nth(1).unwrap();
            assert_eq!(redirect.slot.map(|slot| slot.to_string().into_bytes()), Some(named.to_vec()));
        }
        if !COMMANDS.contains(&request) {
            continue;
        }
        let topology = match read(request, &frame) {
            Ok(topology) => topology,
            Err(error) => {
                assert!(
                    matches!(error, TopologyError::Refused(_)) && server == "redis-6.2.16",
                    "{row}: {error}"
                );
                continue;
            }
        };
        seen += 1;
        let wants = |what: &str| setup.contains(what);
        let has_name = wants("h.example.com");
        for node in topology.nodes() {
            match node.hostname.as_deref() {
                Some(name) => assert_eq!(name, "h.example.com", "{row}"),
                // CLUSTER SLOTS tells the name once.
                None if has_name => assert_eq!(node.host.as_deref(), Some("h.example.com"), "{row}"),
                None => {}
            }
            let by_name = has_name && wants("endpoint hostname") && request != "CLUSTER NODES";
            let expected = if by_name {
                "h.example.com"
            } else if wants("two nodes") || wants("migrating") {
                "127.0.0.1"
            } else {
                "asked"
            };
            assert_eq!(node.address("asked", false).unwrap().0, expected, "{row}");
            assert_eq!(
                node.availability_zone.is_some(),
                wants("availability zone") && request != "CLUSTER NODES",
                "{row}"
            );
            assert_eq!(node.role, Role::Primary);
        }
        let served = usize::from(SLOTS) - topology.unserved().len();
        let expected = if wants("fresh") {
            0
        } else if wants("one node") {
            5
        } else {
            usize::from(SLOTS)
        };
        assert_eq!(served, expected, "{row}");
        if wants("migrating") && request == "CLUSTER NODES" && !topology.moves().is_empty() {
            let [moving] = topology.moves() else { panic!("{row}") };
            assert_eq!((moving.slot, Some(&moving.from)), (5061, topology.owner(5061).unwrap().id.as_ref()));
            assert_eq!(Some(&moving.to), topology.owner(16383).unwrap().id.as_ref());
        }
        // One after the other they describe the same.
        let place = format!("{server} {setup} {node}");
        if let Some((before, other)) = &first
            && *before == place
            && topology.moves().is_empty()
            && other.moves().is_empty()
        {
            assert_eq!(owners(other), owners(&topology), "{row}");
        }
        first = Some((place, topology));
    }
    assert!(seen > 80 && redirects > 40, "{seen} {redirects}");
}

/// All three replies, over RESP2 and RESP3, say the same, and what the cluster is known to be.
fn check_cluster(cluster: &Cluster, tls: bool) -> keyferry_testkit::Result<Topology> {
    let mut seen: Vec<Topology> = Vec::new();
    for node in cluster.nodes() {
        if node.pid().is_none() {
            continue;
        }
        let mut client = node.client()?;
        for protocol in ["2", "3"] {
            if client.call_raw(&["HELLO", protocol])?.is_error() {
                continue;
            }
            for command in COMMANDS {
                let words: Vec<&str> = command.split(' ').collect();
                let reply = client.call_raw(&words)?;
                let topology = match read(command, &reply) {
                    Ok(topology) => topology,
                    Err(TopologyError::Refused(_)) if command == "CLUSTER SHARDS" => continue,
                    Err(error) => panic!("{command}: {error}: {reply:?}"),
                };
                if let Some(first) = seen.first() {
                    assert_eq!(owners(first), owners(&topology), "{command} over RESP{protocol}");
                }
                seen.push(topology);
            }
        }
    }
    let topology = seen.swap_remove(0);
    for slot in (0..SLOTS).step_by(911) {
        let owner = topology.owner(slot).expect("is served");
        let number = cluster.owner(slot)?;
        assert_eq!(owner.id.as_deref(), Some(cluster.id(number)));
        let port = if tls { cluster.node(number).tls_port() } else { Some(cluster.node(number).port()) };
        assert_eq!(owner.address("127.0.0.1", tls), Some(("127.0.0.1", port.expect("has one"))));
        let replicas = topology.shard(slot).expect("is served").replicas.len();
        assert_eq!(replicas, cluster.replicas(number)?.len());
    }
    for other in &seen {
        for (id, member) in members(other, false) {
            assert_eq!(members(&topology, false).get(&id).map(|known| known.2), Some(member.2));
        }
    }
    Ok(topology)
}

#[test]
fn clusters_of_every_version() -> keyferry_testkit::Result<()> {
    for binary in all()? {
        let slots: [&[_]; 3] = [&[0..=99, 5000..=10_000], &[100..=4999], &[10_001..=16_383]];
        let cluster = Cluster::builder(binary).slots(&slots).replicas(1).start()?;
        let topology = check_cluster(&cluster, false)?;
        assert_eq!(topology.shards().len(), 3, "{}", binary.name);
        let shard = topology.shard(0).expect("is served");
        assert_eq!(shard.slots.to_string(), "0-99,5000-10000", "{}", binary.name);
        assert!(topology.nodes().all(|node| node.health == Health::Online));
    }
    Ok(())
}

#[test]
fn slots_on_the_move_and_a_failover() -> keyferry_testkit::Result<()> {
    for binary in chosen(&["redis-7.0", "redis-8.0", "valkey-9"])? {
        let mut cluster = Cluster::builder(binary).primaries(3).replicas(1).start()?;
        let mut asked = 0;
        let from = cluster.owner(5)?;
        let to = (from + 1) % 3;
        let key = keyferry_routing::tag_for_slot(5);
        let stop = |step| {
            if matches!(step, keyferry_testkit::MoveStep::Opened(5)) {
                asked += 1;
                let mut topologies = [from, to].map(|number| {
                    let mut client = cluster.node(number).client().unwrap();
                    Topology::from_nodes(client.text(&["CLUSTER", "NODES"]).unwrap().as_bytes()).unwrap()
                });
                for topology in &topologies {
                    let [moving] = topology.moves() else { panic!("{:?}", topology.moves()) };
                    assert_eq!(
                        (moving.slot, &*moving.from, &*moving.to),
                        (5, cluster.id(from), cluster.id(to))
                    );
                    assert_eq!(topology.owner(5).unwrap().id.as_deref(), Some(cluster.id(from)));
                }
                let [first, second] = &mut topologies;
                first.add_moves(second);
                assert_eq!(first.moves().len(), 1);
                // A key that is not there any more.
                let reply = cluster.node(from).client()?.call_raw(&["GET", key])?;
                let ask = Redirect::parse(&reply.error_reply().unwrap()).unwrap();
                assert_eq!((ask.kind, ask.slot), (RedirectKind::Ask, Some(5)));
                assert_eq!(ask.address("x"), ("127.0.0.1", cluster.node(to).port()));
                assert!(!first.apply_moved(&ask, "x", false));
            }
            Ok(())
        };
        let mut before = check_cluster(&cluster, false)?;
        cluster.move_slots_with(5..=5, to, 10, stop)?;
        assert_eq!(asked, 1);

        // What a redirection says makes the old map the new one.
        let reply = cluster.node(from).client()?.call_raw(&["GET", key])?;
        let moved = Redirect::parse(&reply.error_reply().unwrap()).unwrap();
        assert!(before.apply_moved(&moved, "127.0.0.1", false));
        cluster.wait_until_settled()?;
        let after = check_cluster(&cluster, false)?;
        assert_eq!(owners(&before), owners(&after), "{}", binary.name);
        assert_eq!(before.shard(5).unwrap().slots, after.shard(5).unwrap().slots);

        // A replica that took over is named by a redirection, too.
        let number = cluster.owner(slot(b"foo"))?;
        let new = cluster.kill(number)?;
        let topology =
            Topology::from_nodes(cluster.node(new).client()?.text(&["CLUSTER", "NODES"])?.as_bytes())
                .unwrap();
        assert_eq!(topology.owner(slot(b"foo")).unwrap().id.as_deref(), Some(cluster.id(new)));
        let dead = topology.node(cluster.id(number)).expect("is known still");
        assert!(matches!(dead.health, Health::Failed | Health::Suspected), "{dead:?}");
        let text = format!("MOVED {} 127.0.0.1:{}", slot(b"foo"), cluster.node(new).port());
        let moved = Redirect::parse(&ErrorReply::new(text)).unwrap();
        assert!(before.apply_moved(&moved, "127.0.0.1", false));
        let shard = before.shard(slot(b"foo")).unwrap();
        assert_eq!(shard.primary.as_ref().unwrap().id.as_deref(), Some(cluster.id(new)));
        assert_eq!(shard.replicas[0].id.as_deref(), Some(cluster.id(number)));
    }
    Ok(())
}

#[test]
fn ports_of_tls() -> keyferry_testkit::Result<()> {
    let certs = Certs::generate()?;
    // Older ones tell one port of each node.
    for binary in ["redis-8.0", "valkey-9"].into_iter().filter_map(|name| named(name).ok()) {
        let name = &binary.name;
        let cluster = Cluster::builder(binary).primaries(3).tls(&certs).start()?;
        for (number, node) in cluster.nodes().iter().enumerate() {
            // Of other nodes it knows one port only, unless they speak TLS among them.
            let shards = node.client()?.call(&["CLUSTER", "SHARDS"])?;
            let topology = Topology::from_shards(&shards).unwrap();
            let told = topology.node(cluster.id(number)).unwrap();
            assert_eq!((told.port, told.tls_port), (Some(node.port()), node.tls_port()), "{name}");
            assert_eq!(told.address("x", true), Some(("127.0.0.1", node.tls_port().unwrap())));
        }
    }
    Ok(())
}

#[test]
fn nodes_conf_and_odd_lines() {
    let text = b"a1 :7000@17000,,tls-port=7443,shard-id=s1 myself,master - 0 0 3 connected 0-2 5 [7->-b2] [8-<-b2]\n\
        b2 ::1:7001@17001,name.example.com,tls-port=0,shard-id=s2 master,fail - 0 0 4 disconnected 7-9\n\
        c3 fe80::2:7002@17002 slave,fail? b2 0 0 4 connected\n\
        d4 10.0.0.4:7003 slave b2 0 0 4 connected\n\
        e5 10.0.0.5:7004@17004 handshake - 0 0 0 connected\n\
        f6 :0@0 master,noaddr - 0 0 0 disconnected\n\
        g7 10.0.0.7:7006@17006 slave zz 0 0 0 connected\n\
        vars currentEpoch 4 lastVoteEpoch 0\n";
    let topology = Topology::from_nodes(text).unwrap();
    let [a, b, f] = topology.shards() else { panic!("{:?}", topology.shards()) };
    let primary = a.primary.as_ref().unwrap();
    assert!(primary.is_myself);
    assert_eq!(
        (primary.address("h", false), primary.address("h", true)),
        (Some(("h", 7000)), Some(("h", 7443)))
    );
    assert_eq!((a.id.as_deref(), a.slots.to_string()), (Some("s1"), "0-2,5".to_owned()));
    let primary = b.primary.as_ref().unwrap();
    assert_eq!(primary.address("h", true), Some(("::1", 7001)));
    assert_eq!((primary.hostname.as_deref(), primary.health), (Some("name.example.com"), Health::Failed));
    assert_eq!(
        b.replicas.iter().map(|node| node.address("h", false).unwrap()).collect::<Vec<_>>(),
        [("fe80::2", 7002), ("10.0.0.4", 7003)]
    );
    assert_eq!(b.replicas[0].health, Health::Suspected);
    assert_eq!(f.primary.as_ref().unwrap().address("h", false), None);
    let moves: Vec<_> = topology.moves().iter().map(|m| (m.slot, &*m.from, &*m.to)).collect();
    assert_eq!(moves, [(7, "a1", "b2"), (8, "b2", "a1")]);
    assert_eq!(topology.owner(3), None);
}

#[test]
fn what_is_no_topology_is_refused() {
    for text in [
        "a",
        "a b c d e f g",
        "a x master - 0 0 0 c",
        "a h:1 master - 0 0 0 c 16384",
        "a h:1 master - 0 0 0 c 5-3",
        "a h:1 master - 0 0 0 c 1 1",
        "a h:1 master - 0 0 0 c [1]",
        "a h:1 master - 0 0 0 c [1->-b",
        "a h:1 master - 0 0 0 c -1",
        "a h:99999 master - 0 0 0 c",
        "a h:1 master - 0 0 0 c 1\nb h:2 master - 0 0 0 c 1",
        "a h:1 master - 0 0 0 c\na h:1 master - 0 0 0 c",
        "a h:1,,tls-port=x master - 0 0 0 c",
    ] {
        let error = Topology::from_nodes(text.as_bytes()).map(|_| text).unwrap_err();
        assert!(matches!(error, TopologyError::Malformed { .. } | TopologyError::TwoOwners { .. }), "{text}");
    }
    assert!(Topology::from_nodes(b"\xff").is_err());
    for text in [
        "MOVED",
        "MOVED 1",
        "MOVED 1 h",
        "MOVED x h:1",
        "MOVED 16384 h:1",
        "MOVED 1 h:0",
        "ASK 1 h:70000",
        "ERR 1 h:1",
        "REDIRECT",
    ] {
        assert_eq!(Redirect::parse(&ErrorReply::new(text)), None, "{text}");
    }
    let to_asked = Redirect::parse(&ErrorReply::new("MOVED 1 :7001")).unwrap();
    assert_eq!(to_asked.address("asked"), ("asked", 7001));
    let primary = Redirect::parse(&ErrorReply::new("REDIRECT ::1:7001")).unwrap();
    assert_eq!(
        (primary.kind, primary.slot, primary.address("asked")),
        (RedirectKind::Primary, None, ("::1", 7001))
    );
}

#[test]
fn clusters_of_3_x() {
    // No ids, no metadata, a primary with a hole in its slots.
    let text = "*3\r\n*3\r\n:0\r\n:1\r\n*2\r\n$1\r\nh\r\n:1\r\n*4\r\n:2\r\n:2\r\n*2\r\n$1\r\nh\r\n:2\r\n*2\r\n$1\r\nr\r\n:3\r\n*3\r\n:3\r\n:3\r\n*2\r\n$1\r\nh\r\n:1\r\n";
    let reply = Decoder::new().decode(&mut BytesMut::from(text)).unwrap().unwrap();
    let topology = Topology::from_slots(&reply).unwrap();
    let shards: Vec<_> = topology.shards().iter().map(|s| (s.slots.to_string(), s.replicas.len())).collect();
    assert_eq!(shards, [("0-1,3".to_owned(), 0), ("2".to_owned(), 1)]);
}

/// Frames of the names and shapes that the replies have, put together at random.
fn any_reply() -> impl Strategy<Value = Frame> {
    let leaf = prop_oneof![
        Just(Frame::Null(keyferry_resp::Null::Bulk)),
        (-3i64..16_500).prop_map(Frame::Integer),
        any::<i64>().prop_map(Frame::Integer),
        prop::sample::select(vec![
            "slots",
            "nodes",
            "id",
            "port",
            "tls-port",
            "ip",
            "endpoint",
            "hostname",
            "role",
            "master",
            "replica",
            "health",
            "?",
            "",
            "x",
            "127.0.0.1",
            "7000",
            "16384"
        ])
        .prop_map(|text| Frame::Bulk(text.into())),
        Just(Frame::Bulk(bytes::Bytes::from_static(b"\xff"))),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Frame::Array),
            prop::collection::vec((inner.clone(), inner), 0..4).prop_map(Frame::Map),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_replies_are_read_or_refused(reply in any_reply()) {
        for topology in [Topology::from_slots(&reply), Topology::from_shards(&reply)].into_iter().flatten() {
            let served: usize = topology.shards().iter().map(|shard| shard.slots.len()).sum();
            prop_assert_eq!(served + topology.unserved().len(), usize::from(SLOTS));
        }
    }

    #[test]
    fn hostile_lines_are_read_or_refused(text in "([a1:@,=\\[\\]<> -]|master|slave|myself|tls-port|0-5|\n){0,40}") {
        let _ = Topology::from_nodes(text.as_bytes());
    }

    #[test]
    fn hostile_redirections_are_read_or_refused(text in "(MOVED|ASK|REDIRECT)[ :0-9a.-]{0,20}") {
        let _ = Redirect::parse(&ErrorReply::new(text));
    }
}
