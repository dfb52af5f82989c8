//! Workloads ask the token service for what they must not have.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_integration::client::stream;
use countersign_integration::lab::user_claims;
use countersign_integration::outcome;
use countersign_integration::token::{base64url, claims_of, now_s};
use countersign_integration::token_service::{Form, TokenService, granted, refused};
use countersign_integration::{App, Lab, Tokens, tls, wait};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use serde_json::{Value, json};

use super::{orders, used, web};

#[tokio::test]
async fn attack_unlisted_workload_asks_for_token() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let subject = service.access_token("alice", "orders.read");
    let form = Form::new("access_token", &subject);
    let other = lab.ca.leaf("shop", "other");
    let reply = service.ask(&lab, &other, &form).await;
    let record = refused(&service, &reply, "unauthorized_client", "requester_unlisted").await;
    let row = record["reason"].as_str().and_then(|reason| reason.split('/').next());
    assert_eq!(row, Some("token_request_refused"));
    // Nobody without a certificate of the mesh gets as far as a request.
    let mut plain = countersign_integration::Conn::h1(service.proxy.inbound()).await.unwrap();
    let reply = plain.send(form.call()).await.unwrap();
    outcome::refused(&service.proxy, &reply, "peer_unauthenticated").await;
    let foreign = countersign_integration::Authority::new("other.test").leaf("shop", "web");
    let config = tls::client(Some(&foreign), &[tls::MESH_H2]);
    let asked = async {
        let mut conn = countersign_integration::Conn::tls(service.proxy.inbound(), config).await?;
        conn.send(form.call()).await
    };
    assert!(asked.await.is_err());
}

#[tokio::test]
async fn attack_asks_for_more_scope_than_subject() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({"scopes": ["orders.*"]}))).await;
    let leaf = lab.ca.leaf("shop", "web");
    let subject = service.access_token("alice", "orders.read admin");
    let form = |scope: &str| Form::new("access_token", &subject).set("scope", scope);
    let reply = service.ask(&lab, &leaf, &form("orders.read orders.write admin")).await;
    assert_eq!(claims_of(&granted(&reply))["scope"], "orders.read");
    assert_eq!(reply.json()["scope"], "orders.read");
    for scope in ["orders.write", "admin", "unheard-of", "orders"] {
        let reply = service.ask(&lab, &leaf, &form(scope)).await;
        refused(&service, &reply, "invalid_scope", "scope_not_granted").await;
    }
}

#[tokio::test]
async fn attack_subject_without_scope_asks_for_any() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let leaf = lab.ca.leaf("shop", "web");
    let subject = service.users.user(&user_claims("alice"));
    let reply = service.ask(&lab, &leaf, &Form::new("access_token", &subject)).await;
    refused(&service, &reply, "invalid_scope", "scope_not_granted").await;
}

#[tokio::test]
async fn attack_uses_refresh_token_as_subject() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let leaf = lab.ca.leaf("shop", "web");
    // Also one that is a sound JWT of the provider.
    for subject in ["opaque".to_owned(), service.access_token("alice", "orders.read")] {
        let reply = service.ask(&lab, &leaf, &Form::new("refresh_token", &subject)).await;
        refused(&service, &reply, "invalid_request", "subject_type").await;
    }
}

#[tokio::test]
async fn attack_replaces_expired_token() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let leaf = lab.ca.leaf("shop", "web");
    let mut claims = lab.gateway.claims(&lab.id("shop", "web"));
    // Every verifier forgives clocks thirty seconds; a replacement forgives none.
    for ago in [0, 1, 29, 31] {
        claims["iat"] = json!(now_s() - ago - 60);
        claims["exp"] = json!(now_s() - ago);
        let reply =
            service.ask(&lab, &leaf, &Form::new("txn_token", &lab.gateway.sign(&claims))).await;
        refused(&service, &reply, "invalid_request", "subject_expired").await;
    }
    let mut claims = user_claims("alice");
    claims["scope"] = json!("orders.read");
    (claims["iat"], claims["exp"]) = (json!(now_s() - 600), json!(now_s() - 300));
    let subject = service.users.user(&claims);
    let reply = service.ask(&lab, &leaf, &Form::new("access_token", &subject)).await;
    refused(&service, &reply, "invalid_request", "subject_expired").await;
}

