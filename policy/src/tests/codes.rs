//! Every code a diagnostic can have is explained in `docs/policy.md`, and no other.

use std::{collections::BTreeSet, fs, path::Path};

fn is_code(word: &str) -> bool {
    word.len() == 4
        && word.starts_with(['E', 'W'])
        && word.bytes().skip(1).all(|b| b.is_ascii_digit())
}

fn sources(folder: &Path, out: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if !path.ends_with("diagnostics.rs") {
            *out += &fs::read_to_string(path).unwrap();
        }
    }
}

#[test]
fn every_code_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    sources(&root.join("src"), &mut text);
    let docs = fs::read_to_string(root.join("../docs/policy.md")).unwrap();
    let used: BTreeSet<&str> = text.split('"').filter(|word| is_code(word)).collect();
    let rows = docs.lines().filter_map(|line| line.strip_prefix("| `")?.get(..4));
    assert_eq!(used, rows.filter(|word| is_code(word)).collect::<BTreeSet<&str>>());
}
