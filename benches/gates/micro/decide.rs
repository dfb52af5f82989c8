//! One policy decision by the number of rules: permitted by the last rule, denied because none
//! matches, denied because the context is missing; and with every rule a candidate.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;

use countersign_policy::path::{CanonicalOptions, CanonicalPath};
use countersign_policy::{
    Caller, Compiled, ContextFacts, DenyReason, Input, NoHeaders, Outcome, Protocol, Request,
    Source, Workload, compile, load,
};
use countersign_workload_id::WorkloadId;

use super::Steps;
use crate::identities::{GATEWAY_ID, TRUST_DOMAIN};

const RULES: [usize; 4] = [1, 20, 1000, 10_000];
/// Every one of these rules is about the request; only the last one's scope is in the token.
const CANDIDATES: usize = 1000;
const NOW_S: u64 = 1_795_194_010;
const TURNS: usize = 32;
/// Each policy seeds its hash tables anew, and where one look-up meets a stranger first, a decision
/// costs some 70 instructions more. So policies take turns; beside 10,000 rules it does not matter.
const POLICIES: usize = 16;

pub(super) fn run(steps: &Steps<'_>) {
    if !"decide".contains(steps.filter) && !steps.filter.contains("decide") {
        return; // compiling 10,000 rules takes a while
    }
    let here = "/v1/users/u-1/orders";
    for rules in RULES {
        let count = if rules > 1000 { 1 } else { POLICIES };
        let policies: Vec<Compiled> = (0..count).map(|_| policy(rules, About::Others)).collect();
        let allow = Input { context: Some(facts()), ..input() };
        let name = |outcome: &str| format!("decide/{rules}_rules/{outcome}");
        decide(steps, &name("permit"), &policies, allow, here, Outcome::Allow);
        let no_match = Outcome::Deny(DenyReason::NoMatch);
        decide(steps, &name("deny"), &policies, allow, "/v1/other", no_match);
        let missing = Outcome::Deny(DenyReason::TokenMissing);
        decide(steps, &name("deny_no_context"), &policies, input(), here, missing);
    }
    let policies = [policy(CANDIDATES, About::TheRequest)];
    let allow = Input { context: Some(facts()), ..input() };
    let name = format!("decide/{CANDIDATES}_candidates/permit");
    decide(steps, &name, &policies, allow, here, Outcome::Allow);
}

fn decide(
    steps: &Steps<'_>,
    name: &str,
    policies: &[Compiled],
    input: Input<'_>,
    target: &str,
    expected: Outcome,
) {
    let path = CanonicalPath::parse(target, CanonicalOptions::default()).expect("a path");
    let request = Request {
        method: "GET",
        host: "orders.shop",
        path: &path,
        protocol: Protocol::Http,
        headers: &NoHeaders,
    };
    let input = Input { request: Some(request), ..input };
    let mut policies = policies.iter().cycle();
    steps.step(name, TURNS, || {
        let policy = policies.next().expect("a policy");
        assert_eq!(policy.decide(black_box(&input)).outcome, expected);
    });
}

fn input() -> Input<'static> {
    Input {
        now_ms: NOW_S as i64 * 1000,
        port: 8080,
        caller: Caller::Mesh(gateway()),
        peer_ip: None,
        request: None,
        context: None,
    }
}

fn gateway() -> &'static WorkloadId {
    static GATEWAY: std::sync::OnceLock<WorkloadId> = std::sync::OnceLock::new();
    GATEWAY.get_or_init(|| GATEWAY_ID.parse().expect("an id"))
}

fn facts() -> ContextFacts<'static> {
    static SCOPE: std::sync::OnceLock<[String; 1]> = std::sync::OnceLock::new();
    ContextFacts {
        txn: "01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf2",
        scope: SCOPE.get_or_init(|| ["orders.read".to_owned()]),
        origin: "user",
        issued_at: NOW_S - 1,
        expires_at: NOW_S + 59,
        entry: gateway(),
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

/// What the rules but the last speak about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    /// Another path, asked for by another caller.
    Others,
    /// This request, but a scope it does not have.
    TheRequest,
}

/// Rules of one document: a file may hold so many values and no more.
const IN_ONE_DOCUMENT: usize = 1000;

/// A policy of `rules` rules of which only the last permits the request.
fn policy(rules: usize, about: About) -> Compiled {
    let numbers: Vec<usize> = (1..=rules).rev().collect();
    let mut texts = vec![format!(
        "{{apiVersion: countersign.dev/v1alpha1, kind: MeshConfig,\n\
         metadata: {{name: default}}, spec: {{trustDomain: {TRUST_DOMAIN}}}}}\n"
    )];
    for (part, numbers) in numbers.chunks(IN_ONE_DOCUMENT).enumerate() {
        texts.push(document(part, numbers, about));
    }
    let sources: Vec<Source<'_>> =
        texts.iter().map(|text| Source { name: "gates.yaml", text }).collect();
    let documents = load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
    let labels = BTreeMap::from([("app".to_owned(), "orders".to_owned())]);
    compile(&documents, &Workload { namespace: "shop".to_owned(), labels })
}

fn document(part: usize, numbers: &[usize], about: About) -> String {
    let mut text = format!(
        "{{apiVersion: countersign.dev/v1alpha1, kind: AccessPolicy,\n\
         metadata: {{name: gates-{part:02}, namespace: shop}}, spec: {{\n\
         selector: {{matchLabels: {{app: orders}}}}, direction: inbound, rules: [\n"
    );
    for number in numbers {
        match (*number, about) {
            (1, _) => rule(&mut text, 1, "gateway", 1, "orders.read"),
            (other, About::Others) => {
                rule(&mut text, other, &format!("caller-{other}"), other, "orders.read");
            }
            (other, About::TheRequest) => {
                rule(&mut text, other, "gateway", 1, &format!("scope-{other}"));
            }
        }
    }
    text.push_str("]}}\n");
    text
}

fn rule(text: &mut String, number: usize, account: &str, path: usize, scope: &str) {
    let _ = writeln!(
        text,
        "{{name: rule-{number}, effect: allow, context: required, match: {{\
         caller: {{anyOf: [{{namespace: edge, serviceAccount: {account}}}]}}, \
         http: {{methods: [GET], paths: [{{template: \"/v{path}/users/{{user}}/orders\"}}]}}}}, \
         require: {{token: {{scopes: {{anyOf: [{scope}]}}}}}}}},"
    );
}
