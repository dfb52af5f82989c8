//! One proxy by itself, in the place of B, that says on a page when it is ready.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Setting, Variant, countersign, envoy, free_port};

/// Ours, with its identity from the Workload API at `socket` and `/ready` at `status`.
pub(crate) fn countersign(setting: &Setting, status: SocketAddr, socket: &Path) -> Result<Command> {
    let own = Setting { work: setting.work.join("start"), ..setting.clone() };
    std::fs::create_dir_all(&own.work)?;
    let at = countersign::Addresses { a: free_port()?, b: free_port()?, server: setting.server };
    let path = countersign::documents(&own, Variant::NoToken, &at)?.b;
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["spec"]["identity"]["source"] = json!({"workloadApi": {"socket": socket}});
    config["spec"]["metrics"] = json!({"address": status});
    super::write_json(&path, &config)?;
    countersign::command(&path, setting)
}

/// Envoy, with its identity from files and `/ready` at `status`.
pub(crate) fn envoy(setting: &Setting, status: SocketAddr) -> Result<Command> {
    let ports = [free_port()?, free_port()?];
    let mut config = envoy::inbound(Variant::NoToken, setting, ports);
    config["admin"] = json!({"address": envoy::socket(status)});
    envoy::command("envoy-start", 4705, &config, setting)
}
