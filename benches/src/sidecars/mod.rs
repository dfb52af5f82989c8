//! The pairs under test, each two real processes: A takes the client's request and calls B over
//! mTLS, B authenticates A, decides, and calls the server. Same certificates, same number of
//! rules, one worker each.

pub(crate) mod alone;
mod countersign;
mod envoy;
mod haproxy;
mod nginx;
mod opaque;
mod pair;
mod placed;
mod process;
pub(crate) mod scaled;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::load::Protocol;
use crate::tokens::{Algorithm, TokenPool};

pub(crate) use opaque::Opaque;
pub(crate) use pair::{Pair, Setting};
pub(crate) use process::{Proxy, end_with_us};

/// Rules B decides with; only the last one matches.
const RULES: usize = 20;

/// Whose proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Make {
    /// The reference: HTTP/2 between the two, as between ours.
    Envoy,
    /// The same as Istio has it by default: what came as HTTP/1.1 goes on as HTTP/1.1.
    EnvoyHttp1,
    /// Ours.
    Countersign,
    /// TLS in both directions and nothing else.
    Haproxy,
    /// The same, with HTTP/1.1 between the two.
    Nginx,
}

impl Make {
    /// Its name on the command line and in the results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Make::Envoy => "envoy",
            Make::EnvoyHttp1 => "envoy_http1",
            Make::Countersign => "countersign",
            Make::Haproxy => "haproxy",
            Make::Nginx => "nginx",
        }
    }

    /// From its name on the command line.
    pub(crate) fn parse(name: &str) -> Option<Make> {
        let all = [Make::Envoy, Make::EnvoyHttp1, Make::Countersign, Make::Haproxy, Make::Nginx];
        all.into_iter().find(|make| make.name() == name)
    }

    /// Whether it is a baseline that is not installed: a run does without.
    pub(crate) fn is_missing(self) -> bool {
        !self.decides() && installed(self.name()).is_err()
    }

    /// Whether it does the whole job; the others only show what TLS in both directions costs.
    pub(crate) fn decides(self) -> bool {
        matches!(self, Make::Envoy | Make::EnvoyHttp1 | Make::Countersign)
    }
}

/// What authenticates the request beside the certificate of A.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    /// B verifies an ES256 token that no earlier request carried.
    FreshToken,
    /// The same with Ed25519.
    FreshEd25519,
    /// No token; B authenticates A and decides.
    NoToken,
    /// [`Variant::FreshToken`], and the app behind B calls on with the same context; a third proxy
    /// verifies it too.
    Onward,
    /// The same without token.
    OnwardNoToken,
}

impl Variant {
    /// Whether requests carry a token: minted by A of ours, brought by the client of others.
    pub(crate) fn mints(self) -> bool {
        self.algorithm().is_some()
    }

    fn algorithm(self) -> Option<Algorithm> {
        match self {
            Variant::FreshToken | Variant::Onward => Some(Algorithm::Es256),
            Variant::FreshEd25519 => Some(Algorithm::Ed25519),
            Variant::NoToken | Variant::OnwardNoToken => None,
        }
    }

    /// The tokens for pairs that do not mint.
    fn tokens(self, setting: &Setting) -> Option<&Rc<TokenPool>> {
        Some(match self.algorithm()? {
            Algorithm::Es256 => &setting.tokens,
            Algorithm::Ed25519 => &setting.ed25519_tokens,
        })
    }

    /// Whether there is a third proxy, and an app between.
    fn has_middle(self) -> bool {
        matches!(self, Variant::Onward | Variant::OnwardNoToken)
    }

    /// What B speaks to the server: what the client spoke to A, but a gateway's HTTP/2 clients are
    /// browsers, and the app behind still speaks HTTP/1.1.
    pub(crate) fn server_protocol(self, client: Protocol) -> Protocol {
        if self.mints() { Protocol::H1 } else { client }
    }
}

/// Where Debian puts a server: `/usr/sbin` is not in everybody's path.
fn installed(name: &str) -> Result<PathBuf> {
    let folders = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];
    let mut places = folders.into_iter().map(|folder| Path::new(folder).join(name));
    places
        .find(|path| path.is_file())
        .with_context(|| format!("no {name}; `cargo xtask testbed` installs it"))
}

/// Below what the kernel gives to connections that go out, so that none takes a port before its
/// proxy listens.
const PORTS: std::ops::Range<u32> = 20_000..32_000;

/// A loopback port that was free a moment ago, and that no other call has named.
pub(crate) fn free_port() -> Result<SocketAddr> {
    static NAMED: AtomicU32 = AtomicU32::new(0);
    // Processes that run side by side begin at different places.
    let start = std::process::id().wrapping_mul(97);
    for _ in PORTS {
        let at = start.wrapping_add(NAMED.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(PORTS.start + at % (PORTS.end - PORTS.start))?;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return Ok((Ipv4Addr::LOCALHOST, port).into());
        }
    }
    bail!("no port of {PORTS:?} is free")
}

/// Writes a configuration so that a person can read it.
fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
