//! Values as JSON, element by element.

use keyferry_rdb::elements::{Consumer, Element, Group, Pending, Score, StreamId, StreamInfo};
use keyferry_rdb::{Kind, ValueType};

use super::text::{TextPieces, push_bytes, push_hex, push_text};

/// Writes one value. What is open, and so has to be closed, is told by its state.
#[derive(Debug, Default)]
pub(crate) struct ValueWriter {
    state: State,
    text: TextPieces,
    /// Nothing was written yet since the innermost list or object was opened.
    first: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Text,
    List,
    Object,
    /// In the `items` of an array.
    Items,
    /// In the hexadecimal digits of an opaque value.
    Raw,
    Number,
    Stream(StreamState),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamState {
    /// In `entries`.
    Entries,
    /// Behind a member of the stream itself.
    Members,
    /// In the `records` of its idempotent producers.
    Records,
    /// Behind a member of a group; `lists` is what was opened in it.
    Group(GroupLists),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GroupLists {
    None,
    /// In the pending list of a consumer.
    Consumer,
    /// In the list of those released.
    Released,
}

impl ValueWriter {
    /// Opens a value.
    #[inline]
    pub(crate) fn begin(&mut self, ty: ValueType, out: &mut Vec<u8>) {
        self.first = true;
        let (state, text): (_, &[u8]) = match ty.kind() {
            Kind::String => (State::Text, b"\""),
            Kind::List | Kind::Set => (State::List, b"["),
            Kind::SortedSet | Kind::Hash => (State::Object, b"{"),
            Kind::Array => (State::Items, b"{\"items\":["),
            Kind::Stream => (State::Stream(StreamState::Entries), b"{\"entries\":["),
            Kind::RateLimiter => (State::Number, b""),
            _ => (State::Raw, b"{\"raw\":\""),
        };
        self.state = state;
        out.extend_from_slice(text);
    }

    /// Writes an element of it.
    #[inline]
    pub(crate) fn element(&mut self, element: &Element<'_>, out: &mut Vec<u8>) {
        match element {
            Element::Item(item) | Element::Member(item) => {
                self.separate(out);
                string(out, item);
            }
            Element::Field { name, value, expires_at } => {
                self.separate(out);
                string(out, name);
                match expires_at {
                    None => {
                        out.push(b':');
                        string(out, value);
                    }
                    Some(at) => {
                        out.extend_from_slice(b":{\"value\":");
                        string(out, value);
                        out.extend_from_slice(b",\"expires_at\":");
                        integer(out, *at);
                        out.push(b'}');
                    }
                }
            }
            Element::Scored { member, score: value } => {
                self.separate(out);
                string(out, member);
                out.push(b':');
                score(out, *value);
            }
            Element::Chunk(chunk) => self.text.push(out, chunk),
            other => self.rare(other, out),
        }
    }

    /// Closes it.
    #[inline]
    pub(crate) fn end(&mut self, out: &mut Vec<u8>) {
        match std::mem::take(&mut self.state) {
            State::Closed | State::Number => {}
            State::Text => {
                self.text.finish(out);
                out.push(b'"');
            }
            State::List => out.push(b']'),
            State::Object => out.push(b'}'),
            State::Items => out.extend_from_slice(b"]}"),
            State::Raw => out.extend_from_slice(b"\"}"),
            State::Stream(state) => {
                close_group(state, out);
                out.extend_from_slice(match state {
                    StreamState::Entries => b"]}",
                    StreamState::Members => b"}",
                    StreamState::Records => b"]}}",
                    StreamState::Group(_) => b"]}",
                });
            }
        }
    }

    #[inline]
    fn separate(&mut self, out: &mut Vec<u8>) {
        if !std::mem::take(&mut self.first) {
            out.push(b',');
        }
    }

    fn rare(&mut self, element: &Element<'_>, out: &mut Vec<u8>) {
        match element {
            Element::ArrayCursor(cursor) => {
                // It comes before the items, so nothing but the list's opening was written.
                out.truncate(out.len() - b"\"items\":[".len());
                named(out, b"\"cursor\":", *cursor);
                out.extend_from_slice(b",\"items\":[");
            }
            Element::ArrayItem { index, value } => {
                self.separate(out);
                out.push(b'[');
                integer(out, *index);
                out.push(b',');
                string(out, value);
                out.push(b']');
            }
            Element::RateLimit(time) => integer(out, *time),
            Element::Opaque(bytes) => bytes.iter().for_each(|byte| push_hex(out, *byte)),
            element => {
                if let State::Stream(state) = self.state {
                    self.state = State::Stream(self.stream(state, element, out));
                }
            }
        }
    }

    fn stream(&mut self, state: StreamState, element: &Element<'_>, out: &mut Vec<u8>) -> StreamState {
        match element {
            Element::StreamEntry(entry) => {
                self.separate(out);
                named_id(out, b"{\"id\":", entry.id);
                out.extend_from_slice(b",\"fields\":[");
                for (i, (name, value)) in entry.fields().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    string(out, name);
                    out.push(b',');
                    string(out, value);
                }
                out.extend_from_slice(b"]}");
                StreamState::Entries
            }
            Element::StreamInfo(found) => {
                out.push(b']');
                info(out, found);
                StreamState::Members
            }
            Element::Group(found) => {
                match state {
                    StreamState::Group(_) => {
                        close_group(state, out);
                        out.push(b',');
                    }
                    _ => out.extend_from_slice(b",\"groups\":["),
                }
                group(out, found);
                self.first = true;
                StreamState::Group(GroupLists::None)
            }
            Element::Consumer(found) => {
                let before: &[u8] = match state {
                    StreamState::Group(GroupLists::Consumer) => b"]},",
                    StreamState::Group(GroupLists::Released) => b"],\"consumers\":[",
                    _ => b",\"consumers\":[",
                };
                out.extend_from_slice(before);
                consumer(out, found);
                self.first = true;
                StreamState::Group(GroupLists::Consumer)
            }
            Element::Pending(found) => {
                let lists = match (state, found.consumer) {
                    (StreamState::Group(GroupLists::Released), None)
                    | (StreamState::Group(GroupLists::Consumer), Some(_)) => {
                        self.separate(out);
                        state
                    }
                    (StreamState::Group(GroupLists::Consumer), None) => {
                        out.extend_from_slice(b"]}],\"released\":[");
                        StreamState::Group(GroupLists::Released)
                    }
                    _ => {
                        out.extend_from_slice(b",\"released\":[");
                        StreamState::Group(GroupLists::Released)
                    }
                };
                self.first = false;
                pending(out, found);
                lists
            }
            Element::IdempotencyLimits { duration, max_entries } => {
                self.leave_groups(state, out);
                named(out, b",\"idempotency\":{\"duration\":", *duration);
                named(out, b",\"max_entries\":", *max_entries);
                out.extend_from_slice(b",\"records\":[");
                self.first = true;
                StreamState::Records
            }
            Element::IdempotencyRecord { producer, iid, entry } => {
                self.separate(out);
                out.extend_from_slice(b"{\"producer\":");
                string(out, producer);
                out.extend_from_slice(b",\"iid\":");
                string(out, iid);
                named_id(out, b",\"entry\":", *entry);
                out.push(b'}');
                state
            }
            Element::IdempotencyTotals { added, duplicates } => {
                named(out, b"],\"added\":", *added);
                named(out, b",\"duplicates\":", *duplicates);
                out.push(b'}');
                StreamState::Members
            }
            _ => state,
        }
    }

    fn leave_groups(&self, state: StreamState, out: &mut Vec<u8>) {
        if let StreamState::Group(_) = state {
            close_group(state, out);
            out.push(b']');
        }
    }
}

/// Closes a group and what is open in it, but not the list of groups.
fn close_group(state: StreamState, out: &mut Vec<u8>) {
    let StreamState::Group(lists) = state else { return };
    out.extend_from_slice(match lists {
        GroupLists::None => b"}".as_slice(),
        GroupLists::Consumer => b"]}]}",
        GroupLists::Released => b"]}",
    });
}

fn info(out: &mut Vec<u8>, info: &StreamInfo) {
    named(out, b",\"length\":", info.live);
    named_id(out, b",\"last_id\":", info.last_id);
    if let Some(counters) = &info.counters {
        named_id(out, b",\"first_id\":", counters.first_id);
        named_id(out, b",\"max_deleted_id\":", counters.max_deleted_id);
        named(out, b",\"entries_added\":", counters.entries_added);
    }
}

fn group(out: &mut Vec<u8>, group: &Group<'_>) {
    out.extend_from_slice(b"{\"name\":");
    string(out, group.name);
    named_id(out, b",\"last_id\":", group.last_id);
    if let Some(read) = group.entries_read {
        named(out, b",\"entries_read\":", read);
    }
}

fn consumer(out: &mut Vec<u8>, consumer: &Consumer<'_>) {
    out.extend_from_slice(b"{\"name\":");
    string(out, consumer.name);
    named(out, b",\"seen_time\":", consumer.seen_time);
    if let Some(active) = consumer.active_time {
        named(out, b",\"active_time\":", active);
    }
    out.extend_from_slice(b",\"pending\":[");
}

fn pending(out: &mut Vec<u8>, pending: &Pending<'_>) {
    named_id(out, b"{\"id\":", pending.id);
    named(out, b",\"delivered_at\":", pending.delivered_at);
    named(out, b",\"deliveries\":", pending.deliveries);
    out.push(b'}');
}

/// Appends a string with its quotes.
#[inline]
pub(crate) fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    push_text(out, bytes);
    out.push(b'"');
}

/// Appends an integer.
#[inline]
pub(crate) fn integer(out: &mut Vec<u8>, n: impl itoa::Integer) {
    push_bytes(out, itoa::Buffer::new().format(n).as_bytes());
}

/// Appends text and an integer.
#[inline]
pub(crate) fn named(out: &mut Vec<u8>, name: &[u8], n: impl itoa::Integer) {
    out.extend_from_slice(name);
    integer(out, n);
}

fn named_id(out: &mut Vec<u8>, name: &[u8], id: StreamId) {
    out.extend_from_slice(name);
    named(out, b"\"", id.ms);
    named(out, b"-", id.seq);
    out.push(b'"');
}

/// Appends a score: the shortest number that reads back as the same, `"inf"` or `"-inf"` as a string, since JSON has no
/// such numbers.
fn score(out: &mut Vec<u8>, score: Score<'_>) {
    /// Integers up to here are exact.
    const EXACT: f64 = (1u64 << 53) as f64;
    let value = score.value();
    if value.abs() <= EXACT && value as i64 as f64 == value && (value != 0.0 || value.is_sign_positive()) {
        integer(out, value as i64);
    } else if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(if value > 0.0 { b"\"inf\"" } else { b"\"-inf\"" });
    }
}
