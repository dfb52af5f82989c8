//! What apps and servers return to mislead (T25).

use countersign_integration::client::{self, Call, full};
use countersign_integration::outcome::refused;
use countersign_integration::{App, Lab, Proxy, documents, tls};
use http::Response;
use serde_json::json;

const HOST: &str = "orders.shop";
const RESERVED: [(&str, &str); 7] = [
    ("countersign-user", "root"),
    ("countersign-decision", "01M7Z2CAR18Q56WGQYHP7E7NV6"),
    ("countersign-certs", "\"AAAA\""),
    ("countersign-http1", "reason=Fine"),
    ("countersign-token-header", "?1;app"),
    ("txn-token", "a.b.c"),
    ("countersign_context", "AAAAAAAAAAAAAAAAAAAAAA"),
];

/// An app that answers with every reserved name, in its head and with the token it might hold.
fn liar() -> App {
    App::serving(|request| {
        Box::pin(async move {
            let mut response = Response::builder().header("x-app", "1");
            for (name, value) in RESERVED {
                response = response.header(name, value);
            }
            if let Some(token) = request.headers().get("txn-token") {
                response = response.header("x-reflected", token);
            }
            Ok(response.body(full("ok"))?)
        })
    })
}

#[tokio::test]
async fn attack_app_returns_reserved_headers() {
    let lab = Lab::new();
    let app = liar();
    let orders = lab.orders(&app, |spec| spec).await;
    let token = lab.gateway.mint(&lab.id("shop", "orders"));
    let reply = lab.call_as_gateway(&orders, Call::get(HOST, "/").context(&token)).await;
    assert_eq!(reply.header("x-app"), Some("1"));
    for (name, value) in RESERVED {
        assert_ne!(reply.header(name), Some(value), "{name}");
    }
    // The app had nothing to reflect: tokens stay in the sidecar.
    assert_eq!(reply.header("x-reflected"), None);
    // The one decision id is the proxy's own and leads to its record.
    let ids = reply.headers.get_all("countersign-decision").iter().count();
    assert_eq!(ids, 1);
    orders.record(&reply.decision()).await;
}

/// A sidecar of `web` that calls a hostile server with the right identity.
async fn web_calling(lab: &Lab, server: &App) -> Proxy {
    let orders = lab.id("shop", "orders");
    let mesh = lab.mesh().destination("shop/orders", HOST, server.address, &[&orders]);
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    lab.proxy("shop", "web").outbound().documents(&[&mesh]).start().await
}

#[tokio::test]
async fn attack_peer_returns_malformed_decision_id() {
    let lab = Lab::new();
    let leaf = lab.ca.leaf("shop", "orders");
    let server = App::tls(tls::server(&leaf, &[tls::MESH_H2]), |request| {
        Box::pin(async move {
            let id = match request.uri().path() {
                "/good" => "01M7Z2CAR18Q56WGQYHP7E7NV6",
                _ => "<script>alert(1)</script>",
            };
            let response = Response::builder().header("countersign-decision", id);
            Ok(response.header("countersign-user", "root").body(full(""))?)
        })
    });
    let web = web_calling(&lab, &server).await;
    let reply = client::call(web.outbound(), Call::get(HOST, "/bad")).await;
    assert_eq!(reply.header("countersign-decision"), None);
    assert_eq!(reply.header("countersign-user"), None);
    let reply = client::call(web.outbound(), Call::get(HOST, "/good")).await;
    assert_eq!(reply.header("countersign-decision"), Some("01M7Z2CAR18Q56WGQYHP7E7NV6"));
}

/// Early hints are dropped whole, so nothing reserved can travel in them.
#[tokio::test]
async fn attack_early_hint_carries_reserved_names() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let lab = Lab::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await.unwrap();
        let answer = "HTTP/1.1 103 Early Hints\r\ncountersign-user: root\r\nlink: </a>\r\n\r\n\
                      HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream
    });
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
    let spec = lab.proxy("shop", "orders").inbound(address).documents(&[&mesh, &access]);
    let orders = spec.start().await;
    let config = tls::client(Some(lab.gateway.leaf()), &[tls::MESH_HTTP1]);
    let stream = client::tls_stream(orders.inbound(), config).await.unwrap();
    let text = "GET / HTTP/1.1\r\nHost: orders.shop\r\nConnection: close\r\n\r\n";
    let answer = client::raw(stream, text.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(!answer.contains("root") && !answer.contains("103"), "{answer}");
    drop(app.await);
}

/// Outsiders get status, class and id; mesh callers also the message the rule's author wrote.
#[tokio::test]
async fn attack_probes_for_denial_details() {
    let lab = Lab::new();
    let app = App::mirror();
    let rules = json!([{"name": "secret-rule-name", "effect": "deny", "message": "ask the owners",
        "match": {"http": {"paths": [{"prefix": "/vault"}]}}}, documents::anybody()[0]]);
    let orders = lab.orders_with(&app, &lab.mesh(), rules, |spec| spec).await;
    let outside = client::call(orders.inbound(), Call::get(HOST, "/vault")).await;
    refused(&orders, &outside, "peer_unauthenticated").await;
    let mesh = lab.call_as_gateway(&orders, Call::get(HOST, "/vault")).await;
    refused(&orders, &mesh, "policy_denied").await;
    for (reply, told) in [(&outside, false), (&mesh, true)] {
        let text = format!("{:?} {}", reply.headers, reply.text());
        assert_eq!(text.contains("ask the owners"), told, "{text}");
        for secret in ["secret-rule-name", "deny_rule", "shop/access", "orders/"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
}
