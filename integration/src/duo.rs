//! Two sidecars with any source of identity: `web` calls `orders`, whose app answers with what it
//! saw. The load of a test enters at the outbound listener of `web`.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{self, Call};
use crate::documents::{self, Mesh};
use crate::load::{Load, Protocol};
use crate::proxy::{Proxy, Spec};
use crate::{App, Reply, ports, wait};

/// The pair.
pub struct Duo {
    /// Behind `orders`.
    pub app: App,
    /// Calls.
    pub web: Proxy,
    /// Is called.
    pub orders: Proxy,
    host: String,
}

/// Requests of both protocols through both sidecars.
pub struct DuoLoad([Load; 2]);

impl Duo {
    /// Both, ready. `identity` gives `spec.identity` of the account `web` or `orders`.
    ///
    /// # Panics
    /// When one does not become ready.
    pub async fn start(
        folder: &Path,
        domain: &str,
        namespace: &str,
        identity: impl Fn(&str) -> Value,
    ) -> Duo {
        let duo = Duo::launch(folder, domain, namespace, identity);
        duo.web.until_ready().await;
        duo.orders.until_ready().await;
        duo
    }

    /// As [`Duo::start`], without waiting.
    ///
    /// # Panics
    /// When a document cannot be written.
    pub fn launch(
        folder: &Path,
        domain: &str,
        namespace: &str,
        identity: impl Fn(&str) -> Value,
    ) -> Duo {
        Duo::launch_with(folder, domain, namespace, identity, |spec| spec)
    }

    /// As [`Duo::launch`]; `change` has the last word about each sidecar.
    ///
    /// # Panics
    /// When a document cannot be written.
    pub fn launch_with(
        folder: &Path,
        domain: &str,
        namespace: &str,
        identity: impl Fn(&str) -> Value,
        change: impl Fn(Spec) -> Spec,
    ) -> Duo {
        Duo::launch_each(folder, domain, namespace, identity, |_, spec| change(spec))
    }

    /// As [`Duo::launch_with`], with the account's name.
    ///
    /// # Panics
    /// When a document cannot be written.
    pub fn launch_each(
        folder: &Path,
        domain: &str,
        namespace: &str,
        identity: impl Fn(&str) -> Value,
        change: impl Fn(&str, Spec) -> Spec,
    ) -> Duo {
        let (app, at_orders) = (App::mirror(), ports::free());
        let host = format!("orders.{namespace}");
        let id = format!("spiffe://{domain}/ns/{namespace}/sa/orders");
        let name = format!("{namespace}/orders");
        let mesh = Mesh::new(domain).destination(&name, &host, at_orders, &[&id]);
        let write = |name: &str, document: Value| {
            let path = folder.join(name);
            std::fs::write(&path, format!("{document:#}")).unwrap();
            path
        };
        let mesh = write("mesh.yaml", mesh.document());
        let access = write("access.yaml", documents::access(namespace, documents::anybody()));
        let spec = |account: &str| {
            let spec = Spec::new(folder, namespace, account, json!(null));
            let spec = spec.with(|config| config["identity"] = identity(account));
            change(account, spec.documents(&[&mesh, &access]))
        };
        let web = spec("web").outbound().launch();
        let orders = spec("orders").inbound_at(at_orders, app.address).launch();
        Duo { app, web, orders, host }
    }

    /// One request of the app beside `web`.
    pub async fn call(&self) -> Reply {
        client::call(self.web.outbound(), Call::get(&self.host, "/v1/orders")).await
    }

    /// `rate` requests a second, half of each protocol.
    pub fn load(&self, rate: u32) -> DuoLoad {
        DuoLoad([Protocol::Http1, Protocol::Http2].map(|protocol| {
            let host = self.host.clone();
            let make = move || Call::get(&host, "/v1/orders");
            Load::start(self.web.outbound(), protocol, rate / 2, make)
        }))
    }

    /// Waits until both sidecars took over this many certificates more.
    ///
    /// # Panics
    /// When they do not within `deadline`.
    pub async fn rotations(&self, more: usize, deadline: Duration) {
        tokio::join!(rotations(&self.web, more, deadline), rotations(&self.orders, more, deadline));
    }
}

impl DuoLoad {
    /// Starts no more requests; how many there were.
    ///
    /// # Panics
    /// When one failed.
    pub async fn stop(self) -> usize {
        let stopped = tokio::task::spawn_blocking(|| self.0.map(Load::stop)).await.unwrap();
        for outcome in &stopped {
            assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
        }
        stopped.iter().map(|outcome| outcome.sent).sum()
    }
}

async fn rotations(proxy: &Proxy, more: usize, deadline: Duration) {
    let (mut last, mut seen) = (expiry(proxy).await, 0);
    wait::until_within(deadline, &format!("{more} rotations"), async || {
        let now = expiry(proxy).await;
        if now > last {
            (last, seen) = (now, seen + 1);
        }
        (seen >= more).then_some(())
    })
    .await;
}

/// When the certificate in force ends.
async fn expiry(proxy: &Proxy) -> f64 {
    proxy.metric("countersign_identity_expires_timestamp_seconds", &[]).await
}
