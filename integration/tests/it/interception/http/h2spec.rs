//! h2spec, the conformance tests of RFC 7540 and 7541, against every kind of listener: the inbound
//! one in plaintext, where a rule admits callers without identity, and behind mutual TLS; the gateway in plaintext and over TLS, and the app's outbound one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use countersign_integration::pki::Request;
use countersign_integration::{App, Lab, Tokens, client, documents, process, programs, tls};
use serde_json::json;

use super::{HOST, Pair};

/// Cases that are left out on listeners without TLS, and why. Each is known to fail: one that passes
/// must be taken out of the list. Over TLS none is.
const LEFT_OUT_IN_PLAINTEXT: &[(&str, &str)] = &[(
    "http2/3.5: Sends invalid connection preface",
    "such a listener speaks HTTP/1 too: what is no preface is a malformed HTTP/1 request, answered \
     with 400 before the connection ends; the case wants a GOAWAY or nothing",
)];

/// Runs all cases, the strict ones too, and gives those that failed.
fn failed(program: &Path, folder: &Path, address: SocketAddr, more: &[&str]) -> BTreeSet<String> {
    let report = folder.join("h2spec.xml");
    let mut command = Command::new(program);
    command.args(["--strict", "--timeout", "5", "--host", &address.ip().to_string()]);
    command.args(["--port", &address.port().to_string(), "--junit-report"]).arg(&report).args(more);
    let done = process::run(&mut command);
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    println!("{told}{}", String::from_utf8_lossy(&done.stderr));
    let report = std::fs::read_to_string(&report).expect("a report");
    let cases = report.matches("<testcase ").count();
    assert!(cases > 140, "only {cases} cases ran\n{told}");
    report.split("<testcase ").skip(1).filter_map(failure).collect()
}

/// `package="http2/5.1" classname="…" time="…"><failure>…`: `http2/5.1: …`.
fn failure(case: &str) -> Option<String> {
    if !case.contains("<failure") && !case.contains("<error") {
        return None;
    }
    let of = |name: &str| {
        let (_, rest) = case.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    Some(format!("{}: {}", of("package")?, of("classname")?))
}

fn expect(failed: &BTreeSet<String>, left_out: &[(&str, &str)]) {
    let left_out: BTreeSet<String> = left_out.iter().map(|(case, _)| (*case).to_owned()).collect();
    assert_eq!(*failed, left_out);
}

/// A peer's end of mutual TLS: what comes here in plaintext goes on with its certificate.
async fn as_peer(lab: &Lab, to: SocketAddr) -> SocketAddr {
    let config = tls::client(Some(lab.gateway.leaf()), &[tls::MESH_H2]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let config = std::sync::Arc::clone(&config);
            tokio::spawn(async move {
                let mut secure = client::tls_stream(to, config).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut plain, &mut secure).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn h2spec_of_the_inbound_listener() {
    let Some(program) = programs::go_tool("h2spec_of_the_inbound_listener", "h2spec", "h2spec")
    else {
        return;
    };
    let lab = Lab::new();
    let app = App::mirror();
    let rules = json!([
        documents::anybody()[0],
        {"name": "plaintext", "effect": "allow", "context": "optional", "match": {
            "caller": {"unauthenticated": true}, "http": {"paths": [{"prefix": "/"}]}}},
    ]);
    let orders = lab.orders_with(&app, &lab.mesh(), rules, |spec| spec).await;
    let peer = as_peer(&lab, orders.inbound()).await;
    for (address, left_out) in [(orders.inbound(), LEFT_OUT_IN_PLAINTEXT), (peer, &[])] {
        let (program, folder) = (program.clone(), lab.folder().to_owned());
        let run = move || failed(&program, &folder, address, &[]);
        expect(&tokio::task::spawn_blocking(run).await.unwrap(), left_out);
    }
}

#[tokio::test]
async fn h2spec_of_the_gateway_listeners() {
    let Some(program) = programs::go_tool("h2spec_of_the_gateway_listeners", "h2spec", "h2spec")
    else {
        return;
    };
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let id = lab.id("shop", "orders");
    let mesh = lab.gateway_mesh(&Tokens::of(&lab.ca, "idp", "keys"));
    let mesh = mesh.destination("shop/orders", HOST, orders.inbound(), &[&id]);
    let mesh = mesh.with_gateway(|spec| {
        spec["user"]["whenMissing"] = json!("anonymous");
        let rule = &mut spec["mint"][0];
        rule["match"]["http"]["paths"] = json!([{"prefix": "/"}]);
        spec["mint"] = json!([rule]);
    });
    let leaf = lab.ca.issue(Request::new(&[]).dns("api.example.com"));
    let (certificate, key) = leaf.write(lab.folder(), "public");
    let secure = countersign_integration::ports::free();
    let gateway = lab
        .gateway_to(&mesh, "shop/orders", |spec| {
            spec.with(|config| {
                config["gateway"]["routes"][0]["host"] = json!("127.0.0.1");
                let plain = config["listeners"]["gateway"][0].clone();
                let tls = json!({"certificate": certificate, "key": key});
                let secure = json!({"address": secure, "tls": tls});
                config["listeners"]["gateway"] = json!([plain, secure]);
            })
        })
        .await;
    for (address, more, left_out) in [
        (gateway.gateway(), &[][..], LEFT_OUT_IN_PLAINTEXT),
        (secure, &["--tls", "--insecure"], &[]),
    ] {
        let (program, folder) = (program.clone(), lab.folder().to_owned());
        let run = move || failed(&program, &folder, address, more);
        expect(&tokio::task::spawn_blocking(run).await.unwrap(), left_out);
    }
}

#[tokio::test]
async fn h2spec_of_the_outbound_listener() {
    let Some(program) = programs::go_tool("h2spec_of_the_outbound_listener", "h2spec", "h2spec")
    else {
        return;
    };
    let app = App::mirror();
    let pair = Pair::start_called(app.address, "127.0.0.1").await;
    let (folder, address) = (pair.lab.folder().to_owned(), pair.web.outbound());
    let run = move || failed(&program, &folder, address, &[]);
    expect(&tokio::task::spawn_blocking(run).await.unwrap(), LEFT_OUT_IN_PLAINTEXT);
}
