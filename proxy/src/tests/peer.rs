use std::time::Duration;

use countersign_certs_client::Bundle;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::*;

/// Seconds since the Unix epoch: the middle of the leaf's life.
pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

fn params(name: &str, ends: u64) -> CertificateParams {
    let at = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = at(NOW - 1_000);
    params.not_after = at(ends);
    params
}

fn authority_params(name: &str, ends: u64) -> CertificateParams {
    let mut params = params(name, ends);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

pub(crate) fn root(name: &str) -> Authority {
    let params = authority_params(name, NOW + 100_000);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

pub(crate) fn trusted(root: &Authority) -> TrustBundles {
    let bundle = Bundle::from_certificates(vec![root.der().clone()]).unwrap();
    TrustBundles::from_iter([("demo.test".parse().unwrap(), bundle)])
}

/// A peer whose intermediate ends before its leaf does.
pub(crate) fn peer(root: &Authority) -> MeshPeer {
    let below = authority_params("below", NOW + 500);
    let below = CertifiedIssuer::signed_by(below, KeyPair::generate().unwrap(), root).unwrap();
    let mut leaf = params("", NOW + 1_000);
    leaf.distinguished_name = DistinguishedName::new();
    leaf.subject_alt_names =
        vec![SanType::URI("spiffe://demo.test/ns/shop/sa/orders".try_into().unwrap())];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &below).unwrap();
    let chain = [leaf.der().clone(), below.der().clone()];
    MeshPeer::of_verified_chain(Some(&chain)).unwrap()
}

pub(crate) fn at(seconds: u64) -> Now {
    Now::from_micros(seconds * 1_000_000)
}

/// What path building says of an intermediate that has ended must not hide that its root is gone.
#[test]
fn an_intermediate_that_ends_early_does_not_stand_in_for_a_root_that_is_gone() {
    let (root_there, root_gone) = (root("there"), root("gone"));
    let (good, orphan) = (peer(&root_there), peer(&root_gone));
    for now in [NOW, NOW + 600, NOW + 5_000] {
        assert!(good.is_vouched_for(&trusted(&root_there), at(now)), "{now}");
        assert!(!orphan.is_vouched_for(&trusted(&root_there), at(now)), "{now}");
        assert!(!good.is_vouched_for(&TrustBundles::new(), at(now)), "{now}");
    }
}
