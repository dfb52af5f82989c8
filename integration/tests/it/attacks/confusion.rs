//! Messages that two readers read differently (T20), at every door: the app's own sidecar, a mesh
//! peer's HTTP/1.1 connection, the public gateway. Refused, and never forwarded.

mod framing;
mod http2;
mod targets;

use countersign_integration::lab::user_claims;
use countersign_integration::{App, Lab, Proxy, Tokens, client, documents, tls, wait};
use serde_json::Value;

const HOST: &str = "orders.shop";
const API: &str = "api.example.com";

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// The app `web`, to its own sidecar.
    App,
    /// A mesh peer, to the sidecar of `orders`.
    Peer,
    /// Somebody outside, to the gateway.
    Outside,
}

const DOORS: [Door; 3] = [Door::App, Door::Peer, Door::Outside];

/// One app behind all three doors.
struct House {
    app: App,
    web: Proxy,
    orders: Proxy,
    edge: Proxy,
    alice: String,
    lab: Lab,
}

impl House {
    async fn start() -> House {
        let lab = Lab::new();
        let app = App::mirror();
        let users = Tokens::of(&lab.ca, "idp", "keys");
        let rules = documents::anybody();
        let orders = lab.orders_with(&app, &lab.mesh(), rules, |spec| spec).await;
        let id = lab.id("shop", "orders");
        let mesh = lab.gateway_mesh(&users);
        let mesh = mesh.destination("shop/orders", HOST, orders.inbound(), &[&id]);
        let edge = lab.gateway_to(&mesh, "shop/orders", |spec| spec).await;
        let mesh = lab.mesh().destination("shop/orders", HOST, orders.inbound(), &[&id]);
        let mesh = lab.write("web-mesh.yaml", &mesh.document());
        let web = lab.proxy("shop", "web").outbound().documents(&[&mesh]).start().await;
        let alice = users.user(&user_claims("alice"));
        House { app, web, orders, edge, alice, lab }
    }

    /// The record of a refusal, at whichever proxy on the way said no.
    async fn record(&self, id: &str) -> Value {
        let find = || {
            let all = [&self.web, &self.orders, &self.edge].map(Proxy::decisions);
            all.into_iter().flatten().find(|record| record["id"] == id)
        };
        wait::until(&format!("the record of {id}"), || std::future::ready(find())).await
    }

    /// Bytes through a door, and all that came back. `^` stands for the fields an honest request has
    /// there, so that nothing but what is wrong can refuse it.
    async fn send(&self, door: Door, text: &[u8]) -> String {
        let honest = match door {
            Door::App | Door::Peer => format!("Host: {HOST}\r\n"),
            Door::Outside => format!("Host: {API}\r\nAuthorization: Bearer {}\r\n", self.alice),
        };
        let mut bytes = Vec::new();
        for (number, part) in text.split(|byte| *byte == b'^').enumerate() {
            if number > 0 {
                bytes.extend(honest.as_bytes());
            }
            bytes.extend(part);
        }
        match door {
            Door::App => client::raw_tcp(self.web.outbound(), &bytes).await,
            Door::Outside => client::raw_tcp(self.edge.gateway(), &bytes).await,
            Door::Peer => {
                let config = tls::client(Some(self.lab.gateway.leaf()), &[tls::MESH_HTTP1]);
                let stream = client::tls_stream(self.orders.inbound(), config).await.unwrap();
                client::raw(stream, &bytes).await
            }
        }
    }

    /// Sends it everywhere: one refusal comes back and is on record, the connection ends, the app sees
    /// nothing.
    async fn refuses(&self, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        let shown = String::from_utf8_lossy(text);
        for door in DOORS {
            let answer = self.send(door, text).await;
            let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
            let status: u16 = status.and_then(|code| code.parse().ok()).unwrap_or(0);
            assert!((400..=505).contains(&status), "{door:?} {shown:?}: {answer:?}");
            assert_eq!(answer.matches("HTTP/1.").count(), 1, "{door:?} {shown:?}: {answer}");
            let id = client::parse_raw(&answer).decision();
            let record = self.record(&id).await;
            assert_eq!(record["decision"], "deny", "{door:?} {shown:?}: {record}");
        }
        let seen = self.app.seen();
        assert!(seen.is_empty(), "{shown:?} reached the app: {seen:?}");
    }

    /// An honest request is still served at every door, and it is the only one the app saw.
    async fn still_serves(&self) {
        for (number, door) in DOORS.into_iter().enumerate() {
            let honest = b"GET /v1/users/alice/orders HTTP/1.1\r\n^Connection: close\r\n\r\n";
            let answer = self.send(door, honest).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{door:?} {answer}");
            assert_eq!(self.app.seen().len(), number + 1, "{door:?}");
        }
    }
}
