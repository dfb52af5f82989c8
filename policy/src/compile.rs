//! From documents to an index that answers requests.

use crate::{
    decision::Decision,
    doc::Documents,
    input::{Input, InputOwned, Workload},
};

/// The rules of one workload, ready to decide.
#[derive(Debug)]
pub struct Compiled {}

/// Selects and indexes the inbound rules of a workload.
pub fn compile(documents: &Documents, workload: &Workload) -> Compiled {
    let _ = (documents, workload);
    Compiled {}
}

impl Compiled {
    /// Decides on one request.
    pub fn decide(&self, input: &Input<'_>) -> Decision {
        let _ = input;
        Decision {
            outcome: crate::Outcome::Deny(crate::DenyReason::NoMatch),
            rule: None,
            valid_until: None,
            audit: crate::doc::AuditLevel::Normal,
            message: None,
            context: crate::doc::ContextNeed::Required,
            resource: None,
            route: None,
        }
    }

    /// A copy of an input that can be explained later, with the headers the rules name.
    pub fn keep(&self, input: &Input<'_>) -> InputOwned {
        InputOwned::from(input).with_headers(std::iter::empty(), input.request.headers)
    }
}

impl Compiled {
    /// Why [`Compiled::decide`] answers as it does.
    pub fn explain(&self, input: &Input<'_>) -> crate::Explanation {
        let _ = (self, input);
        crate::Explanation {
            decision: "deny",
            reason: Some("no_match"),
            rule: None,
            atoms_short: None,
            message: None,
            resource: None,
            owner: None,
            rules: Vec::new(),
        }
    }
}