/// The head comes while the token lives, the form when it has ended.
#[tokio::test]
async fn attack_sends_its_form_after_the_token_ended() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let leaf = lab.ca.leaf("shop", "web");
    let mut conn = lab.peer(&service.proxy, &leaf).await;
    let mut claims = lab.gateway.claims(&lab.id("shop", "web"));
    let ends = now_s() + 1;
    claims["exp"] = json!(ends);
    let form = Form::new("txn_token", &lab.gateway.sign(&claims));
    let (sender, body) = stream();
    let late = async {
        wait::until_true("the end of the token", || now_s() > ends).await;
        let form = form.call().body.collect().await.unwrap().to_bytes();
        sender.send(Ok(Frame::data(form))).await.unwrap();
        drop(sender);
    };
    let (reply, ()) = tokio::join!(conn.send(form.call().body(body)), late);
    refused(&service, &reply.unwrap(), "invalid_request", "subject_expired").await;
}

#[tokio::test]
async fn attack_changes_subject_on_replacement() {
    let lab = Lab::new();
    let assert = ["claims", "acct", "authn"];
    let service = TokenService::start(&lab, web(&lab, json!({"assert": assert}))).await;
    let leaf = lab.ca.leaf("shop", "web");
    let old = lab.gateway.mint(&lab.id("shop", "web"));
    let stated = json!({"sub": "user:bob", "txn": "x", "aud": "y", "acct": "bob", "req_wl": "z", "origin": "batch"});
    let form = Form::new("txn_token", &old);
    let form = form.set("request_context", &stated.to_string());
    let form = form.set("request_details", &stated.to_string());
    let (before, after) =
        (claims_of(&old), claims_of(&granted(&service.ask(&lab, &leaf, &form).await)));
    for kept in ["txn", "sub", "aud"] {
        assert_eq!(before[kept], after[kept], "{kept}");
    }
    assert_eq!(
        (&after["rctx"]["acct"], &after["rctx"]["origin"]),
        (&json!("alice"), &json!("user"))
    );
    for name in ["sub", "txn", "csign_as"] {
        let reply =
            service.ask(&lab, &leaf, &Form::new("txn_token", &old).set(name, "user:bob")).await;
        refused(&service, &reply, "invalid_request", "form_malformed").await;
    }
    // Other claims than the issuer's own signature covers: no replacement of that.
    let mut parts: Vec<String> = old.split('.').map(str::to_owned).collect();
    let mut claims = before;
    claims["sub"] = json!("user:bob");
    parts[1] = base64url(&claims.to_string());
    let reply = service.ask(&lab, &leaf, &Form::new("txn_token", &parts.join("."))).await;
    refused(&service, &reply, "invalid_request", "subject_invalid").await;
}

#[tokio::test]
async fn attack_asserts_context_it_may_not() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({"assert": ["authn"]}))).await;
    let leaf = lab.ca.leaf("shop", "web");
    let subject = service.access_token("alice", "orders.read");
    let stated = json!({
        "authn": "mfa", "req_ip": "192.0.2.1", "groups": ["admins"], "acct": "bob", "bg": true,
        "dev": {"id": "d", "src": "mtls", "managed": true}, "appr": [{"sub": "user:boss", "at": 1}],
        "just": {"kind": "ticket", "ref": "SUP-1", "checked": true}, "idp": "other", "sc": "mtls",
        "tls": {"v": "1.3"}, "src_td": "other.test", "v": 2, "origin": "service",
    });
    let form = Form::new("access_token", &subject).set("request_context", &stated.to_string());
    let form =
        form.set("request_details", r#"{"m":"DELETE","params":{"user":"bob"},"req_chain":[]}"#);
    let claims = claims_of(&granted(&service.ask(&lab, &leaf, &form).await));
    let me = lab.id("shop", "web");
    let rctx =
        json!({"v": 1, "origin": "user", "to": me, "idp": "corp", "acct": "alice", "authn": "mfa"});
    assert_eq!(claims["rctx"], rctx);
    assert_eq!(claims.get("tctx"), None);
}

