//! Revocation of what is open: by documents and by lists that authorities sign, here with openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use countersign_integration::client::{self, Call};
use countersign_integration::hold::{Holder, Kind};
use countersign_integration::{
    App, Authority, BytesApp, Conn, Lab, Leaf, Proxy, RawApp, documents, lab, process, programs,
    tls, wait,
};
use http_body::Frame;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::interception::live::Chat;

const HOST: &str = "orders.shop";
const HOLDER: &str = env!("CARGO_BIN_EXE_countersign-hold");
const ENDED: &str = "countersign_connections_ended_total";
const REVOKED: &[&str] = &["reason=\"revoked\""];

/// The lists of one authority, as `openssl ca` signs them.
struct Lists {
    openssl: PathBuf,
    folder: PathBuf,
    number: u32,
}

impl Lists {
    fn new(openssl: &Path, ca: &Authority, folder: &Path, name: &str) -> Lists {
        let folder = folder.join(name);
        fs::create_dir(&folder).unwrap();
        ca.write_bundle(&folder, "ca");
        ca.write_key(&folder, "ca");
        Lists { openssl: openssl.to_owned(), folder, number: 0 }
    }

    /// The next list, of these certificates; `more` are lines of its extensions.
    fn next(&mut self, revoked: &[&Leaf], more: &str) -> String {
        self.number += 1;
        self.signed(self.number, revoked, more)
    }

    fn signed(&self, number: u32, revoked: &[&Leaf], more: &str) -> String {
        let entry = |leaf: &&Leaf| {
            fs::write(self.folder.join("leaf.pem"), &leaf.chain_pem).unwrap();
            let serial = self.run(&["x509", "-in", "leaf.pem", "-noout", "-serial"]);
            let serial = serial.trim().strip_prefix("serial=").unwrap().to_owned();
            format!("R\t491231235959Z\t261101000000Z\t{serial}\tunknown\t/CN=revoked\n")
        };
        let index: String = revoked.iter().map(entry).collect();
        fs::write(self.folder.join("index.txt"), index).unwrap();
        fs::write(self.folder.join("crlnumber"), format!("{:04X}\n", 0x1000 + number)).unwrap();
        let config = format!(
            "[ca]\ndefault_ca = ours\n[ours]\ndatabase = index.txt\ncrlnumber = crlnumber\n\
             certificate = ca.pem\nprivate_key = ca.key\ndefault_md = sha256\n\
             default_crl_days = 1\ncrl_extensions = extensions\n\
             [extensions]\nauthorityKeyIdentifier = keyid\n{more}\n"
        );
        fs::write(self.folder.join("ca.cnf"), config).unwrap();
        self.run(&["ca", "-config", "ca.cnf", "-gencrl"])
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.openssl);
        let done = process::run(command.args(arguments).current_dir(&self.folder));
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "openssl {arguments:?}: {told}");
        String::from_utf8(done.stdout).unwrap()
    }
}

/// Whether a handshake with `leaf` is refused.
async fn refused(proxy: &Proxy, leaf: &Leaf) -> bool {
    let config = tls::client(Some(leaf), &[tls::MESH_H2]);
    match Conn::tls(proxy.inbound(), config).await {
        Ok(mut conn) => conn.send(Call::get(HOST, "/")).await.is_err(),
        Err(_) => true,
    }
}

/// Puts lists beside the authority in the trust file, and waits until the proxy has looked.
async fn publish(lab: &Lab, proxy: &Proxy, lists: &[&str], metric: &str, least: f64) {
    lab.write_text("bundle.pem", &(lab.ca.pem().to_owned() + &lists.concat()));
    proxy.metric_reaches(metric, &[], least).await;
}

