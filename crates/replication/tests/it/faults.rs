//! Scripted peers.

use std::time::Duration;

use keyferry_replication::{Doing, Error, LinkOptions, Replica};
use keyferry_testkit::{Peer, Script};

use crate::support::Seen;

const ID: &str = "3ad1e7ef023c242514c0b05e48e4ee884551c793";

/// A peer that shakes hands like a server of old times (no `HELLO`), then sends `after`.
fn handshake(after: &str) -> Script {
    Script::new()
        .answer_until("PING", "-ERR unknown command\r\n")
        .send("+PONG\r\n")
        .expect_name("REPLCONF")
        .send("+OK\r\n")
        .expect_name("PSYNC")
        .send(after)
}

async fn failure(peer: &Peer, silence: Duration) -> (Seen, Error) {
    let mut options = LinkOptions::default();
    options.silence = silence;
    let mut replica = Replica::new(peer.url().parse().unwrap(), options, Duration::ZERO, None);
    let mut seen = Seen::default();
    loop {
        if let Err(error) = seen.step(&mut replica).await {
            return (seen, error);
        }
    }
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_server_that_is_not_ready_is_told_from_one_that_refuses() {
    for (reply, retryable) in [
        ("-LOADING Redis is loading the dataset in memory\r\n", true),
        ("-NOMASTERLINK Can't SYNC while not connected with my master\r\n", true),
        ("-ERR unknown command 'PSYNC'\r\n", false),
        ("+WHATEVER\r\n", false),
        (":1\r\n", false),
    ] {
        let peer = handshake(reply).start().unwrap();
        let (_, error) = failure(&peer, LONG).await;
        assert_eq!(error.is_retryable(), retryable, "{error}");
        assert!(error.to_string().contains(&peer.addr().to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_snapshot_that_fails_at_the_server_is_said_in_its_words() {
    let after = format!("+FULLRESYNC {ID} 5\r\n\n\n-ERR BGSAVE failed, replication can't continue\r\n");
    let peer = handshake(&after).start().unwrap();
    let (seen, error) = failure(&peer, LONG).await;
    assert!(matches!(&error, Error::SnapshotFailed { message, .. } if message.contains("BGSAVE")), "{error}");
    assert!(seen.snapshot.is_empty());
}

#[tokio::test]
async fn a_snapshot_cut_short_says_how_much_had_come() {
    let after = format!("+FULLRESYNC {ID} 5\r\n$100\r\nREDIS0011");
    let peer = handshake(&after).close().start().unwrap();
    let (seen, error) = failure(&peer, LONG).await;
    assert!(!seen.snapshot_complete);
    assert!(matches!(error, Error::Closed { doing: Doing::Snapshot { received: 9 }, .. }), "{error}");
}

#[tokio::test]
async fn silence_ends_a_link() {
    let after = format!("+FULLRESYNC {ID} 5\r\n$100\r\nREDIS0011");
    let peer = handshake(&after).sleep(Duration::from_secs(30)).start().unwrap();
    let (_, error) = failure(&peer, Duration::from_millis(1500)).await;
    assert!(matches!(error, Error::Silent { doing: Doing::Snapshot { received: 9 }, .. }), "{error}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_stream_that_lost_its_place_is_refused_with_its_offset() {
    let good = "*1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n";
    for bad in ["SET a b\r\n", "+OK\r\n", "*-2\r\n", "*1\r\n$99999999999999999999\r\n"] {
        let after = format!("+FULLRESYNC {ID} 100\r\n$3\r\nabc{good}{bad}");
        let peer = handshake(&after).sleep(Duration::from_millis(200)).close().start().unwrap();
        let (seen, error) = failure(&peer, LONG).await;
        assert!(seen.commands.ends_with(b"$1\r\nb\r\n"), "{bad:?}");
        let expected = 100 + good.len() as u64;
        assert!(matches!(error, Error::Stream { offset, .. } if offset == expected), "{bad:?}: {error}");
    }
}

#[tokio::test]
async fn hostile_claims_cost_no_memory_and_no_panic() {
    for header in ["$18446744073709551615\r\n", "$EOF:\r\n", "$-5\r\n", "$EOF:0123456789\r\n", "*1000000\r\n"]
    {
        let after = format!("+FULLRESYNC {ID} 100\r\n{header}");
        let peer = handshake(&after).close().start().unwrap();
        let (_, error) = failure(&peer, LONG).await;
        assert!(
            matches!(
                error,
                Error::UnexpectedReply { .. } | Error::Closed { doing: Doing::Snapshot { received: 0 }, .. }
            ),
            "{header:?}: {error}"
        );
    }
}

#[tokio::test]
async fn nobody_listening_is_said_at_once() {
    let port = keyferry_testkit::unused_port().unwrap();
    let url = format!("redis://127.0.0.1:{port}");
    let mut replica = Replica::new(url.parse().unwrap(), LinkOptions::default(), LONG, None);
    let error = Seen::default().step(&mut replica).await.unwrap_err();
    assert!(matches!(error, Error::Connection(_)), "{error}");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
}
