//! What the signer asks of the API server and writes there.
//!
//! Requests are listed once and then watched in windows of a second, so that many finished ones
//! cost nothing. The token is read again for each call.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_certs_client::api_server::{ApiServer, ApiServerError};
use countersign_certs_client::https::{Answer, HttpsError, Problem, Request as Call, Url};
use countersign_config::KubernetesApi;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::authority::AuthorityError;
use super::decide::{Place, Pod};
use super::request::{Request, Requester, Stage};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// Newest first; a cluster serves those it has.
const BUNDLE_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// Objects of one page of a list; one has near 4 KiB.
const PAGE: usize = 200;
/// Bytes of one page or window.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Length of a window. Whoever asks looks at the answer once a second.
const WINDOW_S: u64 = 1;
/// Who decided, in the conditions.
const REASON: &str = "CountersignSigner";

/// An answer that is no success, or none at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// Somebody else wrote the object first.
    #[error("{0}: the object has changed in between")]
    Conflict(&'static str),
    #[error("{call}: {answer}{}", .hint.map(|hint| format!("; {hint}")).unwrap_or_default())]
    Refused { call: &'static str, answer: String, hint: Option<&'static str> },
    /// More than is taken at once.
    #[error("{0}: the answer is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge(&'static str),
    /// Granted, and the authority could not sign it.
    #[error("nothing can be signed: {0}")]
    Unsigned(AuthorityError),
}

/// The requests that wait, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// By name.
    pub(crate) requests: BTreeMap<String, Request>,
    /// Up to where changes were seen; `None`: list anew.
    version: Option<String>,
}

impl Waiting {
    fn take(&mut self, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match Request::read(object) {
            Ok(request) if request.stage != Stage::Closed => {
                self.requests.insert(name, request);
            }
            Ok(_) => drop(self.requests.remove(&name)),
            Err(problem) => {
                tracing::warn!(%name, %problem, "a certificate request cannot be read");
                self.requests.remove(&name);
            }
        }
    }
}

/// The API server.
#[derive(Clone)]
pub(crate) struct Cluster {
    server: ApiServer,
    signer_name: String,
}

