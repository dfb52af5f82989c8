//! The mesh of deferred work: a token service, `orders` that puts work aside, `reports` that takes
//! it up, `ledger` that is called then. The test plays the gateway.

use std::net::SocketAddr;
use std::path::PathBuf;

use countersign_integration::client::{self, Call, Conn, full};
use countersign_integration::token::now_s;
use countersign_integration::{App, Lab, Proxy, Reply, documents, ports, wait};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

/// SHA-256 of the empty message.
pub(super) const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A running mesh.
pub(super) struct Office {
    pub(super) lab: Lab,
    pub(super) issuer: Proxy,
    pub(super) orders: Proxy,
    pub(super) reports: Proxy,
    pub(super) ledger: Proxy,
    /// Local APIs of `orders` and `reports`.
    pub(super) local: [SocketAddr; 2],
    _apps: [App; 2],
}

/// What may differ.
pub(super) struct Setting {
    /// Where the app of `orders` listens; `None`: one that hands its requests to the local API.
    pub(super) app: Option<SocketAddr>,
    /// `grants` of the issuer.
    pub(super) grants: Value,
    /// Changes the entry of `reports`.
    pub(super) reports: Value,
    /// Who checks tickets, an AuthZEN decision point.
    pub(super) validator: Option<SocketAddr>,
}

impl Default for Setting {
    fn default() -> Setting {
        Setting { app: None, grants: json!({}), reports: json!({}), validator: None }
    }
}

impl Office {
    pub(super) async fn open() -> Office {
        Office::with(Setting::default()).await
    }

    pub(super) async fn with(setting: Setting) -> Office {
        let lab = Lab::new();
        let at = [(); 3].map(|()| ports::free());
        let [at_issuer, at_orders, at_ledger] = at;
        let local = [ports::free(), ports::free()];
        let documents = write_documents(&lab, at, &setting);
        let files: Vec<&std::path::Path> = documents.iter().map(PathBuf::as_path).collect();
        let puts_aside = forwarding(local[0]);
        let mirror = App::mirror();
        let listens =
            |at: SocketAddr| move |config: &mut Value| config["local"] = json!({"addresses": [at]});

        let issuer = lab.proxy("jobs", "issuer").inbound_at(at_issuer, at_issuer);
        let issuer = issuer.with(|config| {
            let service = json!({"port": at_issuer.port(), "service": "issuer"});
            config["app"] = json!([service]);
            config["grants"] = setting.grants;
            // Two, because redemptions are counted for the process.
            config["workers"] = json!(2);
        });
        let app = setting.app.unwrap_or(puts_aside.address);
        let orders = lab.proxy("shop", "orders").inbound_at(at_orders, app).outbound();
        let orders = orders.with(listens(local[0]));
        let reports = lab.proxy("shop", "reports").outbound().with(listens(local[1]));
        let ledger = lab.proxy("shop", "ledger").inbound_at(at_ledger, mirror.address);
        let [issuer, orders, reports, ledger] =
            [issuer, orders, reports, ledger].map(|spec| spec.documents(&files).launch());
        for proxy in [&issuer, &orders, &reports, &ledger] {
            proxy.until_ready().await;
        }
        Office { lab, issuer, orders, reports, ledger, local, _apps: [puts_aside, mirror] }
    }

    /// A user's token of the gateway for `orders`, of this life.
    pub(super) fn token(&self, life_s: u64) -> String {
        let mut claims = self.lab.gateway.claims(&self.lab.id("shop", "orders"));
        claims["exp"] = json!(now_s() + life_s);
        claims["scope"] = json!("orders.read orders.export");
        self.lab.gateway.sign(&claims)
    }

    /// A request of alice's at `orders`, whose app calls the local API with it.
    pub(super) async fn alice(&self, call: &str, body: &Value) -> Reply {
        let call = Call::post("orders.shop", &format!("/v1/{call}"), body.to_string());
        self.lab.call_as_gateway(&self.orders, call.context(&self.token(60))).await
    }

    /// A grant for `reports` and the empty message, out of a request of alice's.
    pub(super) async fn grant(&self, life_s: u64) -> String {
        let work = json!({"consumer": self.lab.id("shop", "reports"), "ttl": life_s,
            "scope": "orders.read", "digest": DIGEST});
        let reply = self.alice("defer", &work).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["grant"].as_str().unwrap().to_owned()
    }

    /// A call of the app `reports` to its local API.
    pub(super) async fn reports(&self, call: &str, body: &Value) -> Reply {
        local(self.local[1], call, None, body).await
    }

    /// Has the issuer read its documents again; it must be the first change.
    pub(super) async fn issuer_takes_documents(&self) {
        self.issuer.reload();
        wait::until_true("the documents", || self.issuer.log().contains("documents in force"))
            .await;
    }

    /// What `reports` gets for a grant and the empty message.
    pub(super) async fn resume(&self, grant: &str) -> Reply {
        self.reports("resume", &json!({"grant": grant, "digest": DIGEST})).await
    }

    /// An onward call of `reports` to `ledger` with this handle.
    pub(super) async fn onward(&self, handle: &str) -> Reply {
        let call = Call::get("ledger.shop", "/v1/exports").header("countersign-context", handle);
        client::call(self.reports.outbound(), call).await
    }

