//! Rounds of a migration under disturbances.
//!
//! A round starts a source and a target, lets a [`Writer`](crate::data::Writer) write to the source whatever must be applied
//! exactly once and in order ([`Mix::ExactlyOnce`](crate::data::Mix)), starts the program `migrate` with a journal and an id,
//! and then does to it, to both sides and to the network between them what its seed says. At the end the writer stops,
//! the program has to catch up, and both sides have to be equal key by key.
//!
//! The seed stands for the decisions: servers, data, disturbances and the pauses between them. It does not stand for the
//! moment at which they hit, so a round that failed may have to be run a few times to fail again.

mod disk;
mod disturbance;
mod plan;
mod round;
mod soak;
mod source;
mod stage;
mod sync_count;
mod target;
mod tool;

pub use disturbance::{Cut, Disturbance, Kind, Place};
pub use plan::{Plan, Slow, Step, Topology};
pub use round::{Failed, Passed, Rounds};
pub use soak::{Sample, Soak, Soaked};
pub use tool::Tool;
