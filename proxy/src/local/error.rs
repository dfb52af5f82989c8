//! Every way the local API says no: a name, what it says, and what to do about it.
//!
//! Invariant: an answer holds nothing secret, neither a token nor what was sent.

use http::StatusCode;
use serde_json::{Value, json};

/// Why a call of the app was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalError {
    /// Which rule refused it.
    pub why: Why,
    /// What was seen.
    pub detail: String,
    /// `error` of the token service, where it refused.
    pub service_error: Option<String>,
    /// The decision that refused the call to the token service.
    pub decision: Option<String>,
}

macro_rules! reasons {
    ($($variant:ident => $status:literal, $reason:literal, $hint:literal;)*) => {
        /// Which rule refuses a call. Closed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Why {
            $(#[doc = $hint] $variant,)*
        }

        impl Why {
            /// Every one.
            pub const ALL: &'static [Why] = &[$(Why::$variant,)*];

            /// The name in answers and metrics.
            pub const fn reason(self) -> &'static str {
                match self { $(Why::$variant => $reason,)* }
            }

            const fn status(self) -> u16 {
                match self { $(Why::$variant => $status,)* }
            }

            /// What to do.
            pub const fn hint(self) -> &'static str {
                match self { $(Why::$variant => $hint,)* }
            }
        }
    };
}

reasons! {
    NoSuchCall => 404, "no_such_call", "POST to /v1/defer, /v1/resume, /v1/begin or /v1/end";
    NotPost => 405, "method_not_allowed", "every call of the local API is a POST";
    HeaderMissing => 403, "local_header_missing", "send `Countersign-Local: 1`, once";
    HostForeign => 403, "host_not_loopback", "send a loopback address or `localhost` as `Host`";
    NotJson => 415, "not_json", "send `Content-Type: application/json`";
    TooLarge => 413, "body_too_large", "a request to the local API has at most 16 KiB";
    TooSlow => 408, "request_timeout", "send the body at once";
    Malformed => 400, "request_malformed", "docs/context/async.md shows each call with its members";
    ContextUnknown => 409, "context_unknown", "send the handle of a request that is open, or of begin or resume, as `Countersign-Context`, before its token ends";
    ContextNotHeld => 409, "context_not_held", "this workload was not handed the context in a way that lets it pass the context on";
    ContextRevoked => 403, "context_revoked", "the user, device or transaction was revoked";
    ServiceMissing => 501, "token_service_missing", "name a Destination in MeshConfig `context.tokenService`";
    ServiceUnreachable => 503, "token_service_unreachable", "look at the decision with `countersign why`";
    ServiceRefused => 403, "token_service_refused", "the token service's record of the decision says why";
    ServiceBusy => 429, "token_service_busy", "wait a second; `requesters` has the rate";
    ServiceAnswer => 502, "token_service_answer", "the token service answered something that is no token for this workload";
    Crowded => 503, "too_many_contexts", "end contexts with /v1/end when their work is done";
}

impl Why {
    /// A refusal for this reason.
    pub fn error(self, detail: impl Into<String>) -> LocalError {
        LocalError { why: self, detail: detail.into(), service_error: None, decision: None }
    }
}

impl LocalError {
    /// With the decision that says more.
    #[must_use]
    pub fn decided(mut self, id: &str) -> LocalError {
        self.decision = Some(id.to_owned());
        self
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.why.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Its body.
    pub fn body(&self) -> Value {
        let mut body = json!({
            "error": self.why.reason(), "detail": self.detail, "hint": self.why.hint(),
        });
        if let Some(error) = &self.service_error {
            body["service_error"] = json!(error);
        }
        if let Some(decision) = &self.decision {
            body["decision"] = json!(decision);
        }
        body
    }
}
