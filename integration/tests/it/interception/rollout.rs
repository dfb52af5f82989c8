//! Pods that are replaced while they are called: the order of a rollout, step by step, under load.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use countersign_integration::app::status;
use countersign_integration::client::{self, Call};
use countersign_integration::lab::user_claims;
use countersign_integration::load::{Load, Protocol};
use countersign_integration::netns::{self, Family, Mode, Net};
use countersign_integration::proxy::Spec;
use countersign_integration::{
    App, Lab, Mesh, Proxy, Tokens, documents, ports, process, programs, wait,
};
use serde_json::{Value, json};
use tokio::sync::watch;

const HOST: &str = "api.example.com";

/// What the promise says; unoptimised programs carry a fifth of it.
fn requests_per_s() -> u32 {
    if programs::are_optimised() { 500 } else { 100 }
}

/// Longer than documents take to be seen by everybody.
const DRAIN_DELAY_MS: u64 = 3_500;

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
    // All the load has one address, and a request that waits keeps its connection.
    let gateway = gateway.limit("CONNS_PER_SOURCE_MAX", 5_000);
    let gateway = gateway.start().await;
    let token = fleet.users.user(&user_claims("alice"));
    let get = move || Call::get(HOST, "/v1/users/alice/orders").bearer(&token);
    wait::until("the first answer", async || {
        (client::call(gateway.gateway(), get()).await.status == 200).then_some(())
    })
    .await;
    // One answer tells of one pod; each must know by now where the others are.
    for pod in &orders {
        let log = || pod.sidecar.log();
        wait::until_true("the endpoints", || log().contains("documents in force")).await;
    }
    let load =
        |protocol| Load::start(gateway.gateway(), protocol, requests_per_s() / 2, get.clone());
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

/// The address of a service that no pod has.
const SERVICES: [(&str, &str); 2] = [("orders", "203.0.113.10"), ("billing", "203.0.113.20")];
const PORT: u16 = 8080;

/// A pod in a namespace of its own, redirected.
struct RealPod {
    pod: netns::Pod,
    _app: App,
    sidecar: Proxy,
    control: PathBuf,
}

/// The pods of both services, and what tells everybody where they are.
struct Cluster {
    net: Net,
    lab: Lab,
    pods: [Vec<RealPod>; 2],
    born: usize,
}

impl Cluster {
    /// Writes the endpoints of both services.
    fn publish(&self) {
        let mut mesh = self.lab.mesh();
        for ((name, address), pods) in SERVICES.iter().zip(&self.pods) {
            let endpoints: Vec<Value> =
                pods.iter().map(|pod| endpoint(pod.pod.at(Family::V4, PORT))).collect();
            let spec = json!({
                "hosts": [format!("{name}.shop")], "addresses": [address],
                "ports": [{"port": PORT, "protocol": "http"}], "endpoints": endpoints,
                "peer": {"mesh": {"identities": [self.lab.id("shop", name)]}},
            });
            let entry = json!({"name": name, "namespace": "shop", "spec": spec});
            mesh.spec["destinations"].as_array_mut().unwrap().push(entry);
        }
        self.lab.write("mesh.yaml", &mesh.document());
    }

    fn files(&self) -> [PathBuf; 2] {
        ["mesh.yaml", "access.yaml"].map(|name| self.lab.folder().join(name))
    }

    async fn sidecar(&self, pod: &netns::Pod, service: &str, folder: &Path) -> (Proxy, PathBuf) {
        let (certificate, key) = self.lab.ca.leaf("shop", service).write(folder, "id");
        let bundle = self.lab.folder().join("bundle.pem");
        let source = json!({"files": {"certificate": certificate, "key": key, "bundle": bundle}});
        let control = folder.join("control.sock");
        let files = self.files();
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let spec = Spec::new(folder, "shop", service, source).documents(&files);
        let spec = spec.limit("DRAIN_DELAY_MS", DRAIN_DELAY_MS);
        let spec = spec.with(|config| config["control"] = json!({"socket": control}));
        (spec.in_pod(pod, Mode::Redirect).start().await, control)
    }

