//! `identity.source.files`.

use countersign_policy::yaml::{Fields, Node, read};

use crate::identity::{FilesKey, IdentitySource, KeyPlace};
use crate::pkcs11::Pkcs11Uri;
use crate::read::Reader;

impl Reader<'_, '_> {
    pub(super) fn files(&mut self, node: &Node, place: &KeyPlace) -> Option<IdentitySource> {
        let mut fields = Fields::of(node, "`files`", self.findings)?;
        let certificate = self.required_path(&mut fields, "certificate");
        let key = fields.optional("key");
        let bundle = self.required_path(&mut fields, "bundle");
        self.finish(fields);
        let key = key.and_then(|node| self.files_key(node, place));
        Some(IdentitySource::Files { certificate, key, bundle })
    }

    /// A PEM file, or a key in a token.
    fn files_key(&mut self, node: &Node, place: &KeyPlace) -> Option<FilesKey> {
        let text = read::short_string(node, 4096, self.findings)?;
        if Pkcs11Uri::is_meant(&text) {
            return self.token_key(node, &text, place).map(Box::new).map(FilesKey::Pkcs11);
        }
        Some(FilesKey::File(self.base.join(text)))
    }
}
