//! `spec.identity`: who this process is, and which source says so. One file per source.

mod files;
mod workload_api;

use countersign_policy::yaml::{Fields, Node, read};
use countersign_workload_id::WorkloadId;

use super::Reader;
use crate::identity::IdentitySource;

impl Reader<'_, '_> {
    pub(super) fn identity(
        &mut self,
        node: Option<&Node>,
    ) -> (Option<IdentitySource>, Option<WorkloadId>) {
        let Some(mut fields) = self.fields(node, "`identity`") else { return (None, None) };
        let source = fields.required("source", self.findings);
        let source = source.and_then(|node| self.identity_source(node));
        let expected = fields.optional("expectedId").and_then(|node| {
            self.places.expected_id = Some(node.span);
            let text = read::short_string(node, 2048, self.findings)?;
            match WorkloadId::parse(&text) {
                Ok(id) => Some(id),
                Err(error) => {
                    let message = format!("`{text}` is not a SPIFFE ID: {error}");
                    self.error(
                        node.span,
                        message,
                        "as in `spiffe://prod.example.com/ns/shop/sa/orders`",
                    );
                    None
                }
            }
        });
        self.finish(fields);
        (source, expected)
    }

    fn identity_source(&mut self, node: &Node) -> Option<IdentitySource> {
        let mut fields = Fields::of(node, "`identity.source`", self.findings)?;
        let workload_api = fields.optional("workloadApi");
        let files = fields.optional("files");
        fields.not_yet("kubernetesCsr", self.findings);
        fields.not_yet("vault", self.findings);
        let (span, empty) = (fields.span(), fields.is_empty());
        self.finish(fields);
        match (workload_api, files) {
            (Some(node), None) => self.workload_api(node),
            (None, Some(node)) => self.files(node),
            (Some(_), Some(_)) => {
                self.error(
                    span,
                    "an identity has one source, here are two",
                    "keep `workloadApi` or `files`",
                );
                None
            }
            (None, None) if !empty => None, // what is written instead was reported above
            (None, None) => {
                let hint = "write `{workloadApi: {socket: PATH}}` or `{files: {certificate: PATH, bundle: PATH}}`";
                self.error(span, "no identity source is named", hint);
                None
            }
        }
    }
}
