//! What the policies of `deploy/rabbitmq/policies.sh` keep, and what not.

use std::collections::BTreeMap;
use std::time::Duration;

use captcha_worker::broker::topology::{Names, Topology};
use captcha_worker::broker::{PublishError, Session};
use tokio::time::interval;

use crate::security::broker::{Broker, NAMESPACE};
use crate::{message, within};

/// As many days as the broker counts in milliseconds.
const SECOND: &str = "0.0000116";

async fn ready(session: &Session, queue: &str) -> u64 {
    session.link().depth(queue).await.expect("the queue is there").ready
}

async fn wait_for(session: &Session, queue: &str, count: u64) {
    within(queue, async {
        let mut looks = interval(Duration::from_millis(50));
        while ready(session, queue).await != count {
            looks.tick().await;
        }
    })
    .await;
}

/// The policy that each queue is under, where there is one.
fn policies(broker: &Broker) -> BTreeMap<String, String> {
    let listed = broker.node.ctl(&["-q", "list_queues", "--no-table-headers", "name", "policy"]);
    listed
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(_, policy)| !policy.is_empty())
        .map(|(queue, policy)| (queue.to_owned(), policy.to_owned()))
        .collect()
}

async fn fill(session: &Session, exchange: &str, key: &str, count: usize) -> Result<(), PublishError> {
    for n in 0..count {
        session.publish(exchange, key, message(&n.to_string(), "kept or not")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_dead_letters_move_on_results_are_bounded_and_all_else_is_left_alone() {
    let (broker, names) = (Broker::start().await, Names::new(NAMESPACE));
    let session = broker.node.session().await;
    let outcomes = names.outcomes();
    for queue in [names.jobs(), names.tickets(), names.unrouted(), names.dead_raw()] {
        fill(&session, "", &queue, 2).await.unwrap();
    }
    broker.script("policies.sh", &[NAMESPACE], &[("RESULTS", "3"), ("DEAD_DAYS", SECOND)]);
    let under = policies(&broker);
    for queue in Topology::new(&names).queues {
        let short = queue.name.strip_prefix("lane.a.").unwrap();
        let expected = match short {
            "results" => Some("lane.a-results"),
            "dead.raw" => None,
            class if class.starts_with("dead.") => Some("lane.a-dead"),
            _ => None,
        };
        assert_eq!(under.get(&queue.name).map(String::as_str), expected, "{short}");
    }

    fill(&session, &outcomes, "dead.invalid.X", 4).await.unwrap();
    wait_for(&session, &names.dead_raw(), 6).await;
    wait_for(&session, "lane.a.dead.invalid", 0).await;
    // The broker takes one more than the bound, at most.
    let full = within("a refusal", fill(&session, &outcomes, "solved.X", 10)).await;
    assert_eq!(full, Err(PublishError::Rejected));
    let kept = ready(&session, &names.results()).await;
    assert!((3..=4).contains(&kept), "{kept}");
    for queue in [names.jobs(), names.tickets(), names.unrouted()] {
        assert_eq!(ready(&session, &queue).await, 2, "{queue}");
    }

    broker.script("policies.sh", &[NAMESPACE], &[("RESULTS", "30"), ("DEAD_DAYS", SECOND)]);
    fill(&session, &outcomes, "solved.X", 10).await.unwrap();
    broker.script("policies.sh", &[NAMESPACE, "--clear"], &[]);
    assert_eq!(policies(&broker), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discarded_dead_letters_are_gone_and_unrouted_outcomes_are_kept_as_long_as_they() {
    let (broker, names) = (Broker::start().await, Names::new(NAMESPACE));
    let session = broker.node.session().await;
    fill(&session, "", &names.jobs(), 2).await.unwrap();
    broker.script("policies.sh", &[NAMESPACE, "--discard"], &[("DEAD_DAYS", SECOND)]);
    fill(&session, &names.outcomes(), "dead.invalid.X", 3).await.unwrap();
    fill(&session, &names.outcomes(), "nobody.x", 3).await.unwrap();
    // Both are seen there on their way out, and nowhere in the end: not even where nobody can read
    // them.
    wait_for(&session, "lane.a.dead.invalid", 0).await;
    within("an empty broker", async {
        // Each look starts an Erlang of its own.
        let mut looks = interval(Duration::from_secs(1));
        while held(&broker).iter().any(|(queue, count)| queue != "lane.a.jobs" && *count > 0) {
            looks.tick().await;
        }
    })
    .await;
    assert_eq!(ready(&session, &names.jobs()).await, 2);

    // Back to keeping: what policies.sh alone does takes the discarding away.
    broker.script("policies.sh", &[NAMESPACE], &[]);
    let under = policies(&broker);
    assert!(!under.contains_key(&names.dead_raw()) && !under.contains_key(&names.unrouted()), "{under:?}");
    for arguments in [&["Lane"][..], &[NAMESPACE, "--other"]] {
        assert!(!broker.try_script("policies.sh", arguments, &[]).status.success(), "{arguments:?}");
    }
    for (key, value) in [("RESULTS", "0"), ("DEAD_DAYS", "50"), ("DEAD_DAYS", "x"), ("RAW", "1; true")] {
        assert!(!broker.try_script("policies.sh", &[NAMESPACE], &[(key, value)]).status.success(), "{key}");
    }
}

/// All that the broker holds, ready or not.
fn held(broker: &Broker) -> Vec<(String, u64)> {
    let listed = broker.node.ctl(&["-q", "list_queues", "--no-table-headers", "name", "messages"]);
    listed
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(queue, count)| (queue.to_owned(), count.parse().expect("a number")))
        .collect()
}
