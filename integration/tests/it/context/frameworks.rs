//! Real frameworks with OpenTelemetry, many users at once, never another one's context.
//!
//! The apps know nothing of users or contexts: OpenTelemetry carries their trace context, and by
//! that their sidecars find whose request caused which call.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use countersign_integration::client::{Call, Conn};
use countersign_integration::components::frameworks::{App as FrameworkApp, Framework};
use countersign_integration::netns::{Family, Mode, Net};
use countersign_integration::shop::{HOST, Plan, Shop};
use countersign_integration::{App, Lab, Process, Reply, documents, ports, tls, wait};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const USERS: usize = 50;
const REQUESTS_OF_EACH: usize = 20;
const AT_A_TIME: usize = 60;

#[tokio::test]
async fn flask_with_threads_and_processes_keeps_users_apart() {
    keeps_users_apart(Framework::Flask, "flask_with_threads_and_processes").await;
}

#[tokio::test]
async fn starlette_on_asyncio_keeps_users_apart() {
    keeps_users_apart(Framework::Starlette, "starlette_on_asyncio").await;
}

#[tokio::test]
async fn express_keeps_users_apart() {
    keeps_users_apart(Framework::Express, "express").await;
}

/// A mesh around an app of a framework.
struct Running {
    shop: Shop,
    go_on: PathBuf,
    _app: Process,
}

impl Running {
    async fn start(framework: Framework, test: &str) -> Option<Running> {
        let plan = Plan::default();
        let (listen, go_on) = (ports::free(), plan.lab.folder().join("go-on"));
        let billing = format!("http://{}", plan.outbound);
        let app = FrameworkApp::new(framework, test, listen, &billing, &go_on)?;
        let app = app.start(listen, plan.lab.folder()).await;
        let shop = plan.start(listen, |spec| spec).await;
        Some(Running { shop, go_on, _app: app })
    }

    /// Requests of all users, many at a time; gives how many onward calls there were.
    async fn many(&self, what: &'static str, of_each: usize) -> usize {
        let mut shared = Vec::new();
        for _ in 0..4 {
            shared.push(Conn::h2(self.shop.gateway.gateway()).await.unwrap());
        }
        let tokens: Vec<String> = (0..USERS).map(|user| self.shop.user(&name(user))).collect();
        let mut open = JoinSet::new();
        let mut calls = 0;
        for number in 0..USERS * of_each {
            let user = name(number % USERS);
            let target = format!("/v1/users/{user}/{what}?n={number}");
            let call = Call::get(HOST, &target).bearer(&tokens[number % USERS]);
            let mut conn = shared[number % shared.len()].share().unwrap();
            if open.len() == AT_A_TIME {
                calls += open.join_next().await.unwrap().unwrap();
            }
            open.spawn(async move { of_one_user(&user, what, &conn.send(call).await.unwrap()) });
        }
        calls + open.join_all().await.into_iter().sum::<usize>()
    }

    /// Whether every call that reached `billing` for `what` had the user of its path; how many.
    fn arrived(&self, what: &str) -> usize {
        let seen = self.shop.billing_app.seen();
        let about = seen.iter().filter(|seen| seen.target.contains(&format!("/{what}?")));
        let checked = about.map(|seen| {
            let owner = seen.target.split('/').nth(3);
            assert_eq!(seen.header("countersign-user"), owner, "{}", seen.target);
            assert_eq!(seen.header("countersign-context").map(str::len), Some(22));
        });
        checked.count()
    }
}

fn name(user: usize) -> String {
    format!("user-{user}")
}

/// Checks what a user was told, by the app and by what it called; gives the number of calls.
fn of_one_user(user: &str, what: &str, reply: &Reply) -> usize {
    assert_eq!(reply.status, 200, "{user} {what}: {}", reply.text());
    let told = reply.json();
    assert_eq!(told["user"], user, "{told}");
    let calls = told["calls"].as_array().unwrap();
    for call in calls {
        assert_eq!(call["status"], 200, "{user} {what}: {call}");
        assert_eq!(call["body"]["headers"]["countersign-user"], user, "{call}");
        let target = call["body"]["target"].as_str().unwrap();
        assert!(target.contains(&format!("/v1/users/{user}/{what}?")), "{target}");
    }
    calls.len()
}

