//! The authority: a key that signs leaves, its chain, and the roots they lead to.
//!
//! Invariants: a leaf has the form that every proxy demands, and is checked by the very function
//! they use before anybody gets it; it never outlives the authority. The key is behind a trait
//! ([`CaKey`]): a file today, a token or another service tomorrow.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_certs_client::location::LOCATION_ARCS;
use countersign_certs_client::svid::{self, Usage};
use countersign_certs_client::{Bundle, TrustBundles};
use countersign_config::SignerConfig;
use countersign_workload_id::TrustDomain;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::decide::Grant;

/// How long before the time of issue a certificate starts, for clocks that differ.
const BACKDATE_S: u64 = 60;
/// Bytes of a file with certificates or a key.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// A key that signs certificates, wherever it is.
pub trait CaKey: rcgen::SigningKey + Send + Sync {}

impl<K: rcgen::SigningKey + Send + Sync> CaKey for K {}

/// A key as rcgen takes it.
struct Held(Arc<dyn CaKey>);

impl rcgen::PublicKeyData for Held {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl rcgen::SigningKey for Held {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

/// Why there is no authority, or no certificate of it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be used.
    #[error("{path}: {problem}")]
    File {
        /// Which.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The parts do not fit each other.
    #[error("the authority cannot sign: {0}")]
    Misfit(String),
    /// It signed, and what came out is nothing a proxy would accept.
    #[error("a certificate of this authority would be refused by every proxy: {0}")]
    Refused(String),
}

/// A key with its chain.
pub struct Authority {
    domain: TrustDomain,
    issuer: Issuer<'static, Held>,
    /// What goes along with a leaf: the signing certificate and its issuers, without roots.
    chain: Vec<CertificateDer<'static>>,
    bundles: TrustBundles,
    roots_pem: String,
    not_after: u64,
}

/// A certificate that was made.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    /// The leaf and what goes along with it, PEM.
    pub(crate) pem: String,
    /// Serial number, hexadecimal.
    pub(crate) serial: String,
    /// End of validity, seconds since the Unix epoch.
    pub(crate) not_after: u64,
}

impl Authority {
    /// Reads the files of a configuration.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(config: &SignerConfig) -> Result<Authority, AuthorityError> {
        let key_pem = read(&config.key)?;
        let key = KeyPair::from_pem(&key_pem).map_err(|error| {
            let hint = "PKCS#8 (\"BEGIN PRIVATE KEY\") is needed";
            file(&config.key, format!("{error}; {hint}"))
        })?;
        let chain = certificates(&config.certificate)?;
        let roots = config.roots.as_deref().map(certificates).transpose()?;
        Authority::new(config.trust_domain.clone(), Arc::new(key), chain, roots)
    }

    /// An authority with any key. Without `roots` the first certificate of `chain` is the root.
    ///
    /// # Errors
    /// When the parts do not fit.
    pub fn new(
        domain: TrustDomain,
        key: Arc<dyn CaKey>,
        chain: Vec<CertificateDer<'static>>,
        roots: Option<Vec<CertificateDer<'static>>>,
    ) -> Result<Authority, AuthorityError> {
        let misfit = |problem: String| AuthorityError::Misfit(problem);
        let Some(signing) = chain.first().cloned() else {
            return Err(misfit("there is no certificate".to_owned()));
        };
        let roots = roots.unwrap_or_else(|| vec![signing.clone()]);
        let (_, parsed) =
            X509Certificate::from_der(&signing).map_err(|error| misfit(error.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(misfit("the private key is not the one of the certificate".to_owned()));
        }
        let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let roots_pem = roots.iter().map(|root| pem(root)).collect();
        let chain = chain.into_iter().filter(|one| !roots.contains(one)).collect();
        let bundle = Bundle::from_certificates(roots).map_err(|error| misfit(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&signing, Held(key))
            .map_err(|error| misfit(error.to_string()))?;
        let bundles = TrustBundles::from_iter([(domain.clone(), bundle)]);
        Ok(Authority { domain, issuer, chain, bundles, roots_pem, not_after })
    }

    /// The roots to publish, PEM.
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// End of validity of the signing certificate, seconds since the Unix epoch.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Signs what was granted. `now` is in seconds since the Unix epoch.
    pub(crate) fn sign(&self, grant: &Grant, now: u64) -> Result<Leaf, AuthorityError> {
        let refused = |error: rcgen::Error| AuthorityError::Refused(error.to_string());
        debug_assert_eq!(grant.id.trust_domain(), &self.domain);
        let key = SubjectPublicKeyInfo::from_der(&grant.spki).map_err(refused)?;
        let not_after = now.saturating_add(grant.life_s).min(self.not_after);
        let serial = serial()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names =
            vec![SanType::URI(grant.id.as_str().try_into().map_err(refused)?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let location = CustomExtension::from_oid_content(LOCATION_ARCS, grant.location.to_der());
        params.custom_extensions = vec![location];
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_secs(now.saturating_sub(BACKDATE_S));
        params.not_after = epoch + Duration::from_secs(not_after);
        let leaf = params.signed_by(&key, &self.issuer).map_err(refused)?;
        let chain = [&[leaf.der().clone()], self.chain.as_slice()].concat();
        self.check(&chain, grant, now)?;
        Ok(Leaf {
            pem: chain.iter().map(|certificate| pem(certificate)).collect(),
            serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
            not_after,
        })
    }

    /// Every proxy would accept it, and as nobody else.
    fn check(
        &self,
        chain: &[CertificateDer<'static>],
        grant: &Grant,
        now: u64,
    ) -> Result<(), AuthorityError> {
        let now = svid::unix_time(now);
        let svid = svid::validate(chain, &self.bundles, Usage::TlsClient, now)
            .map_err(|error| AuthorityError::Refused(error.to_string()))?;
        if svid.id == grant.id {
            return Ok(());
        }
        Err(AuthorityError::Refused(format!("it is for {}, not {}", svid.id, grant.id)))
    }
}

/// 16 random bytes; the first one is 0x40 to 0x7f, so that DER needs exactly 16.
fn serial() -> Result<[u8; 16], AuthorityError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| AuthorityError::Misfit("there is no randomness".to_owned()))?;
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x3f) | 0x40;
    }
    Ok(bytes)
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|opened| opened.take(FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| file(path, error.to_string()))?;
    Ok(text)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|error| file(path, error.to_string()))?;
    if found.is_empty() {
        return Err(file(path, "it holds no certificate".to_owned()));
    }
    Ok(found)
}

fn file(path: &Path, problem: String) -> AuthorityError {
    AuthorityError::File { path: path.display().to_string(), problem }
}

fn pem(der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut out = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out + "-----END CERTIFICATE-----\n"
}
