//! Devices, proxies that vouch, validators and directories at the edge.

use std::path::PathBuf;

use countersign_integration::client::{Call, Conn, Reply};
use countersign_integration::components::authzen::DecisionPoint;
use countersign_integration::components::slapd::{How, Slapd};
use countersign_integration::lab::user_claims;
use countersign_integration::outcome::refused;
use countersign_integration::pki::{Authority, Leaf, Request};
use countersign_integration::{
    App, Lab, Mesh, Proxy, Tokens, documents, programs, tls, token, wait,
};
use serde_json::{Value, json};

const API: &str = "api.example.com";
const PATH: &str = "/v1/users/alice/orders";

/// A gateway whose listener asks for certificates, before a server that shows its context tokens.
struct Edge {
    lab: Lab,
    users: Tokens,
    devices: Authority,
    proxies: Authority,
    gateway: Proxy,
    server: App,
}

/// What `emit` names in these tests.
const CARRIED: [&str; 6] = ["idp", "acct", "groups", "dev", "tls", "just"];

impl Edge {
    async fn start(change: impl FnOnce(&Lab, &mut Value)) -> Edge {
        let lab = Lab::new();
        let (devices, proxies) = (Authority::new("devices"), Authority::new("proxies"));
        let users = Tokens::of(&lab.ca, "idp", "keys");
        let server = App::tls_mirror(tls::server(&lab.ca.leaf("shop", "orders"), &[tls::MESH_H2]));
        let id = lab.id("shop", "orders");
        let mesh = lab.gateway_mesh(&users);
        let mesh = mesh.destination("shop/orders", "orders.shop", server.address, &[&id]);
        let mesh = carrying(mesh).with(|spec| change(&lab, spec));
        let gateway = start_gateway(&lab, &mesh, &devices, &proxies).await;
        Edge { lab, users, devices, proxies, gateway, server }
    }

    fn device(&self, id: &str) -> Leaf {
        self.devices.issue(Request::new(&[id]))
    }

    async fn connect(&self, leaf: Option<&Leaf>) -> Conn {
        let config = tls::client(leaf, &[b"http/1.1"]);
        Conn::tls(self.gateway.gateway(), config).await.unwrap()
    }

    fn call(&self) -> Call {
        Call::get(API, PATH).bearer(&self.users.user(&user_claims("alice")))
    }

    /// One request on a connection of its own.
    async fn send(&self, leaf: Option<&Leaf>, call: Call) -> Reply {
        self.connect(leaf).await.send(call).await.unwrap()
    }

    /// `rctx` of the token that a permitted request brought to the server.
    fn rctx(&self, reply: &Reply) -> Value {
        assert_eq!(reply.status, 200, "{}", reply.text());
        let token = self.server.last().header("txn-token").unwrap().to_owned();
        token::claims_of(&token)["rctx"].clone()
    }
}

fn carrying(mesh: Mesh) -> Mesh {
    mesh.with_gateway(|spec| {
        for rule in spec["mint"].as_array_mut().unwrap() {
            rule["emit"]["rctx"] = json!(CARRIED);
        }
    })
}

async fn start_gateway(lab: &Lab, mesh: &Mesh, devices: &Authority, proxies: &Authority) -> Proxy {
    let (certificate, key) = lab.ca.issue(Request::new(&[]).dns(API)).write(lab.folder(), "public");
    let devices = devices.write_bundle(lab.folder(), "devices");
    let proxies = proxies.write_bundle(lab.folder(), "proxies");
    let listener = json!({
        "certificate": certificate, "key": key,
        "clientRoots": {"device-ca": devices, "proxies": proxies},
    });
    let config = |config: &mut Value| config["listeners"]["gateway"][0]["tls"] = listener;
    lab.gateway_to(mesh, "shop/orders", |spec| spec.with(config)).await
}

fn by_certificate(spec: &mut Value) {
    let source = json!({"clientCertificate": {"trustBundle": "device-ca", "id": "uri", "tier": "2", "managed": true}});
    spec["gateways"][0]["spec"]["device"] = json!({"sources": [source]});
}

