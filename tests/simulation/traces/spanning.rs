use std::time::Duration;

use lapin::options::QueueDeleteOptions;
use lapin::{Connection, ConnectionProperties};
use serde_json::{Value, json};

use crate::support::fleet::{Process, Simulator};
use crate::support::jobs;
use crate::traces::collector::{Collector, Sent};
use crate::traces::namespace::Namespace;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PUBLISHERS: &str = "00f067aa0ba902b7";
const DRAIN: Duration = Duration::from_secs(30);

fn start(
    namespace: &Namespace,
    simulator: &Simulator,
    collector: &str,
    name: &str,
    more: &[(&str, &str)],
) -> Process {
    let mut settings = vec![
        ("TRACES__OTLP_ENDPOINT", collector),
        ("WORKER__NAME", name),
        // Unknown codes end their jobs at once.
        ("RETRY__UNKNOWN_TIMEOUT", "0s"),
    ];
    settings.extend(more);
    namespace.replica(simulator, &settings).start()
}

impl Collector {
    /// The span of an attempt of this replica, at what this queue delivers, that came to this end.
    async fn attempt(&self, worker: &str, queue: &str, end: &str) -> Sent {
        let is_it = |span: &Sent| {
            span.worker == worker
                && span.name.starts_with("process ")
                && span.name.ends_with(queue)
                && span.attributes.get("captcha.end").is_some_and(|is| is == end)
        };
        self.wait_for(&format!("{worker}, {queue}, {end}"), is_it).await
    }

    /// The span in which a message was sent for an attempt.
    async fn sent_for(&self, attempt: &Sent) -> Sent {
        let is_it = |span: &Sent| span.name.starts_with("send ") && span.parent == attempt.span_id;
        self.wait_for(&format!("a message for {}", attempt.name), is_it).await
    }
}

#[tokio::test]
async fn one_trace_spans_publisher_a_replica_that_submits_another_that_polls_and_the_consumer() {
    let mut namespace = Namespace::new("results").await;
    let (collector, simulator) = (Collector::start().await, Simulator::start("").await);
    let mut a = start(&namespace, &simulator, &collector.url, "a", &[]);
    let traceparent = format!("00-{TRACE}-{PUBLISHERS}-01");
    let job = jobs::image("one", &json!({"solve_ms": 6_000}));
    namespace.publish("one", job, &[("traceparent", &traceparent), ("tracestate", "shop=1")]).await;
    simulator.wait_for("a polls it", DRAIN, |stats| stats["calls"]["get_task_result"] == 1).await;
    assert_eq!(a.terminate(DRAIN).await, Some(0));
    // What a had to report went out before it left.
    let submitting = collector.attempt("a", ".jobs", "ticket").await;
    let leaving = collector.attempt("a", ".tickets", "handed over").await;

    let mut b = start(&namespace, &simulator, &collector.url, "b", &[]);
    let arrived = namespace.outcome("one").await;
    let solving = collector.attempt("b", ".tickets", "solved").await;
    let [ticket, next_ticket, outcome] = [
        collector.sent_for(&submitting).await,
        collector.sent_for(&leaving).await,
        collector.sent_for(&solving).await,
    ];
    assert_eq!((submitting.trace_id.as_str(), submitting.parent.as_str()), (TRACE, PUBLISHERS));
    assert_eq!((&*leaving.trace_id, &leaving.parent), (TRACE, &ticket.span_id));
    assert_eq!((&*solving.trace_id, &solving.parent), (TRACE, &next_ticket.span_id));
    assert_eq!((&*arrived.trace_id, &arrived.span_id), (TRACE, &outcome.span_id));
    assert_eq!((&*arrived.flags, arrived.tracestate.as_deref()), ("01", Some("shop=1")));
    assert_eq!(solving.state, "shop=1");
    for span in [&submitting, &leaving, &solving] {
        assert_eq!(span.attributes["captcha.job.id"], "one");
        assert!(!span.failed, "{span:?}");
    }
    let poll = |span: &Sent| span.name == "POST /getTaskResult" && span.parent == solving.span_id;
    collector.wait_for("b's poll", poll).await;
    let call = collector.wait_for("the call", |span| span.name == "POST /createTask").await;
    assert_eq!((&*call.trace_id, &call.parent, &*call.worker), (TRACE, &submitting.span_id, "a"));
    assert_eq!(b.terminate(DRAIN).await, Some(0));
    assert!(collector.spans().iter().all(|span| span.trace_id == TRACE), "{:#?}", collector.spans());
}

