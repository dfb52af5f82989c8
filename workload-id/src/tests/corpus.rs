//! Replays what the fuzzer has kept, so that an old finding stays fixed without running it.
use std::{fs, path::Path};

use crate::{IdPattern, TrustDomain, WorkloadId};

#[test]
fn fuzz_corpus_replays() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/workload_id");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let Ok(text) = std::str::from_utf8(&bytes) else { continue };
        if let Ok(id) = WorkloadId::parse(text) {
            assert_eq!(id.as_str(), text);
        }
        let _ = TrustDomain::parse(text);
        let _ = IdPattern::parse(text);
        seen += 1;
    }
    assert!(seen > 0, "the corpus is missing");
}
