//! Reads `Revocation`.

use super::{known::Known, scalars, window::instant};
use crate::{
    doc::{Revocation, RevokedIdentity, RevokedKey, RevokedUser},
    yaml::{Fields, Findings, Node, read},
};

/// Most entries of all `Revocation` documents together.
pub(super) const ENTRIES_MAX: usize = 10_000;

pub(super) fn read(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<Revocation> {
    let mut fields = Fields::of(node, "Revocation", findings)?;
    let certificates = each(fields.optional("certificates"), findings, |node, findings| {
        one(node, "a revoked certificate", "sha256", findings)
            .and_then(|node| sha256(node, findings))
    });
    let identities = each(fields.optional("identities"), findings, identity);
    let pods = each(fields.optional("pods"), findings, |node, findings| {
        one(node, "a revoked pod", "uid", findings).and_then(|node| uid(node, findings))
    });
    let issuer_keys = each(fields.optional("issuerKeys"), findings, key);
    let users =
        each(fields.optional("users"), findings, |node, findings| user(node, known, findings));
    let devices = each(fields.optional("devices"), findings, |node, findings| {
        let id = one(node, "a revoked device", "id", findings)?;
        read::short_string(id, scalars::TEXT_BYTES_MAX, findings)
    });
    let transactions = each(fields.optional("transactions"), findings, |node, findings| {
        let txn = one(node, "a revoked transaction", "txn", findings)?;
        read::short_string(txn, scalars::TEXT_BYTES_MAX, findings)
    });
    let expires = match fields.optional("expires") {
        Some(node) => instant(node, findings),
        None => {
            findings.error("E006", fields.span(), "a Revocation needs `expires`").hint(
                "name an instant after the last certificate or token it hits has ended, such as \
                 `expires: \"2026-12-20T00:00:00Z\"`",
            );
            None
        }
    };
    fields.finish(findings);
    Some(Revocation {
        certificates,
        identities,
        pods,
        issuer_keys,
        users,
        devices,
        transactions,
        expires_ms: expires?,
    })
}

fn each<T>(
    list: Option<&Node>,
    findings: &mut Findings<'_>,
    mut read_one: impl FnMut(&Node, &mut Findings<'_>) -> Option<T>,
) -> Vec<T> {
    let Some(list) = list else { return Vec::new() };
    let items = read::filled_list(Some(list), findings);
    items.iter().filter_map(|item| read_one(item, findings)).collect()
}

/// The only field of an entry.
fn one<'n>(
    node: &'n Node,
    what: &'static str,
    field: &'static str,
    findings: &mut Findings<'_>,
) -> Option<&'n Node> {
    let mut fields = Fields::of(node, what, findings)?;
    let value = fields.required(field, findings);
    fields.finish(findings);
    value
}

fn identity(node: &Node, findings: &mut Findings<'_>) -> Option<RevokedIdentity> {
    let mut fields = Fields::of(node, "a revoked identity", findings)?;
    let id = fields.required("spiffeId", findings);
    let id = id.and_then(|node| scalars::workload_id(node, findings));
    let before = fields.required("issuedBefore", findings);
    let before = before.and_then(|node| instant(node, findings));
    fields.finish(findings);
    Some(RevokedIdentity { id: id?, issued_before_ms: before? })
}

fn key(node: &Node, findings: &mut Findings<'_>) -> Option<RevokedKey> {
    let mut fields = Fields::of(node, "a revoked issuer key", findings)?;
    let identity = fields.required("identity", findings);
    let identity = identity.and_then(|node| scalars::workload_id(node, findings));
    let kid = fields.required("kid", findings).and_then(|node| kid(node, findings));
    fields.finish(findings);
    Some(RevokedKey { identity: identity?, kid: kid? })
}

fn user(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<RevokedUser> {
    let mut fields = Fields::of(node, "a revoked user", findings)?;
    let provider = fields.required("provider", findings).and_then(|node| {
        let name = read::string(node, findings)?;
        let place = |provider: &super::known::KnownProvider| provider.span;
        Known::check(node, &name, "identity provider", &known.providers, place, findings)
            .then_some(name)
    });
    let id = fields.required("id", findings);
    let id = id.and_then(|node| read::short_string(node, scalars::TEXT_BYTES_MAX, findings));
    let before = fields.required("issuedBefore", findings);
    let before = before.and_then(|node| instant(node, findings));
    fields.finish(findings);
    Some(RevokedUser { provider: provider?, id: id?, issued_before_ms: before? })
}

/// 64 hexadecimal digits, in either case, with or without colons as `openssl` prints them.
fn sha256(node: &Node, findings: &mut Findings<'_>) -> Option<[u8; 32]> {
    let text = read::string(node, findings)?;
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let nibble = |byte: &u8| char::from(*byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let nibbles: Option<Vec<u8>> = digits.iter().map(nibble).collect();
    let bytes: Option<Vec<u8>> = nibbles.map(|nibbles| {
        nibbles.chunks(2).map(|pair| pair.iter().fold(0, |byte, half| (byte << 4) | half)).collect()
    });
    let hash = bytes.filter(|_| digits.len() == 64).and_then(|bytes| bytes.try_into().ok());
    if hash.is_none() {
        findings
            .error("E013", node.span, format!("`{text}` is not a SHA-256 in hexadecimal"))
            .hint("64 digits: `openssl x509 -in leaf.pem -noout -fingerprint -sha256` prints them");
    }
    hash
}

/// The UID of a pod, as Kubernetes writes it.
fn uid(node: &Node, findings: &mut Findings<'_>) -> Option<String> {
    let text = read::string(node, findings)?;
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    let hex = text.bytes().all(|byte| byte == b'-' || matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if hex && groups == [8, 4, 4, 4, 12] {
        return Some(text);
    }
    findings
        .error("E013", node.span, format!("`{text}` is not the UID of a pod"))
        .hint("`kubectl get pod NAME -o jsonpath={.metadata.uid}` prints it");
    None
}

fn kid(node: &Node, findings: &mut Findings<'_>) -> Option<String> {
    let text = read::string(node, findings)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if text.len() == 16 && text.bytes().all(plain) {
        return Some(text);
    }
    findings.error(
        "E013",
        node.span,
        format!("`{text}` is not the name of a key: 16 characters of base64url"),
    );
    None
}
