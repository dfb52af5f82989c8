//! `SignerConfig`: what a signer of certificates for pods is told.

use std::path::Path;

use countersign_policy::yaml::{Fields, Findings, Node, read};
use countersign_workload_id::TrustDomain;

use super::identity::kubernetes_csr::LIFE_S_MAX;
use super::{Environment, Places, Reader, envelope};
use crate::signer::SignerConfig;

/// The least Kubernetes lets one ask for.
const LIFE_S_MIN: u64 = 600;
/// Shorter ones end before a pod has fetched them.
const LIFE_S_LEAST: u64 = 10;
/// Certificates of one service account in a minute.
const PER_MINUTE: u64 = 600;

/// Reads the one document of a file. Problems are in `findings`.
pub(crate) fn signer_config(
    file: &Path,
    nodes: &[Node],
    environment: &Environment,
    findings: &mut Findings<'_>,
) -> Option<SignerConfig> {
    let spec = envelope(nodes, "a SignerConfig", findings)?;
    let mut reader = Reader {
        findings,
        base: file.parent().unwrap_or(Path::new("")),
        default_socket: None,
        pod_ips: None,
        kubernetes: environment.kubernetes.as_deref(),
        places: Places::default(),
    };
    reader.signer(file, spec)
}

impl Reader<'_, '_> {
    fn signer(&mut self, file: &Path, spec: &Node) -> Option<SignerConfig> {
        let mut fields = Fields::of(spec, "`spec`", self.findings)?;
        let domain = fields.required("trustDomain", self.findings);
        let trust_domain = domain.and_then(|node| self.trust_domain(node));
        // Not written at all it is what every pod finds.
        let nothing = Node { value: countersign_policy::yaml::Value::Map(Vec::new()), ..*spec };
        let api = fields.optional("kubernetes").unwrap_or(&nothing);
        let api = self.fields(Some(api), "`kubernetes`").and_then(|mut inner| {
            let api = self.kubernetes_api(&mut inner);
            self.finish(inner);
            api
        });
        let signer_name = self.signer_name(&mut fields);
        let authority = fields.required("authority", self.findings);
        let authority = self.fields(authority, "`authority`").map(|mut inner| {
            let certificate = self.required_path(&mut inner, "certificate");
            let key = self.required_path(&mut inner, "key");
            let roots = inner.optional("roots").and_then(|node| self.path(node));
            self.finish(inner);
            (certificate, key, roots)
        });
        let life_s = self.life(fields.optional("lifetime"));
        let per_minute = fields.optional("perServiceAccountPerMinute");
        let per_minute = per_minute.and_then(|node| read::integer(node, 1, 60_000, self.findings));
        let bundle = fields.optional("clusterTrustBundle");
        let cluster_trust_bundle = bundle.and_then(|node| self.object_name(node));
        if let (Some(node), Some(name), Some(signer)) =
            (bundle, &cluster_trust_bundle, &signer_name)
        {
            let prefix = format!("{}:", signer.replace('/', ":"));
            if !name.starts_with(&prefix) {
                let message = format!("`{name}` is not a bundle of the signer `{signer}`");
                self.error(node.span, message, format!("begin it with `{prefix}`"));
            }
        }
        let documents = self.signer_documents(fields.optional("documents"));
        self.finish(fields);
        let (certificate, key, roots) = authority?;
        Some(SignerConfig {
            file: file.to_path_buf(),
            trust_domain: trust_domain?,
            api: api?,
            signer_name: signer_name?,
            certificate,
            key,
            roots,
            life_s,
            per_minute: per_minute.unwrap_or(PER_MINUTE),
            cluster_trust_bundle,
            documents,
        })
    }

    fn trust_domain(&mut self, node: &Node) -> Option<TrustDomain> {
        let text = read::short_string(node, 255, self.findings)?;
        match TrustDomain::parse(&text) {
            Ok(domain) => Some(domain),
            Err(error) => {
                let message = format!("`{text}` is not a trust domain: {error}");
                self.error(node.span, message, "as in `prod.example.com`");
                None
            }
        }
    }

    fn life(&mut self, node: Option<&Node>) -> (u64, u64) {
        let default = (LIFE_S_MIN, LIFE_S_MAX);
        let Some(mut fields) = self.fields(node, "`lifetime`") else { return default };
        let mut bound = |name: &'static str, default: u64| {
            let Some(node) = fields.optional(name) else { return default };
            let Some(seconds) = read::duration_s(node, self.findings) else { return default };
            if (LIFE_S_LEAST..=LIFE_S_MAX).contains(&seconds) {
                return seconds;
            }
            self.error(node.span, "no life of a certificate", "from `10s` to `24h`");
            default
        };
        let (least, most) = (bound("min", LIFE_S_MIN), bound("max", LIFE_S_MAX));
        let span = fields.span();
        self.finish(fields);
        if least > most {
            self.error(span, "`min` is longer than `max`", "write the shorter one as `min`");
            return default;
        }
        (least, most)
    }

    fn signer_documents(&mut self, node: Option<&Node>) -> Vec<std::path::PathBuf> {
        let Some(mut fields) = self.fields(node, "`documents`") else { return Vec::new() };
        let files = fields.required("files", self.findings);
        let files = read::filled_list(files, self.findings);
        let paths = files.iter().filter_map(|node| self.path(node)).collect();
        self.finish(fields);
        paths
    }
}
