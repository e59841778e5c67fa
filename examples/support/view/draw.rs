//! What stands where on the screen: a function of figures and the size alone.
//!
//! A screen is made of parts, one below the other. Each takes so many rows at least and at most; where there are too few, the less important parts
//! stay away, and the others get what is left in the order of their weight.

use keyferry_migrate::{Figures, Phase, RateLimits, Rates, ThrottleFigures};
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Sparkline, Widget},
};

use super::{
    history::{History, Outlook, done, expected},
    shards,
    text::{bytes, clean, clock, count, rate, time},
};

/// All that is shown.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    /// Both sides, without passwords.
    pub(super) sides: (&'a str, &'a str),
    pub(super) figures: &'a Figures,
    pub(super) throttle: &'a ThrottleFigures,
    pub(super) history: &'a History,
    /// Errors by class.
    pub(super) errors: &'a [(String, u64)],
    /// The last lines of the log.
    pub(super) log: &'a [String],
    /// What was said in place of the keys' names: the migration is about to end.
    pub(super) said: Option<&'a str>,
    pub(super) looks: Looks,
}

/// How things are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looks {
    Coloured,
    /// By bold and dim letters: `NO_COLOR`.
    Plain,
}

impl Looks {
    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn good(self) -> Style {
        self.colour(Color::Green)
    }

