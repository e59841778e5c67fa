//! Rehearsed cutovers: an application that keeps its own ledger is moved from one side to the other, and back, under load.
//!
//! A round starts both sides, an [`Application`] that writes to the source, and the program `migrate`; then it runs the program `cutover`
//! with a switch that has the application write to the other side. What was acknowledged to the application has to be where it
//! writes at the end: each counter at its value, each list with all its items, once and in order, each register at its last value. The program may be killed at a
//! step, and is run again or undone; or the application is taken back to where it was.

mod application;
mod ledger;
mod round;

pub use application::{Application, Place};
pub use ledger::{Ledger, Tally};
pub use round::{Kind, Programs, Rehearsed, Rounds};
