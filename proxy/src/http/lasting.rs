//! A forwarded exchange while it lasts: its place in the registry, and the account that becomes a
//! second record when it was long.
//!
//! Invariant: an exchange that is told to end forwards nothing more in either direction, and its
//! end never looks like the end of the message: an error, or trailers that say no. However it ends,
//! its second record is written once.

use std::rc::Rc;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue, Response};

use crate::clock::Now;
use crate::http::body::ProxyBody;
use crate::journal::Journal;
use crate::refusal::{Refusal, Refused, Stage};
use crate::registry::{EndReason, Registered};
use crate::relay::Moved;

/// An exchange shorter than this leaves one record, unless its rule asks for both.
const LONG_MS: u64 = 1_000;

/// A registered exchange.
pub struct Lasting {
    registered: Rc<Registered>,
    /// The connection it came over; what cuts that cuts this.
    connection: Rc<Registered>,
    grpc: bool,
    account: Option<Box<Journal>>,
    /// It leaves a second record only if it had to end.
    quiet: bool,
    /// Counts the bytes where it is a tunnel.
    moved: Option<Rc<Moved>>,
    /// What the trailers of the app said.
    pub grpc_status: Option<u16>,
}

impl Lasting {
    /// An exchange that has just been registered.
    pub fn new(registered: Rc<Registered>, connection: Rc<Registered>, grpc: bool) -> Lasting {
        let (account, moved, grpc_status, quiet) = (None, None, None, false);
        Lasting { registered, connection, grpc, account, quiet, moved, grpc_status }
    }

    /// One that nothing but its own place in the registry ends.
    pub fn alone(registered: Registered, grpc: bool) -> Lasting {
        let registered = Rc::new(registered);
        Lasting::new(Rc::clone(&registered), registered, grpc)
    }

    /// Leaves a second record only if it has to end: whoever is called keeps the account.
    #[must_use]
    pub fn quiet(mut self) -> Lasting {
        self.quiet = true;
        self
    }

    /// Its place in the registry, to wait for its end while something else holds the rest.
    pub fn registered(&self) -> Rc<Registered> {
        Rc::clone(&self.registered)
    }

    /// From now on the end of the permit ends it.
    pub fn streams(&self) {
        self.registered.streams();
    }

    /// Whether the messages are gRPC.
    pub fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Keeps the account, for a second record.
    pub fn keep(&mut self, account: Box<Journal>) {
        self.account = Some(account);
    }

    /// Whether it must end; if not, the task of `cx` is told when it must.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<EndReason> {
        self.registered.poll_ended(cx)
    }

    /// Why it must end, if it must.
    pub fn reason(&self) -> Option<EndReason> {
        let cut = self.connection.reason().filter(|reason| !reason.has_grace());
        self.registered.reason().or(cut)
    }

    /// The last word of a gRPC stream that must end: our status, not the app's.
    pub fn trailers(reason: EndReason) -> HeaderMap {
        let (status, message) = match reason {
            EndReason::Age | EndReason::Policy(_) => (7, "denied"),
            EndReason::Drain => (14, "unavailable"),
            EndReason::Expiry | EndReason::Revoked(_) => (16, "no_longer_valid"),
        };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(status));
        trailers.insert("grpc-message", HeaderValue::from_static(message));
        trailers
    }

    /// It is a tunnel from now on, and this counts its bytes: `a` is its caller.
    pub fn counted_by(&mut self, moved: &Rc<Moved>) {
        self.moved = Some(Rc::clone(moved));
    }

    /// It is over: writes the second record where there is to be one.
    pub fn close(mut self, bytes_in: u64, bytes_out: u64) {
        self.record(bytes_in, bytes_out);
    }

    fn record(&mut self, bytes_in: u64, bytes_out: u64) {
        let Some(account) = self.account.take() else { return };
        let reason = self.reason();
        let long = Now::read().millis().saturating_sub(self.registered.since_ms()) >= LONG_MS;
        if reason.is_some() || (!self.quiet && (long || account.is_full())) {
            let decision = self.registered.decision();
            account.ended(reason, decision, self.grpc_status, (bytes_in, bytes_out));
        }
    }
}

/// Whatever holds it may be dropped wherever it stands; that is an end like any other.
impl Drop for Lasting {
    fn drop(&mut self) {
        let (bytes_in, bytes_out) =
            self.moved.as_ref().map_or((0, 0), |moved| (moved.to_b(), moved.to_a()));
        self.record(bytes_in, bytes_out);
    }
}

/// Why there is no response head.
pub enum NoHead {
    /// It was refused or failed by itself.
    Refused(Refused),
    /// It had to end.
    Ended(Rc<Registered>, EndReason),
}

/// Waits for the response head, unless the exchange has to end first; its body then lasts as long
/// as the exchange may.
///
/// # Errors
/// [`NoHead`].
pub async fn until_ended(
    lasting: Lasting,
    forwarded: impl Future<Output = Result<Response<ProxyBody>, Refused>>,
) -> Result<Response<ProxyBody>, NoHead> {
    let registered = lasting.registered();
    let mut response = tokio::select! {
        biased;
        outcome = forwarded => outcome.map_err(NoHead::Refused)?,
        reason = registered.ended() => return Err(NoHead::Ended(registered, reason)),
    };
    lasting.streams();
    response.body_mut().hold(lasting);
    Ok(response)
}

impl NoHead {
    /// The refusal, noted in the account of the exchange.
    pub fn refused(self, journal: &mut Journal) -> Refused {
        match self {
            NoHead::Refused(refused) => refused,
            NoHead::Ended(registered, reason) => {
                journal.overruled(reason, registered.decision());
                refused(&registered, reason)
            }
        }
    }
}

/// The refusal of an exchange that must end before its response has begun.
fn refused(registered: &Registered, reason: EndReason) -> Refused {
    let detail = match registered.decision().and_then(|decision| decision.rule) {
        Some(rule) => format!("no longer allowed: {} (rule {})", reason.text(), rule.id()),
        None => format!("no longer allowed: {}", reason.text()),
    };
    let refused = Refused::new(refusal(reason), Stage::Decide, detail);
    match reason {
        EndReason::Policy(why) => refused.with_sub(why.as_str()),
        EndReason::Revoked("user" | "issuer_key" | "device" | "transaction") => refused,
        EndReason::Revoked(_) => refused.with_sub("revoked"),
        EndReason::Age | EndReason::Drain | EndReason::Expiry => refused.with_sub(reason.text()),
    }
}

fn refusal(reason: EndReason) -> Refusal {
    match reason {
        EndReason::Revoked("user" | "issuer_key" | "device" | "transaction") => {
            Refusal::TokenRevoked
        }
        // Nothing is wrong with the request: it may be sent again, to somebody else.
        EndReason::Drain => Refusal::Overloaded,
        EndReason::Age | EndReason::Expiry | EndReason::Policy(_) | EndReason::Revoked(_) => {
            Refusal::PolicyDenied
        }
    }
}
