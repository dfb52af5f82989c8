//! Every file of the fuzz corpora, replayed: what once was found stays found.

use std::{fs, path::Path};

use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    Source, Workload, compile,
    host::canonical_host,
    load,
    path::{CanonicalOptions, CanonicalPath, PathTemplate},
};

fn texts(target: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        texts.extend(String::from_utf8(bytes).ok().map(|t| (path.display().to_string(), t)));
    }
    assert!(!texts.is_empty());
    texts
}

#[test]
fn paths_of_the_corpus() {
    for (file, text) in texts("policy_path") {
        let _ = canonical_host(&text);
        let _ = PathTemplate::parse(&text);
        let options = CanonicalOptions::default();
        let _ = CanonicalPath::from_target("GET", &text, "a.b", options);
        if let Ok(path) = CanonicalPath::parse(&text, options) {
            assert_eq!(CanonicalPath::parse(path.target(), options), Ok(path), "{file}");
        }
    }
}

#[test]
fn documents_of_the_corpus() {
    let mesh = include_str!("../../cases/day-one/mesh.yaml");
    for (file, text) in texts("policy_yaml") {
        let sources = [Source { name: "mesh", text: mesh }, Source { name: &file, text: &text }];
        match load(&sources) {
            Ok(documents) => drop(compile(&documents, &Workload::default())),
            Err(problems) => assert!(problems.errors() > 0, "{file}"),
        }
    }
}

/// What mutated documents are made of.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "- ",
    "\n",
    "\n  ",
    "\"",
    "'",
    "&a ",
    "*a",
    "<<",
    "!!str ",
    "|",
    ">",
    "#",
    "---\n",
    "\t",
    "\r",
    "é",
    "\u{feff}",
    "~",
    "null",
    "yes",
    "17:00",
    "0x1",
    "{}",
    "[]",
    "/**",
    "{user}",
    "spiffe://",
    "%2F",
    "any: true",
    "unless: ",
    "require: ",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens to a good document, loading it ends in documents or in problems.
    #[test]
    fn broken_documents_never_panic(
        which in 0..3usize,
        edits in vec((any::<prop::sample::Index>(), 0..20usize, select(PIECES)), 1..5),
    ) {
        let mut text = [
            include_str!("../../cases/day-one/mesh.yaml"),
            include_str!("../../cases/support/user-data.yaml"),
            include_str!("../../cases/day-one/orders.test.yaml"),
        ][which].to_owned();
        for (at, removed, piece) in edits {
            let places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
            let start = at.index(places.len());
            let end = places.get(start + removed).copied().unwrap_or(text.len());
            text.replace_range(places[start]..end, piece);
        }
        let mesh = include_str!("../../cases/mesh.yaml");
        let sources = [Source { name: "mesh", text: mesh }, Source { name: "broken", text: &text }];
        match load(&sources) {
            Ok(documents) => drop(compile(&documents, &Workload::default())),
            Err(problems) => {
                prop_assert!(problems.errors() > 0);
                prop_assert!(problems.0.iter().all(|found| found.line > 0 && found.column > 0));
                prop_assert!(!problems.to_string().is_empty());
            }
        }
    }
}
