//! Explanations: of policy decisions, rule by rule, and of refusals before policy, step by step.
//!
//! Invariant: unless the reader may see personal values, none of the input's personal values is in
//! the output; they are replaced in the finished texts, so that no sentence can forget to.

use std::fmt::Write;
use std::sync::Arc;

use countersign_policy::Input;
use serde_json::{Value, json};

use super::ring::{Explain, Explained};
use crate::audit::{DecidedInput, Personal};

impl Explain for DecidedInput {
    fn explain(&self, personal: &Personal) -> Explained {
        let explanation = self.explanation();
        let json = serde_json::to_value(&explanation).unwrap_or_default();
        let explained = Explained { json, text: explanation.to_string() };
        match personal {
            Personal::Clear => explained,
            Personal::Pseudonyms(_) => {
                let masks = masks(&self.input().as_input(), personal);
                let text = mask(&explained.text, &masks);
                Explained { json: mask_json(explained.json, &masks), text }
            }
        }
    }

    fn bytes(&self) -> usize {
        let input = self.input().as_input();
        let request = input.request;
        let context = input.context.map_or(0, |context| {
            let scope: usize = context.scope.iter().map(String::len).sum();
            512 + context.txn.len() + scope
        });
        512 + request.path.target().len() + request.host.len() + context
    }
}

impl Explain for Arc<DecidedInput> {
    fn explain(&self, personal: &Personal) -> Explained {
        Explain::explain(&**self, personal)
    }

    fn bytes(&self) -> usize {
        Explain::bytes(&**self)
    }
}

/// What must not be shown, and what is shown instead; longest first.
fn masks(input: &Input<'_>, personal: &Personal) -> Vec<(String, String)> {
    let mut masks = vec![(input.request.path.path().to_owned(), "[path]".to_owned())];
    let mut hide = |class: &str, value: &str| {
        masks.push((value.to_owned(), personal.show(class, value)));
    };
    if let Some(ip) = input.peer_ip {
        hide("src", &ip.to_string());
    }
    if let Some(context) = &input.context {
        if let Some(user) = &context.user {
            hide("user", user.id);
            if let Some(account) = user.account {
                hide("acct", account);
            }
            for claim in user.claims.into_iter().flat_map(|claims| claims.values()) {
                match claim {
                    Value::String(text) => hide("claim", text),
                    Value::Number(number) => hide("claim", &number.to_string()),
                    _ => {}
                }
            }
        }
        if let Some(source) = &context.source {
            hide("src", &source.ip.to_string());
        }
        if let Some(id) = context.device.as_ref().and_then(|device| device.id) {
            hide("dev", id);
        }
    }
    masks.retain(|(value, _)| !value.is_empty() && value != "/");
    masks.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
    masks
}

/// Replaces each value where it stands as a word of its own.
fn mask(text: &str, masks: &[(String, String)]) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    let mut before: Option<char> = None;
    while let Some(next) = rest.chars().next() {
        let hit = masks.iter().find_map(|(value, shown)| {
            let after = rest.strip_prefix(value.as_str())?;
            let starts_word = !joins(before, value.chars().next());
            let ends_word = !joins(value.chars().next_back(), after.chars().next());
            (starts_word && ends_word).then_some((after, value, shown))
        });
        if let Some((after, value, shown)) = hit {
            masked.push_str(shown);
            before = value.chars().next_back();
            rest = after;
        } else {
            masked.push(next);
            before = Some(next);
            rest = rest.strip_prefix(next).unwrap_or_default();
        }
    }
    masked
}

/// Do two neighbouring characters belong to one word?
fn joins(left: Option<char>, right: Option<char>) -> bool {
    let part_of_word = |char: Option<char>| char.is_some_and(char::is_alphanumeric);
    part_of_word(left) && part_of_word(right)
}

fn mask_json(value: Value, masks: &[(String, String)]) -> Value {
    match value {
        Value::String(text) => Value::String(mask(&text, masks)),
        Value::Array(values) => values.into_iter().map(|value| mask_json(value, masks)).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, mask_json(value, masks))).collect()
        }
        other => other,
    }
}

