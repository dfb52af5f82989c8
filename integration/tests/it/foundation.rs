//! The main job: one user's request through gateway, service A and service B, over every protocol.

use countersign_integration::client::Call;
use countersign_integration::outcome;
use countersign_integration::world::HOST;
use countersign_integration::{Conn, World};

/// What service B must have seen of alice's request.
fn seen_by_billing(reply: &countersign_integration::Reply) {
    let header = |name: &str| reply.seen(name);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(header("countersign-user").as_deref(), Some("alice"));
    assert_eq!(header("countersign-scope").as_deref(), Some("orders.read"));
    assert_eq!(header("countersign-origin").as_deref(), Some("user"));
    let caller = header("countersign-caller");
    assert_eq!(caller.as_deref(), Some("spiffe://demo.test/ns/shop/sa/orders"));
    assert_eq!(header("countersign-context").map(|handle| handle.len()), Some(22));
    assert!(header("countersign-decision").is_some());
    assert!(header("countersign-txn").is_some());
    for absent in ["txn-token", "authorization", "countersign-sub", "countersign-http1"] {
        assert_eq!(header(absent), None, "{absent}");
    }
}

#[tokio::test]
async fn a_users_request_reaches_the_second_service() {
    let world = World::start().await;
    let alice = world.user("alice");
    let mut curl = Conn::h1(world.gateway.gateway()).await.unwrap();
    let reply = curl.send(world.get(&alice, "alice")).await.unwrap();
    seen_by_billing(&reply);

    // Every hop decided once and recorded it, under one transaction.
    let record = outcome::allowed(&world.orders, &reply).await;
    assert_eq!(record["user"]["id"], "alice", "{record}");
    let txn = reply.seen("countersign-txn").unwrap();
    for (proxy, kind) in
        [(&world.gateway, "issue"), (&world.orders, "decision"), (&world.billing, "decision")]
    {
        let mine = || proxy.decisions().into_iter().filter(|record| record["txn"] == *txn);
        countersign_integration::wait::until_true("one record per hop", || mine().count() == 1)
            .await;
        assert_eq!(mine().next().unwrap()["kind"], kind);
    }
}

/// The same over HTTP/2, many at a time, and with bodies of some size.
#[tokio::test]
async fn the_same_over_http2_and_with_bodies() {
    let world = World::start().await;
    let alice = world.user("alice");
    let shared = Conn::h2(world.gateway.gateway()).await.unwrap();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (mut conn, call) = (shared.share().unwrap(), world.get(&alice, "alice"));
        all.spawn(async move { conn.send(call).await.unwrap() });
    }
    for reply in all.join_all().await {
        seen_by_billing(&reply);
    }
    let body: Vec<u8> = (0..2 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    for mut conn in [Conn::h1(world.gateway.gateway()).await.unwrap(), shared] {
        let call = Call::post(HOST, "/v1/users/alice/echo", body.clone()).bearer(&alice);
        let reply = conn.send(call).await.unwrap();
        assert_eq!((reply.status, reply.header("x-echo")), (200, Some("1")));
        assert!(reply.body == body, "{} bytes came back", reply.body.len());
    }
}
