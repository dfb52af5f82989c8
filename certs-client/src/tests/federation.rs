//! Bundle endpoints over real TLS: who is believed, what is followed, what stays in force (F-3 to
//! F-7). The server does what a sound one cannot be made to do: old bundles, rubbish, wrong names.

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;

use super::{
    authority::{Leaf, TestCa, domain, id, life, pem, until},
    bundle_doc::authority,
};
use crate::federation::{Endpoint, Federated, Federation, Fetched, Pace, Profile};

const PARTNER: &str = "partner.test";
const SERVER: &str = "spiffe://partner.test/spire/server";
const PACE: Pace = Pace { least_s: 1, most_s: 1 };

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A certificate of today for an endpoint.
fn leaf(ca: &TestCa, name: SanType) -> Leaf {
    ca.leaf(SERVER, |params| {
        params.subject_alt_names = vec![name];
        if !matches!(params.subject_alt_names.as_slice(), [SanType::URI(_)]) {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }
        life(params, now() - 60, now() + 3600);
    })
}

fn spiffe(ca: &TestCa, text: &str) -> Leaf {
    leaf(ca, super::authority::uri(text))
}

fn web(ca: &TestCa, name: &str) -> Leaf {
    leaf(ca, SanType::DnsName(name.try_into().unwrap()))
}

type Answer = (u16, Vec<(&'static str, String)>, String);

/// What the server does now; tests change it while it serves.
struct Serves {
    answer: Mutex<Answer>,
    tls: Mutex<Arc<rustls::ServerConfig>>,
    seen: Mutex<Vec<(String, Vec<String>)>>,
}

struct Server {
    port: u16,
    serves: Arc<Serves>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn config(leaf: &Leaf) -> Arc<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivatePkcs8KeyDer::from(leaf.key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.certificate.clone()], key.into())
        .unwrap();
    Arc::new(config)
}

impl Server {
    async fn start(leaf: &Leaf, bundle: &Value) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serves = Arc::new(Serves {
            answer: Mutex::new((200, Vec::new(), bundle.to_string())),
            tls: Mutex::new(config(leaf)),
            seen: Mutex::default(),
        });
        let shared = Arc::clone(&serves);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serves = Arc::clone(&shared);
                tokio::spawn(async move {
                    let tls = Arc::clone(&serves.tls.lock().unwrap());
                    let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
                    let service = service_fn(move |request| answer(Arc::clone(&serves), request));
                    let stream = TokioIo::new(stream);
                    let _ = http1::Builder::new().serve_connection(stream, service).await;
                });
            }
        });
        Server { port, serves, task }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/bundle", self.port)
    }

    fn says(&self, status: u16, headers: Vec<(&'static str, String)>, body: impl ToString) {
        *self.serves.answer.lock().unwrap() = (status, headers, body.to_string());
    }

    fn presents(&self, leaf: &Leaf) {
        *self.serves.tls.lock().unwrap() = config(leaf);
    }

    fn seen(&self) -> Vec<(String, Vec<String>)> {
        self.serves.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(
    serves: Arc<Serves>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let names = request.headers().keys().map(ToString::to_string).collect();
    let line = format!("{} {}", request.method(), request.uri());
    serves.seen.lock().unwrap().push((line, names));
    let (status, headers, body) = serves.answer.lock().unwrap().clone();
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(body.into())).unwrap())
}

/// Fetches from one endpoint of `partner.test`.
struct Client {
    _folder: TempDir,
    _federation: Federation,
    fetched: watch::Receiver<Arc<Fetched>>,
}

impl Client {
    fn new(url: String, profile: impl FnOnce(&TempDir) -> Profile) -> Client {
        Client::with(url, profile, |_| {})
    }

