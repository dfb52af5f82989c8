//! Pods that are replaced while they are called: the order of a rollout, step by step, under load.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_integration::app::status;
use countersign_integration::client::{self, Call};
use countersign_integration::lab::user_claims;
use countersign_integration::load::{Load, Protocol};
use countersign_integration::proxy::Spec;
use countersign_integration::{
    App, Lab, Mesh, Proxy, Tokens, documents, ports, process, programs, wait,
};
use serde_json::{Value, json};
use tokio::sync::watch;

const HOST: &str = "api.example.com";

/// What the promise says; an unoptimised build carries a fifth of it.
const REQUESTS_PER_S: u32 = if cfg!(debug_assertions) { 100 } else { 500 };

/// Longer than documents take to be seen by everybody.
const DRAIN_DELAY_MS: u64 = 2_500;

/// A pod of a service: the app and its sidecar.
struct Pod {
    _app: App,
    sidecar: Proxy,
    control: PathBuf,
}

/// Users → gateway → `orders` (two pods) → `billing` (two pods).
struct Fleet {
    lab: Lab,
    users: Tokens,
    mesh: Mesh,
    files: Vec<PathBuf>,
    /// Pods there have been; names are never used again.
    born: usize,
}

impl Fleet {
    fn new() -> Fleet {
        let lab = Lab::new();
        let users = Tokens::new("login.example.com", "login", lab.ca.leaf("x", "users"));
        let mesh = lab.gateway_mesh(&users);
        let rules = json!([{"name": "mesh", "effect": "allow", "context": "required",
            "match": {"caller": {"anyInMesh": true}}}]);
        let mut fleet = Fleet { files: Vec::new(), lab, users, mesh, born: 0 };
        let access = fleet.lab.write("access.yaml", &documents::access("shop", rules));
        fleet.files = vec![fleet.lab.folder().join("mesh.yaml"), access];
        fleet.publish(&[], &[]);
        fleet
    }

    /// Writes who is where, for everybody to see.
    fn publish(&self, orders: &[Pod], billing: &[Pod]) {
        let mut mesh = self.mesh.clone();
        for (name, pods) in [("orders", orders), ("billing", billing)] {
            let at = pods.first().map_or_else(ports::free, |pod| pod.sidecar.inbound());
            let id = self.lab.id("shop", name);
            mesh = mesh.destination(&format!("shop/{name}"), &format!("{name}.shop"), at, &[&id]);
            let endpoints: Vec<Value> =
                pods.iter().map(|pod| endpoint(pod.sidecar.inbound())).collect();
            if !endpoints.is_empty() {
                let last = mesh.spec["destinations"].as_array_mut().unwrap().last_mut().unwrap();
                last["spec"]["endpoints"] = json!(endpoints);
            }
        }
        self.lab.write("mesh.yaml", &mesh.document());
    }

    /// A new pod of a service, ready to serve.
    async fn pod(&mut self, service: &str) -> Pod {
        self.born += 1;
        let folder = self.lab.folder().join(format!("pod-{}", self.born));
        std::fs::create_dir(&folder).unwrap();
        let (certificate, key) = self.lab.ca.leaf("shop", service).write(&folder, "id");
        let bundle = self.lab.folder().join("bundle.pem");
        let source = json!({"files": {"certificate": certificate, "key": key, "bundle": bundle}});
        let outbound = ports::free();
        let app =
            if service == "orders" { App::relay(outbound, "billing.shop") } else { App::mirror() };
        let control = folder.join("control.sock");
        let files: Vec<&Path> = self.files.iter().map(PathBuf::as_path).collect();
        let spec = Spec::new(&folder, "shop", service, source)
            .inbound(app.address)
            .outbound_at(outbound)
            .documents(&files)
            .limit("DRAIN_DELAY_MS", DRAIN_DELAY_MS)
            .with(|config| config["control"] = json!({"socket": control}));
        Pod { _app: app, sidecar: spec.start().await, control }
    }
}

fn endpoint(at: SocketAddr) -> Value {
    json!({"address": at.ip(), "port": at.port()})
}

/// What the preStop hook does.
async fn drain(socket: PathBuf) -> String {
    let drain = move || {
        let mut command = Command::new(programs::proxy());
        let done = process::run(command.args(["drain", "--socket"]).arg(&socket));
        let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
        said.into_owned()
    };
    tokio::task::spawn_blocking(drain).await.unwrap()
}

impl Pod {
    /// Drain, then the app ends, then the sidecar: the order a pod's end has.
    async fn leave(self) {
        drain(self.control.clone()).await;
        let Pod { _app, sidecar, .. } = self;
        drop(_app);
        sidecar.process.terminate();
        assert_eq!(sidecar.process.ended().await.code(), Some(0), "{}", sidecar.log());
    }
}

