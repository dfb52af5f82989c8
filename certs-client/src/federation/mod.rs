//! Bundles of other trust domains, fetched from their endpoints and fetched again.
//!
//! One task per endpoint on the control thread's runtime. Invariants: which domain a bundle is for
//! is configured and never read from what came (F-1); bundles of different domains are never
//! merged (F-7); a failing endpoint changes nothing until its bundle was not confirmed for too
//! long, and then takes the bundle away: fail closed.

mod held;
mod server;

use std::{collections::BTreeMap, fmt, fs, path::PathBuf, sync::Arc, time::Duration};

use countersign_config::limits::JWKS_BYTES_MAX;
use countersign_workload_id::{TrustDomain, WorkloadId};
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};
use tracing::{info, warn};

pub use self::{
    held::{Held, Pace, Took},
    server::EndpointVerifier,
};
use crate::{
    bundle_doc::BundleDoc,
    https::{Client, Problem, Request, Trust, Url},
    source::Clock,
    status::{Failure, NextTry},
};

/// Time between looks at the clock: a suspended machine wakes up late, not never.
const TICK: Duration = Duration::from_secs(1);

/// One bundle endpoint, as configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// Whose bundle it serves.
    pub domain: TrustDomain,
    /// Where, `https`.
    pub url: String,
    /// How its server is authenticated.
    pub profile: Profile,
    /// Whether redirects are followed.
    pub redirects: bool,
    /// A bundle that was not confirmed for so long is dropped, seconds.
    pub max_stale_s: u64,
}

/// How the server of an endpoint is authenticated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Profile {
    /// `https_web`: by its host name, with the roots in a file or those of the system.
    Web(Option<PathBuf>),
    /// `https_spiffe`: by its SPIFFE ID, with the latest bundle.
    Spiffe {
        /// The one identity that may answer.
        id: WorkloadId,
        /// The first bundle.
        initial: PathBuf,
    },
}

/// What is known of one trust domain.
#[derive(Clone, Debug, Default)]
pub struct Federated {
    /// The bundle in force, if there is one.
    pub doc: Option<Arc<BundleDoc>>,
    /// When its endpoint confirmed it last, seconds since the Unix epoch.
    pub confirmed_at: Option<u64>,
    /// The last failure, until the next success.
    pub last_failure: Option<Failure>,
    /// Fetches by result.
    pub fetches: Fetches,
}

/// Fetches by result.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Fetches {
    /// Brought another bundle.
    pub changed: u64,
    /// Confirmed the bundle.
    pub unchanged: u64,
    /// Brought an older one, which was ignored.
    pub regression: u64,
    /// Brought nothing that can be used.
    pub failed: u64,
}

impl Fetches {
    /// Each result by its metric label.
    pub fn by_result(&self) -> [(&'static str, u64); 4] {
        [
            ("changed", self.changed),
            ("failed", self.failed),
            ("regression", self.regression),
            ("unchanged", self.unchanged),
        ]
    }
}

/// What is known of every trust domain with an endpoint.
pub type Fetched = BTreeMap<TrustDomain, Federated>;

/// The running fetches. Dropping it stops them.
pub struct Federation {
    clock: Clock,
    pace: Pace,
    fetched: watch::Sender<Arc<Fetched>>,
    tasks: BTreeMap<TrustDomain, (Endpoint, AbortOnDrop)>,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Federation {
    /// Fetches nothing yet.
    pub fn new(clock: Clock, pace: Pace) -> Federation {
        let (fetched, _) = watch::channel(Arc::default());
        Federation { clock, pace, fetched, tasks: BTreeMap::new() }
    }

    /// What is known; replaced as a whole.
    pub fn fetched(&self) -> watch::Receiver<Arc<Fetched>> {
        self.fetched.subscribe()
    }

    /// Fetches from these endpoints and no others, on the current tokio runtime. One that was
    /// there before, unchanged, goes on as it is; one that changed begins anew.
    pub fn follow(&mut self, endpoints: Vec<Endpoint>) {
        let gone = |domain: &TrustDomain, known: &Endpoint| {
            !endpoints.iter().any(|endpoint| endpoint.domain == *domain && endpoint == known)
        };
        let ended: Vec<TrustDomain> = self
            .tasks
            .iter()
            .filter(|(domain, (known, _))| gone(domain, known))
            .map(|(domain, _)| domain.clone())
            .collect();
        for domain in ended {
            self.tasks.remove(&domain);
            change(&self.fetched, |all| drop(all.remove(&domain)));
        }
        for endpoint in endpoints {
            if self.tasks.contains_key(&endpoint.domain) {
                continue;
            }
            let task = Task {
                endpoint: endpoint.clone(),
                clock: Arc::clone(&self.clock),
                pace: self.pace,
                fetched: self.fetched.clone(),
            };
            let handle = Handle::current().spawn(task.run()).abort_handle();
            self.tasks.insert(endpoint.domain.clone(), (endpoint, AbortOnDrop(handle)));
        }
    }
}

impl fmt::Debug for Federation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tasks.keys()).finish()
    }
}

