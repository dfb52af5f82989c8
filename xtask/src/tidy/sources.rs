//! Rules about single Rust files: docs on top, length, names, `unsafe`, the clock.
//! They look at text, not at syntax; what they cannot see, review does.

use super::{before_tests, is_test_file, product_crate};
use crate::repo::SourceFile;

/// Lines of a file without its tests: "near 400", with room to finish a thought.
const LINES_MAX: usize = 450;

/// Words that name no thing.
const EMPTY_NAMES: &[&str] =
    &["util", "utils", "common", "helper", "helpers", "misc", "shared", "stuff", "lib2"];

/// Endings of type names that say a role instead of a thing.
const ROLE_NAMES: &[&str] = &["Manager", "Handler", "Factory", "Helper", "Utils"];

/// Where the system clock is read; everything else takes `now`.
const CLOCKS: &[&str] = &["proxy/src/clock.rs"];

/// Crates that take `now` as an argument.
const TIMELESS: &[&str] = &["workload-id", "ctxtoken", "policy", "config", "proxy"];

fn rust(files: &[SourceFile]) -> impl Iterator<Item = &SourceFile> {
    files.iter().filter(|file| file.path.ends_with(".rs"))
}

/// Every module says what it is before it starts; modules of tests say it by their names.
pub(super) fn module_docs(files: &[SourceFile]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in rust(files).filter(|file| !is_test_file(&file.path)) {
        let docs = file.text.lines().take_while(|line| line.starts_with("//!")).count();
        if docs == 0 {
            complaints.push(format!("{} does not open with `//!` lines", file.path));
        }
    }
    complaints
}

/// Files stay near a few screens; exceptions say why.
pub(super) fn length(files: &[SourceFile]) -> Vec<String> {
    let allowed = exceptions(files, "xtask/allow_long.txt");
    let mut complaints = Vec::new();
    for file in rust(files).filter(|file| !is_test_file(&file.path)) {
        let lines = before_tests(&file.text).lines().count();
        let excepted = allowed.iter().any(|path| *path == file.path);
        if lines > LINES_MAX && !excepted {
            complaints.push(format!(
                "{} has {lines} lines without tests (limit {LINES_MAX}); split it or say why not in xtask/allow_long.txt",
                file.path
            ));
        }
        if lines <= LINES_MAX && excepted {
            complaints
                .push(format!("{} is short again: take it out of xtask/allow_long.txt", file.path));
        }
    }
    complaints.extend(gone(files, &allowed, "xtask/allow_long.txt"));
    complaints
}

/// Files, folders and types are named for things.
pub(super) fn names(files: &[SourceFile]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in rust(files) {
        let words = file.path.trim_end_matches(".rs").split('/');
        for word in words.filter(|word| EMPTY_NAMES.contains(word)) {
            complaints.push(format!("{}: `{word}` names no thing", file.path));
        }
        for line in file.text.lines() {
            if let Some(name) = declared_type(line)
                && ROLE_NAMES.iter().any(|role| name.ends_with(role))
            {
                complaints.push(format!("{}: `{name}` names a role, not a thing", file.path));
            }
        }
    }
    complaints
}

/// Product crates forbid `unsafe`; elsewhere it stands only where listed.
pub(super) fn unsafe_code(files: &[SourceFile]) -> Vec<String> {
    let allowed = exceptions(files, "xtask/allow_unsafe.txt");
    let mut complaints = Vec::new();
    for file in rust(files) {
        let is_root = file.path.ends_with("/src/lib.rs") || file.path.ends_with("/src/main.rs");
        let forbids = file.text.contains("#![forbid(unsafe_code)]");
        if product_crate(&file.path).is_some() && is_root && !forbids {
            complaints.push(format!("{} lacks #![forbid(unsafe_code)]", file.path));
        }
        let uses = file.text.lines().any(|line| {
            line.trim_start().starts_with(concat!("unsafe", " "))
                || line.contains(concat!(" unsafe", " {"))
        });
        if uses && !allowed.iter().any(|path| *path == file.path) {
            complaints
                .push(format!("{} uses `unsafe` and is not in xtask/allow_unsafe.txt", file.path));
        }
    }
    complaints.extend(gone(files, &allowed, "xtask/allow_unsafe.txt"));
    complaints
}

