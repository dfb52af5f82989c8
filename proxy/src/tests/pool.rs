use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::http::body::Guards;
use crate::tls::verify::ExpectedIds;
use crate::upstream::dial;
use crate::upstream::upload::Fault;

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    runtime.unwrap().block_on(async {
        tokio::time::timeout(Duration::from_secs(20), work).await.expect("no hang");
    });
}

fn app(addr: SocketAddr) -> Target {
    app_in(addr, false)
}

fn app_in(addr: SocketAddr, h2: bool) -> Target {
    let client = ([127, 0, 0, 1], 1).into();
    Target::App { addr, h2, way: dial::Way::Plain, client, keep_case: false }
}

/// A server body as the data path gets one: `sent` is what its client wrote after the head.
async fn incoming(head: &str) -> (Incoming, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.write_all(head.as_bytes()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let sender = Rc::new(RefCell::new(Some(sender)));
    let service = service_fn(move |request: Request<Incoming>| {
        if let Some(sender) = sender.borrow_mut().take() {
            let _ = sender.send(request.into_body());
        }
        std::future::pending::<Result<Response<ProxyBody>, std::convert::Infallible>>()
    });
    tokio::task::spawn_local(async move {
        let builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    });
    (receiver.await.unwrap(), client)
}

const CHUNKED: &str = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";

/// Answers each request's head at once, without reading a body, and counts connections.
async fn hasty_app() -> (SocketAddr, Rc<Cell<u32>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Rc::new(Cell::new(0));
    let counted = Rc::clone(&count);
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.set(counted.get() + 1);
            tokio::task::spawn_local(async move {
                let mut seen = [0; 4096];
                while let Ok(1..) = stream.read(&mut seen).await {
                    if seen.windows(4).any(|four| four == b"\r\n\r\n") {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        let _ = stream.write_all(answer).await;
                    }
                    seen = [0; 4096];
                }
            });
        }
    });
    (addr, count)
}

async fn call(pool: &Pool, target: &Target, body: ProxyBody) -> Result<bytes::Bytes, LeaseError> {
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    let lease = pool.lease(target).await?;
    let Ok((response, checkout)) = lease.send(request).await else { panic!("not sent") };
    let guards = Guards { checkout: Some(checkout), ..Guards::default() };
    let body = ProxyBody::guarded(response.into_body(), guards);
    Ok(body.collect().await.unwrap().to_bytes())
}

#[test]
fn a_connection_is_used_again_only_when_the_request_body_is_through() {
    run(async {
        let (addr, connections) = hasty_app().await;
        let pool = Pool::new(&Limits::default());
        for _ in 0..3 {
            assert_eq!(call(&pool, &app(addr), ProxyBody::Empty).await.unwrap(), "ok");
        }
        assert_eq!(connections.get(), 1);
        // The client never ends its body; the app answers without reading it.
        let (body, _client) = incoming(CHUNKED).await;
        let mut body = ProxyBody::stream(body);
        let upload = body.begin_upload();
        assert_eq!(call(&pool, &app(addr), body).await.unwrap(), "ok");
        assert!(!upload.is_sent());
        assert_eq!(call(&pool, &app(addr), ProxyBody::Empty).await.unwrap(), "ok");
        assert_eq!(connections.get(), 2);
    });
}

#[test]
fn for_want_of_descriptors_the_older_idle_connections_go() {
    run(async {
        let ((old, old_opened), (new, new_opened)) = (hasty_app().await, hasty_app().await);
        let pool = Pool::new(&Limits::default());
        for addr in [old, new] {
            assert_eq!(call(&pool, &app(addr), ProxyBody::Empty).await.unwrap(), "ok");
        }
        pool.shed_idle();
        for addr in [old, new] {
            assert_eq!(call(&pool, &app(addr), ProxyBody::Empty).await.unwrap(), "ok");
        }
        assert_eq!((old_opened.get(), new_opened.get()), (2, 1));
    });
}

#[test]
fn an_endpoint_takes_no_more_than_its_share() {
    run(async {
        let (addr, _) = hasty_app().await;
        let pool = Pool::new(&Limits { endpoint_inflight_max: 1, ..Limits::default() });
        let first = pool.lease(&app(addr)).await.ok().unwrap();
        let refused = pool.lease(&app(addr)).await.err().unwrap();
        assert!(matches!(refused, LeaseError::Crowded { limit: "ENDPOINT_INFLIGHT_MAX", .. }));
        drop(first);
        assert!(pool.lease(&app(addr)).await.is_ok());
    });
}

