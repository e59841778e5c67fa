//! What the program does around its core.

use super::*;

impl World {
    pub(super) fn node_of(&self, at: usize) -> usize {
        self.core.node_address(at).trim_start_matches('n').split(':').next().unwrap().parse().unwrap()
    }

    pub(super) fn survey(&mut self, stale: bool) {
        let mut survey = Survey::default();
        for slot in 0..SLOTS {
            let zombie = self.zombies.iter().find(|(_, zombie)| stale && zombie.slots.contains(&slot));
            let address = zombie.map_or_else(|| self.owner_address(slot), |(node, _)| Self::address(*node));
            survey.ranges.push((slot, slot, address));
        }
        survey.apply(&mut self.core);
    }

    pub(super) fn connect(&mut self, at: usize) {
        if !self.links.contains_key(&at) {
            let node = self.node_of(at);
            self.links.insert(at, Link::default());
            let replicas = self.replicas(node);
            self.core.node_up(at, replicas);
            self.learned(at);
        }
    }

    pub(super) fn learned(&mut self, at: usize) {
        let node = self.node_of(at);
        let shard = self.shard_of(node);
        let told = self.core.nodes[at].replicas > 0 && !self.core.nodes[at].unsure;
        if told && self.is_primary(node) && self.shards[shard].attached && !self.shards[shard].known {
            self.shards[shard].known = true;
            self.shards[shard].replicate(usize::MAX);
        }
    }

    pub(super) fn cut(&mut self, at: usize) {
        if !self.links.contains_key(&at) {
            return;
        }
        let mut served = 0;
        while self.rng.chance(4, 5) && self.serve(at) {
            served += 1;
        }
        self.links.remove(&at);
        let node = self.node_of(at);
        self.note(format!("connection to node {node} is cut, {served} more served"));
        self.core.node_down(at);
    }

    pub(super) fn take(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(&at) else { return };
        let Some(reply) = link.output.pop_front() else { return };
        let node = self.node_of(at);
        let flight = self.core.nodes[at].flights.front().map(|flight| flight.what.clone());
        self.detail(|| format!("  from node {node}: {flight:?}"));
        match (self.core.expect(at), reply) {
            (Expect::Plain(_), Reply::Frame(_)) => self.core.good(at, 1),
            (Expect::Plain(_), Reply::Error(text, element)) => self.core.bad(at, text, element),
            (Expect::Frame, Reply::Frame(frame)) => {
                self.core.content(at, &frame);
                self.learned(at);
            }
            _ => panic!("another reply was expected"),
        }
        if self.core.is_condemned(at) {
            self.cut(at);
        }
    }

    pub(super) fn work(&mut self, at: usize) {
        match self.rng.below(8) {
            0 => self.connect(at),
            1 | 2 if self.links.contains_key(&at) => {
                let mut out = BytesMut::new();
                self.core.fill(at, &mut out);
                self.links.get_mut(&at).unwrap().input.extend_from_slice(&out);
            }
            3..=5 if self.links.contains_key(&at) => drop(self.serve(at)),
            _ => self.take(at),
        }
    }

