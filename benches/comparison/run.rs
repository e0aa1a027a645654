//! One run of one candidate: its own namespace and simulator, what it costs from the first job to
//! the last result, and whether it was right.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::candidate::{Candidate, Ground};
use crate::figure::{Figure, Figures};
use crate::lateness::Lateness;
use crate::load::Load;
use crate::machine::Usage;
use crate::namespace::Namespace;
use crate::processes::Processes;
use crate::setup::Setup;
use crate::simulator::{Simulator, Stats};
use crate::wait;

/// Between two looks at how far it is: short against any run, long against what a look costs.
const LOOK: Duration = Duration::from_millis(100);
/// Interpreters start in seconds on a busy machine.
const CONSUMES_WITHIN: Duration = Duration::from_secs(60);

/// A run's surroundings.
pub(crate) struct Run {
    pub(crate) candidate: Candidate,
    pub(crate) load: Load,
    pub(crate) namespace: Namespace,
    pub(crate) simulator: Simulator,
    pub(crate) ground: Ground,
    broker: u32,
}

/// CPU time at one moment.
struct Costs {
    worker: Duration,
    broker: Duration,
    simulator: Duration,
}

/// How a run went.
#[derive(Default)]
struct Course {
    began: Option<Instant>,
    took: Duration,
    most_open: u64,
}

impl Run {
    pub(crate) async fn set(
        setup: &Setup,
        scene: &str,
        candidate: Candidate,
        load: &Load,
        folder: PathBuf,
    ) -> Self {
        std::fs::create_dir_all(&folder).expect("the target folder is writable");
        let simulator = Simulator::start(&folder, &load.scenario()).await;
        let namespace = Namespace::declare(setup.amqp(), scene, &folder, candidate, load).await;
        let (amqp, api, names) =
            (setup.amqp().to_owned(), simulator.url().to_owned(), namespace.names().clone());
        let ground = Ground { amqp, api, names, folder, under: Vec::new() };
        Self { candidate, load: *load, namespace, simulator, ground, broker: setup.broker() }
    }

    /// What the candidate has used when it waits for jobs.
    pub(crate) async fn idle(&self, setup: &Setup) -> Result<Usage, String> {
        let mut processes = self.start();
        self.consumes(&mut processes).await?;
        setup.quiet(&processes.ids()).await;
        let idle = processes.usage();
        processes.leave(setup.client()).await?;
        Ok(idle)
    }

    /// All jobs, to their results. `idle` is what an idle start has used, where this one begins
    /// with jobs in the queue.
    pub(crate) async fn work(&self, setup: &Setup, idle: Option<Usage>) -> Result<Figures, String> {
        let (mut processes, idle, before, offer) = match idle {
            Some(idle) => {
                self.namespace.feed(&self.load).await.publish(&self.load).await;
                setup.quiet(&[self.broker]).await;
                let before = Costs { worker: idle.cpu, ..self.costs(None) };
                (self.start(), idle, before, None)
            }
            None => {
                let mut processes = self.start();
                self.consumes(&mut processes).await?;
                setup.quiet(&[processes.ids(), vec![self.broker]].concat()).await;
                let before = self.costs(Some(&processes));
                let (feed, load) = (self.namespace.feed(&self.load).await, self.load);
                let offer = AbortOnDropHandle::new(tokio::spawn(async move { feed.publish(&load).await }));
                let idle = processes.usage();
                (processes, idle, before, Some(offer))
            }
        };
        let course = self.watch(&mut processes, offer.is_some()).await?;
        let (after, usage) = (self.costs(Some(&processes)), processes.usage());
        let late = processes.leave(setup.client()).await?;
        self.namespace.faults(self.load.jobs).await?;
        let stats = self.simulator.stats().await;
        self.obeyed(&stats)?;
        Ok(self.figures(&course, (&before, &after), (&idle, &usage), &stats, late))
    }

    pub(crate) fn start(&self) -> Processes {
        Processes::start(self.candidate, &self.ground, &self.load)
    }