/// A list of the authority ends what its certificates have opened and refuses what they would
/// open; others go on. What is no such list is discarded, counted, and changes nothing.
#[tokio::test]
async fn a_list_of_the_authority_counts_on_live_connections() {
    let Some(openssl) = programs::system("a_list_of_the_authority", "openssl") else { return };
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let mut lists = Lists::new(&openssl, &lab.ca, lab.folder(), "lists");
    let (thief, web) = (lab.ca.leaf("shop", "web"), lab.ca.leaf("shop", "web"));
    let (mut stolen, mut good) = (lab.peer(&orders, &thief).await, lab.peer(&orders, &web).await);
    let (_sender, body) = client::stream();
    let stream = stolen.start(Call::post(HOST, "/echo", "").body(body)).await.unwrap();
    let id = stream.headers()["countersign-decision"].to_str().unwrap().to_owned();

    let older = lists.next(&[], "");
    let list = lists.next(&[&thief], "");
    publish(&lab, &orders, &[&list], "countersign_crls", 1.0).await;
    wait::ends("the stream", client::collect(stream)).await.unwrap_err();
    let ended = orders.ended(&id).await;
    assert_eq!(ended["reason"], "revoked/crl", "{ended}");
    wait::until_true("the end of the connection", || stolen.is_closed()).await;
    assert!(refused(&orders, &thief).await);
    orders.metric_reaches("countersign_tls_handshakes_total", &["result=\"revoked\""], 1.0).await;
    assert_eq!(good.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    assert_eq!(orders.metric("countersign_crl_serials", &[]).await, 1.0);

    // What an attacker or a broken program would put there.
    let forger = Authority::new(lab::DOMAIN);
    let mut forged = Lists::new(&openssl, &forger, lab.folder(), "forged");
    let delta = lists.next(&[], "2.5.29.27 = critical,ASN1:INTEGER:1");
    let unknown = lists.next(&[], "1.2.3.4 = critical,ASN1:INTEGER:1");
    let mut cut: Vec<&str> = list.lines().collect();
    cut.remove(3);
    let cut = cut.join("\n") + "\n";
    let discarded = "countersign_crls_discarded_total";
    for (count, bad) in (1..).zip([&forged.next(&[&web], ""), &delta, &unknown, &cut, &older]) {
        publish(&lab, &orders, &[bad], discarded, f64::from(count)).await;
        assert!(refused(&orders, &thief).await, "the last good list stays: {bad}");
        assert_eq!(good.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    }
    assert!(orders.log().contains("RV-02"), "{}", orders.log());

    // A newer one takes it back.
    let newer = lists.next(&[], "");
    lab.write_text("bundle.pem", &(lab.ca.pem().to_owned() + &newer));
    wait::until("the newer list", async || (!refused(&orders, &thief).await).then_some(())).await;
}

/// The document of the page is one that proxies take.
#[test]
fn the_page_shows_a_document_that_is_accepted() {
    let page = include_str!("../../../../docs/identity/revocation.md");
    let (_, rest) = page.split_once("```yaml\n").unwrap();
    let (document, _) = rest.split_once("```").unwrap();
    let lab = Lab::new();
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    let document = lab.write_text("revocation.yaml", document);
    let mut command = Command::new(programs::cli());
    let done = process::run(command.arg("check").arg(mesh).arg(document));
    let told = String::from_utf8_lossy(&done.stderr) + String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{told}");
}

/// An echo that stays open: its two ends.
struct Echo {
    response: http::Response<hyper::body::Incoming>,
    sender: tokio::sync::mpsc::Sender<anyhow::Result<Frame<bytes::Bytes>>>,
}

impl Echo {
    async fn open(lab: &Lab, proxy: &Proxy, leaf: &Leaf) -> Echo {
        let (sender, body) = client::stream();
        let mut conn = lab.peer(proxy, leaf).await;
        let call = Call::post(HOST, "/echo", "").body(body);
        let mut echo = Echo { response: conn.start(call).await.unwrap(), sender };
        echo.ping().await;
        echo
    }

    async fn ping(&mut self) {
        self.sender.send(Ok(Frame::data("hello".into()))).await.unwrap();
        let frame = wait::ends("the echo", self.response.body_mut().frame()).await;
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "hello");
    }

    async fn ends(self) {
        wait::ends("the stream", client::collect(self.response)).await.unwrap_err();
    }
}

/// Anybody of the mesh may send bytes.
fn bytes_of_anybody() -> Value {
    json!([{"name": "bytes", "effect": "allow",
        "match": {"caller": {"anyInMesh": true}, "tcp": {"any": true}}}])
}

/// The end of many connections as an operator sees it.
struct Ending {
    told: Instant,
    arrived: Option<Duration>,
}

impl Ending {
    /// Waits until `count` connections and streams were ended for being revoked, and says how long
    /// it took from the document, and from the first one that ended.
    async fn wait(&mut self, proxy: &Proxy, count: f64) -> (Duration, Duration) {
        wait::until_within(Duration::from_secs(60), "the ends", async || {
            let ended = proxy.metric(ENDED, REVOKED).await;
            if ended > 0.0 && self.arrived.is_none() {
                self.arrived = Some(self.told.elapsed());
            }
            (ended >= count).then_some(())
        })
        .await;
        let all = self.told.elapsed();
        (all, all.saturating_sub(self.arrived.unwrap_or_default()))
    }
}

/// Five thousand open connections of one workload, 4,000 with HTTP/2 and 1,000 with opaque bytes,
/// and among them a stream, a WebSocket; all end with a revocation, and those of others stay.
#[tokio::test]
async fn five_thousand_open_connections_end_with_what_they_rest_on() {
    let (app, bytes, chat) = (App::mirror(), BytesApp::echo(), RawApp::echo_after_upgrade().await);
    let room = |spec: countersign_integration::proxy::Spec| spec.limit("CONNS_MAX", 18_000);
    let labs = [Lab::new(), Lab::new(), Lab::new()];
    let [of_http, of_tcp, of_chat] = &labs;
    let http = of_http.revocable(app.address, documents::anybody(), room).await;
    let tcp = of_tcp
        .revocable(bytes.address, bytes_of_anybody(), |spec| {
            room(spec).with(|config| config["app"][0]["protocol"] = json!("tcp"))
        })
        .await;
    let chats = of_chat.revocable(chat.address, documents::anybody(), |spec| spec).await;
    let thief = |lab: &Lab| lab.ca.leaf("shop", "batch");
    let hold = async |lab: &Lab, proxy: &Proxy, kind, count, leaf: Leaf| {
        Holder::start(HOLDER, lab.folder(), (kind, proxy.inbound(), count), Some(&leaf)).await
    };
    let web = |lab: &Lab| lab.ca.leaf("shop", "web");
    let _stolen = hold(of_http, &http, Kind::Mesh, 4_000, thief(of_http)).await;
    let _good = hold(of_http, &http, Kind::Mesh, 200, web(of_http)).await;
    let _bytes = hold(of_tcp, &tcp, Kind::MeshTcp, 1_000, thief(of_tcp)).await;
    let _good_bytes = hold(of_tcp, &tcp, Kind::MeshTcp, 100, web(of_tcp)).await;
    let mut stream = Echo::open(of_http, &http, &thief(of_http)).await;
    let mut good = Echo::open(of_http, &http, &web(of_http)).await;
    let mut chatting = Chat::open(&chats, &thief(of_chat)).await;
    chatting.ping().await;
    stream.ping().await;

    for lab in &labs {
        lab.revoke(json!({"identities": [
            {"spiffeId": lab.id("shop", "batch"), "issuedBefore": "2126-01-01T00:00:00Z"}]}));
    }
    let ending = || Ending { told: Instant::now(), arrived: None };
    let (mut requests, mut opaque) = (ending(), ending());
    let (http_took, tcp_took) =
        tokio::join!(requests.wait(&http, 4_000.0), opaque.wait(&tcp, 1_000.0));
    for (what, count, (all, spread)) in
        [("HTTP/2", 4_000, http_took), ("opaque TCP", 1_000, tcp_took)]
    {
        println!(
            "{what}: {count} connections ended {} ms after the document was written, \
             {} ms after the first of them",
            all.as_millis(),
            spread.as_millis()
        );
    }
    stream.ends().await;
    chatting.ends().await;
    good.ping().await;
    for (lab, proxy, stays) in [(of_http, &http, 201.0), (of_tcp, &tcp, 100.0)] {
        wait::until("only the others to be left", async || {
            let open = proxy.metric("countersign_connections", &["direction=\"inbound\""]).await;
            (open == stays).then_some(())
        })
        .await;
        assert!(refused(proxy, &thief(lab)).await);
    }
}
