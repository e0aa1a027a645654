//! What can go wrong, and for how long.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Something that goes wrong. Replicas are named by their place; whoever runs there at that moment
/// is meant.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// kill -9; the broker notices at once.
    Kill { place: usize, back_after: Duration },
    /// The machine is gone; the broker notices later.
    Vanish { place: usize, noticed_after: Duration, back_after: Duration },
    /// The network carries nothing between a replica and the broker, and each notices in its time.
    CutOff { place: usize, silent_for: Duration, broker_after: Duration, client_after: Duration },
    /// The connection ends.
    Drop { place: usize },
    /// The broker ends all connections, and takes none for a while.
    Away { lasts: Duration },
    /// The broker closes the channel that consumes from a queue.
    CloseConsumer { place: usize, queue: &'static str },
    /// A chosen moment of one replica's, counted in its own steps from now, is met by a fault.
    AtStep { place: usize, step: Step, nth: u32, then: Then },
    /// The broker ends at a batch of changes, counted from now, and comes back with what its store
    /// had written.
    BrokerEnds { nth: u32, then: Then, down_for: Duration },
    /// The replica is asked to leave, and another takes its place.
    Leave { place: usize, back_after: Duration },
    /// The queue of results refuses everything.
    ResultsFull { lasts: Duration },
    /// The broker takes no tickets.
    TicketsRefused { lasts: Duration },
    /// Nothing is bound to the outcomes' exchange for solved jobs.
    ResultsUnbound { lasts: Duration },
    /// Some dead letters arrive twice.
    RepeatDeadLetters { count: usize },
    /// Calls meet trouble on the way.
    RoughNetwork { share: f64, lasts: Duration },
    /// The API answers with an error page to everything.
    Storm { status: u16, lasts: Duration },
    /// The API has no slot for images.
    NoSlots { lasts: Duration },
    /// The key is refused.
    KeyRevoked { lasts: Duration },
    /// The balance is used up.
    NoFunds { lasts: Duration },
    /// An operator pauses the fleet.
    Pause { lasts: Duration },
    /// The API fails in one way.
    Outage { outage: Outage, lasts: Duration },
    /// The API forgets every task that it has accepted so far, and may be out of reach for a while,
    /// as when it is started again.
    Forgets { down_for: Duration },
    /// Single calls are refused for the account, among good answers.
    Flash { code: &'static str, calls: u32 },
    /// The wall clock of a place's machine is set, and perhaps set right again.
    ClockSet { place: usize, millis: i64, right_after: Option<Duration> },
}

/// How the API fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outage {
    /// createTask alone.
    pub(crate) submissions_only: bool,
    pub(crate) word: Word,
}

/// What every call gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// A code of the API's own.
    Code(&'static str),
    /// The page of something before the API, with this status.
    Page(u16),
    /// Nobody listens.
    Down,
}

/// A kind of step that a fault can be tied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The broker has stored a publish of the replica's.
    Publish,
    /// The broker has carried out an ack of the replica's.
    Ack,
    /// A call of the API has taken effect.
    Call,
    /// The broker's store is about to write a batch of changes.
    Batch,
}

/// What happens at that step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The process dies there. Of a batch: it is not written.
    Kill,
    /// Its connection with the broker ends there.
    Cut,
    /// The confirm is not sent. Of a call: the answer is lost. Of a batch: the broker ends once it
    /// is written, before any answer.
    Lose,
}

fn secs(rng: &mut StdRng, from: f64, to: f64) -> Duration {
    Duration::from_secs_f64(rng.random_range(from..to)).max(Duration::from_millis(1))
}

