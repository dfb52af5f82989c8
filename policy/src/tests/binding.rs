//! What `chain`, `params`, `emit.params` and `once` demand of the rule they stand in.
use crate::{Source, load};

const MESH: &str = include_str!("../../cases/mesh.yaml");

/// A policy of one rule.
fn policy(effect: &str, matcher: &str, rest: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: AccessPolicy\n\
         metadata: {{name: p, namespace: shop}}\nspec:\n  selector: {{all: true}}\n  \
         direction: inbound\n  rules:\n    - {{name: r, effect: {effect}, match: {matcher}{rest}}}\n"
    )
}

#[track_caller]
fn refused(effect: &str, matcher: &str, rest: &str, code: &str, says: &str) {
    let text = policy(effect, matcher, rest);
    let sources = [Source { name: "mesh", text: MESH }, Source { name: "p", text: &text }];
    let problems = load(&sources).map(|_| ()).expect_err(&text).to_string();
    assert!(problems.contains(&format!("[{code}]")) && problems.contains(says), "{problems}");
}

#[track_caller]
fn accepted(effect: &str, matcher: &str, rest: &str) {
    let text = policy(effect, matcher, rest);
    let sources = [Source { name: "mesh", text: MESH }, Source { name: "p", text: &text }];
    load(&sources).unwrap_or_else(|problems| panic!("{text}\n{problems}"));
}

const HTTP: &str = "{caller: {anyInMesh: true}, http: {paths: [{template: \"/u/{user}\"}]}}";
const TCP: &str = "{caller: {anyInMesh: true}, tcp: {any: true}}";

#[test]
fn params_name_places_that_the_paths_have() {
    let bound = ", require: {params: {user: {fromPath: {template: \"/u/{user}\", param: user}}, o: {fromQuery: o}}}";
    accepted("allow", HTTP, bound);
    accepted("deny", "{http: {paths: [{template: \"/u/{user}\"}]}}", bound);
    let elsewhere = "{caller: {anyInMesh: true}, http: {paths: [{prefix: /v}]}}";
    refused("allow", elsewhere, bound, "E007", "`params.user` would be unknown");
    refused("allow", "{caller: {anyInMesh: true}, any: true}", bound, "E007", "any path");
    refused(
        "allow",
        TCP,
        ", require: {params: {o: {fromQuery: o}}}",
        "E004",
        "needs a context token",
    );
    for (params, code, says) in [
        ("{}", "E001", "would bind nothing"),
        ("{o: {}}", "E001", "bound from one place"),
        (
            "{o: {fromQuery: o, fromPath: {template: \"/u/{user}\", param: user}}}",
            "E001",
            "one place",
        ),
        ("{o: {fromQuery: \"a[]\"}}", "E014", "reads alike"),
        ("{\"a b\": {fromQuery: o}}", "E014", "no name of a parameter"),
        ("{o: {fromPath: {template: \"/u/{user}\", param: usr}}}", "E007", "has no `{usr}`"),
    ] {
        refused("allow", HTTP, &format!(", require: {{params: {params}}}"), code, says);
    }
}

#[test]
fn chains_ask_something_possible() {
    accepted(
        "allow",
        HTTP,
        ", require: {chain: {origin: {namespace: edge, serviceAccount: gateway}, maxHops: 0}}",
    );
    for (chain, code, says) in [
        ("{}", "E001", "needs `origin`"),
        ("{maxHops: 9}", "E013", "9"),
        ("{custody: false}", "E013", "custody"),
        ("{through: []}", "E001", ""),
        ("{origin: {spiffeId: orders}}", "E013", ""),
    ] {
        refused("allow", HTTP, &format!(", require: {{chain: {chain}}}"), code, says);
    }
    refused("allow", TCP, ", require: {chain: {custody: true}}", "E004", "needs a context token");
}

#[test]
fn once_needs_a_token_to_tell_one_from_another() {
    accepted("allow", HTTP, ", once: true");
    refused("allow", HTTP, ", once: false", "E013", "once");
    refused("allow", HTTP, ", once: true, context: optional", "E013", "context: required");
    refused("allow", HTTP, ", once: true, context: none", "E013", "context: required");
    refused("allow", TCP, ", once: true", "E004", "opaque");
    refused("deny", "{any: true}", ", once: true", "E013", "deny rule");
}

#[test]
fn a_gateway_signs_what_its_paths_have() {
    let mesh = |paths: &str| {
        MESH.replace(
            "mint:",
            &format!(
                "mint:\n          - match: {{http: {{hosts: [bound.example], paths: [{paths}]}}}}\n            \
                 scope: s\n            emit: {{params: {{user: {{fromPath: {{template: \"/u/{{user}}\", \
                 param: user}}}}}}}}"
            ),
        )
    };
    assert!(MESH.contains("mint:"), "the mesh of the cases has a gateway");
    let load = |text: &str| load(&[Source { name: "mesh", text }]).map(|_| ());
    let problems = load(&mesh("{prefix: /v}")).expect_err("a path without it").to_string();
    assert!(problems.contains("to sign as `user`"), "{problems}");
    let sound = load(&mesh("{template: \"/u/{user}\"}"));
    assert!(sound.is_ok(), "{}", sound.unwrap_err());
}
