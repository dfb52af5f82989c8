//! One `CertificateSigningRequest`: made, then looked at until it is decided.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::super::renewing::{IssueError, Wanted};
use super::{
    Pace,
    api::{Api, shown},
};

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const CREATE: &str = "create CertificateSigningRequest";
const GET: &str = "get CertificateSigningRequest";
/// A name of an object.
const NAME_BYTES_MAX: usize = 253;

/// A request that was granted.
#[derive(Debug)]
pub(super) struct Decided {
    /// PEM, as the signer wrote it.
    pub(super) certificate: Vec<u8>,
}

#[derive(Debug, Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    certificate: Option<String>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    reason: String,
    message: String,
}

/// Makes the object and gives its name.
pub(super) async fn create(
    api: &Api,
    signer_name: &str,
    wanted: &Wanted<'_>,
) -> Result<String, IssueError> {
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "countersign-"},
        "spec": {
            "request": STANDARD.encode(wanted.csr_pem),
            "signerName": signer_name,
            "expirationSeconds": wanted.life_s,
            "usages": ["digital signature", "client auth", "server auth"],
        },
    });
    let answer = api.create(CREATE, PATH, &object).await?;
    match answer.status {
        StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED => {}
        StatusCode::NOT_FOUND => {
            let error = api.refused(CREATE, &answer);
            return Err(error.hint("is `server` a Kubernetes API server?"));
        }
        _ => return Err(api.refused(CREATE, &answer)),
    }
    let object: Object = answer.json().map_err(|problem| IssueError::retry(CREATE, problem))?;
    let name = object.metadata.name;
    if is_name(&name) {
        return Ok(name);
    }
    let problem = format!("the API server calls the request `{}`, which is no name", shown(&name));
    Err(IssueError::retry(CREATE, problem))
}

/// Looks at the object until somebody decided, or nobody did for too long.
pub(super) async fn decided(api: &Api, name: &str, pace: Pace) -> Result<Decided, IssueError> {
    let path = format!("{PATH}/{name}");
    let end = Instant::now() + pace.at_most;
    loop {
        sleep(pace.every).await;
        let late = Instant::now() >= end;
        match look(api, name, &path).await {
            Ok(Seen::Granted(certificate)) => return Ok(Decided { certificate }),
            Ok(Seen::Undecided(open)) if late => return Err(undecided(name, open, pace)),
            Ok(Seen::Undecided(_)) => {}
            Err(Glance::Passing(error)) if late => return Err(error),
            Err(Glance::Passing(_)) => {}
            Err(Glance::Final(error)) => return Err(error),
        }
    }
}

enum Seen {
    Granted(Vec<u8>),
    Undecided(Open),
}

/// What is still missing.
#[derive(Clone, Copy)]
enum Open {
    Approval,
    Certificate,
}

/// A look that told nothing.
enum Glance {
    /// The next one may.
    Passing(IssueError),
    /// None of this request's will.
    Final(IssueError),
}

async fn look(api: &Api, name: &str, path: &str) -> Result<Seen, Glance> {
    let answer = api.get(GET, path).await.map_err(Glance::Passing)?;
    match answer.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            let error = IssueError::retry(GET, format!("{name} is gone, and nobody decided"));
            return Err(Glance::Final(error));
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(Glance::Final(api.refused(GET, &answer)));
        }
        _ => return Err(Glance::Passing(api.refused(GET, &answer))),
    }
    let object: Object =
        answer.json().map_err(|problem| Glance::Passing(IssueError::retry(GET, problem)))?;
    let Status { certificate, conditions } = object.status;
    for kind in ["Denied", "Failed"] {
        if let Some(told) = conditions.iter().find(|condition| condition.kind == kind) {
            return Err(Glance::Final(turned_down(name, kind, told)));
        }
    }
    if let Some(text) = certificate.filter(|text| !text.is_empty()) {
        let bytes = STANDARD.decode(text).map_err(|error| {
            let problem = format!("{name}: status.certificate is no base64: {error}");
            Glance::Final(IssueError::retry(GET, problem))
        })?;
        return Ok(Seen::Granted(bytes));
    }
    let approved = conditions.iter().any(|condition| condition.kind == "Approved");
    Ok(Seen::Undecided(if approved { Open::Certificate } else { Open::Approval }))
}

/// Somebody said no, and why.
fn turned_down(name: &str, kind: &str, told: &Condition) -> IssueError {
    let word = if kind == "Denied" { "was denied" } else { "failed" };
    let (reason, message) = (shown(&told.reason), shown(&told.message));
    let call = "decide on CertificateSigningRequest";
    IssueError::retry(call, format!("{name} {word}: {reason}: {message}"))
        .hint(format!("kubectl describe csr {name}"))
}

fn undecided(name: &str, open: Open, pace: Pace) -> IssueError {
    let waited_s = pace.at_most.as_secs();
    let (what, hint) = match open {
        Open::Approval => (
            "nobody approved or denied it",
            "is `countersign signer` running for this signerName, and may it list requests?",
        ),
        Open::Certificate => (
            "it is approved, and nobody signed it",
            "is `countersign signer` running, and may it update \
             certificatesigningrequests/status and `sign` for this signerName?",
        ),
    };
    let problem = format!("{name}: {what} within {waited_s} s");
    IssueError::retry("decide on CertificateSigningRequest", problem).hint(hint)
}

/// What becomes part of a path must be a name and nothing else.
fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && text.bytes().all(|b| inner(b) || b == b'-' || b == b'.')
        && text.bytes().next().is_some_and(inner)
}
