//! The part of a snapshot that one of several workers carries over: the keys of its own slots.

use keyferry_rdb::Event;
use keyferry_routing::{SlotSet, slot};

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// It is this worker's, or everybody's.
    Own,
    /// A key of another one.
    OtherKey,
    /// More of such a key.
    Other,
}

/// Tells the events of one snapshot apart, in order.
#[derive(Debug)]
pub(crate) struct PartOf {
    slots: SlotSet,
    /// Inside a large value of another worker.
    skipping: bool,
}

impl PartOf {
    pub(crate) fn new(slots: SlotSet) -> Self {
        PartOf { slots, skipping: false }
    }

    pub(crate) fn event(&mut self, event: &Event<'_>) -> Whose {
        let key = |own: bool| if own { Whose::Own } else { Whose::OtherKey };
        match event {
            Event::Entry(entry) => key(self.slots.contains(slot(entry.head.key))),
            Event::ValueStart(head) => {
                let own = self.slots.contains(slot(head.key));
                self.skipping = !own;
                key(own)
            }
            Event::ValuePart(_) if self.skipping => Whose::Other,
            Event::ValueEnd if std::mem::take(&mut self.skipping) => Whose::Other,
            _ => Whose::Own,
        }
    }
}
