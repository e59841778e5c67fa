//! The client against real servers and against peers that misbehave.
// The lints know functions marked as tests, not what those call.
#![allow(clippy::unwrap_used, clippy::panic)]

mod client;
mod cluster;
mod connection;
mod endpoint;
mod faults;
mod peer;
mod sentinel;
mod tls;
mod url;

/// An error with everything below it, as a program would print it.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
