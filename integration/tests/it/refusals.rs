//! Every way to say no, produced over the wire: the caller's answer, the one audit record and the
//! metric must be those of the table of refusals. Reasons stand here as quoted words; `cargo xtask
//! tidy` looks for each of them.

use countersign_integration::app::status;
use countersign_integration::client::{self, Call};
use countersign_integration::lab::user_claims;
use countersign_integration::outcome::{self, refused, refused_grpc, refused_head};
use countersign_integration::proxy::Spec;
use countersign_integration::token::now_s;
use countersign_integration::{App, Lab, Mesh, Proxy, Tokens, documents, ports, tls, wait};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const HOST: &str = "orders.shop";

/// The table of the program and the tests of refusals know the same reasons.
#[test]
fn every_refusal_is_produced() {
    let here = concat!(
        include_str!("refusals.rs"),
        include_str!("context/binding.rs"),
        include_str!("context/custody.rs"),
        include_str!("context/proofs.rs"),
        include_str!("context/facts.rs"),
        include_str!("identity/callers/accounts.rs"),
        include_str!("interception/live.rs"),
        include_str!("interception/tcp.rs"),
        include_str!("context/issuers.rs"),
        include_str!("context/service/attacks.rs"),
    );
    let excepted = include_str!("../../../xtask/allow_unproduced.txt");
    for reason in outcome::table().keys() {
        let only_in_a_unit_test = excepted.lines().any(|line| line.starts_with(reason.as_str()));
        assert!(here.contains(&format!("\"{reason}\"")) || only_in_a_unit_test, "{reason}");
    }
    assert!(outcome::table().len() > 45);
}

/// A sound token for the sidecar `orders`, changed.
fn changed(lab: &Lab, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = lab.gateway.claims(&lab.id("shop", "orders"));
    change(&mut claims);
    lab.gateway.sign(&claims)
}

#[tokio::test]
async fn each_token_that_does_not_verify() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let web = Tokens::of(&lab.ca, "shop", "web");
    let me = lab.id("shop", "orders");
    let sound = lab.gateway.mint(&me);
    let broken = format!("{}AAAA", &sound[..sound.len() - 4]);
    let by_name = lab.gateway.sign_with(&lab.gateway.header_by_kid(), &lab.gateway.claims(&me));
    let tokens: [(&str, String); 11] = [
        ("token_malformed", "not.a.token".to_owned()),
        ("token_malformed", "one-part-only".to_owned()),
        ("token_too_large", "a".repeat(5000)),
        ("token_expired", changed(&lab, |claims| claims["exp"] = json!(now_s() - 31))),
        ("audience_wrong", changed(&lab, |claims| claims["aud"] = json!("other.test"))),
        ("issuer_not_allowed", web.mint(&me)),
        ("key_unknown", by_name),
        ("signature_invalid", broken),
        ("claim_invalid", changed(&lab, |claims| claims["rctx"]["v"] = json!(2))),
        ("constraint_violated", changed(&lab, |claims| claims["scope"] = json!("admin"))),
        ("custody_broken", lab.gateway.mint(&lab.id("shop", "other"))),
    ];
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    for (reason, token) in &tokens {
        let reply = peer.send(Call::get(HOST, "/").context(token)).await.unwrap();
        refused(&orders, &reply, reason).await;
    }
    let twice = Call::get(HOST, "/").context(&sound).context(&sound);
    refused(&orders, &peer.send(twice).await.unwrap(), "token_duplicated").await;
    let grpc = Call::post(HOST, "/shop.Orders/Get", "").grpc().context("a.b.c");
    refused_grpc(&orders, &peer.send(grpc).await.unwrap(), "token_malformed").await;
    assert!(app.seen().is_empty(), "a refused request reached the app");
    let reply = peer.send(Call::get(HOST, "/").context(&sound)).await.unwrap();
    assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"));
}

#[tokio::test]
async fn tokens_where_none_may_be_presented() {
    let lab = Lab::new();
    let app = App::mirror();
    let only_gateway = json!([{"peer": lab.id("edge", "gateway"), "to": "/v1/**"}]);
    let mesh = lab.mesh().with(|spec| spec["context"]["presenters"] = only_gateway);
    let orders = lab.orders_with(&app, &mesh, documents::anybody(), |spec| spec).await;
    let token = lab.gateway.mint(&lab.id("shop", "orders"));

    let elsewhere = Call::get(HOST, "/v2/orders").context(&token);
    let reply = lab.call_as_gateway(&orders, elsewhere).await;
    refused(&orders, &reply, "presenter_refused").await;
    let reply = client::call(orders.inbound(), Call::get(HOST, "/v1/orders").context(&token)).await;
    refused(&orders, &reply, "presenter_refused").await;
    let reply = lab.call_as_gateway(&orders, Call::get(HOST, "/v1/orders").context(&token)).await;
    assert_eq!(reply.status, 200);
}

