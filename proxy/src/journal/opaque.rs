//! What is known about one opaque connection: a record when it is let in or refused, and one with
//! its bytes when it ends.
//!
//! Invariant: every account ends in [`OpaqueJournal::refused`] or [`OpaqueJournal::ended`], or is
//! closed by being dropped, so no connection passes without a record.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use countersign_config::limits;
use countersign_policy::doc::AuditLevel;
use countersign_policy::{Compiled, Decision, Input};

use super::{audit_peer, caller, explain, reason};
use crate::admin::WhyEntry;
use crate::audit::{
    Callee, DecidedInput, DecisionId, Reason, Record, RecordKind, RequestFacts, ResponseFacts,
    Text, Timing,
};
use crate::clock::Now;
use crate::intercept::watched::carried_http;
use crate::live::Snapshot;
use crate::refusal::{Refusal, Refused, Stage};
use crate::registry::EndReason;
use crate::relay::{Moved, OnTcp, RelayEnd, Side, Why, reset};
use crate::telemetry::{Direction, Verdict};
use crate::tls::peer::{MeshPeer, Peer};
use crate::worker::Worker;

/// How far the connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was recorded yet.
    Undecided,
    /// It was let in.
    Open,
    /// Its last record is written.
    Closed,
}

/// How an opaque connection ended, for its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Why; `None`: both sides ended it in order.
    pub reason: Option<Reason>,
    /// Whether policy or revocation ended it.
    pub denied: bool,
}

/// The running account of one opaque connection.
pub struct OpaqueJournal {
    /// Names the decision in audit and for `why`.
    pub id: DecisionId,
    /// When it was accepted, as far as its account goes.
    pub started: Now,
    text: String,
    direction: Direction,
    port: u16,
    host: String,
    peer: Option<Peer>,
    callee: Option<Box<Callee>>,
    decision: Option<Decision>,
    decided: Option<Arc<DecidedInput>>,
    moved: Option<Rc<Moved>>,
    phase: Phase,
    worker: Rc<Worker>,
    /// Of the snapshot it was decided under, which a long connection must not keep alive.
    snapshot: Arc<str>,
}

impl Drop for OpaqueJournal {
    fn drop(&mut self) {
        match self.phase {
            Phase::Closed => {}
            Phase::Undecided => {
                let gone = "the connection went away before it was let in";
                self.refuse(&Refused::new(Refusal::ClientGone, Stage::Accept, gone));
            }
            Phase::Open => self.end(Closing { reason: Some("dropped".into()), denied: false }),
        }
    }
}

impl OpaqueJournal {
    /// Opens the account of a connection to this port.
    pub fn open(
        worker: &Rc<Worker>,
        snap: &Snapshot,
        direction: Direction,
        port: u16,
    ) -> OpaqueJournal {
        let started = Now::read();
        let id = worker.decision_id(started);
        OpaqueJournal {
            id,
            started,
            text: id.encode().as_str().to_owned(),
            direction,
            port,
            host: format!(":{port}"),
            peer: None,
            callee: None,
            decision: None,
            decided: None,
            moved: None,
            phase: Phase::Undecided,
            worker: Rc::clone(worker),
            snapshot: Arc::clone(&snap.hash),
        }
    }

    /// Sets who opened it.
    pub fn peer(&mut self, peer: &Peer) {
        self.peer = Some(peer.clone());
    }

    /// Sets whom it is for.
    pub fn callee(&mut self, callee: Callee) {
        self.host = format!("{}:{}", callee.host.as_str(), callee.port);
        self.callee = Some(Box::new(callee));
    }

    /// Notes who answered.
    pub fn presented(&mut self, peer: &MeshPeer) {
        if let Some(callee) = &mut self.callee {
            callee.presented = Some(peer.id().clone());
        }
    }

    /// Counts its bytes from now on.
    pub fn counting(&mut self, moved: &Rc<Moved>) {
        self.moved = Some(Rc::clone(moved));
    }

    /// Notes policy's decision, and keeps its input for `why` where it will be wanted.
    pub fn decided(&mut self, policy: &Arc<Compiled>, decision: &Decision, input: &Input<'_>) {
        let verdict = if decision.is_allow() { Verdict::Allow } else { Verdict::Deny };
        self.worker.metrics.decision(self.direction, verdict, decision.rule.as_ref());
        if verdict == Verdict::Deny || self.worker.shared.why.samples(self.started) {
            let kept = DecidedInput::new(policy.keep(input), Arc::clone(policy));
            self.decided = Some(Arc::new(kept));
        }
        self.decision = Some(decision.clone());
    }

    /// Records that the connection is let in, before a byte of it is forwarded.
    ///
    /// # Errors
    /// `audit_unavailable`.
    pub async fn let_in(&mut self) -> Result<(), Refused> {
        let refuse = |why| Refused::new(Refusal::AuditUnavailable, Stage::Decide, why);
        let full = |_| refuse("the audit queue is full");
        let record = self.record(RecordKind::Decision, Verdict::Allow, None);
        if self.decision.as_ref().is_some_and(|decision| decision.audit == AuditLevel::Full) {
            let synced = self.worker.audit.record_synced(record).map_err(full)?;
            // It may be written whatever happens now: what follows is its end, no second decision.
            self.phase = Phase::Open;
            let limit = Duration::from_millis(limits::AUDIT_SYNC_MS_MAX);
            let late = |_| refuse("the audit sink does not take the record");
            synced.done(limit).await.map_err(late)?;
        } else {
            self.worker.audit.reserve().map_err(full)?.record(record);
        }
        self.phase = Phase::Open;
        self.remember(Verdict::Allow, None);
        Ok(())
    }

