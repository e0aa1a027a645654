//! Faults, as they come.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use captcha_worker::fleet::Order;
use captcha_worker::simulator::{Control, Storm};
use tokio::time::{Instant, timeout};

use super::fault::{Fault, Outage, Step, Word};
use super::harness::{Due, Fix, Harness, LEAVE_WITHIN, Left};
use super::witness::open;
use super::world::BROKER;

impl Harness<'_> {
    /// The replica in a place, whose sessions a fault is about to hit.
    fn hit(&self, place: usize) -> Option<String> {
        let name = self.world.places[place].as_ref()?.name.clone();
        open(&self.world.books).disturb(&name);
        Some(name)
    }

    pub(super) fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Kill { place, back_after } => {
                self.kill(place);
                self.after(back_after, Due::Start(place));
            }
            Fault::Vanish { place, noticed_after, back_after } => {
                self.vanish(place, noticed_after, back_after);
            }
            Fault::CutOff { place, silent_for, broker_after, client_after } => {
                let Some(name) = self.hit(place) else { return };
                let lasts = silent_for.max(broker_after).max(client_after);
                open(&self.world.books).payments.cut(Instant::now(), lasts);
                for session in self.world.broker.sessions_of(&name) {
                    self.world.broker.cut_off(session, silent_for);
                    self.after(broker_after, Due::Fix(Fix::NoticedByBroker(session)));
                    self.after(client_after, Due::Fix(Fix::NoticedByClient(session)));
                }
            }
            Fault::Drop { place } => {
                let Some(name) = self.hit(place) else { return };
                self.world.broker.drop_connection(&name);
            }
            Fault::Away { lasts } => self.away(lasts),
            Fault::CloseConsumer { place, queue } => {
                let Some(name) = self.hit(place) else { return };
                for session in self.world.broker.sessions_of(&name) {
                    self.world.broker.close_consumers(session, &format!("captcha.{queue}"));
                }
            }
            Fault::AtStep { place, step, nth, then } => {
                if let Some(replica) = &self.world.places[place] {
                    self.world.snares.lay(&replica.name, step, nth, then);
                }
            }
            Fault::BrokerEnds { nth, then, down_for } => {
                if self.world.broker_down_for.replace(down_for).is_none() {
                    self.world.snares.lay(BROKER, Step::Batch, nth, then);
                }
            }
            Fault::Leave { place, back_after } => self.leave(place, back_after),
            Fault::RepeatDeadLetters { count } => self.world.broker.repeat_next_dead_letters(count),
            Fault::ResultsFull { lasts } => {
                self.world.broker.set_full(&self.world.names.results(), true);
                self.after(lasts, Due::Fix(Fix::Room));
            }
            Fault::TicketsRefused { lasts } => {
                self.world.broker.set_full(&self.world.names.tickets(), true);
                self.after(lasts, Due::Fix(Fix::Tickets));
            }
            Fault::ResultsUnbound { lasts } => {
                self.world.broker.unbind(&self.world.names.results());
                self.after(lasts, Due::Fix(Fix::Binding));
            }
            Fault::RoughNetwork { share, lasts } => {
                self.world.weather.set_rough(share);
                self.after(lasts, Due::Fix(Fix::Network));
            }
            Fault::Outage { outage, lasts } => self.fail(outage, lasts),
            Fault::Forgets { down_for } => {
                open(&self.world.books).forget_tasks();
                if !down_for.is_zero() {
                    self.fail(Outage { submissions_only: false, word: Word::Down }, down_for);
                }
            }
            Fault::Flash { code, calls } => self.world.weather.flash(code, calls),
            Fault::ClockSet { place, millis, right_after } => {
                self.world.set_clock(place, millis);
                if let Some(after) = right_after {
                    self.after(after, Due::Fix(Fix::Clock(place, -millis)));
                }
            }
            Fault::Storm { .. }
            | Fault::NoSlots { .. }
            | Fault::KeyRevoked { .. }
            | Fault::NoFunds { .. }
            | Fault::Pause { .. } => self.strike_account(&fault),
        }
    }

    fn fail(&mut self, outage: Outage, lasts: Duration) {
        self.world.weather.set_outage(Some(outage));
        self.after(lasts, Due::Fix(Fix::Outage));
    }

    fn strike_account(&mut self, fault: &Fault) {
        let world = &self.world;
        let (control, lasts, fix) = match *fault {
            Fault::Storm { status, lasts } => {
                let until_seconds = u32::try_from(lasts.as_secs()).unwrap_or(u32::MAX);
                let storm = Storm { status, until_seconds, retry_after: None };
                return world.control(&Control { storm: Some(storm), ..Control::default() });
            }
            Fault::NoSlots { lasts } => {
                let slots = BTreeMap::from([("ImageToTextTask".to_owned(), Some(0))]);
                (Control { slots, ..Control::default() }, lasts, Fix::Slots)
            }
            Fault::KeyRevoked { lasts } => {
                (Control { key_valid: Some(false), ..Control::default() }, lasts, Fix::Key)
            }
            Fault::NoFunds { lasts } => {
                (Control { balance: Some(0.0), ..Control::default() }, lasts, Fix::Funds)
            }
            Fault::Pause { lasts } => {
                world.order(Order::Pause { reason: None }, self.plan.seed.wrapping_mul(100) + 20);
                return self.after(lasts, Due::Fix(Fix::Resume));
            }
            _ => return,
        };
        world.control(&control);
        self.after(lasts, Due::Fix(fix));
    }

    fn away(&mut self, lasts: Duration) {
        self.world.broker.set_reachable(false);
        for place in 0..self.world.places.len() {
            if let Some(name) = self.hit(place) {
                self.world.broker.drop_connection(&name);
            }
        }
        open(&self.world.books).payments.cut(Instant::now(), lasts);
        self.after(lasts, Due::Fix(Fix::Reach));
    }

    fn vanish(&mut self, place: usize, noticed_after: Duration, back_after: Duration) {
        let Some(replica) = self.world.places[place].take() else { return };
        open(&self.world.books).dies(&replica.name);
        // Until the broker notices, nobody else can lead, and so nobody hears what is spent.
        if replica.view.watch().borrow().leads {
            open(&self.world.books).payments.cut(Instant::now(), noticed_after);
        }
        let sessions = self.world.broker.sessions_of(&replica.name);
        for session in &sessions {
            self.world.broker.cut_off(*session, Duration::ZERO);
            self.after(noticed_after, Due::Fix(Fix::NoticedByClient(*session)));
        }
        replica.transport.dead.store(true, Ordering::Relaxed);
        replica.handle.abort();
        self.after(back_after, Due::Start(place));
    }

    pub(super) fn leave(&mut self, place: usize, back_after: Duration) {
        let Some(replica) = self.world.places[place].take() else { return };
        self.gone += 1;
        let leaving = self.leaving.clone();
        tokio::spawn(async move {
            replica.drain.cancel();
            let mut handle = replica.handle;
            let drained = timeout(LEAVE_WITHIN, &mut handle).await.ok().and_then(Result::ok);
            handle.abort();
            // Its process has ended.
            replica.transport.dead.store(true, Ordering::Relaxed);
            replica.transport.broker.drop_connection(&replica.name);
            let _ = leaving.send(Left { place, name: replica.name, drained, back_after });
        });
    }
}
