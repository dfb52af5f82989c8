//! Reads `jwks` of an issuer: the one place its key set comes from.

use super::{known::Known, scalars};
use crate::{
    doc::IssuerJwks,
    yaml::{Fields, Findings, Node, read},
};

/// Seconds between two fetches (`token.md` §6).
const REFRESH_S: u64 = 300;
const REFRESH_S_MAX: u64 = 3_600;
/// Keys that nobody confirmed for this long do not count (`token.md` §6).
const MAX_STALE_S: u64 = 3_600;

pub(super) fn read(
    node: &Node,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Option<IssuerJwks> {
    let mut fields = Fields::of(node, "jwks", findings)?;
    let file = fields.optional("file");
    let destination = fields.optional("destination");
    let refresh = fields.optional("refresh");
    let stale = fields.optional("maxStale");
    let span = fields.span();
    fields.finish(findings);
    match (file, destination) {
        (Some(node), None) => {
            for (name, node) in [("refresh", refresh), ("maxStale", stale)] {
                let Some(node) = node else { continue };
                findings
                    .error("E004", node.span, format!("`{name}` is about keys that are fetched"))
                    .hint("a file is read again when it changes");
            }
            scalars::file(node, findings).map(IssuerJwks::File)
        }
        (None, Some(node)) => {
            let name = scalars::destination_name(node, known, findings);
            let refresh_s = match refresh {
                Some(node) => bounded(node, "refresh", REFRESH_S_MAX, findings)?,
                None => REFRESH_S,
            };
            let max_stale_s = match stale {
                Some(node) => bounded(node, "maxStale", MAX_STALE_S, findings)?,
                None => MAX_STALE_S,
            };
            if max_stale_s < refresh_s.saturating_mul(2) {
                let message = format!(
                    "keys that are fetched every {refresh_s}s would not last over one failed fetch: \
                     `maxStale` is {max_stale_s}s"
                );
                findings
                    .error("E013", stale.or(refresh).map_or(span, |node| node.span), message)
                    .hint("make `maxStale` at least twice `refresh`");
            }
            Some(IssuerJwks::Destination { name: name?, refresh_s, max_stale_s })
        }
        (None, None) => {
            findings
                .error("E013", span, "nothing says where the key set comes from")
                .hint("write `{file: issuer.json}` or `{destination: edge/gateway}`");
            None
        }
        (Some(_), Some(_)) => {
            findings
                .error("E013", span, "a key set comes from one place, here are two")
                .hint("keep `file` or `destination`");
            None
        }
    }
}

fn bounded(node: &Node, what: &'static str, most: u64, findings: &mut Findings<'_>) -> Option<u64> {
    let seconds = read::duration_s(node, findings)?;
    if (1..=most).contains(&seconds) {
        return Some(seconds);
    }
    findings.error("E013", node.span, format!("`{what}` is from 1s to 1h, not {seconds}s"));
    None
}
