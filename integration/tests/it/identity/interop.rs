//! Other implementations of SPIFFE against ours, both ways: go-spiffe and py-spiffe get identities
//! and tokens from `countersign dev authority` and from SPIRE, and talk with a sidecar as peers.

use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_integration::client::Call;
use countersign_integration::components::spire::{Entry, Server, ServerSpec};
use countersign_integration::process::{self, Process};
use countersign_integration::proxy::Spec;
use countersign_integration::{App, Lab, Proxy, client, documents, lab, ports, programs, wait};
use serde_json::{Value, json};

/// Another implementation.
#[derive(Clone, Debug)]
enum Peer {
    Go(PathBuf),
    Python(PathBuf),
}

impl Peer {
    fn go(test: &str) -> Option<Peer> {
        programs::go_tool(test, "gospiffe", "gospiffe").map(Peer::Go)
    }

    fn python(test: &str) -> Option<Peer> {
        programs::python(test).map(Peer::Python)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = match self {
            Peer::Go(program) => Command::new(program),
            Peer::Python(python) => {
                let script = Path::new(env!("CARGO_MANIFEST_DIR"));
                let script = script.join("tests/it/identity/spiffe_peer.py");
                let mut command = Command::new(python);
                command.arg("-B").arg(script);
                command
            }
        };
        command.args(words);
        command
    }

