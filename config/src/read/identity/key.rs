//! `identity.key`, and keys in tokens that a source names itself.

use std::time::Duration;

use countersign_policy::yaml::{Fields, Node, read};

use crate::identity::{FilesKey, IdentitySource, KeyPlace};
use crate::limits::{PKCS11_SIGN_MS_CEILING, PKCS11_SIGN_MS_MAX};
use crate::pkcs11::{Pkcs11Key, Pkcs11Token, Pkcs11Uri, TokenName};
use crate::read::Reader;

impl Reader<'_, '_> {
    pub(super) fn key_place(&mut self, node: &Node) -> Option<KeyPlace> {
        let mut fields = Fields::of(node, "`identity.key`", self.findings)?;
        let pkcs11 = fields.required("pkcs11", self.findings);
        self.finish(fields);
        let mut fields = Fields::of(pkcs11?, "`identity.key.pkcs11`", self.findings)?;
        let module = self.required_path(&mut fields, "module");
        let token = fields.required("token", self.findings);
        let token = token.and_then(|node| self.token_name(node));
        let pin_file = fields.optional("pinFile").and_then(|node| self.path(node));
        let sign_timeout = fields
            .optional("signTimeout")
            .and_then(|node| self.sign_timeout(node))
            .unwrap_or(Duration::from_millis(PKCS11_SIGN_MS_MAX));
        self.finish(fields);
        Some(KeyPlace::Pkcs11(Pkcs11Token { module, token: token?, pin_file, sign_timeout }))
    }

    /// A label, or a URI that names a token and nothing in it.
    fn token_name(&mut self, node: &Node) -> Option<TokenName> {
        let text = read::short_string(node, 4096, self.findings)?;
        if !Pkcs11Uri::is_meant(&text) {
            return Some(TokenName { label: Some(text), ..TokenName::default() });
        }
        let uri = self.pkcs11_uri(node, &text)?;
        if uri.object.is_some() || uri.id.is_some() {
            let hint =
                "here keys are made, each with a name of its own: leave `object` and `id` out";
            self.error(node.span, "this URI names a key, and a token is asked for", hint);
            return None;
        }
        if uri.module.is_some() || uri.pin_file.is_some() || uri.token.is_empty() {
            let hint =
                "as in `token: mesh` or `token: \"pkcs11:token=mesh;serial=365c97198e25b272\"`";
            self.error(node.span, "this URI is to name a token and nothing else", hint);
            return None;
        }
        Some(uri.token)
    }

    fn sign_timeout(&mut self, node: &Node) -> Option<Duration> {
        let ms = read::duration_ms(node, self.findings)?;
        if (1..=PKCS11_SIGN_MS_CEILING).contains(&ms) {
            return Some(Duration::from_millis(ms));
        }
        let message =
            format!("a signature may take from 1ms to {PKCS11_SIGN_MS_CEILING}ms, not {ms}ms");
        self.error(node.span, message, "while it is waited for, other connections wait too");
        None
    }

    /// The key that `identity.source.files.key` names; what its URI leaves open comes from
    /// `identity.key.pkcs11`.
    pub(super) fn token_key(
        &mut self,
        node: &Node,
        text: &str,
        place: &KeyPlace,
    ) -> Option<Pkcs11Key> {
        let uri = self.pkcs11_uri(node, text)?;
        if uri.object.is_none() && uri.id.is_none() {
            let hint = "add `object=LABEL` or `id=%01`; `p11tool --list-privkeys` shows both";
            self.error(node.span, "this URI names a token, and a key in it is asked for", hint);
            return None;
        }
        let shared = match place {
            KeyPlace::Pkcs11(shared) => Some(shared),
            KeyPlace::Memory => None,
        };
        let module = uri.module.map(|path| self.base.join(path));
        let Some(module) = module.or_else(|| shared.map(|shared| shared.module.clone())) else {
            let hint = "add `?module-path=/usr/lib/…/p11-kit-client.so` to the URI, or set `identity.key.pkcs11.module`";
            self.error(node.span, "nothing says which PKCS#11 module opens the token", hint);
            return None;
        };
        let token = match (uri.token.is_empty(), shared) {
            (true, Some(shared)) => shared.token.clone(),
            _ => uri.token,
        };
        let pin_file = uri.pin_file.map(|path| self.base.join(path));
        let pin_file = pin_file.or_else(|| shared.and_then(|shared| shared.pin_file.clone()));
        let sign_timeout =
            shared.map_or(Duration::from_millis(PKCS11_SIGN_MS_MAX), |shared| shared.sign_timeout);
        let token = Pkcs11Token { module, token, pin_file, sign_timeout };
        Some(Pkcs11Key { token, object: uri.object, id: uri.id })
    }

    /// A place for keys is of no use to a source that brings its own.
    pub(super) fn key_fits_source(&mut self, node: &Node, source: &IdentitySource) {
        let (brings, hint) = match source {
            IdentitySource::WorkloadApi { .. } => (
                "the Workload API delivers its own key",
                "leave `key` out; the SPIFFE agent decides where keys are made",
            ),
            IdentitySource::Files { key: Some(FilesKey::Pkcs11(_)), .. }
            | IdentitySource::KubernetesCsr(_)
            | IdentitySource::Vault(_) => return,
            IdentitySource::Files { .. } => (
                "the key of these files is in a file",
                "name it in the token, `files.key: \"pkcs11:object=LABEL\"`, or leave `identity.key` out",
            ),
        };
        self.error(node.span, format!("`identity.key` is never used: {brings}"), hint);
    }

    fn pkcs11_uri(&mut self, node: &Node, text: &str) -> Option<Pkcs11Uri> {
        match Pkcs11Uri::parse(text) {
            Ok(uri) => Some(uri),
            Err(problem) => {
                self.error(node.span, problem.message, problem.hint);
                None
            }
        }
    }
}
