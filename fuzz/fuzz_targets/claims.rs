//! Payloads, as an issuer gone bad would sign them.
#![no_main]

use countersign_ctxtoken::{Limits, Unverified};
use countersign_fuzz::{DOMAIN, part};

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    let header = part(br#"{"alg":"ES256","typ":"txntoken+jwt","kid":"-cpTiXlS4UDu-JSb"}"#);
    let token = format!("{header}.{}.AAAA", part(payload));
    let limits = Limits { token_bytes_max: usize::MAX, ..Limits::default() };
    if let Ok(token) = Unverified::parse(token.as_bytes(), &limits) {
        let _ = token.claims(&DOMAIN.parse().expect("a trust domain"));
    }
});
