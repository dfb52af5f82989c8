//! The background task against a provider that really listens, behaves, and misbehaves.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use countersign_policy::doc::{self, FileRef};
use expect_test::{Expect, expect};
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::issuer::{Signer, alice, discovery, jwks, provider};
use crate::clock::Now;
use crate::gateway::identify::{EndUser, IdentifyError, UserVerifier};
use crate::gateway::provider_fetch::Fetcher;
use crate::gateway::provider_keys::{KeysReader, Provider, ProviderKeys, ProviderStatus};

/// What a fake provider answers, changed by tests while it runs.
struct Answers {
    jwks: String,
    issuer: String,
    jwks_uri: String,
    status: u16,
    jwks_hits: AtomicUsize,
}

#[derive(Clone)]
struct FakeProvider {
    answers: Arc<Mutex<Answers>>,
    base: String,
}

impl FakeProvider {
    async fn start(signers: &[&Signer]) -> FakeProvider {
        FakeProvider::start_with(signers, None).await
    }

    async fn start_with(signers: &[&Signer], tls: Option<TlsAcceptor>) -> FakeProvider {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let base = match tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let answers = Answers {
            jwks: jwks(signers),
            issuer: base.clone(),
            jwks_uri: format!("{base}/keys"),
            status: 200,
            jwks_hits: AtomicUsize::new(0),
        };
        let fake = FakeProvider { answers: Arc::new(Mutex::new(answers)), base };
        let server = fake.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (server, tls) = (server.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => server.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                server.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        fake
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) {
        let answer = |request: Request<Incoming>| {
            let response = self.answer(request.uri().path());
            async move { Ok::<_, std::convert::Infallible>(response) }
        };
        let connection = hyper::server::conn::http1::Builder::new();
        let _ = connection.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
    }

    fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        let answers = self.answers.lock().unwrap();
        let body = match path {
            "/.well-known/openid-configuration" => {
                json!({"issuer": answers.issuer, "jwks_uri": answers.jwks_uri}).to_string()
            }
            "/keys" => {
                answers.jwks_hits.fetch_add(1, Ordering::Relaxed);
                answers.jwks.clone()
            }
            _ => String::new(),
        };
        let response = Response::builder().status(answers.status).header("location", "/elsewhere");
        response.body(Full::from(body)).unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Answers)) {
        change(&mut self.answers.lock().unwrap());
    }

    fn hits(&self) -> usize {
        self.answers.lock().unwrap().jwks_hits.load(Ordering::Relaxed)
    }

    fn provider(&self, keys: doc::ProviderKeys) -> Provider {
        at(&self.base, keys)
    }
}

fn at(issuer: &str, keys: doc::ProviderKeys) -> Provider {
    let mut provider = provider();
    provider.spec.issuer = issuer.to_owned();
    provider.spec.keys = keys;
    provider
}

/// A gateway's view: verifier, tasks, reader.
struct Gateway {
    verifier: UserVerifier,
    tasks: ProviderKeys,
    reader: KeysReader,
}

impl Gateway {
    fn of(provider: Provider) -> Gateway {
        Gateway::with(provider, Fetcher::with_roots(rustls::RootCertStore::empty()))
    }

    fn with(provider: Provider, fetcher: Fetcher) -> Gateway {
        let provider = Arc::new(provider);
        let mut tasks = ProviderKeys::new(fetcher);
        tasks.set_providers(std::slice::from_ref(&provider));
        let reader = tasks.reader();
        Gateway { verifier: UserVerifier::new([provider]), tasks, reader }
    }

    fn identify(&self, token: &str, now: Now) -> Result<EndUser, IdentifyError> {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        self.verifier.identify(&headers, &self.reader.load(), now).map(Option::unwrap)
    }

    fn status(&self) -> ProviderStatus {
        self.reader.status().remove(0)
    }

