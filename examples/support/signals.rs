//! The wish to end.

/// The first signal asks for a clean end by `stop`, and tells what that does; the second ends at once.
pub async fn stop_on_signal(stop: impl Fn(), says: &str) {
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    let Ok(mut terminate) = terminate else { return };
    for signal in 0.. {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        if signal > 0 {
            std::process::exit(130);
        }
        eprintln!("{says} (again to end at once)");
        stop();
    }
}
