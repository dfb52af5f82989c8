//! The load generator: one thread, many connections, as little work per request as it takes to
//! check the answer. [`closed`] keeps every connection busy and finds the maximum; [`open`] starts
//! requests on a clock and measures from the intended start, so a stall is charged to every
//! request it delayed (no coordinated omission).

mod churn;
mod closed;
mod h1;
mod h2;
mod hold;
mod open;
mod pace;
mod reading;
mod slot;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Result, bail};
use http::HeaderValue;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

pub(crate) use churn::churn;
pub(crate) use closed::closed;
pub(crate) use h1::Call;
pub(crate) use hold::hold;
pub(crate) use open::open;
pub(crate) use reading::Load;
pub(crate) use slot::{probe, status};

use crate::pods::Pod;
use crate::tokens::TokenPool;

/// The host every request names; `Destination.hosts` of the countersign pair lists it.
pub(crate) const HOST: &str = "orders.shop";
/// The path every request asks for.
pub(crate) const PATH: &str = "/v1/users/u-1/orders";

/// What a client speaks to proxy A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1 with keep-alive.
    H1,
    /// HTTP/2 in clear text with prior knowledge.
    H2,
    /// The same with unary gRPC calls: a POST with a message, an answer with trailers.
    Grpc,
}

/// How many requests are in flight at most: on how many connections, and how many on each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// TCP connections.
    pub(crate) connections: usize,
    /// Concurrent requests per connection; 1 for HTTP/1.1.
    pub(crate) streams: usize,
}

/// Where the load goes and what it carries.
#[derive(Clone)]
pub(crate) struct Target {
    /// Proxy A, or the server itself.
    pub(crate) address: SocketAddr,
    /// How to speak to it.
    pub(crate) protocol: Protocol,
    /// Tokens to send, a new one with each request.
    pub(crate) tokens: Option<Rc<TokenPool>>,
    /// The pod the client is in, if the pair has pods.
    pub(crate) pod: Option<Pod>,
}

impl Target {
    async fn connect(&self) -> std::io::Result<TcpStream> {
        match &self.pod {
            Some(pod) => pod.connect(self.address).await,
            None => TcpStream::connect(self.address).await,
        }
    }

    fn next_token(&self) -> Option<&HeaderValue> {
        self.tokens.as_deref().map(TokenPool::next)
    }
}

/// What all slots of one run share: whether to go on, and what went well or wrong.
#[derive(Default)]
struct Tally {
    stop: Cell<bool>,
    completed: Cell<u64>,
    failed: Cell<u64>,
    first_failure: RefCell<Option<String>>,
}

impl Tally {
    fn count(&self, outcome: Result<()>) -> bool {
        match outcome {
            Ok(()) => {
                self.completed.set(self.completed.get() + 1);
                true
            }
            Err(error) => {
                self.failed.set(self.failed.get() + 1);
                self.first_failure.borrow_mut().get_or_insert_with(|| format!("{error:#}"));
                false
            }
        }
    }

    /// One failed request fails the run: a proxy that refuses is not a fast proxy.
    fn check(&self) -> Result<()> {
        match self.first_failure.borrow().as_deref() {
            None => Ok(()),
            Some(first) => {
                let (failed, completed) = (self.failed.get(), self.completed.get());
                bail!(
                    "{failed} requests failed beside {completed} that went well; the first: {first}"
                )
            }
        }
    }
}

/// A runtime of the bench: everything on the calling thread.
pub(crate) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Lets hyper put the tasks of an HTTP/2 connection onto the same thread.
#[derive(Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}
