//! The token service: what may be written about it, and what people read when it may not.

use expect_test::{Expect, expect};

use crate::{
    Documents, Problems, Source,
    doc::{ContextRole, RctxKey, SubjectToken},
    load,
};

const SPEC: &str = "selector: {all: true}, role: tokenService";

fn mesh(context: &str, policy: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\n\
         spec:\n  trustDomain: prod.test\n  context: {context}\n  \
         gateways: [{{name: t, namespace: jobs, spec: {{{policy}}}}}]\n  destinations:\n  \
         - name: tokens\n    namespace: jobs\n    spec: {{hosts: [tokens.jobs], \
         ports: [{{port: 80, protocol: http}}], endpoints: [{{address: 10.0.0.1, port: 80}}], \
         peer: {{mesh: {{identities: [\"spiffe://prod.test/ns/jobs/sa/issuer\"]}}}}}}\n  \
         - {{name: storage, namespace: jobs, spec: {{hosts: [s.example.net], \
         ports: [{{port: 443, protocol: http}}], \
         peer: {{tls: {{serverNames: [s.example.net], roots: system}}}}}}}}\n"
    )
}

fn loaded(text: &str) -> Documents {
    load(&[Source { name: "mesh.yaml", text }]).unwrap_or_else(|problems| panic!("{problems}"))
}

fn problems(text: &str, expected: Expect) {
    let found = match load(&[Source { name: "mesh.yaml", text }]) {
        Err(Problems(found)) => found
            .iter()
            .map(|d| {
                let hint = d.hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default();
                format!("{}:{} {}: {}{hint}\n", d.line, d.column, d.code, d.message)
            })
            .collect(),
        Ok(_) => "ok".to_owned(),
    };
    expected.assert_eq(&found);
}

fn service(requesters: &str) -> String {
    mesh("{}", &format!("{SPEC}, tokenService: {{requesters: {requesters}}}"))
}

#[test]
fn an_entry_says_who_may_bring_what_for_what() {
    let documents = loaded(&service(
        "[{peer: 'spiffe://prod.test/ns/jobs/sa/*', subjectTokens: [self_signed, txn_token], \
           origins: [batch], scopes: ['orders.*']}]",
    ));
    let policy = &documents.gateways[0].spec;
    assert_eq!((policy.role, policy.mint.len()), (ContextRole::TokenService, 0));
    let service = policy.token_service.as_ref().unwrap();
    assert_eq!((service.replacements, service.requesters.len()), (3, 1));
    let entry = &service.requesters[0];
    assert_eq!(entry.subject_tokens, [SubjectToken::SelfSigned, SubjectToken::TxnToken]);
    assert_eq!((entry.rate, entry.emit.as_slice()), (10, &[RctxKey::Idp, RctxKey::Acct][..]));
    assert!(entry.assert.is_empty() && entry.impersonate.is_empty());
    assert!(documents.mesh.token_service.is_none());
    let named = mesh("{tokenService: {destination: jobs/tokens}}", "");
    let named = named.replace("gateways: [{name: t, namespace: jobs, spec: {}}]", "gateways: []");
    assert_eq!(loaded(&named).mesh.token_service.unwrap().to_string(), "jobs/tokens");
}

#[test]
fn what_would_grant_nothing_or_too_much_is_refused() {
    problems(
        &service(
            "[{peer: 'spiffe://other.test/**', subjectTokens: [refresh_token], origins: [job], \
               scopes: ['o*r'], assert: [sub], rate: 0},
              {peer: 'spiffe://prod.test/ns/a/sa/b', subjectTokens: [access_token], origins: [user], scopes: ['*'], \
               emit: [just], subjects: ['user:*'], impersonate: ['nobody']}]",
        ),
        expect![[r#"
            7:126 E005: trust domain `other.test` is not this mesh's own, `prod.test`
            7:168 E013: unknown value `refresh_token` (choose one of `access_token`, `id_token`, `jwt`, `txn_token`, `self_signed`, `unsigned_json` and `deferred`)
            7:194 E013: unknown value `job` (choose one of `user`, `service`, `batch`, `async` and `foreign`)
            7:209 E013: `*` may only be the last character
            7:226 E013: unknown value `sub` (choose one of `req_ip`, `client_id`, `acr`, `auth_time`, `authn`, `amr`, `acct`, `groups`, `claims`, `just`, `m`, `h`, `p` and `params`)
            7:238 E013: a whole number from 1 to 10000 was expected, not `0`
            8:15 E013: `unsigned_json` and `subjects` need each other (nothing proves such a subject, so say which ones are believed: `subjects: ["user:*"]`)
            8:15 E013: `impersonate` needs a statement of the job and its justification (add `self_signed` to `subjectTokens` and `just` to `assert`)
            8:15 E013: tokens of users are taken, and no provider is named (add `providers: [NAME]` to `tokenService`)
            8:124 E013: unknown value `just` (choose one of `idp`, `client_id`, `acr`, `auth_time`, `amr`, `acct`, `groups` and `claims`)
            8:167 E013: `nobody` is not a pattern of subjects (write `user:*`, `svc:*`, `foreign:*` or `anon`)
        "#]],
    );
    problems(
        &service(
            "[{peer: 'spiffe://prod.test/ns/a/sa/b', subjectTokens: [unsigned_json], origins: [user], scopes: ['*']},
              {peer: 'spiffe://prod.test/ns/a/sa/b', subjectTokens: [jwt, jwt], origins: [user], scopes: ['*']}]",
        ),
        expect![[r#"
            7:119 E013: `unsigned_json` and `subjects` need each other (nothing proves such a subject, so say which ones are believed: `subjects: ["user:*"]`)
            8:15 E019: requester `spiffe://prod.test/ns/a/sa/b` is listed twice (write one entry for it)
            8:15 E013: tokens of users are taken, and no provider is named (add `providers: [NAME]` to `tokenService`)
            8:75 E019: `jwt` stands here twice
        "#]],
    );
    problems(
        &mesh("{}", SPEC),
        expect![[r#"
        7:47 E013: `role: tokenService` needs `tokenService` (say who may ask for what: `tokenService: {requesters: […]}`)
    "#]],
    );
    problems(
        &mesh(
            "{}",
            &format!("{SPEC}, mint: [], tokenService: {{requesters: [], providers: [corp]}}"),
        ),
        expect![[r#"
            7:91 E013: unknown field `mint` in ContextPolicy (it has `selector`, `role`, `tokenService` and `justification`)
            7:128 E001: an empty list matches nothing (name at least one entry, or leave the field out)
            7:144 E005: IdentityProvider `corp` does not exist (no IdentityProvider is declared)
        "#]],
    );
}

#[test]
fn the_service_is_a_destination_of_the_mesh() {
    let at = |name: &str| {
        let text = mesh(&format!("{{tokenService: {{destination: {name}}}}}"), "");
        text.replace("gateways: [{name: t, namespace: jobs, spec: {}}]", "gateways: []")
    };
    problems(
        &at("jobs/token"),
        expect![[r#"
        6:41 E005: Destination `jobs/token` does not exist (did you mean `jobs/tokens`?)
    "#]],
    );
    problems(
        &at("tokens"),
        expect![[r#"
        6:41 E013: `tokens` does not name a Destination (write `NAMESPACE/NAME`)
    "#]],
    );
    problems(
        &at("jobs/storage"),
        expect![[r#"
        6:41 E013: Destination `jobs/storage` is not of the mesh (whoever answers there must prove an identity: `peer: {mesh: {identities: […]}}`)
    "#]],
    );
}
