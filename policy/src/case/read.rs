//! Reads the body of a `PolicyTest`.

use serde_json::{Map, Value as Json};

use super::{Case, CaseDevice, CaseJustification, CaseRequest, CaseUser, Cast, Expect, PolicyTest};
use crate::{
    doc::FileRef,
    input::{Protocol, Workload},
    parse::{instant, scalars},
    yaml::{Fields, Findings, Node, Value, did_you_mean, read},
};

const TEXT_BYTES_MAX: usize = 20_000;

pub(super) fn policy_test(spec: &Node, findings: &mut Findings<'_>) -> Option<PolicyTest> {
    let mut fields = Fields::of(spec, "PolicyTest", findings)?;
    let policies = read::filled_list(fields.optional("policies"), findings)
        .iter()
        .filter_map(|node| scalars::file(node, findings))
        .collect::<Vec<FileRef>>();
    let workload = fields.optional("workload").and_then(|node| workload(node, findings));
    let now = fields.required("now", findings).and_then(|node| instant(node, findings));
    let cast = Cast {
        users: named(fields.optional("users"), user, findings),
        callers: named(fields.optional("callers"), scalars::workload_id, findings),
    };
    let defaults = fields.optional("request");
    let tests = read::filled_list(fields.required("tests", findings), findings);
    fields.finish(findings);
    let mut cases = Vec::new();
    for test in tests {
        case(test, defaults, now.unwrap_or(0), &cast, &mut cases, findings);
    }
    now?;
    Some(PolicyTest { policies, workload, cases })
}

fn workload(node: &Node, findings: &mut Findings<'_>) -> Option<Workload> {
    let mut fields = Fields::of(node, "workload", findings)?;
    let namespace = fields.required("namespace", findings);
    let labels = fields
        .optional("labels")
        .map(|node| scalars::string_map(node, "labels", findings))
        .unwrap_or_default();
    fields.finish(findings);
    Some(Workload { namespace: scalars::dns_label(namespace?, findings)?, labels })
}

/// A mapping of names to things.
fn named<T>(
    node: Option<&Node>,
    read_one: fn(&Node, &mut Findings<'_>) -> Option<T>,
    findings: &mut Findings<'_>,
) -> std::collections::BTreeMap<String, T> {
    let Some(node) = node else { return Default::default() };
    let Value::Map(entries) = &node.value else {
        findings.error("E013", node.span, "a mapping of names was expected");
        return Default::default();
    };
    let read = entries
        .iter()
        .filter_map(|(key, value)| Some((key.text.clone(), read_one(value, findings)?)));
    read.collect()
}

fn user(node: &Node, findings: &mut Findings<'_>) -> Option<CaseUser> {
    let mut fields = Fields::of(node, "a user", findings)?;
    let provider = fields.optional("provider").and_then(|node| read::string(node, findings));
    let id = fields.required("id", findings).and_then(|node| read::string(node, findings));
    let account = fields.optional("account").and_then(|node| read::string(node, findings));
    let groups = fields.optional("groups").map(|node| read::strings(Some(node), 64, findings));
    let auth_age_s = fields.optional("authAge").and_then(|node| read::duration_s(node, findings));
    let claims = fields.optional("claims").and_then(|node| claims(node, findings));
    fields.finish(findings);
    Some(CaseUser { provider, id: id?, account, groups, auth_age_s, claims })
}

fn claims(node: &Node, findings: &mut Findings<'_>) -> Option<Map<String, Json>> {
    let Value::Map(entries) = &node.value else {
        findings.error("E013", node.span, "a mapping of names to values was expected");
        return None;
    };
    Some(entries.iter().map(|(key, value)| (key.text.clone(), json(value))).collect())
}

/// A claim as a token would carry it: bare `true` and `42` are no texts here.
fn json(node: &Node) -> Json {
    match &node.value {
        Value::Scalar { text, plain: true } => match (text.as_str(), text.parse::<i64>()) {
            ("true", _) => Json::Bool(true),
            ("false", _) => Json::Bool(false),
            (_, Ok(number)) => Json::from(number),
            (text, Err(_)) => Json::from(text),
        },
        Value::Scalar { text, plain: false } => Json::from(text.as_str()),
        Value::List(items) => Json::Array(items.iter().map(json).collect()),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|(key, node)| (key.text.clone(), json(node))).collect())
        }
    }
}

