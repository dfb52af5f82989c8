//! The main job: one user's request through gateway, service A and service B, over every protocol.

use countersign_integration::outcome;
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
