//! Which lists are in force, given what was delivered and whom we trust. Pure.
//!
//! A list that cannot be used is discarded and told; what came with it is used, and so is the last
//! good list of the same authority.

use std::{collections::BTreeMap, sync::Arc};

use countersign_config::limits::{CRL_BYTES_MAX, CRLS_MAX};
use countersign_workload_id::TrustDomain;
use rustls_pki_types::CertificateDer;

use super::{
    Believed, Crl, Crls,
    believed::{Read, Signer},
};
use crate::bundle::{TrustBundles, sha256};

/// Why a list was discarded.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CrlProblem {
    /// It cannot be read, or is of a kind that is not understood.
    #[error("it cannot be used: {0}")]
    Malformed(String),
    /// There is a newer one of the same authority.
    #[error("it is older than the one of {0} that is in force")]
    Older(String),
    /// It does not fit.
    #[error("it has {0} bytes, {CRL_BYTES_MAX} are taken")]
    TooLarge(usize),
    /// There are too many.
    #[error("there are {0} lists, {CRLS_MAX} are taken")]
    TooMany(usize),
    /// Nobody we trust signed it.
    #[error("no authority that is trusted here signed it, it names {0}")]
    Unsigned(String),
}

impl CrlProblem {
    /// The stable name of this reason.
    pub fn reason(&self) -> &'static str {
        match self {
            CrlProblem::Malformed(_) => "malformed",
            CrlProblem::Older(_) => "older",
            CrlProblem::TooLarge(_) => "too_large",
            CrlProblem::TooMany(_) => "too_many",
            CrlProblem::Unsigned(_) => "unsigned",
        }
    }
}

/// The lists in force and what people were told about.
#[derive(Default)]
pub(crate) struct CrlStore {
    in_force: Crls,
    /// SHA-256 of lists that were discarded, so that each is told once.
    told: BTreeMap<[u8; 32], &'static str>,
}

/// What became of a delivery.
#[must_use]
pub(crate) struct Judged {
    /// The lists in force from now on.
    pub(crate) crls: Crls,
    /// What was discarded for the first time.
    pub(crate) discarded: Vec<CrlProblem>,
}

/// Who may have signed a list.
pub(crate) struct Authorities<'a> {
    /// The authorities, by trust domain.
    pub(crate) bundles: &'a TrustBundles,
    /// Our own chain, whose intermediates may sign lists too.
    pub(crate) own: Option<(&'a TrustDomain, &'a [CertificateDer<'static>])>,
}

impl Authorities<'_> {
    fn each(&self) -> impl Iterator<Item = Signer<'_>> {
        let roots = self.bundles.domains().flat_map(|domain| {
            let bundle = self.bundles.get(domain);
            let certificates = bundle.map(|bundle| bundle.certificates()).unwrap_or_default();
            certificates.iter().map(move |certificate| Signer {
                certificate,
                domain,
                is_root: true,
            })
        });
        let own = self.own.into_iter().flat_map(|(domain, chain)| {
            let above = chain.iter().skip(1);
            above.map(move |certificate| Signer { certificate, domain, is_root: false })
        });
        roots.chain(own)
    }

    /// The list as each of them signed it; one key may stand for several trust domains.
    fn signed(&self, read: &Read<'_>) -> Vec<Believed> {
        let mut found: Vec<Believed> = Vec::new();
        for signer in self.each() {
            if let Some(believed) = read.signed_by(signer)
                && !found.iter().any(|other| other.replaces(&believed))
            {
                found.push(believed);
            }
        }
        found
    }
}

