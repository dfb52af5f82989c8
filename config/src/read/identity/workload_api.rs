//! `identity.source.workloadApi`.

use countersign_policy::yaml::{Fields, Node, read};

use crate::endpoint::WorkloadApiEndpoint;
use crate::identity::IdentitySource;
use crate::read::Reader;

impl Reader<'_, '_> {
    pub(super) fn workload_api(&mut self, node: &Node) -> Option<IdentitySource> {
        let mut fields = Fields::of(node, "`workloadApi`", self.findings)?;
        let socket = fields.optional("socket");
        self.finish(fields);
        let (text, from_environment) = match socket {
            Some(node) => (read::short_string(node, 4096, self.findings)?, false),
            None => match self.default_socket {
                Some(text) => (text.to_owned(), true),
                None => {
                    let message = "no socket is named and SPIFFE_ENDPOINT_SOCKET is not set";
                    self.error(node.span, message, "write `socket: PATH` or set the variable");
                    return None;
                }
            },
        };
        // A plain path is as good as a URL, relative to the file that says it.
        let is_url = from_environment || text.contains("://") || text.starts_with("unix:");
        if !is_url && !text.is_empty() {
            let endpoint = WorkloadApiEndpoint::Unix(self.base.join(text));
            return Some(IdentitySource::WorkloadApi { endpoint });
        }
        match text.parse() {
            Ok(endpoint) => Some(IdentitySource::WorkloadApi { endpoint }),
            Err(error) => {
                let from = if from_environment { "SPIFFE_ENDPOINT_SOCKET: " } else { "" };
                let hint = "as in `unix:///run/spire/agent.sock` or `tcp://127.0.0.1:8081`";
                self.error(node.span, format!("{from}{error}"), hint);
                None
            }
        }
    }
}
