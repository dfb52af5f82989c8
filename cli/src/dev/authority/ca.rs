//! The certificate authority itself: one P-256 key in memory, and the leaves it signs.
//!
//! Leaves have the form that `countersign` asks of every authority: not a CA, critical key usage
//! `digitalSignature`, both extended usages, exactly one URI name, and that name critical because
//! the subject is empty. They start a minute early, for clocks that differ.

use std::time::Duration;

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_workload_id::{TrustDomain, WorkloadId};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
    string::Ia5String,
};

/// How long before the time of issue a certificate starts.
const BACKDATE_S: u64 = 60;
/// Life of the authority; a restart makes a new one.
const CA_LIFE_S: u64 = 365 * 24 * 3600;

/// An authority that exists only in this process.
pub struct Ca {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
    not_after: u64,
}

/// A leaf with its key.
pub struct Issued {
    /// Whose it is.
    pub id: WorkloadId,
    /// The leaf, DER. The authority signs leaves directly, so this is the whole chain.
    pub certificate: Vec<u8>,
    /// PKCS#8 DER.
    pub key: Vec<u8>,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: u64,
}

impl Issued {
    /// Key and certificate as PEM, key first: the one-file form of the `files` source.
    pub fn pem(&self) -> String {
        pem("PRIVATE KEY", &self.key) + &pem("CERTIFICATE", &self.certificate)
    }
}

impl Ca {
    /// Makes an authority for one trust domain. `now` is in seconds since the Unix epoch.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(trust_domain: TrustDomain, now: u64) -> anyhow::Result<Ca> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key")?;
        let not_after = now.saturating_add(CA_LIFE_S);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(
            DnType::CommonName,
            format!("countersign dev authority of {trust_domain}, for development only"),
        );
        params.subject_alt_names = vec![uri(&trust_domain.id())?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.serial_number = Some(SerialNumber::from_slice(&serial()?));
        set_life(&mut params, now, not_after);
        let certificate = params.self_signed(&key).context("cannot sign the authority")?;
        Ok(Ca { trust_domain, issuer: Issuer::new(params, key), certificate, not_after })
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The trust bundle: the authority's own certificate, DER.
    pub fn bundle_der(&self) -> Vec<u8> {
        self.certificate.der().to_vec()
    }

    /// The trust bundle as PEM.
    pub fn bundle_pem(&self) -> String {
        self.certificate.pem()
    }

    /// Makes a key and signs a leaf for it that lives `ttl_s` seconds.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn issue(&self, id: &WorkloadId, ttl_s: u64, now: u64) -> anyhow::Result<Issued> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key")?;
        let not_after = now.saturating_add(ttl_s).min(self.not_after);
        let serial = serial()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(id.as_str())?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        set_life(&mut params, now, not_after);
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign a leaf")?;
        Ok(Issued {
            id: id.clone(),
            certificate: certificate.der().to_vec(),
            key: key.serialize_der(),
            serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
            not_after,
        })
    }
}

fn uri(text: &str) -> anyhow::Result<SanType> {
    Ok(SanType::URI(Ia5String::try_from(text).context("not an ASCII URI")?))
}

/// 16 random bytes; the first one is 0x40 to 0x7f, so that DER needs exactly 16.
fn serial() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).context("no randomness")?;
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x3f) | 0x40;
    }
    Ok(bytes)
}

fn set_life(params: &mut CertificateParams, now: u64, not_after: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(BACKDATE_S));
    params.not_after = epoch + Duration::from_secs(not_after);
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}
