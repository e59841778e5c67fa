//! The table of the links to the source: its shards, or files.

use keyferry_migrate::LinkFigures;
use ratatui::text::{Line, Span};

use super::{
    draw::{Shown, cut, text_width},
    text::{bytes, clean, count},
};

/// Columns besides the name, with their widths; those at the end go first where there is no room.
const COLUMNS: [(&str, usize); 6] =
    [("lag", 12), ("phase", 13), ("applied", 12), ("received", 12), ("keys", 14), ("commands", 14)];
/// The name is never narrower.
const NAME: usize = 12;

/// A heading and a line for each link, in so many rows. Where there are more links, those with trouble and the largest lag are
/// shown, and the rest is counted.
pub(super) fn lines(shown: &Shown<'_>, rows: u16, width: u16) -> Vec<Line<'static>> {
    let (rows, width) = (usize::from(rows).saturating_sub(1), usize::from(width));
    let mut links: Vec<&LinkFigures> = shown.figures.links.iter().collect();
    let hidden = if links.len() > rows { links.len() - rows.saturating_sub(1) } else { 0 };
    if hidden > 0 {
        links.sort_by_key(|link| {
            let of = &link.figures;
            std::cmp::Reverse((
                of.trouble.is_some() || of.held_up,
                of.lag_bytes,
                u64::MAX - of.snapshot_applied,
            ))
        });
        links.truncate(rows.saturating_sub(1));
    }
    let mut room = width.saturating_sub(NAME);
    let columns = COLUMNS
        .iter()
        .take_while(|(_, width)| {
            let fits = *width <= room;
            room -= if fits { *width } else { 0 };
            fits
        })
        .count();
    let longest =
        links.iter().map(|link| text_width(&clean(&link.name))).max().unwrap_or(0).max("shard".len());
    let name = (longest + 1).clamp(NAME, NAME + room);
    let mut heading = pad("shard", name);
    for (title, width) in &COLUMNS[..columns] {
        heading.push_str(&format!("{title:>width$}"));
    }
    let mut lines = vec![Line::from(Span::styled(heading, shown.looks.strong()))];
    for link in links {
        let of = &link.figures;
        let cells = [
            of.lag_bytes.map_or("-".to_owned(), bytes),
            of.phase.name().to_owned(),
            bytes(of.input.map_or(of.snapshot_applied, |input| input.applied)),
            bytes(of.snapshot_received),
            count(of.keys_applied),
            count(of.commands_applied),
        ];
        let mut line = pad(&clean(&link.name), name);
        for (cell, (_, width)) in cells.iter().zip(&COLUMNS[..columns]) {
            line.push_str(&format!("{cell:>width$}"));
        }
        let troubled = of.trouble.is_some() || of.held_up;
        lines.push(match troubled {
            true => Line::from(Span::styled(line, shown.looks.bad())),
            false => Line::from(line),
        });
    }
    if hidden > 0 && rows > 0 {
        lines.push(Line::from(Span::styled(format!("and {hidden} more"), shown.looks.faint())));
    }
    lines
}

/// Cut or filled to so many columns.
fn pad(text: &str, columns: usize) -> String {
    let mut text = cut(text, columns.saturating_sub(1));
    text.push_str(&" ".repeat(columns.saturating_sub(text_width(&text))));
    text
}
