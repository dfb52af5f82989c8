//! Key sets and single keys.
#![no_main]

use countersign_ctxtoken::{KeySet, VerifyingKey};

libfuzzer_sys::fuzz_target!(|jwks: &[u8]| {
    let _ = KeySet::from_jwks_json(jwks);
    let _ = VerifyingKey::from_jwk(jwks);
});
