//! Real servers: started, authenticated, stopped, killed, restarted, and gone afterwards.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyferry_resp::Frame;
use keyferry_testkit::{Certs, Client, Error, Server, Vendor, all, any, process, unused_port};

type Result<T = ()> = keyferry_testkit::Result<T>;

fn gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

fn within(seconds: u64, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn every_server_starts_and_tells_its_version() -> Result {
    for binary in all()? {
        let server = Server::builder(binary).start()?;
        let mut client = server.client()?;
        let field = match binary.vendor {
            Vendor::Valkey => "valkey_version",
            Vendor::Redict => "redict_version",
            _ => "redis_version",
        };
        assert_eq!(client.info("server", field)?, Some(binary.version.to_string()), "{binary}");
        assert_eq!(client.text(&["PING"])?, "PONG");
        // DEBUG works everywhere, and nothing is ever saved by itself.
        client.call(&["DEBUG", "SLEEP", "0"])?;
        assert!(
            matches!(&client.list(&["CONFIG", "GET", "save"])?[1], Frame::Bulk(value) if value.is_empty())
        );
        let pid = server.pid().unwrap();
        let dir = server.dir().to_owned();
        assert!(server.peak_rss_kib()? > 1000);
        assert!(server.cpu_seconds()? >= 0.0);
        drop(server);
        assert!(gone(pid), "{binary} is still there");
        assert!(!dir.exists());
    }
    Ok(())
}

#[test]
fn passwords_and_users() -> Result {
    let server = Server::builder(any()?)
        .password("p@ss \"word\\%")
        .user("reader", "on >other ~public:* +get +ping")
        .databases(3)
        .start()?;
    assert_eq!(server.url(), format!("redis://:p%40ss%20%22word%5C%25@127.0.0.1:{}", server.port()));
    let mut client = server.client()?;
    client.call(&["SET", "public:a", "1"])?;
    assert!(matches!(client.call(&["SELECT", "3"]), Err(Error::Refused { .. })));
    let mut stranger = Client::connect(&server.addr().to_string())?;
    assert!(stranger.call(&["GET", "public:a"]).unwrap_err().to_string().contains("NOAUTH"));
    stranger.call(&["AUTH", "reader", "other"])?;
    assert_eq!(stranger.text(&["GET", "public:a"])?, "1");
    assert!(stranger.call(&["GET", "private"]).unwrap_err().to_string().contains("NOPERM"));
    Ok(())
}

#[test]
fn unix_socket_and_pipelines() -> Result {
    let server = Server::builder(any()?).unix_socket().start()?;
    let mut client = Client::connect_unix(&server.unix_path().unwrap())?;
    let commands: Vec<[String; 3]> =
        (0..10_000).map(|i| ["SET".into(), format!("key:{i}"), format!("{i}")]).collect();
    let replies = client.pipe(&commands)?;
    assert_eq!(replies.len(), 10_000);
    assert!(replies.iter().all(|reply| matches!(reply, Frame::Simple(_))));
    assert_eq!(client.int(&["DBSIZE"])?, 10_000);
    assert_eq!(client.bytes(&["GET", "none"])?, None);
    assert_eq!(client.bytes(&["GET", "key:77"])?.as_deref(), Some(&b"77"[..]));
    // Errors stay in their place.
    let replies = client.pipe(&[vec!["INCR", "key:1"], vec!["NONSENSE"], vec!["INCR", "key:1"]])?;
    assert!(matches!(replies[..], [Frame::Integer(2), Frame::Error(_), Frame::Integer(3)]), "{replies:?}");
    assert!(matches!(client.int(&["PING"]), Err(Error::Unexpected { .. })));
    Ok(())
}

#[test]
fn tls_ports_of_those_that_have_tls() -> Result {
    let certs = Certs::generate()?;
    let mut with_tls = 0;
    for binary in all()? {
        match Server::builder(binary).tls(&certs).tls_client_certs().start() {
            Ok(server) => {
                with_tls += 1;
                let url = server.tls_url().unwrap();
                assert_eq!(url, format!("rediss://127.0.0.1:{}", server.tls_port().unwrap()));
                // The server's own client judges the certificates, where there is one.
                let Some(cli) = binary.cli() else { continue };
                let ping = |ca: &Path, with_cert: bool| {
                    let mut command = Command::new(&cli);
                    command.args([
                        "-h",
                        "127.0.0.1",
                        "-p",
                        &server.tls_port().unwrap().to_string(),
                        "--tls",
                        "--cacert",
                    ]);
                    command.arg(ca);
                    if with_cert {
                        command.arg("--cert").arg(&certs.client.cert).arg("--key").arg(&certs.client.key);
                    }
                    let output = command.arg("PING").stdin(Stdio::null()).output().unwrap();
                    String::from_utf8_lossy(&output.stdout).trim() == "PONG"
                };
                assert!(ping(&certs.ca, true), "{binary}");
                assert!(!ping(&certs.ca, false), "{binary}: no client certificate");
                assert!(!ping(&certs.other_ca, true), "{binary}: wrong authority");
            }
            Err(Error::NoTls { name }) => assert_eq!(name, binary.name),
            Err(error) => return Err(error),
        }
    }
    assert!(with_tls > 0 || all()?.len() == 1);
    Ok(())
}

#[test]
fn kill_and_restart_keep_what_the_append_only_file_has() -> Result {
    let mut server = Server::builder(any()?).append_only("always").start()?;
    let (port, first) = (server.port(), server.pid().unwrap());
    server.client()?.call(&["SET", "kept", "1"])?;
    server.kill9();
    assert!(gone(first));
    assert_eq!(server.pid(), None);
    assert!(matches!(server.client(), Err(Error::Connection { .. })));
    server.restart()?;
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), Some(first));
    assert_eq!(server.client()?.text(&["GET", "kept"])?, "1");
    assert!(server.terminate(Duration::from_secs(60))?, "ended by itself");
    server.restart()?;
    assert_eq!(server.client()?.text(&["GET", "kept"])?, "1");
    Ok(())
}

