//! The trials, in the order in which they run.

mod account;
mod ip_ban;
mod key_revoked;
mod kills;
mod no_funds;
mod no_slots;
mod pause;
mod storm;
mod wrong_key;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::scene::Stage;

/// A trial that is under way.
type Acting = Pin<Box<dyn Future<Output = ()>>>;

/// One of them.
pub(crate) struct Trial {
    pub(crate) name: &'static str,
    pub(crate) shows: &'static str,
    pub(crate) run: fn(Arc<Stage>) -> Acting,
}

/// All of them.
pub(crate) const TRIALS: [Trial; 8] = [
    Trial {
        name: "wrong-key",
        shows: "a key that is wrong from the start costs a call a minute, and nothing is lost",
        run: |stage| Box::pin(wrong_key::run(stage)),
    },
    Trial {
        name: "key-revoked",
        shows: "a key revoked with 1,600 tickets in flight stops all calls, bans nobody and loses nothing",
        run: |stage| Box::pin(key_revoked::run(stage)),
    },
    Trial {
        name: "no-funds",
        shows: "an empty balance bans nobody, and a top-up is found without help",
        run: |stage| Box::pin(no_funds::run(stage)),
    },
    Trial {
        name: "kills",
        shows: "the same three while replicas and the leader are killed every few seconds",
        run: |stage| Box::pin(kills::run(stage)),
    },
    Trial {
        name: "ip-ban",
        shows: "a ban silences the whole fleet within a second, until it is over",
        run: |stage| Box::pin(ip_ban::run(stage)),
    },
    Trial {
        name: "no-slots",
        shows: "a type without slots holds up no other type",
        run: |stage| Box::pin(no_slots::run(stage)),
    },
    Trial {
        name: "storm",
        shows: "a storm of 503 is met by silence, and its end is found soon",
        run: |stage| Box::pin(storm::run(stage)),
    },
    Trial {
        name: "pause",
        shows: "an operator's pause holds within a second, over restarts of fleet and broker",
        run: |stage| Box::pin(pause::run(stage)),
    },
];
