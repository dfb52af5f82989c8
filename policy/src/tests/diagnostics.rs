//! What people read when a document is wrong: the texts themselves, kept as snapshots.

#![expect(clippy::too_many_lines, reason = "a snapshot is as long as what people read")]

use expect_test::{Expect, expect};

use crate::{Source, load};

const MESH: &str = r#"apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec:
  trustDomain: prod.example.com
  cidrSets: {office: ["198.51.100.0/24"]}
  calendars: {us-holidays: ["2026-11-26"]}
  identityProviders:
    - name: corp
      spec:
        issuer: "https://login.example.com/"
        audiences: ["https://api.example.com"]
        algorithms: [RS256]
        keys: {file: jwks.json}
        claims: {sub: {type: string, as: id}, groups: {type: stringList, as: groups, keep: [ops]}}
"#;

/// Loads a mesh and one more text; prints what was found.
fn check_with(mesh: &str, text: &str, expected: Expect) {
    let sources = [Source { name: "mesh.yaml", text: mesh }, Source { name: "policy.yaml", text }];
    let found = match load(&sources) {
        Err(problems) => problems.to_string(),
        Ok(documents) => {
            let warnings = documents.warnings.iter().map(ToString::to_string);
            format!("ok\n{}", warnings.collect::<Vec<_>>().join("\n"))
        }
    };
    expected.assert_eq(&found);
}

/// An `AccessPolicy` in which `rule` is the body of its one rule.
fn policy(head: &str, rule: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: AccessPolicy\n\
         metadata: {{name: p, namespace: shop}}\nspec:\n  selector: {{all: true}}\n  \
         direction: inbound\n{head}  rules:\n  - name: r\n{rule}"
    )
}

const CALLER: &str = "caller: {anyOf: [{namespace: edge, serviceAccount: gateway}]}";

fn check(text: &str, expected: Expect) {
    check_with(MESH, text, expected);
}

/// A rule that allows the gateway and has this as its last lines.
fn check_rule(lines: &str, expected: Expect) {
    let rule = format!("    effect: allow\n    match: {{{CALLER}}}\n{lines}");
    check(&policy("", &rule), expected);
}

