//! The API of the app beside us: it puts the work of a context aside for a message, takes it up
//! again, begins work of its own, ends it early.
//!
//! Invariant: loopback only, and only requests that say they are meant for it; answers hold handles
//! and grants, never a context token. Whoever may talk to it is the workload, as with the app's own
//! calls. LIMIT: `LOCAL_BODY_BYTES_MAX` and `LOCAL_CALL_MS_MAX` for a request, one a connection.

mod adopt;
mod calls;
mod error;
mod form;
pub mod request;
mod service;

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use countersign_config::limits;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpStream;

pub use self::error::{LocalError, Why};
use crate::telemetry::LocalCall;
use crate::worker::Worker;

/// Serves one connection of the app: one request.
pub async fn connection(worker: Rc<Worker>, stream: TcpStream) {
    let service = service_fn(|request: Request<Incoming>| {
        let worker = Rc::clone(&worker);
        async move { Ok::<_, Infallible>(answer(&worker, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(Duration::from_millis(limits::ADMIN_HEAD_MS_MAX))
        .max_buf_size(limits::LOCAL_BODY_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // A body, the token service's answer, and a client that does not read its own.
    let limit = Duration::from_millis(limits::LOCAL_CALL_MS_MAX * 3);
    if let Ok(Err(error)) = tokio::time::timeout(limit, connection).await {
        tracing::debug!(%error, "a connection to the local API ended early");
    }
}

async fn answer(worker: &Rc<Worker>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let call = request::admit(&head.method, &head.uri, &head.headers);
    let label = call.as_ref().map_or(LocalCall::Unknown, |call| *call);
    let outcome = match call {
        Ok(call) => match read(body).await {
            Ok(body) => calls::carry_out(worker, call, &head.headers, &body).await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    let result = outcome.as_ref().map_or_else(|error| error.why.reason(), |_| "ok");
    worker.metrics.local_call(label, result);
    match outcome {
        Ok(body) => json(http::StatusCode::OK, &body),
        Err(error) => {
            tracing::info!(call = label.text(), reason = result, "the local API refused a call");
            let mut response = json(error.status(), &error.body());
            if error.why == Why::NotPost {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            }
            response
        }
    }
}

async fn read(body: Incoming) -> Result<Bytes, LocalError> {
    let patience = Duration::from_millis(limits::LOCAL_CALL_MS_MAX);
    let body = Limited::new(body, limits::LOCAL_BODY_BYTES_MAX).collect();
    match tokio::time::timeout(patience, body).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Why::TooLarge.error("the body is over its limit"))
        }
        Ok(Err(_)) => Err(Why::Malformed.error("the body broke off")),
        Err(_) => Err(Why::TooSlow.error("the body did not come in time")),
    }
}

fn json(status: http::StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{body}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
