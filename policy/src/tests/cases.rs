//! Every `*.test.yaml` under `policy/cases/` passes, and every rule there is touched by a test.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Source, case};

fn test_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            test_files(&path, out);
        } else if path.to_string_lossy().ends_with(".test.yaml") {
            out.push(path);
        }
    }
}

#[test]
fn every_case_passes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut files = Vec::new();
    test_files(&root, &mut files);
    files.sort();
    assert!(!files.is_empty());
    let mut failures = String::new();
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        let name = file.display().to_string();
        let mut open = |path: &Path| fs::read_to_string(path).map_err(|error| error.to_string());
        match case::run(Source { name: &name, text: &text }, &mut open) {
            Err(problems) => failures += &format!("{problems}\n"),
            Ok(report) if report.failed() > 0 => failures += &format!("{name}\n{report}\n"),
            Ok(report) if !report.untouched_rules.is_empty() => {
                failures += &format!("{name}: no test touches {:?}\n", report.untouched_rules);
            }
            Ok(_) => {}
        }
    }
    assert!(failures.is_empty(), "{failures}");
}
