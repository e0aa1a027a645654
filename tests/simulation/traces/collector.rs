//! A collector of traces: takes OTLP over HTTP or gRPC, and keeps what came.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::routing::{MethodRouter, post};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Status;
use prost::Message;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// A span, and the replica that sent it.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) worker: String,
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) conventions: String,
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    pub(crate) parent: String,
    pub(crate) state: String,
    pub(crate) failed: bool,
    pub(crate) attributes: BTreeMap<String, Value>,
}

#[derive(Default)]
struct Kept {
    spans: Mutex<Vec<Sent>>,
    raw: Mutex<Vec<u8>>,
    /// `authorization` of the last call over gRPC.
    authorization: Mutex<Option<String>>,
    came: Notify,
}

pub(crate) struct Collector {
    pub(crate) url: String,
    kept: Arc<Kept>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let kept = Arc::<Kept>::default();
        let url = serve_http(post(take).with_state(Arc::clone(&kept))).await;
        Self { url, kept }
    }

    /// One that answers nothing until its gate is dropped.
    pub(crate) async fn start_gated() -> (Self, Gate) {
        let kept = Arc::<Kept>::default();
        let ((calls, asked), (open, opened)) = (mpsc::unbounded_channel(), watch::channel(()));
        let take_late = async move |state: State<Arc<Kept>>, body: Bytes| {
            calls.send(()).ok();
            // An error once the other end is gone, and at once from then on.
            opened.clone().changed().await.ok();
            take(state, body).await
        };
        let url = serve_http(post(take_late).with_state(Arc::clone(&kept))).await;
        (Self { url, kept }, Gate { asked, _open: open })
    }

    /// The address of one that rejects three spans of each batch, and repeats the token that it
    /// got.
    pub(crate) async fn start_rejecting() -> String {
        let reject = async |headers: HeaderMap| {
            let error_message = format!("{:?}", headers.get("authorization"));
            let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message };
            ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec()
        };
        serve_http(post(reject)).await
    }

    /// One that speaks gRPC; by a library that has nothing in common with the worker's client.
    pub(crate) async fn start_grpc() -> Self {
        let kept = Arc::<Kept>::default();
        let service = TraceServiceServer::new(Grpc(Arc::clone(&kept)));
        Self { url: serve_grpc(Routes::new(service)).await, kept }
    }

    /// The address of one that refuses everything over gRPC, and repeats the token that it got. It
    /// answers before it refuses, so that the refusal can be in the trailers alone.
    pub(crate) async fn start_refusing() -> String {
        let refuse = async |headers: HeaderMap| {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("16"));
            trailers.insert("grpc-message", headers["authorization"].clone());
            let message = Frame::data(Bytes::from_static(&[0; 5]));
            let frames = [message, Frame::trailers(trailers)].map(Ok::<_, Infallible>);
            let body = Body::new(StreamBody::new(stream::iter(frames)));
            ([("content-type", "application/grpc")], body)
        };
        let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        serve_grpc(Routes::from(Router::new().route(path, post(refuse)))).await
    }

    pub(crate) fn authorization(&self) -> Option<String> {
        self.kept.authorization.lock().expect("sound").clone()
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
        self.wait_until(what, |spans| spans.iter().find(|span| condition(span)).cloned()).await
    }

    /// Waits until the spans that have come show something.
    pub(crate) async fn wait_until<T>(&self, what: &str, look: impl Fn(&[Sent]) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let came = self.kept.came.notified();
                let seen = look(&self.kept.spans.lock().expect("sound"));
                if let Some(seen) = seen {
                    return seen;
                }
                came.await;
            }
        };
        let waited = timeout(Duration::from_secs(30), waiting).await;
        waited.unwrap_or_else(|_| panic!("not in the spans: {what}; there are {:#?}", self.spans()))
    }
}

pub(crate) struct Gate {
    /// A call has come.
    pub(crate) asked: mpsc::UnboundedReceiver<()>,
    _open: watch::Sender<()>,
}

async fn take(State(kept): State<Arc<Kept>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body.clone()) else {
        return StatusCode::BAD_REQUEST;
    };
    kept.raw.lock().expect("sound").extend_from_slice(&body);
    keep(&kept, request);
    StatusCode::OK
}

async fn serve_http(traces: MethodRouter) -> String {
    let router = Router::new().route("/v1/traces", traces);
    let (listener, url) = listen().await;
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn serve_grpc(routes: Routes) -> String {
    let (listener, url) = listen().await;
    tokio::spawn(Server::builder().serve_with_incoming(routes, TcpIncoming::from(listener)));
    url
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    (listener, url)
}

struct Grpc(Arc<Kept>);

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        *self.0.authorization.lock().expect("sound") = authorization.map(str::to_owned);
        keep(&self.0, request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn keep(kept: &Kept, request: ExportTraceServiceRequest) {
    for resource in request.resource_spans {
        let about = values(resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        let worker = about.get("service.instance.id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let spans = resource
            .scope_spans
            .into_iter()
            .flat_map(|scope| scope.spans.into_iter().map(move |span| (span, scope.schema_url.clone())));
        for (span, conventions) in spans {
            let sent = Sent {
                worker: worker.clone(),
                kind: span.kind(),
                name: span.name,
                conventions,
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                state: span.trace_state,
                failed: span.status.is_some_and(|status| status.code == Status::Error as i32),
                attributes: values(span.attributes),
            };
            kept.spans.lock().expect("sound").push(sent);
        }
    }
    kept.came.notify_waiters();
}

fn values(attributes: Vec<KeyValue>) -> BTreeMap<String, Value> {
    let value = |value: Option<any_value::Value>| match value {
        Some(any_value::Value::StringValue(text)) => text.into(),
        Some(any_value::Value::IntValue(number)) => number.into(),
        other => panic!("no span holds {other:?}"),
    };
    attributes.into_iter().map(|pair| (pair.key, value(pair.value.and_then(|value| value.value)))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
