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
use crate::telemetry::Direction;

impl Explain for DecidedInput {
    fn explain(&self, personal: &Personal) -> Explained {
        let explanation = self.explanation();
        let json = serde_json::to_value(&explanation).unwrap_or_default();
        let explained = Explained { json, text: explanation.to_string() };
        match personal {
            Personal::Clear => explained,
            Personal::Pseudonyms(_) => {
                let owner = explanation.owner.as_deref();
                let masks = masks(&self.input().as_input(), owner, personal);
                let text = mask(&explained.text, &masks);
                Explained { json: mask_json(explained.json, &masks), text }
            }
        }
    }

    fn bytes(&self) -> usize {
        let input = self.input().as_input();
        let request =
            input.request.map_or(0, |request| request.path.target().len() + request.host.len());
        let context = input.context.map_or(0, |context| {
            let scope: usize = context.scope.iter().map(String::len).sum();
            512 + context.txn.len() + scope
        });
        512 + request + context
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
fn masks(input: &Input<'_>, owner: Option<&str>, personal: &Personal) -> Vec<(String, String)> {
    let path = input.request.map(|request| request.path.path().to_owned());
    let mut masks: Vec<_> = path.map(|path| (path, "[path]".to_owned())).into_iter().collect();
    let mut hide = |class: &str, value: &str| {
        masks.push((value.to_owned(), personal.show(class, value)));
    };
    if let Some(owner) = owner {
        hide("acct", owner);
    }
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

/// A refusal by something other than a rule: which step of the direction's pipeline refused, and
/// what it saw. No text may hold a token or a header value.
#[derive(Clone, Debug)]
pub struct StageRefusal {
    /// The direction, which has the steps.
    pub direction: Direction,
    /// The stage file that refused.
    pub stage: &'static str,
    /// The name in the refusal table.
    pub reason: &'static str,
    /// What the refusal table says about it.
    pub means: &'static str,
    /// What was seen, e.g. `exp was 94 s ago by this clock`.
    pub seen: Option<String>,
}

/// A step and the reasons it can refuse with.
type Step = (&'static str, &'static [&'static str]);

const HTTP: Step = (
    "accept: well-formed HTTP with one meaning",
    &[
        "overloaded",
        "protocol_mismatch",
        "undetectable",
        "request_malformed",
        "request_timeout",
        "uri_too_long",
        "header_too_large",
        "host_invalid",
        "path_not_canonical",
        "connect_unsupported",
        "upgrade_unsupported",
    ],
);
const RESERVED: Step = ("context: reserved fields set aside", &["header_forbidden"]);
const AUDIT: Step = ("decide: room for the audit record", &["audit_unavailable"]);
const ENCRYPT: Step = (
    "encrypt: mutual TLS with the identity that is expected",
    &["identity_unavailable", "server_identity_unexpected", "upstream_unreachable"],
);
const FORWARD: Step =
    ("forward: the other side answers", &["upstream_failed", "upstream_timeout", "client_gone"]);

/// From a sidecar to the app beside us.
const INBOUND: &[Step] = &[
    HTTP,
    RESERVED,
    (
        "context: at most one token, of permitted size and form",
        &["token_duplicated", "token_too_large", "token_malformed", "rate_limited"],
    ),
    (
        "context: a known key of an allowed issuer",
        &["key_unknown", "keys_unavailable", "issuer_not_allowed"],
    ),
    ("context: signature", &["signature_invalid"]),
    (
        "context: times, audience and claims",
        &["token_expired", "audience_wrong", "claim_invalid", "token_revoked"],
    ),
    ("context: what this issuer may say", &["constraint_violated"]),
    ("context: may this caller present a token", &["presenter_refused"]),
    (
        "context: custody, from the first holder to this caller",
        &["hops_malformed", "hops_too_large", "hops_cert_unknown", "custody_broken"],
    ),
    (
        "decide: policy, and the parameters that were signed",
        &["peer_unauthenticated", "token_missing", "parameter_mismatch", "policy_denied"],
    ),
    ("decide: a token that may be used once", &["token_replayed"]),
    AUDIT,
    (
        "service: what this process answers itself, instead of an app",
        &["token_request_refused", "route_unknown", "validator_unavailable"],
    ),
    ("enrich: verified headers for the app", &["context_too_large"]),
    (
        "forward: the app answers",
        &["app_not_listening", "app_failed", "app_timeout", "body_too_large", "client_gone"],
    ),
];

/// From the app beside us to another workload.
const OUTBOUND: &[Step] = &[
    HTTP,
    RESERVED,
    ("discover: a Destination for this host", &["destination_unknown", "loop_detected"]),
    AUDIT,
    ENCRYPT,
    ("forward: the context can be handed on", &["context_too_large", "hops_too_many"]),
    ("forward: the callee has the certificates of earlier holders", &["hops_cert_missed"]),
    FORWARD,
];

/// From outside the mesh.
const GATEWAY: &[Step] = &[
    HTTP,
    RESERVED,
    (
        "capture: client address and justification",
        &["client_address_invalid", "justification_invalid", "rate_limited"],
    ),
    ("accept: a route, and a body of permitted size", &["route_unknown", "body_too_large"]),
    (
        "identify: the end user, or the workload outside the mesh",
        &[
            "user_token_missing",
            "user_token_malformed",
            "user_token_invalid",
            "user_token_expired",
            "user_token_revoked",
            "user_claim_invalid",
            "user_proof_invalid",
            "user_keys_unavailable",
            "caller_token_invalid",
            "caller_token_expired",
            "caller_unverifiable",
        ],
    ),
    (
        "mint: a rule for this request, and a token that fits",
        &["mint_rule_missing", "context_too_large"],
    ),
    (
        "mint: device, justification and groups, as those who know say",
        &["device_refused", "justification_refused", "validator_unavailable"],
    ),
    AUDIT,
    ENCRYPT,
    FORWARD,
];

fn steps(direction: Direction) -> &'static [Step] {
    match direction {
        Direction::Inbound => INBOUND,
        Direction::Outbound => OUTBOUND,
        Direction::Gateway => GATEWAY,
    }
}

impl Explain for StageRefusal {
    fn explain(&self, _personal: &Personal) -> Explained {
        let mut text = String::new();
        let steps = steps(self.direction);
        let failing = steps.iter().position(|(_, reasons)| reasons.contains(&self.reason));
        let passed: Vec<&str> =
            steps.iter().take(failing.unwrap_or(0)).map(|(step, _)| *step).collect();
        // Writing to a String cannot fail, here and below.
        for step in &passed {
            _ = writeln!(text, "   passed   {step}");
        }
        let failing = failing.and_then(|index| steps.get(index)).map(|(step, _)| *step);
        _ = writeln!(text, "   REFUSED  {}", failing.unwrap_or(self.stage));
        if let Some(seen) = &self.seen {
            _ = writeln!(text, "seen: {seen}");
        }
        _ = writeln!(text, "{}: {}", self.reason, self.means);
        let json = json!({
            "stage": self.stage,
            "reason": self.reason,
            "means": self.means,
            "step": failing,
            "passed": passed,
            "seen": self.seen,
        });
        Explained { json, text }
    }

    fn bytes(&self) -> usize {
        256 + self.seen.as_ref().map_or(0, String::len)
    }
}

#[cfg(test)]
mod tests {
    use countersign_policy::path::{CanonicalOptions, CanonicalPath};
    use countersign_policy::{
        Caller, ContextFacts, NoHeaders, Protocol, Request, Source, SourceFacts, UserFacts,
        Workload, compile, load,
    };

    use super::*;
    use crate::audit::PseudonymKey;
    use crate::refusal::Refusal;

    const MESH: &str = include_str!("../../../policy/cases/day-one/mesh.yaml");
    const ORDERS: &str = include_str!("../../../policy/cases/day-one/orders.yaml");

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
            direction: Direction::Inbound,
            stage: "context",
            reason: "signature_invalid",
            means: "The token's signature does not verify.",
            seen: Some("signed by another key than k7".to_owned()),
        };
        expect_test::expect![[r#"
               passed   accept: well-formed HTTP with one meaning
               passed   context: reserved fields set aside
               passed   context: at most one token, of permitted size and form
               passed   context: a known key of an allowed issuer
               REFUSED  context: signature
            seen: signed by another key than k7
            signature_invalid: The token's signature does not verify.
        "#]]
        .assert_eq(&refusal.explain(&Personal::Clear).text);
    }

    #[test]
    fn every_refusal_has_its_step() {
        for refusal in Refusal::ALL {
            let row = refusal.row();
            for &direction in Direction::ALL {
                let produced = row.by.split(", ").any(|by| by == "all" || by == direction.text());
                let known =
                    steps(direction).iter().any(|(_, reasons)| reasons.contains(&row.reason));
                assert!(known || !produced, "{} of {}", row.reason, direction.text());
            }
        }
    }

    /// Mallory, who has account 7, asks for the orders of account 42.
    fn foreign_orders() -> DecidedInput {
        let sources = [
            Source { name: "mesh.yaml", text: MESH },
            Source { name: "orders.yaml", text: ORDERS },
        ];
        let labels = [("app".to_owned(), "orders".to_owned())].into();
        let workload = Workload { namespace: "shop".to_owned(), labels };
        let policy = Arc::new(compile(&load(&sources).unwrap(), &workload));
        let gateway = "spiffe://prod.example.com/ns/edge/sa/gateway".parse().unwrap();
        let path =
            CanonicalPath::parse("/v1/users/42/orders", CanonicalOptions::default()).unwrap();
        let user = UserFacts {
            id: "mallory",
            provider: Some("corp"),
            account: Some("7"),
            groups: None,
            auth_time: None,
            amr: &[],
            acr: None,
            claims: None,
        };
        let context = ContextFacts {
            txn: "t1",
            scope: &["orders.read".to_owned()],
            origin: "user",
            issued_at: 1_795_000_000,
            expires_at: 1_795_000_060,
            entry: &gateway,
            user: Some(user),
            service: None,
            source: Some(SourceFacts { ip: "198.51.100.7".parse().unwrap(), via: "peer" }),
            device: None,
            justification: None,
            acting: false,
            custody: true,
            hops: &[],
            params: None,
        };
        let input = Input {
            now_ms: 1_795_000_000_000,
            port: 8080,
            caller: Caller::Mesh(&gateway),
            peer_ip: None,
            request: Some(Request {
                method: "GET",
                host: "orders.shop",
                path: &path,
                protocol: Protocol::Http,
                headers: &NoHeaders,
            }),
            context: Some(context),
        };
        DecidedInput::new(policy.keep(&input), policy)
    }

    #[test]
    fn a_denial_names_the_atoms_that_were_not_true() {
        let decided = foreign_orders();
        assert_eq!(decided.atoms_not_true(), [("require.user".to_owned(), "false")]);
        let clear = Explain::explain(&decided, &Personal::Clear);
        assert!(clear.text.contains("mallory") || clear.text.contains('7'), "{}", clear.text);
    }

    #[test]
    fn attack_reads_persons_from_an_explanation() {
        let key = PseudonymKey::new(b"key");
        let account = key.pseudonym("acct", "7");
        let shown = Explain::explain(&foreign_orders(), &Personal::Pseudonyms(key));
        for output in [shown.text.clone(), shown.json.to_string()] {
            for personal in ["mallory", "/v1/users/42", "198.51.100.7", "account 42", "`42`"] {
                assert!(!output.contains(personal), "{personal} in {output}");
            }
            assert!(output.contains("require.user"), "{output}");
        }
        assert!(!shown.text.contains(" 7 ") || shown.text.contains(&account), "{}", shown.text);
    }
}
