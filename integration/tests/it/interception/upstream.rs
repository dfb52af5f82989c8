//! Destinations, load balancing and resilience, against real endpoints that fail: killed, stopped,
//! broken, or somebody else. Counts are taken at the endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign_integration::app::status;
use countersign_integration::client::{self, Call, Conn, Reply};
use countersign_integration::outcome::{refused, refused_grpc};
use countersign_integration::proxy::Spec;
use countersign_integration::{App, Lab, Mesh, Proxy, documents, ports, tls, wait};
use http::{Method, Response};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

const HOST: &str = "orders.shop";
const OPENED: &str = "countersign_breaker_opened_total";
const OPEN: &str = "countersign_breaker_open";
const RETRIES: &str = "countersign_upstream_retries_total";

fn at(address: SocketAddr) -> Value {
    json!({"address": address.ip(), "port": address.port()})
}

/// The destination `orders.shop` at these endpoints.
fn orders_at(lab: &Lab, endpoints: &[Value]) -> Mesh {
    let any = SocketAddr::from(([127, 0, 0, 1], 1));
    let mesh = lab.mesh().destination("shop/orders", HOST, any, &[&lab.id("shop", "orders")]);
    mesh.with(|spec| spec["destinations"][0]["spec"]["endpoints"] = json!(endpoints))
}

/// The sidecar of `web`, one worker, under these documents.
async fn web(lab: &Lab, mesh: &Mesh, change: impl FnOnce(Spec) -> Spec) -> Proxy {
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    change(lab.proxy("shop", "web").outbound().documents(&[&mesh])).start().await
}

async fn get(web: &Proxy) -> Reply {
    client::call(web.outbound(), Call::get(HOST, "/")).await
}

/// A server that proves to be `account` of `shop`.
fn server(lab: &Lab, account: &str) -> App {
    let config = tls::server(&lab.ca.leaf("shop", account), &[tls::MESH_H2]);
    App::tls(config, |_| Box::pin(async { status(204) }))
}

/// A server of `orders` that holds each request until it is given a permit.
fn gated(lab: &Lab) -> (App, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let config = tls::server(&lab.ca.leaf("shop", "orders"), &[tls::MESH_H2]);
    let closed = Arc::clone(&gate);
    let serve = move |_| {
        let gate = Arc::clone(&closed);
        let answer = async move {
            gate.acquire().await?.forget();
            status(204)
        };
        Box::pin(answer) as countersign_integration::app::Answer
    };
    (App::tls(config, serve), gate)
}

/// A sidecar as an endpoint: a process that can be killed, stopped and started again.
async fn sidecar(lab: &Lab, number: usize, inbound: SocketAddr, app: &App) -> Proxy {
    let folder = lab.folder().join(number.to_string());
    std::fs::create_dir_all(&folder).unwrap();
    let (certificate, key) = lab.ca.leaf("shop", "orders").write(&folder, "id");
    let bundle = lab.folder().join("bundle.pem");
    let source = json!({"files": {"certificate": certificate, "key": key, "bundle": bundle}});
    let mesh = lab.write("orders-mesh.yaml", &lab.mesh().document());
    let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
    let spec = Spec::new(&folder, "shop", "orders", source).documents(&[&mesh, &access]);
    spec.inbound_at(inbound, app.address).start().await
}

/// One endpoint answers slowly: once it has a request in flight the other one gets them all.
#[tokio::test]
async fn requests_go_where_fewer_are_in_flight() {
    let lab = Lab::new();
    let (slow, gate) = gated(&lab);
    let fast = server(&lab, "orders");
    let web = web(&lab, &orders_at(&lab, &[at(slow.address), at(fast.address)]), |spec| spec).await;
    let address = web.outbound();
    let call = move || async move { client::call(address, Call::get(HOST, "/")).await.status };
    let mut stuck = JoinSet::new();
    for _ in 0..40 {
        if slow.seen().is_empty() {
            // It may go to either; wait only where it is answered.
            stuck.spawn(call());
            tokio::select! {
                answered = stuck.join_next() => assert_eq!(answered.unwrap().unwrap(), 204),
                () = wait::until_true("a request", || !slow.seen().is_empty()) => {}
            }
        } else {
            assert_eq!(call().await, 204);
        }
    }
    assert_eq!(slow.seen().len(), 1, "requests at the slow endpoint");
    gate.add_permits(1);
    while let Some(done) = stuck.join_next().await {
        assert_eq!(done.unwrap(), 204);
    }
}

