//! What this replica spends, and what it may: its own figures, and the leader's books as they were
//! last announced.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::domain::money::{Acceptance, Books, Decimal, MAX_REPLICAS, Money, Orphan, SpendReport, Uncounted};
use crate::domain::time::Timestamp;

/// An acceptance that its replica has not reported after this long is reported by who has its
/// ticket. Where there are budgets, a report and the leader's answer take about a second, else as
/// long as two heartbeats are apart.
const ORPHANED_AFTER: Duration = Duration::from_millis(1_500);
const ORPHANED_AFTER_WITHOUT_BUDGETS: Duration = Duration::from_secs(5);
/// Acceptances of others whose counting is awaited.
const MAX_WATCHED: usize = 65_536;
/// Older ones are not reported: the books may have counted them, and forgotten that. Well before
/// they do so, since an age is by two clocks.
const WATCHED_FOR: Duration = Duration::from_secs(600);
/// Of them, those that are reported at a time.
const MAX_REPORTED: usize = 256;
/// Kinds of task without a price that are logged.
const MAX_UNPRICED: usize = 64;
/// What a replica reported is remembered for so long, for the case that it comes to lead without
/// having been heard by the leader before.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// Clones are the same.
#[derive(Clone)]
pub struct Ledger {
    parts: Arc<Parts>,
}

struct Parts {
    entries: Mutex<Entries>,
    changed: Notify,
}

struct Entries {
    own: SpendReport,
    /// Of calls of createTask under way, by lane.
    reserved: BTreeMap<String, Decimal>,
    money: Arc<Money>,
    /// The leader's clock at its announcement: it alone says when an hour ends.
    announced_at: Timestamp,
    /// When that was heard.
    followed_at: Instant,
    /// What the replicas reported last, this one's own included.
    heard: BTreeMap<String, (SpendReport, Instant)>,
    /// Kinds of task without a price, for which that was logged.
    unpriced: BTreeSet<String>,
    /// Acceptances of other replicas, when their tickets came here, and their ages then.
    watched: VecDeque<(Instant, Duration, Orphan)>,
}

impl Ledger {
    pub(super) fn new(id: String) -> Self {
        let entries = Entries {
            own: SpendReport { id, ..SpendReport::default() },
            reserved: BTreeMap::new(),
            money: Arc::default(),
            announced_at: Timestamp::from_millis(0),
            followed_at: Instant::now(),
            heard: BTreeMap::new(),
            unpriced: BTreeSet::new(),
            watched: VecDeque::new(),
        };
        Self { parts: Arc::new(Parts { entries: Mutex::new(entries), changed: Notify::new() }) }
    }

    /// The account's money as the leader announced it last, and when that was by its clock.
    #[must_use]
    pub fn money(&self) -> (Arc<Money>, Timestamp) {
        let entries = self.parts.entries.lock();
        (Arc::clone(&entries.money), entries.announced_at)
    }

    /// Whether anything has a budget.
    #[must_use]
    pub fn has_budgets(&self) -> bool {
        !self.parts.entries.lock().money.budgets.is_empty()
    }

    /// Waits until a task of this price may be begun in a lane, and sets its price aside. `place`:
    /// how many replicas there are, and this one's place among them.
    pub async fn reserve(
        &self,
        lane: &str,
        price: Option<Decimal>,
        place: impl Fn() -> (usize, usize),
    ) -> Reservation {
        loop {
            let changed = self.parts.changed.notified();
            if let Some(reservation) = self.try_reserve(lane, price.unwrap_or_default(), place()) {
                return reservation;
            }
            changed.await;
        }
    }

    fn try_reserve(&self, lane: &str, price: Decimal, place: (usize, usize)) -> Option<Reservation> {
        let mut entries = self.parts.entries.lock();
        let Entries { own, reserved, money, announced_at, .. } = &mut *entries;
        if !money.budgets.is_empty() {
            let counted = |lane| money.books.counted(&own.id, lane);
            let set_aside = reserved.values().sum::<Decimal>();
            let account = own.spent.total() + set_aside - counted(None);
            let set_aside = reserved.get(lane).copied().unwrap_or_default();
            let of_lane = own.spent.of(Some(lane)) + set_aside - counted(Some(lane));
            let uncounted = Uncounted { account, lane: of_lane };
            if !money.allows(lane, price, uncounted, place, *announced_at) {
                return None;
            }
        }
        *reserved.entry(lane.to_owned()).or_default() += price;
        Some(Reservation { ledger: self.clone(), lane: lane.to_owned(), price })
    }