    pub(super) fn add(&mut self) {
        let number = self.rng.index(2);
        let link = number as u16;
        if !self.in_stream[number] && self.marks[number] >= 5 {
            if self.core.link(link).unwrap().is_settled() {
                self.in_stream[number] = true;
                self.note(format!("stream of link {link}"));
                let offset = self.marks[number];
                if self.single {
                    let ticket = self.core.link(link).unwrap().open();
                    self.core.add_anywhere(Item::nothing(link, offset, 0, ticket));
                    let done = Done::Stream { commands: 0, end: offset, db: None };
                    self.core.link(link).unwrap().seal(ticket, done);
                } else {
                    self.positions[number] = Some(offset);
                }
            }
            return;
        }
        let slot = self.rng.below(u64::from(SLOTS)) as u16;
        let db = self.rng.below(self.dbs) as u32;
        self.marks[number] += 1;
        let at = self.marks[number];
        let tag = keyferry_routing::tag_for_slot(slot);
        let key = |name: &str| format!("{name}{link}{{{tag}}}");
        self.value += 1;
        let value = self.value.to_string();
        let mut commands: Vec<Vec<String>> = Vec::new();
        // One server is told of everything how far it goes.
        let mut class = if self.single { Class::Exact } else { Class::Blind };
        if !self.in_stream[number] {
            class = if self.rng.chance(2, 3) { Class::Free } else { Class::Exact };
            commands.push(match class {
                Class::Free => vec!["SET".into(), key(&format!("f{at}")), value],
                _ => vec!["RPUSH".into(), key("l"), value],
            });
        } else {
            for n in 0..*self.rng_pick(&[1, 1, 1, 2, 3]) {
                let value = format!("{value}{n}");
                let toggle = key("t");
                let command = match self.rng.below(8) {
                    0 => vec!["SET".into(), key("s"), value],
                    7 => vec!["INCR".into(), key("s")],
                    1 => vec!["DEL".into(), key("s")],
                    2 => vec!["INCR".into(), key("c")],
                    3 => vec!["RPUSH".into(), key("l"), value],
                    4 => vec!["SET".into(), toggle, value],
                    5 => vec!["DEL".into(), toggle],
                    _ => vec!["HSET".into(), toggle, "f".into(), value],
                };
                let mut trial = self.expected.clone();
                let fails = commands.iter().chain([&command]).any(|c| apply(&mut trial, db, c).is_err());
                if fails {
                    commands.push(vec!["DEL".into(), key("t")]);
                }
                if matches!(&command[0][..], "INCR" | "RPUSH") {
                    class = Class::Exact;
                }
                commands.push(command);
            }
        }
        let mut bytes = BytesMut::new();
        for command in &commands {
            apply(&mut self.expected, db, command).unwrap();
            encode_command(&mut bytes, command);
        }
        self.note(format!("link {link} mark {at} slot {slot} db {db} {class:?} {commands:?}"));
        let mark = if self.in_stream[number] { Mark::Stream(at) } else { Mark::Snapshot(at) };
        let ticket = self.core.link(link).unwrap().open();
        let commands = commands.len() as u32;
        let bytes = bytes.freeze();
        let mut item = Item {
            link,
            mark,
            at,
            class,
            db,
            db_after: db,
            source_db: Some(u64::from(db)),
            bytes,
            commands,
            resets: false,
            ticket,
            replay: false,
            part: Part::Whole,
        };
        if self.single && self.in_stream[number] {
            self.divide(number, &mut item);
        }
        self.history[number].push((slot, item.clone()));
        self.core.add(slot, item);
        self.core.link(link).unwrap().seal(ticket, Done::Stream { commands: 1, end: at, db: None });
    }

    pub(super) fn divide(&mut self, number: usize, item: &mut Item) {
        let (mut decoder, mut at) = (CommandDecoder::new(), 0);
        if self.lie == Some(Lie::Dividers) {
            self.dividers[number] = Divider::with(AHEAD, 1);
        }
        let divider = &mut self.dividers[number];
        let Mark::Stream(end) = item.mark else { panic!("in a snapshot") };
        while at < item.bytes.len() {
            let command = decoder.next_ref(&item.bytes[at..]).unwrap().unwrap();
            let raw = &item.bytes[at..at + command.consumed()];
            at += command.consumed();
            let table = keyferry_routing::CommandTable::builtin();
            divider.take(table, &command, raw, end);
        }
        if let Some(divided) = divider.end(end) {
            item.divide(divided);
        }
    }

    // --- The program dies.

    /// Where each link can go on, if all can.
    pub(super) fn kept(&self) -> Option<[u64; 2]> {
        let of = |link: usize| {
            if !self.single {
                return self.positions[link];
            }
            let checkpoints = some(true);
            let state = self.shards[0].data.get(&(0, checkpoints.id().state_key()))?;
            let Value::Hash(fields) = state else { panic!("the state is no hash") };
            match LinkState::parse(fields.get(&format!("link:{link}"))?)?.stage {
                Stage::Stream(position) => Some(position.offset),
                Stage::Snapshot(_) => None,
            }
        };
        Some([of(0)?, of(1)?])
    }

