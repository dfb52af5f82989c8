//! Why a decision came out as it did: rule by rule, atom by atom, in sentences.
//!
//! Used by `countersign why` and by failing policy tests. It evaluates again, slowly, with the
//! same atom functions as the compiled form; the hot path records nothing but ids.

use std::fmt;

use serde::Serialize;

/// The whole story of one decision.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Explanation {
    /// `allow` or `deny`.
    pub decision: &'static str,
    /// On a denial: `deny_rule`, `no_match`, `unknown` or `token_missing`.
    pub reason: Option<&'static str>,
    /// `namespace/policy/rule` of the deciding rule, or of the closest one.
    pub rule: Option<String>,
    /// How many atoms of the closest rule were not true.
    pub atoms_short: Option<usize>,
    /// Text for in-mesh callers.
    pub message: Option<String>,
    /// What is accessed, such as `user`.
    pub resource: Option<String>,
    /// Who owns it.
    pub owner: Option<String>,
    /// Every rule of the workload, deny rules first.
    pub rules: Vec<RuleTrace>,
}

/// How one rule fared.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct RuleTrace {
    /// `allow` or `deny`.
    pub effect: &'static str,
    /// `namespace/policy`.
    pub policy: String,
    /// Name of the rule.
    pub rule: String,
    /// Where it is written: `file:line`.
    pub place: String,
    /// Why the rule does not speak about this request at all.
    pub not_a_candidate: Option<String>,
    /// `true`, `false` or `unknown`.
    pub result: &'static str,
    /// Its atoms, `match` first.
    pub atoms: Vec<AtomTrace>,
}

/// How one atom fared.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct AtomTrace {
    /// Such as `require.time`.
    pub id: String,
    /// `true`, `false` or `unknown`.
    pub result: &'static str,
    /// What was seen and what was wanted.
    pub sentence: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in &self.rules {
            write!(f, "{:<6} {}  {}", rule.effect, rule.policy, rule.rule)?;
            match &rule.not_a_candidate {
                Some(why) => writeln!(f, "    not a candidate: {why}")?,
                None => writeln!(f, "    {}", rule.place)?,
            }
            for atom in &rule.atoms {
                let result = match atom.result {
                    "false" => "FALSE",
                    "unknown" => "UNKNOWN",
                    other => other,
                };
                writeln!(f, "   {result:<8} {:<22} {}", atom.id, atom.sentence)?;
            }
        }
        if let (Some(rule), Some(short)) = (&self.rule, self.atoms_short) {
            let atoms = if short == 1 { "atom" } else { "atoms" };
            writeln!(f, "closest: {rule}, {short} {atoms} short")?;
        }
        if let Some(message) = &self.message {
            writeln!(f, "message shown to the caller: {message}")?;
        }
        Ok(())
    }
}
