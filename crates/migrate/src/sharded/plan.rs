//! Where each link begins: anew, or where a run before has come to.

use keyferry_replication::Position;
use keyferry_routing::SlotSet;

use super::{
    checkpoint::LinkName,
    run::LinkSource,
    state::{FORMAT, LinkState, Stage, State, field},
};
use crate::{error::Error, identity::MigrationId, prepare::Identity, resume::Applied};

/// What is to be done with what the target keeps of a migration.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// For each link: how the target knows it …
    pub(crate) names: Vec<LinkName>,
    /// … and what it says of it.
    pub(crate) applied: Vec<Applied>,
    /// What is written into the state.
    pub(crate) fields: Vec<(String, String)>,
    /// Fields that have no meaning any more.
    pub(crate) outdated: Vec<String>,
    /// Of what is written, what never changes.
    pub(crate) constant: Vec<(String, String)>,
    /// Things that a person should know.
    pub(crate) notes: Vec<String>,
}

/// A link as the state has it.
struct Known<'s> {
    name: &'s str,
    state: LinkState,
    slots: Option<SlotSet>,
}

impl Plan {
    /// Compares what is there with what has been left; `source` and `target` are the URLs of both sides without their
    /// passwords, `changes` what is changed on the way.
    ///
    /// # Errors
    /// [`Error::OtherSource`], [`Error::OtherTarget`], [`Error::OtherChanges`], [`Error::WasRefused`].
    pub(crate) fn of(
        state: &State,
        links: &[LinkSource],
        (source, target, changes): (&str, &str, &str),
        id: &MigrationId,
        skip_refused: bool,
    ) -> Result<Self, Error> {
        let known: Vec<Known<'_>> = state
            .links()
            .map(|(name, of)| {
                let slots = state.get(&field::slots(name)).and_then(|slots| slots.parse().ok());
                Known { name, state: of, slots }
            })
            .collect();
        let is_known = |link: &LinkSource| known.iter().any(|of| of.is_of(link.identity.as_ref()));
        let other =
            |field: &str, given: &str| state.get(field).filter(|known| *known != given).map(str::to_owned);
        let given = target.to_owned();
        if let Some(known) = other(field::TARGET, target) {
            return Err(Error::OtherTarget { id: id.to_string(), known, given });
        }
        // A source may have another name; its history is the same then.
        if let Some(known) = other(field::SOURCE, source).filter(|_| !links.iter().any(is_known)) {
            return Err(Error::OtherSource { id: id.to_string(), known, given: source.to_owned() });
        }

        let had = state.get(field::CHANGES).unwrap_or_default();
        if state.get(field::TARGET).is_some() && had != changes {
            let shown = |changes: &str| if changes.is_empty() { "nothing" } else { changes }.to_owned();
            return Err(Error::OtherChanges { id: id.to_string(), known: shown(had), given: shown(changes) });
        }

        let mut plan = Plan::default();
        if !changes.is_empty() {
            plan.constant.push((field::CHANGES.to_owned(), changes.to_owned()));
        }
        if let Some(refused) = state.get(field::REFUSED) {
            if !skip_refused {
                let (id, target, refused) = (id.to_string(), target.to_owned(), refused.to_owned());
                return Err(Error::WasRefused { id, target, refused });
            }
            plan.notes.push(format!("left out, as the target had refused it before: {refused}"));
            plan.outdated.push(field::REFUSED.to_owned());
        }
        plan.constant.push((field::FORMAT.to_owned(), FORMAT.to_owned()));
        plan.constant.push((field::SOURCE.to_owned(), source.to_owned()));
        plan.constant.push((field::TARGET.to_owned(), target.to_owned()));
        plan.fields.clone_from(&plan.constant);
        let matched = match_links(&known, links);
        if matched.is_none() && !known.is_empty() {
            plan.notes.push(
                "the shards of the source are not those that the last run of this migration read: everything is copied anew"
                    .to_owned(),
            );
        }
        let last = known.iter().map(|link| link.state.epoch).max().unwrap_or(0);
        for (number, link) in links.iter().enumerate() {
            let before = matched.as_ref().and_then(|matched| known.get(*matched.get(number)?));
            let name = before.map_or_else(|| number.to_string(), |before| before.name.to_owned());
            if let Some(Known { state: LinkState { epoch, stage: Stage::Stream(position) }, .. }) = before {
                plan.names.push(LinkName { name, epoch: *epoch });
                plan.applied.push(Applied::Stream(position.clone()));
                continue;
            }
            let epoch = last + 1;
            let begun = LinkState { epoch, stage: Stage::Snapshot(0) };
            plan.fields.push((field::link(&name), begun.to_string()));
            if let Some(slots) = &link.slots {
                plan.fields.push((field::slots(&name), slots.to_string()));
            }
            plan.names.push(LinkName { name, epoch });
            // Also where the shards are others now: of what they bring, something may be there.
            let applied = match before {
                None if known.is_empty() => Applied::Nothing,
                None => Applied::Begun,
                Some(before) => {
                    Applied::of_snapshot(state.get(&field::snapshot(before.name)), before.state.epoch)
                }
            };
            if let Applied::Snapshot { position, bytes } = &applied {
                let text = Applied::snapshot_text(epoch, position, *bytes);
                let name = plan.names.last().map_or("", |link| &link.name);
                plan.fields.push((field::snapshot(name), text));
            }
            plan.applied.push(applied);
        }
        let names: Vec<&str> = plan.names.iter().map(|link| link.name.as_str()).collect();
        let unused = known.iter().filter(|link| !names.contains(&link.name));
        plan.outdated.extend(
            unused.flat_map(|link| {
                [field::link(link.name), field::slots(link.name), field::snapshot(link.name)]
            }),
        );
        Ok(plan)
    }

