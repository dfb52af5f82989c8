//! `issuer`.

use countersign_policy::yaml::{Fields, Node, Value, read};

use super::Reader;
use crate::issuer::{IssuerSettings, TokenKeyKind, TokenKeys};
use crate::limits::{ISSUER_KEY_ROTATE_S_MAX, ISSUER_KEY_ROTATE_S_MIN};

/// How long a generated key signs when nothing is written.
const ROTATE_S: u64 = 24 * 3600;

impl Reader<'_, '_> {
    pub(super) fn issuer(&mut self, node: Option<&Node>) -> IssuerSettings {
        let Some(mut fields) = self.fields(node, "`issuer`") else {
            return IssuerSettings::default();
        };
        let keys = fields.optional("keys");
        let rotate = fields.optional("rotateAfter");
        let kind = fields.optional("algorithm");
        let state = fields.optional("state").and_then(|node| self.path(node));
        self.finish(fields);
        let rotate_s = rotate.and_then(|node| self.rotate_s(node)).unwrap_or(ROTATE_S);
        let kinds = [("ES256", TokenKeyKind::Es256), ("Ed25519", TokenKeyKind::Ed25519)];
        let of = kind.and_then(|node| read::one_of(node, &kinds, self.findings));
        let generated = TokenKeys::Generated { rotate_s, kind: of.unwrap_or_default() };
        let keys = match keys {
            None => TokenKeys::Identity,
            Some(node) => self.token_keys(node, &generated).unwrap_or_default(),
        };
        if !matches!(keys, TokenKeys::Generated { .. }) {
            for (name, node) in [("rotateAfter", rotate), ("algorithm", kind)] {
                let Some(node) = node else { continue };
                let message = format!("`{name}` is about keys that this process makes");
                let hint = format!("write `keys: generated`, or remove `{name}`");
                self.findings.error("E004", node.span, message).hint(hint);
            }
        }
        IssuerSettings { keys, state }
    }

    fn token_keys(&mut self, node: &Node, generated: &TokenKeys) -> Option<TokenKeys> {
        if let Value::Map(_) = &node.value {
            let mut fields = Fields::of(node, "`keys`", self.findings)?;
            let file = self.required_path(&mut fields, "file");
            self.finish(fields);
            return Some(TokenKeys::File(file));
        }
        let words = [("x5c", false), ("generated", true)];
        let made = read::one_of(node, &words, self.findings)?;
        Some(if made { generated.clone() } else { TokenKeys::Identity })
    }

    fn rotate_s(&mut self, node: &Node) -> Option<u64> {
        let seconds = read::duration_s(node, self.findings)?;
        if (ISSUER_KEY_ROTATE_S_MIN..=ISSUER_KEY_ROTATE_S_MAX).contains(&seconds) {
            return Some(seconds);
        }
        let message = format!(
            "a key signs for {ISSUER_KEY_ROTATE_S_MIN}s to {ISSUER_KEY_ROTATE_S_MAX}s, not {seconds}s"
        );
        self.error(node.span, message, "retired keys stay published for a while: a day is usual");
        None
    }
}
