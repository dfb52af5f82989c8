//! The signer against an API server that does what a real one cannot be made to do: what cannot
//! be found out is not decided, and nothing is lost.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::super::Signer;
use super::{Files, UID, sound_object};

type Answer = (u16, String);
type Script = Box<dyn FnMut(&str, &Value) -> Option<Answer> + Send>;

/// A signer and the API server it asks; the script says what is out of the ordinary.
struct World {
    /// `METHOD path`, in order.
    calls: Arc<Mutex<Vec<String>>>,
    signer: JoinHandle<()>,
    files: Files,
}

struct State {
    calls: Arc<Mutex<Vec<String>>>,
    script: Mutex<Script>,
}

impl World {
    async fn start(script: impl FnMut(&str, &Value) -> Option<Answer> + Send + 'static) -> World {
        World::with(Files::new(), script).await
    }

    async fn with(
        files: Files,
        script: impl FnMut(&str, &Value) -> Option<Answer> + Send + 'static,
    ) -> World {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let calls: Arc<Mutex<Vec<String>>> = Arc::default();
        let state = State { calls: Arc::clone(&calls), script: Mutex::new(Box::new(script)) };
        tokio::spawn(serve(listener, Arc::new(state)));
        let signer = Signer::new(files.config(&server), None, Arc::new(|| 1_795_000_000_000));
        let signer = tokio::spawn(signer.unwrap().run());
        World { calls, signer, files }
    }

