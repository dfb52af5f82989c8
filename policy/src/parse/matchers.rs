//! Reads `match`: who calls, and what is called.

use countersign_workload_id::WorkloadId;

use super::{known::Known, scalars};
use crate::{
    doc::{
        CallerMatch, GrpcMatch, HeaderMatch, HeaderValues, HttpMatch, Match, PathPattern,
        ProtocolMatch,
    },
    path::canonical_pattern,
    yaml::{Fields, Findings, Node, read},
};

/// Methods that exist only in upper case.
const METHODS: &[&str] =
    &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Most entries of one list in a matcher.
const ENTRIES_MAX: usize = 1000;

/// Whether a header (lower case) belongs to the mesh itself.
pub(super) fn is_mesh_header(name: &str) -> bool {
    let name = name.replace('_', "-");
    name.starts_with("countersign-") || name == "txn-token"
}

pub(super) fn rule_match(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<Match> {
    let mut fields = Fields::of(node, "match", findings)?;
    let empty = fields.is_empty();
    let span = fields.span();
    let caller_node = fields.optional("caller");
    let any = fields.optional("any");
    let http_node = fields.optional("http");
    let grpc_node = fields.optional("grpc");
    let tcp_node = fields.optional("tcp");
    fields.not_yet("callee", findings);
    fields.finish(findings);
    if empty {
        findings
            .error("E001", span, "an empty match would say nothing")
            .hint("match-all is spelled `{any: true}`");
        return None;
    }
    let protocols = [http_node, grpc_node, tcp_node];
    if let Some(node) = any {
        read::only_true(node, "any", findings);
        if protocols.iter().any(Option::is_some) {
            findings.error("E013", node.span, "`any` and a protocol exclude each other");
        }
    }
    if let Some(second) = protocols.iter().flatten().nth(1) {
        findings
            .error("E004", second.span, "`http`, `grpc` and `tcp` exclude each other")
            .hint("write two rules");
    }
    let caller = caller_node.map(|node| caller(node, known, findings));
    let protocol = match (http_node, grpc_node, tcp_node) {
        (Some(node), _, _) => Some(http(node, findings).map(ProtocolMatch::Http)),
        (None, Some(node), _) => Some(grpc(node, findings).map(ProtocolMatch::Grpc)),
        (None, None, Some(node)) => Some(tcp(node, findings)),
        (None, None, None) => None,
    };
    // What was written and not understood leaves no rule at all, never a wider one.
    let caller = match caller {
        Some(read) => Some(read?),
        None => None,
    };
    let protocol = match protocol {
        Some(read) => Some(read?),
        None => None,
    };
    Some(Match { caller, protocol })
}

fn caller(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<CallerMatch> {
    let mut fields = Fields::of(node, "caller", findings)?;
    let any_of = fields.optional("anyOf");
    let in_mesh = fields.optional("anyInMesh");
    let unauthenticated = fields.optional("unauthenticated");
    let span = fields.span();
    fields.finish(findings);
    match (any_of, in_mesh, unauthenticated) {
        (Some(list), None, None) => {
            if read::list(Some(list), findings).len() > ENTRIES_MAX {
                findings.error("E017", list.span, format!("more than {ENTRIES_MAX} entries"));
                return None;
            }
            let callers: Vec<WorkloadId> = read::filled_list(Some(list), findings)
                .iter()
                .filter_map(|node| workload(node, known, findings))
                .collect();
            Some(CallerMatch::AnyOf(callers))
        }
        (None, Some(node), None) => {
            read::only_true(node, "anyInMesh", findings).map(|()| CallerMatch::AnyInMesh)
        }
        (None, None, Some(node)) => read::only_true(node, "unauthenticated", findings)
            .map(|()| CallerMatch::Unauthenticated),
        (None, None, None) => {
            findings
                .error("E001", span, "`caller` names nobody")
                .hint("write `{anyOf: […]}` or `{anyInMesh: true}`");
            None
        }
        _ => {
            let message = "`anyOf`, `anyInMesh` and `unauthenticated` exclude each other";
            findings.error("E013", span, message);
            None
        }
    }
}

/// `{namespace, serviceAccount}` or `{spiffeId}`.
pub(super) fn workload(
    node: &Node,
    known: &Known,
    findings: &mut Findings<'_>,
) -> Option<WorkloadId> {
    let mut fields = Fields::of(node, "a caller", findings)?;
    if let Some(id) = fields.optional("spiffeId") {
        fields.finish(findings);
        return scalars::workload_id(id, findings);
    }
    let namespace = fields.required("namespace", findings);
    let account = fields.required("serviceAccount", findings);
    fields.finish(findings);
    let namespace = read::string(namespace?, findings);
    let account_node = account?;
    let account = read::string(account_node, findings)?;
    let domain = known.trust_domain.as_ref()?;
    if account == "default" {
        findings
            .warn(
                "W111",
                account_node.span,
                "every workload without an account of its own is `default`",
            )
            .hint("give this workload its own service account");
    }
    match WorkloadId::new(domain, &namespace?, &account) {
        Ok(id) => Some(id),
        Err(error) => {
            findings.error("E013", node.span, format!("this is no workload: {error}"));
            None
        }
    }
}

pub(super) fn http(node: &Node, findings: &mut Findings<'_>) -> Option<HttpMatch> {
    let mut fields = Fields::of(node, "http", findings)?;
    let methods = fields.optional("methods");
    let hosts = fields.optional("hosts");
    let paths = fields.optional("paths");
    let headers = fields.optional("headers");
    let (span, empty) = (fields.span(), fields.is_empty());
    fields.finish(findings);
    if empty {
        findings
            .error("E001", span, "an empty `http` would say nothing")
            .hint("name methods, hosts, paths or headers, or leave `http` out");
        return None;
    }
    for list in [methods, hosts, paths, headers].into_iter().flatten() {
        if read::list(Some(list), findings).len() > ENTRIES_MAX {
            findings.error("E017", list.span, format!("more than {ENTRIES_MAX} entries"));
            return None;
        }
    }
    let methods = each(methods, method, findings);
    // Only CONNECT reaches a port it names.
    let tunnels = methods.as_ref().is_some_and(|methods| methods == &["CONNECT"]);
    let host = if tunnels { scalars::host_or_authority } else { scalars::host };
    let hosts = each(hosts, host, findings);
    let paths = each(paths, path, findings);
    let headers = each(headers, header, findings);
    Some(HttpMatch { methods: methods?, hosts: hosts?, paths: paths?, headers: headers? })
}

/// Reads every entry, so that each one's problem is reported. If one is faulty there is no list:
/// a list with an entry missing would match less, an empty one would match everything.
fn each<T>(
    node: Option<&Node>,
    read_one: fn(&Node, &mut Findings<'_>) -> Option<T>,
    findings: &mut Findings<'_>,
) -> Option<Vec<T>> {
    let items = read::filled_list(node, findings);
    let read: Vec<Option<T>> = items.iter().map(|node| read_one(node, findings)).collect();
    read.into_iter().collect()
}

fn method(node: &Node, findings: &mut Findings<'_>) -> Option<String> {
    let method = read::short_string(node, 64, findings)?;
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let upper = method.to_ascii_uppercase();
    if !method.bytes().all(token) {
        findings.error("E013", node.span, format!("`{method}` is not a method"));
        return None;
    }
    if upper != method && METHODS.contains(&&*upper) {
        findings
            .error(
                "E014",
                node.span,
                format!("`{method}` is not a method; methods are case-sensitive"),
            )
            .hint(format!("write `{upper}`"));
        return None;
    }
    Some(method)
}

fn path(node: &Node, findings: &mut Findings<'_>) -> Option<PathPattern> {
    let mut fields = Fields::of(node, "a path", findings)?;
    let exact = fields.optional("exact");
    let prefix = fields.optional("prefix");
    let template = fields.optional("template");
    let span = fields.span();
    fields.finish(findings);
    match (exact, prefix, template) {
        (Some(node), None, None) => canonical(node, findings).map(PathPattern::Exact),
        (None, Some(node), None) => {
            let text = canonical(node, findings)?;
            if text.len() > 1 && text.ends_with('/') {
                findings.error("E014", node.span, format!("prefix `{text}` ends with `/`")).hint(
                    format!(
                        "write `{}`: it also covers everything below",
                        text.trim_end_matches('/')
                    ),
                );
                return None;
            }
            Some(PathPattern::Prefix(text))
        }
        (None, None, Some(node)) => scalars::template(node, findings).map(PathPattern::Template),
        _ => {
            let message = "a path is one of `exact`, `prefix` and `template`";
            findings.error("E013", span, message);
            None
        }
    }
}

fn canonical(node: &Node, findings: &mut Findings<'_>) -> Option<String> {
    let text = read::short_string(node, scalars::TEXT_BYTES_MAX, findings)?;
    if text.contains(['{', '}', '*']) {
        findings
            .error("E014", node.span, format!("`{text}` is compared as it stands"))
            .hint("`{name}` and `**` have a meaning in `template` only");
        return None;
    }
    match canonical_pattern(&text) {
        Ok(()) => Some(text),
        Err(form) => {
            let hint = form.map(|form| format!("write `{form}`"));
            let message = format!("path `{text}` is not canonical and could never match");
            findings.error("E014", node.span, message).maybe_hint(hint);
            None
        }
    }
}

fn header(node: &Node, findings: &mut Findings<'_>) -> Option<HeaderMatch> {
    let mut fields = Fields::of(node, "a header", findings)?;
    let name_node = fields.required("name", findings);
    let modes = [
        ("single", HeaderValues::Single),
        ("anyValue", HeaderValues::AnyValue),
        ("everyValue", HeaderValues::EveryValue),
    ];
    let values = match fields.optional("values") {
        Some(node) => read::one_of(node, &modes, findings),
        None => Some(HeaderValues::Single),
    };
    let any_of = read::strings(fields.required("anyOf", findings), 256, findings);
    fields.finish(findings);
    let node = name_node?;
    let name = read::short_string(node, 64, findings)?.to_ascii_lowercase().replace('_', "-");
    if is_mesh_header(&name) || matches!(&*name, "authorization" | "cookie") {
        findings
            .error("E010", node.span, format!("header {} cannot be matched", node.describe()))
            .hint("what it proves is available as facts about the user and the token");
        return None;
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
        findings.error("E013", node.span, format!("{} is not a header name", node.describe()));
        return None;
    }
    Some(HeaderMatch { name, values: values?, any_of })
}

/// `{any: true}`: there is nothing in the bytes to tell connections apart by.
fn tcp(node: &Node, findings: &mut Findings<'_>) -> Option<ProtocolMatch> {
    let mut fields = Fields::of(node, "tcp", findings)?;
    let any = fields.required("any", findings);
    fields.finish(findings);
    read::only_true(any?, "any", findings).map(|()| ProtocolMatch::Tcp)
}

fn grpc(node: &Node, findings: &mut Findings<'_>) -> Option<GrpcMatch> {
    let mut fields = Fields::of(node, "grpc", findings)?;
    let service = fields.required("service", findings);
    let methods = fields.optional("methods");
    fields.finish(findings);
    let node = service?;
    let service = read::short_string(node, 256, findings)?;
    let dotted = |text: &str| {
        text.split('.').all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
    };
    if !dotted(&service) {
        findings
            .error("E014", node.span, format!("`{service}` is not a gRPC service name"))
            .hint("write the full name, such as `acme.users.v1.Users`");
        return None;
    }
    let methods: Vec<String> = read::strings(methods, 128, findings);
    if methods.iter().any(|method| !dotted(method) || method.contains('.')) {
        findings.error("E014", node.span, "gRPC methods are single words, such as `Get`");
        return None;
    }
    Some(GrpcMatch { service, methods })
}
