//! One connection to each real server on this machine.

use std::io::IoSlice;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use keyferry_client::{
    Command, ConnectOptions, Connection, Error, Frame, Mode, Pipeline, Protocol, Role, Secret, Vendor,
};
use keyferry_testkit::{Server, ServerBinary, all};

use crate::peer::PATIENCE;

fn servers() -> impl Iterator<Item = &'static ServerBinary> {
    all().unwrap().iter()
}

fn with_users(binary: &ServerBinary) -> Server {
    let server = Server::builder(binary).password("s3cret pw").user("mover", "on >m0ver/pw ~* +@all");
    server.unix_socket().start().unwrap()
}

async fn connect(url: &str) -> Connection {
    Connection::connect(&url.parse().unwrap()).await.unwrap()
}

async fn plain(server: &Server) -> Connection {
    connect(&server.url()).await
}

#[tokio::test]
async fn who_gets_in_and_who_does_not() {
    for binary in servers() {
        let server = with_users(binary);
        let at = server.addr();
        let unix = format!("unix://:s3cret%20pw@{}", server.unix_path().unwrap().display());
        for url in [
            &*server.url(),
            &format!("redis://:s3cret%20pw@{at}"),
            &format!("redis://default:s3cret%20pw@{at}"),
            &format!("redis://mover:m0ver%2Fpw@{at}/3?client-name=me"),
            &format!("redis://mover:m0ver%2Fpw@{at}/3?client-name=me&protocol=3"),
            &format!("{unix}?db=5"),
        ] {
            let mut connection = connect(url).await;
            assert_eq!(
                connection.call(["PING"]).await.unwrap().as_str(),
                Some("PONG"),
                "{} {url}",
                binary.name
            );
        }
        for (url, code) in [
            (format!("redis://{at}"), "NOAUTH"),
            (format!("redis://:wrong-pw@{at}"), "WRONGPASS"),
            (format!("redis://mover:wrong-pw@{at}"), "WRONGPASS"),
            (format!("redis://nobody:wrong-pw@{at}"), "WRONGPASS"),
            (format!("redis://mover@{at}"), "WRONGPASS"),
            (format!("redis://:wrong-pw@{at}?protocol=3"), "WRONGPASS"),
        ] {
            let error = Connection::connect(&url.parse().unwrap()).await.unwrap_err();
            assert!(
                matches!(&error, Error::Auth { code: found, .. } if found == code),
                "{} {error}",
                binary.name
            );
            assert!(!error.is_retryable() && !error.may_have_executed());
            let text = format!("{error} {error:?}");
            assert!(text.contains(&at.to_string()) && !text.contains("wrong-pw"), "{text}");
        }
        let mut connection = plain(&server).await;
        let error = connection.call(["SUBSTR"]).await.unwrap_err();
        assert!(matches!(&error, Error::Server { command, .. } if command == "SUBSTR"), "{error}");
        // The connection is as good as before.
        connection.call(["PING"]).await.unwrap();
    }
}

#[tokio::test]
async fn a_password_that_nobody_asked_for() {
    let server = Server::any().unwrap();
    let options = ConnectOptions::tcp("127.0.0.1", server.port()).with_password(Secret::new("hunter2"));
    let error = Connection::connect(&options).await.unwrap_err();
    assert!(matches!(error, Error::Auth { .. }), "{error}");
    assert!(error.to_string().contains("take the password out"), "{error}");
}