impl Cluster {
    pub(crate) fn new(api: &KubernetesApi, signer_name: &str) -> Result<Cluster, &'static str> {
        let server = ApiServer::new(api)?.answer_bytes_max(ANSWER_BYTES_MAX);
        Ok(Cluster { server, signer_name: signer_name.to_owned() })
    }

    /// Brings what waits up to date; takes up to one window if nothing happens.
    pub(crate) async fn follow(&self, waiting: &mut Waiting) -> Result<(), ClusterError> {
        match waiting.version.clone() {
            None => self.list(waiting).await,
            Some(version) => self.watch(waiting, &version).await,
        }
    }

    async fn list(&self, waiting: &mut Waiting) -> Result<(), ClusterError> {
        let call = "list CertificateSigningRequests";
        let mut fresh = Waiting::default();
        let (mut page, mut limit) = (String::new(), PAGE);
        loop {
            let selector = self.selector();
            let path = format!("{REQUESTS}?{selector}&limit={limit}{page}");
            let answer = match self.ask(call, Call::get(self.url(call, &path)?)).await {
                // Anybody who may ask can ask with much: then fewer of them at once.
                Err(ClusterError::TooLarge(_)) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                other => other?,
            };
            let list: List = decode(call, &expect(call, answer)?)?;
            list.items.into_iter().for_each(|item| fresh.take(item));
            match list.metadata.next {
                Some(next) if !next.is_empty() => page = format!("&continue={next}"),
                _ => {
                    fresh.version = Some(list.metadata.resource_version);
                    *waiting = fresh;
                    return Ok(());
                }
            }
        }
    }

    async fn watch(&self, waiting: &mut Waiting, version: &str) -> Result<(), ClusterError> {
        let call = "watch CertificateSigningRequests";
        let selector = self.selector();
        let path = format!(
            "{REQUESTS}?{selector}&watch=1&allowWatchBookmarks=true&timeoutSeconds={WINDOW_S}\
             &resourceVersion={version}"
        );
        let answer = match self.ask(call, Call::get(self.url(call, &path)?)).await {
            Err(ClusterError::TooLarge(_)) => None,
            other => Some(other?),
        };
        // Too old, or too much happened since: the list has all of it, in pages.
        let Some(answer) = answer.filter(|answer| answer.status != StatusCode::GONE) else {
            waiting.version = None;
            return Ok(());
        };
        let body = expect(call, answer)?.body;
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // A window may end in the middle of a line; the next one begins with that event.
            let Ok(Event { kind, object }) = serde_json::from_slice::<Event>(line) else { break };
            if kind == "ERROR" {
                waiting.version = None;
                return Ok(());
            }
            let version = object["metadata"]["resourceVersion"].as_str().map(str::to_owned);
            match kind.as_str() {
                "ADDED" | "MODIFIED" => waiting.take(object),
                "DELETED" => {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    waiting.requests.remove(name);
                }
                _ => {}
            }
            waiting.version = version.or(waiting.version.take());
        }
        Ok(())
    }

    fn selector(&self) -> String {
        format!("fieldSelector=spec.signerName%3D{}", self.signer_name.replace('/', "%2F"))
    }

    /// The request as it is now; `None` if it is gone.
    pub(crate) async fn request(&self, name: &str) -> Result<Option<Value>, ClusterError> {
        let call = "get CertificateSigningRequest";
        let answer = self.ask(call, Call::get(self.url(call, &format!("{REQUESTS}/{name}"))?));
        let answer = answer.await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        decode(call, &expect(call, answer)?).map(Some)
    }

    /// The pod that asks; `None` if there is none of that name.
    pub(crate) async fn pod(&self, of: &Requester) -> Result<Option<Pod>, ClusterError> {
        let call = "get Pod";
        let path = format!("/api/v1/namespaces/{}/pods/{}", of.namespace, of.pod_name);
        let answer = self.ask(call, Call::get(self.url(call, &path)?)).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let wire: WirePod = decode(call, &expect(call, answer)?)?;
        Ok(Some(Pod {
            uid: wire.metadata.uid,
            account: wire.spec.service_account_name,
            node: wire.spec.node_name.filter(|name| !name.is_empty()),
            terminating: wire.metadata.deletion_timestamp.is_some(),
            ended: matches!(wire.status.phase.as_str(), "Succeeded" | "Failed"),
        }))
    }

    /// Where a node is. A node that is gone, or may not be read, is nowhere: unknown facts.
    pub(crate) async fn place(&self, node: &str) -> Result<Place, ClusterError> {
        let call = "get Node";
        let path = format!("/api/v1/nodes/{node}");
        let answer = self.ask(call, Call::get(self.url(call, &path)?)).await?;
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN) {
            tracing::warn!(node, answer = answer.status.as_u16(), "zone and region are unknown");
            return Ok(Place::default());
        }
        let wire: WireNode = decode(call, &expect(call, answer)?)?;
        let label =
            |name: &str| wire.metadata.labels.get(name).filter(|value| !value.is_empty()).cloned();
        Ok(Place {
            zone: label("topology.kubernetes.io/zone"),
            region: label("topology.kubernetes.io/region"),
        })
    }

    /// Approves or denies; gives the object as it is then.
    pub(crate) async fn decide(
        &self,
        object: &Value,
        kind: &str,
        (reason, message): (&str, &str),
    ) -> Result<Value, ClusterError> {
        let object = with_condition(object, kind, reason, message);
        self.write("update CertificateSigningRequest/approval", "approval", &object).await
    }

    /// Approves what is granted.
    pub(crate) async fn approve(&self, object: &Value, whom: &str) -> Result<Value, ClusterError> {
        self.decide(object, "Approved", (REASON, whom)).await
    }

    /// Writes the certificate.
    pub(crate) async fn issue(&self, object: &Value, pem: &str) -> Result<(), ClusterError> {
        let mut object = object.clone();
        object["status"]["certificate"] = json!(STANDARD.encode(pem));
        let call = "update CertificateSigningRequest/status";
        self.write(call, "status", &object).await.map(drop)
    }

    /// Says that what somebody else approved gets no certificate.
    pub(crate) async fn fail(
        &self,
        object: &Value,
        (reason, message): (&str, &str),
    ) -> Result<(), ClusterError> {
        let object = with_condition(object, "Failed", reason, message);
        let call = "update CertificateSigningRequest/status";
        self.write(call, "status", &object).await.map(drop)
    }

    async fn write(
        &self,
        call: &'static str,
        part: &str,
        object: &Value,
    ) -> Result<Value, ClusterError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let url = self.url(call, &format!("{REQUESTS}/{name}/{part}"))?;
        let answer = self.ask(call, Call::put(url).json(object)).await?;
        if matches!(answer.status, StatusCode::CONFLICT | StatusCode::NOT_FOUND) {
            return Err(ClusterError::Conflict(call));
        }
        decode(call, &expect(call, answer)?)
    }

    /// Publishes the roots. `false`: this cluster has no such objects.
    pub(crate) async fn publish(&self, name: &str, pem: &str) -> Result<bool, ClusterError> {
        for version in BUNDLE_VERSIONS {
            let all = format!("/apis/certificates.k8s.io/{version}/clustertrustbundles");
            let call = "get ClusterTrustBundle";
            let one = self.url(call, &format!("{all}/{name}"))?;
            let found = self.ask(call, Call::get(one.clone())).await?;
            let (call, method, url, object) = match found.status {
                StatusCode::OK => {
                    let mut object: Value = decode(call, &found)?;
                    if object["spec"]["trustBundle"] == pem {
                        return Ok(true);
                    }
                    object["spec"]["trustBundle"] = json!(pem);
                    ("update ClusterTrustBundle", Method::PUT, one, object)
                }
                // Either the object is missing or the whole kind.
                StatusCode::NOT_FOUND => {
                    let object = json!({
                        "apiVersion": format!("certificates.k8s.io/{version}"),
                        "kind": "ClusterTrustBundle",
                        "metadata": {"name": name},
                        "spec": {"signerName": self.signer_name, "trustBundle": pem},
                    });
                    let call = "create ClusterTrustBundle";
                    (call, Method::POST, self.url(call, &all)?, object)
                }
                _ => return expect(call, found).map(|_| false),
            };
            let written = self.ask(call, Call::new(method, url).json(&object)).await?;
            match written.status {
                StatusCode::NOT_FOUND => {}
                // Another replica was faster; the next look sees what it wrote.
                StatusCode::CONFLICT => return Err(ClusterError::Conflict(call)),
                _ => return expect(call, written).map(|_| true),
            }
        }
        Ok(false)
    }

    fn url(&self, call: &'static str, path: &str) -> Result<Url, ClusterError> {
        self.server.url(path).map_err(|error| no_answer(call, &error))
    }

    async fn ask(&self, call: &'static str, request: Call) -> Result<Answer, ClusterError> {
        self.server.send(request).await.map_err(|error| no_answer(call, &error))
    }
}