/// An endpoint is killed: no request fails, it is left alone, and used again when it is back.
#[tokio::test]
async fn a_killed_endpoint_is_left_alone_and_taken_back() {
    let lab = Lab::new();
    let apps = [App::mirror(), App::mirror()];
    let places = [ports::free(), ports::free()];
    let living = sidecar(&lab, 0, places[0], &apps[0]).await;
    let dying = sidecar(&lab, 1, places[1], &apps[1]).await;
    let web = web(&lab, &orders_at(&lab, &places.map(at)), |spec| spec).await;
    while apps.iter().any(|app| app.seen().is_empty()) {
        assert_eq!(get(&web).await.status, 200);
    }
    dying.process.signal(Signal::KILL);
    dying.process.ended().await;
    let callee = "callee=\"shop/orders\"";
    wait::until("the breaker", || async {
        let reply = get(&web).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        (web.metric(OPENED, &[callee, "reason=\"failures\""]).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(web.metric(OPEN, &[callee]).await, 1.0);
    assert!(web.metric(RETRIES, &["reason=\"connect_failed\""]).await >= 5.0);

    let seen = apps[1].seen().len();
    let back = sidecar(&lab, 1, places[1], &apps[1]).await;
    wait::until("requests at the endpoint that is back", || async {
        assert_eq!(get(&web).await.status, 200);
        (apps[1].seen().len() > seen).then_some(())
    })
    .await;
    assert_eq!(web.metric(OPEN, &[callee]).await, 0.0);
    drop((living, back));
}

/// An endpoint stands still with its connections open: its requests time out, then it is left
/// alone; the others of the service go on.
#[tokio::test]
async fn a_stalled_endpoint_is_left_alone_and_taken_back() {
    let lab = Lab::new();
    let apps = [App::mirror(), App::mirror()];
    let places = [ports::free(), ports::free()];
    let living = sidecar(&lab, 0, places[0], &apps[0]).await;
    let stalled = sidecar(&lab, 1, places[1], &apps[1]).await;
    let impatient = |spec: Spec| spec.limit("REQUEST_MS_MAX", 1_000);
    let web = web(&lab, &orders_at(&lab, &places.map(at)), impatient).await;
    while apps.iter().any(|app| app.seen().is_empty()) {
        assert_eq!(get(&web).await.status, 200);
    }
    stalled.process.signal(Signal::STOP);
    let callee = "callee=\"shop/orders\"";
    let mut late = 0;
    while web.metric(OPENED, &[callee]).await < 1.0 {
        let reply = get(&web).await;
        if reply.status != 200 {
            refused(&web, &reply, "upstream_timeout").await;
            late += 1;
        }
    }
    assert_eq!(late, 5, "five failures in a row open it");
    let mut served = 0;
    for _ in 0..20 {
        // A probe may be among them.
        served += usize::from(get(&web).await.status == 200);
    }
    assert!(served >= 15, "{served}");
    stalled.process.signal(Signal::CONT);
    let seen = apps[1].seen().len();
    wait::until("requests at the endpoint that is back", || async {
        let _ = get(&web).await;
        (apps[1].seen().len() > seen && web.metric(OPEN, &[callee]).await == 0.0).then_some(())
    })
    .await;
    drop(living);
}

/// One endpoint belongs to somebody else now: one request is refused, not repeated anywhere, and
/// the endpoint is left alone at once. The other serves.
#[tokio::test]
async fn a_wrong_identity_leaves_its_endpoint_alone_at_once() {
    let lab = Lab::new();
    let (good, bad) = (server(&lab, "orders"), server(&lab, "other"));
    let web = web(&lab, &orders_at(&lab, &[at(bad.address), at(good.address)]), |spec| spec).await;
    let reply = wait::until("a request at the wrong one", || async {
        let before = good.seen().len();
        let reply = get(&web).await;
        if reply.status == 204 {
            return None;
        }
        assert_eq!(good.seen().len(), before, "it was repeated at another endpoint");
        Some(reply)
    })
    .await;
    refused(&web, &reply, "server_identity_unexpected").await;
    assert_eq!(web.metric(OPENED, &["reason=\"unexpected_identity\""]).await, 1.0);
    let mut served = 0;
    for _ in 0..20 {
        served += usize::from(get(&web).await.status == 204);
    }
    assert!(served >= 18, "{served}");
    assert!(bad.seen().is_empty());
}

/// Several identities behind one name: each endpoint may answer as its own and as no other.
#[tokio::test]
async fn each_endpoint_has_its_own_identity() {
    let lab = Lab::new();
    let (blue, green) = (server(&lab, "blue"), server(&lab, "green"));
    let own = |app: &App, account: &str| {
        let mut endpoint = at(app.address);
        endpoint["identities"] = json!([lab.id("shop", account)]);
        endpoint
    };
    let right = orders_at(&lab, &[own(&blue, "blue"), own(&green, "green")]);
    let web_right = web(&lab, &right, |spec| spec).await;
    while blue.seen().is_empty() || green.seen().is_empty() {
        assert_eq!(get(&web_right).await.status, 204);
    }
    drop(web_right);
    let (blues, greens) = (blue.seen().len(), green.seen().len());
    let swapped = orders_at(&lab, &[own(&blue, "green"), own(&green, "blue")]);
    let web_swapped = web(&lab, &swapped, |spec| spec).await;
    for _ in 0..3 {
        refused(&web_swapped, &get(&web_swapped).await, "server_identity_unexpected").await;
    }
    assert_eq!((blue.seen().len(), green.seen().len()), (blues, greens));
}

/// Every endpoint breaks every handshake: attempts stay within a fifth more than the requests.
#[tokio::test]
async fn the_budget_bounds_retries() {
    const REQUESTS: usize = 100;
    let lab = Lab::new();
    let attempts = Arc::new(AtomicUsize::new(0));
    let mut places = Vec::new();
    for _ in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        places.push(at(listener.local_addr().unwrap()));
        let counted = Arc::clone(&attempts);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                // Wait for the hello, so that the handshake is what fails.
                let _ = stream.read(&mut [0; 64]).await;
            }
        });
    }
    let web = web(&lab, &orders_at(&lab, &places), |spec| spec).await;
    let mut conn = Conn::h1(web.outbound()).await.unwrap();
    for _ in 0..REQUESTS {
        let reply = conn.send(Call::get(HOST, "/")).await.unwrap();
        assert_eq!(reply.status, 502, "{}", reply.text());
    }
    let retries = web.metric(RETRIES, &[]).await;
    let limited = ["limit=\"RETRY_BUDGET_PCT\""];
    assert!(web.metric("countersign_limits_hit_total", &limited).await >= 1.0);
    let attempts = attempts.load(Ordering::Relaxed);
    assert_eq!(attempts, REQUESTS + retries as usize);
    assert!((10..=REQUESTS / 5).contains(&(retries as usize)), "{retries} retries");
}

