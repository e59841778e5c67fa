//! Servers that cannot be reached or used at all, and those that can.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use keyferry_migrate::precheck::{Item, Verdict};
use keyferry_testkit::{Certs, Proxy, Server};

use crate::support::{any, expect, look, says, start};

/// Fresh servers of every version pass everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fresh_servers_of_every_version_pass() {
    for binary in keyferry_testkit::all().unwrap() {
        let (source, target) = (start(binary), start(binary));
        source.client().unwrap().call(&["SET", "key", "value"]).unwrap();
        let report = look(source.url(), target.url()).await;
        // A machine that is busy takes its time to answer.
        let judged = report.findings.iter().filter(|finding| finding.item != Item::Latency);
        let worst: Vec<_> = judged.filter(|finding| finding.verdict != Verdict::Pass).collect();
        assert!(worst.is_empty(), "{}: {worst:#?}", binary.name);
        assert_ne!(report.verdict, Verdict::Fail);
        let estimates = report.estimates.as_ref().unwrap();
        assert_eq!(estimates.keys, 1);
        assert!(estimates.bytes > 0 && estimates.seconds < 60.0, "{estimates:?}");
        // A cluster's item, and those that take long.
        let left_out: Vec<&str> = report.left_out.iter().map(|item| item.name()).collect();
        assert_eq!(left_out, ["slots", "losses", "heartbeat-keys", "big-keys"]);

        // Nothing was changed: no replica, no key, no write.
        let mut client = source.client().unwrap();
        assert_eq!(client.info("replication", "connected_slaves").unwrap().as_deref(), Some("0"));
        assert_eq!(client.info("stats", "sync_full").unwrap().as_deref(), Some("0"));
        assert_eq!(target.client().unwrap().int(&["DBSIZE"]).unwrap(), 0);
        for command in ["cmdstat_set", "cmdstat_restore", "cmdstat_flushall"] {
            assert_eq!(
                target.client().unwrap().info("commandstats", command).unwrap(),
                None,
                "{}",
                binary.name
            );
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_and_nothing_else_guessed() {
    let target = any();
    let port = keyferry_testkit::unused_port().unwrap();
    let report = look(&format!("redis://127.0.0.1:{port}"), target.url()).await;
    let finding = expect(&report, Item::Reachable, Verdict::Fail);
    says(&finding, &format!("source: cannot connect to 127.0.0.1:{port}"));
    says(&finding, &format!("target {}", target.addr()));
    assert!(report.of(Item::Memory).is_none() && report.left_out.contains(&Item::Memory));
    assert_eq!(report.verdict, Verdict::Fail);
}

#[tokio::test]
async fn a_wrong_password_is_told_from_a_wrong_address() {
    let source = any();
    let target = Server::builder(keyferry_testkit::any().unwrap()).password("secret").start().unwrap();
    let wrong = format!("redis://:mistaken@{}", target.addr());
    let report = look(source.url(), &wrong).await;
    let finding = expect(&report, Item::Credentials, Verdict::Fail);
    says(&finding, "target: ");
    expect(&report, Item::Reachable, Verdict::Pass);
    let shown = format!("{report} {report:?}");
    assert!(!shown.contains("mistaken") && !shown.contains("secret"), "{shown}");

    let report = look(source.url(), target.url()).await;
    expect(&report, Item::Credentials, Verdict::Pass);
    assert!(!format!("{report} {report:?}").contains("secret"));
}

#[tokio::test]
async fn replicas_are_no_targets_and_lonely_ones_no_sources() {
    let (source, target) = (any(), any());
    let port = target.port().to_string();
    let mut client = source.client().unwrap();
    client.call(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
    let linked = client.wait_until(Duration::from_secs(120), |client| {
        Ok(client.info("replication", "master_link_status")?.as_deref() == Some("up"))
    });
    assert!(linked.unwrap());
    // As a target it is a replica; and both are one replication.
    let report = look(target.url(), source.url()).await;
    says(&expect(&report, Item::Roles, Verdict::Fail), "is a replica");
    says(&expect(&report, Item::SameServer, Verdict::Fail), "are of one replication");
    // A replica may be a source, one that has lost its primary may not.
    let other = any();
    expect(&look(source.url(), other.url()).await, Item::Roles, Verdict::Pass);
    let nobody = keyferry_testkit::unused_port().unwrap().to_string();
    client.call(&["REPLICAOF", "127.0.0.1", &nobody]).unwrap();
    let report = look(source.url(), other.url()).await;
    says(&expect(&report, Item::Roles, Verdict::Fail), "has lost its primary");
    expect(&report, Item::SameServer, Verdict::Pass);

    let report = look(other.url(), other.url()).await;
    says(&expect(&report, Item::SameServer, Verdict::Fail), "are one server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_way_is_noticed() {
    let (source, target) = (any(), any());
    let proxy = Proxy::start(target.addr()).unwrap();
    proxy.delay(Duration::from_millis(15));
    let report = look(source.url(), &format!("redis://{}", proxy.addr())).await;
    says(&expect(&report, Item::Latency, Verdict::Warn), "ms for a PING");
    // A slow answer is no wrong clock.
    expect(&report, Item::Clock, Verdict::Pass);
}

#[tokio::test]
async fn unverified_encryption_is_noticed() {
    let binary = keyferry_testkit::any().unwrap();
    let certs = Certs::generate().unwrap();
    let source = any();
    let target = Server::builder(binary).tls(&certs).start().unwrap();
    let Some(url) = target.tls_url() else { return };
    let verified = format!("{url}?ca={}", certs.ca.display());
    let report = look(source.url(), &verified).await;
    says(&expect(&report, Item::Tls, Verdict::Pass), "TLS, verified");
    let report = look(source.url(), &format!("{url}?insecure=true")).await;
    says(&expect(&report, Item::Tls, Verdict::Warn), "any certificate is taken");
}

/// A server whose clock is an hour ahead: its answers to TIME are changed on the way.
fn ahead(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let upstream = TcpStream::connect(server).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || change_times(upstream, client));
        }
    });
    address
}

/// An answer to TIME comes alone: two strings, the seconds in ten digits.
fn change_times(mut from: TcpStream, mut to: TcpStream) {
    const HEAD: &[u8] = b"*2\r\n$10\r\n";
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = &mut buffer[..count];
        if let Some(digits) = bytes.strip_prefix(HEAD).and_then(|rest| rest.get(..10))
            && let Ok(seconds) = std::str::from_utf8(digits).unwrap_or_default().parse::<u64>()
        {
            bytes[HEAD.len()..HEAD.len() + 10].copy_from_slice((seconds + 3600).to_string().as_bytes());
        }
        if to.write_all(bytes).is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_differ_are_noticed() {
    let (source, target) = (any(), any());
    let report = look(source.url(), &format!("redis://{}", ahead(target.addr()))).await;
    let finding = expect(&report, Item::Clock, Verdict::Fail);
    says(&finding, "s ahead of source");
    says(&finding, "keys expire too early there");
    expect(&look(source.url(), target.url()).await, Item::Clock, Verdict::Pass);
}
