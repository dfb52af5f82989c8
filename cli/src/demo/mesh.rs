//! The small mesh of the demo: files in a temporary folder, processes, users, and the two
//! workloads the demo plays itself.
//!
//! Invariant: dropping [`Mesh`] ends every process before the folder goes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use countersign_cli::dev::token;
use countersign_config::env;
use jiff::{Timestamp, tz::TimeZone};
use tempfile::TempDir;

use super::ask;
use super::attacker::{Leaky, Workload};
use super::ports::{self, Ports};
use super::process::Processes;
use super::proxies::Proxy;

const MESH: &str = include_str!("files/mesh.yaml");
const ORDERS: &str = include_str!("files/orders.yaml");
const MORE: &str = include_str!("files/more.yaml");
const GATEWAY: &str = include_str!("files/gateway.yaml");
const SIDE_ORDERS: &str = include_str!("files/side-orders.yaml");
const SIDE_BILLING: &str = include_str!("files/side-billing.yaml");

/// The window as it is written; it is moved to where the present is not.
const WINDOW: &str = r#"from: "02:00", to: "03:00""#;
const WORKLOADS: [&str; 5] =
    ["edge/gateway", "shop/orders", "shop/billing", "demo/leaky", "demo/thief"];
const READY_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// Time between two certificates of a workload.
pub(super) const ROTATE: &str = "2s";

/// Everything that runs.
pub(super) struct Mesh {
    processes: Processes,
    /// Where everything listens.
    pub(super) ports: Ports,
    /// The gateway and the two sidecars, in the order requests pass them.
    pub(super) proxies: [Proxy; 3],
    /// A bearer token of alice's.
    pub(super) alice: String,
    /// A bearer token of mallory's.
    pub(super) mallory: String,
    /// A message in a queue, which the demo plays.
    pub(super) message: Option<Message>,
    /// A compromised workload.
    pub(super) leaky: Leaky,
    /// A workload that no rule names.
    pub(super) thief: Workload,
    dir: TempDir,
}

/// Work that was put aside.
#[derive(Debug)]
pub(super) struct Message {
    /// What is to be done.
    pub(super) text: String,
    /// The grant beside it.
    pub(super) grant: String,
    /// When it was put aside.
    pub(super) at: Instant,
}

/// Where the programs are that the demo starts.
struct Programs {
    cli: PathBuf,
    proxy: PathBuf,
}

impl Mesh {
    /// Starts everything and waits until all of it is ready.
    pub(super) async fn start(ports: Ports) -> anyhow::Result<Mesh> {
        let programs = Programs::find()?;
        let dir = TempDir::with_prefix("countersign-demo-").context("no temporary folder")?;
        write_files(dir.path(), &ports)?;
        let mut processes = Processes::in_folder(dir.path());
        start_foundations(&mut processes, &programs, &ports)?;
        let sockets = WORKLOADS.map(|workload| socket(dir.path(), workload));
        wait("the authority", &mut processes, async || sockets.iter().all(|s| s.exists())).await?;
        start_workloads(&mut processes, &programs, &ports)?;
        let leaky = Workload::start(&socket(dir.path(), "demo/leaky")).await?;
        let leaky = Leaky::start(leaky, ports.at(ports::LEAKY)).await?;
        let thief = Workload::start(&socket(dir.path(), "demo/thief")).await?;
        let issuer = format!("http://{}", ports.at(ports::ISSUER));
        wait("the issuer", &mut processes, async || login(&issuer, "alice").await.is_ok()).await?;
        let proxies = Proxy::all(&ports, dir.path());
        for proxy in &proxies {
            wait(proxy.name, &mut processes, async || proxy.is_ready().await).await?;
        }
        for app in [ports::ORDERS, ports::BILLING] {
            let app = ports.at(app);
            wait("an app", &mut processes, async || requests_seen(app).await.is_ok()).await?;
        }
        let (alice, mallory) = (login(&issuer, "alice").await?, login(&issuer, "mallory").await?);
        Ok(Mesh { processes, ports, proxies, alice, mallory, message: None, leaky, thief, dir })
    }

    /// The folder that holds everything.
    pub(super) fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// The public address.
    pub(super) fn gateway(&self) -> SocketAddr {
        self.ports.at(ports::GATEWAY)
    }

    /// The address the mesh knows of orders: the inbound listener of its sidecar.
    pub(super) fn side_orders(&self) -> SocketAddr {
        self.ports.at(ports::ORDERS + 1)
    }

    /// The address the mesh knows of billing.
    pub(super) fn side_billing(&self) -> SocketAddr {
        self.ports.at(ports::BILLING + 1)
    }

    /// How many requests the app orders has seen.
    pub(super) async fn orders_seen(&self) -> anyhow::Result<u64> {
        requests_seen(self.ports.at(ports::ORDERS)).await
    }

