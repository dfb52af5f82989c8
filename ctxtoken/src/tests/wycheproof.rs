//! Wycheproof's vectors for the two signature forms of the profile, through the key type every
//! token and hop record is verified with.
use serde_json::Value;

use crate::*;

const VECTORS: &str = include_str!("../../tests/vectors/wycheproof.json");

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Runs one set; gives how many signatures were accepted and refused.
fn run(set: &str, algorithm: Algorithm) -> (usize, usize) {
    let file: Value = serde_json::from_str(VECTORS).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for group in file["sets"][set].as_array().unwrap() {
        let key = VerifyingKey::from_spki_der(&hex(&group["spki"])).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        for test in group["tests"].as_array().unwrap() {
            let verifies = key.verifies(&hex(&test[1]), &hex(&test[2]));
            assert_eq!(verifies, test[3] == "valid", "{set} {}", test[0]);
            *(if verifies { &mut accepted } else { &mut refused }) += 1;
        }
    }
    (accepted, refused)
}

#[test]
fn wycheproof_es256_vectors_pass() {
    let (accepted, refused) = run("ES256", Algorithm::Es256);
    assert!(accepted >= 100 && refused >= 50, "the file lost vectors: {accepted} {refused}");
}

#[test]
fn wycheproof_ed25519_vectors_pass() {
    let (accepted, refused) = run("Ed25519", Algorithm::Ed25519);
    assert!(accepted >= 50 && refused >= 50, "the file lost vectors: {accepted} {refused}");
}