#[tokio::test]
async fn attack_asks_for_token_with_another_first_holder() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let app = App::mirror();
    let orders = orders(&lab, &service, &app).await;
    let leaf = lab.ca.leaf("shop", "web");
    let subject = service.access_token("alice", "orders.read");
    let victim = lab.id("shop", "billing");
    let stated = json!({"to": victim, "rctx": {"to": victim}, "req_wl": victim}).to_string();
    let form = Form::new("access_token", &subject);
    let form = form.set("request_context", &stated).set("request_details", &stated);
    let token = granted(&service.ask(&lab, &leaf, &form).await);
    assert_eq!(claims_of(&token)["rctx"]["to"], lab.id("shop", "web"));
    // So it is worth nothing to whom it was meant for, and works for who asked.
    let other = lab.ca.leaf("shop", "billing");
    outcome::refused(&orders, &used(&lab, &orders, &other, &token).await, "custody_broken").await;
    outcome::allowed(&orders, &used(&lab, &orders, &leaf, &token).await).await;
    for name in ["to", "req_wl", "actor_token"] {
        let reply =
            service.ask(&lab, &leaf, &Form::new("access_token", &subject).set(name, &victim)).await;
        refused(&service, &reply, "invalid_request", "form_malformed").await;
    }
}

#[tokio::test]
async fn attack_exchanges_a_token_it_does_not_hold() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let leaf = lab.ca.leaf("shop", "web");
    let stolen = lab.gateway.mint(&lab.id("shop", "billing"));
    let form = Form::new("txn_token", &stolen);
    let reply = service.ask(&lab, &leaf, &form).await;
    refused(&service, &reply, "invalid_request", "subject_not_held").await;
    // Nor with hop records that lead elsewhere, or were made up.
    for hops in ["a.b.c", "?1", "a;b=c", &stolen] {
        let reply = service.send(&lab, &leaf, form.call().header("countersign-hops", hops)).await;
        refused(&service, &reply, "invalid_request", "subject_not_held").await;
    }
}

#[tokio::test]
async fn attack_mints_in_bulk() {
    let lab = Lab::new();
    let entries = json!([web(&lab, json!({"rate": 3}))[0], {
        "peer": lab.id("shop", "calm"), "subjectTokens": ["access_token"], "origins": ["user"],
        "scopes": ["orders.*"], "rate": 3,
    }]);
    let service = TokenService::start(&lab, entries).await;
    let subject = service.access_token("alice", "orders.read");
    let form = Form::new("access_token", &subject);
    let (busy, calm) = (lab.ca.leaf("shop", "web"), lab.ca.leaf("shop", "calm"));
    let mut peer = lab.peer(&service.proxy, &busy).await;
    let mut slowed = None;
    // Sixty requests in whatever time they take: far more than three a second.
    for _ in 0..60 {
        let reply = peer.send(form.call()).await.unwrap();
        if reply.status != 200 {
            slowed = Some(reply);
        }
    }
    let slowed = slowed.expect("sixty tokens in bulk");
    assert_eq!((slowed.status, slowed.header("retry-after")), (429, Some("1")));
    refused(&service, &slowed, "temporarily_unavailable", "requester_rate").await;
    granted(&service.ask(&lab, &calm, &form).await);
}

