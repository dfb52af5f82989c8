//! Two Envoys as TCP proxies with mTLS: A expects B's SPIFFE ID, B admits A's by RBAC.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};

use super::Opaque;
use crate::pki::GATEWAY_ID;
use crate::sidecars::envoy::{command, socket, tls_down, tls_up, transport_socket};
use crate::sidecars::process::Proxy;
use crate::sidecars::{Setting, free_port};

const TCP_PROXY: &str =
    "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const NETWORK_RBAC: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";

/// Starts both.
pub(super) fn start(setting: &Setting, server: SocketAddr) -> Result<Opaque> {
    let (entry, between) = (free_port()?, free_port()?);
    let (mut down, mut up) = (tls_down(&setting.pki), tls_up(&setting.pki));
    for context in [&mut down, &mut up] {
        context["common_tls_context"]["alpn_protocols"] = json!(["bench/tcp"]);
    }
    let b = config((between, Some(down)), (server, None), vec![rbac(), tcp_proxy()]);
    let a = config((entry, None), (between, Some(up)), vec![tcp_proxy()]);
    let start = |name: &str, base_id: u32, config: &Value| {
        Proxy::start(name, &mut command(name, base_id, config, setting)?, &setting.work)
    };
    Ok(Opaque { b: start("envoy-tcp-b", 4704, &b)?, a: start("envoy-tcp-a", 4703, &a)?, entry })
}

fn config(
    (listen, down): (SocketAddr, Option<Value>),
    (server, up): (SocketAddr, Option<Value>),
    filters: Vec<Value>,
) -> Value {
    let mut chain = json!({"filters": filters});
    if let Some(tls) = down {
        chain["transport_socket"] = transport_socket(tls);
    }
    let mut cluster = json!({
        "name": "next", "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "next", "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": socket(server)}}]}]},
    });
    if let Some(tls) = up {
        cluster["transport_socket"] = transport_socket(tls);
    }
    json!({"static_resources": {
        "listeners": [{"name": "tcp", "address": socket(listen), "filter_chains": [chain]}],
        "clusters": [cluster],
    }})
}

fn rbac() -> Value {
    let policy = json!({
        "permissions": [{"any": true}],
        "principals": [{"authenticated": {"principal_name": {"exact": GATEWAY_ID}}}],
    });
    json!({"name": "envoy.filters.network.rbac", "typed_config": {"@type": NETWORK_RBAC,
        "stat_prefix": "tcp", "rules": {"action": "ALLOW", "policies": {"caller": policy}}}})
}

fn tcp_proxy() -> Value {
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config":
        {"@type": TCP_PROXY, "stat_prefix": "tcp", "cluster": "next"}})
}
