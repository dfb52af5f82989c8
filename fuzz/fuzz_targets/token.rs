//! Whole token strings: cutting, base64url, strict JSON.
#![no_main]

use countersign_ctxtoken::{Limits, Unverified};

libfuzzer_sys::fuzz_target!(|token: &[u8]| {
    let _ = Unverified::parse(token, &Limits::default());
});
