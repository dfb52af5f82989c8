//! What people read when something about devices, validators or directories is wrong.

use expect_test::{Expect, expect};

use crate::{Source, load};

const MESH: &str = r#"apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec:
  trustDomain: prod.example.com
  identityProviders:
    - name: corp
      spec:
        issuer: "https://login.example.com/"
        audiences: ["https://api.example.com"]
        algorithms: [RS256]
        keys: {file: jwks.json}
        claims: {sub: {type: string, as: id}, device: {type: string}}
"#;

fn check(text: &str, expected: Expect) {
    let sources = [Source { name: "mesh.yaml", text: MESH }, Source { name: "facts.yaml", text }];
    let found = match load(&sources) {
        Err(problems) => problems.to_string(),
        Ok(documents) => format!("ok: {} attribute providers", documents.attributes.len()),
    };
    expected.assert_eq(&found);
}

fn provider(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: countersign.dev/v1alpha1\nkind: AttributeProvider\n\
         metadata: {{name: {name}}}\nspec:\n{spec}"
    )
}

const TICKETS: &str = "  authzen: {endpoint: \"https://t.example/\"}
  request: {subject: {type: user, id: user.id}, action: use, resource: {type: ticket, id: justification.ref}}
  facts: {status: string}
  onUnavailable: unknown
";

const STAFF: &str = "  ldap: {url: \"ldaps://d.example\", base: \"dc=example\", filter: \"(memberUid={user.id})\", attribute: cn, keep: [ops]}
  onUnavailable: refuse
";

fn gateway(lines: &str) -> String {
    format!(
        "---\napiVersion: countersign.dev/v1alpha1\nkind: ContextPolicy\n\
         metadata: {{name: edge, namespace: edge}}\nspec:\n  selector: {{all: true}}\n  \
         role: gateway\n  mint: [{{match: {{any: true}}, scope: a}}]\n{lines}"
    )
}

