//! `ProxyConfig`, ready to run: what one process listens on, who it is, where its documents are.
//! Made only by [`resolve`](crate::resolve) from what somebody wrote, so every address is parsed,
//! every path is relative to the process, and every reference to a destination exists.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use countersign_policy::doc::PortProtocol;
use countersign_workload_id::{TrustDomain, WorkloadId};
use ipnet::IpNet;

use crate::grants::Grants;
use crate::identity::{IdentitySource, KeyPlace};
use crate::issuer::IssuerSettings;
use crate::limits::Limits;

/// Ports that are not HTTP unless somebody declares it: FTP, SSH, SMTP, POP3, IMAP, submission,
/// MySQL, NATS, Galera and PostgreSQL, where waiting for the client's first bytes may stall;
/// Redis, Elasticsearch transport and memcached, whose first bytes are no HTTP.
pub const WELL_KNOWN_TCP: &[u16] =
    &[21, 22, 25, 110, 143, 587, 3306, 4222, 4444, 5432, 6379, 9300, 11211];

/// Everything a process needs to know about itself.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The file this came from.
    pub file: PathBuf,
    /// Where certificate, key and trust come from.
    pub identity: IdentitySource,
    /// Where keys are made, for the sources whose key this process makes.
    pub key: KeyPlace,
    /// The SPIFFE ID the source must hand out; anything else is refused.
    pub expected_id: Option<WorkloadId>,
    /// The namespace selectors compare.
    pub namespace: String,
    /// The labels selectors compare.
    pub labels: BTreeMap<String, String>,
    /// Listeners for other sidecars (mTLS).
    pub inbound: Vec<InboundListener>,
    /// Listeners for the app beside us (plaintext).
    pub outbound: Vec<OutboundListener>,
    /// Public listeners.
    pub gateway: Vec<GatewayListener>,
    /// Where requests of the public listeners go; matched by [`ProxyConfig::route`].
    pub routes: Vec<Route>,
    /// What the app's ports speak and where it listens, by the port callers see.
    pub app: Vec<AppPort>,
    /// What the redirect captures and what it leaves alone.
    pub interception: Interception,
    /// Opaque connections.
    pub tcp: TcpSettings,
    /// Read-only status, loopback only.
    pub admin: Option<SocketAddr>,
    /// `/metrics`, `/ready` and `/live`.
    pub metrics: Option<SocketAddr>,
    /// `/ready` alone, answered by the data path itself.
    pub readiness: Option<SocketAddr>,
    /// The Unix socket that takes `drain`, `reload` and `log`.
    pub control: Option<PathBuf>,
    /// Where the app asks for contexts of messages and jobs; loopback only, empty: nowhere.
    pub local: Vec<SocketAddr>,
    /// Deferred grants, where this process is an issuer.
    pub grants: Grants,
    /// How onward calls of the app find their context, in order.
    pub propagation: Vec<Propagation>,
    /// How the app is told the certificate of the workload that calls, beside its identity.
    pub caller_certificate: Vec<CallerCertificate>,
    /// The TLS key exchange groups offered and accepted; empty: the default set.
    pub tls_groups: Vec<TlsGroup>,
    /// What context tokens are signed with, where this process issues them.
    pub issuer: IssuerSettings,
    /// Data-path threads; `None`: follow the CPU limit.
    pub workers: Option<usize>,
    /// Where audit records go, and how personal values leave the process.
    pub audit: Audit,
    /// The bounds in force.
    pub limits: Limits,
    /// Files and folders with documents, as written, made relative to the process.
    pub documents: Vec<PathBuf>,
}

/// How a listener learns where a connection was meant to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenMode {
    /// No privileges: from the listener's own port, or from the request.
    Explicit,
    /// From the kernel: the address the connection had before it was redirected here.
    Redirect,
    /// Inbound only: as `Redirect`, and the app sees the client's own address.
    Tproxy,
}

impl ListenMode {
    /// Whether connections come by a redirect of the kernel.
    pub fn is_captured(self) -> bool {
        self != ListenMode::Explicit
    }
}

/// What the redirect captures. Read by `countersign-proxy init`, which writes the rules, and by the
/// data path, which must agree with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interception {
    /// The user whose own connections are not captured.
    pub proxy_uid: u32,
    /// Ports of this pod whose inbound connections go to the app directly.
    pub skip_inbound_ports: Vec<u16>,
    /// Ports that the app may call directly.
    pub skip_outbound_ports: Vec<u16>,
    /// Addresses that the app may call directly.
    pub skip_outbound_cidrs: Vec<IpNet>,
    /// The pod's own addresses, beside those of its interfaces.
    pub pod_ips: Vec<IpAddr>,
    /// What becomes of traffic of other users that is not TCP.
    pub egress_other: EgressOther,
}

