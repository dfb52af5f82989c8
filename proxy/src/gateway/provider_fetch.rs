//! Fetches a provider's keys: its discovery document, then the JWK set that document names; or a
//! file. Runs on the control thread, called by `provider_keys` only.
//! Invariants: only hosts the document allows are asked; `https` everywhere but on loopback;
//! redirects are not followed; every answer is bounded in size and time.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use countersign_config::KubernetesApi;
use countersign_policy::doc::{ApiServer, FileRef, ProviderKeys};
use http::uri::Scheme;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::cluster;
use super::provider_keys::Provider;
use super::strict_json;
use super::user_keys::{KeySetError, UserKeySet};

const JWKS_BYTES_MAX: usize = countersign_config::limits::JWKS_BYTES_MAX;
/// A discovery document; the largest known are near 10 KiB.
const DISCOVERY_BYTES_MAX: usize = 64 * 1024;
/// One request to a provider, from name resolution to the last byte.
const FETCH_MS_MAX: u64 = 10_000;
/// Where every Kubernetes API server publishes its issuer and keys.
const CLUSTER_DISCOVERY: &str = "/.well-known/openid-configuration";
const CLUSTER_KEYS: &str = "/openid/v1/jwks";
/// One attempt to connect to one address.
const CONNECT_MS_MAX: u64 = 3_000;
/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 4;

/// Why keys could not be had. The text goes to status and logs.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The API server of a cluster could not be asked, or said something else.
    #[error("{0}")]
    Cluster(String),
    /// Nobody answered at the address.
    #[error("could not connect to {host}: {error}")]
    Connect {
        /// Host and port.
        host: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The discovery document is not usable.
    #[error("{url}: {problem}")]
    Discovery {
        /// Where it was fetched.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file could not be read.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The answer broke off or was not HTTP.
    #[error("{url}: {problem}")]
    Http {
        /// What was asked for.
        url: String,
        /// What went wrong.
        problem: String,
    },
    /// The JWK set was refused.
    #[error("{place}: {error}")]
    Keys {
        /// URL or file.
        place: String,
        /// Why it was refused.
        error: KeySetError,
    },
    /// The answer was not 200.
    #[error("{url}: answered {status}; {hint}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: StatusCode,
        /// What to do about it.
        hint: &'static str,
    },
    /// No answer in time.
    #[error("{url}: no complete answer within {FETCH_MS_MAX} ms")]
    Timeout {
        /// What was asked for.
        url: String,
    },
    /// The URL may not be asked.
    #[error("`{url}` is not asked: {problem}")]
    Url {
        /// The URL.
        url: String,
        /// Why not.
        problem: &'static str,
    },
}