#[tokio::test]
async fn attack_sends_unsigned_subject_token() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let (leaf, me) = (lab.ca.leaf("shop", "web"), lab.id("shop", "web"));
    let statement = service.statement(&me, &leaf);
    let parts: Vec<&str> = statement.split('.').collect();
    let none = base64url(r#"{"alg":"none","typ":"JWT"}"#);
    let hs = base64url(r#"{"alg":"HS256","typ":"JWT"}"#);
    let alien = Tokens::of(&lab.ca, "shop", "web");
    let by_other_key =
        alien.sign_with(&json!({"alg": "ES256", "typ": "JWT"}), &claims_of(&statement));
    let as_context =
        alien.sign_with(&json!({"alg": "ES256", "typ": "txntoken+jwt"}), &claims_of(&statement));
    let with_key = Tokens::new("lab.test", &me, leaf.clone());
    let named = with_key
        .sign_with(&json!({"alg": "ES256", "typ": "JWT", "kid": "x"}), &claims_of(&statement));
    let forged = [
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("{hs}.{}.{}", parts[1], URL_SAFE_NO_PAD.encode([7; 32])),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}.{}", parts[0], parts[1], URL_SAFE_NO_PAD.encode([0; 64])),
        claims_of(&statement).to_string(),
        by_other_key,
        as_context,
        named,
    ];
    for subject in forged {
        let reply = service.ask(&lab, &leaf, &Form::new("self_signed", &subject)).await;
        refused(&service, &reply, "invalid_request", "subject_invalid").await;
    }
    let user = claims_of(&service.access_token("alice", "orders.read"));
    let unsigned = format!("{none}.{}.", base64url(&user.to_string()));
    let reply = service.ask(&lab, &leaf, &Form::new("access_token", &unsigned)).await;
    refused(&service, &reply, "invalid_request", "subject_invalid").await;
    // Somebody else's sound statement is worth nothing on another connection.
    let other = lab.ca.leaf("shop", "other");
    let theirs = service.statement(&lab.id("shop", "other"), &other);
    let reply = service.ask(&lab, &leaf, &Form::new("self_signed", &theirs)).await;
    refused(&service, &reply, "invalid_request", "subject_invalid").await;
    granted(&service.ask(&lab, &leaf, &Form::new("self_signed", &statement)).await);
}

#[tokio::test]
async fn attack_sends_subject_token_for_other_audience() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let (leaf, me) = (lab.ca.leaf("shop", "web"), lab.id("shop", "web"));
    let own = Tokens::new("lab.test", &me, leaf.clone());
    let sound = claims_of(&service.statement(&me, &leaf));
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut claims = sound.clone();
        change(&mut claims);
        own.sign_with(&json!({"alg": "ES256", "typ": "JWT"}), &claims)
    };
    let now = now_s();
    let wrong = [
        changed(&|c| c["aud"] = json!("lab.test")),
        changed(&|c| c["aud"] = json!(lab.id("edge", "gateway"))),
        changed(&|c| c["aud"] = json!([lab.id("jobs", "issuer")])),
        changed(&|c| drop(c.as_object_mut().unwrap().remove("aud"))),
        changed(&|c| c["iss"] = json!(lab.id("shop", "other"))),
        changed(&|c| c["sub"] = json!(lab.id("shop", "other"))),
        changed(&|c| c["sub"] = json!("user:alice")),
        changed(&|c| (c["iat"], c["exp"]) = (json!(now - 100), json!(now - 40))),
        changed(&|c| (c["iat"], c["exp"]) = (json!(now + 100), json!(now + 160))),
        changed(&|c| (c["iat"], c["exp"]) = (json!(now), json!(now + 301))),
        changed(&|c| c["nbf"] = json!(now + 100)),
    ];
    for subject in wrong {
        let reply = service.ask(&lab, &leaf, &Form::new("self_signed", &subject)).await;
        refused(&service, &reply, "invalid_request", "subject_invalid").await;
    }
    granted(&service.ask(&lab, &leaf, &Form::new("self_signed", &changed(&|_| {}))).await);
    for (name, value) in
        [("aud", json!("https://other.example.com")), ("iss", json!("https://evil.example.com"))]
    {
        let mut claims = user_claims("alice");
        claims["scope"] = json!("orders.read");
        claims[name] = value;
        let subject = service.users.user(&claims);
        let reply = service.ask(&lab, &leaf, &Form::new("access_token", &subject)).await;
        refused(&service, &reply, "invalid_request", "subject_invalid").await;
    }
}

