//! Is this proxy ready, and if not, what is missing?
//!
//! Parts report named conditions; `/ready` answers from the register. A condition that was never
//! reported counts as missing, so that a part that does not start cannot be forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

/// What must hold before requests are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// The proxy holds a valid certificate.
    Identity,
    /// The trust bundle of its trust domain is there.
    Trust,
    /// Documents are loaded and compiled.
    Policy,
    /// Every port is bound.
    Listeners,
    /// Traffic is really intercepted; holds at once where nothing is redirected.
    Redirect,
    /// Keys of identity providers and token issuers are loaded.
    IssuerKeys,
}

impl Condition {
    /// Every condition.
    pub const ALL: &'static [Condition] = &[
        Condition::Identity,
        Condition::Trust,
        Condition::Policy,
        Condition::Listeners,
        Condition::Redirect,
        Condition::IssuerKeys,
    ];

    /// The name in `/ready`.
    pub fn text(self) -> &'static str {
        match self {
            Condition::Identity => "identity",
            Condition::Trust => "trust",
            Condition::Policy => "policy",
            Condition::Listeners => "listeners",
            Condition::Redirect => "redirect",
            Condition::IssuerKeys => "issuer_keys",
        }
    }
}

/// How a condition stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Met,
    /// Served anyway, but somebody should look.
    Warned(String),
    Missing(String),
}

#[derive(Debug, Default)]
struct State {
    conditions: BTreeMap<Condition, Standing>,
    /// Draining or stopping: not ready for new traffic, whatever else holds.
    leaving: Option<&'static str>,
}

/// The register of conditions. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
}

impl Readiness {
    /// A register in which everything is missing.
    pub fn new() -> Readiness {
        Readiness::default()
    }

    /// The condition holds.
    pub fn met(&self, condition: Condition) {
        self.lock().conditions.insert(condition, Standing::Met);
    }

    /// The condition does not hold; `why` names what was tried, what was answered, what is next.
    pub fn missing(&self, condition: Condition, why: impl Into<String>) {
        self.lock().conditions.insert(condition, Standing::Missing(why.into()));
    }

    /// The condition holds, but not well, e.g. keys that are getting old.
    pub fn degraded(&self, condition: Condition, why: impl Into<String>) {
        self.lock().conditions.insert(condition, Standing::Warned(why.into()));
    }

    /// The process is `draining` or `stopping`.
    pub fn leaving(&self, state: &'static str) {
        self.lock().leaving = Some(state);
    }

    /// May requests be sent here?
    pub fn is_ready(&self) -> bool {
        let state = self.lock();
        state.leaving.is_none() && Condition::ALL.iter().all(|condition| state.holds(*condition))
    }

    /// What is missing, as `name: why`, for logs.
    pub fn missing_texts(&self) -> Vec<String> {
        let state = self.lock();
        let missing = Condition::ALL.iter().filter(|condition| !state.holds(**condition));
        missing
            .map(|condition| format!("{}: {}", condition.text(), state.why(*condition)))
            .collect()
    }

    /// The body of `/ready`.
    pub fn to_json(&self) -> Value {
        let ready = self.is_ready();
        let state = self.lock();
        let mut missing = Vec::new();
        let mut warnings = Vec::new();
        for condition in Condition::ALL {
            let entry = json!({"condition": condition.text(), "why": state.why(*condition)});
            match state.conditions.get(condition) {
                Some(Standing::Met) => {}
                Some(Standing::Warned(_)) => warnings.push(entry),
                Some(Standing::Missing(_)) | None => missing.push(entry),
            }
        }
        let mut body = json!({"ready": ready, "missing": missing, "warnings": warnings});
        if let (Some(leaving), Some(fields)) = (state.leaving, body.as_object_mut()) {
            fields.insert("state".to_owned(), leaving.into());
        }
        body
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn holds(&self, condition: Condition) -> bool {
        matches!(self.conditions.get(&condition), Some(Standing::Met | Standing::Warned(_)))
    }

    fn why(&self, condition: Condition) -> &str {
        match self.conditions.get(&condition) {
            Some(Standing::Met) => "",
            Some(Standing::Warned(why) | Standing::Missing(why)) => why,
            None => "not started yet",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_missing_until_it_is_reported() {
        let readiness = Readiness::new();
        assert!(!readiness.is_ready());
        for condition in &Condition::ALL[1..] {
            readiness.met(*condition);
        }
        readiness.missing(Condition::Identity, "no answer from unix:/run/spire.sock");
        assert!(!readiness.is_ready());
        let texts = readiness.missing_texts();
        assert_eq!(texts, ["identity: no answer from unix:/run/spire.sock"]);
        readiness.met(Condition::Identity);
        readiness.degraded(Condition::IssuerKeys, "corp: 31 min old");
        assert!(readiness.is_ready());
        assert_eq!(readiness.to_json()["warnings"][0]["condition"], "issuer_keys");
        readiness.leaving("draining");
        assert!(!readiness.is_ready());
    }
}
