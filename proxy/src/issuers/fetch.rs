//! Fetches the key set of an issuer from one place of its Destination, over mesh mutual TLS.
//!
//! Invariant: only an identity that the Destination names may answer; the answer is bounded in size
//! and time, and nothing of it counts unless all of it can be used.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_config::limits::{CONTROL_CALL_MS_MAX, JWKS_BYTES_MAX};
use countersign_ctxtoken::KeySet;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::publish::ISSUERS_PATH;
use crate::tls::MeshTls;
use crate::tls::verify::ExpectedIds;
use crate::upstream::connect;

/// A place that publishes keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What is dialled.
    pub address: SocketAddr,
    /// Who may answer.
    pub expected: Arc<ExpectedIds>,
    /// The host that is asked for, as policies there see it.
    pub host: String,
}

/// One fetch.
///
/// # Errors
/// A sentence for the log.
pub async fn fetch(place: &Place, tls: &MeshTls) -> Result<KeySet, String> {
    let limit = Duration::from_millis(CONTROL_CALL_MS_MAX);
    let text = tokio::time::timeout(limit, get(place, tls))
        .await
        .map_err(|_| format!("no answer within {CONTROL_CALL_MS_MAX} ms"))??;
    KeySet::from_jwks_json(&text).map_err(|error| error.to_string())
}

async fn get(place: &Place, tls: &MeshTls) -> Result<Bytes, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let (stream, _) = connect::to_mesh_http1(place.address, &place.expected, tls)
        .await
        .map_err(|error| words(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| words(&error))?;
    let driven = AbortOnDrop(tokio::spawn(connection));
    let request = Request::get(ISSUERS_PATH)
        .header(header::HOST, &place.host)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| words(&error))?;
    let response = sender.send_request(request).await.map_err(|error| words(&error))?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(match status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                format!("{status}: the issuer's policy does not let us read {ISSUERS_PATH}")
            }
            _ => status.to_string(),
        });
    }
    let body = Limited::new(response.into_body(), JWKS_BYTES_MAX).collect().await;
    drop(driven);
    body.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string())
}

/// The connection ends with the fetch.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
