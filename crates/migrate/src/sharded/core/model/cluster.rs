//! What the servers do.

use super::*;

impl World {
    pub(super) fn address(node: usize) -> String {
        format!("n{node}:1")
    }

    pub(super) fn shard_of(&self, node: usize) -> usize {
        node / 2
    }

    pub(super) fn is_primary(&self, node: usize) -> bool {
        self.shards[self.shard_of(node)].primary == node
    }

    /// What keeps a node from executing something with these keys.
    pub(super) fn check(&self, node: usize, keys: &BTreeSet<Key>, asking: bool) -> Option<ErrorReply> {
        let (_, first) = keys.first()?;
        let slot = slot_of(first);
        let at = usize::from(slot);
        if let Some(zombie) = self.zombies.get(&node) {
            let moved = || ErrorReply::new(format!("MOVED {slot} {}", self.owner_address(slot)));
            return (!self.single && !zombie.slots.contains(&slot)).then(moved);
        }
        if self.single {
            let readonly = || ErrorReply::new("READONLY You can't write against a read only replica.");
            return (!self.is_primary(node)).then(readonly);
        }
        let shard = self.shard_of(node);
        if self.is_primary(node) {
            let missing = keys.iter().filter(|key| !self.shards[shard].data.contains_key(key)).count();
            let again = || ErrorReply::new("TRYAGAIN Multiple keys request during rehashing of slot");
            if self.owner[at] == shard {
                let to = self.moving[at].filter(|_| missing > 0)?;
                let to = Self::address(self.shards[to].primary);
                return Some(match missing < keys.len() {
                    true => again(),
                    false => ErrorReply::new(format!("ASK {slot} {to}")),
                });
            }
            if self.moving[at] == Some(shard) && asking {
                return (keys.len() > 1 && missing > 0).then(again);
            }
        }
        Some(ErrorReply::new(format!("MOVED {slot} {}", self.owner_address(slot))))
    }

    pub(super) fn owner_address(&self, slot: u16) -> String {
        Self::address(self.shards[self.owner[usize::from(slot)]].primary)
    }

    /// Executes the next command of a connection. False when there is none.
    pub(super) fn serve(&mut self, at: usize) -> bool {
        let node = self.node_of(at);
        let mut link = self.links.remove(&at).unwrap_or_default();
        let command = CommandDecoder::new().decode(&mut link.input).unwrap();
        let served = command.is_some();
        if let Some(command) = command {
            let words = words(&command);
            let said = words.join(" ");
            let reply = self.execute(node, &mut link, words);
            let answer = match &reply {
                Reply::Frame(frame) => format!("{frame:?}"),
                Reply::Error(error, element) => format!("{error} {element:?}"),
            };
            self.detail(|| format!("  node {node}: {said} -> {answer}"));
            link.output.push_back(reply);
        }
        self.links.insert(at, link);
        served
    }

