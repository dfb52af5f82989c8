//! `countersign dev authority`: an in-memory CA behind the standard SPIFFE Workload API.
//!
//! One Unix socket per workload stands for the attestation a real agent does: who may open the
//! file is the workload. Leaves are short and pushed again at half their life, so rotation is
//! seen within minutes. Never for production: keys are made here and anybody with this user's
//! rights can be any workload.

mod bundle_endpoint;
mod ca;
mod lenient;
mod roots;
mod serve;
#[cfg(test)]
mod tests;
mod tokens;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use countersign_workload_id::{TrustDomain, WorkloadId};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use bundle_endpoint::BundleEndpoint;
pub use ca::{Ca, Issued};
use roots::{Pace, Roots};
use serve::{Current, Offer, Socket};
use tokens::Tokens;

/// Shortest life of a leaf that can be asked for.
const TTL_S_MIN: u64 = 4;
/// Longest life of a leaf that can be asked for.
const TTL_S_MAX: u64 = 24 * 3600;

/// Arguments of `countersign dev authority`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  countersign dev authority --dir /tmp/ids --workload edge/gateway --workload shop/orders --ttl 2m
  SPIFFE_ENDPOINT_SOCKET=unix:///tmp/ids/shop.orders.sock countersign-proxy orders.yaml")]
pub struct AuthorityArgs {
    /// Trust domain of the identities
    #[arg(long, value_name = "NAME", default_value = "demo.test")]
    trust_domain: TrustDomain,
    /// Folder for the sockets, one per workload: DIR/<namespace>.<service account>.sock
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// A workload to serve; repeat for more
    #[arg(long = "workload", value_name = "NAMESPACE/ACCOUNT", required = true)]
    workloads: Vec<String>,
    /// Life of a certificate
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
    /// Push a new certificate this often [default: half of --ttl]
    #[arg(long, value_name = "DURATION", value_parser = parse_rotate)]
    rotate: Option<Duration>,
    /// Serve the trust bundle to other trust domains here, over HTTPS by SPIFFE ID
    #[arg(long, value_name = "ADDRESS")]
    bundle_endpoint: Option<SocketAddr>,
    /// How often those who fetch the bundle should do so
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_rotate)]
    refresh_hint: Duration,
    /// Make a new root this often: published for four refresh hints before it signs
    #[arg(long, value_name = "DURATION", value_parser = parse_rotate)]
    rotate_root: Option<Duration>,
    /// Write the trust bundle (PEM) to this file
    #[arg(long, value_name = "FILE")]
    write_bundle: Option<PathBuf>,
}

/// What an authority serves.
#[derive(Clone, Debug)]
pub struct AuthorityConfig {
    /// Trust domain of the identities.
    pub trust_domain: TrustDomain,
    /// Folder for the sockets; made, for the owner only, if it does not exist.
    pub dir: PathBuf,
    /// Who gets a socket.
    pub workloads: Vec<WorkloadId>,
    /// Life of a leaf.
    pub ttl: Duration,
    /// Time between two leaves of a workload.
    pub rotate: Duration,
}