/// What the issuance record of a permitted request says was established.
async fn issued(edge: &Edge, reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let token = edge.server.last().header("txn-token").unwrap().to_owned();
    let jti = token::claims_of(&token)["jti"].clone();
    let is = |record: &Value| record["jti"] == jti || record["ctx"]["jti"] == jti;
    wait::until("the issuance record", async || edge.gateway.audit().into_iter().find(is)).await
}

#[tokio::test]
async fn a_device_is_known_by_its_certificate() {
    let edge = Edge::start(|_, spec| by_certificate(spec)).await;
    let device = edge.device("device:d-7f3a");
    let reply = edge.send(Some(&device), edge.call()).await;
    let rctx = edge.rctx(&reply);
    assert_eq!(rctx["dev"]["id"], "device:d-7f3a");
    assert_eq!(rctx["dev"]["src"], "mtls");
    assert_eq!(rctx["dev"]["managed"], true);
    assert_eq!(rctx["dev"]["tier"], "2");
    assert_eq!(rctx["tls"]["cert"].as_str().map(str::len), Some(43));
    let record = issued(&edge, &reply).await;
    assert_eq!(record["dev"]["src"], "mtls", "{record}");
    assert_eq!(record["dev"]["id"], "device:d-7f3a");
    let rctx = edge.rctx(&edge.send(None, edge.call()).await);
    assert_eq!((rctx.get("dev"), rctx["tls"].get("cert")), (None, None));
    // One device after the other on the same listener: nothing of the first stays.
    let other = edge.device("device:d-2");
    let rctx = edge.rctx(&edge.send(Some(&other), edge.call()).await);
    assert_eq!(rctx["dev"]["id"], "device:d-2");
}

/// D31: a certificate whose verification failed is no fact, in no field.
#[tokio::test]
async fn attack_sends_invalid_client_certificate_at_the_edge() {
    let edge = Edge::start(|_, spec| by_certificate(spec)).await;
    let stranger = Authority::new("devices").issue(Request::new(&["device:d-7f3a"]));
    let expired = edge.devices.issue(Request::new(&["device:d-7f3a"]).expired());
    let early = edge.devices.issue(Request::new(&["device:d-7f3a"]).not_yet_valid());
    let of_proxies = edge.proxies.issue(Request::new(&["device:d-7f3a"]));
    let of_the_mesh = edge.lab.ca.leaf("shop", "web");
    for leaf in [&stranger, &expired, &early, &of_the_mesh] {
        let rctx = edge.rctx(&edge.send(Some(leaf), edge.call()).await);
        assert_eq!((rctx.get("dev"), rctx["tls"].get("cert")), (None, None));
    }
    // Vouched for, but by nobody who knows devices.
    let rctx = edge.rctx(&edge.send(Some(&of_proxies), edge.call()).await);
    assert_eq!(rctx.get("dev"), None);
    // Somebody else's certificate without its key does not even connect.
    let mut stolen = edge.device("device:d-7f3a");
    stolen.key = stranger.key.clone();
    let config = tls::client(Some(&stolen), &[b"http/1.1"]);
    let tried = match Conn::tls(edge.gateway.gateway(), config).await {
        Ok(mut conn) => conn.send(edge.call()).await.map(|reply| reply.status),
        Err(error) => Err(error),
    };
    assert!(tried.is_err(), "{tried:?}");
}

/// What was true when a connection began may have ended since.
#[tokio::test]
async fn a_device_ends_with_its_authority_its_certificate_and_its_revocation() {
    let edge = Edge::start(|_, spec| by_certificate(spec)).await;
    let device = edge.device("device:d-1");
    let mut conn = edge.connect(Some(&device)).await;
    let known = async |conn: &mut Conn| {
        edge.rctx(&conn.send(edge.call()).await.unwrap()).get("dev").is_some()
    };
    assert!(known(&mut conn).await);
    Authority::new("devices").write_bundle(edge.lab.folder(), "devices");
    wait::until("the authority is gone", async || (!known(&mut conn).await).then_some(())).await;
    edge.devices.write_bundle(edge.lab.folder(), "devices");
    wait::until("the authority is back", async || known(&mut conn).await.then_some(())).await;
}

