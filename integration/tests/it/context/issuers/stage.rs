//! A gateway that publishes its own keys, and those who fetch them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use countersign_integration::client::{self, Call, Conn, Reply};
use countersign_integration::documents::{self, Mesh};
use countersign_integration::lab::{self, user_claims};
use countersign_integration::proxy::Spec;
use countersign_integration::token::Tokens;
use countersign_integration::{App, Lab, Leaf, Proxy, ports, process, programs, tls, wait};
use serde_json::{Value, json};

/// Where the gateway leads to `orders`, whose sidecar verifies.
pub(crate) const ORDERS: &str = "api.example.com";
/// Where it leads to a server of the test, which sees the token.
pub(crate) const RAW: &str = "raw.example.com";

const PATH: &str = "/v1/users/alice/orders";

/// Everything but the gateways, which tests start, stop and start again.
pub(crate) struct Stage {
    pub(crate) lab: Lab,
    /// `orders` and what it saw.
    pub(crate) app: App,
    pub(crate) orders: Proxy,
    /// A callee that sees tokens.
    pub(crate) raw: App,
    /// Its certificate: whoever holds it is the first holder of these tokens.
    pub(crate) raw_leaf: Leaf,
    users: Tokens,
    /// Where each replica publishes.
    places: Vec<SocketAddr>,
    mesh: Mesh,
}

/// How the mesh finds the gateway's keys.
pub(crate) struct Setting {
    /// `context.issuers[].keys`.
    pub(crate) keys: &'static str,
    /// How many replicas publish.
    pub(crate) replicas: usize,
    /// Until when keys count that nobody confirms.
    pub(crate) max_stale: &'static str,
}

impl Default for Setting {
    fn default() -> Setting {
        Setting { keys: "either", replicas: 1, max_stale: "1h" }
    }
}

impl Stage {
    pub(crate) async fn new(setting: Setting) -> Stage {
        let lab = Lab::new();
        let users = Tokens::of(&lab.ca, "idp", "keys");
        let raw_leaf = lab.ca.leaf("shop", "raw");
        let raw = App::tls_mirror(tls::server(&raw_leaf, &[tls::MESH_H2]));
        let places: Vec<SocketAddr> = (0..setting.replicas).map(|_| ports::free()).collect();
        let at_orders = ports::free();
        let endpoints: Vec<Value> =
            places.iter().map(|at| json!({"address": at.ip(), "port": at.port()})).collect();
        let keys = json!({"name": "gateway", "namespace": "edge", "spec": {
            "hosts": ["gateway.edge"], "ports": [{"port": 80, "protocol": "http"}],
            "endpoints": endpoints, "peer": {"mesh": {"identities": [lab.id("edge", "gateway")]}},
        }});
        let mesh = lab
            .gateway_mesh(&users)
            .destination("shop/orders", "orders.shop", at_orders, &[&lab.id("shop", "orders")])
            .destination("shop/raw", "raw.shop", raw.address, &[&lab.id("shop", "raw")])
            .with(|spec| {
                spec["destinations"].as_array_mut().unwrap().push(keys);
                let issuer = &mut spec["context"]["issuers"][0];
                issuer["keys"] = json!(setting.keys);
                let (from, stale) = ("edge/gateway", setting.max_stale);
                issuer["jwks"] = json!({"destination": from, "refresh": "1s", "maxStale": stale});
            });
        let app = App::mirror();
        let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
        let file = lab.write("mesh.yaml", &mesh.document());
        let orders = lab.proxy("shop", "orders").inbound_at(at_orders, app.address);
        let orders = orders.documents(&[&file, &access]).start().await;
        Stage { lab, app, orders, raw, raw_leaf, users, places, mesh }
    }

    /// A replica of the gateway that is configured with `issuer`, ready.
    pub(crate) async fn gateway(&self, replica: usize, issuer: Value) -> Proxy {
        self.gateway_spec(replica, issuer).start().await
    }

    pub(crate) fn gateway_spec(&self, replica: usize, issuer: Value) -> Spec {
        let folder = self.lab.folder().join(format!("replica-{replica}"));
        std::fs::create_dir_all(&folder).unwrap();
        let (certificate, key) = self.lab.gateway.leaf().write(&folder, "id");
        let bundle = self.lab.folder().join("bundle.pem");
        let source = json!({"files": {"certificate": certificate, "key": key, "bundle": bundle}});
        let everybody = json!([{
            "name": "keys", "effect": "allow", "context": "none",
            "match": {"caller": {"anyInMesh": true},
                "http": {"methods": ["GET"], "paths": [{"prefix": "/.well-known"}]}},
        }]);
        let access = self.lab.write("edge.yaml", &documents::access("edge", everybody));
        let place = self.places[replica];
        Spec::new(&folder, "edge", "gateway", source)
            .gateway("shop/orders")
            .inbound_at(place, place)
            .documents(&[&self.mesh_file(), &access])
            .with(|config| {
                config["app"] = json!([{"port": place.port(), "service": "issuer"}]);
                config["issuer"] = issuer;
                config["gateway"]["routes"] = json!([
                    {"host": ORDERS, "destination": "shop/orders"},
                    {"host": RAW, "destination": "shop/raw"},
                ]);
            })
    }

