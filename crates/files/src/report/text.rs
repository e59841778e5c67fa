//! Surveys as text for a terminal.

use std::io::{self, Write};

use super::About;
use super::units::{bytes, checksum, count, share, time};
use crate::survey::{BigKey, Prefix, Prefixes, Summary, Totals};
use crate::text::{line, short_line};

/// Characters of a key in a table.
const KEY_WIDTH: usize = 60;

/// With more databases than this, their encodings are shown together only.
const MAX_APART: usize = 16;

/// Rows of cells, put in columns when they are written: the first to the left, the others to the right, but for those named
/// as text.
#[derive(Default)]
struct Table {
    rows: Vec<Vec<String>>,
    text: Vec<usize>,
}

impl Table {
    fn new<const N: usize>(header: [&str; N], text: &[usize]) -> Self {
        let mut table = Self { rows: Vec::new(), text: text.to_vec() };
        table.row(header.map(str::to_owned));
        table
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut text = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let fill = " ".repeat(width - cell.chars().count());
                if self.text.contains(&column) {
                    text.push_str(cell);
                    text.push_str(&fill);
                } else {
                    text.push_str(&fill);
                    text.push_str(cell);
                }
                text.push_str("  ");
            }
            writeln!(out, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// Writes what a reader has to know lest the figures mislead, a line each.
///
/// # Errors
///
/// Those of `out`.
pub fn write_about(out: &mut impl Write, about: &About) -> io::Result<()> {
    about.notes().iter().try_for_each(|note| writeln!(out, "note      {note}"))
}

/// Writes totals: keys, bytes and expiries by database and encoding, and what else was found.
///
/// # Errors
///
/// Those of `out`.
pub fn write_summary(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    let totals = summary.totals();
    if let Some(format) = summary.format() {
        let checksum = checksum(summary.checksum());
        writeln!(out, "format    {format}, {checksum}")?;
    }
    for field in summary.fields() {
        writeln!(out, "field     {} = {}", field.name, field.value)?;
    }
    writeln!(
        out,
        "keys      {}, {}, {} of them expire",
        count(totals.keys),
        bytes(totals.bytes),
        count(totals.expiring)
    )?;
    let records = summary.records();
    for (n, what) in [
        (records.functions, "libraries of functions"),
        (records.module_data, "blocks of module data beside keys"),
        (records.slot_notes, "notes on slots"),
        (records.hash_templates, "hash templates"),
        (records.empty_values, "keys with an empty value, which servers drop when they load them"),
    ] {
        if n > 0 {
            writeln!(out, "also      {} {what}", count(n))?;
        }
    }
    if totals.keys == 0 {
        return Ok(());
    }

    writeln!(out)?;
    let mut table = Table::new(["database", "keys", "bytes", "share", "expire", "largest"], &[0]);
    let row = |table: &mut Table, name: String, one: &Totals| {
        table.row([
            name,
            count(one.keys),
            bytes(one.bytes),
            share(one.bytes, totals.bytes),
            count(one.expiring),
            bytes(one.largest),
        ]);
    };
    let databases = summary.databases();
    for (number, one) in &databases {
        row(&mut table, number.map_or("others".to_owned(), |number| number.to_string()), one);
    }
    table.write(out)?;

    let apart = (2..=MAX_APART).contains(&databases.len());
    for (number, _) in databases.iter().filter(|_| apart) {
        let Some(number) = number else { continue };
        writeln!(out)?;
        write_encodings(out, summary, Some(*number), &format!("database {number}"))?;
    }
    writeln!(out)?;
    write_encodings(out, summary, None, "all databases")?;

    if totals.expiring > 0 {
        writeln!(out)?;
        let mut table = Table::new(
            [&format!("expire, from {}", time(summary.expiries().reference())), "keys", "share"],
            &[0],
        );
        for span in summary.expiries().spans().filter(|span| span.keys > 0) {
            table.row([span.name.to_owned(), count(span.keys), share(span.keys, totals.keys)]);
        }
        let never = totals.keys - totals.expiring;
        table.row(["never".to_owned(), count(never), share(never, totals.keys)]);
        table.write(out)?;
    }
    Ok(())
}

fn write_encodings(
    out: &mut impl Write,
    summary: &Summary,
    database: Option<u64>,
    name: &str,
) -> io::Result<()> {
    let mut table = Table::new([name, "encoding", "keys", "bytes", "share", "expire", "largest"], &[0, 1]);
    let encodings = summary.encodings(database);
    let all: u64 = encodings.iter().map(|(_, totals)| totals.bytes).sum();
    for (ty, totals) in encodings {
        table.row([
            ty.kind().name().to_owned(),
            ty.name().to_owned(),
            count(totals.keys),
            bytes(totals.bytes),
            share(totals.bytes, all),
            count(totals.expiring),
            bytes(totals.largest),
        ]);
    }
    table.write(out)
}

/// Writes the largest keys, one a line, names cut where they are long.
///
/// # Errors
///
/// Those of `out`.
pub fn write_big_keys(out: &mut impl Write, keys: &[BigKey]) -> io::Result<()> {
    let mut table = Table::new(
        ["bytes", "type", "encoding", "elements", "largest element", "database", "expires", "key"],
        &[1, 2, 6, 7],
    );
    for key in keys {
        table.row([
            bytes(key.bytes),
            key.kind.to_owned(),
            key.encoding.to_owned(),
            count(key.elements),
            bytes(key.largest_element),
            key.db.to_string(),
            key.expires_at.map_or("never".to_owned(), time),
            short_line(&key.key, KEY_WIDTH),
        ]);
    }
    table.write(out)
}

/// Writes the tree of prefixes, most bytes first, those with a hundredth of all bytes or more; at most `top` below each.
///
/// # Errors
///
/// Those of `out`.
pub fn write_prefixes(out: &mut impl Write, prefixes: &Prefixes, top: usize) -> io::Result<()> {
    let tree = prefixes.tree();
    let mut table = Table::new(["bytes", "share", "keys", "prefix"], &[3]);
    table.row([bytes(tree.bytes), share(tree.bytes, tree.bytes), count(tree.keys), "(all keys)".to_owned()]);
    add_prefixes(&mut table, &tree, &tree, 1, top);
    table.write(out)?;
    let missing = tree.below.iter().map(|prefix| prefix.missing).max().unwrap_or(0);
    if missing > 0 {
        writeln!(
            out,
            "too many prefixes to hold them all: figures may be too low by up to {} a prefix",
            bytes(missing)
        )?;
    }
    Ok(())
}

fn add_prefixes(table: &mut Table, all: &Prefix, above: &Prefix, depth: usize, top: usize) {
    let (mut shown, mut listed) = ((0, 0), 0);
    for prefix in above.below.iter().take(top).filter(|prefix| prefix.bytes.saturating_mul(100) >= all.bytes)
    {
        let name = prefix.prefix.get(above.prefix.len()..).unwrap_or_default();
        let name = format!("{}{}", "  ".repeat(depth - 1), short_line(name, KEY_WIDTH));
        table.row([bytes(prefix.bytes), share(prefix.bytes, all.bytes), count(prefix.keys), name]);
        add_prefixes(table, all, prefix, depth + 1, top);
        shown = (shown.0 + prefix.bytes, shown.1 + prefix.keys);
        listed += 1;
    }
    let rest = (above.bytes - shown.0, above.keys - shown.1);
    if listed > 0 && rest.1 > 0 {
        let name = format!("{}(others)", "  ".repeat(depth - 1));
        table.row([bytes(rest.0), share(rest.0, all.bytes), count(rest.1), name]);
    }
}

/// Writes one line about a key that expires: when, database, type, name.
///
/// # Errors
///
/// Those of `out`.
pub fn write_expiring(out: &mut impl Write, head: &keyferry_rdb::EntryHead<'_>) -> io::Result<()> {
    let Some(at) = head.expiry else { return Ok(()) };
    writeln!(out, "{}\t{}\t{}\t{}", time(at), head.db, head.ty.kind().name(), line(head.key))
}
