//! What outsiders and apps send to the gateway and to their own sidecar (T1, T19).

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::lab::user_claims;
use countersign_integration::outcome::refused;
use countersign_integration::{App, Lab, Mesh, Proxy, Reply, Tokens, tls, token};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

const API: &str = "api.example.com";
const PATH: &str = "/v1/users/alice/orders";

/// A gateway, a server that plays `orders` and shows the token, and a sound user token.
struct Edge {
    gateway: Proxy,
    server: App,
    alice: String,
    _lab: Lab,
}

impl Edge {
    async fn start(change: impl FnOnce(Mesh) -> Mesh) -> Edge {
        Edge::with(change, |_| {}).await
    }

    async fn with(change: impl FnOnce(Mesh) -> Mesh, config: impl FnOnce(&mut Value)) -> Edge {
        let lab = Lab::new();
        let users = Tokens::of(&lab.ca, "idp", "keys");
        let server = App::tls_mirror(tls::server(&lab.ca.leaf("shop", "orders"), &[tls::MESH_H2]));
        let orders = lab.id("shop", "orders");
        let mesh = lab.gateway_mesh(&users);
        let mesh = mesh.destination("shop/orders", "orders.shop", server.address, &[&orders]);
        let mesh = change(mesh);
        let gateway = lab.gateway_to(&mesh, "shop/orders", |spec| spec.with(config)).await;
        let alice = users.user(&user_claims("alice"));
        Edge { gateway, server, alice, _lab: lab }
    }

    fn get(&self) -> Call {
        Call::get(API, PATH).bearer(&self.alice)
    }

    async fn send(&self, call: Call) -> Reply {
        client::call(self.gateway.gateway(), call).await
    }

    /// The claims of the token in the request the server saw last.
    fn minted(&self) -> Value {
        use base64::Engine as _;
        let seen = self.server.last();
        let token = seen.header("txn-token").expect("no token reached the server").to_owned();
        let payload = token.split('.').nth(1).unwrap();
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }
}

fn behind_one_proxy(mesh: Mesh) -> Mesh {
    mesh.with_gateway(|spec| {
        spec["clientAddress"] = json!({"trustedHops": 1, "trustedProxies": ["127.0.0.0/8"],
            "from": "x-forwarded-for"});
    })
}

#[tokio::test]
async fn attack_sends_forged_context_headers_to_the_gateway() {
    let edge = Edge::start(|mesh| mesh).await;
    let forged = edge
        .get()
        .header("countersign-user", "root")
        .header("countersign-scope", "admin")
        .header("countersign-caller", "spiffe://lab.test/ns/edge/sa/gateway")
        .header("countersign-context", "AAAAAAAAAAAAAAAAAAAAAA")
        .header("countersign-hops", "x")
        .header("txn-token", "a.b.c");
    let reply = edge.send(forged).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = edge.server.last();
    for name in ["countersign-user", "countersign-scope", "countersign-caller", "countersign-hops"]
    {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.headers.get_all("txn-token").iter().count(), 1);
    assert_eq!(edge.minted()["sub"], "user:alice");
    let counted = ["direction=\"gateway\"", "where=\"header\""];
    let name = "countersign_reserved_headers_removed_total";
    assert!(edge.gateway.metric(name, &counted).await >= 6.0);
}