/// Every pod of both services is replaced while requests come: not one of them fails.
#[tokio::test]
async fn rolling_restart_loses_no_request() {
    let mut fleet = Fleet::new();
    let mut orders = vec![fleet.pod("orders").await, fleet.pod("orders").await];
    let mut billing = vec![fleet.pod("billing").await, fleet.pod("billing").await];
    fleet.publish(&orders, &billing);
    let files: Vec<&Path> = fleet.files.iter().map(PathBuf::as_path).collect();
    let gateway = fleet.lab.proxy("edge", "gateway").gateway("shop/orders").documents(&files);
    let gateway = gateway.start().await;
    let token = fleet.users.user(&user_claims("alice"));
    let get = move || Call::get(HOST, "/v1/users/alice/orders").bearer(&token);
    wait::until("the first answer", async || {
        (client::call(gateway.gateway(), get()).await.status == 200).then_some(())
    })
    .await;
    let load = |protocol| Load::start(gateway.gateway(), protocol, REQUESTS_PER_S / 2, get.clone());
    let loads = [load(Protocol::Http1), load(Protocol::Http2)];
    for _ in 0..2 {
        let fresh = fleet.pod("orders").await;
        let old = std::mem::replace(&mut orders[0], fresh);
        fleet.publish(&orders, &billing);
        old.leave().await;
        orders.rotate_left(1);
        let fresh = fleet.pod("billing").await;
        let old = std::mem::replace(&mut billing[0], fresh);
        fleet.publish(&orders, &billing);
        old.leave().await;
        billing.rotate_left(1);
    }
    let mut sent = 0;
    for load in loads {
        let outcome = tokio::task::spawn_blocking(|| load.stop()).await.unwrap();
        assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
        sent += outcome.sent;
    }
    eprintln!("{sent} requests, four pods replaced, none failed");
    // The new pods have served: the load did go to them.
    for pod in orders.iter().chain(&billing) {
        assert!(!pod.sidecar.decisions().is_empty());
    }
}

/// A request at the app may need other services until it is answered: the way out stays open as long
/// as somebody from outside waits.
#[tokio::test]
async fn app_can_call_out_until_it_exits() {
    let lab = Lab::new();
    let billing_app = App::mirror();
    let mesh_file = lab.write("billing-mesh.yaml", &lab.mesh().document());
    let access = lab.write("billing-access.yaml", &documents::access("shop", documents::anybody()));
    let billing = lab.proxy("shop", "billing").inbound(billing_app.address);
    let billing = billing.documents(&[&mesh_file, &access]).start().await;
    let (release, held) = watch::channel(false);
    let outbound = ports::free();
    let app = App::serving(move |_| {
        let mut held = held.clone();
        Box::pin(async move {
            let _ = held.wait_for(|released| *released).await;
            let reply = client::call(outbound, Call::get("billing.shop", "/")).await;
            status(reply.status)
        })
    });
    let id = lab.id("shop", "billing");
    let mesh = lab.mesh().destination("shop/billing", "billing.shop", billing.inbound(), &[&id]);
    let control = lab.folder().join("control.sock");
    let orders = lab
        .orders_with(&app, &mesh, documents::anybody(), |spec| {
            let spec = spec.outbound_at(outbound).limit("DRAIN_DELAY_MS", 1);
            spec.with(|config| config["control"] = json!({"socket": control}))
        })
        .await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    let asking = tokio::spawn(async move { peer.send(Call::get("orders.shop", "/")).await });
    wait::until_true("the request at the app", || !app.seen().is_empty()).await;
    // Drained, yet there it is: the drain waits for it, and the app calls out as before.
    let draining = tokio::spawn(drain(control));
    wait::until("the drain", async || {
        let (status, ready) = orders.ready().await?;
        (status == 503 && ready["state"] == "draining").then_some(())
    })
    .await;
    let call_out = async || client::call(outbound, Call::get("billing.shop", "/")).await.status;
    assert_eq!(call_out().await, 200);
    orders.process.terminate();
    wait::until("the listener to close", async || {
        tokio::net::TcpStream::connect(orders.inbound()).await.is_err().then_some(())
    })
    .await;
    assert_eq!(call_out().await, 200, "nobody new comes in, but the app still calls out");
    release.send(true).unwrap();
    assert_eq!(asking.await.unwrap().unwrap().status, 200);
    assert_eq!(orders.process.ended().await.code(), Some(0));
    drop(draining);
}