/// A running authority; dropping it stops it.
pub struct Authority {
    tokens: Arc<Tokens>,
    roots: Arc<Mutex<Roots>>,
    trust_domain: TrustDomain,
    ttl: Duration,
    rotate: Duration,
    dir: PathBuf,
    workloads: BTreeMap<WorkloadId, watch::Sender<Current>>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Authority {
    /// Makes the authority and its sockets and serves them on the current tokio runtime.
    ///
    /// # Errors
    /// When a socket cannot be made, or another authority serves it.
    pub async fn start(config: AuthorityConfig) -> anyhow::Result<Authority> {
        let leaf_s = config.ttl.as_secs();
        Authority::paced(config, Pace { every_s: None, hint_s: 300, leaf_s }).await
    }

    /// As [`Authority::start`], with roots that change at this pace.
    async fn paced(config: AuthorityConfig, pace: Pace) -> anyhow::Result<Authority> {
        let tokens = Arc::new(Tokens::new(config.trust_domain.clone(), unix_now())?);
        let roots = Roots::new(config.trust_domain.clone(), pace, unix_now())?;
        make_folder(&config.dir)?;
        let mut authority = Authority {
            tokens,
            roots: Arc::new(Mutex::new(roots)),
            trust_domain: config.trust_domain,
            ttl: config.ttl,
            rotate: config.rotate,
            dir: config.dir,
            workloads: BTreeMap::new(),
            stop: CancellationToken::new(),
            tasks: Vec::new(),
        };
        for id in config.workloads {
            let socket = Socket::bind(&authority.socket(&id)?).await?;
            let (sender, current) = watch::channel(Some(Arc::new(authority.offer(&id)?)));
            let stop = authority.stop.clone();
            authority.tasks.push(tokio::spawn(socket.serve(current, stop)));
            authority.workloads.insert(id, sender);
        }
        Ok(authority)
    }

    /// The socket of one workload.
    ///
    /// # Errors
    /// When the ID has no namespace and service account.
    pub fn socket(&self, id: &WorkloadId) -> anyhow::Result<PathBuf> {
        let (namespace, account) = id
            .namespace()
            .zip(id.service_account())
            .with_context(|| format!("{id} has no namespace and service account"))?;
        Ok(self.dir.join(format!("{namespace}.{account}.sock")))
    }

    /// The certificate authority that signs now, for tests that need more than sockets.
    pub fn ca(&self) -> Arc<Ca> {
        Arc::clone(bundle_endpoint::lock(&self.roots).active())
    }

    /// Serves the trust bundle at this address, until the authority stops.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn serve_bundle(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let id = bundle_endpoint::id(&self.trust_domain)?;
        let endpoint = BundleEndpoint::bind(address, id, Arc::clone(&self.roots)).await?;
        let stop = self.stop.clone();
        self.tasks.push(tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = endpoint.serve() => {}
            }
        }));
        Ok(())
    }

    /// Issues a new leaf for a workload and pushes it to everybody on its socket.
    ///
    /// # Errors
    /// When the workload is not served here.
    pub fn rotate(&self, id: &WorkloadId) -> anyhow::Result<()> {
        self.push(id).map(|_| ())
    }

    /// Takes the identity of a workload away: its streams end with `PermissionDenied`.
    ///
    /// # Errors
    /// When the workload is not served here.
    pub fn withdraw(&self, id: &WorkloadId) -> anyhow::Result<()> {
        self.set(id, None)
    }

    /// Pushes a new leaf to every workload each rotation period and prints a line for each; never returns while all is well.
    ///
    /// # Errors
    /// When a leaf cannot be issued.
    pub async fn keep_rotating(&self) -> anyhow::Result<()> {
        let mut period = tokio::time::interval(self.rotate);
        period.tick().await;
        let mut look = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = period.tick() => self.rotate_all()?,
                _ = look.tick() => self.turn_roots()?,
            }
        }
    }

    fn rotate_all(&self) -> anyhow::Result<()> {
        for (id, current) in &self.workloads {
            if current.borrow().is_some() {
                let issued = &self.push(id)?.issued;
                let (now, end) = (clock(unix_now()), clock(issued.not_after));
                println!("{now} rotated {id} serial {} ends {end}", issued.serial);
            }
        }
        Ok(())
    }

    /// Does what is due with the roots; every workload hears of it with its next certificate.
    fn turn_roots(&self) -> anyhow::Result<()> {
        loop {
            let turned = bundle_endpoint::lock(&self.roots).turn(unix_now())?;
            let Some(turned) = turned else { return Ok(()) };
            println!("{} root {turned:?}", clock(unix_now()));
            self.rotate_all()?;
        }
    }

    /// Stops serving and removes the sockets.
    pub async fn stop(mut self) {
        self.stop.cancel();
        for task in std::mem::take(&mut self.tasks) {
            let _ = task.await;
        }
    }

    fn offer(&self, id: &WorkloadId) -> anyhow::Result<Offer> {
        let (ca, published) = {
            let roots = bundle_endpoint::lock(&self.roots);
            (Arc::clone(roots.active()), roots.published())
        };
        let issued = ca.issue(id, self.ttl.as_secs(), unix_now())?;
        let bundle: Vec<u8> = published.iter().flat_map(|der| der.iter().copied()).collect();
        Ok(Offer { issued, bundle: bundle.into(), tokens: Arc::clone(&self.tokens) })
    }

    fn push(&self, id: &WorkloadId) -> anyhow::Result<Arc<Offer>> {
        let offer = Arc::new(self.offer(id)?);
        self.set(id, Some(Arc::clone(&offer)))?;
        Ok(offer)
    }

    fn set(&self, id: &WorkloadId, current: Current) -> anyhow::Result<()> {
        let sender = self.workloads.get(id).with_context(|| format!("{id} is not served here"))?;
        sender.send_replace(current);
        Ok(())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.stop.cancel();
        // A task that never ran again would keep its socket file.
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Runs the authority until SIGTERM or Ctrl-C.
///
/// # Errors
/// When the arguments are wrong or a socket cannot be made.
pub fn run(args: AuthorityArgs) -> anyhow::Result<ExitCode> {
    super::refuse_in_kubernetes("dev authority")?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(args))
}

