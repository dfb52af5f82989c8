//! The direction from an app to other workloads: finding the context of the request that caused
//! the call, and reaching exactly whom it is for.

use countersign_integration::app::status;
use countersign_integration::client::{self, Call, Conn};
use countersign_integration::outcome::refused;
use countersign_integration::world::HOST;
use countersign_integration::{App, Lab, Reply, World, tls, wait};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::interception::http::Pair;

const ALICE: &str = "/v1/users/alice/orders";

/// Alice's request by way of app A, which forwards what `forward` says.
async fn through(world: &World, alice: &str, forward: &str) -> Reply {
    let call = Call::get(HOST, ALICE).bearer(alice).header("x-forward", forward);
    client::call(world.gateway.gateway(), call).await
}

/// One world, every way an app can hand on what caused its call.
#[tokio::test]
async fn the_context_follows_handle_or_trace() {
    let world = World::start().await;
    let alice = world.user("alice");
    for (forward, lookup) in
        [("handle", "handle"), ("traceparent", "traceparent"), ("both", "handle")]
    {
        let reply = through(&world, &alice, forward).await;
        assert_eq!(reply.status, 200, "{forward}: {}", reply.text());
        assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"), "{forward}");
        let label = format!("result=\"{lookup}\"");
        let counted = world.orders.metric("countersign_context_lookup_total", &[&label]).await;
        assert!(counted >= 1.0, "{lookup}");
    }
    // The service alone: the next policy wants a user and says so.
    let reply = through(&world, &alice, "nothing").await;
    assert_eq!(reply.status, 401, "{}", reply.text());
    let missing = |record: &serde_json::Value| record["reason"] == "token_missing";
    wait::until_true("the refusal", || world.billing.decisions().iter().any(missing)).await;

    // Handles are worth nothing elsewhere: not invented, not repeated.
    let invented = Call::get("billing.shop", ALICE);
    let invented = invented.header("countersign-context", "AAAAAAAAAAAAAAAAAAAAAA");
    let reply = client::call(world.orders.outbound(), invented).await;
    let record = world.billing.record(&reply.decision()).await;
    assert_eq!(record["reason"], "token_missing");
    let handle = world.app_a.last().header("countersign-context").unwrap().to_owned();
    let twice = Call::get("billing.shop", ALICE);
    let twice = twice.header("countersign-context", &handle).header("countersign-context", &handle);
    let reply = client::call(world.orders.outbound(), twice).await;
    assert_eq!(reply.status, 401, "{}", reply.text());
    let unknown = "result=\"unknown_handle\"";
    assert_eq!(world.orders.metric("countersign_context_lookup_total", &[unknown]).await, 2.0);
}

/// A handle of one user and the trace of another cancel each other.
#[tokio::test]
async fn attack_sends_handle_of_one_and_trace_of_another() {
    let world = World::start().await;
    let (alice, mallory) = (world.user("alice"), world.user("mallory"));
    for user in [&alice, &mallory] {
        assert_eq!(through(&world, user, "handle").await.status, 200);
    }
    let [of_alice, of_mallory] = &world.app_a.seen()[..] else { panic!("two requests") };
    let call = Call::get("billing.shop", ALICE)
        .header("countersign-context", of_mallory.header("countersign-context").unwrap())
        .header("traceparent", of_alice.header("traceparent").unwrap());
    let reply = client::call(world.orders.outbound(), call).await;
    assert_eq!(reply.status, 401, "{}", reply.text());
    let label = "result=\"mismatch\"";
    assert_eq!(world.orders.metric("countersign_context_lookup_total", &[label]).await, 1.0);
}

/// Without its authority and without the users' issuer a mesh goes on with what it has.
#[tokio::test]
async fn control_plane_loss_leaves_traffic_running() {
    let world = World::start().await;
    let alice = world.user("alice");
    world.authority.terminate();
    world.issuer.terminate();
    world.authority.ended().await;
    world.issuer.ended().await;
    for _ in 0..20 {
        assert_eq!(through(&world, &alice, "handle").await.status, 200);
    }
    for proxy in [&world.gateway, &world.orders, &world.billing] {
        assert_eq!(proxy.ready().await.map(|(status, _)| status), Some(200));
    }
}

