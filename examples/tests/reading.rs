//! Sources that refuse to replicate, as users of the program see them.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use keyferry_testkit::{Server, any};

/// The program, built beside this test.
fn migrate(args: &[&str]) -> Output {
    let test = std::env::current_exe().unwrap();
    let program: PathBuf = test.parent().and_then(std::path::Path::parent).unwrap().join("examples/migrate");
    Command::new(program).args(args).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn from_database_to_database_in_one_command() {
    let server = Server::any().unwrap();
    let (url, mut client) = (server.url(), server.client().unwrap());
    for n in 0..50 {
        client.call(&["SET".to_owned(), format!("key:{n}"), "value".to_owned()]).unwrap();
    }
    let sides = ["--source", &url, "--target", &url, "--until", "caught-up"];
    let how = ["--source-mode", "scan", "--only-db", "0", "--db-map", "0=1"];
    let done = migrate(&[&sides[..], &how].concat());
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(
        String::from_utf8_lossy(&done.stdout).contains("read     by SCAN: 50 keys in 1 passes"),
        "{done:?}"
    );
    client.call(&["SELECT", "1"]).unwrap();
    assert_eq!(client.list(&["KEYS", "*"]).unwrap().len(), 50);
}

#[test]
fn the_reason_is_shown() {
    let source = Server::builder(any().unwrap())
        .user("reader", "on >secret ~* &* +@all -psync -sync")
        .start()
        .unwrap();
    let target = Server::any().unwrap();
    source.client().unwrap().call(&["SET", "key", "value"]).unwrap();
    let url = source.url().replace("redis://", "redis://reader:secret@");
    let sides = ["--source", &url, "--target", &target.url(), "--until", "caught-up", "--follow", "passes"];
    let done = migrate(&sides);
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(said.contains("note     the source is not read by PSYNC: ") && said.contains("NOPERM"), "{said}");
    assert!(said.contains("read     not promised: transactions"), "{said}");
    assert!(!said.contains("secret"), "{said}");
    assert_eq!(target.client().unwrap().text(&["GET", "key"]).unwrap(), "value");
    let wrong = migrate(&["--source", &url, "--target", &url, "--source-mode", "guess"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
