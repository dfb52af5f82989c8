//! Every rule of X509-SVID validation: one good form, each bad form with its reason.

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
};
use rustls_pki_types::CertificateDer;

use super::authority::{NOW, ORDERS, TestCa, domain, extension, life, san_der, tlv, uri};
use crate::{
    SvidError, TrustBundles, Usage,
    svid::{problems, unix_time, validate},
};

const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];

/// Validates a leaf changed by `change`; the answer is the ID or the reason.
fn check(change: impl FnOnce(&mut CertificateParams)) -> String {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, change);
    answer(&[leaf.certificate], &ca.bundles(), NOW)
}

fn answer(chain: &[CertificateDer<'_>], bundles: &TrustBundles, now: u64) -> String {
    let answers =
        [Usage::TlsClient, Usage::TlsServer, Usage::Signature].map(|usage| {
            match validate(chain, bundles, usage, unix_time(now)) {
                Ok(svid) => svid.id.to_string(),
                Err(error) => error.reason().to_owned(),
            }
        });
    let [first, second, third] = answers;
    assert_eq!(first, second, "both directions agree");
    assert_eq!(first, third, "handshakes and signatures agree");
    first
}

#[test]
fn a_leaf_as_written_in_the_specification_is_accepted() {
    assert_eq!(check(|_| {}), ORDERS);
    assert_eq!(check(|params| params.extended_key_usages.clear()), ORDERS, "no EKU");
    assert_eq!(check(|params| params.is_ca = IsCa::NoCa), ORDERS, "no basic constraints");
}

#[test]
fn facts_of_the_leaf_are_those_of_the_certificate() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |_| {});
    let svid = validate(
        std::slice::from_ref(&leaf.certificate),
        &ca.bundles(),
        Usage::TlsServer,
        unix_time(NOW),
    )
    .unwrap();
    assert_eq!((svid.not_before, svid.not_after), (NOW - 60, NOW + 3600));
    assert_eq!(svid.public_key, leaf.key.public_key_raw());
    assert!(svid.spki.ends_with(&svid.public_key));
    assert_eq!(svid.leaf_sha256, crate::bundle::sha256(&leaf.certificate));
}

#[test]
fn x1_only_the_bundle_of_the_named_domain_counts() {
    let (ours, theirs) = (TestCa::new("demo.test"), TestCa::new("other.test"));
    let leaf = ours.leaf(ORDERS, |_| {}).certificate;
    assert_eq!(
        answer(std::slice::from_ref(&leaf), &TrustBundles::new(), NOW),
        "unknown_trust_domain"
    );
    assert_eq!(answer(std::slice::from_ref(&leaf), &theirs.bundles(), NOW), "unknown_trust_domain");
    let swapped = TrustBundles::from_iter([
        (domain("demo.test"), theirs.bundle()),
        (domain("other.test"), ours.bundle()),
    ]);
    assert_eq!(answer(&[leaf], &swapped, NOW), "untrusted_chain");
}

#[test]
fn x2_and_x5_an_authority_authenticates_nothing() {
    let ca = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    assert_eq!(check(ca), "not_a_leaf");
    let sign = |usage| move |params: &mut CertificateParams| params.key_usages.push(usage);
    assert_eq!(check(sign(KeyUsagePurpose::KeyCertSign)), "bad_key_usage");
    assert_eq!(check(sign(KeyUsagePurpose::CrlSign)), "bad_key_usage");
    let root = TestCa::new("demo.test");
    assert_eq!(answer(std::slice::from_ref(&root.certificate), &root.bundles(), NOW), "bad_san");
}

#[test]
fn x3_exactly_one_uri_name() {
    assert_eq!(check(|params| params.subject_alt_names.clear()), "bad_san");
    let second = "spiffe://demo.test/ns/shop/sa/payments";
    assert_eq!(check(|params| params.subject_alt_names.push(uri(second))), "bad_san");
    assert_eq!(check(|params| params.subject_alt_names.push(uri(ORDERS))), "bad_san", "twice");
    assert_eq!(check(|params| params.subject_alt_names.push(uri("https://x.test/"))), "bad_san");
    let dns = SanType::DnsName("orders.shop.svc".try_into().unwrap());
    assert_eq!(check(|params| params.subject_alt_names.push(dns)), ORDERS, "others are ignored");
}

#[test]
fn x3_a_uri_that_is_not_ascii_counts_as_a_uri() {
    let raw = |uris: &[&[u8]]| {
        let san = extension(SUBJECT_ALT_NAME, true, san_der(uris));
        check(|params| {
            params.subject_alt_names.clear();
            params.custom_extensions.push(san);
        })
    };
    assert_eq!(raw(&[ORDERS.as_bytes()]), ORDERS);
    assert_ne!(raw(&[b"spiffe://demo.test/\xff"]), ORDERS);
    assert_ne!(raw(&[ORDERS.as_bytes(), b"\xff\xfe"]), ORDERS);
    assert_ne!(raw(&[b"spiffe://demo.test/ns/shop/sa/orders\0"]), ORDERS);
}

