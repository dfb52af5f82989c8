//! Is this proxy ready, and if not, what is missing?
//!
//! Parts report named conditions; `/ready` answers from the register and from the state of life
//! they lead to. A condition that was never reported counts as missing, so that a part that does
//! not start cannot be forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::{Value, json};

use crate::lifecycle::{Asked, Facts, Lifecycle, State};

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
struct Register {
    conditions: BTreeMap<Condition, Standing>,
    lifecycle: Lifecycle,
}

/// Is told every change of the state, from and to.
type Observer = Box<dyn Fn(State, State) + Send + Sync>;

/// The register of conditions. Clones share it.
#[derive(Clone, Default)]
pub struct Readiness {
    register: Arc<Mutex<Register>>,
    observer: Arc<OnceLock<Observer>>,
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lock().fmt(f)
    }
}

impl Readiness {
    /// A register in which everything is missing.
    pub fn new() -> Readiness {
        Readiness::default()
    }

    /// Tells `observer` every change of the state from now on. The first one to ask is told.
    pub fn observe(&self, observer: impl Fn(State, State) + Send + Sync + 'static) {
        // LIMIT: one observer; the composition root sets it before anything reports.
        _ = self.observer.set(Box::new(observer));
    }

    /// The condition holds.
    pub fn met(&self, condition: Condition) {
        self.report(condition, Standing::Met);
    }

    /// The condition does not hold; `why` names what was tried, what was answered, what is next.
    pub fn missing(&self, condition: Condition, why: impl Into<String>) {
        self.report(condition, Standing::Missing(why.into()));
    }

    /// The condition holds, but not well, e.g. keys that are getting old.
    pub fn degraded(&self, condition: Condition, why: impl Into<String>) {
        self.report(condition, Standing::Warned(why.into()));
    }

    /// The process is to drain or to stop.
    pub fn ask(&self, asked: Asked) {
        self.change(|register| register.lifecycle.ask(asked));
    }

    fn report(&self, condition: Condition, standing: Standing) {
        self.change(|register| {
            register.conditions.insert(condition, standing);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Register)) {
        let mut register = self.lock();
        let old = register.lifecycle.state();
        change(&mut register);
        let facts = register.facts();
        let new = register.lifecycle.step(facts);
        drop(register);
        if let (true, Some(observer)) = (old != new, self.observer.get()) {
            observer(old, new);
        }
    }

    /// Where the process is in its life.
    pub fn state(&self) -> State {
        self.lock().lifecycle.state()
    }

    /// May requests be sent here?
    pub fn is_ready(&self) -> bool {
        self.state().is_ready()
    }

    /// What is wrong with a condition; `None` if nothing is.
    pub fn complaint(&self, condition: Condition) -> Option<String> {
        Some(self.lock().why(condition).to_owned()).filter(|why| !why.is_empty())
    }

    /// What is missing, as `name: why`, for logs.
    pub fn missing_texts(&self) -> Vec<String> {
        let register = self.lock();
        let missing = Condition::ALL.iter().filter(|condition| !register.holds(**condition));
        missing
            .map(|condition| format!("{}: {}", condition.text(), register.why(*condition)))
            .collect()
    }

    /// The body of `/ready`.
    pub fn to_json(&self) -> Value {
        let register = self.lock();
        let state = register.lifecycle.state();
        let mut missing = Vec::new();
        let mut warnings = Vec::new();
        for condition in Condition::ALL {
            let entry = json!({"condition": condition.text(), "why": register.why(*condition)});
            match register.conditions.get(condition) {
                Some(Standing::Met) => {}
                Some(Standing::Warned(_)) => warnings.push(entry),
                Some(Standing::Missing(_)) | None => missing.push(entry),
            }
        }
        let mut body = json!({
            "ready": state.is_ready(),
            "state": state.text(),
            "missing": missing,
            "warnings": warnings,
        });
        if let (Some(reason), Some(fields)) = (state.reason(), body.as_object_mut()) {
            fields.insert("reason".to_owned(), reason.into());
        }
        body
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Register {
    fn facts(&self) -> Facts {
        let all = |wanted: &[Condition]| wanted.iter().all(|condition| self.holds(*condition));
        let warned = |standing: &Standing| matches!(standing, Standing::Warned(_));
        Facts {
            identity: all(&[Condition::Identity, Condition::Trust]),
            parts: all(&[Condition::Policy, Condition::Listeners, Condition::IssuerKeys]),
            redirect: all(&[Condition::Redirect]),
            warned: self.conditions.values().any(warned),
        }
    }

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
        assert_eq!((readiness.is_ready(), readiness.state()), (false, State::Starting));
        let texts = readiness.missing_texts();
        assert_eq!(texts, ["identity: no answer from unix:/run/spire.sock"]);
        readiness.met(Condition::Identity);
        readiness.degraded(Condition::IssuerKeys, "corp: 31 min old");
        assert!(readiness.is_ready());
        assert_eq!(readiness.to_json()["warnings"][0]["condition"], "issuer_keys");
        assert_eq!(readiness.to_json()["state"], "degraded");
        readiness.ask(Asked::Drain);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.to_json()["reason"], "draining");
    }
}
