//! The Workload API source against a server that follows a script: the good course, and every
//! fault the specification speaks of.

mod tokens;

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures_util::{StreamExt as _, stream};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_stream::Stream;
use tonic::{Code, Status, body::Body, server::Grpc};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::authority::{Leaf, NOW, ORDERS, TestCa, clock, domain, id, life, until};
use crate::{
    CertSource, Certs, CertsHandle, NextTry, State, source,
    source::workload_api::{
        Endpoint, JwtKeys,
        wire::{
            FETCH_JWT_BUNDLES, FETCH_X509_BUNDLES, FETCH_X509_SVID, JwtBundlesRequest,
            JwtBundlesResponse, X509BundlesRequest, X509BundlesResponse, X509Svid, X509SvidRequest,
            X509SvidResponse,
        },
    },
};

/// What one call of a stream answers; the stream then stays open unless its last item is an error.
type Answer<M> = Vec<Result<M, Status>>;

/// Answers of successive calls; the last one is repeated.
struct Script<M>(VecDeque<Answer<M>>);

impl<M: Clone> Script<M> {
    fn next(&mut self) -> Answer<M> {
        if self.0.len() > 1 {
            return self.0.pop_front().unwrap();
        }
        self.0.front().cloned().unwrap()
    }
}

struct Server {
    svids: Mutex<Script<X509SvidResponse>>,
    bundles: Mutex<Script<X509BundlesResponse>>,
    jwt_bundles: Mutex<Script<JwtBundlesResponse>>,
    /// Path and security header of every call.
    calls: Mutex<Vec<(String, Option<String>)>>,
}

struct Running {
    server: Arc<Server>,
    folder: TempDir,
}

impl Running {
    fn new(
        svids: Vec<Answer<X509SvidResponse>>,
        bundles: Vec<Answer<X509BundlesResponse>>,
    ) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("api.sock")).unwrap();
        let server = Arc::new(Server {
            svids: Mutex::new(Script(svids.into())),
            bundles: Mutex::new(Script(bundles.into())),
            jwt_bundles: Mutex::new(Script([vec![Err(Status::unimplemented("no"))]].into())),
            calls: Mutex::default(),
        });
        let accepting = Arc::clone(&server);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = Arc::clone(&accepting);
                let service = service_fn(move |request| answer(Arc::clone(&server), request));
                tokio::spawn(
                    http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Running { server, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    fn start(&self, expected: Option<&str>) -> CertsHandle {
        let endpoint = Endpoint::Unix(self.socket());
        source::spawn(
            CertSource::WorkloadApi { endpoint, jwt_keys: JwtKeys::Ignore },
            expected.map(id),
            clock().0,
        )
    }

    fn calls_of(&self, path: &str) -> usize {
        self.server.calls.lock().unwrap().iter().filter(|call| call.0 == path).count()
    }
}

async fn answer(
    server: Arc<Server>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let header = request.headers().get("workload.spiffe.io");
    let header = header.map(|value| value.to_str().unwrap().to_owned());
    server.calls.lock().unwrap().push((path.clone(), header));
    Ok(match path.as_str() {
        FETCH_X509_SVID => {
            let answer = server.svids.lock().unwrap().next();
            let codec = ProstCodec::<X509SvidResponse, X509SvidRequest>::default();
            Grpc::new(codec).server_streaming(Say(Some(answer)), request).await
        }
        FETCH_X509_BUNDLES => {
            let answer = server.bundles.lock().unwrap().next();
            let codec = ProstCodec::<X509BundlesResponse, X509BundlesRequest>::default();
            Grpc::new(codec).server_streaming(Say(Some(answer)), request).await
        }
        FETCH_JWT_BUNDLES => {
            let answer = server.jwt_bundles.lock().unwrap().next();
            let codec = ProstCodec::<JwtBundlesResponse, JwtBundlesRequest>::default();
            Grpc::new(codec).server_streaming(Say(Some(answer)), request).await
        }
        _ => Status::unimplemented("no such call").into_http(),
    })
}

struct Say<M>(Option<Answer<M>>);

impl<Q, M: Send + 'static> Service<tonic::Request<Q>> for Say<M> {
    type Response = tonic::Response<Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: tonic::Request<Q>) -> Self::Future {
        let messages = stream::iter(self.0.take().unwrap()).chain(stream::pending());
        ready(Ok(tonic::Response::new(Box::pin(messages))))
    }
}

