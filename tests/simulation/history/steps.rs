//! Faults that are tied to a replica's own steps, so that they can fall between any two of them.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::fault::{Step, Then};

/// A fault that waits for its step.
#[derive(Debug)]
struct Snare {
    step: Step,
    left: u32,
    then: Then,
}

/// Which replica, and by what.
pub(crate) type Met = (String, Then);

/// All of them, by replica. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Snares {
    by_replica: Arc<Mutex<BTreeMap<String, Vec<Snare>>>>,
    met: mpsc::UnboundedSender<Met>,
}

impl Snares {
    /// None yet, and where it comes out what has been met.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Met>) {
        let (met, out) = mpsc::unbounded_channel();
        (Self { by_replica: Arc::default(), met }, out)
    }

    /// Lays one for the `nth` step from now.
    pub(crate) fn lay(&self, replica: &str, step: Step, nth: u32, then: Then) {
        let mut snares = self.by_replica.lock();
        snares.entry(replica.to_owned()).or_default().push(Snare { step, left: nth, then });
    }

    /// Takes up those of one that are still there.
    pub(crate) fn take_up(&self, replica: &str) {
        self.by_replica.lock().remove(replica);
    }

    /// A replica has made a step; what is to happen there, if anything.
    pub(crate) fn step(&self, replica: &str, step: Step) -> Option<Then> {
        let mut snares = self.by_replica.lock();
        let snares = snares.get_mut(replica)?;
        let place = snares.iter_mut().filter(|snare| snare.step == step).fold(None, |met, snare| {
            snare.left = snare.left.saturating_sub(1);
            met.or((snare.left == 0).then_some(snare.then))
        });
        snares.retain(|snare| snare.left > 0);
        if let Some(then) = place {
            let _ = self.met.send((replica.to_owned(), then));
        }
        place
    }
}
