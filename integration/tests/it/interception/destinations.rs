//! Where a redirected call goes: by the address the app dialled, by its host where no document knows
//! the address, to the pod itself, out of the mesh, or nowhere. Pods with their redirect.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::netns::{Family, Mode, Net, Pod};
use countersign_integration::outcome::refused;
use countersign_integration::pki::{Authority, Request};
use countersign_integration::proxy::Spec;
use countersign_integration::{App, Lab, Mesh, Proxy, Reply, documents, tls, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::live::echo;

const PORT: u16 = 8080;
/// Addresses of a service that no machine has.
const SERVICE: [&str; 2] = ["10.96.0.7", "fd96::7"];
/// Of a name that the pod's resolver made up.
const UNLISTED: &str = "10.97.0.9";

/// A sidecar of its own folder, so that two may have the same identity.
async fn sidecar(lab: &Lab, account: &str, pod: &Pod, files: &[PathBuf]) -> Proxy {
    let folder = lab.folder().join(pod.name());
    std::fs::create_dir_all(&folder).unwrap();
    let (certificate, key) = lab.ca.leaf("shop", account).write(&folder, "id");
    let bundle = lab.ca.write_bundle(&folder, "bundle");
    let source = json!({"files": {"certificate": certificate, "key": key, "bundle": bundle}});
    let copy = |file: &PathBuf| {
        let copied = folder.join(file.file_name().unwrap());
        std::fs::copy(file, &copied).unwrap();
        copied
    };
    let files: Vec<PathBuf> = files.iter().map(copy).collect();
    let files: Vec<_> = files.iter().map(PathBuf::as_path).collect();
    let spec = Spec::new(&folder, "shop", account, source).documents(&files);
    spec.in_pod(pod, Mode::Redirect).start().await
}

/// `shop/orders` behind virtual addresses, with these pods as endpoints in both families.
fn mesh(lab: &Lab, pods: &[&Pod]) -> Mesh {
    let endpoints: Vec<Value> = pods
        .iter()
        .flat_map(|pod| pod.ips())
        .map(|ip| json!({"address": ip, "port": PORT}))
        .collect();
    let any = SocketAddr::from(([127, 0, 0, 1], 1));
    let id = lab.id("shop", "orders");
    lab.mesh().destination("shop/orders", "orders.shop", any, &[&id]).with(|spec| {
        let spec = &mut spec["destinations"][0]["spec"];
        spec["addresses"] = json!(SERVICE);
        spec["ports"] = json!([{"port": PORT, "protocol": "http"}]);
        spec["endpoints"] = json!(endpoints);
    })
}

fn files(lab: &Lab, mesh: &Mesh) -> Vec<PathBuf> {
    vec![
        lab.write("mesh.yaml", &mesh.document()),
        lab.write("access.yaml", &documents::access("shop", documents::anybody())),
    ]
}

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().unwrap(), PORT)
}

async fn get(pod: &Pod, to: SocketAddr, host: &str) -> Reply {
    let mut conn = pod.h1(to).await.unwrap();
    conn.send(Call::get(host, "/")).await.unwrap()
}

