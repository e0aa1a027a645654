//! The course of a history: what is due is done in its time, and at the end everything must be
//! done.

use std::collections::BTreeMap;
use std::time::Duration;

use captcha_worker::domain::lane::Lane;
use captcha_worker::domain::money::{Decimal, Ordered};
use captcha_worker::fleet::Order;
use captcha_worker::simulator::Control;
use captcha_worker::worker::Drained;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep_until};

use super::fault::{Fault, Then};
use super::plan::{Plan, PlannedJob};
use super::steps::Met;
use super::witness::open;
use super::world::{BROKER, DEAREST, DRAIN, World};

/// How long everything may take to be done after the last fault: the longest parks, the longest
/// pause of the guard, and some.
const DONE_WITHIN: Duration = Duration::from_secs(3_600);
/// How long the last reports of what was spent may take, a new leader in between.
const BOOKED_WITHIN: Duration = Duration::from_secs(30);
/// After which a place is taken again, or a dying connection is dead.
const SOON: Duration = Duration::from_secs(4);
/// A drain may go over its time by what closing takes.
pub(super) const LEAVE_WITHIN: Duration = Duration::from_secs(DRAIN.as_secs() + 5);

/// Something that is due.
#[derive(Debug)]
pub(super) enum Due {
    Publish(Box<PlannedJob>),
    Strike(Fault),
    Start(usize),
    Fix(Fix),
}

/// The end of a fault.
#[derive(Debug, Clone)]
pub(super) enum Fix {
    Reach,
    Room,
    Tickets,
    Binding,
    Network,
    Slots,
    Key,
    Funds,
    Resume,
    Outage,
    /// The clock of a place, by so many ms.
    Clock(usize, i64),
    /// The broker notices that a connection is gone.
    NoticedByBroker(u64),
    /// The client notices.
    NoticedByClient(u64),
}

/// A replica has left by itself.
pub(super) struct Left {
    pub(super) place: usize,
    pub(super) name: String,
    pub(super) drained: Option<Drained>,
    pub(super) back_after: Duration,
}

/// A history under way.
pub(crate) struct Harness<'a> {
    pub(crate) world: World,
    pub(super) plan: &'a Plan,
    due: BTreeMap<(Duration, usize), Due>,
    numbered: usize,
    met: mpsc::UnboundedReceiver<Met>,
    pub(super) leaving: mpsc::UnboundedSender<Left>,
    left: mpsc::UnboundedReceiver<Left>,
    /// Leaving now.
    pub(super) gone: usize,
}

impl<'a> Harness<'a> {
    pub(crate) fn new(world: World, plan: &'a Plan, met: mpsc::UnboundedReceiver<Met>) -> Self {
        let (leaving, left) = mpsc::unbounded_channel();
        let mut harness =
            Self { world, plan, due: BTreeMap::new(), numbered: 0, met, leaving, left, gone: 0 };
        for place in 0..plan.skews.len() {
            harness.at(Duration::from_millis(200 * place as u64), Due::Start(place));
        }
        for job in &plan.jobs {
            harness.at(job.at, Due::Publish(Box::new(job.clone())));
        }
        for (at, fault) in &plan.faults {
            harness.at(*at, Due::Strike(fault.clone()));
        }
        harness
    }

    fn at(&mut self, when: Duration, what: Due) {
        self.numbered += 1;
        self.due.insert((when, self.numbered), what);
    }

    pub(super) fn after(&mut self, span: Duration, what: Due) {
        self.at(self.world.now() + span, what);
    }

    /// Plays until nothing is due any more.
    pub(crate) async fn play(&mut self) {
        while !self.due.is_empty() || self.gone > 0 {
            let next = self.due.first_key_value().map(|((when, _), _)| *when);
            let next = next.map_or(Duration::from_secs(100_000), |when| when);
            tokio::select! {
                biased;
                Some(met) = self.met.recv() => self.on_met(met),
                Some(left) = self.left.recv() => self.on_left(left),
                () = sleep_until(self.world.chronicle.began() + next) => {
                    if let Some((_, due)) = self.due.pop_first() {
                        self.carry_out(due).await;
                    }
                }
            }
        }
    }

