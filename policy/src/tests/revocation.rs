use super::*;
use crate::{Source, load};

const MESH: &str = r#"{apiVersion: countersign.dev/v1alpha1, kind: MeshConfig, metadata: {name: default}, spec: {
  trustDomain: prod.example.com,
  identityProviders: [{name: corp, spec: {issuer: "https://login.example.com/", audiences: ["https://api.example.com"],
    algorithms: [RS256], keys: {file: jwks.json}, claims: {sub: {type: string, as: id}}}}]}}"#;

fn index(specs: &[&str]) -> Revocations {
    let documents: Vec<String> = specs
        .iter()
        .enumerate()
        .map(|(at, spec)| {
            format!(
                "{{apiVersion: countersign.dev/v1alpha1, kind: Revocation, \
                 metadata: {{name: r{at}}}, spec: {{{spec}}}}}"
            )
        })
        .collect();
    let mut sources = vec![Source { name: "mesh.yaml", text: MESH }];
    sources.extend(documents.iter().map(|text| Source { name: "revocation.yaml", text }));
    Revocations::of(&load(&sources).map_err(|problems| problems.to_string()).unwrap())
}

fn ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

fn id(text: &str) -> WorkloadId {
    text.parse().unwrap()
}

const CART: &str = "spiffe://prod.example.com/ns/shop/sa/cart";

#[test]
fn nothing_is_revoked_without_documents() {
    let none = index(&[]);
    assert!(none.is_empty());
    assert!(!none.identity(&id(CART), 0, 0));
}

#[test]
fn every_kind_is_found_until_its_document_expires() {
    let all = index(&[&format!(
        "certificates: [{{sha256: \"{}\"}}], \
         identities: [{{spiffeId: \"{CART}\", issuedBefore: \"2026-11-20T09:00:00Z\"}}], \
         pods: [{{uid: 0f9b6c1e-4d0a-4c53-9d55-1f2f8c7a7f10}}], \
         issuerKeys: [{{identity: \"{CART}\", kid: \"-cpTiXlS4UDu-JSb\"}}], \
         users: [{{provider: corp, id: alice, issuedBefore: \"2026-11-20T09:00:00Z\"}}], \
         devices: [{{id: laptop-1}}], transactions: [{{txn: t-1}}], \
         expires: \"2026-12-20T00:00:00Z\"",
        "AB:".repeat(32).trim_end_matches(':')
    )]);
    let before = ms("2026-11-20T08:59:59Z");
    for (now, holds) in [("2026-12-19T23:59:59Z", true), ("2026-12-20T00:00:00Z", false)] {
        let now = ms(now);
        assert_eq!(all.certificate(&[0xab; 32], now), holds);
        assert_eq!(all.identity(&id(CART), before, now), holds);
        assert_eq!(all.pod("0f9b6c1e-4d0a-4c53-9d55-1f2f8c7a7f10", now), holds);
        assert_eq!(all.issuer_key(&id(CART), "-cpTiXlS4UDu-JSb", now), holds);
        assert_eq!(all.user(Some("corp"), "alice", before, now), holds);
        assert_eq!(all.device("laptop-1", now), holds);
        assert_eq!(all.transaction("t-1", now), holds);
    }
    let now = ms("2026-11-21T00:00:00Z");
    assert!(!all.certificate(&[0xac; 32], now));
    assert!(!all.identity(&id(CART), ms("2026-11-20T09:00:00Z"), now), "issued again");
    assert!(!all.identity(&id("spiffe://prod.example.com/ns/shop/sa/carts"), before, now));
    assert!(!all.issuer_key(&id(CART), "-cpTiXlS4UDu-JSc", now));
    assert!(!all.user(Some("corp"), "alicia", before, now));
    assert!(!all.user(Some("other"), "alice", before, now));
    assert!(all.user(None, "alice", before, now), "nobody says who vouches for her");
}