async fn keeps_users_apart(framework: Framework, test: &str) {
    let Some(running) = Running::start(framework, test).await else { return };
    let shop = &running.shop;
    // Through a pool of kept connections, then several calls at once of each request.
    let direct = running.many("orders", REQUESTS_OF_EACH).await;
    assert_eq!(direct, USERS * REQUESTS_OF_EACH);
    let fanned = running.many("fanout", 2).await;
    assert_eq!(fanned, USERS * 2 * 4);
    // What is called after the answer was sent still belongs to its request.
    running.many("later", 1).await;
    wait::until_true("the calls after the answers", || running.arrived("later") == USERS).await;
    assert_eq!(running.arrived("orders"), direct);
    assert_eq!(running.arrived("fanout"), fanned);
    let all = direct + fanned + USERS;
    assert_eq!(shop.looked_up("traceparent").await, all as f64);
    for other in ["handle", "token", "ambiguous", "mismatch", "unknown_handle", "none"] {
        assert_eq!(shop.looked_up(other).await, 0.0, "{other}");
    }
    forgotten_job(&running).await;
}

/// A job that goes on under its old trace, when its request and the grace are over: it is the
/// service's own call, whoever else is being served meanwhile.
async fn forgotten_job(running: &Running) {
    let shop = &running.shop;
    let reply = shop_get(shop, "alice", "job").await;
    of_one_user("alice", "job", &reply);
    tokio::time::sleep(Duration::from_secs(6)).await;
    std::fs::write(&running.go_on, "").unwrap();
    let others = running.many("orders", 2);
    let refused = wait::until("the job's refusal", async || {
        let all = shop.billing.decisions();
        all.into_iter().find(|record| record["reason"] == "token_missing")
    });
    let (record, _) = tokio::join!(refused, others);
    assert_eq!(record["txn"], Value::Null, "{record}");
    assert_eq!(running.arrived("job"), 0);
    assert_eq!(shop.looked_up("none").await, 1.0);
}

async fn shop_get(shop: &Shop, user: &str, what: &str) -> Reply {
    let call = shop.get(user, &format!("{what}?n=0"));
    Conn::h1(shop.gateway.gateway()).await.unwrap().send(call).await.unwrap()
}

/// The same without even a URL: the app dials another pod, the kernel hands it to the sidecar.
#[tokio::test]
async fn flask_in_a_pod_keeps_users_apart_and_knows_nothing() {
    const TEST: &str = "flask_in_a_pod_keeps_users_apart";
    let Some(net) = Net::new(TEST) else { return };
    let lab = Lab::new();
    let (edge, web, back) = (net.pod("edge"), net.pod("orders"), net.pod("billing"));
    let listen = SocketAddr::from(([0, 0, 0, 0], 8080));
    let billing = format!("http://{}", back.at(Family::V4, 8080));
    let go_on = lab.folder().join("go-on");
    let Some(app) = FrameworkApp::new(Framework::Flask, TEST, listen, &billing, &go_on) else {
        return;
    };
    let _app = app.start_in(&web, web.at(Family::V4, 8080), lab.folder()).await;
    let billing_app = App::mirror_on(back.listen_all(8080));
    let ids = [lab.id("shop", "orders"), lab.id("shop", "billing")];
    let mesh = lab.mesh().pod("shop/billing", &back, &[(8080, "http")], &[&ids[1]]);
    let mesh = lab.write("mesh.yaml", &mesh.document());
    let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
    let sidecar = |account: &str, pod| {
        let spec = lab.proxy("shop", account).documents(&[&mesh, &access]);
        spec.in_pod(pod, Mode::Redirect).launch()
    };
    let (orders, back) = (sidecar("orders", &web), sidecar("billing", &back));
    for proxy in [&orders, &back] {
        proxy.until_ready().await;
    }
    let to = web.at(Family::V4, 8080);
    let mut open = JoinSet::new();
    for number in 0..200 {
        let user = name(number % 20);
        let mut claims = lab.gateway.claims(&ids[0]);
        claims["sub"] = json!(format!("user:{user}"));
        let call = Call::get("orders.shop", &format!("/v1/users/{user}/orders?n={number}"));
        let call = call.context(&lab.gateway.sign(&claims));
        let (edge, leaf) = (edge.clone(), lab.gateway.leaf().clone());
        if open.len() == 20 {
            open.join_next().await.unwrap().unwrap();
        }
        open.spawn(async move {
            let connector =
                tokio_rustls::TlsConnector::from(tls::client(Some(&leaf), &[tls::MESH_HTTP1]));
            let stream = connector.connect(to.ip().into(), edge.connect(to).await.unwrap());
            let mut conn = Conn::h1_over(stream.await.unwrap()).await.unwrap();
            of_one_user(&user, "orders", &conn.send(call).await.unwrap());
        });
    }
    open.join_all().await;
    assert_eq!(billing_app.seen().len(), 200);
    let found = ["result=\"traceparent\""];
    assert_eq!(orders.metric("countersign_context_lookup_total", &found).await, 200.0);
}
