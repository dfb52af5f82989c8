//! Scalars with a meaning of their own: names, IDs, addresses, hosts, paths, files.

use std::{collections::BTreeMap, net::IpAddr};

use countersign_workload_id::{IdPattern, TrustDomain, WorkloadId};
use ipnet::IpNet;

use crate::{
    doc::{DestinationName, FileRef, Selector},
    host::{canonical_authority, canonical_host},
    path::{PathTemplate, TemplateError},
    yaml::{Fields, Findings, Node, Value, read},
};

/// Longest of the texts that have no bound of their own.
pub(crate) const TEXT_BYTES_MAX: usize = 1024;

/// A name: lower-case letters, digits and `-`.
pub(crate) fn dns_label(node: &Node, findings: &mut Findings<'_>) -> Option<String> {
    let name = read::string(node, findings)?;
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = name.len() <= 63
        && name.bytes().all(word)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !good {
        findings
            .error("E013", node.span, format!("{} is not a name", node.describe()))
            .hint("names are 1 to 63 lower-case letters, digits and `-`");
        return None;
    }
    Some(name)
}

/// A mapping of texts.
pub(crate) fn string_map(
    node: &Node,
    what: &str,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, String> {
    let Value::Map(entries) = &node.value else {
        let message = format!("`{what}` must be a mapping, this is {}", node.describe());
        findings.error("E013", node.span, message);
        return BTreeMap::new();
    };
    entries
        .iter()
        .filter_map(|(key, value)| Some((key.text.clone(), read::string(value, findings)?)))
        .collect()
}

/// `{all: true}` or `{matchLabels: {…}}`.
pub(crate) fn selector(node: &Node, findings: &mut Findings<'_>) -> Option<Selector> {
    let mut fields = Fields::of(node, "a selector", findings)?;
    let all = fields.optional("all");
    let labels = fields.optional("matchLabels");
    let span = fields.span();
    let empty = fields.is_empty();
    fields.finish(findings);
    let empty_message = "an empty selector would say nothing";
    let empty_hint = "write `{all: true}` to select every workload";
    match (all, labels) {
        (Some(all), None) => read::only_true(all, "all", findings).map(|()| Selector::All),
        (None, Some(labels)) => {
            let wanted = string_map(labels, "matchLabels", findings);
            if wanted.is_empty() {
                findings.error("E001", labels.span, empty_message).hint(empty_hint);
                return None;
            }
            Some(Selector::Labels(wanted))
        }
        (Some(_), Some(_)) => {
            findings.error("E013", span, "`all` and `matchLabels` exclude each other");
            None
        }
        (None, None) => {
            if empty {
                findings.error("E001", span, empty_message).hint(empty_hint);
            }
            None
        }
    }
}

pub(crate) fn trust_domain(node: &Node, findings: &mut Findings<'_>) -> Option<TrustDomain> {
    let text = read::string(node, findings)?;
    match TrustDomain::parse(&text) {
        Ok(domain) => Some(domain),
        Err(error) => {
            let hint = text.strip_prefix("spiffe://").map(|bare| format!("write `{bare}`"));
            let message = format!("`{text}` is not a trust domain: {error}");
            findings.error("E013", node.span, message).maybe_hint(hint);
            None
        }
    }
}

/// A whole SPIFFE ID; wildcards are refused by its grammar.
pub(crate) fn workload_id(node: &Node, findings: &mut Findings<'_>) -> Option<WorkloadId> {
    let text = read::string(node, findings)?;
    match WorkloadId::parse(&text) {
        Ok(id) => Some(id),
        Err(error) => {
            let hint = if text.contains('*') {
                Some("name each identity; patterns are not accepted here".to_owned())
            } else {
                Some("write `spiffe://<trust domain>/ns/<namespace>/sa/<account>`".to_owned())
            };
            let message = format!("`{text}` is not a SPIFFE ID: {error}");
            findings.error("E013", node.span, message).maybe_hint(hint);
            None
        }
    }
}

pub(crate) fn id_pattern(node: &Node, findings: &mut Findings<'_>) -> Option<IdPattern> {
    let text = read::string(node, findings)?;
    match IdPattern::parse(&text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let message = format!("`{text}` is not a SPIFFE ID or pattern: {error}");
            findings.error("E013", node.span, message);
            None
        }
    }
}

pub(crate) fn ip(node: &Node, findings: &mut Findings<'_>) -> Option<IpAddr> {
    let address = node.text().and_then(|text| text.parse::<IpAddr>().ok());
    if address.is_none() {
        let message = format!("{} is not an IP address", node.describe());
        findings.error("E013", node.span, message);
    }
    address.map(|address| address.to_canonical())
}

