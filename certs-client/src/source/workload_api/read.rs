//! From messages of the Workload API to what the gate takes. Pure.
//!
//! A message is read whole or refused whole: one empty mandatory field, one byte that does not
//! parse, and nothing of it is used.

use std::collections::BTreeSet;

use countersign_config::limits::TRUST_DOMAINS_MAX;
use countersign_workload_id::{TrustDomain, WorkloadId};
use zeroize::Zeroizing;

use super::wire::{JwtBundlesResponse, X509BundlesResponse, X509Svid, X509SvidResponse};
use crate::{
    bundle::{Bundle, TrustBundles, split_der},
    crl::Crl,
    gate::{Delivered, GateError},
    jwt_bundle::{JwksForm, JwtBundle, JwtBundles},
    key::SigningKey,
};

/// The hint of the identity that signs context tokens.
pub(crate) const TOKEN_HINT: &str = "countersign";

/// What this process uses of a message.
#[derive(Debug)]
pub(crate) struct Used {
    /// Its identity.
    pub(crate) identity: Delivered,
    /// What signs its context tokens, where that is another certificate.
    pub(crate) token_signer: Option<Delivered>,
    /// The bundles of the message.
    pub(crate) bundles: TrustBundles,
}

/// Reads a message with identities.
///
/// The first one is the default; a configured `expected` identity is looked for among all. Of the
/// same workload's certificates the first with the hint `countersign` signs its tokens: of another
/// workload's it would be refused, because who hands a token over must be who issued it.
pub(crate) fn identity(
    message: X509SvidResponse,
    expected: Option<&WorkloadId>,
) -> Result<Used, GateError> {
    let X509SvidResponse { svids, crl, federated_bundles } = message;
    let svids = svids.into_iter().map(Complete::check).collect::<Result<Vec<_>, _>>()?;
    let presented = svids.first().ok_or(GateError::EmptyField("svids"))?.id.clone();
    let chosen = match expected {
        None => svids.first(),
        Some(expected) => svids.iter().find(|svid| svid.id == *expected),
    };
    let Some(chosen) = chosen else {
        let expected = expected.unwrap_or(&presented).clone();
        return Err(GateError::UnexpectedId { expected, presented });
    };
    let own = Bundle::from_concatenated_der(&chosen.bundle)?;
    let mut bundles = bundles_by_domain(federated_bundles, "federated_bundles")?;
    bundles.insert(chosen.id.trust_domain().clone(), own);
    let marked = svids.iter().find(|svid| svid.hint == TOKEN_HINT && svid.id == chosen.id);
    let marked = marked.filter(|marked| marked.chain != chosen.chain);
    Ok(Used {
        identity: chosen.deliver(crl.into_iter().map(Crl::from_der).collect())?,
        token_signer: marked.map(|marked| marked.deliver(Vec::new())).transpose()?,
        bundles,
    })
}

/// The bundles of a message that carries no identity, and its revocation lists.
pub(crate) fn bundles(message: X509BundlesResponse) -> Result<(TrustBundles, Vec<Crl>), GateError> {
    if message.bundles.is_empty() {
        return Err(GateError::EmptyField("bundles"));
    }
    let crls = message.crl.into_iter().map(Crl::from_der).collect();
    Ok((bundles_by_domain(message.bundles, "bundles")?, crls))
}

/// An identity of a message with every mandatory field present.
struct Complete {
    id: WorkloadId,
    chain: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    bundle: Vec<u8>,
    hint: String,
}

impl Complete {
    fn check(svid: X509Svid) -> Result<Complete, GateError> {
        let key = Zeroizing::new(svid.x509_svid_key);
        for (name, empty) in [
            ("spiffe_id", svid.spiffe_id.is_empty()),
            ("x509_svid", svid.x509_svid.is_empty()),
            ("x509_svid_key", key.is_empty()),
            ("bundle", svid.bundle.is_empty()),
        ] {
            if empty {
                return Err(GateError::EmptyField(name));
            }
        }
        let id = WorkloadId::parse(&svid.spiffe_id)
            .map_err(|error| GateError::Unreadable(format!("spiffe_id: {error}")))?;
        let X509Svid { x509_svid: chain, bundle, hint, .. } = svid;
        Ok(Complete { id, chain, key, bundle, hint })
    }

    /// What the gate takes.
    fn deliver(&self, crls: Vec<Crl>) -> Result<Delivered, GateError> {
        let chain = split_der(&self.chain).map_err(|(position, detail)| {
            GateError::Unreadable(format!("certificate {position}: {detail}"))
        })?;
        let leaf = chain.first().ok_or(GateError::EmptyField("x509_svid"))?;
        if crate::svid::claimed_id(leaf)? != self.id {
            let problem = "spiffe_id is not the ID in the certificate";
            return Err(GateError::Unreadable(problem.to_owned()));
        }
        Ok(Delivered { chain, key: SigningKey::from_pkcs8(&self.key)?, crls })
    }
}

fn bundles_by_domain(
    raw: std::collections::HashMap<String, Vec<u8>>,
    field: &'static str,
) -> Result<TrustBundles, GateError> {
    by_domain(raw, field, |der| Ok(Bundle::from_concatenated_der(der)?))
}

/// The keys of JWT-SVIDs, by trust domain.
pub(crate) fn jwt_bundles(message: JwtBundlesResponse) -> Result<JwtBundles, GateError> {
    if message.bundles.is_empty() {
        return Err(GateError::EmptyField("bundles"));
    }
    by_domain(message.bundles, "bundles", |jwks| {
        JwtBundle::parse(jwks, JwksForm::WorkloadApi)
            .map_err(|error| GateError::Unreadable(format!("bundles: {error}")))
    })
}

fn by_domain<T, All: FromIterator<(TrustDomain, T)>>(
    raw: std::collections::HashMap<String, Vec<u8>>,
    field: &'static str,
    read: impl Fn(&[u8]) -> Result<T, GateError>,
) -> Result<All, GateError> {
    if raw.len() >= TRUST_DOMAINS_MAX {
        return Err(GateError::Unreadable(format!("{field}: {} trust domains", raw.len())));
    }
    let mut seen = BTreeSet::new();
    raw.into_iter()
        .map(|(name, bytes)| {
            if bytes.is_empty() {
                return Err(GateError::EmptyField(field));
            }
            let domain = TrustDomain::parse(name.strip_prefix("spiffe://").unwrap_or(&name))
                .map_err(|error| GateError::Unreadable(format!("{field}: {error}")))?;
            // `demo.test` and `spiffe://demo.test` are one: neither may stand for the other.
            if !seen.insert(domain.clone()) {
                return Err(GateError::Unreadable(format!("{field}: {domain} is there twice")));
            }
            Ok((domain, read(&bytes)?))
        })
        .collect()
}
