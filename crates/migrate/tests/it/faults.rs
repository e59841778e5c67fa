//! What goes wrong is said, and nothing half-done passes for done.

use std::time::{Duration, Instant};

use keyferry_migrate::{Delivery, Error, Finished, Outcome, Phase, RefusedAt, SourceMode, Until};
use keyferry_testkit::{Certs, Proxy, Script, Server, data};

use crate::support::{PATIENCE, Running, any, assert_equal, run, temporary_keys};

const ID: &str = "3ad1e7ef023c242514c0b05e48e4ee884551c793";

fn failed(finished: Finished) -> (Error, String) {
    let Outcome::Failed { error } = &finished.report.outcome else { panic!("{:?}", finished.report.outcome) };
    let text = error.clone();
    (finished.result.unwrap_err(), text)
}

/// A source of old times that sends this snapshot and then goes on as told.
fn scripted_source(snapshot: &[u8]) -> Script {
    let mut after = format!("+FULLRESYNC {ID} 100\r\n${}\r\n", snapshot.len()).into_bytes();
    after.extend_from_slice(snapshot);
    let info = "# Server\r\nredis_version:7.0.0\r\nrun_id:x\r\n# Replication\r\nrole:master\r\nmaster_repl_offset:100\r\n";
    let info = format!("${}\r\n{info}\r\n", info.len());
    Script::new()
        // The connection that asks, then the one that replicates.
        .answer_until("INFO", "-ERR unknown command\r\n")
        .send(&info)
        .answer_until("INFO", "-ERR unknown command\r\n")
        .send(&info)
        .answer_until("INFO", "-ERR unknown command\r\n")
        .send(&info)
        .accept()
        .answer_until("INFO", "-ERR unknown command\r\n")
        .send(&info)
        .answer_until("PING", "-ERR unknown command\r\n")
        .send("+PONG\r\n")
        .expect_name("REPLCONF")
        .send("+OK\r\n")
        .expect_name("PSYNC")
        .send(after)
}

/// As the script expects it: without a question more than is needed.
fn directly(options: &mut keyferry_migrate::Options) {
    options.delivery = Delivery::AtLeastOnce;
    options.look_first = false;
    options.source_mode = SourceMode::Psync;
}

