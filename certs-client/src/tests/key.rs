//! Keys: which are taken, what is said about the others, and that none can be printed.

use aws_lc_rs::{
    encoding::AsDer as _,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
        ED25519, EcdsaKeyPair, UnparsedPublicKey,
    },
};
use countersign_ctxtoken::{Algorithm, TokenSigner};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

use super::authority::{NOW, ORDERS, TestCa};
use crate::{KeyError, KeyType, SigningKey, gate};

#[test]
fn p256_and_ed25519_sign_in_jose_form() {
    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let key = SigningKey::from_pkcs8(p256.serialized_der()).unwrap();
    assert_eq!((key.key_type(), key.algorithm()), (KeyType::P256, Algorithm::Es256));
    let signature = key.sign(b"message").unwrap();
    assert_eq!(signature.len(), 64);
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key())
        .verify(b"message", &signature)
        .unwrap();

    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let key = SigningKey::from_pkcs8(ed25519.serialized_der()).unwrap();
    assert_eq!((key.key_type(), key.algorithm()), (KeyType::Ed25519, Algorithm::Ed25519));
    let signature = key.sign(b"message").unwrap();
    UnparsedPublicKey::new(&ED25519, key.public_key()).verify(b"message", &signature).unwrap();
}

#[test]
fn other_keys_are_refused_with_the_fix() {
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let error = SigningKey::from_pkcs8(p384.serialized_der()).unwrap_err();
    assert_eq!(error, KeyError::Unsupported { found: "ECDSA P-384" });
    assert!(error.to_string().contains("workload_x509_svid_key_type = \"ec-p256\""));

    // The head of an RSA key in PKCS#8: the type is told from there.
    let rsa = [
        &[0x30, 0x17, 0x02, 0x01, 0x00, 0x30, 0x0d, 0x06, 0x09][..],
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00],
        &[0x04, 0x03, 0x30, 0x01, 0x00],
    ]
    .concat();
    assert_eq!(SigningKey::from_pkcs8(&rsa).unwrap_err(), KeyError::Unsupported { found: "RSA" });

    let good = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_der();
    for length in 0..good.len() {
        assert!(SigningKey::from_pkcs8(&good[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn a_sec1_key_is_the_same_key() {
    let pkcs8 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_der();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).unwrap();
    let sec1 = pair.private_key().as_der().unwrap();
    let key = SigningKey::from_sec1(sec1.as_ref()).unwrap();
    assert_eq!(key.public_key(), SigningKey::from_pkcs8(&pkcs8).unwrap().public_key());
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key())
        .verify(b"message", &key.sign(b"message").unwrap())
        .unwrap();
    for length in 0..sec1.as_ref().len() {
        assert!(SigningKey::from_sec1(&sec1.as_ref()[..length]).is_err(), "cut at {length}");
    }
    assert_eq!(SigningKey::from_sec1(&pkcs8).unwrap_err(), KeyError::Malformed, "not what it says");

    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, p384.serialized_der());
    let p384 = pair.unwrap().private_key().as_der().unwrap();
    let error = SigningKey::from_sec1(p384.as_ref()).unwrap_err();
    assert_eq!(error, KeyError::Unsupported { found: "ECDSA P-384" });
}

#[test]
fn nothing_prints_a_key() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |_| {});
    let identity = gate::admit(leaf.delivered(), &ca.bundles(), None, NOW).unwrap();
    let text = format!("{identity:?}");
    assert!(text.contains("SigningKey(..)"), "{text}");

    let secret = leaf.key.serialize_der();
    let message =
        crate::source::workload_api::wire::X509Svid { x509_svid_key: secret, ..Default::default() };
    assert!(!format!("{message:?}").contains("key"), "{message:?}");
}

#[test]
fn an_identity_serves_rustls() {
    let ca = TestCa::new("demo.test");
    let identity =
        gate::admit(ca.leaf(ORDERS, |_| {}).delivered(), &ca.bundles(), None, NOW).unwrap();
    identity.to_rustls().keys_match().unwrap();
}
