//! Two running proxies and what they were started with.

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::process::Proxy;
use super::{Make, Variant, countersign, envoy, haproxy, nginx, placed};
use crate::backend::Backend;
use crate::load::{Protocol, Target, probe, status};
use crate::machine::{self, Cores};
use crate::pki::Pki;
use crate::pods::Pod;
use crate::tokens::TokenPool;

/// How long a pair may take until its first request succeeds.
pub(super) const READY_MAX: Duration = Duration::from_secs(15);
/// How long audit records may take after the last answer.
const RECORDED_MAX: Duration = Duration::from_secs(5);

/// What all pairs of a run have in common.
#[derive(Clone)]
pub(crate) struct Setting {
    /// Configurations, keys and logs go here.
    pub(crate) work: PathBuf,
    /// The cores to use.
    pub(crate) cores: Cores,
    /// Certificates of both workloads.
    pub(crate) pki: Pki,
    /// Tokens for the pair that does not mint its own.
    pub(crate) tokens: Rc<TokenPool>,
    /// The same, of another algorithm.
    pub(crate) ed25519_tokens: Rc<TokenPool>,
    /// The server behind B.
    pub(crate) server: SocketAddr,
    /// Envoy's executable; `None`: the test-bed's.
    pub(crate) envoy: Option<PathBuf>,
    /// The executable of countersign-proxy.
    pub(crate) proxy: PathBuf,
}

/// Two running proxies.
pub(crate) struct Pair {
    /// In the order of the path.
    pub(super) proxies: Vec<Proxy>,
    pub(super) h1: Target,
    pub(super) h2: Target,
    pub(super) grpc: Target,
    /// Audit records, in files that grow with every request.
    pub(super) audit: Vec<PathBuf>,
    /// How often the app behind B calls on for each request, if it does.
    pub(super) calls: Arc<AtomicUsize>,
    /// Where they are; they end with their pods.
    pub(super) _pods: Vec<Pod>,
}

impl Pair {
    /// Starts the proxies in pods of their own, in front of `server`, and waits until a request of
    /// either protocol succeeds.
    pub(crate) fn start_in_pods(
        make: Make,
        variant: Variant,
        setting: &Setting,
        server: &Backend,
    ) -> Result<Pair> {
        placed::start(make, variant, setting, server)
            .and_then(|pair| pair.shown(make.decides()))
            .with_context(|| format!("the {make:?} pair ({variant:?}) in pods"))
    }

    /// Starts both proxies on loopback, in explicit mode, and waits in the same way.
    pub(crate) fn start(make: Make, variant: Variant, setting: &Setting) -> Result<Pair> {
        machine::pin_thread(setting.cores.proxies)?;
        let started = match make {
            _ if variant.has_middle() => bail!("{variant:?} needs pods"),
            Make::Envoy | Make::EnvoyHttp1 => envoy::start(make, variant, setting),
            Make::Countersign => countersign::start(variant, setting),
            Make::Haproxy => haproxy::start(setting),
            Make::Nginx => nginx::start(setting),
        };
        machine::pin_thread(setting.cores.load)?;
        started
            .and_then(|pair| pair.shown(make.decides()))
            .with_context(|| format!("the {make:?} pair ({variant:?})"))
    }

    /// The pair, once it is ready and has shown that it does its job, if that is to decide.
    pub(super) fn shown(mut self, decides: bool) -> Result<Pair> {
        self.wait_until_ready().context("it is not ready")?;
        if decides {
            self.check_refusals().context("it does not do its job")?;
        }
        Ok(self)
    }

    /// From now on the app behind B calls on so often for each request.
    pub(crate) fn call_on(&self, times: usize) {
        self.calls.store(times, Ordering::Relaxed);
    }

    /// Proxies on loopback.
    pub(super) fn explicit(
        proxies: Vec<Proxy>,
        h1: Target,
        h2: Target,
        audit: Vec<PathBuf>,
    ) -> Pair {
        let grpc = Target { protocol: Protocol::Grpc, ..h2.clone() };
        Pair { proxies, h1, h2, grpc, audit, calls: Arc::default(), _pods: Vec::new() }
    }