#[tokio::test]
async fn a_revoked_device_is_refused() {
    let edge = Edge::start(|_, spec| by_certificate(spec)).await;
    revoke(&edge, json!({"devices": [{"id": "device:d-1"}]}));
    let (device, other) = (edge.device("device:d-1"), edge.device("device:d-2"));
    let reply = wait::until("the revocation", async || {
        let reply = edge.send(Some(&device), edge.call()).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    let record = refused(&edge.gateway, &reply, "device_refused").await;
    assert_eq!(record["reason"], "device_refused/revoked");
    assert_eq!(edge.rctx(&edge.send(Some(&other), edge.call()).await)["dev"]["id"], "device:d-2");
}

/// Nobody behind the gateway could ask any more: the token does not name the device.
#[tokio::test]
async fn a_revoked_device_is_refused_where_the_token_would_not_name_it() {
    let edge = Edge::start(|_, spec| {
        by_certificate(spec);
        spec["gateways"][0]["spec"]["mint"][0]["emit"]["rctx"] = json!(["idp"]);
    })
    .await;
    let (device, other) = (edge.device("device:d-1"), edge.device("device:d-2"));
    assert_eq!(edge.rctx(&edge.send(Some(&device), edge.call()).await).get("dev"), None);
    revoke(&edge, json!({"devices": [{"id": "device:d-1"}]}));
    let reply = wait::until("the revocation", async || {
        let reply = edge.send(Some(&device), edge.call()).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    let record = refused(&edge.gateway, &reply, "device_refused").await;
    assert_eq!(record["reason"], "device_refused/revoked");
    assert_eq!(edge.send(Some(&other), edge.call()).await.status, 200);
}

fn revoke(edge: &Edge, entries: Value) {
    let mesh = std::fs::read_to_string(edge.lab.folder().join("gateway-mesh.yaml")).unwrap();
    let revocation = documents::revocation(entries);
    edge.lab.write_text("gateway-mesh.yaml", &format!("{mesh}\n---\n{revocation:#}"));
}

fn behind_a_proxy(spec: &mut Value) {
    let gateway = &mut spec["gateways"][0]["spec"];
    gateway["proxies"] = json!([{
        "name": "iap", "clientCertificate": {"trustBundle": "proxies", "dns": ["iap.example.com"]},
        "groups": {"header": "X-Groups", "keep": ["ops", "support"]},
    }]);
    gateway["device"] = json!({"sources": [{"header": {
        "proxy": "iap", "id": "X-Device-Id", "tier": "X-Device-Tier",
        "managed": "X-Device-Managed", "at": "X-Device-At",
    }}]});
}

fn with_facts(call: Call) -> Call {
    let at = token::now_s() - 60;
    call.header("x-device-id", "d-7f3a")
        .header("X-Device-Tier", "1")
        .header("x-device-managed", "true")
        .header("x-device-at", &at.to_string())
        .header("x-groups", "ops, admins")
}

#[tokio::test]
async fn a_proxy_that_proves_who_it_is_vouches_for_its_headers() {
    let edge = Edge::start(|_, spec| behind_a_proxy(spec)).await;
    let iap = edge.proxies.issue(Request::new(&[]).dns("iap.example.com"));
    let reply = edge.send(Some(&iap), with_facts(edge.call())).await;
    let rctx = edge.rctx(&reply);
    assert_eq!(rctx["dev"]["id"], "d-7f3a");
    assert_eq!(rctx["dev"]["src"], "header:iap");
    assert_eq!(rctx["dev"]["tier"], "1");
    assert_eq!(rctx["dev"]["managed"], true);
    assert!(rctx["dev"]["at"].as_u64().unwrap() < token::now_s());
    assert_eq!((&rctx["groups"], &rctx["groups_src"]), (&json!(["ops"]), &json!("header:iap")));
    let record = issued(&edge, &reply).await;
    assert_eq!(record["dev"]["src"], "header:iap", "{record}");
    assert_eq!(record["user"]["groups_src"], "header:iap", "{record}");
    assert_eq!(edge.server.last().header("x-device-id"), None, "facts go on in the token only");
    // The next request on the connection is somebody else's.
    let mut conn = edge.connect(Some(&iap)).await;
    conn.send(with_facts(edge.call())).await.unwrap();
    let rctx = edge.rctx(&conn.send(edge.call()).await.unwrap());
    assert_eq!((rctx.get("dev"), rctx.get("groups_src")), (None, None));
    let odd = edge.call().header("x-device-id", "a").header("x-device-id", "b");
    assert_eq!(edge.rctx(&edge.send(Some(&iap), odd).await).get("dev"), None);
}

#[tokio::test]
async fn attack_sends_device_header_directly() {
    let edge = Edge::start(|_, spec| behind_a_proxy(spec)).await;
    let misnamed = edge.proxies.issue(Request::new(&[]).dns("other.example.com"));
    let self_made = Authority::new("proxies").issue(Request::new(&[]).dns("iap.example.com"));
    let ended = edge.proxies.issue(Request::new(&[]).dns("iap.example.com").expired());
    let device = edge.devices.issue(Request::new(&[]).dns("iap.example.com"));
    for leaf in [None, Some(&misnamed), Some(&self_made), Some(&ended), Some(&device)] {
        let call = with_facts(edge.call()).header("x_device_id", "d-1");
        let rctx = edge.rctx(&edge.send(leaf, call).await);
        assert_eq!((rctx.get("dev"), rctx.get("groups_src")), (None, None), "{rctx}");
        let seen = edge.server.last();
        for name in ["x-device-id", "x_device_id", "x-device-managed", "x-groups"] {
            assert_eq!(seen.header(name), None, "{name} reached the app");
        }
    }
    let labels = ["direction=\"gateway\""];
    edge.gateway.metric_reaches("countersign_reserved_headers_removed_total", &labels, 30.0).await;
}

fn validated(lab: &Lab, spec: &mut Value, point: &DecisionPoint, on_unavailable: Value) {
    let roots: PathBuf = lab.folder().join("bundle.pem");
    let entity = |kind: &str, id: &str| json!({"type": kind, "id": id});
    let provider = |request: Value, facts: Value| {
        json!({
            "authzen": point.authzen(&roots, "5s"), "request": request, "facts": facts,
            "cache": {"positive": "60s", "negative": "0s"}, "onUnavailable": on_unavailable,
        })
    };
    let tickets = provider(
        json!({"subject": entity("user", "user.id"), "action": "use-as-justification",
            "resource": entity("ticket", "justification.ref")}),
        json!({"status": "string", "assignee": "string", "customer": "string"}),
    );
    let inventory = provider(
        json!({"subject": entity("user", "user.id"), "action": "use",
            "resource": entity("device", "device.id")}),
        json!({"managed": "bool", "tier": "string", "at": "int"}),
    );
    spec["attributeProviders"] = json!([
        {"name": "tickets", "spec": tickets}, {"name": "inventory", "spec": inventory},
    ]);
    by_certificate(spec);
    let gateway = &mut spec["gateways"][0]["spec"];
    gateway["device"]["validate"] = json!("inventory");
    gateway["justification"] = json!({
        "header": "Countersign-Justification",
        "kinds": {"ticket": {"pattern": "SUP-[0-9]{1,8}", "validate": "tickets"}},
    });
}

/// What the decision point knows.
fn resources() -> Value {
    json!({
        "ticket": {
            "SUP-1": {"status": "open", "assignee": "alice", "customer": "alice"},
            "SUP-2": {"decision": false, "reason": "closed"},
            "SUP-3": {"status": "open", "assignee": "alice", "customer": "bob", "more": 1},
        },
        "device": {
            "device:d-1": {"managed": true, "tier": "1", "at": 1_795_000_000},
            "device:d-2": {"decision": false, "reason": "lost"},
            "device:d-3": {"managed": false, "tier": "3"},
        },
    })
}

async fn validating(test: &str, on_unavailable: Value) -> Option<(Edge, DecisionPoint)> {
    let python = programs::python(test)?;
    // The lab is made inside; the decision point needs an authority and a folder before.
    let folder = tempfile::tempdir().unwrap().keep();
    let ca = Authority::new("decisions");
    let point = DecisionPoint::start(&python, &folder, &ca, &resources()).await;
    let roots = ca.write_bundle(&folder, "roots");
    let edge = Edge::start(|lab, spec| {
        validated(lab, spec, &point, on_unavailable);
        for named in spec["attributeProviders"].as_array_mut().unwrap() {
            named["spec"]["authzen"]["roots"] = json!(roots);
        }
    })
    .await;
    Some((edge, point))
}

fn because(call: Call, justification: &str) -> Call {
    call.header("countersign-justification", justification)
}

#[tokio::test]
async fn a_justification_and_a_device_are_checked() {
    let test = "a_justification_and_a_device_are_checked";
    let Some((edge, point)) = validating(test, json!("unknown")).await else { return };
    let device = edge.device("device:d-1");
    let call = || because(edge.call(), "ticket=SUP-1");
    let reply = edge.send(Some(&device), call()).await;
    let rctx = edge.rctx(&reply);
    let facts = json!({"status": "open", "assignee": "alice", "customer": "alice"});
    assert_eq!(rctx["just"]["checked"], true);
    assert_eq!((&rctx["just"]["by"], &rctx["just"]["facts"]), (&json!("tickets"), &facts));
    assert_eq!(rctx["dev"]["managed"], true);
    assert_eq!((&rctx["dev"]["tier"], &rctx["dev"]["at"]), (&json!("1"), &json!(1_795_000_000)));
    let record = issued(&edge, &reply).await;
    assert_eq!(
        (&record["just"]["by"], &record["just"]["checked"]),
        (&json!("tickets"), &json!(true))
    );
    let ticket = json!({
        "subject": {"type": "user", "id": "alice", "properties": {"provider": "corp"}},
        "action": {"name": "use-as-justification"},
        "resource": {"type": "ticket", "id": "SUP-1"},
    });
    assert!(point.asked().contains(&ticket), "{:?}", point.asked());
    // A yes counts for a minute: nobody is asked again, whatever it knows by now.
    assert_eq!(point.asked().len(), 2);
    point.fails("error");
    for _ in 0..3 {
        assert_eq!(edge.rctx(&edge.send(Some(&device), call()).await)["just"]["checked"], true);
    }
    assert_eq!(point.asked().len(), 2);
    point.fails("");
    // Unmanaged is a fact as well; a device that may not be used at all is refused.
    let unmanaged = edge.device("device:d-3");
    assert_eq!(edge.rctx(&edge.send(Some(&unmanaged), edge.call()).await)["dev"]["managed"], false);
    let reply = edge.send(Some(&edge.device("device:d-2")), edge.call()).await;
    refused(&edge.gateway, &reply, "device_refused").await;
    assert_eq!(reply.json()["code"], "lost");
    let reply = edge.send(Some(&edge.device("device:d-9")), edge.call()).await;
    assert_eq!(reply.json()["code"], "unknown_device");
}

#[tokio::test]
async fn attack_invents_a_ticket() {
    let Some((edge, point)) = validating("attack_invents_a_ticket", json!("unknown")).await else {
        return;
    };
    for (reference, code) in [("SUP-404", "unknown_ticket"), ("SUP-2", "closed")] {
        let call = because(edge.call(), &format!("ticket={reference}"));
        let reply = edge.send(None, call).await;
        refused(&edge.gateway, &reply, "justification_refused").await;
        assert_eq!(reply.json()["code"], code);
    }
    assert!(edge.server.seen().is_empty(), "a refused request went on");
    let asked = point.asked().len();
    for odd in ["ticket=SUP-x", "ticket=SUP-1,ticket=SUP-1", "bug=SUP-1", "because", "ticket="] {
        let reply = edge.send(None, because(edge.call(), odd)).await;
        assert_eq!(reply.status, 400, "{odd}");
    }
    let twice = because(because(edge.call(), "ticket=SUP-1"), "ticket=SUP-1");
    assert_eq!(edge.send(None, twice).await.status, 400);
    assert_eq!(point.asked().len(), asked, "what fits no kind is asked of nobody");
    // A "no" is not remembered here: the ticket may be opened the next moment.
    let mut known = resources();
    known["ticket"]["SUP-404"] = json!({"status": "open", "assignee": "alice", "customer": "x"});
    point.knows(&known);
    let reply = edge.send(None, because(edge.call(), "ticket=SUP-404")).await;
    assert_eq!(edge.rctx(&reply)["just"]["facts"]["customer"], "x");
}

/// The facts of a ticket open the data of its own customer, and nothing else.
#[tokio::test]
async fn facts_of_a_ticket_are_compared_with_the_resource() {
    let test = "facts_of_a_ticket_are_compared_with_the_resource";
    let Some((mut edge, _point)) = validating(test, json!("unknown")).await else { return };
    let mesh = std::fs::read_to_string(edge.lab.folder().join("gateway-mesh.yaml")).unwrap();
    let mesh: Value = serde_json::from_str(&mesh).unwrap();
    let app = App::mirror();
    let rule = json!([{
        "name": "ticket", "effect": "allow",
        "match": {"caller": {"anyInMesh": true}, "http": {"paths": [{"template": "/v1/users/{user}/**"}]}},
        "require": {
            "user": {"provider": "corp"}, "device": {"managed": true, "sources": ["mtls"]},
            "justification": {"anyKind": ["ticket"], "checked": true, "facts": {
                "customer": {"equalsAttr": "resource.owner"}, "assignee": {"equalsAttr": "user.id"},
                "status": {"anyOf": ["open"]},
            }},
        },
    }]);
    let mut policy = documents::access("shop", rule);
    policy["spec"]["resource"] = json!({"type": "user", "owner": {"fromPath": {
        "template": "/v1/users/{user}/**", "param": "user"}}});
    let mesh_file = edge.lab.write("orders-mesh.yaml", &mesh);
    let access = edge.lab.write("orders-access.yaml", &policy);
    let spec = edge.lab.proxy("shop", "orders").inbound(app.address);
    let orders = spec.documents(&[&mesh_file, &access]).start().await;
    // A gateway before the sidecar, in place of the one before a server that shows tokens.
    let mut changed = mesh.clone();
    let endpoint = json!({"address": orders.inbound().ip(), "port": orders.inbound().port()});
    changed["spec"]["destinations"][0]["spec"]["endpoints"] = json!([endpoint]);
    let changed = Mesh { spec: changed["spec"].take() };
    edge.gateway = start_gateway(&edge.lab, &changed, &edge.devices, &edge.proxies).await;
    let device = edge.device("device:d-1");
    let ask = async |path: &str, ticket: &str| {
        let alice = edge.users.user(&user_claims("alice"));
        let call = because(Call::get(API, path).bearer(&alice), &format!("ticket={ticket}"));
        edge.send(Some(&device), call).await
    };
    assert_eq!(ask(PATH, "SUP-1").await.status, 200);
    let reply = ask("/v1/users/bob/orders", "SUP-1").await;
    refused(&orders, &reply, "policy_denied").await;
    assert_eq!(ask("/v1/users/bob/orders", "SUP-3").await.status, 200);
    let unmanaged = edge.device("device:d-3");
    let call = because(edge.call(), "ticket=SUP-1");
    assert_eq!(edge.send(Some(&unmanaged), call).await.status, 403);
    assert_eq!(edge.send(None, because(edge.call(), "ticket=SUP-1")).await.status, 403);
}

/// D7: whoever decides does not answer, or answers nonsense. It is never a yes, and nobody else waits.
#[tokio::test]
async fn attack_stalls_the_decision_service() {
    let test = "attack_stalls_the_decision_service";
    let Some((edge, point)) = validating(test, json!("unknown")).await else { return };
    let mut number = 0;
    let mut fresh = || {
        number += 1;
        because(edge.call(), &format!("ticket=SUP-{number}00"))
    };
    for fault in ["garbage", "huge", "error", "redirect", "half", "text", "twice"] {
        point.fails(fault);
        let rctx = edge.rctx(&edge.send(None, fresh()).await);
        assert_eq!(rctx["just"]["checked"], false, "{fault}: {rctx}");
        assert_eq!(rctx["just"].get("facts"), None, "{fault}");
    }
    point.fails("stall");
    let asked = point.asked().len();
    let mut stalled = edge.connect(None).await;
    let mut also = edge.connect(None).await;
    let (first, second) =
        (because(edge.call(), "ticket=SUP-7"), because(edge.call(), "ticket=SUP-7"));
    let (first, second, other) = tokio::join!(stalled.send(first), also.send(second), async {
        // Served while the others wait.
        let asks = || async { (point.asked().len() > asked).then_some(()) };
        wait::until("the question", asks).await;
        let reply = edge.send(None, edge.call()).await;
        (reply.status, edge.server.seen().len())
    },);
    assert_eq!((first.unwrap().status, second.unwrap().status, other.0), (200, 200, 200));
    assert_eq!(edge.server.seen().len(), other.1 + 2, "the others were still waiting");
    assert_eq!(point.asked().len(), asked + 1, "one question is asked once");
}

#[tokio::test]
async fn without_an_answer_the_document_says_what_happens() {
    let test = "without_an_answer_the_document_says_what_happens";
    let Some((edge, point)) = validating(test, json!("refuse")).await else { return };
    point.fails("error");
    let reply = edge.send(None, because(edge.call(), "ticket=SUP-1")).await;
    refused(&edge.gateway, &reply, "validator_unavailable").await;
    let reply = edge.send(Some(&edge.device("device:d-1")), edge.call()).await;
    refused(&edge.gateway, &reply, "validator_unavailable").await;
    // Nothing is asked about a request without device and justification.
    assert_eq!(edge.send(None, edge.call()).await.status, 200);
    point.fails("");
    let reply = edge.send(None, because(edge.call(), "ticket=SUP-1")).await;
    assert_eq!(edge.rctx(&reply)["just"]["checked"], true);
}

/// Groups as OpenLDAP's own tools would fill a directory.
const GROUPS: &str = "dn: ou=people,dc=lab,dc=test
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=lab,dc=test
objectClass: organizationalUnit
ou: groups

dn: cn=support,ou=groups,dc=lab,dc=test
objectClass: groupOfNames
cn: support
member: uid=alice,ou=people,dc=lab,dc=test
member: uid=bob,ou=people,dc=lab,dc=test

dn: cn=oncall,ou=groups,dc=lab,dc=test
objectClass: groupOfNames
cn: oncall
member: uid=alice,ou=people,dc=lab,dc=test

dn: cn=books,ou=groups,dc=lab,dc=test
objectClass: groupOfNames
cn: books
member: uid=alice,ou=people,dc=lab,dc=test

dn: cn=odd,ou=groups,dc=lab,dc=test
objectClass: groupOfNames
cn: odd
member: uid=a\\2Cb\\2B*)(\\22é,ou=people,dc=lab,dc=test
";

async fn directory(test: &str, how: How, on_unavailable: Value) -> Option<(Edge, Slapd)> {
    if !Slapd::is_installed(test) {
        return None;
    }
    let folder = tempfile::tempdir().unwrap().keep();
    let slapd = Slapd::start(&folder, &Authority::new("directory"), GROUPS).await;
    let edge = Edge::start(|_, spec| {
        spec["attributeProviders"] = json!([{"name": "staff", "spec": {
            "ldap": slapd.ldap(how, &["support", "oncall", "odd"]),
            "cache": {"positive": "0s"}, "onUnavailable": on_unavailable,
        }}]);
        spec["gateways"][0]["spec"]["user"]["groupsFrom"] = json!("staff");
    })
    .await;
    Some((edge, slapd))
}

async fn groups_of(edge: &Edge, user: &str) -> Value {
    let mut claims = user_claims(user);
    claims["groups"] = json!(["claimed"]);
    let call = Call::get(API, PATH).bearer(&edge.users.user(&claims));
    edge.rctx(&edge.send(None, call).await)["groups"].clone()
}

#[tokio::test]
async fn groups_come_from_a_directory() {
    for how in [How::Ldaps, How::StartTls, How::Plain] {
        let Some((edge, _slapd)) =
            directory("groups_come_from_a_directory", how, json!("refuse")).await
        else {
            return;
        };
        assert_eq!(groups_of(&edge, "alice").await, json!(["oncall", "support"]), "{how:?}");
        assert_eq!(groups_of(&edge, "bob").await, json!(["support"]), "{how:?}");
        assert_eq!(groups_of(&edge, "carol").await, json!([]), "{how:?}");
        assert_eq!(groups_of(&edge, "a,b+*)(\"é").await, json!(["odd"]), "{how:?}");
        let reply = edge.send(None, edge.call()).await;
        assert_eq!(edge.rctx(&reply)["groups_src"], "dir:staff");
        let record = issued(&edge, &reply).await;
        assert_eq!(record["user"]["groups_src"], "dir:staff", "{record}");
    }
}

#[tokio::test]
async fn attack_names_itself_into_a_group() {
    let test = "attack_names_itself_into_a_group";
    let Some((edge, _slapd)) = directory(test, How::Ldaps, json!("refuse")).await else { return };
    for name in [
        "*",
        "alice,ou=people,dc=lab,dc=test)(cn=*",
        "x)(|(cn=*)",
        "alice\\2Cou=people",
        "\\61lice",
        "x,ou=people,dc=lab,dc=test)(member=uid=alice",
        "a\\",
    ] {
        assert_eq!(groups_of(&edge, name).await, json!([]), "{name}");
    }
}

/// A customer may call himself what an employee is called.
#[tokio::test]
async fn attack_takes_a_name_of_the_directory_at_another_provider() {
    let test = "attack_takes_a_name_of_the_directory_at_another_provider";
    if !Slapd::is_installed(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap().keep();
    let slapd = Slapd::start(&folder, &Authority::new("directory"), GROUPS).await;
    let edge = Edge::start(|_, spec| {
        spec["attributeProviders"] = json!([{"name": "staff", "spec": {
            "ldap": slapd.ldap(How::Ldaps, &["support", "oncall"]), "onUnavailable": "refuse",
        }}]);
        let mut customers = spec["identityProviders"][0].clone();
        customers["name"] = json!("customers");
        customers["spec"]["issuer"] = json!("https://shop.example.com");
        customers["spec"]["subjectPrefix"] = json!("c");
        spec["identityProviders"].as_array_mut().unwrap().push(customers);
        let user = &mut spec["gateways"][0]["spec"]["user"];
        user["providers"] = json!(["corp", "customers"]);
        user["groupsFrom"] = json!({"directory": "staff", "users": ["corp"]});
    })
    .await;
    assert_eq!(groups_of(&edge, "alice").await, json!(["oncall", "support"]));
    let mut claims = user_claims("alice");
    claims["iss"] = json!("https://shop.example.com");
    claims["groups"] = json!(["customers"]);
    let call = Call::get(API, PATH).bearer(&edge.users.user(&claims));
    let rctx = edge.rctx(&edge.send(None, call).await);
    assert_eq!((&rctx["idp"], &rctx["groups"]), (&json!("customers"), &json!(["customers"])));
    assert_eq!(rctx.get("groups_src"), None);
}

#[tokio::test]
async fn a_directory_that_proves_nothing_names_no_groups() {
    for how in [How::WrongPassword, How::WrongName] {
        let test = "a_directory_that_proves_nothing_names_no_groups";
        let Some((edge, _slapd)) = directory(test, how, json!("refuse")).await else { return };
        let reply = edge.send(None, edge.call()).await;
        refused(&edge.gateway, &reply, "validator_unavailable").await;
    }
}

#[tokio::test]
async fn a_directory_that_is_gone_leaves_groups_unknown() {
    let test = "a_directory_that_is_gone_leaves_groups_unknown";
    let Some((edge, slapd)) = directory(test, How::Ldaps, json!("unknown")).await else { return };
    assert_eq!(groups_of(&edge, "alice").await, json!(["oncall", "support"]));
    slapd.stop().await;
    // Neither the groups it named before, nor those the user's own token claims.
    assert_eq!(groups_of(&edge, "alice").await, Value::Null);
}
