//! Second implementations agree: gRPC of grpcio, JOSE of joserfc, certificates and curl of others.
//! What is missing is said, or fails where `COUNTERSIGN_TESTBED=require` is set.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::lab::user_claims;
use countersign_integration::openssl::Openssl;
use countersign_integration::outcome::allowed;
use countersign_integration::{
    App, Lab, Process, Tokens, World, documents, ports, process, programs, tls, wait,
};
use serde_json::{Value, json};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/interop").join(name)
}

#[tokio::test]
async fn grpcio_client_and_server_through_two_sidecars() {
    let Some(python) = programs::python("grpcio_client_and_server_through_two_sidecars") else {
        return;
    };
    let lab = Lab::new();
    let app = ports::free();
    let mut serve = Command::new(&python);
    serve.arg(script("grpc_peer.py")).args(["serve", &app.port().to_string()]);
    let server = Process::start("grpcio", serve, lab.folder());
    wait::until_true("the gRPC server", || server.stdout().contains("ready")).await;

    let rules = json!([{"name": "orders", "effect": "allow", "context": "none", "match": {
        "caller": {"anyOf": [{"namespace": "shop", "serviceAccount": "web"}]},
        "grpc": {"service": "shop.Orders", "methods": ["Get", "Chat", "Fail"]}}}]);
    let unused = App::mirror();
    let at = |config: &mut Value| config["app"][0]["address"] = json!(app);
    let orders = lab.orders_with(&unused, &lab.mesh(), rules, |spec| spec.with(at)).await;
    let id = lab.id("shop", "orders");
    let grpc = json!({"protocol": "grpc"});
    let mesh = lab.mesh();
    let mesh =
        mesh.destination_speaking("shop/orders", "orders.shop", orders.inbound(), &[&id], grpc);
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    let web = lab.proxy("shop", "web").outbound().documents(&[&mesh]).start().await;

    let out = web.outbound().port().to_string();
    let mut call = Command::new(&python);
    call.arg(script("grpc_peer.py")).args(["call", &out, "orders.shop"]);
    let done = tokio::task::spawn_blocking(move || process::run(&mut call)).await.unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{told}");
    let seen: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(seen["unary"], true, "{seen}");
    assert_eq!(seen["caller"], lab.id("shop", "web"), "{seen}");
    assert_eq!(seen["stream"], true, "{seen}");
    assert_eq!(seen["fail"]["code"], "NOT_FOUND", "{seen}");
    assert_eq!(seen["fail"]["details"], "no such order", "{seen}");
    assert_eq!(seen["denied"]["code"], "PERMISSION_DENIED", "{seen}");
    assert_eq!(seen["denied"]["details"], "denied", "{seen}");
    let record = orders.record(seen["denied"]["decision"].as_str().unwrap()).await;
    assert_eq!(record["reason"], "policy_denied/no_match");
}