    pub(super) fn write_positions(&mut self) {
        for link in 0..2u16 {
            let mut reached = self.core.link(link).unwrap().reached;
            if self.lie == Some(Lie::Positions) {
                reached = reached.map(|(_, db)| (self.marks[usize::from(link)], db));
            }
            if let (Some((offset, _)), Some(position)) = (reached, &mut self.positions[usize::from(link)]) {
                *position = offset.max(*position);
            }
        }
    }

    pub(super) fn die(&mut self) {
        if !self.in_stream.iter().all(|&is| is) {
            return;
        }
        // What it had sent may be executed until its connections are closed, and nothing after that.
        for at in 0..self.core.nodes() {
            self.cut(at);
        }
        self.links.clear();
        let Some(kept) = self.kept() else { return };
        self.note(format!("the program dies, and goes on at {kept:?} of {:?}", self.marks));
        self.deaths += 1;
        self.gates.clear();
        self.core = new_core(self.single);
        for shard in &mut self.shards {
            shard.known = false;
        }
        for (link, offset) in (0..2u16).zip(kept) {
            let until = if self.single { offset + AHEAD } else { self.marks[usize::from(link)] };
            self.core.resume(link, (offset, None), until);
        }
        self.survey(false);
        // The links come in any order, each by itself in its own.
        let mut left: [VecDeque<(u16, Item)>; 2] = Default::default();
        for (link, offset) in kept.into_iter().enumerate() {
            let after = |(_, item): &&(u16, Item)| item.mark > Mark::Stream(offset);
            left[link] = self.history[link].iter().filter(after).cloned().collect();
        }
        while left.iter().any(|left| !left.is_empty()) {
            let link = self.rng.index(2);
            let Some((slot, mut item)) = left[link].pop_front() else { continue };
            item.ticket = self.core.link(item.link).unwrap().open();
            let (of, ticket, Mark::Stream(end)) = (item.link, item.ticket, item.mark) else {
                panic!("in a snapshot")
            };
            self.core.add(slot, item);
            self.core.link(of).unwrap().seal(ticket, Done::Stream { commands: 1, end, db: None });
            if self.rng.chance(1, 3) {
                let at = self.rng.index(self.core.nodes());
                self.work(at);
            }
        }
    }

    pub(super) fn rng_pick<'p, T>(&mut self, of: &'p [T]) -> &'p T {
        &of[self.rng.index(of.len())]
    }

    pub(super) fn in_slots(&self, state: &State, slots: &BTreeSet<u16>) -> State {
        let wanted = |key: &str| slots.contains(&slot_of(key)) && !key.starts_with("keyferry:");
        state.iter().filter(|((_, key), _)| wanted(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// What the cluster holds in these slots.
    pub(super) fn found(&self, slots: &BTreeSet<u16>) -> State {
        let mut found = State::new();
        for shard in &self.shards {
            for (key, value) in self.in_slots(&shard.data, slots) {
                assert!(found.insert(key, value).is_none(), "a key in two places");
            }
        }
        found
    }

    pub(super) fn gate(&mut self) {
        let slots: BTreeSet<u16> = if self.single {
            (0..SLOTS).collect()
        } else {
            (0..2).map(|_| self.rng.below(u64::from(SLOTS)) as u16).collect()
        };
        let ticket = self.core.link(0).unwrap().open();
        let handle = self.core.add_gate(slots.iter().copied(), 0, ticket, 0);
        self.core.link(0).unwrap().seal(ticket, Done::Stream { commands: 0, end: 0, db: None });
        let expected = self.in_slots(&self.expected, &slots);
        self.note(format!("gate {} before {slots:?}", handle.id));
        self.gates.push(Gate { id: handle.id, slots, expected });
    }

    pub(super) fn pass_gates(&mut self) {
        let mut left = Vec::new();
        for gate in std::mem::take(&mut self.gates) {
            if self.core.gates[&gate.id].missing > 0 || self.rng.chance(1, 2) {
                left.push(gate);
                continue;
            }
            assert_eq!(self.found(&gate.slots), gate.expected, "at gate {}", gate.id);
            self.note(format!("gate {} opens", gate.id));
            self.core.open_gate(gate.id);
        }
        self.gates = left;
    }
}
