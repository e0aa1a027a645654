//! The shortest honest loop over lapin and reqwest: what a job costs at least, with and without a
//! ticket.
//!
//! No error classes, no guard, no metrics, no leases: an error ends the process. One thread beside
//! lapin's own, one connection. Settings are the peers' (benches/baselines/README.md); with the
//! argument `--ticket` a job's task is kept as a ticket before the job is acked, as captcha-worker
//! does. Once committed, this is not touched again without saying why: it is the measure of the
//! others.

mod api;
mod lateness;

use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::LocalSet;

use api::Api;
use lateness::Lateness;

/// Any error ends the process, loudly.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Submissions at once in the variant with tickets: as many jobs as are taken ahead of time.
const SUBMISSIONS: u16 = 256;
const TASK_ID: &str = "task-id";

#[derive(Deserialize)]
struct Job<'a> {
    id: &'a str,
    #[serde(borrow)]
    task: &'a RawValue,
}

struct Peer {
    api: Api,
    jobs: Channel,
    tickets: Channel,
    publishing: Mutex<Channel>,
    prefix: String,
    first_poll: Duration,
    next_poll: Duration,
    in_flight: Semaphore,
    lateness: Lateness,
}

fn setting(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| format!("{name} is not set").into())
}

fn number(name: &str) -> Result<u64> {
    Ok(setting(name)?.parse()?)
}

impl Peer {
    async fn connect(connection: &Connection) -> Result<Self> {
        let publishing = connection.create_channel().await?;
        publishing.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self {
            api: Api::new(
                setting("PEER_API")?,
                setting("PEER_KEY")?,
                number("PEER_CONNECTIONS")?.try_into()?,
            )?,
            jobs: connection.create_channel().await?,
            tickets: connection.create_channel().await?,
            publishing: Mutex::new(publishing),
            prefix: setting("PEER_PREFIX")?,
            first_poll: Duration::from_millis(number("PEER_FIRST_POLL_MS")?),
            next_poll: Duration::from_millis(number("PEER_POLL_MS")?),
            in_flight: Semaphore::new(number("PEER_IN_FLIGHT")?.try_into()?),
            lateness: Lateness::default(),
        })
    }

    async fn consume(&self, channel: &Channel, queue: &str, prefetch: u16) -> Result<Consumer> {
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let queue = format!("{}.{queue}", self.prefix);
        let options = BasicConsumeOptions::default();
        Ok(channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await?)
    }

    /// Publishes, and waits for the confirm. The lock keeps tags and frames in one order.
    async fn publish(&self, queue: &str, body: &[u8], properties: BasicProperties) -> Result<()> {
        let queue = format!("{}.{queue}", self.prefix);
        let options = BasicPublishOptions::default();
        let confirm = {
            let channel = self.publishing.lock().await;
            channel.basic_publish("".into(), queue.as_str().into(), options, body, properties).await?
        };
        match confirm.await? {
            confirmed if confirmed.is_ack() => Ok(()),
            _ => Err(format!("{queue} did not take a message").into()),
        }
    }

    /// Waits, polls until the answer is there, publishes it.
    async fn finish(&self, job: &Job<'_>, task_id: &str) -> Result<()> {
        let mut wait = self.first_poll;
        let solution = loop {
            self.lateness.sleep(wait).await;
            if let Some(solution) = self.api.result(task_id).await? {
                break solution;
            }
            wait = self.next_poll;
        };
        let result =
            format!(r#"{{"id":"{}","status":"solved","task_id":{task_id},"solution":{solution}}}"#, job.id);
        let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(job.id.into());
        self.publish("results", result.as_bytes(), properties).await
    }

    /// A job from its delivery to its ack, held all the while.
    async fn whole_job(&self, delivery: Delivery) -> Result<()> {
        let job: Job = serde_json::from_slice(&delivery.data)?;
        let task_id = self.api.create(job.task).await?;
        self.finish(&job, &task_id).await?;
        delivery.ack(BasicAckOptions::default()).await?;
        Ok(())
    }

    /// A job up to its ticket.
    async fn submit(&self, delivery: Delivery) -> Result<()> {
        let job: Job = serde_json::from_slice(&delivery.data)?;
        let task_id = self.api.create(job.task).await?;
        let mut headers = FieldTable::default();
        headers.insert(TASK_ID.into(), AMQPValue::LongString(task_id.into()));
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id(job.id.into())
            .with_headers(headers);
        self.publish("tickets", &delivery.data, properties).await?;
        delivery.ack(BasicAckOptions::default()).await?;
        Ok(())
    }

    /// A ticket to its ack.
    async fn ticket(&self, delivery: Delivery) -> Result<()> {
        let job: Job = serde_json::from_slice(&delivery.data)?;
        let headers = delivery.properties.headers().as_ref();
        let Some(AMQPValue::LongString(task_id)) = headers.and_then(|headers| headers.inner().get(TASK_ID))
        else {
            return Err("a ticket without a task id".into());
        };
        let task_id = std::str::from_utf8(task_id.as_bytes())?.to_owned();
        self.finish(&job, &task_id).await?;
        delivery.ack(BasicAckOptions::default()).await?;
        self.in_flight.add_permits(1);
        Ok(())
    }
}

async fn loudly(work: impl Future<Output = Result<()>>) {
    if let Err(error) = work.await {
        eprintln!("minimal: {error}");
        std::process::exit(1);
    }
}

async fn jobs_to_their_end(peer: Rc<Peer>) -> Result<()> {
    let prefetch = number("PEER_IN_FLIGHT")?.try_into()?;
    let mut jobs = peer.consume(&peer.jobs, "jobs", prefetch).await?;
    while let Some(delivery) = jobs.next().await.transpose()? {
        let peer = Rc::clone(&peer);
        tokio::task::spawn_local(async move { loudly(peer.whole_job(delivery)).await });
    }
    Err("the consumer ended".into())
}

async fn jobs_to_tickets(peer: Rc<Peer>) -> Result<()> {
    let mut jobs = peer.consume(&peer.jobs, "jobs", SUBMISSIONS).await?;
    loop {
        peer.in_flight.acquire().await?.forget();
        let Some(delivery) = jobs.next().await.transpose()? else { return Err("the consumer ended".into()) };
        let peer = Rc::clone(&peer);
        tokio::task::spawn_local(async move { loudly(peer.submit(delivery)).await });
    }
}

async fn tickets_to_their_end(peer: Rc<Peer>) -> Result<()> {
    let prefetch = u16::try_from(number("PEER_IN_FLIGHT")? * 2).unwrap_or(u16::MAX);
    let mut tickets = peer.consume(&peer.tickets, "tickets", prefetch).await?;
    while let Some(delivery) = tickets.next().await.transpose()? {
        let peer = Rc::clone(&peer);
        tokio::task::spawn_local(async move { loudly(peer.ticket(delivery)).await });
    }
    Err("the consumer ended".into())
}

async fn run() -> Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    let connection = Connection::connect(&setting("PEER_AMQP")?, ConnectionProperties::default()).await?;
    let peer = Rc::new(Peer::connect(&connection).await?);
    if std::env::args().any(|argument| argument == "--ticket") {
        tokio::task::spawn_local(loudly(tickets_to_their_end(Rc::clone(&peer))));
        tokio::task::spawn_local(loudly(jobs_to_tickets(Rc::clone(&peer))));
    } else {
        tokio::task::spawn_local(loudly(jobs_to_their_end(Rc::clone(&peer))));
    }
    stop.recv().await;
    println!("{}", peer.lateness.report());
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    LocalSet::new().run_until(loudly(run())).await;
}
