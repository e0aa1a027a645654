//! How soon a fresh process takes its first job.

use std::time::Duration;

use crate::arena::Arena;
use crate::bout::Bout;
use crate::contender::Ground;
use crate::crew::Crew;
use crate::figure::{Figure, Figures};
use crate::patience;
use crate::tap::Tap;

/// A start that takes longer has failed.
const WITHIN: Duration = Duration::from_secs(60);

impl Bout {
    /// Twice: on a namespace that no replica has seen, so that nobody knows how the account stands, and once that is known.
    pub(crate) async fn starts(&self, arena: &Arena) -> Result<Figures, String> {
        let unknown = self.first_job(arena, self.load.jobs).await?;
        let known = self.first_job(arena, 2 * self.load.jobs).await?;
        let milliseconds = |span: Duration| span.as_secs_f64() * 1_000.0;
        Ok(Figures::from([
            (Figure::FirstJob, milliseconds(unknown)),
            (Figure::FirstJobAgain, milliseconds(known)),
        ]))
    }

    /// From the broker's handshake to the first of the jobs that wait; the process goes on until all results are there, and leaves.
    async fn first_job(&self, arena: &Arena, results: usize) -> Result<Duration, String> {
        self.lane.feed(&self.load).await.publish(&self.load).await;
        arena.quiet(&[arena.broker()]).await;
        let tap = Tap::to(arena.broker_address(), &self.lane.names().jobs()).await;
        let through = arena.amqp().replace(&arena.broker_address().to_string(), &tap.address().to_string());
        let ground = Ground { amqp: through, ..self.ground.clone() };
        let crew = Crew::start(self.contender, &ground, &self.load);
        let first = patience::until(WITHIN, async || tap.first_job()).await.ok_or("takes no job")?;
        let all = patience::comes_true(WITHIN, async || self.lane.results().await >= results).await;
        crew.leave(arena.client()).await?;
        if all { Ok(first) } else { Err("does not finish its jobs".to_owned()) }
    }
}
