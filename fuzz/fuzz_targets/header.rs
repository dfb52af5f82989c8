//! JOSE headers.
#![no_main]

use countersign_ctxtoken::{Limits, Unverified};
use countersign_fuzz::part;

libfuzzer_sys::fuzz_target!(|header: &[u8]| {
    let limits = Limits { token_bytes_max: usize::MAX, ..Limits::default() };
    let _ = Unverified::parse(format!("{}.e30.AAAA", part(header)).as_bytes(), &limits);
});
