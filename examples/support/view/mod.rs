//! `migrate --view`: a migration on the whole terminal, and keys that steer it.
//!
//! A thread of its own draws five times a second and reads the keys; the migration does not know of it. Everything that is drawn
//! comes from the same handles that metrics and `--control` use. Where there is no terminal, lines are written as without the option.

mod draw;
mod history;
mod keys;
mod lines;
mod screen;
mod shards;
mod text;

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use keyferry_migrate::{Migration, Progress, Throttle};
use ratatui::crossterm::event::{self, Event};

use self::{
    draw::{Looks, Shown},
    history::History,
    keys::{Wish, limited, wish},
    screen::Screen,
};
pub use lines::Lines;
pub(crate) use screen::{asked, restore, say};

/// How often it is drawn, when no key is pressed.
const PERIOD: Duration = Duration::from_millis(200);
/// Lines of the log that are looked for: more than any terminal shows.
const LOG: usize = 200;

/// Whether the whole terminal is used.
#[derive(Debug, Clone, clap::Args)]
pub struct ViewArgs {
    /// On a terminal: fill it with phases, shards, rates, the lag over time and the time left, and take keys: q ends as Ctrl-C
    /// does, p pauses and resumes, - and + make it slower and faster, 0 takes that limit away. The report comes after it. Elsewhere lines are written
    #[arg(long)]
    view: bool,
}

impl ViewArgs {
    /// What keeps the log lines of a view; none where there is none, as it is not wanted, or there is no terminal.
    #[must_use]
    pub fn lines(&self) -> Option<Lines> {
        if self.view && !screen::is_possible() {
            say(
                "migrate: --view wants a terminal for standard output and standard error; there are lines instead",
            );
        }
        (self.view && screen::is_possible()).then(Lines::default)
    }
}

/// A running view of a migration: of the whole terminal, or bars, or lines.
#[derive(Debug)]
pub struct View {
    /// Bars or lines, and what watches signals.
    task: tokio::task::JoinHandle<()>,
    screen: Option<(JoinHandle<()>, Arc<AtomicBool>)>,
    /// Lines of the log that are to be seen afterwards, too.
    log: Option<Lines>,
}

impl View {
    /// Shows it from now on. `lines` is where the log goes, if the whole terminal is to be used; `keep` tells that the log was asked for,
    /// so that it is written when the terminal is free again.
    pub fn show(migration: &Migration, sides: (String, String), lines: Option<Lines>, keep: bool) -> Self {
        let bars = || tokio::spawn(crate::show_progress(migration.progress()));
        let Some(lines) = lines else { return View { task: bars(), screen: None, log: None } };
        let log = keep.then(|| lines.clone());
        match Screen::take() {
            Ok(screen) => {
                let ended = Arc::new(AtomicBool::new(false));
                let watched = Watched {
                    progress: migration.progress(),
                    throttle: migration.throttle(),
                    sides,
                    lines,
                    ended: Arc::clone(&ended),
                };
                let thread = std::thread::spawn(move || watched.run(screen));
                let task = tokio::spawn(crate::signals::restore_on_signal());
                View { task, screen: Some((thread, ended)), log }
            }
            Err(e) => {
                say(&format!("migrate: the terminal cannot be used as a whole: {e}"));
                View { task: bars(), screen: None, log }
            }
        }
    }

    /// Ends it: the terminal is as it was.
    pub fn end(self) {
        self.task.abort();
        if let Some((thread, ended)) = self.screen {
            ended.store(true, Ordering::Release);
            // Where it has panicked, that was said when it did.
            let _ = thread.join();
            restore();
        }
        if let Some(lines) = self.log {
            let (lines, dropped) = lines.take();
            let mut to = io::stderr().lock();
            if dropped > 0 {
                let _ = writeln!(to, "migrate: {dropped} older lines of the log are not kept");
            }
            for line in lines {
                // As it would have been written without a view: what is not to be trusted in it was made harmless by the logger.
                let _ = writeln!(to, "{line}");
            }
        }
    }
}

/// What the thread shows.
struct Watched {
    progress: Progress,
    throttle: Throttle,
    sides: (String, String),
    lines: Lines,
    ended: Arc<AtomicBool>,
}

impl Watched {
    /// Until it is over, or the terminal is somebody else's. Errors of the terminal end it; the migration goes on.
    fn run(self, mut screen: Screen) {
        let mut history = History::default();
        while !self.ended.load(Ordering::Acquire) {
            match self.step(&mut screen, &mut history) {
                Ok(true) => {}
                Ok(false) | Err(_) => break,
            }
        }
        restore();
    }

    fn step(&self, screen: &mut Screen, history: &mut History) -> io::Result<bool> {
        let figures = self.progress.figures();
        history.note(Instant::now(), &figures);
        let (throttle, errors, log) = (self.throttle.figures(), self.progress.errors(), self.lines.last(LOG));
        let said = screen::said();
        let shown = Shown {
            sides: (&self.sides.0, &self.sides.1),
            figures: &figures,
            throttle: &throttle,
            history,
            errors: &errors,
            log: &log,
            said: said.as_deref(),
            looks: looks(),
        };
        if !screen.draw(|frame| draw::draw(&shown, frame.area(), frame.buffer_mut()))? {
            return Ok(false);
        }
        let until = Instant::now() + PERIOD;
        while event::poll(until.saturating_duration_since(Instant::now()))? {
            let Event::Key(key) = event::read()? else { break };
            let Some(wish) = wish(key) else { continue };
            let per_second = text::rate(history.per_second().applied);
            match wish {
                Wish::End => screen::ask(),
                Wish::Pause if self.throttle.is_paused() => self.throttle.resume(),
                Wish::Pause => self.throttle.pause(),
                Wish::Redraw => screen.forget()?,
                Wish::Slower | Wish::Faster | Wish::Unlimited => {
                    self.throttle.set_limits(limited(self.throttle.limits(), wish, figures.phase, per_second))
                }
            }
            break;
        }
        Ok(true)
    }
}

fn looks() -> Looks {
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    if no_colour { Looks::Plain } else { Looks::Coloured }
}
