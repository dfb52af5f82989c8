//! HTTP in every form, through both sidecars: old and new versions, switching protocols, streams.

mod h2spec;
mod http1;
mod programs;
mod streams;
mod upgrades;

use std::net::SocketAddr;

use countersign_integration::client;
use countersign_integration::{Lab, Proxy, documents, tls};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The host of the app behind both sidecars.
pub(crate) const HOST: &str = "orders.shop";

/// The sidecar of `shop/web`, which calls out, and that of `shop/orders` in front of an app.
pub(crate) struct Pair {
    pub(crate) web: Proxy,
    pub(crate) orders: Proxy,
    pub(crate) lab: Lab,
}

/// What may differ between pairs.
pub(crate) struct Setting {
    /// The port of the destination, as documents declare it.
    pub(crate) port: Value,
    /// What the app's entry says beside its address.
    pub(crate) app: Value,
    /// The rules in front of the app.
    pub(crate) rules: Value,
    /// The host of the destination.
    pub(crate) host: &'static str,
    /// Whether the listener of `web` leads to it whatever host is called.
    pub(crate) bound: bool,
    /// Bounds of both sidecars.
    pub(crate) limits: &'static [(&'static str, u64)],
}

impl Default for Setting {
    fn default() -> Setting {
        Setting {
            port: json!({"protocol": "http"}),
            app: json!({}),
            rules: documents::anybody(),
            host: HOST,
            bound: false,
            limits: &[],
        }
    }
}

impl Pair {
    pub(crate) async fn start(app: SocketAddr) -> Pair {
        Pair::with(app, Setting::default()).await
    }

    /// The app is called by another host, on whatever port the sidecar of `web` has.
    pub(crate) async fn start_called(app: SocketAddr, host: &'static str) -> Pair {
        Pair::with(app, Setting { host, bound: true, ..Setting::default() }).await
    }

    pub(crate) async fn with(app: SocketAddr, setting: Setting) -> Pair {
        let lab = Lab::new();
        let mesh = lab.write("mesh.yaml", &lab.mesh().document());
        let access = lab.write("access.yaml", &documents::access("shop", setting.rules));
        let mut spec = lab.proxy("shop", "orders").inbound(app).documents(&[&mesh, &access]);
        for (name, value) in setting.limits {
            spec = spec.limit(name, *value);
        }
        let entry = |config: &mut Value| {
            for (name, value) in setting.app.as_object().into_iter().flatten() {
                config["app"][0][name] = value.clone();
            }
        };
        let orders = spec.with(entry).start().await;
        let id = lab.id("shop", "orders");
        let mesh = lab.mesh();
        let mesh = mesh.destination_speaking(
            "shop/orders",
            setting.host,
            orders.inbound(),
            &[&id],
            setting.port,
        );
        let mesh = lab.write("web-mesh.yaml", &mesh.document());
        let mut spec = lab.proxy("shop", "web").outbound().documents(&[&mesh]);
        for (name, value) in setting.limits {
            spec = spec.limit(name, *value);
        }
        let bound = |config: &mut Value| {
            if setting.bound {
                config["listeners"]["outbound"][0]["destination"] = json!("shop/orders");
            }
        };
        let web = spec.with(bound).start().await;
        Pair { web, orders, lab }
    }

    /// A connection of the app `web` to its sidecar.
    pub(crate) async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.web.outbound()).await.unwrap()
    }

    /// Bytes of the app `web`, and everything that came back.
    pub(crate) async fn raw(&self, text: &str) -> String {
        client::raw_tcp(self.web.outbound(), text.as_bytes()).await
    }

    /// Bytes of another mesh peer, inside an HTTP/1.1 connection between sidecars.
    pub(crate) async fn raw_as_peer(&self, text: &str) -> String {
        let config = tls::client(Some(self.lab.gateway.leaf()), &[tls::MESH_HTTP1]);
        let stream = client::tls_stream(self.orders.inbound(), config).await.unwrap();
        client::raw(stream, text.as_bytes()).await
    }
}

/// Reads one head, or what there is of it at the end.
pub(crate) async fn head<IO: AsyncRead + Unpin>(io: &mut IO) -> String {
    let mut read = Vec::new();
    let mut byte = [0];
    while !read.ends_with(b"\r\n\r\n") {
        match io.read(&mut byte).await {
            Ok(1) => read.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&read).into_owned()
}

/// Writes, and reads as many bytes back.
pub(crate) async fn ping(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, bytes);
}
