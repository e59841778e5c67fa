//! The wish to end.

use tokio::signal::unix::{SignalKind, signal};

use crate::view;

/// Waits until somebody wants the program to end: by Ctrl-C, or by SIGTERM, as service managers do.
pub async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// The first signal, or key on a screen that is read key by key, asks for a clean end by `stop`, and tells what that does; the second ends at once.
pub async fn stop_on_signal(stop: impl Fn(), says: &str) {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    for signal in 0.. {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
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
