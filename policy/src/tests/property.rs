//! The compiled evaluator against the slow one, on generated policies and requests.

use std::net::IpAddr;

use countersign_workload_id::WorkloadId;
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    Caller, ContextFacts, DenyReason, DeviceFacts, Documents, Input, InputOwned,
    JustificationFacts, Outcome, Protocol, Request, Source, SourceFacts, UserFacts, Workload,
    compile, load,
    path::{CanonicalOptions, CanonicalPath, PathParams},
    reference,
};

const MESH: &str = r#"
apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec:
  trustDomain: t
  cidrSets: {near: ["10.0.0.0/8", "fd00::/8"], far: ["192.0.2.0/24"]}
  identityProviders:
    - name: corp
      spec:
        issuer: "https://corp"
        audiences: [a]
        algorithms: [ES256]
        keys: {file: k}
        claims:
          sub: {type: string, as: id}
          uid: {type: string, as: accountId}
          at: {type: timestamp, as: authTime}
          groups: {type: stringList, as: groups}
          tenant: {type: string}
  attributeProviders:
    - name: tickets
      spec:
        authzen: {endpoint: "https://t.test/"}
        request: {subject: {type: user, id: user.id}, action: use, resource: {type: ticket, id: justification.ref}}
        facts: {customer: string, size: int}
        onUnavailable: unknown
  gateways:
    - name: edge
      namespace: edge
      spec:
        selector: {all: true}
        role: gateway
        user: {providers: [corp], whenMissing: refuse}
        proxies: [{name: iap, clientCertificate: {trustBundle: p, dns: [iap.test]}}]
        device: {sources: [{clientCertificate: {trustBundle: d}}]}
        justification: {header: Countersign-Justification, kinds: {ticket: {pattern: "T-[0-9]+", validate: tickets}}}
        mint: [{match: {any: true}, scope: s}]
"#;

const ATOMS: &[&str] = &[
    "user: {provider: corp, ids: [ann]}",
    "user: {provider: corp, anyGroup: [ops]}",
    "user: {provider: corp, isResourceOwner: true}",
    "user: {provider: corp, maxAuthAge: 10m, claims: {tenant: {anyOf: [acme]}}}",
    "user: {absent: true}",
    "source: {at: origin, cidrSets: [near]}",
    "source: {at: peer, cidrSets: [far, near]}",
    "source: {at: origin, cidrSets: [near, far], sources: [\"xff:1\"]}",
    "time: {timeZone: UTC, windows: [{days: [Mon-Fri], from: \"09:00\", to: \"17:00\"}]}",
    "time: {timeZone: UTC, evaluateAt: entry, windows: [{days: [Mon-Sun], from: \"22:00\", to: \"06:00\"}]}",
    "justification: {anyKind: [ticket], checked: true, maxAge: 1h}",
    "justification: {anyKind: [ticket], facts: {customer: {equalsAttr: resource.owner}}}",
    "justification: {anyKind: [ticket], maxAge: 1h, facts: {customer: {anyOf: [\"42\"]}, size: {anyOf: [3]}}}",
    "device: {managed: true}",
    "device: {tiers: [\"1\", \"2\"], maxPostureAge: 1h}",
    "device: {managed: true, sources: [mtls, \"header:iap\"]}",
    "token: {scopes: {anyOf: [read, write]}, maxAge: 2m}",
    "token: {origins: [batch]}",
    "chain: {origin: {namespace: edge, serviceAccount: gateway}}",
    "chain: {through: [{namespace: a, serviceAccount: b}], maxHops: 2}",
    "chain: {maxHops: 1}",
    "chain: {custody: true}",
    "params: {user: {fromPath: {template: \"/u/{user}\", param: user}}}",
    "params: {order: {fromQuery: order}}",
    "params: {order: {fromQuery: order}, shop: {fromQuery: shop}}",
    // Many distinct atoms, so that the memo is more than one word.
    "token: {maxAge: 20s}",
    "token: {maxAge: 34s}",
    "token: {maxAge: 48s}",
    "token: {maxAge: 62s}",
    "token: {maxAge: 76s}",
    "token: {maxAge: 90s}",
    "token: {maxAge: 104s}",
    "token: {maxAge: 118s}",
    "token: {maxAge: 132s}",
    "token: {maxAge: 146s}",
    "token: {maxAge: 160s}",
    "token: {maxAge: 174s}",
    "token: {maxAge: 188s}",
    "token: {maxAge: 202s}",
    "token: {maxAge: 216s}",
    "token: {maxAge: 230s}",
    "token: {maxAge: 244s}",
    "token: {maxAge: 258s}",
    "token: {maxAge: 272s}",
    "token: {maxAge: 286s}",
];

