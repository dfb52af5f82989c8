//! gRPC through the whole mesh: streams, trailers, statuses, refusals in its own form.

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::outcome::refused_grpc;
use countersign_integration::world::{HOST, Setting};
use countersign_integration::{World, wait};
use http_body::Frame;
use http_body_util::BodyExt as _;

async fn world() -> (World, String, Conn) {
    let world = World::with(&Setting { grpc: true, ..Setting::default() }).await;
    let alice = world.user("alice");
    let conn = Conn::h2(world.gateway.gateway()).await.unwrap();
    (world, alice, conn)
}

fn method(name: &str) -> Call {
    Call::post(HOST, &format!("/shop.Orders/{name}"), "").grpc()
}

/// One length-prefixed message.
fn message(text: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

#[tokio::test]
async fn grpc_stream_carries_context_end_to_end() {
    let (world, alice, mut conn) = world().await;
    let (sender, body) = client::stream();
    let call = method("Chat").bearer(&alice).body(body);
    let mut response = conn.start(call).await.unwrap();
    assert_eq!(response.status(), 200);
    for number in 0..10 {
        let sent = message(&format!("message {number}"));
        sender.send(Ok(Frame::data(sent.clone().into()))).await.unwrap();
        let frame = wait::ends("a message", response.body_mut().frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), sent);
    }
    drop(sender);
    let frame = wait::ends("the trailers", response.body_mut().frame()).await.unwrap().unwrap();
    let trailers = frame.into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-user"], "alice");
    for proxy in [&world.orders, &world.billing] {
        wait::until_true("the record", || proxy.decisions().len() == 1).await;
        let record = &proxy.decisions()[0];
        assert_eq!(record["req"]["proto"], "grpc", "{record}");
    }
}

#[tokio::test]
async fn grpc_statuses_and_refusals() {
    let (world, alice, mut conn) = world().await;
    // The app's own status, trailers-only, passes untouched.
    let reply = conn.send(method("Fail").bearer(&alice)).await.unwrap();
    assert_eq!(reply.header("grpc-status"), Some("5"));
    assert_eq!(reply.header("grpc-message"), Some("no such order"));

    let reply = conn.send(method("Get")).await.unwrap();
    refused_grpc(&world.gateway, &reply, "user_token_missing").await;
    let reply = conn.send(method("Delete").bearer(&alice)).await.unwrap();
    refused_grpc(&world.orders, &reply, "policy_denied").await;
    // Service A forwards nothing, so service B's sidecar misses the user.
    let reply = conn.send(method("Get").bearer(&alice).header("x-forward", "nothing")).await;
    let reply = reply.unwrap();
    assert_eq!(reply.header("grpc-status"), Some("16"), "{:?}", reply.headers);
    let missing = |record: &serde_json::Value| record["reason"] == "token_missing";
    wait::until_true("the refusal", || world.billing.decisions().iter().any(missing)).await;
}
