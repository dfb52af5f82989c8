//! The trust that belongs to the identity: a file, or a `ClusterTrustBundle`.
//!
//! It is read at every renewal and, because roots change between renewals, again and again while
//! a certificate lives. A bundle that does not vouch for the certificate we hold, or cannot be
//! read, changes nothing and is reported.

use std::{fs::File, io::Read as _, path::Path, time::Duration};

use countersign_config::{KubernetesTrust, limits::CONTROL_ANSWER_BYTES_MAX};
use http::StatusCode;
use serde::Deserialize;
use tracing::info;

use super::super::{
    publish::{Failed, Publisher},
    renewing::IssueError,
};
use super::api::Api;
use crate::bundle::{Bundle, TrustBundles};

const READ: &str = "read the trust bundle";
const GET: &str = "get ClusterTrustBundle";
/// Newest first; a cluster serves those it has.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// Time between two looks at a file.
const FILE_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks at an object.
const OBJECT_EVERY: Duration = Duration::from_secs(30);

/// The authorities as they are now.
pub(super) async fn read(api: &Api, trust: &KubernetesTrust) -> Result<Bundle, IssueError> {
    match trust {
        KubernetesTrust::File(path) => from_file(path),
        KubernetesTrust::ClusterTrustBundle(name) => from_object(api, name).await,
    }
}

/// Publishes what changes while a certificate lives; never returns.
pub(super) async fn watch(publisher: &Publisher, api: &Api, trust: &KubernetesTrust) {
    let every = match trust {
        KubernetesTrust::File(_) => FILE_EVERY,
        KubernetesTrust::ClusterTrustBundle(_) => OBJECT_EVERY,
    };
    let mut reported = None;
    loop {
        tokio::time::sleep(every).await;
        if !publisher.has_identity() {
            // The next certificate brings its own.
            continue;
        }
        let found = read(api, trust).await;
        // What is held now: a renewal may have come while the answer was on its way.
        match found.and_then(|bundle| renew(publisher, bundle)) {
            Ok(changed) => {
                if changed {
                    info!("the trust bundle changed");
                }
                reported = None;
            }
            Err(error) if reported.as_ref() == Some(&error.answer) => {}
            Err(IssueError { call, answer, hint, .. }) => {
                reported = Some(answer.clone());
                let authority = place(trust);
                let next_try = publisher.next_try(every);
                let failed = Failed { authority: &authority, call, answer, hint };
                publisher.failed(failed, next_try);
            }
        }
    }
}

/// Puts the bundle in force if it is another than the one that is.
fn renew(publisher: &Publisher, bundle: Bundle) -> Result<bool, IssueError> {
    let held = publisher.published();
    let Some(identity) = &held.identity else { return Ok(false) };
    let domain = identity.id.trust_domain().clone();
    publisher.renew_bundles(TrustBundles::from_iter([(domain, bundle)])).map_err(|error| {
        let problem = format!("the new authorities do not vouch for our certificate: {error}");
        IssueError::retry(READ, problem)
            .hint("keep the old root beside the new one until the last certificate of it has ended")
    })
}

fn place(trust: &KubernetesTrust) -> String {
    match trust {
        KubernetesTrust::File(path) => path.display().to_string(),
        KubernetesTrust::ClusterTrustBundle(name) => format!("ClusterTrustBundle {name}"),
    }
}

fn from_file(path: &Path) -> Result<Bundle, IssueError> {
    let bad = |problem: String| IssueError::retry(READ, format!("{}: {problem}", path.display()));
    let mut text = Vec::new();
    let limit = u64::try_from(CONTROL_ANSWER_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut text))
        .map_err(|error| bad(error.to_string()))?;
    // The beginning of it would be fewer authorities.
    if text.len() > CONTROL_ANSWER_BYTES_MAX {
        return Err(bad(format!("larger than {CONTROL_ANSWER_BYTES_MAX} bytes")));
    }
    Bundle::from_pem(&text).map_err(|error| bad(error.to_string()))
}

#[derive(Deserialize)]
struct Object {
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    trust_bundle: String,
}

async fn from_object(api: &Api, name: &str) -> Result<Bundle, IssueError> {
    for version in VERSIONS {
        let path = format!("/apis/certificates.k8s.io/{version}/clustertrustbundles/{name}");
        let answer = api.get(GET, &path).await?;
        match answer.status {
            StatusCode::OK => {
                let object: Object =
                    answer.json().map_err(|problem| IssueError::retry(GET, problem))?;
                return Bundle::from_pem(object.spec.trust_bundle.as_bytes())
                    .map_err(|error| IssueError::retry(GET, format!("{name}: {error}")));
            }
            StatusCode::NOT_FOUND => {}
            _ => return Err(api.refused(GET, &answer)),
        }
    }
    Err(IssueError::retry(GET, format!("there is no {name}")).hint(
        "does the signer publish it, and does this cluster serve ClusterTrustBundle? \
         Else mount the roots and write `trust: {file: PATH}`",
    ))
}
