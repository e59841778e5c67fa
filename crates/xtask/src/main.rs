//! Project automation of keyferry.

fn main() {}
