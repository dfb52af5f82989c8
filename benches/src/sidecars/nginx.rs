//! Baseline: two nginx with TLS in both directions and nothing else: no policy, no identity beyond
//! "our CA signed it and the name fits", no access log. nginx speaks HTTP/1.1 to whatever is behind
//! it, so this pair has HTTP/1.1 between the two and is measured with HTTP/1.1 only.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::process::Proxy;
use super::{Pair, Setting, free_port};
use crate::load::{Protocol, Target};
use crate::pki::{BASELINE_HOST, Pki};

/// Idle connections each keeps to whom it calls; more than any case has.
const KEPT: usize = 256;

/// Starts both proxies. The caller has pinned this thread to the core they shall use.
pub(super) fn start(setting: &Setting) -> Result<Pair> {
    let (entry, between) = (free_port()?, free_port()?);
    let bind = bind_tls(&setting.pki);
    let b = process("b", (between, " ssl", &bind), (setting.server, "http", ""), setting)?;
    let call = call_tls(&setting.pki);
    let a = process("a", (entry, "", ""), (between, "https", &call), setting)?;
    let target = |protocol| Target { address: entry, protocol, tokens: None, pod: None };
    let (h1, h2) = (target(Protocol::H1), target(Protocol::H1));
    Ok(Pair::explicit(vec![a, b], h1, h2, Vec::new()))
}

fn bind_tls(pki: &Pki) -> String {
    format!(
        "ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {};
        ssl_verify_client on; ssl_protocols TLSv1.3; ssl_ecdh_curve X25519;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;",
        pki.baseline.certificate.display(),
        pki.baseline.key.display(),
        pki.bundle.display(),
    )
}

fn call_tls(pki: &Pki) -> String {
    format!(
        "proxy_ssl_certificate {}; proxy_ssl_certificate_key {};
        proxy_ssl_trusted_certificate {}; proxy_ssl_verify on; proxy_ssl_name {BASELINE_HOST};
        proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;
        proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;",
        pki.gateway.certificate.display(),
        pki.gateway.key.display(),
        pki.bundle.display(),
    )
}

/// Starts one of the two: where it listens, and whom it calls, each with what TLS needs.
fn process(
    role: &str,
    (listen, option, bind): (SocketAddr, &str, &str),
    (server, scheme, call): (SocketAddr, &str, &str),
    setting: &Setting,
) -> Result<Proxy> {
    let name = format!("nginx-{role}");
    let folder = setting.work.join(&name);
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    let text = format!(
        "daemon off; master_process off; pid {pid}; error_log stderr warn;
events {{ worker_connections 9000; }}
worker_rlimit_nofile 20000;
http {{
    access_log off; tcp_nodelay on;
    keepalive_requests 1000000000; keepalive_timeout 1h;
{folders}    upstream next {{
        server {server}; keepalive {KEPT}; keepalive_requests 1000000000; keepalive_timeout 1h;
    }}
    server {{
        listen {listen}{option};
        {bind}
        location / {{
            proxy_pass {scheme}://next; proxy_http_version 1.1;
            proxy_set_header Connection \"\"; proxy_set_header Host $host;
            {call}
        }}
    }}
}}
",
        pid = folder.join("pid").display(),
        folders = folders(&folder),
    );
    let path = folder.join("nginx.conf");
    fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    let mut command = Command::new(super::installed("nginx")?);
    command.arg("-e").arg("stderr").arg("-p").arg(&folder).arg("-c").arg(&path);
    Proxy::start(&name, &mut command, &setting.work)
}

/// Its temporary folders, which are compiled in as folders of the system.
fn folders(folder: &Path) -> String {
    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {};\n", folder.join(kind).display()))
        .concat()
}
