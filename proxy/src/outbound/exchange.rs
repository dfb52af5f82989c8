//! The tries of one request: sent once, once more where that is provably safe, and once more with
//! the certificates that the callee's proxy asked for.
//!
//! Invariant: what hands the context on is made anew for every try, for the callee that proved
//! itself on that try's connection; a token that was made for one callee never goes to another.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use countersign_workload_id::WorkloadId;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::http::body::ProxyBody;
use crate::http::certs::Thumbprint;
use crate::journal::Journal;
use crate::outbound::discover::{Destination, Endpoint};
use crate::outbound::encrypt::{self, Secured, Way};
use crate::outbound::hand_on::{self, Bring, Carries};
use crate::refusal::{Refusal, Refused, Stage};
use crate::tls::peer::MeshPeer;
use crate::upstream::breaker::Failure;
use crate::upstream::endpoints::Visit;
use crate::upstream::mesh::MeshEnds;
use crate::upstream::pool::{Checkout, Lease, SendFailed};
use crate::upstream::retry::{self, Kept};
use crate::worker::Worker;

/// The try a request is at: what answers it, if anything does.
pub(super) struct Try {
    /// The request at the endpoint, for its breaker.
    pub visit: Option<Visit>,
    /// The endpoint.
    pub addr: SocketAddr,
    /// Who proved to be there.
    pub peer: Option<MeshPeer>,
}

/// A response head, and what its body holds until it ended.
pub(super) type Answer = (Response<Incoming>, Checkout);

/// A try that is on its way.
struct Sending {
    kept: Option<Box<Kept>>,
    ends: Option<Rc<MeshEnds>>,
    /// The certificates of earlier holders that went along.
    brought: Vec<Thumbprint>,
}

impl Sending {
    fn tried(self, sent: Result<Answer, Box<SendFailed>>) -> Tried {
        let Sending { kept, ends, brought } = self;
        Tried { sent, kept, ends, brought }
    }
}

/// A try that has ended, one way or the other.
struct Tried {
    sent: Result<Answer, Box<SendFailed>>,
    kept: Option<Box<Kept>>,
    ends: Option<Rc<MeshEnds>>,
    /// The certificates of earlier holders that went along.
    brought: Vec<Thumbprint>,
}

/// What an answer says about the certificates that went along.
enum Looked {
    /// Nothing more is to be sent.
    Done(Answer),
    /// The callee lacks some, and answered with what it lacks.
    Asked { answer: Answer, missing: Vec<Thumbprint>, kept: Option<Box<Kept>> },
}

/// What the tries of one request have in common.
pub(super) struct Tries<'a> {
    /// Where they are made.
    pub worker: &'a Worker,
    /// Whom the request is for.
    pub destination: &'a Destination,
    /// The context it is to carry.
    pub carries: &'a Carries,
    /// Tells where it went last.
    pub last: &'a RefCell<Try>,
}

