//! The one table of every way this proxy says no.
//!
//! A refusal has a stable reason (metric label, audit field, `countersign why`), an HTTP status, a
//! gRPC status and a coarse title for the caller. The fine reason never goes on the wire: it is in
//! the audit record and in `why`. Every `VerifyError` of `ctxtoken` maps into this table.
//! Sources: `docs/refusals.md` is generated from here; RFC 9457 (problem details), RFC 9110 §15.

use countersign_ctxtoken::VerifyError;
use http::{HeaderName, HeaderValue};

/// The faces of one refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Stable name: metric label, audit `reason`, key of `docs/refusals.md`.
    pub reason: &'static str,
    /// HTTP status code.
    pub http: u16,
    /// gRPC status code.
    pub grpc: u8,
    /// Coarse class told to the caller.
    pub title: &'static str,
    /// When it happens, for the generated reference.
    pub when: &'static str,
    /// Which direction can produce it.
    pub by: &'static str,
}

macro_rules! refusals {
    ($($variant:ident => $reason:literal, $http:literal, $grpc:literal, $title:literal, $by:literal, $when:literal;)*) => {
        /// A way to say no. Closed: a new one must be given its row here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Refusal {
            $(#[doc = $when] $variant,)*
        }

        impl Refusal {
            /// Every refusal, in table order.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$variant,)*];

            /// The faces of this refusal.
            pub const fn row(self) -> Row {
                match self {
                    $(Refusal::$variant => Row {
                        reason: $reason, http: $http, grpc: $grpc, title: $title, when: $when, by: $by,
                    },)*
                }
            }
        }
    };
}

