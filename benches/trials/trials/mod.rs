//! The trials, in the order in which they run.

mod account;
mod budget;
mod ip_ban;
mod key_revoked;
mod kills;
mod lanes;
mod no_funds;
mod no_slots;
mod pause;
mod storm;
mod wrong_key;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::scene::Harness;

/// A trial that is under way.
type Acting = Pin<Box<dyn Future<Output = ()>>>;

/// One of them.
pub(crate) struct Trial {
    pub(crate) name: &'static str,
    pub(crate) shows: &'static str,
    pub(crate) run: fn(Arc<Harness>) -> Acting,
}

/// All of them.
pub(crate) const TRIALS: [Trial; 10] = [
    Trial {
        name: "wrong-key",
        shows: "a key that is wrong from the start costs a call a minute, and nothing is lost",
        run: |harness| Box::pin(wrong_key::run(harness)),
    },
    Trial {
        name: "key-revoked",
        shows: "a key revoked with 1,600 tickets in flight stops all calls, bans nobody and loses nothing",
        run: |harness| Box::pin(key_revoked::run(harness)),
    },
    Trial {
        name: "no-funds",
        shows: "an empty balance bans nobody, and a top-up is found without help",
        run: |harness| Box::pin(no_funds::run(harness)),
    },
    Trial {
        name: "kills",
        shows: "the same three while replicas and the leader are killed every few seconds",
        run: |harness| Box::pin(kills::run(harness)),
    },
    Trial {
        name: "budget",
        shows: "a budget holds while replicas and the leader are killed, and the books are right",
        run: |harness| Box::pin(budget::run(harness)),
    },
    Trial {
        name: "ip-ban",
        shows: "a ban silences the whole fleet within a second, until it is over",
        run: |harness| Box::pin(ip_ban::run(harness)),
    },
    Trial {
        name: "no-slots",
        shows: "a type without slots holds up no other type",
        run: |harness| Box::pin(no_slots::run(harness)),
    },
    Trial {
        name: "storm",
        shows: "a storm of 503 is met by silence, and its end is found soon",
        run: |harness| Box::pin(storm::run(harness)),
    },
    Trial {
        name: "pause",
        shows: "an operator's pause holds within a second, over restarts of fleet and broker",
        run: |harness| Box::pin(pause::run(harness)),
    },
    Trial {
        name: "lanes",
        shows: "an urgent lane does not wait behind a backlog, and lanes get their weights",
        run: |harness| Box::pin(lanes::run(harness)),
    },
];