#[test]
fn every_problem_of_every_document_in_one_run() {
    let mesh = MESH.replace("trustDomain: prod", "trustDomian: prod");
    let text = policy(
        "  prots: [80]\n",
        "    effect: alow\n    match: {http: {methods: [get], paths: [{prefix: /a//b}]}}\n    \
         require: {user: {provider: crop}, time: {timeZone: EST, windows: [{days: [Mon-Fri], from: 17:00, to: \"25:00\"}]}}\n",
    );
    check_with(
        &mesh,
        &text,
        expect![[r#"
            error[E013]: MeshConfig needs `trustDomain`
              --> mesh.yaml:5:3
            5 |   trustDomian: prod.example.com
              |   ^^^^^^^^^^^
            error[E013]: unknown field `trustDomian` in MeshConfig
              --> mesh.yaml:5:3
            5 |   trustDomian: prod.example.com
              |   ^^^^^^^^^^^ did you mean `trustDomain`?
            error[E013]: unknown field `prots` in AccessPolicy
              --> policy.yaml:7:3
            7 |   prots: [80]
              |   ^^^^^ did you mean `ports`?
            error[E013]: unknown value `alow`
              --> policy.yaml:10:13
            10 |     effect: alow
               |             ^^^^ did you mean `allow`?
            error[E014]: `get` is not a method; methods are case-sensitive
              --> policy.yaml:11:30
            11 |     match: {http: {methods: [get], paths: [{prefix: /a//b}]}}
               |                              ^^^ write `GET`
            error[E014]: path `/a//b` is not canonical and could never match
              --> policy.yaml:11:53
            11 |     match: {http: {methods: [get], paths: [{prefix: /a//b}]}}
               |                                                     ^^^^^
            error[E005]: IdentityProvider `crop` does not exist
              --> policy.yaml:12:32
            12 |     require: {user: {provider: crop}, time: {timeZone: EST, windows: [{days: [Mon-Fri], from: 17:00, to: "25:00"}]}}
               |                                ^^^^ did you mean `corp` (mesh.yaml:9)?
            error[E006]: `EST` is not a time zone
              --> policy.yaml:12:56
            12 |     require: {user: {provider: crop}, time: {timeZone: EST, windows: [{days: [Mon-Fri], from: 17:00, to: "25:00"}]}}
               |                                                        ^^^ write an IANA name, such as `America/New_York`, or `UTC`
            error[E006]: `17:00` is not a text; YAML 1.1 readers turn it into 1020
              --> policy.yaml:12:95
            12 |     require: {user: {provider: crop}, time: {timeZone: EST, windows: [{days: [Mon-Fri], from: 17:00, to: "25:00"}]}}
               |                                                                                               ^^^^^ write "17:00"
            error[E006]: `25:00` is not a time of day
              --> policy.yaml:12:106
            12 |     require: {user: {provider: crop}, time: {timeZone: EST, windows: [{days: [Mon-Fri], from: 17:00, to: "25:00"}]}}
               |                                                                                                          ^^^^^^^ write "HH:MM", from "00:00" to "23:59"; an end may be "24:00""#]],
    );
}

#[test]
fn references_are_checked_where_they_stand() {
    check_rule(
        "    require:\n      user: {provider: crop, anyGroup: [ops]}\n      \
         source: {at: origin, cidrSets: [offcie]}\n      \
         justification: {anyKind: [ticket]}\n      \
         time: {timeZone: America/New_Yrok, exceptCalendars: [holidays], windows: [{days: [Mo], from: \"09:00\", to: \"10:00\"}]}\n",
        expect![[r#"
            error[E005]: IdentityProvider `crop` does not exist
              --> policy.yaml:12:24
            12 |       user: {provider: crop, anyGroup: [ops]}
               |                        ^^^^ did you mean `corp` (mesh.yaml:9)?
            error[E005]: cidrSet `offcie` does not exist
              --> policy.yaml:13:39
            13 |       source: {at: origin, cidrSets: [offcie]}
               |                                       ^^^^^^ did you mean `office` (mesh.yaml:6)?
            error[E005]: justification kind `ticket` is captured by no gateway
              --> policy.yaml:14:33
            14 |       justification: {anyKind: [ticket]}
               |                                 ^^^^^^ declare it in `justification.kinds` of a ContextPolicy
            error[E006]: `America/New_Yrok` is not a time zone
              --> policy.yaml:15:24
            15 |       time: {timeZone: America/New_Yrok, exceptCalendars: [holidays], windows: [{days: [Mo], from: "09:00", to: "10:00"}
               |                        ^^^^^^^^^^^^^^^^ did you mean `America/New_York`?
            error[E005]: calendar `holidays` does not exist
              --> policy.yaml:15:60
            15 | ne: America/New_Yrok, exceptCalendars: [holidays], windows: [{days: [Mo], from: "09:00", to: "10:00"}]}
               |                                         ^^^^^^^^
            error[E006]: `Mo` is not a day
              --> policy.yaml:15:89
            15 | alendars: [holidays], windows: [{days: [Mo], from: "09:00", to: "10:00"}]}
               |                                         ^^ days are Mon, Tue, Wed, Thu, Fri, Sat, Sun, and ranges such as Mon-Fri"#]],
    );
    check_rule(
        "    require:\n      user: {provider: corp, anyGroup: [opps], maxAuthAge: 1h, claims: {tenant: {anyOf: [a]}}}\n",
        expect![[r#"
            error[E005]: group `opps` is not kept by the provider
              --> policy.yaml:12:41
            12 |       user: {provider: corp, anyGroup: [opps], maxAuthAge: 1h, claims: {tenant: {anyOf: [a]}}}
               |                                         ^^^^ did you mean `ops`?
            error[E005]: the identity provider declares no claim `as: authTime`
              --> policy.yaml:12:60
            12 |       user: {provider: corp, anyGroup: [opps], maxAuthAge: 1h, claims: {tenant: {anyOf: [a]}}}
               |                                                            ^^ declare it at mesh.yaml:9, or this could never be known
            error[E002]: the identity provider declares no claim `tenant`
              --> policy.yaml:12:73
            12 |       user: {provider: corp, anyGroup: [opps], maxAuthAge: 1h, claims: {tenant: {anyOf: [a]}}}
               |                                                                         ^^^^^^"#]],
    );
}

#[test]
fn attack_exploits_unknown_field() {
    check_rule(
        "    reqiure: {user: {provider: corp}}\n",
        expect![[r#"
        error[E013]: unknown field `reqiure` in a rule
          --> policy.yaml:11:5
        11 |     reqiure: {user: {provider: corp}}
           |     ^^^^^^^ did you mean `require`?"#]],
    );
    check_rule(
        "    require: {user: {provider: corp, idss: [ann]}}\n",
        expect![[r#"
        error[E013]: unknown field `idss` in user
          --> policy.yaml:11:38
        11 |     require: {user: {provider: corp, idss: [ann]}}
           |                                      ^^^^ did you mean `ids`?"#]],
    );
}

#[test]
fn attack_feeds_older_proxy_newer_field() {
    check_rule(
        "    require: {when: [\"user.id == 'a'\"], build: {of: caller}}\n    obligations: {notify: ops}\n",
        expect![[r#"
            error[E013]: `when` is not supported yet
              --> policy.yaml:11:15
            11 |     require: {when: ["user.id == 'a'"], build: {of: caller}}
               |               ^^^^ remove it; it would have no effect
            error[E013]: `build` is not supported yet
              --> policy.yaml:11:41
            11 |     require: {when: ["user.id == 'a'"], build: {of: caller}}
               |                                         ^^^^^ remove it; it would have no effect
            error[E013]: `notify` is not supported yet
              --> policy.yaml:12:19
            12 |     obligations: {notify: ops}
               |                   ^^^^^^ remove it; it would have no effect"#]],
    );
    check(
        &policy("  mode: audit\n", "    effect: deny\n    match: {any: true}\n")
            .replace("direction: inbound", "direction: outbound"),
        expect![[r#"
            error[E013]: `direction: outbound` is not supported yet
              --> policy.yaml:6:14
            6 |   direction: outbound
              |              ^^^^^^^^
            error[E013]: `mode: audit` is not supported yet
              --> policy.yaml:7:9
            7 |   mode: audit
              |         ^^^^^"#]],
    );
    check(
        "apiVersion: countersign.dev/v1alpha1\nkind: BuildTrust\nmetadata: {name: x}\nspec: {}\n",
        expect![[r#"
            error[E013]: kind `BuildTrust` is not supported yet
              --> policy.yaml:2:7
            2 | kind: BuildTrust
              |       ^^^^^^^^^^"#]],
    );
    check(
        "apiVersion: countersign.dev/v2\nkind: AcessPolicy\nmetadata: {name: x}\nspec: {}\n",
        expect![[r#"
            error[E013]: unknown value `countersign.dev/v2`
              --> policy.yaml:1:13
            1 | apiVersion: countersign.dev/v2
              |             ^^^^^^^^^^^^^^^^^^ only `countersign.dev/v1alpha1` is accepted
            error[E013]: unknown kind `AcessPolicy`
              --> policy.yaml:2:7
            2 | kind: AcessPolicy
              |       ^^^^^^^^^^^ did you mean `AccessPolicy`?"#]],
    );
}

#[test]
fn yaml_that_reads_in_two_ways_is_refused() {
    check_rule(
        "    require: &a {user: {provider: corp}}\n    message: yes\n    message: two\n    context: !!str none\n",
        expect![[r#"
            warning[W109]: rule `r` hides the context: onward calls lose the user
              --> policy.yaml:8:5
            8 |   - name: r
              |     ^^^^^^^
            error[E013]: anchors are not accepted; write the value again
              --> policy.yaml:11:17
            11 |     require: &a {user: {provider: corp}}
               |                 ^
            error[E013]: `yes` is not a text: YAML readers take it for something else
              --> policy.yaml:12:14
            12 |     message: yes
               |              ^^^ write "yes"
            error[E019]: `message` stands here twice
              --> policy.yaml:13:5
            13 |     message: two
               |     ^^^^^^^ the first one is on line 12; remove one of them
            error[E013]: YAML tags are not accepted
              --> policy.yaml:14:20
            14 |     context: !!str none
               |                    ^^^^"#]],
    );
    check_rule(
        "    require: {user: {provider: corp, ids: [on, 12, 0x1f, 2026-01-01, ~]}}\n",
        expect![[r#"
            error[E013]: `on` is not a text: YAML readers take it for something else
              --> policy.yaml:11:44
            11 |     require: {user: {provider: corp, ids: [on, 12, 0x1f, 2026-01-01, ~]}}
               |                                            ^^ write "on"
            error[E013]: `12` is not a text: YAML readers take it for something else
              --> policy.yaml:11:48
            11 |     require: {user: {provider: corp, ids: [on, 12, 0x1f, 2026-01-01, ~]}}
               |                                                ^^ write "12"
            error[E013]: `0x1f` is not a text: YAML readers take it for something else
              --> policy.yaml:11:52
            11 |     require: {user: {provider: corp, ids: [on, 12, 0x1f, 2026-01-01, ~]}}
               |                                                    ^^^^ write "0x1f"
            error[E013]: `2026-01-01` is not a text: YAML readers take it for something else
              --> policy.yaml:11:58
            11 |     require: {user: {provider: corp, ids: [on, 12, 0x1f, 2026-01-01, ~]}}
               |                                                          ^^^^^^^^^^ write "2026-01-01"
            error[E013]: `~` is not a text: YAML readers take it for something else
              --> policy.yaml:11:70
            11 |     require: {user: {provider: corp, ids: [on, 12, 0x1f, 2026-01-01, ~]}}
               |                                                                      ^ write "~""#]],
    );
    check_rule(
        "    require: {user: {absent: yes}}\n",
        expect![[r#"
        error[E013]: `true` or `false` was expected, not `yes`
          --> policy.yaml:11:30
        11 |     require: {user: {absent: yes}}
           |                              ^^^ write `true`"#]],
    );
    check(
        "a: &x {b: 1}\nc: {<<: *x}\n",
        expect![[r#"
        error[E013]: a document needs `apiVersion`
          --> policy.yaml:1:1
        1 | a: &x {b: 1}
          | ^
        error[E013]: a document needs `kind`
          --> policy.yaml:1:1
        1 | a: &x {b: 1}
          | ^
        error[E013]: a document needs `metadata`
          --> policy.yaml:1:1
        1 | a: &x {b: 1}
          | ^
        error[E013]: a document needs `spec`
          --> policy.yaml:1:1
        1 | a: &x {b: 1}
          | ^
        error[E013]: unknown field `a` in a document
          --> policy.yaml:1:1
        1 | a: &x {b: 1}
          | ^ it has `apiVersion`, `kind`, `metadata` and `spec`
        error[E013]: anchors are not accepted; write the value again
          --> policy.yaml:1:7
        1 | a: &x {b: 1}
          |       ^
        error[E013]: unknown field `c` in a document
          --> policy.yaml:2:1
        2 | c: {<<: *x}
          | ^ it has `apiVersion`, `kind`, `metadata` and `spec`
        error[E013]: merge keys are not accepted; write the fields again
          --> policy.yaml:2:5
        2 | c: {<<: *x}
          |     ^^
        error[E013]: aliases are not accepted; write the value again
          --> policy.yaml:2:9
        2 | c: {<<: *x}
          |         ^^"#]],
    );
    check(
        "a: [1, 2\nb: 3\n",
        expect![[r#"
        error[E000]: this is not YAML: illegal placement of ':' indicator
          --> policy.yaml:2:2
        2 | b: 3
          |  ^"#]],
    );
}

#[test]
fn nothing_matches_by_being_empty() {
    check(
        &policy("", "    effect: deny\n    match: {}\n"),
        expect![[r#"
        error[E001]: an empty match would say nothing
          --> policy.yaml:10:12
        10 |     match: {}
           |            ^^ match-all is spelled `{any: true}`"#]],
    );
    check(
        &policy("", "    effect: deny\n    match: {http: {}}\n    require: {}\n    unless: []\n")
            .replace("{all: true}", "{}"),
        expect![[r#"
            error[E001]: an empty selector would say nothing
              --> policy.yaml:5:13
            5 |   selector: {}
              |             ^^ write `{all: true}` to select every workload
            error[E001]: an empty `http` would say nothing
              --> policy.yaml:10:19
            10 |     match: {http: {}}
               |                   ^^ name methods, hosts, paths or headers, or leave `http` out
            error[E001]: an empty set of atoms would always hold
              --> policy.yaml:11:14
            11 |     require: {}
               |              ^^ name a condition, or leave the field out
            error[E001]: an empty list matches nothing
              --> policy.yaml:12:13
            12 |     unless: []
               |             ^^ name at least one entry, or leave the field out"#]],
    );
    check(
        &policy("", "    effect: allow\n    match: {any: true}\n"),
        expect![[r#"
        error[E011]: allow rule `r` does not say who may call
          --> policy.yaml:10:12
        10 |     match: {any: true}
           |            ^^^^^^^^^^^ add `caller: {anyOf: [{namespace: …, serviceAccount: …}]}`"#]],
    );
    check_rule(
        "    require: {token: {}, source: {at: origin}}\n",
        expect![[r#"
            error[E001]: `token` needs `scopes`, `maxAge`, `origins` or `services`
              --> policy.yaml:11:22
            11 |     require: {token: {}, source: {at: origin}}
               |                      ^^
            error[E001]: `source` needs `cidrSets` or `sources`
              --> policy.yaml:11:34
            11 |     require: {token: {}, source: {at: origin}}
               |                                  ^^^^^^^^^^^^"#]],
    );
}

#[test]
fn owners_need_paths_that_name_them() {
    let rule = format!(
        "    effect: allow\n    match: {{{CALLER}, http: {{paths: [{{exact: /v1/health}}, {{template: \"/v1/users/{{user}}/x\"}}]}}}}\n    \
         require: {{user: {{provider: corp, isResourceOwner: true}}}}\n"
    );
    let head = "  resource: {type: user, owner: {fromPath: {template: \"/v1/users/{user}/**\", param: user}}}\n";
    check(
        &policy(head, &rule),
        expect![[r#"
        error[E007]: path `/v1/health` of rule `r` has no `{user}`, so `resource.owner` would be unknown and the rule could never allow
          --> policy.yaml:9:5
        9 |   - name: r
          |     ^^^^^^^ use paths below `/v1/users/{user}/**`
        error[E012]: the identity provider declares no claim `as: accountId`
          --> policy.yaml:12:55
        12 |     require: {user: {provider: corp, isResourceOwner: true}}
           |                                                       ^^^^ declare it at mesh.yaml:9, or this could never be known"#]],
    );
    check(
        &policy("", &rule),
        expect![[r#"
        error[E007]: `isResourceOwner` needs `resource.owner` in this policy
          --> policy.yaml:8:5
        8 |   - name: r
          |     ^^^^^^^ add `resource: {type: user, owner: {fromPath: {template: …, param: …}}}`
        error[E012]: the identity provider declares no claim `as: accountId`
          --> policy.yaml:11:55
        11 |     require: {user: {provider: corp, isResourceOwner: true}}
           |                                                       ^^^^ declare it at mesh.yaml:9, or this could never be known"#]],
    );
    check(
        &policy(&head.replace("param: user", "param: usr"), &rule),
        expect![[r#"
            error[E007]: template `/v1/users/{user}/**` has no `{usr}`
              --> policy.yaml:7:85
            7 |   resource: {type: user, owner: {fromPath: {template: "/v1/users/{user}/**", param: usr}}}
              |                                                                                     ^^^ did you mean `user`?
            error[E012]: the identity provider declares no claim `as: accountId`
              --> policy.yaml:12:55
            12 |     require: {user: {provider: corp, isResourceOwner: true}}
               |                                                       ^^^^ declare it at mesh.yaml:9, or this could never be known"#]],
    );
    let silent =
        rule.replace("require: {user: {provider: corp, isResourceOwner: true}}", "context: none");
    check(
        &policy(head, &silent),
        expect![[r#"
        ok
        warning[W107]: rule `r` grants a user's data without asking for a user
          --> policy.yaml:9:5
        9 |   - name: r
          |     ^^^^^^^ resource.owner is set and there is no `user` atom: its callers may read any account
        warning[W109]: rule `r` hides the context: onward calls lose the user
          --> policy.yaml:9:5
        9 |   - name: r
          |     ^^^^^^^"#]],
    );
}

/// A port in a host is part of what CONNECT reaches, and of nothing else.
#[test]
fn a_host_with_a_port_is_for_connect_alone() {
    let rule = |methods: &str, host: &str| {
        format!(
            "    effect: allow\n    match: {{{CALLER}, http: {{methods: {methods}, hosts: [\"{host}\"]}}}}\n"
        )
    };
    check(
        &policy("", &rule("[CONNECT]", "db.example:443")),
        expect![[r#"
        ok
    "#]],
    );
    check(
        &policy("", &rule("[CONNECT]", "[2001:db8::1]:22")),
        expect![[r#"
        ok
    "#]],
    );
    check(
        &policy("", &rule("[CONNECT, GET]", "db.example:443")),
        expect![[r#"
        error[E014]: `db.example:443` is not a canonical host
          --> policy.yaml:10:116
        10 | http: {methods: [CONNECT, GET], hosts: ["db.example:443"]}}
           |                                         ^^^^^^^^^^^^^^^^ write `db.example`"#]],
    );
    check(
        &policy("", &rule("[CONNECT]", "DB.example:0443")),
        expect![[r#"
        error[E014]: `DB.example:0443` is not a canonical host and port
          --> policy.yaml:10:111
        10 | }]}, http: {methods: [CONNECT], hosts: ["DB.example:0443"]}}
           |                                         ^^^^^^^^^^^^^^^^^ write `db.example:443`"#]],
    );
}

#[test]
fn matchers_are_canonical_and_never_reserved() {
    let rule = format!(
        "    effect: allow\n    match: {{{CALLER}, http: {{methods: [post], hosts: [Orders.Shop:80], headers: [{{name: Txn_Token, anyOf: [x]}}],\n      \
         paths: [{{exact: /%61}}, {{prefix: /a/}}, {{template: \"/a/x{{b}}\"}}, {{exact: \"/a/{{b}}\"}}, {{exact: /a, prefix: /b}}]}}}}\n    unless: [{{user: {{absent: true}}}}]\n"
    );
    check(
        &policy("", &rule),
        expect![[r#"
            error[E014]: `post` is not a method; methods are case-sensitive
              --> policy.yaml:10:93
            10 | ceAccount: gateway}]}, http: {methods: [post], hosts: [Orders.Shop:80], headers: [{name: Txn_Token, anyOf: [x]}],
               |                                         ^^^^ write `POST`
            error[E014]: `Orders.Shop:80` is not a canonical host
              --> policy.yaml:10:108
            10 | way}]}, http: {methods: [post], hosts: [Orders.Shop:80], headers: [{name: Txn_Token, anyOf: [x]}],
               |                                         ^^^^^^^^^^^^^^ write `orders.shop`
            error[E010]: header `Txn_Token` cannot be matched
              --> policy.yaml:10:142
            10 | sts: [Orders.Shop:80], headers: [{name: Txn_Token, anyOf: [x]}],
               |                                         ^^^^^^^^^ what it proves is available as facts about the user and the token
            error[E014]: path `/%61` is not canonical and could never match
              --> policy.yaml:11:23
            11 |       paths: [{exact: /%61}, {prefix: /a/}, {template: "/a/x{b}"}, {exact: "/a/{b}"}, {exact: /a, prefix: /b}]}}
               |                       ^^^^ write `/a`
            error[E014]: prefix `/a/` ends with `/`
              --> policy.yaml:11:39
            11 |       paths: [{exact: /%61}, {prefix: /a/}, {template: "/a/x{b}"}, {exact: "/a/{b}"}, {exact: /a, prefix: /b}]}}
               |                                       ^^^ write `/a`: it also covers everything below
            error[E014]: path template `/a/x{b}`: `x{b}` is not a parameter; write a whole segment such as `{user}`
              --> policy.yaml:11:56
            11 |       paths: [{exact: /%61}, {prefix: /a/}, {template: "/a/x{b}"}, {exact: "/a/{b}"}, {exact: /a, prefix: /b}]}}
               |                                                        ^^^^^^^^^
            error[E014]: `/a/{b}` is compared as it stands
              --> policy.yaml:11:76
            11 |       paths: [{exact: /%61}, {prefix: /a/}, {template: "/a/x{b}"}, {exact: "/a/{b}"}, {exact: /a, prefix: /b}]}}
               |                                                                            ^^^^^^^^ `{name}` and `**` have a meaning in `template` only
            error[E013]: a path is one of `exact`, `prefix` and `template`
              --> policy.yaml:11:87
            11 |       paths: [{exact: /%61}, {prefix: /a/}, {template: "/a/x{b}"}, {exact: "/a/{b}"}, {exact: /a, prefix: /b}]}}
               |                                                                                       ^^^^^^^^^^^^^^^^^^^^^^^
            error[E016]: `unless` is for deny rules
              --> policy.yaml:12:13
            12 |     unless: [{user: {absent: true}}]
               |             ^^^^^^^^^^^^^^^^^^^^^^^^ an exception to an allow is a deny rule"#]],
    );
    let both = format!(
        "    effect: allow\n    match: {{{CALLER}, http: {{methods: [GET]}}, grpc: {{service: Users}}}}\n"
    );
    check(
        &policy("", &both),
        expect![[r#"
            error[E004]: `http`, `grpc` and `tcp` exclude each other
              --> policy.yaml:10:106
            10 | teway}]}, http: {methods: [GET]}, grpc: {service: Users}}
               |                                         ^^^^^^^^^^^^^^^^ write two rules"#]],
    );
}

#[test]
fn gateways_trust_nobody_by_accident() {
    let gateway = r#"apiVersion: countersign.dev/v1alpha1
kind: ContextPolicy
metadata: {name: edge, namespace: edge}
spec:
  selector: {all: true}
  role: gateway
  clientAddress: {trustedHops: 1, trustedProxies: ["0.0.0.0/0", "10.0.0.1/8", 10.0.0.1], from: x-forwarded-for}
  user: {providers: [corp, crop], whenMissing: allow}
  justification: {header: X-Why, kinds: {ticket: {pattern: "T-[0-9", validate: tickets}}}
  mint:
    - {match: {http: {paths: [{template: "/v1/{a}/b"}]}}, scope: a}
    - {match: {http: {methods: [GET], paths: [{prefix: /v1/x}]}}, scope: b, emit: {rctx: [acct, dev, acct, atc]}}
"#;
    check(
        gateway,
        expect![[r#"
            error[E009]: `0.0.0.0/0` would trust everybody to name the client
              --> policy.yaml:7:51
            7 |   clientAddress: {trustedHops: 1, trustedProxies: ["0.0.0.0/0", "10.0.0.1/8", 10.0.0.1], from: x-forwarded-for}
              |                                                   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ list the addresses of your own proxies
            error[E013]: `10.0.0.1/8` has bits set beyond its prefix
              --> policy.yaml:7:65
            7 |   clientAddress: {trustedHops: 1, trustedProxies: ["0.0.0.0/0", "10.0.0.1/8", 10.0.0.1], from: x-forwarded-for}
              |                                                                 ^^^^^^^^^^^^ write `10.0.0.0/8`
            error[E013]: `10.0.0.1` is not an address range
              --> policy.yaml:7:79
            7 |   clientAddress: {trustedHops: 1, trustedProxies: ["0.0.0.0/0", "10.0.0.1/8", 10.0.0.1], from: x-forwarded-for}
              |                                                                               ^^^^^^^^ write `10.0.0.1/32`
            error[E005]: IdentityProvider `crop` does not exist
              --> policy.yaml:8:28
            8 |   user: {providers: [corp, crop], whenMissing: allow}
              |                            ^^^^ did you mean `corp` (mesh.yaml:9)?
            error[E013]: unknown value `allow`
              --> policy.yaml:8:48
            8 |   user: {providers: [corp, crop], whenMissing: allow}
              |                                                ^^^^^ choose one of `refuse` and `anonymous`
            error[E013]: unknown value `X-Why`
              --> policy.yaml:9:27
            9 |   justification: {header: X-Why, kinds: {ticket: {pattern: "T-[0-9", validate: tickets}}}
              |                           ^^^^^ only `Countersign-Justification` is accepted
            error[E014]: pattern `T-[0-9`: unclosed character class
              --> policy.yaml:9:60
            9 |   justification: {header: X-Why, kinds: {ticket: {pattern: "T-[0-9", validate: tickets}}}
              |                                                            ^^^^^^^^
            error[E005]: AttributeProvider `tickets` does not exist
              --> policy.yaml:9:80
            9 |   justification: {header: X-Why, kinds: {ticket: {pattern: "T-[0-9", validate: tickets}}}
              |                                                                                ^^^^^^^ no AttributeProvider is declared
            error[E020]: a request could match this mint rule and an earlier one
              --> policy.yaml:12:7
            12 |     - {match: {http: {methods: [GET], paths: [{prefix: /v1/x}]}}, scope: b, emit: {rctx: [acct, dev, acct, atc]}}
               |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ the earlier one is on line 11; tell them apart by method, host or path
            error[E019]: `acct` stands here twice
              --> policy.yaml:12:102
            12 |     - {match: {http: {methods: [GET], paths: [{prefix: /v1/x}]}}, scope: b, emit: {rctx: [acct, dev, acct, atc]}}
               |                                                                                                      ^^^^
            error[E013]: unknown value `atc`
              --> policy.yaml:12:108
            12 |     - {match: {http: {methods: [GET], paths: [{prefix: /v1/x}]}}, scope: b, emit: {rctx: [acct, dev, acct, atc]}}
               |                                                                                                            ^^^ choose one of `req_ip`, `idp`, `client_id`, `acr`, `auth_time`, `authn`, `amr`, `acct`, `groups`, `claims`, `tls`, `dev`, `just` and `sc`"#]],
    );
}

#[test]
fn providers_and_meshes_that_would_accept_anything_are_refused() {
    let provider = r#"apiVersion: countersign.dev/v1alpha1
kind: IdentityProvider
metadata: {name: second}
spec:
  issuer: "http://login.example.com/"
  audiences: []
  algorithms: [none, HS256, RS265]
  keys: {discovery: {allowedHosts: [login.example.com], refresh: 15}}
  from: [{header: Countersign-User}]
  claims: {uid: {type: strng, as: accountId}}
"#;
    check(
        provider,
        expect![[r#"
            error[E019]: this provider and `second` would both name users without a prefix
              --> mesh.yaml:9:13
            9 |     - name: corp
              |             ^^^^ add `subjectPrefix: corp`
            error[E013]: `http://login.example.com/` is not an https URL
              --> policy.yaml:5:11
            5 |   issuer: "http://login.example.com/"
              |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^ plain http is accepted for 127.0.0.1 and localhost only
            error[E008]: without an audience, tokens meant for others would be accepted
              --> policy.yaml:6:14
            6 |   audiences: []
              |              ^^ name the audience your API has at the identity provider
            error[E008]: algorithm `none` is never accepted
              --> policy.yaml:7:16
            7 |   algorithms: [none, HS256, RS265]
              |                ^^^^ anybody who can verify such a token could also make one
            error[E008]: algorithm `HS256` is never accepted
              --> policy.yaml:7:22
            7 |   algorithms: [none, HS256, RS265]
              |                      ^^^^^ anybody who can verify such a token could also make one
            error[E008]: unknown algorithm `RS265`
              --> policy.yaml:7:29
            7 |   algorithms: [none, HS256, RS265]
              |                             ^^^^^ did you mean `RS256`?
            error[E013]: a duration was expected, not `15`
              --> policy.yaml:8:66
            8 |   keys: {discovery: {allowedHosts: [login.example.com], refresh: 15}}
              |                                                                  ^^ write a number and a unit: `60s`, `15m`, `12h`, `7d`
            error[E010]: `countersign-user` is reserved and removed before credentials are read
              --> policy.yaml:9:19
            9 |   from: [{header: Countersign-User}]
              |                   ^^^^^^^^^^^^^^^^
            error[E013]: unknown value `strng`
              --> policy.yaml:10:24
            10 |   claims: {uid: {type: strng, as: accountId}}
               |                        ^^^^^ did you mean `string`?"#]],
    );
    let mesh = MESH.replace(
        "  cidrSets:",
        "  rollout: []\n  defaults: {inbound: allow}\n  outbound: {unknown: pas, known: policy, namespaces: {batch: {}, Shop: {unknown: pass}}}\n  context: {ttl: 1h, custody: off, issuers: [{id: \"spiffe://prod.example.com/ns/edge/sa/*\", keys: x5c, allow: {origin: [user], sub: [\"*\"]}}, {id: \"spiffe://other/ns/edge/sa/g\", keys: jwks, allow: {origin: [], sub: [\"user:*\"]}}]}\n  cidrSets:",
    );
    check_with(
        &mesh,
        "",
        expect![[r#"
            error[E013]: `rollout` is not supported yet
              --> mesh.yaml:6:3
            6 |   rollout: []
              |   ^^^^^^^ remove it; it would have no effect
            error[E013]: unknown value `allow`
              --> mesh.yaml:7:23
            7 |   defaults: {inbound: allow}
              |                       ^^^^^ only `deny` is accepted
            error[E013]: unknown value `pas`
              --> mesh.yaml:8:23
            8 |   outbound: {unknown: pas, known: policy, namespaces: {batch: {}, Shop: {unknown: pass}}}
              |                       ^^^ did you mean `pass`?
            error[E013]: `known: policy` is not supported yet
              --> mesh.yaml:8:35
            8 |   outbound: {unknown: pas, known: policy, namespaces: {batch: {}, Shop: {unknown: pass}}}
              |                                   ^^^^^^ it needs outbound rules; the callee's own inbound rules always decide
            error[E001]: an empty entry would say nothing
              --> mesh.yaml:8:63
            8 |   outbound: {unknown: pas, known: policy, namespaces: {batch: {}, Shop: {unknown: pass}}}
              |                                                               ^^ write `{unknown: pass}` or leave the namespace out
            error[E013]: `Shop` is not a name
              --> mesh.yaml:8:67
            8 |   outbound: {unknown: pas, known: policy, namespaces: {batch: {}, Shop: {unknown: pass}}}
              |                                                                   ^^^^ names are 1 to 63 lower-case letters, digits and `-`
            error[E013]: a context token lives at most 300s, not 3600s
              --> mesh.yaml:9:18
            9 |   context: {ttl: 1h, custody: off, issuers: [{id: "spiffe://prod.example.com/ns/edge/sa/*", keys: x5c, allow: {origin: [
              |                  ^^
            warning[W115]: custody is off: a context token works for whoever holds it
              --> mesh.yaml:9:31
            9 |   context: {ttl: 1h, custody: off, issuers: [{id: "spiffe://prod.example.com/ns/edge/sa/*", keys: x5c, allow: {origin: [
              |                               ^^^ use it for interop only, and for as short a time as possible
            error[E013]: `spiffe://prod.example.com/ns/edge/sa/*` is not a SPIFFE ID: a path segment holds a character outside `a-z A-Z 0-9 . _ -` (nothing is percent-decoded)
              --> mesh.yaml:9:51
            9 |  {ttl: 1h, custody: off, issuers: [{id: "spiffe://prod.example.com/ns/edge/sa/*", keys: x5c, allow: {origin: [user], sub
              |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ name each identity; patterns are not accepted here
            error[E013]: `*` is not a pattern of subjects
              --> mesh.yaml:9:134
            9 | eys: x5c, allow: {origin: [user], sub: ["*"]}}, {id: "spiffe://other/ns/edge/sa/g", keys: jwks, allow: {origin: [], sub:
              |                                         ^^^ write `user:*`, `svc:*`, `foreign:*` or `anon`
            error[E005]: trust domain `other` is not this mesh's own, `prod.example.com`
              --> mesh.yaml:9:147
            9 | ow: {origin: [user], sub: ["*"]}}, {id: "spiffe://other/ns/edge/sa/g", keys: jwks, allow: {origin: [], sub: ["user:*"]}}
              |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            error[E013]: this form of key needs a key set
              --> mesh.yaml:9:184
            9 | d: "spiffe://other/ns/edge/sa/g", keys: jwks, allow: {origin: [], sub: ["user:*"]}}]}
              |                                         ^^^^ add `jwks: {file: issuer.json}` or `jwks: {destination: edge/gateway}`, or write `keys: x5c`
            error[E001]: an empty list matches nothing
              --> mesh.yaml:9:206
            9 | edge/sa/g", keys: jwks, allow: {origin: [], sub: ["user:*"]}}]}
              |                                         ^^ name at least one entry, or leave the field out"#]],
    );
}

#[test]
fn names_are_unique() {
    let rule = "    effect: deny\n    match: {any: true}\n  - name: r\n    effect: deny\n    match: {any: true}\n    context: none\n";
    let text = format!(
        "{}---\n{}",
        policy("", rule),
        policy("", "    effect: deny\n    match: {any: true}\n")
    );
    check(
        &text,
        expect![[r#"
            error[E019]: there is already a rule `r` in this policy
              --> policy.yaml:11:11
            11 |   - name: r
               |           ^ the first one is on line 8
            error[E013]: `context` has no meaning in a deny rule
              --> policy.yaml:14:14
            14 |     context: none
               |              ^^^^ remove it
            error[E019]: AccessPolicy `shop/p` exists already
              --> policy.yaml:18:18
            18 | metadata: {name: p, namespace: shop}
               |                  ^ the first one is at policy.yaml:3"#]],
    );
    let provider = "apiVersion: countersign.dev/v1alpha1\nkind: IdentityProvider\nmetadata: {name: corp}\nspec: {issuer: \"https://a\", audiences: [a], algorithms: [ES256], keys: {file: k}, claims: {sub: {type: string, as: id}}}\n";
    check(
        provider,
        expect![[r#"
            error[E019]: IdentityProvider `corp` exists already
              --> mesh.yaml:9:13
            9 |     - name: corp
              |             ^^^^ the first one is at policy.yaml:3"#]],
    );
}

#[test]
fn warnings_do_not_reject() {
    let rule = "    effect: allow\n    match: {caller: {anyInMesh: true}}\n  - name: s\n    effect: allow\n    match: {caller: {unauthenticated: true}}\n    context: optional\n  - name: t\n    effect: allow\n    match: {caller: {anyOf: [{namespace: shop, serviceAccount: default}]}}\n";
    check(
        &policy("", rule),
        expect![[r#"
        ok
        warning[W110]: rule `r` admits every workload of the mesh
          --> policy.yaml:8:5
        8 |   - name: r
          |     ^^^^^^^
        warning[W114]: rule `s` admits callers without a mesh identity
          --> policy.yaml:11:5
        11 |   - name: s
           |     ^^^^^^^
        warning[W111]: every workload without an account of its own is `default`
          --> policy.yaml:17:64
        17 |     match: {caller: {anyOf: [{namespace: shop, serviceAccount: default}]}}
           |                                                                ^^^^^^^ give this workload its own service account"#]],
    );
}

#[test]
fn a_mesh_is_needed_and_a_process_file_is_not_one() {
    let sources = [Source {
        name: "proxy.yaml",
        text: "apiVersion: countersign.dev/v1alpha1\nkind: ProxyConfig\nmetadata: {name: x}\nspec: {}\n",
    }];
    expect![[r#"
        error[E005]: there is no MeshConfig among the documents
          --> proxy.yaml:1:1
        1 | apiVersion: countersign.dev/v1alpha1
          | ^ add one (kind: MeshConfig, metadata: {name: default})
        error[E013]: ProxyConfig configures one process and is no document of the mesh
          --> proxy.yaml:2:7
        2 | kind: ProxyConfig
          |       ^^^^^^^^^^^ give it to the proxy with --config, and keep it out of the document folders"#]].assert_eq(&load(&sources).unwrap_err().to_string());
}

#[test]
fn one_host_and_one_issuer_have_one_owner() {
    let destination = |name: &str| {
        format!(
            "---\napiVersion: countersign.dev/v1alpha1\nkind: Destination\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{hosts: [orders.shop], ports: [{{port: 80, protocol: http}}, {{port: 81, protocol: tcp}}], endpoints: [{{address: orders, port: 0}}],\n  \
             addresses: [10.0.0.1], peer: {{mesh: {{identities: [\"spiffe://other/ns/shop/sa/a\"]}}}}}}\n"
        )
    };
    let provider = "---\napiVersion: countersign.dev/v1alpha1\nkind: IdentityProvider\nmetadata: {name: twin}\nspec: {issuer: \"https://login.example.com/\", subjectPrefix: twin, audiences: [a], algorithms: [ES256], keys: {file: k}, claims: {sub: {type: string, as: id}}}\n";
    check(
        &format!("{}{}{provider}", destination("a"), destination("b")),
        expect![[r#"
            error[E019]: issuer `https://login.example.com/` belongs to provider `twin` already
              --> mesh.yaml:9:13
            9 |     - name: corp
              |             ^^^^
            error[E013]: `orders` is not an IP address
              --> policy.yaml:5:116
            5 |  protocol: tcp}], endpoints: [{address: orders, port: 0}],
              |                                         ^^^^^^
            error[E013]: a whole number from 1 to 65535 was expected, not `0`
              --> policy.yaml:5:130
            5 | }], endpoints: [{address: orders, port: 0}],
              |                                         ^
            error[E005]: trust domain `other` is not this mesh's own, `prod.example.com`, and not federated
              --> policy.yaml:6:53
            6 |   addresses: [10.0.0.1], peer: {mesh: {identities: ["spiffe://other/ns/shop/sa/a"]}}}
              |                                                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ add `federation: [{trustDomain: other, bundle: …}]` to MeshConfig
            error[E019]: `orders.shop:80` belongs to a destination already
              --> policy.yaml:11:16
            11 | spec: {hosts: [orders.shop], ports: [{port: 80, protocol: http}, {port: 81, protocol: tcp}], endpoints: [{address: order
               |                ^^^^^^^^^^^ the first one is at policy.yaml:5
            error[E019]: `orders.shop:81` belongs to a destination already
              --> policy.yaml:11:16
            11 | spec: {hosts: [orders.shop], ports: [{port: 80, protocol: http}, {port: 81, protocol: tcp}], endpoints: [{address: order
               |                ^^^^^^^^^^^ the first one is at policy.yaml:5
            error[E013]: `orders` is not an IP address
              --> policy.yaml:11:116
            11 |  protocol: tcp}], endpoints: [{address: orders, port: 0}],
               |                                         ^^^^^^
            error[E013]: a whole number from 1 to 65535 was expected, not `0`
              --> policy.yaml:11:130
            11 | }], endpoints: [{address: orders, port: 0}],
               |                                         ^
            error[E019]: `10.0.0.1:80` belongs to a destination already
              --> policy.yaml:12:15
            12 |   addresses: [10.0.0.1], peer: {mesh: {identities: ["spiffe://other/ns/shop/sa/a"]}}}
               |               ^^^^^^^^ the first one is at policy.yaml:6
            error[E019]: `10.0.0.1:81` belongs to a destination already
              --> policy.yaml:12:15
            12 |   addresses: [10.0.0.1], peer: {mesh: {identities: ["spiffe://other/ns/shop/sa/a"]}}}
               |               ^^^^^^^^ the first one is at policy.yaml:6
            error[E005]: trust domain `other` is not this mesh's own, `prod.example.com`, and not federated
              --> policy.yaml:12:53
            12 |   addresses: [10.0.0.1], peer: {mesh: {identities: ["spiffe://other/ns/shop/sa/a"]}}}
               |                                                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ add `federation: [{trustDomain: other, bundle: …}]` to MeshConfig"#]],
    );
    let halves = "apiVersion: countersign.dev/v1alpha1\nkind: ContextPolicy\nmetadata: {name: edge, namespace: edge}\nspec:\n  selector: {all: true}\n  role: gateway\n  user: {providers: [corp], whenMissing: refuse}\n  mint: [{match: {any: true}, scope: a}]\n  clientAddress: {trustedHops: 1, from: forwarded, trustedProxies: [\"0.0.0.0/1\", \"128.0.0.0/1\", \"::ffff:10.0.0.0/104\"]}\n";
    check(
        halves,
        expect![[r#"
        error[E009]: `0.0.0.0/0` would trust everybody to name the client
          --> policy.yaml:9:68
        9 |   clientAddress: {trustedHops: 1, from: forwarded, trustedProxies: ["0.0.0.0/1", "128.0.0.0/1", "::ffff:10.0.0.0/104"]}
          |                                                                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ list the addresses of your own proxies
        error[E014]: `::ffff:10.0.0.0/104` is IPv4 written as IPv6; addresses are compared as IPv4
          --> policy.yaml:9:97
        9 |   clientAddress: {trustedHops: 1, from: forwarded, trustedProxies: ["0.0.0.0/1", "128.0.0.0/1", "::ffff:10.0.0.0/104"]}
          |                                                                                                 ^^^^^^^^^^^^^^^^^^^^^ write the IPv4 range"#]],
    );
}

#[test]
fn opaque_connections_carry_no_context() {
    let rule = |effect: &str, lines: &str| {
        policy(
            "",
            &format!("    effect: {effect}\n    match: {{{CALLER}, tcp: {{any: true}}}}\n{lines}"),
        )
    };
    check(
        &rule(
            "allow",
            "    context: required\n    require: {user: {provider: corp}, source: {at: origin, cidrSets: [office]}}\n",
        ),
        expect![[r#"
            error[E004]: `context` has no meaning for opaque connections
              --> policy.yaml:11:14
            11 |     context: required
               |              ^^^^^^^^ remove it: a context token travels in requests only
            error[E004]: `user` needs a context token, and an opaque connection has none
              --> policy.yaml:12:21
            12 |     require: {user: {provider: corp}, source: {at: origin, cidrSets: [office]}}
               |                     ^^^^^^^^^^^^^^^^ ask for `caller`, `source: {at: peer}` or `time` instead
            error[E004]: `source` needs a context token, and an opaque connection has none
              --> policy.yaml:12:47
            12 |     require: {user: {provider: corp}, source: {at: origin, cidrSets: [office]}}
               |                                               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ ask for `caller`, `source: {at: peer}` or `time` instead"#]],
    );
    check(
        &rule("deny", "    unless: [{user: {absent: true}}, {token: {origins: [batch]}}]\n"),
        expect![[r#"
            error[E004]: `token` needs a context token, and an opaque connection has none
              --> policy.yaml:11:46
            11 |     unless: [{user: {absent: true}}, {token: {origins: [batch]}}]
               |                                              ^^^^^^^^^^^^^^^^^^ ask for `caller`, `source: {at: peer}` or `time` instead"#]],
    );
    check(
        &policy(
            "",
            &format!(
                "    effect: allow\n    match: {{{CALLER}, tcp: {{any: false}}, any: true}}\n"
            ),
        ),
        expect![[r#"
            error[E013]: `any: false` has no meaning
              --> policy.yaml:10:87
            10 |     match: {caller: {anyOf: [{namespace: edge, serviceAccount: gateway}]}, tcp: {any: false}, any: true}
               |                                                                                       ^^^^^ leave `any` out
            error[E013]: `any` and a protocol exclude each other
              --> policy.yaml:10:100
            10 |     match: {caller: {anyOf: [{namespace: edge, serviceAccount: gateway}]}, tcp: {any: false}, any: true}
               |                                                                                                    ^^^^"#]],
    );
    check(
        &rule(
            "allow",
            "    require: {user: {absent: true}, source: {at: peer, cidrSets: [office]}}\n",
        ),
        expect![[r#"
            ok
        "#]],
    );
}

#[test]
fn destinations_say_what_to_write() {
    let destination = |spec: &str| {
        format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: Destination\nmetadata: {{name: d, namespace: shop}}\nspec:\n{spec}"
        )
    };
    check(
        &destination(
            "  ports: [{port: 1, protocol: tcp, upgrades: [a]}, {port: 1, protocol: http}, {port: 2, protocol: http, upgrades: [WebSocket, h2c, SPDY/3.1, spdy/3.1, \"a b\"]}]\n  addresses: [127.0.0.1, \"ff02::1\", 10.0.0.1, 10.0.0.1]\n  peer: {mesh: {}}\n",
        ),
        expect![[r#"
            error[E013]: Destination needs `endpoints`
              --> policy.yaml:5:3
            5 |   ports: [{port: 1, protocol: tcp, upgrades: [a]}, {port: 1, protocol: http}, {port: 2, protocol: http, upgrades: [WebSo
              |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ a destination of the mesh is dialled at addresses of its own pods only
            error[E004]: `upgrades` is for `protocol: http`, not `tcp`
              --> policy.yaml:5:46
            5 | ts: [{port: 1, protocol: tcp, upgrades: [a]}, {port: 1, protocol: http}, {port: 2, protocol: http, upgrades: [WebSocket,
              |                                         ^^^ remove `upgrades`
            error[E019]: port 1 stands in this destination twice
              --> policy.yaml:5:52
            5 | port: 1, protocol: tcp, upgrades: [a]}, {port: 1, protocol: http}, {port: 2, protocol: http, upgrades: [WebSocket, h2c, 
              |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^
            error[E013]: `websocket` is always accepted
              --> policy.yaml:5:116
            5 | }, {port: 2, protocol: http, upgrades: [WebSocket, h2c, SPDY/3.1, spdy/3.1, "a b"]}]
              |                                         ^^^^^^^^^ list only other protocols
            error[E013]: `h2c` is never accepted
              --> policy.yaml:5:127
            5 | , protocol: http, upgrades: [WebSocket, h2c, SPDY/3.1, spdy/3.1, "a b"]}]
              |                                         ^^^ an upgrade to HTTP/2 would hide requests; clients may start with HTTP/2
            error[E019]: `spdy/3.1` stands in the list twice
              --> policy.yaml:5:142
            5 | p, upgrades: [WebSocket, h2c, SPDY/3.1, spdy/3.1, "a b"]}]
              |                                         ^^^^^^^^
            error[E013]: `a b` is not a protocol of `Upgrade`
              --> policy.yaml:5:152
            5 | s: [WebSocket, h2c, SPDY/3.1, spdy/3.1, "a b"]}]
              |                                         ^^^^^ write its token, as in `spdy/3.1`
            error[E013]: 127.0.0.1 is not an address of a service
              --> policy.yaml:6:15
            6 |   addresses: [127.0.0.1, "ff02::1", 10.0.0.1, 10.0.0.1]
              |               ^^^^^^^^^ name the virtual address that apps dial
            error[E013]: ff02::1 is not an address of a service
              --> policy.yaml:6:26
            6 |   addresses: [127.0.0.1, "ff02::1", 10.0.0.1, 10.0.0.1]
              |                          ^^^^^^^^^ name the virtual address that apps dial
            error[E019]: `10.0.0.1:1` belongs to a destination already
              --> policy.yaml:6:47
            6 |   addresses: [127.0.0.1, "ff02::1", 10.0.0.1, 10.0.0.1]
              |                                               ^^^^^^^^ the first one is at policy.yaml:6
            error[E019]: `10.0.0.1:2` belongs to a destination already
              --> policy.yaml:6:47
            6 |   addresses: [127.0.0.1, "ff02::1", 10.0.0.1, 10.0.0.1]
              |                                               ^^^^^^^^ the first one is at policy.yaml:6
            error[E013]: mesh needs `identities`
              --> policy.yaml:7:16
            7 |   peer: {mesh: {}}
              |                ^^"#]],
    );
    check(
        &destination(
            "  ports: [{port: 443, protocol: tcp}, {port: 80, protocol: http}]\n  endpoints: [{address: 10.0.0.1, port: 443, identities: [\"spiffe://prod.example.com/ns/a/sa/b\"]}]\n  peer: {tls: {serverNames: [Storage.example.net, \"*.example.net\"], roots: mine}}\n",
        ),
        expect![[r#"
            error[E014]: `Storage.example.net` is not a canonical host
              --> policy.yaml:7:30
            7 |   peer: {tls: {serverNames: [Storage.example.net, "*.example.net"], roots: mine}}
              |                              ^^^^^^^^^^^^^^^^^^^ write `storage.example.net`
            error[E014]: `*.example.net` is not a host: the host contains a byte that is not allowed
              --> policy.yaml:7:51
            7 |   peer: {tls: {serverNames: [Storage.example.net, "*.example.net"], roots: mine}}
              |                                                   ^^^^^^^^^^^^^^^
            error[E013]: unknown value `mine`
              --> policy.yaml:7:76
            7 |   peer: {tls: {serverNames: [Storage.example.net, "*.example.net"], roots: mine}}
              |                                                                            ^^^^ write `system` or `{file: roots.pem}`"#]],
    );
    check(
        &destination(
            "  ports: [{port: 443, protocol: tcp}]\n  endpoints: [{address: 10.0.0.1, port: 443, identities: [\"spiffe://prod.example.com/ns/a/sa/b\"]}]\n  peer: {tls: {serverNames: [a.example.net, a.example.net], roots: {path: a}}}\n",
        ),
        expect![[r#"
            error[E019]: `a.example.net` stands in the list twice
              --> policy.yaml:7:45
            7 |   peer: {tls: {serverNames: [a.example.net, a.example.net], roots: {path: a}}}
              |                                             ^^^^^^^^^^^^^
            error[E013]: roots needs `file`
              --> policy.yaml:7:69
            7 |   peer: {tls: {serverNames: [a.example.net, a.example.net], roots: {path: a}}}
              |                                                                     ^^^^
            error[E013]: unknown field `path` in roots
              --> policy.yaml:7:69
            7 |   peer: {tls: {serverNames: [a.example.net, a.example.net], roots: {path: a}}}
              |                                                                     ^^^^ it has `file`"#]],
    );
    check(
        &destination(
            "  ports: [{port: 443, protocol: tcp}]\n  endpoints: [{address: 10.0.0.1, port: 443, identities: [\"spiffe://prod.example.com/ns/a/sa/b\"]}]\n  peer: {tls: {serverNames: [a.example.net], roots: system}}\n",
        ),
        expect![[r#"
            error[E004]: bytes of an unknown protocol are not put into TLS for a server outside the mesh
              --> policy.yaml:5:33
            5 |   ports: [{port: 443, protocol: tcp}]
              |                                 ^^^ let the app speak TLS itself, and its connection pass: `outbound: {unknown: pass}`
            error[E004]: a server outside the mesh has no mesh identity
              --> policy.yaml:6:58
            6 |   endpoints: [{address: 10.0.0.1, port: 443, identities: ["spiffe://prod.example.com/ns/a/sa/b"]}]
              |                                                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ its certificate is compared with `peer.tls.serverNames`"#]],
    );
    check(
        &destination(
            "  ports: [{port: 443, protocol: http}]\n  peer: {tls: {serverNames: [a.example.net], roots: {file: roots.pem}}, mesh: {identities: [\"spiffe://prod.example.com/ns/a/sa/b\"]}}\n",
        ),
        expect![[r#"
            error[E013]: a destination is in the mesh or outside it, here it is both
              --> policy.yaml:6:9
            6 |   peer: {tls: {serverNames: [a.example.net], roots: {file: roots.pem}}, mesh: {identities: ["spiffe://prod.example.com/n
              |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ keep `mesh` or `tls`"#]],
    );
    check(
        &destination(
            "  ports: [{port: 443, protocol: http}]\n  peer: {tls: {serverNames: [a.example.net], roots: system}}\n",
        ),
        expect![[r#"
            error[E013]: nothing leads to this destination
              --> policy.yaml:5:3
            5 |   ports: [{port: 443, protocol: http}]
              |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ name `hosts`, `addresses` or `endpoints`"#]],
    );
    check(
        &destination(
            "  ports: [{port: 80, protocol: http}]\n  hosts: [a]\n  endpoints: [{address: 10.0.0.1, port: 80}]\n  peer: {plaintext: {until: \"2027-01-31T00:00:00Z\"}}\n",
        ),
        expect![[r#"
            error[E013]: `plaintext` is not supported yet
              --> policy.yaml:8:10
            8 |   peer: {plaintext: {until: "2027-01-31T00:00:00Z"}}
              |          ^^^^^^^^^ remove it; it would have no effect"#]],
    );
    check(
        &destination(
            "  ports: [{port: 80, protocol: http}]\n  hosts: [a]\n  endpoints: [{address: 10.0.0.1, port: 80}]\n  peer: {}\n",
        ),
        expect![[r#"
            error[E013]: peer needs `mesh` or `tls`
              --> policy.yaml:8:9
            8 |   peer: {}
              |         ^^ write `{mesh: {identities: […]}}`, or `{tls: {serverNames: […], roots: system}}` for a service outside the mesh"#]],
    );
    check(
        &destination(
            "  ports: [{port: 443, protocol: http}]\n  hosts: [a.example.net]\n  peer: {tls: {serverNames: [a.example.net], roots: {file: roots.pem}}}\n",
        ),
        expect![[r#"
            ok
        "#]],
    );
    check(
        &destination(
            "  ports: [{port: 80, protocol: http, upgrades: [SPDY/3.1], connect: true}]\n  endpoints: [{address: 10.0.0.1, port: 80, identities: [\"spiffe://prod.example.com/ns/a/sa/b\"]}]\n  peer: {mesh: {}}\n",
        ),
        expect![[r#"
            ok
        "#]],
    );
}
