//! A share of the tasks is lost, as services lose some every day.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::Case;
use crate::environment::Environment;
use crate::load::{pictures, with_trouble};
use crate::row::Row;
use crate::scene::{Scene, Setup};
use crate::wait;

const PER_SECOND: u32 = 100;
/// Of the time that the same jobs take on a calm day.
const LONGER: f64 = 1.1;
/// Several times what is allowed.
const FINISH_WITHIN: Duration = Duration::from_secs(120);

pub(super) async fn run(environment: Arc<Environment>, cases: Vec<Case>) -> Vec<Row> {
    let (calm_row, calm) = play(&environment, None, None).await;
    let mut rows = vec![calm_row];
    for case in cases {
        let Case::Lost { share } = case else { continue };
        rows.push(play(&environment, Some(share), Some(calm)).await.0);
    }
    rows
}

/// One after another, since 100 jobs a second are what two lanes have together.
async fn play(environment: &Environment, share: Option<f64>, calm: Option<Duration>) -> (Row, Duration) {
    let name = share.map_or_else(|| "calm, 100 jobs/s".to_owned(), |share| Case::Lost { share }.name());
    let mut row = Row::new("lost", name);
    let scene = Scene::open(environment, row.case(), Setup::default()).await;
    let count = PER_SECOND as usize * environment.lengths.lost.as_secs() as usize;
    let began = Instant::now();
    let load = match share {
        None => scene.publisher.offer(&scene.ledger, pictures("j.").take(count), PER_SECOND),
        Some(share) => {
            let script = json!({"result": ["forget"], "submissions": 1});
            let jobs = with_trouble("j.", (1.0 / share).round() as usize, &script);
            scene.publisher.offer(&scene.ledger, jobs.take(count), PER_SECOND)
        }
    };
    load.finished().await;
    scene.ledger.finish("j.", true, FINISH_WITHIN).await;
    let took = began.elapsed();
    let entries = scene.ledger.entries("j.");
    let lost = entries.iter().filter(|entry| entry.hit).count() as u64;
    row.jobs(&entries);
    row.dead_at_most(0);
    row.trips(&scene.watch.trips(began, Instant::now()), false);
    let dead = entries.iter().filter(|entry| entry.is_dead()).count();
    row.at_most("lost tasks' jobs dead", dead as u64, 0);
    let stats = scene.simulator.stats().await;
    let exactly = |row: &mut Row, what: &str, measured: u64| {
        row.bound(format_args!("{what}: {measured}, not {lost}"), measured == lost);
    };
    exactly(&mut row, "wrong-id calls", stats.wrong_id_calls);
    exactly(&mut row, "submitted once more", stats.repeated_submissions);
    row.at_most("bans", stats.bans, 0);
    row.note(format_args!("{count} jobs, {lost} tasks lost, all ended after {}", wait::seconds(took)));
    if let Some(calm) = calm {
        let most = calm.mul_f64(LONGER);
        row.bound(
            format_args!("all ended after {} > {}", wait::seconds(took), wait::seconds(most)),
            took <= most,
        );
    }
    scene.close(&mut row).await;
    environment.say(row.case(), row.summary());
    (row, took)
}
