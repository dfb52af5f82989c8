//! More connections, handshakes and bytes than anybody should send: bounds hold, and others are
//! served meanwhile. What connections cost is measured in `memory`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use countersign_integration::app::status;
use countersign_integration::client::{self, Call, Conn};
use countersign_integration::lab::user_claims;
use countersign_integration::outcome::refused;
use countersign_integration::proxy::Spec;
use countersign_integration::{App, Lab, Mesh, Proxy, RawApp, Tokens, documents, tls, wait};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

const API: &str = "api.example.com";
const PATH: &str = "/v1/users/alice/orders";
const HOST: &str = "orders.shop";

/// A gateway in front of a server that plays `orders`, and a sound user token.
struct Edge {
    gateway: Proxy,
    server: App,
    alice: String,
    _lab: Lab,
}

impl Edge {
    async fn start(
        server: impl FnOnce(std::sync::Arc<rustls::ServerConfig>) -> App,
        change: impl FnOnce(Mesh) -> Mesh,
        spec: impl FnOnce(Spec) -> Spec,
    ) -> Edge {
        let lab = Lab::new();
        let users = Tokens::of(&lab.ca, "idp", "keys");
        let server = server(tls::server(&lab.ca.leaf("shop", "orders"), &[tls::MESH_H2]));
        let orders = lab.id("shop", "orders");
        let mesh = lab.gateway_mesh(&users);
        let mesh = change(mesh.destination("shop/orders", HOST, server.address, &[&orders]));
        let gateway = lab.gateway_to(&mesh, "shop/orders", spec).await;
        let alice = users.user(&user_claims("alice"));
        Edge { gateway, server, alice, _lab: lab }
    }

    fn get(&self) -> Call {
        Call::get(API, PATH).bearer(&self.alice)
    }
}

/// A connection from one of this machine's many loopback addresses.
async fn from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let source: IpAddr = source.parse().unwrap();
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// How many of these the other end has closed, once it has had the time to.
async fn closed(conns: &mut Vec<TcpStream>) -> usize {
    let before = conns.len();
    let mut open = Vec::new();
    for mut conn in std::mem::take(conns) {
        let read = tokio::time::timeout(Duration::from_millis(1), conn.read(&mut [0])).await;
        if read.is_err() {
            open.push(conn);
        }
    }
    *conns = open;
    before - conns.len()
}

fn per_source(spec: Spec, max: u64) -> Spec {
    spec.limit("CONNS_PER_SOURCE_MAX", max)
}

const PER_SOURCE: [&str; 1] = ["limit=\"CONNS_PER_SOURCE_MAX\""];
const LIMITS_HIT: &str = "countersign_limits_hit_total";

/// One address opens connections and says nothing: it keeps its share, everybody else is served.
#[tokio::test]
async fn attack_opens_every_connection_from_one_address() {
    let edge = Edge::start(App::tls_mirror, |mesh| mesh, |spec| per_source(spec, 20)).await;
    let address = edge.gateway.gateway();
    let mut flood = Vec::new();
    for _ in 0..60 {
        flood.push(from("127.0.0.2", address).await);
    }
    edge.gateway.metric_reaches(LIMITS_HIT, &PER_SOURCE, 40.0).await;
    assert_eq!(closed(&mut flood).await, 40);
    assert!(from("127.0.0.2", address).await.read(&mut [0]).await.is_ok_and(|read| read == 0));
    let mut other = Conn::h1_over(from("127.0.0.3", address).await).await.unwrap();
    assert_eq!(other.send(edge.get()).await.unwrap().status, 200);
    // What is closed is free again, and nothing was counted twice.
    drop(flood);
    wait::until("a place for the flooder", async || {
        let mut conn = Conn::h1_over(from("127.0.0.2", address).await).await.ok()?;
        conn.send(edge.get()).await.ok().filter(|reply| reply.status == 200)
    })
    .await;
}

/// A balancer that speaks PROXY protocol carries everybody: each client behind it is counted.
#[tokio::test]
async fn attack_floods_connections_through_the_balancer() {
    let by_proxy = |mesh: Mesh| {
        mesh.with_gateway(|spec| {
            spec["clientAddress"] = json!({"trustedHops": 0, "from": "proxy-protocol"});
        })
    };
    let balancer = |spec: Spec| {
        per_source(spec, 10).with(|config| {
            config["listeners"]["gateway"][0]["proxyProtocol"] = json!({"from": ["127.0.0.1/32"]});
        })
    };
    let edge = Edge::start(App::tls_mirror, by_proxy, balancer).await;
    let connect = async |client: &str| {
        let mut stream = TcpStream::connect(edge.gateway.gateway()).await.unwrap();
        let header = format!("PROXY TCP4 {client} 127.0.0.1 4000 80\r\n");
        stream.write_all(header.as_bytes()).await.unwrap();
        stream
    };
    let mut flood = Vec::new();
    for _ in 0..30 {
        flood.push(connect("203.0.113.7").await);
    }
    edge.gateway.metric_reaches(LIMITS_HIT, &PER_SOURCE, 20.0).await;
    assert_eq!(closed(&mut flood).await, 20);
    // Many more of the balancer than one client may have.
    for number in 0..30 {
        let stream = connect(&format!("198.51.100.{number}")).await;
        let mut conn = Conn::h1_over(stream).await.unwrap();
        assert_eq!(conn.send(edge.get()).await.unwrap().status, 200);
    }
}

