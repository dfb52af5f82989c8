//! Where deferred work and jobs meet what else happens: paths, several at once, documents that change.

use countersign_integration::app::status;
use countersign_integration::client::{Call, full};
use countersign_integration::outcome::allowed;
use countersign_integration::row::{certificate, record, signed};
use countersign_integration::{App, Tokens};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::office::{DIGEST, Office, Setting, local};

/// A decision point that knows one ticket of one user.
fn tickets() -> App {
    App::serving(|request| {
        Box::pin(async move {
            let body = request.into_body().collect().await?.to_bytes();
            let asked: Value = serde_json::from_slice(&body)?;
            let yes = asked["subject"]["id"] == "alice" && asked["resource"]["id"] == "SUP-1";
            let mut response = status(200)?;
            response.headers_mut().insert("content-type", "application/json".parse()?);
            *response.body_mut() = full(json!({"decision": yes}).to_string());
            Ok(response)
        })
    })
}

#[tokio::test]
async fn a_job_begins_work_for_a_user_whose_ticket_was_checked() {
    let tickets = tickets();
    let entry = json!({"assert": ["just"], "impersonate": ["user:alice", "user:bob"]});
    let setting =
        Setting { reports: entry, validator: Some(tickets.address), ..Setting::default() };
    let office = Office::with(setting).await;
    let begin = async |whom: &str, ticket: &str| {
        let just = json!({"kind": "ticket", "ref": ticket});
        office.reports("begin", &json!({"scope": "orders.read", "as": whom, "just": just})).await
    };
    let begun = begin("user:alice", "SUP-1").await;
    assert_eq!(begun.status, 200, "{}", begun.text());
    let onward = office.onward(begun.json()["context"].as_str().unwrap()).await;
    let record = allowed(&office.ledger, &onward).await;
    assert_eq!(onward.seen("countersign-user").as_deref(), Some("alice"));
    assert_eq!(
        onward.seen("countersign-origin").as_deref(),
        Some("batch"),
        "never her own request"
    );
    assert_eq!(record["entry"], office.lab.id("shop", "reports"), "{record}");
    // What is not hers, and whom nobody listed.
    let reply = begin("user:bob", "SUP-1").await;
    office.refused(&reply, "invalid_request", "justification_refused").await;
    let reply = begin("user:carol", "SUP-1").await;
    assert_eq!(reply.json()["error"], "token_service_refused", "{}", reply.text());
}

/// `front` got the token from the gateway and `web` from `front`, with certificates that the token
/// service never met; what a holder took from the scope stays taken.
#[tokio::test]
async fn a_context_that_came_over_several_workloads_is_put_aside() {
    let office = Office::open().await;
    let lab = &office.lab;
    let (front, web) = (Tokens::of(&lab.ca, "shop", "front"), Tokens::of(&lab.ca, "shop", "web"));
    let [at_front, at_web, orders] = ["front", "web", "orders"].map(|name| lab.id("shop", name));
    let mut claims = lab.gateway.claims(&at_front);
    claims["scope"] = json!("orders.read orders.export");
    let token = lab.gateway.sign(&claims);
    let work = json!({"consumer": lab.id("shop", "reports"), "digest": DIGEST}).to_string();
    let call = || Call::post("orders.shop", "/v1/defer", work.clone()).context(&token);

    let mut narrowed = record(&token, &[], &at_front, &orders);
    narrowed["scope"] = json!("orders.read");
    let direct = call().header("countersign-hops", &signed(&front, &narrowed));
    let second = lab.peer(&office.orders, front.leaf()).await.send(direct).await.unwrap();

    let first = signed(&front, &record(&token, &[], &at_front, &at_web));
    let mut last = record(&token, std::slice::from_ref(&first), &at_web, &orders);
    last["scope"] = json!("orders.read");
    let deeper = call()
        .header("countersign-hops", &format!("{first}, {}", signed(&web, &last)))
        .header("countersign-certs", &certificate(front.leaf()));
    let third = lab.peer(&office.orders, web.leaf()).await.send(deeper).await.unwrap();

    for reply in [second, third] {
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.json()["scope"], "orders.read", "{}", reply.text());
        let resumed = office.resume(reply.json()["grant"].as_str().unwrap()).await;
        assert_eq!(resumed.status, 200, "{}", resumed.text());
        let onward = office.onward(resumed.json()["context"].as_str().unwrap()).await;
        allowed(&office.ledger, &onward).await;
        assert_eq!(onward.seen("countersign-user").as_deref(), Some("alice"));
        assert_eq!(onward.seen("countersign-scope").as_deref(), Some("orders.read"));
    }
    // Nobody wrote that it is handed on to `orders`: it is served, and cannot put anything aside.
    let ends_here = lab.peer(&office.orders, front.leaf()).await.send(call()).await.unwrap();
    assert_eq!((ends_here.status, &ends_here.json()["error"]), (409, &json!("context_not_held")));
}

/// All at the same moment, at an issuer with several threads.
#[tokio::test]
async fn attack_redeems_one_grant_many_times_at_once() {
    let setting = Setting { grants: json!({"maxRedemptions": 3}), ..Setting::default() };
    let office = Office::with(setting).await;
    let body = json!({"grant": office.grant(600).await, "digest": DIGEST});
    let mut turns = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let (at, body) = (office.local[1], body.clone());
        turns.spawn(async move { local(at, "resume", None, &body).await });
    }
    let replies = turns.join_all().await;
    let redeemed = replies.iter().filter(|reply| reply.status == 200).count();
    let spent = replies
        .iter()
        .filter(|reply| reply.status == 403 && reply.json()["service_error"] == "invalid_request");
    assert_eq!((redeemed, spent.count()), (3, 21));
}

/// The consumer is taken off the list while its grant waits in the queue.
#[tokio::test]
async fn attack_redeems_grant_after_its_consumer_was_taken_off_the_list() {
    let office = Office::open().await;
    let grant = office.grant(600).await;
    assert_eq!(office.resume(&grant).await.status, 200);
    let file = office.lab.folder().join("tokens.yaml");
    let before: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let mut without = before.clone();
    drop(without["spec"]["tokenService"]["requesters"].as_array_mut().unwrap().pop());
    office.lab.write("tokens.yaml", &without);
    office.issuer_takes_documents().await;
    let reply = office.resume(&grant).await;
    office.refused(&reply, "unauthorized_client", "requester_unlisted").await;
    let job = office.reports("begin", &json!({"scope": "orders.read"})).await;
    office.refused(&job, "unauthorized_client", "requester_unlisted").await;
    let work = json!({"consumer": office.lab.id("shop", "reports"), "digest": DIGEST});
    office
        .refused(&office.alice("defer", &work).await, "invalid_request", "grant_of_another")
        .await;
}
