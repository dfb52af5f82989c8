//! What was decided on, kept so that it can be explained: the input and the compiled policy.
//!
//! Shared between the audit record of a denial and the ring that `why` is answered from. Both ask
//! for the explanation off the data path.

use std::sync::Arc;

use countersign_policy::{Compiled, Explanation, InputOwned};

/// A decided input with the policy that decided it.
#[derive(Debug)]
pub struct DecidedInput {
    input: InputOwned,
    policy: Arc<Compiled>,
}

impl DecidedInput {
    /// Keeps an input; see `Compiled::keep`.
    pub fn new(input: InputOwned, policy: Arc<Compiled>) -> DecidedInput {
        DecidedInput { input, policy }
    }

    /// The input.
    pub fn input(&self) -> &InputOwned {
        &self.input
    }

    /// Why it was decided as it was, computed now.
    pub fn explanation(&self) -> Explanation {
        self.policy.explain(&self.input.as_input())
    }

    /// The atoms of the deciding or closest rule that were not true: (id, `false` or `unknown`).
    pub fn atoms_not_true(&self) -> Vec<(String, &'static str)> {
        let explanation = self.explanation();
        let Some(closest) = explanation.rule else { return Vec::new() };
        let is_closest = |policy: &str, rule: &str| {
            closest.strip_prefix(policy).and_then(|rest| rest.strip_prefix('/')) == Some(rule)
        };
        let rules = explanation.rules.into_iter();
        let atoms = rules.filter(|trace| is_closest(&trace.policy, &trace.rule));
        let atoms = atoms.flat_map(|trace| trace.atoms).filter(|atom| atom.result != "true");
        atoms.map(|atom| (atom.id, atom.result)).collect()
    }
}
