use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::e2e::foreign;
use crate::support::fleet::{Replica, Simulator, amqp, declare};
use crate::support::jobs;
use crate::support::rabbit::fresh_namespace;

/// Scripts and the queue that each must end in. Jobs refused unpaid, or answered, are never
/// submitted twice.
fn recipes() -> Vec<(Value, &'static str)> {
    vec![
        (json!({}), "results"),
        (json!({}), "results"),
        (json!({}), "results"),
        (json!({"create": ["ERROR_NO_SLOT_AVAILABLE", "ok"]}), "results"),
        (json!({"result": ["processing", {"http": 502}, "ok"]}), "results"),
        (json!({"result": ["cut", "ok"]}), "results"),
        (json!({"create": ["ERROR_TASK_NOT_SUPPORTED"]}), "dead.invalid"),
        (json!({"create": ["ERROR_DOMAIN_NOT_ALLOWED"]}), "dead.forbidden"),
        (json!({"create": ["ERROR_PROXY_BANNED"]}), "dead.proxy"),
        (json!({"result": ["ERROR_TOKEN_EXPIRED"]}), "dead.expired"),
        (json!({"result": ["ERROR_CAPTCHA_UNSOLVABLE"]}), "dead.unsolved"),
        (json!({"result": ["ERROR_RECAPTCHA_INVALID_SITEKEY"]}), "dead.invalid"),
        (json!({"result": ["ERROR_OF_NEXT_YEAR"]}), "dead.unknown"),
    ]
}

#[tokio::test]
async fn two_replicas_share_two_thousand_jobs_and_each_ends_once_where_its_code_belongs() {
    let amqp = amqp();
    let namespace = fresh_namespace();
    let simulator = Simulator::start("balance = 1000.0\n").await;
    declare(&amqp, &namespace).await;
    let settings = [
        ("RETRY__MAX_RESUBMISSIONS", "0"),
        // An unknown code at a poll is asked for again until then.
        ("POLLING__ImageToTextTask__TIMEOUT", "20s"),
    ];
    let replica = Replica { amqp: &amqp, namespace: &namespace, simulator: &simulator, settings: &settings };
    let mut replicas = [replica.start(), replica.start()];

    let recipes = recipes();
    let (mut lines, mut wanted) = (Vec::new(), BTreeMap::new());
    for n in 0..2_000 {
        let (script, queue) = &recipes[n % recipes.len()];
        let id = format!("job-{n}");
        lines.push(jobs::image(&id, script));
        wanted.insert(id, vec![(*queue).to_owned()]);
    }
    let collecting = foreign::collect(&amqp, &namespace, lines.len(), 120);
    foreign::publish(&amqp, &namespace, &lines);
    let arrivals = tokio::task::spawn_blocking(|| collecting.finish()).await.expect("no panic");

    let ends = foreign::ends(&arrivals, &namespace);
    let astray: Vec<_> =
        wanted.iter().filter(|(id, queues)| ends.get(*id) != Some(*queues)).take(5).collect();
    assert!(astray.is_empty() && ends.len() == wanted.len(), "e.g. {astray:?}; {} ids ended", ends.len());
    let workers: std::collections::BTreeSet<_> =
        arrivals.iter().filter_map(|a| a.outcome.as_ref()?["worker"].as_str()).collect();
    assert_eq!(workers.len(), 2, "both replicas finished some: {workers:?}");
    assert!(arrivals.iter().all(|arrival| arrival.correlation_id.is_some()), "correlation ids are echoed");

    let stats = simulator.stats().await;
    assert_eq!(
        (&stats["early_polls"], &stats["polls_past_limit"], &stats["repeated_submissions"]),
        (&json!(0), &json!(0), &json!(0)),
        "{stats}"
    );
    for replica in &mut replicas {
        assert_eq!(replica.terminate(Duration::from_secs(30)).await, Some(0));
    }
}
