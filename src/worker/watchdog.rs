//! Whether the runtime that the worker lives in makes progress, as seen from another thread.

use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

/// Askers at one time. Each is answered as soon as the runtime comes to it.
const ASKERS: usize = 16;

type Question = oneshot::Sender<()>;

/// Answers whoever asks. Nothing happens while nobody does.
#[derive(Debug)]
pub(super) struct Watchdog {
    ask: mpsc::Sender<Question>,
    asked: Mutex<mpsc::Receiver<Question>>,
}

impl Default for Watchdog {
    fn default() -> Self {
        let (ask, asked) = mpsc::channel(ASKERS);
        Self { ask, asked: Mutex::new(asked) }
    }
}

impl Watchdog {
    /// To be run in the runtime in question.
    pub(super) async fn beat(&self) {
        let mut asked = self.asked.lock().await;
        while let Some(question) = asked.recv().await {
            // Whoever has given up need not know.
            let _ = question.send(());
        }
    }

    /// Whether an answer comes within this time.
    pub(super) async fn is_responsive(&self, within: Duration) -> bool {
        let (question, answer) = oneshot::channel();
        timeout(within, async { self.ask.send(question).await.is_ok() && answer.await.is_ok() })
            .await
            .unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_responsive_only_while_it_beats() {
        let (pulse, max_wait) = (Watchdog::default(), Duration::from_secs(5));
        assert!(!pulse.is_responsive(max_wait).await);
        tokio::select! {
            () = pulse.beat() => panic!("it beats until it is dropped"),
            responsive = pulse.is_responsive(max_wait) => assert!(responsive),
        }
        assert!(!pulse.is_responsive(max_wait).await);
    }
}
