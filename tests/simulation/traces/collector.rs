//! A collector of traces: takes OTLP over HTTP, and keeps what came.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Status;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;

/// A span, and the replica that sent it.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) worker: String,
    pub(crate) name: String,
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    pub(crate) parent: String,
    pub(crate) state: String,
    pub(crate) failed: bool,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) events: Vec<String>,
}

#[derive(Default)]
struct Kept {
    spans: Mutex<Vec<Sent>>,
    raw: Mutex<Vec<u8>>,
    came: Notify,
}

pub(crate) struct Collector {
    pub(crate) url: String,
    kept: Arc<Kept>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let kept = Arc::<Kept>::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&kept));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, kept }
    }

    pub(crate) fn spans(&self) -> Vec<Sent> {
        self.kept.spans.lock().expect("sound").clone()
    }

    /// All bytes that came.
    pub(crate) fn raw(&self) -> Vec<u8> {
        self.kept.raw.lock().expect("sound").clone()
    }

    /// Waits until a span has come that a condition holds for.
    pub(crate) async fn wait_for(&self, what: &str, condition: impl Fn(&Sent) -> bool) -> Sent {
        let waiting = async {
            loop {
                let came = self.kept.came.notified();
                if let Some(span) = self.spans().into_iter().find(&condition) {
                    return span;
                }
                came.await;
            }
        };
        let waited = timeout(Duration::from_secs(30), waiting).await;
        waited.unwrap_or_else(|_| panic!("no span: {what}; there are {:#?}", self.spans()))
    }
}

async fn take(State(kept): State<Arc<Kept>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body.clone()) else {
        return StatusCode::BAD_REQUEST;
    };
    kept.raw.lock().expect("sound").extend_from_slice(&body);
    for resource in request.resource_spans {
        let about = texts(resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        let worker = about.get("service.instance.id").cloned().unwrap_or_default();
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let sent = Sent {
                worker: worker.clone(),
                name: span.name,
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                state: span.trace_state,
                failed: span.status.is_some_and(|status| status.code == Status::Error as i32),
                attributes: texts(span.attributes),
                events: span.events.into_iter().map(|event| event.name).collect(),
            };
            kept.spans.lock().expect("sound").push(sent);
        }
    }
    kept.came.notify_waiters();
    StatusCode::OK
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<any_value::Value>| match value {
        Some(any_value::Value::StringValue(text)) => text,
        other => format!("{other:?}"),
    };
    attributes.into_iter().map(|pair| (pair.key, text(pair.value.and_then(|value| value.value)))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
