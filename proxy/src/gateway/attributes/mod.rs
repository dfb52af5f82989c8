//! What somebody else knows about a request: validators of justifications and devices, directories.
//!
//! The control thread asks; a worker waits for the answer, for the request it is about and for no
//! other. Invariants: a question is asked once at a time; questions, those who wait and what is
//! remembered are bounded; whoever asks gets an answer within the provider's time-out or is told that
//! there is none, and none is never a yes; a yes and a no count for as long as the document says.

mod ask;
pub mod authzen;
pub mod ldap;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use countersign_config::limits::ATTRIBUTE_QUEUE_MAX;
use countersign_policy::doc::{AskedId, AttributeProvider, AttributeSource, Named, OnUnavailable};
use quick_cache::unsync::Cache;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use crate::clock::Now;

/// An attribute provider of the documents.
pub type Provider = Named<AttributeProvider>;

/// The values of a request that questions are made of. They are personal: never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// Our name of the identity provider whose user this is: ids of users are its own.
    pub provider: Option<String>,
    /// `user.id`.
    pub user: Option<String>,
    /// `user.accountId`.
    pub account: Option<String>,
    /// `device.id`.
    pub device: Option<String>,
    /// `justification.ref`.
    pub justification: Option<String>,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").finish_non_exhaustive()
    }
}

impl Question {
    /// A value by its name in documents.
    pub fn value(&self, id: AskedId) -> Option<&str> {
        match id {
            AskedId::UserId => self.user.as_deref(),
            AskedId::UserAccount => self.account.as_deref(),
            AskedId::DeviceId => self.device.as_deref(),
            AskedId::JustificationRef => self.justification.as_deref(),
        }
    }

    /// What a provider would be asked with and this request does not have.
    fn missing(&self, provider: &AttributeProvider) -> Option<&'static str> {
        let wanted: &[AskedId] = match &provider.source {
            AttributeSource::AuthZen(spec) => &[spec.subject.id, spec.resource.id],
            // A filter without its value cannot be made, which the search says.
            AttributeSource::Ldap(_) => &[],
        };
        wanted.iter().find(|id| self.value(**id).is_none()).map(|id| id.as_str())
    }

    /// A name of this question to this provider that differs for any other.
    fn key(&self, provider: &str) -> [u8; 32] {
        let mut digest = digest::Context::new(&digest::SHA256);
        let parts = [&self.provider, &self.user, &self.account, &self.device, &self.justification];
        let parts = parts.into_iter().map(Option::as_deref);
        for part in std::iter::once(Some(provider)).chain(parts) {
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            digest.update(&length.to_be_bytes());
            digest.update(part.unwrap_or_default().as_bytes());
        }
        let mut key = [0; 32];
        key.copy_from_slice(digest.finish().as_ref());
        key
    }
}

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It holds, with these facts.
    Yes(Map<String, Value>),
    /// It does not, with the provider's code for it.
    No(Option<String>),
    /// The groups of the user that the document keeps, sorted.
    Groups(Vec<String>),
}

impl Answer {
    fn is_no(&self) -> bool {
        matches!(self, Answer::No(_))
    }
}

/// An answer and when it was given, seconds since 1970.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// What was said.
    pub answer: Answer,
    /// When.
    pub at: u64,
}

/// There is no answer, and why: for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub String);

/// Who waits for an answer.
type Waiting = oneshot::Sender<Result<Answered, Unavailable>>;

/// One question on its way to the control thread.
struct Ask {
    provider: Arc<Provider>,
    question: Question,
    key: [u8; 32],
    answer: Waiting,
}

/// Asks the control thread; shared by all workers, cheap to clone.
#[derive(Clone)]
pub struct Attributes {
    ask: mpsc::Sender<Ask>,
    known: Arc<Known>,
}

impl Attributes {
    /// Starts to answer, on the runtime this is called in, until the last clone is gone.
    pub fn start() -> Attributes {
        let (ask, asked) = mpsc::channel(ATTRIBUTE_QUEUE_MAX);
        let known = Arc::new(Known::default());
        tokio::spawn(ask::Asking::new(Arc::clone(&known)).run(asked));
        Attributes { ask, known }
    }

    /// Asks a provider, or remembers what it said.
    ///
    /// # Errors
    /// [`Unavailable`] without an answer in time that may still be used.
    pub async fn ask(
        &self,
        provider: &Arc<Provider>,
        question: &Question,
        now: Now,
    ) -> Result<Answered, Unavailable> {
        if let Some(missing) = question.missing(&provider.spec) {
            return Err(Unavailable(format!("the request has no `{missing}` to ask about")));
        }
        let key = question.key(&provider.name);
        let known = self.known.get(provider, &key);
        if let Some(known) = known.as_ref().filter(|known| is_fresh(provider, known, now)) {
            return Ok(known.clone());
        }
        let missing = match self.ask_now(provider, question, key).await {
            Ok(answered) => return Ok(answered),
            Err(missing) => missing,
        };
        match (provider.spec.on_unavailable, known) {
            (OnUnavailable::UseStale(max_s), Some(known)) if age(&known, now) <= Some(max_s) => {
                Ok(known)
            }
            _ => Err(missing),
        }
    }

    async fn ask_now(
        &self,
        provider: &Arc<Provider>,
        question: &Question,
        key: [u8; 32],
    ) -> Result<Answered, Unavailable> {
        let name = &provider.name;
        let (answer, answered) = oneshot::channel();
        let (provider, question) = (Arc::clone(provider), question.clone());
        let limit = Duration::from_millis(provider.spec.timeout_ms);
        let ask = Ask { provider: Arc::clone(&provider), question, key, answer };
        if self.ask.try_send(ask).is_err() {
            return Err(Unavailable(format!("too many questions to `{name}` wait already")));
        }
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_)) => Err(Unavailable("this gateway stops asking: it ends".to_owned())),
            Err(_) => Err(Unavailable(format!("no answer from `{name}` within {limit:?}"))),
        }
    }
}

/// Seconds since an answer; `None` if the clock went back, and then nobody knows.
fn age(known: &Answered, now: Now) -> Option<u64> {
    // Without an age there is none that is small enough.
    Some(now.secs().checked_sub(known.at).unwrap_or(u64::MAX))
}

fn is_fresh(provider: &Provider, known: &Answered, now: Now) -> bool {
    let cache = provider.spec.cache;
    let max_s = if known.answer.is_no() { cache.negative_s } else { cache.positive_s };
    age(known, now).is_some_and(|age| age < max_s)
}

/// What providers said.
#[derive(Default)]
struct Known {
    by_provider: Mutex<HashMap<String, OfProvider>>,
}

/// What one provider said, as its document then was.
struct OfProvider {
    spec: AttributeProvider,
    answers: Cache<[u8; 32], Answered>,
}

impl Known {
    fn get(&self, provider: &Provider, key: &[u8; 32]) -> Option<Answered> {
        let mut all = self.by_provider.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.get_mut(&provider.name).filter(|own| own.spec == provider.spec)?;
        own.answers.get(key).cloned()
    }

    /// Remembers an answer; those to a document that changed are forgotten.
    fn keep(&self, provider: &Provider, key: [u8; 32], answered: Answered) {
        let mut all = self.by_provider.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || OfProvider {
            spec: provider.spec.clone(),
            answers: Cache::new(provider.spec.cache.max_entries),
        };
        let own = all.entry(provider.name.clone()).or_insert_with(fresh);
        if own.spec != provider.spec {
            *own = fresh();
        }
        own.answers.insert(key, answered);
    }
}

#[cfg(test)]
#[path = "../tests/attributes.rs"]
mod tests;