    pub(super) fn execute(&mut self, node: usize, link: &mut Link, words: Vec<String>) -> Reply {
        let shard = self.shard_of(node);
        match words[0].as_str() {
            "MULTI" => {
                assert!(link.transaction.is_none());
                link.transaction = Some(Vec::new());
                link.dirty = false;
                return Reply::Frame(ok());
            }
            "ASKING" => {
                link.asking = true;
                return Reply::Frame(ok());
            }
            "SELECT" => {
                link.db = words[1].parse().unwrap();
                // It is one of the elements of the result, too.
                if let Some(queue) = &mut link.transaction {
                    queue.push((link.db, words));
                }
                return Reply::Frame(ok());
            }
            "WAIT" => {
                if self.zombies.contains_key(&node) {
                    return Reply::Frame(Frame::Integer(0));
                }
                if !self.is_primary(node) {
                    let error = "ERR WAIT cannot be used with replica instances.";
                    return Reply::Frame(Frame::Error(Bytes::from_static(error.as_bytes())));
                }
                // It covers what this connection has written.
                let patient = self.rng.chance(2, 3);
                let shard = &mut self.shards[shard];
                if self.lie == Some(Lie::Replicas) {
                    return Reply::Frame(Frame::Integer(i64::from(shard.attached)));
                }
                while patient && shard.executed - (shard.behind.len() as u64) < link.written {
                    shard.replicate(1);
                }
                let done = shard.executed - (shard.behind.len() as u64) >= link.written;
                return Reply::Frame(Frame::Integer(i64::from(shard.attached && done)));
            }
            "INFO" => {
                let master = self.is_primary(node) || self.zombies.contains_key(&node);
                let role = if master { "master" } else { "slave" };
                let replicas = self.replicas(node);
                return Reply::Frame(bulk(&format!(
                    "# Replication\r\nrole:{role}\r\nconnected_slaves:{replicas}\r\nslave0:ip=::1,port=1,state=online,offset=1,lag=0\r\n"
                )));
            }
            _ => {}
        }
        let executes = words[0] == "EXEC";
        let mut commands = if executes {
            link.transaction.clone().expect("EXEC without MULTI")
        } else {
            vec![(link.db, words.clone())]
        };
        if executes && self.lie == Some(Lie::Checkpoints) {
            commands.retain(|(_, words)| words[0] != "HSET");
        }
        let asking = link.asking;
        if link.transaction.is_none() || executes {
            link.asking = false;
        }
        let names_key = |(_, words): &&(u32, Vec<String>)| words[0] != "SELECT";
        let keys: BTreeSet<Key> =
            commands.iter().filter(names_key).map(|(db, words)| (*db, words[1].clone())).collect();
        let mut error = self.check(node, &keys, asking);
        // Replicas answer questions.
        let copy = self.single
            && words[0] == "HGETALL"
            && !self.zombies.contains_key(&node)
            && !self.is_primary(node);
        error = error.filter(|_| !copy);
        if self.errors && error.is_none() && self.rng.chance(1, 30) {
            let errors = [
                "LOADING Redis is loading the dataset in memory",
                "CLUSTERDOWN The cluster is down",
                "NOREPLICAS Not enough good replicas to write.",
                "BUSY Redis is busy running a script.",
                "TRYAGAIN Multiple keys request during rehashing of slot",
            ];
            error = Some(ErrorReply::new(errors[self.rng.index(errors.len())]));
        }
        let refused = |error: ErrorReply| match words[0].as_str() {
            "HGETALL" => Reply::Frame(Frame::Error(error.text().clone())),
            _ => Reply::Error(error, None),
        };
        if !executes && let Some(queue) = &mut link.transaction {
            return match error {
                Some(error) => {
                    link.dirty = true;
                    refused(error)
                }
                None => {
                    queue.extend(commands);
                    Reply::Frame(Frame::Simple(Bytes::from_static(b"QUEUED")))
                }
            };
        }
        if executes {
            link.transaction = None;
            if std::mem::take(&mut link.dirty) {
                let text = "EXECABORT Transaction discarded because of previous errors.";
                return Reply::Error(ErrorReply::new(text), None);
            }
        }
        if let Some(error) = error {
            return refused(error);
        }
        let data = match self.zombies.get_mut(&node) {
            Some(zombie) => &mut zombie.data,
            None if copy => &mut self.shards[shard].copy,
            None => &mut self.shards[shard].data,
        };
        let mut first = None;
        let mut last = ok();
        for (n, (db, words)) in commands.iter().enumerate() {
            match apply(data, *db, words) {
                Ok(frame) => last = frame,
                Err(error) => drop(first.get_or_insert((error, n as u64))),
            }
        }
        if !self.zombies.contains_key(&node) && words[0] != "HGETALL" {
            self.shards[shard].behind.push_back(commands);
            self.shards[shard].executed += 1;
            link.written = self.shards[shard].executed;
        }
        match first {
            Some((error, n)) if executes => Reply::Error(error, Some(n)),
            Some((error, _)) => Reply::Error(error, None),
            None => Reply::Frame(last),
        }
    }

