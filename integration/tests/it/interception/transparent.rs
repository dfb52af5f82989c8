//! Detection and opaque TCP under the redirect: pods dial pods, and nobody knows of sidecars.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use countersign_integration::bytes::is_cut_off;
use countersign_integration::client::Call;
use countersign_integration::netns::{Family, Mode, Net, Pod};
use countersign_integration::outcome::refused_bytes;
use countersign_integration::{App, BytesApp, Lab, Mesh, Proxy, documents, tls, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What lets in everybody of the mesh, requests and bytes alike.
fn anybody() -> Value {
    json!([{"name": "anybody", "effect": "allow", "context": "optional",
        "match": {"caller": {"anyInMesh": true}}}])
}

/// The sidecar of a pod.
async fn sidecar(lab: &Lab, account: &str, pod: &Pod, mesh: &Mesh) -> Proxy {
    let mesh = lab.write(&format!("{account}-mesh.yaml"), &mesh.document());
    let access =
        lab.write(&format!("{account}-access.yaml"), &documents::access("shop", anybody()));
    let spec = lab.proxy("shop", account).documents(&[&mesh, &access]);
    spec.in_pod(pod, Mode::Redirect).start().await
}

fn db_mesh(lab: &Lab, pod: &Pod, ports: &[(u16, &str)]) -> Mesh {
    lab.mesh().pod("shop/db", pod, ports, &[&lab.id("shop", "db")])
}

#[tokio::test]
async fn mysql_greeting_without_delay() {
    let Some(net) = Net::new("mysql_greeting_without_delay") else { return };
    let lab = Lab::new();
    let (web, db) = (net.pod("web"), net.pod("db"));
    let greeting = b"\x4a\0\0\0\x0a8.0.36\0";
    let _app = BytesApp::greeting_on(db.listen_all(3306), greeting);
    let mesh = db_mesh(&lab, &db, &[(3306, "tcp")]);
    let caller = sidecar(&lab, "web", &web, &mesh).await;
    let callee = sidecar(&lab, "db", &db, &lab.mesh()).await;
    for family in Family::BOTH {
        let mut client = web.connect(db.at(family, 3306)).await.unwrap();
        let mut greeted = [0; 12];
        wait::ends("the greeting", client.read_exact(&mut greeted)).await.unwrap();
        assert_eq!(&greeted, greeting, "{family:?}");
    }
    // Neither side waited for a client that says nothing.
    for proxy in [&caller, &callee] {
        assert_eq!(proxy.metric("countersign_detect_timeout_total", &[]).await, 0.0);
    }
    wait::until_true("two decisions", || callee.decisions().len() == 2).await;
    let decisions = callee.decisions();
    assert_eq!(decisions[0]["peer"]["id"], lab.id("shop", "web"), "{decisions:?}");
    assert_eq!(decisions[0]["req"]["port"], 3306);
}

#[tokio::test]
async fn half_close_both_ways() {
    let Some(net) = Net::new("half_close_both_ways") else { return };
    let lab = Lab::new();
    let (web, db) = (net.pod("web"), net.pod("db"));
    let _app = BytesApp::on(db.listen_all(7000), |mut stream| {
        Box::pin(async move {
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).await?;
            stream.write_all(&asked).await?;
            stream.shutdown().await
        })
    });
    let mesh = db_mesh(&lab, &db, &[(7000, "tcp")]);
    let _caller = sidecar(&lab, "web", &web, &mesh).await;
    let callee = sidecar(&lab, "db", &db, &lab.mesh()).await;
    for family in Family::BOTH {
        let mut client = web.connect(db.at(family, 7000)).await.unwrap();
        let asked = vec![7; 300_000];
        client.write_all(&asked).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        wait::ends("the answer", client.read_to_end(&mut answer)).await.unwrap();
        assert!(answer == asked, "{family:?}: {} bytes", answer.len());
    }
    let ends = || callee.audit().into_iter().filter(|record| record["kind"] == "ended").count();
    wait::until_true("the records of both ends", || ends() == 2).await;
}

