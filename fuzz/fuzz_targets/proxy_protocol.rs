//! PROXY protocol headers of both versions: an answer never changes when more bytes come.
#![no_main]

// The module uses nothing of its crate, so the target need not build all of the proxy.
#[expect(dead_code, reason = "a target parses and names no metric")]
#[path = "../../proxy/src/gateway/proxy_protocol.rs"]
mod proxy_protocol;

use proxy_protocol::{Parsed, PpError, parse};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut known: Result<Parsed, PpError> = Ok(Parsed::NeedMore);
    let ends = (0..=bytes.len().min(512)).chain([bytes.len()]);
    for end in ends {
        let now = parse(&bytes[..end]);
        assert!(known == Ok(Parsed::NeedMore) || now == known, "{known:?}, then {now:?} at {end}");
        if let Ok(Parsed::Done(header)) = &now {
            assert!(header.consumed <= end);
            assert!(header.source.is_none_or(|source| source.ip() == source.ip().to_canonical()));
            assert!(!header.local || header.source.is_none());
        }
        known = now;
    }
});
