//! Documents that change while requests run, and documents nobody should run with.

use std::process::Command;

use countersign_integration::client::Call;
use countersign_integration::outcome::refused;
use countersign_integration::{App, Lab, documents, ports, process, programs, wait};
use serde_json::{Value, json};

const HOST: &str = "orders.shop";

fn only(account: &str) -> Value {
    json!([{"name": "only", "effect": "allow", "context": "none", "match":
        {"caller": {"anyOf": [{"namespace": "shop", "serviceAccount": account}]}}}])
}

#[tokio::test]
async fn a_new_policy_holds_from_the_next_request_on() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders_with(&app, &lab.mesh(), only("web"), |spec| spec).await;
    let mut web = lab.peer(&orders, &lab.ca.leaf("shop", "web")).await;
    assert_eq!(web.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    lab.write("access.yaml", &documents::access("shop", only("batch")));
    // Not asked: the file is seen to have changed. The connection stays the same.
    let reply = wait::until("the new policy", async || {
        let reply = web.send(Call::get(HOST, "/")).await.unwrap();
        (reply.status != 200).then_some(reply)
    })
    .await;
    refused(&orders, &reply, "policy_denied").await;
    let changed = |record: &Value| record["kind"] == "control" && record["what"] == "documents";
    wait::until_true("the record of the change", || orders.audit().iter().any(changed)).await;
}

/// Whatever is wrong with a document, the last good set stays in force, whole.
#[tokio::test]
async fn a_bad_document_changes_nothing() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders_with(&app, &lab.mesh(), only("web"), |spec| spec).await;
    let mut web = lab.peer(&orders, &lab.ca.leaf("shop", "web")).await;
    let good = documents::access("shop", only("web"));
    let mut rejected = 0.0;
    for (broken, told) in [
        (format!("{good:#}").replace("anyOf", "anyOff"), "did you mean `anyOf`"),
        (format!("{good:#}").replace("\"allow\"", "\"alow\""), "alow"),
        ("kind: AccessPolicy\n  bad: [yaml".to_owned(), "access.yaml"),
    ] {
        lab.write_text("access.yaml", &broken);
        orders.reload();
        rejected += 1.0;
        // Not the count first: a document may be read twice, seen to be new and asked for.
        let status = wait::until("the complaint", async || {
            let (status, ready) = orders.ready().await?;
            ready["warnings"].to_string().contains(told).then_some(status)
        })
        .await;
        assert_eq!(status, 200, "the last good set serves");
        orders.metric_reaches("countersign_documents_rejected_total", &[], rejected).await;
        assert_eq!(web.send(Call::get(HOST, "/")).await.unwrap().status, 200);
        let reply = lab.call_as("shop", "batch", &orders, Call::get(HOST, "/")).await;
        refused(&orders, &reply, "policy_denied").await;
    }
    lab.write("access.yaml", &documents::access("shop", only("batch")));
    orders.reload();
    wait::until("the repaired documents", async || {
        let reply = web.send(Call::get(HOST, "/")).await.unwrap();
        (reply.status == 403).then_some(())
    })
    .await;
    wait::until("no more warning", async || {
        let (_, ready) = orders.ready().await?;
        (!ready["warnings"].to_string().contains("documents on disk")).then_some(())
    })
    .await;
}

/// Documents that name a key file which is not there yet come into force when it is.
#[tokio::test]
async fn documents_wait_for_the_key_file_they_name() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders_with(&app, &lab.mesh(), only("web"), |spec| spec).await;
    let keys = lab.folder().join("late.json");
    let mesh = lab.mesh().with(|spec| {
        spec["context"]["issuers"][0]["keys"] = json!("either");
        spec["context"]["issuers"][0]["jwks"] = json!({"file": keys});
    });
    lab.write("mesh.yaml", &mesh.document());
    orders.reload();
    orders.metric_reaches("countersign_documents_rejected_total", &[], 1.0).await;
    lab.write("access.yaml", &documents::access("shop", only("batch")));
    orders.reload();
    orders.metric_reaches("countersign_documents_rejected_total", &[], 2.0).await;
    let reply = lab.call_as("shop", "web", &orders, Call::get(HOST, "/")).await;
    assert_eq!(reply.status, 200, "the last good set");
    lab.write("late.json", &json!({"keys": [lab.gateway.jwk()]}));
    // Nobody asks: the file is seen to have come.
    wait::until("the documents", async || {
        let reply = lab.call_as("shop", "web", &orders, Call::get(HOST, "/")).await;
        (reply.status == 403).then_some(())
    })
    .await;
}

