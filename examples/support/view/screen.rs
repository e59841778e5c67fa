//! The terminal while something fills it: how it is taken, and given back on every way out.
//!
//! There is one terminal, so there is one state of it for the whole program: whoever ends it, or says something, asks here first.

use std::{
    io::{self, BufWriter, IsTerminal, Stderr, Write},
    sync::{
        Mutex, MutexGuard, Once, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ratatui::{
    Terminal, TerminalOptions, Viewport,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
    layout::Rect,
};
use tokio::sync::Notify;

/// Locked while something is written there.
static WRITING: Mutex<()> = Mutex::new(());
/// The screen is taken.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);
/// What was said since it was taken.
static SAID: Mutex<Option<String>> = Mutex::new(None);
/// Somebody has asked for the end, by a key.
static ASKED: Notify = Notify::const_new();
static HOOK: Once = Once::new();

/// Standard error as a screen of its own, until it is restored.
pub(super) struct Screen(Terminal<CrosstermBackend<BufWriter<Stderr>>>);

/// True where something may fill the screen, and leave a report behind it.
pub(super) fn is_possible() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    io::stderr().is_terminal() && io::stdout().is_terminal() && !dumb
}

impl Screen {
    /// Takes the terminal: what stands on it comes back with [`restore`].
    pub(super) fn take() -> io::Result<Self> {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            // What a panic says has to be read afterwards.
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                before(panic);
            }));
        });
        let writing = lock();
        enable_raw_mode()?;
        let entered = execute!(io::stderr(), EnterAlternateScreen).and_then(|()| {
            let backend = CrosstermBackend::new(BufWriter::new(io::stderr()));
            let options = TerminalOptions { viewport: Viewport::Fixed(size()) };
            let mut terminal = Terminal::with_options(backend, options)?;
            terminal.hide_cursor()?;
            Ok(terminal)
        });
        *tell() = None;
        IS_TAKEN.store(true, Ordering::Release);
        drop(writing);
        entered.map(Screen).inspect_err(|_| restore())
    }

    /// Draws, unless the terminal is no longer ours: false then.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut ratatui::Frame<'_>)) -> io::Result<bool> {
        let _writing = lock();
        if !IS_TAKEN.load(Ordering::Acquire) {
            return Ok(false);
        }
        let size = size();
        if self.0.get_frame().area() != size {
            self.0.resize(size)?;
        }
        self.0.draw(draw)?;
        Ok(true)
    }

    /// What stands there may be something else: the next one is drawn whole.
    pub(super) fn forget(&mut self) -> io::Result<()> {
        let _writing = lock();
        if IS_TAKEN.load(Ordering::Acquire) { self.0.clear() } else { Ok(()) }
    }
}

/// How large it is: asked of standard error itself, which need not be the terminal that the program was started from. A size that makes
/// no sense (0, or more than any screen has) is 80 by 24, or cut.
fn size() -> Rect {
    const LARGEST: u16 = 1000;
    let of = |size: u16, otherwise: u16| if size == 0 { otherwise } else { size.min(LARGEST) };
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) => Rect::new(0, 0, of(size.ws_col, 80), of(size.ws_row, 24)),
        Err(_) => Rect::new(0, 0, 80, 24),
    }
}

/// Gives the terminal back, if it was taken. Whatever fails cannot be said anywhere.
pub(crate) fn restore() {
    // Who panics while it draws holds the lock, and gets no further: that is not waited for without end.
    let mut writing = WRITING.try_lock();
    for _ in 0..50 {
        if !matches!(writing, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        writing = WRITING.try_lock();
    }
    if IS_TAKEN.swap(false, Ordering::AcqRel) {
        let _ = execute!(io::stderr(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// Says something on standard error, or on the screen while that is taken.
pub(crate) fn say(text: &str) {
    let _writing = lock();
    if IS_TAKEN.load(Ordering::Acquire) {
        *tell() = Some(text.to_owned());
    } else {
        // Not by `eprintln`, which panics when nobody can read it any more.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// What was said last.
pub(super) fn said() -> Option<String> {
    tell().clone()
}

/// Asks for the end as a signal would, which does not come from keys while they are read one by one.
pub(super) fn ask() {
    ASKED.notify_one();
}

/// Somebody asks for the end by a key.
pub(crate) async fn asked() {
    ASKED.notified().await;
}

fn lock() -> MutexGuard<'static, ()> {
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell() -> MutexGuard<'static, Option<String>> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner)
}