#[test]
fn nobodys_answer_is_never_a_yes() {
    let text = TICKETS.replace("onUnavailable: unknown", "onUnavailable: allow");
    check(
        &provider("tickets", &text),
        expect![[r#"
        error[E013]: nobody's answer is never a yes
          --> facts.yaml:9:18
        9 |   onUnavailable: allow
          |                  ^^^^^ write `unknown`, `refuse` or `{useStale: 10m}`"#]],
    );
    check(
        &provider("tickets", &TICKETS.replace("  onUnavailable: unknown\n", "")),
        expect![[r#"
        error[E013]: AttributeProvider needs `onUnavailable`
          --> facts.yaml:6:3
        6 |   authzen: {endpoint: "https://t.example/"}
          |   ^^^^^^^"#]],
    );
}

#[test]
fn questions_are_understood_or_refused() {
    check(
        &(provider(
            "one",
            "  authzen: {endpoint: \"http://t.example/\", auth: password, timeout: 1m}\n  request: {subject: {type: user, id: user.name}, action: use, resource: {type: t, id: justification.ref}}\n  facts: {a: string, b: float, \"c d\": int}\n  cache: {positive: 2d, maxEntries: 0}\n  onUnavailable: {useStale: 10m}\n",
        ) + &provider(
            "two",
            "  authzen: {endpoint: \"https://t.example/\", auth: mesh}\n  onUnavailable: unknown\n",
        ) + &provider("three", &(TICKETS.to_owned() + "  ldap: {url: x}\n"))),
        expect![[r#"
            error[E013]: `http://t.example/` is not an https URL
              --> facts.yaml:6:23
            6 |   authzen: {endpoint: "http://t.example/", auth: password, timeout: 1m}
              |                       ^^^^^^^^^^^^^^^^^^^ plain http is accepted for 127.0.0.1 and localhost only
            error[E013]: unknown value `password`
              --> facts.yaml:6:50
            6 |   authzen: {endpoint: "http://t.example/", auth: password, timeout: 1m}
              |                                                  ^^^^^^^^ as in `{bearer: {file: token}}`
            error[E013]: a question may take from 1ms to 5000ms, not 60000ms
              --> facts.yaml:6:69
            6 |   authzen: {endpoint: "http://t.example/", auth: password, timeout: 1m}
              |                                                                     ^^ somebody waits for the answer
            error[E013]: unknown value `user.name`
              --> facts.yaml:7:39
            7 |   request: {subject: {type: user, id: user.name}, action: use, resource: {type: t, id: justification.ref}}
              |                                       ^^^^^^^^^ choose one of `user.id`, `user.accountId`, `device.id` and `justification.ref`
            error[E013]: unknown value `float`
              --> facts.yaml:8:25
            8 |   facts: {a: string, b: float, "c d": int}
              |                         ^^^^^ choose one of `string`, `int` and `bool`
            error[E013]: `c d` is not the name of a fact
              --> facts.yaml:8:32
            8 |   facts: {a: string, b: float, "c d": int}
              |                                ^^^^^ 1 to 32 letters, digits and `_`
            error[E013]: an answer counts for at most a day
              --> facts.yaml:9:21
            9 |   cache: {positive: 2d, maxEntries: 0}
              |                     ^^
            error[E013]: a whole number from 1 to 100000 was expected, not `0`
              --> facts.yaml:9:37
            9 |   cache: {positive: 2d, maxEntries: 0}
              |                                     ^
            error[E013]: `authzen` needs `request`, which says what is asked
              --> facts.yaml:16:12
            16 |   authzen: {endpoint: "https://t.example/", auth: mesh}
               |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ as in `{subject: {type: user, id: user.id}, action: use-as-justification, resource: {type: ticket, id: justification.ref}}`
            error[E013]: `auth: mesh` is not supported yet
              --> facts.yaml:16:51
            16 |   authzen: {endpoint: "https://t.example/", auth: mesh}
               |                                                   ^^^^ write `{bearer: {file: token}}`, and `roots` for the decision point's authority
            error[E013]: an AttributeProvider needs either `authzen` or `ldap`
              --> facts.yaml:23:3
            23 |   authzen: {endpoint: "https://t.example/"}
               |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `authzen` asks a decision point, `ldap` looks up the groups of users"#]],
    );
}

#[test]
fn attack_puts_a_user_name_into_a_filter() {
    let with = |filter: &str| provider("staff", &STAFF.replace("(memberUid={user.id})", filter));
    check(&with("(memberUid={user.id})"), expect!["ok: 1 attribute providers"]);
    check(
        &with(
            "(&(objectClass=groupOfNames)(|(member=uid={dn:user.id},dc=x)(!(a:2.5.13.2:={user.accountId})))(cn=*)(cn=a\\\\2a))",
        ),
        expect!["ok: 1 attribute providers"],
    );
    for filter in [
        "(member=uid={user.id},dc=x)",
        "(cn=ops)",
        "(cn={user.id}",
        "(cn={user.id}))",
        "(cn={user.name})",
        "(cn={justification.ref})",
        "(cn={user.id}*)",
        "(&)",
        "(cn>={user.id})",
        "cn={user.id}",
        "(cn={user.id)",
        "(cn=\\\\zz{user.id})",
    ] {
        let sources = [
            Source { name: "mesh.yaml", text: MESH },
            Source { name: "facts.yaml", text: &with(filter) },
        ];
        assert!(load(&sources).is_err(), "{filter}");
    }
    check(
        &with("(member=uid={user.id},dc=x)"),
        expect![[r#"
        error[E013]: this is not a filter: `{user.id}` stands in a distinguished name: write `{dn:user.id}`
          --> facts.yaml:6:64
        6 | d.example", base: "dc=example", filter: "(member=uid={user.id},dc=x)", attribute: cn, keep: [ops]}
          |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ as in `(&(objectClass=groupOfNames)(member=uid={dn:user.id},ou=people,dc=example))`"#]],
    );
    check(
        &with("(cn=ops)"),
        expect![[r#"
        error[E013]: the filter is the same for every user
          --> facts.yaml:6:64
        6 |   ldap: {url: "ldaps://d.example", base: "dc=example", filter: "(cn=ops)", attribute: cn, keep: [ops]}
          |                                                                ^^^^^^^^^^ say where the user stands: `(memberUid={user.id})`, or `{dn:user.id}` inside a distinguished name"#]],
    );
}

#[test]
fn directories_are_asked_only_where_they_prove_who_they_are() {
    let with = |url: &str| provider("staff", &STAFF.replace("url: \"ldaps://d.example\"", url));
    check(&with("url: \"ldap://127.0.0.1:3890\""), expect!["ok: 1 attribute providers"]);
    check(&with("url: \"ldap://d.example\", startTls: true"), expect!["ok: 1 attribute providers"]);
    check(
        &with("url: \"ldap://d.example\""),
        expect![[r#"
        error[E013]: nobody would know which directory answers
          --> facts.yaml:6:15
        6 |   ldap: {url: "ldap://d.example", base: "dc=example", filter: "(memberUid={user.id})", attribute: cn, keep: [ops]}
          |               ^^^^^^^^^^^^^^^^^^ write `ldaps://`, or `startTls: true`; plain is for this machine only"#]],
    );
    check(
        &with("url: \"ldaps://d.example/dc=x\""),
        expect![[r#"
        error[E013]: `d.example/dc=x` is not a place
          --> facts.yaml:6:15
        6 |   ldap: {url: "ldaps://d.example/dc=x", base: "dc=example", filter: "(memberUid={user.id})", attribute: cn, keep: [ops]}
          |               ^^^^^^^^^^^^^^^^^^^^^^^^ a host and an optional port; base and filter have fields of their own"#]],
    );
}

#[test]
fn gateways_name_validators_that_validate() {
    let documents = provider("tickets", TICKETS) + &provider("staff", STAFF);
    check(
        &(documents.clone()
            + &gateway(
                "  user: {providers: [corp], whenMissing: refuse, groupsFrom: tickets}\n  device: {sources: [{header: {proxy: iap, id: Authorization}}, {claim: {provider: corp, name: sub, managed: device}}, {}], validate: tickets}\n  justification: {header: Countersign-Justification, kinds: {a: {pattern: A, validate: staff}, b: {pattern: B, validate: ticket}}}\n",
            )),
        expect![[r#"
            error[E005]: `tickets` is no directory: it knows no groups
              --> facts.yaml:25:62
            25 |   user: {providers: [corp], whenMissing: refuse, groupsFrom: tickets}
               |                                                              ^^^^^^^ name one with `ldap`
            error[E005]: proxy `iap` is not in `proxies` of this ContextPolicy
              --> facts.yaml:26:39
            26 |   device: {sources: [{header: {proxy: iap, id: Authorization}}, {claim: {provider: corp, name: sub, managed: device}}, {
               |                                       ^^^ a header counts only from a proxy that proves who it is; add it to `proxies`
            error[E010]: header `Authorization` cannot carry a fact
              --> facts.yaml:26:48
            26 | e: {sources: [{header: {proxy: iap, id: Authorization}}, {claim: {provider: corp, name: sub, managed: device}}, {}], val
               |                                         ^^^^^^^^^^^^^ name a header of its own, such as `X-Device-Id`
            error[E002]: `corp` declares no claim `device` that is a bool
              --> facts.yaml:26:110
            26 | m: {provider: corp, name: sub, managed: device}}, {}], validate: tickets}
               |                                         ^^^^^^
            error[E013]: a source is one of `clientCertificate`, `header`, `claim`
              --> facts.yaml:26:120
            26 | er: corp, name: sub, managed: device}}, {}], validate: tickets}
               |                                         ^^
            error[E013]: fact `status` of `tickets` is none a device has
              --> facts.yaml:26:135
            26 |  sub, managed: device}}, {}], validate: tickets}
               |                                         ^^^^^^^ a device has `managed: bool`, `tier: string` and `at: int`
            error[E005]: `staff` is a directory: it knows groups and checks nothing
              --> facts.yaml:27:88
            27 | tion, kinds: {a: {pattern: A, validate: staff}, b: {pattern: B, validate: ticket}}}
               |                                         ^^^^^ name one with `authzen`
            error[E005]: AttributeProvider `ticket` does not exist
              --> facts.yaml:27:122
            27 | date: staff}, b: {pattern: B, validate: ticket}}}
               |                                         ^^^^^^ did you mean `tickets` (facts.yaml:4)?"#]],
    );
    check(
        &(documents
            + &gateway(
                "  user: {providers: [corp], whenMissing: refuse}\n  proxies: [{name: iap, clientCertificate: {trustBundle: p, dns: [\"*.example\"]}, groups: {header: Countersign-Groups, keep: [a]}}]\n",
            )),
        expect![[r#"
            error[E013]: `*.example` is not one DNS name in lower case
              --> facts.yaml:26:67
            26 | ientCertificate: {trustBundle: p, dns: ["*.example"]}, groups: {header: Countersign-Groups, keep: [a]}}]
               |                                         ^^^^^^^^^^^ list the names of your proxies
            error[E010]: header `Countersign-Groups` cannot carry a fact
              --> facts.yaml:26:99
            26 | , dns: ["*.example"]}, groups: {header: Countersign-Groups, keep: [a]}}]
               |                                         ^^^^^^^^^^^^^^^^^^ name a header of its own, such as `X-Device-Id`"#]],
    );
}

#[test]
fn rules_ask_for_facts_somebody_says() {
    let documents = provider("tickets", TICKETS)
        + &gateway(
            "  user: {providers: [corp], whenMissing: refuse}\n  justification: {header: Countersign-Justification, kinds: {a: {pattern: A, validate: tickets}, b: {pattern: B}}}\n",
        );
    let rule = |require: &str| {
        format!(
            "{documents}---\napiVersion: countersign.dev/v1alpha1\nkind: AccessPolicy\n\
             metadata: {{name: p, namespace: shop}}\nspec:\n  selector: {{all: true}}\n  \
             direction: inbound\n  rules:\n  - name: r\n    effect: allow\n    \
             match: {{caller: {{anyInMesh: true}}}}\n    require: {require}\n"
        )
    };
    check(
        &rule(
            "{justification: {anyKind: [a, b], facts: {status: {anyOf: [open]}, stat: {anyOf: [x]}}}, device: {}}",
        ),
        expect![[r#"
            error[E002]: no validator of `b` says `status`
              --> facts.yaml:31:56
            31 |     require: {justification: {anyKind: [a, b], facts: {status: {anyOf: [open]}, stat: {anyOf: [x]}}}, device: {}}
               |                                                        ^^^^^^ declare it in `facts` of the AttributeProvider that checks `b`
            error[E002]: no validator of `a` says `stat`
              --> facts.yaml:31:81
            31 |     require: {justification: {anyKind: [a, b], facts: {status: {anyOf: [open]}, stat: {anyOf: [x]}}}, device: {}}
               |                                                                                 ^^^^ declare it in `facts` of the AttributeProvider that checks `a`
            error[E002]: no validator of `b` says `stat`
              --> facts.yaml:31:81
            31 |     require: {justification: {anyKind: [a, b], facts: {status: {anyOf: [open]}, stat: {anyOf: [x]}}}, device: {}}
               |                                                                                 ^^^^ declare it in `facts` of the AttributeProvider that checks `b`
            error[E001]: `device` needs `managed`, `tiers`, `sources` or `maxPostureAge`
              --> facts.yaml:31:111
            31 |     require: {justification: {anyKind: [a, b], facts: {status: {anyOf: [open]}, stat: {anyOf: [x]}}}, device: {}}
               |                                                                                                               ^^"#]],
    );
    check(
        &rule(
            "{justification: {anyKind: [a], facts: {status: {equalsAttr: resource.owner}}}, device: {managed: true, sources: [mtls, tpm, \"header:iap\"]}}",
        ),
        expect![[r#"
            error[E007]: `equalsAttr: resource.owner` needs `resource.owner` in this policy
              --> facts.yaml:28:5
            28 |   - name: r
               |     ^^^^^^^ add `resource: {type: user, owner: {fromPath: {template: …, param: …}}}`
            warning[W110]: rule `r` admits every workload of the mesh
              --> facts.yaml:28:5
            28 |   - name: r
               |     ^^^^^^^
            error[E013]: `tpm` is not a way to learn a device
              --> facts.yaml:31:133
            31 | device: {managed: true, sources: [mtls, tpm, "header:iap"]}}
               |                                         ^^^ choose among mtls, idp and header:<proxy>
            error[E005]: no ContextPolicy has a proxy `iap`
              --> facts.yaml:31:138
            31 | e: {managed: true, sources: [mtls, tpm, "header:iap"]}}
               |                                         ^^^^^^^^^^^^"#]],
    );
}

#[test]
fn a_directory_knows_the_users_of_named_providers() {
    let two = |user: &str| {
        let shop = "---\napiVersion: countersign.dev/v1alpha1\nkind: IdentityProvider\n\
                    metadata: {name: shop}\nspec: {issuer: \"https://shop.example\", \
                    audiences: [a], algorithms: [RS256], keys: {file: k}, subjectPrefix: s, \
                    claims: {sub: {type: string, as: id}}}\n";
        shop.to_owned() + &provider("staff", STAFF) + &gateway(user)
    };
    let line = |from: &str| {
        format!("  user: {{providers: [corp, shop], whenMissing: refuse, groupsFrom: {from}}}\n")
    };
    check(
        &two(&line("staff")),
        expect![[r#"
        error[E013]: `staff` would name groups for users of every provider
          --> facts.yaml:21:68
        21 |   user: {providers: [corp, shop], whenMissing: refuse, groupsFrom: staff}
           |                                                                    ^^^^^ the same id at another provider is somebody else: write `groupsFrom: {directory: NAME, users: [PROVIDER]}`"#]],
    );
    check(
        &two(&line("{directory: staff, users: [crop]}")),
        expect![[r#"
        error[E005]: `crop` is not in `providers` of this gateway
          --> facts.yaml:21:95
        21 |   user: {providers: [corp, shop], whenMissing: refuse, groupsFrom: {directory: staff, users: [crop]}}
           |                                                                                               ^^^^ did you mean `corp`?"#]],
    );
    check(
        &two(&line("{directory: staff, users: []}")),
        expect![[r#"
        error[E001]: an empty list matches nothing
          --> facts.yaml:21:94
        21 |   user: {providers: [corp, shop], whenMissing: refuse, groupsFrom: {directory: staff, users: []}}
           |                                                                                              ^^ name at least one entry, or leave the field out"#]],
    );
    check(&two(&line("{directory: staff, users: [corp]}")), expect!["ok: 1 attribute providers"]);
    let one = two("  user: {providers: [shop], whenMissing: refuse, groupsFrom: staff}\n");
    let sources = [Source { name: "mesh.yaml", text: MESH }, Source { name: "b.yaml", text: &one }];
    let documents = load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
    let from = documents.gateways[0].spec.groups_from.as_ref().unwrap();
    assert_eq!(
        (from.directory.as_str(), from.users.as_slice()),
        ("staff", &["shop".to_owned()][..])
    );
}
