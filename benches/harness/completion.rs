//! How an act ends: at its end, by a panic, by taking too long, or because somebody stops it all.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::report::Harness;

/// Waits for SIGTERM or Ctrl-C. Whatever ends the program in order also ends the processes that it
/// has started: their owners are dropped.
pub(crate) async fn asked_to_stop() {
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be awaited");
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be awaited");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Acts; what breaks off, or hangs, has failed.
pub(crate) async fn to_its_end(harness: &Harness, longest: Duration, acting: impl Future<Output = ()>) {
    match timeout(longest, AssertUnwindSafe(acting).catch_unwind()).await {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => harness.check("the run comes to its end", reason(panic.as_ref()), false),
        Err(_) => harness.check("the run comes to its end", "it hangs", false),
    }
}

/// What a panic says.
pub(crate) fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