#[tokio::test]
async fn one_trace_goes_on_over_a_retry_and_a_replica_that_is_killed() {
    let mut namespace = Namespace::new("results").await;
    let (collector, simulator) = (Collector::start().await, Simulator::start("").await);
    let mut a = start(&namespace, &simulator, &collector.url, "a", &[]);
    let traceparent = format!("00-{TRACE}-{PUBLISHERS}-01");
    // Long enough for what a has to report to go out, which takes seconds, before it is killed.
    let script = json!({"create": ["ERROR_NO_SLOT_AVAILABLE", "ok"], "solve_ms": 20_000});
    namespace.publish("one", jobs::image("one", &script), &[("traceparent", &traceparent)]).await;
    let retried = collector.attempt("a", ".jobs", "retry").await;
    let submitting = collector.attempt("a", ".jobs", "ticket").await;
    let [copy, ticket] = [collector.sent_for(&retried).await, collector.sent_for(&submitting).await];
    a.kill().await;

    let mut b = start(&namespace, &simulator, &collector.url, "b", &[]);
    let arrived = namespace.outcome("one").await;
    let solving = collector.attempt("b", ".tickets", "solved").await;
    let outcome = collector.sent_for(&solving).await;
    assert_eq!(
        [&retried.parent, &submitting.parent, &solving.parent],
        [PUBLISHERS, &copy.span_id, &ticket.span_id]
    );
    assert_eq!((&*arrived.trace_id, &arrived.span_id), (TRACE, &outcome.span_id));
    assert_eq!(simulator.stats().await["accepted_tasks"], 1, "b asks for what a has paid for");
    assert_eq!(b.terminate(DRAIN).await, Some(0));
    assert!(collector.spans().iter().all(|span| span.trace_id == TRACE), "{:#?}", collector.spans());
}

#[tokio::test]
async fn a_retried_job_and_a_failed_one_stay_in_their_traces_and_the_publishers_word_is_kept() {
    let mut namespace = Namespace::new("dead.unknown").await;
    let (collector, simulator) = (Collector::start().await, Simulator::start("").await);
    let mut worker = start(&namespace, &simulator, &collector.url, "w", &[]);
    let script = json!({"create": ["ERROR_NO_SLOT_AVAILABLE", "ERROR_OF_NEXT_YEAR"]});
    let traceparent = format!("00-{TRACE}-{PUBLISHERS}-01");
    namespace.publish("retried", jobs::image("retried", &script), &[("traceparent", &traceparent)]).await;
    let arrived = namespace.outcome("retried").await;
    let retried = collector.attempt("w", ".jobs", "retry").await;
    let failed = collector.attempt("w", ".jobs", "failed").await;
    let [copy, outcome] = [collector.sent_for(&retried).await, collector.sent_for(&failed).await];
    assert_eq!(
        (&*retried.parent, &failed.parent, &arrived.span_id),
        (PUBLISHERS, &copy.span_id, &outcome.span_id)
    );
    let reported = ["captcha.class", "error.type"].map(|name| failed.attributes[name].as_str());
    assert_eq!((reported, failed.failed), ([Some("unknown"), Some("ERROR_OF_NEXT_YEAR")], true));

    // A publisher that does not record its trace is followed; and what is no traceparent is as
    // none: a trace begins.
    let script = json!({"create": ["ERROR_OF_NEXT_YEAR"]});
    let unrecorded = format!("00-{}-{PUBLISHERS}-00", "c".repeat(32));
    namespace
        .publish("unrecorded", jobs::image("unrecorded", &script), &[("traceparent", &unrecorded)])
        .await;
    let arrived = namespace.outcome("unrecorded").await;
    assert_eq!((arrived.trace_id, &*arrived.flags), ("c".repeat(32), "00"));
    for (id, headers) in
        [("odd", &[("traceparent", "00-nonsense"), ("tracestate", "x=1")][..]), ("none", &[])]
    {
        namespace.publish(id, jobs::image(id, &script), headers).await;
        let arrived = namespace.outcome(id).await;
        let begun =
            collector.wait_for(id, |span| span.attributes.get("captcha.job.id").is_some_and(|is| is == id));
        let begun = begun.await;
        assert_eq!((&begun.trace_id, &*begun.parent, arrived.tracestate), (&arrived.trace_id, "", None));
        let outcome = collector.sent_for(&begun).await;
        assert_eq!((outcome.span_id, &*arrived.flags), (arrived.span_id, "01"));
    }
    assert_eq!(worker.terminate(DRAIN).await, Some(0));
    assert!(!collector.spans().iter().any(|span| span.trace_id == "c".repeat(32)));
}

