//! `callers` of a gateway, and what rules may ask of the services that come that way.

use expect_test::{Expect, expect};

use crate::doc::{ApiServer, ProviderKeys, SvidBundle};
use crate::{Caller, ContextFacts, Documents, Input, Source, Workload, compile, load};

fn mesh(callers: &str, allow: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {{name: default}}
spec:
  trustDomain: prod.example.com
  context:
    issuers:
      - {{id: spiffe://prod.example.com/ns/edge/sa/gateway, keys: x5c, allow: {allow}}}
  federation: [{{trustDomain: partner.test, bundle: {{source: true}}}}]
  identityProviders:
    - name: corp
      spec:
        issuer: https://corp
        audiences: [a]
        algorithms: [ES256]
        keys: {{file: k}}
        claims: {{sub: {{type: string, as: id}}}}
  gateways:
    - name: edge
      namespace: edge
      spec:
        selector: {{all: true}}
        role: gateway
        callers: {callers}
        mint: [{{match: {{any: true}}, scope: orders.read}}]
"
    )
}

const ALLOW: &str = "{origin: [user, service], sub: [\"user:*\", \"svc:*\"]}";
const REVIEW: &str =
    "{serviceAccountToken: {issuer: https://cluster, tokenReview: {}, grants: [orders.read]}}";

fn read(callers: &str) -> Documents {
    let text = mesh(callers, ALLOW);
    load(&[Source { name: "mesh.yaml", text: &text }])
        .unwrap_or_else(|problems| panic!("{problems}"))
}

fn problems(callers: &str, expected: &Expect) {
    let text = mesh(callers, ALLOW);
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
fn a_gateway_may_take_callers_and_no_users() {
    let documents = read(REVIEW);
    let gateway = &documents.gateways[0].spec;
    assert!(gateway.user_providers.is_empty());
    let own = gateway.callers.service_account.as_ref().unwrap();
    assert_eq!(own.audience, "countersign.dev/prod.example.com");
    assert_eq!((&own.review, &own.keys), (&Some(ApiServer::default()), &None));
    assert_eq!(gateway.callers.jwt_svid, None);
    assert!(read("{jwtSvid: {grants: [a]}}").gateways[0].spec.callers.service_account.is_none());
}

#[test]
fn every_field_of_callers_is_read() {
    let documents = read(
        "{serviceAccountToken: {issuer: https://cluster, audience: ours, grants: [a, b],
            tokenReview: {server: \"https://10.0.0.1:6443\", ca: ca.crt, tokenFile: token},
            discovery: {apiServer: {ca: ca.crt}, refresh: 1m, unknownKeyCooldown: 5s, maxStale: 1h}},
          jwtSvid: {audience: theirs, trustDomains: [prod.example.com, partner.test],
            bundle: {source: true}, grants: [c]}}",
    );
    let callers = &documents.gateways[0].spec.callers;
    let own = callers.service_account.as_ref().unwrap();
    let review = own.review.as_ref().unwrap();
    assert_eq!(review.server.as_deref(), Some("https://10.0.0.1:6443"));
    assert_eq!(review.ca.as_ref().map(|file| &*file.written), Some("ca.crt"));
    let Some(ProviderKeys::Discovery { api_server: Some(server), refresh_s, max_stale_s, .. }) =
        &own.keys
    else {
        panic!("{:?}", own.keys);
    };
    assert_eq!((server.token_file.as_ref(), *refresh_s, *max_stale_s), (None, 60, 3600));
    let svid = callers.jwt_svid.as_ref().unwrap();
    assert_eq!((&*svid.audience, svid.trust_domains.len()), ("theirs", 2));
    assert_eq!(svid.bundle, SvidBundle::Source);
}

#[test]
fn the_audience_of_the_api_server_is_never_ours() {
    problems(
        "{serviceAccountToken: {issuer: https://cluster, audience: https://cluster, tokenReview: {}, grants: [a]}}",
        &expect![[r#"
        E013 the audience is that of the API server's own tokens; an `audience` that is for this gateway alone, or leave it out
    "#]],
    );
}

#[test]
fn callers_that_cannot_work_are_errors() {
    problems(
        "{}",
        &expect![[r#"
        E001 `callers` names no kind of token; name `serviceAccountToken` or `jwtSvid`, or leave `callers` out
    "#]],
    );
    problems(
        "{serviceAccountToken: {issuer: https://cluster, grants: [a]}}",
        &expect![[r#"
        E013 `serviceAccountToken` needs `tokenReview`, `discovery` or both; `tokenReview: {}` asks the API server of the cluster this gateway runs in
    "#]],
    );
    problems(
        "{serviceAccountToken: {issuer: https://corp, tokenReview: {}, grants: [a]}}",
        &expect![[r#"
        E019 issuer `https://corp` belongs to provider `corp` already
    "#]],
    );
    problems(
        "{serviceAccountToken: {issuer: http://cluster, tokenReview: {}, grants: [a]}}",
        &expect![[r#"
            E013 `http://cluster` is not an https URL; plain http is accepted for 127.0.0.1 and localhost only
        "#]],
    );
    problems(
        "{serviceAccountToken: {issuer: https://c, discovery: {apiServer: {}, allowedHosts: [c]}, grants: [a]}}",
        &expect![[r#"
        E013 `allowedHosts` is for keys at the issuer; the API server names none
    "#]],
    );
    problems(
        "{jwtSvid: {}}",
        &expect![[r#"
        E013 jwtSvid needs `grants`
    "#]],
    );
    problems(
        "{jwtSvid: {grants: [a], bundle: {file: b.json}, trustDomains: [partner.test]}}",
        &expect![[r#"
        E013 a bundle file holds the keys of the own domain only
    "#]],
    );
    problems(
        "{jwtSvid: {grants: [a], bundle: {source: true, file: b.json}}}",
        &expect![[r#"
        E013 `bundle` needs either `source` or `file`
    "#]],
    );
    problems(
        "{jwtSvid: {grants: [a], trustDomains: [partner.test, partner.test]}}",
        &expect![[r#"
        E019 `partner.test` stands in the list twice
    "#]],
    );
    problems(
        "{jwtSvid: {grants: [a], trustDomains: [other.test]}}",
        &expect![[r#"
        E005 trust domain `other.test` is not this mesh's own, and not federated; add `federation: [{trustDomain: other.test, bundle: …}]` to MeshConfig
    "#]],
    );
    problems(
        "{jwtSvids: {grants: [a]}}",
        &expect![[r#"
        E013 unknown field `jwtSvids` in callers; did you mean `jwtSvid`?
    "#]],
    );
}

/// The documents of the page are the ones that are read here.
#[test]
fn the_documents_of_the_page_load() {
    let page = include_str!("../../../docs/identity/service-accounts.md");
    let blocks: Vec<&str> = page.split("```yaml\n").skip(1).collect();
    let block = |kind: &str| {
        let found = blocks.iter().find(|block| block.contains(&format!("kind: {kind}")));
        found.and_then(|block| block.split("```").next()).unwrap_or_default()
    };
    let sources = [
        Source { name: "mesh.yaml", text: block("MeshConfig") },
        Source { name: "orders.yaml", text: block("AccessPolicy") },
    ];
    let documents = load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
    let callers = &documents.gateways[0].spec.callers;
    assert!(callers.service_account.is_some() && callers.jwt_svid.is_some());
    assert_eq!(documents.access.len(), 1);
}

#[test]
fn somebody_must_be_trusted_to_sign_for_services() {
    for allow in [
        "{origin: [user], sub: [\"user:*\", \"svc:*\"]}",
        "{origin: [user, service], sub: [\"user:*\"]}",
    ] {
        let text = mesh(REVIEW, allow);
        let problems = load(&[Source { name: "mesh.yaml", text: &text }]).unwrap_err();
        let text = problems.to_string();
        assert!(text.contains("no issuer may sign for services"), "{text}");
    }
}

#[test]
fn the_providers_name_of_service_accounts_is_taken() {
    let text = mesh(REVIEW, ALLOW).replace("name: corp", "name: k8s");
    let problems = load(&[Source { name: "mesh.yaml", text: &text }]).unwrap_err();
    assert!(problems.to_string().contains("is named `k8s`"), "{problems}");
}

/// What a rule about services says of a subject.
fn decide(services: &str, service: Option<&str>) -> (bool, String) {
    let policy = format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: p, namespace: w}}\n\
         spec:\n  selector: {{all: true}}\n  direction: inbound\n  rules:\n  \
         - {{name: jobs, effect: allow, match: {{caller: {{anyInMesh: true}}, any: true}}, \
         require: {{token: {{services: {services}}}}}}}\n"
    );
    let mesh = mesh(REVIEW, ALLOW);
    let sources = [Source { name: "mesh", text: &mesh }, Source { name: "p", text: &policy }];
    let documents = load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
    let compiled =
        compile(&documents, &Workload { namespace: "w".to_owned(), ..Workload::default() });
    let gateway = "spiffe://prod.example.com/ns/edge/sa/gateway".parse().unwrap();
    let service = service.map(|id| id.parse().unwrap());
    let input = Input {
        now_ms: 1_795_000_000_000,
        port: 80,
        caller: Caller::Mesh(&gateway),
        peer_ip: None,
        request: None,
        context: Some(ContextFacts {
            txn: "t",
            scope: &[],
            origin: "service",
            issued_at: 1_795_000_000,
            expires_at: 1_795_000_060,
            entry: &gateway,
            user: None,
            service: service.as_ref(),
            source: None,
            device: None,
            justification: None,
            acting: false,
            custody: true,
            hops: &[],
            params: None,
        }),
    };
    let kept = compiled.keep(&input);
    assert_eq!(compiled.decide(&kept.as_input()).is_allow(), compiled.decide(&input).is_allow());
    (compiled.decide(&input).is_allow(), compiled.explain(&input).to_string())
}

#[test]
fn a_rule_names_the_services_a_token_may_be_for() {
    let batch = "spiffe://prod.example.com/ns/jobs/sa/batch";
    let cases = [
        (format!("[\"{batch}\"]"), Some(batch), true),
        ("[\"spiffe://prod.example.com/ns/jobs/**\"]".to_owned(), Some(batch), true),
        ("[\"spiffe://prod.example.com/ns/jobs/sa/bat\"]".to_owned(), Some(batch), false),
        ("[\"spiffe://other.example.com/ns/jobs/**\"]".to_owned(), Some(batch), false),
        (format!("[\"{batch}\"]"), None, false),
    ];
    for (services, service, allowed) in cases {
        let (allow, why) = decide(&services, service);
        assert_eq!(allow, allowed, "{services} {service:?}");
        let said = match service {
            Some(id) => format!("made for the service {id}"),
            None => "the subject is no service".to_owned(),
        };
        assert!(why.contains(&said), "{why}");
    }
}