    pub(super) fn replicas(&self, node: usize) -> u64 {
        let attached = self.is_primary(node) && self.shards[self.shard_of(node)].attached;
        u64::from(attached || self.zombies.contains_key(&node))
    }

    pub(super) fn fail_over(&mut self) {
        let n = self.rng.index(self.shards.len());
        let shard = &mut self.shards[n];
        if !shard.attached || !shard.known {
            return;
        }
        let old = shard.primary;
        let kept = self.rng.index(shard.behind.len() + 1);
        shard.replicate(kept);
        let lost = shard.behind.len();
        shard.behind.clear();
        let data = std::mem::take(&mut shard.data);
        shard.data = shard.copy.clone();
        std::mem::swap(&mut shard.primary, &mut shard.replica);
        let zombie = self.rng.chance(1, 2);
        shard.attached = !zombie;
        shard.known = false;
        let promoted = Self::address(shard.primary);
        if zombie {
            let slots = (0..SLOTS).filter(|&slot| self.owner[usize::from(slot)] == n).collect();
            self.zombies.insert(old, Zombie { data, slots });
        }
        self.note(format!("failover of shard {n} from node {old}, {lost} lost, zombie {zombie}"));
        // Who was a primary before has long been found to be none, and left.
        let promoted = self.core.node(&promoted);
        self.cut(promoted);
    }

    pub(super) fn end_zombies(&mut self) {
        for (node, _) in std::mem::take(&mut self.zombies) {
            self.note(format!("zombie {node} ends"));
            let shard = self.shard_of(node);
            self.shards[shard].synchronize();
            self.shards[shard].attached = true;
            self.shards[shard].known = false;
            let at = self.core.node(&Self::address(node));
            if self.rng.chance(1, 2) {
                self.cut(at);
            }
        }
    }

    pub(super) fn move_slot(&mut self, finish: bool) {
        let slot = self.rng.index(usize::from(SLOTS));
        self.moves(slot, finish);
    }

    pub(super) fn moves(&mut self, at: usize, finish: bool) {
        if self.single {
            return;
        }
        let slot = at as u16;
        let from = self.owner[at];
        let Some(to) = self.moving[at] else {
            let to = self.rng.index(self.shards.len());
            // Nobody is surprised by a redirection of a move that was finished and followed by the next.
            let idle = self.links.values().all(|link| link.input.is_empty() && link.output.is_empty());
            let fresh = self.visited.insert((at, to)) || (idle && self.core.lanes[at].ask.is_none());
            if to != from && !finish && fresh {
                self.note(format!("slot {slot} begins to move from {from} to {to}"));
                self.moving[at] = Some(to);
            }
            return;
        };
        let here: Vec<Key> =
            self.shards[from].data.keys().filter(|(_, key)| slot_of(key) == slot).cloned().collect();
        let most = if finish { here.len() } else { self.rng.index(3) };
        for _ in 0..most {
            let mut here: Vec<&Key> =
                self.shards[from].data.keys().filter(|(_, key)| slot_of(key) == slot).collect();
            if here.is_empty() {
                break;
            }
            let key = here.swap_remove(self.rng.index(here.len())).clone();
            for shard in [from, to] {
                self.shards[shard].replicate(usize::MAX);
            }
            if self.shards[to].data.contains_key(&key) {
                self.note(format!(
                    "BUSYKEY {key:?} {:?} {:?}",
                    self.shards[from].data[&key], self.shards[to].data[&key]
                ));
                // Its deletion was lost, and it has been written anew where it is going: MIGRATE says BUSYKEY.
                return;
            }
            let value = self.shards[from].data.remove(&key).unwrap();
            self.shards[from].copy.remove(&key);
            self.shards[to].copy.insert(key.clone(), value.clone());
            self.shards[to].data.insert(key, value);
        }
        if finish {
            self.note(format!("slot {slot} is at {to}"));
            self.owner[at] = to;
            self.moving[at] = None;
        }
    }
}