refusals! {
    AppFailed => "app_failed", 502, 14, "upstream_failed", "inbound", "The app closed the connection or answered something that is not HTTP.";
    AppNotListening => "app_not_listening", 503, 14, "unavailable", "inbound", "Nothing accepted a connection at the app's address in time.";
    AppTimeout => "app_timeout", 504, 4, "timeout", "inbound", "The app sent no response head in time.";
    AudienceWrong => "audience_wrong", 401, 16, "invalid_token", "inbound", "The token is for another trust domain.";
    AuditUnavailable => "audit_unavailable", 503, 14, "unavailable", "all", "The audit queue is full and the mesh demands a record (`onFull: refuse`).";
    BodyTooLarge => "body_too_large", 413, 8, "too_large", "gateway, inbound", "The body is longer than the limit, as declared or as it came.";
    CallerTokenExpired => "caller_token_expired", 401, 16, "expired_token", "gateway", "The token of a workload outside the mesh ended.";
    CallerTokenInvalid => "caller_token_invalid", 401, 16, "invalid_token", "gateway", "The service account token or JWT-SVID of a workload outside the mesh does not verify, or may not call here.";
    CallerUnverifiable => "caller_unverifiable", 503, 14, "unavailable", "gateway", "Whoever can tell whether a workload's token counts does not answer: the API server, or the keys are missing.";
    ClaimInvalid => "claim_invalid", 401, 16, "invalid_token", "inbound", "A claim is missing, of the wrong type or out of bounds.";
    ClientAddressInvalid => "client_address_invalid", 400, 3, "bad_request", "gateway", "The forwarded client address from a trusted proxy cannot be read.";
    ClientGone => "client_gone", 499, 1, "cancelled", "all", "The client went away before the answer; what had been done by then is in the record.";
    ConnectUnsupported => "connect_unsupported", 405, 12, "unsupported", "all", "The port does not allow CONNECT.";
    ConstraintViolated => "constraint_violated", 401, 16, "invalid_token", "inbound", "The issuer said something its allow-list entry does not permit.";
    ContextTooLarge => "context_too_large", 500, 13, "internal", "all", "The token or the verified headers would be larger than their limit.";
    CustodyBroken => "custody_broken", 401, 16, "invalid_token", "inbound", "The peer is not a workload this token was handed to.";
    DestinationUnknown => "destination_unknown", 404, 12, "unknown_destination", "outbound", "No Destination document knows the host the app called.";
    DeviceRefused => "device_refused", 403, 7, "denied", "gateway", "Whoever knows the client's device says that it may not be used, or a Revocation names it.";
    HeaderForbidden => "header_forbidden", 400, 3, "bad_request", "all", "`Connection` names one of our reserved headers.";
    HeaderTooLarge => "header_too_large", 431, 8, "too_large", "all", "A header or trailer field, or all of them together, is larger than its limit.";
    HopsCertMissed => "hops_cert_missed", 503, 14, "unavailable", "outbound", "The callee's proxy lacks the certificate of an earlier holder, and the request could not be sent again with it: the next call brings it.";
    HopsCertUnknown => "hops_cert_unknown", 401, 16, "unknown_certificate", "inbound", "The certificate of an earlier holder is not known here. The peer's proxy sends the request again with it.";
    HopsMalformed => "hops_malformed", 400, 3, "bad_request", "inbound", "The records of earlier holders, or their certificates, are not in the form of our profile.";
    HopsTooLarge => "hops_too_large", 431, 8, "too_large", "inbound", "The records of earlier holders, or their certificates, are longer than the limit.";
    HopsTooMany => "hops_too_many", 508, 8, "loop", "outbound", "The context was handed on eight times, which usually is a loop.";
    HostInvalid => "host_invalid", 400, 3, "bad_request", "all", "The host is missing, repeated, malformed or differs from `:authority`.";
    IdentityUnavailable => "identity_unavailable", 503, 14, "unavailable", "outbound, gateway", "This proxy has no valid certificate of its own.";
    IssuerNotAllowed => "issuer_not_allowed", 401, 16, "invalid_token", "inbound", "The signer is not in the mesh's issuer allow-list.";
    JustificationInvalid => "justification_invalid", 400, 3, "bad_request", "gateway", "The justification header does not fit a configured kind.";
    JustificationRefused => "justification_refused", 403, 7, "denied", "gateway", "The validator of the justification does not accept it. The caller is told the validator's own code.";
    KeyUnknown => "key_unknown", 401, 16, "invalid_token", "inbound", "The signing key or certificate is not one the issuer may use.";
    KeysUnavailable => "keys_unavailable", 503, 14, "unavailable", "inbound", "A listed issuer has no usable key set. Comes later, with fetched key sets: one from a file is checked at load.";
    LoopDetected => "loop_detected", 508, 8, "loop", "outbound", "The call would reach one of this proxy's own listeners.";
    MintRuleMissing => "mint_rule_missing", 403, 7, "denied", "gateway", "No mint rule covers this request, so no context is made for it.";
    Overloaded => "overloaded", 503, 14, "overloaded", "all", "Too many requests are in flight.";
    ParameterMismatch => "parameter_mismatch", 403, 7, "policy_denied", "inbound", "A parameter that was signed at the edge is not the one of this request.";
    PathNotCanonical => "path_not_canonical", 400, 3, "bad_request", "all", "The request target has more than one reading.";
    PeerUnauthenticated => "peer_unauthenticated", 403, 7, "denied", "inbound", "The caller speaks plaintext and no rule admits unauthenticated callers.";
    PolicyDenied => "policy_denied", 403, 7, "denied", "inbound", "No rule allows the request, or a deny rule forbids it.";
    PresenterRefused => "presenter_refused", 403, 7, "denied", "inbound", "This peer may not present a context token here.";
    ProtocolMismatch => "protocol_mismatch", 400, 3, "bad_request", "inbound, outbound", "The bytes, or the protocol agreed on in TLS, contradict what is declared for the port.";
    RateLimited => "rate_limited", 429, 8, "rate_limited", "inbound, gateway", "The peer presented too many bad tokens, or one client has too many requests open behind a trusted proxy.";
    RequestMalformed => "request_malformed", 400, 3, "bad_request", "all", "The request breaks HTTP's grammar or framing rules.";
    RequestTimeout => "request_timeout", 408, 4, "timeout", "all", "The request head, or the rest of its body, did not arrive in time.";
    RouteUnknown => "route_unknown", 404, 12, "not_found", "gateway, inbound", "No route covers this host and path, or the service of this process does not serve it.";
    ServerIdentityUnexpected => "server_identity_unexpected", 502, 14, "upstream_failed", "outbound, gateway", "The server answered with an identity other than the destination's.";
    SignatureInvalid => "signature_invalid", 401, 16, "invalid_token", "inbound", "The token's signature does not verify.";
    TokenDuplicated => "token_duplicated", 400, 3, "bad_request", "inbound", "More than one context token was presented.";
    TokenExpired => "token_expired", 401, 16, "expired_token", "inbound", "The token ended.";
    TokenMalformed => "token_malformed", 400, 3, "bad_request", "inbound", "The token is not a compact JWS of our profile.";
    TokenMissing => "token_missing", 401, 16, "missing_token", "inbound", "A rule that would allow needs a context and none came.";
    TokenReplayed => "token_replayed", 401, 16, "invalid_token", "inbound", "The route takes a token once, and this one was used.";
    TokenRequestRefused => "token_request_refused", 400, 3, "bad_request", "inbound", "The token service does not grant what a workload asked for; the record says which of its rules.";
    TokenRevoked => "token_revoked", 401, 16, "invalid_token", "inbound", "A Revocation names the token's user, device, transaction or signing key.";
    TokenTooLarge => "token_too_large", 431, 8, "too_large", "inbound", "The token is longer than the limit.";
    Undetectable => "undetectable", 403, 7, "denied", "inbound", "The connection shows no request, and a rule for the port looks into requests.";
    UpgradeUnsupported => "upgrade_unsupported", 501, 12, "unsupported", "all", "The port does not allow an upgrade to this protocol.";
    UpstreamFailed => "upstream_failed", 502, 14, "upstream_failed", "outbound, gateway", "The connection to the destination failed before a response.";
    UpstreamTimeout => "upstream_timeout", 504, 4, "timeout", "outbound, gateway", "The destination sent no response head in time.";
    UpstreamUnreachable => "upstream_unreachable", 503, 14, "unavailable", "outbound, gateway", "No endpoint of the destination could be connected to.";
    UriTooLong => "uri_too_long", 414, 8, "too_large", "all", "The request target is longer than the limit.";
    UserClaimInvalid => "user_claim_invalid", 401, 16, "invalid_token", "gateway", "A declared claim of the end user's token is missing or of the wrong type.";
    UserKeysUnavailable => "user_keys_unavailable", 503, 14, "unavailable", "gateway", "The identity provider's keys are not loaded or too old.";
    UserProofInvalid => "user_proof_invalid", 401, 16, "invalid_token", "gateway", "The end user's token is bound to its sender, and nothing shows that this request is the sender's (DPoP proof, client certificate), or it is not bound as its provider's document demands.";
    UserTokenExpired => "user_token_expired", 401, 16, "expired_token", "gateway", "The end user's bearer token ended.";
    UserTokenInvalid => "user_token_invalid", 401, 16, "invalid_token", "gateway", "The end user's bearer token does not verify.";
    UserTokenMalformed => "user_token_malformed", 400, 3, "bad_request", "gateway", "The Authorization header is not one bearer token.";
    UserTokenMissing => "user_token_missing", 401, 16, "missing_token", "gateway", "The route needs a user and the request has no bearer token.";
    UserTokenRevoked => "user_token_revoked", 401, 16, "invalid_token", "gateway", "A Revocation names the user, and the bearer token is older than it allows.";
    ValidatorUnavailable => "validator_unavailable", 503, 14, "unavailable", "gateway, inbound", "Whoever checks a justification or a device, or knows the user's groups, gives no answer, and the document says that this refuses.";
}