#[tokio::test]
async fn attack_asks_for_other_audience() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let leaf = lab.ca.leaf("shop", "web");
    let subject = service.access_token("alice", "orders.read");
    for audience in ["other.test", "lab.test other.test", "LAB.TEST", "spiffe://lab.test", "orders"]
    {
        let form = Form::new("access_token", &subject).set("audience", audience);
        let reply = service.ask(&lab, &leaf, &form).await;
        refused(&service, &reply, "invalid_target", "target_wrong").await;
    }
}

#[tokio::test]
async fn attack_presents_a_bound_user_token_without_its_key() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let leaf = lab.ca.leaf("shop", "web");
    let mut claims = user_claims("alice");
    claims["scope"] = json!("orders.read");
    claims["cnf"] = json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"});
    for kind in ["access_token", "jwt"] {
        let reply = service.ask(&lab, &leaf, &Form::new(kind, &service.users.user(&claims))).await;
        refused(&service, &reply, "invalid_request", "subject_invalid").await;
    }
}

#[tokio::test]
async fn attack_job_acts_for_somebody_unlisted_or_unchecked() {
    let lab = Lab::new();
    let entry = json!({"assert": ["just"], "impersonate": ["user:alice"]});
    let service = TokenService::start(&lab, web(&lab, entry)).await;
    let (leaf, me) = (lab.ca.leaf("shop", "web"), lab.id("shop", "web"));
    let form = |whom: &str| {
        let statement = service.statement(&me, &leaf);
        let just = json!({"just": {"kind": "ticket", "ref": "SUP-1", "checked": true}}).to_string();
        Form::new("self_signed", &statement).set("csign_as", whom).set("request_context", &just)
    };
    let reply = service.ask(&lab, &leaf, &form("user:bob")).await;
    refused(&service, &reply, "invalid_request", "as_not_permitted").await;
    // Whoever asks cannot say that its own justification was checked.
    let reply = service.ask(&lab, &leaf, &form("user:alice")).await;
    refused(&service, &reply, "invalid_request", "justification_unchecked").await;
    let reply = service.ask(&lab, &leaf, &form("user:alice").without("request_context")).await;
    refused(&service, &reply, "invalid_request", "justification_unchecked").await;
    let own = granted(&service.ask(&lab, &leaf, &form("user:alice").without("csign_as")).await);
    assert_eq!(claims_of(&own)["sub"], format!("svc:{me}"));
}

#[tokio::test]
async fn attack_reads_tokens_of_others_from_the_records_of_the_service() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let leaf = lab.ca.leaf("shop", "web");
    let subject = service.access_token("alice", "orders.read");
    let reply = service.ask(&lab, &leaf, &Form::new("access_token", &subject)).await;
    let token = granted(&reply);
    let broken = Form::new("access_token", &format!("{subject}x"));
    let reply = service.ask(&lab, &leaf, &broken).await;
    refused(&service, &reply, "invalid_request", "subject_invalid").await;
    let why = service.proxy.admin("/decisions").await.text();
    let said =
        format!("{}{}{}{}", service.proxy.log(), why, reply.text(), json!(service.proxy.audit()));
    for secret in [&token, &subject] {
        let signature = secret.rsplit('.').next().unwrap();
        assert!(!said.contains(signature), "a token can be read");
    }
}
