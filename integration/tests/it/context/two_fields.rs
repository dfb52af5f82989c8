//! A token in two fields, between two of our proxies: what is sent, to whom, and what is believed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use countersign_integration::client::{Call, full};
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::{App, Lab, Row, Tokens, tls, wait};
use http::Response;

const HEADER: &str = "countersign-token-header";
const HOST: &str = "orders.shop";

/// Both parts of a token, as they go into the two fields.
fn parts(token: &str) -> (&str, &str) {
    token.split_at(token.find('.').unwrap())
}

/// A peer that sends tokens whole is told that it need not; the two fields are the same token.
#[tokio::test]
async fn a_token_in_two_fields_is_the_token() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    let token = || lab.gateway.mint(&lab.id("shop", "orders"));
    let without = peer.send(Call::get(HOST, "/")).await.unwrap();
    assert_eq!(without.header(HEADER), None, "nothing to tell before there is a token");
    let whole = token();
    let reply = peer.send(Call::get(HOST, "/").context(&whole)).await.unwrap();
    allowed(&orders, &reply).await;
    assert_eq!(reply.header(HEADER), Some("?1"));
    for token in [whole, token(), token()] {
        let (header, rest) = parts(&token);
        let call = Call::get(HOST, "/").header(HEADER, header).header("txn-token", rest);
        let reply = peer.send(call).await.unwrap();
        allowed(&orders, &reply).await;
        assert_eq!(reply.header(HEADER), None, "it knows");
        let txn = countersign_integration::token::claims_of(&token)["txn"].clone();
        let seen = app.last();
        assert_eq!(seen.header("countersign-txn"), txn.as_str());
        assert_eq!((seen.header(HEADER), seen.header("txn-token")), (None, None));
    }
}

/// Halves that do not belong together make no token, and one half makes none.
#[tokio::test]
async fn attack_twists_a_token_in_two_fields() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let me = lab.id("shop", "orders");
    let token = lab.gateway.mint(&me);
    let (header, rest) = parts(&token);
    let thief = Tokens::of(&lab.ca, "shop", "thief");
    let forged = thief.mint(&me);
    let (of_thief, rest_of_thief) = parts(&forged);
    let short = header.len() - 2;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    for (header, rest, reason) in [
        // One half, or one and a whole token.
        (header, "", "token_malformed"),
        ("", rest, "token_malformed"),
        (header, &*token, "token_malformed"),
        // Cut elsewhere: bytes of one half in the other.
        (&header[..short], &*format!("{}{rest}", &header[short..]), "token_malformed"),
        (&*format!("{header}."), rest, "token_malformed"),
        (&*token, ".", "token_malformed"),
        // A comma makes two of one.
        (header, &*format!("{rest},{rest}"), "token_malformed"),
        (&*format!("{header},{header}"), rest, "token_duplicated"),
        // The halves of two tokens.
        (header, rest_of_thief, "issuer_not_allowed"),
        (of_thief, rest, "signature_invalid"),
        (&"A".repeat(5000), rest, "token_too_large"),
    ] {
        let fields = [(HEADER, header), ("txn-token", rest)];
        let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
        let call =
            fields.fold(Call::get(HOST, "/"), |call, (name, value)| call.header(name, value));
        let reply = peer.send(call).await.unwrap();
        refused(&orders, &reply, reason).await;
    }
    let twice = Call::get(HOST, "/").header(HEADER, header).header(HEADER, header);
    let reply = peer.send(twice.header("txn-token", rest)).await.unwrap();
    refused(&orders, &reply, "token_malformed").await;
    assert!(app.seen().is_empty());
}

/// Only a callee that says so gets two fields, and what it gets is one token.
#[tokio::test]
async fn only_who_asks_for_two_fields_gets_them() {
    let lab = Lab::new();
    let leaf = lab.ca.leaf("shop", "tap");
    let asks = Arc::new(AtomicBool::new(false));
    let tells = Arc::clone(&asks);
    let tap = App::tls(tls::server(&leaf, &[tls::MESH_H2]), move |request| {
        let got = |name: &str| {
            let value = request.headers().get(name).map(|it| it.to_str().unwrap_or("?").to_owned());
            value.unwrap_or_default()
        };
        let (header, rest) = (got(HEADER), got("txn-token"));
        let tells = tells.load(Ordering::SeqCst);
        Box::pin(async move {
            let answer = Response::builder().header("x-header", header).header("x-rest", rest);
            let answer = if tells { answer.header(HEADER, "?1") } else { answer };
            Ok(answer.body(full("yes"))?)
        })
    });
    let row = Row::with_tap(lab, tap, &["s1"], |_| {}, |_, spec| spec).await;
    let names = ["s1", "tap"];
    let mut gateway = row.gateway("s1").await;
    for _ in 0..4 {
        let reply = gateway.send(row.call(&names)).await.unwrap();
        assert_eq!((reply.status, reply.header("x-header")), (200, Some("")), "{}", reply.text());
    }
    asks.store(true, Ordering::SeqCst);
    let reply = wait::until("a token in two fields", async || {
        let reply = gateway.send(row.call(&names)).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        (reply.header("x-header") != Some("")).then_some(reply)
    })
    .await;
    let (header, rest) = (reply.header("x-header").unwrap(), reply.header("x-rest").unwrap());
    let token = format!("{header}{rest}");
    assert!(rest.starts_with('.'), "{token}");
    assert_eq!(countersign_integration::token::header_of(&token)["typ"], "txntoken+jwt");
    assert_eq!(
        countersign_integration::token::claims_of(&token)["rctx"]["to"],
        row.lab.id("shop", "s1")
    );
}
