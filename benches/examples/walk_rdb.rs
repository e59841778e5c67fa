//! Walks one RDB file from start to end, checksum and all, and prints how many keys it has: what `cargo xtask bench` times
//! beside the servers' own checkers. With `--elements` every value is taken apart, too, and the bytes of its elements are
//! counted.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use keyferry_rdb::elements::{Element, ElementDecoder, ElementReader, Templates};
use keyferry_rdb::{EntryHead, Event, Limits, Parser};

/// Bytes asked for at once.
const BLOCK: usize = 256 << 10;

fn main() -> ExitCode {
    let mut elements = false;
    let mut file = None;
    for arg in std::env::args_os().skip(1) {
        match arg.to_str() {
            Some("--elements") => elements = true,
            _ => file = Some(PathBuf::from(arg)),
        }
    }
    let Some(file) = file else {
        eprintln!("usage: walk_rdb [--elements] FILE");
        return ExitCode::from(2);
    };
    let mut seen = Seen::default();
    match walk(&file, elements, &mut seen) {
        Ok(()) if elements => {
            println!("{} keys, {} elements, {} bytes in them", seen.keys, seen.elements, seen.bytes);
            ExitCode::SUCCESS
        }
        Ok(()) => {
            println!("{} keys", seen.keys);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("walk_rdb: {}: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Seen {
    keys: u64,
    elements: u64,
    bytes: u64,
}

impl Seen {
    /// Counts an element as a server does: an entry of a stream is one, and so is a string, which is counted with its key.
    fn element(&mut self, element: &Element<'_>) -> Result<(), keyferry_rdb::Error> {
        let bytes = match element {
            Element::Chunk(bytes) => {
                self.bytes += bytes.len() as u64;
                return Ok(());
            }
            Element::Item(bytes) | Element::Member(bytes) => bytes.len(),
            // The score itself is looked at, so that it cannot be left unread.
            Element::Scored { member, score } => member.len() + usize::from(score.value() > 0.0),
            Element::Field { name, value, .. } => name.len() + value.len(),
            Element::ArrayItem { value, .. } => value.len(),
            Element::StreamEntry(entry) => entry.fields().map(|(name, value)| name.len() + value.len()).sum(),
            _ => return Ok(()),
        };
        self.bytes += bytes as u64;
        self.elements += 1;
        Ok(())
    }
}

fn walk(file: &Path, elements: bool, seen: &mut Seen) -> Result<(), Box<dyn Error>> {
    let mut input = File::open(file)?;
    let limits = Limits::default();
    let mut parser = Parser::with_limits(limits.clone());
    // Large values come in parts, and their decoder is kept from part to part.
    let mut large: Option<ElementDecoder> = None;
    let templates = Templates::new();
    let mut reader = ElementReader::new(&limits).with_templates(templates.clone());
    while !parser.is_finished() {
        let read = input.read(parser.space(BLOCK))?;
        if read == 0 {
            break;
        }
        parser.filled(read);
        while let Some(event) = parser.next_event()? {
            let starts: Option<EntryHead<'_>> = match &event {
                Event::Entry(entry) => Some(entry.head),
                Event::ValueStart(head) => Some(*head),
                _ => None,
            };
            if let Some(head) = starts {
                seen.keys += 1;
                seen.elements += u64::from(head.ty.kind() == keyferry_rdb::Kind::String);
            }
            if !elements {
                continue;
            }
            match event {
                Event::HashTemplate(template) => templates.learn(&template)?,
                Event::Entry(entry) => {
                    reader.read(entry.value).for_each(|element| seen.element(&element))?;
                }
                Event::ValueStart(head) => {
                    large = Some(ElementDecoder::new(head.ty, &limits).with_templates(templates.clone()));
                }
                Event::ValuePart(part) => {
                    if let Some(decoder) = &mut large {
                        decoder.feed(part);
                        decoder.for_each(|element| seen.element(&element))?;
                    }
                }
                Event::ValueEnd => {
                    if let Some(decoder) = large.take() {
                        decoder.finish()?;
                    }
                }
                _ => {}
            }
        }
    }
    parser.end_of_input()?;
    Ok(())
}
