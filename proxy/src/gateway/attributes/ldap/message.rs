//! The messages of LDAP that a search needs (RFC 4511): bind, StartTLS, search, unbind.
//!
//! Pure. Values of a request are octet strings in a tree; there is no text they could break out of.

use countersign_policy::doc::{AskedId, LdapFilter, LdapSearch, ValuePart};

use super::ber::{self, BOOLEAN, ENUMERATED, INTEGER, OCTETS, Reader, SEQUENCE, SET};
use crate::gateway::attributes::Question;

const BIND_REQUEST: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const UNBIND_REQUEST: u8 = 0x42;
const SEARCH_REQUEST: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
const SEARCH_REFERENCE: u8 = 0x73;
const EXTENDED_REQUEST: u8 = 0x77;
const EXTENDED_RESPONSE: u8 = 0x78;
/// The name of StartTLS (RFC 4511 §4.14.1).
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";
/// Longest value of a request in a filter.
const VALUE_BYTES_MAX: usize = 512;

/// A message: its number and its operation.
fn message(number: u32, tag: u8, operation: &[u8]) -> Vec<u8> {
    let mut inner = Vec::with_capacity(operation.len() + 16);
    ber::put_number(&mut inner, INTEGER, number);
    ber::put(&mut inner, tag, operation);
    let mut out = Vec::with_capacity(inner.len() + 8);
    ber::put(&mut out, SEQUENCE, &inner);
    out
}

/// Proves who we are by a password.
pub(super) fn bind(number: u32, dn: &str, password: &[u8]) -> Vec<u8> {
    let mut operation = Vec::new();
    ber::put_number(&mut operation, INTEGER, 3);
    ber::put(&mut operation, OCTETS, dn.as_bytes());
    ber::put(&mut operation, 0x80, password);
    message(number, BIND_REQUEST, &operation)
}

/// Asks for TLS.
pub(super) fn start_tls(number: u32) -> Vec<u8> {
    let mut operation = Vec::new();
    ber::put(&mut operation, 0x80, START_TLS);
    message(number, EXTENDED_REQUEST, &operation)
}

/// Ends the session.
pub(super) fn unbind(number: u32) -> Vec<u8> {
    message(number, UNBIND_REQUEST, &[])
}

/// Looks for entries below the base; aliases are not followed.
pub(super) fn search(
    number: u32,
    search: &LdapSearch,
    question: &Question,
    (entries_max, seconds_max): (u32, u32),
) -> Result<Vec<u8>, String> {
    let mut operation = Vec::new();
    ber::put(&mut operation, OCTETS, search.base.as_bytes());
    ber::put_number(&mut operation, ENUMERATED, 2);
    ber::put_number(&mut operation, ENUMERATED, 0);
    ber::put_number(&mut operation, INTEGER, entries_max);
    ber::put_number(&mut operation, INTEGER, seconds_max);
    ber::put(&mut operation, BOOLEAN, &[0]);
    filter(&mut operation, &search.filter, question)?;
    let mut attributes = Vec::new();
    ber::put(&mut attributes, OCTETS, search.attribute.as_bytes());
    ber::put(&mut operation, SEQUENCE, &attributes);
    Ok(message(number, SEARCH_REQUEST, &operation))
}

fn filter(out: &mut Vec<u8>, node: &LdapFilter, question: &Question) -> Result<(), String> {
    let mut inner = Vec::new();
    let tag = match node {
        LdapFilter::And(parts) | LdapFilter::Or(parts) => {
            for part in parts {
                filter(&mut inner, part, question)?;
            }
            if matches!(node, LdapFilter::And(_)) { 0xa0 } else { 0xa1 }
        }
        LdapFilter::Not(part) => {
            filter(&mut inner, part, question)?;
            0xa2
        }
        LdapFilter::Present(attribute) => {
            inner.extend_from_slice(attribute.as_bytes());
            0x87
        }
        LdapFilter::Equal(attribute, parts) => {
            ber::put(&mut inner, OCTETS, attribute.as_bytes());
            ber::put(&mut inner, OCTETS, &value(parts, question)?);
            0xa3
        }
        LdapFilter::Matching { attribute, rule, value: parts } => {
            ber::put(&mut inner, 0x81, rule.as_bytes());
            ber::put(&mut inner, 0x82, attribute.as_bytes());
            ber::put(&mut inner, 0x83, &value(parts, question)?);
            0xa9
        }
    };
    ber::put(out, tag, &inner);
    Ok(())
}

