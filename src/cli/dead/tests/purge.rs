use serde_json::json;

use super::*;

#[tokio::test]
async fn a_purge_removes_what_is_chosen_after_it_was_written_down() {
    let bench = Bench::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purged.ndjson");
    for n in 0..300 {
        bench.dead("invalid", &format!("i{n}"), if n < 200 { "A" } else { "B" }).await;
    }
    assert!(matches!(bench.run("purge --yes").await.ending, Err(CommandError::Usage(_))), "no filter");
    assert!(matches!(bench.run("purge --code a").await.ending, Err(CommandError::Usage(_))), "nobody to ask");
    let dry = bench.run("purge --code a --dry-run").await.json();
    assert_eq!((&dry["chosen"], &dry["removed"]), (&json!(200), &json!(0)));
    assert_eq!(bench.ids("c.dead.invalid").len(), 300);
    let report = bench.run(&format!("purge --code a --yes --to {}", path.display())).await.json();
    assert_eq!(report["removed"], 200);
    assert_eq!(bench.ids("c.dead.invalid"), numbered("i", 200..300));
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 200);
}
