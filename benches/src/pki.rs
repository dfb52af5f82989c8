//! The certificates of one run: a CA for the trust domain `bench.test` and the leaves of its two
//! workloads, written as PEM files that both makes of proxy read. They live for a day and are
//! made anew each time; nothing else trusts them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SanType,
};

/// The trust domain of the bench.
pub(crate) const TRUST_DOMAIN: &str = "bench.test";
/// Proxy A: where requests enter.
pub(crate) const GATEWAY_ID: &str = "spiffe://bench.test/ns/edge/sa/gateway";
/// Proxy B: in front of the server.
pub(crate) const ORDERS_ID: &str = "spiffe://bench.test/ns/shop/sa/orders";

/// Behind the app of B, where that calls on.
pub(crate) const BILLING_ID: &str = "spiffe://bench.test/ns/shop/sa/billing";

/// What proxies that check host names and no SPIFFE IDs call the server side of their TLS.
pub(crate) const BASELINE_HOST: &str = "orders.bench.test";

/// One workload's certificate and key, as files.
#[derive(Clone)]
pub(crate) struct Leaf {
    /// The chain, leaf first, PEM.
    pub(crate) certificate: PathBuf,
    /// The private key, PKCS #8 PEM.
    pub(crate) key: PathBuf,
}

/// Everything the pairs need to authenticate each other.
#[derive(Clone)]
pub(crate) struct Pki {
    /// The CA certificate, PEM.
    pub(crate) bundle: PathBuf,
    /// The leaf of [`GATEWAY_ID`].
    pub(crate) gateway: Leaf,
    /// Another one, with an Ed25519 key.
    pub(crate) gateway_ed25519: Leaf,
    /// The leaf of [`ORDERS_ID`].
    pub(crate) orders: Leaf,
    /// The leaf of [`BASELINE_HOST`].
    pub(crate) baseline: Leaf,
    /// The leaf of [`BILLING_ID`].
    pub(crate) billing: Leaf,
}

impl Pki {
    /// Makes the CA and both leaves and writes them into `dir`.
    pub(crate) fn create(dir: &Path) -> Result<Pki> {
        let ca_key = p256()?;
        let params = ca_params()?;
        let bundle = write(dir, "bundle.pem", &params.self_signed(&ca_key)?.pem())?;
        let ca = Issuer::new(params, ca_key);
        Ok(Pki {
            bundle,
            gateway: leaf(dir, "gateway", uri(GATEWAY_ID)?, p256()?, &ca)?,
            gateway_ed25519: leaf(dir, "gateway-ed25519", uri(GATEWAY_ID)?, ed25519()?, &ca)?,
            orders: leaf(dir, "orders", uri(ORDERS_ID)?, p256()?, &ca)?,
            billing: leaf(dir, "billing", uri(BILLING_ID)?, p256()?, &ca)?,
            baseline: leaf(dir, "baseline", dns(BASELINE_HOST)?, p256()?, &ca)?,
        })
    }
}

fn ca_params() -> Result<CertificateParams> {
    let mut params = day_long(uri(&format!("spiffe://{TRUST_DOMAIN}"))?)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "countersign bench");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn dns(name: &str) -> Result<SanType> {
    Ok(SanType::DnsName(name.try_into()?))
}

fn p256() -> Result<KeyPair> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn ed25519() -> Result<KeyPair> {
    Ok(KeyPair::generate_for(&PKCS_ED25519)?)
}

fn leaf(
    dir: &Path,
    name: &str,
    san: SanType,
    key: KeyPair,
    ca: &Issuer<'_, KeyPair>,
) -> Result<Leaf> {
    let mut params = day_long(san)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, ca)?;
    Ok(Leaf {
        certificate: write(dir, &format!("{name}.pem"), &certificate.pem())?,
        key: write(dir, &format!("{name}.key"), &key.serialize_pem())?,
    })
}

fn uri(id: &str) -> Result<SanType> {
    Ok(SanType::URI(id.try_into()?))
}

/// Empty subject, one alternative name, valid from a minute ago for a day.
fn day_long(san: SanType) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![san];
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(60)).into();
    params.not_after = (now + Duration::from_secs(24 * 3600)).into();
    Ok(params)
}

fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    Ok(path)
}
