//! Tokens that came over several workloads, and jobs that act for somebody.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_ctxtoken::{HopList, Limits, LocalSigner, NewHop, UnixTime, append};
use countersign_integration::app::status;
use countersign_integration::client::full;
use countersign_integration::token::{claims_of, now_s};
use countersign_integration::token_service::{self, Form, TokenService, granted, refused};
use countersign_integration::{App, Lab, Leaf, outcome};
use countersign_workload_id::WorkloadId;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::{orders, used, web};

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}

/// The list with one record more: `from` hands the token to `to`.
fn handed(
    list: Option<&str>,
    token: &str,
    (leaf, from): (&Leaf, &str),
    to: &str,
    scope: Option<&[String]>,
) -> String {
    let list = list.map(|list| HopList::parse(list.as_bytes(), &Limits::default()).unwrap());
    let id = |text: &str| WorkloadId::parse(text).unwrap();
    let (sub, aud, token_sha256) = (id(from), id(to), sha256(token.as_bytes()));
    let iat = UnixTime(now_s());
    let hop = NewHop { sub: &sub, aud: &aud, iat, token_sha256: &token_sha256, scope };
    let signer = LocalSigner::from_pkcs8_der(&leaf.key).unwrap();
    append(list.as_ref(), &hop, &signer, &sha256(&leaf.chain[0])).unwrap()
}

fn certificates(leaf: &Leaf) -> String {
    let chain = leaf.chain.iter().map(|der| format!(":{}:", STANDARD.encode(der)));
    format!("({})", chain.collect::<Vec<_>>().join(" "))
}

/// The gateway hands a token to `billing`, which hands it to `web` with less scope, which asks.
#[tokio::test]
async fn a_token_that_was_handed_on_is_replaced_with_what_is_left_of_it() {
    let lab = Lab::new();
    let entry = json!({"scopes": ["orders.*"]});
    let service = TokenService::start(&lab, web(&lab, entry)).await;
    let (billing, me) = (lab.id("shop", "billing"), lab.id("shop", "web"));
    let (theirs, leaf) = (lab.ca.leaf("shop", "billing"), lab.ca.leaf("shop", "web"));
    let mut claims = lab.gateway.claims(&billing);
    claims["scope"] = json!("orders.read orders.write");
    let token = lab.gateway.sign(&claims);
    let less = ["orders.read".to_owned()];
    let first = handed(None, &token, (&theirs, &billing), &me, Some(&less));
    let issuer = lab.id("jobs", "issuer");
    let list = handed(Some(&first), &token, (&leaf, &me), &issuer, None);
    let form = Form::new("txn_token", &token).set("scope", "orders.read orders.write");
    let ask = async |hops: &str, certs: Option<&str>| {
        let mut call = form.call().header("countersign-hops", hops);
        if let Some(certs) = certs {
            call = call.header("countersign-certs", certs);
        }
        service.send(&lab, &leaf, call).await
    };
    // Whose certificate is not known proves nothing, and a list that ends before the service
    // shows nobody's way to it.
    let reply = ask(&list, None).await;
    refused(&service, &reply, "invalid_request", "subject_not_held").await;
    let reply = ask(&first, Some(&certificates(&theirs))).await;
    refused(&service, &reply, "invalid_request", "subject_not_held").await;
    let forged = handed(None, &token, (&leaf, &billing), &me, None);
    let forged = handed(Some(&forged), &token, (&leaf, &me), &issuer, None);
    let reply = ask(&forged, Some(&certificates(&leaf))).await;
    refused(&service, &reply, "invalid_request", "subject_not_held").await;

    let reply = ask(&list, Some(&certificates(&theirs))).await;
    let after = claims_of(&granted(&reply));
    assert_eq!(after["scope"], "orders.read", "what a holder took away does not come back");
    assert_eq!((&after["txn"], &after["rctx"]["to"]), (&claims["txn"], &json!(me)));
    // Without the records it is not theirs.
    let reply = service.ask(&lab, &leaf, &form).await;
    refused(&service, &reply, "invalid_request", "subject_not_held").await;
}

