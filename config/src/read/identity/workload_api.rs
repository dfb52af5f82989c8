//! `identity.source.workloadApi`.

use std::path::PathBuf;

use countersign_policy::yaml::{Fields, Node, read};

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
        let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:"));
        let path = path.unwrap_or(&text);
        if path.is_empty() || path.contains("://") {
            let message = format!(
                "`{text}` is not a Unix socket; the Workload API is not read over the network"
            );
            self.error(node.span, message, "write a path or `unix:///run/spire/agent.sock`");
            return None;
        }
        let socket = if from_environment { PathBuf::from(path) } else { self.base.join(path) };
        Some(IdentitySource::WorkloadApi { socket })
    }
}