    async fn until(&self, what: &str, reached: impl Fn(&ProviderStatus) -> bool) {
        for _ in 0..1_000 {
            if reached(&self.status()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not reached: {what}; {:?}", self.status());
    }

    async fn ready(&self) {
        self.tasks.first_attempts(Duration::from_secs(10)).await;
        self.until("keys fetched", |status| status.fetches_total > 0).await;
    }
}

/// Alice's token of a provider at `base`, good now.
fn token(fake: &FakeProvider, signer: &Signer) -> String {
    let now = Now::read().secs();
    let mut claims = alice();
    claims["iss"] = json!(fake.base);
    claims["iat"] = json!(now);
    claims["exp"] = json!(now + 100 * 3_600);
    signer.token(&claims)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}

fn later(hours: u64) -> Now {
    Now::from_micros(Now::read().micros() + hours * 3_600 * 1_000_000)
}

#[test]
fn keys_are_discovered_and_a_rotation_is_followed() {
    run(async {
        let (old, new) = (Signer::es256("old"), Signer::rs256("new"));
        let fake = FakeProvider::start(&[&old]).await;
        let gateway = Gateway::of(fake.provider(discovery(0)));
        gateway.ready().await;
        assert_eq!(gateway.identify(&token(&fake, &old), Now::read()).unwrap().id(), "alice");

        fake.change(|answers| answers.jwks = jwks(&[&new]));
        let refused = gateway.identify(&token(&fake, &new), Now::read()).unwrap_err();
        assert_eq!(refused.reason(), "user_token_invalid", "refused at once, nothing waits");
        gateway.until("fetched again", |status| status.fetches_total == 2).await;
        assert_eq!(gateway.identify(&token(&fake, &new), Now::read()).unwrap().id(), "alice");
        let gone = gateway.identify(&token(&fake, &old), Now::read()).unwrap_err();
        assert_eq!(gone.reason(), "user_token_invalid");
        gateway.tasks.stop().await;
    });
}

#[test]
fn attack_floods_unknown_kids_over_the_wire() {
    run(async {
        let (known, forged) = (Signer::es256("known"), Signer::es256("forged"));
        let fake = FakeProvider::start(&[&known]).await;
        let gateway = Gateway::of(fake.provider(discovery(30)));
        gateway.ready().await;
        let flood = token(&fake, &forged);
        for _ in 0..10 {
            for _ in 0..100 {
                assert!(gateway.identify(&flood, Now::read()).is_err());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(fake.hits(), 1, "the cooldown of 30 s is not over");
        // The others do not notice.
        let _ = gateway.identify(&token(&fake, &known), Now::read()).unwrap();
    });
}

#[test]
fn keys_that_could_not_be_refreshed_end_at_the_stale_limit() {
    run(async {
        let signer = Signer::es256("k1");
        let fake = FakeProvider::start(&[&signer]).await;
        let gateway = Gateway::of(fake.provider(discovery(30)));
        gateway.ready().await;
        fake.change(|answers| answers.status = 500);
        let token = token(&fake, &signer);
        let _ = gateway.identify(&token, later(23)).unwrap();
        let stale = gateway.identify(&token, later(25)).unwrap_err();
        assert_eq!(stale.reason(), "user_keys_unavailable");
    });
}

#[test]
fn a_provider_that_is_down_at_start_is_asked_again() {
    run(async {
        let signer = Signer::es256("k1");
        let fake = FakeProvider::start(&[&signer]).await;
        fake.change(|answers| answers.status = 503);
        let gateway = Gateway::of(fake.provider(discovery(30)));
        gateway.until("a failure", |status| status.last_error.is_some()).await;
        let early = gateway.identify(&token(&fake, &signer), Now::read()).unwrap_err();
        assert_eq!(early.reason(), "user_keys_unavailable");
        fake.change(|answers| answers.status = 200);
        gateway.ready().await;
        assert_eq!(gateway.status().last_error, None);
        let _ = gateway.identify(&token(&fake, &signer), Now::read()).unwrap();
    });
}

#[test]
fn keys_that_did_not_change_stay_the_same_object() {
    run(async {
        let (signer, forged) = (Signer::es256("k1"), Signer::es256("forged"));
        let fake = FakeProvider::start(&[&signer]).await;
        let gateway = Gateway::of(fake.provider(discovery(0)));
        gateway.ready().await;
        let held = || gateway.reader.load().current("corp", Now::read()).unwrap().clone();
        let before = held();
        let _ = gateway.identify(&token(&fake, &forged), Now::read()).unwrap_err();
        gateway.until("fetched again", |status| status.fetches_total == 2).await;
        assert!(Arc::ptr_eq(&before, &held()));
    });
}

/// Checks what the status says after the first fetch from a provider changed by `change`.
fn check_error(change: impl FnOnce(&mut Answers), expected: Expect) {
    run(async {
        let fake = FakeProvider::start(&[&Signer::es256("k1")]).await;
        fake.change(change);
        let gateway = Gateway::of(fake.provider(discovery(30)));
        gateway.until("a failure", |status| status.last_error.is_some()).await;
        let error = gateway.status().last_error.unwrap();
        expected.assert_eq(&error.replace(&fake.base, "BASE"));
        assert_eq!(gateway.status().keys, 0);
    });
}

#[test]
fn the_discovery_document_must_be_the_issuers() {
    check_error(
        |answers| answers.issuer.push('/'),
        expect!["BASE/.well-known/openid-configuration: `issuer` is `BASE/`, configured is `BASE`"],
    );
    check_error(
        |answers| answers.issuer = "https://evil.example".into(),
        expect![
            "BASE/.well-known/openid-configuration: `issuer` is `https://evil.example`, configured is `BASE`"
        ],
    );
}

#[test]
fn attack_points_keys_to_another_host() {
    let uri = |uri: &str| {
        let uri = uri.to_owned();
        move |answers: &mut Answers| answers.jwks_uri = uri
    };
    check_error(
        uri("https://evil.example/keys"),
        expect![
            "`https://evil.example/keys` is not asked: its host is not in keys.discovery.allowedHosts"
        ],
    );
    check_error(
        uri("http://169.254.169.254/latest"),
        expect![
            "`http://169.254.169.254/latest` is not asked: http is accepted on loopback only; use https"
        ],
    );
    check_error(
        uri("http://localhost/keys"),
        expect![
            "`http://localhost/keys` is not asked: its host is not in keys.discovery.allowedHosts"
        ],
    );
    check_error(
        uri("http://user@127.0.0.1/keys"),
        expect!["`http://user@127.0.0.1/keys` is not asked: it names no host, or a user"],
    );
    check_error(
        uri("file:///etc/passwd"),
        expect!["`file:///etc/passwd` is not asked: it is not a URL"],
    );
}

#[test]
fn redirects_are_not_followed_and_answers_are_bounded() {
    check_error(
        |answers| answers.status = 302,
        expect![
            "BASE/.well-known/openid-configuration: answered 302 Found; redirects are not followed; configure the final address"
        ],
    );
    check_error(
        |answers| answers.jwks = "x".repeat(257 * 1024),
        expect!["BASE/keys: length limit exceeded"],
    );
    check_error(
        |answers| answers.jwks = r#"{"keys":[]}"#.into(),
        expect!["BASE/keys: no entry is a usable signature key of the provider's algorithms"],
    );
}

#[test]
fn nobody_listening_is_named() {
    run(async {
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let gateway = Gateway::of(at(&format!("http://{unused}"), discovery(30)));
        gateway.until("a failure", |status| status.last_error.is_some()).await;
        let error = gateway.status().last_error.unwrap();
        assert!(error.starts_with(&format!("could not connect to {unused}: ")), "{error}");
    });
}

#[test]
fn https_providers_are_checked_against_the_roots() {
    run(async {
        let name = vec!["localhost".to_owned()];
        let certified = rcgen::generate_simple_self_signed(name).unwrap();
        let key =
            rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.into())
            .unwrap();
        let signer = Signer::es256("k1");
        let tls = TlsAcceptor::from(Arc::new(server));
        let fake = FakeProvider::start_with(&[&signer], Some(tls)).await;

        let strangers = Gateway::of(fake.provider(discovery(30)));
        strangers.until("a failure", |status| status.last_error.is_some()).await;
        let error = strangers.status().last_error.unwrap();
        assert!(error.contains("UnknownIssuer"), "{error}");

        let mut roots = rustls::RootCertStore::empty();
        roots.add(certified.cert.der().clone()).unwrap();
        let fetcher = Fetcher::with_roots(roots);
        let friends = Gateway::with(fake.provider(discovery(30)), fetcher);
        friends.ready().await;
        let _ = friends.identify(&token(&fake, &signer), Now::read()).unwrap();
    });
}

#[test]
fn a_key_file_is_read_again_and_a_broken_one_leaves_the_last_keys() {
    run(async {
        let (one, two) = (Signer::es256("k1"), Signer::es256("k2"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), jwks(&[&one])).unwrap();
        let fake = FakeProvider::start(&[]).await;
        let written = file.path().to_str().unwrap().to_owned();
        let keys = doc::ProviderKeys::File(FileRef { written, declared_in: "mesh.yaml".into() });
        let gateway = Gateway::of(fake.provider(keys));
        gateway.ready().await;
        let _ = gateway.identify(&token(&fake, &one), Now::read()).unwrap();

        std::fs::write(file.path(), "{").unwrap();
        gateway.until("the file is refused", |status| status.last_error.is_some()).await;
        let _ = gateway.identify(&token(&fake, &one), Now::read()).unwrap();

        std::fs::write(file.path(), jwks(&[&one, &two])).unwrap();
        gateway.until("the file is taken", |status| status.keys == 2).await;
        let _ = gateway.identify(&token(&fake, &two), Now::read()).unwrap();
        assert_eq!(fake.hits(), 0);
    });
}

#[test]
fn only_what_changed_is_fetched_again() {
    run(async {
        let signer = Signer::es256("k1");
        let fake = FakeProvider::start(&[&signer]).await;
        let first = fake.provider(discovery(30));
        let mut gateway = Gateway::of(first.clone());
        gateway.ready().await;

        let mut other_audience = first.clone();
        other_audience.spec.audiences = vec!["other".into()];
        gateway.tasks.set_providers(&[Arc::new(other_audience)]);
        let _ = gateway.identify(&token(&fake, &signer), Now::read()).unwrap();
        assert_eq!(fake.hits(), 1, "the keys are the same");

        let other_issuer = at("https://other.example", discovery(30));
        gateway.tasks.set_providers(&[Arc::new(other_issuer)]);
        let error = gateway.identify(&token(&fake, &signer), Now::read()).unwrap_err();
        assert_eq!(error.reason(), "user_keys_unavailable", "old keys never serve a new issuer");
        gateway.tasks.set_providers(&[]);
        assert!(gateway.reader.status().is_empty());
    });
}