const CALLERS: &[&str] = &[
    "caller: {anyOf: [{namespace: a, serviceAccount: b}]}",
    "caller: {anyOf: [{namespace: a, serviceAccount: b}, {namespace: c, serviceAccount: d}]}",
    "caller: {anyOf: [{spiffeId: \"spiffe://other/x\"}]}",
    "caller: {anyInMesh: true}",
    "caller: {unauthenticated: true}",
];

const PROTOCOLS: &[&str] = &[
    "any: true",
    "http: {methods: [GET, HEAD]}",
    "http: {hosts: [h.a]}",
    "http: {paths: [{exact: /a/b}]}",
    "http: {paths: [{exact: /a/b/}, {exact: /}]}",
    "http: {paths: [{prefix: /a}]}",
    "http: {paths: [{prefix: /}]}",
    "http: {methods: [POST], paths: [{template: \"/u/{user}\"}]}",
    "http: {paths: [{template: \"/u/{user}/**\"}, {template: \"/{any}/b\"}]}",
    "http: {paths: [{template: \"/s.S/{m}\"}, {exact: \"/@me\"}]}",
    "http: {headers: [{name: X-A, anyOf: [\"one\"]}]}",
    "http: {headers: [{name: x_a, values: everyValue, anyOf: [\"one\", two]}]}",
    "grpc: {service: s.S, methods: [Get]}",
    "grpc: {service: s.S}",
    TCP,
];

const TCP: &str = "tcp: {any: true}";

#[derive(Clone, Debug)]
struct RuleSpec {
    policy: usize,
    allow: bool,
    caller: Option<&'static str>,
    protocol: &'static str,
    require: Vec<&'static str>,
    unless: Vec<Vec<&'static str>>,
    context: &'static str,
}

fn rule() -> impl Strategy<Value = RuleSpec> {
    let atoms = || vec(select(ATOMS), 0..4);
    (
        0..3usize,
        any::<bool>(),
        option::weighted(0.7, select(CALLERS)),
        select(PROTOCOLS),
        atoms(),
        vec(vec(select(ATOMS), 1..3), 0..3),
        select(&["required", "optional", "none"][..]),
    )
        .prop_map(|(policy, allow, caller, protocol, require, unless, context)| RuleSpec {
            policy,
            allow,
            caller: caller.or(allow.then_some(CALLERS[3])),
            protocol,
            require,
            unless,
            context,
        })
}

