//! The signer of workload certificates: approves and signs the requests of pods.
//!
//! Requests for its signer name are followed at the API server. The identity is derived from who
//! the API server says has asked; a request that asks for anything else is denied with the reason.
//! Invariants: no certificate for a pod that is gone, terminating or revoked, nor for a token that
//! is not of a pod; one open request of a pod; a rate for each service account; what cannot be
//! found out is not decided. Several signers may run: the API server lets one of them write.

mod authority;
mod cluster;
mod csr;
mod decide;
mod rate;
mod reload;
mod request;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_certs_client::Clock;
use countersign_config::SignerConfig;
use countersign_policy::{Documents, Revocations};
use futures_util::StreamExt as _;
use tracing::{error, info, warn};

pub use authority::{Authority, AuthorityError, CaKey};
use cluster::{Cluster, ClusterError, Waiting};
use decide::{Denial, Rules, Sound};
use rate::Rates;
use reload::Watched;
use request::{Request, Stage};

/// Requests that are worked on at the same time.
const AT_ONCE: usize = 8;
/// Wait after the API server did not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// Shortest time between two looks, whatever the API server answers.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(50);
/// Requests that are denied between two looks: a flood of bad ones does not hold up the good.
const DENIALS_AT_ONCE: usize = 64;
/// Time between two looks at the published roots.
const PUBLISH_EVERY_MS: u64 = 60_000;

