//! One `countersign-proxy`: how it is configured, and what it says of itself while it runs.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::{Call, Conn, Reply};
use crate::netns::{Mode, Pod, user};
use crate::process::{Output, Process};
use crate::{documents, ports, programs, wait};

/// A proxy to be started.
#[derive(Clone, Debug)]
pub struct Spec {
    name: String,
    folder: PathBuf,
    config: Value,
    log: String,
    env: Vec<(String, PathBuf)>,
    output: Output,
    inbound: Option<SocketAddr>,
    outbound: Option<SocketAddr>,
    gateway: Option<SocketAddr>,
    pod: Option<Placed>,
    user: Option<u32>,
}

/// A proxy's place in a pod.
#[derive(Clone)]
struct Placed {
    pod: Pod,
    mode: Mode,
    rules: bool,
}

impl std::fmt::Debug for Placed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.pod.name(), self.mode)
    }
}

impl Spec {
    /// A workload of a namespace with its identity source; no listener yet.
    pub fn new(folder: &Path, namespace: &str, account: &str, source: Value) -> Spec {
        let name = format!("{namespace}.{account}");
        let audit = folder.join(format!("{name}.audit"));
        let config = json!({
            "identity": {"source": source},
            "namespace": namespace,
            "labels": {"app": account},
            "listeners": {},
            "documents": {"files": []},
            "admin": {"address": ports::free()},
            "metrics": {"address": ports::free()},
            "workers": 1,
            "audit": {"sink": {"file": audit}, "personalData": "clear"},
        });
        Spec {
            name,
            folder: folder.to_owned(),
            config,
            log: "info".to_owned(),
            env: Vec::new(),
            output: Output::File,
            inbound: None,
            outbound: None,
            gateway: None,
            pod: None,
            user: None,
        }
    }

    /// Runs under this user, on the machine's own network.
    #[must_use]
    pub fn as_user(mut self, uid: u32) -> Spec {
        self.user = Some(uid);
        self
    }

    /// The sidecar of a pod: under UID 4747 and without privileges, behind the redirect that
    /// [`Spec::launch`] installs before it, as an init container does. All traffic of the pod
    /// comes to it; its own pages are on the pod's loopback.
    #[must_use]
    pub fn in_pod(mut self, pod: &Pod, mode: Mode) -> Spec {
        let inbound = match mode {
            Mode::Redirect => "redirect",
            Mode::Tproxy => "tproxy",
        };
        self.config["listeners"]["inbound"] = json!([{"address": "[::]:15006", "mode": inbound}]);
        self.config["listeners"]["outbound"] = json!([
            {"address": "127.0.0.1:15001", "mode": "redirect"},
            {"address": "[::1]:15001", "mode": "redirect"},
        ]);
        self.config["admin"]["address"] = json!("127.0.0.1:15000");
        self.config["metrics"]["address"] = json!("[::]:15020");
        self.pod = Some(Placed { pod: pod.clone(), mode, rules: true });
        self
    }

    /// Leaves the pod's redirect as it is.
    #[must_use]
    pub fn without_rules(mut self) -> Spec {
        if let Some(placed) = &mut self.pod {
            placed.rules = false;
        }
        self
    }

    /// Listens for other sidecars, in front of `app`.
    #[must_use]
    pub fn inbound(self, app: SocketAddr) -> Spec {
        self.inbound_at(ports::free(), app)
    }

    /// Listens for other sidecars at an address that others know already.
    #[must_use]
    pub fn inbound_at(mut self, address: SocketAddr, app: SocketAddr) -> Spec {
        self.config["listeners"]["inbound"] = json!([{"address": address}]);
        self.config["app"] = json!([{"port": address.port(), "address": app}]);
        self.inbound = Some(address);
        self
    }

    /// Listens for its app.
    #[must_use]
    pub fn outbound(self) -> Spec {
        self.outbound_at(ports::free())
    }

    /// Listens for its app at an address that the app knows already.
    #[must_use]
    pub fn outbound_at(mut self, address: SocketAddr) -> Spec {
        self.config["listeners"]["outbound"] = json!([{"address": address}]);
        self.outbound = Some(address);
        self
    }

