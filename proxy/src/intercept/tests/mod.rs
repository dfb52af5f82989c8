mod guard;
mod rules;
mod self_test;

use std::path::Path;

use countersign_config::ProxyConfig;

/// A configuration from the fields that matter here.
fn config(fields: &str) -> ProxyConfig {
    let folder = tempfile::tempdir().expect("a folder");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    std::fs::copy(examples.join("mesh.yaml"), folder.path().join("mesh.yaml")).expect("copied");
    let text = format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: ProxyConfig\nspec:\n  \
         identity: {{source: {{workloadApi: {{socket: agent.sock}}}}}}\n  \
         namespace: shop\n  documents: {{files: [mesh.yaml]}}\n{fields}"
    );
    let file = folder.path().join("proxy.yaml");
    std::fs::write(&file, text).expect("written");
    ProxyConfig::load(&file).unwrap_or_else(|problems| panic!("{problems}")).0
}

/// Listeners of a redirected pod.
fn captured(mode: &str) -> String {
    format!(
        "  listeners: {{inbound: [{{address: \"[::]:15006\", mode: {mode}}}], outbound: [{{address: \
         \"127.0.0.1:15001\", mode: redirect}}, {{address: \"[::1]:15001\", mode: redirect}}]}}\n  \
         metrics: {{address: \"[::]:15020\"}}\n"
    )
}
