use serde_json::json;

use super::*;

#[tokio::test]
async fn a_replay_publishes_what_is_chosen_and_leaves_the_rest_in_order() {
    let bench = Bench::new().await;
    for n in 0..400 {
        bench.dead("capacity", &format!("c{n}"), if n % 2 == 0 { "EVEN" } else { "ODD" }).await;
    }
    let dry = bench.run("replay --class capacity --code odd --dry-run").await.json();
    assert_eq!((&dry["chosen"], &dry["replayed"], &dry["left_out"]), (&json!(200), &json!(0), &json!(200)));
    assert_eq!((bench.ids("c.jobs"), bench.ids("c.dead.capacity")), (vec![], numbered("c", 0..400)));

    let done = bench.run("replay --class capacity --code odd --limit 150").await.json();
    assert_eq!(done["replayed"], 150);
    assert_eq!(bench.ids("c.jobs"), numbered("c", (1..300).step_by(2)));
    let rest: Vec<String> = numbered("c", (0..400).filter(|n| n % 2 == 0 || *n >= 300));
    assert_eq!(bench.ids("c.dead.capacity"), rest);
    let done = bench.run("replay --class capacity --code odd").await;
    assert_eq!((done.json()["replayed"].clone(), done.ending.unwrap()), (json!(50), Exit::Fine));
    assert_eq!(bench.ids("c.dead.capacity"), numbered("c", (0..400).step_by(2)));
    let jobs = bench.local.snapshot("c.jobs");
    let ids: std::collections::BTreeSet<String> = jobs
        .iter()
        .map(|job| Replayed::of(&job.properties.headers).unwrap())
        .map(|replay| replay.id)
        .collect();
    assert_eq!(ids.len(), 200, "each has an id of its own");
    assert_eq!(
        jobs[0].body,
        json!({"id": "c1", "task": {"type": "T", "proxyPassword": "s3cret"}}).to_string()
    );
}

#[tokio::test]
async fn what_had_better_stay_is_counted_by_reason() {
    let bench = Bench::new().await;
    let job = json!({"task": {"type": "T"}});
    let late = json!({"task": {"type": "T"}, "deadline": "2020-01-01T00:00:00Z"});
    bench.dead_with("lost", "often", "A", job.clone(), 3).await;
    bench.dead_with("lost", "twice", "A", job, 2).await;
    bench.dead_with("lost", "late", "A", late, 0).await;
    let report = bench.run("replay --class lost").await.json();
    assert_eq!(
        (&report["replayed"], &report["stay"]["max_replays"], &report["stay"]["deadline_passed"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!(
        (bench.ids("c.jobs"), bench.ids("c.dead.lost")),
        (vec!["twice".to_owned()], vec!["often".to_owned(), "late".to_owned()])
    );
    assert_eq!(Replayed::of(&bench.local.snapshot("c.jobs")[0].properties.headers).unwrap().count, 3);
}

#[tokio::test]
async fn a_job_that_no_queue_takes_keeps_its_letter() {
    let bench =
        Bench::without(|topology| topology.bindings.retain(|binding| binding.queue != "c.jobs")).await;
    bench.dead("lost", "a", "A").await;
    let result = bench.run("replay --class lost").await;
    assert!(matches!(result.ending, Err(CommandError::Failed(_))), "{:?}", result.ending);
    assert_eq!(bench.ids("c.dead.lost"), ["a"]);
}

#[tokio::test]
async fn a_replay_that_is_stopped_leaves_everything() {
    let bench = Bench::new().await;
    bench.dead("lost", "a", "A").await;
    bench.stop.cancel();
    let result = bench.run("replay --class lost").await;
    assert_eq!(result.json()["stopped"], "interrupted");
    assert_eq!(result.ending.unwrap(), Exit::Failed);
    assert_eq!((bench.ids("c.jobs"), bench.ids("c.dead.lost")), (vec![], vec!["a".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_slow_rate_ends_with_its_scan_and_the_letter_it_holds_stays() {
    let bench = Bench::new().await;
    for n in 0..5 {
        bench.dead("lost", &format!("l{n}"), "A").await;
    }
    let began = tokio::time::Instant::now();
    let result = bench.run("replay --class lost --rate 7/h").await;
    assert!(began.elapsed() < std::time::Duration::from_secs(21 * 60), "{:?}", began.elapsed());
    assert_eq!((&result.json()["replayed"], &result.json()["took_too_long"]), (&json!(3), &json!(true)));
    assert_eq!(result.ending.unwrap(), Exit::Failed);
    assert_eq!((bench.ids("c.jobs"), bench.ids("c.dead.lost")), (numbered("l", 0..3), numbered("l", 3..5)));
}

#[tokio::test]
async fn of_copies_of_a_letter_and_of_what_one_replay_has_become_twice_one_is_published() {
    let bench = Bench::new().await;
    for class in ["lost", "lost", "proxy"] {
        let job = json!({"task": {"type": "T"}});
        bench.dead_with(class, "copied", "A", job.clone(), 0).await;
        bench.dead_with(class, "again", class, job, 1).await;
    }
    bench.dead("lost", "other", "A").await;
    for dry in [" --dry-run", ""] {
        let result = bench.run(&format!("replay --all{dry}")).await;
        // The copy in another class's queue differs, so it does not count as a copy.
        let counts = (result.json()["chosen"].clone(), result.json()["stay"]["repeated"].clone());
        assert_eq!(counts, (json!(4), json!(3)));
    }
    assert_eq!(bench.ids("c.jobs"), ["copied", "again", "other", "copied"]);
    assert_eq!(bench.ids("c.dead.lost"), ["copied", "again"]);
    assert_eq!(bench.ids("c.dead.proxy"), ["again"]);
}

#[tokio::test]
async fn what_its_publisher_let_expire_is_replayed_where_it_is_meant_by_name_alone() {
    let bench = Bench::new().await;
    let job = r#"{"task":{"type":"T"}}"#;
    bench.raw("late", "expired", job).await;
    bench.raw("bad", "delivery_limit", job).await;
    let report = bench.run("replay --all").await.json();
    assert_eq!((&report["replayed"], &report["stay"]["expired"]), (&json!(1), &json!(1)));
    assert_eq!(
        (bench.ids("c.jobs"), bench.ids("c.dead.raw")),
        (vec!["bad".to_owned()], vec!["late".to_owned()])
    );
    let report = bench.run("replay --code EXPIRED").await.json();
    assert_eq!(report["replayed"], 1);
    assert!(bench.ids("c.dead.raw").is_empty());
}
