//! A namespace on the broker, seen from outside of the fleet: publishing, and how much waits where.

use std::time::Duration;

use captcha_worker::broker::Session;
use captcha_worker::broker::topology::{Names, RETRY_DELAYS, Topology};
use captcha_worker::domain::class::Class;
use captcha_worker::domain::message::{Message, Properties};
use futures_util::{StreamExt, stream};
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

use crate::jobs::Job;
use crate::support::rabbit;

/// Publishes that may wait for their confirms at once.
const WINDOW: usize = 256;

/// A namespace that nothing else uses.
pub(crate) struct Namespace {
    amqp: String,
    names: Names,
    session: Session,
}

/// Messages that wait to be delivered; those in the hands of replicas are not among them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) jobs: u64,
    pub(crate) retry: u64,
    pub(crate) tickets: u64,
    pub(crate) dead_account: u64,
}

impl Waiting {
    /// Jobs that nobody holds and that have not ended.
    pub(crate) fn unpaid(&self) -> u64 {
        self.jobs + self.retry
    }
}

impl Namespace {
    /// Declares a fresh namespace on a broker, so that jobs can be there before any replica.
    pub(crate) async fn declare(amqp: &str) -> Self {
        let namespace = format!("trial-{}", uuid::Uuid::new_v4().simple());
        let namespace = Self::open(amqp, &namespace).await;
        namespace
            .session
            .link()
            .declare(&Topology::new(&namespace.names))
            .await
            .expect("the topology is declared");
        namespace
    }

    async fn open(amqp: &str, namespace: &str) -> Self {
        let session = rabbit::connect(amqp).await;
        Self { amqp: amqp.to_owned(), names: Names::new(namespace), session }
    }

    /// The same namespace in a new session: the broker's restart has ended the old one.
    pub(crate) async fn reopened(&self) -> Self {
        Self::open(&self.amqp, self.names.namespace()).await
    }

    pub(crate) fn amqp(&self) -> &str {
        &self.amqp
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Publishes all, each confirmed.
    pub(crate) async fn publish(&self, jobs: Vec<Job>) {
        let publish = |job| publish(&self.session, &self.names, job);
        stream::iter(jobs).map(publish).buffer_unordered(WINDOW).collect::<()>().await;
    }

    /// Publishes at a fixed rate, in the background.
    pub(crate) fn offer(&self, jobs: Vec<Job>, per_second: u32) -> Offer {
        let (session, names) = (self.session.clone(), self.names.clone());
        let offering = async move {
            // Ticks that a slow confirm has missed are made up for.
            let mut due = interval(Duration::from_secs(1) / per_second);
            for job in jobs {
                due.tick().await;
                publish(&session, &names, job).await;
            }
        };
        Offer(AbortOnDropHandle::new(tokio::spawn(offering)))
    }

    /// What waits, in all queues that a job that has not ended can wait in, and in `dead.account`.
    pub(crate) async fn waiting(&self) -> Waiting {
        let mut retry = 0;
        for delay in RETRY_DELAYS {
            retry += self.ready(&self.names.retry(delay)).await;
        }
        Waiting {
            jobs: self.ready(&self.names.jobs()).await,
            retry,
            tickets: self.ready(&self.names.tickets()).await,
            dead_account: self.ready(&self.names.dead(Class::Account)).await,
        }
    }

    /// Replicas that take jobs.
    pub(crate) async fn takers(&self) -> u64 {
        self.session.link().depth(&self.names.jobs()).await.expect("the broker answers").consumers
    }

    async fn ready(&self, queue: &str) -> u64 {
        self.session.link().depth(queue).await.expect("the broker answers").ready
    }
}

async fn publish(session: &Session, names: &Names, job: Job) {
    let properties = Properties { message_id: Some(job.id), ..Properties::default() };
    let message = Message { body: job.body.into(), properties, transient: false };
    session.publish(&names.jobs(), "jobs", message).await.expect("the broker confirms a job");
}

/// Jobs that are being offered. Dropped, no more are.
pub(crate) struct Offer(AbortOnDropHandle<()>);

impl Offer {
    /// Waits until all have been published.
    pub(crate) async fn finished(self) {
        self.0.await.expect("all jobs are offered");
    }
}