    fn with(
        url: String,
        profile: impl FnOnce(&TempDir) -> Profile,
        change: impl FnOnce(&mut Endpoint),
    ) -> Client {
        let folder = tempfile::tempdir().unwrap();
        let profile = profile(&folder);
        let mut federation = Federation::new(Arc::new(|| now() * 1000), PACE);
        let domain = domain(PARTNER);
        let mut endpoint = Endpoint { domain, url, profile, redirects: true, max_stale_s: 3600 };
        change(&mut endpoint);
        federation.follow(vec![endpoint]);
        let fetched = federation.fetched();
        Client { _folder: folder, _federation: federation, fetched }
    }

    async fn until(&mut self, fits: impl Fn(&Federated) -> bool) -> Federated {
        let partner = domain(PARTNER);
        let all = until(&mut self.fetched, |all| all.get(&partner).is_some_and(&fits)).await;
        all[&partner].clone()
    }

    /// What the next failure says.
    async fn complaint(&mut self) -> String {
        let known = self.until(|known| known.last_failure.is_some()).await;
        known.last_failure.unwrap().to_string()
    }
}

fn file(folder: &TempDir, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn by_id(ca: &TestCa) -> impl FnOnce(&TempDir) -> Profile {
    let first = json!({"keys": [authority(ca)]}).to_string();
    |folder| Profile::Spiffe { id: id(SERVER), initial: file(folder, "first.json", first) }
}

fn by_name(ca: &TestCa) -> impl FnOnce(&TempDir) -> Profile {
    let roots = pem(&ca.certificate);
    |folder| Profile::Web(Some(file(folder, "roots.pem", roots)))
}

fn bundle(authorities: &[&TestCa], sequence: u64) -> Value {
    let keys: Vec<Value> = authorities.iter().map(|ca| authority(ca)).collect();
    json!({"keys": keys, "spiffe_sequence": sequence})
}

fn trusts(known: &Federated, authorities: &[&TestCa]) -> bool {
    let held = known.doc.as_ref().and_then(|doc| doc.authorities.clone());
    let held: Vec<_> = held.iter().flat_map(|bundle| bundle.certificates()).cloned().collect();
    held == authorities.iter().map(|ca| ca.certificate.clone()).collect::<Vec<_>>()
}

/// F-2, F-3, F-4 by host name: plain GETs without credentials, and the Web PKI decides.
#[tokio::test]
async fn f4_https_web_is_authenticated_by_name() {
    let (roots, partner) = (TestCa::new("web.test"), TestCa::new(PARTNER));
    let server = Server::start(&web(&roots, "localhost"), &bundle(&[&partner], 1)).await;
    let mut client = Client::new(server.url(), by_name(&roots));
    client.until(|known| trusts(known, &[&partner]) && known.fetches.unchanged > 0).await;
    for (line, headers) in server.seen() {
        assert_eq!(line, "GET /bundle");
        assert!(!headers.contains(&"authorization".to_owned()), "{headers:?}");
        assert!(!headers.contains(&"cookie".to_owned()), "{headers:?}");
    }
    server.presents(&web(&roots, "other.test"));
    let said = client.complaint().await;
    assert!(said.contains("not valid for name \"localhost\""), "{said}");
    server.presents(&web(&TestCa::new("else.test"), "localhost"));
    client
        .until(|known| {
            let failure = known.last_failure.as_ref();
            failure.is_some_and(|failure| failure.answer.contains("not signed by an authority of"))
        })
        .await;
    let known = client.until(|_| true).await;
    assert!(trusts(&known, &[&partner]), "the last good bundle stays");
}

/// F-4 by SPIFFE ID: the configured one, under the latest bundle, however it changes.
#[tokio::test]
async fn f4_https_spiffe_follows_the_bundle_it_fetched() {
    let (first, second) = (TestCa::new(PARTNER), TestCa::new(PARTNER));
    let server = Server::start(&spiffe(&first, SERVER), &bundle(&[&first, &second], 1)).await;
    let mut client = Client::new(server.url(), by_id(&first));
    client.until(|known| trusts(known, &[&first, &second])).await;
    server.says(200, Vec::new(), bundle(&[&second], 2));
    client.until(|known| trusts(known, &[&second])).await;
    // The server still has a certificate of the root that is gone.
    let said = client.complaint().await;
    assert!(said.contains("no authority of its trust domain vouches"), "{said}");
    assert!(said.contains("next try in 1.0 s"), "{said}");
    server.presents(&spiffe(&second, SERVER));
    client.until(|known| known.last_failure.is_none()).await;
}

#[tokio::test]
async fn f4_another_identity_or_domain_is_not_the_endpoint() {
    let (partner, other) = (TestCa::new(PARTNER), TestCa::new("other.test"));
    for (leaf, part) in [
        (
            spiffe(&partner, "spiffe://partner.test/spire/agent"),
            "expected spiffe://partner.test/spire/server",
        ),
        (
            spiffe(&other, "spiffe://other.test/spire/server"),
            "trust domain other.test is not trusted",
        ),
        (spiffe(&TestCa::new(PARTNER), SERVER), "no authority of its trust domain vouches"),
        (web(&partner, "localhost"), "exactly one SPIFFE ID"),
    ] {
        let server = Server::start(&leaf, &bundle(&[&other], 1)).await;
        let mut client = Client::new(server.url(), by_id(&partner));
        let said = client.complaint().await;
        assert!(said.contains(part), "{said:?} does not say {part:?}");
        let known = client.until(|_| true).await;
        assert!(trusts(&known, &[&partner]), "the first bundle stays");
        assert!(server.seen().is_empty(), "nobody asked a stranger");
    }
}

/// F-5: at most three, all https, and only where they may be.
#[tokio::test]
async fn f5_redirects_stay_within_https_and_are_not_remembered() {
    let (roots, partner) = (TestCa::new("web.test"), TestCa::new(PARTNER));
    let name = web(&roots, "localhost");
    let real = Server::start(&name, &bundle(&[&partner], 1)).await;
    let first = Server::start(&name, &json!({})).await;
    first.says(307, vec![("location", real.url())], "");
    let mut client = Client::new(first.url(), by_name(&roots));
    client.until(|known| trusts(known, &[&partner]) && known.fetches.unchanged > 0).await;
    assert_eq!(first.seen().len(), real.seen().len(), "each fetch begins at the configured URL");

    let plain = format!("http://localhost:{}/", real.port);
    for (target, part) in [(plain, "it leaves https"), (first.url(), "more than 3 redirects")] {
        first.says(302, vec![("location", target)], "");
        client
            .until(|known| {
                let failure = known.last_failure.as_ref();
                failure.is_some_and(|failure| failure.answer.contains(part))
            })
            .await;
    }
    // A redirect to somebody else is under the same rules.
    let stranger = Server::start(&web(&TestCa::new("x.test"), "localhost"), &json!({})).await;
    first.says(302, vec![("location", stranger.url())], "");
    client
        .until(|known| {
            let failure = known.last_failure.as_ref();
            failure.is_some_and(|failure| failure.answer.contains("not signed by an authority"))
        })
        .await;
    assert!(stranger.seen().is_empty());

    first.says(307, vec![("location", real.url())], "");
    let off = |endpoint: &mut Endpoint| endpoint.redirects = false;
    let mut strict = Client::with(first.url(), by_name(&roots), off);
    let said = strict.complaint().await;
    assert!(said.contains("307") && said.contains("write the final address"), "{said}");
}

/// F-6 and B-2: rubbish, an outage and an old bundle change nothing but counters.
#[tokio::test]
async fn f6_what_cannot_be_used_changes_nothing() {
    let (partner, next) = (TestCa::new(PARTNER), TestCa::new(PARTNER));
    let server = Server::start(&spiffe(&partner, SERVER), &bundle(&[&partner], 5)).await;
    let mut client = Client::new(server.url(), by_id(&partner));
    client.until(|known| known.fetches.changed == 1).await;
    let huge = format!("{{\"keys\": [], \"pad\": \"{}\"}}", "x".repeat(300 * 1024));
    for (status, body, part) in [
        (500, "broken".to_owned(), "500 Internal Server Error: broken"),
        (200, "<html>".to_owned(), "the SPIFFE bundle cannot be used"),
        (200, "{}".to_owned(), "missing field `keys`"),
        (200, huge, "larger than 262144 bytes"),
        (200, bundle(&[&next], 4).to_string(), "sequence 4, after 5 was seen"),
    ] {
        server.says(status, Vec::new(), body);
        let known = client
            .until(|known| {
                let failure = known.last_failure.as_ref();
                failure.is_some_and(|failure| failure.answer.contains(part))
            })
            .await;
        assert!(trusts(&known, &[&partner]), "{part}");
    }
    let known = client.until(|known| known.fetches.regression > 0).await;
    assert!(known.fetches.failed >= 4, "{:?}", known.fetches);
    // The one that is newer counts again, and clears the complaint.
    server.says(200, Vec::new(), bundle(&[&partner, &next], 6));
    let known = client.until(|known| trusts(known, &[&partner, &next])).await;
    assert_eq!(known.last_failure, None);
    // B-1: nobody vouches any more.
    server.says(200, Vec::new(), json!({"keys": [], "spiffe_sequence": 7}));
    client.until(|known| trusts(known, &[]) && known.doc.is_some()).await;
}

#[tokio::test]
async fn a_bundle_that_nobody_confirms_is_dropped() {
    let partner = TestCa::new(PARTNER);
    let server = Server::start(&spiffe(&partner, SERVER), &bundle(&[&partner], 1)).await;
    let short = |endpoint: &mut Endpoint| endpoint.max_stale_s = 3;
    let mut client = Client::with(server.url(), by_id(&partner), short);
    client.until(|known| known.fetches.unchanged > 0).await;
    server.says(503, Vec::new(), "");
    let known = client.until(|known| known.doc.is_none()).await;
    assert!(known.last_failure.is_some());
    // The endpoint is still known by what was fetched last.
    server.says(200, Vec::new(), bundle(&[&partner], 1));
    client.until(|known| trusts(known, &[&partner])).await;
}

/// F-7: two domains, two bundles; and one that is no longer followed is gone at once.
#[tokio::test]
async fn f7_bundles_of_two_domains_are_never_merged() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (TestCa::new("a.test"), TestCa::new("b.test"));
    let mut federation = Federation::new(Arc::new(|| now() * 1000), PACE);
    let endpoint = |ca: &TestCa, server: &Server| Endpoint {
        domain: ca.domain.clone(),
        url: server.url(),
        profile: Profile::Spiffe {
            id: id(&format!("spiffe://{}/spire/server", ca.domain)),
            initial: file(&folder, ca.domain.as_str(), pem(&ca.certificate)),
        },
        redirects: true,
        max_stale_s: 3600,
    };
    let own = |ca: &TestCa| spiffe(ca, &format!("spiffe://{}/spire/server", ca.domain));
    let (at_a, at_b) = (
        Server::start(&own(&a), &bundle(&[&a], 1)).await,
        Server::start(&own(&b), &bundle(&[&b], 1)).await,
    );
    federation.follow(vec![endpoint(&a, &at_a), endpoint(&b, &at_b)]);
    let mut fetched = federation.fetched();
    let all =
        until(&mut fetched, |all| all.len() == 2 && all.values().all(|k| k.fetches.changed == 1))
            .await;
    assert!(trusts(&all[&a.domain], &[&a]) && trusts(&all[&b.domain], &[&b]));
    federation.follow(vec![endpoint(&b, &at_b)]);
    let all = until(&mut fetched, |all| all.len() == 1).await;
    assert!(trusts(&all[&b.domain], &[&b]));
    assert_eq!(all[&b.domain].fetches.changed, 1, "it went on as it was");
}
