//! What is there already stays as it is.

use keyferry_compat::{Baseline, Database, Error, Needs, RunOptions, Scratch, Suite, Target};
use keyferry_testkit::{Cluster, Server, any, data, digest};

use crate::{assert_passed, everything, groups, run, wait};

fn filled() -> Server {
    let server = Server::any().unwrap();
    data::small(&mut server.client().unwrap(), 5, 3).unwrap();
    server
}

#[test]
fn other_keys_are_not_touched() {
    let server = filled();
    let before = digest(&mut server.client().unwrap()).unwrap();
    // All that may be allowed on a server with data: everything but flushing.
    let mut options = everything();
    options.allow = options.allow.without(Needs::FLUSH);
    let report = wait(run(&Suite::builtin().unwrap(), &server.url(), &options));
    assert_passed(&report);
    assert_eq!(digest(&mut server.client().unwrap()).unwrap(), before);
    // In the same database as the others, below the prefix.
    let shared = Scratch { database: Database::Shared, ..Scratch::default() };
    let suite = groups(&["string", "generic", "stream", "dump-restore", "config", "acl"]);
    let report = wait(async {
        let target = Target::find(server.url().parse().unwrap(), &shared).await.unwrap();
        keyferry_compat::run(&suite, &target, &options, &Baseline::builtin().unwrap()).await
    });
    assert_passed(&report);
    assert!(report.counts().skipped > 20, "{:?}", report.counts());
    assert_eq!(digest(&mut server.client().unwrap()).unwrap(), before);
}

#[test]
fn settings_users_and_functions_are_as_before() {
    let server = filled();
    let mut client = server.client().unwrap();
    let state = |client: &mut keyferry_testkit::Client| {
        let settings = client.list(&["CONFIG", "GET", "*"]).unwrap();
        let mut pairs: Vec<String> = settings.chunks(2).map(|pair| format!("{pair:?}")).collect();
        pairs.sort();
        let users = client.list(&["ACL", "LIST"]).unwrap();
        let libraries = client.call_raw(&["FUNCTION", "LIST"]).unwrap();
        (pairs, users, libraries)
    };
    let before = state(&mut client);
    let mut options = everything();
    options.allow = options.allow.without(Needs::FLUSH);
    let report = wait(run(
        &groups(&["acl", "config", "functions", "notifications", "server"]),
        &server.url(),
        &options,
    ));
    assert_passed(&report);
    assert_eq!(state(&mut client), before);
}

#[test]
fn read_only_changes_nothing() {
    let server = filled();
    let mut client = server.client().unwrap();
    let before = digest(&mut client).unwrap();
    let changes = client.info("persistence", "rdb_changes_since_last_save").unwrap();
    let options = RunOptions { read_only: true, ..RunOptions::default() };
    // Also where the database has keys: nothing is written there.
    client.call(&["SELECT", "15"]).unwrap();
    client.call(&["SET", "mine", "1"]).unwrap();
    let changes_now = client.info("persistence", "rdb_changes_since_last_save").unwrap();
    assert_ne!(changes, changes_now);
    let report = wait(async {
        let target = Target::look(server.url().parse().unwrap(), &Scratch::default()).await.unwrap();
        keyferry_compat::run(&Suite::builtin().unwrap(), &target, &options, &Baseline::builtin().unwrap())
            .await
    });
    assert_passed(&report);
    assert!(report.counts().passed > 50, "{:?}", report.counts());
    assert_eq!(client.info("persistence", "rdb_changes_since_last_save").unwrap(), changes_now);
    client.call(&["DEL", "mine"]).unwrap();
    assert_eq!(digest(&mut client).unwrap(), before);
}

#[test]
fn what_is_not_allowed_is_not_run() {
    let server = Server::any().unwrap();
    let options = RunOptions { allow: Needs::NONE, ..RunOptions::default() };
    let report = wait(run(&groups(&["scripting", "pubsub", "acl", "generic"]), &server.url(), &options));
    assert_passed(&report);
    for need in ["scripting", "pubsub", "admin", "flush"] {
        let reason = |result: &keyferry_compat::CaseResult| format!("{:?}", result.outcome);
        assert!(
            report.results.iter().any(|result| reason(result).contains(&format!("needs {need}"))),
            "{need}"
        );
    }
    let info = server.client().unwrap().info("commandstats", "cmdstat_eval").unwrap();
    assert_eq!(info, None);
}

#[test]
fn places_with_keys_are_refused() {
    let server = Server::any().unwrap();
    let mut client = server.client().unwrap();
    client.call(&["SET", "keyferry:compat:foreign", "1"]).unwrap();
    client.call(&["SELECT", "15"]).unwrap();
    client.call(&["SET", "other", "1"]).unwrap();
    let find = |scratch: Scratch| wait(Target::find(server.url().parse().unwrap(), &scratch));
    let refused = find(Scratch::default()).unwrap_err();
    assert!(
        matches!(&refused, Error::Occupied { keys: 1, place, .. } if place == "database 15"),
        "{refused}"
    );
    let shared = Scratch { database: Database::Shared, ..Scratch::default() };
    assert!(matches!(find(shared).unwrap_err(), Error::Occupied { keys: 1, .. }));
    // Another database, another prefix.
    assert!(find(Scratch { database: Database::Number(14), ..Scratch::default() }).is_ok());
    assert!(find(Scratch { database: Database::Shared, prefix: "elsewhere:".to_owned() }).is_ok());
    assert!(matches!(
        find(Scratch { database: Database::Number(99), ..Scratch::default() }),
        Err(Error::Client(_))
    ));
    // The prefix is a text, not a pattern; and what decides about slots is ours.
    assert!(find(Scratch { database: Database::Shared, prefix: "*".to_owned() }).is_ok());
    assert!(matches!(
        find(Scratch { prefix: "a{b}".to_owned(), ..Scratch::default() }),
        Err(Error::Format { .. })
    ));
}

#[test]
fn clusters_are_looked_through_at_every_node() {
    let cluster = Cluster::builder(any().unwrap()).primaries(3).start().unwrap();
    let mut client = cluster.client().unwrap();
    for n in 0..20 {
        client.call(&["SET".to_owned(), format!("keyferry:compat:{n}"), "1".to_owned()]).unwrap();
    }
    let found = wait(Target::find(cluster.url().parse().unwrap(), &Scratch::default()));
    assert!(matches!(found, Err(Error::Occupied { keys: 20, .. })));
}
