//! The API's callbacks as this replica knows them: which are awaited here, which came lately, and
//! whether they are asked for at all.
//!
//! A callback comes to any replica, and at any time: before the ticket that it is about, after its
//! answer, or never. So a replica that does not know a token hands it on to all others, and every
//! replica remembers for a while which tokens came. Anybody can send anything here: whatever is not
//! awaited costs a look into a map, and all that is remembered or handed on is bounded in number
//! and in rate.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::message::{Control, encode};
use crate::broker::Session;
use crate::clock::Rng;
use crate::domain::callback::{CallbackSwitch, CallbackToken, Off};
use crate::domain::time::Timestamp;

/// For how long a token is remembered that was not awaited when it came. Its ticket is delivered
/// within a second, unless the broker is away.
pub const CALLBACKS_REMEMBERED_FOR: Duration = Duration::from_secs(10);
/// How many are remembered.
const MOST_REMEMBERED: usize = 16_384;
/// Tokens that this replica does not know, a second and at once: twice what a fleet of replicas at
/// 500 jobs a second each receives for one another.
const UNKNOWN_A_SECOND: f64 = 1_000.0;
/// Tokens on their way to the other replicas.
const MOST_FORWARDED: usize = 1_024;
/// Of them in one control message.
const MOST_TOGETHER: usize = 256;

/// Where the API reaches this fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackAddress {
    /// Up to the token.
    base: String,
}

impl CallbackAddress {
    /// From `callback.public_url`, an address of scheme, host, port and path in which `{replica}`
    /// stands for the replica's name.
    ///
    /// # Errors
    /// With this name it is no address.
    pub fn try_new(public_url: &str, replica: &str) -> Result<Self, String> {
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' };
        let replica: String = replica.chars().map(plain).collect();
        let text = public_url.replace("{replica}", &replica);
        let url = url::Url::parse(&text);
        let url = url.map_err(|error| format!("with this replica's name it is no address ({error})"))?;
        Ok(Self { base: format!("{}/callback/{replica}/", url.as_str().trim_end_matches('/')) })
    }

    fn of(&self, token: CallbackToken) -> String {
        format!("{}{token}", self.base)
    }
}

impl fmt::Display for CallbackAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}<token>", self.base)
    }
}

/// How callbacks stand in a replica, for those who look at it. Text, so that a replica of another
/// version can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CallbackStatus {
    /// Until when they are off; absent: they are on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off_until: Option<Timestamp>,
    /// Why they are off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CallbackCounts {
    /// Requests that named a token.
    pub received: u64,
    /// Tickets of this replica whose callback came, here or to another replica.
    pub woke: u64,
    /// Of those received, the ones whose token no ticket of this replica has.
    pub unknown: u64,
    /// Of those unknown, the ones that were handed on to the other replicas.
    pub forwarded: u64,
    /// Requests that were no callback, and callbacks above the rate.
    pub rejected: u64,
}

#[derive(Debug, Default)]
struct CallbackCounters {
    received: AtomicU64,
    woke: AtomicU64,
    unknown: AtomicU64,
    forwarded: AtomicU64,
    rejected: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What a ticket that awaits its callback waits for.
#[derive(Debug, Default)]
struct Signal {
    came: AtomicBool,
    notify: Notify,
}

impl Signal {
    fn set(&self) {
        self.came.store(true, Ordering::Release);
        self.notify.notify_one();
    }
}

#[derive(Debug)]
struct Tokens {
    /// Of tickets held here whose callback has not come.
    awaited: HashMap<CallbackToken, Arc<Signal>>,
    /// That came lately and were not awaited.
    early: HashMap<CallbackToken, Instant>,
    /// The same in the order in which they came.
    in_order: VecDeque<(CallbackToken, Instant)>,
    /// Unknown tokens that may come now.
    allowance: f64,
    allowed_at: Instant,
}

impl Tokens {
    /// Remembers a token that nobody awaits; whether it is new.
    fn remember(&mut self, token: CallbackToken) -> bool {
        let now = Instant::now();
        while let Some((oldest, at)) = self.in_order.front().copied()
            && (self.in_order.len() >= MOST_REMEMBERED || now.duration_since(at) >= CALLBACKS_REMEMBERED_FOR)
        {
            self.in_order.pop_front();
            // It may have been taken, and come again since.
            if self.early.get(&oldest) == Some(&at) {
                self.early.remove(&oldest);
            }
        }
        let is_new = self.early.insert(token, now).is_none();
        self.in_order.push_back((token, now));
        is_new
    }

