//! Certificate revocation lists: which serial numbers of which authority no longer count.
//!
//! Sources hand over what they got ([`Crl`]); what is believed of it is decided once, in
//! `store`, and read by everybody through [`Crls`]. Invariants: a list counts only for
//! certificates of the authority that signed it, and of its trust domain; it stays in force until
//! that authority signs a newer one or is no longer trusted, also past its `nextUpdate`: nothing
//! that stops bringing lists makes a revoked certificate good again.

mod believed;
mod store;

use std::{collections::BTreeMap, fmt, sync::Arc};

use countersign_workload_id::TrustDomain;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use self::believed::{Believed, Read, significant};
use crate::{pem, svid::SvidError};

pub use self::store::CrlProblem;
pub(crate) use self::store::{Authorities, CrlStore};

/// A revocation list as it was delivered: DER, not believed yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Crl(Vec<u8>);

impl Crl {
    /// One list, DER.
    pub fn from_der(der: impl Into<Vec<u8>>) -> Crl {
        Crl(der.into())
    }

    /// The `X509 CRL` sections of a PEM file.
    ///
    /// # Errors
    /// What is wrong with the PEM.
    pub fn from_pem(text: &[u8]) -> Result<Vec<Crl>, String> {
        Ok(pem::crls(text)?.into_iter().map(Crl).collect())
    }

    /// How many serial numbers it names, without any trust in it: everything that is read of a list
    /// whose signature was checked. For the fuzz target and the replay of its corpus.
    ///
    /// # Errors
    /// Why it cannot be used.
    #[doc(hidden)]
    pub fn claimed_serials(&self, domain: &TrustDomain) -> Result<usize, String> {
        Ok(Read::from_der(&self.0)?.as_one_of(&[], domain).serials.len())
    }

    /// The bytes.
    pub fn der(&self) -> &[u8] {
        &self.0
    }
}

/// What a list says of a certificate: its authority by name, and the number it got there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Numbered {
    issuer: Box<[u8]>,
    serial: Box<[u8]>,
}

impl Numbered {
    /// The numbers of a chain that was validated before.
    ///
    /// # Errors
    /// When a certificate cannot be read.
    pub fn of(chain: &[CertificateDer<'_>]) -> Result<Box<[Numbered]>, SvidError> {
        let one = |(index, certificate): (usize, &CertificateDer<'_>)| {
            let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| {
                let position = index.saturating_add(1);
                SvidError::BadCertificate { position, detail: error.to_string() }
            })?;
            let issuer = parsed.issuer().as_raw().into();
            Ok(Numbered { issuer, serial: significant(parsed.raw_serial()).into() })
        };
        chain.iter().enumerate().map(one).collect()
    }
}

/// The lists of one trust domain, by the name of the authority.
type ByIssuer = BTreeMap<Vec<u8>, Vec<Arc<Believed>>>;

/// The lists in force. Clones share them.
#[derive(Clone, Default)]
pub struct Crls {
    lists: BTreeMap<TrustDomain, ByIssuer>,
}

impl Crls {
    /// Whether nothing is revoked by a list: what the data path asks first.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// How many lists are in force.
    pub fn len(&self) -> usize {
        self.all().count()
    }

    /// How many serial numbers they name.
    pub fn serials(&self) -> usize {
        self.all().map(|list| list.serials.len()).sum()
    }

    /// Lists whose authority should have signed a newer one by `now`.
    pub fn stale(&self, now: u64) -> usize {
        self.all().filter(|list| list.is_stale(now)).count()
    }

    /// Whether one of these certificates is revoked by its authority. Their chain was validated
    /// with the authorities of `domain` before.
    pub fn revoke(&self, domain: &TrustDomain, chain: &[Numbered]) -> bool {
        let Some(lists) = self.lists.get(domain) else { return false };
        chain.iter().any(|one| {
            let of_issuer = lists.get(one.issuer.as_ref());
            of_issuer.into_iter().flatten().any(|list| list.serials.contains(&one.serial))
        })
    }

    /// The same of certificates that were not numbered before.
    pub fn revoke_chain(&self, domain: &TrustDomain, chain: &[CertificateDer<'_>]) -> bool {
        // What cannot be read is not let in, once anything is revoked.
        !self.is_empty() && Numbered::of(chain).map_or(true, |chain| self.revoke(domain, &chain))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Believed>> {
        self.lists.values().flat_map(BTreeMap::values).flatten()
    }
}

impl PartialEq for Crls {
    fn eq(&self, other: &Crls) -> bool {
        self.len() == other.len()
            && self.all().map(|list| list.sha256).eq(other.all().map(|list| list.sha256))
    }
}

impl Eq for Crls {}

impl fmt::Debug for Crls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crls({} lists, {} serial numbers)", self.len(), self.serials())
    }
}
