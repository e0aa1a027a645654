use captcha_worker::domain::message::Properties;
use captcha_worker::domain::replay::Replayed;
use serde_json::{Value, json};

use crate::dead_letters::harness::Namespace;
use crate::support::either::{EitherBroker, on_both_brokers};
use crate::support::jobs;

on_both_brokers!(a_job_that_fails_again_carries_its_replays_through_ticket_and_retry_up_to_the_limit);

async fn a_job_that_fails_again_carries_its_replays_through_ticket_and_retry_up_to_the_limit(
    broker: EitherBroker,
) {
    let namespace = Namespace::new(broker, "[types.ImageToTextTask]\nsolve_ms = { fixed = 50 }\n").await;
    let _replica = namespace.working().await;
    // Retried once by each run, then accepted, polled and not recognised.
    let script = json!({"create": ["ERROR_NO_SLOT_AVAILABLE", "ok"], "result": ["ERROR_TOKEN_EXPIRED"]});
    namespace.publish(&jobs::image("stubborn", &script), Properties::default()).await;
    let mut before = None;
    for replays in 1..=3 {
        namespace.until("dead.expired", 1).await;
        let done = namespace.report(&["dead", "replay", "--class", "expired"]).await;
        assert_eq!(done["replayed"], 1, "{done}");
        namespace.until("dead.expired", 1).await;
        let letter = namespace.report(&["dead", "show", "stubborn", "--class", "expired"]).await;
        assert_eq!(letter["letter"]["replays"], replays, "{letter}");
        let id = letter["letter"]["replay_id"].as_str().expect("an id").to_owned();
        assert_eq!(letter["properties"]["headers"]["captcha-replay-id"], Value::from(&*id));
        assert_ne!(before.replace(id.clone()), Some(id), "each replay has an id of its own");
    }
    namespace.until("dead.expired", 1).await;
    let refused = namespace.report(&["dead", "replay", "--class", "expired"]).await;
    assert_eq!((&refused["replayed"], &refused["stay"]["max_replays"]), (&json!(0), &json!(1)), "{refused}");
    namespace.until("dead.expired", 1).await;
    let letters = namespace.take("dead.expired").await;
    assert_eq!(Replayed::of(&letters[0].properties.headers).expect("echoed").count, 3);
}
