//! What is typed. Reading a terminal blocks, so a thread of its own does.

use std::thread;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc;

/// How long the thread may stay when nobody reads any more.
const LOOK: Duration = Duration::from_millis(100);
/// Keys that are typed ahead.
const AHEAD: usize = 64;

pub(super) struct Keys(mpsc::Receiver<Event>);

impl Keys {
    /// Reads until this is dropped, or the terminal is gone.
    pub(super) fn start() -> Self {
        let (typed, keys) = mpsc::channel(AHEAD);
        thread::spawn(move || {
            while !typed.is_closed() {
                match event::poll(LOOK) {
                    Ok(false) => {}
                    Ok(true) => {
                        let Ok(event) = event::read() else { return };
                        if typed.blocking_send(event).is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                }
            }
        });
        Self(keys)
    }

    /// The next event; `None` where there will be none.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}
