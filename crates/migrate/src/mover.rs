//! The thread that moves the data.

use std::{future::Future, time::Duration};

use crate::{error::Error, progress::Meter};

/// How long the thread rests before it waits for the next event, while data streams through in bulk.
const REST: Duration = Duration::from_micros(700);

/// The thread's stack, in bytes: programs that are not optimised take several times what others do.
const STACK: usize = 8 << 20;

/// Runs `work` on a thread with an event loop of its own.
///
/// A server hands over a snapshot, and answers a pipeline, in pieces of a few kilobytes, tens of thousands a second.
/// Each would wake a thread that waits, and the waking would cost more than all else. So the thread takes a short rest
/// instead while it knows that there is plenty on its way in; the kernel collects meanwhile. Only a thread that nobody
/// else uses may do that.
pub(crate) async fn run<T, F>(meter: Meter, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (done, result) = tokio::sync::oneshot::channel();
    let failed = |e: std::io::Error| Error::Internal(format!("cannot start a thread: {e}"));
    std::thread::Builder::new()
        .name("keyferry-mover".into())
        .stack_size(STACK)
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .on_thread_park(move || {
                    if meter.is_bulk() {
                        std::thread::sleep(REST);
                    }
                })
                .build();
            let outcome = match runtime {
                Ok(runtime) => Ok(runtime.block_on(work)),
                Err(e) => Err(failed(e)),
            };
            // Nobody waits any more when the caller has dropped its future.
            done.send(outcome).ok();
        })
        .map_err(failed)?;
    result.await.unwrap_or_else(|_| Err(Error::Internal("the thread that moves the data ended".into())))
}