fn svid(leaf: &Leaf, ca: &TestCa) -> X509Svid {
    X509Svid {
        spiffe_id: crate::svid::claimed_id(&leaf.certificate).unwrap().to_string(),
        x509_svid: leaf.certificate.to_vec(),
        x509_svid_key: leaf.key.serialize_der(),
        bundle: ca.certificate.to_vec(),
        hint: String::new(),
    }
}

fn svids(leaves: &[&Leaf], ca: &TestCa) -> X509SvidResponse {
    X509SvidResponse {
        svids: leaves.iter().map(|leaf| svid(leaf, ca)).collect(),
        ..X509SvidResponse::default()
    }
}

fn bundles(cas: &[&TestCa]) -> X509BundlesResponse {
    let entry = |ca: &&TestCa| (ca.domain.id(), ca.certificate.to_vec());
    X509BundlesResponse { crl: Vec::new(), bundles: cas.iter().map(entry).collect() }
}

fn no_bundles() -> Vec<Answer<X509BundlesResponse>> {
    vec![vec![Err(Status::unimplemented("not here"))]]
}

async fn holds(handle: &CertsHandle, leaf: &Leaf) -> Arc<Certs> {
    let wanted = crate::bundle::sha256(&leaf.certificate);
    until(&mut handle.certs(), |certs| {
        certs.identity.as_ref().is_some_and(|identity| identity.leaf_sha256 == wanted)
    })
    .await
}

#[test]
fn w2_addresses_have_two_forms_and_no_more() {
    let parse = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.to_string());
    for good in ["unix:///run/spire/agent.sock", "tcp://127.0.0.1:8081", "tcp://[::1]:8081"] {
        assert_eq!(parse(good).as_deref(), Ok(good));
    }
    for bad in [
        "",
        "/run/spire/agent.sock",
        "unix:/run/agent.sock",
        "unix://relative",
        "unix:///a?b",
        "unix:///a#b",
        "tcp://localhost:8081",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:8081/path",
        "http://127.0.0.1:8081",
    ] {
        let error = parse(bad).unwrap_err().to_string();
        assert!(error.contains("unix:///absolute/path or tcp://<IP>:<port>"), "{error}");
    }
}

#[tokio::test]
async fn w3_w4_calls_carry_the_header_and_have_no_package() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |_| {});
    let api = Running::new(vec![vec![Ok(svids(&[&leaf], &ca))]], vec![vec![Ok(bundles(&[&ca]))]]);
    let handle = api.start(Some(ORDERS));
    holds(&handle, &leaf).await;
    until(&mut handle.status(), |status| status.is_ready()).await;
    let mut calls = api.server.calls.lock().unwrap().clone();
    calls.sort();
    for (path, header) in calls {
        assert!(path.starts_with("/SpiffeWorkloadAPI/FetchX509"), "{path}");
        assert_eq!(header.as_deref(), Some("true"));
    }
}

#[tokio::test]
async fn w1_an_agent_on_a_tcp_port_is_asked_too() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |_| {});
    let api = Running::new(vec![vec![Ok(svids(&[&leaf], &ca))]], no_bundles());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
    let socket = api.socket();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = tokio::net::UnixStream::connect(&socket).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let source = CertSource::WorkloadApi { endpoint, jwt_keys: JwtKeys::Ignore };
    holds(&source::spawn(source, None, clock().0), &leaf).await;
}

