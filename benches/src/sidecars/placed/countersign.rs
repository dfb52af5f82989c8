//! Ours in pods: gateway or sidecar, sidecar, and where an app calls on, one more sidecar.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::super::countersign::{access, document, mesh, process};
use super::super::{Variant, write_json};
use super::{BILLING, GATEWAY_PORTS, PORTS, Row, Started, captured};
use crate::load::HOST;
use crate::pki::{BILLING_ID, GATEWAY_ID, Leaf, ORDERS_ID};

pub(super) fn start(row: &Row<'_>) -> Result<Started> {
    let program = &row.setting.proxy;
    ensure!(program.is_file(), "no proxy at {}", program.display());
    let mut proxies = Vec::new();
    for number in (0..row.pods.len()).rev() {
        let mut command = Command::new(program);
        command.arg("--config").arg(prepare(row, number)?);
        proxies.push(row.spawn(number, &command)?);
    }
    proxies.reverse();
    Ok(Started { proxies, audit: (0..row.pods.len()).map(|number| trail(row, number)).collect() })
}

/// Writes the configuration of a proxy and installs the redirect that it asks for, as a pod's init
/// container does.
pub(super) fn prepare(row: &Row<'_>, number: usize) -> Result<PathBuf> {
    let config = row.setting.work.join(format!("{}.yaml", row.name(number)));
    let mut spec = spec(row, number, &trail(row, number));
    spec["documents"] = row.documents.clone();
    write_json(&config, &document("ProxyConfig", json!({"name": "bench"}), spec))?;
    if let Some(pod) = row.pods.get(number).filter(|_| row.is_captured(number)) {
        pod.redirect(&row.setting.proxy, &config)?;
    }
    Ok(config)
}

/// Where a proxy writes audit records.
fn trail(row: &Row<'_>, number: usize) -> PathBuf {
    row.setting.work.join(format!("{}.audit", row.name(number)))
}

fn spec(row: &Row<'_>, number: usize, trail: &Path) -> Value {
    let (id, account, leaf) = identity(row, number);
    let mut spec = process(leaf, &row.setting.pki, id, trail);
    spec["namespace"] = json!(if number == 0 { "edge" } else { "shop" });
    spec["labels"] = json!({"app": account});
    if row.is_captured(number) {
        spec["listeners"] = captured();
    } else {
        let address = format!("127.0.0.1:{}", GATEWAY_PORTS[0]);
        spec["listeners"] = json!({"gateway": [{"address": address}]});
        spec["gateway"] = json!({"routes": [
            {"host": HOST, "path": {"prefix": "/"}, "destination": "shop/orders"}]});
    }
    spec
}

fn identity<'a>(row: &Row<'a>, number: usize) -> (&'static str, &'static str, &'a Leaf) {
    let pki = &row.setting.pki;
    match number {
        0 if row.variant == Variant::FreshEd25519 => (GATEWAY_ID, "gateway", &pki.gateway_ed25519),
        0 => (GATEWAY_ID, "gateway", &pki.gateway),
        1 => (ORDERS_ID, "orders", &pki.orders),
        _ => (BILLING_ID, "billing", &pki.billing),
    }
}

/// The mesh and its policies, the same for all of a row.
pub(super) fn documents(row: &Row<'_>) -> Result<Value> {
    let file = |name: &str| row.setting.work.join(format!("{}.{name}", row.name(0)));
    let keys = file("jwks.json");
    std::fs::write(&keys, row.setting.tokens.jwks())?;
    let known = [("orders", HOST, ORDERS_ID), ("billing", BILLING, BILLING_ID)];
    let places = row.pods.iter().skip(1).map(|pod| pod.at(PORTS[0]));
    let destinations: Vec<_> = known.into_iter().zip(places).collect();
    let mut files = vec![file("mesh.yaml")];
    write_json(&files[0], &mesh(&destinations, &keys))?;
    let callers = [("edge", "gateway"), ("shop", "orders")];
    for (((account, _, _), _), caller) in destinations.iter().zip(callers) {
        let path = file(&format!("{account}.yaml"));
        write_json(&path, &access(row.variant, account, caller))?;
        files.push(path);
    }
    Ok(json!({"files": files}))
}
