//! Tokens bound to their sender, from real providers: DPoP proofs made by another JOSE library,
//! client certificates, and what whoever stole such a token tries.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_ctxtoken::{LocalSigner, TokenSigner as _};
use countersign_integration::client::{Call, Reply};
use countersign_integration::components::keycloak;
use countersign_integration::components::oauth::{Grant, OAuthClient};
use countersign_integration::components::oidc_provider::OidcProvider;
use countersign_integration::outcome::refused;
use countersign_integration::pki::Request;
use countersign_integration::token::{base64url, now_s};
use countersign_integration::{Lab, Tokens, wait};
use serde_json::{Value, json};

use super::edge::{API, Edge, PATH, context, for_anybody, provider};

const URL: &str = "https://api.example.com/v1/users/alice/orders";

fn dpop(token: &str, proof: &str) -> Call {
    Call::get(API, PATH).header("authorization", &format!("DPoP {token}")).header("dpop", proof)
}

/// One request with a proof made by the other library.
async fn call(edge: &Edge, client: &OAuthClient, grant: &Grant, nonce: Option<&str>) -> Reply {
    let proof = client.proof(grant, "GET", URL, nonce).await;
    edge.call(dpop(&grant.access_token, &proof)).await
}

#[tokio::test]
async fn dpop_tokens_of_oidc_provider() {
    let lab = Lab::new();
    let name = "dpop_tokens_of_oidc_provider";
    let Some(idp) = OidcProvider::start(name, lab.folder()).await else { return };
    let spec =
        provider(&idp.issuer(), |spec| spec["senderConstraint"] = json!({"dpop": "required"}));
    let edge = Edge::with(lab, &[("corp", spec)], for_anybody(), |spec| spec).await;

    let alice = idp.login("webshop-dpop", "alice").await;
    let reply = call(&edge, &idp.client, &alice, None).await;
    assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"), "{}", reply.text());
    assert_eq!(context(&reply)["rctx"]["sc"], "dpop");
    assert_eq!((reply.seen("dpop"), reply.seen("authorization")), (None, None));

    // The same token without its proof, and one that is bound to nothing.
    let reply = edge.get(&alice.access_token).await;
    refused(&edge.gateway, &reply, "user_proof_invalid").await;
    let challenge = reply.header("www-authenticate").unwrap();
    assert_eq!(challenge, "DPoP error=\"invalid_token\", algs=\"ES256 EdDSA\"");
    let plain = idp.login("webshop", "alice").await;
    let record =
        refused(&edge.gateway, &edge.get(&plain.access_token).await, "user_proof_invalid").await;
    assert_eq!(record["reason"], "user_proof_invalid/not_bound");
    let reply = edge.call(Call::get(API, PATH)).await;
    refused(&edge.gateway, &reply, "user_token_missing").await;
    assert_eq!(reply.header("www-authenticate"), Some("DPoP algs=\"ES256 EdDSA\""));
}

#[tokio::test]
async fn dpop_tokens_of_keycloak() {
    let Some(idp) = keycloak::shared("dpop_tokens_of_keycloak").await else { return };
    // Before the gateway starts, so that it has their keys: another test rotates them.
    let alice = idp.login("webshop-dpop", "alice").await;
    let bob = idp.login("webshop", "bob").await;
    let spec =
        provider(&idp.issuer(), |spec| spec["senderConstraint"] = json!({"dpop": "optional"}));
    let edge = Edge::with(Lab::new(), &[("corp", spec)], for_anybody(), |spec| spec).await;
    let reply = call(&edge, &idp.client, &alice, None).await;
    assert_eq!(context(&reply)["rctx"]["sc"], "dpop");
    let reply = edge.get(&alice.access_token).await;
    refused(&edge.gateway, &reply, "user_proof_invalid").await;
    // Others may still come without.
    assert_eq!(edge.get(&bob.access_token).await.status, 200);
}

/// With nonces a proof is worth something to this process only, and not for long.
#[tokio::test]
async fn gateway_asks_for_a_nonce() {
    let lab = Lab::new();
    let name = "gateway_asks_for_a_nonce";
    let Some(idp) = OidcProvider::start(name, lab.folder()).await else { return };
    let spec = provider(&idp.issuer(), |spec| {
        spec["senderConstraint"] = json!({"dpop": "required", "proofs": {"nonce": "required"}});
    });
    let edge = Edge::with(lab, &[("corp", spec)], for_anybody(), |spec| spec).await;
    let alice = idp.login("webshop-dpop", "alice").await;
    let reply = call(&edge, &idp.client, &alice, None).await;
    let record = refused(&edge.gateway, &reply, "user_proof_invalid").await;
    assert_eq!(record["reason"], "user_proof_invalid/proof_nonce");
    let challenge = reply.header("www-authenticate").unwrap();
    assert_eq!(challenge, "DPoP error=\"use_dpop_nonce\", algs=\"ES256 EdDSA\"");
    let nonce = reply.header("dpop-nonce").unwrap().to_owned();
    let reply = call(&edge, &idp.client, &alice, Some(&nonce)).await;
    assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"), "{}", reply.text());
    let reply = call(&edge, &idp.client, &alice, Some("of-my-own")).await;
    refused(&edge.gateway, &reply, "user_proof_invalid").await;
}