async fn serve(args: AuthorityArgs) -> anyhow::Result<ExitCode> {
    if args.rotate.is_some_and(|rotate| rotate >= args.ttl) {
        bail!("--rotate must be shorter than --ttl, or certificates end before the next one comes");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let workloads = args
        .workloads
        .iter()
        .map(|text| parse_workload(&args.trust_domain, text))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let config = AuthorityConfig {
        trust_domain: args.trust_domain,
        dir: std::path::absolute(&args.dir)?,
        workloads,
        ttl: args.ttl,
        rotate: args.rotate.unwrap_or(args.ttl / 2),
    };
    let pace = Pace {
        every_s: args.rotate_root.map(|every| every.as_secs()),
        hint_s: args.refresh_hint.as_secs(),
        leaf_s: args.ttl.as_secs(),
    };
    if pace.every_s.is_some_and(|every| every < pace.every_s_min()) {
        bail!(
            "--rotate-root must be at least {} s: four refresh hints and the life of a certificate",
            pace.every_s_min()
        );
    }
    let mut authority = Authority::paced(config, pace).await?;
    if let Some(address) = args.bundle_endpoint {
        authority.serve_bundle(address).await?;
        let id = bundle_endpoint::id(&authority.trust_domain)?;
        println!("bundle endpoint https://{address} ({id})");
    }
    if let Some(file) = &args.write_bundle {
        std::fs::write(file, authority.ca().bundle_pem())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    announce(&authority)?;
    let outcome = tokio::select! {
        rotating = authority.keep_rotating() => rotating,
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    authority.stop().await;
    println!("{} dev authority stopped, sockets removed", clock(unix_now()));
    outcome.map(|()| ExitCode::SUCCESS)
}

fn announce(authority: &Authority) -> anyhow::Result<()> {
    eprintln!(
        "dev authority: FOR DEVELOPMENT ONLY. The signing key is in memory and ends with this \
         process;\ndev authority: every process of this user can be any workload below."
    );
    let ttl_s = authority.ttl.as_secs();
    println!(
        "trust domain {}; certificates live {ttl_s} s, new ones every {} s",
        authority.trust_domain,
        authority.rotate.as_secs()
    );
    for id in authority.workloads.keys() {
        println!("  {id}  unix://{}", authority.socket(id)?.display());
    }
    println!("dev authority ready");
    Ok(())
}

fn parse_workload(trust_domain: &TrustDomain, text: &str) -> anyhow::Result<WorkloadId> {
    let Some((namespace, account)) = text.split_once('/') else {
        bail!("--workload {text}: write <namespace>/<service account>, for example shop/orders");
    };
    WorkloadId::new(trust_domain, namespace, account)
        .with_context(|| format!("--workload {text} does not make a SPIFFE ID"))
}

const DURATION_EXAMPLE: &str = "write it like 90s, 2m or 1h";

fn parse_duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration =
        text.parse().map_err(|_| format!("not a duration; {DURATION_EXAMPLE}"))?;
    Duration::try_from(span).map_err(|_| format!("negative; {DURATION_EXAMPLE}"))
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let ttl = parse_duration(text)?;
    if !(TTL_S_MIN..=TTL_S_MAX).contains(&ttl.as_secs()) {
        return Err(format!("out of range: {TTL_S_MIN}s to 24h; {DURATION_EXAMPLE}"));
    }
    Ok(ttl)
}

fn parse_rotate(text: &str) -> Result<Duration, String> {
    let rotate = parse_duration(text)?;
    if rotate < Duration::from_secs(1) {
        return Err(format!("out of range: at least 1s; {DURATION_EXAMPLE}"));
    }
    Ok(rotate)
}

/// Makes the folder for the owner only; one that exists is taken as it is.
fn make_folder(dir: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make the folder {}", dir.display()))
}

fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|since| since.as_secs()).unwrap_or_default()
}

/// Seconds since the Unix epoch as people read them.
fn clock(secs: u64) -> String {
    i64::try_from(secs)
        .ok()
        .and_then(|secs| jiff::Timestamp::from_second(secs).ok())
        .map_or_else(|| secs.to_string(), |time| time.to_string())
}
