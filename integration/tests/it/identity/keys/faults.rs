//! Tokens that are slow, gone, locked, or hold something else than the key.

use std::fs;
use std::path::PathBuf;

use countersign_integration::client::{Call, Conn};
use countersign_integration::components::softhsm::{MODULE, SPY_MODULE, SoftHsm, TOKEN};
use countersign_integration::proxy::Spec;
use countersign_integration::{App, Lab, Proxy, documents, tls, wait};

use super::{Two, Vaulted, leaf_of, says, stop};

/// A sidecar whose key is to be found in the token, not yet started.
fn sidecar(lab: &Lab, uri: &str) -> Spec {
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
    let spec = lab.proxy("shop", "orders").inbound(countersign_integration::ports::free());
    let uri = uri.to_owned();
    spec.documents(&[&mesh, &access])
        .with(|config| config["identity"]["source"]["files"]["key"] = uri.into())
}

/// A sidecar that uses the token in its own process, through a module that writes down every call.
fn spied(token: &SoftHsm, lab: &Lab, object: &str) -> (Spec, PathBuf) {
    let pin = token.pin_file.display();
    let uri =
        format!("pkcs11:token={TOKEN};{object}?module-path={SPY_MODULE}&pin-source=file:{pin}");
    let calls = lab.folder().join("calls");
    let (name, config) = token.env();
    let spec = sidecar(lab, &uri)
        .env("PKCS11SPY", MODULE.into())
        .env("PKCS11SPY_OUTPUT", calls.clone())
        .env(&name, config);
    (spec, calls)
}

/// A PIN that the token refused is not tried a second time, whatever is asked of the key, until
/// its file holds another one.
#[tokio::test]
async fn attack_locks_the_token_with_wrong_pins() {
    let lab = Lab::new();
    let Some(token) = SoftHsm::new("attack_locks_the_token", lab.folder()) else { return };
    let (spec, calls) = spied(&token, &lab, "object=orders");
    token.import("orders", "01", &leaf_of(lab.folder(), "shop.orders.id").key_pem);
    fs::write(&token.pin_file, "0000\n").unwrap();
    let proxy = spec.launch();
    says(&proxy, &["C_Login", "PinIncorrect (not tried again)"]).await;
    // It is looked up again every second: three looks later the token was asked once.
    let looks = || {
        let text = fs::read_to_string(&calls).unwrap_or_default();
        (text.matches("C_OpenSession").count(), text.matches("C_Login").count())
    };
    let (before, _) = looks();
    wait::until_true("three more looks", || looks().0 >= before + 3).await;
    assert_eq!(looks().1, 1, "a refused PIN was tried again");
    assert_ne!(proxy.ready().await.unwrap().0, 200);

    fs::write(&token.pin_file, "4747\n").unwrap();
    proxy.until_ready().await;
    // A software token in our own process is not what was promised, and it is said.
    says(&proxy, &["runs inside this process", "\"level\":\"warn\""]).await;
}

/// What is wrong with the key in the token is said in its own words.
#[tokio::test]
async fn a_key_that_cannot_be_used_is_explained() {
    let Some(on) = Vaulted::start("a_key_that_cannot_be_used").await else { return };
    for (label, id, kind) in [
        ("rsa", "21", "rsa:2048"),
        ("p384", "22", "EC:secp384r1"),
        ("twins", "23", "EC:prime256v1"),
        ("twins", "24", "EC:prime256v1"),
        ("other", "25", "EC:prime256v1"),
    ] {
        on.token.keygen(label, id, kind);
    }
    let cases: [(&str, &[&str]); 6] = [
        ("object=orders", &["no private key of this name", "\\\"rsa\\\"", "\\\"other\\\""]),
        ("object=rsa", &["CKK_RSA", "ECDSA P-256 is needed"]),
        ("object=p384", &["on another curve", "ECDSA P-256 is needed"]),
        ("object=twins", &["2 private keys have this name, and none signs"]),
        ("id=%25", &["does not fit the public key of the certificate"]),
        ("token=nowhere;object=orders", &["no such token", "\\\"mesh\\\""]),
    ];
    let (name, address) = on.server.env();
    for (object, parts) in cases {
        let uri = on.uri("LABEL").replace("object=LABEL", object);
        let uri = if object.contains("token=") { uri.replace("token=mesh;", "") } else { uri };
        let proxy = sidecar(&on.lab, &uri).env(name, address.clone()).launch();
        says(&proxy, parts).await;
        says(&proxy, &["identity source failed", "PKCS#11"]).await;
    }
    let uri = on.uri("orders").replace("p11-kit-client.so", "no-such-module.so");
    let proxy = sidecar(&on.lab, &uri).launch();
    says(&proxy, &["load the module", "no-such-module.so", "static build"]).await;
}