impl Default for Interception {
    fn default() -> Interception {
        Interception {
            proxy_uid: PROXY_UID,
            skip_inbound_ports: Vec::new(),
            skip_outbound_ports: Vec::new(),
            skip_outbound_cidrs: Vec::new(),
            pod_ips: Vec::new(),
            egress_other: EgressOther::Allow,
        }
    }
}

/// The user the proxy runs as when nothing else is written.
pub const PROXY_UID: u32 = 4747;

/// `interception.egressOther`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressOther {
    /// It leaves the pod as it is.
    Allow,
    /// It is dropped, but for DNS.
    Drop,
}

/// `tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSettings {
    /// How long an opaque connection may outlive the certificate it was opened with, seconds.
    pub after_peer_expiry_s: u64,
}

impl Default for TcpSettings {
    fn default() -> TcpSettings {
        TcpSettings { after_peer_expiry_s: 86_400 }
    }
}

/// A listener for other sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundListener {
    /// Where it listens.
    pub address: SocketAddr,
    /// How it learns the port that was meant.
    pub mode: ListenMode,
    /// Other trust domains whose workloads may call here, sorted; ours always may.
    pub trust_domains: Vec<TrustDomain>,
}

/// A listener for the app beside us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundListener {
    /// Where it listens.
    pub address: SocketAddr,
    /// How it learns the destination.
    pub mode: ListenMode,
    /// The one destination it is bound to; `None`: read from each request.
    pub destination: Option<DestinationRef>,
}

/// A public listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayListener {
    /// Where it listens.
    pub address: SocketAddr,
    /// Certificate files for HTTPS; `None`: HTTP.
    pub tls: Option<ServerCertificate>,
    /// Load balancers whose connections start with a PROXY protocol header; empty: nobody's do.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Answers every request with a redirect to the same place on HTTPS.
    pub redirect_to_https: bool,
}

/// A certificate for a public listener; the files are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCertificate {
    /// Leaf first, then intermediates, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// `clientRoots`: authorities of client certificates, PEM, by the name that documents use.
    pub client_roots: BTreeMap<String, PathBuf>,
    /// `clientCertificates`: which certificates clients are asked for.
    pub client_certificates: ClientCertificates,
}

/// Which certificates clients of a public listener are asked for. None is demanded: a client without
/// one, or with one that nobody vouches for, is a client without a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Those of `clientRoots`; without such roots none.
    #[default]
    Roots,
    /// Any, for user tokens that are bound to a certificate nobody vouches for (RFC 8705).
    Any,
}

impl ServerCertificate {
    /// Whether clients are asked for a certificate.
    pub fn asks_clients(&self) -> bool {
        !self.client_roots.is_empty() || self.client_certificates == ClientCertificates::Any
    }
}

/// Names a `Destination` document, and one of its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which of its ports; `None`: port 80, or the only one.
    pub port: Option<u16>,
}

impl std::fmt::Display for DestinationRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Sends requests of the public listeners to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The host it is for, canonical; `None`: every host.
    pub host: Option<String>,
    /// The path prefix, whole segments: `/v1/users` is for `/v1/users` and `/v1/users/7`, not for
    /// `/v1/users2`.
    pub prefix: String,
    /// Where it leads.
    pub destination: DestinationRef,
    /// What happens to CORS preflight requests, which carry no credentials.
    pub cors_preflight: CorsPreflight,
}

/// What a gateway does with a CORS preflight request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorsPreflight {
    /// Treated like any request: refused for its missing token.
    Authenticate,
    /// Handed to the app without user and without context token.
    Pass,
}

/// What one port of the app speaks, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppPort {
    /// The port callers see and policy compares.
    pub port: u16,
    /// The app's own address; `None`: the address the client dialled.
    pub address: Option<SocketAddr>,
    /// What is spoken; `None`: told from the first bytes.
    pub protocol: Option<PortProtocol>,
    /// What answers instead of an app; it speaks HTTP.
    pub service: Option<AppService>,
    /// What a TLS client that is no sidecar gets.
    pub tls: AppTls,
    /// Tokens of `Upgrade`, lower case, that may pass beside `websocket`.
    pub upgrades: Vec<String>,
    /// Whether CONNECT requests may pass.
    pub connect: bool,
    /// A shorter time for telling the protocol, milliseconds.
    pub detect_ms: Option<u64>,
}

/// A part of this process that answers on a port, behind the same pipeline as an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppService {
    /// What an issuer of context tokens offers to the mesh: the token service, and its keys.
    Issuer,
}

/// What happens to a ClientHello without a protocol of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppTls {
    /// It is the app's own TLS: its bytes are carried as they are, from a caller without identity.
    #[default]
    Mesh,
    /// TLS ends here, and the client must have a certificate of the mesh.
    Terminate,
    /// As `Mesh`, and the documents say so: the app is expected to speak TLS.
    Pass,
}