    /// A replica has met a fault at a step of its own.
    fn on_met(&mut self, (name, then): Met) {
        if name == BROKER {
            let down_for = self.world.broker_down_for.take().unwrap_or_default();
            let mut books = open(&self.world.books);
            books.answers_nobody = false;
            books.payments.cut(Instant::now(), down_for);
            drop(books);
            return self.after(down_for, Due::Fix(Fix::Reach));
        }
        let place =
            self.world.places.iter().position(|at| at.as_ref().is_some_and(|there| there.name == name));
        match then {
            Then::Kill => {
                if let Some(place) = place {
                    self.kill(place);
                    self.after(SOON, Due::Start(place));
                }
            }
            // A broker that owes a confirm and lives on would be no broker: the connection is about
            // to die.
            Then::Lose => {
                for session in self.world.broker.sessions_of(&name) {
                    self.after(SOON, Due::Fix(Fix::NoticedByClient(session)));
                }
            }
            Then::Cut => {}
        }
    }

    pub(super) fn kill(&mut self, place: usize) {
        if let Some(replica) = self.world.places[place].take() {
            self.world.chronicle.record(|| format!("{} is dead", replica.name));
            open(&self.world.books).dies(&replica.name);
            self.world.end_process(&replica);
        }
    }

    fn on_left(&mut self, left: Left) {
        let Left { place, name, drained, back_after } = left;
        self.gone -= 1;
        self.world.chronicle.record(|| format!("{name} has left: {drained:?}"));
        let mut books = open(&self.world.books);
        books.payments.ended(&name, Instant::now());
        match drained {
            None => books.break_promise(format!("{name} did not leave within {LEAVE_WITHIN:?}")),
            Some(Drained { unfinished }) if unfinished > 0 && !books.is_disturbed(&name) => {
                books.break_promise(format!("{name} left {unfinished} deliveries unfinished"));
            }
            Some(_) => {}
        }
        drop(books);
        self.after(back_after, Due::Start(place));
    }

    async fn carry_out(&mut self, due: Due) {
        match due {
            Due::Publish(job) => {
                self.world.chronicle.record(|| format!("published: {}", job.body));
                self.world.publish(&job).await;
            }
            Due::Start(place) => self.world.start(self.plan, place),
            Due::Strike(fault) => {
                self.world.chronicle.record(|| format!("fault: {fault:?}"));
                self.strike(fault);
            }
            Due::Fix(fix) => {
                self.world.chronicle.record(|| format!("fixed: {fix:?}"));
                self.fix(fix).await;
            }
        }
    }

    async fn fix(&mut self, fix: Fix) {
        let world = &self.world;
        match fix {
            Fix::Reach => world.broker.set_reachable(true),
            Fix::Room => world.broker.set_full(&world.names.results(), false),
            Fix::Tickets => world.broker.set_full(&world.names.tickets(), false),
            Fix::Binding => world.bind().await,
            Fix::Network => world.weather.set_rough(0.0),
            Fix::Outage => world.weather.set_outage(None),
            Fix::Clock(place, millis) => world.set_clock(place, millis),
            Fix::Slots => {
                let slots = BTreeMap::from([("ImageToTextTask".to_owned(), None)]);
                world.control(&Control { slots, ..Control::default() });
            }
            Fix::Key => {
                world.control(&Control { key_valid: Some(true), ..Control::default() });
                world.order(Order::Resume, self.plan.seed.wrapping_mul(100) + 40);
            }
            Fix::Funds => world.control(&Control { balance: Some(1_000.0), ..Control::default() }),
            Fix::Resume => world.order(Order::Resume, self.plan.seed.wrapping_mul(100) + 60),
            Fix::NoticedByBroker(session) => world.broker.forget_session(session),
            Fix::NoticedByClient(session) => world.broker.drop_session(session),
        }
    }

