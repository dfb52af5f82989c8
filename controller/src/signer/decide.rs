//! What becomes of a request: pure, from the request and what the cluster knows of its pod.
//!
//! Every rule ends in a certificate for exactly the identity that was derived, or in a denial whose
//! reason the pod's proxy shows to its operator.

use countersign_certs_client::location::Location;
use countersign_workload_id::{TrustDomain, WorkloadId};

use super::csr::{self, Csr, CsrError};
use super::request::{Request, Requester};

/// What is asked for, in any order; nothing more and nothing less.
const USAGES: [&str; 3] = ["client auth", "digital signature", "server auth"];

/// Characters of a name that somebody asked for and does not get.
const ASKED_CHARS_MAX: usize = 300;

/// A pod as the API server knows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Pod {
    pub(crate) uid: String,
    pub(crate) account: String,
    pub(crate) node: Option<String>,
    pub(crate) terminating: bool,
    pub(crate) ended: bool,
}

/// Where a node is, by its labels.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) zone: Option<String>,
    pub(crate) region: Option<String>,
}

/// Rules that are configured.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) trust_domain: TrustDomain,
    /// Shortest and longest life, in seconds.
    pub(crate) life_s: (u64, u64),
}

/// A certificate to be made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Grant {
    pub(crate) id: WorkloadId,
    pub(crate) spki: Vec<u8>,
    pub(crate) life_s: u64,
    pub(crate) location: Location,
}

/// Why there will be no certificate.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Denial {
    #[error("the pod {0} does not exist any more")]
    PodGone(String),
    #[error("the pod {0} has ended")]
    PodEnded(String),
    #[error("{0}")]
    NoRequester(String),
    #[error("the request names {asked}, the pod that asks is {derived}")]
    OtherIdentity { asked: String, derived: WorkloadId },
    #[error("the token is of {token}, the pod {pod} runs under {own}")]
    OtherAccount { token: String, pod: String, own: String },
    #[error("the token was made for node {token}, the pod {pod} is on {own}")]
    OtherNode { token: String, pod: String, own: String },
    #[error("the pod {0} is another one of the same name: its UID is not that of the token")]
    OtherPod(String),
    #[error("the pod with UID {0} is revoked; its siblings are not")]
    Revoked(String),
    #[error("a newer request of the same pod takes its place")]
    Superseded,
    #[error("the pod {0} is terminating")]
    Terminating(String),
    #[error("the certificate request is not granted: {0}")]
    Csr(#[from] CsrError),
    #[error("the usages must be `digital signature`, `client auth` and `server auth`, not {0}")]
    Usages(String),
}

impl Denial {
    /// The `reason` of the condition.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Denial::Csr(CsrError::KeyType(_)) => "KeyType",
            Denial::Csr(_) => "BadRequest",
            Denial::NoRequester(_) => "NotAPod",
            Denial::OtherAccount { .. } => "OtherServiceAccount",
            Denial::OtherIdentity { .. } => "OtherIdentity",
            Denial::OtherNode { .. } => "OtherNode",
            Denial::OtherPod(_) | Denial::PodGone(_) => "PodGone",
            Denial::PodEnded(_) => "PodEnded",
            Denial::Revoked(_) => "PodRevoked",
            Denial::Superseded => "Superseded",
            Denial::Terminating(_) => "PodTerminating",
            Denial::Usages(_) => "Usages",
        }
    }
}

/// What can be said before anybody is asked about the pod.
#[derive(Clone, Debug)]
pub(crate) struct Sound {
    pub(crate) requester: Requester,
    id: WorkloadId,
    csr: Csr,
}

/// The request by itself: who asks, with which key, for which name.
pub(crate) fn sound(request: &Request, rules: &Rules) -> Result<Sound, Denial> {
    let requester = request.requester.clone();
    let requester = requester.map_err(|none| Denial::NoRequester(none.to_string()))?;
    let id = WorkloadId::new(&rules.trust_domain, &requester.namespace, &requester.account)
        .map_err(|error| Denial::NoRequester(error.to_string()))?;
    let mut usages: Vec<&str> = request.usages.iter().map(String::as_str).collect();
    usages.sort_unstable();
    if usages != USAGES {
        return Err(Denial::Usages(usages.join(", ")));
    }
    let csr = csr::parse(&request.pem)?;
    if let Some(asked) = csr.uri.as_ref().filter(|asked| *asked != id.as_str()) {
        // It ends up in a log and on a terminal.
        let asked = asked.chars().filter(|c| !c.is_control()).take(ASKED_CHARS_MAX).collect();
        return Err(Denial::OtherIdentity { asked, derived: id });
    }
    Ok(Sound { requester, id, csr })
}

/// The pod that asks: it is there, it is the one of the token, and it is not on its way out.
pub(crate) fn check_pod(requester: &Requester, pod: Option<&Pod>) -> Result<(), Denial> {
    let name = || format!("{}/{}", requester.namespace, requester.pod_name);
    let Some(pod) = pod else { return Err(Denial::PodGone(name())) };
    if pod.uid != requester.pod_uid {
        return Err(Denial::OtherPod(name()));
    }
    if pod.account != requester.account {
        let (token, own) = (requester.account.clone(), pod.account.clone());
        return Err(Denial::OtherAccount { token, pod: name(), own });
    }
    if pod.terminating {
        return Err(Denial::Terminating(name()));
    }
    if pod.ended {
        return Err(Denial::PodEnded(name()));
    }
    match (&requester.node, &pod.node) {
        (Some(token), Some(own)) if token != own => {
            let (token, own) = (token.clone(), own.clone());
            Err(Denial::OtherNode { token, pod: name(), own })
        }
        _ => Ok(()),
    }
}

/// The certificate of a request that is sound and whose pod was checked.
pub(crate) fn grant(
    request: &Request,
    sound: Sound,
    pod: &Pod,
    place: Place,
    rules: &Rules,
) -> Grant {
    let Sound { requester, id, csr } = sound;
    let (least, most) = rules.life_s;
    let life_s = request.expiration_s.unwrap_or(most).clamp(least, most);
    let location = Location {
        pod_uid: Some(requester.pod_uid),
        node: pod.node.clone(),
        zone: place.zone,
        region: place.region,
    };
    Grant { id, spki: csr.spki, life_s, location }
}