    /// Where to send load of a protocol.
    pub(crate) fn target(&self, protocol: Protocol) -> &Target {
        match protocol {
            Protocol::H1 => &self.h1,
            Protocol::H2 => &self.h2,
            Protocol::Grpc => &self.grpc,
        }
    }

    /// All processes, in the order of the path.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.proxies.iter().map(Proxy::pid).collect()
    }

    /// Resident memory of all, in mebibytes.
    pub(crate) fn resident_mb(&self) -> Result<f64> {
        let mut bytes = 0;
        for pid in self.pids() {
            bytes += machine::resident_bytes(pid)?;
        }
        Ok(bytes as f64 / f64::from(1 << 20))
    }

    /// A pair that keeps audit records is measured only if it does: whoever stands before the server
    /// has one at least of each request that was `served` since the files were last emptied.
    pub(crate) fn check_audit(&self, served: u64) -> Result<()> {
        let Some(last) = self.audit.last() else { return Ok(()) };
        let deadline = Instant::now() + RECORDED_MAX;
        loop {
            // They are written behind the answers.
            let recorded = lines(last)?;
            if recorded >= served {
                return self.empty_audit();
            }
            ensure!(
                Instant::now() < deadline,
                "{recorded} audit records of {served} requests in {}",
                last.display()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// How many audit records speak of another set of documents in force, at all proxies.
    pub(crate) fn swaps(&self) -> Result<usize> {
        let mut swaps = 0;
        for path in &self.audit {
            let text = std::fs::read_to_string(path)?;
            swaps += text.lines().filter(|line| line.contains(r#""documents""#)).count();
        }
        Ok(swaps)
    }

    /// Empties the audit files, so that a run needs no more disk than one case writes. The files
    /// are open for appending, so whoever writes them goes on at the new end.
    pub(crate) fn empty_audit(&self) -> Result<()> {
        for path in self.audit.iter().filter(|path| path.exists()) {
            File::options().write(true).truncate(true).open(path)?;
        }
        Ok(())
    }

    /// A pair that lets everything through is not measured: no rule permits DELETE, and where the
    /// client brings the token, there is no way in without one.
    fn check_refusals(&self) -> Result<()> {
        let refused = status(&self.h1, "DELETE")?;
        ensure!(refused == 403, "DELETE, which no rule permits, was answered {refused}");
        if self.h1.tokens.is_some() {
            let bare = Target { tokens: None, ..self.h1.clone() };
            let refused = status(&bare, "GET")?;
            ensure!(refused == 401, "a request without token was answered {refused}");
        }
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_MAX;
        for target in [&self.h1, &self.h2] {
            while let Err(error) = probe(target) {
                for proxy in &mut self.proxies {
                    proxy.check_alive()?;
                }
                if Instant::now() > deadline {
                    let tails: String = self.proxies.iter().map(Proxy::tail).collect();
                    return Err(error.context(tails));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

/// How many lines a file has.
fn lines(path: &Path) -> Result<u64> {
    let mut file = File::open(path).with_context(|| format!("no {}", path.display()))?;
    let (mut part, mut lines) = (vec![0; 1 << 16], 0);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(lines),
            read => lines += part.iter().take(read).filter(|byte| **byte == b'\n').count() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_that_records_less_than_it_serves_is_not_measured() {
        let dir = tempfile::tempdir().unwrap();
        let audit = dir.path().join("b.audit");
        std::fs::write(&audit, "{}\n{}\n").unwrap();
        let at = |protocol| {
            let address = ([127, 0, 0, 1], 1).into();
            Target { address, protocol, tokens: None, pod: None }
        };
        let (h1, h2) = (at(Protocol::H1), at(Protocol::H2));
        let pair = Pair::explicit(Vec::new(), h1, h2, vec![audit.clone()]);
        assert!(pair.check_audit(3).is_err());
        pair.check_audit(2).unwrap();
        assert_eq!(lines(&audit).unwrap(), 0, "emptied for the next case");
    }
}
