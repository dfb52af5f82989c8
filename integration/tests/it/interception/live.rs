//! States, drain, and connections that outlive their reason.

use std::process::Command;

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::lab::user_claims;
use countersign_integration::outcome::refused;
use countersign_integration::pki::Request;
use countersign_integration::raw_app::field;
use countersign_integration::{
    App, Authority, Lab, Leaf, Proxy, RawApp, Tokens, documents, ports, process, programs, tls,
    wait,
};
use http_body::Frame;
use http_body_util::BodyExt as _;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The host of the app.
pub(crate) const HOST: &str = "orders.shop";
/// Later than any certificate or token of a test.
const FAR: &str = "2126-01-01T00:00:00Z";

/// SHA-256 of a leaf, as documents write it.
pub(crate) fn hex(leaf: &Leaf) -> String {
    hex_of(&leaf.chain[0])
}

fn hex_of(certificate: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A WebSocket of a mesh peer.
pub(crate) struct Chat {
    stream: TlsStream<TcpStream>,
    /// The decision that let it in.
    pub(crate) decision: String,
}

impl Chat {
    /// Opens one on a connection of its own.
    pub(crate) async fn open(proxy: &Proxy, leaf: &Leaf) -> Chat {
        let config = tls::client(Some(leaf), &[tls::MESH_HTTP1]);
        let mut stream = client::tls_stream(proxy.inbound(), config).await.unwrap();
        let request = format!(
            "GET /chat HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = wait::ends("the answer", super::http::head(&mut stream)).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let decision = field(&answer, "countersign-decision").unwrap().to_owned();
        Chat { stream, decision }
    }

    /// Bytes there and back.
    pub(crate) async fn ping(&mut self) {
        self.stream.write_all(b"\x81\x01!").await.unwrap();
        let mut back = [0; 3];
        wait::ends("the echo", self.stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, b"\x81\x01!");
    }

    /// Waits until the other end has closed it.
    pub(crate) async fn ends(&mut self) {
        let mut rest = Vec::new();
        let _ = wait::ends("the end", self.stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty(), "{rest:?}");
    }
}

/// The rule that lets in everybody, and one that keeps `account` out.
pub(crate) fn without(account: &str) -> Value {
    let mut rules = documents::anybody();
    let deny = json!({"name": "not-them", "effect": "deny", "match":
        {"caller": {"anyOf": [{"namespace": "shop", "serviceAccount": account}]}}});
    rules.as_array_mut().unwrap().push(deny);
    rules
}

/// An echo that stays open: the response, and where its request body is written.
pub(crate) async fn echo(
    conn: &mut Conn,
    call: Call,
) -> (
    http::Response<hyper::body::Incoming>,
    tokio::sync::mpsc::Sender<anyhow::Result<Frame<bytes::Bytes>>>,
) {
    let (sender, body) = client::stream();
    let mut response = conn.start(call.body(body)).await.unwrap();
    assert_eq!(response.status(), 200);
    sender.send(Ok(Frame::data("hello".into()))).await.unwrap();
    let frame = wait::ends("the echo", response.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "hello");
    (response, sender)
}

pub(crate) fn decision(response: &http::Response<hyper::body::Incoming>) -> String {
    response.headers()["countersign-decision"].to_str().unwrap().to_owned()
}

/// A policy that no longer allows it ends an open stream, of this caller and of nobody else.
#[tokio::test]
async fn open_stream_is_denied() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.revocable(app.address, documents::anybody(), |spec| spec).await;
    let mut web = lab.peer(&orders, &lab.ca.leaf("shop", "web")).await;
    let mut batch = lab.peer(&orders, &lab.ca.leaf("shop", "batch")).await;
    let (denied, _open) = echo(&mut web, Call::post(HOST, "/echo", "")).await;
    let (mut stays, sender) = echo(&mut batch, Call::post(HOST, "/echo", "")).await;
    let id = decision(&denied);
    lab.write("access.yaml", &documents::access("shop", without("web")));
    wait::ends("the stream", client::collect(denied)).await.unwrap_err();
    let ended = orders.ended(&id).await;
    assert_eq!(
        (&ended["reason"], &ended["rule"]),
        (&json!("policy/deny_rule"), &json!("not-them"))
    );
    assert_eq!((&ended["res"]["bytes_in"], &ended["res"]["bytes_out"]), (&json!(5), &json!(5)));
    // The connection itself stays: its next request is judged for itself.
    let reply = web.send(Call::get(HOST, "/")).await.unwrap();
    refused(&orders, &reply, "policy_denied").await;
    sender.send(Ok(Frame::data("more".into()))).await.unwrap();
    let frame = wait::ends("the echo", stays.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "more");
    // Its own end is recorded too, with what it carried and without a reason.
    let id = decision(&stays);
    drop(sender);
    let rest = wait::ends("the end", stays.into_body().collect()).await.unwrap();
    assert_eq!(rest.to_bytes().len(), 0);
    let ended = orders.ended(&id).await;
    assert_eq!((&ended["reason"], &ended["decision"]), (&Value::Null, &json!("allow")));
    assert_eq!(ended["res"]["bytes_out"], 9, "{ended}");
}

/// A caller that waits for its answer gets one: no.
#[tokio::test]
async fn a_request_that_waits_is_refused() {
    let lab = Lab::new();
    let app = App::serving(|_| Box::pin(std::future::pending()));
    let orders = lab.revocable(app.address, documents::anybody(), |spec| spec).await;
    let mut web = lab.peer(&orders, &lab.ca.leaf("shop", "web")).await;
    let asking = tokio::spawn(async move { web.send(Call::get(HOST, "/")).await });
    wait::until_true("the request at the app", || !app.seen().is_empty()).await;
    lab.write("access.yaml", &documents::access("shop", without("web")));
    let reply = asking.await.unwrap().unwrap();
    let record = refused(&orders, &reply, "policy_denied").await;
    assert_eq!(record["rule"], "not-them", "{record}");
}

/// A revoked identity loses everything it had opened with older certificates, whatever the protocol.
#[tokio::test]
async fn websocket_and_grpc_stream_end() {
    let lab = Lab::new();
    let (app, chats) = (App::grpc(), RawApp::echo_after_upgrade().await);
    let orders = lab.revocable(app.address, documents::anybody(), |spec| spec).await;
    let identity = lab.id("shop", "web");
    let old = lab.ca.issue(Request::new(&[&identity]).begins_at(1_600_000_000));
    let fresh = lab.ca.leaf("shop", "web");
    let mut conn = lab.peer(&orders, &old).await;
    let (stream, _open) = echo(&mut conn, Call::post(HOST, "/shop.Orders/Chat", "").grpc()).await;
    let lab_of_chats = Lab::new();
    let front = lab_of_chats.revocable(chats.address, documents::anybody(), |spec| spec).await;
    let of_chats = lab_of_chats.id("shop", "web");
    let old_chatter = lab_of_chats.ca.issue(Request::new(&[&of_chats]).begins_at(1_600_000_000));
    let mut chat = Chat::open(&front, &old_chatter).await;
    chat.ping().await;

    let before = |id: &str| json!({"identities": [{"spiffeId": id, "issuedBefore": "2024-01-01T00:00:00Z"}]});
    lab.revoke(before(&identity));
    lab_of_chats.revoke(before(&of_chats));
    // The connection goes without a grace; whoever is quick sees the trailers.
    match wait::ends("the stream", client::collect(stream)).await {
        Ok(reply) => assert_eq!(reply.trailers["grpc-status"], "16"),
        Err(_) => wait::until_true("the end of the connection", || conn.is_closed()).await,
    }
    chat.ends().await;
    let ended = front.ended(&chat.decision).await;
    assert_eq!(ended["reason"], "revoked/identity", "{ended}");
    // What was issued since then counts.
    let mut again = lab.peer(&orders, &fresh).await;
    let (_, _open) = echo(&mut again, Call::post(HOST, "/shop.Orders/Chat", "").grpc()).await;
}

/// A stream of a user who is named ends with a status, and the user's token opens nothing more.
#[tokio::test]
async fn a_revoked_user_loses_streams_and_tokens() {
    let lab = Lab::new();
    let app = App::grpc();
    let mesh = lab.mesh().provider("https://login.example.com", json!({"file": "none.json"}));
    lab.write("none.json", &json!({"keys": []}));
    let orders = lab.revocable(app.address, documents::anybody(), |spec| spec).await;
    lab.write("mesh.yaml", &mesh.document());
    orders.reload();
    let token = |user: &str| {
        let mut claims = lab.gateway.claims(&lab.id("shop", "orders"));
        claims["sub"] = json!(format!("user:{user}"));
        claims["rctx"]["idp"] = json!("corp");
        lab.gateway.sign(&claims)
    };
    let mut gateway = lab.peer(&orders, lab.gateway.leaf()).await;
    let chat = |user: &str| Call::post(HOST, "/shop.Orders/Chat", "").grpc().context(&token(user));
    let (stream, _open) = echo(&mut gateway, chat("alice")).await;
    let (mut other, other_open) = echo(&mut gateway, chat("bob")).await;
    let id = decision(&stream);
    let revoke = |before: &str| {
        lab.revoke(json!({"users": [{"provider": "corp", "id": "alice", "issuedBefore": before}]}))
    };
    revoke(FAR);
    let reply = wait::ends("the stream", client::collect(stream)).await.unwrap();
    assert_eq!(reply.trailers["grpc-status"], "16");
    assert_eq!(orders.ended(&id).await["reason"], "revoked/user");
    let get = |user: &str| Call::get(HOST, "/").context(&token(user));
    let reply = gateway.send(get("alice")).await.unwrap();
    refused(&orders, &reply, "token_revoked").await;
    // Somebody else's stream on the same connection goes on.
    other_open.send(Ok(Frame::data("more".into()))).await.unwrap();
    let frame = wait::ends("the echo", other.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "more");
    // Tokens issued since then count.
    revoke("2024-01-01T00:00:00Z");
    wait::until("the token to count again", async || {
        let reply = gateway.send(get("alice")).await.unwrap();
        (reply.status == 200).then_some(())
    })
    .await;
}

/// The other entries about tokens: transactions and the keys that sign.
#[tokio::test]
async fn tokens_of_a_revoked_transaction_or_key_are_refused() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.revocable(app.address, documents::anybody(), |spec| spec).await;
    let claims = lab.gateway.claims(&lab.id("shop", "orders"));
    let token = lab.gateway.sign(&claims);
    let mut gateway = lab.peer(&orders, lab.gateway.leaf()).await;
    let mut get = async || gateway.send(Call::get(HOST, "/").context(&token)).await.unwrap();
    assert_eq!(get().await.status, 200);
    for entries in [
        json!({"transactions": [{"txn": claims["txn"]}]}),
        json!({"issuerKeys": [{"identity": lab.id("edge", "gateway"), "kid": lab.gateway.kid()}]}),
    ] {
        lab.revoke(entries);
        let reply = wait::until("the revocation", async || {
            let reply = get().await;
            (reply.status != 200).then_some(reply)
        })
        .await;
        refused(&orders, &reply, "token_revoked").await;
        lab.revoke(json!({}));
        wait::until("its end", async || (get().await.status == 200).then_some(())).await;
    }
}

