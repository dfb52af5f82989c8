//! Revocation lists: whose count, for what, and for how long.

use rcgen::KeyUsagePurpose;
use rustls_pki_types::CertificateDer;

use super::authority::{NOW, ORDERS, TestCa, domain};
use crate::{
    Crl, Crls, TrustBundles,
    crl::{Authorities, CrlProblem, CrlStore},
};

const DAY: u64 = 86_400;
const OTHER: &str = "spiffe://other.test/ns/shop/sa/orders";

/// A store with the authorities it trusts.
struct Held {
    store: CrlStore,
    bundles: TrustBundles,
    in_force: Crls,
}

impl Held {
    fn by(cas: &[&TestCa]) -> Held {
        let bundles = cas.iter().map(|ca| (ca.domain.clone(), ca.bundle())).collect();
        Held { store: CrlStore::default(), bundles, in_force: Crls::default() }
    }

    fn take(&mut self, lists: &[Crl]) -> Vec<&'static str> {
        self.take_with(lists, None)
    }

    fn take_with(
        &mut self,
        lists: &[Crl],
        own: Option<&[CertificateDer<'static>]>,
    ) -> Vec<&'static str> {
        let demo = domain("demo.test");
        let own = own.map(|chain| (&demo, chain));
        let judged = self.store.take(lists, &Authorities { bundles: &self.bundles, own });
        self.in_force = judged.crls;
        judged.discarded.iter().map(CrlProblem::reason).collect()
    }

    fn revokes(&self, of: &str, certificate: &CertificateDer<'static>) -> bool {
        self.in_force.revoke_chain(&domain(of), std::slice::from_ref(certificate))
    }
}

#[test]
fn a_list_revokes_exactly_the_certificates_it_names() {
    let ca = TestCa::new("demo.test");
    let (bad, good) = (ca.leaf(ORDERS, |_| {}).certificate, ca.leaf(ORDERS, |_| {}).certificate);
    let mut held = Held::by(&[&ca]);
    assert!(!held.revokes("demo.test", &bad));
    assert!(held.take(&[ca.crl(1, &[&bad])]).is_empty());
    assert!(held.revokes("demo.test", &bad));
    assert!(!held.revokes("demo.test", &good));
    assert_eq!((held.in_force.len(), held.in_force.serials()), (1, 1));
}

#[test]
fn a_list_says_nothing_about_another_trust_domain() {
    let (demo, other) = (TestCa::new("demo.test"), TestCa::new("other.test"));
    let theirs = other.leaf(OTHER, |_| {}).certificate;
    let mut held = Held::by(&[&demo, &other]);
    // The authority of demo.test names a serial number that other.test gave out.
    assert!(held.take(&[demo.crl(1, &[&theirs])]).is_empty());
    assert!(!held.revokes("other.test", &theirs));
    assert!(held.take(&[other.crl(1, &[&theirs])]).is_empty());
    assert!(held.revokes("other.test", &theirs));
}

#[test]
fn attack_signs_a_revocation_list_with_a_key_of_its_own() {
    let (ca, forger) = (TestCa::new("demo.test"), TestCa::new("demo.test"));
    let leaf = ca.leaf(ORDERS, |_| {}).certificate;
    let mut held = Held::by(&[&ca]);
    // The same name, another key: somebody wants to shut a workload out.
    assert_eq!(held.take(&[forger.crl(1, &[&leaf])]), ["unsigned"]);
    assert!(!held.revokes("demo.test", &leaf));
    assert!(held.in_force.is_empty());
}

#[test]
fn attack_changes_a_revocation_list_on_its_way() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |_| {}).certificate;
    let list = ca.crl(1, &[&leaf]).der().to_vec();
    for position in 0..list.len() {
        let mut changed = list.clone();
        changed[position] ^= 0x01;
        let mut held = Held::by(&[&ca]);
        let problems = held.take(&[Crl::from_der(changed)]);
        assert_eq!(problems.len(), 1, "byte {position} of {}", list.len());
        assert!(held.in_force.is_empty(), "byte {position}");
    }
    for cut in 0..list.len() {
        assert_eq!(Held::by(&[&ca]).take(&[Crl::from_der(&list[..cut])]), ["malformed"], "{cut}");
    }
    let longer = [list.as_slice(), &[0]].concat();
    assert_eq!(Held::by(&[&ca]).take(&[Crl::from_der(longer)]), ["malformed"]);
}

#[test]
fn attack_brings_back_an_older_revocation_list() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |_| {}).certificate;
    let mut held = Held::by(&[&ca]);
    assert!(held.take(&[ca.crl(2, &[&leaf])]).is_empty());
    assert_eq!(held.take(&[ca.crl(1, &[])]), ["older"]);
    assert!(held.revokes("demo.test", &leaf));
    assert!(held.take(&[ca.crl(3, &[])]).is_empty(), "a newer one may take it back");
    assert!(!held.revokes("demo.test", &leaf));
}

#[test]
fn a_broken_list_leaves_the_last_good_one_and_its_companions() {
    let (demo, other) = (TestCa::new("demo.test"), TestCa::new("other.test"));
    let ours = demo.leaf(ORDERS, |_| {}).certificate;
    let theirs = other.leaf(OTHER, |_| {}).certificate;
    let mut held = Held::by(&[&demo, &other]);
    held.take(&[demo.crl(1, &[&ours])]);
    let broken = Crl::from_der(b"not a list".to_vec());
    assert_eq!(held.take(&[broken.clone(), other.crl(1, &[&theirs])]), ["malformed"]);
    assert!(held.revokes("demo.test", &ours), "the last good one stays");
    assert!(held.revokes("other.test", &theirs), "what came with it counts");
    assert!(held.take(&[broken]).is_empty(), "each is told once");
}

