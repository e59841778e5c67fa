//! Peers that refuse, lie, stall, leave, or are something else.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyferry_client::{
    ConnectOptions, Connection, Error, Limits, Pipeline, Protocol, Role, Secret, Transport, Vendor, Version,
};
use tokio::{io::AsyncWriteExt as _, sync::Notify};

use crate::chain;
use crate::peer::{PATIENCE, SOON, impatient, peer};

async fn fails(options: &ConnectOptions) -> Error {
    match Connection::connect(options).await {
        Ok(connection) => panic!("{options} was connected: {connection:?}"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn nobody_there() {
    let port = keyferry_testkit::unused_port().unwrap();
    let error = fails(&ConnectOptions::tcp("127.0.0.1", port)).await;
    assert!(matches!(error, Error::Connect { .. }) && error.is_retryable(), "{error:?}");
    let text = chain(&error);
    assert!(text.contains(&format!("127.0.0.1:{port}")) && text.contains("refused"), "{text}");
    let error = fails(&ConnectOptions::unix("/no/such/socket")).await;
    assert!(
        matches!(error, Error::Connect { .. }) && error.to_string().contains("/no/such/socket"),
        "{error:?}"
    );
    let error = fails(&ConnectOptions::tcp("no-such-host.invalid", 6379)).await;
    assert!(matches!(error, Error::Resolve { .. } | Error::ConnectTimeout { .. }), "{error:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_port_that_takes_no_more_connections() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody accepts: once the queue is full, further connections get no answer.
    let mut waiting = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        waiting.push(stream);
    }
    let begin = Instant::now();
    let error = fails(&impatient(ConnectOptions::tcp("127.0.0.1", address.port()))).await;
    assert!(matches!(error, Error::ConnectTimeout { phase: "the TCP connection", .. }), "{error:?}");
    assert!(error.is_retryable() && error.to_string().contains("firewall"), "{error}");
    assert!(begin.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_peer_that_never_says_anything() {
    let options = impatient(peer(|mut script| async move { script.stay().await }).await);
    let error = fails(&options).await;
    assert!(
        error.is_retryable() && !error.may_have_executed() || matches!(error, Error::Timeout { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains(&format!("{SOON:?}")), "{error}");
    // The read timeout applies where the connect timeout does not.
    let error = fails(&options.with_connect_timeout(None)).await;
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_falls_silent() {
    let options = peer(|mut script| async move {
        script.greet().await;
        script.answer("$100\r\nonly a part").await;
        script.stay().await;
    });
    let mut connection = Connection::connect(&impatient(options.await)).await.unwrap();
    let begin = Instant::now();
    let error = connection.call(["GET", "secret-key"]).await.unwrap_err();
    assert!(begin.elapsed() >= SOON - Duration::from_millis(10), "{:?}", begin.elapsed());
    assert!(matches!(error, Error::Timeout { .. }) && error.may_have_executed(), "{error:?}");
    assert!(
        error.to_string().contains("GET was under way") && !error.to_string().contains("secret-key"),
        "{error}"
    );
    // The reply may still come: it must not be taken for another's.
    assert!(matches!(connection.call(["PING"]).await, Err(Error::OutOfStep { .. })));
    assert!(matches!(connection.receive().await, Err(Error::OutOfStep { .. })));
}

#[tokio::test]
async fn a_slow_reply_is_not_a_silent_peer() {
    let begin = Instant::now();
    loop {
        let options = peer(|mut script| async move {
            script.greet().await;
            script.command().await;
            for byte in b"$5\r\nhello\r\n" {
                script.say([*byte]).await;
                tokio::time::sleep(SOON / 8).await;
            }
            script.stay().await;
        });
        // Eleven bytes take longer than the timeout.
        let mut connection = Connection::connect(&impatient(options.await)).await.unwrap();
        match connection.call(["GET", "k"]).await {
            // The machine may have stood still between two of them, but not each time.
            Err(Error::Timeout { .. }) => {
                assert!(begin.elapsed() < PATIENCE, "a slow reply is not waited for")
            }
            reply => return assert_eq!(reply.unwrap().as_str(), Some("hello")),
        }
    }
}

#[tokio::test]
async fn a_peer_that_takes_nothing() {
    let options = peer(|mut script| async move {
        script.greet().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    let options = impatient(options.await);
    let mut connection = Connection::connect(&options).await.unwrap();
    let error = connection.call([&b"SET"[..], b"k", &vec![b'x'; 64 << 20]]).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_leaves() {
    for half in ["", "$10\r\nabc", "*3\r\n:1\r\n", "+OK"] {
        let options = peer(move |mut script| async move {
            script.greet().await;
            script.answer(half).await;
        });
        let mut connection = Connection::connect(&impatient(options.await)).await.unwrap();
        let error = connection.call(["GET", "k"]).await.unwrap_err();
        assert!(matches!(error, Error::Closed { .. }), "{half:?}: {error:?}");
        assert!(error.is_retryable() && error.may_have_executed());
        assert!(error.to_string().contains("closed the connection (while GET was under way)"), "{error}");
        assert!(matches!(connection.call(["PING"]).await, Err(Error::OutOfStep { .. })));
    }
    // While connecting, with a hint.
    let error = fails(&peer(|_| async {}).await).await;
    assert!(matches!(&error, Error::Closed { .. } | Error::Io { .. }), "{error:?}");
    // In the middle of a pipeline.
    let options = peer(|mut script| async move {
        script.greet().await;
        script.answer("+OK\r\n").await;
        script.command().await;
    });
    let mut connection = Connection::connect(&options.await).await.unwrap();
    let mut pipeline = Pipeline::new();
    pipeline.push(["PING"]).push(["PING"]);
    let error = connection.pipeline(&pipeline).await.unwrap_err();
    assert!(error.to_string().contains("pipeline of 2 commands"), "{error}");
}

#[tokio::test]
async fn a_peer_that_lies_about_sizes() {
    let mut deep = b"*1\r\n".repeat(2_000);
    deep.extend_from_slice(b":1\r\n");
    for (lie, words) in [
        (&b"$9223372036854775807\r\n"[..], "above the limit"),
        (b"*2147483647\r\n", "above the limit"),
        (b"%4611686018427387904\r\n", "above the limit"),
        (b"$-2\r\n", "bad length"),
        (b"*99999999999999999999\r\n", "bad length"),
        (b"$3\r\nabcdef\r\n", "longer than announced"),
        (b":12x\r\n", "bad value"),
        (&deep, "nested more than"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "0x48"),
        (b"+OK\n", "bare CR or LF"),
    ] {
        let answer = lie.to_vec();
        let options = peer(move |mut script| {
            let answer = answer.clone();
            async move {
                script.greet().await;
                script.answer(answer).await;
                script.stay().await;
            }
        });
        let options = options.await;
        let mut connection = Connection::connect(&options).await.unwrap();
        let error = connection.call(["GET", "k"]).await.unwrap_err();
        let text = chain(&error);
        assert!(matches!(error, Error::Protocol { .. }) && !error.is_retryable(), "{error:?}");
        assert!(text.contains(&options.address().to_string()) && text.contains("byte "), "{text}");
        assert!(text.contains(words) && text.contains("GET was under way"), "{text}");
        assert!(connection.call(["PING"]).await.is_err());
    }
}

#[tokio::test]
async fn a_count_that_the_limits_allow_costs_nothing_either() {
    let options = peer(|mut script| async move {
        script.greet().await;
        script.answer(format!("*{}\r\n${}\r\n", Limits::ELEMENTS, Limits::BULK_BYTES)).await;
    });
    let before = resident_kib();
    let mut connection = Connection::connect(&options.await).await.unwrap();
    assert!(matches!(connection.call(["GET", "k"]).await, Err(Error::Closed { .. })));
    // 16 million announced elements would be half a gigabyte.
    assert!(resident_kib() < before + 64 * 1024, "{} KiB, then {} KiB", before, resident_kib());
}

/// Peak resident memory of this process.
fn resident_kib() -> u64 {
    keyferry_testkit::process::peak_rss_kib(std::process::id()).unwrap()
}

#[tokio::test]
async fn limits_can_be_set() {
    let options = peer(|mut script| async move {
        script.greet().await;
        script.answer("$11\r\nhello world\r\n").await;
        script.stay().await;
    });
    let options = options.await.with_limits(Limits::new().bulk_bytes(10));
    let mut connection = Connection::connect(&options).await.unwrap();
    let error = connection.call(["GET", "k"]).await.unwrap_err();
    assert!(chain(&error).contains("11 bytes, above the limit of 10"), "{error}");
}

#[tokio::test]
async fn a_server_from_before_hello() {
    let info = "# Server\r\nredis_version:2.8.24\r\nredis_mode:standalone\r\n# Replication\r\nrole:slave\r\n";
    let options = peer(move |mut script| async move {
        while let Some(command) = script.command().await {
            let answer = match (&*command.name().to_ascii_uppercase(), command.len()) {
                (b"AUTH", 2) => "+OK\r\n".to_owned(),
                (b"AUTH", _) => "-ERR wrong number of arguments for 'auth' command\r\n".to_owned(),
                (b"INFO", _) => format!("${}\r\n{info}\r\n", info.len()),
                (b"SELECT" | b"PING", _) => "+OK\r\n".to_owned(),
                _ => "-ERR unknown command 'x'\r\n".to_owned(),
            };
            script.say(answer).await;
        }
    });
    let options = options.await.with_db(3).with_client_name("me").with_protocol(Protocol::Resp3);
    let secret = || Secret::new("hunter2");
    for options in [
        options.clone(),
        options.clone().with_password(secret()),
        options.clone().with_username("default").with_password(secret()),
    ] {
        let mut connection = Connection::connect(&options).await.unwrap();
        assert_eq!(connection.protocol(), Protocol::Resp2);
        assert_eq!(connection.server().vendor, Vendor::Redis);
        assert_eq!(
            (connection.server().version, connection.server().role),
            (Version::new(2, 8, 24), Role::Replica)
        );
        connection.call(["PING"]).await.unwrap();
    }
    // It cannot know this user.
    let error = fails(&options.with_username("mover").with_password(secret())).await;
    assert!(matches!(error, Error::Auth { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_does_not_let_in() {
    for (answer, retryable, words) in [
        (
            "-NOAUTH HELLO must be called with the client already authenticated\r\n",
            false,
            "give the password",
        ),
        ("-DENIED Redis is running in protected mode\r\n", false, "protected mode"),
        ("-LOADING Redis is loading the dataset in memory\r\n", true, "LOADING"),
        ("-MASTERDOWN Link with MASTER is down\r\n", true, "MASTERDOWN"),
    ] {
        let options = peer(move |mut script| async move { while script.answer(answer).await.is_some() {} });
        let error = fails(&options.await).await;
        assert_eq!(error.is_retryable(), retryable, "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(matches!(error, Error::Auth { .. }), !retryable, "{error:?}");
    }
}

#[tokio::test]
async fn passwords_that_a_server_echoes_are_struck_out() {
    let password = "hunter2".repeat(30);
    for echo in [
        // Cut by the server, as real ones do.
        format!("-ERR unknown command 'AUTH', with args beginning with: '{}\r\n", &password[..100]),
        format!("-ERR what is {password} supposed to mean\r\n"),
        format!("-{password} is wrong\r\n"),
    ] {
        let options = peer(move |mut script| {
            let echo = echo.clone();
            async move { while script.answer(&echo).await.is_some() {} }
        });
        let error = fails(&options.await.with_password(Secret::new(password.as_str()))).await;
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    let echo = format!("-ERR no such thing as {password}\r\n");
    let options = peer(move |mut script| {
        let echo = echo.clone();
        async move {
            script.answer("+OK\r\n").await;
            script.greet().await;
            script.answer(echo).await;
        }
    });
    let options = options.await.with_password(Secret::new(password.as_str()));
    let mut connection = Connection::connect(&options).await.unwrap();
    let error = connection.call(["AUTH", &password]).await.unwrap_err();
    let text = format!("{error} {error:?} {connection:?}");
    assert!(text.contains("no such thing as ***") && !text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn a_reply_that_is_something_else() {
    let options = peer(|mut script| async move {
        script.greet().await;
        while script.answer(":1\r\n").await.is_some() {}
    });
    let mut connection = Connection::connect(&options.await).await.unwrap();
    let error = connection.info("server").await.unwrap_err();
    assert!(error.to_string().contains("answered INFO with an integer, where a text was due"), "{error}");
}

#[tokio::test]
async fn pushes_without_end_are_bounded() {
    let options = peer(|mut script| async move {
        script.greet().await;
        script.command().await;
        script.say(">2\r\n+a\r\n+b\r\n".repeat(5_000)).await;
        script.say("+PONG\r\n").await;
        script.stay().await;
    });
    let mut connection = Connection::connect(&options.await).await.unwrap();
    assert_eq!(connection.call(["PING"]).await.unwrap().as_str(), Some("PONG"));
    assert_eq!(connection.pushes_dropped(), 5_000 - 1_024);
    assert_eq!(std::iter::from_fn(|| connection.take_push()).count(), 1_024);
}

#[tokio::test]
async fn a_call_that_was_given_up() {
    let (given_up, come) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, tells) = (Arc::clone(&given_up), Arc::clone(&come));
    let options = peer(move |mut script| {
        let (told, tells) = (Arc::clone(&told), Arc::clone(&tells));
        async move {
            script.greet().await;
            script.command().await;
            told.notified().await;
            script.say("+foreign\r\n").await;
            tells.notify_one();
            script.stay().await;
        }
    });
    let mut connection = Connection::connect(&options.await).await.unwrap();
    let call = tokio::time::timeout(Duration::from_millis(20), connection.call(["GET", "k"])).await;
    assert!(call.is_err());
    given_up.notify_one();
    come.notified().await;
    let error = connection.call(["GET", "other"]).await.unwrap_err();
    assert!(matches!(error, Error::OutOfStep { .. }) && !error.may_have_executed(), "{error:?}");
}

#[tokio::test]
async fn any_stream_will_do() {
    let (near, mut far) = tokio::io::duplex(1_024);
    let server = tokio::spawn(async move {
        far.write_all(b"*2\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n+PONG\r\n").await.unwrap();
        let mut received = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut far, &mut received).await.unwrap();
        received
    });
    let options = ConnectOptions::tcp("a-tunnel", 1);
    let mut connection = Connection::from_transport(Transport::from_stream(near), &options).await.unwrap();
    assert_eq!(connection.server().vendor, Vendor::Valkey);
    assert_eq!(connection.call(["PING"]).await.unwrap().as_str(), Some("PONG"));
    drop(connection);
    assert_eq!(server.await.unwrap(), b"*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n*1\r\n$4\r\nPING\r\n");
}

#[tokio::test]
async fn skimmed_replies_may_come_in_pieces_and_not_at_all() {
    let options = peer(|mut script| async move {
        script.greet().await;
        for _ in 0..2 {
            script.command().await;
        }
        for &byte in b"*2\r\n$3\r\nfoo\r\n$-1\r\n-ERR no\r\n" {
            script.say([byte]).await;
            tokio::task::yield_now().await;
        }
        script.command().await;
        script.say(b"*2\r\n$3\r\nfo").await;
    })
    .await;
    let mut connection = Connection::connect(&options).await.unwrap();
    let mut replies = keyferry_client::Replies::new();
    let ping = b"*1\r\n$4\r\nPING\r\n";
    connection.skim(&ping.repeat(2), 2, &mut replies).await.unwrap();
    assert_eq!(replies.get(0), Some(&b"*2\r\n$3\r\nfoo\r\n$-1\r\n"[..]));
    assert_eq!(replies.get(1), Some(&b"-ERR no\r\n"[..]));
    let error = connection.skim(ping, 1, &mut replies).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
    assert!(replies.is_empty());
    let error = connection.skim(ping, 1, &mut replies).await.unwrap_err();
    assert!(matches!(error, Error::OutOfStep { .. }), "{error:?}");
    // What is no reply at all.
    let options = peer(|mut script| async move {
        script.greet().await;
        script.answer("hello?\r\n").await;
        script.stay().await;
    })
    .await;
    let mut connection = Connection::connect(&options).await.unwrap();
    let error = connection.skim(ping, 1, &mut replies).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn two_that_are_skimmed_beside_each_other_fail_together() {
    use keyferry_client::{Replies, Skimming};
    let ping = b"*1\r\n$4\r\nPING\r\n";
    let talker = |says: &'static [u8], then_stays: bool| {
        peer(move |mut script| async move {
            script.greet().await;
            script.command().await;
            script.say(says).await;
            if then_stays {
                script.stay().await;
            }
        })
    };
    let whole: &[u8] = b"$3\r\nfoo\r\n";
    // Which of them says what, and what comes of it.
    for (says, closes, text) in [
        ([whole, &whole[..5]], [false, true], "close"),
        ([&whole[..5], whole], [true, false], "close"),
        ([b"".as_slice(), whole], [false, false], "reply"),
        ([whole, b"$3\r\nfox"], [false, false], "reply"),
        ([whole, b"$3\r\nfoo_\n"], [false, false], "RESP"),
    ] {
        let mut connections = Vec::new();
        for (says, closes) in says.into_iter().zip(closes) {
            let options = impatient(talker(says, !closes).await);
            connections.push(Connection::connect(&options).await.unwrap());
        }
        let [a, b] = &mut connections[..] else { panic!("two") };
        let (mut replies, mut others) = (Replies::new(), Replies::new());
        let sides = [Skimming::new(a, ping, 1, &mut replies), Skimming::new(b, ping, 1, &mut others)];
        let error = Connection::skim_beside(sides, Some).await.unwrap_err();
        let met = match text {
            "close" => matches!(error, Error::Closed { .. }),
            "reply" => matches!(error, Error::Timeout { .. }),
            _ => matches!(error, Error::Protocol { .. }),
        };
        assert!(met, "{says:?}: {error:?}");
        assert!(others.is_empty());
        let sides = [Skimming::new(a, ping, 1, &mut replies), Skimming::new(b, ping, 1, &mut others)];
        let error = Connection::skim_beside(sides, Some).await.unwrap_err();
        assert!(matches!(error, Error::OutOfStep { .. }), "{error:?}");
    }
}
