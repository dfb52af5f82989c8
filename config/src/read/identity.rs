//! `spec.identity`: who this process is, and which source says so. One file per source.

mod files;
mod key;
pub(super) mod kubernetes_csr;
mod vault;
mod workload_api;

use countersign_policy::yaml::{Fields, Node, read};
use countersign_workload_id::WorkloadId;

use super::Reader;
use crate::identity::{IdentitySource, KeyPlace};

impl Reader<'_, '_> {
    pub(super) fn identity(
        &mut self,
        node: Option<&Node>,
    ) -> (Option<IdentitySource>, Option<WorkloadId>, KeyPlace) {
        let Some(mut fields) = self.fields(node, "`identity`") else {
            return (None, None, KeyPlace::Memory);
        };
        let key_node = fields.optional("key");
        let key = key_node.and_then(|node| self.key_place(node)).unwrap_or_default();
        let source = fields.required("source", self.findings);
        let source = source.and_then(|node| self.identity_source(node, &key));
        if let (Some(node), Some(source)) = (key_node, &source) {
            self.key_fits_source(node, source);
        }
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
        if matches!(source, Some(IdentitySource::Vault(_))) && self.places.expected_id.is_none() {
            let hint = "write `expectedId: spiffe://…`: the role signs the name that is asked for";
            self.error(fields.span(), "`vault` does not know who this process is", hint);
        }
        self.finish(fields);
        (source, expected, key)
    }

    fn identity_source(&mut self, node: &Node, place: &KeyPlace) -> Option<IdentitySource> {
        let mut fields = Fields::of(node, "`identity.source`", self.findings)?;
        let sources = ["workloadApi", "files", "kubernetesCsr", "vault"];
        let sources = sources.map(|name| (name, fields.optional(name)));
        let (span, empty) = (fields.span(), fields.is_empty());
        self.finish(fields);
        let written: Vec<_> =
            sources.into_iter().filter_map(|(name, node)| Some((name, node?))).collect();
        match written.as_slice() {
            [("workloadApi", node)] => self.workload_api(node),
            [("files", node)] => self.files(node, place),
            [("kubernetesCsr", node)] => self.kubernetes_csr(node),
            [("vault", node)] => self.vault(node),
            [_, _, ..] => {
                let names: Vec<_> = written.iter().map(|(name, _)| format!("`{name}`")).collect();
                let hint = format!("keep {}", names.join(" or "));
                self.error(span, "an identity has one source, here are several", hint);
                None
            }
            _ if !empty => None, // what is written instead was reported above
            _ => {
                let hint = "write `{workloadApi: {socket: PATH}}` or `{files: {certificate: PATH, bundle: PATH}}`";
                self.error(span, "no identity source is named", hint);
                None
            }
        }
    }
}
