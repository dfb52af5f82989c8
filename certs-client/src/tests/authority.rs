//! A CA for tests: every part of what it signs can be changed before it signs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use countersign_workload_id::{TrustDomain, WorkloadId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{Bundle, Crl, Delivered, SigningKey, TrustBundles};

/// The time of all tests that do not run in real time.
pub(super) const NOW: u64 = 1_800_000_000;
/// Seconds.
const DAY: u64 = 86_400;
/// The identity most tests are about.
pub(super) const ORDERS: &str = "spiffe://demo.test/ns/shop/sa/orders";

pub(super) struct TestCa {
    pub(super) domain: TrustDomain,
    pub(super) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

pub(super) struct Leaf {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: KeyPair,
}

impl TestCa {
    pub(super) fn new(domain: &str) -> TestCa {
        TestCa::with(domain, |_| {})
    }

    pub(super) fn with(domain: &str, change: impl FnOnce(&mut CertificateParams)) -> TestCa {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = authority_params(domain, "root");
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let domain = TrustDomain::parse(domain).unwrap();
        TestCa { domain, certificate, issuer: Issuer::new(params, key) }
    }

    /// One whose certificate says something else than what it does.
    pub(super) fn claiming(domain: &str, claim: impl FnOnce(&mut CertificateParams)) -> TestCa {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let params = authority_params(domain, "root");
        let mut claimed = params.clone();
        claim(&mut claimed);
        let certificate = claimed.self_signed(&key).unwrap().der().clone();
        let domain = TrustDomain::parse(domain).unwrap();
        TestCa { domain, certificate, issuer: Issuer::new(params, key) }
    }

    /// A list of these certificates, the `number`-th of this authority, a day old and good for
    /// another day.
    pub(super) fn crl(&self, number: u64, revoked: &[&CertificateDer<'_>]) -> Crl {
        let at = |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        let one = |certificate: &&CertificateDer<'_>| {
            let (_, parsed) = X509Certificate::from_der(certificate).unwrap();
            RevokedCertParams {
                serial_number: SerialNumber::from_slice(parsed.raw_serial()),
                revocation_time: at(NOW - DAY),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            }
        };
        let params = CertificateRevocationListParams {
            this_update: at(NOW - DAY + number),
            next_update: at(NOW + DAY),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(one).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Crl::from_der(params.signed_by(&self.issuer).unwrap().der().to_vec())
    }

    /// An authority below this one.
    pub(super) fn intermediate(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> TestCa {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = authority_params(self.domain.as_str(), name);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        TestCa { domain: self.domain.clone(), certificate, issuer: Issuer::new(params, key) }
    }

    pub(super) fn leaf(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        self.leaf_for(key, id, change)
    }

    pub(super) fn leaf_for(
        &self,
        key: KeyPair,
        id: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(id)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        life(&mut params, NOW - 60, NOW + 3600);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Leaf { certificate, key }
    }

    /// The certificate that a request asks for, as somebody who believes it would sign it.
    pub(super) fn sign(
        &self,
        csr_pem: &str,
        id: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateDer<'static> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(id)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        life(&mut params, NOW - 60, NOW + 3600);
        change(&mut params);
        params.signed_by(&request.public_key, &self.issuer).unwrap().der().clone()
    }

    pub(super) fn bundle(&self) -> Bundle {
        Bundle::from_certificates(vec![self.certificate.clone()]).unwrap()
    }

    pub(super) fn bundles(&self) -> TrustBundles {
        TrustBundles::from_iter([(self.domain.clone(), self.bundle())])
    }
}

impl Leaf {
    pub(super) fn delivered(&self) -> Delivered {
        Delivered {
            chain: vec![self.certificate.clone()],
            key: SigningKey::from_pkcs8(self.key.serialized_der()).unwrap(),
            crls: Vec::new(),
        }
    }

    pub(super) fn pem(&self) -> String {
        self.key.serialize_pem() + &pem(&self.certificate)
    }
}

pub(super) fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(certificate);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

pub(super) fn life(params: &mut CertificateParams, from: u64, to: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from);
    params.not_after = epoch + Duration::from_secs(to);
}

pub(super) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(super) fn id(text: &str) -> WorkloadId {
    WorkloadId::parse(text).unwrap()
}

pub(super) fn domain(text: &str) -> TrustDomain {
    TrustDomain::parse(text).unwrap()
}

/// A clock that stands still at `NOW` until somebody turns it; in seconds.
pub(super) fn clock() -> (crate::Clock, Arc<AtomicU64>) {
    let hands = Arc::new(AtomicU64::new(NOW));
    let read = Arc::clone(&hands);
    (Arc::new(move || read.load(Ordering::Relaxed) * 1000), hands)
}

/// Waits for a published value that fits.
pub(super) async fn until<T: Clone>(
    reader: &mut watch::Receiver<T>,
    fits: impl FnMut(&T) -> bool,
) -> T {
    tokio::time::timeout(Duration::from_secs(20), reader.wait_for(fits))
        .await
        .expect("published in time")
        .expect("the source lives")
        .clone()
}

/// An extension in any form, also forms the library would not write.
pub(super) fn extension(oid: &[u64], critical: bool, content: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content);
    extension.set_criticality(critical);
    extension
}

/// `SubjectAltName` with these URI names, DER.
pub(super) fn san_der(uris: &[&[u8]]) -> Vec<u8> {
    let names: Vec<u8> = uris.iter().flat_map(|uri| tlv(0x86, uri)).collect();
    tlv(0x30, &names)
}

/// One DER element of fewer than 128 bytes.
pub(super) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag, u8::try_from(content.len()).unwrap()];
    assert!(content.len() < 128);
    out.extend_from_slice(content);
    out
}

fn authority_params(domain: &str, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{name} of {domain}"));
    params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    life(&mut params, NOW - 3600, NOW + 1_000_000_000);
    params
}
