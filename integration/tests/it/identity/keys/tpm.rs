//! Keys in TPMs (swtpm), one for each process, through the same door as those of other tokens.

use std::time::Instant;

use countersign_integration::client::Call;
use countersign_integration::components::softhsm::P11Server;
use countersign_integration::components::tpm::Tpm;
use countersign_integration::pki::Request;
use countersign_integration::proxy::Spec;
use countersign_integration::{App, Lab, Proxy, Tokens, lab, ports, wait};

use super::faults::new_connection;
use super::{alice_reads_her_orders, says};

/// Handshakes that are measured.
const HANDSHAKES: usize = 40;

/// What a process with a key in a TPM needs beside itself.
struct Node {
    tpm: Tpm,
    _server: P11Server,
}

impl Node {
    /// A TPM with a key of the account, and its certificate where the process looks for it; the
    /// key of its own that the lab made for it is not used.
    async fn prepare(test: &str, lab: &Lab, id: (&str, &str), spec: Spec) -> Option<(Node, Spec)> {
        let (namespace, account) = id;
        let tpm = Tpm::new(test, &lab.folder().join(format!("tpm-{account}"))).await?;
        let key = tpm.make(account, "01");
        let pem = lab.ca.certify(&key, Request::new(&[&lab.id(namespace, account)]));
        lab.write_text(&format!("{namespace}.{account}.id.pem"), &pem);
        std::fs::remove_file(lab.folder().join(format!("{namespace}.{account}.id.key"))).unwrap();
        let server = tpm.serve(test).await?;
        let (keys, uri) =
            (server.keys(&tpm.pin_file), format!("pkcs11:token=mesh;object={account}"));
        let (name, address) = server.env();
        let spec = spec.with(|config| {
            config["identity"]["key"] = keys;
            config["identity"]["source"]["files"]["key"] = uri.into();
        });
        Some((Node { tpm, _server: server }, spec.env(name, address)))
    }
}

/// A sidecar `shop/orders` whose key is in a TPM.
async fn orders(test: &str, lab: &Lab, app: &App) -> Option<(Node, Proxy)> {
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    let anybody = countersign_integration::documents::anybody();
    let access = countersign_integration::documents::access("shop", anybody);
    let access = lab.write("access.yaml", &access);
    let spec = lab.proxy("shop", "orders").inbound_at(ports::free(), app.address);
    let spec = spec.documents(&[&mesh, &access]);
    let (node, spec) = Node::prepare(test, lab, ("shop", "orders"), spec).await?;
    Some((node, spec.start().await))
}

/// Two processes, two TPMs: the gateway's signs handshakes and context tokens, the sidecar's its
/// handshakes. How long that takes is printed.
#[tokio::test]
async fn keys_in_tpms_sign_handshakes_and_context() {
    let test = "keys_in_tpms";
    let (lab, app) = (Lab::new(), App::mirror());
    let Some((_at_orders, orders)) = orders(test, &lab, &app).await else { return };
    let users = Tokens::of(&lab.ca, "idp", "keys");
    lab.write_text("users.token", &users.user(&lab::user_claims("alice")));
    let mesh = lab.gateway_mesh(&users).destination(
        "shop/orders",
        "orders.shop",
        orders.inbound(),
        &[&lab.id("shop", "orders")],
    );
    let mesh = lab.write("gateway-mesh.yaml", &mesh.document());
    let spec = lab.proxy("edge", "gateway").gateway("shop/orders").documents(&[&mesh]);
    let prepared = Node::prepare(test, &lab, ("edge", "gateway"), spec).await;
    let (_at_gateway, spec) = prepared.expect("a second TPM");
    let gateway = spec.start().await;
    alice_reads_her_orders(&lab, &gateway).await;
    for proxy in [&gateway, &orders] {
        says(proxy, &["keys stay in another process", "p11-kit-client.so"]).await;
    }
    let software = lab.proxy("shop", "soft").inbound_at(ports::free(), app.address);
    let files = ["mesh.yaml", "access.yaml"].map(|name| lab.folder().join(name));
    let software = software.documents(&[&files[0], &files[1]]).start().await;
    let (tpm, file) = (handshakes(&lab, &orders).await, handshakes(&lab, &software).await);
    println!("{HANDSHAKES} handshakes, milliseconds: key in swtpm {tpm}, key in a file {file}");
}

/// Median and worst of handshakes with a request each, one after the other.
async fn handshakes(lab: &Lab, proxy: &Proxy) -> String {
    let leaf = lab.ca.leaf("shop", "web");
    let mut took = Vec::new();
    for _ in 0..HANDSHAKES {
        let start = Instant::now();
        assert!(new_connection(proxy, &leaf).await.is_some(), "{}", proxy.log());
        took.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    took.sort_by(f64::total_cmp);
    format!("{:.1} (worst {:.1})", took[HANDSHAKES / 2], took[HANDSHAKES - 1])
}

/// A TPM that hangs, then one that lost its power: new connections fail, open ones go on, and it
/// is used again as soon as it answers.
#[tokio::test]
async fn a_tpm_that_hangs_or_is_gone_stops_new_connections_only() {
    let (lab, app) = (Lab::new(), App::mirror());
    let Some((mut node, proxy)) = orders("a_tpm_that_hangs", &lab, &app).await else { return };
    let leaf = lab.ca.leaf("shop", "web");
    let mut open = lab.peer(&proxy, &leaf).await;
    let call = || Call::get("orders.shop", "/");
    assert_eq!(open.send(call()).await.unwrap().status, 200);

    node.tpm.freeze();
    for _ in 0..6 {
        assert!(new_connection(&proxy, &leaf).await.is_none(), "signed without its TPM");
    }
    says(&proxy, &["C_Sign: no answer within 1000 ms"]).await;
    assert_eq!(open.send(call()).await.unwrap().status, 200, "an open connection needs no key");
    node.tpm.thaw();
    wait::until("handshakes again", async || new_connection(&proxy, &leaf).await).await;

    node.tpm.kill();
    for _ in 0..3 {
        assert!(new_connection(&proxy, &leaf).await.is_none(), "signed without its TPM");
    }
    says(&proxy, &["the key of this identity did not sign"]).await;
    assert_eq!(open.send(call()).await.unwrap().status, 200, "an open connection needs no key");
    node.tpm.restart().await;
    wait::until("handshakes again", async || new_connection(&proxy, &leaf).await).await;
    assert_eq!(open.send(call()).await.unwrap().status, 200);
}