/// Also the attack of flooding with bad signatures: others are served meanwhile.
#[tokio::test]
async fn attack_floods_bad_signatures() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let bad = lab.peer(&orders, &lab.ca.leaf("shop", "web")).await;
    let token = lab.gateway.mint(&lab.id("shop", "web"));
    let forged = format!("{}AAAA", &token[..token.len() - 4]);
    // Many at a time, so that they fall into one second on any machine.
    let mut all = JoinSet::new();
    let reply = loop {
        while all.len() < 40 {
            let (mut shared, forged) = (bad.share().unwrap(), forged.clone());
            all.spawn(async move { shared.send(Call::get(HOST, "/").context(&forged)).await });
        }
        let reply = all.join_next().await.unwrap().unwrap().unwrap();
        if reply.status != 401 {
            break reply;
        }
    };
    refused(&orders, &reply, "rate_limited").await;
    let sound = lab.gateway.mint(&lab.id("shop", "orders"));
    let reply = lab.call_as_gateway(&orders, Call::get(HOST, "/").context(&sound)).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn what_policy_does_not_allow() {
    let lab = Lab::new();
    let app = App::mirror();
    let rules = json!([
        {"name": "web-reads", "effect": "allow", "context": "required", "match": {
            "caller": {"anyOf": [{"namespace": "shop", "serviceAccount": "web"}]},
            "http": {"methods": ["GET"], "paths": [{"prefix": "/v1"}]}}},
        {"name": "no-admin", "effect": "deny", "match": {"http": {"paths": [{"prefix": "/v1/admin"}]}}},
    ]);
    let orders = lab.orders_with(&app, &lab.mesh(), rules, |spec| spec).await;
    let token = lab.gateway.mint(&lab.id("shop", "web"));
    let mut web = lab.peer(&orders, &lab.ca.leaf("shop", "web")).await;

    let reply = web.send(Call::get(HOST, "/v1/orders")).await.unwrap();
    refused(&orders, &reply, "token_missing").await;
    assert_eq!(reply.header("www-authenticate"), Some("Countersign error=\"missing_token\""));
    let reply = web.send(Call::get(HOST, "/v2").context(&token)).await.unwrap();
    let record = refused(&orders, &reply, "policy_denied").await;
    assert_eq!(record["reason"], "policy_denied/no_match");
    let reply = web.send(Call::get(HOST, "/v1/admin").context(&token)).await.unwrap();
    let record = refused(&orders, &reply, "policy_denied").await;
    assert_eq!(record["reason"], "policy_denied/deny_rule");
    assert_eq!(record["rule"], "no-admin");
    let grpc = Call::post(HOST, "/shop.Orders/Get", "").grpc().context(&token);
    refused_grpc(&orders, &web.send(grpc).await.unwrap(), "policy_denied").await;
    let reply = client::call(orders.inbound(), Call::get(HOST, "/v1/orders")).await;
    refused(&orders, &reply, "peer_unauthenticated").await;
    let reply = web.send(Call::get(HOST, "/v1/orders").context(&token)).await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn requests_with_more_than_one_reading() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    for (reason, call) in [
        ("path_not_canonical", Call::get(HOST, "/a%2Fb")),
        ("path_not_canonical", Call::get(HOST, "/a//b")),
        ("path_not_canonical", Call::get(HOST, "/a/..;/b")),
        ("host_invalid", Call::get(HOST, "/").header("host", "other.shop")),
        ("uri_too_long", Call::get(HOST, &format!("/{}", "a".repeat(17_000)))),
        ("header_too_large", Call::get(HOST, "/").header("x-big", &"a".repeat(17_000))),
    ] {
        refused(&orders, &peer.send(call).await.unwrap(), reason).await;
    }
    let config = tls::client(Some(lab.gateway.leaf()), &[tls::MESH_HTTP1]);
    let raw = async |text: &str| {
        let stream = client::tls_stream(orders.inbound(), config.clone()).await.unwrap();
        client::parse_raw(&client::raw(stream, text.as_bytes()).await)
    };
    let close = "Host: orders.shop\r\nConnection: close\r\n\r\n";
    for (reason, text) in [
        (
            "header_forbidden",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, countersign-user\r\n\r\n",
        ),
        ("header_forbidden", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, txn-token\r\n\r\n"),
        ("host_invalid", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n"),
        (
            "upgrade_unsupported",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: tls/1.0\r\n\r\n",
        ),
    ] {
        refused(&orders, &raw(text).await, reason).await;
    }
    for text in [
        format!("GET / HTTP/1.1\nHost: a\n\n{close}"),
        format!("GET / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n{close}"),
        format!("GET / HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n{close}"),
        format!("GET / HTTP/1.1\r\nBad Name: 1\r\n{close}"),
    ] {
        refused_head(&orders, &raw(&text).await, "request_malformed").await;
    }
    let connect = "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n";
    refused(&orders, &raw(connect).await, "connect_unsupported").await;
    assert!(app.seen().is_empty(), "a refused request reached the app");
}

#[tokio::test]
async fn a_head_that_does_not_end() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec.limit("H1_HEAD_MS_MAX", 200)).await;
    let config = tls::client(Some(lab.gateway.leaf()), &[tls::MESH_HTTP1]);
    let stream = client::tls_stream(orders.inbound(), config).await.unwrap();
    let answer = client::raw(stream, b"GET / HTTP/1.1\r\nHost: orders").await;
    refused_head(&orders, &client::parse_raw(&answer), "request_timeout").await;
}

