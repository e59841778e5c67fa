//! `cargo xtask view`: a migration from a cluster on the whole terminal, and how it looked, in the documentation.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use keyferry_testkit::data::{self, Writer, WriterOptions};
use keyferry_testkit::{Cluster, Server, Terminal, any};

use crate::bootstrap;
use crate::cargo::{release, root};
use crate::failure::{Context as _, Failure, Outcome};

const COLUMNS: u16 = 100;
const ROWS: u16 = 28;
const PATIENCE: Duration = Duration::from_secs(300);

/// The page.
const PAGE: &str = "docs/terminal-view.md";
/// Keys of some hundred bytes that are there before.
const KEYS: u64 = 60_000;

/// What is to be run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The program `migrate`, instead of building it
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    bootstrap::ensure_server()?;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => release("keyferry-examples", "--example", "migrate", &[])?,
    };
    let source = Cluster::builder(any()?).primaries(3).replicas(0).start()?;
    let target = Server::any()?;
    fill(&source)?;
    let writer = Writer::start_cluster(
        &source,
        WriterOptions { rate: 1500, databases: 1, ..WriterOptions::default() },
    )?;
    let mut command = Command::new(program);
    command.args(["--source", &source.url(), "--target", &target.url()]);
    command
        .args(["--view", "--limit-full-bytes", "1500k", "--limit-incremental-bytes", "300k"])
        .env_remove("NO_COLOR");
    let mut terminal = Terminal::start(command, COLUMNS, ROWS)?;
    wait(&terminal, |text| text.contains(" 5") && text.contains(" left"))?;
    capture(&terminal, "snapshot")?;
    wait(&terminal, |text| text.contains("the target keeps up"))?;
    // Some lag to look at, which becomes less in the end.
    for rest in [4, 3, 9] {
        std::thread::sleep(Duration::from_secs(4));
        terminal.press("p")?;
        std::thread::sleep(Duration::from_secs(rest));
        terminal.press("p")?;
    }
    wait(&terminal, |text| text.contains("▶ following") && text.contains(" left"))?;
    capture(&terminal, "following")?;
    terminal.press("0q")?;
    writer.stop()?;
    let left = terminal.end(PATIENCE)?.ok_or_else(|| Failure::new("it does not end"))?;
    match left.wrong.is_empty() && left.status.success() {
        true => Ok(()),
        false => Err(Failure::new(format!("{}: {}: {}", left.status, left.wrong.join(", "), left.text))),
    }
}

