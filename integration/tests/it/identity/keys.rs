//! Keys that cannot leave: in SoftHSM2 behind `p11-kit server`, and in a TPM.

mod faults;
mod memory;
mod tpm;

use std::fs;
use std::path::Path;

use countersign_integration::components::softhsm::{CLIENT_MODULE, P11Server, SoftHsm};
use countersign_integration::lab::user_claims;
use countersign_integration::load::{Load, Protocol};
use countersign_integration::pki::{Leaf, Request};
use countersign_integration::proxy::Spec;
use countersign_integration::{App, Lab, Proxy, Tokens, documents, ports, wait};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use serde_json::Value;

/// A lab with a token that other processes reach through a server.
struct Vaulted {
    lab: Lab,
    token: SoftHsm,
    server: P11Server,
}

impl Vaulted {
    async fn start(test: &str) -> Option<Vaulted> {
        let lab = Lab::new();
        let token = SoftHsm::new(test, lab.folder())?;
        let server = token.serve(test).await?;
        Some(Vaulted { lab, token, server })
    }

    /// `files.key` of a key with this label, used through the server.
    fn uri(&self, label: &str) -> String {
        let pin = self.token.pin_file.display();
        format!(
            "pkcs11:token=mesh;object={label}?module-path={CLIENT_MODULE}&pin-source=file:{pin}"
        )
    }

    /// A workload with a key in the token from where it comes.
    fn spec(&self, namespace: &str, account: &str) -> Spec {
        self.through(self.lab.proxy(namespace, account), account)
    }

    /// Takes the key of a workload out of its file and uses the one in the token.
    fn through(&self, spec: Spec, label: &str) -> Spec {
        let uri = self.uri(label);
        let (name, address) = self.server.env();
        // On a busy machine a signature may take longer than the 50 ms that are usual.
        let place = self.server.keys(&self.token.pin_file);
        let key = |config: &mut Value| {
            config["identity"]["key"] = place;
            config["identity"]["source"]["files"]["key"] = uri.into();
        };
        spec.with(key).env(name, address)
    }

    /// Puts the key of a leaf into the token.
    fn import(&self, label: &str, id: &str, leaf: &Leaf) {
        self.token.import(label, id, &leaf.key_pem);
    }

    /// Writes a certificate on a key of the token where a workload looks for it.
    fn certify(&self, account: &str, key: &SubjectPublicKeyInfoDer<'_>) {
        let request = Request::new(&[&self.lab.id("shop", account)]);
        let pem = self.lab.ca.certify(key, request);
        self.lab.write_text(&format!("shop.{account}.id.pem"), &pem);
    }
}

/// `orders` calls `billing`; both have keys that were made in the token.
struct Two {
    orders: Proxy,
    billing: Proxy,
    _app: App,
    // Last: what the proxies wrote is read when they are dropped, if the test failed.
    on: Vaulted,
}

impl Two {
    async fn start(test: &str) -> Option<Two> {
        let on = Vaulted::start(test).await?;
        let app = App::mirror();
        let at = ports::free();
        let mesh = on.lab.mesh().destination(
            "shop/billing",
            "billing.shop",
            at,
            &[&on.lab.id("shop", "billing")],
        );
        let files = [
            on.lab.write("mesh.yaml", &mesh.document()),
            on.lab.write("access.yaml", &documents::access("shop", documents::anybody())),
        ];
        let spec = |account: &str, id| {
            let key = on.token.make(account, id);
            let spec = on.spec("shop", account).documents(&[&files[0], &files[1]]);
            on.certify(account, &key);
            let _ = fs::remove_file(on.lab.folder().join(format!("shop.{account}.id.key")));
            spec
        };
        let orders = spec("orders", "01").outbound().start().await;
        let billing = spec("billing", "02").inbound_at(at, app.address).start().await;
        Some(Two { orders, billing, _app: app, on })
    }

    fn load(&self) -> Load {
        let make = || countersign_integration::client::Call::get("billing.shop", "/");
        Load::start(self.orders.outbound(), Protocol::Http1, 100, make)
    }
}