/// A real snapshot of a real server.
fn real_snapshot() -> Vec<u8> {
    let server = any();
    data::small(&mut server.client().unwrap(), 8, 2).unwrap();
    server.client().unwrap().call(&["SAVE"]).unwrap();
    std::fs::read(server.dir().join("dump.rdb")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_command_of_the_stream_is_named_with_its_offset() {
    let (source, target) = (any(), any());
    let mut client = source.client().unwrap();
    client.call(&["SET", "fine", "1"]).unwrap();
    let mut running = Running::start(&source.url(), &target.url(), |_| {});
    running.until_phase(Phase::Following).await;
    // The target is made to differ, so that a command that the source takes is refused.
    target.client().unwrap().call(&["SET", "queue", "not a list"]).unwrap();
    client.call(&["SET", "other", "2"]).unwrap();
    client.call(&["RPUSH", "queue", "job 1", "job 2"]).unwrap();
    let (error, text) = failed(running.end().await);
    let Error::Refused(refusal) = error else { panic!("{error}") };
    assert_eq!(refusal.command, "RPUSH queue \"job 1\" \"job 2\"");
    assert!(refusal.reply.starts_with("WRONGTYPE"), "{}", refusal.reply);
    assert_eq!(refusal.db, Some(0));
    let RefusedAt::Stream { offset } = refusal.origin else { panic!("{:?}", refusal.origin) };
    let raw = "*4\r\n$5\r\nRPUSH\r\n$5\r\nqueue\r\n$5\r\njob 1\r\n$5\r\njob 2\r\n".len() as u64;
    let end = crate::support::offset_of(&mut client);
    assert!(offset + raw <= end && offset + raw + 100 > end, "{offset} of {end}");
    assert!(text.contains(&offset.to_string()) && text.contains(&target.addr().to_string()), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_command_of_a_transaction_is_named() {
    let (source, target) = (any(), any());
    let mut client = source.client().unwrap();
    let mut running = Running::start(&source.url(), &target.url(), |_| {});
    running.until_phase(Phase::Following).await;
    target.client().unwrap().call(&["SET", "s", "not a set"]).unwrap();
    client.pipe(&[&["MULTI"][..], &["INCR", "n"], &["SADD", "s", "m"], &["EXEC"]]).unwrap();
    let (error, _) = failed(running.end().await);
    let Error::Refused(refusal) = error else { panic!("{error}") };
    assert_eq!(refusal.command, "SADD s m");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_target_stops_the_run() {
    let source = any();
    let target =
        Server::builder(keyferry_testkit::any().unwrap()).config("maxmemory", "4mb").start().unwrap();
    data::tiny_keys(&mut source.client().unwrap(), 1, 100_000).unwrap();
    let impatient = |o: &mut keyferry_migrate::Options| {
        o.look_first = false;
        o.source_mode = SourceMode::Psync;
        o.retry_other = Duration::from_secs(1);
    };
    let (error, text) = failed(run(&source.url(), &target.url(), impatient).await);
    assert!(matches!(&error, Error::Refused(r) if r.origin == RefusedAt::Snapshot), "{error}");
    // Of the snapshot, or of how far that has come.
    let command = text.contains(" k0") || text.contains("HSET keyferry:migration:");
    assert!(text.contains("OOM") && command && text.contains("maxmemory"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_database_is_said() {
    let source = any();
    let target = Server::builder(keyferry_testkit::any().unwrap()).databases(2).start().unwrap();
    data::small(&mut source.client().unwrap(), 1, 3).unwrap();
    let (_, text) = failed(run(&source.url(), &target.url(), |_| {}).await);
    assert!(text.contains("database 2") && text.contains("has 2 database(s)"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pairs_that_make_no_sense_are_refused_before_anything_is_written() {
    let (source, target) = (any(), any());
    source.client().unwrap().call(&["SET", "a", "1"]).unwrap();
    let url = source.url();
    let (error, _) = failed(run(&url, &url.replace("127.0.0.1", "localhost"), |_| {}).await);
    assert!(matches!(error, Error::SameServer { .. }), "{error}");

    let (host, port) = (source.addr().ip().to_string(), source.port().to_string());
    target.client().unwrap().call(&["REPLICAOF", &host, &port]).unwrap();
    let (error, _) = failed(run(&url, &target.url(), |_| {}).await);
    assert!(matches!(error, Error::TargetIsReplica { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_and_forbidden_ends_say_which_side_and_never_the_password() {
    let (open, locked) =
        (any(), Server::builder(keyferry_testkit::any().unwrap()).password("right").start().unwrap());
    let port = keyferry_testkit::unused_port().unwrap();
    let nobody = format!("redis://:s3cret@127.0.0.1:{port}");
    let wrong = format!("redis://:s3cret@{}", locked.addr());
    for (bad, what) in [(&nobody, "nobody listens"), (&wrong, "wrong password")] {
        for (source, target, side) in [(bad, &open.url(), "source"), (&open.url(), bad, "target")] {
            let window = Duration::from_millis(300);
            let (error, text) = failed(run(source, target, |o| o.reconnect_window = window).await);
            assert!(text.starts_with(side), "{what}: {text}");
            assert!(!format!("{text} {error:?}").contains("s3cret"), "{what}: {error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_another_name_is_refused() {
    let certs = Certs::generate().unwrap();
    let Ok(target) =
        Server::builder(keyferry_testkit::any().unwrap()).tls_with(&certs.ca, &certs.wrong_name).start()
    else {
        return;
    };
    let source = any();
    source.client().unwrap().call(&["SET", "a", "1"]).unwrap();
    let url = format!("{}?ca={}", target.tls_url().unwrap(), certs.ca.display());
    let (error, text) = failed(run(&source.url(), &url, |_| {}).await);
    assert!(matches!(error, Error::Target(_)), "{error}");
    assert!(text.to_lowercase().contains("certificate"), "{text}");
    assert_eq!(target.client().unwrap().int(&["DBSIZE"]).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_dies_inside_its_snapshot_is_a_failure() {
    let mut source = Server::builder(keyferry_testkit::any().unwrap())
        .diskless_sync(true, 0)
        .config("rdb-key-save-delay", "500")
        .start()
        .unwrap();
    let target = any();
    data::tiny_keys(&mut source.client().unwrap(), 1, 50_000).unwrap();
    let window = Duration::from_secs(2);
    let mut running = Running::start(&source.url(), &target.url(), |o| o.reconnect_window = window);
    running.until("some keys", |p| p.figures().keys_applied > 0).await;
    source.kill9();
    let finished = running.end().await;
    assert!(finished.report.figures.keys_applied < 50_000);
    assert!(finished.report.restarts > 0);
    assert!(
        finished.report.notes.iter().any(|note| note.contains("snapshot")),
        "{:?}",
        finished.report.notes
    );
    let (error, text) = failed(finished);
    assert!(matches!(error, Error::Source(_) | Error::SourceConnection(_)), "{error}");
    assert!(text.starts_with("source"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_dies_is_a_failure() {
    let source = any();
    let mut target = any();
    data::tiny_keys(&mut source.client().unwrap(), 1, 1000).unwrap();
    let mut running = Running::start(&source.url(), &target.url(), directly);
    running.until_phase(Phase::Following).await;
    target.kill9();
    // Noticed although nothing is being sent.
    let (error, text) = failed(running.end().await);
    assert!(matches!(error, Error::Target(_)), "{error}");
    assert!(text.starts_with("target"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_an_error_with_its_offset() {
    let good = real_snapshot();
    let mut flipped = good.clone();
    let last = flipped.len() - 12;
    flipped[last] ^= 0x10;
    let mut cut = good.clone();
    cut.truncate(good.len() / 2);
    for (snapshot, what) in [(flipped, "a flipped bit"), (cut, "a cut file")] {
        let target = any();
        let peer = scripted_source(&snapshot).await_close().start().unwrap();
        let (error, text) = failed(run(&peer.url(), &target.url(), directly).await);
        assert!(matches!(error, Error::Snapshot(_)), "{what}: {error}");
        assert!(text.chars().any(|c| c.is_ascii_digit()), "{what}: {text}");
        assert_eq!(temporary_keys(&target), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_built_key_is_taken_away_when_the_snapshot_breaks() {
    // A list that claims a million elements and ends after some of them.
    let mut snapshot = b"REDIS0009\xFE\x00\x01\x03big\x80\x00\x0f\x42\x40".to_vec();
    for n in 0..20_000 {
        snapshot.extend_from_slice(format!("\x07e{n:06}").as_bytes());
    }
    let target = any();
    let peer = scripted_source(&snapshot).await_close().start().unwrap();
    let finished = run(&peer.url(), &target.url(), |o| {
        directly(o);
        o.value_limit = 4096;
    })
    .await;
    assert!(finished.report.notes.is_empty(), "{:?}", finished.report.notes);
    assert!(matches!(failed(finished).0, Error::Snapshot(_)));
    assert_eq!(temporary_keys(&target), 0);
    assert_eq!(target.client().unwrap().int(&["DBSIZE"]).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_journal_directory_is_refused_before_anything_is_written() {
    let (source, target) = (any(), any());
    source.client().unwrap().call(&["SET", "a", "1"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("precious"), b"x").unwrap();
    let (error, text) =
        failed(run(&source.url(), &target.url(), |o| o.journal = Some(dir.path().to_owned())).await);
    assert!(matches!(error, Error::JournalInUse { .. }), "{error}");
    assert!(text.contains("precious"), "{text}");
    assert_eq!(target.client().unwrap().int(&["DBSIZE"]).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_history_ends_the_run() {
    let (source, target) = (any(), any());
    let proxy = Proxy::start(source.addr()).unwrap();
    data::tiny_keys(&mut source.client().unwrap(), 1, 100).unwrap();
    let mut running = Running::start(&format!("redis://{}", proxy.addr()), &target.url(), |o| {
        o.delivery = Delivery::AtLeastOnce;
    });
    running.until_phase(Phase::Following).await;
    source.client().unwrap().call(&["DEBUG", "CHANGE-REPL-ID"]).unwrap();
    proxy.cut();
    let (error, text) = failed(running.end().await);
    assert!(matches!(error, Error::HistoryLost { .. }), "{error}");
    assert!(text.contains("repl-backlog-size"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_stays_away_is_given_up() {
    let mut source = any();
    let target = any();
    data::tiny_keys(&mut source.client().unwrap(), 1, 100).unwrap();
    let mut running =
        Running::start(&source.url(), &target.url(), |o| o.reconnect_window = Duration::from_secs(1));
    running.until_phase(Phase::Following).await;
    source.kill9();
    let (error, text) = failed(running.end().await);
    assert!(matches!(error, Error::Source(_)), "{error}");
    assert!(text.contains("gave up"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_lies_in_its_replies_is_refused() {
    let source = any();
    data::tiny_keys(&mut source.client().unwrap(), 1, 100).unwrap();
    for lie in ["*2147483647\r\n*2147483647\r\n*2147483647\r\n", "$9223372036854775807\r\n", "?\r\n"] {
        let info = "# Server\r\nredis_version:7.0.0\r\nrun_id:x\r\n# Replication\r\nrole:master\r\n";
        let info = format!("${}\r\n{info}\r\n", info.len());
        let peer = Script::new()
            .answer_until("INFO", "-ERR unknown command\r\n")
            .send(&info)
            .answer_until("INFO", "-ERR unknown command\r\n")
            .send(&info)
            .answer_until("INFO", "-ERR unknown command\r\n")
            .send(&info)
            .expect_name("SELECT")
            .send(lie.repeat(50))
            .await_close()
            .start()
            .unwrap();
        let (error, text) = failed(
            run(&source.url(), &peer.url(), |o| {
                directly(o);
                o.target_silence = Duration::from_secs(3);
            })
            .await,
        );
        assert!(
            matches!(error, Error::TargetProtocol { .. } | Error::TargetSilent { .. } | Error::Target(_)),
            "{lie:?}: {error}"
        );
        assert!(text.contains(&peer.addr().to_string()), "{lie:?}: {text}");
    }
}

/// A replica hands on what its primary sends, without selecting a database anew: the snapshot says which it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_as_source_keeps_the_database_of_its_stream() {
    let (primary, replica, target) = (any(), any(), any());
    let mut client = primary.client().unwrap();
    client.call(&["SELECT", "7"]).unwrap();
    client.call(&["SET", "last database of the snapshot", "1"]).unwrap();
    let (host, port) = (primary.addr().ip().to_string(), primary.port().to_string());
    let mut at_replica = replica.client().unwrap();
    at_replica.call(&["REPLICAOF", &host, &port]).unwrap();
    let up = |c: &mut keyferry_testkit::Client| {
        Ok(c.info("replication", "master_link_status")?.as_deref() == Some("up"))
    };
    assert!(at_replica.wait_until(PATIENCE, up).unwrap());
    client.call(&["SELECT", "3"]).unwrap();
    client.call(&["INCR", "n"]).unwrap();
    let mut running = Running::start(&replica.url(), &target.url(), |_| {});
    running.until_phase(Phase::Following).await;
    for _ in 0..10 {
        client.call(&["INCR", "n"]).unwrap();
    }
    let offset = crate::support::offset_of(&mut client);
    running.until_applied(offset).await;
    running.stopper.stop();
    running.end().await.result.unwrap();
    let mut at_target = target.client().unwrap();
    at_target.call(&["SELECT", "3"]).unwrap();
    assert_eq!(at_target.text(&["GET", "n"]).unwrap(), "11");
    at_target.call(&["SELECT", "7"]).unwrap();
    assert_eq!(at_target.int(&["DBSIZE"]).unwrap(), 1);
}

/// Every write to the target would come back by the source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_the_target_is_no_source() {
    let (target, source) = (any(), any());
    target.client().unwrap().call(&["SET", "a", "1"]).unwrap();
    let (host, port) = (target.addr().ip().to_string(), target.port().to_string());
    let mut client = source.client().unwrap();
    client.call(&["REPLICAOF", &host, &port]).unwrap();
    let up = |c: &mut keyferry_testkit::Client| {
        Ok(c.info("replication", "master_link_status")?.as_deref() == Some("up"))
    };
    assert!(client.wait_until(PATIENCE, up).unwrap());
    let (error, _) = failed(run(&source.url(), &target.url(), |_| {}).await);
    assert!(matches!(error, Error::SameHistory { .. }), "{error}");
}

/// A source that stands still is not "caught up", and its link ends after the silence limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_hangs_is_noticed() {
    let (source, target) = (any(), any());
    data::tiny_keys(&mut source.client().unwrap(), 1, 100).unwrap();
    let mut running = Running::start(&source.url(), &target.url(), |o| {
        o.link.silence = Duration::from_secs(2);
    });
    running.until_phase(Phase::Following).await;
    source.pause().unwrap();
    running.until("trouble", |p| p.figures().trouble.is_some()).await;
    source.resume().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_side_that_is_away_at_the_start_is_waited_for() {
    let (source, target) = (any(), any());
    data::small(&mut source.client().unwrap(), 9, 2).unwrap();
    let (to_source, to_target) = (Proxy::start(source.addr()).unwrap(), Proxy::start(target.addr()).unwrap());
    to_target.refuse(true);
    let (from, to) = (format!("redis://{}", to_source.addr()), format!("redis://{}", to_target.addr()));
    let mut running = Running::start(&from, &to, |o| o.until = Until::caught_up());
    running.until("trouble", |p| p.figures().trouble.is_some_and(|t| t.contains("trying again"))).await;
    to_source.refuse(true);
    to_target.refuse(false);
    tokio::time::sleep(Duration::from_millis(500)).await;
    to_source.refuse(false);
    let Finished { report, result, .. } = running.end().await;
    result.unwrap();
    assert_eq!(report.outcome, Outcome::CaughtUp { source_was_writing: false });
    // Nothing had been begun.
    assert_eq!(report.restarts, 0, "{:?}", report.notes);
    assert_equal(&source, &target, "after waiting for both sides");

    to_target.refuse(true);
    let begun = Instant::now();
    let finished = run(&from, &to, |o| o.reconnect_window = Duration::from_secs(1)).await;
    let (error, text) = failed(finished);
    assert!(matches!(error, Error::Target(_)), "{text}");
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}
