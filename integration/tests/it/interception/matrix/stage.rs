//! What the matrix is played on: two pods, all servers, documents with a rule per kind of port.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use countersign_integration::components::{
    self, Server, mariadb, nginx, postgres, python, redis, smtp, tinyproxy,
};
use countersign_integration::netns::{Family, Mode, Net, Pod};
use countersign_integration::pki::Request;
use countersign_integration::{Lab, Proxy, documents, programs};
use serde_json::{Value, json};

/// The ports of the servers.
pub(super) mod ports {
    pub(crate) const HTTP: u16 = 8080;
    pub(crate) const H2: u16 = 8081;
    pub(crate) const WEB: u16 = 8090;
    pub(crate) const WEBSOCKET: u16 = 8091;
    pub(crate) const CONNECT: u16 = 8888;
    pub(crate) const GRPC: u16 = 50_051;
    pub(crate) const TLS: u16 = 8443;
    pub(crate) const POSTGRESQL: u16 = 5432;
    pub(crate) const MARIADB: u16 = 3306;
    pub(crate) const REDIS: u16 = 6379;
    pub(crate) const SMTP: u16 = 25;
    pub(crate) const NATS: u16 = 4222;
    /// Known, with a server behind it, and no rule lets anybody in.
    pub(crate) const CLOSED: u16 = 11_211;

    /// Those whose bytes nobody looks at.
    pub(crate) const OPAQUE: [u16; 7] = [TLS, POSTGRESQL, MARIADB, REDIS, SMTP, NATS, CLOSED];
    /// All that somebody may reach.
    pub(crate) const ALL: [u16; 12] =
        [HTTP, H2, WEB, WEBSOCKET, CONNECT, GRPC, TLS, POSTGRESQL, MARIADB, REDIS, SMTP, NATS];
}

/// The name in the app's own certificate.
pub(super) const APP_HOST: &str = "app.test";

pub(super) struct Stage {
    pub(super) net: Net,
    pub(super) client: Pod,
    pub(super) server: Pod,
    pub(super) python: PathBuf,
    pub(super) mode: Mode,
    pub(super) smtp: smtp::Smtp,
    pub(super) sidecars: Vec<Proxy>,
    _servers: Vec<Server>,
    /// Last, as everything else writes into its folder.
    pub(super) lab: Lab,
}

const NEEDED: [&str; 12] = [
    "h2load",
    "curl",
    "psql",
    "postgres",
    "mariadb",
    "mariadbd",
    "redis-cli",
    "redis-server",
    "nginx",
    "tinyproxy",
    "smtpd",
    "openssl",
];

impl Stage {
    /// Both pods with all servers, no sidecar yet.
    pub(super) async fn new(test: &str, mode: Mode) -> Option<Stage> {
        let net = Net::new(test)?;
        let python = programs::python(test)?;
        for name in NEEDED {
            programs::system(test, name)?;
        }
        let nats_server = programs::of_testbed(test, "nats-server")?;
        let (client, server, lab) = (net.pod("client"), net.pod("server"), Lab::new());
        for pod in [&client, &server] {
            // Small, so that a reader that stops is felt after few bytes.
            pod.space().sysctl("ipv4/tcp_rmem", "4096 65536 262144");
            pod.space().sysctl("ipv4/tcp_wmem", "4096 65536 262144");
        }
        let app = lab.ca.issue(Request::new(&[]).dns(APP_HOST));
        let (certificate, key) = (app.chain_pem.as_str(), app.key_pem.as_str());
        let (pod, folder) = (&server, lab.folder());
        let nginx = nginx::Ports { http: ports::HTTP, h2: ports::H2, tls: ports::TLS };
        let start = |what, port| python::start(pod, folder, &python, what, port);
        let (postgres, mariadb, smtp) = tokio::join!(
            postgres::start(pod, folder, ports::POSTGRESQL, certificate, key),
            mariadb::start(pod, folder, ports::MARIADB),
            smtp::start(pod, folder, ports::SMTP),
        );
        let servers = tokio::join!(
            nginx::start(pod, folder, nginx, certificate, key),
            start("web", ports::WEB),
            start("ws-serve", ports::WEBSOCKET),
            start("grpc-serve", ports::GRPC),
            tinyproxy::start(pod, folder, ports::CONNECT, ports::HTTP),
            redis::start(pod, folder, ports::REDIS),
            components::nats::start(pod, folder, &nats_server, ports::NATS),
        );
        let (a, b, c, d, e, f, g) = servers;
        let servers = vec![postgres, mariadb, a, b, c, d, e, f, g];
        let sidecars = Vec::new();
        let stage =
            Stage { net, client, server, python, mode, smtp, sidecars, _servers: servers, lab };
        Some(stage)
    }