/// A service by its address and by its name, one of its pods, and what happens when that pod dies.
#[tokio::test]
async fn a_service_its_pods_and_its_name_are_dialled() {
    let Some(net) = Net::new("a_service_its_pods_and_its_name_are_dialled") else { return };
    let (web, one, two) = (net.pod("web"), net.pod("one"), net.pod("two"));
    let apps = [App::mirror_on(one.listen_all(PORT)), App::mirror_on(two.listen_all(PORT))];
    let lab = Lab::new();
    let files = files(&lab, &mesh(&lab, &[&one, &two]));
    let caller = sidecar(&lab, "web", &web, &files).await;
    let _one = sidecar(&lab, "orders", &one, &files).await;
    let dying = sidecar(&lab, "orders", &two, &files).await;

    // The service's own addresses, in both families, lead to all of its pods.
    wait::until("requests at both pods", || async {
        for service in SERVICE {
            let reply = get(&web, at(service), "orders.shop").await;
            assert_eq!(reply.status, 200, "{service}: {}", reply.text());
            assert_eq!(reply.seen("countersign-caller"), Some(lab.id("shop", "web")));
        }
        apps.iter().all(|app| !app.seen().is_empty()).then_some(())
    })
    .await;
    // So does its name, at an address that no document knows.
    assert_eq!(get(&web, at(UNLISTED), "orders.shop").await.status, 200);
    // A pod that is dialled itself is the only one: headless services, StatefulSets.
    for (pod, app) in [(&one, &apps[0]), (&two, &apps[1])] {
        let counts = || apps.each_ref().map(|app| app.seen().len());
        let (all, before) = (counts().iter().sum::<usize>(), app.seen().len());
        for family in Family::BOTH {
            assert_eq!(get(&web, pod.at(family, PORT), "whatever").await.status, 200);
        }
        assert_eq!((counts().iter().sum::<usize>(), app.seen().len()), (all + 2, before + 2));
    }
    // Also when it is gone, and the other could answer.
    dying.process.signal(Signal::KILL);
    dying.process.ended().await;
    let before = apps[0].seen().len();
    let reply = get(&web, two.at(Family::V4, PORT), "orders.shop").await;
    refused(&caller, &reply, "upstream_unreachable").await;
    assert_eq!(apps[0].seen().len(), before);
    // Both addresses of the dead pod are left alone after a few attempts; then all is well again.
    let open = async || caller.metric("countersign_breaker_open", &[]).await;
    wait::until("the breakers", || async {
        let _ = get(&web, at(SERVICE[0]), "orders.shop").await;
        (open().await == 2.0).then_some(())
    })
    .await;
    let mut served = 0;
    for _ in 0..20 {
        served += usize::from(get(&web, at(SERVICE[1]), "orders.shop").await.status == 200);
    }
    assert!(served >= 18, "{served}");
}

/// The app calls its own pod: policy sees the pod's own identity, like any other caller's.
#[tokio::test]
async fn self_call_is_policed() {
    let Some(net) = Net::new("self_call_is_policed") else { return };
    let web = net.pod("web");
    let app = App::mirror_on(web.listen_all(PORT));
    let lab = Lab::new();
    let me = lab.id("shop", "web");
    let rules = json!([{"name": "self", "effect": "allow", "context": "none", "match": {
        "caller": {"anyOf": [{"namespace": "shop", "serviceAccount": "web"}]},
        "http": {"paths": [{"prefix": "/mine"}]}}}]);
    let files = vec![
        lab.write("mesh.yaml", &lab.mesh().document()),
        lab.write("access.yaml", &documents::access("shop", rules)),
    ];
    let sidecar = sidecar(&lab, "web", &web, &files).await;
    for family in Family::BOTH {
        let mut conn = web.h1(web.at(family, PORT)).await.unwrap();
        let reply = conn.send(Call::get("me", "/mine")).await.unwrap();
        assert_eq!(reply.status, 200, "{family:?}: {}", reply.text());
        assert_eq!(reply.seen("countersign-caller").as_ref(), Some(&me));
        let reply = conn.send(Call::get("me", "/other")).await.unwrap();
        assert_eq!(reply.status, 403, "{family:?}");
        let record = sidecar.record(&reply.decision()).await;
        assert_eq!(
            (&record["reason"], &record["peer"]["id"]),
            (&json!("policy_denied/no_match"), &json!(me))
        );
    }
    assert_eq!(app.seen().len(), 2);
}