/// RFC 8705: the provider saw the client's certificate, and the gateway wants to see it again.
#[tokio::test]
async fn certificate_bound_tokens_of_oidc_provider() {
    let lab = Lab::new();
    let name = "certificate_bound_tokens_of_oidc_provider";
    let Some(idp) = OidcProvider::start_tls(name, lab.folder(), &lab.ca).await else { return };
    let ours = lab.ca.issue(Request::new(&[]).dns("webshop.example.com"));
    let own = ours.write(lab.folder(), "webshop");
    let ca = lab.folder().join("oidc-ca.pem");
    let client = idp.client.clone().over_tls(&ca, Some(&own));
    let more = json!({"resource": "https://api.example.com/rs256"});
    let alice = client.login(&idp.issuer(), "webshop-mtls", "alice", more).await;
    let spec = provider(&idp.issuer(), |spec| {
        spec["keys"]["discovery"]["allowedHosts"] = json!(["localhost"]);
        spec["senderConstraint"] = json!({"mtls": "required"});
    });
    let edge = Edge::with(lab, &[("corp", spec)], for_anybody(), |spec| {
        let any = |config: &mut Value| {
            config["listeners"]["gateway"][0]["tls"]["clientCertificates"] = json!("any");
        };
        spec.env("SSL_CERT_FILE", ca.clone()).with(any)
    })
    .await;
    let bearer = || Call::get(API, PATH).bearer(&alice.access_token);
    let reply = edge.call_with(Some(&ours), bearer()).await;
    assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"), "{}", reply.text());
    assert_eq!(context(&reply)["rctx"]["sc"], "mtls");

    let thief = edge.lab.ca.issue(Request::new(&[]).dns("webshop.example.com"));
    for (leaf, why) in [(None, "certificate_missing"), (Some(&thief), "certificate_wrong")] {
        let reply = edge.call_with(leaf, bearer()).await;
        let record = refused(&edge.gateway, &reply, "user_proof_invalid").await;
        assert_eq!(record["reason"], format!("user_proof_invalid/{why}"));
    }
    assert_eq!(edge.app.seen().len(), 1);

    // A key that was stolen is shown by the thief as well as by its owner.
    let stolen: String = sha256(&ours.chain[0]).iter().map(|byte| format!("{byte:02x}")).collect();
    edge.lab.revoke(json!({"certificates": [{"sha256": stolen}]}));
    let reply = wait::until("the revocation", async || {
        let reply = edge.call_with(Some(&ours), bearer()).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    let record = refused(&edge.gateway, &reply, "user_proof_invalid").await;
    assert_eq!(record["reason"], "user_proof_invalid/certificate_revoked");
}

/// A client whose key the test holds, and a token bound to it.
struct Held {
    edge: Edge,
    key: LocalSigner,
    token: String,
}

impl Held {
    async fn start(constraint: Value) -> Held {
        let lab = Lab::new();
        let users = Tokens::of(&lab.ca, "idp", "keys");
        let mut jwk = users.jwk();
        jwk["use"] = json!("sig");
        let file = lab.write("users.json", &json!({"keys": [jwk]}));
        let spec = provider("https://login.example.com", |spec| {
            spec["keys"] = json!({"file": file});
            spec["senderConstraint"] = constraint;
        });
        let key = LocalSigner::from_pkcs8_der(&lab.ca.leaf("shop", "client").key).unwrap();
        let claims = json!({
            "iss": "https://login.example.com", "aud": "https://api.example.com", "sub": "alice",
            "iat": now_s(), "exp": now_s() + 300, "scope": "orders.read",
            "cnf": {"jkt": thumbprint(&key)},
        });
        let token = users.user(&claims);
        let edge = Edge::with(lab, &[("corp", spec)], for_anybody(), |spec| spec).await;
        Held { edge, key, token }
    }

    fn proof(&self, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let mut header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": public(&self.key)});
        let mut claims = json!({
            "jti": format!("id-{}", now_s()), "htm": "GET", "htu": URL, "iat": now_s(),
            "ath": URL_SAFE_NO_PAD.encode(sha256(&self.token)),
        });
        change(&mut header, &mut claims);
        let signed =
            format!("{}.{}", base64url(&header.to_string()), base64url(&claims.to_string()));
        let signature = self.key.sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The request is refused for this reason.
    async fn refuses(&self, call: Call, why: &str) {
        let reply = self.edge.call(call).await;
        let record = refused(&self.edge.gateway, &reply, "user_proof_invalid").await;
        assert_eq!(record["reason"], format!("user_proof_invalid/{why}"));
        assert!(!reply.text().contains(&self.token), "nothing of it comes back");
    }

    async fn refuses_proof(&self, why: &str, change: impl FnOnce(&mut Value, &mut Value)) {
        self.refuses(dpop(&self.token, &self.proof(change)), why).await;
    }
}

fn public(key: &LocalSigner) -> Value {
    let all: Value = serde_json::from_str(&key.verifying_key().to_jwk()).unwrap();
    json!({"kty": all["kty"], "crv": all["crv"], "x": all["x"], "y": all["y"]})
}

fn thumbprint(key: &LocalSigner) -> String {
    let jwk = public(key);
    let text = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]);
    URL_SAFE_NO_PAD.encode(sha256(&text))
}

fn sha256(text: impl AsRef<[u8]>) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_ref()).as_ref().to_vec()
}

