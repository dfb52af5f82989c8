//! The client: an exact number of requests in rounds. One answer that is no complete 200 ends the
//! run.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::{JoinSet, LocalSet};

/// The host every request names; the destination lists it.
pub(super) const HOST: &str = "orders.shop";
const PATH: &str = "/v1/users/u-1/orders";
/// Streams of one HTTP/2 connection.
const STREAMS: usize = 8;
/// Proxies under callgrind start slowly.
const READY_MAX: Duration = Duration::from_secs(60);

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    H1,
    H2,
}

/// A runtime with everything on one thread.
pub(super) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Lets hyper put the tasks of an HTTP/2 connection onto the same thread.
#[derive(Clone, Copy)]
pub(super) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}

/// Waits until a request succeeds; `alive` says why it never will.
pub(super) fn wait(
    address: SocketAddr,
    protocol: Protocol,
    alive: impl Fn() -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        let tried = Client::connect(address, protocol, 1).and_then(|client| client.drive(1));
        let Err(error) = tried else { return Ok(()) };
        alive()?;
        if Instant::now() > deadline {
            return Err(error.context("not ready"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Open connections with as many slots as requests at once.
pub(super) struct Client {
    local: LocalSet,
    runtime: Runtime,
    slots: RefCell<Vec<Slot>>,
}

enum Slot {
    H1(http1::SendRequest<Empty<Bytes>>),
    H2(http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    pub(super) fn connect(addr: SocketAddr, protocol: Protocol, slots: usize) -> Result<Client> {
        let (local, runtime) = (LocalSet::new(), runtime()?);
        let slots = local.block_on(&runtime, async {
            let mut all = Vec::new();
            while all.len() < slots {
                match protocol {
                    Protocol::H1 => all.push(h1(addr).await?),
                    Protocol::H2 => all.extend(h2(addr, STREAMS.min(slots - all.len())).await?),
                }
            }
            anyhow::Ok(all)
        })?;
        Ok(Client { local, runtime, slots: RefCell::new(slots) })
    }

    /// Sends `requests`, a whole number of rounds, and takes every answer.
    pub(super) fn drive(&self, requests: usize) -> Result<()> {
        let mut slots = self.slots.take();
        ensure!(requests.is_multiple_of(slots.len()), "{requests} requests are no whole rounds");
        self.local.block_on(&self.runtime, async {
            for _ in 0..requests / slots.len() {
                let mut round = JoinSet::new();
                for slot in slots.drain(..) {
                    round.spawn_local(exchange(slot));
                }
                while let Some(done) = round.join_next().await {
                    slots.push(done??);
                }
            }
            anyhow::Ok(())
        })?;
        self.slots.replace(slots);
        Ok(())
    }

    /// Asks for what no rule permits.
    pub(super) fn be_refused(&self) -> Result<()> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.first_mut().context("no connection")?;
        self.local.block_on(&self.runtime, async {
            let response = ask(slot, Method::DELETE).await?;
            ensure!(response.status() == 403, "answered {}", response.status());
            response.into_body().collect().await.context("a cut answer")?;
            Ok(())
        })
    }
}

async fn h1(address: SocketAddr) -> Result<Slot> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(driver);
    Ok(Slot::H1(sender))
}

async fn h2(address: SocketAddr, slots: usize) -> Result<Vec<Slot>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, driver) = http2::handshake(LocalExecutor, TokioIo::new(stream)).await?;
    tokio::task::spawn_local(driver);
    Ok((0..slots).map(|_| Slot::H2(sender.clone())).collect())
}

async fn exchange(mut slot: Slot) -> Result<Slot> {
    check(ask(&mut slot, Method::GET).await?).await?;
    Ok(slot)
}

async fn ask(slot: &mut Slot, method: Method) -> Result<Response<Incoming>> {
    let request = Request::builder().method(method).header(http::header::ACCEPT, "*/*");
    let response = match slot {
        Slot::H1(sender) => {
            sender.ready().await?;
            let request = request.uri(PATH).header(http::header::HOST, HOST);
            sender.send_request(request.body(Empty::new())?).await?
        }
        Slot::H2(sender) => {
            sender.ready().await?;
            let request = request.uri(format!("http://{HOST}{PATH}"));
            sender.send_request(request.body(Empty::new())?).await?
        }
    };
    Ok(response)
}

async fn check(response: Response<Incoming>) -> Result<()> {
    let status = response.status();
    let body = response.into_body().collect().await.context("a cut answer")?.to_bytes();
    let said = || String::from_utf8_lossy(&body).into_owned();
    ensure!(status == 200, "answered {status}: {}", said());
    ensure!(body.len() == 1024, "{} bytes came back", body.len());
    Ok(())
}
