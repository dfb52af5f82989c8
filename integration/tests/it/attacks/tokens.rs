//! Forged, stolen, replayed and twisted context tokens (T3, T4, T7, T8, T10, T11, T13).

use countersign_integration::client::Call;
use countersign_integration::outcome::refused;
use countersign_integration::pki::Request;
use countersign_integration::row::{certificate, record, signed};
use countersign_integration::token::{base64url, now_s};
use countersign_integration::{App, Authority, Lab, Tokens, documents};
use serde_json::{Value, json};

const HOST: &str = "orders.shop";

/// A gateway peer presents tokens to `orders`, which refuses each for its reason.
pub(super) async fn refused_tokens(lab: &Lab, tokens: Vec<(&str, String)>) {
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    for (reason, token) in tokens {
        let reply = peer.send(Call::get(HOST, "/").context(&token)).await.unwrap();
        refused(&orders, &reply, reason).await;
    }
    assert!(app.seen().is_empty(), "a forged token reached the app");
}

fn changed(tokens: &Tokens, to: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = tokens.claims(to);
    change(&mut claims);
    tokens.sign(&claims)
}

#[tokio::test]
async fn attack_replays_token_after_expiry() {
    let lab = Lab::new();
    let to = lab.id("shop", "orders");
    let ended = changed(&lab.gateway, &to, |claims| {
        claims["iat"] = json!(now_s() - 120);
        claims["exp"] = json!(now_s() - 60);
    });
    refused_tokens(&lab, vec![("token_expired", ended)]).await;
}

#[tokio::test]
async fn attack_sends_token_from_the_future() {
    let lab = Lab::new();
    let to = lab.id("shop", "orders");
    let future = changed(&lab.gateway, &to, |claims| {
        claims["iat"] = json!(now_s() + 90);
        claims["exp"] = json!(now_s() + 150);
    });
    let long = changed(&lab.gateway, &to, |claims| claims["exp"] = json!(now_s() + 3600));
    refused_tokens(&lab, vec![("claim_invalid", future), ("claim_invalid", long)]).await;
}

#[tokio::test]
async fn attack_presents_token_as_unlisted_peer() {
    let lab = Lab::new();
    let app = App::mirror();
    let only_gateway = json!([{"peer": lab.id("edge", "gateway"), "to": "/**"}]);
    let mesh = lab.mesh().with(|spec| spec["context"]["presenters"] = only_gateway);
    let orders = lab.orders_with(&app, &mesh, documents::anybody(), |spec| spec).await;
    let token = lab.gateway.mint(&lab.id("shop", "web"));
    let reply = lab.call_as("shop", "web", &orders, Call::get(HOST, "/").context(&token)).await;
    refused(&orders, &reply, "presenter_refused").await;
}

/// A pod with a sound certificate of its own has copied a token that went from the gateway to
/// `orders`. Custody makes it worthless to everybody but `orders`.
#[tokio::test]
async fn attack_pod_with_key_uses_stolen_token() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let stolen = lab.gateway.mint(&lab.id("shop", "orders"));
    let call = || Call::get(HOST, "/").context(&stolen);
    assert_eq!(lab.call_as_gateway(&orders, call()).await.status, 200);
    let reply = lab.call_as("shop", "thief", &orders, call()).await;
    let record = refused(&orders, &reply, "custody_broken").await;
    assert_eq!(record["peer"]["id"], lab.id("shop", "thief"));
}

#[tokio::test]
async fn attack_uses_token_issued_to_another_first_holder() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let for_billing = lab.gateway.mint(&lab.id("shop", "billing"));
    let reply = lab.call_as_gateway(&orders, Call::get(HOST, "/").context(&for_billing)).await;
    refused(&orders, &reply, "custody_broken").await;
}

/// "`web` called me": a record in its name, by the thief's own hand, or no record at all.
#[tokio::test]
async fn attack_invents_a_previous_hop() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let stolen = lab.gateway.mint(&lab.id("shop", "web"));
    let thief = Tokens::of(&lab.ca, "shop", "thief");
    let id = |name: &str| lab.id("shop", name);
    let invented = [signed(&thief, &record(&stolen, &[], &id("web"), &id("thief")))];
    let own = signed(&thief, &record(&stolen, &invented, &id("thief"), &id("orders")));
    let alone = signed(&thief, &record(&stolen, &[], &id("thief"), &id("orders")));
    let call = || {
        let call = Call::get(HOST, "/").context(&stolen);
        call.header("countersign-certs", &certificate(thief.leaf()))
    };
    let mut peer = lab.peer(&orders, thief.leaf()).await;
    for call in [
        call(),
        call().header("countersign-hops", &invented[0]),
        call().header("countersign-hops", &alone),
        call().header("countersign-hops", &format!("{}, {own}", invented[0])),
        call().header("countersign-caller", &id("web")),
    ] {
        refused(&orders, &peer.send(call).await.unwrap(), "custody_broken").await;
    }
    assert!(app.seen().is_empty());
}

