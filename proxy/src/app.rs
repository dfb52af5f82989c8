//! The composition root: builds every long-lived part and starts every thread.
//!
//! Order: configuration, ports checked, identity, policy, audit, workers; ports serve last.
//! Shutdown is start-up reversed. Invariant: nothing serves before there is an identity, a trust
//! bundle and a policy; a part that fails later leaves the last good state in force.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use countersign_certs_client::federation::Federation;
use countersign_certs_client::{Certs, CertsHandle};
use countersign_config::{
    AuditSink as AuditTo, ListenMode, PersonalData, Propagation as Configured, ProxyConfig, env,
};
use countersign_policy::Documents;
use countersign_policy::doc::OnAuditFull;
use countersign_workload_id::WorkloadId;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::{AdminServer, Condition, Pages, Readiness, WhyRing};
use crate::audit::{
    AuditConfig, AuditSink, AuditWriter, OnFull, Personal, PseudonymKey, Record, Target,
};
use crate::clock::Now;
use crate::context_index::{ContextIndex, Propagation};
use crate::control::{self, Control, Socket};
use crate::federation;
use crate::gateway;
use crate::gateway::attributes::Attributes;
use crate::gateway::callers::review::Reviews;
use crate::gateway::proofs::Proofs;
use crate::gateway::provider_fetch::Fetcher;
use crate::gateway::provider_keys::ProviderKeys;
use crate::gateway::sources::Sources;
use crate::http::serve::Drain;
use crate::identity;
use crate::inbound;
use crate::intercept;
use crate::intercept::{listen, ready, self_test};
use crate::issuers::{self, follow::Follower};
use crate::lifecycle;
use crate::live::{Builder, Live, Snapshot};
use crate::machine;
use crate::outbound;
use crate::random::Random;
use crate::reload::{self, DocumentFiles, Reload, Seen};
use crate::telemetry::Metrics;
use crate::telemetry::logs::{Format, Level, Logs};
use crate::tls::edge::EdgeTls;
use crate::worker::{self, Alive, ConnsMax, Shared, Sockets, Worker};

/// How long start-up waits for the first answers of identity providers; their users would
/// otherwise be refused in the first moments.
const FIRST_KEYS_WAIT: Duration = Duration::from_secs(2);

/// Certificates that nobody renews are good for minutes: somebody must look.
const CERTS_ENDED: &str = "the task that renews certificates has ended";

/// How a run ended other than as asked.
enum Failed {
    /// The configuration cannot be used: exit code 2.
    Invalid(String),
    /// Something broke: exit code 1.
    Broken(String),
}

/// Runs the proxy until a signal ends it.
pub fn run(config: &Path) -> ExitCode {
    machine::small_pages_only();
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Invalid(why)) => {
            eprintln!("{}", why.trim_end());
            ExitCode::from(2)
        }
        Err(Failed::Broken(why)) => {
            eprintln!("{}", why.trim_end());
            ExitCode::FAILURE
        }
    }
}

fn start(file: &Path) -> Result<(), Failed> {
    let files = DocumentFiles::of_file(file);
    let (config, documents) =
        ProxyConfig::load(file).map_err(|problems| Failed::Invalid(problems.to_string()))?;
    let format = Format::from_setting(env::COUNTERSIGN_LOG_FORMAT.get().as_deref());
    let logs = Logs::start(env::COUNTERSIGN_LOG.get().as_deref(), format)
        .map_err(|error| Failed::Invalid(format!("COUNTERSIGN_LOG: {error}")))?;
    probe(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failed::Broken(format!("no runtime: {error}")))?;
    let metrics = Metrics::new(Now::read());
    metrics.attach_log_dropped(logs.dropped());
    let read = (files.with(&documents), Arc::new(documents));
    let ended = runtime.block_on(control(Arc::new(config), read, metrics, logs.level()));
    // After a second signal a thread still waits for the workers; nobody waits for it.
    runtime.shutdown_background();
    ended
}

/// Every port once, without sharing: finds out what is taken before anything starts.
fn probe(config: &ProxyConfig) -> Result<(), Failed> {
    for (purpose, address) in config.own_addresses() {
        listen::probe(address, purpose).map_err(|error| Failed::Invalid(error.to_string()))?;
    }
    Ok(())
}

