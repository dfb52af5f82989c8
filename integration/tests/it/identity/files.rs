//! Identities from files, in every layout that is in use, from writers that rotate, stop and err.

mod pod_certificate;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use countersign_integration::client::{self, Call};
use countersign_integration::kubelet_writer::{self, Volume};
use countersign_integration::load::{Load, Protocol};
use countersign_integration::netns::user;
use countersign_integration::openssl::Openssl;
use countersign_integration::pki::Request;
use countersign_integration::proxy::Spec;
use countersign_integration::{
    App, Authority, Lab, Leaf, Proxy, documents, lab, ports, programs, tls, wait,
};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

/// Who writes which files, and how.
#[derive(Clone, Copy, Debug)]
enum Layout {
    /// cert-manager's Secret or CSI driver in a volume; its default encoding of keys.
    CertManager,
    /// Istio's agent with `OUTPUT_CERTS`: the root stands at the end of the chain.
    Istio,
    /// kubelet: PodCertificate and ClusterTrustBundle projections.
    PodCertificate,
    /// spiffe-helper.
    SpiffeHelper,
}

impl Layout {
    /// Certificate, key, trust: names as their writers choose them.
    fn names(self) -> (&'static str, Option<&'static str>, &'static str) {
        match self {
            Layout::CertManager => ("tls.crt", Some("tls.key"), "ca.crt"),
            Layout::Istio => ("cert-chain.pem", Some("key.pem"), "root-cert.pem"),
            Layout::PodCertificate => ("identity.pem", None, "trust.pem"),
            Layout::SpiffeHelper => ("svid.pem", Some("svid_key.pem"), "svid_bundle.pem"),
        }
    }
}

/// The files of one workload.
struct Files {
    layout: Layout,
    volume: Volume,
    folder: PathBuf,
    openssl: PathBuf,
}

impl Files {
    fn new(folder: &Path, layout: Layout, openssl: &Path) -> Files {
        let folder = folder.join(format!("{layout:?}"));
        Files { layout, volume: Volume::new(&folder), folder, openssl: openssl.to_owned() }
    }

    fn source(&self) -> Value {
        let (certificate, key, bundle) = self.layout.names();
        let path = |name: &str| self.volume.path(name);
        let mut files = json!({"certificate": path(certificate), "bundle": path(bundle)});
        if let Some(key) = key {
            files["key"] = json!(path(key));
        }
        json!({"files": files})
    }

    fn write(&self, leaf: &Leaf, trust: &str) {
        let (certificate, key, bundle) = self.layout.names();
        let key = key.unwrap_or_default();
        match self.layout {
            Layout::PodCertificate => {
                let one = format!("{}{}", leaf.key_pem, leaf.chain_pem);
                self.volume.write(&[(certificate, &one), (bundle, trust)]);
            }
            Layout::CertManager => {
                let secret = Openssl::traditional(&self.openssl, &leaf.key_pem);
                self.volume.write(&[
                    (certificate, &leaf.chain_pem),
                    (key, &secret),
                    (bundle, trust),
                ]);
            }
            Layout::SpiffeHelper => {
                let files =
                    [(certificate, &*leaf.chain_pem), (key, &leaf.key_pem), (bundle, trust)];
                kubelet_writer::overwrite(&self.folder, &files);
            }
            Layout::Istio => {
                let chain = format!("{}{trust}", leaf.chain_pem);
                let files = [(key, &*leaf.key_pem), (certificate, &chain), (bundle, trust)];
                kubelet_writer::replace(&self.folder, &files);
            }
        }
    }
}

/// A leaf of `shop/ACCOUNT` that lives this long.
fn leaf(ca: &Authority, account: &str, seconds: u64) -> Leaf {
    ca.issue(Request::new(&[&ca.id("shop", account)]).lives_s(seconds))
}

/// Waits until a proxy uses the certificate that ends then.
async fn uses(proxy: &Proxy, leaf: &Leaf) {
    wait::until("the new certificate", async || {
        let ends = proxy.metric("countersign_identity_expires_timestamp_seconds", &[]).await;
        (ends == leaf.not_after as f64).then_some(())
    })
    .await;
}

/// Two sidecars and an app: plain HTTP to the outbound listener of `orders` comes out at `billing`.
struct Shop {
    lab: Lab,
    app: App,
    orders: Proxy,
    billing: Proxy,
}

