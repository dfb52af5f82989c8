//! HTTP of programs nobody here wrote: curl, nghttp, Node, Python's `websockets` and grpcio.

use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_integration::{App, Process, ports, process, programs, wait};
use serde_json::{Value, json};

use super::streams::error_info;
use super::{HOST, Pair, Setting};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/interception/http").join(name)
}

async fn run(mut command: Command) -> String {
    let done = tokio::task::spawn_blocking(move || process::run(&mut command)).await.unwrap();
    let (out, error) =
        (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{out}{error}");
    out.into_owned()
}

/// A server of `websockets` behind two sidecars, and its client in front: text, binary, large
/// messages, pings, and the closing handshake with its reason.
#[tokio::test]
async fn python_websockets_talk_through_both_sidecars() {
    let Some(python) = programs::python("python_websockets") else { return };
    let address = ports::free();
    let lab = countersign_integration::Lab::new();
    let mut serve = Command::new(&python);
    serve.arg(script("websocket_peer.py")).args(["serve", &address.port().to_string()]);
    let server = Process::start("websockets", serve, lab.folder());
    wait::until_true("the server", || server.stdout().contains("ready")).await;
    let pair = Pair::start(address).await;
    let mut call = Command::new(&python);
    let port = pair.web.outbound().port().to_string();
    call.arg(script("websocket_peer.py")).args(["call", &port, HOST]);
    let seen: Value = serde_json::from_str(&run(call).await).unwrap();
    assert_eq!(seen["text"], "hello wörld", "{seen}");
    assert_eq!(seen["binary"], 300_000, "{seen}");
    assert_eq!(seen["many"], 200, "{seen}");
    assert_eq!(seen["pong"], true, "{seen}");
    assert_eq!(seen["caller"], pair.lab.id("shop", "web"), "{seen}");
    assert_eq!(seen["close"], json!([4001, "done here"]), "{seen}");
    // Through the sidecar that has no such peer: an answer, no tunnel.
    assert_eq!(seen["unknown"], 404, "{seen}");
}

/// grpcio sees a refusal as its own library describes it, and our deadline as its own.
#[tokio::test]
async fn grpcio_reads_refusals_and_deadlines() {
    let Some(python) = programs::python("grpcio_reads_refusals") else { return };
    let address = ports::free();
    let lab = countersign_integration::Lab::new();
    let mut serve = Command::new(&python);
    serve.arg(script("grpc_deadlines.py")).args(["serve", &address.port().to_string()]);
    let server = Process::start("grpcio", serve, lab.folder());
    wait::until_true("the server", || server.stdout().contains("ready")).await;
    let rules = json!([{"name": "get", "effect": "allow", "context": "optional", "match": {
        "caller": {"anyInMesh": true},
        "grpc": {"service": "shop.Orders", "methods": ["Left", "Ticks"]}}}]);
    let port = json!({"protocol": "grpc"});
    let pair = Pair::with(address, Setting { rules, port, ..Setting::default() }).await;
    let mut call = Command::new(&python);
    let port = pair.web.outbound().port().to_string();
    call.arg(script("grpc_deadlines.py")).args(["call", &port, HOST]);
    let seen: Value = serde_json::from_str(&run(call).await).unwrap();
    assert_eq!(seen["code"], "PERMISSION_DENIED", "{seen}");
    let told = error_info(seen["details"].as_str().unwrap());
    assert_eq!(told, (7, "denied".to_owned(), "countersign.dev".to_owned()));
    let left = seen["left"].as_f64().unwrap();
    assert!(left > 0.0 && left < 31.0, "{seen}");
    assert_eq!(seen["ticks"], 5, "{seen}");
    assert_eq!(seen["late"], "DEADLINE_EXCEEDED", "{seen}");
}

#[tokio::test]
async fn curl_of_every_version() {
    let Some(curl) = programs::system("curl_of_every_version", "curl") else { return };
    let app = App::mirror();
    let pair = Pair::start(app.address).await;
    let big = pair.lab.folder().join("big");
    std::fs::write(&big, vec![b'x'; 3 << 20]).unwrap();
    let url = format!("http://{HOST}/echo");
    let proxy = format!("http://{}", pair.web.outbound());
    for version in ["--http1.0", "--http1.1", "--http2-prior-knowledge"] {
        let mut upload = Command::new(&curl);
        upload.args(["-sS", "--fail", version, "-H", "Expect: 100-continue", "-T"]).arg(&big);
        upload.args(["-o", "/dev/null", "-w", "%{http_version} %{http_code} %{size_download}"]);
        if version == "--http2-prior-knowledge" {
            upload.args(["--connect-to", &format!("{HOST}:80:{}", pair.web.outbound())]);
        } else {
            // As through any HTTP proxy: absolute form.
            upload.args(["--proxy", &proxy]);
        }
        let told = run({
            upload.arg(&url);
            upload
        })
        .await;
        let told: Vec<&str> = told.split(' ').collect();
        assert_eq!(told[1..], ["200", "3145728"], "{version} {told:?}");
        assert!(version.contains(told[0].trim_end_matches(".0")), "{version} {told:?}");
    }
    // Several requests on one connection, and ranges of a chunked upload from a pipe.
    let mut twice = Command::new(&curl);
    let target = format!("http://{HOST}/a");
    twice.args(["-sS", "--proxy", &proxy, "-w", "%{num_connects} ", "-o", "/dev/null", &target]);
    twice.args(["-o", "/dev/null", &target]);
    assert_eq!(run(twice).await, "1 0 ");
}

#[tokio::test]
async fn nghttp_multiplexes_through_both_sidecars() {
    let Some(nghttp) = programs::system("nghttp_multiplexes", "nghttp") else { return };
    let app = App::mirror();
    let pair = Pair::start(app.address).await;
    let mut command = Command::new(nghttp);
    command.args(["-n", "-s", "--no-dep", "-H", &format!(":authority: {HOST}"), "-m", "50"]);
    command.arg(format!("http://{}/a", pair.web.outbound()));
    let told = run(command).await;
    let served = told.lines().filter(|line| line.contains(" 200 ")).count();
    assert_eq!(served, 50, "{told}");
    assert_eq!(app.seen().len(), 50);
}

/// Node's parser and its streams behind the sidecars: chunks, trailers, server-sent events.
#[tokio::test]
async fn node_serves_events_and_chunks() {
    let Some(node) = programs::system("node_serves_events_and_chunks", "node") else { return };
    let Some(curl) = programs::system("node_serves_events_and_chunks", "curl") else { return };
    let address = ports::free();
    let lab = countersign_integration::Lab::new();
    let mut serve = Command::new(node);
    serve.arg(script("server.js")).arg(address.port().to_string());
    let server = Process::start("node", serve, lab.folder());
    wait::until_true("the server", || server.stdout().contains("ready")).await;
    for port in [json!({"protocol": "http"}), json!({"protocol": "http", "preserveHttp1": true})] {
        let pair = Pair::with(address, Setting { port, ..Setting::default() }).await;
        let to = format!("{HOST}:80:{}", pair.web.outbound());
        let mut events = Command::new(&curl);
        events.args(["-sS", "-N", "--connect-to", &to, &format!("http://{HOST}/events")]);
        let told = run(events).await;
        assert_eq!(told.matches("data: tick").count(), 5, "{told}");
        let mut chunks = Command::new(&curl);
        chunks.args(["-sS", "--connect-to", &to, "-H", "TE: trailers", "-H", "Connection: TE"]);
        chunks.args(["-D", "-", "--data-binary", "hello", &format!("http://{HOST}/chunks")]);
        let told = run(chunks).await;
        assert!(told.starts_with("HTTP/1.1 200 Fine Enough"), "{told}");
        assert!(told.contains("got hello from"), "{told}");
        assert!(told.contains("spiffe://lab.test/ns/shop/sa/web"), "{told}");
    }
}