/// TLS that the apps speak among themselves goes through both sidecars, inside theirs.
#[tokio::test]
async fn the_apps_own_tls_goes_inside_ours() {
    let Some(net) = Net::new("the_apps_own_tls_goes_inside_ours") else { return };
    let lab = Lab::new();
    let (web, db) = (net.pod("web"), net.pod("db"));
    let acceptor = TlsAcceptor::from(tls::server(&lab.ca.leaf("shop", "db"), &[b"postgresql"]));
    let _app = BytesApp::on(db.listen_all(8443), move |stream| {
        let acceptor = acceptor.clone();
        Box::pin(async move {
            let mut stream = acceptor.accept(stream).await?;
            let mut word = [0; 4];
            stream.read_exact(&mut word).await?;
            stream.write_all(&word).await?;
            stream.shutdown().await
        })
    });
    let mesh = db_mesh(&lab, &db, &[(8443, "tcp")]);
    let _caller = sidecar(&lab, "web", &web, &mesh).await;
    let callee = sidecar(&lab, "db", &db, &lab.mesh()).await;
    let capture = net.capture(lab.folder()).await;
    for family in Family::BOTH {
        let to = db.at(family, 8443);
        let leaf = lab.ca.leaf("shop", "web");
        let connector = TlsConnector::from(tls::client(Some(&leaf), &[b"postgresql"]));
        let tcp = web.connect(to).await.unwrap();
        let handshake = connector.connect(to.ip().into(), tcp);
        let mut stream = wait::ends("the handshake", handshake).await.unwrap();
        stream.write_all(b"word").await.unwrap();
        let mut word = [0; 4];
        wait::ends("the echo", stream.read_exact(&mut word)).await.unwrap();
        assert_eq!(&word, b"word", "{family:?}");
    }
    capture.stop(&[&web, &db]).await.assert_only_mesh_tls();
    wait::until_true("two decisions", || callee.decisions().len() == 2).await;
    let decisions = callee.decisions();
    assert!(
        decisions.iter().all(|one| one["peer"]["id"] == lab.id("shop", "web")),
        "{decisions:?}"
    );
}

/// A port of which nothing is declared: what comes is told from its bytes, on its way out of one
/// pod and into the other.
#[tokio::test]
async fn an_undeclared_port_takes_what_comes() {
    let Some(net) = Net::new("an_undeclared_port_takes_what_comes") else { return };
    let lab = Lab::new();
    let db = net.pod("db");
    let _app = App::mirror_on(db.listen_all(8080));
    let _echo = BytesApp::echo_on(db.listen_all(9000));
    let callee = sidecar(&lab, "db", &db, &lab.mesh()).await;
    // The pod calls itself: its own addresses need no document.
    for family in Family::BOTH {
        let to = db.at(family, 8080);
        for mut conn in [db.h1(to).await.unwrap(), db.h2(to).await.unwrap()] {
            let reply = conn.send(Call::get("db.shop", "/x")).await.unwrap();
            assert_eq!(reply.status, 200, "{family:?} {}", reply.text());
            assert_eq!(reply.seen("countersign-caller"), Some(lab.id("shop", "db")));
        }
        let mut client = db.connect(db.at(family, 9000)).await.unwrap();
        client.write_all(b"PING\r\n").await.unwrap();
        let mut pong = [0; 6];
        wait::ends("the echo", client.read_exact(&mut pong)).await.unwrap();
        assert_eq!(&pong, b"PING\r\n", "{family:?}");
    }
    assert_eq!(callee.metric("countersign_detect_timeout_total", &[]).await, 0.0);
}

