//! Carrying out what events have told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use keyferry_client::Info;
use keyferry_rdb::{Kind, dump::Payload};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::oneshot,
};

use super::{
    Settings,
    blind::Blind,
    commands::Commands,
    dirty::Todo,
    events::Barriers,
    pass::{Ended, Libraries, check, functions, told},
    read::{Found, Reader},
    state::Shared,
};

/// Keys that are read at once.
const BATCH: usize = 512;
/// How often it is looked for what no event tells.
const LOOK: Duration = Duration::from_millis(500);
/// How often something is said although there is nothing to say.
const PING: Duration = Duration::from_secs(10);
/// How long a sign may take that everything before it has come.
const SIGN: Duration = Duration::from_secs(30);

/// What a shard is followed with.
pub(super) struct Followed {
    pub(super) barriers: Barriers,
    /// It tells of flushes itself.
    pub(super) tracks: bool,
    /// What was known of it when it was subscribed to.
    pub(super) blind: Option<Blind>,
}

/// The stream behind a snapshot.
pub(super) struct Follower<'a, W> {
    pub(super) settings: &'a Settings,
    pub(super) shared: &'a Arc<Shared>,
    pub(super) followed: &'a mut [Followed],
    readers: Vec<Reader>,
    commands: Commands,
    out: &'a mut W,
    libraries: Libraries,
}

impl<'a, W: AsyncWrite + Unpin> Follower<'a, W> {
    pub(super) async fn new(
        settings: &'a Settings,
        shared: &'a Arc<Shared>,
        followed: &'a mut [Followed],
        out: &'a mut W,
        libraries: Libraries,
    ) -> Result<Self, Ended> {
        let mut readers = Vec::new();
        for connect in &settings.nodes {
            let reader = Reader::connect(connect, settings.value_limit).await.map_err(|error| {
                shared.failed(error.into(), &connect.address().to_string());
                Ended::Told
            })?;
            readers.push(reader);
        }
        let commands = Commands::new(settings.abilities, settings.encoding);
        Ok(Follower { settings, shared, followed, readers, commands, out, libraries })
    }

    /// Goes on until nobody reads it any more, or there is a doubt.
    pub(super) async fn run(mut self) -> Ended {
        let (mut looked, mut said) = (None::<Instant>, Instant::now());
        let shared = Arc::clone(self.shared);
        loop {
            let question = self.shared.question();
            let due = looked.is_none_or(|at| at.elapsed() >= LOOK);
            let done = async {
                if question.is_some() {
                    self.barrier().await?;
                }
                if question.is_some() || due {
                    looked = Some(Instant::now());
                    self.look().await?;
                }
                let until = self.shared.state().dirty.seq();
                loop {
                    let todo = self.shared.take(until, BATCH);
                    if todo.is_empty() {
                        break;
                    }
                    self.carry_out(todo).await?;
                    said = Instant::now();
                }
                if said.elapsed() >= PING {
                    self.commands.command(&[b"PING"]);
                    self.send().await?;
                    said = Instant::now();
                }
                Ok(())
            };
            let done = tokio::select! {
                done = done => done,
                () = shared.over.cancelled() => Err(Ended::Told),
            };
            if let Err(ended) = done {
                return ended;
            }
            if let Some(question) = question {
                self.shared.answer(question);
            }
            let work = self.shared.work.notified();
            tokio::select! {
                () = work => {}
                () = tokio::time::sleep(LOOK) => {}
                () = self.shared.over.cancelled() => return Ended::Told,
            }
        }
    }

    /// Waits until every event has come that servers have sent so far.
    async fn barrier(&mut self) -> Result<(), Ended> {
        for followed in self.followed.iter() {
            let (tell, told) = oneshot::channel();
            let sent = followed.barriers.send(tell).await;
            if sent.is_err() || !matches!(tokio::time::timeout(SIGN, told).await, Ok(Ok(()))) {
                self.shared
                    .doubt("a connection to the source that events come by does not answer".to_owned());
                return Err(Ended::Told);
            }
        }
        Ok(())
    }

    /// Looks for what no event tells.
    async fn look(&mut self) -> Result<(), Ended> {
        for shard in 0..self.readers.len() {
            let (reader, followed) = (&mut self.readers[shard], &mut self.followed[shard]);
            let Some(before) = &followed.blind else { continue };
            let now = Blind::look(&mut reader.connection).await;
            let now = now.map_err(|error| failed(self.settings, self.shared, shard, error.into()))?;
            let Some(now) = now else { continue };
            let happened = now.since(before);
            followed.blind = Some(now);
            if happened.swapped {
                self.shared.doubt("databases were swapped (SWAPDB), which no event tells by key".to_owned());
                return Err(Ended::Told);
            }
            let mut state = self.shared.state();
            if happened.flushed && !followed.tracks {
                state.dirty.flushed(shard);
            }
            if happened.functions && shard == 0 {
                state.dirty.functions();
            }
            if happened.groups {
                let streams: Vec<_> = state.streams.iter().filter(|(of, ..)| *of == shard).cloned().collect();
                for (shard, db, key) in streams {
                    state.dirty.touch(shard, db, key);
                }
            }
        }
        Ok(())
    }

    async fn carry_out(&mut self, todo: Vec<Todo>) -> Result<(), Ended> {
        match &todo[..] {
            [Todo::Flush { shard, seq }] => self.flush(*shard, *seq).await?,
            [Todo::Functions] => self.functions().await?,
            [Todo::Key { shard, db, .. }, ..] => {
                let (shard, db) = (*shard, *db);
                let keys = todo.into_iter().filter_map(|todo| match todo {
                    Todo::Key { key, .. } => Some(key),
                    _ => None,
                });
                self.keys(shard, db, keys.collect()).await?;
            }
            _ => {}
        }
        self.send().await
    }

