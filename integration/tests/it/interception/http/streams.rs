//! Answers that last: server-sent events, gRPC streams and their deadlines, large bodies.

use std::time::Duration;

use base64::Engine as _;
use countersign_integration::client::{self, Call, Conn};
use countersign_integration::outcome::refused_grpc;
use countersign_integration::{App, wait};
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt as _;
use prost::Message as _;
use serde_json::json;

use super::{HOST, Pair, Setting};

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

/// What `grpc-status-details-bin` says: code, reason, domain.
pub(super) fn error_info(base64: &str) -> (i32, String, String) {
    let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
    let bytes = engine.decode(base64.trim_end_matches('=')).expect("base64");
    let status = Status::decode(&*bytes).expect("a status");
    let [detail] = &status.details[..] else { panic!("{status:?}") };
    assert_eq!(detail.type_url, "type.googleapis.com/google.rpc.ErrorInfo");
    let info = ErrorInfo::decode(&*detail.value).expect("an ErrorInfo");
    assert_eq!(status.message, info.reason);
    (status.code, info.reason, info.domain)
}

/// Each event arrives before the next one is sent, in either protocol, for as long as it lasts.
#[tokio::test]
async fn server_sent_events_arrive_one_by_one() {
    let (next, events) = tokio::sync::mpsc::channel::<String>(1);
    let events = std::sync::Arc::new(tokio::sync::Mutex::new(events));
    let app = App::serving(move |_| {
        let events = std::sync::Arc::clone(&events);
        Box::pin(async move {
            let (sender, body) = client::stream();
            tokio::spawn(async move {
                let mut events = events.lock().await;
                while let Some(event) = events.recv().await {
                    if event.is_empty() || sender.send(Ok(Frame::data(event.into()))).await.is_err()
                    {
                        return;
                    }
                }
            });
            Ok(Response::builder().header("content-type", "text/event-stream").body(body)?)
        })
    });
    // A response may take longer than any request may wait for its head.
    let setting = Setting { limits: &[("REQUEST_MS_MAX", 1_500)], ..Setting::default() };
    let pair = Pair::with(app.address, setting).await;
    for mut conn in
        [Conn::h1(pair.web.outbound()).await.unwrap(), Conn::h2(pair.web.outbound()).await.unwrap()]
    {
        let call = Call::get(HOST, "/events").header("accept", "text/event-stream");
        let mut response = conn.start(call).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        for number in 0..6 {
            let event = format!("id: {number}\ndata: {{\"n\": {number}}}\n\n");
            next.send(event.clone()).await.unwrap();
            let frame = wait::ends("an event", response.body_mut().frame()).await.unwrap();
            assert_eq!(frame.unwrap().into_data().unwrap(), event);
            tokio::time::sleep(Duration::from_millis(350)).await;
        }
        next.send(String::new()).await.unwrap();
        let rest = wait::ends("the end", response.into_body().collect()).await.unwrap();
        assert_eq!(rest.to_bytes(), "");
    }
}

/// 64 MiB each way at once: nothing is lost, and nothing is collected on the way.
#[tokio::test]
async fn large_bodies_flow_with_back_pressure() {
    const PIECE: usize = 1 << 16;
    const PIECES: usize = 1 << 10;
    let app = App::mirror();
    let pair = Pair::start(app.address).await;
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/statm", pair.orders.process.id()));
        let pages: usize = status.unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    };
    for h2 in [false, true] {
        let mut conn = match h2 {
            false => Conn::h1(pair.web.outbound()).await.unwrap(),
            true => Conn::h2(pair.web.outbound()).await.unwrap(),
        };
        let before = resident();
        let (sender, body) = client::stream();
        let mut response = conn.start(Call::post(HOST, "/echo", "").body(body)).await.unwrap();
        let sending = tokio::spawn(async move {
            for _ in 0..PIECES {
                sender.send(Ok(Frame::data(vec![7; PIECE].into()))).await.unwrap();
            }
        });
        // The reader dawdles at first: the sender must wait, not the sidecars.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let grown = resident().saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes were collected");
        assert!(!sending.is_finished());
        let mut got = 0;
        while let Some(frame) = wait::ends("the echo", response.body_mut().frame()).await {
            got += frame.unwrap().into_data().map_or(0, |data| data.len());
        }
        assert_eq!(got, PIECE * PIECES);
        sending.await.unwrap();
    }
}

/// A refusal, too, has no body where a HEAD was sent.
#[tokio::test]
async fn head_is_answered_without_body() {
    let app = App::mirror();
    let pair = Pair::start(app.address).await;
    for mut conn in
        [Conn::h1(pair.web.outbound()).await.unwrap(), Conn::h2(pair.web.outbound()).await.unwrap()]
    {
        for (host, status) in [(HOST, 200), ("nowhere.shop", 404), (HOST, 200)] {
            let call = Call::get(host, "/").method(http::Method::HEAD);
            let reply = conn.send(call).await.unwrap();
            assert_eq!((reply.status, reply.body.len()), (status, 0));
        }
    }
}

fn grpc(method: &str) -> Call {
    Call::post(HOST, &format!("/shop.Orders/{method}"), "").grpc()
}