/// Runs `jose.py` and gives what it printed.
fn jose(python: &Path, what: &str, given: &Value) -> String {
    let mut command = Command::new(python);
    command.arg(script("jose.py")).arg(what).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

#[tokio::test]
async fn joserfc_verifies_what_the_gateway_minted() {
    let Some(python) = programs::python("joserfc_verifies_what_the_gateway_minted") else { return };
    let lab = Lab::new();
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let server = App::tls_mirror(tls::server(&lab.ca.leaf("shop", "orders"), &[tls::MESH_H2]));
    let id = lab.id("shop", "orders");
    let mesh = lab.gateway_mesh(&users);
    let mesh = mesh.destination("shop/orders", "orders.shop", server.address, &[&id]);
    let gateway = lab.gateway_to(&mesh, "shop/orders", |spec| spec).await;
    let call = Call::get("api.example.com", "/v1/users/alice/orders");
    let call = call.bearer(&users.user(&user_claims("alice")));
    assert_eq!(client::call(gateway.gateway(), call).await.status, 200);
    let token = server.last().header("txn-token").unwrap().to_owned();
    let claims: Value =
        serde_json::from_str(&jose(&python, "verify", &json!({"token": token}))).unwrap();
    assert_eq!(claims["sub"], "user:alice");
    assert_eq!(claims["iss"], lab.id("edge", "gateway"));
    assert_eq!(claims["aud"], "lab.test");
    assert_eq!(claims["rctx"]["to"], id);
    assert_eq!(claims["scope"], "orders.read");
}

#[tokio::test]
async fn a_token_minted_by_joserfc_counts_here() {
    let Some(python) = programs::python("a_token_minted_by_joserfc_counts_here") else { return };
    let lab = Lab::new();
    let app = App::mirror();
    // By certificate, and by the name of a key in a set.
    let keys = lab.write("issuer.json", &json!({"keys": [lab.gateway.jwk()]}));
    let mesh = lab.mesh().with(|spec| {
        spec["context"]["issuers"][0]["keys"] = json!("either");
        spec["context"]["issuers"][0]["jwks"] = json!({"file": keys});
    });
    let orders = lab.orders_with(&app, &mesh, documents::anybody(), |spec| spec).await;
    let claims = lab.gateway.claims(&lab.id("shop", "orders"));
    for header in [lab.gateway.header(), lab.gateway.header_by_kid()] {
        let given = json!({"key": lab.gateway.leaf().key_pem, "header": header, "claims": claims});
        let token = jose(&python, "mint", &given);
        let reply = lab.call_as_gateway(&orders, Call::get("a.b", "/").context(&token)).await;
        allowed(&orders, &reply).await;
        assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"));
    }
}

/// One client certificate made by openssl is accepted; eight that break a rule are refused.
#[tokio::test]
async fn openssl_certificates_one_good_eight_malformed() {
    let Some(program) = programs::system("openssl_certificates", "openssl") else { return };
    let lab = Lab::new();
    let ca = Openssl::new(program, lab.folder(), "lab.test");
    let id = "subjectAltName=URI:spiffe://lab.test/ns/shop/sa/web";
    let usage = "keyUsage=critical,digitalSignature";
    let both = "extendedKeyUsage=serverAuth,clientAuth";
    let own = "subjectAltName=URI:spiffe://lab.test/ns/shop/sa/orders";
    ca.leaf("own", &[own, usage, both], 1);
    let app = App::mirror();
    let orders = lab
        .orders(&app, |spec| {
            spec.with(|config| {
                let file = |name: &str| lab.folder().join(name);
                config["identity"]["source"]["files"] = json!({"certificate": file("own.pem"),
                    "key": file("own.key"), "bundle": file("bundle.pem")});
            })
        })
        .await;
    let attempt = async |leaf: &countersign_integration::Leaf| {
        let config = tls::client(Some(leaf), &[tls::MESH_H2]);
        let mut conn = Conn::tls(orders.inbound(), config).await?;
        conn.send(Call::get("orders.shop", "/")).await
    };
    let good = ca.leaf("good", &[id, usage, both], 1);
    let reply = attempt(&good).await.unwrap();
    assert_eq!(
        reply.seen("countersign-caller").as_deref(),
        Some("spiffe://lab.test/ns/shop/sa/web")
    );

    let two = format!("{id},URI:spiffe://lab.test/ns/edge/sa/gateway");
    let malformed: [(&str, &str, &[&str], i32); 8] = [
        ("no-name", "bad_san", &[usage, both], 1),
        ("dns-name", "bad_san", &["subjectAltName=DNS:web.shop", usage, both], 1),
        ("two-names", "bad_san", &[&two, usage, both], 1),
        ("no-path", "bad_san", &["subjectAltName=URI:spiffe://lab.test", usage, both], 1),
        (
            "https-name",
            "bad_san",
            &["subjectAltName=URI:https://lab.test/ns/shop/sa/web", usage, both],
            1,
        ),
        ("no-usage", "bad_key_usage", &[id, both], 1),
        ("authority", "not_a_leaf", &[id, usage, both, "basicConstraints=critical,CA:TRUE"], 1),
        ("server-only", "bad_eku", &[id, usage, "extendedKeyUsage=serverAuth"], 1),
    ];
    for (name, reason, extensions, days) in malformed {
        let label = format!("result=\"{reason}\"");
        let metric = "countersign_tls_handshakes_total";
        let before = orders.metric(metric, &[&label]).await;
        assert!(attempt(&ca.leaf(name, extensions, days)).await.is_err(), "{name}");
        orders.metric_reaches(metric, &[&label], before + 1.0).await;
    }
    assert_eq!(app.seen().len(), 1);
}

/// The newcomer's own client, against the whole mesh.
#[tokio::test]
async fn curl_gets_alices_orders() {
    let Some(curl) = programs::system("curl_gets_alices_orders", "curl") else { return };
    let world = World::start().await;
    let alice = world.user("alice");
    let ask = |more: &[&str]| {
        let url = format!("http://{}/v1/users/alice/orders", world.gateway.gateway());
        let mut command = Command::new(&curl);
        command.args(["-sS", "-i", "-H", "Host: api.example.com", &url]).args(more);
        String::from_utf8_lossy(&process::run(&mut command).stdout).into_owned()
    };
    let bearer = format!("Authorization: Bearer {alice}");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = ask(&[version, "-H", &bearer]);
        assert!(answer.contains(" 200"), "{answer}");
        assert!(answer.contains("\"countersign-user\":\"alice\""), "{answer}");
    }
    let answer = ask(&["--http1.1"]);
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
}
