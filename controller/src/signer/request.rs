//! A `CertificateSigningRequest` as the API server shows it.
//!
//! Invariant: who asks is read from `spec.username` and `spec.extra` alone, which the API server
//! fills in when the object is made and nobody can change afterwards.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::csr::CSR_BYTES_MAX;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// What is still to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// Nobody decided.
    Open,
    /// Approved, and not signed yet.
    Approved,
    /// Denied, failed or signed.
    Closed,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Its name.
    pub(crate) name: String,
    /// When it was made, as text that sorts.
    pub(crate) created: String,
    /// The PEM text of the PKCS#10 request.
    pub(crate) pem: Vec<u8>,
    /// The life that is asked for.
    pub(crate) expiration_s: Option<u64>,
    /// The usages that are asked for.
    pub(crate) usages: Vec<String>,
    /// What is still to be done.
    pub(crate) stage: Stage,
    /// Who asks.
    pub(crate) requester: Result<Requester, NoRequester>,
    /// As it came, to be written back.
    pub(crate) object: Value,
}

/// A pod that asks with the token of its service account.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Requester {
    pub(crate) namespace: String,
    pub(crate) account: String,
    pub(crate) pod_name: String,
    pub(crate) pod_uid: String,
    /// The node the token was made for.
    pub(crate) node: Option<String>,
}

/// Why whoever asks is not the service account of a pod.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum NoRequester {
    #[error("{0} is not a service account; identities are for service accounts of pods")]
    NotAServiceAccount(String),
    #[error(
        "the token of {0} is not bound to a pod; project it into the pod that asks, and do not \
         use one from a Secret or `kubectl create token`"
    )]
    NotOfAPod(String),
}

#[derive(Deserialize)]
struct Wire {
    metadata: WireMetadata,
    spec: WireSpec,
    #[serde(default)]
    status: WireStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMetadata {
    name: String,
    #[serde(default)]
    creation_timestamp: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSpec {
    request: String,
    expiration_seconds: Option<u64>,
    #[serde(default)]
    usages: Vec<String>,
    #[serde(default)]
    username: String,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireStatus {
    certificate: Option<String>,
    conditions: Vec<WireCondition>,
}

#[derive(Deserialize)]
struct WireCondition {
    #[serde(rename = "type")]
    kind: String,
}

impl Request {
    /// Reads an object; the error says what is wrong with it.
    pub(crate) fn read(mut object: Value) -> Result<Request, String> {
        let wire = Wire::deserialize(&object).map_err(|error| error.to_string())?;
        let WireSpec { request, expiration_seconds, usages, username, extra } = wire.spec;
        let mut pem = STANDARD.decode(request).map_err(|error| format!("spec.request: {error}"))?;
        if pem.len() > CSR_BYTES_MAX {
            // It will be denied for its size, and the API server keeps `spec` as it is whatever is
            // written back: who asks for much must not fill our memory with it.
            pem.truncate(CSR_BYTES_MAX.saturating_add(1));
            pem.shrink_to_fit();
            object["spec"]["request"] = json!("");
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        let has = |kind: &str| wire.status.conditions.iter().any(|found| found.kind == kind);
        let signed = wire.status.certificate.is_some_and(|text| !text.is_empty());
        let stage = match () {
            () if signed || has("Denied") || has("Failed") => Stage::Closed,
            () if has("Approved") => Stage::Approved,
            () => Stage::Open,
        };
        Ok(Request {
            name: wire.metadata.name,
            created: wire.metadata.creation_timestamp,
            pem,
            expiration_s: expiration_seconds,
            usages,
            stage,
            requester: requester(&username, &extra),
            object,
        })
    }
}

fn requester(
    username: &str,
    extra: &BTreeMap<String, Vec<String>>,
) -> Result<Requester, NoRequester> {
    let account = username.strip_prefix("system:serviceaccount:");
    let Some((namespace, account)) = account.and_then(|rest| rest.split_once(':')) else {
        return Err(NoRequester::NotAServiceAccount(username.to_owned()));
    };
    // One value each: with two nobody could say which one was meant.
    let one = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    let (Some(pod_name), Some(pod_uid)) = (one(POD_NAME), one(POD_UID)) else {
        return Err(NoRequester::NotOfAPod(username.to_owned()));
    };
    let (namespace, account) = (namespace.to_owned(), account.to_owned());
    Ok(Requester { namespace, account, pod_name, pod_uid, node: one(NODE_NAME) })
}