    /// What it printed, line by line.
    async fn tell(&self, words: &[&str]) -> Vec<Value> {
        let mut command = Command::new("timeout");
        let own = self.command(words);
        command.arg("60").arg(own.get_program()).args(own.get_args());
        let done = tokio::task::spawn_blocking(move || process::run(&mut command)).await.unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{self:?} {words:?}: {}\n{out}\n{err}", done.status);
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Serves what the destination `billing` is called for.
    async fn serve(&self, folder: &Path, socket: &str, at: &str, caller: &str) -> Process {
        let command = self.command(&["serve", socket, at, caller]);
        let process = Process::start("peer", command, folder);
        wait::until_true("the peer to listen", || {
            assert!(process.exit_status().is_none(), "{}", process.tail());
            process.stdout().contains("listening")
        })
        .await;
        process
    }
}

/// `countersign dev authority` of the lab's trust domain, with a socket per workload.
fn authority(lab: &Lab) -> Process {
    let mut command = Command::new(programs::cli());
    command.args(["dev", "authority", "--trust-domain", lab::DOMAIN, "--ttl", "1m"]);
    command.args(["--rotate", "3s", "--dir"]).arg(lab.folder().join("ids"));
    for workload in ["shop/orders", "shop/billing", "shop/web"] {
        command.args(["--workload", workload]);
    }
    Process::start("authority", command, lab.folder())
}

async fn until_ready(authority: &Process) {
    wait::until_true("the authority", || authority.stdout().contains("ready")).await;
}

fn socket(lab: &Lab, account: &str) -> String {
    lab.folder().join(format!("ids/shop.{account}.sock")).display().to_string()
}

/// Certificates rotate, tokens are made, published and checked, for a client of another library.
async fn workload_api_is_understood(peer: &Peer) {
    let lab = Lab::new();
    let authority = authority(&lab);
    until_ready(&authority).await;
    let web = socket(&lab, "web");
    let told = peer.tell(&["watch", &web, "3"]).await;
    assert_eq!(told.len(), 3);
    for (index, line) in told.iter().enumerate() {
        assert_eq!(line["id"], lab.id("shop", "web"));
        let again = told.iter().skip(index + 1).any(|other| other["serial"] == line["serial"]);
        assert!(!again, "{told:?}");
    }
    let told = peer.tell(&["jwt", &web, "countersign.dev/lab.test"]).await;
    assert_eq!(told[0]["id"], lab.id("shop", "web"), "checked with the keys of the stream");
    assert_eq!(told[0]["there"], lab.id("shop", "web"), "checked by the call");
    let other = told[0]["other"].as_str().unwrap();
    assert!(other.contains("for somebody else"), "{other}");
}

#[tokio::test]
async fn go_spiffe_understands_our_workload_api() {
    let Some(go) = Peer::go("go_spiffe_understands_our_workload_api") else { return };
    workload_api_is_understood(&go).await;
}

#[tokio::test]
async fn py_spiffe_understands_our_workload_api() {
    let Some(python) = Peer::python("py_spiffe_understands_our_workload_api") else { return };
    workload_api_is_understood(&python).await;
}

/// The sidecar `shop/orders`, which calls the destination `billing` at `at`.
async fn orders(
    lab: &Lab,
    source: Value,
    app: &App,
    at: std::net::SocketAddr,
    port: Value,
) -> Proxy {
    let id = lab.id("shop", "billing");
    let mesh = lab.mesh().destination_speaking("shop/billing", "billing.shop", at, &[&id], port);
    let files = [
        lab.write("mesh.yaml", &mesh.document()),
        lab.write("access.yaml", &documents::access("shop", documents::anybody())),
    ];
    let spec = Spec::new(lab.folder(), "shop", "orders", source);
    spec.documents(&[&files[0], &files[1]]).inbound(app.address).outbound().start().await
}

/// The peer calls the sidecar, the sidecar calls the peer; each takes only who it expects.
async fn sidecar_and_peer_talk(lab: &Lab, peer: &Peer, sockets: [&str; 3], port: Value) {
    let [orders_socket, billing_socket, web_socket] = sockets;
    let app = App::mirror();
    let at = ports::free();
    let source = json!({"workloadApi": {"socket": orders_socket}});
    let orders = orders(lab, source, &app, at, port).await;
    let me = lab.id("shop", "orders");

    let inbound = orders.inbound().to_string();
    let told = peer.tell(&["call", web_socket, &inbound, &me, "orders.shop"]).await;
    assert_eq!(told[0]["status"], 200, "{told:?}");
    let seen = app.last();
    assert_eq!(seen.header("countersign-caller"), Some(lab.id("shop", "web").as_str()));

    // The sidecar is not who this caller wants: the caller's own library refuses.
    let wrong = lab.id("shop", "somebody");
    let mut command = peer.command(&["call", web_socket, &inbound, &wrong, "orders.shop"]);
    let done = tokio::task::spawn_blocking(move || process::run(&mut command)).await.unwrap();
    assert!(!done.status.success());

    let server = peer.serve(lab.folder(), billing_socket, &at.to_string(), &me).await;
    let reply = client::call(orders.outbound(), Call::get("billing.shop", "/")).await;
    assert_eq!(reply.status, 200, "{}\n{}\n{}", reply.text(), orders.log(), server.tail());
    drop(server);

    // Somebody else listens where billing was: the sidecar refuses, whatever the library thinks.
    let _impostor = peer.serve(lab.folder(), web_socket, &at.to_string(), &me).await;
    wait::until("the impostor to be met", async || {
        let reply = client::call(orders.outbound(), Call::get("billing.shop", "/")).await;
        assert_ne!(reply.status, 200);
        orders.log().contains("is not who was expected").then_some(())
    })
    .await;
}

#[tokio::test]
async fn go_spiffe_and_a_sidecar_talk_both_ways() {
    let Some(go) = Peer::go("go_spiffe_and_a_sidecar_talk_both_ways") else { return };
    let lab = Lab::new();
    let authority = authority(&lab);
    until_ready(&authority).await;
    let [orders, billing, web] = ["orders", "billing", "web"].map(|name| socket(&lab, name));
    sidecar_and_peer_talk(&lab, &go, [&orders, &billing, &web], json!({"protocol": "http"})).await;
}

#[tokio::test]
async fn py_spiffe_and_a_sidecar_talk_both_ways() {
    let Some(python) = Peer::python("py_spiffe_and_a_sidecar_talk_both_ways") else { return };
    let lab = Lab::new();
    let authority = authority(&lab);
    until_ready(&authority).await;
    let [orders, billing, web] = ["orders", "billing", "web"].map(|name| socket(&lab, name));
    // Its server here speaks HTTP/1.1 only.
    let port = json!({"protocol": "http", "preserveHttp1": true});
    sidecar_and_peer_talk(&lab, &python, [&orders, &billing, &web], port).await;
}

/// SPIRE's certificates, in go-spiffe's hands, before our verifier, and ours before go-spiffe's.
#[tokio::test]
async fn go_spiffe_and_a_sidecar_talk_with_identities_of_spire() {
    let test = "go_spiffe_with_identities_of_spire";
    let Some(go) = Peer::go(test) else { return };
    let lab = Lab::new();
    let Some(server) = Server::start(test, ServerSpec::new(lab::DOMAIN)).await else { return };
    // One agent for each, because all three run as the user of this test.
    let mut agents = Vec::new();
    for account in ["orders", "billing", "web"] {
        let agent = server.agent(account).await;
        let path = format!("/ns/shop/sa/{account}");
        let mut entry = Entry::new(&path, rustix::process::geteuid().as_raw());
        entry.agent = account;
        server.entry(&entry).await;
        agent.until_known(rustix::process::geteuid().as_raw()).await;
        agents.push(agent);
    }
    let sockets: Vec<String> =
        agents.iter().map(|agent| agent.socket().display().to_string()).collect();
    let [orders, billing, web] = sockets.try_into().unwrap();
    sidecar_and_peer_talk(&lab, &go, [&orders, &billing, &web], json!({"protocol": "http"})).await;
}
