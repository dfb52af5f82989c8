//! What attackers do to queues, to jobs and to the API in the pod (T15, T16, T22).

use countersign_integration::client::{self, Call};
use countersign_integration::outcome::refused;
use countersign_integration::{App, Lab, documents, wait};
use serde_json::json;
use tokio::net::TcpStream;

use super::office::{DIGEST, Office, Setting, local};

/// Whoever reads the queue has a grant in hand, and even the certificate of a workload.
#[tokio::test]
async fn attack_uses_grant_from_queue_as_token() {
    let office = Office::open().await;
    let grant = office.grant(600).await;
    for thief in ["reports", "orders", "thief"] {
        let call = Call::get("ledger.shop", "/v1/exports").context(&grant);
        let reply = office.lab.call_as("shop", thief, &office.ledger, call).await;
        refused(&office.ledger, &reply, "token_malformed").await;
    }
    // Nor is it a credential at the issuer itself.
    let call = Call::get("tokens.jobs", "/v1/token").context(&grant);
    let reply = office.lab.call_as("shop", "reports", &office.issuer, call).await;
    refused(&office.issuer, &reply, "token_malformed").await;
}

#[tokio::test]
async fn attack_redeems_grant_as_other_workload() {
    let office = Office::open().await;
    let grant = office.grant(600).await;
    // The producer's own sidecar, which has a right to defer but was not named.
    let body = json!({"grant": grant, "digest": DIGEST});
    let reply = local(office.local[0], "resume", None, &body).await;
    office.refused(&reply, "unauthorized_client", "subject_not_permitted").await;
    // It keeps its worth for the one it names.
    assert_eq!(office.resume(&grant).await.status, 200);

    // Another workload that may redeem grants, but not this one.
    let consumer = json!({"consumer": office.lab.id("shop", "reports"), "digest": DIGEST});
    let both = json!({"subjectTokens": ["deferred", "self_signed", "txn_token"]});
    let office = Office::with(Setting { reports: both, ..Setting::default() }).await;
    let reply = office.alice("defer", &consumer).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let work = json!({"consumer": office.lab.id("shop", "orders"), "digest": DIGEST});
    let reply = office.alice("defer", &work).await;
    office.refused(&reply, "invalid_request", "grant_of_another").await;
}

#[tokio::test]
async fn attack_redeems_grant_for_other_message() {
    let office = Office::open().await;
    let grant = office.grant(600).await;
    let other = DIGEST.replace("e3b0", "0000");
    let reply = office.reports("resume", &json!({"grant": grant, "digest": other})).await;
    office.refused(&reply, "invalid_request", "message_differs").await;
    assert_eq!(office.resume(&grant).await.status, 200);
}

/// Also where the issuer serves on several threads.
#[tokio::test]
async fn attack_redeems_grant_too_often() {
    let setting = Setting { grants: json!({"maxRedemptions": 3}), ..Setting::default() };
    let office = Office::with(setting).await;
    let (grant, other) = (office.grant(600).await, office.grant(600).await);
    for _ in 0..3 {
        assert_eq!(office.resume(&grant).await.status, 200);
    }
    for _ in 0..3 {
        office.refused(&office.resume(&grant).await, "invalid_request", "grant_spent").await;
    }
    assert_eq!(office.resume(&other).await.status, 200, "each grant has its own count");
}

/// alice is dismissed between the message and its turn.
#[tokio::test]
async fn attack_redeems_grant_of_revoked_user() {
    let office = Office::open().await;
    let grant = office.grant(600).await;
    assert_eq!(office.resume(&grant).await.status, 200);
    let users = json!({"users": [{"provider": "corp", "id": "alice", "issuedBefore": "2099-01-01T00:00:00Z"}]});
    let revocation = documents::revocation(users);
    // The documents of the issuer are a fixed list of files: the revocation joins one of them.
    let access = documents::access("jobs", documents::anybody());
    office.lab.write_text("jobs.yaml", &format!("{access:#}\n---\n{revocation:#}\n"));
    office.issuer_takes_documents().await;
    let reply = office.resume(&grant).await;
    office.refused(&reply, "invalid_request", "subject_revoked").await;
    // And nothing of hers is put aside any more.
    let reply = office
        .alice("defer", &json!({"consumer": office.lab.id("shop", "reports"), "digest": DIGEST}))
        .await;
    assert_ne!(reply.status, 200);
}

#[tokio::test]
async fn attack_batch_impersonates_without_entry() {
    let office = Office::open().await;
    let body = json!({"scope": "orders.read", "as": "user:alice",
        "just": {"kind": "ticket", "ref": "SUP-1"}});
    let reply = office.reports("begin", &body).await;
    office.refused(&reply, "invalid_request", "as_not_permitted").await;
}