/// The control thread: everything that is not a request.
async fn control(
    config: Arc<ProxyConfig>,
    (files, documents): (Seen, Arc<Documents>),
    metrics: Metrics,
    level: Level,
) -> Result<(), Failed> {
    let broken = |error: std::io::Error| Failed::Broken(error.to_string());
    let mut ends = Ends::new().map_err(broken)?;
    let readiness = Readiness::new();
    let why = WhyRing::new();
    let personal = personal(&config)?;
    let audited = observe(&readiness, &metrics);
    let mode = intercept::mode(&config);
    let pages = Pages {
        ring: why.clone(),
        readiness: readiness.clone(),
        metrics: metrics.clone(),
        personal: personal.clone(),
        status: Box::new(move || serde_json::json!({"mode": mode})),
    };
    serve_admin(&config, pages).await?;
    let until_served = serve_readiness(&config, &readiness)?;
    let certs = identity::start(&config);
    let Some(first) = first_identity(&certs, &readiness, &mut ends).await? else { return Ok(()) };
    let started = Started { config, files, documents, metrics, readiness, why, personal, certs };
    let mut running = started.bring_up(first).await?;
    drop(until_served);
    _ = audited.set(running.shared.audit.clone());
    running.take_commands(level)?;
    let asked = running.until_end(&mut ends).await?;
    running.shut_down(asked, &mut ends).await
}

/// Says every change of the state of life: metric, log, and once there is one, the audit.
fn observe(readiness: &Readiness, metrics: &Metrics) -> Arc<OnceLock<AuditSink>> {
    let audited: Arc<OnceLock<AuditSink>> = Arc::default();
    let (audit, metrics) = (Arc::clone(&audited), metrics.clone());
    readiness.observe(move |old, new| {
        metrics.process().lifecycle(new);
        tracing::info!(old = old.text(), new = new.text(), "state");
        if let Some(audit) = audit.get() {
            let (old, new) = (Some(old.text().into()), Some(new.text().into()));
            audit.record(Record::control(Now::read(), "lifecycle".into(), old, new));
        }
    });
    audited
}

/// What exists once there is an identity.
struct Started {
    config: Arc<ProxyConfig>,
    files: Seen,
    documents: Arc<Documents>,
    metrics: Metrics,
    readiness: Readiness,
    why: WhyRing,
    personal: Personal,
    certs: CertsHandle,
}

/// A proxy that serves.
struct Running {
    shared: Shared,
    metrics: Metrics,
    readiness: Readiness,
    certs: CertsHandle,
    reload: Reload,
    federation: Federation,
    issuer_keys: Follower,
    provider_keys: ProviderKeys,
    edges: Edges,
    workers: Vec<JoinHandle<()>>,
    audit_writer: AuditWriter,
    certs_ended: bool,
    /// Commands from the control socket that this thread carries out.
    asked: (mpsc::Sender<control::Reload>, mpsc::Receiver<control::Reload>),
    /// Answers on the control socket.
    control: Option<AbortOnDrop>,
}

/// A task that ends with its handle.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Started {
    /// Policy, audit and keys; ports last.
    async fn bring_up(self, first: Arc<Certs>) -> Result<Running, Failed> {
        let Started { config, files, documents, metrics, readiness, why, personal, certs } = self;
        let mut builder = Builder::new(Arc::clone(&config));
        let snapshot = builder
            .build(&documents, &first)
            .map_err(|error| Failed::Invalid(error.to_string()))?;
        readiness.met(Condition::Policy);
        reload::warn_of(&documents, &first);
        let self_id = first.identity.as_ref().map(|me| me.id.clone());
        let self_id = self_id.ok_or_else(|| Failed::Broken("the identity vanished".to_owned()))?;
        let (audit, audit_writer) = start_audit(&config, &documents, &self_id, &metrics, personal)?;
        let provider_keys = first_keys(&snapshot).await;
        let shared = Shared {
            live: Arc::new(Live::new(snapshot)),
            propagation: propagation(&config),
            contexts: Arc::new(ContextIndex::new(
                config.limits.context_index_entries_max,
                config.limits.context_grace_ms_max,
            )),
            audit: audit.clone(),
            readiness: readiness.clone(),
            probes: Arc::default(),
            why,
            provider_keys: provider_keys.reader(),
            published: builder.issuer_keys.own().published(),
            reviews: Reviews::start(),
            attributes: Attributes::start(),
            token_rates: Arc::default(),
            proofs: Arc::new(Proofs::new(&Random::new().bytes())),
            redeemed: Arc::default(),
            once: Arc::default(),
            sources: Arc::new(Sources::new(config.limits.conns_per_source_max)),
            tag: tag(&self_id),
            conns_per_worker_max: conns_per_worker(&config),
            drain: Drain::new(Arc::clone(&config)),
            drain_outbound: Drain::new(Arc::clone(&config)),
            entering: Arc::new(AtomicUsize::new(worker_count(&config))),
            failed: Arc::default(),
            config,
        };
        let issuer_keys = Follower::start(&shared.live, issuers::followed(&documents));
        let edges = edge_listeners(&shared.config)?;
        let workers = start_workers(&shared, &metrics, &edges)?;
        readiness.met(Condition::Listeners);
        announce(&shared.config, &self_id, &documents, workers.len());
        let live = Arc::clone(&shared.live);
        let federation = federation::start(&shared.config.limits, &documents);
        let state = (documents, files, first);
        let reload = Reload::new(live, builder, state, readiness.clone(), metrics.clone(), audit);
        Ok(Running {
            shared,
            metrics,
            readiness,
            certs,
            reload,
            federation,
            issuer_keys,
            provider_keys,
            edges,
            workers,
            audit_writer,
            certs_ended: false,
            asked: mpsc::channel(1),
            control: None,
        })
    }
}