/// A mesh server of our own making: one connection after the other.
async fn mesh_listener(lab: &Lab, alpn: &'static [u8]) -> (SocketAddr, TcpListener, TlsAcceptor) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = tls::server(&lab.ca.leaf("shop", "orders"), &[alpn]);
    (listener.local_addr().unwrap(), listener, TlsAcceptor::from(config))
}

/// A server that refuses every other stream unprocessed: what has no body is sent once more,
/// whatever its method; what has one is not.
#[tokio::test]
async fn an_unprocessed_stream_is_sent_once_more() {
    let lab = Lab::new();
    let (address, listener, acceptor) = mesh_listener(&lab, tls::MESH_H2).await;
    let streams = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&streams);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(stream).await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            if counted.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            } else {
                let _ =
                    respond.send_response(Response::builder().status(204).body(()).unwrap(), true);
            }
        }
    });
    let web = web(&lab, &orders_at(&lab, &[at(address)]), |spec| spec).await;
    for method in [Method::GET, Method::POST] {
        let call = Call::get(HOST, "/").method(method);
        assert_eq!(client::call(web.outbound(), call).await.status, 204);
    }
    assert_eq!(streams.load(Ordering::Relaxed), 4);
    assert_eq!(web.metric(RETRIES, &["reason=\"refused_stream\""]).await, 2.0);
    let reply = client::call(web.outbound(), Call::post(HOST, "/", "a body")).await;
    refused(&web, &reply, "upstream_failed").await;
    assert_eq!(streams.load(Ordering::Relaxed), 5);
}