#[tokio::test]
async fn what_a_server_says_about_itself() {
    for binary in servers() {
        let server = Server::builder(binary).start().unwrap();
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let options = ConnectOptions::tcp("localhost", server.port())
                .with_protocol(protocol)
                .with_client_name("keyferry-test")
                .with_db(7);
            let mut connection = Connection::connect(&options).await.unwrap();
            assert_eq!(connection.protocol(), protocol);
            let (found, version) = (connection.server().clone(), binary.version);
            assert_eq!(
                (found.version.major, found.version.minor, found.version.patch),
                (version.major, version.minor, version.patch),
                "{found}"
            );
            assert_eq!((found.mode, found.role), (Mode::Standalone, Role::Primary), "{found}");
            match binary.name.split('-').next() {
                Some("valkey") => assert_eq!(found.vendor, Vendor::Valkey),
                Some("redict") => assert_eq!(found.vendor, Vendor::Redict),
                _ => assert_eq!(found.vendor, Vendor::Redis),
            }
            let list = connection.call(["CLIENT", "LIST"]).await.unwrap();
            let own = format!("id={} ", found.connection_id.unwrap());
            let line = list.as_str().unwrap().lines().find(|line| line.starts_with(&own)).unwrap();
            assert!(line.contains("name=keyferry-test") && line.contains(" db=7 "), "{line}");

            connection.call(["HSET", "h", "field", "value"]).await.unwrap();
            let hash = connection.call(["HGETALL", "h"]).await.unwrap();
            assert_eq!(matches!(hash, Frame::Map(_)), protocol == Protocol::Resp3);
            assert_eq!(hash.get("field").and_then(Frame::as_str), Some("value"));

            let info = connection.info("everything").await.unwrap();
            assert_eq!(info.get_as::<u16>("tcp_port"), Some(server.port()));
            assert_eq!(info.get_in("Replication", "role"), Some("master"));
            assert!(info.keyspace().any(|db| db.db == 7 && db.keys == 1));
            assert_eq!(info.unknown_lines(), [""; 0]);
            let by_info = keyferry_client::ServerInfo::from_info(&info);
            assert_eq!((by_info.vendor, by_info.mode), (found.vendor, found.mode));
        }
    }
}

