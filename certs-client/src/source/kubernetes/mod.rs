//! Certificates that are asked for through the Kubernetes API: a `CertificateSigningRequest` is
//! made, somebody approves and signs it, and what they wrote into its status is the certificate.
//!
//! Two calls and no client library: create one object, get it until it is decided. Invariants: the
//! token is read again for each call, and goes to the API server alone; the identity is what the
//! signer derives from that token, so nothing is believed of what we asked for; an answer that is
//! not understood is a failed attempt and changes nothing.

mod api;
mod request;
mod trust;

use std::time::Duration;

use countersign_config::KubernetesCsr;
use countersign_workload_id::TrustDomain;

use super::{
    publish::Publisher,
    renewing::{self, Authority, IssueError, Issued, Wanted},
};
use crate::{bundle::TrustBundles, key::KeyMaker, pem, svid};
use api::Api;
use request::Decided;

/// How long, and how often, a request is looked at until it is decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) every: Duration,
    pub(crate) at_most: Duration,
}

const PACE: Pace = Pace { every: Duration::from_secs(1), at_most: Duration::from_secs(30) };

/// The API server with the signer behind it.
pub(crate) struct Signer {
    api: Api,
    config: KubernetesCsr,
    pace: Pace,
}

impl Signer {
    pub(crate) fn new(config: KubernetesCsr, pace: Pace) -> Result<Signer, &'static str> {
        Ok(Signer { api: Api::new(&config.api)?, config, pace })
    }
}

/// Keeps an identity published that a signer in Kubernetes renews, and the trust that belongs to
/// it, for as long as the process lives.
pub(super) async fn run(publisher: &Publisher, config: KubernetesCsr, keys: &KeyMaker) {
    keep(publisher, config, keys, PACE).await;
}

/// As [`run`], at another pace.
pub(crate) async fn keep(
    publisher: &Publisher,
    config: KubernetesCsr,
    keys: &KeyMaker,
    pace: Pace,
) {
    let signer = match Signer::new(config.clone(), pace) {
        Ok(signer) => signer,
        Err(problem) => return api::unusable(publisher, &config.api, problem),
    };
    let api = signer.api.clone();
    let watched = trust::watch(publisher, &api, &config.trust);
    tokio::join!(renewing::run(publisher, signer, keys), watched);
}

impl Authority for Signer {
    fn name(&self) -> String {
        format!("signer {} at {}", self.config.signer_name, self.config.api.server)
    }

    fn life_s(&self) -> u64 {
        self.config.expiration_s
    }

    async fn issue(&mut self, wanted: &Wanted<'_>) -> Result<Issued, IssueError> {
        // Without trust a certificate is of no use, so nobody is asked for one.
        let bundle = trust::read(&self.api, &self.config.trust).await?;
        let name = request::create(&self.api, &self.config.signer_name, wanted).await?;
        let Decided { certificate } = request::decided(&self.api, &name, self.pace).await?;
        let bad = |problem: String| {
            IssueError::retry("read status.certificate", problem)
                .hint("the signer wrote something else than a certificate in PEM")
        };
        let chain = pem::certificates(&certificate).map_err(bad)?;
        let Some(leaf) = chain.first() else { return Err(bad("it holds none".to_owned())) };
        let id = svid::claimed_id(leaf).map_err(|error| bad(error.to_string()))?;
        let domain: TrustDomain = id.trust_domain().clone();
        let bundles = TrustBundles::from_iter([(domain, bundle)]);
        Ok(Issued { chain, bundles, crls: Vec::new() })
    }
}