fn change(fetched: &watch::Sender<Arc<Fetched>>, change: impl FnOnce(&mut Fetched)) {
    fetched.send_modify(|all| change(Arc::make_mut(all)));
}

/// What went wrong with one fetch.
struct Failed {
    answer: String,
    hint: Option<&'static str>,
}

struct Task {
    endpoint: Endpoint,
    clock: Clock,
    pace: Pace,
    fetched: watch::Sender<Arc<Fetched>>,
}

impl Task {
    async fn run(self) {
        let mut held = self.first();
        self.publish(&held, |_| {});
        loop {
            let outcome = self.fetch(&held).await;
            self.take(&mut held, outcome);
            self.wait(&held).await;
        }
    }

    /// What is held before anything was fetched.
    fn first(&self) -> Held {
        let Profile::Spiffe { initial, .. } = &self.endpoint.profile else {
            return Held::default();
        };
        let domain = &self.endpoint.domain;
        let read = fs::read(initial).map_err(|error| error.to_string());
        match read
            .and_then(|text| BundleDoc::of_file(&text, domain).map_err(|error| error.to_string()))
        {
            Ok(doc) => Held::starting_from(doc, self.now()),
            Err(problem) => {
                let path = initial.display();
                warn!(code = "FD-01", %domain, "initialBundle {path} cannot be used: {problem}");
                Held::default()
            }
        }
    }

    /// F-6: until the next fetch. A bundle gets too old in between too.
    async fn wait(&self, held: &Held) {
        let began = self.now();
        let interval = held.interval(self.pace).as_secs();
        let mut fresh = self.is_fresh(held);
        loop {
            tokio::time::sleep(TICK).await;
            let now = self.now();
            // A clock that was set back must not stretch the wait.
            if now >= began.saturating_add(interval) || now < began {
                return;
            }
            if fresh && !self.is_fresh(held) {
                fresh = false;
                let (domain, max_stale_s) = (&self.endpoint.domain, self.endpoint.max_stale_s);
                warn!(code = "FD-03", %domain, max_stale_s, "the bundle was not confirmed for too long and is dropped");
                self.publish(held, |_| {});
            }
        }
    }

    fn is_fresh(&self, held: &Held) -> bool {
        held.in_force(self.now(), self.endpoint.max_stale_s).is_some()
    }

    /// One GET, without credentials (F-3).
    async fn fetch(&self, held: &Held) -> Result<BundleDoc, Failed> {
        let failed = |answer: String| Failed { answer, hint: None };
        let url = Url::parse(&self.endpoint.url).map_err(|problem| failed(problem.to_owned()))?;
        if !url.is_https() {
            return Err(failed("a bundle endpoint is https".to_owned()));
        }
        let mut client = Client::new(self.trust(held)?).answer_bytes_max(JWKS_BYTES_MAX);
        if self.endpoint.redirects {
            // F-5: the trust of the client holds for every hop; plain HTTP has none.
            client = client.follow_redirects(Arc::new(|_, to| match to.is_https() {
                true => Ok(()),
                false => Err("it leaves https".to_owned()),
            }));
        }
        let answer =
            client.send(Request::get(url)).await.map_err(|error| self.no_answer(&error.problem))?;
        if answer.status != http::StatusCode::OK {
            let hint = answer
                .status
                .is_redirection()
                .then_some("write the final address, or let `redirects` be followed");
            return Err(Failed { answer: answer.summary(), hint });
        }
        BundleDoc::parse(&answer.body).map_err(|error| failed(error.to_string()))
    }

