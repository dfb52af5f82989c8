//! One connection being opened, for every request that waits for it.
//!
//! Invariant: an endpoint that does not answer costs its waiters one attempt together, not one
//! after the other; whoever was waiting gets the outcome of the attempt that was running.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::upstream::connect::{self, ConnectError, Sender};
use crate::upstream::mesh::MeshEnds;
use crate::upstream::target::Target;

/// Why there is no connection for a request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LeaseError {
    /// None could be opened.
    #[error("{error}")]
    Connect {
        /// What happened.
        error: Rc<ConnectError>,
        /// Whether another request had started the attempt; it has counted the failure.
        shared: bool,
    },
    /// Too many requests use the endpoint or wait for it.
    #[error("too many requests to {addr} ({limit})")]
    Crowded {
        /// The endpoint.
        addr: SocketAddr,
        /// The limit that was reached.
        limit: &'static str,
    },
}

impl From<ConnectError> for LeaseError {
    fn from(error: ConnectError) -> LeaseError {
        LeaseError::Connect { error: Rc::new(error), shared: false }
    }
}

/// One connection being opened, for everybody who waits for it.
#[derive(Default)]
pub(super) struct Opening {
    outcome: RefCell<Option<Result<(), Rc<ConnectError>>>>,
    done: Notify,
    waiting: Rc<Cell<u32>>,
    answered_for: Cell<bool>,
}

impl Opening {
    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.get() as usize
    }

    /// Whether the caller is the first: it counts the attempt, and its failure, as its own.
    pub(super) fn answer_for(&self) -> bool {
        !self.answered_for.replace(true)
    }

    /// Whether a request counts the failure.
    pub(super) fn is_answered_for(&self) -> bool {
        self.answered_for.get()
    }

    /// Tells everybody who waits how it ended.
    pub(super) fn finish(&self, outcome: Result<(), Rc<ConnectError>>) {
        *self.outcome.borrow_mut() = Some(outcome);
        self.done.notify_waiters();
    }

    /// Waits for the end.
    pub(super) async fn wait(&self) -> Result<(), Rc<ConnectError>> {
        let _waiting = Count::one(&self.waiting);
        loop {
            // Made before the look, so that nothing said in between is missed.
            let done = self.done.notified();
            if let Some(outcome) = &*self.outcome.borrow() {
                return outcome.clone();
            }
            done.await;
        }
    }
}

/// One of something that is counted while it lasts.
pub struct Count(Rc<Cell<u32>>);

impl Count {
    /// Counts one more until it is dropped.
    pub(super) fn one(of: &Rc<Cell<u32>>) -> Count {
        of.set(of.get() + 1);
        Count(Rc::clone(of))
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Opens one connection to `target`.
pub(super) async fn open(target: &Target) -> Result<(Sender, Option<Rc<MeshEnds>>), ConnectError> {
    match target {
        Target::App { addr, h2, way, client, keep_case } => {
            Ok((connect::to_app(*addr, (*h2, *keep_case), (*way, *client)).await?, None))
        }
        Target::Mesh { addr, expected, alpn, tls, registry, .. } => {
            let opening = connect::to_mesh(*addr, expected, tls, *alpn, registry);
            let (sender, peer) = opening.await?;
            let ends = MeshEnds::new(peer, Arc::clone(tls.identity()));
            Ok((sender, Some(Rc::new(ends))))
        }
        Target::Outside { addr, tls, offer } => {
            Ok((connect::to_outside(*addr, tls, *offer).await?, None))
        }
        Target::Plain { addr, h2 } => Ok((connect::to_plain(*addr, *h2).await?, None)),
    }
}
