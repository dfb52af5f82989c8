//! Ours as sidecars of an app that speaks no HTTP: B authenticates A, decides and audits each
//! connection.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::json;

use super::Opaque;
use crate::pki::{GATEWAY_ID, ORDERS_ID, TRUST_DOMAIN};
use crate::sidecars::countersign::{command, document, process};
use crate::sidecars::process::Proxy;
use crate::sidecars::{Setting, free_port, write_json};

/// Starts both.
pub(super) fn start(setting: &Setting, server: SocketAddr) -> Result<Opaque> {
    let (entry, between) = (free_port()?, free_port()?);
    let file = |name: &str| setting.work.join(format!("countersign-tcp-{name}"));
    let (mesh_file, access_file) = (file("mesh.yaml"), file("access.yaml"));
    let orders = json!({
        "hosts": ["orders.shop"],
        "ports": [{"port": between.port(), "protocol": "tcp"}],
        "endpoints": [{"address": between.ip(), "port": between.port()}],
        "peer": {"mesh": {"identities": [ORDERS_ID]}},
    });
    let mesh = json!({"trustDomain": TRUST_DOMAIN,
        "destinations": [{"name": "orders", "namespace": "shop", "spec": orders}]});
    write_json(&mesh_file, &document("MeshConfig", json!({"name": "default"}), mesh))?;
    let caller = json!({"namespace": "edge", "serviceAccount": "gateway"});
    let access = json!({"selector": {"matchLabels": {"app": "orders"}}, "direction": "inbound",
        "rules": [{"name": "bytes", "effect": "allow",
            "match": {"caller": {"anyOf": [caller]}, "tcp": {"any": true}}}]});
    let name = json!({"name": "bench", "namespace": "shop"});
    write_json(&access_file, &document("AccessPolicy", name, access))?;
    let read = json!({"files": [mesh_file, access_file]});

    let pki = &setting.pki;
    let mut a = process(&pki.gateway, pki, GATEWAY_ID, &file("a.audit"));
    a["namespace"] = json!("edge");
    a["labels"] = json!({"app": "gateway"});
    a["documents"] = read.clone();
    a["listeners"] = json!({"outbound": [{"address": entry, "destination": "shop/orders"}]});
    let mut b = process(&pki.orders, pki, ORDERS_ID, &file("b.audit"));
    b["namespace"] = json!("shop");
    b["labels"] = json!({"app": "orders"});
    b["documents"] = read;
    b["listeners"] = json!({"inbound": [{"address": between}]});
    b["app"] = json!([{"port": between.port(), "address": server, "protocol": "tcp"}]);
    write_json(&file("a.yaml"), &document("ProxyConfig", json!({"name": "a"}), a))?;
    write_json(&file("b.yaml"), &document("ProxyConfig", json!({"name": "b"}), b))?;
    let start = |role: &str| {
        let mut command = command(&file(&format!("{role}.yaml")), setting)?;
        Proxy::start(&format!("countersign-tcp-{role}"), &mut command, &setting.work)
    };
    Ok(Opaque { b: start("b")?, a: start("a")?, entry })
}