#[tokio::test]
async fn a_database_that_does_not_exist() {
    let server = Server::builder(all().unwrap().first().unwrap()).databases(4).start().unwrap();
    let error =
        Connection::connect(&server.url().parse::<ConnectOptions>().unwrap().with_db(4)).await.unwrap_err();
    assert!(matches!(&error, Error::Server { command, .. } if command == "SELECT"), "{error}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn more_data_in_both_directions_than_the_sockets_hold() {
    let server = Server::any().unwrap();
    let mut connection = plain(&server).await;
    let payload = vec![b'x'; 256 << 10];
    let commands: Vec<Command> = (0..200).map(|_| Command::new([b"ECHO", payload.as_slice()])).collect();
    let replies = connection.pipeline(&commands).await.unwrap();
    assert_eq!(replies.len(), 200);
    assert!(replies.iter().all(|reply| reply.as_bytes().is_some_and(|bytes| bytes[..] == payload)));

    // Small and large ones, commands and arguments, an error in between.
    let mut pipeline = Pipeline::new();
    for n in 0..2_000 {
        pipeline.push(["SET", &format!("key:{n}"), "v"]);
        if n % 100 == 0 {
            pipeline.push_command(&commands[0]).push(["NOSUCHCOMMAND"]);
        }
    }
    let replies = connection.pipeline(&pipeline).await.unwrap();
    assert_eq!(replies.len(), pipeline.len());
    assert_eq!(replies.iter().filter(|reply| reply.is_ok()).count(), 2_000);
    assert_eq!(replies.iter().filter(|reply| reply.is_error()).count(), 20);
    assert!(replies[1].as_bytes().is_some_and(|bytes| bytes.len() == payload.len()) && replies[2].is_error());
    assert_eq!(connection.call(["DBSIZE"]).await.unwrap().as_i64(), Some(2_000));
    assert_eq!(connection.pipeline(&[][..]).await.unwrap(), []);
}

#[tokio::test]
async fn halves_work_at_the_same_time_over_every_transport() {
    let server = Server::builder(all().unwrap().last().unwrap()).unix_socket().start().unwrap();
    for url in [server.url(), format!("unix://{}", server.unix_path().unwrap().display())] {
        let (mut sender, mut receiver) = connect(&url).await.split();
        let writer = tokio::spawn(async move {
            let set = Command::new(["SET", "key", &"v".repeat(1_000)]);
            let ping = Command::new(["PING"]);
            for _ in 0..1_000 {
                sender.write_all(set.raw()).await.unwrap();
                let mut slices =
                    [IoSlice::new(&[]), IoSlice::new(set.raw()), IoSlice::new(&[]), IoSlice::new(ping.raw())];
                sender.write_vectored(&mut slices).await.unwrap();
            }
            sender.write_all(&[]).await.unwrap();
            sender.flush().await.unwrap();
            sender
        });
        for _ in 0..1_000 {
            assert!(receiver.next().await.unwrap().is_ok());
            assert!(receiver.next().await.unwrap().is_ok());
            assert_eq!(receiver.next().await.unwrap().as_str(), Some("PONG"));
        }
        let mut sender = writer.await.unwrap();
        assert_eq!(receiver.next_ready().unwrap(), None);

        // Raw bytes, behind what was read ahead.
        sender.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
        let mut raw = BytesMut::new();
        while raw.len() < 7 {
            receiver.read_some(&mut raw).await.unwrap();
        }
        assert_eq!(raw, "+PONG\r\n");
        receiver.set_read_timeout(Some(Duration::from_millis(50)));
        assert!(matches!(receiver.read_some(&mut raw).await, Err(Error::Timeout { .. })));
        receiver.set_read_timeout(None);
        // A timeout is not the end.
        sender.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
        assert_eq!(receiver.next().await.unwrap().as_str(), Some("PONG"));
        sender.shutdown().await.unwrap();
        assert!(matches!(receiver.next().await, Err(Error::Closed { .. })));
    }
}

#[tokio::test]
async fn parts_carry_what_was_read_ahead() {
    let server = Server::any().unwrap();
    let mut connection = plain(&server).await;
    connection.send(["PING"]).await.unwrap();
    connection.send(["ECHO", "second"]).await.unwrap();
    assert_eq!(connection.receive().await.unwrap().as_str(), Some("PONG"));
    let (mut transport, mut buffer) = connection.into_parts();
    while !buffer.ends_with(b"second\r\n") {
        assert_ne!(tokio::io::AsyncReadExt::read_buf(&mut transport, &mut buffer).await.unwrap(), 0);
    }
    assert_eq!(buffer, "$6\r\nsecond\r\n");
}

#[tokio::test]
async fn pushes_do_not_disturb_replies() {
    for binary in servers() {
        let server = Server::builder(binary).start().unwrap();
        let options: ConnectOptions = server.url().parse().unwrap();
        let mut connection =
            Connection::connect(&options.clone().with_protocol(Protocol::Resp3)).await.unwrap();
        let mut other = Connection::connect(&options).await.unwrap();
        connection.call(["CLIENT", "TRACKING", "ON"]).await.unwrap();
        for n in 0..100 {
            connection.call(["GET", "key"]).await.unwrap();
            other.call(["SET", "key", &n.to_string()]).await.unwrap();
            // Out of band: before the reply, or behind it.
            assert_eq!(connection.call(["GET", "key"]).await.unwrap().as_i64(), Some(n), "{}", binary.name);
        }
        connection.call(["PING"]).await.unwrap();
        let mut pushes = 0;
        while let Some(push) = connection.take_push() {
            assert_eq!(push.as_array().unwrap()[0].as_str(), Some("invalidate"));
            pushes += 1;
        }
        assert_eq!(pushes, 100, "{}", binary.name);
        assert_eq!(connection.pushes_dropped(), 0);

        // Subscriptions: RESP3 by pushes beside replies, RESP2 by frames.
        for connection in [&mut connection, &mut other] {
            connection.send(["SUBSCRIBE", "a", "b"]).await.unwrap();
            for name in ["a", "b"] {
                let frame = connection.receive().await.unwrap();
                let items = frame.as_array().unwrap();
                assert_eq!((items[0].as_str(), items[1].as_str()), (Some("subscribe"), Some(name)));
            }
        }
        assert_eq!(connection.call(["PUBLISH", "a", "hello"]).await.unwrap().as_i64(), Some(2));
        for connection in [&mut connection, &mut other] {
            let frame = connection.receive().await.unwrap();
            assert_eq!(frame.as_array().unwrap()[2].as_str(), Some("hello"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_loading_lets_us_in_and_says_so() {
    let builder = Server::builder(all().unwrap().first().unwrap());
    let server = builder.config("rdbcompression", "no").config("key-load-delay", "100").start().unwrap();
    let mut setup = server.client().unwrap();
    setup.call(&["DEBUG", "POPULATE", "20000", "key", "1000"]).unwrap();
    let options = server.url().parse::<ConnectOptions>().unwrap().with_db(1);
    let (begin, mut seen) = (Instant::now(), 0);
    // It is over in a moment: who stands still meanwhile sees nothing of it.
    while seen == 0 {
        assert!(begin.elapsed() < PATIENCE, "it was never seen to load");
        let mut setup = server.client().unwrap();
        let reload = std::thread::spawn(move || setup.call(&["DEBUG", "RELOAD"]).map(drop));
        while !reload.is_finished() {
            let mut connection = Connection::connect(&options).await.unwrap();
            match connection.call(["GET", "key:1"]).await {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.server_code(), Some("LOADING"), "{error}");
                    assert!(error.is_retryable() && !error.may_have_executed());
                    seen += 1;
                }
            }
        }
        reload.join().unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_server_says_that_it_is_full() {
    let server = Server::builder(all().unwrap().first().unwrap()).config("maxclients", "1").start().unwrap();
    let options: ConnectOptions = server.url().parse().unwrap();
    // The test kit's own connection may not be gone yet.
    let first = loop {
        match Connection::connect(&options).await {
            Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_millis(10)).await,
            other => break other.unwrap(),
        }
    };
    for options in [options.clone(), options.clone().with_password(Secret::new("hunter2"))] {
        let error = Connection::connect(&options).await.unwrap_err();
        assert!(matches!(&error, Error::Server { .. }) && error.is_retryable(), "{error:?}");
        assert!(error.to_string().contains("max number of clients"), "{error}");
    }
    drop(first);
}

#[tokio::test]
async fn a_command_larger_than_the_server_takes() {
    let server =
        Server::builder(all().unwrap().first().unwrap()).config("proto-max-bulk-len", "1mb").start().unwrap();
    let mut connection = plain(&server).await;
    let error = connection.call([&b"SET"[..], b"k", &vec![b'x'; 64 << 20]]).await.unwrap_err();
    // Its last words, if the system still delivers them; the broken connection otherwise.
    match &error {
        Error::Server { message, .. } => assert!(message.contains("invalid bulk length"), "{error}"),
        Error::Io { .. } | Error::Closed { .. } => {}
        other => panic!("{other}"),
    }
    assert!(connection.call(["PING"]).await.is_err());
}

#[tokio::test]
async fn calls_without_a_name_and_empty_arguments() {
    let server = Server::any().unwrap();
    let mut connection = plain(&server).await;
    assert!(matches!(connection.call::<[&str; 0], _>([]).await, Err(Error::Misuse { .. })));
    assert!(matches!(connection.call([""]).await, Err(Error::Server { .. })));
    assert!(connection.call([&b"SET"[..], b"", b"\r\n\0\xff"]).await.unwrap().is_ok());
    assert_eq!(connection.call(["GET", ""]).await.unwrap().as_bytes().unwrap(), &b"\r\n\0\xff"[..]);
}

#[tokio::test]
async fn replies_skimmed_beside_others_are_those_of_a_skim() {
    use keyferry_client::{Replies, Skimming};
    use keyferry_resp::encode_command;
    let binaries: Vec<_> = servers().collect();
    for (&binary, &other) in binaries.iter().zip(binaries.iter().rev()) {
        let servers = [binary, other].map(|binary| Server::builder(binary).start().unwrap());
        for protocol in ["", "?protocol=3"] {
            let [mut a, mut b] = [
                connect(&(servers[0].url() + protocol)).await,
                connect(&(servers[1].url() + protocol)).await,
            ];
            for connection in [&mut a, &mut b] {
                connection.call(["FLUSHALL"]).await.unwrap();
                connection.call(["MSET", "a", "1", "large", &"x".repeat(300_000)]).await.unwrap();
                connection.call(["RPUSH", "list", "a", "b"]).await.unwrap();
            }
            b.call(["SET", "b", "2"]).await.unwrap();
            let first: [&[&str]; 7] = [
                &["GET", "a"],
                &["PTTL", "a"],
                &["MGET", "a", "none", "large"],
                &["GET", "list"],
                &["LRANGE", "list", "0", "9"],
                &["GET", "b"],
                &["NONSENSE"],
            ];
            // The second is not asked for the second.
            let second: Vec<&[&str]> = [0, 2, 3, 4, 5, 6].map(|number: usize| first[number]).to_vec();
            let [mut wire, mut other_wire] = [BytesMut::new(), BytesMut::new()];
            first.iter().for_each(|command| encode_command(&mut wire, *command));
            second.iter().for_each(|command| encode_command(&mut other_wire, *command));
            let (mut replies, mut others, mut slow) = (Replies::new(), Replies::new(), Replies::new());
            for _ in 0..2 {
                let sides = [
                    Skimming::new(&mut a, &wire, first.len(), &mut replies),
                    Skimming::new(&mut b, &other_wire, second.len(), &mut others),
                ];
                let twin = |number| Some(if number == 0 { 0 } else { number + 1 });
                Connection::skim_beside(sides, twin).await.unwrap();
                let alike: Vec<bool> = (0..second.len()).map(|number| others.is_alike(number)).collect();
                let plain = protocol.is_empty();
                assert_eq!(alike, [plain, plain, false, plain, false, false], "{} {protocol}", binary.name);
                for (connection, wire, replies) in [(&mut a, &wire, &replies), (&mut b, &other_wire, &others)]
                {
                    connection.skim(wire, replies.len(), &mut slow).await.unwrap();
                    assert_eq!(slow.len(), replies.len());
                    for number in 0..replies.len() {
                        assert_eq!(replies.get(number), slow.get(number), "{} {number}", binary.name);
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn skimmed_replies_are_those_of_a_pipeline() {
    use keyferry_client::Replies;
    use keyferry_resp::{Decoder, encode_command};
    for binary in servers() {
        let server = Server::builder(binary).start().unwrap();
        for url in [server.url(), format!("{}?protocol=3", server.url())] {
            let mut connection = connect(&url).await;
            let large = "x".repeat(300_000);
            connection.call(["MSET", "a", "1", "large", &large]).await.unwrap();
            connection.call(["DEL", "hash"]).await.unwrap();
            connection.call(["HSET", "hash", "f", "v", "g", ""]).await.unwrap();
            let commands: [&[&str]; 9] = [
                &["GET", "a"],
                &["MGET", "a", "none", "hash", "large"],
                &["HGETALL", "hash"],
                &["HGETALL", "a"],
                &["NONSENSE"],
                &["HSCAN", "hash", "0"],
                &["PTTL", "none"],
                &["PING"],
                &["COMMAND"],
            ];
            let (mut pipeline, mut wire) = (Pipeline::new(), BytesMut::new());
            for command in commands {
                pipeline.push(command);
                encode_command(&mut wire, command);
            }
            let frames = connection.pipeline(&pipeline).await.unwrap();
            let mut replies = Replies::new();
            // The memory of the first is used again.
            for _ in 0..2 {
                connection.skim(&wire, commands.len(), &mut replies).await.unwrap();
                let decoded: Vec<Frame> = (0..replies.len())
                    .map(|number| {
                        let mut bytes = BytesMut::from(replies.get(number).unwrap());
                        let frame = Decoder::new().decode(&mut bytes).unwrap().unwrap();
                        assert!(bytes.is_empty(), "{} {number}", binary.name);
                        frame
                    })
                    .collect();
                // In which order servers tell of their commands is theirs.
                assert_eq!(decoded[..8], frames[..8], "{} {url}", binary.name);
                assert_eq!(decoded[8].as_array().map(<[_]>::len), frames[8].as_array().map(<[_]>::len));
                assert_eq!((replies.len(), replies.is_empty(), replies.get(9)), (9, false, None));
            }
            assert_eq!(connection.call(["GET", "a"]).await.unwrap().as_str(), Some("1"));
            replies.clear();
            assert!(replies.is_empty() && replies.get(0).is_none());
            assert!(replies.into_bytes().is_empty());
        }
    }
}
