//! The Kubernetes source against an API server that does what no real one can be made to do.

use std::{
    convert::Infallible,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use countersign_config::{KubernetesApi, KubernetesCsr, KubernetesTrust};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::authority::{NOW, ORDERS, TestCa, clock, domain, id, pem, until};
use crate::{
    CertSource, KeyMaker, State, csr,
    source::{
        kubernetes::{Pace, Signer, keep},
        publish::Publisher,
        renewing::{Authority as _, IssueError, Issued, Wanted},
    },
};

/// Looked at often, and given up soon: only what is served takes time here.
const PACE: Pace = Pace { every: Duration::from_millis(5), at_most: Duration::from_millis(400) };

/// A call that came in.
struct Seen {
    method: Method,
    path: String,
    token: String,
    body: Value,
}

type Answer = (u16, String);
type Script = Arc<dyn Fn(&Seen) -> Answer + Send + Sync>;

/// An API server that answers as it is told.
struct Server {
    script: Arc<Mutex<Script>>,
    config: KubernetesCsr,
    folder: TempDir,
}

fn json_answer(status: u16, body: &Value) -> Answer {
    (status, body.to_string())
}

/// An object with this status; its name is `csr-1`.
fn object(status: Value) -> Value {
    json!({"metadata": {"name": "csr-1"}, "status": status})
}

/// A `Status`, as the API server says no.
fn says(status: u16, message: &str) -> Answer {
    json_answer(status, &json!({"kind": "Status", "message": message, "code": status}))
}

/// Takes every request, and answers every look at it like this.
fn looked_at(answer: impl Fn() -> Answer + Send + Sync + 'static) -> Script {
    Arc::new(move |seen| match seen.method {
        Method::POST => json_answer(201, &object(json!({}))),
        _ => answer(),
    })
}

impl Server {
    async fn start(ca: &TestCa) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::write(file("token"), "the-token\n").unwrap();
        fs::write(file("roots.pem"), pem(&ca.certificate)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = KubernetesCsr {
            api: KubernetesApi {
                server: format!("http://{}", listener.local_addr().unwrap()),
                ca: file("ca.crt"),
                token_file: file("token"),
            },
            signer_name: "countersign.dev/workload".to_owned(),
            expiration_s: 3600,
            trust: KubernetesTrust::File(file("roots.pem")),
        };
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(looked_at(|| says(500, ""))));
        tokio::spawn(serve(listener, Arc::clone(&script)));
        Server { script, config, folder }
    }

    fn answers(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One attempt.
    async fn issue(&self) -> Result<Issued, IssueError> {
        self.issue_with(&self.config).await
    }

    async fn issue_with(&self, config: &KubernetesCsr) -> Result<Issued, IssueError> {
        let csr = csr::request(&KeyMaker::Software.make().unwrap(), Some(&id(ORDERS))).unwrap();
        let wanted = Wanted {
            csr_pem: &csr.pem,
            csr_der: &csr.der,
            expected: None,
            life_s: config.expiration_s,
        };
        Signer::new(config.clone(), PACE).unwrap().issue(&wanted).await
    }

    /// What a failed attempt says, with what to do about it.
    async fn complaint(&self) -> String {
        let error = self.issue().await.unwrap_err();
        format!("{}: {}; {}", error.call, error.answer, error.hint.unwrap_or_default())
    }
}

async fn serve(listener: TcpListener, script: Arc<Mutex<Script>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let script = Arc::clone(&script);
        let service = service_fn(move |request| answer(request, Arc::clone(&script)));
        tokio::spawn(async move {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    script: Arc<Mutex<Script>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let token = head.headers["authorization"].to_str().unwrap().to_owned();
    let seen = Seen {
        method: head.method,
        path: head.uri.to_string(),
        token,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let script = Arc::clone(&*script.lock().unwrap());
    let (status, text) = script(&seen);
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    if status == 429 {
        response.headers_mut().insert("retry-after", 7.into());
    }
    Ok(response)
}

/// Signs what was asked for last.
fn signing(ca: Arc<TestCa>, change: impl Fn(String) -> String + Send + Sync + 'static) -> Script {
    let asked = Mutex::new(String::new());
    Arc::new(move |seen| {
        if seen.method == Method::POST {
            let request = seen.body["spec"]["request"].as_str().unwrap();
            let request = String::from_utf8(STANDARD.decode(request).unwrap()).unwrap();
            *asked.lock().unwrap() = request;
            return json_answer(201, &object(json!({})));
        }
        let leaf = ca.sign(&asked.lock().unwrap(), ORDERS, |_| {});
        let certificate = STANDARD.encode(change(pem(&leaf)));
        json_answer(200, &object(json!({"certificate": certificate})))
    })
}

#[tokio::test]
async fn asks_as_kubernetes_wants_it_and_reads_the_token_each_time() {
    let ca = Arc::new(TestCa::new("demo.test"));
    let server = Server::start(&ca).await;
    let seen: Arc<Mutex<Vec<(String, String, Value)>>> = Arc::default();
    let (calls, sign) = (Arc::clone(&seen), signing(Arc::clone(&ca), |pem| pem));
    server.answers(Arc::new(move |call| {
        let line = format!("{} {}", call.method, call.path);
        calls.lock().unwrap().push((line, call.token.clone(), call.body.clone()));
        sign(call)
    }));
    let issued = server.issue().await.unwrap();
    assert_eq!(issued.bundles.domains().collect::<Vec<_>>(), [&domain("demo.test")]);
    fs::write(server.file("token"), "another").unwrap();
    server.issue().await.unwrap();
    let seen = seen.lock().unwrap();
    let all = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let lines: Vec<_> = seen.iter().map(|(line, token, _)| (line.clone(), token.clone())).collect();
    let expected = |token: &str| {
        [(format!("POST {all}"), token.to_owned()), (format!("GET {all}/csr-1"), token.to_owned())]
    };
    assert_eq!(lines, [expected("Bearer the-token"), expected("Bearer another")].concat());
    let spec = &seen[0].2["spec"];
    assert_eq!(spec["signerName"], "countersign.dev/workload");
    assert_eq!(spec["expirationSeconds"], 3600);
    assert_eq!(spec["usages"], json!(["digital signature", "client auth", "server auth"]));
}

#[tokio::test]
async fn refusals_of_the_api_server_say_what_to_do() {
    let server = Server::start(&TestCa::new("demo.test")).await;
    for (status, message, hint) in [
        (401, "Unauthorized", "without `audience`"),
        (403, "cannot create resource", "bind the ClusterRole"),
        (404, "the server could not find", "is `server` a Kubernetes API server?"),
        (409, "already exists", ""),
        (422, "spec.expirationSeconds: Invalid", "compare `signerName`"),
        (429, "too many requests", "busy"),
        (500, "etcdserver: no leader", ""),
        (503, "apiserver is shutting down", ""),
    ] {
        server.answers(Arc::new(move |_| says(status, message)));
        let text = server.complaint().await;
        assert!(text.starts_with("create CertificateSigningRequest"), "{text}");
        assert!(text.contains(&status.to_string()), "{text}");
        assert!(text.contains(message) && text.contains(hint), "{status}: {text}");
    }
    server.answers(Arc::new(|_| says(429, "slow down")));
    let error = server.issue().await.unwrap_err();
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn decisions_against_us_are_told_in_their_own_words() {
    let server = Server::start(&TestCa::new("demo.test")).await;
    let condition = |kind: &str| {
        let told = json!({"type": kind, "reason": "PodRevoked", "message": "the pod\nis revoked"});
        json!({"conditions": [{"type": "Approved"}, told]})
    };
    for (kind, word) in [("Denied", "was denied"), ("Failed", "failed")] {
        let status = condition(kind);
        server.answers(looked_at(move || json_answer(200, &object(status.clone()))));
        let text = server.complaint().await;
        assert!(text.contains(&format!("csr-1 {word}: PodRevoked: the pod is revoked")), "{text}");
        assert!(text.contains("kubectl describe csr csr-1"), "{text}");
    }
    for (status, word) in [
        (json!({}), "nobody approved or denied it"),
        (json!({"conditions": [{"type": "Approved"}]}), "it is approved, and nobody signed it"),
    ] {
        server.answers(looked_at(move || json_answer(200, &object(status.clone()))));
        let text = server.complaint().await;
        assert!(text.contains(word) && text.contains("countersign signer"), "{text}");
    }
    server.answers(looked_at(|| says(404, "not found")));
    assert!(server.complaint().await.contains("csr-1 is gone, and nobody decided"));
    server.answers(looked_at(|| says(403, "cannot get resource")));
    assert!(server.complaint().await.contains("bind the ClusterRole"));
}

#[tokio::test]
async fn a_look_that_fails_is_repeated() {
    let ca = Arc::new(TestCa::new("demo.test"));
    let server = Server::start(&ca).await;
    let (looks, sign) = (AtomicUsize::new(0), signing(ca, |pem| pem));
    server.answers(Arc::new(move |seen| {
        if seen.method == Method::POST {
            return sign(seen);
        }
        match looks.fetch_add(1, Ordering::Relaxed) {
            0 => says(503, "not now"),
            1 => (200, "<html>a proxy</html>".to_owned()),
            2 => says(429, "slow down"),
            3 => json_answer(200, &object(json!({}))),
            _ => sign(seen),
        }
    }));
    server.issue().await.unwrap();
    // One that never works is told at the end.
    server.answers(looked_at(|| (200, "<html>a proxy</html>".to_owned())));
    assert!(server.complaint().await.contains("<html>a proxy</html>"));
}

#[tokio::test]
async fn nonsense_is_a_failed_attempt() {
    let ca = Arc::new(TestCa::new("demo.test"));
    let server = Server::start(&ca).await;
    for answer in ["", "{}", "[]", "null", r#"{"metadata": {}}"#, r#"{"metadata": {"name": 7}}"#] {
        server.answers(Arc::new(move |_| (201, answer.to_owned())));
        let text = server.complaint().await;
        assert!(text.contains("the answer is not what was expected"), "{answer}: {text}");
    }
    for name in ["", "../../../api/v1/secrets/x", "a?b", "A", "a b", "-a"] {
        server.answers(Arc::new(move |_| json_answer(201, &json!({"metadata": {"name": name}}))));
        let text = server.complaint().await;
        assert!(text.contains("which is no name"), "{name}: {text}");
    }
    let huge = "x".repeat(300 * 1024);
    server.answers(Arc::new(move |_| (201, huge.clone())));
    assert!(server.complaint().await.contains("larger than"));

    for (certificate, word) in [
        ("%%%".to_owned(), "no base64"),
        (STANDARD.encode("garbage"), "it holds none"),
        (STANDARD.encode("-----BEGIN CERTIFICATE-----\n%\n"), "status.certificate"),
        (
            STANDARD.encode("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "read status.certificate",
        ),
    ] {
        server.answers(looked_at(move || {
            json_answer(200, &object(json!({"certificate": certificate})))
        }));
        let text = server.complaint().await;
        assert!(text.contains(word), "{text}");
    }
}

#[tokio::test]
async fn token_and_trust_that_cannot_be_read_name_their_file() {
    let ca = Arc::new(TestCa::new("demo.test"));
    let server = Server::start(&ca).await;
    server.answers(signing(Arc::clone(&ca), |pem| pem));
    fs::write(server.file("token"), "\n").unwrap();
    let text = server.complaint().await;
    assert!(text.contains("token: it is empty"), "{text}");
    fs::remove_file(server.file("token")).unwrap();
    let text = server.complaint().await;
    assert!(text.contains("read the token") && text.contains("serviceAccountToken"), "{text}");
    fs::write(server.file("token"), "the-token").unwrap();
    fs::write(server.file("roots.pem"), "nothing").unwrap();
    assert!(server.complaint().await.contains("roots.pem: the trust bundle is empty"));
    let many = pem(&ca.certificate).repeat(1_000);
    fs::write(server.file("roots.pem"), many).unwrap();
    assert!(server.complaint().await.contains("roots.pem: larger than 262144 bytes"));

    let config = KubernetesCsr {
        trust: KubernetesTrust::ClusterTrustBundle("countersign.dev:workload:trust".to_owned()),
        ..server.config.clone()
    };
    let told = async || {
        let error = server.issue_with(&config).await.unwrap_err();
        format!("{}: {}; {}", error.call, error.answer, error.hint.unwrap_or_default())
    };
    server.answers(Arc::new(|_| says(404, "not found")));
    assert!(told().await.contains("there is no countersign.dev:workload:trust"));
    server.answers(Arc::new(|_| json_answer(200, &json!({"spec": {"trustBundle": "nothing"}}))));
    assert!(told().await.contains("the trust bundle is empty"));
    server.answers(Arc::new(|_| says(403, "cannot get")));
    assert!(told().await.contains("bind the ClusterRole"));
    // What one version does not serve, the other may.
    let (sign, roots) = (signing(Arc::clone(&ca), |pem| pem), pem(&ca.certificate));
    server.answers(Arc::new(move |seen| match seen.path.as_str() {
        path if path.contains("/v1/clustertrustbundles/") => says(404, "not found"),
        path if path.contains("/v1beta1/clustertrustbundles/") => {
            json_answer(200, &json!({"spec": {"trustBundle": roots}}))
        }
        _ => sign(seen),
    }));
    assert_eq!(server.issue_with(&config).await.unwrap().bundles, ca.bundles());
}

/// Certificates for somebody else, of nobody we trust, on another key, that have ended: each is a
/// failure, and what we hold stays.
#[tokio::test]
async fn a_wrong_certificate_never_replaces_a_good_one() {
    let ca = Arc::new(TestCa::new("demo.test"));
    let server = Server::start(&ca).await;
    server.answers(signing(Arc::clone(&ca), |pem| pem));
    let (clock, hands) = clock();
    let source = CertSource::KubernetesCsr(server.config.clone());
    let (publisher, mut certs, mut status) = Publisher::new(&source, Some(id(ORDERS)), clock);
    let config = server.config.clone();
    tokio::spawn(async move {
        let keys = KeyMaker::Software;
        tokio::join!(publisher.watch_the_clock(), keep(&publisher, config, &keys, PACE));
    });
    let good = until(&mut certs, |certs| certs.identity.is_some()).await;

    let stranger = TestCa::new("demo.test");
    let other_key = ca.leaf(ORDERS, |_| {}).certificate;
    let wrong: Vec<(Script, &str)> = vec![
        (signing(Arc::new(stranger), |pem| pem), "no authority of its trust domain"),
        (signing(Arc::clone(&ca), move |_| pem(&other_key)), "does not belong"),
        (
            {
                let ca = Arc::clone(&ca);
                let other = ca.leaf("spiffe://demo.test/ns/shop/sa/billing", |_| {});
                looked_at(move || {
                    let text = STANDARD.encode(pem(&other.certificate));
                    json_answer(200, &object(json!({"certificate": text})))
                })
            },
            "does not belong",
        ),
        (looked_at(|| says(500, "down")), "down"),
    ];
    // Two thirds of the life are over: the first attempt is due, the others after their wait.
    hands.store(NOW + 2400, Ordering::Relaxed);
    for (script, word) in wrong {
        server.answers(script);
        hands.fetch_add(60, Ordering::Relaxed);
        until(&mut status, |status| {
            let failure = status.last_failure.as_ref();
            failure.is_some_and(|failure| failure.answer.contains(word))
        })
        .await;
        let held = certs.borrow().clone();
        assert_eq!(
            held.identity.as_ref().unwrap().leaf_sha256,
            good.identity.as_ref().unwrap().leaf_sha256
        );
    }
    assert!(status.borrow().state.is_usable());
    server.answers(signing(Arc::clone(&ca), |pem| pem));
    hands.fetch_add(60, Ordering::Relaxed);
    let first = good.identity.as_ref().unwrap().leaf_sha256;
    until(&mut certs, |certs| {
        certs.identity.as_ref().is_some_and(|identity| identity.leaf_sha256 != first)
    })
    .await;
    until(&mut status, |status| status.state == State::Valid).await;
}

/// Roots change between renewals; one that does not vouch for what we hold changes nothing.
#[tokio::test]
async fn trust_is_followed_while_a_certificate_lives() {
    let ca = Arc::new(TestCa::new("demo.test"));
    let server = Server::start(&ca).await;
    server.answers(signing(Arc::clone(&ca), |pem| pem));
    let (clock, _hands) = clock();
    let source = CertSource::KubernetesCsr(server.config.clone());
    let (publisher, mut certs, mut status) = Publisher::new(&source, None, clock);
    let config = server.config.clone();
    tokio::spawn(async move { keep(&publisher, config, &KeyMaker::Software, PACE).await });
    until(&mut certs, |certs| certs.identity.is_some()).await;

    let next = TestCa::new("demo.test");
    fs::write(server.file("roots.pem"), pem(&next.certificate)).unwrap();
    until(&mut status, |status| {
        let failure = status.last_failure.as_ref();
        failure.is_some_and(|failure| failure.answer.contains("do not vouch"))
    })
    .await;
    assert_eq!(*certs.borrow().bundles, ca.bundles());
    let both = pem(&ca.certificate) + &pem(&next.certificate);
    fs::write(server.file("roots.pem"), both).unwrap();
    let of_both = |bundles: &crate::TrustBundles| {
        bundles.get(&domain("demo.test")).is_some_and(|bundle| bundle.certificates().len() == 2)
    };
    until(&mut certs, |certs| of_both(&certs.bundles)).await;
}
