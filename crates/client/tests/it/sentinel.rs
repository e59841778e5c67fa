//! Sentinels: the primary found, followed through failovers, and every reason told when there is none.

use std::time::{Duration, Instant};

use keyferry_client::{
    Address, Backoff, ConnectOptions, Connection, Endpoint, Error, Secret, SentinelOptions, sentinel,
};
use keyferry_testkit::{Certs, Sentinels, ServerBinary, Vendor, all, any, unused_port};

fn options(url: &str) -> SentinelOptions {
    match url.parse() {
        Ok(Endpoint::Sentinel(options)) => *options,
        other => panic!("{url}: {other:?}"),
    }
}

/// Longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(60);

fn quick() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_millis(200))
}

async fn follows(binary: &ServerBinary) {
    let mut group = Sentinels::builder(binary).replicas(2).password("d4ta").start().unwrap();
    let mut options = options(&group.url());
    let primary = sentinel::primary(&options).await.unwrap();
    assert_eq!(primary.address().to_string(), group.server(0).addr().to_string(), "{binary}");
    let mut connection = Connection::connect(&primary).await.unwrap();
    connection.call(["SET", "a", "1"]).await.unwrap();
    let replicas = sentinel::replicas(&options).await.unwrap();
    let mut ports: Vec<String> = replicas.iter().map(|replica| replica.address().to_string()).collect();
    ports.sort();
    let mut expected: Vec<String> = (1..3).map(|i| group.server(i).addr().to_string()).collect();
    expected.sort();
    assert_eq!(ports, expected, "{binary}");

    // A sentinel that is gone is passed over.
    let first = options.sentinels()[0].clone();
    let gone = Address::tcp("127.0.0.1", unused_port().unwrap());
    options = SentinelOptions::new(
        options.sentinel().clone().with_address(gone),
        "mymaster",
        options.server().clone(),
    )
    .with_sentinel(first);
    assert_eq!(sentinel::primary(&options).await.unwrap().address(), primary.address());

    // The primary dies: somebody is waiting for the next one, somebody else is told.
    let mut watch = sentinel::Watch::subscribe(&options).await.unwrap();
    let old = primary.address().clone();
    let killed = tokio::task::spawn_blocking(move || {
        let promoted = group.kill_primary().unwrap();
        (group, promoted)
    });
    let switch = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    let (group, promoted) = killed.await.unwrap();
    let new = Address::tcp("127.0.0.1", group.server(promoted).port());
    assert_eq!((switch.from, switch.to), (old, new.clone()), "{binary}");
    let primary = sentinel::primary_within(&options, PATIENCE, quick()).await.unwrap();
    assert_eq!(primary.address(), &new);
    let value = Connection::connect(&primary).await.unwrap().call(["GET", "a"]).await.unwrap();
    assert_eq!(value.as_str(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_followed() {
    let newest = all().unwrap().iter().filter(|b| b.vendor == Vendor::Valkey).max_by_key(|b| b.version);
    let oldest = all().unwrap().iter().min_by_key(|b| b.version);
    let mut binaries: Vec<_> = newest.into_iter().chain(oldest).chain([any().unwrap()]).collect();
    binaries.dedup();
    let runs: Vec<_> = binaries.into_iter().map(|binary| tokio::spawn(follows(binary))).collect();
    for run in runs {
        run.await.unwrap();
    }
}

#[tokio::test]
async fn passwords_of_the_sentinels_and_tls() {
    let certs = Certs::generate().unwrap();
    let group = Sentinels::builder(any().unwrap())
        .sentinels(1)
        .password("d4ta")
        .sentinel_password("s3ntinel")
        .tls(&certs)
        .start()
        .unwrap();
    // Without the password of the sentinel nothing is to be had, and waiting does not help.
    let bare = options(&group.url());
    let start = Instant::now();
    let error = sentinel::primary_within(&bare, Duration::from_secs(30), quick()).await.unwrap_err();
    assert!(matches!(&error, Error::NoPrimary { passing: false, .. }), "{error}");
    assert!(error.to_string().contains("NOAUTH") && start.elapsed() < Duration::from_secs(25), "{error}");
    assert!(sentinel::Watch::subscribe(&bare).await.unwrap_err().to_string().contains("NOAUTH"));

    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "s3ntinel").unwrap();
    let with_password = format!("{}?sentinel-password-file={}", group.url(), password.path().display());
    let primary = sentinel::primary(&options(&with_password)).await.unwrap();
    assert_eq!(primary.address().to_string(), group.server(0).addr().to_string());

    // TLS to both; the sentinels announce the port without it, which the map puts right.
    let (server, watcher) = (group.server(0), &group.sentinels()[0]);
    let url = format!(
        "rediss+sentinel://:d4ta@127.0.0.1:{}/mymaster?ca={}&sentinel-password-file={}&address-map=127.0.0.1:{}=127.0.0.1:{}",
        watcher.tls_port().unwrap(),
        certs.ca.display(),
        password.path().display(),
        server.port(),
        server.tls_port().unwrap(),
    );
    let primary = sentinel::primary(&options(&url)).await.unwrap();
    assert_eq!(primary.address(), &Address::tcp("127.0.0.1", server.tls_port().unwrap()));
    assert!(Connection::connect(&primary).await.unwrap().call(["PING"]).await.is_ok());
    // TLS to the sentinel only.
    let url = format!(
        "redis+sentinel://:d4ta@127.0.0.1:{}/mymaster?sentinel-tls=true&ca={}&sentinel-password-file={}",
        watcher.tls_port().unwrap(),
        certs.ca.display(),
        password.path().display(),
    );
    assert_eq!(
        sentinel::primary(&options(&url)).await.unwrap().address().to_string(),
        server.addr().to_string()
    );

    // A name that nobody knows, a sentinel that is none, a primary that is none.
    let wrong = with_password.replace("/mymaster", "/other");
    let error = sentinel::primary(&options(&wrong)).await.unwrap_err();
    assert!(error.to_string().contains("service \"other\"") && !error.is_retryable(), "{error}");
    assert!(error.to_string().contains("does not know that name"), "{error}");
    let error = sentinel::replicas(&options(&wrong)).await.unwrap_err();
    assert!(error.to_string().contains("does not know that name"), "{error}");
    let plain = ConnectOptions::tcp("127.0.0.1", server.port()).with_password(Secret::new("d4ta"));
    let none = SentinelOptions::new(plain.clone(), "mymaster", plain);
    let error = sentinel::primary(&none).await.unwrap_err();
    assert!(error.to_string().contains("unknown command"), "{error}");
    let (primary, replica) = (group.server(0), group.server(1));
    let stale = options(&format!(
        "{with_password}&address-map=127.0.0.1:{}=127.0.0.1:{}",
        primary.port(),
        replica.port()
    ));
    let error = sentinel::primary(&stale).await.unwrap_err();
    assert!(error.to_string().contains("which is no primary") && error.is_retryable(), "{error}");
}
