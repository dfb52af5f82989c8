//! What an app, another pod or a web page tries with the interfaces inside a pod (T22): the admin
//! pages, metrics and the control socket. The local API for apps is in `context/async_work`; what is said here of `Host`, of methods and of
//! what an answer may hold, it keeps to.

use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use countersign_integration::client::{self, Call};
use countersign_integration::lab::user_claims;
use countersign_integration::outcome::refused;
use countersign_integration::{App, Lab, Proxy, Tokens, tls, token, wait};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

const HOST: &str = "orders.shop";
const PAGES: [&str; 4] = ["/", "/api/v1/status", "/api/v1/decisions", "/style.css"];

/// An address of this machine that is not loopback: where another pod would come to.
fn outside_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Nothing is sent; the kernel chooses the address it would send from.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// The admin pages listen on loopback only: not reached at the pod's address, and an address that
/// others could reach is refused at start.
#[tokio::test]
async fn attack_reads_admin_from_another_pod() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let admin = orders.admin_address();
    assert!(admin.ip().is_loopback());
    if let Some(outside) = outside_address() {
        let reached = TcpStream::connect(SocketAddr::new(outside, admin.port())).await;
        assert!(reached.is_err(), "the admin pages answer at {outside}");
    }
    // By way of the sidecar's own listeners it is not reached either: an inbound request goes to
    // the app, whatever its target says.
    for target in PAGES {
        let call = Call::get(&admin.to_string(), target);
        let reply = lab.call_as_gateway(&orders, call).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.json()["method"], "GET", "the app answered");
    }
    assert_eq!(app.seen().len(), PAGES.len());

    for address in ["0.0.0.0:15999", "[::]:15999", "203.0.113.7:15999"] {
        let mesh = lab.write("mesh.yaml", &lab.mesh().document());
        let spec = lab.proxy("shop", "web").outbound().documents(&[&mesh]);
        let open = spec.with(|config| config["admin"]["address"] = json!(address)).launch();
        let status = open.process.ended().await;
        assert!(!status.success(), "{address}");
        assert!(open.log().contains("loopback"), "{address}: {}", open.log());
    }
}

/// Everything the pages say, after requests full of secrets: none of them is there.
#[tokio::test]
async fn attack_finds_secrets_in_admin_output() {
    let lab = Lab::new();
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let server = App::tls_mirror(tls::server(&lab.ca.leaf("shop", "orders"), &[tls::MESH_H2]));
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec.log("trace")).await;
    let id = lab.id("shop", "orders");
    let mesh = lab.gateway_mesh(&users);
    let mesh = mesh.destination("shop/orders", HOST, server.address, &[&id]);
    let gateway = lab.gateway_to(&mesh, "shop/orders", |spec| spec.log("trace")).await;

    let alice = users.user(&user_claims("alice"));
    let token = lab.gateway.mint(&id);
    let mut secrets = vec![alice.clone(), token.clone()];
    let plant = |name: &str| format!("sentinel-{name}-9b1f77");
    let call = |bearer: &str, path: &str| {
        Call::get("api.example.com", &format!("{path}?q={}", plant("query")))
            .bearer(bearer)
            .header("cookie", &plant("cookie"))
            .header("x-api-key", &plant("key"))
    };
    for (bearer, path) in
        [(&*alice, "/v1/users/alice/orders"), (&*alice, "/elsewhere"), (&*plant("bearer"), "/v1")]
    {
        client::call(gateway.gateway(), call(bearer, path)).await;
    }
    let call = Call::get(HOST, "/").context(&token).header("cookie", &plant("cookie"));
    assert_eq!(lab.call_as_gateway(&orders, call).await.status, 200);
    let broken = Call::get(HOST, "/").context(&format!("{}AAAA", &token[..token.len() - 4]));
    refused(&orders, &lab.call_as_gateway(&orders, broken).await, "signature_invalid").await;
    secrets.push(app.last().header("countersign-context").unwrap().to_owned());
    secrets.push(server.last().header("txn-token").unwrap().to_owned());
    secrets.extend(["query", "cookie", "key", "bearer"].map(plant));
    for file in ["edge.gateway.id.key", "shop.orders.id.key"] {
        let key = std::fs::read_to_string(lab.folder().join(file)).unwrap();
        secrets.extend(key.lines().filter(|line| !line.contains("-----")).map(str::to_owned));
    }

    for proxy in [&gateway, &orders] {
        let mut said = vec![proxy.metrics().await];
        for page in PAGES {
            said.push(proxy.admin(page).await.text());
        }
        for record in proxy.decisions() {
            let id = record["id"].as_str().unwrap();
            for format in ["", "?format=text"] {
                said.push(proxy.admin(&format!("/api/v1/why/{id}{format}")).await.text());
            }
        }
        assert!(said.iter().map(String::len).sum::<usize>() > 5_000, "the pages say something");
        for text in &said {
            for secret in &secrets {
                assert!(!text.contains(secret.as_str()), "{secret} in {text}");
            }
            assert_eq!(token::jws_in(text), None, "in {text}");
            assert!(!text.contains("PRIVATE KEY"), "{text}");
        }
    }
}