    /// A request of a user at the gateway.
    pub(super) async fn as_user(
        &self,
        token: &str,
        path: &str,
        further: &[(&'static str, &str)],
    ) -> anyhow::Result<ask::Answer> {
        let bearer = format!("Bearer {token}");
        let mut fields = vec![("authorization", bearer.as_str())];
        fields.extend_from_slice(further);
        ask::get(self.gateway(), path, &fields).await
    }

    /// Fails if a process has ended by itself.
    pub(super) fn all_run(&mut self) -> anyhow::Result<()> {
        self.processes.all_run()
    }
}

impl Programs {
    fn find() -> anyhow::Result<Programs> {
        let cli = std::env::current_exe().context("this program does not know where it is")?;
        let folder = match env::COUNTERSIGN_BIN_DIR.get() {
            Some(folder) => std::path::absolute(folder)?,
            None => cli.parent().unwrap_or(Path::new("/")).to_path_buf(),
        };
        let proxy = folder.join("countersign-proxy");
        ensure!(
            proxy.is_file(),
            "{} is not there; the demo starts it. `make demo` builds both programs; \
             COUNTERSIGN_BIN_DIR names another folder",
            proxy.display()
        );
        Ok(Programs { cli, proxy })
    }
}

fn write_files(dir: &Path, ports: &Ports) -> anyhow::Result<()> {
    let more = MORE.replace(WINDOW, &window_without(Timestamp::now()));
    for (name, text) in [
        ("mesh.yaml", MESH),
        ("orders.yaml", ORDERS),
        ("more.yaml", more.as_str()),
        ("gateway.yaml", GATEWAY),
        ("side-orders.yaml", SIDE_ORDERS),
        ("side-billing.yaml", SIDE_BILLING),
    ] {
        let file = dir.join(name);
        std::fs::write(&file, ports.rewrite(text))
            .with_context(|| format!("could not write {}", file.display()))?;
    }
    Ok(())
}

/// An hour of the day, in UTC, that begins two hours from `now`.
fn window_without(now: Timestamp) -> String {
    let hour = now.to_zoned(TimeZone::UTC).hour();
    format!(r#"from: "{:02}:00", to: "{:02}:00""#, (hour + 2) % 24, (hour + 3) % 24)
}

fn start_foundations(
    processes: &mut Processes,
    programs: &Programs,
    ports: &Ports,
) -> anyhow::Result<()> {
    let mut arguments = vec!["dev", "authority", "--dir", "ids", "--ttl", "2m", "--rotate", ROTATE];
    arguments.extend(WORKLOADS.iter().flat_map(|workload| ["--workload", workload]));
    processes.start("authority", &programs.cli, &arguments)?;
    let listen = ports.at(ports::ISSUER).to_string();
    let mut arguments = vec!["dev", "issuer", "--listen", &listen, "--token-ttl", "8h"];
    arguments.extend(["--audience", "https://api.demo.test"]);
    arguments.extend(["--user", "alice", "--user", "mallory"]);
    processes.start("issuer", &programs.cli, &arguments)
}

fn start_workloads(
    processes: &mut Processes,
    programs: &Programs,
    ports: &Ports,
) -> anyhow::Result<()> {
    let listen = ports.at(ports::ORDERS).to_string();
    let onward = ports.at(ports::ORDERS + 2).to_string();
    let local = ports.at(ports::ORDERS + 5).to_string();
    let mut orders = vec!["demo-service", "--name", "orders", "--listen", &listen];
    orders.extend(["--onward", &onward, "--local", &local]);
    processes.start("orders", &programs.cli, &orders)?;
    let listen = ports.at(ports::BILLING).to_string();
    let billing = ["demo-service", "--name", "billing", "--listen", &listen];
    processes.start("billing", &programs.cli, &billing)?;
    for proxy in Proxy::NAMES {
        let config = format!("{proxy}.yaml");
        processes.start(proxy, &programs.proxy, &["--config", &config])?;
    }
    Ok(())
}

fn socket(dir: &Path, workload: &str) -> PathBuf {
    dir.join("ids").join(format!("{}.sock", workload.replace('/', ".")))
}

async fn wait(
    what: &str,
    processes: &mut Processes,
    ready: impl AsyncFn() -> bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_MAX;
    while !ready().await {
        processes.all_run()?;
        if Instant::now() > deadline {
            bail!("{what} was not ready within {} s", READY_MAX.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn login(issuer: &str, user: &str) -> anyhow::Result<String> {
    let token = token::fetch(issuer, &token::user_form(user)).await?;
    token.map_err(|refusal| anyhow::anyhow!("the issuer refused {user}: {refusal}"))
}

async fn requests_seen(app: SocketAddr) -> anyhow::Result<u64> {
    let answer = ask::get(app, super::service::SEEN, &[]).await?.json();
    answer["requests"].as_u64().with_context(|| format!("{app} is not an app of the demo"))
}

#[cfg(test)]
mod tests {
    use countersign_policy::{Source, load};

    use super::*;

    #[test]
    fn the_files_load_without_a_problem() {
        let sources = [("mesh.yaml", MESH), ("orders.yaml", ORDERS), ("more.yaml", MORE)];
        let all = load(&sources.map(|(name, text)| Source { name, text })).unwrap();
        assert!(all.warnings.is_empty(), "{:?}", all.warnings);
        let [mesh, orders, _] = sources;
        let day_one = load(&[mesh, orders].map(|(name, text)| Source { name, text })).unwrap();
        assert!(day_one.warnings.is_empty(), "{:?}", day_one.warnings);
    }

    #[test]
    fn the_documentation_holds_the_files_that_run() {
        let page = include_str!("../../../docs/demo.md");
        for (name, text) in [
            ("mesh.yaml", MESH),
            ("orders.yaml", ORDERS),
            ("gateway.yaml", GATEWAY),
            ("side-orders.yaml", SIDE_ORDERS),
        ] {
            assert!(page.contains(text), "docs/demo.md does not hold cli/src/demo/files/{name}");
        }
    }

    #[test]
    fn the_window_never_holds_the_present() {
        assert!(MORE.contains(WINDOW));
        for (now, window) in [
            ("2026-11-21T13:59:59Z", r#"from: "15:00", to: "16:00""#),
            ("2026-11-21T21:30:00Z", r#"from: "23:00", to: "00:00""#),
            ("2026-11-21T22:30:00Z", r#"from: "00:00", to: "01:00""#),
        ] {
            assert_eq!(window_without(now.parse().unwrap()), window);
        }
    }
}
