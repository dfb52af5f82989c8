//! Asks the Kubernetes API server about service account tokens (`TokenReview`): the only way to
//! learn that the pod of a token is gone.
//!
//! The control thread asks; a worker waits for the answer, for the request that is to be minted and
//! for no other. Invariants: the same token is asked about once at a time; calls and those who wait
//! are bounded; no answer in time, or none that can be understood, is never a yes. Our own
//! credential is read again at each call, and goes to the configured server only.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_config::KubernetesApi;
use countersign_config::limits::{
    CALLER_REVIEW_MS_MAX, CALLER_REVIEW_QUEUE_MAX, CALLER_REVIEWS_MAX,
};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::CallerError;
use crate::gateway::cluster;
use crate::gateway::strict_json;

/// The API server to ask, and how.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ReviewTarget {
    /// The API server.
    pub cluster: KubernetesApi,
    /// The audience that must be ours.
    pub audience: String,
}

/// What the API server says of a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reviewed {
    /// It counts now, for our audience.
    Authenticated {
        /// `status.user.username`.
        username: String,
        /// The pod it is bound to.
        pod_uid: String,
    },
    /// It does not count, and why.
    Refused(String),
}

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// One question on its way to the control thread.
struct Ask {
    target: Arc<ReviewTarget>,
    token: Zeroizing<String>,
    key: [u8; 32],
    answer: oneshot::Sender<Answer>,
}

/// Whom to ask, and the SHA-256 of the token in question.
type Question = (Arc<ReviewTarget>, [u8; 32]);
type Answer = Result<Reviewed, String>;

/// Asks the control thread; one per worker, cheap to clone.
#[derive(Clone)]
pub struct Reviews {
    ask: mpsc::Sender<Ask>,
}

impl Reviews {
    /// Starts to answer, on the runtime this is called in, until the last clone is gone.
    pub fn start() -> Reviews {
        let (ask, asked) = mpsc::channel(CALLER_REVIEW_QUEUE_MAX);
        tokio::spawn(Reviewer { waiting: HashMap::new(), calls: JoinSet::new() }.run(asked));
        Reviews { ask }
    }

    /// Asks about a token; `key` is its SHA-256.
    ///
    /// # Errors
    /// [`CallerError::Unverifiable`] without an answer in time, and when too many wait already.
    pub async fn review(
        &self,
        target: &Arc<ReviewTarget>,
        token: &str,
        key: [u8; 32],
    ) -> Result<Reviewed, CallerError> {
        let server = &target.cluster.server;
        let (answer, answered) = oneshot::channel();
        let token = Zeroizing::new(token.to_owned());
        let ask = Ask { target: Arc::clone(target), token, key, answer };
        if self.ask.try_send(ask).is_err() {
            let what = format!("too many tokens wait for a TokenReview of {server} already");
            return Err(CallerError::Unverifiable(what));
        }
        let limit = Duration::from_millis(CALLER_REVIEW_MS_MAX);
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(Ok(reviewed))) => Ok(reviewed),
            Ok(Ok(Err(why))) => Err(CallerError::Unverifiable(why)),
            Ok(Err(_)) => {
                Err(CallerError::Unverifiable("this gateway stops asking: it ends".to_owned()))
            }
            Err(_) => {
                let what = format!("no answer to a TokenReview from {server} within {limit:?}");
                Err(CallerError::Unverifiable(what))
            }
        }
    }
}

/// Runs the calls.
struct Reviewer {
    /// Who waits for which token.
    waiting: HashMap<Question, Vec<oneshot::Sender<Answer>>>,
    calls: JoinSet<(Question, Answer)>,
}

