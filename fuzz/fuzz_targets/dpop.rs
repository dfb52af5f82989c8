//! DPoP proofs: whole, and as claims behind a sound signature.
#![no_main]

use countersign_proxy::clock::Now;
use countersign_proxy::gateway::proofs::alone;

/// When the proofs of the corpus are fresh.
const NOW: Now = Now::from_micros(1_562_262_620_000_000);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [whole, claims] = alone::proof(bytes, NOW);
    assert!(!(whole && claims), "nothing is both a compact JWS and JSON");
});
