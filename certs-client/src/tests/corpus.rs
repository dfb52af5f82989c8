//! Every file of the fuzz corpora, replayed: read or refused as its name says, never a panic.

use std::{collections::BTreeSet, fs, path::PathBuf};

use countersign_config::limits::PEER_CHAIN_CERTS_MAX;
use rustls_pki_types::CertificateDer;

use super::authority::domain;
use crate::{
    Bundle, Crl, JwksForm, JwtBundle, TrustBundles,
    bundle::split_der,
    crl::Numbered,
    location::Location,
    svid::{self, Usage},
};

const DOMAIN: &str = "prod.example.com";
/// 2030-01-01, when the certificates of the corpus live.
const NOW: u64 = 1_893_456_000;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

/// The names of the files that `reads` takes, and how many it does not.
fn taken(target: &str, reads: impl Fn(&[u8]) -> bool) -> (BTreeSet<String>, usize) {
    let (mut taken, mut refused) = (BTreeSet::new(), 0);
    for entry in fs::read_dir(folder(target)).unwrap() {
        let entry = entry.unwrap();
        if reads(&fs::read(entry.path()).unwrap()) {
            taken.insert(entry.file_name().into_string().unwrap());
        } else {
            refused += 1;
        }
    }
    (taken, refused)
}

/// What the corpus was made with must be taken; what fuzzing finds may be either.
fn expect(target: &str, good: &[&str], bad_min: usize, reads: impl Fn(&[u8]) -> bool) {
    let (taken, refused) = taken(target, reads);
    let missing: Vec<_> = good.iter().filter(|name| !taken.contains(**name)).collect();
    assert!(missing.is_empty(), "{target}: {missing:?} refused, {taken:?} taken");
    assert!(refused >= bad_min, "{target}: only {refused} refused, {taken:?} taken");
}

#[test]
fn the_corpus_of_revocation_lists_replays() {
    let good = ["nobody", "some", "ed25519", "leaves_only"];
    expect("crl", &good, 6, |bytes| {
        for crl in Crl::from_pem(bytes).into_iter().flatten() {
            assert_eq!(crl.claimed_serials(&domain(DOMAIN)), Ok(3));
        }
        _ = Numbered::of(&[CertificateDer::from(bytes)]);
        Crl::from_der(bytes).claimed_serials(&domain(DOMAIN)).is_ok()
    });
}

#[test]
fn the_corpus_of_locations_replays() {
    expect("location", &["full", "unknown"], 7, |value| {
        let location = Location::from_der(value);
        if let Some(location) = &location {
            assert_eq!(Location::from_der(&location.to_der()).as_ref(), Some(location));
        }
        location.is_some()
    });
}

#[test]
fn the_corpus_of_jwt_bundles_replays() {
    let good = ["ec", "rsa", "nobody", "other_kinds", "wrong_types", "off_curve"];
    expect("jwt_bundle", &good, 6, |text| {
        let bundle = JwtBundle::parse(text, JwksForm::SpiffeBundle);
        for bundle in [JwtBundle::parse(text, JwksForm::WorkloadApi), bundle.clone()] {
            let Ok(bundle) = bundle else { continue };
            let again = JwtBundle::parse(bundle.jwks(), JwksForm::WorkloadApi).unwrap();
            assert_eq!(again.kids(), bundle.kids());
        }
        bundle.is_ok()
    });
}

#[test]
fn the_corpus_of_svids_replays() {
    let authority = fs::read(folder("svid").join("authority")).unwrap();
    let bundle = Bundle::from_concatenated_der(&authority).unwrap();
    let bundles = TrustBundles::from_iter([(domain(DOMAIN), bundle)]);
    let good = ["leaf", "leaf_located", "leaf_ed25519", "chain"];
    expect("svid", &good, 10, |bytes| {
        let whole = || vec![CertificateDer::from(bytes.to_vec())];
        let chain = split_der(bytes).unwrap_or_else(|_| whole());
        assert!(chain.len() <= PEER_CHAIN_CERTS_MAX);
        for certificate in &chain {
            _ = (svid::facts(certificate), svid::location(certificate), svid::spki(certificate));
        }
        let found = svid::validate(&chain, &bundles, Usage::TlsServer, svid::unix_time(NOW));
        found.is_ok_and(|found| *found.id.trust_domain() == domain(DOMAIN))
    });
}
