//! `identity.source.kubernetesCsr`, and how a process reaches the API server.

use countersign_policy::yaml::{Fields, Node, read};

use crate::identity::{IdentitySource, KubernetesApi, KubernetesCsr, KubernetesTrust};
use crate::read::Reader;

/// Who signs, unless somebody else is named.
pub(crate) const SIGNER_NAME: &str = "countersign.dev/workload";
/// The least Kubernetes lets one ask for; a signer may issue less.
const EXPIRATION_S_MIN: u64 = 600;
/// The most our signer issues.
pub(crate) const LIFE_S_MAX: u64 = 24 * 3600;
/// One hour.
pub(crate) const LIFE_S: u64 = 3600;

impl Reader<'_, '_> {
    pub(super) fn kubernetes_csr(&mut self, node: &Node) -> Option<IdentitySource> {
        let mut fields = Fields::of(node, "`kubernetesCsr`", self.findings)?;
        let api = self.kubernetes_api(&mut fields);
        let signer_name = self.signer_name(&mut fields);
        let expiration = fields.optional("expirationSeconds");
        let expiration = expiration
            .and_then(|node| read::integer(node, EXPIRATION_S_MIN, LIFE_S_MAX, self.findings));
        let trust = fields.required("trust", self.findings);
        let trust = trust.and_then(|node| self.kubernetes_trust(node));
        self.finish(fields);
        Some(IdentitySource::KubernetesCsr(KubernetesCsr {
            api: api?,
            signer_name: signer_name?,
            expiration_s: expiration.unwrap_or(LIFE_S),
            trust: trust?,
        }))
    }

    /// `server`, `ca` and `tokenFile`, which default to what every pod finds.
    pub(in crate::read) fn kubernetes_api(
        &mut self,
        fields: &mut Fields<'_>,
    ) -> Option<KubernetesApi> {
        let server = match (fields.optional("server"), self.kubernetes) {
            (Some(node), _) => self.server(node)?,
            (None, Some(server)) => server.to_owned(),
            (None, None) => {
                let message = "no API server is named, and KUBERNETES_SERVICE_HOST is not set";
                let hint = "write `server: https://HOST:PORT`";
                self.error(fields.span(), message, hint);
                return None;
            }
        };
        let mut path = |name: &'static str, default: &str| match fields.optional(name) {
            Some(node) => self.path(node),
            None => Some(format!("{}/{default}", KubernetesApi::POD_FILES).into()),
        };
        let (ca, token_file) = (path("ca", "ca.crt"), path("tokenFile", "token"));
        Some(KubernetesApi { server, ca: ca?, token_file: token_file? })
    }

    /// The address of the API server: `https` and nothing behind the port.
    fn server(&mut self, node: &Node) -> Option<String> {
        let text = read::short_string(node, 512, self.findings)?;
        let host = text.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
        match host.filter(|host| !host.is_empty() && !host.contains(['/', '@', '?', '#', ' '])) {
            Some(host) => Some(format!("https://{host}")),
            None => {
                let message = format!("`{text}` is not the address of an API server");
                self.error(node.span, message, "as in `https://10.0.0.1:443`");
                None
            }
        }
    }

    /// `signerName`, which has a domain and a name.
    pub(in crate::read) fn signer_name(&mut self, fields: &mut Fields<'_>) -> Option<String> {
        let Some(node) = fields.optional("signerName") else { return Some(SIGNER_NAME.to_owned()) };
        let text = read::short_string(node, 512, self.findings)?;
        match text.split_once('/') {
            Some((domain, name))
                if super::super::is_name(domain) && super::super::is_name(name) =>
            {
                Some(text)
            }
            _ => {
                let message = format!("`{text}` is not the name of a signer");
                self.error(node.span, message, format!("as in `{SIGNER_NAME}`"));
                None
            }
        }
    }

    fn kubernetes_trust(&mut self, node: &Node) -> Option<KubernetesTrust> {
        let mut fields = Fields::of(node, "`trust`", self.findings)?;
        let file = fields.optional("file");
        let bundle = fields.optional("clusterTrustBundle");
        let span = fields.span();
        self.finish(fields);
        match (file, bundle) {
            (Some(node), None) => self.path(node).map(KubernetesTrust::File),
            (None, Some(node)) => self.object_name(node).map(KubernetesTrust::ClusterTrustBundle),
            _ => {
                let hint = "write `{file: PATH}` or `{clusterTrustBundle: NAME}`";
                self.error(span, "trust comes from exactly one place", hint);
                None
            }
        }
    }

    /// The name of an object, which becomes part of a path: `:` joins a signer's name to its own.
    pub(in crate::read) fn object_name(&mut self, node: &Node) -> Option<String> {
        let text = read::short_string(node, 253, self.findings)?;
        if !text.is_empty() && text.split(':').all(super::super::is_name) {
            return Some(text);
        }
        let message = format!("`{text}` is not the name of an object in Kubernetes");
        self.error(node.span, message, "as in `countersign.dev:workload:trust`");
        None
    }
}
