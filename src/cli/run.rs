//! `run`: one replica, until SIGTERM.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{CommandError, ConsoleCommands, Exit, connect, signals};
use crate::broker::Broker;
use crate::broker::topology::Names;
use crate::config::{CallbackSettings, ConfigErrors, LoadOptions, Loaded, LogFilter, SettingLine, Settings};
use crate::domain::lifecycle::JobRules;
use crate::domain::money::Decimal;
use crate::fleet::{CallbackAddress, Depths, Egress};
use crate::linger::Linger;
use crate::ops::Server;
use crate::solver::Solver;
use crate::telemetry::Logging;
use crate::trace::Tracer;
use crate::worker::{Clock, Limits, Reading, Rng, Spent, Worker, WorkerHandle, WorkerOptions};

const EXAMPLES: &str = "\
The first SIGTERM or Ctrl-C drains: no more jobs are taken, submissions under way are finished, paid tasks are handed to \
other replicas, within worker.drain_timeout. A second one ends at once; what is unfinished returns to its queue. \
SIGHUP reloads the account's key and log.level from where they were configured. If a setting cannot be used, it changes neither, \
and the log says why. The leader has a new key verified before it is used.

Examples:
  CAPTCHA_WORKER__SOLVER__API_KEY_FILE=/run/secrets/key captcha-worker run
  captcha-worker --config /etc/captcha-worker.toml \\
    --log info,captcha_worker=debug run";

/// Replicas of one machine that find a port without a setting of their own.
const NEXT_PORTS: u16 = 32;
/// How often the log is checked for warnings that were left out.
const LEFT_OUT_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {}

pub(super) async fn run(
    _: &RunArgs,
    loaded: &Loaded,
    load_options: LoadOptions,
    logging: &Logging,
) -> Result<Exit, CommandError> {
    for variable in loaded.ignored() {
        let (variable, meant) = (&*variable.name, &*variable.meant);
        tracing::warn!(variable, meant, "environment variable ignored: its name is not that of a setting");
    }
    let settings = &loaded.settings;
    let name = connect::worker_name(settings);
    let solver = connect::solver(settings)?;
    let linger = Linger::every(settings.worker.linger);
    let broker = connect::working_broker(settings, &name, linger.clone())?;
    let tracer = connect::tracer(settings, &name, &broker)?;
    let callbacks = settings.callback.as_ref().map(|callback| callback_address(callback, &name));
    let worker = Worker::new(WorkerOptions {
        callbacks: callbacks.transpose()?,
        ..options(settings, name.clone(), (broker, linger), solver, tracer.clone())
    });
    let stop = signals::stop()?;
    let reload = Reload {
        options: load_options,
        view: worker.view(),
        logging: logging.clone(),
        level: settings.log.level.clone(),
        started_with: loaded.report().to_vec(),
    };
    reload.on_hangup()?;
    report_left_out(logging.clone());
    report_work(worker.view());
    tracing::info!(
        worker = name,
        broker = %settings.broker.url,
        namespace = settings.broker.namespace,
        api = %settings.solver.base_url,
        max_in_flight = settings.worker.max_in_flight,
        "starting"
    );
    // Served through the drain too: that is when somebody checks it.
    let served = CancellationToken::new();
    serve_ops(settings, worker.view(), served.clone())?;
    if let Some(callback) = &settings.callback {
        serve_callbacks(callback, worker.view(), served.clone())?;
    }
    let drained = worker.run(stop).await;
    served.cancel();
    tracer.flush().await;
    let drained = drained?;
    tracing::info!(unfinished = drained.unfinished, "stopped");
    Ok(Exit::when(drained.unfinished == 0))
}

/// Logs from time to time how many warnings were left out.
fn report_left_out(logging: Logging) {
    let mut ticks = tokio::time::interval(LEFT_OUT_EVERY);
    tokio::spawn(async move {
        loop {
            ticks.tick().await;
            logging.log_suppressed();
        }
    });
}

/// How often work is summed up in the log.
const SUMMED_UP_EVERY: Duration = Duration::from_secs(60);

