//! The programs of `docs/context/reading-headers.md`, run as they stand there: each reads the user
//! of a request, and answers nobody else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::{Lab, Process, Proxy, Reply, documents, ports, programs, tls, wait};
use serde_json::json;

const PAGE: &str = include_str!("../../../../docs/context/reading-headers.md");

/// The program of the page in this language.
fn program(language: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

async fn reads_the_user(language: &str, file: &str, command: impl FnOnce(&Path) -> Command) {
    let lab = Lab::new();
    let listen = ports::free();
    let path = lab.write_text(file, program(language));
    let mut command = command(&path);
    command.env("PORT", listen.port().to_string()).current_dir(lab.folder());
    let process = Process::start(language, command, lab.folder());
    listening(&process, listen).await;
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
    let orders = lab.proxy("shop", "orders").inbound(listen).documents(&[&mesh, &access]);
    let orders = orders.start().await;
    for user in ["alice", "ann+zoë", "o'neil 100%25, \"x\""] {
        let mut claims = lab.gateway.claims(&lab.id("shop", "orders"));
        claims["sub"] = json!(format!("user:{user}"));
        let call = Call::get("orders.shop", "/").context(&lab.gateway.sign(&claims));
        let reply = by_gateway(&lab, &orders, call.header("countersign-user", "root")).await;
        assert_eq!(reply.status, 200, "{language}: {}", reply.text());
        assert_eq!(reply.text().trim(), format!("orders of {user}"), "{language}");
    }
    // A request of the service itself: there is no user, so there is nothing to read.
    let reply = by_gateway(&lab, &orders, Call::get("orders.shop", "/")).await;
    assert_eq!(reply.status, 401, "{language}: {}", reply.text());
    let forged = Call::get("orders.shop", "/").header("countersign-user", "root");
    assert_eq!(by_gateway(&lab, &orders, forged).await.status, 401, "{language}");
    // Nobody but this machine reaches it past its sidecar.
    let direct = client::call(listen, Call::get("orders.shop", "/")).await;
    assert_eq!(direct.status, 401, "{language}");
    assert!(listens_on_loopback_only(listen.port()), "{language}");
}

/// One request of the gateway in HTTP/1.1, which is all that some of the programs speak.
async fn by_gateway(lab: &Lab, orders: &Proxy, call: Call) -> Reply {
    let config = tls::client(Some(lab.gateway.leaf()), &[tls::MESH_HTTP1]);
    let mut conn = Conn::tls(orders.inbound(), config).await.unwrap();
    conn.send(call).await.unwrap()
}

async fn listening(process: &Process, at: SocketAddr) {
    wait::until_within(wait::DEADLINE * 3, "the program", async || {
        if let Some(status) = process.exit_status() {
            panic!("the program ended with {status}\n{}", process.tail());
        }
        tokio::net::TcpStream::connect(at).await.ok().map(drop)
    })
    .await;
}

/// What the kernel says: no socket listens on this port at any other address.
fn listens_on_loopback_only(port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    let listening = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().flat_map(|table| {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.into_iter().filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = fields.get(3) == Some(&"0A");
            fields.get(1).filter(|_| listens).map(|address| (*address).to_owned())
        })
    });
    let own: Vec<String> = listening.filter(|address| address.ends_with(&suffix)).collect();
    let loopback = ["0100007F", "0000000000000000FFFF00000100007F"];
    !own.is_empty() && own.iter().all(|own| loopback.contains(&own.trim_end_matches(&suffix)))
}

fn system(test: &str, name: &str) -> Option<PathBuf> {
    programs::system(test, name)
}

#[tokio::test]
async fn the_python_reader_of_the_docs_reads_the_user() {
    let Some(python) = programs::python("the_python_reader_of_the_docs") else { return };
    reads_the_user("python", "orders.py", |path| {
        let mut command = Command::new(python);
        command.arg("-B").arg(path);
        command
    })
    .await;
}

#[tokio::test]
async fn the_node_reader_of_the_docs_reads_the_user() {
    let Some(node) = system("the_node_reader_of_the_docs", "node") else { return };
    reads_the_user("js", "orders.js", |path| {
        let mut command = Command::new(node);
        command.arg(path);
        command
    })
    .await;
}

#[tokio::test]
async fn the_java_reader_of_the_docs_reads_the_user() {
    let Some(java) = system("the_java_reader_of_the_docs", "java") else { return };
    reads_the_user("java", "Orders.java", |path| {
        let mut command = Command::new(java);
        command.arg("-Xmx128m").arg(path);
        command
    })
    .await;
}

#[tokio::test]
async fn the_go_reader_of_the_docs_reads_the_user() {
    let Some(go) = go() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (source, built) = (folder.path().join("orders.go"), folder.path().join("orders"));
    std::fs::write(&source, program("go")).unwrap();
    let mut build = Command::new(go);
    build.args(["build", "-o"]).arg(&built).arg(&source).env("GO111MODULE", "off");
    let done = countersign_integration::process::run(&mut build);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    reads_the_user("go", "orders.go", |_| Command::new(&built)).await;
}

/// Debian's, or the one on the path, as the test-bed builds with.
fn go() -> Option<PathBuf> {
    let there = Command::new("go").arg("version").output().is_ok_and(|it| it.status.success());
    if there { Some("go".into()) } else { system("the_go_reader_of_the_docs", "go") }
}