/// One way for an onward call to find the context of the request that caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The app forwards the header `Countersign-Context`.
    Handle,
    /// The app propagates W3C trace context.
    Traceparent,
    /// The app forwards the token itself, which it is given for that.
    Token,
}

/// One way to tell an app the certificate of the workload that calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerCertificate {
    /// `X-Forwarded-Client-Cert`, as Envoy writes it: who was called, hash and URI of the caller.
    Xfcc,
    /// `Client-Cert` of RFC 9440: the leaf.
    ClientCert,
    /// `Client-Cert-Chain` of RFC 9440: what else was sent.
    ClientCertChain,
}

/// A TLS 1.3 key exchange group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsGroup {
    /// X25519 with ML-KEM-768, against recorded-now, decrypted-later.
    X25519MlKem768,
    /// X25519.
    X25519,
    /// NIST P-256.
    Secp256r1,
    /// NIST P-384.
    Secp384r1,
}

/// The audit trail of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Where records go.
    pub sink: AuditSink,
    /// How users, addresses and the like are written, in records and on the admin pages.
    pub personal_data: PersonalData,
}

/// How personal values leave the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PersonalData {
    /// As they are: whoever reads the records was chosen for it.
    Clear,
    /// As pseudonyms under the key in this file, or under one drawn at each start.
    Pseudonyms(Option<PathBuf>),
}

impl Default for PersonalData {
    fn default() -> PersonalData {
        PersonalData::Pseudonyms(None)
    }
}

/// Where audit records go, one JSON line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AuditSink {
    /// Standard output.
    #[default]
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

impl ProxyConfig {
    /// The route for a canonical host and path: a route that names the host wins over one for
    /// every host, then the longest prefix wins.
    pub fn route(&self, host: &str, path: &str) -> Option<&Route> {
        self.routes
            .iter()
            .filter(|route| route.host.as_deref().is_none_or(|wanted| wanted == host))
            .filter(|route| prefix_matches(&route.prefix, path))
            .max_by_key(|route| (route.host.is_some(), route.prefix.len()))
    }

    /// The app's address behind a port that callers see.
    pub fn app_address(&self, port: u16) -> Option<SocketAddr> {
        self.app_port(port).and_then(|app| app.address)
    }

    /// Whether it is known who answers at a port that callers see.
    pub fn app_answers(&self, port: u16) -> bool {
        self.app_port(port).is_some_and(|app| app.address.is_some() || app.service.is_some())
    }

    /// What is written about a port of the app.
    pub fn app_port(&self, port: u16) -> Option<&AppPort> {
        self.app.iter().find(|app| app.port == port)
    }

    /// What a port of the app speaks: as declared, else `tcp` for well-known ports of protocols
    /// that are not HTTP or in which the server speaks first. `None`: the first bytes tell.
    pub fn port_protocol(&self, port: u16) -> Option<PortProtocol> {
        let declared = self.app_port(port).and_then(|app| app.protocol);
        declared.or_else(|| WELL_KNOWN_TCP.contains(&port).then_some(PortProtocol::Tcp))
    }

    /// Whether connections reach this process by a redirect of the kernel.
    pub fn is_captured(&self) -> bool {
        self.inbound.iter().any(|l| l.mode.is_captured())
            || self.outbound.iter().any(|l| l.mode.is_captured())
    }

    /// Every address this process listens on, with the field that says so.
    pub fn own_addresses(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> + '_ {
        let inbound = self.inbound.iter().map(|l| ("listeners.inbound", l.address));
        let outbound = self.outbound.iter().map(|l| ("listeners.outbound", l.address));
        let gateway = self.gateway.iter().map(|l| ("listeners.gateway", l.address));
        let admin = self.admin.iter().map(|a| ("admin", *a));
        let metrics = self.metrics.iter().map(|a| ("metrics", *a));
        let readiness = self.readiness.iter().map(|a| ("readiness", *a));
        let local = self.local.iter().map(|a| ("local", *a));
        let ours = admin.chain(metrics).chain(readiness).chain(local);
        inbound.chain(outbound).chain(gateway).chain(ours)
    }

    /// Whether dialling `target` would reach one of our own listeners (the loop guard). A listener
    /// on an unspecified address covers loopback and every address in `local`.
    pub fn is_own(&self, target: SocketAddr, local: &[IpAddr]) -> bool {
        self.own_addresses().any(|(_, own)| covers(own, target, local))
    }
}

/// Whether a listener on `own` would get a connection to `target`.
pub(crate) fn covers(own: SocketAddr, target: SocketAddr, local: &[IpAddr]) -> bool {
    let (listens, asked) = (own.ip().to_canonical(), target.ip().to_canonical());
    let here = asked.is_loopback() || asked.is_unspecified() || local.contains(&asked);
    own.port() == target.port() && (listens == asked || (listens.is_unspecified() && here))
}

fn prefix_matches(prefix: &str, path: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'),
        None => false,
    }
}