    /// Listens for the public; everything goes to one destination.
    #[must_use]
    pub fn gateway(mut self, destination: &str) -> Spec {
        let address = ports::free();
        self.config["listeners"]["gateway"] = json!([{"address": address}]);
        self.config["gateway"] =
            json!({"routes": [{"host": "api.example.com", "destination": destination}]});
        self.gateway = Some(address);
        self
    }

    /// Reads these documents.
    #[must_use]
    pub fn documents(mut self, files: &[&Path]) -> Spec {
        self.config["documents"]["files"] = json!(files);
        self
    }

    /// Changes one of the bounds.
    #[must_use]
    pub fn limit(mut self, name: &str, value: u64) -> Spec {
        self.config["limits"][name] = json!(value);
        self
    }

    /// Runs with another log level than `info`.
    #[must_use]
    pub fn log(mut self, level: &str) -> Spec {
        level.clone_into(&mut self.log);
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: PathBuf) -> Spec {
        self.env.push((name.to_owned(), value));
        self
    }

    /// Gives it a pipe that nobody reads as its standard output.
    #[must_use]
    pub fn unread_stdout(mut self) -> Spec {
        self.output = Output::UnreadPipe;
        self
    }

    /// Changes the `spec` of the configuration.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Value)) -> Spec {
        change(&mut self.config);
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it ends or does not become ready.
    pub async fn start(self) -> Proxy {
        let proxy = self.launch();
        proxy.until_ready().await;
        proxy
    }

    /// Starts it and does not wait.
    ///
    /// # Panics
    /// When the configuration cannot be written.
    pub fn launch(self) -> Proxy {
        let file = self.write();
        let mut command = self.command();
        command.arg("--config").arg(&file).current_dir(&self.folder);
        command.env("COUNTERSIGN_LOG", &self.log).env("COUNTERSIGN_LOG_FORMAT", "json");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let process = match &self.pod {
            None => Process::start_with(&self.name, command, &self.folder, self.output),
            Some(placed) => {
                user::open_to_all(&self.folder);
                if placed.rules {
                    placed.pod.redirect(&file);
                }
                Process::start_in(placed.pod.space(), &self.name, command, &self.folder)
            }
        };
        let address = |field: &str| {
            let text = self.config[field]["address"].as_str();
            let given = text.and_then(|text| text.parse::<SocketAddr>().ok());
            let given = given.unwrap_or_else(|| SocketAddr::from(([0; 4], 0)));
            // What listens everywhere is asked on loopback.
            match given.ip().is_unspecified() {
                true => SocketAddr::from(([127, 0, 0, 1], given.port())),
                false => given,
            }
        };
        Proxy {
            process,
            file,
            audit: self.folder.join(format!("{}.audit", self.name)),
            inbound: self.inbound,
            outbound: self.outbound,
            gateway: self.gateway,
            admin: address("admin"),
            metrics: address("metrics"),
            pod: self.pod.map(|placed| placed.pod),
        }
    }

    /// The program under the user it is to run as, without arguments.
    fn command(&self) -> Command {
        let Some(placed) = &self.pod else {
            let Some(user) = self.user else { return Command::new(programs::proxy()) };
            user::open_to_all(&self.folder);
            let program = user::runnable_by_all(&programs::proxy());
            return user::command(&user.to_string(), &[], program);
        };
        // To give a packet another's address takes one privilege.
        let keep: &[&str] = match placed.mode {
            Mode::Redirect => &[],
            Mode::Tproxy => &["net_raw"],
        };
        let program = user::runnable_by_all(&programs::proxy());
        user::command(&user::SIDECAR.to_string(), keep, program)
    }

    /// Writes the configuration and gives the file's path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self) -> PathBuf {
        let file = self.folder.join(format!("{}.yaml", self.name));
        let document = documents::document("ProxyConfig", &self.name, None, self.config.clone());
        fs::write(&file, format!("{document:#}")).unwrap();
        file
    }
}

/// A running proxy.
pub struct Proxy {
    /// The process.
    pub process: Process,
    /// Its configuration file.
    pub file: PathBuf,
    audit: PathBuf,
    inbound: Option<SocketAddr>,
    outbound: Option<SocketAddr>,
    gateway: Option<SocketAddr>,
    admin: SocketAddr,
    metrics: SocketAddr,
    pod: Option<Pod>,
}

impl Proxy {
    /// Where other sidecars call.
    ///
    /// # Panics
    /// When it has no inbound listener.
    pub fn inbound(&self) -> SocketAddr {
        self.inbound.expect("this proxy has no inbound listener")
    }

