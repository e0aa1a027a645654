//! A bug on purpose: the demo's API client panics on one type of task, to show what becomes of such a job, and of its neighbours.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::jobs::PANICKING_TYPE;
use crate::solver::{HttpTransport, RawReply, Transport, TransportError};

/// HTTP, until the task comes that it cannot bear.
pub(super) struct Panicking(pub(super) HttpTransport);

impl Transport for Panicking {
    fn post<'a>(
        &'a self,
        method: &'static str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<RawReply, TransportError>> {
        let marked = body.windows(PANICKING_TYPE.len()).any(|part| part == PANICKING_TYPE.as_bytes());
        assert!(!marked, "the demo's bug on purpose");
        self.0.post(method, body)
    }
}

/// Keeps the panics that the demo causes itself off the screen; any other is shown as ever.
pub(super) fn hush() {
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<&str>().copied().unwrap_or_default();
        if text != "the demo's bug on purpose" {
            shown(info);
        }
    }));
}