#[tokio::test]
async fn w6_each_message_is_the_complete_state() {
    let (ca, foreign) = (TestCa::new("demo.test"), TestCa::new("other.test"));
    let (first, second) = (ca.leaf(ORDERS, |_| {}), ca.leaf(ORDERS, |_| {}));
    let mut federated = svids(&[&first], &ca);
    federated
        .federated_bundles
        .insert("spiffe://other.test".to_owned(), foreign.certificate.to_vec());
    // The second message does not name the foreign domain: its bundle is gone.
    let api =
        Running::new(vec![vec![Ok(federated.clone()), Ok(svids(&[&second], &ca))]], no_bundles());
    let handle = api.start(None);
    let certs = holds(&handle, &second).await;
    assert!(certs.bundles.get(&domain("other.test")).is_none());
    assert!(certs.bundles.get(&domain("demo.test")).is_some());

    let api = Running::new(vec![vec![Ok(federated)]], no_bundles());
    let handle = api.start(None);
    let certs = holds(&handle, &first).await;
    assert!(certs.bundles.get(&domain("other.test")).is_some());
}

#[tokio::test]
async fn w6_bundles_of_two_messages_are_never_merged() {
    let (old, new) = (TestCa::new("demo.test"), TestCa::new("demo.test"));
    let leaf = old.leaf(ORDERS, |_| {});
    let api = Running::new(vec![vec![Ok(svids(&[&leaf], &old))]], vec![vec![Ok(bundles(&[&new]))]]);
    let handle = api.start(None);
    holds(&handle, &leaf).await;
    let certs = Arc::clone(&handle.certs().borrow());
    assert_eq!(certs.bundles.get(&domain("demo.test")).unwrap().certificates().len(), 1);
}

#[tokio::test]
async fn w7_a_stream_that_ends_is_opened_again() {
    let ca = TestCa::new("demo.test");
    let (first, second) = (ca.leaf(ORDERS, |_| {}), ca.leaf(ORDERS, |_| {}));
    let gone = || Err(Status::unavailable("restarting"));
    let api = Running::new(
        vec![
            vec![gone()],
            vec![Ok(svids(&[&first], &ca)), gone()],
            vec![Ok(svids(&[&second], &ca))],
        ],
        no_bundles(),
    );
    let handle = api.start(None);
    let certs = holds(&handle, &second).await;
    assert_eq!(certs.generation, 2);
    assert_eq!(api.calls_of(FETCH_X509_SVID), 3);
    let status = Arc::clone(&handle.status().borrow());
    assert_eq!(status.identities_total, 2);
}

#[tokio::test]
async fn w7_an_agent_that_comes_later_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::Unix(folder.path().join("nobody.sock"));
    let handle = source::spawn(
        CertSource::WorkloadApi { endpoint, jwt_keys: JwtKeys::Ignore },
        None,
        clock().0,
    );
    let status = until(&mut handle.status(), |status| status.last_failure.is_some()).await;
    let failure = status.last_failure.clone().unwrap();
    assert!(matches!(failure.next_try, NextTry::At(ms) if ms >= NOW * 1000), "{failure}");
    let text = status.to_string();
    assert!(text.contains("cannot connect: No such file"), "{text}");
    assert!(text.contains("is the agent running"), "{text}");
    assert!(text.contains("next try in"), "{text}");
}

#[tokio::test]
async fn w8_invalid_argument_and_unimplemented_are_not_tried_again() {
    for code in [Code::InvalidArgument, Code::Unimplemented] {
        let api = Running::new(vec![vec![Err(Status::new(code, "no"))]], no_bundles());
        let handle = api.start(None);
        let never = |status: &Arc<crate::Status>| {
            let failure = status.last_failure.as_ref();
            failure.is_some_and(|failure| {
                failure.call == "FetchX509SVID" && failure.next_try == NextTry::Never
            })
        };
        let mut status = handle.status();
        tokio::select! {
            _ = until(&mut status, never) => {}
            // The other stream's answer may have come last; then the count tells.
            _ = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
        }
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        assert_eq!(api.calls_of(FETCH_X509_SVID), 1, "{code:?}");
        assert_eq!(api.calls_of(FETCH_X509_BUNDLES), 1, "{code:?}");
    }
}