/// The listener's queue is full, so that nobody answers a connection attempt.
#[test]
fn waiters_share_one_failure() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = app_in(listener.local_addr().unwrap(), true);
        drop(listener);
        let pool = Pool::new(&Limits { endpoint_inflight_max: 4_096, ..Limits::default() });
        let wanted = limits::ENDPOINT_PENDING_MAX + 72;
        let leases = (0..wanted).map(|_| pool.lease(&target));
        let outcomes = futures_util::future::join_all(leases).await;
        let own = |outcome: &&Result<Lease, LeaseError>| {
            matches!(outcome, Err(LeaseError::Connect { shared: false, .. }))
        };
        let crowded = |outcome: &&Result<Lease, LeaseError>| {
            matches!(outcome, Err(LeaseError::Crowded { limit: "ENDPOINT_PENDING_MAX", .. }))
        };
        assert_eq!(outcomes.iter().filter(own).count(), 1);
        assert_eq!(outcomes.iter().filter(crowded).count(), 72);
        assert!(outcomes.iter().all(Result::is_err));
    });
}

#[test]
fn opening_goes_on_when_the_request_that_began_it_goes_away() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = app_in(listener.local_addr().unwrap(), true);
        let accepted = Rc::new(AtomicUsize::new(0));
        let counted = Rc::clone(&accepted);
        tokio::task::spawn_local(async move {
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                open.push(stream);
            }
        });
        let pool = Pool::new(&Limits::default());
        let mut first = Box::pin(pool.lease(&target));
        let none = std::task::Waker::noop();
        assert!(first.as_mut().poll(&mut std::task::Context::from_waker(none)).is_pending());
        let second = pool.lease(&target);
        drop(first);
        let lease = second.await.ok().unwrap();
        assert!(!lease.is_new());
        assert_eq!(accepted.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_get_with_a_body_of_unknown_length_is_sent_with_it() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = app(listener.local_addr().unwrap());
        let pool = Pool::new(&Limits::default());
        let (body, _client) = incoming(&format!("{CHUNKED}3\r\nabc\r\n0\r\n\r\n")).await;
        let mut request = Request::new(ProxyBody::stream(body));
        *request.method_mut() = Method::GET;
        request.headers_mut().insert("host", http::HeaderValue::from_static("a"));
        let lease = pool.lease(&target).await.ok().unwrap();
        let sending = tokio::task::spawn_local(lease.send(request));
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"0\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
        }
        let text = String::from_utf8(seen).unwrap();
        assert!(text.contains("transfer-encoding: chunked\r\n"), "{text}");
        assert!(text.ends_with("3\r\nabc\r\n0\r\n\r\n"), "{text}");
        sending.abort();
    });
}

#[test]
fn a_body_is_cut_at_its_limit_and_when_it_stands_still() {
    run(async {
        let (body, _client) = incoming(&format!("{CHUNKED}5\r\nhello\r\n")).await;
        let mut long = ProxyBody::stream(body).at_most(4);
        let upload = long.begin_upload();
        assert!(long.collect().await.is_err());
        assert_eq!(upload.fault(), Some(Fault::TooLarge(4)));

        let (body, _client) = incoming(&format!("{CHUNKED}5\r\nhello\r\n")).await;
        let idle = Limits { body_idle_ms_max: 50, ..Limits::default() };
        let mut still = ProxyBody::stream(body).within(&idle);
        let upload = still.begin_upload();
        assert_eq!(still.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        assert!(still.frame().await.unwrap().is_err());
        assert_eq!(upload.fault(), Some(Fault::Stalled));
        // What failed once never looks like a body that ended.
        assert!(still.frame().await.unwrap().is_err());
    });
}

#[test]
fn a_body_is_not_idle_while_the_other_direction_moves() {
    run(async {
        let (body, _client) = incoming(CHUNKED).await;
        let idle = Limits { body_idle_ms_max: 60, ..Limits::default() };
        let mut still = ProxyBody::stream(body).within(&idle);
        let upload = still.begin_upload();
        let begun = Instant::now();
        let answering = async {
            for _ in 0..6 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                upload.moved();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            frame = still.frame() => assert!(frame.unwrap().is_err()),
            () = answering => {}
        }
        assert!(begun.elapsed() >= Duration::from_millis(230), "{:?}", begun.elapsed());
    });
}

#[test]
fn idle_connections_of_all_endpoints_are_bounded_together() {
    run(async {
        let (addr, connections) = hasty_app().await;
        let pool = Pool::new(&Limits::default());
        assert_eq!(call(&pool, &app(addr), ProxyBody::Empty).await.unwrap(), "ok");
        assert_eq!(pool.idle.get(), 1);
        assert_eq!(call(&pool, &app(addr), ProxyBody::Empty).await.unwrap(), "ok");
        assert_eq!(connections.get(), 1);
        // Others fill the pool: what is given back now is closed.
        let full = u32::try_from(limits::POOL_IDLE_TOTAL_MAX).unwrap();
        pool.idle.set(full);
        let lease = pool.lease(&app(addr)).await.ok().unwrap();
        assert_eq!(pool.idle.get(), full - 1, "a connection in use is not idle");
        pool.idle.set(full);
        let Ok((response, checkout)) = lease.send(get()).await else { panic!("not sent") };
        let _ = ProxyBody::guarded(response.into_body(), Guards::default()).collect().await;
        checkout.give_back();
        assert_eq!(pool.idle.get(), full);
        assert_eq!(call(&pool, &app(addr), ProxyBody::Empty).await.unwrap(), "ok");
        assert_eq!(connections.get(), 2);
    });
}

fn get() -> Request<ProxyBody> {
    Request::get("/").header("host", "a").body(ProxyBody::Empty).unwrap()
}

/// A shared connection nobody uses is closed after its idle time, counted from the last look that
/// found it in use; one in use never.
#[test]
fn a_shared_connection_is_swept_when_it_is_idle() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = app_in(listener.local_addr().unwrap(), true);
        tokio::task::spawn_local(async move {
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.push(stream);
            }
        });
        let pool = Pool::new(&Limits::default());
        let lease = pool.lease(&target).await.ok().unwrap();
        let start = Instant::now();
        let later = |ms: u64| start + Duration::from_millis(ms);
        for ms in [0, 10_000, 20_000] {
            pool.sweep(1, later(ms));
            assert_eq!(pool.slot(&target).h2.borrow().len(), 1, "in use");
        }
        drop(lease);
        pool.sweep(1, later(20_000 + limits::POOL_IDLE_APP_MS - 1));
        assert_eq!(pool.slot(&target).h2.borrow().len(), 1, "not idle for long enough");
        pool.sweep(1, later(20_000 + limits::POOL_IDLE_APP_MS + limits::POOL_LOOK_APP_MS));
        assert!(pool.slot(&target).h2.borrow().is_empty());
    });
}

