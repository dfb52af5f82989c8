//! Asks the token service for something, as this workload.
//!
//! Invariant: the service is the Destination that the documents name, and only an identity expected
//! there is asked; what it answers is believed as far as it verifies.

use std::rc::Rc;
use std::sync::Arc;

use http::{Method, Response, StatusCode};
use serde::Deserialize;

use super::error::{LocalError, Why};
use super::form::Form;
use crate::http::body::ProxyBody;
use crate::journal::Journal;
use crate::live::Snapshot;
use crate::outbound::ask::{self, Question, Reply};
use crate::outbound::hand_on::Carries;
use crate::refusal::Refused;
use crate::telemetry::Direction;
use crate::upstream::mesh::MeshEnds;
use crate::worker::Worker;

/// Where the service answers.
const PATH: &str = "/v1/token";

/// What was issued.
#[derive(Deserialize)]
pub(super) struct Issued {
    /// The token, or the grant.
    pub(super) access_token: String,
    /// Which of them.
    pub(super) issued_token_type: String,
    /// Seconds from now.
    pub(super) expires_in: u64,
    /// What it is for, where that is not what was asked for.
    pub(super) scope: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    error_description: String,
}

/// Exchanges what `form` brings. It is made for the service that proved itself.
///
/// # Errors
/// [`LocalError`].
pub(super) async fn exchange(
    worker: &Rc<Worker>,
    snap: &Arc<Snapshot>,
    carries: &Carries,
    form: impl FnOnce(&MeshEnds) -> Result<Form, Refused>,
) -> Result<Issued, LocalError> {
    let missing = |detail: &str| Why::ServiceMissing.error(detail);
    let name = snap.documents.mesh.token_service.as_ref();
    let name = name.ok_or_else(|| missing("the mesh names no token service"))?.to_string();
    let destination = snap.destinations.by_name(&name);
    let destination = destination.ok_or_else(|| missing("there is no such Destination"))?;
    let mut journal = Journal::ours(worker, snap, Direction::Outbound, Method::POST);
    let form = |ends: &MeshEnds| form(ends).map(Form::into_body);
    let question = Question { destination, path: PATH, carries, form };
    let reply = ask::ask(worker, question, snap, &mut journal).await;
    let id = journal.id_text().to_owned();
    let series = worker.metrics.no_peer();
    match reply {
        Ok(reply) => {
            let mut response = Response::new(ProxyBody::Empty);
            *response.status_mut() = reply.status;
            let _ = journal.finish(&series, Ok(response));
            read(&reply).map_err(|error| error.decided(&id))
        }
        Err(refused) => {
            let detail = format!("the token service could not be asked: {}", refused.reason());
            let _ = journal.finish(&series, Err(refused));
            Err(Why::ServiceUnreachable.error(detail).decided(&id))
        }
    }
}

fn read(reply: &Reply) -> Result<Issued, LocalError> {
    if reply.status == StatusCode::OK {
        let invalid = |_| Why::ServiceAnswer.error("its answer is not that of a token exchange");
        return serde_json::from_slice(&reply.body).map_err(invalid);
    }
    let why = match reply.status.as_u16() {
        429 => Why::ServiceBusy,
        500..=599 => Why::ServiceUnreachable,
        _ => Why::ServiceRefused,
    };
    let Ok(refusal) = serde_json::from_slice::<Refusal>(&reply.body) else {
        return Err(why.error(format!("the token service answered {}", reply.status.as_u16())));
    };
    let mut error = why.error(refusal.error_description);
    error.service_error = Some(refusal.error);
    Err(error)
}