#[tokio::test]
async fn w8_unavailable_keeps_the_identity() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |_| {});
    let api = Running::new(
        vec![
            vec![Ok(svids(&[&leaf], &ca)), Err(Status::unavailable("going down"))],
            vec![Err(Status::unavailable("still down"))],
        ],
        no_bundles(),
    );
    let handle = api.start(None);
    holds(&handle, &leaf).await;
    let down = |status: &Arc<crate::Status>| {
        status.last_failure.as_ref().is_some_and(|failure| failure.answer.contains("still down"))
    };
    let status = until(&mut handle.status(), down).await;
    assert_eq!(status.state, State::Valid);
    holds(&handle, &leaf).await;
}

#[tokio::test]
async fn w8_permission_denied_withdraws_the_identity() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |_| {});
    let denied = || Err(Status::permission_denied("no identity issued"));
    let api = Running::new(
        vec![
            vec![Ok(svids(&[&leaf], &ca)), denied()],
            vec![denied()],
            vec![Ok(svids(&[&leaf], &ca))],
        ],
        no_bundles(),
    );
    let handle = api.start(None);
    let mut states = handle.status();
    let status = until(&mut states, |status| status.state == State::Withdrawn).await;
    assert!(!status.is_ready());
    assert!(handle.certs().borrow().generation >= 1);
    // Entitled again: the same leaf is published anew.
    holds(&handle, &leaf).await;
    until(&mut states, |status| status.state == State::Valid).await;
}

/// A clock that runs ahead ends the certificate; set right, the very same one counts again, although
/// the agent has no reason to say anything.
#[tokio::test]
async fn w7_after_the_end_of_the_certificate_the_stream_is_opened_again() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |_| {});
    let api = Running::new(vec![vec![Ok(svids(&[&leaf], &ca))]], no_bundles());
    let (clock, hands) = clock();
    let endpoint = Endpoint::Unix(api.socket());
    let source = CertSource::WorkloadApi { endpoint, jwt_keys: JwtKeys::Ignore };
    let handle = source::spawn(source, None, clock);
    holds(&handle, &leaf).await;
    let mut states = handle.status();
    hands.store(NOW + 7_200, std::sync::atomic::Ordering::Relaxed);
    until(&mut states, |status| status.state == State::Expired).await;
    assert!(handle.certs().borrow().identity.is_none());
    let told = |status: &Arc<crate::Status>| {
        status.last_failure.as_ref().is_some_and(|failure| failure.answer.contains("ended"))
    };
    until(&mut states, told).await;
    hands.store(NOW + 10, std::sync::atomic::Ordering::Relaxed);
    until(&mut states, |status| status.state == State::Valid).await;
    holds(&handle, &leaf).await;
}

#[tokio::test]
async fn w8_permission_denied_from_the_start_says_what_to_do() {
    let api = Running::new(vec![vec![Err(Status::permission_denied("no identity"))]], no_bundles());
    let handle = api.start(None);
    let told = |status: &Arc<crate::Status>| {
        status.last_failure.as_ref().is_some_and(|failure| failure.call == "FetchX509SVID")
    };
    let status = until(&mut handle.status(), told).await;
    assert_eq!(status.state, State::Empty);
    assert!(status.to_string().contains("is the workload registered"), "{status}");
}