/// Whatever an app asks for at the addresses it can reach, by whatever method: nothing changes and
/// the proxy serves on.
#[tokio::test]
async fn attack_shuts_proxy_down_from_the_app() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let before = orders.admin("/api/v1/status").await.json()["started"].clone();
    let paths = [
        "/",
        "/shutdown",
        "/quitquitquit",
        "/drain",
        "/reload",
        "/log",
        "/logging?level=trace",
        "/api/v1/drain",
        "/api/v1/reload",
        "/healthcheck/fail",
        "/ready",
        "/live",
        "/metrics",
    ];
    for address in [orders.admin_address(), orders.metrics_address()] {
        for path in paths {
            for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "DRAIN"] {
                let call = Call::get(&address.to_string(), path).method(method.parse().unwrap());
                let status = client::call(address, call).await.status;
                assert!([403, 404, 405].contains(&status), "{method} {path}: {status}");
            }
        }
        // With a body, by an override, as a form of a web page.
        let form = Call::post(&address.to_string(), "/shutdown", "confirm=1")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-http-method-override", "GET");
        assert_eq!(client::call(address, form).await.status, 405);
        let get = Call::get(&address.to_string(), "/quitquitquit").header("x-method", "POST");
        assert_eq!(client::call(address, get).await.status, 404);
    }
    assert!(orders.process.exit_status().is_none());
    assert_eq!(orders.ready().await.map(|(status, _)| status), Some(200));
    assert_eq!(orders.admin("/api/v1/status").await.json()["started"], before);
    assert_eq!(lab.call_as_gateway(&orders, Call::get(HOST, "/")).await.status, 200);
}

/// The socket that does change something takes orders from the proxy's own user only, whatever the
/// rights of its file say, and from nobody in HTTP.
#[tokio::test]
async fn attack_gives_orders_on_the_control_socket() {
    let lab = Lab::new();
    let app = App::mirror();
    let socket = lab.folder().join("control.sock");
    let orders =
        lab.orders(&app, |spec| spec.with(|config| config["control"] = json!({"socket": socket})));
    let orders = orders.await;
    let say =
        async |bytes: &[u8]| client::raw(UnixStream::connect(&socket).await.unwrap(), bytes).await;
    for forged in [
        &b"GET /drain HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\ndrain\n",
        b"drain now\n",
        b"\n",
        &[b'x'; 64 * 1024],
    ] {
        let answer = say(forged).await;
        assert!(answer.is_empty() || answer.starts_with("error "), "{answer}");
    }
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "others may open the socket: {mode:o}");
    if rustix::process::geteuid().is_root() {
        // Even with rights to the file: the kernel says who asks.
        for (path, mode) in [(lab.folder(), 0o755), (&*socket, 0o666)] {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--http0.9", "--max-time", "20", "http://localhost/drain"]);
        curl.arg("--unix-socket").arg(&socket).uid(65_534).gid(65_534);
        let done = countersign_integration::process::run(&mut curl);
        let told = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(told.starts_with("error user 65534"), "{told}{done:?}");
    } else {
        eprintln!("skipped: only root can ask as another user");
    }
    assert_eq!(orders.ready().await.map(|(status, _)| status), Some(200));
    assert_eq!(lab.call_as_gateway(&orders, Call::get(HOST, "/")).await.status, 200);
    assert!(say(b"reload\n").await.starts_with("ok "), "its own user is obeyed");
}

