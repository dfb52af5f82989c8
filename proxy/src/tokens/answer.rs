//! The JSON a requester gets: RFC 8693 §2.2.1, or an error of RFC 6749 §5.2. Never cached, and
//! never a refresh token.

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::request::Requested;
use super::{Granted, Issued, Request, TokenError};
use crate::http::body::ProxyBody;

/// The answer to a request that was granted.
pub(super) fn granted(granted: Granted, request: &Request) -> Response<ProxyBody> {
    let Granted { issued, expires_in_s, scope } = granted;
    let (token, kind) = match issued {
        Issued::Context(minted) => (minted.token.into_exposed(), Requested::Context),
        Issued::Grant(made) => (made.text.expose().to_owned(), Requested::Deferred),
    };
    let mut body = json!({
        "access_token": token,
        "issued_token_type": kind.urn(),
        "token_type": "N_A",
        "expires_in": expires_in_s,
    });
    if scope != request.scope {
        body["scope"] = scope.join(" ").into();
    }
    answer(StatusCode::OK, &body)
}

/// The answer to one that was not.
pub(super) fn refused(error: &TokenError) -> Response<ProxyBody> {
    let row = error.why.refusal().row();
    let status = StatusCode::from_u16(row.http).unwrap_or(StatusCode::BAD_REQUEST);
    let body = json!({"error": error.why.code(), "error_description": error.why.says()});
    let mut response = answer(status, &body);
    if error.why.code() == "temporarily_unavailable" {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn answer(status: StatusCode, body: &Value) -> Response<ProxyBody> {
    let body = body.to_string();
    let mut response = Response::new(ProxyBody::Empty);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    *response.body_mut() = ProxyBody::full(body);
    response
}