/// Behind a proxy that names its clients in a header, open requests are counted by client.
#[tokio::test]
async fn attack_floods_requests_through_a_trusted_proxy() {
    let never = |config| {
        App::tls(config, |request| {
            Box::pin(async move {
                if request.uri().path().ends_with("/hang") {
                    std::future::pending::<()>().await;
                }
                status(204)
            })
        })
    };
    let by_header = |mesh: Mesh| {
        mesh.with_gateway(|spec| {
            spec["clientAddress"] = json!({"trustedHops": 1, "trustedProxies": ["127.0.0.0/8"],
                "from": "x-forwarded-for"});
        })
    };
    let edge = Edge::start(never, by_header, |spec| per_source(spec, 10)).await;
    let address = edge.gateway.gateway();
    let hang = format!("{PATH}/hang");
    let mut flood = tokio::task::JoinSet::new();
    let shared = Conn::h2(address).await.unwrap();
    for _ in 0..10 {
        let mut conn = shared.share().unwrap();
        let call = Call::get(API, &hang).bearer(&edge.alice);
        let call = call.header("x-forwarded-for", "203.0.113.7");
        flood.spawn(async move { conn.start(call).await.is_ok() });
    }
    wait::until_true("ten open requests", || edge.server.seen().len() == 10).await;
    let mut conn = Conn::h1(address).await.unwrap();
    let one_more = edge.get().header("x-forwarded-for", "203.0.113.7");
    let record = refused(&edge.gateway, &conn.send(one_more).await.unwrap(), "rate_limited").await;
    assert_eq!(record["reason"], "rate_limited/per_source");
    let other = edge.get().header("x-forwarded-for", "203.0.113.8");
    assert_eq!(conn.send(other).await.unwrap().status, 204);
    // The proxy itself is not counted, however many connections it has.
    let mut idle = Vec::new();
    for _ in 0..30 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let other = edge.get().header("x-forwarded-for", "203.0.113.8");
    assert_eq!(client::call(address, other).await.status, 204);
    assert_eq!(closed(&mut idle).await, 0);
    // Requests that end give their places back.
    flood.shutdown().await;
    drop(shared);
    wait::until("a place for the client", async || {
        let call = edge.get().header("x-forwarded-for", "203.0.113.7");
        Some(client::call(address, call).await).filter(|reply| reply.status == 204)
    })
    .await;
}

