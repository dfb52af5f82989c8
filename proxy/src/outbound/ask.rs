//! Calls that this proxy makes itself, through the pools and by the rules of the app's own calls:
//! only to a destination of the documents, only to an identity expected there.
//!
//! Invariant: whoever answers has proved itself before a byte of the body is made; what is read of
//! the answer is bounded, in bytes and in time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use countersign_config::limits;
use countersign_policy::Documents;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::uri::Authority;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Limited};

use super::discover::Destination;
use super::encrypt;
use super::exchange::{Answer, Tries, Try};
use super::forward;
use super::hand_on::Carries;
use crate::http::body::{Guards, ProxyBody};
use crate::journal::Journal;
use crate::live::Snapshot;
use crate::refusal::{Refusal, Refused, Stage};
use crate::upstream::mesh::MeshEnds;
use crate::worker::Worker;

/// What is sent.
pub struct Question<'a, F> {
    /// Whom it is for.
    pub destination: &'a Destination,
    /// Where there.
    pub path: &'static str,
    /// The context it goes out with.
    pub carries: &'a Carries,
    /// Makes the form, for the other end that proved itself.
    pub form: F,
}

/// What came back.
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its body, whole.
    pub body: Bytes,
}

/// POSTs a form and reads the answer.
///
/// # Errors
/// What a call of the app can be refused for, `upstream_timeout`, `upstream_failed`.
pub async fn ask<F>(
    worker: &Rc<Worker>,
    question: Question<'_, F>,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<Reply, Refused>
where
    F: FnOnce(&MeshEnds) -> Result<String, Refused>,
{
    let limit = Duration::from_millis(limits::LOCAL_CALL_MS_MAX);
    let asked = tokio::time::timeout(limit, exchange(worker, question, snap, journal)).await;
    asked.unwrap_or_else(|_| {
        Err(refuse(Refusal::UpstreamTimeout, format!("no answer within {limit:?}")))
    })
}

async fn exchange<F>(
    worker: &Rc<Worker>,
    question: Question<'_, F>,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<Reply, Refused>
where
    F: FnOnce(&MeshEnds) -> Result<String, Refused>,
{
    let Question { destination, path, carries, form } = question;
    let slot = worker.admit()?;
    let secured = encrypt::lease(worker, destination, None, Version::HTTP_2, snap, journal).await?;
    let outside = || refuse(Refusal::UpstreamFailed, "nothing of ours is asked outside the mesh");
    let form = form(secured.ends.as_ref().ok_or_else(outside)?)?;
    let head = Request::post(path)
        .version(Version::HTTP_2)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(CONTENT_LENGTH, form.len())
        .header(ACCEPT, HeaderValue::from_static("application/json"))
        .body(())
        .map_err(|error| refuse(Refusal::RequestMalformed, error.to_string()))?;
    let (mut parts, ()) = head.into_parts();
    let authority = authority(destination, &snap.documents)?;
    forward::prepare(&mut parts, secured.alpn, &authority, destination, journal.direction)?;
    let request = Request::from_parts(parts, ProxyBody::full(form));
    let last = Try { visit: None, addr: secured.endpoint.addr, peer: None };
    let last = RefCell::new(last);
    let tries = Tries { worker, destination, carries, last: &last };
    let answer = tries.run(secured, request, journal).await;
    let visit = last.into_inner().visit;
    let answer = Ok(answer);
    forward::account(worker, destination, visit, &answer);
    let (response, checkout): Answer = match answer {
        Ok(answer) => answer?,
        Err(late) => return Err(forward::of_late(late, Refusal::UpstreamTimeout)),
    };
    let (head, body) = response.into_parts();
    let guards = Guards { checkout: Some(checkout), in_flight: Some(slot), ..Guards::default() };
    let body = Limited::new(ProxyBody::guarded(body, guards), limits::TOKEN_ANSWER_BYTES_MAX);
    let body = body.collect().await;
    let body = body.map_err(|error| refuse(Refusal::UpstreamFailed, error.to_string()))?;
    Ok(Reply { status: head.status, body: body.to_bytes() })
}

/// The host the callee's rules know it by: the first of its document, else its name.
fn authority(destination: &Destination, documents: &Documents) -> Result<Authority, Refused> {
    let named = |d: &&countersign_policy::Named<countersign_policy::doc::Destination>| {
        destination.name.split_once('/') == Some((d.namespace.as_str(), d.name.as_str()))
    };
    let first = documents.destinations.iter().find(named).and_then(|d| d.spec.hosts.first());
    let text = match first {
        Some(host) => host.clone(),
        None => destination.name.split('/').rev().collect::<Vec<_>>().join("."),
    };
    text.parse().map_err(|_| refuse(Refusal::HostInvalid, format!("`{text}` is no host")))
}

fn refuse(refusal: Refusal, detail: impl Into<String>) -> Refused {
    Refused::new(refusal, Stage::Forward, detail)
}
