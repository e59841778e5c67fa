//! Walks one RDB file from start to end, checksum and all, and prints how many keys it has: what `cargo xtask bench` times
//! beside the servers' own checkers.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use keyferry_rdb::{Event, Parser};

/// Bytes asked for at once.
const BLOCK: usize = 256 << 10;

fn main() -> ExitCode {
    let Some(file) = std::env::args_os().nth(1) else {
        eprintln!("usage: walk_rdb FILE");
        return ExitCode::from(2);
    };
    match walk(file.as_ref()) {
        Ok(keys) => {
            println!("{keys} keys");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("walk_rdb: {}: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}

fn walk(file: &Path) -> Result<u64, Box<dyn Error>> {
    let mut input = File::open(file)?;
    let mut parser = Parser::new();
    let mut keys = 0;
    while !parser.is_finished() {
        let read = input.read(parser.space(BLOCK))?;
        if read == 0 {
            break;
        }
        parser.filled(read);
        while let Some(event) = parser.next_event()? {
            keys += u64::from(matches!(event, Event::Entry(_) | Event::ValueStart(_)));
        }
    }
    parser.end_of_input()?;
    Ok(keys)
}