/// A tunnel is a request that has not ended: behind a trusted proxy it holds its client's place.
#[tokio::test]
async fn tunnels_hold_the_places_of_their_clients() {
    let lab = Lab::new();
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let app = RawApp::echo_after_upgrade().await;
    let orders = lab.revocable(app.address, documents::anybody(), |spec| spec).await;
    let id = lab.id("shop", "orders");
    let mesh = lab.gateway_mesh(&users).destination("shop/orders", HOST, orders.inbound(), &[&id]);
    let mesh = mesh.with_gateway(|spec| {
        spec["clientAddress"] = json!({"trustedHops": 1, "trustedProxies": ["127.0.0.0/8"],
            "from": "x-forwarded-for"});
    });
    let gateway = lab.gateway_to(&mesh, "shop/orders", |spec| per_source(spec, 2)).await;
    let alice = users.user(&user_claims("alice"));
    let chat = async |client: &str| {
        let mut stream = TcpStream::connect(gateway.gateway()).await.unwrap();
        let request = format!(
            "GET {PATH} HTTP/1.1\r\nHost: {API}\r\nAuthorization: Bearer {alice}\r\n\
             X-Forwarded-For: {client}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = wait::ends("the answer", super::http::head(&mut stream)).await;
        (answer[..12].to_owned(), stream)
    };
    let mut open = Vec::new();
    for _ in 0..2 {
        let (status, mut stream) = chat("203.0.113.7").await;
        assert_eq!(status, "HTTP/1.1 101");
        // It runs.
        super::http::ping(&mut stream, b"\x81\x01!").await;
        open.push(stream);
    }
    assert_eq!(chat("203.0.113.7").await.0, "HTTP/1.1 429");
    assert_eq!(chat("203.0.113.8").await.0, "HTTP/1.1 101");
    drop(open);
    wait::until("a place for the client", async || {
        let (status, stream) = chat("203.0.113.7").await;
        (status == "HTTP/1.1 101").then_some(stream)
    })
    .await;
}

/// A refused upload that never ends: its sender gets the answer, and not much of it is read.
#[tokio::test]
async fn attack_never_finishes_a_refused_upload() {
    let edge = Edge::start(App::tls_mirror, |mesh| mesh, |spec| spec).await;
    let mut stream = TcpStream::connect(edge.gateway.gateway()).await.unwrap();
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: {API}\r\nContent-Length: 90000000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let upload = tokio::spawn(async move {
        let mut sent = 0_usize;
        while writer.write_all(&[b'x'; 16 * 1024]).await.is_ok() {
            sent += 16 * 1024;
        }
        sent
    });
    let mut answer = Vec::new();
    let _ = wait::ends("the answer", reader.read_to_end(&mut answer)).await;
    let reply = client::parse_raw(&String::from_utf8_lossy(&answer));
    refused(&edge.gateway, &reply, "user_token_missing").await;
    let sent = wait::ends("the upload", upload).await.unwrap();
    assert!(sent < 64 << 20, "{sent} bytes of a refused upload were taken");
    assert!(edge.server.seen().is_empty());
}

/// From outside, every connection a sidecar may hold is taken by peers that say nothing. The app's
/// own calls go on, and after the silent ones' time peers are served again.
#[tokio::test]
async fn attack_takes_all_inbound_connections() {
    let lab = Lab::new();
    let app = App::mirror();
    let elsewhere = App::tls_mirror(tls::server(&lab.ca.leaf("shop", "web"), &[tls::MESH_H2]));
    let web = lab.id("shop", "web");
    let mesh = lab.mesh().destination("shop/web", "web.shop", elsewhere.address, &[&web]);
    let limited = |spec: Spec| spec.outbound().limit("CONNS_MAX", 40);
    let orders = lab.orders_with(&app, &mesh, documents::anybody(), limited);
    let orders = orders.await;
    let mut flood = Vec::new();
    for _ in 0..100 {
        flood.push(TcpStream::connect(orders.inbound()).await.unwrap());
    }
    orders.metric_reaches(LIMITS_HIT, &["limit=\"CONNS_MAX\""], 1.0).await;
    for _ in 0..10 {
        let reply = client::call(orders.outbound(), Call::get("web.shop", "/")).await;
        assert_eq!(reply.status, 200);
    }
    let reply = lab.call_as_gateway(&orders, Call::get(HOST, "/")).await;
    assert_eq!(reply.status, 200);
}

/// Handshakes that are begun and left alone: each is dropped when its time is over, peers with a
/// certificate are served meanwhile.
#[tokio::test]
async fn attack_leaves_handshakes_half_open() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec.limit("CONNS_MAX", 2_000)).await;
    let mut half = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(orders.inbound()).await.unwrap();
        let start = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
        // Enough to be taken for TLS, never a whole ClientHello.
        stream.write_all(&start[..6 + number % (start.len() - 5)]).await.unwrap();
        half.push(stream);
    }
    for _ in 0..5 {
        let reply = lab.call_as_gateway(&orders, Call::get(HOST, "/")).await;
        assert_eq!(reply.status, 200);
    }
    let timeout = ["direction=\"inbound\"", "result=\"timeout\""];
    orders.metric_reaches("countersign_tls_handshakes_total", &timeout, 300.0).await;
    let mut ended = 0;
    wait::until("all of them closed", async || {
        ended += closed(&mut half).await;
        (ended == 300).then_some(())
    })
    .await;
}

/// Whole hellos, and then nothing: each is answered, far more of them than may be computed at once,
/// and whoever goes on is served while all of them wait.
#[tokio::test]
async fn attack_leaves_answered_hellos_alone() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec.limit("CONNS_MAX", 2_000)).await;
    let hello = hello();
    let mut half = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(orders.inbound()).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        half.push(stream);
    }
    // Who has to wait for the silent ones before it ends like them, without an answer.
    for stream in &mut half {
        let mut record = [0; 5];
        wait::ends("a ServerHello", stream.read_exact(&mut record)).await.unwrap();
        assert_eq!(record[..2], [0x16, 3]);
    }
    for _ in 0..5 {
        let reply = lab.call_as_gateway(&orders, Call::get(HOST, "/")).await;
        assert_eq!(reply.status, 200);
    }
    let timeout = ["direction=\"inbound\"", "result=\"timeout\""];
    orders.metric_reaches("countersign_tls_handshakes_total", &timeout, 300.0).await;
}

