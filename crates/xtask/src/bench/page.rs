//! The page that figures are written to: hand-written text with one marked section a table.

use std::fmt;

use keyferry_testkit::ServerBinary;

use crate::cargo::root;
use crate::failure::{Context as _, Outcome};

/// The figures of one measurement.
#[derive(Debug)]
pub(super) struct Table {
    /// Marks its section in the page; never shown.
    pub(super) id: &'static str,
    pub(super) title: String,
    /// What was done, in a sentence or two.
    pub(super) about: String,
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(id: &'static str, title: &str, about: String, header: &[&str]) -> Table {
        let header = header.iter().map(|cell| (*cell).to_owned()).collect();
        Table { id, title: title.to_owned(), about, header, rows: Vec::new() }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n\n{}\n", self.title, self.about)?;
        writeln!(f, "| {} |", self.header.join(" | "))?;
        writeln!(f, "|{}", " --- |".repeat(self.header.len()))?;
        self.rows.iter().try_for_each(|row| writeln!(f, "| {} |", row.join(" | ")))
    }
}

const START: &str = "# Performance\n\nFigures of `cargo xtask bench`. Every ratio is taken in one run, on one machine, \
                     on the same data; every copy that was measured was compared with its source. Between the marked \
                     lines this page is written by that command.\n";

/// Puts each table into its section of the page, with the machine that it was measured on; new ones go to the end.
pub(super) fn write(tables: &[Table], server: &ServerBinary, scale: f64) -> Outcome {
    let path = root().join("docs/performance.md");
    let mut page = std::fs::read_to_string(&path).unwrap_or_else(|_| START.to_owned());
    let machine = format!("Measured on {}, {server}, scale {scale}.", machine());
    for table in tables {
        page = replace_section(&page, table.id, &format!("{table}\n{machine}\n"));
    }
    std::fs::write(&path, page).during(path.display())?;
    println!("\nwritten to {}", path.display());
    Ok(())
}

fn replace_section(page: &str, id: &str, text: &str) -> String {
    let (open, close) = (format!("<!-- bench {id} -->\n"), format!("<!-- end {id} -->\n"));
    let section = format!("{open}{text}{close}");
    match (page.find(&open), page.find(&close)) {
        (Some(start), Some(end)) if start < end => {
            format!("{}{section}{}", &page[..start], &page[end + close.len()..])
        }
        _ => format!("{}\n\n{section}", page.trim_end()),
    }
}

/// Processor, cores, memory and kernel, as Linux tells them.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let processor =
        field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let kernel = read("/proc/sys/kernel/osrelease");
    let gib = memory.unwrap_or(0) as f64 / f64::from(1 << 20);
    format!("{processor}, {cores} cores, {gib:.0} GiB, Linux {}", kernel.trim())
}

/// `3.21 s`
pub(super) fn seconds(seconds: f64) -> String {
    format!("{seconds:.2} s")
}

/// `12.3 MiB`
pub(super) fn mebibytes(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}

/// `0.25 ×`
pub(super) fn times(ratio: f64) -> String {
    format!("{ratio:.2} ×")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_replaced_in_place() {
        let page = "# Page\n\nwords\n";
        let page = replace_section(page, "a", "first\n");
        let page = replace_section(&page, "b", "second\n");
        let page = replace_section(&page, "a", "third\n");
        assert_eq!(
            page,
            "# Page\n\nwords\n\n<!-- bench a -->\nthird\n<!-- end a -->\n\n<!-- bench b -->\nsecond\n<!-- end b -->\n"
        );
    }

    #[test]
    fn tables_are_markdown() {
        let mut table = Table::new("x", "Title", "About.".to_owned(), &["what", "time"]);
        table.row(["it".to_owned(), seconds(1.234)]);
        assert_eq!(
            table.to_string(),
            "## Title\n\nAbout.\n\n| what | time |\n| --- | --- |\n| it | 1.23 s |\n"
        );
    }
}
