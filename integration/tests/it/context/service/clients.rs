//! Clients that are not ours: curl, and Python with joserfc.

use std::path::Path;
use std::process::Command;

use countersign_integration::token::claims_of;
use countersign_integration::token_service::{Form, TokenService};
use countersign_integration::{Lab, process, programs, wait};
use serde_json::{Value, json};

use super::web;

#[tokio::test]
async fn curl_exchanges_a_token_with_a_certificate_of_the_mesh() {
    let test = "curl_exchanges_a_token_with_a_certificate_of_the_mesh";
    let Some(curl) = programs::system(test, "curl") else { return };
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let (certificate, key) = lab.ca.leaf("shop", "web").write(lab.folder(), "curl");
    let subject = service.access_token("alice", "orders.read");
    let body = lab.write_text("form", &Form::new("access_token", &subject).body());
    let mut command = Command::new(curl);
    // A SPIFFE certificate names no host; Python's client checks whom it names instead.
    command.args(["--silent", "--show-error", "--insecure", "--include", "--http2"]);
    command.arg("--cert").arg(certificate).arg("--key").arg(key);
    command.arg("--data").arg(format!("@{}", body.display()));
    command.arg(format!("https://{}/v1/token", service.proxy.inbound()));
    let done = tokio::task::spawn_blocking(move || process::run(&mut command)).await.unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.to_ascii_lowercase().contains("cache-control: no-store"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(claims_of(body["access_token"].as_str().unwrap())["sub"], "user:alice");
}

/// The client checks the chain and whom the service's certificate names, signs its own statement,
/// reads the answer by the rules of the specifications, and verifies the token it got.
#[tokio::test]
async fn a_python_client_asks_for_itself_and_verifies_what_it_gets() {
    let test = "a_python_client_asks_for_itself_and_verifies_what_it_gets";
    let Some(python) = programs::python(test) else { return };
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let (certificate, key) = lab.ca.leaf("shop", "web").write(lab.folder(), "python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/context/service/client.py");
    let ask = |expected: &str| {
        let mut command = Command::new(&python);
        command.arg(&script).arg(service.proxy.inbound().to_string());
        command.arg(&certificate).arg(&key).arg(lab.folder().join("bundle.pem"));
        command.args([&lab.id("shop", "web"), expected, "lab.test"]);
        async move { tokio::task::spawn_blocking(move || process::run(&mut command)).await.unwrap() }
    };
    let done = ask(&lab.id("jobs", "issuer")).await;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    let claims: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(claims["sub"], format!("svc:{}", lab.id("shop", "web")));
    assert_eq!(claims["rctx"]["to"], lab.id("shop", "web"));
    // A service with another identity is told nothing at all.
    wait::until_true("the record of the token", || service.proxy.decisions().len() == 1).await;
    let done = ask(&lab.id("jobs", "other")).await;
    assert!(!done.status.success());
    assert!(String::from_utf8_lossy(&done.stderr).contains("not the token service"));
    assert_eq!(service.proxy.decisions().len(), 1);
}
