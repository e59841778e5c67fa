//! A page of documentation: its sections, and the commands in them with what they are said to print.

use std::path::Path;

/// What stands below a heading, up to the next one of the same or a higher level.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) steps: Vec<Step>,
}

/// One command.
#[derive(Debug)]
pub(crate) struct Step {
    /// As the shell takes it.
    pub(crate) command: String,
    /// Lines that it prints, in this order, among others. `…` stands for anything, and numbers for any number.
    pub(crate) expected: Vec<String>,
    /// It runs until the section ends: its block is a `console background`.
    pub(crate) background: bool,
}

/// The sections of a page of this repository.
pub(crate) fn sections(page: &str) -> Vec<Section> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    parse(&text)
}

/// The section with this title.
pub(crate) fn section(page: &str, title: &str) -> Section {
    let found = sections(page).into_iter().find(|section| section.title == title);
    found.unwrap_or_else(|| panic!("{page} has no section {title:?}"))
}

fn parse(text: &str) -> Vec<Section> {
    let mut sections = Vec::new();
    // What the fence of the present block says.
    let mut block: Option<String> = None;
    let mut continued = false;
    for line in text.lines() {
        if let Some(fence) = line.trim_start().strip_prefix("```") {
            block = if block.is_some() { None } else { Some(fence.trim().to_owned()) };
            continued = false;
            continue;
        }
        let Some(kind) = &block else {
            if let Some(title) = line.strip_prefix('#') {
                let title = title.trim_start_matches('#').trim().to_owned();
                sections.push(Section { title, steps: Vec::new() });
            }
            continue;
        };
        let (true, Some(section)) = (kind.starts_with("console"), sections.last_mut()) else { continue };
        if let Some(command) = line.strip_prefix("$ ") {
            let background = kind.ends_with("background");
            section.steps.push(Step { command: String::new(), expected: Vec::new(), background });
            continued = take(section, command);
        } else if continued {
            continued = take(section, line.trim_start());
        } else if let Some(step) = section.steps.last_mut()
            && !line.trim().is_empty()
        {
            step.expected.push(line.trim_end().to_owned());
        }
    }
    sections
}

/// Adds a line to the last command. True when it goes on in the next.
fn take(section: &mut Section, line: &str) -> bool {
    let Some(step) = section.steps.last_mut() else { return false };
    let line = line.split("   #").next().unwrap_or_default().trim_end();
    let (line, continued) = line.strip_suffix('\\').map_or((line, false), |line| (line, true));
    step.command.push_str(line);
    continued
}

/// True for a line as a page shows it.
pub(crate) fn matches(shown: &str, line: &str) -> bool {
    // The same with numbers and gaps of space taken for one.
    let plain = |text: &str| {
        let mut plain = String::new();
        for c in text.trim().chars() {
            let c =
                if c.is_ascii_digit() || (matches!(c, '.' | ',') && plain.ends_with('0')) { '0' } else { c };
            if !(matches!(c, '0' | ' ') && plain.ends_with(c)) {
                plain.push(c);
            }
        }
        plain
    };
    let (shown, line) = (plain(shown), plain(line));
    let mut parts = shown.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[test]
fn pages_are_read_and_lines_compared() {
    let text = "# A\n\n```console\n$ one --x \\\n    --y   # why\nout 1\n\n$ two\n```\n\n## B\n```text\n$ no\n```\n```console background\n$ three\n```\n";
    let sections = parse(text);
    let shown: Vec<_> =
        sections.iter().flat_map(|s| s.steps.iter().map(move |step| (&*s.title, step))).collect();
    let commands: Vec<_> =
        shown.iter().map(|(title, step)| (*title, &*step.command, step.background)).collect();
    assert_eq!(commands, [("A", "one --x --y", false), ("A", "two", false), ("B", "three", true)]);
    assert_eq!(shown[0].1.expected, ["out 1"]);
    assert!(matches("3 keys, 1.5 s  left", "1,234 keys, 20 s left") && matches("a … c … e", "a b c d e"));
    assert!(!matches("3 keys", "3 keys left") && !matches("a … c", "a b") && !matches("a … b … c", "a c"));
}
