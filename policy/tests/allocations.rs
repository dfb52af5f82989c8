//! Promises about memory and scale: an allow allocates nothing, and thousands of rules load,
//! compile and answer like the one that matters.

use countersign_policy::{
    Caller, Compiled, ContextFacts, DenyReason, Documents, Input, NoHeaders, Outcome, Protocol,
    Request, Source, UserFacts, Workload, compile, load, path::CanonicalPath,
};
use countersign_workload_id::WorkloadId;

const MESH: &str = include_str!("../cases/mesh.yaml");

/// `count` allow rules, each for its own caller and path, and a few deny rules for everybody.
fn documents(count: usize) -> Documents {
    let mut text = String::from(
        "apiVersion: countersign.dev/v1alpha1\nkind: AccessPolicy\n\
         metadata: {name: many, namespace: shop}\nspec:\n  selector: {all: true}\n  \
         direction: inbound\n  resource: {type: user, owner: {fromPath: {template: \
         \"/v1/users/{user}/**\", param: user}}}\n  rules:\n\
         \x20 - {name: no-admin, effect: deny, match: {http: {paths: [{prefix: /admin}]}}}\n\
         \x20 - {name: night, effect: deny, match: {any: true}, require: {time: {timeZone: UTC, \
         windows: [{days: [Mon-Sun], from: \"02:00\", to: \"02:30\"}]}}}\n",
    );
    for number in 0..count {
        text += &format!(
            "  - {{name: r{number}, effect: allow, match: {{caller: {{anyOf: [{{namespace: ns{number}, \
             serviceAccount: a}}]}}, http: {{methods: [GET], paths: [{{template: \
             \"/v1/users/{{user}}/item{number}\"}}]}}}}, require: {{user: {{provider: corp, \
             isResourceOwner: true, maxAuthAge: 12h}}, time: {{timeZone: America/New_York, windows: \
             [{{days: [Mon-Fri], from: \"08:00\", to: \"20:00\"}}]}}}}}}\n"
        );
    }
    let sources = [Source { name: "mesh", text: MESH }, Source { name: "many", text: &text }];
    load(&sources).unwrap_or_else(|problems| panic!("{problems}"))
}

fn compiled(count: usize) -> Compiled {
    compile(&documents(count), &Workload { namespace: "shop".into(), ..Workload::default() })
}

/// Friday 2026-11-20, 18:00 in New York.
const NOW_MS: i64 = 1_795_215_600_000;

fn decide(
    compiled: &Compiled,
    caller: &str,
    path: &str,
    check: impl FnOnce(&Compiled, &Input<'_>),
) {
    let caller: WorkloadId = caller.parse().unwrap();
    let path = CanonicalPath::parse(path, Default::default()).unwrap();
    let now_s = u64::try_from(NOW_MS / 1000).unwrap();
    let user = UserFacts {
        id: "ann",
        provider: Some("corp"),
        account: Some("Ann-42"),
        groups: None,
        auth_time: Some(now_s - 60),
        amr: &[],
        acr: None,
        claims: None,
    };
    let input = Input {
        now_ms: NOW_MS,
        port: 8080,
        caller: Caller::Mesh(&caller),
        peer_ip: None,
        request: Some(Request {
            method: "GET",
            host: "orders.shop",
            path: &path,
            protocol: Protocol::Http,
            headers: &NoHeaders,
        }),
        context: Some(ContextFacts {
            txn: "t",
            scope: &[],
            origin: "user",
            issued_at: now_s,
            expires_at: now_s + 60,
            entry: &caller,
            user: Some(user),
            service: None,
            source: None,
            device: None,
            justification: None,
            acting: false,
            custody: true,
            hops: &[],
            params: None,
        }),
    };
    check(compiled, &input);
}

#[test]
fn an_allow_allocates_nothing() {
    for count in [1, 1000] {
        let compiled = compiled(count);
        let path = format!("/v1/users/Ann-42/item{}", count - 1);
        let caller = format!("spiffe://prod.example.com/ns/ns{}/sa/a", count - 1);
        decide(&compiled, &caller, &path, |compiled, input| {
            let mut allowed = false;
            let counted = allocation_counter::measure(|| {
                allowed = compiled.decide(input).is_allow();
            });
            assert!(allowed);
            assert_eq!(counted.count_total, 0, "with {count} rules");
        });
    }
}

#[test]
fn ten_thousand_rules_are_one_lookup() {
    let compiled = compiled(9_000 / 2);
    assert_eq!(compiled.rules(), 4_502);
    let caller = "spiffe://prod.example.com/ns/ns77/sa/a";
    decide(&compiled, caller, "/v1/users/Ann-42/item77", |compiled, input| {
        let decision = compiled.decide(input);
        assert_eq!(decision.rule.as_ref().map(|rule| rule.id()), Some("shop/many/r77"));
        assert_eq!(decision.resource_owner(input.request.unwrap().path).as_deref(), Some("Ann-42"));
        assert_eq!(decision.route.as_deref(), Some("/v1/users/{user}/item77"));
    });
    decide(&compiled, caller, "/v1/users/Ann-42/item78", |compiled, input| {
        assert_eq!(compiled.decide(input).outcome, Outcome::Deny(DenyReason::NoMatch));
    });
    decide(&compiled, caller, "/Admin/x", |compiled, input| {
        assert_eq!(compiled.decide(input).outcome, Outcome::Deny(DenyReason::DenyRule));
    });
}

/// Every rule names a caller of its own: a set of rules per caller would cost their product.
#[test]
fn what_a_policy_holds_grows_with_its_rules() {
    let held = |count| {
        let documents = documents(count);
        let workload = Workload { namespace: "shop".into(), ..Workload::default() };
        let mut kept = None;
        let counted = allocation_counter::measure(|| kept = Some(compile(&documents, &workload)));
        assert_eq!(kept.map(|it| it.rules()), Some(count + 2));
        counted.bytes_max
    };
    let (some, many) = (held(1_000), held(4_000));
    println!("1,000 rules hold {some} bytes, 4,000 rules {many}");
    assert!(many < some * 5, "{some} bytes for 1,000 rules, {many} for 4,000");
}

#[test]
fn too_many_rules_are_refused_when_they_are_loaded() {
    let mut text = String::from(
        "apiVersion: countersign.dev/v1alpha1\nkind: AccessPolicy\n\
         metadata: {name: many, namespace: shop}\nspec: {selector: {all: true}, direction: inbound, rules: [",
    );
    for number in 0..10_001 {
        text += &format!("{{name: r{number}, effect: deny, match: {{any: true}}}},\n");
    }
    text += "]}\n";
    let sources = [Source { name: "mesh", text: MESH }, Source { name: "many", text: &text }];
    let problems = load(&sources).unwrap_err();
    assert_eq!(problems.0.iter().map(|p| p.code).collect::<Vec<_>>(), ["E017"]);
}
