//! An authority that answers nonsense, is away, or takes back what it gave: a sidecar in front of
//! it, and a peer that sees nothing of it until the identity is really gone.

use countersign_certs_client::source::workload_api::wire::X509SvidResponse;
use countersign_integration::client::{self, Call, Conn};
use countersign_integration::pki::Request;
use countersign_integration::proxy::Spec;
use countersign_integration::workload_api::{WorkloadApi, message};
use countersign_integration::{App, Authority, Lab, Proxy, documents, tls, wait};
use serde_json::json;
use tonic::Code;

struct Stage {
    lab: Lab,
    api: WorkloadApi,
    orders: Proxy,
    _app: App,
}

impl Stage {
    async fn new() -> Stage {
        let lab = Lab::new();
        let api = WorkloadApi::start(lab.folder(), "agent", Ok(good(&lab)));
        let files = [
            lab.write("mesh.yaml", &lab.mesh().document()),
            lab.write("access.yaml", &documents::access("shop", documents::anybody())),
        ];
        let source = json!({"workloadApi": {"socket": api.socket()}});
        let app = App::mirror();
        let spec = Spec::new(lab.folder(), "shop", "orders", source).inbound(app.address);
        let orders = spec.documents(&[&files[0], &files[1]]).start().await;
        Stage { lab, api, orders, _app: app }
    }

    /// The certificate a peer is shown.
    async fn presented(&self) -> Vec<u8> {
        let web = self.lab.ca.leaf("shop", "web");
        let config = tls::client(Some(&web), &[tls::MESH_H2]);
        let stream = client::tls_stream(self.orders.inbound(), config).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    async fn until_it_says(&self, said: &str) {
        wait::until(said, async || {
            let (_, ready) = self.orders.ready().await?;
            (ready.to_string().contains(said) || self.orders.log().contains(said)).then_some(())
        })
        .await;
    }
}

/// A message as an honest agent sends it, with a new certificate each time.
fn good(lab: &Lab) -> X509SvidResponse {
    message(&lab.id("shop", "orders"), &lab.ca.leaf("shop", "orders"), &lab.ca)
}

/// One thing wrong with a good message, and what is said of it.
fn nonsense(lab: &Lab) -> Vec<(X509SvidResponse, &'static str)> {
    let broken = |change: &dyn Fn(&mut X509SvidResponse)| {
        let mut message = good(lab);
        change(&mut message);
        message
    };
    let ended = lab.ca.issue(Request::new(&[&lab.id("shop", "orders")]).expired());
    let (id, stranger) = (lab.id("shop", "orders"), Authority::new(lab.ca.domain()));
    let signs = lab.ca.issue(Request::new(&[&id]).authority());
    vec![
        (X509SvidResponse::default(), "svids is empty"),
        (broken(&|m| m.svids[0].x509_svid_key.clear()), "x509_svid_key is empty"),
        (broken(&|m| m.svids[0].bundle.clear()), "bundle is empty"),
        (broken(&|m| m.svids[0].x509_svid.truncate(70)), "not a DER certificate"),
        (broken(&|m| m.svids[0].x509_svid_key = stranger_key(lab)), "does not belong"),
        (broken(&|m| m.svids[0].bundle = stranger.der().to_vec()), "vouches for the certificate"),
        (message(&id, &ended, &lab.ca), "the certificate ended at"),
        (message(&id, &signs, &lab.ca), "is not a leaf"),
        (broken(&|m| m.svids[0].spiffe_id.push('x')), "not the ID in the certificate"),
    ]
}

fn stranger_key(lab: &Lab) -> Vec<u8> {
    lab.ca.leaf("shop", "stranger").key
}

#[tokio::test]
async fn attack_authority_sends_nonsense_to_take_an_identity_away() {
    let stage = Stage::new().await;
    let mut held = stage.presented().await;
    for (message, said) in nonsense(&stage.lab) {
        let failures = "countersign_identity_renewals_total";
        stage.api.say(Ok(message));
        stage.until_it_says(said).await;
        assert_eq!(stage.presented().await, held, "{said}");
        let (status, ready) = stage.orders.ready().await.unwrap();
        assert_eq!(status, 200, "{said}: {ready}");
        // The next good message counts at once, and what was wrong is no longer told.
        stage.api.say(Ok(good(&stage.lab)));
        wait::until("the next certificate", async || {
            (stage.presented().await != held).then_some(())
        })
        .await;
        held = stage.presented().await;
        assert!(stage.orders.metric(failures, &["result=\"ok\""]).await >= 1.0);
    }
}

#[tokio::test]
async fn an_authority_that_is_away_takes_nothing_away() {
    let stage = Stage::new().await;
    let held = stage.presented().await;
    for code in [Code::Unavailable, Code::Internal, Code::DeadlineExceeded] {
        stage.api.say(Err(code));
        stage.until_it_says(&format!("{code:?}: as told")).await;
        assert_eq!(stage.presented().await, held, "{code:?}");
    }
    stage.api.say(Ok(good(&stage.lab)));
    wait::until("the next certificate", async || (stage.presented().await != held).then_some(()))
        .await;
}

/// Withdrawn, by a status or by a complete message without it: what is open ends, nothing begins.
#[tokio::test]
async fn an_identity_that_is_taken_back_ends_what_is_open() {
    let stage = Stage::new().await;
    let web = stage.lab.ca.leaf("shop", "web");
    let mut conn = stage.lab.peer(&stage.orders, &web).await;
    let (sender, body) = client::stream();
    let open = conn.start(Call::post("orders.shop", "/echo", "").body(body)).await.unwrap();
    stage.api.say(Err(Code::PermissionDenied));
    wait::ends("the open stream", client::collect(open)).await.unwrap_err();
    drop(sender);
    let config = tls::client(Some(&web), &[tls::MESH_H2]);
    let refused = match Conn::tls(stage.orders.inbound(), config).await {
        Ok(mut conn) => conn.send(Call::get("orders.shop", "/")).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    let (status, ready) = stage.orders.ready().await.unwrap();
    assert_eq!(status, 503, "{ready}");
    stage.api.say(Ok(good(&stage.lab)));
    stage.orders.until_ready().await;
    let reply = stage.lab.call_as("shop", "web", &stage.orders, Call::get("orders.shop", "/"));
    assert_eq!(reply.await.status, 200);
}
