//! The load: pictures at a steady rate, some of them with a script that brings trouble.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use captcha_worker::broker::Session;
use captcha_worker::broker::topology::Names;
use captcha_worker::domain::message::{Message, Properties};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::interval;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::ledger::Ledger;
use crate::support::rabbit;

/// Just above the API's least size.
const PICTURE_BYTES: usize = 120;
/// Publishes that may wait for their confirms at once.
const UNCONFIRMED: usize = 512;

/// A job that is about to be offered.
#[derive(Debug, Clone)]
pub(crate) struct Offered {
    pub(crate) id: String,
    /// As the API will see it.
    pub(crate) task: Vec<u8>,
    /// Whether the trouble is aimed at this job.
    pub(crate) hit: bool,
}

impl Offered {
    /// A picture of its own, so that the stand-in can distinguish the jobs.
    pub(crate) fn picture(id: String) -> Self {
        Self::with(id, None, false)
    }

    /// The same with a script, which is trouble where it says so.
    pub(crate) fn scripted(id: String, script: &Value, hit: bool) -> Self {
        Self::with(id, Some(script), hit)
    }

    fn with(id: String, script: Option<&Value>, hit: bool) -> Self {
        let seed = id.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut picture = [0; PICTURE_BYTES];
        StdRng::seed_from_u64(seed).fill_bytes(&mut picture);
        let mut task = json!({"type": "ImageToTextTask", "body": STANDARD.encode(picture)});
        if let Some(script) = script {
            task["_sim"] = script.clone();
        }
        Self { id, task: task.to_string().into_bytes(), hit }
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = format!("{{\"id\":\"{}\",\"task\":", self.id).into_bytes();
        body.extend_from_slice(&self.task);
        body.push(b'}');
        body
    }
}

/// Pictures without end, of which one in so many carries the script: not always at the same place,
/// or of two replicas that take turns one would get all of them.
pub(crate) fn with_trouble(
    prefix: &str,
    each: usize,
    script: &Value,
) -> impl Iterator<Item = Offered> + Send + 'static + use<> {
    let (prefix, script) = (prefix.to_owned(), script.clone());
    (0..).map(move |n| {
        let id = format!("{prefix}{n}");
        // Not the first ones: a fleet that has just begun is another trial.
        if n % each == (each - 1 + n / each * 7) % each {
            Offered::scripted(id, &script, true)
        } else {
            Offered::picture(id)
        }
    })
}

/// Pictures without end.
pub(crate) fn pictures(prefix: &str) -> impl Iterator<Item = Offered> + Send + 'static + use<> {
    let prefix = prefix.to_owned();
    (0..).map(move |n| Offered::picture(format!("{prefix}{n}")))
}

/// Publishes jobs.
#[derive(Clone)]
pub(crate) struct Publisher {
    session: Session,
    names: Names,
    app_id: Option<&'static str>,
}

impl Publisher {
    pub(crate) async fn open(amqp: &str, names: &Names) -> Self {
        Self { session: rabbit::connect(amqp).await, names: names.clone(), app_id: None }
    }

    /// The same, by this name.
    pub(crate) fn named(&self, app_id: &'static str) -> Self {
        Self { app_id: Some(app_id), ..self.clone() }
    }

    async fn publish(&self, job: &Offered) {
        let app_id = self.app_id.map(str::to_owned);
        let properties = Properties { message_id: Some(job.id.clone()), app_id, ..Properties::default() };
        let message = Message { body: job.body().into(), properties, transient: false };
        self.session.publish(&self.names.jobs(), "jobs", message).await.expect("the broker confirms a job");
    }

    /// Offers jobs at a fixed rate, in the background, until there are no more or the load is
    /// dropped.
    pub(crate) fn offer(
        &self,
        ledger: &Arc<Ledger>,
        jobs: impl Iterator<Item = Offered> + Send + 'static,
        per_second: u32,
    ) -> Load {
        let (publisher, ledger) = (self.clone(), Arc::clone(ledger));
        let publishes = TaskTracker::new();
        let tracked = publishes.clone();
        let offering = async move {
            // Ticks that were missed are made up for. A confirm holds up no later job, as long as
            // few are waited for.
            let mut due = interval(Duration::from_secs(1) / per_second);
            let places = Arc::new(Semaphore::new(UNCONFIRMED));
            for job in jobs {
                due.tick().await;
                let place = Arc::clone(&places).acquire_owned().await.expect("places are never closed");
                ledger.offered(&job);
                let publisher = publisher.clone();
                tracked.spawn(async move {
                    publisher.publish(&job).await;
                    drop(place);
                });
            }
        };
        Load { offering: AbortOnDropHandle::new(tokio::spawn(offering)), publishes }
    }
}

/// Jobs that are being offered.
pub(crate) struct Load {
    offering: AbortOnDropHandle<()>,
    publishes: TaskTracker,
}

impl Load {
    /// Offers no more, and waits until what was offered is confirmed.
    pub(crate) async fn stop(self) {
        self.offering.abort();
        // Aborted, as a rule; a panic of it is one of this program's own.
        if let Err(error) = self.offering.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
        self.publishes.close();
        self.publishes.wait().await;
    }

    /// Waits until all have been offered, and confirmed.
    pub(crate) async fn finished(self) {
        self.offering.await.expect("all jobs are offered");
        self.publishes.close();
        self.publishes.wait().await;
    }
}
