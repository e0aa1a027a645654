//! Some 1,500 seeded histories of the whole worker, its fleet and its guard on paused time; and
//! deliberate faults, to show that they would be found. `make soak` plays more of them.

use crate::history::{
    self,
    sweep::{describe, sweep},
};

#[test]
fn fifteen_hundred_histories_break_no_promise() {
    let swept = sweep(1..1_501, None, None);
    println!("{} histories: {:?}", swept.played, swept.counts);
    if let Some(failure) = swept.failure {
        panic!("{}", describe(&failure, None));
    }
}

#[test]
fn a_seed_is_a_history() {
    for seed in 1..40 {
        let (once, again) = (history::play(seed, true), history::play(seed, true));
        assert_eq!(once.chronicle, again.chronicle, "seed {seed}");
        assert_eq!(once, again);
    }
}

/// One test for each deliberate fault.
#[cfg(feature = "failpoints")]
mod failpoints {
    use captcha_worker::failpoint::Failpoint;

    use crate::history::sweep::sweep;

    /// Seeds within which each must be found.
    const WITHIN: u64 = 2_000;

    macro_rules! found {
        ($($name:ident: $failpoint:ident,)+) => {
            $(#[test]
            fn $name() {
                let swept = sweep(1..WITHIN + 1, None, Some(Failpoint::$failpoint));
                let failure = swept.failure.expect("it is found");
                println!("{}: seed {}: {}", stringify!($failpoint), failure.seed, failure.verdict.broken[0]);
            })+

            #[test]
            fn every_failpoint_has_a_test() {
                assert_eq!([$(Failpoint::$failpoint),+], Failpoint::ALL);
            }
        };
    }

    found! {
        a_job_acked_before_its_ticket_is_confirmed: AckBeforeConfirm,
        a_job_acked_without_a_ticket: TicketSkipped,
        a_ticket_given_up_after_a_lost_confirm: TicketGivenUp,
        a_delivery_settled_twice: SettledTwice,
        a_lease_that_nobody_looks_at: LeaseIgnored,
        a_redelivery_taken_for_a_first_delivery: RedeliveryUnnoticed,
        a_ticket_whose_age_is_forgotten: AgeForgotten,
        a_job_acked_before_it_is_retried: AckBeforeRetried,
        a_refused_publish_taken_for_confirmed: RefusedIsConfirmed,
        a_deadline_that_nobody_looks_at: DeadlineIgnored,
        a_spacing_of_half_the_length: SpacingHalved,
        a_history_forgotten_when_a_job_is_retried: HistoryForgotten,
        a_place_that_is_not_given_back: PassLeaked,
        a_permit_that_nobody_looks_at: PermitIgnored,
        a_guard_forgotten_by_the_next_leader: GuardForgotten,
        a_record_acked_before_its_successor_is_written: RecordAckedFirst,
        a_drain_that_does_not_wait: DrainHurried,
        wrong_ids_that_are_counted_whatever_their_share: CountedWrongIds,
        a_budget_that_runs_on_while_nothing_may_be_called: BudgetRunsOn,
        a_budget_of_money_that_nobody_looks_at: BudgetIgnored,
        spending_that_is_not_reported: SpendingUnreported,
        a_lane_that_starves: LightLanesStarve,
        a_publisher_whose_jobs_count_twice: PublisherCountedTwice,
        a_time_out_that_runs_on_while_nothing_may_be_asked: TimeoutRunsOn,
        an_unknown_code_that_ends_its_job_at_once: UnknownIsFinal,
        an_age_that_follows_the_wall_clock: WallClockAges,
        a_ticket_that_is_handed_over_too_early: HandedOverEarly,
        a_confirm_before_its_batch_is_stored: ConfirmBeforeStored,
        a_delivery_before_it_is_stored_that_it_left: DeliveryBeforeStored,
    }
}
