//! The mesh of the demo as processes: the development authority and issuer, a gateway, `orders`
//! (service A) and `billing` (service B) with their sidecars.
//!
//! A request goes gateway → orders → billing; `orders` only forwards the handle or the trace
//! context, `billing` answers with what it saw.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::Call;
use crate::documents::{self, Mesh};
use crate::process::{self, Process};
use crate::proxy::{Proxy, Spec};
use crate::{App, ports, programs, wait};

/// The trust domain of every world.
pub const DOMAIN: &str = "demo.test";
/// The public host of the gateway.
pub const HOST: &str = "api.example.com";

/// What may differ between worlds.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Life of a certificate.
    pub ttl: &'static str,
    /// Time between two certificates.
    pub rotate: &'static str,
    /// Log level of all proxies.
    pub log: &'static str,
    /// Whether service B speaks gRPC, and everybody HTTP/2.
    pub grpc: bool,
}

impl Default for Setting {
    fn default() -> Setting {
        Setting { ttl: "1h", rotate: "30m", log: "info", grpc: false }
    }
}

/// A running mesh.
pub struct World {
    /// Stands before the mesh.
    pub gateway: Proxy,
    /// Service A's sidecar.
    pub orders: Proxy,
    /// Service B's sidecar.
    pub billing: Proxy,
    /// Service A.
    pub app_a: App,
    /// Service B.
    pub app_b: App,
    /// The development authority.
    pub authority: Process,
    /// The development issuer.
    pub issuer: Process,
    issuer_url: String,
    folder: TempDir,
}

impl World {
    /// The usual one.
    ///
    /// # Panics
    /// When a part does not start.
    pub async fn start() -> World {
        World::with(&Setting::default()).await
    }

    /// One that differs.
    ///
    /// # Panics
    /// When a part does not start.
    pub async fn with(setting: &Setting) -> World {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let authority = authority(dir, setting);
        let (issuer, issuer_url) = issuer(dir);
        wait::until_true("the authority", || authority.stdout().contains("ready")).await;

        let (at_orders, at_billing, out) = (ports::free(), ports::free(), ports::free());
        let app_a = App::relay(out, "billing.shop");
        let app_b = if setting.grpc { App::grpc() } else { App::mirror() };
        let protocol = json!({"protocol": if setting.grpc { "grpc" } else { "http" }});
        let (id_a, id_b) = (id("orders"), id("billing"));
        let mesh = Mesh::new(DOMAIN)
            .destination_speaking(
                "shop/orders",
                "orders.shop",
                at_orders,
                &[&id_a],
                protocol.clone(),
            )
            .destination_speaking("shop/billing", "billing.shop", at_billing, &[&id_b], protocol)
            .provider(&issuer_url, json!({"discovery": {"allowedHosts": ["127.0.0.1"]}}))
            .gateway();
        let files = [
            write(dir, "mesh.yaml", &mesh.document()),
            write(dir, "access.yaml", &documents::access("shop", rules())),
        ];
        let spec = |namespace: &str, account: &str| {
            let socket = dir.join("ids").join(format!("{namespace}.{account}.sock"));
            let source = json!({"workloadApi": {"socket": socket}});
            let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
            let spec = Spec::new(dir, namespace, account, source).documents(&files);
            // Two, so that an onward call may land on another worker than what caused it.
            spec.log(setting.log).with(|config| config["workers"] = json!(2))
        };
        let orders = spec("shop", "orders").inbound_at(at_orders, app_a.address).outbound_at(out);
        let billing = spec("shop", "billing").inbound_at(at_billing, app_b.address);
        let gateway = spec("edge", "gateway").gateway("shop/orders");
        // All the load of a test has one address, and a request that waits keeps its connection.
        let gateway = gateway.limit("CONNS_PER_SOURCE_MAX", 5_000).launch();
        let (orders, billing) = (orders.launch(), billing.launch());
        for proxy in [&gateway, &orders, &billing] {
            proxy.until_ready().await;
        }
        wait::until("the issuer's keys", || async {
            let (_, ready) = gateway.ready().await?;
            let warned = ready["warnings"].as_array().is_some_and(|warnings| !warnings.is_empty());
            (!warned).then_some(())
        })
        .await;
        World { gateway, orders, billing, app_a, app_b, authority, issuer, issuer_url, folder }
    }

    /// The folder with every log, audit file and document.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A bearer token of a user, from `countersign dev token`.
    ///
    /// # Panics
    /// When the issuer refuses.
    pub fn user(&self, name: &str) -> String {
        let mut command = Command::new(programs::cli());
        command.args(["dev", "token", "--user", name, "--issuer", &self.issuer_url]);
        let done = process::run(&mut command);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    /// A request of a user for the orders of `owner`.
    pub fn get(&self, user: &str, owner: &str) -> Call {
        Call::get(HOST, &format!("/v1/users/{owner}/orders")).bearer(user)
    }
}

fn id(account: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/shop/sa/{account}")
}

/// `orders` takes requests of the gateway for a user's own orders, `billing` those of `orders`.
fn rules() -> Value {
    let rule = |name: &str, caller: [&str; 2], protocol: &str, what: Value| {
        let [namespace, account] = caller;
        let caller = json!({"anyOf": [{"namespace": namespace, "serviceAccount": account}]});
        json!({
            "name": name, "effect": "allow", "context": "required",
            "match": {"caller": caller, protocol: what},
            "require": {
                "user": {"provider": "corp"}, "token": {"scopes": {"anyOf": ["orders.read"]}},
            },
        })
    };
    let http = json!({"paths": [{"template": "/v1/users/{user}/**"}]});
    let grpc = json!({"service": "shop.Orders", "methods": ["Get", "Chat", "Fail"]});
    json!([
        rule("from-gateway", ["edge", "gateway"], "http", http.clone()),
        rule("from-orders", ["shop", "orders"], "http", http),
        rule("grpc-from-gateway", ["edge", "gateway"], "grpc", grpc.clone()),
        rule("grpc-from-orders", ["shop", "orders"], "grpc", grpc),
    ])
}

fn authority(dir: &Path, setting: &Setting) -> Process {
    let mut command = Command::new(programs::cli());
    command.args(["dev", "authority", "--trust-domain", DOMAIN]);
    command.args(["--ttl", setting.ttl, "--rotate", setting.rotate, "--dir"]).arg(dir.join("ids"));
    for workload in ["edge/gateway", "shop/orders", "shop/billing"] {
        command.args(["--workload", workload]);
    }
    Process::start("authority", command, dir)
}

fn issuer(dir: &Path) -> (Process, String) {
    let address = ports::free().to_string();
    let mut command = Command::new(programs::cli());
    command.args(["dev", "issuer", "--listen", &address, "--audience", "https://api.example.com"]);
    command.args(["--user", "alice", "--user", "mallory"]);
    (Process::start("issuer", command, dir), format!("http://{address}"))
}

fn write(dir: &Path, name: &str, document: &Value) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, format!("{document:#}")).unwrap();
    path
}
