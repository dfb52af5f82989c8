//! Parameter binding: the parameters a gateway signed are the parameters of this request.
//!
//! Invariant: a parameter counts only where every program would read the same one value. A query
//! key that stands there twice, in whatever spelling, or a value that is read in two ways, is no
//! value: the gateway signs none, and the callee, who cannot tell either, does not let it pass.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::{
    doc::{
        access::{ParamSource, ParamsAtom},
        gateway::MintRule,
    },
    input::Input,
    path::{CanonicalPath, percent_decoded},
    tri::Tri,
};

/// Longest value that is signed, bytes.
const VALUE_BYTES_MAX: usize = 256;

/// The parameters a mint rule binds, of those the request has. One that is absent, ambiguous or
/// too long is left out: whoever demands it later refuses.
pub fn captured(rule: &MintRule, path: &CanonicalPath) -> Option<Map<String, Value>> {
    let values = rule.params.iter().filter_map(|(name, source)| {
        let value = of_request(source, path)?;
        Some((name.clone(), Value::String(value.into_owned())))
    });
    let params: Map<String, Value> = values.collect();
    (!params.is_empty()).then_some(params)
}

/// How one parameter compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    Equal,
    Differs,
    NotSigned,
    NotOnceHere,
}

/// Every parameter of the atom, compared; nothing ends the comparison early.
pub(crate) fn compared<'a>(
    atom: &'a ParamsAtom,
    input: &'a Input<'_>,
) -> impl Iterator<Item = (&'a str, Compared)> {
    let signed = input.context.as_ref().and_then(|facts| facts.params);
    let path = input.request.map(|request| request.path);
    atom.0.iter().map(move |(name, source)| {
        let own = signed.and_then(|signed| signed.get(name)).and_then(text);
        let here = path.and_then(|path| of_request(source, path));
        let result = match (own, here) {
            (None, _) => Compared::NotSigned,
            (Some(_), None) => Compared::NotOnceHere,
            (Some(own), Some(here)) if own == here => Compared::Equal,
            (Some(_), Some(_)) => Compared::Differs,
        };
        (&**name, result)
    })
}

pub(crate) fn eval(atom: &ParamsAtom, input: &Input<'_>) -> Tri {
    if input.context.is_none() {
        return Tri::False;
    }
    Tri::all(compared(atom, input).map(|(_, result)| match result {
        Compared::Equal => Tri::True,
        Compared::Differs => Tri::False,
        Compared::NotSigned | Compared::NotOnceHere => Tri::Unknown,
    }))
}

/// A signed value as it would stand in a request. Lists have no such form.
fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(_) | Value::Bool(_) => Some(Cow::Owned(value.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The one value a request has for a parameter.
pub(crate) fn of_request<'p>(
    source: &ParamSource,
    path: &'p CanonicalPath,
) -> Option<Cow<'p, str>> {
    let value = match source {
        ParamSource::Path(place) => place.template.capture(&place.param, path),
        ParamSource::Query(key) => of_query(key, path.query()?),
    };
    value.filter(|text| text.len() <= VALUE_BYTES_MAX && !text.chars().any(char::is_control))
}

fn of_query<'q>(wanted: &str, query: &'q str) -> Option<Cow<'q, str>> {
    let name = folded(wanted);
    let mut found = None;
    // `;` separates too, for some readers.
    for pair in query.split(['&', ';']) {
        let key = pair.split('=').next().unwrap_or_default();
        if folded(&decoded(key)?) != name {
            continue;
        }
        if found.replace(pair).is_some() {
            return None;
        }
    }
    let pair = found?;
    let (key, value) = pair.split_once('=')?;
    let certain = query.split('&').any(|own| own == pair)
        && decoded(key).is_some_and(|key| key == wanted)
        // A space, or a plus: readers differ.
        && !value.contains('+');
    if certain { decoded(value) } else { None }
}

/// All spellings that one reader or another takes for the same key: any case, `a[]` and `a[0]`
/// for `a`, `.` and space for `_`, spaces before it.
fn folded(key: &str) -> String {
    let key = key.replace('+', " ");
    let name = key.trim_start().split('[').next().unwrap_or_default();
    name.to_ascii_lowercase().replace(['.', ' '], "_")
}

/// Percent-decoded once; `None` if it is no text then, or an escape is broken.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        let digits = after.as_bytes().get(..2)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        rest = after.get(2..)?;
    }
    String::from_utf8(percent_decoded(text).collect()).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> Option<String> {
        let path = CanonicalPath::parse(&format!("/a?{query}"), Default::default()).unwrap();
        of_request(&ParamSource::Query("order".to_owned()), &path).map(Cow::into_owned)
    }

    #[test]
    fn one_value_in_one_spelling_counts() {
        assert_eq!(of("order=7").as_deref(), Some("7"));
        assert_eq!(of("a=1&order=7&b").as_deref(), Some("7"));
        assert_eq!(of("order=a%20b%2Bc").as_deref(), Some("a b+c"));
        assert_eq!(of("order=").as_deref(), Some(""));
        assert_eq!(of("order=a=b").as_deref(), Some("a=b"));
        assert_eq!(of("orders=7"), None);
        assert_eq!(of("a=1"), None);
    }

    #[test]
    fn attack_repeats_query_key_to_dodge_binding() {
        for query in [
            "order=7&order=9",
            "order=7&order=7",
            "order=7&ORDER=9",
            "order=7&%6frder=9",
            "%6frder=9&order=7",
            "order=7&order[]=9",
            "order[0]=9&order=7",
            "order=7&order",
            "order=7;order=9",
            "a=1;order=9&order=7",
            "order=7&+order=9",
            "order=7&%20order=9",
        ] {
            assert_eq!(of(query), None, "{query}");
        }
        // One that some readers see and others do not, or read differently.
        for query in ["order", "ORDER=7", "order[]=7", "order=7;x", "x;order=7", "order=a+b"] {
            assert_eq!(of(query), None, "{query}");
        }
        // What nobody can decode could be the key.
        for query in ["order=7&%zz=1", "order=7&%6=1", "order=7&%ff=1", "order=%zz", "order=%00"] {
            assert_eq!(of(query), None, "{query}");
        }
        assert_eq!(of(&format!("order={}", "a".repeat(257))), None);
    }
}
