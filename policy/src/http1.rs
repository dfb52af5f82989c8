//! What documents and process configurations say about HTTP/1 on one port, read in one place.

use crate::{
    doc::PortProtocol,
    yaml::{Findings, Node, read},
};

/// Reports fields that mean nothing for a port that does not speak HTTP/1.
pub fn only_for_http(
    protocol: PortProtocol,
    written: &[(&str, Option<&Node>)],
    findings: &mut Findings<'_>,
) {
    if protocol == PortProtocol::Http {
        return;
    }
    for (name, node) in written {
        let Some(node) = node else { continue };
        let message = format!("`{name}` is for `protocol: http`, not `{}`", protocol.as_str());
        findings.error("E004", node.span, message).hint(format!("remove `{name}`"));
    }
}

/// Tokens of `Upgrade`, in lower case. `websocket` passes anyway, HTTP/2 never starts by upgrade.
pub fn upgrades(node: &Node, findings: &mut Findings<'_>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for node in read::filled_list(Some(node), findings) {
        let Some(text) = read::short_string(node, 64, findings) else { continue };
        let token = text.to_ascii_lowercase();
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b);
        if !token.bytes().all(letter) {
            let message = format!("`{text}` is not a protocol of `Upgrade`");
            findings.error("E013", node.span, message).hint("write its token, as in `spdy/3.1`");
        } else if token == "websocket" {
            findings
                .error("E013", node.span, "`websocket` is always accepted")
                .hint("list only other protocols");
        } else if token == "h2c" || token.starts_with("h2c/") {
            findings
                .error("E013", node.span, "`h2c` is never accepted")
                .hint("an upgrade to HTTP/2 would hide requests; clients may start with HTTP/2");
        } else if out.contains(&token) {
            findings.error("E019", node.span, format!("`{text}` stands in the list twice"));
        } else {
            out.push(token);
        }
    }
    out
}
