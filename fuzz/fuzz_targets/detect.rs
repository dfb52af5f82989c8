//! The first bytes of a connection: an answer never changes when more bytes come.
#![no_main]

// The module uses nothing of its crate, so the target need not build all of the proxy.
#[path = "../../proxy/src/intercept/detect.rs"]
mod detect;

use detect::{Detected, is_tls, overflow, settle};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let bytes = bytes.get(..512).unwrap_or(bytes);
    let mut known = Detected::NeedMore;
    for end in 0..=bytes.len() {
        let now = detect::detect(&bytes[..end]);
        assert!(known == Detected::NeedMore || now == known, "{known:?}, then {now:?} at {end}");
        known = now;
    }
    assert_ne!(settle(bytes), Detected::NeedMore);
    assert_ne!(overflow(bytes), Detected::NeedMore);
    assert!(known == Detected::NeedMore || settle(bytes) == known && overflow(bytes) == known);
    assert!(is_tls(bytes).is_none_or(|tls| tls == (known == Detected::Tls)));
});
