//! The small primary: what replication and questions about it are answered with.

use std::{fmt::Write as _, sync::Arc, sync::atomic::AtomicBool, sync::atomic::Ordering};

use bytes::BytesMut;
use keyferry_client::{Connection, Frame, Info, Protocol};
use keyferry_replication::ReplicationId;
use keyferry_resp::{Command, CommandDecoder, encode::encode_frame};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{
    Memory, Settings,
    follow::{Followed, Follower},
    pass,
    state::{Shared, Stage},
};
use crate::options::Follow;

/// What every connection is served from.
pub(super) struct Primary {
    pub(super) settings: Settings,
    pub(super) shared: Arc<Shared>,
    pub(super) memory: Arc<Memory>,
    /// The id of the history.
    pub(super) id: String,
    /// The snapshot has been asked for.
    pub(super) begun: AtomicBool,
    /// Away while the stream uses them.
    pub(super) followed: tokio::sync::Mutex<Vec<Followed>>,
}

/// An id that no server has, or a mark that is in no snapshot.
pub(super) fn new_id() -> String {
    ReplicationId::random().to_string()
}

/// One connection.
struct Session {
    primary: Arc<Primary>,
    stream: UnixStream,
    protocol: Protocol,
    /// To the source, for what only it knows.
    source: Option<Connection>,
}