    /// A link begins in its stream, without a snapshot.
    pub(crate) fn begin_at(&mut self, number: usize, position: Position) {
        let (Some(link), Some(applied)) = (self.names.get(number), self.applied.get_mut(number)) else {
            return;
        };
        let (name, state) = (
            field::link(&link.name),
            LinkState { epoch: link.epoch, stage: Stage::Stream(position.clone()) },
        );
        self.fields.retain(|(field, _)| *field != name);
        self.fields.push((name, state.to_string()));
        *applied = Applied::Stream(position);
    }

    /// A field that is to stay.
    pub(crate) fn keep(&mut self, name: &str, value: &str) {
        for fields in [&mut self.fields, &mut self.constant] {
            fields.push((name.to_owned(), value.to_owned()));
        }
    }

    /// True when a run before has begun to write.
    pub(crate) fn is_begun(&self) -> bool {
        self.applied.iter().any(|of| *of != Applied::Nothing)
    }

    /// True when something goes on where it was.
    pub(crate) fn is_resumed(&self) -> bool {
        self.applied.iter().any(|of| matches!(of, Applied::Stream(_)))
    }
}

impl Known<'_> {
    /// True when the server has the history that the link followed.
    fn is_of(&self, identity: Option<&Identity>) -> bool {
        match (&self.state.stage, identity) {
            (Stage::Stream(position), Some(identity)) => identity.has_history(position.id),
            _ => false,
        }
    }
}