    pub(crate) fn mesh_file(&self) -> PathBuf {
        self.lab.folder().join("mesh.yaml")
    }

    /// Changes the mesh for everybody.
    pub(crate) fn change_mesh(&self, change: impl FnOnce(&mut Value)) {
        self.lab.write("mesh.yaml", &self.mesh.clone().with(change).document());
    }

    /// A user's request, as loads make it.
    pub(crate) fn call(&self, host: &str) -> Call {
        Call::get(host, PATH).bearer(&self.users.user(&user_claims("alice")))
    }

    /// The same, sent.
    pub(crate) async fn ask(&self, gateway: &Proxy, host: &str) -> Reply {
        client::call(gateway.gateway(), self.call(host)).await
    }

    /// Makes calls for as long as the value lives.
    pub(crate) fn maker(&self, host: &'static str) -> impl Fn() -> Call + Send + 'static {
        let bearer = self.users.user(&user_claims("alice"));
        move || Call::get(host, PATH).bearer(&bearer)
    }

    /// A token that the gateway makes for `raw`.
    pub(crate) async fn token(&self, gateway: &Proxy) -> String {
        let reply = self.ask(gateway, RAW).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        self.raw.last().header("txn-token").unwrap().to_owned()
    }

    /// What `orders` says to a token that `raw` holds rightfully.
    pub(crate) async fn present(&self, token: &str) -> Reply {
        let mut conn = self.lab.peer(&self.orders, &self.raw_leaf).await;
        conn.send(Call::get("orders.shop", "/").context(token)).await.unwrap()
    }

    /// Waits for a token that names another key than `before`, and that `orders` accepts like all
    /// before it.
    pub(crate) async fn until_signed_by_another(
        &self,
        gateway: &Proxy,
        before: Option<&str>,
    ) -> String {
        wait::until("a token by the name of another key", async || {
            let token = self.token(gateway).await;
            let reply = self.present(&token).await;
            assert_eq!(reply.status, 200, "{:?}: {}", kid(&token), reply.text());
            kid(&token).filter(|kid| Some(kid.as_str()) != before).map(|_| token)
        })
        .await
    }

    /// What a replica publishes, as a workload of the mesh gets it.
    pub(crate) async fn published(&self, replica: usize, path: &str) -> Value {
        let leaf = self.lab.ca.leaf("shop", "reader");
        let config = tls::client(Some(&leaf), &[tls::MESH_H2]);
        let mut conn = Conn::tls(self.places[replica], config).await.unwrap();
        let reply = conn.send(Call::get("gateway.edge", path)).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// Waits until `orders` fetched the keys anew.
    pub(crate) async fn fetched_again(&self) {
        let count = || async {
            self.orders.metric("countersign_issuer_key_fetches_total", &["result=\"ok\""]).await
        };
        // The first one may have begun before.
        let before = count().await;
        wait::until("two fetches", async || (count().await >= before + 2.0).then_some(())).await;
    }

    /// The gateway's SPIFFE ID.
    pub(crate) fn issuer(&self) -> String {
        self.lab.id("edge", "gateway")
    }

    /// The trust domain.
    pub(crate) fn domain(&self) -> &'static str {
        lab::DOMAIN
    }
}

/// The header of a token.
pub(crate) fn header(token: &str) -> Value {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let encoded = token.split('.').next().unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).unwrap()).unwrap()
}

/// The key a token names.
pub(crate) fn kid(token: &str) -> Option<String> {
    header(token)["kid"].as_str().map(str::to_owned)
}

/// Checks every whole document of a page with `countersign check`.
pub(crate) fn check_page(page: &str, documents: usize) {
    let folder = tempfile::tempdir().unwrap();
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let whole: Vec<&str> = blocks.filter(|block| block.starts_with("apiVersion")).collect();
    assert_eq!(whole.len(), documents);
    let mut command = Command::new(programs::cli());
    command.arg("check").current_dir(folder.path());
    for (number, block) in whole.iter().enumerate() {
        let file = folder.path().join(format!("{number}.yaml"));
        std::fs::write(&file, block).unwrap();
        command.arg(file);
    }
    let done = process::run(&mut command);
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{told}{}", String::from_utf8_lossy(&done.stderr));
}
