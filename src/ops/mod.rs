//! What a replica reports about itself over HTTP.
//!
//! * `/`: the fleet as this replica sees it, a page for people.
//! * `/healthz`: whether the worker's runtime makes progress.
//! * `/readyz`: whether it does its work, and if not why.
//! * `/status`: all that it knows, as JSON.
//! * `/metrics`: its figures for Prometheus, by the names in docs/METRICS.md.
//!
//! All of it is read only, unless the settings name a token: then there is `/act`.
//! The API's callbacks come to a listener of their own. Each of the two has a
//! thread and a runtime of its own: it takes no time from the work, and answers where that is
//! stuck.

mod acts;
mod callbacks;
mod dashboard;
mod metrics;
mod ready;
mod serve;
mod sessions;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Router, middleware};
use parking_lot::{Mutex, MutexGuard};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use acts::{Act, ActEnd, Commands};

use crate::overview::{FleetFacts, Overview, RateTracker};
use crate::worker::WorkerHandle;
use acts::Desk;
use serve::{AnyName, ServerLimits};

/// How long the worker's runtime may take to answer before it counts as stuck. Nothing that it does
/// in one go takes a tenth of a second.
const STUCK: Duration = Duration::from_secs(5);

/// A listening ops server.
pub struct Server {
    listener: TcpListener,
    acting: Option<(SecretString, Arc<dyn Commands>)>,
}

impl Server {
    /// Listens; port 0 takes any free one.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, acting: None })
    }

    /// The same, with a page on which those who know the token can act.
    #[must_use]
    pub fn acting(self, token: SecretString, commands: Arc<dyn Commands>) -> Self {
        Self { acting: Some((token, commands)), ..self }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers on a thread of its own until asked to stop.
    ///
    /// # Errors
    /// There is no thread or no runtime to be had.
    pub fn start(self, view: WorkerHandle, stop: CancellationToken) -> io::Result<()> {
        self.on_a_thread("ops", |server| server.answer(view, stop))
    }

    /// Takes the API's callbacks, on a thread of its own, until asked to stop.
    ///
    /// # Errors
    /// There is no thread or no runtime to be had.
    pub fn start_callbacks(self, view: WorkerHandle, stop: CancellationToken) -> io::Result<()> {
        self.on_a_thread("callbacks", |server| async move {
            let listener = tokio::net::TcpListener::from_std(server.listener)?;
            serve::serve(listener, callbacks::routes(view), ServerLimits::CALLBACKS, stop).await;
            Ok(())
        })
    }

    fn on_a_thread<F>(
        self,
        name: &'static str,
        answer: impl FnOnce(Self) -> F + Send + 'static,
    ) -> io::Result<()>
    where
        F: Future<Output = io::Result<()>>,
    {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let serve = move || {
            if let Err(error) = runtime.block_on(answer(self)) {
                tracing::error!(%error, "{name}: no longer served; the work goes on");
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(serve).map(drop)
    }

    async fn answer(self, view: WorkerHandle, stop: CancellationToken) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let address = listener.local_addr()?;
        let sampler = Sampler::new(view.clone(), self.acting.is_some());
        let desk = self.acting.map(|(token, commands)| Desk::new(&token, commands, address, sampler.clone()));
        let _watching = AbortOnDropHandle::new(tokio::spawn(sampler.clone().watch()));
        let routes = Router::new()
            .route("/", get(dashboard::page))
            .route("/status", get(status))
            .with_state(sampler)
            .route("/healthz", get(healthy))
            .route("/readyz", get(ready))
            .route("/metrics", get(measured))
            .with_state(view)
            .merge(desk.map(Desk::routes).unwrap_or_default())
            .layer(middleware::from_fn_with_state(AnyName::at(address), serve::guarded));
        serve::serve(listener, routes, ServerLimits::OPS, stop).await;
        Ok(())
    }
}

async fn healthy(State(view): State<WorkerHandle>) -> impl IntoResponse {
    if view.makes_progress(STUCK).await {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        let text = format!("the worker makes no progress: its runtime has not answered for {STUCK:?}\n");
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

async fn ready(State(view): State<WorkerHandle>) -> impl IntoResponse {
    let (ready, reasons) = ready::readiness(&view);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, body(&json!({"ready": ready, "reasons": reasons})))
}

async fn status(State(sampler): State<Sampler>) -> impl IntoResponse {
    let view = &sampler.view;
    let seen = view.seen();
    let (ready, reasons) = ready::readiness(view);
    let fleet = sampler.overview();
    body(&json!({
        "name": view.name(),
        "ready": ready,
        "reasons": reasons,
        "guard": fleet.guard,
        "leader": seen.leader,
        "leads": seen.leads,
        "held": seen.held(),
        "replicas": seen.replicas,
        "shut_types": view.shut_types(),
        "connected": view.is_connected(),
        "api_answers": view.reaches_api(),
        "callbacks": view.callbacks().status(view.now()),
        "in_flight": view.in_flight(),
        "tickets_open": view.tickets_open(),
        "polls_overdue": view.overdue_polls(),
        "buffers": view.buffers(),
        "queues": queues(view),
        "fleet": fleet,
        "vitals": view.vitals(),
        "counters": view.reading(),
    }))
}

fn queues(view: &WorkerHandle) -> Value {
    let json = |depth: crate::broker::QueueDepth| json!({"ready": depth.ready, "consumers": depth.consumers});
    view.queues().into_iter().map(|(name, depth)| (name, json(depth))).collect()
}

async fn measured(State(view): State<WorkerHandle>) -> impl IntoResponse {
    ([("content-type", metrics::CONTENT_TYPE)], metrics::rendered(&view))
}

fn body(json: &Value) -> impl IntoResponse + use<> {
    ([("content-type", "application/json")], format!("{json}\n"))
}

/// As often as replicas report their counters.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A worker with its fleet's jobs a second over the last two minutes.
#[derive(Clone)]
pub(super) struct Sampler {
    pub(super) view: WorkerHandle,
    tracker: Arc<Mutex<RateTracker>>,
    /// There is `/act`.
    pub(super) acts: bool,
}

impl Sampler {
    pub(super) fn new(view: WorkerHandle, acts: bool) -> Self {
        Self { view, tracker: Arc::default(), acts }
    }

    fn lock(&self) -> MutexGuard<'_, RateTracker> {
        // Whatever is in it was seen so.
        self.tracker.lock()
    }

    /// Looks every now and then, until dropped.
    pub(super) async fn watch(self) {
        let began = Instant::now();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let heard = self.view.replicas();
            let heard = heard.iter().map(|(replica, ago)| (replica.as_ref(), *ago));
            self.lock().note(began.elapsed(), heard);
        }
    }

    /// The fleet, as this replica knows it now.
    pub(super) fn overview(&self) -> Overview {
        let (view, seen) = (&self.view, self.view.seen());
        let (heard, shut, queues) = (view.replicas(), view.shut_types(), view.depths());
        let replicas: Vec<_> = heard.iter().map(|(replica, _)| replica.as_ref()).collect();
        Overview::of(FleetFacts {
            at: view.now(),
            namespace: view.namespace(),
            state: seen.state.as_deref(),
            // Its name outlives the session in which it was heard.
            leader: seen.leader.as_deref().filter(|_| seen.state.is_some()),
            leader_id: seen.leader_id.as_deref().filter(|_| seen.state.is_some()),
            expected: seen.replicas,
            replicas: &replicas,
            shut: &shut,
            queues: queues.as_ref(),
            tracker: &self.lock(),
        })
    }
}
