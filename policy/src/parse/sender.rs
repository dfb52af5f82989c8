//! Reads `senderConstraint` of an `IdentityProvider`: which proofs of possession count.

use super::provider::algorithms;
use crate::{
    doc::{BearerTokens, Demand, Nonce, ProofRules, SenderRules},
    yaml::{Fields, Findings, Node, read},
};

const DEMANDS: &[(&str, Demand)] =
    &[("optional", Demand::Optional), ("required", Demand::Required)];
const BEARER: &[(&str, BearerTokens)] =
    &[("take", BearerTokens::Taken), ("refuse", BearerTokens::Refused)];
const NONCES: &[(&str, Nonce)] = &[("required", Nonce::Required)];

/// Longest `proofs.maxAge`: a used proof is remembered that long.
const PROOF_AGE_S_MAX: u64 = 300;

pub(super) fn read(node: &Node, findings: &mut Findings<'_>) -> SenderRules {
    let mut rules = SenderRules::default();
    let Some(mut fields) = Fields::of(node, "senderConstraint", findings) else { return rules };
    let dpop = fields.optional("dpop");
    let mtls = fields.optional("mtls");
    let bearer = fields.optional("bearer");
    let proofs_node = fields.optional("proofs");
    fields.finish(findings);
    let mut demand = |node: Option<&Node>| {
        node.and_then(|node| read::one_of(node, DEMANDS, findings)).unwrap_or(Demand::Off)
    };
    (rules.dpop, rules.mtls) = (demand(dpop), demand(mtls));
    if dpop.is_none() && mtls.is_none() {
        findings
            .error("E001", node.span, "`senderConstraint` names no kind of proof")
            .hint("write `dpop: required`, `mtls: required`, or `optional` for either");
    }
    if let Some(node) = bearer {
        rules.bearer = read::one_of(node, BEARER, findings).unwrap_or(BearerTokens::Refused);
        if [rules.dpop, rules.mtls].contains(&Demand::Required) {
            findings
                .error("E013", node.span, "`bearer` says nothing beside `required`")
                .hint("leave it out: a token without the required binding is refused anyway");
        }
    }
    if let Some(node) = proofs_node {
        if dpop.is_none() {
            findings.error("E013", node.span, "`proofs` is about DPoP, which is not taken here");
        }
        rules.proofs = proofs(node, findings);
    }
    rules
}

fn proofs(node: &Node, findings: &mut Findings<'_>) -> ProofRules {
    let mut rules = ProofRules::default();
    let Some(mut fields) = Fields::of(node, "proofs", findings) else { return rules };
    let algorithms_node = fields.optional("algorithms");
    let max_age = fields.optional("maxAge");
    let nonce = fields.optional("nonce");
    fields.finish(findings);
    if algorithms_node.is_some() {
        rules.algorithms = algorithms(algorithms_node, findings);
    }
    if let Some(node) = max_age
        && let Some(seconds) = read::duration_s(node, findings)
    {
        rules.max_age_s = seconds;
        if seconds > PROOF_AGE_S_MAX {
            findings
                .error("E017", node.span, format!("a proof counts for {PROOF_AGE_S_MAX} s at most"))
                .hint("every proof is made for one request; 60 s allow for a wrong clock");
        }
    }
    if let Some(node) = nonce {
        rules.nonce = read::one_of(node, NONCES, findings).unwrap_or(Nonce::Required);
    }
    rules
}
