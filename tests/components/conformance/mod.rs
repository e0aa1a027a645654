//! What every broker behind the seam must do. Each behaviour is written once and run on each
//! broker, under names of its own.

mod consume;
mod dead_letter;
pub(crate) mod fixtures;
mod properties;
mod publish;
mod replies;
mod session;
mod sharing;
mod topology;

use std::time::Duration;

use captcha_worker::broker::amqp::{AmqpOptions, Connector};
use captcha_worker::broker::memory::MemoryBroker;
use captcha_worker::broker::sqlite::{IfMissing, SqliteBroker, SqliteOptions};
use captcha_worker::broker::{Broker, Session};
use captcha_worker::linger::Linger;
use captcha_worker::tls::TlsFiles;
use tempfile::TempDir;

/// The tests of one broker: the function `$broker` supplies it, with what is dropped after it;
/// `$paused` says whether all its time
/// is tokio's.
macro_rules! tests {
    ($broker:ident, $paused:tt: $($room:ident::$behaviour:ident,)*) => {
        mod $broker {
            $(
                #[tokio::test(start_paused = $paused)]
                async fn $behaviour() {
                    let (broker, _kept) = super::$broker().await;
                    crate::conformance::$room::$behaviour(broker, crate::conformance::fixtures::fresh_names()).await;
                }
            )*
        }
    };
}

/// Every behaviour, listed once, on a broker.
macro_rules! behaviours_on {
    ($broker:ident, paused = $paused:tt) => {
        tests! { $broker, $paused:
            topology::declaring_twice_is_the_same_as_once,
            topology::a_queue_that_exists_with_another_argument_is_named_with_it,
            topology::an_exchange_that_exists_with_another_kind_is_named,
            topology::a_lane_is_reached_by_its_keys_its_exchange_and_its_retry_queues,
            topology::check_finds_nothing_wrong_with_what_was_declared,
            topology::check_reports_what_is_missing_and_makes_nothing,
            topology::check_reports_what_differs_and_changes_nothing,
            topology::calls_on_a_queue_that_is_missing_name_it_and_leave_the_session_usable,
            publish::a_confirmed_message_is_in_every_bound_queue_once,
            publish::topic_patterns_decide_which_queues_take_a_message,
            publish::a_mandatory_message_that_no_queue_takes_is_unroutable,
            publish::a_message_that_no_queue_takes_and_that_is_not_mandatory_is_confirmed,
            publish::an_alternate_exchange_takes_what_no_queue_takes,
            publish::a_full_queue_refuses_and_takes_again_once_it_has_room,
            publish::many_publishes_at_once_each_get_their_own_fate,
            publish::a_missing_exchange_ends_the_session_and_is_named,
            properties::properties_and_headers_survive_verbatim,
            properties::bodies_survive_verbatim,
            properties::a_message_without_properties_has_none_when_it_arrives,
            consume::deliveries_come_in_the_order_of_publishing,
            consume::prefetch_bounds_unsettled_deliveries,
            consume::an_acked_message_is_gone,
            consume::what_was_acked_before_a_flush_does_not_come_back,
            consume::a_requeued_message_comes_again_as_redelivered_and_before_later_ones,
            consume::a_dropped_receipt_requeues,
            consume::closing_carries_out_earlier_settlements_and_returns_the_rest,
            consume::cancelling_stops_deliveries_and_keeps_receipts_valid,
            consume::a_dropped_consumer_gives_back_what_it_did_not_take,
            consume::get_takes_one_message_and_can_put_it_back,
            consume::depth_counts_what_is_ready_and_who_consumes,
            sharing::two_consumers_share_a_queue,
            sharing::a_second_consumer_of_a_single_active_queue_waits_for_the_first_to_go,
            sharing::subscribers_each_get_a_copy_of_what_is_published_from_then_on,
            dead_letter::a_rejected_message_is_dead_lettered_with_its_history,
            dead_letter::a_retried_message_goes_on_after_its_time,
            dead_letter::a_message_retried_twice_round_is_not_dropped,
            dead_letter::a_message_expires_only_at_the_head_of_its_queue,
            dead_letter::the_shorter_of_the_queues_time_and_the_messages_own_counts,
            dead_letter::a_message_that_comes_back_too_often_is_dead_lettered,
            dead_letter::a_rejected_message_whose_target_is_missing_is_not_delivered_again,
            dead_letter::deliveries_lost_with_their_channel_count_toward_the_limit,
            session::receipts_are_stale_once_their_session_has_ended,
            session::an_ended_session_says_so_and_does_nothing_more,
            session::closing_a_session_returns_what_it_held,
            session::dropping_a_session_returns_what_it_held,
            session::a_lease_holds_while_the_channel_lives_and_not_after,
            session::further_publishers_publish_on_their_own,
            replies::a_reply_reaches_who_asked_and_nobody_else,
            replies::several_replies_come_in_their_order,
            replies::a_request_that_no_queue_takes_is_unroutable,
            replies::a_reply_to_who_has_gone_is_dropped,
            replies::replies_end_with_their_session,
        }
    };
}

async fn local() -> (Broker, ()) {
    (Broker::Memory(MemoryBroker::new()), ())
}

// Paused: an await that nothing will answer fails at once.
behaviours_on!(local, paused = true);

/// The private node that `scripts/with-rabbitmq` has started.
async fn amqp() -> (Broker, ()) {
    let url = std::env::var("CAPTCHA_WORKER_TEST_AMQP")
        .expect("run this by `make test`, or under scripts/with-rabbitmq");
    let second = Duration::from_secs(1);
    let options = AmqpOptions {
        url: url.into(),
        tls: TlsFiles::default(),
        connect_timeout: 10 * second,
        call_timeout: 10 * second,
        confirm_timeout: 10 * second,
        heartbeat_secs: 10,
        connection_name: "conformance".to_owned(),
        publish_depth: 256,
        linger: Linger::none(),
    };
    (Broker::Amqp(Connector::new(options).expect("a URL that can be used")), ())
}

// Not paused: a socket's time is real.
behaviours_on!(amqp, paused = false);

/// A file of this process's own.
async fn sqlite() -> (Broker, TempDir) {
    let folder = TempDir::new().expect("a folder");
    (Broker::Sqlite(in_file(&folder)), folder)
}

/// A file that another connector has, as another process would.
async fn sqlite_of_another() -> (Broker, (SqliteBroker, Session, TempDir)) {
    let folder = TempDir::new().expect("a folder");
    let other = in_file(&folder);
    let session = other.connect().await.expect("the first session takes the file");
    (Broker::Sqlite(in_file(&folder)), (other, session, folder))
}

fn in_file(folder: &TempDir) -> SqliteBroker {
    let second = Duration::from_secs(1);
    SqliteBroker::new(SqliteOptions {
        path: folder.path().join("queue.db"),
        if_missing: IfMissing::Make,
        topology: None,
        connect_timeout: 10 * second,
        call_timeout: 10 * second,
        confirm_timeout: 10 * second,
        heartbeat: 10 * second,
        connection_name: "conformance".to_owned(),
        linger: Linger::none(),
    })
}

// Not paused: a thread writes the file.
behaviours_on!(sqlite, paused = false);
behaviours_on!(sqlite_of_another, paused = false);