impl Shop {
    async fn start(lab: Lab, sources: [Value; 2]) -> Shop {
        let app = App::mirror();
        let at = ports::free();
        let mesh = lab.mesh().destination(
            "shop/billing",
            "billing.shop",
            at,
            &[&lab.id("shop", "billing")],
        );
        let mesh = lab.write("mesh.yaml", &mesh.document());
        let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
        let spec = |account: &str, source| {
            Spec::new(lab.folder(), "shop", account, source).documents(&[&mesh, &access])
        };
        let [of_orders, of_billing] = sources;
        let orders = spec("orders", of_orders).outbound().launch();
        let billing = spec("billing", of_billing).inbound_at(at, app.address).launch();
        orders.until_ready().await;
        billing.until_ready().await;
        Shop { lab, app, orders, billing }
    }

    async fn more_requests(&self, count: usize) {
        let least = self.app.seen().len() + count;
        wait::until_true("requests", || self.app.seen().len() >= least).await;
    }
}

/// Three rotations of both sidecars under load, then a writer that is silent for more than half of
/// a life: nobody notices but the operator.
#[tokio::test]
async fn sidecars_rotate_from_volumes_and_outlive_their_writer() {
    let Some(openssl) = programs::system("files", "openssl") else { return };
    let lab = Lab::new();
    let layouts = [Layout::PodCertificate, Layout::CertManager];
    let files = layouts.map(|layout| Files::new(lab.folder(), layout, &openssl));
    let accounts = ["orders", "billing"];
    let trust = lab.ca.pem().to_owned();
    let issue = |ca: &Authority, seconds: u64| {
        let leaves = accounts.map(|account| leaf(ca, account, seconds));
        for (files, leaf) in files.iter().zip(&leaves) {
            files.write(leaf, &trust);
        }
        leaves
    };
    issue(&lab.ca, 60);
    let shop = Shop::start(lab, [files[0].source(), files[1].source()]).await;
    let proxies = [&shop.orders, &shop.billing];
    let load = Load::start(shop.orders.outbound(), Protocol::Http1, 100, || {
        Call::get("billing.shop", "/v1/orders")
    });
    let stream = Load::start(shop.orders.outbound(), Protocol::Http2, 50, || {
        Call::get("billing.shop", "/v1/orders")
    });
    // The life of the last one is short: its end is waited for, almost.
    for seconds in [50, 40, 28] {
        let leaves = issue(&shop.lab.ca, seconds);
        for (proxy, leaf) in proxies.iter().zip(&leaves) {
            uses(proxy, leaf).await;
        }
        shop.more_requests(100).await;
    }
    for proxy in proxies {
        wait::until_true("the alarm", || {
            let log = proxy.log();
            log.contains("more than 75 % of its life is over") && log.contains("has stopped")
        })
        .await;
    }
    shop.more_requests(20).await;
    let leaves = issue(&shop.lab.ca, 300);
    for (proxy, leaf) in proxies.iter().zip(&leaves) {
        uses(proxy, leaf).await;
    }
    shop.more_requests(100).await;
    for load in [load, stream] {
        let outcome = tokio::task::spawn_blocking(|| load.stop()).await.unwrap();
        assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
        assert!(outcome.sent > 300, "{}", outcome.sent);
    }
}

/// Each layout gives a sidecar an identity that peers accept, and a rotation by its own writer is
/// what the next peer sees.
#[tokio::test]
async fn every_layout_gives_an_identity_and_rotates() {
    let Some(openssl) = programs::system("files", "openssl") else { return };
    for layout in [Layout::CertManager, Layout::Istio, Layout::PodCertificate, Layout::SpiffeHelper]
    {
        let lab = Lab::new();
        let app = App::mirror();
        let files = Files::new(lab.folder(), layout, &openssl);
        let mesh = lab.write("mesh.yaml", &lab.mesh().document());
        let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
        let first = leaf(&lab.ca, "orders", 600);
        files.write(&first, lab.ca.pem());
        let proxy = Spec::new(lab.folder(), "shop", "orders", files.source())
            .documents(&[&mesh, &access])
            .inbound(app.address)
            .start()
            .await;
        assert_eq!(presented(&lab, &proxy).await, first.chain[0], "{layout:?}");
        let reply = lab.call_as("shop", "cart", &proxy, Call::get("orders.shop", "/")).await;
        assert_eq!(reply.status, 200, "{layout:?}");

        let second = leaf(&lab.ca, "orders", 900);
        files.write(&second, lab.ca.pem());
        uses(&proxy, &second).await;
        assert_eq!(presented(&lab, &proxy).await, second.chain[0], "{layout:?}");
        assert!(!proxy.log().contains("identity source failed"), "{layout:?}\n{}", proxy.log());
    }
}