    pub(super) fn bad(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn colour(self, colour: Color) -> Style {
        if self == Looks::Coloured { Style::new().fg(colour) } else { Style::new() }
    }
}

/// Rows that belong together.
struct Part {
    /// Parts with more of it get their rows first.
    weight: u8,
    least: u16,
    most: u16,
    content: Content,
}

enum Content {
    Lines(Vec<Line<'static>>),
    Shards,
    Lag,
    Log,
}

/// Draws all of it.
pub(super) fn draw(shown: &Shown<'_>, area: Rect, to: &mut Buffer) {
    let area = area.intersection(*to.area());
    if area.is_empty() {
        return;
    }
    let parts = parts(shown, usize::from(area.width));
    let mut y = area.y;
    for (part, height) in parts.iter().zip(heights(&parts, area.height)) {
        let place = Rect::new(area.x, y, area.width, height);
        match &part.content {
            Content::Lines(lines) => put(lines, place, to),
            Content::Shards => put(&shards::lines(shown, place.height, place.width), place, to),
            Content::Lag => lag(shown, place, to),
            Content::Log => put(&log(shown, place.height), place, to),
        }
        y += height;
    }
}

fn put(lines: &[Line<'static>], place: Rect, to: &mut Buffer) {
    for (line, row) in lines.iter().zip(place.rows()) {
        to.set_line(row.x, row.y, line, row.width);
    }
}

/// Rows for each part, as many as there are at most.
fn heights(parts: &[Part], mut left: u16) -> Vec<u16> {
    let mut heights = vec![0; parts.len()];
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|&number| std::cmp::Reverse(parts[number].weight));
    for &number in &order {
        let least = parts[number].least;
        if least <= left {
            heights[number] = least;
            left -= least;
        }
    }
    // A part that has stayed away gets nothing of what is left.
    for &number in &order {
        if heights[number] == 0 && parts[number].least > 0 {
            continue;
        }
        let more = parts[number].most.saturating_sub(heights[number]).min(left);
        heights[number] += more;
        left -= more;
    }
    heights
}

fn parts(shown: &Shown<'_>, width: usize) -> Vec<Part> {
    let one =
        |weight, line: Line<'static>| Part { weight, least: 1, most: 1, content: Content::Lines(vec![line]) };
    let mut parts =
        vec![one(90, header(shown, width)), one(80, phases(shown, width)), one(100, how_far(shown, width))];
    parts.extend(trouble(shown).map(|line| one(95, line)));
    parts.push(one(75, rates(shown)));
    parts.push(one(50, totals(shown)));
    let links = u16::try_from(shown.figures.links.len()).unwrap_or(u16::MAX).min(1000);
    if links > 0 {
        // A heading, a shard, and how many more there are.
        let least = (links + 1).min(3);
        parts.push(Part { weight: 66, least, most: links + 1, content: Content::Shards });
    }
    parts.push(Part { weight: 65, least: 2, most: 4, content: Content::Lag });
    parts.push(one(45, throttle(shown)));
    parts.push(one(40, journal(shown)));
    parts.push(one(35, errors(shown)));
    if !shown.log.is_empty() {
        let rows = u16::try_from(shown.log.len() + 1).unwrap_or(u16::MAX);
        parts.push(Part { weight: 10, least: 2, most: rows, content: Content::Log });
    }
    // What is not needed by anything stays free above the keys.
    parts.push(Part { weight: 0, least: 0, most: u16::MAX, content: Content::Lines(Vec::new()) });
    parts.push(one(70, keys(shown)));
    parts
}

/// A name in front of what belongs to it.
fn named(shown: &Shown<'_>, name: &'static str, what: String) -> Line<'static> {
    Line::from(vec![Span::styled(format!("{name:<9}"), shown.looks.strong()), Span::raw(what)])
}

fn header(shown: &Shown<'_>, width: usize) -> Line<'static> {
    let elapsed = clock(shown.figures.elapsed_seconds);
    let (source, target) = (clean(shown.sides.0), clean(shown.sides.1));
    // Sides are cut where they are too long, in the same way; the time stays.
    let room = width.saturating_sub("keyferry".len() + 2 + " → ".chars().count() + 2 + elapsed.len());
    // Where there is little room, what kind of URLs they are goes first.
    let fits = text_width(&source) + text_width(&target) <= room;
    let short = |side: String| match (fits, side.split_once("://")) {
        (false, Some((_, place))) => place.to_owned(),
        _ => side,
    };
    let (source, target) = (short(source), short(target));
    let source = cut(&source, room.saturating_sub(text_width(&target)).max(room / 2));
    let target = cut(&target, room.saturating_sub(text_width(&source)));
    let sides = format!("  {source} → {target}");
    let free = width.saturating_sub("keyferry".len() + text_width(&sides) + elapsed.len());
    Line::from(vec![
        Span::styled("keyferry", shown.looks.strong()),
        Span::raw(sides),
        Span::raw(" ".repeat(free)),
        Span::raw(elapsed),
    ])
}

fn phases(shown: &Shown<'_>, width: usize) -> Line<'static> {
    let phases = &Phase::ALL[..Phase::ALL.len() - 1];
    let now = shown.figures.phase as usize;
    if shown.figures.phase == Phase::Ended {
        return Line::from(Span::styled("ended", shown.looks.good()));
    }
    let mut spans = Vec::new();
    for (number, phase) in phases.iter().enumerate() {
        let (mark, style) = match number.cmp(&now) {
            std::cmp::Ordering::Less => ("✓ ", shown.looks.good()),
            std::cmp::Ordering::Equal => ("▶ ", shown.looks.strong()),
            std::cmp::Ordering::Greater => ("· ", shown.looks.faint()),
        };
        spans.push(Span::styled(format!("{mark}{}", phase.name()), style));
        spans.push(Span::raw("  "));
    }
    let line = Line::from(spans);
    match line.width() <= width + 2 {
        true => line,
        false => Line::from(Span::styled(
            format!("▶ {} ({} of {})", shown.figures.phase.name(), now + 1, phases.len()),
            shown.looks.strong(),
        )),
    }
}

/// The most important line: how far it is, and how long it takes.
fn how_far(shown: &Shown<'_>, width: usize) -> Line<'static> {
    let figures = shown.figures;
    if shown.throttle.paused {
        let what = "paused: nothing is handed to the target";
        return Line::from(Span::styled(what, shown.looks.bad()));
    }
    let outlook = shown.history.outlook(figures);
    let left = match outlook {
        Outlook::In(seconds) => format!("about {} left", time(seconds)),
        Outlook::CaughtUp => "the target keeps up".to_owned(),
        Outlook::FallsBehind => "the lag does not shrink".to_owned(),
        Outlook::Unknown => String::new(),
    };
    let following = matches!(figures.phase, Phase::CatchingUp | Phase::Following);
    if figures.input.is_none() && following {
        let style = match outlook {
            Outlook::CaughtUp => shown.looks.good(),
            Outlook::FallsBehind => shown.looks.bad(),
            _ => Style::new(),
        };
        let lag = figures.lag_bytes.map_or("lag unknown".to_owned(), |lag| format!("lag {}", bytes(lag)));
        let old =
            shown.history.lag_time().map_or(String::new(), |old| format!(", {}", time(old.as_secs_f64())));
        return Line::from(vec![
            Span::styled(lag + &old, shown.looks.strong()),
            Span::raw("  "),
            Span::styled(left, style),
        ]);
    }
    if !matches!(figures.phase, Phase::Snapshot) && figures.input.is_none() {
        return Line::from(match figures.phase {
            Phase::Connecting => "looking at both sides",
            Phase::Preparing => "the source prepares its snapshot",
            _ => "",
        });
    }
    let (done, total) = (done(figures), expected(figures));
    let amount = match total {
        Some(total) => format!("{} of {}", bytes(done), bytes(total.max(done))),
        None => bytes(done),
    };
    let Some(total) = total.filter(|&total| total > 0) else {
        return Line::from(format!("{amount}  {left}"));
    };
    let share = (done as f64 / total as f64).clamp(0.0, 1.0);
    let text = format!(" {:>3.0} %  {amount}  {left}", (share * 100.0).floor());
    let room = width.saturating_sub(text_width(&text)).min(40);
    let full = (room as f64 * share) as usize;
    Line::from(vec![
        Span::styled("█".repeat(full), shown.looks.good()),
        Span::styled("░".repeat(room - full), shown.looks.faint()),
        Span::raw(text),
    ])
}

/// What is tried again, or why the source is not read.
fn trouble(shown: &Shown<'_>) -> Option<Line<'static>> {
    let figures = shown.figures;
    let text = match (figures.held_up, figures.trouble.as_deref()) {
        (false, None) => return None,
        (false, Some(trouble)) => format!("trying again: {}", clean(trouble)),
        (true, trouble) => {
            let why = clean(trouble.unwrap_or("the journal is as large as it may be"));
            let patience = figures.source_patience_seconds;
            let patience =
                patience.map(|left| format!("; the source remembers what was not read for {}", time(left)));
            format!("the source is not read: {why}{}", patience.unwrap_or_default())
        }
    };
    Some(Line::from(Span::styled(text, shown.looks.bad())))
}

fn rates(shown: &Shown<'_>) -> Line<'static> {
    let now = shown.history.per_second();
    let mut line = format!("{}/s in, {}/s applied", bytes(rate(now.received)), bytes(rate(now.applied)));
    if matches!(shown.figures.phase, Phase::CatchingUp | Phase::Following) {
        line.push_str(&format!(", {} commands/s", count(rate(now.commands))));
    } else {
        line.push_str(&format!(", {} keys/s", count(rate(now.keys))));
    }
    named(shown, "rates", line)
}

fn totals(shown: &Shown<'_>) -> Line<'static> {
    let figures = shown.figures;
    let announced = figures.keys_announced.max(figures.keys_applied);
    let of = if figures.keys_announced > 0 { format!(" of {}", count(announced)) } else { String::new() };
    let large = if figures.large_keys > 0 {
        format!(" ({} large)", count(figures.large_keys))
    } else {
        String::new()
    };
    let line = format!(
        "{}{of} keys{large}, {} commands, {} sent",
        count(figures.keys_applied),
        count(figures.commands_applied),
        bytes(figures.bytes_sent)
    );
    named(shown, "done", line)
}

/// The lag over time: a heading, and columns below it.
fn lag(shown: &Shown<'_>, place: Rect, to: &mut Buffer) {
    let Some((heading, graph)) = place
        .height
        .checked_sub(1)
        .map(|rows| (Rect { height: 1, ..place }, Rect { y: place.y + 1, height: rows, ..place }))
    else {
        return;
    };
    let (lags, span) = shown.history.lags(usize::from(graph.width));
    let most = lags.iter().copied().flatten().max();
    let text = match (shown.figures.lag_bytes, most) {
        (Some(now), Some(most)) => format!("{} now, {} at most in {}", bytes(now), bytes(most), time(span)),
        _ => "told when the snapshot is applied".to_owned(),
    };
    put(&[named(shown, "lag", text)], heading, to);
    Sparkline::default()
        .data(lags.iter().map(|lag| lag.unwrap_or(0)))
        // Without any lag nothing is drawn.
        .max(most.unwrap_or(0).max(1))
        .style(shown.looks.colour(Color::Yellow))
        .render(graph, to);
}

fn throttle(shown: &Shown<'_>) -> Line<'static> {
    let figures = shown.throttle;
    let mut words = limits(&figures.limits);
    match (figures.limits.adaptive, figures.adaptive_bytes) {
        (None, _) => {}
        (Some(_), None) => words.push("adaptive".to_owned()),
        (Some(_), Some(now)) => words.push(format!(
            "adaptive: {}/s (not below {}/s)",
            bytes(now),
            bytes(figures.adaptive_floor_bytes)
        )),
    }
    if words.is_empty() {
        words.push("no limits".to_owned());
    }
    let waited: Vec<String> =
        figures.waited_seconds.iter().map(|(what, seconds)| format!("{} {what}", time(*seconds))).collect();
    if !waited.is_empty() {
        words.push(format!("waited {}", waited.join(", ")));
    }
    if figures.falls_behind {
        words.push("slower than the source writes".to_owned());
    }
    named(shown, "throttle", words.join("; "))
}

/// What is limited, in the words of the options.
fn limits(limits: &RateLimits) -> Vec<String> {
    let stages: [(&str, &Rates); 5] = [
        ("full", &limits.full),
        ("incremental", &limits.incremental),
        ("full a node", &limits.full_node),
        ("incremental a node", &limits.incremental_node),
        ("source", &limits.source),
    ];
    let mut words = Vec::new();
    for (name, rates) in stages {
        let set = |rate: Option<u64>| rate.filter(|&rate| rate > 0);
        let each = [
            set(rates.bytes).map(|rate| format!("{}/s", bytes(rate))),
            set(rates.keys).map(|rate| format!("{} keys/s", count(rate))),
            set(rates.commands).map(|rate| format!("{} commands/s", count(rate))),
        ];
        let each: Vec<String> = each.into_iter().flatten().collect();
        if !each.is_empty() {
            words.push(format!("{name} {}", each.join(", ")));
        }
    }
    words
}

fn journal(shown: &Shown<'_>) -> Line<'static> {
    let figures = shown.figures;
    let mut line =
        format!("{} on disk, {} wait", bytes(figures.journal_bytes), bytes(figures.journal_backlog));
    if let Some(patience) = figures.source_patience_seconds {
        line.push_str(&format!("; the source remembers {}", time(patience)));
    }
    named(shown, "journal", line)
}

fn errors(shown: &Shown<'_>) -> Line<'static> {
    let mut words: Vec<String> =
        shown.errors.iter().map(|(class, times)| format!("{} {}", count(*times), clean(class))).collect();
    if shown.figures.reconnects > 0 {
        words.push(format!("{} times connected anew", count(shown.figures.reconnects)));
    }
    let text = if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    named(shown, "errors", text)
}

/// A heading, and the newest lines that have room below it.
fn log(shown: &Shown<'_>, rows: u16) -> Vec<Line<'static>> {
    let last = shown.log.len().saturating_sub(usize::from(rows).saturating_sub(1));
    let mut lines = vec![Line::from(Span::styled("log", shown.looks.strong()))];
    lines.extend(shown.log[last..].iter().map(|line| Line::from(format!("  {}", clean(line)))));
    lines
}

fn keys(shown: &Shown<'_>) -> Line<'static> {
    if let Some(said) = shown.said {
        return Line::from(Span::styled(clean(said), shown.looks.bad()));
    }
    let pause = if shown.throttle.paused { "resume" } else { "pause" };
    let mut spans = Vec::new();
    for (key, what) in [("q", "end"), ("p", pause), ("- +", "slower, faster"), ("0", "no limit")] {
        spans.push(Span::styled(key, shown.looks.strong()));
        spans.push(Span::styled(format!(" {what}   "), shown.looks.faint()));
    }
    Line::from(spans)
}

/// Columns of a text.
pub(super) fn text_width(text: &str) -> usize {
    Span::raw(text).width()
}

/// A text of so many columns at most, with a sign where it was cut.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if text_width(text) <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut buffer = [0; 4];
    for c in text.chars() {
        if text_width(&kept) + text_width(c.encode_utf8(&mut buffer)) + 1 > columns {
            break;
        }
        kept.push(c);
    }
    if columns > 0 {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
