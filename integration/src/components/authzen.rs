//! A decision point of tickets and devices that speaks the AuthZEN Authorization API 1.0: no
//! implementation of it installs from the registries of the test-bed, so this one is ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::pki::{Authority, Request};
use crate::process::Process;
use crate::{ports, wait};

/// The bearer token it demands.
const TOKEN: &str = "the-gateway-may-ask";

/// A running decision point.
pub struct DecisionPoint {
    process: Process,
    folder: PathBuf,
    port: u16,
}

impl DecisionPoint {
    /// Starts it in a folder of its own, with a certificate of `ca` for `localhost`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(python: &Path, parent: &Path, ca: &Authority, resources: &Value) -> Self {
        let folder = parent.join("authzen");
        fs::create_dir(&folder).unwrap();
        let (certificate, key) =
            ca.issue(Request::new(&[]).dns("localhost")).write(&folder, "server");
        fs::write(folder.join("token"), TOKEN).unwrap();
        let port = ports::free().port();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/components/authzen.py");
        let mut command = Command::new(python);
        command.arg("-B").arg(script).arg(port.to_string());
        command.arg(certificate).arg(key).arg(&folder).arg(TOKEN);
        let point =
            DecisionPoint { process: Process::start("authzen", command, &folder), folder, port };
        point.knows(resources);
        wait::until_true("the decision point", || point.process.stdout().contains("ready")).await;
        point
    }

    /// `authzen` of an `AttributeProvider` that asks it; `roots` are its authority's.
    pub fn authzen(&self, roots: &Path, timeout: &str) -> Value {
        json!({
            "endpoint": format!("https://localhost:{}/access/v1/evaluation", self.port),
            "auth": {"bearer": {"file": self.folder.join("token")}},
            "roots": roots, "timeout": timeout,
        })
    }

    /// What it knows from now on.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn knows(&self, resources: &Value) {
        self.put("resources.json", &resources.to_string());
    }

    /// How it fails from now on; empty: not at all.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn fails(&self, how: &str) {
        self.put("fault", how);
    }

    /// Every question so far.
    pub fn asked(&self) -> Vec<Value> {
        let text = self.process.stdout();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn put(&self, name: &str, text: &str) {
        let fresh = self.folder.join(format!(".{name}"));
        fs::write(&fresh, text).unwrap();
        fs::rename(&fresh, self.folder.join(name)).unwrap();
    }
}
