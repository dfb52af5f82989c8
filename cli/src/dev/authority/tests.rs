//! The authority against the client the proxy uses, and against callers that break the rules.

use std::{os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc, time::Duration};

use countersign_certs_client::{
    CertSource, Certs, CertsHandle, State,
    source::{
        self,
        workload_api::{
            Endpoint, JwtKeys,
            wire::{FETCH_X509_SVID, X509SvidRequest, X509SvidResponse},
        },
    },
};
use countersign_workload_id::{TrustDomain, WorkloadId};
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authority, AuthorityConfig, Ca, parse_ttl, parse_workload, unix_now};

struct World {
    authority: Authority,
    folder: TempDir,
    orders: WorkloadId,
    payments: WorkloadId,
}

impl World {
    async fn start() -> World {
        let folder = tempfile::tempdir().unwrap();
        let trust_domain = TrustDomain::parse("demo.test").unwrap();
        let orders = parse_workload(&trust_domain, "shop/orders").unwrap();
        let payments = parse_workload(&trust_domain, "shop/payments").unwrap();
        let config = AuthorityConfig {
            trust_domain,
            dir: folder.path().join("ids"),
            workloads: vec![orders.clone(), payments.clone()],
            ttl: Duration::from_secs(60),
            rotate: Duration::from_secs(30),
        };
        let authority = Authority::start(config).await.unwrap();
        World { authority, folder, orders, payments }
    }

    fn socket(&self, id: &WorkloadId) -> PathBuf {
        self.authority.socket(id).unwrap()
    }

    fn fetch(&self, id: &WorkloadId) -> CertsHandle {
        let endpoint = Endpoint::Unix(self.socket(id));
        let clock = Arc::new(|| unix_now() * 1000);
        let source = CertSource::WorkloadApi { endpoint, jwt_keys: JwtKeys::Follow };
        source::spawn(source, Some(id.clone()), clock)
    }
}

async fn identity(handle: &CertsHandle, not: &[[u8; 32]]) -> Arc<Certs> {
    let mut certs = handle.certs();
    let fits = |certs: &Arc<Certs>| {
        certs.identity.as_ref().is_some_and(|identity| !not.contains(&identity.leaf_sha256))
    };
    tokio::time::timeout(Duration::from_secs(20), certs.wait_for(fits))
        .await
        .expect("an identity in time")
        .unwrap()
        .clone()
}

#[tokio::test]
async fn each_socket_is_one_workload_and_rotation_is_pushed() {
    let world = World::start().await;
    let (orders, payments) = (world.fetch(&world.orders), world.fetch(&world.payments));
    let first = identity(&orders, &[]).await.identity.clone().unwrap();
    assert_eq!(first.id, world.orders);
    assert_eq!(identity(&payments, &[]).await.identity.clone().unwrap().id, world.payments);

    world.authority.rotate(&world.orders).unwrap();
    let second = identity(&orders, &[first.leaf_sha256]).await;
    assert_eq!(second.identity.as_ref().unwrap().id, world.orders);
    assert!(second.generation > 1);
}

#[tokio::test]
async fn a_withdrawn_identity_is_gone_at_once_and_comes_back() {
    let world = World::start().await;
    let handle = world.fetch(&world.orders);
    identity(&handle, &[]).await;
    world.authority.withdraw(&world.orders).unwrap();
    let mut status = handle.status();
    status.wait_for(|status| status.state == State::Withdrawn).await.unwrap();
    assert!(handle.certs().borrow().identity.is_none());
    world.authority.rotate(&world.orders).unwrap();
    identity(&handle, &[]).await;
}

/// Calls a path with or without the security header; the answer is the first message or a code.
async fn call(
    socket: PathBuf,
    path: &'static str,
    header: Option<&'static str>,
) -> Result<X509SvidResponse, Code> {
    let address = format!("unix://{}", socket.display());
    let channel =
        tonic::transport::Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let mut request = tonic::Request::new(X509SvidRequest {});
    if let Some(value) = header {
        request.metadata_mut().insert("workload.spiffe.io", value.parse().unwrap());
    }
    let codec = ProstCodec::<X509SvidRequest, X509SvidResponse>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    let answer = client.server_streaming(request, path, codec).await;
    let mut stream = answer.map_err(|status: Status| status.code())?.into_inner();
    stream.message().await.map_err(|status| status.code())?.ok_or(Code::DataLoss)
}

#[tokio::test]
async fn calls_are_answered_as_the_specification_asks() {
    let world = World::start().await;
    let socket = || world.socket(&world.orders);
    let first = call(socket(), FETCH_X509_SVID, Some("true")).await.unwrap();
    assert_eq!(first.svids.len(), 1);
    for header in [None, Some("false"), Some("")] {
        let answer = call(socket(), FETCH_X509_SVID, header).await;
        assert_eq!(answer.unwrap_err(), Code::InvalidArgument, "{header:?}");
    }
    for path in ["/SpiffeWorkloadAPI/FetchWITSVID", "/other"] {
        let answer = call(socket(), path, Some("true")).await;
        assert_eq!(answer.unwrap_err(), Code::Unimplemented, "{path}");
    }
}

