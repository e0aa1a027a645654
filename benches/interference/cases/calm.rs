//! The calm run: as many fleets as will be under load later, and nothing wrong.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::environment::Environment;
use crate::ledger::{Entry, Latency};
use crate::load::pictures;
use crate::row::Row;
use crate::scene::{PER_SECOND, Scene, Setup};

const FINISH_WITHIN: Duration = Duration::from_secs(30);

pub(crate) async fn run(environment: Arc<Environment>) -> Vec<Row> {
    let mut row = Row::new("calm", format!("{PER_SECOND} jobs/s, {} fleets at a time", environment.lanes));
    row.latency(environment.calm().await);
    environment.say(row.case(), row.summary());
    vec![row]
}

/// What jobs take where nothing is wrong.
pub(crate) async fn measure(environment: &Environment) -> Latency {
    let scenes = (0..environment.lanes).map(|lane| async move {
        let scene = Scene::open(environment, &format!("calm {lane}"), Setup::default()).await;
        let load = scene.publisher.offer(&scene.ledger, pictures("calm."), PER_SECOND);
        tokio::time::sleep(environment.lengths.window).await;
        load.stop().await;
        assert!(scene.ledger.finish("calm.", true, FINISH_WITHIN).await, "the jobs of the calm run end");
        let entries = scene.ledger.entries("calm.");
        let mut row = Row::new("calm", "calm");
        row.jobs(&entries);
        row.dead_at_most(0);
        scene.close(&mut row).await;
        assert!(!row.is_broken(), "the calm run is not calm: {}", row.summary());
        entries
    });
    let entries: Vec<Entry> = join_all(scenes).await.into_iter().flatten().collect();
    Latency::of(&entries)
}
