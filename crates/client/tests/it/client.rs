//! One connection shared by many tasks.

use std::time::Duration;

use keyferry_client::{Backoff, Client, ClientOptions, Command, ConnectOptions, Error, Pipeline};
use keyferry_testkit::{Direction, Proxy, Server};

use crate::chain;
use crate::peer::{PATIENCE, SOON, impatient, peer};

/// Reconnects at once, as tests should.
fn eager() -> ClientOptions {
    ClientOptions::new()
        .backoff(Backoff::new(Duration::from_millis(5), Duration::from_millis(50)).with_seed(1))
}

fn at(address: std::net::SocketAddr) -> ConnectOptions {
    ConnectOptions::tcp(address.ip().to_string(), address.port())
}

async fn connect(options: &ConnectOptions, behaviour: ClientOptions) -> Client {
    Client::connect(options, behaviour).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_commands_through_a_small_window() {
    const COMMANDS: i64 = 1_000_000;
    let server = Server::any().unwrap();
    let client = connect(&at(server.addr()), ClientOptions::new().window(1_000)).await;
    let (sender, mut receiver) = tokio::sync::mpsc::channel(10_000);
    let submitting = client.clone();
    let submitter = tokio::spawn(async move {
        for _ in 0..COMMANDS {
            sender.send(submitting.submit(["INCR", "counter"]).await.unwrap()).await.unwrap();
        }
    });
    // Every reply belongs to its request, in the order of submission.
    let mut expected = 0;
    while let Some(reply) = receiver.recv().await {
        expected += 1;
        assert_eq!(reply.await.unwrap().as_i64(), Some(expected));
    }
    submitter.await.unwrap();
    assert_eq!(expected, COMMANDS);
    assert_eq!(client.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_get_their_own_replies() {
    let server = Server::any().unwrap();
    let client = connect(&at(server.addr()), ClientOptions::new().window(64)).await;
    let tasks: Vec<_> = (0..100)
        .map(|task| {
            let client = client.clone();
            tokio::spawn(async move {
                for n in 0..100 {
                    // Some of them too large to be copied.
                    let text = format!("{task}:{n}:{}", "x".repeat(if n % 10 == 0 { 50_000 } else { 5 }));
                    assert_eq!(client.call(["ECHO", &text]).await.unwrap().as_str(), Some(&*text));
                    let error = client.call(["NOSUCHCOMMAND"]).await.unwrap_err();
                    assert!(
                        matches!(&error, Error::Server { command, .. } if command == "NOSUCHCOMMAND"),
                        "{error}"
                    );
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelines_stay_together() {
    let server = Server::any().unwrap();
    let client = connect(&at(server.addr()), ClientOptions::new()).await;
    let tasks: Vec<_> = (0..50)
        .map(|task| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let mut pipeline = Pipeline::new();
                    pipeline.push(["MULTI"]).push(["INCR", &format!("counter:{task}")]);
                    pipeline.push_command(&Command::new(["SET", "large", &"x".repeat(20_000)]));
                    pipeline.push(["EXEC"]);
                    let replies = client.pipeline(&pipeline).await.unwrap();
                    assert_eq!(replies.len(), 4);
                    assert_eq!(replies[3].as_array().unwrap().len(), 2);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(client.call(["GET", "counter:7"]).await.unwrap().as_i64(), Some(20));
    assert_eq!(client.pipeline(&Pipeline::new()).await.unwrap(), []);
}

#[tokio::test]
async fn the_window_bounds_commands_and_bytes() {
    for (behaviour, argument, fit) in [
        (ClientOptions::new().window(10), 1, 10),
        (ClientOptions::new().window(1_000).window_bytes(1_000_000), 100_000, 9),
        // A single one above the bound goes alone.
        (ClientOptions::new().window(10).window_bytes(1_000), 1_000_000, 1),
    ] {
        let options = peer(|mut script| async move {
            script.greet().await;
            script.stay().await;
        });
        let client = connect(&options.await, behaviour).await;
        let argument = "x".repeat(argument);
        let mut replies = Vec::new();
        while replies.len() < fit {
            let submitted = tokio::time::timeout(PATIENCE, client.submit(["ECHO", &argument]));
            replies.push(submitted.await.unwrap().unwrap());
        }
        let one_more = tokio::time::timeout(Duration::from_millis(200), client.submit(["ECHO", &argument]));
        assert!(one_more.await.is_err(), "more than {fit}");
    }
}

#[tokio::test]
async fn what_cannot_be_shared_is_refused() {
    let server = Server::any().unwrap();
    let client = connect(&at(server.addr()), ClientOptions::new()).await;
    for args in [
        &["SELECT", "1"][..],
        &["auth", "pw"],
        &["Subscribe", "a"],
        &["MONITOR"],
        &["CLIENT", "REPLY", "OFF"],
        &["client", "reply", "skip"],
        &["MULTI"],
        &["WATCH", "k"],
        &["PSYNC", "?", "-1"],
    ] {
        let error = client.call(args.iter()).await.unwrap_err();
        assert!(matches!(&error, Error::Misuse { command, .. } if command == args[0]), "{error}");
        assert!(!error.may_have_executed() && !error.is_retryable());
    }
    let mut pipeline = Pipeline::new();
    pipeline.push(["PING"]).push_command(&Command::new(["SELECT", "1"]));
    assert!(
        matches!(client.pipeline(&pipeline).await, Err(Error::Misuse { command, .. }) if command == "SELECT")
    );
    assert!(matches!(client.call::<[&str; 0], _>([]).await, Err(Error::Misuse { .. })));
    client.call(["CLIENT", "GETNAME"]).await.unwrap();
}

#[tokio::test]
async fn calls_that_were_given_up_disturb_nobody() {
    let server = Server::any().unwrap();
    let client = connect(&at(server.addr()), ClientOptions::new().window(8)).await;
    for n in 0..200 {
        // Dropped at once, or while the reply is on its way.
        let call = client.call(["INCR", "dropped"]);
        let _ = tokio::time::timeout(Duration::from_micros(n % 5 * 20), call).await;
        let text = n.to_string();
        assert_eq!(client.call(["ECHO", &text]).await.unwrap().as_str(), Some(&*text));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_is_found_again() {
    let mut server = Server::any().unwrap();
    let client = connect(&at(server.addr()), eager()).await;
    client.call(["PING"]).await.unwrap();
    server.kill9();
    // While it is away, commands wait.
    let waiting = client.clone();
    let waiting = tokio::spawn(async move {
        loop {
            match waiting.call(["SET", "k", "v"]).await {
                // The first may have met the end of the old connection.
                Err(Error::ConnectionLost { .. }) => {}
                other => return other,
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    tokio::task::block_in_place(|| server.restart()).unwrap();
    assert!(waiting.await.unwrap().unwrap().is_ok());
    assert_eq!(client.connections(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_ever_sent_twice() {
    let server = Server::any().unwrap();
    let proxy = Proxy::start(server.addr()).unwrap();
    let client = connect(&at(proxy.addr()), eager()).await;
    let (mut known, mut unknown) = (0, 0);
    for round in 0..20 {
        // Cut anywhere: in the requests, in the replies, between them.
        let direction = if round % 2 == 0 { Direction::FromTarget } else { Direction::ToTarget };
        proxy.cut_after(direction, 100 + round * 37);
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.call(["INCR", "counter"]).await })
            })
            .collect();
        for call in calls {
            match call.await.unwrap() {
                Ok(_) => known += 1,
                Err(error @ Error::ConnectionLost { sent, .. }) => {
                    assert_eq!(error.may_have_executed(), sent);
                    assert!(error.is_retryable(), "{error:?}");
                    unknown += i64::from(sent);
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    let counted = server.client().unwrap().int(&["GET", "counter"]).unwrap();
    assert!(
        unknown > 0 && client.connections() > 10,
        "{unknown} unknown, {} connections",
        client.connections()
    );
    assert!((known..=known + unknown).contains(&counted), "{known} + {unknown}, counted {counted}");
}

#[tokio::test]
async fn a_silent_server_is_left() {
    let mut connections = 0;
    let options = peer(move |mut script| {
        connections += 1;
        let first = connections == 1;
        async move {
            script.greet().await;
            while let Some(command) = script.command().await {
                if !first || command.is("PING") {
                    script.say("+PONG\r\n").await;
                }
            }
        }
    });
    let client = connect(&impatient(options.await), eager()).await;
    client.call(["PING"]).await.unwrap();
    // Idle for longer than the timeout is not silence.
    tokio::time::sleep(2 * SOON).await;
    client.call(["PING"]).await.unwrap();
    let error = client.call(["GET", "k"]).await.unwrap_err();
    assert!(
        matches!(&error, Error::ConnectionLost { sent: true, cause, .. } if matches!(**cause, Error::Timeout { .. }))
    );
    client.call(["GET", "k"]).await.unwrap();
    assert_eq!(client.connections(), 2);
}

#[tokio::test]
async fn giving_up_is_not_for_ever() {
    let mut server = Server::any().unwrap();
    let client = connect(&at(server.addr()), eager().reconnect_for(Duration::from_millis(100))).await;
    server.kill9();
    // The first may find the connection lost, the others find that there is none.
    let mut refused = false;
    for _ in 0..3 {
        let error = client.call(["PING"]).await.unwrap_err();
        assert!(matches!(error, Error::ConnectionLost { .. }), "{error:?}");
        refused |= chain(&error).contains("cannot connect") && !error.may_have_executed();
    }
    assert!(refused);
    server.restart().unwrap();
    let begin = std::time::Instant::now();
    while let Err(error) = client.call(["PING"]).await {
        assert!(error.is_retryable() && begin.elapsed() < PATIENCE, "{error:?}");
    }
}

#[tokio::test]
async fn a_password_that_was_changed_fails_at_once() {
    let server = Server::builder(keyferry_testkit::any().unwrap()).password("old").start().unwrap();
    let client = connect(&server.url().parse().unwrap(), eager()).await;
    let mut admin = server.client().unwrap();
    admin.call(&["CONFIG", "SET", "requirepass", "new"]).unwrap();
    admin.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).unwrap();
    let begin = std::time::Instant::now();
    let mut last = None;
    for _ in 0..3 {
        last = client.call(["PING"]).await.err();
    }
    let last = last.unwrap();
    assert!(chain(&last).contains("WRONGPASS") && !last.is_retryable(), "{last:?}");
    assert!(begin.elapsed() < PATIENCE);
}

#[tokio::test]
async fn the_last_handle_closes_the_connection_after_its_commands() {
    let server = Server::any().unwrap();
    let client = connect(&at(server.addr()).with_client_name("closing"), ClientOptions::new()).await;
    let replies = [client.submit(["INCR", "k"]).await.unwrap(), client.submit(["INCR", "k"]).await.unwrap()];
    drop(client);
    for (reply, expected) in replies.into_iter().zip(1..) {
        assert_eq!(reply.await.unwrap().as_i64(), Some(expected));
    }
    let mut admin = server.client().unwrap();
    let gone = admin.wait_until(PATIENCE, |admin| Ok(!admin.text(&["CLIENT", "LIST"])?.contains("closing")));
    assert!(gone.unwrap());
}

#[tokio::test]
async fn replies_that_nobody_asked_for_end_the_connection() {
    let options = peer(|mut script| async move {
        script.greet().await;
        script.answer("+PONG\r\n+surplus\r\n").await;
        script.stay().await;
    });
    let client = connect(&options.await, eager()).await;
    client.call(["PING"]).await.unwrap();
    // Taken for the reply to the next command, the surplus would shift all that follow.
    while client.connections() == 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