/// Nobody knows the address: closed by default. Where the mesh lets it pass, it is plaintext to that
/// very address, without a trace of the mesh.
#[tokio::test]
async fn unknown_addresses_are_closed_or_passed() {
    let Some(net) = Net::new("unknown_addresses_are_closed_or_passed") else { return };
    let (web, legacy) = (net.pod("web"), net.pod("legacy"));
    let app = App::mirror_on(legacy.listen_all(PORT));
    let lab = Lab::new();
    let mesh = lab.mesh();
    let sidecar = sidecar(&lab, "web", &web, &files(&lab, &mesh)).await;
    let to = legacy.at(Family::V4, PORT);
    refused(&sidecar, &get(&web, to, "legacy").await, "destination_unknown").await;
    assert!(app.seen().is_empty());

    let passing = mesh.clone().with(|spec| spec["outbound"] = json!({"unknown": "pass"}));
    let document = format!("{:#}", passing.document());
    std::fs::write(lab.folder().join(web.name()).join("mesh.yaml"), document).unwrap();
    sidecar.reload();
    wait::until("the new documents", || async {
        (get(&web, to, "legacy").await.status == 200).then_some(())
    })
    .await;
    let token = lab.gateway.mint(&lab.id("shop", "web"));
    for h2 in [false, true] {
        let mut conn: Conn = if h2 { web.h2(to).await.unwrap() } else { web.h1(to).await.unwrap() };
        let call = Call::post("legacy", "/a", "body").context(&token);
        let call = call.header("countersign-user", "root").header("countersign-context", "AAAA");
        let reply = conn.send(call).await.unwrap();
        let told = reply.json();
        let version = if h2 { "HTTP/2.0" } else { "HTTP/1.1" };
        assert_eq!((&told["version"], &told["body_bytes"]), (&json!(version), &json!(4)));
        let names: Vec<_> = app.last().headers.keys().map(ToString::to_string).collect();
        let ours = |name: &String| name.starts_with("countersign") || name == "txn-token";
        assert!(!names.iter().any(ours), "{names:?}");
    }
    // What was let past and still goes on ends once it may no longer.
    let mut conn = web.h1(to).await.unwrap();
    let (stream, _open) = echo(&mut conn, Call::post("legacy", "/echo", "")).await;
    let document = format!("{:#}", mesh.document());
    std::fs::write(lab.folder().join(web.name()).join("mesh.yaml"), document).unwrap();
    sidecar.reload();
    wait::ends("the stream", client::collect(stream)).await.unwrap_err();
}

/// A service outside the mesh without endpoints: dialled where the app dialled it, over TLS of ours.
#[tokio::test]
async fn an_outside_service_is_dialled_where_the_app_dialled_it() {
    const HOST: &str = "api.example.net";
    let Some(net) = Net::new("an_outside_service_is_dialled_where_the_app_dialled_it") else {
        return;
    };
    let (web, outside, stranger) = (net.pod("web"), net.pod("outside"), net.pod("stranger"));
    let (public, unknown) = (Authority::new("public.test"), Authority::new("public.test"));
    let serve = |pod: &Pod, ca: &Authority| {
        let leaf = ca.issue(Request::new(&[]).dns(HOST));
        let config = tls::public_server(&leaf, &[b"h2", b"http/1.1"]);
        App::tls_mirror_on(pod.listen_all(443), config)
    };
    let (app, other) = (serve(&outside, &public), serve(&stranger, &unknown));
    let lab = Lab::new();
    let folder = lab.folder().join(web.name());
    std::fs::create_dir_all(&folder).unwrap();
    let roots = public.write_bundle(&folder, "public");
    let any = SocketAddr::from(([127, 0, 0, 1], 1));
    let mesh =
        lab.mesh().destination("shop/storage", HOST, any, &[&lab.id("a", "b")]).with(|spec| {
            spec["destinations"][0]["spec"] = json!({
                "hosts": [HOST], "ports": [{"port": 443, "protocol": "http"}],
                "peer": {"tls": {"serverNames": [HOST], "roots": {"file": roots}}},
            });
        });
    let sidecar = sidecar(&lab, "web", &web, &files(&lab, &mesh)).await;
    for family in Family::BOTH {
        let reply = get(&web, outside.at(family, 443), HOST).await;
        assert_eq!(reply.status, 200, "{family:?}: {}", reply.text());
    }
    assert_eq!(app.seen().len(), 2);
    // Whoever else the app is led to must prove the same name.
    let reply = get(&web, stranger.at(Family::V4, 443), HOST).await;
    refused(&sidecar, &reply, "server_identity_unexpected").await;
    assert!(other.seen().is_empty());
}
