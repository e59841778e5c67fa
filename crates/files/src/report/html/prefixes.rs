//! Prefixes as a treemap and as a tree to be opened.

use std::fmt::{self, Write as _};

use super::Safe;
use super::treemap::{Rect, squarify};
use crate::report::units::{bytes, count, share};
use crate::survey::{Prefix, Prefixes};
use crate::text::{line, short_line};

/// The drawing.
const AREA: Rect = Rect { x: 0.0, y: 0.0, w: 1200.0, h: 520.0 };
/// Height of a group's name.
const TITLE: f64 = 19.0;
/// Width of a character of the drawing's text.
const CHAR: f64 = 7.3;
/// How many prefixes are drawn in one rectangle, at most. Those that are left stand together.
const MAX_CELLS: usize = 32;
/// Rectangles smaller than this are of no use to the eye.
const MIN_AREA: f64 = 160.0;
/// How many prefixes of the tree are written in all, and below one.
const MAX_LISTED: usize = 1500;
const MAX_BELOW: usize = 50;
/// Characters of a name.
const NAME_WIDTH: usize = 80;

pub(super) fn write(page: &mut String, found: &Prefixes) -> fmt::Result {
    let tree = found.tree();
    page.push_str("<section><h2>Prefixes by bytes</h2>\n");
    if tree.below.is_empty() {
        let separator = Safe(line(&found.options().separator)).to_string();
        return writeln!(page, "<p>No name has a <code>{separator}</code> in it.</p></section>");
    }
    writeln!(
        page,
        "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"Treemap of key prefixes\">",
        AREA.w, AREA.h
    )?;
    for (rank, (cell, rect)) in cells(&tree, AREA).into_iter().enumerate() {
        draw_group(page, &cell, rect, rank)?;
    }
    page.push_str("</svg>\n<details open><summary>As a tree</summary>\n");
    let mut left = MAX_LISTED;
    list(page, &tree, &tree, &mut left)?;
    page.push_str("</details>\n");
    let missing = largest_missing(&tree);
    if missing > 0 {
        writeln!(
            page,
            "<p class=\"note\">There are too many prefixes to hold them all in memory: figures may be too low by up to {}.</p>",
            bytes(missing)
        )?;
    }
    page.push_str("</section>\n");
    Ok(())
}

/// What a rectangle stands for.
struct Cell<'a> {
    /// `None` for what has no rectangle of its own.
    prefix: Option<&'a Prefix>,
    /// The part of the name below the one above.
    name: &'a [u8],
    keys: u64,
    bytes: u64,
}

/// The prefixes below one, and what is left, with their rectangles.
fn cells<'a>(above: &'a Prefix, area: Rect) -> Vec<(Cell<'a>, Rect)> {
    let scale = area.w * area.h / above.bytes.max(1) as f64;
    let mut cells: Vec<Cell<'a>> = above
        .below
        .iter()
        .take(MAX_CELLS)
        .take_while(|prefix| prefix.bytes as f64 * scale >= MIN_AREA)
        .map(|prefix| Cell {
            prefix: Some(prefix),
            name: prefix.prefix.get(above.prefix.len()..).unwrap_or_default(),
            keys: prefix.keys,
            bytes: prefix.bytes,
        })
        .collect();
    let (keys, sum) = cells.iter().fold((0, 0), |(keys, sum), cell| (keys + cell.keys, sum + cell.bytes));
    if above.bytes > sum {
        let rest = Cell { prefix: None, name: b"", keys: above.keys - keys, bytes: above.bytes - sum };
        let at = cells.partition_point(|cell| cell.bytes >= rest.bytes);
        cells.insert(at, rest);
    }
    let sizes: Vec<u64> = cells.iter().map(|cell| cell.bytes).collect();
    cells.into_iter().zip(squarify(&sizes, area)).collect()
}

