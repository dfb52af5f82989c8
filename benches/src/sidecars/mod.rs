//! The pairs under test, each two real processes: A takes the client's request and calls B over
//! mTLS, B authenticates A, decides, and calls the server. Same certificates, same number of
//! rules, one worker each.

mod countersign;
mod envoy;
mod process;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::load::{Protocol, Target, probe};
use crate::machine::{self, Cores};
use crate::pki::Pki;
use crate::tokens::TokenPool;
use process::Proxy;

/// How long a pair may take until its first request succeeds.
const READY_MAX: Duration = Duration::from_secs(15);
/// Rules B decides with; only the last one matches.
const RULES: usize = 20;

/// Whose proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// The reference.
    Envoy,
    /// Ours.
    Countersign,
}

/// What authenticates the request beside the certificate of A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// B verifies an ES256 token that no earlier request carried.
    FreshToken,
    /// No token; B authenticates A and decides.
    NoToken,
}

/// What all pairs of a run have in common.
pub(crate) struct Setting {
    /// Configurations, keys and logs go here.
    pub(crate) work: PathBuf,
    /// The cores to use.
    pub(crate) cores: Cores,
    /// Certificates of both workloads.
    pub(crate) pki: Pki,
    /// Tokens for the pair that does not mint its own.
    pub(crate) tokens: Rc<TokenPool>,
    /// The server behind B.
    pub(crate) server: SocketAddr,
}

/// Two running proxies.
pub(crate) struct Pair {
    /// Whose.
    pub(crate) make: Make,
    a: Proxy,
    b: Proxy,
    h1: Target,
    h2: Target,
}

impl Pair {
    /// Starts both proxies and waits until a request of either protocol succeeds.
    pub(crate) fn start(make: Make, context: Variant, setting: &Setting) -> Result<Pair> {
        machine::pin_thread(setting.cores.proxies)?;
        let started = match make {
            Make::Envoy => envoy::start(context, setting),
            Make::Countersign => countersign::start(context, setting),
        };
        machine::pin_thread(setting.cores.load)?;
        let mut pair = started?;
        pair.wait_until_ready()
            .with_context(|| format!("the {make:?} pair ({context:?}) is not ready"))?;
        Ok(pair)
    }

    /// Where to send load of a protocol.
    pub(crate) fn target(&self, protocol: Protocol) -> &Target {
        match protocol {
            Protocol::H1 => &self.h1,
            Protocol::H2 => &self.h2,
        }
    }

    /// Both processes.
    pub(crate) fn pids(&self) -> [u32; 2] {
        [self.a.pid(), self.b.pid()]
    }

    /// Resident memory of both, in mebibytes.
    pub(crate) fn resident_mb(&self) -> Result<f64> {
        let mut bytes = 0;
        for pid in self.pids() {
            bytes += machine::resident_bytes(pid)?;
        }
        Ok(bytes as f64 / f64::from(1 << 20))
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_MAX;
        for target in [&self.h1, &self.h2] {
            while let Err(error) = probe(target) {
                self.a.check_alive()?;
                self.b.check_alive()?;
                if Instant::now() > deadline {
                    return Err(error.context(format!("{}{}", self.a.tail(), self.b.tail())));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

/// A loopback port that was free a moment ago.
fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("could not find a free port")?;
    Ok(listener.local_addr()?)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
