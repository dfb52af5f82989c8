//! What one policy decision costs, by the number of rules: permitted by the last rule, denied by
//! none matching, denied because the context is missing.
//! `cargo bench -p countersign-benches --bench decide`. Wall time; nothing asserts it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;

use countersign_policy::path::{CanonicalOptions, CanonicalPath};
use countersign_policy::{
    Caller, Compiled, ContextFacts, Input, NoHeaders, Outcome, Protocol, Request, Source, Workload,
    compile, load,
};
use countersign_workload_id::WorkloadId;
use divan::Bencher;

const RULES: [usize; 4] = [1, 20, 1_000, 10_000];
const NOW_S: u64 = 1_795_194_010;

fn main() {
    divan::main();
}

#[divan::bench(args = RULES)]
fn permit(bencher: Bencher<'_, '_>, rules: usize) {
    measure(bencher, rules, Context::Present, "/v1/users/u-1/orders", Outcome::Allow);
}

#[divan::bench(args = RULES)]
fn no_match(bencher: Bencher<'_, '_>, rules: usize) {
    let denied = Outcome::Deny(countersign_policy::DenyReason::NoMatch);
    measure(bencher, rules, Context::Present, "/v1/other", denied);
}

#[divan::bench(args = RULES)]
fn no_context(bencher: Bencher<'_, '_>, rules: usize) {
    let denied = Outcome::Deny(countersign_policy::DenyReason::TokenMissing);
    measure(bencher, rules, Context::Absent, "/v1/users/u-1/orders", denied);
}

#[derive(Clone, Copy)]
enum Context {
    Present,
    Absent,
}

fn measure(
    bencher: Bencher<'_, '_>,
    rules: usize,
    context: Context,
    target: &str,
    expected: Outcome,
) {
    let policy = policy(rules);
    let gateway: WorkloadId = "spiffe://bench.test/ns/edge/sa/gateway".parse().unwrap();
    let path = CanonicalPath::parse(target, CanonicalOptions::default()).unwrap();
    let scope = ["orders.read".to_owned()];
    let input = Input {
        now_ms: NOW_S as i64 * 1000,
        port: 8080,
        caller: Caller::Mesh(&gateway),
        peer_ip: None,
        request: Some(Request {
            method: "GET",
            host: "orders.shop",
            path: &path,
            protocol: Protocol::Http,
            headers: &NoHeaders,
        }),
        context: match context {
            Context::Present => Some(facts(&gateway, &scope)),
            Context::Absent => None,
        },
    };
    assert_eq!(policy.decide(&input).outcome, expected);
    bencher.bench_local(|| policy.decide(black_box(&input)));
}

fn facts<'a>(entry: &'a WorkloadId, scope: &'a [String]) -> ContextFacts<'a> {
    ContextFacts {
        txn: "01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf2",
        scope,
        origin: "user",
        issued_at: NOW_S - 1,
        expires_at: NOW_S + 59,
        entry,
        user: None,
        service: None,
        source: None,
        device: None,
        justification: None,
        acting: false,
        custody: true,
        hops: &[],
        params: None,
    }
}

/// A policy of `rules` rules of which only the last speaks about the request.
fn policy(rules: usize) -> Compiled {
    let mut text = String::from(
        "{apiVersion: countersign.dev/v1alpha1, kind: AccessPolicy,\n\
         metadata: {name: bench, namespace: shop}, spec: {\n\
         selector: {matchLabels: {app: orders}}, direction: inbound, rules: [\n",
    );
    for number in 2..=rules {
        rule(&mut text, number, "other", &format!("caller-{number}"));
    }
    rule(&mut text, 1, "edge", "gateway");
    text.push_str("]}}\n");
    let mesh = "{apiVersion: countersign.dev/v1alpha1, kind: MeshConfig,\n\
                metadata: {name: default}, spec: {trustDomain: bench.test}}\n";
    let sources =
        [Source { name: "mesh.yaml", text: mesh }, Source { name: "access.yaml", text: &text }];
    let documents = load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
    let labels = BTreeMap::from([("app".to_owned(), "orders".to_owned())]);
    compile(&documents, &Workload { namespace: "shop".to_owned(), labels })
}

fn rule(text: &mut String, number: usize, namespace: &str, account: &str) {
    let _ = writeln!(
        text,
        "{{name: rule-{number}, effect: allow, context: required, match: {{\
         caller: {{anyOf: [{{namespace: {namespace}, serviceAccount: {account}}}]}}, \
         http: {{methods: [GET], paths: [{{template: \"/v{number}/users/{{user}}/orders\"}}]}}}}, \
         require: {{token: {{scopes: {{anyOf: [orders.read]}}}}}}}},"
    );
}