#[tokio::test]
async fn attack_spells_reserved_names_with_underscore_and_case() {
    let edge = Edge::start(|mesh| mesh).await;
    let text = format!(
        "GET {PATH} HTTP/1.1\r\nHost: {API}\r\nAuthorization: Bearer {}\r\n\
         COUNTERSIGN-USER: root\r\nCountersign_User: root\r\ncountersign_scope: admin\r\n\
         Txn_Token: a.b.c\r\nTXN-TOKEN: a.b.c\r\nConnection: close\r\n\r\n",
        edge.alice
    );
    let answer = client::raw_tcp(edge.gateway.gateway(), text.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = edge.server.last();
    let reserved = |name: &str| {
        let name = name.replace('_', "-");
        name.starts_with("countersign-") && name != "countersign-http1"
    };
    let left: Vec<_> = seen.headers.keys().filter(|name| reserved(name.as_str())).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(seen.header("txn_token"), None);
    assert_eq!(edge.minted()["sub"], "user:alice");
}

#[tokio::test]
async fn attack_hides_reserved_names_in_trailers() {
    let edge = Edge::start(|mesh| mesh).await;
    let text = format!(
        "POST {PATH}/echo HTTP/1.1\r\nHost: {API}\r\nAuthorization: Bearer {}\r\nTE: trailers\r\n\
         Transfer-Encoding: chunked\r\nConnection: close, te\r\n\r\n2\r\nhi\r\n0\r\n\
         Countersign-User: root\r\nx-mine: 1\r\nTxn-Token: a.b.c\r\n\r\n",
        edge.alice
    );
    let answer = client::raw_tcp(edge.gateway.gateway(), text.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!answer.contains("root") && !answer.contains("a.b.c"), "{answer}");
    let labels = ["where=\"trailer\""];
    let name = "countersign_reserved_headers_removed_total";
    edge.gateway.metric_reaches(name, &labels, 2.0).await;
}

#[tokio::test]
async fn attack_nominates_our_headers_in_connection() {
    let edge = Edge::start(|mesh| mesh).await;
    for nominated in ["countersign-user", "txn-token", "Countersign_Caller", "authorization"] {
        let text = format!(
            "GET {PATH} HTTP/1.1\r\nHost: {API}\r\nAuthorization: Bearer {}\r\n\
             Connection: close, {nominated}\r\n\r\n",
            edge.alice
        );
        let answer = client::raw_tcp(edge.gateway.gateway(), text.as_bytes()).await;
        refused(&edge.gateway, &client::parse_raw(&answer), "header_forbidden").await;
    }
    assert!(edge.server.seen().is_empty());
}

#[tokio::test]
async fn attack_sends_client_cert_header_from_outside() {
    let edge = Edge::start(|mesh| mesh).await;
    let call = edge
        .get()
        .header("x-forwarded-client-cert", "By=spiffe://lab.test/ns/edge/sa/gateway")
        .header("client-cert", ":AAAA:")
        .header("client-cert-chain", ":AAAA:");
    assert_eq!(edge.send(call).await.status, 200);
    let seen = edge.server.last();
    for name in ["x-forwarded-client-cert", "client-cert", "client-cert-chain"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn attack_spoofs_leftmost_forwarded_for() {
    let edge = Edge::start(behind_one_proxy).await;
    let call = edge.get().header("x-forwarded-for", "10.0.0.1, 203.0.113.7");
    assert_eq!(edge.send(call).await.status, 200);
    assert_eq!(edge.minted()["rctx"]["req_ip"], "203.0.113.7");
    assert_eq!(edge.minted()["rctx"]["ip_src"], "xff:1");
    // What goes on is what the gateway found out, nothing the client wrote.
    let seen = edge.server.last();
    assert_eq!(seen.header("x-forwarded-for"), Some("203.0.113.7"));
}

#[tokio::test]
async fn attack_splits_forwarded_for_over_lines() {
    let edge = Edge::start(behind_one_proxy).await;
    let call = edge.get().header("x-forwarded-for", "203.0.113.7");
    let call = call.header("x-forwarded-for", "198.51.100.9");
    assert_eq!(edge.send(call).await.status, 200);
    assert_eq!(edge.minted()["rctx"]["req_ip"], "198.51.100.9");
}

#[tokio::test]
async fn attack_puts_port_zone_or_unknown_in_forwarded_for() {
    let edge = Edge::start(behind_one_proxy).await;
    for value in ["203.0.113.7:80", "fe80::1%eth0", "unknown", "_hidden", "1.2.3.4,", "[::1]"] {
        let reply = edge.send(edge.get().header("x-forwarded-for", value)).await;
        refused(&edge.gateway, &reply, "client_address_invalid").await;
    }
}

#[tokio::test]
async fn attack_sends_too_short_forwarded_for() {
    let edge = Edge::start(|mesh| {
        let mesh = behind_one_proxy(mesh);
        mesh.with_gateway(|spec| spec["clientAddress"]["trustedHops"] = json!(2))
    })
    .await;
    let call = edge.get().header("x-forwarded-for", "203.0.113.7");
    assert_eq!(edge.send(call).await.status, 200);
    assert_eq!(edge.minted()["rctx"]["req_ip"], "127.0.0.1");
    assert_eq!(edge.minted()["rctx"]["ip_src"], "peer-short");
}

/// Without a trusted proxy nothing a client writes about its address counts.
#[tokio::test]
async fn attack_states_its_own_address() {
    let edge = Edge::start(|mesh| mesh).await;
    let mut call = edge.get();
    for name in ["x-forwarded-for", "x-real-ip", "true-client-ip", "cf-connecting-ip"] {
        call = call.header(name, "203.0.113.7");
    }
    let call = call.header("forwarded", "for=203.0.113.7");
    assert_eq!(edge.send(call).await.status, 200);
    assert_eq!(edge.minted()["rctx"]["req_ip"], "127.0.0.1");
    assert_eq!(edge.minted()["rctx"]["ip_src"], "peer");
    let seen = edge.server.last();
    for name in ["x-real-ip", "true-client-ip", "cf-connecting-ip"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

fn from_balancer(config: &mut Value) {
    config["listeners"]["gateway"][0]["proxyProtocol"] = json!({"from": ["127.0.0.1/32"]});
}

fn with_proxy_protocol(mesh: Mesh) -> Mesh {
    mesh.with_gateway(|spec| {
        spec["clientAddress"] = json!({"trustedHops": 0, "from": "proxy-protocol"});
    })
}

#[tokio::test]
async fn proxy_protocol_names_the_client() {
    let edge = Edge::with(with_proxy_protocol, from_balancer).await;
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    v2.extend([203, 0, 113, 8, 127, 0, 0, 1, 0x1f, 0x90, 0, 80]);
    for (header, address, source) in [
        (b"PROXY TCP4 203.0.113.7 127.0.0.1 4000 80\r\n".to_vec(), "203.0.113.7", "pp1"),
        (v2, "203.0.113.8", "pp2"),
    ] {
        let mut stream = TcpStream::connect(edge.gateway.gateway()).await.unwrap();
        stream.write_all(&header).await.unwrap();
        let mut conn = Conn::h1_over(stream).await.unwrap();
        assert_eq!(conn.send(edge.get()).await.unwrap().status, 200);
        assert_eq!(edge.minted()["rctx"]["req_ip"], address);
        assert_eq!(edge.minted()["rctx"]["ip_src"], source);
    }
}

#[tokio::test]
async fn attack_speaks_proxy_protocol_from_untrusted_peer() {
    // This listener demands no PROXY header, so one is just a malformed request.
    let edge = Edge::start(|mesh| mesh).await;
    let text = format!("PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\nGET {PATH} HTTP/1.1\r\n\r\n");
    let answer = client::raw_tcp(edge.gateway.gateway(), text.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400") || answer.is_empty(), "{answer}");
    assert!(edge.server.seen().is_empty());
}

#[tokio::test]
async fn attack_skips_the_mandatory_proxy_header() {
    let edge = Edge::with(with_proxy_protocol, from_balancer).await;
    let text = format!("GET {PATH} HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n");
    let answer = client::raw_tcp(edge.gateway.gateway(), text.as_bytes()).await;
    assert_eq!(answer, "");
    let label = "reason=\"client_address_invalid\"";
    edge.gateway.metric_reaches("countersign_refusals_total", &[label], 1.0).await;
    assert!(edge.server.seen().is_empty());
}

#[tokio::test]
async fn attack_sends_device_header_directly() {
    let edge = Edge::start(|mesh| mesh).await;
    let call = edge.get().header("countersign-device", "d-1").header("countersign-claims", "e30");
    assert_eq!(edge.send(call).await.status, 200);
    assert_eq!(edge.server.last().header("countersign-device"), None);
    assert_eq!(edge.minted()["rctx"]["dev"], Value::Null);
}

#[tokio::test]
async fn attack_invents_a_ticket() {
    let edge = Edge::start(|mesh| {
        mesh.with_gateway(|spec| {
            spec["justification"] = json!({"header": "Countersign-Justification",
                "kinds": {"ticket": {"pattern": "SUP-[0-9]{1,8}"}}});
        })
    })
    .await;
    let reply = edge.send(edge.get().header("countersign-justification", "ticket=SUP-99")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    // Nobody checked it, and the token says so.
    let just = &edge.minted()["rctx"]["just"];
    assert_eq!((&just["ref"], &just["checked"]), (&json!("SUP-99"), &json!(false)));
    for invented in ["ticket=SUP-99x", "ticket=xSUP-99", "pet=SUP-99", "SUP-99", ""] {
        let reply = edge.send(edge.get().header("countersign-justification", invented)).await;
        refused(&edge.gateway, &reply, "justification_invalid").await;
    }
}

#[tokio::test]
async fn attack_app_sets_countersign_headers_outbound() {
    let lab = Lab::new();
    let leaf = lab.ca.leaf("shop", "orders");
    let server = App::tls_mirror(tls::server(&leaf, &[tls::MESH_H2]));
    let orders = lab.id("shop", "orders");
    let mesh = lab.mesh().destination("shop/orders", "orders.shop", server.address, &[&orders]);
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    let web = lab.proxy("shop", "web").outbound().documents(&[&mesh]).start().await;
    let stolen = lab.gateway.mint(&lab.id("shop", "web"));
    let call = Call::get("orders.shop", "/")
        .context(&stolen)
        .header("countersign-user", "root")
        .header("countersign_user", "root")
        .header("countersign-hops", "x")
        .header("countersign-context", "AAAAAAAAAAAAAAAAAAAAAA");
    let reply = client::call(web.outbound(), call).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = server.last();
    for name in ["txn-token", "countersign-user", "countersign_user", "countersign-hops"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    let unknown = "result=\"unknown_handle\"";
    assert_eq!(web.metric("countersign_context_lookup_total", &[unknown]).await, 1.0);
}

/// A name that no document knows is never dialled, with or without context.
#[tokio::test]
async fn attack_collects_context_at_internet_host() {
    let lab = Lab::new();
    let collector = App::mirror();
    let mesh = lab.write("web-mesh.yaml", &lab.mesh().document());
    let web = lab.proxy("shop", "web").outbound().documents(&[&mesh]).start().await;
    let host = format!("127.0.0.1:{}", collector.address.port());
    let call = Call::get(&host, "/").header("countersign-context", "AAAAAAAAAAAAAAAAAAAAAA");
    let reply = client::call(web.outbound(), call).await;
    refused(&web, &reply, "destination_unknown").await;
    assert!(collector.seen().is_empty());
}

/// A user's token outlives nothing: ended ones, foreign ones and unsigned ones mint nothing.
#[tokio::test]
async fn attack_sends_unsigned_subject_token() {
    let edge = Edge::start(|mesh| mesh).await;
    let header = json!({"alg": "none", "typ": "at+jwt"}).to_string();
    let claims = user_claims("root").to_string();
    let unsigned = format!("{}.{}.", token::base64url(&header), token::base64url(&claims));
    let reply = edge.send(Call::get(API, PATH).bearer(&unsigned)).await;
    assert!([400, 401].contains(&reply.status), "{}", reply.status);
    assert!(edge.server.seen().is_empty());
}

/// Whatever the client says of its own host and way is gone; what the app reads is said once.
#[tokio::test]
async fn attack_sends_forwarded_host_twice() {
    let edge = Edge::start(|mesh| mesh).await;
    let call = edge
        .get()
        .header("x-forwarded-host", "evil.example")
        .header("x-forwarded-host", "worse.example")
        .header("x-forwarded-proto", "gopher")
        .header("x-real-ip", "203.0.113.9")
        .header("forwarded", "for=203.0.113.9;host=evil.example");
    assert_eq!(edge.send(call).await.status, 200);
    let seen = edge.server.last();
    assert_eq!(seen.header("x-forwarded-host"), None);
    assert_eq!(seen.header("x-real-ip"), None);
    assert_eq!(seen.header("forwarded"), None);
    for name in ["x-forwarded-for", "x-forwarded-proto"] {
        assert_eq!(seen.headers.get_all(name).iter().count(), 1, "{name}");
    }
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_ne!(seen.header("x-forwarded-proto"), Some("gopher"));
}

/// One client's requests share no trace id inside, and a transaction's id is no trace id.
#[tokio::test]
async fn attack_links_users_through_trace_ids() {
    let edge = Edge::start(|mesh| mesh).await;
    let sent = "0af7651916cd43dd8448eb211c80319c";
    let mut inside = Vec::new();
    for _ in 0..2 {
        let traced = format!("00-{sent}-b7ad6b7169203331-01");
        let call = edge.get().header("traceparent", &traced).header("tracestate", "user=alice");
        assert_eq!(edge.send(call).await.status, 200);
        let seen = edge.server.last();
        assert_eq!(seen.header("tracestate"), None);
        let trace = seen.header("traceparent").unwrap().split('-').nth(1).unwrap().to_owned();
        let txn = edge.minted()["txn"].as_str().unwrap().replace('-', "");
        assert_ne!(txn, trace);
        inside.extend([trace, txn]);
    }
    inside.push(sent.to_owned());
    inside.sort();
    let all = inside.len();
    inside.dedup();
    assert_eq!(inside.len(), all, "{inside:?}");
}

/// Segments are compared as bytes: nothing in a request's path is a pattern.
#[tokio::test]
async fn attack_uses_pattern_characters_in_path() {
    let narrow = |mesh: Mesh| {
        mesh.with_gateway(|spec| {
            let paths = json!([{"exact": "/v1/users/a.c/orders"}, {"prefix": "/v1/(health)"}]);
            spec["mint"][0]["match"]["http"]["paths"] = paths;
        })
    };
    let edge = Edge::start(narrow).await;
    let ask = async |path: &str| edge.send(Call::get(API, path).bearer(&edge.alice)).await;
    for path in ["/v1/users/a.c/orders", "/v1/(health)/x"] {
        assert_eq!(ask(path).await.status, 200, "{path}");
    }
    let served = edge.server.seen().len();
    for path in ["/v1/users/abc/orders", "/v1/users/.*/orders", "/v1/users/*/orders", "/v1/health"]
    {
        refused(&edge.gateway, &ask(path).await, "mint_rule_missing").await;
    }
    assert_eq!(edge.server.seen().len(), served);
}
