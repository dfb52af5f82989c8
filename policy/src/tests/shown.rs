//! `claims` of a rule, and `context.headers`.

use crate::{
    Source,
    doc::shown::{ShownRctx, ShownTctx},
    load,
};

const RULE: &str = "apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: p, namespace: shop}
spec:
  selector: {all: true}
  direction: inbound
  rules:
    - name: r
      effect: EFFECT
      match: {caller: {anyOf: [{namespace: edge, serviceAccount: gateway}]}}
      claims: CLAIMS
";

fn text(headers: &str, effect: &str, claims: &str) -> String {
    let mesh = format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\n\
         spec: {{trustDomain: prod.example.com, context: {{headers: [{headers}]}}}}\n---\n"
    );
    mesh + &RULE.replace("EFFECT", effect).replace("CLAIMS", claims)
}

fn refusal(headers: &str, effect: &str, claims: &str) -> String {
    let text = text(headers, effect, claims);
    load(&[Source { name: "all.yaml", text: &text }]).unwrap_err().to_string()
}

#[test]
fn a_rule_says_which_claims_its_permit_shows() {
    let all = "sub, entry, source-ip, groups, device, justification, auth-time, claims";
    let text = text(all, "allow", "{rctx: [groups, idp], tctx: [p]}");
    let documents = load(&[Source { name: "all.yaml", text: &text }]).unwrap();
    let filter = documents.access[0].rules[0].claims.as_deref().unwrap();
    assert_eq!(filter.rctx, [ShownRctx::Groups, ShownRctx::Idp]);
    assert_eq!(filter.tctx, [ShownTctx::Path]);
    assert!(filter.shows_rctx("groups") && !filter.shows_rctx("acct") && !filter.shows_tctx("m"));
    assert_eq!(documents.mesh.headers.join(", "), all);
}

#[test]
fn claims_nobody_can_show_are_refused() {
    let refused = refusal("claims", "allow", "{rctx: [group]}");
    assert!(refused.contains("E0") && refused.contains("groups"), "{refused}");
    let refused = refusal("claims", "allow", "{tctx: [m, m]}");
    assert!(refused.contains("stands here twice"), "{refused}");
    let refused = refusal("claims", "deny", "{}");
    assert!(refused.contains("`claims` has no meaning in a deny rule"), "{refused}");
    let refused = refusal("cookies", "allow", "{}");
    assert!(refused.contains("cookies"), "{refused}");
}