/// A gateway makes no fresh context from an old login of a revoked user.
#[tokio::test]
async fn a_gateway_knows_revoked_users() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let users = Tokens::new("login.example.com", "login", lab.ca.leaf("x", "users"));
    let id = lab.id("shop", "orders");
    let mesh = lab.gateway_mesh(&users).destination("shop/orders", HOST, orders.inbound(), &[&id]);
    let revocation = lab.revoke(json!({}));
    let gateway = lab
        .gateway_to(&mesh, "shop/orders", |spec| {
            spec.with(|config| {
                config["documents"]["files"].as_array_mut().unwrap().push(json!(revocation));
            })
        })
        .await;
    let get = |user: &str| {
        Call::get("api.example.com", &format!("/v1/users/{user}/orders"))
            .bearer(&users.user(&user_claims(user)))
    };
    assert_eq!(client::call(gateway.gateway(), get("alice")).await.status, 200);
    lab.revoke(json!({"users": [{"provider": "corp", "id": "alice", "issuedBefore": FAR}]}));
    let reply = wait::until("the revocation", async || {
        let reply = client::call(gateway.gateway(), get("alice")).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    refused(&gateway, &reply, "user_token_revoked").await;
    assert_eq!(client::call(gateway.gateway(), get("bob")).await.status, 200);
}

/// An authority that is no longer trusted takes its connections with it.
#[tokio::test]
async fn connections_of_a_removed_authority_end() {
    let lab = Lab::new();
    let app = App::mirror();
    let next = Authority::new("lab.test");
    lab.write_text("bundle.pem", &format!("{}{}", lab.ca.pem(), next.pem()));
    let orders = lab.revocable(app.address, documents::anybody(), |spec| spec).await;
    let mut old = lab.peer(&orders, &lab.ca.leaf("shop", "web")).await;
    let mut new = lab.peer(&orders, &next.leaf("shop", "web")).await;
    for conn in [&mut old, &mut new] {
        assert_eq!(conn.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    }
    next.leaf("shop", "orders").write(lab.folder(), "shop.orders.id");
    lab.write_text("bundle.pem", next.pem());
    wait::until_true("the end of the old connection", || old.is_closed()).await;
    assert_eq!(new.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    orders
        .metric_reaches("countersign_connections_ended_total", &["reason=\"revoked\""], 1.0)
        .await;
}

/// Readiness on its own port, the control socket, and the states they show.
#[tokio::test]
async fn states_are_told_and_commands_are_taken() {
    let lab = Lab::new();
    let app = App::mirror();
    let (probe, socket) = (ports::free(), lab.folder().join("control.sock"));
    let orders = lab
        .revocable(app.address, documents::anybody(), |spec| {
            let spec = spec.limit("DRAIN_DELAY_MS", 200);
            spec.with(|config| {
                config["readiness"] = json!({"address": probe});
                config["control"] = json!({"socket": socket});
            })
        })
        .await;
    let state = async |wanted: &str| {
        wait::until(wanted, async || {
            let reply = client::call(probe, Call::get("probe", "/ready")).await;
            let label = format!("state=\"{wanted}\"");
            let metric = orders.metric("countersign_lifecycle_state", &[&label]).await;
            let told = (reply.json()["state"] == wanted) && metric == 1.0;
            told.then_some((reply.status, reply.json()))
        })
        .await
    };
    assert_eq!(state("ready").await.0, 200);
    let tell = |arguments: &[&str]| {
        let mut command = Command::new(programs::proxy());
        let done = process::run(command.args(arguments).arg("--socket").arg(&socket));
        let said = if done.status.success() { &done.stdout } else { &done.stderr };
        (done.status.code(), String::from_utf8_lossy(said).into_owned())
    };
    let (code, said) = tell(&["reload"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("are in force"), "{said}");
    lab.write_text("access.yaml", "kind: [");
    let (code, said) = tell(&["reload"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("access.yaml"), "{said}");
    assert_eq!(state("degraded").await.0, 200);
    // A hook names the configuration; it works whatever became of the documents.
    let mut command = Command::new(programs::proxy());
    let done = process::run(command.args(["log", "info", "--config"]).arg(&orders.file));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    lab.write("access.yaml", &documents::access("shop", documents::anybody()));
    assert_eq!(tell(&["reload"]).0, Some(0));
    state("ready").await;
    assert_eq!(tell(&["log", "no=such=level"]).0, Some(1));
    assert_eq!(tell(&["log", "debug"]).0, Some(0));
    assert_eq!(tell(&["shutdown"]).0, Some(2), "there is no such command");

    // Drain: unready, asks those inside to leave, still takes those who come.
    let mut inside = lab.peer(&orders, &lab.ca.leaf("shop", "web")).await;
    assert_eq!(inside.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    let (code, said) = tell(&["drain"]);
    assert_eq!((code, said.as_str()), (Some(0), "drained\n"));
    wait::until_true("the good-bye", || inside.is_closed()).await;
    let (status, ready) = state("draining").await;
    assert_eq!((status, &ready["reason"]), (503, &json!("draining")));
    let reply = lab.call_as("shop", "late", &orders, Call::get(HOST, "/")).await;
    assert_eq!(reply.status, 200);
    orders.process.terminate();
    assert_eq!(orders.process.ended().await.code(), Some(0));
    let audit = orders.audit();
    let states: Vec<_> = audit
        .iter()
        .filter(|record| record["kind"] == "control" && record["what"] == "lifecycle")
        .map(|record| record["new"].as_str().unwrap_or_default())
        .collect();
    assert!(states.ends_with(&["draining", "stopping", "stopped"]), "{states:?}");
    assert!(!socket.exists());
}

/// Whoever is neither the proxy's user nor root is turned away, even where the file would let them.
#[tokio::test]
async fn attack_other_user_drains_the_proxy() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can be somebody else; the check itself is the same for everybody");
        return;
    }
    let lab = Lab::new();
    let app = App::mirror();
    let socket = lab.folder().join("control.sock");
    let orders = lab
        .revocable(app.address, documents::anybody(), |spec| {
            spec.with(|config| config["control"] = json!({"socket": socket}))
        })
        .await;
    let readable = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    readable(lab.folder(), 0o755);
    readable(&socket, 0o777);
    let program = lab.folder().join("proxy");
    // Not written by this process: what another test starts would hold it open, and it is busy then.
    let copied = process::run(Command::new("cp").arg(programs::proxy()).arg(&program));
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    readable(&program, 0o755);
    let mut command = Command::new(&program);
    command.args(["drain", "--socket"]).arg(&socket).uid(65_534).gid(65_534).current_dir("/");
    let done = process::run(&mut command);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("may not control"), "{said}");
    assert_eq!(orders.ready().await.unwrap().0, 200);
    orders.process.signal(Signal::TERM);
    orders.process.ended().await;
}

/// The other way round: a callee whose certificate is revoked gets no more requests on a connection
/// that was opened before.
#[tokio::test]
async fn connections_to_a_revoked_callee_end() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let presented = {
        let config = tls::client(Some(lab.gateway.leaf()), &[tls::MESH_H2]);
        let stream = client::tls_stream(orders.inbound(), config).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let id = lab.id("shop", "orders");
    let mesh = lab.mesh().destination("shop/orders", HOST, orders.inbound(), &[&id]);
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    let revocation = lab.revoke(json!({}));
    let web = lab.proxy("shop", "web").outbound().documents(&[&mesh, &revocation]).start().await;
    let mut conn = Conn::h2(web.outbound()).await.unwrap();
    let (stream, _open) = echo(&mut conn, Call::post(HOST, "/echo", "")).await;
    lab.revoke(json!({"certificates": [{"sha256": hex_of(&presented)}]}));
    wait::ends("the stream", client::collect(stream)).await.unwrap_err();
    let reply = conn.send(Call::get(HOST, "/")).await.unwrap();
    refused(&web, &reply, "server_identity_unexpected").await;
    web.metric_reaches("countersign_connections_ended_total", &["reason=\"revoked\""], 1.0).await;
}
