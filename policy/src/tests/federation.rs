//! Other trust domains: what may be written about them, and what people read when it may not.

use expect_test::{Expect, expect};

use crate::{
    Documents, Source,
    doc::{EndpointProfile, FederatedBundle, TlsRoots},
    load,
};

fn mesh(federation: &str, destinations: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\n\
         spec:\n  trustDomain: prod.test\n  federation: {federation}\n  destinations: {destinations}\n"
    )
}

fn loaded(text: &str) -> Documents {
    load(&[Source { name: "mesh.yaml", text }]).unwrap_or_else(|problems| panic!("{problems}"))
}

fn problems(text: &str, expected: Expect) {
    let found = match load(&[Source { name: "mesh.yaml", text }]) {
        Err(problems) => problems.to_string(),
        Ok(_) => "ok".to_owned(),
    };
    expected.assert_eq(&found);
}

#[test]
fn a_bundle_comes_from_the_source_a_file_or_an_endpoint() {
    let documents = loaded(&mesh(
        "
    - {trustDomain: c.test, bundle: {endpoint: {url: 'https://c.test/b', profile: https_spiffe,
        endpointId: spiffe://c.test/spire/server, initialBundle: {file: c.json}, maxStale: 2h}}}
    - {trustDomain: a.test, bundle: {source: true}}
    - {trustDomain: b.test, bundle: {file: b.pem}}
    - {trustDomain: d.test, bundle: {endpoint: {url: 'https://d.test:8443', profile: https_web,
        redirects: false}}}",
        "[]",
    ));
    let names: Vec<&str> =
        documents.mesh.federation.iter().map(|entry| entry.trust_domain.as_str()).collect();
    assert_eq!(names, ["a.test", "b.test", "c.test", "d.test"]);
    let [a, b, c, d] = documents.mesh.federation.as_slice() else { panic!("{names:?}") };
    assert_eq!(a.bundle, FederatedBundle::Source);
    assert!(matches!(&b.bundle, FederatedBundle::File(file) if file.written == "b.pem"));
    let FederatedBundle::Endpoint(spiffe) = &c.bundle else { panic!("{c:?}") };
    assert_eq!((spiffe.max_stale_s, spiffe.redirects), (7200, true));
    let EndpointProfile::Spiffe { endpoint_id, initial_bundle } = &spiffe.profile else {
        panic!("{spiffe:?}")
    };
    assert_eq!(endpoint_id.as_str(), "spiffe://c.test/spire/server");
    assert_eq!(initial_bundle.written, "c.json");
    let FederatedBundle::Endpoint(web) = &d.bundle else { panic!("{d:?}") };
    assert_eq!((web.max_stale_s, web.redirects), (24 * 3600, false));
    assert_eq!(web.profile, EndpointProfile::Web { roots: TlsRoots::System });
}

/// F-1: every part is written, none is guessed from another.
#[test]
fn f1_nothing_is_inferred() {
    problems(
        &mesh(
            "
    - {trustDomain: a.test, bundle: {}}
    - {trustDomain: b.test, bundle: {source: true, file: b.pem}}
    - {trustDomain: c.test, bundle: {endpoint: {url: 'https://c.test'}}}
    - {trustDomain: d.test, bundle: {endpoint: {url: 'https://d.test', profile: https_spiffe}}}
    - {trustDomain: e.test, bundle: {endpoint: {url: 'https://e.test', profile: https_spiffe,
        endpointId: spiffe://other.test/spire/server, initialBundle: {file: e.json}}}}
    - {trustDomain: f.test, bundle: {endpoint: {url: 'https://f.test', profile: https_web,
        endpointId: spiffe://f.test/spire/server}}}
    - {trustDomain: prod.test, bundle: {source: true}}
    - {trustDomain: b.test, bundle: {source: true}}
    - {bundle: {source: true}}",
            "[]",
        ),
        expect![[r#"
            error[E013]: nothing says where the bundle comes from
              --> mesh.yaml:7:37
            7 |     - {trustDomain: a.test, bundle: {}}
              |                                     ^^ write `{source: true}`, `{file: partner.json}` or `{endpoint: {url: …, profile: https_web}}`
            error[E013]: a bundle comes from one place, here are several
              --> mesh.yaml:8:37
            8 |     - {trustDomain: b.test, bundle: {source: true, file: b.pem}}
              |                                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^ keep `source`, `file` or `endpoint`
            error[E013]: endpoint needs `profile`
              --> mesh.yaml:9:49
            9 |     - {trustDomain: c.test, bundle: {endpoint: {url: 'https://c.test'}}}
              |                                                 ^^^
            error[E013]: `profile: https_spiffe` needs `endpointId`
              --> mesh.yaml:10:81
            10 |     - {trustDomain: d.test, bundle: {endpoint: {url: 'https://d.test', profile: https_spiffe}}}
               |                                                                                 ^^^^^^^^^^^^ as in `endpointId: spiffe://d.test/spire/server`
            error[E013]: `profile: https_spiffe` needs `initialBundle`
              --> mesh.yaml:10:81
            10 |     - {trustDomain: d.test, bundle: {endpoint: {url: 'https://d.test', profile: https_spiffe}}}
               |                                                                                 ^^^^^^^^^^^^ as in `initialBundle: {file: d.test.json}`
            error[E005]: `spiffe://other.test/spire/server` is not of the trust domain `e.test`
              --> mesh.yaml:12:21
            12 |         endpointId: spiffe://other.test/spire/server, initialBundle: {file: e.json}}}}
               |                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ the endpoint is authenticated with the bundle it serves; else use `https_web`
            error[E004]: `endpointId` means nothing under `profile: https_web`
              --> mesh.yaml:14:21
            14 |         endpointId: spiffe://f.test/spire/server}}}
               |                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ remove it, or write `profile: https_spiffe`
            error[E013]: `prod.test` is this mesh itself
              --> mesh.yaml:15:21
            15 |     - {trustDomain: prod.test, bundle: {source: true}}
               |                     ^^^^^^^^^ its own bundle comes with its identities; name other trust domains here
            error[E019]: trust domain `b.test` is federated with twice
              --> mesh.yaml:16:21
            16 |     - {trustDomain: b.test, bundle: {source: true}}
               |                     ^^^^^^ the first one is at mesh.yaml:8
            error[E013]: a federated trust domain needs `trustDomain`
              --> mesh.yaml:17:8
            17 |     - {bundle: {source: true}}
               |        ^^^^^^"#]],
    );
}

/// F-3: an endpoint is https, without user; and a bundle nobody confirms does not live on.
#[test]
fn f3_an_endpoint_is_https_without_a_user() {
    let one = |url: &str, more: &str| {
        format!(
            "    - {{trustDomain: t{}.test, bundle: {{endpoint: {{url: '{url}', profile: https_web{more}}}}}}}\n",
            url.len()
        )
    };
    let text: String = [
        one("http://a.test/", ""),
        one("https://me:pw@a.test/", ""),
        one("https://", ""),
        one("https://a.test/#part", ""),
        one("https://a.test/long/way/to/go", ", maxStale: 25h"),
    ]
    .concat();
    problems(
        &mesh(&format!("\n{text}"), "[]"),
        expect![[r#"
        error[E013]: `http://a.test/` is not an https URL
          --> mesh.yaml:7:56
        7 |     - {trustDomain: t14.test, bundle: {endpoint: {url: 'http://a.test/', profile: https_web}}}
          |                                                        ^^^^^^^^^^^^^^^^ as in `https://bundle.partner.example/`
        error[E013]: `https://me:pw@a.test/` names a user; bundles are public and fetched without credentials
          --> mesh.yaml:8:56
        8 |     - {trustDomain: t21.test, bundle: {endpoint: {url: 'https://me:pw@a.test/', profile: https_web}}}
          |                                                        ^^^^^^^^^^^^^^^^^^^^^^^ as in `https://bundle.partner.example/`
        error[E013]: `https://` is not an https URL
          --> mesh.yaml:9:55
        9 |     - {trustDomain: t8.test, bundle: {endpoint: {url: 'https://', profile: https_web}}}
          |                                                       ^^^^^^^^^^ as in `https://bundle.partner.example/`
        error[E013]: `https://a.test/#part` has a fragment
          --> mesh.yaml:10:56
        10 |     - {trustDomain: t20.test, bundle: {endpoint: {url: 'https://a.test/#part', profile: https_web}}}
           |                                                        ^^^^^^^^^^^^^^^^^^^^^^ as in `https://bundle.partner.example/`
        error[E013]: maxStale is from 1s to 24h, not 90000s
          --> mesh.yaml:11:119
        11 | y/to/go', profile: https_web, maxStale: 25h}}}
           |                                         ^^^"#]],
    );
}

#[test]
fn a_destination_is_of_one_trust_domain_and_foreign_ones_are_named() {
    let destination = |ids: &str| {
        format!(
            "[{{name: d, namespace: shop, spec: {{hosts: [d.shop], ports: [{{port: 80, protocol: http}}], \
             endpoints: [{{address: 192.0.2.7, port: 8443}}], peer: {{mesh: {{identities: [{ids}]}}}}}}}}]"
        )
    };
    let federated = "[{trustDomain: partner.test, bundle: {source: true}}]";
    let foreign = "'spiffe://partner.test/ns/shop/sa/d'";
    let own = "'spiffe://prod.test/ns/shop/sa/d'";
    let documents = loaded(&mesh(federated, &destination(foreign)));
    let ids: Vec<String> =
        documents.destinations[0].spec.identities().map(ToString::to_string).collect();
    assert_eq!(ids, ["spiffe://partner.test/ns/shop/sa/d"]);
    problems(
        &mesh("[{trustDomain: else.test, bundle: {source: true}}]", &destination(foreign)),
        expect![[r#"
        error[E005]: trust domain `partner.test` is not this mesh's own, `prod.test`, and not federated
          --> mesh.yaml:7:180
        7 | ort: 8443}], peer: {mesh: {identities: ['spiffe://partner.test/ns/shop/sa/d']}}}}]
          |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ add `federation: [{trustDomain: partner.test, bundle: …}]` to MeshConfig"#]],
    );
    problems(
        &mesh(federated, &destination(&format!("{own}, {foreign}"))),
        expect![[r#"
        error[E013]: identities of two trust domains cannot answer for one destination
          --> mesh.yaml:7:159
        7 | address: 192.0.2.7, port: 8443}], peer: {mesh: {identities: ['spiffe://prod.test/ns/shop/sa/d', 'spiffe://partner.test/n
          |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ write two destinations"#]],
    );
}

const THEIRS: &str = "{id: spiffe://a.test/ns/edge/sa/gateway, keys: x5c, \
                      allow: {origin: [user], sub: [\"user:*\"]}}";

#[test]
fn context_crosses_only_as_written() {
    let documents = loaded(&mesh(
        &format!(
            "
    - {{trustDomain: a.test, bundle: {{source: true}}, context: {{issuers: [{THEIRS}],
        mapsTo: {{orders.read: [partner.read, partner.list]}}}}}}
    - {{trustDomain: b.test, bundle: {{source: true}}, context: {{handOver: true}}}}
    - {{trustDomain: c.test, bundle: {{source: true}}}}"
        ),
        "[]",
    ));
    let mesh = &documents.mesh;
    let [a, b, c] = mesh.federation.as_slice() else { panic!("{:?}", mesh.federation) };
    assert_eq!(a.context.issuers[0].id.as_str(), "spiffe://a.test/ns/edge/sa/gateway");
    assert_eq!(a.context.scopes["orders.read"], ["partner.read", "partner.list"]);
    assert!(!a.context.hand_over && b.context.hand_over && !c.context.hand_over);
    assert!(b.context.issuers.is_empty() && c.context.issuers.is_empty());
    assert!(mesh.hands_over_to(&b.trust_domain) && !mesh.hands_over_to(&a.trust_domain));
}

#[test]
fn what_crosses_is_said_whole() {
    let ours = THEIRS.replace("a.test", "prod.test");
    let fetched = THEIRS.replace("keys: x5c", "keys: jwks, jwks: {destination: edge/gateway}");
    problems(
        &mesh(
            &format!(
                "
    - {{trustDomain: a.test, bundle: {{source: true}}, context: {{issuers: [{THEIRS}]}}}}
    - {{trustDomain: b.test, bundle: {{source: true}}, context: {{mapsTo: {{x: [ours]}}}}}}
    - {{trustDomain: c.test, bundle: {{source: true}}, context: {{issuers: [{ours}],
        mapsTo: {{\"orders.*\": [ours]}}}}}}
    - {{trustDomain: a.test, bundle: {{source: true}}, context: {{issuers: [{fetched}],
        mapsTo: {{x: [ours]}}}}}}"
            ),
            "[]",
        ),
        expect![[r#"
            error[E013]: nothing says what their scopes mean here, so no token of theirs would do
              --> mesh.yaml:7:72
            7 | dle: {source: true}, context: {issuers: [{id: spiffe://a.test/ns/edge/sa/gateway, keys: x5c, allow: {origin: [user], sub
              |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ add `mapsTo: {their.scope: [our.scope]}`
            error[E013]: nobody's tokens are taken, so there is nothing to map
              --> mesh.yaml:8:71
            8 |     - {trustDomain: b.test, bundle: {source: true}, context: {mapsTo: {x: [ours]}}}
              |                                                                       ^^^^^^^^^^^ add `issuers: [{id: …, keys: x5c, allow: …}]`
            error[E005]: `spiffe://prod.test/ns/edge/sa/gateway` is not of the trust domain `c.test`
              --> mesh.yaml:9:78
            9 | source: true}, context: {issuers: [{id: spiffe://prod.test/ns/edge/sa/gateway, keys: x5c, allow: {origin: [user], sub: [
              |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            error[E013]: scopes are mapped one by one, by whole names
              --> mesh.yaml:10:30
            10 |         mapsTo: {"orders.*": [ours]}}}
               |                              ^^^^^^
            error[E019]: trust domain `a.test` is federated with twice
              --> mesh.yaml:11:21
            11 |     - {trustDomain: a.test, bundle: {source: true}, context: {issuers: [{id: spiffe://a.test/ns/edge/sa/gateway, keys: j
               |                     ^^^^^^ the first one is at mesh.yaml:7
            error[E013]: keys of another trust domain are not fetched
              --> mesh.yaml:11:132
            11 | t/ns/edge/sa/gateway, keys: jwks, jwks: {destination: edge/gateway}, allow: {origin: [user], sub: ["user:*"]}}],
               |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^ write `keys: x5c`, or `jwks: {file: partner-issuer.json}`
            error[E005]: Destination `edge/gateway` does not exist
              --> mesh.yaml:11:146
            11 | ateway, keys: jwks, jwks: {destination: edge/gateway}, allow: {origin: [user], sub: ["user:*"]}}],
               |                                         ^^^^^^^^^^^^"#]],
    );
}

#[test]
fn a_key_set_comes_from_one_place() {
    let issuer = |jwks: &str| {
        format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\n\
             spec:\n  trustDomain: prod.test\n  context: {{issuers: [{{id: \
             spiffe://prod.test/ns/edge/sa/gateway, keys: jwks, jwks: {jwks}, \
             allow: {{origin: [user], sub: [\"user:*\"]}}}}]}}\n"
        )
    };
    for (jwks, complaint) in [
        ("{}", "nothing says where the key set comes from"),
        ("{file: a.json, destination: edge/gateway}", "here are two"),
        ("{file: a.json, refresh: 5m}", "`refresh` is about keys that are fetched"),
        ("{destination: gateway}", "does not name a Destination"),
        ("{destination: edge/gateway}", "does not exist"),
        ("{destination: edge/gateway, refresh: 2h}", "from 1s to 1h"),
        ("{destination: edge/gateway, refresh: 10m, maxStale: 10m}", "at least twice"),
    ] {
        let text = issuer(jwks);
        let found = load(&[Source { name: "mesh.yaml", text: &text }]).unwrap_err().to_string();
        assert!(found.contains(complaint), "{jwks}: {found}");
    }
}
