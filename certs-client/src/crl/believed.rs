//! One list: read, and held against the authority that must have signed it. Pure.
//!
//! What is read is decided by rustls-webpki, which refuses what it does not understand (delta and
//! indirect lists, unknown critical extensions, no `nextUpdate`); the serial numbers and times are
//! then taken out of the same bytes.

use std::collections::HashSet;

use countersign_workload_id::TrustDomain;
use rustls_pki_types::CertificateDer;
use webpki::{BorrowedCertRevocationList, EndEntityCert};
use x509_parser::{
    asn1_rs::{Any, Sequence},
    prelude::{CertificateRevocationList, FromDer, ParsedExtension, X509Certificate},
};

use crate::bundle::sha256;

/// A list somebody signed whom we believe.
pub(super) struct Believed {
    pub(super) domain: TrustDomain,
    /// The name of the authority.
    pub(super) issuer: Vec<u8>,
    /// SHA-256 of the authority's public key: another authority may have its name.
    pub(super) authority: [u8; 32],
    /// Where the authority is in no bundle, but below one that is: when its certificate ends.
    pub(super) intermediate_until: Option<u64>,
    /// SHA-256 of the list.
    pub(super) sha256: [u8; 32],
    pub(super) order: Order,
    pub(super) next_update: u64,
    /// Without leading zeros.
    pub(super) serials: HashSet<Box<[u8]>>,
    /// What part of the authority's certificates it is about, where it says so.
    pub(super) scope: Vec<u8>,
}

/// What makes a list newer than another one of the same authority.
#[derive(Clone, Debug, Eq, PartialEq, PartialOrd, Ord)]
pub(super) struct Order {
    this_update: u64,
    /// Length first, so that numbers of different lengths compare.
    number: (usize, Vec<u8>),
}

impl Believed {
    /// Of an intermediate that has ended nobody expects a newer one.
    pub(super) fn is_stale(&self, now: u64) -> bool {
        self.next_update < now && self.intermediate_until.is_none_or(|until| now <= until)
    }

    /// Whether both are the list of one thing, at different times.
    pub(super) fn replaces(&self, other: &Believed) -> bool {
        (&self.domain, &self.issuer, &self.authority, &self.scope)
            == (&other.domain, &other.issuer, &other.authority, &other.scope)
    }
}

/// Who may have signed a list.
#[derive(Clone, Copy)]
pub(super) struct Signer<'a> {
    pub(super) certificate: &'a CertificateDer<'static>,
    /// For which trust domain it vouches.
    pub(super) domain: &'a TrustDomain,
    /// Whether a bundle holds it.
    pub(super) is_root: bool,
}

/// A list that was read, but nobody knows yet who signed it.
pub(super) struct Read<'a> {
    list: CertificateRevocationList<'a>,
    der: &'a [u8],
    signed: &'a [u8],
    algorithm: &'a [u8],
}

impl<'a> Read<'a> {
    /// Reads a list.
    pub(super) fn from_der(der: &'a [u8]) -> Result<Read<'a>, String> {
        BorrowedCertRevocationList::from_der(der).map_err(|error| error.to_string())?;
        let bad = |error: &dyn std::fmt::Display| error.to_string();
        let (rest, list) = CertificateRevocationList::from_der(der).map_err(|e| bad(&e))?;
        if !rest.is_empty() {
            return Err("bytes follow the list".to_owned());
        }
        let (_, outer) = Sequence::from_der(der).map_err(|error| bad(&error))?;
        // Borrowed from `der`: the sequence only looks into it.
        let header = der.len().saturating_sub(outer.content.len());
        let content = der.get(header..).unwrap_or_default();
        let (after, _) = Any::from_der(content).map_err(|error| bad(&error))?;
        let signed = content.get(..content.len().saturating_sub(after.len())).unwrap_or_default();
        let (_, algorithm) = Any::from_der(after).map_err(|error| bad(&error))?;
        Ok(Read { list, der, signed, algorithm: algorithm.data })
    }

    /// The name of the authority that says it signed this.
    pub(super) fn issuer(&self) -> &[u8] {
        self.list.issuer().as_raw()
    }

    /// The name in words, for messages.
    pub(super) fn issuer_text(&self) -> String {
        self.list.issuer().to_string()
    }

    /// The list as one of `authority`, if it signed it and may sign lists.
    pub(super) fn signed_by(
        &self,
        Signer { certificate: authority, domain, is_root }: Signer<'_>,
    ) -> Option<Believed> {
        let (_, parsed) = X509Certificate::from_der(authority).ok()?;
        if parsed.subject().as_raw() != self.issuer() {
            return None;
        }
        let usage = parsed.key_usage().ok()?;
        if usage.is_some_and(|usage| !usage.value.crl_sign()) || !self.verifies(authority) {
            return None;
        }
        let until = || seconds(parsed.validity().not_after.timestamp());
        let intermediate_until = (!is_root).then(until);
        Some(Believed { intermediate_until, ..self.as_one_of(parsed.public_key().raw, domain) })
    }

    /// What it says, as the list of a root with this key: who that is was found out before.
    pub(super) fn as_one_of(&self, authority_key: &[u8], domain: &TrustDomain) -> Believed {
        Believed {
            domain: domain.clone(),
            issuer: self.issuer().to_vec(),
            authority: sha256(authority_key),
            intermediate_until: None,
            sha256: sha256(self.der),
            order: self.order(),
            next_update: self.list.next_update().map_or(0, |at| seconds(at.timestamp())),
            serials: self.serials(),
            scope: self.scope(),
        }
    }

    fn verifies(&self, authority: &CertificateDer<'_>) -> bool {
        let Ok(authority) = EndEntityCert::try_from(authority) else { return false };
        let fits = webpki::ALL_VERIFICATION_ALGS
            .iter()
            .filter(|algorithm| algorithm.signature_alg_id().as_ref() == self.algorithm);
        let signature = &self.list.signature_value.data;
        fits.into_iter()
            .any(|algorithm| authority.verify_signature(*algorithm, self.signed, signature).is_ok())
    }

    fn order(&self) -> Order {
        let number = self.list.crl_number().map(|number| number.to_bytes_be()).unwrap_or_default();
        let this_update = seconds(self.list.last_update().timestamp());
        Order { this_update, number: (number.len(), number) }
    }

    fn serials(&self) -> HashSet<Box<[u8]>> {
        let revoked = self.list.iter_revoked_certificates();
        revoked.map(|one| significant(one.raw_serial()).into()).collect()
    }

    fn scope(&self) -> Vec<u8> {
        let scope = self.list.extensions().iter().find(|extension| {
            matches!(extension.parsed_extension(), ParsedExtension::IssuingDistributionPoint(_))
        });
        scope.map(|extension| extension.value.to_vec()).unwrap_or_default()
    }
}

/// A serial number without leading zeros, so that both spellings of it are one.
pub(super) fn significant(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

fn seconds(timestamp: i64) -> u64 {
    u64::try_from(timestamp).unwrap_or(0)
}