/// Which known link each link is; none unless that is clear of all, and each brings what it brought.
fn match_links(known: &[Known<'_>], links: &[LinkSource]) -> Option<Vec<usize>> {
    if known.len() != links.len() {
        return None;
    }
    // The source says by its answer whether it knows the history.
    if let ([_], [link]) = (known, links)
        && link.slots.is_none()
    {
        return Some(vec![0]);
    }
    // As here: whose history is another one now sends everything, and it alone does.
    let same = |link: &LinkSource| {
        let mut found = known.iter().enumerate().filter(|(_, of)| of.slots == link.slots);
        let (at, _) = found.next()?;
        found.next().is_none().then_some(at)
    };
    let mut matched = links.iter().map(same).collect::<Option<Vec<usize>>>()?;
    let found = matched.clone();
    matched.sort_unstable();
    matched.dedup();
    (matched.len() == links.len()).then_some(found)
}

#[cfg(test)]
mod tests {
    use keyferry_client::ConnectOptions;
    use keyferry_replication::{Locator, ReplicationId};
    use keyferry_resp::Frame;

    use super::*;
    use crate::progress::Meter;

    const IDS: [&str; 3] = [
        "3ad1e7ef023c242514c0b05e48e4ee884551c793",
        "4ad1e7ef023c242514c0b05e48e4ee884551c793",
        "5ad1e7ef023c242514c0b05e48e4ee884551c793",
    ];

    fn link(history: &str, second: Option<&str>, slots: Option<&str>) -> LinkSource {
        let locator = Locator::new(ConnectOptions::tcp("a", 1));
        LinkSource {
            name: "a".to_owned(),
            stream: locator.clone(),
            primary: locator,
            sync: false,
            slots: slots.map(|slots| slots.parse().unwrap()),
            meter: Meter::default(),
            control: None,
            identity: Some(Identity::of_history(history, second)),
        }
    }

    fn state(pairs: &[(&str, String)]) -> State {
        let bulk = |text: &str| Frame::from(bytes::Bytes::copy_from_slice(text.as_bytes()));
        State::read(&Frame::Array(pairs.iter().flat_map(|(k, v)| [bulk(k), bulk(v)]).collect())).unwrap()
    }

    fn at(id: &str, offset: u64) -> String {
        let id: ReplicationId = id.parse().unwrap();
        let position = Position { id, offset, db: Some(0), in_transaction: false };
        LinkState { epoch: 2, stage: Stage::Stream(position) }.to_string()
    }

    fn plan(state: &State, links: &[LinkSource]) -> Result<Plan, Error> {
        Plan::of(state, links, ("redis://a:1", "redis://b:1", ""), &MigrationId::derive("a", "b"), false)
    }

    fn offsets(plan: &Plan) -> Vec<Option<u64>> {
        let offset = |of: &Applied| match of {
            Applied::Stream(position) => Some(position.offset),
            _ => None,
        };
        plan.applied.iter().map(offset).collect()
    }

    #[test]
    fn a_new_migration_begins_with_snapshots() {
        let plan = plan(&State::default(), &[link(IDS[0], None, None)]).unwrap();
        assert_eq!((offsets(&plan), plan.names[0].epoch), (vec![None], 1));
        assert!(plan.fields.contains(&("link:0".to_owned(), "snapshot 1 0".to_owned())));
        assert!(!plan.is_resumed() && plan.notes.is_empty());
    }

    #[test]
    fn a_stream_goes_on_also_after_a_failover_of_the_source() {
        let left = state(&[("link:0", at(IDS[0], 77))]);
        for source in [link(IDS[0], None, None), link(IDS[1], Some(IDS[0]), None), link(IDS[1], None, None)] {
            let plan = plan(&left, &[source]).unwrap();
            assert_eq!((offsets(&plan), plan.names[0].epoch), (vec![Some(77)], 2));
        }
        // One that was in its snapshot begins it anew …
        let left = [("link:0", "snapshot 4 9".to_owned())];
        let begun = plan(&state(&left), &[link(IDS[0], None, None)]).unwrap();
        assert_eq!((offsets(&begun), begun.names[0].epoch), (vec![None], 5));
        assert_eq!(begun.applied, [Applied::Begun]);
        // … but for what is known to be there.
        let position = Position::after_snapshot(IDS[0].parse().unwrap(), 7);
        let [there, outdated] = [4, 3].map(|epoch| Applied::snapshot_text(epoch, &position, 1000));
        let left = |text: String| state(&[left[0].clone(), ("snapshot:0", text)]);
        let begun = plan(&left(there), &[link(IDS[0], None, None)]).unwrap();
        assert!(
            begun.fields.contains(&("snapshot:0".to_owned(), Applied::snapshot_text(5, &position, 1000)))
        );
        assert_eq!(begun.applied, [Applied::Snapshot { position, bytes: 1000 }]);
        let begun = plan(&left(outdated), &[link(IDS[0], None, None)]).unwrap();
        assert_eq!(begun.applied, [Applied::Begun]);
    }

    #[test]
    fn shards_are_found_again_by_their_slots() {
        let slots = [Some("0-99"), Some("100-16383")];
        let left = state(&[
            ("link:0", at(IDS[0], 10)),
            ("slots:0", "0-99".to_owned()),
            ("link:1", at(IDS[1], 20)),
            ("slots:1", "100-16383".to_owned()),
        ]);
        let swapped = [link(IDS[2], Some(IDS[1]), slots[1]), link(IDS[0], None, slots[0])];
        let found = plan(&left, &swapped).unwrap();
        assert_eq!(offsets(&found), [Some(20), Some(10)]);
        assert_eq!(found.names[0].name, "1");
        // A shard is another one: it says so when it is asked to go on, and the others do go on.
        let other = [link(IDS[0], None, slots[0]), link(IDS[2], None, slots[1])];
        assert_eq!(offsets(&plan(&left, &other).unwrap()), [Some(10), Some(20)]);
        // Slots have moved, a shard is new.
        let moved = [link(IDS[0], None, Some("0-98")), link(IDS[1], None, Some("99-16383"))];
        let more = [
            link(IDS[0], None, slots[0]),
            link(IDS[1], None, Some("100-200")),
            link(IDS[2], None, Some("201-16383")),
        ];
        for links in [&moved[..], &more] {
            let plan = plan(&left, links).unwrap();
            assert!(!plan.is_resumed() && plan.notes.len() == 1);
            assert!(plan.names.iter().all(|link| link.epoch == 3));
        }
        let one = plan(&left, &[link(IDS[0], None, None)]).unwrap();
        assert_eq!(one.outdated, ["link:1", "slots:1", "snapshot:1"]);
    }

    #[test]
    fn other_sides_are_refused() {
        let left = |source: &str, target: &str| {
            state(&[("link:0", at(IDS[0], 10)), ("source", source.to_owned()), ("target", target.to_owned())])
        };
        let error = plan(&left("redis://x:1", "redis://b:1"), &[link(IDS[1], None, None)]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("redis://x:1") && text.contains("redis://a:1"), "{text}");
        // The same source under another name.
        assert!(plan(&left("redis://x:1", "redis://b:1"), &[link(IDS[0], None, None)]).is_ok());
        let error = plan(&left("redis://a:1", "redis://x:1"), &[link(IDS[0], None, None)]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("redis://x:1") && text.contains("redis://b:1"), "{text}");
    }
}
