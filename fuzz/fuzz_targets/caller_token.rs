//! Tokens of callers outside the mesh: whole, and as claims of a service account token.
#![no_main]

use countersign_fuzz::{DOMAIN, part};
use countersign_proxy::clock::Now;
use countersign_proxy::gateway::callers::unproven::service_account_token;

/// When the tokens of the corpus live.
const NOW: Now = Now::from_micros(1_790_000_000_000_000);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let header = part(br#"{"alg":"RS256","kid":"k1"}"#);
    let of_claims = format!("{header}.{}.AAAA", part(bytes));
    let whole = std::str::from_utf8(bytes).ok();
    for token in whole.into_iter().chain([of_claims.as_str()]) {
        let domain = DOMAIN.parse().unwrap();
        let audience = format!("countersign.dev/{DOMAIN}");
        let [reviewed, alone] = service_account_token(token, &audience, &domain, NOW);
        assert!(reviewed || !alone, "who is not asked about may do no more");
    }
});