    async fn keys(&mut self, shard: usize, db: u64, keys: Vec<Bytes>) -> Result<(), Ended> {
        if !self.settings.wanted.wants(db) {
            return Ok(());
        }
        let seq = self.shared.state().dirty.seq();
        let found = self.readers[shard].read(db, &keys).await;
        let found = found.map_err(|error| failed(self.settings, self.shared, shard, error))?;
        self.note(shard, db, seq, &keys, &found);
        for (key, found) in keys.iter().zip(&found) {
            if let Found::Whole { payload, .. } = found {
                let read = told(self.shared, Payload::parse(payload))?;
                check(self.settings, self.shared, key, &read)?;
            }
            told(self.shared, self.commands.key(db, key, found))?;
            for loss in self.commands.losses.drain(..) {
                let line = format!("all of key \"{}\": {loss}", key.escape_ascii());
                self.settings.not_promised(self.shared, line);
            }
            if self.commands.out.len() >= 1 << 20 {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Remembers what is to be known of these keys later.
    fn note(&mut self, shard: usize, db: u64, seq: u64, keys: &[Bytes], found: &[Found]) {
        let mut state = self.shared.state();
        state.counts.keys_read_again += keys.len() as u64;
        state.note_reads(&mut self.readers[shard].counts);
        for (key, found) in keys.iter().zip(found) {
            match found {
                Found::Gone => {
                    state.streams.remove(&(shard, db, key.clone()));
                }
                Found::Elsewhere => {}
                Found::Whole { payload, .. } => {
                    state.dirty.saw(shard, db, key, seq);
                    if Payload::parse(payload).is_ok_and(|read| read.value.ty().kind() == Kind::Stream) {
                        state.note_stream(shard, db, key);
                    }
                }
                Found::Parts { .. } => state.dirty.saw(shard, db, key, seq),
            }
        }
    }

    /// Finds out which databases were flushed by event `seq`.
    ///
    /// A key that was there before, and of which no event has come since, is a witness: if it is there, its database was not
    /// flushed, and if it is not, it was. What is in a flushed database by now was written afterwards, and told.
    async fn flush(&mut self, shard: usize, seq: u64) -> Result<(), Ended> {
        let mut held: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
        for shard in 0..self.readers.len() {
            let reply = self.readers[shard].connection.call_frame(["INFO", "keyspace"]).await;
            let reply = reply.map_err(|error| failed(self.settings, self.shared, shard, error.into()))?;
            let Some(info) = Info::from_frame(&reply) else {
                self.shared.doubt("something was flushed, and INFO does not tell what is left".to_owned());
                return Err(Ended::Told);
            };
            for keyspace in info.keyspace() {
                held.entry(keyspace.db.into()).or_default().insert(shard);
            }
        }
        let databases: BTreeSet<u64> = {
            let state = self.shared.state();
            (0..self.readers.len()).flat_map(|shard| state.dirty.databases(shard)).collect()
        };
        for db in databases {
            let flushed = match held.get(&db) {
                None => true,
                Some(_) if self.readers.len() > 1 => {
                    self.shared.doubt(
                        "one shard of the source was flushed, or has been written to since it was".to_owned(),
                    );
                    return Err(Ended::Told);
                }
                Some(_) => match self.was_flushed(shard, db, seq).await? {
                    Some(flushed) => flushed,
                    None => {
                        self.shared.doubt(format!(
                            "a database was flushed, and nobody can tell whether it was database {db}"
                        ));
                        return Err(Ended::Told);
                    }
                },
            };
            if flushed {
                self.commands.select(db);
                self.commands.command(&[b"FLUSHDB"]);
                let mut state = self.shared.state();
                state.counts.flushes += 1;
                state.dirty.forget(shard, db, seq);
            }
        }
        Ok(())
    }

    async fn was_flushed(&mut self, shard: usize, db: u64, seq: u64) -> Result<Option<bool>, Ended> {
        let witnesses = self.shared.state().dirty.witnesses(shard, db, seq);
        let there = self.readers[shard].exist(db, &witnesses).await;
        let there = there.map_err(|error| failed(self.settings, self.shared, shard, error))?;
        // Those that were written meanwhile are none any more.
        self.barrier().await?;
        let still: BTreeSet<Bytes> =
            self.shared.state().dirty.witnesses(shard, db, seq).into_iter().collect();
        let mut told = None;
        for (witness, there) in witnesses.iter().zip(there) {
            if still.contains(witness) {
                // One that is there outweighs those that are not.
                told = Some(told.unwrap_or(true) && !there);
            }
        }
        Ok(told)
    }

    async fn functions(&mut self) -> Result<(), Ended> {
        let now = functions(self.settings, self.shared).await?;
        for name in self.libraries.keys().filter(|name| !now.contains_key(*name)) {
            self.commands.command(&[b"FUNCTION", b"DELETE", name.as_bytes()]);
        }
        for (name, code) in &now {
            if self.libraries.get(name) != Some(code) {
                self.commands.command(&[b"FUNCTION", b"LOAD", b"REPLACE", code]);
            }
        }
        self.libraries = now;
        Ok(())
    }

    /// Hands over what was made. The offset comes first: nobody is to know of it less than has come.
    async fn send(&mut self) -> Result<(), Ended> {
        let bytes = self.commands.out.split();
        if bytes.is_empty() {
            return Ok(());
        }
        self.shared.state().offset += bytes.len() as u64;
        Ok(self.out.write_all(&bytes).await?)
    }
}

fn failed(settings: &Settings, shared: &Shared, shard: usize, failed: super::read::Failed) -> Ended {
    let address = settings.nodes.get(shard).map(|node| node.address().to_string()).unwrap_or_default();
    shared.failed(failed, &address);
    Ended::Told
}