/// The leaf a proxy answers with.
async fn presented(lab: &Lab, proxy: &Proxy) -> CertificateDer<'static> {
    let client = tls::client(Some(&lab.ca.leaf("shop", "cart")), &[tls::MESH_H2]);
    let stream = client::tls_stream(proxy.inbound(), client).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// Everything a writer can do wrong, one after the other: the failure is reported by name, the
/// identity stays, requests go on, and the next good files are taken.
#[tokio::test]
async fn a_faulty_writer_never_takes_a_good_identity_away() {
    let lab = Lab::new();
    let app = App::mirror();
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
    let folder = lab.folder().join("id");
    let path = |name: &str| folder.join(name);
    let write = |leaf: &Leaf, trust: &str| {
        let files = [("tls.key", &*leaf.key_pem), ("tls.crt", &leaf.chain_pem), ("ca.crt", trust)];
        kubelet_writer::replace(&folder, &files);
        for (name, _) in files {
            fs::set_permissions(path(name), Permissions::from_mode(0o644)).unwrap();
        }
    };
    let mut good = leaf(&lab.ca, "orders", 1_000);
    write(&good, lab.ca.pem());
    let source = json!({"files": {
        "certificate": path("tls.crt"), "key": path("tls.key"), "bundle": path("ca.crt"),
    }});
    let spec = Spec::new(lab.folder(), "shop", "orders", source)
        .documents(&[&mesh, &access])
        .inbound(app.address);
    // The modes of files mean nothing to root.
    let spec = match rustix::process::geteuid().is_root() {
        true => spec.as_user(user::SIDECAR),
        false => spec,
    };
    let proxy = spec.start().await;

    let next = leaf(&lab.ca, "orders", 2_000);
    let stranger = Authority::new(lab::DOMAIN);
    let expired = lab.ca.issue(Request::new(&[&lab.id("shop", "orders")]).expired());
    let set = |name: &str, text: &str| fs::write(path(name), text).unwrap();
    let mode = |name: &str, mode| {
        fs::set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
    };
    let faults: [(&str, &dyn Fn()); 8] = [
        ("the private key does not belong to the certificate", &|| set("tls.crt", &next.chain_pem)),
        ("the file is cut off", &|| set("tls.crt", &next.chain_pem[..400])),
        ("the certificate ended at", &|| {
            set("tls.crt", &expired.chain_pem);
            set("tls.key", &expired.key_pem);
        }),
        ("no authority of its trust domain vouches", &|| set("ca.crt", stranger.pem())),
        ("the trust bundle is empty", &|| set("ca.crt", "")),
        ("Permission denied", &|| mode("tls.key", 0o000)),
        ("No such file", &|| fs::rename(&folder, lab.folder().join("gone")).unwrap()),
        ("the private key is empty", &|| set("tls.key", "no key\n")),
    ];
    for (index, (said, fault)) in faults.into_iter().enumerate() {
        let before = proxy.log().len();
        fault();
        wait::until_true(said, || proxy.log()[before..].contains(said)).await;
        let reply = lab.call_as("shop", "cart", &proxy, Call::get("orders.shop", "/")).await;
        assert_eq!(reply.status, 200, "{said}");
        assert_eq!(presented(&lab, &proxy).await, good.chain[0], "{said}");
        let (status, ready) = proxy.ready().await.unwrap();
        assert_eq!(status, 200, "{said}: {ready}");

        good = leaf(&lab.ca, "orders", 3_000 + index as u64);
        write(&good, lab.ca.pem());
        uses(&proxy, &good).await;
    }
}

/// The key comes a second after its certificate: no failure is reported, none happens.
#[tokio::test]
async fn a_pair_written_a_second_apart_is_a_rotation() {
    let lab = Lab::new();
    let app = App::mirror();
    let proxy = lab.orders(&app, |spec| spec).await;
    let mut slow = false;
    for seconds in [1_000, 2_000] {
        let begun = Instant::now();
        let next = leaf(&lab.ca, "orders", seconds);
        let write = |name: &str, text: &str| {
            lab.write_text(&format!("shop.orders.id.{name}"), text);
        };
        write("pem", &next.chain_pem);
        tokio::time::sleep(Duration::from_secs(1)).await;
        write("key", &next.key_pem);
        // After two seconds it is told, and rightly so.
        slow |= begun.elapsed() >= Duration::from_secs(2);
        uses(&proxy, &next).await;
    }
    assert!(slow || !proxy.log().contains("identity source failed"), "{}", proxy.log());
}
