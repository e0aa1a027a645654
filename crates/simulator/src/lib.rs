//! A strict, scriptable stand-in for the recognition API, in process and over HTTP.
//!
//! It keeps the API's rules and counts who breaks them: the spacing and number of polls, the five
//! minutes a result is kept, image sizes, required fields, keys, a balance that runs down, bans.
//! Solve times are drawn from distributions; faults and error codes follow scripts, by scenario or
//! by task. It recognises nothing: a solution has the documented shape, and its text is a hash of
//! the task, so that a trial can check that the right answer reached the right job.
//!
//! It shares no type with the rest of the crate on purpose: a misreading of the API's dialect in
//! the client must not be repeated here.
//!
//! All time is [`tokio::time::Instant`] and all chance one seeded source, so on paused time a run
//! can be repeated.
//!
//! ```
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use captcha_simulator::{Reply, Simulator, SimulatorConfig};
//!
//! let simulator = Simulator::new(SimulatorConfig::default())?;
//! let reply = simulator.call("getBalance", br#"{"clientKey":"simulator-key"}"#).await;
//! assert!(matches!(reply, Reply::Answer { status: 200, .. }));
//! assert_eq!(simulator.stats().calls.get_balance, 1);
//! # Ok(())
//! # }
//! ```

mod account;
mod callback;
mod calls;
mod control;
mod distribution;
mod kinds;
mod script;
mod server;
mod settings;
mod state;
mod stats;
mod tasks;
mod wire;

use parking_lot::{Mutex, MutexGuard};
use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};

pub use account::BanRule;
pub use callback::Callback;
pub use control::{Control, ControlError, Flash, Outage, Storm, Target};
pub use distribution::Distribution;
pub use script::{CallbackStep, HttpStep, LateCallback, Rule, Script, Step, When};
pub use server::Server;
pub use settings::{ScenarioError, SimulatorConfig, TypeConfig};
pub use stats::{Callbacks, Calls, LateCalls, Stats};
pub use tasks::TaskIds;
pub use wire::{Reply, expected_solution};

use state::State;

/// The stand-in. Clones share one account and one set of tasks.
#[derive(Clone)]
pub struct Simulator {
    state: Arc<Mutex<State>>,
    sender: Arc<OnceLock<CallbackSender>>,
    script_in_task: bool,
}

/// Sends one callback; returns whether it arrived.
pub type CallbackSender = Box<dyn Fn(Callback) -> BoxFuture<'static, bool> + Send + Sync>;

impl std::fmt::Debug for Simulator {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Simulator").finish_non_exhaustive()
    }
}

impl Simulator {
    /// A simulator with nothing in it yet.
    ///
    /// # Errors
    /// The settings contradict the rules; all of their faults at once.
    pub fn new(config: SimulatorConfig) -> Result<Self, ScenarioError> {
        config.check()?;
        let script_in_task = config.script_in_task;
        let state = Arc::new(Mutex::new(State::new(config, Instant::now())));
        Ok(Self { state, sender: Arc::default(), script_in_task })
    }

    /// Who sends the callbacks of the tasks that are accepted from now on; the first who is set
    /// stays. Without anybody none is sent, and [`Server::run`] sets one that sends them over HTTP.
    pub fn on_callback(&self, sender: CallbackSender) {
        drop(self.sender.set(sender));
    }

    /// Sends a callback in its time, in the background.
    fn plan(&self, planned: callback::PlannedCallback) {
        if self.sender.get().is_none() {
            return;
        }
        let simulator = self.clone();
        tokio::spawn(async move {
            sleep_until(planned.due).await;
            let Some(sender) = simulator.sender.get() else { return };
            for _ in 0..planned.times {
                simulator.lock().stats.callbacks.sent += 1;
                let arrived = sender(planned.callback.clone()).await;
                simulator.lock().callback_ended(&planned.callback.url, arrived, Instant::now());
            }
        });
    }

    /// One call as the API would see it, answered after the simulated latency. `path` is the
    /// method's name (`createTask`, `getTaskResult`, `getBalance`); anything else is answered 404.
    ///
    /// The call takes effect at its arrival: dropping the future leaves a task accepted and paid,
    /// as a closed connection would. [`Reply::Hang`] is returned like any other; not answering is
    /// the caller's part.
    pub async fn call(&self, path: &str, body: &[u8]) -> Reply {
        let (reply, answered) = self.decide(path, body);
        // The timer rounds up to its next millisecond, which a latency of 0 must not pay.
        if answered > Instant::now() {
            tokio::time::sleep_until(answered).await;
        }
        reply
    }

    /// Bodies are read outside the lock, which therefore is held for a few microseconds at most.
    fn decide(&self, path: &str, body: &[u8]) -> (Reply, Instant) {
        let now = Instant::now();
        match path {
            "createTask" => {
                let call = wire::read_create(body, self.script_in_task);
                self.at(now, |state, at| state.create_task(call, at))
            }
            "getTaskResult" => {
                let call = wire::read_poll(body);
                self.at(now, |state, at| state.get_task_result(&call, at))
            }
            "getBalance" => {
                let key = wire::read_key(body);
                self.at(now, |state, at| state.get_balance(key.as_deref(), at))
            }
            _ => self.at(now, |state, _| state.unknown_path()),
        }
    }

    fn at(
        &self,
        now: Instant,
        act: impl FnOnce(&mut State, account::CallTimes) -> Reply,
    ) -> (Reply, Instant) {
        let mut state = self.lock();
        let at = state.arrive(now);
        let reply = act(&mut state, at);
        let planned = state.planned.take();
        drop(state);
        if let Some(planned) = planned {
            self.plan(planned);
        }
        (reply, at.answered)
    }

    /// What has been seen so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.lock().stats(Instant::now())
    }

    /// Changes the account, slots or storm while running.
    ///
    /// # Errors
    /// A value cannot be applied; then nothing was changed.
    pub fn control(&self, control: &Control) -> Result<(), ControlError> {
        self.lock().control(control, Instant::now())
    }

    /// Sets the balance, in the account's currency.
    ///
    /// # Errors
    /// Not an amount of 0 to 1,000,000,000.
    pub fn set_balance(&self, amount: f64) -> Result<(), ControlError> {
        self.control(&Control { balance: Some(amount), ..Control::default() })
    }

    /// Withdraws all keys, or lets the configured ones in again.
    pub fn set_key_valid(&self, valid: bool) {
        self.lock().set_key_valid(valid);
    }

    /// A panic under the lock leaves counters at worst one off, which is better than a stand-in
    /// that answers no more.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}