#[tokio::test]
async fn an_app_that_does_not_answer() {
    let lab = Lab::new();
    // Answers with a broken line, hangs, or closes the connection.
    let app = App::serving(|request| {
        Box::pin(async move {
            match request.uri().path() {
                "/hang" => std::future::pending().await,
                "/close" => anyhow::bail!("closed"),
                _ => status(204),
            }
        })
    });
    let orders = lab.orders(&app, |spec| spec.limit("REQUEST_MS_MAX", 3_000)).await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    let reply = peer.send(Call::get(HOST, "/hang")).await.unwrap();
    refused(&orders, &reply, "app_timeout").await;
    let reply = peer.send(Call::get(HOST, "/close")).await.unwrap();
    refused(&orders, &reply, "app_failed").await;
    assert_eq!(peer.send(Call::get(HOST, "/")).await.unwrap().status, 204);
}

#[tokio::test]
async fn an_app_that_is_not_there() {
    let lab = Lab::new();
    let (app, nobody) = (App::mirror(), ports::free());
    let elsewhere = |config: &mut Value| config["app"][0]["address"] = json!(nobody);
    let orders = lab.orders(&app, |spec| spec.with(elsewhere)).await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    let reply = peer.send(Call::get(HOST, "/")).await.unwrap();
    refused(&orders, &reply, "app_not_listening").await;
}