    /// Checks that the token service refused, for this reason and to this caller without details,
    /// and gives the record.
    pub(super) async fn refused(&self, reply: &Reply, error: &str, reason: &str) -> Value {
        let body = reply.json();
        assert_eq!(
            (reply.status, body["error"].as_str()),
            (403, Some("token_service_refused")),
            "{body}"
        );
        assert_eq!(body["service_error"], error, "{body}");
        assert!(!body["hint"].as_str().unwrap().is_empty());
        wait::until(&format!("a record of {reason}"), async || {
            let mut records = self.issuer.decisions().into_iter();
            records.rfind(|record| record.to_string().contains(&format!("/{reason}\"")))
        })
        .await
    }

    /// Everything that the proxies wrote.
    pub(super) fn written(&self) -> String {
        let proxies = [&self.issuer, &self.orders, &self.reports, &self.ledger];
        let one = |proxy: &Proxy| format!("{}{:?}", proxy.log(), proxy.audit());
        proxies.map(one).concat()
    }
}

/// A call of an app to a local API.
pub(super) async fn local(at: SocketAddr, call: &str, handle: Option<&str>, body: &Value) -> Reply {
    let call = Call::post("localhost", &format!("/v1/{call}"), body.to_string())
        .header("countersign-local", "1")
        .header("content-type", "application/json");
    let call = match handle {
        Some(handle) => call.header("countersign-context", handle),
        None => call,
    };
    client::call(at, call).await
}

/// An app that hands what it is asked to the local API, with its handle, and the answer back.
fn forwarding(local: SocketAddr) -> App {
    App::serving(move |request: Request<Incoming>| {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let mut call = Call::post("127.0.0.1", head.uri.path(), body)
                .header("countersign-local", "1")
                .header("content-type", "application/json");
            let handle = head.headers.get("countersign-context");
            if let Some(handle) = handle {
                call = call.header("countersign-context", handle.to_str()?);
            }
            let reply = Conn::h1(local).await?.send(call).await?;
            let response = Response::builder().status(reply.status);
            let response = match handle {
                Some(handle) => response.header("x-handle", handle),
                None => response,
            };
            Ok(response.body(full(reply.body))?)
        })
    })
}

/// The documents of everybody: what the gateway and the token service may issue, who may ask, and
/// that nobody is served without a context.
fn write_documents(lab: &Lab, at: [SocketAddr; 3], setting: &Setting) -> Vec<PathBuf> {
    let [at_issuer, _, at_ledger] = at;
    let (issuer, orders) = (lab.id("jobs", "issuer"), lab.id("shop", "orders"));
    let (reports, ledger) = (lab.id("shop", "reports"), lab.id("shop", "ledger"));
    let mesh = lab
        .gateway_mesh(&lab.gateway)
        .destination("jobs/tokens", "tokens.jobs", at_issuer, &[&issuer])
        .destination("shop/ledger", "ledger.shop", at_ledger, &[&ledger])
        .with(|spec| {
            spec["gateways"] = json!([]);
            spec["context"]["tokenService"] = json!({"destination": "jobs/tokens"});
            spec["context"]["issuers"].as_array_mut().unwrap().push(json!({
                "id": issuer, "keys": "x5c",
                "allow": {
                    "origin": ["async", "batch"], "sub": ["user:*", "svc:*"],
                    "scope": ["orders.*"], "impersonate": ["user:*"],
                },
            }));
        });
    let mut consumer = json!({
        "peer": reports, "subjectTokens": ["deferred", "self_signed"],
        "origins": ["async", "batch"], "scopes": ["orders.*"], "rate": 1000,
    });
    for (name, value) in setting.reports.as_object().unwrap() {
        consumer[name] = value.clone();
    }
    let producer = json!({
        "peer": orders, "subjectTokens": ["txn_token", "self_signed"],
        "origins": ["async", "batch"], "scopes": ["orders.*"], "rate": 1000,
    });
    let mut policy = json!({
        "selector": {"matchLabels": {"app": "issuer"}}, "role": "tokenService",
        "justification": {
            "header": "Countersign-Justification", "kinds": {"ticket": {"pattern": "SUP-[0-9]{1,8}"}},
        },
        "tokenService": {"providers": ["corp"], "requesters": [producer, consumer]},
    });
    let rule = json!([{
        "name": "with-context", "effect": "allow", "match": {"caller": {"anyInMesh": true}},
    }]);
    let mut files = Vec::new();
    if let Some(at) = setting.validator {
        policy["justification"]["kinds"]["ticket"]["validate"] = json!("tickets");
        let document = documents::document("AttributeProvider", "tickets", None, validator(at));
        files.push(lab.write("tickets.yaml", &document));
    }
    let policy = documents::document("ContextPolicy", "issuer", Some("jobs"), policy);
    files.extend([
        lab.write("mesh.yaml", &mesh.document()),
        lab.write("tokens.yaml", &policy),
        lab.write("jobs.yaml", &documents::access("jobs", documents::anybody())),
        lab.write("shop.yaml", &documents::access("shop", rule)),
    ]);
    files
}

fn validator(at: SocketAddr) -> Value {
    json!({
        "authzen": {"endpoint": format!("http://{at}/access/v1/evaluation"), "timeout": "5s"},
        "onUnavailable": "unknown",
        "request": {
            "subject": {"type": "user", "id": "user.id"}, "action": "use-as-justification",
            "resource": {"type": "ticket", "id": "justification.ref"},
        },
    })
}
