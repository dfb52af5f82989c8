//! Reads `ldap` of an `AttributeProvider`, and the filter of its search.

use std::net::IpAddr;

use super::{attributes::timeout, scalars};
use crate::{
    doc::{AskedId, LdapBind, LdapFilter, LdapSearch, LdapSecurity, ValuePart},
    yaml::{Fields, Findings, Node, read},
};

/// How deep a filter may nest.
const DEPTH_MAX: usize = 8;
/// Parts of one `&` or `|`.
const PARTS_MAX: usize = 16;
/// Groups that a provider may keep.
const KEEP_MAX: usize = 256;

pub(super) fn read(node: &Node, findings: &mut Findings<'_>) -> Option<(LdapSearch, Option<u64>)> {
    let mut fields = Fields::of(node, "ldap", findings)?;
    let url_node = fields.required("url", findings);
    let start_tls = fields
        .optional("startTls")
        .is_some_and(|node| read::only_true(node, "startTls", findings).is_some());
    let place = url_node.and_then(|node| url(node, start_tls, findings));
    let roots = fields.optional("roots").and_then(|node| scalars::file(node, findings));
    let bind_node = fields.optional("bind");
    let bind = bind_node.and_then(|node| bind(node, findings));
    let base = fields.required("base", findings);
    let base = base.and_then(|node| read::short_string(node, scalars::TEXT_BYTES_MAX, findings));
    let filter = fields.required("filter", findings).and_then(|node| filter(node, findings));
    let attribute = fields.required("attribute", findings);
    let attribute = attribute.and_then(|node| {
        let text = read::short_string(node, 64, findings)?;
        if is_description(&text) {
            return Some(text);
        }
        findings.error("E013", node.span, format!("`{text}` is not an attribute")).hint("as `cn`");
        None
    });
    let keep_node = fields.required("keep", findings);
    let keep = read::strings(keep_node, 64, findings);
    let timeout = timeout(fields.optional("timeout"), findings);
    fields.finish(findings);
    if let (Some(node), true) = (keep_node, keep.len() > KEEP_MAX) {
        findings.error("E017", node.span, format!("more than {KEEP_MAX} groups"));
    }
    let (host, port, security) = place?;
    let (base, filter, attribute) = (base?, filter?, attribute?);
    let search = LdapSearch {
        host,
        port,
        security,
        roots,
        bind: if bind_node.is_some() { Some(bind?) } else { None },
        base,
        filter,
        attribute,
        keep,
    };
    Some((search, timeout))
}

fn bind(node: &Node, findings: &mut Findings<'_>) -> Option<LdapBind> {
    let mut fields = Fields::of(node, "bind", findings)?;
    let dn = fields.required("dn", findings);
    let dn = dn.and_then(|node| read::short_string(node, scalars::TEXT_BYTES_MAX, findings));
    let password = fields.required("passwordFile", findings);
    let password = password.and_then(|node| scalars::file(node, findings));
    fields.finish(findings);
    Some(LdapBind { dn: dn?, password: password? })
}

fn url(
    node: &Node,
    start_tls: bool,
    findings: &mut Findings<'_>,
) -> Option<(String, u16, LdapSecurity)> {
    let text = read::short_string(node, scalars::TEXT_BYTES_MAX, findings)?;
    let (tls, rest) = match (text.strip_prefix("ldaps://"), text.strip_prefix("ldap://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => {
            findings
                .error("E013", node.span, format!("`{text}` is not a URL of a directory"))
                .hint("as in `ldaps://directory.example.com` or `ldap://host:389` with `startTls`");
            return None;
        }
    };
    let place = authority(rest.trim_end_matches('/'), if tls { 636 } else { 389 });
    let Some((host, port)) = place else {
        let hint = "a host and an optional port; base and filter have fields of their own";
        findings.error("E013", node.span, format!("`{rest}` is not a place")).hint(hint);
        return None;
    };
    let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let security = match (tls, start_tls) {
        (true, false) => LdapSecurity::Ldaps,
        (false, true) => LdapSecurity::StartTls,
        (true, true) => {
            findings.error("E013", node.span, "`ldaps` is TLS already: leave `startTls` out");
            return None;
        }
        (false, false) if local => LdapSecurity::Plain,
        (false, false) => {
            findings
                .error("E013", node.span, "nobody would know which directory answers")
                .hint("write `ldaps://`, or `startTls: true`; plain is for this machine only");
            return None;
        }
    };
    Some((host, port, security))
}

fn authority(text: &str, port: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            match rest.strip_prefix(':') {
                Some(written) => (host, written.parse().ok()?),
                None => (host, rest.is_empty().then_some(port)?),
            }
        }
        None => match text.split_once(':') {
            Some((host, written)) => (host, written.parse().ok()?),
            None => (text, port),
        },
    };
    let good = !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':'));
    (good && port != 0).then(|| (host.to_owned(), port))
}

/// An attribute or a matching rule: a name, or numbers with dots.
fn is_description(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b';'))
}

fn filter(node: &Node, findings: &mut Findings<'_>) -> Option<LdapFilter> {
    let text = read::short_string(node, scalars::TEXT_BYTES_MAX, findings)?;
    let mut reader = Reader { rest: &text, asks: false };
    let read = reader.filter(0).and_then(|filter| match reader.rest {
        "" => Ok(filter),
        rest => Err(format!("`{rest}` follows the filter")),
    });
    match read {
        Ok(filter) if reader.asks => Some(filter),
        Ok(_) => {
            findings.error("E013", node.span, "the filter is the same for every user").hint(
                "say where the user stands: `(memberUid={user.id})`, or `{dn:user.id}` \
                       inside a distinguished name",
            );
            None
        }
        Err(why) => {
            let message = format!("this is not a filter: {why}");
            findings.error("E013", node.span, message).hint(
                "as in `(&(objectClass=groupOfNames)(member=uid={dn:user.id},ou=people,dc=example))`",
            );
            None
        }
    }
}

