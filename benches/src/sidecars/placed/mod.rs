//! Pairs, and rows of three, in pods: the client is in the first pod, the server in the last, and
//! between them there may be an app that calls on. Where the client's proxy is a gateway, it listens
//! in the open, of either make; every other connection is captured by the kernel's redirect, which
//! `countersign-proxy init` installs for either make.

mod countersign;
mod envoy;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::process::Proxy;
use super::{Make, Pair, Setting, Variant};
use crate::backend::{Backend, Onward};
use crate::load::{Protocol, Target};
use crate::machine;
use crate::pods::{self, Pod};

/// Where the server and every app listen: what speaks HTTP/1.1, and what speaks HTTP/2. Ours needs
/// one port only, but B of Envoy could not tell what the client spoke to A.
const PORTS: [u16; 2] = [8080, 8081];
/// Where a gateway listens.
const GATEWAY_PORTS: [u16; 2] = [18_080, 18_081];
/// Whom an app in the middle calls.
pub(super) const BILLING: &str = "billing.shop";

/// A row of pods and who plays in it.
struct Row<'a> {
    make: Make,
    variant: Variant,
    setting: &'a Setting,
    pods: Vec<Pod>,
    /// The documents of ours, as a configuration names them.
    documents: Value,
}

/// Starts the proxies of `make` in pods of their own, in front of `server`.
pub(super) fn start(
    make: Make,
    variant: Variant,
    setting: &Setting,
    server: &Backend,
) -> Result<Pair> {
    let pods = pods::row(if variant.has_middle() { 3 } else { 2 })?;
    let calls = Arc::new(AtomicUsize::new(1));
    for (number, pod) in pods.iter().enumerate().skip(1) {
        for port in PORTS {
            let next = pods.get(number + 1);
            let onward = next.map(|next| Onward {
                pod: pod.clone(),
                to: next.at(PORTS[0]),
                host: BILLING,
                calls: Arc::clone(&calls),
            });
            server.serve_at(pod.listen(port)?, onward)?;
        }
    }
    let mut row = Row { make, variant, setting, pods, documents: Value::Null };
    row.documents = countersign::documents(&row)?;
    let started = match make {
        Make::Countersign => countersign::start(&row)?,
        Make::Envoy | Make::EnvoyHttp1 => envoy::start(&row)?,
        Make::Haproxy | Make::Nginx => bail!("{make:?} decides nothing; it is on loopback"),
    };
    let client = row.pods.first().context("a row without pods")?;
    // A of ours mints.
    let tokens = variant.tokens(setting).filter(|_| make != Make::Countersign).cloned();
    let target = |protocol: Protocol| {
        let at = usize::from(protocol != Protocol::H1 && make != Make::Countersign);
        let address = match (variant.mints(), row.pods.get(1)) {
            (false, Some(first)) => first.at(PORTS[at]),
            _ => ([127, 0, 0, 1], GATEWAY_PORTS[at]).into(),
        };
        Target { address, protocol, tokens: tokens.clone(), pod: Some(client.clone()) }
    };
    // The app in the middle speaks HTTP/1.1 only.
    let h2 = if variant.has_middle() { Protocol::H1 } else { Protocol::H2 };
    Ok(Pair {
        proxies: started.proxies,
        h1: target(Protocol::H1),
        h2: target(h2),
        grpc: Target { protocol: Protocol::Grpc, ..target(h2) },
        audit: started.audit,
        calls,
        _pods: row.pods,
    })
}

/// Running proxies, and where they write audit records.
struct Started {
    proxies: Vec<Proxy>,
    audit: Vec<PathBuf>,
}

impl Row<'_> {
    /// The name of a proxy's files.
    fn name(&self, number: usize) -> String {
        let role = ["a", "b", "c"].get(number).copied().unwrap_or("x");
        format!("{}-pod-{:?}-{role}", self.make.name(), self.variant)
    }

    /// Starts a proxy in its pod, as the sidecar's user, on the core of the proxies.
    fn spawn(&self, number: usize, wanted: &Command) -> Result<Proxy> {
        let (name, work) = (self.name(number), self.setting.work.clone());
        let mut command = pods::as_sidecar(wanted, &work)?;
        let cores = self.setting.cores;
        let pod = self.pods.get(number).context("no such pod")?;
        pod.run(move || {
            // What a thread starts is pinned where the thread is.
            machine::pin_thread(cores.proxies)?;
            let started = Proxy::start(&name, &mut command, &work);
            machine::pin_thread(cores.load)?;
            started
        })?
    }

    /// Whether the proxy of a pod captures its traffic.
    fn is_captured(&self, number: usize) -> bool {
        number > 0 || !self.variant.mints()
    }
}

/// The listeners of a sidecar behind the redirect.
fn captured() -> Value {
    json!({
        "inbound": [{"address": "0.0.0.0:15006", "mode": "redirect"}],
        "outbound": [{"address": "127.0.0.1:15001", "mode": "redirect"}],
    })
}