#[tokio::test]
async fn w9_a_message_with_an_empty_field_changes_nothing() {
    let ca = TestCa::new("demo.test");
    let (first, second) = (ca.leaf(ORDERS, |_| {}), ca.leaf(ORDERS, |_| {}));
    let broken = |change: fn(&mut X509Svid)| {
        let mut message = svids(&[&second], &ca);
        change(&mut message.svids[0]);
        message
    };
    for (message, said) in [
        (X509SvidResponse::default(), "svids is empty"),
        (broken(|svid| svid.spiffe_id.clear()), "spiffe_id is empty"),
        (broken(|svid| svid.x509_svid.clear()), "x509_svid is empty"),
        (broken(|svid| svid.x509_svid_key.clear()), "x509_svid_key is empty"),
        (broken(|svid| svid.bundle.clear()), "bundle is empty"),
        (broken(|svid| svid.x509_svid.truncate(50)), "not a DER certificate"),
        (broken(|svid| svid.bundle.truncate(50)), "cannot be read"),
        (broken(|svid| svid.spiffe_id.push('x')), "spiffe_id is not the ID in the certificate"),
    ] {
        let api = Running::new(vec![vec![Ok(svids(&[&first], &ca)), Ok(message)]], no_bundles());
        let handle = api.start(None);
        let discarded = |status: &Arc<crate::Status>| {
            status.last_failure.as_ref().is_some_and(|failure| failure.answer.contains(said))
        };
        let status = until(&mut handle.status(), discarded).await;
        assert_eq!((status.state, status.generation), (State::Valid, 1), "{said}");
        holds(&handle, &first).await;
    }
}

#[tokio::test]
async fn w9_after_a_discarded_message_the_state_is_asked_for_again() {
    let ca = TestCa::new("demo.test");
    let (first, second) = (ca.leaf(ORDERS, |_| {}), ca.leaf(ORDERS, |_| {}));
    let early = ca.leaf(ORDERS, |params| life(params, NOW + 5, NOW + 3600));
    let api = Running::new(
        vec![
            vec![Ok(svids(&[&first], &ca)), Ok(svids(&[&early], &ca))],
            vec![Ok(svids(&[&second], &ca))],
        ],
        no_bundles(),
    );
    let handle = api.start(None);
    let certs = holds(&handle, &second).await;
    assert_eq!(certs.generation, 2);
}

#[tokio::test]
async fn w9_an_empty_bundle_message_changes_nothing() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |_| {});
    let api = Running::new(
        vec![vec![Ok(svids(&[&leaf], &ca))]],
        vec![vec![Ok(bundles(&[&ca])), Ok(X509BundlesResponse::default())]],
    );
    let handle = api.start(None);
    let certs = holds(&handle, &leaf).await;
    assert!(certs.bundles.get(&domain("demo.test")).is_some());
}

#[tokio::test]
async fn w11_the_first_is_the_default_and_the_configured_one_wins() {
    let ca = TestCa::new("demo.test");
    let payments = ca.leaf("spiffe://demo.test/ns/shop/sa/payments", |_| {});
    let orders = ca.leaf(ORDERS, |_| {});
    let both = || vec![vec![Ok(svids(&[&payments, &orders], &ca))]];
    holds(&Running::new(both(), no_bundles()).start(None), &payments).await;
    let api = Running::new(both(), no_bundles());
    holds(&api.start(Some(ORDERS)), &orders).await;
}

#[tokio::test]
async fn an_identity_that_vanished_from_the_message_is_no_longer_used() {
    let ca = TestCa::new("demo.test");
    let payments = ca.leaf("spiffe://demo.test/ns/shop/sa/payments", |_| {});
    let orders = ca.leaf(ORDERS, |_| {});
    let api = Running::new(
        vec![
            vec![Ok(svids(&[&orders, &payments], &ca)), Ok(svids(&[&payments], &ca))],
            vec![Ok(svids(&[&payments], &ca))],
        ],
        no_bundles(),
    );
    let handle = api.start(Some(ORDERS));
    let status = until(&mut handle.status(), |status| status.state == State::Withdrawn).await;
    assert!(handle.certs().borrow().identity.is_none());
    assert!(!status.is_ready());
}