async fn stop(load: Load) {
    let outcome = tokio::task::spawn_blocking(|| load.stop()).await.unwrap();
    assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
    println!("{} requests, none failed", outcome.sent);
}

async fn renewals(proxy: &Proxy) -> f64 {
    proxy.metric("countersign_identity_renewals_total", &["result=\"ok\""]).await
}

/// Waits until a proxy said all of this in one line of its log.
async fn says(proxy: &Proxy, parts: &[&str]) {
    wait::until(&format!("a line with {parts:?}"), || async {
        let log = proxy.log();
        let said = log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        said.then_some(())
    })
    .await;
}

/// A new key in the token and a certificate on it, three times, while requests run: keys of both
/// ends, with two keys of one name in the token for a while.
#[tokio::test]
async fn keys_in_a_token_rotate_under_load() {
    let Some(two) = Two::start("keys_rotate").await else { return };
    let load = two.load();
    for (old, new) in [("1", "2"), ("2", "3"), ("3", "4")] {
        for (account, side) in [("orders", "a"), ("billing", "b")] {
            let (proxy, last) = match side {
                "a" => (&two.orders, "01"),
                _ => (&two.billing, "02"),
            };
            let before = renewals(proxy).await;
            let old = if old == "1" { last.to_owned() } else { format!("{side}{old}") };
            let key = two.on.token.make(account, &format!("{side}{new}"));
            two.on.certify(account, &key);
            wait::until("the new certificate", async || {
                (renewals(proxy).await > before).then_some(())
            })
            .await;
            // Handshakes of connections that begin now use the new key only.
            two.on.token.delete(&old);
        }
    }
    stop(load).await;
    assert!(two.on.token.objects().matches("Private Key").count() == 2);
}

/// The gateway's key signs handshakes and context tokens, the sidecar's handshakes.
#[tokio::test]
async fn a_key_in_a_token_signs_handshakes_and_context() {
    let Some(on) = Vaulted::start("keys_sign").await else { return };
    let (gateway, orders, _app) = pair(&on).await;
    alice_reads_her_orders(&on.lab, &gateway).await;
    for proxy in [&gateway, &orders] {
        says(proxy, &["keys stay in another process", "p11-kit-client.so"]).await;
    }
}

/// A gateway and a sidecar behind it, their keys in the token.
async fn pair(on: &Vaulted) -> (Proxy, Proxy, App) {
    let lab = &on.lab;
    on.import("gateway", "10", lab.gateway.leaf());
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let app = App::mirror();
    let mesh = lab.gateway_mesh(&users);
    let rules = serde_json::json!([{"name": "users", "effect": "allow", "context": "required",
        "match": {"caller": {"anyOf": [{"namespace": "edge", "serviceAccount": "gateway"}]}}}]);
    let orders = lab
        .orders_with(&app, &mesh, rules, |spec| {
            let leaf = leaf_of(lab.folder(), "shop.orders.id");
            on.import("orders", "11", &leaf);
            on.through(spec, "orders")
        })
        .await;
    let id = lab.id("shop", "orders");
    let mesh = mesh.destination("shop/orders", "orders.shop", orders.inbound(), &[&id]);
    let gateway = lab.gateway_to(&mesh, "shop/orders", |spec| on.through(spec, "gateway")).await;
    lab.write_text("users.token", &users.user(&user_claims("alice")));
    (gateway, orders, app)
}

async fn alice_reads_her_orders(lab: &Lab, gateway: &Proxy) {
    use countersign_integration::client::{self, Call};
    let alice = fs::read_to_string(lab.folder().join("users.token")).unwrap();
    let call = Call::get("api.example.com", "/v1/users/alice/orders").bearer(&alice);
    let reply = client::call(gateway.gateway(), call).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"));
}

fn leaf_of(folder: &Path, name: &str) -> Leaf {
    let file = |ending: &str| folder.join(format!("{name}.{ending}"));
    Leaf::read(&file("pem"), &file("key")).unwrap()
}