/// Values that do not get smaller, and are not all alike.
fn fill(source: &Cluster) -> Outcome {
    let mut client = source.client()?;
    data::small_cluster(&mut client, 7, 1)?;
    data::fill_cluster(&mut client, |commands| {
        for number in 0..KEYS {
            let word = |part: u64| format!("{:016x}", (number + part).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let value: String = (0..20).map(word).collect();
            commands.push(["SET", &format!("user:{number}"), &value])?;
        }
        Ok(())
    })?;
    Ok(())
}

fn wait(terminal: &Terminal, is_so: impl Fn(&str) -> bool) -> Outcome {
    match terminal.wait_until(PATIENCE, |terminal| is_so(&terminal.text())) {
        true => Ok(()),
        false => Err(Failure::new(format!("the screen is not as it should be:\n{}", terminal.text()))),
    }
}

/// Writes the screen as an image, and its text into its section of the page.
fn capture(terminal: &Terminal, name: &str) -> Outcome {
    let screen = terminal.screen();
    let image = format!("docs/terminal-view-{name}.svg");
    std::fs::write(root().join(&image), svg(&screen)).during(&image)?;
    let path = root().join(PAGE);
    let page = std::fs::read_to_string(&path).during(path.display())?;
    let (open, close) = (format!("<!-- screen {name} -->\n"), format!("<!-- end {name} -->\n"));
    let (Some(start), Some(end)) = (page.find(&open), page.find(&close)) else {
        return Err(Failure::new(format!("{PAGE} has no section {name}")));
    };
    let rows: Vec<String> = screen.rows(0, COLUMNS).map(|row| row.trim_end().to_owned()).collect();
    let text = format!("{}{open}```text\n{}\n```\n{}", &page[..start], rows.join("\n"), &page[end..]);
    std::fs::write(&path, text).during(path.display())?;
    println!("view: {image} and {PAGE} are written");
    Ok(())
}

/// Sizes of a cell, and of the letters in it, of which most fonts have six tenths as their width.
const CELL: (u16, u16) = (9, 19);
const LETTERS: u16 = 15;
const MARGIN: u16 = 12;

/// The screen as an image. Blocks are drawn, so that no font is needed for them.
fn svg(screen: &vt100::Screen) -> String {
    let (width, height) = (COLUMNS * CELL.0 + 2 * MARGIN, ROWS * CELL.1 + 2 * MARGIN);
    let mut image = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"{LETTERS}\">\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#16181d\"/>\n"
    );
    for row in 0..ROWS {
        let y = MARGIN + row * CELL.1;
        let mut column = 0;
        while column < COLUMNS {
            let Some(cell) = screen.cell(row, column) else { break };
            let style = style(cell);
            if let Some((share, opacity)) = block(cell.contents()) {
                let x = MARGIN + column * CELL.0;
                let tall = CELL.1 * share / 8;
                let top = y + CELL.1 - tall;
                let _ = writeln!(
                    image,
                    "<rect x=\"{x}\" y=\"{top}\" width=\"{}\" height=\"{tall}\" {style} fill-opacity=\"{opacity}\"/>",
                    CELL.0
                );
                column += 1;
                continue;
            }
            let mut text = String::new();
            let first = column;
            while let Some(next) = screen.cell(row, column)
                && column < COLUMNS
                && self::style(next) == style
                && block(next.contents()).is_none()
            {
                text.push_str(if next.has_contents() { next.contents() } else { " " });
                column += 1;
            }
            words(&mut image, &text, (MARGIN + first * CELL.0, y + CELL.1 - 5), &style);
        }
    }
    image.push_str("</svg>\n");
    image
}

/// Each word at its column, so that all of it stands in line whatever the font.
fn words(image: &mut String, text: &str, (x, y): (u16, u16), style: &str) {
    let mut column = 0;
    for word in text.split(' ') {
        let columns = u16::try_from(word.chars().count()).unwrap_or(COLUMNS);
        if columns > 0 {
            let escaped = word.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            let (x, length) = (x + column * CELL.0, columns * CELL.0);
            let _ = writeln!(
                image,
                "<text x=\"{x}\" y=\"{y}\" textLength=\"{length}\" lengthAdjust=\"spacingAndGlyphs\" {style}>{escaped}</text>"
            );
        }
        column += columns + 1;
    }
}

/// Colour and weight of a cell.
fn style(cell: &vt100::Cell) -> String {
    let colour = match cell.fgcolor() {
        vt100::Color::Idx(1) => "#f07178",
        vt100::Color::Idx(2) => "#8bc34a",
        vt100::Color::Idx(3) => "#ffcb6b",
        _ if cell.dim() => "#8a919e",
        _ => "#d7dae0",
    };
    let weight = if cell.bold() { " font-weight=\"bold\"" } else { "" };
    format!("fill=\"{colour}\"{weight}")
}

/// Eighths of the cell that a block fills from below, and how dense it is.
fn block(text: &str) -> Option<(u16, &'static str)> {
    let eighths = "▁▂▃▄▅▆▇█".chars().zip(1..).find(|(block, _)| text.chars().eq([*block]));
    match (eighths, text) {
        (Some((_, eighths)), _) => Some((eighths, "1")),
        (None, "░") => Some((8, "0.25")),
        _ => None,
    }
}