    /// Where its app calls out.
    ///
    /// # Panics
    /// When it has no outbound listener.
    pub fn outbound(&self) -> SocketAddr {
        self.outbound.expect("this proxy has no outbound listener")
    }

    /// Where the public calls.
    ///
    /// # Panics
    /// When it has no gateway listener.
    pub fn gateway(&self) -> SocketAddr {
        self.gateway.expect("this proxy has no gateway listener")
    }

    /// Waits until `/ready` says yes.
    ///
    /// # Panics
    /// When the process ends instead.
    pub async fn until_ready(&self) {
        wait::until("readiness", || async {
            if let Some(status) = self.process.exit_status() {
                panic!("the proxy ended with {status}\n{}", self.process.tail());
            }
            let answer = self.ready().await;
            answer.filter(|(status, _)| *status == 200).map(|_| ())
        })
        .await;
    }

    /// What `/ready` answers; `None` while nobody listens.
    pub async fn ready(&self) -> Option<(u16, Value)> {
        let reply = self.ask(self.metrics, "/ready").await?;
        Some((reply.status, reply.json()))
    }

    /// The metrics page.
    ///
    /// # Panics
    /// When there is none.
    pub async fn metrics(&self) -> String {
        self.ask(self.metrics, "/metrics").await.expect("no metrics page").text()
    }

    /// The sum of all samples of a metric whose labels contain all of `labels`, such as
    /// `reason="token_expired"`.
    ///
    /// # Panics
    /// When there is no metrics page.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let page = self.metrics().await;
        let samples = page.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (own, own_labels) = series.split_once('{').unwrap_or((series, ""));
            let fits = own == name && labels.iter().all(|label| own_labels.contains(label));
            fits.then(|| value.parse::<f64>().ok()).flatten()
        });
        samples.sum()
    }

    /// Waits until a metric has at least this value.
    ///
    /// # Panics
    /// When it never does.
    pub async fn metric_reaches(&self, name: &str, labels: &[&str], least: f64) {
        let what = format!("{name}{labels:?} >= {least}");
        wait::until(&what, || async { (self.metric(name, labels).await >= least).then_some(()) })
            .await;
    }

    /// Every audit record so far. A line that is still being written is left out.
    pub fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.audit).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The records about requests: decisions, refusals, issues.
    pub fn decisions(&self) -> Vec<Value> {
        let about = |record: &Value| {
            ["decision", "refusal", "issue"].contains(&record["kind"].as_str().unwrap_or_default())
        };
        self.audit().into_iter().filter(about).collect()
    }

    /// The one record of a decision.
    ///
    /// # Panics
    /// When it never comes, or there are two.
    pub async fn record(&self, id: &str) -> Value {
        let mine = || {
            let all = self.audit();
            let about = |record: &Value| record["id"] == id && record["kind"] != "ended";
            all.into_iter().filter(about).collect::<Vec<_>>()
        };
        wait::until_true(&format!("the audit record of {id}"), || !mine().is_empty()).await;
        let mut records = mine();
        assert_eq!(records.len(), 1, "one decision, one record: {records:?}");
        records.remove(0)
    }

    /// The record of the end of something long.
    ///
    /// # Panics
    /// When it never comes.
    pub async fn ended(&self, id: &str) -> Value {
        let mine = || {
            let mut all = self.audit().into_iter();
            all.find(|record| record["id"] == id && record["kind"] == "ended")
        };
        wait::until(&format!("the record of the end of {id}"), || async { mine() }).await
    }

    /// A page of the admin address.
    ///
    /// # Panics
    /// When nobody listens there.
    pub async fn admin(&self, target: &str) -> Reply {
        self.ask(self.admin, target).await.expect("no admin page")
    }

    /// The admin address, for `countersign why`.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// The address of metrics and readiness.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// One GET of a page of its own; `None` if nobody answers.
    async fn ask(&self, address: SocketAddr, target: &str) -> Option<Reply> {
        let conn = match &self.pod {
            None => Conn::h1(address).await,
            Some(pod) => pod.h1(address).await,
        };
        conn.ok()?.send(Call::get(&address.to_string(), target)).await.ok()
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Asks it to read its documents again: SIGHUP.
    pub fn reload(&self) {
        self.process.signal(Signal::HUP);
    }
}
