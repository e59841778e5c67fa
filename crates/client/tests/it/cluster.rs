//! Clusters: all nodes found from one, whatever the server's version, with TLS, passwords, moving slots and failovers.

use std::time::Duration;

use keyferry_client::{Address, Backoff, ClusterOptions, Connection, Endpoint, Error, cluster};
use keyferry_routing::slot;
use keyferry_testkit::{Certs, Cluster, MoveStep, Proxy, Server, ServerBinary, all, any, unused_port};

use crate::peer::peer;

fn options(url: &str) -> ClusterOptions {
    match url.parse() {
        Ok(Endpoint::Cluster(options)) => options,
        other => panic!("{url}: {other:?}"),
    }
}

fn address(server: &Server) -> Address {
    Address::tcp("127.0.0.1", server.port())
}

async fn finds_all_nodes(binary: &ServerBinary) {
    let odd: [&[_]; 3] = [&[0..=99, 9000..=9000], &[100..=8999], &[9001..=16383]];
    let cluster = Cluster::builder(binary).slots(&odd).replicas(1).start().unwrap();
    let primary = cluster.node(1).port();
    // From a primary, and from a replica.
    for seed in [primary, cluster.node(4).port()] {
        let found = cluster::discover(&options(&format!("redis+cluster://127.0.0.1:{seed}"))).await.unwrap();
        let topology = found.topology();
        assert_eq!((topology.shards().len(), topology.unserved().len()), (3, 0), "{binary}");
        assert_eq!(found.asked(), &Address::tcp("127.0.0.1", seed));
        for (number, expected) in odd.iter().enumerate() {
            let shard = topology.shard(*expected[0].start()).unwrap();
            let ranges: Vec<_> = shard.slots.ranges().map(|(first, last)| first..=last).collect();
            assert_eq!(ranges, *expected, "{binary}");
            let owner = shard.primary.as_ref().unwrap();
            assert_eq!(found.node(owner).unwrap().address(), &address(cluster.node(number)), "{binary}");
            assert_eq!(owner.id.as_deref(), Some(cluster.id(number)), "{binary}");
            let replicas: Vec<_> = shard.replicas.iter().filter_map(|node| node.id.as_deref()).collect();
            assert_eq!(replicas, [cluster.id(number + 3)], "{binary}");
        }
        assert_eq!(found.primaries().count(), 3);
        assert_eq!(found.moves().await.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_of_any_version_leads_to_all() {
    let runs: Vec<_> = all().unwrap().iter().map(|binary| tokio::spawn(finds_all_nodes(binary))).collect();
    for run in runs {
        run.await.unwrap();
    }
}

#[tokio::test]
async fn tls_and_passwords() {
    let certs = Certs::generate().unwrap();
    let cluster = Cluster::builder(any().unwrap())
        .password("s3cret,@")
        .user("mover", "on >m0ver ~* &* +@all")
        .tls(&certs)
        .start()
        .unwrap();
    let url = format!("{}?ca={}", cluster.tls_url().unwrap(), certs.ca.display());
    let as_user = url.replace(":s3cret%2C%40@", "mover:m0ver@");
    assert_ne!(url, as_user);
    for url in [url, as_user] {
        let found = cluster::discover(&options(&url)).await.unwrap();
        let owner = found.node(found.topology().owner(slot(b"foo")).unwrap()).unwrap();
        assert_eq!(owner.address(), &Address::tcp("127.0.0.1", cluster.node(2).tls_port().unwrap()));
        let mut connection = Connection::connect(&owner).await.unwrap();
        connection.call(["SET", "foo", "1"]).await.unwrap();
        assert_eq!(found.primaries().count(), 3);
        assert!(!format!("{found:?}").contains("cret") && !format!("{found:?}").contains("m0ver"));
    }
    // The ports without TLS, asked without TLS.
    let found = cluster::discover(&options(&cluster.url())).await.unwrap();
    let plain: Vec<Address> = cluster.nodes().iter().map(address).collect();
    assert!(
        found.primaries().count() == 3 && found.primaries().all(|primary| plain.contains(primary.address()))
    );
    // Slots move within a cluster that speaks TLS inside, too.
    cluster.move_slots(12182..=12182, 0).unwrap();
    assert_eq!(cluster.client().unwrap().call(&["GET", "foo"]).unwrap().as_str(), Some("1"));
    let error = cluster::discover(&options(&cluster.url().replace("s3cret", "wr0ng"))).await.unwrap_err();
    assert!(!error.is_retryable() && error.to_string().contains("WRONGPASS"), "{error}");
    assert!(!error.to_string().contains("wr0ng"));
}

#[tokio::test]
async fn seeds_that_do_not_help() {
    let cluster = Cluster::builder(any().unwrap()).primaries(2).start().unwrap();
    let (alone, stranger) =
        (Server::any().unwrap(), Server::builder(any().unwrap()).cluster().start().unwrap());
    let dead = unused_port().unwrap();
    let url = |ports: &[u16]| {
        let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        options(&format!("redis+cluster://{}", hosts.join(",")))
    };
    let seeds = url(&[dead, alone.port(), stranger.port(), cluster.node(1).port()]);
    let found = cluster::discover(&seeds).await.unwrap();
    assert_eq!(found.asked(), &address(cluster.node(1)));
    let error = cluster::discover(&url(&[alone.port()])).await.unwrap_err();
    assert!(error.to_string().contains("cluster support disabled") && !error.is_retryable(), "{error}");
    let error = cluster::discover(&url(&[dead, stranger.port()])).await.unwrap_err();
    assert!(matches!(error, Error::NoTopology { passing: true, .. }), "{error}");
    assert!(error.to_string().contains("cannot connect to 127.0.0.1:"), "{error}");
    assert!(error.to_string().contains("knows no node that serves a slot"), "{error}");
    // A cluster with holes is taken as it is, unless it shall be whole.
    let holes = Cluster::builder(any().unwrap())
        .slots(&[&[0..=99], &[200..=16383]])
        .config("cluster-require-full-coverage", "no")
        .start()
        .unwrap();
    let seeds = url(&[holes.node(0).port()]);
    let found = cluster::discover(&seeds).await.unwrap();
    assert_eq!(found.topology().unserved().ranges().collect::<Vec<_>>(), [(100, 199)]);
    let backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(50));
    let error = cluster::discover_within(&seeds, Duration::from_millis(300), backoff).await.unwrap_err();
    assert!(error.to_string().contains("knows no owner of 100 slots"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moving_slots_and_lost_primaries() {
    let mut cluster = Cluster::builder(any().unwrap()).replicas(1).start().unwrap();
    let options = options(&cluster.url());
    let wanted = slot(b"foo");
    let to = 0;
    cluster.client().unwrap().call(&["SET", "foo", "1"]).unwrap();
    let half_way = cluster.move_slots_with(wanted..=wanted, to, 1, |step| match step {
        MoveStep::Opened(_) => Err(keyferry_testkit::Error::Thread("stopped")),
        _ => Ok(()),
    });
    assert!(half_way.is_err());
    let found = cluster::discover(&options).await.unwrap();
    let moves = found.moves().await.unwrap();
    assert_eq!(moves.len(), 1);
    assert_eq!((moves[0].slot, &*moves[0].from, &*moves[0].to), (wanted, cluster.id(2), cluster.id(0)));
    cluster.move_slots(wanted..=wanted, to).unwrap();
    assert_eq!(found.moves().await.unwrap(), []);
    let found = cluster::discover(&options).await.unwrap();
    assert_eq!(found.topology().owner(wanted).unwrap().id.as_deref(), Some(cluster.id(0)));

    cluster.wait_until_settled().unwrap();
    let promoted = cluster.kill(0).unwrap();
    let found =
        cluster::discover_within(&options, Duration::from_secs(60), Backoff::default()).await.unwrap();
    assert_eq!(found.topology().owner(wanted).unwrap().id.as_deref(), Some(cluster.id(promoted)));
    for primary in found.primaries() {
        Connection::connect(&primary).await.unwrap();
    }
}

#[tokio::test]
async fn nodes_behind_other_addresses() {
    let cluster = Cluster::builder(any().unwrap()).primaries(2).start().unwrap();
    let proxies = [0, 1].map(|i| Proxy::start(cluster.node(i).addr()).unwrap());
    let map: Vec<String> =
        (0..2).map(|i| format!("{}={}", cluster.node(i).addr(), proxies[i].addr())).collect();
    let url = format!("redis+cluster://{}?address-map={}", proxies[0].addr(), map.join(","));
    let found = cluster::discover(&options(&url)).await.unwrap();
    let mut reached: Vec<String> = found.primaries().map(|primary| primary.address().to_string()).collect();
    let mut expected: Vec<String> = proxies.iter().map(|proxy| proxy.addr().to_string()).collect();
    reached.sort();
    expected.sort();
    assert_eq!(reached, expected);
    // A redirection names the address inside.
    let seed = found.options().node().clone();
    let mut connection = Connection::connect(&seed).await.unwrap();
    let reply = connection.call_frame(["GET", "foo"]).await.unwrap();
    let redirect = keyferry_routing::Redirect::parse(&reply.error_reply().unwrap()).unwrap();
    assert_eq!(found.redirected(&redirect).address().to_string(), proxies[1].addr().to_string());
}

/// Seen at a server of 7.3 after a takeover: the replica is filed under a shard of its own, and its slots are in no shard.
#[tokio::test]
async fn slots_that_are_missing_in_the_shards_are_sought_elsewhere() {
    let node = |host: &str| {
        format!(
            "*14\r\n$2\r\nid\r\n$40\r\n{}\r\n$4\r\nport\r\n:7000\r\n$2\r\nip\r\n$9\r\n127.0.0.{host}\r\n\
             $8\r\nendpoint\r\n$9\r\n127.0.0.{host}\r\n$4\r\nrole\r\n$6\r\nmaster\r\n\
             $18\r\nreplication-offset\r\n:1\r\n$6\r\nhealth\r\n$6\r\nonline\r\n",
            host.repeat(40)
        )
    };
    let shard =
        |slots: &str, host: &str| format!("*4\r\n$5\r\nslots\r\n{slots}$5\r\nnodes\r\n*1\r\n{}", node(host));
    let shards = format!("*2\r\n{}{}", shard("*2\r\n:0\r\n:99\r\n", "1"), shard("*0\r\n", "2"));
    let owner = |host: &str| format!("*3\r\n$9\r\n127.0.0.{host}\r\n:7000\r\n$40\r\n{}\r\n", host.repeat(40));
    let slots = format!("*2\r\n*3\r\n:0\r\n:99\r\n{}*3\r\n:100\r\n:16383\r\n{}", owner("1"), owner("2"));
    let node = peer(move |mut script| {
        let (shards, slots) = (shards.clone(), slots.clone());
        async move {
            script.greet().await;
            script.answer(&shards).await;
            script.answer(&slots).await;
            script.stay().await;
        }
    })
    .await;
    let found = cluster::discover(&options(&format!("redis+cluster://{}", node.address()))).await.unwrap();
    assert!(found.topology().unserved().is_empty());
    assert_eq!(found.topology().owner(100).unwrap().host.as_deref(), Some("127.0.0.2"));
}
