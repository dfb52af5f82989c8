//! The app as confused deputy: work for one user with the context of another (T5).

use countersign_integration::client::{self, Call, Conn, full};
use countersign_integration::outcome::allowed;
use countersign_integration::world::HOST;
use countersign_integration::{App, Lab, Proxy, Reply, World, documents, wait};
use http::Response;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

const LOOKUP: &str = "countersign_context_lookup_total";
const CALLEE: &str = "billing.shop";

/// A sidecar whose app answers when it is told to, so that its requests stay open; and the callee
/// its app can call, which shows what reached it.
struct Open {
    lab: Lab,
    orders: Proxy,
    billing: Proxy,
    app: App,
    _billing_app: App,
    answer: watch::Sender<bool>,
}

impl Open {
    async fn start() -> Open {
        Open::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Value)) -> Open {
        let lab = Lab::new();
        let (answer, told) = watch::channel(false);
        let app = App::serving(move |_| {
            let mut told = told.clone();
            Box::pin(async move {
                let _ = told.wait_for(|now| *now).await;
                Ok(Response::new(full("done")))
            })
        });
        let billing_app = App::mirror();
        let billing = lab.proxy("shop", "billing");
        let access = documents::anybody();
        let access = documents::access("shop", access);
        let access = lab.write("billing-access.yaml", &access);
        let mesh = lab.write("billing-mesh.yaml", &lab.mesh().document());
        let billing = billing.inbound(billing_app.address).documents(&[&mesh, &access]);
        let billing = billing.start().await;
        let id = lab.id("shop", "billing");
        let mesh = lab.mesh().destination("shop/billing", CALLEE, billing.inbound(), &[&id]);
        let rules = documents::anybody();
        let orders = lab.orders_with(&app, &mesh, rules, |spec| spec.outbound().with(change));
        let orders = orders.await;
        Open { lab, orders, billing, app, _billing_app: billing_app, answer }
    }

    /// A request of this user that stays open; `traceparent` as the caller sent it.
    async fn request(
        &self,
        user: &str,
        traceparent: Option<&str>,
    ) -> JoinHandle<anyhow::Result<Reply>> {
        let before = self.app.seen().len();
        let mut claims = self.lab.gateway.claims(&self.lab.id("shop", "orders"));
        claims["sub"] = json!(format!("user:{user}"));
        let mut call = Call::get("orders.shop", "/").context(&self.lab.gateway.sign(&claims));
        if let Some(trace) = traceparent {
            call = call.header("traceparent", trace);
        }
        let mut peer = self.lab.peer(&self.orders, self.lab.gateway.leaf()).await;
        let request = tokio::spawn(async move { peer.send(call).await });
        wait::until_true("the request at the app", || self.app.seen().len() > before).await;
        request
    }

    /// The handle the app got last.
    fn handle(&self) -> String {
        self.app.last().header("countersign-context").unwrap().to_owned()
    }

    /// The app calls on.
    async fn call(&self, call: Call) -> Reply {
        client::call(self.orders.outbound(), call).await
    }

    /// The app calls on, and the callee's sidecar finds no context with it.
    async fn without_context(&self, call: Call) {
        let reply = self.call(call).await;
        let record = allowed(&self.billing, &reply).await;
        assert_eq!(record["txn"], Value::Null, "{record}");
        assert_eq!(reply.seen("countersign-user"), None);
    }

    async fn looked_up(&self, result: &str) -> f64 {
        self.orders.metric(LOOKUP, &[&format!("result=\"{result}\"")]).await
    }
}

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Ten thousand requests of two users, a hundred open at any time, through the same app, whose
/// onward calls refer to what caused them in every way there is: nobody gets the other's context.
#[tokio::test]
async fn attack_interleaves_two_users_in_one_app() {
    const ALL: usize = 10_000;
    const AT_A_TIME: usize = 100;
    let world = World::start().await;
    let users = [("alice", world.user("alice")), ("mallory", world.user("mallory"))];
    let mut open = JoinSet::new();
    let mut shared = Vec::new();
    for _ in 0..4 {
        shared.push(Conn::h2(world.gateway.gateway()).await.unwrap());
    }
    for number in 0..ALL {
        let (name, token) = users[number % 2].clone();
        let forward = ["handle", "traceparent", "both"][number % 3];
        let mut conn = shared[number % shared.len()].share().unwrap();
        let call = Call::get(HOST, &format!("/v1/users/{name}/orders?n={number}"));
        let call = call.bearer(&token).header("x-forward", forward);
        if open.len() == AT_A_TIME {
            open.join_next().await.unwrap().unwrap();
        }
        open.spawn(async move {
            let reply = conn.send(call).await.unwrap();
            assert_eq!(reply.status, 200, "{forward}: {}", reply.text());
            assert_eq!(reply.seen("countersign-user").as_deref(), Some(name), "{forward}");
            let target = reply.json()["target"].as_str().unwrap().to_owned();
            assert!(target.ends_with(&format!("/{name}/orders?n={number}")), "{target}");
        });
    }
    open.join_all().await;
    assert_eq!(world.app_b.seen().len(), ALL);
    for wrong in ["ambiguous", "mismatch", "unknown_handle", "none"] {
        let label = format!("result=\"{wrong}\"");
        assert_eq!(world.orders.metric(LOOKUP, &[&label]).await, 0.0, "{wrong}");
    }
    let by_handle = world.orders.metric(LOOKUP, &["result=\"handle\""]).await;
    let by_trace = world.orders.metric(LOOKUP, &["result=\"traceparent\""]).await;
    assert_eq!(by_handle + by_trace, ALL as f64);
}

