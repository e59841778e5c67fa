//! Files that results are written to.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Creates a file of results in the place of an older one, but never in that of data: it may be what is about to be read, or a backup.
///
/// # Errors
/// When it holds a snapshot or an append-only file, or cannot be written.
pub fn create_output(path: &Path) -> io::Result<File> {
    refuse_data(path)?;
    File::create(path)
}

/// Refuses a file that holds a snapshot or an append-only file.
pub(crate) fn refuse_data(path: &Path) -> io::Result<()> {
    // Reading a pipe would wait for who writes to it.
    if !path.metadata().is_ok_and(|data| data.is_file()) {
        return Ok(());
    }
    let mut begins = Vec::new();
    File::open(path).and_then(|file| file.take(6).read_to_end(&mut begins))?;
    // A log of commands, or one whose times are kept.
    let is_log = begins.starts_with(b"#TS:")
        || begins.starts_with(b"*") && begins.get(1).is_some_and(u8::is_ascii_digit);
    if is_log || begins.starts_with(b"REDIS") || begins == b"VALKEY" {
        let what =
            "it holds a snapshot or commands, and is left as it is: choose another name, or remove it first";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_holds_data_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (text, is_data) in [
            ("REDIS0011", true),
            ("VALKEY080", true),
            ("*1\r\n$4\r\nPING\r\n", true),
            ("#TS:1\r\n", true),
            ("", false),
            ("*", false),
            ("* a list", false),
            ("# Migration", false),
            ("{}", false),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(create_output(&path).is_err(), is_data, "{text}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), if is_data { text } else { "" });
        }
        create_output(&dir.path().join("new")).unwrap();
    }
}