/// The keys come by the stream that a gateway follows, and tokens hold under them.
#[tokio::test]
async fn tokens_are_made_and_checked() {
    let world = World::start().await;
    let handle = world.fetch(&world.orders);
    let mut certs = handle.certs();
    let domain = world.orders.trust_domain();
    let named = |certs: &Arc<Certs>| certs.jwt_bundles.get(domain).is_some();
    let held = certs.wait_for(named).await.unwrap().clone();
    let tokens = &world.authority.tokens;
    let now = unix_now();
    let token = tokens.issue(&world.orders, &["billing".to_owned()], now).unwrap();
    let header: serde_json::Value = {
        use base64::Engine as _;
        let text = token.split('.').next().unwrap();
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let kid = header["kid"].as_str().unwrap().to_owned();
    assert!(held.jwt_bundles.get(domain).unwrap().kids().contains(&kid));

    let (id, claims) = tokens.check(&token, "billing", now).unwrap();
    assert_eq!((id, &claims["aud"]), (world.orders.clone(), &serde_json::json!(["billing"])));
    let other = super::tokens::Tokens::new(domain.clone(), now).unwrap();
    for (outcome, said) in [
        (tokens.check(&token, "orders", now), "for somebody else"),
        (tokens.check(&token, "", now), "for somebody else"),
        (tokens.check(&token, "billing", now + 300), "the token ended"),
        (tokens.check(&token[..token.len() - 4], "billing", now), "signature"),
        (other.check(&token, "billing", now), "no key is called"),
        (tokens.check("a.b", "billing", now), "not a compact JWS"),
    ] {
        let error = format!("{:#}", outcome.unwrap_err());
        assert!(error.contains(said), "{error}");
    }
    assert!(tokens.issue(&world.orders, &[], now).is_err());
}

#[tokio::test]
async fn sockets_are_private_unique_and_removed() {
    let world = World::start().await;
    let socket = world.socket(&world.orders);
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&socket) & 0o777, 0o600);
    assert_eq!(mode(socket.parent().unwrap()) & 0o777, 0o700);

    let again = AuthorityConfig {
        trust_domain: world.orders.trust_domain().clone(),
        dir: world.folder.path().join("ids"),
        workloads: vec![world.orders.clone()],
        ttl: Duration::from_secs(60),
        rotate: Duration::from_secs(30),
    };
    let error = Authority::start(again.clone()).await.err().unwrap().to_string();
    assert!(error.contains("served by another authority"), "{error}");

    world.authority.stop().await;
    assert!(!socket.exists());
    let left: Vec<_> = std::fs::read_dir(world.folder.path().join("ids")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    // The leftover of a process that was killed is replaced; another kind of file is not.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    Authority::start(again.clone()).await.unwrap().stop().await;
    std::fs::write(&socket, "mine").unwrap();
    let error = Authority::start(again).await.err().unwrap().to_string();
    assert!(error.contains("is not a socket"), "{error}");
}

#[test]
fn leaves_have_the_form_we_ask_of_every_authority() {
    let domain = TrustDomain::parse("demo.test").unwrap();
    let now = unix_now();
    let ca = Ca::new(domain.clone(), now).unwrap();
    let id = parse_workload(&domain, "shop/orders").unwrap();
    let issued = ca.issue(&id, 120, now).unwrap();
    let (_, leaf) = X509Certificate::from_der(&issued.certificate).unwrap();
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert_eq!((usage.critical, usage.value.flags), (true, 1), "digitalSignature only");
    let eku = leaf.extended_key_usage().unwrap().unwrap();
    assert!(eku.value.server_auth && eku.value.client_auth);
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!((san.critical, san.value.general_names.len()), (true, 1));
    assert_eq!(leaf.subject().iter().count(), 0);
    assert_eq!(leaf.raw_serial().len(), 16);
    assert_eq!(leaf.validity().not_before.timestamp(), i64::try_from(now - 60).unwrap());
    assert_eq!(leaf.validity().not_after.timestamp(), i64::try_from(now + 120).unwrap());

    let beyond = ca.issue(&id, 10 * 365 * 24 * 3600, now).unwrap();
    assert_eq!(beyond.not_after, ca.issue(&id, u64::MAX, now).unwrap().not_after);
}

#[test]
fn durations_and_workloads_are_checked() {
    assert_eq!(parse_ttl("2m"), Ok(Duration::from_secs(120)));
    assert_eq!(parse_ttl("90s"), Ok(Duration::from_secs(90)));
    for bad in ["", "2", "1s", "-5m", "25h", "soon"] {
        assert!(parse_ttl(bad).is_err(), "{bad}");
    }
    let domain = TrustDomain::parse("demo.test").unwrap();
    for bad in ["orders", "a/b/c", "/x", "x/", "../x", "a b/c"] {
        assert!(parse_workload(&domain, bad).is_err(), "{bad}");
    }
}