#[test]
fn a_list_that_comes_no_more_or_is_past_its_time_stays_in_force() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |_| {}).certificate;
    let mut held = Held::by(&[&ca]);
    held.take(&[ca.crl(1, &[&leaf])]);
    assert!(held.take(&[]).is_empty());
    assert!(held.revokes("demo.test", &leaf));
    assert_eq!(held.in_force.stale(NOW), 0);
    assert_eq!(held.in_force.stale(NOW + 2 * DAY), 1, "somebody should look");
    assert!(held.revokes("demo.test", &leaf));
}

#[test]
fn the_lists_of_an_authority_go_with_it() {
    let (old, new) = (TestCa::new("demo.test"), TestCa::new("demo.test"));
    let leaf = old.leaf(ORDERS, |_| {}).certificate;
    let mut held = Held::by(&[&old]);
    held.take(&[old.crl(1, &[&leaf])]);
    let trusted = new.bundles();
    let in_force = held.store.trust_changed(&Authorities { bundles: &trusted, own: None });
    assert!(in_force.is_empty(), "its certificates are refused for want of an authority");
}

#[test]
fn an_intermediate_signs_for_what_it_issued_and_can_be_revoked_itself() {
    let root = TestCa::new("demo.test");
    let middle = root.intermediate("middle", |_| {});
    let leaf = middle.leaf(ORDERS, |_| {}).certificate;
    let chain = [leaf.clone(), middle.certificate.clone()];
    let demo = domain("demo.test");
    let mut held = Held::by(&[&root]);
    assert_eq!(held.take(&[middle.crl(1, &[&leaf])]), ["unsigned"], "it is in no bundle");
    assert!(held.take_with(&[middle.crl(2, &[&leaf])], Some(&chain)).is_empty());
    assert!(held.in_force.revoke_chain(&demo, &chain));

    let mut held = Held::by(&[&root]);
    assert!(held.take(&[root.crl(1, &[&middle.certificate])]).is_empty());
    assert!(held.in_force.revoke_chain(&demo, &chain), "everything below it falls");
    assert!(!held.in_force.revoke_chain(&demo, &chain[..1]));
}

/// Intermediates are replaced now and then, ours too; what one of them revoked stays revoked.
#[test]
fn the_lists_of_an_intermediate_outlive_our_own_use_of_it() {
    let (root, added) = (TestCa::new("demo.test"), TestCa::new("demo.test"));
    let (before, after) = (root.intermediate("one", |_| {}), root.intermediate("two", |_| {}));
    let bad = before.leaf(ORDERS, |_| {}).certificate;
    let ours =
        |middle: &TestCa| [middle.leaf(ORDERS, |_| {}).certificate, middle.certificate.clone()];
    let demo = domain("demo.test");
    let mut held = Held::by(&[&root]);
    let list = before.crl(1, &[&bad]);
    assert!(held.take_with(std::slice::from_ref(&list), Some(&ours(&before))).is_empty());

    let both = [root.certificate.clone(), added.certificate.clone()].to_vec();
    let both: TrustBundles =
        [(demo.clone(), crate::Bundle::from_certificates(both).unwrap())].into_iter().collect();
    let ours = ours(&after);
    let authorities = Authorities { bundles: &both, own: Some((&demo, &ours)) };
    assert!(held.store.trust_changed(&authorities).revoke_chain(&demo, std::slice::from_ref(&bad)));
    let judged = held.store.take(&[list], &authorities);
    assert!(judged.discarded.is_empty() && judged.crls.revoke_chain(&demo, &[bad]));
    assert_eq!((judged.crls.stale(NOW + 2 * DAY), judged.crls.stale(u64::MAX)), (1, 0));
    let nobody = Authorities { bundles: &TrustBundles::new(), own: None };
    assert!(held.store.trust_changed(&nobody).is_empty());
}

/// Who has signed a list for each of many intermediates fills no memory.
#[test]
fn lists_of_intermediates_that_were_replaced_make_room() {
    let root = TestCa::new("demo.test");
    let mut held = Held::by(&[&root]);
    let revoked = root.leaf(ORDERS, |_| {}).certificate;
    assert!(held.take(&[root.crl(1, &[&revoked])]).is_empty());
    for number in 0..70 {
        let middle = root.intermediate(&format!("number {number}"), |_| {});
        let leaf = middle.leaf(ORDERS, |_| {}).certificate;
        let chain = [leaf.clone(), middle.certificate.clone()];
        assert!(held.take_with(&[middle.crl(1, &[&leaf])], Some(&chain)).is_empty());
        assert!(held.revokes("demo.test", &leaf), "{number}");
    }
    assert_eq!(held.in_force.len(), 64);
    assert!(held.revokes("demo.test", &revoked), "the root's own list never goes");
}

#[test]
fn an_authority_that_may_not_sign_lists_signs_none() {
    let ca = TestCa::claiming("demo.test", |params| {
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    });
    let leaf = ca.leaf(ORDERS, |_| {}).certificate;
    assert_eq!(Held::by(&[&ca]).take(&[ca.crl(1, &[&leaf])]), ["unsigned"]);
}

#[test]
fn lists_have_a_largest_size_and_number() {
    let ca = TestCa::new("demo.test");
    let huge = Crl::from_der(vec![0x30; 1024 * 1024 + 1]);
    assert_eq!(Held::by(&[&ca]).take(&[huge]), ["too_large"]);
    let many: Vec<Crl> = (0..65).map(|number| ca.crl(number, &[])).collect();
    let mut held = Held::by(&[&ca]);
    assert_eq!(held.take(&many), ["too_many"]);
    assert_eq!(held.in_force.len(), 1);
}