fn value(parts: &[ValuePart], question: &Question) -> Result<Vec<u8>, String> {
    let of = |id: AskedId| {
        let value = question.value(id).filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| format!("the request has no `{}`", id.as_str()))?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(format!("`{}` is longer than {VALUE_BYTES_MAX} bytes", id.as_str()));
        }
        Ok(value)
    };
    let mut out = Vec::new();
    for part in parts {
        match part {
            ValuePart::Literal(bytes) => out.extend_from_slice(bytes),
            ValuePart::Of(id) => out.extend_from_slice(of(*id)?.as_bytes()),
            ValuePart::InDn(id) => out.extend(in_dn(of(*id)?)),
        }
    }
    Ok(out)
}

/// A value as it stands in a distinguished name: everything but letters, digits and a few signs as
/// its bytes in hex (RFC 4514 §2.4 permits it for any byte).
fn in_dn(value: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'@') {
            out.push(byte);
        } else {
            out.extend(format!("\\{byte:02X}").bytes());
        }
    }
    out
}

/// What a directory says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The outcome of a bind.
    Bound(Outcome),
    /// The outcome of StartTLS, and of anything the server says by itself.
    Extended(Outcome),
    /// The values of the wanted attribute in one entry.
    Entry(Vec<Vec<u8>>),
    /// Somewhere else there may be more; it is not followed.
    Reference,
    /// The outcome of a search.
    Done(Outcome),
}

/// `LDAPResult`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// `resultCode`; 0 is success.
    pub(super) code: u32,
}

/// Reads one message: its number, and what it says.
pub(super) fn read(bytes: &[u8], attribute: &str) -> Result<(u32, Said), &'static str> {
    let mut whole = Reader(bytes);
    let mut message = Reader(whole.expect(SEQUENCE)?);
    let number = message.number(INTEGER)?;
    let (tag, operation) = message.next()?.ok_or("a message without an operation")?;
    let said = match tag {
        BIND_RESPONSE => Said::Bound(outcome(operation)?),
        EXTENDED_RESPONSE => Said::Extended(outcome(operation)?),
        SEARCH_DONE => Said::Done(outcome(operation)?),
        SEARCH_REFERENCE => Said::Reference,
        SEARCH_ENTRY => Said::Entry(entry(operation, attribute)?),
        _ => return Err("an operation that answers nothing we asked"),
    };
    Ok((number, said))
}

fn outcome(operation: &[u8]) -> Result<Outcome, &'static str> {
    Ok(Outcome { code: Reader(operation).number(ENUMERATED)? })
}

fn entry(operation: &[u8], attribute: &str) -> Result<Vec<Vec<u8>>, &'static str> {
    let mut entry = Reader(operation);
    entry.expect(OCTETS)?;
    let mut attributes = Reader(entry.expect(SEQUENCE)?);
    let mut values = Vec::new();
    while let Some((tag, content)) = attributes.next()? {
        if tag != SEQUENCE {
            return Err("an attribute of another form");
        }
        let mut pair = Reader(content);
        let name = pair.expect(OCTETS)?;
        if is_part_of(name, attribute) {
            return Err("it gives a part of the values only (`range`)");
        }
        let mut set = Reader(pair.expect(SET)?);
        while let Some((tag, value)) = set.next()? {
            if tag == OCTETS && name.eq_ignore_ascii_case(attribute.as_bytes()) {
                values.push(value.to_vec());
            }
        }
    }
    Ok(values)
}

/// Whether these are some values of the attribute: one directory splits long lists, and groups that
/// are missing would look like groups the user is not in.
fn is_part_of(name: &[u8], attribute: &str) -> bool {
    let (own, rest) = name.split_at(attribute.len().min(name.len()));
    let is_range = rest.get(..7).is_some_and(|rest| rest.eq_ignore_ascii_case(b";range="));
    own.eq_ignore_ascii_case(attribute.as_bytes()) && is_range
}

#[cfg(test)]
#[path = "../../tests/ldap.rs"]
mod tests;