fn no_answer(call: &'static str, error: &ApiServerError) -> ClusterError {
    match error {
        ApiServerError::Call(HttpsError { problem: Problem::TooLarge { .. }, .. }) => {
            ClusterError::TooLarge(call)
        }
        _ => ClusterError::Refused { call, answer: error.to_string(), hint: None },
    }
}

/// The object with one condition more.
fn with_condition(object: &Value, kind: &str, reason: &str, message: &str) -> Value {
    let mut object = object.clone();
    let condition = json!({
        "type": kind, "status": "True", "reason": reason, "message": message,
    });
    match object["status"]["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(condition),
        None => object["status"]["conditions"] = json!([condition]),
    }
    object
}

/// An answer that is a success, or what it says.
fn expect(call: &'static str, answer: Answer) -> Result<Answer, ClusterError> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    let hint = match answer.status {
        StatusCode::UNAUTHORIZED => Some("the API server does not take this token"),
        StatusCode::FORBIDDEN => {
            Some("bind the signer's ClusterRole of docs/identity/kubernetes.md")
        }
        _ => None,
    };
    Err(ClusterError::Refused { call, answer: answer.summary(), hint })
}

fn decode<T: for<'de> Deserialize<'de>>(
    call: &'static str,
    answer: &Answer,
) -> Result<T, ClusterError> {
    answer.json().map_err(|answer| ClusterError::Refused { call, answer, hint: None })
}

#[derive(Deserialize)]
struct List {
    metadata: ListMetadata,
    items: Vec<Value>,
}

#[derive(Deserialize)]
struct ListMetadata {
    #[serde(rename = "resourceVersion")]
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

#[derive(Deserialize)]
struct WirePod {
    metadata: WirePodMetadata,
    spec: WirePodSpec,
    #[serde(default)]
    status: WirePodStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePodMetadata {
    uid: String,
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePodSpec {
    #[serde(default)]
    service_account_name: String,
    node_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WirePodStatus {
    phase: String,
}

#[derive(Deserialize)]
struct WireNode {
    metadata: WireNodeMetadata,
}

#[derive(Deserialize)]
struct WireNodeMetadata {
    #[serde(default)]
    labels: BTreeMap<String, String>,
}
