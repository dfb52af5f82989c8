//! What is known about one exchange while it runs; becomes exactly one audit record, its metrics
//! and its place in the `why` ring when it ends.
//!
//! Invariant: every exchange ends in [`Journal::finish`] or [`Journal::refuse_head`], so a decision
//! leaves one record, whatever happened; no token, credential or header value gets in here.

mod opaque;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use countersign_config::limits;
use countersign_ctxtoken::{RequestContext, Verified};
use countersign_policy::doc::AuditLevel;
use countersign_policy::path::CanonicalPath;
use countersign_policy::{Decision, Input};
use countersign_workload_id::WorkloadId;
use http::{HeaderMap, Method, Request, Response, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::admin::{Carried, Explain, StageRefusal, WhyEntry};
use crate::audit::{
    self, AuditContext, AuditSlot, Callee, ContextFields, DecidedInput, DecisionId, DeviceFields,
    IdText, JustificationFields, PodFields, Reason, Record, RecordKind, RequestFacts,
    ResponseFacts, ServiceFields, SourceFields, Text, Timing, UserFields,
};
use crate::clock::Now;
use crate::gateway::callers::ServiceCaller;
use crate::gateway::capture::ClientAddress;
use crate::http::body::ProxyBody;
use crate::http::deadline;
use crate::http::head::HeadError;
use crate::http::hygiene;
use crate::http::problem::{self, Audience};
use crate::inbound::custody::Path;
use crate::issuer::Minted;
use crate::live::Snapshot;
use crate::outbound::discover::Destination;
use crate::refusal::{Refusal, Refused, Stage};
use crate::registry::EndReason;
use crate::telemetry::{Direction, Lookup, PeerSeries, Protocol, RemovedFrom, Verdict};
use crate::tls::peer::{MeshPeer, Peer};
use crate::tls::verify::ExpectedIds;
use crate::tokens::MadeGrant;
use crate::worker::Worker;

pub use opaque::{Closing, OpaqueJournal};

/// The running account of one exchange.
pub struct Journal {
    /// Names the decision to the caller, in audit and for `why`.
    pub id: DecisionId,
    /// When the head had arrived.
    pub started: Now,
    /// Which direction this is.
    pub direction: Direction,
    /// Canonical host, once known.
    pub host: Option<Arc<str>>,
    /// Canonical path, once known.
    pub path: Option<CanonicalPath>,
    /// The verified context, once known.
    pub context: Option<Arc<Verified<RequestContext>>>,
    /// How it came here.
    pub path_of_context: Option<Arc<Path>>,
    /// The transaction of an attached context.
    pub txn: Option<Arc<str>>,
    text: IdText,
    protocol: Protocol,
    method: Method,
    port: u16,
    peer: Option<Peer>,
    decision: Option<Decision>,
    decided: Option<Arc<DecidedInput>>,
    callee: Option<Box<Callee>>,
    lookup: Option<Lookup>,
    removed: [usize; 2],
    /// Apart: most exchanges show a token that was verified, or none. Shared with the record.
    fields: Option<Arc<ContextFields>>,
    recorded: bool,
    room: Option<AuditSlot>,
    minted: bool,
    closed: bool,
    /// The status a refused head was answered with, where it is finer than the table's.
    answered: Option<u16>,
    /// The answer of a service of this process to what it refuses.
    own_answer: Option<Box<Response<ProxyBody>>>,
    worker: Rc<Worker>,
    snap: Arc<Snapshot>,
}

/// A client that goes away drops the exchange wherever it stands; what had happened by then, the
/// request perhaps executed, is recorded all the same.
impl Drop for Journal {
    fn drop(&mut self) {
        if !self.closed {
            let gone = "the client went away before the answer";
            self.closed = true;
            let _ = self.refused(&Refused::new(Refusal::ClientGone, Stage::Forward, gone));
            self.count_removed();
        }
    }
}

impl Journal {
    /// Opens the account of a request.
    pub fn start(
        worker: &Rc<Worker>,
        snap: &Arc<Snapshot>,
        direction: Direction,
        request: &Request<Incoming>,
    ) -> Box<Journal> {
        let protocol = match request.version() {
            _ if hygiene::is_grpc(request.headers()) => Protocol::Grpc,
            Version::HTTP_2 => Protocol::Http2,
            _ => Protocol::Http1,
        };
        let started = Now::read();
        let id = worker.decision_id(started);
        Journal::open(worker, snap, (id, started), direction, (protocol, request.method().clone()))
    }

    /// Opens the account of a call that this proxy makes itself.
    pub fn ours(
        worker: &Rc<Worker>,
        snap: &Arc<Snapshot>,
        direction: Direction,
        method: Method,
    ) -> Box<Journal> {
        let started = Now::read();
        let id = worker.decision_id(started);
        Journal::open(worker, snap, (id, started), direction, (Protocol::Http2, method))
    }

    /// Opens the account of something that never became a request.
    pub fn without_request(
        worker: &Rc<Worker>,
        id: DecisionId,
        direction: Direction,
    ) -> Box<Journal> {
        let head = (Protocol::Http1, Method::GET);
        Journal::open(worker, &worker.snapshot(), (id, Now::read()), direction, head)
    }

    fn open(
        worker: &Rc<Worker>,
        snap: &Arc<Snapshot>,
        (id, started): (DecisionId, Now),
        direction: Direction,
        (protocol, method): (Protocol, Method),
    ) -> Box<Journal> {
        // In its place from the beginning: it is handed from stage to stage, and to what lasts.
        Box::new(Journal {
            id,
            started,
            direction,
            host: None,
            path: None,
            context: None,
            path_of_context: None,
            txn: None,
            text: id.encode(),
            protocol,
            method,
            port: 0,
            peer: None,
            decision: None,
            decided: None,
            callee: None,
            lookup: None,
            removed: [0; 2],
            fields: None,
            recorded: false,
            room: None,
            minted: false,
            closed: false,
            answered: None,
            own_answer: None,
            worker: Rc::clone(worker),
            snap: Arc::clone(snap),
        })
    }

    /// What of the context is collected by hand.
    fn fields(&mut self) -> &mut ContextFields {
        Arc::make_mut(self.fields.get_or_insert_default())
    }

    /// The time since the head had arrived.
    pub fn spent(&self) -> Duration {
        Duration::from_micros(Now::read().micros().saturating_sub(self.started.micros()))
    }

    /// The deadline a gRPC call brought along, which its head states reduced from now on.
    ///
    /// # Errors
    /// `request_malformed`, or `late` where it has passed already.
    pub fn deadline(
        &self,
        headers: &mut HeaderMap,
        late: Refusal,
    ) -> Result<Option<Instant>, Refused> {
        if self.protocol != Protocol::Grpc {
            return Ok(None);
        }
        let refuse = |refusal, detail: String| Refused::new(refusal, Stage::Forward, detail);
        match deadline::reduce(headers, self.spent()) {
            Ok(Some(Duration::ZERO)) => Err(refuse(late, "the call's deadline has passed".into())),
            Ok(left) => Ok(left.map(|left| Instant::now() + left)),
            Err(error) => Err(refuse(Refusal::RequestMalformed, error.to_string())),
        }
    }

    /// The generation of the snapshot it is judged by.
    pub fn generation(&self) -> u64 {
        self.snap.generation
    }

    /// The decision id as text.
    pub fn id_text(&self) -> &str {
        self.text.as_str()
    }

    /// Sets the port the request was sent to.
    pub fn at_port(&mut self, port: u16) -> &mut Journal {
        self.port = port;
        self
    }

    /// Sets who is on the other end.
    pub fn peer(&mut self, peer: &Peer) -> &mut Journal {
        self.peer = Some(peer.clone());
        self
    }

    /// Notes the workload outside the mesh that calls with a token of its own.
    pub fn caller(&mut self, caller: &ServiceCaller) {
        self.peer = Some(Peer::None(caller.kind().no_peer()));
        self.fields().service = Some(ServiceFields {
            id: caller.id().clone(),
            pod: caller.pod().map(|pod| PodFields {
                name: pod.name.clone().into(),
                uid: pod.uid.clone().into(),
            }),
        });
    }

    /// Notes reserved names that were taken out.
    pub fn reserved_removed(&mut self, from: RemovedFrom, count: usize) {
        match from {
            RemovedFrom::Header => self.removed[0] += count,
            RemovedFrom::Response => self.removed[1] += count,
            RemovedFrom::Trailer => {}
        }
    }

    /// Notes the captured client address.
    pub fn client(&mut self, client: &ClientAddress) {
        self.fields().source = Some(SourceFields { ip: client.ip, via: Some(client.src.text()) });
    }

    /// Notes how the context of an outbound call was found.
    pub fn lookup(&mut self, lookup: Lookup) {
        self.worker.metrics.lookup(lookup);
        self.lookup = Some(lookup);
    }

    /// Notes whom the call is for.
    pub fn callee(&mut self, destination: &Destination) {
        self.callee = Some(Box::new(Callee {
            expected: destination.expected.as_ref().and_then(|ids| ids.single()).cloned(),
            presented: None,
            host: Text::Shared(Arc::clone(&destination.name)),
            port: destination.port,
        }));
    }

    /// Notes who must answer at the endpoint that was chosen, where that differs.
    pub fn expecting(&mut self, expected: Option<&ExpectedIds>) {
        if let Some(callee) = &mut self.callee {
            callee.expected = expected.and_then(ExpectedIds::single).cloned();
        }
    }

    /// Notes who answered.
    pub fn presented(&mut self, peer: &MeshPeer) {
        if let Some(callee) = &mut self.callee {
            callee.presented = Some(peer.id().clone());
        }
    }

    /// If this is refused, the caller gets this answer instead of problem details.
    pub fn answer_with(&mut self, answer: Response<ProxyBody>) {
        self.own_answer = Some(Box::new(answer));
    }

    /// Notes the token that was made.
    pub fn minted(&mut self, minted: &Minted) {
        let context = &minted.context;
        let txn: Arc<str> = minted.txn.as_str().into();
        self.minted = true;
        self.txn = Some(Arc::clone(&txn));
        let fields = self.fields();
        fields.origin = Some(Text::Static(context.rctx.origin.as_str()));
        fields.entry = Some(context.req_wl.clone());
        fields.txn = Some(Text::Shared(txn));
        fields.jti = Some(minted.jti.clone().into());
        fields.token_sha256 = Some(*minted.token.sha256());
        fields.scope.clone_from(&context.scope);
        fields.user = context.sub.user().map(|user| UserFields {
            provider: context.rctx.idp.clone().unwrap_or_default().into(),
            id: user.id().to_owned().into(),
            account: context.rctx.acct.clone().map(Text::from),
            groups_from: context.rctx.groups_src.clone().map(Text::from),
        });
        fields.device = context.rctx.dev.as_ref().map(|device| DeviceFields {
            id: Some(device.id.clone().into()),
            tier: device.tier.clone().map(Text::from),
            managed: device.managed,
            source: Some(device.src.to_string().into()),
        });
        fields.justification = context.rctx.just.as_ref().map(|just| JustificationFields {
            kind: just.kind.clone().into(),
            reference: just.reference.clone().into(),
            by: just.by.clone().map(Text::from),
            checked: just.checked,
        });
    }

    /// Notes the deferred grant that was made; its own id stands where a token's would.
    pub fn deferred(&mut self, made: &MadeGrant) {
        let grant = &made.content;
        self.minted = true;
        let fields = self.fields();
        fields.origin = Some(Text::Static("deferred"));
        fields.entry = Some(grant.req_wl.clone());
        fields.txn = Some(grant.txn.clone().into());
        fields.jti = Some(made.jti.clone().into());
        fields.scope.clone_from(&grant.scope);
        fields.user = grant.sub.user().map(|user| UserFields {
            provider: grant.rctx.idp.clone().unwrap_or_default().into(),
            id: user.id().to_owned().into(),
            account: grant.rctx.acct.clone().map(Text::from),
            groups_from: None,
        });
        self.txn = Some(grant.txn.as_str().into());
    }

    /// Notes policy's decision, and keeps its input for `why` where it will be wanted.
    pub fn decided(&mut self, decision: &Decision, input: &Input<'_>) {
        let verdict = if decision.is_allow() { Verdict::Allow } else { Verdict::Deny };
        let rule = decision.rule.as_ref();
        self.worker.metrics.decision(self.direction, verdict, rule);
        if verdict == Verdict::Deny || self.worker.shared.why.samples(self.started) {
            let policy = Arc::clone(&self.snap.policy);
            self.decided = Some(Arc::new(DecidedInput::new(policy.keep(input), policy)));
        }
        self.decision = Some(decision.clone());
    }

    /// Under `audit: full` the record is on stable storage before anything is forwarded; under
    /// `onFull: refuse` there must at least be room for it.
    ///
    /// # Errors
    /// `audit_unavailable`.
    pub async fn before_forward(&mut self) -> Result<(), Refused> {
        let refuse = |why| Refused::new(Refusal::AuditUnavailable, Stage::Decide, why);
        let unavailable = |_| refuse("the audit queue is full");
        if self.decision.as_ref().is_some_and(|decision| decision.audit == AuditLevel::Full) {
            let record = self.record(RecordKind::Decision, None, None);
            let synced = self.worker.audit.record_synced(record).map_err(unavailable)?;
            // It may be written whatever happens now: there is no second decision.
            self.recorded = true;
            let limit = Duration::from_millis(limits::AUDIT_SYNC_MS_MAX);
            if synced.done(limit).await.is_ok() {
                return Ok(());
            }
            let refused = refuse("the audit sink does not take the record");
            let record = self.record(RecordKind::Ended, None, Some(&refused));
            self.worker.audit.record(record);
            return Err(refused);
        }
        self.room = Some(self.worker.audit.reserve().map_err(unavailable)?);
        Ok(())
    }

    /// Closes the account: one record, its metrics, and the response for the caller.
    pub fn finish(
        mut self: Box<Self>,
        series: &PeerSeries,
        outcome: Result<Response<ProxyBody>, Refused>,
    ) -> Response<ProxyBody> {
        self.closed = true;
        let mut response = match outcome {
            Ok(mut response) => {
                self.allowed(&response);
                // Outbound and gateway hand on the callee's id; here it is the proxy's own.
                if self.direction == Direction::Inbound {
                    problem::set_decision(response.headers_mut(), self.text.as_str());
                }
                response
            }
            Err(refused) => self.refused(&refused),
        };
        let elapsed = self.spent();
        let status = response.status().as_u16();
        self.worker.metrics.request(self.direction, self.protocol, status, series, elapsed);
        self.count_removed();
        if let Some(lasting) = response.body_mut().lasting() {
            lasting.keep(self);
        }
        response
    }

    /// Whether its rule asks for a record of its end, however short it was.
    pub fn is_full(&self) -> bool {
        self.decision.as_ref().is_some_and(|decision| decision.audit == AuditLevel::Full)
    }

    /// Notes that what was allowed no longer is, before there was an answer.
    pub fn overruled(&mut self, reason: EndReason, decision: Option<Decision>) {
        if self.recorded {
            let mut record = self.record(RecordKind::Ended, None, None);
            end_record(&mut record, Some(reason), decision.as_ref());
            self.worker.audit.record(record);
        }
        if let Some(decision) = decision {
            self.decision = Some(decision);
        }
    }

    /// Writes the record of the end of a long exchange: `reason` if it had to end.
    pub fn ended(
        &self,
        reason: Option<EndReason>,
        decision: Option<Decision>,
        grpc: Option<u16>,
        (bytes_in, bytes_out): (u64, u64),
    ) {
        let mut record = self.record(RecordKind::Ended, None, None);
        record.response = ResponseFacts {
            grpc,
            bytes_in: Some(bytes_in),
            bytes_out: Some(bytes_out),
            status: None,
        };
        end_record(&mut record, reason, decision.as_ref());
        self.worker.audit.record(record);
        if let Some(reason) = reason {
            tracing::info!(
                reason = reason.text(),
                detail = reason.detail(),
                decision = %self.text.as_str(),
                rule = decision.and_then(|d| d.rule).map(tracing::field::display),
                "ended"
            );
        }
    }

    /// Closes the account of a head that was refused before it became a request. The connection's
    /// guard has answered already.
    pub fn refuse_head(mut self: Box<Self>, error: HeadError) {
        self.closed = true;
        self.answered = Some(error.status().0);
        let refusal = match error {
            HeadError::HeadTimeout => Refusal::RequestTimeout,
            HeadError::TargetTooLong => Refusal::UriTooLong,
            HeadError::HeaderValueTooLarge
            | HeadError::HeadTooLarge
            | HeadError::TooManyHeaders
            | HeadError::TrailersTooLarge => Refusal::HeaderTooLarge,
            _ => Refusal::RequestMalformed,
        };
        let refused =
            Refused::new(refusal, Stage::Accept, error.to_string()).with_sub(error.reason());
        let _ = self.refused(&refused);
    }

    fn allowed(&mut self, response: &Response<ProxyBody>) {
        let kind = match self.direction {
            Direction::Gateway | Direction::Inbound if self.minted => Some(RecordKind::Issue),
            Direction::Inbound => Some(RecordKind::Decision),
            // Outbound decides nothing of its own: the callee's record is the decision.
            Direction::Gateway | Direction::Outbound => None,
        };
        let status = response.status().as_u16();
        // What a service issued is recorded also where its request was recorded before.
        let issued = self.minted && self.direction == Direction::Inbound;
        if let Some(kind) = kind
            && (issued || !self.recorded)
        {
            let record = self.record(kind, Some(status), None);
            self.keep(record);
        }
        self.remember(Verdict::Allow, Some(status), None);
    }

    fn refused(&mut self, refused: &Refused) -> Response<ProxyBody> {
        let row = refused.refusal.row();
        self.worker.metrics.refusal(self.direction, row.reason);
        let gone = refused.refusal == Refusal::ClientGone;
        let decided = self.decision.is_some() && (gone || refused.stage == Stage::Decide);
        let kind = match (self.direction, decided) {
            _ if gone && self.minted => RecordKind::Issue,
            (_, true) => RecordKind::Decision,
            (_, false) => RecordKind::Refusal,
        };
        if !self.recorded {
            let status = (!gone).then_some(self.answered.unwrap_or(row.http));
            let record = self.record(kind, status, Some(refused));
            self.keep(record);
        }
        tracing::info!(
            reason = %refused.reason(),
            direction = self.direction.text(),
            stage = refused.stage.name(),
            decision = %self.text.as_str(),
            rule = self.decision.as_ref().and_then(|d| d.rule.as_ref()).map(tracing::field::display),
            "refused"
        );
        self.remember(Verdict::Deny, Some(row.http), Some(refused));
        if let Some(mut answer) = self.own_answer.take() {
            problem::set_decision(answer.headers_mut(), self.text.as_str());
            return *answer;
        }
        let message = self.decision.as_ref().and_then(|decision| decision.message.clone());
        let audience = match &self.peer {
            Some(Peer::Mesh(_)) => Audience::Mesh(message.as_deref()),
            Some(Peer::None(_)) | None => {
                refused.told.as_deref().map_or(Audience::Outside, Audience::Told)
            }
        };
        let grpc = self.protocol == Protocol::Grpc;
        let mut response = problem::response(refused.refusal, self.text.as_str(), grpc, audience);
        problem::add(response.headers_mut(), &refused.answer);
        response
    }

    /// Hands the record over, into the room that was promised if there was a promise.
    fn keep(&mut self, record: Record) {
        match self.room.take() {
            Some(room) => room.record(record),
            None => self.worker.audit.record(record),
        }
    }

    fn record(&self, kind: RecordKind, status: Option<u16>, refused: Option<&Refused>) -> Record {
        let rule = self.decision.as_ref().and_then(|decision| decision.rule.as_ref());
        let total_us = Now::read().micros().saturating_sub(self.started.micros());
        // A client that went away takes nothing back: what was allowed had been allowed.
        let gone = refused.is_some_and(|refused| refused.refusal == Refusal::ClientGone);
        let allowed = self.minted || self.decision.as_ref().is_some_and(Decision::is_allow);
        let verdict = match refused {
            Some(_) if !(gone && allowed) => Verdict::Deny,
            Some(_) | None => Verdict::Allow,
        };
        Record {
            id: Some(self.id),
            direction: Some(self.direction),
            verdict: Some(verdict),
            reason: refused.map(reason),
            stage: refused.map(|refused| refused.stage.name()),
            rule: rule.cloned(),
            decided: refused.and(self.decided.clone()),
            snapshot: Some(Arc::clone(&self.snap.hash)),
            peer: self.peer.as_ref().map(audit_peer),
            callee: self.callee.clone(),
            context: self.audit_context(),
            path: self.path_of_context.clone(),
            request: Some(self.request_facts()),
            response: ResponseFacts { status, ..ResponseFacts::default() },
            timing: Timing { total_us, ..Timing::default() },
            lookup: self.lookup,
            ..Record::new(kind, self.started)
        }
    }

    fn audit_context(&self) -> Option<AuditContext> {
        if let Some(verified) = self.context.as_ref().filter(|_| !self.minted) {
            return Some(AuditContext::Verified(Arc::clone(verified)));
        }
        let mut fields = match (&self.fields, &self.txn) {
            (None, None) => return None,
            (fields, _) => fields.clone().unwrap_or_default(),
        };
        if fields.txn.is_none() {
            Arc::make_mut(&mut fields).txn = self.txn.clone().map(Text::Shared);
        }
        (*fields != ContextFields::default()).then_some(AuditContext::Fields(fields))
    }

    fn request_facts(&self) -> RequestFacts {
        let decision = self.decision.as_ref();
        let route = decision.and_then(|decision| decision.route.clone());
        // A path can name a person, so it is recorded only where a rule demands everything.
        let full = decision.is_some_and(|decision| decision.audit == AuditLevel::Full);
        let path = self.path.as_ref().filter(|_| full);
        RequestFacts {
            protocol: self.protocol.text(),
            method: Some(self.method.clone()),
            host: self.host.as_ref().map_or(Text::Static(""), Text::from),
            route: route.map(Text::Shared),
            path: path.map(|path| path.path().to_owned().into()),
            port: self.port,
        }
    }

    fn count_removed(&self) {
        let [headers, responses] = self.removed;
        self.worker.metrics.reserved_removed(self.direction, RemovedFrom::Header, headers as u64);
        self.worker.metrics.reserved_removed(
            self.direction,
            RemovedFrom::Response,
            responses as u64,
        );
    }

    /// Puts the exchange into the ring: refusals always, permitted requests as sampled.
    fn remember(&mut self, verdict: Verdict, status: Option<u16>, refused: Option<&Refused>) {
        let carried = || Some(Arc::new(Carried(self.lookup?)) as Arc<dyn Explain>);
        let explain = explain(self.decided.take(), refused, self.direction).or_else(carried);
        let Some(explain) = explain else { return };
        self.worker.shared.why.push(WhyEntry {
            id: self.id,
            at: self.started,
            direction: self.direction,
            verdict,
            status,
            reason: refused.map(reason),
            rule: self.decision.as_ref().and_then(|d| d.rule.as_ref()).map(ToString::to_string),
            caller: caller(self.peer.as_ref()),
            method: Some(self.method.clone()),
            host: self.host.as_deref().unwrap_or_default().to_owned(),
            route: self.decision.as_ref().and_then(|decision| decision.route.clone()),
            path: self.path.as_ref().map(|path| path.path().to_owned()),
            txn: match &self.context {
                Some(context) => Some(context.txn.clone()),
                None => self.txn.as_ref().map(ToString::to_string),
            },
            explain,
        });
    }
}

/// What the record of an end says beyond that of its beginning.
fn end_record(record: &mut Record, reason: Option<EndReason>, decision: Option<&Decision>) {
    let Some(reason) = reason else { return };
    record.verdict = Some(Verdict::Deny);
    record.reason = Some(Reason { code: reason.text(), detail: reason.detail() });
    if let Some(decision) = decision {
        record.rule.clone_from(&decision.rule);
    }
}

/// What `why` can tell: what policy decided on, else the refusal; nothing of what was let through
/// and not sampled.
fn explain(
    decided: Option<Arc<DecidedInput>>,
    refused: Option<&Refused>,
    direction: Direction,
) -> Option<Arc<dyn Explain>> {
    if let Some(decided) = decided {
        return Some(decided);
    }
    let refused = refused?;
    Some(Arc::new(StageRefusal {
        direction,
        stage: refused.stage.name(),
        reason: refused.refusal.row().reason,
        means: refused.refusal.row().when,
        seen: Some(refused.detail.clone()),
    }))
}

/// Who called, as `why` names them: an identity, or why there is none.
fn caller(peer: Option<&Peer>) -> Result<WorkloadId, &'static str> {
    match peer {
        Some(Peer::Mesh(peer)) => Ok(peer.id().clone()),
        Some(Peer::None(why)) => Err(why.reason()),
        None => Err("app"),
    }
}

fn reason(refused: &Refused) -> Reason {
    Reason { code: refused.refusal.row().reason, detail: refused.sub }
}

fn audit_peer(peer: &Peer) -> audit::Peer {
    match peer {
        Peer::Mesh(peer) => {
            audit::Peer::Mesh { id: peer.id().clone(), leaf_sha256: Some(peer.leaf_sha256()) }
        }
        Peer::None(why) => audit::Peer::None(why.reason()),
    }
}
