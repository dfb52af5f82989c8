//! `identity.source.files`.

use countersign_policy::yaml::{Fields, Node};

use crate::identity::IdentitySource;
use crate::read::Reader;

impl Reader<'_, '_> {
    pub(super) fn files(&mut self, node: &Node) -> Option<IdentitySource> {
        let mut fields = Fields::of(node, "`files`", self.findings)?;
        let certificate = self.required_path(&mut fields, "certificate");
        let key = fields.optional("key");
        let bundle = self.required_path(&mut fields, "bundle");
        self.finish(fields);
        let key = key.and_then(|node| self.path(node));
        Some(IdentitySource::Files { certificate, key, bundle })
    }
}