    /// Fixes all, lets everything end, and sends the replicas home. What does not end is a broken
    /// promise.
    pub(crate) async fn end(&mut self) {
        self.world.snares.take_up(BROKER);
        while let Ok(met) = self.met.try_recv() {
            self.on_met(met);
        }
        self.judge_budgets();
        self.world.fix_all().await;
        for place in 0..self.world.places.len() {
            self.world.start(self.plan, place);
        }
        self.world.order(Order::Resume, self.plan.seed.wrapping_mul(100) + 80);
        for (number, (lane, _)) in (0_u64..).zip(self.budgets()) {
            let lane = lane.map(|lane| lane.name().to_owned());
            let raise = Ordered { lane, by: Decimal::ONE_THOUSAND, for_ms: 86_400_000 };
            // By seeds of their own: each is another command.
            let seed = self.plan.seed.wrapping_mul(100) + 20 + 1_000_000_000 * number;
            self.world.order(Order::RaiseBudget(raise), seed);
        }
        let fixed = Instant::now();
        let mut looks = interval(Duration::from_millis(500));
        while !self.world.is_done() && fixed.elapsed() < DONE_WITHIN {
            looks.tick().await;
            while let Ok(met) = self.met.try_recv() {
                self.on_met(met);
            }
            while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= self.world.now()) {
                let due = entry.remove();
                self.carry_out(due).await;
            }
        }
        self.world.chronicle.record(|| "the end: all replicas leave".to_owned());
        self.judge_rest();
        self.judge_books().await;
        let places = self.world.places.len();
        for place in 0..places {
            self.leave(place, Duration::ZERO);
        }
        while self.gone > 0 {
            let Some(left) = self.left.recv().await else { return };
            self.on_left(left);
        }
    }

    /// The budgets of the account and of lanes.
    fn budgets(&self) -> impl Iterator<Item = (Option<&Lane>, Decimal)> {
        let of_lanes =
            self.plan.lanes.iter().filter_map(|(lane, planned)| Some((Some(lane), planned.budget?)));
        self.plan.budget.map(|budget| (None, budget)).into_iter().chain(of_lanes)
    }

    /// No acceptance is past a budget, but those that no replica may know, and one call in flight
    /// for each replica.
    fn judge_budgets(&self) {
        let in_flight = DEAREST * Decimal::from(self.plan.skews.len());
        for (lane, budget) in self.budgets() {
            let (paid, unknown) = self.world.paid(lane);
            if paid > budget + unknown + in_flight {
                let lane = lane.map_or("all", Lane::name);
                let text = format!(
                    "{paid} is paid of a budget of {budget} of lane {lane}, of which {unknown} cannot be known"
                );
                open(&self.world.books).break_promise(text);
            }
        }
    }

    /// The books equal the simulator's ledger, once the last reports are in.
    async fn judge_books(&self) {
        let mut looks = interval(Duration::from_millis(500));
        let quiet = Instant::now();
        while let Some(wrong) = self.world.wrong_books() {
            if quiet.elapsed() >= BOOKED_WITHIN {
                open(&self.world.books).break_promise(wrong);
                return;
            }
            looks.tick().await;
        }
    }

    /// Nothing waits any more, and nobody holds anything.
    fn judge_rest(&self) {
        let mut books = open(&self.world.books);
        let unfinished = self.world.unfinished();
        if unfinished > 0 {
            books
                .break_promise(format!("{unfinished} messages are still on their way after {DONE_WITHIN:?}"));
        }
        for replica in self.world.places.iter().flatten() {
            let held = replica.holds();
            if held != (0, 0) {
                books.break_promise(format!("{} still holds {held:?} (deliveries, places)", replica.name));
            }
        }
    }
}
