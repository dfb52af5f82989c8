//! Deferred grants through a real broker, begin and end on the local API.

mod attacks;
mod corners;
mod office;

use std::path::Path;
use std::process::Command;

use countersign_integration::client::{Call, Conn};
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::process::{self, Process};
use countersign_integration::token::{self, now_s};
use countersign_integration::{ports, programs, tls, wait};
use serde_json::{Value, json};

use office::{DIGEST, Office, Setting, local};

/// The apps of both ends of a queue.
fn worker(python: &Path, arguments: &[&str]) -> Command {
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/context/async_work/worker.py");
    let mut command = Command::new(python);
    command.arg("-B").arg(script).args(arguments);
    command
}

/// alice asks for an export, the app queues it in NATS and answers; after her token has ended a
/// worker takes the message, goes on for her, breaks down, and the queue delivers it again.
#[tokio::test]
async fn a_message_is_worked_on_for_its_user_after_her_token_ended() {
    let test = "a_message_is_worked_on_for_its_user_after_her_token_ended";
    let (Some(python), Some(nats)) =
        (programs::python(test), programs::of_testbed(test, "nats-server"))
    else {
        return;
    };
    let app = ports::free();
    let setting =
        Setting { app: Some(app), grants: json!({"maxRedemptions": 2}), ..Setting::default() };
    let office = Office::with(setting).await;
    let folder = office.lab.folder();
    let queue = ports::free();
    let mut command = Command::new(nats);
    command.args(["-js", "-sd"]).arg(folder.join("queue"));
    command.args(["-a", "127.0.0.1", "-p", &queue.port().to_string()]);
    let broker = Process::start("nats", command, folder);
    wait::until_true("the broker", || broker.stderr().contains("Server is ready")).await;
    let url = format!("nats://{queue}");
    let [at_orders, at_reports] = office.local.map(|at| at.to_string());
    let reports = office.lab.id("shop", "reports");
    let port = app.port().to_string();
    let producer = Process::start(
        "producer",
        worker(&python, &["produce", &port, &url, &at_orders, &reports]),
        folder,
    );
    wait::until("the app", async || tokio::net::TcpStream::connect(app).await.ok()).await;

    let life_s = 5;
    let (token, ends) = (office.token(life_s), now_s() + life_s);
    let call = Call::post("orders.shop", "/v1/exports", r#"{"month":"2026-10"}"#).context(&token);
    // The app speaks HTTP/1.1, so its caller does.
    let config = tls::client(Some(office.lab.gateway.leaf()), &[tls::MESH_HTTP1]);
    let mut gateway = Conn::tls(office.orders.inbound(), config).await.unwrap();
    let reply = gateway.send(call).await.unwrap();
    assert_eq!(reply.status, 202, "{}\n{}", reply.text(), producer.tail());
    let txn = reply.json()["txn"].clone();
    assert_eq!(txn, "01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf2");
    assert!(reply.json()["expires_at"].as_u64().unwrap() > ends + 500);

    wait::until_true("the end of her token", || now_s() > ends).await;
    let outbound = office.reports.outbound().to_string();
    let mut consumer = worker(&python, &["consume", &url, &at_reports, &outbound, "3"]);
    let done = tokio::task::spawn_blocking(move || process::run(&mut consumer)).await.unwrap();
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{told}\n{}", String::from_utf8_lossy(&done.stderr));
    let turns: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [first, again, third] = turns.as_slice() else { panic!("{told}") };
    for (turn, delivery) in [(first, 1), (again, 2)] {
        assert_eq!((&turn["status"], &turn["delivery"]), (&json!(200), &json!(delivery)), "{turn}");
        assert_eq!(turn["answer"]["txn"], txn, "one transaction from the request to the report");
        assert_eq!(turn["onward"][0], 200, "{turn}");
        let seen: Value = serde_json::from_str(turn["onward"][1].as_str().unwrap()).unwrap();
        let header = |name: &str| seen["headers"][name].as_str().map(str::to_owned);
        assert_eq!(header("countersign-user").as_deref(), Some("alice"), "{seen}");
        assert_eq!(header("countersign-origin").as_deref(), Some("async"), "{seen}");
        assert_eq!(header("countersign-caller"), Some(reports.clone()), "{seen}");
        assert_eq!(header("countersign-txn").as_deref(), txn.as_str(), "{seen}");
    }
    assert_ne!(first["answer"]["context"], again["answer"]["context"]);
    // Queues deliver again, but not for ever.
    assert_eq!((&third["status"], &third["delivery"]), (&json!(403), &json!(3)), "{third}");
    assert_eq!(third["answer"]["error"], "token_service_refused");
    two_turns_are_recorded(&office, &reports).await;
    assert!(!told.contains(&token), "a token was told");
    assert_eq!(token::jws_in(&office.written()), None, "a token was written");
}

/// What one grant, redeemed twice, leaves in the records of the callee and of the issuer.
async fn two_turns_are_recorded(office: &Office, reports: &str) {
    // The callee's record says who acted, and for whom.
    let records = wait::until("both records of the ledger", async || {
        Some(office.ledger.decisions()).filter(|records| records.len() == 2)
    });
    let record = &records.await[0];
    assert_eq!(record["user"]["id"], "alice", "{record}");
    assert_eq!(record["entry"], reports, "{record}");
    // What was issued is in the issuer's: one grant, two tokens.
    let origins = wait::until("the records of the issuer", async || {
        let issues = office.issuer.decisions().into_iter();
        let issues = issues.filter(|record| record["kind"] == "issue");
        let origins: Vec<Value> = issues.map(|record| record["origin"].clone()).collect();
        (origins.len() == 3).then_some(origins)
    });
    assert_eq!(origins.await, ["deferred", "async", "async"]);
}

#[tokio::test]
async fn a_context_is_put_aside_narrowed_and_taken_up_once_per_redemption() {
    let office = Office::open().await;
    let consumer = office.lab.id("shop", "reports");
    let work =
        json!({"consumer": consumer, "digest": DIGEST, "scope": "orders.export other.scope"});
    let reply = office.alice("defer", &work).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    // What the user's token does not hold, nobody gets; and an hour is usual.
    assert_eq!(reply.json()["scope"], "orders.export");
    let life = reply.json()["expires_at"].as_u64().unwrap() - now_s();
    assert!((3_500..=3_600).contains(&life), "{life}");
    assert_eq!(reply.header("cache-control"), None, "the app's own answer");

    let grant = reply.json()["grant"].as_str().unwrap().to_owned();
    let resumed = office.resume(&grant).await;
    assert_eq!(resumed.status, 200, "{}", resumed.text());
    assert_eq!(resumed.header("cache-control"), Some("no-store"));
    assert_eq!(resumed.json()["scope"], "orders.export");
    assert_eq!(token::jws_in(&resumed.text()), None, "no token reaches the app");
    let handle = resumed.json()["context"].as_str().unwrap().to_owned();
    let onward = office.onward(&handle).await;
    allowed(&office.ledger, &onward).await;
    assert_eq!(onward.seen("countersign-scope").as_deref(), Some("orders.export"));
    // A handle of this pod means nothing in another.
    let other = Call::get("ledger.shop", "/v1/exports").header("countersign-context", &handle);
    let other = countersign_integration::client::call(office.orders.outbound(), other).await;
    assert_eq!(other.status, 401, "{}", other.text());

    assert_eq!(office.reports("end", &json!({"context": handle})).await.status, 200);
    let over = office.onward(&handle).await;
    refused(&office.ledger, &over, "token_missing").await;
    let again = office.reports("end", &json!({"context": handle})).await;
    assert_eq!((again.status, &again.json()["error"]), (409, &json!("context_unknown")));
    let calls = ["call=\"resume\"", "result=\"ok\""];
    office.reports.metric_reaches("countersign_local_calls_total", &calls, 1.0).await;
    let calls = ["call=\"end\"", "result=\"context_unknown\""];
    office.reports.metric_reaches("countersign_local_calls_total", &calls, 1.0).await;
}

/// The key in a file makes grants that outlive the issuer's certificate and its restart; without one
/// nothing is promised beyond the certificate.
#[tokio::test]
async fn grants_outlive_the_issuer_where_it_has_a_key_for_them() {
    let office = Office::open().await;
    let consumer = office.lab.id("shop", "reports");
    // The certificate lives a day; a second later a day is too long.
    let begun = now_s();
    wait::until_true("the next second", || now_s() > begun).await;
    let long = json!({"consumer": consumer, "ttl": 86_400, "digest": DIGEST});
    let reply = office.alice("defer", &long).await;
    let record = office.refused(&reply, "invalid_request", "grant_life").await;
    assert_eq!(record["kind"], "refusal", "{record}");

    let folder = tempfile::tempdir().unwrap();
    let key = |name: &str| {
        let path = folder.path().join(name);
        let key = countersign_integration::pki::Authority::new("keys.test").leaf("any", "key");
        std::fs::write(&path, key.key_pem).unwrap();
        path
    };
    let (first, second) = (key("first.pem"), key("second.pem"));
    let setting = Setting { grants: json!({"keyFiles": [first]}), ..Setting::default() };
    let mut office = Office::with(setting).await;
    let grant = office.grant(86_400).await;
    // The key is rotated: the new one signs, the old one is still believed.
    office.issuer.process.terminate();
    office.issuer.process.ended().await;
    let spec: Value =
        serde_json::from_str(&std::fs::read_to_string(&office.issuer.file).unwrap()).unwrap();
    let files: Vec<String> =
        serde_json::from_value(spec["spec"]["documents"]["files"].clone()).unwrap();
    let files: Vec<&Path> = files.iter().map(Path::new).collect();
    let inbound = office.issuer.inbound();
    let again = office.lab.proxy("jobs", "issuer").inbound_at(inbound, inbound).documents(&files);
    let again = again.with(|config| {
        config["app"] = spec["spec"]["app"].clone();
        config["grants"] = json!({"keyFiles": [second, first]});
    });
    office.issuer = again.start().await;
    assert_eq!(
        office.resume(&grant).await.status,
        200,
        "made with the old key, before the restart"
    );
    let fresh = office.grant(86_400).await;
    assert_eq!(office.resume(&fresh).await.status, 200);
}

#[tokio::test]
async fn a_job_begins_and_ends_work_of_its_own() {
    let office = Office::open().await;
    let begun = office.reports("begin", &json!({"scope": "orders.read"})).await;
    assert_eq!(begun.status, 200, "{}", begun.text());
    assert_eq!(token::jws_in(&begun.text()), None);
    let handle = begun.json()["context"].as_str().unwrap().to_owned();
    let onward = office.onward(&handle).await;
    let record = allowed(&office.ledger, &onward).await;
    assert_eq!(onward.seen("countersign-origin").as_deref(), Some("batch"));
    assert_eq!(onward.seen("countersign-user"), None);
    assert_eq!(onward.seen("countersign-txn").as_deref(), begun.json()["txn"].as_str());
    assert_eq!(record["entry"], office.lab.id("shop", "reports"), "{record}");
    // Two jobs are two transactions.
    let other = office.reports("begin", &json!({"scope": "orders.read"})).await;
    assert_ne!(other.json()["txn"], begun.json()["txn"]);
    assert_eq!(office.reports("end", &json!({"context": handle})).await.status, 200);
    refused(&office.ledger, &office.onward(&handle).await, "token_missing").await;
    let onward = office.onward(other.json()["context"].as_str().unwrap()).await;
    assert_eq!(onward.status, 200, "the other one goes on");
}

#[tokio::test]
async fn the_local_api_says_what_is_missing() {
    let office = Office::open().await;
    let nobody = json!({"consumer": office.lab.id("shop", "nobody"), "digest": DIGEST});
    let reply = office.alice("defer", &nobody).await;
    office.refused(&reply, "invalid_request", "grant_of_another").await;
    for (call, body, status, error) in [
        ("defer", json!({"consumer": "reports", "digest": DIGEST}), 400, "request_malformed"),
        (
            "defer",
            json!({"consumer": office.lab.id("a", "b"), "digest": DIGEST}),
            409,
            "context_unknown",
        ),
        ("resume", json!({"grant": "a.b.c", "digest": DIGEST}), 400, "request_malformed"),
        ("begin", json!({}), 400, "request_malformed"),
        ("receipt", json!({}), 404, "no_such_call"),
        ("begin", json!({"scope": "x".repeat(20_000)}), 413, "body_too_large"),
    ] {
        let reply = office.reports(call, &body).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]),
            (status, &json!(error)),
            "{call} {body}"
        );
    }
    let unknown = local(office.local[0], "defer", Some("AAAAAAAAAAAAAAAAAAAAAA"), &nobody).await;
    assert_eq!(unknown.json()["error"], "context_unknown");

    office.issuer.process.terminate();
    office.issuer.process.ended().await;
    let away = office.reports("begin", &json!({"scope": "orders.read"})).await;
    assert_eq!((away.status, &away.json()["error"]), (503, &json!("token_service_unreachable")));
    // The decision it names is in this sidecar's own records.
    let decision = away.json()["decision"].as_str().unwrap().to_owned();
    let record = office.reports.record(&decision).await;
    assert_eq!(record["reason"], "upstream_unreachable", "{record}");
}