fn draw_group(page: &mut String, cell: &Cell<'_>, rect: Rect, rank: usize) -> fmt::Result {
    let rect = rect.inset(1.5);
    let colour = match cell.prefix {
        Some(_) => format!("f{}", rank % 8),
        None => "fo".to_owned(),
    };
    draw_rect(page, rect, &format!("group {colour}"), cell, 4.0)?;
    draw_text(page, rect, cell)?;
    let Some(prefix) = cell.prefix.filter(|prefix| !prefix.below.is_empty()) else { return Ok(()) };
    let inside = rect.inset(3.0).below(TITLE);
    if inside.w < 24.0 || inside.h < 18.0 {
        return Ok(());
    }
    for (cell, rect) in cells(prefix, inside) {
        if cell.prefix.is_some() {
            let rect = rect.inset(0.5);
            draw_rect(page, rect, "cell", &cell, 2.0)?;
            draw_text(page, rect, &cell)?;
        }
    }
    Ok(())
}

fn draw_rect(page: &mut String, rect: Rect, class: &str, cell: &Cell<'_>, radius: f64) -> fmt::Result {
    let name = match cell.prefix {
        Some(prefix) => short_line(&prefix.prefix, NAME_WIDTH),
        None => "others, and keys without a prefix".to_owned(),
    };
    writeln!(
        page,
        "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{radius}\"><title>{}\n{}, {} keys</title></rect>",
        rect.x,
        rect.y,
        rect.w,
        rect.h,
        Safe(name),
        bytes(cell.bytes),
        count(cell.keys)
    )
}

/// The name and, where there is room, the bytes.
fn draw_text(page: &mut String, rect: Rect, cell: &Cell<'_>) -> fmt::Result {
    let chars = ((rect.w - 10.0) / CHAR) as usize;
    if chars < 3 || rect.h < 16.0 {
        return Ok(());
    }
    let name = match cell.prefix {
        Some(_) => short_line(cell.name, chars),
        None => short_line(b"others", chars),
    };
    let (x, y) = (rect.x + 5.0, rect.y + 14.0);
    writeln!(page, "<text x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", Safe(&name))?;
    let size = bytes(cell.bytes);
    let used = name.chars().count();
    if used + 2 + size.len() <= chars {
        let x = x + (used + 1) as f64 * CHAR;
        writeln!(page, "<text class=\"small\" x=\"{x:.1}\" y=\"{y:.1}\">{size}</text>")?;
    }
    Ok(())
}

fn list(page: &mut String, all: &Prefix, above: &Prefix, left: &mut usize) -> fmt::Result {
    let mut listed = 0;
    for prefix in above.below.iter().take(MAX_BELOW) {
        if *left == 0 {
            break;
        }
        *left -= 1;
        listed += 1;
        let name = prefix.prefix.get(above.prefix.len()..).unwrap_or_default();
        let entry = format!(
            "<code>{}</code> <span class=\"soft\">{}, {}, {} keys</span>",
            Safe(short_line(name, NAME_WIDTH)),
            bytes(prefix.bytes),
            share(prefix.bytes, all.bytes),
            count(prefix.keys)
        );
        if prefix.below.is_empty() {
            writeln!(page, "<div class=\"leaf\">{entry}</div>")?;
        } else {
            writeln!(page, "<details><summary>{entry}</summary>")?;
            list(page, all, prefix, left)?;
            page.push_str("</details>\n");
        }
    }
    let hidden = above.below.len() - listed;
    if hidden > 0 || above.folded {
        let more = if above.folded { "more" } else { "others" };
        let number = if hidden > 0 { format!("{} {more}", count(hidden as u64)) } else { more.to_owned() };
        writeln!(page, "<div class=\"leaf soft\">and {number}</div>")?;
    }
    Ok(())
}

fn largest_missing(prefix: &Prefix) -> u64 {
    prefix.below.iter().map(largest_missing).max().unwrap_or(0).max(prefix.missing)
}