/// Answers `Get` with what it was told, begins and never ends `Stream`, never answers `Hang`.
fn slow_grpc() -> App {
    App::serving(|request| {
        Box::pin(async move {
            let timeout = request.headers().get("grpc-timeout").cloned();
            let response = Response::builder().header("content-type", "application/grpc");
            match request.uri().path() {
                "/shop.Orders/Get" => {
                    let told = timeout.unwrap_or_else(|| http::HeaderValue::from_static("none"));
                    let response = response.header("grpc-status", "0").header("x-timeout", told);
                    Ok(response.body(client::full(""))?)
                }
                "/shop.Orders/Stream" => {
                    let (sender, body) = client::stream();
                    tokio::spawn(async move {
                        let message = [0, 0, 0, 0, 2, b'h', b'i'];
                        let _ = sender.send(Ok(Frame::data(message.to_vec().into()))).await;
                        sender.closed().await;
                    });
                    Ok(response.body(body)?)
                }
                _ => std::future::pending().await,
            }
        })
    })
}

fn micros(timeout: &str) -> u64 {
    let (value, unit) = timeout.split_at(timeout.len() - 1);
    let value: u64 = value.parse().expect("digits");
    match unit {
        "n" => value / 1_000,
        "u" => value,
        "m" => value * 1_000,
        "S" => value * 1_000_000,
        other => panic!("{other}"),
    }
}

/// The deadline of a call shortens what we wait, is handed on reduced, and ends streams too.
#[tokio::test]
async fn grpc_deadlines_shorten_and_travel() {
    let app = slow_grpc();
    let port = json!({"protocol": "grpc"});
    let pair = Pair::with(app.address, Setting { port, ..Setting::default() }).await;
    let mut conn = Conn::h2(pair.web.outbound()).await.unwrap();

    let reply = conn.send(grpc("Get").header("grpc-timeout", "20S")).await.unwrap();
    let told = reply.header("x-timeout").unwrap().to_owned();
    assert!((1..20_000_000).contains(&micros(&told)), "{told}");
    let reply = conn.send(grpc("Get")).await.unwrap();
    assert_eq!(reply.header("x-timeout"), Some("none"));

    // Whoever notices first says it: the app's sidecar or the caller's.
    let reply = conn.send(grpc("Hang").header("grpc-timeout", "300m")).await.unwrap();
    assert_eq!((reply.status, reply.header("grpc-status")), (200, Some("4")), "{reply:?}");
    let (code, reason, _) = error_info(reply.header("grpc-status-details-bin").unwrap());
    assert_eq!((code, reason.as_str()), (4, "timeout"));

    let reply = conn.send(grpc("Stream").header("grpc-timeout", "2S")).await.unwrap();
    assert_eq!(&reply.body[5..], b"hi");
    assert_eq!(reply.trailers["grpc-status"], "4", "{:?}", reply.trailers);

    for malformed in ["1", "1d", "-1S", "123456789S", ""] {
        let reply = conn.send(grpc("Get").header("grpc-timeout", malformed)).await.unwrap();
        refused_grpc(&pair.web, &reply, "request_malformed").await;
    }
    // Without gRPC it is a header like any other.
    let call = Call::get(HOST, "/shop.Orders/Get").header("grpc-timeout", "junk");
    assert_eq!(conn.send(call).await.unwrap().header("x-timeout"), Some("junk"));
}

/// Refusals of gRPC calls say the same thing three times: status, message, `ErrorInfo`.
#[tokio::test]
async fn grpc_refusals_carry_error_info() {
    let app = slow_grpc();
    let rules = json!([{"name": "get", "effect": "allow", "context": "optional", "match": {
        "caller": {"anyInMesh": true}, "grpc": {"service": "shop.Orders", "methods": ["Get"]}}}]);
    let port = json!({"protocol": "grpc"});
    let pair = Pair::with(app.address, Setting { rules, port, ..Setting::default() }).await;
    let mut conn = Conn::h2(pair.web.outbound()).await.unwrap();
    let reply = conn.send(grpc("Delete")).await.unwrap();
    refused_grpc(&pair.orders, &reply, "policy_denied").await;
    let told = error_info(reply.header("grpc-status-details-bin").unwrap());
    assert_eq!(told, (7, "denied".to_owned(), "countersign.dev".to_owned()));
    let reply = conn.send(Call { host: "nowhere.shop".into(), ..grpc("Get") }).await.unwrap();
    refused_grpc(&pair.web, &reply, "destination_unknown").await;
    let told = error_info(reply.header("grpc-status-details-bin").unwrap());
    assert_eq!((told.0, told.1.as_str()), (12, "unknown_destination"));
}

/// Calls in both directions at once that go on for longer than any other request may take.
#[tokio::test]
async fn a_long_grpc_stream_outlives_request_times() {
    let app = App::grpc();
    let port = json!({"protocol": "grpc"});
    let limits = &[("REQUEST_MS_MAX", 300), ("BODY_IDLE_MS_MAX", 10_000)];
    let pair = Pair::with(app.address, Setting { port, limits, ..Setting::default() }).await;
    let mut conn = Conn::h2(pair.web.outbound()).await.unwrap();
    let (sender, body) = client::stream();
    let mut response = conn.start(grpc("Chat").body(body)).await.unwrap();
    for number in 0..20_u8 {
        sender.send(Ok(Frame::data(vec![number; 1_000].into()))).await.unwrap();
        let mut got = 0;
        while got < 1_000 {
            let frame = wait::ends("a message", response.body_mut().frame()).await.unwrap();
            got += frame.unwrap().into_data().unwrap().len();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(sender);
    let frame = wait::ends("the trailers", response.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_trailers().unwrap()["grpc-status"], "0");
}