/// Reasons the design names whose features come later; listed in the reference, produced nowhere.
pub const LATER: &[(&str, &str)] = &[];

/// The file of the pipeline that refused. Its name is the audit field `stage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Connection and message level.
    Accept,
    /// Gateway: client address, justification.
    Capture,
    /// Gateway: end user.
    Identify,
    /// Gateway: context token.
    Mint,
    /// Token verification, or finding the context of an onward call.
    Context,
    /// Finding the destination.
    Discover,
    /// Policy.
    Decide,
    /// Headers for the app.
    Enrich,
    /// The mTLS connection to the callee.
    Encrypt,
    /// The exchange with the app or callee.
    Forward,
}

impl Stage {
    /// The stage's file name.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Accept => "accept",
            Stage::Capture => "capture",
            Stage::Identify => "identify",
            Stage::Mint => "mint",
            Stage::Context => "context",
            Stage::Discover => "discover",
            Stage::Decide => "decide",
            Stage::Enrich => "enrich",
            Stage::Encrypt => "encrypt",
            Stage::Forward => "forward",
        }
    }
}

/// A refusal that happened: which, where, and what was seen (never a secret).
#[derive(Clone, Debug)]
pub struct Refused {
    /// Which refusal.
    pub refusal: Refusal,
    /// The stage that said no.
    pub stage: Stage,
    /// Sub-reason for audit and metrics, such as `no_match`.
    pub sub: Option<&'static str>,
    /// What was seen, for operators; never the secret itself.
    pub detail: String,
    /// Fields of the answer, beside those every refusal has.
    pub answer: Vec<(HeaderName, HeaderValue)>,
    /// A word for the caller, of whoever was asked about the request.
    pub told: Option<Box<str>>,
}