    /// Whether one more unknown token keeps within the rate.
    fn allow(&mut self) -> bool {
        let now = Instant::now();
        let refill = now.duration_since(self.allowed_at).as_secs_f64() * UNKNOWN_A_SECOND;
        self.allowance = (self.allowance + refill).min(UNKNOWN_A_SECOND);
        self.allowed_at = now;
        let allowed = self.allowance >= 1.0;
        self.allowance -= if allowed { 1.0 } else { 0.0 };
        allowed
    }
}

/// A replica's callbacks. They outlive its sessions.
#[derive(Debug)]
pub struct Callbacks {
    /// `None`: this replica asks for none.
    address: Option<CallbackAddress>,
    replica: String,
    tokens: Mutex<Tokens>,
    switch: Mutex<CallbackSwitch>,
    turned_off: Notify,
    counters: CallbackCounters,
    forward: mpsc::Sender<CallbackToken>,
    forwarding: tokio::sync::Mutex<mpsc::Receiver<CallbackToken>>,
}

impl Callbacks {
    pub(super) fn new(address: Option<CallbackAddress>, replica: String) -> Arc<Self> {
        let (forward, forwarding) = mpsc::channel(MOST_FORWARDED);
        let tokens = Tokens {
            awaited: HashMap::new(),
            early: HashMap::new(),
            in_order: VecDeque::new(),
            allowance: UNKNOWN_A_SECOND,
            allowed_at: Instant::now(),
        };
        Arc::new(Self {
            address,
            replica,
            tokens: Mutex::new(tokens),
            switch: Mutex::default(),
            turned_off: Notify::new(),
            counters: CallbackCounters::default(),
            forward,
            forwarding: tokio::sync::Mutex::new(forwarding),
        })
    }

    /// Whether this replica asks for callbacks now.
    #[must_use]
    pub fn are_on(&self, now: Timestamp) -> bool {
        self.address.is_some() && self.switch.lock().off(now).is_none()
    }

    /// How they stand; `None` where this replica has no address for them.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> Option<CallbackStatus> {
        self.address.as_ref()?;
        let off = self.switch.lock().off(now);
        Some(CallbackStatus {
            off_until: off.map(|(until, _)| until),
            reason: off.map(|(_, reason)| reason.text().to_owned()),
        })
    }

    /// Counters now.
    #[must_use]
    pub fn counts(&self) -> CallbackCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CallbackCounts {
            received: read(&self.counters.received),
            woke: read(&self.counters.woke),
            unknown: read(&self.counters.unknown),
            forwarded: read(&self.counters.forwarded),
            rejected: read(&self.counters.rejected),
        }
    }

    /// A new token with its address, for one submission; `None` where it is to go without.
    #[must_use]
    pub fn ask(&self, rng: &Rng, now: Timestamp) -> Option<(CallbackToken, String)> {
        let address = self.address.as_ref()?;
        if !self.switch.lock().asks(now, rng.jitter()) {
            return None;
        }
        let token = CallbackToken::new(rng.bits());
        Some((token, address.of(token)))
    }

    /// A ticket is here whose callback is awaited, or has come already.
    #[must_use]
    pub fn expect(self: &Arc<Self>, token: CallbackToken) -> Awaited {
        let signal = Arc::new(Signal::default());
        let mut tokens = self.tokens.lock();
        let is_early = tokens.early.get(&token).is_some_and(|at| at.elapsed() < CALLBACKS_REMEMBERED_FOR);
        if is_early {
            add(&self.counters.woke);
            signal.set();
        } else {
            tokens.awaited.insert(token, Arc::clone(&signal));
        }
        drop(tokens);
        Awaited { callbacks: Arc::clone(self), token, signal, was_early: is_early }
    }

    /// Somebody has called the address of a token, or called what is no such address.
    pub fn receive(&self, token: Option<CallbackToken>) {
        let Some(token) = token else { return add(&self.counters.rejected) };
        add(&self.counters.received);
        let mut tokens = self.tokens.lock();
        if self.wake(&mut tokens, token) {
            return;
        }
        add(&self.counters.unknown);
        if tokens.early.contains_key(&token) {
            return;
        }
        if !tokens.allow() {
            return add(&self.counters.rejected);
        }
        tokens.remember(token);
        drop(tokens);
        match self.forward.try_send(token) {
            Ok(()) => add(&self.counters.forwarded),
            Err(_) => add(&self.counters.rejected),
        }
    }

    /// Another replica hands callbacks on, or this one hears its own.
    pub(super) fn heard(&self, handed_on: Vec<CallbackToken>) {
        let mut tokens = self.tokens.lock();
        for token in handed_on.into_iter().take(MOST_TOGETHER) {
            if !self.wake(&mut tokens, token) && !tokens.early.contains_key(&token) {
                tokens.remember(token);
            }
        }
    }

    /// Wakes the ticket that awaits it, once. The token stays known for a while, so that a repeated
    /// callback is not handed on.
    fn wake(&self, tokens: &mut Tokens, token: CallbackToken) -> bool {
        let Some(signal) = tokens.awaited.remove(&token) else { return false };
        signal.set();
        add(&self.counters.woke);
        tokens.remember(token);
        true
    }

    /// Hands on what comes here and is not known here, as long as the session lives.
    pub(super) async fn forward(&self, session: &Session, exchange: &str, user: &str) {
        let mut forwarding = self.forwarding.lock().await;
        let mut tokens = Vec::new();
        while forwarding.recv_many(&mut tokens, MOST_TOGETHER).await > 0 {
            let message = encode(&Control::Callbacks { tokens: std::mem::take(&mut tokens) }, user);
            if let Err(error) = session.publisher().publish(exchange, "", false, message).await {
                tracing::debug!(%error, "cannot hand callbacks on to the other replicas");
            }
        }
    }

    /// A solution was read. `came`: its callback had come before.
    pub fn answered(&self, came: bool, now: Timestamp) {
        let change = self.switch.lock().answered(came, now);
        self.note(change);
    }

    /// createTask accepted a job without a callback just after it had refused it with one.
    pub fn refused(&self, now: Timestamp) {
        let change = self.switch.lock().refused(now);
        self.note(change);
    }

    /// Waits until they are turned off: tasks that rely on theirs are then polled as without.
    pub async fn turned_off(&self) {
        self.turned_off.notified().await;
    }

    fn note(&self, change: Option<Off>) {
        if let Some((until, reason)) = change {
            self.turned_off.notify_waiters();
            tracing::warn!(replica = self.replica, "callbacks are off until {until}: {}", reason.text());
        }
    }
}

