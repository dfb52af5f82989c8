//! The keys of this process, if it issues context tokens: where they come from, what of them is
//! published, and which one signs.
//!
//! Invariant: private halves stay inside their signer; what is published and what is written to
//! `issuer.state` are public halves. Nothing here waits: it is called once a second and with every
//! new snapshot, on the control thread.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use countersign_certs_client::{Identity, svid};
use countersign_config::{IssuerSettings, TokenKeyKind, TokenKeys};
use countersign_ctxtoken::{
    KeySet, LocalSigner, PublishedKey, VerifyingKey, issuer_jwks, plain_jwks,
};
use countersign_policy::doc::{IssuerJwks, IssuerKeys, TrustedIssuer};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;

use super::keyring::{Keyring, OwnKey, Pace};
use super::publish::{Published, Texts};
use crate::clock::Now;
use crate::inbound::context::SKEW_S;
use crate::issuer::IdentityKey;

/// How long a key set in a file takes to reach everybody who reads it: a mounted ConfigMap.
const FILE_REFRESH_S: u64 = 90;
/// Where nothing is said.
const REFRESH_S: u64 = 300;
/// Longest life of a token, where its issuer's entry says nothing.
const TTL_S_MAX: u64 = 300;

/// The keys of this issuer.
pub struct OwnKeys {
    settings: IssuerSettings,
    ring: Keyring,
    /// The key that was made or read last.
    made: Option<Made>,
    /// Whether keys of before a restart were looked for.
    remembered: bool,
    sequence: u64,
    told: Vec<PublishedKey>,
    texts: Texts,
    published: Published,
    /// Why there is no key of the wanted kind.
    failure: Option<String>,
}

struct Made {
    key: OwnKey,
    at: u64,
    /// Of the file it was read from.
    stamp: Option<(SystemTime, u64)>,
}

impl OwnKeys {
    /// Nothing published yet.
    pub fn new(settings: IssuerSettings) -> OwnKeys {
        OwnKeys {
            settings,
            ring: Keyring::default(),
            made: None,
            remembered: false,
            sequence: 0,
            told: Vec::new(),
            texts: Texts::default(),
            published: Published::default(),
            failure: None,
        }
    }

    /// What is published, for those who serve it.
    pub fn published(&self) -> Published {
        self.published.clone()
    }

    /// Whether tokens name keys of the published set wherever that is possible.
    pub fn prefers_kid(&self) -> bool {
        self.settings.keys != TokenKeys::Identity
    }

    /// The key that signs, if tokens are to name one of the published set.
    pub fn in_use(&self, now: Now) -> Option<&OwnKey> {
        self.ring.in_use(now.secs())
    }

    /// Why no key of the published set signs yet.
    pub fn waits_for(&self) -> String {
        match &self.failure {
            Some(why) => why.clone(),
            None => {
                "its key is not in the published set yet, or not for long enough; it is used once \
                     everybody had the time to fetch it"
                    .to_owned()
            }
        }
    }

    /// Goes on with time: offers new keys, takes those into use that are published, publishes.
    /// `known` is the set that verifiers get. Whether another key signs now.
    pub fn follow(
        &mut self,
        entry: &TrustedIssuer,
        identity: Option<&Arc<Identity>>,
        known: Option<&KeySet>,
        now: Now,
    ) -> bool {
        let (pace, secs) = (pace(entry), now.secs());
        if !std::mem::replace(&mut self.remembered, true) {
            self.remember(pace, secs);
        }
        match self.candidate(entry, identity, secs) {
            Ok(Some(key)) => {
                self.failure = None;
                self.ring.offer(&key, secs);
            }
            Ok(None) => {}
            Err(why) => {
                if self.failure.as_ref() != Some(&why) {
                    tracing::warn!(code = "IS-03", "no key for context tokens: {why}");
                }
                self.failure = Some(why);
            }
        }
        let by_hand = matches!(entry.jwks, Some(IssuerJwks::File(_)));
        let seen = |kid: &str| known.is_none_or(|set| set.has(kid));
        let moved = self.ring.advance(secs, pace, by_hand, seen);
        if moved && let Some(key) = self.ring.in_use(secs) {
            tracing::info!(kid = &*key.kid, "another key signs context tokens");
        }
        self.publish(entry, known, now);
        moved
    }