/// The system clock is read in one place.
pub(super) fn clock(files: &[SourceFile]) -> Vec<String> {
    let reads =
        |file: &&SourceFile| before_tests(&file.text).contains(concat!("SystemTime", "::now("));
    rust(files)
        .filter(|file| product_crate(&file.path).is_some_and(|name| TIMELESS.contains(&name)))
        .filter(|file| !is_test_file(&file.path) && !CLOCKS.contains(&file.path.as_str()))
        .filter(reads)
        .map(|file| format!("{} reads the system clock; take `now`", file.path))
        .collect()
}

/// The name a line declares a type by.
fn declared_type(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line =
        line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(crate) ")).unwrap_or(line);
    let rest =
        ["struct ", "enum ", "trait ", "type "].iter().find_map(|word| line.strip_prefix(word))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// The paths a list of exceptions names: `path  # reason`, both mandatory.
fn exceptions<'a>(files: &'a [SourceFile], list: &str) -> Vec<&'a str> {
    let text = files.iter().find(|file| file.path == list).map_or("", |file| file.text.as_str());
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('#'))
        .filter(|(_, reason)| !reason.trim().is_empty())
        .map(|(path, _)| path.trim())
        .collect()
}

fn gone(files: &[SourceFile], listed: &[&str], list: &str) -> Vec<String> {
    let missing = listed.iter().filter(|path| !files.iter().any(|file| file.path == **path));
    missing.map(|path| format!("{list} names {path}, which does not exist")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn a_module_without_docs_is_named() {
        let files = [file("proxy/src/a.rs", "//! Says.\n"), file("proxy/src/b.rs", "use x;\n")];
        assert_eq!(module_docs(&files), ["proxy/src/b.rs does not open with `//!` lines"]);
    }

    #[test]
    fn tests_do_not_count_and_exceptions_need_a_reason() {
        let long = "x\n".repeat(451);
        let tested = format!("x\n\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert!(length(&[file("a/src/a.rs", &tested)]).is_empty());
        assert_eq!(length(&[file("a/src/a.rs", &long)]).len(), 1);
        let list = file("xtask/allow_long.txt", "a/src/a.rs  # one grammar\n");
        assert!(length(&[file("a/src/a.rs", &long), list.clone()]).is_empty());
        assert_eq!(length(&[file("a/src/a.rs", "x\n"), list]).len(), 1);
        let bare = file("xtask/allow_long.txt", "a/src/a.rs  #\n");
        assert_eq!(length(&[file("a/src/a.rs", &long), bare]).len(), 1);
    }

    #[test]
    fn names_of_no_thing_are_named() {
        let files = [file("proxy/src/utils/x.rs", "pub struct CertManager {\nstruct Bundle;\n")];
        assert_eq!(names(&files).len(), 2);
    }

    #[test]
    fn product_crates_forbid_unsafe() {
        assert_eq!(unsafe_code(&[file("policy/src/lib.rs", "//! x\n")]).len(), 1);
        assert!(unsafe_code(&[file("policy/src/lib.rs", "#![forbid(unsafe_code)]\n")]).is_empty());
        assert_eq!(
            unsafe_code(&[file("benches/src/a.rs", concat!("    unsafe", " { x() }\n"))]).len(),
            1
        );
    }

    #[test]
    fn the_clock_is_read_in_one_place() {
        let text = concat!("let now = SystemTime", "::now();\n");
        assert_eq!(clock(&[file("proxy/src/inbound/decide.rs", text)]).len(), 1);
        assert!(clock(&[file("proxy/src/clock.rs", text)]).is_empty());
    }
}