/// A handle lives as long as its request, and a few seconds for what the app still has to say.
#[tokio::test]
async fn attack_reuses_handle_after_request_ended() {
    let open = Open::start().await;
    let request = open.request("alice", None).await;
    let handle = open.handle();
    let call = || Call::get(CALLEE, "/").header("countersign-context", &handle);
    let reply = open.call(call()).await;
    assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"));
    assert_eq!(open.looked_up("handle").await, 1.0);
    open.answer.send(true).unwrap();
    assert_eq!(request.await.unwrap().unwrap().status, 200);
    wait::until("the end of the handle", async || {
        open.call(call()).await;
        (open.looked_up("unknown_handle").await > 0.0).then_some(())
    })
    .await;
    // It does not come back.
    let (known, unknown) = (open.looked_up("handle").await, open.looked_up("unknown_handle").await);
    open.without_context(call()).await;
    assert_eq!(open.looked_up("handle").await, known);
    assert_eq!(open.looked_up("unknown_handle").await, unknown + 1.0);
}

/// Two users' requests under one trace id, as a caller may send them: the trace names neither.
#[tokio::test]
async fn attack_two_users_share_one_trace_id() {
    let open = Open::start().await;
    let _alice = open.request("alice", Some(TRACE)).await;
    let _mallory = open.request("mallory", Some(TRACE)).await;
    open.without_context(Call::get(CALLEE, "/").header("traceparent", TRACE)).await;
    assert_eq!(open.looked_up("ambiguous").await, 1.0);
    // A handle says more than a trace that says nothing, and is not overruled by it.
    let handle = open.handle();
    let both = Call::get(CALLEE, "/").header("traceparent", TRACE);
    open.call(both.header("countersign-context", &handle)).await;
    assert_eq!(open.looked_up("traceparent").await, 0.0);
}

/// Guessed handles, and a real one that is changed a little: none finds anything.
#[tokio::test]
async fn attack_guesses_handles() {
    // Its token and its request last a minute, on a busy machine too.
    const GUESSES: usize = 200;
    let open = Open::start().await;
    let _alice = open.request("alice", None).await;
    let real = open.handle();
    let mut guesses: Vec<String> = vec![
        real[..real.len() - 1].to_owned(),
        format!("{real}A"),
        format!("{real}="),
        real.to_ascii_uppercase(),
        real.to_ascii_lowercase(),
        real.chars().rev().collect(),
        format!("{real},{real}"),
        "A".repeat(22),
        "_".repeat(22),
    ];
    guesses.retain(|guess| *guess != real);
    while guesses.len() < GUESSES {
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).unwrap();
        use base64::Engine as _;
        guesses.push(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random));
    }
    let mut app = Conn::h2(open.orders.outbound()).await.unwrap();
    for guess in &guesses {
        let call = Call::get(CALLEE, "/").header("countersign-context", guess);
        let reply = app.send(call).await.unwrap();
        assert_eq!(reply.seen("countersign-user"), None, "{guess}");
    }
    assert_eq!(open.looked_up("unknown_handle").await, guesses.len() as f64);
    assert_eq!(open.looked_up("handle").await, 0.0);
    // The real one still is what it was.
    open.call(Call::get(CALLEE, "/").header("countersign-context", &real)).await;
    assert_eq!(open.looked_up("handle").await, 1.0);
}

