//! A migration with its metrics server, and a client for it.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use keyferry_migrate::{Finished, Migration, Options, Stopper, metrics::MetricsServer};
use prometheus_parse::{Scrape, Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

/// Longer than any step here should take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Watched {
    pub(crate) address: SocketAddr,
    pub(crate) stopper: Stopper,
    serving: JoinHandle<()>,
    running: JoinHandle<Finished>,
}

impl Watched {
    pub(crate) async fn start(source: &str, target: &str, options: impl FnOnce(&mut Options)) -> Self {
        let mut migration = Migration::new(source.parse().unwrap(), target.parse().unwrap());
        options(migration.options_mut());
        let server = MetricsServer::bind("127.0.0.1:0".parse().unwrap(), &migration).await.unwrap();
        Watched {
            address: server.address(),
            stopper: migration.stopper(),
            serving: tokio::spawn(server.serve()),
            running: tokio::spawn(migration.run()),
        }
    }

    /// Asks for a path: the status and the body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        get(self.address, path).await
    }

    pub(crate) async fn page(&self) -> Page {
        let (status, body) = self.get("/metrics").await;
        assert_eq!(status, 200);
        Page::parse(&body)
    }

    /// Waits until the page is so.
    pub(crate) async fn until(&self, what: &str, mut done: impl FnMut(&Page) -> bool) -> Page {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let page = self.page().await;
            if done(&page) {
                return page;
            }
            assert!(tokio::time::Instant::now() < end && !self.running.is_finished(), "{what}: {page:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn end(self) -> Finished {
        let finished = tokio::time::timeout(PATIENCE, self.running).await.unwrap().unwrap();
        self.serving.abort();
        finished
    }
}

/// Asks for a path: the status and the body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    let answer = exchange(address, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length: usize = header(head, "Content-Length").parse().unwrap();
    assert_eq!(body.len(), length);
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Sends bytes, and gives all that comes.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

pub(crate) fn header<'h>(head: &'h str, name: &str) -> &'h str {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap()
}

/// What a scraper makes of the page.
#[derive(Debug)]
pub(crate) struct Page {
    /// By name and label.
    values: BTreeMap<(String, Option<String>), f64>,
    pub(crate) help: BTreeMap<String, String>,
    pub(crate) is_counter: BTreeMap<String, bool>,
}

impl Page {
    pub(crate) fn parse(body: &str) -> Self {
        assert!(body.ends_with('\n'));
        let scrape = Scrape::parse(body.lines().map(|line| Ok(line.to_owned()))).unwrap();
        let samples = body.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(scrape.samples.len(), samples, "a line is none:\n{body}");
        let mut page = Page {
            values: BTreeMap::new(),
            help: scrape.docs.into_iter().collect(),
            is_counter: BTreeMap::new(),
        };
        for sample in scrape.samples {
            let (value, is_counter) = match sample.value {
                Value::Counter(value) => (value, true),
                Value::Gauge(value) => (value, false),
                other => panic!("{}: {other:?}", sample.metric),
            };
            page.is_counter.insert(sample.metric.clone(), is_counter);
            let labels: Vec<&String> = sample.labels.values().collect();
            assert!(labels.len() <= 1, "{labels:?}");
            let of = (sample.metric, labels.first().map(|label| (*label).clone()));
            assert!(page.values.insert(of.clone(), value).is_none(), "{of:?} is there twice");
        }
        page
    }

    /// The value of a metric without a label, or with this one.
    pub(crate) fn get(&self, name: &str, label: Option<&str>) -> Option<f64> {
        self.values.get(&(name.to_owned(), label.map(str::to_owned))).copied()
    }

    /// Of the only link.
    pub(crate) fn link(&self, name: &str) -> Option<f64> {
        self.get(name, Some("source"))
    }

    /// The labels of a metric.
    pub(crate) fn labels(&self, name: &str) -> Vec<&str> {
        self.values.keys().filter(|(of, _)| of == name).filter_map(|(_, label)| label.as_deref()).collect()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.is_counter.keys().map(String::as_str)
    }
}