/// An address that no document knows: nothing by default; where the mesh says `pass`, bytes as
/// they are and requests without anything of ours.
#[tokio::test]
async fn what_nobody_knows_passes_only_where_the_mesh_says_so() {
    let Some(net) = Net::new("what_nobody_knows_passes_only_where_the_mesh_says_so") else {
        return;
    };
    let lab = Lab::new();
    let (v4, v6) = (Ipv4Addr::new(198, 51, 100, 7), "2001:db8:7::7".parse().unwrap());
    let outside = net.pod_at("outside", v4, v6);
    let app = App::mirror_on(outside.listen_all(80));
    let bytes = BytesApp::echo_on(outside.listen_all(9000));
    let (careful, open) = (net.pod("careful"), net.pod("open"));
    let denies = sidecar(&lab, "careful", &careful, &lab.mesh()).await;
    let pass = lab.mesh().with(|spec| spec["outbound"] = json!({"unknown": "pass"}));
    let passes = sidecar(&lab, "open", &open, &pass).await;
    for (nth, ip) in [IpAddr::from(v4), IpAddr::from(v6)].into_iter().enumerate() {
        let (http, raw) = (SocketAddr::new(ip, 80), SocketAddr::new(ip, 9000));
        let refused = careful.h1(http).await.unwrap().send(Call::get("a.example", "/")).await;
        assert_eq!(refused.unwrap().status, 404);
        assert!(is_cut_off(careful.connect(raw), b"PING\r\n").await);
        let record = refused_bytes_of(&denies, nth + 1).await;
        assert_eq!(record["callee"]["host"], ip.to_string(), "{record}");

        for mut conn in [open.h1(http).await.unwrap(), open.h2(http).await.unwrap()] {
            let call = Call::get("a.example", "/x?y=1")
                .header("countersign-user", "root")
                .header("countersign-handle", "x")
                .header("txn-token", "a.b.c")
                .header("x-app", "stays");
            let reply = conn.send(call).await.unwrap();
            assert_eq!(reply.status, 200, "{}", reply.text());
            let seen = app.last();
            assert_eq!(seen.header("x-app"), Some("stays"));
            let ours = |name: &str| name.starts_with("countersign-") || name == "txn-token";
            let left: Vec<_> = seen.headers.keys().filter(|name| ours(name.as_str())).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        let mut stream = open.connect(raw).await.unwrap();
        stream.write_all(b"PING\r\n").await.unwrap();
        let mut pong = [0; 6];
        wait::ends("the echo", stream.read_exact(&mut pong)).await.unwrap();
        assert_eq!(&pong, b"PING\r\n");
    }
    assert_eq!((app.seen().len(), bytes.accepted()), (4, 2), "nothing came past the careful one");
    let let_in = || passes.decisions().iter().filter(|one| one["req"]["proto"] == "tcp").count();
    wait::until_true("a record of each connection that passed", || let_in() == 2).await;
}

/// The record of the nth opaque connection to somebody unknown; requests to them are refused too.
async fn refused_bytes_of(proxy: &Proxy, nth: usize) -> Value {
    let find = || async {
        let all = proxy.audit().into_iter();
        let mut of_bytes = all.filter(|record| {
            record["reason"] == "destination_unknown" && record["req"]["proto"] == "tcp"
        });
        of_bytes.nth(nth - 1)
    };
    wait::until("a record of bytes to somebody unknown", find).await
}

/// A known destination is never passed in plaintext, whatever the mesh says of unknown ones and
/// however its address is dialled.
#[tokio::test]
async fn a_known_destination_is_never_reached_in_plaintext() {
    let Some(net) = Net::new("a_known_destination_is_never_reached_in_plaintext") else { return };
    let lab = Lab::new();
    let (web, db) = (net.pod("web"), net.pod("db"));
    // No sidecar there: whoever answers is not who was expected.
    let app = BytesApp::echo_on(db.listen_all(5432));
    let mesh = db_mesh(&lab, &db, &[(5432, "tcp")]);
    let mesh = mesh.with(|spec| spec["outbound"] = json!({"unknown": "pass"}));
    let caller = sidecar(&lab, "web", &web, &mesh).await;
    for (nth, family) in Family::BOTH.into_iter().enumerate() {
        assert!(is_cut_off(web.connect(db.at(family, 5432)), b"password").await, "{family:?}");
        let record = refused_bytes(&caller, "upstream_failed", nth + 1).await;
        assert_eq!(record["callee"]["host"], "shop/db", "{record}");
    }
    assert_eq!(app.accepted(), 2, "a ClientHello each, and nothing else");
}

/// A stranger in the network, without a sidecar, is nobody to the policy.
#[tokio::test]
async fn a_stranger_is_nobody() {
    let Some(net) = Net::new("a_stranger_is_nobody") else { return };
    let lab = Lab::new();
    let (stranger, db) = (net.pod("stranger"), net.pod("db"));
    let app = BytesApp::echo_on(db.listen_all(9000));
    let callee = sidecar(&lab, "db", &db, &lab.mesh()).await;
    for (nth, family) in Family::BOTH.into_iter().enumerate() {
        let to = db.at(family, 9000);
        assert!(is_cut_off(stranger.connect(to), b"PING\r\n").await);
        let record = refused_bytes(&callee, "peer_unauthenticated", 2 * nth + 1).await;
        assert_eq!(record["peer"]["none"], "plaintext", "{record}");
        let connector = TlsConnector::from(tls::client(None, &[b"h2"]));
        let tcp = stranger.connect(to).await.unwrap();
        assert!(connector.connect(to.ip().into(), tcp).await.is_err(), "the app is not reached");
        let record = refused_bytes(&callee, "peer_unauthenticated", 2 * nth + 2).await;
        assert_eq!(record["peer"]["none"], "app_tls", "{record}");
    }
    assert_eq!(app.accepted(), 0);
}