    /// Waits for this many calls that begin with `what`.
    async fn until(&self, what: &str, count: usize) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.count(what) < count {
            assert!(Instant::now() < end, "waited for {what}: {:#?}", self.calls.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn count(&self, what: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|call| call.starts_with(what)).count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.signer.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(&state);
        let service = service_fn(move |request| answer(request, Arc::clone(&state)));
        tokio::spawn(async move {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = head.uri.to_string().replace("/apis/certificates.k8s.io/v1/", "");
    let call = format!("{} {path}", head.method);
    state.calls.lock().unwrap().push(call.clone());
    let scripted = (state.script.lock().unwrap())(&call, &body);
    if call.contains("watch=1") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (status, text) = scripted.unwrap_or_else(|| ordinary(&call, &body));
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    Ok(response)
}

/// One request waits, its pod is there, everything may be written.
fn ordinary(call: &str, body: &Value) -> Answer {
    let answer = match call {
        call if call.contains("watch=1") => return (200, String::new()),
        call if call.starts_with("GET certificatesigningrequests?") => list(&[sound_object()], ""),
        call if call.starts_with("GET certificatesigningrequests/") => sound_object(),
        call if call.starts_with("GET /api/v1/namespaces/shop/pods/orders-1") => pod(),
        call if call.starts_with("GET /api/v1/nodes/") => json!({"metadata": {"labels": {}}}),
        call if call.starts_with("PUT ") => body.clone(),
        _ => return (404, "{}".to_owned()),
    };
    (200, answer.to_string())
}

fn pod() -> Value {
    json!({
        "metadata": {"uid": UID},
        "spec": {"serviceAccountName": "orders", "nodeName": "node-1"},
        "status": {"phase": "Running"},
    })
}

fn list(items: &[Value], next: &str) -> Value {
    json!({"metadata": {"resourceVersion": "7", "continue": next}, "items": items})
}

fn named(name: &str) -> Value {
    let mut object = sound_object();
    object["metadata"]["name"] = json!(name);
    object["metadata"]["resourceVersion"] = json!("8");
    object["spec"]["extra"]["authentication.kubernetes.io/pod-uid"] = json!([UID]);
    object
}

const APPROVE: &str = "PUT certificatesigningrequests/csr-1/approval";
const ISSUE: &str = "PUT certificatesigningrequests/csr-1/status";
const POD: &str = "GET /api/v1/namespaces/shop/pods/orders-1";
const LIST: &str = "GET certificatesigningrequests?fieldSelector=spec.signerName%3Dcountersign.dev%2Fworkload&limit";

#[tokio::test]
async fn what_cannot_be_found_out_is_not_decided() {
    let mut looks = 0;
    let world = World::start(move |call, _| {
        if !call.starts_with(POD) {
            return None;
        }
        looks += 1;
        match looks {
            1 => Some((500, "down".to_owned())),
            2 => Some((403, "{\"message\": \"pods is forbidden\"}".to_owned())),
            3 => Some((200, "<html>".to_owned())),
            4 => Some((200, "{}".to_owned())),
            _ => None,
        }
    })
    .await;
    world.until(ISSUE, 1).await;
    let calls = world.calls.lock().unwrap().clone();
    let asked = calls.iter().position(|call| call == APPROVE).unwrap();
    let looked = calls[..asked].iter().filter(|call| call.starts_with(POD)).count();
    assert_eq!(looked, 5, "{calls:#?}");
    assert!(!calls[..asked].iter().any(|call| call.starts_with("PUT")), "{calls:#?}");
}

#[tokio::test]
async fn a_node_that_cannot_be_read_delays_and_one_that_is_gone_does_not() {
    let mut looks = 0;
    let world = World::start(move |call, _| {
        if !call.starts_with("GET /api/v1/nodes/node-1") {
            return None;
        }
        looks += 1;
        Some(if looks < 3 { (503, "{}".to_owned()) } else { (404, "{}".to_owned()) })
    })
    .await;
    world.until(ISSUE, 1).await;
    assert_eq!(world.count("GET /api/v1/nodes/node-1"), 3);
    assert_eq!(world.count(APPROVE), 1);
}

#[tokio::test]
async fn lists_come_in_pages_and_anew_when_the_server_forgot() {
    let mut lists = 0;
    let world = World::start(move |call, _| {
        if call.contains("watch=1") {
            return Some((410, "{}".to_owned()));
        }
        if !call.starts_with(LIST) {
            return None;
        }
        lists += 1;
        let answer = match (lists, call.contains("continue=next")) {
            (1, _) => list(&[], "next"),
            (2, true) => list(&[], ""),
            (2, false) => panic!("the second page was not asked for: {call}"),
            _ => list(&[named("csr-1")], ""),
        };
        Some((200, answer.to_string()))
    })
    .await;
    world.until(ISSUE, 1).await;
    assert!(world.count(LIST) >= 3);
}

#[tokio::test]
async fn a_window_that_breaks_off_loses_nothing() {
    let event = |name: &str| {
        let object = named(name);
        json!({"type": "ADDED", "object": object}).to_string()
    };
    let bookmark = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#;
    let error = r#"{"type":"ERROR","object":{"code":410}}"#;
    let mut windows = 0;
    let world = World::start(move |call, _| {
        if call.starts_with(LIST) {
            return Some((200, list(&[], "").to_string()));
        }
        if !call.contains("watch=1") {
            return None;
        }
        windows += 1;
        let text = match windows {
            1 => format!("{bookmark}\n{}", &event("csr-1")[..200]),
            // It goes on after the last whole line.
            2 if call.ends_with("resourceVersion=9") => format!("{}\n", event("csr-1")),
            2 => panic!("{call}"),
            3 => format!("{error}\n"),
            _ => String::new(),
        };
        Some((200, text))
    })
    .await;
    world.until(ISSUE, 1).await;
    world.until(LIST, 2).await;
}

#[tokio::test]
async fn who_is_faster_decides() {
    let world = World::start(move |call, _| match call {
        APPROVE => Some((409, "{}".to_owned())),
        "GET certificatesigningrequests/csr-1" => {
            let mut object = sound_object();
            object["status"] = json!({"certificate": "QQ=="});
            Some((200, object.to_string()))
        }
        _ => None,
    })
    .await;
    world.until("GET certificatesigningrequests/csr-1", 1).await;
    world.until("GET certificatesigningrequests?", 4).await;
    assert_eq!((world.count(APPROVE), world.count(ISSUE)), (1, 0));
}

#[tokio::test]
async fn what_is_approved_is_signed_once_it_can_be() {
    let mut writes = 0;
    let world = World::start(move |call, _| match call {
        ISSUE => {
            writes += 1;
            (writes == 1).then(|| (500, "down".to_owned()))
        }
        APPROVE if writes > 0 => Some((409, "{}".to_owned())),
        "GET certificatesigningrequests/csr-1" => {
            let mut object = sound_object();
            object["status"]["conditions"] = json!([{"type": "Approved", "status": "True"}]);
            Some((200, object.to_string()))
        }
        _ => None,
    })
    .await;
    world.until(ISSUE, 2).await;
    assert_eq!(world.count(APPROVE), 2, "the second time it was approved already");
}

#[tokio::test]
async fn a_cluster_without_trust_bundles_is_served_all_the_same() {
    let world = World::start(|_, _| None).await;
    world.until(ISSUE, 1).await;
    assert!(world.count("POST clustertrustbundles") >= 1);
    assert!(world.count("POST /apis/certificates.k8s.io/v1beta1/clustertrustbundles") >= 1);
}

/// Anybody who may ask may ask with a megabyte, many times.
#[tokio::test]
async fn attack_fills_the_lists_of_the_signer() {
    let limit = |call: &str| -> usize {
        let after = call.split("&limit=").nth(1).unwrap();
        after.split('&').next().unwrap().parse().unwrap()
    };
    let too_large = || Some((200, "x".repeat(16 * 1024 * 1024 + 1)));
    let mut windows = 0;
    let world = World::start(move |call, _| {
        if call.contains("watch=1") {
            windows += 1;
            return if windows == 1 { too_large() } else { None };
        }
        if !call.starts_with(LIST) {
            return None;
        }
        if limit(call) > 50 {
            return too_large();
        }
        // The first time nobody had asked yet.
        let items = if windows == 0 { vec![] } else { vec![sound_object()] };
        Some((200, list(&items, "").to_string()))
    })
    .await;
    world.until(ISSUE, 1).await;
    let calls = world.calls.lock().unwrap().clone();
    let limits: Vec<usize> =
        calls.iter().filter(|call| call.starts_with(LIST)).map(|call| limit(call)).collect();
    assert_eq!(limits, [200, 100, 50, 200, 100, 50], "{calls:#?}");
}

#[test]
fn what_is_too_large_is_not_kept() {
    let mut object = sound_object();
    object["spec"]["request"] = json!(STANDARD.encode("x".repeat(1024 * 1024)));
    object["metadata"]["managedFields"] = json!([{"manager": "x".repeat(1024)}]);
    object["metadata"]["annotations"] = json!({"kept": "yes"});
    let request = super::request(object);
    assert!(request.pem.capacity() < 64 * 1024);
    assert!(request.object.to_string().len() < 4 * 1024, "{}", request.object);
    assert_eq!(request.object["metadata"]["annotations"], json!({"kept": "yes"}));
    let denial = super::super::decide::sound(&request, &super::rules()).unwrap_err();
    assert_eq!(
        denial.to_string(),
        "the certificate request is not granted: it cannot be read: it is too large"
    );
}

/// An authority that has ended: the request waits for the next one.
#[tokio::test]
async fn what_cannot_be_signed_waits_for_the_authority() {
    let files = Files::new();
    files.write_authority_until(2026);
    let world = World::with(files, |_, _| None).await;
    world.until(POD, 2).await;
    assert_eq!(world.count("PUT"), 0, "nothing is approved that cannot be signed");
    world.files.write_authority();
    world.until(ISSUE, 1).await;
    assert_eq!(world.count(LIST), 1, "it was not forgotten in between");
}

/// A hundred requests that are denied are denied, and do not hold up the one that is granted.
#[tokio::test]
async fn who_gets_something_comes_first() {
    let other = |number: u32| {
        let mut object = named(&format!("a-{number:03}"));
        object["spec"]["usages"] = json!(["client auth"]);
        object
    };
    let world = World::start(move |call, _| {
        let mut all: Vec<Value> = (0..100).map(other).collect();
        all.push(sound_object());
        call.starts_with(LIST).then(|| (200, list(&all, "").to_string()))
    })
    .await;
    world.until("PUT certificatesigningrequests/a-", 100).await;
    let calls = world.calls.lock().unwrap().clone();
    let issued = calls.iter().position(|call| call == ISSUE).unwrap();
    let before = calls[..issued].iter().filter(|call| call.contains("/a-")).count();
    assert!(before < 64, "{before} came first");
}