/// The HTTP client for keys, with the roots it trusts for `https`.
#[derive(Clone)]
pub struct Fetcher {
    /// Made for the first `https` URL: a proxy without such a provider needs no roots, which are a
    /// sixth of its memory.
    tls: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl Fetcher {
    /// A client that trusts the roots of the operating system. `https` providers fail with a
    /// certificate error where there are none; plain files and loopback do not need any.
    pub fn new() -> Fetcher {
        Fetcher { tls: Arc::default() }
    }

    /// A client that trusts the given roots.
    pub fn with_roots(roots: RootCertStore) -> Fetcher {
        Fetcher { tls: Arc::new(OnceLock::from(trusting(roots))) }
    }

    /// What trusts the roots of the system is kept once all of them could be read.
    async fn tls(&self) -> Arc<ClientConfig> {
        if let Some(tls) = self.tls.get() {
            return Arc::clone(tls);
        }
        // A few hundred files: not on the thread that runs everything else.
        let read = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
        let mut roots = RootCertStore::empty();
        let Ok(native) = read else { return trusting(roots) };
        roots.add_parsable_certificates(native.certs);
        if native.errors.is_empty() {
            return Arc::clone(self.tls.get_or_init(|| trusting(roots)));
        }
        for error in &native.errors {
            tracing::warn!(%error, "some root certificates of the system were not read");
        }
        trusting(roots)
    }

    /// The current keys of a provider.
    pub(super) async fn keys(&self, provider: &Provider) -> Result<UserKeySet, FetchError> {
        let (place, json) = match &provider.spec.keys {
            ProviderKeys::File(file) => read_file(file)?,
            ProviderKeys::Discovery { api_server: Some(server), .. } => {
                of_cluster(server, &provider.spec.issuer).await?
            }
            ProviderKeys::Discovery { allowed_hosts, .. } => {
                let url = self.discover(&provider.spec.issuer, allowed_hosts).await?;
                let json = self.get(&url, JWKS_BYTES_MAX).await?;
                (url.to_string(), json)
            }
        };
        UserKeySet::from_jwks_json(&json, &provider.spec.algorithms)
            .map_err(|error| FetchError::Keys { place, error })
    }

    /// The address of the JWK set, from the provider's discovery document.
    async fn discover(
        &self,
        configured: &str,
        allowed_hosts: &[String],
    ) -> Result<KeyUrl, FetchError> {
        let issuer = KeyUrl::parse(configured)?;
        let base = configured.trim_end_matches('/');
        let url = KeyUrl::parse(&format!("{base}/.well-known/openid-configuration"))?;
        let json = self.get(&url, DISCOVERY_BYTES_MAX).await?;
        let bad = |problem: String| FetchError::Discovery { url: url.to_string(), problem };
        let document = strict_json::object(&json).map_err(|error| bad(error.to_string()))?;
        let stated = document.get("issuer").and_then(Value::as_str).unwrap_or_default();
        if stated != configured {
            let problem = format!("`issuer` is `{stated}`, configured is `{configured}`");
            return Err(bad(problem));
        }
        let Some(jwks_uri) = document.get("jwks_uri").and_then(Value::as_str) else {
            return Err(bad("`jwks_uri` is missing".into()));
        };
        let keys = KeyUrl::parse(jwks_uri)?;
        keys.check_allowed(&issuer, allowed_hosts)?;
        Ok(keys)
    }

    async fn get(&self, url: &KeyUrl, bytes_max: usize) -> Result<Bytes, FetchError> {
        let limit = Duration::from_millis(FETCH_MS_MAX);
        match tokio::time::timeout(limit, self.get_unbounded(url, bytes_max)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(FetchError::Timeout { url: url.to_string() }),
        }
    }

    async fn get_unbounded(&self, url: &KeyUrl, bytes_max: usize) -> Result<Bytes, FetchError> {
        let stream = connect(url).await?;
        if !url.is_https() {
            return exchange(stream, url, bytes_max).await;
        }
        let bad_name = |_| url.refused("its host is not a name a certificate can carry");
        let name = ServerName::try_from(url.host().to_owned()).map_err(bad_name)?;
        let connector = tokio_rustls::TlsConnector::from(self.tls().await);
        match connector.connect(name, stream).await {
            Ok(stream) => exchange(stream, url, bytes_max).await,
            Err(error) => Err(FetchError::Connect { host: url.host().to_owned(), error }),
        }
    }
}

impl Default for Fetcher {
    fn default() -> Fetcher {
        Fetcher::new()
    }
}

fn trusting(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    #[expect(clippy::expect_used, reason = "the provider has TLS 1.3 suites; every test runs this")]
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("TLS 1.3");
    let mut tls = builder.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(tls)
}

/// A URL keys may come from: `https`, or `http` on loopback; no user name, no fragment.
#[derive(Clone, Debug)]
struct KeyUrl {
    uri: Uri,
}

impl std::fmt::Display for KeyUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.uri.fmt(f)
    }
}

impl KeyUrl {
    fn parse(text: &str) -> Result<KeyUrl, FetchError> {
        let refused = |problem| FetchError::Url { url: text.to_owned(), problem };
        let uri: Uri = text.parse().map_err(|_| refused("it is not a URL"))?;
        let url = KeyUrl { uri };
        if url.uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(refused("it names no host, or a user"));
        }
        if url.is_https() {
            return Ok(url);
        }
        if url.uri.scheme() != Some(&Scheme::HTTP) {
            return Err(refused("only https is accepted"));
        }
        let address = url.host().parse::<IpAddr>();
        if url.host() == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
            return Ok(url);
        }
        Err(refused("http is accepted on loopback only; use https"))
    }

    fn is_https(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// The host, without the brackets of an IPv6 address.
    fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    fn refused(&self, problem: &'static str) -> FetchError {
        FetchError::Url { url: self.to_string(), problem }
    }

    /// The issuer's own host is always allowed; its `https` is never weakened to `http`.
    fn check_allowed(&self, issuer: &KeyUrl, allowed: &[String]) -> Result<(), FetchError> {
        if issuer.is_https() && !self.is_https() {
            return Err(self.refused("the issuer uses https, its keys must too"));
        }
        let host = self.host();
        let listed = allowed.iter().any(|entry| entry.eq_ignore_ascii_case(host));
        if listed || issuer.host().eq_ignore_ascii_case(host) {
            return Ok(());
        }
        Err(self.refused("its host is not in keys.discovery.allowedHosts"))
    }
}

