//! SIGTERM and Ctrl-C: the first asks for an orderly end, the second ends at once.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Exit;

/// A token that the first SIGTERM or SIGINT cancels. Must be called in a runtime.
pub(super) fn stop() -> io::Result<CancellationToken> {
    stop_or(Exit::Failed, || ())
}

/// The same, with the exit code of the second signal, and what is done before it ends the process:
/// nothing is dropped then.
pub(super) fn stop_or(second: Exit, last: impl FnOnce() + Send + 'static) -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        for is_first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if is_first {
                stop.cancel();
            }
        }
        last();
        tracing::warn!("a second signal: ending at once");
        std::process::exit(i32::from(second.code()));
    });
    Ok(token)
}
