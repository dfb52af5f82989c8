//! The fields of `spec` about the process itself: identity, documents, admin, limits, audit.
//! Each reader takes its node, reports what is wrong, and gives a default so that reading goes on.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use countersign_policy::yaml::{Fields, Node, Value, read};

use super::{Reader, entries, nearest};
use crate::limits::{BOUNDS, Change, Limits};
use crate::proxy::{
    Audit, AuditSink, CallerCertificate, PersonalData, Propagation, ProxyConfig, TlsGroup,
};

/// Where status is served when nothing is written.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);
/// Where metrics are served when nothing is written.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 15020);
/// Where readiness is served under a redirect when nothing is written.
const READINESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 15021);
/// Most data-path threads.
const WORKERS_MAX: u64 = 256;

impl Reader<'_, '_> {
    /// The whole `spec`. `None` if there is no identity source or namespace to work with.
    pub(super) fn spec(&mut self, file: &Path, node: &Node) -> Option<ProxyConfig> {
        let mut fields = Fields::of(node, "`spec`", self.findings)?;
        self.places.spec = Some(node.span);
        let identity = fields.required("identity", self.findings);
        let (identity, expected_id, key) = self.identity(identity);
        let namespace = fields.required("namespace", self.findings);
        let namespace = namespace.and_then(|node| self.namespace(node));
        let labels = fields.optional("labels").map(|node| self.labels(node)).unwrap_or_default();
        let listeners = fields.required("listeners", self.findings);
        let (inbound, outbound, gateway) = self.listeners(listeners);
        let routes = self.routes(fields.optional("gateway"));
        let app = self.app(fields.optional("app"));
        let interception = self.interception(fields.optional("interception"));
        let tcp = self.tcp(fields.optional("tcp"));
        let documents = fields.required("documents", self.findings);
        let documents = self.documents(documents);
        let admin = self.service(fields.optional("admin"), "admin", ADMIN);
        let metrics = self.service(fields.optional("metrics"), "metrics", METRICS);
        let (propagation, caller_certificate) = self.context(fields.optional("context"));
        let local = self.local(fields.optional("local"));
        let grants = self.grants(fields.optional("grants"));
        let tls_groups = self.tls_groups(fields.optional("tls"));
        let workers = fields.optional("workers").and_then(|node| {
            let count = read::integer(node, 1, WORKERS_MAX, self.findings)?;
            usize::try_from(count).ok()
        });
        let issuer = self.issuer(fields.optional("issuer"));
        let audit = self.audit(fields.optional("audit"));
        let limits = self.limits(fields.optional("limits"));
        let captured = inbound.iter().any(|l| l.mode.is_captured());
        let readiness = match (fields.optional("readiness"), captured) {
            (None, false) => None,
            (node, _) => self.service(node, "readiness", READINESS),
        };
        let control = fields.optional("control").and_then(|node| self.control(node));
        self.finish(fields);
        Some(ProxyConfig {
            file: file.to_path_buf(),
            identity: identity?,
            key,
            expected_id,
            namespace: namespace?,
            labels,
            inbound,
            outbound,
            gateway,
            routes,
            app,
            admin,
            metrics,
            readiness,
            control,
            interception,
            tcp,
            local,
            grants,
            propagation,
            caller_certificate,
            tls_groups,
            issuer,
            workers,
            audit,
            limits,
            documents,
        })
    }

    fn namespace(&mut self, node: &Node) -> Option<String> {
        let text = read::short_string(node, 63, self.findings)?;
        if super::is_name(&text) && !text.contains('.') {
            return Some(text);
        }
        let hint = "lower-case letters, digits and `-`, as Kubernetes namespaces have";
        self.error(node.span, format!("`{text}` is not a namespace"), hint);
        None
    }