#[test]
fn documents_are_a_union() {
    let entry = |before: &str, expires: &str| {
        format!(
            "identities: [{{spiffeId: \"{CART}\", issuedBefore: \"{before}\"}}], \
             expires: \"{expires}\""
        )
    };
    let early = entry("2026-11-20T09:00:00Z", "2026-12-20T00:00:00Z");
    let late = entry("2026-11-22T09:00:00Z", "2026-11-23T00:00:00Z");
    for documents in [[early.as_str(), late.as_str()], [late.as_str(), early.as_str()]] {
        let all = index(&documents);
        let issued = ms("2026-11-21T00:00:00Z");
        assert!(all.identity(&id(CART), issued, ms("2026-11-22T10:00:00Z")));
        assert!(
            !all.identity(&id(CART), issued, ms("2026-11-24T00:00:00Z")),
            "the later one ended"
        );
        let issued = ms("2026-11-20T00:00:00Z");
        assert!(all.identity(&id(CART), issued, ms("2026-11-24T00:00:00Z")));
    }
}

/// What people read when an entry is wrong.
#[test]
fn wrong_entries_are_named() {
    let text = "apiVersion: countersign.dev/v1alpha1\nkind: Revocation\nmetadata: {name: r}\nspec:\n  \
                certificates: [{sha256: \"9f\"}]\n  identities: [{spiffeId: \"spiffe://prod.example.com/*\", issuedBefore: yesterday}]\n  \
                pods: [{uid: web-1}]\n  issuerKeys: [{identity: \"spiffe://prod.example.com/a\", kid: short}]\n  \
                users: [{provider: korp, id: alice, issuedBefore: \"2026-11-20T09:00:00Z\"}]\n";
    let sources =
        [Source { name: "mesh.yaml", text: MESH }, Source { name: "revocation.yaml", text }];
    expect_test::expect![[r#"
        error[E006]: a Revocation needs `expires`
          --> revocation.yaml:5:3
        5 |   certificates: [{sha256: "9f"}]
          |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ name an instant after the last certificate or token it hits has ended, such as `expires: "2026-12-20T00:00:00Z"`
        error[E013]: `9f` is not a SHA-256 in hexadecimal
          --> revocation.yaml:5:27
        5 |   certificates: [{sha256: "9f"}]
          |                           ^^^^ 64 digits: `openssl x509 -in leaf.pem -noout -fingerprint -sha256` prints them
        error[E013]: `spiffe://prod.example.com/*` is not a SPIFFE ID: a path segment holds a character outside `a-z A-Z 0-9 . _ -` (nothing is percent-decoded)
          --> revocation.yaml:6:27
        6 |   identities: [{spiffeId: "spiffe://prod.example.com/*", issuedBefore: yesterday}]
          |                           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ name each identity; patterns are not accepted here
        error[E006]: `yesterday` is not an instant
          --> revocation.yaml:6:72
        6 |   identities: [{spiffeId: "spiffe://prod.example.com/*", issuedBefore: yesterday}]
          |                                                                        ^^^^^^^^^ write it with an offset: "2026-11-20T18:00:00-05:00"
        error[E013]: `web-1` is not the UID of a pod
          --> revocation.yaml:7:16
        7 |   pods: [{uid: web-1}]
          |                ^^^^^ `kubectl get pod NAME -o jsonpath={.metadata.uid}` prints it
        error[E013]: `short` is not the name of a key: 16 characters of base64url
          --> revocation.yaml:8:63
        8 |   issuerKeys: [{identity: "spiffe://prod.example.com/a", kid: short}]
          |                                                               ^^^^^
        error[E005]: identity provider `korp` does not exist
          --> revocation.yaml:9:22
        9 |   users: [{provider: korp, id: alice, issuedBefore: "2026-11-20T09:00:00Z"}]
          |                      ^^^^ did you mean `corp` (mesh.yaml:3)?"#]].assert_eq(&load(&sources).unwrap_err().to_string());
}

#[test]
fn the_number_of_entries_is_bounded() {
    let devices: Vec<String> = (0..10_001).map(|at| format!("{{id: d{at}}}")).collect();
    let text = format!(
        "{{apiVersion: countersign.dev/v1alpha1, kind: Revocation, metadata: {{name: r}}, \
         spec: {{devices: [{}], expires: \"2026-12-20T00:00:00Z\"}}}}",
        devices.join(", ")
    );
    let sources =
        [Source { name: "mesh.yaml", text: MESH }, Source { name: "revocation.yaml", text: &text }];
    let problems = load(&sources).unwrap_err().to_string();
    assert!(problems.contains("E017") && problems.contains("10001 entries"), "{problems}");
}