#[test]
fn a_paused_server_is_silent_and_still_ends() -> Result {
    let server = Server::any()?;
    let mut client = server.client()?;
    client.set_timeout(Duration::from_millis(80))?;
    server.pause()?;
    assert!(matches!(client.call(&["PING"]), Err(Error::Connection { .. })));
    server.resume()?;
    client.set_timeout(Duration::from_secs(60))?;
    // The reply to the first PING comes late; it is not lost.
    assert!(matches!(client.reply()?, Frame::Simple(_)));
    server.pause()?;
    let pid = server.pid().unwrap();
    drop(server);
    assert!(gone(pid));
    Ok(())
}

#[test]
fn snapshot_children_end_with_their_server() -> Result {
    let mut server = Server::builder(any()?).config("rdb-key-save-delay", "1000000").start()?;
    let mut client = server.client()?;
    for i in 0..100 {
        client.call(&["SET", &format!("k{i}"), "v"])?;
    }
    client.call(&["BGSAVE"])?;
    let pid = server.pid().unwrap();
    let children = || -> Vec<u32> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
    };
    assert!(within(60, || !children().is_empty()));
    let children = children();
    server.kill9();
    assert!(within(60, || children.iter().all(|&child| gone(child))));
    Ok(())
}

#[test]
fn bad_settings_are_told_with_the_servers_own_words() -> Result {
    let error = Server::builder(any()?).config("no-such-directive", "1").start().unwrap_err();
    assert!(matches!(&error, Error::Exited { log, .. } if log.contains("no-such-directive")), "{error}");
    // A port that nobody listens on.
    let address = format!("127.0.0.1:{}", unused_port()?);
    let error = Client::connect(&address).unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
    Ok(())
}

#[test]
fn cluster_nodes_start() -> Result {
    let server = Server::builder(any()?).cluster().start()?;
    assert_eq!(server.client()?.info("cluster", "cluster_enabled")?.as_deref(), Some("1"));
    Ok(())
}

/// Not a test by itself: the next one runs it in a process of its own and kills that.
#[test]
#[ignore = "run by servers_end_when_the_test_process_is_killed"]
fn hold_a_server() -> Result {
    let server = Server::any()?;
    println!("\nheld {} {}", server.pid().unwrap(), server.dir().display());
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

#[test]
fn servers_end_when_the_test_process_is_killed() {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold_a_server", "--ignored", "--nocapture"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let line = lines.map_while(|line| line.ok()).find(|line| line.starts_with("held ")).unwrap();
    let mut words = line.split(' ').skip(1);
    let pid: u32 = words.next().unwrap().parse().unwrap();
    let dir = words.next().unwrap().to_owned();
    assert!(!gone(pid) && Path::new(&dir).exists());
    assert!(process::rss_kib(pid).is_ok());
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(within(60, || gone(pid)), "server {pid} outlived its test");
    assert!(within(60, || !Path::new(&dir).exists()));
}