/// A decision point that knows one ticket of one user.
fn tickets() -> App {
    App::serving(|request| {
        Box::pin(async move {
            let body = request.into_body().collect().await?.to_bytes();
            let asked: Value = serde_json::from_slice(&body)?;
            let yes = asked["subject"]["id"] == "alice" && asked["resource"]["id"] == "SUP-1";
            let mut response = status(200)?;
            let answer = json!({"decision": yes, "context": {"status": "open"}});
            response.headers_mut().insert("content-type", "application/json".parse()?);
            *response.body_mut() = full(answer.to_string());
            Ok(response)
        })
    })
}

#[tokio::test]
async fn a_job_acts_for_a_user_with_a_justification_that_was_checked() {
    let lab = Lab::new();
    let tickets = tickets();
    let entry = json!({"assert": ["just"], "impersonate": ["user:*"]});
    let mut policy = token_service::policy(&web(&lab, entry));
    policy["spec"]["justification"]["kinds"]["ticket"]["validate"] = json!("tickets");
    let validator = json!({
        "authzen": {"endpoint": format!("http://{}/access/v1/evaluation", tickets.address), "timeout": "5s"},
        "onUnavailable": "unknown", "facts": {"status": "string"},
        "request": {
            "subject": {"type": "user", "id": "user.id"}, "action": "use-as-justification",
            "resource": {"type": "ticket", "id": "justification.ref"},
        },
    });
    let validator = countersign_integration::documents::document(
        "AttributeProvider",
        "tickets",
        None,
        validator,
    );
    let validator = lab.write("tickets.yaml", &validator);
    let with = |config: &mut Value| {
        config["documents"]["files"].as_array_mut().unwrap().push(json!(validator));
    };
    let service =
        TokenService::start_with(&lab, &policy, |mesh| mesh, |spec| spec.with(with)).await;
    let app = App::mirror();
    let orders = orders(&lab, &service, &app).await;
    let (leaf, me) = (lab.ca.leaf("shop", "web"), lab.id("shop", "web"));
    let ask = async |whom: &str, ticket: &str| {
        let form = Form::new("self_signed", &service.statement(&me, &leaf)).set("csign_as", whom);
        let just = json!({"just": {"kind": "ticket", "ref": ticket}}).to_string();
        service.ask(&lab, &leaf, &form.set("request_context", &just)).await
    };
    let token = granted(&ask("user:alice", "SUP-1").await);
    let claims = claims_of(&token);
    assert_eq!(claims["sub"], "user:alice");
    assert_eq!(claims["act"], json!({"sub": me}));
    let rctx = &claims["rctx"];
    assert_eq!((&rctx["origin"], &rctx["idp"]), (&json!("batch"), &json!("corp")));
    let just = &rctx["just"];
    assert_eq!((&just["checked"], &just["by"]), (&json!(true), &json!("tickets")), "{just}");
    assert_eq!(just["facts"], json!({"status": "open"}));
    let seen = used(&lab, &orders, &leaf, &token).await;
    outcome::allowed(&orders, &seen).await;
    assert_eq!(seen.seen("countersign-origin").as_deref(), Some("batch"));

    // Another user's ticket, and one nobody knows.
    for (whom, ticket) in [("user:bob", "SUP-1"), ("user:alice", "SUP-2")] {
        let reply = ask(whom, ticket).await;
        refused(&service, &reply, "invalid_request", "justification_refused").await;
    }
    // Nobody who can tell: not a yes.
    drop(tickets);
    let reply = ask("user:alice", "SUP-3").await;
    refused(&service, &reply, "invalid_request", "justification_unchecked").await;
    // A user's request has no job in it.
    let subject = service.access_token("alice", "orders.read");
    let form = Form::new("access_token", &subject).set("csign_as", "user:bob");
    refused(&service, &service.ask(&lab, &leaf, &form).await, "invalid_request", "form_malformed")
        .await;
}
