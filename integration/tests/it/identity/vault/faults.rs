//! Everything that can be wrong at the role, the login or the mount, told with its fix.

use std::fs;

use countersign_integration::{Authority, ports, process, programs, wait};
use serde_json::{Value, json};

use super::{Stage, says};

/// A role as on the page, but for one thing.
async fn role(stage: &Stage, name: &str, change: Value) {
    let mut role = json!({
        "allowed_uri_sans": stage.id("orders"), "key_type": "ec", "key_bits": 256,
        "require_cn": false, "key_usage": "DigitalSignature", "no_store": true, "max_ttl": "24h",
    });
    for (field, value) in change.as_object().unwrap() {
        role[field] = value.clone();
    }
    stage.bao.put(&format!("pki/roles/{name}"), &role).await;
}

/// Name, what is changed in `identity.source.vault`, what is said about it.
type Case = (&'static str, Value, Vec<String>);

fn cases(stage: &Stage) -> Vec<Case> {
    let id = stage.id("orders");
    let allowed = format!("allowed_uri_sans={id}");
    let folder = stage.folder.path();
    fs::write(folder.join("wrong-id"), "5a0d1f7e-7a1f-4b5e-9d9d-000000000000\n").unwrap();
    fs::write(folder.join("empty-id"), "\n").unwrap();
    fs::write(folder.join("two-ids"), "one two\n").unwrap();
    let secret = |name: &str| json!({"/login/appRole/secretIdFile": folder.join(name)});
    let nobody = format!("https://{}", ports::free());

    let text = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect();
    let cases: &[(&str, Value, &[&str])] = &[
        (
            "rsa",
            json!({"/role": "rsa"}),
            &["requires keys of type rsa", "key_type=ec key_bits=256"],
        ),
        ("another", json!({"/role": "another"}), &["not valid for this role", &allowed]),
        ("named", json!({"/role": "named"}), &["common_name", "require_cn=false"]),
        ("unknown", json!({"/role": "unknown"}), &["unknown role", "there is no role"]),
        ("client", json!({"/role": "client"}), &["extended key usage", "server_flag=true"]),
        ("usage", json!({"/role": "agreement"}), &["key usage", "key_usage=DigitalSignature"]),
        ("mount", json!({"/mount": "pkx"}), &["pkx", "403", "is a `pki` engine mounted at"]),
        ("empty", json!({"/mount": "empty"}), &["the mount has no issuer", "generate or import"]),
        ("space", json!({"/namespace": "none"}), &["namespace not found", "does not exist"]),
        ("method", json!({"/login/appRole/mount": "no"}), &["log in of", "403", "auth/no"]),
        ("wrong", secret("wrong-id"), &["invalid role or secret", "issue a new one"]),
        ("blank", secret("empty-id"), &["read the credential", "empty-id: it is empty"]),
        ("words", secret("two-ids"), &["read the credential", "more than one word"]),
        ("missing", secret("no-id"), &["read the credential", "no-id", "No such file"]),
        ("nobody", json!({"/address": nobody}), &["cannot connect to"]),
        (
            "stranger",
            json!({"/ca": stage.folder.path().join("openbao/server.pem")}),
            &["tls:", "certificate"],
        ),
    ];
    let owned = cases.iter().map(|(name, change, said)| (*name, change.clone(), text(said)));
    owned.collect()
}

/// Each wrong role, login, mount or namespace is told with what came back and with the fix.
#[tokio::test]
async fn what_is_wrong_at_the_server_is_told_with_its_fix() {
    let Some(stage) = Stage::new("what_is_wrong_at_the_server", "shop").await else { return };
    stage.follow("approle-method", "", &[]).await;
    let login = stage.approle("orders").await;
    let any = json!({"policy": "path \"pki*\" { capabilities = [\"update\"] }"});
    stage.bao.put("sys/policies/acl/orders", &any).await;
    stage.bao.put("sys/mounts/empty", &json!({"type": "pki"})).await;
    role(&stage, "rsa", json!({"key_type": "rsa", "key_bits": 2048})).await;
    role(&stage, "another", json!({"allowed_uri_sans": stage.id("web")})).await;
    role(&stage, "named", json!({"require_cn": true})).await;
    role(&stage, "client", json!({"server_flag": false})).await;
    role(&stage, "agreement", json!({"key_usage": "KeyAgreement"})).await;
    let cases = cases(&stage);
    // A few at a time: each is a process.
    for some in cases.chunks(4) {
        let started = some.iter().map(|(name, change, said)| {
            let mut identity = stage.identity("orders", login.clone());
            identity["source"]["vault"]["role"] = json!("orders");
            for (place, value) in change.as_object().unwrap() {
                let place = format!("/source/vault{place}");
                match identity.pointer_mut(&place) {
                    Some(old) => *old = value.clone(),
                    None => {
                        let name = place.rsplit('/').next().unwrap();
                        let parent = place.strip_suffix(&format!("/{name}")).unwrap();
                        identity.pointer_mut(parent).unwrap()[name] = value.clone();
                    }
                }
            }
            (stage.proxy(name, &identity), said)
        });
        for (proxy, said) in started.collect::<Vec<_>>() {
            let mut said: Vec<&str> = said.iter().map(String::as_str).collect();
            said.extend(["identity source failed", "next try in"]);
            says(&proxy, &said).await;
            let (status, _) = proxy.ready().await.unwrap();
            assert_eq!(status, 503, "without an identity it is not ready");
        }
    }
}

/// The same sidecar gets its identity as soon as the role is put right, and is told what it lost.
#[tokio::test]
async fn the_fix_at_the_server_is_enough() {
    let Some(stage) = Stage::new("the_fix_at_the_server_is_enough", "shop").await else { return };
    stage.follow("approle-method", "", &[]).await;
    let login = stage.approle("orders").await;
    let policy = json!({"policy": "path \"pki/sign/*\" { capabilities = [\"update\"] }"});
    stage.bao.put("sys/policies/acl/orders", &policy).await;
    role(&stage, "rsa", json!({"key_type": "rsa", "key_bits": 2048})).await;
    let mut identity = stage.identity("orders", login.clone());
    identity["source"]["vault"]["role"] = json!("rsa");
    let waiting = stage.proxy("waiting", &identity);
    says(&waiting, &["requires keys of type rsa"]).await;
    role(&stage, "rsa", json!({"max_ttl": "20m"})).await;
    waiting.until_ready().await;
    // Less life than asked for is no failure, and no secret either.
    identity["source"]["vault"]["ttl"] = json!("2h");
    let capped = stage.proxy("capped", &identity);
    capped.until_ready().await;
    // The server looks at the clock twice, and a second may begin in between.
    let told = |line: &str, life| {
        ["caps the life", "max_ttl of pki/roles/rsa", life].iter().all(|part| line.contains(part))
    };
    wait::until_true("the shorter life", || {
        capped.log().lines().any(|line| told(line, "1230") || told(line, "1229"))
    })
    .await;
    // Authorities from a file are the only ones that count.
    let (_, chain) = stage.bao.ask(http::Method::GET, "pki/ca_chain", None).await;
    let bundle = stage.folder.path().join("bundle.pem");
    identity["source"]["vault"]["bundle"] = json!(bundle);
    fs::write(&bundle, chain.as_str().unwrap()).unwrap();
    stage.proxy("pinned", &identity).until_ready().await;
    fs::write(&bundle, Authority::new("prod.example.com").pem()).unwrap();
    let stranger = stage.proxy("others", &identity);
    says(&stranger, &["no authority of its trust domain vouches"]).await;
    fs::write(&bundle, "nothing").unwrap();
    says(&stage.proxy("none", &identity), &["read the authorities", "bundle.pem"]).await;
}

/// The policy of the login does not hold the role; then the role lives in a namespace.
#[tokio::test]
async fn policies_and_namespaces() {
    let Some(stage) = Stage::new("policies_and_namespaces", "shop").await else { return };
    stage.follow("approle-method", "", &[]).await;
    let login = stage.approle("orders").await;
    let mut identity = stage.identity("orders", login);
    identity["source"]["vault"]["role"] = json!("web");
    let other = stage.proxy("other", &identity);
    let fix = "path \\\"pki/sign/web\\\" { capabilities = [\\\"update\\\"] }";
    says(&other, &["sign of", "status 403", "permission denied", fix]).await;

    // The same page once more, in a namespace of the server's.
    stage.bao.put("sys/namespaces/teams", &json!({})).await;
    let inside = [("BAO_NAMESPACE", "teams")];
    for block in ["pki", "role", "approle-method", "approle"] {
        stage.follow(block, "orders", &inside).await;
    }
    let mut identity = stage.identity("orders", json!(null));
    let file = |kind: &str| stage.bao.folder().join(format!("orders.{kind}"));
    let id = fs::read_to_string(file("role-id")).unwrap();
    identity["source"]["vault"]["login"] =
        json!({"appRole": {"roleId": id.trim(), "secretIdFile": file("secret-id")}});
    identity["source"]["vault"]["namespace"] = json!("teams");
    let proxy = stage.proxy("orders", &identity);
    proxy.until_ready().await;
    identity["source"]["vault"]["namespace"] = json!(null);
    identity["source"]["vault"].as_object_mut().unwrap().remove("namespace");
    let outside = stage.proxy("outside", &identity);
    says(&outside, &["log in of", "invalid role or secret"]).await;
}

/// `countersign check --pre` logs in as the process would and reads what the role signs.
#[tokio::test]
async fn check_warns_about_wide_vault_role() {
    let Some(stage) = Stage::new("check_warns_about_wide_vault_role", "shop").await else { return };
    stage.follow("approle-method", "", &[]).await;
    let mut identity = stage.identity("orders", stage.approle("orders").await);
    let check = async |role: &str, identity: &mut Value| {
        identity["source"]["vault"]["role"] = json!(role);
        let file = stage.spec("orders", identity).write();
        let mut command = std::process::Command::new(programs::cli());
        command.arg("check").arg(file).arg("--pre");
        let done = tokio::task::spawn_blocking(move || process::run(&mut command)).await.unwrap();
        assert!(done.status.success(), "warnings fail nothing: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let said = check("orders", &mut identity).await;
    assert!(said.contains("C405") && said.contains("nobody could say whether"), "{said}");

    let policy = "path \"pki/sign/*\" { capabilities = [\"update\"] }\n\
                  path \"pki/roles/*\" { capabilities = [\"read\"] }";
    stage.bao.put("sys/policies/acl/orders", &json!({"policy": policy})).await;
    let said = check("orders", &mut identity).await;
    assert!(!said.contains("C405"), "{said}");
    role(&stage, "wide", json!({"allowed_uri_sans": "spiffe://prod.example.com/ns/*"})).await;
    let said = check("wide", &mut identity).await;
    assert!(said.contains("C405") && said.contains("can take any of them"), "{said}");
    assert!(
        said.contains("allowed_uri_sans=spiffe://prod.example.com/ns/shop/sa/orders"),
        "{said}"
    );
    stage.bao.seal().await;
    let said = check("orders", &mut identity).await;
    assert!(said.contains("was not asked") && said.contains("Vault is sealed"), "{said}");
}