/// RFC 4515, without substrings and ordering, which nobody needs to find groups.
struct Reader<'t> {
    rest: &'t str,
    asks: bool,
}

impl Reader<'_> {
    fn take(&mut self, wanted: char) -> Result<(), String> {
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(format!("`{wanted}` is missing before `{}`", self.rest)),
        }
    }

    fn filter(&mut self, depth: usize) -> Result<LdapFilter, String> {
        if depth > DEPTH_MAX {
            return Err(format!("nested deeper than {DEPTH_MAX}"));
        }
        self.take('(')?;
        let filter = match self.rest.chars().next() {
            Some('&') => LdapFilter::And(self.list('&', depth)?),
            Some('|') => LdapFilter::Or(self.list('|', depth)?),
            Some('!') => {
                self.take('!')?;
                LdapFilter::Not(Box::new(self.filter(depth + 1)?))
            }
            _ => self.item()?,
        };
        self.take(')')?;
        Ok(filter)
    }

    fn list(&mut self, sign: char, depth: usize) -> Result<Vec<LdapFilter>, String> {
        self.take(sign)?;
        let mut parts = Vec::new();
        while self.rest.starts_with('(') {
            parts.push(self.filter(depth + 1)?);
        }
        match parts.len() {
            0 => Err(format!("`{sign}` of nothing")),
            1..=PARTS_MAX => Ok(parts),
            _ => Err(format!("`{sign}` of more than {PARTS_MAX} parts")),
        }
    }

    fn item(&mut self) -> Result<LdapFilter, String> {
        let end = self.rest.find(['(', ')']).unwrap_or(self.rest.len());
        let (item, rest) = self.rest.split_at(end);
        self.rest = rest;
        let Some((left, value)) = item.split_once('=') else {
            return Err(format!("`{item}` compares nothing"));
        };
        if let Some(left) = left.strip_suffix(':') {
            let Some((attribute, rule)) = left.split_once(':') else {
                return Err(format!("`{left}` names no matching rule"));
            };
            if !is_description(attribute) || !is_description(rule) {
                return Err(format!("`{left}` is not an attribute and a matching rule"));
            }
            let (attribute, rule) = (attribute.to_owned(), rule.to_owned());
            return Ok(LdapFilter::Matching { attribute, rule, value: self.value(value)? });
        }
        if !is_description(left) {
            return Err(format!("`{left}` is not an attribute compared by `=`"));
        }
        if value == "*" {
            return Ok(LdapFilter::Present(left.to_owned()));
        }
        Ok(LdapFilter::Equal(left.to_owned(), self.value(value)?))
    }

    fn value(&mut self, text: &str) -> Result<Vec<ValuePart>, String> {
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            rest = rest.get(next.len_utf8()..).unwrap_or_default();
            match next {
                '{' => {
                    let (name, after) = rest.split_once('}').ok_or("`{` without `}`")?;
                    rest = after;
                    if !literal.is_empty() {
                        parts.push(ValuePart::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(place(name)?);
                    self.asks = true;
                }
                '\\' => {
                    let pair = rest.get(..2).ok_or("`\\` without two hex digits")?;
                    let byte = u8::from_str_radix(pair, 16);
                    literal.push(byte.map_err(|_| format!("`\\{pair}` is not two hex digits"))?);
                    rest = rest.get(2..).unwrap_or_default();
                }
                '*' => return Err("substrings cannot be searched for".to_owned()),
                '}' => return Err("`}` without `{`".to_owned()),
                other => literal.extend(other.to_string().bytes()),
            }
        }
        if !literal.is_empty() {
            parts.push(ValuePart::Literal(literal));
        }
        in_dn(&parts)?;
        if parts.is_empty() { Err("an empty value".to_owned()) } else { Ok(parts) }
    }
}

fn place(name: &str) -> Result<ValuePart, String> {
    let (in_dn, name) = match name.strip_prefix("dn:") {
        Some(name) => (true, name),
        None => (false, name),
    };
    let known = AskedId::ALL.iter().find(|(text, _)| *text == name).map(|(_, id)| *id);
    match known {
        Some(id @ (AskedId::UserId | AskedId::UserAccount)) => {
            Ok(if in_dn { ValuePart::InDn(id) } else { ValuePart::Of(id) })
        }
        Some(_) | None => Err(format!("`{{{name}}}` is not `{{user.id}}` or `{{user.accountId}}`")),
    }
}

/// A value beside `=` or `,` stands in a distinguished name, where it needs other escapes.
fn in_dn(parts: &[ValuePart]) -> Result<(), String> {
    let structured = parts.iter().any(|part| match part {
        ValuePart::Literal(text) => text.iter().any(|byte| matches!(byte, b'=' | b',' | b'+')),
        ValuePart::Of(_) | ValuePart::InDn(_) => false,
    });
    let bare = parts.iter().find_map(|part| match part {
        ValuePart::Of(id) => Some(id.as_str()),
        ValuePart::Literal(_) | ValuePart::InDn(_) => None,
    });
    match bare {
        Some(name) if structured => {
            Err(format!("`{{{name}}}` stands in a distinguished name: write `{{dn:{name}}}`"))
        }
        Some(_) | None => Ok(()),
    }
}
