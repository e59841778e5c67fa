//! The wish to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::view;

/// Waits until somebody wants the program to end: by Ctrl-C, by SIGTERM, as service managers do, or because the terminal is gone.
pub async fn interrupted() {
    let Some(mut wish) = Wish::listen() else { return std::future::pending().await };
    wish.wait().await;
}

/// The first signal, or key on a screen that is read key by key, asks for a clean end by `stop`, and tells what that does; the second ends at once.
pub async fn stop_on_signal(stop: impl Fn(), says: &str) {
    let Some(mut wish) = Wish::listen() else { return };
    for signal in 0.. {
        tokio::select! {
            () = wish.wait() => {}
            () = view::asked() => {}
        }
        if signal > 0 {
            view::restore();
            std::process::exit(130);
        }
        view::say(&format!("{says} (again to end at once)"));
        stop();
    }
}

/// Gives the terminal back when a signal ends the program that is no wish for a clean end: a terminal that is closed, or `kill -QUIT`.
pub(crate) async fn restore_on_signal() {
    let kinds = (SignalKind::hangup(), SignalKind::quit());
    let (Ok(mut hangup), Ok(mut quit)) = (signal(kinds.0), signal(kinds.1)) else { return };
    let kind = tokio::select! {
        _ = hangup.recv() => kinds.0,
        _ = quit.recv() => kinds.1,
    };
    view::restore();
    // As the shell tells of a program that a signal has ended.
    std::process::exit(128 + kind.as_raw_value());
}

/// The signals that ask for a clean end.
struct Wish {
    interrupt: Signal,
    terminate: Signal,
    /// Nothing where a terminal may go away without the program, as under `nohup`.
    hangup: Option<Signal>,
}

impl Wish {
    fn listen() -> Option<Self> {
        let hangup = || signal(SignalKind::hangup()).ok();
        Some(Wish {
            interrupt: signal(SignalKind::interrupt()).ok()?,
            terminate: signal(SignalKind::terminate()).ok()?,
            hangup: if hangup_is_ignored() { None } else { hangup() },
        })
    }

    async fn wait(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// True where whoever has started the program wants it to outlive the terminal, as `nohup` does. Told by what Linux says of a process; elsewhere
/// it is not known, and a hangup ends it.
fn hangup_is_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| is_ignored(&status, SignalKind::hangup()))
}

fn is_ignored(status: &str, kind: SignalKind) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (kind.as_raw_value() - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_stands_in_a_mask() {
        let status = "Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\n";
        assert!(is_ignored(status, SignalKind::hangup()));
        assert!(!is_ignored(status, SignalKind::interrupt()));
        assert!(!is_ignored(&status.replace("1001", "1000"), SignalKind::hangup()));
        assert!(!is_ignored("Name:\tx\n", SignalKind::hangup()));
    }
}