#[tokio::test]
async fn a_sample_ratio_of_nothing_records_only_what_publishers_record() {
    let mut namespace = Namespace::new("dead.unknown").await;
    let (collector, simulator) = (Collector::start().await, Simulator::start("").await);
    let mut worker = start(&namespace, &simulator, &collector.url, "w", &[("TRACES__SAMPLE_RATIO", "0")]);
    let script = json!({"create": ["ERROR_OF_NEXT_YEAR"]});
    namespace.publish("none", jobs::image("none", &script), &[]).await;
    assert_eq!(namespace.outcome("none").await.flags, "00", "the decision goes with the job");
    let traceparent = format!("00-{TRACE}-{PUBLISHERS}-01");
    namespace.publish("theirs", jobs::image("theirs", &script), &[("traceparent", &traceparent)]).await;
    namespace.outcome("theirs").await;
    assert_eq!(worker.terminate(DRAIN).await, Some(0));
    let spans = collector.spans();
    assert!(!spans.is_empty() && spans.iter().all(|span| span.trace_id == TRACE), "{spans:#?}");
}

#[tokio::test]
async fn an_attempt_and_its_messages_say_what_came_of_them_where_no_queue_takes_the_outcome() {
    let namespace = Namespace::new("dead.unknown").await;
    let (collector, simulator) = (Collector::start().await, Simulator::start("").await);
    let mut worker = start(&namespace, &simulator, &collector.url, "w", &[]);
    let delete = async |queue: &str| {
        let queue = format!("{}.{queue}", namespace.namespace);
        let connection = Connection::connect(namespace.rabbit.url(), ConnectionProperties::default()).await;
        let connection = connection.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("deleted");
    };
    let called = async |call: &str, times: u64| {
        let is_it = |span: &&Sent| span.name == format!("POST /{call}");
        let are_there = |spans: &[Sent]| spans.iter().filter(is_it).count() as u64 == times;
        collector.wait_until(call, |spans| are_there(spans).then_some(())).await;
    };
    // The worker has declared all queues before it takes a job, and again after each loss.
    let solve = async |id: &str, nth: u64| {
        namespace.publish(id, jobs::image(id, &json!({"solve_ms": 5_000})), &[]).await;
        called("createTask", nth).await;
        delete("results").await;
        delete("unrouted").await;
        let solved = |stats: &Value| stats["answered_ready"] == nth;
        let stats = simulator.wait_for("it is solved", DRAIN, solved).await;
        let polls = stats["calls"]["get_task_result"].as_u64().expect("a number");
        // The outcome is on its way from then on.
        called("getTaskResult", polls).await;
    };
    let why = |span: &Sent| span.attributes.get("error.type").and_then(|why| why.as_str()).map(str::to_owned);
    let sent_for = async |attempt: &Sent, to: &str| {
        let is_it = |span: &Sent| span.parent == attempt.span_id && span.name.ends_with(to);
        collector.wait_for(to, is_it).await
    };

    solve("returned", 1).await;
    delete("tickets").await;
    let returned = collector.attempt("w", ".tickets", "returned").await;
    assert_eq!((returned.failed, why(&returned)), (false, None));
    assert_eq!(why(&sent_for(&returned, ".outcomes").await).as_deref(), Some("stale"));

    solve("kept", 2).await;
    assert_eq!(worker.terminate(DRAIN).await, Some(0));
    let kept = collector.attempt("w", ".tickets", "kept").await;
    assert_eq!((kept.failed, why(&kept)), (false, None));
    assert_eq!(why(&sent_for(&kept, ".outcomes").await).as_deref(), Some("refused"));
    assert_eq!(why(&sent_for(&kept, ".tickets").await), None);
}