/// The keys of identity providers, as far as they answer at once.
async fn first_keys(snapshot: &Snapshot) -> ProviderKeys {
    let mut provider_keys = ProviderKeys::new(Fetcher::new());
    if !snapshot.providers().is_empty() {
        provider_keys.set_providers(snapshot.providers());
        provider_keys.first_attempts(FIRST_KEYS_WAIT).await;
    }
    provider_keys
}

fn propagation(config: &ProxyConfig) -> Propagation {
    Propagation {
        handle: config.propagation.contains(&Configured::Handle),
        traceparent: config.propagation.contains(&Configured::Traceparent),
        token: config.propagation.contains(&Configured::Token),
    }
}

impl Running {
    /// Serves the control socket, if there is to be one.
    fn take_commands(&mut self, level: Level) -> Result<(), Failed> {
        let Some(path) = &self.shared.config.control else { return Ok(()) };
        let socket = Socket::bind(path)
            .map_err(|error| Failed::Invalid(format!("control: {}: {error}", path.display())))?;
        let control = Control {
            drain: self.shared.drain.clone(),
            readiness: self.readiness.clone(),
            metrics: self.metrics.clone(),
            level,
            reload: self.asked.0.clone(),
        };
        self.control = Some(AbortOnDrop(tokio::spawn(control::serve(socket, control))));
        Ok(())
    }

    /// Watches everything that can change until something ends the process; says which signal, or
    /// nothing when a part of it broke.
    async fn until_end(&mut self, ends: &mut Ends) -> Result<Option<Asked>, Failed> {
        let hangup = signal(SignalKind::hangup());
        let mut hangup = hangup.map_err(|error| Failed::Broken(error.to_string()))?;
        let mut status = self.certs.status();
        let mut updates = self.certs.certs();
        self.reload.identity_status(&status.borrow_and_update());
        let mut fetched = self.federation.fetched();
        let mut issuer_keys = self.issuer_keys.fetched();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut renewing = true;
        loop {
            tokio::select! {
                asked = ends.asked() => return Ok(Some(asked)),
                () = self.shared.drain.cancelled() => return Ok(None),
                _ = hangup.recv() => self.reload.read_again(None),
                Some(answer) = self.asked.1.recv() => self.reload.read_again(Some(answer)),
                outcome = self.reload.read() => self.reload.take(outcome),
                changed = updates.changed(), if renewing => {
                    let certs = Arc::clone(&updates.borrow_and_update());
                    if changed.is_ok() { self.reload.certs(certs) } else { renewing = false }
                }
                changed = status.changed(), if renewing => {
                    let status = status.borrow_and_update();
                    if changed.is_ok() { self.reload.identity_status(&status) } else { renewing = false }
                }
                Ok(()) = fetched.changed() => {
                    let fetched = Arc::clone(&fetched.borrow_and_update());
                    self.reload.federated(&fetched);
                }
                Ok(()) = issuer_keys.changed() => {
                    let fetched = Arc::clone(&issuer_keys.borrow_and_update());
                    self.reload.issuer_keys(&fetched);
                }
                _ = tick.tick() => self.look_around(renewing),
            }
            if let Some(documents) = self.reload.take_federation_change() {
                self.federation.follow(federation::endpoints(&documents));
                self.issuer_keys.follow(issuers::followed(&documents));
            }
            if let Some(snapshot) = self.reload.take_provider_change() {
                self.provider_keys.set_providers(snapshot.providers());
            }
        }
    }