/// Serves one connection until it ends.
pub(super) async fn serve(primary: Arc<Primary>, stream: UnixStream) {
    let mut session = Session { primary, stream, protocol: Protocol::Resp2, source: None };
    let (mut decoder, mut buffer) = (CommandDecoder::new(), BytesMut::new());
    loop {
        let command = match decoder.decode(&mut buffer) {
            Ok(Some(command)) => command,
            Ok(None) => match session.stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            },
            Err(_) => return,
        };
        if command.is("PSYNC") {
            return session.replicate().await;
        }
        let Some(reply) = session.reply(&command).await else { continue };
        let mut out = BytesMut::new();
        encode_frame(&mut out, &reply, session.protocol);
        if session.stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

fn simple(text: &'static str) -> Frame {
    Frame::Simple(text.into())
}

fn bulk(text: impl Into<String>) -> Frame {
    Frame::Bulk(text.into().into())
}

impl Session {
    async fn reply(&mut self, command: &Command) -> Option<Frame> {
        let name = command.name().to_ascii_uppercase();
        let argument = |at: usize| command.arg(at).map(|arg| arg.to_ascii_lowercase()).unwrap_or_default();
        Some(match &name[..] {
            b"HELLO" => self.hello(&argument(1)),
            b"PING" => simple("PONG"),
            b"REPLCONF" if argument(1) == b"ack" => return None,
            b"REPLCONF" | b"CLIENT" | b"SELECT" => simple("OK"),
            b"INFO" => match &argument(1)[..] {
                b"replication" => self.replication().await,
                b"keyspace" => self.keyspace().await,
                // Nobody is to take this for the server itself.
                _ => self.ask(command).await,
            },
            b"COMMAND" | b"CONFIG" | b"TIME" => self.ask(command).await,
            _ => Frame::Error("ERR not here: keys are read by SCAN".into()),
        })
    }

    fn hello(&mut self, version: &[u8]) -> Frame {
        self.protocol = if version == b"3" { Protocol::Resp3 } else { Protocol::Resp2 };
        let server = &self.primary.settings.server;
        let number = if self.protocol == Protocol::Resp3 { 3 } else { 2 };
        let entries = [
            ("server", bulk(server.vendor.to_string().to_ascii_lowercase())),
            ("version", bulk(server.version.to_string())),
            ("proto", Frame::Integer(number)),
            ("id", Frame::Integer(1)),
            ("mode", bulk("standalone")),
            ("role", bulk("master")),
            ("modules", Frame::Array(Vec::new())),
        ];
        match self.protocol {
            Protocol::Resp3 => {
                Frame::Map(entries.into_iter().map(|(key, value)| (bulk(key), value)).collect())
            }
            _ => Frame::Array(entries.into_iter().flat_map(|(key, value)| [bulk(key), value]).collect()),
        }
    }

    /// How far the stream is, when everything has been written to it that had happened before.
    async fn replication(&self) -> Frame {
        let offset = self.primary.shared.ask().await;
        bulk(format!(
            "# Replication\r\nrole:master\r\nconnected_slaves:1\r\nmaster_replid:{}\r\nmaster_replid2:{}\r\n\
             master_repl_offset:{offset}\r\nsecond_repl_offset:-1\r\n",
            self.primary.id,
            "0".repeat(40),
        ))
    }

    /// Of all shards.
    async fn keyspace(&self) -> Frame {
        let mut text = String::from("# Keyspace\r\n");
        let mut seen = std::collections::BTreeMap::<u32, (u64, u64)>::new();
        for connect in &self.primary.settings.nodes {
            let asked = async {
                let mut connection = Connection::connect(&connect.clone().with_db(0)).await?;
                connection.call_frame(["INFO", "keyspace"]).await
            };
            match asked.await {
                Ok(reply) if reply.is_error() => return reply,
                Ok(reply) => {
                    for keyspace in Info::from_frame(&reply).iter().flat_map(Info::keyspace) {
                        let size = seen.entry(keyspace.db).or_default();
                        *size = (size.0 + keyspace.keys, size.1 + keyspace.expires);
                    }
                }
                Err(error) => {
                    return Frame::Error(format!("LOADING the source cannot be asked: {error}").into());
                }
            }
        }
        for (db, (keys, expires)) in seen {
            let _ = write!(text, "db{db}:keys={keys},expires={expires},avg_ttl=0\r\n");
        }
        bulk(text)
    }

    /// What only the source itself knows.
    async fn ask(&mut self, command: &Command) -> Frame {
        let Some(node) = self.primary.settings.nodes.first() else {
            return Frame::Error("ERR no node".into());
        };
        let failed = |error| Frame::Error(format!("LOADING the source cannot be asked: {error}").into());
        if self.source.is_none() {
            let connect = node.clone().with_db(0).with_protocol(self.protocol);
            match Connection::connect(&connect).await {
                Ok(connection) => self.source = Some(connection),
                Err(error) => return failed(error),
            }
        }
        let Some(source) = &mut self.source else { return Frame::Error("ERR no node".into()) };
        let args: Vec<&[u8]> = command.args().collect();
        match source.call_frame(args).await {
            // Whose run it is decides whether both sides are one server, which was looked at before.
            Ok(reply) if command.is("INFO") => match reply.as_bytes() {
                Some(text) if !reply.is_error() => {
                    let text = String::from_utf8_lossy(text);
                    let lines: Vec<&str> =
                        text.split("\r\n").filter(|line| !line.starts_with("run_id:")).collect();
                    bulk(lines.join("\r\n"))
                }
                _ => reply,
            },
            Ok(reply) => reply,
            Err(error) => {
                self.source = None;
                failed(error)
            }
        }
    }

    /// The snapshot and the stream, once. Whoever asks again gets another history, of which there is nothing to be had.
    async fn replicate(mut self) {
        let primary = Arc::clone(&self.primary);
        if let Some(error) = &primary.shared.state().fatal {
            let line = format!("-ERR {}\r\n", error.to_line().replace(['\r', '\n'], " "));
            let refused = line.into_bytes();
            drop(tokio::spawn(async move {
                let _ = self.stream.write_all(&refused).await;
            }));
            return;
        }
        if primary.begun.swap(true, Ordering::SeqCst) {
            let line = format!("+FULLRESYNC {} 0\r\n", new_id());
            if self.stream.write_all(line.as_bytes()).await.is_ok() {
                // Until it is left.
                let _ = self.stream.read(&mut [0; 64]).await;
            }
            return;
        }
        let (mut from, mut to) = self.stream.into_split();
        // What replicas say is of no interest, but has to be taken.
        let drain = async {
            let mut sink = vec![0; 4096];
            while matches!(from.read(&mut sink).await, Ok(read) if read > 0) {}
        };
        tokio::select! {
            () = drain => {}
            _ = primary.feed(&mut to) => {}
        }
    }
}

impl Primary {
    async fn feed(&self, out: &mut (impl tokio::io::AsyncWrite + Unpin)) -> Result<(), pass::Ended> {
        let (settings, shared) = (&self.settings, &self.shared);
        let mark = new_id();
        out.write_all(format!("+FULLRESYNC {} 0\r\n$EOF:{mark}\r\n", self.id).as_bytes()).await?;
        let passed = pass::run(settings, shared, out).await?;
        out.write_all(mark.as_bytes()).await?;
        if settings.follow == Follow::Notifications {
            shared.state().stage = Stage::Following;
            let mut followed = self.followed.lock().await;
            let follower = Follower::new(settings, shared, &mut followed, out, passed.libraries).await?;
            return Err(follower.run().await);
        }
        self.settle(passed.sum).await?;
        shared.state().stage = Stage::Complete;
        // There is nothing more to say, but that the link is well.
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(10)).await;
            out.write_all(b"\n").await?;
        }
    }

    /// Reads everything once more, and sends nothing of it: what was sent is good when it still is what there is.
    async fn settle(&self, sum: u128) -> Result<(), pass::Ended> {
        let (settings, shared) = (&self.settings, &self.shared);
        let sent = self.memory.sent();
        if settings.passes <= 1 {
            let line = "what was written while keys were read: there was one pass only (--rescan)".to_owned();
            settings.not_promised(shared, line);
            return Ok(());
        }
        let now = pass::run(settings, shared, &mut tokio::io::sink()).await?.sum;
        if now == sum {
            return Ok(());
        }
        if sent >= settings.passes {
            let line = format!(
                "what was written while keys were read: the source was written to during each of {sent} passes (--rescan)"
            );
            settings.not_promised(shared, line);
            return Ok(());
        }
        shared.doubt("the source was written to while its keys were read".to_owned());
        Err(pass::Ended::Told)
    }
}