impl Reviewer {
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        loop {
            let room = self.calls.len() < CALLER_REVIEWS_MAX;
            tokio::select! {
                ask = asked.recv(), if room => match ask {
                    Some(ask) => self.begin(ask),
                    None => return,
                },
                Some(ended) = self.calls.join_next() => {
                    if let Ok((key, answer)) = ended {
                        self.end(&key, &answer);
                    }
                }
            }
        }
    }

    fn begin(&mut self, ask: Ask) {
        // Nobody waits any more for what was asked too long ago.
        if ask.answer.is_closed() {
            return;
        }
        let key = (Arc::clone(&ask.target), ask.key);
        let waiting = self.waiting.entry(key.clone()).or_default();
        waiting.retain(|answer| !answer.is_closed());
        waiting.push(ask.answer);
        if waiting.len() == 1 {
            self.calls.spawn(async move { (key, call(&ask.target, &ask.token).await) });
        }
    }

    fn end(&mut self, key: &Question, answer: &Answer) {
        if let Err(why) = answer {
            tracing::warn!(code = "CA-01", why, "callers with service account tokens are refused");
        }
        for waiting in self.waiting.remove(key).into_iter().flatten() {
            // Whoever asked may have given up.
            _ = waiting.send(answer.clone());
        }
    }
}

/// One review: who was asked what, and what came, where there is no verdict.
async fn call(target: &ReviewTarget, token: &str) -> Answer {
    let KubernetesApi { server, .. } = &target.cluster;
    let answer = cluster::post(&target.cluster, PATH, &question(token, &target.audience)).await?;
    match answer.status.as_u16() {
        200 | 201 => read(&answer.body, &target.audience)
            .map_err(|why| format!("TokenReview at {server}: the answer is of no use: {why}")),
        401 => Err(format!(
            "TokenReview at {server}: our own token ({}) is not accepted: {}",
            target.cluster.token_file.display(),
            answer.summary()
        )),
        403 => Err(format!(
            "TokenReview at {server}: {}; bind the ClusterRole `system:auth-delegator` to the \
             service account of this gateway",
            answer.summary()
        )),
        _ => Err(format!("TokenReview at {server}: {}", answer.summary())),
    }
}

/// The request to the API server.
pub(in crate::gateway) fn question(token: &str, audience: &str) -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    })
}

/// What the API server said.
pub(in crate::gateway) fn read(json: &[u8], audience: &str) -> Result<Reviewed, String> {
    let review = strict_json::object(json).map_err(|error| format!("not JSON: {error}"))?;
    if review.get("kind").and_then(Value::as_str) != Some("TokenReview") {
        return Err("not a TokenReview".to_owned());
    }
    let status = review.get("status").and_then(Value::as_object);
    let status = status.ok_or("a TokenReview without `status`")?;
    if status.get("authenticated").and_then(Value::as_bool) != Some(true) {
        let why = status.get("error").and_then(Value::as_str).unwrap_or("it gives no reason");
        return Ok(Reviewed::Refused(why.chars().filter(|c| !c.is_control()).take(300).collect()));
    }
    let audiences = status.get("audiences").and_then(Value::as_array);
    let ours = audiences.is_some_and(|all| all.iter().any(|one| one.as_str() == Some(audience)));
    if !ours {
        // A server that knows nothing of audiences would accept tokens that are for it alone.
        return Ok(Reviewed::Refused(format!("it does not confirm the audience `{audience}`")));
    }
    let user = status.get("user").and_then(Value::as_object).ok_or("`status.user` is missing")?;
    let username = user.get("username").and_then(Value::as_str);
    let username = username.ok_or("`status.user.username` is missing")?.to_owned();
    match extra(user, "authentication.kubernetes.io/pod-uid") {
        Some(pod_uid) => Ok(Reviewed::Authenticated { username, pod_uid }),
        None => Ok(Reviewed::Refused("it names no pod the token is bound to".to_owned())),
    }
}

/// The one value of a member of `status.user.extra`.
fn extra(user: &Map<String, Value>, name: &str) -> Option<String> {
    let values = user.get("extra")?.as_object()?.get(name)?.as_array()?;
    match values.as_slice() {
        [one] => one.as_str().map(str::to_owned),
        _ => None,
    }
}