    /// Once a second: files, key ages, contexts whose grace is over, freed memory.
    fn look_around(&mut self, renewing: bool) {
        self.reload.look();
        self.reload.own_keys();
        self.reload.provider_status(&self.shared.provider_keys.status());
        refresh_edges(&self.edges);
        self.shared.contexts.sweep(Now::read());
        self.shared.live.let_go();
        machine::give_back_freed();
        if !renewing && !std::mem::replace(&mut self.certs_ended, true) {
            tracing::error!(code = "ID-09", "{CERTS_ENDED}");
        }
        if self.certs_ended {
            self.readiness.missing(Condition::Identity, CERTS_ENDED);
        }
    }

    /// Start-up reversed: ports first, audit last. A second signal cuts it short.
    async fn shut_down(self, asked: Option<Asked>, ends: &mut Ends) -> Result<(), Failed> {
        // A gateway's load balancer needs a moment to learn of it, unless it was told to drain
        // before; a sidecar's app is gone.
        let announce = asked == Some(Asked::Terminate)
            && !self.shared.config.gateway.is_empty()
            && !self.shared.drain.is_leaving();
        let (readiness, stop) = (self.readiness.clone(), lifecycle::Asked::Stop);
        readiness.ask(if announce { lifecycle::Asked::Drain } else { stop });
        self.reload.stop();
        // Nobody else who asks is left without an answer until the drain is over.
        drop(self.asked);
        let workers = self.workers;
        let joined = tokio::task::spawn_blocking(move || join(workers));
        let drained = async {
            if announce {
                let delay = self.shared.config.limits.drain_delay_ms;
                tokio::time::sleep(Duration::from_millis(delay)).await;
                readiness.ask(stop);
            }
            self.shared.drain.cancel();
            joined.await.unwrap_or_default();
        };
        tokio::select! {
            () = drained => {}
            _ = ends.asked() => tracing::warn!(code = "DP-07", "a second signal ends the drain"),
        }
        self.provider_keys.stop().await;
        let (old, new) = (Some("stopping".into()), Some("stopped".into()));
        self.shared.audit.record(Record::control(Now::read(), "lifecycle".into(), old, new));
        self.audit_writer.stop();
        tracing::info!("stopped");
        if self.shared.failed.load(Ordering::Relaxed) {
            return Err(Failed::Broken("the data path broke; see the log".to_owned()));
        }
        Ok(())
    }
}

fn join(workers: Vec<JoinHandle<()>>) {
    for worker in workers {
        // A panic has been noted by the worker itself, on its way out.
        let _ = worker.join();
    }
}

/// Which signal ends the process: an orchestrator's, or that of somebody who waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Terminate,
    Interrupt,
}

/// The signals that end the process.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn new() -> std::io::Result<Ends> {
        Ok(Ends {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn asked(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Terminate,
            _ = self.interrupt.recv() => Asked::Interrupt,
        }
    }
}

/// Serves admin and metrics from now on, so that `/ready` can say what start-up waits for.
async fn serve_admin(config: &ProxyConfig, pages: Pages) -> Result<(), Failed> {
    let taken = |address, error| Failed::Invalid(format!("cannot listen on {address}: {error}"));
    let server = AdminServer::new(pages);
    if let Some(address) = config.admin {
        let listener = TcpListener::bind(address).await.map_err(|error| taken(address, error))?;
        let server = server.clone();
        tokio::spawn(async move {
            if let Err(error) = server.serve_admin(listener, std::future::pending()).await {
                tracing::error!(code = "AD-01", %error, "the admin pages are not served");
            }
        });
    }
    if let Some(address) = config.metrics {
        let listener = TcpListener::bind(address).await.map_err(|error| taken(address, error))?;
        tokio::spawn(server.serve_metrics(listener, std::future::pending()));
    }
    Ok(())
}