/// A refusal before policy: which step refused, and what it expected and saw. Neither text may
/// hold a token or a header value.
#[derive(Clone, Debug)]
pub struct StageRefusal {
    /// The stage file that refused.
    pub stage: &'static str,
    /// The name in the refusal table.
    pub reason: &'static str,
    /// What would have been accepted.
    pub expected: Option<String>,
    /// What came instead, e.g. `exp was 94 s ago by this clock`.
    pub seen: Option<String>,
}

/// The steps an inbound request takes before policy, and the reasons each can refuse with.
const STEPS: &[(&str, &[&str])] = &[
    (
        "head: well-formed HTTP with one meaning",
        &["head_malformed", "head_too_large", "path_malformed", "host_malformed", "bad_request"],
    ),
    ("context: reserved fields set aside", &["header_forbidden"]),
    (
        "context: at most one token, of permitted size and characters",
        &["token_duplicated", "token_too_large", "token_malformed", "rate_limited"],
    ),
    ("context: a token where the route needs one", &["token_missing"]),
    (
        "context: the key of the token is known and its issuer allowed",
        &["key_unknown", "keys_unavailable", "issuer_not_allowed"],
    ),
    ("context: signature", &["signature_invalid"]),
    (
        "context: audience, times and claims",
        &["token_expired", "audience_wrong", "claim_invalid", "token_revoked"],
    ),
    ("context: what this issuer may say", &["constraint_violated"]),
    ("context: may this caller present a token", &["presenter_refused"]),
    (
        "context: custody, from the first holder to this caller",
        &["hops_malformed", "hops_too_large", "hops_cert_unknown", "custody_broken"],
    ),
    ("context: token not used before", &["token_replayed"]),
];

impl Explain for StageRefusal {
    fn explain(&self, _personal: &Personal) -> Explained {
        let mut text = String::new();
        let failing = STEPS.iter().position(|(_, reasons)| reasons.contains(&self.reason));
        let passed = STEPS.iter().take(failing.unwrap_or(0)).map(|(step, _)| *step);
        // Writing to a String cannot fail, here and below.
        for step in passed.clone() {
            _ = writeln!(text, "   passed   {step}");
        }
        let failing = failing.and_then(|index| STEPS.get(index)).map(|(step, _)| *step);
        _ = writeln!(text, "   REFUSED  {}", failing.unwrap_or(self.stage));
        let seen = self.seen.as_deref().unwrap_or("no detail was kept");
        _ = writeln!(text, "{}: {seen}", self.reason);
        if let Some(expected) = &self.expected {
            _ = writeln!(text, "expected: {expected}");
        }
        _ = writeln!(text, "meaning: https://countersign.dev/e/{}", self.reason);
        let json = json!({
            "stage": self.stage,
            "reason": self.reason,
            "step": failing,
            "passed": passed.collect::<Vec<_>>(),
            "expected": self.expected,
            "seen": self.seen,
        });
        Explained { json, text }
    }

    fn bytes(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        256 + length(&self.expected) + length(&self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_whole_words_only() {
        let masks = [("alice".to_owned(), "p:1".to_owned()), ("7".to_owned(), "p:2".to_owned())];
        let masked = mask("alice, malice and `alice`: account 7 of 17, 7", &masks);
        assert_eq!(masked, "p:1, malice and `p:1`: account p:2 of 17, p:2");
        assert_eq!(mask_json(json!({"a": ["alice"]}), &masks), json!({"a": ["p:1"]}));
    }

    #[test]
    fn a_refusal_shows_the_steps_up_to_the_failing_one() {
        let refusal = StageRefusal {
            stage: "context",
            reason: "signature_invalid",
            expected: None,
            seen: Some("signed by another key than k7".to_owned()),
        };
        let explained = refusal.explain(&Personal::Clear);
        expect_test::expect![[r#"
               passed   head: well-formed HTTP with one meaning
               passed   context: reserved fields set aside
               passed   context: at most one token, of permitted size and characters
               passed   context: a token where the route needs one
               passed   context: the key of the token is known and its issuer allowed
               REFUSED  context: signature
            signature_invalid: signed by another key than k7
            meaning: https://countersign.dev/e/signature_invalid
        "#]]
        .assert_eq(&explained.text);
    }
}