    /// Closes the account of a connection that was refused, or could not be carried after all.
    pub fn refused(mut self, refused: &Refused) {
        self.refuse(refused);
    }

    fn refuse(&mut self, refused: &Refused) {
        let kind = match (self.phase, &self.decision) {
            (Phase::Open | Phase::Closed, _) => RecordKind::Ended,
            (Phase::Undecided, Some(_)) if refused.stage == Stage::Decide => RecordKind::Decision,
            (Phase::Undecided, _) => RecordKind::Refusal,
        };
        self.phase = Phase::Closed;
        self.worker.metrics.refusal(self.direction, refused.refusal.row().reason);
        tracing::info!(
            reason = %refused.reason(),
            direction = self.direction.text(),
            stage = refused.stage.name(),
            decision = %self.text,
            port = self.port,
            rule = self.decision.as_ref().and_then(|d| d.rule.as_ref()).map(tracing::field::display),
            detail = refused.detail,
            "connection refused"
        );
        let mut record = self.record(kind, Verdict::Deny, Some(reason(refused)));
        record.stage = Some(refused.stage.name());
        self.worker.audit.record(record);
        self.remember(Verdict::Deny, Some(refused));
    }

    /// Closes the account of a connection that was open.
    pub fn ended(mut self, closing: Closing) {
        self.end(closing);
    }

    /// Closes the account of a relay, and both connections: with a reset unless it ended in order.
    pub fn closed(mut self, end: &RelayEnd<EndReason>, client: &impl OnTcp, upstream: &impl OnTcp) {
        let reason = |code, detail| Some(Reason { code, detail });
        let (reason, denied) = match &end.why {
            Why::Closed => (None, false),
            Why::Broken(Side::A, error) if carried_http(error) => {
                reset(client);
                reset(upstream);
                let refusal = Refusal::ProtocolMismatch;
                return self.refuse(&Refused::new(refusal, Stage::Forward, error.to_string()));
            }
            Why::Broken(Side::A, _) => (reason("broken", Some("client")), false),
            Why::Broken(Side::B, _) => (reason("broken", Some("upstream")), false),
            Why::Idle(limit) => {
                self.worker.metrics.limit_hit(limit);
                (reason("idle", Some(limit)), false)
            }
            // Counted where it was registered.
            Why::Stopped(why) => (reason(why.text(), why.detail()), !why.has_grace()),
        };
        if reason.is_some() {
            reset(client);
            reset(upstream);
        }
        self.ended(Closing { reason, denied });
    }

    /// It is let in without a record of its own: whoever is called decides, and keeps one.
    pub fn passed_on(&mut self) {
        self.phase = Phase::Open;
    }

    fn end(&mut self, closing: Closing) {
        self.phase = Phase::Closed;
        let verdict = if closing.denied { Verdict::Deny } else { Verdict::Allow };
        let record = self.record(RecordKind::Ended, verdict, closing.reason);
        self.worker.audit.record(record);
    }

    fn record(&self, kind: RecordKind, verdict: Verdict, reason: Option<Reason>) -> Record {
        let rule = self.decision.as_ref().and_then(|decision| decision.rule.as_ref());
        let total_us = Now::read().micros().saturating_sub(self.started.micros());
        let bytes = self.moved.as_ref().map(|moved| (moved.to_b(), moved.to_a()));
        let at = if kind == RecordKind::Ended { Now::read() } else { self.started };
        Record {
            id: Some(self.id),
            direction: Some(self.direction),
            verdict: Some(verdict),
            reason,
            rule: rule.cloned(),
            decided: (verdict == Verdict::Deny).then(|| self.decided.clone()).flatten(),
            snapshot: Some(Arc::clone(&self.snapshot)),
            peer: self.peer.as_ref().map(audit_peer),
            callee: self.callee.clone(),
            request: Some(RequestFacts {
                protocol: "tcp",
                method: None,
                host: Text::Static(""),
                route: None,
                path: None,
                port: self.port,
            }),
            response: ResponseFacts {
                bytes_in: bytes.map(|(received, _)| received),
                bytes_out: bytes.map(|(_, sent)| sent),
                ..ResponseFacts::default()
            },
            timing: Timing { total_us, ..Timing::default() },
            ..Record::new(kind, at)
        }
    }

    /// Puts the connection into the ring: refusals always, permitted ones as sampled.
    fn remember(&mut self, verdict: Verdict, refused: Option<&Refused>) {
        let Some(explain) = explain(self.decided.take(), refused, self.direction) else { return };
        self.worker.shared.why.push(WhyEntry {
            id: self.id,
            at: self.started,
            direction: self.direction,
            verdict,
            status: None,
            reason: refused.map(reason),
            rule: self.decision.as_ref().and_then(|d| d.rule.as_ref()).map(ToString::to_string),
            caller: caller(self.peer.as_ref()),
            method: None,
            host: self.host.clone(),
            route: None,
            path: None,
            txn: None,
            explain,
        });
    }
}