#[tokio::test]
async fn attack_steals_a_dpop_bound_token() {
    let held = Held::start(json!({"dpop": "optional"})).await;
    let sound = held.proof(|_, claims| claims["jti"] = json!("first"));
    let reply = held.edge.call(dpop(&held.token, &sound)).await;
    assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"), "{}", reply.text());

    // The token alone, as what it is and as what it is not.
    let bare = format!("DPoP {}", held.token);
    held.refuses(Call::get(API, PATH).header("authorization", &bare), "proof_missing").await;
    held.refuses(Call::get(API, PATH).bearer(&held.token), "sent_as_bearer").await;
    // The token and a proof that was overheard.
    held.refuses(dpop(&held.token, &sound), "proof_replayed").await;
    // The token and a proof by the thief's own key.
    let thief = held.edge.lab.ca.leaf("shop", "thief");
    let thief = LocalSigner::from_pkcs8_der(&thief.key).unwrap();
    held.refuses_proof("proof_key", |header, _| header["jwk"] = public(&thief)).await;
    let forged = held.proof(|_, _| {});
    let forged = format!("{}AAAA", &forged[..forged.len() - 4]);
    held.refuses(dpop(&held.token, &forged), "proof_signature").await;
    assert_eq!(held.edge.app.seen().len(), 1);
}

#[tokio::test]
async fn attack_uses_a_dpop_proof_elsewhere() {
    let held = Held::start(json!({"dpop": "required"})).await;
    let overheard = held.proof(|_, _| {});
    let post = Call { method: http::Method::POST, ..dpop(&held.token, &overheard) };
    held.refuses(post, "proof_method").await;
    let bob = Call { target: "/v1/users/bob/orders".to_owned(), ..dpop(&held.token, &overheard) };
    held.refuses(bob, "proof_url").await;
    held.refuses_proof("proof_url", |_, claims| {
        claims["htu"] = json!("http://api.example.com/v1/users/alice/orders")
    })
    .await;
    held.refuses_proof("proof_token", |_, claims| claims["ath"] = json!("AAAA")).await;
    held.refuses_proof("proof_too_old", |_, claims| claims["iat"] = json!(now_s() - 90)).await;
    held.refuses_proof("proof_from_the_future", |_, claims| claims["iat"] = json!(now_s() + 90))
        .await;
    held.refuses_proof("proof_malformed", |_, claims| claims["jti"] = json!("x".repeat(300))).await;
    // None of it used the proof up, and a query is none of its business.
    let query = Call { target: format!("{PATH}?page=2"), ..dpop(&held.token, &overheard) };
    assert_eq!(held.edge.call(query).await.status, 200);
    assert_eq!(held.edge.app.seen().len(), 1);
}

#[tokio::test]
async fn attack_confuses_the_reader_of_dpop_proofs() {
    let held = Held::start(json!({"dpop": "required"})).await;
    for name in ["none", "HS256", "RS256"] {
        held.refuses_proof("proof_algorithm", |header, _| header["alg"] = json!(name)).await;
    }
    held.refuses_proof("proof_malformed", |header, _| header["typ"] = json!("at+jwt")).await;
    held.refuses_proof("proof_malformed", |header, _| header["jwk"]["d"] = json!("AAAA")).await;
    held.refuses_proof("proof_malformed", |header, _| header["crit"] = json!(["b64"])).await;
    let sound = held.proof(|_, _| {});
    held.refuses(dpop(&held.token, &sound).header("dpop", &sound), "proof_repeated").await;
    held.refuses(dpop(&held.token, &format!("{sound},{sound}")), "proof_malformed").await;
    held.refuses(dpop(&held.token, &"a".repeat(6000)), "proof_malformed").await;
    held.refuses(dpop(&held.token, &held.token), "proof_malformed").await;
    assert_eq!(held.edge.call(dpop(&held.token, &sound)).await.status, 200);
}

/// Where nobody checks proofs, a bound token is worth nothing to anybody.
#[tokio::test]
async fn attack_takes_a_bound_token_to_a_gateway_that_checks_nothing() {
    let held = Held::start(json!({"mtls": "optional"})).await;
    held.refuses(Call::get(API, PATH).bearer(&held.token), "binding_not_taken").await;
}
