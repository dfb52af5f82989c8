//! The side of the control thread: asks, once for all who want to know.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_config::limits::ATTRIBUTE_CALLS_MAX;
use countersign_policy::doc::AttributeSource;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::authzen::{self, DecisionPoint};
use super::ldap;
use super::{Answer, Answered, Ask, Known, Provider, Question, Unavailable, Waiting};
use crate::clock::Now;

/// Asks, and remembers what was answered.
pub(super) struct Asking {
    known: Arc<Known>,
    /// Who waits for which answer.
    waiting: HashMap<Call, Vec<Waiting>>,
    /// Questions under way, by provider: one that stalls takes nobody else's place.
    under_way: HashMap<String, usize>,
    /// How decision points are reached, by the provider they belong to.
    points: HashMap<String, (Arc<Provider>, DecisionPoint)>,
    calls: JoinSet<Outcome>,
    /// Which question a call is about.
    about: HashMap<tokio::task::Id, (Arc<Provider>, [u8; 32])>,
}

/// A question to a provider as one set of documents describes it: whoever asks by another set does not
/// get the answer of a decision point that set no longer names.
type Call = (usize, [u8; 32]);

fn call(provider: &Arc<Provider>, key: [u8; 32]) -> Call {
    // Whoever is asked is kept until the answer is there, so nobody else takes this address.
    (Arc::as_ptr(provider).addr(), key)
}

type Outcome = Result<Answer, String>;

impl Asking {
    pub(super) fn new(known: Arc<Known>) -> Asking {
        Asking {
            known,
            waiting: HashMap::new(),
            under_way: HashMap::new(),
            points: HashMap::new(),
            calls: JoinSet::new(),
            about: HashMap::new(),
        }
    }

    pub(super) async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        loop {
            tokio::select! {
                ask = asked.recv() => match ask {
                    Some(ask) => self.begin(ask),
                    None => return,
                },
                Some(ended) = self.calls.join_next_with_id() => match ended {
                    Ok((id, outcome)) => self.end(id, outcome),
                    Err(broken) => self.end(broken.id(), Err("asking broke".to_owned())),
                }
            }
        }
    }

    fn begin(&mut self, ask: Ask) {
        let Ask { provider, question, key, answer } = ask;
        // Nobody waits any more for what was asked too long ago.
        if answer.is_closed() {
            return;
        }
        if let Some(waiting) = self.waiting.get_mut(&call(&provider, key)) {
            waiting.retain(|answer| !answer.is_closed());
            waiting.push(answer);
            return;
        }
        let under_way = self.under_way.entry(provider.name.clone()).or_default();
        if *under_way >= ATTRIBUTE_CALLS_MAX {
            let why = format!("{under_way} questions to `{}` have no answer yet", provider.name);
            // Whoever asked may have given up.
            _ = answer.send(Err(Unavailable(why)));
            return;
        }
        *under_way += 1;
        self.waiting.insert(call(&provider, key), vec![answer]);
        let point = self.point(&provider);
        let limit = Duration::from_millis(provider.spec.timeout_ms);
        let asking = Arc::clone(&provider);
        let asked = self.calls.spawn(async move {
            let answer = ask_provider(&asking, point, &question);
            match tokio::time::timeout(limit, answer).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("no answer from `{}` within {limit:?}", asking.name)),
            }
        });
        self.about.insert(asked.id(), (provider, key));
    }

    /// How the decision point of a provider is reached; `None` for a directory.
    fn point(&mut self, provider: &Arc<Provider>) -> Option<DecisionPoint> {
        let AttributeSource::AuthZen(authzen) = &provider.spec.source else { return None };
        match self.points.get(&provider.name) {
            Some((known, point)) if known.spec == provider.spec => Some(point.clone()),
            Some(_) | None => {
                let point = DecisionPoint::new(authzen);
                let entry = (Arc::clone(provider), point.clone());
                self.points.insert(provider.name.clone(), entry);
                Some(point)
            }
        }
    }

    fn end(&mut self, ended: tokio::task::Id, outcome: Outcome) {
        let Some((provider, key)) = self.about.remove(&ended) else { return };
        if let Some(under_way) = self.under_way.get_mut(&provider.name) {
            *under_way = under_way.saturating_sub(1);
        }
        let waiting = self.waiting.remove(&call(&provider, key));
        let outcome = match outcome {
            Ok(answer) => {
                let answered = Answered { answer, at: Now::read().secs() };
                self.known.keep(&provider, key, answered.clone());
                Ok(answered)
            }
            Err(why) => {
                let provider = &provider.name;
                tracing::warn!(
                    code = "AT-01",
                    provider,
                    why,
                    "an attribute provider gave no answer"
                );
                Err(Unavailable(why))
            }
        };
        for waiting in waiting.into_iter().flatten() {
            // Whoever asked may have given up.
            _ = waiting.send(outcome.clone());
        }
    }
}

async fn ask_provider(
    provider: &Provider,
    point: Option<DecisionPoint>,
    question: &Question,
) -> Result<Answer, String> {
    match (&provider.spec.source, point) {
        (AttributeSource::AuthZen(spec), Some(point)) => authzen::ask(spec, &point, question).await,
        (AttributeSource::AuthZen(_), None) => Err("it was not asked".to_owned()),
        (AttributeSource::Ldap(search), _) => ldap::groups(search, question).await,
    }
}