#[test]
fn x3_a_second_san_extension_is_refused() {
    let again = extension(SUBJECT_ALT_NAME, false, san_der(&[b"spiffe://demo.test/admin"]));
    let reason = check(|params| params.custom_extensions.push(again));
    assert!(reason == "bad_san" || reason == "bad_certificate", "{reason}");
}

#[test]
fn x4_the_name_is_a_workload_of_a_trust_domain() {
    for name in [
        "spiffe://demo.test",
        "spiffe://demo.test/",
        "https://demo.test/ns/shop/sa/orders",
        "spiffe://demo.test/ns/shop/sa/orders?x=1",
        "spiffe://demo.test/ns/shop/sa/orders#x",
        "spiffe://user@demo.test/ns/shop/sa/orders",
        "spiffe://demo.test:443/ns/shop/sa/orders",
        "SPIFFE://demo.test/ns/shop/sa/orders",
        "spiffe://Demo.test/ns/shop/sa/orders",
        "spiffe:///ns/shop/sa/orders",
    ] {
        assert_eq!(check(|params| params.subject_alt_names = vec![uri(name)]), "bad_san", "{name}");
    }
}

#[test]
fn x6_key_usage_is_present_critical_and_for_signatures() {
    assert_eq!(check(|params| params.key_usages.clear()), "bad_key_usage");
    let other = vec![KeyUsagePurpose::KeyAgreement];
    assert_eq!(check(|params| params.key_usages = other), "bad_key_usage");
    let not_critical = extension(KEY_USAGE, false, vec![3, 2, 7, 0x80]);
    let replace = |params: &mut CertificateParams| {
        params.key_usages.clear();
        params.custom_extensions.push(not_critical);
    };
    assert_eq!(check(replace), "bad_key_usage");
    let and_more = |params: &mut CertificateParams| {
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    };
    assert_eq!(check(and_more), ORDERS, "more usages are fine");
}

#[test]
fn x7_extended_key_usage_has_both_or_is_absent() {
    let only =
        |usage| move |params: &mut CertificateParams| params.extended_key_usages = vec![usage];
    assert_eq!(check(only(ExtendedKeyUsagePurpose::ServerAuth)), "bad_eku");
    assert_eq!(check(only(ExtendedKeyUsagePurpose::ClientAuth)), "bad_eku");
    assert_eq!(check(only(ExtendedKeyUsagePurpose::Any)), "bad_eku");
    let and_more = |params: &mut CertificateParams| {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning);
    };
    assert_eq!(check(and_more), ORDERS, "both and more are fine");
}

#[test]
fn x9_a_uri_constraint_nobody_enforces_refuses_the_chain() {
    let subtree = tlv(0x30, &tlv(0x86, b"demo.test"));
    let constraint = tlv(0x30, &tlv(0xa0, &subtree));
    let root = TestCa::new("demo.test");
    let constrained = root.intermediate("constrained", |params| {
        params.custom_extensions.push(extension(NAME_CONSTRAINTS, true, constraint));
    });
    let leaf = constrained.leaf(ORDERS, |_| {}).certificate;
    assert_eq!(answer(&[leaf, constrained.certificate], &root.bundles(), NOW), "name_constraint");
}

#[test]
fn x10_leaf_first_then_each_issuer() {
    let root = TestCa::new("demo.test");
    let upper = root.intermediate("upper", |_| {});
    let lower = upper.intermediate("lower", |_| {});
    let leaf = lower.leaf(ORDERS, |_| {}).certificate;
    let [upper, lower] = [upper.certificate, lower.certificate];
    let bundles = root.bundles();
    let chain = |certificates: &[&CertificateDer<'static>]| {
        let chain: Vec<_> = certificates.iter().map(|one| (*one).clone()).collect();
        answer(&chain, &bundles, NOW)
    };
    assert_eq!(chain(&[&leaf, &lower, &upper]), ORDERS);
    assert_eq!(chain(&[&leaf, &lower, &upper, &root.certificate]), ORDERS, "with its root");
    assert_eq!(chain(&[&leaf, &upper, &lower]), "chain_out_of_order");
    assert_eq!(chain(&[&leaf, &upper]), "chain_out_of_order", "a gap");
    assert_eq!(chain(&[&leaf, &lower]), "untrusted_chain", "the end is missing");
    assert_eq!(chain(&[&lower, &leaf, &upper]), "bad_san", "the leaf is not first");
}

