//! The two workloads every gate speaks of: `edge/gateway`, which calls, and `shop/orders`, which is
//! called, with certificates of one authority. P-256 throughout, as most authorities issue.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

/// The trust domain.
pub(crate) const TRUST_DOMAIN: &str = "gates.test";
/// Who calls.
pub(crate) const GATEWAY_ID: &str = "spiffe://gates.test/ns/edge/sa/gateway";
/// Who is called.
pub(crate) const ORDERS_ID: &str = "spiffe://gates.test/ns/shop/sa/orders";

/// A certificate and its key.
pub(crate) struct Leaf {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
}

/// The authority's certificate and both leaves.
pub(crate) struct Identities {
    pub(crate) authority: rcgen::Certificate,
    pub(crate) gateway: Leaf,
    pub(crate) orders: Leaf,
}

impl Identities {
    /// New ones, valid for a day.
    pub(crate) fn create() -> Result<Identities> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = day_long(&format!("spiffe://{TRUST_DOMAIN}"))?;
        params.distinguished_name.push(rcgen::DnType::CommonName, "countersign gates");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = params.self_signed(&key)?;
        let issuer = Issuer::new(params, key);
        let leaf = |id| leaf(id, &issuer);
        Ok(Identities { authority, gateway: leaf(GATEWAY_ID)?, orders: leaf(ORDERS_ID)? })
    }
}

fn leaf(id: &str, issuer: &Issuer<'_, KeyPair>) -> Result<Leaf> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = day_long(id)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(Leaf { certificate: params.signed_by(&key, issuer)?, key })
}

/// Empty subject, one URI SAN, valid from a minute ago for a day.
fn day_long(id: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(60)).into();
    params.not_after = (now + Duration::from_secs(24 * 3600)).into();
    Ok(params)
}
