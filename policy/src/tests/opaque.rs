//! Connections without a request: which ports are looked into, and what is told about a decision.

use crate::{Caller, Compiled, Input, Source, Workload, compile, load};

const MESH: &str = "apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec:
  trustDomain: t
  outbound: {unknown: pass, namespaces: {shop: {unknown: deny}}}
  identityProviders:
    - name: corp
      spec:
        issuer: https://corp
        audiences: [a]
        algorithms: [ES256]
        keys: {file: k}
        claims: {sub: {type: string, as: id}, uid: {type: string, as: accountId}}
";

fn policies(rules: &str, ports: &str) -> Compiled {
    let text = format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: p, namespace: w}}\n\
         spec:\n  selector: {{all: true}}\n  direction: inbound\n{ports}  rules:\n{rules}"
    );
    let sources = [Source { name: "mesh", text: MESH }, Source { name: "p", text: &text }];
    let documents = load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
    compile(&documents, &Workload { namespace: "w".to_owned(), ..Workload::default() })
}

#[test]
fn a_port_is_looked_into_if_a_rule_for_it_is_about_requests() {
    let tcp =
        "  - {name: a, effect: allow, match: {caller: {anyInMesh: true}, tcp: {any: true}}}\n";
    let any =
        "  - {name: b, effect: deny, match: {any: true}, unless: [{user: {provider: corp}}]}\n";
    let http = "  - {name: c, effect: deny, match: {http: {methods: [PUT]}}}\n";
    let grpc = "  - {name: d, effect: deny, match: {grpc: {service: s.S}}}\n";
    let ports = "  ports: [80, 81]\n";
    for quiet in [tcp, any] {
        assert!(!policies(quiet, ports).has_l7_rules(80), "{quiet}");
        assert!(!policies(quiet, "").has_l7_rules(80), "{quiet}");
    }
    for loud in [http, grpc] {
        let both = format!("{tcp}{any}{loud}");
        assert!(policies(&both, ports).has_l7_rules(81), "{loud}");
        assert!(!policies(&both, ports).has_l7_rules(90), "{loud}");
        assert!(policies(&both, "").has_l7_rules(90), "{loud}");
    }
    assert!(!policies(tcp, "").has_l7_rules(0));
}

#[test]
fn a_deny_about_requests_closes_what_nobody_looks_into() {
    let rules = "  - {name: all, effect: allow, match: {caller: {anyInMesh: true}, any: true}, context: optional}\n  \
                 - {name: no-put, effect: deny, match: {caller: {anyOf: [{namespace: a, serviceAccount: b}]}, http: {methods: [PUT]}}}\n";
    let compiled = policies(rules, "");
    let told = |id: &str| {
        let caller = id.parse().unwrap();
        let input = Input {
            now_ms: 0,
            port: 5432,
            caller: Caller::Mesh(&caller),
            peer_ip: None,
            request: None,
            context: None,
        };
        let kept = compiled.keep(&input);
        assert!(kept.as_input().request.is_none());
        compiled.explain(&kept.as_input())
    };
    let other = told("spiffe://t/ns/c/sa/d");
    assert_eq!((other.decision, other.rule.as_deref()), ("allow", Some("w/p/all")));
    let named = told("spiffe://t/ns/a/sa/b");
    assert_eq!((named.decision, named.reason), ("deny", Some("deny_rule")));
    let text = named.to_string();
    assert!(text.contains("UNKNOWN  match.http"), "{text}");
    assert!(text.contains("opaque connection: nobody can say what is asked"), "{text}");
}

#[test]
fn what_becomes_of_unknown_destinations_can_differ_by_namespace() {
    let documents = load(&[Source { name: "mesh", text: MESH }]).unwrap();
    assert_eq!(documents.mesh.outbound_unknown("shop"), crate::doc::Unknown::Deny);
    assert_eq!(documents.mesh.outbound_unknown("batch"), crate::doc::Unknown::Pass);
}
