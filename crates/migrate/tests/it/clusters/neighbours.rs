//! Several migrations into one cluster.

use keyferry_migrate::{Options, Phase, Until};
use keyferry_testkit::any;

use super::ends::End;
use crate::support::{PATIENCE, Running, offset_of, run, start};

/// One that ends takes with it what the cluster keeps of it, and nothing of the other one, which goes on where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_ends_leaves_what_is_kept_of_others() {
    let target = End::cluster(any().unwrap(), 0);
    let (one, other) = (start(any().unwrap()), start(any().unwrap()));
    let (mut client, mut others) = (one.client().unwrap(), other.client().unwrap());
    let id = |name: &'static str| move |o: &mut Options| o.id = Some(name.to_owned());
    for n in 0..200 {
        client.call(&["INCR", &format!("one:{n}")]).unwrap();
        others.call(&["INCR", &format!("other:{n}")]).unwrap();
    }
    let mut running = Running::start(&one.url(), &target.url(), id("one"));
    running.until_phase(Phase::Following).await;
    for n in 0..200 {
        client.call(&["INCR", &format!("one:{n}")]).unwrap();
    }
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    assert!(running.end().await.result.is_ok());
    let kept = || {
        let mut fields: Vec<String> = Vec::new();
        let End::Cluster(cluster) = &target else { unreachable!() };
        for at in 0..3 {
            let mut node = cluster.node(at).client().unwrap();
            let keys = node.call(&["KEYS", "keyferry:*"]).unwrap();
            for key in keys.as_array().unwrap().iter().filter_map(|key| key.as_str()) {
                let reply = node.call_raw(&["HKEYS", key]).unwrap();
                let names = reply.as_array().into_iter().flatten().filter_map(|field| field.as_str());
                fields.extend(names.map(str::to_owned));
            }
        }
        fields
    };
    let before = kept().iter().filter(|field| field.starts_with("one:")).count();
    assert!(before > 100, "{before}");

    let finished = run(&other.url(), &target.url(), |o| {
        id("other")(o);
        o.until = Until::CaughtUp { quiet: std::time::Duration::ZERO, linger: PATIENCE };
    })
    .await;
    assert!(finished.result.is_ok(), "{:?}", finished.result);
    let fields = kept();
    assert_eq!(fields.iter().filter(|field| field.starts_with("one:")).count(), before);
    assert_eq!(fields.iter().filter(|field| field.starts_with("other:")).count(), 0, "{fields:?}");

    for n in 0..200 {
        client.call(&["INCR", &format!("one:{n}")]).unwrap();
    }
    let mut running = Running::start(&one.url(), &target.url(), id("one"));
    running.until_phase(Phase::Following).await;
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    let finished = running.end().await;
    assert!(finished.result.is_ok() && finished.report.resumed, "{:?}", finished.result);
    let End::Cluster(cluster) = &target else { unreachable!() };
    let mut there = cluster.client().unwrap();
    for n in 0..200 {
        assert_eq!(there.call(&["GET", &format!("one:{n}")]).unwrap().as_str(), Some("3"));
        assert_eq!(there.call(&["GET", &format!("other:{n}")]).unwrap().as_str(), Some("1"));
    }
}