/// Atoms of one set, without a second one of the same key, without owners where no path names
/// one, and without context where there is none: those are load errors with tests of their own.
fn atom_set(atoms: &[&'static str], protocol: &str) -> Option<String> {
    let owner = protocol == "http: {methods: [POST], paths: [{template: \"/u/{user}\"}]}";
    let mut out: Vec<&str> = Vec::new();
    for atom in atoms {
        let key = atom.split(':').next();
        let repeated = out.iter().any(|own| own.split(':').next() == key);
        let possible = protocol != TCP
            || ["user: {absent", "source: {at: peer", "time: {timeZone: UTC, windows"]
                .iter()
                .any(|start| atom.starts_with(start));
        let names_user = ["esourceOwner", "resource.owner", "fromPath"];
        let names_user = names_user.iter().any(|word| atom.contains(word));
        if !repeated && possible && (owner || !names_user) {
            out.push(atom);
        }
    }
    (!out.is_empty()).then(|| format!("{{{}}}", out.join(", ")))
}

fn policies(rules: &[RuleSpec]) -> String {
    let heads = [
        ("w", "p", "selector: {all: true}", ""),
        ("w", "p-q", "selector: {matchLabels: {app: x}}", "ports: [80, 81]"),
        ("countersign-system", "guard", "selector: {all: true}", ""),
    ];
    let mut text = String::new();
    for (at, (namespace, name, selector, ports)) in heads.iter().enumerate() {
        let mut body = String::new();
        for (number, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.policy == at) {
            let caller = rule.caller.map(|caller| format!("{caller}, ")).unwrap_or_default();
            let protocol = rule.protocol;
            let effect = if rule.allow { "allow" } else { "deny" };
            body += &format!("    - name: r{number}\n      effect: {effect}\n");
            body += &format!("      match: {{{caller}{protocol}}}\n");
            if let Some(set) = atom_set(&rule.require, protocol) {
                body += &format!("      require: {set}\n");
            }
            let unless: Vec<String> =
                rule.unless.iter().filter_map(|set| atom_set(set, protocol)).collect();
            if rule.allow && protocol == TCP {
                // Nothing else is possible, and writing it is an error.
            } else if rule.allow {
                body += &format!("      context: {}\n", rule.context);
            } else if !unless.is_empty() {
                body += &format!("      unless: [{}]\n", unless.join(", "));
            }
        }
        if body.is_empty() {
            continue;
        }
        text += &format!(
            "---\napiVersion: countersign.dev/v1alpha1\nkind: AccessPolicy\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  {selector}\n  {ports}\n  \
             direction: inbound\n  resource: {{type: user, owner: {{fromPath: \
             {{template: \"/u/{{user}}\", param: user}}}}}}\n  rules:\n{body}"
        );
    }
    text
}

#[derive(Clone, Debug)]
struct RequestSpec {
    hour: i64,
    port: u16,
    opaque: bool,
    caller: Option<&'static str>,
    peer: Option<&'static str>,
    method: &'static str,
    host: &'static str,
    path: &'static str,
    grpc: bool,
    header: Vec<&'static str>,
    context: Option<ContextSpec>,
}

#[derive(Clone, Debug)]
struct ContextSpec {
    scope: Vec<&'static str>,
    origin: &'static str,
    age_s: u64,
    user: Option<(&'static str, Option<&'static str>, Option<&'static str>)>,
    details: Option<(bool, u64, &'static str)>,
    source: Option<(&'static str, &'static str)>,
    justification: Option<JustificationSpec>,
    device: Option<DeviceSpec>,
    acting: bool,
    /// How many held it; `None`: custody is off.
    hops: Option<usize>,
    params: Option<(&'static str, Option<&'static str>)>,
}

type JustificationSpec = (bool, Option<u64>, Option<(&'static str, i64)>);
type DeviceSpec = (Option<&'static str>, Option<bool>, Option<&'static str>, Option<u64>);

fn context() -> impl Strategy<Value = ContextSpec> {
    (
        vec(select(&["read", "write", "other"][..]), 0..2),
        select(&["user", "batch", "service"][..]),
        0..300u64,
        option::of((
            select(&["ann", "bob"][..]),
            option::weighted(0.8, select(&["corp", "else"][..])),
            option::weighted(0.8, select(&["42", "7"][..])),
        )),
        option::of((any::<bool>(), 0..1200u64, select(&["acme", "globex"][..]))),
        option::of((
            select(&["10.1.1.1", "192.0.2.9", "::ffff:10.0.0.1", "203.0.113.1"][..]),
            select(&["xff:1", "peer"][..]),
        )),
        option::of((
            any::<bool>(),
            option::of(0..7200u64),
            option::of((select(&["42", "7"][..]), 2..5i64)),
        )),
        option::of((
            option::of(select(&["1", "3"][..])),
            option::of(any::<bool>()),
            option::of(select(&["mtls", "idp"][..])),
            option::of(0..7200u64),
        )),
        (
            any::<bool>(),
            option::weighted(0.8, 0..4usize),
            option::of((select(&["7", "42"][..]), option::of(select(&["a", "b"][..])))),
        ),
    )
        .prop_map(
            |(scope, origin, age_s, user, details, source, justification, device, rest)| {
                let (acting, hops, params) = rest;
                ContextSpec {
                    scope,
                    origin,
                    age_s,
                    user,
                    details,
                    source,
                    justification,
                    device,
                    acting,
                    hops,
                    params,
                }
            },
        )
}

fn request() -> impl Strategy<Value = RequestSpec> {
    let paths = [
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/a/b/",
        "/A/B",
        "/%61/b",
        "/a%21/b",
        "/u/42",
        "/u/42/",
        "/U/42",
        "/u/4%32/x",
        "/u/42?order=7",
        "/a/b?order=7&shop=a",
        "/a/b?order=7&ORDER=7",
        "/a?order=8&shop=b",
        "/s.S/Get",
        "/s.S/Set",
        "/S.s/get/",
        "/%40me",
        "/@me",
        "/x/b",
        "*",
    ];
    (
        0..24 * 14i64,
        (select(&[80u16, 81, 90][..]), prop::bool::weighted(0.2)),
        option::weighted(
            0.8,
            select(
                &[
                    "spiffe://t/ns/a/sa/b",
                    "spiffe://t/ns/c/sa/d",
                    "spiffe://t/ns/e/sa/f",
                    "spiffe://other/x",
                    "spiffe://other/y",
                ][..],
            ),
        ),
        option::of(select(&["10.9.9.9", "198.51.100.1"][..])),
        select(&["GET", "POST", "OPTIONS"][..]),
        select(&["h.a", "h.b"][..]),
        select(paths.to_vec()),
        any::<bool>(),
        vec(select(&["one", "one, two", "three"][..]), 0..3),
        option::weighted(0.75, context()),
    )
        .prop_map(|(hour, on, caller, peer, method, host, path, grpc, header, context)| {
            let (port, opaque) = on;
            let context = context.filter(|_| !opaque);
            RequestSpec {
                hour,
                port,
                opaque,
                caller,
                peer,
                method,
                host,
                path,
                grpc,
                header,
                context,
            }
        })
}

fn object(value: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    value.as_object().unwrap().clone()
}

fn device_facts((tier, managed, src, age): DeviceSpec, now_s: u64) -> DeviceFacts<'static> {
    DeviceFacts { id: Some("d-1"), tier, managed, src, at: age.map(|age| now_s - age) }
}

/// Who may have held a token, oldest first.
fn holders() -> Vec<WorkloadId> {
    let ids = ["e/sa/f", "a/sa/b", "c/sa/d"];
    ids.map(|id| format!("spiffe://t/ns/{id}").parse().unwrap()).into()
}

fn signed_params(spec: &RequestSpec) -> Option<serde_json::Map<String, serde_json::Value>> {
    let (order, shop) = spec.context.as_ref()?.params?;
    Some(object(match shop {
        Some(shop) => serde_json::json!({"order": order, "user": order, "shop": shop}),
        None => serde_json::json!({"order": order, "user": order}),
    }))
}

/// Builds the input of a generated request and hands it on.
fn with_input<R>(spec: &RequestSpec, then: impl FnOnce(&Input<'_>) -> R) -> R {
    let now_ms = 1_795_000_000_000 + spec.hour * 3_600_000;
    let now_s = u64::try_from(now_ms / 1000).unwrap();
    let caller: Option<WorkloadId> = spec.caller.map(|id| id.parse().unwrap());
    let method = if spec.path == "*" { "OPTIONS" } else { spec.method };
    let options = CanonicalOptions { params: PathParams::Keep, ..CanonicalOptions::default() };
    let path = CanonicalPath::from_target(method, spec.path, spec.host, options).unwrap();
    let headers: Vec<(String, Vec<u8>)> =
        spec.header.iter().map(|value| ("X_a".to_owned(), value.as_bytes().to_vec())).collect();
    let entry: WorkloadId = "spiffe://t/ns/edge/sa/gateway".parse().unwrap();
    let strings = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<String>>();
    let scope = spec.context.as_ref().map(|c| strings(&c.scope)).unwrap_or_default();
    let ops = strings(&["ops"]);
    let none = Vec::new();
    let details = spec.context.as_ref().and_then(|c| c.details.as_ref());
    let tenant = details.map(|(_, _, tenant)| object(serde_json::json!({ "tenant": tenant })));
    let said = spec.context.as_ref().and_then(|c| c.justification?.2);
    let said = said
        .map(|(customer, size)| object(serde_json::json!({ "customer": customer, "size": size })));
    let (holders, params) = (holders(), signed_params(spec));
    let context = spec.context.as_ref().map(|c| ContextFacts {
        txn: "t",
        scope: &scope,
        origin: c.origin,
        issued_at: now_s - c.age_s,
        expires_at: now_s + 1,
        entry: &entry,
        user: c.user.map(|(id, provider, account)| UserFacts {
            id,
            provider,
            account,
            groups: c.details.map(|(ops_member, _, _)| if ops_member { &*ops } else { &*none }),
            auth_time: c.details.map(|(_, age, _)| now_s - age),
            amr: &[],
            acr: None,
            claims: tenant.as_ref(),
        }),
        service: None,
        source: c.source.map(|(ip, via)| SourceFacts { ip: ip.parse().unwrap(), via }),
        device: c.device.map(|device| device_facts(device, now_s)),
        justification: c.justification.map(|(checked, age, _)| JustificationFacts {
            kind: "ticket",
            reference: "T-1",
            checked,
            at: age.map(|age| now_s - age),
            facts: said.as_ref(),
        }),
        acting: c.acting,
        custody: c.hops.is_some(),
        hops: holders.get(..c.hops.unwrap_or(0)).unwrap_or_default(),
        params: params.as_ref(),
    });
    let input = Input {
        now_ms,
        port: spec.port,
        caller: match &caller {
            Some(id) => Caller::Mesh(id),
            None => Caller::Unauthenticated("plaintext"),
        },
        peer_ip: spec.peer.map(|ip| ip.parse::<IpAddr>().unwrap()),
        request: (!spec.opaque).then_some(Request {
            method,
            host: spec.host,
            path: &path,
            protocol: if spec.grpc { Protocol::Grpc } else { Protocol::Http },
            headers: &headers,
        }),
        context,
    };
    then(&input)
}

fn workload() -> Workload {
    Workload {
        namespace: "w".to_owned(),
        labels: [("app".to_owned(), "x".to_owned())].into_iter().collect(),
    }
}

fn loaded(rules: &[RuleSpec]) -> Documents {
    let text = policies(rules);
    let sources = [Source { name: "mesh", text: MESH }, Source { name: "policies", text: &text }];
    load(&sources).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
}

/// Both evaluators say the same of each request, and so does the explanation.
fn agree(rules: &[RuleSpec], requests: &[RequestSpec]) -> Result<(), TestCaseError> {
    let documents = loaded(rules);
    let compiled = compile(&documents, &workload());
    for spec in requests {
        with_input(spec, |input| {
            let (outcome, rule) = reference::decide(&documents, &workload(), input);
            let decision = compiled.decide(input);
            prop_assert_eq!(decision.outcome, outcome, "{:?}\n{}", spec, policies(rules));
            if matches!(outcome, Outcome::Allow | Outcome::Deny(DenyReason::DenyRule)) {
                let id = decision.rule.as_ref().map(ToString::to_string);
                prop_assert_eq!(id, rule);
            }
            // An opaque connection passes by no rule about requests.
            if let (true, true, Some(rule)) = (spec.opaque, decision.is_allow(), &decision.rule) {
                let number: usize = rule.rule.strip_prefix('r').unwrap().parse().unwrap();
                prop_assert!(["any: true", TCP].contains(&rules[number].protocol));
            }
            // An explanation tells the same story, also from the copy that is kept.
            let told = compiled.explain(input);
            let kept: InputOwned = compiled.keep(input);
            prop_assert_eq!(&told, &compiled.explain(&kept.as_input()));
            let denied = |r: &crate::RuleTrace| r.effect == "deny" && r.result != "false";
            let allowed = |r: &crate::RuleTrace| r.effect == "allow" && r.result == "true";
            let expected = !told.rules.iter().any(denied) && told.rules.iter().any(allowed);
            prop_assert_eq!(decision.is_allow(), expected, "{}\n{:?}", told, spec);
            Ok(())
        })?;
    }
    Ok(())
}

/// Few of which deny, so that requests get past those.
fn many_rules() -> impl Strategy<Value = Vec<RuleSpec>> {
    let one = (rule(), prop::bool::weighted(0.02)).prop_map(|(rule, denies)| RuleSpec {
        allow: !denies,
        caller: rule.caller.or((!denies).then_some(CALLERS[3])),
        ..rule
    });
    vec(one, 65..330)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn compiled_and_reference_agree(
        rules in vec(rule(), 1..32),
        requests in vec(request(), 1..12),
    ) {
        agree(&rules, &requests)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Candidates are sets of bits, 64 to a word, and lists where they are few in many words.
    #[test]
    fn compiled_and_reference_agree_on_many_rules(
        rules in many_rules(),
        requests in vec(request(), 20..40),
    ) {
        agree(&rules, &requests)?;
    }
}
