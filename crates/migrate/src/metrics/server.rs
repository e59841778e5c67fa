//! The little of HTTP/1.1 that a scraper and a probe need: one `GET` or `HEAD` a connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// A request is at most so long.
const LONGEST_HEAD: usize = 8 << 10;

/// Time for a request to come, and for the answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests that are answered at the same time; others wait.
const AT_ONCE: usize = 16;

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn text(status: u16, body: impl Into<String>) -> Self {
        Answer { status, kind: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// Answers requests until the future is dropped. `answer` is given the path.
pub(super) async fn serve(listener: TcpListener, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) {
    let (answer, places) = (Arc::new(answer), Arc::new(Semaphore::new(AT_ONCE)));
    // Tasks end with the set.
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = Arc::clone(&answer);
                tasks.spawn(async move {
                    let _place = place;
                    // A client that goes away is nobody's trouble.
                    let _ = tokio::time::timeout(2 * PATIENCE, exchange(stream, &*answer)).await;
                });
            }
            // Out of descriptors, for example: that passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Binds, so that an address that cannot be had is told before anything begins.
pub(super) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

async fn exchange(mut stream: TcpStream, answer: &(impl Fn(&str) -> Answer + Sync)) -> io::Result<()> {
    let head = match tokio::time::timeout(PATIENCE, read_head(&mut stream)).await {
        Ok(head) => head?,
        Err(_) => return Ok(()),
    };
    let (answer, with_body) = match head.as_deref().map(request) {
        None => (Answer::text(431, "the request is too long\n"), true),
        Some(None) => (Answer::text(400, "this is no HTTP request\n"), true),
        Some(Some((method, path))) => match method {
            "GET" => (answer(path), true),
            "HEAD" => (answer(path), false),
            _ => (Answer::text(405, "GET and HEAD only\n"), true),
        },
    };
    let Answer { status, kind, body } = answer;
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "",
    };
    let length = body.len();
    let mut out = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    );
    if with_body {
        out.push_str(&body);
    }
    stream.write_all(out.as_bytes()).await?;
    stream.shutdown().await?;
    // What was sent and not read would make the system throw the answer away.
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// All up to the empty line; `None` when that is too long or never comes.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let count = stream.read(&mut piece).await?;
        head.extend_from_slice(&piece[..count]);
        if count == 0 || head.windows(4).any(|four| four == b"\r\n\r\n") {
            return Ok(Some(head));
        }
        if head.len() > LONGEST_HEAD {
            return Ok(None);
        }
    }
}

/// The method and the path of a request, without what follows a `?`.
fn request(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|&b| b == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let well_formed = version.starts_with("HTTP/1.") && target.starts_with('/') && words.next().is_none();
    well_formed.then(|| (method, target.split('?').next().unwrap_or(target)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_line_tells() {
        assert_eq!(request(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"), Some(("GET", "/metrics")));
        assert_eq!(request(b"POST / HTTP/1.0\r\n\r\n"), Some(("POST", "/")));
        for wrong in [
            &b""[..],
            b"GET /",
            b"GET / HTTP/2\r\n",
            b"GET http://a/ HTTP/1.1\r\n",
            b"\xff / HTTP/1.1\r\n",
            b"GET / HTTP/1.1 x\r\n",
        ] {
            assert_eq!(request(wrong), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(head in proptest::collection::vec(any::<u8>(), 0..200)) {
            request(&head);
        }
    }
}
