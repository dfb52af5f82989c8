//! Before anything is deployed: does the role sign the one name of its workload, and no other?
//!
//! A role with a glob is the whole mesh to whoever gets at one of its pods. The role is read with
//! the workload's own login, so a login that may not read it is a finding too, and no more.

use countersign_config::identity::VaultSource;
use countersign_workload_id::WorkloadId;
use serde::Deserialize;

use super::{
    server::{Call, Server},
    tokens::Tokens,
};
use crate::source::renewing::IssueError;

/// Something at the server that should be otherwise.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// What of a role matters here.
#[derive(Debug, Deserialize)]
pub(super) struct Role {
    #[serde(default)]
    allowed_uri_sans: Vec<String>,
    #[serde(default)]
    key_type: String,
    #[serde(default)]
    require_cn: bool,
}

/// Logs in as the workload `id` would, and reads the role that signs for it.
///
/// # Errors
/// When the server cannot be asked, or refuses the login.
pub async fn review(source: &VaultSource, id: &WorkloadId) -> Result<Vec<Finding>, IssueError> {
    let server = Server::new(source.clone())
        .map_err(|problem| IssueError::retry("start", problem.to_owned()))?;
    let token = Tokens::new(&server).get().await?;
    let role = format!("{}/roles/{}", source.mount, source.role);
    let token = Some(token.text.as_str());
    let call = Call { name: "read the role", path: &role, token, body: None };
    let answer = server.ask(&call).await?;
    match answer.status {
        200 => {
            let found = answer.role().map_err(|unusable| call.unusable(unusable))?;
            Ok(found.findings(&role, id))
        }
        403 => Ok(vec![Finding {
            message: format!("nobody could say whether `{role}` signs other names than {id}"),
            hint: format!("let the login read it: path \"{role}\" {{ capabilities = [\"read\"] }}"),
        }]),
        404 => Ok(vec![Finding {
            message: format!("there is no role `{role}`"),
            hint: "create it as in docs/identity/vault.md".to_owned(),
        }]),
        _ => Err(call.refused(&answer, &[], |_, _| None)),
    }
}

impl Role {
    pub(super) fn findings(&self, role: &str, id: &WorkloadId) -> Vec<Finding> {
        let only = format!("write allowed_uri_sans={id} at `{role}`, and nothing else");
        let mut findings = Vec::new();
        let mut add = |message: String, hint: &str| {
            findings.push(Finding { message, hint: hint.to_owned() });
        };
        for name in &self.allowed_uri_sans {
            if name.contains('*') {
                let message = format!(
                    "`{role}` signs every name like `{name}`: one compromised workload can take \
                     any of them"
                );
                add(message, &only);
            } else if name != id.as_str() && !name.contains("{{") {
                add(format!("`{role}` signs `{name}` too"), &only);
            }
        }
        let signs_ours = self
            .allowed_uri_sans
            .iter()
            .any(|name| name == id.as_str() || name.contains('*') || name.contains("{{"));
        if !signs_ours {
            add(format!("`{role}` does not sign {id}"), &only);
        }
        if !["ec", "any"].contains(&self.key_type.as_str()) {
            let message = format!("`{role}` wants keys of type {}", self.key_type);
            add(message, "set key_type=ec key_bits=256");
        }
        if self.require_cn {
            add(format!("`{role}` wants a common name"), "set require_cn=false");
        }
        findings
    }
}
