//! The little of HTTP/1.1 that a scraper, a probe and an operator need: one request a connection, without a body.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};

/// A request is at most so long.
const LONGEST_HEAD: usize = 8 << 10;

/// Time for a request to come, and for the answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests that are answered at the same time; others wait.
const AT_ONCE: usize = 16;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request<'r> {
    /// `HEAD` is a `GET` here.
    pub(crate) method: &'r str,
    /// Without what follows a `?`.
    pub(crate) path: &'r str,
    /// What follows it.
    pub(crate) query: &'r str,
    /// What the header `Authorization` says behind `Bearer`.
    pub(crate) token: Option<&'r str>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) body: String,
}

/// Where requests come.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Listener::Tcp(listener) => Box::new(listener.accept().await?.0),
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

impl Answer {
    pub(crate) fn text(status: u16, body: impl Into<String>) -> Self {
        Answer { status, kind: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// Answers requests until the future is dropped.
pub(crate) async fn serve(
    listener: Listener,
    answer: impl Fn(&Request<'_>) -> Answer + Send + Sync + 'static,
) {
    let (answer, places) = (Arc::new(answer), Arc::new(Semaphore::new(AT_ONCE)));
    // Tasks end with the set.
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok(stream) => {
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

async fn exchange(
    mut stream: Box<dyn Stream>,
    answer: &(impl Fn(&Request<'_>) -> Answer + Sync),
) -> io::Result<()> {
    let head = match tokio::time::timeout(PATIENCE, read_head(&mut stream)).await {
        Ok(head) => head?,
        Err(_) => return Ok(()),
    };
    let (answer, with_body) = match head.as_deref().map(request) {
        None => (Answer::text(431, "the request is too long\n"), true),
        Some(None) => (Answer::text(400, "this is no HTTP request\n"), true),
        Some(Some(request)) if request.method == "HEAD" => {
            (answer(&Request { method: "GET", ..request }), false)
        }
        Some(Some(request)) => (answer(&request), true),
    };
    let Answer { status, kind, body } = answer;
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
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
async fn read_head(stream: &mut Box<dyn Stream>) -> io::Result<Option<Vec<u8>>> {
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

/// What the head of a request says.
fn request(head: &[u8]) -> Option<Request<'_>> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let well_formed = version.starts_with("HTTP/1.") && target.starts_with('/') && words.next().is_none();
    let token = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let bearer = value.trim().split_once(' ').filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
        bearer.filter(|_| name.eq_ignore_ascii_case("authorization")).map(|(_, token)| token.trim())
    });
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    well_formed.then_some(Request { method, path, query, token })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_line_tells() {
        let get = Request { method: "GET", path: "/metrics", query: "x=1", token: None };
        assert_eq!(request(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"), Some(get));
        let post = Request { method: "POST", path: "/", query: "", token: Some("secret") };
        let head = b"POST / HTTP/1.0\r\nA: b\r\nauthorization:  bearer secret \r\n\r\n";
        assert_eq!(request(head), Some(post));
        let other = b"POST / HTTP/1.0\r\nAuthorization: Basic secret\r\nX: Bearer y\r\n\r\n";
        assert_eq!(request(other), Some(Request { token: None, ..post }));
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