    /// The key that should sign.
    fn candidate(
        &mut self,
        entry: &TrustedIssuer,
        identity: Option<&Arc<Identity>>,
        now: u64,
    ) -> Result<Option<OwnKey>, String> {
        match &self.settings.keys {
            TokenKeys::Generated { rotate_s, kind } if entry.keys != IssuerKeys::X5c => {
                let used_up = |made: &Made| {
                    // From its first use on; the wait before does not count.
                    let in_use = self.ring.in_use(now).is_some_and(|used| used.kid == made.key.kid);
                    let since = self.ring.in_use_since().unwrap_or(made.at);
                    in_use && now.saturating_sub(since) >= *rotate_s
                };
                if self.made.as_ref().is_none_or(used_up) && !self.ring.has_pending() {
                    self.made = Some(Made { key: generate(*kind)?, at: now, stamp: None });
                }
            }
            TokenKeys::File(path) if entry.keys != IssuerKeys::X5c => {
                let stamp = stamp(path);
                if stamp.is_none() || self.made.as_ref().is_none_or(|made| made.stamp != stamp) {
                    self.made = Some(Made { key: read(path)?, at: now, stamp });
                }
            }
            TokenKeys::Identity | TokenKeys::Generated { .. } | TokenKeys::File(_) => {
                return identity.map(of_identity).transpose();
            }
        }
        Ok(self.made.as_ref().map(|made| made.key.clone()))
    }

    /// Keys of before a restart, from the file that notes them.
    fn remember(&mut self, pace: Pace, now: u64) {
        let Some(path) = &self.settings.state else { return };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return cannot("read", path, &error),
        };
        match KeySet::from_jwks_json(&text) {
            Ok(set) => {
                self.sequence = set.sequence();
                self.ring.remember(set.published().map(|published| published.key), now, pace);
            }
            Err(error) => cannot("read", path, &error),
        }
    }

    fn publish(&mut self, entry: &TrustedIssuer, known: Option<&KeySet>, now: Now) {
        let keys = self.ring.published();
        if keys != self.told || self.sequence == 0 {
            // It goes on growing over restarts, as long as the clock does.
            self.sequence = self.sequence.saturating_add(1).max(now.micros());
            let text = issuer_jwks(&entry.id, &keys, self.sequence, refresh_s(entry));
            if let Some(path) = &self.settings.state
                && let Err(error) = write(path, &text)
            {
                cannot("write", path, &error);
            }
            self.texts.issuers = text.into();
            self.told.clone_from(&keys);
        }
        // Others than our verifiers ask one replica for the keys of all.
        let mut all = keys;
        for other in known.into_iter().flat_map(KeySet::published) {
            if !all.iter().any(|own| own.key == other.key) {
                all.push(other);
            }
        }
        self.texts.jwks = plain_jwks(&all).into();
        self.published.put_if_changed(&self.texts);
    }
}

fn cannot(what: &str, path: &Path, error: &dyn std::fmt::Display) {
    tracing::warn!(code = "IS-04", "issuer.state: cannot {what} {}: {error}", path.display());
}

/// The times of a rotation, as the mesh's entry for this issuer gives them.
fn pace(entry: &TrustedIssuer) -> Pace {
    let life_s = entry.max_ttl_s.unwrap_or(TTL_S_MAX) + SKEW_S;
    Pace::of(refresh_s(entry), life_s, entry.jwks.is_some())
}

fn refresh_s(entry: &TrustedIssuer) -> u64 {
    match &entry.jwks {
        Some(IssuerJwks::Destination { refresh_s, .. }) => *refresh_s,
        Some(IssuerJwks::File(_)) => FILE_REFRESH_S,
        None => REFRESH_S,
    }
}

fn generate(kind: TokenKeyKind) -> Result<OwnKey, String> {
    let failed = |_| "the cryptographic library made no key".to_owned();
    let random = SystemRandom::new();
    let pkcs8 = match kind {
        TokenKeyKind::Es256 => {
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
        }
        TokenKeyKind::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random),
    };
    local(pkcs8.map_err(failed)?.as_ref())
}

fn read(path: &Path) -> Result<OwnKey, String> {
    let unusable = |why: &dyn std::fmt::Display| format!("issuer.keys: {}: {why}", path.display());
    let key = PrivatePkcs8KeyDer::from_pem_file(path).map_err(|error| unusable(&error))?;
    local(key.secret_pkcs8_der()).map_err(|why| unusable(&why))
}

fn local(pkcs8: &[u8]) -> Result<OwnKey, String> {
    let signer = LocalSigner::from_pkcs8_der(pkcs8).map_err(|error| error.to_string())?;
    Ok(OwnKey::new(signer.verifying_key().clone(), Arc::new(signer), None))
}

fn of_identity(identity: &Arc<Identity>) -> Result<OwnKey, String> {
    let leaf = identity.chain_der.first().ok_or("the identity has no certificate")?;
    let spki = svid::spki(leaf).map_err(|error| error.to_string())?;
    let public = VerifyingKey::from_spki_der(&spki).map_err(|error| error.to_string())?;
    let signer = IdentityKey(Arc::clone(identity));
    Ok(OwnKey::new(public, Arc::new(signer), Some(identity.not_after)))
}

/// Change of a file as far as its metadata shows; `None` if it is not there.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Writes in one step, so that a crash leaves the old text or the new one.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text)?;
    std::fs::rename(&fresh, path)
}