/// One entry of `tests`; `matrix.now` makes several cases of it.
fn case(
    node: &Node,
    defaults: Option<&Node>,
    now: i64,
    cast: &Cast,
    cases: &mut Vec<Case>,
    findings: &mut Findings<'_>,
) {
    let Some(mut fields) = Fields::of(node, "a test", findings) else { return };
    let name = fields.required("name", findings).and_then(|node| read::string(node, findings));
    let own_request = fields.optional("request");
    let own_now = fields.optional("now").and_then(|node| instant(node, findings));
    let matrix = fields.optional("matrix");
    let expect_node = fields.required("expect", findings);
    fields.finish(findings);
    let nows = match matrix {
        Some(node) => matrix_nows(node, findings),
        None => vec![own_now.unwrap_or(now)],
    };
    let expect = expect_node.and_then(|node| expect(node, findings));
    let request = request(own_request, defaults, cast, node, findings);
    let (Some(name), Some(expect), Some(request)) = (name, expect, request) else { return };
    for (at, now_ms) in nows.iter().enumerate() {
        let name = if nows.len() == 1 { name.clone() } else { format!("{name} [{}]", at + 1) };
        let (request, expect) = (request.clone(), expect.clone());
        cases.push(Case { name, now_ms: *now_ms, request, expect });
    }
}

fn matrix_nows(node: &Node, findings: &mut Findings<'_>) -> Vec<i64> {
    let Some(mut fields) = Fields::of(node, "matrix", findings) else { return Vec::new() };
    let nows = read::filled_list(fields.required("now", findings), findings);
    let nows = nows.iter().filter_map(|node| instant(node, findings)).collect();
    fields.finish(findings);
    nows
}

/// A field of the test's own request, else of the defaults.
struct Layers<'n> {
    own: Option<Fields<'n>>,
    defaults: Option<Fields<'n>>,
}

