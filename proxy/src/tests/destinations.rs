use std::path::Path;

use countersign_policy::Source;

use super::*;

const MESH: &str = r#"
apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec:
  trustDomain: lab.test
  context: {issuers: [{id: "spiffe://lab.test/ns/edge/sa/gateway", keys: x5c, allow: {origin: [user], sub: ["user:*"], scope: ["a.*"]}}]}
  destinations:
    - name: orders
      namespace: shop
      spec:
        hosts: [orders.shop]
        addresses: [10.96.0.7, "fd00::7"]
        ports: [{port: 80, protocol: http}, {port: 5432, protocol: tcp}]
        endpoints:
          - {address: 10.0.0.1, port: 80, identities: ["spiffe://lab.test/ns/shop/sa/blue"]}
          - {address: 10.0.0.2, port: 80}
          - {address: 10.0.0.2, port: 5432}
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
  listeners:
    inbound: [{address: "[::]:15006", mode: redirect}]
    outbound: [{address: "127.0.0.1:15001", mode: redirect}, {address: "[::1]:15001", mode: redirect}]
  metrics: {address: "[::]:15020"}
  interception: {podIps: [10.0.0.2, "fd00::2"]}
  app: [{port: 8443, protocol: grpc}]
  documents: {files: [mesh.yaml]}
"#;

fn build(documents: &str, me: &str) -> Result<Destinations, String> {
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(&roots, authority.self_signed(&key).unwrap().pem()).unwrap();
    let text = documents.replace("ROOTS", &roots.display().to_string());
    let documents =
        countersign_policy::load(&[Source { name: "mesh.yaml", text: &text }]).expect("sound");
    let config = CONFIG;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    std::fs::copy(examples.join("mesh.yaml"), folder.path().join("mesh.yaml")).unwrap();
    let file = folder.path().join("proxy.yaml");
    std::fs::write(&file, config).unwrap();
    let (config, _) = ProxyConfig::load(&file).unwrap_or_else(|problems| panic!("{problems}"));
    let mut roots = OutsideRoots::new(crate::tls::provider(&[]));
    Destinations::build(&documents, &config, Some(&me.parse().unwrap()), &mut roots)
}

fn all() -> Destinations {
    build(MESH, "spiffe://lab.test/ns/shop/sa/me").unwrap()
}

fn id(text: &str) -> WorkloadId {
    format!("spiffe://lab.test/ns/shop/sa/{text}").parse().unwrap()
}

fn found(all: &Destinations, addr: &str) -> Option<Found> {
    all.by_address(addr.parse().unwrap())
}

/// Who may answer at the only endpoint of what an address leads to.
fn answers(found: &Found) -> Option<WorkloadId> {
    let endpoint = found.destination.endpoint(found.only?)?;
    endpoint.expected?.single().cloned()
}

#[test]
fn an_address_of_a_service_leads_to_all_its_endpoints() {
    let all = all();
    for addr in ["10.96.0.7:80", "[fd00::7]:80", "[::ffff:10.96.0.7]:80"] {
        let found = found(&all, addr).expect(addr);
        assert_eq!(
            (&*found.destination.name, found.destination.port),
            ("shop/orders", 80),
            "{addr}"
        );
        assert_eq!(found.only, None, "{addr}");
        assert_eq!(found.destination.endpoints.len(), 2, "{addr}");
    }
    let tcp = found(&all, "10.96.0.7:5432").unwrap().destination;
    assert_eq!((tcp.protocol, tcp.endpoints.len()), (Some(PortProtocol::Tcp), 1));
    for unknown in ["10.96.0.7:81", "10.96.0.8:80"] {
        assert!(found(&all, unknown).is_none(), "{unknown}");
    }
}

#[test]
fn a_dialled_endpoint_is_the_only_one_and_answers_as_itself() {
    let found = found(&all(), "10.0.0.1:80").unwrap();
    assert_eq!(found.only, Some("10.0.0.1:80".parse().unwrap()));
    assert_eq!(answers(&found), Some(id("blue")));
    // What is not an endpoint of a mesh destination is not one of it.
    assert!(found.destination.endpoint("10.0.0.9:80".parse().unwrap()).is_none());
}

/// The pod's own addresses lead to the pod itself, whatever a document says of them.
#[test]
fn an_own_address_is_answered_by_ourselves() {
    let all = all();
    for addr in ["10.0.0.2:80", "10.0.0.2:9999", "[fd00::2]:80", "[::ffff:10.0.0.2]:80"] {
        let found = found(&all, addr).expect(addr);
        assert!(found.destination.is_mesh(), "{addr}");
        assert_eq!(answers(&found), Some(id("me")), "{addr}");
    }
    assert!(found(&all, "10.0.0.2:8443").unwrap().destination.grpc);
    let elsewhere = all.at_own("192.0.2.9:80".parse().unwrap()).unwrap();
    assert_eq!(answers(&elsewhere), Some(id("me")));
}

#[test]
fn an_outside_service_is_dialled_where_the_app_dialled_it() {
    let all = all();
    let storage = all.by_host("api.example.net", Some(443)).unwrap();
    assert!(matches!(storage.peer, ToPeer::Outside(_)) && storage.endpoints.is_empty());
    let endpoint = storage.endpoint("198.51.100.7:443".parse().unwrap()).unwrap();
    assert!(endpoint.expected.is_none());
    assert!(matches!(storage.key(&endpoint).who, Who::Outside(_)));
}

/// Two snapshots of the same documents give equal keys, so that pools and breakers outlive them;
/// another owner of an address is another key.
#[test]
fn keys_outlive_a_snapshot_and_tell_owners_apart() {
    let key = |text: &str| {
        let found = found(&build(text, "spiffe://lab.test/ns/shop/sa/me").unwrap(), "10.0.0.1:80");
        let Found { destination, only } = found.unwrap();
        destination.key(&destination.endpoint(only.unwrap()).unwrap())
    };
    assert_eq!(key(MESH), key(MESH));
    assert_ne!(key(MESH), key(&MESH.replace("sa/blue", "sa/green")));
}
