//! Baseline: two HAProxies with TLS in both directions and nothing else: no policy, no identity
//! beyond "our CA signed it and the name fits", no record of anything. HTTP/2 between the two, as
//! ours and Envoy's speak it; one thread each, no log.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result};

use super::opaque::Opaque;
use super::process::Proxy;
use super::{Pair, Setting, free_port};
use crate::load::{Protocol, Target};
use crate::pki::{BASELINE_HOST, Leaf, Pki};

/// Starts both proxies. The caller has pinned this thread to the core they shall use.
pub(super) fn start(setting: &Setting) -> Result<Pair> {
    let (a_h1, a_h2, b_h1, b_h2) = (free_port()?, free_port()?, free_port()?, free_port()?);
    let (bind, call) = tls(&setting.pki, " alpn h2")?;
    let mut b = global("http");
    section(&mut b, "h1", (b_h1, &bind), (setting.server, ""));
    section(&mut b, "h2", (b_h2, &bind), (setting.server, " proto h2"));
    let mut a = global("http");
    section(&mut a, "h1", (a_h1, ""), (b_h1, &call));
    section(&mut a, "h2", (a_h2, " proto h2"), (b_h2, &call));
    let target = |address, protocol| Target { address, protocol, tokens: None, pod: None };
    let proxies = vec![process("a", &a, setting)?, process("b", &b, setting)?];
    let (h1, h2) = (target(a_h1, Protocol::H1), target(a_h2, Protocol::H2));
    Ok(Pair::explicit(proxies, h1, h2, Vec::new()))
}

/// Starts both for opaque bytes.
pub(super) fn opaque(setting: &Setting, server: SocketAddr) -> Result<Opaque> {
    let (entry, between) = (free_port()?, free_port()?);
    let (bind, call) = tls(&setting.pki, "")?;
    let mut b = global("tcp");
    section(&mut b, "tcp", (between, &bind), (server, ""));
    let mut a = global("tcp");
    section(&mut a, "tcp", (entry, ""), (between, &call));
    Ok(Opaque { b: process("tcp-b", &b, setting)?, a: process("tcp-a", &a, setting)?, entry })
}

/// What follows `bind` at B and `server` at A. Each wants certificate and key in one file.
fn tls(pki: &Pki, alpn: &str) -> Result<(String, String)> {
    let ca = pki.bundle.display();
    let (bind, call) = (both(&pki.baseline)?, both(&pki.gateway)?);
    let bind = format!(" ssl crt {bind} ca-file {ca} verify required{alpn}");
    let call = format!(
        " ssl crt {call} ca-file {ca} verify required verifyhost {BASELINE_HOST} \
         sni str({BASELINE_HOST}){alpn}"
    );
    Ok((bind, call))
}

fn both(leaf: &Leaf) -> Result<String> {
    let path = leaf.certificate.with_extension("both.pem");
    let text = fs::read_to_string(&leaf.certificate)? + &fs::read_to_string(&leaf.key)?;
    fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    Ok(path.display().to_string())
}

fn global(mode: &str) -> String {
    format!(
        "global\n    nbthread 1\n    maxconn 9000\n    tune.h2.max-concurrent-streams 1000\n    \
         ssl-default-bind-options ssl-min-ver TLSv1.3\n    \
         ssl-default-server-options ssl-min-ver TLSv1.3\n    \
         ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256\n    \
         ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256\n    \
         ssl-default-bind-curves X25519\n\
         defaults\n    mode {mode}\n    timeout connect 5s\n    timeout client 1h\n    \
         timeout server 1h\n    timeout http-request 1h\n"
    )
}

/// One way through: what it listens on, and whom it calls.
fn section(
    text: &mut String,
    name: &str,
    (listen, bind): (SocketAddr, &str),
    (server, call): (SocketAddr, &str),
) {
    let reuse = if name == "tcp" { "" } else { "    http-reuse always\n" };
    let _ = write!(
        text,
        "listen {name}\n    bind {listen}{bind}\n{reuse}    server next {server}{call}\n"
    );
}

fn process(role: &str, config: &str, setting: &Setting) -> Result<Proxy> {
    let name = format!("haproxy-{role}");
    let path = setting.work.join(format!("{name}.cfg"));
    fs::write(&path, config).with_context(|| format!("could not write {}", path.display()))?;
    let mut command = Command::new(super::installed("haproxy")?);
    command.args(["-db", "-q", "-f"]).arg(&path);
    Proxy::start(&name, &mut command, &setting.work)
}
