//! The faults of a storm, their bounds, and the order in which they come.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::environment::{HELD_JOBS, REPLICAS, REQUEST_TIMEOUT};
use crate::relay::Treatment;

/// What a relay does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    Cut,
    BlackHole,
    Delay,
    Trickle,
}

/// What is done to the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL to some replicas.
    Kill,
    /// SIGSTOP to one, for longer than its connection lasts.
    Freeze,
    /// SIGTERM to one after another.
    Restart,
    /// The broker stops in order, and starts.
    BrokerStop,
    /// SIGKILL to the broker.
    BrokerKill,
    /// Between replicas and broker.
    Broker(Harm),
    /// Between replicas and API.
    Api(Harm),
    /// The exchange of outcomes deleted: the broker closes each channel that publishes to it.
    ChannelClosed,
    /// The job queue deleted while it is empty: the broker cancels its consumers.
    ConsumerCancelled,
    /// A memory alarm: the broker reads from no publishing connection.
    Alarm,
    /// No binding takes a solved outcome, the alternate exchange's neither.
    Unbound,
    /// The results queue refuses what is published, for longer than a consumer may hold a message.
    Full,
}

/// Those that every storm draws from.
const DECK: [Fault; 17] = [
    Fault::Kill,
    Fault::Freeze,
    Fault::Restart,
    Fault::BrokerStop,
    Fault::BrokerKill,
    Fault::Broker(Harm::Cut),
    Fault::Broker(Harm::BlackHole),
    Fault::Broker(Harm::Delay),
    Fault::Broker(Harm::Trickle),
    Fault::Api(Harm::Cut),
    Fault::Api(Harm::BlackHole),
    Fault::Api(Harm::Delay),
    Fault::Api(Harm::Trickle),
    Fault::ChannelClosed,
    Fault::ConsumerCancelled,
    Fault::Alarm,
    Fault::Unbound,
];

impl Harm {
    fn name(self) -> &'static str {
        match self {
            Harm::Cut => "cut",
            Harm::BlackHole => "black hole",
            Harm::Delay => "delay",
            Harm::Trickle => "trickle",
        }
    }

    pub(crate) fn treatment(self) -> Treatment {
        match self {
            Harm::Cut => Treatment::Cut,
            Harm::BlackHole => Treatment::BlackHole,
            Harm::Delay => Treatment::Delay(Duration::from_millis(400)),
            Harm::Trickle => Treatment::Trickle(Duration::from_millis(1)),
        }
    }
}

impl Fault {
    pub(crate) fn name(self) -> String {
        let name = match self {
            Fault::Kill => "replicas killed",
            Fault::Freeze => "replica frozen",
            Fault::Restart => "rolling restart",
            Fault::BrokerStop => "broker stopped",
            Fault::BrokerKill => "broker killed",
            Fault::Broker(harm) => return format!("broker: {}", harm.name()),
            Fault::Api(harm) => return format!("API: {}", harm.name()),
            Fault::ChannelClosed => "channels closed",
            Fault::ConsumerCancelled => "consumers cancelled",
            Fault::Alarm => "memory alarm",
            Fault::Unbound => "results unbound",
            Fault::Full => "results full",
        };
        name.to_owned()
    }

    /// How long it lasts, where that is chosen.
    pub(crate) fn span(self) -> Duration {
        Duration::from_secs(match self {
            // Twice the heartbeat of 5 s, and the broker's look at it, are over.
            Fault::Freeze | Fault::Broker(Harm::BlackHole) => 15,
            Fault::Broker(_) | Fault::Api(_) | Fault::Alarm | Fault::Unbound => 8,
            Fault::Kill => 2,
            Fault::Full => 150,
            _ => 0,
        })
    }

    /// Whether sessions of the fleet end by it.
    fn ends_sessions(self) -> bool {
        match self {
            Fault::BrokerStop
            | Fault::BrokerKill
            | Fault::Broker(_)
            | Fault::ChannelClosed
            | Fault::ConsumerCancelled => true,
            Fault::Kill
            | Fault::Freeze
            | Fault::Restart
            | Fault::Api(_)
            | Fault::Alarm
            | Fault::Unbound
            | Fault::Full => false,
        }
    }

    /// Payments that it can repeat: jobs that are between acceptance and ack when it comes (windows
    /// b to e), and calls without an answer (a).
    pub(crate) fn windows(self) -> u64 {
        let fleet = REPLICAS as u64 * HELD_JOBS;
        match self {
            Fault::Restart | Fault::Alarm | Fault::Unbound | Fault::Full => 0,
            Fault::Freeze => HELD_JOBS,
            Fault::Kill => (REPLICAS as u64 - 1) * HELD_JOBS,
            // Calls go on being made, and given up, while none is answered.
            Fault::Api(_) => fleet * (1 + self.span().as_secs().div_ceil(REQUEST_TIMEOUT.as_secs())),
            _ => fleet,
        }
    }

    /// Tasks that two may poll for a while: a frozen owner's, those whose ticket was published
    /// twice, and those whose poll was held up on its way to the API.
    pub(crate) fn shared_tasks(self, open: u64) -> u64 {
        match self {
            Fault::Freeze | Fault::Api(Harm::BlackHole | Harm::Trickle) => open,
            _ if self.ends_sessions() => REPLICAS as u64 * HELD_JOBS,
            _ => 0,
        }
    }
}

/// Faults in an order that a seed fixes: each once before any comes again.
pub(crate) struct Schedule {
    rng: StdRng,
    faults: Vec<Fault>,
    deck: Vec<Fault>,
}

impl Schedule {
    /// Of the faults of these names; of all where none is named.
    pub(crate) fn new(seed: u64, names: &[String]) -> Self {
        let named = |fault: &&Fault| names.is_empty() || names.contains(&fault.name());
        let mut faults: Vec<Fault> = DECK.iter().filter(named).copied().collect();
        faults.extend([Fault::Full].into_iter().filter(|fault| names.contains(&fault.name())));
        Self { rng: StdRng::seed_from_u64(seed), faults, deck: Vec::new() }
    }

    /// The names of all.
    pub(crate) fn names() -> Vec<String> {
        DECK.iter().chain([&Fault::Full]).map(|fault| fault.name()).collect()
    }

    pub(crate) fn next(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck.clone_from(&self.faults);
            self.deck.shuffle(&mut self.rng);
        }
        self.deck.pop().expect("the deck was filled")
    }

    /// Some places, without repetition.
    pub(crate) fn victims(&mut self, most: usize) -> Vec<usize> {
        let mut places: Vec<usize> = (0..REPLICAS).collect();
        places.shuffle(&mut self.rng);
        places.truncate(self.rng.random_range(1..=most));
        places
    }
}
