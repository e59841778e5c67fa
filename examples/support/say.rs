//! What is said to people: on standard output and standard error.

use std::{
    fmt::Arguments,
    io::{self, ErrorKind, Write},
    sync::atomic::{AtomicBool, Ordering},
};

/// A line of standard output could not be written, though somebody wants it.
static IS_LOST: AtomicBool = AtomicBool::new(false);

/// As the macro of the same name in the standard library, but that a reader who goes away (`| head`, a terminal that is closed, a `tee` that
/// Ctrl-C ends, too) is no reason for the program to die in the midst of its work.
#[macro_export]
macro_rules! println {
    ($($what:tt)*) => { $crate::say::to_output(::core::format_args!($($what)*)) };
}

/// As the macro of the same name in the standard library, with the same difference as [`println!`].
#[macro_export]
macro_rules! eprintln {
    ($($what:tt)*) => { $crate::say::to_error(::core::format_args!($($what)*)) };
}

/// Writes a line to standard output. When there is no room for it, that is told on the other side, once.
pub fn to_output(line: Arguments<'_>) {
    let written = writeln!(io::stdout().lock(), "{line}");
    if let Err(e) = written
        && e.kind() != ErrorKind::BrokenPipe
        && !IS_LOST.swap(true, Ordering::Relaxed)
    {
        to_error(format_args!("standard output: {e}"));
    }
}

/// False when there was no room for what was written to standard output: where that was all that was wanted, it has failed.
#[must_use]
pub fn is_output_whole() -> bool {
    !IS_LOST.load(Ordering::Relaxed)
}

/// Writes a line to standard error.
pub fn to_error(line: Arguments<'_>) {
    // At once, as lines of other processes may go to the same place. Where nobody can hear it, nobody can be told so.
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}
