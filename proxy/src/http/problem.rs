//! What the caller of a refused request gets: status, coarse title and decision id, as problem
//! details (RFC 9457) or as a gRPC trailers-only response. The fine reason is never in it.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, Response, StatusCode};

use crate::http::body::ProxyBody;
use crate::http::hygiene;
use crate::refusal::Refusal;

/// Who reads the refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience<'a> {
    /// Somebody outside, or without a certificate: status, title and id.
    Outside,
    /// The same, with the code of whoever was asked about the request.
    Told(&'a str),
    /// A mesh caller: also the message the rule's author wrote for it.
    Mesh(Option<&'a str>),
}

/// The response to a refused request.
pub fn response(
    refusal: Refusal,
    id: &str,
    grpc: bool,
    audience: Audience<'_>,
) -> Response<ProxyBody> {
    let mut response =
        if grpc { grpc_response(refusal) } else { http_response(refusal, id, audience) };
    set_decision(response.headers_mut(), id);
    response
}

/// Adds a refusal's own fields: the first of a name replaces what every refusal has.
pub fn add(headers: &mut HeaderMap, fields: &[(HeaderName, HeaderValue)]) {
    for (number, (name, value)) in fields.iter().enumerate() {
        if fields.iter().take(number).any(|(earlier, _)| earlier == name) {
            headers.append(name, value.clone());
        } else {
            headers.insert(name, value.clone());
        }
    }
}

/// Sets `Countersign-Decision`, the one reserved response header that travels to the client.
pub fn set_decision(headers: &mut HeaderMap, id: &str) {
    if let Ok(mut value) = HeaderValue::from_str(id) {
        // Never the same twice: in HPACK's table it would push out what is.
        value.set_sensitive(true);
        headers.insert(hygiene::DECISION, value);
    }
}

fn http_response(refusal: Refusal, id: &str, audience: Audience<'_>) -> Response<ProxyBody> {
    let row = refusal.row();
    let mut body = serde_json::json!({
        "type": format!("https://countersign.dev/e/{}", row.title),
        "title": row.title,
        "status": row.http,
        "instance": format!("urn:countersign:decision:{}", id),
    });
    if let (Audience::Told(code), Some(fields)) = (audience, body.as_object_mut()) {
        fields.insert("code".to_owned(), code.into());
    }
    if let (Audience::Mesh(Some(message)), Some(fields)) = (audience, body.as_object_mut()) {
        fields.insert("detail".to_owned(), message.into());
    }
    let body = body.to_string();
    let mut response = Response::new(ProxyBody::Empty);
    *response.status_mut() = StatusCode::from_u16(row.http).unwrap_or(StatusCode::FORBIDDEN);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    if row.http == 401 {
        let challenge = challenge(refusal);
        if let Ok(value) = HeaderValue::from_str(&challenge) {
            headers.insert(WWW_AUTHENTICATE, value);
        }
    }
    if row.title == "overloaded" {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    *response.body_mut() = ProxyBody::full(body);
    response
}

/// The end user answers a `Bearer` challenge (RFC 6750 §3), a workload a `Countersign` one.
fn challenge(refusal: Refusal) -> String {
    let row = refusal.row();
    if row.by == "gateway" {
        let error = if row.title == "missing_token" { None } else { Some("invalid_token") };
        return match error {
            Some(error) => format!("Bearer error=\"{error}\""),
            None => "Bearer".to_owned(),
        };
    }
    format!("Countersign error=\"{}\"", row.title)
}

/// Trailers-only: the status is in the head (gRPC over HTTP/2, "Responses").
fn grpc_response(refusal: Refusal) -> Response<ProxyBody> {
    let row = refusal.row();
    let mut response = Response::new(ProxyBody::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(row.grpc)));
    headers.insert("grpc-message", HeaderValue::from_static(row.title));
    if let Ok(details) = HeaderValue::from_str(&error_info(row.title, row.grpc)) {
        headers.insert("grpc-status-details-bin", details);
    }
    response
}

/// `google.rpc.Status` with one `ErrorInfo{reason, domain}`, base64 without padding.
/// Field numbers: google/rpc/status.proto, google/rpc/error_details.proto.
fn error_info(title: &str, code: u8) -> String {
    use base64::Engine as _;
    let mut info = Vec::new();
    field(&mut info, 1, title.as_bytes());
    field(&mut info, 2, b"countersign.dev");
    let mut any = Vec::new();
    field(&mut any, 1, b"type.googleapis.com/google.rpc.ErrorInfo");
    field(&mut any, 2, &info);
    let mut status = vec![0x08, code];
    field(&mut status, 2, title.as_bytes());
    field(&mut status, 3, &any);
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(status)
}

/// One length-delimited protobuf field; all of ours are shorter than 16,384 bytes.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap_or(0));
    out.extend_from_slice(bytes);
}