impl CrlStore {
    /// Takes what a source delivered.
    pub(crate) fn take(&mut self, given: &[Crl], authorities: &Authorities<'_>) -> Judged {
        let mut discarded = Vec::new();
        if given.len() > CRLS_MAX {
            discarded.push((sha256(&given.len().to_be_bytes()), CrlProblem::TooMany(given.len())));
        }
        for crl in given.iter().take(CRLS_MAX) {
            let digest = sha256(crl.der());
            if self.in_force.all().any(|held| held.sha256 == digest) {
                continue;
            }
            if let Err(problem) = self.one(crl, authorities) {
                discarded.push((digest, problem));
            }
        }
        let discarded = discarded.into_iter().filter_map(|(digest, problem)| {
            let first = self.told.get(&digest) != Some(&problem.reason());
            first.then_some((digest, problem))
        });
        let discarded: Vec<_> = discarded.collect();
        if self.told.len().saturating_add(discarded.len()) > CRLS_MAX {
            self.told.clear();
        }
        self.told.extend(discarded.iter().map(|(digest, problem)| (*digest, problem.reason())));
        let discarded = discarded.into_iter().map(|(_, problem)| problem).collect();
        Judged { crls: self.in_force.clone(), discarded }
    }

    /// Takes the lists of authorities that are no longer trusted out of force. Those of
    /// intermediates stay with their trust domain: that our own chain leads over another one now
    /// does not make good again what they revoked.
    pub(crate) fn trust_changed(&mut self, authorities: &Authorities<'_>) -> Crls {
        let trusted: Vec<_> = authorities
            .each()
            .filter_map(|Signer { certificate, domain, .. }| {
                let spki = crate::svid::spki(certificate).ok()?;
                Some((domain.clone(), sha256(&spki)))
            })
            .collect();
        let is_trusted = |list: &Arc<Believed>| match list.intermediate_until {
            Some(_) => authorities.bundles.get(&list.domain).is_some(),
            None => trusted.iter().any(|(of, key)| *of == list.domain && *key == list.authority),
        };
        self.in_force.lists.retain(|_, by_issuer| {
            by_issuer.retain(|_, lists| {
                lists.retain(is_trusted);
                !lists.is_empty()
            });
            !by_issuer.is_empty()
        });
        self.in_force.clone()
    }

    fn one(&mut self, crl: &Crl, authorities: &Authorities<'_>) -> Result<(), CrlProblem> {
        if crl.der().len() > CRL_BYTES_MAX {
            return Err(CrlProblem::TooLarge(crl.der().len()));
        }
        let read = Read::from_der(crl.der()).map_err(CrlProblem::Malformed)?;
        let signed = authorities.signed(&read);
        if signed.is_empty() {
            return Err(CrlProblem::Unsigned(read.issuer_text()));
        }
        let mut outcome = Ok(());
        for believed in signed {
            let put = self.put(believed, || CrlProblem::Older(read.issuer_text()));
            outcome = outcome.and(put);
        }
        outcome
    }

    /// Puts a list in force, unless a newer one is.
    fn put(
        &mut self,
        believed: Believed,
        older: impl Fn() -> CrlProblem,
    ) -> Result<(), CrlProblem> {
        let replaces = self.in_force.all().any(|held| held.replaces(&believed));
        if !replaces && !self.has_room() {
            return Err(CrlProblem::TooMany(CRLS_MAX.saturating_add(1)));
        }
        let by_issuer = self.in_force.lists.entry(believed.domain.clone()).or_default();
        let lists = by_issuer.entry(believed.issuer.clone()).or_default();
        if let Some(held) = lists.iter_mut().find(|held| held.replaces(&believed)) {
            if held.order > believed.order {
                return Err(older());
            }
            *held = Arc::new(believed);
        } else {
            lists.push(Arc::new(believed));
        }
        Ok(())
    }

    /// Whether another list fits. Intermediates come and go; where there is no room the list of the
    /// one that ends first goes.
    fn has_room(&mut self) -> bool {
        if self.in_force.len() < CRLS_MAX {
            return true;
        }
        let ends = |list: &Arc<Believed>| list.intermediate_until.map(|until| (until, list.sha256));
        let Some((_, first)) = self.in_force.all().filter_map(ends).min() else { return false };
        for lists in self.in_force.lists.values_mut().flat_map(BTreeMap::values_mut) {
            lists.retain(|list| list.sha256 != first);
        }
        true
    }
}
