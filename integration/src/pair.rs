//! Two pods of namespace `shop`, `orders` and `billing`, whose apps listen on port 8080.

use serde_json::Value;

use crate::documents;
use crate::lab::Lab;
use crate::netns::{Mode, Net, Pod};
use crate::proxy::Spec;

/// Two pods on a net of their own, and the authority that names them.
pub struct Pair {
    /// The net.
    pub net: Net,
    /// The authority and its folder.
    pub lab: Lab,
    /// `shop/orders`.
    pub orders: Pod,
    /// `shop/billing`.
    pub billing: Pod,
}

impl Pair {
    /// The app's port.
    pub const PORT: u16 = 8080;

    /// A new one; `None` where this machine has no pods, which is said in the name of `test`.
    ///
    /// # Panics
    /// When the test-bed is required and there are no pods.
    pub fn new(test: &str) -> Option<Pair> {
        let net = Net::new(test)?;
        let (orders, billing) = (net.pod("orders"), net.pod("billing"));
        Some(Pair { net, lab: Lab::new(), orders, billing })
    }

    /// The sidecar of one of the pods, not started: it knows both, and `rules` is what its app lets
    /// in.
    ///
    /// # Panics
    /// When a document cannot be written.
    pub fn sidecar(&self, pod: &Pod, rules: Value, mode: Mode) -> Spec {
        let mut mesh = self.lab.mesh();
        for known in [&self.orders, &self.billing] {
            let id = self.lab.id("shop", known.name());
            let name = format!("shop/{}", known.name());
            mesh = mesh.pod(&name, known, &[(Pair::PORT, "http")], &[&id]);
        }
        let mesh = self.lab.write("mesh.yaml", &mesh.document());
        let access = documents::access("shop", rules);
        let access = self.lab.write(&format!("{}-access.yaml", pod.name()), &access);
        // Tests that break the redirect on purpose need not wait for the next self-test long.
        let spec = self.lab.proxy("shop", pod.name()).limit("SELF_TEST_MS", 200);
        spec.documents(&[&mesh, &access]).in_pod(pod, mode)
    }
}