/// A handle that left its pod, by a log or a shared volume: the sidecar of another pod of the very
/// same workload knows nothing of it.
#[tokio::test]
async fn attack_uses_handle_in_another_pod() {
    let open = Open::start().await;
    let _alice = open.request("alice", Some(TRACE)).await;
    let handle = open.handle();
    let id = open.lab.id("shop", "billing");
    let mesh = open.lab.mesh().destination("shop/billing", CALLEE, open.billing.inbound(), &[&id]);
    let mesh = open.lab.write("twin-mesh.yaml", &mesh.document());
    let twin = open.lab.proxy("shop", "orders").outbound().documents(&[&mesh]);
    let twin = twin.with(|config| {
        config["audit"]["sink"]["file"] = json!(open.lab.folder().join("twin.audit"));
    });
    let twin = twin.start().await;
    let call = Call::get(CALLEE, "/").header("countersign-context", &handle);
    let reply = client::call(twin.outbound(), call).await;
    assert_eq!(allowed(&open.billing, &reply).await["txn"], Value::Null);
    assert_eq!(twin.metric(LOOKUP, &["result=\"unknown_handle\""]).await, 1.0);
    let reply = client::call(twin.outbound(), Call::get(CALLEE, "/").header("traceparent", TRACE));
    assert_eq!(allowed(&open.billing, &reply.await).await["txn"], Value::Null);
    assert_eq!(twin.metric(LOOKUP, &["result=\"none\""]).await, 1.0);
}

/// An app that got hold of somebody's token sends it along: it is taken out, with and without a
/// handle beside it, in every spelling.
#[tokio::test]
async fn attack_app_injects_foreign_txn_token() {
    let world = World::start().await;
    let alice = world.user("alice");
    let lab = Lab::new();
    let stolen = lab.gateway.mint("spiffe://demo.test/ns/shop/sa/orders");
    let reply = client::call(world.gateway.gateway(), world.get(&alice, "alice")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let handle = world.app_a.last().header("countersign-context").unwrap().to_owned();
    for name in ["txn-token", "Txn_Token", "TXN-TOKEN"] {
        let before = world.app_b.seen().len();
        let head = format!(
            "GET /v1/users/alice/orders HTTP/1.1\r\nHost: {CALLEE}\r\n{name}: {stolen}\r\n"
        );
        // With the handle of alice's request the callee sees alice, by the token of her request.
        let with = format!("{head}Countersign-Context: {handle}\r\nConnection: close\r\n\r\n");
        let answer = client::raw_tcp(world.orders.outbound(), with.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
        let seen = world.app_b.last();
        assert_eq!(seen.header("countersign-user"), Some("alice"), "{name}");
        assert_eq!((seen.header("txn-token"), seen.header("txn_token")), (None, None));
        // Without one the app is nobody but itself.
        let without = format!("{head}Connection: close\r\n\r\n");
        let answer = client::raw_tcp(world.orders.outbound(), without.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{name}: {answer}");
        let record = world.billing.record(&client::parse_raw(&answer).decision()).await;
        assert_eq!(record["reason"], "token_missing", "{name}");
        assert_eq!(world.app_b.seen().len(), before + 1);
    }
}

/// A job that goes on after its request, with the trace it began under: the trace is worth nothing
/// once the request and its grace are over, even when another user's request comes under it.
#[tokio::test]
async fn attack_background_job_reuses_old_trace_id() {
    let open = Open::start().await;
    let alice = open.request("alice", Some(TRACE)).await;
    open.answer.send(true).unwrap();
    assert_eq!(alice.await.unwrap().unwrap().status, 200);
    let call = || Call::get(CALLEE, "/").header("traceparent", TRACE);
    wait::until("the end of the trace", async || {
        open.call(call()).await;
        (open.looked_up("none").await > 0.0).then_some(())
    })
    .await;
    let none = open.looked_up("none").await;
    open.without_context(call()).await;
    assert_eq!(open.looked_up("none").await, none + 1.0);
}

/// What remains of it, as the threat model says: under an open request of the same trace the job is
/// taken for a part of that. Propagation by handle alone takes the trace's word for nothing.
#[tokio::test]
async fn a_trace_counts_only_where_propagation_says_so() {
    let handle_only = |config: &mut Value| config["context"] = json!({"propagation": ["handle"]});
    for (by_trace, found) in [(true, "traceparent"), (false, "none")] {
        let open = Open::with(|config| {
            if !by_trace {
                handle_only(config);
            }
        });
        let open = open.await;
        let _mallory = open.request("mallory", Some(TRACE)).await;
        let reply = open.call(Call::get(CALLEE, "/").header("traceparent", TRACE)).await;
        assert_eq!(reply.seen("countersign-user").is_some(), by_trace);
        assert_eq!(open.looked_up(found).await, 1.0, "{found}");
    }
}