    /// Starts both sidecars with their redirect.
    pub(super) async fn start_sidecars(&mut self) {
        let lab = &self.lab;
        let known: Vec<(u16, &str)> = ports::ALL
            .into_iter()
            .chain([ports::CLOSED])
            .map(|port| match port {
                ports::HTTP | ports::H2 | ports::WEB | ports::WEBSOCKET | ports::CONNECT => {
                    (port, "http")
                }
                ports::GRPC => (port, "grpc"),
                _ => (port, "tcp"),
            })
            .collect();
        let mesh =
            lab.mesh().pod("data/server", &self.server, &known, &[&lab.id("data", "server")]);
        let mesh = mesh.with(|spec| {
            let ports = spec["destinations"][0]["spec"]["ports"].as_array_mut().unwrap();
            for port in ports.iter_mut().filter(|port| port["port"] == ports::CONNECT) {
                port["connect"] = json!(true);
            }
        });
        let mesh = lab.write("mesh.yaml", &mesh.document());
        let rules = lab.write_text("access.yaml", &access());
        let files = [mesh.as_path(), rules.as_path()];
        let at = |namespace, account, pod: &Pod| {
            lab.proxy(namespace, account).documents(&files).in_pod(pod, self.mode)
        };
        let server = at("data", "server", &self.server).with(|config| {
            config["app"] = json!([{"port": ports::CONNECT, "connect": true}]);
        });
        let client = at("shop", "client", &self.client);
        let (client, server) = (client.launch(), server.launch());
        tokio::join!(client.until_ready(), server.until_ready());
        self.sidecars = vec![client, server];
    }

    pub(super) fn host(&self, family: Family) -> IpAddr {
        self.server.ip(family)
    }

    /// `http://…` of a port of the servers' pod.
    pub(super) fn url(&self, family: Family, port: u16, path: &str) -> String {
        format!("http://{}{path}", self.server.at(family, port))
    }

    /// curl in the clients' pod.
    pub(super) async fn curl(&self, arguments: &[&str]) -> String {
        components::run(&self.client, curl(arguments)).await
    }

    /// A client of `peer.py` in the clients' pod.
    pub(super) async fn call(&self, what: &str, family: Family, port: u16, more: &[&str]) -> Value {
        let to = (self.host(family), port);
        python::call(&self.client, &self.python, what, to, more).await
    }
}

/// curl as everybody starts it: no proxy of the environment, no configuration.
pub(super) fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["-q", "-sS", "-g", "--noproxy", "*"]).args(arguments);
    command
}

/// A policy per kind of port, so that what decides about requests does not touch connections.
fn access() -> String {
    let caller = json!({"anyOf": [{"namespace": "shop", "serviceAccount": "client"}]});
    let policy = |name: &str, ports: &[u16], matches: Value| {
        let mut matcher = matches;
        matcher["caller"] = caller.clone();
        let rules = json!([
            {"name": "client", "effect": "allow", "context": "optional", "match": matcher},
        ]);
        let spec = json!({
            "selector": {"all": true}, "direction": "inbound", "ports": ports, "rules": rules,
        });
        documents::document("AccessPolicy", name, Some("data"), spec)
    };
    let http = [ports::HTTP, ports::H2, ports::WEB, ports::WEBSOCKET];
    let methods = ["Get", "Collect", "Split", "Chat", "Never"];
    let mut tcp = policy(
        "connections",
        &ports::OPAQUE[..ports::OPAQUE.len() - 1], // all but the closed one
        json!({"tcp": {"any": true}}),
    );
    if let Some(rule) = tcp["spec"]["rules"][0].as_object_mut() {
        rule.remove("context"); // opaque connections have none
    }
    let orders = json!({"grpc": {"service": "shop.Orders", "methods": methods}});
    let all = [
        policy("web", &http, json!({"http": {"paths": [{"prefix": "/"}]}})),
        policy("proxy", &[ports::CONNECT], json!({})),
        policy("orders", &[ports::GRPC], orders),
        tcp,
    ];
    all.map(|document| format!("{document:#}")).join("\n---\n")
}
