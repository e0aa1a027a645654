//! How each fault is done, and fixed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::environment::{Environment, REPLICAS};
use crate::faults::{Fault, Harm, Schedule};
use crate::foreign::{call, is_ended_for_keeping};
use crate::relay::Relay;
use crate::report::Harness;
use crate::support::rabbit::RabbitNode;
use crate::wait;

/// What a consumer may hold unacked, shortened from the broker's half an hour; above the minute
/// that a worker holds an outcome.
pub(crate) const CONSUMER_TIMEOUT: Duration = Duration::from_secs(90);
/// How often the broker looks, shortened from a minute.
const CONSUMER_LOOK: Duration = Duration::from_secs(10);
const EMPTY_WITHIN: Duration = Duration::from_secs(30);
/// Of the consumer that keeps a message.
const KEPT: &str = "chaos-kept";
const MEMORY: &str = "1024MiB";

/// In force for channels that are opened from then on.
pub(crate) fn shorten_consumer_timeout(node: &RabbitNode) {
    block_in_place(|| node.shorten_consumer_timeout(CONSUMER_TIMEOUT, CONSUMER_LOOK));
}

/// Does it and fixes it.
pub(crate) async fn inject(
    harness: &Harness,
    fault: Fault,
    environment: &mut Environment,
    node: &mut RabbitNode,
    schedule: &mut Schedule,
) {
    match fault {
        Fault::Kill => kill(environment, schedule, fault.span()).await,
        Fault::Freeze => freeze(environment, schedule, fault.span()).await,
        Fault::Restart => restart(harness, environment).await,
        Fault::BrokerStop => block_in_place(|| {
            node.stop_app();
            node.start_app();
        }),
        Fault::BrokerKill => block_in_place(|| {
            node.sync_registry();
            node.restart();
        }),
        Fault::Broker(harm) => treat(&environment.broker, harm, fault.span()).await,
        Fault::Api(harm) => treat(&environment.api, harm, fault.span()).await,
        Fault::ChannelClosed => {
            call(&environment.amqp, "exchange_delete", &json!({"exchange": environment.names.outcomes()}))
                .await;
        }
        Fault::ConsumerCancelled => cancel_consumers(harness, environment, node).await,
        Fault::Alarm => alarm(node, fault.span()).await,
        Fault::Unbound => unbind(environment, fault.span()).await,
        Fault::Full => fill(harness, environment, node, fault.span()).await,
    }
    // A node that was started again has forgotten what was set while it ran.
    if fault == Fault::BrokerKill || fault == Fault::BrokerStop {
        shorten_consumer_timeout(node);
    }
}

async fn kill(environment: &mut Environment, schedule: &mut Schedule, span: Duration) {
    let victims = schedule.victims(REPLICAS - 1);
    for place in &victims {
        environment.fleet.kill(*place).await;
    }
    sleep(span).await;
    for place in victims {
        environment.fleet.start_again(place);
    }
}

async fn freeze(environment: &mut Environment, schedule: &mut Schedule, span: Duration) {
    let victims = schedule.victims(1);
    environment.fleet.signal(victims[0], "STOP").await;
    sleep(span).await;
    environment.fleet.signal(victims[0], "CONT").await;
}

async fn restart(harness: &Harness, environment: &mut Environment) {
    let bad = environment.roll().await;
    harness.check("a rolling restart in the storm: exit 0 each", listed(&bad), bad.is_empty());
}

/// What went wrong, or that nothing did.
pub(crate) fn listed(bad: &[String]) -> String {
    if bad.is_empty() { "so it is".to_owned() } else { bad.join(", ") }
}

async fn treat(relay: &Relay, harm: Harm, span: Duration) {
    relay.treat(harm.treatment());
    sleep(span).await;
    relay.treat(crate::relay::Treatment::Pass);
}

/// What is in the queue would be lost with it, so that it must be empty; then the workers declare
/// it again.
async fn cancel_consumers(harness: &Harness, environment: &Environment, node: &RabbitNode) {
    environment.publisher.hold(EMPTY_WITHIN).await;
    let jobs = environment.names.jobs();
    let empty = wait::comes_true(EMPTY_WITHIN, async || !filled(node).contains_key(&jobs)).await;
    if empty {
        call(&environment.amqp, "queue_delete", &json!({"queue": jobs})).await;
    } else {
        harness.note("consumers cancelled", "left out: the job queue did not get empty");
    }
    environment.publisher.go_on();
}

/// Queues with messages, those in somebody's hands included.
pub(crate) fn filled(node: &RabbitNode) -> BTreeMap<String, u64> {
    let listed = block_in_place(|| node.ctl(&["list_queues", "--silent", "name", "messages"]));
    let of_queue = |line: &str| {
        let (name, count) = line.split_once('\t')?;
        Some((name.to_owned(), count.trim().parse().ok()?))
    };
    listed.lines().filter_map(of_queue).filter(|(_, count)| *count > 0).collect()
}

async fn alarm(node: &RabbitNode, span: Duration) {
    let mark = |absolute: &str| {
        block_in_place(|| node.ctl(&["set_vm_memory_high_watermark", "absolute", absolute]));
    };
    mark("1MB");
    sleep(span).await;
    mark(MEMORY);
}

async fn unbind(environment: &Environment, span: Duration) {
    let names = &environment.names;
    let solved = json!({"queue": names.results(), "exchange": names.outcomes(), "routing_key": "solved.#"});
    let unrouted = json!({"queue": names.unrouted(), "exchange": names.unrouted(), "routing_key": ""});
    for binding in [&solved, &unrouted] {
        call(&environment.amqp, "queue_unbind", binding).await;
    }
    sleep(span).await;
    for binding in [&unrouted, &solved] {
        call(&environment.amqp, "queue_bind", binding).await;
    }
}

async fn fill(harness: &Harness, environment: &mut Environment, node: &RabbitNode, span: Duration) {
    environment.consumer.hold_results().await;
    let pattern = format!("^{}$", environment.names.results());
    let limit = |messages: u32| {
        let definition = format!("{{\"max-length\": {messages}}}");
        block_in_place(|| node.ctl(&["set_policy", "full", &pattern, &definition, "--apply-to", "queues"]));
    };
    limit(50);
    let ((), ended) = tokio::join!(sleep(span), is_ended_for_keeping(&environment.amqp, KEPT, span));
    call(&environment.amqp, "queue_delete", &json!({"queue": KEPT})).await;
    harness.check("meanwhile a consumer that keeps a message is ended by the broker", ended, ended);
    // Raised, not cleared: a quorum queue whose limit is taken away does not inform channels that
    // it takes messages again.
    limit(1_000_000);
    environment.consumer.take_results().await;
}