/// A server that takes a request on a kept connection and closes it without a byte: it may have
/// processed it, so only what may be processed twice is sent once more.
#[tokio::test]
async fn a_kept_connection_that_is_closed_repeats_only_what_may_be_repeated() {
    let lab = Lab::new();
    let (address, listener, acceptor) = mesh_listener(&lab, tls::MESH_HTTP1).await;
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut head = [0; 4096];
            for answered in [true, false] {
                if stream.read(&mut head).await.unwrap_or(0) == 0 {
                    break;
                }
                counted.fetch_add(1, Ordering::Relaxed);
                if answered {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
            }
        }
    });
    let mesh = orders_at(&lab, &[at(address)]).with(|spec| {
        spec["destinations"][0]["spec"]["ports"][0]["preserveHttp1"] = json!(true);
    });
    let web = web(&lab, &mesh, |spec| spec).await;
    let call = |method: Method| client::call(web.outbound(), Call::get(HOST, "/").method(method));
    assert_eq!(call(Method::GET).await.status, 200);
    // The kept connection swallows it; a fresh one answers.
    assert_eq!(call(Method::GET).await.status, 200);
    assert_eq!(requests.load(Ordering::Relaxed), 3);
    assert_eq!(web.metric(RETRIES, &["reason=\"closed_while_idle\""]).await, 1.0);
    refused(&web, &call(Method::POST).await, "upstream_failed").await;
    assert_eq!(requests.load(Ordering::Relaxed), 4);
}

/// One callee takes nothing more: its callers are told at once to come back later, in their own
/// protocol, and others are served.
#[tokio::test]
async fn a_full_endpoint_sheds_and_others_are_served() {
    let lab = Lab::new();
    let (full, gate) = gated(&lab);
    let free = server(&lab, "billing");
    let billing = lab.id("shop", "billing");
    let mesh = orders_at(&lab, &[at(full.address)]).destination(
        "shop/billing",
        "billing.shop",
        free.address,
        &[&billing],
    );
    let web = web(&lab, &mesh, |spec| spec.limit("ENDPOINT_INFLIGHT_MAX", 2)).await;
    let address = web.outbound();
    let mut held = JoinSet::new();
    for _ in 0..2 {
        held.spawn(client::call(address, Call::get(HOST, "/")));
    }
    wait::until_true("two requests at the callee", || full.seen().len() == 2).await;
    let reply = get(&web).await;
    refused(&web, &reply, "overloaded").await;
    assert_eq!(reply.header("retry-after"), Some("1"));
    let reply = Conn::h2(address).await.unwrap().send(Call::post(HOST, "/a.B/C", "").grpc()).await;
    refused_grpc(&web, &reply.unwrap(), "overloaded").await;
    let limited = ["limit=\"ENDPOINT_INFLIGHT_MAX\""];
    assert_eq!(web.metric("countersign_limits_hit_total", &limited).await, 2.0);
    for _ in 0..10 {
        let reply = client::call(address, Call::get("billing.shop", "/")).await;
        assert_eq!(reply.status, 204, "{}", reply.text());
    }
    gate.add_permits(100);
    while let Some(done) = held.join_next().await {
        assert_eq!(done.unwrap().status, 204);
    }
    assert_eq!(get(&web).await.status, 204);
}

/// Opaque connections choose and leave alone endpoints like requests do.
#[tokio::test]
async fn opaque_connections_pass_over_a_dead_endpoint() {
    let lab = Lab::new();
    let (address, listener, acceptor) = mesh_listener(&lab, b"countersign/tcp").await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = acceptor.accept(stream).await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(stream);
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let mesh = orders_at(&lab, &[at(ports::free()), at(address)]).with(|spec| {
        spec["destinations"][0]["spec"]["ports"][0]["protocol"] = json!("tcp");
    });
    let bound = |spec: Spec| {
        spec.with(|config| {
            config["listeners"]["outbound"][0]["destination"] = json!("shop/orders");
        })
    };
    let web = web(&lab, &mesh, bound).await;
    let opened = ["callee=\"shop/orders\"", "reason=\"failures\""];
    while web.metric(OPENED, &opened).await < 1.0 {
        let mut client = TcpStream::connect(web.outbound()).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        wait::ends("the echo", client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"hello");
    }
    assert_eq!(web.metric(RETRIES, &["reason=\"connect_failed\""]).await, 5.0);
}
