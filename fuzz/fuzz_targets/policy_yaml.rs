//! Documents, as somebody in a hurry or with bad intent may write them.
#![no_main]

use countersign_policy::{Source, Workload, compile, load};

const MESH: &str = include_str!("../../policy/cases/day-one/mesh.yaml");

libfuzzer_sys::fuzz_target!(|text: &str| {
    for sources in [
        &[Source { name: "fuzz", text }][..],
        &[Source { name: "mesh", text: MESH }, Source { name: "fuzz", text }],
    ] {
        match load(sources) {
            Ok(documents) => drop(compile(&documents, &Workload::default())),
            Err(problems) => assert!(problems.errors() > 0 && !problems.to_string().is_empty()),
        }
    }
});
