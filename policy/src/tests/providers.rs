//! `IdentityProvider`: nested claims, required claims, proofs of possession.

use expect_test::{Expect, expect};

use crate::doc::{BearerTokens, Demand, IdentityProvider, Nonce, UserAlgorithm};
use crate::{Source, load};

fn document(more: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {{name: default}}
spec:
  trustDomain: prod.example.com
  identityProviders:
    - name: corp
      spec:
        issuer: https://corp
        audiences: [a]
        algorithms: [ES256]
        keys: {{file: k}}
        {more}
"
    )
}

const SUB: &str = "claims: {sub: {type: string, as: id}}";

fn provider(more: &str) -> IdentityProvider {
    let text = document(more);
    let documents = load(&[Source { name: "mesh.yaml", text: &text }]);
    documents.unwrap_or_else(|problems| panic!("{problems}")).providers[0].spec.clone()
}

fn problems(more: &str, expected: Expect) {
    let text = document(more);
    let problems = load(&[Source { name: "mesh.yaml", text: &text }]).unwrap_err();
    let lines: Vec<String> = problems
        .0
        .iter()
        .map(|one| {
            let hint = one.hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default();
            format!("{} {}{hint}\n", one.code, one.message)
        })
        .collect();
    expected.assert_eq(&lines.concat());
}

#[test]
fn a_claim_may_stand_inside_another() {
    let keycloak = provider(
        "claims: {sub: {type: string, as: id}, \
         roles: {type: stringList, as: groups, at: /resource_access/api~1v1/roles}}",
    );
    assert_eq!(keycloak.claims["roles"].at, ["resource_access", "api/v1", "roles"]);
    assert!(keycloak.claims["sub"].at.is_empty());
    for place in ["roles", "/", "/a//b", "/a~2b", "/a/b/c/d/e"] {
        let more = format!("claims: {{sub: {{type: string, as: id, at: \"{place}\"}}}}");
        let text = document(&more);
        assert!(load(&[Source { name: "mesh.yaml", text: &text }]).is_err(), "{place}");
    }
    problems(
        "claims: {sub: {type: string, as: id, at: realm_access.roles}}",
        expect![[r"
            E013 `realm_access.roles` does not lead to a claim; write a JSON Pointer of at most 4 names, such as `/realm_access/roles`
        "]],
    );
}

#[test]
fn claims_may_be_required() {
    let ci = provider(&format!(
        "requiredClaims: {{repository_owner: [acme, acme-labs]}}\n        {SUB}"
    ));
    assert_eq!(ci.required_claims["repository_owner"], ["acme", "acme-labs"]);
    problems(
        &format!("requiredClaims: {{typ: [], ref: main}}\n        {SUB}"),
        expect![[r"
            E001 an empty list matches nothing; name at least one entry, or leave the field out
            E013 a list was expected, not `main`; write it as `[a, b]`
        "]],
    );
    problems(
        &format!("requiredClaims: {{}}\n        {SUB}"),
        expect![[r"
            E001 an empty `requiredClaims` requires nothing
        "]],
    );
}

#[test]
fn proofs_of_possession_are_off_unless_asked_for() {
    let plain = provider(SUB).sender;
    assert_eq!(
        (plain.dpop, plain.mtls, plain.bearer),
        (Demand::Off, Demand::Off, BearerTokens::Taken)
    );
    let bound = provider(&format!(
        "senderConstraint: {{dpop: optional, mtls: optional, bearer: refuse, \
         proofs: {{algorithms: [RS256], maxAge: 30s, nonce: required}}}}\n        {SUB}"
    ));
    let rules = bound.sender;
    assert_eq!((rules.dpop, rules.mtls), (Demand::Optional, Demand::Optional));
    assert_eq!(rules.bearer, BearerTokens::Refused);
    assert_eq!(rules.proofs.algorithms, [UserAlgorithm::RS256]);
    assert_eq!((rules.proofs.max_age_s, rules.proofs.nonce), (30, Nonce::Required));
    let dpop = provider(&format!("senderConstraint: {{dpop: required}}\n        {SUB}")).sender;
    assert_eq!(dpop.dpop, Demand::Required);
    assert_eq!(dpop.proofs.algorithms, [UserAlgorithm::ES256, UserAlgorithm::Ed25519]);
}

#[test]
fn contradictions_of_sender_constraints_are_found() {
    problems(
        &format!("senderConstraint: {{bearer: refuse}}\n        {SUB}"),
        expect![[r"
            E001 `senderConstraint` names no kind of proof; write `dpop: required`, `mtls: required`, or `optional` for either
        "]],
    );
    problems(
        &format!(
            "senderConstraint: {{mtls: required, bearer: take, proofs: {{maxAge: 60s}}}}\n        {SUB}"
        ),
        expect![[r"
            E013 `bearer` says nothing beside `required`; leave it out: a token without the required binding is refused anyway
            E013 `proofs` is about DPoP, which is not taken here
        "]],
    );
    problems(
        &format!(
            "senderConstraint: {{dpop: required, proofs: {{algorithms: [HS256], maxAge: 1h}}}}\n        {SUB}"
        ),
        expect![[r"
            E008 algorithm `HS256` is never accepted; anybody who can verify such a token could also make one
            E017 a proof counts for 300 s at most; every proof is made for one request; 60 s allow for a wrong clock
        "]],
    );
}
