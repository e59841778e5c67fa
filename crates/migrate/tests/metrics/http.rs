//! Requests as they should be, and others.

use keyferry_testkit::Server;

use crate::support::{Watched, exchange, header};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_requests_are_answered_and_do_no_harm() {
    let (source, target) = (Server::any().unwrap(), Server::any().unwrap());
    let watched = Watched::start(&source.url(), &target.url(), |_| {}).await;
    let address = watched.address;
    for (request, status) in [
        (&b"GET /nothing HTTP/1.1\r\n\r\n"[..], "404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "405"),
        (b"\xff\xfe\x00\r\n\r\n", "400"),
        (b"GET /metrics\r\n\r\n", "400"),
        (b"GET / HTTP/1.0\r\n\r\n", "200"),
    ] {
        let answer = exchange(address, request).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
    }
    let endless = [b"GET /metrics HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 9000]].concat();
    assert!(exchange(address, &endless).await.starts_with("HTTP/1.1 431 "));

    let answer = exchange(address, b"HEAD /metrics HTTP/1.1\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body.is_empty());
    assert_eq!(header(head, "Content-Type"), "text/plain; version=0.0.4; charset=utf-8");

    // Those that say nothing keep nobody else from an answer.
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(watched.get("/healthz").await, (200, "ok\n".to_owned()));
    watched.stopper.stop();
    watched.end().await;
}