    fn labels(&mut self, node: &Node) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        for (key, value) in entries(node, "`labels`", self.findings) {
            if let Some(value) = read::short_string(value, 253, self.findings) {
                labels.insert(key.text.clone(), value);
            }
        }
        labels
    }

    fn documents(&mut self, node: Option<&Node>) -> Vec<PathBuf> {
        let Some(mut fields) = self.fields(node, "`documents`") else { return Vec::new() };
        let files = match fields.optional("controller") {
            Some(_) => {
                fields.not_yet("controller", self.findings);
                fields.optional("files")
            }
            None => fields.required("files", self.findings),
        };
        self.finish(fields);
        let mut paths = Vec::new();
        for item in read::filled_list(files, self.findings) {
            if let Some(path) = self.path(item) {
                paths.push(path.clone());
                self.places.documents.push((path, item.span));
            }
        }
        paths
    }

    /// The address of a small HTTP server of ours: `{address: …}`, or `none`.
    fn service(
        &mut self,
        node: Option<&Node>,
        field: &'static str,
        default: SocketAddr,
    ) -> Option<SocketAddr> {
        let Some(node) = node else {
            let span = self.places.spec?;
            self.places.listeners.push((field, default, span));
            return Some(default);
        };
        if node.text() == Some("none") {
            return None;
        }
        let mut fields = Fields::of(node, field, self.findings)?;
        let address = self.own_address(field, &mut fields);
        self.finish(fields);
        let address = address?;
        if field == "admin" && !address.ip().is_loopback() {
            let message =
                format!("{address} is not a loopback address; admin shows what a process knows");
            self.error(node.span, message, format!("write `127.0.0.1:{}`", address.port()));
        }
        Some(address)
    }

    /// `control: {socket: PATH}`.
    fn control(&mut self, node: &Node) -> Option<PathBuf> {
        let mut fields = Fields::of(node, "`control`", self.findings)?;
        let socket = fields.required("socket", self.findings);
        self.finish(fields);
        socket.and_then(|node| self.path(node))
    }

    /// `context`: how onward calls find theirs, and what else the app is told of its caller.
    fn context(&mut self, node: Option<&Node>) -> (Vec<Propagation>, Vec<CallerCertificate>) {
        const CERTIFICATE: &[(&str, CallerCertificate)] = &[
            ("x-forwarded-client-cert", CallerCertificate::Xfcc),
            ("client-cert", CallerCertificate::ClientCert),
            ("client-cert-chain", CallerCertificate::ClientCertChain),
        ];
        let default = vec![Propagation::Handle, Propagation::Traceparent];
        let Some(mut fields) = self.fields(node, "`context`") else { return (default, Vec::new()) };
        let words = fields.optional("propagation");
        let certificate = fields.optional("callerCertificate");
        self.finish(fields);
        (self.propagation(words, default), self.distinct_words(certificate, CERTIFICATE))
    }

    fn propagation(&mut self, words: Option<&Node>, default: Vec<Propagation>) -> Vec<Propagation> {
        const WORDS: &[(&str, Propagation)] = &[
            ("handle", Propagation::Handle),
            ("traceparent", Propagation::Traceparent),
            ("token", Propagation::Token),
        ];
        match words {
            None => default,
            Some(node) if node.text() == Some("none") => Vec::new(),
            words => self.distinct_words(words, WORDS),
        }
    }

    fn tls_groups(&mut self, node: Option<&Node>) -> Vec<TlsGroup> {
        const WORDS: &[(&str, TlsGroup)] = &[
            ("X25519MLKEM768", TlsGroup::X25519MlKem768),
            ("X25519", TlsGroup::X25519),
            ("secp256r1", TlsGroup::Secp256r1),
            ("secp384r1", TlsGroup::Secp384r1),
        ];
        let Some(mut fields) = self.fields(node, "`tls`") else { return Vec::new() };
        let words = fields.optional("groups");
        self.finish(fields);
        self.distinct_words(words, WORDS)
    }

    /// A list of different words of a closed set.
    fn distinct_words<T: Copy + PartialEq>(
        &mut self,
        node: Option<&Node>,
        words: &[(&'static str, T)],
    ) -> Vec<T> {
        let mut found = Vec::new();
        for item in read::filled_list(node, self.findings) {
            let Some(word) = read::one_of(item, words, self.findings) else { continue };
            if found.contains(&word) {
                let message = format!("{} stands in the list twice", item.describe());
                self.findings.error("E019", item.span, message);
            } else {
                found.push(word);
            }
        }
        found
    }

    fn audit(&mut self, node: Option<&Node>) -> Audit {
        let Some(mut fields) = self.fields(node, "`audit`") else { return Audit::default() };
        let sink = fields.optional("sink");
        let personal = fields.optional("personalData");
        let key = fields.optional("pseudonymKeyFile");
        self.finish(fields);
        let key = key.and_then(|node| self.path(node));
        const WORDS: &[(&str, bool)] = &[("clear", true), ("pseudonyms", false)];
        let clear = personal.and_then(|node| read::one_of(node, WORDS, self.findings));
        let personal_data = match clear {
            Some(true) => PersonalData::Clear,
            Some(false) | None => PersonalData::Pseudonyms(key),
        };
        Audit { sink: self.audit_sink(sink), personal_data }
    }

    fn audit_sink(&mut self, sink: Option<&Node>) -> AuditSink {
        match sink {
            None => AuditSink::Stdout,
            Some(node) if matches!(node.value, Value::Map(_)) => {
                let Some(mut inner) = self.fields(Some(node), "`audit.sink`") else {
                    return AuditSink::Stdout;
                };
                let file = self.required_path(&mut inner, "file");
                self.finish(inner);
                AuditSink::File(file)
            }
            Some(node) => {
                if node.text() != Some("stdout") {
                    let message = format!("unknown audit sink {}", node.describe());
                    self.error(node.span, message, "write `stdout` or `{file: PATH}`");
                }
                AuditSink::Stdout
            }
        }
    }

    fn limits(&mut self, node: Option<&Node>) -> Limits {
        let mut limits = Limits::default();
        let Some(node) = node else { return limits };
        for (key, value) in entries(node, "`limits`", self.findings) {
            let Some(bound) = BOUNDS.iter().find(|bound| bound.name == key.text) else {
                let free = BOUNDS.iter().filter(|bound| bound.change != Change::Fixed);
                let hint = nearest(&key.text, free.map(|bound| bound.name));
                self.error(key.span, format!("there is no bound `{}`", key.text), hint);
                continue;
            };
            let least = u64::from(bound.default != 0);
            let most = bound.ceiling;
            match (bound.change, read_number(value)) {
                (Change::Fixed, _) => {
                    self.error(
                        key.span,
                        format!("`{}` cannot be changed", key.text),
                        "docs/config.md says which bounds can",
                    );
                }
                (_, Some(number)) if (least..=most).contains(&number) => {
                    limits.set(bound.name, number)
                }
                (change, _) => {
                    let message = format!(
                        "`{}` must be a whole number from {least} to {most}, not {}",
                        key.text,
                        value.describe()
                    );
                    let only =
                        if change == Change::Lower { "it may only be lowered; " } else { "" };
                    self.error(
                        value.span,
                        message,
                        format!("{only}the default is {}", bound.default),
                    );
                }
            }
        }
        limits
    }
}

fn read_number(node: &Node) -> Option<u64> {
    match &node.value {
        Value::Scalar { text, plain: true } => text.parse().ok(),
        Value::Scalar { .. } | Value::List(_) | Value::Map(_) => None,
    }
}
