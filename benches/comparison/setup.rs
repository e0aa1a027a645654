//! What all runs share: the broker, and what candidates use before they have anything to do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::FutureExt;

use crate::candidate::Candidate;
use crate::figure::Figures;
use crate::load::Load;
use crate::machine::{self, Usage};
use crate::run::Run;
use crate::scene::{Case, Task};
use crate::{completion, simulator, wait};

/// What belongs to an earlier run should be over before one is measured: a broker goes on for a
/// while with what has been deleted.
const QUIET_WITHIN: Duration = Duration::from_secs(20);
const QUIET_LOOK: Duration = Duration::from_millis(500);
/// CPU time between two looks that is no work: heartbeats and timers.
const QUIET: Duration = Duration::from_millis(25);

/// A candidate with what its idle figures hang on: how much it may hold, and how many processes it
/// has.
type Idler = (Candidate, u32, usize, usize);

pub(crate) struct Setup {
    amqp: String,
    address: SocketAddr,
    broker: u32,
    client: reqwest::Client,
    folder: PathBuf,
    idle: BTreeMap<Idler, Usage>,
}

impl Setup {
    /// At a broker, if its process can be found on this machine.
    pub(crate) fn at(amqp: &str) -> Option<Self> {
        let (_, address) = amqp.rsplit_once('@')?;
        let address: SocketAddr = address.split('/').next()?.parse().ok()?;
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("comparison");
        let client = simulator::client();
        let broker = machine::broker(address.port())?;
        Some(Self { amqp: amqp.to_owned(), address, broker, client, folder, idle: BTreeMap::new() })
    }

    pub(crate) fn amqp(&self) -> &str {
        &self.amqp
    }

    pub(crate) fn broker_address(&self) -> SocketAddr {
        self.address
    }

    /// The broker's process.
    pub(crate) fn broker(&self) -> u32 {
        self.broker
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Where logs are left.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Plays one case; what breaks off has failed, with the reason.
    pub(crate) async fn play(&mut self, scene: &str, case: &Case, round: usize) -> Result<Figures, String> {
        let place = format!("{scene}/{}-{round}", case.label.replace([' ', ','], "-"));
        let playing = async {
            match &case.task {
                Task::Work(load) => self.work(scene, case.candidate, load, &place).await,
                Task::Start(load) => {
                    let run = Run::set(self, scene, case.candidate, load, self.folder.join(&place)).await;
                    let result = run.starts(self).await;
                    run.namespace.remove().await;
                    result
                }
            }
        };
        AssertUnwindSafe(playing)
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Err(completion::reason(panic.as_ref())))
    }

    /// Waits until these processes have nothing more to do, or for as long as that is worth.
    pub(crate) async fn quiet(&self, processes: &[u32]) {
        let mut last = None;
        wait::until_each(QUIET_LOOK, QUIET_WITHIN, async || {
            let now = machine::usage(processes).cpu;
            let before = last.replace(now)?;
            (now.saturating_sub(before) <= QUIET).then_some(())
        })
        .await;
    }

    async fn work(
        &mut self,
        scene: &str,
        candidate: Candidate,
        load: &Load,
        place: &str,
    ) -> Result<Figures, String> {
        let idle = match load.per_second {
            Some(_) => None,
            None => Some(self.idle(candidate, load).await?),
        };
        let run = Run::set(self, scene, candidate, load, self.folder.join(place)).await;
        let result = run.work(self, idle).await;
        run.namespace.remove().await;
        result
    }

    /// What the candidate uses until it waits for jobs, measured once.
    async fn idle(&mut self, candidate: Candidate, load: &Load) -> Result<Usage, String> {
        let lanes = load.further_lanes.len();
        let idler = (candidate, load.in_flight, load.replicas, lanes);
        if let Some(known) = self.idle.get(&idler) {
            return Ok(*known);
        }
        let folder = self.folder.join(format!(
            "idle/{}-{}-{}-{lanes}",
            candidate.name(),
            load.in_flight,
            load.replicas
        ));
        let run = Run::set(self, "idle", candidate, load, folder).await;
        let result = run.idle(self).await;
        run.namespace.remove().await;
        let idle = result?;
        self.idle.insert(idler, idle);
        Ok(idle)
    }
}