#[tokio::test]
async fn more_requests_than_may_be_in_flight() {
    let lab = Lab::new();
    let app = App::serving(|_| Box::pin(std::future::pending()));
    let orders = lab.orders(&app, |spec| spec.limit("INFLIGHT_MAX", 1)).await;
    let mut first = lab.peer(&orders, lab.gateway.leaf()).await;
    let held = tokio::spawn(async move { first.start(Call::get(HOST, "/")).await });
    wait::until_true("the first request at the app", || !app.seen().is_empty()).await;
    let mut second = lab.peer(&orders, lab.gateway.leaf()).await;
    let reply = second.send(Call::get(HOST, "/")).await.unwrap();
    refused(&orders, &reply, "overloaded").await;
    assert_eq!(reply.header("retry-after"), Some("1"));
    held.abort();
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_its_record() {
    let lab = Lab::new();
    let app = App::serving(|_| Box::pin(std::future::pending()));
    let orders = lab.orders(&app, |spec| spec).await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    let waiting = tokio::spawn(async move { peer.start(Call::get(HOST, "/")).await });
    wait::until_true("the request at the app", || !app.seen().is_empty()).await;
    waiting.abort();
    let gone = |record: &Value| record["reason"] == "client_gone" && record["decision"] == "allow";
    wait::until_true("its record", || orders.decisions().iter().any(gone)).await;
    assert_eq!(orders.decisions().len(), 1);
}

#[tokio::test]
async fn verified_headers_over_their_limit() {
    let lab = Lab::new();
    let app = App::mirror();
    let mesh = lab.mesh().with(|spec| spec["context"]["headers"] = json!(["groups"]));
    let orders = lab.orders_with(&app, &mesh, documents::anybody(), |spec| spec).await;
    let groups: Vec<String> =
        (10..26).map(|number| format!("{number}{}", ",".repeat(50))).collect();
    let token = changed(&lab, |claims| claims["rctx"]["groups"] = json!(groups));
    let reply = lab.call_as_gateway(&orders, Call::get(HOST, "/").context(&token)).await;
    refused(&orders, &reply, "context_too_large").await;
}

#[tokio::test]
async fn calls_that_reach_nobody() {
    let lab = Lab::new();
    let orders = lab.id("shop", "orders");
    let own = ports::free();
    let server = |account| tls::server(&lab.ca.leaf("shop", account), &[tls::MESH_H2]);
    let wrong = App::tls_mirror(server("other"));
    let silent = App::tls(server("orders"), |_| Box::pin(std::future::pending()));
    let broken = App::tls(server("orders"), |_| Box::pin(async { anyhow::bail!("reset") }));
    let mesh = lab
        .mesh()
        .destination("shop/gone", "gone.shop", ports::free(), &[&orders])
        .destination("shop/wrong", "wrong.shop", wrong.address, &[&orders])
        .destination("shop/silent", "silent.shop", silent.address, &[&orders])
        .destination("shop/broken", "broken.shop", broken.address, &[&orders])
        .destination("shop/self", "self.shop", own, &[&orders]);
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    let spec = lab.proxy("shop", "web").outbound_at(own).documents(&[&mesh]);
    let web = spec.limit("REQUEST_MS_MAX", 3_000).start().await;
    for (reason, host) in [
        ("destination_unknown", "example.com"),
        ("upstream_unreachable", "gone.shop"),
        ("server_identity_unexpected", "wrong.shop"),
        ("upstream_timeout", "silent.shop"),
        ("upstream_failed", "broken.shop"),
        ("loop_detected", "self.shop"),
    ] {
        let reply = client::call(web.outbound(), Call::get(host, "/")).await;
        refused(&web, &reply, reason).await;
    }
    assert!(wrong.seen().is_empty(), "a server with the wrong identity got the request");
}

/// A mesh server that plays `orders`, and the gateway in front of it.
async fn gateway(
    lab: &Lab,
    users: &Tokens,
    change: impl FnOnce(Mesh) -> Mesh,
    spec: impl FnOnce(Spec) -> Spec,
) -> (Proxy, App) {
    let server = App::tls_mirror(tls::server(&lab.ca.leaf("shop", "orders"), &[tls::MESH_H2]));
    let mesh = lab.gateway_mesh(users);
    let orders = lab.id("shop", "orders");
    let mesh = mesh.destination("shop/orders", "orders.shop", server.address, &[&orders]);
    let proxy = lab.gateway_to(&change(mesh), "shop/orders", spec).await;
    (proxy, server)
}

const API: &str = "api.example.com";
const PATH: &str = "/v1/users/alice/orders";

#[tokio::test]
async fn what_the_gateway_does_not_let_in() {
    let lab = Lab::new();
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let (edge, server) = gateway(&lab, &users, |mesh| mesh, |spec| spec).await;
    let sound = users.user(&user_claims("alice"));
    let user = |change: &dyn Fn(&mut Value)| {
        let mut claims = user_claims("alice");
        change(&mut claims);
        users.user(&claims)
    };
    let get = |path: &str| Call::get(API, path);
    for (reason, call) in [
        ("user_token_missing", get(PATH)),
        ("user_token_malformed", get(PATH).bearer("x")),
        ("user_token_malformed", get(PATH).bearer(&sound).bearer(&sound)),
        ("user_token_expired", get(PATH).bearer(&user(&|c| c["exp"] = json!(now_s() - 60)))),
        ("user_token_invalid", get(PATH).bearer(&format!("{}AAAA", &sound[..sound.len() - 4]))),
        ("user_token_invalid", get(PATH).bearer(&user(&|c| c["aud"] = json!("https://other")))),
        ("user_claim_invalid", get(PATH).bearer(&user(&|c| c["uid"] = json!(7)))),
        ("route_unknown", Call::get("other.example.com", PATH).bearer(&sound)),
        ("mint_rule_missing", get("/v2/anything").bearer(&sound)),
    ] {
        let reply = client::call(edge.gateway(), call).await;
        refused(&edge, &reply, reason).await;
    }
    assert!(server.seen().is_empty());
    let reply = client::call(edge.gateway(), get(PATH).bearer(&sound)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.seen("txn-token").is_some());
    assert_eq!(reply.seen("authorization"), None);
}

#[tokio::test]
async fn what_the_gateway_cannot_capture() {
    let lab = Lab::new();
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let captures = |mesh: Mesh| {
        mesh.with_gateway(|spec| {
            spec["clientAddress"] = json!({"trustedHops": 1, "trustedProxies": ["127.0.0.0/8"],
                "from": "x-forwarded-for"});
            spec["justification"] = json!({"header": "Countersign-Justification",
                "kinds": {"ticket": {"pattern": "SUP-[0-9]{1,8}"}}});
        })
    };
    let (edge, _server) =
        gateway(&lab, &users, captures, |spec| spec.limit("BODY_BYTES_MAX", 1000)).await;
    let sound = users.user(&user_claims("alice"));
    let get = || Call::get(API, PATH).bearer(&sound);
    for (reason, call) in [
        ("client_address_invalid", get().header("x-forwarded-for", "unknown")),
        ("justification_invalid", get().header("countersign-justification", "ticket=X")),
        ("justification_invalid", get().header("countersign-justification", "pet=SUP-1")),
        ("body_too_large", Call::post(API, PATH, "x".repeat(2000)).bearer(&sound)),
    ] {
        let reply = client::call(edge.gateway(), call).await;
        refused(&edge, &reply, reason).await;
    }
    let call = get().header("x-forwarded-for", "203.0.113.7");
    let call = call.header("countersign-justification", "ticket=SUP-1");
    let reply = client::call(edge.gateway(), call).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn a_gateway_without_what_it_needs() {
    let lab = Lab::new();
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let unlisted = |mesh: Mesh| {
        mesh.with(|spec| spec["context"]["issuers"][0]["id"] = json!(lab.id("edge", "other")))
    };
    let (edge, _server) = gateway(&lab, &users, unlisted, |spec| spec).await;
    let call = Call::get(API, PATH).bearer(&users.user(&user_claims("alice")));
    let reply = client::call(edge.gateway(), call).await;
    refused(&edge, &reply, "identity_unavailable").await;
    drop(edge);

    // An identity provider that cannot be reached concerns its own users only.
    let lab = Lab::new();
    let nowhere = format!("http://{}", ports::free());
    let unreachable = |mesh: Mesh| {
        mesh.with(|spec| {
            spec["identityProviders"][0]["spec"]["issuer"] = json!(nowhere);
            spec["identityProviders"][0]["spec"]["keys"] =
                json!({"discovery": {"allowedHosts": ["127.0.0.1"]}});
        })
    };
    let (edge, _server) = gateway(&lab, &users, unreachable, |spec| spec).await;
    let mut claims = user_claims("alice");
    claims["iss"] = json!(nowhere);
    let reply =
        client::call(edge.gateway(), Call::get(API, PATH).bearer(&users.user(&claims))).await;
    refused(&edge, &reply, "user_keys_unavailable").await;
}

/// Audit goes to a pipe that nobody reads, and the mesh demands a record of everything.
#[tokio::test]
async fn an_audit_trail_that_cannot_be_written() {
    let lab = Lab::new();
    let app = App::serving(|_| Box::pin(async { status(204) }));
    let mesh = lab.mesh().with(|spec| spec["audit"] = json!({"onFull": "refuse"}));
    let orders = lab
        .orders_with(&app, &mesh, documents::anybody(), |spec| {
            spec.unread_stdout().with(|config| config["audit"] = json!({"sink": "stdout"}))
        })
        .await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    let reply = loop {
        let reply = peer.send(Call::get(HOST, "/")).await.unwrap();
        if reply.status != 204 {
            break reply;
        }
    };
    // There is no record to look at: that is the point.
    assert_eq!(reply.status, 503);
    assert_eq!(reply.json()["title"], "unavailable");
    let reason = "audit_unavailable";
    let label = format!("reason=\"{reason}\"");
    orders.metric_reaches("countersign_refusals_total", &[&label], 1.0).await;
}