/// `web` received the token rightfully; policy says what it may do with it.
#[tokio::test]
async fn attack_presents_received_token_where_policy_forbids() {
    let lab = Lab::new();
    let app = App::mirror();
    let rules = json!([{"name": "gateway-only", "effect": "allow", "context": "required",
        "match": {"caller": {"anyOf": [{"namespace": "edge", "serviceAccount": "gateway"}]}}}]);
    let orders = lab.orders_with(&app, &lab.mesh(), rules, |spec| spec).await;
    let received = lab.gateway.mint(&lab.id("shop", "web"));
    let reply = lab.call_as("shop", "web", &orders, Call::get(HOST, "/").context(&received)).await;
    refused(&orders, &reply, "policy_denied").await;
}

#[tokio::test]
async fn attack_sends_token_without_first_holder() {
    let lab = Lab::new();
    let to = lab.id("shop", "orders");
    let without = changed(&lab.gateway, &to, |claims| {
        claims["rctx"].as_object_mut().unwrap().remove("to");
    });
    refused_tokens(&lab, vec![("claim_invalid", without)]).await;
}

#[tokio::test]
async fn attack_sets_alg_none() {
    let lab = Lab::new();
    let claims = lab.gateway.claims(&lab.id("shop", "orders"));
    let mut tokens = Vec::new();
    for alg in ["none", "None", "noNE", "HS256", "RS256", "EdDSA", "ES384"] {
        let mut header = lab.gateway.header();
        header["alg"] = json!(alg);
        tokens.push(("token_malformed", lab.gateway.sign_with(&header, &claims)));
    }
    let header = json!({"alg": "none", "typ": "txntoken+jwt"}).to_string();
    let unsigned = format!("{}.{}.", base64url(&header), base64url(&claims.to_string()));
    tokens.push(("token_malformed", unsigned));
    refused_tokens(&lab, tokens).await;
}

#[tokio::test]
async fn attack_names_another_alg_for_the_key() {
    let lab = Lab::new();
    let mut header = lab.gateway.header();
    header["alg"] = json!("Ed25519");
    let token = lab.gateway.sign_with(&header, &lab.gateway.claims(&lab.id("shop", "orders")));
    refused_tokens(&lab, vec![("key_unknown", token)]).await;
}

#[tokio::test]
async fn attack_workload_signs_its_own_token() {
    let lab = Lab::new();
    let to = lab.id("shop", "orders");
    let web = Tokens::of(&lab.ca, "shop", "web");
    let own = web.mint(&to);
    let as_gateway = changed(&web, &to, |claims| claims["iss"] = json!(lab.id("edge", "gateway")));
    refused_tokens(&lab, vec![("issuer_not_allowed", own), ("claim_invalid", as_gateway)]).await;
}

#[tokio::test]
async fn attack_signs_with_foreign_domain_certificate() {
    let lab = Lab::new();
    let to = lab.id("shop", "orders");
    let foreign = Authority::new("other.test");
    let gateway = Tokens::of(&foreign, "edge", "gateway");
    let ours = changed(&gateway, &to, |claims| {
        claims["iss"] = json!(lab.id("edge", "gateway"));
        claims["aud"] = json!("lab.test");
    });
    let theirs = gateway.mint(&to);
    refused_tokens(&lab, vec![("key_unknown", ours), ("audience_wrong", theirs)]).await;
}

#[tokio::test]
async fn attack_uses_ca_certificate_as_signer() {
    let lab = Lab::new();
    let id = lab.id("edge", "gateway");
    let authority = lab.ca.issue(Request::new(&[&id]).authority());
    let signer = Tokens::new("lab.test", &id, authority);
    let token = signer.mint(&lab.id("shop", "orders"));
    refused_tokens(&lab, vec![("key_unknown", token)]).await;
}

#[tokio::test]
async fn attack_uses_token_outliving_its_signer() {
    let lab = Lab::new();
    let id = lab.id("edge", "gateway");
    let short = lab.ca.issue(Request::new(&[&id]).lives_s(30));
    let signer = Tokens::new("lab.test", &id, short);
    let token = signer.mint(&lab.id("shop", "orders"));
    refused_tokens(&lab, vec![("claim_invalid", token)]).await;
}