/// A ticket's wait for its callback. Dropped, the callback is not awaited any more.
#[derive(Debug)]
pub struct Awaited {
    callbacks: Arc<Callbacks>,
    token: CallbackToken,
    signal: Arc<Signal>,
    was_early: bool,
}

impl Awaited {
    /// Whether it had come before it was awaited.
    #[must_use]
    pub fn was_early(&self) -> bool {
        self.was_early
    }

    /// Waits until the callback comes: once, also where it came before.
    pub async fn called(&self) {
        self.signal.notify.notified().await;
    }

    /// Whether it has come.
    #[must_use]
    pub fn has_come(&self) -> bool {
        self.signal.came.load(Ordering::Acquire)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.callbacks.tokens.lock().awaited.remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(n: u128) -> CallbackToken {
        CallbackToken::new(n)
    }

    fn callbacks() -> Arc<Callbacks> {
        let address = CallbackAddress::try_new("https://callbacks.test", "a").unwrap();
        Callbacks::new(Some(address), "a".to_owned())
    }

    #[test]
    fn the_address_holds_the_replicas_name_where_it_is_wanted_and_nothing_that_is_no_address() {
        let of = |url, replica| CallbackAddress::try_new(url, replica).map(|address| address.of(token(1)));
        let hex = "0".repeat(31) + "1";
        assert_eq!(of("https://cb.test/", "host:1"), Ok(format!("https://cb.test/callback/host-1/{hex}")));
        let own = of("http://{replica}.cb.test:81/x", "pod-2");
        assert_eq!(own, Ok(format!("http://pod-2.cb.test:81/x/callback/pod-2/{hex}")));
        assert!(of("https://{replica}:port", "a").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_wakes_its_ticket_once_and_repeated_ones_are_dropped() {
        let callbacks = callbacks();
        let awaited = callbacks.expect(token(1));
        assert!(!awaited.has_come());
        for _ in 0..3 {
            callbacks.receive(Some(token(1)));
        }
        awaited.called().await;
        assert!(awaited.has_come() && futures_util::poll!(Box::pin(awaited.called())).is_pending());
        let counts = CallbackCounts { received: 3, woke: 1, unknown: 2, ..CallbackCounts::default() };
        assert_eq!(callbacks.counts(), counts);
    }

    #[tokio::test(start_paused = true)]
    async fn a_callback_that_comes_before_its_ticket_is_not_lost_and_is_forgotten_in_time() {
        let callbacks = callbacks();
        callbacks.receive(Some(token(1)));
        callbacks.heard(vec![token(2), token(3)]);
        for early in [token(1), token(2)] {
            assert!(callbacks.expect(early).has_come());
        }
        tokio::time::advance(CALLBACKS_REMEMBERED_FOR).await;
        assert!(!callbacks.expect(token(3)).has_come());
        assert_eq!(callbacks.counts().forwarded, 1, "what was handed on is not handed on again");
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_tokens_are_bounded_in_rate_and_number_and_known_ones_work_all_the_same() {
        let callbacks = callbacks();
        let awaited = callbacks.expect(token(u128::MAX));
        for n in 0..100_000 {
            callbacks.receive(Some(token(n)));
        }
        callbacks.receive(Some(token(u128::MAX)));
        assert!(awaited.has_come());
        assert_eq!(callbacks.counts().forwarded, 1_000);
        callbacks.heard((0..200).map(|n| token((1 << 64) + n)).collect());
        for n in 0..1_000 {
            callbacks.heard((0..200).map(|m| token((1 << 65) + n * 200 + m)).collect());
        }
        let tokens = callbacks.tokens.lock();
        assert!(tokens.early.len() <= MOST_REMEMBERED && tokens.in_order.len() <= MOST_REMEMBERED);
    }
}
