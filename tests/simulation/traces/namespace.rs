//! A namespace on the broker: jobs with trace headers go in, outcomes come out.

use std::time::Duration;

use captcha_worker::broker::{ConsumeSpec, Consumer, Session};
use captcha_worker::domain::message::{Headers, Message, Properties};
use tokio::time::timeout;

use crate::support::fleet::{Replica, Simulator, declare};
use crate::support::rabbit::{SharedRabbit, fresh_namespace};

pub(crate) struct Namespace {
    pub(crate) rabbit: SharedRabbit,
    pub(crate) namespace: String,
    session: Session,
    outcomes: Consumer,
}

/// What a consumer learns of the trace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    pub(crate) flags: String,
    pub(crate) tracestate: Option<String>,
}

impl Namespace {
    /// A namespace whose outcomes are consumed from one queue of its own: `results`, or that of a
    /// class.
    pub(crate) async fn new(queue: &str) -> Self {
        let (rabbit, namespace) = (SharedRabbit::get().await, fresh_namespace());
        declare(rabbit.url(), &namespace).await;
        let session = rabbit.session().await;
        let queue = format!("{namespace}.{queue}");
        let spec = ConsumeSpec { queue, prefetch: 10, tag: "consumer".to_owned() };
        let outcomes = session.link().consume(spec).await.expect("consumed");
        Self { rabbit, namespace, session, outcomes }
    }

    /// A replica that works here, with these settings beside.
    pub(crate) fn replica<'a>(
        &'a self,
        simulator: &'a Simulator,
        settings: &'a [(&'a str, &'a str)],
    ) -> Replica<'a> {
        Replica { amqp: self.rabbit.url(), namespace: &self.namespace, simulator, settings }
    }

    pub(crate) async fn publish(&self, id: &str, job: String, headers: &[(&str, &str)]) {
        let headers: Headers =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        self.publish_as(
            Properties { message_id: Some(id.to_owned()), headers, ..Properties::default() },
            job,
        )
        .await;
    }

    pub(crate) async fn publish_as(&self, properties: Properties, job: String) {
        let message = Message { body: job.into_bytes().into(), properties, transient: false };
        let queue = format!("{}.jobs", self.namespace);
        self.session.publish("", &queue, message).await.expect("published");
    }

    /// The next outcome's trace. It must be that of this job.
    pub(crate) async fn outcome(&mut self, id: &str) -> Arrived {
        let arriving = timeout(Duration::from_secs(120), self.outcomes.recv()).await;
        let delivery = arriving.expect("in time").expect("the consumer lives");
        let Properties { headers, message_id, .. } = delivery.message.properties;
        delivery.receipt.ack().expect("acked");
        assert_eq!(message_id.as_deref(), Some(id));
        let text = |name: &str| headers.get(name).and_then(|value| value.as_text().map(str::to_owned));
        let traceparent = text("traceparent").expect("an outcome has one");
        let parts: Vec<&str> = traceparent.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{traceparent}");
        Arrived {
            trace_id: parts[1].to_owned(),
            span_id: parts[2].to_owned(),
            flags: parts[3].to_owned(),
            tracestate: text("tracestate"),
        }
    }
}