/// While the token answers nothing, open connections go on, new ones fail at once, and everything
/// is well again when it answers.
#[tokio::test]
async fn a_token_that_hangs_stops_new_connections_only() {
    let Some(two) = Two::start("a_token_that_hangs").await else { return };
    let lab = &two.on.lab;
    let leaf = lab.ca.leaf("shop", "web");
    let mut open = lab.peer(&two.billing, &leaf).await;
    let call = || Call::get("billing.shop", "/");
    assert_eq!(open.send(call()).await.unwrap().status, 200);

    two.on.server.freeze();
    // A few wait for their budget, the rest is told at once.
    for _ in 0..12 {
        assert!(new_connection(&two.billing, &leaf).await.is_none(), "signed without its token");
    }
    says(&two.billing, &["C_Sign: no answer within 1000 ms"]).await;
    says(&two.billing, &["the token answers nothing; not asked again until it does"]).await;
    assert_eq!(open.send(call()).await.unwrap().status, 200, "an open connection needs no key");

    two.on.server.thaw();
    wait::until("handshakes again", async || new_connection(&two.billing, &leaf).await).await;
    assert_eq!(open.send(call()).await.unwrap().status, 200);
}

pub(super) async fn new_connection(
    proxy: &Proxy,
    leaf: &countersign_integration::pki::Leaf,
) -> Option<Conn> {
    let mut conn =
        Conn::tls(proxy.inbound(), tls::client(Some(leaf), &[tls::MESH_H2])).await.ok()?;
    let reply = conn.send(Call::get("billing.shop", "/")).await.ok()?;
    (reply.status == 200).then_some(conn)
}

/// The server of the token is killed and comes back: the proxies find it again by themselves.
#[tokio::test]
async fn a_server_that_was_killed_is_found_again() {
    let Some(mut two) = Two::start("a_server_that_was_killed").await else { return };
    let leaf = two.on.lab.ca.leaf("shop", "web");
    assert!(new_connection(&two.billing, &leaf).await.is_some());
    two.on.server.kill();
    assert!(new_connection(&two.billing, &leaf).await.is_none(), "signed without its token");
    two.on.server.restart().await;
    wait::until("handshakes again", async || new_connection(&two.billing, &leaf).await).await;
    says(&two.billing, &["the PKCS#11 module lost its token; starting it again"]).await;
    let load = two.load();
    wait::until("requests", async || {
        let requests = two.billing.metric("countersign_requests_total", &[]).await;
        (requests > 50.0).then_some(())
    })
    .await;
    stop(load).await;
}

/// The token is pulled and put back; another key under the same name is noticed, not used.
#[tokio::test]
async fn a_token_that_is_pulled_and_a_key_that_is_replaced() {
    let Some(mut two) = Two::start("a_token_that_is_pulled").await else { return };
    let leaf = two.on.lab.ca.leaf("shop", "web");
    assert!(new_connection(&two.billing, &leaf).await.is_some());
    let (tokens, away) = (two.on.token.tokens(), two.on.lab.folder().join("away"));
    two.on.server.kill();
    fs::rename(&tokens, &away).unwrap();
    fs::create_dir(&tokens).unwrap();
    two.on.server.restart().await;
    for _ in 0..3 {
        assert!(new_connection(&two.billing, &leaf).await.is_none(), "signed without its token");
    }
    says(&two.billing, &["the key of this identity did not sign"]).await;

    // A token of the same name with another key of the same name.
    two.on.server.kill();
    two.on.token.init();
    two.on.token.keygen("billing", "02", "EC:prime256v1");
    two.on.server.restart().await;
    wait::until("the strange key to be noticed", async || {
        let signed = new_connection(&two.billing, &leaf).await.is_some();
        assert!(!signed, "signed with a strange key");
        two.billing.log().contains("does not fit the public key of the certificate").then_some(())
    })
    .await;

    two.on.server.kill();
    fs::remove_dir_all(&tokens).unwrap();
    fs::rename(&away, &tokens).unwrap();
    two.on.server.restart().await;
    wait::until("handshakes again", async || new_connection(&two.billing, &leaf).await).await;
}

/// Nothing but signatures is asked of the token: no key is ever read.
#[tokio::test]
async fn no_key_is_ever_read_from_a_token() {
    let lab = Lab::new();
    let Some(token) = SoftHsm::new("no_key_is_ever_read", lab.folder()) else { return };
    let app = App::mirror();
    let (spec, calls) = spied(&token, &lab, "object=orders");
    token.import("orders", "01", &leaf_of(lab.folder(), "shop.orders.id").key_pem);
    let proxy = spec.with(|config| config["app"][0]["address"] = app.address.to_string().into());
    let proxy = proxy.start().await;
    let web = lab.ca.leaf("shop", "web");
    assert!(new_connection(&proxy, &web).await.is_some());
    let text = fs::read_to_string(&calls).unwrap();
    assert!(text.contains("C_Sign"), "{text}");
    for asked in ["CKA_VALUE", "CKA_PRIVATE_EXPONENT", "C_WrapKey", "C_CopyObject"] {
        assert!(!text.contains(asked), "{asked}");
    }
}
