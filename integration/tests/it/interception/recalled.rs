//! What was let through and goes on, when whoever vouched for it, or where it leads, is no longer
//! what the documents say.

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::{App, Lab, documents, wait};
use http_body::Frame;
use serde_json::{Value, json};

use super::live::{HOST, decision, echo};

/// A stream ends with the issuer of its token; one without a token goes on.
#[tokio::test]
async fn streams_end_with_the_issuer_that_vouched_for_them() {
    let lab = Lab::new();
    let app = App::grpc();
    let orders = lab.revocable(app.address, documents::anybody(), |spec| spec).await;
    let mut gateway = lab.peer(&orders, lab.gateway.leaf()).await;
    let call = || Call::post(HOST, "/shop.Orders/Chat", "").grpc();
    let token = lab.gateway.mint(&lab.id("shop", "orders"));
    let (stream, _open) = echo(&mut gateway, call().context(&token)).await;
    let (mut stays, open) = echo(&mut gateway, call()).await;
    let id = decision(&stream);
    let narrower = lab.mesh().with(|spec| {
        spec["context"]["issuers"][0]["id"] = json!(lab.id("edge", "other"));
    });
    lab.write("mesh.yaml", &narrower.document());
    orders.reload();
    let reply = wait::ends("the stream", client::collect(stream)).await.unwrap();
    assert_eq!(reply.trailers["grpc-status"], "16");
    assert_eq!(orders.ended(&id).await["reason"], "revoked/issuer_key");
    open.send(Ok(Frame::data("more".into()))).await.unwrap();
    let frame = wait::ends("the echo", http_body_util::BodyExt::frame(stays.body_mut())).await;
    assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "more");
}

/// The context of a revoked user goes nowhere any more, although its handle is still known.
#[tokio::test]
async fn attack_hands_on_the_context_of_a_revoked_user() {
    let lab = Lab::new();
    let (app, next) = (App::mirror(), App::mirror());
    let mesh = lab.mesh().provider("https://login.example.com", json!({"file": "none.json"}));
    lab.write("none.json", &json!({"keys": []}));
    let at_billing = lab.write("billing-mesh.yaml", &mesh.document());
    let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
    let billing = lab.proxy("shop", "billing").inbound(next.address);
    let billing = billing.documents(&[&at_billing, &access]).start().await;
    let id = lab.id("shop", "billing");
    let mesh = mesh.destination("shop/billing", "billing.shop", billing.inbound(), &[&id]);
    let at_orders = lab.write("mesh.yaml", &mesh.document());
    let revocation = lab.revoke(json!({}));
    let orders = lab.proxy("shop", "orders").inbound(app.address).outbound();
    let orders = orders.documents(&[&at_orders, &access, &revocation]).start().await;

    let mut gateway = lab.peer(&orders, lab.gateway.leaf()).await;
    let token = lab.gateway.mint(&lab.id("shop", "orders"));
    let (stream, _open) = echo(&mut gateway, Call::post(HOST, "/echo", "").context(&token)).await;
    let handle = app.last().header("countersign-context").unwrap().to_owned();
    let user = async || {
        let call = Call::get("billing.shop", "/").header("countersign-context", &handle);
        let mut conn = Conn::h1(orders.outbound()).await.unwrap();
        let reply = conn.send(call).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.seen("countersign-user")
    };
    assert_eq!(user().await.as_deref(), Some("alice"));
    let before: Value = json!("2126-01-01T00:00:00Z");
    lab.revoke(json!({"users": [{"provider": "corp", "id": "alice", "issuedBefore": before}]}));
    wait::ends("the stream", client::collect(stream)).await.unwrap_err();
    assert_eq!(user().await, None);
}