/// Answers for the workers until they are there.
fn serve_readiness(
    config: &ProxyConfig,
    readiness: &Readiness,
) -> Result<Option<AbortOnDrop>, Failed> {
    let Some(address) = config.readiness else { return Ok(None) };
    let socket =
        listen::bind(address, "readiness").map_err(|error| Failed::Invalid(error.to_string()))?;
    Ok(Some(AbortOnDrop(tokio::spawn(ready::serve(socket, readiness.clone())))))
}

/// Waits for the first good identity; `None` if a signal came first. Until then `/ready` says what
/// the source is waiting for.
async fn first_identity(
    certs: &CertsHandle,
    readiness: &Readiness,
    ends: &mut Ends,
) -> Result<Option<Arc<Certs>>, Failed> {
    let mut updates = certs.certs();
    let mut status = certs.status();
    let ended = |_| Failed::Broken(CERTS_ENDED.to_owned());
    loop {
        let current = Arc::clone(&updates.borrow_and_update());
        if current.identity.is_some() && !current.bundles.is_empty() {
            readiness.met(Condition::Identity);
            readiness.met(Condition::Trust);
            return Ok(Some(current));
        }
        let text = status.borrow_and_update().to_string();
        readiness.missing(Condition::Identity, text.clone());
        readiness.missing(Condition::Trust, text.clone());
        tracing::info!(status = text, "waiting for an identity");
        tokio::select! {
            changed = updates.changed() => changed.map_err(ended)?,
            changed = status.changed() => changed.map_err(ended)?,
            _ = ends.asked() => return Ok(None),
        }
    }
}

/// Keys shorter than this could be guessed, and with them every pseudonym.
const PSEUDONYM_KEY_BYTES_MIN: usize = 32;

fn personal(config: &ProxyConfig) -> Result<Personal, Failed> {
    let file = match &config.audit.personal_data {
        PersonalData::Clear => return Ok(Personal::Clear),
        PersonalData::Pseudonyms(None) => {
            let key: [u8; 32] = Random::new().bytes();
            return Ok(Personal::Pseudonyms(PseudonymKey::new(&key)));
        }
        PersonalData::Pseudonyms(Some(file)) => file,
    };
    let invalid =
        |why: String| Failed::Invalid(format!("audit.pseudonymKeyFile: {}: {why}", file.display()));
    let key = std::fs::read(file).map_err(|error| invalid(error.to_string()))?;
    if key.len() < PSEUDONYM_KEY_BYTES_MIN {
        let why = format!("{} bytes, at least {PSEUDONYM_KEY_BYTES_MIN} are needed", key.len());
        return Err(invalid(why));
    }
    Ok(Personal::Pseudonyms(PseudonymKey::new(&key)))
}

fn start_audit(
    config: &ProxyConfig,
    documents: &Documents,
    self_id: &WorkloadId,
    metrics: &Metrics,
    personal: Personal,
) -> Result<(AuditSink, AuditWriter), Failed> {
    let target = match &config.audit.sink {
        AuditTo::Stdout => Target::Stdout,
        AuditTo::File(path) => Target::File(path.clone()),
    };
    let described = format!("{target:?}");
    let mut audit = AuditConfig::new(target, personal, self_id.clone());
    audit.on_full = match documents.mesh.on_audit_full {
        OnAuditFull::Gap => OnFull::Gap,
        OnAuditFull::Refuse => OnFull::Refuse,
    };
    let (sink, writer) = AuditSink::start(audit, Now::read(), Random::new().bytes())
        .map_err(|error| Failed::Invalid(format!("audit: cannot write to {described}: {error}")))?;
    metrics.attach_audit(sink.stats());
    Ok((sink, writer))
}

/// The 16 bits in decision ids that lead `why` to this proxy.
fn tag(self_id: &WorkloadId) -> u16 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self_id.as_str().as_bytes());
    match digest.as_ref() {
        [high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => 0,
    }
}

fn worker_count(config: &ProxyConfig) -> usize {
    let set = env::COUNTERSIGN_WORKERS.get().and_then(|text| text.parse().ok());
    config.workers.or(set).unwrap_or_else(machine::workers).max(1)
}

fn conns_per_worker(config: &ProxyConfig) -> ConnsMax {
    let nofile = machine::raise_nofile();
    let all = config.limits.conns_max_in_force(machine::memory_limit(), nofile);
    let entering = !config.inbound.is_empty() || !config.gateway.is_empty();
    let leaving = !config.outbound.is_empty() || !config.local.is_empty();
    ConnsMax::share(all.div_ceil(worker_count(config)), entering, leaving)
}

