//! SPIFFE IDs, trust domains and patterns: what parses is canonical.
#![no_main]

use countersign_workload_id::{IdPattern, TrustDomain, WorkloadId};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(id) = WorkloadId::parse(text) {
        assert_eq!(id.as_str(), text);
    }
    let _ = TrustDomain::parse(text);
    let _ = IdPattern::parse(text);
});