impl<'n> Layers<'n> {
    fn get(&mut self, name: &'static str) -> Option<&'n Node> {
        let own = self.own.as_mut().and_then(|fields| fields.optional(name));
        let default = self.defaults.as_mut().and_then(|fields| fields.optional(name));
        own.or(default)
    }

    fn finish(self, findings: &mut Findings<'_>) {
        for fields in [self.own, self.defaults].into_iter().flatten() {
            fields.finish(findings);
        }
    }
}

fn request(
    own: Option<&Node>,
    defaults: Option<&Node>,
    cast: &Cast,
    test: &Node,
    findings: &mut Findings<'_>,
) -> Option<CaseRequest> {
    let mut layers = Layers {
        own: own.and_then(|node| Fields::of(node, "a request", findings)),
        defaults: defaults.and_then(|node| Fields::of(node, "a request", findings)),
    };
    let user = layers.get("as").and_then(|node| by_name(node, &cast.users, "user", findings));
    let service = layers.get("service").and_then(|node| scalars::workload_id(node, findings));
    if user.is_some() && service.is_some() {
        findings.error("E013", test.span, "a request is made for a user or for a service");
    }
    let caller =
        layers.get("from").and_then(|node| by_name(node, &cast.callers, "caller", findings));
    let mut text = |name: &'static str, findings: &mut Findings<'_>| {
        layers.get(name).and_then(|node| read::short_string(node, TEXT_BYTES_MAX, findings))
    };
    let method = text("method", findings).unwrap_or_else(|| "GET".to_owned());
    let host = text("host", findings).unwrap_or_else(|| "localhost".to_owned());
    let path = text("path", findings);
    let origin = text("origin", findings);
    let via = text("via", findings).unwrap_or_else(|| "peer".to_owned());
    let port = layers.get("port").and_then(|node| read::port(node, findings)).unwrap_or(8080);
    let protocols = [("http", Some(Protocol::Http)), ("grpc", Some(Protocol::Grpc)), ("tcp", None)];
    let protocol = layers.get("protocol").and_then(|n| read::one_of(n, &protocols, findings));
    let headers = layers.get("headers").map(|node| headers(node, findings)).unwrap_or_default();
    let token = layers
        .get("token")
        .and_then(|node| read::one_of(node, &[("present", true), ("absent", false)], findings));
    let scope = layers.get("scope").map(|node| read::strings(Some(node), 64, findings));
    let age_s = layers.get("tokenAge").and_then(|node| read::duration_s(node, findings));
    let source = layers.get("source").and_then(|node| scalars::ip(node, findings));
    let peer_ip = layers.get("peerIp").and_then(|node| scalars::ip(node, findings));
    let custody = layers
        .get("custody")
        .and_then(|node| read::one_of(node, &[("proven", true), ("off", false)], findings));
    let hops = layers.get("hops").map(|node| workloads(node, cast, findings));
    let entry = layers.get("entry").and_then(|node| scalars::workload_id(node, findings));
    let params = layers.get("params").and_then(|node| claims(node, findings));
    let justification = layers.get("justification").and_then(|node| justification(node, findings));
    let device = layers.get("device").and_then(|node| device(node, findings));
    layers.finish(findings);
    let protocol = protocol.unwrap_or(Some(Protocol::Http));
    let path = path.or_else(|| protocol.is_none().then(|| "/".to_owned()));
    if path.is_none() {
        findings.error("E013", test.span, "the request of this test has no `path`");
    }
    let default_origin = if user.is_some() { "user" } else { "service" };
    Some(CaseRequest {
        origin: origin.unwrap_or_else(|| default_origin.to_owned()),
        user,
        service,
        caller,
        method,
        host,
        path: path?,
        port,
        protocol,
        headers,
        token: token.unwrap_or(true),
        scope: scope.unwrap_or_default(),
        age_s: age_s.unwrap_or(0),
        source: source.map(|ip| (ip, via)),
        peer_ip,
        justification,
        device,
        hops: custody.unwrap_or(true).then(|| hops.unwrap_or_default()),
        entry,
        params,
    })
}

/// Callers by their names.
fn workloads(
    node: &Node,
    cast: &Cast,
    findings: &mut Findings<'_>,
) -> Vec<countersign_workload_id::WorkloadId> {
    let items = read::filled_list(Some(node), findings);
    items.iter().filter_map(|item| by_name(item, &cast.callers, "caller", findings)).collect()
}

/// A user or caller by its name; `nobody` is none.
fn by_name<T: Clone>(
    node: &Node,
    all: &std::collections::BTreeMap<String, T>,
    what: &str,
    findings: &mut Findings<'_>,
) -> Option<T> {
    let name = read::string(node, findings)?;
    let found = all.get(&name).cloned();
    if found.is_none() && name != "nobody" {
        let hint = did_you_mean(&name, all.keys().map(String::as_str));
        let message = format!("{what} `{name}` is not in this test's `{what}s`");
        findings.error("E005", node.span, message).maybe_hint(hint);
    }
    found
}

fn headers(node: &Node, findings: &mut Findings<'_>) -> Vec<(String, Vec<u8>)> {
    let Value::Map(entries) = &node.value else {
        findings.error("E013", node.span, "`headers` must be a mapping of names to values");
        return Vec::new();
    };
    let mut out = Vec::new();
    for (key, value) in entries {
        let values = match &value.value {
            Value::List(items) => items.iter().collect(),
            Value::Scalar { .. } | Value::Map(_) => vec![value],
        };
        for value in values {
            let text = read::short_string(value, TEXT_BYTES_MAX, findings);
            out.extend(text.map(|text| (key.text.clone(), text.into_bytes())));
        }
    }
    out
}

fn justification(node: &Node, findings: &mut Findings<'_>) -> Option<CaseJustification> {
    let mut fields = Fields::of(node, "a justification", findings)?;
    let kind = fields.required("kind", findings).and_then(|node| read::string(node, findings));
    let reference = fields.required("ref", findings).and_then(|node| read::string(node, findings));
    let checked = fields.optional("checked").and_then(|node| read::boolean(node, findings));
    let age_s = fields.optional("age").and_then(|node| read::duration_s(node, findings));
    let facts = fields.optional("facts").and_then(|node| claims(node, findings));
    fields.finish(findings);
    let checked = checked.unwrap_or(false);
    Some(CaseJustification { kind: kind?, reference: reference?, checked, age_s, facts })
}

fn device(node: &Node, findings: &mut Findings<'_>) -> Option<CaseDevice> {
    let mut fields = Fields::of(node, "a device", findings)?;
    let id = fields.required("id", findings).and_then(|node| read::string(node, findings));
    let tier = fields.optional("tier").and_then(|node| read::short_string(node, 64, findings));
    let managed = fields.optional("managed").and_then(|node| read::boolean(node, findings));
    let src = fields.optional("src").and_then(|node| read::short_string(node, 80, findings));
    let age_s = fields.optional("age").and_then(|node| read::duration_s(node, findings));
    fields.finish(findings);
    Some(CaseDevice { id: id?, tier, managed, src, age_s })
}

fn expect(node: &Node, findings: &mut Findings<'_>) -> Option<Expect> {
    let mut fields = Fields::of(node, "expect", findings)?;
    if fields.is_empty() {
        findings.error("E001", node.span, "a test that expects nothing cannot fail");
    }
    let decisions = [("allow", "allow"), ("deny", "deny")];
    let decision =
        fields.optional("decision").and_then(|node| read::one_of(node, &decisions, findings));
    let rule = fields.optional("rule").and_then(|node| read::string(node, findings));
    let reasons = [
        "deny_rule",
        "no_match",
        "unknown",
        "token_missing",
        "parameter_mismatch",
        "path_not_canonical",
        "path_not_canonical/byte",
        "path_not_canonical/escape",
        "path_not_canonical/form",
        "path_not_canonical/hidden_separator",
        "path_not_canonical/path_params",
        "path_not_canonical/segments",
        "path_not_canonical/too_long",
        "path_not_canonical/utf8",
    ]
    .map(|name| (name, name));
    let reason = fields.optional("reason").and_then(|node| read::one_of(node, &reasons, findings));
    let failed = read::strings(fields.optional("failed"), 256, findings);
    let status = fields.optional("status").and_then(|node| read::integer(node, 200, 599, findings));
    let owner = fields.optional("owner").and_then(|node| read::string(node, findings));
    let valid_until_ms = fields.optional("validUntil").and_then(|node| instant(node, findings));
    fields.finish(findings);
    let reason = reason.map(str::to_owned);
    Some(Expect { decision, rule, reason, failed, status, owner, valid_until_ms })
}
