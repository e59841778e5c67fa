//! A terminal that programs can be run in, and looked at.
//!
//! It is a pseudo-terminal with an emulator at its other end: what a program writes becomes a screen, as a person would see it.

use std::{
    fs::File,
    io::{self, Read, Write},
    num::NonZeroU16,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use crate::error::{Error, Result};

/// A program in a terminal of its own. It is killed when the value is dropped.
pub struct Terminal {
    program: PathBuf,
    child: Child,
    keyboard: File,
    /// The program's side.
    side: Option<OwnedFd>,
    screen: Arc<Mutex<vt100::Parser>>,
    reading: Option<JoinHandle<()>>,
    /// How the terminal was set before the program began.
    before: Termios,
}

/// What a program left behind.
#[derive(Debug)]
#[non_exhaustive]
pub struct Left {
    /// Its exit status.
    pub status: ExitStatus,
    /// What stands on the screen, line by line.
    pub text: String,
    /// What is not as it was: empty when the terminal was given back.
    pub wrong: Vec<&'static str>,
}

impl Terminal {
    /// Runs a program in a terminal of so many columns and rows.
    pub fn start(mut command: Command, columns: u16, rows: u16) -> Result<Self> {
        let program = PathBuf::from(command.get_program());
        let failed = |source: io::Error| Error::Run { program: program.clone(), source };
        let size = |size: u16| NonZeroU16::new(size).unwrap_or(NonZeroU16::MIN);
        let open = || -> io::Result<(OwnedFd, OwnedFd)> {
            let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
            grantpt(&keyboard)?;
            unlockpt(&keyboard)?;
            let name = ptsname(&keyboard, Vec::new())?;
            let side = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
            Ok((keyboard, side))
        };
        let (keyboard, side) = open().map_err(failed)?;
        set_size(&keyboard, columns, rows).map_err(failed)?;
        let before = tcgetattr(&side).map_err(|e| failed(e.into()))?;
        let stdio = || side.try_clone().map(Stdio::from).map_err(failed);
        command.stdin(stdio()?).stdout(stdio()?).stderr(stdio()?).env("TERM", "xterm-256color");
        let child = command.spawn().map_err(failed)?;
        // The command holds the terminal open as long as it is there.
        drop(command);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(size(rows), size(columns), 2000)));
        let keyboard = File::from(keyboard);
        let (mut from, to) = (keyboard.try_clone().map_err(failed)?, Arc::clone(&screen));
        let reading = std::thread::spawn(move || {
            let mut bytes = [0; 8192];
            // An error is the end: nobody has the other side open any more.
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                to.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..count]);
            }
        });
        Ok(Terminal { program, child, keyboard, side: Some(side), screen, reading: Some(reading), before })
    }

    /// The program's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What stands on the screen, line by line.
    #[must_use]
    pub fn text(&self) -> String {
        self.lock().screen().contents()
    }

    /// The screen with all that belongs to it.
    #[must_use]
    pub fn screen(&self) -> vt100::Screen {
        self.lock().screen().clone()
    }

    /// True while a program fills a screen of its own, behind which what stood there before is kept.
    #[must_use]
    pub fn is_filled(&self) -> bool {
        self.lock().screen().alternate_screen()
    }

    /// Presses these keys.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        let failed = |source| Error::Run { program: self.program.clone(), source };
        self.keyboard.write_all(keys.as_bytes()).map_err(failed)
    }

    /// Makes it another size.
    pub fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        let failed = |source| Error::Run { program: self.program.clone(), source };
        let (rows, columns) = (rows.max(1), columns.max(1));
        if let (Some(rows), Some(columns)) = (NonZeroU16::new(rows), NonZeroU16::new(columns)) {
            self.lock().set_size(rows, columns);
        }
        set_size(&self.keyboard, columns, rows).map_err(failed)
    }

    /// Waits until the screen is so; true when it is in time.
    pub fn wait_until(&self, patience: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let begun = Instant::now();
        loop {
            if is_so(self) {
                return true;
            }
            if begun.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the program's end, and looks at what it left; none when it does not end in time.
    pub fn end(mut self, patience: Duration) -> Result<Option<Left>> {
        let begun = Instant::now();
        let failed = |source| Error::Run { program: self.program.clone(), source };
        let status = loop {
            match self.child.try_wait().map_err(failed)? {
                Some(status) => break status,
                None if begun.elapsed() > patience => return Ok(None),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let now = self.side.as_ref().map(tcgetattr).transpose().map_err(|e| failed(e.into()))?;
        // With nobody left on that side, the other one is read to its end.
        self.side = None;
        if let Some(reading) = self.reading.take() {
            let _ = reading.join();
        }
        let screen = self.screen();
        let same = now.is_some_and(|now| {
            let modes = |of: &Termios| (of.input_modes, of.output_modes, of.control_modes, of.local_modes);
            modes(&now) == modes(&self.before)
        });
        let wrong = [
            (!same, "keys are still read one by one"),
            (screen.alternate_screen(), "the screen is still the program's"),
            (screen.hide_cursor(), "the cursor is still hidden"),
        ];
        let wrong = wrong.into_iter().filter_map(|(wrong, what)| wrong.then_some(what)).collect();
        Ok(Some(Left { status, text: screen.contents(), wrong }))
    }

    fn lock(&self) -> MutexGuard<'_, vt100::Parser> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(terminal: impl std::os::fd::AsFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}