/// A fault, the more frequent the more it has to do with the promises.
pub(crate) fn draw_fault(rng: &mut StdRng, replicas: usize) -> Fault {
    let place = rng.random_range(0..replicas);
    let back_after = secs(rng, 0.1, 15.0);
    match rng.random_range(0..124) {
        0..8 => Fault::Kill { place, back_after },
        8..12 => {
            let noticed_after = secs(rng, 0.0, 25.0);
            Fault::Vanish { place, noticed_after, back_after: back_after + noticed_after }
        }
        12..22 => Fault::CutOff {
            place,
            silent_for: secs(rng, 0.0, 1.3),
            broker_after: secs(rng, 0.0, 25.0),
            client_after: secs(rng, 0.0, 25.0),
        },
        22..28 => Fault::Drop { place },
        28..33 => {
            let long = rng.random_bool(0.1);
            Fault::Away { lasts: secs(rng, 0.5, if long { 400.0 } else { 30.0 }) }
        }
        33..37 => {
            let queues = ["jobs", "tickets", "guard"];
            Fault::CloseConsumer { place, queue: queues.choose(rng).expect("not empty") }
        }
        37..62 => draw_step(rng, place),
        62..70 => Fault::Leave { place, back_after },
        70..75 => Fault::ResultsFull { lasts: secs(rng, 1.0, 120.0) },
        75 => Fault::TicketsRefused { lasts: secs(rng, 1.0, 20.0) },
        76 => Fault::ResultsUnbound { lasts: secs(rng, 1.0, 60.0) },
        77..80 => Fault::RepeatDeadLetters { count: rng.random_range(1..4) },
        80..88 => Fault::RoughNetwork { share: rng.random_range(0.05..0.9), lasts: secs(rng, 1.0, 40.0) },
        88..90 => Fault::Storm { status: 503, lasts: secs(rng, 1.0, 40.0) },
        90..92 => Fault::NoSlots { lasts: secs(rng, 1.0, 60.0) },
        92..94 => Fault::KeyRevoked { lasts: secs(rng, 1.0, 60.0) },
        94..97 => Fault::NoFunds { lasts: secs(rng, 1.0, 60.0) },
        97..100 => Fault::Pause { lasts: secs(rng, 1.0, 60.0) },
        100..112 => {
            let long = rng.random_bool(0.15);
            Fault::Outage { outage: draw_outage(rng), lasts: secs(rng, 1.0, if long { 300.0 } else { 40.0 }) }
        }
        112..118 => {
            let restarts = rng.random_bool(0.5);
            Fault::Forgets { down_for: if restarts { secs(rng, 0.5, 20.0) } else { Duration::ZERO } }
        }
        _ => {
            let codes = ["ERROR_KEY_DOES_NOT_EXIST", "ERROR_IP_NOT_ALLOWED"];
            Fault::Flash { code: codes.choose(rng).expect("not empty"), calls: rng.random_range(1..3) }
        }
    }
}

fn draw_outage(rng: &mut StdRng) -> Outage {
    let words = [
        Word::Code("ERROR_OF_NEXT_YEAR"),
        Word::Code("ERROR_OF_NEXT_YEAR"),
        Word::Code("ERROR_SERVICE_NOT_AVAILABLE"),
        Word::Page(502),
        Word::Page(403),
        Word::Page(200),
        Word::Down,
    ];
    Outage { submissions_only: rng.random_bool(0.5), word: *words.choose(rng).expect("not empty") }
}

/// The broker ends at one of its next batches.
pub(crate) fn draw_broker_end(rng: &mut StdRng) -> Fault {
    let then = draw_then(rng, Step::Batch);
    let at_once = rng.random_bool(0.3);
    let down_for = if at_once { Duration::ZERO } else { secs(rng, 0.1, 20.0) };
    Fault::BrokerEnds { nth: rng.random_range(1..30), then, down_for }
}

/// A clock that is set by minutes.
pub(crate) fn draw_clock(rng: &mut StdRng, replicas: usize) -> Fault {
    let millis = rng.random_range(60_000..600_000);
    Fault::ClockSet {
        place: rng.random_range(0..replicas),
        millis: if rng.random_bool(0.5) { millis } else { -millis },
        right_after: rng.random_bool(0.7).then(|| secs(rng, 1.0, 60.0)),
    }
}

fn draw_step(rng: &mut StdRng, place: usize) -> Fault {
    let step = *[Step::Publish, Step::Publish, Step::Ack, Step::Call].choose(rng).expect("not empty");
    let then = draw_then(rng, step);
    Fault::AtStep { place, step, nth: rng.random_range(1..12), then }
}

fn draw_then(rng: &mut StdRng, step: Step) -> Then {
    let possible: &[Then] = match step {
        Step::Ack => &[Then::Kill, Then::Cut],
        Step::Publish | Step::Call => &[Then::Kill, Then::Cut, Then::Lose],
        Step::Batch => &[Then::Kill, Then::Lose],
    };
    *possible.choose(rng).expect("not empty")
}