/// Of endpoints nobody is connected to.
fn mesh_key(number: u32, generation: u64) -> Key {
    let id = "spiffe://prod.acme/ns/shop/sa/orders".parse().unwrap();
    let expected = Arc::new(ExpectedIds::new(vec![id]).unwrap());
    Key::mesh((Ipv4Addr::from_bits(number), 8443).into(), &expected, generation)
}

#[test]
fn a_turn_of_upkeep_looks_at_a_share_of_the_pool_that_is_due() {
    let pool = Pool::new(&Limits::default());
    let batch = u32::try_from(limits::SWEEP_BATCH_MAX).unwrap();
    let slots = || pool.slots.borrow().len();
    for number in 0..2 * batch {
        pool.slot_of(mesh_key(number, 1));
    }
    let used = pool.slot_of(mesh_key(2 * batch, 1));
    let begun = Instant::now();
    while pool.sweep(1, begun) {}
    // The generation is new to the pool; what it holds is looked at once, and empty slots go.
    assert_eq!(slots(), 1);
    for number in 0..2 * batch {
        pool.slot_of(mesh_key(number, 1));
    }
    assert!(!pool.sweep(1, begun));
    assert_eq!(slots(), 2 * limits::SWEEP_BATCH_MAX + 1, "not due");
    let due = Instant::now() + Duration::from_millis(limits::POOL_LOOK_MESH_MS);
    assert!(pool.sweep(1, due));
    assert_eq!(slots(), limits::SWEEP_BATCH_MAX + 2, "the first that entered is in use");
    while pool.sweep(1, due) {}
    assert_eq!(slots(), 1);
    drop(used);
    while pool.sweep(1, due + Duration::from_millis(limits::POOL_LOOK_MESH_MS)) {}
    assert_eq!(slots(), 0);
}

/// Not after their round: certificates that do not count any more must not be offered for seconds.
#[test]
fn connections_of_another_generation_are_due_at_once() {
    let pool = Pool::new(&Limits::default());
    let begun = Instant::now();
    while pool.sweep(1, begun) {}
    let number = 2 * limits::SWEEP_BATCH_MAX + 1;
    let held: Vec<_> =
        (0..number).map(|n| pool.slot_of(mesh_key(u32::try_from(n).unwrap(), 1))).collect();
    let fresh = pool.slot_of(mesh_key(0, 2));
    assert!(!pool.sweep(1, begun));
    assert_eq!(pool.slots.borrow().len(), number + 1);
    assert!(pool.sweep(2, begun));
    while pool.sweep(2, begun) {}
    assert_eq!(pool.slots.borrow().len(), 1, "also of slots in use");
    assert!(Rc::ptr_eq(&pool.slot_of(mesh_key(0, 2)), &fresh));
    drop(held);
}

#[path = "bursts.rs"]
mod bursts;