#[test]
fn x10_chains_have_a_length() {
    let root = TestCa::new("demo.test");
    let mut below = root.intermediate("1", |_| {});
    let mut certificates = vec![below.certificate.clone()];
    for depth in 2..=6 {
        below = below.intermediate(&depth.to_string(), |_| {});
        certificates.insert(0, below.certificate.clone());
    }
    certificates.insert(0, below.leaf(ORDERS, |_| {}).certificate);
    assert_eq!(certificates.len(), 7);
    assert_eq!(answer(&certificates, &root.bundles(), NOW), "chain_too_long");

    let padding = extension(&[1, 2, 3, 4], false, vec![5; 33 * 1024]);
    assert_eq!(check(|params| params.custom_extensions.push(padding)), "chain_too_long");
    assert_eq!(answer(&[], &root.bundles(), NOW), "no_certificate");
}

#[test]
fn an_issuer_must_be_allowed_to_issue() {
    let root = TestCa::new("demo.test");
    let no_sign = root.intermediate("no sign", |params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    });
    let leaf = no_sign.leaf(ORDERS, |_| {}).certificate;
    assert_eq!(answer(&[leaf, no_sign.certificate], &root.bundles(), NOW), "bad_key_usage");

    let no_ca = root.intermediate("no ca", |params| params.is_ca = IsCa::ExplicitNoCa);
    let leaf = no_ca.leaf(ORDERS, |_| {}).certificate;
    assert_eq!(answer(&[leaf, no_ca.certificate], &root.bundles(), NOW), "untrusted_chain");

    let short = root.intermediate("short", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let below = short.intermediate("below", |_| {});
    let leaf = below.leaf(ORDERS, |_| {}).certificate;
    let chain = [leaf, below.certificate, short.certificate];
    assert_eq!(answer(&chain, &root.bundles(), NOW), "untrusted_chain", "path length");
}

#[test]
fn time_is_checked_to_the_second() {
    let ca = TestCa::new("demo.test");
    let leaf = [ca.leaf(ORDERS, |params| life(params, NOW, NOW + 100)).certificate];
    assert_eq!(answer(&leaf, &ca.bundles(), NOW - 1), "not_yet_valid");
    assert_eq!(answer(&leaf, &ca.bundles(), NOW), ORDERS);
    assert_eq!(answer(&leaf, &ca.bundles(), NOW + 100), ORDERS);
    assert_eq!(answer(&leaf, &ca.bundles(), NOW + 101), "expired");

    let root = TestCa::new("demo.test");
    let old = root.intermediate("old", |params| life(params, NOW - 100, NOW - 1));
    let leaf = old.leaf(ORDERS, |_| {}).certificate;
    assert_eq!(answer(&[leaf, old.certificate], &root.bundles(), NOW), "expired", "an issuer");
}

#[test]
fn unknown_critical_extensions_refuse_and_others_do_not() {
    let unknown = |critical| extension(&[1, 3, 6, 1, 4, 1, 99999, 1], critical, vec![5, 0]);
    assert_eq!(check(|params| params.custom_extensions.push(unknown(true))), "critical_extension");
    assert_eq!(check(|params| params.custom_extensions.push(unknown(false))), ORDERS);
}

#[test]
fn key_types_of_peers() {
    let ca = TestCa::new("demo.test");
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let leaf = ca.leaf_for(key, ORDERS, |_| {});
        assert_eq!(answer(&[leaf.certificate], &ca.bundles(), NOW), ORDERS);
    }
}

#[test]
fn broken_bytes_are_refused_without_panic() {
    let ca = TestCa::new("demo.test");
    let good = ca.leaf(ORDERS, |_| {}).certificate;
    for length in 0..good.len() {
        let cut = CertificateDer::from(good[..length].to_vec());
        assert_eq!(answer(&[cut], &ca.bundles(), NOW), "bad_certificate");
    }
    let mut longer = good.to_vec();
    longer.push(0);
    assert_eq!(answer(&[CertificateDer::from(longer)], &ca.bundles(), NOW), "bad_certificate");
    for position in 0..good.len() {
        let mut flipped = good.to_vec();
        flipped[position] ^= 0x41;
        let reason = answer(&[CertificateDer::from(flipped)], &ca.bundles(), NOW);
        assert_ne!(reason, ORDERS, "byte {position}");
    }
}

#[test]
fn inspection_names_every_problem() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |params| {
        params.subject_alt_names.push(uri("spiffe://demo.test/other"));
        params.key_usages.clear();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        life(params, NOW - 100, NOW - 1);
    });
    let reasons: Vec<_> =
        problems(&[leaf.certificate], unix_time(NOW)).iter().map(SvidError::reason).collect();
    assert_eq!(reasons, ["bad_san", "bad_key_usage", "bad_eku", "expired"]);
}

#[test]
fn every_reason_is_listed_once() {
    let mut sorted = SvidError::REASONS.to_vec();
    sorted.dedup();
    assert_eq!(sorted, SvidError::REASONS);
    assert!(SvidError::REASONS.is_sorted());
    assert!(SvidError::REASONS.contains(&SvidError::NotALeaf.reason()));
}
