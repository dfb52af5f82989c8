//! A gateway, `orders` in front of any app, and `billing`, which shows what reaches it: a lab whose
//! users are as many as a test likes.
//!
//! `orders` calls `billing` through a listener that leads nowhere else, so its app needs no more
//! than a URL. Both accept a user's requests for what is that user's own, and nothing else: a
//! context on the wrong call is refused, beside what the test sees.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::client::Call;
use crate::lab::user_claims;
use crate::proxy::{Proxy, Spec};
use crate::{App, Lab, Mesh, Tokens, documents, ports};

/// The public host of the gateway.
pub const HOST: &str = "api.example.com";

/// Where the parts are that must know each other before they start.
pub struct Plan {
    /// The folder and the authority.
    pub lab: Lab,
    /// Where the app calls `billing`.
    pub outbound: SocketAddr,
    users: Tokens,
    orders: SocketAddr,
    billing: SocketAddr,
}

/// The running mesh.
pub struct Shop {
    /// The folder and the authority.
    pub lab: Lab,
    /// Stands before the mesh.
    pub gateway: Proxy,
    /// The sidecar of the app under test.
    pub orders: Proxy,
    /// The sidecar of the service that app calls.
    pub billing: Proxy,
    /// That service.
    pub billing_app: App,
    users: Tokens,
}

impl Default for Plan {
    fn default() -> Plan {
        let lab = Lab::new();
        let users = Tokens::of(&lab.ca, "idp", "keys");
        let (outbound, orders, billing) = (ports::free(), ports::free(), ports::free());
        Plan { lab, outbound, users, orders, billing }
    }
}

impl Plan {
    /// Starts it around the app at this address; `change` has the last word on its sidecar.
    ///
    /// # Panics
    /// When a part does not start.
    pub async fn start(self, app: SocketAddr, change: impl FnOnce(Spec) -> Spec) -> Shop {
        self.start_with(app, |mesh| mesh, change).await
    }

    /// As [`Plan::start`], with a change of the documents of all.
    ///
    /// # Panics
    /// When a part does not start.
    pub async fn start_with(
        self,
        app: SocketAddr,
        documents: impl FnOnce(Mesh) -> Mesh,
        change: impl FnOnce(Spec) -> Spec,
    ) -> Shop {
        let Plan { lab, outbound, users, orders, billing } = self;
        let ids = [lab.id("shop", "orders"), lab.id("shop", "billing")];
        let mesh = lab.gateway_mesh(&users);
        let mesh = mesh.destination("shop/orders", "orders.shop", orders, &[&ids[0]]);
        let mesh = mesh.destination("shop/billing", "billing.shop", billing, &[&ids[1]]);
        let mesh = documents(mesh);
        let files =
            [lab.write("mesh.yaml", &mesh.document()), lab.write("access.yaml", &own_only())];
        let files: Vec<&Path> = files.iter().map(std::path::PathBuf::as_path).collect();
        let spec = |account| lab.proxy("shop", account).documents(&files);
        let billing_app = App::mirror();
        let billing = spec("billing").inbound_at(billing, billing_app.address);
        let orders = spec("orders").inbound_at(orders, app).outbound_at(outbound).with(|config| {
            // Two, so that an onward call may land on another worker than what caused it.
            config["workers"] = json!(2);
            config["listeners"]["outbound"][0]["destination"] = json!("shop/billing");
        });
        let gateway = lab.proxy("edge", "gateway").gateway("shop/orders").documents(&files);
        let gateway = gateway.limit("CONNS_PER_SOURCE_MAX", 5_000).launch();
        let (orders, billing) = (change(orders).launch(), billing.launch());
        for proxy in [&gateway, &orders, &billing] {
            proxy.until_ready().await;
        }
        Shop { lab, gateway, orders, billing, billing_app, users }
    }
}

impl Shop {
    /// A bearer token of a user.
    pub fn user(&self, name: &str) -> String {
        self.users.user(&user_claims(name))
    }

    /// A context token of a user, handed to `orders`, as the gateway makes them.
    pub fn context(&self, name: &str) -> String {
        let mut claims = self.lab.gateway.claims(&self.lab.id("shop", "orders"));
        claims["sub"] = json!(format!("user:{name}"));
        claims["rctx"]["acct"] = json!(name);
        self.lab.gateway.sign(&claims)
    }

    /// A user's request for something of their own, at the gateway.
    pub fn get(&self, name: &str, what: &str) -> Call {
        Call::get(HOST, &format!("/v1/users/{name}/{what}")).bearer(&self.user(name))
    }

    /// How often the sidecar of the app found contexts this way.
    pub async fn looked_up(&self, result: &str) -> f64 {
        let label = format!("result=\"{result}\"");
        self.orders.metric("countersign_context_lookup_total", &[&label]).await
    }
}

/// Users reach what is theirs: `orders` by the gateway, `billing` by `orders`.
fn own_only() -> Value {
    let rule = |name: &str, [namespace, account]: [&str; 2]| {
        let caller = json!({"anyOf": [{"namespace": namespace, "serviceAccount": account}]});
        let http = json!({"paths": [{"template": "/v1/users/{user}/**"}]});
        json!({
            "name": name, "effect": "allow", "context": "required",
            "match": {"caller": caller, "http": http},
            "require": {"user": {"provider": "corp", "isResourceOwner": true}},
        })
    };
    let rules =
        [rule("from-gateway", ["edge", "gateway"]), rule("from-orders", ["shop", "orders"])];
    let mut access = documents::access("shop", json!(rules));
    let template = json!({"template": "/v1/users/{user}/**", "param": "user"});
    access["spec"]["resource"] = json!({"type": "user", "owner": {"fromPath": template}});
    access
}