    fn note(&self, note: impl FnOnce(&mut SpendReport)) {
        let own = &mut self.parts.entries.lock().own;
        note(own);
        own.seq = own.seq.saturating_add(1);
    }

    /// A submission was accepted. Returns by what the books know it.
    pub fn accepted(&self, lane: &str, kind: &str, price: Option<Decimal>) -> Acceptance {
        let mut entries = self.parts.entries.lock();
        let Entries { own, money, unpriced, .. } = &mut *entries;
        own.seq = own.seq.saturating_add(1);
        own.accepted = own.accepted.saturating_add(1);
        own.spent.note(lane, kind, price.unwrap_or_default());
        let is_news = price.is_none() && !money.budgets.is_empty() && unpriced.len() < MAX_UNPRICED;
        if is_news && unpriced.insert(kind.to_owned()) {
            tracing::warn!(
                task_type = kind,
                "a budget cannot hold for this type: set its price in [prices]; until then it counts only what the API reports at the end of a task"
            );
        }
        Acceptance { replica: own.id.clone(), number: own.accepted }
    }

    /// A submission was not answered: it may be paid, and so counts as paid.
    pub fn unanswered(&self, lane: &str, kind: &str, price: Option<Decimal>) {
        let Some(price) = price else { return };
        self.note(|own| {
            own.spent.note(lane, kind, price);
            own.spent.doubtful += price;
        });
    }

    /// The API has charged this much more than the books count.
    pub fn corrected(&self, lane: &str, kind: &str, by: Decimal) {
        if !by.is_zero() {
            self.note(|own| own.spent.note(lane, kind, by));
        }
    }

    /// A submission brought no solution.
    pub fn wasted(&self, amount: Decimal) {
        self.note(|own| own.spent.wasted += amount);
    }

    /// A job is submitted again that may be paid for already.
    pub fn repeated(&self, amount: Decimal) {
        self.note(|own| own.spent.repeated += amount);
    }

    /// A ticket is here, whose task was accepted so long ago.
    pub fn watch(&self, orphan: Orphan, age: Duration) {
        let mut entries = self.parts.entries.lock();
        if age < WATCHED_FOR
            && !entries.own.has_own(&orphan.acceptance)
            && !entries.money.books.has_acceptance(&orphan.acceptance)
            && entries.watched.len() < MAX_WATCHED
        {
            entries.watched.push_back((Instant::now(), age, orphan));
        }
    }

    /// Those of them that nobody has reported yet.
    pub(super) fn orphans(&self) -> Vec<Orphan> {
        let entries = &mut *self.parts.entries.lock();
        let books = &entries.money.books;
        entries.watched.retain(|(since, age, orphan)| {
            *age + since.elapsed() < WATCHED_FOR && !books.has_acceptance(&orphan.acceptance)
        });
        let has_budgets = !entries.money.budgets.is_empty();
        let after = if has_budgets { ORPHANED_AFTER } else { ORPHANED_AFTER_WITHOUT_BUDGETS };
        let due = entries.watched.iter().take_while(|(since, ..)| since.elapsed() >= after);
        due.take(MAX_REPORTED).map(|(.., orphan)| orphan.clone()).collect()
    }

    /// What this replica has spent since it runs; `None` until it has heard whether the books still
    /// know what they had counted of it.
    pub(super) fn report(&self) -> Option<SpendReport> {
        let entries = self.parts.entries.lock();
        let may_be_forgotten =
            entries.was_away() && entries.money.books.all_counted(&entries.own.id).is_some();
        (!may_be_forgotten).then(|| entries.own.clone())
    }

    /// Whether the leader has not counted all of it yet.
    pub(super) fn has_news(&self) -> bool {
        let entries = self.parts.entries.lock();
        !entries.money.books.has(&entries.own.id, entries.own.seq)
    }

    /// Compares the books that are in force now with those that were.
    pub(super) fn recognise(&self, books: &Books) {
        let entries = &mut *self.parts.entries.lock();
        // Books of an earlier version, or of a new broker, have not forgotten it: they never knew
        // it.
        if entries.was_away()
            && books.version >= entries.money.books.version
            && books.all_counted(&entries.own.id).is_none()
            && let Some(counted) = entries.money.books.all_counted(&entries.own.id)
        {
            entries.own.begin_row(&counted);
        }
        entries.followed_at = Instant::now();
    }

