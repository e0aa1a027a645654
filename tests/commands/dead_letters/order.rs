use std::time::Duration;

use captcha_worker::domain::message::Properties;
use serde_json::json;

use crate::dead_letters::harness::{Namespace, id};
use crate::support::either::{EitherBroker, on_both_brokers};
use crate::support::jobs;

/// More than one channel of a scan holds, three times.
const LETTERS: usize = 450;

on_both_brokers!(
    what_is_looked_at_or_not_chosen_stays_where_it_was_and_in_order,
    jobs_that_their_publisher_let_expire_are_found_in_raw_and_run_again
);

async fn what_is_looked_at_or_not_chosen_stays_where_it_was_and_in_order(broker: EitherBroker) {
    let namespace = Namespace::new(broker, "").await;
    for n in 0..LETTERS {
        let code = if n % 10 == 3 { "ODD" } else { "EVEN" };
        namespace.dead("lost", &format!("{n}"), code, &jobs::image("a", &json!({}))).await;
    }
    let report = namespace.report(&["dead", "list", "--class", "lost", "--scan", "400"]).await;
    assert_eq!((&report["scanned"], &report["not_scanned"]), (&json!(400), &json!(50)), "{report}");
    namespace.until("dead.lost", LETTERS as u64).await;
    let dry = namespace.report(&["dead", "replay", "--class", "lost", "--dry-run"]).await;
    assert_eq!((&dry["chosen"], &dry["replayed"]), (&json!(LETTERS), &json!(0)), "{dry}");
    namespace.until("dead.lost", LETTERS as u64).await;
    let purged = namespace.report(&["dead", "purge", "--class", "lost", "--code", "ODD", "--yes"]).await;
    assert_eq!(purged["removed"], 45, "{purged}");
    namespace.until("dead.lost", 405).await;
    let kept: Vec<String> = namespace.take("dead.lost").await.iter().map(id).collect();
    let expected: Vec<String> = (0..LETTERS).filter(|n| n % 10 != 3).map(|n| n.to_string()).collect();
    assert_eq!(kept, expected);
    assert_eq!(namespace.ready("jobs").await, 0);
}

async fn jobs_that_their_publisher_let_expire_are_found_in_raw_and_run_again(broker: EitherBroker) {
    let namespace = Namespace::new(broker, "").await;
    for n in 0..20 {
        let expiring = Properties {
            expiration: Some("1".to_owned()),
            message_id: Some(format!("late-{n}")),
            correlation_id: Some("c-1".to_owned()),
            ..Properties::default()
        };
        namespace.publish(&jobs::image(&format!("late-{n}"), &json!({})), expiring).await;
    }
    namespace.until("dead.raw", 20).await;
    let report = namespace.report(&["dead", "list", "--class", "raw"]).await;
    let kind = &report["kinds"][0];
    assert_eq!(
        (&kind["class"], &kind["code"], &kind["count"]),
        (&json!("raw"), &json!("expired"), &json!(20))
    );
    assert!(kind["newest_age_s"].as_u64().unwrap() < 60, "{kind}");
    let shown = namespace.report(&["dead", "show", "late-7"]).await;
    assert_eq!(shown["x_death"][0]["reason"], "expired", "{shown}");
    namespace.until("dead.raw", 20).await;

    let _replica = namespace.working().await;
    let done =
        namespace.report(&["dead", "replay", "--class", "raw", "--code", "expired", "--since", "1h"]).await;
    assert_eq!(done["replayed"], 20, "{done}");
    namespace.until("results", 20).await;
    let outcomes = namespace.take("results").await;
    assert_eq!(crate::dead_letters::harness::marks(&outcomes).len(), 20);
    assert!(outcomes.iter().all(|outcome| outcome.properties.correlation_id.as_deref() == Some("c-1")));
    assert_eq!(namespace.ready("dead.raw").await, 0);
    tokio::time::timeout(Duration::from_secs(5), namespace.session.link().close()).await.expect("closed");
}
