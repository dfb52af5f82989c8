//! Reads `callers` of a `ContextPolicy`.

use super::{known::Known, provider, scalars};
use crate::{
    doc::{ApiServer, Callers, JwtSvidCallers, ServiceAccountCallers, SvidBundle},
    yaml::{Fields, Findings, Node, read},
};

/// `rctx.idp` of service account tokens, so no identity provider may have this name.
pub(crate) const SERVICE_ACCOUNT_IDP: &str = "k8s";
/// Most scopes a caller may be granted: what a token carries.
const GRANTS_MAX: usize = 16;
/// Most trust domains.
const TRUST_DOMAINS_MAX: usize = 64;

pub(super) fn read(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Callers {
    let Some(mut fields) = Fields::of(node, "callers", findings) else { return Callers::default() };
    let service_account = fields.optional("serviceAccountToken");
    let jwt_svid = fields.optional("jwtSvid");
    let (span, empty) = (fields.span(), fields.is_empty());
    fields.finish(findings);
    if empty {
        findings
            .error("E001", span, "`callers` names no kind of token")
            .hint("name `serviceAccountToken` or `jwtSvid`, or leave `callers` out");
    }
    Callers {
        service_account: service_account
            .and_then(|node| self::service_account(node, known, findings)),
        jwt_svid: jwt_svid.and_then(|node| self::jwt_svid(node, known, findings)),
    }
}

fn service_account(
    node: &Node,
    known: &Known,
    findings: &mut Findings<'_>,
) -> Option<ServiceAccountCallers> {
    let mut fields = Fields::of(node, "serviceAccountToken", findings)?;
    let issuer_node = fields.required("issuer", findings);
    let issuer = issuer_node.and_then(|node| provider::https(node, findings));
    let audience_node = fields.optional("audience");
    let audience = audience(audience_node, known, findings);
    let review = fields.optional("tokenReview").and_then(|node| api_server(node, findings));
    let discovery = fields.optional("discovery");
    let keys = discovery.and_then(|node| provider::discovery_of_cluster(node, findings));
    let grants = grants(fields.required("grants", findings), findings);
    let span = fields.span();
    fields.finish(findings);
    if review.is_none() && discovery.is_none() {
        findings
            .error("E013", span, "`serviceAccountToken` needs `tokenReview`, `discovery` or both")
            .hint("`tokenReview: {}` asks the API server of the cluster this gateway runs in");
    }
    let issuer = issuer?;
    // Tokens without an audience of their own are for the issuer, and lie in every pod.
    if let (Some(node), true) = (audience_node, audience.as_ref() == Some(&issuer)) {
        findings
            .error("E013", node.span, "the audience is that of the API server's own tokens")
            .hint("an `audience` that is for this gateway alone, or leave it out");
    }
    if let (Some(node), Some(owner)) = (issuer_node, known.issuers.get(&issuer)) {
        let message = format!("issuer `{issuer}` belongs to provider `{owner}` already");
        findings.error("E019", node.span, message);
    }
    if let Some(provider) = known.providers.get(SERVICE_ACCOUNT_IDP) {
        let message =
            "an identity provider is named `k8s`, as tokens say of service accounts (`rctx.idp`)";
        findings.error("E019", provider.span, message).hint("give the provider another name");
    }
    Some(ServiceAccountCallers { issuer, audience: audience?, review, keys, grants })
}

/// `{server, ca, tokenFile}`, none of which must be there.
pub(super) fn api_server(node: &Node, findings: &mut Findings<'_>) -> Option<ApiServer> {
    let mut fields = Fields::of(node, "an API server", findings)?;
    let server = fields.optional("server").and_then(|node| provider::https(node, findings));
    let ca = fields.optional("ca").and_then(|node| scalars::file(node, findings));
    let token_file = fields.optional("tokenFile").and_then(|node| scalars::file(node, findings));
    fields.finish(findings);
    Some(ApiServer { server, ca, token_file })
}

fn jwt_svid(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<JwtSvidCallers> {
    let mut fields = Fields::of(node, "jwtSvid", findings)?;
    let audience = audience(fields.optional("audience"), known, findings);
    let domains_node = fields.optional("trustDomains");
    let mut trust_domains = Vec::new();
    for node in read::filled_list(domains_node, findings) {
        let Some(domain) = scalars::trust_domain(node, findings) else { continue };
        if trust_domains.contains(&domain) {
            findings.error("E019", node.span, format!("`{domain}` stands in the list twice"));
        }
        let own = known.trust_domain.as_ref().is_none_or(|own| *own == domain);
        if !own && !known.federated.contains_key(&domain) {
            let message =
                format!("trust domain `{domain}` is not this mesh's own, and not federated");
            findings.error("E005", node.span, message).hint(format!(
                "add `federation: [{{trustDomain: {domain}, bundle: …}}]` to MeshConfig"
            ));
        }
        trust_domains.push(domain);
    }
    if let (Some(node), true) = (domains_node, trust_domains.len() > TRUST_DOMAINS_MAX) {
        findings.error("E017", node.span, format!("more than {TRUST_DOMAINS_MAX} trust domains"));
    }
    let bundle = match fields.optional("bundle") {
        Some(node) => bundle(node, findings),
        None => Some(SvidBundle::Source),
    };
    let grants = grants(fields.required("grants", findings), findings);
    fields.finish(findings);
    let own = known.trust_domain.clone();
    if domains_node.is_none() {
        trust_domains.extend(own.clone());
    }
    if let (Some(node), Some(SvidBundle::File(_))) = (domains_node, &bundle)
        && trust_domains.iter().any(|domain| own.as_ref().is_some_and(|own| own != domain))
    {
        findings.error("E013", node.span, "a bundle file holds the keys of the own domain only");
    }
    Some(JwtSvidCallers { audience: audience?, trust_domains, bundle: bundle?, grants })
}

/// `{source: true}` or `{file: path}`.
fn bundle(node: &Node, findings: &mut Findings<'_>) -> Option<SvidBundle> {
    let mut fields = Fields::of(node, "bundle", findings)?;
    let source = fields.optional("source");
    let file = fields.optional("file");
    let span = fields.span();
    fields.finish(findings);
    match (source, file) {
        (Some(node), None) => {
            read::only_true(node, "source", findings).map(|()| SvidBundle::Source)
        }
        (None, Some(node)) => scalars::file(node, findings).map(SvidBundle::File),
        _ => {
            findings.error("E013", span, "`bundle` needs either `source` or `file`");
            None
        }
    }
}

/// Our `aud` value; `None` only where the trust domain itself is faulty.
fn audience(node: Option<&Node>, known: &Known, findings: &mut Findings<'_>) -> Option<String> {
    match node {
        Some(node) => read::short_string(node, scalars::TEXT_BYTES_MAX, findings),
        None => known.trust_domain.as_ref().map(|domain| format!("countersign.dev/{domain}")),
    }
}

fn grants(node: Option<&Node>, findings: &mut Findings<'_>) -> Vec<String> {
    let grants = read::strings(node, 64, findings);
    if let (Some(node), true) = (node, grants.len() > GRANTS_MAX) {
        let message = format!("a token carries at most {GRANTS_MAX} scope names");
        findings.error("E017", node.span, message);
    }
    grants
}