type Edges = Vec<Arc<gateway::accept::Listener>>;

fn edge_listeners(config: &ProxyConfig) -> Result<Edges, Failed> {
    let load = |listener: &countersign_config::GatewayListener| {
        let provider = crate::tls::provider(&config.tls_groups);
        let load = |files| EdgeTls::load(files, provider.clone());
        let tls = listener.tls.clone().map(load).transpose();
        let tls = tls.map_err(|error| Failed::Invalid(error.to_string()))?;
        Ok(Arc::new(gateway::accept::Listener { config: listener.clone(), tls }))
    };
    config.gateway.iter().map(load).collect()
}

fn refresh_edges(edges: &Edges) {
    for edge in edges {
        let Some(tls) = &edge.tls else { continue };
        match tls.refresh() {
            Ok(true) => tracing::info!(listener = %edge.config.address, "new public certificate"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(code = "ED-01", %error, "public certificate not taken over");
            }
        }
    }
}

fn start_workers(
    shared: &Shared,
    metrics: &Metrics,
    edges: &Edges,
) -> Result<Vec<JoinHandle<()>>, Failed> {
    let mut threads = Vec::new();
    for number in 0..worker_count(&shared.config) {
        let sockets = sockets(&shared.config, edges)?;
        let (shared, metrics) = (shared.clone(), metrics.clone());
        let thread = std::thread::Builder::new().name(format!("worker-{number}"));
        let thread = thread.spawn(move || {
            let alive = Alive::new(shared.clone());
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let worker = std::rc::Rc::new(Worker::new(shared, metrics.worker(number)));
                    runtime.block_on(async {
                        if number == 0 {
                            self_test::start(&worker.shared, metrics);
                        }
                        worker::run(worker, sockets, alive).await;
                    });
                }
                Err(error) => {
                    tracing::error!(code = "DP-06", %error, "a worker could not start");
                    shared.fail();
                }
            }
        });
        threads.push(thread.map_err(|error| Failed::Broken(format!("no thread: {error}")))?);
    }
    Ok(threads)
}

fn sockets(config: &ProxyConfig, edges: &Edges) -> Result<Sockets, Failed> {
    let bind = |address, purpose| {
        listen::bind(address, purpose).map_err(|error| Failed::Invalid(error.to_string()))
    };
    let mut sockets = Sockets::default();
    for listener in &config.inbound {
        let port = listener.address.port();
        if !listener.mode.is_captured() && !config.app_answers(port) {
            let why = format!("no `app` address for the inbound port {port}");
            return Err(Failed::Invalid(why));
        }
        let socket = match listener.mode {
            ListenMode::Tproxy => listen::bind_transparent(listener.address, "listeners.inbound")
                .map_err(|error| Failed::Invalid(error.to_string()))?,
            ListenMode::Explicit | ListenMode::Redirect => {
                bind(listener.address, "listeners.inbound")?
            }
        };
        let listener = inbound::accept::Listener {
            address: listener.address,
            mode: listener.mode,
            trust_domains: listener.trust_domains.clone(),
        };
        sockets.inbound.push((socket, listener));
    }
    for listener in &config.outbound {
        let socket = bind(listener.address, "listeners.outbound")?;
        let bound_to = listener.destination.as_ref().map(ToString::to_string);
        let mode = listener.mode;
        let listener = outbound::accept::Listener { address: listener.address, mode, bound_to };
        sockets.outbound.push((socket, listener));
    }
    for address in &config.local {
        sockets.local.push(bind(*address, "local")?);
    }
    if let Some(address) = config.readiness {
        sockets.readiness = Some(bind(address, "readiness")?);
    }
    for edge in edges {
        sockets.gateway.push((bind(edge.config.address, "listeners.gateway")?, Arc::clone(edge)));
    }
    Ok(sockets)
}

fn announce(config: &ProxyConfig, self_id: &WorkloadId, documents: &Documents, workers: usize) {
    let policies: Vec<_> = documents
        .access
        .iter()
        .map(|policy| format!("{}/{}", policy.namespace, policy.name))
        .collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        identity = %self_id,
        mode = intercept::mode(config),
        workers,
        policies = policies.join(","),
        config = %config.file.display(),
        "ready"
    );
}
