//! Publishing: cheaply, since the publisher shares the machine with what is measured.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection};
use rand::Rng;
use tokio::time::{Instant, interval};

use crate::candidate::Candidate;
use crate::load::Load;

/// Publishes that may wait for their confirms at once.
const WINDOW: usize = 500;
const PERSISTENT: u8 = 2;
/// Between two handfuls of an offered load.
const STEP: Duration = Duration::from_millis(10);
/// Bytes at an image's begin that are its own; divisible by three, so that the rest of its base64
/// is everybody's.
const OWN_BYTES: usize = 12;

/// Publishes jobs, each with an image of its own.
pub(crate) struct Feed {
    channel: Channel,
    candidate: Candidate,
    /// Each gets as many.
    queues: Vec<String>,
    rest: String,
}

impl Feed {
    pub(crate) async fn open(
        connection: &Connection,
        candidate: Candidate,
        queues: Vec<String>,
        load: &Load,
    ) -> Self {
        let channel = connection.create_channel().await.expect("the broker opens a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("the broker confirms");
        let mut rest = vec![0; load.image_bytes - OWN_BYTES];
        rand::rng().fill_bytes(&mut rest);
        Self { channel, candidate, queues, rest: STANDARD.encode(rest) }
    }

    /// Publishes all as fast as it goes, or at the load's rate; ends when all are confirmed.
    pub(crate) async fn publish(self, load: &Load) {
        let Some(per_second) = load.per_second else {
            return self.publish_up_to(0, load.jobs).await;
        };
        let mut steps = interval(STEP);
        let began = Instant::now();
        let mut published = 0;
        while published < load.jobs {
            steps.tick().await;
            // By the clock, so that what a slow confirm has held up is made up for.
            let due = (began.elapsed().as_secs_f64() * f64::from(per_second)) as usize;
            let due = due.min(load.jobs);
            self.publish_up_to(published, due).await;
            published = due;
        }
    }

    async fn publish_up_to(&self, from: usize, to: usize) {
        for number in from..to {
            self.job(number).await;
            if (number + 1) % WINDOW == 0 {
                self.confirmed().await;
            }
        }
        self.confirmed().await;
    }

    async fn confirmed(&self) {
        self.channel.wait_for_confirms().await.expect("the broker confirms jobs");
    }

    async fn job(&self, number: usize) {
        let mut own = [0; OWN_BYTES];
        own[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let image = format!("{}{}", STANDARD.encode(own), self.rest);
        let (id, task) = (format!("b{number}"), format!(r#"{{"type":"ImageToTextTask","body":"{image}"}}"#));
        let (body, properties) = match self.candidate {
            Candidate::Celery => for_celery(&id, &task),
            _ => plain(&id, &task),
        };
        let queue = self.queues[number % self.queues.len()].as_str();
        let (exchange, queue) = (ShortString::default(), ShortString::from(queue));
        let options = BasicPublishOptions::default();
        let confirm = self.channel.basic_publish(exchange, queue, options, body.as_bytes(), properties).await;
        // Waited for by the window.
        drop(confirm.expect("the broker takes a job"));
    }
}

/// A job as docs/CONTRACT.md has it.
fn plain(id: &str, task: &str) -> (String, BasicProperties) {
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_message_id(id.into());
    (format!(r#"{{"id":"{id}","task":{task}}}"#), properties)
}

/// A call of `submit(id, task)` as Celery's protocol has it; see benches/baselines/README.md.
fn for_celery(id: &str, task: &str) -> (String, BasicProperties) {
    let call = uuid::Uuid::new_v4().to_string();
    let mut headers = FieldTable::default();
    for (name, value) in [("lang", "py"), ("task", "peer.submit"), ("id", &call)] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_correlation_id(call.into())
        .with_headers(headers);
    let nothing_follows = r#"{"callbacks":null,"errbacks":null,"chain":null,"chord":null}"#;
    (format!(r#"[["{id}",{task}],{{}},{nothing_follows}]"#), properties)
}