/// Sums up each minute in which there was work.
fn report_work(view: WorkerHandle) {
    let mut ticks = tokio::time::interval(SUMMED_UP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::spawn(async move {
        ticks.tick().await;
        let mut before = view.reading();
        loop {
            ticks.tick().await;
            let now = view.reading();
            if let Some(WorkSummary { solved, failed, in_flight, spent, backlog }) =
                WorkSummary::of(&before, &now, view.in_flight(), view.depths().as_ref())
            {
                tracing::info!(
                    solved,
                    failed,
                    in_flight,
                    spent = spent.map(tracing::field::display),
                    backlog,
                    "the last minute"
                );
            }
            before = now;
        }
    });
}

/// What a replica did between two readings.
#[derive(Debug, PartialEq)]
struct WorkSummary {
    solved: u64,
    failed: u64,
    in_flight: usize,
    /// In the account's currency, where it is known.
    spent: Option<Decimal>,
    /// Jobs of the whole fleet that wait, retries included, where the leader has said it.
    backlog: Option<u64>,
}

impl WorkSummary {
    /// `None` where nothing was done, and nothing is in flight.
    fn of(before: &Reading, now: &Reading, in_flight: usize, depths: Option<&Depths>) -> Option<Self> {
        let cost = |reading: &Reading| reading.spent.values().map(Spent::cost).sum::<Decimal>();
        let is_waiting =
            |name: &str| name == "jobs" || name.starts_with("jobs.") || name.starts_with("retry.");
        let (solved, failed) = (now.solved - before.solved, now.failed - before.failed);
        (solved + failed > 0 || in_flight > 0).then(|| Self {
            solved,
            failed,
            in_flight,
            spent: (cost(now) > Decimal::ZERO).then(|| cost(now) - cost(before)),
            backlog: depths.map(|depths| {
                depths.ready.iter().filter(|(name, _)| is_waiting(name)).map(|(_, ready)| ready).sum()
            }),
        })
    }
}

/// Listens at once, so that an address that is not free is reported before any work is done.
fn serve_ops(settings: &Settings, view: WorkerHandle, stop: CancellationToken) -> Result<(), CommandError> {
    let ops = &settings.ops;
    let Some(address) = ops.listen else { return Ok(()) };
    let cannot = |error| {
        CommandError::Failed(format!(
            "ops.listen: cannot listen on {address}: {error}; choose another port, or port 0 for any free one"
        ))
    };
    let mut bound = Server::bind(address);
    // Another replica on this machine has the port.
    let further = (1..NEXT_PORTS).filter_map(|n| address.port().checked_add(n));
    for port in further.take_while(|_| ops.is_default) {
        if bound.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
            bound = Server::bind((address.ip(), port).into());
        }
    }
    let server = match bound {
        Err(error) if ops.is_default => {
            tracing::warn!(%address, %error, "health and metrics are not served: cannot listen on the default of ops.listen, nor on the ports after it");
            return Ok(());
        }
        bound => bound.map_err(cannot)?,
    };
    let listens = server.local_addr().map_err(cannot)?;
    let taken = (listens.port() != address.port() && address.port() != 0).then(|| address.to_string());
    tracing::info!(address = %listens, taken, "serving /healthz, /readyz, /status, /metrics, and a page at /");
    let Some(token) = &ops.admin_token else { return server.start(view, stop).map_err(CommandError::failed) };
    if address.ip().is_loopback() {
        tracing::info!("operators can act at /act");
    } else {
        tracing::warn!(
            "operators can act at /act: the token and all else travel in the clear, unless TLS is in front of ops.listen"
        );
    }
    let broker = connect::broker(settings, "captcha-worker console")?;
    let commands =
        ConsoleCommands { broker, names: Names::new(&settings.broker.namespace), stop: stop.clone() };
    server.acting(token.clone(), Arc::new(commands)).start(view, stop).map_err(CommandError::failed)
}

fn callback_address(callback: &CallbackSettings, name: &str) -> Result<CallbackAddress, CommandError> {
    let address = CallbackAddress::try_new(&callback.public_url, name);
    address.map_err(|problem| CommandError::Failed(format!("callback.public_url: {problem}")))
}

fn serve_callbacks(
    callback: &CallbackSettings,
    view: WorkerHandle,
    stop: CancellationToken,
) -> Result<(), CommandError> {
    let cannot = |error| {
        CommandError::Failed(format!("callback.listen: cannot listen on {}: {error}", callback.listen))
    };
    let server = Server::bind(callback.listen).map_err(cannot)?;
    let address = server.local_addr().map_err(cannot)?;
    tracing::info!(%address, public_url = callback.public_url, "listening for callbacks of the API");
    server.start_callbacks(view, stop).map_err(CommandError::failed)
}

/// What the settings make a worker of, beside its broker.
pub(super) fn options(
    settings: &Settings,
    name: String,
    (broker, linger): (Broker, Linger),
    solver: Solver,
    tracer: Tracer,
) -> WorkerOptions {
    let worker = &settings.worker;
    WorkerOptions {
        solver,
        broker,
        linger,
        names: Names::new(&settings.broker.namespace),
        declare_topology: settings.broker.declare_topology,
        rules: JobRules {
            polling: settings.polling.clone(),
            overrides: settings.codes.clone(),
            capacity_timeout: settings.retry.capacity_timeout,
            transient_timeout: settings.retry.transient_timeout,
            unknown_timeout: settings.retry.unknown_timeout,
            max_resubmissions: settings.retry.max_resubmissions,
            prices: settings.guard.rules.prices.clone(),
            ambiguous: settings.solver.ambiguous_submit,
        },
        policy: settings.policy.clone(),
        name,
        max_in_flight: worker.max_in_flight,
        limits: Limits {
            max_calls: settings.solver.max_connections,
            submit_concurrency: worker.submit_concurrency,
            max_calls_per_second: settings.solver.max_calls_per_second,
            caps: settings.caps.clone(),
            per_publisher_per_minute: settings.limits.per_publisher_per_minute,
        },
        lanes: settings.lanes.clone(),
        guard: settings.guard.rules.clone(),
        egress: if settings.guard.shared_egress { Egress::Shared } else { Egress::Own },
        callbacks: None,
        operators: settings.guard.operators.clone(),
        deadlines: settings.guard.deadlines,
        drain_timeout: worker.drain_timeout,
        reply_to_prefix: settings.broker.reply_to_prefix.clone(),
        clock: Clock::System,
        rng: Rng::Thread,
        tracer,
    }
}

