//! The simulator's answers as a transport's, for workers on paused time.

use std::time::Duration;

use captcha_worker::domain::call::NoAnswer;
use captcha_worker::simulator::Reply;
use captcha_worker::solver::{RawReply, TransportError};
use tokio::time::timeout;

/// A task of this type makes the transport panic.
pub(crate) const PANICKING_TYPE: &str = "PanickingTask";

/// Whether a call is to panic.
pub(crate) fn panics(body: &[u8]) -> bool {
    body.windows(PANICKING_TYPE.len()).any(|part| part == PANICKING_TYPE.as_bytes())
}

/// How long a call may take before the caller gives up.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// No answer to a request that was sent.
pub(crate) fn no_answer(kind: NoAnswer) -> Result<RawReply, TransportError> {
    Err(TransportError::NoAnswer { kind, status: None, detail: "as the script says".to_owned() })
}

/// What a transport returns for a reply; of one that hangs nothing, for ever.
pub(crate) async fn read(reply: Reply) -> Result<RawReply, TransportError> {
    match reply {
        Reply::Answer { status, retry_after, body, .. } => {
            Ok(RawReply { status, retry_after: retry_after.map(Duration::from_secs), body })
        }
        Reply::Cut => no_answer(NoAnswer::Cut),
        Reply::Hang => std::future::pending().await,
    }
}

/// A call's end, as its caller sees it.
pub(crate) async fn within_time(
    call: impl Future<Output = Result<RawReply, TransportError>>,
) -> Result<RawReply, TransportError> {
    timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| no_answer(NoAnswer::TimedOut))
}
