//! Our pair with much configured: endpoints of the callee, policies, services, workers. A request
//! touches no more of it than with a small configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::countersign::{self, Addresses, Files, document, rule};
use super::{Pair, Setting, Variant, free_port, write_json};
use crate::machine;
use crate::pki::TRUST_DOMAIN;

/// `AccessPolicy` documents of the callee; with its own, and with the one that changes, 1,000.
const POLICIES: usize = 998;
/// Rules of these: with 20 of its own and the one that changes 10,000.
const RULES: usize = 9_979;
/// `Destination` documents; with the callee's own 10,000.
const SERVICES: usize = 9_999;
/// Endpoints of the callee.
const ENDPOINTS: u16 = 1_000;
/// Documents of one file: a file has a bound of its own.
const PER_FILE: usize = 500;
/// Between two changes of the documents.
const SWAP_EVERY: Duration = Duration::from_secs(1);
/// How long the first of them may take, on a machine that has other things to do.
const FIRST_SWAP_MAX: Duration = Duration::from_secs(30);

/// What is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Data-path threads of each proxy.
    pub(crate) workers: usize,
    /// Whether the callee is at many addresses.
    pub(crate) endpoints: bool,
    /// Whether there are many policies and services.
    pub(crate) large: bool,
    /// Whether both proxies have both cores.
    pub(crate) both_cores: bool,
}

/// What every case differs from in one respect.
pub(crate) const SMALL: Extent =
    Extent { workers: 1, endpoints: false, large: false, both_cores: false };

/// A running pair and the file whose change gives it another set of documents.
pub(crate) struct Scaled {
    pub(crate) pair: Pair,
    changing: PathBuf,
}

impl Scaled {
    /// Starts one on loopback, in explicit mode.
    pub(crate) fn start(variant: Variant, extent: Extent, setting: &Setting) -> Result<Scaled> {
        let own = Setting { work: setting.work.join("scaled"), ..setting.clone() };
        std::fs::create_dir_all(&own.work)?;
        let at = Addresses { a: free_port()?, b: free_port()?, server: setting.server };
        let changing = own.work.join("changing.yaml");
        let files = documents(&own, variant, extent, &at, &changing)?;
        for old in files.audit.iter().filter(|old| old.exists()) {
            std::fs::remove_file(old)?;
        }
        if extent.both_cores {
            machine::spread_thread(setting.cores)?;
        } else {
            machine::pin_thread(setting.cores.proxies)?;
        }
        let started = countersign::start_both(variant, &own, at.a, files);
        machine::pin_thread(setting.cores.load)?;
        let pair =
            started.and_then(|pair| pair.shown(true)).with_context(|| format!("{extent:?}"))?;
        Ok(Scaled { pair, changing })
    }

    /// From now on, until the result is dropped, another set of documents each second. The first
    /// is in force before anything is measured.
    pub(crate) fn swap(&self, variant: Variant) -> Result<Swapping> {
        let (stop, stopped) = mpsc::channel::<()>();
        let path = self.changing.clone();
        let thread = std::thread::Builder::new().name("bench-swap".into()).spawn(move || {
            let mut number = 0;
            while stopped.recv_timeout(SWAP_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                number += 1;
                change(&path, variant, number)?;
            }
            Ok(())
        })?;
        let deadline = Instant::now() + FIRST_SWAP_MAX;
        while self.pair.swaps()? == 0 {
            ensure!(Instant::now() < deadline, "no change of documents came into force");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Swapping { stop, thread })
    }
}

impl Drop for Scaled {
    fn drop(&mut self) {
        // Records of millions of requests, which nobody reads; at worst they stay.
        _ = self.pair.empty_audit();
    }
}

/// A thread that changes documents.
pub(crate) struct Swapping {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Result<()>>,
}

impl Swapping {
    /// Ends it; an error if a change could not be written.
    pub(crate) fn end(self) -> Result<()> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread that changes documents"))?
    }
}

/// Writes all documents of one pair, of which `changing` will change.
fn documents(
    setting: &Setting,
    variant: Variant,
    extent: Extent,
    at: &Addresses,
    changing: &Path,
) -> Result<Files> {
    let files = countersign::documents(setting, variant, at)?;
    change(changing, variant, 0)?;
    let mut more = vec![changing.to_path_buf()];
    if extent.large {
        more.extend(large(&setting.work, variant)?);
    }
    extend(&files, extent, &more, at.b.port())?;
    Ok(files)
}

/// Puts another policy in the place of the one before, in one step.
fn change(path: &Path, variant: Variant, number: usize) -> Result<()> {
    let rules = [other_rule(variant, "changing", &format!("/changing/{number}"))];
    let next = path.with_extension("next");
    write_json(&next, &policy("changing", &rules))?;
    std::fs::rename(&next, path).with_context(|| path.display().to_string())
}

