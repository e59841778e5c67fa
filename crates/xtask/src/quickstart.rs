//! `cargo xtask quickstart`.

use crate::bootstrap;
use crate::cargo::{cargo, succeed};
use crate::failure::Outcome;

/// Gets a server if there is none, then runs the example.
pub(crate) fn run() -> Outcome {
    bootstrap::ensure_server()?;
    let mut example =
        cargo(["run", "--release", "--quiet", "--package", "keyferry-examples", "--example", "quickstart"]);
    println!("building and running the example `quickstart`");
    succeed(&mut example)
}
