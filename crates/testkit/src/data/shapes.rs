use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use crate::client::Client;
use crate::data::{Commands, fill};
use crate::error::{Error, Result};
use crate::rng::Rng;

/// How many elements go into one command.
const BATCH: u64 = 200;

/// Bytes of one element of a [`big`] collection.
const ELEMENT: usize = 100;

/// Writes `count` tiny strings, keys of nine bytes and values of one to seven digits, into the current database. Returns the
/// number of commands.
///
/// # Errors
/// As [`fill`].
pub fn tiny_keys(client: &mut Client, seed: u64, count: u64) -> Result<u64> {
    let mut rng = Rng::new(seed);
    fill(client, |commands| {
        let mut next = 0;
        while next < count {
            let end = (next + BATCH).min(count);
            let mut args = vec!["MSET".to_owned()];
            for i in next..end {
                args.push(format!("k{i:08}"));
                args.push(rng.below(10_000_000).to_string());
            }
            commands.push(&args)?;
            next = end;
        }
        Ok(())
    })
}

/// Writes an RDB file of `count` tiny strings, keys of ten bytes and values of eight, and returns its size in bytes. It has no
/// checksum. `backwards` gives the same keys in the opposite order. Needs no server, and 22 bytes a key.
///
/// # Errors
/// Those of writing the file.
pub fn tiny_keys_file(path: &Path, count: u64, backwards: bool) -> Result<u64> {
    let failed = |source| Error::File { what: "written", path: path.to_owned(), source };
    write_tiny_keys(path, count, backwards).map_err(failed)
}

fn write_tiny_keys(path: &Path, count: u64, backwards: bool) -> std::io::Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let number = |n: u64| {
        let bytes = n.to_be_bytes();
        [&[0x81], &bytes[..]].concat()
    };
    out.write_all(b"REDIS0009\xFE\x00\xFB")?;
    out.write_all(&number(count))?;
    out.write_all(&[0])?;
    let mut record = *b"\x00\x0Ak000000000\x08v0000000";
    for n in 0..count {
        let n = if backwards { count - 1 - n } else { n };
        digits(&mut record[3..12], n);
        digits(&mut record[14..], n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 41);
        out.write_all(&record)?;
    }
    // No checksum.
    out.write_all(b"\xFF\0\0\0\0\0\0\0\0")?;
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    Ok(file.metadata()?.len())
}

/// The last digits of a number.
fn digits(out: &mut [u8], mut n: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
}

/// Writes `count` strings of `size` bytes that no compression makes smaller. Returns the number of commands.
///
/// # Errors
/// As [`fill`].
pub fn large_strings(client: &mut Client, seed: u64, count: u64, size: usize) -> Result<u64> {
    let mut rng = Rng::new(seed);
    let mut value = Vec::new();
    fill(client, |commands| {
        (0..count).try_for_each(|i| {
            value.clear();
            rng.bytes(size, &mut value);
            commands.push([&b"SET"[..], format!("large:{i:08}").as_bytes(), &value])
        })
    })
}

/// Writes `count` strings of `size` bytes of text, words in random order, which compress to about half. Returns the number
/// of commands.
///
/// # Errors
/// As [`fill`].
pub fn large_texts(client: &mut Client, seed: u64, count: u64, size: usize) -> Result<u64> {
    let mut rng = Rng::new(seed);
    let words: Vec<Vec<u8>> = (0..400)
        .map(|_| {
            let length = rng.range(2, 10);
            rng.text_vec(length)
        })
        .collect();
    let mut value = Vec::new();
    fill(client, |commands| {
        (0..count).try_for_each(|i| {
            value.clear();
            while value.len() < size {
                value.extend_from_slice(&words[rng.index(words.len())]);
                value.push(b' ');
            }
            commands.push([&b"SET"[..], format!("text:{i:08}").as_bytes(), &value])
        })
    })
}

/// The type of a [`big`] key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Shape {
    /// One string, of at most 512 MB (the servers' own limit).
    String,
    /// A list of elements of 100 bytes.
    List,
    /// A set of members of 100 bytes.
    Set,
    /// A sorted set of members of 100 bytes.
    SortedSet,
    /// A hash of fields of 20 and values of 80 bytes.
    Hash,
    /// A stream of entries of one field and 100 bytes.
    Stream,
}

/// Adds about `bytes` of payload to the key `key` of the current database, by commands of many elements each. Returns the
/// number of commands.
///
/// # Errors
/// As [`fill`]; [`Error::Refused`](crate::Error::Refused) for a string above 512 MB.
pub fn big(client: &mut Client, seed: u64, key: &str, shape: Shape, bytes: u64) -> Result<u64> {
    let mut rng = Rng::new(seed);
    fill(client, |commands| match shape {
        Shape::String => big_string(commands, &mut rng, key, bytes),
        Shape::Stream => (1..=bytes / ELEMENT as u64).try_for_each(|i| {
            let value = rng.text_vec(ELEMENT);
            commands.push([&b"XADD"[..], key.as_bytes(), format!("{i}-1").as_bytes(), b"f", &value])
        }),
        Shape::List | Shape::Set | Shape::SortedSet | Shape::Hash => {
            let count = bytes / ELEMENT as u64;
            let mut next = 0;
            let mut args: Vec<Vec<u8>> = Vec::new();
            while next < count {
                let end = (next + BATCH).min(count);
                let command = match shape {
                    Shape::List => "RPUSH",
                    Shape::Set => "SADD",
                    Shape::SortedSet => "ZADD",
                    _ => "HSET",
                };
                args.clear();
                args.extend([command.into(), key.into()]);
                for i in next..end {
                    element(&mut args, &mut rng, shape, i);
                }
                commands.push(&args)?;
                next = end;
            }
            Ok(())
        }
    })
}

fn big_string(commands: &mut Commands<'_>, rng: &mut Rng, key: &str, bytes: u64) -> Result<()> {
    let mut left = bytes;
    let mut part = Vec::new();
    while left > 0 {
        let length = left.min(1 << 20);
        part.clear();
        rng.bytes(length as usize, &mut part);
        commands.push([&b"APPEND"[..], key.as_bytes(), &part])?;
        left -= length;
    }
    Ok(())
}

fn element(args: &mut Vec<Vec<u8>>, rng: &mut Rng, shape: Shape, i: u64) {
    match shape {
        Shape::Hash => {
            args.push(format!("field:{i:014}").into_bytes());
            args.push(rng.text_vec(ELEMENT - 20));
        }
        Shape::SortedSet => {
            args.push((i as f64 / 8.0).to_string().into_bytes());
            args.push(rng.text_vec(ELEMENT));
        }
        _ => args.push(rng.text_vec(ELEMENT)),
    }
}