/// The settings that are taken anew; a change of any other waits for the next start.
const TAKEN: [&str; 3] = ["log.level", "solver.api_key", "solver.api_key_file"];

/// What a reload works on.
struct Reload {
    pub(super) options: LoadOptions,
    pub(super) view: WorkerHandle,
    pub(super) logging: Logging,
    /// The log level in force.
    pub(super) level: LogFilter,
    /// All settings as they were at the start.
    started_with: Vec<SettingLine>,
}

impl Reload {
    /// Listens for SIGHUP as long as the process runs. Must be called in a runtime.
    fn on_hangup(mut self) -> io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                let options = self.options.clone();
                // Small files, and still no work for the threads that poll.
                let loaded =
                    tokio::task::spawn_blocking(move || crate::config::Settings::load(&options)).await;
                let taken = match loaded {
                    Ok(loaded) => self.take(loaded),
                    Err(_) => Err("they could not be read".to_owned()),
                };
                if let Err(refused) = taken {
                    tracing::error!(
                        refused,
                        "SIGHUP: these settings cannot be used; key and log level are unchanged"
                    );
                }
            }
        });
        Ok(())
    }

    fn take(&mut self, loaded: Result<Loaded, ConfigErrors>) -> Result<(), String> {
        let loaded = loaded.map_err(|errors| errors.to_string())?;
        let key = loaded.settings.solver.api_key.clone();
        let key = key.ok_or("solver.api_key: there is none in the settings any more")?;
        let level = loaded.settings.log.level.clone();
        let next = Logging::prepare(&level).map_err(|error| error.to_string())?;
        let before = Logging::prepare(&self.level).map_err(|error| error.to_string())?;
        // The old filter may pass what the new one does not, and the other way round.
        let passes_info = tracing::enabled!(tracing::Level::INFO);
        let changes_level = level != self.level;
        if changes_level && passes_info {
            tracing::info!(log_level = level.as_str(), "SIGHUP: log level changed");
        }
        self.logging.replace(next).map_err(|error| error.to_string())?;
        let key_before = self.view.key();
        if let Err(error) = self.view.replace_key(key) {
            // Nothing more can be done where this fails: there is no log any more.
            let _ = self.logging.replace(before);
            return Err(error.to_string());
        }
        if changes_level && !passes_info {
            tracing::info!(log_level = level.as_str(), "SIGHUP: log level changed");
        }
        self.level = level;
        if self.view.key() == key_before {
            tracing::info!("SIGHUP: API key unchanged");
        } else {
            tracing::info!(key = %self.view.key(), "SIGHUP: API key changed; verifying it");
        }
        log_waiting(&self.started_with, &loaded);
        Ok(())
    }
}

/// Logs the changes that SIGHUP does not apply.
fn log_waiting(started_with: &[SettingLine], loaded: &Loaded) {
    let changed = |line: &&SettingLine| {
        !TAKEN.contains(&&*line.key)
            && !started_with.iter().any(|old| old.key == line.key && old.value_shown == line.value_shown)
    };
    let waiting: Vec<&str> = loaded.report().iter().filter(changed).map(|line| &*line.key).collect();
    if !waiting.is_empty() {
        let settings = waiting.join(", ");
        tracing::warn!(
            settings,
            "SIGHUP: other settings have changed too; they take effect at the next start"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::domain::time::Timestamp;

    #[test]
    fn a_minute_with_work_is_summed_up_and_an_idle_one_is_not() {
        let reading = |solved, failed, cost| Reading {
            solved,
            failed,
            spent: BTreeMap::from([(
                "T".to_owned(),
                Spent {
                    accepted: solved,
                    costs: BTreeMap::from([(("default".to_owned(), false), Decimal::new(cost, 1))]),
                },
            )]),
            ..Reading::default()
        };
        let ready = [("jobs", 4), ("jobs.urgent", 3), ("retry.5s", 2), ("results", 100)]
            .map(|(name, ready)| (name.to_owned(), ready));
        let depths = Depths { at: Timestamp::from_millis(0), ready: ready.into(), missing: BTreeSet::new() };
        let (before, now) = (reading(10, 1, 10), reading(40, 3, 45));
        let spent = Some(Decimal::new(35, 1));
        let summary = WorkSummary { solved: 30, failed: 2, in_flight: 5, spent, backlog: Some(9) };
        assert_eq!(WorkSummary::of(&before, &now, 5, Some(&depths)), Some(summary));
        assert_eq!(WorkSummary::of(&now, &now, 0, Some(&depths)), None);
        let waiting = WorkSummary { solved: 0, failed: 0, in_flight: 1, spent: None, backlog: None };
        let idle = Reading::default();
        assert_eq!(WorkSummary::of(&idle, &idle, 1, None), Some(waiting));
    }
}