    /// F-4: by what the endpoint is recognised now.
    fn trust(&self, held: &Held) -> Result<Trust, Failed> {
        match &self.endpoint.profile {
            Profile::Web(None) => Ok(Trust::System),
            Profile::Web(Some(file)) => Ok(Trust::PemFile(file.clone())),
            Profile::Spiffe { id, .. } => {
                let latest = held.latest().and_then(|doc| doc.authorities.clone());
                let bundle = latest.ok_or_else(|| Failed {
                    answer: "there is no bundle to authenticate the endpoint with".to_owned(),
                    hint: Some("get the bundle from the partner again and replace initialBundle"),
                })?;
                Ok(Trust::Custom(Arc::new(EndpointVerifier::new(id.clone(), bundle))))
            }
        }
    }

    fn no_answer(&self, problem: &Problem) -> Failed {
        let by_id = matches!(self.endpoint.profile, Profile::Spiffe { .. });
        let hint = "if the partner's roots changed while nobody fetched, replace initialBundle by \
                    their bundle of today and restart";
        let hint = (by_id && matches!(problem, Problem::Tls(_))).then_some(hint);
        Failed { answer: problem.to_string(), hint }
    }

    fn take(&self, held: &mut Held, outcome: Result<BundleDoc, Failed>) {
        let domain = &self.endpoint.domain;
        let took = match outcome {
            Ok(doc) => held.take(doc, self.now()),
            Err(failed) => return self.failed(held, failed),
        };
        match took {
            Took::Changed => {
                let doc = held.latest();
                let authorities = doc.and_then(|doc| doc.authorities.as_ref());
                let count = authorities.map_or(0, |bundle| bundle.certificates().len());
                let sequence = doc.and_then(|doc| doc.sequence);
                info!(%domain, authorities = count, sequence, "federated bundle in force");
                self.publish(held, |known| known.fetches.changed += 1);
            }
            Took::Unchanged => self.publish(held, |known| known.fetches.unchanged += 1),
            Took::Regression { held: newest, came } => {
                warn!(code = "FD-02", %domain, newest, came, "an older bundle came and is ignored");
                let answer = format!("sequence {came}, after {newest} was seen: ignored");
                let hint = "was the partner's data store restored from a backup? Its sequence must \
                            grow; a restart of this process begins anew";
                let failure = self.failure(held, answer, Some(hint));
                self.publish(held, |known| {
                    known.fetches.regression += 1;
                    known.last_failure = Some(failure);
                });
            }
        }
    }

    fn failed(&self, held: &Held, failed: Failed) {
        let failure = self.failure(held, failed.answer, failed.hint);
        warn!(code = "FD-01", domain = %self.endpoint.domain, %failure, "federated bundle not fetched");
        self.publish(held, |known| {
            known.fetches.failed += 1;
            known.last_failure = Some(failure);
        });
    }

    fn failure(&self, held: &Held, answer: String, hint: Option<&'static str>) -> Failure {
        let now = self.now();
        let next = now.saturating_add(held.interval(self.pace).as_secs());
        Failure {
            authority: self.endpoint.url.clone(),
            call: "GET",
            answer,
            hint: hint.map(Into::into),
            at: now,
            next_try: NextTry::At(next.saturating_mul(1000)),
        }
    }

    /// Says what is held now; `note` adds what just happened. A success clears the last failure.
    fn publish(&self, held: &Held, note: impl FnOnce(&mut Federated)) {
        let doc = held.in_force(self.now(), self.endpoint.max_stale_s);
        change(&self.fetched, |all| {
            let known = all.entry(self.endpoint.domain.clone()).or_default();
            if known.doc.as_deref() != doc {
                known.doc = doc.cloned().map(Arc::new);
            }
            if known.confirmed_at != held.confirmed_at() {
                known.confirmed_at = held.confirmed_at();
                known.last_failure = None;
            }
            note(known);
        });
    }

    fn now(&self) -> u64 {
        (self.clock)() / 1000
    }
}