impl Refused {
    /// A refusal with what was seen.
    pub fn new(refusal: Refusal, stage: Stage, detail: impl Into<String>) -> Refused {
        let (detail, answer) = (detail.into(), Vec::new());
        Refused { refusal, stage, sub: None, detail, answer, told: None }
    }

    /// Adds a word for the caller.
    #[must_use]
    pub fn telling(mut self, word: Option<String>) -> Refused {
        self.told = word.map(String::into_boxed_str);
        self
    }

    /// Adds the sub-reason.
    #[must_use]
    pub fn with_sub(mut self, sub: &'static str) -> Refused {
        self.sub = Some(sub);
        self
    }

    /// Adds a field to the answer. The first of a name takes the place of what every refusal has.
    #[must_use]
    pub fn answering(mut self, name: HeaderName, value: HeaderValue) -> Refused {
        self.answer.push((name, value));
        self
    }

    /// `reason` or `reason/sub`, as audit and `why` print it.
    pub fn reason(&self) -> String {
        match self.sub {
            Some(sub) => format!("{}/{sub}", self.refusal.row().reason),
            None => self.refusal.row().reason.to_owned(),
        }
    }
}

/// Which refusal a verification error is. Exhaustive by name, so a new error visits this table.
pub fn of_verify_error(error: &VerifyError) -> Refusal {
    let reason = error.reason();
    Refusal::ALL
        .iter()
        .copied()
        .find(|refusal| refusal.row().reason == reason)
        .unwrap_or(Refusal::ClaimInvalid)
}

/// `docs/refusals.md`.
pub fn render_docs() -> String {
    use std::fmt::Write as _;
    let mut out = String::from(
        "# Refusals\n\nGenerated from `proxy/src/refusal.rs` by `cargo xtask docs`; do not edit.\n\n\
         A caller gets the HTTP or gRPC status, the coarse title and `Countersign-Decision: <id>`. The \
         reason is in the audit record, in `countersign_refusals_total{reason}` and in `countersign why <id>`.\n\n\
         | reason | HTTP | gRPC | title | by | when |\n|---|---|---|---|---|---|\n",
    );
    for refusal in Refusal::ALL {
        let row = refusal.row();
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | `{}` | {} | {} |",
            row.reason, row.http, row.grpc, row.title, row.by, row.when
        );
    }
    if LATER.is_empty() {
        return out;
    }
    out.push_str(
        "\n## Named by the design, not produced yet\n\n| reason | comes with |\n|---|---|\n",
    );
    for (reason, with) in LATER {
        let _ = writeln!(out, "| `{reason}` | {with} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_unique_and_sorted() {
        let reasons: Vec<_> = Refusal::ALL.iter().map(|r| r.row().reason).collect();
        let mut sorted = reasons.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(reasons, sorted);
    }

    #[test]
    fn statuses_follow_the_http_to_grpc_table() {
        for refusal in Refusal::ALL {
            let row = refusal.row();
            let expected: &[u8] = match row.http {
                400 => &[3],
                401 => &[16],
                403 => &[7],
                404 | 405 | 501 => &[12],
                408 | 504 => &[4],
                499 => &[1],
                413 | 414 | 429 | 431 | 508 => &[8],
                500 => &[13],
                502 | 503 => &[14],
                other => panic!("{}: status {other} is not in the table", row.reason),
            };
            assert!(expected.contains(&row.grpc), "{}", row.reason);
        }
    }
}