async fn connect(url: &KeyUrl) -> Result<TcpStream, FetchError> {
    let host = || format!("{}:{}", url.host(), url.port());
    let failed = |error| FetchError::Connect { host: host(), error };
    let found = tokio::net::lookup_host((url.host(), url.port())).await.map_err(failed)?;
    // `localhost` may resolve to anything; without TLS only loopback is ever asked.
    let permitted = |address: &SocketAddr| url.is_https() || address.ip().is_loopback();
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for address in found.filter(permitted).take(ADDRESSES_MAX) {
        let limit = Duration::from_millis(CONNECT_MS_MAX);
        match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = std::io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failed(last))
}

/// One GET on a fresh connection.
async fn exchange<S>(stream: S, url: &KeyUrl, bytes_max: usize) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error: &dyn std::error::Error| FetchError::Http {
        url: url.to_string(),
        problem: error.to_string(),
    };
    let authority = url.uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(url.uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| broken(&error))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        check_status(response.status(), url)?;
        let body = Limited::new(response.into_body(), bytes_max).collect().await;
        Ok(body.map_err(|error| broken(&*error))?.to_bytes())
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        outcome = &mut answer => outcome,
        // The connection may end before its last bytes are taken from the body.
        _ = &mut connection => answer.await,
    }
}

fn check_status(status: StatusCode, url: &KeyUrl) -> Result<(), FetchError> {
    if status == StatusCode::OK {
        return Ok(());
    }
    let hint = if status.is_redirection() {
        "redirects are not followed; configure the final address"
    } else {
        "200 was expected"
    };
    Err(FetchError::Status { url: url.to_string(), status, hint })
}

/// The keys of a cluster, from its API server: the address it publishes for its keys need not be
/// one that pods can reach.
async fn of_cluster(server: &ApiServer, issuer: &str) -> Result<(String, Bytes), FetchError> {
    let cluster = cluster::of(server).map_err(FetchError::Cluster)?;
    let at = |path: &str| format!("{}{path}", cluster.server);
    let document = ask(&cluster, CLUSTER_DISCOVERY).await?;
    let bad = |problem: String| FetchError::Discovery { url: at(CLUSTER_DISCOVERY), problem };
    let document = strict_json::object(&document).map_err(|error| bad(error.to_string()))?;
    let stated = document.get("issuer").and_then(Value::as_str).unwrap_or_default();
    if stated != issuer {
        return Err(bad(format!("`issuer` is `{stated}`, configured is `{issuer}`")));
    }
    Ok((at(CLUSTER_KEYS), ask(&cluster, CLUSTER_KEYS).await?))
}

async fn ask(cluster: &KubernetesApi, path: &str) -> Result<Bytes, FetchError> {
    let answer = cluster::get(cluster, path).await.map_err(FetchError::Cluster)?;
    let hint = match answer.status {
        StatusCode::OK => return Ok(answer.body),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "; bind the ClusterRole `system:service-account-issuer-discovery` to the service \
             account of this gateway"
        }
        _ => "",
    };
    let what = format!("GET {}{path}: {}{hint}", cluster.server, answer.summary());
    Err(FetchError::Cluster(what))
}

fn read_file(file: &FileRef) -> Result<(String, Bytes), FetchError> {
    let path = file.resolve();
    let place = path.display().to_string();
    let failed = |error| FetchError::File { path: place.clone(), error };
    let file = std::fs::File::open(&path).map_err(failed)?;
    let mut json = Vec::new();
    let limit = u64::try_from(JWKS_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut json).map_err(failed)?;
    if json.len() > JWKS_BYTES_MAX {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    Ok((place, json.into()))
}
