use proptest::prelude::*;

use super::*;
use crate::time::Timestamp;

const NOON: Timestamp = Timestamp::from_millis(1_790_000_000_000 / 86_400_000 * 86_400_000 + 43_200_000);
const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

fn d(text: &str) -> Decimal {
    decimal(text).expect("a decimal")
}

fn report(id: &str, seq: u64, accepted: u64, amount: &str) -> SpendReport {
    let mut spent = Spent::default();
    spent.note("default", "ImageToTextTask", d(amount));
    SpendReport { id: id.to_owned(), seq, accepted, spent }
}

fn orphan(replica: &str, number: u64) -> Orphan {
    let acceptance = Acceptance { replica: replica.to_owned(), number };
    Orphan { acceptance, lane: "default".to_owned(), kind: "ImageToTextTask".to_owned(), price: d("0.1") }
}

fn spent(books: &Books) -> Decimal {
    books.spent(Window::Day, None, NOON)
}

#[test]
fn amounts_are_read_exactly_and_nothing_else_is() {
    for (text, shown) in [("0.0003", "0.0003"), (" 12 ", "12"), ("3e-4", "0.0003"), ("345.678", "345.678")] {
        assert_eq!(amount(text).map(|amount| amount.to_string()).as_deref(), Some(shown));
    }
    for text in ["", "-1", "+1", "1_000", "0x1", "nan", "inf", "1e300", "1.2.3", &"1".repeat(65)] {
        assert_eq!(amount(text), None, "{text}");
    }
}

#[test]
fn a_sum_says_whether_it_is_estimated_and_is_none_where_a_part_is_not_known() {
    let (said, priced) = (Cost::of(Some(d("0.1")), Some(d("9"))), Cost::of(None, Some(d("0.2"))));
    assert_eq!(Cost::sum([said, said].into_iter()), Some(Cost { amount: d("0.2"), estimated: false }));
    assert_eq!(Cost::sum([said, priced].into_iter()), Some(Cost { amount: d("0.3"), estimated: true }));
    assert_eq!(Cost::sum([said, None].into_iter()), None);
    assert_eq!(Cost::sum(std::iter::empty()), None);
}

#[test]
fn reports_that_come_twice_or_late_or_not_at_all_change_no_sum() {
    let mut books = Books::default();
    for report in [report("a", 1, 1, "0.1"), report("a", 3, 3, "0.3"), report("a", 2, 2, "0.2")] {
        books.note(&report, NOON);
        books.note(&report, NOON);
    }
    books.note(&report("b", 1, 5, "0.5"), NOON);
    assert_eq!((spent(&books), books.counted("a", None)), (d("0.8"), d("0.3")));
}

#[test]
fn an_acceptance_that_its_ticket_shows_counts_once_if_another_reports_it_after() {
    let mut books = Books::default();
    books.note(&report("a", 1, 1, "0.1"), NOON);
    for number in [1, 2, 3, 2] {
        books.note_orphan(&orphan("a", number), NOON);
    }
    assert_eq!(spent(&books), d("0.3"), "the first was reported, the other two were not");
    books.note(&report("a", 2, 2, "0.2"), NOON);
    assert_eq!(spent(&books), d("0.3"), "the second was reported after all");
    books.note(&report("a", 3, 4, "0.4"), NOON);
    assert_eq!(spent(&books), d("0.4"));
}

#[test]
fn the_books_stay_small_however_many_replicas_types_and_lost_reports_there_are() {
    let mut books = Books::default();
    for number in 0..2 * MAX_REPLICAS {
        let mut report = SpendReport { id: format!("{number:036}"), seq: 1, ..SpendReport::default() };
        for kind in 0..40 {
            report.spent.note("default", &format!("SomeTaskProxyless{kind}"), d("0.0003"));
        }
        books.note(&report, NOON.plus(MINUTE * u32::try_from(number).unwrap()));
        books.note_orphan(&orphan(&report.id, 1), NOON);
    }
    let bytes = serde_json::to_vec(&books).unwrap().len();
    assert!(books.is_plausible() && bytes < 225 * 1_024, "{bytes} bytes");
}

#[test]
fn the_hour_and_the_day_begin_with_the_clock() {
    let mut books = Books::default();
    books.note(&report("a", 1, 1, "1"), NOON);
    books.note(&report("a", 2, 2, "3"), NOON.plus(61 * MINUTE));
    let later = NOON.plus(62 * MINUTE);
    assert_eq!(books.spent(Window::Hour, None, later), d("2"));
    assert_eq!(books.spent(Window::Day, None, later), d("3"));
    assert_eq!(books.spent(Window::Day, None, NOON.plus(12 * 60 * MINUTE)), Decimal::ZERO);
    assert_eq!(Window::Hour.ends(later), NOON.plus(120 * MINUTE));
    assert_eq!(Window::Day.ends(later), NOON.plus(12 * 60 * MINUTE));
    // A leader whose clock is behind finds the same hours.
    let set_back = NOON.plus(59 * MINUTE);
    assert_eq!(books.spent(Window::Hour, None, set_back), d("1"));
    assert_eq!(books.spent(Window::Day, None, set_back), d("3"));
}

