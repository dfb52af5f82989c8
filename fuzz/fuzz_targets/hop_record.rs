//! Header and payload of one hop record, divided by the first zero byte.
#![no_main]

use countersign_ctxtoken::{HopList, Limits};
use countersign_fuzz::part;

libfuzzer_sys::fuzz_target!(|record: &[u8]| {
    let mut parts = record.splitn(2, |byte| *byte == 0);
    let (header, payload) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let field = format!("{}.{}.AAAA", part(header), part(payload));
    let limits = Limits { hops_bytes_max: usize::MAX, ..Limits::default() };
    let _ = HopList::parse(field.as_bytes(), &limits);
});