    fn folder(&mut self) -> PathBuf {
        self.born += 1;
        let folder = self.lab.folder().join(format!("pod-{}", self.born));
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    /// A new pod of a service; the app of `orders` calls `billing` for each of its answers.
    async fn pod(&mut self, service: usize) -> RealPod {
        let (name, _) = SERVICES[service];
        let folder = self.folder();
        let pod = self.net.pod(&format!("{name}-{}", self.born));
        let (listener, caller) = (pod.listen_all(PORT), pod.clone());
        let app = if service == 0 {
            App::serving_on(listener, move |_| {
                let pod = caller.clone();
                Box::pin(async move {
                    let mut conn = pod.h1(service_address(1)).await?;
                    status(conn.send(Call::get("billing.shop", "/")).await?.status)
                })
            })
        } else {
            App::mirror_on(listener)
        };
        let (sidecar, control) = self.sidecar(&pod, name, &folder).await;
        RealPod { pod, _app: app, sidecar, control }
    }

    /// Replaces one pod of a service: new one first, then everybody learns, then the old one goes.
    async fn replace(&mut self, service: usize) {
        let fresh = self.pod(service).await;
        let old = std::mem::replace(&mut self.pods[service][0], fresh);
        self.pods[service].rotate_left(1);
        self.publish();
        drain(old.control.clone()).await;
        let RealPod { _app, sidecar, .. } = old;
        drop(_app);
        sidecar.process.terminate();
        assert_eq!(sidecar.process.ended().await.code(), Some(0), "{}", sidecar.log());
    }
}

fn service_address(service: usize) -> SocketAddr {
    format!("{}:{PORT}", SERVICES[service].1).parse().unwrap()
}

/// The same with redirected pods, whose apps know nothing of sidecars: kept connections of an app
/// call a service by its address while all its pods, and those behind it, are replaced.
#[tokio::test]
async fn rolling_restart_of_redirected_pods_loses_no_request() {
    let Some(net) = Net::new("rolling_restart_of_redirected_pods") else { return };
    let lab = Lab::new();
    lab.write("access.yaml", &documents::access("shop", documents::anybody()));
    let mut cluster = Cluster { net, lab, pods: [Vec::new(), Vec::new()], born: 0 };
    cluster.publish_nobody();
    for service in [0, 0, 1, 1] {
        let pod = cluster.pod(service).await;
        cluster.pods[service].push(pod);
    }
    cluster.publish();
    let folder = cluster.folder();
    let web = cluster.net.pod("web");
    let (_web, _) = cluster.sidecar(&web, "web", &folder).await;
    wait::until("the first answer", async || {
        let mut conn = web.h1(service_address(0)).await.ok()?;
        let reply = conn.send(Call::get("orders.shop", "/")).await.ok()?;
        (reply.status == 200).then_some(())
    })
    .await;
    // One answer tells of one pod; each must know by now where the others are.
    for pod in cluster.pods.iter().flatten() {
        let log = || pod.sidecar.log();
        wait::until_true("the endpoints", || log().contains("documents in force")).await;
    }
    let (stop, stopped) = watch::channel(false);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (web, stopped) = (web.clone(), stopped.clone());
        callers.spawn(async move {
            let mut conn = web.h1(service_address(0)).await.unwrap();
            let mut answered = 0;
            while !*stopped.borrow() {
                let reply = conn.send(Call::get("orders.shop", "/")).await.unwrap();
                assert_eq!(reply.status, 200, "{}", reply.text());
                answered += 1;
                tokio::time::sleep(Duration::from_millis(1_000 / u64::from(requests_per_s()) * 8))
                    .await;
            }
            answered
        });
    }
    for service in [0, 1, 0, 1] {
        cluster.replace(service).await;
    }
    stop.send(true).unwrap();
    let answered: usize = callers.join_all().await.into_iter().sum();
    eprintln!("{answered} requests, four redirected pods replaced, none failed");
    assert!(answered > 100);
}

impl Cluster {
    /// Documents that know both services and no pod.
    fn publish_nobody(&self) {
        self.lab.write("mesh.yaml", &self.lab.mesh().document());
    }
}
