//! An API that answers with 1 GB, or with a byte a second: each call ends, memory is bounded, and
//! every job ends by its class.

use std::collections::BTreeSet;
use std::time::Duration;

use captcha_worker::solver::{CREATE_TASK, GET_TASK_RESULT};

use crate::memory::is_within_bound;
use crate::memory::namespace::{Ended, Ends, Namespace};
use crate::memory::server::{Answer, Server};
use crate::support::fleet;
use crate::support::rabbit::SharedRabbit;

const JOBS: usize = 32;
/// Such answers before the API is well again.
const ANSWERS: usize = 12;
const CALL: Duration = Duration::from_secs(2);
/// A call's end is seen by the other side a little later, on a crowded machine.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

const SETTINGS: [(&str, &str); 7] = [
    ("SOLVER__CONNECT_TIMEOUT", "1s"),
    ("SOLVER__REQUEST_TIMEOUT", "2s"),
    ("LOG__LEVEL", "off"),
    // Every job submits at once: all calls are under way together.
    ("WORKER__SUBMIT_CONCURRENCY", "64"),
    ("SOLVER__AMBIGUOUS_SUBMIT", "dead-letter"),
    ("RETRY__MAX_RESUBMISSIONS", "0"),
    // The windows of calls must not outlast the time-out of a test.
    ("POLLING__ImageToTextTask__TIMEOUT", "60s"),
];

/// An API that is well for one job, then answers a call so for a while, then is well again: each
/// call ends by its time-out, no job is lost, and what fails fails as `code` says.
async fn answers(call: &'static str, answer: Answer, code: &str) {
    let rabbit = SharedRabbit::get().await;
    let namespace = Namespace::declare(rabbit.url()).await;
    let server = Server::start(call, answer).await;
    let mut ends = Ends::of(&namespace).await;
    let mut worker = fleet::start(rabbit.url(), namespace.names.namespace(), &server.url, &SETTINGS);
    // The first submission of a fleet is made alone.
    server.set_well(true);
    namespace.job("first").await;
    assert_eq!(ends.next().await.how, "solved");
    server.set_well(false);
    let wanted: BTreeSet<String> = (0..JOBS).map(|n| format!("job-{n}")).collect();
    for id in &wanted {
        namespace.job(id).await;
    }
    server.begun(ANSWERS).await;
    server.set_well(true);
    let mut ended = BTreeSet::new();
    while ended.len() < wanted.len() {
        let Ended { id, how } = ends.next().await;
        assert!(how == "solved" || how == code, "{id} ended with {how}");
        ended.insert(id);
    }
    assert_eq!(ended, wanted, "nothing is lost");
    assert!(server.longest() < CALL + SEEN_WITHIN, "a call took {:?}", server.longest());
    is_within_bound(&worker, &format!("{answer:?} from {call}"));
    assert_eq!(worker.terminate(Duration::from_secs(30)).await, Some(0));
}

/// At the same time, since most of it is waiting: each with a replica, an API and a namespace of
/// its own.
async fn gigabytes(call: &'static str) {
    tokio::join!(
        Box::pin(answers(call, Answer::Announced, "REPLY_TOO_LONG")),
        Box::pin(answers(call, Answer::Chunked, "REPLY_TOO_LONG")),
        Box::pin(answers(call, Answer::Headers, "CONNECTION_CUT")),
    );
}

async fn bytes_a_second(call: &'static str) {
    tokio::join!(
        Box::pin(answers(call, Answer::SlowBody, "CALL_TIMED_OUT")),
        Box::pin(answers(call, Answer::SlowChunks, "CALL_TIMED_OUT")),
        Box::pin(answers(call, Answer::SlowHeaders, "CALL_TIMED_OUT")),
    );
}

#[tokio::test]
async fn a_gigabyte_instead_of_a_task_is_not_read() {
    gigabytes(CREATE_TASK).await;
}

#[tokio::test]
async fn a_task_sent_a_byte_a_second_is_given_up_in_time() {
    bytes_a_second(CREATE_TASK).await;
}

#[tokio::test]
async fn a_gigabyte_instead_of_a_result_is_not_read() {
    gigabytes(GET_TASK_RESULT).await;
}

#[tokio::test]
async fn a_result_sent_a_byte_a_second_is_given_up_in_time() {
    bytes_a_second(GET_TASK_RESULT).await;
}