/// Why a signer does not start.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The authority cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The API server cannot be asked.
    #[error("{server}: {problem}")]
    Server {
        /// What is configured.
        server: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// A signer, ready to run.
pub struct Signer {
    cluster: Cluster,
    rules: Rules,
    rates: Rates,
    watched: Watched,
    waiting: Waiting,
    clock: Clock,
    bundle: Option<String>,
    published: Option<(u64, Arc<Authority>)>,
    /// Why a request waits, by its name: said once, not once a second.
    told: HashMap<String, String>,
    /// Why requests cannot be followed, as it was said last.
    said: Option<String>,
    /// Why the roots are not published, as it was said last.
    said_of_roots: Option<String>,
}

impl Signer {
    /// Reads the authority; asks nobody yet.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(
        config: SignerConfig,
        documents: Option<&Documents>,
        clock: Clock,
    ) -> Result<Signer, SignerError> {
        let authority = Authority::load(&config)?;
        let cluster = Cluster::new(&config.api, &config.signer_name).map_err(|problem| {
            SignerError::Server { server: config.api.server.clone(), problem }
        })?;
        let revocations = documents.map(Revocations::of).unwrap_or_default();
        Ok(Signer {
            cluster,
            rules: Rules { trust_domain: config.trust_domain.clone(), life_s: config.life_s },
            rates: Rates::new(config.per_minute),
            bundle: config.cluster_trust_bundle.clone(),
            watched: Watched::new(config, authority, revocations),
            waiting: Waiting::default(),
            clock,
            published: None,
            told: HashMap::new(),
            said: None,
            said_of_roots: None,
        })
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        loop {
            self.watched.look();
            self.publish_when_due().await;
            let pace = tokio::time::sleep(LOOK_EVERY_MIN);
            match tokio::join!(self.cluster.follow(&mut self.waiting), pace).0 {
                Ok(()) => {
                    self.said = None;
                    self.settle().await;
                }
                Err(problem) => {
                    let problem = problem.to_string();
                    if self.said.as_ref() != Some(&problem) {
                        warn!(problem, "requests cannot be followed");
                        self.said = Some(problem);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Decides on everything that waits and can be decided.
    async fn settle(&mut self) {
        let now_ms = (self.clock)();
        let newest = newest_of_each_pod(self.waiting.requests.values());
        let mut orders = Vec::new();
        for request in self.waiting.requests.values() {
            if let Some(order) = self.order(request, &newest, now_ms) {
                orders.push((request.name.clone(), order));
            }
        }
        let mut denials = 0;
        orders.retain(|(_, order)| match order {
            Order::Deny(_) => {
                denials += 1;
                denials <= DENIALS_AT_ONCE
            }
            // Who is over the rate waits; the request stays open.
            Order::Examine(sound) => {
                let requester = &sound.requester;
                self.rates.take(&requester.namespace, &requester.account, now_ms)
            }
        });
        // Who may get something comes first.
        orders.sort_by_key(|(_, order)| matches!(order, Order::Deny(_)));
        let done: Vec<(String, Result<(), ClusterError>)> =
            futures_util::stream::iter(orders.into_iter().filter_map(|(name, order)| {
                let request = self.waiting.requests.get(&name)?.clone();
                let work = self.carry_out(request, order, now_ms);
                Some(async move { (name, work.await) })
            }))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (name, outcome) in done {
            self.finished(&name, outcome).await;
        }
        self.told.retain(|name, _| self.waiting.requests.contains_key(name));
    }

    /// What is to be done with a request, as far as it can be said without asking.
    fn order(
        &self,
        request: &Request,
        newest: &HashMap<String, String>,
        now_ms: u64,
    ) -> Option<Order> {
        let sound = match decide::sound(request, &self.rules) {
            Ok(sound) => sound,
            Err(denial) => return Some(Order::Deny(denial)),
        };
        let uid = &sound.requester.pod_uid;
        let revoked = self.watched.revocations().pod(uid, i64::try_from(now_ms).unwrap_or(0));
        if revoked {
            return Some(Order::Deny(Denial::Revoked(uid.clone())));
        }
        if newest.get(uid).is_some_and(|name| *name != request.name) {
            return Some(Order::Deny(Denial::Superseded));
        }
        Some(Order::Examine(sound))
    }

    /// Looks at the pod, then signs or denies.
    async fn carry_out(
        &self,
        request: Request,
        order: Order,
        now_ms: u64,
    ) -> Result<(), ClusterError> {
        let sound = match order {
            Order::Deny(denial) => return self.deny(&request, &denial).await,
            Order::Examine(sound) => sound,
        };
        let pod = self.cluster.pod(&sound.requester).await?;
        if let Err(denial) = decide::check_pod(&sound.requester, pod.as_ref()) {
            return self.deny(&request, &denial).await;
        }
        let pod = pod.unwrap_or_default();
        let place = match &pod.node {
            Some(node) => self.cluster.place(node).await?,
            None => decide::Place::default(),
        };
        let grant = decide::grant(&request, sound, &pod, place, &self.rules);
        // The request stays open then: it is the authority that has to be put right.
        let leaf = self.watched.authority().sign(&grant, now_ms / 1000);
        let leaf = leaf.map_err(ClusterError::Unsigned)?;
        let object = match request.stage {
            Stage::Open => self.cluster.approve(&request.object, grant.id.as_str()).await?,
            Stage::Approved | Stage::Closed => request.object.clone(),
        };
        self.cluster.issue(&object, &leaf.pem).await?;
        let pod_uid = grant.location.pod_uid.as_deref().unwrap_or_default();
        info!(
            id = %grant.id, pod_uid, serial = leaf.serial, not_after = leaf.not_after,
            request = request.name, "certificate issued"
        );
        Ok(())
    }

    async fn deny(&self, request: &Request, denial: &Denial) -> Result<(), ClusterError> {
        let (reason, message) = (denial.reason(), denial.to_string());
        match request.stage {
            Stage::Open => {
                self.cluster.decide(&request.object, "Denied", (reason, &message)).await?;
            }
            // Somebody approved what must not be signed.
            Stage::Approved | Stage::Closed => {
                self.cluster.fail(&request.object, (reason, &message)).await?;
            }
        }
        warn!(request = request.name, reason, %message, "certificate denied");
        Ok(())
    }

    /// Forgets what is done; what somebody else changed is looked at anew.
    async fn finished(&mut self, name: &str, outcome: Result<(), ClusterError>) {
        match outcome {
            Ok(()) => {
                self.waiting.requests.remove(name);
            }
            Err(ClusterError::Conflict(_)) => {
                let now = self.cluster.request(name).await;
                self.waiting.requests.remove(name);
                if let Ok(Some(object)) = now
                    && let Ok(request) = Request::read(object)
                    && request.stage != Stage::Closed
                {
                    self.waiting.requests.insert(name.to_owned(), request);
                }
            }
            Err(problem) => {
                let is_ours = matches!(problem, ClusterError::Unsigned(_));
                let problem = problem.to_string();
                if self.told.get(name) != Some(&problem) {
                    if is_ours {
                        error!(problem, request = name, "a request waits");
                    } else {
                        warn!(problem, request = name, "a request waits");
                    }
                    self.told.insert(name.to_owned(), problem);
                }
            }
        }
    }

    async fn publish_when_due(&mut self) {
        let Some(name) = &self.bundle else { return };
        let (now_ms, authority) = ((self.clock)(), self.watched.authority());
        let fresh = self.published.as_ref().is_some_and(|(at_ms, published)| {
            Arc::ptr_eq(published, authority) && now_ms.saturating_sub(*at_ms) < PUBLISH_EVERY_MS
        });
        if fresh {
            return;
        }
        match self.cluster.publish(name, authority.roots_pem()).await {
            Ok(true) => {}
            Ok(false) => warn!(name, "this cluster has no ClusterTrustBundle"),
            Err(problem) => {
                let problem = problem.to_string();
                if self.said_of_roots.as_ref() != Some(&problem) {
                    warn!(problem, name, "the roots are not published");
                    self.said_of_roots = Some(problem);
                }
                return;
            }
        }
        self.said_of_roots = None;
        self.published = Some((now_ms, Arc::clone(self.watched.authority())));
    }
}

/// What is to be done with a request.
enum Order {
    Deny(Denial),
    Examine(Sound),
}

/// For each pod the name of the request that counts: the last one it made. What is approved
/// already counts more than any other.
fn newest_of_each_pod<'r>(requests: impl Iterator<Item = &'r Request>) -> HashMap<String, String> {
    let mut newest: HashMap<String, &Request> = HashMap::new();
    let rank = |request: &Request| {
        (request.stage == Stage::Approved, request.created.clone(), request.name.clone())
    };
    for request in requests {
        let Ok(requester) = &request.requester else { continue };
        let held = newest.entry(requester.pod_uid.clone()).or_insert(request);
        if rank(request) > rank(held) {
            *held = request;
        }
    }
    newest.into_iter().map(|(uid, request)| (uid, request.name.clone())).collect()
}