/// More requests at once than one connection carries, and none is open yet: all are served, and
/// nobody's endpoint is held to have failed.
#[tokio::test]
async fn a_burst_is_served_though_no_connection_is_open() {
    let app = App::mirror();
    let pair = Pair::start(app.address).await;
    let clients = (0..600).map(|_| Conn::h1(pair.web.outbound()));
    let mut clients = futures_util::future::try_join_all(clients).await.unwrap();
    for _ in 0..2 {
        let calls = clients.iter_mut().map(|client| client.send(Call::get("orders.shop", "/")));
        let replies = futures_util::future::try_join_all(calls).await.unwrap();
        let failed = replies.iter().find(|reply| reply.status != 200);
        assert!(failed.is_none(), "{}", failed.unwrap().text());
    }
    assert_eq!(app.seen().len(), 1_200);
}

/// HTTP/1.1 and HTTP/2 apps alike, in absolute form too; each sees its own protocol at the end.
#[tokio::test]
async fn apps_of_both_protocols_call_out() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let id = lab.id("shop", "orders");
    let mesh = lab.mesh().destination("shop/orders", "orders.shop", orders.inbound(), &[&id]);
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    let web = lab.proxy("shop", "web").outbound().documents(&[&mesh]).start().await;

    let mut h1 = Conn::h1(web.outbound()).await.unwrap();
    let reply = h1.send(Call::get("orders.shop", "/a?b=c")).await.unwrap();
    assert_eq!(reply.json()["version"], "HTTP/1.1");
    assert_eq!(reply.json()["target"], "/a?b=c");
    assert_eq!(reply.seen("host").as_deref(), Some("orders.shop"));
    let caller = lab.id("shop", "web");
    assert_eq!(reply.seen("countersign-caller"), Some(caller));

    let mut h2 = Conn::h2(web.outbound()).await.unwrap();
    let reply = h2.send(Call::get("orders.shop", "/a")).await.unwrap();
    assert_eq!(reply.json()["version"], "HTTP/2.0");

    let absolute = "GET http://orders.shop/abs HTTP/1.1\r\nHost: orders.shop\r\n\
                    Connection: close\r\n\r\n";
    let answer = client::raw_tcp(web.outbound(), absolute.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let other = "GET http://orders.shop/ HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n";
    let answer = client::raw_tcp(web.outbound(), other.as_bytes()).await;
    refused(&web, &client::parse_raw(&answer), "host_invalid").await;

    // Between the sidecars all of this is one HTTP/2 connection.
    let label = ["direction=\"outbound\"", "result=\"ok\""];
    assert_eq!(web.metric("countersign_tls_handshakes_total", &label).await, 1.0);
}

/// What HTTP/2 cannot say: the reason phrase of an HTTP/1.1 app reaches an HTTP/1.1 client.
#[tokio::test]
async fn reason_phrase_survives_the_mesh() {
    let lab = Lab::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await.unwrap();
        let answer = b"HTTP/1.1 404 Gone Fishing\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let _ = stream.read(&mut head).await;
    });
    let unused = App::mirror();
    let elsewhere = |config: &mut serde_json::Value| config["app"][0]["address"] = json!(address);
    let orders = lab.orders(&unused, |spec| spec.with(elsewhere)).await;
    let id = lab.id("shop", "orders");
    let mesh = lab.mesh().destination("shop/orders", "orders.shop", orders.inbound(), &[&id]);
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    let web = lab.proxy("shop", "web").outbound().documents(&[&mesh]).start().await;
    let text = "GET / HTTP/1.1\r\nHost: orders.shop\r\nConnection: close\r\n\r\n";
    let answer = client::raw_tcp(web.outbound(), text.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 404 Gone Fishing\r\n"), "{answer}");
}

