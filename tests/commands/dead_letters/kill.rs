use std::collections::BTreeSet;

use serde_json::json;

use crate::dead_letters::harness::{Namespace, TIMEOUT, id, marks};
use crate::support::either::{EitherBroker, on_both_brokers};
use crate::support::jobs;

const LETTERS: usize = 600;
/// What an end at any moment may repeat.
const MOST_REPEATED: usize = 32;

on_both_brokers!(a_replay_killed_again_and_again_loses_nothing_repeats_few_and_leaves_what_it_did_not_choose);

async fn a_replay_killed_again_and_again_loses_nothing_repeats_few_and_leaves_what_it_did_not_choose(
    broker: EitherBroker,
) {
    let namespace = Namespace::new(broker, "[types.ImageToTextTask]\nsolve_ms = { fixed = 100 }\n").await;
    let mut replica = namespace.working().await;
    for n in 0..LETTERS {
        let (chosen, id) = (n % 3 != 0, format!("job-{n}"));
        let code = if chosen { "ERROR_NO_SLOT_AVAILABLE" } else { "TYPE_CAP_REACHED" };
        namespace.dead("capacity", &id, code, &jobs::image(&id, &json!({}))).await;
    }
    let chosen: BTreeSet<String> = (0..LETTERS).filter(|n| n % 3 != 0).map(|n| format!("job-{n}")).collect();
    let command = ["dead", "replay", "--class", "capacity", "--code", "ERROR_NO_SLOT_AVAILABLE"];
    let mut kills = 0;
    // Without a rate everything is as close together as it gets; with one the kill comes between
    // two letters.
    for (rate, published) in [("", 40), ("300/s", 120), ("", 200), ("500/s", 300)] {
        let mut arguments = command.to_vec();
        if !rate.is_empty() {
            arguments.extend(["--rate", rate]);
        }
        let mut doomed = namespace.start(&arguments);
        let accepted = |stats: &serde_json::Value| stats["accepted_tasks"].as_u64().unwrap_or(0);
        namespace
            .simulator
            .wait_for("some were published", TIMEOUT, |stats| accepted(stats) >= published)
            .await;
        if doomed.try_wait().expect("its state").is_none() {
            doomed.kill().await.expect("killed");
            kills += 1;
        }
        namespace.until("jobs", 0).await;
    }
    let last = namespace.report(&command).await;
    assert_eq!(last["left_out"], 200, "{last}");
    assert_eq!(namespace.report(&command).await["chosen"], 0, "nothing chosen is left");

    namespace
        .simulator
        .wait_for("all are taken", TIMEOUT, |stats| {
            stats["accepted_tasks"].as_u64().unwrap_or(0) > chosen.len() as u64
        })
        .await;
    // Whatever it has not finished goes back, and counts as well.
    assert_eq!(replica.terminate(TIMEOUT).await, Some(0));
    let mut outcomes = Vec::new();
    for queue in ["results", "jobs", "tickets"] {
        outcomes.extend(namespace.take(queue).await);
    }
    assert_eq!(outcomes.iter().map(id).collect::<BTreeSet<_>>(), chosen);
    let marks = marks(&outcomes);
    assert_eq!(marks.len(), chosen.len(), "a letter has one replay id, however often it was published");
    let repeated: usize = marks.values().map(|times| times - 1).sum();
    println!("{kills} kills, {repeated} of {} jobs repeated", chosen.len());
    assert!(kills >= 2, "the kills came too late");
    assert!(repeated <= kills * MOST_REPEATED, "{repeated} repeated by {kills} kills");
    let kept: Vec<String> = namespace.take("dead.capacity").await.iter().map(id).collect();
    let expected: BTreeSet<String> = (0..LETTERS).step_by(3).map(|n| format!("job-{n}")).collect();
    assert_eq!((kept.len(), kept.into_iter().collect::<BTreeSet<_>>()), (200, expected));
}