/// An app that fetches what it is told to (request forgery) is made to call the interfaces of its
/// pod, directly and by way of its sidecar: it gets pages to read at most, and from the sidecar not
/// even those.
#[tokio::test]
async fn attack_forges_local_api_call_through_the_app() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec.outbound()).await;
    let (admin, metrics) = (orders.admin_address(), orders.metrics_address());
    let local = [admin, metrics, orders.inbound(), orders.outbound()];
    for to in local {
        // By the sidecar: these are no destinations.
        for host in [to.to_string(), format!("localhost:{}", to.port())] {
            let reply = client::call(orders.outbound(), Call::get(&host, "/api/v1/status")).await;
            refused(&orders, &reply, "destination_unknown").await;
            let absolute = format!(
                "GET http://{host}/api/v1/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            );
            let answer = client::raw_tcp(orders.outbound(), absolute.as_bytes()).await;
            refused(&orders, &client::parse_raw(&answer), "destination_unknown").await;
        }
        // As a tunnel.
        let tunnel = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
        let mut stream = TcpStream::connect(orders.outbound()).await.unwrap();
        stream.write_all(tunnel.as_bytes()).await.unwrap();
        let mut status = [0; 10];
        wait::ends("the answer", stream.read_exact(&mut status)).await.unwrap();
        assert!([b"HTTP/1.1 4", b"HTTP/1.1 5"].contains(&&status), "{to}: a tunnel");
    }
    // Directly, with a name of the attacker's choice in the URL and headers of the app's choice.
    for host in ["orders.shop", "metadata.internal", "127.0.0.1.evil.example"] {
        let call = Call::get(host, "/api/v1/decisions").header("x-forwarded-host", "localhost");
        assert_eq!(client::call(admin, call).await.status, 403, "{host}");
    }
    // In another protocol, as a forged request to some other server would look.
    for bytes in [&b"EHLO localhost\r\nQUIT\r\n"[..], b"*1\r\n$8\r\nSHUTDOWN\r\n", b"drain\n"] {
        for to in [admin, metrics] {
            let answer = client::raw_tcp(to, bytes).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
        }
    }
    assert_eq!(lab.call_as_gateway(&orders, Call::get(HOST, "/")).await.status, 200);
    still_itself(&orders).await;
}

async fn still_itself(proxy: &Proxy) {
    assert!(proxy.process.exit_status().is_none());
    assert_eq!(proxy.ready().await.map(|(status, _)| status), Some(200));
}

/// A web page whose name suddenly means 127.0.0.1 is same-origin with the pages, but its requests
/// carry its name: they are refused. What has to answer to any name, metrics and readiness, says
/// nothing about anybody.
#[tokio::test]
async fn attack_rebinds_dns_to_local_api() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let token = lab.gateway.mint(&lab.id("shop", "orders"));
    let call = Call::get(HOST, "/private/alice").context(&token);
    let decision = lab.call_as_gateway(&orders, call).await.decision();
    let admin = orders.admin_address();
    let port = admin.port();
    let hosts = [
        "evil.example",
        "evil.example:15000",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "127.0.0.1@evil.example",
        "[::1].evil.example",
        "0.0.0.0",
        "2130706433",
        "0x7f.1",
        "",
    ];
    let why = format!("/api/v1/why/{decision}");
    for page in PAGES.iter().copied().chain([&*why]) {
        for host in hosts {
            let head = format!("GET {page} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let answer = client::raw_tcp(admin, head.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 40"), "{host:?} {page}: {answer}");
            assert!(!answer.contains("alice") && !answer.contains("lab.test"), "{answer}");
        }
        for twice in [
            format!("GET {page} HTTP/1.1\r\nHost: localhost:{port}\r\nHost: evil.example\r\n"),
            format!("GET http://evil.example{page} HTTP/1.1\r\nHost: localhost:{port}\r\n"),
            format!("GET http://localhost:{port}{page} HTTP/1.1\r\nHost: evil.example\r\n"),
            format!("GET {page} HTTP/1.1\r\n"),
        ] {
            let head = format!("{twice}Connection: close\r\n\r\n");
            let answer = client::raw_tcp(admin, head.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 40"), "{twice}: {answer}");
        }
        // And no answer lets another origin read it.
        let reply = orders.admin(page).await;
        assert_eq!(reply.status, 200, "{page}");
        assert_eq!(reply.header("access-control-allow-origin"), None, "{page}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{page}");
    }
    for page in ["/metrics", "/ready", "/live"] {
        let reply = client::call(orders.metrics_address(), Call::get("evil.example", page)).await;
        let told = reply.text();
        for private in ["alice", "/private", &decision, "01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf2"] {
            assert!(!told.contains(private), "{page} tells {private}");
        }
    }
}
