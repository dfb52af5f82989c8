//! Reads what binds a request's own parameters: `params` of rules, `emit.params` of mint rules,
//! and the template of a resource's owner.

use super::scalars;
use crate::{
    doc::{
        HttpMatch, PathPattern,
        access::{OwnerFromPath, ParamSource},
    },
    path::{PathTemplate, Segment},
    yaml::{Fields, Findings, Node, Value, read},
};

/// Most parameters of one rule, as a token can carry.
const PARAMS_MAX: usize = 16;

/// `{user: {fromPath: {template, param}}, order: {fromQuery: order}}`.
pub(super) fn params(
    node: &Node,
    findings: &mut Findings<'_>,
) -> Option<Vec<(String, ParamSource)>> {
    let Value::Map(entries) = &node.value else {
        findings.error("E013", node.span, "`params` must be a mapping of names to places");
        return None;
    };
    if entries.is_empty() {
        findings.error("E001", node.span, "empty `params` would bind nothing");
        return None;
    }
    if entries.len() > PARAMS_MAX {
        findings.error("E017", node.span, format!("more than {PARAMS_MAX} parameters"));
        return None;
    }
    let read = entries.iter().map(|(key, value)| {
        let known = (1..=64).contains(&key.text.len()) && key.text.bytes().all(is_name);
        if !known {
            let message = format!("`{}` is no name of a parameter", key.text);
            findings.error("E014", key.span, message).hint("letters, digits, `_`, `-` and `.`");
        }
        source(value, findings).filter(|_| known).map(|source| (key.text.clone(), source))
    });
    // Each entry's problem is reported; with one faulty there are none.
    let read: Vec<Option<(String, ParamSource)>> = read.collect();
    read.into_iter().collect()
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

fn source(node: &Node, findings: &mut Findings<'_>) -> Option<ParamSource> {
    let mut fields = Fields::of(node, "a parameter", findings)?;
    let path = fields.optional("fromPath");
    let query = fields.optional("fromQuery");
    let span = fields.span();
    fields.finish(findings);
    match (path, query) {
        (Some(node), None) => from_path(node, findings).map(ParamSource::Path),
        (None, Some(node)) => {
            let key = read::short_string(node, 64, findings)?;
            if !key.bytes().all(is_name) {
                let message = format!("`{key}` is no key that every program reads alike");
                findings.error("E014", node.span, message).hint("letters, digits, `_`, `-`, `.`");
                return None;
            }
            Some(ParamSource::Query(key))
        }
        _ => {
            findings
                .error("E001", span, "a parameter is bound from one place")
                .hint("write `{fromPath: {template: …, param: …}}` or `{fromQuery: …}`");
            None
        }
    }
}

/// `{template: "/v1/users/{user}/**", param: user}`.
pub(super) fn from_path(node: &Node, findings: &mut Findings<'_>) -> Option<OwnerFromPath> {
    let mut fields = Fields::of(node, "fromPath", findings)?;
    let template_node = fields.required("template", findings);
    let param_node = fields.required("param", findings);
    fields.finish(findings);
    let template = scalars::template(template_node?, findings)?;
    let node = param_node?;
    let param = read::short_string(node, 64, findings)?;
    if !template.has_param(&param) {
        let names = template.segments().iter().filter_map(|segment| match segment {
            Segment::Param(name) => Some(&**name),
            Segment::Literal(_) => None,
        });
        let hint = crate::yaml::did_you_mean(&param, names);
        let message = format!("template `{template}` has no `{{{param}}}`");
        findings.error("E007", node.span, message).maybe_hint(hint);
        return None;
    }
    Some(OwnerFromPath { template, param })
}

/// Reports the paths of a mint rule that do not have what it binds.
pub(super) fn check_mint(
    matcher: &HttpMatch,
    params: &[(String, ParamSource)],
    node: &Node,
    findings: &mut Findings<'_>,
) {
    for (name, source) in params {
        let ParamSource::Path(place) = source else { continue };
        let loose: Vec<String> = match matcher.paths.is_empty() {
            true => vec!["any path".to_owned()],
            false => matcher
                .paths
                .iter()
                .filter(|path| !binds(path, place))
                .map(|path| path.route().to_string())
                .collect(),
        };
        for path in loose {
            let message = format!("path `{path}` has no `{{{}}}` to sign as `{name}`", place.param);
            findings
                .error("E007", node.span, message)
                .hint(format!("use paths below `{}`", place.template));
        }
    }
}

/// Whether every path of a pattern names the parameter at the same place as its template.
pub(super) fn binds(pattern: &PathPattern, owner: &OwnerFromPath) -> bool {
    let template: PathTemplate = match pattern {
        PathPattern::Template(template) => template.clone(),
        PathPattern::Exact(path) => match PathTemplate::parse(path) {
            Ok(template) => template,
            Err(_) => return false,
        },
        PathPattern::Prefix(path) => match PathTemplate::parse(&format!("{path}/**")) {
            Ok(template) => template,
            Err(_) => return false,
        },
    };
    let wanted = owner.template.segments();
    let given = template.segments();
    let long_enough = match (owner.template.is_open(), template.is_open()) {
        (true, _) => given.len() >= wanted.len(),
        (false, false) => given.len() == wanted.len(),
        (false, true) => false,
    };
    long_enough
        && wanted.iter().zip(given).all(|pair| match pair {
            (Segment::Literal(a), Segment::Literal(b)) => a == b,
            (Segment::Param(_), Segment::Literal(text)) => !text.is_empty(),
            (Segment::Param(a), Segment::Param(b)) => **a != *owner.param || a == b,
            (Segment::Literal(_), Segment::Param(_)) => false,
        })
}
