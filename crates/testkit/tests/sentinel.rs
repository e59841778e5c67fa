//! Real sentinels: they agree, fail over when told to, and when the primary dies.

use keyferry_testkit::{Sentinels, ServerBinary, Vendor, all, any};

type Result<T = ()> = keyferry_testkit::Result<T>;

fn fail_over_twice(binary: &ServerBinary) -> Result {
    let mut group =
        Sentinels::builder(binary).replicas(2).service("ferry").password("of the servers").start()?;
    assert_eq!((group.primary()?, group.sentinels().len(), group.servers().len()), (0, 3, 3));
    let url = group.url();
    assert!(url.starts_with("redis+sentinel://:of%20the%20servers@127.0.0.1:"), "{url}");
    assert!(url.ends_with("/ferry") && url.matches(',').count() == 2, "{url}");
    group.server(0).client()?.call(&["SET", "a", "1"])?;
    group.server(0).client()?.int(&["WAIT", "2", "5000"])?;

    let second = group.failover()?;
    assert_ne!(second, 0, "{binary}");
    let role = group.server(second).client()?.info("replication", "role")?;
    assert_eq!(role.as_deref(), Some("master"));
    group.wait_until_settled()?;

    group.server(second).client()?.call(&["SET", "b", "2"])?;
    group.server(second).client()?.int(&["WAIT", "2", "5000"])?;
    let third = group.kill_primary()?;
    assert_ne!(third, second);
    let mut client = group.server(third).client()?;
    assert_eq!((client.text(&["GET", "a"])?, client.text(&["GET", "b"])?), ("1".to_owned(), "2".to_owned()));
    Ok(())
}

#[test]
fn sentinels_fail_over() -> Result {
    let valkey = all()?.iter().filter(|b| b.vendor == Vendor::Valkey).max_by_key(|b| b.version);
    std::thread::scope(|scope| {
        let binaries = valkey.into_iter().chain([any()?]);
        let runs: Vec<_> = binaries.map(|binary| scope.spawn(|| fail_over_twice(binary))).collect();
        runs.into_iter().try_for_each(|run| run.join().unwrap())
    })
}

#[test]
fn one_sentinel_with_a_password() -> Result {
    let group = Sentinels::builder(any()?).sentinels(1).sentinel_password("secret").start()?;
    assert_eq!(group.master_addr()?, group.server(0).addr().to_string());
    assert_eq!(group.failover()?, 1);
    Ok(())
}