#[tokio::test]
async fn attack_batch_brings_unchecked_justification() {
    let entry = json!({"assert": ["just"], "impersonate": ["user:*"]});
    let office = Office::with(Setting { reports: entry, ..Setting::default() }).await;
    let ticket = json!({"kind": "ticket", "ref": "SUP-1"});
    let begin = async |body| office.reports("begin", &body).await;
    let reply = begin(json!({"scope": "orders.read", "as": "user:alice", "just": ticket})).await;
    office.refused(&reply, "invalid_request", "justification_unchecked").await;
    let reply = begin(json!({"scope": "orders.read", "as": "user:alice"})).await;
    office.refused(&reply, "invalid_request", "justification_unchecked").await;
    // That it was checked is not for the job to say.
    let mut said = ticket.clone();
    said["checked"] = json!(true);
    let reply = begin(json!({"scope": "orders.read", "as": "user:alice", "just": said})).await;
    assert_eq!(reply.json()["error"], "request_malformed");
    // Without acting for somebody the job may state its reason; it stays unchecked.
    let reply = begin(json!({"scope": "orders.read", "just": ticket})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// A rule for users' own requests does not match work of a job.
#[tokio::test]
async fn attack_batch_passes_as_user_origin() {
    let office = Office::open().await;
    let users_only = json!([{
        "name": "users", "effect": "allow", "match": {"caller": {"anyInMesh": true}},
        "require": {"token": {"origins": ["user"]}},
    }]);
    office.lab.write("shop.yaml", &documents::access("shop", users_only));
    let begun = office.reports("begin", &json!({"scope": "orders.read"})).await;
    let handle = begun.json()["context"].as_str().unwrap().to_owned();
    office.ledger.reload();
    wait::until("the new rule", async || {
        (office.onward(&handle).await.status == 403).then_some(())
    })
    .await;
    let reply = office.onward(&handle).await;
    refused(&office.ledger, &reply, "policy_denied").await;
    // Nothing in the request of a job names an origin.
    for member in ["origin", "sub", "rctx", "req_wl"] {
        let body = json!({"scope": "orders.read", member: "user"});
        assert_eq!(office.reports("begin", &body).await.json()["error"], "request_malformed");
    }
}

/// A page in a browser of this machine, or an app that fetches what it is told to.
#[tokio::test]
async fn attack_calls_the_local_api_without_meaning_to() {
    let office = Office::open().await;
    let at = office.local[1];
    let body = json!({"scope": "orders.read"}).to_string();
    let sound = |host: &str| {
        Call::post(host, "/v1/begin", body.clone())
            .header("countersign-local", "1")
            .header("content-type", "application/json")
    };
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "reports.shop"] {
        let reply = client::call(at, sound(host)).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]),
            (403, &json!("host_not_loopback")),
            "{host}"
        );
    }
    let plain = Call::post("localhost", "/v1/begin", body.clone())
        .header("content-type", "application/json");
    assert_eq!(client::call(at, plain).await.json()["error"], "local_header_missing");
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
    {
        let form = Call::post("localhost", "/v1/begin", body.clone())
            .header("countersign-local", "1")
            .header("content-type", kind);
        assert_eq!(client::call(at, form).await.json()["error"], "not_json", "{kind}");
    }
    for method in [http::Method::GET, http::Method::OPTIONS, http::Method::PUT] {
        let reply = client::call(at, sound("localhost").method(method)).await;
        assert_eq!(reply.status, 405);
        assert_eq!(reply.header("access-control-allow-origin"), None);
    }
    // By way of the sidecar it is no destination, and in other protocols nothing is understood.
    let reply = client::call(office.reports.outbound(), sound(&at.to_string())).await;
    refused(&office.reports, &reply, "destination_unknown").await;
    for bytes in [&b"EHLO localhost\r\nQUIT\r\n"[..], b"*1\r\n$8\r\nSHUTDOWN\r\n"] {
        let answer = client::raw_tcp(at, bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert_eq!(office.issuer.decisions().len(), 0, "the token service was never asked");
    assert_eq!(client::call(at, sound("localhost")).await.status, 200, "the app itself is served");
}

/// It is on loopback, for the pod's own app: an address that others could reach ends the start.
#[tokio::test]
async fn attack_reaches_the_local_api_from_another_pod() {
    let lab = Lab::new();
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    for address in ["0.0.0.0:15994", "[::]:15994", "203.0.113.7:15994"] {
        let spec = lab.proxy("shop", "web").outbound().documents(&[&mesh]);
        let open = spec.with(|config| config["local"] = json!({"addresses": [address]})).launch();
        assert!(!open.process.ended().await.success(), "{address}");
        assert!(open.log().contains("loopback"), "{address}: {}", open.log());
    }
    // What a peer asks of the sidecar goes to the app, whatever it says.
    let app = App::mirror();
    let at = countersign_integration::ports::free();
    let orders = lab
        .orders(&app, |spec| spec.with(|config| config["local"] = json!({"addresses": [at]})))
        .await;
    let call = Call::post(&at.to_string(), "/v1/begin", "{}").header("countersign-local", "1");
    let reply = lab.call_as_gateway(&orders, call).await;
    assert_eq!(app.last().method, http::Method::POST, "the app answered");
    assert_eq!(reply.seen("countersign-local"), None, "a reserved name");
    assert!(TcpStream::connect(at).await.is_ok());
}