    /// A replica reports what it has spent.
    pub(super) fn hear(&self, report: &SpendReport) {
        let mut entries = self.parts.entries.lock();
        let heard = &mut entries.heard;
        if heard.len() >= MAX_REPLICAS && !heard.contains_key(&report.id) {
            heard.retain(|_, (_, at)| at.elapsed() < REMEMBERED_FOR);
            if heard.len() >= MAX_REPLICAS {
                return;
            }
        }
        match heard.get_mut(&report.id) {
            Some((known, _)) if known.seq > report.seq => {}
            Some(known) => *known = (report.clone(), Instant::now()),
            None => drop(heard.insert(report.id.clone(), (report.clone(), Instant::now()))),
        }
    }

    /// What all replicas reported lately, of those too that are gone: what the leader before did
    /// not live to write down. The books forget a replica that is silent for longer, and would
    /// count all that it has ever spent once more.
    pub(super) fn heard(&self) -> Vec<SpendReport> {
        let entries = self.parts.entries.lock();
        let lately = entries.heard.values().filter(|(_, at)| at.elapsed() < REMEMBERED_FOR);
        lately.map(|(report, _)| report.clone()).collect()
    }

    /// The leader has announced the account's money.
    pub(super) fn follow(&self, money: &Money, announced_at: Timestamp) {
        self.recognise(&money.books);
        let mut entries = self.parts.entries.lock();
        entries.announced_at = announced_at;
        if *entries.money != *money {
            entries.money = Arc::new(money.clone());
        }
        drop(entries);
        // The hour may have ended.
        self.parts.changed.notify_waiters();
    }
}

impl Entries {
    /// Whether no leader was heard for so long that the books may have forgotten this replica. If
    /// they lack it after a shorter time, they are older than the last ones, and lack what it has
    /// spent too.
    fn was_away(&self) -> bool {
        self.followed_at.elapsed() >= REMEMBERED_FOR
    }
}

/// The price of a call of createTask under way, set aside until it has ended.
#[must_use]
pub struct Reservation {
    ledger: Ledger,
    lane: String,
    price: Decimal,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(reserved) = self.ledger.parts.entries.lock().reserved.get_mut(&self.lane) {
            *reserved -= self.price;
        }
        self.ledger.parts.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::money::Spent;
    use crate::fleet::leadership::Listener;

    const NOON: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    /// Two replicas, `a` and `b`, and a third one that leads and spends nothing.
    struct Fleet {
        ledgers: [Ledger; 2],
        /// `a` is cut off.
        cut: bool,
        money: Money,
        written: Money,
        listener: Listener,
        began: Instant,
        /// The leader's clock was set forward by so much.
        ahead: Duration,
        spent: Decimal,
        /// What may have been counted of `a` without its hearing of it, as it was cut off.
        unheard: Decimal,
    }