/// Both read more documents, with so many workers; the callee is at more addresses.
fn extend(files: &Files, extent: Extent, more: &[PathBuf], port: u16) -> Result<()> {
    for path in [&files.a, &files.b] {
        let mut config = read(path)?;
        config["spec"]["workers"] = json!(extent.workers);
        if let Value::Array(read) = &mut config["spec"]["documents"]["files"] {
            read.extend(more.iter().map(|path| json!(path)));
        }
        if extent.endpoints && path == &files.b {
            let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            config["spec"]["listeners"]["inbound"] = json!([{"address": everywhere}]);
        }
        write_json(path, &config)?;
    }
    if extent.endpoints {
        let config = read(&files.a)?;
        let mesh = config["spec"]["documents"]["files"][0].as_str().context("no documents")?;
        let mesh = Path::new(mesh);
        let mut document = read(mesh)?;
        let at = |number: u16| json!({"address": address(127, number), "port": port});
        let endpoints: Vec<Value> = (0..ENDPOINTS).map(at).collect();
        document["spec"]["destinations"][0]["spec"]["endpoints"] = json!(endpoints);
        write_json(mesh, &document)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// Policies and services no request is about; their files.
fn large(folder: &Path, variant: Variant) -> Result<Vec<PathBuf>> {
    let policies = (0..POLICIES).map(|number| {
        let share = number * RULES / POLICIES..(number + 1) * RULES / POLICIES;
        let rules: Vec<Value> = share
            .map(|at| other_rule(variant, &format!("r{at}"), &format!("/w{at}/users/{{user}}")))
            .collect();
        policy(&format!("large-{number}"), &rules)
    });
    let documents: Vec<String> =
        policies.chain((0..SERVICES).map(service)).map(|document| document.to_string()).collect();
    let mut files = Vec::new();
    for (number, some) in documents.chunks(PER_FILE).enumerate() {
        let path = folder.join(format!("large-{number}.yaml"));
        std::fs::write(&path, some.join("\n---\n") + "\n")?;
        files.push(path);
    }
    Ok(files)
}

fn policy(name: &str, rules: &[Value]) -> Value {
    let spec = json!({"selector": {"matchLabels": {"app": "orders"}}, "direction": "inbound",
        "rules": rules});
    document("AccessPolicy", json!({"name": name, "namespace": "shop"}), spec)
}

/// A rule that permits none of the requests; one caller in a hundred is that of the requests.
fn other_rule(variant: Variant, name: &str, path: &str) -> Value {
    let caller = if name.ends_with("00") {
        json!({"namespace": "edge", "serviceAccount": "gateway"})
    } else {
        json!({"namespace": "other", "serviceAccount": name})
    };
    rule(variant, name, &caller, path)
}

fn service(number: usize) -> Value {
    let (namespace, name) = (format!("n{}", number % 97), format!("s{number}"));
    let low = u16::try_from(number).unwrap_or(u16::MAX);
    let spec = json!({
        "hosts": [format!("{name}.{namespace}")],
        "ports": [{"port": 8080, "protocol": "http"}],
        "endpoints": [{"address": address(10, low), "port": 8080}],
        "peer": {"mesh": {"identities":
            [format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{name}")]}},
    });
    document("Destination", json!({"name": name, "namespace": namespace}), spec)
}

/// One address for each number, with this first byte. Of 127 all lead to us on Linux.
fn address(first: u8, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(first, 1, high, low).into()
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use countersign_config::ProxyConfig;

    use super::*;
    use crate::machine::Cores;
    use crate::pki::Pki;
    use crate::tokens::{Algorithm, TokenPool};

    #[test]
    fn the_largest_documents_are_accepted_and_have_ten_thousand_rules() {
        let dir = tempfile::tempdir().unwrap();
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let setting = Setting {
            work: dir.path().to_path_buf(),
            cores: Cores::pick().unwrap(),
            pki: Pki::create(dir.path()).unwrap(),
            tokens: Rc::new(TokenPool::sign(Algorithm::Es256).unwrap()),
            ed25519_tokens: Rc::new(TokenPool::sign(Algorithm::Ed25519).unwrap()),
            server: at(2003),
            envoy: None,
            proxy: PathBuf::new(),
        };
        let at = Addresses { a: at(2001), b: at(2002), server: setting.server };
        let extent = Extent { workers: 2, endpoints: true, large: true, both_cores: false };
        let changing = dir.path().join("changing.yaml");
        let files = documents(&setting, Variant::FreshToken, extent, &at, &changing).unwrap();
        for file in [files.a, files.b] {
            let (config, documents) =
                ProxyConfig::load(&file).unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(config.workers, Some(2));
            let rules: usize = documents.access.iter().map(|policy| policy.rules.len()).sum();
            assert_eq!((documents.access.len(), rules), (1_000, 10_000));
            assert_eq!(documents.destinations.len(), 10_000);
        }
    }
}
