//! Certificates made to order: what an honest authority issues, and what an attacker would like.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CustomExtension,
    DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer,
};

const DAY_S: u64 = 24 * 3600;

/// A certificate authority of one trust domain.
pub struct Authority {
    domain: String,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Leaf {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS #8.
    pub key: Vec<u8>,
    /// The chain as PEM.
    pub chain_pem: String,
    /// The key as PEM.
    pub key_pem: String,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: u64,
}

/// What a certificate is to say; the default is a sound SVID of one day.
pub struct Request {
    params: CertificateParams,
}

impl Authority {
    /// A new authority for a trust domain.
    ///
    /// # Panics
    /// When the domain makes no URI.
    pub fn new(domain: &str) -> Authority {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = base(&[&format!("spiffe://{domain}")]);
        params.distinguished_name.push(rcgen::DnType::CommonName, domain);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap();
        Authority {
            domain: domain.to_owned(),
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The trust domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate, DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    pub fn id(&self, namespace: &str, account: &str) -> String {
        format!("spiffe://{}/ns/{namespace}/sa/{account}", self.domain)
    }

    /// A sound SVID.
    pub fn leaf(&self, namespace: &str, account: &str) -> Leaf {
        self.issue(Request::new(&[&self.id(namespace, account)]))
    }

    /// Whatever is asked for.
    ///
    /// # Panics
    /// When rcgen refuses the request.
    pub fn issue(&self, request: Request) -> Leaf {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = request.params.signed_by(&key, &self.issuer).unwrap();
        let not_after = request.params.not_after.unix_timestamp();
        Leaf {
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            not_after: u64::try_from(not_after).unwrap_or(0),
        }
    }

    /// Signs what a request asks for, for this many seconds from now.
    ///
    /// # Panics
    /// When it is no request.
    pub fn sign_request(&self, csr_pem: &str, life_s: u64) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        let sound = Request::new(&[]).lives_s(life_s).params;
        request.params.not_before = sound.not_before;
        request.params.not_after = sound.not_after;
        request.params.key_usages = sound.key_usages;
        request.params.extended_key_usages = sound.extended_key_usages;
        request.signed_by(&self.issuer).unwrap().pem()
    }

    /// Writes the private key as `NAME.key`, for programs that sign.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_key(&self, folder: &Path, name: &str) -> PathBuf {
        write(folder, &format!("{name}.key"), &self.issuer.key().serialize_pem())
    }

    /// Whatever is asked for, for a key that is somewhere else; PEM.
    ///
    /// # Panics
    /// When rcgen refuses key or request.
    pub fn certify(&self, key: &SubjectPublicKeyInfoDer<'_>, request: Request) -> String {
        let key = SubjectPublicKeyInfo::from_der(key).unwrap();
        request.params.signed_by(&key, &self.issuer).unwrap().pem()
    }

    /// Writes the bundle as `NAME.pem`.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_bundle(&self, folder: &Path, name: &str) -> PathBuf {
        write(folder, &format!("{name}.pem"), &self.pem)
    }
}

impl Request {
    /// A sound SVID of one day with these URI names.
    ///
    /// # Panics
    /// When a URI is not ASCII.
    pub fn new(uris: &[&str]) -> Request {
        let mut params = base(uris);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Request { params }
    }

    /// Valid from a minute ago for this many seconds from now.
    #[must_use]
    pub fn lives_s(mut self, seconds: u64) -> Request {
        self.params.not_after = (SystemTime::now() + Duration::from_secs(seconds)).into();
        self
    }

    /// Valid from this instant, seconds since the Unix epoch.
    #[must_use]
    pub fn begins_at(mut self, unix_s: u64) -> Request {
        self.params.not_before = (SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s)).into();
        self
    }

    /// Issued to the pod with this UID, as an attested location says.
    #[must_use]
    pub fn in_pod(mut self, uid: &str) -> Request {
        let text = |text: &str| [&[0x0c, text.len() as u8], text.as_bytes()].concat();
        let texts = [text(uid), text("node-1"), text(""), text("")].concat();
        let location = [&[0x30, texts.len() as u8], texts.as_slice()].concat();
        let extension = CustomExtension::from_oid_content(&[2, 999, 4747, 1], location);
        self.params.custom_extensions.push(extension);
        self
    }

    /// Ended an hour ago.
    #[must_use]
    pub fn expired(mut self) -> Request {
        let now = SystemTime::now();
        self.params.not_before = (now - Duration::from_secs(DAY_S)).into();
        self.params.not_after = (now - Duration::from_secs(3600)).into();
        self
    }

    /// Begins in an hour.
    #[must_use]
    pub fn not_yet_valid(mut self) -> Request {
        self.params.not_before = (SystemTime::now() + Duration::from_secs(3600)).into();
        self
    }

    /// Allowed to sign certificates.
    #[must_use]
    pub fn authority(mut self) -> Request {
        self.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self.params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        self
    }

    /// Named for the web, beside its other names.
    ///
    /// # Panics
    /// When the name is not ASCII.
    #[must_use]
    pub fn dns(mut self, name: &str) -> Request {
        self.params.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
        self
    }
}

impl Leaf {
    /// The key for rustls.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    /// Reads what [`Leaf::write`] wrote.
    ///
    /// # Errors
    /// When a file is not there, or no PEM.
    pub fn read(certificate: &Path, key: &Path) -> anyhow::Result<Leaf> {
        let (chain_pem, key_pem) = (fs::read_to_string(certificate)?, fs::read_to_string(key)?);
        let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes());
        let chain = chain.collect::<Result<_, _>>()?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes())?;
        let key = key.secret_pkcs8_der().to_vec();
        Ok(Leaf { chain, key, chain_pem, key_pem, not_after: 0 })
    }

    /// Writes `NAME.pem` and `NAME.key`.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let certificate = write(folder, &format!("{name}.pem"), &self.chain_pem);
        (certificate, write(folder, &format!("{name}.key"), &self.key_pem))
    }
}

/// Empty subject, URI names, valid from a minute ago for a day.
fn base(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names =
        uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(60)).into();
    params.not_after = (now + Duration::from_secs(DAY_S)).into();
    params
}

/// Writes a file in one step, so that nobody reads half of it.
fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let (path, fresh) = (folder.join(name), folder.join(format!(".{name}.new")));
    fs::write(&fresh, text).unwrap();
    fs::rename(&fresh, &path).unwrap();
    path
}