    impl Fleet {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                ledgers: ["a", "b"].map(|id| Ledger::new(id.to_owned())),
                cut: false,
                money: Money::default(),
                written: Money::default(),
                listener: Listener::new(),
                began: now,
                ahead: Duration::ZERO,
                spent: Decimal::ZERO,
                unheard: Decimal::ZERO,
            }
        }

        fn now(&self) -> Timestamp {
            NOON.plus(self.began.elapsed() + self.ahead)
        }

        fn connected(&self) -> Vec<Ledger> {
            self.ledgers[usize::from(self.cut)..].to_vec()
        }

        fn spend(&mut self, who: usize) {
            // A replica that is cut off calls nothing.
            if who == 1 || !self.cut {
                let _ = self.ledgers[who].accepted("default", "ImageToTextTask", Some(Decimal::ONE));
                self.spent += Decimal::ONE;
            }
        }

        fn cut_or_connect(&mut self) {
            self.cut = !self.cut;
            if self.cut {
                let entries = self.ledgers[0].parts.entries.lock();
                self.unheard +=
                    entries.own.spent.total() - entries.money.books.counted(&entries.own.id, None);
            }
        }

        fn report(&mut self) {
            let now = self.now();
            for report in self.connected().iter().filter_map(Ledger::report) {
                self.connected().iter().for_each(|ledger| ledger.hear(&report));
                self.money.books.note(&report, now);
            }
        }

        fn announce(&mut self) {
            self.connected().iter().for_each(|ledger| ledger.follow(&self.money, self.now()));
            self.hear();
        }

        /// Who hears the leader sends it heartbeats.
        fn hear(&mut self) {
            ["a", "b"].iter().skip(usize::from(self.cut)).for_each(|id| self.listener.note(id));
        }

        async fn pass(&mut self, time: Duration) {
            self.report();
            self.written = self.money.clone();
            self.announce();
            tokio::time::advance(time).await;
            self.hear();
            self.listener.tidy(&mut self.money.books);
        }

        /// Another replica leads, which has heard what `b` has.
        fn change_leader(&mut self) {
            let (now, heard) = (self.now(), &self.ledgers[1]);
            self.money = self.written.clone();
            self.money.books.follow(&heard.money().0.books);
            heard.heard().iter().for_each(|report| self.money.books.note(report, now));
            self.listener = Listener::new();
        }

        fn booked(&self) -> Decimal {
            self.money.books.hours(NOON).map(|(_, hour)| hour.spent.total()).sum()
        }
    }

    struct Played {
        booked: Decimal,
        spent: Decimal,
        /// What may be counted twice.
        unheard: Decimal,
        /// By which `a` reports in the end.
        id: String,
    }

    fn played(steps: &[(u8, u64)]) -> Played {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime without I/O").block_on(async {
            let mut fleet = Fleet::new();
            for (what, minutes) in steps {
                match what % 9 {
                    who @ 0..=1 => fleet.spend(usize::from(who)),
                    2 => fleet.report(),
                    3 => fleet.announce(),
                    4 => fleet.change_leader(),
                    5 => fleet.cut_or_connect(),
                    // The books keep a day.
                    6 => {
                        fleet.ahead = (fleet.ahead + Duration::from_secs(300 * minutes))
                            .min(Duration::from_secs(12 * 3_600));
                    }
                    _ => fleet.pass(Duration::from_secs(60 * minutes)).await,
                }
            }
            fleet.cut = false;
            fleet.announce();
            fleet.report();
            let id = fleet.ledgers[0].parts.entries.lock().own.id.clone();
            Played { booked: fleet.booked(), spent: fleet.spent, unheard: fleet.unheard, id }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_watched_until_the_books_may_have_forgotten_it_and_never_by_its_own_replica() {
        let ledger = Ledger::new("b".to_owned());
        let watch = |replica: &str, age| {
            let acceptance = Acceptance { replica: replica.to_owned(), number: 1 };
            let (lane, kind) = ("default".to_owned(), "ImageToTextTask".to_owned());
            ledger.watch(Orphan { acceptance, lane, kind, price: Decimal::ONE }, age);
        };
        ledger.parts.entries.lock().own.begin_row(&Spent::default());
        for (replica, age) in [("b", 0), ("b#2", 0), ("old", 600), ("bc", 594)] {
            watch(replica, Duration::from_secs(age));
        }
        tokio::time::advance(ORPHANED_AFTER_WITHOUT_BUDGETS).await;
        let orphans = ledger.orphans();
        let replicas: Vec<_> = orphans.iter().map(|orphan| orphan.acceptance.replica.as_str()).collect();
        assert_eq!(replicas, ["bc"]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(ledger.orphans(), []);
    }

    proptest! {
        #[test]
        fn however_long_a_replica_is_cut_off_the_books_count_what_it_spends_once(
            steps in prop::collection::vec((any::<u8>(), 1_u64..9), 0..80),
        ) {
            let Played { booked, spent, unheard, .. } = played(&steps);
            prop_assert!(booked >= spent && booked <= spent + unheard, "{booked}, {spent}, {unheard}");
        }
    }

    #[test]
    fn a_replica_that_the_books_have_forgotten_reports_only_what_they_lack() {
        // It spends, is cut off with something that it has not reported, and comes back.
        let away = [(0, 0), (0, 0), (7, 1), (0, 0), (5, 0), (7, 8), (7, 8), (5, 0)];
        let again: Vec<_> = away.iter().chain(&[(3, 0), (0, 0), (2, 0)]).chain(&away).copied().collect();
        let Played { booked, spent, id, .. } = played(&again);
        assert_eq!((booked, spent, id.as_str()), (Decimal::from(7), Decimal::from(7), "a#3"));
    }
}