/// The bundles of the other stream are as good as before, but there is nobody to use them; live
/// connections go by that.
#[tokio::test]
async fn w8_nobody_is_trusted_in_the_name_of_an_identity_that_was_taken_away() {
    let ca = TestCa::new("demo.test");
    let (first, second) = (ca.leaf(ORDERS, |_| {}), ca.leaf(ORDERS, |_| {}));
    let denied = || Err(Status::permission_denied("no identity issued"));
    let api = Running::new(
        vec![
            vec![Ok(svids(&[&first], &ca)), denied()],
            vec![denied()],
            vec![Ok(svids(&[&second], &ca))],
        ],
        vec![
            vec![Ok(bundles(&[&ca])), Err(Status::unavailable("again"))],
            vec![Ok(bundles(&[&ca]))],
        ],
    );
    let handle = api.start(None);
    until(&mut handle.status(), |status| status.state == State::Withdrawn).await;
    assert!(handle.certs().borrow().bundles.is_empty());
    let held = holds(&handle, &second).await;
    assert!(held.bundles.get(&domain("demo.test")).is_some());
}

/// W-15: lists of either stream count; those of the second are there again with the identity.
#[tokio::test]
async fn w15_revocation_lists_of_both_streams_count_and_come_back() {
    let ca = TestCa::new("demo.test");
    let [first, second, stolen] = [(); 3].map(|()| ca.leaf(ORDERS, |_| {}));
    let list = ca.crl(1, &[&stolen.certificate]).der().to_vec();
    let mut with_list = svids(&[&first], &ca);
    with_list.crl = vec![list.clone()];
    let api = Running::new(vec![vec![Ok(with_list)]], no_bundles());
    until(&mut api.start(None).certs(), |certs| certs.crls.serials() == 1).await;

    let denied = || Err(Status::permission_denied("no identity issued"));
    let mut with_list = bundles(&[&ca]);
    with_list.crl = vec![list];
    let api = Running::new(
        vec![
            vec![Ok(svids(&[&first], &ca)), denied()],
            vec![denied()],
            vec![Ok(svids(&[&second], &ca))],
        ],
        vec![vec![Ok(with_list)]],
    );
    let handle = api.start(None);
    until(&mut handle.status(), |status| status.state == State::Withdrawn).await;
    holds(&handle, &second).await;
    until(&mut handle.certs(), |certs| certs.crls.serials() == 1).await;
}

#[tokio::test]
async fn an_rsa_or_p384_key_is_refused_with_the_setting_that_helps() {
    let ca = TestCa::new("demo.test");
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let leaf = ca.leaf_for(key, ORDERS, |_| {});
    let api = Running::new(vec![vec![Ok(svids(&[&leaf], &ca))]], no_bundles());
    let handle = api.start(None);
    let told = |status: &Arc<crate::Status>| {
        status.last_failure.as_ref().is_some_and(|failure| failure.answer.contains("P-384"))
    };
    let status = until(&mut handle.status(), told).await;
    assert!(status.to_string().contains("workload_x509_svid_key_type"), "{status}");
}

#[test]
fn messages_have_the_field_numbers_of_the_specification() {
    use prost::Message as _;
    let message = X509SvidResponse {
        svids: vec![X509Svid {
            spiffe_id: "i".to_owned(),
            x509_svid: vec![1],
            x509_svid_key: vec![2],
            bundle: vec![3],
            hint: "h".to_owned(),
        }],
        crl: vec![vec![4]],
        federated_bundles: [("d".to_owned(), vec![5])].into(),
    };
    let svid = [0x0a, 1, b'i', 0x12, 1, 1, 0x1a, 1, 2, 0x22, 1, 3, 0x2a, 1, b'h'];
    let wanted =
        [&[0x0a, 15][..], &svid, &[0x12, 1, 4], &[0x1a, 6, 0x0a, 1, b'd', 0x12, 1, 5]].concat();
    assert_eq!(message.encode_to_vec(), wanted);
    let message =
        X509BundlesResponse { crl: vec![vec![4]], bundles: [("d".to_owned(), vec![5])].into() };
    let wanted = [0x0a, 1, 4, 0x12, 6, 0x0a, 1, b'd', 0x12, 1, 5];
    assert_eq!(message.encode_to_vec(), wanted);
}