#[tokio::test]
async fn attack_embeds_own_key() {
    let lab = Lab::new();
    let claims = lab.gateway.claims(&lab.id("shop", "orders"));
    let thief = Tokens::of(&lab.ca, "shop", "thief");
    let mut tokens = Vec::new();
    for (member, value) in [
        ("jwk", thief.jwk()),
        ("jku", json!("http://127.0.0.1:1/keys")),
        ("x5u", json!("http://127.0.0.1:1/chain")),
        ("crit", json!(["exp"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
    ] {
        let mut header = thief.header();
        header[member] = value;
        tokens.push(("token_malformed", thief.sign_with(&header, &claims)));
    }
    refused_tokens(&lab, tokens).await;
}

#[tokio::test]
async fn attack_twists_the_encoding() {
    let lab = Lab::new();
    let claims = lab.gateway.claims(&lab.id("shop", "orders"));
    let header = lab.gateway.header().to_string();
    let twice = claims.to_string().replacen('{', "{\"sub\":\"user:root\",", 1);
    let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
    let deep = claims.to_string().replacen('{', &format!("{{\"deep\":{deep},"), 1);
    let sound = lab.gateway.sign(&claims);
    let serialised = json!({"payload": sound, "signatures": []}).to_string();
    let five_parts = format!("{sound}.AAAA.AAAA");
    let padded = format!("{sound}==");
    refused_tokens(
        &lab,
        vec![
            ("token_malformed", lab.gateway.sign_text(&header, &twice)),
            ("token_malformed", lab.gateway.sign_text(&header, &deep)),
            ("token_malformed", base64url(&serialised)),
            ("token_malformed", five_parts),
            ("token_malformed", padded),
        ],
    )
    .await;
}

#[tokio::test]
async fn attack_sends_another_kind_of_token() {
    let lab = Lab::new();
    let claims = lab.gateway.claims(&lab.id("shop", "orders"));
    let mut tokens = Vec::new();
    for typ in ["JWT", "at+jwt", "csign-receipt+jwt", "csign-deferred+jwt", "csign-hop+jwt"] {
        let mut header = lab.gateway.header();
        header["typ"] = json!(typ);
        tokens.push(("token_malformed", lab.gateway.sign_with(&header, &claims)));
    }
    refused_tokens(&lab, tokens).await;
}

#[tokio::test]
async fn attack_presents_token_of_other_domain() {
    let lab = Lab::new();
    let to = lab.id("shop", "orders");
    let other = changed(&lab.gateway, &to, |claims| claims["aud"] = json!("other.test"));
    refused_tokens(&lab, vec![("audience_wrong", other)]).await;
}

#[tokio::test]
async fn attack_issuer_mints_outside_constraints() {
    let lab = Lab::new();
    let to = lab.id("shop", "orders");
    let mut tokens = Vec::new();
    for (name, value) in [("scope", json!("admin")), ("sub", json!("svc:spiffe://lab.test/x"))] {
        let token = changed(&lab.gateway, &to, |claims| claims[name] = value);
        tokens.push(("constraint_violated", token));
    }
    let batch = changed(&lab.gateway, &to, |claims| claims["rctx"]["origin"] = json!("batch"));
    tokens.push(("constraint_violated", batch));
    refused_tokens(&lab, tokens).await;
}

/// An issuer that is no longer listed loses its tokens with the next documents, cached or not.
#[tokio::test]
async fn attack_removed_issuer_keeps_minting() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let token = lab.gateway.mint(&lab.id("shop", "orders"));
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    let mut call = async || peer.send(Call::get(HOST, "/").context(&token)).await.unwrap();
    assert_eq!(call().await.status, 200);
    let without = lab.mesh().with(|spec| spec["context"]["issuers"] = json!([]));
    lab.write("mesh.yaml", &without.document());
    orders.reload();
    let reply = countersign_integration::wait::until("the shorter issuer list", async || {
        let reply = call().await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    refused(&orders, &reply, "issuer_not_allowed").await;
}

#[tokio::test]
async fn attack_omits_the_token() {
    let lab = Lab::new();
    let app = App::mirror();
    let rules = json!([{"name": "users-only", "effect": "allow", "context": "required",
        "match": {"caller": {"anyInMesh": true}}}]);
    let orders = lab.orders_with(&app, &lab.mesh(), rules, |spec| spec).await;
    let reply = lab.call_as_gateway(&orders, Call::get(HOST, "/")).await;
    refused(&orders, &reply, "token_missing").await;
    let forged = Call::get(HOST, "/").header("countersign-user", "alice");
    let reply = lab.call_as_gateway(&orders, forged).await;
    refused(&orders, &reply, "token_missing").await;
}
