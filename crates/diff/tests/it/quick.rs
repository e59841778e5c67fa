//! What servers count: that it is the same, and how little that says.

use keyferry_diff::{DiffOptions, DiffReport, Difference, DifferenceKind, Error, Verdict, quick};
use keyferry_testkit::{Server, any};

fn two() -> Option<[Server; 2]> {
    let Ok(binary) = any() else {
        println!("note: no server is there");
        return None;
    };
    Some([(); 2].map(|()| Server::builder(binary).start().unwrap()))
}

fn run(server: &Server, commands: &[&str]) {
    let mut client = server.client().unwrap();
    for command in commands {
        client.call(&command.split(' ').collect::<Vec<_>>()).unwrap();
    }
}

fn count(
    servers: &[Server; 2],
    change: impl Fn(&mut DiffOptions),
) -> (Result<DiffReport, Error>, Vec<Difference>) {
    let [a, b] = servers.each_ref().map(|server| server.url().parse().unwrap());
    let (mut options, mut differences) = (DiffOptions::default(), Vec::new());
    change(&mut options);
    (quick(&a, &b, &options, &mut differences), differences)
}

#[test]
fn numbers_are_compared_and_nothing_else() {
    let Some(servers) = two() else { return };
    run(&servers[0], &["SET value abc", "SET ttl abc", "SET gone abc"]);
    run(&servers[1], &["SET value other", "SET ttl abc PX 10000000"]);
    let (report, differences) = count(&servers, |_| {});
    let kinds: Vec<_> = differences.iter().map(|one| (one.kind, one.sides())).collect();
    assert_eq!(
        kinds,
        [(DifferenceKind::Keys, "3 | 2".to_owned()), (DifferenceKind::Expires, "0 | 1".to_owned())]
    );
    assert_eq!(report.unwrap().verdict(), Verdict::Different);
    run(&servers[1], &["SET more other", "PERSIST ttl"]);
    let report = count(&servers, |_| {}).0.unwrap();
    assert!(report.to_string().starts_with("SAME NUMBERS: 3"), "{report}");
    assert!(report.depth.leaves_open().is_some());
}

#[test]
fn servers_count_by_databases_alone() {
    let Some(servers) = two() else { return };
    for server in &servers {
        run(server, &["SET same 1"]);
    }
    run(&servers[1], &["SELECT 3", "SET other 1"]);
    let verdict = |databases: &[u64], map: &str| {
        let report = count(&servers, |options| {
            options.selection.databases = databases.to_vec();
            options.databases.add(map.parse().unwrap());
        });
        report.0.unwrap().verdict()
    };
    assert_eq!(verdict(&[], "7=7"), Verdict::Different);
    assert_eq!(verdict(&[0], "7=7"), Verdict::Equal);
    assert_eq!(verdict(&[3, 0], "7=7"), Verdict::Different);
    assert_eq!(verdict(&[9], "9=3"), Verdict::Different);
    assert_eq!(verdict(&[9], "7=7"), Verdict::NothingCompared);
    let pattern = keyferry_routing::KeyPattern::new(b"nothing");
    for refused in [
        count(&servers, |options| options.selection.keys.push(pattern.clone().into())),
        count(&servers, |options| options.selection.exclude.push(pattern.clone().into())),
        count(&servers, |options| options.selection.kinds.push(keyferry_rdb::Kind::Set)),
        count(&servers, |options| options.selection.slots = Some("0-5".parse().unwrap())),
    ] {
        let error = refused.0.unwrap_err();
        assert!(matches!(error, Error::NotCounted), "{error}");
    }
}