#[test]
fn hours_that_a_clock_has_booked_too_far_ahead_give_way() {
    let mut books = Books::default();
    books.note(&report("a", 1, 1, "1"), NOON.plus(60 * 60 * MINUTE));
    for n in 0..30 {
        books.note(&report("b", n + 1, n + 1, &(n + 1).to_string()), NOON.plus(60 * MINUTE * n as u32));
        assert!(books.is_plausible());
        assert_eq!(books.spent(Window::Hour, None, NOON.plus(60 * MINUTE * n as u32)), d("1"));
    }
}

#[test]
fn drift_is_what_the_balance_fell_beyond_the_books_and_a_top_up_is_none() {
    let mut books = Books::default();
    books.note_balance(None, d("10"), NOON);
    books.note(&report("a", 1, 1, "1"), NOON);
    assert_eq!(books.drift(NOON), Decimal::ZERO, "not looked at yet");
    books.note_balance(Some(d("10")), d("8.5"), NOON);
    assert_eq!(books.drift(NOON), d("0.5"), "somebody else");
    books.note(&report("a", 2, 2, "2"), NOON);
    books.note_balance(Some(d("8.5")), d("107.5"), NOON);
    assert_eq!(books.drift(NOON), d("0.5"));
}

fn money(per_hour: &str, lane: Option<&str>) -> Money {
    let limits = Limits { per_hour: Some(d(per_hour)), per_day: None };
    let budgets = match lane {
        None => Budgets { account: limits, ..Budgets::default() },
        Some(lane) => Budgets { lanes: [(lane.to_owned(), limits)].into(), ..Budgets::default() },
    };
    Money { budgets, ..Money::default() }
}

fn prices() -> Prices {
    Prices([("ImageToTextTask".to_owned(), d("0.1"))].into())
}

fn judge(money: &mut Money, now: Timestamp) -> (bool, bool) {
    money.judge(&money.budgets.clone(), &prices(), now);
    (money.stops("default"), money.stops("bulk"))
}

#[test]
fn a_budget_without_room_for_a_task_stops_until_its_window_ends_or_it_is_raised() {
    let mut money = money("1", None);
    money.books.note(&report("a", 1, 9, "0.9"), NOON);
    assert_eq!(judge(&mut money, NOON), (false, false));
    money.books.note(&report("a", 2, 10, "0.95"), NOON);
    assert_eq!(judge(&mut money, NOON), (true, true));
    assert_eq!(money.stops.account.map(|stop| stop.until), Some(NOON.plus(60 * MINUTE)));
    assert_eq!(judge(&mut money, NOON.plus(60 * MINUTE)), (false, false));
    let until = NOON.plus(10 * MINUTE);
    money.raise(Raise {
        lane: None,
        amount: d("1"),
        by: "ops".to_owned(),
        since: NOON,
        until,
        command: None,
    });
    assert_eq!(judge(&mut money, NOON), (false, false));
    assert_eq!((judge(&mut money, until), money.raises.len()), ((true, true), 0));
}

#[test]
fn a_lanes_budget_stops_that_lane_alone() {
    let mut money = money("0.5", Some("default"));
    money.books.note(&report("a", 1, 5, "0.5"), NOON);
    assert_eq!(judge(&mut money, NOON), (true, false));
    assert_eq!(money.stops.account, None);
}

/// A fleet that spends as fast as it is allowed, and whose reports reach the leader, and the
/// leader's books the replicas, late and in any order.
fn spend_all(replicas: usize, budget: &str, steps: &[(u8, u8)]) -> (Decimal, Decimal) {
    let (mut money, price) = (money(budget, None), d("0.1"));
    let mut own = vec![SpendReport::default(); replicas];
    let mut known = vec![money.clone(); replicas];
    for (rank, report) in own.iter_mut().enumerate() {
        report.id = format!("r{rank:02}");
    }
    for (what, which) in steps {
        let rank = usize::from(*which) % replicas;
        let report = &mut own[rank];
        match what % 4 {
            0 => money.books.note(report, NOON),
            1 => known[rank] = money.clone(),
            // All at once, as it is every half second.
            2 if *which < 32 => {
                own.iter().for_each(|report| money.books.note(report, NOON));
                known.fill(money.clone());
            }
            _ => {
                let counted = known[rank].books.counted(&report.id, None);
                let uncounted = report.spent.total() - counted;
                let uncounted = Uncounted { account: uncounted, lane: uncounted };
                if known[rank].allows("default", price, uncounted, (replicas, rank), NOON) {
                    report.spent.note("default", "ImageToTextTask", price);
                    (report.seq, report.accepted) = (report.seq + 1, report.accepted + 1);
                }
            }
        }
    }
    let spent = own.iter().map(|report| report.spent.total()).sum();
    (spent, price)
}

proptest! {
    #[test]
    fn replicas_that_know_each_others_spending_late_stay_within_the_budget(
        replicas in 1_usize..9, steps in prop::collection::vec(any::<(u8, u8)>(), 0..4_000),
    ) {
        let (spent, price) = spend_all(replicas, "7.05", &steps);
        // Whose the last tasks are can be seen differently for as long as a report is late.
        let most = d("7.05") + price * Decimal::from(replicas - 1);
        prop_assert!(spent <= most, "{spent} of 7.05 by {replicas}");
    }
}

#[test]
fn a_budget_is_used_to_its_last_task() {
    let rounds: Vec<(u8, u8)> = (0..200).flat_map(|_| (0..8).map(|rank| (3, rank)).chain([(2, 0)])).collect();
    assert_eq!(spend_all(8, "7.05", &rounds).0, d("7.0"));
    assert_eq!(spend_all(1, "7.05", &rounds).0, d("7.0"));
}