/// The app closes a kept connection; the next request is sent again, whatever its method.
#[tokio::test]
async fn reused_connection_closed_by_app_is_retried_once() {
    let lab = Lab::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (closed, mut told) = tokio::sync::mpsc::unbounded_channel();
    // Answers one request per connection, promises to keep it, and closes it.
    let app = tokio::spawn(async move {
        let mut served = 0;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            if stream.read(&mut head).await.unwrap() > 0 {
                served += 1;
                let length = served.to_string().len();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                let answer = format!("{head}{served}");
                stream.write_all(answer.as_bytes()).await.unwrap();
                // Dropping it is not enough: a process that another test is just starting holds it
                // too, until it runs its program.
                stream.shutdown().await.unwrap();
                closed.send(served).unwrap();
            }
        }
    });
    let unused = App::mirror();
    let elsewhere = |config: &mut serde_json::Value| config["app"][0]["address"] = json!(address);
    let orders = lab.orders(&unused, |spec| spec.with(elsewhere)).await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    for number in 1..=20 {
        let call = Call::get("orders.shop", "/").header("countersign-http1", "1.1");
        let reply = peer.send(call.method(http::Method::POST)).await.unwrap();
        assert_eq!((reply.status, reply.text()), (200, number.to_string()));
        // Later than that nobody could tell a closed connection from one that is being closed.
        assert_eq!(told.recv().await, Some(number));
    }
    app.abort();
}

/// A listener bound to one destination needs no name in the request.
#[tokio::test]
async fn a_bound_listener_has_one_destination() {
    let lab = Lab::new();
    let leaf = lab.ca.leaf("shop", "orders");
    let server = App::tls(tls::server(&leaf, &[tls::MESH_H2]), |_| Box::pin(async { status(204) }));
    let id = lab.id("shop", "orders");
    let mesh = lab.mesh().destination("shop/orders", "orders.shop", server.address, &[&id]);
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    let bound = |config: &mut serde_json::Value| {
        config["listeners"]["outbound"][0]["destination"] = json!("shop/orders");
    };
    let spec = lab.proxy("shop", "web").outbound().documents(&[&mesh]).with(bound);
    let web = spec.start().await;
    let reply = client::call(web.outbound(), Call::get("whatever.example", "/")).await;
    assert_eq!(reply.status, 204);
}

/// With two endpoints, one of them dead, requests go to the living one.
#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let lab = Lab::new();
    let leaf = lab.ca.leaf("shop", "orders");
    let server = App::tls(tls::server(&leaf, &[tls::MESH_H2]), |_| Box::pin(async { status(204) }));
    let id = lab.id("shop", "orders");
    let mesh = lab.mesh().destination("shop/orders", "orders.shop", server.address, &[&id]);
    let dead = countersign_integration::ports::free();
    let mesh = mesh.with(|spec| {
        let endpoints = &mut spec["destinations"][0]["spec"]["endpoints"];
        let dead = json!({"address": dead.ip(), "port": dead.port()});
        *endpoints = json!([dead, endpoints[0]]);
    });
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    let web = lab.proxy("shop", "web").outbound().documents(&[&mesh]).start().await;
    for _ in 0..4 {
        let reply = client::call(web.outbound(), Call::get("orders.shop", "/")).await;
        assert_eq!(reply.status, 204, "{}", reply.text());
    }
}

/// `preserveHttp1`: the sidecars speak HTTP/1.1 to each other.
#[tokio::test]
async fn http1_is_kept_where_the_port_says_so() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let id = lab.id("shop", "orders");
    let port = json!({"protocol": "http", "preserveHttp1": true});
    let mesh = lab.mesh();
    let mesh =
        mesh.destination_speaking("shop/orders", "orders.shop", orders.inbound(), &[&id], port);
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    let web = lab.proxy("shop", "web").outbound().documents(&[&mesh]).start().await;
    let mut h1 = Conn::h1(web.outbound()).await.unwrap();
    for _ in 0..3 {
        let reply = h1.send(Call::get("orders.shop", "/")).await.unwrap();
        assert_eq!(reply.json()["version"], "HTTP/1.1");
        let record = orders.record(&reply.decision()).await;
        assert_eq!(record["req"]["proto"], "http1");
    }
}