#[tokio::test]
async fn attack_deletes_policy_to_open_port() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders_with(&app, &lab.mesh(), only("web"), |spec| spec).await;
    std::fs::remove_file(lab.folder().join("access.yaml")).unwrap();
    orders.reload();
    orders.metric_reaches("countersign_documents_rejected_total", &[], 1.0).await;
    let reply = lab.call_as("shop", "thief", &orders, Call::get(HOST, "/")).await;
    refused(&orders, &reply, "policy_denied").await;
}

/// How a start with these files ends, and what it says.
fn attempt(config: &std::path::Path) -> (Option<i32>, String) {
    let done = process::run(Command::new(programs::proxy()).arg("--config").arg(config));
    (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
}

/// All problems of all documents at once, each with its place, and exit code 2.
#[tokio::test]
async fn wrong_documents_are_all_listed() {
    let lab = Lab::new();
    let app = App::mirror();
    let mesh = lab.mesh().with(|spec| spec["cidrSets"] = json!({"office": ["10.0.0.0/256"]}));
    let mesh = lab.write("mesh.yaml", &mesh.document());
    let rules = json!([
        {"name": "a", "effect": "allow", "match": {"http": {"paths": [{"prefix": "/x"}]}}},
        {"name": "b", "effect": "alow", "match": {"caller": {"anyInMesh": true}}},
        {"name": "c", "effect": "allow", "match": {"caller": {"anyInMesh": true}},
         "require": {"source": {"at": "origin", "cidrSets": ["offices"]}}},
    ]);
    let access = lab.write("access.yaml", &documents::access("shop", rules));
    let spec = lab.proxy("shop", "orders").inbound(app.address).documents(&[&mesh, &access]);
    let config = spec.with(|config| config["listeners"]["inbund"] = json!([])).write();
    let (code, told) = attempt(&config);
    assert_eq!(code, Some(2), "{told}");
    for part in [
        "mesh.yaml:",
        "access.yaml:",
        "shop.orders.yaml:",
        "10.0.0.0/256",
        "E011",
        "alow",
        "offices",
        "unknown field `inbund`",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // The checker says the same of the same files.
    let done = process::run(Command::new(programs::cli()).arg("check").arg(&config));
    let told =
        String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(2), "{told}");
    for part in ["10.0.0.0/256", "E011", "unknown field `inbund`"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[tokio::test]
async fn bad_cidr_rejects_document() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders_with(&app, &lab.mesh(), only("web"), |spec| spec).await;
    let mesh = lab.mesh().with(|spec| spec["cidrSets"] = json!({"office": ["10.0.0.0/33"]}));
    lab.write("mesh.yaml", &mesh.document());
    orders.reload();
    orders.metric_reaches("countersign_documents_rejected_total", &[], 1.0).await;
    let (_, ready) = orders.ready().await.unwrap();
    assert!(ready["warnings"].to_string().contains("10.0.0.0/33"), "{ready}");
}

/// A rule about requests cannot be enforced on a port whose bytes nobody looks into: it is refused
/// with the place of both, and the documents before it stay in force.
#[tokio::test]
async fn unenforceable_rule_is_rejected() {
    let lab = Lab::new();
    let app = App::mirror();
    let tcp = |spec: countersign_integration::proxy::Spec| {
        spec.with(|config| config["app"][0]["protocol"] = json!("tcp"))
    };
    let orders = lab.orders_with(&app, &lab.mesh(), only("web"), tcp).await;
    let port = orders.inbound().port();
    let about = |matcher: Value| {
        let mut rule = json!({"name": "reads", "effect": "allow", "match": matcher});
        rule["match"]["caller"] = json!({"anyInMesh": true});
        let mut document = documents::access("shop", json!([rule]));
        document["spec"]["ports"] = json!([port]);
        document
    };
    lab.write("access.yaml", &about(json!({"http": {"methods": ["GET"]}})));
    orders.reload();
    orders.metric_reaches("countersign_documents_rejected_total", &[], 1.0).await;
    let (status, ready) = orders.ready().await.unwrap();
    let told = ready["warnings"].to_string();
    for part in ["shop/access/reads", "access.yaml:", &format!("port {port} is declared `tcp`")] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(status, 200, "the last good set serves");
    lab.write("access.yaml", &about(json!({"tcp": {"any": true}})));
    orders.reload();
    wait::until("no more warning", async || {
        let (_, ready) = orders.ready().await?;
        (!ready["warnings"].to_string().contains("documents on disk")).then_some(())
    })
    .await;
    // A start with such documents is refused by the same words.
    let rejected = lab.write("rejected.yaml", &about(json!({"grpc": {"service": "s.S"}})));
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    let spec = lab.proxy("shop", "orders").inbound_at(orders.inbound(), app.address);
    let (code, told) = attempt(&tcp(spec.documents(&[&mesh, &rejected])).write());
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("E004") && told.contains("shop/access/reads"), "{told}");
}

#[tokio::test]
async fn files_and_ports_that_cannot_be_used() {
    let lab = Lab::new();
    let app = App::mirror();
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    let spec = || lab.proxy("shop", "orders").documents(&[&mesh]);

    let (code, told) = attempt(&lab.folder().join("nowhere.yaml"));
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("nowhere.yaml") && told.lines().count() <= 3, "{told}");

    let missing = lab.folder().join("missing.yaml");
    let (code, told) = attempt(&spec().inbound(app.address).documents(&[&missing]).write());
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("missing.yaml"), "{told}");

    let taken = ports::free();
    let _holder = std::net::TcpListener::bind(taken).unwrap();
    let (code, told) = attempt(&spec().inbound_at(taken, app.address).write());
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains(&taken.to_string()) && told.lines().count() == 1, "{told}");

    let nothing = spec().with(|config| config["listeners"] = json!({}));
    let (code, told) = attempt(&nothing.write());
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("nothing listens"), "{told}");

    let unwritable = spec().inbound(app.address).with(|config| {
        config["audit"]["sink"] = json!({"file": "/nonexistent/audit"});
    });
    let (code, told) = attempt(&unwritable.write());
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("/nonexistent/audit"), "{told}");
}

