//! How the context of the app's own call was found, or why none went with it.

use serde_json::json;

use crate::admin::{Explain, Explained};
use crate::audit::Personal;
use crate::telemetry::Lookup;

/// What `why` tells of a call that was let through.
pub struct Carried(pub Lookup);

impl Carried {
    fn means(&self) -> &'static str {
        match self.0 {
            Lookup::Handle => "by the handle (Countersign-Context) that the app forwarded",
            Lookup::Traceparent => "by the trace id of an open request of this pod",
            Lookup::Token => "by the token that the app forwarded",
            Lookup::None => {
                "none: the call names no open request of this pod, by handle, token or trace id"
            }
            Lookup::UnknownHandle => {
                "none: the handle is unknown, its request has ended, or it was sent twice"
            }
            Lookup::UnknownToken => {
                "none: no open request of this pod brought the token that the app sent"
            }
            Lookup::Ambiguous => {
                "none: several requests with different contexts have this trace id or token"
            }
            Lookup::Mismatch => {
                "none: handle, token and trace id belong to requests with different contexts"
            }
        }
    }
}

impl Explain for Carried {
    fn explain(&self, _personal: &Personal) -> Explained {
        let (result, means) = (self.0.text(), self.means());
        let text = format!("   context  {means}\n");
        Explained { json: json!({"context": result, "means": means}), text }
    }

    fn bytes(&self) -> usize {
        64
    }
}