impl Tries<'_> {
    /// Sends the request until there is an answer to hand on.
    ///
    /// # Errors
    /// `upstream_failed`, what a new connection can refuse, and what handing on can.
    pub(super) async fn run(
        &self,
        secured: Secured,
        request: Request<ProxyBody>,
        journal: &mut Journal,
    ) -> Result<Answer, Refused> {
        let way = secured.way.clone().speaking(secured.alpn);
        let endpoint = secured.endpoint.clone();
        let (lease, request, sending) = self.ready(secured, request, Bring::Unshown)?;
        let mut tried = sending.tried(lease.send(request).await);
        if tried.sent.is_err() {
            // Boxed, here and below: few requests need room for a second try.
            let once_more = self.once_more(tried, (way.clone(), &endpoint), journal);
            tried = Box::pin(once_more).await?;
        }
        let (answer, missing, kept) = match self.looked_at(tried)? {
            Looked::Done(answer) => return Ok(answer),
            Looked::Asked { answer, missing, kept } => (answer, missing, kept),
        };
        drop(answer);
        Box::pin(self.with_certificates(kept, (way, &missing), journal)).await
    }

    /// Takes down what the callee has been shown, or what it asks for.
    fn looked_at(&self, tried: Tried) -> Result<Looked, Refused> {
        let Tried { sent, kept, ends, brought } = tried;
        let answer = sent.map_err(|failed| broken(&failed.error))?;
        let Some(ends) = ends else { return Ok(Looked::Done(answer)) };
        if let Carries::Minted(_) | Carries::Held(_) = self.carries {
            hand_on::learn(&ends, &answer.0);
        }
        if let Carries::Nothing | Carries::Minted(_) = self.carries {
            return Ok(Looked::Done(answer));
        }
        let Some(missing) = hand_on::asked(&answer.0) else {
            if hand_on::has_looked(&answer.0) {
                ends.note_shown(&brought);
            }
            return Ok(Looked::Done(answer));
        };
        ends.note_missing(&missing);
        Ok(Looked::Asked { answer, missing, kept })
    }

    /// Sends a request once more whose first try failed, where it may be.
    async fn once_more(
        &self,
        tried: Tried,
        way: (Way, &Endpoint),
        journal: &mut Journal,
    ) -> Result<Tried, Refused> {
        let first = tried.ends.as_ref().map(|ends| ends.peer().id());
        let failed = match tried.sent {
            Ok(_) => return Ok(tried),
            Err(failed) => (*failed, tried.kept),
        };
        let (again, request) = self.again(failed, way, first, journal).await?;
        self.attempt(again, request, Bring::Unshown).await
    }

    /// Sends the request once more to the same callee, with the certificates it asked for.
    async fn with_certificates(
        &self,
        kept: Option<Box<Kept>>,
        (way, missing): (Way, &[Thumbprint]),
        journal: &mut Journal,
    ) -> Result<Answer, Refused> {
        let Some(kept) = kept else {
            return Err(hand_on::missed("the callee lacks certificates, and the body has gone"));
        };
        self.worker.metrics.retry("hops_cert_unknown");
        if let Some(visit) = self.last.borrow_mut().visit.take() {
            visit.succeeded();
        }
        let addr = self.last.borrow().addr;
        let way = way.as_of_now(self.worker, self.destination)?;
        let secured = encrypt::same(self.worker, self.destination, (way, addr), journal).await;
        let secured = secured.map_err(|error| encrypt::of_error(&error))?;
        let tried = self.attempt(secured, kept.request(), Bring::Asked(missing)).await?;
        let answer = tried.sent.map_err(|failed| broken(&failed.error))?;
        if hand_on::asked(&answer.0).is_some() {
            return Err(hand_on::missed("the callee lacks certificates that were sent to it"));
        }
        if let Some(ends) = tried.ends.filter(|_| hand_on::has_looked(&answer.0)) {
            ends.note_shown(&tried.brought);
        }
        Ok(answer)
    }

    async fn attempt(
        &self,
        secured: Secured,
        request: Request<ProxyBody>,
        bring: Bring<'_>,
    ) -> Result<Tried, Refused> {
        let (lease, request, sending) = self.ready(secured, request, bring)?;
        Ok(sending.tried(lease.send(request).await))
    }

    /// Writes the context for the callee of this connection. All that is over before the request is
    /// sent happens here, so that the future which waits for the answer keeps none of it.
    fn ready(
        &self,
        secured: Secured,
        mut request: Request<ProxyBody>,
        bring: Bring<'_>,
    ) -> Result<(Lease, Request<ProxyBody>, Sending), Refused> {
        let Secured { lease, ends, endpoint, visit, .. } = secured;
        let peer = ends.as_ref().map(|ends| ends.peer().clone());
        self.last.replace(Try { visit, addr: endpoint.addr, peer });
        let headers = request.headers_mut();
        let brought = hand_on::attach(headers, self.carries, ends.as_deref(), bring)?;
        let kept = Kept::of(&request).map(Box::new);
        Ok((lease, request, Sending { kept, ends, brought }))
    }

    /// Another connection for a request that may be sent again, and the request.
    async fn again(
        &self,
        (failed, kept): (SendFailed, Option<Box<Kept>>),
        (way, endpoint): (Way, &Endpoint),
        first: Option<&WorkloadId>,
        journal: &mut Journal,
    ) -> Result<(Secured, Request<ProxyBody>), Refused> {
        let error = broken(&failed.error);
        let (request, why) =
            retry::again(failed, kept.map(|kept| *kept)).map_err(|error| broken(&error))?;
        if !encrypt::may_retry(self.worker, why) {
            return Err(error);
        }
        let visit = self.last.borrow_mut().visit.take();
        if let Some(visit) = visit.filter(|_| why != "reused_closed") {
            encrypt::report(self.worker, self.destination, visit, Failure::Failed);
        }
        let way = way.as_of_now(self.worker, self.destination)?;
        let again = encrypt::again(self.worker, self.destination, (way, endpoint), journal).await;
        let again = again.map_err(|error| encrypt::of_error(&error))?;
        if let Carries::Minted(_) = self.carries {
            same_callee(first, again.callee()?)?;
        }
        Ok((again, request))
    }
}

/// A token was made for the callee that was proved before; another one that may answer too must
/// not get it.
fn same_callee(first: Option<&WorkloadId>, now: &WorkloadId) -> Result<(), Refused> {
    if first == Some(now) {
        return Ok(());
    }
    let detail = format!("the context is for another callee, on the second try {now} answered");
    Err(Refused::new(Refusal::UpstreamFailed, Stage::Forward, detail))
}

fn broken(error: &hyper::Error) -> Refused {
    Refused::new(Refusal::UpstreamFailed, Stage::Forward, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_sent_to_another_callee_on_the_second_try() {
        let id = |text: &str| text.parse::<WorkloadId>().expect("an id");
        let (a, b) = (id("spiffe://prod.acme/ns/a/sa/a"), id("spiffe://prod.acme/ns/a/sa/b"));
        assert!(same_callee(Some(&a), &a).is_ok());
        let refused = same_callee(Some(&a), &b).expect_err("refused");
        assert_eq!(refused.refusal, Refusal::UpstreamFailed);
    }
}
