//! Envoys in pods, as a mesh places them: the kernel leads connections to two listeners, which find
//! the address that was dialled (`original_dst`); the outbound one hands the connection to the
//! listener of that port, the inbound one has a filter chain for each.

use anyhow::Result;
use serde_json::{Value, json};

use super::super::Make;
use super::super::envoy::{
    TLS_DOWN, TLS_UP, alpn, cluster, command, http_chain, inbound_filters, listener, router, tls,
};
use super::{GATEWAY_PORTS, PORTS, Row, Started, countersign};
use crate::load::Protocol;
use crate::pki::{BILLING_ID, GATEWAY_ID, Leaf, ORDERS_ID};

const TLS_INSPECTOR: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
const ORIGINAL_DST: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
const TCP_PROXY: &str =
    "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const PROTOCOLS: [Protocol; 2] = [Protocol::H1, Protocol::H2];

pub(super) fn start(row: &Row<'_>) -> Result<Started> {
    let mut proxies = Vec::new();
    for number in (0..row.pods.len()).rev() {
        // The redirect is that of ours.
        countersign::prepare(row, number)?;
        let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
        if number > 0 {
            inbound(row, number, &mut listeners, &mut clusters);
        }
        if number + 1 < row.pods.len() {
            outbound(row, number, &mut listeners, &mut clusters);
        }
        let config = json!({"static_resources": {"listeners": listeners, "clusters": clusters}});
        let base_id = 4710 + u32::try_from(number)?;
        let command = command(&row.name(number), base_id, &config, row.setting)?;
        proxies.push(row.spawn(number, &command)?);
    }
    proxies.reverse();
    Ok(Started { proxies, audit: Vec::new() })
}

/// A listener that takes what the kernel leads to it.
fn captured(name: &str, address: &str, chains: Vec<Value>, filters: Vec<Value>) -> Value {
    let (ip, port) = address.split_once(':').unwrap_or((address, "0"));
    let port: u16 = port.parse().unwrap_or_default();
    json!({"name": name, "filter_chains": chains, "listener_filters": filters,
        "address": {"socket_address": {"address": ip, "port_value": port}}})
}

fn original_dst() -> Value {
    json!({"name": "envoy.filters.listener.original_dst", "typed_config": {"@type": ORIGINAL_DST}})
}

fn inbound(row: &Row<'_>, number: usize, listeners: &mut Vec<Value>, clusters: &mut Vec<Value>) {
    let (own, caller) = match number {
        1 => (&row.setting.pki.orders, GATEWAY_ID),
        _ => (&row.setting.pki.billing, ORDERS_ID),
    };
    let mut chains = Vec::new();
    for (protocol, port) in PROTOCOLS.into_iter().zip(PORTS) {
        let name = format!("app-{port}");
        let jwks = row.variant.tokens(row.setting).map(|tokens| tokens.jwks());
        let filters = inbound_filters(jwks, caller);
        let down = tls(TLS_DOWN, &row.setting.pki, own, caller, &["h2", "http/1.1"]);
        let mut chain = http_chain(&name, filters, Some(down));
        chain["filter_chain_match"] = json!({"destination_port": port});
        chains.push(chain);
        let app = ([127, 0, 0, 1], port).into();
        clusters.push(cluster(&name, app, row.variant.server_protocol(protocol), None));
    }
    let inspector = json!({"name": "envoy.filters.listener.tls_inspector",
        "typed_config": {"@type": TLS_INSPECTOR}});
    listeners.push(captured("inbound", "0.0.0.0:15006", chains, vec![original_dst(), inspector]));
}

fn outbound(row: &Row<'_>, number: usize, listeners: &mut Vec<Value>, clusters: &mut Vec<Value>) {
    let (own, callee): (&Leaf, _) = match number {
        0 => (&row.setting.pki.gateway, ORDERS_ID),
        _ => (&row.setting.pki.orders, BILLING_ID),
    };
    let Some(next) = row.pods.get(number + 1) else { return };
    for (at, protocol) in PROTOCOLS.into_iter().enumerate() {
        let name = format!("next-{}", PORTS[at]);
        let between = match row.make {
            Make::EnvoyHttp1 => protocol,
            _ => Protocol::H2,
        };
        let up = tls(TLS_UP, &row.setting.pki, own, callee, &[alpn(between)]);
        clusters.push(cluster(&name, next.at(PORTS[at]), between, Some(up)));
        if row.is_captured(number) {
            let any = ([0, 0, 0, 0], PORTS[at]).into();
            let mut one = listener(&name, any, vec![router()], None);
            one["bind_to_port"] = json!(false);
            listeners.push(one);
        } else {
            let gateway = ([127, 0, 0, 1], GATEWAY_PORTS[at]).into();
            listeners.push(listener(&name, gateway, vec![router()], None));
        }
    }
    if row.is_captured(number) {
        let elsewhere = json!({"filters": [{"name": "envoy.filters.network.tcp_proxy",
            "typed_config": {"@type": TCP_PROXY, "stat_prefix": "other", "cluster": "nowhere"}}]});
        let mut outbound =
            captured("outbound", "127.0.0.1:15001", vec![elsewhere], vec![original_dst()]);
        outbound["use_original_dst"] = json!(true);
        listeners.push(outbound);
        clusters.push(json!({"name": "nowhere", "type": "STATIC", "connect_timeout": "1s"}));
    }
}
