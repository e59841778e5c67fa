//! Steering a running migration from outside, by a socket and by an address.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use keyferry_client::Secret;
use keyferry_migrate::{
    Migration, Outcome,
    control::{ControlAddress, ControlError, ControlServer},
};
use keyferry_testkit::{Server, any};
use serde_json::Value;
use tokio::task::block_in_place;

use crate::support::{PATIENCE, start};

const TOKEN: &str = "a-token-of-some-length";

/// The status and the body of an answer.
fn ask(mut stream: impl Read + Write, method: &str, path: &str, token: &str) -> (u16, Value) {
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

/// Asks until the answer is as it should be.
fn until(what: &str, mut ask: impl FnMut() -> Value, is: impl Fn(&Value) -> bool) {
    let begun = Instant::now();
    loop {
        let status = ask();
        if is(&status) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "no {what} in time: {status}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_is_steered_by_a_socket() {
    let (source, target) = (start(any().unwrap()), Server::any().unwrap());
    source.client().unwrap().call(&["SET", "before", "1"]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let mut migration = Migration::new(source.url().parse().unwrap(), target.url().parse().unwrap());
    migration.options_mut().look_first = false;
    let address = ControlAddress::Unix(path.clone());
    let server = ControlServer::bind(&address, None, &migration).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // One that is in use is not taken away.
    let taken = ControlServer::bind(&address, None, &migration).await;
    assert!(matches!(taken, Err(ControlError::Bind { .. })), "{taken:?}");
    let serving = tokio::spawn(server.serve());
    let running = tokio::spawn(migration.run());
    block_in_place(|| {
        let call = |method: &str, path_and_query: &str| {
            ask(UnixStream::connect(&path).unwrap(), method, path_and_query, "")
        };
        let status = || call("GET", "/status").1;
        until("stream", status, |status| status["figures"]["phase"] == "following");
        let (code, answer) = call("POST", "/throttle?commands=7k&node-bytes=1mb&adaptive=on");
        assert_eq!(
            (code, &answer["throttle"]["limits"]["incremental"]["commands"]),
            (200, &Value::from(7 << 10))
        );
        assert_eq!(answer["throttle"]["limits"]["adaptive"], 25);
        // All of them or none.
        for wrong in ["/throttle?bytes=1&commands=many", "/throttle?speed=1", "/throttle"] {
            let (code, answer) = call("POST", wrong);
            assert!(code == 400 && !answer["error"].as_str().unwrap().is_empty(), "{answer}");
        }
        assert_eq!(status()["throttle"]["limits"]["full"]["bytes"], Value::Null);
        assert_eq!((call("GET", "/pause").0, call("POST", "/nothing").0), (405, 404));

        assert_eq!(call("POST", "/pause").1["throttle"]["paused"], true);
        source.client().unwrap().call(&["SET", "paused", "1"]).unwrap();
        until("lag", status, |status| status["figures"]["lag_bytes"].as_u64() > Some(0));
        assert_eq!(target.client().unwrap().int(&["EXISTS", "paused"]).unwrap(), 0);
        assert_eq!(call("POST", "/resume").1["throttle"]["paused"], false);
        assert_eq!(call("POST", "/stop-when-caught-up").1["stops_when_caught_up"], true);
    });
    let finished = tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
    assert_eq!(
        finished.report.outcome,
        Outcome::CaughtUp { source_was_writing: false },
        "{:?}",
        finished.result
    );
    assert_eq!(target.client().unwrap().int(&["EXISTS", "before", "paused"]).unwrap(), 2);
    serving.abort();
    serving.await.unwrap_err();
    assert!(!Path::new(&path).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_needs_a_token_and_is_of_this_machine() {
    let (source, target) = (start(any().unwrap()), Server::any().unwrap());
    let mut migration = Migration::new(source.url().parse().unwrap(), target.url().parse().unwrap());
    migration.options_mut().look_first = false;
    let bind = async |address: &str, token: Option<&str>, migration: &Migration| {
        ControlServer::bind(&address.parse().unwrap(), token.map(Secret::new), migration).await
    };
    let open = bind("0.0.0.0:0", Some(TOKEN), &migration).await;
    assert!(matches!(open, Err(ControlError::NotLoopback(_))), "{open:?}");
    for token in [None, Some("short")] {
        let guessed = bind("127.0.0.1:0", token, &migration).await;
        assert!(matches!(guessed, Err(ControlError::NoToken(_))), "{guessed:?}");
    }
    let server = bind("127.0.0.1:0", Some(TOKEN), &migration).await.unwrap();
    assert!(!format!("{server:?}").contains(TOKEN));
    let address = server.address().to_string();
    let serving = tokio::spawn(server.serve());
    let running = tokio::spawn(migration.run());
    block_in_place(|| {
        let call = |method: &str, path: &str, token: &str| {
            ask(TcpStream::connect(&address).unwrap(), method, path, token)
        };
        for wrong in ["", "a-token-of-some-lengtH", "a-token-of-some-length-"] {
            assert_eq!(call("POST", "/stop", wrong).0, 401, "{wrong}");
        }
        until("stream", || call("GET", "/", TOKEN).1, |status| status["figures"]["phase"] == "following");
        assert_eq!(call("POST", "/stop", TOKEN).0, 200);
    });
    let finished = tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
    assert_eq!(
        finished.report.outcome,
        Outcome::Stopped { everything_applied: true },
        "{:?}",
        finished.result
    );
    serving.abort();
}
