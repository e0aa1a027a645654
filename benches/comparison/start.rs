//! How soon a fresh process takes its first job.

use std::time::Duration;

use crate::candidate::Ground;
use crate::figure::{Figure, Figures};
use crate::processes::Processes;
use crate::proxy::Proxy;
use crate::run::Run;
use crate::setup::Setup;
use crate::wait;

/// A start that takes longer has failed.
const WITHIN: Duration = Duration::from_secs(60);

impl Run {
    /// Twice: on a namespace that no replica has seen, so that nobody knows how the account stands,
    /// and once that is known.
    pub(crate) async fn starts(&self, setup: &Setup) -> Result<Figures, String> {
        let unknown = self.first_job(setup, self.load.jobs).await?;
        let known = self.first_job(setup, 2 * self.load.jobs).await?;
        let milliseconds = |span: Duration| span.as_secs_f64() * 1_000.0;
        Ok(Figures::from([
            (Figure::FirstJob, milliseconds(unknown)),
            (Figure::FirstJobAgain, milliseconds(known)),
        ]))
    }

    /// From the broker's handshake to the first of the jobs that wait; the process goes on until
    /// all results are there, and leaves.
    async fn first_job(&self, setup: &Setup, results: usize) -> Result<Duration, String> {
        self.namespace.feed(&self.load).await.publish(&self.load).await;
        setup.quiet(&[setup.broker()]).await;
        let proxy = Proxy::to(setup.broker_address(), &self.namespace.names().jobs()).await;
        let through = setup.amqp().replace(&setup.broker_address().to_string(), &proxy.address().to_string());
        let ground = Ground { amqp: through, ..self.ground.clone() };
        let processes = Processes::start(self.candidate, &ground, &self.load);
        let first = wait::until(WITHIN, async || proxy.first_job()).await.ok_or("takes no job")?;
        let all = wait::comes_true(WITHIN, async || self.namespace.results().await >= results).await;
        processes.leave(setup.client()).await?;
        if all { Ok(first) } else { Err("does not finish its jobs".to_owned()) }
    }
}
