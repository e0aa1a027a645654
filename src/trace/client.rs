//! The way to the collector: OTLP over HTTP, or over gRPC, which is one POST over HTTP/2 with the
//! same bytes in a frame and the verdict in the trailers. Both share a client, and so the roots of
//! trust and the time-outs.

use std::error::Error as _;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Limited};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderValue, TE};
use reqwest::redirect;
use tokio::runtime::{Builder, Runtime};

use super::TraceError;

const CONNECT: Duration = Duration::from_secs(2);
/// A whole call of the collector.
pub(super) const CALL: Duration = Duration::from_secs(5);
/// Over HTTP/2 a dead connection would take call after call to its time-out.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Longest answer that is read: it says little more than that the spans are taken.
const MAX_ANSWER: usize = 64 * 1024;

/// A client with a thread of its own: none of this waits on the thread that polls.
#[derive(Debug)]
pub(super) struct CollectorClient {
    client: reqwest::Client,
    is_grpc: bool,
    /// Always there until it is dropped.
    runtime: Option<Runtime>,
}

impl CollectorClient {
    /// No redirects and no proxy from the environment, as for the API.
    pub(super) fn new(is_grpc: bool) -> Result<Self, TraceError> {
        // Already installed by another part is as good: it is the same provider.
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE / 2);
        if is_grpc {
            builder = builder.http2_prior_knowledge();
        }
        let client = builder.build().map_err(|error| TraceError(with_causes(&error)))?;
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("traces").enable_all().build();
        let runtime = runtime.map_err(|error| TraceError(error.to_string()))?;
        Ok(Self { client, is_grpc, runtime: Some(runtime) })
    }
}

impl Drop for CollectorClient {
    fn drop(&mut self) {
        // It may be dropped within another runtime, which must not be blocked.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl HttpClient for CollectorClient {
    /// Logs what is lost, and why: the exporter above keeps that to itself.
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> BoxFuture<'b, Result<Response<Bytes>, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        let (client, is_grpc) = (self.client.clone(), self.is_grpc);
        let exchange =
            async move { if is_grpc { call(client, request).await } else { post(client, request).await } };
        let exchange = self.runtime.as_ref().map(|runtime| runtime.spawn(exchange));
        Box::pin(async move {
            let end = match exchange {
                Some(exchange) => exchange.await.unwrap_or_else(|error| Err(error.to_string())),
                None => Err("stopped".to_owned()),
            };
            match &end {
                Ok(answer) => report_partial(answer.body().clone()),
                Err(error) => tracing::warn!(
                    error,
                    "cannot send traces to traces.otlp_endpoint; they are lost, jobs are not affected"
                ),
            }
            end.map_err(HttpError::from)
        })
    }
}

/// Where the collector has taken a batch in part only, or has a word about it. That word is its
/// own, and could repeat a header. An answer that cannot be read says nothing.
fn report_partial(answer: Bytes) {
    let partial = ExportTraceServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
    if let Some(partial) = partial
        && (partial.rejected_spans > 0 || !partial.error_message.is_empty())
    {
        tracing::warn!(
            rejected_spans = partial.rejected_spans,
            "the collector of traces has rejected spans, or warns about them; its own log says why"
        );
    }
}

/// OTLP over HTTP.
async fn post(client: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
    let (status, answer, _) = exchange(client, request).await?;
    if !status.is_success() {
        return Err(format!("HTTP {status}"));
    }
    Ok(Response::new(answer))
}

/// OTLP over gRPC.
async fn call(client: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
    let (mut head, spans) = request.into_parts();
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.headers.insert(TE, HeaderValue::from_static("trailers"));
    let length = u32::try_from(spans.len()).map_err(|error| error.to_string())?;
    // Not compressed; so long.
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&spans);
    let (status, answer, verdict) = exchange(client, Request::from_parts(head, framed.into())).await?;
    match verdict.as_ref().map(HeaderValue::as_bytes) {
        Some(b"0") => Ok(Response::new(answer.get(5..).map(Bytes::copy_from_slice).unwrap_or_default())),
        // Its text is the collector's, and could repeat a header.
        Some(code) => Err(format!("gRPC status {}", String::from_utf8_lossy(&code[..code.len().min(8)]))),
        None => Err(format!("HTTP {status} without a gRPC status")),
    }
}

/// The status, the body, and `grpc-status`: in the trailers, or in the headers of an answer that
/// has nothing else.
async fn exchange(
    client: reqwest::Client,
    request: Request<Bytes>,
) -> Result<(reqwest::StatusCode, Bytes, Option<HeaderValue>), String> {
    let request = reqwest::Request::try_from(request).map_err(|error| with_causes(&error))?;
    let response: Response<reqwest::Body> =
        client.execute(request).await.map_err(|error| with_causes(&error))?.into();
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
    let of = |headers: &reqwest::header::HeaderMap| headers.get("grpc-status").cloned();
    let verdict = body.trailers().and_then(of).or_else(|| of(&head.headers));
    Ok((head.status, body.to_bytes(), verdict))
}

/// The error with its causes, which its own text does not name, and without the address.
fn with_causes(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "no answer in time".to_owned() } else { "no answer".to_owned() };
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