/// Until the identity source answers, readiness says what it waits for; then all goes on.
#[tokio::test]
async fn an_unreachable_identity_source_is_named() {
    let lab = Lab::new();
    let app = App::mirror();
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
    let socket = lab.folder().join("absent.sock");
    let spec = lab.proxy("shop", "orders").inbound(app.address).documents(&[&mesh, &access]);
    let orders = spec
        .with(|config| config["identity"]["source"] = json!({"workloadApi": {"socket": socket}}))
        .launch();
    let ready = wait::until("an answer that names the socket", async || {
        let (status, ready) = orders.ready().await?;
        (status == 503 && ready.to_string().contains("absent.sock")).then_some(ready)
    })
    .await;
    assert_eq!(ready["ready"], false);
    assert!(orders.process.exit_status().is_none(), "it keeps trying");
    orders.process.terminate();
    assert_eq!(orders.process.ended().await.code(), Some(0));
}

/// `countersign why` explains a refusal of a running proxy, rule by rule.
#[tokio::test]
async fn why_explains_a_refusal() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders_with(&app, &lab.mesh(), only("web"), |spec| spec).await;
    let reply = lab.call_as("shop", "thief", &orders, Call::get(HOST, "/")).await;
    let why = |arguments: &[&str]| {
        let admin = format!("http://{}", orders.admin_address());
        let mut command = Command::new(programs::cli());
        let done = process::run(command.args(["why", "--admin", &admin]).args(arguments));
        (done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let id = reply.decision();
    let (code, told) = why(&[&id]);
    assert_eq!(code, Some(0), "{told}");
    for part in ["DENY 403", "policy_denied/no_match", "only", &lab.id("shop", "thief")] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(why(&["--last-denied"]).1, told);
    let (_, json) = why(&[&id, "-o", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json.to_string().contains("policy_denied/no_match"), "{json}");
    assert_eq!(why(&["01M7Z2CAR18Q56WGQYHP7E7NV6"]).0, Some(1));
}