/// A network. Bits beyond the prefix are refused: they are a typing error as often as not.
pub(crate) fn cidr(node: &Node, findings: &mut Findings<'_>) -> Option<IpNet> {
    let text = node.text().unwrap_or_default();
    let Ok(net) = text.parse::<IpNet>() else {
        let single = text.parse::<IpAddr>().ok().map(|ip| format!("write `{}`", IpNet::from(ip)));
        let message = format!("{} is not an address range", node.describe());
        findings.error("E013", node.span, message).maybe_hint(single);
        return None;
    };
    let mapped = matches!(net, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some());
    if mapped {
        let message = format!("`{text}` is IPv4 written as IPv6; addresses are compared as IPv4");
        findings.error("E014", node.span, message).hint("write the IPv4 range");
        return None;
    }
    if net.trunc() != net {
        let message = format!("`{text}` has bits set beyond its prefix");
        findings.error("E013", node.span, message).hint(format!("write `{}`", net.trunc()));
        return None;
    }
    Some(net)
}

/// A host in canonical form.
pub(crate) fn host(node: &Node, findings: &mut Findings<'_>) -> Option<String> {
    let text = read::string(node, findings)?;
    match canonical_host(&text) {
        Ok(host) if host == text => Some(host),
        Ok(host) => {
            findings
                .error("E014", node.span, format!("`{text}` is not a canonical host"))
                .hint(format!("write `{host}`"));
            None
        }
        Err(error) => {
            findings.error("E014", node.span, format!("`{text}` is not a host: {error}"));
            None
        }
    }
}

/// A host, or a host with a port.
pub(crate) fn host_or_authority(node: &Node, findings: &mut Findings<'_>) -> Option<String> {
    let text = read::string(node, findings)?;
    match canonical_authority(&text) {
        Ok(authority) if authority == text => Some(authority),
        Ok(authority) => {
            findings
                .error("E014", node.span, format!("`{text}` is not a canonical host and port"))
                .hint(format!("write `{authority}`"));
            None
        }
        Err(_) => host(node, findings),
    }
}

pub(crate) fn template(node: &Node, findings: &mut Findings<'_>) -> Option<PathTemplate> {
    let text = read::short_string(node, TEXT_BYTES_MAX, findings)?;
    match PathTemplate::parse(&text) {
        Ok(template) => Some(template),
        Err(error) => {
            let hint = match &error {
                TemplateError::NotCanonical { canonical: Some(form) } => {
                    Some(format!("write `{form}`"))
                }
                TemplateError::NotCanonical { canonical: None } if !text.starts_with('/') => {
                    Some("a path begins with `/`".to_owned())
                }
                _ => None,
            };
            let message = format!("path template `{text}`: {error}");
            findings.error("E014", node.span, message).maybe_hint(hint);
            None
        }
    }
}

/// `{file: path}`.
pub(crate) fn file(node: &Node, findings: &mut Findings<'_>) -> Option<FileRef> {
    let written = read::short_string(node, TEXT_BYTES_MAX, findings)?;
    Some(FileRef { written, declared_in: findings.file(node.span.source) })
}

/// `{destination: namespace/name}`.
pub(crate) fn destination(
    node: &Node,
    what: &'static str,
    known: &mut super::known::Known,
    findings: &mut Findings<'_>,
) -> Option<DestinationName> {
    let mut fields = Fields::of(node, what, findings)?;
    let node = fields.required("destination", findings);
    fields.finish(findings);
    destination_name(node?, known, findings)
}

/// `namespace/name` of a Destination, which may be read later.
pub(crate) fn destination_name(
    node: &Node,
    known: &mut super::known::Known,
    findings: &mut Findings<'_>,
) -> Option<DestinationName> {
    let text = read::short_string(node, 130, findings)?;
    let label = |part: &str| {
        let text = part.to_owned();
        Node { value: Value::Scalar { text, plain: false }, span: node.span }
    };
    let Some((namespace, name)) = text.split_once('/') else {
        let message = format!("`{text}` does not name a Destination");
        findings.error("E013", node.span, message).hint("write `NAMESPACE/NAME`");
        return None;
    };
    let namespace = dns_label(&label(namespace), findings);
    let name = dns_label(&label(name), findings);
    let named = DestinationName { namespace: namespace?, name: name? };
    known.referred.push((named.clone(), node.span));
    Some(named)
}