/// The first flight of another sidecar.
fn hello() -> Vec<u8> {
    let name = rustls::pki_types::ServerName::try_from(HOST).unwrap();
    let config = tls::client(None, &[tls::MESH_H2]);
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Leaves this many descriptors free in a running process. Its hard limit stays, so that more can
/// be left later.
fn leave_descriptors(proxy: &Proxy, free: u64) {
    let id = proxy.process.id();
    let open = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count() as u64;
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
    let max = open + free;
    let hard = getrlimit(Resource::Nofile).maximum;
    let tight = Rlimit { current: Some(max), maximum: hard };
    prlimit(pid, Resource::Nofile, tight).unwrap();
}

const NO_DESCRIPTORS: &str = "cannot accept: out of descriptors";

/// Out of descriptors a worker pauses between its tries, ever longer, instead of spinning; what is
/// open is served on.
#[tokio::test]
async fn accept_survives_fd_exhaustion_without_spinning() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec.limit("CONNS_MAX", 1_000)).await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    assert_eq!(peer.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    leave_descriptors(&orders, 5);
    let mut more = Vec::new();
    for _ in 0..40 {
        more.push(TcpStream::connect(orders.inbound()).await.unwrap());
    }
    let tries = || orders.log().lines().filter(|line| line.contains(NO_DESCRIPTORS)).count();
    wait::until_true("the exhaustion", || tries() > 0).await;
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(peer.send(Call::get(HOST, "/")).await.unwrap().status, 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // At most the short pauses of the beginning, then one try in 50 ms or more.
    let most = 10 + begun.elapsed().as_millis() / 50;
    let tries = tries();
    assert!((tries as u128) < most, "{tries} tries, at most {most} by the pauses");
}

/// The error of one accept is not the end of accepting.
#[tokio::test]
async fn accept_continues_after_one_error() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec.limit("CONNS_MAX", 1_000)).await;
    assert_eq!(lab.call_as_gateway(&orders, Call::get(HOST, "/")).await.status, 200);
    for _ in 0..3 {
        let before = orders.log().matches(NO_DESCRIPTORS).count();
        leave_descriptors(&orders, 0);
        let mut waiting = Vec::new();
        // More than what may be closed, and so be free, meanwhile.
        for _ in 0..10 {
            waiting.push(TcpStream::connect(orders.inbound()).await.unwrap());
        }
        wait::until_true("an error", || orders.log().matches(NO_DESCRIPTORS).count() > before)
            .await;
        leave_descriptors(&orders, 500);
        drop(waiting);
        assert_eq!(lab.call_as_gateway(&orders, Call::get(HOST, "/")).await.status, 200);
    }
}

/// Heads that arrive byte by byte end with their time, and what they held is free again.
#[tokio::test]
async fn attack_slow_headers_cannot_hold_connections() {
    let limits = |spec: Spec| {
        let spec = spec.limit("CONNS_MAX", 60).limit("H1_HEAD_MS_MAX", 2_000);
        per_source(spec, 1_000)
    };
    let edge = Edge::start(App::tls_mirror, |mesh| mesh, limits).await;
    let address = edge.gateway.gateway();
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..60 {
        flood.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let (mut reader, mut writer) = stream.split();
            let drip = async {
                let head = format!("GET {PATH} HTTP/1.1\r\nHost: {API}\r\nX-Slow: ");
                let _ = writer.write_all(head.as_bytes()).await;
                while writer.write_all(b"a").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            let mut answer = [0; 12];
            tokio::select! {
                read = reader.read_exact(&mut answer) => read.is_ok() && &answer == b"HTTP/1.1 408",
                () = drip => false,
            }
        });
    }
    // Queued behind the flood, and served when its time is over.
    let reply = client::call(address, edge.get()).await;
    assert_eq!(reply.status, 200);
    let ends = wait::ends("the flood", flood.join_all()).await;
    assert!(ends.iter().all(|refused| *refused), "{ends:?}");
}

/// The time for a head says nothing about the pause between two requests.
#[tokio::test]
async fn keep_alive_survives_thirty_idle_seconds() {
    let edge = Edge::start(App::tls_mirror, |mesh| mesh, |spec| spec).await;
    let mut conn = Conn::h1(edge.gateway.gateway()).await.unwrap();
    assert_eq!(conn.send(edge.get()).await.unwrap().status, 200);
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(!conn.is_closed());
    assert_eq!(conn.send(edge.get()).await.unwrap().status, 200);
}
