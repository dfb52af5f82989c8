use std::path::Path;

use countersign_certs_client::Certs;
use countersign_config::ProxyConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};

use super::*;
use crate::clock::Now;
use crate::live::Builder;

const MESH: &str = r#"
apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec:
  trustDomain: lab.test
  outbound: {unknown: pass}
  context: {issuers: [{id: "spiffe://lab.test/ns/edge/sa/gateway", keys: x5c, allow: {origin: [user], sub: ["user:*"], scope: ["a.*"]}}]}
  destinations:
    - name: orders
      namespace: shop
      spec:
        hosts: [orders.shop]
        addresses: [10.96.0.7]
        ports: [{port: 80, protocol: http}]
        endpoints: [{address: 10.0.0.1, port: 80}, {address: 10.0.0.2, port: 80}]
        peer: {mesh: {identities: ["spiffe://lab.test/ns/shop/sa/orders"]}}
    - name: storage
      namespace: shop
      spec:
        hosts: [api.example.net]
        ports: [{port: 443, protocol: http}]
        peer: {tls: {serverNames: [api.example.net], roots: {file: ROOTS}}}
"#;

const CONFIG: &str = r#"
apiVersion: countersign.dev/v1alpha1
kind: ProxyConfig
spec:
  identity: {source: {workloadApi: {socket: agent.sock}}}
  namespace: shop
  listeners: {inbound: [{address: "[::]:15006", mode: redirect}], outbound: [{address: "127.0.0.1:15001", mode: redirect}, {address: "[::1]:15001", mode: redirect}]}
  metrics: {address: "[::]:15020"}
  documents: {files: [mesh.yaml]}
"#;

fn authority(path: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(path, authority.self_signed(&key).unwrap().pem()).unwrap();
}

/// Documents that change.
struct World {
    folder: tempfile::TempDir,
    builder: Builder,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        authority(&folder.path().join("roots.pem"));
        std::fs::write(folder.path().join("proxy.yaml"), CONFIG).unwrap();
        let config = World::read(&folder, MESH).0;
        World { builder: Builder::new(Arc::new(config)), folder }
    }

    fn read(
        folder: &tempfile::TempDir,
        mesh: &str,
    ) -> (ProxyConfig, countersign_policy::Documents) {
        let roots = folder.path().join("roots.pem").display().to_string();
        std::fs::write(folder.path().join("mesh.yaml"), mesh.replace("ROOTS", &roots)).unwrap();
        let read = ProxyConfig::load(&folder.path().join("proxy.yaml"));
        read.unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// The snapshot where `from` reads `to`.
    fn with(&mut self, from: &str, to: &str) -> Snapshot {
        assert!(MESH.contains(from), "{from}");
        let (_, documents) = World::read(&self.folder, &MESH.replace(from, to));
        self.builder.build(&Arc::new(documents), &Arc::new(Certs::default())).unwrap()
    }

    fn before(&mut self) -> Snapshot {
        self.with("", "")
    }
}

fn ends(reached: &Reached, snap: &Snapshot) -> bool {
    let against = Against { snap, trust_shrank: false, now: Now::read() };
    let judged = reached.judge(&against);
    let reason = judged.map_err(|verdict| verdict.reason);
    assert!(matches!(reason, Ok(_) | Err(EndReason::Policy(DenyReason::NoMatch))), "{reason:?}");
    reason.is_err()
}

fn orders() -> MeshPeer {
    let mut params = CertificateParams::default();
    let id = "spiffe://lab.test/ns/shop/sa/orders";
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    let leaf = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    MeshPeer::of_verified_chain(Some(&[leaf.der().clone()])).unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn name(snap: &Snapshot, document: &str, by_address: bool) -> Name {
    Name::of(snap.destinations.by_name(document).unwrap(), by_address)
}

fn mesh(snap: &Snapshot, dialled: Option<&str>, by_address: bool) -> Reached {
    let to = To::Mesh(name(snap, "shop/orders", by_address), orders());
    Reached { dialled: dialled.map(at), addr: at("10.0.0.1:80"), to, exchange: false }
}

#[test]
fn a_callee_that_is_no_longer_expected_is_left() {
    let mut world = World::new();
    let before = world.before();
    let by_name = mesh(&before, None, false);
    let by_address = mesh(&before, Some("10.96.0.7:80"), true);
    let by_endpoint = mesh(&before, Some("10.0.0.1:80"), false);
    let all = [&by_name, &by_address, &by_endpoint];
    let mut check = |from, to, expected: [bool; 3]| {
        let snap = world.with(from, to);
        assert_eq!(all.map(|reached| ends(reached, &snap)), expected, "{from} → {to}");
    };
    check("", "", [false; 3]);
    check("sa/orders\"", "sa/other\"", [true; 3]);
    check("name: orders", "name: gone", [true, false, false]);
    // Another one's address by now: this very endpoint, or that of the service.
    let blue = r#"10.0.0.1, port: 80, identities: ["spiffe://lab.test/ns/shop/sa/blue"]}"#;
    check("10.0.0.1, port: 80}", blue, [true; 3]);
    check("addresses: [10.96.0.7]", "addresses: [10.96.0.8]", [false, true, false]);
    // It drains: its identity still serves elsewhere.
    check("{address: 10.0.0.1, port: 80}, ", "", [false; 3]);
}

#[test]
fn an_outside_service_is_left_with_its_document_names_or_roots() {
    let mut world = World::new();
    let before = world.before();
    let destination = before.destinations.by_name("shop/storage").unwrap();
    let ToPeer::Outside(tls) = &destination.peer else { panic!("{destination:?}") };
    let to = To::Outside(Name::of(destination, false), Arc::clone(tls));
    let dialled = at("192.0.2.7:443");
    let reached = Reached { dialled: Some(dialled), addr: dialled, to, exchange: false };
    assert!(!ends(&reached, &world.before()));
    assert!(!ends(&reached, &world.with("hosts: [orders.shop]", "hosts: [orders.other]")));
    assert!(ends(&reached, &world.with("name: storage", "name: other")));
    assert!(ends(&reached, &world.with("serverNames: [api", "serverNames: [www")));
    // Somebody of the mesh has its address now.
    assert!(ends(&reached, &world.with("10.0.0.2, port: 80", "192.0.2.7, port: 443")));
    authority(&world.folder.path().join("roots.pem"));
    assert!(ends(&reached, &world.before()));
}

#[test]
fn an_address_that_is_passed_is_left_once_it_is_known_or_not_to_be_passed() {
    let mut world = World::new();
    let addr = at("192.0.2.7:80");
    let passed = |host: Option<&str>| {
        let to = To::Passed { host: host.map(Into::into), namespace: "shop".into() };
        Reached { dialled: Some(addr), addr, to, exchange: true }
    };
    let (bytes, request) = (passed(None), passed(Some("legacy.shop")));
    for (from, to, expected) in [
        ("", "", [false, false]),
        ("unknown: pass", "unknown: deny", [true, true]),
        ("[10.96.0.7]", "[10.96.0.7, 192.0.2.7]", [true, true]),
        ("[orders.shop]", "[orders.shop, legacy.shop]", [false, true]),
    ] {
        let snap = world.with(from, to);
        assert_eq!([ends(&bytes, &snap), ends(&request, &snap)], expected, "{from} → {to}");
    }
}
