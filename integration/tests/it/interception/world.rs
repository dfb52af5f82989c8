//! The world of network namespaces itself: what it promises the other tests.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use countersign_integration::client::Call;
use countersign_integration::netns::{Bad, Family, Mode, Net, Pod, Sunk, user};
use countersign_integration::{App, Lab, documents, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn pods_reach_each_other_over_both_families() {
    let Some(net) = Net::new("pods_reach_each_other_over_both_families") else { return };
    let (a, b) = (net.pod("a"), net.pod("b"));
    let app = App::mirror_on(b.listen_all(8080));
    for family in Family::BOTH {
        let mut conn = a.h1(b.at(family, 8080)).await.unwrap();
        let reply = conn.send(Call::get("b", "/there")).await.unwrap();
        assert_eq!(reply.json()["target"], "/there", "{family:?}");
    }
    assert_eq!(app.seen().len(), 2);
    assert_eq!(net.sunk(), Sunk::default(), "nothing strayed");
}

#[tokio::test]
async fn what_is_addressed_to_nobody_is_counted_and_goes_nowhere() {
    let Some(net) = Net::new("what_is_addressed_to_nobody_is_counted") else { return };
    let pod = net.pod("a");
    for nobody in ["192.0.2.1:4747", "[2001:db8::4747]:4747"] {
        let before = net.sunk().tcp;
        let nobody: SocketAddr = nobody.parse().unwrap();
        let dial = tokio::spawn({
            let pod = pod.clone();
            async move { pod.connect(nobody).await.map(drop) }
        });
        wait::until_true("the sink", || net.sunk().tcp > before).await;
        assert!(!dial.is_finished(), "somebody answered at {nobody}");
        dial.abort();
    }
    let udp = pod.udp(Family::V4).unwrap();
    udp.send_to(b"?", "192.0.2.1:53").await.unwrap();
    wait::until_true("the sink", || net.sunk().udp == 1).await;
}

#[tokio::test]
async fn a_host_outside_has_an_address_of_its_own() {
    let Some(net) = Net::new("a_host_outside_has_an_address_of_its_own") else { return };
    let pod = net.pod("a");
    let (v4, v6) = (Ipv4Addr::new(198, 51, 100, 7), "2001:db8:7::7".parse().unwrap());
    let outside = net.pod_at("outside", v4, v6);
    let _app = App::mirror_on(outside.listen_all(80));
    for ip in [IpAddr::from(v4), IpAddr::from(v6)] {
        let mut conn = pod.h1(SocketAddr::new(ip, 80)).await.unwrap();
        assert_eq!(conn.send(Call::get("outside", "/")).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_sidecar_user_has_no_privileges() {
    let Some(net) = Net::new("a_sidecar_user_has_no_privileges") else { return };
    let pod = net.pod("a");
    let status = |keep: &[&str]| {
        let mut command = user::command(&user::SIDECAR.to_string(), keep, "cat");
        command.arg("/proc/self/status");
        pod.space().feed(command, "")
    };
    let bare = status(&[]);
    assert!(bare.contains("Uid:\t4747\t4747\t4747\t4747"), "{bare}");
    assert!(bare.contains("CapEff:\t0000000000000000"), "{bare}");
    assert!(bare.contains("CapBnd:\t0000000000000000"), "{bare}");
    let raw = status(&["net_raw"]);
    assert!(raw.contains("CapEff:\t0000000000002000"), "{raw}");
}

#[tokio::test]
async fn processes_and_namespaces_end_with_their_pod() {
    let Some(net) = Net::new("processes_and_namespaces_end_with_their_pod") else { return };
    let folder = tempfile::tempdir().unwrap();
    let pod = net.pod("a");
    let (path, mut sleeper) = (pod.space().path().to_owned(), Command::new("sleep"));
    sleeper.arg("1000");
    let process = pod.start("sleeper", sleeper, folder.path());
    let mut other = user::command("4747", &[], "sleep");
    other.arg("1000");
    let dropped = pod.start("dropped", other, folder.path());
    assert!(path.exists() && process.exit_status().is_none());
    drop(pod);
    process.ended().await;
    dropped.ended().await;
    wait::until_true("the end of the namespace's thread", || !path.exists()).await;
}

#[tokio::test]
async fn a_capture_tells_plaintext_between_pods() {
    let Some(net) = Net::new("a_capture_tells_plaintext_between_pods") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (a, b, c) = (net.pod("a"), net.pod("b"), net.pod("c"));
    let _app = App::mirror_on(b.listen_all(8080));
    let capture = net.capture(folder.path()).await;
    let mut conn = a.h1(b.at(Family::V6, 8080)).await.unwrap();
    conn.send(Call::get("b", "/")).await.unwrap();
    let datagrams = c.udp(Family::V4).unwrap();
    datagrams.send_to(b"?", b.at(Family::V4, 53)).await.unwrap();
    let report = capture.stop(&[&a, &b, &c]).await;
    let told = format!("{:?}", report.violations);
    assert!(told.contains("not TLS 1.3 from \\\"GET /"), "{told}");
    assert!(told.contains("IP protocol 17"), "{told}");
    assert!(report.mesh.is_empty(), "{report:?}");
}

#[tokio::test]
async fn a_bad_link_delays_and_loses_packets_and_tcp_survives() {
    let Some(net) = Net::new("a_bad_link_delays_and_loses_packets") else { return };
    let (a, b) = (net.pod("a"), net.pod("b"));
    let bad = Bad {
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(5),
        lost_per_mille: 20,
    };
    let Some(link) = net.link("a_bad_link_delays_and_loses_packets", &a, &b, bad) else { return };
    let _app = App::mirror_on(b.listen_all(8080));
    for family in Family::BOTH {
        let mut stream = a.connect(b.at(family, 8080)).await.unwrap();
        let body = vec![b'x'; 300_000];
        let head = format!("POST /echo HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut answer = Vec::new();
        wait::ends("the echo", stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.ends_with(&body), "{} bytes came back", answer.len());
    }
    assert!(link.carried() > 100 && link.lost() > 0, "{} {}", link.carried(), link.lost());
    drop(link);
    let mut conn = a.h1(b.at(Family::V4, 8080)).await.unwrap();
    assert_eq!(conn.send(Call::get("b", "/")).await.unwrap().status, 200);
}

/// Over a bad link sidecars may refuse, when a connection does not come about in time, but what
/// they hand over is whole.
#[tokio::test]
async fn what_crosses_a_bad_link_between_sidecars_is_whole() {
    const TEST: &str = "what_crosses_a_bad_link_between_sidecars_is_whole";
    let Some(net) = Net::new(TEST) else { return };
    let (a, b, lab) = (net.pod("a"), net.pod("b"), Lab::new());
    let bad = Bad {
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(5),
        lost_per_mille: 10,
    };
    let Some(link) = net.link(TEST, &a, &b, bad) else { return };
    let _app = App::mirror_on(b.listen_all(8080));
    let mesh = lab.mesh().pod("shop/b", &b, &[(8080, "http")], &[&lab.id("shop", "b")]);
    let mesh = lab.write("mesh.yaml", &mesh.document());
    let rules = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
    let files = [mesh.as_path(), rules.as_path()];
    let sidecar =
        |name, pod: &Pod| lab.proxy("shop", name).documents(&files).in_pod(pod, Mode::Redirect);
    let (_at_a, _at_b) = (sidecar("a", &a).start().await, sidecar("b", &b).start().await);
    let body: Vec<u8> = (0..200_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    for family in Family::BOTH {
        let (mut whole, mut refused) = (0, 0);
        while whole < 10 {
            let mut conn = a.h1(b.at(family, 8080)).await.unwrap();
            let reply = conn.send(Call::post("b.shop", "/echo", body.clone())).await.unwrap();
            if reply.status == 200 {
                assert!(reply.body == body, "{family:?}: {} bytes", reply.body.len());
                whole += 1;
            } else {
                assert!([502, 503, 504].contains(&reply.status), "{}", reply.text());
                refused += 1;
                assert!(refused < 30, "{family:?}: nothing gets through: {}", reply.text());
            }
        }
    }
    assert!(link.lost() > 0, "{}", link.carried());
}