    async fn consumes(&self, processes: &mut Processes) -> Result<(), String> {
        // One of several, where the account is not known: the others wait for its first job.
        let there = wait::until(CONSUMES_WITHIN, async || {
            (processes.has_fallen() || self.namespace.takers().await > 0).then_some(())
        });
        match there.await {
            Some(()) if !processes.has_fallen() => Ok(()),
            Some(()) => Err(self.fallen()),
            None => Err("does not consume".to_owned()),
        }
    }

    /// Looks on until all results are there.
    async fn watch(&self, processes: &mut Processes, offered: bool) -> Result<Course, String> {
        let mut course = Course { began: offered.then(Instant::now), ..Course::default() };
        let mut results = 0;
        let ended = wait::until_each(LOOK, self.load.longest(), async || {
            let stats = self.simulator.stats().await;
            // What was queued before counts from the moment in which the first job has been taken.
            if stats.calls.create_task > 0 {
                course.began.get_or_insert_with(Instant::now);
            }
            course.most_open = course.most_open.max(stats.tasks_open);
            results = self.namespace.results().await;
            (processes.has_fallen() || results >= self.load.jobs).then_some(())
        });
        let ended = ended.await;
        course.took = course.began.map(|began| began.elapsed()).unwrap_or_default();
        match ended {
            Some(()) if results >= self.load.jobs => Ok(course),
            Some(()) => Err(self.fallen()),
            None => Err(format!("only {results} of {} results in time", self.load.jobs)),
        }
    }

    fn fallen(&self) -> String {
        format!("ended by itself; logs are in {}", self.ground.folder.display())
    }

    /// Whether the API's rules were kept, and nothing was paid for twice.
    fn obeyed(&self, stats: &Stats) -> Result<(), String> {
        let counts = [
            ("accepted", stats.accepted_tasks, self.load.jobs as u64),
            ("repeated submissions", stats.repeated_submissions, 0),
            ("early polls", stats.early_polls, 0),
            ("polls past the limit", stats.polls_past_limit, 0),
        ];
        let wrong = counts.into_iter().find(|(_, counted, wanted)| counted != wanted);
        wrong.map_or(Ok(()), |(what, counted, wanted)| Err(format!("{what}: {counted} instead of {wanted}")))
    }

    fn costs(&self, processes: Option<&Processes>) -> Costs {
        let of = |id: Option<u32>| crate::machine::usage(id.as_slice()).cpu;
        Costs {
            worker: processes.map(|processes| processes.usage().cpu).unwrap_or_default(),
            broker: of(Some(self.broker)),
            simulator: of(self.simulator.process().id()),
        }
    }

    fn figures(
        &self,
        course: &Course,
        (before, after): (&Costs, &Costs),
        (idle, peak): (&Usage, &Usage),
        stats: &Stats,
        late: Option<Lateness>,
    ) -> Figures {
        let (jobs, polls) = (self.load.jobs as f64, stats.calls.get_task_result as f64);
        let spent = |after: Duration, before: Duration| after.saturating_sub(before).as_secs_f64() * 1_000.0;
        let worker = spent(after.worker, before.worker);
        let grown = peak.peak_kib.saturating_sub(idle.resident_kib) as f64;
        let open = course.most_open as f64;
        let mut figures = Figures::from([
            (Figure::CpuPerJob, worker / jobs),
            (Figure::PollsPerJob, polls / jobs),
            (Figure::JobsPerSecond, jobs / course.took.as_secs_f64()),
            (Figure::BytesInFlight, grown * 1.024 / open),
            (Figure::MostInFlight, open),
            (Figure::Idle, idle.resident_kib as f64 / 1_024.0),
            (Figure::Peak, peak.peak_kib as f64 / 1_024.0),
            (Figure::BrokerPerJob, spent(after.broker, before.broker) / jobs),
            (Figure::SimulatorPerJob, spent(after.simulator, before.simulator) / jobs),
        ]);
        if polls > jobs {
            figures.insert(Figure::CpuPerPoll, worker / polls);
        }
        if let Some(late) = late {
            let late =
                [(Figure::LateMedian, late.p50), (Figure::Late99, late.p99), (Figure::LateMost, late.max)];
            figures.extend(late);
        }
        figures
    }
}
