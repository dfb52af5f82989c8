//! Answers probes of readiness on the data path itself: on the readiness address, and to port 15022,
//! which nobody binds: only the redirect leads those here, so an answer proves it. The answer is that
//! of `/ready`, whatever path was asked.
//!
//! Invariant: no policy is asked and nothing is forwarded; one request, then the connection ends.
//! LIMIT: `ADMIN_HEAD_MS_MAX` and `ADMIN_HEAD_BYTES_MAX` for the request.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use countersign_config::limits;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use crate::admin::Readiness;
use crate::intercept::listen;

/// Serves one request on `io`.
pub async fn answer<IO: AsyncRead + AsyncWrite + Unpin>(io: IO, readiness: &Readiness) {
    let service = service_fn(|request: Request<Incoming>| {
        std::future::ready(Ok::<_, Infallible>(body(request.method(), readiness)))
    });
    let head = Duration::from_millis(limits::ADMIN_HEAD_MS_MAX);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(head)
        .max_buf_size(limits::ADMIN_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(io), service);
    // A client that does not read its answer is left after the same time again.
    if let Ok(Err(error)) = tokio::time::timeout(head * 2, connection).await {
        tracing::debug!(%error, "a readiness probe ended early");
    }
}

/// Answers on a listener of its own, one request a connection, until it is dropped. A probe that
/// does not speak up costs a place, and there are `ADMIN_CONNS_MAX`.
pub async fn serve(socket: std::net::TcpListener, readiness: Readiness) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(code = "DP-12", %error, "readiness is not served");
            return;
        }
    };
    let mut probes = FuturesUnordered::new();
    loop {
        let room = probes.len() < limits::ADMIN_CONNS_MAX;
        tokio::select! {
            Some(()) = probes.next(), if !probes.is_empty() => {}
            accepted = listen::accept(&listener, || ()), if room => match accepted {
                Ok((stream, _)) => {
                    let readiness = readiness.clone();
                    probes.push(async move { answer(stream, &readiness).await });
                }
                Err(error) => {
                    tracing::error!(code = "DP-12", %error, "readiness is no longer served");
                    return;
                }
            }
        }
    }
}

fn body(method: &Method, readiness: &Readiness) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if *method != Method::GET && *method != Method::HEAD {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return response;
    }
    if !readiness.is_ready() {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    *response.body_mut() = Full::new(readiness.to_json().to_string().into());
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::admin::Condition;

    fn ask(readiness: &Readiness) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (mut client, server) = tokio::io::duplex(8_192);
            client.write_all(b"GET /any HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
            answer(server, readiness).await;
            let mut text = String::new();
            client.read_to_string(&mut text).await.expect("an answer and its end");
            text
        })
    }

    #[test]
    fn it_says_what_ready_says_and_closes() {
        let readiness = Readiness::new();
        let answer = ask(&readiness);
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("not started yet"), "{answer}");
        for condition in Condition::ALL {
            readiness.met(*condition);
        }
        assert!(ask(&readiness).starts_with("HTTP/1.1 200"));
    }
}
